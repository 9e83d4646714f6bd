"""Curves for TensorBoard: an event file a trial, written while the trial is trained.

TensorFlow is not needed: TensorBoard's own package brings the format.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shrinkage.errors import RunError, ShrinkageError
from shrinkage.study.observers import Silent
from shrinkage.study.spec import StudySpec
from shrinkage.training.task import Lane, Record

_LENGTH = 60  # characters of an arm's name that its folder has: 240 bytes at most


class TensorBoard(Silent):
    """Writes each trial's values by epoch, a TensorBoard run a trial: ``ARM/STRENGTH/seed-SEED``.

    Only epochs that are trained while it observes are written. A trial that is taken up again in the same
    folder goes on there: its values from that epoch on replace those of the run before.

    Parameters
    ----------
    directory
        TensorBoard's ``--logdir``; made if there is none. Not the run directory itself.

    Raises
    ------
    ShrinkageError
        If TensorBoard is not installed.

    Examples
    --------
    >>> import tempfile
    >>> spec = StudySpec.parse({"data": "digits", "model": "shrinkage.models:mlp", "arms": []})
    >>> folder = Path(tempfile.mkdtemp())
    >>> board = TensorBoard(folder)  # as in study.run("runs/mine", observer=board), which calls:
    >>> board.begin(spec, 5, [])
    >>> board.epoch(Record(Lane("none", None, seed=0), 1, {"loss": 0.5, "val_data_loss": 0.6}))
    >>> [path.parent.relative_to(folder).as_posix() for path in folder.rglob("*tfevents*")]
    ['none/seed-0']
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        try:
            import tensorboard.summary.writer.record_writer  # noqa: F401
        except ImportError as error:
            raise ShrinkageError(
                "Writing for TensorBoard needs its package, which can't be loaded: pip install tensorboard."
            ) from error
        self._directory = Path(directory)
        self._folders: Mapping[str, str] = {}
        self._folds = False
        self._files: dict[Lane, tuple[Path, int]] = {}  # and the last epoch in it

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Make the directory.

        Raises
        ------
        RunError
            If that is not possible.
        """
        self._folders = folders([arm.name for arm in spec.all_arms])
        self._folds = spec.split_count > 1
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or error
            raise RunError(
                f"TensorBoard's directory {str(self._directory)!r} can't be made: {reason}."
            ) from None

    def epoch(self, record: Record) -> None:
        """Write the values of an epoch."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary

        now, events = time.time(), []
        path, last = self._files.get(record.lane, (None, 0))
        if path is None:
            path = self._file(record.lane)
            events.append(Event(wall_time=now, file_version="brain.Event:2"))
        if len(events) or record.epoch != last + 1:  # what an earlier attempt wrote from here on is void
            start = SessionLog(status=SessionLog.START)
            events.append(Event(wall_time=now, step=record.epoch, session_log=start))
        values = [Summary.Value(tag=name, simple_value=value) for name, value in record.values.items()]
        events.append(Event(wall_time=now, step=record.epoch, summary=Summary(value=values)))
        _append(path, events)
        self._files[record.lane] = path, record.epoch

    def _file(self, lane: Lane) -> Path:
        folder = self._directory / self._folders[lane.arm]
        if lane.strength is not None:
            folder /= repr(float(lane.strength))
        folder /= f"seed-{lane.seed}-fold-{lane.split}" if self._folds else f"seed-{lane.seed}"
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a run in the order of their names.
        return folder / f"events.out.tfevents.{time.time_ns():019d}.{os.getpid()}"


def _append(path: Path, events: Iterable[Any]) -> None:
    """Add events to a file, which is not kept open: a study may train a thousand trials at once."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    with path.open("ab") as file:
        writer = RecordWriter(file)
        for event in events:
            writer.write(event.SerializeToString())


def folders(names: Sequence[str]) -> dict[str, str]:
    """Return a folder for each arm: a name of its own on any file system, which leads nowhere else.

    Examples
    --------
    >>> folders(["L2 kernel+bias", "../up", "l1", "L1"])
    {'L2 kernel+bias': 'L2-kernel+bias', '../up': 'up', 'l1': 'l1', 'L1': 'L1-2'}
    """
    found: dict[str, str] = {}
    for name in names:
        kept = "".join(c if c.isalnum() or c in "+-_." else "-" for c in name).strip("-.")
        folder = kept = kept[:_LENGTH].rstrip("-.") or "arm"
        taken, turn = {other.casefold() for other in found.values()}, 1
        while folder.casefold() in taken:
            turn += 1
            folder = f"{kept}-{turn}"
        found[name] = folder
    return found
