"""The figures of the report. They draw the tables of `rows` and compute none of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from markupsafe import Markup

from shrinkage.report.rows import CurveRow, LayerRow, SizeRow, ValidationRow
from shrinkage.report.svg import Chart, Scale, across, spanning, upward
from shrinkage.study.stats import Estimate
from shrinkage.study.words import at_strength, count, number, percent, with_se

Measure = Literal["loss", "accuracy"]
View = Literal["close-up", "linear", "log"]

_WIDE = 5.0  # of what choices and the baseline span; a figure that spans more also has a close-up of these
_POINTS = 100  # epochs of one curve that are drawn
_EDGE = 0.02  # of the width: where trials of an arm without a strength stand


# --- validation against strength ------------------------------------------------------------------------


def validation(rows: Sequence[ValidationRow], measure: Measure, view: View) -> Markup:
    """Draw a validation measure against λ: every trial, mean ± standard error, choice and 1-SE choice.

    ``view`` is the whole on a linear or logarithmic axis, or the choices and the baseline from near by.
    """
    shown = _shown(rows, measure)
    near = [s for s in shown if view != "close-up" or s.is_near]
    log = view == "log"
    y = spanning([v for s in near for v in s.reach if v > 0 or not log], *upward(), log=log)
    strengths = sorted({row.strength for row in rows if row.strength})
    chart = Chart(
        _strength_axis(strengths),
        y,
        label=f"Validation {_name(measure)} against strength, arm by arm; the table below has the numbers.",
        x_label="strength λ" if strengths else "arms without a strength",
        y_label=f"validation {_name(measure)}" + (" (%)" if measure == "accuracy" else ""),
        x_ticks=None if strengths else (),
        data={"measure": measure, "scale": view},
    )
    flat = [s for s in shown if s.row.strength is None]
    for i, s in enumerate(flat):
        _draw_flat(chart, s, measure, (i + 0.5) / len(flat))
    tuned = list(dict.fromkeys(row.arm for row in rows if row.strength is not None))
    for i, arm in enumerate(tuned):
        own = [s for s in shown if s.row.arm == arm]
        _draw_by_strength(chart, own, measure, _beside(i, len(tuned), strengths))
    return chart.svg()


@dataclass(frozen=True)
class _Shown:
    """One cell as it is drawn: in percent for an accuracy."""

    row: ValidationRow
    estimate: Estimate
    raw: tuple[float, ...]
    factor: float

    @property
    def mean(self) -> float:
        return self.factor * self.estimate.mean

    @property
    def spread(self) -> float:
        return self.factor * self.estimate.se if math.isfinite(self.estimate.se) else 0.0

    @property
    def trials(self) -> tuple[float, ...]:
        return tuple(self.factor * value for value in self.raw)

    @property
    def reach(self) -> tuple[float, ...]:
        """Everything that is drawn of it."""
        drawn = (*self.trials, self.mean + self.spread, self.mean - self.spread)
        return tuple(value for value in drawn if math.isfinite(value))

    @property
    def is_near(self) -> bool:
        """Whether a close-up shows it: a choice, or an arm without a strength."""
        return self.row.chosen or self.row.one_se or self.row.strength is None


def _shown(rows: Sequence[ValidationRow], measure: Measure) -> list[_Shown]:
    factor = 100.0 if measure == "accuracy" else 1.0
    return [_Shown(row, *_of(row, measure), factor) for row in rows]


def _of(row: ValidationRow, measure: Measure) -> tuple[Estimate, tuple[float, ...]]:
    return (row.accuracy, row.accuracies) if measure == "accuracy" else (row.loss, row.losses)


def _name(measure: Measure) -> str:
    return "accuracy" if measure == "accuracy" else "data loss"


def _strength_axis(strengths: Sequence[float]) -> Scale:
    if not strengths:
        return Scale(0.0, 1.0, *across())
    return Scale(strengths[0] / 2.5, strengths[-1] * 1.8, *across(), log=True)


def _beside(place: int, arms: int, strengths: Sequence[float]) -> float:
    """Return a factor on λ, so that arms of the same λ stand beside each other."""
    steps = np.diff(np.log10(strengths))
    narrowest = min((float(step) for step in steps if step > 1e-3), default=0.5)
    width = min(0.3 * narrowest, 0.05 * (arms - 1))
    return float(10.0 ** (width * (place / max(1, arms - 1) - 0.5)))


def _draw_flat(chart: Chart, shown: _Shown, measure: Measure, place: float) -> None:
    style, x = shown.row.style, chart.x
    chart.band(shown.mean - shown.spread, shown.mean + shown.spread, style)
    chart.line([(x.low, shown.mean), (x.high, shown.mean)], style, "mean-line")
    at = x.low * (x.high / x.low) ** (_EDGE * (1 + 2 * place)) if x.log else place
    for value in shown.trials:
        chart.dot(at, value, style, "trial")
    _mark(chart, at, shown, measure)


def _draw_by_strength(chart: Chart, cells: Sequence[_Shown], measure: Measure, shift: float) -> None:
    style = cells[0].row.style
    sound = [math.nan if s.row.diverged or s.row.stopped else s.mean for s in cells]
    at = [shift * (s.row.strength or math.nan) for s in cells]
    chart.line(zip(at, sound, strict=True), style, "mean-line")
    for x, s in zip(at, cells, strict=True):
        for value in s.trials:
            chart.dot(x, value, style, "trial")
        if s.spread:
            chart.bar(x, s.mean - s.spread, s.mean + s.spread, style)
        if s.row.diverged:
            title = f"{at_strength(s.row.arm, s.row.strength)}: a trial diverged"
            chart.mark(x, chart.y.high, style, "cross", title)
        elif s.row.stopped:
            title = f"{at_strength(s.row.arm, s.row.strength)}: stopped at a rung"
            chart.mark(x, chart.y.low, style, "stopped", title)
        else:
            _mark(chart, x, s, measure)


def _mark(chart: Chart, x: float, shown: _Shown, measure: Measure) -> None:
    row = shown.row
    notes = [word for word, holds in (("chosen", row.chosen), ("1-SE choice", row.one_se)) if holds]
    said = with_se(shown.estimate, accuracy=measure == "accuracy")
    remark = f" ({', '.join(notes)})" if notes else ""
    title = f"{at_strength(row.arm, row.strength)}: {said}{remark}"
    kind = "mean" + " chosen" * row.chosen
    data = {"mean": shown.estimate.mean, "se": shown.estimate.se}
    if row.strength is not None:
        data["strength"] = row.strength
    if row.one_se:
        chart.mark(x, shown.mean, row.style, "one-se", title)
    chart.mark(x, shown.mean, row.style, kind, title, **data)


def views(rows: Sequence[ValidationRow]) -> tuple[View, ...]:
    """Return the views of the losses that show something of their own, the one to begin with first."""
    shown = _shown(rows, "loss")
    near, whole = ([v for s in group for v in s.reach] for group in ([s for s in shown if s.is_near], shown))
    found: list[View] = ["linear"]
    if near and max(whole) - min(whole) > _WIDE * (max(near) - min(near)):
        found.insert(0, "close-up")
    if whole and min(whole) > 0:
        found.append("log")
    return tuple(found)


# --- by epoch -------------------------------------------------------------------------------------------

_PANELS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    ("data loss", (("train_data_loss", "train"), ("val_data_loss", "val"))),
    ("accuracy", (("train_accuracy", "train"), ("val_accuracy", "val"))),
    ("gap: validation − training data loss", (("gap", "val"),)),
    ("penalty", (("penalty", "penalty"),)),
)


def learning(rows: Sequence[CurveRow], accuracies: bool) -> list[Markup]:
    """Draw the curves of one cell: every trial thin, their mean thick, training dashed."""
    arm = at_strength(rows[0].arm, rows[0].strength)
    charged = any(value > 0 for row in rows for value in row.penalty)
    panels = [p for p in _PANELS if {"accuracy": accuracies, "penalty": charged}.get(p[0], True)]
    said = f"by epoch, {count(len(rows), 'trials')}"
    return [_panel(rows, f"{arm}: {name} {said}", name, lines) for name, lines in panels]


def _panel(rows: Sequence[CurveRow], label: str, name: str, lines: Sequence[tuple[str, str]]) -> Markup:
    length = max(len(row.val_data_loss) for row in rows)
    factor, unit = (100.0, " (%)") if name == "accuracy" else (1.0, "")
    series = {column: np.full((len(rows), length), math.nan) for column, _ in lines}
    for column, array in series.items():
        for i, row in enumerate(rows):
            values = getattr(row, column)
            array[i, : len(values)] = factor * np.asarray(values)
    every = np.unique(np.linspace(0, length - 1, min(length, _POINTS)).astype(int))
    values = np.concatenate([array[:, every].ravel() for array in series.values()])
    epochs = Scale(1.0, float(max(2, length)), *across())
    chart = Chart(
        epochs,
        spanning(values.tolist(), *upward()),
        label=label,
        x_label="epoch",
        y_label=name.partition(":")[0] + unit,
        x_ticks=[(at, text) for at, text in epochs.ticks() if "." not in text],  # there is no half an epoch
        classes="small" if length > 1 else "small lone",
    )
    for column, kind in lines:
        array = series[column]
        for trial in array:
            chart.line([(float(e + 1), float(trial[e])) for e in every], rows[0].style, f"thin {kind}")
        whole = np.isfinite(array).all(axis=0)
        mean = np.where(whole, array.sum(axis=0) / len(rows), math.nan)
        chart.line([(float(e + 1), float(mean[e])) for e in every], rows[0].style, f"thick {kind}")
    return chart.svg()


# --- weights and sizes ----------------------------------------------------------------------------------


def histogram(rows: Sequence[LayerRow]) -> Markup:
    """Draw the entries of one layer's kernels in several arms, on a logarithmic axis of counts."""
    edges = rows[0].edges
    highest = max(max(row.counts) for row in rows)
    y = Scale(0.0, math.log10(1 + highest) * 1.05 or 1.0, *upward())
    chart = Chart(
        Scale(edges[0], edges[-1], *across()),
        _Counts(y.low, y.high, y.start, y.end),
        label=f"Weights of {rows[0].layer}: how many entries there are of each size",
        x_label="weight",
        y_label="entries",
        classes="small",
    )
    for row in rows:
        points: list[tuple[float, float]] = []
        for low, high, n in zip(edges, edges[1:], row.counts, strict=False):
            level = math.log10(1 + n)
            points += [(low, level), (high, level)]
        chart.line(points, row.style, "step")
    return chart.svg()


class _Counts(Scale):
    """A scale of log10(1 + count), labelled with counts."""

    def ticks(self) -> list[tuple[float, str]]:
        top = int(self.high)
        counts = [0, *(10**i for i in range(top + 1))]
        return [(self(math.log10(1 + n)), f"{n:,}") for n in counts if math.log10(1 + n) <= self.high]


def sizes(rows: Sequence[SizeRow], classification: bool) -> Markup:
    """Draw the validation score against the parameters that compaction leaves."""
    factor = 100.0 if classification else 1.0
    measure = "validation accuracy (%)" if classification else "validation data loss"
    chart = Chart(
        spanning([row.parameters for row in rows], *across(), log=True),
        spanning([factor * row.score for row in rows], *upward()),
        label=f"{measure} against parameters after compaction, arm by arm",
        x_label="parameters after compaction",
        y_label=measure,
    )
    for row in rows:
        score = percent(row.score) if classification else number(row.score)
        title = f"{at_strength(row.arm, row.strength)}: {row.parameters:,.0f} parameters, {score}"
        kind = "mean chosen" if row.chosen else "mean"
        chart.mark(row.parameters, factor * row.score, row.style, kind, title)
    return chart.svg()
