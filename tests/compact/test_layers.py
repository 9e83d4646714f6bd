"""Every type of layer that can shrink: units that send or are heard by nothing leave, and no others."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

layers = keras.layers

VECTOR, SEQUENCE, IMAGE, VOLUME = (5,), (9, 3), (7, 8, 2), (5, 6, 5, 2)
FIRST = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}
DEAD, ALIVE = [1, 4], [0, 2, 3, 5]


def first(shape: tuple[int, ...]) -> keras.Layer:
    """The layer whose units 1 and 4 will be dead: six units."""
    rank = len(shape) - 1
    return FIRST[rank](6, 2, name="first") if rank else layers.Dense(6, name="first")


#: Layers that pass each channel on by itself, and the inputs that they take.
PASSING = {
    "BatchNormalization": (IMAGE, lambda: layers.BatchNormalization()),
    "BatchNormalization without gamma": (VECTOR, lambda: layers.BatchNormalization(scale=False)),
    "BatchNormalization without beta": (SEQUENCE, lambda: layers.BatchNormalization(center=False)),
    "BatchNormalization, axis given": (IMAGE, lambda: layers.BatchNormalization(axis=3)),
    "BatchNormalization, renorm": (VECTOR, lambda: layers.BatchNormalization(renorm=True)),
    "LayerNormalization over a place": (SEQUENCE, lambda: layers.LayerNormalization(axis=1)),
    "Softmax over a place": (IMAGE, lambda: layers.Softmax(axis=[1, 2])),
    "MaxPooling1D": (SEQUENCE, lambda: layers.MaxPooling1D(2)),
    "MaxPooling2D": (IMAGE, lambda: layers.MaxPooling2D(2)),
    "MaxPooling3D": (VOLUME, lambda: layers.MaxPooling3D(2)),
    "MaxPooling2D same": (IMAGE, lambda: layers.MaxPooling2D(2, padding="same")),
    "AveragePooling1D": (SEQUENCE, lambda: layers.AveragePooling1D(2)),
    "AveragePooling2D": (IMAGE, lambda: layers.AveragePooling2D(2)),
    "AveragePooling2D same": (IMAGE, lambda: layers.AveragePooling2D(3, padding="same", strides=2)),
    "AveragePooling3D": (VOLUME, lambda: layers.AveragePooling3D(2)),
    "GlobalMaxPooling1D": (SEQUENCE, lambda: layers.GlobalMaxPooling1D()),
    "GlobalMaxPooling2D": (IMAGE, lambda: layers.GlobalMaxPooling2D()),
    "GlobalMaxPooling3D": (VOLUME, lambda: layers.GlobalMaxPooling3D(keepdims=True)),
    "GlobalAveragePooling1D": (SEQUENCE, lambda: layers.GlobalAveragePooling1D()),
    "GlobalAveragePooling2D": (IMAGE, lambda: layers.GlobalAveragePooling2D(keepdims=True)),
    "GlobalAveragePooling3D": (VOLUME, lambda: layers.GlobalAveragePooling3D()),
    "Flatten": (IMAGE, lambda: layers.Flatten()),
    "Flatten a vector": (VECTOR, lambda: layers.Flatten()),
    "Reshape": (IMAGE, lambda: layers.Reshape((42, 6))),
    "Reshape, last open": (IMAGE, lambda: layers.Reshape((6, 7, -1))),
    "Reshape, first open": (IMAGE, lambda: layers.Reshape((-1, 6))),
    "Permute": (IMAGE, lambda: layers.Permute((2, 1, 3))),
    "RepeatVector": (VECTOR, lambda: layers.RepeatVector(3)),
    "Identity": (VECTOR, lambda: layers.Identity()),
    "Dropout": (VECTOR, lambda: layers.Dropout(0.5)),
    "Dropout, noise shape": (SEQUENCE, lambda: layers.Dropout(0.5, noise_shape=(None, 1, None))),
    "AlphaDropout": (VECTOR, lambda: layers.AlphaDropout(0.5)),
    "SpatialDropout1D": (SEQUENCE, lambda: layers.SpatialDropout1D(0.5)),
    "SpatialDropout2D": (IMAGE, lambda: layers.SpatialDropout2D(0.5)),
    "SpatialDropout3D": (VOLUME, lambda: layers.SpatialDropout3D(0.5)),
    "GaussianNoise": (VECTOR, lambda: layers.GaussianNoise(1.0)),
    "GaussianDropout": (VECTOR, lambda: layers.GaussianDropout(0.5)),
    "ActivityRegularization": (VECTOR, lambda: layers.ActivityRegularization(l2=0.1)),
    "Activation": (VECTOR, lambda: layers.Activation("sigmoid")),
    "Activation by a layer": (VECTOR, lambda: layers.Activation(layers.LeakyReLU(0.1))),
    "ReLU": (IMAGE, lambda: layers.ReLU(max_value=6.0)),
    "LeakyReLU": (VECTOR, lambda: layers.LeakyReLU()),
    "ELU": (VECTOR, lambda: layers.ELU()),
    "PReLU": (IMAGE, lambda: layers.PReLU()),
    "PReLU by channel": (IMAGE, lambda: layers.PReLU(shared_axes=[1, 2])),
    "PReLU by place": (IMAGE, lambda: layers.PReLU(shared_axes=[3])),
    "Rescaling": (VECTOR, lambda: layers.Rescaling(2.0, 0.5)),
    "ZeroPadding1D": (SEQUENCE, lambda: layers.ZeroPadding1D(2)),
    "ZeroPadding2D": (IMAGE, lambda: layers.ZeroPadding2D(((1, 0), (2, 1)))),
    "ZeroPadding3D": (VOLUME, lambda: layers.ZeroPadding3D(1)),
    "Cropping1D": (SEQUENCE, lambda: layers.Cropping1D(1)),
    "Cropping2D": (IMAGE, lambda: layers.Cropping2D(1)),
    "Cropping3D": (VOLUME, lambda: layers.Cropping3D(((1, 0), (0, 1), (1, 1)))),
    "UpSampling1D": (SEQUENCE, lambda: layers.UpSampling1D(2)),
    "UpSampling2D": (IMAGE, lambda: layers.UpSampling2D(2)),
    "UpSampling2D bilinear": (IMAGE, lambda: layers.UpSampling2D(2, interpolation="bilinear")),
    "UpSampling2D bicubic": (IMAGE, lambda: layers.UpSampling2D(2, interpolation="bicubic")),
    "UpSampling3D": (VOLUME, lambda: layers.UpSampling3D(2)),
    "DepthwiseConv1D": (SEQUENCE, lambda: layers.DepthwiseConv1D(2, activation="relu")),
    "DepthwiseConv2D": (IMAGE, lambda: layers.DepthwiseConv2D(2, use_bias=False)),
    "DepthwiseConv2D same": (IMAGE, lambda: layers.DepthwiseConv2D(3, padding="same", strides=2)),
}


#: Of these constants only zero passes their borders.
BORDERED = ("DepthwiseConv2D same", "ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")


def chain(shape, *middle) -> keras.Model:
    return keras.Sequential([keras.Input(shape), first(shape), *middle, layers.Dense(3, name="last")])


#: Keras 3.15 tells torch how long the axes are, and not which.
LAST_AXES = pytest.mark.not_on("torch", "Keras's LayerNormalization can't normalize over other axes there")
ON_ANY = [pytest.param(n, marks=LAST_AXES if n == "LayerNormalization over a place" else ()) for n in PASSING]


@pytest.mark.parametrize("name", ON_ANY)
def test_units_leave_through(name, randomize, silence, deafen, shrunk, array):
    """Unit 1 sends a constant; unit 4 sends something, and nobody hears what comes of it."""
    shape, middle = PASSING[name]
    model = randomize(chain(shape, middle()))
    silence(model.get_layer("first"), [1], bias=0.0 if name in BORDERED else 0.5)
    deafen(model.get_layer("last"), range(4, model.get_layer("last").kernel.shape[0], 6))
    smaller, receipt = shrunk(model)
    before, after = model.get_layer("first"), smaller.get_layer("first")
    # What these two make of a constant differs from place to place.
    by_place = name in ("LayerNormalization over a place", "Softmax over a place")
    kept = [0, 1, 2, 3, 5] if by_place else ALIVE
    np.testing.assert_array_equal(array(after.kernel), array(before.kernel)[..., kept])
    np.testing.assert_array_equal(array(after.bias), array(before.bias)[kept])
    assert receipt.whole == ()
    assert [type(layer) for layer in smaller.layers] == [type(layer) for layer in model.layers]
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in model.layers]


def test_flattened_units_leave_if_no_place_of_theirs_is_heard(randomize, deafen, shrunk):
    model = randomize(chain(IMAGE, layers.Flatten()))
    places = 6 * 7
    deafen(model.get_layer("last"), [6 * p + c for p in range(places) for c in DEAD])
    deafen(model.get_layer("last"), [6 * p + 2 for p in range(places - 1)])
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == 4
    assert smaller.get_layer("last").kernel.shape == (4 * places, 3)


def test_statistics_and_scale_leave_with_the_unit(randomize, silence, shrunk, array):
    model = randomize(chain(IMAGE, layers.BatchNormalization(name="norm")))
    silence(model.get_layer("first"), DEAD)
    smaller, _ = shrunk(model)
    before, after = model.get_layer("norm"), smaller.get_layer("norm")
    for old, new in zip(before.weights, after.weights, strict=True):
        np.testing.assert_array_equal(array(new), array(old)[ALIVE])


def test_a_gamma_of_zero_leaves_beta_alone(randomize, shrunk):
    model = randomize(chain(IMAGE, layers.BatchNormalization(name="norm"), layers.ReLU()))
    gamma = np.array([1, 0, 1, 1, 0, 1], "float32")
    model.get_layer("norm").gamma.assign(gamma)
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == 4


#: Layers that mix channels.
MIXING = {
    "Dense": (VECTOR, lambda **k: layers.Dense(5, **k)),
    "Dense on a sequence": (SEQUENCE, lambda **k: layers.Dense(5, **k)),
    "Conv1D": (SEQUENCE, lambda **k: layers.Conv1D(5, 2, **k)),
    "Conv1D causal": (SEQUENCE, lambda **k: layers.Conv1D(5, 3, padding="causal", **k)),
    "Conv2D": (IMAGE, lambda **k: layers.Conv2D(5, (2, 3), strides=2, **k)),
    "Conv2D same": (IMAGE, lambda **k: layers.Conv2D(5, 3, padding="same", **k)),
    "Conv3D": (VOLUME, lambda **k: layers.Conv3D(5, 2, **k)),
    "SeparableConv1D": (SEQUENCE, lambda **k: layers.SeparableConv1D(5, 2, **k)),
    "SeparableConv2D": (IMAGE, lambda **k: layers.SeparableConv2D(5, 2, depth_multiplier=2, **k)),
    "Conv1DTranspose": (SEQUENCE, lambda **k: layers.Conv1DTranspose(5, 2, **k)),
    "Conv2DTranspose": (IMAGE, lambda **k: layers.Conv2DTranspose(5, 2, strides=2, padding="same", **k)),
    "Conv3DTranspose": (VOLUME, lambda **k: layers.Conv3DTranspose(5, 2, **k)),
}


WITHOUT_BIAS = ("Dense", "Conv2D same", "SeparableConv2D", "Conv2DTranspose")


@pytest.mark.parametrize(
    ("name", "use_bias"), [*((n, True) for n in MIXING), *((n, False) for n in WITHOUT_BIAS)]
)
def test_a_mixing_layer_shrinks_on_both_sides(name, use_bias, randomize, silence, deafen, shrunk, array):
    """Inputs that bring nothing or are not heard go, outputs that send nothing or are not heard go."""
    shape, middle = MIXING[name]
    model = randomize(chain(shape, middle(name="middle", activation="relu", use_bias=use_bias)))
    silence(model.get_layer("first"), [1])
    deafen(model.get_layer("middle"), [4])
    silence(model.get_layer("middle"), [0])
    deafen(model.get_layer("last"), [3])
    smaller, receipt = shrunk(model)
    assert receipt.whole == ()
    assert array(smaller.get_layer("first").kernel).shape[-1] == 4
    assert array(smaller.get_layer("last").kernel).shape == (3, 3)
    before, after = model.get_layer("middle"), smaller.get_layer("middle")
    assert after.use_bias == use_bias
    many = getattr(before, "depth_multiplier", 1)
    for old, new in zip(before.weights, after.weights, strict=True):
        ins = (
            ALIVE
            if many == 1 or old.name == "depthwise_kernel"
            else [n + m for n in (0, 4, 6, 10) for m in (0, 1)]
        )
        value = array(old)
        for axis, size in enumerate(old.shape):
            kept = {5: [1, 2, 4], 6: ins, 12: ins}.get(size)
            value = value if kept is None else value.take(kept, axis)
        np.testing.assert_array_equal(array(new), value, err_msg=old.name)


def test_a_separable_convolution_hears_through_both_kernels(randomize, shrunk, array):
    """Half of a channel's depthwise kernels are zero, and the other half is not listened to."""
    model = randomize(chain(IMAGE, layers.SeparableConv2D(5, 2, depth_multiplier=2, name="middle")))
    middle = model.get_layer("middle")
    depthwise, pointwise = np.array(array(middle.depthwise_kernel)), np.array(array(middle.pointwise_kernel))
    depthwise[..., 1, 0] = 0
    pointwise[..., 3, :] = 0
    middle.depthwise_kernel.assign(depthwise)
    middle.pointwise_kernel.assign(pointwise)
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == 5


