"""From coarse to fine: one arm's strengths, first a decade apart, then closer where more could be won."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from shrinkage.study.arm import Arm
from shrinkage.study.space import ArmSearch, Look, Seen, Space, Unit, rounded
from shrinkage.study.words import count, number, plain

HALF = math.sqrt(10.0)  # the second look is at half decades
QUARTER = math.sqrt(HALF)  # and none is closer than this: no data set tells strengths apart that are
FARTHER = 6  # decades beyond the coarse strengths that are followed at the most
ROUNDS = 6  # closer looks at the most


def explored(space: Space, arm: Arm) -> ArmSearch:
    """Find the range on the first unit, and look closer on those that choose."""
    first = space.units[:1]
    tried = list(space.coarse(arm))
    seen = yield replace(_look(arm, tried, first, {}), explores=True)
    best = lowest(seen, arm, tried, first)
    for _ in range(FARTHER):  # the strongest won: the model has not collapsed yet; or all diverged
        farther = rounded(tried[0] / 10) if best is None else rounded(tried[-1] * 10)
        if not (best is None or best == tried[-1]) or not space.within(arm, [farther]):
            break
        tried = sorted({*tried, farther})
        seen = yield replace(_look(arm, [farther], first, seen), why="a wider range", explores=True)
        best = lowest(seen, arm, tried, first)
    if best is None:
        return f"{plain(arm.name)}: every strength diverged."
    near = space.within(arm, [_near(best / HALF, tried), best, _near(best * HALF, tried)])
    return (yield from _closer(space, arm, near, seen, [s for s in tried if s != best]))


def gridded(space: Space, arm: Arm) -> ArmSearch:
    """Try a grid, and look closer around its best."""
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
        best = lowest(seen, arm, near, units)
        if best is None:
            return f"{name}: every strength diverged."
        win, up = _to_win(seen, arm, near, best, units)
        error = _error(seen, arm, near, best, units)
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
    asked = [(cell, unit) for cell in cells for unit in units if unit not in seen.get(cell, {})]
    return Look(tuple(asked), {cell: (1.0,) * arm.rules for cell in cells if arm.strength_per == "rule"})


def mean_loss(of_cell: Mapping[Unit, float], units: Sequence[Unit]) -> float:
    """Return the mean loss over these units; infinite where a trial diverged or was stopped."""
    return math.fsum(of_cell.get(u, math.inf) for u in units) / len(units)


def lowest(seen: Seen, arm: Arm, strengths: Sequence[float], units: Sequence[Unit]) -> float | None:
    """Return the strength with the lowest mean loss, of two that are alike the stronger; None without any."""
    means = {s: mean_loss(seen.get((arm.name, s), {}), units) for s in strengths}
    found = [s for s in strengths if math.isfinite(means[s])]
    return min(found, key=lambda s: (means[s], -s), default=None)


def _near(strength: float, tried: Sequence[float]) -> float:
    """Return a strength that was tried, where it is within a hundredth; else this one, rounded."""
    close = [s for s in tried if abs(s / strength - 1) < 0.01]
    return close[0] if close else rounded(strength)


def _error(seen: Seen, arm: Arm, near: Sequence[float], best: float, units: Sequence[Unit]) -> float:
    """Return the standard error of the best cell's mean: over folds, or over seeds where there is one fold.

    Where ``units`` are one, which has no error, it is over all that the cell was trained on; and where that
    is one too, the largest error of the others. NaN where these have none either.
    """

    def of(strength: float) -> float:
        found = seen.get((arm.name, strength), {})
        own = [unit for unit in found if unit in units] if len(units) > 1 else list(found)
        several = len({fold for _, fold in own}) > 1
        by_unit: dict[int, list[float]] = {}
        for seed, fold in own:
            by_unit.setdefault(fold if several else seed, []).append(found[seed, fold])
        values = np.array([math.fsum(each) / len(each) for each in by_unit.values()])
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
    means = {s: mean_loss(seen.get((arm.name, s), {}), units) for s in near}
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
