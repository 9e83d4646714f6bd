"""Everything that Keras users write where a penalty is meant."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkage.errors import PenaltyError, ShrinkageError, StrengthError
from shrinkage.penalties import L1, L1L2, L2, STRENGTH, get_penalty, to_keras

r = keras.regularizers


def named(value: object) -> str:
    """Return a name for a test that is the same in every process."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))[:40]


class Doubled(keras.regularizers.L2):
    """A subclass may charge something else, so it is not an L2."""

    def __call__(self, x):
        return 2 * super().__call__(x)


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        (None, None),
        ("none", None),
        ("None", None),
        ("l1", L1(0.01)),
        ("l2", L2(0.01)),
        ("l1_l2", L1L2(0.01, 0.01)),
        ("l2(1e-4)", L2(1e-4)),
        ("l1(strength)", L1(STRENGTH)),
        ("0.5", L2(0.5)),
        (0.5, L2(0.5)),
        (0, L2(0.0)),
        (np.float32(0.5), L2(0.5)),
        (np.int64(2), L2(2.0)),
        (r.L1(1e-4), L1(1e-4)),
        (r.L1(), L1(0.01)),
        (r.L2(1e-4), L2(1e-4)),
        (r.L1L2(1e-5, 1e-4), L1L2(1e-5, 1e-4)),
        (r.L1L2(), L1L2(0.0, 0.0)),
        (r.get("l1"), L1(0.01)),
        (r.serialize(r.L1L2(1e-5, 1e-4)), L1L2(1e-5, 1e-4)),
        (r.serialize(r.L2(3.0)), L2(3.0)),
        ({"class_name": "L2", "config": {"l2": 0.25}}, L2(0.25)),
        ({"class_name": "L2"}, L2(0.01)),
        (r.serialize(L1(1e-4)), L1(1e-4)),
        (r.serialize(L1L2(0.1, 0.2)), L1L2(0.1, 0.2)),
    ],
    ids=named,
)
def test_what_stands_for_a_penalty(identifier, expected):
    found = get_penalty(identifier)
    assert found == expected
    assert type(found) is type(expected)


def test_ours_pass_as_they_are():
    penalty = L1(STRENGTH)
    assert get_penalty(penalty) is penalty


@pytest.mark.parametrize(
    "identifier",
    [
        r.OrthogonalRegularizer(0.1),
        Doubled(0.1),
        r.L2,
        L2,
        lambda w: 0.0,
        [0.1],
        (L1(0.1),),
        b"l1",
        object(),
        np.array([0.1]),
        "l3",
        "",
        "l1l2",
        {},
        {"class_name": "L9", "config": {}},
        {"class_name": "L2", "config": {"l9": 0.1}},
        {"class_name": "L2", "config": {"l2": -1.0}},
        {"class_name": "Dense", "config": {"units": 1}},
        {"module": "os", "class_name": "system", "config": {"command": "true"}, "registered_name": None},
        {"module": "builtins", "class_name": "exec", "config": "raise SystemExit", "registered_name": "exec"},
        {"class_name": "__lambda__", "config": {"value": ["", None, None]}},
        r.serialize(r.OrthogonalRegularizer(0.1)),
        {"x" * 5000: 1},
    ],
    ids=named,
)
def test_what_is_no_penalty_is_refused(identifier):
    with pytest.raises(PenaltyError) as raised:
        get_penalty(identifier)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("identifier", [-0.1, float("nan"), float("inf"), True, 1j, "l2(-1)", "-0.5"])
def test_numbers_that_are_no_strength_are_refused(identifier):
    with pytest.raises(StrengthError):
        get_penalty(identifier)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [("l1l2", "l1_l2"), ("L2(0.1)", "l2"), ("l1-l2", ""), ("nonne", "none"), ("l_1", "l1"), ("ridge", "")],
)
def test_the_nearest_penalty_is_named(text, nearest):
    with pytest.raises(PenaltyError) as raised:
        get_penalty(text)
    assert (f"Did you mean {nearest!r}?" in str(raised.value)) == bool(nearest)
    assert "l1_l2(l1, l2)" in str(raised.value)


@given(st.floats(min_value=0, max_value=2.0**100, width=32))
def test_numbers_survive_the_way_through_keras(strength):
    """Keras's L1 holds its strength as a float32 tensor; no number that is one is lost."""
    strength = float(str(np.float32(strength)))
    for penalty in (L1(strength), L2(strength), L1L2(strength, strength / 2)):
        assert get_penalty(to_keras(penalty)) == penalty


@pytest.mark.parametrize("strength", [1e-4, 1e-5, 0.003, 0.1, 1 / 3])
def test_a_strength_of_keras_reads_as_it_was_written(strength):
    found = get_penalty(r.L1(strength))
    assert found is not None
    assert found.strength == pytest.approx(strength, rel=1e-7)
    if strength != 1 / 3:
        assert found.strength == strength


def test_every_refusal_is_one_of_the_packages_own_errors():
    assert issubclass(PenaltyError, ShrinkageError)
    assert issubclass(PenaltyError, ValueError)


def test_traps_in_keras_that_this_is_for():
    """Why text is read here: Keras rejects ``'l1_l2'``, and charges nothing for ``'l1l2'``."""
    with pytest.raises(ValueError, match="Could not interpret regularizer"):
        keras.layers.Dense(1, kernel_regularizer="l1_l2")
    layer = keras.layers.Dense(1, kernel_regularizer="l1l2")
    layer.build((None, 3))
    assert float(layer.losses[0]) == 0
