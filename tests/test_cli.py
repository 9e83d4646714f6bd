"""The command line: exit codes, signals, kills, and one sentence for whatever is wrong.

Most commands run in children that are forked off one process that has imported everything: a real
process for each, without seconds of imports.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import optuna
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from shrinkage.cli.steps import file_name
from shrinkage.models import mlp
from shrinkage.report.explain import explain, wrapped
from shrinkage.study.directory import RunDirectory
from shrinkage.study.results import Results
from shrinkage.study.study import Study
from shrinkage.training.saved import load_model

pytestmark = [
    pytest.mark.jax_only,
    # Keras turns its variables into arrays in a way that NumPy 2 deprecates.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

COMMAND = str(Path(sys.executable).parent / "shrinkage")
ENDS_WITHIN = 6.0  # seconds; five are promised

SERVER = """
import json, os, sys, traceback, warnings
filters = warnings.filters[:]
warnings.simplefilter("ignore")  # of forking, which is safe as long as JAX has started no backend
import shrinkage.cli as cli
from shrinkage.cli.steps import load_keras
load_keras()
import shrinkage.data, shrinkage.recipe.check, shrinkage.report.figures, shrinkage.report.live
import shrinkage.report.terminal, shrinkage.report.tensorboard, shrinkage.study.study
import sklearn.datasets, sklearn.model_selection

def child(job):
    for number, path in enumerate((os.devnull, job["out"], job["err"])):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC if number else os.O_RDONLY, 0o600)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "w" if n else "r", closefd=False) for n in range(3))
    os.chdir(job["cwd"])
    sys.argv = ["shrinkage", *job["argv"]]
    warnings.filters[:] = filters
    code = 0
    try:
        cli.main()
    except SystemExit as error:
        code = error.code or 0
    except BaseException:
        traceback.print_exc()
        code = 70
    sys.stdout.flush(), sys.stderr.flush()
    os._exit(code)

print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        answer = os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1])
    else:
        answer = os.fork() or child(job)
    print(answer, flush=True)
"""


class Ended:
    """What a command left behind."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit {self.code}\n--- out\n{self.out}\n--- err\n{self.err}"

    def fails(self, code, *words):
        """Assert one sentence on the error output that holds ``words``."""
        assert self.code == code, self
        assert self.out == "", self
        assert re.fullmatch(r"shrinkage: [^\n]+\n", self.err), self
        assert all(word in self.err for word in words), self
        assert "\x1b" not in self.err
        return True


class Shell:
    """Starts commands, in a directory of its own."""

    def __init__(self, folder):
        self.folder, self.count = folder, itertools.count()
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
        self.server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={
                **environment,
                **cache,
                "KERAS_BACKEND": "jax",
                "SHRINKAGE_DATA": str(folder / "no data"),
                "MPLBACKEND": "Agg",
            },
        )
        assert self.server.stdout.readline() == "ready\n"

    def ask(self, **job):
        self.server.stdin.write(json.dumps(job) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())

    def start(self, *argv, cwd=None):
        """Start a command; return its process's id, and where its output goes."""
        paths = [self.folder / f"{next(self.count)}.{end}" for end in ("out", "err")]
        for path in paths:
            path.touch()
        out, err = map(str, paths)
        argv = [str(word) for word in argv]
        return self.ask(argv=argv, out=out, err=err, cwd=str(cwd or self.folder)), paths

    def end(self, started):
        pid, paths = started
        code = self.ask(wait=pid)
        return Ended(code, *(path.read_text() for path in paths))

    def __call__(self, *argv, cwd=None):
        """Run a command to its end."""
        return self.end(self.start(*argv, cwd=cwd))

    def wait_for(self, started, words, seconds=60):
        """Wait until a command has said ``words`` on its error output."""
        begun = time.monotonic()
        while words not in started[1][1].read_text():
            assert time.monotonic() < begun + seconds, f"not said in {seconds} s: {words}"
            time.sleep(0.02)

    def close(self):
        self.server.stdin.close()
        assert self.server.wait(20) == 0
        self.server.stdout.close()


@pytest.fixture(scope="session")
def shell(tmp_path_factory):
    shell = Shell(tmp_path_factory.mktemp("shell"))
    yield shell
    shell.close()


