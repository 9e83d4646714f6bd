"""The figures, asserted on what the axes hold and never on pixels."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from shrinkage.report.figures import (
    draw_learning,
    draw_validation,
    learning_curves,
    validation_curve,
)
from shrinkage.report.style import BASELINE_COLOUR, COLOURS, arm_styles, short_name
from shrinkage.study.compare import summarise
from shrinkage.study.resampling import Resampling

NAN = float("nan")
GRID = (1e-4, 1e-3, 1e-2)
PNG = b"\x89PNG\r\n\x1a\n"


def study(arms, *, seeds=3, folds=None, epochs=12, diverged=(), seed=0):
    """Trials and curves of arms; an arm whose name begins with ``none`` or ``flat`` has no strength."""
    rng = np.random.default_rng(seed)
    e = np.arange(1, epochs + 1)
    rows, curves = [], []
    for place, arm in enumerate(arms):
        for strength in (NAN,) if arm.startswith(("none", "flat")) else GRID:
            for fold in range(folds) if folds else (-1,):
                for s in range(seeds):
                    bent = 0.02 if math.isnan(strength) else 0.004 * abs(math.log10(strength / 1e-3))
                    val = 0.3 + 0.01 * place + 0.5 * np.exp(-e) + bent * e + rng.normal(0, 0.002)
                    train = 0.25 + 0.5 * np.exp(-e) - bent * e / 2
                    if (arm, strength) in diverged and s == 0:
                        val[epochs // 2 :] = NAN
                    state = "complete" if math.isfinite(val[-1]) else "diverged"
                    key = {"arm": arm, "strength": strength, "seed": s, "fold": fold}
                    rows.append(
                        {
                            **key,
                            "state": state,
                            "epochs": epochs,
                            "train_data_loss": train[-1],
                            "val_data_loss": val[-1],
                            "val_accuracy": 1 - val[-1],
                            "test_data_loss": val[-1],
                            "test_accuracy": 1 - val[-1],
                        }
                    )
                    own = {"train_data_loss": train, "val_data_loss": val}
                    own |= {"train_accuracy": 1 - train, "val_accuracy": 1 - val}
                    curves.append(pd.DataFrame({**key, "epoch": e, **own}))
    return pd.DataFrame(rows), pd.concat(curves, ignore_index=True)


def summary_of(frame, curves, *, baseline="none", classification=True, folds=None):
    return summarise(
        frame, curves, baseline=baseline, classification=classification,
        resampling=Resampling(folds, 0.25) if folds else None,
    )  # fmt: skip


def drawn(frame, curves, measure="val_data_loss", **kwargs):
    ax = Figure().subplots()
    draw_validation(ax, summary_of(frame, curves, **kwargs), frame, measure=measure)
    return ax


def lines(ax, label):
    return [line for line in ax.get_lines() if line.get_label() == label]


def legend_texts(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


@pytest.fixture
def page(monkeypatch):
    """Keep the figures that are written, to look at what they hold."""
    pages = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (pages.append(self), save(self, *a, **k))[1])
    return pages


# --- validation against strength ------------------------------------------------------------------------


def test_every_trial_mean_and_mark_is_there():
    frame, curves = study(["none", "l1", "l2"])
    ax = drawn(frame, curves)
    assert sum(len(line.get_xdata()) for line in lines(ax, "_trials")) == len(frame)
    assert [len(lines(ax, arm)) for arm in ("none", "l1", "l2")] == [1, 1, 1]
    assert len(lines(ax, "_chosen")) == 2
    assert len(lines(ax, "_one_se")) == 2
    assert lines(ax, "_diverged") == []
    assert len(ax.containers) == 2  # error bars of the two arms with strengths
    assert (ax.get_xscale(), ax.get_xlabel(), ax.get_ylabel()) == (
        "log",
        "strength λ",
        "validation data loss",
    )


def test_what_is_drawn_is_what_the_facts_say():
    frame, curves = study(["none", "l2"])
    summary = summary_of(frame, curves)
    ax = drawn(frame, curves)
    arm = summary.arm("l2")
    (mean,) = lines(ax, "l2")
    assert mean.get_xdata() == pytest.approx(GRID)
    assert mean.get_ydata() == pytest.approx([cell.val_data_loss.mean for cell in arm.cells])
    (chosen,) = lines(ax, "_chosen")
    assert chosen.get_xdata()[0] == pytest.approx(arm.selection.strength)
    assert chosen.get_markerfacecolor() == chosen.get_color() == COLOURS[0]
    (one_se,) = lines(ax, "_one_se")
    assert one_se.get_xdata()[0] == pytest.approx(arm.selection.one_se_strength)
    assert one_se.get_markerfacecolor() == "none"
    (base,) = lines(ax, "none")
    assert set(base.get_ydata()) == {summary.arm("none").cells[0].val_data_loss.mean}
    assert base.get_color() == BASELINE_COLOUR
    assert len(ax.patches) == 1  # the baseline's band


def test_accuracy_is_drawn_in_percent_at_the_same_strengths():
    frame, curves = study(["none", "l2"])
    ax = drawn(frame, curves, "val_accuracy")
    summary = summary_of(frame, curves)
    (chosen,) = lines(ax, "_chosen")
    assert chosen.get_ydata()[0] == pytest.approx(100 * summary.arm("l2").selection.chosen.val_accuracy.mean)
    assert ax.get_ylabel() == "validation accuracy (%)"


def test_arms_stand_side_by_side_within_two_fifths_of_a_step():
    frame, curves = study([f"arm {i}" for i in range(10)])
    ax = drawn(frame, curves, baseline=None)
    first = np.log10([lines(ax, f"arm {i}")[0].get_xdata()[0] for i in range(10)])
    assert (np.diff(first) > 0).all()
    assert np.ptp(first) == pytest.approx(0.4)
    assert np.mean(first) == pytest.approx(-4)


def test_a_diverged_strength_has_a_cross_at_the_top_and_interrupts_the_line():
    frame, curves = study(["none", "l1", "l2"], diverged={("l1", 1e-3), ("l2", 1e-4)})
    ax = drawn(frame, curves)
    crosses = lines(ax, "_diverged")
    assert [cross.get_marker() for cross in crosses] == ["x", "x"]
    assert [round(math.log10(cross.get_xdata()[0])) for cross in crosses] == [-3, -4]
    assert all(0.9 < cross.get_ydata()[0] < 1 for cross in crosses)
    assert np.isnan(lines(ax, "l1")[0].get_ydata()).tolist() == [False, True, False]
    assert sum(len(line.get_xdata()) for line in lines(ax, "_trials")) == len(frame) - 2


def test_a_stopped_strength_has_a_triangle_at_the_bottom_and_no_dots():
    frame, curves = study(["none", "l1", "l2"])
    frame.loc[(frame["arm"] == "l1") & (frame["strength"] == 1e-2), "state"] = "stopped"
    ax = drawn(frame, curves)
    (triangle,) = lines(ax, "_stopped")
    assert (triangle.get_marker(), round(math.log10(triangle.get_xdata()[0]))) == ("v", -2)
    assert 0 < triangle.get_ydata()[0] < 0.1
    assert np.isnan(lines(ax, "l1")[0].get_ydata()).tolist() == [False, False, True]
    assert sum(len(line.get_xdata()) for line in lines(ax, "_trials")) == len(frame) - 3


def test_one_seed_has_no_bars_and_no_one_se_mark():
    ax = drawn(*study(["none", "l2"], seeds=1))
    assert lines(ax, "_one_se") == []
    assert all(len(bar.lines[2][0].get_segments()) == 0 for bar in ax.containers)
    assert len(ax.patches) == 0


def test_with_folds_every_trial_is_a_dot():
    frame, curves = study(["none", "l2"], seeds=2, folds=3)
    ax = drawn(frame, curves, folds=3)
    assert sum(len(line.get_xdata()) for line in lines(ax, "_trials")) == 2 * 3 * 4


def test_without_any_strength_the_axis_names_the_arms():
    frame, curves = study(["none", "flat $5$"])
    ax = drawn(frame, curves)
    assert ax.get_xscale() == "linear"
    assert [text.get_text() for text in ax.texts] == ["none", "flat $5$"]
    assert not any(text.get_parse_math() for text in ax.texts)


@pytest.mark.parametrize(("factor", "scale"), [(1.0, "linear"), (1000.0, "log"), (-1000.0, "linear")])
def test_losses_of_many_sizes_go_on_a_log_axis_if_they_are_positive(factor, scale):
    frame, curves = study(["none", "l2"])
    frame.loc[frame["strength"] == 1e-2, "val_data_loss"] *= factor
    assert drawn(frame, curves).get_yscale() == scale


def test_two_panels_for_classification_and_one_for_regression(tmp_path, page):
    frame, curves = study(["none", "l2"])
    validation_curve(summary_of(frame, curves), frame, tmp_path / "a.png")
    validation_curve(summary_of(frame, curves, classification=False), frame, tmp_path / "b.png")
    assert [len(p.axes) for p in page] == [2, 1]


def test_the_legend_says_what_is_there_and_nothing_else(tmp_path, page):
    frame, curves = study(["none", "l2"])
    validation_curve(summary_of(frame, curves), frame, tmp_path / "a.png")
    assert legend_texts(page[0]) == [
        "none (baseline)",
        "l2",
        "one trial",
        "mean ± standard error over seeds",
        "chosen λ (lowest data loss)",
        "1-SE λ (of the same arm)",
    ]
    frame, curves = study(["none", "l2"], seeds=1, diverged={("l2", 1e-2)})
    validation_curve(summary_of(frame, curves), frame, tmp_path / "a.png")
    assert legend_texts(page[1])[2:] == ["one trial", "chosen λ (lowest data loss)", "a trial diverged"]


# --- names ---------------------------------------------------------------------------------------------

HOSTILE = [
    "none",
    r"$\frac{",
    "$x_1$",
    "_hidden",
    "__",
    "n" * 200,
    "正则化 😀",
    "a\n\tb\x1b[0m",
    "%s {0}",
    "^",
    " ",
]


@pytest.mark.thorough
def test_hostile_names_are_shown_as_they_stand(tmp_path, page):
    frame, curves = study(HOSTILE, seeds=2, epochs=4)
    summary = summary_of(frame, curves)
    for path in (
        validation_curve(summary, frame, tmp_path / "v.png"),
        learning_curves(summary, curves, tmp_path / "l.png", arms=HOSTILE[1:6]),
        validation_curve(summary, frame, tmp_path / "v.svg"),
    ):
        assert path.stat().st_size > 1000
    texts = legend_texts(page[0])
    assert texts[1:5] == [r"$\frac{", "$x_1$", "_hidden", "__"]
    assert texts[5] == "n" * 14 + "…" + "n" * 13
    assert not any(text.get_parse_math() for text in page[0].legends[0].get_texts())
    assert [ax.get_title().splitlines()[0].split(" at λ")[0] for ax in page[1].axes[:5]] == texts[1:6]


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("l2", "l2"),
        ("a\n b", "a b"),
        ("x\x1b[1m", "x?[1m"),
        ("l\N{GREEK SMALL LETTER LAMDA}", "lλ"),
        (" ", "?"),
    ],
)
def test_short_names(name, shown):
    assert short_name(name) == shown


def test_a_long_name_keeps_both_ends():
    name = short_name("start" + "x" * 200 + "end")
    assert len(name) == 28
    assert name.startswith("start")
    assert name.endswith("end")


def test_ten_arms_are_told_apart_and_the_baseline_is_black():
    frame, curves = study(["l0", "none", *(f"arm {i}" for i in range(10))], seeds=1, epochs=2)
    styles = arm_styles(summary_of(frame, curves))
    assert styles["none"].colour == BASELINE_COLOUR
    others = [(s.colour, s.marker, s.line) for arm, s in styles.items() if arm != "none"]
    assert len(set(others)) == 11
    assert len({colour for colour, _, _ in others[:6]}) == 6
    assert BASELINE_COLOUR not in {colour for colour, _, _ in others}


# --- learning curves -----------------------------------------------------------------------------------


def test_learning_curves_hold_means_trials_and_the_turn():
    frame, curves = study(["none", "l2"])
    summary = summary_of(frame, curves)
    ax = Figure().subplots()
    draw_learning(ax, summary, curves, "none")
    assert len(lines(ax, "_trial")) == 2 * 3
    (val,), (train,) = lines(ax, "val"), lines(ax, "train")
    by_epoch = curves[curves["arm"] == "none"].groupby("epoch")
    assert val.get_ydata() == pytest.approx(by_epoch["val_data_loss"].mean().to_numpy())
    assert train.get_ydata() == pytest.approx(by_epoch["train_data_loss"].mean().to_numpy())
    assert (val.get_linestyle(), train.get_linestyle()) == ("-", "--")
    (turn,) = lines(ax, "_turn")
    assert set(turn.get_xdata()) == {summary.arm("none").diagnosis.turn_epoch}


def test_the_page_shows_the_recommended_arm_and_the_baseline(tmp_path, page):
    frame, curves = study(["none", "l1", "l2"])
    learning_curves(summary_of(frame, curves), curves, tmp_path / "a.png")
    assert len(page[0].axes) == 4
    titles = [ax.get_title() for ax in page[0].axes[:2]]
    assert titles[0].startswith("l1 at λ = 0.001 (recommended)\n")
    assert titles[1].startswith("none (baseline)\noverfit, turned at epoch ")
    assert "validation data loss turned" in legend_texts(page[0])


def test_a_regression_without_baseline_is_one_panel(tmp_path, page):
    frame, curves = study(["l1", "l2"])
    curves["val_accuracy"] = curves["train_accuracy"] = NAN
    summary = summary_of(frame, curves, baseline=None, classification=False)
    learning_curves(summary, curves, tmp_path / "a.png")
    assert len(page[0].axes) == 1


def test_where_everything_diverged_it_says_so(tmp_path, page):
    diverged = {("l2", s) for s in GRID}
    frame, curves = study(["l2"], diverged=diverged)
    summary = summary_of(frame, curves, baseline=None)
    learning_curves(summary, curves, tmp_path / "a.png")
    assert page[0].axes[0].texts[0].get_text() == "diverged"
    assert validation_curve(summary, frame, tmp_path / "b.png").read_bytes().startswith(PNG)


def test_one_epoch_is_drawn_as_points():
    frame, curves = study(["none", "l2"], epochs=1)
    ax = Figure().subplots()
    draw_learning(ax, summary_of(frame, curves), curves, "l2", measure="accuracy")
    assert {line.get_marker() for line in lines(ax, "val") + lines(ax, "train")} == {"o"}
    assert ax.get_ylabel() == "accuracy (%)"


def test_an_unknown_arm_is_refused(tmp_path):
    frame, curves = study(["none", "l2"])
    with pytest.raises(KeyError):
        learning_curves(summary_of(frame, curves), curves, tmp_path / "a.png", arms=["l3"])


# --- files ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ending", "begins"), [(".png", PNG), (".pdf", b"%PDF"), (".svg", b"<?xml")])
def test_files_are_whole_and_the_same_each_time(tmp_path, ending, begins):
    frame, curves = study(["none", "l2"])
    summary = summary_of(frame, curves)
    path = validation_curve(summary, frame, str(tmp_path / f"figure{ending}"))
    assert path == tmp_path / f"figure{ending}"
    assert path.read_bytes().startswith(begins)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    if ending == ".png":
        again = validation_curve(summary, frame, tmp_path / "again.png")
        assert again.read_bytes() == path.read_bytes()


def test_a_failed_write_leaves_the_old_file_and_no_part(tmp_path, monkeypatch):
    frame, curves = study(["none", "l2"])
    path = tmp_path / "figure.png"
    path.write_bytes(b"old")

    def fail(self, where, **kwargs):
        where.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        validation_curve(summary_of(frame, curves), frame, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unknown_format_is_refused(tmp_path):
    frame, curves = study(["none", "l2"])
    with pytest.raises(ValueError, match="nope"):
        validation_curve(summary_of(frame, curves), frame, tmp_path / "figure.nope")


def test_importing_loads_no_matplotlib_and_drawing_no_pyplot(tmp_path):
    code = (
        "import sys, pandas as pd\n"
        "from shrinkage.report.figures import validation_curve\n"
        "assert not any(m in sys.modules for m in ('matplotlib', 'keras', 'jax', 'scipy'))\n"
        "from shrinkage.study.compare import summarise\n"
        "frame = pd.DataFrame({'arm': ['none', 'l2'], 'strength': [float('nan'), 0.1], 'seed': 0,\n"
        "    'fold': -1, 'state': 'complete', 'val_data_loss': [1.0, 0.9]})\n"
        "summary = summarise(frame, None, baseline='none', classification=False)\n"
        f"validation_curve(summary, frame, {str(tmp_path / 'a.png')!r})\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
