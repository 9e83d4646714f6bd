"""What is saved: a file that Keras alone loads where it can, and a warning where a config has no place."""

from __future__ import annotations

import json
import re
import warnings
import zipfile

import keras
import numpy as np
import pytest

import shrinkage
from shrinkage.errors import ShrinkageWarning
from shrinkage.penalties import L1, L2, LiveStrength, Penalty
from shrinkage.recipe import charges, make_live
from shrinkage.recipe.place import SavedAsKeras

layers, regularizers = keras.layers, keras.regularizers


@keras.saving.register_keras_serializable("tests")
class Bare(layers.Layer):
    """A user's layer that knows nothing of regularizers."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale", initializer="ones")

    def call(self, x):
        return x * self.scale


@keras.saving.register_keras_serializable("tests")
class Block(layers.Layer):
    """A user's composite layer that hands one regularizer on to one of its two parts, and has a kernel."""

    def __init__(self, kernel_regularizer=None, on_kernel=False, **kwargs):
        super().__init__(**kwargs)
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.on_kernel = on_kernel
        self.charged = layers.Dense(
            2, kernel_regularizer=None if on_kernel else kernel_regularizer, name="charged"
        )
        self.free = layers.Dense(2, name="free")

    def build(self, shape):
        self.charged.build(shape)
        self.free.build(shape)
        if self.on_kernel:
            self.kernel = self.add_weight(
                shape=(2, 2), name="kernel", initializer="ones", regularizer=self.kernel_regularizer
            )

    def call(self, x):
        out = self.charged(x) + self.free(x)
        return out @ self.kernel if self.on_kernel else out

    def get_config(self):
        return {
            **super().get_config(),
            "kernel_regularizer": regularizers.serialize(self.kernel_regularizer),
            "on_kernel": self.on_kernel,
        }


class Own(regularizers.Regularizer):
    """A user's own penalty, without a config."""

    def __call__(self, w):
        return keras.ops.sum(keras.ops.abs(w))


def config_of(path) -> dict:
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read("config.json"))


def attention(layer=None) -> keras.Model:
    inputs = keras.Input((3, 4))
    layer = layer or layers.MultiHeadAttention(2, 2, name="attend")
    return keras.Model(inputs, layer(inputs, inputs))


def reloaded(model, path) -> keras.Model:
    model.save(path)
    return keras.saving.load_model(path)


def in_force(model) -> dict[str, str]:
    return {charge.place: str(charge.penalty) for charge in charges(model)}


# --- what the config holds ----------------------------------------------------------------------------------


def test_the_config_holds_kerass_object_where_it_is_equal(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="head")])
    shrinkage.apply(
        model, "head: kernel = l1(1e-4)\nhead: bias = l2(0.3)\nhead: activity = l1_l2(1e-5, 1e-4)"
    )
    model.save(tmp_path / "model.keras")
    text = json.dumps(config_of(tmp_path / "model.keras"))
    assert "shrinkage" not in text
    head = config_of(tmp_path / "model.keras")["config"]["layers"][1]["config"]
    assert head["kernel_regularizer"] == regularizers.serialize(regularizers.L1(1e-4))
    assert head["bias_regularizer"] == regularizers.serialize(regularizers.L2(0.3))
    assert head["activity_regularizer"] == regularizers.serialize(regularizers.L1L2(1e-5, 1e-4))


def test_the_config_is_that_of_a_model_built_with_keras_alone(config_json):
    kwargs = {"kernel_regularizer": regularizers.L1(1e-4), "activity_regularizer": regularizers.L2(0.1)}
    theirs, ours = (
        keras.Sequential([keras.Input((4,), name="in"), layers.Dense(2, name="head", **k)], name="m")
        for k in (kwargs, {})
    )
    shrinkage.apply(ours, "head: kernel = l1(1e-4)\nhead: activity = l2(0.1)")
    assert config_json(ours) == config_json(theirs)
    shrinkage.strip(theirs)
    shrinkage.strip(ours)
    assert config_json(ours) == config_json(theirs)


