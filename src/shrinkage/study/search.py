"""Search: which strengths are tried next, from what those before have scored.

A strategy is a generator. It yields a `Step`, the trials that it asks for, and is sent what all trials so
far have scored; what it returns is why it stopped. It knows nothing else, and so a run that is taken up again
asks for the same trials, finds most of them finished, and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import optuna

from shrinkage.study.spec import Arm, Range, StudySpec
from shrinkage.study.storage import quiet
from shrinkage.study.words import count, number, plain
from shrinkage.training.task import ALIKE

Cell = tuple[str, float | None]
Unit = tuple[int, int]  # seed and fold (-1: the only split)
Asked = tuple[Cell, Unit]
#: Validation data loss of every finished trial by cell and unit; infinite where it diverged.
Seen = Mapping[Cell, Mapping[Unit, float]]

COARSE = tuple(10.0**k for k in range(-5, 0))  # strengths that are looked at first, times the loss's scale
FINE = (1e-6, 1.0)  # the range of the strategies that take a grid
HALF = math.sqrt(10.0)  # the second look is at half decades
EXPLORING = 0.01  # see `Wave.alike`: wider than in a study of rungs, for no strength is lost for good
FARTHER = 6  # decades beyond the coarse strengths that are followed at the most
ROUNDS = 6  # closer looks at the most


@dataclass(frozen=True)
class Step:
    """Trials that a strategy asks for.

    Parameters
    ----------
    why
        What they are for, in a few words.
    asked
        Cell and unit of each.
    rungs, alike
        Where the worst strengths of each arm stop; see :class:`shrinkage.training.task.Wave`.
    epochs
        How long each is trained; None for as long as the study says.
    after
        Cells that begin from the weights to which another was trained.
    ratios
        Of cells whose rules have each a strength of its own: by what each multiplies the cell's.
    """

    why: str
    asked: tuple[Asked, ...]
    rungs: tuple[int, ...] = ()
    alike: float = ALIKE
    epochs: int | None = None
    after: Mapping[Cell, Cell] = field(default_factory=dict)
    ratios: Mapping[Cell, tuple[float, ...]] = field(default_factory=dict)


Strategy = Generator[Step, Seen, str]


@dataclass(frozen=True)
class Look:
    """What one arm asks for next, and the ratios of its cells, where each rule has a strength of its own."""

    asked: tuple[Asked, ...]
    ratios: Mapping[Cell, tuple[float, ...]] = field(default_factory=dict)


#: The looks of one arm, until it returns why it has stopped.
ArmSearch = Generator[Look, Seen, str]


@dataclass(frozen=True)
class Space:
    """What is searched.

    Parameters
    ----------
    spec
        The study.
    scale
        The order of magnitude of the loss, which strengths are multiples of: 1 for a crossentropy, that of
        the targets' variance for a squared error.
    """

    spec: StudySpec
    scale: float = 1.0

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units, split by split."""
        return tuple((seed, fold) for fold in self.spec.fold_numbers for seed in self.spec.seeds)

    @property
    def choosing(self) -> tuple[Unit, ...]:
        """The units that a strength is chosen on.

        Of several random splits ``auto`` uses the first to find out where to look, and it has no say in what
        is chosen there; else these are all units.
        """
        apart = self.spec.strategy == "auto" and self.spec.resamples
        return tuple(u for u in self.units if u[1] != 0) if apart else self.units

    @property
    def fixed(self) -> tuple[Cell, ...]:
        """The cells that need no search: of arms without a strength, or with one that is an option."""
        return tuple(
            (arm.name, value) for arm in self.spec.all_arms if not arm.is_searched for value in arm.values()
        )

    @property
    def open(self) -> tuple[Arm, ...]:
        """The arms whose strength is searched."""
        return tuple(arm for arm in self.spec.all_arms if arm.is_searched)

    def sample(self) -> tuple[Asked, ...]:
        """Return trials that stand for all that will be asked for: of every arm some, the baseline first."""
        if self.spec.is_settled:
            return next(_grid(self)).asked
        cells = [
            (arm.name, value)
            for arm in self.spec.all_arms
            for value in (self.coarse(arm) if arm.is_searched else arm.values())
        ]
        return tuple((cell, unit) for cell in cells for unit in self.units[:1])

    def coarse(self, arm: Arm) -> tuple[float, ...]:
        """Return the strengths of an arm to look at first: its own, or a decade apart."""
        if isinstance(arm.strengths, Range):
            low, high = arm.strengths.low, arm.strengths.high
            steps = max(1, round(math.log10(high / low)))
            return tuple(_round(v) for v in np.geomspace(low, high, steps + 1))
        return self._named(arm) or tuple(_round(s * self.scale) for s in COARSE)

    def grid(self, arm: Arm) -> tuple[float, ...]:
        """Return the strengths of an arm: its own, or two a decade."""
        low, high = FINE
        return self._named(arm) or tuple(_round(v * self.scale) for v in np.geomspace(low, high, 13))

    def _named(self, arm: Arm) -> tuple[float, ...]:
        return tuple(v for v in arm.values() if v is not None)

    def within(self, arm: Arm, strengths: Sequence[float]) -> tuple[float, ...]:
        """Return those of ``strengths`` that an arm allows: all but those outside its own range."""
        if not isinstance(arm.strengths, Range):
            return tuple(strengths)
        low, high = arm.strengths.low, arm.strengths.high
        return tuple(s for s in strengths if low * 0.999 <= s <= high * 1.001)


