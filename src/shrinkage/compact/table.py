"""The layers that can shrink, and what handles each."""

from __future__ import annotations

from typing import Any

import keras
from keras.src.ops import nn
from keras.src.ops import numpy as bare

from shrinkage.compact import handlers, merging, mixing
from shrinkage.compact.graph import Call
from shrinkage.compact.handlers import Handler

_layers = keras.layers

#: Exact types: a subclass may do something else.
HANDLERS: dict[type, type[Handler]] = {
    _layers.Dense: mixing.Dense,
    **dict.fromkeys((_layers.Conv1D, _layers.Conv2D, _layers.Conv3D), mixing.Mixing),
    **dict.fromkeys((_layers.SeparableConv1D, _layers.SeparableConv2D), mixing.Separable),
    **dict.fromkeys((_layers.DepthwiseConv1D, _layers.DepthwiseConv2D), mixing.Depthwise),
    **dict.fromkeys(
        (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose), mixing.Transposed
    ),
    _layers.BatchNormalization: handlers.BatchNormalization,
    **dict.fromkeys((_layers.LayerNormalization, _layers.Softmax), handlers.Normalizing),
    **dict.fromkeys((_layers.Flatten, _layers.Reshape), handlers.Reshape),
    **dict.fromkeys(
        (
            *(_layers.MaxPooling1D, _layers.MaxPooling2D, _layers.MaxPooling3D),
            *(_layers.AveragePooling1D, _layers.AveragePooling2D, _layers.AveragePooling3D),
            *(_layers.GlobalMaxPooling1D, _layers.GlobalMaxPooling2D, _layers.GlobalMaxPooling3D),
            *(_layers.GlobalAveragePooling1D, _layers.GlobalAveragePooling2D),
            *(_layers.GlobalAveragePooling3D, _layers.RepeatVector, _layers.Identity),
            *(_layers.Cropping1D, _layers.Cropping2D, _layers.Cropping3D),
            *(_layers.UpSampling1D, _layers.UpSampling2D, _layers.UpSampling3D),
            *(_layers.GaussianNoise, _layers.GaussianDropout, _layers.ActivityRegularization),
        ),
        Handler,
    ),
    **dict.fromkeys(
        (
            *(_layers.Dropout, _layers.AlphaDropout),
            *(_layers.SpatialDropout1D, _layers.SpatialDropout2D, _layers.SpatialDropout3D),
        ),
        handlers.Dropout,
    ),
    **dict.fromkeys(
        (_layers.ZeroPadding1D, _layers.ZeroPadding2D, _layers.ZeroPadding3D), handlers.ZeroPadding
    ),
    _layers.Permute: handlers.Permute,
    _layers.Rescaling: handlers.Rescaling,
    _layers.Activation: handlers.Activation,
    _layers.PReLU: handlers.PReLU,
    **dict.fromkeys(
        (
            *(_layers.ReLU, _layers.LeakyReLU, _layers.ELU, bare.Negative, bare.Tanh),
            *(nn.Relu, nn.Relu6, nn.LeakyRelu, nn.Elu, nn.Selu, nn.Celu, nn.Gelu, nn.Silu),
            *(nn.Sigmoid, nn.LogSigmoid, nn.HardSigmoid, nn.HardSilu, nn.Softplus, nn.Softsign),
        ),
        handlers.Elementwise,
    ),
    _layers.Concatenate: merging.Concatenate,
    **dict.fromkeys(
        (
            *(_layers.Add, _layers.Average, _layers.Subtract),
            *(_layers.Multiply, _layers.Maximum, _layers.Minimum),
        ),
        merging.Merge,
    ),
    **dict.fromkeys(
        (
            *(bare.Add, bare.Subtract, bare.Multiply, bare.Maximum, bare.Minimum),
            *(bare.Divide, bare.TrueDivide),
        ),
        merging.Arithmetic,
    ),
}


def refusal(call: Call, handler: Handler | None) -> str:
    """Return why a call keeps its layer whole, or an empty text."""
    layer = call.operation
    if call.reason:
        return call.reason
    if handler is None:
        return f"{_kind(layer)} is not a type that can shrink"
    if any(not t.slots.size for t in (*call.inputs, *call.outputs)):
        return "the length of its last axis is not known"
    if len(call.inputs[0].shape) > 2 and getattr(layer, "data_format", "") == "channels_first":
        return "its channels come first"
    return handler.refusal(call)


def _kind(layer: Any) -> str:
    name = type(layer).__name__
    base = next((b.__name__ for b in type(layer).__mro__[1:] if b in HANDLERS), "")
    return f"{name}, a subclass of {base}," if base else name
