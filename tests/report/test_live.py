"""Progress: one line a trial in a log, bars in a terminal, and the same facts in both."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from shrinkage.report.live import Live
from shrinkage.study.design import Trial
from shrinkage.study.spec import StudySpec
from shrinkage.training.task import Record, Result

TRIALS = [
    Trial("none", None, 0, -1, "a"),
    Trial("[red]l2", 1e-3, 0, -1, "b"),
    Trial("[red]l2", 1e-2, 1, 2, "c"),
]


@pytest.fixture
def spec():
    arms = [{"name": "[red]l2", "recipe": "Dense: kernel = l2(strength)", "strengths": [1e-3, 1e-2]}]
    return StudySpec.parse(
        {"name": "my\x1b[31m study", "data": "digits", "model": "shrinkage.models:mlp", "arms": arms,
         "training": {"epochs": 2}}
    )  # fmt: skip


def shown(spec, *, terminal, done=0, clock=None):
    """What a run of three trials prints; the last one diverges."""
    file = io.StringIO()
    console = Console(file=file, width=100, markup=False, highlight=False, force_terminal=terminal)
    with Live(console) as live:
        live.begin(spec, total=3, done=done)
        live.say("Training with [keras_loop].")
        for trial in TRIALS[done:]:
            state = "diverged" if trial.seed else "complete"
            records = tuple(Record(trial.lane, e, {"val_data_loss": 0.5 / e}) for e in (1, 2))
            for record in records:
                live.epoch(record)
            live.trial(trial, Result(trial.lane, state, 2, records, ()))
    return file.getvalue()


def test_a_log_has_one_line_a_trial(spec):
    lines = shown(spec, terminal=False).splitlines()
    assert lines[1] == "Training with [keras_loop]."
    assert lines[2:] == [
        "1/3  none, seed 0: validation data loss 0.2500",
        "2/3  [red]l2, λ = 0.001, seed 0: validation data loss 0.2500",
        "3/3  [red]l2, λ = 0.01, seed 1, fold 2: diverged at epoch 2",
    ]
    assert lines[0].endswith("3 trials of 2 epochs.")


def test_what_was_found_finished_is_said_and_counted(spec):
    lines = shown(spec, terminal=False, done=2).splitlines()
    assert lines[0].endswith("3 trials of 2 epochs, 2 of them finished before.")
    assert lines[2].startswith("3/3  ")


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr("shrinkage.report.live.time.monotonic", lambda: now[0])
    return now


def test_the_time_left_is_the_recent_pace_whether_trials_end_apart_or_together(spec, clock):
    file = io.StringIO()
    live = Live(Console(file=file, width=100, force_terminal=False))
    live.begin(spec, total=20, done=0)  # of 2 epochs each
    lanes = [Trial("none", None, seed, -1, str(seed)) for seed in range(20)]
    for pair in range(5):  # two at a time, 5 s an epoch
        both = lanes[2 * pair : 2 * pair + 2]
        for epoch in (1, 2):
            clock[0] += 5
            for trial in both:
                live.epoch(Record(trial.lane, epoch, {"val_data_loss": 0.5}))
        for trial in both:
            record = Record(trial.lane, 1, {"val_data_loss": 0.5})
            live.trial(trial, Result(trial.lane, "complete", 1, (record,), ()))
    left = [int(n) for n in re.findall(r"\((\d+) s left\)", file.getvalue())]
    assert left == [90, 90, 80, 80, 70, 70, 60, 60, 50, 50]


def test_a_log_is_never_silent_for_long(spec, clock):
    file = io.StringIO()
    live = Live(Console(file=file, width=100, force_terminal=False))
    live.begin(spec, total=2, done=0)
    for trial in TRIALS[:2]:
        clock[0] += 20
        live.epoch(Record(trial.lane, 1, {}))
    assert file.getvalue().splitlines()[1:] == ["epoch 1/2 of 2 trials that run  (40 s left)"]


def test_a_terminal_gets_bars_and_only_what_diverged_as_a_line(spec):
    text = shown(spec, terminal=True)
    assert "trials" in text
    assert "3/3" in text
    assert "[red]l2, λ = 0.01" in text
    assert "diverged at epoch 2." in text
    assert "validation data loss" not in text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_name_moves_no_cursor_and_sets_no_colour(spec, terminal):
    assert "\x1b[31m study" not in shown(spec, terminal=terminal)


def test_bars_are_taken_down_after_an_error(spec):
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=True)

    def stopped():
        with Live(console) as live:
            live.begin(spec, total=3, done=0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert file.getvalue().count("\x1b[?25h") == file.getvalue().count("\x1b[?25l") == 1  # the cursor is back
