"""The summary of a finished run, read back from its ``summary.json``."""

from __future__ import annotations

import dataclasses
import json
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from shrinkage.errors import RunError
from shrinkage.study.storage import RunDirectory
from shrinkage.study.summary import FORMAT, Summary


def read_summary(place: RunDirectory) -> Summary:
    """Return the summary that a run stored; what is no number is NaN again.

    Raises
    ------
    RunError
        If the run is not finished, or was stored by another version.
    """
    if not place.summary.exists():
        raise RunError(f"The run in {str(place.path)!r} is not finished; run the study again to go on.")
    found = json.loads(place.summary.read_text(encoding="utf-8"))
    if found.get("format") != FORMAT:
        raise RunError(f"{str(place.summary)!r} was written by another version; run the study again.")
    summary: Summary = _decoded(Summary, found)
    return summary


def _decoded(kind: Any, value: Any) -> Any:
    """Return plain JSON as the type that ``as_json`` made it of."""
    if dataclasses.is_dataclass(kind):
        types = get_type_hints(kind)
        return kind(**{f.name: _decoded(types[f.name], value[f.name]) for f in dataclasses.fields(kind)})  # type: ignore[operator]
    parts = get_args(kind)
    if get_origin(kind) is tuple:
        return tuple(_decoded(parts[0], item) for item in value)
    if NoneType in parts:
        return None if value is None else _decoded(parts[0], value)
    if kind is float:
        return float("nan") if value is None else float(value)
    return value
