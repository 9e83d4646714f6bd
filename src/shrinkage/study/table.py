"""The tables of a study, for the terminal and for notebooks: the results of its arms, and its plan."""

from __future__ import annotations

import math
from collections.abc import Mapping

from shrinkage.markup import paragraphs, table
from shrinkage.study.arm import Arm
from shrinkage.study.spec import StudySpec
from shrinkage.study.stats import Estimate
from shrinkage.study.summary import ArmSummary, Cell, Difference, Summary
from shrinkage.study.words import count, number, plain

TEXTS = ("arm", "verdict", "curve")  # columns of `arm_row` that hold no numbers
_SHOWN = 4  # strengths of an arm that are written out


# --- results --------------------------------------------------------------------------------------------


def summary_html(summary: Summary) -> str:
    """Return the table of arms and the headline, as a notebook shows them."""
    rows = [arm_row(arm, summary) for arm in summary.arms]
    cells = [list(row.values()) for row in rows]
    shown = table(caption(summary), list(rows[0]), cells, texts=TEXTS)
    return "\n".join([shown, paragraphs(summary.headline)])


def caption(summary: Summary) -> str:
    """Say what the numbers of `arm_row` are."""
    of = "; differences are of held-out rows" if summary.over != "seeds" else ""
    return f"mean ± standard error over {summary.over}, [95 % interval]{of}"


def arm_row(arm: ArmSummary, summary: Summary, *, narrow: bool = False) -> dict[str, str]:
    """Return an arm at its own best strength, by headings; ``narrow`` leaves out what sentences say too."""
    cell, classification = arm.selection.chosen, summary.classification
    difference = arm.accuracy if classification else arm.data_loss
    row = {"arm": plain(arm.arm), "λ": _strength(cell), "1-SE λ": _strength(arm.selection.one_se)}
    row["validation loss"] = _loss(cell.val_data_loss) if cell else "–"
    if not (narrow and classification):
        row["test loss"] = _loss(cell.test_data_loss) if cell else "–"
    if classification:
        row["test accuracy"] = _percent(cell.test_accuracy) if cell else "–"
    row[f"difference to {plain(summary.baseline or 'baseline'):.20}"] = _difference(difference)
    row["verdict"] = difference.verdict if narrow and difference else arm.verdict
    if not narrow:
        row["curve"] = arm.diagnosis.status if arm.diagnosis else "–"
    return row


def _strength(cell: Cell | None) -> str:
    return "–" if cell is None or cell.strength is None else number(cell.strength)


def _loss(estimate: Estimate) -> str:
    return _with_error(f"{estimate.mean:.4f}", f"{estimate.se:.4f}", estimate)


def _percent(estimate: Estimate) -> str:
    return _with_error(f"{100 * estimate.mean:.2f}", f"{100 * estimate.se:.2f} %", estimate)


def _with_error(mean: str, error: str, estimate: Estimate) -> str:
    if estimate.n == 0 or estimate.mean != estimate.mean:
        return "–"
    return mean if estimate.se != estimate.se else f"{mean} ± {error}"


def _difference(difference: Difference | None) -> str:
    if difference is None or difference.test.n == 0:
        return "–"
    accuracy = difference.measure.endswith("accuracy")
    scale, unit, digits = (100, " points", 2) if accuracy else (1, "", 4)
    # Adding 0 makes the -0 that a rounded trifle is a 0.
    mean, low, high = (
        f"{round(scale * value, digits) + 0.0:+.{digits}f}"
        for value in (difference.test.mean, difference.test.low, difference.test.high)
    )
    return f"{mean}{unit}" if math.isnan(difference.test.low) else f"{mean}{unit} [{low}, {high}]"


# --- plan -----------------------------------------------------------------------------------------------


def plan_html(spec: StudySpec, model: str, data: str, finished: Mapping[str, int] | None) -> str:
    """Return what a study would train, or how far it has come, as a notebook shows it.

    Parameters
    ----------
    spec
        The study.
    model, data
        What they are called.
    finished
        How many trials of each arm are stored; None where the study has not been run.
    """
    each = len(spec.seeds) * spec.split_count
    trials = {arm.name: len(arm.values()) * each for arm in spec.all_arms}
    total, name = sum(trials.values()), plain(spec.name)
    if not spec.is_settled:  # how many trials a search asks for is not known
        trained = count(0 if finished is None else sum(finished.values()), "trials")
        title = f"{name}: {'not run yet' if finished is None else f'not finished; {trained} trained'}"
        shown = {arm: str((finished or {}).get(arm, 0)) for arm in trials}
    elif finished is None:
        title = f"{name}: not run yet; {count(total, 'trials')} to train"
        shown = {arm: str(n) for arm, n in trials.items()}
    else:
        title = f"{name}: not finished; {sum(finished.values())} of {count(total, 'trials')} trained"
        shown = {arm: f"{finished.get(arm, 0)} of {n}" for arm, n in trials.items()}
    head = ("arm", "recipe", "strengths", "trials")
    rows = [(plain(a.name), _recipe(a), _grid(a, spec.is_settled), shown[a.name]) for a in spec.all_arms]
    split = count(spec.folds, "folds") if spec.folds else f"{100 * spec.holdout:g} % held out for validation"
    if spec.repeats > 1:
        split += f" × {spec.repeats} repeats" if spec.folds else f" in each of {spec.repeats} random splits"
    setting = (
        f"{model} on {data}: {count(len(spec.seeds), 'seeds')}, {split}, "
        f"{count(spec.training.epochs, 'epochs')} of {spec.training.optimizer}."
    )
    return "\n".join([table(title, head, rows, texts=head[:3]), paragraphs([setting])])


def _recipe(arm: Arm) -> str:
    """Return an arm's rules and options, one a line."""
    return "\n".join([*arm.recipe, *map(plain, arm.described())]) or "–"


def _grid(arm: Arm, is_settled: bool) -> str:
    if arm.is_searched and not is_settled:
        return "searched"
    values = [value for value in arm.values() if value is not None]
    if len(values) > _SHOWN:
        return f"{number(values[0])} … {number(values[-1])} ({len(values)})"
    return ", ".join(map(number, values)) or "–"
