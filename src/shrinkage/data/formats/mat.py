"""MATLAB 5 files, the format of EMNIST's ``matlab.zip``.

A parser of our own rather than `scipy.io.loadmat`: MATLAB stores a matrix column by column, and
turning a matrix of images into rows takes a second copy of all of them unless it is done while reading.
Only what data sets are made of is kept: real numeric matrices, and structs of them. Cells, text, objects,
functions and sparse matrices are passed over by their declared length, and nothing in a file is executed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias, Union

import numpy as np
from numpy.typing import NDArray

from shrinkage.data.formats.bounded import Inflate, Stream, fill_array, open_stream, unfolded_limit
from shrinkage.errors import DataError

MatValue: TypeAlias = Union[NDArray[Any], "dict[str, MatValue]", None]
"""A numeric matrix, a 1×1 struct, or None for a kind that is passed over."""

_STORAGE = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED, _STRUCT, _NUMERIC, _COMPLEX = 14, 15, 2, range(6, 16), 0x0800
_HEADER, _SMALL, _MAX_DEPTH, _MAX_ELEMENTS = 128, 2**16, 8, 1000


def read_mat(source: Path | Stream, name: str) -> MatValue:
    """Read one variable of a MATLAB 5 file (``-v6`` or ``-v7``, compressed or not).

    Parameters
    ----------
    source
        The file or an open stream.
    name
        The variable.

    Returns
    -------
    MatValue
        Matrices are C-contiguous, of the stored type. Besides the values at most 32 MiB are held
        at once: the peak is the arrays' own size plus that.

    Raises
    ------
    DataError
        For damage, another version of the format, or a missing variable.
    """
    if isinstance(source, Path):
        with open_stream(source) as stream:
            return read_mat(stream, name)
    order = _read_file_header(source)
    seen: list[str] = []
    for found, value in _variables(source, order, name):
        if found == name:
            return value
        seen.append(found)
    raise DataError(f"{source.what} has no variable {name!r}; it holds {', '.join(seen[:20]) or 'nothing'}.")


def _read_file_header(stream: Stream) -> str:
    header = stream.read(_HEADER)
    if header.startswith((b"MATLAB 7.3", b"\x89HDF")):
        raise DataError(
            f"{stream.what} is a MATLAB 7.3 (HDF5) file, which isn't read; save it with -v7, or as npz."
        )
    order = {b"IM": "<", b"MI": ">"}.get(header[126:128])
    version = header[124:126] if order == ">" else header[125:123:-1]
    if order is None or version != b"\x01\x00":
        raise DataError(f"{stream.what} is not a MATLAB 5 file.")
    return order


def _variables(stream: Stream, order: str, wanted: str) -> Iterator[tuple[str, MatValue]]:
    """Yield names and values of top-level variables; the values of others than ``wanted`` are None."""
    for _ in range(_MAX_ELEMENTS):
        if stream.used == stream.limit:  # a plain file ends with its last element
            return
        kind, size, _small = _Elements(stream, order).tag()
        stop = stream.used + size
        if kind == _COMPRESSED:
            inner = Stream(Inflate(stream, size), stream.what, unfolded_limit(size), compressed=True)
            elements = _Elements(inner, order)
            kind, size, _small = elements.tag()
            if kind == _MATRIX:
                yield elements.matrix(size, only=wanted)
        elif kind == _MATRIX:
            yield _Elements(stream, order).matrix(size, only=wanted)
        stream.skip(stop - stream.used)


class _Elements:
    """Reads data elements; each declares its length, and none may reach past the one that holds it."""

    def __init__(self, stream: Stream, order: str) -> None:
        self.stream = stream
        self.order = order

    def tag(self) -> tuple[int, int, bytes | None]:
        """Return kind, length, and the content where it is packed into the tag itself."""
        first = self._int(self.stream.read(4))
        if first >> 16:
            size = first >> 16
            if size > 4:
                raise DataError(f"{self.stream.what} is damaged: a packed element of {size} bytes.")
            return first & 0xFFFF, size, self.stream.read(4)[:size]
        return first, self._int(self.stream.read(4)), None

    def matrix(self, size: int, *, only: str | None = None, depth: int = 0) -> tuple[str, MatValue]:
        """Read a matrix element of ``size`` bytes: its name and value."""
        stream = self.stream
        stream.expect(size)
        stop = stream.used + size
        if not size:  # how MATLAB writes an empty field
            return "", None
        flags = self._ints("u4")
        shape = self._ints("i4")
        name = self._small().decode("latin-1")
        if len(flags) != 2 or not 2 <= len(shape) <= 8 or min(shape) < 0:
            raise DataError(f"{stream.what} is damaged: a matrix without a proper size.")
        kind, count = flags[0] & 0xFF, math.prod(shape)
        value: MatValue = None
        if only in (None, name) and count:
            if kind in _NUMERIC and not flags[0] & _COMPLEX:
                value = self._numeric(shape)
            elif kind == _STRUCT and count == 1:
                value = self._struct(depth)
        if stream.used > stop:
            raise DataError(f"{stream.what} is damaged: an element is longer than the one that holds it.")
        stream.skip(stop - stream.used)
        return name, value

    def _numeric(self, shape: list[int]) -> NDArray[Any]:
        kind, size, packed = self.tag()
        if kind not in _STORAGE:
            raise DataError(f"{self.stream.what} is damaged: numbers of an unknown type {kind}.")
        dtype = np.dtype(self.order + _STORAGE[kind])
        if math.prod(shape) * dtype.itemsize != size:
            raise DataError(
                f"{self.stream.what} is damaged: {size} bytes don't make a matrix of shape {shape}."
            )
        if packed is None:
            return fill_array(self.stream, shape, dtype, fortran=True)
        values = np.frombuffer(packed, dtype).reshape(shape, order="F")
        return np.ascontiguousarray(values.astype(dtype.newbyteorder("=")))

    def _struct(self, depth: int) -> dict[str, MatValue]:
        width = self._ints("i4")
        names = self._small()
        if depth == _MAX_DEPTH or len(width) != 1 or width[0] < 1 or len(names) % width[0]:
            raise DataError(f"{self.stream.what} is damaged, or a struct nested deeper than {_MAX_DEPTH}.")
        out: dict[str, MatValue] = {}
        for at in range(0, len(names), width[0]):
            kind, size, _small = self.tag()
            if kind != _MATRIX:
                raise DataError(f"{self.stream.what} is damaged: a struct field that is no matrix.")
            field = names[at : at + width[0]].split(b"\0")[0].decode("latin-1")
            out[field] = self.matrix(size, depth=depth + 1)[1]
        return out

    def _ints(self, kind: str) -> list[int]:
        data = self._small()
        if len(data) % 4:
            raise DataError(f"{self.stream.what} is damaged: {len(data)} bytes where whole numbers belong.")
        return [int(n) for n in np.frombuffer(data, self.order + kind)]

    def _small(self) -> bytes:
        """Read a short element whole, with its padding to eight bytes."""
        _kind, size, packed = self.tag()
        if packed is not None:
            return packed
        if size > _SMALL:
            raise DataError(f"{self.stream.what} is damaged: a header element of {size} bytes.")
        return self.stream.read(-(-size // 8) * 8)[:size]

    def _int(self, data: bytes) -> int:
        return int.from_bytes(data, "little" if self.order == "<" else "big")
