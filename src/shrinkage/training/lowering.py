"""Rewrites convolutions, pooling, dense products and random bits in a trace as what XLA is fast at.

XLA's CPU convolution is slow inside a loop, and ``vmap`` over kernels makes it a grouped one, which is
slower still; products of patches and kernels are neither. The rewriting takes place on the traced forward
function, before ``grad`` and ``vmap``, so that gradients are those of the products. What it does not know
it leaves alone: every other primitive is bound again as it stands, custom derivative rules included.
Products have a reverse rule of their own, so a rewritten function has no forward-mode derivative, unless it
is rewritten by :data:`FORWARD`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

Rule = Callable[..., Any]  # takes a primitive's operands and parameters; NotImplemented leaves it alone


def lowered(function: Callable[..., Any], rules: Mapping[str, Rule] | None = None) -> Callable[..., Any]:
    """Return a function of the same values and gradients, with what ``rules`` know rewritten.

    Parameters
    ----------
    function
        Takes and returns pytrees of arrays; traced anew at each call, as under ``jax.jit``.
    rules
        What stands in for a primitive, by its name; None for :data:`RULES`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp
    >>> kernel = jnp.ones((3, 1, 1))
    >>> convolve = lambda x: jax.lax.conv_general_dilated(
    ...     x, kernel, (1,), "VALID", dimension_numbers=("NWC", "WIO", "NWC")
    ... )
    >>> lowered(convolve)(jnp.arange(5.0).reshape(1, 5, 1)).ravel().tolist()
    [3.0, 6.0, 9.0]
    """

    def call(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        found = _evaluate(
            RULES if rules is None else rules, closed.jaxpr, closed.consts, jax.tree.leaves(args)
        )
        return jax.tree.unflatten(jax.tree.structure(shape), found)

    return call


def _evaluate(rules: Mapping[str, Rule], jaxpr: Any, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
    values = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *args), strict=True))

    def read(variable: Any) -> Any:
        return variable.val if isinstance(variable, core.Literal) else values[variable]

    for equation in jaxpr.eqns:
        found = _bind(rules, equation, [read(v) for v in equation.invars])
        values.update(zip(equation.outvars, found, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _bind(rules: Mapping[str, Rule], equation: Any, operands: list[Any]) -> list[Any]:
    name, params = equation.primitive.name, equation.params
    if name in ("jit", "pjit", "closed_call"):
        inner = params.get("jaxpr") or params["call_jaxpr"]
        return _evaluate(rules, inner.jaxpr, inner.consts, operands)
    if name in ("remat2", "checkpoint"):
        inside = partial(_evaluate, rules, params["jaxpr"], ())
        again = jax.checkpoint(inside, prevent_cse=params["prevent_cse"], policy=params["policy"])
        return list(again(operands))
    rule = rules.get(name)
    found = NotImplemented if rule is None else rule(*operands, **params)
    if found is not NotImplemented:
        return [found]
    # Not inlined where a derivative rule belongs to it: relu'(0) would become 0.5 and softplus'(0) 0.
    functions, rest = _parameters(equation)
    found = equation.primitive.bind(*functions, *operands, **rest)
    return list(found) if equation.primitive.multiple_results else [found]


def _parameters(equation: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    given = equation.primitive.get_bind_params(equation.params)
    return given if isinstance(given, tuple) else ((), given)


def traced(function: Callable[..., Any], *args: Any) -> tuple[int, int]:
    """Return how many equations of a function's trace have a rule, and how many bytes its results take."""
    equations = list(_equations(jax.make_jaxpr(function)(*args).jaxpr))
    sizes = [
        v.aval.size * v.aval.dtype.itemsize for e in equations for v in e.outvars if hasattr(v.aval, "size")
    ]
    return sum(e.primitive.name in _COSTLY for e in equations), sum(sizes)


_COSTLY = ("conv_general_dilated", "reduce_window_max", "reduce_window_sum")


def _equations(jaxpr: Any) -> Iterator[Any]:
    for equation in jaxpr.eqns:
        inner = [p for p in equation.params.values() if isinstance(p, (core.ClosedJaxpr, core.Jaxpr))]
        if not inner:
            yield equation
        for each in inner:
            yield from _equations(getattr(each, "jaxpr", each))


# --- convolution ----------------------------------------------------------------------------------------


