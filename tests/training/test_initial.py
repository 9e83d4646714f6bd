"""Initial weights, random state and data order: functions of the seed and the layer's path alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from cases import mostly_thorough
from shrinkage.errors import ModelError
from shrinkage.training.initial import data_order, initialise, key, seed_dropout, with_fresh_names

# Keras's variables and NumPy 2: every get_weights says so.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)


def chain(*parts: Any, shape: tuple[int, ...] = (6,)) -> Any:
    return keras.Sequential([keras.Input(shape), *parts])


def plain(*between: Any) -> Any:
    return chain(layers.Dense(5, "relu", name="a"), *between, layers.Dense(3, name="b"))


def drawn(model: Any, seed: int) -> dict[str, Any]:
    initialise(model, seed)
    return {v.path.partition("/")[2]: np.asarray(v) for v in model.weights}


def same(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def nested() -> Any:
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="a")], name="inner")
    return chain(inner, layers.Dense(6, name="a"))


class Composite(layers.Layer):
    """A layer of the user's own, with parts and a weight of its own."""

    def __init__(self, units: int = 4, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.part = layers.Dense(units)

    def build(self, shape: Any) -> None:
        self.part.build(shape)
        self.scale = self.add_weight(shape=(self.units,), initializer="glorot_uniform", name="scale")

    def call(self, x: Any) -> Any:
        return self.part(x) * self.scale

    def get_config(self) -> dict[str, Any]:
        return super().get_config() | {"units": self.units}


class Careless(layers.Layer):
    """Has no config, and builds its parts when it is called."""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.part, self.norm = layers.Dense(units), layers.BatchNormalization()
        self.inner = keras.Sequential([layers.Dense(2), layers.Dropout(0.5), layers.Dense(3)])

    def call(self, x: Any) -> Any:
        return self.inner(self.norm(self.part(x)))


def attention() -> Any:
    x = keras.Input((4, 6))
    return keras.Model(x, layers.MultiHeadAttention(2, 3, dropout=0.1)(x, x))


def functional() -> Any:
    x = keras.Input((6,))
    shared = layers.Dense(6, name="shared")
    return keras.Model(x, layers.Add()([shared(shared(x)), layers.Dense(6)(x)]))


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner = (
            layers.Dense(4),
            chain(layers.Dense(4), layers.BatchNormalization(), shape=(4,)),
        )

    def call(self, x: Any) -> Any:
        return self.inner(self.first(x))


def subclassed() -> Any:
    model = Subclassed()
    model(np.ones((2, 6), "float32"))
    return model


MODELS: dict[str, Callable[[], Any]] = {
    "dense": plain,
    "batch norm": lambda: plain(layers.BatchNormalization()),
    "lstm": lambda: chain(layers.LSTM(4), shape=(3, 6)),
    "bidirectional": lambda: chain(
        layers.Bidirectional(layers.GRU(4, recurrent_initializer="glorot_uniform")), shape=(3, 6)
    ),
    "stacked cells": lambda: chain(
        layers.RNN([layers.SimpleRNNCell(2), layers.SimpleRNNCell(2)]), shape=(3, 6)
    ),
    "time distributed": lambda: chain(layers.TimeDistributed(layers.Dense(4)), shape=(3, 6)),
    "attention": attention,
    "embedding": lambda: chain(layers.Embedding(9, 4), shape=(3,)),
    "convolutions": lambda: chain(
        layers.SeparableConv2D(3, 2), layers.DepthwiseConv2D(2), layers.Conv2DTranspose(2, 2), shape=(5, 5, 2)
    ),
    "nested": nested,
    "composite": lambda: chain(Composite(), Composite(3)),
    "careless": lambda: chain(Careless(4), Careless(4)),
    "functional": functional,
    "subclassed": subclassed,
    "half": lambda: chain(layers.Dense(4, dtype="mixed_float16")),
    "spectral": lambda: chain(layers.SpectralNormalization(layers.Dense(4))),
}


@pytest.mark.parametrize(
    "name", mostly_thorough(MODELS, "batch norm", "bidirectional", "composite", "careless", "functional")
)
def test_weights_are_a_function_of_the_seed(name: str) -> None:
    model = with_fresh_names(MODELS[name])
    first = drawn(model, 7)
    for variable in model.weights:
        variable.assign(np.full(variable.shape, 3.0))
    assert same(first, drawn(model, 7))
    assert not same(first, drawn(model, 8))
    random.random()
    assert same(first, drawn(with_fresh_names(MODELS[name]), 7))


def test_they_come_from_the_layers_own_initializers() -> None:
    model = chain(
        layers.Dense(200, kernel_initializer="he_normal", bias_initializer="ones", name="he"),
        layers.BatchNormalization(name="norm"),
        layers.Dense(3, kernel_initializer=keras.initializers.RandomNormal(seed=1), name="fixed"),
        shape=(300,),
    )
    model.get_layer("norm").moving_mean.assign(np.full(200, 5.0))
    weights = drawn(model, 0)
    assert np.std(weights["he/kernel"]) == pytest.approx(np.sqrt(2 / 300), rel=0.02)
    assert (weights["he/bias"] == 1).all()
    assert (weights["norm/moving_mean"] == 0).all()
    assert (weights["norm/moving_variance"] == 1).all()
    assert np.array_equal(weights["fixed/kernel"], drawn(model, 1)["fixed/kernel"])


def test_layers_of_one_shape_differ() -> None:
    model = nested()
    initialise(model, 0)
    inner, outer = (np.asarray(v) for v in model.weights if v.name == "kernel")
    assert inner.shape == outer.shape
    assert not np.array_equal(inner, outer)


def test_other_layers_change_nothing() -> None:
    weights = drawn(plain(), 3)
    assert same(weights, drawn(plain(layers.Dropout(0.5)), 3))
    more = drawn(plain(layers.BatchNormalization(name="n"), layers.Dense(5, name="c")), 3)
    assert same(weights, {name: value for name, value in more.items() if name in weights})


def test_what_keras_counts_changes_nothing() -> None:
    def drawn() -> list[np.ndarray]:
        inner = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.Dense(3, name="mine")])
        model = keras.Sequential(
            [keras.Input((3,)), layers.Dense(3), inner, layers.Dropout(0.5), layers.Dense(3)]
        )
        initialise(model, 4)
        states = [model.layers[2].seed_generator.state]
        return [keras.ops.convert_to_numpy(v) for v in model.weights + states], [
            v.path for v in model.weights
        ]

    (first, names), (again, other_names) = drawn(), drawn()
    assert names != other_names
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    kernels = [w for w in first if w.shape == (3, 3)]
    assert len({w.tobytes() for w in kernels}) == 4


