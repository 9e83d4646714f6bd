"""The same numbers as Keras: a layer built with Keras's regularizer, against the same layer after ``apply``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

import shrinkage

layers, regularizers = keras.layers, keras.regularizers


class Row(NamedTuple):
    """A layer: how it is built, what it is fed, and Keras's argument for each target."""

    build: Callable[..., Any]
    shape: tuple[int, ...]
    arguments: dict[str, str]
    tokens: int = 0


KERNEL = {"kernel": "kernel_regularizer", "bias": "bias_regularizer", "activity": "activity_regularizer"}
RECURRENT = {**KERNEL, "recurrent_kernel": "recurrent_regularizer"}
SCALE = {"gamma": "gamma_regularizer", "beta": "beta_regularizer", "activity": "activity_regularizer"}


def attention(layer: Any) -> Any:
    """Return a model in which the layer attends to its own input."""
    inputs = keras.Input((3, 4))
    return keras.Model(inputs, layer(inputs, inputs))


def bidirectional(activity_regularizer: Any = None, **arguments: Any) -> Any:
    return layers.Bidirectional(layers.LSTM(2, **arguments), activity_regularizer=activity_regularizer)


def distributed(activity_regularizer: Any = None, **arguments: Any) -> Any:
    inner = layers.Dense(2, **arguments)
    return layers.TimeDistributed(inner, activity_regularizer=activity_regularizer)


ROWS = {
    "Dense": Row(lambda **k: layers.Dense(3, **k), (4,), KERNEL),
    "EinsumDense": Row(
        lambda **k: layers.EinsumDense("abc,cd->abd", (None, 3), bias_axes="d", **k), (3, 4), KERNEL
    ),
    "Conv1D": Row(lambda **k: layers.Conv1D(2, 2, **k), (5, 2), KERNEL),
    "Conv2D": Row(lambda **k: layers.Conv2D(2, 2, **k), (4, 4, 2), KERNEL),
    "Conv3D": Row(lambda **k: layers.Conv3D(2, 2, **k), (3, 3, 3, 1), KERNEL),
    "Conv2DTranspose": Row(lambda **k: layers.Conv2DTranspose(2, 2, **k), (3, 3, 2), KERNEL),
    "DepthwiseConv2D": Row(
        lambda **k: layers.DepthwiseConv2D(2, **k),
        (4, 4, 2),
        {**KERNEL, "kernel": "depthwise_regularizer", "depthwise_kernel": "depthwise_regularizer"},
    ),
    "SeparableConv2D": Row(
        lambda **k: layers.SeparableConv2D(3, 2, **k),
        (4, 4, 2),
        {
            "depthwise_kernel": "depthwise_regularizer",
            "pointwise_kernel": "pointwise_regularizer",
            "bias": "bias_regularizer",
            "activity": "activity_regularizer",
        },
    ),
    "Embedding": Row(
        lambda **k: layers.Embedding(5, 3, **k),
        (4,),
        {"embeddings": "embeddings_regularizer", "activity": "activity_regularizer"},
        tokens=5,
    ),
    "SimpleRNN": Row(lambda **k: layers.SimpleRNN(2, **k), (3, 2), RECURRENT),
    "LSTM": Row(lambda **k: layers.LSTM(2, **k), (3, 2), RECURRENT),
    "GRU": Row(lambda **k: layers.GRU(2, **k), (3, 2), RECURRENT),
    "Bidirectional": Row(bidirectional, (3, 2), RECURRENT),
    "TimeDistributed": Row(distributed, (3, 4), KERNEL),
    "BatchNormalization": Row(lambda **k: layers.BatchNormalization(**k), (3,), SCALE),
    "LayerNormalization": Row(lambda **k: layers.LayerNormalization(**k), (3,), SCALE),
    "PReLU": Row(lambda **k: layers.PReLU(**k), (3,), {"alpha": "alpha_regularizer"}),
    "MultiHeadAttention": Row(lambda **k: layers.MultiHeadAttention(2, 2, **k), (3, 4), KERNEL),
    "GroupQueryAttention": Row(lambda **k: layers.GroupQueryAttention(2, 2, 1, **k), (3, 4), KERNEL),
}

#: In Keras's words and in ours.
PENALTIES = {
    "l1(0.03)": regularizers.L1(0.03),
    "l2(0.02)": regularizers.L2(0.02),
    "l1_l2(0.01, 0.04)": regularizers.L1L2(0.01, 0.04),
}

CASES = [
    pytest.param(row, target, text, id=f"{name}-{target}-{text}")
    for name, row in ROWS.items()
    for target in row.arguments
    for text in PENALTIES
]


def model_of(row: Row, **arguments: Any) -> Any:
    keras.utils.clear_session()
    layer = row.build(**arguments)
    if "Attention" in type(layer).__name__:
        return attention(layer)
    return keras.Sequential([keras.Input(row.shape, dtype="int32" if row.tokens else "float32"), layer])


def inputs_of(row: Row) -> np.ndarray:
    rng = np.random.default_rng(6)
    if row.tokens:
        return rng.integers(0, row.tokens, (4, *row.shape)).astype("int32")
    return rng.normal(size=(4, *row.shape)).astype("float32")


def pair(row: Row, penalties: dict[str, str]) -> tuple[Any, Any]:
    """Return the layer built with Keras's regularizers, and one without after ``apply``; equal weights."""
    theirs = model_of(row, **{row.arguments[target]: PENALTIES[text] for target, text in penalties.items()})
    ours = model_of(row)
    rng = np.random.default_rng(7)
    # No weight is zero: there Keras's L1 has the gradient 1 under JAX, and ours 0.
    weights = [rng.uniform(0.2, 0.9, w.shape) * rng.choice([-1, 1], w.shape) for w in theirs.get_weights()]
    if any("moving_variance" in w.path for w in theirs.weights):
        weights[-1] = np.abs(weights[-1])
    theirs.set_weights(weights)
    ours.set_weights(weights)
    shrinkage.apply(ours, [f"*: {target} = {text}" for target, text in penalties.items()])
    return theirs, ours


@pytest.mark.parametrize(("row", "target", "text"), CASES)
def test_the_same_is_charged(row, target, text):
    theirs, ours = pair(row, {target: text})
    if target == "activity":
        theirs(inputs_of(row))
        ours(inputs_of(row))
    expected = [float(loss) for loss in theirs.losses]
    assert sum(expected) > 0
    assert sum(float(loss) for loss in ours.losses) == pytest.approx(sum(expected), rel=1e-6)
    assert sorted(map(float, ours.losses)) == pytest.approx(sorted(expected), rel=1e-6)


@pytest.mark.parametrize("name", ROWS)
def test_a_training_step_is_the_same(name):
    """Every target at once, each with another penalty: the gradients are those of Keras's formulas."""
    row = ROWS[name]
    targets = [t for t in row.arguments if t != "depthwise_kernel" or name != "DepthwiseConv2D"]
    theirs, ours = pair(row, dict(zip(targets, itertools.cycle(PENALTIES), strict=False)))
    before = ours.get_weights()
    x = inputs_of(row)
    y = np.random.default_rng(8).normal(size=(4, *ours.output_shape[1:])).astype("float32")
    losses = []
    for model in (theirs, ours):
        model.compile(keras.optimizers.SGD(0.5), "mse")
        losses.append(model.train_on_batch(x, y))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for was, expected, found in zip(before, theirs.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
        assert np.abs(found - was).max() > 1e-4
