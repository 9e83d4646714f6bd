"""What the receipt and the survey say, against numbers worked out by hand."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import shrinkage.compact
from shrinkage.compact import Receipt, Survey, compact, survey
from shrinkage.compact.receipt import LayerRow, Totals
from shrinkage.errors import ModelError
from shrinkage.models import cnn, mlp

layers = keras.layers


@pytest.fixture
def image_model(randomize, silence, deafen) -> keras.Model:
    """Filters 4 -> 3, then 6 -> 4, of an 8×8 image with one channel."""
    model = randomize(cnn((12, 12, 1), 3, filters=[4, 6], dense=[5]))
    silence(model.get_layer("conv_1"), [0])
    silence(model.get_layer("conv_2"), [1, 5])
    silence(model.get_layer("dense_1"), [2])
    return model


def test_parameters_and_products_by_hand(image_model):
    """12 - 3 + 1 = 10 places a side, 5 after pooling; 3 and 1 for the second."""
    _, receipt = compact(image_model, measure=False)
    assert [(r.path, r.kind, r.units) for r in receipt.layers] == [
        ("conv_1", "Conv2D", (4, 3)),
        ("conv_2", "Conv2D", (6, 4)),
        ("dense_1", "Dense", (5, 4)),
        ("head", "Dense", (3, 3)),
    ]
    assert [r.parameters for r in receipt.layers] == [
        (9 * 4 + 4, 9 * 3 + 3),
        (9 * 4 * 6 + 6, 9 * 3 * 4 + 4),
        (6 * 5 + 5, 4 * 4 + 4),
        (5 * 3 + 3, 4 * 3 + 3),
    ]
    assert [r.macs for r in receipt.layers] == [
        (100 * 9 * 4, 100 * 9 * 3),
        (9 * 9 * 4 * 6, 9 * 9 * 3 * 4),
        (6 * 5, 4 * 4),
        (5 * 3, 4 * 3),
    ]
    for part in ("before", "after"):
        side = ("before", "after").index(part)
        assert getattr(receipt, part).parameters == sum(r.parameters[side] for r in receipt.layers)
        assert getattr(receipt, part).macs == sum(r.macs[side] for r in receipt.layers)
    assert receipt.before.parameters == image_model.count_params()


def test_products_of_every_kernel(randomize):
    model = [
        keras.Input((8, 8, 2)),
        layers.SeparableConv2D(4, 3, depth_multiplier=2, name="separable"),  # to 6 × 6
        layers.DepthwiseConv2D(3, strides=2, depth_multiplier=3, name="depthwise"),  # to 2 × 2 × 12
        layers.Conv2DTranspose(5, 2, strides=2, name="transposed"),  # to 4 × 4
        layers.Conv2D(6, 3, padding="same", groups=1, name="same"),
        layers.BatchNormalization(name="norm"),
        layers.Reshape((8, 12)),
        layers.Conv1D(12, 3, groups=4, name="grouped"),  # to 6
        layers.Dense(2, name="dense"),
        layers.LSTM(3, name="lstm"),
    ]
    _, receipt = compact(randomize(keras.Sequential(model)), measure=False)
    assert {r.path: r.macs[0] for r in receipt.layers} == {
        "separable": 36 * (9 * 2 * 2 + 4 * 4),
        "depthwise": 4 * 9 * 4 * 3,
        "transposed": 4 * 4 * 12 * 5,
        "same": 16 * 9 * 5 * 6,
        "norm": 0,
        "grouped": 6 * 3 * 3 * 12,
        "dense": 6 * 12 * 2,
        "lstm": None,
    }
    assert receipt.before.macs == sum(r.macs[0] or 0 for r in receipt.layers)
    assert receipt.notes == ("Multiply-accumulates are not counted for LSTM.",)


def test_products_are_summed_over_calls(randomize):
    """Parameters are not."""
    inner = keras.Sequential([keras.Input((3,)), layers.Dense(3, name="deep")], name="inner")
    x = keras.Input((3,))
    model = randomize(keras.Model(x, layers.Dense(2, name="head")(inner(inner(x)))))
    _, receipt = compact(model, measure=False)
    assert [(r.path, r.parameters[0], r.macs[0]) for r in receipt.layers] == [
        ("inner/deep", 12, 18),
        ("head", 8, 6),
    ]


def test_sizes_and_latencies_are_measured(image_model):
    image_model.compile("adam", "sparse_categorical_crossentropy")
    _, receipt = compact(image_model)
    for part in (receipt.before, receipt.after):
        assert part.bytes > 5000
        assert 0 < part.latency_1 < 1000
        assert 0 < part.latency_64 < 1000
    assert image_model.predict_function is None
    assert json.loads(json.dumps(receipt.as_dict()))["after"]["bytes"] == receipt.after.bytes


def test_a_model_that_takes_one_batch_size_alone(randomize):
    model = randomize(keras.Sequential([keras.Input(batch_shape=(3, 4)), layers.Dense(5), layers.Dense(2)]))
    _, receipt = compact(model)
    assert receipt.before.latency_1 is receipt.after.latency_64 is None
    assert receipt.before.bytes


def test_the_table_is_readable_and_narrow(image_model):
    image_model.get_layer("conv_1")
    x = keras.Input((12, 12, 1))
    long = keras.Model(x, layers.LSTM(3, name="l" * 60)(layers.Reshape((1, 3))(image_model(x))), name="long")
    _, receipt = compact(long, measure=False)
    text = str(receipt)
    assert max(map(len, text.splitlines())) <= 100
    assert f"{receipt.after.parameters:,} of {receipt.before.parameters:,} parameters are left" in text
    assert "cnn/conv_1" in text
    assert "4 → 3" in text
    assert "These layers keep all their channels:" in text
    assert "LSTM is not a type that can shrink" in text
    assert "Multiply-accumulates are not counted for LSTM." in text


# --- the survey ---------------------------------------------------------------------------------------------


def test_a_survey_by_hand(image_model):
    """Units of the head can't go: they are outputs."""
    found = survey(image_model)
    zeros = 9 + 2 * 9 * 4 + 6
    assert found.zeros == pytest.approx(zeros / (9 * 4 + 9 * 4 * 6 + 6 * 5 + 5 * 3))
    assert (found.units, found.live_units) == (4 + 6 + 5, 3 + 4 + 4)
    _, receipt = compact(image_model, measure=False)
    assert (found.parameters, found.parameters_after) == (receipt.before.parameters, receipt.after.parameters)
    assert [(layer.units, layer.live_units) for layer in found.layers] == [(4, 3), (6, 4), (5, 4)]
    assert Survey(**{**found.as_dict(), "layers": found.layers}) == found


