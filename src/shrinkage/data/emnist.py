"""EMNIST: its six splits, from NIST's ``gzip.zip`` or ``matlab.zip``, packed or unpacked.

Both archives hold the same images transposed: idx rows run down the columns of the glyph, and the
matrices for MATLAB are flattened column by column. Both are given upright here, which takes the same
exchange of the two image axes; it is done in place, block by block, so that no second copy is held.
"""

from __future__ import annotations

import math
import string
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.data.formats.bounded import row_chunks
from shrinkage.data.formats.idx import read_idx
from shrinkage.data.formats.mat import MatValue, read_mat
from shrinkage.data.places import Opener, Place
from shrinkage.errors import DataError

_MAPPING_BYTES = 2**16
_BYCLASS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_BYMERGE = string.digits + string.ascii_uppercase + "abdefghnqrt"

SPLITS: dict[str, tuple[str, ...]] = {
    "balanced": tuple(_BYMERGE),
    "byclass": tuple(_BYCLASS),
    "bymerge": tuple(_BYMERGE),
    "letters": tuple(upper + upper.lower() for upper in string.ascii_uppercase),
    "digits": tuple(string.digits),
    "mnist": tuple(string.digits),
}
"""The splits and their classes; those of ``letters`` are both cases of a letter, as in ``Aa``."""


def idx_names(split: str) -> tuple[str, str, str, str]:
    """Names of the four idx files of a split: training images and labels, test images and labels."""
    base = f"emnist-{split}"
    return (
        f"{base}-train-images-idx3-ubyte",
        f"{base}-train-labels-idx1-ubyte",
        f"{base}-test-images-idx3-ubyte",
        f"{base}-test-labels-idx1-ubyte",
    )


def find_emnist(split: str, folder: Path) -> tuple[Place, bool] | None:
    """Find a split below ``folder``; the flag says whether it is in MATLAB's format."""
    roots = (folder / "emnist", folder)
    for kind, names, mat in (("gzip", idx_names(split), False), ("matlab", (f"emnist-{split}.mat",), True)):
        for root in roots:
            for place in (Place(root / kind), Place(root), Place(root / f"{kind}.zip")):
                exists = place.is_zip or place.folder.is_dir()
                if exists and not place.missing(names):
                    return place, mat
    return None


def read_emnist(split: str, place: Place, *, mat: bool) -> dict[str, Any]:
    """Read a split.

    Parameters
    ----------
    split
        One of `SPLITS`.
    place
        Where its files are.
    mat
        Whether to read ``emnist-SPLIT.mat`` rather than the four idx files.

    Returns
    -------
    dict
        ``x_train``, ``x_test`` uint8 of shape N×28×28×1, upright; ``y_train``, ``y_test`` int32 from 0;
        ``labels``, one character a class (two for ``letters``). The peak of memory is the arrays' size
        plus about 64 MiB, for either format.

    Raises
    ------
    DataError
        For damaged files, and labels that the mapping doesn't know.
    """
    with place.listing() as files:
        return _read_mat(split, files) if mat else _read_idx(split, files)


def _read_idx(split: str, files: dict[str, Opener]) -> dict[str, Any]:
    arrays: list[NDArray[Any]] = []
    for name in idx_names(split):
        with files[name].open() as stream:
            arrays.append(read_idx(stream))
    x_train, y_train, x_test, y_test = arrays
    del arrays
    mapping = _builtin_mapping(split)
    name = f"emnist-{split}-mapping.txt"
    if name in files:
        with files[name].open() as stream:
            mapping = _parse_mapping(stream.read_text(_MAPPING_BYTES), stream.what)
    what = f"EMNIST {split}"
    return _assemble(what, _upright(x_train, what), y_train, _upright(x_test, what), y_test, mapping)


