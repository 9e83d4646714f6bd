"""Where the files of a named set may lie: a folder, or a folder inside a zip."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from shrinkage.data.formats.archive import ZipArchive
from shrinkage.data.formats.bounded import Stream, damage_reported, open_stream


@dataclass(frozen=True)
class Place:
    """A folder, or (``folder`` being a ``.zip`` file) the members of an archive.

    Names are file names without folders. Each file may be gzip-compressed, with ``.gz`` after its name or
    without: downloads are often unpacked on the way.
    """

    folder: Path

    @property
    def is_zip(self) -> bool:
        """Whether this is an archive."""
        return self.folder.suffix == ".zip" and self.folder.is_file()

    def missing(self, names: Sequence[str]) -> list[str]:
        """Return those of ``names`` that are not here."""
        with self.listing() as files:
            return [name for name in names if name not in files]

    @contextlib.contextmanager
    def listing(self) -> Iterator[dict[str, Opener]]:
        """Files here, by name without ``.gz``; open until the context ends."""
        if not self.is_zip:
            yield _folder_files(self.folder)
            return
        with ZipArchive(self.folder) as archive:
            yield {_bare(name.rsplit("/", 1)[-1]): Opener(archive, name) for name in archive.names}


@dataclass(frozen=True)
class Opener:
    """One file of a `Place`."""

    where: Path | ZipArchive
    member: str = ""

    def open(self) -> contextlib.AbstractContextManager[Stream]:
        """Open the file as a stream of its unfolded content."""
        return open_stream(self.where) if isinstance(self.where, Path) else self.where.open(self.member)


def _folder_files(folder: Path) -> dict[str, Opener]:
    if not folder.is_dir():
        return {}
    # Sorted, so that of `name` and `name.gz` the latter, as published, is taken.
    with damage_reported(str(folder)):
        return {_bare(file.name): Opener(file) for file in sorted(folder.iterdir()) if file.is_file()}


def _bare(name: str) -> str:
    return name.removesuffix(".gz")
