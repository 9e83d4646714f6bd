"""Event files: TensorBoard reads back what the study stored."""

from __future__ import annotations

import math
import sys
import types

import numpy as np
import pytest

from shrinkage.errors import RunError, ShrinkageError
from shrinkage.report.tensorboard import TensorBoard, folders
from shrinkage.study.observers import Observers, Silent
from shrinkage.study.study import Study


@pytest.fixture
def read(monkeypatch):
    """``read(directory)``: {run: {tag: {epoch: value}}}, by TensorBoard's own reader without TensorFlow."""
    monkeypatch.setitem(sys.modules, "tensorboard.compat.notf", types.ModuleType("notf"))
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def accumulated(path):
        found = EventAccumulator(str(path), size_guidance={"scalars": 0}).Reload()
        return {tag: {e.step: e.value for e in found.Scalars(tag)} for tag in found.Tags()["scalars"]}

    def runs(directory):
        paths = {path.parent for path in directory.rglob("*tfevents*")}
        return {path.relative_to(directory).as_posix(): accumulated(path) for path in paths}

    return runs


class Stop(Silent):
    """Ends a run after some epochs."""

    def __init__(self, epochs):
        self.left = epochs

    def epoch(self, record):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


@pytest.mark.thorough
def test_every_value_of_every_epoch_is_read_back_after_an_interruption_too(tmp_path, rng, read):
    x = rng.normal(size=(60, 4)).astype("float32")
    study = Study(
        "shrinkage.models:mlp",
        (x, (x[:, 0] > 0).astype(int)),
        model_options={"hidden": [3]},
        arms=[{"name": "../L2", "recipe": "Dense: kernel = l2(strength)", "strengths": [1e-3, 1e30]}],
        seeds=[7],
        training={"epochs": 3, "learning_rate": 0.1, "optimizer": "sgd"},
    )
    directory, logs = tmp_path / "run", tmp_path / "logs"
    with pytest.raises(KeyboardInterrupt):
        study.run(directory, observer=Observers(TensorBoard(logs), Stop(4)))
    assert read(logs)
    study.run(directory, observer=TensorBoard(logs))
    curves, found = study.curves(), read(logs)
    names = {("none", None): "none", ("../L2", 1e-3): "L2/0.001", ("../L2", 1e30): "L2/1e+30"}
    assert set(found) == {f"{name}/seed-7" for name in names.values()}
    assert not np.isfinite(curves["val_data_loss"]).all()  # one arm diverges, and that is written as well
    for (arm, strength), curve in curves.groupby(["arm", "strength"], dropna=False):
        cell = arm, None if math.isnan(strength) else strength
        values = found[f"{names[cell]}/seed-7"]
        tags = set(curve.columns) - {"arm", "strength", "seed", "fold", "epoch"}
        assert set(values) == tags
        for tag in tags:
            assert list(values[tag]) == list(curve["epoch"])
            np.testing.assert_array_equal(list(values[tag].values()), np.float32(curve[tag]))
    assert {p.name for p in tmp_path.iterdir()} == {"run", "logs"}


def test_a_trial_that_goes_on_from_an_earlier_epoch_has_each_epoch_once(make_spec, tell, tmp_path, read):
    spec = make_spec(training={"epochs": 6})
    first = tell(TensorBoard(tmp_path), spec)
    for epoch in range(1, 6):
        first.epoch(first.trials[0], epoch, epoch=epoch)
    second = tell(TensorBoard(tmp_path), spec)
    for epoch in (4, 5, 6):
        second.epoch(second.trials[0], 10 * epoch, epoch=epoch)
    (values,) = read(tmp_path).values()
    assert values["val_data_loss"] == {1: 1, 2: 2, 3: 3, 4: 40, 5: 50, 6: 60}


def test_a_trial_that_begins_anew_in_the_same_run_has_each_epoch_once(make_spec, tell, tmp_path, read):
    run = tell(TensorBoard(tmp_path), make_spec(training={"epochs": 6}))
    for epoch in (1, 2, 3, 1, 2):  # as after too little memory
        run.epoch(run.trials[0], 0.5 * epoch, epoch=epoch)
    (values,) = read(tmp_path).values()
    assert values["val_data_loss"] == {1: 0.5, 2: 1.0}


def test_each_fold_is_a_run(make_spec, tell, tmp_path, read):
    run = tell(TensorBoard(tmp_path), make_spec(folds=2, seeds=1))
    for trial in run.cell("none"):
        run.epoch(trial, 0.5)
    assert set(read(tmp_path)) == {"none/seed-0-fold-0", "none/seed-0-fold-1"}


HOSTILE = ["/etc", "..", "../..", "a/../../b", "a\x00b", "a\nb", "\x1b[2J", ".", "-", "CON/", "~", "é" * 500]


def test_no_name_leads_out_of_the_directory_and_each_arm_has_its_own():
    names = [*HOSTILE, "A", "a", "a-2", "A ", "none"]
    found = folders(names)
    assert list(found) == names
    assert len({folder.casefold() for folder in found.values()}) == len(names)
    for folder in found.values():
        assert folder.strip(".-") == folder != ""
        assert "/" not in folder
        assert folder.isprintable()
        assert len(folder.encode()) < 256
    assert folders(names) == found


def test_a_directory_that_can_not_be_made_is_one_sentence(make_spec, tell, tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(RunError, match=r"'.*file' can't be made: File exists"):
        tell(TensorBoard(path), make_spec())


def test_what_is_missing_is_named_with_the_command(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with pytest.raises(ShrinkageError, match="pip install tensorboard"):
        TensorBoard(tmp_path)


def test_tensorflow_is_not_needed(make_spec, tell, tmp_path, read, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
    run = tell(TensorBoard(tmp_path), make_spec())
    run.epoch(run.trials[0], 0.5)
    assert read(tmp_path)["none/seed-0"]["val_data_loss"] == {1: 0.5}
