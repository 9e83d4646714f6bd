"""Design: from a spec to its trials."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from shrinkage.errors import SpecError
from shrinkage.recipe.recipe import Recipe
from shrinkage.study.search import Asked, Space, Step, strategy
from shrinkage.study.spec import Arm, StudySpec
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
) -> tuple[Trial, ...]:
    """Return the trials that a step of the study's search asks for; by default those of its first step.

    ``facts`` are what determines results beyond the spec: fingerprints of the data and the model, and the
    backend. ``before`` holds the trials of earlier steps, whose weights others may begin from.
    """
    step = next(strategy(Space(spec))) if step is None else step
    arms = {arm.name: arm for arm in spec.all_arms}
    found = []
    for (name, strength), (seed, fold) in step.asked:
        start = step.after.get((name, strength))
        begins = None if start is None or before is None else before[start, (seed, fold)].key
        own, ratios = _own(spec, fold, step, begins), step.ratios.get((name, strength), ())
        key = _key(spec, facts, arms[name], strength, seed, own, ratios)
        found.append(Trial(name, strength, seed, fold, key, ratios))
    return tuple(found)


def refitted(
    spec: StudySpec,
    facts: Mapping[str, Any],
    arm: str,
    strength: float | None,
    epochs: int,
    ratios: tuple[float, ...] = (),
) -> Trial:
    """Return the training of an arm on all training rows, for so many epochs, from the study's first seed."""
    own = next(a for a in spec.all_arms if a.name == arm)
    seed = spec.seeds[0]
    key = _key(spec, facts, own, strength, seed, {"refit": epochs}, ratios)
    return Trial(arm, strength, seed, -1, key, ratios)


def _own(spec: StudySpec, fold: int, step: Step, begins: str | None) -> dict[str, Any]:
    """Return what determines the rows of a trial and how it is trained; groups are among the data's facts."""
    content: dict[str, Any] = {
        "fold": fold,
        "folds": spec.folds,
        "validation": None if spec.folds else spec.holdout,
        "rungs": step.rungs,
    }
    # Left out where they say nothing, so that studies keep their keys.
    if spec.repeats > 1:
        content["repeats"] = spec.repeats
    if not spec.stratify:
        content["stratify"] = False
    if step.epochs is not None:
        content["epochs"] = step.epochs
    if begins is not None:
        content["begins"] = begins
    return content


def _key(
    spec: StudySpec,
    facts: Mapping[str, Any],
    arm: Arm,
    strength: float | None,
    seed: int,
    own: Mapping[str, Any],
    ratios: tuple[float, ...] = (),
) -> str:
    recipe = Recipe(arm.recipe)
    content = {
        **facts,
        **own,
        "recipe": (recipe if strength is None else recipe.at(strength, ratios)).to_list(),
        "arm": arm.name,
        "learning_rate": arm.learning_rate,
        "seed": seed,
        "initial": spec.initial,
        "training": spec.training.model_dump(mode="json"),
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
