"""Bare formulas of unit-wise penalties: value, prox, residual, slope.

A weight's last axis counts units (a Dense layer's columns, a convolution's filters); all entries that belong
to one index of it are one group, w_g. A group's norm is weighted by √|g|, |g| its number of entries (Yuan &
Lin, "Model selection and estimation in regression with grouped variables", 2006), so that units of layers of
different width are charged alike.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from keras import ops

from shrinkage.penalties.prox import Tensor, accumulating, prox_l1, scalar, slope_l1

#: Newton steps for the norm of a shrunk group: from below, on a function that is concave and nearly straight.
_NEWTON = 16
_TINY = 1e-30


def _units(w: Tensor) -> Tensor:
    """Return w as a matrix: entries of a unit × units."""
    w = accumulating(w)
    return ops.reshape(w, (-1, w.shape[-1] if len(w.shape) else 1))


def _norms(units: Tensor) -> Tensor:
    """Return each column's norm, with gradient 0 at zero, and with no square that underflows."""
    largest = ops.stop_gradient(ops.max(ops.abs(units), axis=0))
    scale = ops.where(ops.greater(largest, 0), largest, ops.ones_like(largest))
    squares = ops.sum(ops.square(ops.divide(units, scale)), axis=0)
    positive = ops.greater(squares, 0)
    roots = ops.sqrt(ops.where(positive, squares, ops.ones_like(squares)))
    return ops.where(positive, ops.multiply(scale, roots), ops.zeros_like(roots))


def _threshold(strength: Tensor, units: Tensor) -> Tensor:
    return ops.multiply(scalar(strength, units), float(np.sqrt(units.shape[0])))


def _directions(units: Tensor) -> Tensor:
    """Return w_g / ‖w_g‖, 0 for a group that is zero."""
    norms = _norms(units)
    return ops.divide(units, ops.where(ops.greater(norms, 0), norms, ops.ones_like(norms)))


def value_group(w: Tensor, strength: Tensor) -> Tensor:
    """Strength · Σ_g √|g| ‖w_g‖, a scalar of at least float32: of norms, not of their squares."""
    units = _units(w)
    return ops.multiply(_threshold(strength, units), ops.sum(_norms(units)))


def slope_group(w: Tensor, strength: Tensor) -> Tensor:
    """Strength · √|g| w_g / ‖w_g‖: the gradient of :func:`value_group`, 0 for a group that is zero."""
    units = _units(w)
    return ops.reshape(ops.multiply(_threshold(strength, units), _directions(units)), ops.shape(w))


def prox_group(w: Tensor, step: Tensor, strength: Tensor) -> Tensor:
    """argmin_u Σ (u − w)² / (2 step) + strength · Σ_g √|g| ‖u_g‖.

    With one step for all: w_g · max(0, 1 − step · t / ‖w_g‖), t = strength · √|g| (Parikh & Boyd, "Proximal
    algorithms", 2014, §6.5.4). With a step d_i a coordinate: u_i = w_i / (1 + t d_i / r), where r = ‖u_g‖ is
    the root of Σ (w_i / (r + t d_i))² = 1; the group is zero if Σ (w_i / (t d_i))² ≤ 1.
    """
    units = _units(w)
    step = ops.convert_to_tensor(step, dtype=units.dtype)
    threshold = _threshold(strength, units)
    if len(step.shape) == 0:
        norms = _norms(units)
        safe = ops.where(ops.greater(norms, 0), norms, ops.ones_like(norms))
        factor = ops.relu(ops.subtract(1.0, ops.divide(ops.multiply(step, threshold), safe)))
    else:
        pull = ops.multiply(threshold, ops.reshape(step, ops.shape(units)))
        norms = _shrunk_norms(units, pull)
        # u = w r / (r + t d); the denominator is 0 only where r is.
        factor = ops.divide(norms, ops.maximum(ops.add(norms, pull), _TINY))
    return ops.reshape(ops.multiply(units, factor), ops.shape(w))


