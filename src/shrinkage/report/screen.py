"""One screen that shows a run: bar, counts, the best cell so far, small curves, and why trials ended."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shrinkage.report.progress import Best, Cell, Curve, Ending, Progress
from shrinkage.study.words import count, duration, number, plain
from shrinkage.training.task import Lane

_NAME = 30  # characters of an arm's name that are shown
_CURVES, _ENDINGS = 6, 2  # rows at most; of endings, for each kind
_SPARK = 24  # columns of a curve at most
_NARROW = 60  # columns under which a curve has no room
_LEVELS = "▁▂▃▄▅▆▇█"


def screen(progress: Progress, width: int, height: int, *, over: bool = False) -> RenderableType:
    """Return what a terminal shows of a run: lines that fit in one screen.

    Parameters
    ----------
    progress
        What is known of the run.
    width, height
        Columns and rows of the terminal; the last row is left to the cursor.
    over
        Whether the run has ended: then nothing runs, and there is no time left to tell.

    Examples
    --------
    >>> from rich.console import Console
    >>> progress = Progress()
    >>> progress.total = 60
    >>> Console(width=40).print(screen(progress, 40, 24))  # doctest: +NORMALIZE_WHITESPACE
                                0/60 trials
    60 to come
    """
    lines: list[RenderableType] = [_bar(progress, width, over), _line(counts(progress))]
    best = progress.best()
    if best is not None:
        lines.append(_line(best_so_far(best, width), "bold"))
    room = height - 1 - len(lines)
    endings = _endings(progress, width)[: max(room // 2, 1)]
    curves = [] if over else progress.curves()
    for block in (_rows(curves, progress.length, width, room - len(endings) - 2), endings):
        if block and len(lines) + len(block) + 1 < height:
            lines += [Text(), *block]
    return Group(*lines[: max(height - 1, 1)])


def _bar(progress: Progress, width: int, over: bool) -> Table:
    row: list[RenderableType] = [ProgressBar(total=max(progress.total, 1), completed=progress.done)]
    row += [Text(f"{progress.done}/{progress.total} trials")]
    if width >= _NARROW:
        row += [Text(_clock(progress.elapsed))]
    left = None if over or progress.done == progress.total else progress.left
    if left is not None:
        row += [Text(f"{duration(left)} left")]
    table = Table.grid(expand=True, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column(ratio=1)
    for _ in row[1:]:
        table.add_column(no_wrap=True)
    table.add_row(*row)
    return table


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def counts(progress: Progress) -> str:
    """Say how many trials there are of each kind."""
    kinds = {
        "complete": progress.complete,
        "running": len(progress.running) - progress.waiting,
        "waiting at a rung": progress.waiting,
        "stopped at a rung": progress.stopped,
        "diverged": progress.diverged,
    }
    kinds["to come"] = progress.total - sum(kinds.values())
    return ", ".join(f"{n} {kind}" for kind, n in kinds.items() if n > 0) or "nothing to train"


def best_so_far(best: Best, width: int) -> str:
    """Say which cell is the best so far and what that rests on, if possible in ``width`` characters.

    Examples
    --------
    >>> best_so_far(Best(("L2", 1e-4), 0.1069, 3, 5, None), 80)
    'lowest validation data loss 0.1069 (3 of 5 trials): L2, λ = 1e-4'
    """
    trials = f"{best.count} of {count(best.of, 'trials')}"
    still = "" if best.epoch is None else f" at epoch {best.epoch}"
    what = f"lowest validation data loss {best.loss:.4f} ({trials}{still}): "
    return f"{what}{named(best.cell, width - len(what))}"


def named(cell: Cell, width: int = 2 * _NAME) -> str:
    """Name a cell on one line; of a long arm's name as much as there is room for.

    Examples
    --------
    >>> named(("L2 of kernels", 1e-4), 20)
    'L2 of ker…, λ = 1e-4'
    """
    arm, strength = cell
    at = "" if strength is None else f", λ = {number(strength)}"
    name, room = plain(arm), min(_NAME, max(width - len(at), 4))
    return f"{name}{at}" if len(name) <= room else f"{name[: room - 1]}…{at}"


def why(ending: Ending, lanes: Collection[Lane], width: int) -> str:
    """Say why trials of a cell ended before the last epoch, if possible in ``width`` characters.

    Examples
    --------
    >>> why(Ending("diverged", ("L1", 0.1), 2), [Lane("L1", 0.1, seed=3)], 80)
    'L1, λ = 0.1, seed 3: diverged at epoch 2, where the loss was not finite'
    """
    who = count(len(lanes), "trials") if len(lanes) > 1 else f"seed {next(iter(lanes)).seed}"
    reason = {
        "diverged": f"diverged at epoch {ending.epoch}, where the loss was not finite",
        "stopped": f"stopped after epoch {ending.epoch}, others were better",
    }[ending.state]
    what = f", {who}: {reason}"
    return f"{named(ending.cell, width - len(what))}{what}"


def _endings(progress: Progress, width: int) -> list[Text]:
    """Return a line for each of the latest endings, what diverged first."""
    return [
        _line(why(ending, lanes, width), style)
        for state, style in (("diverged", "red"), ("stopped", "dim"))
        for ending, lanes in [e for e in progress.endings.items() if e[0].state == state][-_ENDINGS:]
    ]


def _rows(curves: Sequence[Curve], length: int, width: int, room: int) -> list[Text]:
    """Return a row a running cell, as many as there is room for, and a count of the others."""
    shown = min(len(curves), _CURVES, room if len(curves) <= room else room - 1)
    if width < _NARROW or shown < 1:
        return []
    columns = min(_SPARK, length)
    facts = [f"epoch {curve.epoch}/{length}  {curve.losses[-1]:.4f}" for curve in curves[:shown]]
    room = width - columns - max(map(len, facts)) - 4
    names = [named(curve.cell, room) for curve in curves[:shown]]
    widest = max(map(len, names))
    rows = [
        _line(f"{name:<{widest}}  {sparkline(curve.losses, length, columns)}  {fact}")
        for name, curve, fact in zip(names, curves, facts, strict=False)
    ]
    others = len(curves) - shown
    return rows + ([_line(f"and {count(others, 'cells')} more that run", "dim")] if others else [])


def sparkline(losses: Sequence[float], length: int, columns: int) -> str:
    """Draw losses in block characters, from the lowest to the highest, on a log scale where all are positive.

    Parameters
    ----------
    losses
        By epoch, as far as they are known; one that is not finite is left blank.
    length
        Epochs to be trained: the curve fills its columns at the last.
    columns
        Characters. Where there are more epochs, each shows the last of its share.

    Examples
    --------
    >>> sparkline([0.8, 0.4, 0.2, 0.1], length=6, columns=6)
    '█▆▃▁  '
    """
    shown = [math.nan] * columns
    for epoch, loss in enumerate(losses):
        shown[epoch * columns // length] = loss
    known = [loss for loss in shown if math.isfinite(loss)]
    scale = math.log if min(known, default=0.0) > 0 else float
    low, high = (scale(f(known, default=1.0)) for f in (min, max))
    step = (high - low) / (len(_LEVELS) - 1)
    return "".join(
        _LEVELS[round((scale(loss) - low) / step) if step else 0] if math.isfinite(loss) else " "
        for loss in shown
    )


def _line(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")
