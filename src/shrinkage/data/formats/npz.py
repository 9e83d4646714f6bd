"""NumPy's npz archives, read without ever unpickling."""

from __future__ import annotations

import io
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from shrinkage.data.formats.archive import ZipArchive
from shrinkage.data.formats.bounded import Stream, damage_reported, fill_array
from shrinkage.errors import DataError, did_you_mean

_MAGIC = b"\x93NUMPY"
_MAX_HEADER = 10_000
_KINDS = "biufUS"


def read_npz(
    path: Path, *, required: Collection[str], optional: Collection[str] = ()
) -> dict[str, NDArray[Any]]:
    """Read named arrays of an ``.npz`` file.

    Parameters
    ----------
    path
        The file, written by `numpy.savez` or `numpy.savez_compressed`.
    required, optional
        Names of arrays; others are left alone.

    Returns
    -------
    dict of str to numpy.ndarray
        C-contiguous arrays of booleans, numbers or fixed-width text.

    Raises
    ------
    DataError
        If a required array is missing, or one of them is damaged, holds Python objects, or declares
        more data than the archive holds.
    """
    with ZipArchive(path) as archive:
        present = {name.removesuffix(".npy"): name for name in archive.names if name.endswith(".npy")}
        for key in required:
            if key not in present:
                have = ", ".join(sorted(present)[:20]) or "nothing"
                raise DataError(
                    f"{path} has no array {key!r}; it holds {have}. Needed are {', '.join(required)}."
                    f"{did_you_mean(key, present)}"
                )
        out: dict[str, NDArray[Any]] = {}
        for key in (*required, *optional):
            if key in present:
                with archive.open(present[key]) as stream:
                    out[key] = _read_npy(stream)
        return out


def _read_npy(stream: Stream) -> NDArray[Any]:
    shape, fortran, dtype = _read_header(stream)
    if dtype.hasobject:
        raise DataError(
            f"{stream.what} holds pickled Python objects, which are never loaded; save it as numbers or text."
        )
    if dtype.kind not in _KINDS or dtype.subdtype is not None or not dtype.itemsize:
        raise DataError(f"{stream.what} holds values of type {dtype}; numbers, booleans and text are read.")
    if not shape:
        raise DataError(f"{stream.what} holds a single value where an array belongs.")
    out = fill_array(stream, shape, dtype, fortran=fortran)
    stream.end()
    return out


def _read_header(stream: Stream) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read shape, order and type, with a bound on the header's length before it is read."""
    magic = stream.read(len(_MAGIC) + 2)
    width = {1: 2, 2: 4}.get(magic[-2])
    if not magic.startswith(_MAGIC) or width is None:
        raise DataError(f"{stream.what} is not a NumPy array of format 1 or 2.")
    length = stream.read(width)
    size = int.from_bytes(length, "little")
    if size > _MAX_HEADER:
        raise DataError(f"{stream.what} declares a header of {size} bytes; at most {_MAX_HEADER} are read.")
    text = io.BytesIO(length + stream.read(size))
    parse = npy.read_array_header_1_0 if width == 2 else npy.read_array_header_2_0
    # Files of Python 2 draw a warning from NumPy; they are as good as any.
    with damage_reported(stream.what), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shape, fortran, dtype = parse(text, max_header_size=_MAX_HEADER)
        return tuple(int(n) for n in shape), bool(fortran), dtype
