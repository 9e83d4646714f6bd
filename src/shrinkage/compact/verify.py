"""Inputs to compare two models on, and the comparison."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops, tree
from numpy.typing import NDArray

from shrinkage.compact.graph import Shape, inlinable
from shrinkage.errors import DataError, ModelError
from shrinkage.recipe.charges import batches

#: How much outputs may differ, relative to their largest entry.
TOLERANCE = 1e-5
#: The same, in units of the coarsest dtype that a layer computes in, where that is less than float32.
ROUNDINGS = 8
#: Lengths to try for axes whose length is not known.
LENGTHS = (8, 16, 32, 64, 128, 224, 1, 3)
ROWS = 8


def inputs(model: Any, data: Any) -> Any:
    """Return inputs for ``model``: those in ``data``, or random ones.

    Raises
    ------
    DataError
        If ``data`` does not fit the model, or no random inputs do.
    """
    if data is None:
        return _random(model)
    x = data[0] if isinstance(data, tuple) else data
    given, wanted = tree.flatten(x), inlinable(model).inputs
    if len(given) != len(wanted):
        raise DataError(f"data holds {len(given)} inputs, but {model.name!r} takes {len(wanted)}.")
    for part, tensor in zip(given, wanted, strict=True):
        shape = tuple(getattr(part, "shape", ()))
        if not _fits(shape, tuple(tensor.shape)):
            raise DataError(
                f"data has inputs of shape {shape}, but {model.name!r} takes {tuple(tensor.shape)}; "
                "give an array with one row a sample, or a list or dict of them, as the model takes."
            )
    return x


def _fits(shape: Shape, wanted: Shape) -> bool:
    if not shape or shape[0] == 0 or len(shape) not in (len(wanted), len(wanted) - 1):
        return False
    # Keras adds a last axis of length 1 by itself.
    shape = shape if len(shape) == len(wanted) else (*shape, 1)
    return all(b in (None, a) for a, b in zip(shape[1:], wanted[1:], strict=True))


def _random(model: Any) -> Any:
    function = inlinable(model)
    if any(tensor.dtype == "string" for tensor in function.inputs):
        raise DataError(f"{model.name!r} takes text; give data to compare on.")
    if not any(None in tensor.shape[1:] for tensor in function.inputs):
        return _drawn(function, 1)
    reason = ""
    for length in LENGTHS:
        x = _drawn(function, length)
        try:
            model(x, training=False)
        except Exception as error:  # backends raise many kinds for a length that does not work
            reason = reason or next(iter(str(error).strip().splitlines()), type(error).__name__)
        else:
            return x
    raise DataError(f"No random input works for {model.name!r}; give data to compare on. ({reason:.200})")


def _drawn(function: Any, length: int) -> Any:
    rng = np.random.default_rng(0)
    return tree.map_structure(lambda t: _draw(t, rng, length), function._inputs_struct)


def _draw(tensor: Any, rng: np.random.Generator, length: int) -> NDArray[Any]:
    shape = (tensor.shape[0] or ROWS, *(n or length for n in tensor.shape[1:]))
    if keras.backend.is_float_dtype(tensor.dtype):
        return np.asarray(ops.convert_to_numpy(ops.cast(rng.normal(size=shape), tensor.dtype)))
    # Images come as uint8; any other integer may be an index, and 0 and 1 are in every vocabulary.
    return rng.integers(0, 256 if tensor.dtype == "uint8" else 2, shape).astype(tensor.dtype)


def compare(model: Any, smaller: Any, x: Any) -> float:
    """Return the largest difference of the two models' outputs on ``x``, relative to the largest entry.

    For each output that is max |a - b| / max |a|, in inference mode; the largest of these is returned.

    Raises
    ------
    ModelError
        If it is larger than what rounding explains.
    """
    differences: dict[int, float] = {}
    sizes: dict[int, float] = {}
    for part, _, _ in batches(x):
        outputs = zip(*(tree.flatten(m(part, training=False)) for m in (model, smaller)), strict=True)
        for i, pair in enumerate(outputs):
            a, b = (np.asarray(ops.convert_to_numpy(t), np.float64) for t in pair)
            differences[i] = max(differences.get(i, 0.0), _difference(a, b))
            sizes[i] = max(sizes.get(i, 0.0), float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a))))
    worst = max(d / sizes[i] if d and sizes[i] else d for i, d in differences.items())
    allowed = _allowed(model)
    if not worst <= allowed:
        raise ModelError(
            f"The smaller model's outputs differ from those of {model.name!r} by {worst:.1e} of their size, "
            f"where rounding explains {allowed:.0e}; {model.name!r} is as it was. This should not happen: "
            "please report it."
        )
    return worst


def _difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return max |a - b|; a NaN or infinity differs from all but its like."""
    if a.shape != b.shape:
        return np.inf
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.abs(a - b))
    return float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0))


def _allowed(model: Any) -> float:
    layers = (layer for layer in model._flatten_layers() if not isinstance(layer, keras.Model))
    dtypes = {layer.compute_dtype for layer in layers if layer.weights}
    halves = {"float16": 2.0**-10, "bfloat16": 2.0**-7}
    return max([TOLERANCE, *(ROUNDINGS * halves[d] for d in dtypes if d in halves)])
