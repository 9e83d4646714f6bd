"""tune: for a saved model or a function the strength, the model and the evidence."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest

import shrinkage
from shrinkage import L2, STRENGTH, load_data
from shrinkage.data import Data
from shrinkage.errors import ModelError, RunError, ShrinkageError, ShrinkageWarning, SpecError
from shrinkage.models import mlp
from shrinkage.study.references import as_taken, check_fit
from shrinkage.study.runner import prepare
from shrinkage.study.spec import StudySpec
from shrinkage.study.study import Study
from shrinkage.study.tune import compiled, study
from shrinkage.training.keras_loop import make_optimizer

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


@pytest.mark.thorough
def test_without_a_finite_loss_there_is_no_model_and_one_sentence_says_so(arrays):
    with pytest.raises(RunError, match=r"^There is no strength to choose\. Nothing can be recommended"):
        shrinkage.tune(
            "shrinkage.models:mlp", arrays, epochs=2, training={"optimizer": "sgd", "learning_rate": 1e30}
        )


def test_a_fixed_strength_is_nothing_to_tune(arrays):
    with pytest.raises(SpecError, match="leave its strength open"):
        study("shrinkage.models:mlp", arrays, target="kernel", penalty="l2(0.1)", training={})


def test_how_a_model_was_compiled_is_taken_as_far_as_a_study_can_say_it():
    model = mlp((4,), 2, hidden=[3])
    assert compiled(model) == {}
    model.compile(keras.optimizers.AdamW(0.5), "mse")
    assert compiled(model) == {"optimizer": "adamw", "learning_rate": 0.5, "loss": "mse"}
    model.compile(keras.optimizers.AdamW(0.5, weight_decay=0.1, clipnorm=1.0), keras.losses.Huber())
    assert compiled(model) == {
        "optimizer": "adamw", "learning_rate": 0.5, "weight_decay": 0.1, "loss": "huber",
        "optimizer_options": {"clipnorm": 1.0},
    }  # fmt: skip
    model.compile("sgd", "categorical_crossentropy")  # which of the two it is, the targets say
    assert compiled(model) == {"optimizer": "sgd", "learning_rate": pytest.approx(0.01)}


def test_an_optimizer_or_a_loss_that_is_asked_for_takes_nothing_from_the_model(arrays):
    model = mlp((6,), 2, hidden=[3])
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9), keras.losses.Huber(2.0))
    training = {"optimizer": "adam", "loss": "auto"}  # and no warning of a loss that is not wanted
    found = study(model, arrays, target="kernel", penalty="l2", training=training).spec.training
    assert (found.optimizer, found.learning_rate, found.optimizer_options) == ("adam", None, {})


def test_frozen_layers_are_never_drawn_anew(arrays):
    model = mlp((6,), 2, hidden=[3, 3])
    model.layers[0].trainable = False
    with pytest.raises(ModelError, match=rf"frozen \({model.layers[0].name}\).*--initial saved"):
        shrinkage.tune(model, arrays, epochs=1)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:.*no place to save it:shrinkage.errors.ShrinkageWarning")
def test_the_model_that_is_returned_has_a_penalty_that_its_file_has_no_place_for(arrays):
    x, y = arrays[0], np.random.default_rng(1).integers(0, 2, 100)  # noise: the stronger, the better
    options = {"target": "unit", "penalty": "group_lasso", "epochs": 8, "training": {"learning_rate": 0.01}}
    model, strength, evidence = shrinkage.tune(mlp((6,), 2, hidden=[30]), (x, y, x, y), **options)
    assert evidence.recommended.arm == "group_lasso"
    rows = shrinkage.describe(model).rows
    assert rows
    assert {row.penalty for row in rows} == {str(shrinkage.GroupLasso(strength))}


@pytest.mark.parametrize(
    ("penalty", "said"),
    [
        (None, "'none' is no penalty to tune; take one of l1, l2"),
        ("elasticnet", "Elastic net is 'l1_l2'"),
        ("grup_lasso", "Did you mean 'group_lasso'"),
    ],
)
def test_what_is_no_penalty_to_tune_is_told_what_is(arrays, penalty, said):
    with pytest.raises(SpecError, match=said):
        study("shrinkage.models:mlp", arrays, target="kernel", penalty=penalty, training={})


def test_targets_that_are_no_probabilities_are_refused_by_a_crossentropy(arrays):
    x, y = arrays[0], np.linspace(-1.0, 2.0, len(arrays[0])).astype("float32")
    with pytest.raises(ModelError, match=r"'binary_crossentropy' is of probabilities.*from -1 to 2"):
        shrinkage.tune(ending_in("sigmoid", inputs=6), (x, y, x, y), training={"loss": "binary_crossentropy"})


def test_an_optimizer_that_compile_wrapped_is_what_is_inside():
    model = mlp((4,), 2, hidden=[3])
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)))
    assert compiled(model) == {"optimizer": "sgd", "learning_rate": 0.5}


@pytest.mark.parametrize(
    ("loss", "found"),
    [
        (keras.losses.CategoricalCrossentropy(label_smoothing=0.25), {"label_smoothing": 0.25}),
        (
            keras.losses.BinaryCrossentropy(label_smoothing=0.25),
            {"label_smoothing": 0.25, "loss": "binary_crossentropy"},
        ),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), {}),
    ],
)
def test_a_crossentropy_keeps_its_smoothing(loss, found):
    model = mlp((4,), 2, hidden=[3])
    model.compile("adam", loss)
    taken = compiled(model)
    assert {key: taken[key] for key in taken.keys() & {"loss", "label_smoothing"}} == found


def test_a_schedule_and_momentum_are_taken_and_trained_with(arrays, tmp_path):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    model = mlp((6,), 2, hidden=[3])
    model.compile(
        keras.optimizers.SGD(schedule, momentum=0.9, nesterov=True), keras.losses.MeanSquaredError()
    )
    found = compiled(model)
    assert found["optimizer_options"]["momentum"] == 0.9
    given = study(model, arrays, target="kernel", penalty="l2", training={"loss": "auto", "epochs": 1})
    again = StudySpec.parse(tomllib.loads(given.spec.to_toml()))
    assert again == given.spec
    made = make_optimizer(again.training.made_of, again.training.learning_rate)
    assert made.get_config() == model.optimizer.get_config() | {"name": made.name}
    proximal = make_optimizer({**again.training.made_of, "class_name": "proximal(sgd)"}, None)
    assert proximal.get_config()["optimizer"]["config"]["momentum"] == 0.9
    with pytest.raises(ModelError, match=r"'sgd' does not take \{'momentun': 0.9\}"):
        make_optimizer({"class_name": "sgd", "config": {"momentun": 0.9}}, None)


def test_what_a_study_can_not_say_is_warned_of():
    model = mlp((4,), 2, hidden=[3])
    model.compile("adam", keras.losses.Huber(2.0))
    with pytest.warns(ShrinkageWarning, match="the loss Huber as it was compiled"):
        assert "loss" not in compiled(model)
    model.compile("adam", lambda y, p: keras.ops.mean(p))
    with pytest.warns(ShrinkageWarning, match="the loss <lambda>"):
        compiled(model)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(ignore_class=0))
    with pytest.warns(ShrinkageWarning, match="the loss SparseCategoricalCrossentropy as it was compiled"):
        compiled(model)


def test_penalties_targets_and_arguments_are_taken_as_they_come(arrays):
    given = study(
        "shrinkage.models:mlp", arrays, target=["kernel", "bias"], penalty=L2(STRENGTH), training={}
    )
    assert given.spec.arms[0].recipe == ("*: kernel, bias = l2(strength)",)
    with pytest.raises(SpecError, match="nothing to tune"):
        study("shrinkage.models:mlp", arrays, target="kernel", penalty=[], training={})
    with pytest.raises(SpecError, match=r"no argument 'fold'.* Did you mean 'folds'"):
        shrinkage.tune("shrinkage.models:mlp", arrays, fold=3)


def ending_in(activation, outputs=1, inputs=3):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(outputs, activation)])


def test_zeros_and_ones_are_classes_for_a_sigmoid_whatever_their_type(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)).astype("float32"), rng.integers(0, 2, 60)
    found = {}
    for kind in ("int64", "float32"):
        targets = y.astype(kind)
        data = (x[:40], targets[:40], x[40:], targets[40:])
        given = Study(ending_in("sigmoid"), data, arms=[], seeds=1, training={"epochs": 2})
        found[kind] = given.run(tmp_path / kind)
    assert [of.classification for of in found.values()] == [True, True]
    losses = [of.arm("none").selection.chosen.val_data_loss.mean for of in found.values()]
    assert losses[0] == losses[1] > 0
    said = "The model ends in one sigmoid and the targets are 0 and 1: they are taken as two classes."
    assert [said in of.notes for of in found.values()] == [False, True]


def test_floats_stay_a_regression_for_any_other_model_targets_or_loss():
    x, y = np.zeros((6, 3), "float32"), np.array([0.0, 1.0] * 3)
    data = Data("two", x, y, x, y)
    assert as_taken(data, ending_in("sigmoid"), "binary_crossentropy").classes == 2
    column = replace(data, y_train=y[:, None], y_test=y[:, None])
    assert as_taken(column, ending_in("sigmoid")).classes == 2
    assert as_taken(data, ending_in("sigmoid"), "mse").classes == 0
    assert as_taken(data, ending_in("linear")).classes == 0
    shares = Data("shares", x, y / 2, x, y / 2)
    assert as_taken(shares, ending_in("sigmoid")).classes == 0
    with pytest.raises(ModelError, match=r"has 2 outputs.* for classes give integers"):
        check_fit("it", ending_in("softmax", 2), data)


def test_a_models_own_penalties_and_scaling_are_told_of(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (40, 4, 4, 1)).astype("uint8"), rng.integers(0, 2, 40)
    layers = [
        keras.Input((4, 4, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(),
        keras.layers.Dense(2, activation="softmax", kernel_regularizer="l1", name="head"),
    ]  # fmt: skip
    given = Study(keras.Sequential(layers), (x, y), arms=[], seeds=1, training={"epochs": 1})
    summary = given.run(tmp_path / "run")
    assert any("own penalties are left out (head: kernel = l1(0.01))" in note for note in summary.notes)
    assert any("images go in as they are" in note for note in summary.notes)
    bench = prepare(given.spec, load_data(given.spec.data), True)
    assert bench.data.scaled(x).max() > 1
    branch = keras.layers.Rescaling(0.05)  # as residual networks scale one
    for between in ([], [branch]):
        other = keras.Sequential([layers[0], *between, *layers[2:]])
        assert as_taken(load_data(given.spec.data), other).scaled(x).max() <= 1
