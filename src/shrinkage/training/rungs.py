"""Rungs: after given epochs the worst strengths of every arm stop, and the others go on where they were.

This is synchronous successive halving (K. Jamieson, A. Talwalkar, "Non-stochastic Best Arm Identification
and Hyperparameter Optimization", AISTATS 2016), within each arm: arms are compared each at its own best
strength, so that every arm keeps one. How many strengths are left after a rung is known beforehand, and none
is stopped before all have reached it, so that nothing depends on how fast anything was. Without rungs there
is one phase, from the first epoch to the last.

A penalty acts late: it holds back what a network learns last. Early on, strengths that will differ still look
alike, and the lowest loss among them is chance; by loss alone the weak ones win each early rung, and the
strong ones that a noisy set needs are gone. So losses within a margin of the lowest count as equal, and of
equals the stronger goes on. The margin is wide early and 0 at the end: ``Wave.alike`` times the epochs to
come over those so far. ``benchmarks/halving.py`` shows what that chooses, next to the full grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shrinkage.training.checkpoint import Running, Shelf, name_of, pack, unpack
from shrinkage.training.cohorts import Cohort
from shrinkage.training.crew import Found, Item
from shrinkage.training.task import ALIKE as ALIKE
from shrinkage.training.task import Cell, Lane, Record, Result, Wave

REDUCTION = 2  # every second strength goes on from a rung

Leaves = Sequence[NDArray[Any]]  # a cohort's state, each with the axes seeds × cells first
Save = Callable[[Leaves, int], None]


@dataclass(frozen=True)
class Phase:
    """The epochs from one rung to the next, and what hears of them.

    Parameters
    ----------
    start, stop
        The epochs before it, and those after it.
    last
        Whether it ends the training.
    on_epoch
        Called with each record.
    """

    start: int
    stop: int
    last: bool
    on_epoch: Callable[[Record], None]


class Climber(Protocol):
    """What a loop offers to be taken from rung to rung."""

    def cohorts(self, lanes: Sequence[Lane]) -> Sequence[Cohort]:
        """Return who is trained with whom."""
        ...

    def like(self, cohort: Cohort) -> Sequence[tuple[tuple[int, ...], Any]]:
        """Return the shapes and dtypes of a cohort's state."""
        ...

    def side_by_side(
        self, work: Callable[[Item], Found], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Found]]:
        """Do ``work``, which calls :meth:`advance`, on each item; yield both when it is done."""
        ...

    def advance(
        self, cohort: Cohort, leaves: Leaves | None, running: Sequence[Running], phase: Phase, save: Save
    ) -> Callable[[], Leaves]:
        """Train a phase of a cohort, from ``leaves`` (None: from the beginning); return its state's getter.

        ``running`` take each epoch's record, and after the last phase their weights. ``save`` stores the
        state and how many epochs it has been trained, for a loop that wants checkpoints within a phase. It
        and the phase's ``on_epoch`` are called in the thread that called ``side_by_side``.
        """
        ...


@dataclass(frozen=True)
class _Reached:
    """Where a lane's state lies after a phase."""

    name: str
    cohort: Cohort
    track: Running


def survivors(scores: Mapping[Cell, float], counts: Mapping[str, int], rung: int, margin: float) -> set[Cell]:
    """Return which cells go on from a rung: of every arm the best, of alike ones the strongest, one at least.

    Parameters
    ----------
    scores
        The mean validation data loss of each cell that has got to the rung; NaN counts as infinite.
    counts
        How many cells each arm began with.
    rung
        Which rung, from 0.
    margin
        By how much of the lowest loss another may exceed it and count as equal.

    Examples
    --------
    >>> losses = {0.1: 0.400, 1.0: 0.401, 9.0: 0.5}
    >>> survivors({Cell("l2", s): loss for s, loss in losses.items()}, {"l2": 3}, 1, 0.005)
    {Cell(arm='l2', strength=1.0, ratios=())}
    """
    kept: set[Cell] = set()
    for arm, count in counts.items():
        own = {c: math.inf if math.isnan(score) else score for c, score in scores.items() if c.arm == arm}
        lowest = min(own.values(), default=math.inf)
        limit = lowest + margin * abs(lowest)
        alike = sorted((c for c in own if own[c] <= limit), key=lambda c: -(c.strength or 0.0))
        worse = sorted((c for c in own if own[c] > limit), key=lambda c: own[c])
        kept |= {*[*alike, *worse][: math.ceil(count / REDUCTION ** (rung + 1))]}
    return kept


def climb(
    wave: Wave,
    loop: Climber,
    wanted: set[Lane],
    shelf: Shelf,
    on_epoch: Callable[[Record], None],
    early_stopping: bool,
) -> Iterator[Result]:
    """Train a wave from rung to rung; yield each lane that is wanted when it ends.

    Parameters
    ----------
    wanted
        Those whose results are asked for; each leaves the set when it is yielded.
    shelf
        Where cohorts wait between phases. What lies there is taken up again.
    """
    alive, before = wave.lanes, dict[Lane, _Reached]()
    counts: dict[str, int] = {}
    for cell in dict.fromkeys(lane.cell for lane in alive):
        counts[cell.arm] = counts.get(cell.arm, 0) + 1
    stops = (*wave.rungs, wave.epochs)
    for rung, (start, stop) in enumerate(zip((0, *stops), stops, strict=False)):
        last, here = stop == wave.epochs, dict[Lane, _Reached]()
        phase = Phase(start, stop, last, on_epoch)
        passages = (
            _begin(loop, cohort, phase, wanted, before, shelf)
            for cohort in loop.cohorts(alive)
            if not last or wanted.intersection(cohort.lanes)
        )
        for passage, state in loop.side_by_side(partial(_train, loop, shelf), passages):
            here |= yield from _end(passage, state, wanted, shelf)
        if last:
            return
        margin = wave.alike * (wave.epochs - stop) / stop
        kept = survivors(_scores(here, early_stopping), counts, rung, margin)
        for lane, reached in here.items():
            if lane.cell not in kept and lane in wanted:
                wanted.discard(lane)
                yield replace(reached.track, state="stopped", weights=()).result()
        alive = tuple(lane for lane in alive if lane.cell in kept)
        before = here


