"""Bare formulas of separable penalties: value, prox, residual.

Each is a short pure function of arrays and strengths, so that a fixed strength, a strength that is
training state and a traced one per lane run the same code. Half-precision inputs are accumulated in
float32: a sum of squares over one 26×26×32 float16 map overflows otherwise.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any  # a tensor of the active backend, a NumPy array or a keras.Variable

#: Dtypes in which a sum of squares soon overflows or loses its digits.
HALF = frozenset({"float16", "bfloat16"})


def accumulating(w: Tensor) -> Tensor:
    """Return ``w`` as a tensor of at least float32."""
    w = ops.convert_to_tensor(w)
    wide = keras.backend.standardize_dtype(w.dtype) in ("float32", "float64")
    return w if wide else ops.cast(w, "float32")


def scalar(strength: Tensor, like: Tensor) -> Tensor:
    """Return a strength or a step as a tensor of ``like``'s dtype."""
    # TensorFlow's operators reject mixed dtypes, and a strength held as state is always float32. A Python
    # float must not pass through float32 on its way to float64, as it does in TensorFlow's cast.
    return ops.convert_to_tensor(strength, dtype=like.dtype)


def value_l1(w: Tensor, l1: Tensor) -> Tensor:
    """l1 · Σ|w|, a scalar of at least float32."""
    w = accumulating(w)
    # |w| written so that its gradient at 0 is sign(0) = 0 on every backend; JAX's own is 1.
    return ops.multiply(scalar(l1, w), ops.sum(ops.multiply(w, ops.stop_gradient(ops.sign(w)))))


def value_l2(w: Tensor, l2: Tensor) -> Tensor:
    """l2 · Σw², a scalar of at least float32 (no ½, as in Keras)."""
    w = accumulating(w)
    return ops.multiply(scalar(l2, w), ops.sum(ops.square(w)))


def value_l1_l2(w: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    """l1 · Σ|w| + l2 · Σw², a scalar of at least float32."""
    return ops.add(value_l1(w, l1), value_l2(w, l2))


def prox_l1(w: Tensor, step: Tensor, l1: Tensor) -> Tensor:
    """Soft threshold: argmin_u (u − w)² / (2 step) + l1 |u|, elementwise."""
    w = accumulating(w)
    threshold = ops.multiply(scalar(step, w), scalar(l1, w))
    return ops.multiply(ops.sign(w), ops.relu(ops.subtract(ops.abs(w), threshold)))


def slope_l1(w: Tensor, l1: Tensor) -> Tensor:
    """l1 · sign(w): the gradient of :func:`value_l1`, 0 at 0."""
    w = accumulating(w)
    return ops.multiply(scalar(l1, w), ops.sign(w))


def prox_l2(w: Tensor, step: Tensor, l2: Tensor) -> Tensor:
    """Shrinkage: argmin_u (u − w)² / (2 step) + l2 u² = w / (1 + 2 step l2), elementwise."""
    w = accumulating(w)
    return ops.divide(w, ops.add(1.0, ops.multiply(2.0, ops.multiply(scalar(step, w), scalar(l2, w)))))


def prox_l1_l2(w: Tensor, step: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    """argmin_u (u − w)² / (2 step) + l1 |u| + l2 u²: the soft threshold, then the shrinkage."""
    return prox_l2(prox_l1(w, step, l1), step, l2)


def kink_of_l1_l2(w: Tensor, step: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    """Return the prox of l1 |u| alone: the elastic net's square is smooth and stays in the gradient."""
    return prox_l1(w, step, l1)


def slope_of_l1_l2(w: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    """Return the gradient of l1 |u| alone; see :func:`kink_of_l1_l2`."""
    return slope_l1(w, l1)


def residual_l1_l2(w: Tensor, grad: Tensor, l1: Tensor, l2: Tensor) -> Tensor:
    """Distance of −grad from the subdifferential of l1 |u| + l2 u² at w, elementwise.

    It is |grad + 2 l2 w + l1 sign(w)| where w ≠ 0 and max(|grad| − l1, 0) where w = 0; all entries
    are 0 exactly at a stationary point of data loss + penalty.
    """
    w, grad = accumulating(w), accumulating(grad)
    l1, l2 = scalar(l1, w), scalar(l2, w)
    smooth = ops.add(grad, ops.multiply(2.0, ops.multiply(l2, w)))
    away = ops.abs(ops.add(smooth, ops.multiply(l1, ops.sign(w))))
    return ops.where(ops.not_equal(w, 0), away, ops.relu(ops.subtract(ops.abs(grad), l1)))


def residual_l1(w: Tensor, grad: Tensor, l1: Tensor) -> Tensor:
    """Return the residual of L1 alone; see :func:`residual_l1_l2`."""
    return residual_l1_l2(w, grad, l1, 0.0)


def residual_l2(w: Tensor, grad: Tensor, l2: Tensor) -> Tensor:
    """|grad + 2 l2 w|, elementwise."""
    return residual_l1_l2(w, grad, 0.0, l2)
