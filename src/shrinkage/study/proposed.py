"""Strengths that something else proposes: Optuna's sampler, or the derivative of the validation loss."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence

import numpy as np
import optuna

from shrinkage.study.arm import Arm
from shrinkage.study.closer import explored, lowest, mean_loss
from shrinkage.study.space import ArmSearch, Cell, Look, Seen, Space, rounded
from shrinkage.study.storage import quiet
from shrinkage.study.words import count, plain

_BATCH = 4  # candidates of an arm that are trained together
_CANDIDATES = 20  # for each strength of an arm, where no budget says how many


def sampled(space: Space, arm: Arm) -> ArmSearch:
    """Ask for one strength a candidate, or one a rule: then the first candidates have one for all rules."""
    low, high = space.grid(arm)[0], space.grid(arm)[-1]
    names = [f"strength_{i + 1}" for i in range(arm.rules if arm.strength_per == "rule" else 1)]
    sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=2 * _BATCH, constant_liar=True)
    with quiet():
        study = optuna.create_study(sampler=sampler)
    for common in np.geomspace(low, high, 2 * _BATCH) if len(names) > 1 else ():
        study.enqueue_trial(dict.fromkeys(names, float(common)))
    known: dict[Cell, tuple[float, ...]] = {}
    for _ in range(_CANDIDATES * len(names) // _BATCH):
        trials = [study.ask() for _ in range(_BATCH)]
        drawn = [[t.suggest_float(name, low, high, log=True) for name in names] for t in trials]
        cells = [_cell(arm, strengths, known) for strengths in drawn]
        ratios = {cell: known[cell] for cell in cells if known[cell]}
        asked = [(cell, unit) for cell in dict.fromkeys(cells) for unit in space.units]
        seen = yield Look(tuple(asked), ratios, "more candidates")
        for trial, cell in zip(trials, cells, strict=True):
            loss = mean_loss(seen.get(cell, {}), space.units)
            if math.isfinite(loss):
                study.tell(trial, loss)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return f"{plain(arm.name)}: {count(len(study.trials), 'candidates')} were tried."


def descended(space: Space, arm: Arm) -> ArmSearch:
    """Find the best common strength; from there each rule's goes down its derivative of the validation loss.

    The way down is found on the unit that explored. What is proposed on it is trained and compared on the
    units that choose, like every other strength.
    """
    reason, seen = yield from _ended(explored(space, arm))
    tried = [cell[1] for cell in seen if cell[0] == arm.name and cell[1] is not None]
    best = lowest(seen, arm, tried, space.choosing)
    if best is None or arm.strength_per != "rule":
        return reason
    known: dict[Cell, tuple[float, ...]] = {(arm.name, strength): (1.0,) * arm.rules for strength in tried}
    steps = 0
    for down in space.descent(arm.name, best):
        if len(space.within(arm, down.strengths)) < arm.rules:
            return f"{reason} The way down from there left the range that the study names."
        cell = _cell(arm, down.strengths, known)
        asked = tuple((cell, unit) for unit in space.choosing)
        seen = yield Look(asked, {cell: known[cell]}, "a step down the gradient", spent=down.row_epochs)
        steps += 1
    return f"{reason} From there {count(steps, 'steps')} were made down the gradient, a strength a rule."


def _ended(search: ArmSearch) -> Generator[Look, Seen, tuple[str, Seen]]:
    """Take a search to its end; return why it ended, and what had been seen by then."""
    look = next(search)
    while True:
        seen = yield look
        try:
            look = search.send(seen)
        except StopIteration as stop:
            return stop.value, seen


def _cell(arm: Arm, strengths: Sequence[float], known: dict[Cell, tuple[float, ...]]) -> Cell:
    """Return a cell of these strengths, one a rule: at their geometric mean, which no other cell has."""
    mean = rounded(math.exp(math.fsum(map(math.log, strengths)) / len(strengths)))
    while True:
        ratios = () if len(strengths) == 1 else tuple(rounded(s / mean) for s in strengths)
        if known.setdefault((arm.name, mean), ratios) == ratios:
            return arm.name, mean
        mean = rounded(mean * 1.001)
