"""StrengthSchedule changes strengths with no retrace; Monitor takes the objective apart, in Keras's logs."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers
from keras.ops import convert_to_numpy as numpy

import shrinkage
from shrinkage.errors import DataError, ModelError, RecipeError, ShrinkageWarning, StrengthError
from shrinkage.penalties import L1, L1L2, L2
from shrinkage.recipe import make_live
from shrinkage.training.callbacks import Monitor, StrengthSchedule, _would_miss

# Keras's variables and NumPy 2: every get_weights and save says so.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(32, 2)).astype("float32")
ROWS = {"batch_size": 8, "verbose": 0, "shuffle": False}


def mlp(
    kernel: Any = None, *, bias: Any = None, activity: Any = None, optimizer: Any = "sgd", **compile: Any
) -> Any:
    keras.utils.set_random_seed(0)
    first = layers.Dense(3, "relu", name="first", kernel_regularizer=kernel, activity_regularizer=activity)
    head = layers.Dense(2, name="head", bias_regularizer=bias)
    model = keras.Sequential([keras.Input((4,), name="in"), first, head], name="model")
    model.compile(optimizer, "mse", **compile)
    return model


def still() -> Any:
    """Return an optimizer that changes nothing."""
    return keras.optimizers.SGD(0.0)


def norm(model: Any, power: int = 1) -> float:
    return float(np.sum(np.abs(numpy(model.get_layer("first").kernel)) ** power))


def fit(model: Any, *callbacks: Any, epochs: int = 3, **options: Any) -> dict[str, list[float]]:
    given = {"x": X, "y": Y} | ROWS | options
    return model.fit(epochs=epochs, callbacks=list(callbacks), **given).history


class Traced(layers.Layer):
    """Passes its input on, and counts how often it is run as Python: once a trace."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.count = {"calls": 0}

    def call(self, x: Any) -> Any:
        self.count["calls"] += 1
        return x


# StrengthSchedule.


@pytest.mark.parametrize(
    ("penalty", "charge"),
    [
        (L1(0.5), lambda model, strength: strength * norm(model)),
        (keras.regularizers.L2(0.5), lambda model, strength: strength * norm(model, 2)),
        (L1L2(0.1, 0.3), lambda model, strength: strength * (0.25 * norm(model) + 0.75 * norm(model, 2))),
    ],
)
def test_the_loss_of_each_epoch_has_its_strength(penalty: Any, charge: Callable[[Any, float], float]) -> None:
    strengths = [0.4, 0.0, 3.0, 0.25]
    model = mlp(penalty, optimizer=still())
    bare = fit(mlp(None, optimizer=still()), epochs=1)["loss"][0]
    history = fit(model, StrengthSchedule(lambda epoch: strengths[epoch]), epochs=4)
    expected = [bare + charge(model, strength) for strength in strengths]
    np.testing.assert_allclose(history["loss"], expected, rtol=2e-6)
    assert history["strength/first/kernel"] == strengths


def test_the_schedule_may_build_on_the_present_strength() -> None:
    model = mlp(L1(0.5))
    assert fit(model, StrengthSchedule(lambda epoch, strength: strength / 2))["strength/first/kernel"] == [
        0.25,
        0.125,
        0.0625,
    ]
    # The next training goes on from there.
    assert fit(model, StrengthSchedule(lambda epoch, strength: strength * 2), epochs=1)[
        "strength/first/kernel"
    ] == [0.125]


def test_epochs_count_from_the_initial_one() -> None:
    seen: list[int] = []
    fit(mlp(L1(0.5)), StrengthSchedule(lambda epoch: seen.append(epoch) or 0.1), epochs=5, initial_epoch=3)  # type: ignore[func-returns-value]
    assert seen == [3, 4]


def test_each_penalty_keeps_its_own_strength() -> None:
    model = mlp(L1(0.5), bias=L2(0.1), activity=L2(0.1), optimizer=still())
    history = fit(model, StrengthSchedule(lambda epoch, strength: strength * 2), epochs=2)
    assert history["strength/first/kernel"] == [1.0, 2.0]
    assert history["strength/head/bias"] == [0.2, 0.4]
    assert "strength/first/activity" not in history  # equal to the bias's: they share one


