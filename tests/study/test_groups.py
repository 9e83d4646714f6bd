"""Arms that change the model or its training: what they share, and that nothing changes their bits."""

from __future__ import annotations

import json
import tomllib

import keras
import numpy as np
import pandas as pd
import pytest

from shrinkage.data import Data
from shrinkage.errors import ModelError, RecipeError, ShrinkageError
from shrinkage.report.explain import explain
from shrinkage.report.facts import facts
from shrinkage.study import observers, runner
from shrinkage.study.arm import Arm
from shrinkage.study.directory import RunDirectory
from shrinkage.study.results import Results, frame, stored_trials
from shrinkage.study.settings import Overrides, Training
from shrinkage.study.spec import StudySpec
from shrinkage.study.storage import TrialStore
from shrinkage.training.many import ManyLoops
from shrinkage.training.task import Lane, Task, Wave

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

L2 = {"name": "L2", "recipe": "Dense: kernel = l2(strength)", "strengths": [0.01, 0.1]}
DROPOUT = {"name": "dropout", "model_options": {"dropout": "strength"}, "strengths": [1e-9, 0.5]}
BOTH = {**L2, "name": "both", "strengths": [0.01], "model_options": {"dropout": 0.5}}
OTHER = {
    "name": "other",
    "training": {
        "optimizer": "adamw", "weight_decay": 0.1, "label_smoothing": 0.2, "max_norm": 0.5, "epochs": 3,
    },
}  # fmt: skip
SAME = {"name": "same", "training": {"epochs": 2}, "learning_rate": 0.01}
ARMS = [L2, DROPOUT, BOTH, OTHER, SAME]


def spec(arms=ARMS, **changes):
    fields = {
        "data": "blobs", "model": "shrinkage.models:mlp", "model_options": {"hidden": [4]}, "seeds": [0, 5],
        "training": {"epochs": 2, "batch_size": 32, "learning_rate": 0.05}, "arms": arms,
    }  # fmt: skip
    return StudySpec.parse({**fields, **changes})


class Crash(BaseException):
    """A kill, as seen from inside."""


class CrashAt(observers.Silent):
    def __init__(self, count):
        self.left = count

    def trial(self, trial, result):
        self.left -= 1
        if not self.left:
            raise Crash


def run(bench, path, observer=None):
    place = RunDirectory(path)
    with place.locked():
        return runner.run(bench, place, observer or observers.Silent())


def contents(bench, path):
    place = RunDirectory(path)
    arms = [arm.name for arm in bench.spec.all_arms]
    rows = frame(arms, TrialStore(path, None, "study").finished(), place.test_scores())
    plan = place.plan.read_bytes() if place.plan.exists() else b""  # Keras's fit has nothing to keep
    return rows, place.curves(list(rows["key"])), place.summary.read_bytes(), plan


@pytest.fixture(scope="module")
def bench(blobs):
    return runner.prepare(spec(), blobs, False)


@pytest.fixture(scope="module")
def finished(bench, tmp_path_factory):
    path = tmp_path_factory.mktemp("groups") / "run"
    run(bench, path)
    return path


@pytest.fixture(scope="module")
def found(bench, finished):
    return contents(bench, finished)


# --- what is shared --------------------------------------------------------------------------------------


def test_cells_of_equal_options_share_a_task_and_no_others_do(bench):
    tasks = {}
    for trial in bench.trials:
        tasks.setdefault(id(bench.task_of(*trial.cell)), set()).add(trial.cell)
    assert sorted(tasks.values(), key=lambda cells: sorted(map(str, cells))) == sorted(
        [
            {("none", None), ("L2", 0.01), ("L2", 0.1), ("same", None)},
            {("dropout", 1e-9)},
            {("dropout", 0.5), ("both", 0.01)},
            {("other", None)},
        ],
        key=lambda cells: sorted(map(str, cells)),
    )
    other = bench.task_of("other", None)
    assert (other.optimizer, other.weight_decay, other.label_smoothing) == ("adamw", 0.1, 0.2)
    assert (other.max_norm, other.epochs, other.batch_size) == (0.5, 3, 32)
    assert bench.loop.task.rate("same") == 0.01
    rates = [
        layer.rate
        for layer in bench.build_of("dropout", 0.5)().layers
        if isinstance(layer, keras.layers.Dropout)
    ]
    assert rates == [0.5]


