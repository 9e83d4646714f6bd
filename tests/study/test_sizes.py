"""Sizes: what a study says of the zeros in its trials' weights, and of what compaction would leave."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest

from shrinkage import Study, compact
from shrinkage.study.results import SIZES
from shrinkage.study.sizes import Sizes


def build(input_shape=(6,), classes=3):
    hidden = keras.layers.Dense(8, "relu", name="hidden")
    head = keras.layers.Dense(classes, "softmax", name="head")
    return keras.Sequential([keras.Input(input_shape), hidden, head])


def test_dead_units_and_zeros_are_counted():
    weights = [np.ones_like(w) for w in build().get_weights()]
    weights[0][:, :3], weights[1][:3] = 0, 0  # three units send nothing
    found = Sizes(build).of(weights)
    assert tuple(found) == SIZES
    zeros = 3 * 6 / (6 * 8 + 8 * 3)
    assert found == pytest.approx(
        {"zeros": zeros, "units": 8, "live_units": 5, "parameters": 83, "compacted_parameters": 53}
    )


def test_every_trials_weights_count_for_themselves():
    sizes, ones = Sizes(build), [np.ones_like(w) for w in build().get_weights()]
    dead = [np.zeros_like(w) if w.ndim == 2 else w for w in ones]
    assert [sizes.of(w)["zeros"] for w in (ones, dead, ones)] == [0, 1, 0]


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.head = keras.layers.Dense(3, name="head")

    def call(self, x):
        return self.head(x)


def test_a_model_without_a_graph_has_no_sizes():
    def without():
        model = Subclassed()
        model(np.zeros((1, 6), "float32"))
        return model

    found = Sizes(without).of([np.ones_like(w) for w in without().get_weights()])
    assert all(math.isnan(value) for value in found.values())


@pytest.mark.thorough
@pytest.mark.jax_only
def test_a_study_by_proximal_steps_has_the_sizes_that_compaction_gives(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 6)).astype("float32")
    y = (x[:, 0] > 0).astype(int) + (x[:, 1] > 0)
    study = Study(
        build,
        (x, y),
        arms=[{"name": "units", "recipe": "hidden: unit = group_lasso(strength)", "strengths": [0.05]}],
        seeds=2,
        training={"epochs": 30, "optimizer": "proximal(adam)", "learning_rate": 0.02},
    )
    study.run(tmp_path / "run")
    frame = study.frame()
    none, units = (frame[frame["arm"] == arm] for arm in ("none", "units"))
    assert (none["zeros"] == 0).all()
    assert (none["compacted_parameters"] == none["parameters"]).all()
    assert (units["zeros"] > 0.1).all()
    assert (units["live_units"] < 8).all()
    model = build()
    best = keras.saving.load_model(tmp_path / "run" / "models" / "best.keras", compile=False)
    model.set_weights(best.get_weights())
    smaller, receipt = compact(model, x, measure=False)
    assert receipt.after.parameters in set(frame["compacted_parameters"])
    assert smaller.count_params() == receipt.after.parameters