def test_places_choose_what_is_scheduled() -> None:
    model = mlp(L1(0.5), bias=L1(0.5), optimizer=still())
    head = StrengthSchedule(lambda epoch: 2.0, places="head: bias")
    history = fit(model, StrengthSchedule(lambda epoch: 1.0, places="first: kernel"), head, epochs=1)
    assert history["strength/first/kernel"] == [1.0]
    assert history["strength/head/bias"] == [2.0]
    # Later on: one that was shared by both is parted again.
    shared = mlp(L1(0.5), bias=L1(0.5))
    assert list(make_live(shared)) == ["first/kernel"]
    assert fit(shared, StrengthSchedule(lambda epoch: 9.0, places="head: bias"), epochs=1)[
        "strength/head/bias"
    ] == [9]
    assert shrinkage.describe(shared).rows[0].strength == 0.5


def test_a_strength_of_zero_keeps_the_proportions() -> None:
    model = mlp(L1L2(0.1, 0.3), optimizer=still())
    fit(model, StrengthSchedule(lambda epoch: 0.0), epochs=1)
    fit(model, StrengthSchedule(lambda epoch: 4.0, places="first: kernel"), epochs=1)
    (penalty,) = (charge.penalty for charge in shrinkage.recipe.charges(model))
    assert penalty.numbers() == pytest.approx((1.0, 3.0))


class Deeper(keras.Model):
    """A subclassed model around a nested one."""

    def __init__(self, traced: Any) -> None:
        super().__init__()
        self.first = layers.Dense(3, kernel_regularizer=L1(0.1), name="first")
        self.inner = keras.Sequential([keras.Input((3,)), traced, layers.Dense(2, activity_regularizer="l2")])

    def call(self, x: Any) -> Any:
        return self.inner(self.first(x))


def subclassed(traced: Any) -> Any:
    model = Deeper(traced)
    model(X[:2])
    return model


def shared_and_nested(traced: Any) -> Any:
    x = keras.Input((4,))
    twice = layers.Dense(4, kernel_regularizer=L1(0.1), activity_regularizer=L1(0.1))
    inner = keras.Sequential([keras.Input((4,)), traced, layers.Dense(4, kernel_regularizer="l2")])
    return keras.Model(x, layers.Dense(2)(inner(twice(inner(twice(x))))))


def in_half_precision(traced: Any) -> Any:
    half = {"dtype": "mixed_float16"}
    first = layers.Dense(3, kernel_regularizer=L1(0.1), activity_regularizer=L2(0.1), **half)
    return keras.Sequential([keras.Input((4,)), first, traced, layers.Dense(2, **half)])


@pytest.mark.not_on("torch", "Keras compiles nothing there")
@pytest.mark.parametrize("build", [subclassed, shared_and_nested, in_half_precision])
@pytest.mark.parametrize("together", [1, 2])
def test_changing_the_strength_retraces_nothing(build: Callable[[Any], Any], together: int) -> None:
    traced = Traced()
    model = build(traced)
    model.compile("adam", "mse", steps_per_execution=together)
    schedule = StrengthSchedule(lambda epoch, strength: strength * 1.5)
    counts = []
    after = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: counts.append(traced.count["calls"])
    )
    history = [fit(model, schedule, after, epochs=4, validation_data=(X, Y)) for _ in range(3)]
    assert len(counts) == 12
    assert len(set(counts)) == 1
    key = next(key for key in history[0] if key.startswith("strength/"))
    assert history[2][key][-1] == pytest.approx(history[0][key][0] * 1.5**11)
    assert np.isfinite(history[2]["loss"]).all()


def members(path: Path) -> dict[str, Any]:
    """Return what a ``.keras`` file holds: config, and the names and shapes of arrays."""
    with zipfile.ZipFile(path) as file:
        names = sorted(file.namelist())
        config = json.loads(file.read("config.json"))
        with file.open("model.weights.h5") as weights, h5py.File(weights) as tree:
            arrays: dict[str, Any] = {}
            tree.visititems(lambda name, item: arrays.update({name: getattr(item, "shape", None)}))
    config.pop("build_config", None)
    return {"names": names, "config": config, "arrays": arrays}


