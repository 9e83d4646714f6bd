"""Search: which strengths are tried next, from what those before have scored.

A strategy is a generator. It yields a `Step`, the trials that it asks for, and is sent what all trials so
far have scored; what it returns is why it stopped. It knows nothing else, and so a run that is taken up again
asks for the same trials, finds most of them finished, and goes on.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from shrinkage.study.arm import Arm
from shrinkage.study.closer import explored, gridded, mean_loss
from shrinkage.study.proposed import descended, sampled
from shrinkage.study.space import ArmSearch, Cell, Space, Step, Strategy
from shrinkage.study.words import number, plain

RUNGS = (10, 3)  # shares of the epochs after which the worse strengths of the first look stop
EXPLORING = 0.015  # see `Wave.alike`: wider than in a study of rungs, for no strength is lost for good
_PATH = 4  # a strength that begins where the one before it ended is trained for a quarter of the epochs


def strategy(space: Space) -> Strategy:
    """Return the strategy of a study, before its first step."""
    return _STRATEGIES[space.spec.strategy](space)


def _grid(space: Space) -> Strategy:
    yield Step("every strength", space.every(), space.spec.stops)
    return "Every strength that the study names was tried."


def _auto(space: Space) -> Strategy:
    """Find the range on one unit, then look closer on those that choose."""
    return (yield from _together(space, explored, _range(space)))


def _hypergradient(space: Space) -> Strategy:
    """Do as ``auto``, and then go on to a strength a rule."""
    return (yield from _together(space, descended, _range(space)))


def _range(space: Space) -> Step:
    epochs = space.spec.training.epochs
    return Step("the range", (), tuple(sorted({epochs // share for share in RUNGS} - {0})), EXPLORING)


def _refine(space: Space) -> Strategy:
    """Train a grid on all units, then look closer."""
    return (yield from _together(space, gridded, Step("the grid", ())))


def _bayes(space: Space) -> Strategy:
    """Ask Optuna's tree-structured Parzen estimator for candidates, some at a time."""
    return (yield from _together(space, sampled, Step("the first candidates", ())))


def _path(space: Space) -> Strategy:
    """Go from the weakest strength upwards, each from the weights of the one before.

    Dense to sparse, as in I. Lemhadri, F. Ruan, L. Abraham, R. Tibshirani, "LassoNet: A Neural Network with
    Feature Sparsity", JMLR 22, 2021, section 3.3.
    """
    grids = {arm.name: space.grid(arm) for arm in space.open}
    first = list(space.fixed)
    first += [(name, grid[0]) for name, grid in grids.items()]
    seen = yield Step("the weakest strengths", tuple((cell, unit) for cell in first for unit in space.units))
    ends, epochs = [], max(1, space.spec.training.epochs // _PATH)
    for i in range(1, max(map(len, grids.values()), default=0)):
        after: dict[Cell, Cell] = {}
        for name, grid in [each for each in grids.items() if i < len(each[1])]:
            if math.isfinite(mean_loss(seen.get((name, grid[i - 1]), {}), space.units)):
                after[name, grid[i]] = name, grid[i - 1]
            else:  # there are no weights to go on from
                ends.append(f"{plain(name)}: λ = {number(grid[i - 1])} diverged, and ends the path.")
                del grids[name]
        if after:
            asked = tuple((cell, unit) for cell in after for unit in space.units)
            seen = yield Step(
                "the next strengths, from the weights before", asked, epochs=epochs, after=after
            )
    return " ".join(ends) or "The path was followed to its end."


def _together(space: Space, search: Callable[[Space, Arm], ArmSearch], first: Step) -> Strategy:
    """Search each arm, all step by step; what needs no search comes once the range is known."""
    searches = {arm.name: search(space, arm) for arm in space.open}
    waiting = [(cell, unit) for cell in space.fixed for unit in space.choosing]
    looks, reasons = {name: next(search) for name, search in searches.items()}, []
    steps = 0
    while looks or waiting:
        asked = [each for look in looks.values() for each in look.asked]
        ratios = {cell: own for look in looks.values() for cell, own in look.ratios.items()}
        if not looks or not all(look.explores for look in looks.values()):
            asked, waiting = [*waiting, *asked], []
        why = " and ".join(dict.fromkeys(look.why for look in looks.values())) or "the others"
        step = first if not steps else Step(why, ())
        spent = sum(look.spent for look in looks.values())
        seen = yield replace(step, asked=tuple(asked), ratios=ratios, spent=spent)
        steps += 1
        for name in list(looks):
            try:
                looks[name] = searches[name].send(seen)
            except StopIteration as stop:
                reasons.append(stop.value)
                del looks[name]
    return " ".join(reasons) or "There was nothing to search."


_STRATEGIES: dict[str, Callable[[Space], Strategy]] = {
    "grid": _grid,
    "halving": _grid,
    "auto": _auto,
    "refine": _refine,
    "path": _path,
    "bayes": _bayes,
    "hypergradient": _hypergradient,
}
