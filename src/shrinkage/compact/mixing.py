"""Layers with a kernel: Dense, convolutions, separable, depthwise and transposed ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.compact.graph import Call
from shrinkage.compact.handlers import (
    Handler,
    Numbers,
    Roles,
    activation_has_weights,
    activation_mixes,
    applied,
    values,
)
from shrinkage.compact.ties import Flags, Slots, Ties


class Kernel(Handler):
    """A layer with a kernel, perhaps a bias, and an activation."""

    #: Names of the weights that are multiplied with the input.
    kernels: tuple[str, ...] = ("kernel",)

    def refusal(self, call: Call) -> str:
        """Refuse what a plain kernel does not describe."""
        layer = self.layer
        if layer.quantization_mode is not None:
            return "it is quantized"
        if getattr(layer, "lora_enabled", False):
            return "it has LoRA weights"
        if getattr(layer, "groups", 1) != 1:
            return "its convolution has groups"
        return super().refusal(call) or activation_has_weights(layer.activation)

    def mixes(self, call: Call) -> str:
        """Return what the activation compares."""
        return activation_mixes(self.layer.activation)

    def activated(self, call: Call, sums: Numbers) -> Numbers:
        """Return the constants of the output for those of the sums before bias and activation."""
        bias = values(self.layer.bias).astype(np.float64) if self.layer.use_bias else 0.0
        return applied(self.layer.activation, sums + bias, call.dtype)

    def usable(self, known: Numbers) -> Flags:
        """Return which constants have the same effect everywhere: near a border only zeros have."""
        return np.asarray(np.isfinite(known) & ((known == 0) | (not self.has_borders)))

    @property
    def has_borders(self) -> bool:
        """Whether the kernel reaches over the border of its input."""
        layer = self.layer
        return getattr(layer, "padding", "valid") != "valid" and max(layer.kernel_size) > 1

    def macs(self, call: Call) -> int:
        """Return kernel entries times output places."""
        return _places(self.layer, call.outputs[0].shape) * self._multiplications()

    def _multiplications(self) -> int:
        return sum(math.prod(getattr(self.layer, name).shape) for name in self.kernels)

    def with_bias(self, weights: dict[str, tuple[Any, Roles]]) -> dict[str, tuple[Any, Roles]]:
        """Return ``weights`` and the bias, if the layer has one."""
        return {**weights, "bias": (self.layer.bias, ("out",))} if self.layer.use_bias else weights


def _places(layer: Any, shape: Any) -> int:
    """Return at how many places of a map the kernel is applied."""
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return math.prod(shape[2:] if first else shape[1:-1])


class Mixing(Kernel):
    """A layer in which every output channel hears every input channel: Dense and Conv.

    The kernel has shape (…, inputs, outputs).
    """

    #: What the config calls the number of output channels.
    units = "filters"

    @cached_property
    def matrix(self) -> NDArray[Any]:
        """The kernel, as (…, inputs, outputs)."""
        return values(self.layer.kernel)

    @cached_property
    def heard(self) -> Flags:
        """Whether an output hears an input: (inputs, outputs)."""
        return np.asarray((self.matrix != 0).any(axis=self._places))

    def sums(self, rows: Slots) -> Numbers:
        """Return what a constant 1 in each input of ``rows`` adds to the outputs: (rows, outputs)."""
        return np.asarray(self.matrix[..., rows, :].sum(axis=self._places, dtype=np.float64))

    @property
    def _places(self) -> tuple[int, ...]:
        return tuple(range(self.matrix.ndim - 2))

    def connect(self, call: Call, ties: Ties) -> None:
        """Tie inputs and outputs to the kernel's axes, and not to each other."""
        before, after = call.inputs[0].slots, call.outputs[0].slots
        ties.tie(before, ties.axis(self.layer, "in", len(before)))
        ties.tie(after, ties.axis(self.layer, "out", len(after)))

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Return the outputs that hear constants alone, all of them with the same effect everywhere."""
        usable = self.usable(known[0])
        silent = ~self.heard[~usable].any(axis=0)
        rows = np.flatnonzero(usable & (known[0] != 0))
        sums = known[0][rows] @ self.sums(rows)
        return self.activated(call, np.where(silent, sums, np.nan))

    def weights(self) -> dict[str, tuple[Any, Roles]]:
        """Return kernel and bias."""
        kernel = self.layer.kernel
        return self.with_bias({"kernel": (kernel, (None,) * (len(kernel.shape) - 2) + ("in", "out"))})

    def config(self, kept: Mapping[str, int]) -> dict[str, Any]:
        """Return the new number of units."""
        return {self.units: kept["out"]} if "out" in kept else {}


class Dense(Mixing):
    """A matrix product along the last axis."""

    units = "units"
    has_borders = False


class Transposed(Mixing):
    """A transposed convolution, whose kernel has shape (…, outputs, inputs).

    Its outputs are sums over different parts of the kernel, so that only a zero has the same effect
    everywhere.
    """

    has_borders = True

    @cached_property
    def matrix(self) -> NDArray[Any]:
        """The kernel, as (…, inputs, outputs)."""
        return values(self.layer.kernel).swapaxes(-1, -2)

    def weights(self) -> dict[str, tuple[Any, Roles]]:
        """Return kernel and bias."""
        kernel = self.layer.kernel
        return self.with_bias({"kernel": (kernel, (None,) * (len(kernel.shape) - 2) + ("out", "in"))})

    def macs(self, call: Call) -> int:
        """Return kernel entries times input places."""
        return _places(self.layer, call.inputs[0].shape) * self._multiplications()


class Depthwise(Kernel):
    """Each input channel has a few output channels of its own; they stay or go with it.

    The kernel has shape (…, inputs, multiplier).
    """

    def connect(self, call: Call, ties: Ties) -> None:
        """Tie every output to its input."""
        before, after = call.inputs[0].slots, call.outputs[0].slots
        ties.tie(before, ties.axis(self.layer, "in", len(before)))
        ties.tie(after, ties.axis(self.layer, "out", len(after)))
        ties.tie(after, np.repeat(before, self.layer.depth_multiplier))

    def constants(self, call: Call, *known: Numbers) -> Numbers:
        """Return the outputs of a usable constant, or of a kernel of zeros."""
        kernel = values(self.layer.kernel)
        kernel = kernel.reshape(-1, math.prod(kernel.shape[-2:]))
        each = np.repeat(known[0], self.layer.depth_multiplier)
        usable = self.usable(each)
        sums = np.where(usable, each, 0.0) * kernel.sum(axis=0, dtype=np.float64)
        return self.activated(call, np.where(usable | ~kernel.any(axis=0), sums, np.nan))

    def weights(self) -> dict[str, tuple[Any, Roles]]:
        """Return kernel and bias."""
        kernel = self.layer.kernel
        return self.with_bias({"kernel": (kernel, (None,) * (len(kernel.shape) - 2) + ("in", None))})


class Separable(Mixing):
    """A depthwise convolution, then one of size 1 that mixes: a channel is heard through both."""

    kernels = ("depthwise_kernel", "pointwise_kernel")

    @cached_property
    def _depthwise(self) -> NDArray[Any]:
        kernel = values(self.layer.depthwise_kernel)
        return kernel.reshape(-1, *kernel.shape[-2:])

    @cached_property
    def _pointwise(self) -> NDArray[Any]:
        kernel = values(self.layer.pointwise_kernel)
        return kernel.reshape(*self._depthwise.shape[-2:], kernel.shape[-1])

    @cached_property
    def heard(self) -> Flags:
        """Whether an output hears an input: (inputs, outputs)."""
        speaks = np.asarray(self._depthwise.any(axis=0))
        return np.asarray((speaks[..., None] & (self._pointwise != 0)).any(axis=1))

    def sums(self, rows: Slots) -> Numbers:
        """Return what a constant 1 in each input of ``rows`` adds to the outputs: (rows, outputs)."""
        depthwise = self._depthwise[:, rows].sum(axis=0, dtype=np.float64)
        return np.asarray(np.einsum("im,imo->io", depthwise, self._pointwise[rows]))

    def connect(self, call: Call, ties: Ties) -> None:
        """Tie what lies between the two convolutions as well."""
        super().connect(call, ties)
        many = self.layer.depth_multiplier
        between = ties.axis(self.layer, "between", many * len(call.inputs[0].slots))
        ties.tie(between, np.repeat(call.inputs[0].slots, many))

    def weights(self) -> dict[str, tuple[Any, Roles]]:
        """Return both kernels and the bias."""
        places: Roles = (None,) * len(self.layer.kernel_size)
        return self.with_bias(
            {
                "depthwise_kernel": (self.layer.depthwise_kernel, (*places, "in", None)),
                "pointwise_kernel": (self.layer.pointwise_kernel, (*places, "between", "out")),
            }
        )
