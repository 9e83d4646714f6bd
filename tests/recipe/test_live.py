"""Live strengths: they change between steps, and nothing is traced anew."""

from __future__ import annotations

import zipfile

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shrinkage
from shrinkage.errors import RecipeError, StrengthError
from shrinkage.penalties import L1, L1L2, L2
from shrinkage.recipe import Rule, charges, make_live

layers, regularizers = keras.layers, keras.regularizers

RECIPE = "*: kernel = l1(0.03)\n*: bias = l2(0.02)\nhead: kernel = l1_l2(0.01, 0.02)\n*: activity = l2(0.005)"

# The subclassed model says at each `apply` that its file holds no penalties.
unsaved = pytest.mark.filterwarnings("ignore:The penalties are in force, but 'mine' is:UserWarning")


@pytest.fixture
def data(rng):
    return rng.normal(size=(64, 4)).astype("float32"), rng.normal(size=(64, 2)).astype("float32")


class Own(regularizers.Regularizer):
    """A user's own penalty."""

    def __call__(self, w):
        return 0.5 * keras.ops.sum(keras.ops.abs(w))


class Counting(L2):
    """An L2 that counts how often Python runs its formula: once a trace."""

    calls = 0

    @staticmethod
    def _value(w, l2):
        Counting.calls += 1
        return L2._value(w, l2)


def omega(model, x) -> float:
    """Σ w² over the kernels and Σ y² a sample over the outputs that RULES charge, computed by hand."""
    kernel = model.get_layer("head").get_weights()[0]
    return float(np.square(kernel).sum() + np.square(keras.ops.convert_to_numpy(model(x))).sum() / len(x))


@pytest.mark.not_on("torch", "Keras compiles nothing there")
def test_changing_a_live_strength_retraces_nothing(data, small):
    x, y = data
    model = small()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    bare = model.evaluate(x, y, verbose=0)
    shrinkage.apply(model, [Rule("head", "kernel, activity", Counting(0.1))])
    (live,) = make_live(model).values()
    model.fit(x, y, batch_size=32, verbose=0)
    model.evaluate(x, y, verbose=0)
    expected = omega(model, x)
    traced = Counting.calls
    for strength in (0.5, 0.0, 3.0):
        live.assign(strength)
        assert model.evaluate(x, y, verbose=0) == pytest.approx(bare + strength * expected, rel=1e-5)
        model.fit(x, y, batch_size=32, epochs=2, verbose=0)
    assert Counting.calls == traced


def test_a_live_strength_trains(data, small):
    """A training step at strength s moves the weight by the penalty's gradient at s."""
    x, y = data
    model = small()
    model.get_layer("drop").rate = 0.0
    model.compile(keras.optimizers.SGD(0.1), "mse")
    shrinkage.apply(model, "head: kernel = l2(0.1)")
    (live,) = make_live(model).values()
    start = model.get_weights()
    ends = []
    for strength in (0.0, 0.5, 1.0):
        model.set_weights(start)
        live.assign(strength)
        model.train_on_batch(x, y)
        ends.append(model.get_layer("head").get_weights()[0])
    kernel = start[2]
    for strength, end in zip((0.5, 1.0), ends[1:], strict=True):
        np.testing.assert_allclose(ends[0] - end, 0.1 * 2 * strength * kernel, rtol=1e-4, atol=1e-6)


@unsaved
def test_live_strengths_leave_no_trace_in_the_model(build, data, tmp_path):
    """Weights, counts and the saved config are those of before, byte for byte."""
    x, y = data
    model = build()
    model.compile("adam", "mse")
    model.fit(x, y, batch_size=32, verbose=0)
    bare = model.evaluate(x, y, verbose=0)
    shrinkage.apply(model, RECIPE)

    def state(name):
        model.save(tmp_path / f"{name}.keras")
        with zipfile.ZipFile(tmp_path / f"{name}.keras") as archive:
            config = archive.read("config.json")
        return config, [v.path for v in model.weights], model.count_params(), len(model.trainable_variables)

    before, values = state("before"), model.get_weights()
    loss = model.evaluate(x, y, verbose=0)
    optimizer = [v.numpy() for v in model.optimizer.variables]
    states = make_live(model)
    assert sorted(live.host for live in states.values()) == pytest.approx([0.005, 0.02, 0.03, 0.03])
    assert state("after") == before
    for was, is_ in zip(values, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, is_)
    for was, is_ in zip(optimizer, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(was, is_.numpy())
    # And they act, in every kind of model.
    assert model.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-6)
    for live in states.values():
        live.assign(0.0)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(bare, rel=1e-6)


@unsaved
def test_the_strength_of_a_models_own_weight_is_live_too(scaled, data):
    x, y = data
    scaled.compile("sgd", "mse")
    loss = scaled.evaluate(x, y, verbose=0)
    shrinkage.apply(scaled, "mine: scale = l1(0.5)\nhead: kernel = l1(0.5)")
    (live,) = make_live(scaled).values()
    live.assign(0.25)
    charge = 0.25 * (4 + np.abs(scaled.head.get_weights()[0]).sum())
    assert scaled.evaluate(x, y, verbose=0) == pytest.approx(loss + charge, rel=1e-5)
    scaled.fit(x, y, verbose=0)


coefficient = st.floats(min_value=0, max_value=10)


