"""Lanes that are trained with the derivatives of their state: see :mod:`shrinkage.training.hypergradient`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree

from shrinkage.training.jax_lanes import Arrays, Lanes, Rows, State
from shrinkage.training.lowering import FORWARD, lowered
from shrinkage.training.task import Cell


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


class ForwardLanes(Lanes):
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
        rows = [self.places.coefficients([cell])]
        for rule in range(len(ratios)):  # coefficients are linear in each strength
            without = tuple(np.where(np.arange(len(ratios)) == rule, 0.0, ratios).tolist())
            rows.append(self.places.coefficients([cell._replace(ratios=without)]))
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
        found: tuple[State, Arrays] = self._programs.call("advance", self._advance, carried, *given)
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
        return self._programs.call("validated", self._validated, *given, donated=False)

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
        validation: Sequence[Any], damping: Any, iterations: int,
    ) -> Any:  # fmt: skip
        """Return the data loss on ``validation`` and its derivatives at rest, lane by lane."""
        axes = (None, None, None, None, None)
        lanes = jax.vmap(jax.vmap(self._implied, (0, 0, 1, *axes)), (0, None, None, *axes))
        given = (state, charged, directions, rows, list(train), list(validation), damping, iterations)
        return self._programs.call("implied", lanes, *given, donated=False)

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
