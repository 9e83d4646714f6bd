"""From the best common strength to one a rule: down the hypergradient, a training a step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shrinkage.training.hypergradient import Implicit, Sensitivity, Trainer, Training, Unrolled
from shrinkage.training.task import Cell

_DECADES = 3.0  # how far a strength may go from where it started
_LONGEST = 0.5  # decades a round
_FIRST = 0.25
_UNROLLED = Unrolled()


@dataclass(frozen=True)
class Proposal:
    """Strengths on the way down, and what was found there.

    Rule i of those that vary is at ``strength * ratios[i]``, and the ratios' geometric mean is 1.
    ``val_data_loss`` is the mean over lanes after training at these strengths, ``gradient`` that of its
    derivatives by log λ, ``error`` their standard errors (NaN of one lane). ``epochs`` is how many each lane
    had been trained by then, all rounds together.
    """

    strength: float
    ratios: tuple[float, ...]
    val_data_loss: float
    gradient: tuple[float, ...]
    error: tuple[float, ...]
    epochs: int


def descend(
    trainer: Trainer,
    cell: Cell,
    seeds: Sequence[int],
    splits: Sequence[int] = (0,),
    *,
    rounds: int = 8,
    warm: int | None = None,
    method: Unrolled | Implicit = _UNROLLED,
) -> Iterator[Proposal]:
    """Go down the validation data loss in the log λ of each rule; yield the strengths of each round.

    Only the sign of a derivative counts, and the length of a step adapts: a quarter of a decade at first,
    half as long when the sign changes, a fifth longer (half a decade at most) when it stays (M. Riedmiller,
    H. Braun, "A direct adaptive method for faster backpropagation learning: the RPROP algorithm", ICNN 1993).
    A derivative that does not exceed its own standard error over the lanes moves nothing. No strength goes
    further than three decades from where it started. After a round that diverged, the next begins from the
    best so far with steps half as long.

    The lowest validation loss of some rounds is an optimistic figure, as of any search: what is proposed here
    is to be trained and compared like every other strength.

    Parameters
    ----------
    trainer
        The task, compiled; each round trains its ``epochs``.
    cell
        Where to start: an arm, the best common strength, and ratios where they are not 1.
    seeds, splits
        All seeds × splits are lanes, over which loss and derivatives are averaged.
    rounds
        How many strengths are tried, the first included.
    warm
        After the first round, go on with the weights of the round before for so many epochs; None trains each
        round from the beginning, as a study will.
    method
        How derivatives are taken. With :class:`Unrolled` a round costs about 1 + varying rules trainings.

    Raises
    ------
    TrainingError, StrengthError
        As :meth:`shrinkage.training.hypergradient.Trainer.begin` does.
    """
    first = trainer.full(cell)
    walk, epochs = _Walk(np.log10(first.ratios) + math.log10(first.strength or 1)), 0
    trainings: list[Training] = []
    for _ in range(rounds):
        here = walk.cell(cell.arm)
        fresh = warm is None or walk.lost or not trainings
        more = trainer.task.epochs if warm is None or fresh else warm
        if fresh:
            trainings = [trainer.begin(here, seeds, split) for split in splits]
        found = _together([training.train(here, more, method) for training in trainings])
        epochs += more
        loss, slope = float(found.val_data_loss.mean()), found.gradient.mean(0)
        error = _standard_error(found.gradient)
        yield Proposal(
            here.strength or 0, here.ratios, loss, tuple(slope.tolist()), tuple(error.tolist()), epochs
        )
        # Of one lane no error is known, and every derivative counts.
        walk.go(loss, np.where(np.abs(slope) <= error, 0, slope))


def _together(each: Sequence[Sensitivity]) -> Sensitivity:
    return Sensitivity(*(np.concatenate(parts) for parts in zip(*each, strict=True)))


def _standard_error(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the standard error of the mean over lanes, (rules,); NaN of one lane."""
    n = len(values)
    found: NDArray[np.float64] = (
        values.std(0, ddof=1) / math.sqrt(n) if n > 1 else np.full(values.shape[1], math.nan)
    )
    return found


class _Walk:
    """Where the strengths are, in decades, and the steps of RPROP."""

    def __init__(self, start: NDArray[np.float64]) -> None:
        self._start = self._at = self._best = start
        self._length, self._sign = np.full(len(start), _FIRST), np.zeros(len(start))
        self._lowest, self.lost = math.inf, False

    def cell(self, arm: str) -> Cell:
        """Return the arm at the present strengths."""
        mean = self._at.mean()
        return Cell(arm, float(10**mean), tuple((10 ** (self._at - mean)).tolist()))

    def go(self, loss: float, slope: NDArray[np.float64]) -> None:
        """Step against the derivatives that were found here; back to the best place if there is no loss."""
        self.lost = not (math.isfinite(loss) and np.isfinite(slope).all())
        if self.lost:
            self._at, self._length, self._sign = self._best, self._length / 2, np.zeros(len(slope))
            return
        if loss < self._lowest:
            self._best, self._lowest = self._at, loss
        sign = np.sign(slope)
        turned = self._sign * sign
        factor = np.where(turned < 0, 0.5, np.where(turned > 0, 1.2, 1.0))
        self._length = np.minimum(_LONGEST, factor * self._length)
        self._sign = np.where(sign == 0, self._sign, sign)
        self._at = np.clip(self._at - sign * self._length, self._start - _DECADES, self._start + _DECADES)
