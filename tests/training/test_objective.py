"""The objective: which loss the targets ask for, and the data loss and penalties apart."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from keras.ops import convert_to_numpy as numpy

from shrinkage.errors import ModelError
from shrinkage.penalties import L1, L2
from shrinkage.training.objective import (
    MeasuredLoss,
    best_guess,
    ensure_compiled,
    measure_data_loss,
    resolve_objective,
    unmeasure,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 4)).astype("float32")
CLASSES = np.arange(24) % 3
BINARY = np.arange(24) % 2
ONE_HOT = np.eye(3)[CLASSES]
NUMBERS = RNG.normal(size=24)


def ending(*last: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Dense(5, "relu"), *last])


def dense(units: int, activation: str | None = None) -> Any:
    return ending(layers.Dense(units, activation))


class Head(keras.Model):
    """A subclassed model has no output shape."""

    def __init__(self) -> None:
        super().__init__()
        self.head = layers.Dense(3, "softmax")

    def call(self, x: Any) -> Any:
        return self.head(x)


def subclassed() -> Any:
    model = Head()
    model(X)
    return model


SPARSE, ONE, TWO = "sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy"
MSE = "mean_squared_error"
# Targets, model, loss, logits.
AUTO = [
    (CLASSES, dense(3, "softmax"), SPARSE, False),
    (CLASSES, dense(3), SPARSE, True),
    (CLASSES, dense(4, "relu"), SPARSE, True),
    (CLASSES.reshape(-1, 1), dense(3, "softmax"), SPARSE, False),
    (CLASSES.astype("uint8"), ending(layers.Dense(3), layers.Softmax()), SPARSE, False),
    (CLASSES, ending(layers.Dense(3), layers.Activation("softmax")), SPARSE, False),
    (
        CLASSES,
        ending(layers.Dense(3, "softmax"), layers.Activation("linear", dtype="float32")),
        SPARSE,
        False,
    ),
    (CLASSES, ending(layers.Dense(3, layers.Softmax())), SPARSE, False),
    (CLASSES, ending(layers.Dense(3), layers.Dropout(0.1), layers.Reshape((3,))), SPARSE, True),
    (CLASSES, ending(keras.Sequential([keras.Input((5,)), layers.Dense(3)])), SPARSE, True),
    (CLASSES, subclassed(), SPARSE, False),
    (BINARY, dense(2, "softmax"), SPARSE, False),
    (BINARY, dense(1, "sigmoid"), TWO, False),
    (BINARY, dense(1), TWO, True),
    (BINARY.astype(bool), dense(1, "sigmoid"), TWO, False),
    (BINARY.reshape(-1, 1), dense(1, "sigmoid"), TWO, False),
    (ONE_HOT, dense(3, "softmax"), ONE, False),
    (ONE_HOT.astype("uint8"), dense(3), ONE, True),
    (NUMBERS, dense(1), MSE, False),
    (NUMBERS.reshape(-1, 1), dense(1), MSE, False),
    (np.stack([NUMBERS, NUMBERS], 1), dense(2), MSE, False),
    (np.arange(24), dense(1), MSE, False),  # counts, not classes
    (np.arange(24).reshape(-1, 1), dense(1), MSE, False),
    (np.ones((24, 3)), dense(3), MSE, False),
    (np.full((24, 3), 0.5), dense(3, "sigmoid"), MSE, False),
]


@pytest.mark.parametrize(("y", "model", "name", "logits"), AUTO)
def test_the_loss_follows_from_targets_and_outputs(y: Any, model: Any, name: str, logits: bool) -> None:
    objective = resolve_objective("auto", (), y, model)
    found = keras.losses.get(objective.loss)
    assert (found.name if isinstance(found, keras.Loss) else found.__name__) == name
    assert getattr(found, "get_config", dict)().get("from_logits", False) is logits
    assert objective.classification is (name != MSE)
    assert objective.metrics == (("accuracy",) if name != MSE else ())
    model.compile("sgd", objective.loss, metrics=list(objective.metrics), run_eagerly=True)
    assert np.isfinite(model.evaluate(X, y, verbose=0)).all()


def test_several_labels_a_row_take_the_crossentropy_of_each() -> None:
    y = np.tile([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], (12, 1))
    objective = resolve_objective("auto", (), y, dense(3, "sigmoid"))
    assert (objective.loss, objective.metrics, objective.classification) == (TWO, (), False)


@pytest.mark.parametrize("y", [CLASSES + 1, CLASSES - 1])
def test_classes_must_fit_the_outputs(y: Any) -> None:
    with pytest.raises(
        ModelError, match=r"classes -?\d to \d, but the model has 3 outputs, for the classes 0 to 2"
    ):
        resolve_objective("auto", (), y, dense(3, "softmax"))


def test_names_are_kept_and_unknown_ones_refused() -> None:
    model = dense(3, "softmax")
    objective = resolve_objective(SPARSE, ("AUC", "mse"), CLASSES, model)
    assert objective.loss == SPARSE
    assert objective.metrics == ("accuracy", "AUC", "mse")
    with pytest.raises(
        ModelError, match="no loss named 'sparse_categorical_crosentropy'\\. Did you mean 'sparse_cat"
    ):
        resolve_objective("sparse_categorical_crosentropy", (), CLASSES, model)
    with pytest.raises(ModelError, match="no metric named 'precison'\\. Did you mean 'Precision'"):
        resolve_objective("auto", ("precison",), CLASSES, model)


@pytest.mark.parametrize(
    ("loss", "y", "classification"),
    [
        (keras.losses.SparseCategoricalCrossentropy(), CLASSES, True),
        (keras.losses.sparse_categorical_crossentropy, CLASSES, True),
        (keras.losses.CategoricalFocalCrossentropy(), ONE_HOT, True),
        ("crossentropy", CLASSES, True),
        ("mse", ONE_HOT, False),
        (keras.losses.Huber(), NUMBERS, False),
        (lambda y, p: p, CLASSES, False),
    ],
)
def test_classification_is_what_a_crossentropy_of_classes_does(
    loss: Any, y: Any, classification: bool
) -> None:
    objective = resolve_objective(loss, (), y, dense(3, "softmax"))
    assert objective.loss is loss
    assert objective.classification is classification


def test_accuracy_is_followed_once() -> None:
    assert resolve_objective("auto", ("acc",), CLASSES, dense(3)).metrics == ("acc",)
    assert resolve_objective("auto", ("accuracy",), CLASSES, dense(3)).metrics == ("accuracy",)


def test_a_model_without_a_loss_is_given_one() -> None:
    model = dense(3)
    ensure_compiled(model, CLASSES)
    first = model._compile_loss
    ensure_compiled(model, CLASSES)
    assert model._compile_loss is first


# Data loss and penalties.


def penalized(optimizer: Any = "sgd", **compile: Any) -> Any:
    keras.utils.set_random_seed(1)
    first = layers.Dense(5, "relu", kernel_regularizer=L1(0.1), activity_regularizer=L2(0.01), name="first")
    model = keras.Sequential([keras.Input((4,)), first, layers.Dense(3, "softmax")])
    model.compile(optimizer, SPARSE, **compile)
    return model


def test_data_loss_and_penalty_are_the_loss() -> None:
    model = penalized(keras.optimizers.SGD(0.0), metrics=["accuracy"])
    measure_data_loss(model)
    logs = model.evaluate(X, CLASSES, batch_size=7, verbose=0, return_dict=True)
    probability = numpy(model(X))[np.arange(24), CLASSES]
    assert logs["data_loss"] == pytest.approx(float(np.mean(-np.log(probability))), rel=1e-5)
    penalty = 0.1 * np.abs(numpy(model.get_layer("first").kernel)).sum()
    penalty += 0.01 * np.sum(numpy(model.get_layer("first")(X)) ** 2) / 24
    assert logs["loss"] - logs["data_loss"] == pytest.approx(float(penalty), rel=1e-4)
    options = {"batch_size": 7, "verbose": 0, "shuffle": False, "validation_data": (X, CLASSES)}
    history = model.fit(X, CLASSES, **options).history
    assert history["val_data_loss"][0] == pytest.approx(logs["data_loss"], rel=1e-6)
    assert history["data_loss"][0] == pytest.approx(logs["data_loss"], rel=1e-6)


def test_without_penalties_the_data_loss_is_the_loss_bit_for_bit() -> None:
    model = dense(3, "softmax")
    model.compile("adam", SPARSE)
    measure_data_loss(model)
    history = model.fit(X, CLASSES, batch_size=7, epochs=2, verbose=0, validation_data=(X, CLASSES)).history
    assert history["data_loss"] == history["loss"]
    assert history["val_data_loss"] == history["val_loss"]


def test_measuring_changes_nothing_else() -> None:
    measured, plain = penalized(metrics=["accuracy"]), penalized(metrics=["accuracy"])
    measure_data_loss(measured)
    fits = [model.fit(X, CLASSES, epochs=3, verbose=0, shuffle=False).history for model in (measured, plain)]
    assert fits[0].pop("data_loss")
    assert fits[0].keys() == fits[1].keys()
    for name in fits[1]:
        np.testing.assert_allclose(fits[0][name], fits[1][name], rtol=1e-6)


def test_measuring_twice_is_measuring_once_and_can_be_undone() -> None:
    model = penalized()
    inner = model._compile_loss
    measure_data_loss(model)
    measured = model._compile_loss
    measure_data_loss(model)
    assert model._compile_loss is measured
    unmeasure(model)
    unmeasure(model)
    assert model._compile_loss is inner


def test_a_mean_that_is_not_shown() -> None:
    model = penalized(metrics=["accuracy"])
    model._compile_loss = measured = MeasuredLoss(model._compile_loss, shown=False)
    assert np.isnan(measured.mean())
    loss, _accuracy = model.evaluate(X, CLASSES, verbose=0)
    assert 0 < measured.mean() < loss
    assert set(model.fit(X, CLASSES, verbose=0).history) == {"loss", "accuracy"}


def test_several_outputs_keep_their_own_losses() -> None:
    x = keras.Input((4,))
    hidden = layers.Dense(3, kernel_regularizer=L2(0.1))(x)
    outputs = [layers.Dense(3, "softmax", name="kind")(hidden), layers.Dense(1, name="size")(hidden)]
    model = keras.Model(x, outputs)
    model.compile("sgd", [SPARSE, "mse"], loss_weights=[1.0, 0.5], metrics=[["accuracy"], ["mae"]])
    measure_data_loss(model)
    logs = model.evaluate(X, [CLASSES, NUMBERS], verbose=0, return_dict=True)
    assert logs["data_loss"] == pytest.approx(logs["kind_loss"] + 0.5 * logs["size_loss"], rel=1e-5)
    assert set(logs) == {"loss", "data_loss", "kind_loss", "size_loss", "kind_accuracy", "size_mae"}


def test_an_output_without_a_batch() -> None:
    x = keras.Input((4,))
    model = keras.Model(x, keras.ops.mean(layers.Dense(1)(x)))
    model.compile("sgd", lambda y, p: p)
    measured = MeasuredLoss(model._compile_loss)
    value = measured(np.zeros(2, "float32"), model(X))
    assert measured.mean() == pytest.approx(float(numpy(value)))


# --- the best constant answer ---------------------------------------------------------------------------


@pytest.mark.parametrize("y", [[0, 0, 1, 2, 2, 2], [0, 1, 1, 1]])
def test_no_constant_answer_has_a_lower_data_loss(y, rng):
    y = np.array(y)
    one_hot = np.eye(y.max() + 1)[y]
    for loss, targets in (("sparse_categorical_crossentropy", y), ("categorical_crossentropy", one_hot)):
        guess = best_guess(loss, targets)
        shares = one_hot.mean(0)
        losses = [
            float(np.mean(numpy(keras.losses.get(loss)(targets, np.tile(answer, (len(y), 1))))))
            for answer in (shares, *rng.dirichlet(10 * shares, size=20))
        ]
        assert losses[0] == pytest.approx(guess, rel=1e-5)
        assert min(losses) >= guess - 1e-6


def test_the_best_constant_of_a_regression_is_the_mean(rng):
    y = rng.normal(size=(40, 2))
    constant = np.tile(y.mean(0), (40, 1))
    assert best_guess("mse", y) == pytest.approx(float(np.mean((y - constant) ** 2)))


def test_other_losses_say_nothing(rng):
    assert best_guess("huber", rng.normal(size=10)) is None
    assert best_guess("binary_crossentropy", rng.random(10)) is None
    assert best_guess("binary_crossentropy", np.array([[1, 1, 0], [0, 1, 0]])) is None  # several labels a row
    assert best_guess("categorical_focal_crossentropy", np.eye(3)) is None
