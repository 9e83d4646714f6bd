"""Compact a model, or say what compacting it would leave."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from shrinkage.compact.compiled import carry_training
from shrinkage.compact.cut import Cut
from shrinkage.compact.graph import inlinable
from shrinkage.compact.handlers import values
from shrinkage.compact.measure import Cost, costs, latencies, size_on_disk
from shrinkage.compact.penalized import carry_penalties
from shrinkage.compact.rebuild import Rebuild
from shrinkage.compact.receipt import LayerRow, LayerUnits, Receipt, Survey, Totals
from shrinkage.compact.verify import compare, inputs
from shrinkage.errors import ModelError
from shrinkage.recipe import sites


def compact(model: Any, data: Any = None, *, measure: bool = True) -> tuple[Any, Receipt]:
    """Return a smaller model that computes the same, and a receipt of what went.

    A unit goes when what it sends is zero or constant in inference mode (a constant is folded into the
    biases of what follows), or when nothing that is left listens to it. The model itself is not changed.

    Parameters
    ----------
    model
        A built Sequential or Functional model, with nested ones and shared layers; compiled or not.
    data
        Inputs to compare the two models on: an array, or a list or dict of them, as the model takes;
        of a tuple ``(x, y)`` only x is used. Random inputs if it is not given.
    measure
        Whether to measure latencies and file sizes, which takes seconds.

    Returns
    -------
    smaller
        A new model of the same structure, names, dtypes and ``trainable`` flags. Penalties stay where a
        file for Keras alone can hold them. If the model is compiled, so is this one, and training goes on
        from the optimizer's state.
    receipt
        Parameters, multiply-accumulates, bytes and latencies before and after, layer by layer; which
        layers keep all their channels, and why. ``print`` it, or use ``as_dict()``.

    Raises
    ------
    ModelError
        If the model is subclassed or not built; if one of its layers can't be made anew from its config;
        or if the outputs of the two differ by more than 1e-5 of their largest entry (8 units in the last
        place, where layers compute in half precision).
    DataError
        If ``data`` does not fit the model.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from shrinkage.compact import compact
    >>> hidden, head = keras.layers.Dense(3, "relu", name="hidden"), keras.layers.Dense(1, name="head")
    >>> model = keras.Sequential([keras.Input((4,)), hidden, head])
    >>> kernel = np.ones((4, 3), "float32")
    >>> kernel[:, 1:] = 0
    >>> _ = hidden.kernel.assign(kernel)
    >>> smaller, receipt = compact(model, measure=False)
    >>> smaller.layers[0].units
    1
    >>> receipt.before.parameters, receipt.after.parameters
    (19, 7)
    """
    _check(model)
    cut = Cut(model)
    rebuilt = Rebuild(model, cut)
    smaller = rebuilt.model
    notes = _added(rebuilt) + carry_penalties(model, smaller)
    x = inputs(model, data)
    difference = compare(model, smaller, x)
    notes += carry_training(model, smaller, rebuilt.moved)
    before, after = costs(model, x), costs(smaller, x)
    totals = _totals(model, before), _totals(smaller, after)
    old, new = _measured((model, smaller), x, totals) if measure else totals
    rows = tuple(_row(a, b) for a, b in zip(before, after, strict=True))
    notes += _uncounted(before)
    return smaller, Receipt(model.name, old, new, rows, tuple(cut.whole.items()), tuple(notes), difference)


def survey(model: Any) -> Survey:
    """Return what compaction would leave of ``model`` with its present weights, from these alone.

    Raises
    ------
    ModelError
        If the model is subclassed or not built.

    Examples
    --------
    >>> import keras, numpy as np
    >>> from shrinkage.compact import survey
    >>> hidden, head = keras.layers.Dense(3, "relu", name="hidden"), keras.layers.Dense(1, name="head")
    >>> model = keras.Sequential([keras.Input((4,)), hidden, head])
    >>> kernel = np.ones((4, 3), "float32")
    >>> kernel[:, 1:] = 0
    >>> _ = hidden.kernel.assign(kernel)
    >>> survey(model)
    Survey(zeros=0.5333333333333333, units=3, live_units=1, parameters=19, parameters_after=7)
    """
    _check(model)
    cut = Cut(model)
    kernels = [v for v in model.weights if v.name.endswith("kernel")]
    entries = sum(math.prod(v.shape) for v in kernels)
    zeros = sum(math.prod(v.shape) - int(np.count_nonzero(values(v))) for v in kernels)
    parameters = model.count_params()
    layers = tuple(LayerUnits(path, *counts) for path, counts in cut.units().items())
    return Survey(
        zeros=zeros / entries if entries else 0.0,
        units=sum(layer.units for layer in layers),
        live_units=sum(layer.live_units for layer in layers),
        parameters=parameters,
        parameters_after=parameters + _saving(cut),
        layers=layers,
    )


def _saving(cut: Cut) -> int:
    """Return by how many entries the weights change: what is cut off, and biases that come on."""
    change = 0
    shifts = cut.shifts()
    for number, handler in cut.handlers.items():
        counts = cut.counts(handler.layer)
        if not counts:
            continue
        weights = handler.weights()
        for variable, roles in weights.values():
            sizes = [counts[r] if r else n for r, n in zip(roles, variable.shape, strict=True)]
            change += math.prod(sizes) - math.prod(variable.shape)
        if number in shifts and "bias" not in weights:
            change += len(shifts[number])
    return change


def _check(model: Any) -> None:
    """Raise if the model is not one that can be made anew."""
    sites(model)
    if inlinable(model) is None:
        raise ModelError(
            f"{model.name!r} ({type(model).__name__}) has no graph that shows what its layers listen to: "
            "build it as a Sequential or Functional model with an Input, not as a subclass."
        )


def _totals(model: Any, parts: tuple[Cost, ...]) -> Totals:
    return Totals(model.count_params(), sum(part.macs or 0 for part in parts))


def _measured(models: tuple[Any, Any], x: Any, totals: tuple[Totals, Totals]) -> list[Totals]:
    sized = [dataclasses.replace(t, bytes=size_on_disk(m)) for t, m in zip(totals, models, strict=True)]
    if any(tensor.shape[0] is not None for tensor in inlinable(models[0]).inputs):
        return sized  # it takes batches of one size alone
    one, many = (latencies(models, x, rows) for rows in (1, 64))
    return [
        dataclasses.replace(total, latency_1=a, latency_64=b)
        for total, a, b in zip(sized, one, many, strict=True)
    ]


def _added(rebuilt: Rebuild, most: int = 8) -> list[str]:
    names = rebuilt.added
    more = f", and {len(names) - most} more" if len(names) > most else ""
    return [f"Layers that have a bias now, for constants: {', '.join(names[:most])}{more}."] if names else []


def _uncounted(parts: tuple[Cost, ...]) -> list[str]:
    kinds = sorted({part.kind for part in parts if part.macs is None})
    return [f"Multiply-accumulates are not counted for {', '.join(kinds)}."] if kinds else []


def _row(before: Cost, after: Cost) -> LayerRow:
    return LayerRow(
        before.path,
        before.kind,
        (before.units, after.units),
        (before.parameters, after.parameters),
        (before.macs, after.macs),
    )
