"""A run while it goes: one screen in a terminal, a line a trial in a log, a few lines in a notebook."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import rich.live
from rich.console import Console, RenderableType
from rich.text import Text

from shrinkage.report import terminal
from shrinkage.report.progress import Progress
from shrinkage.report.screen import best_so_far, counts, named, screen
from shrinkage.study.design import Trial
from shrinkage.study.spec import StudySpec
from shrinkage.study.words import count, duration, plain
from shrinkage.training.task import Record, Result

_REFRESH = 4  # screens a second
_SILENCE = 30.0  # seconds after which a log hears of epochs as well
_LINES = 20  # about as many lines on trials are put into a notebook


class Live:
    """Shows a run while it goes; see :class:`shrinkage.study.observers.Observer`.

    Parameters
    ----------
    console
        Where to; the error output by default. A terminal gets one screen that is drawn anew: how many
        trials are finished, when the rest will be, which cell is the best so far, the curves of those
        that run, and which trials were stopped or diverged, and why. A log gets a line a trial, and a
        notebook about twenty lines in all.

    Examples
    --------
    >>> import sys
    >>> spec = StudySpec.parse({"data": "digits", "model": "shrinkage.models:mlp", "arms": []})
    >>> with Live(Console(file=sys.stdout)) as live:  # study.run("runs/mine", observer=live) calls:
    ...     live.begin(spec, 5, [])
    study: 5 trials of 20 epochs.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = terminal.console(stderr=True) if console is None else console
        self._progress = Progress()
        self._lock = threading.Lock()  # the screen is drawn by a thread; never held while something is shown
        self._screen: rich.live.Live | None = None
        self._over = False
        self._spoken = 0.0
        self._split = ""  # what the numbers of a trial's splits are called

    def __enter__(self) -> Self:
        console = self._console
        if console.is_terminal and not (console.is_dumb_terminal or console.is_jupyter):
            self._screen = rich.live.Live(
                get_renderable=self._drawn, console=console, refresh_per_second=_REFRESH
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over = True
        if self._screen is not None:
            self._screen.stop()

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Show the number of trials, and how many were found finished."""
        with self._lock:
            self._progress.begin(spec, total, found)
        self._spoken = time.monotonic()
        self._split = "fold" if spec.folds else "split"
        before = f", {len(found)} of them finished before" if found else ""
        epochs = count(spec.training.epochs, "epochs")
        self.say(f"{plain(spec.name)}: {count(total, 'trials')} of {epochs}{before}.")
        if self._screen is not None and len(found) < total:
            self._screen.start()

    def say(self, line: str) -> None:
        """Show one line."""
        self._console.print(Text(line))

    def more(self, total: int, why: str) -> None:
        """Say what a search tries next."""
        with self._lock:
            self._progress.more(total)
            waits = self._progress.done < total
        self.say(f"{why}: {count(total, 'trials')} in all")
        if self._screen is not None and waits and not self._screen.is_started:  # all before was found
            self._screen.start()

    def epoch(self, record: Record) -> None:
        """Take note of an epoch; in a log, say now and then how far the trials that run have come."""
        with self._lock:
            self._progress.epoch(record)
        if self._screen is None and time.monotonic() - self._spoken > _SILENCE:
            running = len(self._progress.running)
            many = f"{running} trials that run" if running != 1 else "the trial that runs"
            self._line(f"epoch {record.epoch}/{self._progress.length} of {many}")

    def trial(self, trial: Trial, result: Result) -> None:
        """Take note of a trial that has ended; in a log, print a line, in a notebook now and then."""
        with self._lock:
            self._progress.trial(trial, result)
        if self._screen is not None:
            return
        done, total = self._progress.done, self._progress.total
        if not self._console.is_jupyter:
            self._line(f"{done}/{total}  {_outcome(trial, result, self._split)}")
        elif done == total or done % math.ceil(total / _LINES) == 0:
            best = self._progress.best()
            shown = "" if best is None else f"; {best_so_far(best, self._console.width)}"
            self._line(f"{done}/{total}  {counts(self._progress)}{shown}")

    def _drawn(self) -> RenderableType:
        with self._lock:
            return screen(self._progress, *self._console.size, over=self._over)

    def _line(self, text: str) -> None:
        self._spoken = time.monotonic()
        left = self._progress.left
        self.say(text if left is None or left < 1 else f"{text}  ({duration(left)} left)")


def _outcome(trial: Trial, result: Result, split: str) -> str:
    which = "" if trial.fold < 0 else f", {split} {trial.fold}"
    loss = f"validation data loss {result.values['val_data_loss']:.4f}"
    shown = {
        "complete": loss,
        "stopped": f"stopped after epoch {len(result.records)}, {loss}",
        "diverged": f"diverged at epoch {result.best}",
    }[result.state]
    return f"{named(trial.cell)}, seed {trial.seed}{which}: {shown}"
