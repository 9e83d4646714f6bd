"""Compile the smaller model as the original is, and carry the optimizer's state over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
from keras import tree
from numpy.typing import NDArray

from shrinkage.compact.handlers import values
from shrinkage.compact.rebuild import Moved

#: Lists of an optimizer that hold no slots of their own.
_LISTS = ("_variables", "_trainable_variables", "_inner_optimizers")


def carry_training(model: Any, smaller: Any, moved: Iterable[Moved]) -> list[str]:
    """Compile ``smaller`` as ``model`` is, optimizer state included; return notes on what was not carried."""
    if not model.compiled:
        return []
    settings = dict(model._compile_config.config)
    optimizer, notes = _unwrapped(model.optimizer)
    try:
        settings["optimizer"] = None if optimizer is None else _again(optimizer)
        for kind in ("metrics", "weighted_metrics"):
            settings[kind] = tree.map_structure(_fresh, settings.get(kind))
        smaller.compile(**settings, auto_scale_loss=False)
    except Exception as error:  # whatever a user's own metric, schedule or optimizer raises
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return [f"Not compiled, since its parts can't be made anew: {reason:.200}"]
    if optimizer is not None and optimizer.built:
        smaller.optimizer.build(smaller.trainable_variables)
        notes += _carry(optimizer, smaller.optimizer, {id(m.new): m for m in moved})
    return notes


def _unwrapped(optimizer: Any) -> tuple[Any, list[str]]:
    """Return the optimizer behind wrappers that this package has put around it."""
    notes = []
    while hasattr(optimizer, "unwrap"):
        notes.append(f"Compiled with the optimizer inside {type(optimizer).__name__}, without the latter.")
        optimizer = optimizer.unwrap()
    return optimizer, notes


def _again(optimizer: Any) -> Any:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        inner, _ = _unwrapped(optimizer.inner_optimizer)
        return keras.optimizers.LossScaleOptimizer(
            _again(inner), optimizer.initial_scale, optimizer.dynamic_growth_steps, name=optimizer.name
        )
    return type(optimizer).from_config(optimizer.get_config())


def _fresh(metric: Any) -> Any:
    """Return a metric without what it has counted so far; names and functions as they are."""
    return type(metric).from_config(metric.get_config()) if isinstance(metric, keras.Metric) else metric


def _carry(old: Any, new: Any, by_new: dict[int, Moved]) -> list[str]:
    """Carry the state of one optimizer, and of those inside it."""
    notes = []
    if isinstance(old, keras.optimizers.LossScaleOptimizer):
        notes += _carry(_unwrapped(old.inner_optimizer)[0], new.inner_optimizer, by_new)
    for inner in zip(getattr(old, "optimizers", ()), getattr(new, "optimizers", ()), strict=True):
        notes += _carry(*inner, by_new) if inner[0].built else []
    for name, value in vars(old).items():
        twin = getattr(new, name, None)
        if isinstance(value, keras.Variable) and isinstance(twin, keras.Variable):
            twin.assign(values(value))
        elif name not in _LISTS and _is_slots(old, value) and _is_slots(new, twin):
            notes += _carry_slots(old, new, name, by_new)
    if hasattr(old, "_exclude_from_weight_decay"):
        _carry_exclusions(old, new, by_new)
    return notes


def _carry_exclusions(old: Any, new: Any, by_new: dict[int, Moved]) -> None:
    """Exclude from weight decay what was excluded: the optimizer's config does not say."""
    olds = {id(v): by_new[id(v)].old for v in new._trainable_variables}
    new.exclude_from_weight_decay(
        var_list=[
            v
            for v in new._trainable_variables
            if olds[id(v)] is not None and old._var_key(olds[id(v)]) in old._exclude_from_weight_decay
        ]
    )
    new._exclude_from_weight_decay_pattern = old._exclude_from_weight_decay_pattern


def _is_slots(optimizer: Any, value: Any) -> bool:
    """Return whether an attribute is a list of one state for each weight that the optimizer trains."""
    return (
        isinstance(value, list | tuple)
        and len(value) == len(optimizer._trainable_variables) > 0
        and all(v is None or isinstance(v, keras.Variable) for v in value)
    )


def _carry_slots(old: Any, new: Any, name: str, by_new: dict[int, Moved]) -> list[str]:
    index = {id(v): i for i, v in enumerate(old._trainable_variables)}
    lost = []
    for weight, slot in zip(new._trainable_variables, getattr(new, name), strict=True):
        moved = by_new[id(weight)]
        at = index.get(id(moved.old))
        start = None if at is None else getattr(old, name)[at]
        if slot is None:
            continue
        state = None if start is None else _state(old, name, at, moved, values(start))
        if _is_weight(old, name):
            slot.assign(values(weight) if state is None else moved.shifted(state))
        elif state is not None and state.shape == tuple(slot.shape):
            slot.assign(state)
        else:
            lost.append(weight.path)
    return [f"The optimizer's {name.strip('_')} of {', '.join(lost)} start anew."] if lost else []


def _is_weight(optimizer: Any, name: str) -> bool:
    """Return whether a slot holds weights, as a moving average of them does, and not gradients."""
    averages = isinstance(optimizer, keras.optimizers.ScheduleFreeAdamW) and name == "_momentums"
    return averages or name == "_model_variables_moving_average"


def _state(
    optimizer: Any, name: str, at: int | None, moved: Moved, start: NDArray[Any]
) -> NDArray[Any] | None:
    """Return a slot cut as its weight is; None if its shape is not known to follow from the weight's."""
    if start.shape == tuple(moved.old.shape):
        return moved.cut(start)
    if start.ndim == 0 or not moved.is_cut:
        return start
    if name in ("_r", "_c") and isinstance(optimizer, keras.optimizers.Adafactor):
        return _factor(values(optimizer._r[at]), values(optimizer._c[at]), moved)[name == "_c"]
    return None


def _factor(rows: NDArray[Any], columns: NDArray[Any], moved: Moved) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return Adafactor's means over rows and columns for what is left of a weight.

    It takes squared gradients for v[i, j] = r[i] c[j] / mean(r). The means of what is left of v are
    r[i] mean(c[kept]) / mean(r) and c[j] mean(r[kept]) / mean(r), so that v itself stays the same.
    """
    *places, row, column = moved.kept
    r = Moved(None, None, (*places, row)).cut(rows)
    c = Moved(None, None, (*places, column)).cut(columns)
    whole = Moved(None, None, tuple(places)).cut(rows).mean(axis=-1, keepdims=True)
    scale = np.divide(1.0, whole, out=np.zeros_like(whole), where=whole > 0)
    return (
        r * c.mean(axis=-1, keepdims=True) * scale if column is not None else r,
        c * r.mean(axis=-1, keepdims=True) * scale if row is not None else c,
    )
