"""How layers treat channels: the interface, and the layers that pass each channel on by itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from shrinkage.compact.graph import Call
from shrinkage.compact.ties import Ties

Numbers = NDArray[np.float64]
#: For each axis of a weight the layer's axis that it runs along, or None.
Roles = tuple[str | None, ...]


class Handler:
    """How one layer treats the channels of what passes through it.

    This base is for a layer that makes each channel of its output from the same channel of its input,
    and passes constants on as they are. One object serves all calls of a layer; it reads the weights that
    the layer has now. "Constants" are arrays of float64 with one entry a channel, NaN where the channel
    is not constant.
    """

    def __init__(self, layer: Any) -> None:
        self.layer = layer

    def refusal(self, call: Call) -> str:
        """Return why this call keeps the layer whole, or an empty text."""
        return "" if len(call.inputs) == 1 else "it is called on several tensors"

    def mixes(self, call: Call) -> str:
        """Return why the channels of the output depend on one another, so that all stay, or an empty text."""
        return ""

    def connect(self, call: Call, ties: Ties) -> None:
        """Tie what must stay or go together."""
        ties.tie(call.inputs[0].slots, call.outputs[0].slots)

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Return the constants of the output for those of the inputs, in inference mode."""
        return known[0]

    def weights(self) -> dict[str, tuple[Any, Roles]]:
        """Return the weights that can shrink, by name, with the axes that they run along."""
        return {}

    def config(self, kept: Mapping[str, int]) -> dict[str, Any]:
        """Return the changes to the layer's config where ``kept`` channels stay along its axes."""
        return {}

    def macs(self, call: Call) -> int:
        """Return the multiply-accumulates of this call, for one sample."""
        return 0


def values(variable: Any) -> NDArray[Any]:
    """Return a weight as an array."""
    return np.asarray(ops.convert_to_numpy(variable))


def applied(function: Callable[[Any], Any] | None, known: Numbers, dtype: str) -> Numbers:
    """Return an elementwise function of constants, computed by Keras itself."""
    constant = np.isfinite(known)
    if function is None or not constant.any():
        return known
    result = ops.convert_to_numpy(function(ops.convert_to_tensor(np.where(constant, known, 0.0), dtype)))
    return np.where(constant, np.asarray(result, np.float64), np.nan)


_functions = keras.activations
_ELEMENTWISE = (
    *(_functions.linear, _functions.relu, _functions.relu6, _functions.leaky_relu, _functions.elu),
    *(_functions.selu, _functions.celu, _functions.gelu, _functions.silu, _functions.mish),
    *(_functions.sigmoid, _functions.log_sigmoid, _functions.hard_sigmoid, _functions.hard_silu),
    *(_functions.tanh, _functions.hard_tanh, _functions.tanh_shrink, _functions.hard_shrink),
    *(_functions.soft_shrink, _functions.softplus, _functions.softsign, _functions.exponential),
    *(_functions.sparse_plus, _functions.sparse_sigmoid, _functions.squareplus),
)
_COMPARING = (_functions.softmax, _functions.log_softmax, _functions.sparsemax, _functions.glu)
#: Layers without weights that may stand in for an activation function.
_AS_FUNCTION = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)


def activation_mixes(activation: Any) -> str:
    """Return why an activation may mix the channels, or an empty text if it works on each by itself."""
    known = any(activation is function for function in _ELEMENTWISE)
    if activation is None or known or type(activation) in _AS_FUNCTION:
        return ""
    name = getattr(activation, "__name__", type(activation).__name__)
    compares = any(activation is function for function in _COMPARING)
    return f"its activation, {name}, " + ("compares its channels" if compares else "is not known here")


def activation_has_weights(activation: Any) -> str:
    """Return why a layer with this activation stays whole, or an empty text."""
    is_layer = isinstance(activation, keras.Layer) and type(activation) not in _AS_FUNCTION
    return "its activation is a layer" if is_layer else ""


class Elementwise(Handler):
    """A layer, or bare operation, that is one function of each entry."""

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Apply the function."""
        return applied(self.layer.call, known[0], call.dtype)


class Activation(Handler):
    """The layer that applies an activation function."""

    def refusal(self, call: Call) -> str:
        """Refuse an activation with weights of its own."""
        return super().refusal(call) or activation_has_weights(self.layer.activation)

    def mixes(self, call: Call) -> str:
        """Return what the activation compares."""
        return activation_mixes(self.layer.activation)

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Apply the activation."""
        return applied(self.layer.activation, known[0], call.dtype)


