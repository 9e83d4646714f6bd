"""A run: what it stores, and that nothing stops it from ending with the same bits."""

from __future__ import annotations

import itertools
import json
import math
import os
import random
import shutil
from collections import Counter
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from cases import mostly_thorough
from shrinkage.data import Data
from shrinkage.errors import ModelError, RecipeError, RunError, ShrinkageWarning, SpecError, TrainingError
from shrinkage.study import observers, runner
from shrinkage.study.compare import summarise
from shrinkage.study.directory import RunDirectory
from shrinkage.study.outcome import MARGIN
from shrinkage.study.provenance import Provenance
from shrinkage.study.results import SIZES, Results, frame
from shrinkage.study.selection import cells, select
from shrinkage.study.spec import StudySpec
from shrinkage.study.storage import TrialStore
from shrinkage.study.summary import Summary

# Keras turns its variables into arrays in a way that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

EPOCHS = 3
FIELDS = {
    "name": "blobs study",
    "data": "blobs",
    "model": "shrinkage.models:mlp",
    "model_options": {"hidden": [8], "dropout": 0.2},
    "seeds": [0, 5],
    "training": {"epochs": EPOCHS, "batch_size": 32, "learning_rate": 0.05},
    "arms": [
        {"name": "L2", "recipe": "Dense: kernel = l2(strength)", "strengths": [0, 0.01, 0.1]},
        {"name": "L1", "recipe": "Dense: kernel, bias = l1(0.01)"},
    ],
}
CELLS = [("none", None), ("L2", 0.01), ("L2", 0.1), ("L1", None)]


class Crash(BaseException):
    """A kill, as seen from inside."""


class Watch(observers.Silent):
    """Counts what happens, and crashes where it is told to."""

    def __init__(self, crash=lambda event, count: False):
        self.crash, self.events, self.lines = crash, [], []
        self.total = self.done = None

    def _note(self, *event):
        self.events.append(event)
        if self.crash(event, len(self.events)):
            raise Crash

    def begin(self, spec, total, found):
        self.total, self.done = total, len(found)

    def say(self, line):
        self.lines.append(line)
        self._note("say", line)

    def epoch(self, record):
        self._note("epoch", record.lane, record.epoch)

    def trial(self, trial, result):
        self._note("trial", trial.key, result.state)

    def count(self, kind):
        return sum(event[0] == kind for event in self.events)


def spec(**changes):
    fields = {**FIELDS, **changes}
    return StudySpec.parse({k: v for k, v in fields.items() if v is not None})


def run(bench, path, watch=None):
    """Run a bench in a directory, as ``Study.run`` does."""
    place = RunDirectory(path)
    with place.locked():
        return runner.run(bench, place, watch or observers.Silent())


def table(bench, path):
    place = RunDirectory(path)
    finished = TrialStore(path, bench.spec.storage, bench.spec.name).finished()
    return frame([arm.name for arm in bench.spec.all_arms], finished, place.test_scores())


def contents(bench, path):
    """Everything that a run found, comparable to the bit."""
    place, frame = RunDirectory(path), table(bench, path)
    weights = {p.stem: [w.tobytes() for w in place.read_weights(p.stem)] for p in place.models.glob("*.npz")}
    return {
        "frame": frame,
        "curves": place.curves(list(frame["key"])),
        "summary": place.summary.read_bytes(),
        "test": place.test_scores(),
        "weights": weights,
        "files": {p.relative_to(path).as_posix() for p in path.rglob("*")},
        "spec": place.spec.read_bytes(),
    }


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found["frame"], expected["frame"], check_exact=True)
    pd.testing.assert_frame_equal(found["curves"], expected["curves"], check_exact=True)
    for part in ("summary", "test", "weights", "files", "spec"):
        assert found[part] == expected[part], part


def vectorised(bench):
    return type(bench.loop).__name__ == "JaxLoop"


@pytest.fixture(scope="session", params=mostly_thorough(("jax", "keras"), "jax"))
def bench(request, blobs):
    """A study to run, by each loop: what is stored of it must not depend on the loop."""
    return runner.prepare(at_loop(request.param), blobs, allow_code=False)


def at_loop(loop, **changes):
    return spec(training={**FIELDS["training"], "loop": loop}, **changes)


