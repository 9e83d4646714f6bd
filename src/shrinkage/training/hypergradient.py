"""Hypergradients: the derivative of the validation data loss with respect to each rule's log λ.

Two ways, both with the compiled step of :mod:`shrinkage.training.jax_lanes`:

- **Unrolled.** Training is a function of the strengths, θ_r = log λ_r. The state after a step has the
  derivative Z' = ∂step/∂state · Z + ∂step/∂θ, which is carried along with the state (forward mode;
  L. Franceschi et al., "Forward and Reverse Gradient-Based Hyperparameter Optimization", ICML 2017), and at
  the end dL_val/dθ = ∇L_val · Z. It takes one more pass and one more state a rule, however long training is.
  Over all epochs it is the derivative of what a training really ends at; over the last ones alone it leaves
  out what the strengths did before.
- **Implicit.** Where training has come to rest at ∇L(w, θ) = 0, dw/dθ = −H⁻¹ ∂∇L/∂θ, so
  dL_val/dθ = −(H + δI)⁻¹∇L_val · ∂∇L/∂θ, the inverse by conjugate gradients with Hessian-vector products
  (F. Pedregosa, "Hyperparameter optimization with approximate gradient", ICML 2016; J. Lorraine et al.,
  "Optimizing Millions of Hyperparameters by Implicit Differentiation", AISTATS 2020). It needs no history,
  and holds no better than ∇L = 0 does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import NDArray

from shrinkage.errors import StrengthError, TrainingError, did_you_mean
from shrinkage.training.choose import Choice, Lowering, refusal
from shrinkage.training.initial import data_order, drawn
from shrinkage.training.jax_forward import ForwardLanes
from shrinkage.training.jax_lanes import Arrays
from shrinkage.training.jax_loop import JaxLoop, cut
from shrinkage.training.proximal import is_proximal
from shrinkage.training.task import Cell, Split, Task

_EVALUATION_BATCH = 128


@dataclass(frozen=True)
class Unrolled:
    """Differentiate the steps of training.

    Parameters
    ----------
    epochs
        How many of the last epochs; None differentiates all of them.
    """

    epochs: int | None = None


@dataclass(frozen=True)
class Implicit:
    """Differentiate the point at which training has come to rest.

    Parameters
    ----------
    damping
        δ, added to the Hessian: larger is steadier, and biased towards 0.
    iterations
        How many Hessian-vector products at most, each a pass over all training rows. Where the curvature is
        negative they end, with what has been found so far.
    """

    damping: float = 1e-3
    iterations: int = 50


class Sensitivity(NamedTuple):
    """The validation data loss of lanes, (lanes,), and its derivatives by log λ, (lanes, varying rules)."""

    val_data_loss: NDArray[np.float64]
    gradient: NDArray[np.float64]


class Trainer:
    """A task, compiled so that trainings tell how their validation loss answers to each strength.

    Parameters
    ----------
    task
        The task. Its rungs and its early stopping are left out: a training goes on as long as it is told to.

    Raises
    ------
    TrainingError
        If the backend is not JAX, the model has a training step of its own, or the rows take more than a
        quarter of the memory.
    """

    def __init__(self, task: Task) -> None:
        why = refusal(task.build())
        if why is not None:
            raise TrainingError(f"There is no gradient by the strengths of this task: {why}.")
        rows = JaxLoop(task, (), Choice(1)).resident()
        if rows is None:
            raise TrainingError("There is no gradient by the strengths: too many rows for the memory.")
        self.task, self.rows, self.lanes = task, rows, ForwardLanes(task, Lowering())

    def begin(self, cell: Cell, seeds: Sequence[int], split: int = 0) -> Training:
        """Return a training of an arm from each seed on one split, before its first step.

        Raises
        ------
        TrainingError
            If the task has no such arm.
        StrengthError
            If no rule of the arm contains the word ``strength``, a strength is not > 0, or there is another
            number of ratios than of such rules.
        """
        own = tuple(drawn(seed, split) for seed in seeds)
        return Training(self, self.full(cell), own, self.task.splits[split])

    def full(self, cell: Cell) -> Cell:
        """Return a cell with a ratio for each rule that varies; raise as :meth:`begin` does."""
        arm, recipes = cell.arm, self.task.recipes
        if arm not in recipes:
            raise TrainingError(f"The task has no arm {arm!r}.{did_you_mean(arm, recipes)}")
        if not recipes[arm].varies:
            raise StrengthError(f"No rule of the arm {arm!r} contains the word strength.")
        ratios = cell.ratios or (1.0,) * recipes[arm].varying
        recipes[arm].scaled(ratios)
        if not cell.strength or not all(cell.strength * ratio > 0 for ratio in ratios):
            raise StrengthError(f"log λ needs strengths > 0; got {cell.strength!r} with ratios {ratios}.")
        return cell._replace(ratios=ratios)


class Training:
    """The lanes of one arm and split, one a seed, while they are trained; see :meth:`Trainer.begin`."""

    def __init__(self, trainer: Trainer, cell: Cell, seeds: tuple[int, ...], split: Split) -> None:
        self._trainer, self._seeds, self._split = trainer, seeds, split
        self._state = jax.device_put(trainer.lanes.initial(seeds, [cell]))
        self._epoch = 0

    def train(self, cell: Cell, epochs: int, method: Unrolled | Implicit) -> Sensitivity:
        """Go on for so many epochs at a cell's strengths; return how the loss then answers to each.

        Raises
        ------
        TrainingError
            For :class:`Implicit` with a proximal optimizer, which rests where the gradient is not 0.
        """
        lanes, rows = self._trainer.lanes, self._trainer.rows
        cell = self._trainer.full(cell)
        charged, directions = lanes.places.coefficients([cell]), lanes.directions(cell)
        held_out = list(cut(self._split.validation.astype(np.int32), _EVALUATION_BATCH))
        if isinstance(method, Implicit):
            if is_proximal(lanes.model.optimizer):
                raise TrainingError("A proximal optimizer does not rest at gradient 0; use Unrolled().")
            self._plain(charged, epochs)
            seen = list(cut(self._split.train.astype(np.int32), _EVALUATION_BATCH))
            solver = (np.float32(method.damping), method.iterations)
            loss, gradient = lanes.implied(self._state, charged, directions, rows, seen, held_out, *solver)
            return Sensitivity(np.asarray(loss, float)[:, 0], np.asarray(gradient, float)[:, 0])
        last = epochs if method.epochs is None else min(epochs, method.epochs)
        self._plain(charged, epochs - last)
        carried = self._state, lanes.still(self._state, len(cell.ratios))
        for order in self._orders(last):
            carried = lanes.advance(carried, charged, directions, rows, order)
        self._state = carried[0]
        loss, gradient = lanes.validated(carried, charged, rows, held_out)
        return Sensitivity(np.asarray(loss, float)[:, 0], np.asarray(gradient, float)[..., 0].T)

    def _plain(self, charged: Arrays, epochs: int) -> None:
        """Train without derivatives."""
        lanes, rows = self._trainer.lanes, self._trainer.rows
        for order in self._orders(epochs):
            self._state = lanes.train(self._state, charged, rows, order, 0, order.shape[1])

    def _orders(self, epochs: int) -> Iterator[NDArray[np.int32]]:
        """Yield the batches of the next epochs, as the loops order them: seeds × batches × rows."""
        train = self._split.train
        for _ in range(epochs):
            order = np.stack([train[data_order(seed, self._epoch, len(train))] for seed in self._seeds])
            self._epoch += 1
            yield from cut(order.astype(np.int32), self._trainer.task.batch_size)


def hypergradient(
    task: Task, cell: Cell, seeds: Sequence[int], split: int = 0, method: Unrolled | Implicit = Unrolled()
) -> Sensitivity:
    """Train a cell from each seed; return its validation data loss, and the loss's derivatives by log λ.

    Parameters
    ----------
    task
        The task; see :class:`Trainer`.
    cell
        An arm of it at a strength > 0, with a ratio for each rule that varies, or none: all are 1.
    seeds, split
        What is trained: one lane a seed, on this split.
    method
        How the derivative is taken.

    Raises
    ------
    TrainingError, StrengthError
        As :class:`Trainer` and :meth:`Trainer.begin` do.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from shrinkage.recipe import Recipe
    >>> from shrinkage.training.objective import Objective
    >>> from shrinkage.training.task import Split
    >>> x = np.random.default_rng(0).normal(size=(30, 2)).astype("float32")
    >>> task = Task(
    ...     build=lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="head")]),
    ...     recipes={"l2": Recipe("head: kernel = l2(strength)")},
    ...     x=x, y=x[:, :1], splits=(Split(np.arange(20), np.arange(20, 30)),),
    ...     objective=Objective("mean_squared_error", (), False), optimizer="sgd", epochs=300,
    ... )
    >>> found = hypergradient(task, Cell("l2", 0.5), seeds=[0, 1])
    >>> found.gradient.shape
    (2, 1)
    >>> bool((found.gradient > 0).all())  # these targets have no noise
    True
    """
    return Trainer(task).begin(cell, seeds, split).train(cell, task.epochs, method)
