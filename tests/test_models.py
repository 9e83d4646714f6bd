"""The reference networks: shapes, names, options, and what is refused."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import shrinkage
from shrinkage.errors import ModelError, ShrinkageError
from shrinkage.models import AUGMENTATIONS, COLOUR_AUGMENTATIONS, cnn, mlp
from shrinkage.training.initial import initialise


def names(model) -> list[str]:
    return [layer.name for layer in model.layers]


def kinds(model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def test_an_mlp_is_dense_relu_layers_and_a_softmax_head():
    model = mlp((4, 4, 1), 3, hidden=[8, 6])
    assert names(model) == ["flatten", "dense_1", "dense_2", "head"]
    assert [w.shape for w in model.weights] == [(16, 8), (8,), (8, 6), (6,), (6, 3), (3,)]
    assert model.output_shape == (None, 3)
    assert [layer.activation.__name__ for layer in model.layers[1:]] == ["relu", "relu", "softmax"]
    outputs = keras.ops.convert_to_numpy(model(np.ones((2, 4, 4, 1), "float32")))
    np.testing.assert_allclose(outputs.sum(1), 1, rtol=1e-5)


def test_an_mlp_of_plain_features_has_no_flatten():
    assert names(mlp((5,), 2, hidden=[3])) == ["dense_1", "head"]


def test_defaults_are_the_documented_ones():
    assert mlp((784,), 10).weights[0].shape == (784, 128)
    assert [layer.filters for layer in cnn((28, 28, 1), 10).layers if hasattr(layer, "filters")] == [32, 64]


def test_a_cnn_is_convolutions_with_pooling_and_a_softmax_head():
    model = cnn((10, 12, 3), 4, filters=[5, 6], dense=[7])
    assert names(model) == ["conv_1", "pool_1", "conv_2", "pool_2", "flatten", "dense_1", "head"]
    assert [layer.output.shape[1:] for layer in model.layers if "pool" in layer.name] == [
        (4, 5, 5),
        (1, 1, 6),
    ]
    assert model.get_layer("conv_1").kernel.shape == (3, 3, 3, 5)
    assert model.get_layer("conv_1").activation.__name__ == "relu"
    assert model.output_shape == (None, 4)


@pytest.mark.parametrize(
    "build",
    [
        lambda **k: mlp((6, 6, 1), 3, hidden=[4], **k),
        lambda **k: cnn((6, 6, 1), 3, filters=[4], dense=[4], **k),
    ],
    ids=["mlp", "cnn"],
)
def test_dropout_and_batch_norm_stand_where_documented(build):
    assert "Dropout" not in kinds(build())
    assert "BatchNormalization" not in kinds(build())
    dropped = build(dropout=0.25)
    assert all(layer.rate == 0.25 for layer in dropped.layers if isinstance(layer, keras.layers.Dropout))
    after = [names(dropped)[i - 1] for i, kind in enumerate(kinds(dropped)) if kind == "Dropout"]
    assert after == [name for name in ("pool_1", "dense_1") if name in names(dropped)]
    normal = build(batch_norm=True)
    for i, kind in enumerate(kinds(normal)):
        if kind == "BatchNormalization":
            before, layer, behind = normal.layers[i - 1 : i + 2]
            assert layer.name == f"{before.name}_norm"
            assert before.activation.__name__ == "linear"
            assert behind.activation.__name__ == "relu"
    assert kinds(normal).count("BatchNormalization") == sum(n in names(normal) for n in ("conv_1", "dense_1"))
    assert normal.get_layer("head").activation.__name__ == "softmax"


@pytest.mark.parametrize("build", [lambda: mlp((5,), 0, hidden=[3]), lambda: cnn((6, 6, 1), 0, filters=[2])])
def test_no_classes_is_regression(build):
    head = build().get_layer("head")
    assert (head.units, head.activation.__name__) == (1, "linear")


def test_no_hidden_layer_is_a_linear_model():
    assert names(mlp((5,), 2, hidden=[])) == ["head"]
    assert names(cnn((5, 5, 1), 2, filters=[])) == ["flatten", "head"]


def test_a_single_number_is_a_list_of_one():
    assert names(mlp((5,), 2, hidden=3)) == ["dense_1", "head"]
    assert names(cnn((5, 5, 1), 2, filters=3)) == ["conv_1", "pool_1", "flatten", "head"]


def test_models_are_built_and_take_a_recipe():
    for model in (mlp((4, 4, 1), 3, hidden=[8]), cnn((6, 6, 1), 3, filters=[4])):
        shrinkage.apply(model, "*: kernel = l2(0.1)\nhead: activity = l1(0.1)")
        assert len(model.losses) == 2


def test_a_model_survives_its_file(tmp_path):
    model = cnn((6, 6, 1), 3, filters=[4], dropout=0.1, batch_norm=True)
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").to_json() == model.to_json()


@pytest.mark.parametrize(
    ("shape", "filters", "fits"),
    [
        ((8, 8, 1), [4], True),
        ((8, 8, 1), [4, 4], False),
        ((4, 4, 1), [4], True),
        ((3, 9, 1), [4], False),
        ((10, 10, 1), [4, 4], True),
        ((9, 9, 1), [4, 4], False),
        ((21, 21, 1), [4, 4, 4], False),
        ((22, 22, 1), [4, 4, 4], True),
    ],
)
def test_an_entry_that_no_longer_fits_is_one_clear_error(shape, filters, fits):
    if fits:
        assert cnn(shape, 2, filters=filters).output_shape == (None, 2)
        return
    with pytest.raises(ModelError, match="does not fit images of") as raised:
        cnn(shape, 2, filters=filters)
    assert f"filters={filters}" in str(raised.value)
    assert "Use fewer entries" in str(raised.value)
    # One entry less fits, if the error counts rightly.
    fitting = int(str(raised.value).split("only ")[1].split()[0])
    assert cnn(shape, 2, filters=filters[:fitting]).output_shape == (None, 2)


@pytest.mark.parametrize("shape", [(5,), (5, 5), (2, 5, 5, 1), ()])
def test_a_cnn_needs_images(shape):
    with pytest.raises(ModelError, match=r"cnn needs images \(height, width, channels\)"):
        cnn(shape, 2)


@pytest.mark.parametrize(
    "bad", [[0], [-1], [1.5], ["8"], [True], [None], "8", 0, -3, 2.0, None, [[3]], {}, {3}]
)
def test_sizes_are_whole_numbers(bad):
    for build in (
        lambda: mlp((5,), 2, hidden=bad),
        lambda: cnn((9, 9, 1), 2, filters=bad),
        lambda: cnn((9, 9, 1), 2, filters=[2], dense=bad),
    ):
        with pytest.raises(ModelError, match="must be a list of whole numbers ≥ 1; got"):
            build()


@pytest.mark.parametrize("bad", [1, 1.0, 1.5, -0.1, float("nan"), "0.5", None, True])
def test_dropout_lies_below_one(bad):
    for build in (lambda: mlp((5,), 2, dropout=bad), lambda: cnn((9, 9, 1), 2, filters=[2], dropout=bad)):
        with pytest.raises(ShrinkageError, match="dropout must"):
            build()


# --- augmentation ----------------------------------------------------------------------------------------

SHIFT = {"layer": "RandomTranslation", "height_factor": 0.3, "width_factor": 0.3}


@pytest.mark.parametrize("build", [mlp, cnn])
def test_images_are_changed_in_training_alone_and_other_weights_stay(build, rng):
    options = {"hidden": [4]} if build is mlp else {"filters": [4]}
    given = build((8, 8, 1), 3, augmentation=[SHIFT, {"layer": "RandomBrightness", "factor": 0.2}], **options)
    plain = build((8, 8, 1), 3, **options)
    assert names(given) == ["augment_1", "augment_2", *names(plain)]
    assert tuple(given.layers[1].value_range) == (0.0, 1.0)
    initialise(given, 3)
    initialise(plain, 3)
    for mine, other in zip(given.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, other)
    x = rng.uniform(size=(5, 8, 8, 1)).astype("float32")
    convert = keras.ops.convert_to_numpy
    np.testing.assert_allclose(convert(given(x, training=False)), convert(plain(x)), rtol=1e-6)
    np.testing.assert_allclose(given.predict(x, verbose=0), convert(plain(x)), rtol=1e-6)
    assert np.abs(convert(given(x, training=True)) - convert(plain(x))).max() > 1e-3


@pytest.mark.parametrize("name", [*AUGMENTATIONS, *COLOUR_AUGMENTATIONS])
def test_every_augmentation_is_one_of_kerass_layers_with_a_random_state(name):
    arguments = {
        "RandomColorJitter": {"brightness_factor": 0.1},
        "RandomPosterization": {"factor": 4},
        "RandomShear": {"x_factor": 0.1},
        "RandomTranslation": SHIFT,
        "RandomZoom": {"height_factor": 0.1},
        "RandomFlip": {},
    }.get(name, {"factor": 0.1})
    model = cnn((8, 8, 3), 2, filters=[2], augmentation=[{**arguments, "layer": name}])
    assert model.output_shape == (None, 2)
    assert model.layers[0].output.shape == (None, 8, 8, 3)
    generators = [g for layer in model._flatten_layers() for g in layer._seed_generators]
    assert generators


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([{"layer": "RandomTranslate"}], ["'RandomTranslate'", "'RandomTranslation'"]),
        ([{"layer": "Dense", "units": 3}], ["'Dense'", "Known: RandomBrightness"]),
        ([{"layer": "AugMix"}], ["'AugMix' is no layer that augmentation takes"]),
        ([{"layer": "RandomHue", "factor": 0.1}], ["RandomHue needs images of 3 channels", "1"]),
        ([{**SHIFT, "fill_mode": "none"}], ["RandomTranslation can't be made", "fill_mode"]),
        ([{"layer": "RandomFlip", "how": 1}], ["RandomFlip can't be made", "how"]),
        ([{"mode": "horizontal"}], ["augmentation must be a list of tables"]),
        ("RandomFlip", ["augmentation must be a list of tables", "'RandomFlip'"]),
    ],
)
def test_a_wrong_augmentation_is_told(given, words):
    with pytest.raises(ModelError) as caught:
        cnn((8, 8, 1), 3, filters=[2], augmentation=given)
    assert all(word in str(caught.value) for word in words), caught.value


def test_augmentation_needs_images():
    with pytest.raises(ModelError, match="augmentation needs images"):
        mlp((5,), 2, augmentation=[SHIFT])