def test_a_study_without_options_has_one_loop(blobs):
    plain = runner.prepare(spec([L2]), blobs, False)
    assert not isinstance(plain.loop, ManyLoops)
    assert plain.task_of("L2", 0.1) is plain.loop.task


def test_options_change_the_keys_of_their_own_arms_alone(blobs, bench):
    keys = {(t.cell, t.seed): t.key for t in bench.trials}
    for arms in ([L2], [L2, OTHER], [DROPOUT], [{**OTHER, "training": {**OTHER["training"], "epochs": 2}}]):
        for trial in runner.prepare(spec(arms, seeds=[0]), blobs, False).trials:
            same = trial.arm != "other" or arms[-1] is OTHER
            assert (keys[trial.cell, trial.seed] == trial.key) == same, trial
    assert len(set(keys.values())) == len(keys)


@pytest.mark.jax_only
@pytest.mark.thorough
def test_every_part_keeps_its_choice_in_the_plan(bench, found):
    plan = json.loads(found[3])
    assert plan.keys() == bench.loop.parts.keys()
    assert len(plan) == 4


# --- what is trained ---------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_a_layer_more_changes_neither_initial_weights_nor_the_order_of_rows(found):
    """A dropout that drops nothing gives the curve of the network without it."""
    _, curves, _, _ = found
    idle = curves[(curves["arm"] == "dropout") & (curves["strength"] == 1e-9)]
    baseline = curves[curves["arm"] == "none"]
    for column in ("loss", "train_data_loss", "val_data_loss"):
        np.testing.assert_allclose(idle[column], baseline[column], rtol=1e-5)
    dropped = curves[(curves["arm"] == "dropout") & (curves["strength"] == 0.5)]
    assert (np.abs(dropped["val_data_loss"].to_numpy() - baseline["val_data_loss"]) > 1e-4).all()


@pytest.mark.thorough
def test_each_arm_is_trained_as_it_asks(bench, finished, found, blobs):
    rows, curves, _, _ = found
    assert dict(zip(rows["arm"], rows["epochs"], strict=True))["other"] == 3
    assert (rows["state"] == "complete").all()
    other = curves[curves["arm"] == "other"]
    assert (other["penalty"].abs() < 1e-6).all()
    place = RunDirectory(finished)
    trial = next(t for t in bench.trials if t.arm == "other")
    weights = place.read_weights(trial.key)
    for kernel in weights[::2]:
        assert (np.linalg.norm(kernel, axis=0) <= 0.5 * (1 + 1e-6)).all()
    model = bench.build_of("other", None)()
    model.set_weights(weights)
    rows_out = bench.loop.task.splits[0].validation
    truth, p = blobs.y_train[rows_out], np.asarray(model.predict(blobs.x_train[rows_out], verbose=0))
    plain = -np.log(p[np.arange(len(truth)), truth]).mean()  # of the targets as they are, not smoothed
    assert rows.loc[rows["key"] == trial.key, "val_data_loss"].item() == pytest.approx(plain, rel=1e-4)
    scored = bench.loop.score(trial.lane, weights, blobs.x_test, blobs.y_test)
    assert rows.loc[rows["key"] == trial.key, "test_data_loss"].item() == scored["data_loss"]


@pytest.mark.thorough
def test_an_arm_is_trained_to_the_same_bits_whoever_else_is_in_the_study(found, blobs, tmp_path):
    alone = runner.prepare(spec([OTHER]), blobs, False)
    run(alone, tmp_path / "run")
    rows, curves, _, _ = contents(alone, tmp_path / "run")
    for mine, theirs in ((rows, found[0]), (curves, found[1])):
        a, b = (t[t["arm"] == "other"].reset_index(drop=True) for t in (mine, theirs))
        pd.testing.assert_frame_equal(a, b, check_exact=True)


@pytest.mark.thorough
def test_killed_at_each_trial_it_ends_with_the_same_bits(bench, found, tmp_path):
    path, crashes = tmp_path / "run", 0
    while True:
        try:
            run(bench, path, CrashAt(3))
        except Crash:
            crashes += 1
        else:
            break
    assert crashes >= 4
    rows, curves, summary, plan = contents(bench, path)
    pd.testing.assert_frame_equal(rows, found[0], check_exact=True)
    pd.testing.assert_frame_equal(curves, found[1], check_exact=True)
    assert (summary, plan) == found[2:]