@pytest.fixture(scope="session")
def finished(bench, tmp_path_factory):
    """One run from end to end: its directory, its summary and what was seen on the way."""
    path, watch = tmp_path_factory.mktemp("finished") / "run", Watch()
    summary = run(bench, path, watch)
    return path, summary, watch


@pytest.fixture(scope="session")
def expected(bench, finished):
    return contents(bench, finished[0])


# --- what a run stores ---------------------------------------------------------------------------------


def test_one_row_a_trial_with_these_columns(bench, expected):
    frame = expected["frame"]
    assert list(frame.columns[:13]) == [
        *(
            "arm",
            "strength",
            "seed",
            "fold",
            "state",
            "epochs",
            "train_data_loss",
            "val_data_loss",
            "penalty",
        ),
        *("train_accuracy", "val_accuracy", "test_data_loss", "test_accuracy"),
    ]
    whole = {**dict.fromkeys(("seed", "fold", "epochs"), "int64"), **dict.fromkeys(SIZES[1:], "Int64")}
    for column, kind in frame.dtypes.items():
        if column in ("arm", "state", "key"):
            assert pd.api.types.is_string_dtype(kind), column
        else:
            assert kind == whole.get(column, "float64"), column
    cells_and_seeds = [
        (arm, None if math.isnan(strength) else strength, seed)
        for arm, strength, seed in zip(frame["arm"], frame["strength"], frame["seed"], strict=True)
    ]
    assert cells_and_seeds == [(*cell, seed) for cell in CELLS for seed in (0, 5)]
    assert set(frame["fold"]) == {-1}
    assert set(frame["state"]) == {"complete"}
    assert set(frame["epochs"]) == {EPOCHS}
    assert list(frame["key"]) == [t.key for t in bench.trials]


def test_test_data_is_scored_for_the_reported_cells_and_no_others(bench, finished, expected):
    frame, (_, summary, _) = expected["frame"], finished
    chosen = {(a.arm, a.selection.strength) for a in summary.arms}
    assert len(chosen) == 3
    for _, row in frame.iterrows():
        cell = (row["arm"], None if math.isnan(row["strength"]) else row["strength"])
        assert math.isfinite(row["test_data_loss"]) == (cell in chosen)
        assert math.isfinite(row["test_accuracy"]) == (cell in chosen)
    kept = {t.key for t in bench.trials if t.cell in chosen}
    assert set(expected["test"]) == kept == set(expected["weights"])


def test_test_scores_are_those_of_the_kept_weights(bench, finished, expected, blobs):
    place = RunDirectory(finished[0])
    for trial in bench.trials:
        if trial.key in expected["test"]:
            again = bench.loop.score(trial.lane, place.read_weights(trial.key), blobs.x_test, blobs.y_test)
            assert expected["test"][trial.key] == {f"test_{name}": value for name, value in again.items()}


def test_one_curve_row_a_trial_and_epoch(expected):
    curves, frame = expected["curves"], expected["frame"]
    assert len(curves) == len(frame) * EPOCHS
    keys = ["arm", "strength", "seed", "fold"]
    groups = list(curves.groupby(keys, dropna=False, sort=False))
    assert len(groups) == len(frame)
    for (_, curve), (_, row) in zip(groups, frame.iterrows(), strict=True):
        assert curve["epoch"].tolist() == [1, 2, 3]
        for column in ("train_data_loss", "val_data_loss", "penalty", "loss", "data_loss", "val_accuracy"):
            assert curve[column].iloc[-1] == row[column]
    np.testing.assert_allclose(curves["loss"], curves["data_loss"] + curves["penalty"], rtol=1e-12)
    assert (curves.loc[curves["arm"] == "none", "penalty"] == 0).all()
    assert (curves.loc[curves["arm"] != "none", "penalty"] > 0).all()


def test_the_summary_is_what_the_tables_say(bench, finished, expected):
    path, summary, _ = finished
    stored = json.loads((path / "summary.json").read_text())
    assert stored.pop("evidence")
    assert stored == summary.to_json() == json.loads(json.dumps(summary.to_json()))
    again = summarise(
        expected["frame"].drop(columns="key"),
        expected["curves"],
        baseline="none",
        classification=True,
        margin=MARGIN,
    )
    assert again.to_json() == stored
    assert Summary.from_json(stored).to_json() == stored


