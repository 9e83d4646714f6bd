"""CIFAR-10's binary batches: one label byte and three 32×32 planes a record."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.data.formats.archive import walk_tar
from shrinkage.data.formats.bounded import MAX_BYTES, Stream, byte_view, new_array, open_stream
from shrinkage.errors import DataError

TRAIN_BATCHES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST_BATCH = "test_batch.bin"
META = "batches.meta.txt"
SIDE, CHANNELS = 32, 3
RECORD = 1 + CHANNELS * SIDE * SIDE
_META_BYTES = 2**16
_ROWS = 4096

_Batch = tuple[NDArray[Any], NDArray[Any]]


def read_cifar(path: Path) -> dict[str, Any]:
    """Read the six batches from ``cifar-10-binary.tar.gz`` or from the folder that it unpacks to.

    Parameters
    ----------
    path
        The archive or the folder.

    Returns
    -------
    dict
        ``x_train``, ``x_test`` uint8 of shape N×32×32×3; ``y_train``, ``y_test`` int32 of shape N;
        ``labels``, the ten names, if ``batches.meta.txt`` is there.

    Raises
    ------
    DataError
        If a batch is missing, or not a whole number of records.
    """
    batches: dict[str, _Batch] = {}
    labels: tuple[str, ...] = ()
    members = _folder_members(path) if path.is_dir() else walk_tar(path)
    for member, size, stream in members:
        name = member.rsplit("/", 1)[-1]
        if name == META:
            labels = _read_labels(stream, size)
        elif name in (*TRAIN_BATCHES, TEST_BATCH):
            if name in batches:
                raise DataError(f"{path} holds {name} twice.")
            batches[name] = _read_batch(stream, name, size)
    missing = [name for name in (*TRAIN_BATCHES, TEST_BATCH) if name not in batches]
    if missing:
        raise DataError(f"{path} is not CIFAR-10's binary version: {', '.join(missing)} missing.")
    x_test, y_test = batches.pop(TEST_BATCH)
    x_train, y_train = _joined([batches.pop(name) for name in TRAIN_BATCHES], str(path))
    out: dict[str, Any] = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    if labels:
        out["labels"] = labels
    return out


def _folder_members(folder: Path) -> Iterable[tuple[str, int, Stream]]:
    for name in (*TRAIN_BATCHES, TEST_BATCH, META):
        if (folder / name).is_file():
            with open_stream(folder / name) as stream:
                yield name, stream.limit, stream


def _read_labels(stream: Stream, size: int) -> tuple[str, ...]:
    if size > _META_BYTES:
        raise DataError(f"{stream.what} has a {META} of {size} bytes.")
    text = stream.read(size).decode("utf-8", "replace")
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != 10 or len(set(names)) != 10:
        raise DataError(
            f"{META} in {stream.what} must hold ten different names; it holds {len(names)} lines."
        )
    return names


def _read_batch(stream: Stream, name: str, size: int) -> _Batch:
    count, rest = divmod(size, RECORD)
    if rest or not count:
        raise DataError(f"{name} in {stream.what} has {size} bytes, not a multiple of {RECORD}.")
    stream.expect(size)
    x = new_array((count, SIDE, SIDE, CHANNELS), np.dtype(np.uint8), stream.what)
    y = np.empty(count, np.int32)
    buffer = np.empty((min(_ROWS, count), RECORD), np.uint8)
    for low in range(0, count, _ROWS):
        rows = buffer[: min(_ROWS, count - low)]
        stream.fill(byte_view(rows))
        y[low : low + len(rows)] = rows[:, 0]
        planes = rows[:, 1:].reshape(-1, CHANNELS, SIDE, SIDE)
        x[low : low + len(rows)] = planes.transpose(0, 2, 3, 1)
    if y.max() > 9:
        raise DataError(f"{name} in {stream.what} has a label {y.max()}; CIFAR-10 has ten classes.")
    return x, y


def _joined(batches: list[_Batch], what: str) -> _Batch:
    """Join batches; each is let go as soon as it is copied, so that the whole is never held twice."""
    total = sum(len(y) for _, y in batches)
    if total * RECORD > MAX_BYTES:
        raise DataError(f"{what} holds {total} images, too many.")
    x = np.empty((total, SIDE, SIDE, CHANNELS), np.uint8)
    y = np.empty(total, np.int32)
    low = 0
    batches.reverse()
    while batches:
        part_x, part_y = batches.pop()
        x[low : low + len(part_y)], y[low : low + len(part_y)] = part_x, part_y
        low += len(part_y)
        del part_x, part_y
    return x, y
