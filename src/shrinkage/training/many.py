"""Several loops as one: lanes of different networks, or trained in different ways, each by its own loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from shrinkage.training.task import Keep, Lane, Loop, Record, Result, Task, Wave


class ManyLoops:
    """Trains each lane by the loop of its cell; see :class:`shrinkage.training.task.Loop`.

    No loop knows of the others' lanes, so that what a lane is trained to depends on none of them.

    Parameters
    ----------
    parts
        The loops, each under the name by which a run directory keeps what it decided. The first one's task
        stands for the study: rows, splits and inputs are those of all.
    part_of
        Returns the name of the loop of a cell.
    """

    def __init__(self, parts: Mapping[str, Loop], part_of: Callable[[tuple[str, float | None]], str]) -> None:
        self.parts, self._part_of = parts, part_of
        self.task = next(iter(parts.values())).task

    def decide(self, stored: Mapping[str, Any] | None, keep: Keep, shelf: Any = None) -> str:
        """Let every loop decide how its lanes are run; return a line that says it of all."""
        kept = dict(stored or {})
        said: dict[str, int] = {}

        def keep_of(name: str) -> Keep:
            def keep_part(plan: Mapping[str, Any], line: str) -> None:
                kept[name] = plan
                keep(kept, line)

            return keep_part

        for name, loop in self.parts.items():
            line = loop.decide(kept.get(name), keep_of(name), shelf).removesuffix(".")
            said[line] = said.get(line, 0) + 1
        if len(said) == 1:
            return f"{next(iter(said))}; arms with other options apart, {len(self.parts)} programs in all."
        return "; ".join(f"{line} ({count} of {len(self.parts)} kinds)" for line, count in said.items()) + "."

    def run(
        self, lanes: Sequence[Lane], on_epoch: Callable[[Record], None], wave: Wave | None = None
    ) -> Iterator[Result]:
        """Train the lanes, one loop after the other; yield each when it ends."""
        for name, loop in self.parts.items():
            own = self._own(lanes, name)
            if own:
                yield from loop.run(own, on_epoch, None if wave is None else self._share(wave, name))

    def score(self, lane: Lane, weights: Sequence[NDArray[Any]], x: Any, y: Any) -> Mapping[str, float]:
        """Return ``data_loss`` and the metrics on (x, y), in inference mode, with these weights."""
        return self.parts[self._part_of((lane.arm, lane.strength))].score(lane, weights, x, y)

    def with_task(self, task: Task, lanes: Sequence[Lane]) -> Loop:
        """Return a loop of the part that trains these lanes, which are all of one; see `Loop.with_task`."""
        (name,) = {self._part_of((lane.arm, lane.strength)) for lane in lanes}
        return self.parts[name].with_task(task, lanes)

    def _own(self, lanes: Sequence[Lane], name: str) -> tuple[Lane, ...]:
        return tuple(lane for lane in lanes if self._part_of((lane.arm, lane.strength)) == name)

    def _share(self, wave: Wave, name: str) -> Wave:
        """Return what of a wave is one loop's: its lanes, as long as its own task trains."""
        task, lanes = self.parts[name].task, self._own(wave.lanes, name)
        scale = task.epochs / self.task.epochs  # a wave is told in the epochs of the first part
        epochs = max(1, round(wave.epochs * scale))
        scaled = {max(1, round(rung * scale)) for rung in wave.rungs}
        same = (wave.epochs, wave.rungs) == (self.task.epochs, self.task.rungs)
        rungs = task.rungs if same else tuple(sorted(rung for rung in scaled if rung < epochs))
        starts = {lane: wave.starts[lane] for lane in lanes if lane in wave.starts}
        return replace(wave, lanes=lanes, epochs=epochs, rungs=rungs, starts=starts)
