"""Which cases of a test every run takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def mostly_thorough(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Return every case; all but the quick ones are marked thorough."""
    every = list(cases)
    assert all(case in every for case in quick), f"no such case: {quick}"
    return [case if case in quick else pytest.param(case, marks=pytest.mark.thorough) for case in every]
