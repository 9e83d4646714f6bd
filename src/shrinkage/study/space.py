"""What is searched, and what a strategy asks for and is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from shrinkage.study.arm import Arm, Range
from shrinkage.study.spec import StudySpec
from shrinkage.training.task import ALIKE

Cell = tuple[str, float | None]
Unit = tuple[int, int]  # seed and fold (-1: the only split)
Asked = tuple[Cell, Unit]
#: Validation data loss of every finished trial by cell and unit; infinite where it diverged.
Seen = Mapping[Cell, Mapping[Unit, float]]

COARSE = tuple(10.0**k for k in range(-5, 0))  # strengths that are looked at first, times the loss's scale
FINE = (1e-6, 1.0)  # the range of the strategies that take a grid


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
    spent
        The work that went into the proposals themselves, in row-epochs.
    """

    why: str
    asked: tuple[Asked, ...]
    rungs: tuple[int, ...] = ()
    alike: float = ALIKE
    epochs: int | None = None
    after: Mapping[Cell, Cell] = field(default_factory=dict)
    ratios: Mapping[Cell, tuple[float, ...]] = field(default_factory=dict)
    spent: int = 0


Strategy = Generator[Step, Seen, str]


@dataclass(frozen=True)
class Look:
    """What one arm asks for next, as in `Step`; ``explores``: it says where to look, and nothing else yet."""

    asked: tuple[Asked, ...]
    ratios: Mapping[Cell, tuple[float, ...]] = field(default_factory=dict)
    why: str = "a closer look"
    explores: bool = False
    spent: int = 0


#: The looks of one arm, until it returns why it has stopped.
ArmSearch = Generator[Look, Seen, str]


class Down(NamedTuple):
    """A strength for each rule, a step down the gradient, and what the step took, in row-epochs."""

    strengths: tuple[float, ...]
    row_epochs: int


#: From an arm at its best common strength, one step after the other.
Descent = Callable[[str, float], Iterator[Down]]


def _nowhere(arm: str, strength: float) -> Iterator[Down]:
    return iter(())


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
    descent
        Goes down the gradient, on the first unit; needed by ``"hypergradient"`` alone.
    """

    spec: StudySpec
    scale: float = 1.0
    descent: Descent = _nowhere

    @property
    def units(self) -> tuple[Unit, ...]:
        """All units, split by split."""
        return tuple((seed, fold) for fold in self.spec.fold_numbers for seed in self.spec.seeds)

    @property
    def choosing(self) -> tuple[Unit, ...]:
        """The units that a strength is chosen on.

        Of several random splits a search that explores uses the first to find out where to look, and it has
        no say in what is chosen there; else these are all units.
        """
        apart = self.spec.explores and self.spec.resamples
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

    def least(self, seen: Seen) -> tuple[Asked, ...]:
        """Return what has to be trained before anything can be compared, once a budget has ended a search.

        Nothing, where the baseline and some other cell have a unit in common; else what needs no search,
        where the range was looked for.
        """
        baseline = (self.spec.baseline.name, None)
        others = {unit for cell, of in seen.items() if cell != baseline for unit in of}
        if others & set(seen.get(baseline, {})):
            return ()
        return tuple((cell, self.units[0]) for cell in self.fixed)

    def every(self) -> tuple[Asked, ...]:
        """Return every trial that the study names: cell by cell, and the folds of a seed together."""
        cells = [(arm.name, value) for arm in self.spec.all_arms for value in arm.values()]
        units = [(seed, fold) for seed in self.spec.seeds for fold in self.spec.fold_numbers]
        return tuple((cell, unit) for cell in cells for unit in units)

    def sample(self) -> tuple[Asked, ...]:
        """Return trials that stand for all that will be asked for: of every arm some, the baseline first."""
        if self.spec.is_settled:
            return self.every()
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
            return tuple(rounded(v) for v in np.geomspace(low, high, steps + 1))
        return self._named(arm) or tuple(rounded(s * self.scale) for s in COARSE)

    def grid(self, arm: Arm) -> tuple[float, ...]:
        """Return the strengths of an arm: its own, or two a decade."""
        low, high = FINE
        return self._named(arm) or tuple(rounded(v * self.scale) for v in np.geomspace(low, high, 13))

    def _named(self, arm: Arm) -> tuple[float, ...]:
        return tuple(v for v in arm.values() if v is not None)

    def within(self, arm: Arm, strengths: Sequence[float]) -> tuple[float, ...]:
        """Return those of ``strengths`` that an arm allows: all but those outside its own range."""
        if not isinstance(arm.strengths, Range):
            return tuple(strengths)
        low, high = arm.strengths.low, arm.strengths.high
        return tuple(s for s in strengths if low * 0.999 <= s <= high * 1.001)


def rounded(strength: float) -> float:
    """Return a strength of four digits, which can be typed again."""
    return float(f"{strength:.4g}")