STUDY = """
name = "small é"
data = "blobs.npz"
model = "shrinkage.models:mlp"
model_options = { hidden = [8], dropout = 0.2 }
seeds = 2

[training]
epochs = 2
batch_size = 32
learning_rate = 0.05

[[arms]]
name = "L2"
recipe = ["Dense: kernel = l2(strength)"]
strengths = [0, 0.01, 0.1]

[[arms]]
name = "[bold]L1[/]"
recipe = ["Dense: kernel, bias = l1(0.01)"]
"""
TRIALS = 8
ONE = """
name = "one"
data = "blobs.npz"
model = "shrinkage.models:mlp"
seeds = [3]
arms = []
training = { epochs = 1 }
"""


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """A folder with a study, its data, and saved models of every kind."""
    folder = tmp_path_factory.mktemp("home")
    rng = np.random.default_rng(0)
    centres, y = rng.normal(size=(3, 5)), rng.integers(0, 3, 150)
    x = (centres[y] + 2 * rng.normal(size=(150, 5))).astype("float32")
    np.savez(folder / "blobs.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    (folder / "study.toml").write_text(STUDY, encoding="utf-8")
    layers = [
        keras.layers.Dense(4, kernel_regularizer="l2", name="first"),
        keras.layers.Dense(3, name="head"),
    ]
    keras.Sequential([keras.Input((5,)), *layers]).save(folder / "m.keras")
    keras.Sequential([keras.Input((5,)), keras.layers.Lambda(lambda v: v)]).save(folder / "lambda.keras")
    whole = (folder / "m.keras").read_bytes()
    (folder / "half.keras").write_bytes(whole[: len(whole) // 2])
    (folder / "own.py").write_text(OWN)
    return folder


OWN = """
import hashlib, keras

def slow(input_shape, classes):
    hashlib.pbkdf2_hmac("sha256", b"one call that nothing", b"interrupts", 10**9)

class Broken(keras.layers.Layer):
    def call(self, x, training=False):
        if training:
            raise RuntimeError("this layer can not be trained\\nat all")
        return x

def broken(input_shape, classes):
    return keras.Sequential([keras.Input(input_shape), Broken(), keras.layers.Dense(classes)])
"""


def write(home, name, *changes, text=STUDY):
    """Write a study that differs from the usual one; return the file's name."""
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (home / name).write_text(text, encoding="utf-8")
    return name


def results(path):
    """Everything that a run found, comparable to the bit."""
    place, study = RunDirectory(path), Study.load(path)
    frame = study.frame()
    weights = {p.stem: [w.tobytes() for w in place.read_weights(p.stem)] for p in place.models.glob("*.npz")}
    return {
        "frame": frame,
        "curves": study.curves(),
        "summary": place.summary.read_bytes(),
        "test": place.test_scores(),
        "weights": weights,
        "files": {p.relative_to(path).as_posix() for p in path.rglob("*")},
    }


def assert_same(found, expected):
    pd.testing.assert_frame_equal(found["frame"], expected["frame"], check_exact=True)
    pd.testing.assert_frame_equal(found["curves"], expected["curves"], check_exact=True)
    for part in ("summary", "test", "weights", "files"):
        assert found[part] == expected[part], part


@pytest.fixture(scope="session")
def finished(home):
    """One run of the installed command in an environment of its own: its directory, and what it said."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KERAS", "TF_", "JAX"))}
    done = subprocess.run(
        [COMMAND, "run", "study.toml", "-o", "finished"],
        cwd=home,
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
    )
    return home / "finished", Ended(done.returncode, done.stdout, done.stderr)


# --- a run ---------------------------------------------------------------------------------------------


def test_a_run_ends_with_the_answer(finished):
    path, ended = finished
    assert ended.code == 0, ended
    summary = json.loads((path / "summary.json").read_text())
    for arm in summary["arms"]:
        assert arm["arm"] in ended.out
        assert f"{arm['selection']['chosen']['val_data_loss']['mean']:.4f}" in ended.out
    assert all(line in " ".join(ended.out.split()) for line in summary["headline"])
    wrote = re.findall(r"^wrote (.+)$", ended.out, re.MULTILINE)
    assert wrote == [
        f"finished/{name}"
        for name in (
            "report.html",
            "validation_curve.png",
            "learning_curves.png",
            "models/best.keras",
            "summary.json",
        )
    ]
    assert all((path.parent / name).is_file() for name in wrote)


def test_a_log_has_plain_lines(finished):
    _, ended = finished
    lines = ended.err.splitlines()
    assert lines[0] == f"small é: {TRIALS} trials of 2 epochs."
    assert re.fullmatch(r"Training with one JAX program \(cpu\): .*", lines[1])
    for i, line in enumerate(lines[2 : 2 + TRIALS], 1):
        assert re.fullmatch(
            rf"{i}/{TRIALS}  .+, seed [01]: validation data loss \d\.\d{{4}}(  \(\d+ s left\))?", line
        )
    assert lines[2 + TRIALS :] == ["Scoring 6 trials of the reported arms on the test split, once."]
    assert "\x1b" not in ended.out + ended.err


@pytest.mark.thorough
def test_a_finished_run_again_trains_nothing_and_says_the_same(shell, home, finished):
    _, first = finished
    again = shell("run", "study.toml", "-o", "finished", cwd=home)
    assert again.code == 0, again
    assert again.out == first.out
    assert again.err == f"small é: {TRIALS} trials of 2 epochs, {TRIALS} of them finished before.\n"


@pytest.mark.thorough
def test_a_report_is_written_again_and_opens_offline(shell, home, finished):
    path, _ = finished
    text = (path / "report.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "default-src &#39;none&#39;" in text
    assert shell("report", "finished", "-o", "again.html", cwd=home).code == 0
    assert (home / "again.html").read_text() == text
    both = shell("report", "finished", "finished", "-o", "both.html", "--json", cwd=home)
    assert json.loads(both.out) == {"output": "both.html"}
    assert (home / "both.html").read_text().count('<section class="run"') == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["finished", "finished"], "say where, with -o FILE.html"),
        (["finished", "-o", "study.toml"], "'study.toml' exists; add --force"),
        (["nowhere"], "There is no run in 'nowhere'"),
        ([], "Missing argument"),
    ],
)
def test_a_report_that_cant_be_is_one_line(shell, home, finished, words, said):
    ended = shell("report", *words, cwd=home)
    assert ended.code in (1, 2)
    assert said in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.thorough
def test_json_is_one_document(shell, home, finished):
    path, _ = finished
    ended = shell("run", "study.toml", "-o", "finished", "--json", cwd=home)
    assert ended.code == 0
    document = json.loads(ended.out)
    assert document.pop("directory") == "finished"
    assert document == json.loads((path / "summary.json").read_text())


@pytest.mark.thorough
def test_quiet_is_the_answer_alone(shell, home, finished):
    _, first = finished
    ended = shell("run", "study.toml", "-o", "finished", "--quiet", cwd=home)
    assert (ended.code, ended.out, ended.err) == (0, first.out, "")
    shell("run", "none.toml", "--quiet", cwd=home).fails(2, "none.toml")


@pytest.mark.thorough
def test_what_happens_as_json_lines_and_for_tensorboard(shell, home):
    name = write(home, "lines.toml", text=ONE)
    ended = shell("run", name, "-o", "lines", "--json-lines", "--tensorboard", "logs", cwd=home)
    assert (ended.code, ended.err) == (0, "")
    events = [json.loads(line) for line in ended.out.splitlines()]
    assert [e["event"] for e in events] == ["begin", "say", "epoch", "trial", "say", "end"]
    assert events[-1] == {"event": "end", "directory": "lines", "summary": "lines/summary.json"}
    frame = Study.load(home / "lines").frame()
    assert events[3]["values"]["val_data_loss"] == frame["val_data_loss"][0]
    assert [p.parent.relative_to(home).as_posix() for p in home.rglob("*tfevents*")] == ["logs/none/seed-3"]
    again = shell("run", name, "-o", "lines", "--json-lines", cwd=home)
    assert [json.loads(line)["event"] for line in again.out.splitlines()] == ["begin", "end"]


@pytest.mark.thorough
def test_the_directory_is_named_after_the_study(shell, home):
    for name, folder in {
        "a b": "a-b",
        "../../up": "up",
        "é.ü_1-2": "é.ü_1-2",
        "...": "study",
        "/": "study",
    }.items():
        assert file_name(name) == folder
    ended = shell("run", write(home, "named.toml", ('"one"', '"../small"'), text=ONE), cwd=home)
    assert ended.code == 0, ended
    assert (home / "runs" / "small" / "summary.json").is_file()


# --- kills and signals ---------------------------------------------------------------------------------


@pytest.mark.thorough
def test_killed_at_random_moments_and_resumed_it_ends_with_the_same_bits(shell, home, finished):
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    dice, path, seen = random.Random(seed), home / "killed", []
    for kills in itertools.count():
        started = shell.start("run", "study.toml", "-o", "killed", cwd=home)
        if kills < 6:
            # From before the first trial to well into the training, however fast the machine is.
            if kills % 2:
                shell.wait_for(started, f"{TRIALS} trials")
            time.sleep(dice.uniform(0, 1.5))
            os.kill(started[0], signal.SIGKILL)
        ended = shell.end(started)
        if path.joinpath("study.db").exists():
            studies = optuna.get_all_study_summaries(f"sqlite:///{path}/study.db")
            seen.append(studies[0].n_trials if studies else 0)
        if ended.code == 0:
            break
        assert ended.code == -signal.SIGKILL, ended
        assert kills < 6
    assert kills >= 1
    assert seen == sorted(seen)  # none is lost
    trials = optuna.load_study(study_name="small é", storage=f"sqlite:///{path}/study.db").trials
    assert len(trials) == len({t.user_attrs["key"] for t in trials}) == TRIALS  # none twice
    assert {t.state.name for t in trials} == {"COMPLETE"}
    assert_same(results(path), results(finished[0]))


LONG = (("epochs = 2", "epochs = 100000"),)


@pytest.mark.parametrize(
    ("moment", "number", "code"),
    [
        pytest.param("training", signal.SIGINT, 130, marks=pytest.mark.thorough),
        ("training", signal.SIGTERM, 143),
        ("one long call", signal.SIGINT, 130),
    ],
)
def test_a_signal_ends_within_five_seconds_and_says_how_to_go_on(shell, home, number, code, moment):
    name = write(home, "long.toml", *LONG)
    if moment == "one long call":
        name = write(
            home, "slow.toml", ("shrinkage.models:mlp", "own:slow"), ("hidden = [8], dropout = 0.2", "")
        )
    started = shell.start("run", name, "-o", f"stopped {name} {code}", "--allow-code", cwd=home)
    if moment == "training":
        shell.wait_for(started, "Training with")
        time.sleep(1)
    else:
        time.sleep(0.7)
    begun = time.monotonic()
    os.kill(started[0], number)
    time.sleep(0.05)
    os.kill(started[0], number)  # who is impatient, does not break the end
    ended = shell.end(started)
    assert time.monotonic() - begun < ENDS_WITHIN
    assert ended.code == code, ended
    assert ended.err.splitlines()[-1] == (
        "shrinkage: stopped. Finished trials are kept; run the same command again to go on."
    )
    assert "Traceback" not in ended.err
    assert ended.out == ""


@pytest.mark.thorough
def test_signals_at_any_moment_then_the_same_command_goes_on(shell, home, finished):
    seed = int.from_bytes(os.urandom(4), "big")
    print("seed", seed)
    dice, path = random.Random(seed), home / "interrupted"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
        started = shell.start("run", "study.toml", "-o", "interrupted", cwd=home)
        time.sleep(dice.uniform(0.05, 2.5))
        os.kill(started[0], number)
        ended = shell.end(started)
        if ended.code == 0:
            break
        assert ended.code == 128 + number, ended
        assert "Traceback" not in ended.err
        assert "shrinkage: stopped." in ended.err
    assert shell("run", "study.toml", "-o", "interrupted", cwd=home).code == 0
    assert_same(results(path), results(finished[0]))


def test_a_second_process_is_refused_and_the_first_goes_on(shell, home):
    name = write(home, "long.toml", *LONG)
    first = shell.start("run", name, "-o", "busy", cwd=home)
    shell.wait_for(first, "Training with")
    shell("run", name, "-o", "busy", cwd=home).fails(2, "Another process is running", "busy")
    shell("run", name, "-o", "busy", "--restart", "--yes", cwd=home).fails(2, "Another process is running")
    assert (home / "busy" / "study.db").exists()
    os.kill(first[0], signal.SIGKILL)
    assert shell.end(first).code == -signal.SIGKILL


# --- wrong input ---------------------------------------------------------------------------------------

CHANGES = {
    "unknown key": (("seeds = 2", "seds = 2"), "unknown key 'seds'", "'seeds'"),
    "unknown data": (('"blobs.npz"', '"digist"'), "'digist'", "'digits'"),
    "absent data": (('"blobs.npz"', '"mnist"'), "shrinkage data fetch mnist"),
    "own code": (("shrinkage.models:mlp", "own:slow"), "--allow-code"),
    "own data": (('"blobs.npz"', '"own:data"'), "--allow-code"),
    "optimizer": (("epochs = 2", 'optimizer = "adamm"'), "'adamm'", "Adam"),
    "storage": (("seeds = 2", 'storage = "postgresql://me:S3cret@localhost:1/x"'), "me:***@localhost"),
    "not toml": (("seeds = 2", "seeds ="), "not valid TOML"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_wrong_study_is_one_sentence_and_begins_nothing(shell, home, case):
    change, *words = CHANGES[case]
    name = write(home, "wrong.toml", change)
    ended = shell("run", name, "-o", "wrong", cwd=home)
    assert ended.fails(2, *words)
    assert "S3cret" not in ended.err
    assert not (home / "wrong" / "study.toml").exists()


@pytest.mark.thorough
def test_after_a_mistake_the_mended_study_runs_in_the_same_directory(shell, home):
    name = write(home, "mended.toml", ("epochs = 1", 'optimizer = "adamm"'), text=ONE)
    shell("run", name, "-o", "mended", cwd=home).fails(2)
    write(home, name, text=ONE)
    assert shell("run", name, "-o", "mended", cwd=home).code == 0


def test_a_changed_study_is_refused_with_the_difference(shell, home, finished):
    name = write(home, "changed.toml", ("epochs = 2", "epochs = 3"))
    ended = shell("run", name, "-o", "finished", cwd=home)
    assert ended.fails(2, "training.epochs: 2 -> 3", "--restart")


@pytest.mark.thorough
def test_restart_asks_first(shell, home):
    name = write(home, "once.toml", text=ONE)
    assert shell("run", name, "-o", "once", cwd=home).code == 0
    before = (home / "once" / "summary.json").read_bytes()
    shell("run", name, "-o", "once", "--restart", cwd=home).fails(2, "--yes", "once")
    assert (home / "once" / "summary.json").read_bytes() == before
    write(home, name, ("seeds = [3]", "seeds = [4]"), text=ONE)
    ended = shell("run", name, "-o", "once", "--restart", "--yes", cwd=home)
    assert ended.code == 0
    assert "finished before" not in ended.err


DIRECTORIES = {
    "a file": ("blobs.npz", "is a file"),
    "below a file": ("blobs.npz/run", "can't be written"),
    "somebody's": (".", "is no run directory"),
    "nowhere": ("/proc/run", "can't be written"),
}


@pytest.mark.parametrize("case", DIRECTORIES)
def test_a_directory_that_is_none(shell, home, case):
    path, words = DIRECTORIES[case]
    before = sorted(os.listdir(home))
    shell("run", "study.toml", "-o", path, cwd=home).fails(2, words)
    assert sorted(os.listdir(home)) == before


def test_training_that_fails_is_exit_code_1(shell, home):
    name = write(
        home, "broken.toml", ("shrinkage.models:mlp", "own:broken"), ("hidden = [8], dropout = 0.2", "")
    )
    ended = shell("run", name, "-o", "broken", "--allow-code", cwd=home)
    assert ended.code == 1, ended
    assert ended.err.splitlines()[-1].startswith("shrinkage: Training failed with RuntimeError: ")
    assert "Traceback" not in ended.err


# --- check, describe, apply, data ----------------------------------------------------------------------


def test_describe(shell, home):
    ended = shell("describe", "m.keras", cwd=home)
    assert ended.code == 0, ended
    assert re.search(r"first +kernel +5×4 +l2\(0\.01\)", ended.out)
    with_data = shell("describe", "m.keras", "--data", "blobs.npz", "--json", cwd=home)
    (row,) = json.loads(with_data.out)["rows"]
    assert (row["layer"], row["target"], row["strength"]) == ("first", "kernel", 0.01)
    assert 0 < row["share"] < 1
    assert with_data.err == ""


def test_check(shell, home):
    ended = shell("check", "m.keras", "--data", "blobs.npz", "--json", cwd=home)
    assert ended.code == 0, ended
    assert isinstance(json.loads(ended.out)["findings"], list)
    assert shell("check", "m.keras", cwd=home).code == 0


def test_data_does_not_give_a_model_an_optimizer(shell, home):
    ended = shell("apply", "m.keras", "-r", "Dense: kernel = l1(0.01)", "-o", "l1.keras", cwd=home)
    assert ended.code == 0
    found = [
        json.loads(shell("check", "l1.keras", *data, "--json", cwd=home).out)["findings"]
        for data in ([], ["--data", "blobs.npz"])
    ]
    assert "RMSprop" not in json.dumps(found)


def test_compact_writes_the_smaller_model_and_a_receipt(shell, home):
    model = keras.saving.load_model(home / "m.keras")
    kernel, bias = (np.array(w) for w in model.layers[0].get_weights())
    kernel[:, :2], bias[:2] = 0, 0  # two of four units send nothing
    model.layers[0].set_weights([kernel, bias])
    model.save(home / "dead.keras")
    ended = shell("compact", "dead.keras", "-o", "small.keras", "--data", "blobs.npz", "--json", cwd=home)
    assert ended.code == 0, ended
    receipt = json.loads(ended.out)
    assert receipt["output"] == "small.keras"
    assert receipt["after"]["parameters"] < receipt["before"]["parameters"]
    smaller = keras.saving.load_model(home / "small.keras")
    assert smaller.layers[0].units == 2
    x = np.load(home / "blobs.npz")["x_test"]
    np.testing.assert_allclose(
        smaller.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5, atol=1e-6
    )
    again = shell("compact", "dead.keras", "-o", "small.keras", cwd=home)
    assert (again.code, "exists; add --force" in again.err) == (2, True)
    told = shell("compact", "dead.keras", "-o", "small.keras", "--force", cwd=home)
    assert re.search(r"first +Dense +4 → 2", told.out), told


def test_apply_writes_a_file_that_keras_loads(shell, home):
    ended = shell(
        "apply",
        "m.keras",
        "-r",
        "head: kernel = l1(strength)",
        "--strength",
        "0.5",
        "-o",
        "o.keras",
        cwd=home,
    )
    assert ended.code == 0, ended
    assert ended.out.splitlines()[-1] == "wrote o.keras"
    model, before = (keras.saving.load_model(home / name) for name in ("o.keras", "m.keras"))
    assert isinstance(model.layers[1].kernel_regularizer, keras.regularizers.L1)
    assert float(model.layers[1].kernel_regularizer.l1) == 0.5
    assert isinstance(model.layers[0].kernel_regularizer, keras.regularizers.L2)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before.get_weights(), strict=True))
    content = (home / "o.keras").read_bytes()
    again = ("apply", "m.keras", "-r", "head: kernel = l2(1)", "-o", "o.keras")
    shell(*again, cwd=home).fails(2, "o.keras", "--force")
    assert (home / "o.keras").read_bytes() == content
    forced = shell(*again, "--force", "--json", cwd=home)
    assert json.loads(forced.out)["output"] == "o.keras"
    assert (home / "o.keras").read_bytes() != content
    in_place = shell("apply", "o.keras", "-r", "head: kernel = none", "-o", "o.keras", "--force", cwd=home)
    assert in_place.code == 0, in_place


def test_explain(shell, home, finished):
    stored = Results.load(finished[0])
    said = explain(stored.summary, stored.evidence)
    ended = shell("explain", "finished", cwd=home)
    assert (ended.code, ended.err, ended.out) == (0, "", wrapped(said, 100) + "\n")
    listed = json.loads(shell("explain", "finished", "--json", cwd=home).out)
    assert [(one["sentence"], tuple(one["facts"])) for one in listed] == [(s.sentence, s.facts) for s in said]


@pytest.mark.thorough
def test_export(shell, home, finished):
    frame, curves = Study.load(finished[0]).frame(), Study.load(finished[0]).curves()
    printed = shell("export", "finished", cwd=home)
    assert (printed.code, printed.err) == (0, "")
    read = pd.read_csv(io.StringIO(printed.out), dtype=frame.dtypes.to_dict())
    pd.testing.assert_frame_equal(read, frame, check_exact=True)
    ended = shell("export", "finished", "--what", "curves", "-o", "new/c.parquet", "--json", cwd=home)
    assert json.loads(ended.out) == {
        "output": "new/c.parquet", "what": "curves", "format": "parquet", "rows": len(curves)
    }  # fmt: skip
    order = ["arm", "strength", "seed", "epoch"]
    written = pd.read_parquet(home / "new" / "c.parquet").sort_values(order, ignore_index=True)
    expected = curves.sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(written, expected, check_exact=True)
    content = (home / "new" / "c.parquet").read_bytes()
    again = ("export", "finished", "-o", "new/c.parquet")
    shell(*again, cwd=home).fails(2, "new/c.parquet", "--force")
    assert (home / "new" / "c.parquet").read_bytes() == content
    assert shell(*again, "--force", cwd=home).out == "wrote new/c.parquet\n"
    assert len(pd.read_parquet(home / "new" / "c.parquet")) == TRIALS


RULE = ("-r", "first: kernel = l1(0.1)")
WRONG = {
    "no run to explain": ("explain none", "no run in 'none'"),
    "no run to export": ("export none", "no run in 'none'", "study.toml"),
    "absent": ("describe none.keras", "no saved model 'none.keras'"),
    "absent to check": ("check none.keras", "no saved model 'none.keras'"),
    "folder": ("describe .", "no saved model"),
    "no model": ("describe blobs.npz", "blobs.npz"),
    "half": ("check half.keras", "half.keras"),
    "lambda": ("describe lambda.keras", "lambda.keras", "can't be loaded: it holds code"),
    "unknown data": ("describe m.keras --data digist", "'digist'", "'digits'"),
    "data that does not fit": ("describe m.keras --data digits", "(5,)", "(8, 8, 1)"),
    "data that does not fit to check": ("check m.keras --data digits", "(5,)", "(8, 8, 1)"),
    "own data": ("check m.keras --data own:data", "--allow-code"),
    "no rule": ("apply m.keras -o w.keras -r nonsense", "'nonsense' is not a rule"),
    "no layer": ("apply m.keras -o w.keras -r hed:kernel=l2(1)", "'hed'", "'head'"),
    "open strength": ("apply m.keras -o w.keras -r head:kernel=l2(strength)", "strength"),
    "nan": ("apply m.keras -o w.keras -r head:kernel=l2(strength) --strength nan", "nan"),
    "negative": ("apply m.keras -o w.keras -r head:kernel=l2(strength) --strength -1", "-1"),
    "superfluous": ("apply m.keras -o w.keras -r head:kernel=l2(1) --strength 1", "strength"),
    "suffix": ("apply m.keras -o w.h5 -r head:kernel=l2(1)", ".keras", "'w.h5'"),
    "absent to apply": ("apply none.keras -o w.keras -r head:kernel=l2(1)", "none.keras"),
    "lambda to apply": ("apply lambda.keras -o w.keras -r head:kernel=l2(1)", "lambda.keras"),
    "absent to tune": ("tune none.keras --data digits", "no saved model 'none.keras'"),
    "begun otherwise": ("tune m.keras --data blobs.npz --initial old", "--initial", "fresh or saved"),
    "penalty to tune": ("tune m.keras --data blobs.npz --penalty l3", "'l3' is no penalty to tune", "l1, l2"),
    "no time": ("tune m.keras --data blobs.npz --budget soon", "budget", "10 min"),
    "one fold": ("tune m.keras --data blobs.npz --folds 1", "folds"),
    "no seed": ("tune m.keras --data blobs.npz --seeds 0", "seeds", "1 to 10,000"),
    "data": ("data show digist", "'digist'", "'digits'"),
    "fetch": ("data fetch digist", "'digist'"),
    "damaged data": ("data show half.keras", "half.keras"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_one_sentence_and_writes_nothing(shell, home, case):
    line, *words = WRONG[case]
    before = sorted(os.listdir(home))
    shell(*line.split(), cwd=home).fails(2, *words)
    assert sorted(os.listdir(home)) == before


@pytest.mark.thorough
def test_tune_finds_a_strength_for_a_saved_model_and_a_folder_of_images(shell, home):
    for i, (image, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        if i < 60:
            folder = home / "pictures" / f"digit {label % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image.reshape(8, 8) * 15).astype("uint8")).save(folder / f"{i}.png")
    mlp((8, 8, 1), 2, hidden=[4]).save(home / "fresh.keras")
    ended = shell("tune", "fresh.keras", "--data", "pictures", "--epochs", "2", "-o", "tuned", cwd=home)
    assert ended.code == 0, ended
    assert "Lowest mean validation data loss" in ended.out
    assert "models/best.keras is" in ended.out
    assert "- It stopped: " in ended.out
    assert load_model(home / "tuned" / "models" / "best.keras").input_shape == (None, 8, 8, 1)
    again = shell(
        "tune", "fresh.keras", "--data", "pictures", "--epochs", "2", "-o", "tuned", "--json", cwd=home
    )
    assert json.loads(again.out)["search"]["strategy"] == "auto"
    explained = shell("explain", "tuned", cwd=home)
    assert "The strengths were searched (auto): the range" in explained.out.replace("\n", " ")


def test_a_place_that_can_not_be_written_is_exit_code_1(shell, home):
    before = sorted(os.listdir(home))
    shell("apply", "m.keras", *RULE, "-o", "/proc/x.keras", cwd=home).fails(1, "/proc")
    shell("apply", "m.keras", *RULE, "-o", "study.toml/x.keras", cwd=home).fails(1, "study.toml")
    assert sorted(os.listdir(home)) == before


def test_data_commands(shell, home):
    names = shell("data", "list", cwd=home)
    assert names.out.splitlines() == json.loads(shell("data", "list", "--json", cwd=home).out)
    assert "digits" in names.out.splitlines()
    shown = shell("data", "show", "blobs.npz", "--json", cwd=home)
    assert json.loads(shown.out)["train_counts"] is not None
    assert json.loads(shown.out)["train_shape"] == [90, 5]
    assert "90" in shell("data", "show", "blobs.npz", cwd=home).out
    fetched = shell("data", "fetch", "digits", cwd=home)
    assert (fetched.code, fetched.out) == (0, "digits needs no download.\n")
    assert json.loads(shell("data", "fetch", "digits", "--json", cwd=home).out) == []


# --- fast, and quiet -----------------------------------------------------------------------------------

LIGHT = """
import contextlib, io, json, os, sys
import shrinkage.cli as cli
report = {}
for words in json.loads(sys.argv[1]):
    sys.argv = ["shrinkage", *words]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
            code = 0
        except SystemExit as error:
            code = error.code
    report[" ".join(words)] = [code, out.getvalue(), err.getvalue()]
heavy = ("keras", "jax", "tensorflow", "torch", "pandas", "optuna", "matplotlib", "sklearn")
print(json.dumps([report, [name for name in heavy if name in sys.modules]]))
"""
COMMANDS = [
    "",
    "run",
    "check",
    "describe",
    "apply",
    "explain",
    "export",
    "data",
    "data list",
    "data fetch",
    "data show",
]
USAGE = {
    "runn": "run",
    "run": "STUDY.toml",
    "run a b": "b",
    "run s.toml --ouput x": "--output",
    "apply m.keras": "--recipe",
    "apply m.keras -r x": "--output",
    "apply m.keras -r x -o y --strength much": "--strength",
    "data shw": "show",
    "run none.toml": "none.toml",
    "run none.toml --quiet --json": "--quiet and --json exclude each other",
    "run none.toml --json-lines --json": "--json-lines and --json exclude each other",
    "run none.toml --quiet --json-lines": "--quiet and --json-lines exclude each other",
    "check none.keras": "none.keras",
    "describe none.keras": "none.keras",
    "apply none.keras -r x -o y.keras": "none.keras",
    "explain": "RUN",
    "export . --format cvs": "Did you mean 'csv'?",
    "export . --what curve": "Did you mean 'curves'?",
    "export . --format parquet": "-o OUT.parquet",
    "export . --format csv --json": "--json",
    "export . -o x.xls": "'x.xls' ends in no format",
}


def test_help_and_usage_errors_load_nothing_heavy(run_python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    helps = [f"{command} {flag}".split() for command in COMMANDS for flag in ("--help", "-h")]
    printed = run_python(LIGHT, json.dumps([*helps, *(line.split() for line in USAGE)]))
    report, heavy = json.loads(printed.splitlines()[-1])
    assert heavy == []
    for command in COMMANDS:
        code, out, err = report[f"{command} --help".strip()]
        assert (code, err) == (0, "")
        assert f"Usage: {' '.join(['shrinkage', *command.split()])} " in out
        assert report[f"{command} -h".strip()] == [code, out, err]
    for line, word in USAGE.items():
        code, out, err = report[line]
        assert (code, out) == (2, ""), line
        assert word in err, err
        assert "Traceback" not in err


def test_a_stored_run_is_read_without_keras(run_python, finished, tmp_path):
    run, out = str(finished[0]), str(tmp_path / "t.csv")
    printed = run_python(LIGHT, json.dumps([["explain", run], ["export", run, "-o", out]]))
    report, heavy = json.loads(printed.splitlines()[-1])
    assert [(code, err) for code, _, err in report.values()] == [(0, "")] * 2
    assert set(heavy) == {"pandas", "optuna"}


def test_every_command_takes_json():
    from shrinkage.cli import app, data_app

    for command in (*app.registered_commands, *data_app.registered_commands):
        assert "as_json" in command.callback.__annotations__, command.callback.__name__


def test_a_closed_pipe_is_met_in_silence(home):
    running = subprocess.Popen(
        [COMMAND, "data", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=home
    )
    running.stdout.close()
    assert running.stderr.read() == ""
    running.stderr.close()
    assert running.wait(60) == 1


def test_an_unknown_backend_is_one_sentence(home):
    done = subprocess.run(
        [COMMAND, "describe", "m.keras"],
        cwd=home,
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "abacus"},
    )
    assert Ended(done.returncode, done.stdout, done.stderr).fails(2, "KERAS_BACKEND=abacus")
