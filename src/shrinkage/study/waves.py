"""The waves of a run: what its strategy asks for, until it stops or the budget is spent."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from shrinkage.errors import ShrinkageError, SpecError, TrainingError
from shrinkage.study import design
from shrinkage.study.design import Trial
from shrinkage.study.directory import RunDirectory
from shrinkage.study.files import write_json
from shrinkage.study.final import Asked, Searched
from shrinkage.study.groups import reason
from shrinkage.study.observers import Observer
from shrinkage.study.search import strategy
from shrinkage.study.space import Cell, Down, Seen, Step, Unit
from shrinkage.study.spec import StudySpec, seconds
from shrinkage.study.storage import TrialStore
from shrinkage.study.words import duration
from shrinkage.training.task import Result, Wave

if TYPE_CHECKING:
    from shrinkage.study.runner import Bench

now = time.monotonic

_LEAST = "what the others are compared with"


@dataclass(frozen=True)
class Log:
    """What has been asked for, as ``search.json`` keeps it.

    Parameters
    ----------
    waves
        What each was for, and how many trials it added.
    ended, cut
        Why the search stopped, None while it goes on; and whether a budget did it.
    seconds
        How long it has taken, over all commands that went on with it.
    """

    waves: tuple[tuple[str, int], ...] = ()
    ended: str | None = None
    cut: bool = False
    seconds: float = 0.0

    @classmethod
    def read(cls, directory: RunDirectory, spec: StudySpec) -> Log:
        """Return what a run directory has; an empty one if it has none.

        What ended under another tolerance or budget than the study's has not ended.
        """
        stored = directory.read_json(directory.search) or {}
        waves = tuple((wave["why"], wave["trials"]) for wave in stored.get("waves", ()))
        same = stored.get("limits") == spec.limits
        ended, cut = (stored.get("ended"), stored.get("cut", False)) if same else (None, False)
        return cls(waves, ended, cut, stored.get("seconds", 0.0))

    def write(self, directory: RunDirectory, spec: StudySpec) -> None:
        """Store it."""
        waves = [{"why": why, "trials": trials} for why, trials in self.waves]
        own = {"waves": waves, "ended": self.ended, "cut": self.cut, "seconds": self.seconds}
        write_json(directory.search, {**own, "limits": spec.limits})


class Search:
    """The trials of a run in the order in which they are asked for.

    Parameters
    ----------
    bench, directory, store
        The study, where it is run, and where its trials are stored.
    observer
        Told what happens.
    """

    def __init__(self, bench: Bench, directory: RunDirectory, store: TrialStore, observer: Observer) -> None:
        self._bench, self._directory, self._store, self._observer = bench, directory, store, observer
        self._asked: dict[tuple[Cell, Unit], Trial] = {}
        self._waves: dict[str, tuple[Step, tuple[Trial, ...]]] = {}  # by key: with whom a trial is trained
        self._taken: list[tuple[str, tuple[Trial, ...]]] = []  # what each wave was for, and its trials
        self._spent = 0  # row-epochs of what proposed strengths
        self.log = Log.read(directory, bench.spec)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The trial of each cell and unit that was asked for."""
        return tuple(self._asked.values())

    def run(self) -> Iterator[tuple[Trial, Result]]:
        """Train what is asked for and is not finished, wave by wave; yield each trial when it ends."""
        before, clock = self.log, _Clock(self._bench.spec.budget, self.log.seconds)
        self.log = replace(before, waves=(), ended=None, cut=False)
        steps = strategy(replace(self._bench.space, descent=self._descent))
        step = next(steps)
        while not self.log.ended:
            wave = self._plan(step)
            self._taken.append((step.why, wave))
            self.log = replace(self.log, waves=(*self.log.waves, (step.why, len(wave))))
            if len(self.log.waves) > 1:
                self._observer.more(len(self._waves), step.why)
            if before.ended is not None and len(self.log.waves) == len(before.waves):
                # What its last wave left undone when the budget was spent stays undone.
                self.log = replace(self.log, ended=before.ended, cut=before.cut)
                break
            try:
                cut = yield from self._trained(wave, clock)
            finally:
                self._note(clock)
            self._directory.checkpoints.clear()
            try:
                if not cut:
                    step = steps.send(self._seen())
                    known = len(self.log.waves) < len(before.waves)  # an earlier command could afford it
                    cut = "" if known else self._over_budget(step, clock)
                self.log = replace(self.log, ended=cut or None, cut=bool(cut))
            except StopIteration as stop:
                self.log = replace(self.log, ended=stop.value)
        if self.log.cut:
            yield from self._completed()
        self._note(clock)

    def _completed(self) -> Iterator[tuple[Trial, Result]]:
        """Train what an answer needs at the least, although the budget is spent."""
        least = self._bench.space.least(self._seen())
        new = tuple(asked for asked in least if asked not in self._asked)
        if new:
            self._taken.append((_LEAST, self._plan(Step(_LEAST, new))))
        for asked in least:
            yield from self._trained([self._asked[asked]])

    def again(self, trial: Trial) -> Sequence[NDArray[Any]]:
        """Train a finished trial again, to the same bits, and return its weights."""
        return next(self._results((trial,))).weights

    def record(self) -> Searched:
        """Return what summary.json holds of the search: nothing that depends on how fast it was."""
        found = self._store.finished()
        waves = tuple(Asked(why, sum(t.key in found for t in wave)) for why, wave in self._taken)
        return Searched(
            strategy=self._bench.spec.strategy,
            waves=waves,
            trials=sum(wave.trials for wave in waves),
            row_epochs=self._row_epochs(),
            ended=self.log.ended or "",
        )

    def _row_epochs(self) -> int:
        """Return how many rows were trained on, each as often as it was: the work that the search took."""
        splits = self._bench.loop.task.splits
        trials = {trial.key: trial for _, wave in self._waves.values() for trial in wave}
        rows = {key: len(splits[trial.lane.split].train) for key, trial in trials.items()}
        return self._spent + sum(rows[key] * self._directory.epochs(key) for key in rows)

    def _descent(self, arm: str, strength: float) -> Iterator[Down]:
        """Go down the gradient; what was found on the way before is not found again."""
        key, path = json.dumps([arm, strength]), self._directory.descents
        known = (self._directory.read_json(path) or {}).get(key, {"steps": [], "ended": False})
        steps = [Down(tuple(strengths), work) for strengths, work in known["steps"]]
        yield from tuple(steps)

        def keep(ended: bool) -> None:  # another arm may have gone down in between
            others = self._directory.read_json(path) or {}
            write_json(path, {**others, key: {"steps": steps, "ended": ended}})

        if not known["ended"]:
            with named_failures():
                for down in islice(self._bench.descents.steps(arm, strength), len(steps), None):
                    steps.append(down)
                    keep(False)
                    yield down
            keep(True)

    # --- one wave -------------------------------------------------------------------------------------------

    def _plan(self, step: Step) -> tuple[Trial, ...]:
        """Return the trials of a step that no earlier one has brought to their end."""
        new, self._spent = self._new(step), self._spent + step.spent
        wave = design.trials(self._bench.spec, self._bench.facts, new, self._asked, self._bench.facts_of)
        self._asked |= dict(zip(new.asked, wave, strict=True))
        self._waves |= {trial.key: (new, wave) for trial in wave}
        return wave

    def _new(self, step: Step) -> Step:
        """Return a step less what was asked for before and has come to its end; what was stopped has not."""
        found = self._store.finished()
        ended = {asked for asked, t in self._asked.items() if _is_over(found.get(t.key))}
        return replace(step, asked=tuple(asked for asked in dict.fromkeys(step.asked) if asked not in ended))

    def _trained(
        self, wave: Sequence[Trial], clock: _Clock | None = None
    ) -> Generator[tuple[Trial, Result], None, str]:
        """Train the rest of a wave; return why it was cut short, if a clock did."""
        todo = design.pending(wave, self._store.finished())
        by_lane = {trial.lane: trial for trial in todo}
        for result in self._results(todo) if todo else ():
            yield by_lane[result.lane], result
            if clock is None:
                continue
            clock.worked += len(result.records)
            self._note(clock)
            if clock.is_spent and len(self.log.waves) > 1:  # the first look is always finished
                return f"The budget of {self._bench.spec.budget} was spent."
        return ""

    def _results(self, todo: Sequence[Trial]) -> Iterator[Result]:
        step, trials = self._waves[todo[0].key]
        starts = {}
        for trial in trials:
            start = step.after.get(trial.cell)
            if start is not None:
                starts[trial.lane] = self.weights(self._asked[start, (trial.seed, trial.fold)])
        epochs = self._bench.spec.training.epochs if step.epochs is None else step.epochs
        wave = Wave(tuple(t.lane for t in trials), epochs, step.rungs, step.alike, starts)
        with named_failures():
            yield from self._bench.loop.run([t.lane for t in todo], self._observer.epoch, wave)

    def weights(self, trial: Trial) -> Sequence[NDArray[Any]]:
        """Return what a trial was trained to; weights that were removed by hand are trained again."""
        weights = self._directory.read_weights(trial.key)
        if weights is None:  # to the same bits
            weights = tuple(self.again(trial))
            self._directory.write_weights(trial.key, weights)
        return weights

    # --- what the strategy is told --------------------------------------------------------------------------

    def _seen(self) -> Seen:
        found = self._store.finished()
        seen: dict[Cell, dict[Unit, float]] = {}
        for (cell, unit), trial in self._asked.items():
            row = found.get(trial.key)
            if row is not None and row["state"] != "stopped":
                loss = row["val_data_loss"] if row["state"] == "complete" else None
                seen.setdefault(cell, {})[unit] = math.inf if loss is None else loss
        return seen

    def _over_budget(self, step: Step, clock: _Clock) -> str:
        """Return why a step can't be afforded, or nothing."""
        spec = self._bench.spec
        more = len(self._new(step).asked)
        asked = {cell for cell, _ in (*self._asked, *step.asked)}
        # What nothing could be compared without is trained in any case.
        kept = sum(cell not in asked for cell in self._bench.space.fixed)
        if isinstance(spec.budget, int) and more and len(self._waves) + more + kept > spec.budget:
            return f"The budget of {spec.budget} trials does not allow the {more} of another look."
        share = 1.0 if step.epochs is None else step.epochs / spec.training.epochs
        epochs = sum(spec.at(*cell).training.epochs for cell, _ in self._new(step).asked)
        needed = clock.needed(share * epochs)
        if clock.left is not None and needed > clock.left:
            left = duration(max(clock.left, 0.0))
            return (
                f"The budget of {spec.budget} does not allow another look, which takes about "
                f"{duration(needed)}: {left} are left."
            )
        return ""

    def _note(self, clock: _Clock) -> None:
        self.log = replace(self.log, seconds=clock.seconds)
        if not self._bench.spec.is_settled:  # what is known beforehand need not be kept
            self.log.write(self._directory, self._bench.spec)


