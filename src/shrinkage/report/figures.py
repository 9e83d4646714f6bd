"""The two static figures of a study. They draw the facts of a `Summary` and compute none of their own.

Every ``draw_*`` function draws into axes that are given to it; `validation_curve` and `learning_curves`
arrange such axes on a page and write it. No pyplot, no global state; Matplotlib is imported on first use.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shrinkage.report.style import Style, arm_styles, finish, plain, short_name, side_legend, write_figure
from shrinkage.study.diagnose import mean_curve
from shrinkage.study.selection import on_units, trials_at
from shrinkage.study.summary import ArmSummary, Summary
from shrinkage.study.words import at_strength

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

ValMeasure = Literal["val_data_loss", "val_accuracy"]
CurveMeasure = Literal["data_loss", "accuracy"]

# --- validation against strength ------------------------------------------------------------------------


def validation_curve(summary: Summary, frame: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    """Draw validation data loss (and accuracy) against λ, every trial and every arm, and write it.

    Parameters
    ----------
    summary
        The facts of the study.
    frame
        Its trials, one row each.
    path
        Where to write; the ending gives the format (``.png``, ``.svg``, ``.pdf``).

    Returns
    -------
    Path
        ``path``, replaced in one step once the figure is complete.

    Raises
    ------
    OSError
        If ``path`` can't be written.
    ValueError
        If Matplotlib does not know the format.

    Examples
    --------
    >>> validation_curve(summary, study.frame(), "validation.png")  # doctest: +SKIP
    PosixPath('validation.png')
    """
    from matplotlib.figure import Figure

    measures: tuple[ValMeasure, ...] = ("val_data_loss", "val_accuracy")
    shown = measures if summary.classification else measures[:1]
    handles, labels = validation_legend(summary)
    columns = math.ceil(len(labels) / 26)
    height = max(4.2, 0.2 * math.ceil(len(labels) / columns) + 0.6)
    figure = Figure(figsize=(5.0 * len(shown) + 2.6 * columns, height), layout="constrained")
    for axes, measure in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        draw_validation(axes, summary, frame, measure=measure)
    side_legend(figure, handles, labels, columns)
    return write_figure(figure, path)


def draw_validation(
    ax: Axes, summary: Summary, frame: pd.DataFrame, *, measure: ValMeasure = "val_data_loss"
) -> None:
    """Draw one validation measure against λ into ``ax``.

    Every trial is a dot, and arms stand side by side around their λ. Means are joined by a line, with a
    bar of ± one standard error. An arm without a strength is a horizontal line with a band, its trials
    at the left edge. The chosen λ is a large filled marker, the 1-SE λ an open ring; a λ with a diverged
    trial has a cross at the top, one stopped at a rung a triangle at the bottom, and both interrupt the
    line. Stopped trials have no dots: they were trained for less.

    Parameters
    ----------
    ax
        Where to draw; scales, limits and labels are set.
    summary, frame
        The facts of the study, and its trials.
    measure
        ``"val_data_loss"``, or ``"val_accuracy"``, which is drawn in percent.

    Examples
    --------
    >>> draw_validation(figure.subplots(), summary, study.frame())  # doctest: +SKIP
    """
    styles, frame = arm_styles(summary), on_units(frame, summary.units)
    tried = [cell.strength for arm in summary.arms for cell in arm.cells if cell.strength is not None]
    strengths = tried or [s for arm in summary.arms for s in arm.selection.strengths]
    flat = [arm for arm in summary.arms if not arm.selection.strengths]
    if strengths:
        ax.set_xscale("log")
        ax.set_xlim(min(strengths) / (2.5 if flat else 1.6), max(strengths) * 1.6)
        ax.set_xlabel("strength λ")
        places = [0.015 + 0.02 * i for i in range(len(flat))]  # of the axes' width: they have no λ
    else:
        places = [(i + 0.5) / len(flat) for i in range(len(flat))]
        _name_places(ax, places, [arm.arm for arm in flat])
    for i, (arm, at) in enumerate(zip(flat, places, strict=True)):
        reach = 1.0 if strengths or arm.is_baseline else 0.4 / len(flat)
        _draw_flat(ax, arm, frame, measure, styles[arm.arm], i, at, reach)
    tuned = [arm for arm in summary.arms if arm.selection.strengths]
    for i, (arm, shift) in enumerate(zip(tuned, _side_by_side(strengths, len(tuned)), strict=True)):
        _draw_by_strength(ax, arm, frame, measure, styles[arm.arm], i, shift)
    loss = measure == "val_data_loss"
    ax.set_ylabel("validation data loss" if loss else "validation accuracy (%)")
    ax.set_title("lower is better" if loss else "higher is better", fontsize=9, color="0.4", loc="right")
    finish(ax, log=loss)


def _name_places(ax: Axes, places: Sequence[float], names: Sequence[str]) -> None:
    """Let the x axis name the arms, where no arm has a strength that it could show."""
    ax.set_xlim(0.0, 1.0)
    ax.set_xticks(places, ["" for _ in names])
    turned = 0 if len(names) < 6 else 45
    for at, name in zip(places, names, strict=True):
        label = ax.text(at, -0.02, "", transform=ax.transAxes, ha="right" if turned else "center", va="top")
        label.set(fontsize=8, rotation=turned, rotation_mode="anchor")
        plain(label, short_name(name, 16))


def _side_by_side(strengths: Sequence[float], arms: int) -> NDArray[np.float64]:
    """Return factors on λ, so that arms of the same λ are drawn beside and not upon each other."""
    logs = np.unique(np.log10(np.asarray(strengths, np.float64)))
    # All arms together take two fifths of the narrowest step at most; a step below a thousandth of a
    # decade is rounding.
    steps = np.diff(logs)
    step = min((float(s) for s in steps if s > 1e-3), default=0.5)
    return np.asarray(10.0 ** (min(0.4 * step, 0.07 * (arms - 1)) * np.linspace(-0.5, 0.5, arms)))


def _draw_flat(
    ax: Axes,
    arm: ArmSummary,
    frame: pd.DataFrame,
    measure: ValMeasure,
    style: Style,
    place: int,
    at: float,
    reach: float,
) -> None:
    scale = _scale(measure)
    ends = max(0.0, at - reach), min(1.0, at + reach)
    for cell in arm.cells:
        value = getattr(cell, measure)
        if math.isfinite(value.se):
            low, high = scale * (value.mean - value.se), scale * (value.mean + value.se)
            ax.axhspan(low, high, *ends, color=style.colour, alpha=0.13, linewidth=0, zorder=1)
        if math.isfinite(value.mean):
            line = style.line if cell.eligible else ":"
            ax.axhline(scale * value.mean, *ends, color=style.colour, linestyle=line, label=arm.arm, zorder=2)
        dots = scale * _finite(trials_at(frame, arm.arm, None), measure)
        ax.plot(
            np.full(len(dots), at), dots, **dot(style), transform=ax.get_yaxis_transform(), label="_trials"
        )
        if cell.diverged:
            _cross(ax, at, style, place, ax.transAxes)


def _draw_by_strength(
    ax: Axes,
    arm: ArmSummary,
    frame: pd.DataFrame,
    measure: ValMeasure,
    style: Style,
    place: int,
    shift: float,
) -> None:
    scale = _scale(measure)
    x = shift * np.array([cell.strength for cell in arm.cells], np.float64)
    mean, se = (
        scale * np.array([getattr(getattr(cell, measure), what) for cell in arm.cells], np.float64)
        for what in ("mean", "se")
    )
    sound = np.array([cell.eligible for cell in arm.cells], bool)
    ax.plot(
        x,
        np.where(sound, mean, np.nan),
        color=style.colour,
        linestyle=style.line,
        marker=style.marker,
        markersize=4,
        label=arm.arm,
        zorder=3,
    )
    bars = sound & np.isfinite(se)
    ax.errorbar(x[bars], mean[bars], yerr=se[bars], fmt="none", ecolor=style.colour, capsize=2.5, zorder=3)
    for at, cell in zip(x, arm.cells, strict=True):
        dots = scale * _finite(trials_at(frame, arm.arm, cell.strength), measure)
        ax.plot(np.full(len(dots), at), dots, **dot(style), label="_trials")
        if cell.diverged:
            _cross(ax, float(at), style, place, ax.get_xaxis_transform())
        elif cell.stopped:
            _triangle(ax, float(at), style, place, ax.get_xaxis_transform())
    marks = ((arm.selection.one_se, _one_se_mark(style)), (arm.selection.chosen, _chosen_mark(style)))
    for marked, look in marks:
        if marked is not None and marked.strength is not None:
            ax.plot([shift * marked.strength], [scale * getattr(marked, measure).mean], **look)


def _scale(measure: ValMeasure) -> float:
    return 100.0 if measure == "val_accuracy" else 1.0


def _finite(rows: pd.DataFrame, column: str) -> NDArray[np.float64]:
    values = rows.loc[rows["state"] != "stopped", column].to_numpy(np.float64)
    return np.asarray(values[np.isfinite(values)])


def dot(style: Style) -> dict[str, Any]:
    """Return the look of one trial."""
    look = {"marker": ".", "markersize": 6, "markeredgewidth": 0, "alpha": 0.5, "zorder": 2.5}
    return {"linestyle": "none", "color": style.colour, **look}


def _chosen_mark(style: Style) -> dict[str, Any]:
    look = {"markersize": 9, "markeredgecolor": "black", "markeredgewidth": 0.9, "zorder": 5}
    return {"linestyle": "none", "marker": style.marker, "color": style.colour, "label": "_chosen", **look}


def _one_se_mark(style: Style) -> dict[str, Any]:
    look = {"markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.5, "zorder": 4}
    return {"linestyle": "none", "marker": "o", "color": style.colour, "label": "_one_se", **look}


def _cross(ax: Axes, x: float, style: Style, place: int, transform: object) -> None:
    """Mark a diverged cell at the top edge, arms one below the other."""
    y = 0.975 - 0.03 * (place % 12)
    look: dict[str, Any] = {"marker": "x", "markersize": 6, "markeredgewidth": 1.6, "clip_on": False}
    look |= {"linestyle": "none", "color": style.colour, "transform": transform, "zorder": 6}
    ax.plot([x], [y], label="_diverged", **look)


def _triangle(ax: Axes, x: float, style: Style, place: int, transform: object) -> None:
    """Mark a stopped cell at the bottom edge, arms one above the other."""
    look: dict[str, Any] = {"linestyle": "none", "color": style.colour, "transform": transform, "zorder": 6}
    look |= {"marker": "v", "markersize": 5, "markerfacecolor": "none"}
    ax.plot([x], [0.025 + 0.03 * (place % 12)], label="_stopped", **look)


def validation_legend(summary: Summary) -> tuple[list[Line2D], list[str]]:
    """Return handles and labels of what `draw_validation` draws."""
    from matplotlib.lines import Line2D

    handles, labels = [], []
    for (name, style), arm in zip(arm_styles(summary).items(), summary.arms, strict=True):
        marker = style.marker if arm.selection.strengths else ""
        handles.append(Line2D([], [], color=style.colour, linestyle=style.line, marker=marker, ms=4))
        labels.append(short_name(name) + (" (baseline)" if arm.is_baseline else ""))
    grey = Style("0.35", "o", "-")
    handles.append(Line2D([], [], **dot(grey)))
    labels.append("one trial")
    if any(cell.val_data_loss.n > 1 for arm in summary.arms for cell in arm.cells):
        handles.append(Line2D([], [], color="0.35", marker="o", ms=4))
        labels.append(f"mean ± standard error over {summary.over}")
    if any(arm.selection.strength is not None for arm in summary.arms):
        handles.append(Line2D([], [], **_chosen_mark(grey)))
        labels.append("chosen λ (lowest data loss)")
    if any(arm.selection.one_se for arm in summary.arms):
        handles.append(Line2D([], [], **{**_one_se_mark(grey), "markersize": 11}))
        labels.append("1-SE λ (of the same arm)")
    if any(arm.diverged for arm in summary.arms):
        handles.append(Line2D([], [], color="0.35", linestyle="none", marker="x", ms=6, mew=1.6))
        labels.append("a trial diverged")
    if any(cell.stopped and not cell.diverged for arm in summary.arms for cell in arm.cells):
        handles.append(Line2D([], [], color="0.35", linestyle="none", marker="v", ms=5, mfc="none"))
        labels.append("stopped at a rung")
    return handles, labels


# --- losses by epoch ------------------------------------------------------------------------------------


def learning_curves(
    summary: Summary, curves: pd.DataFrame, path: str | os.PathLike[str], *, arms: Sequence[str] | None = None
) -> Path:
    """Draw training and validation curves of some arms side by side, and write them.

    Parameters
    ----------
    summary
        The facts of the study.
    curves
        One row a trial and epoch.
    path
        Where to write; the ending gives the format.
    arms
        Which arms, each at its chosen strength; by default the recommended arm and the baseline.

    Returns
    -------
    Path
        ``path``, replaced in one step once the figure is complete.

    Raises
    ------
    KeyError
        If there is no such arm.
    OSError
        If ``path`` can't be written.

    Examples
    --------
    >>> learning_curves(summary, curves, "curves.png", arms=["l2", "none"])  # doctest: +SKIP
    PosixPath('curves.png')
    """
    from matplotlib.figure import Figure

    names = list(arms) if arms is not None else arms_shown(summary)
    all_measures: tuple[CurveMeasure, ...] = ("data_loss", "accuracy")
    measures = all_measures if summary.classification else all_measures[:1]
    size = (4.4 * len(names) + 2.0, 3.1 * len(measures) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(len(measures), len(names), squeeze=False, sharex=True, sharey="row")
    for row, measure in zip(grid, measures, strict=True):
        for ax, arm in zip(row, names, strict=True):
            draw_learning(ax, summary, curves, arm, measure=measure)
            ax.label_outer()
    for ax, arm in zip(grid[0], names, strict=True):
        ax.set_title(" ", fontsize=10)
        plain(ax.title, curve_title(summary, arm))
    turned = [summary.arm(arm).diagnosis for arm in names]
    side_legend(figure, *curve_legend(summary, any(d and d.turn_epoch for d in turned)), columns=1)
    return write_figure(figure, path)


def arms_shown(summary: Summary) -> list[str]:
    """Return the recommended arm and the baseline, or the first arm where there is neither."""
    wanted = [summary.recommended.arm if summary.recommended else None, summary.baseline]
    found = list(dict.fromkeys(arm for arm in wanted if arm is not None))
    return found or [summary.arms[0].arm]


def curve_title(summary: Summary, arm: str) -> str:
    """Return the title of an arm's curves: name, strength and role, and what was diagnosed."""
    facts = summary.arm(arm)
    roles = ["recommended"] if summary.recommended and summary.recommended.arm == arm else []
    roles += ["baseline"] if facts.is_baseline else []
    name = at_strength(short_name(arm), facts.selection.strength)
    lines = [f"{name} ({', '.join(roles)})" if roles else name]
    if facts.diagnosis is not None:
        turn = facts.diagnosis.turn_epoch
        lines.append(facts.diagnosis.status + (f", turned at epoch {turn}" if turn is not None else ""))
    return "\n".join(lines)


