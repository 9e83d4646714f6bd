"""Every error and warning that a user can meet.

An error is one or two sentences: what was given, what is allowed, what to do. The command line
prints the message alone and leaves with the error's ``exit_code``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ShrinkageError(Exception):
    """Base of all errors raised for something that the user can mend."""

    exit_code = 2


class StrengthError(ShrinkageError, ValueError):
    """A strength is not a finite number ≥ 0."""


class PenaltyError(ShrinkageError, ValueError):
    """A penalty's text, identifier or object is not understood."""


class RecipeError(ShrinkageError, ValueError):
    """A recipe is malformed, or does not fit the model that it is bound to."""


class ModelError(ShrinkageError, ValueError):
    """A model, or a reference to one, can't be used for what was asked."""


class DataError(ShrinkageError, ValueError):
    """A data set is missing, malformed or hostile."""


class CodeNotAllowedError(ShrinkageError):
    """A ``module:function`` reference would import code that was not allowed."""


class SpecError(ShrinkageError, ValueError):
    """A study file, or the arguments of a study, are invalid."""


class RunError(ShrinkageError):
    """A run directory can't be used: locked, foreign, or holding another study."""


class TrainingError(ShrinkageError):
    """A trial could not be trained, for a reason other than divergence."""

    exit_code = 1


class ShrinkageWarning(UserWarning):
    """Something was done, but not all of what was probably meant."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the choice nearest to ``word``, else an empty text.

    Examples
    --------
    >>> did_you_mean("kernal", ["kernel", "bias"])
    " Did you mean 'kernel'?"
    >>> did_you_mean("zzz", ["kernel", "bias"])
    ''
    """
    by_lower: dict[str, str] = {}
    for choice in choices:
        by_lower.setdefault(choice.lower(), choice)
    near = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f" Did you mean {by_lower[near[0]]!r}?" if near else ""