@pytest.mark.thorough
def test_the_best_model_is_the_arms_own_and_says_how_it_was_trained(blobs, tmp_path):
    # At a rate at which the baseline learns next to nothing.
    arm = {**OTHER, "name": "only", "model_options": {"batch_norm": True}, "learning_rate": 0.05}
    study = spec([arm], seeds=[0], training={"epochs": 2, "learning_rate": 1e-7})
    bench = runner.prepare(study, blobs, False)
    summary = run(bench, tmp_path / "run")
    assert summary.recommended.arm == "only"
    model = keras.saving.load_model(tmp_path / "run" / "models" / "best.keras")
    assert any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    assert type(model.optimizer).__name__ == "AdamW"
    assert float(model.optimizer.weight_decay) == 0.1
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    dense = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    assert dense.kernel.constraint.max_value == 0.5
    results = Results.load(tmp_path / "run")
    loss, accuracy = model.evaluate(blobs.x_test, blobs.y_test, verbose=0)
    row = results.frame[results.frame["arm"] == "only"].iloc[0]
    assert (loss, accuracy) == (pytest.approx(row["test_data_loss"], rel=1e-5), row["test_accuracy"])
    # What a person is told of it.
    paste = facts(results).verdict.paste
    assert paste.line == "none"
    assert paste.options[0] == "batch_norm = true"
    (again,) = tomllib.loads(paste.toml)["arms"]
    assert Arm.model_validate(again) == study.arms[0]
    said = " ".join(one.sentence for one in explain(results.summary, results.evidence))
    assert 'only (no penalty; with batch_norm = true, epochs = 3, optimizer = "adamw", weight_decay' in said
    assert "# with weight_decay = 0.1" in paste.python


@pytest.mark.thorough
def test_the_tables_of_a_run_name_the_options(finished, found):
    results = Results.load(finished)
    assert results.evidence.arm("dropout").options == ("dropout = strength",)
    said = " ".join(one.sentence for one in explain(results.summary, results.evidence))
    assert "dropout (2 strengths, λ = 1e-9 to 0.5; with dropout = λ)" in said
    assert "or the value of an option" in said
    assert stored_trials(finished)["arm"].iloc[0] == "none"


@pytest.mark.thorough
def test_strengths_of_an_option_are_not_stopped_at_rungs(blobs, tmp_path):
    study = spec([L2, DROPOUT], strategy="halving", rungs=[1], seeds=[0])
    bench = runner.prepare(study, blobs, False)
    run(bench, tmp_path / "run")
    rows = contents(bench, tmp_path / "run")[0]
    states = rows.groupby("arm")["state"].apply(list).to_dict()
    assert states["dropout"] == ["complete", "complete"]
    assert sorted(states["L2"]) == ["complete", "stopped"]


# --- what does not fit -------------------------------------------------------------------------------------

BAD = {
    "option": ({"model_options": {"dropuot": 0.5}}, ModelError, ["'A'", "'dropuot'", "'dropout'"]),
    "value": ({"model_options": {"dropout": 1.5}}, ModelError, ["'A'", "[0, 1)"]),
    "strength": (
        {"model_options": {"dropout": "strength"}, "strengths": [0.5, 1.5]}, ModelError, ["'A'", "[0, 1)"],
    ),
    "optimizer": ({"training": {"optimizer": "adamm"}}, ModelError, ["'A'", "'adamm'", "'Adam'"]),
    "decay": (
        {"training": {"optimizer": "ftrl", "weight_decay": 0.1}}, ModelError, ["'A'", "Ftrl", "weight_decay"],
    ),
    "rule": (
        {"recipe": "Dens: kernel = l2(0.1)", "model_options": {"dropout": 0.5}},
        RecipeError, ["'A'", "'Dense'"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_names_the_arm_before_anything_is_trained(blobs, case):
    changes, kind, words = BAD[case]
    with pytest.raises(kind) as caught:
        runner.prepare(spec([{"name": "A", **changes}]), blobs, False)
    assert all(word in str(caught.value) for word in words), caught.value
    assert str(caught.value).count("Arm 'A'") == 1


def test_of_arms_with_the_same_options_the_one_that_does_not_fit_is_named(blobs):
    same = {"model_options": {"dropout": 0.5}}
    arms = [{"name": "A", **same}, {"name": "B", "recipe": "Dens: kernel = l2(0.1)", **same}]
    with pytest.raises(RecipeError, match=r"^Arm 'B': .*'Dens.*'Dense'"):
        runner.prepare(spec(arms), blobs, False)


def test_smoothing_needs_a_crossentropy(rng):
    x, y = rng.normal(size=(40, 3)).astype("float32"), rng.normal(size=40).astype("float32")
    with pytest.raises(ModelError, match=r"'A': label_smoothing .* 'mean_squared_error'"):
        runner.prepare(
            spec([{"name": "A", "training": {"label_smoothing": 0.1}}]), Data("l", x, y, x, y), False
        )


def test_a_saved_model_takes_no_options(blobs, tmp_path):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, "softmax")])
    model.save(tmp_path / "m.keras")
    study = spec([BOTH], model=str(tmp_path / "m.keras"), model_options={})
    with pytest.raises(ShrinkageError, match="'both': model_options go with a module:function"):
        runner.prepare(study, blobs, False)


