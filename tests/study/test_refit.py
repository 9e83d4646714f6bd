"""Refit: what was chosen, trained on all rows, once, to the same bits whatever comes between."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from shrinkage.report.after import after
from shrinkage.study import observers, runner
from shrinkage.study.directory import RunDirectory
from shrinkage.study.final import Refit
from shrinkage.study.notes import refit_note
from shrinkage.study.refit import epochs_of, refit
from shrinkage.study.results import Results
from shrinkage.study.selection import cells
from shrinkage.study.spec import StudySpec
from shrinkage.study.storage import TrialStore
from shrinkage.training.choose import make_loop
from shrinkage.training.task import Lane, Split

# Keras turns its variables into arrays in a way that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

FIELDS = {
    "data": "blobs",
    "model": "shrinkage.models:mlp",
    "model_options": {"hidden": [8]},
    "seeds": [3, 5],
    "folds": 2,
    "training": {"epochs": 4, "batch_size": 15, "learning_rate": 0.1, "early_stopping": 1},
    "arms": [{"name": "L2", "recipe": "Dense: kernel = l2(strength)", "strengths": [0.01, 0.1]}],
}


def spec(**changes):
    fields = {**FIELDS, **changes}
    return StudySpec.parse({k: v for k, v in fields.items() if v is not None})


class Crash(BaseException):
    """A kill, as seen from inside."""


class Watch(observers.Silent):
    def __init__(self):
        self.lines = []

    def say(self, line):
        self.lines.append(line)

    @property
    def again(self):
        return [line for line in self.lines if "again" in line]


def run(bench, path, watch=None):
    place = RunDirectory(path)
    with place.locked():
        return runner.run(bench, place, watch or Watch())


def stored(path):
    return json.loads((path / "summary.json").read_text())


@pytest.fixture(scope="module")
def bench(blobs):
    return runner.prepare(spec(), blobs, allow_code=False)


@pytest.fixture(scope="module")
def finished(bench, tmp_path_factory):
    path, watch = tmp_path_factory.mktemp("finished") / "run", Watch()
    return path, run(bench, path, watch), watch


def by_hand(bench, arm, strength, epochs, blobs):
    """Train an arm on all rows by the loop of the study, and return the result."""
    rows = np.arange(len(blobs.x_train))
    task = replace(
        bench.loop.task, splits=(Split(rows, rows[-5:]),), epochs=epochs, early_stopping=None, rungs=()
    )
    lane = Lane(arm, strength, 3)
    loop = make_loop(task, bench.build_of(arm, strength)(), [lane], "auto")
    (result,) = loop.run([lane], lambda record: None)
    return result, loop.score(lane, result.weights, blobs.x_test, blobs.y_test)


@pytest.mark.jax_only
@pytest.mark.thorough
def test_it_runs_the_programs_of_the_study(blobs, tmp_path, monkeypatch):
    from shrinkage.training.jax_lanes import Lanes

    made, make = list[Lanes](), Lanes.__init__

    def noted(self, *given):
        made.append(self)
        make(self, *given)

    monkeypatch.setattr(Lanes, "__init__", noted)
    watch = Watch()
    run(runner.prepare(spec(), blobs, allow_code=False), tmp_path / "run", watch)
    assert len(watch.again) == 1
    assert len(made) == 1


@pytest.mark.thorough
def test_it_is_the_loops_own_training_on_all_rows(bench, finished, blobs):
    path, summary, watch = finished
    best = summary.recommended
    found = Refit.of(stored(path))
    trials = [t for t in bench.trials if t.cell == (best.arm, best.strength)]
    rows = TrialStore(path, None, bench.spec.name).finished()
    mean = np.mean([rows[t.key]["epochs"] for t in trials])
    assert found.epochs == math.floor(mean + 0.5)
    assert (found.arm, found.strength, found.seed, found.rows) == (best.arm, best.strength, 3, 90)
    result, scores = by_hand(bench, best.arm, best.strength, found.epochs, blobs)
    assert found.test_data_loss == pytest.approx(scores["data_loss"], rel=1e-6)
    assert found.test_accuracy == pytest.approx(scores["accuracy"], rel=1e-6)
    (file,) = (path / "refit").glob("*/models/*.npz")
    with np.load(file) as kept:
        for i, expected in enumerate(result.weights):
            np.testing.assert_array_equal(kept[f"arr_{i}"], expected)
    assert len(watch.again) == 1
    assert "all 90 training rows" in watch.again[0]


@pytest.mark.thorough
def test_best_keras_is_that_model_and_scores_what_is_stored(finished, blobs):
    path, _, _ = finished
    model = keras.saving.load_model(path / "models" / "best.keras")
    model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    found = Refit.of(stored(path))
    accuracy = model.evaluate(blobs.x_test, blobs.y_test, verbose=0, return_dict=True)["accuracy"]
    assert accuracy == pytest.approx(found.test_accuracy)
    p = model.predict(blobs.x_test, verbose=0)[np.arange(60), blobs.y_test]
    assert -np.log(p).mean() == pytest.approx(found.test_data_loss, rel=1e-5)


@pytest.mark.thorough
def test_it_is_never_trained_twice(bench, finished):
    path, _, _ = finished
    before, weights = stored(path), list((path / "refit").glob("*/models/*.npz"))
    changed = weights[0].stat().st_mtime_ns
    watch = Watch()
    run(bench, path, watch)
    assert stored(path) == before
    assert not watch.again
    assert weights[0].stat().st_mtime_ns == changed


def kept(path):
    """The weights, to the bit."""
    (file,) = (path / "refit").glob("*/models/*.npz")
    with np.load(file) as found:
        return file, {name: found[name].tobytes() for name in found}


@pytest.mark.thorough
def test_kills_change_no_bit_and_what_is_kept_is_not_trained_again(bench, finished, tmp_path, monkeypatch):
    expected, path = finished[0], tmp_path / "run"
    for method, trained in (("write_weights", 1), ("write_test_scores", 1), ("write_pictures", 0)):
        real = getattr(RunDirectory, method)

        def killed(self, *given, real=real, method=method):
            if "refit" in str(self.path) or method == "write_pictures":
                raise Crash
            return real(self, *given)

        watch = Watch()
        with monkeypatch.context() as patched:
            patched.setattr(RunDirectory, method, killed)
            with pytest.raises(Crash):
                run(bench, path, watch)
        assert len(watch.again) == trained
    watch = Watch()
    run(bench, path, watch)
    assert not watch.again
    assert stored(path) == stored(expected)
    (file, weights), (other, theirs) = kept(path), kept(expected)
    assert file.name == other.name
    assert weights == theirs
    file.unlink()  # by hand: they come back
    run(bench, path)
    assert kept(path) == (file, weights)


@pytest.mark.thorough
def test_any_strength_can_be_asked_for(bench, tmp_path, blobs):
    place, lines = RunDirectory(tmp_path / "run"), []
    found = refit(bench, place, "L2", 0.3, 2, lines.append)
    result, scores = by_hand(bench, "L2", 0.3, 2, blobs)
    assert found.record.test_data_loss == pytest.approx(scores["data_loss"], rel=1e-6)
    assert all(np.array_equal(a, b) for a, b in zip(found.weights, result.weights, strict=True))
    assert lines == ["Training L2 at λ = 0.3 again on all 90 training rows for 2 epochs."]
    again = refit(bench, place, "L2", 0.3, 2, lines.append)
    assert again.record == found.record
    assert len(lines) == 1


def test_when_it_is_done():
    for folds, expected in ((None, [False, True, False]), (2, [True, True, False])):
        assert [spec(folds=folds, refit=asked).refits for asked in (None, True, False)] == expected


SMALL = {"folds": None, "arms": [], "seeds": 1, "training": {"epochs": 1, "batch_size": 18}}


def test_a_training_that_diverges_is_told_and_leaves_the_best_trial(blobs, tmp_path, monkeypatch):
    bench = runner.prepare(spec(**SMALL, refit=True), blobs, allow_code=False)
    monkeypatch.setattr("shrinkage.study.refit._trained", lambda *given: None)
    run(bench, tmp_path / "run")
    found = Refit.of(stored(tmp_path / "run"))
    assert found.diverged
    assert math.isnan(found.test_data_loss)
    assert (tmp_path / "run" / "models" / "best.keras").exists()
    assert "diverged" in next(after(found, None)).words
    watch = Watch()
    run(bench, tmp_path / "run", watch)
    assert not watch.again


def test_the_epochs_are_the_rounded_mean():
    from shrinkage.study.design import Trial

    for epochs, mean in (([3], 3), ([1, 2], 2), ([1, 1, 2], 1), ([20, 20], 20)):
        trials = [Trial("a", None, i, -1, str(i)) for i in range(len(epochs))]
        assert epochs_of({str(i): {"epochs": n} for i, n in enumerate(epochs)}, trials) == mean


@pytest.mark.thorough
def test_a_holdout_study_refits_when_asked_and_finds_the_same_otherwise(blobs, tmp_path):
    found = []
    for asked in (None, True):
        bench = runner.prepare(spec(**SMALL, refit=asked), blobs, allow_code=False)
        watch = Watch()
        run(bench, tmp_path / str(asked), watch)
        assert bool(watch.again) == bool(asked)
        found.append(stored(tmp_path / str(asked)))
    assert Results.load(tmp_path / "True").refit == Refit.of(found[1])
    assert found[1].pop("refit")["rows"] == 90
    assert found[0] == found[1]


@pytest.mark.parametrize(("accuracy", "told"), [(0.93, 0), (0.8, 1), (0.99, 1), (float("nan"), 0)])
def test_a_model_far_from_the_trials_at_its_strength_is_told_of(accuracy, told):
    trials = pd.DataFrame(
        {"arm": "l2", "strength": 0.1, "seed": [0, 1], "fold": -1, "state": "complete", "val_data_loss": 1.0,
         "test_accuracy": [0.9, 0.92]}
    )  # fmt: skip
    (cell,) = cells(trials)
    record = Refit("l2", 0.1, 0, 90, 7, False, 0.3, accuracy)
    assert refit_note(record, cell, 20) == ()  # of 20 rows two more or fewer are chance
    said = refit_note(record, cell, 1000)
    assert len(said) == told
    assert all("91.0 %" in text for text in said)
