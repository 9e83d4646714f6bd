"""The idx format: the published files of MNIST, Fashion-MNIST and EMNIST."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.data.formats.bounded import Stream, fill_array, open_stream
from shrinkage.errors import DataError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MAX_AXES = 4


def read_idx(source: Path | Stream) -> NDArray[Any]:
    """Read one idx array.

    Parameters
    ----------
    source
        A file, plain or gzip-compressed (told by its content), or an open stream.

    Returns
    -------
    numpy.ndarray
        Shape and type as declared by the header, C-contiguous, in the machine's byte order.

    Raises
    ------
    DataError
        If the header isn't one, or the data are not exactly as long as it declares.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "labels-idx1-ubyte"
    >>> _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3]) + bytes([7, 2, 1]))
    >>> read_idx(path).tolist()
    [7, 2, 1]
    """
    if isinstance(source, Path):
        with open_stream(source) as stream:
            return read_idx(stream)
    zeros, code, axes = source.read(2), source.read(1)[0], source.read(1)[0]
    if zeros != b"\0\0" or code not in _TYPES or not 1 <= axes <= _MAX_AXES:
        raise DataError(
            f"{source.what} is not an idx file: its first four bytes are not an idx magic number."
        )
    shape = [int.from_bytes(source.read(4), "big") for _ in range(axes)]
    out = fill_array(source, shape, np.dtype(_TYPES[code]))
    source.end()
    return out
