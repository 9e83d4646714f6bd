"""Where a path of strengths begins: the data loss's gradient at all-zero weights of a linear model."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shrinkage.errors import PenaltyError, did_you_mean

_LOSSES = ("mse", "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy")


def gradient_at_zero(
    x: ArrayLike, y: ArrayLike, loss: str = "mse", *, intercept: bool = True
) -> NDArray[np.float64]:
    """Return the gradient of Keras's mean data loss at w = 0 of the linear model x w (+ b).

    With an intercept, b is at its optimum given w = 0: the mean target (mse) or the class frequencies
    (cross-entropies). ``L1(...).max_strength(gradient_at_zero(x, y))`` is λ_max, the smallest strength at
    which no weight enters the model.

    Parameters
    ----------
    x
        Inputs, shape (n, features).
    y
        Targets: (n,) or (n, outputs) numbers for ``mse``; class numbers (n,); one-hot (n, classes); or
        0/1 for ``binary_crossentropy``.
    loss
        ``mse`` or a cross-entropy, by Keras's name. The prediction is x w + b for ``mse``, its softmax
        or sigmoid for the others.
    intercept
        Whether the model has a bias (which is not penalized).

    Returns
    -------
    ndarray of float64, shape (features, outputs)

    Raises
    ------
    PenaltyError
        If the loss has another name.

    Notes
    -----
    mse: −2 xᵀ(y − b) / (n · outputs). Cross-entropies: xᵀ(p − y) / n with p the frequencies (Friedman,
    Hastie & Tibshirani, 2010, §2.5, in Keras's scaling of the loss).

    Examples
    --------
    >>> gradient_at_zero([[1.0], [-1.0]], [1.0, -1.0]).tolist()
    [[-2.0]]
    """
    inputs, targets = np.asarray(x, float), np.asarray(y)
    if loss == "mean_squared_error":
        loss = "mse"
    if loss not in _LOSSES:
        raise PenaltyError(
            f"No λ_max is known for the loss {loss!r}; known are {', '.join(_LOSSES)}."
            f"{did_you_mean(loss, _LOSSES)}"
        )
    if loss == "sparse_categorical_crossentropy":
        targets = np.eye(int(targets.max()) + 1)[targets.reshape(-1).astype(int)]
    targets = targets.reshape(len(targets), -1).astype(float)
    n, outputs = targets.shape
    gradient: NDArray[np.float64]
    if loss == "mse":
        centre = targets.mean(0) if intercept else 0.0
        gradient = -2 * inputs.T @ (targets - centre) / (n * outputs)
        return gradient
    uniform = 0.5 if loss == "binary_crossentropy" else 1 / outputs
    frequencies = targets.mean(0) if intercept else np.full(outputs, uniform)
    scale = outputs if loss == "binary_crossentropy" else 1
    gradient = inputs.T @ (frequencies - targets) / (n * scale)
    return gradient
