"""The target ``unit``: what one output of a layer is made of, charged together."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers, ops

import shrinkage
from cases import mostly_thorough
from shrinkage import GroupLasso
from shrinkage.errors import RecipeError
from shrinkage.penalties import LiveStrength
from shrinkage.recipe import Recipe, attach, bind, charges, make_live
from shrinkage.recipe.units import Coupled

pytestmark = pytest.mark.filterwarnings("ignore:In force, but the layer's config has no place")


def convolutional() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(4, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Conv2D(3, 3, use_bias=False, name="bare"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, name="head"),
        ]
    )


def scramble(model: keras.Model) -> keras.Model:
    rng = np.random.default_rng(0)
    model.set_weights([rng.normal(size=w.shape).astype("float32") ** 2 for w in model.get_weights()])
    return model


def numpy(v) -> np.ndarray:
    return np.array(ops.convert_to_numpy(v), "float64")


def charged(model: keras.Model) -> float:
    return float(sum(model.losses))


def test_a_units_weights_are_one_group():
    model = scramble(convolutional())
    plan = shrinkage.apply(model, "conv: unit = group_lasso(0.1)")
    assert str(plan).splitlines() == [
        "conv/kernel = group_lasso(0.1) (unit of conv)",
        "conv/bias = group_lasso(0.1) (unit of conv)",
        "norm/gamma = group_lasso(0.1) (unit of conv)",
        "norm/beta = group_lasso(0.1) (unit of conv)",
    ]
    conv, norm = model.get_layer("conv"), model.get_layer("norm")
    parts = [numpy(v).reshape(-1, 4) for v in (conv.kernel, conv.bias, norm.gamma, norm.beta)]
    rows = np.concatenate(parts)
    assert len(rows) == 18 + 3
    assert charged(model) == pytest.approx(0.1 * np.sqrt(21) * np.linalg.norm(rows, axis=0).sum(), rel=1e-5)


def test_the_gradient_reaches_every_part(gradient):
    model = scramble(convolutional())
    shrinkage.apply(model, "conv: unit = group_lasso(0.1)")
    unit = model.get_layer("conv").kernel.regularizer.unit
    matrix = numpy(unit.gathered([v.value for v in unit.variables])).astype("float32")
    slope = gradient(GroupLasso(0.1), matrix)
    assert (np.abs(slope) > 0).all()
    for part, variable in zip(unit.split(ops.convert_to_tensor(slope)), unit.variables, strict=True):
        assert tuple(part.shape) == tuple(variable.shape)


KERNELS = {
    "Conv2D": (layers.Conv2D(4, 3), lambda k: k.reshape(-1, 4)),
    "Conv1DTranspose": (layers.Conv1DTranspose(4, 3), lambda k: np.moveaxis(k, -2, -1).reshape(-1, 4)),
    "Conv2DTranspose": (layers.Conv2DTranspose(4, 3), lambda k: np.moveaxis(k, -2, -1).reshape(-1, 4)),
    "DepthwiseConv2D": (layers.DepthwiseConv2D(3, depth_multiplier=2), lambda k: k.reshape(-1, 4)),
    "SeparableConv2D": (layers.SeparableConv2D(4, 3), lambda k: k.reshape(-1, 4)),
    "Dense": (layers.Dense(4), lambda k: k),
}


@pytest.mark.parametrize("name", mostly_thorough(KERNELS, "Conv2DTranspose", "DepthwiseConv2D", "Dense"))
@pytest.mark.parametrize("target", ["kernel", "unit"])
def test_a_group_is_what_one_output_receives_in_every_layer(name, target):
    """Setting one group of weights to zero silences exactly one output, whatever the kernel's axes."""
    layer, matrix = KERNELS[name]
    layer = type(layer).from_config({**layer.get_config(), "name": "it"})
    shape = {"Conv1DTranspose": (5, 2), "Dense": (5,)}.get(name, (5, 5, 2))
    model = scramble(keras.Sequential([keras.Input(shape), layer]))
    role = "pointwise_kernel" if name == "SeparableConv2D" else target
    shrinkage.apply(model, f"it: {'unit' if target == 'unit' else role} = group_lasso(0.1)")
    kernel = layer.pointwise_kernel if name == "SeparableConv2D" else layer.kernel
    rows = matrix(numpy(kernel))
    if target == "unit":
        rows = np.concatenate([rows, numpy(layer.bias)[None]])
    assert charged(model) == pytest.approx(
        0.1 * np.sqrt(len(rows)) * np.linalg.norm(rows, axis=0).sum(), rel=1e-5
    )
    (charge,) = charges(model)
    if isinstance(charge.regularizer, Coupled):
        unit = charge.regularizer.unit
        values = [v.value for v in unit.variables]
        mask = np.ones((1, 4), "float32")
        mask[0, 1] = 0
        masked = unit.split(ops.multiply(unit.gathered(values), mask))
        for variable, value in zip(unit.variables, masked, strict=True):
            variable.assign(value)
        silent = numpy(model(np.ones((1, *shape), "float32")))
        if target == "unit":
            assert not silent[..., 1].any()
        assert (np.abs(silent[..., [0, 2, 3]]) > 0).any()


