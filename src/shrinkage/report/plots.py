"""``study.plot``: the figures of a finished study, for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pandas as pd

from shrinkage.errors import RunError, SpecError, did_you_mean
from shrinkage.report.figures import (
    CurveMeasure,
    ValMeasure,
    arms_shown,
    curve_legend,
    curve_title,
    dot,
    draw_learning,
    draw_validation,
    validation_legend,
)
from shrinkage.report.style import LOG_RATIO, Style, arm_styles, finish, plain, short_name, side_legend
from shrinkage.study.selection import on_units, trials_at
from shrinkage.study.summary import ArmSummary, Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from shrinkage.study.study import Study

SizeMeasure = Literal["test_accuracy", "test_data_loss", "val_accuracy", "val_data_loss"]


class Plots:
    """Draws a study that has been run; every method returns the axes that it drew into.

    Without ``ax`` a method makes a new figure by pyplot, with a legend beside the axes: a notebook shows it
    below the cell. Axes that are given get no legend; ``ax.legend()`` adds one.

    Parameters
    ----------
    study
        Read anew by every method.

    Examples
    --------
    >>> study = shrinkage.Study.load("runs/digits")  # doctest: +SKIP
    >>> ax = study.plot.validation()  # doctest: +SKIP
    >>> ax.set_ylim(0.1, 0.2)  # doctest: +SKIP
    """

    def __init__(self, study: Study) -> None:
        self._study = study

    def validation(self, measure: ValMeasure = "val_data_loss", ax: Axes | None = None) -> Axes:
        """Draw validation data loss, or accuracy in percent, of every trial and arm against the strength.

        See :func:`shrinkage.report.figures.draw_validation`.

        Parameters
        ----------
        measure
            ``"val_data_loss"`` or ``"val_accuracy"``.
        ax
            Where to draw; None makes a figure.

        Raises
        ------
        RunError
            If the study has not been run to its end.
        SpecError
            If ``measure`` is another, or an accuracy of a regression.
        """
        summary = self._study.summary()
        _check(measure, get_args(ValMeasure), summary)
        axes, figure = _place(ax)
        draw_validation(axes, summary, self._study.frame(), measure=measure)
        if figure is not None:
            side_legend(figure, *validation_legend(summary), columns=1)
        return axes

    def learning(
        self, arm: str | None = None, measure: CurveMeasure = "data_loss", ax: Axes | None = None
    ) -> Axes:
        """Draw an arm's training and validation curves, at its chosen strength.

        See :func:`shrinkage.report.figures.draw_learning`.

        Parameters
        ----------
        arm
            Its name; by default the recommended arm.
        measure
            ``"data_loss"`` or ``"accuracy"``, in percent.
        ax
            Where to draw; None makes a figure.

        Raises
        ------
        RunError
            If the study has not been run to its end.
        SpecError
            If there is no such arm, ``measure`` is another, or an accuracy of a regression.
        """
        summary = self._study.summary()
        _check(measure, get_args(CurveMeasure), summary)
        names = [known.arm for known in summary.arms]
        name = arms_shown(summary)[0] if arm is None else arm
        if name not in names:
            raise SpecError(
                f"There is no arm {name!r} in this study; it has {', '.join(map(repr, names))}."
                f"{did_you_mean(str(name), names)}"
            )
        axes, figure = _place(ax)
        draw_learning(axes, summary, self._study.curves(), name, measure=measure)
        axes.set_title(" ", fontsize=10)
        plain(axes.title, curve_title(summary, name))
        if figure is not None:
            diagnosis = summary.arm(name).diagnosis
            turned = diagnosis is not None and diagnosis.turn_epoch is not None
            side_legend(figure, *curve_legend(summary, turned), columns=1)
        return axes

    def size(self, measure: SizeMeasure | None = None, ax: Axes | None = None) -> Axes:
        """Draw accuracy (or data loss) against the parameters that compaction would leave.

        Every trial is a dot; a marker with a bar is the mean over the trials of one strength, ± one standard
        error. Test data is scored for each arm's chosen strength alone; of validation data there is a mean
        for each strength, joined by a line. A dotted line marks the size of the whole model.

        Parameters
        ----------
        measure
            ``"test_accuracy"`` (the default of a classification), ``"test_data_loss"`` (of a regression),
            ``"val_accuracy"`` or ``"val_data_loss"``; accuracies are drawn in percent.
        ax
            Where to draw; None makes a figure.

        Raises
        ------
        RunError
            If the study has not been run to its end, or its model can't be compacted.
        SpecError
            If ``measure`` is another, or an accuracy of a regression.
        """
        summary, frame = self._study.summary(), self._study.frame()
        chosen = measure or ("test_accuracy" if summary.classification else "test_data_loss")
        _check(chosen, get_args(SizeMeasure), summary)
        if frame["compacted_parameters"].isna().all():
            raise RunError("This study has no sizes: no trial is complete, or its model can't be compacted.")
        axes, figure = _place(ax)
        draw_size(axes, summary, frame, measure=chosen)
        if figure is not None:
            side_legend(figure, *_size_legend(summary), columns=1)
        return axes


def _place(ax: Axes | None) -> tuple[Axes, Figure | None]:
    """Return the axes to draw into, and the figure if it is a new one."""
    if ax is not None:
        return ax, None
    import matplotlib.pyplot as plt  # what a notebook shows are pyplot's figures

    figure = plt.figure(figsize=(7.6, 4.2), layout="constrained")
    return figure.subplots(), figure


def _check(measure: str, known: Sequence[str], summary: Summary) -> None:
    if measure not in known:
        *others, last = map(repr, known)
        raise SpecError(f"measure must be {', '.join(others)} or {last}; got {measure!r}.")
    if measure.endswith("accuracy") and not summary.classification:
        raise SpecError(f"This study is a regression and has no accuracy; got measure={measure!r}.")


def draw_size(ax: Axes, summary: Summary, frame: pd.DataFrame, *, measure: SizeMeasure) -> None:
    """Draw one measure against the parameters after compaction into ``ax``, as :meth:`Plots.size` says.

    Parameters
    ----------
    ax
        Where to draw.
    summary, frame
        The facts of the study, and its trials with their sizes.
    measure
        A column of the frame.

    Examples
    --------
    >>> draw_size(figure.subplots(), summary, study.frame(), measure="val_accuracy")  # doctest: +SKIP
    """
    accuracy = measure.endswith("accuracy")
    styles, frame = arm_styles(summary), on_units(frame, summary.units)
    for arm in summary.arms:
        _draw_sizes(ax, arm, frame, measure, styles[arm.arm])
    whole = float(frame["parameters"].max())
    ax.axvline(whole, color="0.25", linestyle=":", linewidth=1.4, label="_whole")
    smallest = float(frame["compacted_parameters"].min())
    if whole > LOG_RATIO * smallest > 0:
        ax.set_xscale("log")
    split = "test" if measure.startswith("test") else "validation"
    ax.set_xlabel("parameters after compaction")
    ax.set_ylabel(f"{split} accuracy (%)" if accuracy else f"{split} data loss")
    finish(ax, log=not accuracy)


def _draw_sizes(ax: Axes, arm: ArmSummary, frame: pd.DataFrame, measure: SizeMeasure, style: Style) -> None:
    scale = 100.0 if measure.endswith("accuracy") else 1.0
    sizes, means, errors = [], [], []
    for cell in arm.cells:
        trials = trials_at(frame, arm.arm, cell.strength).dropna(subset=[measure, "compacted_parameters"])
        if not cell.eligible or trials.empty:
            continue
        x, y = (trials[column].to_numpy(np.float64) for column in ("compacted_parameters", measure))
        ax.plot(x, scale * y, label="_trials", **dot(style))
        estimate = getattr(cell, measure)
        sizes.append(float(x.mean()))
        means.append(scale * estimate.mean)
        errors.append(0.0 if np.isnan(estimate.se) else scale * estimate.se)
    ax.plot(sizes, means, label=arm.arm, **_mean(style))
    ax.errorbar(sizes, means, errors, fmt="none", ecolor=style.colour, capsize=2.5)


def _mean(style: Style) -> dict[str, Any]:
    return {"color": style.colour, "marker": style.marker, "linestyle": style.line, "linewidth": 1.2}


def _size_legend(summary: Summary) -> tuple[list[Line2D], list[str]]:
    from matplotlib.lines import Line2D

    styles = arm_styles(summary)
    handles = [Line2D([], [], **_mean(style)) for style in styles.values()]
    handles.append(Line2D([], [], **dot(Style("0.35", "o", "-"))))
    handles.append(Line2D([], [], color="0.25", linestyle=":", linewidth=1.4))
    return handles, [*map(short_name, styles), "one trial", "the whole model"]