def test_a_survey_counts_biases_that_come_on(randomize, silence):
    first, head = layers.Dense(6, activation="tanh", name="first"), layers.Dense(2, use_bias=False)
    model = randomize(keras.Sequential([keras.Input((4,)), first, head]))
    silence(first, [1], bias=0.5)
    found = survey(model)
    assert found.parameters == 4 * 6 + 6 + 6 * 2
    assert found.parameters_after == 4 * 5 + 5 + 5 * 2 + 2
    assert compact(model, measure=False)[0].count_params() == found.parameters_after


def test_a_survey_neither_calls_nor_changes_the_model(randomize, monkeypatch):
    model = randomize(mlp((4,), 2, hidden=[5]))
    before = model.get_weights()
    monkeypatch.setattr(type(model), "__call__", None)
    survey(model)
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_a_survey_of_a_subclassed_model_is_an_error():
    class Mine(keras.Model):
        pass

    with pytest.raises(ModelError):
        survey(Mine())


# --- the room -----------------------------------------------------------------------------------------------


def test_the_room_and_its_function_have_one_name(randomize):
    """Importing the room puts it where the package shows the function."""
    model = randomize(mlp((4,), 2, hidden=[5]))
    _, receipt = shrinkage.compact(model, np.zeros((3, 4)), measure=False)
    assert isinstance(receipt, Receipt)


# --- in a notebook --------------------------------------------------------------------------------------


def test_a_notebook_shows_the_numbers_that_are_printed(shown, image_model):
    _, receipt = compact(image_model, measure=False)
    printed, cells = str(receipt), shown(receipt).cells
    assert len(cells) > 30
    for cell in cells:
        if cell not in ("What the model costs", "Layers with weights", "why"):
            assert cell in printed


def test_layers_that_stay_whole_and_notes_are_shown(shown):
    totals = Totals(36, 32), Totals(20, 18)
    receipt = Receipt("small", *totals, (), (("head", "feeds an output"),), ("A bias was folded.",), 0.0)
    assert shown(receipt).cells[-3:] == ["head", "feeds an output", "A bias was folded."]
    found = Survey(0.5, 8, 3, 100, 40)
    assert shown(found).cells == [str(found)]


def test_hostile_names_are_text(shown, hostile):
    def receipt(name):
        row = LayerRow(name, name, (4, 3), (20, 10), (None, None))
        totals = Totals(36, 32), Totals(20, 18)
        return shown(Receipt(name, *totals, (row,), ((name, name),), (name,), 0.0)).elements

    assert receipt(hostile) == receipt("harmless")
