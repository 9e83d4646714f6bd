"""How figures look: one colour an arm, names as they stand, and a page that is written in one step."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from shrinkage.study.files import write_atomically
from shrinkage.study.summary import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Text

BASELINE_COLOUR = "#000000"
# M. Okabe and K. Ito, "Color Universal Design", 2008, in an order whose neighbours differ in lightness;
# without their yellow, which is too faint for a line on white.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")  # one more step a round, so that a colour twice is told apart
LINES: tuple[LineStyle, ...] = ("-", "--", "-.", ":")

NAME_WIDTH = 28  # characters of an arm's name that are shown
LOG_RATIO = 20.0  # positive losses spread wider than this are drawn on a log axis
DPI = 150


LineStyle = Literal["-", "--", "-.", ":"]


@dataclass(frozen=True)
class Style:
    """Colour, marker and line of one arm, the same in every figure of a study."""

    colour: str
    marker: str
    line: LineStyle


def arm_styles(summary: Summary) -> dict[str, Style]:
    """Give every arm its style: black for the baseline, Okabe-Ito colours for the others.

    Parameters
    ----------
    summary
        The study; styles follow the order of its arms.

    Returns
    -------
    dict
        Arm -> `Style`. From the seventh arm on colours return with another marker and line.

    Examples
    --------
    >>> import pandas as pd
    >>> from shrinkage.study.compare import summarise
    >>> frame = pd.DataFrame({"arm": ["none", "l2"], "strength": [float("nan"), 0.1], "seed": 0, "fold": -1,
    ...                       "state": "complete", "val_data_loss": [1.0, 0.9]})
    >>> summary = summarise(frame, None, baseline="none", classification=False)
    >>> [style.colour for style in arm_styles(summary).values()]
    ['#000000', '#0072B2']
    """
    styles, i = {}, 0
    for arm in summary.arms:
        if arm.is_baseline:
            styles[arm.arm] = Style(BASELINE_COLOUR, "o", "-")
            continue
        turn, colour = divmod(i, len(COLOURS))
        styles[arm.arm] = Style(
            COLOURS[colour], MARKERS[(colour + turn) % len(MARKERS)], LINES[turn % len(LINES)]
        )
        i += 1
    return styles


def short_name(name: str, width: int = NAME_WIDTH) -> str:
    """Return ``name`` on one line, at most ``width`` characters, in characters that the font has.

    The middle is left out of a longer name, since long names tend to differ at their ends. What the
    font lacks would be an empty box and a warning, and is shown as ``?``.

    Examples
    --------
    >>> short_name("l2"), short_name("a" * 30 + "_end", 10)
    ('l2', 'aaaaa…_end')
    """
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    line = " ".join(name.split())
    text = "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in line) or "?"
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def plain(text: Text, content: str) -> None:
    """Show ``content`` as it stands: ``$`` and ``_`` in an arm's name are no mathematics."""
    text.set_parse_math(False)
    text.set_usetex(False)
    text.set_text(content)


def finish(ax: Axes, *, log: bool) -> None:
    """Choose the y scale from what was drawn, and quieten the frame."""
    drawn = [y for line in ax.get_lines() for y in _ys(ax, line)]
    if log and drawn and min(drawn) > 0 and max(drawn) / min(drawn) > LOG_RATIO:
        ax.set_yscale("log")
    ax.grid(alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def _ys(ax: Axes, line: Line2D) -> Iterable[float]:
    if not line.get_transform().contains_branch_seperately(ax.transData)[1]:
        return ()  # placed in parts of the axes, not in losses
    values = np.asarray(line.get_ydata(), np.float64)
    return [float(y) for y in values[np.isfinite(values)]]


def side_legend(figure: Figure, handles: Sequence[Line2D], labels: Sequence[str], columns: int) -> None:
    """Put one legend to the right of all axes; the labels are shown as they stand."""
    # Matplotlib leaves out labels that begin with "_" and reads "$" as mathematics, so each text is set
    # after the legend exists.
    placeholders = [str(i) for i in range(len(labels))]
    legend = figure.legend(
        handles, placeholders, loc="outside right upper", ncols=columns, fontsize=8, frameon=False
    )
    for text, label in zip(legend.get_texts(), labels, strict=True):
        plain(text, label)


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure, of which a reader never meets a half."""
    target = Path(path)
    kind = target.suffix.lstrip(".").lower() or "png"
    # Without a version and a date, equal studies give equal files.
    unstamped = {"png": "Software", "svg": "Date", "pdf": "CreationDate"}
    metadata = {unstamped[kind]: None} if kind in unstamped else {}
    write_atomically(target, lambda file: figure.savefig(file, format=kind, dpi=DPI, metadata=metadata))
    return target
