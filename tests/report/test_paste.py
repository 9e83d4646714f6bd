"""The code to paste: what is pasted charges what the study charged."""

from __future__ import annotations

import tomllib

import keras
import pytest
from keras import layers

import shrinkage
from shrinkage.recipe import Recipe, charges
from shrinkage.report.paste import paste
from shrinkage.study import examine
from shrinkage.study.arm import Arm
from shrinkage.study.design import Trial
from shrinkage.study.evidence import DataFacts, Evidence

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")

MAKE = {
    "conv": lambda **given: layers.Conv2D(2, 2, **given),
    "depthwise": lambda **given: layers.DepthwiseConv2D(2, **given),
    "separable": lambda **given: layers.SeparableConv2D(2, 2, **given),
    "norm": lambda **given: layers.BatchNormalization(**given),
    "rows": lambda **given: layers.Reshape((2, -1)),
    "lstm": lambda **given: layers.LSTM(2, **given),
    "head": lambda **given: layers.Dense(2, **given),
}
RULES = [
    "conv, depthwise, separable, head: kernel, bias = l2(0.25)",
    "lstm: recurrent_kernel = l1_l2(0.5, 0.125)",
    "norm: gamma = l1(0.5)",
    "head: activity = l1(0.0625)",
]


def model(arguments=None):
    """A model of all these layers; ``arguments`` are those of its layers' constructors."""
    made = [make(name=name, **(arguments or {}).get(name, {})) if name != "rows" else make()
            for name, make in MAKE.items()]  # fmt: skip
    return keras.Sequential([keras.Input((6, 6, 1)), *made])


def evidence(built):
    data = DataFacts("zeros", (6, 6, 1), "float32", (), 4, 0, 4, (), ())
    return Evidence("", "", "", data, examine.network(built), ())


@pytest.fixture(scope="module")
def seen():
    """The arm as a run sees it, and the network."""
    built = model()
    trial = Trial("some", 0.25, 0, -1, "key")
    made_up = shrinkage.Data(
        "zeros", *(keras.ops.convert_to_numpy(keras.ops.zeros(shape)) for shape in [(4, 6, 6, 1), (4, 2)] * 2)
    )
    shown = examine.Shown(trial, Recipe(RULES), built.get_weights(), False)
    (arm,), _ = examine.arms(built, made_up, [shown])
    return arm, evidence(built).node


def in_force(built):
    return {(c.path, c.target): str(c.penalty) for c in charges(built)}


def expected():
    built = model()
    shrinkage.apply(built, RULES)
    return in_force(built)


def test_the_python_code_puts_it_on_a_model(seen):
    built = model()
    exec(paste(*seen).python, {"model": built})
    assert in_force(built) == expected()


def test_keras_arguments_build_the_same_model(seen):
    arguments = {}
    for part in paste(*seen).keras.removeprefix("# ").split("\n# "):
        layer, _, text = part.partition("\n")
        arguments[layer] = eval(f"dict({text})", {"keras": keras})
    assert set(arguments) == set(MAKE) - {"rows"}
    assert in_force(model(arguments)) == expected()


def test_the_line_is_a_recipe_and_the_arm_one_of_a_study(seen):
    texts = paste(*seen)
    assert Recipe(texts.line.splitlines()) == Recipe(RULES)
    (arm,) = tomllib.loads(texts.toml)["arms"]
    assert Recipe(Arm.model_validate(arm).recipe) == Recipe(RULES)


def test_what_keras_has_no_argument_for_is_said():
    built = model()
    shown = examine.Shown(
        Trial("units", None, 0, -1, "key"),
        Recipe("conv: unit = group_lasso(0.5)"),
        built.get_weights(),
        False,
    )
    x = keras.ops.convert_to_numpy(keras.ops.zeros((4, 6, 6, 1)))
    y = keras.ops.convert_to_numpy(keras.ops.zeros((4, 2)))
    (arm,), _ = examine.arms(built, shrinkage.Data("zeros", x, y, x, y), [shown])
    text = paste(arm, evidence(built).node).keras
    assert "has no argument in Keras; use shrinkage.apply" in text
    assert "regularizer=" not in text
