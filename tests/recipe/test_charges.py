"""What is in force: every charged place, and what it charges."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import shrinkage
from shrinkage.errors import ModelError
from shrinkage.penalties import L1, L2, Penalty
from shrinkage.recipe import charges, describe
from shrinkage.recipe.charges import activity_charges, data_loss, zeros

layers, regularizers = keras.layers, keras.regularizers


class Own(regularizers.Regularizer):
    """A user's own penalty."""

    def __call__(self, w):
        return 0.5 * keras.ops.sum(keras.ops.abs(w))


RECIPE = "*: kernel = l1(0.03)\n*: bias = l2(0.02)\nhead: kernel = l1_l2(0.01, 0.02)\n*: activity = l2(0.005)"

# The subclassed model says at each `apply` that its file holds no penalties.
unsaved = pytest.mark.filterwarnings("ignore:The penalties are in force, but 'mine' is:UserWarning")


@pytest.fixture
def data(rng):
    return rng.normal(size=(64, 4)).astype("float32"), rng.normal(size=(64, 2)).astype("float32")


# --- describe -----------------------------------------------------------------------------------------------


@unsaved
def test_charges_and_data_loss_add_up_to_what_evaluate_reports(build, data):
    """Dropout is off, and normalization uses its statistics."""
    model = build()
    model.compile("sgd", "mse")
    shrinkage.apply(model, RECIPE)
    model.fit(*data, epochs=1, batch_size=32, verbose=0)
    table = describe(model, data)
    assert len(table.rows) == len(charges(model)) > 4
    assert all(row.charge is not None and row.charge > 0 for row in table.rows)
    assert {row.target for row in table.rows} >= {"kernel", "bias", "activity"}
    objective = table.data_loss + sum(row.charge for row in table.rows)
    assert model.evaluate(*data, batch_size=32, verbose=0) == pytest.approx(objective, rel=1e-5)
    assert sum(row.share for row in table.rows) + table.data_loss / objective == pytest.approx(1)


def test_describing_leaves_the_model_as_it_was(data, small):
    model = small()
    model.compile("sgd", "mse")
    shrinkage.apply(model, RECIPE)
    held = [layer.activity_regularizer for layer in model.layers]
    before, weights = model.evaluate(*data, verbose=0), model.get_weights()
    describe(model, data)
    assert [layer.activity_regularizer for layer in model.layers] == held
    assert model.evaluate(*data, verbose=0) == before
    for was, is_ in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, is_)


def test_an_error_in_the_forward_pass_leaves_the_model_as_it_was(small):
    model = small()
    shrinkage.apply(model, "head: activity = l2(0.1)")
    held = model.get_layer("head").activity_regularizer
    with pytest.raises(ValueError, match="incompatible with the layer"):
        activity_charges(model, np.zeros((5, 3), "float32"))
    assert model.get_layer("head").activity_regularizer is held


def test_models_with_several_inputs_are_described(rng):
    one, two = keras.Input((2,), name="one"), keras.Input((3,), name="two")
    joined = layers.Concatenate()([layers.Dense(2)(one), layers.Dense(2)(two)])
    model = keras.Model([one, two], layers.Dense(1, name="head")(joined))
    model.compile("sgd", "mse")
    shrinkage.apply(model, "*: kernel = l2(0.1)\nhead: activity = l1(0.1)")
    # More rows than are looked at at once, with a short last batch.
    a, b, y = (rng.normal(size=(300, n)).astype("float32") for n in (2, 3, 1))
    table = describe(model, ([a, b], y))
    objective = table.data_loss + sum(row.charge for row in table.rows)
    assert model.evaluate([a, b], y, verbose=0) == pytest.approx(objective, rel=1e-5)
    assert describe(model, ({"one": a, "two": b}, y)).data_loss == pytest.approx(table.data_loss, rel=1e-6)


def test_without_data_the_weights_alone_are_charged(small):
    model = small()
    shrinkage.apply(model, "head: kernel = l1(0.5)\nhead: activity = l2(0.25)")
    table = describe(model)
    weight, activity = table.rows
    assert (weight.layer, weight.target, weight.shape, weight.penalty) == (
        "head",
        "kernel",
        (5, 2),
        "l1(0.5)",
    )
    assert weight.strength == 0.5
    kernel = model.get_layer("head").get_weights()[0]
    assert weight.charge == pytest.approx(0.5 * np.abs(kernel).sum(), rel=1e-6)
    assert (activity.target, activity.shape, activity.charge, activity.share) == (
        "activity",
        (2,),
        None,
        None,
    )
    assert table.data_loss is None
    assert "needs data" in str(table)