def strengths_in(config: Any) -> list[float]:
    if isinstance(config, dict):
        own = [config["l1"]] if set(config) == {"l1"} else []
        return own + [number for part in config.values() for number in strengths_in(part)]
    return [number for part in config for number in strengths_in(part)] if isinstance(config, list) else []


def test_a_saved_file_holds_the_present_strength_and_else_what_it_always_does(tmp_path: Path) -> None:
    def saved(name: str, *callbacks: Any, strength: float = 0.5) -> dict[str, Any]:
        penalty = keras.regularizers.L1
        adam = keras.optimizers.Adam(name="adam")
        model = mlp(penalty(strength), activity=penalty(strength), optimizer=adam)
        fit(model, *callbacks, epochs=2)
        model.save(tmp_path / name)
        return members(tmp_path / name)

    plain = saved("plain.keras")
    assert strengths_in(plain["config"]) == [0.5, 0.5]
    assert saved("same.keras", StrengthSchedule(lambda epoch: 0.5)) == plain
    each = keras.callbacks.ModelCheckpoint(tmp_path / "at-{epoch}.keras")
    changed = saved("changed.keras", StrengthSchedule(lambda epoch: 0.25 + epoch), each)
    assert strengths_in(changed["config"]) == [1.25, 1.25]
    assert changed == saved("plain-again.keras", strength=1.25)
    assert strengths_in(members(tmp_path / "at-1.keras")["config"]) == [0.25, 0.25]
    assert strengths_in(members(tmp_path / "at-2.keras")["config"]) == [1.25, 1.25]


def test_the_last_strength_stays_in_force(tmp_path: Path) -> None:
    model = mlp(L1(0.5), optimizer=still())
    weights = len(model.get_weights())
    parameters = model.count_params()
    fit(model, StrengthSchedule(lambda epoch: 0.5 + epoch))
    loss = fit(model, epochs=1)["loss"][0]
    bare = fit(mlp(None, optimizer=still()), epochs=1)["loss"][0]
    assert loss == pytest.approx(bare + 2.5 * norm(model), rel=1e-6)
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(loss, rel=1e-5)
    assert len(model.get_weights()) == weights
    assert model.count_params() == parameters
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("first").kernel_regularizer) is keras.regularizers.L1
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(loss, rel=1e-5)
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    copy.compile("sgd", "mse")
    assert copy.evaluate(X, Y, verbose=0) == pytest.approx(loss, rel=1e-5)
    fit(loaded, StrengthSchedule(lambda epoch: 0.0))
    assert loaded.evaluate(X, Y, verbose=0) == pytest.approx(bare, rel=1e-5)


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf"), None, "0.1", True])
def test_a_bad_strength_is_named_with_its_epoch(bad: Any) -> None:
    with pytest.raises(StrengthError, match=r"first/kernel for epoch 1 must be .*≥ 0; got " + repr(bad)):
        fit(mlp(L1(0.5)), StrengthSchedule(lambda epoch: bad if epoch else 0.1))


def test_without_penalties_there_is_nothing_to_schedule() -> None:
    with pytest.raises(ModelError, match="No L1, L2 or L1L2 is in force"):
        fit(mlp(keras.ops.sum), StrengthSchedule(lambda epoch: 0.1))
    with pytest.raises(ModelError, match="at 'head: kernel'"):
        fit(mlp(L1(0.5)), StrengthSchedule(lambda epoch: 0.1, places="head: kernel"))
    with pytest.raises(RecipeError, match="Did you mean 'first'"):
        fit(mlp(L1(0.5)), StrengthSchedule(lambda epoch: 0.1, places="frist: kernel"))


@pytest.mark.parametrize("fn", [0.1, None, lambda: 0.1, lambda a, b, c: 0.1])
def test_a_schedule_must_take_an_epoch(fn: Any) -> None:
    with pytest.raises(TypeError):
        StrengthSchedule(fn)