def test_the_order_of_drawing_changes_nothing() -> None:
    model, other = plain(), functional()
    weights = drawn(model, 3)
    drawn(other, 3)
    drawn(model, 4)
    assert same(weights, drawn(model, 3))


def number(layer: Any) -> int:
    """Return the number that Keras gave an unnamed layer."""
    return int(layer.name.rpartition("_")[2] or 0)


def test_global_state_stays_as_it_is() -> None:
    model, composite = plain(layers.Dropout(0.5)), chain(Composite())
    layers.Dense(2)
    before = layers.Dense(2)
    random.seed(5)
    np.random.seed(5)
    initialise(model, 1)
    initialise(composite, 1)
    seed_dropout(model, 1)
    data_order(1, 2, 3)
    after = random.random(), np.random.rand()
    random.seed(5)
    np.random.seed(5)
    assert after == (random.random(), np.random.rand())
    assert number(layers.Dense(2)) == number(before) + 1


def test_dropout_depends_on_seed_and_path() -> None:
    x = np.ones((4, 6), "float32")
    model = chain(layers.Dropout(0.5, name="d"), layers.Dropout(0.5, name="e"), layers.Dense(1))
    longer = chain(layers.Dense(6, name="a"), layers.Dropout(0.5, name="d"))

    def masks(seed: int) -> list[Any]:
        initialise(model, seed)
        seed_dropout(longer, seed)
        dropouts = model.get_layer("d"), model.get_layer("e"), longer.get_layer("d")
        return [np.asarray(dropout(x, training=True)) for dropout in dropouts]

    first, second, elsewhere = masks(1)
    assert np.array_equal(first, elsewhere)
    assert not np.array_equal(first, second)
    assert np.array_equal(masks(1)[1], second)
    assert not np.array_equal(masks(2)[0], first)