class PReLU(Handler):
    """x where x > 0, alpha · x elsewhere; alpha may differ by place and by channel."""

    def _is_by_channel(self) -> bool:
        shared = self.layer.shared_axes or []
        return len(self.layer.alpha.shape) not in shared

    def connect(self, call: Call, ties: Ties) -> None:
        """Tie alpha's last axis to the channels, if it has one value for each."""
        super().connect(call, ties)
        if self._is_by_channel():
            ties.tie(call.inputs[0].slots, ties.axis(self.layer, "in", len(call.inputs[0].slots)))

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Keep a negative constant where alpha is the same in every place."""
        alpha = values(self.layer.alpha).astype(np.float64)
        alpha = alpha.reshape(-1, alpha.shape[-1])
        slope = np.where((alpha == alpha[0]).all(axis=0), alpha[0], np.nan)
        return np.where(known[0] >= 0, known[0], slope * known[0])

    def weights(self) -> dict[str, tuple[Any, Roles]]:
        """Return alpha."""
        alpha = self.layer.alpha
        last = "in" if self._is_by_channel() else None
        return {"alpha": (alpha, (None,) * (len(alpha.shape) - 1) + (last,))}


class Dropout(Handler):
    """Identity at inference; a noise shape may name the number of channels."""

    def refusal(self, call: Call) -> str:
        """Refuse a noise shape with a number of channels: training would fail."""
        shape = getattr(self.layer, "noise_shape", None)
        named = shape is not None and shape[-1] not in (None, 1)
        return super().refusal(call) or ("its noise_shape names the number of channels" if named else "")


class ZeroPadding(Handler):
    """Adds a border of zeros."""

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Keep zeros."""
        return np.where(known[0] == 0, 0.0, np.nan)


class Permute(Handler):
    """Exchanges axes."""

    def refusal(self, call: Call) -> str:
        """Refuse to follow channels to another axis."""
        moves = self.layer.dims[-1] != len(self.layer.dims)
        return super().refusal(call) or ("it moves the axis of its channels" if moves else "")


class Rescaling(Handler):
    """scale · x + offset."""

    def refusal(self, call: Call) -> str:
        """Refuse arrays."""
        several = np.ndim(self.layer.scale) or np.ndim(self.layer.offset)
        return super().refusal(call) or ("its scale differs from channel to channel" if several else "")

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Rescale them."""
        return np.asarray(float(self.layer.scale) * known[0] + float(self.layer.offset))


class BatchNormalization(Handler):
    """gamma · (x - mean) / sqrt(variance + epsilon) + beta, by the moving statistics."""

    def refusal(self, call: Call) -> str:
        """Refuse another axis."""
        elsewhere = self.layer.axis not in (-1, len(call.inputs[0].shape) - 1)
        return super().refusal(call) or ("its axis is not the last one" if elsewhere else "")

    def connect(self, call: Call, ties: Ties) -> None:
        """Tie the weights to the channels."""
        super().connect(call, ties)
        ties.tie(call.inputs[0].slots, ties.axis(self.layer, "in", len(call.inputs[0].slots)))

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Normalize them; where gamma is zero, beta is all that comes out."""
        layer = self.layer
        mean, variance = (values(v).astype(np.float64) for v in (layer.moving_mean, layer.moving_variance))
        gamma = values(layer.gamma).astype(np.float64) if layer.scale else np.ones_like(mean)
        beta = values(layer.beta).astype(np.float64) if layer.center else np.zeros_like(mean)
        scaled = gamma * (known[0] - mean) / np.sqrt(variance + layer.epsilon)
        return np.where(gamma == 0, beta, scaled + beta)

    def weights(self) -> dict[str, tuple[Any, Roles]]:
        """Return all weights: each has one entry a channel."""
        return {v.name: (v, ("in",)) for v in self.layer.weights}


class Normalizing(Handler):
    """Softmax and LayerNormalization: along axes that hold the channels they mix, along others they don't."""

    def mixes(self, call: Call) -> str:
        """Return whether the channels are among the axes."""
        axes = self.layer.axis if isinstance(self.layer.axis, list | tuple) else [self.layer.axis]
        rank = len(call.inputs[0].shape)
        over = any(axis % rank == rank - 1 for axis in axes)
        return "it normalizes over its channels" if over else ""

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Return none: they depend on the length of the other axis."""
        return np.full_like(known[0], np.nan)


class Reshape(Handler):
    """Flatten and Reshape.

    Element e of a sample is in channel e mod C before and e mod C' after, so that channels with the same
    index modulo gcd(C, C') stay or go together; if they go, C and C' shrink in proportion.
    """

    def connect(self, call: Call, ties: Ties) -> None:
        """Tie channels that share elements."""
        before, after = call.inputs[0].slots, call.outputs[0].slots
        step = math.gcd(len(before), len(after))
        for slots in (before, after):
            ties.tie(slots, before[np.arange(len(slots)) % step])
        if self._names_channels():
            ties.tie(after, ties.axis(self.layer, "out", len(after)))

    def _names_channels(self) -> bool:
        shape = getattr(self.layer, "target_shape", None)
        return shape is not None and shape[-1] != -1

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Keep what is the same in all channels that an output channel is made of."""
        after = len(call.outputs[0].slots)
        step = math.gcd(len(known[0]), after)
        rows = known[0].reshape(-1, step)
        return np.tile(np.where((rows == rows[0]).all(axis=0), rows[0], np.nan), after // step)

    def config(self, kept: Mapping[str, int]) -> dict[str, Any]:
        """Return the new last entry of the target shape, unless it is found from the rest."""
        return {"target_shape": (*self.layer.target_shape[:-1], kept["out"])} if "out" in kept else {}
