"""A study in a notebook: what is shown of it at every stage, its table, and its stored answer."""

from __future__ import annotations

import json
import shutil

import keras
import pandas as pd
import pytest

from shrinkage.errors import RunError
from shrinkage.report.terminal import arms_table
from shrinkage.study import runner
from shrinkage.study.directory import RunDirectory
from shrinkage.study.results import frame
from shrinkage.study.study import Study

ARMS = [
    {
        "name": "L2",
        "recipe": "Dense: kernel = l2(strength)",
        "strengths": {"low": 1e-6, "high": 0.1, "count": 6},
    }
]


@pytest.fixture(scope="module")
def stored(store_study, tmp_path_factory):
    return store_study(tmp_path_factory.mktemp("stored") / "run")


@pytest.fixture
def copied(stored, tmp_path):
    """The stored study in a directory of its own, to be damaged."""
    return Study.load(shutil.copytree(stored.directory, tmp_path / "run"))


# --- what is shown --------------------------------------------------------------------------------------


def test_a_study_that_was_not_run_shows_what_it_would_train(shown, blobs):
    cells = shown(Study("shrinkage.models:mlp", "digits", arms=ARMS, folds=4, seeds=2)).cells
    assert cells[0] == "study: not run yet; 56 trials to train"
    assert cells[5:13] == [
        "none",
        "–",
        "–",
        "8",
        "L2",
        "Dense: kernel = l2(strength)",
        "1e-6 … 0.1 (6)",
        "48",
    ]
    assert cells[13] == "shrinkage.models:mlp on digits: 2 seeds, 4 folds, 20 epochs of adam."
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)], name="mine")
    assert shown(Study(model, blobs, arms=ARMS)).cells[-1].startswith("mine on blobs: 5 seeds, 20 % held out")


def test_of_a_search_the_number_of_trials_is_not_known(shown, blobs):
    study = Study("shrinkage.models:mlp", blobs, arms=[{"name": "L2", "recipe": "*: kernel = l2(strength)"}])
    cells = shown(study).cells
    assert cells[0] == "study: not run yet"
    assert "searched" in cells


def test_a_finished_study_shows_the_table_and_the_headline(shown, stored):
    summary, cells = stored.summary(), shown(stored).cells
    columns = arms_table(summary).columns
    shown_in_the_terminal = [[str(cell) for cell in column.cells] for column in columns]
    width = len(columns)
    assert cells[0] == "mean ± standard error over seeds, [95 % interval]"
    assert cells[1 : 1 + width] == [str(column.header) for column in columns]
    rows = [cells[1 + width * (i + 1) : 1 + width * (i + 2)] for i in range(len(summary.arms))]
    assert [list(column) for column in zip(*rows, strict=True)] == shown_in_the_terminal
    assert cells[1 + width * (len(summary.arms) + 1) :] == list(summary.headline)
    assert cells == shown(summary).cells


def test_an_unfinished_run_shows_how_far_it_has_come(shown, store_study, tmp_path):
    cells = shown(store_study(tmp_path / "run", finished=5)).cells
    assert cells[0] == "L2: not finished; 5 of 15 trials trained"
    assert cells[8::4][:3] == ["3 of 3", "2 of 9", "0 of 3"]


@pytest.mark.parametrize("file", ["summary.json", "study.db", "study.toml"])
def test_a_damaged_run_is_shown_as_far_as_it_can_be_read(shown, copied, file):
    (copied.directory / file).write_text("{damaged")
    (copied.directory / "summary.json").write_text("{damaged")
    found = shown(copied).cells
    assert found[0].startswith("L2: not finished; ")
    assert "*: kernel = l2(strength)" in found


def test_a_run_that_was_removed_can_be_shown_and_stays_removed(shown, copied):
    shutil.rmtree(copied.directory)
    assert shown(copied).cells[0] == "L2: not finished; 0 of 15 trials trained"
    assert not copied.directory.exists()


