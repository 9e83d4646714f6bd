"""Refit: what was chosen, trained once more on all training rows, by the loop that trained the study."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.study import design
from shrinkage.study.design import Trial
from shrinkage.study.directory import RunDirectory
from shrinkage.study.final import Refit
from shrinkage.study.words import at_strength, count
from shrinkage.training.task import Loop, Split

if TYPE_CHECKING:
    from shrinkage.study.runner import Bench

Weights = tuple[NDArray[Any], ...]

_WATCHED = 100  # rows that are evaluated after each epoch, by which a diverged training is known


@dataclass(frozen=True)
class Refitted:
    """A model that was trained on all training rows: its record, its trial and its weights.

    ``weights`` are None where the training diverged.
    """

    record: Refit
    trial: Trial
    weights: Weights | None


def epochs_of(finished: Mapping[str, Mapping[str, Any]], trials: Sequence[Trial]) -> int:
    """Return the mean epoch that counts in trials, rounded: under early stopping the best, else the last.

    Examples
    --------
    >>> trials = [Trial("L2", 0.1, seed, -1, key) for seed, key in enumerate("ab")]
    >>> epochs_of({"a": {"epochs": 4}, "b": {"epochs": 7}}, trials)
    6
    """
    total = sum(int(finished[trial.key]["epochs"]) for trial in trials)
    return math.floor(total / len(trials) + 0.5)


def refit(
    bench: Bench,
    directory: RunDirectory,
    arm: str,
    strength: float | None,
    epochs: int,
    say: Callable[[str], None],
    ratios: tuple[float, ...] = (),
) -> Refitted:
    """Train an arm at a strength on all training rows, and score it on test data; each of it once.

    Nothing is stopped early, for no row is left to tell when. The directory keeps the weights and the score
    in ``refit/KEY``, and goes on from there after a kill, to the same bits.

    Parameters
    ----------
    bench, directory
        The study, and where it is run.
    arm, strength
        What to train; any strength, tried or not.
    epochs
        How long.
    say
        Told, in a line, what is trained.
    ratios
        By what each rule multiplies the strength, where each has one of its own.

    Returns
    -------
    Refitted
        The record, the trial, and the weights in the order of ``model.get_weights()``.
    """
    trial = design.refitted(
        bench.spec, bench.facts, arm, strength, epochs, ratios, bench.facts_of((arm, strength))
    )
    place = directory.part(f"refit/{trial.key}")
    scores = place.test_scores().get(trial.key)
    weights = place.read_weights(trial.key)
    if scores is None or (scores and weights is None):
        loop = _loop(bench, place, trial, epochs)
        if weights is None:
            name, rows, long = at_strength(arm, strength), len(bench.data.x_train), count(epochs, "epochs")
            say(f"Training {name} again on all {rows:,} training rows for {long}.")
            weights = _trained(loop, place, trial)
        scores = _scored(loop, bench, trial, weights)
        place.write_test_scores({trial.key: scores})
        place.checkpoints.clear()
    record = Refit(
        arm=arm,
        strength=strength,
        seed=trial.seed,
        rows=len(bench.data.x_train),
        epochs=epochs,
        diverged=not scores,
        test_data_loss=scores.get("test_data_loss", math.nan),
        test_accuracy=scores.get("test_accuracy", math.nan),
    )
    return Refitted(record, trial, weights)


def _loop(bench: Bench, place: RunDirectory, trial: Trial, epochs: int) -> Loop:
    rows = np.arange(len(bench.data.x_train))
    task = replace(
        bench.task_of(*trial.cell),
        splits=(Split(rows, rows[:_WATCHED]),),
        epochs=epochs,
        early_stopping=None,
        rungs=(),
    )
    loop = bench.loop_of(*trial.cell).with_task(task, [trial.lane])
    loop.decide(None, lambda plan, line: None, place.checkpoints)  # the study's own decision holds
    return loop


def _trained(loop: Loop, place: RunDirectory, trial: Trial) -> Weights | None:
    result = next(iter(loop.run([trial.lane], lambda record: None)))
    if result.state != "complete":
        return None
    place.write_weights(trial.key, result.weights)
    return result.weights


def _scored(loop: Loop, bench: Bench, trial: Trial, weights: Weights | None) -> dict[str, float]:
    """Return what the weights score on test data; nothing of a diverged training."""
    if weights is None:
        return {}
    values = loop.score(trial.lane, weights, bench.data.scaled(bench.data.x_test), bench.data.y_test)
    return {f"test_{name}": value for name, value in values.items()}
