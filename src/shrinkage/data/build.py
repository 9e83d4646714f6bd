"""From loose arrays to `Data`: the one place that decides what inputs and targets mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.data.dataset import Data, is_one_hot
from shrinkage.data.formats.bounded import damage_reported, row_chunks
from shrinkage.data.split import split_in_place, split_mask
from shrinkage.errors import DataError

KEYS = ("x_train", "y_train", "x_test", "y_test")
MAX_CLASSES = 10_000

_Targets = tuple[NDArray[Any], NDArray[Any] | None, tuple[str, ...]]


def build_data(
    name: str, arrays: Mapping[str, Any], *, labels: Sequence[str] = (), owned: bool = True
) -> Data:
    """Make a data set of loose arrays.

    Parameters
    ----------
    name
        The set's name.
    arrays
        ``x_train`` and ``y_train``, optionally ``x_test`` and ``y_test`` (both or none), ``labels``, and
        ``groups``: one number or text for each of the training samples, equal where they belong together.
    labels
        Class names to use where ``arrays`` has none.
    owned
        Whether the arrays may be changed; if not, a set without a test split is copied.

    Returns
    -------
    Data
        uint8 images of shape N×H×W get a channel axis. Targets: integers, booleans and text become
        int32 classes (integers that don't start at 0 are renumbered, and kept as labels), a one-hot
        matrix stays, floats mean regression. Without a test split, a fixed fifth is set aside, of whole
        groups where there are any. Groups become numbers from 0 on.

    Raises
    ------
    DataError
        For missing, empty, non-numeric or non-finite inputs, and for targets of unknown meaning.

    Examples
    --------
    >>> import numpy as np
    >>> data = build_data("toy", {"x_train": np.eye(10), "y_train": np.array(["a", "b"] * 5)})
    >>> data, data.labels
    (Data('toy': 8 training and 2 test samples of 10 float64, 2 classes), ('a', 'b'))
    """
    missing = [key for key in KEYS[:2] if arrays.get(key) is None]
    if missing or (arrays.get("x_test") is None) != (arrays.get("y_test") is None):
        raise DataError(f"{name} needs x_train and y_train, and x_test with y_test or neither of them.")
    split = arrays.get("x_test") is not None
    x_train = _inputs(arrays["x_train"], f"{name}: x_train")
    x_test = _inputs(arrays["x_test"], f"{name}: x_test") if split else None
    given = arrays.get("labels")
    names = _text(given, f"{name}: labels") if given is not None else list(labels)
    y_train = _plain(arrays["y_train"], f"{name}: y_train")
    y_test = _plain(arrays["y_test"], f"{name}: y_test") if split else None
    y_train, y_test, kept = _targets(y_train, y_test, names, name)
    groups = _groups(arrays.get("groups"), len(x_train), name)
    if x_test is not None and y_test is not None:
        return Data(name, x_train, y_train, x_test, y_test, kept, groups)
    if len(x_train) != len(y_train):
        raise DataError(f"{name}: x_train has {len(x_train)} samples and y_train {len(y_train)}.")
    strata = y_train.argmax(axis=1) if kept and y_train.ndim == 2 else y_train
    mask = split_mask(strata, classes=bool(kept), what=name, groups=groups)
    x_train, x_test = split_in_place(x_train if owned and x_train.flags.writeable else x_train.copy(), mask)
    y_train, y_test = split_in_place(y_train if owned and y_train.flags.writeable else y_train.copy(), mask)
    if groups is not None:
        groups = _numbered_groups(split_in_place(groups, mask)[0])
    return Data(name, x_train, y_train, x_test, y_test, kept, groups)


def _groups(given: Any, rows: int, name: str) -> NDArray[Any] | None:
    if given is None:
        return None
    groups = _flat(_plain(given, f"{name}: groups"))
    if groups.shape != (rows,):
        raise DataError(
            f"{name}: groups has shape {groups.shape}; it must hold one entry for each of the {rows} "
            f"samples of x_train."
        )
    _check_finite(groups, f"{name}: groups")
    return _numbered_groups(groups)


def _numbered_groups(groups: NDArray[Any]) -> NDArray[Any]:
    """Return groups as numbers from 0 on, in the order of what they were called."""
    return np.unique(groups, return_inverse=True)[1].astype(np.int64)


def _plain(value: Any, what: str) -> NDArray[Any]:
    """Return an array of numbers, booleans or text, in the machine's byte order."""
    with damage_reported(what):
        array = np.asarray(value)
    if array.dtype.kind == "O" and all(isinstance(each, str) for each in array.flat):
        array = array.astype(str)  # as pandas holds text
    if array.dtype.kind not in "biufUS":
        raise DataError(f"{what} holds values of type {array.dtype}; numbers, booleans or text are needed.")
    if array.ndim == 0 or array.size == 0:
        raise DataError(f"{what} has shape {array.shape}; it must hold at least one sample.")
    if array.dtype.kind == "b":  # a stored boolean may be any byte
        array = array.view(np.uint8) != 0
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _inputs(value: Any, what: str) -> NDArray[Any]:
    array = _plain(value, what)
    if array.dtype.kind in "US":
        raise DataError(f"{what} holds text; inputs must be numbers.")
    if array.ndim == 1:
        raise DataError(
            f"{what} has shape {array.shape}; it needs an axis of samples and one or more of features."
        )
    if array.ndim == 3 and array.dtype == np.uint8:
        array = array[..., np.newaxis]
    _check_finite(array, what)
    return array


def _check_finite(array: NDArray[Any], what: str) -> None:
    if array.dtype.kind == "f":
        for rows in row_chunks(array):
            good = np.isfinite(array[rows]).reshape(rows.stop - rows.start, -1).all(axis=1)
            if not good.all():
                raise DataError(
                    f"{what} holds a missing or infinite value in sample {rows.start + int(good.argmin())}."
                )


def _text(value: Any, what: str) -> list[str]:
    array = _plain(value, what)
    with damage_reported(what):
        items = array.reshape(-1).tolist()
        names = [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in items]
    if len(set(names)) != len(names) and array.dtype.kind in "US" and what.endswith("labels"):
        raise DataError(f"{what} names a class twice.")
    return names


def _targets(y: NDArray[Any], test: NDArray[Any] | None, names: list[str], name: str) -> _Targets:
    """Settle what the targets mean; return both splits and the class names (empty for regression)."""
    y, test = _flat(y), None if test is None else _flat(test)
    if test is not None and (
        test.shape[1:] != y.shape[1:] or (test.dtype.kind in "US") != (y.dtype.kind in "US")
    ):
        raise DataError(
            f"{name}: y_train {y.dtype} {y.shape} and y_test {test.dtype} {test.shape} don't fit together."
        )
    parts = [y] if test is None else [y, test]
    if y.ndim == 2 and y.dtype.kind not in "US" and all(is_one_hot(part) for part in parts):
        if y.dtype.kind == "b":
            y, test = y.astype(np.float32), None if test is None else test.astype(np.float32)
        return y, test, tuple(_checked(names, y.shape[1], name) or _numbered(y.shape[1]))
    if y.ndim == 1 and y.dtype.kind in "US":
        return _classes_of_text(parts, names, name)
    if y.dtype.kind == "f" and y.ndim in (1, 2):
        if names:
            raise DataError(
                f"{name} has class labels, but float targets mean regression; store classes as integers."
            )
        for part in parts:
            _check_finite(part.reshape(len(part), -1), f"{name}: the target")
        return y, None if test is None else test.astype(y.dtype, copy=False), ()
    if y.ndim == 1 and all(part.dtype.kind in "biu" for part in parts):
        return _classes_of_integers(parts, names, name)
    raise DataError(
        f"{name}: targets of shape {y.shape} and type {y.dtype} are neither classes (integers of shape N, or "
        f"one-hot N×K) nor a regression target (floats)."
    )


def _flat(y: NDArray[Any]) -> NDArray[Any]:
    return y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y


def _classes_of_text(parts: list[NDArray[Any]], names: list[str], name: str) -> _Targets:
    texts = [_text(part, f"{name}: the target") for part in parts]
    order = names or sorted(set(texts[0]))
    number = {text: k for k, text in enumerate(order)}
    for text in sorted({text for part in texts for text in part}):
        if text not in number:
            raise DataError(f"{name} has a target {text!r} that is not among its {len(order)} classes.")
    coded = [np.array([number[text] for text in part], np.int32) for part in texts]
    return coded[0], coded[1] if len(coded) > 1 else None, tuple(_checked(order, len(order), name))


def _classes_of_integers(parts: list[NDArray[Any]], names: list[str], name: str) -> _Targets:
    values = np.unique(np.concatenate([np.unique(part.astype(np.int64)) for part in parts]))
    low, high = int(values[0]), int(values[-1])
    if names:
        if low < 0 or high >= len(names):
            raise DataError(
                f"{name} has targets {low} to {high}, but {len(names)} labels: number classes from 0."
            )
        kept = _checked(names, len(names), name)
        coded = [part.astype(np.int32) for part in parts]
    elif low == 0:
        kept = _numbered(_bounded(high + 1, name))
        coded = [part.astype(np.int32) for part in parts]
    else:
        _bounded(len(values), name)
        kept = [str(v) for v in values.tolist()]
        coded = [np.searchsorted(values, part.astype(np.int64)).astype(np.int32) for part in parts]
    return coded[0], coded[1] if len(coded) > 1 else None, tuple(kept)


def _numbered(count: int) -> list[str]:
    return [str(k) for k in range(count)]


def _bounded(count: int, name: str) -> int:
    if count > MAX_CLASSES:
        raise DataError(
            f"{name} has integer targets that would make {count} classes, more than {MAX_CLASSES}; "
            f"for a regression store them as floats."
        )
    return count


def _checked(names: list[str], count: int, name: str) -> list[str]:
    if names and len(names) != count:
        raise DataError(f"{name} has {len(names)} labels for {count} classes.")
    _bounded(count, name)
    return names