def strategy(space: Space) -> Strategy:
    """Return the strategy of a study, before its first step."""
    return _STRATEGIES[space.spec.strategy](space)


# --- one step ----------------------------------------------------------------------------------------------


def _grid(space: Space) -> Strategy:
    cells = [(arm.name, value) for arm in space.spec.all_arms for value in arm.values()]
    # Cell by cell, and the folds of a seed together: the order of a study's table.
    units = [(seed, fold) for seed in space.spec.seeds for fold in space.spec.fold_numbers]
    yield Step("every strength", tuple((cell, unit) for cell in cells for unit in units), space.spec.stops)
    return "Every strength that the study names was tried."


# --- from coarse to fine -----------------------------------------------------------------------------------


def _auto(space: Space) -> Strategy:
    """Find the range on one unit, then look closer on those that choose."""
    epochs = space.spec.training.epochs
    rungs = (epochs // 3,) if epochs >= 3 else ()
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
        farther = _round(tried[0] / 10) if best is None else _round(tried[-1] * 10)
        if not (best is None or best == tried[-1]) or not space.within(arm, [farther]):
            break
        tried = sorted({*tried, farther})
        seen = yield _look(arm, [farther], first, seen)
        best = _best(seen, arm, tried, first)
    if best is None:
        return f"{plain(arm.name)}: every strength diverged."
    near = space.within(arm, [_round(best / HALF), best, _round(best * HALF)])
    return (yield from _closer(space, arm, near, seen))


def _gridded(space: Space, arm: Arm) -> ArmSearch:
    return (yield from _closer(space, arm, space.grid(arm), {}))


def _closer(space: Space, arm: Arm, near: Sequence[float], seen: Seen) -> ArmSearch:
    """Try these strengths, and then those around the best until what they could win is within the error."""
    units, name = space.choosing, plain(arm.name)
    seen = yield _look(arm, near, units, seen)
    for _ in range(ROUNDS):
        best = _best(seen, arm, near, units)
        if best is None:
            return f"{name}: every strength diverged."
        win = _to_win(seen, arm, near, best, units)
        error = _error(seen, arm, near, best)
        more = space.within(arm, _around(near, best))
        if not more:
            return f"{name}: λ = {number(best)} ends the range that the study names."
        if not win > space.spec.tolerance * error:
            return _known(name, best, win, error, space.spec.tolerance)
        seen = yield _look(arm, more, units, seen)
        near = sorted({*near, *more})
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


def _to_win(seen: Seen, arm: Arm, near: Sequence[float], best: float, units: Sequence[Unit]) -> float:
    """Return about how much lower the loss could be between or beyond the strengths tried.

    Between them: by how much the parabola through the best and its neighbours in log λ falls below the best.
    At an end: as much again as the last step won.
    """
    means = {s: _mean(seen.get((arm.name, s), {}), units) for s in near}
    tried = sorted(s for s in near if math.isfinite(means[s]))
    i = tried.index(best)
    if i in (0, len(tried) - 1):
        return means[tried[1 if i == 0 else -2]] - means[best] if len(tried) > 1 else 0.0
    x = np.log10(tried[i - 1 : i + 2]) - math.log10(best)
    curve = np.polynomial.polynomial.polyfit(x, [means[s] for s in tried[i - 1 : i + 2]], 2)
    return float(curve[1] ** 2 / (4 * curve[2])) if curve[2] > 0 else 0.0


def _around(near: Sequence[float], best: float) -> list[float]:
    """Return the strengths between the best and its neighbours, and at an end the one beyond."""
    tried = sorted(near)
    i = tried.index(best)
    step = tried[1] / tried[0] if len(tried) > 1 else HALF
    below = math.sqrt(tried[i - 1] * best) if i else best / step
    above = math.sqrt(tried[i + 1] * best) if i + 1 < len(tried) else best * step
    return [_round(below), _round(above)]


def _round(strength: float) -> float:
    """Return a strength of four digits, which can be typed again."""
    return float(f"{strength:.4g}")


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
    mean = _round(math.exp(math.fsum(map(math.log, strengths)) / len(strengths)))
    while True:
        ratios = () if len(strengths) == 1 else tuple(_round(s / mean) for s in strengths)
        if known.setdefault((arm.name, mean), ratios) == ratios:
            return arm.name, mean
        mean = _round(mean * 1.001)


_STRATEGIES: dict[str, Callable[[Space], Strategy]] = {
    "grid": _grid,
    "halving": _grid,
    "auto": _auto,
    "refine": _refine,
    "path": _path,
    "bayes": _bayes,
}
