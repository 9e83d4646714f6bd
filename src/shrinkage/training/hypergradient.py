"""Hypergradients: the derivative of the validation data loss with respect to each rule's log λ.

Two ways, both on top of the compiled step of :mod:`shrinkage.training.jax_lanes`:

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

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from numpy.typing import NDArray

from shrinkage.errors import StrengthError, TrainingError, did_you_mean
from shrinkage.training.choose import Choice, Lowering, refusal
from shrinkage.training.initial import data_order
from shrinkage.training.jax_lanes import Arrays, Lanes, Rows, State
from shrinkage.training.jax_loop import JaxLoop, cut
from shrinkage.training.lowering import FORWARD, lowered
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


@jax.custom_jvp  # type: ignore[untyped-decorator]
def _root(x: Any) -> Any:
    """Return the square root, whose derivative at 0 is 0.

    Adam's second moment of a weight without gradient is 0 and stays so: 0 · ∞ would be NaN.
    """
    return lax.sqrt(x)


@_root.defjvp  # type: ignore[untyped-decorator]
def _root_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    root = lax.sqrt(x)
    positive = root > 0
    return root, jnp.where(positive, 0.5 * dx / jnp.where(positive, root, 1), 0)


class _ForwardLanes(Lanes):
    """Lanes whose step has a forward-mode derivative, too."""

    def _rewritten(self, function: Callable[..., Any]) -> Callable[..., Any]:
        return lowered(function, FORWARD) if self.lowering.rewritten else function

    def _step(self, state: State, charged: Arrays, rows: Rows) -> State:
        step = lowered(super()._step, {"sqrt": lambda x, **_: _root(x)})
        found: State = step(state, charged, rows)
        return found

    def directions(self, cell: Cell) -> Arrays:
        """Return how the coefficients change with each log λ: rules × 1 × coefficients for place and kind."""
        ratios = np.array(cell.ratios)
        rows = [self.coefficients([cell])]
        for rule in range(len(ratios)):  # coefficients are linear in each strength
            without = tuple(np.where(np.arange(len(ratios)) == rule, 0.0, ratios).tolist())
            rows.append(self.coefficients([cell._replace(ratios=without)]))
        return [np.stack([whole - part for part in parts]) for whole, *parts in zip(*rows, strict=True)]

    # --- unrolled ------------------------------------------------------------------------------------------

    def still(self, state: State, rules: int) -> Arrays:
        """Return the derivatives of a state that depends on no strength: zeros, rules first."""
        return [np.zeros((rules, *a.shape), a.dtype) for a in _moving(state)[0]]

    def advance(
        self, carried: tuple[State, Arrays], charged: Arrays, directions: Arrays, rows: Rows, order: Any
    ) -> tuple[State, Arrays]:
        """Train all lanes on the batches of ``order`` (seeds × batches × rows), with the derivatives."""
        given = (charged, directions, rows, order, order.shape[1])
        found: tuple[State, Arrays] = self._compiled("advance", self._advance, carried, *given)
        return found

    def _advance(
        self, carried: tuple[State, Arrays], charged: Arrays, directions: Arrays, rows: Rows, order: Any,
        steps: Any,
    ) -> tuple[State, Arrays]:  # fmt: skip
        state, tangents = carried
        floats, join = _moving(state)

        def train(floats: Arrays, charged: Arrays) -> Any:
            trained = self._train(join(floats), charged, rows, order, 0, steps)
            return _moving(trained)[0], trained

        def push(tangent: Arrays, direction: Arrays) -> Any:
            return jax.jvp(train, (floats, charged), (tangent, direction), has_aux=True)

        _, tangents, state = jax.vmap(push, out_axes=(None, 0, None))(tangents, directions)
        return state, tangents

    def validated(
        self, carried: tuple[State, Arrays], charged: Arrays, rows: Rows, orders: Sequence[Any]
    ) -> Any:
        """Return the data loss on ``orders`` (each batches × rows) and its derivatives, lane by lane."""
        given = (carried, charged, rows, list(orders))
        return self._compiled("validated", self._validated, *given, donated=False)

    def _validated(self, carried: tuple[State, Arrays], charged: Arrays, rows: Rows, orders: Any) -> Any:
        state, tangents = carried
        floats, join = _moving(state)

        def loss(floats: Arrays) -> Any:
            state = join(floats)
            one = jax.vmap(jax.vmap(self._data_loss, (0, 0, 0, None, None)), (0, 0, None, None, None))
            return one(state.trainable, state.non_trainable, charged, rows, orders)

        return jax.vmap(lambda t: jax.jvp(loss, (floats,), (t,)), out_axes=(None, 0))(tangents)

    # --- one lane -------------------------------------------------------------------------------------

    def _data_loss(self, trainable: Arrays, rest: Arrays, charged: Arrays, rows: Rows, orders: Any) -> Any:
        """Return the mean data loss in inference mode, every row counted alike."""

        def function(trainable: Arrays, rest: Arrays, charged: Arrays, rows: Rows) -> Any:
            self._objective((trainable, rest, self._metrics, None), charged, rows, training=False)
            return self.model._compile_loss.taken()

        each = self._rewritten(function)
        return _mean(lambda batch: each(trainable, rest, charged, batch), rows._replace(weights=None), orders)

    def _whole(self, trainable: Arrays, state: State, charged: Arrays, rows: Rows, orders: Any) -> Any:
        """Return the objective of training, data loss and penalties, over all training rows."""

        def function(trainable: Arrays, state: State, charged: Arrays, rows: Rows) -> Any:
            parts = (trainable, state.non_trainable, self._metrics, state.optimizer)
            return self._objective(parts, charged, rows, training=True)[1][0]

        each = self._rewritten(function)
        return _mean(lambda batch: each(trainable, state, charged, batch), rows, orders)

    # --- implicit -------------------------------------------------------------------------------------

    def implied(
        self, state: State, charged: Arrays, directions: Arrays, rows: Rows, train: Sequence[Any],
        validation: Sequence[Any], method: Implicit,
    ) -> Any:  # fmt: skip
        """Return the data loss on ``validation`` and its derivatives at rest, lane by lane."""
        axes = (None, None, None, None, None)
        lanes = jax.vmap(jax.vmap(self._implied, (0, 0, 1, *axes)), (0, None, None, *axes))
        numbers = (np.float32(method.damping), method.iterations)
        given = (state, charged, directions, rows, list(train), list(validation), *numbers)
        return self._compiled("implied", lanes, *given, donated=False)

    def _implied(
        self, state: State, charged: Arrays, directions: Arrays, rows: Rows, train: Any, validation: Any,
        damping: Any, iterations: Any,
    ) -> tuple[Any, Any]:  # fmt: skip
        flat, unflat = ravel_pytree(state.trainable)

        def whole(w: Any, charged: Arrays) -> Any:
            return self._whole(unflat(w), state, charged, rows, train)

        def held_out(w: Any) -> Any:
            return self._data_loss(unflat(w), state.non_trainable, charged, rows, validation)

        def curvature(v: Any) -> Any:
            return jax.jvp(jax.grad(lambda w: whole(w, charged)), (flat,), (v,))[1] + damping * v

        loss, gradient = jax.value_and_grad(held_out)(flat)
        solved = _solve(curvature, gradient, iterations)

        def along(charged: Arrays) -> Any:
            return jax.jvp(lambda w: whole(w, charged), (flat,), (solved,))[1]

        push = jax.vmap(lambda direction: jax.jvp(along, (charged,), (direction,))[1])
        return loss, -push(directions)


def _moving(state: State) -> tuple[Arrays, Callable[[Arrays], State]]:
    """Return a state's arrays of real numbers, which alone have derivatives, and what puts others in."""
    leaves, tree = jax.tree.flatten(state)
    real = [jnp.issubdtype(a.dtype, jnp.floating) for a in leaves]

    def join(floats: Arrays) -> State:
        left = iter(floats)
        joined: State = jax.tree.unflatten(
            tree, [next(left) if r else a for r, a in zip(real, leaves, strict=True)]
        )
        return joined

    return [a for r, a in zip(real, leaves, strict=True) if r], join


