"""Progress for programs: one JSON object a line, as docs/studies.md describes them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from shrinkage.study.design import Trial
from shrinkage.study.spec import StudySpec
from shrinkage.training.task import Record, Result


class JsonLines:
    """Writes what happens in a run as JSON objects, each on a line of its own that is flushed at once.

    Parameters
    ----------
    file
        Where to.

    Examples
    --------
    >>> import sys
    >>> JsonLines(sys.stdout).say("Training with Keras's fit.")
    {"event": "say", "text": "Training with Keras's fit."}
    """

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._done = 0
        self._folds = False

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Write the study's name, how many trials there are, and how many were found finished."""
        self._done, self._folds = len(found), spec.split_count > 1
        epochs = spec.training.epochs
        self._write("begin", {"name": spec.name, "trials": total, "done": self._done, "epochs": epochs})

    def say(self, line: str) -> None:
        """Write a sentence."""
        self._write("say", {"text": line})

    def more(self, total: int, why: str) -> None:
        """Write that a search goes on, and how many trials there are now."""
        self._write("more", {"trials": total, "why": why})

    def epoch(self, record: Record) -> None:
        """Write the values of an epoch."""
        lane = record.lane
        fold = lane.split if self._folds else -1
        which = {"arm": lane.arm, "strength": lane.strength, "seed": lane.seed, "fold": fold}
        self._write("epoch", {**which, "epoch": record.epoch, "values": _finite(record.values)})

    def trial(self, trial: Trial, result: Result) -> None:
        """Write how a trial ended, and the values of its epoch that counts."""
        self._done += 1
        which = {"arm": trial.arm, "strength": trial.strength, "seed": trial.seed, "fold": trial.fold}
        how = {"state": result.state, "epochs": len(result.records), "best": result.best}
        self._write("trial", {**which, **how, "values": _finite(result.values), "done": self._done})

    def end(self, directory: Path) -> None:
        """Write where the run and its summary are."""
        self._write("end", {"directory": str(directory), "summary": str(directory / "summary.json")})

    def _write(self, event: str, content: Mapping[str, Any]) -> None:
        print(json.dumps({"event": event, **content}, allow_nan=False), file=self._file, flush=True)


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