@settings(max_examples=40)
@given(
    penalties=st.lists(
        st.builds(L1, coefficient) | st.builds(L2, coefficient) | st.builds(L1L2, coefficient, coefficient),
        min_size=3,
        max_size=3,
    )
)
def test_the_config_keeps_every_digit(config_json, penalties, small):
    model = small()
    targets = ("kernel", "bias", "activity")
    shrinkage.apply(model, [Rule("head", t, p) for t, p in zip(targets, penalties, strict=True)])
    before = config_json(model)
    make_live(model)
    assert config_json(model) == before
    for charge, penalty in zip(charges(model), penalties, strict=True):
        # Keras's L1, which holds the output's strength, rounds it to float32.
        assert charge.penalty.numbers() == pytest.approx(penalty.numbers(), rel=1e-7)


def test_equal_penalties_share_a_state_and_others_do_not(small):
    model = small()
    shrinkage.apply(model, "*: kernel = l2(0.1)\n*: bias = l2(0.2)\nhead: activity = l2(0.1)")
    states = make_live(model)
    assert set(states) == {"hidden/kernel", "hidden/bias"}, "each is named by its first place"
    held = {c.place: c.penalty.live for c in charges(model)}
    assert held["head/kernel"] is held["hidden/kernel"] is held["head (activity)"] is states["hidden/kernel"]
    assert held["head/bias"] is held["hidden/bias"] is states["hidden/bias"]
    assert (states["hidden/kernel"].host, states["hidden/bias"].host) == (0.1, 0.2)


def test_only_the_places_that_are_named_become_live(small):
    model = small()
    shrinkage.apply(model, "*: kernel, bias = l2(0.1)")
    states = make_live(model, "head: kernel, bias")
    assert list(states) == ["head/kernel"]
    states["head/kernel"].assign(0.5)
    assert [c.penalty.strength for c in charges(model)] == [0.1, 0.1, 0.5, 0.5]
    with pytest.raises(RecipeError, match="Did you mean 'head'"):
        make_live(model, "haed: kernel")


def test_making_live_twice_is_making_live_once(small):
    model = small()
    shrinkage.apply(model, RECIPE)
    first, variables = make_live(model), len(model.variables)
    second = make_live(model)
    assert second == first
    assert all(second[penalty] is first[penalty] for penalty in first)
    assert len(model.variables) == variables


def test_taking_penalties_off_takes_their_state_off(small):
    model = small()
    plain = len(model.variables)
    shrinkage.apply(model, RECIPE)
    make_live(model)
    assert len(model.variables) == plain + 4
    shrinkage.apply(model, "*: bias = none\n*: activity = l2(0.005)")
    assert len(model.variables) == plain + 2
    shrinkage.strip(model)
    assert len(model.variables) == plain


def test_what_has_no_equal_of_ours_stays_as_it_is():
    own = Own()
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(2, kernel_regularizer=own, bias_regularizer="l2")]
    )
    states = make_live(model)
    assert [live.host for live in states.values()] == [0.01]
    assert model.layers[0].kernel.regularizer is own


def test_keras_built_penalties_become_live_with_the_numbers_as_written(config_json):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(2, kernel_regularizer=regularizers.L1(1e-4), activity_regularizer="l1"),
        ]
    )
    before = config_json(model)
    states = make_live(model)
    assert [live.host for live in states.values()] == [1e-4, 0.01]
    assert config_json(model) == before


def test_a_model_without_penalties_has_no_states(small):
    model = small()
    assert make_live(model) == {}


def test_live_activity_penalties_in_half_precision(half_policy, rng):
    model = keras.Sequential([keras.Input((28, 28, 1)), layers.Conv2D(32, 3, name="conv")])
    model.layers[0].set_weights([rng.normal(size=(3, 3, 1, 32)), np.zeros(32)])
    shrinkage.apply(model, "conv: activity = l2(1e-6)")
    (live,) = make_live(model).values()
    live.assign(1e-5)
    x = (3 * rng.normal(size=(2, 28, 28, 1))).astype("float32")
    outputs = keras.ops.convert_to_numpy(model(x)).astype("float64")
    assert np.square(outputs).sum() / 2 > 65504
    assert float(model.losses[0]) == pytest.approx(1e-5 * np.square(outputs).sum() / 2, rel=1e-3)


@pytest.mark.jax_only
def test_a_state_outside_the_model_is_refused_rather_than_frozen(data, small):
    """On JAX the compiled step would hold its value as a constant."""
    model = small()
    shrinkage.apply(model, "head: kernel = l2(0.1)")
    make_live(model)
    for step in ("fit", "evaluate"):
        other = small()
        other.compile("sgd", "mse")
        other.get_layer("head").kernel.regularizer = model.get_layer("head").kernel.regularizer
        with pytest.raises(StrengthError, match="not part of the model that is being trained"):
            getattr(other, step)(*data, verbose=0)


def test_a_clone_has_the_numbers_and_not_the_state(data, small):
    model = small()
    shrinkage.apply(model, "head: activity = l2(0.1)\nhead: kernel = l1(0.2)")
    states = make_live(model)
    states["head/activity"].assign(0.5)
    clone = keras.models.clone_model(model)
    by_target = {c.target: c.penalty for c in charges(clone)}
    assert by_target["activity"] == L2(0.5)
    assert by_target["kernel"] == L1(0.2)
    assert all(p.live is None for p in by_target.values())
    clone.compile("sgd", "mse")
    clone.fit(*data, verbose=0)