def _read_mat(split: str, files: dict[str, Opener]) -> dict[str, Any]:
    with files[f"emnist-{split}.mat"].open() as stream:
        what = stream.what
        root = read_mat(stream, "dataset")
    train, test = _field(root, "train", what), _field(root, "test", what)
    mapping = _builtin_mapping(split)
    if isinstance(root, dict) and (table := root.get("mapping")) is not None:
        rows = _whole(_matrix(table, "mapping", what), what)[:_MAPPING_BYTES].tolist()
        mapping = _parse_mapping("\n".join(" ".join(map(str, row)) for row in rows), what)
    images, labels = [], []
    for part in (train, test):
        images.append(_upright(_matrix(_field(part, "images", what), "images", what), what))
        labels.append(_matrix(_field(part, "labels", what), "labels", what).reshape(-1))
    return _assemble(what, images[0], labels[0], images[1], labels[1], mapping)


def _field(value: MatValue, name: str, what: str) -> MatValue:
    if not isinstance(value, dict) or value.get(name) is None:
        raise DataError(f"{what} is not EMNIST's: its struct has no field {name!r}.")
    return value[name]


def _matrix(value: MatValue, name: str, what: str) -> NDArray[Any]:
    if not isinstance(value, np.ndarray) or value.ndim != 2:
        raise DataError(f"{what} is not EMNIST's: its field {name!r} is not a matrix of numbers.")
    return value


def _whole(values: NDArray[Any], what: str) -> NDArray[Any]:
    """Return whole numbers as integers: MATLAB keeps labels as doubles."""
    if values.dtype.kind == "f":
        if (
            not np.isfinite(values).all()
            or (values != np.floor(values)).any()
            or np.abs(values).max() > 2**31
        ):
            raise DataError(f"{what}: labels must be whole numbers.")
        return values.astype(np.int64)
    return values


def _upright(images: NDArray[Any], what: str) -> NDArray[Any]:
    """Exchange the image axes of N×S×S or N×S² uint8 images in place; return N×S×S×1."""
    side = images.shape[1] if images.ndim == 3 else math.isqrt(images[:1].size)
    if images.dtype != np.uint8 or images[:1].size != side * side:
        raise DataError(f"{what}: square uint8 images are expected; found {images.dtype} {images.shape}.")
    square = images.reshape(-1, side, side)
    for rows in row_chunks(square):
        square[rows] = square[rows].transpose(0, 2, 1).copy()
    return square[..., np.newaxis]


def _builtin_mapping(split: str) -> dict[int, str]:
    return dict(enumerate(SPLITS[split], start=int(split == "letters")))


def _parse_mapping(text: str, what: str) -> dict[int, str]:
    """Parse lines of a label and one or two ASCII codes (``letters``: upper and lower case)."""
    mapping: dict[int, str] = {}
    for line in filter(None, map(str.strip, text.splitlines())):
        words = line.split()
        if not 2 <= len(words) <= 3 or not all(word.isdigit() and len(word) <= 3 for word in words):
            raise DataError(
                f"{what}: a line of the mapping reads {line[:40]!r}; a label and ASCII codes are expected."
            )
        label, *codes = (int(word) for word in words)
        if any(not 33 <= code <= 126 for code in codes) or label in mapping:
            raise DataError(
                f"{what}: a line of the mapping reads {line[:40]!r}, which names no character of its own."
            )
        mapping[label] = "".join(map(chr, codes))
    first = min(mapping, default=-1)
    names = set(mapping.values())
    if first not in (0, 1) or max(mapping) != first + len(mapping) - 1 or len(names) != len(mapping):
        raise DataError(
            f"{what}: the mapping must number different characters from 0 or 1 on, without a gap."
        )
    return mapping


def _assemble(
    what: str,
    x_train: NDArray[Any],
    y_train: NDArray[Any],
    x_test: NDArray[Any],
    y_test: NDArray[Any],
    mapping: dict[int, str],
) -> dict[str, Any]:
    first = min(mapping)
    targets = []
    for y in (_whole(y_train, what), _whole(y_test, what)):
        low, high = int(y.min()), int(y.max())
        if low < first or high > max(mapping):
            raise DataError(
                f"{what} has labels {low} to {high}, but its mapping goes from {first} to {max(mapping)}."
            )
        targets.append(y.astype(np.int32) - first)
    labels = tuple(mapping[k] for k in sorted(mapping))
    return {
        "x_train": x_train,
        "y_train": targets[0],
        "x_test": x_test,
        "y_test": targets[1],
        "labels": labels,
    }
