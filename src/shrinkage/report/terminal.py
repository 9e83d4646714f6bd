"""The final table and the sentences around it, for a terminal or a log."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from shrinkage.study.stats import Estimate
from shrinkage.study.summary import ArmSummary, Cell, Difference, Summary
from shrinkage.study.words import number, plain

_WIDE = 140  # columns from which on the whole table fits
_WORD = 14


def answer(summary: Summary, width: int = _WIDE) -> RenderableType:
    """Return the answer of a study: the table of arms, then the headline, diagnoses and notes.

    Parameters
    ----------
    summary
        The facts.
    width
        Columns of the terminal; under 140 the table has fewer columns and two lines an arm.
    """
    parts: list[RenderableType] = [arms_table(summary, width), *map(_line, summary.headline), Text()]
    parts += [
        _line(f"{plain(arm.arm)}: {arm.diagnosis.sentence} {arm.diagnosis.next_step}".strip())
        for arm in summary.arms
        if arm.diagnosis
    ]
    notes = [n for arm in summary.arms for n in (arm.edge_note, *arm.notes) if n]
    if notes or summary.notes:
        parts += [Text(), *(_line(f"- {note}") for note in dict.fromkeys([*notes, *summary.notes]))]
    return Group(*parts)


def arms_table(summary: Summary, width: int = _WIDE) -> Table:
    """Return one row an arm, each at its own best strength."""
    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        caption=Text(f"mean ± standard error over {summary.over}, [95 % interval]"),
        caption_justify="left",
    )
    rows = [_row(arm, summary, width < _WIDE) for arm in summary.arms]
    for column in rows[0]:
        words = [*column.split(), *(word for row in rows for word in row[column].split())]
        table.add_column(
            Text(column),
            justify="left" if column in ("arm", "verdict", "curve") else "right",
            overflow="fold",
            min_width=min(max(map(len, words)), _WORD),  # no word is cut
        )
    for arm, row in zip(summary.arms, rows, strict=True):
        best = summary.recommended is not None and arm.arm == summary.recommended.arm
        table.add_row(*map(Text, row.values()), style="bold" if best else None)
    return table


def _row(arm: ArmSummary, summary: Summary, narrow: bool) -> dict[str, str]:
    """Return one row by its headings; what a narrow one leaves out stands in the sentences below it."""
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
    if narrow:
        return {k: v.replace(" ± ", "\n± ").replace(" [", "\n[") if k != "arm" else v for k, v in row.items()}
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
    accuracy = difference.measure == "test_accuracy"
    scale, unit, digits = (100, " points", 2) if accuracy else (1, "", 4)
    test = difference.test
    mean = f"{scale * test.mean:+.{digits}f}{unit}"
    if test.low != test.low:
        return mean
    return f"{mean} [{scale * test.low:+.{digits}f}, {scale * test.high:+.{digits}f}]"


def _line(text: str) -> Text:
    return Text(text)


def console(*, stderr: bool = False) -> Console:
    """Return a console that neither interprets markup nor breaks a log into 80 columns."""
    found = Console(stderr=stderr, markup=False, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, markup=False, highlight=False, width=160)