def test_a_schedule_may_have_options() -> None:
    def halves(epoch: int, strength: float, by: float = 0.5) -> float:
        return strength * by

    def fixed(epoch: int, *, to: float = 0.5) -> float:
        return to

    assert fit(mlp(L1(1.0)), StrengthSchedule(halves), epochs=1)["strength/first/kernel"] == [0.5]
    assert fit(mlp(L1(1.0)), StrengthSchedule(fixed), epochs=1)["strength/first/kernel"] == [0.5]


# Monitor.


def test_the_parts_add_up() -> None:
    model = mlp(L1(0.1), bias="l2", activity=L1(0.1), optimizer=still(), metrics=["mae"])
    history = fit(model, Monitor(), validation_data=(X[:10], Y[:10]))
    bare = mlp(None, optimizer=still())
    for prefix, data in (("", (X, Y)), ("val_", (X[:10], Y[:10]))):
        loss, data_loss, penalty = (
            np.array(history[f"{prefix}{name}"]) for name in ("loss", "data_loss", "penalty")
        )
        assert np.array_equal(data_loss + penalty, loss) or np.allclose(data_loss + penalty, loss, rtol=1e-15)
        np.testing.assert_allclose(data_loss, bare.evaluate(*data, verbose=0), rtol=1e-5)
    np.testing.assert_allclose(history["penalty/first/kernel"], 0.1 * norm(model), rtol=1e-6)
    assert history["penalty/head/bias"] == [0.0, 0.0, 0.0]
    assert "penalty/first/activity" not in history
    assert all(type(value) is float for values in history.values() for value in values)


def test_the_penalty_is_the_mean_over_the_epoch_and_places_at_its_end() -> None:
    model = mlp(L1(0.1), optimizer=keras.optimizers.SGD(0.1))
    seen: list[float] = []
    before = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: seen.append(seen_norm(model))
    )
    history = fit(model, Monitor(), before, epochs=1)
    assert history["penalty"][0] == pytest.approx(0.1 * np.mean(seen), rel=1e-4)
    assert history["penalty/first/kernel"][0] == pytest.approx(0.1 * norm(model), rel=1e-6)


def seen_norm(model: Any) -> float:
    sync = getattr(model, "jax_state_sync", None)
    if sync is not None and getattr(model, "_jax_state", None):
        sync()
    return norm(model)


def test_what_a_schedule_changes_is_seen_in_the_parts() -> None:
    model = mlp(L1(0.5), optimizer=still())
    history = fit(model, Monitor(), StrengthSchedule(lambda epoch: 0.5 + epoch))
    np.testing.assert_allclose(
        history["penalty"], [strength * norm(model) for strength in (0.5, 1.5, 2.5)], rtol=1e-5
    )
    np.testing.assert_allclose(history["penalty/first/kernel"], history["penalty"], rtol=1e-5)
    assert len(set(history["data_loss"])) == 1


def test_zeros_are_those_of_penalized_weights() -> None:
    model = mlp(L1(0.1), optimizer=still())
    model.get_layer("first").kernel.assign(np.where(np.arange(12) < 3, 0.0, 1.0).reshape(4, 3))
    assert fit(model, Monitor(), epochs=1)["zeros"] == [0.25]
    assert math.isnan(fit(mlp(None), Monitor(), epochs=1)["zeros"][0])


def dropped(optimizer: Any) -> Any:
    first = layers.Dense(8, "relu", kernel_regularizer=L1(0.1), activity_regularizer=L2(0.1), name="first")
    model = keras.Sequential([keras.Input((4,)), first, layers.Dropout(0.5), layers.Dense(2)])
    model.compile(optimizer, "mse")
    return model