def _convolution(
    x: Any,
    kernel: Any,
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    precision: Any = None,
    preferred_element_type: Any = None,
    by_rows: bool = True,
    **_: Any,
) -> Any:
    """Return the convolution as patches (rows × window and channels) times the kernel.

    With lhs dilation (a transposed convolution) the input is spread out with zeros first.
    """
    if batch_group_count != 1 or not jnp.issubdtype(x.dtype, jnp.floating) or 0 in (*x.shape, *kernel.shape):
        return NotImplemented
    numbers, groups = dimension_numbers, feature_group_count
    x = jnp.transpose(x, (numbers.lhs_spec[0], *numbers.lhs_spec[2:], numbers.lhs_spec[1]))
    kernel = jnp.transpose(kernel, (*numbers.rhs_spec[2:], *numbers.rhs_spec[1::-1]))
    spread = (
        (0, 0, 0),
        *((lo, hi, d - 1) for (lo, hi), d in zip(padding, lhs_dilation, strict=True)),
        (0, 0, 0),
    )
    x = lax.pad(x, jnp.zeros((), x.dtype), spread)
    *window, inputs, outputs = kernel.shape
    slices = list(_slices(x, (1, *window, 1), (1, *window_strides, 1), (1, *rhs_dilation, 1)))
    size, area = slices[0].shape[:-1], math.prod(window)
    product = partial(lax.dot_general, precision=precision, preferred_element_type=preferred_element_type)
    if inputs == 1 and groups == outputs:  # depthwise: one product a place of the window, all of them fused
        flat = kernel.reshape(area, outputs)
        found = sum(part * flat[i] for i, part in enumerate(slices))
        found = found.astype(preferred_element_type or x.dtype)
    elif (
        by_rows
        and groups == 1
        and inputs < _NARROW
        and precision is None
        and preferred_element_type in (None, x.dtype)
    ):
        # Few channels side by side are slow to copy; rows of whole maps are not.
        rows = [jnp.moveaxis(part, -1, 0).reshape(inputs, -1) for part in slices]
        found = _from_rows(jnp.concatenate(rows), kernel.reshape(area * inputs, outputs))
    elif groups == 1:
        patches = (slices[0] if area == 1 else jnp.concatenate(slices, -1)).reshape(-1, area * inputs)
        found = product(patches, kernel.reshape(area * inputs, outputs), (((1,), (0,)), ((), ())))
    else:
        patches = jnp.stack(slices, -2).reshape(-1, area, groups, inputs)
        each = kernel.reshape(area, inputs, groups, outputs // groups)
        found = product(patches, each, (((1, 3), (0, 1)), ((2,), (2,))))  # groups, rows, outputs of a group
        found = jnp.moveaxis(found, 0, 1)
    found = found.reshape(*size, outputs)
    out = (numbers.out_spec[0], *numbers.out_spec[2:], numbers.out_spec[1])
    return jnp.transpose(found, tuple(int(i) for i in np.argsort(out)))


_NARROW = 8  # channels


@jax.custom_vjp  # type: ignore[untyped-decorator]
def _from_rows(rows: Any, kernel: Any) -> Any:
    """Return ``rows.T @ kernel``."""
    return lax.dot_general(rows, kernel, (((0,), (0,)), ((), ())))


def _from_rows_back(kept: Any, above: Any) -> Any:
    # JAX's own rule gives the kernel's gradient transposed, at the price of a copy of the whole map.
    rows, kernel = kept
    of_rows = lax.dot_general(kernel, above, (((1,), (1,)), ((), ())))
    return of_rows, lax.dot_general(rows, above, (((1,), (0,)), ((), ())))


_from_rows.defvjp(lambda rows, kernel: (_from_rows(rows, kernel), (rows, kernel)), _from_rows_back)


def _slices(x: Any, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]) -> Iterator[Any]:
    """Yield, for each place of the window, what stands there as the window moves over ``x``."""
    axes = list(zip(x.shape, window, strides, dilation, strict=True))
    counts = [(n - (w - 1) * d - 1) // s + 1 for n, w, s, d in axes]
    for place in itertools.product(*map(range, window)):
        starts = [p * d for p, d in zip(place, dilation, strict=True)]
        limits = [a + (n - 1) * s + 1 for a, n, s in zip(starts, counts, strides, strict=True)]
        yield lax.slice(x, starts, limits, strides)


# --- pooling --------------------------------------------------------------------------------------------


def _windows(
    x: Any,
    empty: Any,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> tuple[Any, tuple[int, ...]] | None:
    """Return ``x`` with its windows as axes, and these axes; None where there is no such view.

    Windows that don't overlap are a reshape, which is faster than slices that are put side by side.
    """
    if {*base_dilation} != {1} or 0 in x.shape or math.prod(window_dimensions) > _LARGEST_WINDOW:
        return None
    x = lax.pad(x, jnp.asarray(empty, x.dtype), [(lo, hi, 0) for lo, hi in padding])
    if tuple(window_dimensions) == tuple(window_strides) and {*window_dilation} == {1}:
        counts = [n // w for n, w in zip(x.shape, window_dimensions, strict=True)]
        x = x[tuple(slice(n * w) for n, w in zip(counts, window_dimensions, strict=True))]
        pairs = [(n, w) for n, w in zip(counts, window_dimensions, strict=True)]
        shape = [size for n, w in pairs for size in ((n,) if w == 1 else (n, w))]
        axes, at = [], 0
        for _, w in pairs:
            at += 1
            if w > 1:
                axes.append(at)
                at += 1
        return x.reshape(shape), tuple(axes)
    return jnp.stack([*_slices(x, window_dimensions, window_strides, window_dilation)], -1), (x.ndim,)


_LARGEST_WINDOW = 64  # above it, pooling is most of a map, and one pass over it is best


def _max_pool(x: Any, **params: Any) -> Any:
    empty = -jnp.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    view = _windows(x, empty, **_only_windows(params))
    if view is None:
        return NotImplemented
    return _first_max(*view)


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _first_max(x: Any, axes: tuple[int, ...]) -> Any:
    """Return the maximum over ``axes``; its derivative goes to the first of equals, as XLA's own does."""
    return reduce(jnp.maximum, _places(x, axes))


@_first_max.defjvp  # type: ignore[untyped-decorator]
def _first_max_jvp(axes: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    parts = _places(x, axes)  # one comparison a place: a reduction over short axes is not vectorised
    most = reduce(jnp.maximum, parts)
    first = jnp.zeros(most.shape, jnp.int32)
    for i, part in reversed(list(enumerate(parts))):
        first = jnp.where(part == most, i, first)
    place = jnp.zeros((), jnp.int32)
    for axis in axes:
        place = place * x.shape[axis] + lax.broadcasted_iota(jnp.int32, x.shape, axis)
    return most, jnp.sum(jnp.where(place == jnp.expand_dims(first, axes), dx, 0), axes)


def _places(x: Any, axes: tuple[int, ...]) -> list[Any]:
    """Return ``x`` at each place of ``axes``, the last axis fastest."""
    found = [x]
    for done, axis in enumerate(sorted(axes)):
        found = [
            lax.index_in_dim(part, i, axis - done, keepdims=False)
            for part in found
            for i in range(x.shape[axis])
        ]
    return found


def _sum_pool(x: Any, **params: Any) -> Any:
    view = _windows(x, 0, **_only_windows(params))
    return NotImplemented if view is None else jnp.sum(*view)


def _only_windows(params: Mapping[str, Any]) -> dict[str, Any]:
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    return {name: params[name] for name in names}


# --- dense products -------------------------------------------------------------------------------------


def _dense(x: Any, kernel: Any, *, dimension_numbers: Any, **params: Any) -> Any:
    plain = (((x.ndim - 1,), (0,)), ((), ()))
    same = all(params.get(name) is None for name in ("precision", "out_sharding"))
    typed = params.get("preferred_element_type") in (None, x.dtype) and x.dtype == kernel.dtype
    if dimension_numbers != plain or kernel.ndim != 2 or not (same and typed):
        return NotImplemented
    return _product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], kernel.shape[1])


@jax.custom_vjp  # type: ignore[untyped-decorator]
def _product(x: Any, kernel: Any) -> Any:
    return x @ kernel


def _product_back(kept: Any, above: Any) -> Any:
    # JAX's own rule gives the kernel's gradient transposed, and the optimizer reads it with large strides.
    x, kernel = kept
    of_x = lax.dot_general(above, kernel, (((1,), (1,)), ((), ())))
    return of_x, lax.dot_general(x, above, (((0,), (0,)), ((), ())))


_product.defvjp(lambda x, kernel: (_product(x, kernel), (x, kernel)), _product_back)


# --- random bits ----------------------------------------------------------------------------------------


def _random_bits(key: Any, *, bit_width: int, shape: Sequence[int], **_: Any) -> Any:
    """Return random bits as a hash of the key and a counter: for dropout, at a sixth of threefry's work.

    The counter passes twice through a 32-bit mixer, the second time with the other half of the key. The
    mixer is Chris Wellons's ``lowbias32`` (https://nullprogram.com/blog/2018/07/31/).
    """
    if key.ndim or bit_width not in (8, 16, 32) or math.prod(shape) >= 2**32:
        return NotImplemented
    words = jax.random.key_data(key)
    if words.shape != (2,):
        return NotImplemented
    counter = lax.iota(jnp.uint32, math.prod(shape)).reshape(shape)
    bits = _mixed(_mixed(counter * np.uint32(0x9E3779B9) + words[0]) ^ words[1])
    return (bits >> np.uint32(32 - bit_width)).astype(f"uint{bit_width}")


def _mixed(x: Any) -> Any:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


RULES: Mapping[str, Rule] = {
    "conv_general_dilated": _convolution,
    "dot_general": _dense,
    "reduce_window_max": _max_pool,
    "reduce_window_sum": _sum_pool,
    "random_bits": _random_bits,
}

#: The rules that leave a function its forward-mode derivative: none of them has a reverse rule of its own.
FORWARD: Mapping[str, Rule] = {
    **{name: rule for name, rule in RULES.items() if name != "dot_general"},
    "conv_general_dilated": partial(_convolution, by_rows=False),
}
