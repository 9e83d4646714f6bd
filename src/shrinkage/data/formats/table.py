"""CSV tables with a label column."""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from shrinkage.data.formats.bounded import damage_reported, file_size, new_array
from shrinkage.errors import DataError, did_you_mean

LABEL_NAMES = ("label", "target", "class", "y")
MAX_LINE = 4 * 2**20
MAX_COLUMNS = 100_000
MAX_INTEGER_CLASSES = 100
MAX_TEXT_CLASSES = 1000
MAX_TEXT = 200
_MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?"})
_LARGEST = float(np.finfo(np.float32).max)
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)


def read_csv(path: Path, label: str | None = None, groups: str | None = None) -> dict[str, Any]:
    r"""Read a table whose first line names its columns.

    The separator is the comma, semicolon or tab that the first line has most of. One column is the
    label, another may say which rows belong together, and all others are features. What the labels
    mean follows from how they are written:

    - whole numbers with at most 100 distinct values, each seen twice on average: classes;
    - other numbers: a regression target (write ``3.0`` rather than ``3`` to say so);
    - anything else: the names of classes, at most 1000.

    Parameters
    ----------
    path
        The file, UTF-8.
    label
        Name of the label column. By default the one called ``label``, ``target``, ``class`` or ``y``.
    groups
        Name of the column, of numbers or text, that is equal where rows belong together.

    Returns
    -------
    dict
        ``x_train`` float32 of shape N×features; ``y_train`` of shape N, float32 or integer; ``labels``,
        the names of classes in alphabetical order, where they are texts; with ``groups``, these as
        integers of shape N, numbered as they come.

    Raises
    ------
    DataError
        Naming column and line, for a missing or non-numeric feature, a row of another length, or a
        line longer than 4 MiB.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "pets.csv"
    >>> _ = path.write_text("weight,age,label\n4.1,3,cat\n30,5,dog\n")
    >>> table = read_csv(path)
    >>> table["x_train"].shape, table["y_train"].tolist(), table["labels"]
    ((2, 2), [0, 1], ['cat', 'dog'])
    """
    size = file_size(path)
    with damage_reported(str(path)):
        file = path.open(encoding="utf-8-sig", newline="")
    # An overflow on the way to float32 is an infinity, which is reported with its place.
    with file, damage_reported(str(path)), np.errstate(over="ignore"):
        header = _first_line(file, path)
        separator = max(",;\t", key=header.count)
        columns = [name.strip() for name in next(csv.reader([header], delimiter=separator, strict=True))]
        at = _label_column(columns, label, path)
        table = _Table(path, columns, at, _group_column(columns, groups, at, path), separator, size)
        table.read(file)
    return table.arrays()


def _first_line(file: TextIO, path: Path) -> str:
    header = file.readline(MAX_LINE + 1)
    if len(header) > MAX_LINE:
        raise DataError(f"{path}, line 1 is longer than {MAX_LINE} characters; this is no table of names.")
    if "\0" in header:
        raise DataError(f"{path} is not a text file.")
    if not header.strip():
        raise DataError(f"{path} is empty: the first line must name the columns.")
    return header


def _group_column(columns: list[str], groups: str | None, label: int, path: Path) -> int | None:
    if groups is None:
        return None
    if groups not in columns:
        raise _no_column(columns, groups, path)
    if groups == columns[label]:
        raise DataError(f"{path}: the column {groups!r} is the label; groups need another one.")
    return columns.index(groups)


def _no_column(columns: list[str], name: str, path: Path) -> DataError:
    return DataError(f"{path} has no column {name!r}; it has {_shown(columns)}.{did_you_mean(name, columns)}")


def _shown(columns: list[str]) -> str:
    return ", ".join(columns[:30]) + (", …" if len(columns) > 30 else "")


def _label_column(columns: list[str], label: str | None, path: Path) -> int:
    if len(columns) > MAX_COLUMNS:
        raise DataError(f"{path} has {len(columns)} columns; at most {MAX_COLUMNS} are read.")
    if all(_number(name) is not None for name in columns):
        raise DataError(f"{path}: the first line must name the columns; it holds numbers only.")
    for at, name in enumerate(columns):
        if not name:
            raise DataError(
                f"{path}: column {at + 1} has no name (a saved row index?); name it or leave it out."
            )
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DataError(f"{path} has two columns named {twice!r}.")
    if label is not None:
        if label not in columns:
            raise _no_column(columns, label, path)
        return columns.index(label)
    found = [at for at, name in enumerate(columns) if name.lower() in LABEL_NAMES]
    if len(found) != 1:
        which = "several columns" if found else "no column"
        near = "" if found else next((hint for n in LABEL_NAMES if (hint := did_you_mean(n, columns))), "")
        raise DataError(
            f"{path} has {which} named {', '.join(LABEL_NAMES[:-1])} or y; "
            f"say which column is the label (`label=`). Columns: {_shown(columns)}.{near}"
        )
    return found[0]


