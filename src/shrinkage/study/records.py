"""Records as plain JSON, and back: frozen dataclasses of numbers, texts and other records."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from typing import Any, TypeVar

import numpy as np

_T = TypeVar("_T")


def as_json(value: Any) -> Any:
    """Turn records, tuples and numbers into plain JSON types.

    Parameters
    ----------
    value
        A record (a frozen dataclass), a mapping, a sequence, or a scalar.

    Returns
    -------
    dict, list, str, int, float, bool or None
        NaN and infinities become ``None``.

    Examples
    --------
    >>> from shrinkage.study.stats import Estimate
    >>> as_json(Estimate(1.0, float("nan"), 1))
    {'mean': 1.0, 'se': None, 'n': 1}
    """
    if dataclasses.is_dataclass(value):
        return {field.name: as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def from_json(kind: type[_T], value: Any) -> _T:
    """Return the record of type ``kind`` that `as_json` turned into ``value``.

    Parameters
    ----------
    kind
        A record class whose fields are numbers, texts, records, tuples, dictionaries, or one of these or
        ``None``.
    value
        Plain JSON. ``null`` for a number is NaN; fields that ``kind`` does not have are left aside.

    Raises
    ------
    ValueError
        If a field is missing, or of another shape.

    Examples
    --------
    >>> from shrinkage.study.stats import Estimate
    >>> from_json(Estimate, {"mean": 1.0, "se": None, "n": 1})
    Estimate(mean=1.0, se=nan, n=1)
    """
    try:
        made: _T = _made(kind, value)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it holds no {kind.__name__} as it should: {error}") from None
    return made


def _made(kind: Any, value: Any) -> Any:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return kind(**{name: _made(of, value[name]) for name, of in _fields(kind).items()})
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _made(next(of for of in inner if of is not type(None)), value)
    if origin is tuple:
        kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
        return tuple(_made(of, part) for of, part in zip(kinds, value, strict=True))
    if origin is dict:
        return {key: _made(inner[1], part) for key, part in value.items()}
    if kind is float:
        return math.nan if value is None else float(value)
    return value


@functools.cache
def _fields(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
