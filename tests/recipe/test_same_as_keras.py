"""The same numbers as Keras: a layer built with its regularizer, against the same after ``apply``."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest

import shrinkage
from cases import mostly_thorough
from shrinkage.errors import ShrinkageWarning

layers, regularizers = keras.layers, keras.regularizers


class Row(NamedTuple):
    """A layer: how it is built, what it is fed, and Keras's argument for each target."""

    build: Callable[..., Any]
    shape: tuple[int, ...]
    arguments: dict[str, tuple[str, ...]]
    tokens: int = 0


def arguments(*names: str, **more: str) -> dict[str, tuple[str, ...]]:
    """Return Keras's arguments by our target: ``x`` is ``x_regularizer``, if not told otherwise."""
    return {name: (f"{name}_regularizer",) for name in names} | {
        target: tuple(f"{name}_regularizer" for name in names.split()) for target, names in more.items()
    }


KERNEL = arguments("kernel", "bias", "activity")
# Ours charges a kernel of either kind on the target `kernel`.
RECURRENT = arguments("bias", "activity", kernel="kernel recurrent", recurrent_kernel="recurrent")
SCALE = arguments("gamma", "beta", "activity")


def attention(layer: Any) -> Any:
    """Return a model in which the layer attends to its own input."""
    inputs = keras.Input((3, 4))
    return keras.Model(inputs, layer(inputs, inputs))


def bidirectional(activity_regularizer: Any = None, **more: Any) -> Any:
    return layers.Bidirectional(layers.LSTM(2, **more), activity_regularizer=activity_regularizer)


def distributed(activity_regularizer: Any = None, **more: Any) -> Any:
    return layers.TimeDistributed(layers.Dense(2, **more), activity_regularizer=activity_regularizer)


def simple_rnn(activity_regularizer: Any = None, **more: Any) -> Any:
    layer = layers.SimpleRNN(2, **more)
    layer.activity_regularizer = activity_regularizer  # Keras 3.15 drops the argument
    return layer


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
        arguments(
            "bias", "activity", kernel="depthwise", depthwise_kernel="depthwise", depthwise="depthwise"
        ),
    ),
    "SeparableConv2D": Row(
        lambda **k: layers.SeparableConv2D(3, 2, **k),
        (4, 4, 2),
        arguments(
            "bias",
            "activity",
            "pointwise",
            depthwise_kernel="depthwise",
            pointwise_kernel="pointwise",
            kernel="depthwise pointwise",
        ),
    ),
    "Embedding": Row(
        lambda **k: layers.Embedding(5, 3, **k),
        (4,),
        arguments("embeddings", "activity"),
        tokens=5,
    ),
    "SimpleRNN": Row(simple_rnn, (3, 2), RECURRENT),
    "LSTM": Row(lambda **k: layers.LSTM(2, **k), (3, 2), RECURRENT),
    "GRU": Row(lambda **k: layers.GRU(2, **k), (3, 2), RECURRENT),
    "Bidirectional": Row(bidirectional, (3, 2), RECURRENT),
    "TimeDistributed": Row(distributed, (3, 4), KERNEL),
    "BatchNormalization": Row(lambda **k: layers.BatchNormalization(**k), (3,), SCALE),
    "LayerNormalization": Row(lambda **k: layers.LayerNormalization(**k), (3,), SCALE),
    "PReLU": Row(lambda **k: layers.PReLU(**k), (3,), arguments("alpha", "activity")),
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
    # A recurrent layer's loop is compiled at each call; the last penalty is the sum of the others.
    if target != "activity" or row.arguments != RECURRENT or text == list(PENALTIES)[-1]
]


