"""Progress: one screen in a terminal, one line a trial in a log, and the same facts in both."""

from __future__ import annotations

import io
import math
import re
import sys
import types

import pytest
from rich.console import Console

from shrinkage.report.live import Live

L2 = "[red]l2"


def happen(run):
    """Three trials; one of them is stopped and one diverges."""
    run.observer.say("Training with [keras_loop].")
    run.train(run.cell("none")[0], 0.5, 0.25)
    run.train(run.cell(L2, 0.001)[1], 0.5, state="stopped")
    run.train(run.cell(L2, 0.01)[1], 0.5, math.nan, state="diverged")


def shown(spec, tell, *, terminal, found=(), width=100):
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, highlight=False, force_terminal=terminal)
    with Live(console) as live:
        happen(tell(live, spec, found))
    return file.getvalue()


def test_a_log_has_one_line_a_trial(make_spec, tell, clock):
    lines = shown(make_spec(), tell, terminal=False).splitlines()
    assert lines == [
        "my?[31m study: 8 trials of 2 epochs.",
        "Training with [keras_loop].",
        "1/8  none, seed 0: validation data loss 0.2500",
        "2/8  [red]l2, λ = 0.001, seed 1: stopped after epoch 1, validation data loss 0.5000",
        "3/8  [red]l2, λ = 0.01, seed 1: diverged at epoch 2",
    ]


def test_a_log_names_the_fold(make_spec, tell, clock):
    lines = shown(make_spec(folds=3, seeds=1), tell, terminal=False).splitlines()
    assert lines[2] == "1/12  none, seed 0, fold 0: validation data loss 0.2500"


def test_what_was_found_finished_is_said_and_counted(make_spec, tell, clock):
    row = {"arm": "l1", "strength": None, "seed": 0, "fold": -1, "state": "complete", "val_data_loss": 0.1}
    lines = shown(make_spec(), tell, terminal=False, found=[row]).splitlines()
    assert lines[0].endswith("8 trials of 2 epochs, 1 of them finished before.")
    assert lines[2].startswith("2/8  ")


def test_a_log_tells_the_time_left(make_spec, tell, clock):
    file = io.StringIO()
    run = tell(Live(Console(file=file, width=100)), make_spec())
    clock[0] = 600
    run.train(run.cell("none")[0], 0.5, 0.25)
    assert file.getvalue().splitlines()[-1].endswith("loss 0.2500  (70 min left)")


def test_a_log_is_never_silent_for_long(make_spec, tell, clock):
    file = io.StringIO()
    run = tell(Live(Console(file=file, width=100)), make_spec())
    for trial in run.cell("none"):
        clock[0] += 20
        run.epoch(trial, 0.5)
    assert file.getvalue().splitlines()[1:] == ["epoch 1/2 of 2 trials that run  (5 min left)"]


def test_a_notebook_gets_about_twenty_lines(make_spec, tell, clock, monkeypatch):
    said = []
    module = types.ModuleType("IPython.display")  # IPython itself is not installed where tests run
    module.display = lambda jupyter: said.append(jupyter.text)
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    console = Console(file=io.StringIO(), width=110, force_jupyter=True)
    with Live(console) as live:
        run = tell(live, make_spec(seeds=100))
        for trial in run.trials:
            run.train(trial, 0.5, 0.25)
    assert 20 <= len(said) <= 22
    assert "400/400  400 complete; lowest validation data loss 0.2500 (100 of 100 trials): none" in said[-1]


def test_a_terminal_gets_one_screen(make_spec, tell):
    text = shown(make_spec(), tell, terminal=True)
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text.rpartition("trials  0:00:00")[2]).split("\r")[-1]
    assert "3/8" in text
    assert "1 complete, 5 to come" not in text
    assert "1 complete, 1 stopped at a rung, 1 diverged, 5 to come" in last
    assert "lowest validation data loss 0.2500 (1 of 2 trials): none" in last
    assert "[red]l2, λ = 0.01, seed 1: diverged at epoch 2" in last
    assert "Training with [keras_loop]." in text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_name_moves_no_cursor_and_sets_no_colour(make_spec, tell, terminal):
    assert "\x1b[31m study" not in shown(make_spec(), tell, terminal=terminal)


@pytest.mark.parametrize("kind", ["dumb", "finished"])
def test_no_screen_where_there_is_nothing_to_draw_or_no_way_to(make_spec, tell, monkeypatch, kind):
    monkeypatch.setenv("TERM", "dumb" if kind == "dumb" else "xterm")
    row = {"arm": "none", "strength": None, "seed": 0, "fold": -1, "state": "complete", "val_data_loss": 0.1}
    file = io.StringIO()
    with Live(Console(file=file, width=100, force_terminal=True)) as live:
        tell(live, make_spec(arms=[], seeds=1), [row] if kind == "finished" else [])
    assert len(file.getvalue().splitlines()) == 1
    assert "\x1b" not in file.getvalue()


@pytest.mark.parametrize("more", [1, 2])
def test_a_search_whose_first_trials_were_found_has_its_screen_once_more_are_asked_for(make_spec, tell, more):
    row = {"arm": "none", "strength": None, "seed": 0, "fold": -1, "state": "complete", "val_data_loss": 0.1}
    file = io.StringIO()
    with Live(Console(file=file, width=100, force_terminal=True)) as live:
        tell(live, make_spec(arms=[], seeds=1), [row]).observer.more(more, "a closer look")
    assert ("\x1b[?25l" in file.getvalue()) == (more > 1)  # the cursor is hidden: a screen


def test_the_screen_is_taken_down_after_an_error(make_spec, tell):
    file = io.StringIO()

    def stopped():
        with Live(Console(file=file, width=100, force_terminal=True)) as live:
            run = tell(live, make_spec())
            run.epoch(run.trials[0], 0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert file.getvalue().count("\x1b[?25h") == file.getvalue().count("\x1b[?25l") == 1  # the cursor is back
    assert file.getvalue().endswith("\n\x1b[?25h")


def test_without_a_console_it_shows_on_the_error_output(make_spec, tell, capsys):
    with Live() as live:
        tell(live, make_spec(name="mine"))
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "mine: 8 trials of 2 epochs.\n")