def test_the_gap_compares_in_inference_mode() -> None:
    model = dropped(still())
    history = fit(model, Monitor(train=(X, Y)), validation_data=(X[:8], Y[:8]), epochs=2)
    loss = float(np.mean((numpy(model(X, training=False)) - Y) ** 2))
    np.testing.assert_allclose(history["train_data_loss"], loss, rtol=1e-5)
    np.testing.assert_allclose(np.array(history["val_data_loss"]) - loss, history["gap"], atol=1e-6)
    output = numpy(model.get_layer("first")(X))
    np.testing.assert_allclose(history["penalty/first/activity"], 0.1 * np.sum(output**2) / len(X), rtol=1e-5)


def test_a_sample_is_always_the_same_rows() -> None:
    model = dropped(still())
    few = fit(model, Monitor(train=(X, Y), sample=5), epochs=3)["train_data_loss"]
    assert len(set(few)) == 1
    assert few[0] != fit(model, Monitor(train=(X, Y)), epochs=1)["train_data_loss"][0]
    assert few[0] == fit(model, Monitor(train=[X, Y], sample=5), epochs=1)["train_data_loss"][0]


def test_every_epoch_has_the_same_keys(tmp_path: Path) -> None:
    logger = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    seen: list[set[str]] = []
    spy = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(set(logs)))
    monitor = Monitor(train=(X, Y), every=2)
    history = fit(dropped("sgd"), monitor, logger, spy, validation_data=(X[:8], Y[:8]), epochs=4)
    assert all(keys == seen[0] for keys in seen)
    for name in ("train_data_loss", "gap", "penalty/first/activity"):
        assert [math.isnan(value) for value in history[name]] == [True, False, True, False]
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert set(header.split(",")) == {"epoch", *history}
    assert float(dict(zip(header.split(","), rows[1].split(","), strict=True))["gap"]) == history["gap"][1]


def test_without_validation_the_gap_is_not_known() -> None:
    history = fit(dropped("sgd"), Monitor(train=(X, Y)), epochs=2)
    assert np.isnan(history["gap"]).all()
    assert np.isfinite(history["train_data_loss"]).all()
    assert "val_data_loss" not in history


def test_validation_now_and_then() -> None:
    history = fit(dropped("sgd"), Monitor(), validation_data=(X[:8], Y[:8]), validation_freq=2, epochs=4)
    assert len(history["val_data_loss"]) == len(history["val_loss"]) == 2
    assert len(history["data_loss"]) == 4


def early_stopping(monitor: str) -> Any:
    return keras.callbacks.EarlyStopping(monitor=monitor, mode="min", patience=9)


