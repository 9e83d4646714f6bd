"""The objective of training: data loss + penalties, and the two apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from shrinkage.errors import ModelError, did_you_mean


@dataclass(frozen=True)
class Objective:
    """A data loss, by Keras's name or as an object, and metrics to follow."""

    loss: Any
    metrics: tuple[Any, ...]
    classification: bool


def resolve_objective(loss: Any, metrics: Sequence[Any], y: Any, model: Any) -> Objective:
    """Return the objective for targets ``y`` and the output of ``model``.

    ``loss="auto"``: integer targets (n,) take ``sparse_categorical_crossentropy``, or
    ``binary_crossentropy`` if the model has one output; one-hot targets (n, classes) take
    ``categorical_crossentropy``; other numbers take ``mean_squared_error``. A last layer without a
    softmax or sigmoid gives logits, and the loss is told so. Classification follows ``accuracy``.

    Raises
    ------
    ModelError
        If a loss or metric has no such name in Keras, naming the nearest.
    """
    kind = _kind(y)
    outputs = model.output_shape[-1] if isinstance(model.output_shape, tuple) else None
    classification = kind != "numbers" and (loss == "auto" or _is_crossentropy(loss))
    if loss == "auto":
        loss = _auto(kind, outputs, _is_linear(model))
    elif isinstance(loss, str):
        _known(loss, keras.losses.get, "loss", keras.losses)
    for metric in metrics:
        if isinstance(metric, str) and metric not in ("accuracy", "acc"):
            _known(metric, keras.metrics.get, "metric", keras.metrics)
    followed = tuple(metrics)
    if classification and "accuracy" not in followed:
        followed = ("accuracy", *followed)
    return Objective(loss, followed, classification)


def _kind(y: Any) -> str:
    y = np.asarray(y)
    if y.ndim == 1 and np.issubdtype(y.dtype, np.integer):
        return "classes"
    one_hot = y.ndim == 2 and y.shape[1] > 1 and set(np.unique(y)) <= {0, 1} and bool(np.all(y.sum(1) == 1))
    return "one-hot" if one_hot else "numbers"


def _is_crossentropy(loss: Any) -> bool:
    name = loss if isinstance(loss, str) else type(loss).__name__
    return "entropy" in name.lower() or "focal" in name.lower()


def _is_linear(model: Any) -> bool:
    last = model.layers[-1] if getattr(model, "layers", None) else None
    return getattr(last, "activation", None) is keras.activations.linear


def _auto(kind: str, outputs: int | None, logits: bool) -> Any:
    if kind == "numbers":
        return "mean_squared_error"
    if kind == "one-hot":
        return keras.losses.CategoricalCrossentropy(from_logits=True) if logits else "categorical_crossentropy"
    if outputs == 1:
        return keras.losses.BinaryCrossentropy(from_logits=True) if logits else "binary_crossentropy"
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True) if logits else "sparse_categorical_crossentropy"


def _known(name: str, get: Any, what: str, home: Any) -> None:
    try:
        get(name)
    except ValueError as error:
        hint = did_you_mean(name, [n for n in dir(home) if not n.startswith("_")])
        raise ModelError(f"Keras has no {what} named {name!r}.{hint}") from error


class MeasuredLoss:
    """Stands in for a compiled loss and keeps the mean of its values: ``data_loss`` in Keras's logs.

    The reported ``loss`` is the objective. Keras adds the penalties after the compiled loss, so that the
    compiled loss is the one place that sees the data loss apart, in training and in evaluation.
    """

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.tracker = keras.metrics.Mean(name="data_loss")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        value = self.inner(y_true, y_pred, sample_weight)
        rows = keras.ops.shape(keras.tree.flatten(y_pred)[0])[0]
        self.tracker.update_state(value, sample_weight=rows)
        return value

    @property
    def metrics(self) -> list[Any]:
        return [*self.inner.metrics, self.tracker]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def measure_data_loss(model: Any) -> None:
    """Make ``fit`` and ``evaluate`` of a compiled model report ``data_loss`` next to ``loss``."""
    if not isinstance(model._compile_loss, MeasuredLoss):
        model._compile_loss = MeasuredLoss(model._compile_loss)


def unmeasure(model: Any) -> None:
    """Undo :func:`measure_data_loss`."""
    if isinstance(model._compile_loss, MeasuredLoss):
        model._compile_loss = model._compile_loss.inner


def ensure_compiled(model: Any, y: Any) -> None:
    """Compile a model that has no loss with the one that its targets ask for."""
    if not model.compiled or model._compile_loss is None:
        model.compile(loss=resolve_objective("auto", (), y, model).loss)