# --- several loops as one ----------------------------------------------------------------------------------


class Stub:
    """A loop that trains nothing and notes what it is given."""

    def __init__(self, epochs, rungs=()):
        self.task = Task(None, {}, None, None, (), None, epochs=epochs, rungs=rungs)
        self.runs, self.stored = [], None

    def decide(self, stored, keep, shelf=None):
        self.stored = stored
        if stored is None:
            keep({"epochs": self.task.epochs}, "")
        return "Training as a stub."

    def run(self, lanes, on_epoch, wave=None):
        self.runs.append((tuple(lanes), wave))
        yield from lanes

    def score(self, lane, weights, x, y):
        return {"data_loss": self.task.epochs}


def test_each_loop_is_given_its_own_lanes_and_its_own_part_of_a_wave():
    parts = {"a": Stub(10, (2, 5)), "b": Stub(4, (2,))}
    loop = ManyLoops(parts, lambda cell: cell[0])
    lanes = [Lane("a", None, 0), Lane("b", 0.5, 0), Lane("a", None, 1)]
    assert list(loop.run(lanes[1:], print)) == [lanes[2], lanes[1]]
    starts = {lanes[0]: ("a's",), lanes[1]: ("b's",)}
    waves = [Wave(tuple(lanes), 10, (2, 5), starts=starts), Wave(tuple(lanes), 5, (2, 4))]
    for wave in waves:
        assert list(loop.run(lanes[:2], print, wave)) == lanes[:2]
    (_, none), (_, whole), (_, short) = parts["b"].runs
    assert none is None
    assert whole == Wave((lanes[1],), 4, (2,), starts={lanes[1]: ("b's",)})
    assert short == Wave((lanes[1],), 2, (1,))  # as much less than usual as the wave says
    assert parts["a"].runs[1][1].epochs == 10
    assert [loop.score(lane, (), None, None)["data_loss"] for lane in lanes[:2]] == [10, 4]


def test_what_each_loop_decided_is_given_back_to_it():
    kept, parts = [], {"a": Stub(1), "b": Stub(2)}
    line = ManyLoops(parts, lambda cell: cell[0]).decide(None, lambda plan, line: kept.append(dict(plan)))
    assert line == "Training as a stub; arms with other options apart, 2 programs in all."
    assert kept[-1] == {"a": {"epochs": 1}, "b": {"epochs": 2}}
    ManyLoops(parts, lambda cell: cell[0]).decide(kept[-1], lambda plan, line: kept.append(plan))
    assert len(kept) == 2
    assert parts["b"].stored == {"epochs": 2}


def test_another_optimizer_does_not_take_the_arguments_of_the_study_s():
    training = Training(optimizer="sgd", optimizer_options={"momentum": 0.9})
    assert Overrides(epochs=3).over(training, None).made_of["config"] == {"momentum": 0.9}
    assert Overrides(optimizer="adam").over(training, None).made_of == "adam"
    own = Overrides(optimizer="adam", optimizer_options={"beta_1": 0.5}).over(training, None)
    assert own.made_of == {"class_name": "adam", "config": {"beta_1": 0.5}}


def test_of_a_trial_that_was_stopped_and_then_trained_to_the_end_the_frame_has_the_latter():
    row = {"arm": "L2", "strength": 0.1, "seed": 0, "fold": -1, "epochs": 3, "val_data_loss": 1.0}
    finished = {
        "short": {**row, "state": "stopped", "epochs": 1},
        "long": {**row, "state": "complete"},
        "other": {**row, "strength": 0.2, "state": "stopped"},
        "none": {**row, "arm": "none", "strength": None, "state": "complete"},
    }
    assert frame(["none", "L2"], finished, {})["key"].tolist() == ["none", "long", "other"]
