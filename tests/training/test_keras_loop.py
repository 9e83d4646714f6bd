"""The loop over ``model.fit``: a lane's result is that of plain Keras, and of its own key alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from cases import mostly_thorough
from shrinkage.errors import ModelError, StrengthError
from shrinkage.models import mlp
from shrinkage.recipe import Recipe
from shrinkage.training.initial import data_order, drawn, initialise, with_fresh_names
from shrinkage.training.keras_loop import KerasLoop, make_optimizer
from shrinkage.training.objective import resolve_objective
from shrinkage.training.task import Lane, Record, Result, Split, Task

# Keras's variables and NumPy 2: every get_weights says so.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(56, 5)).astype("float32")
Y = (X[:, 0] + 0.3 * X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)
SPLITS = (Split(np.arange(40), np.arange(40, 56)), Split(np.arange(16, 56), np.arange(16)))
RECIPES = {
    "none": Recipe([]),
    "l1": Recipe("*: kernel = l1(strength)"),
    "l2": Recipe("*: kernel = l2(strength)"),
    "net": Recipe("dense_1: kernel = l1_l2(0.25*strength, 0.75*strength)\nhead: bias = l2(0.01)"),
    "activity": Recipe("dense_1: activity = l1(strength)"),
}


def build() -> Any:
    return mlp((5,), 3, hidden=[6])


def task(model: Any = build, y: Any = Y, loss: Any = "auto", **options: Any) -> Task:
    objective = resolve_objective(loss, (), y, with_fresh_names(model))
    given = {
        "recipes": RECIPES,
        "epochs": 3,
        "batch_size": 8,
        "optimizer": "adam",
        "learning_rate": 0.01,
    } | options
    return Task(build=model, x=X, y=y, splits=SPLITS, objective=objective, **given)


def run(loop: KerasLoop, *lanes: Lane) -> list[Result]:
    return list(loop.run(lanes, lambda record: None))


def train(the_task: Task, *lanes: Lane) -> list[Result]:
    """Train the lanes, one of them more than once perhaps, by one loop, whose models are used again."""
    loop = KerasLoop(the_task)
    return [result for lane in lanes for result in run(loop, lane)]


def numbers(result: Result) -> np.ndarray[Any, Any]:
    return np.concatenate(
        [list(r.values.values()) for r in result.records] + [w.ravel() for w in result.weights]
    )


def agree(one: Result, other: Result, backend: str, tolerance: float = 1e-6) -> None:
    """On JAX to the bit; TensorFlow adds up in whatever order its threads come."""
    assert [r.values.keys() for r in one.records] == [r.values.keys() for r in other.records]
    if backend == "jax":
        np.testing.assert_array_equal(numbers(one), numbers(other))
    else:
        np.testing.assert_allclose(numbers(one), numbers(other), rtol=tolerance, atol=tolerance)


def with_dropout() -> Any:
    return mlp((5,), 3, hidden=[6], dropout=0.3, batch_norm=True)


# A lane's key is all that counts.


@pytest.mark.parametrize("model", [pytest.param(build, marks=pytest.mark.thorough), with_dropout])
def test_a_lane_does_not_know_its_neighbours(model: Any, backend: str) -> None:
    lane, others = (
        Lane("l1", 0.01, 3),
        [Lane("l1", 0.1, 3), Lane("l1", 0.01, 4), Lane("l1", 0.01, 3, split=1)],
    )
    the_task = task(model)
    (alone,) = train(the_task, lane)
    first, *_, last = train(the_task, lane, *others, Lane("none", None, 3), lane)
    agree(first, alone, backend)
    agree(last, alone, backend)


def test_lanes_differ_by_arm_strength_seed_and_split() -> None:
    lanes = [
        Lane("l1", 0.01, 3),
        Lane("l2", 0.01, 3),
        Lane("l1", 0.02, 3),
        Lane("l1", 0.01, 4),
        Lane("l1", 0.01, 3, split=1),
    ]
    results = train(task(), *lanes)
    assert [result.lane for result in results] == lanes
    endings = [result.values["val_data_loss"] for result in results]
    assert len(set(endings)) == len(lanes)


@pytest.mark.parametrize(("arm", "model"), [("l1", build), ("l2", with_dropout), ("activity", build)])
def test_at_strength_zero_an_arm_is_the_one_without_penalties(arm: str, model: Any) -> None:
    zero, none = train(task(model), Lane(arm, 0.0, 1), Lane("none", None, 1))
    np.testing.assert_allclose(numbers(zero), numbers(none), rtol=1e-6, atol=1e-7)
    assert all(record.values["penalty"] == 0 for record in none.records)


# The same as plain Keras.


def by_hand(
    the_task: Task, lane: Lane, kernel: Any, optimizer: Any, activity: Any = None
) -> tuple[Any, list[float]]:
    """Train the reference model with nothing but Keras, on the same initial weights and order."""
    first = layers.Dense(6, "relu", kernel_regularizer=kernel, activity_regularizer=activity, name="dense_1")
    head = layers.Dense(3, "softmax", kernel_regularizer=kernel, name="head")
    model = keras.Sequential([keras.Input((5,)), first, head])
    initialise(model, drawn(lane.seed, lane.split))
    model.compile(optimizer, "sparse_categorical_crossentropy")
    losses = []
    rows = SPLITS[lane.split].train
    for epoch in range(the_task.epochs):
        order = rows[data_order(drawn(lane.seed, lane.split), epoch, len(rows))]
        options = {"batch_size": the_task.batch_size, "shuffle": False, "verbose": 0}
        losses += model.fit(X[order], Y[order], **options).history["loss"]
    return model, losses


@pytest.mark.parametrize(
    ("arm", "kernel"),
    [("none", None), ("l1", keras.regularizers.L1(0.02)), ("l2", keras.regularizers.L2(0.02))],
)
def test_a_lane_is_what_keras_does_by_hand(arm: str, kernel: Any) -> None:
    the_task = task()
    lane = Lane(arm, None if kernel is None else 0.02, 5, split=1)
    (result,) = train(the_task, lane)
    model, losses = by_hand(the_task, lane, kernel, keras.optimizers.Adam(0.01))
    np.testing.assert_allclose([record.values["loss"] for record in result.records], losses, rtol=1e-6)
    for ours, theirs in zip(result.weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_charges_on_outputs_too() -> None:
    the_task, lane = task(optimizer="sgd"), Lane("activity", 0.1, 5)
    (result,) = train(the_task, lane)
    _, losses = by_hand(the_task, lane, None, keras.optimizers.SGD(0.01), keras.regularizers.L1(0.1))
    np.testing.assert_allclose([record.values["loss"] for record in result.records], losses, rtol=1e-6)


class Traced(layers.Layer):
    count = 0

    def call(self, x: Any) -> Any:
        type(self).count += 1
        return x


def traced() -> Any:
    model = keras.Sequential(
        [keras.Input((5,)), layers.Dense(6, name="dense_1"), Traced(), layers.Dense(3, name="head")]
    )
    Traced.count = 0
    return model


def test_each_rule_has_the_strength_that_its_ratio_says() -> None:
    rules = "dense_1: kernel = l2({})\nhead: kernel = l1({})\nhead: bias = l2(0.01)"
    recipes = {
        "open": Recipe(rules.format("strength", "0.5*strength")),
        "said": Recipe(rules.format(0.04, 0.0025)),
        "other": Recipe(rules.format(0.01, 0.02)),
    }
    lanes = [Lane("open", 0.02, 1, ratios=(2.0, 0.25)), Lane("open", 0.02, 1, ratios=(0.5, 2.0))]
    lanes += [Lane("said", None, 1), Lane("other", None, 1)]
    found = train(task(recipes=recipes), *lanes)
    for one, other in zip(found[:2], found[2:], strict=True):
        np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-5, atol=1e-6)


@pytest.mark.not_on("torch", "Keras compiles nothing there")
def test_nothing_is_traced_again_between_ratios() -> None:
    recipes = {"two": Recipe("dense_1: kernel = l2(strength)\nhead: kernel = l2(strength)")}
    loop = KerasLoop(task(traced, recipes=recipes))
    run(loop, Lane("two", 0.1, 0, ratios=(2.0, 0.5)))
    count = Traced.count
    run(loop, Lane("two", 0.1, 1, ratios=(0.1, 10.0)), Lane("two", 0.3, 1, ratios=(1.0, 1.0)))
    assert Traced.count == count > 0


@pytest.mark.parametrize("ratios", [(1.0,), (1.0, 1.0, 1.0)])
def test_there_is_one_ratio_for_each_rule_that_varies(ratios: tuple[float, ...]) -> None:
    two = Recipe("dense_1: kernel = l2(strength)\nhead: kernel = l2(strength)")
    with pytest.raises(StrengthError, match=f"{len(ratios)} ratios were given, and 2 of the recipe's rules"):
        train(task(recipes={"two": two}), Lane("two", 0.1, 0, ratios=ratios))


@pytest.mark.not_on("torch", "Keras compiles nothing there")
def test_nothing_is_traced_again_between_strengths_and_seeds() -> None:
    loop = KerasLoop(task(traced))
    run(loop, Lane("l1", 0.01, 0))
    count = Traced.count
    assert count > 0
    run(loop, *(Lane("l1", strength, seed) for strength in (0.0, 0.1, 3.0) for seed in (1, 2)))
    loop.score(
        Lane("l1", 0.5, 1), loop.model(Lane("l1", 0.5, 1), _weights(loop)).get_weights(), X[:16], Y[:16]
    )
    assert Traced.count == count


def _weights(loop: KerasLoop) -> Sequence[Any]:
    return run(loop, Lane("l1", 0.5, 1))[0].weights


# What is recorded.


def test_records_come_one_an_epoch_and_take_the_loss_apart() -> None:
    seen: list[Record] = []
    lanes = [Lane("net", 0.4, 0), Lane("none", None, 0)]
    results = list(KerasLoop(task()).run(lanes, seen.append))
    assert [(record.lane, record.epoch) for record in seen] == [
        (lane, epoch) for lane in lanes for epoch in (1, 2, 3)
    ]
    assert tuple(seen[:3]) == results[0].records
    assert set(seen[0].values) == {
        *("loss", "data_loss", "penalty"),
        *("train_data_loss", "train_accuracy", "val_data_loss", "val_accuracy"),
    }
    for record in seen:
        assert record.values["data_loss"] + record.values["penalty"] == pytest.approx(record.values["loss"])
    assert seen[0].values["penalty"] > 0
    assert results[0].state == "complete"
    assert results[0].best == 3
    assert results[0].values is results[0].records[2].values


def test_validation_is_on_the_split_and_in_inference_mode() -> None:
    the_task = task(with_dropout)
    loop = KerasLoop(the_task)
    lane = Lane("l2", 0.3, 0, split=1)
    (result,) = run(loop, lane)
    for part, rows in (("val", np.arange(16)), ("train", SPLITS[1].train[data_order(0, 0, 40)[:16]])):
        score = loop.score(lane, result.weights, X[rows], Y[rows])
        assert score["data_loss"] == pytest.approx(result.values[f"{part}_data_loss"], rel=1e-6)
        assert score["accuracy"] == pytest.approx(result.values[f"{part}_accuracy"])
    model = with_fresh_names(with_dropout)
    model.set_weights(list(result.weights))
    probability = keras.ops.convert_to_numpy(model(X[:16], training=False))[np.arange(16), Y[:16]]
    assert result.values["val_data_loss"] == pytest.approx(float(np.mean(-np.log(probability))), rel=1e-5)


def test_score_is_evaluate_and_leaves_the_loop_as_it_is(backend: str) -> None:
    lane = Lane("l1", 0.1, 2)
    loop = KerasLoop(task())
    (result,) = run(loop, lane)
    model = loop.model(lane, result.weights)
    logs = model.evaluate(X, Y, batch_size=56, verbose=0, return_dict=True)
    score = loop.score(lane, result.weights, X, Y)
    assert score == {name: pytest.approx(value) for name, value in logs.items() if name != "loss"}
    kernels = sum(float(np.abs(w).sum()) for w in result.weights if w.ndim == 2)
    assert logs["loss"] - logs["data_loss"] == pytest.approx(0.1 * kernels, rel=1e-4)
    agree(run(loop, lane)[0], result, backend)


def test_the_model_of_a_lane_holds_its_strength() -> None:
    loop = KerasLoop(task())
    lane = Lane("l1", 0.125, 2)
    (result,) = run(loop, lane)
    run(loop, Lane("l1", 7.0, 2))
    model = loop.model(lane, result.weights)
    assert model.get_layer("head").get_config()["kernel_regularizer"]["config"] == {"l1": 0.125}


def test_regression_has_no_accuracy() -> None:
    y = (X @ np.arange(5)).astype("float32")
    the_task = task(lambda: mlp((5,), 0, hidden=[6]), y=y)
    assert the_task.objective.loss == "mean_squared_error"
    (result,) = train(the_task, Lane("l2", 0.01, 0))
    assert set(result.values) == {"loss", "data_loss", "penalty", "train_data_loss", "val_data_loss"}
    assert result.records[2].values["data_loss"] < result.records[0].values["data_loss"]


def test_inputs_are_scaled_a_batch_at_a_time(backend: str) -> None:
    pixels = Task(**(vars(task()) | {"x": np.round(X * 10), "scaled": lambda x: (x / 10).astype("float32")}))
    floats = Task(**(vars(task()) | {"x": np.round(X * 10).astype("float32") / 10}))
    lane = Lane("l1", 0.01, 0)
    np.testing.assert_allclose(
        numbers(*train(pixels, lane)), numbers(*train(floats, lane)), rtol=1e-4, atol=1e-5
    )


def test_weights_may_be_the_models_own(backend: str) -> None:
    def from_saved() -> Any:
        model = build()
        initialise(model, 99)
        return model

    the_task = task(from_saved, fresh=False, optimizer="sgd", learning_rate=0.0)
    results = train(the_task, Lane("none", None, 0), Lane("none", None, 1))
    expected = with_fresh_names(from_saved).get_weights()
    for result in results:
        assert all(map(np.array_equal, result.weights, expected))


def test_penalties_of_the_builder_are_no_part_of_an_arm() -> None:
    def penalized() -> Any:
        model = build()
        for layer in model.layers:
            layer.kernel.regularizer = keras.regularizers.L2(5.0)
        return model

    (result,) = train(task(penalized), Lane("none", None, 0))
    assert result.values["penalty"] == 0


# What goes wrong, and what stops.


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_a_lane_that_diverges_is_a_result(backend: str) -> None:
    the_task = task(optimizer="sgd", learning_rate=0.1, epochs=4)
    well, sick = Lane("l2", 0.01, 1), Lane("l2", 1e30, 1)
    (alone,) = train(the_task, well)
    first, second = train(the_task, sick, well)
    assert first.state == "diverged"
    assert first.best == len(first.records) < 4
    assert not np.isfinite(first.values["loss"])
    assert second.state == "complete"
    agree(second, alone, backend)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value):RuntimeWarning")
def test_infinite_data_diverges_too() -> None:
    x = X.copy()
    x[50] = np.inf  # in the validation rows
    broken = Task(**(vars(task()) | {"x": x}))
    first, second = train(broken, Lane("none", None, 1), Lane("none", None, 1, split=1))
    assert first.state == "diverged"
    assert first.best == 1
    assert np.isfinite(first.values["loss"])
    assert second.state == "diverged"


def test_early_stopping_returns_to_the_best_epoch() -> None:
    the_task = task(optimizer="adam", learning_rate=0.3, epochs=40, early_stopping=3)
    loop = KerasLoop(the_task)
    lane = Lane("none", None, 0)
    (result,) = run(loop, lane)
    losses = [record.values["val_data_loss"] for record in result.records]
    assert result.state == "complete"
    assert result.best == int(np.argmin(losses)) + 1
    assert len(losses) == result.best + 3 < 40
    score = loop.score(lane, result.weights, X[40:], Y[40:])
    assert score["data_loss"] == pytest.approx(min(losses), rel=1e-6)
    assert result.values["val_data_loss"] == min(losses)


def test_early_stopping_may_never_stop() -> None:
    (result,) = train(task(early_stopping=50), Lane("none", None, 0))
    assert len(result.records) == 3
    losses = [record.values["val_data_loss"] for record in result.records]
    assert result.best == int(np.argmin(losses)) + 1


# Optimizers.


def linear() -> Any:
    return mlp((5,), 3, hidden=[])


OPTIMIZERS = {
    "adam": keras.optimizers.Adam(0.01),
    "amsgrad": keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": keras.optimizers.AdamW(0.01),
    "sgd": keras.optimizers.SGD(0.1, momentum=0.9),
    "nesterov": keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "rmsprop": keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "nadam": keras.optimizers.Nadam(0.01),
    "adamax": keras.optimizers.Adamax(0.01),
    "adagrad": keras.optimizers.Adagrad(0.1),
    "adadelta": keras.optimizers.Adadelta(1.0),
    "adafactor": keras.optimizers.Adafactor(0.1),
    "ftrl": keras.optimizers.Ftrl(0.1, l1_regularization_strength=0.01),
    "lion": keras.optimizers.Lion(0.01),
    "lamb": keras.optimizers.Lamb(0.01),
    "muon": keras.optimizers.Muon(0.01),
    "schedule free": keras.optimizers.ScheduleFreeAdamW(0.01),
    "average": keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.8),
    "overwritten average": keras.optimizers.SGD(
        0.1, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=4
    ),
    "accumulating": keras.optimizers.Adam(0.01, gradient_accumulation_steps=3),
    "clipped": keras.optimizers.SGD(0.1, global_clipnorm=0.5),
    "scheduled": keras.optimizers.SGD(keras.optimizers.schedules.CosineDecay(0.5, 15)),
    "scaled": keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


@pytest.mark.parametrize(
    "name", mostly_thorough(OPTIMIZERS, "lion", "muon", "overwritten average", "accumulating", "scaled")
)
def test_every_optimizer_begins_anew(name: str, backend: str) -> None:
    the_task = task(linear, optimizer=OPTIMIZERS[name], learning_rate=None, epochs=2)
    lane = Lane("l2", 0.01, 1)
    first, _, again = train(the_task, lane, Lane("l2", 0.1, 2), lane)
    assert np.isfinite(numbers(first)).all()
    agree(again, first, backend, 1e-5)
    assert not OPTIMIZERS[name].built  # the one that was given stays as it is


def test_an_average_is_what_the_model_ends_with() -> None:
    optimizer = OPTIMIZERS["average"]
    the_task = task(optimizer=optimizer, learning_rate=None, epochs=1)
    lane = Lane("none", None, 1)
    (result,) = train(the_task, lane)
    model, _ = by_hand(the_task, lane, None, keras.optimizers.Adam(0.05, use_ema=True, ema_momentum=0.8))
    for ours, theirs in zip(result.weights, model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_one_optimizer_object_serves_every_arm(backend: str) -> None:
    the_task = task(optimizer=keras.optimizers.Adam(0.01), learning_rate=0.02)
    named = task(optimizer="adam", learning_rate=0.02)
    lanes = [Lane("none", None, 0), Lane("l1", 0.1, 0)]
    for given, by_name in zip(train(the_task, *lanes), train(named, *lanes), strict=True):
        agree(given, by_name, backend)
    assert float(the_task.optimizer.learning_rate) == pytest.approx(0.01)


def test_half_precision(half_policy: None, backend: str) -> None:
    the_task = task()
    lane = Lane("activity", 0.01, 0)
    first, _, again = train(the_task, lane, Lane("activity", 1.0, 1), lane)
    assert np.isfinite(numbers(first)).all()
    agree(again, first, backend, 1e-3)


def test_an_unknown_optimizer_is_named() -> None:
    with pytest.raises(ModelError, match=r"no optimizer 'adan'\. Did you mean 'Adam'"):
        make_optimizer("adan", None)
    assert float(make_optimizer("sgd", 0.25).learning_rate) == 0.25
    assert (
        float(make_optimizer({"class_name": "Adam", "config": {"learning_rate": 0.5}}, None).learning_rate)
        == 0.5
    )
