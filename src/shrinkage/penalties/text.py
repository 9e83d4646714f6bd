"""The text form of a penalty, and everything else that Keras users write where a penalty is meant."""

from __future__ import annotations

import ast
import numbers
from typing import Any

import keras
import numpy as np

from shrinkage.errors import PenaltyError, did_you_mean
from shrinkage.penalties.base import Penalty
from shrinkage.penalties.separable import L1, L1L2, L2
from shrinkage.penalties.strength import STRENGTH, Multiple, check_strength, shown
from shrinkage.penalties.structured import GroupLasso, SparseGroupLasso

#: The penalties that have a text form. A new one is one entry.
TEXT_FORMS: dict[str, type[Penalty]] = {p.text_name: p for p in (L1, L2, L1L2, GroupLasso, SparseGroupLasso)}

#: Keras's own regularizers with the formula of one of ours.
_KERAS_OWN: dict[type[Penalty], Any] = {
    L1: keras.regularizers.L1,
    L2: keras.regularizers.L2,
    L1L2: keras.regularizers.L1L2,
}

#: No penalty's text is longer; hostile text is refused before it is parsed.
_LONGEST = 200


def parse_penalty(text: str) -> Penalty | None:
    """Return the penalty that ``text`` describes; None for ``none``.

    A penalty is ``name(number, …)``. In place of a number ``strength`` and ``0.5*strength`` stand for the
    strength that a study varies. A bare name has Keras's default strengths: ``l1`` is L1(0.01), ``l2`` is
    L2(0.01), ``l1_l2`` is L1L2(0.01, 0.01). A bare number is an L2. A ``#`` begins a comment.
    ``str(penalty)`` is the inverse.

    Raises
    ------
    PenaltyError
        If the text is no penalty, naming the nearest one.
    StrengthError
        If a strength is not a finite number ≥ 0.

    Examples
    --------
    >>> parse_penalty("l1_l2(1e-5, 0.5*strength)")
    L1L2(l1=1e-05, l2=0.5*strength)
    >>> str(parse_penalty("l2"))
    'l2(0.01)'
    """
    text = text.partition("#")[0].strip()
    if text.lower() == "none":
        return None
    if len(text) > _LONGEST:
        raise PenaltyError(
            f"{shown(text)} is too long for a penalty, which takes {_LONGEST} characters at most."
        )
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise _not_understood(text) from None
    try:
        return _parsed(tree, text)
    except RecursionError:
        raise _not_understood(text) from None


def _parsed(tree: ast.expr, text: str) -> Penalty:
    match tree:
        case ast.Name(id=name):
            return _named(name, text)(*_default_arguments(name))
        case ast.Call(func=ast.Name()):
            return _called(tree, text)
        case ast.Constant() | ast.UnaryOp():
            return L2(_coefficient(tree, text))
    raise _not_understood(text)


def _called(tree: ast.Call, text: str) -> Penalty:
    assert isinstance(tree.func, ast.Name)
    cls = _named(tree.func.id, text)
    if len(tree.args) + len(tree.keywords) > len(cls.names):
        raise PenaltyError(
            f"{text!r} has too many arguments: {cls.text_name} takes {' and '.join(cls.names)}."
        )
    unknown = [str(k.arg) for k in tree.keywords if k.arg not in cls.names]
    if unknown:
        raise PenaltyError(
            f"{text!r}: {cls.text_name} has no argument {unknown[0]!r}; it takes {' and '.join(cls.names)}."
        )
    arguments = {str(k.arg): _coefficient(k.value, text) for k in tree.keywords}
    positional = [_coefficient(a, text) for a in tree.args]
    if not positional and not arguments:
        positional = list(_default_arguments(cls.text_name))
    if positional and len(positional) + len(arguments) < len(cls.names):
        raise PenaltyError(
            f"{text!r} has too few arguments: {cls.text_name} takes {' and '.join(cls.names)}."
        )
    # ast.parse lets a keyword pass twice.
    if len(arguments) < len(tree.keywords) or set(cls.names[: len(positional)]) & set(arguments):
        raise PenaltyError(f"{text!r} gives one argument twice.")
    return cls(*positional, **arguments)


def _named(name: str, text: str) -> type[Penalty]:
    if name not in TEXT_FORMS:
        raise _not_understood(text, name)
    return TEXT_FORMS[name]


def _default_arguments(name: str) -> tuple[float, ...]:
    return (0.01,) * len(TEXT_FORMS[name].names)


