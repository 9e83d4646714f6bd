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
from shrinkage.training.task import Lane, Record, Result

_RECENT = 60.0  # seconds whose pace the time left is told from
_SILENCE = 30.0  # seconds after which a log hears of epochs as well


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
        self._total = self._done = self._length = 0
        self._running: dict[Lane, int] = {}
        self._pace: deque[tuple[float, int]] = deque()
        self._spoken = 0.0

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
        self._total, self._done, self._length = total, done, spec.training.epochs
        self._spoken = time.monotonic()
        self._tick()
        found = f", {done} of them finished before" if done else ""
        self.say(f"{plain(spec.name)}: {total} trials of {spec.training.epochs} epochs{found}.")
        if self._bars is not None:
            self._trials = self._bars.add_task("trials", total=total, completed=done)
            self._epochs = self._bars.add_task("epochs", total=spec.training.epochs)

    def say(self, line: str) -> None:
        """Show one line."""
        self._console.print(Text(line))

    def epoch(self, record: Record) -> None:
        """Move the bar of epochs; in a log, say now and then how far the trials that run have come."""
        self._running[record.lane] = record.epoch
        self._tick()
        if self._bars is not None:
            self._bars.update(
                self._epochs, completed=record.epoch, description=_lane(record.lane.arm, record.lane.strength)
            )
        elif time.monotonic() - self._spoken > _SILENCE:
            many = f"{len(self._running)} trials" if len(self._running) > 1 else "the trial"
            self._line(f"epoch {record.epoch}/{self._length} of {many} that run{'s' * (many == 'the trial')}")

    def trial(self, trial: Trial, result: Result) -> None:
        """Move the bar of trials, or print a line."""
        self._done += 1
        self._running.pop(result.lane, None)
        self._tick()
        if self._bars is not None:
            self._bars.update(self._trials, completed=self._done)
            if result.state == "diverged":
                self.say(f"{_name(trial)} diverged at epoch {result.best}.")
            return
        loss = f"validation data loss {result.values['val_data_loss']:.4f}"
        shown = {
            "complete": loss,
            "stopped": f"stopped after epoch {len(result.records)}, {loss}",
            "diverged": f"diverged at epoch {result.best}",
        }[result.state]
        self._line(f"{self._done}/{self._total}  {_name(trial)}: {shown}")

    def _line(self, text: str) -> None:
        self._spoken = time.monotonic()
        self.say(f"{text}{self._left()}")

    def _tick(self) -> None:
        now, epochs = time.monotonic(), self._done * self._length + sum(self._running.values())
        self._pace.append((now, epochs))
        while now - self._pace[0][0] > _RECENT and len(self._pace) > 2:
            self._pace.popleft()

    def _left(self) -> str:
        """Say how long the rest takes at the pace of the last minute: many trials may end at once."""
        (begun, before), (now, epochs) = self._pace[0], self._pace[-1]
        left = (now - begun) * (self._total * self._length - epochs) / max(1, epochs - before)
        return f"  ({left:.0f} s left)" if left >= 1 else ""


def _lane(arm: str, strength: float | None) -> str:
    name = plain(arm)
    name = name if len(name) <= 30 else f"{name[:29]}…"
    return name if strength is None else f"{name}, λ = {number(strength)}"


def _name(trial: Trial) -> str:
    fold = "" if trial.fold < 0 else f", fold {trial.fold}"
    return f"{_lane(trial.arm, trial.strength)}, seed {trial.seed}{fold}"
