"""Downloads: the only place of this package that opens a connection."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

from shrinkage.data.formats.bounded import MAX_BYTES, spell
from shrinkage.data.sources import Remote, data_directory, named_set
from shrinkage.errors import DataError

TIMEOUT_SECONDS = 60


def fetch(
    name: str, data_dir: str | os.PathLike[str] | None = None, *, progressbar: bool = False
) -> list[Path]:
    """Download a named set's published files.

    A file that is already there with the published checksum isn't fetched again. Each is written
    under a temporary name, checked against the published SHA-256, and only then renamed.

    Parameters
    ----------
    name
        One of `available`. All splits of EMNIST come in one archive of 536 MiB.
    data_dir
        Where to; by default `$SHRINKAGE_DATA`, else the per-user cache.
    progressbar
        Whether to show progress on standard error.

    Returns
    -------
    list of pathlib.Path
        The files; empty for a set that needs none.

    Raises
    ------
    DataError
        For an unknown name, a failed connection, a file too long, or one with another checksum.

    Examples
    --------
    >>> fetch("digits")
    []
    """
    folder = data_directory(data_dir).absolute()
    return [_fetch_file(remote, folder, progressbar) for remote in named_set(name).remotes]


def _fetch_file(remote: Remote, folder: Path, progressbar: bool) -> Path:
    target = folder / remote.path
    failures = []
    for url in remote.urls:
        if not url.startswith(("https://", "http://")):
            raise DataError(f"{url} is not fetched: only http and https are.")
        try:
            return _retrieve(url, remote, target, progressbar)
        # requests' own errors are OSErrors; ValueError is pooch's for a checksum.
        except (OSError, ValueError) as error:
            failures.append(f"{url}: {_reason(error)}")
    raise DataError(f"{remote.path} could not be downloaded. {' '.join(failures)}")


def _retrieve(url: str, remote: Remote, target: Path, progressbar: bool) -> Path:
    import pooch

    headers = {
        "User-Agent": "shrinkage",  # NIST's server refuses the nameless default
        "Accept-Encoding": "identity",  # or an archive might be unpacked on the way, and miss its checksum
    }
    inner = pooch.HTTPDownloader(progressbar=progressbar, timeout=TIMEOUT_SECONDS, headers=headers)
    most = remote.size or MAX_BYTES

    def download(url: str, output_file: str, pup: Any) -> None:
        with Path(output_file).open("wb") as file:
            inner(url, _Capped(file, most, url), pup)

    path = pooch.retrieve(
        url,
        known_hash=f"sha256:{remote.sha256}" if remote.sha256 else None,
        fname=target.name,
        path=target.parent,
        downloader=download,
    )
    return Path(path)


class _Capped:
    """A file that takes no more than the published size, so that a server can't fill the disk."""

    def __init__(self, file: IO[bytes], most: int, url: str) -> None:
        self._file, self._left, self._most, self._url = file, most, most, url

    def write(self, data: bytes) -> int:
        """Write, or raise a `DataError` beyond the bound."""
        self._left -= len(data)
        if self._left < 0:
            raise DataError(f"the server sends more than the published {spell(self._most)}.")
        return self._file.write(data)

    def flush(self) -> None:
        """Pass the call on."""
        self._file.flush()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "hash" in text and "SHA256" in text.upper().replace("-", ""):
        return f"the file is not the published one: its SHA-256 differs ({text})"
    return text if text.endswith(".") else f"{text}."
