"""What a cohort needs to go on after a kill: its state and what its lanes have recorded, as plain arrays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from shrinkage.training.cohorts import Cohort
from shrinkage.training.task import Lane, Record, Result

Arrays = dict[str, NDArray[Any]]


class Shelf(Protocol):
    """Where checkpoints lie; each is replaced as a whole or not at all."""

    def read(self, name: str) -> Arrays | None:
        """Return a checkpoint, or None."""
        ...

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a checkpoint in the place of an older one."""
        ...

    def remove(self, name: str) -> None:
        """Remove a checkpoint, if there is one."""
        ...


@dataclass
class Running:
    """One lane of a cohort while it is trained."""

    lane: Lane
    place: tuple[int, int]
    records: list[Record] = field(default_factory=list)
    state: str = "complete"
    best: int = 0
    ended: bool = False
    weights: tuple[NDArray[Any], ...] | None = None

    def add(self, record: Record, patience: int | None, weights: Callable[..., Any]) -> None:
        """Take an epoch's record; end the lane if it diverged or no longer improves."""
        self.records.append(record)
        loss = record.values["val_data_loss"]
        if not np.isfinite([record.values["loss"], loss]).all():
            self.state, self.best, self.ended, self.weights = "diverged", record.epoch, True, None
        elif patience is not None:
            if not self.best or loss < self.records[self.best - 1].values["val_data_loss"]:
                self.best, self.weights = record.epoch, weights(self.place, final=False)
            else:
                self.ended = record.epoch - self.best >= patience

    def result(self, weights: Callable[..., Any]) -> Result:
        """Return what the lane has come to."""
        kept = weights(self.place) if self.weights is None else self.weights
        return Result(self.lane, self.state, self.best or len(self.records), tuple(self.records), kept)


def name_of(cohort: Cohort) -> str:
    """Return a name for a cohort's checkpoint: equal for equal blocks."""
    content = [cohort.split, cohort.seeds, cohort.cells]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]


def pack(leaves: Sequence[NDArray[Any]], running: Sequence[Running], epochs: int) -> Arrays:
    """Return a checkpoint: the cohort's state after ``epochs``, and the lanes that go on."""
    arrays = {f"state-{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    tracks = []
    for i, track in enumerate(running):
        tracks.append(
            {
                "place": track.place,
                "best": track.best,
                "records": [dict(record.values) for record in track.records],
                "weights": -1 if track.weights is None else len(track.weights),
            }
        )
        arrays |= {f"best-{i}-{j}": w for j, w in enumerate(track.weights or ())}
    return {
        **arrays,
        "lanes": np.array(json.dumps({"epochs": epochs, "states": len(leaves), "tracks": tracks})),
    }


def unpack(arrays: Arrays, cohort: Cohort) -> tuple[list[NDArray[Any]], list[Running], int]:
    """Return what :func:`pack` was given."""
    stored = json.loads(str(arrays["lanes"]))
    running = []
    for i, track in enumerate(stored["tracks"]):
        row, column = track["place"]
        arm, strength = cohort.cells[column]
        lane = Lane(arm, strength, cohort.seeds[row], cohort.split)
        records = [Record(lane, epoch + 1, values) for epoch, values in enumerate(track["records"])]
        best = (
            None if track["weights"] < 0 else tuple(arrays[f"best-{i}-{j}"] for j in range(track["weights"]))
        )
        running.append(Running(lane, (row, column), records, best=track["best"], weights=best))
    return [arrays[f"state-{i}"] for i in range(stored["states"])], running, stored["epochs"]
