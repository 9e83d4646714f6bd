"""Max-norm: the incoming weights of every unit are kept no longer than a given norm."""

from __future__ import annotations

import contextlib
from typing import Any

import keras

from shrinkage.recipe.select import config_key, weights
from shrinkage.recipe.units import layout


def constrain(model: Any, max_norm: float | None) -> None:
    """Put Keras's MaxNorm on every kernel of a model, in the place of another constraint there.

    After each step of an optimizer a unit's incoming weights w become w · min(1, c / ‖w‖), c = ``max_norm``
    (N. Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from Overfitting", 2014, §5.1).
    A unit is a column of a Dense kernel, a filter of a convolution. Biases are free.

    Parameters
    ----------
    model
        Built. What is saved of it says the constraint as well, where its layer has an argument for it.
    max_norm
        c > 0; None leaves the model as it is.

    Examples
    --------
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> constrain(model, 3.0)
    >>> model.layers[0].get_config()["kernel_constraint"]["config"]
    {'max_value': 3.0, 'axis': [0]}
    """
    if max_norm is None:
        return
    for weight in weights(model):
        if not weight.role.endswith("kernel"):
            continue
        constraint = keras.constraints.MaxNorm(max_norm, axis=_incoming(weight))
        # What a step reads is the variable's; what a file says, the layer's.
        weight.variable.constraint = constraint
        key = config_key(weight.site.layer, weight.role)
        with contextlib.suppress(
            AttributeError
        ):  # of a recurrent layer it is a property that reads its cell's
            if key is not None:
                setattr(weight.site.layer, key.replace("_regularizer", "_constraint"), constraint)


def _incoming(weight: Any) -> list[int]:
    """Return the axes of a kernel that one unit's weights lie along."""
    axes = list(range(len(weight.variable.shape)))
    units = {"last": axes[-1:], "transposed": axes[-2:-1], "depthwise": axes[-2:]}[layout(weight)]
    return [axis for axis in axes if axis not in units]
