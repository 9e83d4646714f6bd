"""What is known of a run while it goes: told by the run's events, asked by whatever shows it."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from shrinkage.study.design import Trial
from shrinkage.study.spec import StudySpec
from shrinkage.training.rungs import REDUCTION
from shrinkage.training.task import Lane, Record, Result

Cell = tuple[str, float | None]

_RECENT = 60.0  # seconds whose pace the time left is told from
_GRAIN = 0.5  # seconds between two moments of the pace that are kept


@dataclass(frozen=True)
class Best:
    """The cell with the lowest mean validation data loss so far.

    ``count`` of the cell's ``of`` trials are averaged. ``epoch`` is None where these are finished; else they
    are running, and have all got to this epoch.
    """

    cell: Cell
    loss: float
    count: int
    of: int
    epoch: int | None


@dataclass(frozen=True)
class Curve:
    """A running cell: its mean validation data loss by epoch, from the first one on.

    ``losses`` is NaN at epochs that were trained before the run was resumed. ``lanes`` are averaged, each
    as far as it has got.
    """

    cell: Cell
    losses: tuple[float, ...]
    lanes: int

    @property
    def epoch(self) -> int:
        """How far the cell has got."""
        return len(self.losses)


@dataclass(frozen=True)
class Ending:
    """Why trials of a cell have no result: ``state`` is ``"stopped"`` or ``"diverged"``, after ``epoch``."""

    state: str
    cell: Cell
    epoch: int


@dataclass
class _Track:
    """A trial that has begun and not ended; ``losses`` are validation data losses by epoch."""

    losses: dict[int, float] = field(default_factory=dict)
    epoch: int = 0

    def add(self, epoch: int, loss: float) -> None:
        if epoch <= self.epoch:  # trained again, after there was too little memory
            self.losses = {e: value for e, value in self.losses.items() if e < epoch}
        self.losses[epoch] = loss
        self.epoch = epoch


class Progress:
    """The state of a run: counts, the best cell so far, curves of what runs, why trials ended, time left.

    It takes the events of an :class:`shrinkage.study.observers.Observer`, and shows nothing.

    Attributes
    ----------
    total, done
        Trials in all, and those that are finished and stored.
    length
        Epochs of a trial.
    running
        How far each trial is that has begun, has not ended and has not diverged, by lane.
    endings
        Why trials were stopped or diverged, with these trials; the latest last.
    """

    def __init__(self) -> None:
        self.total = self.done = self.length = 0
        self.running: dict[Lane, _Track] = {}
        self.endings: dict[Ending, set[Lane]] = {}
        self._stops: tuple[int, ...] = ()
        self._each = 1  # trials of a cell
        self._states: Counter[str] = Counter()
        self._lost: dict[Lane, int] = {}  # diverged at an epoch, and not yet reported as ended
        self._losses: dict[Cell, list[float]] = {}  # of complete trials
        self._ruined: set[Cell] = set()  # cells of which a trial diverged: these are never chosen
        self._planned = self._worked = 0.0  # epochs, over all trials
        self._begun = time.monotonic()
        self._pace = deque([(self._begun, 0.0)])

    # --- events -------------------------------------------------------------------------------------------

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Take note of the study, and of the trials that were found finished."""
        self.total, self.length, self._stops = total, spec.training.epochs, spec.stops
        self._each = len(spec.seeds) * spec.split_count
        self._planned = _epochs(spec) if spec.is_settled else float(total * spec.training.epochs)
        self.done, self._begun = len(found), time.monotonic()
        for row in found:
            self._count((row["arm"], row["strength"]), row["state"], row["val_data_loss"])
        self._worked = self._planned * len(found) / max(total, 1)
        self._pace = deque([(self._begun, self._worked)])

    def more(self, total: int) -> None:
        """Take note that a search asks for more trials: ``total`` in all."""
        self._planned += (total - self.total) * self.length
        self.total = total

    def epoch(self, record: Record) -> None:
        """Take note of an epoch of a trial."""
        if self.done >= self.total:
            return  # a reported trial whose weights were removed is trained again, to be scored
        lane, loss = record.lane, record.values["val_data_loss"]
        if lane not in self.running:
            before = self._lost.pop(lane, None)
            self.running[lane] = _Track(epoch=self._credit(record.epoch - 1) if before is None else before)
        track = self.running[lane]
        self._worked += record.epoch - track.epoch
        track.add(record.epoch, loss)
        if not (math.isfinite(loss) and math.isfinite(record.values["loss"])):
            self._lost[lane] = self.running.pop(lane).epoch
            self._ruined.add((lane.arm, lane.strength))
            self._add_ending(lane, "diverged", record.epoch)
        self._tick()

    def trial(self, trial: Trial, result: Result) -> None:
        """Take note of a trial that has ended."""
        lane, trained = result.lane, len(result.records)
        track = self.running.pop(lane, None)
        before = self._lost.pop(lane, None) if track is None else track.epoch
        if before is None:
            before = self._credit(trained)
        self.done += 1
        if result.state != "stopped":  # the plan knows of these; what else ends early leaves nothing to do
            self._worked += self.length - before
        self._count(trial.cell, result.state, result.values["val_data_loss"])
        if result.state != "complete":
            self._add_ending(lane, result.state, trained)
        self._tick()

    def _credit(self, epochs: int) -> int:
        """Count epochs of a trial that were trained before the run was resumed: they took no time of it."""
        self._worked += epochs
        self._pace = deque((moment, worked + epochs) for moment, worked in self._pace)
        return epochs

    def _count(self, cell: Cell, state: str, loss: float) -> None:
        self._states[state] += 1
        if state == "complete":
            self._losses.setdefault(cell, []).append(loss)
        elif state == "diverged":
            self._ruined.add(cell)

    def _add_ending(self, lane: Lane, state: str, epoch: int) -> None:
        ending = Ending(state, (lane.arm, lane.strength), epoch)
        lanes = self.endings.pop(ending, set())  # put in again, so that the latest is the last
        self.endings[ending] = lanes | {lane}

    def _tick(self) -> None:
        now = time.monotonic()
        if len(self._pace) > 1 and now - self._pace[-2][0] < _GRAIN:
            self._pace.pop()
        self._pace.append((now, self._worked))
        # The first moment is a minute old at least, for epochs of many trials end in one burst.
        while now - self._pace[1][0] > _RECENT:
            self._pace.popleft()

    # --- what is asked ------------------------------------------------------------------------------------

    @property
    def complete(self) -> int:
        """Trials trained to the end."""
        return self._states["complete"]

    @property
    def stopped(self) -> int:
        """Trials stopped at a rung."""
        return self._states["stopped"]

    @property
    def diverged(self) -> int:
        """Trials whose loss was not finite."""
        return self._states["diverged"] + len(self._lost)

    @property
    def waiting(self) -> int:
        """Trials among the running ones that have got to a rung, where it is decided who goes on."""
        return sum(track.epoch in self._stops for track in self.running.values())

    @property
    def elapsed(self) -> float:
        """Seconds since the first trial could begin."""
        return time.monotonic() - self._begun

    @property
    def left(self) -> float | None:
        """Seconds to go at the pace of the last minute (many trials may end at once); None: not yet known."""
        (begun, before), (now, worked) = self._pace[0], self._pace[-1]
        if worked <= before:
            return None
        return max(0.0, (now - begun) * (self._planned - worked) / (worked - before))

    def best(self) -> Best | None:
        """Return the best cell so far, of those with most finished trials; before there are, of what runs.

        As when the study's answer is chosen, a cell with a diverged trial does not count.
        """
        found = {cell: losses for cell, losses in self._losses.items() if cell not in self._ruined}
        if found:
            # Seeds differ: a mean of one is not compared with a mean of five.
            most = max(map(len, found.values()))
            means = {cell: _mean(losses) for cell, losses in found.items() if len(losses) == most}
            cell = min(means, key=means.__getitem__)
            return Best(cell, means[cell], most, self._each, None)
        running = {cell: tracks for cell, tracks in self._cells().items() if cell not in self._ruined}
        if not running:
            return None
        means = {cell: _mean([t.losses[t.epoch] for t in tracks]) for cell, tracks in running.items()}
        cell = min(means, key=means.__getitem__)
        epoch = min(track.epoch for track in running[cell])
        return Best(cell, means[cell], len(running[cell]), self._each, epoch)

    def curves(self) -> list[Curve]:
        """Return the curves of the cells that run, in the order in which they began.

        Cells that wait at a rung come after the others.
        """
        cells = self._cells()
        waiting = {cell: all(t.epoch in self._stops for t in tracks) for cell, tracks in cells.items()}
        return [_curve(cell, cells[cell]) for cell in sorted(cells, key=waiting.__getitem__)]

    def _cells(self) -> dict[Cell, list[_Track]]:
        cells: dict[Cell, list[_Track]] = {}
        for lane, track in self.running.items():
            cells.setdefault((lane.arm, lane.strength), []).append(track)
        return cells


def _curve(cell: Cell, tracks: Sequence[_Track]) -> Curve:
    last = max(track.epoch for track in tracks)
    by_epoch = ([t.losses[e] for t in tracks if e in t.losses] for e in range(1, last + 1))
    return Curve(cell, tuple(_mean(losses) if losses else math.nan for losses in by_epoch), len(tracks))


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def _epochs(spec: StudySpec) -> int:
    """Return how many epochs a study trains over all trials, if none ends early: fewer after each rung."""
    stops = (0, *spec.stops, spec.training.epochs)
    phases = [after - before for before, after in itertools.pairwise(stops)]
    cells = 0
    for arm in spec.all_arms:
        count = len(arm.values())
        cells += sum(epochs * -(-count // REDUCTION**rung) for rung, epochs in enumerate(phases))
    return cells * len(spec.seeds) * spec.split_count
