"""Constants: folded where that is exact, kept where it is not."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from shrinkage.compact import survey

layers = keras.layers

ACTIVATIONS = ["linear", "relu", "tanh", "sigmoid", "gelu", "softplus", "hard_silu", "exponential", "selu"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_constant_is_folded_into_the_next_bias(activation, randomize, silence, shrunk, array):
    first = layers.Dense(6, activation=activation, name="first")
    last = layers.Dense(3, name="last")
    model = randomize(keras.Sequential([keras.Input((4,)), first, last]))
    silence(first, [1, 4], bias=0.7)
    smaller, receipt = shrunk(model)
    assert smaller.get_layer("first").units == 4
    constant = array(keras.activations.get(activation)(keras.ops.convert_to_tensor([0.7])))[0]
    folded = array(last.bias) + constant * array(last.kernel)[[1, 4]].sum(axis=0)
    np.testing.assert_allclose(array(smaller.get_layer("last").bias), folded, rtol=1e-6)
    assert receipt.notes == ()


def test_a_layer_without_a_bias_gets_one_where_it_must(randomize, silence, shrunk, array):
    first = layers.Dense(6, activation="relu", name="first")
    last = layers.Dense(3, use_bias=False, name="last")
    model = randomize(keras.Sequential([keras.Input((4,)), first, last]))
    silence(first, [1], bias=-1.0)  # relu makes it zero
    smaller, receipt = shrunk(model)
    assert not smaller.get_layer("last").use_bias
    silence(first, [1], bias=1.0)
    smaller, receipt = shrunk(model)
    np.testing.assert_allclose(array(smaller.get_layer("last").bias), array(last.kernel)[1], rtol=1e-6)
    assert receipt.notes == ("Layers that have a bias now, for constants: last.",)


PADDINGS = [
    ("valid", layers.Conv2D, 3, True),
    ("same", layers.Conv2D, 3, False),
    ("same", layers.Conv2D, 1, True),
    ("valid", layers.SeparableConv2D, 2, True),
    ("same", layers.SeparableConv2D, 2, False),
    ("valid", layers.DepthwiseConv2D, 2, True),
    ("same", layers.DepthwiseConv2D, 2, False),
    ("valid", layers.Conv2DTranspose, 2, False),
]


def second(kind, size, padding):
    if kind is layers.DepthwiseConv2D:
        return kind(size, padding=padding, name="second")
    return kind(4, size, padding=padding, name="second")


@pytest.mark.parametrize(("padding", "kind", "size", "folds"), PADDINGS)
def test_near_a_border_only_zeros_are_folded(padding, kind, size, folds, randomize, silence, shrunk):
    first = layers.Conv2D(6, 2, name="first")
    model = [keras.Input((6, 6, 2)), first, second(kind, size, padding), layers.Dense(2, name="last")]
    model = randomize(keras.Sequential(model))
    silence(first, [1, 4], bias=0.5)
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == (4 if folds else 6)
    silence(first, [1, 4])
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == 4


def test_causal_padding_is_a_border(randomize, silence, shrunk):
    first, second = layers.Conv1D(6, 2, name="first"), layers.Conv1D(4, 2, padding="causal", name="second")
    model = randomize(keras.Sequential([keras.Input((8, 2)), first, second, layers.Dense(2)]))
    silence(first, [1], bias=0.5)
    silence(first, [4])
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == 5


def test_a_border_of_zeros_ends_a_constant(randomize, silence, shrunk):
    first = layers.Conv2D(6, 2, name="first")
    model = [keras.Input((6, 6, 2)), first, layers.ZeroPadding2D(), layers.Conv2D(4, 2), layers.Dense(2)]
    model = randomize(keras.Sequential(model))
    silence(first, [1], bias=0.5)
    silence(first, [4])
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == 5


def test_a_negative_constant_needs_the_same_slope_everywhere(randomize, silence, shrunk, array):
    first, bent = layers.Conv1D(6, 2, name="first"), layers.PReLU(name="bent")
    model = randomize(keras.Sequential([keras.Input((6, 2)), first, bent, layers.Dense(2)]))
    silence(first, [1, 2], bias=-0.5)
    silence(first, [3], bias=0.5)
    alpha = np.array(array(bent.alpha))
    alpha[:, 2] = 0.25
    bent.alpha.assign(alpha)
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == 4  # unit 1 stays


def test_under_a_mask_the_larger_of_two_constants_is_none(randomize, silence, shrunk, rng):
    """Where one of the two is masked, the other is taken."""
    x = keras.Input((6, 3))
    left = layers.Dense(6, name="left")(layers.Masking()(x))
    right = layers.Dense(6, name="right")(x)
    model = randomize(keras.Model(x, layers.Dense(2)(layers.Maximum()([left, right]))))
    silence(model.get_layer("left"), [1], bias=1.0)
    silence(model.get_layer("right"), [1], bias=0.5)
    inputs = rng.normal(size=(4, 6, 3)).astype("float32")
    inputs[:, 2:4] = 0
    smaller, _ = shrunk(model, inputs)
    assert smaller.get_layer("left").units == 6


def test_constants_go_through_normalization_pooling_and_dropout(randomize, silence, shrunk):
    first = layers.Conv2D(6, 2, activation="tanh", name="first")
    between = [layers.BatchNormalization(), layers.ReLU(), layers.AveragePooling2D(2, padding="same")]
    last = [layers.Dropout(0.5), layers.Flatten(), layers.Dense(2, name="last")]
    model = randomize(keras.Sequential([keras.Input((6, 6, 2)), first, *between, *last]))
    silence(first, [0, 2, 5], bias=0.5)
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == 3


def test_a_unit_that_hears_constants_alone_is_one(randomize, silence, deafen, shrunk, array):
    """Through three layers: each constant makes the next."""
    names = ("one", "two", "three")
    model = [
        keras.Input((4,)),
        *(layers.Dense(5, "tanh", name=n) for n in names),
        layers.Dense(2, name="last"),
    ]
    model = randomize(keras.Sequential(model))
    silence(model.get_layer("one"), [0, 1], bias=0.3)
    for name in names[1:]:
        layer = model.get_layer(name)
        kernel = np.array(array(layer.kernel))
        kernel[2:, :2] = 0  # units 0 and 1 hear units 0 and 1
        layer.kernel.assign(kernel)
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).units for n in names] == [3, 3, 3]


def test_units_that_hear_each_other_alone_go_together(randomize, shrunk, array):
    """Nothing that stays listens: neither of the two need be silent."""
    one, two = layers.Dense(5, "tanh", name="one"), layers.Dense(5, "tanh", name="two")
    model = randomize(keras.Sequential([keras.Input((4,)), one, two, layers.Dense(2, name="last")]))
    kernel = np.array(array(two.kernel))
    kernel[0, 1:] = 0  # unit 0 of the first is heard by unit 0 of the second …
    two.kernel.assign(kernel)
    kernel = np.array(array(model.get_layer("last").kernel))
    kernel[0] = 0  # … which nobody hears
    model.get_layer("last").kernel.assign(kernel)
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).units for n in ("one", "two")] == [4, 4]


def test_every_layer_keeps_a_unit(randomize, silence, shrunk, array):
    """All are dead, and the output is a constant."""
    names = ("one", "two", "three")
    model = [
        keras.Input((4,)),
        *(layers.Dense(5, "tanh", name=n) for n in names),
        layers.Dense(2, name="last"),
    ]
    model = randomize(keras.Sequential(model))
    silence(model.get_layer("two"), range(5), bias=0.3)
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).units for n in names] == [1, 1, 1]


def test_a_kept_unit_is_one_that_needs_nothing(randomize, silence, deafen, shrunk):
    """Of a layer that may go altogether a constant unit stays, so that all before it may go too."""
    names = ("one", "two")
    model = [
        keras.Input((4,)),
        *(layers.Dense(5, "tanh", name=n) for n in names),
        layers.Dense(2, name="last"),
    ]
    model = randomize(keras.Sequential(model))
    deafen(model.get_layer("last"), range(4))
    silence(model.get_layer("two"), [4], bias=0.3)
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).units for n in names] == [1, 1]


def test_an_infinite_constant_is_none(randomize, silence):
    first = layers.Dense(6, activation="exponential", name="first")
    model = randomize(keras.Sequential([keras.Input((4,)), first, layers.Dense(2, name="last")]))
    silence(first, [1, 4], bias=1000.0)
    assert survey(model).live_units == 6
