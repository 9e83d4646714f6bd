"""The text form: a small language, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkage.errors import PenaltyError, ShrinkageError, StrengthError
from shrinkage.penalties import L1, L1L2, L2, STRENGTH, parse_penalty


@pytest.mark.parametrize(
    ("text", "penalty"),
    [
        ("none", None),
        (" NONE ", None),
        ("none  # exempt", None),
        ("l1", L1(0.01)),
        ("l1()", L1(0.01)),
        ("l1_l2", L1L2(0.01, 0.01)),
        ("l1_l2()", L1L2(0.01, 0.01)),
        ("l1(0.5)", L1(0.5)),
        (" l1 ( 0.5 ) ", L1(0.5)),
        ("l1(0.5)  # strong", L1(0.5)),
        ("l1(l1=0.5)", L1(0.5)),
        ("l1(+0.5)", L1(0.5)),
        ("l1(-0.0)", L1(0.0)),
        ("l2(1e-4)", L2(1e-4)),
        ("l2(1)", L2(1.0)),
        ("l2(1/4)", L2(0.25)),
        ("l2(0.3/3)", L2(0.3 / 3)),
        ("0.5", L2(0.5)),
        ("1e-4", L2(1e-4)),
        ("(0.5)", L2(0.5)),
        ("l1_l2(0.1, 0.2)", L1L2(0.1, 0.2)),
        ("l1_l2(0.1, l2=0.2)", L1L2(0.1, 0.2)),
        ("l1_l2(l2=0.2)", L1L2(0.0, 0.2)),
        ("l1_l2(l2=0.2, l1=0.1)", L1L2(0.1, 0.2)),
        ("l1(strength)", L1(STRENGTH)),
        ("l1(2*strength)", L1(2 * STRENGTH)),
        ("l1(strength*2)", L1(2 * STRENGTH)),
        ("l1(strength/4)", L1(0.25 * STRENGTH)),
        ("l1(2*strength/4)", L1(0.5 * STRENGTH)),
        ("l1_l2(strength, 0.001)", L1L2(STRENGTH, 0.001)),
        ("l1_l2(1e-5, 0.5*strength)", L1L2(1e-5, 0.5 * STRENGTH)),
    ],
)
def test_what_is_understood(text, penalty):
    found = parse_penalty(text)
    assert found == penalty
    assert type(found) is type(penalty)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("", PenaltyError, "write one of"),
        ("   ", PenaltyError, "write one of"),
        ("# nothing", PenaltyError, "write one of"),
        ("l3", PenaltyError, "'l3' is not a penalty"),
        ("L1(0.1)", PenaltyError, "Did you mean 'l1'?"),
        ("l1l2(0.1, 0.2)", PenaltyError, "Did you mean 'l1_l2'?"),
        ("strength", PenaltyError, "is not a penalty"),
        ("0.5*strength", PenaltyError, "is not a penalty"),
        ("nan", PenaltyError, "is not a penalty"),
        ("l1(0.1", PenaltyError, "is not a penalty"),
        ("l1 0.1", PenaltyError, "is not a penalty"),
        ("l1(0.1, 0.2)", PenaltyError, "too many arguments: l1 takes l1"),
        ("l1_l2(0.1, 0.2, 0.3)", PenaltyError, "too many arguments: l1_l2 takes l1 and l2"),
        ("l1_l2(0.1)", PenaltyError, "too few arguments: l1_l2 takes l1 and l2"),
        ("l1(l2=0.1)", PenaltyError, "l1 has no argument 'l2'; it takes l1"),
        ("l1(strength=0.1)", PenaltyError, "l1 has no argument 'strength'"),
        ("l1_l2(0.1, l1=0.2)", PenaltyError, "gives one argument twice"),
        ("l1_l2(l1=0.1, l1=0.2)", PenaltyError, "gives one argument twice"),
        ("l1(**{'l1': 0.1})", PenaltyError, "has no argument"),
        ("l1(*[0.1])", PenaltyError, "is not a strength"),
        ("l1(x)", PenaltyError, "'x' in 'l1(x)' is not a strength"),
        ("l1(0.1 + 0.2)", PenaltyError, "is not a strength"),
        ("l1(2**3)", PenaltyError, "is not a strength"),
        ("l1(2*3)", PenaltyError, "is not a strength"),
        ("l1(strength*strength)", PenaltyError, "is not a strength"),
        ("l1(1/strength)", PenaltyError, "is not a strength"),
        ("l1(1/0)", PenaltyError, "is not a strength"),
        ("l1(strength/0.0)", PenaltyError, "is not a strength"),
        ("l1(not 1)", PenaltyError, "is not a strength"),
        ("l1(--1)", PenaltyError, "is not a strength"),
        ("l1(l1(0.1))", PenaltyError, "is not a strength"),
        ("l1(0.1)(0.2)", PenaltyError, "is not a penalty"),
        ("l1(0.1); l2(0.2)", PenaltyError, "is not a penalty"),
        ("l1(0.1)\nl2(0.2)", PenaltyError, "is not a penalty"),
        ("l1 if 1 else l2", PenaltyError, "is not a penalty"),
        ("l1(-1)", StrengthError, "a strength in 'l1(-1)' must be a finite number ≥ 0; got -1"),
        ("-1", StrengthError, "must be a finite number ≥ 0"),
        ("l1(nan)", StrengthError, "must be a finite number ≥ 0; got nan"),
        ("l1(inf)", StrengthError, "must be a finite number ≥ 0; got inf"),
        ("l1(1e400)", StrengthError, "must be a finite number ≥ 0"),
        ("1e400", StrengthError, "must be a finite number ≥ 0"),
        ("l1(True)", StrengthError, "must be a finite number ≥ 0; got True"),
        ("l1(strength/True)", StrengthError, "must be a finite number ≥ 0; got True"),
        ("l1(None)", StrengthError, "must be a finite number ≥ 0; got None"),
        ("l1('0.1')", StrengthError, "must be a finite number ≥ 0; got '0.1'"),
        ("l1(1j)", StrengthError, "must be a finite number ≥ 0"),
        ("l1(-1*strength)", StrengthError, "must be a finite number ≥ 0"),
        ("l1(1e300*strength/1e-300)", StrengthError, "must be a finite number ≥ 0"),
        ("l1(1/1e-320)", StrengthError, "must be a finite number ≥ 0"),
    ],
)
def test_what_is_refused(text, error, said):
    with pytest.raises(error) as raised:
        parse_penalty(text)
    assert said in str(raised.value)
    assert type(raised.value) is error


HOSTILE = {
    "deep parentheses": "l1(" + "(" * 5000 + "1" + ")" * 5000 + ")",
    "deep signs": "l1(" + "-" * 5000 + "1)",
    "deep signs, short": "l1(" + "-" * 190 + "1)",
    "deep subscripts, short": "l1(a" + "[0]" * 60 + ")",
    "deep products": "l1(1" + "*strength" * 5000 + ")",
    "a million characters": "l1(" + "1" * 1_000_000 + ")",
    "a long integer": "1" * 5000,
    "a long name": "a" * 100_000,
    "many arguments": "l1(" + "1," * 90 + ")",
    "a null byte": "l1(0.1)\0",
    "a surrogate": "l1(\ud800)",
    "an import": "__import__('os').system('false')",
    "an import inside": "l1(__import__('os').system('false'))",
    "an attribute": "l1.__class__.__mro__",
    "an attribute inside": "l1(().__class__.__bases__[0].__subclasses__())",
    "a lambda": "(lambda: l1)()",
    "a comprehension": "[l1(x) for x in ().__class__.__bases__]",
    "an f-string": "l1(f'{open}')",
    "a walrus": "l1(x := 1)",
    "a keyword name": "l1(__class__=1)",
    "exec": "exec('raise SystemExit')",
    "a yield": "(yield)",
    "an await": "await l1",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_text_is_refused_in_one_short_sentence(text):
    with pytest.raises((PenaltyError, StrengthError)) as raised:
        parse_penalty(text)
    assert len(str(raised.value)) < 600


@given(st.text(max_size=60))
def test_any_text_is_a_penalty_or_refused(text):
    try:
        penalty = parse_penalty(text)
    except ShrinkageError:
        return
    assert penalty is None or parse_penalty(str(penalty)) == penalty


@given(st.text(alphabet="l12_()0.e-+*/strenghanif, =", max_size=40))
def test_text_near_the_language_is_a_penalty_or_refused(text):
    try:
        penalty = parse_penalty(text)
    except ShrinkageError:
        return
    assert penalty is None or parse_penalty(str(penalty)) == penalty