def test_the_table_reads_as_a_table(small):
    model = small()
    model.get_layer("head").set_weights([np.full((5, 2), 0.5), np.zeros(2)])
    shrinkage.apply(model, "head: kernel = l1_l2(0.5, 0.25)\nhead: activity = l2(0.25)")
    assert str(describe(model)).splitlines() == [
        "layer  target    shape  penalty           strength  charge      share",
        "head   kernel    5×2    l1_l2(0.5, 0.25)  0.75      3.125",
        "head   activity  2      l2(0.25)          0.25      needs data",
    ]
    shrinkage.strip(model)
    assert str(describe(model)) == "No penalty is in force on this model."


def test_the_table_is_plain_json(data, small):
    model = small()
    model.compile("sgd", "mse")
    shrinkage.apply(model, RECIPE)
    plain = json.loads(json.dumps(describe(model, data).to_json()))
    assert len(plain["rows"]) == len(charges(model))
    assert set(plain["rows"][0]) == {"layer", "target", "shape", "penalty", "strength", "charge", "share"}
    assert plain["data_loss"] == pytest.approx(data_loss(model, *data))


def test_shares_are_those_of_the_objective(data, small):
    model = small()
    model.compile("sgd", "mse")
    shrinkage.apply(model, "head: kernel = l2(0.0)")
    (row,) = describe(model, data).rows
    assert (row.charge, row.share) == (0.0, 0.0)


def test_frozen_weights_are_listed_and_not_charged(data, small):
    model = small()
    shrinkage.apply(model, "hidden, head: kernel = l2(0.5)")
    model.get_layer("hidden").trainable = False
    model.compile("sgd", "mse")
    frozen, trained = describe(model, data).rows
    assert (frozen.penalty, frozen.charge) == ("l2(0.5) (frozen)", 0.0)
    assert trained.charge > 0
    objective = describe(model, data).data_loss + trained.charge
    assert model.evaluate(*data, verbose=0) == pytest.approx(objective, rel=1e-5)


def test_penalties_that_apply_did_not_put_there_are_described_too(data):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(2, kernel_regularizer="l2", activity_regularizer=regularizers.L1(1e-4), name="a"),
            layers.Dense(2, kernel_regularizer=Own(), bias_regularizer=L1(0.1), name="b"),
        ]
    )
    model.compile("sgd", "mse")
    rows = describe(model, data).rows
    assert [(r.layer, r.target, r.penalty) for r in rows] == [
        ("a", "kernel", "l2(0.01)"),
        ("b", "kernel", "Own"),
        ("b", "bias", "l1(0.1)"),
        ("a", "activity", "l1(0.0001)"),
    ]
    assert rows[1].strength is None
    assert rows[1].charge == pytest.approx(0.5 * np.abs(model.layers[1].get_weights()[0]).sum(), rel=1e-6)
    objective = describe(model, data).data_loss + sum(row.charge for row in rows)
    assert model.evaluate(*data, verbose=0) == pytest.approx(objective, rel=1e-5)


def test_data_needs_a_compiled_model(data, small):
    model = small()
    shrinkage.apply(model, RECIPE)
    for compiled in (False, True):
        if compiled:
            model.compile("sgd")
        with pytest.raises(ModelError, match="'small' has no loss: compile it first"):
            describe(model, data)


def test_the_fraction_of_exact_zeros_is_over_charged_weights(small):
    model = small()
    assert np.isnan(zeros(model))
    model.get_layer("head").set_weights([np.eye(5, 2), np.zeros(2)])
    shrinkage.apply(model, "head: kernel = l1(0.1)")
    assert zeros(model) == 0.8


def test_a_charge_knows_its_place(small):
    model = small()
    shrinkage.apply(model, "head: kernel = l1(0.5)\nhead: activity = l2(0.25)")
    weight, activity = charges(model)
    assert (weight.place, activity.place) == ("head/kernel", "head (activity)")
    assert isinstance(weight.penalty, Penalty)
    assert activity.penalty == L2(0.25)
    assert not weight.frozen
    assert not activity.frozen
