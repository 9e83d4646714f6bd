"""The graph of a model, nested models inlined: every call of every layer, in order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import tree
from keras.src.models.functional import Functional

from shrinkage.compact.ties import Slots, Ties
from shrinkage.recipe.flow import graph

Shape = tuple[int | None, ...]


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the inlined graph.

    ``slots`` are the numbers of its channels, the indices of its last axis; none where that axis is the
    batch, or its length is not known.
    """

    shape: Shape
    slots: Slots


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or a bare operation.

    ``reason`` says why this call keeps the layer whole whatever its type, and is empty otherwise.
    """

    path: str
    node: Any
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    reason: str

    @property
    def operation(self) -> Any:
        """The layer, or bare operation, that is called."""
        return self.node.operation

    @property
    def dtype(self) -> str:
        """The dtype of what comes out."""
        return str(self.node.outputs[0].dtype)


class Graph:
    """The calls of a model, from its inputs to its outputs.

    Attributes
    ----------
    calls
        Every call, after the calls that it reads from. A nested model's come once for each of its calls.
    inputs, outputs
        The model's own.
    entries
        For each input layer, nested models' included, the tensors that enter through it.
    fixed
        Further tensors whose channels must stay.
    """

    def __init__(self, model: Any, shapes: Sequence[Shape] | None = None) -> None:
        function = inlinable(model)
        self.ties = Ties()
        self.calls: list[Call] = []
        self.entries: list[tuple[Any, Tensor]] = []
        self.fixed: list[Tensor] = []
        self.inputs = self._tensors(shapes or [t.shape for t in function.inputs])
        self.outputs = self._enter(function, self.inputs, "", "")

    def _tensors(self, shapes: Iterable[Shape]) -> tuple[Tensor, ...]:
        found = []
        for shape in shapes:
            channels = shape[-1] if len(shape) > 1 else None
            found.append(Tensor(tuple(shape), self.ties.number(channels or 0)))
        return tuple(found)

    def _enter(
        self, function: Any, tensors: tuple[Tensor, ...], prefix: str, reason: str
    ) -> tuple[Tensor, ...]:
        at: dict[int, Tensor] = {}
        for inside, tensor in zip(function.inputs, tensors, strict=True):
            at[id(inside)] = tensor
            self.entries.append((inside._keras_history.operation, tensor))
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                if not node.is_input and all(id(t) in at for t in node.input_tensors):
                    inputs = tuple(at[id(t)] for t in node.input_tensors)
                    outputs = self._call(node, inputs, prefix, reason)
                    at.update(zip(map(id, node.outputs), outputs, strict=True))
        return tuple(at[id(t)] for t in function.outputs)

    def _call(self, node: Any, inputs: tuple[Tensor, ...], prefix: str, reason: str) -> tuple[Tensor, ...]:
        path = prefix + node.operation.name
        reason = reason or _unusual(node)
        inner = inlinable(node.operation)
        if inner is not None:
            if _fits(node, inner):
                return self._enter(inner, inputs, f"{path}/", reason)
            # Its layers may be called from elsewhere too: entered by itself, it keeps them whole there.
            reason = reason or "its model's inputs are rearranged or converted on the way in"
            own = self._tensors(t.shape for t in inner.inputs)
            self.fixed += [*own, *self._enter(inner, own, f"{path}/", reason)]
        outputs = self._tensors(_shapes(node, inputs))
        self.calls.append(Call(path, node, inputs, outputs, reason))
        return outputs


def inlinable(model: Any) -> Any:
    """Return the graph of a Functional or Sequential model; None for all else, their subclasses included."""
    return graph(model) if type(model) in (keras.Sequential, Functional) else None


def _unusual(node: Any) -> str:
    """Return what about a call's arguments may change what the layer does, or an empty text."""
    for name, value in node.arguments.kwargs.items():
        tensors = [isinstance(part, keras.KerasTensor) for part in tree.flatten(value)]
        harmless = value is None or (name == "training" and value is False)
        if not harmless and not any(tensors):
            return f"it is called with {name}={value!r}"
    return ""


def _fits(node: Any, inner: Any) -> bool:
    """Return whether a nested model takes its inputs as they come."""
    given, taken = node.input_tensors, inner.inputs
    if len(given) != len(taken) or len(node.arguments.args) != 1:
        return False
    if len(given) > 1:
        try:
            tree.assert_same_structure(
                tree.lists_to_tuples(node.arguments.args[0]), tree.lists_to_tuples(inner._inputs_struct)
            )
        except ValueError:
            return False
    return all(
        b.shape[-1] in (None, a.shape[-1]) and (a.dtype == b.dtype or _are_floats(a.dtype, b.dtype))
        for a, b in zip(given, taken, strict=True)
    )


def _are_floats(*dtypes: str) -> bool:
    return all(keras.backend.is_float_dtype(dtype) for dtype in dtypes)


def _shapes(node: Any, inputs: tuple[Tensor, ...]) -> list[Shape]:
    """Return the shapes that come out: as recorded, or worked out anew where others than those go in."""
    recorded = node.input_tensors
    if all(tensor.shape == tuple(t.shape) for tensor, t in zip(inputs, recorded, strict=True)):
        return [tuple(t.shape) for t in node.outputs]
    stand_ins = {
        id(t): keras.KerasTensor(tensor.shape, t.dtype) for tensor, t in zip(inputs, recorded, strict=True)
    }
    arguments, options = node.arguments.fill_in(stand_ins)
    return [tuple(t.shape) for t in tree.flatten(node.operation.compute_output_spec(*arguments, **options))]
