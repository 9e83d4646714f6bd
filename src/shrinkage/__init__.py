"""Shrinkage: the regularization workbench for Keras 3.

Four verbs: **apply** a recipe of penalties to any model, **study** kinds and strengths side by side,
**report** what is true with its uncertainty, **compact** exact zeros into a smaller model.

Names are loaded when first used; importing the package loads neither Keras nor JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from shrinkage.compact import compact as compact
    from shrinkage.data import Data as Data
    from shrinkage.data import load_data as load_data
    from shrinkage.penalties import L1 as L1
    from shrinkage.penalties import L1L2 as L1L2
    from shrinkage.penalties import L2 as L2
    from shrinkage.penalties import STRENGTH as STRENGTH
    from shrinkage.penalties import GroupLasso as GroupLasso
    from shrinkage.penalties import SparseGroupLasso as SparseGroupLasso
    from shrinkage.recipe import Recipe as Recipe
    from shrinkage.recipe import Rule as Rule
    from shrinkage.recipe import apply as apply
    from shrinkage.recipe import describe as describe
    from shrinkage.recipe import strip as strip
    from shrinkage.recipe.check import check as check
    from shrinkage.study.study import Study as Study
    from shrinkage.study.tune import tune as tune
    from shrinkage.training.callbacks import Monitor as Monitor
    from shrinkage.training.callbacks import StrengthSchedule as StrengthSchedule
    from shrinkage.training.proximal import Proximal as Proximal
    from shrinkage.training.saved import load_model as load_model

_HOME = {
    "shrinkage.penalties": ("L1", "L2", "L1L2", "GroupLasso", "SparseGroupLasso", "STRENGTH"),
    "shrinkage.recipe": ("Recipe", "Rule", "apply", "strip", "describe"),
    "shrinkage.recipe.check": ("check",),
    "shrinkage.training.callbacks": ("StrengthSchedule", "Monitor"),
    "shrinkage.training.proximal": ("Proximal",),
    "shrinkage.training.saved": ("load_model",),
    "shrinkage.compact": ("compact",),
    "shrinkage.data": ("Data", "load_data"),
    "shrinkage.study.study": ("Study",),
    "shrinkage.study.tune": ("tune",),
}
_ROOM = {name: room for room, names in _HOME.items() for name in names}

__all__ = [*_ROOM, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _ROOM:
        raise AttributeError(f"module 'shrinkage' has no attribute {name!r}")
    try:
        room = importlib.import_module(_ROOM[name])
    except ModuleNotFoundError as error:
        backend = (error.name or "").partition(".")[0]
        if backend not in ("tensorflow", "torch", "jax"):
            raise
        raise ImportError(
            f"Keras is set to a backend that is not installed: {backend}. Set the environment variable "
            "KERAS_BACKEND=jax before Python starts, or before the first import of keras."
        ) from error
    return getattr(room, name)


def __dir__() -> list[str]:
    return sorted(__all__)
