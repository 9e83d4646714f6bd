"""One directory a run: what lies in it, and how nothing of it is lost.

A trial's curve and weights are stored before its row in the database, and a trial is finished when that row
is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shrinkage.errors import RunError
from shrinkage.study.files import UNFINISHED, remove, write_atomically, write_json
from shrinkage.study.records import as_json

if TYPE_CHECKING:  # what is stored can be read where no backend of Keras is installed
    from shrinkage.study.design import Trial

_LOCK = ".shrinkage-lock"  # stays, and says that a run was begun here
# What a run writes, in the order in which it is removed: a kill in between leaves a directory that still
# says what it is, and can be removed or resumed.
_OWN = (
    "study.db",
    "study.db-journal",
    "summary.json",
    "report.html",
    "pictures.npz",
    "run.json",
    "test.json",
    "plan.json",
    "search.json",
    "descents.json",
    "checkpoints",
    "validation_curve.png",
    "learning_curves.png",
    "curves",
    "models",
    "refit",
    "nested",
    "inputs",
    "study.toml",
)


class RunDirectory:
    """The files of one run.

    Parameters
    ----------
    path
        The directory; made on first writing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "study.toml"
        self.database = path / "study.db"  # unless the study names another storage
        self.summary = path / "summary.json"
        self.report = path / "report.html"
        self.provenance = path / "run.json"
        self.pictures = path / "pictures.npz"
        self.models = path / "models"
        self.plan = path / "plan.json"  # how the trials are trained: what the last bits depend on
        self.search = path / "search.json"  # what the strategy has asked for
        self.descents = path / "descents.json"  # what the hypergradient has proposed
        self.checkpoints = Checkpoints(path / "checkpoints")

    @property
    def exists(self) -> bool:
        """Whether a study was begun here."""
        return self.spec.exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory: one driver at a time. The lock falls with the process, however it ends.

        Raises
        ------
        RunError
            If another process holds it, or the directory holds something else.
        """
        self._refuse_foreign()
        lock = filelock.FileLock(self.path / _LOCK, timeout=0)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except filelock.Timeout:
            raise RunError(f"Another process is running the study in {str(self.path)!r}.") from None
        except OSError as error:
            reason = error.strerror or error
            raise RunError(f"The run directory {str(self.path)!r} can't be written: {reason}.") from None
        try:
            self._sweep()
            yield
        finally:
            lock.release()

    def _refuse_foreign(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{str(self.path)!r} is a file; give a directory for the run.")
        # A folder that holds somebody's study.toml is no run directory yet: a run has a lock or a database.
        begun = (self.path / _LOCK).exists()
        if not self.path.is_dir() or (self.exists and (begun or self.database.exists())):
            return
        own = _OWN if begun else ()
        foreign = sorted(
            p.name for p in self.path.iterdir() if p.name not in own and not p.name.startswith(".")
        )
        if foreign:
            raise RunError(
                f"{str(self.path)!r} holds {foreign[0]!r} and is no run directory; give a new or empty one."
            )

    def _sweep(self) -> None:
        """Remove what a killed run was writing."""
        for folder in (
            self.path,
            self.path / "curves",
            self.models,
            self.path / "inputs",
            self.checkpoints.path,
        ):
            for path in folder.glob(f"{UNFINISHED}*"):
                remove(path)

    def part(self, name: str) -> RunDirectory:
        """Return a folder inside for a training apart, laid out alike; who holds this one holds it too."""
        inside = RunDirectory(self.path / name)
        inside._sweep()
        return inside

    def clear(self, keep_inputs: bool = False) -> None:
        """Remove what a run has written here, and nothing else; a study may begin anew from its inputs."""
        for name in _OWN:
            if not (keep_inputs and name == "inputs"):
                remove(self.path / name)

    def curve(self, key: str) -> Path:
        """Return where a trial's curve is."""
        return self.path / "curves" / f"{key}.parquet"

    def write_curve(self, trial: Trial, rows: Sequence[Mapping[str, float]]) -> None:
        """Store a trial's curve: one row an epoch."""
        frame = pd.DataFrame(rows)
        for column in reversed(("arm", "strength", "seed", "fold")):
            value = getattr(trial, column)
            frame.insert(0, column, np.nan if value is None else value)
        write_atomically(self.curve(trial.key), lambda file: frame.to_parquet(file, index=False))

    def curves(self, keys: Sequence[str]) -> pd.DataFrame:
        """Return the curves of these trials, one row a trial and epoch."""
        parts = [pd.read_parquet(self.curve(key)) for key in keys if self.curve(key).exists()]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def epochs(self, key: str) -> int:
        """Return how many epochs a trial was trained; 0 if it has no curve."""
        from pyarrow import parquet

        return parquet.read_metadata(self.curve(key)).num_rows if self.curve(key).exists() else 0

    def weights(self, key: str) -> Path:
        """Return where a trial's weights are kept while they may still be asked for."""
        return self.models / f"{key}.npz"

    def write_weights(self, key: str, weights: Sequence[NDArray[Any]]) -> None:
        """Store a trial's weights, in the order of ``model.get_weights()``."""
        # NumPy's format does not know bfloat16; float32 holds each of its values.
        plain = [
            w if w.dtype.kind != "V" and w.dtype.name != "bfloat16" else w.astype("float32") for w in weights
        ]
        write_atomically(self.weights(key), lambda file: np.savez(file, *plain))

    def read_weights(self, key: str) -> tuple[NDArray[Any], ...] | None:
        """Return a trial's weights, or None if they are not kept."""
        if not self.weights(key).exists():
            return None
        with np.load(self.weights(key), allow_pickle=False) as stored:
            return tuple(stored[f"arr_{i}"] for i in range(len(stored.files)))

    def keep_weights(self, keys: Sequence[str]) -> None:
        """Remove the weights of all trials but these."""
        for path in self.models.glob("*.npz") if self.models.exists() else ():
            if path.stem not in keys:
                path.unlink(missing_ok=True)

    def write_pictures(self, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """Store sets of images by name."""
        write_atomically(self.pictures, lambda file: np.savez_compressed(file, **pictures))  # type: ignore[arg-type]

    def read_pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Return the sets of images by name; none if none are stored."""
        if not self.pictures.exists():
            return {}
        with np.load(self.pictures, allow_pickle=False) as stored:
            return dict(stored)

    def read_json(self, path: Path) -> Any:
        """Return what one of the directory's JSON files holds, or None if there is none."""
        return json.loads(path.read_text()) if path.exists() else None

    def test_scores(self) -> dict[str, dict[str, float]]:
        """Return the test scores by trial key; what is no finite number is NaN."""
        stored = self.read_json(self.path / "test.json") or {}
        return {
            key: {name: math.nan if value is None else value for name, value in scores.items()}
            for key, scores in stored.items()
        }

    def write_test_scores(self, scores: Mapping[str, Mapping[str, float]]) -> None:
        """Store the test scores by trial key."""
        write_json(self.path / "test.json", as_json(scores))


class Checkpoints:
    """Where a loop keeps what it needs to go on in the middle of a trial; removed when it is over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npz"

    def read(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Return a checkpoint, or None."""
        if not self._file(name).exists():
            return None
        with np.load(self._file(name), allow_pickle=False) as stored:
            return dict(stored)

    def write(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Store a checkpoint in the place of an older one."""
        write_atomically(self._file(name), lambda file: np.savez(file, **arrays))  # type: ignore[arg-type]

    def remove(self, name: str) -> None:
        """Remove a checkpoint, if there is one."""
        self._file(name).unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all checkpoints."""
        remove(self.path)
