"""What a model costs: multiply-accumulates, bytes on disk, milliseconds."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from keras import tree

from shrinkage.compact.graph import Graph, Shape, inlinable
from shrinkage.compact.table import HANDLERS

#: Calls of each model that a latency is the median of, and the seconds after which fewer are enough.
CALLS, LEAST_CALLS, SECONDS = 50, 5, 2.0


@dataclass(frozen=True)
class Cost:
    """What one layer costs, over all its calls, for one sample."""

    path: str
    kind: str
    units: int | None
    parameters: int
    macs: int | None


def costs(model: Any, x: Any) -> tuple[Cost, ...]:
    """Return the costs of every layer with weights; ``macs`` is None for types whose products aren't counted.

    Axes of unknown length are as long as those of ``x``.
    """
    graph = Graph(model, _shapes(model, x))
    found: dict[int, Cost] = {}
    for call in graph.calls:
        layer = call.operation
        if inlinable(layer) is not None or not getattr(layer, "weights", ()):
            continue
        kind = HANDLERS.get(type(layer))
        macs = None if kind is None else kind(layer).macs(call)
        before = found.get(id(layer))
        if before is not None and macs is not None:
            macs += before.macs or 0
        path = before.path if before is not None else call.path
        units = call.outputs[0].slots.size or None
        found[id(layer)] = Cost(path, type(layer).__name__, units, layer.count_params(), macs)
    return tuple(found.values())


def _shapes(model: Any, x: Any) -> list[Shape]:
    """Return the model's input shapes, with the lengths that ``x`` has."""
    return [
        tuple(b if b is not None or i == 0 else a for i, (a, b) in enumerate(_paired(part, tensor)))
        for part, tensor in zip(tree.flatten(x), inlinable(model).inputs, strict=True)
    ]


def _paired(part: Any, tensor: Any) -> list[tuple[int, int | None]]:
    shape = part.shape if len(part.shape) == len(tensor.shape) else (*part.shape, 1)
    return list(zip(shape, tensor.shape, strict=True))


def size_on_disk(model: Any) -> int | None:
    """Return the bytes of the model's ``.keras`` file; None if it can't be saved."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "model.keras")
        try:
            model.save(path)
        except Exception:  # a user's own layer or loss may have no config
            return None
        return path.stat().st_size


def latencies(models: Sequence[Any], x: Any, rows: int) -> list[float]:
    """Return each model's milliseconds for a batch of ``rows`` samples, as a median of many calls.

    The models take turns, so that whatever else the machine does meets all of them alike.
    """
    batch = tree.map_structure(lambda a: np.resize(np.asarray(a), (rows, *np.shape(a)[1:])), x)
    kept = [model.predict_function for model in models]
    seconds: list[list[float]] = [[] for _ in models]
    for model in models:
        model.predict_on_batch(batch)  # compiles
    begin = time.perf_counter()
    for turn in range(CALLS):
        if turn >= LEAST_CALLS and time.perf_counter() - begin > SECONDS:
            break
        for model, log in zip(models, seconds, strict=True):
            start = time.perf_counter()
            model.predict_on_batch(batch)
            log.append(time.perf_counter() - start)
    for model, function in zip(models, kept, strict=True):
        model.predict_function = function
    return [1e3 * float(np.median(log)) for log in seconds]
