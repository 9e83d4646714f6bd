"""Reading from files that may lie: every length is checked before memory is taken for it."""

from __future__ import annotations

import contextlib
import gzip
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from shrinkage.errors import DataError

MAX_BYTES = 4 * 2**30
"""No array, and no file that is read as a whole, may be larger."""

MAX_RATIO = 100
"""Compressed data may unfold this many times; images and labels stay far below it."""

FREE_BYTES = 64 * 2**20
"""Up to this size the ratio isn't looked at: sorted labels may shrink a thousandfold, and harm nobody."""

CHUNK_BYTES = 2**20
BLOCK_BYTES = 2**25


class Readable(Protocol):
    """What `Stream` reads from."""

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; none at the end."""
        ...


def unfolded_limit(compressed: int) -> int:
    """How many bytes may come out of ``compressed`` bytes.

    Examples
    --------
    >>> unfolded_limit(100) == FREE_BYTES
    True
    >>> unfolded_limit(2**20) // 2**20
    100
    """
    return min(MAX_BYTES, max(FREE_BYTES, MAX_RATIO * compressed))


def spell(size: int) -> str:
    """Write a number of bytes for people.

    Examples
    --------
    >>> spell(17), spell(3_000_000)
    ('17 bytes', '2.9 MiB')
    """
    if size < 10_000:
        return f"{size} bytes"
    for power, unit in enumerate(("KiB", "MiB"), start=1):
        if size < 1024 ** (power + 1):
            return f"{size / 1024**power:.1f} {unit}"
    return f"{size / 1024**3:.1f} GiB" if size < 1024**5 else "millions of GiB"


@contextlib.contextmanager
def damage_reported(what: str) -> Iterator[None]:
    """Turn whatever a decoder raises on damaged input into one `DataError` about ``what``."""
    # The decoders of the standard library signal damage by nearly every built-in exception; in this
    # block they run on foreign bytes alone, so all of them mean the same.
    try:
        yield
    except DataError:
        raise
    except PermissionError as error:
        raise DataError(f"{what} can't be read: permission denied.") from error
    except MemoryError as error:
        raise DataError(f"{what} needs more memory than this machine gives.") from error
    except Exception as error:
        detail = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{what} is damaged or cut short ({detail}).") from error


class Stream:
    """Exact reads from a file object, with a bound on what may come out in all.

    Parameters
    ----------
    raw
        An object with ``read(size) -> bytes``.
    what
        What is read, for errors: a path, or a path and a member of the archive.
    limit
        The most bytes that ``raw`` may give.
    compressed
        Whether ``raw`` unfolds compressed data: a reading past the limit is then a bomb, not a short file.
    """

    def __init__(self, raw: Readable, what: str, limit: int, *, compressed: bool) -> None:
        self._raw = raw
        self.what = what
        self.limit = limit
        self.compressed = compressed
        self.used = 0

    def expect(self, size: int) -> None:
        """Raise a `DataError` unless ``size`` more bytes may come."""
        if 0 <= size <= self.limit - self.used:
            return
        if size < 0:
            raise DataError(f"{self.what} is damaged: it declares a negative length.")
        if self.compressed:
            raise DataError(
                f"{self.what} declares {spell(size)}, far more than its compressed size allows; "
                f"it looks like a decompression bomb and was refused."
            )
        raise DataError(
            f"{self.what} is cut short or its header lies: it declares {spell(size)} more, "
            f"but {spell(self.limit - self.used)} can follow."
        )

    def read(self, size: int) -> bytes:
        """Return exactly ``size`` bytes, or raise a `DataError`. For small pieces: see `fill`."""
        out = bytearray(size if 0 <= size <= CHUNK_BYTES else 0)
        if len(out) != size:
            raise DataError(f"{self.what} declares a piece of {spell(size)} where a small one belongs.")
        self.fill(memoryview(out))
        return bytes(out)

    def fill(self, out: memoryview) -> None:
        """Fill ``out`` exactly, in chunks, or raise a `DataError`."""
        flat = out.cast("B") if out.nbytes else out
        self.expect(flat.nbytes)
        done = 0
        while done < flat.nbytes:
            piece = self._pull(min(CHUNK_BYTES, flat.nbytes - done))
            if not piece:
                raise DataError(f"{self.what} is cut short: {spell(flat.nbytes - done)} are missing.")
            flat[done : done + len(piece)] = piece
            done += len(piece)

    def skip(self, size: int) -> None:
        """Pass over exactly ``size`` bytes."""
        self.expect(size)
        while size:
            piece = self._pull(min(CHUNK_BYTES, size))
            if not piece:
                raise DataError(f"{self.what} is cut short: {spell(size)} are missing.")
            size -= len(piece)

    def read_text(self, most: int) -> str:
        """Return all that is left, at most ``most`` bytes, as UTF-8 text."""
        parts: list[bytes] = []
        left = most + 1
        while left and (piece := self._pull(left)):
            parts.append(piece)
            left -= len(piece)
        if not left:
            raise DataError(f"{self.what} holds more than the {spell(most)} that such a file may have.")
        with damage_reported(self.what):
            return b"".join(parts).decode("utf-8")

    def end(self) -> None:
        """Raise a `DataError` unless everything was read."""
        # One byte is asked for and no more: what follows a declared length may be a bomb.
        if self._pull(1):
            raise DataError(f"{self.what} holds more data than its header declares.")

    def _pull(self, size: int) -> bytes:
        with damage_reported(self.what):
            piece = self._raw.read(size)
        self.used += len(piece)
        return piece


def peel(raw: IO[bytes], what: str, size: int) -> Stream:
    """Wrap an open binary file of ``size`` bytes; gzip is recognised by its first bytes and peeled off."""
    # By content, not by name: downloads are often unpacked on the way and keep their `.gz`.
    with damage_reported(what):
        head = cast(Any, raw).peek(2)[:2]
    if head == b"\x1f\x8b":
        return Stream(gzip.GzipFile(fileobj=raw), what, unfolded_limit(size), compressed=True)
    return Stream(raw, what, size, compressed=False)


def file_size(path: Path, *, most: int = MAX_BYTES) -> int:
    """Return the size of a regular file, or raise a `DataError` for anything else or larger."""
    with damage_reported(str(path)):
        status = path.stat() if path.is_file() else None
    if status is None:  # a pipe or a device would block, or never end
        raise DataError(f"{path} is not a regular file.")
    if status.st_size > most:
        raise DataError(f"{path} has {spell(status.st_size)}; at most {spell(most)} are read.")
    return status.st_size


@contextlib.contextmanager
def open_stream(path: Path) -> Iterator[Stream]:
    """Open a file, plain or gzip-compressed, as a `Stream`."""
    size = file_size(path)
    with contextlib.ExitStack() as stack:
        with damage_reported(str(path)):
            raw = stack.enter_context(path.open("rb"))
        yield peel(raw, str(path), size)


def new_array(shape: Sequence[int], dtype: np.dtype[Any], what: str) -> NDArray[Any]:
    """Allocate an uninitialised array, or raise a `DataError` for an empty, huge or impossible one."""
    if not shape or min(shape) < 1:
        raise DataError(f"{what} declares an array of shape {tuple(shape)}, which holds nothing.")
    size = math.prod(shape) * dtype.itemsize
    if size > MAX_BYTES or len(shape) > 8:
        raise DataError(
            f"{what} declares an array of shape {tuple(shape)}; at most {spell(MAX_BYTES)} are read."
        )
    with damage_reported(what):
        return np.empty(tuple(shape), dtype)


def fill_array(
    stream: Stream, shape: Sequence[int], dtype: np.dtype[Any], *, fortran: bool = False
) -> NDArray[Any]:
    """Read an array of a declared shape.

    Parameters
    ----------
    stream
        Stands at the array's first byte.
    shape, dtype
        As declared; ``dtype`` with its byte order.
    fortran
        Whether the first axis varies fastest in the file.

    Returns
    -------
    numpy.ndarray
        C-contiguous, in the machine's byte order. Besides it at most 32 MiB are held, for either order.

    Raises
    ------
    DataError
        For a shape that the stream can't hold, before memory is taken, or if the data end early.
    """
    if min(shape, default=0) > 0:  # an empty shape is `new_array`'s error
        stream.expect(math.prod(shape) * dtype.itemsize)
    out = new_array(shape, dtype, stream.what)
    if fortran and len(shape) > 1:
        _fill_fortran(stream, out)
    else:
        stream.fill(byte_view(out))
    if not dtype.isnative:
        out = out.byteswap(inplace=True).view(dtype.newbyteorder("="))
    return out


def _fill_fortran(stream: Stream, out: NDArray[Any]) -> None:
    """Scatter the planes of a column-major array into the rows of ``out``."""
    count, rest = out.shape[0], out.shape[1:]
    rows = out.reshape(count, -1)
    plane = count * out.itemsize
    step = max(1, BLOCK_BYTES // plane)
    piece = count if plane <= BLOCK_BYTES else BLOCK_BYTES // out.itemsize
    for first in range(0, rows.shape[1], step):
        for low in range(0, count, piece):
            target = rows[low : low + piece, first : first + step]
            block = np.empty(target.shape[::-1], out.dtype)
            stream.fill(byte_view(block))
            target[...] = block.T
    if len(rest) > 1:  # each row still holds its own axes in reverse
        turned = out.reshape(count, *rest[::-1])
        axes = (0, *range(len(rest), 0, -1))
        for chunk in row_chunks(out):
            out[chunk] = turned[chunk].transpose(axes).copy()


def byte_view(array: NDArray[Any]) -> memoryview:
    """Return the bytes of a C-contiguous array, to be written into."""
    return array.reshape(-1).view(np.uint8).data


def row_chunks(array: NDArray[Any], size: int = BLOCK_BYTES) -> Iterator[slice]:
    """Slices over the first axis that cover ``array`` in pieces of about ``size`` bytes."""
    count = len(array)
    step = max(1, size // max(1, array.nbytes // max(1, count)))
    for low in range(0, count, step):
        yield slice(low, min(low + step, count))


class Inflate:
    """Reads a zlib stream out of the next ``size`` bytes of a `Stream`, unfolding no more than asked for."""

    def __init__(self, stream: Stream, size: int) -> None:
        stream.expect(size)
        self._stream = stream
        self._left = size
        self._engine = zlib.decompressobj()

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes; none at the end of the compressed data."""
        while not self._engine.eof:
            data = self._engine.unconsumed_tail
            if not data and self._left:
                data = self._stream.read(min(2**16, self._left))
                self._left -= len(data)
            out = self._engine.decompress(data, size)
            if out or not (data or self._left):
                return out
        return b""