def model_of(row: Row, **regularizers: Any) -> Any:
    layer = row.build(**regularizers)
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
    # `kernel` is generic: a rule on `recurrent_kernel` beats it.
    generic_first = sorted(penalties, key=lambda target: -len(row.arguments[target]))
    theirs = model_of(row, **{k: PENALTIES[penalties[t]] for t in generic_first for k in row.arguments[t]})
    ours = model_of(row)
    rng = np.random.default_rng(7)
    # No weight is zero: there Keras's L1 has the gradient 1 under JAX, and ours 0.
    weights = [rng.uniform(0.2, 0.9, w.shape) * rng.choice([-1, 1], w.shape) for w in theirs.get_weights()]
    if any("moving_variance" in w.path for w in theirs.weights):
        weights[-1] = np.abs(weights[-1])
    theirs.set_weights(weights)
    ours.set_weights(weights)
    with warnings.catch_warnings():
        # See test_place.py: Keras does not load this one.
        warnings.filterwarnings("ignore", "In force, but.*simple_rnn.*activity", ShrinkageWarning)
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


@pytest.mark.parametrize(
    "name", mostly_thorough(ROWS, "Dense", "DepthwiseConv2D", "Embedding", "SimpleRNN", "BatchNormalization")
)
def test_a_training_step_is_the_same(name):
    """Every target at once, each with another penalty: the gradients are those of Keras's formulas."""
    row = ROWS[name]
    # One target for each of Keras's arguments.
    targets = {names[0]: target for target, names in row.arguments.items() if len(names) == 1}
    targets |= {"kernel_regularizer": "kernel"} if "recurrent_regularizer" in targets else {}
    theirs, ours = pair(row, dict(zip(targets.values(), itertools.cycle(PENALTIES), strict=False)))
    before = ours.get_weights()
    x = inputs_of(row)
    y = np.random.default_rng(8).normal(size=ours(x).shape).astype("float32")
    losses = []
    for model in (theirs, ours):
        model.compile(keras.optimizers.SGD(0.5), "mse")
        losses.append(model.train_on_batch(x, y))
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    for was, expected, found in zip(before, theirs.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)
        assert np.abs(found - was).max() > 1e-4


#: What Keras alone reads from a file: the config, and what is charged; of an output only where told to.
LOAD = """
import json, os, sys
import keras, numpy as np
def read(path):
    model = keras.saving.load_model(path)
    if os.path.exists(path + ".npy"):
        model(np.load(path + ".npy"))
    return model.get_config(), float(sum(model.losses)), len(model.losses)
found = {path: read(path) for path in sys.argv[1:]}
loaded = sorted(name for name in sys.modules if name.split(".")[0] == "shrinkage")
print(json.dumps({"found": found, "loaded": loaded}))
"""


@pytest.mark.thorough
def test_the_files_load_with_keras_alone(tmp_path, run_python):
    """A fresh interpreter that never imports this package has the same penalties after loading.

    It runs on TensorFlow, whichever backend runs here: the files are the same.
    """
    expected = {}
    for name, row in ROWS.items():
        targets = [t for t in row.arguments if not (name == "SimpleRNN" and t == "activity")]
        _, ours = pair(row, dict(zip(targets, itertools.cycle(PENALTIES), strict=False)))
        path = str(tmp_path / f"{name}.keras")
        if name in ("Dense", "Conv2D", "Embedding", "MultiHeadAttention", "TimeDistributed"):
            np.save(f"{path}.npy", inputs_of(row))
            ours(inputs_of(row))
        ours.save(path)
        config = json.loads(json.dumps(ours.get_config()))
        assert "shrinkage" not in json.dumps(config), name
        told = {argument for target in targets for argument in row.arguments[target]}
        assert json.dumps(config).count('"keras.regularizers"') >= len(told), name
        expected[path] = config, float(sum(ours.losses)), len(ours.losses)
    answer = json.loads(run_python(LOAD, *expected, keras_backend="tensorflow").splitlines()[-1])
    assert answer["loaded"] == []
    for path, (config, charge, terms) in expected.items():
        assert answer["found"][path] == [config, pytest.approx(charge, rel=1e-5), terms], path
