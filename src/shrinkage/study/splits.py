"""Splits: which training rows a trial learns from, and which it is validated on. scikit-learn's splitters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shrinkage.errors import SpecError
from shrinkage.study.spec import StudySpec
from shrinkage.study.words import count
from shrinkage.training.task import Split

_SEED = 0  # splits are fixed: two studies of the same data see the same ones


def splits(spec: StudySpec, y: Any, groups: NDArray[Any] | None = None) -> tuple[Split, ...]:
    """Return the fixed splits of the training rows, repeat by repeat.

    Each class has its share in every part where it has a row for each; with a share held out and groups only
    the groups count.

    Parameters
    ----------
    spec
        Says ``folds`` and ``repeats``, or ``validation``, and ``stratify``.
    y
        Targets of the training rows.
    groups
        What is equal for rows that belong together, (n,): they are on one side of every split.

    Raises
    ------
    SpecError
        If there are too few rows or groups to split.

    Examples
    --------
    >>> spec = StudySpec(data="digits", model="m:f", arms=(), folds=2, repeats=3)
    >>> y = np.repeat([0, 1], 10)
    >>> [(len(s.train), np.bincount(y[s.validation]).tolist()) for s in splits(spec, y)][:2]
    [(10, [5, 5]), (10, [5, 5])]
    """
    if spec.folds:
        return _parts(f"folds = {spec.folds}", spec.folds, spec.repeats, spec.stratify, y, groups)
    return _checked(f"validation = {spec.holdout}", _held_out(spec, class_of_rows(y), groups), len(y))


def outer_splits(spec: StudySpec, y: Any, groups: NDArray[Any] | None = None) -> tuple[Split, ...]:
    """Return the outer splits of a nested study: ``nested`` parts of the same kind, each left out once.

    Raises
    ------
    SpecError
        If there are too few rows or groups.
    """
    parts = spec.nested or 0
    return _parts(f"nested = {parts}", parts, 1, spec.stratify, y, groups)


_Found = Iterator[tuple[NDArray[Any], NDArray[Any]]]


def _parts(
    asked: str, folds: int, repeats: int, stratify: bool, y: Any, groups: NDArray[Any] | None
) -> tuple[Split, ...]:
    classes = class_of_rows(y)
    stratified = stratify and _members(classes) >= folds
    if groups is None:
        return _checked(asked, _folds(classes, folds, repeats, stratified), len(classes))
    if (found := len(np.unique(groups))) < folds:
        raise SpecError(f"{asked} does not fit {count(found, 'groups')}: each part needs one of its own.")
    return _checked(asked, _grouped_folds(classes, groups, folds, repeats, stratified), len(classes))


def _folds(classes: NDArray[Any], folds: int, repeats: int, stratified: bool) -> _Found:
    from sklearn import model_selection as ms

    # The first repeat is the split without repeats (but for groups that are not stratified: see below).
    splitter = (ms.RepeatedStratifiedKFold if stratified else ms.RepeatedKFold)(
        n_splits=folds, n_repeats=repeats, random_state=_SEED
    )
    yield from splitter.split(np.zeros(len(classes)), classes)


def _grouped_folds(
    classes: NDArray[Any], groups: NDArray[Any], folds: int, repeats: int, stratified: bool
) -> _Found:
    from sklearn import model_selection as ms

    for repeat in range(repeats):
        if stratified:
            splitter = ms.StratifiedGroupKFold(folds, shuffle=True, random_state=_SEED + repeat)
        elif repeats > 1:
            splitter = ms.GroupKFold(folds, shuffle=True, random_state=_SEED + repeat)
        else:  # without a shuffle the parts are as equal as the groups allow
            splitter = ms.GroupKFold(folds)
        yield from splitter.split(np.zeros(len(classes)), classes, groups)


def _held_out(spec: StudySpec, classes: NDArray[Any], groups: NDArray[Any] | None) -> _Found:
    from sklearn import model_selection as ms

    if groups is not None:
        splitter = ms.GroupShuffleSplit
    else:
        stratified = spec.stratify and _members(classes) >= 2
        splitter = ms.StratifiedShuffleSplit if stratified else ms.ShuffleSplit
    for repeat in range(spec.repeats):  # the first is the split without repeats
        one = splitter(1, test_size=spec.holdout, random_state=_SEED + repeat)
        yield from one.split(np.zeros(len(classes)), classes, groups)


def _checked(asked: str, found: _Found, rows: int) -> tuple[Split, ...]:
    try:
        out = tuple(Split(np.sort(train), np.sort(validation)) for train, validation in found)
    except ValueError as error:  # scikit-learn's reason, in one line
        raise SpecError(f"{asked} does not fit {rows} training rows: {error}") from None
    if not all(len(split.train) and len(split.validation) for split in out):
        raise SpecError(
            f"{asked} leaves a part without rows, since the groups can't share out the classes: take fewer "
            "parts, or stratify = false."
        )
    return out


def class_of_rows(y: Any) -> NDArray[Any]:
    """Return the class of each row, (n,), of class numbers or a one-hot matrix; -1 for a regression."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] > 1 and np.isin(y, (0, 1)).all():
        return np.asarray(y.argmax(1))
    if np.issubdtype(y.dtype, np.integer):
        return np.asarray(y.reshape(len(y), -1)[:, 0])
    return np.zeros(len(y), int) - 1


def _members(classes: NDArray[Any]) -> int:
    """Return the size of the smallest class (0 for a regression, which is not stratified)."""
    if len(classes) and (classes == -1).all():
        return 0
    return int(np.unique(classes, return_counts=True)[1].min())