@pytest.mark.parametrize("shape", [SEQUENCE, IMAGE])
def test_all_outputs_of_a_depthwise_channel_go_together(shape, randomize, silence, deafen, shrunk, array):
    kind = layers.DepthwiseConv1D if shape == SEQUENCE else layers.DepthwiseConv2D
    model = randomize(chain(shape, kind(2, depth_multiplier=2, name="middle")))
    silence(model.get_layer("first"), DEAD)
    deafen(model.get_layer("last"), [0, 4, 5])  # half of channel 0, all of channel 2
    smaller, _ = shrunk(model)
    assert array(smaller.get_layer("first").kernel).shape[-1] == 3
    assert array(smaller.get_layer("middle").kernel).shape[-2:] == (3, 2)
    assert array(smaller.get_layer("middle").bias).shape == (6,)


def test_a_depthwise_kernel_of_zeros_sends_its_bias(randomize, shrunk, array):
    model = randomize(chain(IMAGE, layers.DepthwiseConv2D(3, padding="same", name="middle")))
    kernel = np.array(array(model.get_layer("middle").kernel))
    kernel[..., DEAD, :] = 0
    model.get_layer("middle").kernel.assign(kernel)
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").filters == 4


# --- several tensors ----------------------------------------------------------------------------------------

MERGES = {
    "Add": lambda x, y: layers.Add()([x, y]),
    "Subtract": lambda x, y: layers.Subtract()([x, y]),
    "Multiply": lambda x, y: layers.Multiply()([x, y]),
    "Average": lambda x, y: layers.Average()([x, y]),
    "Maximum": lambda x, y: layers.Maximum()([x, y]),
    "Minimum": lambda x, y: layers.Minimum()([x, y]),
    "x + y": lambda x, y: x + y,
    "x - y": lambda x, y: x - y,
    "x * y": lambda x, y: x * y,
    "2 * x + y / 3 - 1": lambda x, y: 2 * x + y / 3 - 1,
    "relu(-x) + y": lambda x, y: ops.relu(-x) + y,
    "maximum, minimum": lambda x, y: ops.maximum(x, ops.minimum(y, 0.5)),
}


