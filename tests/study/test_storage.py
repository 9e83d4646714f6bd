"""The run directory: atomic files, one driver, nothing of others touched; and the trial store."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
import warnings

import ml_dtypes
import numpy as np
import optuna
import pandas as pd
import pytest

from shrinkage.errors import RunError
from shrinkage.study.design import Trial
from shrinkage.study.directory import RunDirectory
from shrinkage.study.files import save_model, write_atomically, write_json, write_text
from shrinkage.study.storage import TrialStore

NAN = float("nan")
FACTS = {"data": "d", "model": "m", "backend": "jax"}
ARMS = ["none", "[bold]L2[/] ✓ 'x' \"y\"\n", "L1"]
HOSTILE = "what? #1 100%20 é 'x' \"y\" [z]; & \\ $HOME"


def trial(i, arm=ARMS[1], strength=0.1):
    return Trial(arm, strength, seed=i, fold=-1, key=f"key{i}")


def figures(**changes):
    return {"epochs": 3, "val_data_loss": 0.5, "penalty": 0.25, **changes}


def row(arm, strength, seed, *, fold=-1, state="complete", **changes):
    """A finished trial as it is read back."""
    cell = {"arm": arm, "strength": strength, "seed": seed, "fold": fold, "state": state}
    return {**cell, **figures(**changes)}


@pytest.fixture
def place(tmp_path):
    return RunDirectory(tmp_path / "run")


def tree(path):
    """Everything below a folder, with contents."""
    return {
        str(p.relative_to(path)): p.read_bytes() if p.is_file() and not p.is_symlink() else None
        for p in sorted(path.rglob("*"))
    }


# --- atomic files --------------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "sub" / "file"
    write_text(path, "old ✓")

    def fail(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, fail)
    assert path.read_text(encoding="utf-8") == "old ✓"
    assert os.listdir(path.parent) == ["file"]
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "sub" / "new", fail)
    assert os.listdir(path.parent) == ["file"]


def test_json_without_nan(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"a": NAN})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027])
def test_files_are_as_readable_as_any_other(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "ours", "")
        (tmp_path / "theirs").touch()
    finally:
        os.umask(before)
    ours, theirs = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "theirs"))
    assert ours == theirs


def test_a_model_is_saved_whole_or_not_at_all(tmp_path):
    class Model:
        def save(self, path):
            path.write_bytes(b"half")
            raise OSError("disk full")

    (tmp_path / "m.keras").write_bytes(b"old")
    with pytest.raises(OSError, match="disk full"):
        save_model(Model(), tmp_path / "m.keras")
    assert tree(tmp_path) == {"m.keras": b"old"}


KILLS = """
import json, os, pathlib, random, signal, sys, time
from types import SimpleNamespace
from shrinkage.errors import RunError
from shrinkage.study.directory import RunDirectory
from shrinkage.study.files import write_json
from shrinkage.study.storage import TrialStore

folder, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2])
rng = random.Random(seed)

def killed(work):
    # Let a child work, and kill it at a random moment after it has begun.
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        work(lambda: os.write(writer, b"!"))
        os._exit(0)
    os.read(reader, 1)
    time.sleep(rng.uniform(0, 0.03))
    yield pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(reader), os.close(writer)

def kill(work):
    for _ in killed(work):
        pass

path, seen = folder / "files" / "value.json", []
def write(begun):
    n = json.loads(path.read_text())["n"] if path.exists() else 0
    while True:
        n += 1
        write_json(path, {"n": n, "filling": "x" * (n * 7919 % 300_000), "end": n})
        begun()
for _ in range(25):
    kill(write)
    value = json.loads(path.read_text())
    seen.append(value["n"] == value["end"] and value["n"])

place = RunDirectory(folder / "locked")
def hold(begun):
    with place.locked():
        begun()
        time.sleep(60)
refused = taken = 0
for _ in range(3):
    for pid in killed(hold):
        try:
            with place.locked():
                pass
        except RunError as error:
            refused += "Another process" in str(error)
    with place.locked():
        taken += 1

def add(begun):
    store = TrialStore(folder, None, "s")
    store.claim("digest", {}, ["a"])
    n = len(store.finished())
    while True:
        figures = {"epochs": 1, "val_data_loss": n / 7, "penalty": 0.25}
        trial = SimpleNamespace(arm="a", strength=0.5, seed=n, fold=-1, key=f"key{n}")
        store.add(trial, "complete", figures)
        n += 1
        begun()
for _ in range(4):
    kill(add)
