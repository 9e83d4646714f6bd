"""The objective of training: data loss + penalties, and the two apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras.src.trainers.compile_utils import CompileLoss

from shrinkage.errors import ModelError, did_you_mean
from shrinkage.recipe.flow import commutes

# What Keras's compile takes besides its losses' names, and chooses a crossentropy for.
_SHORT = ("crossentropy", "ce")
_ENTROPIES = (
    *_SHORT,
    "binary_crossentropy",
    "categorical_crossentropy",
    "sparse_categorical_crossentropy",
)
_SIGMOIDS = (keras.activations.sigmoid, keras.activations.hard_sigmoid)
_PROBABILITIES = (keras.activations.softmax, *_SIGMOIDS, keras.activations.sparsemax)


@dataclass(frozen=True)
class Objective:
    """A data loss, by Keras's name or as an object, and metrics to follow."""

    loss: Any
    metrics: tuple[Any, ...]
    classification: bool


def resolve_objective(loss: Any, metrics: Sequence[Any], y: Any, model: Any) -> Objective:
    """Return the objective for targets ``y`` and the output of ``model``.

    ``loss="auto"``: class numbers, (n,) or (n, 1), take ``sparse_categorical_crossentropy``, or
    ``binary_crossentropy`` if the model has one output (and the classes are 0 and 1; other whole numbers
    are then a regression); one-hot targets (n, classes) take ``categorical_crossentropy``; several labels
    a row, (n, labels) of zeros and ones, take ``binary_crossentropy`` if the model ends in a sigmoid; other
    numbers take ``mean_squared_error``. A last layer without a softmax or sigmoid gives logits, and the loss
    is told so. Classification follows ``accuracy``.

    Raises
    ------
    ModelError
        If a loss or metric has no such name in Keras, naming the nearest; or if, with ``"auto"``, there
        are more classes than the model has outputs.
    """
    shape = getattr(model, "output_shape", None)  # a subclassed model has none
    outputs = shape[-1] if isinstance(shape, tuple) and shape else None
    kind = _kind(y, outputs)
    auto = isinstance(loss, str) and loss == "auto"
    if auto:
        _check_classes(kind, y, outputs)
        several = kind == "numbers" and np.ndim(y) == 2 and are_binary(y) and gives_sigmoid(model)
        loss = "binary_crossentropy" if several else _auto(kind, outputs, _gives_logits(model))
    elif isinstance(loss, str) and loss not in _SHORT:
        _known(loss, keras.losses.get, "loss", keras.losses)
    for metric in metrics:
        if isinstance(metric, str) and metric not in ("accuracy", "acc"):
            _known(metric, keras.metrics.get, "metric", keras.metrics)
    classification = kind != "numbers" and (auto or is_crossentropy(loss))
    followed = tuple(metrics)
    if classification and not any(isinstance(m, str) and m in ("accuracy", "acc") for m in followed):
        followed = ("accuracy", *followed)
    return Objective(loss, followed, classification)


def _kind(y: Any, outputs: int | None) -> str:
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 1 and (np.issubdtype(y.dtype, np.integer) or y.dtype == bool):
        return "numbers" if outputs == 1 and not are_binary(y) else "classes"
    one_hot = y.ndim == 2 and are_binary(y) and bool(np.all(y.sum(1) == 1))
    return "one-hot" if one_hot else "numbers"


def are_binary(y: Any) -> bool:
    """Return whether targets are zeros and ones."""
    return bool(np.all((np.asarray(y) == 0) | (np.asarray(y) == 1)))


def _check_classes(kind: str, y: Any, outputs: int | None) -> None:
    if kind == "classes" and outputs is not None and outputs > 1:
        least, most = int(np.min(y)), int(np.max(y))
        if least < 0 or most >= outputs:
            raise ModelError(
                f"The targets are classes {least} to {most}, but the model has {outputs} outputs, for the "
                f"classes 0 to {outputs - 1}."
            )


def is_crossentropy(loss: Any) -> bool:
    """Return whether a loss, by name or as an object, is one of classes."""
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return name in _SHORT or "entropy" in name.lower() or "focal" in name.lower()


def best_guess(loss: Any, y: Any) -> float | None:
    """Return the data loss of the best constant answer to targets ``y``, for the losses that tell it.

    The entropy of the class shares for a crossentropy, the variance for the mean squared error.

    Examples
    --------
    >>> round(best_guess("sparse_categorical_crossentropy", np.array([0, 1, 0, 1])), 4)
    0.6931
    """
    y = np.asarray(y)
    name = loss if isinstance(loss, str) else getattr(loss, "name", "")
    if name in ("mse", "mean_squared_error"):
        return float(np.mean(np.var(y.reshape(len(y), -1), axis=0)))
    one_hot = y.ndim == 2 and y.shape[1] > 1
    if name not in _ENTROPIES or not np.all(y == np.round(y)) or (one_hot and not np.all(y.sum(1) == 1)):
        return None
    shares = y.mean(0) if one_hot else np.unique(y, return_counts=True)[1] / len(y)
    shares = shares[shares > 0]
    return float(-np.sum(shares * np.log(shares)))


