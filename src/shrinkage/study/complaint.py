"""What is wrong with a study's fields, in one sentence: where, which rule, what was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from shrinkage.errors import did_you_mean

_RULES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "string_type": "must be text",
    "string_unicode": "must be valid text",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
    "tuple_type": "must be a list",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "greater_than": "must be > {gt:.10g}",
    "greater_than_equal": "must be ≥ {ge:.10g}",
    "less_than": "must be < {lt:.10g}",
    "less_than_equal": "must be ≤ {le:.10g}",
    "literal_error": "must be {expected}",
}
_FORMS = {  # in a place: how it is given
    "strengths": ("grid", "list"),
    "class_weights": ("word", "list"),
    "weight_decay": ("word", "number"),
    "label_smoothing": ("word", "number"),
}


def complaint(error: ValidationError, source: str, known: Callable[[tuple[Any, ...]], Sequence[str]]) -> str:
    """Turn pydantic's first complaint into a sentence; an unknown key goes first, it may explain the others.

    Parameters
    ----------
    error
        What pydantic found.
    source
        What was read: begins the sentence.
    known
        From a place to the keys that are known there.
    """
    found = error.errors(include_url=False)
    first = min(found, key=lambda one: one["type"] != "extra_forbidden")
    place, kind = first["loc"], first["type"]
    where = _where(place)
    more = _more([_where(other["loc"]) for other in found if other is not first])
    if kind == "extra_forbidden":
        names = known(place)
        hint = did_you_mean(str(place[-1]), names) or f" Known keys: {', '.join(names)}."
        return f"{source}: unknown key {where!r}.{hint}{more}"
    if kind == "missing":
        return f"{source}: the key {where!r} is missing.{more}"
    rule = _RULES.get(kind, "").format(**first.get("ctx", {})) or first["msg"].removeprefix("Value error, ")
    if not rule.startswith("must "):  # a whole sentence, with what was given
        return f"{source}: {where}{': ' if where else ''}{rule.removesuffix('.')}.{more}"
    return f"{source}: {where} {rule}{_given(first.get('input'))}.{more}"


def _more(places: Sequence[str]) -> str:
    """Say where else something is wrong."""
    named = list(dict.fromkeys(place for place in places if place))
    if not named:
        return ""
    rest = f" and {len(named) - 5} more places" if len(named) > 5 else ""
    return f" Wrong as well: {', '.join(named[:5])}{rest}."


def _where(place: tuple[Any, ...]) -> str:
    text = ""
    for before, part in zip((None, *place), place, strict=False):
        if isinstance(part, int):
            text += f"[{part + 1}]"
        elif part not in _FORMS.get(before, ()) and part != "[key]":
            text += f".{part}" if text else part
    return text


def _given(value: Any) -> str:
    return "" if isinstance(value, (dict, BaseModel)) else f"; got {value!r:.80}"


def concealed(url: str) -> str:
    """Return of a storage's URL what an error may show: neither the password nor the query.

    Examples
    --------
    >>> concealed("postgresql://me:secret@host/studies?sslpassword=secret")
    'postgresql://me:***@host/studies'
    >>> concealed("postgresql/me:secret@host")
    'postgresql/me:…'
    """
    from sqlalchemy.engine import make_url

    try:
        return make_url(url).set(query={}).render_as_string(hide_password=True)
    except Exception:  # no URL at all: SQLAlchemy raises several kinds
        scheme, colon, _ = url.partition(":")
        return f"{scheme}:…" if colon else url