import optuna
states = [t.state.name for t in optuna.load_study(study_name="s", storage=f"sqlite:///{folder}/study.db").trials]
rows = TrialStore(folder, None, "s").finished()
assert "keras" not in sys.modules
print(json.dumps({"seen": seen, "refused": refused, "taken": taken, "states": states, "rows": rows}))
"""


@pytest.mark.thorough
def test_killed_at_random_moments(tmp_path):
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path), str(seed)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    # A file is the old or the new one, and what was once there is never older again.
    assert all(found["seen"])
    assert found["seen"] == sorted(found["seen"])
    assert os.listdir(tmp_path / "files") != []
    # The lock falls with its process.
    assert (found["refused"], found["taken"]) == (3, 3)
    # A trial is in the store whole or not at all, and none is left as running.
    assert set(found["states"]) == {"COMPLETE"}
    n = len(found["rows"])
    assert n == len(found["states"]) >= 4
    assert found["rows"] == {f"key{i}": row("a", 0.5, i, epochs=1, val_data_loss=i / 7) for i in range(n)}


def test_what_a_killed_run_was_writing_is_swept_up(place):
    with place.locked():
        write_text(place.spec, "")
        for folder in (place.path, place.path / "curves", place.models, place.path / "inputs"):
            folder.mkdir(exist_ok=True)
            (folder / ".unfinished-abc").touch()
            (folder / ".unfinished-folder").mkdir()
            (folder / ".unfinished-folder" / "half.keras").touch()
            (folder / ".mine").touch()
    with place.locked():
        left = {p.name for p in place.path.rglob("*")}
    assert left == {".shrinkage-lock", "study.toml", "curves", "models", "inputs", ".mine"}


# --- one driver, and nothing foreign -------------------------------------------------------------------


def test_a_second_driver_is_refused(place):
    another = RunDirectory(place.path).locked()
    with place.locked(), pytest.raises(RunError, match=r"Another process is running the study in '.*run'\."):
        another.__enter__()
    with place.locked():
        pass


def test_the_lock_falls_with_an_error(place):
    with pytest.raises(ZeroDivisionError), place.locked():
        raise ZeroDivisionError
    with place.locked():
        pass


@pytest.mark.parametrize(
    "error", [PermissionError("data"), FileExistsError("data"), NotADirectoryError("data")]
)
def test_an_error_inside_is_not_blamed_on_the_directory(place, error):
    with pytest.raises(type(error), match="data"), place.locked():
        raise error


FOREIGN = [
    {"thesis.tex": b"..."},
    {"models/best.keras": b"..."},
    {"study.db": b"..."},
    {"inputs/data.npz": b"...", ".git/config": b""},
    {".shrinkage-lock": b"", "thesis.tex": b"..."},
    {"study.toml": b"somebody's own", "models/best.keras": b"..."},
]


@pytest.mark.parametrize("files", FOREIGN, ids=lambda files: next(iter(files)))
def test_a_foreign_directory_is_refused_untouched(place, files):
    for name, content in files.items():
        (place.path / name).parent.mkdir(parents=True, exist_ok=True)
        (place.path / name).write_bytes(content)
    before = tree(place.path)
    with pytest.raises(RunError, match="is no run directory"), place.locked():
        pytest.fail("locked")
    assert tree(place.path) == before


def test_a_file_is_no_directory(place):
    place.path.write_text("mine")
    with pytest.raises(RunError, match="is a file"), place.locked():
        pytest.fail("locked")
    with pytest.raises(RunError, match="can't be written"), RunDirectory(place.path / "below").locked():
        pytest.fail("locked")
    assert place.path.read_text() == "mine"


@pytest.mark.parametrize(
    "files", [[], [".git"], [".shrinkage-lock", "inputs", "study.db", "study.db-journal"]]
)
def test_an_empty_or_just_begun_directory_is_taken(place, files):
    place.path.mkdir()
    for name in files:
        (place.path / name).touch()
    with place.locked():
        assert (place.path / ".shrinkage-lock").exists()


def test_clear_removes_what_a_run_wrote_and_nothing_else(place, tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "data").write_text("mine")
    with place.locked():
        write_text(place.spec, "")
        place.write_curve(trial(0), [{"epoch": 1, "loss": 1.0}])
        place.write_weights("key0", [np.zeros(3)])
        place.write_test_scores({"key0": {"test_data_loss": 0.5}})
        write_json(place.summary, {})
        TrialStore(place.path, None, "s").claim("d", FACTS, ARMS)
        for name in ("validation_curve.png", "learning_curves.png", "report.html", "study.db-journal"):
            (place.path / name).touch()
        for name in ("notes.md", "my_report.html", ".env"):
            (place.path / name).write_text("mine")
        (place.path / "inputs").symlink_to(tmp_path / "precious")
        place.clear()
    assert {p.name for p in place.path.iterdir()} == {"notes.md", "my_report.html", ".env", ".shrinkage-lock"}
    assert (tmp_path / "precious" / "data").read_text() == "mine"
    place.clear()


def test_clearing_ends_with_the_file_that_says_what_it_is(place, monkeypatch):
    with place.locked():
        write_text(place.spec, "")
        TrialStore(place.path, None, "s")
        (place.path / "inputs").mkdir()
        place.write_curve(trial(0), [{"epoch": 1, "loss": 1.0}])
    removed = []
    monkeypatch.setattr("shrinkage.study.directory.remove", lambda path: removed.append(path.name))
    place.clear()
    # Killed in between, it is resumed from the start, or cleared again; never taken for a foreign one.
    assert removed[0] == "study.db"
    assert removed[-1] == "study.toml"


# --- curves and weights --------------------------------------------------------------------------------


def test_curves_read_back_one_row_an_epoch(place):
    rows = [{"epoch": e, "loss": 1 / 3 / e, "val_data_loss": NAN if e == 3 else 1e-40 / e} for e in (1, 2, 3)]
    place.write_curve(trial(0), rows)
    place.write_curve(trial(1, "none", None), rows[:1])
    found = place.curves(["key0", "key1", "not there"])
    assert list(found.columns) == ["arm", "strength", "seed", "fold", "epoch", "loss", "val_data_loss"]
    assert len(found) == 4
    assert found["arm"].tolist() == [ARMS[1]] * 3 + ["none"]
    assert found["strength"].tolist()[:3] == [0.1] * 3
    assert np.isnan(found["strength"][3])
    for column in rows[0]:
        np.testing.assert_array_equal(found[column][:3], [row[column] for row in rows])
    assert place.curves([]).empty


def test_weights_read_back_in_order_and_to_the_bit(place, rng):
    weights = [rng.normal(size=(2, 3)).astype(t) for t in ("float32", "float64", "float16")]
    weights += [np.arange(12, dtype="int64"), np.zeros((0, 3), "float32"), np.float32(3).reshape(())]
    weights += [np.array([NAN, np.inf, -0.0], "float32")] * 8  # more than ten: arr_10 comes after arr_9
    place.write_weights("k", weights)
    found = place.read_weights("k")
    assert [w.dtype for w in found] == [w.dtype for w in weights]
    assert all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(found, weights, strict=True)
    )
    assert place.read_weights("other") is None


def test_bfloat16_weights_keep_every_value(place):
    every = np.arange(2**16, dtype="uint16").view(ml_dtypes.bfloat16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # among them are signalling NaNs
        place.write_weights("k", [every])
        (found,) = place.read_weights("k")
        back = found.astype(ml_dtypes.bfloat16)
    numbers = ~np.isnan(found)
    assert np.array_equal(back[numbers].view("uint16"), every[numbers].view("uint16"))
    assert np.isnan(back[~numbers]).all()


def test_only_wanted_weights_are_kept(place):
    place.keep_weights(["a"])
    for key in "abc":
        place.write_weights(key, [np.zeros(1)])
    (place.models / "best.keras").touch()
    place.keep_weights(["a", "c", "d"])
    assert sorted(os.listdir(place.models)) == ["a.npz", "best.keras", "c.npz"]


def test_weights_are_never_unpickled(place):
    place.models.mkdir(parents=True)
    np.savez(place.weights("k"), np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="pickle"):
        place.read_weights("k")


def test_test_scores_read_back(place):
    assert place.test_scores() == {}
    place.write_test_scores({"k": {"test_data_loss": 1 / 3}})
    assert place.test_scores() == {"k": {"test_data_loss": 1 / 3}}
    place.write_test_scores({"k": {"test_data_loss": math.inf}})  # as of a test row that is far outside
    assert math.isnan(place.test_scores()["k"]["test_data_loss"])


# --- the trial store -----------------------------------------------------------------------------------


def filled(folder, url=None, name="s"):
    store = TrialStore(folder, url, name)
    store.claim("digest", FACTS, ARMS)
    store.add(Trial(ARMS[0], None, 2**32 - 1, -1, "fixed"), "complete", figures(val_data_loss=1 / 3))
    store.add(Trial(ARMS[1], 1.2345678901234567e-7, 1, 4, "varied"), "complete", figures())
    store.add(trial(2), "diverged", figures(val_data_loss=NAN, penalty=float("inf")))
    return store


EXPECTED = {
    "fixed": row("none", None, 2**32 - 1, val_data_loss=1 / 3),
    "varied": row(ARMS[1], 1.2345678901234567e-7, 1, fold=4),
    "key2": row(ARMS[1], 0.1, 2, state="diverged", val_data_loss=None, penalty=None),
}


@pytest.mark.parametrize("where", ["default", "url", "memory"])
def test_finished_trials_read_back(tmp_path, where):
    url = {"default": None, "url": f"sqlite:///{tmp_path}/elsewhere.db", "memory": "sqlite:///:memory:"}[
        where
    ]
    store = filled(tmp_path, url)
    assert store.finished() == EXPECTED
    assert list(store.finished()) == list(EXPECTED)
    if where != "memory":
        again = TrialStore(tmp_path, url, "s")
        again.claim("digest", FACTS, ARMS)
        assert again.finished() == EXPECTED
        assert (tmp_path / "study.db").exists() == (where == "default")


def test_two_studies_share_a_storage_by_name(tmp_path):
    url = f"sqlite:///{tmp_path}/shared.db"
    filled(tmp_path, url, "one")
    other = TrialStore(tmp_path, url, "two")
    other.claim("another digest", FACTS, ARMS)
    assert other.finished() == {}
    other.delete()
    assert TrialStore(tmp_path, url, "one").finished() == EXPECTED


def test_optuna_itself_reads_the_study(tmp_path):
    filled(tmp_path)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/study.db")
    assert [t.state.name for t in study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert study.trials[1].params == {"arm": ARMS[1], "strength": 1.2345678901234567e-7, "seed": 1, "fold": 4}
    assert [t.value for t in study.trials] == [1 / 3, 0.5, None]
    assert study.best_trial.user_attrs["key"] == "fixed"
    frame = study.trials_dataframe()
    assert {"params_arm", "params_strength", "params_seed", "params_fold", "user_attrs_state"} <= set(frame)


def test_any_path_will_do(tmp_path):
    folder = tmp_path / HOSTILE
    folder.mkdir()
    filled(folder)
    assert TrialStore(folder, None, "s").finished() == EXPECTED
    assert os.listdir(folder) == ["study.db"]
    assert os.listdir(tmp_path) == [HOSTILE]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (FACTS, "holds another study named 's'"),
        ({**FACTS, "data": "other"}, "The data of this study changed"),
        ({**FACTS, "data": "other", "model": "other"}, "The data and the model of this study changed"),
        ({**FACTS, "backend": "tensorflow"}, r"The backend \(jax -> tensorflow\) of this study changed"),
    ],
)
def test_another_digest_is_refused(tmp_path, facts, words):
    filled(tmp_path)
    with pytest.raises(RunError, match=words) as caught:
        TrialStore(tmp_path, None, "s").claim("other", facts, ARMS)
    assert "--restart" in str(caught.value)
    assert TrialStore(tmp_path, None, "s").finished() == EXPECTED


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:S3cret@localhost:1/db",
        "mysql+pymysql://me:S3cret@localhost:1/db?ssl_ca=S3cret",
        "postgresql//me:S3cret@host/db",
        "nonsense://me:S3cret@host/db",
        "sqlite:////nowhere/at/all.db",
        "redis://me:S3cret@localhost:1/0",
        "S3cret",
    ],
)
def test_a_storage_that_does_not_open_is_told_without_its_password(tmp_path, url):
    with pytest.raises(RunError) as caught:
        TrialStore(tmp_path, url, "s")
    message = str(caught.value)
    assert message.startswith("The storage '")
    assert "can't be opened: " in message
    assert "\n" not in message
    assert url == "S3cret" or "S3cret" not in message


def test_a_damaged_database_is_told(tmp_path):
    (tmp_path / "study.db").write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(RunError, match="can't be opened"):
        TrialStore(tmp_path, None, "s")


def test_optuna_is_quiet_and_heard_again(tmp_path, capfd):
    optuna.logging.set_verbosity(optuna.logging.INFO)
    filled(tmp_path)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert capfd.readouterr().err == ""


def test_names_of_every_kind(tmp_path):
    name = "é ✓ [x] 'q' \"d\" % \\ ; -- \n" + "x" * 170
    assert filled(tmp_path, name=name).finished() == EXPECTED
    assert TrialStore(tmp_path, None, name).finished() == EXPECTED


def test_a_frame_of_curves_keeps_its_types(place):
    place.write_curve(trial(3), [{"epoch": 1, "loss": 0.5}])
    found = pd.read_parquet(place.curve("key3"))
    assert found.dtypes.astype(str).to_dict() | {"arm": ""} == {
        "arm": "",
        "strength": "float64",
        "seed": "int64",
        "fold": "int64",
        "epoch": "int64",
        "loss": "float64",
    }