class Writes(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Read the logs."""


READERS = {
    "CSVLogger": lambda path: keras.callbacks.CSVLogger(path / "log.csv"),
    "EarlyStopping": lambda path: early_stopping("data_loss"),
    "ReduceLROnPlateau": lambda path: keras.callbacks.ReduceLROnPlateau(
        monitor="penalty/first/kernel", mode="min"
    ),
    "ModelCheckpoint": lambda path: keras.callbacks.ModelCheckpoint(
        path / "m.keras", monitor="zeros", mode="max", save_best_only=True
    ),
    "LambdaCallback": lambda path: keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
    "History": lambda path: keras.callbacks.History(),
    "Writes": lambda path: Writes(),
}
OTHERS = {
    "EarlyStopping": lambda path: early_stopping("loss"),
    "ModelCheckpoint": lambda path: keras.callbacks.ModelCheckpoint(path / "m.keras", monitor="loss"),
    "LambdaCallback": lambda path: keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: None),
    "LearningRateScheduler": lambda path: keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
    "TerminateOnNaN": lambda path: keras.callbacks.TerminateOnNaN(),
    "StrengthSchedule": lambda path: StrengthSchedule(lambda epoch: 0.1),
}


@pytest.mark.filterwarnings(
    "ignore:Early stopping conditioned", "ignore:Can save best", "ignore:Learning rate red"
)
@pytest.mark.parametrize("name", READERS)
def test_it_warns_of_readers_in_front(name: str, tmp_path: Path) -> None:
    with pytest.warns(ShrinkageWarning, match=rf"behind {name} .* put Monitor first"):
        fit(mlp(L1(0.1)), READERS[name](tmp_path), Monitor(), epochs=1)


@pytest.mark.parametrize("name", OTHERS)
def test_it_does_not_warn_of_others_in_front(name: str, tmp_path: Path) -> None:
    fit(mlp(L1(0.1)), OTHERS[name](tmp_path), Monitor(), epochs=1)


@pytest.mark.parametrize("name", READERS)
def test_it_does_not_warn_of_readers_behind(name: str, tmp_path: Path) -> None:
    fit(mlp(L1(0.1)), Monitor(), READERS[name](tmp_path), epochs=1)


def test_tensorboard_reads_the_logs(tmp_path: Path) -> None:
    assert _would_miss(keras.callbacks.TensorBoard(str(tmp_path)))


def test_early_stopping_may_watch_the_parts() -> None:
    stop = keras.callbacks.EarlyStopping(monitor="val_data_loss", mode="min", patience=1)
    history = fit(mlp(L1(0.1), optimizer=still()), Monitor(), stop, validation_data=(X, Y), epochs=9)
    assert len(history["loss"]) == 2


class Evaluates(keras.callbacks.Callback):
    """Does what many do: evaluates in the middle of training, and takes the result apart."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        loss, mae = self.model.evaluate(X, Y, verbose=0)
        assert loss > 0
        assert mae > 0
        assert set(self.model.evaluate(X, Y, verbose=0, return_dict=True)) == {"loss", "mae"}


def test_evaluate_returns_what_it_always_did() -> None:
    model = mlp(L1(0.1), metrics=["mae"])
    inner = model._compile_loss
    metrics = len(model.metrics)
    history = fit(model, Monitor(train=(X, Y)), Evaluates(), validation_data=(X, Y))
    assert model._compile_loss is inner
    assert len(model.metrics) == metrics
    _loss, _mae = model.evaluate(X, Y, verbose=0)
    assert history["data_loss"][0] != history["data_loss"][1]
    assert model.train_on_batch(X, Y, return_dict=True).keys() == {"loss", "mae"}


class Interrupts(keras.callbacks.Callback):
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        raise KeyboardInterrupt


def test_an_interrupted_training_leaves_evaluate_alone() -> None:
    model = mlp(L1(0.1), metrics=["mae"])
    with pytest.raises(KeyboardInterrupt):
        fit(model, Monitor(), Interrupts())
    _loss, _mae = model.evaluate(X, Y, verbose=0)
    history = fit(model, Monitor())
    assert set(history) == {"loss", "mae", "data_loss", "penalty", "penalty/first/kernel", "zeros"}
    assert np.isfinite(history["data_loss"]).all()


@pytest.mark.not_on("torch", "Keras compiles nothing there")
def test_later_trainings_are_not_compiled_again() -> None:
    traced = Traced()
    model = keras.Sequential([keras.Input((4,)), traced, layers.Dense(2, kernel_regularizer="l1")])
    model.compile("sgd", "mse")
    monitor = Monitor()
    for callbacks in ([], [monitor], []):
        fit(model, *callbacks, epochs=1, validation_data=(X, Y))
    count = traced.count["calls"]
    for callbacks in ([monitor], [], [monitor], []):
        assert ("data_loss" in fit(model, *callbacks, epochs=2, validation_data=(X, Y))) == bool(callbacks)
    assert traced.count["calls"] == count


def test_a_training_without_it_comes_first_and_between() -> None:
    model = mlp(L1(0.1), optimizer=still())
    monitor = Monitor()
    fit(model, validation_data=(X, Y))
    first = fit(model, monitor, validation_data=(X, Y))
    shrinkage.apply(model, "first: kernel = l1(0.2)")  # drops the compiled functions
    fit(model, validation_data=(X, Y))
    second = fit(model, monitor, validation_data=(X, Y))
    model.compile(still(), "mse")
    third = fit(model, monitor, validation_data=(X, Y))
    for history, strength in ((first, 0.1), (second, 0.2), (third, 0.2)):
        np.testing.assert_allclose(history["penalty"], strength * norm(model), rtol=1e-4)
        np.testing.assert_allclose(history["val_penalty"], strength * norm(model), rtol=1e-4)


class Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Any:
        return X[8 * index : 8 * index + 8], Y[8 * index : 8 * index + 8]


def generator() -> Any:
    while True:
        for i in range(4):
            yield X[8 * i : 8 * i + 8], Y[8 * i : 8 * i + 8]


ONE_STEP = pytest.mark.not_on("torch", "Keras takes one step at a time there")


@pytest.mark.parametrize("together", [1, pytest.param(3, marks=ONE_STEP)])
@pytest.mark.parametrize("source", ["arrays", "dataset", "generator", "tf.data"])
def test_any_source_of_data(source: str, together: int, backend: str) -> None:
    model = mlp(L1(0.1), optimizer=still(), steps_per_execution=together)
    options: dict[str, Any] = {"verbose": 0, "epochs": 2, "callbacks": [Monitor()]}
    if source == "arrays":
        history = model.fit(X, Y, batch_size=8, **options).history
    elif source == "dataset":
        history = model.fit(Batches(), **options).history
    elif source == "generator":
        history = model.fit(generator(), steps_per_epoch=4, shuffle=False, **options).history
    else:
        if backend != "tensorflow":
            pytest.skip("tf.data is tried where TensorFlow is loaded anyway")
        import tensorflow as tf

        history = model.fit(
            tf.data.Dataset.from_tensor_slices((X, Y)).batch(8), shuffle=False, **options
        ).history
    np.testing.assert_allclose(history["penalty"], 0.1 * norm(model), rtol=1e-4)


def test_uneven_batches_weigh_as_in_the_loss() -> None:
    model = mlp(L1(0.1), optimizer=still())
    history = model.fit(X[:10], Y[:10], batch_size=8, epochs=1, verbose=0, callbacks=[Monitor()]).history
    assert history["penalty"][0] == pytest.approx(0.1 * norm(model), rel=1e-4)
    loss = np.mean((numpy(model(X[:10])) - Y[:10]) ** 2)
    assert history["data_loss"][0] == pytest.approx(float(loss), rel=1e-5)


def several_outputs() -> Any:
    x = keras.Input((4,))
    hidden = layers.Dense(3, kernel_regularizer=L1(0.1), name="first")(x)
    outputs = {"a": layers.Dense(2, name="a")(hidden), "b": layers.Dense(1, name="b")(hidden)}
    model = keras.Model(x, outputs)
    model.compile(
        still(), {"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 3.0}, metrics={"a": ["mae"]}
    )
    return model


def test_several_outputs() -> None:
    model = several_outputs()
    target = {"a": Y, "b": Y[:, :1]}
    history = fit(model, Monitor(train=(X, target)), y=target, validation_data=(X, target), epochs=2)
    for prefix in ("", "val_"):
        parts = np.array(history[f"{prefix}a_loss"]) + 3 * np.array(history[f"{prefix}b_loss"])
        np.testing.assert_allclose(history[f"{prefix}data_loss"], parts, rtol=1e-5)
        np.testing.assert_allclose(history[f"{prefix}penalty"], 0.1 * norm(model), rtol=1e-4)
    np.testing.assert_allclose(history["train_data_loss"], history["val_data_loss"], rtol=1e-5)
    assert len(model.evaluate(X, target, verbose=0)) == 4


def test_weights_of_samples_and_classes() -> None:
    model = mlp(L1(0.1), optimizer=still())
    weight = np.linspace(0, 2, 32).astype("float32")
    history = fit(model, Monitor(), sample_weight=weight, epochs=1)
    squares = np.mean((numpy(model(X)) - Y) ** 2, axis=1)
    assert history["data_loss"][0] == pytest.approx(float(np.mean(weight * squares)), rel=1e-5)
    assert history["penalty"][0] == pytest.approx(0.1 * norm(model), rel=1e-4)
    classes = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, "softmax", kernel_regularizer="l1", name="first")]
    )
    classes.compile(still(), "sparse_categorical_crossentropy", metrics=["accuracy"])
    labels = np.arange(32) % 3
    history = fit(classes, Monitor(), y=labels, class_weight={0: 1.0, 1: 5.0, 2: 0.0}, epochs=1)
    assert history["penalty"][0] == pytest.approx(0.01 * norm(classes), rel=1e-3)