def test_an_arms_name_is_text_at_every_stage(shown, store_study, tmp_path):
    def stages(name, place):
        arms = [{**ARMS[0], "name": name}]
        fresh = Study("shrinkage.models:mlp", "digits", arms=arms, name=name)
        run = store_study(place, arm=name)
        whole = shown(run).elements
        (place / "summary.json").unlink()
        return shown(fresh).elements, whole, shown(run).elements

    hostile = "</td><script>alert(1)</script>\x1b[31m\"'&lt;<!--"
    assert stages(hostile, tmp_path / "a") == stages("harmless", tmp_path / "b")


def test_a_run_that_was_stopped_by_hand_can_be_looked_at(shown, blobs, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    study = Study("shrinkage.models:mlp", blobs, arms=[], seeds=1, training={"epochs": 1})
    monkeypatch.setattr(runner, "prepare", lambda *_: None)
    monkeypatch.setattr(runner, "run", stop)
    with pytest.raises(KeyboardInterrupt):
        study.run(tmp_path / "run")
    assert study.directory == tmp_path / "run"
    assert shown(study).cells[0] == "study: not finished; 0 of 1 trial trained"


# --- the stored answer ----------------------------------------------------------------------------------


def test_the_stored_answer_reads_back_as_it_was(stored):
    written = json.loads((stored.directory / "summary.json").read_text())
    assert stored.summary().to_json() == written
    assert stored.summary().to_json() == json.loads((stored.directory / "summary.json").read_text())


def test_there_is_no_answer_before_the_end(copied):
    with pytest.raises(RunError, match="has not been run"):
        Study("shrinkage.models:mlp", "digits", arms=ARMS).summary()
    (copied.directory / "summary.json").unlink()
    with pytest.raises(RunError, match="is not finished"):
        copied.summary()
    (copied.directory / "summary.json").write_text('{"format": 99}')
    with pytest.raises(RunError, match="its format is 99, and 4 is known here"):
        copied.summary()


# --- the table ------------------------------------------------------------------------------------------

WHOLE = dict.fromkeys(("seed", "fold", "epochs"), "int64")
COUNTS = dict.fromkeys(("units", "live_units", "parameters", "compacted_parameters"), "Int64")


@pytest.mark.parametrize("finished", [15, 1, 0])
def test_the_table_is_tidy(stored, finished):
    scores = RunDirectory(stored.directory).test_scores()
    trials = dict(list(stored._store().finished().items())[:finished])
    names = [arm.name for arm in stored.spec.all_arms]
    table = frame(names, trials, scores).drop(columns="key")
    if finished == 15:
        pd.testing.assert_frame_equal(table, stored.frame(), check_exact=True)
    assert len(table) == finished
    assert table.columns.is_unique
    assert "key" not in table.columns
    types = {name: str(kind) for name, kind in table.dtypes.items()}
    text = {name: types.pop(name) for name in ("arm", "state")}
    assert set(text.values()) == {str(pd.Series(["a"]).astype("str").dtype)}
    assert {name: types.pop(name) for name in (*WHOLE, *COUNTS)} == {**WHOLE, **COUNTS}
    assert set(types.values()) == {"float64"}
    assert not table.duplicated(["arm", "strength", "seed", "fold"]).any()


def test_what_is_missing_is_missing(stored):
    table = stored.frame()
    assert list(table["arm"].unique()) == ["none", "L2", "flat"]
    assert table["strength"].isna().equals(table["arm"].isin(["none", "flat"]))
    (lost,) = table[table["state"] == "diverged"].itertuples()
    assert (lost.strength, lost.seed) == (1.0, 0)
    assert table["parameters"].isna().sum() == 1
    assert table["parameters"].dropna().unique().tolist() == [1000]
    assert table["test_data_loss"].notna().sum() == 9


def test_the_table_answers_questions_in_one_line(stored):
    """As the documentation does."""
    table = stored.frame()
    by_strength = table.groupby(["arm", "strength"], dropna=False)["val_data_loss"].mean()
    assert by_strength["L2", 0.01] == pytest.approx(0.511)
    wide = table.pivot_table(index="strength", columns="arm", values="val_data_loss")
    assert wide.shape == (3, 1)
    paired = table[table["arm"] == "flat"].set_index("seed")["val_data_loss"]
    assert list(paired.index) == [0, 1, 2]