def _is_over(row: Mapping[str, Any] | None) -> bool:
    return row is not None and row["state"] != "stopped"


def check_budget(budget: int | str | None, trials: int) -> None:
    """Raise SpecError if a budget of trials does not allow those that a search begins with."""
    if isinstance(budget, int) and budget < trials:
        raise SpecError(f"budget = {budget} is less than the {trials} trials that this search begins with.")


class _Clock:
    """How long a search has taken, and how much of its budget is left.

    Parameters
    ----------
    budget
        As the study says.
    before
        Seconds that earlier commands took.
    """

    def __init__(self, budget: int | str | None, before: float) -> None:
        self._limit = seconds(budget) if isinstance(budget, str) else None
        self._before, self._begun = before, now()
        self.worked = 0  # epochs trained by this command, over all trials

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + now() - self._begun

    @property
    def left(self) -> float | None:
        """Seconds of the budget that are left; None without a limit."""
        return None if self._limit is None else self._limit - self.seconds

    @property
    def is_spent(self) -> bool:
        """Whether the time is over."""
        return self.left is not None and self.left <= 0

    def needed(self, epochs: float) -> float:
        """Return how long so many epochs of trials will take at the pace so far; 0 where it is not known."""
        return (now() - self._begun) / self.worked * epochs if self.worked else 0.0


@contextmanager
def named_failures() -> Iterator[None]:
    """Turn whatever Keras, its backend or a user's layer raises into one sentence."""
    try:
        yield
    except (ShrinkageError, BrokenPipeError):  # the pipe is an observer's, whose reader has gone
        raise
    except Exception as error:
        raise TrainingError(f"Training failed with {type(error).__name__}: {reason(error)}") from error
