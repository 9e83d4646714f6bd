"""tune: for a saved model or a function the strength, the model and the evidence."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import shrinkage
from shrinkage.errors import ShrinkageError, SpecError
from shrinkage.models import mlp
from shrinkage.study.study import Study
from shrinkage.study.tune import compiled, study

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.jax_only,
]


@pytest.fixture(scope="module")
def arrays() -> tuple[Any, ...]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(150, 6)).astype("float32")
    y = (x[:, 0] + rng.normal(size=150) > 0).astype(int)
    return x[:100], y[:100], x[100:], y[100:]


@pytest.fixture(scope="module")
def tuned(arrays: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("tune")
    path = folder / "mine.keras"
    model = mlp((6,), 2, hidden=[5])
    model.compile(keras.optimizers.SGD(0.25), "sparse_categorical_crossentropy")
    model.save(path)
    return shrinkage.tune(str(path), arrays, epochs=3, directory=folder / "run"), folder / "run"


def test_it_returns_the_model_the_strength_and_the_evidence(tuned, arrays):
    (model, strength, evidence), run = tuned
    assert strength == (evidence.recommended.strength or 0.0)
    charged = shrinkage.describe(model).rows
    penalties = {row.penalty for row in charged if row.target == "kernel"}
    assert penalties == ({f"l2({strength})"} if strength else set())
    loss = model.evaluate(arrays[2], arrays[3], verbose=0, return_dict=True)["loss"]
    assert np.isfinite(loss)
    assert (run / "models" / "best.keras").exists()


def test_the_run_is_a_study_like_any_other(tuned):
    spec = Study.load(tuned[1]).spec
    assert (spec.strategy, spec.repeats, spec.refit, spec.seeds) == ("auto", 2, True, (0,))
    assert spec.training.optimizer == "sgd"
    assert spec.training.learning_rate == 0.25
    assert spec.training.loss == "sparse_categorical_crossentropy"


def test_a_second_call_trains_nothing_and_gives_the_same(tuned, arrays):
    (model, strength, evidence), run = tuned
    again = shrinkage.tune(str(run.parent / "mine.keras"), arrays, epochs=3, directory=run)
    assert again.strength == strength
    assert again.evidence.to_json() == evidence.to_json()
    for mine, theirs in zip(model.get_weights(), again.model.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_the_best_model_has_seen_all_training_rows(tuned):
    refit = Study.load(tuned[1])
    assert shrinkage.study.results.Results.load(refit.directory).refit.rows == 100


@pytest.mark.parametrize(
    ("penalty", "rule"),
    [
        ("l2", "*: kernel = l2(strength)"),
        ("l1_l2", "*: kernel = l1_l2(0.5*strength, 0.5*strength)"),
        ("l1_l2(strength, 1e-4)", "*: kernel = l1_l2(strength, 0.0001)"),
    ],
)
def test_penalties_are_left_open(arrays, penalty, rule):
    asked = study("shrinkage.models:mlp", arrays, target="kernel", penalty=penalty, training={})
    assert asked.spec.arms[0].recipe == (rule,)


def test_several_penalties_are_arms_of_one_study(arrays):
    asked = study("shrinkage.models:mlp", arrays, target="kernel", penalty=["l1", "l2"], training={})
    assert [arm.name for arm in asked.spec.arms] == ["l1", "l2"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"penalty": "l3"}, "l3"),
        ({"penalty": "l2(0.1)"}, "l2"),
        ({"penalty": "none"}, "none"),
        ({"epochs": 0}, "epochs"),
        ({"budget": "soon"}, "10 min"),
        ({"tolerance": -1}, "tolerance"),
        ({"initial": "old"}, "initial"),
    ],
)
def test_what_is_wrong_is_told_in_one_sentence(arrays, changes, words):
    with pytest.raises(ShrinkageError, match=words):
        shrinkage.tune("shrinkage.models:mlp", arrays, **changes)


def test_a_fixed_strength_is_nothing_to_tune(arrays):
    with pytest.raises(SpecError, match="leave its strength open"):
        study("shrinkage.models:mlp", arrays, target="kernel", penalty="l2(0.1)", training={})


def test_how_a_model_was_compiled_is_taken_as_far_as_a_study_can_say_it():
    model = mlp((4,), 2, hidden=[3])
    assert compiled(model) == {}
    model.compile(keras.optimizers.AdamW(0.5), "mse")
    assert compiled(model) == {"optimizer": "adamw", "learning_rate": 0.5, "loss": "mse"}
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    model.compile(keras.optimizers.Adam(schedule), keras.losses.MeanSquaredError())
    assert compiled(model) == {"optimizer": "adam"}
