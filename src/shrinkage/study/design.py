"""Design: from a spec to its trials and their splits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shrinkage.errors import SpecError
from shrinkage.recipe.recipe import Recipe
from shrinkage.study.spec import Arm, StudySpec
from shrinkage.training.task import Lane, Split

_SPLIT_SEED = 0  # splits are fixed: two studies of the same data see the same ones


@dataclass(frozen=True)
class Trial:
    """One training run; ``fold`` is -1 in a holdout study, ``key`` a hash of what determines the result."""

    arm: str
    strength: float | None
    seed: int
    fold: int
    key: str

    @property
    def lane(self) -> Lane:
        """The trial as a training loop sees it."""
        return Lane(self.arm, self.strength, self.seed, max(self.fold, 0))

    @property
    def cell(self) -> tuple[str, float | None]:
        """The arm and strength: what seeds and folds are averaged over."""
        return self.arm, self.strength


def trials(
    spec: StudySpec,
    facts: Mapping[str, Any],
    facts_of: Callable[[tuple[str, float | None]], Mapping[str, Any]] = lambda cell: {},
) -> tuple[Trial, ...]:
    """Return every trial of a study, cell by cell, the baseline first.

    ``facts`` are what determines results beyond the spec: fingerprints of the data and the model, and the
    backend; ``facts_of`` returns those that a cell has for itself.
    """
    folds = range(spec.folds) if spec.folds else (-1,)
    return tuple(
        Trial(arm.name, strength, seed, fold, _key(own, known, arm, strength, seed, fold))
        for arm in spec.all_arms
        for strength in arm.values()
        for own, known in [(spec.at(arm.name, strength), {**facts, **facts_of((arm.name, strength))})]
        for seed in spec.seeds
        for fold in folds
    )


def _key(
    spec: StudySpec, facts: Mapping[str, Any], arm: Arm, strength: float | None, seed: int, fold: int
) -> str:
    recipe = Recipe(arm.recipe)
    content = {
        **facts,
        "recipe": (recipe if strength is None else recipe.at(strength)).to_list(),
        "arm": arm.name,
        "learning_rate": arm.rate,
        "seed": seed,
        "fold": fold,
        "folds": spec.folds,
        "validation": None if spec.folds else spec.holdout,
        "initial": spec.initial,
        "training": spec.training.to_key(),
        "rungs": spec.stops,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


def splits(spec: StudySpec, y: Any) -> tuple[Split, ...]:
    """Return the fixed splits of the training rows: stratified by class where every class allows it.

    Raises
    ------
    SpecError
        If there are too few rows to split.
    """
    from sklearn import model_selection as ms

    classes = _classes(y)
    n = len(classes)
    try:
        if spec.folds:
            stratified = _members(classes) >= spec.folds
            splitter = (ms.StratifiedKFold if stratified else ms.KFold)(
                spec.folds, shuffle=True, random_state=_SPLIT_SEED
            )
        else:
            stratified = _members(classes) >= 2
            splitter = (ms.StratifiedShuffleSplit if stratified else ms.ShuffleSplit)(
                1, test_size=spec.holdout, random_state=_SPLIT_SEED
            )
        return tuple(Split(np.sort(a), np.sort(b)) for a, b in splitter.split(np.zeros(n), classes))
    except ValueError as error:
        asked = f"folds = {spec.folds}" if spec.folds else f"validation = {spec.holdout}"
        raise SpecError(f"{asked} does not fit {n} training rows: {error}") from None


def _classes(y: Any) -> Any:
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1 and np.isin(y, (0, 1)).all():
        return y.argmax(1)
    return y.reshape(len(y), -1)[:, 0] if np.issubdtype(y.dtype, np.integer) else np.zeros(len(y), int) - 1


def row_weights(spec: StudySpec, y: Any, classes: int) -> Any:
    """Return how much each training row counts in the loss, (n,) float32, or None: all alike.

    ``"balanced"`` is n / (K · n_c) for a class with n_c of n rows, one of K that occur (scikit-learn's).

    Raises
    ------
    SpecError
        If there are no classes, or another number of them.
    """
    asked = spec.training.class_weights
    if asked is None:
        return None
    if not classes:
        raise SpecError("training.class_weights go with classes, and these targets are a regression.")
    class_of_row = _classes(y)
    if asked == "balanced":
        counts = np.bincount(class_of_row, minlength=classes)
        by_class = len(class_of_row) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        by_class = np.asarray(asked, float)
        if len(by_class) != classes:
            raise SpecError(f"training.class_weights has {len(by_class)} numbers for {classes} classes.")
    return by_class[class_of_row].astype("float32")


def _members(classes: Any) -> int:
    """Return the size of the smallest class (0 for a regression, which is not stratified)."""
    if len(classes) and (classes == -1).all():
        return 0
    return int(np.unique(classes, return_counts=True)[1].min())


def pending(all_trials: Iterable[Trial], finished: Iterable[str]) -> tuple[Trial, ...]:
    """Return the trials whose key is not among ``finished``, in order."""
    done = set(finished)
    return tuple(t for t in all_trials if t.key not in done)
