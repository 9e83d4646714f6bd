"""The final table and the sentences around it, for a terminal or a log."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from shrinkage.study.stats import Estimate
from shrinkage.study.summary import ArmSummary, Cell, Difference, Summary


def answer(summary: Summary) -> RenderableType:
    """Return the answer of a study: the table of arms, then the headline, diagnoses and notes."""
    parts: list[RenderableType] = [arms_table(summary), *map(_line, summary.headline), Text()]
    parts += [
        _line(f"{arm.arm}: {arm.diagnosis.sentence} {arm.diagnosis.next_step}".strip())
        for arm in summary.arms
        if arm.diagnosis
    ]
    notes = [n for arm in summary.arms for n in (arm.edge_note, *arm.notes) if n]
    if notes or summary.notes:
        parts += [Text(), *(_line(f"- {note}") for note in dict.fromkeys([*notes, *summary.notes]))]
    return Group(*parts)


def arms_table(summary: Summary) -> Table:
    """Return one row an arm, each at its own best strength."""
    table = Table(
        box=box.SIMPLE,
        pad_edge=False,
        caption=f"mean ± standard error over {summary.over}",
        caption_justify="left",
    )
    table.add_column("arm", overflow="fold")
    table.add_column("λ", justify="right", no_wrap=True)
    table.add_column("1-SE λ", justify="right", no_wrap=True)
    table.add_column("validation loss", justify="right")
    table.add_column("test loss", justify="right")
    if summary.classification:
        table.add_column("test accuracy", justify="right")
    table.add_column(f"difference to {_plain(summary.baseline or 'baseline')} [95 %]", justify="right")
    table.add_column("verdict")
    table.add_column("curve")
    for arm in summary.arms:
        best = summary.recommended is not None and arm.arm == summary.recommended.arm
        table.add_row(*_row(arm, summary.classification), style="bold" if best else None)
    return table


def _row(arm: ArmSummary, classification: bool) -> list[Text]:
    cell, one_se = arm.selection.chosen, arm.selection.one_se
    difference = arm.accuracy if classification else arm.data_loss
    figures = [_loss(cell.val_data_loss), _loss(cell.test_data_loss)] if cell else ["–", "–"]
    if classification:
        figures.append(_percent(cell.test_accuracy) if cell else "–")
    curve = arm.diagnosis.status if arm.diagnosis else "–"
    cells = [
        arm.arm,
        _strength(cell),
        _strength(one_se),
        *figures,
        _difference(difference),
        arm.verdict,
        curve,
    ]
    return [Text(text) for text in cells]


def _strength(cell: Cell | None) -> str:
    return "–" if cell is None or cell.strength is None else f"{cell.strength:.3g}"


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


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _line(text: str) -> Text:
    return Text(text)


def console(*, stderr: bool = False) -> Console:
    """Return a console that neither interprets markup nor breaks a log into 80 columns."""
    found = Console(stderr=stderr, markup=False, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, markup=False, highlight=False, width=160)