def branches(merge, shape=IMAGE) -> keras.Model:
    x = keras.Input(shape)
    left = layers.Conv2D(6, 2, name="left")(x)
    right = layers.Conv2D(6, 2, name="right")(x)
    return keras.Model(x, layers.Dense(3, name="last")(merge(left, right)))


@pytest.mark.parametrize("name", MERGES)
def test_what_is_dead_or_unheard_in_all_branches_leaves(name, randomize, silence, deafen, shrunk):
    model = randomize(branches(MERGES[name]))
    silence(model.get_layer("left"), [1, 3], bias=0.5)
    silence(model.get_layer("right"), [3, 5], bias=-0.25)
    deafen(model.get_layer("last"), [4])
    smaller, receipt = shrunk(model)
    assert [smaller.get_layer(n).filters for n in ("left", "right")] == [4, 4]
    assert receipt.whole == ()


@pytest.mark.parametrize("name", ["Multiply", "x * y"])
def test_zero_times_anything_is_zero(name, randomize, silence, shrunk):
    model = randomize(branches(MERGES[name]))
    silence(model.get_layer("left"), DEAD)
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).filters for n in ("left", "right")] == [4, 4]


def test_channels_side_by_side_leave_one_by_one(randomize, silence, deafen, shrunk, array):
    model = randomize(branches(lambda x, y: layers.Concatenate()([x, y])))
    silence(model.get_layer("left"), [0], bias=0.5)
    silence(model.get_layer("right"), [2])
    deafen(model.get_layer("last"), [6 + 5])
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).filters for n in ("left", "right")] == [5, 4]
    kept = [1, 2, 3, 4, 5, 6, 7, 9, 10]
    np.testing.assert_array_equal(
        array(smaller.get_layer("last").kernel), array(model.get_layer("last").kernel)[kept]
    )


