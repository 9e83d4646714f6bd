"""Progress of a run: bars in a terminal, one line a trial elsewhere."""

from __future__ import annotations

import time
from collections import deque
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from shrinkage.study.design import Trial
from shrinkage.study.spec import StudySpec
from shrinkage.study.words import number, plain
from shrinkage.training.task import Record, Result

_RECENT = 8  # trials whose duration the time left is told from


class Live:
    """Shows a run while it goes; see :class:`shrinkage.study.runner.Observer`.

    Parameters
    ----------
    console
        Where to. A terminal gets two bars (trials and epochs, with the time left), anything else plain
        lines.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._total = self._done = 0
        self._ends: deque[float] = deque(maxlen=_RECENT)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
            self._bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self._console)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def begin(self, spec: StudySpec, total: int, done: int) -> None:
        """Show the number of trials, and how many were found finished."""
        self._total, self._done = total, done
        self._ends.append(time.monotonic())
        found = f", {done} of them finished before" if done else ""
        self.say(f"{plain(spec.name)}: {total} trials of {spec.training.epochs} epochs{found}.")
        if self._bars is not None:
            self._trials = self._bars.add_task("trials", total=total, completed=done)
            self._epochs = self._bars.add_task("epochs", total=spec.training.epochs)

    def say(self, line: str) -> None:
        """Show one line."""
        self._console.print(Text(line))

    def epoch(self, record: Record) -> None:
        """Move the bar of epochs."""
        if self._bars is not None:
            self._bars.update(
                self._epochs, completed=record.epoch, description=_lane(record.lane.arm, record.lane.strength)
            )

    def trial(self, trial: Trial, result: Result) -> None:
        """Move the bar of trials, or print a line."""
        self._done += 1
        self._ends.append(time.monotonic())
        if self._bars is not None:
            self._bars.update(self._trials, completed=self._done)
            if result.state == "diverged":
                self.say(f"{_name(trial)} diverged at epoch {result.best}.")
            return
        loss = f"validation data loss {result.values['val_data_loss']:.4f}"
        shown = f"diverged at epoch {result.best}" if result.state == "diverged" else loss
        self.say(f"{self._done}/{self._total}  {_name(trial)}: {shown}{self._left()}")

    def _left(self) -> str:
        # The latest trials alone: the first one of each arm compiles, which the others do not.
        pace = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        left = pace * (self._total - self._done)
        return f"  ({left:.0f} s left)" if left >= 1 else ""


def _lane(arm: str, strength: float | None) -> str:
    name = plain(arm)
    name = name if len(name) <= 30 else f"{name[:29]}…"
    return name if strength is None else f"{name}, λ = {number(strength)}"


def _name(trial: Trial) -> str:
    fold = "" if trial.fold < 0 else f", fold {trial.fold}"
    return f"{_lane(trial.arm, trial.strength)}, seed {trial.seed}{fold}"
