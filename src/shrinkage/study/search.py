"""Search: which strengths are tried next, from what those before have scored.

A strategy is a generator. It yields a `Step`, the trials that it asks for, and is sent what all trials so
far have scored; what it returns is why it stopped. It knows nothing else, and so a run that is taken up again
asks for the same trials, finds most of them finished, and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import optuna

from shrinkage.study.arm import Arm
from shrinkage.study.space import ArmSearch, Cell, Look, Seen, Space, Step, Strategy, Unit, rounded
from shrinkage.study.storage import quiet
from shrinkage.study.words import count, number, plain

HALF = math.sqrt(10.0)  # the second look is at half decades
QUARTER = math.sqrt(HALF)  # and none is closer than this: no data set tells strengths apart that are
RUNGS = (10, 3)  # shares of the epochs after which the worse strengths of the first look stop
EXPLORING = 0.015  # see `Wave.alike`: wider than in a study of rungs, for no strength is lost for good
FARTHER = 6  # decades beyond the coarse strengths that are followed at the most
ROUNDS = 6  # closer looks at the most


def strategy(space: Space) -> Strategy:
    """Return the strategy of a study, before its first step."""
    return _STRATEGIES[space.spec.strategy](space)


# --- one step ----------------------------------------------------------------------------------------------


def _grid(space: Space) -> Strategy:
    yield Step("every strength", space.every(), space.spec.stops)
    return "Every strength that the study names was tried."


# --- from coarse to fine -----------------------------------------------------------------------------------


def _auto(space: Space) -> Strategy:
    """Find the range on one unit, then look closer on those that choose."""
    epochs = space.spec.training.epochs
    rungs = tuple(sorted({epochs // share for share in RUNGS} - {0}))
    searches = {arm.name: _explored(space, arm) for arm in space.open}
    return (yield from _together(space, searches, Step("the range", (), rungs, EXPLORING)))


def _refine(space: Space) -> Strategy:
    """Train a grid on all units, then look closer."""
    searches = {arm.name: _gridded(space, arm) for arm in space.open}
    return (yield from _together(space, searches, Step("the grid", ())))


def _explored(space: Space, arm: Arm) -> ArmSearch:
    first = space.units[:1]
    tried = list(space.coarse(arm))
    seen = yield _look(arm, tried, first, {})
    best = _best(seen, arm, tried, first)
    for _ in range(FARTHER):  # the strongest won: the model has not collapsed yet; or all diverged
        farther = rounded(tried[0] / 10) if best is None else rounded(tried[-1] * 10)
        if not (best is None or best == tried[-1]) or not space.within(arm, [farther]):
            break
        tried = sorted({*tried, farther})
        seen = yield _look(arm, [farther], first, seen)
        best = _best(seen, arm, tried, first)
    if best is None:
        return f"{plain(arm.name)}: every strength diverged."
    near = space.within(arm, [rounded(best / HALF), best, rounded(best * HALF)])
    return (yield from _closer(space, arm, near, seen, [s for s in tried if s != best]))


def _gridded(space: Space, arm: Arm) -> ArmSearch:
    return (yield from _closer(space, arm, space.grid(arm), {}))


def _closer(
    space: Space, arm: Arm, near: Sequence[float], seen: Seen, worse: Sequence[float] = ()
) -> ArmSearch:
    """Try these strengths, and then towards what could still be won, until that is within the error.

    No look goes as far as a strength that was ``worse`` where the range was explored: one split's chance
    would outweigh what another has shown.
    """
    units, name = space.choosing, plain(arm.name)
    seen = yield _look(arm, near, units, seen)
    for _ in range(ROUNDS):
        best = _best(seen, arm, near, units)
        if best is None:
            return f"{name}: every strength diverged."
        win, up = _to_win(seen, arm, near, best, units)
        error = _error(seen, arm, near, best)
        if not win > space.spec.tolerance * error:
            return _known(name, best, win, error, space.spec.tolerance)
        closer = _beside({*near, *worse}, best, up)
        if max(closer / best, best / closer) < QUARTER * 0.99:
            return f"{name}: λ = {number(best)} is known to a quarter of a decade."
        if not space.within(arm, [closer]):
            return f"{name}: λ = {number(best)} ends the range that the study names."
        seen = yield _look(arm, [closer], units, seen)
        near = sorted({*near, closer})
    return f"{name}: {count(ROUNDS, 'rounds')} of closer looks were made."


def _known(name: str, best: float, win: float, error: float, tolerance: float) -> str:
    if not math.isfinite(error):
        return (
            f"{name}: λ = {number(best)}; one trial has no standard error, and no closer look can be judged."
        )
    limit = "the standard error" if tolerance == 1 else f"{number(tolerance)} standard errors"
    return (
        f"{name}: λ = {number(best)}; what other strengths could still win of the validation data loss, "
        f"about {number(win)}, is within {limit}, {number(tolerance * error)}."
    )


def _look(arm: Arm, strengths: Sequence[float], units: Sequence[Unit], seen: Seen) -> Look:
    """Ask for these strengths on these units, as far as they have not been tried."""
    cells = [(arm.name, strength) for strength in strengths]
    return Look(tuple((cell, unit) for cell in cells for unit in units if unit not in seen.get(cell, {})))


def _mean(of_cell: Mapping[Unit, float], units: Sequence[Unit]) -> float:
    """Return the mean loss over these units; infinite where a trial diverged or was stopped."""
    return math.fsum(of_cell.get(u, math.inf) for u in units) / len(units)


def _best(seen: Seen, arm: Arm, strengths: Sequence[float], units: Sequence[Unit]) -> float | None:
    means = {s: _mean(seen.get((arm.name, s), {}), units) for s in strengths}
    found = [s for s in strengths if math.isfinite(means[s])]
    return min(found, key=lambda s: (means[s], -s), default=None)


def _error(seen: Seen, arm: Arm, near: Sequence[float], best: float) -> float:
    """Return the standard error of the best cell's mean, over all units that it was trained on.

    Where that is one unit, it is the largest error of its neighbours; NaN where these have none either.
    """

    def of(strength: float) -> float:
        values = np.array(list(seen.get((arm.name, strength), {}).values()))
        known = len(values) > 1 and np.isfinite(values).all()
        return float(values.std(ddof=1) / math.sqrt(len(values))) if known else math.nan

    others = [error for s in near if math.isfinite(error := of(s))]
    return of(best) if math.isfinite(of(best)) else max(others, default=math.nan)


def _to_win(
    seen: Seen, arm: Arm, near: Sequence[float], best: float, units: Sequence[Unit]
) -> tuple[float, bool]:
    """Return about how much lower the loss could be between or beyond the strengths tried, and if upwards.

    Between them: by how much the parabola through the best and its neighbours in log λ falls below the best.
    At an end: as much again as the last step won.
    """
    means = {s: _mean(seen.get((arm.name, s), {}), units) for s in near}
    tried = sorted(s for s in near if math.isfinite(means[s]))
    i = tried.index(best)
    if i in (0, len(tried) - 1):
        won = means[tried[1 if i == 0 else -2]] - means[best] if len(tried) > 1 else 0.0
        return won, i > 0
    x = np.log10(tried[i - 1 : i + 2]) - math.log10(best)
    curve = np.polynomial.polynomial.polyfit(x, [means[s] for s in tried[i - 1 : i + 2]], 2)
    return float(curve[1] ** 2 / (4 * curve[2])) if curve[2] > 0 else 0.0, bool(curve[1] < 0)


def _beside(near: Collection[float], best: float, up: bool) -> float:
    """Return the strength between the best and its neighbour on one side, or at that end the one beyond."""
    tried = sorted(near, reverse=not up)
    i = tried.index(best)
    if i + 1 < len(tried):
        return rounded(math.sqrt(tried[i + 1] * best))
    return rounded(best * (best / tried[i - 1] if i else HALF if up else 1 / HALF))


def _together(
    space: Space, searches: dict[str, ArmSearch], first: Step, then: str = "a closer look"
) -> Strategy:
    """Take the searches of several arms step by step; what needs no search comes once the range is known."""
    waiting = [(cell, unit) for cell in space.fixed for unit in space.choosing]
    looks, reasons = {name: next(search) for name, search in searches.items()}, []
    apart, steps = space.spec.strategy == "auto" and bool(looks), 0
    while looks or waiting:
        asked = [each for look in looks.values() for each in look.asked]
        ratios = {cell: own for look in looks.values() for cell, own in look.ratios.items()}
        if not (apart and steps == 0):
            asked, waiting = [*waiting, *asked], []
        step = replace(first, asked=tuple(asked)) if not steps else Step(then, tuple(asked))
        seen = yield replace(step, ratios=ratios)
        steps += 1
        for name in list(looks):
            try:
                looks[name] = searches[name].send(seen)
            except StopIteration as stop:
                reasons.append(stop.value)
                del looks[name]
    return " ".join(reasons) or "There was nothing to search."


# --- along the path ----------------------------------------------------------------------------------------

_PATH = 4  # a strength that begins where the one before it ended is trained for a quarter of the epochs


def _path(space: Space) -> Strategy:
    """Go from the weakest strength upwards, each from the weights of the one before.

    Dense to sparse, as in I. Lemhadri, F. Ruan, L. Abraham, R. Tibshirani, "LassoNet: A Neural Network with
    Feature Sparsity", JMLR 22, 2021, section 3.3.
    """
    grids = {arm.name: space.grid(arm) for arm in space.open}
    first = list(space.fixed)
    first += [(name, grid[0]) for name, grid in grids.items()]
    yield Step("the weakest strengths", tuple((cell, unit) for cell in first for unit in space.units))
    for i in range(1, max(map(len, grids.values()), default=0)):
        after: dict[Cell, Cell] = {
            (name, grid[i]): (name, grid[i - 1]) for name, grid in grids.items() if i < len(grid)
        }
        asked = tuple((cell, unit) for cell in after for unit in space.units)
        epochs = max(1, space.spec.training.epochs // _PATH)
        yield Step("the next strengths, from the weights before", asked, epochs=epochs, after=after)
    return "The path was followed to its end."


# --- by a model of the loss --------------------------------------------------------------------------------

_BATCH = 4  # candidates of an arm that are trained together
_CANDIDATES = 20  # for each strength of an arm, where no budget says how many


def _bayes(space: Space) -> Strategy:
    """Ask Optuna's tree-structured Parzen estimator for candidates, some at a time."""
    searches = {arm.name: _sampled(space, arm) for arm in space.open}
    return (yield from _together(space, searches, Step("the first candidates", ()), "more candidates"))


def _sampled(space: Space, arm: Arm) -> ArmSearch:
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
        seen = yield Look(tuple(asked), ratios)
        for trial, cell in zip(trials, cells, strict=True):
            loss = _mean(seen.get(cell, {}), space.units)
            if math.isfinite(loss):
                study.tell(trial, loss)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return f"{plain(arm.name)}: {count(len(study.trials), 'candidates')} were tried."


def _cell(arm: Arm, strengths: Sequence[float], known: dict[Cell, tuple[float, ...]]) -> Cell:
    """Return a cell of these strengths, one a rule: at their geometric mean, which no other cell has."""
    mean = rounded(math.exp(math.fsum(map(math.log, strengths)) / len(strengths)))
    while True:
        ratios = () if len(strengths) == 1 else tuple(rounded(s / mean) for s in strengths)
        if known.setdefault((arm.name, mean), ratios) == ratios:
            return arm.name, mean
        mean = rounded(mean * 1.001)


_STRATEGIES: dict[str, Callable[[Space], Strategy]] = {
    "grid": _grid,
    "halving": _grid,
    "auto": _auto,
    "refine": _refine,
    "path": _path,
    "bayes": _bayes,
}