class AddsLoss(layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(keras.ops.convert_to_tensor(0.5))
        return x


def test_a_layers_own_loss_is_a_penalty() -> None:
    model = keras.Sequential([keras.Input((4,)), AddsLoss(), layers.Dense(2)])
    model.compile(still(), "mse")
    assert fit(model, Monitor(), epochs=1)["penalty"][0] == pytest.approx(0.5, rel=1e-5)


def test_half_precision_is_measured_in_single(half_policy: None) -> None:
    model = mlp(L1(0.1), activity=L2(0.1), optimizer="adam")
    history = fit(model, Monitor(train=(X, Y)), validation_data=(X, Y))
    assert all(np.isfinite(values).all() for values in history.values())
    np.testing.assert_allclose(np.array(history["data_loss"]) + history["penalty"], history["loss"])


def test_it_needs_a_loss() -> None:
    model = keras.Sequential([keras.Input((4,)), AddsLoss(), layers.Dense(2)])
    model.compile("sgd")
    with pytest.raises(ModelError, match="without a loss"):
        model.fit(X, verbose=0, callbacks=[Monitor()])


class OwnLoss(keras.Model):
    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, **_: Any
    ) -> Any:
        return keras.ops.mean((y - y_pred) ** 2)


def test_a_loss_of_the_models_own_is_not_seen() -> None:
    x = keras.Input((4,))
    model = OwnLoss(x, layers.Dense(2)(x))
    model.compile("sgd", "mse")
    history = fit(model, Monitor(), epochs=1)
    assert math.isnan(history["data_loss"][0])
    assert math.isnan(history["penalty"][0])