def gives_sigmoid(model: Any) -> bool:
    """Return whether a model's outputs are probabilities, each by itself."""
    return _last_activation(model) in _SIGMOIDS


def _gives_logits(model: Any) -> bool:
    activation = _last_activation(model)
    is_probability = activation in _PROBABILITIES or isinstance(activation, keras.layers.Softmax)
    return activation is not None and not is_probability


def _last_activation(model: Any) -> Any:
    """Return a function, a Softmax layer, or ``None`` where the layers don't tell."""
    for layer in reversed(getattr(model, "layers", ())):
        if isinstance(layer, keras.Model):
            return _last_activation(layer)
        activation = layer if isinstance(layer, keras.layers.Softmax) else getattr(layer, "activation", None)
        is_linear = type(layer) is keras.layers.Activation and activation is keras.activations.linear
        if is_linear or (activation is None and commutes(layer)):
            continue  # pooling, reshaping, dropout: see the layer before
        return activation
    return None


def _auto(kind: str, outputs: int | None, logits: bool) -> Any:
    if kind == "numbers":
        return "mean_squared_error"
    if kind == "one-hot":
        return (
            keras.losses.CategoricalCrossentropy(from_logits=True) if logits else "categorical_crossentropy"
        )
    if outputs == 1:
        return keras.losses.BinaryCrossentropy(from_logits=True) if logits else "binary_crossentropy"
    return (
        keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if logits
        else "sparse_categorical_crossentropy"
    )


def _known(name: str, get: Any, what: str, home: Any) -> None:
    try:
        get(name)
    except ValueError as error:
        names = [n for n in dir(home) if not n.startswith("_")]
        # "accuracy" is none of them: Keras chooses the one that fits.
        hint = did_you_mean(name, ["accuracy", *names] if what == "metric" else names)
        raise ModelError(f"Keras has no {what} named {name!r}.{hint}") from error


class MeasuredLoss:
    """Stands in for a compiled loss and keeps the mean of its values, weighted as Keras weights ``loss``.

    The reported ``loss`` is the objective. Keras adds the penalties after the compiled loss, so that the
    compiled loss is the one place that sees the data loss apart, in training and in evaluation.

    Parameters
    ----------
    inner
        The compiled loss.
    shown
        Whether Keras's logs show the mean, as ``data_loss``; if not, ``fit`` and ``evaluate`` return what
        they always did.
    trained
        A loss that stands in for the compiled one outside of :meth:`inference`.
    """

    def __init__(self, inner: Any, shown: bool = True, trained: Any = None) -> None:
        self.inner, self.shown = inner, shown
        self._trained = None if trained is None else CompileLoss(trained)
        self._judging = False
        self._latest: Any = None
        self.tracker = (keras.metrics.Mean if shown else _Unshown)(name="data_loss")

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the data loss of a batch."""
        loss = self.inner if self._judging or self._trained is None else self._trained
        value = loss(y_true, y_pred, sample_weight)
        self._latest = value
        first = keras.tree.flatten(y_pred)[0]
        self.tracker.update_state(value, sample_weight=keras.ops.shape(first)[0] if len(first.shape) else 1)
        return value

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Take the compiled loss for what is traced or called meanwhile: models are judged by that."""
        self._judging = True
        try:
            yield
        finally:
            self._judging = False

    @property
    def metrics(self) -> list[Any]:
        """The metrics of the compiled loss (of several outputs, each one's loss), and the mean."""
        return [*self.inner.metrics, self.tracker]

    def taken(self) -> Any:
        """Return the data loss of the latest batch, once, within the trace that computed it."""
        value, self._latest = self._latest, None
        return value

    def mean(self) -> float:
        """Return the mean since Keras reset its metrics; NaN if the loss was never asked for."""
        count = float(self.tracker.count)
        return float(self.tracker.total) / count if count else float("nan")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _Unshown(keras.metrics.Mean):  # type: ignore[misc]  # Keras has no type information
    def result(self) -> dict[str, Any]:
        # Keras adds what is in a dictionary to its logs.
        return {}


def measure_data_loss(model: Any, trained: Any = None) -> None:
    """Make ``fit`` and ``evaluate`` of a compiled model report ``data_loss`` next to ``loss``.

    ``trained`` is a loss that stands in for the compiled one, but for what is judged by it; see
    :meth:`MeasuredLoss.inference`.
    """
    if not isinstance(model._compile_loss, MeasuredLoss):
        model._compile_loss = MeasuredLoss(model._compile_loss, trained=trained)


def unmeasure(model: Any) -> None:
    """Undo :func:`measure_data_loss`."""
    if isinstance(model._compile_loss, MeasuredLoss):
        model._compile_loss = model._compile_loss.inner


def ensure_compiled(model: Any, y: Any) -> None:
    """Compile a model that has no loss with the one that its targets ask for."""
    if not model.compiled or model._compile_loss is None:
        optimizer = getattr(model, "optimizer", None)  # the default one is not the user's choice
        model.compile(optimizer=optimizer, loss=resolve_objective("auto", (), y, model).loss)