def draw_learning(
    ax: Axes, summary: Summary, curves: pd.DataFrame, arm: str, *, measure: CurveMeasure = "data_loss"
) -> None:
    """Draw one arm's training and validation curves, at its chosen strength, into ``ax``.

    Thick lines are means (a trial that ended early keeps its last value), thin lines single trials;
    validation is solid, training dashed. A dotted line marks the epoch where validation data loss turned.

    Parameters
    ----------
    ax
        Where to draw.
    summary, curves
        The facts of the study, and its curves.
    arm
        The arm's name.
    measure
        ``"data_loss"``, or ``"accuracy"``, which is drawn in percent.

    Raises
    ------
    KeyError
        If there is no such arm.

    Examples
    --------
    >>> draw_learning(figure.subplots(), summary, curves, "l2", measure="accuracy")  # doctest: +SKIP
    """
    from matplotlib.ticker import MaxNLocator

    facts = summary.arm(arm)
    colour = arm_styles(summary)[arm].colour
    rows = trials_at(on_units(curves, summary.units), arm, facts.selection.strength)
    if facts.selection.chosen is None or rows.empty:
        none = "diverged" if facts.selection.is_lost else "not trained to the end"
        why = none if facts.selection.chosen is None else "no curves"
        ax.text(0.5, 0.5, why, transform=ax.transAxes, ha="center", va="center", color="0.4")
        rows = rows.iloc[:0]
    scale = 100.0 if measure == "accuracy" else 1.0
    for split, line in (("val", "-"), ("train", "--")):
        column = f"{split}_{measure}"
        for _, trial in rows.groupby(["fold", "seed"]):
            values = scale * trial[column].to_numpy(np.float64)
            values[~np.isfinite(values)] = np.nan
            epochs = trial["epoch"].to_numpy()
            ax.plot(epochs, values, line, color=colour, alpha=0.3, linewidth=0.7, label="_trial")
        mean = mean_curve(rows, column)
        # A line of one or two points hardly shows.
        marker = {"marker": "o", "markerfacecolor": colour if split == "val" else "white"}
        look: dict[str, Any] = marker if len(mean.epochs) < 3 else {}
        ax.plot(mean.epochs, scale * mean.mean, line, color=colour, linewidth=2, label=split, **look)
    if facts.diagnosis is not None and facts.diagnosis.turn_epoch is not None:
        ax.axvline(facts.diagnosis.turn_epoch, color="0.25", linestyle=":", linewidth=1.4, label="_turn")
    ax.set_xlabel("epoch")
    ax.set_ylabel("data loss" if measure == "data_loss" else "accuracy (%)")
    ax.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True, min_n_ticks=1))
    finish(ax, log=measure == "data_loss")


def curve_legend(summary: Summary, turned: bool) -> tuple[list[Line2D], list[str]]:
    """Return handles and labels of what `draw_learning` draws; ``turned``: in some axes curves turned."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color="0.35", linewidth=2),
        Line2D([], [], color="0.35", linewidth=2, linestyle="--"),
        Line2D([], [], color="0.35", linewidth=0.7, alpha=0.5),
    ]
    labels = [f"validation, mean over {summary.over}", "training, in inference mode", "one trial"]
    if turned:
        handles.append(Line2D([], [], color="0.25", linewidth=1.4, linestyle=":"))
        labels.append("validation data loss turned")
    return handles, labels
