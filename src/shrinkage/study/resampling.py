"""How the data of a study were split again and again, as its statistics need to know it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Resampling:
    """Folds, or random splits, whose held-out rows an arm is compared on.

    Attributes
    ----------
    splits
        How many splits one repeat has: its folds; of random splits, all of them.
    ratio
        n_test/n_train: held-out rows over training rows of one split, to correct the variance with.
    repeats
        How often the data were split into folds.
    over
        Whether these are ``"folds"``, or random ``"splits"``.

    Raises
    ------
    ValueError
        If ``ratio`` is not positive.
    """

    splits: int
    ratio: float
    repeats: int = 1
    over: Literal["folds", "splits"] = "folds"

    def __post_init__(self) -> None:
        if not self.ratio > 0:
            raise ValueError(f"n_test/n_train must be a positive number, and is {self.ratio}")