def test_a_run_says_what_it_does(bench, finished):
    _, _, watch = finished
    assert (watch.total, watch.done) == (8, 0)
    assert (watch.count("trial"), watch.count("epoch")) == (8, 8 * EPOCHS)
    ended = [event[1] for event in watch.events if event[0] == "trial"]
    assert sorted(ended) == sorted(t.key for t in bench.trials)
    how = (
        f"Training with one JAX program (cpu): {bench.loop.choice}."
        if vectorised(bench)
        else f"Training with Keras's fit on the {keras.backend.backend()} backend, one trial at a time."
    )
    assert watch.lines == [how, "Scoring 6 trials of the reported arms on the test split, once."]


LOAD = """
import json, os, sys
import keras, numpy as np
model = keras.saving.load_model(sys.argv[1])
with np.load(sys.argv[2]) as rows:
    x, y = rows["x"], rows["y"]
model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
loss, accuracy = model.evaluate(x, y, verbose=0)
print(json.dumps([loss - sum(map(float, model.losses)), accuracy, sum(map(float, model.losses))]))
assert not [name for name in sys.modules if name.startswith("shrinkage")]
"""


@pytest.mark.jax_only
def test_the_best_model_loads_in_keras_alone_and_scores_what_was_said(
    bench, finished, expected, blobs, tmp_path, run_python
):
    path, summary, _ = finished
    frame, best = expected["frame"], summary.recommended
    assert best.arm != "none"  # else nothing of ours could be in the file
    of_cell = frame[(frame["arm"] == best.arm) & (frame["strength"].fillna(-1) == (best.strength or -1))]
    row = of_cell.loc[of_cell["val_data_loss"].idxmin()]
    np.savez(tmp_path / "rows.npz", x=blobs.x_test, y=blobs.y_test)
    loss, accuracy, penalty = json.loads(run_python(LOAD, path / "models/best.keras", tmp_path / "rows.npz"))
    assert loss == pytest.approx(row["test_data_loss"], rel=1e-5)
    assert accuracy == pytest.approx(row["test_accuracy"], abs=1e-9)
    assert penalty > 0


# --- finished, interrupted, killed, resumed ------------------------------------------------------------


def test_a_finished_run_again_trains_nothing(bench, finished, expected):
    path, summary, _ = finished
    before = {p: p.stat().st_mtime_ns for p in path.glob("curves/*")} | {
        p: p.stat().st_mtime_ns for p in path.glob("models/*.npz")
    }
    watch = Watch()
    again = run(bench, path, watch)
    assert (watch.total, watch.done) == (8, 8)
    assert watch.events == []
    assert again.to_json() == summary.to_json()
    assert_same(contents(bench, path), expected)
    assert all(p.stat().st_mtime_ns == when for p, when in before.items())


def test_the_same_bits_from_a_bench_of_its_own(bench, blobs, expected, tmp_path):
    other = runner.prepare(bench.spec, blobs, allow_code=False)
    run(other, tmp_path / "run")
    assert_same(contents(other, tmp_path / "run"), expected)


@pytest.mark.jax_only
def test_interrupted_at_every_epoch_and_every_trial_it_ends_with_the_same_bits(bench, expected, tmp_path):
    path, stops, ended = tmp_path / "run", [], set()
    # 1 is what it says; then epochs, and the trial's end. What runs together begins together again.
    for stop in itertools.count(2) if vectorised(bench) else itertools.cycle(range(2, EPOCHS + 3)):
        watch = Watch(lambda event, count, stop=stop: count == stop)
        try:
            run(bench, path, watch)
        except Crash:
            stops.append(watch.events[-1])
            assert watch.done == len(ended)
            ended |= {event[1] for event in watch.events if event[0] == "trial"}
        else:
            break
        assert len(stops) < 60
    assert {s[0] for s in stops} >= {"epoch", "trial"}
    if not vectorised(bench):
        assert [s[1] for s in stops if s[0] == "trial"] == [t.key for t in bench.trials]
        assert {(s[1], s[2]) for s in stops if s[0] == "epoch"} == {
            (t.lane, e) for t in bench.trials for e in range(1, EPOCHS + 1)
        }
    assert_same(contents(bench, path), expected)


