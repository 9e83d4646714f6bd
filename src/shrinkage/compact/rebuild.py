"""A smaller model of the same structure and names: new layers from edited configs, weights cut and folded."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from shrinkage.compact.cut import Cut
from shrinkage.compact.graph import inlinable
from shrinkage.compact.handlers import Numbers, values
from shrinkage.compact.ties import Slots
from shrinkage.errors import ModelError
from shrinkage.penalties import LiveStrength


@dataclass(frozen=True, eq=False)
class Moved:
    """A weight of the original and the one that it became.

    ``kept`` holds the indices that stay along each axis (None: all), ``shift`` what was folded into a
    bias. ``old`` is None for a bias that was not there before.
    """

    old: Any
    new: Any
    kept: tuple[Slots | None, ...] = ()
    shift: Numbers | None = None

    @property
    def is_cut(self) -> bool:
        """Whether anything is missing."""
        return any(indices is not None for indices in self.kept)

    def cut(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array of the old weight's shape, cut to the new one's."""
        for axis, indices in enumerate(self.kept):
            if indices is not None:
                array = array.take(indices, axis)
        return array

    def shifted(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return an array of the new weight's shape with what was folded added to it."""
        return array if self.shift is None else (array.astype(np.float64) + self.shift).astype(array.dtype)


class Rebuild:
    """The smaller model, its weights in place; not compiled, and without penalties.

    Attributes
    ----------
    model
        The new model.
    moved
        Where every weight and every other state of a layer went.
    added
        Paths of the layers that have a bias now, and had none.
    """

    def __init__(self, model: Any, cut: Cut) -> None:
        self._cut = cut
        self._shifts = cut.shifts()
        self._made: dict[int, tuple[Any, Any]] = {}
        self.moved: list[Moved] = []
        self.added: list[str] = []
        self.model = self._model(model)
        for old, new in self._made.values():
            if isinstance(old, keras.Layer) and inlinable(old) is None:
                self._move(old, new)
                for key in _initializers(vars(old)):
                    setattr(new, key, getattr(old, key))
        self._restore_flags((model, self.model))

    # --- layers ---------------------------------------------------------------------------------------------

    def _model(self, model: Any) -> Any:
        if type(model) is keras.Sequential:
            return keras.Sequential([self._made_from(layer) for layer in model._layers], name=model.name)
        function = inlinable(model)
        inputs = tree.map_structure(
            lambda t: self._made_from(t._keras_history.operation).output, function._inputs_struct
        )
        outputs = function._run_through_graph(inputs, operation_fn=self._made_from)
        return keras.Model(inputs, outputs, name=model.name)

    def _made_from(self, operation: Any) -> Any:
        """Return the new layer, nested model or bare operation for an old one; one for all its calls."""
        if id(operation) not in self._made:
            make = self._operation if inlinable(operation) is None else self._model
            self._made[id(operation)] = operation, make(operation)
        return self._made[id(operation)][1]

    def _operation(self, operation: Any) -> Any:
        if not isinstance(operation, keras.Layer):
            duplicate = copy.copy(operation)
            duplicate._inbound_nodes, duplicate._outbound_nodes = [], []
            return duplicate
        try:
            if type(operation) is keras.layers.Lambda:
                return _lambda(operation)
            layer = type(operation).from_config(self._config(operation))
        except Exception as error:  # whatever a user's own layer raises
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ModelError(
                f"The layer {operation.name!r} ({type(operation).__name__}) can't be made anew from its "
                f"config: {reason:.200}"
            ) from error
        return layer

    def _config(self, layer: Any) -> dict[str, Any]:
        config = dict(layer.get_config())
        if type(layer).__module__.startswith("keras."):
            config.update({key: _part(layer, key, value) for key, value in config.items()})
        counts = self._cut.counts(layer)
        if isinstance(layer, keras.layers.InputLayer):
            if "out" in counts:
                config["batch_shape"] = (*layer.batch_shape[:-1], counts["out"])
            return config
        handler = self._cut.handlers.get(id(layer))
        if handler is not None:
            config.update(handler.config(counts))
            config.update(dict.fromkeys(_initializers(config), _blank))
        if id(layer) in self._shifts:
            config["use_bias"] = True
        return config

    # --- weights --------------------------------------------------------------------------------------------

    def _move(self, old: Any, new: Any) -> None:
        done = _strengths(old)
        for moved in self._cut_weights(old, new):
            self._place(moved)
            done |= {id(moved.old), id(moved.new)}
        rest = [[v for v in layer.variables if id(v) not in done] for layer in (old, new)]
        if [tuple(v.shape) for v in rest[0]] != [tuple(v.shape) for v in rest[1]]:
            raise ModelError(f"The layer {old.name!r} ({type(old).__name__}), made anew, has other weights.")
        for variable, twin in zip(*rest, strict=True):
            self._place(Moved(variable, twin))
        if isinstance(new, keras.layers.Normalization):
            new.finalize_state()

    def _cut_weights(self, old: Any, new: Any) -> Iterator[Moved]:
        """Yield the weights along whose axes channels may have gone."""
        handler = self._cut.handlers.get(id(old))
        # A layer that is whole in all its calls may hold its weights in other forms, quantized or low-rank.
        if handler is None or not self._cut.counts(old):
            return
        before, after = handler.weights(), type(handler)(new).weights()
        shift = self._shifts.get(id(old))
        for name, (variable, roles) in before.items():
            kept = tuple(None if role is None else self._cut.kept(old, role) for role in roles)
            yield Moved(variable, after[name][0], kept, shift if name == "bias" else None)
        if after.keys() - before.keys():
            self.added.append(old.name)
            yield Moved(None, after["bias"][0], (), shift)

    def _place(self, moved: Moved) -> None:
        empty = np.zeros(moved.new.shape, moved.new.dtype)
        moved.new.assign(moved.shifted(empty if moved.old is None else moved.cut(values(moved.old))))
        self.moved.append(moved)

    def _restore_flags(self, root: tuple[Any, Any]) -> None:
        """Set what is trainable: models first, from the outermost in, since each sets it for all within."""
        made = reversed(self._made.values())
        pairs = [root, *(pair for pair in made if isinstance(pair[0], keras.Layer))]
        for old, new in sorted(pairs, key=lambda pair: inlinable(pair[0]) is None):
            parts = zip(old._flatten_layers(), new._flatten_layers(), strict=True)
            for before, after in [(old, new)] if inlinable(old) is not None else parts:
                if before.trainable != after.trainable:
                    after.trainable = before.trainable
        for moved in self.moved:
            if moved.old is not None and moved.old.trainable != moved.new.trainable:
                moved.new.trainable = moved.old.trainable


def _lambda(layer: Any) -> Any:
    """Return a Lambda layer again, with the same function: from a config Keras would load none."""
    return keras.layers.Lambda(
        layer.function,
        layer._output_shape,
        layer.mask,
        layer.arguments,
        name=layer.name,
        dtype=layer.dtype_policy,
    )


def _part(layer: Any, key: str, value: Any) -> Any:
    """Return an entry of a config: the object itself where it has no state, as a user's may be unregistered.

    Penalties are left out; those that can stay are put in force later.
    """
    if key.endswith("_regularizer"):
        return None
    part = getattr(layer, key, value)
    if key.endswith(("_initializer", "_constraint")) or (key == "activation" and inspect.isfunction(part)):
        return part
    return value


def _initializers(config: Mapping[str, Any]) -> list[str]:
    return [key for key in config if key.endswith("_initializer")]


def _blank(shape: tuple[int, ...], dtype: Any = None) -> NDArray[Any]:
    """Return zeros for a weight whose value comes later: drawing a large kernel takes time."""
    return np.zeros(shape, dtype)


def _strengths(layer: Any) -> set[int]:
    """Return the ids of the states that hold the strengths of penalties."""
    parts = layer._flatten_layers()
    return {id(g.state) for part in parts for g in part._seed_generators if isinstance(g, LiveStrength)}
