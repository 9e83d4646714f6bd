"""`Data`, what targets mean, and the fixed test split."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkage.data import Data, load_data
from shrinkage.data.build import build_data
from shrinkage.data.split import split_in_place, split_mask
from shrinkage.errors import DataError


def tiny(**changes) -> Data:
    x = np.arange(16, dtype=np.uint8).reshape(4, 2, 2, 1)
    y = np.array([0, 1, 0, 1], np.int32)
    return Data(
        **{"name": "t", "x_train": x, "y_train": y, "x_test": x, "y_test": y, "labels": ("a", "b")} | changes
    )


def test_data_is_frozen_and_says_what_it_is():
    data = tiny()
    assert repr(data) == "Data('t': 4 training and 4 test samples of 2×2×1 uint8, 2 classes)"
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "other"
    assert (data.input_shape, data.classes, data.outputs, data.is_image, data.is_one_hot) == (
        (2, 2, 1),
        2,
        2,
        True,
        False,
    )
    assert data.nbytes == 2 * (16 + 16)
    assert pickle.loads(pickle.dumps(data)).fingerprint() == data.fingerprint()


@pytest.mark.parametrize(
    "changes",
    [
        {"x_train": np.zeros((3, 2, 2, 1))},
        {"x_test": np.zeros((4, 2, 3, 1))},
        {"x_train": [[1]]},
        {"y_test": np.zeros((4, 2))},
        {"x_test": np.zeros((0, 2, 2, 1)), "y_test": np.zeros(0)},
        {"x_train": np.zeros(4), "x_test": np.zeros(4)},
    ],
)
def test_arrays_that_do_not_fit_are_refused(changes, refused):
    refused(lambda: tiny(**changes))


def test_scaling():
    data = tiny()
    assert data.scaled(np.full((1, 2, 2, 1), 255, np.uint8)).max() == 1.0
    assert data.scaled(data.x_train).dtype == np.float32
    assert data.x_train.dtype == np.uint8
    table = tiny(x_train=np.full((4, 3), 200, np.uint8), x_test=np.full((4, 3), 200, np.uint8))
    assert table.scaled(table.x_train).max() == 200  # a table's column is no brightness
    for kind in ("float32", "float64"):
        x = np.ones((1, 2, 2, 1), kind)
        assert data.scaled(x) is x
    assert data.scaled(np.ones((1, 2, 2, 1), np.int64)).dtype == np.float32


def test_fingerprint_depends_on_content_alone():
    base = tiny().fingerprint()
    assert tiny(name="other").fingerprint() == base
    x = tiny().x_train
    assert tiny(x_train=np.asfortranarray(x)).fingerprint() == base
    assert tiny(y_train=np.array([0, 1, 0, 1], ">i4")).fingerprint() == base
    different = [
        tiny(x_train=x + 1),
        tiny(x_test=x + 1),
        tiny(y_test=np.array([1, 1, 0, 1], np.int32)),
        tiny(y_train=np.array([0, 1, 0, 1], np.int64)),
        tiny(labels=("a", "c")),
        tiny(x_train=x.reshape(4, 1, 4, 1), x_test=x.reshape(4, 1, 4, 1)),
    ]
    assert len({base, *(data.fingerprint() for data in different)}) == len(different) + 1


def test_fingerprint_is_the_documented_hash():
    data = tiny()
    digest = hashlib.sha256()
    for array, kind in (
        (data.x_train, "|u1"),
        (data.y_train, "<i4"),
        (data.x_test, "|u1"),
        (data.y_test, "<i4"),
    ):
        digest.update(f"{kind}{array.shape};".encode() + array.tobytes())
    digest.update(b"a\0b")
    assert data.fingerprint() == digest.hexdigest()


X = np.arange(40, dtype=np.float32).reshape(20, 2)


@pytest.mark.parametrize(
    ("y", "labels", "codes"),
    [
        (np.arange(20) % 3, ("0", "1", "2"), np.arange(20) % 3),
        (np.arange(20) % 3 + 1, ("1", "2", "3"), np.arange(20) % 3),
        (np.arange(20) % 2 * 2 - 1, ("-1", "1"), np.arange(20) % 2),
        (np.arange(20) % 2 == 1, ("0", "1"), np.arange(20) % 2),
        (np.array(["b", "a"] * 10), ("a", "b"), 1 - np.arange(20) % 2),
        (np.array([b"b", b"a"] * 10), ("a", "b"), 1 - np.arange(20) % 2),
        ((np.arange(20) % 3).reshape(-1, 1).astype(np.uint8), ("0", "1", "2"), np.arange(20) % 3),
    ],
)
def test_class_targets_become_numbers_from_zero(y, labels, codes):
    data = build_data("t", {"x_train": X, "y_train": y, "x_test": X, "y_test": y})
    assert data.labels == labels
    assert data.y_train.dtype == np.int32
    assert data.y_train.tolist() == codes.tolist() == data.y_test.tolist()
    assert data.classes == len(labels)


def test_one_hot_targets_stay_as_they_are():
    y = np.eye(4)[np.arange(20) % 4]
    data = build_data("t", {"x_train": X, "y_train": y})
    assert data.is_one_hot
    assert data.classes == 4
    assert data.y_train.dtype == y.dtype
    assert data.y_train.shape == (16, 4)
    assert data.y_test.sum(axis=0).tolist() == [1, 1, 1, 1]


def test_float_targets_mean_regression():
    for y in (np.linspace(0, 1, 20), np.stack([np.linspace(0, 1, 20)] * 2, axis=1)):
        data = build_data("t", {"x_train": X, "y_train": y})
        assert (data.classes, data.labels, data.is_one_hot) == (0, (), False)
        assert data.outputs == (1 if y.ndim == 1 else 2)
        assert len(data.x_test) == 4


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x_train": X}, "x_train and y_train"),
        ({"x_train": X, "y_train": np.zeros(20), "x_test": X}, "x_test with y_test"),
        ({"x_train": X, "y_train": np.zeros(19)}, "19"),
        ({"x_train": X * np.nan, "y_train": np.zeros(20)}, "sample 0"),
        ({"x_train": X, "y_train": np.full(20, np.inf)}, "infinite"),
        ({"x_train": X.astype(object), "y_train": np.zeros(20)}, "type object"),
        ({"x_train": X + 1j, "y_train": np.zeros(20)}, "complex"),
        ({"x_train": X.astype(str), "y_train": np.zeros(20)}, "text"),
        ({"x_train": X[:, 0], "y_train": np.zeros(20)}, "axis"),
        ({"x_train": X, "y_train": np.ones((20, 2), int)}, "one-hot"),
        ({"x_train": X, "y_train": np.arange(20) * 10_000}, "classes"),
        ({"x_train": X, "y_train": np.arange(20) % 3, "labels": ["a", "b"]}, "number classes from 0"),
        ({"x_train": X, "y_train": np.arange(20) % 2, "labels": ["a", "a"]}, "twice"),
        ({"x_train": X, "y_train": np.zeros(20), "labels": ["a", "b"]}, "regression"),
        ({"x_train": X, "y_train": ["a", "b"] * 10, "labels": ["a", "c"]}, "'b'"),
        ({"x_train": X, "y_train": ["a", "b"] * 10, "x_test": X, "y_test": ["a", "z"] * 10}, "'z'"),
        ({"x_train": X, "y_train": ["a"] * 20, "x_test": X, "y_test": [1] * 20}, "fit"),
        ({"x_train": X, "y_train": np.zeros((20, 3)), "x_test": X, "y_test": np.zeros((20, 1))}, "fit"),
        ({"x_train": X[:1], "y_train": [0]}, "too few"),
        ({"x_train": X[:0], "y_train": []}, "at least one"),
        ({"x_train": [[1], [2, 3]], "y_train": [0, 1]}, "x_train"),
    ],
)
def test_arrays_without_meaning_are_refused(arrays, says, refused):
    assert says in refused(lambda: build_data("t", arrays))


@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_the_split_takes_a_fifth_of_each_class(counts):
    y = np.repeat(np.arange(len(counts)), counts)
    if max(counts) == 1:
        with pytest.raises(DataError):
            split_mask(y, classes=True, what="t")
        return
    mask = split_mask(y, classes=True, what="t")
    for k, count in enumerate(counts):
        want = max(int(0.2 * count + 0.5), 1) if count > 1 else 0
        assert mask[y == k].sum() == want
    assert (mask == split_mask(y.astype(np.uint8), classes=True, what="t")).all()


@settings(max_examples=60, deadline=None)
@given(mask=st.lists(st.booleans(), min_size=2, max_size=60), width=st.integers(1, 3))
def test_splitting_in_place_moves_every_row_to_its_side(mask, width):
    marks = np.array(mask)
    array = np.arange(len(mask) * width).reshape(-1, width)
    rows = {True: set(map(tuple, array[marks].tolist())), False: set(map(tuple, array[~marks].tolist()))}
    train, test = split_in_place(array, marks)
    assert set(map(tuple, train.tolist())) == rows[False]
    assert set(map(tuple, test.tolist())) == rows[True]
    assert np.shares_memory(train, array) or not len(train)


def test_inputs_and_targets_move_together():
    x = np.arange(100, dtype=np.float64).reshape(100, 1)
    data = build_data("t", {"x_train": x, "y_train": x[:, 0].copy()})
    assert (data.x_train[:, 0] == data.y_train).all()
    assert (data.x_test[:, 0] == data.y_test).all()
    assert sorted([*data.y_train, *data.y_test]) == list(range(100))


def test_arrays_of_others_are_not_changed():
    x, y = X.copy(), np.arange(20) % 2
    kept = x.copy()
    build_data("t", {"x_train": x, "y_train": y}, owned=False)
    assert (x == kept).all()
    x.flags.writeable = False
    assert len(build_data("t", {"x_train": x, "y_train": y}).x_test) == 4


def test_digits_are_the_same_for_ever():
    """The split of the built-in set is part of its results: changing them breaks users' studies."""
    data = load_data("digits")
    assert data.x_train.shape == (1438, 8, 8, 1)
    assert data.x_train.dtype == np.float32
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)
    assert np.unique(data.x_train * 16 % 1).tolist() == [0]
    assert data.labels == tuple("0123456789")
    assert np.bincount(data.y_test).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert (
        data.fingerprint()
        == load_data("digits").fingerprint()
        == ("2a23c119117203666fb7c4486e434d00a779933f26165f3647996335814eb27b")
    )


def test_text_in_an_array_of_objects_is_text():
    labels = np.array(["b", "a", "b", "a"], object)
    found = build_data("text", {"x_train": np.zeros((4, 2)), "y_train": labels})
    assert found.labels == ("a", "b")
    with pytest.raises(DataError, match="values of type object"):
        build_data("text", {"x_train": np.zeros((4, 2)), "y_train": np.array(["b", 1, "b", "a"], object)})