def test_the_rows_of_lists_and_dicts() -> None:
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    model = keras.Model({"left": left, "right": right}, layers.Dense(2)(layers.Add()([left, right])))
    model.compile("sgd", "mse")
    data = {"left": X, "right": X[::-1]}
    history = fit(model, Monitor(train=(data, Y), sample=7), x=data, epochs=1)
    assert np.isfinite(history["train_data_loss"][0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": X}, "a pair"),
        ({"train": (X, Y, Y)}, "a pair"),
        ({"train": (X, Y[:3])}, "differ in length: 3, 32"),
        ({"every": 0}, "every must be"),
        ({"every": 1.5}, "every must be"),
        ({"sample": True}, "sample must be"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Monitor(**options)


def test_evaluation_outside_of_training_is_left_alone() -> None:
    model = mlp(L1(0.1))
    model.evaluate(X, Y, verbose=0, callbacks=[Monitor()])
    assert type(model._compile_loss).__name__ == "CompileLoss"


SEVERAL_DEVICES = """
import keras, numpy as np, shrinkage
keras.distribution.set_distribution(keras.distribution.DataParallel())
head = keras.layers.Dense(2, kernel_regularizer="l1", name="head")
model = keras.Sequential([keras.Input((4,)), head])
model.compile(keras.optimizers.SGD(0.0), "mse")
x, y = np.ones((16, 4), "float32"), np.ones((16, 2), "float32")
options = {"epochs": 2, "verbose": 0, "validation_data": (x, y)}
model.fit(x, y, **options)
callbacks = [shrinkage.Monitor(train=(x, y)), shrinkage.StrengthSchedule(lambda epoch: 1.0 + epoch)]
history = model.fit(x, y, callbacks=callbacks, **options).history
model.fit(x, y, **options)
norm = float(np.abs(np.asarray(head.kernel)).sum())
np.testing.assert_allclose(history["penalty"], [norm, 2 * norm], rtol=1e-5)
np.testing.assert_allclose(model.evaluate(x, y, verbose=0), history["loss"][1], rtol=1e-5)
print("as expected")
"""


@pytest.mark.thorough
@pytest.mark.jax_only
def test_several_devices(run_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    assert run_python(SEVERAL_DEVICES).endswith("as expected\n")
