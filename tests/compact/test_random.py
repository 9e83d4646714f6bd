"""Random architectures with random dead units: whatever leaves, the function stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkage.compact import survey

layers = keras.layers

ACTIVATIONS = ("relu", "tanh", "linear", "softplus")
Step = Callable[[Any, int, list[Any]], Any]


def shape(t: Any) -> tuple[int, ...]:
    return tuple(t.shape[1:])


def of(t: Any, name: str) -> Any:
    """A layer's class for this rank: Conv becomes Conv1D or Conv2D."""
    return getattr(layers, name.replace("?", f"{len(t.shape) - 2}D"))


def options(n: int) -> dict[str, Any]:
    return {"activation": ACTIVATIONS[n % 4], "use_bias": n % 3 > 0, "padding": ("valid", "same")[n % 2]}


def conv(t: Any, n: int, _: list[Any]) -> Any:
    return of(t, "Conv?")(4, 1 + 2 * (n % 2), strides=1 + n // 8 % 2, **options(n // 2))(t)


def causal(t: Any, n: int, _: list[Any]) -> Any:
    if len(t.shape) > 3:
        return None
    return layers.Conv1D(4, 2, padding="causal", activation=ACTIVATIONS[n % 4])(t)


def depthwise(t: Any, n: int, _: list[Any]) -> Any:
    return of(t, "DepthwiseConv?")(2, depth_multiplier=1 + n % 2, **options(n))(t)


def separable(t: Any, n: int, _: list[Any]) -> Any:
    return of(t, "SeparableConv?")(4, 2, depth_multiplier=1 + n % 2, **options(n))(t)


def transposed(t: Any, n: int, _: list[Any]) -> Any:
    return None if t.shape[1] > 6 else of(t, "Conv?Transpose")(4, 2, **options(n))(t)


def pool(t: Any, n: int, _: list[Any]) -> Any:
    kind = ("MaxPooling?", "AveragePooling?")[n % 2]
    return of(t, kind)(2, strides=1 + n // 2 % 2, padding=("valid", "same")[n // 4 % 2])(t)


def resize(t: Any, n: int, _: list[Any]) -> Any:
    kind = ("ZeroPadding?", "Cropping?", "UpSampling?")[n % 3]
    return None if t.shape[1] > 6 and kind != "Cropping?" else of(t, kind)(2 if n % 3 == 2 else 1)(t)


def channelwise(t: Any, n: int, _: list[Any]) -> Any:
    kinds = (layers.PReLU, layers.ReLU, layers.LayerNormalization, lambda: layers.Dropout(0.5))
    return kinds[n % 4]()(t)


def normalize(t: Any, n: int, _: list[Any]) -> Any:
    return layers.BatchNormalization(scale=n % 4 > 0, center=n % 5 > 0)(t)


def dense(t: Any, n: int, _: list[Any]) -> Any:
    return layers.Dense(4, activation=ACTIVATIONS[n % 4], use_bias=n % 3 > 0)(t)


def regroup(t: Any, n: int, _: list[Any]) -> Any:
    """Half as many places, twice as many channels; or a pair of channels a place."""
    *places, channels = shape(t)
    if places[-1] % 2 or channels > 8:
        return None
    return layers.Reshape((*places[:-1], places[-1] // 2, -1 if n % 2 else 2 * channels))(t)


def merge(t: Any, n: int, tensors: list[Any]) -> Any:
    """With another tensor of the same places; a convolution of size 1 makes the channels equal."""
    others = [o for o in tensors if shape(o)[:-1] == shape(t)[:-1]]
    other = others[n % len(others)]
    kinds = (layers.Add, layers.Multiply, layers.Maximum, layers.Concatenate, layers.Average, layers.Subtract)
    kind = kinds[n // 4 % 6]
    if kind is not layers.Concatenate and other.shape[-1] != t.shape[-1]:
        other = of(t, "Conv?")(t.shape[-1], 1)(other)
    if n % 5 == 0:
        return t + other if other.shape[-1] == t.shape[-1] else None
    return kind()([t, other])


def again(t: Any, n: int, tensors: list[Any]) -> Any:
    """A layer that was called before, called on another tensor of as many channels."""
    made = [o._keras_history.operation for o in tensors[1:]]
    fit = [
        m for m in made if isinstance(m, layers.Dense | of(t, "Conv?")) and m.kernel.shape[-2] == t.shape[-1]
    ]
    return fit[n % len(fit)](t) if fit else None


def nested(t: Any, n: int, _: list[Any]) -> Any:
    inside = keras.Input(shape(t))
    model = keras.Model(inside, layers.Dense(4, activation="tanh")(conv(inside, n, [])))
    return model(model(t)) if n % 2 and model.output_shape == model.input_shape else model(t)


STEPS: tuple[Step, ...] = (
    *(conv, conv, causal, depthwise, separable, transposed, pool, resize, channelwise, normalize),
    *(dense, regroup, merge, merge, again, nested),
)
DRAWN = st.lists(
    st.tuples(st.sampled_from(range(len(STEPS))), st.integers(0, 15), st.integers(0, 63)),
    min_size=2,
    max_size=6,
)


def build(steps: list[tuple[int, int, int]], rank: int, pooled: bool) -> Any:
    x = keras.Input((6,) * rank + (3,))
    tensors = [x]
    for which, at, n in steps:
        t = tensors[-1 - at % min(3, len(tensors))]
        if min(shape(t)[:-1]) < 3:
            continue  # a kernel would not fit
        made = STEPS[which](t, n, tensors)
        if made is not None:
            tensors.append(made)
    end = of(tensors[-1], "GlobalAveragePooling?" if pooled else "Flatten")()(tensors[-1])
    hidden = layers.Dense(6, activation="relu", name="hidden")(end)
    return keras.Model(x, layers.Dense(2, name="head")(hidden))


def enliven(model: Any, rng: np.random.Generator) -> None:
    """Random weights, of which whole columns and rows are zero."""
    for variable in model.weights:
        value = rng.normal(0.0, 0.5, variable.shape)
        if "variance" in variable.name:
            value = np.abs(value) + 0.5
        elif variable.name == "gamma":
            value *= rng.random(value.shape) > 0.2
        elif variable.name in ("bias", "beta"):
            value *= rng.random(value.shape) > 0.6
        elif variable.name.endswith("kernel"):
            value *= rng.random(value.shape[-1]) > 0.25
            value *= rng.random((value.shape[-2], 1)) > 0.25
        variable.assign(value.astype("float32"))


@pytest.mark.thorough
@settings(max_examples=200)
@given(DRAWN, st.sampled_from([1, 1, 1, 2]), st.booleans(), st.integers(0, 2**16))
def test_the_function_stays(shrunk, steps, rank, pooled, seed):
    model = build(steps, rank, pooled)
    rng = np.random.default_rng(seed)
    enliven(model, rng)
    head, hidden = model.get_layer("head"), model.get_layer("hidden")
    heard = keras.ops.convert_to_numpy(head.kernel).any(axis=1)
    speaks = keras.ops.convert_to_numpy(hidden.kernel).any(axis=0)
    expected = survey(model)
    smaller, receipt = shrunk(model)
    assert receipt.after.parameters == expected.parameters_after
    # Nothing ties these units to others.
    assert smaller.get_layer("hidden").units <= max(1, np.count_nonzero(heard & speaks))
    assert survey(smaller).parameters_after == receipt.after.parameters