def _mean(value: Callable[[Rows], Any], rows: Rows, orders: Iterable[Any]) -> Any:
    """Return the mean over the rows of ``orders`` of a value that is a mean over the rows of a batch."""
    total, count = jnp.float32(0), 0
    for order in orders:
        values = lax.map(lambda index: value(rows.take(index)), order)
        total, count = total + values.sum() * order.shape[1], count + order.size
    return total / count


def _solve(apply: Callable[[Any], Any], b: Any, iterations: int) -> Any:
    """Return x with apply(x) = b by conjugate gradients, up to where the curvature is not positive."""

    def going_on(carry: Any) -> Any:
        i, _, r, p, is_convex = carry
        return (i < iterations) & is_convex & (r @ r > 1e-12 * (b @ b)) & (p @ p > 0)

    def step(carry: Any) -> Any:
        i, x, r, p, _ = carry
        applied = apply(p)
        curvature = p @ applied
        is_convex = curvature > 0
        length = jnp.where(is_convex, r @ r / jnp.where(is_convex, curvature, 1), 0)
        rest = r - length * applied
        return i + 1, x + length * p, rest, rest + (rest @ rest) / (r @ r) * p, is_convex

    return lax.while_loop(going_on, step, (0, jnp.zeros_like(b), b, b, jnp.array(True)))[1]


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
        self.task, self.rows, self.lanes = task, rows, _ForwardLanes(task, Lowering())

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
        return Training(self, self.full(cell), tuple(seeds), self.task.splits[split])

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
        charged, directions = lanes.coefficients([cell]), lanes.directions(cell)
        held_out = list(cut(self._split.validation.astype(np.int32), _EVALUATION_BATCH))
        if isinstance(method, Implicit):
            if is_proximal(lanes.model.optimizer):
                raise TrainingError("A proximal optimizer does not rest at gradient 0; use Unrolled().")
            self._plain(charged, epochs)
            seen = list(cut(self._split.train.astype(np.int32), _EVALUATION_BATCH))
            loss, gradient = lanes.implied(self._state, charged, directions, rows, seen, held_out, method)
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
