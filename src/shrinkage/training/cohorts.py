"""Cohorts: which lanes are trained together in one compiled program.

All lanes of a study form a grid of cells (arm and strength) × seeds for each split of the data. A cohort is
a block of that grid, of the same size for every cohort, so that one program serves them all and a lane's
place in its cohort never depends on what was trained before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from shrinkage.training.task import Cell, Lane

_T = TypeVar("_T")


@dataclass(frozen=True)
class Cohort:
    """A block of the grid, padded to its full size by repeating the last cell and the last seed.

    ``lanes`` are those that the study asks for; :meth:`place` gives their position in the block.
    """

    split: int
    seeds: tuple[int, ...]
    cells: tuple[Cell, ...]
    lanes: tuple[Lane, ...]

    def place(self, lane: Lane) -> tuple[int, int]:
        """Return the row (seed) and column (cell) of a lane."""
        return self.seeds.index(lane.seed), self.cells.index(lane.cell)

    @property
    def size(self) -> int:
        """How many lanes the program trains, padding included."""
        return len(self.seeds) * len(self.cells)


def cohorts(lanes: Iterable[Lane], most: int, mix_seeds: bool) -> tuple[Cohort, ...]:
    """Return the cohorts of a study, each of at most ``most`` lanes and all of one size.

    Parameters
    ----------
    lanes
        All lanes of the study, finished ones included.
    most
        How many lanes a program may train.
    mix_seeds
        Whether lanes of different seeds share a cohort although one seed's would fill half of it. Lanes of
        one seed read the same rows at each step, which is faster on a processor; more lanes fill an
        accelerator.
    """
    asked = tuple(dict.fromkeys(lanes))
    wanted = set(asked)
    cells = tuple(dict.fromkeys(lane.cell for lane in asked))
    seeds = tuple(dict.fromkeys(lane.seed for lane in asked))
    splits = tuple(dict.fromkeys(lane.split for lane in asked))
    columns = _even(cells, most)
    room = max(1, most // len(columns[0]))
    rows = _even(seeds, room if mix_seeds or 2 * len(cells) <= most else 1)
    found = []
    for split in splits:
        for row in rows:
            for column in columns:
                block = tuple(cell.lane(seed, split) for cell in column for seed in row)
                inside = tuple(lane for lane in dict.fromkeys(block) if lane in wanted)
                if inside:
                    found.append(Cohort(split, row, column, inside))
    return tuple(found)


def _even(items: Sequence[_T], most: int) -> list[tuple[_T, ...]]:
    """Cut ``items`` into as few equally long parts as possible; the last is padded with its last item."""
    parts = math.ceil(len(items) / max(1, most))
    length = math.ceil(len(items) / parts)
    cut = [tuple(items[i : i + length]) for i in range(0, len(items), length)]
    return [part + (part[-1],) * (length - len(part)) for part in cut]
