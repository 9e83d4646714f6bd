"""Selectors: which layers and weights a name, a path, a class or a glob means."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from shrinkage.errors import ModelError
from shrinkage.recipe.select import activity_sites, config_key, sites, weights

layers = keras.layers


def encoder(name: str = "encoder") -> keras.Model:
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="dense_1"), layers.Dense(2, name="dense_2")], name=name
    )


@pytest.fixture
def nested() -> keras.Model:
    """A model with a nested model, a composite layer, and layers without weights."""
    inputs = keras.Input((4,), name="in")
    hidden = encoder()(inputs)
    hidden = layers.Reshape((1, 2), name="reshape")(hidden)
    hidden = layers.MultiHeadAttention(1, 2, name="attend")(hidden, hidden)
    hidden = layers.LSTM(2, name="lstm")(hidden)
    hidden = layers.Dropout(0.5, name="drop")(hidden)
    return keras.Model(inputs, layers.Dense(1, name="head")(hidden), name="whole")


def paths(found) -> list[str]:
    return [site.path for site in found]


def matching(model: keras.Model, selector: str) -> list[str]:
    return paths(site for site in sites(model) if site.matches(selector))


def covered(model: keras.Model, selector: str) -> list[str]:
    return [weight.path for weight in weights(model) if weight.covered(selector)]


def test_sites_are_every_layer_once_parents_first(nested):
    found = paths(sites(nested))
    assert len(found) == len(set(found))
    assert found.index("encoder") < found.index("encoder/dense_1") < found.index("encoder/dense_2")
    assert {"in", "reshape", "attend", "attend/query", "lstm", "lstm/lstm_cell", "drop", "head"} <= set(found)
    assert not any("whole" in path for path in found)


def test_metrics_and_the_optimizer_are_no_layers(nested):
    before = paths(sites(nested))
    nested.compile("adam", "mse", metrics=["mae"])
    assert paths(sites(nested)) == before


def test_a_shared_layer_is_one_site():
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, shared(shared(inputs)))
    assert paths(sites(model)).count("shared") == 1
    assert [w.path for w in weights(model)] == ["shared/kernel", "shared/bias"]


def test_a_model_used_twice_is_one_site():
    part = encoder()
    one, two = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([one, two], layers.Concatenate()([part(one), part(two)]))
    assert paths(sites(model)).count("encoder/dense_1") == 1
    assert len(weights(model)) == 4


def test_a_layer_in_a_nested_model_and_beside_it_is_one_site():
    shared = layers.Dense(4, name="shared")
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, shared(inner_input), name="inner")
    one, two = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([one, two], layers.Add()([inner(one), shared(two)]))
    assert [site.layer for site in sites(model)].count(shared) == 1
    assert len(weights(model)) == 2


def test_layers_of_one_name_have_different_paths():
    class Twins(keras.Model):
        def __init__(self):
            super().__init__()
            self.a, self.b = layers.Dense(2, name="twin"), layers.Dense(2, name="twin")

        def call(self, x):
            return self.b(self.a(x))

    model = Twins()
    model(np.zeros((1, 3), "float32"))
    assert paths(sites(model)) == ["twin", "twin#2"]
    assert [w.path for w in weights(model)] == ["twin/kernel", "twin/bias", "twin#2/kernel", "twin#2/bias"]
    assert matching(model, "twin") == ["twin", "twin#2"]
    assert matching(model, "twin#2") == ["twin#2"]


def test_a_subclassed_models_own_weights_belong_to_a_site_of_its_name(scaled):
    assert [w.path for w in weights(scaled)] == ["mine/scale", "head/kernel", "head/bias"]
    assert covered(scaled, "mine") == ["mine/scale"]
    assert covered(scaled, "Scaled") == ["mine/scale"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("head", ["head"]),
        ("Dense", ["encoder/dense_1", "encoder/dense_2", "head"]),
        ("dense_*", ["encoder/dense_1", "encoder/dense_2"]),
        ("dense_?", ["encoder/dense_1", "encoder/dense_2"]),
        ("dense_[2-9]", ["encoder/dense_2"]),
        ("encoder", ["encoder"]),
        ("encoder/dense_1", ["encoder/dense_1"]),
        ("encoder/*", ["encoder/dense_1", "encoder/dense_2"]),
        ("*/dense_1", ["encoder/dense_1"]),
        ("*/*_1", ["encoder/dense_1"]),
        ("attend/q*", ["attend/query"]),
        ("LSTM", ["lstm"]),
        ("lstm", ["lstm"]),
        ("lstm*", ["lstm", "lstm/lstm_cell"]),
        ("Reshape", ["reshape"]),
        ("dense", []),
        ("HEAD", []),
        ("head/kernel", []),
        ("encoder/dense_1/kernel", []),
        ("*/*/*", []),
        ("dense_1", ["encoder/dense_1"]),
        ("enc", []),
    ],
)
def test_selectors_match_names_classes_and_paths(nested, selector, expected):
    found = [p for p in matching(nested, selector) if p not in ("encoder/input_layer", "in")]
    assert [p for p in found if "input_layer" not in p] == expected


def test_a_name_with_brackets_matches_itself():
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(1, name="block[1]"), layers.Dense(1, name="block1")]
    )
    assert matching(model, "block[1]") == ["block[1]", "block1"]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (
            "encoder",
            [
                "encoder/dense_1/kernel",
                "encoder/dense_1/bias",
                "encoder/dense_2/kernel",
                "encoder/dense_2/bias",
            ],
        ),
        ("head", ["head/kernel", "head/bias"]),
        ("lstm", [f"lstm/lstm_cell/{role}" for role in ("kernel", "recurrent_kernel", "bias")]),
        ("attend/value", ["attend/value/kernel", "attend/value/bias"]),
        ("drop", []),
    ],
)
def test_a_selector_covers_the_weights_within(nested, selector, expected):
    assert covered(nested, selector) == expected


def test_a_star_covers_everything(nested):
    assert covered(nested, "*") == [w.path for w in weights(nested)]
    assert len(covered(nested, "*")) == len(nested.trainable_weights)


def test_frozen_weights_are_weights_and_statistics_are_not():
    model = keras.Sequential(
        [keras.Input((2,)), layers.Dense(1), layers.BatchNormalization(), layers.Dropout(0.5)]
    )
    model.trainable = False
    assert [w.role for w in weights(model)] == ["kernel", "bias", "gamma", "beta"]


@pytest.mark.parametrize(
    ("layer", "shape", "roles"),
    [
        (lambda: layers.Dense(1), (2,), {("kernel",), ("bias",)}),
        (lambda: layers.Embedding(3, 2), (2,), {("embeddings",)}),
        (
            lambda: layers.LSTM(1),
            (2, 2),
            {("kernel",), ("recurrent_kernel", "recurrent"), ("bias",)},
        ),
        (
            lambda: layers.DepthwiseConv2D(2),
            (3, 3, 1),
            {("kernel", "depthwise", "depthwise_kernel"), ("bias",)},
        ),
        (
            lambda: layers.SeparableConv1D(2, 2),
            (3, 1),
            {("depthwise_kernel", "depthwise"), ("pointwise_kernel", "pointwise"), ("bias",)},
        ),
        (lambda: layers.GroupNormalization(1), (2,), {("gamma",), ("beta",)}),
        (lambda: layers.PReLU(), (2,), {("alpha",)}),
    ],
)
def test_roles_are_kerass_names_and_the_variables(layer, shape, roles):
    model = keras.Sequential([keras.Input(shape), layer()])
    assert {w.roles for w in weights(model)} == roles


@pytest.mark.parametrize(
    ("layer", "role", "key"),
    [
        (lambda: layers.Dense(1), "kernel", "kernel_regularizer"),
        (lambda: layers.Dense(1), "scale", None),
        (lambda: layers.LSTMCell(1), "recurrent_kernel", "recurrent_regularizer"),
        (lambda: layers.DepthwiseConv1D(1), "kernel", "depthwise_regularizer"),
        (lambda: layers.SeparableConv2D(1, 1), "pointwise_kernel", "pointwise_regularizer"),
        (lambda: layers.LayerNormalization(), "gamma", "gamma_regularizer"),
        (lambda: layers.LayerNormalization(), "kernel", None),
    ],
)
def test_the_config_key_is_kerass_argument(layer, role, key):
    assert config_key(layer(), role) == key


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("head", ["head"]),
        ("encoder", ["encoder"]),
        ("encoder/*", ["encoder/dense_1", "encoder/dense_2"]),
        ("reshape", ["reshape"]),
        # Attention hands its activity regularizer on to its projections.
        ("attend", [f"attend/{part}" for part in ("query", "key", "value", "attention_output")]),
        ("MultiHeadAttention", [f"attend/{part}" for part in ("query", "key", "value", "attention_output")]),
        # A cell is called at each step, inside the loop: what it would charge could not get out.
        ("lstm*", ["lstm"]),
        ("LSTMCell", []),
        ("in", []),
        ("*", ["attend/query", "attend/key", "attend/value", "attend/attention_output", "lstm", "head"]),
    ],
)
def test_whose_output_an_activity_rule_charges(nested, selector, expected):
    found = paths(activity_sites(nested, selector))
    if selector == "*":
        expected = ["encoder/dense_1", "encoder/dense_2", *expected]
    assert sorted(found) == sorted(expected)


def test_group_query_attention_charges_its_own_output_too():
    inputs = keras.Input((3, 4))
    model = keras.Model(inputs, layers.GroupQueryAttention(2, 2, 1, name="attend")(inputs, inputs))
    parts = ["attend/query", "attend/key", "attend/value", "attend/attention_output"]
    assert sorted(paths(activity_sites(model, "*"))) == sorted([*parts, "attend"])


@pytest.mark.parametrize("thing", [None, 5, "model", layers.Dense(1), [1]], ids=repr)
def test_what_is_no_model_is_refused(thing):
    with pytest.raises(ModelError, match="A Keras model is needed; got"):
        sites(thing)


def test_an_unbuilt_model_is_refused_with_what_to_do():
    model = keras.Sequential([layers.Dense(1)], name="unbuilt")
    with pytest.raises(ModelError, match="'unbuilt' has no weights yet: give it an Input"):
        weights(model)
    model.build((None, 2))
    assert len(weights(model)) == 2


def test_a_model_without_weights_is_refused():
    with pytest.raises(ModelError, match="has no weights yet"):
        sites(keras.Sequential([keras.Input((2, 2)), layers.Flatten()]))