class _Table:
    """Parses rows straight into one array, whose size is bounded by the file's before it is allocated."""

    def __init__(
        self, path: Path, columns: list[str], label: int, groups: int | None, separator: str, size: int
    ) -> None:
        self.features = [name for at, name in enumerate(columns) if at not in (label, groups)]
        if not self.features:
            only = " and ".join(map(repr, columns))
            raise DataError(
                f"{path} has only the column{'s' * (len(columns) > 1)} {only}; features are needed beside "
                f"{'the label' if groups is None else 'label and groups'}."
            )
        self.path, self.columns, self.label, self.separator = path, columns, label, separator
        self.groups = None if groups is None else _Groups(path, columns[groups], groups)
        self._apart = sorted({label, label if groups is None else groups}, reverse=True)  # of the features
        self.labels = _Labels(path, columns[label])
        # Each cell takes a character and a separator, so this many rows at most: pages that no row
        # reaches are never touched.
        most = size // (2 * len(columns) - 1) + 1
        self.x = new_array((most, len(self.features)), np.dtype(np.float32), str(path))

    def read(self, file: TextIO) -> None:
        """Read all rows after the header."""
        rows = csv.reader(self._lines(file), delimiter=self.separator, strict=True)
        while True:
            try:
                cells = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                _fail(self.path, rows.line_num + 1, f"{error}")
            line = rows.line_num + 1
            if cells and len(cells) != len(self.columns):
                _fail(self.path, line, f"{len(cells)} values where the header names {len(self.columns)}")
            if cells:  # else a blank line
                self.labels.add(cells[self.label].strip(), line)
                if self.groups:
                    self.groups.add(cells[self.groups.at].strip(), line)
                for at in self._apart:
                    del cells[at]
                self._add(cells, line)

    def arrays(self) -> dict[str, Any]:
        """Return features and targets."""
        count = len(self.labels)
        if not count:
            raise DataError(f"{self.path} has a header but no rows.")
        groups = {"groups": np.asarray(self.groups.codes)} if self.groups else {}
        return {"x_train": self.x[:count], **self.labels.targets(), **groups}

    def _lines(self, file: TextIO) -> Iterator[str]:
        number = 1
        while line := file.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                _fail(self.path, number, f"longer than {MAX_LINE} characters")
            if "\0" in line:
                _fail(self.path, number, "a zero byte; this is not a text file")
            yield line

    def _add(self, cells: list[str], line: int) -> None:
        row = len(self.labels) - 1
        try:
            values = list(map(float, cells))
        except ValueError:
            self._report(cells, line)
        self.x[row] = values
        if not np.isfinite(self.x[row]).all():
            self._report(cells, line)

    def _report(self, cells: list[str], line: int) -> NoReturn:
        """Name the first cell of a row that is no finite number."""
        for name, cell in zip(self.features, cells, strict=True):
            shown = f"column {name!r} holds {cell[:40]!r}"
            value = _number(cell)
            if cell.strip().lower() in _MISSING:
                _fail(
                    self.path, line, f"column {name!r} has a missing value; fill it in or leave the row out"
                )
            if value is None:
                _fail(self.path, line, f"{shown}, which is not a number; encode it as numbers")
            if not abs(value) <= _LARGEST:
                _fail(self.path, line, f"{shown}, which float32 can't hold")
        _fail(self.path, line, "a row that can't be read")


class _Groups:
    """The column of groups, as codes of its texts."""

    def __init__(self, path: Path, name: str, at: int) -> None:
        self.at, self._path, self._name = at, path, name
        self.codes = array("q")
        self._texts: dict[str, int] = {}

    def add(self, text: str, line: int) -> None:
        """Take the group of the next row."""
        if text.lower() in _MISSING:
            _fail(self._path, line, f"the column of groups {self._name!r} has a missing value")
        self.codes.append(self._texts.setdefault(text, len(self._texts)))


class _Labels:
    """The label column, kept as numbers and as codes of texts until it is clear which of them it is."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._values = array("d")
        self._codes = array("i")
        self._texts: dict[str, int] = {}
        self._whole = True
        self._blank = self._absent = self._word = self._unbounded = 0  # lines where one was first seen

    def __len__(self) -> int:
        return len(self._values)

    def add(self, text: str, line: int) -> None:
        """Take the label of the next row."""
        value = _number(text)
        if text.lower() in _MISSING:
            self._absent = self._absent or line
            self._blank = self._blank or (0 if text else line)
            value = None
        elif value is None:
            self._word = self._word or line
        elif not math.isfinite(value):
            self._unbounded = self._unbounded or line
        self._whole = self._whole and _INTEGER.fullmatch(text) is not None
        self._values.append(math.nan if value is None else value)
        if len(self._texts) <= MAX_TEXT_CLASSES:  # beyond, they are no class names, and memory is spared
            self._codes.append(self._texts.setdefault(text[:MAX_TEXT], len(self._texts)))

    def targets(self) -> dict[str, Any]:
        """Return ``y_train``, with ``labels`` if it holds names of classes."""
        numeric = not self._word and not np.isnan(np.asarray(self._values)).all()
        # In a column of numbers "NA" is a gap; among names it may be one of them.
        missing = self._absent if numeric else self._blank
        if missing:
            _fail(self._path, missing, f"the label column {self._name!r} has a missing value")
        return {"y_train": self._numbers()} if numeric else self._names()

    def _numbers(self) -> NDArray[Any]:
        if self._unbounded:
            _fail(self._path, self._unbounded, f"the label column {self._name!r} holds an infinite value")
        values = np.asarray(self._values)
        if self._whole:
            distinct = len(np.unique(values))
            if distinct <= MAX_INTEGER_CLASSES and 2 * distinct <= len(values):
                return values.astype(np.int64)
        if np.abs(values).max() > _LARGEST:
            raise DataError(
                f"{self._path}: the label column {self._name!r} holds a value that float32 can't hold."
            )
        return values.astype(np.float32)

    def _names(self) -> dict[str, Any]:
        if len(self._texts) > MAX_TEXT_CLASSES:
            raise DataError(
                f"{self._path}: the label column {self._name!r} holds more than {MAX_TEXT_CLASSES} different "
                f"texts; is it the label?"
            )
        order = sorted(self._texts)
        rank = np.empty(len(order), np.int32)
        for new, text in enumerate(order):
            rank[self._texts[text]] = new
        return {"y_train": rank[np.asarray(self._codes)], "labels": order}


def _fail(path: Path, line: int, what: str) -> NoReturn:
    raise DataError(f"{path}, line {line}: {what}.")


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
