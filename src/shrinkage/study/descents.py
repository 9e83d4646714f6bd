"""Descents: from the best common strength of an arm down the hypergradient, to one strength a rule."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from shrinkage.study.groups import Groups, named
from shrinkage.study.space import Down, Space, rounded
from shrinkage.training.descent import descend
from shrinkage.training.hypergradient import Trainer
from shrinkage.training.task import Cell

STEPS = 4  # of a quarter of a decade, or longer


class Descents:
    """The ways down of the arms that have a strength for each rule.

    Parameters
    ----------
    space, groups
        The study: derivatives are taken on its first unit.

    Raises
    ------
    TrainingError
        If there is no derivative of an arm, naming it; see :class:`shrinkage.training.hypergradient.Trainer`.
    """

    def __init__(self, space: Space, groups: Groups) -> None:
        self._unit, self._trainers = space.units[0], dict[str, Trainer]()
        for arm in space.open if space.spec.strategy == "hypergradient" else ():
            if arm.strength_per == "rule":
                with named(arm.name):
                    self._trainers[arm.name] = Trainer(groups.of((arm.name, None)).task)

    def steps(self, arm: str, strength: float) -> Iterator[Down]:
        """Yield the strengths of each step: the work is one training, and one more for each derivative."""
        trainer, (seed, fold), done = self._trainers[arm], self._unit, 0
        split = max(fold, 0)
        rows = len(trainer.task.splits[split].train)
        walk = descend(trainer, Cell(arm, strength), [seed], [split], rounds=STEPS + 1)
        for proposal in islice(walk, 1, None):
            work = rows * proposal.epochs * (1 + len(proposal.ratios))
            yield Down(tuple(rounded(proposal.strength * ratio) for ratio in proposal.ratios), work - done)
            done = work