def test_along_another_axis_channel_meets_channel(randomize, silence, shrunk):
    model = randomize(branches(lambda x, y: layers.Concatenate(axis=1)([x, y])))
    silence(model.get_layer("left"), [1, 2, 3], bias=0.5)
    silence(model.get_layer("right"), [1, 3], bias=0.5)
    silence(model.get_layer("right"), [2], bias=0.25)
    smaller, _ = shrunk(model)
    # Of channel 2 one half is another constant than the other.
    assert [smaller.get_layer(n).filters for n in ("left", "right")] == [4, 4]


@pytest.mark.parametrize(("target", "step"), [((2, 3), 3), ((2, -1), 3), ((3, 2), 2), ((-1, 2), 2)], ids=str)
def test_a_reshape_ties_channels_that_share_elements(target, step, randomize, silence, shrunk):
    """Of six units, as channels of 3 or 2, those with the same remainder stay or go together."""
    first, last = layers.Dense(6, name="first"), layers.Dense(2, name="last")
    model = randomize(keras.Sequential([keras.Input((5,)), first, layers.Reshape(target), last]))
    silence(first, [1, 4, 5])
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").units == {3: 4, 2: 6}[step]
    silence(first, [3])
    smaller, _ = shrunk(model)
    assert smaller.get_layer("first").units == {3: 4, 2: 3}[step]