@pytest.mark.thorough
@pytest.mark.jax_only
def test_killed_before_and_after_every_write_it_ends_with_the_same_bits(
    bench, expected, tmp_path, monkeypatch
):
    path, crashes = tmp_path / "run", []
    left = {"steps": 0}

    def step(name):
        left["steps"] -= 1
        if left["steps"] == 0:
            crashes.append(name)
            raise Crash

    def around(function, name):
        def wrapped(*args, **kwargs):
            step(f"before {name}")
            out = function(*args, **kwargs)
            step(f"after {name}")
            return out

        return wrapped

    monkeypatch.setattr(os, "replace", around(os.replace, "a file"))
    monkeypatch.setattr(TrialStore, "claim", around(TrialStore.claim, "the claim"))
    monkeypatch.setattr(TrialStore, "add", around(TrialStore.add, "a row"))
    monkeypatch.setattr(RunDirectory, "keep_weights", around(RunDirectory.keep_weights, "pruning"))
    dice = random.Random(0)
    for steps in itertools.chain(range(1, 14), iter(lambda: dice.randint(3, 13), None)):
        left["steps"] = steps
        try:
            run(bench, path)
        except Crash:
            assert len(crashes) < 80
        else:
            break
    assert {*crashes} >= {f"{w} {n}" for w in ("before", "after") for n in ("a file", "the claim", "a row")}
    assert_same(contents(bench, path), expected)


def test_weights_that_are_gone_before_scoring_are_trained_again_to_the_same_bits(bench, expected, tmp_path):
    path = tmp_path / "run"
    with pytest.raises(Crash):
        run(bench, path, Watch(lambda event, count: event[0] == "say" and event[1].startswith("Scoring")))
    place = RunDirectory(path)
    assert not place.test_scores()
    for weights in place.models.glob("*.npz"):
        weights.unlink()
    watch = Watch()
    run(bench, path, watch)
    assert watch.count("trial") == 0
    assert watch.count("epoch") == 6 * EPOCHS
    assert_same(contents(bench, path), expected)


def test_weights_that_are_gone_after_scoring_change_no_bit_of_the_summary(
    bench, finished, expected, tmp_path
):
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    for weights in RunDirectory(path).models.glob("*.npz"):
        weights.unlink()
    watch = Watch()
    run(bench, path, watch)
    assert watch.count("trial") == 0
    assert watch.count("epoch") == 3 * EPOCHS  # the trial that stands for each arm
    assert contents(bench, path)["summary"] == expected["summary"]


