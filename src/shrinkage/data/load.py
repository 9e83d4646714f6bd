"""`load_data`: from a name, a path or a reference to `Data`."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from shrinkage.data.build import KEYS, build_data
from shrinkage.data.dataset import Data
from shrinkage.data.fetch import fetch
from shrinkage.data.formats.images import read_image_folder
from shrinkage.data.formats.npz import read_npz
from shrinkage.data.formats.table import read_csv
from shrinkage.data.sources import ALIASES, SETS, Found, NamedSet, available, data_directory, named_set
from shrinkage.errors import CodeNotAllowedError, DataError, did_you_mean

_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_PATH_HELP = "an .npz file, a .csv file, or a folder of class folders of images"


def load_data(
    name_or_path: str | os.PathLike[str],
    *,
    download: bool = False,
    data_dir: str | os.PathLike[str] | None = None,
    label: str | None = None,
    groups: str | None = None,
    allow_code: bool = False,
) -> Data:
    """Load a data set by name, from a file or folder, or from a function.

    Parameters
    ----------
    name_or_path
        One of

        - a name: ``digits`` (comes with scikit-learn; divided by 16, float32 in [0, 1]), ``mnist``,
          ``fashion_mnist``, ``cifar10``, ``emnist/SPLIT`` with balanced, byclass, bymerge, letters,
          digits or mnist; ``emnist`` is balanced. A name wins over a file called so: write ``./mnist``.
        - an ``.npz`` file with ``x_train``, ``y_train`` and optionally ``x_test``, ``y_test``, ``labels``;
        - a ``.csv`` file with a label column;
        - a folder of class folders of images;
        - ``module:function``, a function without arguments that returns a `Data`, ``(x, y)``,
          ``(x_train, y_train, x_test, y_test)``, ``((x_train, y_train), (x_test, y_test))``, or a
          dictionary with the names of the npz, and ``groups`` where there are any.
    download
        Whether a named set that isn't on disk may be fetched.
    data_dir
        Where named sets are looked for; by default ``$SHRINKAGE_DATA``, else the per-user cache. Any may
        lie there as ``NAME.npz`` or as published, packed or unpacked.
    label
        Name of the label column of a CSV file.
    groups
        Name of an array of an ``.npz`` file, one entry for each row of ``x_train``, or of a column of a CSV
        file, which is then no feature: rows with equal entries belong together, and no split tears
        them apart.
    allow_code
        Whether a ``module:function`` outside this package may be imported and called.

    Returns
    -------
    Data
        Images N×H×W×C, uint8 where the source is. A set without a test split gets a fixed fifth.

    Raises
    ------
    DataError
        If it isn't found, or is damaged or hostile.
    CodeNotAllowedError
        For a reference to foreign code without ``allow_code``.

    Examples
    --------
    >>> load_data("digits")
    Data('digits': 1438 training and 359 test samples of 8×8×1 float32, 10 classes)
    """
    text = os.fspath(name_or_path)
    named = isinstance(name_or_path, str) and ALIASES.get(text, text) in SETS
    path = Path(text).expanduser()
    if label is not None and (named or path.suffix.lower() not in (".csv", ".tsv")):
        raise DataError(f"`label` names a column of a CSV file; {text!r} is none.")
    if groups is not None and (named or path.suffix.lower() not in (".npz", ".csv", ".tsv")):
        raise DataError(
            f"`groups` names an array of an .npz file or a column of a CSV file; {text!r} is neither."
        )
    if named:
        return _load_named(named_set(text), data_dir, download)
    if _exists(path):
        return _load_path(path, label, groups)
    if _REFERENCE.fullmatch(text):
        return _load_reference(text, allow_code)
    shown = text if len(text) <= 300 else f"{text[:300]}…"
    if isinstance(name_or_path, str) and not path.suffix and text.count("/") <= text.startswith("emnist/"):
        near = did_you_mean(text, (*SETS, *ALIASES))
        raise DataError(
            f"{shown!r} is neither a data set nor a path.{near} "
            f"Data sets: {', '.join(available())}; paths: {_PATH_HELP}."
        )
    raise DataError(f"There is no {shown!r}; a path must lead to {_PATH_HELP}.")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long, or with a zero byte
        return False


def _load_named(known: NamedSet, data_dir: str | os.PathLike[str] | None, download: bool) -> Data:
    folder = data_directory(data_dir)
    found = known.locate(folder)
    if found is None and download:
        fetch(known.name, folder)
        found = known.locate(folder)
    if found is None:
        raise DataError(_not_found(known, folder, data_dir))
    return _built(known, found)


def _built(known: NamedSet, found: Found) -> Data:
    arrays = found.read()
    return build_data(known.name, arrays, labels=known.labels)


def _not_found(known: NamedSet, folder: Path, data_dir: str | os.PathLike[str] | None) -> str:
    where = "" if data_dir is None else f" --data-dir {shlex.quote(os.fspath(data_dir))}"
    return (
        f"The data set {known.name!r} is not in {folder} (looked for {known.name}.npz, {known.looks_for}). "
        f"Fetch it with: shrinkage data fetch {known.name}{where}"
    )


def _load_path(path: Path, label: str | None, groups: str | None) -> Data:
    if path.is_dir():
        return build_data(path.resolve().name, read_image_folder(path))
    suffix = path.suffix.lower()
    if suffix == ".npz":
        asked = () if groups is None else (groups,)
        arrays = read_npz(path, required=(*KEYS[:2], *asked), optional=(*KEYS[2:], "labels"))
        return build_data(path.stem, arrays if groups is None else {**arrays, "groups": arrays[groups]})
    if suffix in (".csv", ".tsv"):
        return build_data(path.stem, read_csv(path, label, groups))
    raise DataError(f"{path} is not a kind of file that is read; give {_PATH_HELP}.")


def _load_reference(text: str, allow_code: bool) -> Data:
    module_name, function_name = text.split(":")
    own = module_name == "shrinkage" or module_name.startswith("shrinkage.")
    if not own and not allow_code:
        raise CodeNotAllowedError(
            f"{text!r} would import and run code; if you trust it, allow it: --allow-code (allow_code=True)."
        )
    if not own and (here := os.getcwd()) not in sys.path:
        # An installed command doesn't search the working directory. At the end, so that nothing there
        # replaces an installed module.
        sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module_name), function_name, None)
    except ImportError as error:
        raise DataError(f"{text!r} could not be imported: {error}.") from error
    if not callable(function) or (own and not str(function.__module__).startswith("shrinkage")):
        raise DataError(f"{text!r} is not a function of {module_name!r}.")
    try:
        value = function()
    except Exception as error:
        raise DataError(f"{text!r} raised {type(error).__name__}: {error}") from error
    return value if isinstance(value, Data) else build_data(function_name, _arrays(value, text), owned=False)


def _arrays(value: Any, text: str) -> Mapping[str, Any]:
    """Give names to what a function returned."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, tuple | list):
        items = tuple(value)
        if len(items) == 2 and all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
            items = (*items[0], *items[1])
        if len(items) in (2, 4) and all(isinstance(item, np.ndarray) for item in items):
            return dict(zip(KEYS, items, strict=False))
    raise DataError(
        f"{text!r} returned a {type(value).__name__}; return a Data, (x, y), (x_train, y_train, x_test, "
        f"y_test), ((x_train, y_train), (x_test, y_test)) or a dictionary of arrays."
    )