def test_normalization_belongs_to_a_unit_only_where_it_reads_nothing_else():
    inputs = keras.Input((4,))
    hidden = layers.Dense(3, name="hidden")(inputs)
    normed = layers.BatchNormalization(name="norm")(hidden)
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Add()([normed, hidden])))
    assert [t.path for t in bind(Recipe("hidden: unit = group_lasso"), model).terms] == [
        "hidden/kernel",
        "hidden/bias",
    ]
    shared = layers.BatchNormalization(name="norm")
    a, b = (layers.Dense(3, name=n)(inputs) for n in "ab")
    model = keras.Model(inputs, layers.Add()([shared(a), shared(b)]))
    assert {t.path for t in bind(Recipe("Dense: unit = group_lasso"), model).terms} == {
        "a/kernel", "a/bias", "b/kernel", "b/bias"
    }  # fmt: skip


def test_later_rules_take_a_weight_out_of_its_unit():
    model = scramble(convolutional())
    shrinkage.apply(model, "Conv2D: unit = group_lasso(0.1)\nconv: bias = l2(0.5)\nbare: unit = none")
    conv, norm = model.get_layer("conv"), model.get_layer("norm")
    rows = np.concatenate([numpy(v).reshape(-1, 4) for v in (conv.kernel, norm.gamma, norm.beta)])
    group = 0.1 * np.sqrt(20) * np.linalg.norm(rows, axis=0).sum()
    assert charged(model) == pytest.approx(group + 0.5 * np.square(numpy(conv.bias)).sum(), rel=1e-5)
    # And so does a recipe that is applied afterwards, to the weight that holds the charge too.
    shrinkage.apply(model, "conv: kernel = none")
    rows = rows[18:]
    group = 0.1 * np.sqrt(2) * np.linalg.norm(rows, axis=0).sum()
    assert charged(model) == pytest.approx(group + 0.5 * np.square(numpy(conv.bias)).sum(), rel=1e-5)
    shrinkage.strip(model)
    assert model.losses == []


def test_a_units_strength_can_change():
    model = scramble(convolutional())
    shrinkage.apply(model, "conv: unit = group_lasso(0.1)")
    before = charged(model)
    (live,) = make_live(model).values()
    live.assign(0.2)
    assert charged(model) == pytest.approx(2 * before, rel=1e-5)
    assert set(make_live(model)) == {"conv/unit"}
    attach(model, bind(Recipe("conv: unit = group_lasso(strength)"), model).with_strength(LiveStrength(0.3)))
    assert charged(model) == pytest.approx(3 * before, rel=1e-5)


def test_it_is_described_as_one_place():
    model = scramble(convolutional())
    shrinkage.apply(model, "conv: unit = group_lasso(0.1)\nhead: kernel = l2(0.1)")
    found = shrinkage.describe(model).rows
    assert [(row.layer, row.target) for row in found] == [("conv", "unit"), ("head", "kernel")]
    assert sum(row.charge for row in found) == pytest.approx(charged(model), rel=1e-5)


def test_a_units_penalty_is_not_saved_and_says_so(tmp_path):
    model = convolutional()
    with pytest.warns(shrinkage.errors.ShrinkageWarning, match="no place to save it: conv/kernel"):
        shrinkage.apply(model, "conv: unit = group_lasso(0.1)")
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").losses == []


def test_a_plain_group_lasso_is_saved_with_the_model(tmp_path):
    model = scramble(convolutional())
    shrinkage.apply(model, "conv: kernel = group_lasso(0.1)")
    model.save(tmp_path / "model.keras")
    again = shrinkage.load_model(tmp_path / "model.keras")
    assert charged(again) == pytest.approx(charged(model), rel=1e-6)
    assert again.get_layer("conv").kernel_regularizer == GroupLasso(0.1)


def test_outputs_have_no_units():
    with pytest.raises(RecipeError, match="takes out units by their weights; an output has none"):
        bind(Recipe("head: activity = group_lasso(0.1)"), convolutional())


def test_a_rule_that_finds_no_units_says_what_there_is():
    with pytest.raises(RecipeError, match="have no unit"):
        bind(Recipe("norm: unit = group_lasso(0.1)"), convolutional())
    with pytest.raises(RecipeError, match="Did you mean 'unit'"):
        bind(Recipe("conv: units = group_lasso(0.1)"), convolutional())
