"""The vectorised loop: all lanes of a cohort in one compiled program, an epoch without leaving the device.

The host draws each epoch's order, calls the program in pieces of about a second (so that signals are
answered), evaluates, and turns sums into records. On processors several cohorts go on side by side, each in a
thread. What is compiled stands in ``jax_lanes``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from shrinkage.errors import TrainingError
from shrinkage.training.checkpoint import Memory, Running, Shelf
from shrinkage.training.choose import Choice, Lowering, alternatives, first_choice
from shrinkage.training.cohorts import Cohort, cohorts
from shrinkage.training.crew import Crew, Found, Item, processors
from shrinkage.training.initial import data_order, drawn
from shrinkage.training.jax_lanes import Lanes, Rows, State
from shrinkage.training.rungs import Leaves, Phase, Save, climb
from shrinkage.training.task import Keep, Lane, Record, Result, Task, Wave

_EVALUATION_BATCH = 100  # divides the round numbers that splits often have: a rest is one more program
_CALL = 1.0  # seconds of work in one call of a program
_CHECKPOINT = 60.0  # seconds between checkpoints of a cohort
_PIECE = 64 * 2**20  # bytes of rows on the device at a time, where not all of them fit
_SHARE = 0.25  # of the memory
_TRIED = 0.2  # seconds that a way of running lanes is timed
_WORTH = 60.0  # seconds of training from which on trying other ways takes less time than it may save
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "Out of memory")


class JaxLoop:
    """Trains the lanes of a task many at a time; see :class:`shrinkage.training.task.Loop`.

    Parameters
    ----------
    task
        The task.
    lanes
        All lanes of the study, finished ones included: they decide who shares a program.
    choice
        How they are run; None decides when :meth:`decide` is called.
    alone
        Whether a program trains one lane on a processor, not as many as are fastest. Where lanes come in
        waves of many sizes, one small program is compiled sooner than several larger ones, and but for the
        smallest networks it is as fast.
    """

    def __init__(
        self, task: Task, lanes: Sequence[Lane], choice: Choice | None = None, alone: bool = False
    ) -> None:
        self.task, self.lanes = task, tuple(lanes)
        self._choice, self._alone = choice, alone
        self._keep: Keep = lambda stored, line: None
        self._shelf: Shelf = Memory()
        self._crew = Crew()
        self._made: dict[Lowering, Lanes] = {}
        self._pace = _Pace()
        self._here: Rows | None = None
        self._starts: Mapping[Lane, Sequence[NDArray[Any]]] = {}

    @property
    def choice(self) -> Choice:
        """How the lanes are run."""
        if self._choice is None:
            self._choice = self._measured()
        return self._choice

    def decide(self, stored: Mapping[str, Any] | None, keep: Keep, shelf: Shelf | None = None) -> str:
        """Decide how lanes are run, or take what was decided before; return a line that says it."""
        self._keep, self._shelf = keep, Memory() if shelf is None else shelf
        if stored:
            self._choice = Choice.from_json(stored)
        else:
            keep(self.choice.to_json(), "")
        return f"Training with one JAX program ({jax.devices()[0].platform}): {self.choice}."

    def run(
        self, lanes: Sequence[Lane], on_epoch: Callable[[Record], None], wave: Wave | None = None
    ) -> Iterator[Result]:
        """Train the cohorts that hold any of ``lanes``; yield each of these when it ends."""
        if wave is None:
            wave = self.task.wave(self.lanes)
        self._starts, left = wave.starts, set(lanes)
        while left:
            try:
                self._programs()
                self.resident()
                yield from climb(
                    wave, self, left, self._shelf, on_epoch, self.task.early_stopping is not None
                )
            except jax.errors.JaxRuntimeError as error:
                self._halve(error)

    def cohorts(self, lanes: Sequence[Lane]) -> Sequence[Cohort]:
        """Return which of ``lanes`` are trained together."""
        return cohorts(lanes, self.choice.lanes, self.choice.mix_seeds)

    def _halve(self, error: Exception) -> None:
        """Go on with half as many programs, or lanes of one, if it was memory that was short."""
        if not any(words in str(error) for words in _OUT_OF_MEMORY):
            raise error
        choice = self.choice
        if choice.at_once > 1:
            self._choice = replace(choice, at_once=choice.at_once // 2)
        elif choice.lanes > 1:
            self._choice = replace(choice, lanes=choice.lanes // 2)
        else:
            raise TrainingError(
                "One trial alone needs more memory than there is; use a smaller batch."
            ) from error
        self._keep(self._choice.to_json(), f"Out of memory: going on with {self._choice}.")

    def score(self, lane: Lane, weights: Sequence[NDArray[Any]], x: Any, y: Any) -> Mapping[str, float]:
        """Return ``data_loss`` and the metrics on (x, y), in inference mode, with these weights."""
        programs = self._programs()
        state = programs.holding(weights, lane.seed)
        charged = programs.places.coefficients([lane.cell])
        rows = Rows(jnp.asarray(x), jnp.asarray(y))
        found = self._evaluate(state, charged, np.arange(len(x)), (1, 1), rows)
        return {name: float(value[0, 0]) for name, value in found.items()}

    def with_task(self, task: Task, lanes: Sequence[Lane]) -> JaxLoop:
        """Return a loop for other splits, epochs and stops, which runs the same programs."""
        loop = JaxLoop(task, lanes, self.choice)
        loop._crew, loop._made, loop._pace = self._crew, self._made, self._pace
        loop._here = self.resident()
        return loop

    def _programs(self) -> Lanes:
        return self._lowered(self.choice.lowering)

    def _lowered(self, lowering: Lowering) -> Lanes:
        if lowering not in self._made:
            self._made[lowering] = Lanes(self.task, lowering, self._crew)
        return self._made[lowering]

    # --- training -----------------------------------------------------------------------------------------

    def like(self, cohort: Cohort) -> Sequence[tuple[tuple[int, ...], Any]]:
        """Return the shapes and dtypes of a cohort's state."""
        return self._programs().like(len(cohort.seeds), len(cohort.cells))

    def side_by_side(
        self, work: Callable[[Item], Found], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Found]]:
        """Do ``work`` on as many items at once as were chosen."""
        return self._crew.map(work, items, self.choice.at_once)

    def advance(
        self, cohort: Cohort, leaves: Leaves | None, running: Sequence[Running], phase: Phase, save: Save
    ) -> Callable[[], Leaves]:
        """Train a phase of a cohort; return what gets its state."""
        programs, here = self._programs(), self._crew.here
        charged = jax.device_put(here(partial(programs.places.coefficients, cohort.cells)))
        if leaves is None:
            state = jax.device_put(here(partial(self._initial, cohort)))
        else:
            state = jax.device_put(programs.unflattened(leaves))
        saved = time.monotonic()
        for epoch in range(phase.start, phase.stop):
            state = self._epoch(state, charged, cohort, epoch)
            values = self._values(state, charged, cohort)
            here(partial(self._note, running, epoch, values, state, phase))
            running = [track for track in running if not track.ended]
            if not running:
                break
            if time.monotonic() - saved > _CHECKPOINT and epoch + 1 < phase.stop:
                here(partial(save, jax.device_get(jax.tree.leaves(state)), epoch + 1))
                saved = time.monotonic()
        for track in running if phase.last else ():
            if track.weights is None:
                track.weights = here(partial(programs.weights_of, state, track.place))
        return lambda: jax.device_get(jax.tree.leaves(state))

    def _initial(self, cohort: Cohort) -> State:
        starts = {cohort.place(lane): self._starts[lane] for lane in cohort.lanes if lane in self._starts}
        seeds = [drawn(seed, cohort.split) for seed in cohort.seeds]
        return self._programs().initial(seeds, cohort.cells, starts)

    def _note(
        self, running: Sequence[Running], epoch: int, values: Mapping[str, NDArray[Any]], state: State,
        phase: Phase,
    ) -> None:  # fmt: skip
        """Record an epoch of each lane that is still trained."""
        for track in running:
            record = Record(
                track.lane, epoch + 1, {name: float(v[track.place]) for name, v in values.items()}
            )
            weights = partial(self._programs().weights_of, state, track.place, final=False)
            track.add(record, self.task.early_stopping, weights)
            phase.on_epoch(record)

    def _epoch(self, state: State, charged: Any, cohort: Cohort, epoch: int) -> State:
        train = self.task.splits[cohort.split].train
        state = state._replace(sums=jnp.zeros_like(state.sums))
        seeds = [drawn(seed, cohort.split) for seed in cohort.seeds]
        order = np.stack([train[data_order(seed, epoch, len(train))] for seed in seeds])
        for batches in cut(order.astype(np.int32), self.task.batch_size):
            for rows, local, steps in self._feed(batches):
                for start, stop in self._pace.pieces(steps, ("train", *local.shape, cohort.size)):
                    self._crew.check()
                    state = self._programs().train(state, charged, rows, local, start, stop)
                    jax.block_until_ready(state)
        return state

    def _values(self, state: State, charged: Any, cohort: Cohort) -> dict[str, NDArray[Any]]:
        """Return everything that is recorded of an epoch, seeds × cells."""
        sums, split = np.asarray(state.sums, np.float64), self.task.splits[cohort.split]
        penalty, data_loss = sums[..., 0] / sums[..., 2], sums[..., 1] / sums[..., 2]
        values = {"loss": data_loss + penalty, "data_loss": data_loss, "penalty": penalty}
        for name, index in (("train", split.seen), ("val", split.validation)):
            found = self._evaluate(state, charged, index, sums.shape[:2])
            values |= {f"{name}_{metric}": value for metric, value in found.items()}
        return values

    def _evaluate(
        self, state: State, charged: Any, index: NDArray[Any], shape: Sequence[int], here: Rows | None = None
    ) -> dict[str, NDArray[Any]]:
        """Return every metric on the rows at ``index``, of the task or of ``here``."""
        programs = self._programs()
        metrics = programs.zero_metrics(*shape)
        for batches in cut(index.astype(np.int32), min(len(index), _EVALUATION_BATCH)):
            for rows, local, steps in self._feed(batches, here):
                inputs = rows._replace(weights=None)
                for start, stop in self._pace.pieces(steps, ("test", *local.shape, *shape)):
                    self._crew.check()
                    metrics = programs.test(metrics, state, charged, inputs, local, start, stop)
                    jax.block_until_ready(metrics)
        return {name: value for name, value in programs.results(metrics).items() if name != "loss"}

    # --- data on the device ---------------------------------------------------------------------------------

    def _feed(
        self, order: NDArray[Any], here: Rows | None = None
    ) -> Iterator[tuple[Rows, NDArray[Any], int]]:
        """Yield rows on the device, the order of batches in them, and how many batches that are.

        All at once where they fit; else piece by piece, in pieces of one shape. Either way the order is as
        long as it can be, so that one program serves splits of several sizes.
        """
        rows = self.resident() if here is None else here
        steps = order.shape[-2]
        if rows is not None:
            yield rows, _longer(order, max(steps, len(rows.y) // order.shape[-1])), steps
            return
        one = self.task.batch(order.reshape(-1)[:1])
        step = order.size // order.shape[-2] * sum(a.nbytes for a in one)
        size = max(1, min(order.shape[-2], _PIECE // step))
        for start in range(0, order.shape[-2], size):
            part = order[..., start : start + size, :]
            steps = part.shape[-2]
            part = _longer(part, size)
            local = np.arange(part.size, dtype=np.int32).reshape(part.shape)
            yield Rows(*map(jnp.asarray, self.task.batch(part.reshape(-1)))), local, steps

    def resident(self) -> Rows | None:
        """Return all rows on the device, or None where they would take too much of its memory."""
        task = self.task
        if self._here is None and len(task.x) * task.batch(np.zeros(1, np.intp))[0].nbytes <= memory():
            weights = None if task.weights is None else jnp.asarray(task.weights)
            self._here = Rows(jnp.asarray(task.scaled(task.x)), jnp.asarray(task.y), weights)
        return self._here

    # --- how lanes are run ----------------------------------------------------------------------------------

    def _measured(self) -> Choice:
        """Return the fastest way to run the lanes, trying others only where training takes long enough."""
        task = self.task
        costly, held = self._lowered(Lowering()).traced()
        cores = processors() if jax.devices()[0].platform == "cpu" else 0
        model = self._lowered(Lowering()).model
        first = first_choice(task, self.lanes, model, costly, held, memory(), cores, self._alone)
        steps = task.epochs * -(-len(task.splits[0].train) // task.batch_size) * len(self.lanes)
        times = {first: self._timed(first)}
        if times[first] * steps > _WORTH:
            for other in alternatives(first, self.lanes, costly, self._alone and cores > 0):
                times[other] = self._timed(other)
        return min(times, key=lambda choice: times[choice])

    def _timed(self, choice: Choice) -> float:
        """Return the seconds of one step of one lane, its compilation apart, where programs are as many."""
        cohort = cohorts(self.lanes, choice.lanes, choice.mix_seeds)[0]
        programs, here = self._lowered(choice.lowering), self._crew.here
        train = self.task.splits[cohort.split].train
        order = np.stack([train] * len(cohort.seeds)).astype(np.int32)
        rows, local, steps = next(self._feed(next(cut(order, self.task.batch_size))))

        def pace(_: int) -> float:
            state = jax.device_put(here(partial(programs.initial, cohort.seeds, cohort.cells)))
            charged = jax.device_put(here(partial(programs.places.coefficients, cohort.cells)))
            state = jax.block_until_ready(programs.train(state, charged, rows, local, 0, 1))
            done, begun = 0, time.monotonic()
            while time.monotonic() - begun < _TRIED:
                state = jax.block_until_ready(programs.train(state, charged, rows, local, 0, min(2, steps)))
                done += min(2, steps)
            return done * len(cohort.lanes) / (time.monotonic() - begun)

        found = self._crew.map(pace, range(choice.at_once), choice.at_once)
        return 1 / sum(steps for _, steps in found)


def memory() -> int:
    """Return the bytes that lanes, or rows, may take: a share of the device's memory, or the machine's."""
    device = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    whole = device or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return int(_SHARE * whole)


def _longer(order: NDArray[Any], batches: int) -> NDArray[Any]:
    """Return an order of so many batches, the last one repeated."""
    edges = [(0, 0)] * order.ndim
    edges[-2] = (0, batches - order.shape[-2])
    return np.pad(order, edges, mode="edge")


def cut(order: NDArray[Any], size: int) -> Iterator[NDArray[Any]]:
    """Yield the full batches of ``order`` along its last axis, and then the rest as a shorter one."""
    *before, n = order.shape
    full = n // size * size
    if full:
        yield order[..., :full].reshape(*before, -1, size)
    if full < n:
        yield order[..., full:].reshape(*before, 1, n - full)


class _Pace:
    """Cuts many steps into calls of about a second; how they are cut changes no bits."""

    def __init__(self) -> None:
        self._steps: dict[Any, float] = {}

    def pieces(self, steps: int, key: Any) -> Iterator[tuple[int, int]]:
        """Yield (start, stop) until all steps are done, longer or shorter as the last call took."""
        start = 0
        while start < steps:
            size = self._steps.get(key, 1)
            stop = min(steps, start + max(1, int(size)))
            begun = time.monotonic()
            yield start, stop
            if key not in self._steps:  # the first call compiled
                self._steps[key] = 2
            else:
                took = max(time.monotonic() - begun, 1e-6)
                self._steps[key] = min((stop - start) * _CALL / took, 8 * size)
            start = stop
