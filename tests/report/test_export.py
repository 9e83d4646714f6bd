"""Tables as files: what is read back is what was there, to the bit, of a run that has ended or not."""

from __future__ import annotations

import io
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkage.errors import RunError
from shrinkage.report.export import exported
from shrinkage.study.design import Trial
from shrinkage.study.directory import RunDirectory
from shrinkage.study.files import write_text
from shrinkage.study.results import Results, stored_curves, stored_trials
from shrinkage.study.storage import TrialStore

NAN = float("nan")
NAMES = ["none", "=1+1", "+x", "-y", "@z", 'a,"b"', "two\nlines", "NA", "λ é ✓"]


def table(**columns):
    """A table with every type of column that a run has."""
    n = len(NAMES)
    numbers = np.random.default_rng(0).normal(size=n) * 10.0 ** np.arange(-4, n - 4)
    counts = pd.array([None, *range(n - 1)], dtype="Int64")
    return pd.DataFrame(
        {"arm": pd.array(NAMES, dtype="str"), "strength": numbers, "seed": range(n), "units": counts}
        | {"none": NAN, **columns}
    )


def read_csv(content, like):
    return pd.read_csv(
        io.BytesIO(content), keep_default_na=False,
        na_values={c: [""] for c in like.columns if c not in ("arm", "state")}, dtype=like.dtypes.to_dict(),
    )  # fmt: skip


def read_json(content, like):
    rows = json.loads(content, parse_constant=pytest.fail)
    return pd.DataFrame(rows, columns=like.columns).astype(like.dtypes.to_dict())


def read_parquet(content, like):
    return pd.read_parquet(io.BytesIO(content))


READERS = {"csv": read_csv, "json": read_json, "parquet": read_parquet}
each_form = pytest.mark.parametrize("form", READERS)


@each_form
def test_a_table_comes_back_to_the_bit(form):
    before = table()
    after = READERS[form](exported(before, form), before)
    pd.testing.assert_frame_equal(after, before, check_exact=True)


@each_form
@given(numbers=st.lists(st.floats(allow_nan=True, allow_infinity=False), min_size=9, max_size=9))
def test_every_float_comes_back_to_the_bit(form, numbers):
    before = table(x=numbers)
    after = READERS[form](exported(before, form), before)
    expected = np.where(np.isnan(numbers), NAN, numbers)  # which bits a NaN has does not matter
    assert np.asarray(after["x"]).tobytes() == np.asarray(expected).tobytes()


def test_json_is_valid_where_a_loss_is_infinite():
    rows = json.loads(exported(table(x=np.inf), "json"), parse_constant=pytest.fail)
    assert {row["x"] for row in rows} == {None}


@pytest.fixture
def unfinished(tmp_path):
    """A run that was stopped after three trials, one of them diverged."""
    place = RunDirectory(tmp_path / "run")
    write_text(
        place.spec,
        'name = "s"\n[[arms]]\nname = "=L2"\nrecipe = ["Dense: kernel = l2(strength)"]\n'
        '[[arms]]\nname = "free"\nrecipe = []\n',
    )
    store = TrialStore(place.path, None, "s")
    store.claim("d", {}, ["free", "=L2"])
    for i, (arm, strength, loss) in enumerate(
        [("=L2", 0.1, 0.3), ("free", None, 0.1 + 0.2), ("=L2", 1.0, NAN)]
    ):
        trial = Trial(arm, strength, seed=0, fold=-1, key=f"key{i}")
        place.write_curve(trial, [{"epoch": epoch, "val_data_loss": loss / epoch} for epoch in (1, 2)])
        store.add(trial, "complete" if loss == loss else "diverged", {"epochs": 2, "val_data_loss": loss})
    return place.path


def test_a_run_that_has_not_ended_has_its_finished_trials(unfinished):
    with pytest.raises(RunError):
        Results.load(unfinished)
    trials = stored_trials(unfinished)
    assert list(trials["arm"]) == ["free", "=L2", "=L2"]  # the arm without penalties is first
    assert list(trials["state"]) == ["complete", "complete", "diverged"]
    assert trials["val_data_loss"][0] == 0.1 + 0.2
    curves = stored_curves(unfinished)
    assert list(curves["arm"]) == ["free", "free", "=L2", "=L2", "=L2", "=L2"]
    assert curves["val_data_loss"][1] == (0.1 + 0.2) / 2


def test_a_run_without_a_finished_trial_is_told_and_left_as_it_is(tmp_path):
    with pytest.raises(RunError, match="no run in"):
        stored_trials(tmp_path)
    (tmp_path / "study.toml").write_text('name = "s"\narms = []\n')
    for read in (stored_trials, stored_curves):
        with pytest.raises(RunError, match=r"No trial of the run in .* has finished yet"):
            read(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["study.toml"]


@pytest.mark.parametrize("content", ["arms = [", "", 'arms = ["x"]', "arms = 3"])
def test_a_damaged_study_is_one_error(unfinished, content):
    (unfinished / "study.toml").write_text(content)
    with pytest.raises(RunError, match="can't be read"):
        stored_trials(unfinished)


def test_a_damaged_curve_is_one_error(unfinished):
    (unfinished / "curves" / "key1.parquet").write_bytes(b"half")
    with pytest.raises(RunError, match=r"curves in .* can't be read"):
        stored_curves(unfinished)
