"""What a cohort needs to go on after a kill: its state and what its lanes have recorded, as plain arrays."""

from __future__ import annotations

import hashlib
import json
import math
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

    def add(self, record: Record, patience: int | None, weights: Callable[[], Any]) -> None:
        """Take an epoch's record; end the lane if it diverged or no longer improves."""
        self.records.append(record)
        loss = record.values["val_data_loss"]
        if not np.isfinite([record.values["loss"], loss]).all():
            self.state, self.best, self.ended, self.weights = "diverged", record.epoch, True, ()
        elif patience is not None:
            if not self.best or loss < self.records[self.best - 1].values["val_data_loss"]:
                self.best, self.weights = record.epoch, weights()
            else:
                self.ended = record.epoch - self.best >= patience

    def score(self, early_stopping: bool) -> float:
        """Return the validation data loss that counts so far; infinite if the lane diverged."""
        epoch = self.best if early_stopping else len(self.records)
        loss = self.records[epoch - 1].values["val_data_loss"]
        return loss if math.isfinite(loss) and self.state != "diverged" else math.inf

    def result(self) -> Result:
        """Return what the lane has come to."""
        best = self.best or len(self.records)
        return Result(self.lane, self.state, best, tuple(self.records), self.weights or ())


def name_of(cohort: Cohort, epochs: int) -> str:
    """Return a name for the checkpoint of a cohort that began after ``epochs``: equal for equal blocks."""
    # Without ratios, as before there were any: what an older release left is taken up again.
    cells = [cell if cell.ratios else cell[:2] for cell in cohort.cells]
    content = [epochs, cohort.split, cohort.seeds, cells]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]


class Memory(dict[str, "Arrays"]):
    """A shelf that ends with the process."""

    def read(self, name: str) -> Arrays | None:
        """Return a checkpoint, or None."""
        return self.get(name)

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a checkpoint in the place of an older one."""
        self[name] = dict(arrays)

    def remove(self, name: str) -> None:
        """Remove a checkpoint, if there is one."""
        self.pop(name, None)


def pack(leaves: Sequence[NDArray[Any]], running: Sequence[Running], epochs: int) -> Arrays:
    """Return a checkpoint: the cohort's state after ``epochs``, and how its lanes fared."""
    arrays = {f"state-{i}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
    tracks = []
    for i, track in enumerate(running):
        tracks.append(
            {
                "place": track.place,
                "state": track.state,
                "ended": track.ended,
                "best": track.best,
                "records": [dict(record.values) for record in track.records],
                "weights": -1 if track.weights is None else len(track.weights),
            }
        )
        arrays |= {f"best-{i}-{j}": w for j, w in enumerate(track.weights or ())}
    types = [leaf.dtype.name for leaf in leaves]  # NumPy's format knows bfloat16 by its size alone
    held = {"epochs": epochs, "states": types, "tracks": tracks}
    return {**arrays, "lanes": np.array(json.dumps(held))}


def unpack(arrays: Arrays, cohort: Cohort) -> tuple[list[NDArray[Any]], list[Running], int]:
    """Return what :func:`pack` was given."""
    stored = json.loads(str(arrays["lanes"]))
    running = []
    for i, track in enumerate(stored["tracks"]):
        row, column = track["place"]
        lane = cohort.cells[column].lane(cohort.seeds[row], cohort.split)
        records = [Record(lane, epoch + 1, values) for epoch, values in enumerate(track["records"])]
        best = (
            None if track["weights"] < 0 else tuple(arrays[f"best-{i}-{j}"] for j in range(track["weights"]))
        )
        place, fate = (row, column), (track["state"], track["best"], track["ended"])
        running.append(Running(lane, place, records, *fate, weights=best))
    leaves = [arrays[f"state-{i}"].view(np.dtype(name)) for i, name in enumerate(stored["states"])]
    return leaves, running, stored["epochs"]
