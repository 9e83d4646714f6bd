"""Studies: arms × strengths × seeds × folds, run, stored, compared."""
