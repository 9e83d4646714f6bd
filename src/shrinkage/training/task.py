"""What a training loop is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from shrinkage.recipe import Recipe
from shrinkage.training.initial import data_order
from shrinkage.training.objective import Objective

Rows = NDArray[np.intp]

ALIKE = 0.005  # of the lowest loss, where as many epochs are to come as there were; see `training.rungs`


@dataclass(frozen=True)
class Split:
    """Which rows are trained on, and which are validated on."""

    train: Rows
    validation: Rows

    @property
    def seen(self) -> Rows:
        """The training rows that are evaluated: as many as validation rows, so that the gap compares like."""
        found: Rows = self.train[data_order(0, 0, len(self.train))[: len(self.validation)]]
        return found


class Cell(NamedTuple):
    """What seeds and splits have in common: an arm, its strength, and what each rule multiplies it by."""

    arm: str
    strength: float | None
    ratios: tuple[float, ...] = ()

    def lane(self, seed: int, split: int) -> Lane:
        """Return the cell's lane of a seed and a split."""
        return Lane(self.arm, self.strength, seed, split, self.ratios)


@dataclass(frozen=True)
class Lane:
    """One trial as a loop sees it: which recipe, at which strength, from which seed, on which split.

    The i-th rule that varies is at ``strength * ratios[i]``; without ratios all are at ``strength``.
    """

    arm: str
    strength: float | None
    seed: int
    split: int = 0
    ratios: tuple[float, ...] = ()

    @property
    def cell(self) -> Cell:
        """The arm and its strengths."""
        return Cell(self.arm, self.strength, self.ratios)


@dataclass(frozen=True)
class Task:
    """What all lanes have in common.

    Parameters
    ----------
    build
        Returns a new, built, uncompiled model; always of one architecture and with the same names.
    recipes
        The recipe of each arm.
    x, y
        Inputs and targets of all rows that lanes train and validate on.
    splits
        The ways in which the rows are split; a lane names one by its index.
    fresh
        Whether weights are drawn anew from the lane's seed (else the model's own are kept).
    early_stopping
        Epochs without a lower validation data loss after which a lane stops and returns to its best
        epoch; None trains to the end.
    rates
        The learning rate of each arm that has one of its own.
    weight_decay
        The optimizer's decoupled weight decay; None for its own.
    label_smoothing
        The share of each target that is spread over the classes, in training alone.
    max_norm
        What the incoming weights of each unit are shortened to after each step; None leaves them.
    rungs
        Epochs after which the worst strengths of each arm are stopped, ascending; see
        :mod:`shrinkage.training.rungs`.
    scaled
        Turns inputs into what the model consumes (images stay uint8 until then), a batch at a time.
    weights
        How much each row counts in the training loss, (n,); evaluation counts every row alike.
    """

    build: Callable[[], Any]
    recipes: Mapping[str, Recipe]
    x: NDArray[Any]
    y: NDArray[Any]
    splits: Sequence[Split]
    objective: Objective
    optimizer: Any = "adam"
    learning_rate: float | None = None
    rates: Mapping[str, float] = field(default_factory=dict)
    weight_decay: float | None = None
    label_smoothing: float = 0.0
    max_norm: float | None = None
    epochs: int = 10
    batch_size: int = 32
    early_stopping: int | None = None
    rungs: tuple[int, ...] = ()
    fresh: bool = True
    scaled: Callable[[NDArray[Any]], NDArray[Any]] = np.asarray
    weights: NDArray[Any] | None = None

    def wave(self, lanes: Sequence[Lane]) -> Wave:
        """Return these lanes as they are trained where nothing else is said."""
        return Wave(tuple(lanes), self.epochs, self.rungs)

    def rate(self, arm: str) -> float | None:
        """Return the learning rate of an arm; None for the optimizer's own."""
        return self.rates.get(arm, self.learning_rate)

    def batch(self, rows: Rows) -> tuple[NDArray[Any], ...]:
        """Return (inputs, targets) of these rows, with their weights where there are any."""
        x, y = self.scaled(self.x[rows]), self.y[rows]
        return (x, y) if self.weights is None else (x, y, self.weights[rows])


@dataclass(frozen=True)
class Wave:
    """Lanes that are trained together: they decide who shares a program, and who is stopped at rungs.

    Parameters
    ----------
    lanes
        All of them, finished ones included.
    epochs
        How long each is trained.
    rungs, alike
        Epochs after which the worst strengths of each arm are stopped, ascending, and which losses count as
        equal then; see :mod:`shrinkage.training.rungs`.
    starts
        Weights, in the order of ``model.get_weights()``, of the lanes that begin from others than the task's.
    """

    lanes: tuple[Lane, ...]
    epochs: int
    rungs: tuple[int, ...] = ()
    alike: float = ALIKE
    starts: Mapping[Lane, Sequence[NDArray[Any]]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Record:
    """One epoch of one lane. ``values`` has ``loss``, ``data_loss``, ``penalty``, ``train_data_loss``, …."""

    lane: Lane
    epoch: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """A lane that has ended: its records, and the weights of the epoch that counts.

    ``state`` is ``complete``, ``stopped`` (at a rung: other strengths of its arm were better) or ``diverged``
    (a loss was NaN or infinite; a result, not a failure). ``best`` is the epoch that counts, 1-based: the
    last, or the best under early stopping. Only a complete lane has weights.
    """

    lane: Lane
    state: str
    best: int
    records: tuple[Record, ...]
    weights: tuple[NDArray[Any], ...] = field(repr=False)

    @property
    def values(self) -> Mapping[str, float]:
        """The values of the epoch that counts."""
        return self.records[self.best - 1].values


#: Called with what a run directory stores of how lanes are run, and a line about it ("" for none).
Keep = Callable[[Mapping[str, Any], str], None]


class Loop(Protocol):
    """What every training loop offers."""

    task: Task

    def decide(self, stored: Mapping[str, Any] | None, keep: Keep, shelf: Any = None) -> str:
        """Decide how lanes are run, before the first; return a line that says it.

        ``stored`` is what ``keep`` was given by an earlier run, and is used again: it fixes the last bits of
        every result. ``shelf`` is where checkpoints lie.
        """
        ...

    def run(
        self, lanes: Sequence[Lane], on_epoch: Callable[[Record], None], wave: Wave | None = None
    ) -> Iterator[Result]:
        """Train the lanes; call ``on_epoch`` after each epoch, and yield each lane when it ends.

        ``wave`` holds them and those that are trained with them; by default all lanes of the task.
        """
        ...

    def score(self, lane: Lane, weights: Sequence[NDArray[Any]], x: Any, y: Any) -> Mapping[str, float]:
        """Return ``data_loss`` and the metrics on (x, y), in inference mode, with these weights."""
        ...

    def with_task(self, task: Task, lanes: Sequence[Lane]) -> Loop:
        """Return a loop for other splits, epochs and stops; what is decided and compiled is shared.

        ``task`` differs from this loop's in nothing else.
        """
        ...