def _not_understood(text: str, name: str = "") -> PenaltyError:
    forms = ", ".join(f"{n}({', '.join(c.names)})" for n, c in TEXT_FORMS.items())
    hint = did_you_mean(name, [*TEXT_FORMS, "none"]) if name else ""
    return PenaltyError(f"{text!r} is not a penalty; write one of {forms}, or none.{hint}")


def _coefficient(node: ast.expr, text: str) -> float | Multiple:
    """Read a number, ``strength``, or a product (quotient) of the two."""
    match node:
        case ast.Constant(value=value):
            return check_strength(value, f"a strength in {text!r}")
        case ast.Name(id="strength"):
            return STRENGTH
        case ast.UnaryOp(
            op=ast.USub() | ast.UAdd() as sign, operand=ast.Constant(value=float() | int() as value)
        ):
            signed = -value if isinstance(sign, ast.USub) else value
            return check_strength(signed, f"a strength in {text!r}")
        case ast.Name(id=("inf" | "nan") as name):
            return check_strength(float(name), f"a strength in {text!r}")
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            factors = _coefficient(left, text), _coefficient(right, text)
            if sum(isinstance(f, Multiple) for f in factors) == 1:
                return factors[0] * factors[1]
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            divisor = _coefficient(right, text)
            if isinstance(divisor, float) and divisor:
                return _coefficient(left, text) / divisor
    raise PenaltyError(
        f"{ast.unparse(node)!r} in {text!r} is not a strength; "
        "write a number, strength, or a number times strength."
    )


def get_penalty(identifier: Any) -> Penalty | None:
    """Return our penalty for anything that stands for one; None for None and for ``'none'``.

    Accepted are our penalties, Keras's ``L1``, ``L2`` and ``L1L2`` objects and their serialized configs,
    text (``'l1'``, ``'l2'``, ``'l1_l2'``, ``'l2(1e-4)'``, ``'none'``), and a plain number, which is an L2.
    ``'l1_l2'`` means L1L2(0.01, 0.01), as Keras documents; Keras 3.15's own layers reject it.

    Raises
    ------
    PenaltyError
        If it is none of these.
    StrengthError
        If a strength is not a finite number ≥ 0.

    Examples
    --------
    >>> get_penalty("l1_l2")
    L1L2(l1=0.01, l2=0.01)
    >>> get_penalty(keras.regularizers.L1(1e-4))
    L1(0.0001)
    """
    if identifier is None or isinstance(identifier, Penalty):
        return identifier
    if isinstance(identifier, str):
        return parse_penalty(identifier)
    if isinstance(identifier, dict):
        return _from_config(identifier)
    converted = _from_keras(identifier)
    if converted is not None:
        return converted
    if isinstance(identifier, (numbers.Number, bool)):
        return L2(identifier)  # type: ignore[arg-type]  # checked there
    raise PenaltyError(
        f"{shown(identifier)} is not a penalty; give a shrinkage penalty, Keras's L1, L2 or L1L2, "
        "a text such as 'l2(1e-4)', or a number (an L2)."
    )


def _from_config(config: dict[str, Any]) -> Penalty | None:
    try:
        return get_penalty(keras.regularizers.deserialize(config))
    except (ValueError, TypeError, KeyError) as error:
        raise PenaltyError(f"{shown(config)} is not the config of a penalty.") from error


def _from_keras(regularizer: Any) -> Penalty | None:
    # Exact classes: a subclass may charge something else.
    match type(regularizer):
        case keras.regularizers.L1:
            return L1(_number(regularizer.l1))
        case keras.regularizers.L2:
            return L2(_number(regularizer.l2))
        case keras.regularizers.L1L2:
            return L1L2(_number(regularizer.l1), _number(regularizer.l2))
    return None


def _number(value: Any) -> float:
    # Keras 3.15 stores L1's strength as a float32 tensor; the shortest text that rounds to it is what
    # the user wrote (1e-4, not 9.999999747378752e-05).
    return float(value) if isinstance(value, (int, float)) else float(str(np.float32(value)))


def to_keras(penalty: Penalty) -> Any:
    """Return Keras's own regularizer with the same formula and numbers, or None if there is none.

    Examples
    --------
    >>> to_keras(L2(0.5)).get_config()
    {'l2': 0.5}
    """
    own = _KERAS_OWN.get(type(penalty))
    return own(*penalty.numbers()) if own else None
