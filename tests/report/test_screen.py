"""The screen of a run: what it says, and that it fits wherever it is shown."""

from __future__ import annotations

import io
import math
import re

import pytest
from rich.console import Console

from shrinkage.report.progress import Progress
from shrinkage.report.screen import screen, sparkline

L2 = "[red]l2"


def drawn(progress, width=100, height=30, **options):
    """The lines of the screen, as a terminal shows them."""
    file = io.StringIO()
    console = Console(file=file, width=width, height=height, force_terminal=True, color_system=None)
    console.print(screen(progress, width, height, **options))
    return [line.rstrip() for line in file.getvalue().splitlines()]


@pytest.fixture
def progress(make_spec, tell, clock):
    """Ten epochs of which five are over: one trial complete, one stopped, one diverged, four that run."""
    progress = Progress()
    run = tell(progress, make_spec(training={"epochs": 10}))
    clock[0] = 60
    (first, second), (third, fourth) = run.cell("none"), run.cell(L2, 0.01)
    run.train(first, *(0.5 / e for e in range(1, 11)))
    run.train(second, 0.9, 0.8, state="stopped")
    run.train(third, 0.9, math.nan, state="diverged")
    for trial in (*run.cell(L2, 0.001), *run.cell("l1"), fourth):
        for epoch in range(1, 6):
            run.epoch(trial, 1 / epoch)
    return progress


def test_it_says_how_far_what_is_best_what_runs_and_what_failed(progress):
    lines = drawn(progress)
    assert re.fullmatch(r"[━╺╸ ]+ 3/8 trials  0:01:00  \d+ s left", lines[0])
    assert lines[1] == "1 complete, 5 running, 1 stopped at a rung, 1 diverged"
    assert lines[2] == "lowest validation data loss 0.0500 (1 of 2 trials): none"
    assert lines[4:7] == [
        "[red]l2, λ = 0.001  █▅▃▂▁       epoch 5/10  0.2000",
        "l1                  █▅▃▂▁       epoch 5/10  0.2000",
        "[red]l2, λ = 0.01   █▅▃▂▁       epoch 5/10  0.2000",
    ]
    assert lines[8:] == [
        "[red]l2, λ = 0.01, seed 0: diverged at epoch 2, where the loss was not finite",
        "none, seed 1: stopped after epoch 2, others were better",
    ]


def test_the_last_screen_says_nothing_that_is_over(progress):
    lines = drawn(progress, over=True)
    assert re.fullmatch(r"[━╺╸ ]+ 3/8 trials  0:01:00", lines[0])
    assert not any("epoch 5/10" in line for line in lines)
    assert any("diverged at epoch 2" in line for line in lines)


@pytest.mark.parametrize("height", [1, 2, 3, 4, 5, 6, 8, 10, 24, 60])
@pytest.mark.parametrize("width", [10, 20, 40, 59, 60, 80, 200])
def test_it_fits_wherever_it_is_shown(progress, width, height):
    lines = drawn(progress, width, height)
    assert 1 <= len(lines) <= max(height - 1, 1)
    assert max(map(len, lines)) <= width
    if height > 3 and width >= 59:
        assert lines[1].startswith("1 complete, 5 running")


def test_what_matters_of_a_long_name_is_kept(make_spec, tell):
    name = "a name that is longer than any name has to be, and then some"
    arms = [{"name": name, "recipe": "Dense: kernel = l2(strength)", "strengths": [1e-3]}]
    progress = Progress()
    run = tell(progress, make_spec(arms=arms, training={"epochs": 20}))
    one, other = run.cell(name, 1e-3)
    run.train(one, 0.5, math.nan, state="diverged")
    run.epoch(other, 0.25)
    shown = [line for line in drawn(progress, width=80) if line.startswith("a name")]
    assert len(shown) == 2
    assert all("…, λ = 0.001" in line for line in shown)
    assert [line for line in shown if line.endswith("epoch 1/20  0.2500")]
    assert [line for line in shown if line.endswith("where the loss was not finite")]


def test_of_many_cells_a_handful_is_drawn_and_the_others_are_counted(make_spec, tell):
    strengths = {"low": 1e-6, "high": 1, "count": 50}
    arms = [{"name": "l2", "recipe": "Dense: kernel = l2(strength)", "strengths": strengths}]
    progress = Progress()
    run = tell(progress, make_spec(arms=arms, training={"epochs": 10}))
    for trial in run.trials:
        run.epoch(trial, 0.5)
    lines = drawn(progress)
    assert sum("epoch 1/10" in line for line in lines) == 6
    assert lines[-1] == "and 45 cells more that run"


def test_a_curve_fills_its_columns_at_the_last_epoch():
    losses = [1 / e for e in range(1, 101)]
    whole, half = (sparkline(losses[:n], 100, 20) for n in (100, 50))
    assert len(whole) == len(half) == 20
    assert "" not in whole.split(" ")
    assert half[10:] == " " * 10
    assert whole[0] == half[0] == "█"
    assert whole[-1] == half[9] == "▁"


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([], "    "),
        ([0.5], "▁   "),
        ([0.5, 0.5], "▁▁  "),
        ([0.0, 1.0], "▁█  "),
        ([-1.0, 0.0, 1.0], "▁▅█ "),
        ([math.nan, 2.0, 1.0], " █▁ "),
        ([1e-300, 1e300], "▁█  "),
    ],
)
def test_any_losses_can_be_drawn(losses, expected):
    assert sparkline(losses, 4, 4) == expected


def test_a_name_moves_no_cursor_and_sets_no_colour(make_spec, tell):
    progress = Progress()
    run = tell(progress, make_spec(arms=[{"name": "a\x1b[2Jb\nc", "recipe": "Dense: kernel = l1(0.1)"}]))
    trial = run.cell("a\x1b[2Jb\nc")[0]
    run.epoch(trial, 0.5)
    run.epoch(trial, math.nan)
    text = "\n".join(drawn(progress))
    assert "a?[2Jb c, seed 0: diverged" in text
    assert "\x1b" not in text