def test_a_refused_run_leaves_no_note_and_a_damaged_note_is_written_anew(bench, finished, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    note = RunDirectory(path).provenance
    before = note.read_bytes()
    with pytest.raises(RunError, match="backend"):
        run(replace(bench, facts={**bench.facts, "backend": "abacus"}, trials=bench.trials[1:]), path)
    assert note.read_bytes() == before
    note.write_text("{")
    run(bench, path)
    assert Provenance.read(RunDirectory(path)).backend == keras.backend.backend()


def test_other_weights_are_removed_on_the_way(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "_PRUNED", 1)
    counts, expected, ended = [], [], Counter()

    class Counting(Watch):
        def trial(self, trial, result):
            counts.append(len(list((tmp_path / "run" / "models").glob("*.npz"))))
            full = Counter(arm for (arm, _), trials in ended.items() if trials == 2)
            worse = sum(cells - 1 for cells in full.values())  # two trials each
            expected.append(sum(ended.values()) + 1 - 2 * worse)
            ended[trial.cell] += 1

    run(bench, tmp_path / "run", Counting())
    assert counts == expected  # in whatever order they end
    assert len(list((tmp_path / "run" / "models").glob("*.npz"))) == 6
    if not vectorised(bench):  # two seeds for each arm's best cell so far, and the cell that is being trained
        assert counts == [1, 2, 3, 4, 5, 6, 5, 6]


def test_a_changed_study_is_refused_with_the_difference(bench, blobs, finished, expected):
    path, _, _ = finished
    changed = runner.prepare(spec(seeds=3, training={**FIELDS["training"], "epochs": 9}), blobs, False)
    with pytest.raises(RunError, match=r"seeds: \[0, 5\] -> \[0, 1, 2\]; training.epochs: 3 -> 9"):
        run(changed, path)
    assert_same(contents(bench, path), expected)


def test_changed_data_and_a_changed_model_are_refused(bench, blobs, finished, expected):
    path, _, _ = finished
    other = Data("blobs", blobs.x_train + 1, blobs.y_train, blobs.x_test, blobs.y_test)
    with pytest.raises(RunError, match="The data of this study changed"):
        run(runner.prepare(bench.spec, other, False), path)
    facts = {**bench.facts, "model": "other"}
    moved = replace(bench, data=blobs, facts=facts, trials=bench.trials[:-1])
    with pytest.raises(RunError, match="The model of this study changed"):
        run(moved, path)
    assert_same(contents(bench, path), expected)


def test_a_storage_without_its_curves_is_refused(bench, blobs, finished, tmp_path):
    url = f"sqlite:///{tmp_path}/shared.db"
    shared = runner.prepare(spec(storage=url, seeds=[0], arms=[]), blobs, False)
    run(shared, tmp_path / "one")
    with pytest.raises(RunError, match="lacks the curves of 1 trials"):
        run(shared, tmp_path / "two")
    assert not (tmp_path / "two" / "study.toml").exists()


def test_an_empty_table_has_its_columns(bench, expected):
    empty = frame([arm.name for arm in bench.spec.all_arms], {}, {})
    assert list(empty.columns) == [*expected["frame"].columns[:13], *SIZES, "key"]
    assert len(empty) == 0


# --- failures ------------------------------------------------------------------------------------------


def test_a_failure_in_training_is_one_sentence_and_loses_nothing(bench, expected, tmp_path, monkeypatch):
    loop, path = type(bench.loop), tmp_path / "run"
    advance = loop.advance

    def broken(self, cohort, *rest):
        if any(lane.arm == "L1" for lane in cohort.lanes):
            raise ValueError("Shapes do not fit\nin a long story")
        return advance(self, cohort, *rest)

    monkeypatch.setattr(loop, "advance", broken)
    with pytest.raises(TrainingError) as caught:
        run(bench, path)
    assert str(caught.value) == "Training failed with ValueError: Shapes do not fit"
    assert caught.value.exit_code == 1
    monkeypatch.undo()
    watch = Watch()
    run(bench, path, watch)
    assert watch.done == (0 if vectorised(bench) else 6)
    assert_same(contents(bench, path), expected)


BAD = {
    "optimizer": ({"training": {"optimizer": "adamm"}}, ModelError, ["'adamm'", "Adam"]),
    "loss": ({"training": {"loss": "mean_squared_eror"}}, ModelError, ["eror'", "mean_squared_error"]),
    "metric": ({"training": {"metrics": ["mea"]}}, ModelError, ["'mea'"]),
    "loss that does not fit": ({"training": {"loss": "mse"}}, ModelError, ["'mse'", "does not fit", "(3,)"]),
    "rule": (
        {"arms": [{"name": "A", "recipe": "Dens: kernel = l2(strength)", "strengths": [1]}]},
        RecipeError,
        ["'A'", "Dens", "'Dense'", "l2(strength)"],
    ),
    "target": ({"arms": [{"name": "A", "recipe": "*: kernal = l2(1)"}]}, RecipeError, ["'A'", "'kernel'"]),
    "option": ({"model_options": {"hiden": [8]}}, ModelError, ["'hiden'", "'hidden'"]),
    "model": ({"model": "shrinkage.models:mpl", "model_options": {}}, ModelError, ["'mpl'", "'mlp'"]),
    "folds": ({"folds": 91}, SpecError, ["folds = 91", "90"]),
    "saved": ({"initial": "saved"}, ModelError, ["initial", ".keras"]),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_found_before_a_directory_is_begun(blobs, case):
    changes, kind, words = BAD[case]
    with pytest.raises(kind) as caught:
        runner.prepare(spec(**changes), blobs, allow_code=False)
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("everything", [False, True])
def test_divergence_is_a_result(blobs, tmp_path, everything):
    arms = [{"name": "L2", "recipe": "Dense: kernel = l2(strength)", "strengths": [1e-3, 1e30]}]
    training = {
        "epochs": 3,
        "batch_size": 32,
        "optimizer": "sgd",
        "learning_rate": 1e38 if everything else 0.01,
    }
    bench = runner.prepare(spec(arms=arms, training=training, seeds=[0]), blobs, False)
    watch = Watch()
    summary = run(bench, tmp_path / "run", watch)
    frame = table(bench, tmp_path / "run")
    assert frame["state"].tolist() == (
        ["diverged"] * 3 if everything else ["complete", "complete", "diverged"]
    )
    last = frame.iloc[-1]
    assert last["epochs"] < 3
    assert not math.isfinite(last["val_data_loss"]) or not math.isfinite(last["loss"])
    curve = RunDirectory(tmp_path / "run").curves([last["key"]])
    assert curve["epoch"].tolist() == list(range(1, int(last["epochs"]) + 1))
    best = tmp_path / "run" / "models" / "best.keras"
    assert best.exists() == (not everything)
    assert (summary.recommended is None) == everything
    if not everything:
        assert summary.arm("L2").selection.strength == 1e-3
        assert summary.arm("L2").diverged == 1
    again = Watch()
    assert run(bench, tmp_path / "run", again).to_json() == summary.to_json()
    assert again.count("epoch") == 0  # a diverged trial is finished too


# --- kinds of studies ----------------------------------------------------------------------------------


def small(**changes):
    """A study of one trial a split."""
    fields = {
        "arms": [],
        "seeds": [0],
        "model_options": {"hidden": [4]},
        "training": {"epochs": 1, "batch_size": 32},
    }
    return spec(**{**fields, **changes})


UNSAVED = """
import keras

class Unsaved(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.head = keras.layers.Dense(classes, "softmax", name="head")

    def call(self, x):
        return self.head(x)

def build(input_shape, classes):
    model = Unsaved(classes)
    model(keras.ops.zeros((1, *input_shape)))
    return model
"""


@pytest.mark.filterwarnings("ignore:The penalties are in force, but 'unsaved' is a subclassed model")
def test_a_model_that_can_not_be_saved_still_has_its_answer(blobs, tmp_path, monkeypatch):
    (tmp_path / "unsaved.py").write_text(UNSAVED)
    monkeypatch.syspath_prepend(tmp_path)
    study = small(model="unsaved:build", model_options={}, arms=FIELDS["arms"][1:])
    bench = runner.prepare(study, blobs, allow_code=True)
    with pytest.warns(ShrinkageWarning, match=r"best.keras is not written, .* models/\w+.npz"):
        summary = run(bench, tmp_path / "run")
    results = Results.load(tmp_path / "run")
    assert results.summary.to_json() == summary.to_json()
    assert [(node.path, node.inputs) for node in results.evidence.network] == [("head", ())]  # no graph
    assert [len(arm.layers) for arm in results.evidence.arms] == [1, 1]
    assert not (tmp_path / "run" / "models" / "best.keras").exists()


@pytest.mark.thorough
def test_folds(blobs, tmp_path):
    bench = runner.prepare(small(folds=3, seeds=[1, 2]), blobs, False)
    summary = run(bench, tmp_path / "run")
    frame = table(bench, tmp_path / "run")
    assert list(zip(frame["seed"], frame["fold"], strict=True)) == list(itertools.product([1, 2], range(3)))
    assert frame["val_data_loss"].nunique() == frame["test_data_loss"].nunique() == 6
    assert (summary.over, summary.folds) == ("folds", 3)
    assert summary.train_test_ratio == pytest.approx(30 / 60)
    place = RunDirectory(tmp_path / "run")
    for trial in bench.trials:  # every fold is validated on its own rows
        rows = bench.loop.task.splits[trial.fold].validation
        scored = bench.loop.score(
            trial.lane, place.read_weights(trial.key), blobs.x_train[rows], blobs.y_train[rows]
        )
        found = frame.loc[frame["key"] == trial.key, "val_data_loss"].item()
        assert scored["data_loss"] == pytest.approx(found, rel=1e-6)


@pytest.mark.parametrize(
    ("asked", "margin"), [(None, 0.002), pytest.param(0.05, 0.05, marks=pytest.mark.thorough)]
)
def test_a_margin_is_a_fifth_of_a_point_unless_the_study_says_another(blobs, tmp_path, asked, margin):
    summary = run(runner.prepare(small(margin=asked), blobs, False), tmp_path / "run")
    assert summary.margin == margin


def regression(n, rng, targets):
    x = rng.normal(size=(n, 4)).astype("float32")
    y = (x @ rng.normal(size=(4, 3))).astype("float32")
    return x, y[:, 0] if targets is None else y[:, :targets]


@pytest.mark.parametrize("targets", mostly_thorough((None, 1), None))
def test_regression(rng, tmp_path, targets):
    data = Data("line", *regression(60, rng, targets), *regression(20, rng, targets))
    bench = runner.prepare(small(training={"epochs": 2, "batch_size": 32, "metrics": ["mae"]}), data, False)
    summary = run(bench, tmp_path / "run")
    frame = table(bench, tmp_path / "run")
    assert not summary.classification
    assert summary.margin is None
    assert frame["val_accuracy"].isna().all()
    assert frame["test_accuracy"].isna().all()
    for column in ("train_mae", "val_mae", "test_mae"):
        assert math.isfinite(frame[column].item()), column
    split, place = bench.loop.task.splits[0], RunDirectory(tmp_path / "run")
    model = bench.source.build()
    model.set_weights(place.read_weights(bench.trials[0].key))
    predicted = model.predict(data.x_train[split.validation], verbose=0)
    truth = data.y_train[split.validation].reshape(predicted.shape)
    assert frame["val_data_loss"].item() == pytest.approx(((predicted - truth) ** 2).mean(), rel=1e-5)


@pytest.mark.thorough
def test_a_test_score_that_is_no_finite_number_is_a_result(rng, tmp_path):
    far, y = regression(20, rng, None)
    far[0] = 1e25  # its square is no float32
    data = Data("line", *regression(60, rng, None), far, y)
    for name, changes in (("split", {"seeds": [0, 1, 2]}), ("folds", {"folds": 2, "seeds": [0]})):
        bench = runner.prepare(spec(**changes, training={"epochs": 2, "batch_size": 32}), data, False)
        summary = run(bench, tmp_path / name)
        assert table(bench, tmp_path / name)["test_data_loss"].isna().all()
        assert summary.recommended is not None
        before = (tmp_path / name / "summary.json").read_bytes()
        run(bench, tmp_path / name)
        assert (tmp_path / name / "summary.json").read_bytes() == before


def test_more_targets_than_outputs_are_refused(rng):
    data = Data("plane", *regression(60, rng, 3), *regression(20, rng, 3))
    with pytest.raises(ModelError, match="1 outputs, but a target of plane has 3"):
        runner.prepare(small(), data, False)


@pytest.mark.thorough
def test_one_hot_targets_give_what_their_classes_give(blobs, tmp_path):
    eye = np.eye(3, dtype="float32")
    hot = Data("hot", blobs.x_train, eye[blobs.y_train], blobs.x_test, eye[blobs.y_test])
    frames = []
    for i, one in enumerate((blobs, hot)):
        bench = runner.prepare(small(), one, False)
        run(bench, tmp_path / f"run{i}")
        frames.append(table(bench, tmp_path / f"run{i}"))
    for column in ("train_data_loss", "val_data_loss", "val_accuracy", "test_data_loss", "test_accuracy"):
        np.testing.assert_allclose(frames[0][column], frames[1][column], rtol=1e-5)


def test_early_stopping_keeps_the_best_epoch(blobs, tmp_path):
    training = {"epochs": 40, "batch_size": 8, "learning_rate": 0.1, "early_stopping": 2}
    bench = runner.prepare(small(training=training, model_options={"hidden": [32]}), blobs, False)
    run(bench, tmp_path / "run")
    place, row = RunDirectory(tmp_path / "run"), table(bench, tmp_path / "run").iloc[0]
    curve = place.curves([row["key"]])
    assert len(curve) == row["epochs"] + 2 < 40
    assert curve["val_data_loss"].idxmin() + 1 == row["epochs"]
    assert row["val_data_loss"] == curve["val_data_loss"].min()
    held_out = bench.loop.task.splits[0].validation
    scored = bench.loop.score(
        bench.trials[0].lane, place.read_weights(row["key"]), blobs.x_train[held_out], blobs.y_train[held_out]
    )
    assert scored["data_loss"] == pytest.approx(row["val_data_loss"], rel=1e-6)


@pytest.mark.thorough
def test_class_weights_and_an_arms_own_learning_rate_reach_the_training(blobs, tmp_path):
    arms = [{"name": "slow", "recipe": "Dense: kernel = l2(1e-12)", "learning_rate": 1e-4}]
    tables = {}
    for name, weights in (("plain", None), ("first", [1.0, 0.0, 0.0]), ("balanced", "balanced")):
        training = {**FIELDS["training"], **({} if weights is None else {"class_weights": weights})}
        bench = runner.prepare(small(arms=arms, training=training), blobs, False)
        run(bench, tmp_path / name)
        tables[name] = table(bench, tmp_path / name).set_index("arm")
    share = (blobs.y_test == 0).mean()
    assert tables["first"].loc["none", "test_accuracy"] == pytest.approx(share)  # it learned one class alone
    assert tables["plain"].loc["none", "test_accuracy"] > share
    assert tables["plain"].loc["slow", "train_data_loss"] > tables["plain"].loc["none", "train_data_loss"]
    assert tables["balanced"].loc["none", "test_accuracy"] > share


@pytest.mark.thorough
@pytest.mark.parametrize("loop", ["auto", "keras"])
def test_halving_ends_with_the_same_bits_whenever_it_is_killed(blobs, tmp_path, loop):
    grid = {"name": "L2", "recipe": "Dense: kernel = l2(strength)", "strengths": [1e-3, 1e-2, 0.1, 1.0, 3.0]}
    training = {**FIELDS["training"], "epochs": 4, "loop": loop}
    changes = {"arms": [grid], "training": training, "strategy": "halving"}
    bench = runner.prepare(spec(**changes, rungs=[1, 2]), blobs, False)
    watch = Watch()
    run(bench, tmp_path / "whole", watch)
    expected = contents(bench, tmp_path / "whole")
    frame = expected["frame"].groupby(["arm", "strength"], dropna=False, sort=True)[["state", "epochs"]]
    ended = [(state, epochs) for (state, epochs), *_ in (cell.to_numpy() for _, cell in frame)]
    assert sorted(ended) == [("complete", 4)] * 3 + [("stopped", 1)] * 2 + [("stopped", 2)]
    assert not (tmp_path / "whole" / "checkpoints").exists()
    stored = TrialStore(tmp_path / "whole", None, bench.spec.name)._study.get_trials()
    assert {t.state.name: sorted(t.intermediate_values) for t in stored if t.state.name == "COMPLETE"} == {
        "COMPLETE": [1, 2]
    }
    assert {t.state.name for t in stored} == {"COMPLETE", "PRUNED"}
    for kill in range(1, len(watch.events), 5):
        path = tmp_path / f"killed{kill}"
        with pytest.raises(Crash):
            run(bench, path, Watch(lambda event, count, kill=kill: count == kill))
        run(bench, path)
        if keras.backend.backend() == "jax":
            assert_same(contents(bench, path), expected)


@pytest.mark.thorough
def test_arms_of_one_seed_share_initial_weights_data_order_and_dropout(blobs, tmp_path):
    arms = [
        {"name": "L1", "recipe": "Dense: kernel, bias = l1(strength)", "strengths": [1e-12]},
        {"name": "activity", "recipe": "dense_1: activity = l2(1e-12)"},
    ]
    options = {"hidden": [8], "dropout": 0.5}
    training = {"epochs": 3, "batch_size": 32, "learning_rate": 0.01}
    changes = {"arms": arms, "seeds": [3, 4], "model_options": options, "training": training}
    bench = runner.prepare(spec(**changes), blobs, False)
    run(bench, tmp_path / "run")
    curves = RunDirectory(tmp_path / "run").curves([t.key for t in bench.trials])
    for column in ("data_loss", "train_data_loss", "val_data_loss"):
        wide = curves.pivot(index=["seed", "epoch"], columns="arm", values=column)
        for arm in ("L1", "activity"):
            np.testing.assert_allclose(wide[arm], wide["none"], rtol=1e-6, err_msg=arm)
        assert wide["none"][3, 1] != wide["none"][4, 1]


def test_selection_never_sees_test_data(expected):
    frame = expected["frame"]
    blind = frame.drop(columns=["test_data_loss", "test_accuracy"])
    assert {arm: s.strength for arm, s in select(cells(blind)).items()} == {
        arm: s.strength for arm, s in select(cells(frame)).items()
    }


# --- who watches ---------------------------------------------------------------------------------------


def test_several_observers_are_told_the_same(bench, tmp_path):
    one, other = Watch(), Watch()
    run(bench, tmp_path, observers.Observers(one, other))
    assert one.events == other.events
    assert one.lines == other.lines
    assert (one.total, one.done) == (other.total, other.done) == (len(bench.trials), 0)
    assert one.count("epoch") == len(bench.trials) * EPOCHS


def test_a_reader_of_the_progress_who_goes_is_no_failure_of_the_training(bench, tmp_path):
    class Gone(observers.Silent):
        def epoch(self, record):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        run(bench, tmp_path, Gone())
