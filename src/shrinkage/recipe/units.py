"""Units: the weights that make one output of a layer, charged together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from shrinkage.penalties.prox import accumulating
from shrinkage.recipe.flow import Flow
from shrinkage.recipe.select import Weight

#: As a target: what a unit receives, its bias, and scale and shift of the BatchNormalization behind it.
UNIT = "unit"

_layers = keras.layers
_TRANSPOSED = (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose)
_DEPTHWISE = (_layers.DepthwiseConv1D, _layers.DepthwiseConv2D)
_SEPARABLE = (_layers.SeparableConv1D, _layers.SeparableConv2D)
_PLAIN = (_layers.Dense, _layers.Conv1D, _layers.Conv2D, _layers.Conv3D)
#: The layers that have units, and the weight that holds what a unit receives.
_KERNELS = {
    **dict.fromkeys((*_PLAIN, *_TRANSPOSED, *_DEPTHWISE), "kernel"),
    **dict.fromkeys(_SEPARABLE, "pointwise_kernel"),
}


@dataclass(frozen=True)
class Unit:
    """Weights whose units correspond, and where each has its units.

    ``layouts`` says of each variable which axis counts units: the ``last``, the last but one
    (``transposed``), or both together (``depthwise``).
    """

    name: str
    variables: tuple[Any, ...]
    layouts: tuple[str, ...]

    def gathered(self, values: Iterable[Any]) -> Any:
        """Return arrays of the variables' shapes (or scalars) as one matrix: entries of a unit × units."""
        rows = [
            self._rows(a, v, layout)
            for a, v, layout in zip(values, self.variables, self.layouts, strict=True)
        ]
        return ops.concatenate(rows, axis=0) if len(rows) > 1 else rows[0]

    def split(self, matrix: Any) -> list[Any]:
        """Return the matrix as arrays of the variables' shapes and dtypes; undoes :meth:`gathered`."""
        found, start = [], 0
        for variable, layout in zip(self.variables, self.layouts, strict=True):
            shape = tuple(variable.shape)
            if layout == "transposed":
                shape = (*shape[:-2], shape[-1], shape[-2])
            units = shape[-1] * (shape[-2] if layout == "depthwise" else 1)
            count = math.prod(shape) // units
            part = ops.reshape(matrix[start : start + count], shape)
            start += count
            part = ops.swapaxes(part, -1, -2) if layout == "transposed" else part
            found.append(ops.cast(part, variable.dtype))
        return found

    def _rows(self, value: Any, variable: Any, layout: str) -> Any:
        value = ops.broadcast_to(accumulating(value), tuple(variable.shape))
        if layout == "transposed":
            value = ops.swapaxes(value, -1, -2)
        units = value.shape[-1] * (value.shape[-2] if layout == "depthwise" else 1)
        return ops.reshape(value, (-1, units))


class Coupled(keras.Regularizer):  # type: ignore[misc]  # Keras has no type information
    """Charges a penalty on the weights of a unit together; the first of them holds it.

    Parameters
    ----------
    penalty
        Charged on the matrix of entries × units.
    unit
        The weights.
    """

    def __init__(self, penalty: Any, unit: Unit) -> None:
        self.penalty, self.unit = penalty, unit

    def __call__(self, w: Any) -> Any:
        """Return the charge; ``w`` is the first weight, as the step that is running sees it."""
        others = (v.value for v in self.unit.variables[1:])
        return self.penalty(self.unit.gathered([w, *others]))

    def get_config(self) -> dict[str, Any]:
        """Return nothing: what is charged together is no layer's to save."""
        return {}


class Sum(keras.Regularizer):  # type: ignore[misc]  # Keras has no type information
    """Charges several penalties on one weight, as the lanes of one program have them: all but one are 0.

    Parameters
    ----------
    parts
        Penalties, or units of which the weight holds the charge.
    """

    def __init__(self, parts: Sequence[Any]) -> None:
        self.parts = tuple(parts)

    def __call__(self, w: Any) -> Any:
        """Return the sum of the charges."""
        return sum(part(w) for part in self.parts)


def layout(weight: Weight) -> str:
    """Return where a weight has its units; see :class:`Unit`."""
    if weight.role.endswith("kernel"):
        if isinstance(weight.site.layer, _TRANSPOSED):
            return "transposed"
        # Of a separable layer the units are the pointwise kernel's; a depthwise one has a unit a map.
        if isinstance(weight.site.layer, _DEPTHWISE) or weight.role == "depthwise_kernel":
            return "depthwise"
    return "last"


def coupling(name: str, charged: Sequence[Weight], unitwise: bool) -> Unit | None:
    """Return the unit that these weights make; None for one weight that a penalty can read as it stands."""
    layouts = tuple(map(layout, charged))
    if len(charged) == 1 and (not unitwise or layouts == ("last",)):
        return None
    return Unit(name, tuple(w.variable for w in charged), layouts)


def has_units(layer: Any) -> bool:
    """Return whether a layer has units: a kernel each of whose outputs has weights of its own."""
    return isinstance(layer, tuple(_KERNELS))


def members(site: Any, everything: Sequence[Weight], flow: Flow) -> list[Weight]:
    """Return the weights of a layer's units, the kernel first; none if it has no units.

    The scale and shift of a BatchNormalization belong to them if it reads the layer's output and nothing
    else, and nothing else does.
    """
    layer = site.layer
    kernel = next((role for cls, role in _KERNELS.items() if isinstance(layer, cls)), None)
    own = {w.role: w for w in everything if w.site.layer is layer}
    if kernel is None or kernel not in own or not own[kernel].variable.trainable:
        return []
    found = [own[kernel], *(own[role] for role in ("bias",) if role in own)]
    norm = _normalization(layer, flow)
    if norm is not None:
        found += [w for w in everything if w.site.layer is norm and w.role in ("gamma", "beta")]
    return [w for w in found if w.variable.trainable]


def _normalization(layer: Any, flow: Flow) -> Any:
    readers = flow.after(layer)
    if len(readers) != 1 or readers[0] is None or len(flow.calls[id(layer)]) != 1:
        return None
    reader = readers[0].operation
    is_norm = isinstance(reader, keras.layers.BatchNormalization) and len(flow.calls[id(reader)]) == 1
    return (
        reader if is_norm and reader.axis in (-1, len(readers[0].node.output_tensors[0].shape) - 1) else None
    )
