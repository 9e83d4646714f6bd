"""Layers and bare operations that put several tensors together, channel by channel."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any

import keras
import numpy as np
from keras import tree
from keras.src.ops import numpy as bare

from shrinkage.compact.graph import Call
from shrinkage.compact.handlers import Handler, Numbers
from shrinkage.compact.ties import Ties


def _multiply(a: Numbers, b: Numbers) -> Numbers:
    return np.where((a == 0) | (b == 0), 0.0, a * b)


_layers = keras.layers
#: What each does to two constants; NaN, which is not constant, stays NaN but for a product with zero.
FUNCTIONS: dict[type, Callable[..., Any]] = {
    _layers.Add: np.add,
    _layers.Average: np.add,
    _layers.Subtract: np.subtract,
    _layers.Multiply: _multiply,
    _layers.Maximum: np.maximum,
    _layers.Minimum: np.minimum,
    bare.Add: np.add,
    bare.Subtract: np.subtract,
    bare.Multiply: _multiply,
    bare.Maximum: np.maximum,
    bare.Minimum: np.minimum,
    bare.Divide: np.true_divide,
    bare.TrueDivide: np.true_divide,
}
#: With a mask these choose between their inputs by place.
_MASKED = (_layers.Maximum, _layers.Minimum)


class Merge(Handler):
    """An elementwise operation on tensors with the same channels."""

    def refusal(self, call: Call) -> str:
        """Refuse to broadcast along channels."""
        kinds = {(len(t.shape), len(t.slots)) for t in call.inputs}
        return "" if len(kinds) == 1 else "its inputs differ in rank or in their last axis"

    def connect(self, call: Call, ties: Ties) -> None:
        """Tie all inputs to the output."""
        for tensor in call.inputs:
            ties.tie(tensor.slots, call.outputs[0].slots)

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Merge them."""
        if type(self.layer) in _MASKED and any(_has_mask(t) for t in call.node.input_tensors):
            return np.full_like(known[0], np.nan)
        merged = self._merged(known)
        return merged / len(known) if type(self.layer) is _layers.Average else merged

    def _merged(self, operands: Any) -> Numbers:
        with np.errstate(all="ignore"):
            return np.asarray(reduce(FUNCTIONS[type(self.layer)], operands), np.float64)


def _has_mask(tensor: Any) -> bool:
    return getattr(tensor, "_keras_mask", None) is not None


class Arithmetic(Merge):
    """A bare ``x + y``; one of the two may be a plain number."""

    def refusal(self, call: Call) -> str:
        """Refuse arrays."""
        plain = all(isinstance(part, keras.KerasTensor | int | float) for part in _operands(call))
        return super().refusal(call) if plain else "it takes an array"

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Merge them, and the plain number."""
        tensors = iter(known)
        operands = [next(tensors) if isinstance(x, keras.KerasTensor) else float(x) for x in _operands(call)]
        return self._merged(operands)


def _operands(call: Call) -> list[Any]:
    arguments = call.node.arguments
    return list(tree.flatten((arguments.args, arguments.kwargs)))


class Concatenate(Handler):
    """Side by side along the channels, or along another axis, where channel meets channel."""

    def refusal(self, call: Call) -> str:
        """Refuse inputs that can't be joined channel by channel."""
        sizes = {len(t.slots) for t in call.inputs}
        return "" if self._joins_channels(call) or len(sizes) == 1 else "its inputs differ in their last axis"

    def _joins_channels(self, call: Call) -> bool:
        rank = len(call.inputs[0].shape)
        return bool(self.layer.axis % rank == rank - 1)

    def connect(self, call: Call, ties: Ties) -> None:
        """Tie each channel to where it comes to lie."""
        after = call.outputs[0].slots
        if self._joins_channels(call):
            ties.tie(np.concatenate([t.slots for t in call.inputs]), after)
        else:
            for tensor in call.inputs:
                ties.tie(tensor.slots, after)

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Join them; along another axis, keep those on which all inputs agree."""
        if self._joins_channels(call):
            return np.concatenate(known)
        return np.where((np.stack(known) == known[0]).all(axis=0), known[0], np.nan)
