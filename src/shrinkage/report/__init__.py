"""What a person sees: tables, figures, progress. Facts come from `study`; nothing is computed here."""
