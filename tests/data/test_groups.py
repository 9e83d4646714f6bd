"""Groups: rows that belong together, from a file or an array, and never on two sides of a split."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkage.data import Data, load_data
from shrinkage.data.build import build_data
from shrinkage.data.split import TEST_SHARE, split_mask

GROUPS = np.repeat(["ann", "bob", "cid", "dee", "eve", "fay"], 5)


def arrays(n=30, **more):
    return {"x_train": np.arange(2.0 * n).reshape(n, 2), "y_train": np.arange(n) % 2, **more}


@given(st.lists(st.integers(0, 8), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1))
@settings(max_examples=80)
def test_the_test_split_takes_whole_groups_near_a_fifth(groups):
    groups = np.array(groups)
    mask = split_mask(np.zeros(len(groups)), classes=False, what="x", groups=groups)
    assert not set(groups[mask]) & set(groups[~mask])
    assert 0 < mask.sum() < len(groups)
    # No further from a fifth than the largest group, unless one must stay.
    largest = np.unique(groups, return_counts=True)[1].max()
    assert abs(mask.sum() - TEST_SHARE * len(groups)) <= largest
    assert np.array_equal(mask, split_mask(np.ones(len(groups)), classes=True, what="x", groups=groups))


@pytest.mark.parametrize("kind", ["npz", "csv", "arrays"])
def test_groups_go_with_their_rows_and_do_not_straddle_the_test_split(kind, tmp_path):
    given = arrays(who=GROUPS)
    if kind == "npz":
        np.savez(tmp_path / "a.npz", **given)
        data = load_data(tmp_path / "a.npz", groups="who")
    elif kind == "csv":
        rows = zip(given["x_train"].tolist(), GROUPS, given["y_train"], strict=True)
        lines = [f"{a},{who},{b},{y}" for (a, b), who, y in rows]
        (tmp_path / "a.csv").write_text("a,who,b,y\n" + "\n".join(lines) + "\n")
        data = load_data(tmp_path / "a.csv", groups="who")
    else:
        data = build_data("a", arrays(groups=list(GROUPS)), owned=False)
    assert data.input_shape == (2,)
    of_row = GROUPS[(data.x_train[:, 0] // 2).astype(int)]  # the first entry of a row tells which it was
    held_out = GROUPS[(data.x_test[:, 0] // 2).astype(int)]
    assert not set(of_row) & set(held_out)
    names = [set(of_row[data.groups == k]) for k in np.unique(data.groups)]
    assert all(len(name) == 1 for name in names)
    assert len(names) == len(set(of_row))
    assert np.array_equal(np.unique(data.groups), np.arange(len(names)))
    again = {"x_train": data.x_train, "y_train": data.y_train, "x_test": data.x_test, "y_test": data.y_test}
    stored = build_data("a", {**again, "groups": data.groups}, labels=data.labels)
    assert stored.fingerprint() == data.fingerprint()


def test_a_group_column_in_any_place(tmp_path):
    table = {"g": ["p", "q", "r", "s", "t"] * 2, "y": ["u", "v"] * 5, "a": range(10), "b": range(10)}
    found = []
    for order in (["g", "y", "a", "b"], ["a", "y", "b", "g"], ["a", "g", "b", "y"]):
        lines = [
            ",".join(order),
            *(",".join(map(str, row)) for row in zip(*map(table.get, order), strict=True)),
        ]
        (tmp_path / "a.csv").write_text("\n".join(lines))
        found.append(load_data(tmp_path / "a.csv", groups="g"))
    assert len({data.fingerprint() for data in found}) == 1
    assert found[0].input_shape == (2,)


def test_without_groups_nothing_changes_and_with_them_the_fingerprint_does():
    data = load_data("digits")
    assert data.groups is None
    grouped = replace(data, groups=np.arange(len(data.x_train)))
    others = replace(data, groups=np.arange(len(data.x_train)) // 2)
    assert len({data.fingerprint(), grouped.fingerprint(), others.fingerprint()}) == 3


def test_an_array_called_groups_is_left_alone_unless_asked_for(tmp_path):
    np.savez(tmp_path / "a.npz", **arrays(groups=GROUPS))
    assert load_data(tmp_path / "a.npz").groups is None
    assert load_data(tmp_path / "a.npz", groups="groups").groups is not None


CSV = "who,a,y\nann,1,0\nbob,2,1\ncid,3,0\n,4,1\n"
HOSTILE = {
    "no such array": ("whom", arrays(who=GROUPS), ["'whom'", "Did you mean 'who'?"]),
    "too short": ("who", arrays(who=GROUPS[:-1]), ["(29,)", "30"]),
    "a matrix": ("who", arrays(who=np.zeros((30, 2))), ["(30, 2)"]),
    "not finite": ("who", arrays(who=np.full(30, np.nan)), ["groups", "missing"]),
    "one group": ("who", arrays(who=np.zeros(30)), ["one group"]),
    "no such column": ("whom", CSV, ["no column 'whom'", "Did you mean 'who'?"]),
    "the label": ("y", CSV, ["'y'", "the label"]),
    "a gap": ("who", CSV, ["line 5", "'who'", "missing"]),
    "no features": ("who", "who,y\nann,1\n", ["'who' and 'y'", "features"]),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_does_not_fit_is_told(case, tmp_path, refused):
    name, content, words = HOSTILE[case]
    path = tmp_path / ("a.csv" if isinstance(content, str) else "a.npz")
    if isinstance(content, str):
        path.write_text(content)
    else:
        np.savez(path, **content)
    message = refused(lambda: load_data(path, groups=name))
    assert all(word in message for word in words), message


def test_groups_of_what_has_none(tmp_path, refused):
    for name in ("digits", str(tmp_path), "shrinkage.data:available"):
        assert "`groups` names" in refused(lambda name=name: load_data(name, groups="who"))
    x, y = np.zeros((4, 1)), np.array([0, 1, 0, 1])
    for wrong in (np.zeros(3), [0, 0, 1, 1], "who", np.zeros((4, 1))):
        assert "4 training samples" in refused(lambda wrong=wrong: Data("a", x, y, x, y, groups=wrong))
