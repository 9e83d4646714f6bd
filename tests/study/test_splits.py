"""Which rows are trained on and which are validated on: scikit-learn's splits, and what must hold of each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import model_selection as ms

from shrinkage.errors import SpecError
from shrinkage.study.spec import StudySpec
from shrinkage.study.splits import outer_splits, splits


def spec(**changes):
    return StudySpec.parse({"data": "digits", "model": "m:f", "arms": [], **changes})


@st.composite
def cases(draw):
    """A spec, targets and groups (or None) that fit together, as a rule."""
    n = draw(st.integers(24, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = draw(st.sampled_from([rng.integers(0, 3, n), rng.normal(size=n)]))
    groups = draw(st.sampled_from([None, rng.integers(0, 12, n), rng.integers(0, 12, n).astype(str)]))
    how = {"stratify": draw(st.booleans())}
    if draw(st.booleans()):
        how |= {"folds": draw(st.integers(2, 4)), "repeats": draw(st.integers(1, 3))}
    else:
        how |= {"validation": draw(st.sampled_from([0.2, 0.4])), "repeats": draw(st.integers(1, 3))}
    return how, y, groups


@given(cases())
@settings(max_examples=60)
def test_what_holds_of_every_split(case):
    how, y, groups = case
    found = splits(spec(**how), y, groups)
    assert len(found) == spec(**how).split_count
    check_partition(found, len(y))
    folds = how.get("folds", 1)
    for start in (
        range(0, len(found), folds) if folds > 1 else ()
    ):  # in every repeat each row is once held out
        held_out = np.concatenate([s.validation for s in found[start : start + folds]])
        assert np.array_equal(np.sort(held_out), np.arange(len(y)))
    for split in found if groups is not None else ():
        assert not set(groups[split.train]) & set(groups[split.validation])
    again = splits(spec(**how), y.copy(), groups)
    assert all(
        np.array_equal(a.validation, b.validation) and np.array_equal(a.train, b.train)
        for a, b in zip(found, again, strict=True)
    )


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("stratify", [False, True])
def test_repeats_are_different(rng, stratify, grouped):
    y, groups = rng.integers(0, 2, 60), np.arange(60) % 20 if grouped else None
    found = splits(spec(folds=3, repeats=4, stratify=stratify), y, groups)
    first = {tuple(split.validation) for split in found[::3]}
    assert len(first) == 4


@pytest.mark.parametrize("stratify", [False, True])
def test_the_first_repeat_is_the_study_without_repeats(rng, stratify):
    y = rng.integers(0, 2, 60)
    once, thrice = (splits(spec(folds=4, repeats=r, stratify=stratify), y) for r in (1, 3))
    assert all(np.array_equal(a.train, b.train) for a, b in zip(once, thrice[:4], strict=True))


SEEDED = {"shuffle": True, "random_state": 0}
THEIRS = {
    "holdout": ({"validation": 0.3}, ms.StratifiedShuffleSplit(1, test_size=0.3, random_state=0)),
    "holdout, plain": (
        {"validation": 0.3, "stratify": False},
        ms.ShuffleSplit(1, test_size=0.3, random_state=0),
    ),
    "k-fold": ({"folds": 4}, ms.StratifiedKFold(4, **SEEDED)),
    "k-fold, plain": ({"folds": 4, "stratify": False}, ms.KFold(4, **SEEDED)),
    "repeated": (
        {"folds": 4, "repeats": 3},
        ms.RepeatedStratifiedKFold(n_splits=4, n_repeats=3, random_state=0),
    ),
    "repeated, plain": (
        {"folds": 4, "repeats": 3, "stratify": False},
        ms.RepeatedKFold(n_splits=4, n_repeats=3, random_state=0),
    ),
    "grouped holdout": (
        {"validation": 0.3, "groups": "g"},
        ms.GroupShuffleSplit(1, test_size=0.3, random_state=0),
    ),
    "grouped": ({"folds": 4, "groups": "g"}, ms.StratifiedGroupKFold(4, **SEEDED)),
    "grouped, plain": ({"folds": 4, "groups": "g", "stratify": False}, ms.GroupKFold(4)),
}


@pytest.mark.parametrize("case", THEIRS)
def test_they_are_scikit_learns(rng, case):
    how, theirs = THEIRS[case]
    y, groups = rng.integers(0, 3, 80), rng.integers(0, 15, 80)
    found = splits(spec(**how), y, groups if "groups" in how else None)
    expected = list(theirs.split(np.zeros(80), y, groups if "groups" in how else None))
    assert len(found) == len(expected)
    for split, (train, validation) in zip(found, expected, strict=True):
        assert np.array_equal(split.train, np.sort(train))
        assert np.array_equal(split.validation, np.sort(validation))


@pytest.mark.parametrize("stratify", [False, True])
def test_repeats_with_groups_are_scikit_learns_at_one_state_each(rng, stratify):
    y, groups = rng.integers(0, 3, 80), rng.integers(0, 15, 80)
    found = splits(spec(folds=3, repeats=2, stratify=stratify), y, groups)
    theirs = ms.StratifiedGroupKFold if stratify else ms.GroupKFold
    for repeat in range(2):
        parts = theirs(3, shuffle=True, random_state=repeat).split(np.zeros(80), y, groups)
        for split, (_, validation) in zip(found[3 * repeat : 3 * repeat + 3], parts, strict=True):
            assert np.array_equal(split.validation, np.sort(validation))


def test_repeats_are_stratified_within_one_row(rng):
    y = rng.choice(3, 99, p=[0.6, 0.3, 0.1])
    for split in splits(spec(folds=4, repeats=3), y):
        assert np.abs(np.bincount(y[split.validation]) - np.bincount(y) / 4).max() <= 1


def test_outer_splits_are_the_folds_of_the_same_kind(rng):
    y, groups = rng.integers(0, 3, 60), rng.integers(0, 12, 60)
    for of in (None, groups):
        for stratify in (False, True):
            outer = outer_splits(spec(nested=3, validation=0.2, stratify=stratify), y, of)
            as_folds = splits(spec(folds=3, stratify=stratify), y, of)
            assert all(np.array_equal(a.train, b.train) for a, b in zip(outer, as_folds, strict=True))


@pytest.mark.parametrize(
    ("how", "groups", "words"),
    [
        ({"folds": 4}, [0, 1, 2] * 8, ["folds = 4", "3 groups"]),
        ({"folds": 4, "stratify": False}, ["a"] * 24, ["folds = 4", "1 group:"]),
        ({"validation": 0.2}, ["a"] * 24, ["validation = 0.2", "24 training rows"]),
        ({"folds": 3}, [0] * 8 + [1] * 8 + [2] * 8, None),
    ],
)
def test_too_few_groups_are_told(how, groups, words):
    y = np.arange(24) % 2
    if words is None:
        check_partition(splits(spec(**how), y, np.array(groups)), 24)
        return
    with pytest.raises(SpecError) as caught:
        splits(spec(**how), y, np.array(groups))
    assert all(word in str(caught.value) for word in words), caught.value
    with pytest.raises(SpecError, match="nested = 30"):
        outer_splits(spec(nested=30), y, np.array(groups))


def check_partition(splits, n):
    for split in splits:
        together = np.concatenate([split.train, split.validation])
        assert np.array_equal(np.sort(together), np.arange(n))
        assert len(split.train)
        assert len(split.validation)
        assert np.array_equal(split.train, np.sort(split.train))


def shares(y, rows):
    return np.bincount(y[rows], minlength=y.max() + 1) / len(rows)


def test_a_holdout_is_stratified_and_covers_everything(rng):
    y = rng.choice(5, 500, p=[0.5, 0.2, 0.15, 0.1, 0.05])
    (split,) = splits(spec(validation=0.3), y)
    check_partition([split], 500)
    assert len(split.validation) == 150
    assert np.abs(shares(y, split.train) - shares(y, split.validation)).max() < 0.01


def test_folds_are_stratified_and_each_row_is_validated_once(rng):
    y = rng.choice(3, 99, p=[0.6, 0.3, 0.1])
    found = splits(spec(folds=4), y)
    check_partition(found, 99)
    assert np.array_equal(np.sort(np.concatenate([s.validation for s in found])), np.arange(99))
    for split in found:
        assert np.abs(np.bincount(y[split.validation]) - np.bincount(y) / 4).max() <= 1


@pytest.mark.parametrize("folds", [None, 3])
def test_splits_are_fixed_and_do_not_depend_on_seeds_or_the_name(rng, folds):
    y = rng.integers(0, 3, 60)
    first = splits(spec(folds=folds), y)
    np.random.seed(123)
    second = splits(spec(folds=folds, seeds=9, name="x"), y.copy())
    for a, b in zip(first, second, strict=True):
        assert np.array_equal(a.train, b.train)
        assert np.array_equal(a.validation, b.validation)


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
@pytest.mark.parametrize("folds", [None, 5])
def test_numbers_are_split_without_classes(rng, shape, folds):
    y = rng.normal(size=(50, *shape)).astype("float32")
    found = splits(spec(folds=folds), y)
    check_partition(found, 50)
    assert len(found) == (folds or 1)


def test_one_hot_targets_are_stratified_as_their_classes(rng):
    y = rng.choice(3, 90, p=[0.7, 0.2, 0.1])
    plain, hot = splits(spec(), y), splits(spec(), np.eye(3, dtype="float32")[y])
    assert np.array_equal(plain[0].validation, hot[0].validation)


def test_a_class_of_one_row_still_splits():
    y = np.array([0] * 20 + [1] * 20 + [2])
    check_partition(splits(spec(), y), 41)
    check_partition(splits(spec(folds=3), y), 41)


@pytest.mark.parametrize(
    ("changes", "y", "words"),
    [
        ({"folds": 5}, np.arange(3) % 2, ["folds = 5", "3 training rows"]),
        ({"validation": 0.2}, np.zeros(1, int), ["validation = 0.2", "1 training rows"]),
        ({"validation": 0.01}, np.arange(40) % 10, ["validation = 0.01", "40 training rows"]),
        ({}, np.zeros(1), ["validation = 0.2"]),
    ],
)
def test_too_few_rows_are_told(changes, y, words):
    with pytest.raises(SpecError) as caught:
        splits(spec(**changes), y)
    assert all(word in str(caught.value) for word in words), caught.value
