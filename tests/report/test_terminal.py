"""The table and sentences of a study: the summary's numbers at every width, and no name is markup."""

from __future__ import annotations

import io
import itertools
import math

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from shrinkage.report.terminal import answer, arms_table, console
from shrinkage.study.compare import summarise

NAN = float("nan")
HOSTILE = ["[bold red]x[/]", "[link=file:///etc/passwd]y[/link]", "\x1b[31mred", "a\nb", "<b>", "λ" * 80]


def summary_of(best=("l2",), *, seeds=5, classification=True, diverged=(), names=("l1", "l2")):
    """A study of ``none`` and two arms at two strengths; those named in ``best`` are better."""
    rng = np.random.default_rng(0)
    rows, curves = [], []
    for arm, strength, seed in itertools.product(("none", *names), (1e-3, 1e-2), range(seeds)):
        if arm == "none" and strength == 1e-2:
            continue
        loss = 0.3 - 0.1 * (arm in best) + 0.05 * (strength == 1e-2) + 0.001 * rng.normal()
        if arm in diverged:
            loss = NAN
        key = {"arm": arm, "strength": NAN if arm == "none" else strength, "seed": seed, "fold": -1}
        values = {"train_data_loss": loss - 0.05, "val_data_loss": loss}
        measured = {"test_data_loss": loss}
        if classification:
            values |= {"train_accuracy": 1 - loss, "val_accuracy": 1 - loss}
            measured["test_accuracy"] = 1 - loss
        state = "complete" if math.isfinite(loss) else "diverged"
        rows.append({**key, "state": state, "epochs": 3, **values, **measured})
        curves += [{**key, "epoch": epoch, **values} for epoch in (1, 2, 3)]
    return summarise(
        pd.DataFrame(rows),
        pd.DataFrame(curves),
        baseline="none",
        classification=classification,
    )


def printed(renderable, width=160, **kwargs):
    file = io.StringIO()
    Console(file=file, width=width, markup=False, highlight=False, **kwargs).print(renderable)
    return file.getvalue()


def words(text):
    return " ".join(text.split())


def test_every_number_of_the_table_is_the_summarys():
    summary = summary_of()
    shown = printed(arms_table(summary))
    for arm in summary.arms:
        (row,) = [line for line in shown.splitlines() if line.strip().startswith(arm.arm)]
        cell = arm.selection.chosen
        assert f"{cell.val_data_loss.mean:.4f} ± {cell.val_data_loss.se:.4f}" in row
        assert f"{cell.test_data_loss.mean:.4f}" in row
        assert f"{100 * cell.test_accuracy.mean:.2f} ± {100 * cell.test_accuracy.se:.2f} %" in row
        if arm.accuracy:
            test = arm.accuracy.test
            assert f"{100 * test.mean:+.2f} points [{100 * test.low:+.2f}, {100 * test.high:+.2f}]" in words(
                row
            )
            assert arm.verdict in row


def test_the_answer_says_everything_that_the_summary_says():
    summary = summary_of()
    shown = words(printed(answer(summary)))
    said = [*summary.headline, *summary.notes]
    said += [text for arm in summary.arms for text in (arm.diagnosis.sentence, arm.diagnosis.next_step)]
    said += [arm.edge_note for arm in summary.arms if arm.edge_note]
    assert len(said) > 6
    for sentence in said:
        assert words(sentence) in shown


def test_regression_has_no_accuracy():
    shown = printed(arms_table(summary_of(classification=False)))
    assert "accuracy" not in shown
    assert "points" not in shown
    assert "test loss" in shown


@pytest.mark.parametrize("width", [60, 80, 100, 139, 140, 200])
def test_no_width_cuts_a_number(width):
    summary = summary_of()
    shown = printed(answer(summary, width), width)
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    for arm in summary.arms:
        assert f"{arm.selection.chosen.val_data_loss.mean:.4f}" in shown
        assert f"{100 * arm.selection.chosen.test_accuracy.mean:.2f}" in shown


def test_the_recommended_arm_alone_is_bold():
    summary = summary_of()
    styles = [row.style for row in arms_table(summary).rows]
    bold = [arm.arm for arm, style in zip(summary.arms, styles, strict=True) if style == "bold"]
    assert bold == [summary.recommended.arm] == ["l2"]


def test_an_arm_that_diverged_has_dashes_and_no_nan():
    shown = printed(answer(summary_of(diverged=("l1",))))
    (row,) = [line for line in shown.splitlines() if line.strip().startswith("l1 ")]
    assert "–" in row
    assert "nan" not in shown.lower()


def test_one_seed_has_no_standard_error():
    shown = printed(answer(summary_of(seeds=1)))
    assert "nan" not in shown.lower()
    assert not any(
        "±" in line for line in shown.splitlines() if line.strip().startswith(("l1 ", "l2 ", "none "))
    )


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text(name):
    shown = printed(answer(summary_of((name,), names=(name, "l2"))), force_terminal=True, color_system=None)
    assert "\x1b[31m" not in shown
    assert "\x1b]8" not in shown
    if name.startswith("["):
        assert name in shown


def test_a_log_is_wide_and_plain(capsys):
    console().print("[bold]as it is[/bold] " + "x" * 120)
    (line,) = capsys.readouterr().out.splitlines()
    assert line == "[bold]as it is[/bold] " + "x" * 120
