"""What comes before and after the choice: the search, the model trained on all rows, nested resampling.

Facts, no Keras: `shrinkage.study.waves`, `shrinkage.study.refit` and `shrinkage.study.nested` find them, and
``summary.json`` holds them under ``search``, ``refit`` and ``nested``, where whatever shows them reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from shrinkage.study.records import from_json
from shrinkage.study.stats import Estimate


class _Stored:
    """A record that ``summary.json`` has under a key of its own, if it has one."""

    KEY: ClassVar[str]

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Self | None:
        """Return what ``summary.json`` holds, or None.

        Raises
        ------
        ValueError
            If a field is missing, or of another shape.
        """
        return from_json(cls, stored[cls.KEY]) if cls.KEY in stored else None


@dataclass(frozen=True)
class Asked:
    """One wave of a search: what it was for, and how many trials it added."""

    why: str
    trials: int


@dataclass(frozen=True)
class Searched(_Stored):
    """How strengths were searched.

    Attributes
    ----------
    strategy
        As in ``study.toml``.
    waves
        What was asked for, in order.
    trials
        How many there were in all.
    row_epochs
        The work that they took: the rows that each was trained on, times its epochs.
    ended
        Why the search ended.
    """

    KEY: ClassVar[str] = "search"
    strategy: str
    waves: tuple[Asked, ...]
    trials: int
    row_epochs: int
    ended: str


@dataclass(frozen=True)
class Refit(_Stored):
    """One training of an arm at one strength on all training rows.

    Attributes
    ----------
    arm, strength, seed
        What was trained.
    rows, epochs
        On how many rows, and how long: the rounded mean of the epochs that counted in its trials.
    diverged
        A loss was not finite, so that there is no such model.
    test_data_loss, test_accuracy
        On test data, once; NaN where that does not exist.
    """

    KEY: ClassVar[str] = "refit"
    arm: str
    strength: float | None
    seed: int
    rows: int
    epochs: int
    diverged: bool
    test_data_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class Outer:
    """The whole procedure on all training rows but one part, and what its model scores on that part.

    Attributes
    ----------
    fold
        Which part, from 0.
    train, test
        Rows that the procedure saw, and rows of the part.
    refit
        What it chose and trained on all that it saw, scored on the part; None where nothing could be
        chosen.
    """

    fold: int
    train: int
    test: int
    refit: Refit | None


@dataclass(frozen=True)
class Nested(_Stored):
    """What a study, its choice included, gives on rows that had no part in it.

    Attributes
    ----------
    outer
        One record for each part of the training rows.
    data_loss, accuracy
        Estimates over the parts that have a score; ``accuracy`` is without values for a regression.
    """

    KEY: ClassVar[str] = "nested"
    outer: tuple[Outer, ...]
    data_loss: Estimate
    accuracy: Estimate