class Noisy(keras.Model):
    """A subclassed model that keeps a generator itself."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.random.SeedGenerator(0)
        self.head = layers.Dense(2, kernel_initializer="ones")

    def call(self, x: Any) -> Any:
        return self.head(x + keras.random.normal((1, 3), seed=self.generator))


def test_a_generator_of_the_models_own_is_reset() -> None:
    model, x = Noisy(), np.ones((1, 3), "float32")
    model(x)
    outputs = []
    for seed in (1, 1, 2):
        initialise(model, seed)
        outputs.append(keras.ops.convert_to_numpy(model(x)))
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])


class Sealed(layers.Layer):
    def __init__(self, secret: Any) -> None:
        super().__init__(name="sealed")
        self.secret = secret

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(2,), name="w")

    def call(self, x: Any) -> Any:
        return x


class Growing(layers.Layer):
    """Its weights do not follow from its config."""

    sizes = iter(range(1, 9))

    def build(self, shape: Any) -> None:
        self.w = self.add_weight(shape=(next(self.sizes),), name="w")

    def call(self, x: Any) -> Any:
        return x


class OwnWeight(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.head = layers.Dense(2)
        self.w = self.add_weight(shape=(3,), name="w")

    def call(self, x: Any) -> Any:
        return self.head(x)


def test_what_can_not_be_drawn_is_named() -> None:
    with pytest.raises(ModelError, match=r"layer 'sealed' \(Sealed\) can't be built again"):
        initialise(chain(Sealed(object())), 0)
    with pytest.raises(ModelError, match=r"layer 'growing.*' \(Growing\) has other weights"):
        initialise(chain(Growing()), 0)
    model = OwnWeight()
    model(np.ones((1, 3), "float32"))
    with pytest.raises(ModelError, match=r"The weights .*w belong to the model itself"):
        initialise(model, 0)


def test_fresh_names_are_those_of_a_new_process() -> None:
    def fails() -> Any:
        layers.Dense(2)
        raise RuntimeError

    layers.Dense(2)
    before = layers.Dense(2)
    models = [with_fresh_names(lambda: chain(layers.Dense(2), layers.Dense(2))) for _ in range(3)]
    assert [[layer.name for layer in model.layers] for model in models] == [["dense", "dense_1"]] * 3
    assert {model.name for model in models} == {"sequential"}
    with pytest.raises(RuntimeError):
        with_fresh_names(fails)
    assert number(layers.Dense(2)) == number(before) + 1


@given(st.integers(0, 2**40), st.integers(0, 1000), st.integers(0, 60))
def test_the_order_is_a_permutation(seed: int, epoch: int, n: int) -> None:
    order = data_order(seed, epoch, n)
    assert sorted(order) == list(range(n))
    assert np.array_equal(order, data_order(seed, epoch, n))
    if n > 20:
        assert not np.array_equal(order, data_order(seed, epoch + 1, n))
        assert not np.array_equal(order, data_order(seed + 1, epoch, n))


def test_the_order_is_fixed_for_good() -> None:
    # Stored runs depend on these.
    assert data_order(0, 0, 8).tolist() == [6, 7, 2, 5, 4, 3, 1, 0]
    assert key(0, "order") == 1218160299


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_keys_are_small_numbers(parts: list[str]) -> None:
    assert 0 <= key(*parts) < 2**31
    assert key(*parts) == key(*parts)


def test_what_a_layer_was_adapted_to_stays():
    normalization = keras.layers.Normalization()
    normalization.adapt(np.arange(12.0, dtype="float32").reshape(4, 3))
    model = keras.Sequential([keras.Input((3,)), normalization, keras.layers.Dense(2)])
    before = model.get_weights()
    initialise(model, 0)
    after = model.get_weights()
    for one, other in zip(before[:3], after[:3], strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(before[3], after[3])