def test_a_penalty_that_keras_has_not_is_saved_as_ours(tmp_path):
    @keras.saving.register_keras_serializable("tests")
    class Third(L2):
        """A third of the square."""

        text_name = "third"

    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="head")])
    shrinkage.apply(model, [shrinkage.Rule("head", "kernel, activity", Third(0.3))])
    again = reloaded(model, tmp_path / "model.keras")
    assert [c.penalty for c in charges(again)] == [Third(0.3), Third(0.3)]


def test_half_precision_activity_is_saved_as_ours(tmp_path, half_policy):
    """Keras's own formula would overflow after loading."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="head")])
    shrinkage.apply(model, "head: kernel, activity = l2(0.3)")
    again = reloaded(model, tmp_path / "model.keras")
    assert isinstance(again.layers[0].activity_regularizer, Penalty)
    assert not isinstance(again.layers[0].kernel_regularizer, Penalty)
    assert in_force(again) == in_force(model) == {"head/kernel": "l2(0.3)", "head (activity)": "l2(0.3)"}


def test_nested_and_shared_layers_are_saved(tmp_path):
    shared = layers.Dense(4, name="shared")
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, layers.Dense(4, name="deep")(shared(shared(inner_input))), name="inner")
    outer_input = keras.Input((4,))
    model = keras.Model(outer_input, layers.Dense(1, name="head")(inner(outer_input)))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ShrinkageWarning)
        shrinkage.apply(model, "*: kernel = l1(0.5)\ndeep: bias, activity = l2(0.25)")
    again = reloaded(model, tmp_path / "model.keras")
    assert in_force(again) == in_force(model)
    assert len(in_force(again)) == 5


def test_optimizer_state_and_weights_survive_the_file(tmp_path, rng):
    x, y = rng.normal(size=(16, 4)).astype("float32"), rng.normal(size=(16, 1)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1, name="head")])
    model.compile("adam", "mse")
    model.fit(x, y, epochs=2, verbose=0)
    shrinkage.apply(model, "head: kernel = l1(0.5)")
    model.fit(x, y, verbose=0)
    again = reloaded(model, tmp_path / "model.keras")
    for before, after in zip(model.variables, again.variables, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())
    for before, after in zip(model.optimizer.variables, again.optimizer.variables, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())
    assert again.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0), rel=1e-6)


# --- composite layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [layers.MultiHeadAttention, layers.GroupQueryAttention])
def test_attention_as_a_whole_is_saved(tmp_path, kind):
    arguments = (2, 2) if kind is layers.MultiHeadAttention else (2, 2, 1)
    model = attention(kind(*arguments, name="attend"))
    shrinkage.apply(model, "attend: kernel = l1(0.5)\nattend: bias = l2(0.25)\nattend: activity = l2(0.125)")
    again = reloaded(model, tmp_path / "model.keras")
    assert in_force(again) == in_force(model)
    assert len(in_force(again)) == (12 if kind is layers.MultiHeadAttention else 13)


@pytest.mark.parametrize(
    ("recipe", "lost"),
    [
        ("attend/query: kernel = l1(0.5)", "attend/query/kernel"),
        ("attend/query: activity = l1(0.5)", "attend/query (activity)"),
        (
            "attend: kernel = l2(0.5)\nattend/query: kernel = none",
            "attend/key/kernel, attend/value/kernel, attend/attention_output/kernel",
        ),
    ],
)
def test_a_part_of_an_attention_layer_has_no_place_in_its_config(tmp_path, recipe, lost):
    model = attention()
    with pytest.warns(
        ShrinkageWarning, match=re.escape(f"has no place to save it: {lost}. Apply the recipe again")
    ):
        shrinkage.apply(model, recipe)
    assert len(charges(model)) == lost.count("attend/")
    assert charges(reloaded(model, tmp_path / "model.keras")) == (), (
        "the file claims no more than is in force"
    )


def test_exempting_a_part_warns_that_the_rest_is_not_saved_any_more(tmp_path):
    model = attention(layers.MultiHeadAttention(2, 2, kernel_regularizer="l2", name="attend"))
    with pytest.warns(ShrinkageWarning, match="attend/key/kernel, attend/value/kernel"):
        shrinkage.apply(model, "attend/query: kernel = none")
    assert len(charges(model)) == 3
    assert charges(reloaded(model, tmp_path / "model.keras")) == ()


def test_kerass_own_and_ours_of_equal_numbers_agree(tmp_path):
    model = attention(layers.MultiHeadAttention(2, 2, kernel_regularizer=regularizers.L2(0.5), name="attend"))
    shrinkage.apply(model, "attend/query: kernel = l2(0.5)")
    assert len(charges(reloaded(model, tmp_path / "model.keras"))) == 4


def block_model(**kwargs) -> keras.Model:
    return keras.Sequential([keras.Input((4,)), Block(name="block", **kwargs), layers.Dense(1, name="head")])


def test_composites_that_no_rule_names_stay_as_they_are(tmp_path):
    """A rule on another layer must not change what a composite layer saves."""
    for kwargs in ({"kernel_regularizer": "l2"}, {"kernel_regularizer": "l2", "on_kernel": True}):
        model = block_model(**kwargs)
        before = in_force(model)
        assert len(before) == 1
        shrinkage.apply(model, "head: bias = l1(0.1)")
        assert in_force(reloaded(model, tmp_path / "model.keras")) == {**before, "head/bias": "l1(0.1)"}


def test_a_composites_argument_for_a_weight_of_its_own_stays_that():
    model = block_model(kernel_regularizer="l2", on_kernel=True)
    with pytest.warns(ShrinkageWarning, match="no place to save it: block/charged/kernel"):
        shrinkage.apply(model, "block/charged: kernel = l1(0.5)")
    assert model.layers[0].get_config()["kernel_regularizer"] == regularizers.serialize(regularizers.L2(0.01))


def test_bidirectional_halves_are_saved_apart(tmp_path):
    model = keras.Sequential(
        [keras.Input((3, 2)), layers.Bidirectional(layers.LSTM(2, name="lstm"), name="both")]
    )
    shrinkage.apply(model, "both: kernel = l2(0.5)\nbackward*: kernel, recurrent_kernel = l1(0.25)")
    again = reloaded(model, tmp_path / "model.keras")
    assert in_force(again) == in_force(model)
    assert sorted(in_force(model).values()) == ["l1(0.25)", "l1(0.25)", "l2(0.5)", "l2(0.5)"]


def test_time_distributed_inner_layers_are_saved(tmp_path):
    model = keras.Sequential(
        [keras.Input((3, 2)), layers.TimeDistributed(layers.Dense(2, name="inner"), name="each")]
    )
    shrinkage.apply(model, "inner: kernel, activity = l2(0.5)")
    again = reloaded(model, tmp_path / "model.keras")
    assert in_force(again) == in_force(model)
    assert len(in_force(again)) == 2


# --- layers without a place ---------------------------------------------------------------------------------


def test_a_layer_without_a_place_is_named_in_a_warning(tmp_path):
    model = keras.Sequential([keras.Input((4,)), Bare(name="bare"), layers.Dense(1, name="head")])
    with pytest.warns(
        ShrinkageWarning, match=r"no place to save it: bare/scale\. Apply the recipe again"
    ) as caught:
        shrinkage.apply(model, "bare: scale = l1(0.5)\nhead: kernel = l2(0.25)")
    assert len(caught) == 1
    assert float(sum(model.losses)) > 0.5 * 4
    assert in_force(reloaded(model, tmp_path / "model.keras")) == {"head/kernel": "l2(0.25)"}


def test_a_read_only_attribute_is_no_place(tmp_path):
    class Fixed(Bare):
        @property
        def scale_regularizer(self):
            return None

    model = keras.Sequential([keras.Input((4,)), Fixed(name="fixed"), layers.Dense(1)])
    with pytest.warns(ShrinkageWarning, match="no place to save it: fixed/scale"):
        shrinkage.apply(model, "fixed: scale = l1(0.5)")
    assert float(sum(model.losses)) == pytest.approx(2)


def test_an_attribute_that_the_config_leaves_out_is_no_place():
    class Forgetful(Bare):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.scale_regularizer = None

    model = keras.Sequential([keras.Input((4,)), Forgetful(name="forgetful"), layers.Dense(1)])
    with pytest.warns(ShrinkageWarning, match="no place to save it: forgetful/scale"):
        shrinkage.apply(model, "forgetful: scale = l1(0.5)")


def test_taking_a_penalty_off_never_warns():
    model = keras.Sequential([keras.Input((4,)), Bare(name="bare"), layers.Dense(1, name="head")])
    shrinkage.apply(model, "bare: scale = none\nhead: kernel = none")
    model.layers[0].scale.regularizer = Own()
    shrinkage.strip(model)
    assert model.losses == []


def test_a_part_that_is_a_subclassed_model_saves_nothing_of_its_own():
    class Part(keras.Model):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.dense = layers.Dense(2, name="dense")

        def call(self, x):
            return self.dense(x)

    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(1, name="head")(Part(name="part")(inputs)))
    with pytest.warns(ShrinkageWarning, match="no place to save it: part/dense/kernel") as caught:
        shrinkage.apply(model, "*: kernel = l1(0.5)")
    assert "head" not in str(caught[0].message)


# --- layers with a way of their own -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("penalty", "saved"),
    [("l1(0.5)", (0.5, 0.0)), ("l2(0.25)", (0.0, 0.25)), ("l1_l2(0.5, 0.25)", (0.5, 0.25))],
)
def test_an_activity_regularization_layer_saves_two_numbers(tmp_path, penalty, saved):
    layer = layers.ActivityRegularization(l1=0.1, name="sparse")
    model = keras.Sequential([keras.Input((4,)), layer, layers.Dense(1)])
    shrinkage.apply(model, f"sparse: activity = {penalty}")
    assert (layer.l1, layer.l2) == saved
    x = np.ones((2, 4), "float32")
    again = reloaded(model, tmp_path / "model.keras")
    for each in (model, again):
        each(x)
        assert float(each.losses[0]) == pytest.approx(sum(saved) * 4)
    shrinkage.strip(model)
    assert charges(reloaded(model, tmp_path / "model.keras"))[0].penalty.strength == 0


def test_trap_keras_does_not_read_some_activity_regularizers_from_its_config(tmp_path):
    """Those of SimpleRNN and of a nested model are written and not read; so `apply` warns."""
    inner = keras.Sequential([keras.Input((2,)), layers.Dense(2)], name="inner")
    model = keras.Sequential([keras.Input((3, 2)), layers.SimpleRNN(2, name="rnn"), inner])
    with pytest.warns(ShrinkageWarning, match=r"no place to save it: rnn \(activity\), inner \(activity\)"):
        shrinkage.apply(model, "rnn, inner: activity = l1(0.5)")
    again = reloaded(model, tmp_path / "model.keras")
    assert json.dumps(config_of(tmp_path / "model.keras")).count('"L1"') == 2
    assert charges(again) == ()


def test_saved_as_keras_is_its_twin_for_keras_and_ours_for_the_step():
    live = LiveStrength(0.1)
    wrapped = SavedAsKeras(L1(0.1).bind(live))
    assert isinstance(wrapped, regularizers.L1)
    assert type(wrapped) is SavedAsKeras
    assert regularizers.serialize(wrapped) == regularizers.serialize(regularizers.L1(0.1))
    live.assign(0.5)
    assert float(wrapped(np.ones(3, "float32"))) == pytest.approx(1.5)
    assert regularizers.serialize(wrapped) == regularizers.serialize(regularizers.L1(0.5))


def test_a_live_strength_is_saved_as_the_number_it_has_now(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="head")])
    shrinkage.apply(model, "head: kernel, activity = l1_l2(0.1, 0.3)")
    live = next(iter(make_live(model).values()))
    live.assign(0.2)
    for charge in charges(reloaded(model, tmp_path / "model.keras")):
        assert charge.penalty.numbers() == pytest.approx((0.05, 0.15)), charge.target