@dataclass(frozen=True)
class _Passage:
    """A cohort that goes through a phase.

    Parameters
    ----------
    name
        Of its state on the shelf.
    phase
        The phase from where the cohort has got to.
    leaves
        Its state there; None: it has not begun.
    tracks, running
        How its lanes have fared, and those that are trained on.
    taken_up
        Whether its state lay on the shelf.
    """

    name: str
    cohort: Cohort
    phase: Phase
    leaves: Leaves | None
    tracks: list[Running]
    running: list[Running]
    taken_up: bool


def _begin(
    loop: Climber,
    cohort: Cohort,
    phase: Phase,
    wanted: set[Lane],
    before: Mapping[Lane, _Reached],
    shelf: Shelf,
) -> _Passage:
    """Return a cohort where it has got to: in this phase, or at the end of the one before."""
    name = name_of(cohort, phase.start)
    found = _read(shelf, name, cohort, loop)
    if found is not None:
        leaves, tracks, done = found
    elif before:
        leaves, tracks, done = *_gathered(cohort, before, shelf), phase.start
    else:
        leaves, tracks, done = None, [Running(lane, cohort.place(lane)) for lane in cohort.lanes], 0
    running = [t for t in tracks if not t.ended and (not phase.last or t.lane in wanted)]
    return _Passage(name, cohort, replace(phase, start=done), leaves, tracks, running, found is not None)


def _train(loop: Climber, shelf: Shelf, passage: _Passage) -> Callable[[], Leaves] | None:
    """Train a cohort to the phase's end; return its state's getter, or None where nothing was left to do."""
    phase = passage.phase
    if not passage.running or phase.start >= phase.stop:
        return None

    def save(state: Leaves, epochs: int) -> None:
        shelf.write(passage.name, pack(state, passage.tracks, epochs))

    return loop.advance(passage.cohort, passage.leaves, passage.running, phase, save)


def _end(
    passage: _Passage, state: Callable[[], Leaves] | None, wanted: set[Lane], shelf: Shelf
) -> Generator[Result, None, dict[Lane, _Reached]]:
    """Yield what is wanted and over; return where each lane got to."""
    name, phase, tracks = passage.name, passage.phase, passage.tracks
    leaves = passage.leaves if state is None else None if phase.last else state()
    if leaves is not None and not phase.last and not (state is None and passage.taken_up):
        shelf.write(name, pack(leaves, tracks, phase.stop))
    for track in tracks:
        if track.lane in wanted and (track.ended or phase.last):
            wanted.discard(track.lane)
            yield track.result()
    if phase.last:
        shelf.remove(name)
    return {track.lane: _Reached(name, passage.cohort, track) for track in tracks}


def _read(shelf: Shelf, name: str, cohort: Cohort, loop: Climber) -> tuple[Leaves, list[Running], int] | None:
    """Return what lies on the shelf, if it is of this cohort and of the loop's present state."""
    stored = shelf.read(name)
    if stored is None:
        return None
    leaves, tracks, done = unpack(stored, cohort)
    alike = [(a.shape, a.dtype) for a in leaves] == [(shape, np.dtype(d)) for shape, d in loop.like(cohort)]
    return (leaves, tracks, done) if alike and {t.lane for t in tracks} == set(cohort.lanes) else None


def _gathered(
    cohort: Cohort, before: Mapping[Lane, _Reached], shelf: Shelf
) -> tuple[list[NDArray[Any]], list[Running]]:
    """Return a new cohort's state, from wherever its lanes were in the phase before."""
    files: dict[str, Leaves] = {}
    for lane in cohort.lanes:
        reached = before[lane]
        if reached.name not in files:
            stored = shelf.read(reached.name)
            assert stored is not None, "a rung's state was removed while it was needed"
            files[reached.name] = unpack(stored, reached.cohort)[0]

    def at(seed: int, cell: Cell) -> tuple[str, tuple[int, int]]:
        # A place of the block that no lane of the study has may hold anything: nobody reads it.
        reached = before.get(cell.lane(seed, cohort.split), before[cohort.lanes[0]])
        return reached.name, reached.track.place

    places = [[at(seed, cell) for cell in cohort.cells] for seed in cohort.seeds]
    count = len(next(iter(files.values())))
    leaves = [
        np.stack([np.stack([files[name][i][place] for name, place in row]) for row in places])
        for i in range(count)
    ]
    return leaves, [replace(before[lane].track, place=cohort.place(lane)) for lane in cohort.lanes]


def _scores(here: Mapping[Lane, _Reached], early_stopping: bool) -> dict[Cell, float]:
    """Return each cell's mean validation data loss, at the best epochs so far under early stopping."""
    found: dict[Cell, list[float]] = {}
    for lane, reached in here.items():
        found.setdefault(lane.cell, []).append(reached.track.score(early_stopping))
    return {cell: math.fsum(of) / len(of) for cell, of in found.items()}
