"""Compaction: a smaller model that computes the same, without the units that send or are heard by nothing."""

from __future__ import annotations

import sys
import types
from typing import Any

from shrinkage.compact.receipt import Receipt, Survey
from shrinkage.compact.shrink import compact, survey

__all__ = ["Receipt", "Survey", "compact", "survey"]


class _Room(types.ModuleType):
    """A room that can be called: once it is imported, ``shrinkage.compact`` is this and not the function."""

    def __call__(self, model: Any, data: Any = None, *, measure: bool = True) -> tuple[Any, Receipt]:
        return compact(model, data, measure=measure)


sys.modules[__name__].__class__ = _Room
