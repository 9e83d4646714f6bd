"""Helpers that take the life out of units, and that compact a model and compare it with the original."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops, tree

from shrinkage.compact import Receipt, compact


def outputs(model: Any, x: Any) -> list[np.ndarray]:
    """What a model gives in inference mode, as a flat list of arrays."""
    return [np.asarray(ops.convert_to_numpy(t)) for t in tree.flatten(model(x, training=False))]


@pytest.fixture(scope="module", autouse=True)
def in_a_hurry() -> Iterator[None]:
    """Most of the time goes into compiling, on JAX, operations that run once; drawing weights is one."""

    def drawn(self: Any, shape: Any, dtype: Any = None) -> np.ndarray:
        return np.random.default_rng(0).normal(0.0, 0.3, shape).astype("float32")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.initializers.VarianceScaling, "__call__", drawn)
        yield


@pytest.fixture(scope="session")
def draw() -> Callable[..., Any]:
    """``draw(model, rows=8, seed=1)``: random inputs as the model takes them."""

    # As many rows as `compact` draws: on JAX every new shape is compiled, operation by operation.
    def inputs(model: Any, rows: int = 8, seed: int = 1) -> Any:
        rng = np.random.default_rng(seed)
        return tree.map_structure(
            lambda t: rng.normal(size=(rows, *t.shape[1:])).astype("float32"),
            model.input if not isinstance(model, keras.Sequential) else model._functional.input,
        )

    return inputs


@pytest.fixture(scope="session")
def randomize() -> Callable[[Any], Any]:
    """``randomize(model)``: random weights everywhere, biases and moving statistics included."""

    def fill(model: Any) -> Any:
        rng = np.random.default_rng(0)
        for variable in model.weights:
            if "variance" in variable.name or "stddev" in variable.name:
                value = rng.uniform(0.5, 1.5, variable.shape)
            else:
                value = rng.normal(0.2, 0.4, variable.shape)
            variable.assign(value.astype("float32"))
        return model

    return fill


@pytest.fixture(scope="session")
def silence() -> Callable[..., None]:
    """``silence(layer, units, bias=0)``: nothing that comes in reaches these units."""

    def zero(layer: Any, units: Sequence[int], bias: float = 0.0) -> None:
        kernel = layer.pointwise_kernel if hasattr(layer, "pointwise_kernel") else layer.kernel
        value = np.array(ops.convert_to_numpy(kernel))
        if "Transpose" in type(layer).__name__:
            value[..., units, :] = 0
        else:
            value[..., units] = 0
        kernel.assign(value)
        if layer.use_bias:
            value = np.array(ops.convert_to_numpy(layer.bias))
            value[units] = bias
            layer.bias.assign(value)

    return zero


@pytest.fixture(scope="session")
def deafen() -> Callable[[Any, Sequence[int]], None]:
    """``deafen(layer, channels)``: the layer does not listen to these channels of its input."""

    def zero(layer: Any, channels: Sequence[int]) -> None:
        kernel = layer.depthwise_kernel if hasattr(layer, "depthwise_kernel") else layer.kernel
        value = np.array(ops.convert_to_numpy(kernel))
        if "Transpose" in type(layer).__name__:
            value[..., channels] = 0
        else:
            value[..., channels, :] = 0
        kernel.assign(value)

    return zero


@pytest.fixture(scope="session")
def shrunk(draw) -> Callable[..., tuple[Any, Receipt]]:
    """``shrunk(model)``: the smaller model and its receipt; the outputs agree on inputs of the test's own."""

    def shrink(model: Any, x: Any = None) -> tuple[Any, Receipt]:
        smaller, receipt = compact(model, measure=False)
        x = draw(model) if x is None else x
        for a, b in zip(outputs(model, x), outputs(smaller, x), strict=True):
            assert a.shape == b.shape
            assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()
        return smaller, receipt

    return shrink


@pytest.fixture(scope="session")
def array() -> Callable[[Any], np.ndarray]:
    """``array(variable)``: its value."""
    return lambda variable: np.asarray(ops.convert_to_numpy(variable))
