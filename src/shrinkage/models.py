"""Small reference networks for examples and tests.

A model reference in a study, ``"module:function"``, is called as these are: with the input shape and the
number of classes of the data, and then the study's ``model_options``.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from shrinkage.errors import ModelError, did_you_mean
from shrinkage.penalties import check_strength

#: Keras's layers that change images while training, each by itself, and are idle else; their shape stays.
#: Those of the second list need three channels.
AUGMENTATIONS = (
    "RandomBrightness", "RandomContrast", "RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomInvert",
    "RandomPerspective", "RandomPosterization", "RandomRotation", "RandomSharpness", "RandomShear",
    "RandomTranslation", "RandomZoom",
)  # fmt: skip
COLOUR_AUGMENTATIONS = (
    "RandomColorDegeneration", "RandomColorJitter", "RandomGrayscale", "RandomHue", "RandomSaturation",
)  # fmt: skip


def mlp(
    input_shape: Sequence[int],
    classes: int,
    *,
    hidden: Sequence[int] = (128,),
    dropout: float = 0.0,
    batch_norm: bool = False,
    augmentation: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """Return a built multi-layer perceptron: flatten, then dense relu layers, then a head.

    Parameters
    ----------
    input_shape
        The shape of one sample.
    classes
        Number of classes for a softmax head; 0 for regression, a single linear output.
    hidden
        Units of each hidden layer, named ``dense_1``, ``dense_2``, …; the head is ``head``.
    dropout
        Rate after each hidden layer, in [0, 1).
    batch_norm
        Whether BatchNormalization stands between each hidden layer and its relu.
    augmentation
        Random changes of the training images, right after the input: tables that name one of Keras's layers
        (:data:`AUGMENTATIONS`) and its arguments, as in ``{"layer": "RandomFlip", "mode": "horizontal"}``.
        The layers are named ``augment_1``, …; pixels are taken to lie in [0, 1].
        They are idle in ``evaluate`` and ``predict``; a bare call needs ``training=False``, Keras's way.

    Raises
    ------
    ModelError
        If an option is out of range.

    Examples
    --------
    >>> mlp((8, 8, 1), 10, hidden=[16]).output_shape
    (None, 10)
    """
    layers = [keras.Input(tuple(input_shape)), *_augmentation(augmentation, tuple(input_shape))]
    if len(input_shape) > 1:
        layers.append(keras.layers.Flatten(name="flatten"))
    layers += _dense(hidden, dropout, batch_norm)
    return keras.Sequential([*layers, _head(classes)], name="mlp")


def cnn(
    input_shape: Sequence[int],
    classes: int,
    *,
    filters: Sequence[int] = (32, 64),
    dense: Sequence[int] = (),
    dropout: float = 0.0,
    dense_dropout: float | None = None,
    batch_norm: bool = False,
    augmentation: Sequence[Mapping[str, Any]] = (),
) -> Any:
    """Return a built convolutional network: 3×3 ``valid`` convolution, relu and 2×2 max-pool a filter entry.

    Parameters
    ----------
    input_shape
        Height, width, channels.
    classes
        Number of classes for a softmax head; 0 for regression, a single linear output.
    filters
        Filters of each convolution, named ``conv_1``, ``conv_2``, ….
    dense
        Units of the dense relu layers before the head, named ``dense_1``, …; the head is ``head``.
    dropout
        Rate after each pooling and each dense layer, in [0, 1).
    dense_dropout
        Rate after each dense layer, where it is another.
    batch_norm
        Whether BatchNormalization stands between each layer and its relu.
    augmentation
        Random changes of the training images, right after the input: tables that name one of Keras's layers
        (:data:`AUGMENTATIONS`) and its arguments, as in ``{"layer": "RandomFlip", "mode": "horizontal"}``.
        The layers are named ``augment_1``, …; pixels are taken to lie in [0, 1].
        They are idle in ``evaluate`` and ``predict``; a bare call needs ``training=False``, Keras's way.

    Raises
    ------
    ModelError
        If the input is no image, an option is out of range, or the image is too small for the entries.

    Examples
    --------
    >>> cnn((8, 8, 1), 10, filters=[4], dense=[16]).output_shape
    (None, 10)
    """
    if len(input_shape) != 3:
        shape = tuple(input_shape)
        raise ModelError(f"cnn needs images (height, width, channels); one sample has shape {shape}.")
    layers = [keras.Input(tuple(input_shape)), *_augmentation(augmentation, tuple(input_shape))]
    side = min(input_shape[:2])
    for i, units in enumerate(_units("filters", filters), 1):
        if side < 4:
            raise ModelError(
                f"filters={list(filters)} does not fit images of {input_shape[0]}×{input_shape[1]}: "
                f"only {i - 1} 3×3 convolution and 2×2 pooling fit. Use fewer entries: "
                f"filters={list(filters)[: i - 1]}, in a study model_options = "
                f"{{ filters = {list(filters)[: i - 1]} }}."
            )
        side = (side - 2) // 2
        layers += _activated(keras.layers.Conv2D, f"conv_{i}", batch_norm, units, 3)
        layers.append(keras.layers.MaxPooling2D(2, name=f"pool_{i}"))
        layers += _dropout(dropout, f"pool_{i}")
    layers.append(keras.layers.Flatten(name="flatten"))
    layers += _dense(dense, dropout if dense_dropout is None else dense_dropout, batch_norm)
    return keras.Sequential([*layers, _head(classes)], name="cnn")


def _dense(hidden: Sequence[int], dropout: float, batch_norm: bool) -> list[Any]:
    layers: list[Any] = []
    for i, units in enumerate(_units("hidden", hidden), 1):
        layers += _activated(keras.layers.Dense, f"dense_{i}", batch_norm, units)
        layers += _dropout(dropout, f"dense_{i}")
    return layers


def _activated(layer: Any, name: str, batch_norm: bool, *sizes: int) -> list[Any]:
    if not batch_norm:
        return [layer(*sizes, activation="relu", name=name)]
    normalization = keras.layers.BatchNormalization(name=f"{name}_norm")
    return [layer(*sizes, name=name), normalization, keras.layers.Activation("relu", name=f"{name}_relu")]


def _dropout(rate: float, name: str) -> list[Any]:
    if check_strength(rate, "dropout") >= 1:
        raise ModelError(f"dropout must lie in [0, 1); got {rate!r}.")
    return [keras.layers.Dropout(rate, name=f"{name}_dropout")] if rate else []


def _augmentation(given: Any, input_shape: tuple[int, ...]) -> list[Any]:
    if not isinstance(given, (list, tuple)) or not all(
        isinstance(t, Mapping) and "layer" in t for t in given
    ):
        raise ModelError(
            f'augmentation must be a list of tables such as {{ layer = "RandomFlip", mode = "horizontal" }}; '
            f"got {given!r:.80}."
        )
    if given and len(input_shape) != 3:
        raise ModelError(
            f"augmentation needs images (height, width, channels); one sample has shape {input_shape}."
        )
    return [_augment(i, dict(table), input_shape[-1]) for i, table in enumerate(given, 1)]


def _augment(number: int, arguments: dict[str, Any], channels: int) -> Any:
    name, known = arguments.pop("layer"), (*AUGMENTATIONS, *COLOUR_AUGMENTATIONS)
    if name not in known:
        hint = did_you_mean(str(name), known) or f" Known: {', '.join(known)}."
        raise ModelError(f"{name!r} is no layer that augmentation takes.{hint}")
    if name in COLOUR_AUGMENTATIONS and channels != 3:
        raise ModelError(f"{name} needs images of 3 channels; these have {channels}.")
    cls = getattr(keras.layers, name)
    if "value_range" in inspect.signature(cls).parameters:
        arguments.setdefault("value_range", (0.0, 1.0))
    try:
        return cls(**{**arguments, "name": f"augment_{number}"})
    except Exception as error:  # Keras's layers check their arguments in many ways
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"{name} can't be made with {arguments}: {reason}") from error


def _head(classes: int) -> Any:
    if classes:
        return keras.layers.Dense(classes, activation="softmax", name="head")
    return keras.layers.Dense(1, name="head")


def _units(name: str, given: Any) -> list[int]:
    units = list(given) if isinstance(given, (list, tuple)) else [given]
    for n in units:
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ModelError(f"{name} must be a list of whole numbers ≥ 1; got {given!r}.")
    return units
