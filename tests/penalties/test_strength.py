"""What a strength can be."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkage.errors import ShrinkageError, StrengthError
from shrinkage.penalties import L1, L1L2, L2, STRENGTH, Multiple, check_strength
from shrinkage.penalties.strength import shown


def named(value: object) -> str:
    """Return a name for a test that is the same in every process."""
    return re.sub(" at 0x[0-9a-f]+", "", shown(value, 30))


BAD = [
    float("nan"),
    float("inf"),
    float("-inf"),
    -1,
    -1e-300,
    np.float32("nan"),
    np.float64(-0.5),
    np.int64(-3),
    True,
    False,
    np.True_,
    np.array(True),
    "0.1",
    "",
    b"1",
    None,
    [],
    [0.1],
    (0.1,),
    {},
    1j,
    np.complex64(1),
    np.array([0.1]),
    np.str_("0.1"),
    np.datetime64("2020-01-01"),
    np.timedelta64(3, "s"),
    np.array("0.1"),
    np.array([(1.0,)], dtype=[("float", "f8")])[0],
    10**400,
    10**5000,
    -(10**5000),
    Decimal("0.1"),
    pytest.param(object(), id="object"),
    float,
    math.inf,
]

GOOD = [
    (0, 0.0),
    (1, 1.0),
    (0.25, 0.25),
    (5e-324, 5e-324),
    (1.7e308, 1.7e308),
    (Fraction(1, 4), 0.25),
    (np.float16(0.25), 0.25),
    (np.float32(0.25), 0.25),
    (np.float64(0.1), 0.1),
    (np.int8(3), 3.0),
    (np.uint64(3), 3.0),
    (np.array(0.25), 0.25),
    (ml_dtypes.bfloat16(0.25), 0.25),
    (10**30, 1e30),
]


@pytest.mark.parametrize("value", BAD, ids=named)
def test_what_is_no_strength_is_refused_by_name_and_value(value):
    """Every way in says which argument it was, and what was given."""
    ways = {
        "strength": lambda: L1(value),
        "l2": lambda: L1L2(0.1, value),
        "l1_ratio": lambda: L1L2.from_ratio(0.1, value),
        "weight_decay": lambda: L2.from_weight_decay(value),
        "the factor of strength": lambda: STRENGTH * value,
        "the divisor of strength": lambda: STRENGTH / value,
        "anything": lambda: check_strength(value, "anything"),
    }
    for name, use in ways.items():
        with pytest.raises(StrengthError) as raised:
            use()
        message = str(raised.value)
        assert message.startswith(f"{name} must be a finite number ≥ 0; got "), message
        assert shown(value) in message
        assert len(message) < 200
        assert isinstance(raised.value, ShrinkageError | ValueError)


@pytest.mark.parametrize(("given_", "expected"), GOOD, ids=named)
def test_numbers_of_every_kind_become_python_floats(given_, expected):
    assert check_strength(given_) == expected
    for number in (*L1(given_).numbers(), *L2(given_).numbers(), *L1L2(given_, given_).numbers()):
        assert type(number) is float
        assert number == expected


def test_negative_zero_is_zero():
    assert math.copysign(1, check_strength(-0.0)) == 1
    assert str(L1(-0.0)) == "l1(0.0)"
    assert L1(-0.0) == L1(0.0)


@given(st.floats(min_value=0, max_value=1e308))
def test_finite_numbers_pass_unchanged(value):
    assert check_strength(value) == value


def test_defaults_are_kerass():
    assert (L1().numbers(), L2().numbers(), L1L2().numbers()) == ((0.01,), (0.01,), (0.0, 0.0))


def test_kerass_argument_names_work():
    assert L1(l1=0.3) == L1(0.3) == L1(strength=0.3)
    assert L2(l2=0.3) == L2(0.3)
    assert (L1(0.3).l1, L2(0.3).l2, L1L2(0.1, 0.2).l1, L1L2(0.1, 0.2).l2) == (0.3, 0.3, 0.1, 0.2)
    with pytest.raises(StrengthError, match="l1 must be"):
        L1(l1=-1)


@given(st.floats(min_value=0, max_value=1e150), st.floats(min_value=1e-100, max_value=1e100))
def test_multiples_multiply_and_divide(factor, divisor):
    assert factor * STRENGTH == STRENGTH * factor == Multiple(factor)
    assert (factor * STRENGTH / divisor).factor == factor / divisor
    assert 2 * (factor * STRENGTH) == Multiple(2 * factor)


def test_multiples_are_no_numbers_to_each_other():
    with pytest.raises(StrengthError, match="the factor of strength"):
        STRENGTH * STRENGTH
    with pytest.raises(StrengthError, match="the factor of strength"):
        STRENGTH / 0


def test_multiples_read_as_they_are_written():
    assert repr(STRENGTH) == "strength"
    assert repr(0.5 * STRENGTH) == "0.5*strength"
    assert repr(np.float64(0.5) * STRENGTH) == "0.5*strength"
    assert str(L1L2(STRENGTH, STRENGTH / 2)) == "l1_l2(strength, 0.5*strength)"


def test_shown_is_short_and_always_possible():
    assert shown(0.1) == "0.1"
    assert len(shown("x" * 10_000)) < 100
    assert "bits" in shown(10**5000)
