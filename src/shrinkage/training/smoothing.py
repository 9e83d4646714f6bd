"""Label smoothing: a crossentropy that is trained on softer targets than it is judged by."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from shrinkage.errors import ModelError

_losses = keras.losses
_SPARSE = (_losses.SparseCategoricalCrossentropy, _losses.sparse_categorical_crossentropy)
_ONE_HOT = (_losses.CategoricalCrossentropy, _losses.categorical_crossentropy)
_BINARY = (_losses.BinaryCrossentropy, _losses.binary_crossentropy)


class SmoothedClasses(keras.losses.Loss):  # type: ignore[misc]  # Keras has no type information
    """The crossentropy of class numbers with smoothed labels.

    (1 − ε) · L(y) + (ε / K) · Σ_k L(k) for K classes, L(k) the loss where k is the target: the categorical
    crossentropy with target 1 − ε + ε / K for the class y and ε / K for every other (C. Szegedy et al.,
    "Rethinking the Inception Architecture for Computer Vision", CVPR 2016, §7).

    Parameters
    ----------
    smoothing
        ε in [0, 1).
    from_logits
        Whether the outputs are logits, not probabilities.
    """

    def __init__(self, smoothing: float, from_logits: bool) -> None:
        super().__init__(name="smoothed_classes")
        self.inner = _losses.CategoricalCrossentropy(from_logits=from_logits, label_smoothing=smoothing)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each row; ``y_true`` are class numbers, (n,) or (n, 1)."""
        if len(y_true.shape) == len(y_pred.shape):
            y_true = ops.squeeze(y_true, axis=-1)
        return self.inner.call(ops.one_hot(ops.cast(y_true, "int32"), y_pred.shape[-1]), y_pred)


def smoothed(loss: Any, smoothing: float) -> Any | None:
    """Return the loss that trains with smoothed labels; None without smoothing.

    Parameters
    ----------
    loss
        A crossentropy of class numbers, of one-hot targets or of zeros and ones, by Keras's name or as an
        object.
    smoothing
        ε in [0, 1): the share of the target that is spread evenly over the classes.

    Raises
    ------
    ModelError
        If the loss is another.

    Examples
    --------
    >>> import numpy as np
    >>> p = np.array([[0.7, 0.2, 0.1]], "float32")
    >>> soft = smoothed("sparse_categorical_crossentropy", 0.3)
    >>> bool(np.isclose(float(soft(np.array([0]), p)), -(0.8 * np.log(0.7) + 0.1 * np.log(0.2 * 0.1))))
    True
    """
    if not smoothing:
        return None
    try:
        found = keras.losses.get(loss)
    except ValueError:  # one of compile's short names
        found = None
    logits = bool(found.get_config().get("from_logits")) if isinstance(found, keras.losses.Loss) else False
    kind = type(found) if isinstance(found, keras.losses.Loss) else found
    if kind in _SPARSE:
        return SmoothedClasses(smoothing, logits)
    for kinds, made in ((_ONE_HOT, _losses.CategoricalCrossentropy), (_BINARY, _losses.BinaryCrossentropy)):
        if kind in kinds:
            return made(from_logits=logits, label_smoothing=smoothing)
    name = loss if isinstance(loss, str) else getattr(loss, "name", type(loss).__name__)
    raise ModelError(
        f"label_smoothing goes with a crossentropy, and the loss is {name!r}; take binary_crossentropy, "
        "categorical_crossentropy or sparse_categorical_crossentropy, or leave it out."
    )