def _shrunk_norms(units: Tensor, pull: Tensor) -> Tensor:
    """Return the root r ≥ 0 of Σ (w_i / (r + pull_i))² = 1 for each column, 0 where there is none.

    Newton's method on 1 / ‖w / (r + pull)‖ − 1, as for the secular equation of a trust region: it is concave
    and rises, so that a start below the root never overshoots (Conn, Gould & Toint, "Trust-region methods",
    2000, §7.3.3).
    """
    alive = ops.greater(ops.sum(ops.square(ops.divide(units, ops.maximum(pull, _TINY))), axis=0), 1)

    def closer(_: Any, r: Tensor) -> Tensor:
        below = ops.maximum(ops.add(r, pull), _TINY)
        ratios = ops.square(ops.divide(units, below))
        squares = ops.maximum(ops.sum(ratios, axis=0), _TINY)
        change = ops.maximum(ops.sum(ops.divide(ratios, below), axis=0), _TINY)
        return ops.add(r, ops.multiply(ops.divide(squares, change), ops.subtract(ops.sqrt(squares), 1.0)))

    start = ops.relu(ops.subtract(_norms(units), ops.max(pull, axis=0)))
    start = ops.where(alive, start, ops.ones_like(start))
    return ops.where(alive, ops.relu(ops.fori_loop(0, _NEWTON, closer, start)), ops.zeros_like(start))


def residual_group(w: Tensor, grad: Tensor, strength: Tensor) -> Tensor:
    """Return the residual of a group lasso alone; see :func:`residual_sparse_group`."""
    return residual_sparse_group(w, grad, 0.0, strength)


def support_group(w: Tensor) -> Tensor:
    """Return where a unit has any weight that is not exactly zero, of w's shape."""
    units = _units(w)
    alive = ops.any(ops.not_equal(units, 0), axis=0, keepdims=True)
    return ops.reshape(ops.broadcast_to(alive, ops.shape(units)), ops.shape(w))


def value_sparse_group(w: Tensor, l1: Tensor, group: Tensor) -> Tensor:
    """l1 · Σ|w| + group · Σ_g √|g| ‖w_g‖, a scalar of at least float32."""
    wide = accumulating(w)
    entries = ops.sum(ops.multiply(wide, ops.stop_gradient(ops.sign(wide))))
    return ops.add(ops.multiply(scalar(l1, wide), entries), value_group(w, group))


def slope_sparse_group(w: Tensor, l1: Tensor, group: Tensor) -> Tensor:
    """Return the gradient of :func:`value_sparse_group`, 0 at zero."""
    return ops.add(slope_l1(w, l1), slope_group(w, group))


def prox_sparse_group(w: Tensor, step: Tensor, l1: Tensor, group: Tensor) -> Tensor:
    """Return the soft threshold, then the shrinkage of groups, which is exact with a step a coordinate too.

    Stationarity of an entry of a group that stays is (u − w)/d + l1 sign(u) + t u/r = 0, so
    u = soft(w, d l1) / (1 + t d / r) (Simon, Friedman, Hastie & Tibshirani, "A sparse-group lasso", 2013).
    """
    return prox_group(prox_l1(w, step, l1), step, group)


def residual_sparse_group(w: Tensor, grad: Tensor, l1: Tensor, group: Tensor) -> Tensor:
    """Distance of −grad from the subdifferential of :func:`value_sparse_group` at w, of w's shape.

    In a group that is not zero: |grad + l1 sign(w) + t w/‖w_g‖| where w ≠ 0, max(|grad| − l1, 0) where w = 0.
    In one that is zero: the soft-thresholded gradient s = soft(grad, l1), times max(1 − t/‖s_g‖, 0).
    """
    units, slope = _units(w), _units(grad)
    l1 = scalar(l1, units)
    threshold = _threshold(group, units)
    soft = ops.multiply(ops.sign(slope), ops.relu(ops.subtract(ops.abs(slope), l1)))
    pulled = ops.add(
        slope, ops.add(ops.multiply(l1, ops.sign(units)), ops.multiply(threshold, _directions(units)))
    )
    inside = ops.where(ops.not_equal(units, 0), ops.abs(pulled), ops.abs(soft))
    norms = _norms(soft)
    left = ops.relu(ops.subtract(1.0, ops.divide(threshold, ops.where(ops.greater(norms, 0), norms, _TINY))))
    alive = ops.any(ops.not_equal(units, 0), axis=0, keepdims=True)
    return ops.reshape(ops.where(alive, inside, ops.multiply(ops.abs(soft), left)), ops.shape(w))
