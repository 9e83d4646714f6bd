"""Models of every kind that a recipe is applied to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

layers = keras.layers


def dense() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="relu", name="hidden"),
            layers.Dropout(0.5, name="drop"),
            layers.Dense(2, name="head"),
        ],
        name="small",
    )


def nested() -> keras.Model:
    """A model with a nested model, a layer that is used twice, and normalization."""
    shared = layers.Dense(4, activation="tanh", name="shared")
    inner_input = keras.Input((4,))
    inner = keras.Model(
        inner_input, layers.BatchNormalization(name="norm")(shared(shared(inner_input))), name="inner"
    )
    inputs = keras.Input((4,))
    return keras.Model(inputs, layers.Dense(2, name="head")(inner(inputs)), name="outer")


def attention() -> keras.Model:
    inputs = keras.Input((4,))
    hidden = layers.Reshape((2, 2))(inputs)
    hidden = layers.MultiHeadAttention(1, 2, name="attend")(hidden, hidden)
    return keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(hidden)))


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="mine")
        self.hidden = layers.Dense(3, activation="tanh", name="hidden")
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.hidden(x))


def subclassed() -> keras.Model:
    model = Subclassed()
    model(np.zeros((1, 4), "float32"))
    return model


@keras.saving.register_keras_serializable("tests")
class Scaled(keras.Model):
    """A subclassed model with a weight of its own, beside its layers."""

    def __init__(self) -> None:
        super().__init__(name="mine")
        self.head = layers.Dense(2, name="head")

    def build(self, shape: tuple[int, ...]) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), name="scale", initializer="ones")
        self.head.build(shape)

    def call(self, x: Any) -> Any:
        return self.head(x * self.scale)


KINDS = {"dense": dense, "nested": nested, "attention": attention, "subclassed": subclassed}


@pytest.fixture(params=KINDS.values(), ids=KINDS.keys())
def build(request: pytest.FixtureRequest) -> Callable[[], keras.Model]:
    """A builder of one kind of model after the other: four inputs, two outputs, the last layer ``head``."""
    return request.param


@pytest.fixture
def scaled() -> keras.Model:
    """A built model with a weight of its own, ``scale``, four ones."""
    model = Scaled()
    model.build((None, 4))
    return model


@pytest.fixture(scope="session")
def small() -> Callable[[], keras.Model]:
    """A builder of two dense layers, ``hidden`` and ``head``, with a Dropout between."""
    return dense
