"""Design: from a spec to its trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shrinkage.errors import SpecError
from shrinkage.recipe.recipe import Recipe
from shrinkage.study.search import strategy
from shrinkage.study.space import Asked, Cell, Space, Step
from shrinkage.study.spec import StudySpec
from shrinkage.study.splits import class_of_rows
from shrinkage.training.task import Lane


@dataclass(frozen=True)
class Trial:
    """One training run; ``key`` is a hash of what determines its result.

    ``fold`` counts the splits of a study of several, from 0: ``repeat * folds + fold``. It is -1 where there
    is one. With ``ratios`` the i-th rule that varies is at ``strength * ratios[i]``, whose geometric mean is
    the strength.
    """

    arm: str
    strength: float | None
    seed: int
    fold: int
    key: str
    ratios: tuple[float, ...] = ()

    @property
    def lane(self) -> Lane:
        """The trial as a training loop sees it."""
        return Lane(self.arm, self.strength, self.seed, max(self.fold, 0), self.ratios)

    @property
    def cell(self) -> tuple[str, float | None]:
        """The arm and strength: what seeds and folds are averaged over."""
        return self.arm, self.strength


def trials(
    spec: StudySpec,
    facts: Mapping[str, Any],
    step: Step | None = None,
    before: Mapping[Asked, Trial] | None = None,
    facts_of: Callable[[Cell], Mapping[str, Any]] = lambda cell: {},
) -> tuple[Trial, ...]:
    """Return the trials that a step of the study's search asks for; by default those of its first step.

    ``facts`` are what determines results beyond the spec: fingerprints of the data and the model, and the
    backend; ``facts_of`` returns those that a cell has for itself. ``before`` holds the trials of earlier
    steps, whose weights others may begin from.
    """
    step = next(strategy(Space(spec))) if step is None else step
    found = []
    for cell, (seed, fold) in step.asked:
        start, own = step.after.get(cell), spec.at(*cell)
        begins = None if start is None or before is None else before[start, (seed, fold)].key
        rungs = own.stops if spec.strategy == "halving" else step.rungs
        rows, ratios = _rows(own, fold, rungs, step.epochs, begins), step.ratios.get(cell, ())
        key = _key(own, {**facts, **facts_of(cell), **rows}, cell, seed, ratios)
        found.append(Trial(*cell, seed, fold, key, ratios))
    return tuple(found)


def refitted(
    spec: StudySpec,
    facts: Mapping[str, Any],
    arm: str,
    strength: float | None,
    epochs: int,
    ratios: tuple[float, ...] = (),
    own_facts: Mapping[str, Any] | None = None,
) -> Trial:
    """Return the training of an arm on all training rows, for so many epochs, from the study's first seed."""
    seed, known = spec.seeds[0], {**facts, **(own_facts or {}), "refit": epochs}
    key = _key(spec.at(arm, strength), known, (arm, strength), seed, ratios)
    return Trial(arm, strength, seed, -1, key, ratios)


def _rows(
    spec: StudySpec, fold: int, rungs: Sequence[int], epochs: int | None, begins: str | None
) -> dict[str, Any]:
    """Return what determines the rows of a trial and how it is trained; groups are among the data's facts."""
    content: dict[str, Any] = {
        "fold": fold,
        "folds": spec.folds,
        "validation": None if spec.folds else spec.holdout,
        "rungs": rungs,
    }
    # Left out where they say nothing, so that studies keep their keys.
    if spec.repeats > 1:
        content["repeats"] = spec.repeats
    if not spec.stratify:
        content["stratify"] = False
    if epochs is not None:
        content["epochs"] = epochs
    if begins is not None:
        content["begins"] = begins
    if fold > 0:
        content["drawn"] = "by split"
    return content


def _key(
    spec: StudySpec, facts: Mapping[str, Any], cell: Cell, seed: int, ratios: tuple[float, ...] = ()
) -> str:
    """Return the key of a trial in a study whose options are those of its cell."""
    arm, strength = spec.arm(cell[0]), cell[1]
    recipe = Recipe(arm.recipe)
    content = {
        **facts,
        "recipe": (recipe if strength is None else recipe.at(strength, ratios)).to_list(),
        "arm": arm.name,
        "learning_rate": arm.rate,
        "seed": seed,
        "initial": spec.initial,
        "training": spec.training.to_key(),
        **({"ratios": ratios} if ratios else {}),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:20]


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
    class_of_row = class_of_rows(y)
    if asked == "balanced":
        counts = np.bincount(class_of_row, minlength=classes)
        by_class = len(class_of_row) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    else:
        by_class = np.asarray(asked, float)
        if len(by_class) != classes:
            raise SpecError(f"training.class_weights has {len(by_class)} numbers for {classes} classes.")
    return by_class[class_of_row].astype("float32")


def pending(all_trials: Iterable[Trial], finished: Iterable[str]) -> tuple[Trial, ...]:
    """Return the trials whose key is not among ``finished``, in order."""
    done = set(finished)
    return tuple(t for t in all_trials if t.key not in done)
