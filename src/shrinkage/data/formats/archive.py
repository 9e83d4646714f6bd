"""Members of zip and tar archives, read where they lie; nothing is ever unpacked to disk."""

from __future__ import annotations

import contextlib
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from shrinkage.data.formats.bounded import (
    FREE_BYTES,
    MAX_BYTES,
    MAX_RATIO,
    Stream,
    damage_reported,
    file_size,
    open_stream,
    peel,
    spell,
    unfolded_limit,
)
from shrinkage.errors import DataError

MAX_DIRECTORY_BYTES = 2**20
MAX_MEMBERS = 10_000
MAX_EXTENSION_BYTES = 2**20
BLOCK = 512

# Signature, length, and where the directory's size stands, of the zip end record and its 64-bit sibling.
_END, _END64 = (b"PK\x05\x06", 22, slice(12, 16)), (b"PK\x06\x06", 56, slice(40, 48))
_LOCATOR = b"PK\x06\x07"


def _check_name(name: str, where: str) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name) or "\0" in name:
        raise DataError(f"{where} has a member {name!r} that points outside the archive; it was refused.")


class ZipArchive:
    """A zip file whose directory has been checked; use as a context manager.

    Raises
    ------
    DataError
        For a file that isn't a zip, an over-long directory, a member that points outside the archive
        (absolute, ``..``, a link), or one compressed by another method than deflate.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._size = file_size(path)
        _check_directory_size(path, self._size)
        with damage_reported(str(path)):
            self._zip = zipfile.ZipFile(path)
        self._members: dict[str, zipfile.ZipInfo] = {}
        try:
            for info in self._zip.infolist():
                self._admit(info)
        except DataError:
            self._zip.close()
            raise

    def __enter__(self) -> ZipArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all files in the archive."""
        return tuple(self._members)

    def size(self, name: str) -> int:
        """Return the declared unfolded size of a member, in bytes."""
        return self._members[name].file_size

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Stream]:
        """Open a member; one that is itself gzip-compressed is unfolded once more."""
        info = self._members[name]
        what = f"{self.path} ({name})"
        # The directory may lie about the compressed size, but not beyond the file.
        packed = min(info.compress_size, self._size)
        if info.file_size > MAX_BYTES:
            raise DataError(f"{what} declares {spell(info.file_size)}; at most {spell(MAX_BYTES)} are read.")
        if info.file_size > unfolded_limit(packed):
            raise DataError(
                f"{what} declares {spell(info.file_size)} from {spell(packed)}, more than {MAX_RATIO} to 1; "
                f"it looks like a decompression bomb and was refused."
            )
        with contextlib.ExitStack() as stack:
            with damage_reported(what):
                raw = stack.enter_context(self._zip.open(info))
            stream = peel(raw, what, info.file_size)
            if stream.compressed:
                stream.limit = unfolded_limit(packed)
            yield stream

    def _admit(self, info: zipfile.ZipInfo) -> None:
        _check_name(info.filename, str(self.path))
        if info.filename.endswith("/"):  # `is_dir` fails on an empty name
            return
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            raise DataError(
                f"{self.path} has a member {info.filename!r} that is a link or device; it was refused."
            )
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{self.path} ({info.filename}) is compressed by another method than deflate.")
        self._members[info.filename] = info


def _check_directory_size(path: Path, size: int) -> None:
    """Refuse a zip whose central directory would become millions of Python objects."""
    with damage_reported(str(path)), path.open("rb") as file:
        file.seek(max(0, size - 2**16 - 256))
        places = [file.read()]
        at = places[0].find(_LOCATOR)
        while at >= 0:  # a locator may point to a 64-bit record anywhere
            file.seek(min(size, int.from_bytes(places[0][at + 8 : at + 16], "little")))
            places.append(file.read(_END64[1]))
            at = places[0].find(_LOCATOR, at + 1)
    # Every record that a reader could take is looked at, for readers differ in which they do.
    declared = max(_directory_sizes(places), default=0)
    if declared > MAX_DIRECTORY_BYTES:
        raise DataError(f"{path} declares a zip directory of {spell(declared)}; it was refused.")


def _directory_sizes(places: list[bytes]) -> Iterator[int]:
    for data in places:
        for magic, length, field in (_END, _END64):
            at = data.find(magic)
            while at >= 0 and at + length <= len(data):
                value = int.from_bytes(data[at : at + length][field], "little")
                if (length, value) != (_END[1], 0xFFFFFFFF):  # which says: see the 64-bit record
                    yield value
                at = data.find(magic, at + 1)


def walk_tar(path: Path) -> Iterator[tuple[str, int, Stream]]:
    """Yield ``(name, size, stream)`` for the regular files of a tar archive, plain or gzip-compressed.

    The consumer reads at most ``size`` bytes of each; what it leaves is passed over.

    Raises
    ------
    DataError
        For damage, links, devices and members that point outside the archive.
    """
    # `tarfile` reads extended headers whole, whatever size they declare, hence this walk: its parser
    # sees one block of 512 bytes at a time.
    with open_stream(path) as stream:
        if stream.compressed:
            stream.limit = min(stream.limit, max(FREE_BYTES, MAX_RATIO * path.stat().st_size))
        for _ in range(MAX_MEMBERS):
            block = stream.read(BLOCK)
            if not any(block):
                return
            with damage_reported(str(path)):
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            padded = -(-info.size // BLOCK) * BLOCK
            _check_member(info, path, stream)
            stop = stream.used + padded
            if info.isreg():
                yield info.name, info.size, stream
            stream.skip(stop - stream.used)
    raise DataError(f"{path} has more than {MAX_MEMBERS} members; it was refused.")


def _check_member(info: tarfile.TarInfo, path: Path, stream: Stream) -> None:
    _check_name(info.name, str(path))
    stream.expect(info.size)
    extension = info.type in (
        tarfile.XHDTYPE,
        tarfile.XGLTYPE,
        tarfile.GNUTYPE_LONGNAME,
        tarfile.SOLARIS_XHDTYPE,
    )
    if extension and info.size > MAX_EXTENSION_BYTES:
        raise DataError(f"{path} has an extended header of {spell(info.size)}; it was refused.")
    if not (extension or info.isdir() or info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)):
        raise DataError(f"{path} has a member {info.name!r} that is a link or device; it was refused.")
