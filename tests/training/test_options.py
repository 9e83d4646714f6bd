"""Weight decay, label smoothing and max-norm: closed forms, Keras's own, and the same in both loops."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

from shrinkage.errors import ModelError
from shrinkage.models import mlp
from shrinkage.recipe import Recipe
from shrinkage.training.constraints import constrain
from shrinkage.training.initial import data_order, initialise
from shrinkage.training.keras_loop import KerasLoop, make_optimizer
from shrinkage.training.objective import MeasuredLoss, measure_data_loss, resolve_objective
from shrinkage.training.proximal import Proximal
from shrinkage.training.smoothing import smoothed
from shrinkage.training.task import Lane, Split, Task

CLASSES, EPOCHS, BATCH = 3, 2, 16
LANE = Lane("none", None, 3)
OPTIONS: dict[str, Any] = {
    "optimizer": "adam", "learning_rate": 0.05, "weight_decay": 0.5, "label_smoothing": 0.3, "max_norm": 0.8,
}  # fmt: skip


def network(constraint: Any = None) -> Any:
    return keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, "relu", kernel_constraint=constraint),
         layers.Dense(CLASSES, "softmax", kernel_constraint=constraint, name="head")]
    )  # fmt: skip


def rows() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, 70)
    return (y[:, None] + rng.normal(size=(70, 6))).astype("float32"), y


def task(**changes: Any) -> Task:
    x, y = rows()
    objective = resolve_objective("auto", (), y, network())
    split = Split(np.arange(50), np.arange(50, 70))
    fields = {"build": network, "x": x, **OPTIONS, "epochs": EPOCHS, "batch_size": BATCH, **changes}
    return Task(recipes={"none": Recipe("")}, y=y, splits=(split,), objective=objective, **fields)


def trained(loop: Any) -> Any:
    (result,) = loop.run([LANE], lambda record: None)
    return result


@pytest.fixture(scope="module")
def by_keras():
    return trained(KerasLoop(task()))


# --- both loops, and Keras alone ---------------------------------------------------------------------------


def test_keras_loop_trains_as_keras_does_with_the_same_options(by_keras):
    x, y = rows()
    model = network(keras.constraints.MaxNorm(0.8))
    initialise(model, LANE.seed)
    model.compile(
        keras.optimizers.Adam(0.05, weight_decay=0.5),
        keras.losses.CategoricalCrossentropy(label_smoothing=0.3),
    )
    hot = np.eye(CLASSES, dtype="float32")[y]
    for epoch in range(EPOCHS):
        order = data_order(LANE.seed, epoch, 50)
        model.fit(x[order], hot[order], batch_size=BATCH, shuffle=False, verbose=0)
    for mine, keras_own in zip(by_keras.weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(mine, keras_own, rtol=1e-4, atol=1e-6)


@pytest.mark.jax_only
def test_lanes_are_trained_as_by_keras(by_keras):
    from shrinkage.training.choose import Choice
    from shrinkage.training.jax_loop import JaxLoop

    found = trained(JaxLoop(task(), [LANE], Choice(1)))
    for mine, other in zip(found.records, by_keras.records, strict=True):
        for name, value in other.values.items():
            assert mine.values[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    for mine, other in zip(found.weights, by_keras.weights, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-5)


@pytest.mark.thorough
@pytest.mark.jax_only
def test_lanes_of_one_program_augment_each_for_itself():
    from shrinkage.training.choose import Choice
    from shrinkage.training.jax_loop import JaxLoop

    shift = {"layer": "RandomTranslation", "height_factor": 0.3, "width_factor": 0.3}

    def build() -> Any:
        return mlp((3, 2, 1), CLASSES, hidden=[], augmentation=[shift])

    given = task(build=build, x=rows()[0].reshape(-1, 3, 2, 1), epochs=1)
    lanes = [Lane("none", None, seed) for seed in (3, 4)]
    together = list(JaxLoop(given, lanes, Choice(2, mix_seeds=True)).run(lanes, lambda record: None))
    (alone,) = JaxLoop(given, lanes[1:], Choice(1)).run(lanes[1:], lambda record: None)
    for mine, other in zip(together[1].weights, alone.weights, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


def test_norms_are_no_larger_than_asked_and_reach_it(by_keras):
    norms = np.concatenate([np.linalg.norm(kernel, axis=0) for kernel in by_keras.weights[::2]])
    assert norms.max() == pytest.approx(0.8, rel=1e-5)


def test_smoothing_is_for_training_alone(by_keras):
    x, y = rows()
    model = network()
    model.set_weights(by_keras.weights)
    p = ops.convert_to_numpy(model(x))
    values = by_keras.records[-1].values
    plain = -np.log(p[np.arange(70), y])
    assert values["val_data_loss"] == pytest.approx(plain[50:].mean(), rel=1e-5)
    seen = task().splits[0].seen
    assert values["train_data_loss"] == pytest.approx(plain[seen].mean(), rel=1e-5)
    assert values["loss"] == pytest.approx(values["data_loss"], rel=1e-6)  # the objective, smoothed
    assert values["data_loss"] > values["train_data_loss"] + 0.05


# --- label smoothing ---------------------------------------------------------------------------------------


def losses(outputs: Any, y: Any, classes: int) -> Any:
    return ops.convert_to_numpy(
        keras.losses.CategoricalCrossentropy(label_smoothing=0.2, reduction=None, from_logits=outputs[1])(
            np.eye(classes)[y], outputs[0]
        )
    )


@pytest.mark.parametrize("logits", [False, True])
def test_smoothed_class_numbers_are_kerass_smoothed_one_hot(rng, logits):
    y, raw = rng.integers(0, 4, 9), rng.normal(size=(9, 4)).astype("float32")
    p = raw if logits else ops.convert_to_numpy(ops.softmax(raw))
    sparse = keras.losses.SparseCategoricalCrossentropy(from_logits=logits)
    hot = keras.losses.CategoricalCrossentropy(from_logits=logits)
    weights = rng.uniform(size=9).astype("float32")
    expected = losses((p, logits), y, 4)
    for loss, target in ((sparse, y), (sparse, y[:, None]), (hot, np.eye(4, dtype="float32")[y])):
        soft = smoothed(loss, 0.2)
        assert float(soft(target, p)) == pytest.approx(expected.mean(), rel=1e-5)
        assert float(soft(target, p, weights)) == pytest.approx((expected * weights).mean(), rel=1e-5)
    # (1 − ε) · L(y) + ε / K · Σ_k L(k)
    each = [float(sparse(np.full(9, k), p)) for k in range(4)]
    assert expected.mean() == pytest.approx(0.8 * float(sparse(y, p)) + 0.05 * sum(each), rel=1e-5)


def test_smoothed_zeros_and_ones_are_kerass_own(rng):
    y, p = rng.integers(0, 2, (9, 1)).astype("float32"), rng.uniform(size=(9, 1)).astype("float32")
    own = keras.losses.BinaryCrossentropy(label_smoothing=0.2)
    assert float(smoothed("binary_crossentropy", 0.2)(y, p)) == pytest.approx(float(own(y, p)), rel=1e-6)


@pytest.mark.parametrize(
    "loss", ["mse", "categorical_focal_crossentropy", "crossentropy", keras.losses.Huber()]
)
def test_other_losses_are_refused(loss):
    with pytest.raises(ModelError, match="label_smoothing goes with a crossentropy"):
        smoothed(loss, 0.1)
    assert smoothed(loss, 0.0) is None


def test_a_measured_loss_judges_by_the_compiled_one(rng):
    model = network()
    model.compile("sgd", "sparse_categorical_crossentropy")
    measure_data_loss(model, smoothed("sparse_categorical_crossentropy", 0.5))
    x, y = rows()
    measured: MeasuredLoss = model._compile_loss
    p = model(x)
    trains = float(measured(y, p))
    with measured.inference():
        judges = float(measured(y, p))
    assert judges == pytest.approx(float(keras.losses.SparseCategoricalCrossentropy()(y, p)), rel=1e-6)
    assert float(measured(y, p)) == trains != judges


# --- weight decay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sgd", "adam", "lion", "proximal(sgd)"])
def test_decay_is_taken_off_by_the_learning_rate_and_not_through_the_gradient(name):
    w = np.array([1.0, -2.0], "float32")
    ended = {}
    for decay in (None, 0.25):
        variable = keras.Variable(w)
        optimizer = make_optimizer(name, 0.1, decay)
        optimizer.build([variable])
        optimizer.apply([ops.convert_to_tensor([0.5, 0.5])], [variable])
        ended[decay] = ops.convert_to_numpy(variable)
    np.testing.assert_allclose(ended[0.25], ended[None] - 0.1 * 0.25 * w, rtol=1e-5)


def test_decay_replaces_an_optimizers_own_and_reaches_into_proximal():
    assert make_optimizer("adamw", None).weight_decay == 0.004
    assert make_optimizer("adamw", None, 0.0).weight_decay == 0.0
    given = keras.optimizers.AdamW(weight_decay=0.5)
    assert make_optimizer(given, None, 0.1).weight_decay == 0.1
    assert given.weight_decay == 0.5
    inside = make_optimizer("proximal(adamw)", None, 0.2)
    assert isinstance(inside, Proximal)
    assert inside.unwrap().weight_decay == 0.2
    with pytest.raises(ModelError, match="Ftrl takes no weight_decay"):
        make_optimizer("ftrl", None, 0.1)


# --- max-norm ----------------------------------------------------------------------------------------------


@pytest.mark.thorough
def test_max_norm_is_over_what_each_unit_receives_and_is_saved(tmp_path):
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.DepthwiseConv2D(3, depth_multiplier=2),
         layers.Conv2DTranspose(5, 2), layers.SeparableConv2D(6, 2), layers.Reshape((-1, 6)),
         layers.LSTM(3), layers.Dense(2)]
    )  # fmt: skip
    constrain(model, None)
    assert all(v.constraint is None for v in model.trainable_variables)
    constrain(model, 0.25)
    axes = {
        f"{layer.name}/{v.name}": v.constraint.axis
        for layer in model._flatten_layers()
        for v in layer._trainable_variables
        if v.constraint is not None
    }
    assert sorted(map(str, axes.values())) == sorted(map(str, [
        [0, 1, 2], [0, 1], [0, 1, 3], [0, 1], [0, 1, 2], [0], [0], [0],
    ]))  # fmt: skip
    for variable in model.trainable_variables:
        if variable.constraint is not None:
            w = ops.convert_to_numpy(variable.constraint(variable))
            norms = np.sqrt((w**2).sum(tuple(variable.constraint.axis)))
            assert (norms <= 0.25 * (1 + 1e-5)).all()
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    kept = [v.constraint is not None for v in again.trainable_variables]
    assert kept == [v.constraint is not None for v in model.trainable_variables]
