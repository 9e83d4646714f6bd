"""Where a layer's output goes: the graph of a Functional or Sequential model, nested models included."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

#: Keras's layers that commute with a positive factor: f(c·x) = c·f(x) for c > 0.
_COMMUTE = re.compile(
    r"(Global|Adaptive)?(Max|Average)Pooling[123]D|(ZeroPadding|Cropping|UpSampling|SpatialDropout)[123]D"
    r"|(Gaussian)?Dropout|Flatten|Reshape|Permute|RepeatVector|Identity|ReLU|LeakyReLU|PReLU|Activation"
)
_HOMOGENEOUS = (keras.activations.linear, keras.activations.relu, keras.activations.leaky_relu)

#: Keras's layers that give the same output for c·x as for x, c > 0 (up to their epsilon).
_NORMALIZE = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.RMSNormalization,
    keras.layers.UnitNormalization,
)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer (or another operation) in a model's graph.

    ``inference`` says that it, or a model around it, is called with ``training=False`` always.
    """

    node: Any
    inference: bool

    @property
    def operation(self) -> Any:
        """The layer, or other operation, that is called."""
        return self.node.operation


class Flow:
    """What reads each layer's output; empty for subclassed models, which have no graph."""

    def __init__(self, model: Any) -> None:
        self.calls: dict[int, list[Call]] = defaultdict(list)
        self._readers: dict[int, list[Call]] = defaultdict(list)
        self._same: dict[int, list[Any]] = defaultdict(list)
        self._inference: dict[int, bool] = {}
        root = graph(model)
        self._ends = {id(t) for t in root.outputs} if root is not None else set()
        if root is not None:
            self._enter(root, inference=False)

    def _enter(self, model_graph: Any, inference: bool) -> None:
        for node in (n for nodes in model_graph._nodes_by_depth.values() for n in nodes):
            call = Call(node, inference or node.arguments.kwargs.get("training") is False)
            self.calls[id(node.operation)].append(call)
            inner = graph(node.operation)
            if inner is None or len(inner.inputs) != len(node.input_tensors):
                for tensor in node.input_tensors:
                    self._readers[id(tensor)].append(call)
                continue
            for outside, inside in zip(node.input_tensors, inner.inputs, strict=True):
                self._same[id(outside)].append(inside)
            for inside, outside in zip(inner.outputs, node.output_tensors, strict=True):
                self._same[id(inside)].append(outside)
            self._enter(inner, call.inference)

    def readers(self, tensor: Any) -> Iterator[Call | None]:
        """Yield each call that reads a tensor; None where it is an output of the whole model."""
        if id(tensor) in self._ends:
            yield None
        yield from self._readers[id(tensor)]
        for other in self._same[id(tensor)]:
            yield from self.readers(other)

    def after(self, layer: Any) -> list[Call | None]:
        """Return every reader of the layer's output, over all its calls."""
        return [reader for call in self.calls[id(layer)] for reader in self._onward(call)]

    def is_normalized(self, layer: Any) -> bool:
        """Return whether nothing but normalizations see the layer's output.

        Between the two may stand what commutes with a positive factor: pooling, ``relu``, dropout,
        padding, reshaping. Then a positive factor on the output changes nothing that follows. A
        BatchNormalization that is frozen, or called with ``training=False``, normalizes by constants, so
        it does not count.
        """
        return bool(self.calls[id(layer)]) and self._all_normalize(self.after(layer))

    def _all_normalize(self, readers: list[Call | None]) -> bool:
        return bool(readers) and all(reader is not None and self._normalizes(reader) for reader in readers)

    def _normalizes(self, call: Call) -> bool:
        if is_normalization(call):
            return True
        return commutes(call.operation) and self._all_normalize(self._onward(call))

    def _onward(self, call: Call) -> list[Call | None]:
        return [reader for tensor in call.node.output_tensors for reader in self.readers(tensor)]


def graph(model: Any) -> Any:
    """Return the graph of a Functional or Sequential model; None for anything else."""
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)
    return model if isinstance(model, keras.Function) and isinstance(model, keras.Model) else None


def is_normalization(call: Call) -> bool:
    """Return whether this call normalizes its input by the input's own statistics."""
    layer = call.operation
    if isinstance(layer, keras.layers.BatchNormalization):
        return layer.trainable and not call.inference
    return isinstance(layer, _NORMALIZE)


def commutes(layer: Any) -> bool:
    """Return whether f(c·x) = c·f(x) for every c > 0."""
    if not (type(layer).__module__.startswith("keras.") and _COMMUTE.fullmatch(type(layer).__name__)):
        return False
    if getattr(layer, "max_value", None) is not None or bool(getattr(layer, "threshold", None)):
        return False  # a ReLU that is bent elsewhere than at 0
    return is_homogeneous(getattr(layer, "activation", None))


def is_homogeneous(activation: Any) -> bool:
    """Return whether σ(c·z) = c·σ(z) for every c > 0; so are linear, relu and leaky_relu."""
    return activation is None or activation in _HOMOGENEOUS or commutes(activation)
