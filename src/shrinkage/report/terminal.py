"""The final table and the sentences around it, for a terminal or a log."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from shrinkage.report.after import after
from shrinkage.study.final import Nested, Refit
from shrinkage.study.summary import ArmSummary, Summary
from shrinkage.study.table import TEXTS, arm_row, caption
from shrinkage.study.words import plain

_WIDE = 140  # columns from which on the whole table fits
_WORD = 14


def answer(
    summary: Summary, width: int = _WIDE, refit: Refit | None = None, nested: Nested | None = None
) -> RenderableType:
    """Return the answer of a study: the table of arms, then the headline, diagnoses and notes.

    Parameters
    ----------
    summary
        The facts.
    width
        Columns of the terminal; under 140 the table has fewer columns and two lines an arm.
    refit, nested
        What came after the choice, where it was asked for.
    """
    parts: list[RenderableType] = [arms_table(summary, width), *map(_line, summary.headline)]
    parts += [*(_line(said.words) for said in after(refit, nested)), Text()]
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
        caption=Text(caption(summary)),
        caption_justify="left",
    )
    rows = [_row(arm, summary, width < _WIDE) for arm in summary.arms]
    for column in rows[0]:
        words = [*column.split(), *(word for row in rows for word in row[column].split())]
        table.add_column(
            Text(column),
            justify="left" if column in TEXTS else "right",
            overflow="fold",
            min_width=min(max(map(len, words)), _WORD),  # no word is cut
        )
    for arm, row in zip(summary.arms, rows, strict=True):
        best = summary.recommended is not None and arm.arm == summary.recommended.arm
        table.add_row(*map(Text, row.values()), style="bold" if best else None)
    return table


def _row(arm: ArmSummary, summary: Summary, narrow: bool) -> dict[str, str]:
    """Return one row by its headings; a narrow one has two lines."""
    row = arm_row(arm, summary, narrow=narrow)
    if not narrow:
        return row
    return {k: v.replace(" ± ", "\n± ").replace(" [", "\n[") if k != "arm" else v for k, v in row.items()}


def _line(text: str) -> Text:
    return Text(text)


def console(*, stderr: bool = False) -> Console:
    """Return a console that neither interprets markup nor breaks a log into 80 columns."""
    found = Console(stderr=stderr, markup=False, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, markup=False, highlight=False, width=160)
