"""The examples in the docstrings run, and give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import shrinkage

#: Rooms whose examples need no network, no files and no time.
ROOMS = ("errors", "penalties", "recipe", "models", "training", "compact", "data", "study", "report")
#: Their examples need a run, and are skipped in their docstrings.
OF_RUNS = {"shrinkage.report.figures", "shrinkage.report.html", "shrinkage.report.plots"}


def modules() -> list[str]:
    """Return every module of these rooms that has an example, as far as the rooms exist."""
    found = [
        m.name for m in pkgutil.walk_packages(shrinkage.__path__, "shrinkage.", onerror=lambda name: None)
    ]
    chosen = [name for name in found if name.split(".")[1] in ROOMS and name not in OF_RUNS]
    here = Path(shrinkage.__file__).parent.parent

    def source(name: str) -> Path:
        path = here.joinpath(*name.split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    return [name for name in chosen if ">>>" in source(name).read_text(encoding="utf-8")]


def cases() -> list[object]:
    """Return the modules; those whose examples train several models are left to the thorough runs."""
    slow = ("shrinkage.study.study", "shrinkage.study.tune")
    return [pytest.param(m, marks=pytest.mark.thorough) if m in slow else m for m in modules()]


@pytest.mark.jax_only
@pytest.mark.parametrize("name", cases())
def test_the_examples_of(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
