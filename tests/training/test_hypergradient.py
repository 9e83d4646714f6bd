"""Hypergradients against closed forms and finite differences, and the descent that they drive."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

if keras.backend.backend() != "jax":
    pytest.skip("hypergradients need JAX", allow_module_level=True)

import jax
import jax.numpy as jnp

from shrinkage.errors import StrengthError, TrainingError
from shrinkage.recipe import Recipe
from shrinkage.training.choose import Choice
from shrinkage.training.descent import _DECADES, _LONGEST, _Walk, descend
from shrinkage.training.hypergradient import Implicit, Sensitivity, Trainer, Unrolled, hypergradient
from shrinkage.training.jax_loop import JaxLoop
from shrinkage.training.lowering import FORWARD, lowered
from shrinkage.training.objective import resolve_objective
from shrinkage.training.task import Cell, Split, Task

RNG = np.random.default_rng(0)
EMPTY = 3
X = RNG.normal(size=(60, 5)).astype("float32") * (np.arange(5) != EMPTY)
CLASS = (X[:, 0] + 0.5 * X[:, 1] + RNG.normal(size=60) > 0).astype(int) + (X[:, 2] > 1)
SPLIT = Split(np.arange(40), np.arange(40, 60))
RULES = Recipe("hidden: kernel = l2(strength)\nhead: kernel, bias = l2(0.5*strength)")
HEAD = Recipe("head: kernel = l2(strength)\nhead: bias = l2(strength)")


def mlp() -> Any:
    hidden = layers.Dense(6, "tanh", name="hidden")
    return keras.Sequential([keras.Input((5,)), hidden, layers.Dense(3, "softmax", name="head")])


def conv() -> Any:
    return keras.Sequential(
        [keras.Input((5,)), layers.Reshape((5, 1)), layers.Conv1D(4, 2, activation="tanh"),
         layers.AveragePooling1D(2), layers.Flatten(), layers.Dense(6, "tanh", name="hidden"),
         layers.Dropout(0.2), layers.BatchNormalization(), layers.Dense(3, "softmax", name="head")]
    )  # fmt: skip


def linear() -> Any:
    return keras.Sequential([keras.Input((5,)), layers.Dense(3, "softmax", name="head")])


def regression() -> Any:
    return keras.Sequential([keras.Input((5,)), layers.Dense(1, name="head")])


def task(build: Any, recipe: Recipe = RULES, y: Any = CLASS, **changes: Any) -> Task:
    fields: dict[str, Any] = {"optimizer": "sgd", "learning_rate": 0.2, "epochs": 3, "batch_size": 20}
    recipes = {"a": recipe, "fixed": Recipe("*: kernel = l2(0.1)"), "head": Recipe(HEAD.rules[:1])}
    objective = resolve_objective("auto", (), y, build())
    return Task(build, recipes, X, y, (SPLIT,), objective, **fields | changes)


def difference(loss: Any, step: float = 0.05) -> Any:
    """Return d loss / d log λ_r of a function of the ratios' factors, by central differences."""
    found = []
    for rule in range(2):
        up, down = ([math.exp(s) if r == rule else 1.0 for r in range(2)] for s in (step, -step))
        found.append((loss(*up) - loss(*down)) / (2 * step))
    return np.stack(found, -1)


# --- where the answer is known ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ridge():
    """A regression by full batches; the true weights are 0, and the true bias is not."""
    y = (2 + 2 * np.random.default_rng(1).normal(size=60)).astype("float32")[:, None]
    return Trainer(task(regression, HEAD, y, learning_rate=0.05, batch_size=40, epochs=400))


@pytest.mark.parametrize("method", [Unrolled(), Implicit(damping=0)])
def test_ridge_regression_has_a_closed_form(ridge, method):
    """w = (XᵀX/n + diag λ)⁻¹ Xᵀy/n, of which the derivative by log λ_r is −A⁻¹ λ_r D_r w."""
    cell = Cell("a", 0.1, (2.0, 0.5))
    found = ridge.begin(cell, [0, 1]).train(cell, 400, method)
    wide = np.hstack([X, np.ones((60, 1))]).astype(float)
    (x, v), (t, u) = (np.split(a.astype(float), [40]) for a in (wide, ridge.task.y[:, 0]))
    strengths = np.array([0.2] * 5 + [0.05])
    inverse = np.linalg.inv(x.T @ x / 40 + np.diag(strengths))
    w = inverse @ x.T @ t / 40
    by_log = [-inverse @ (w * strengths * (np.arange(6) // 5 == rule)) for rule in (0, 1)]
    expected = [np.mean(2 * (v @ w - u) * (v @ d)) for d in by_log]
    for lane in range(2):
        assert found.val_data_loss[lane] == pytest.approx(np.mean((v @ w - u) ** 2), rel=1e-4)
        assert found.gradient[lane] == pytest.approx(expected, rel=1e-3)


@pytest.mark.thorough
def test_three_ways_agree_on_softmax_regression():
    """Unrolled, implicit, and training again next to it; a short horizon gives a part of the whole."""
    trainer = Trainer(task(linear, HEAD, learning_rate=0.7, batch_size=40, epochs=250))

    def trained(method, *factors):
        cell = Cell("a", 0.02, tuple(np.array([2.0, 0.5]) * (factors or 1)))
        return trainer.begin(cell, [0]).train(cell, 250, method)

    again = difference(lambda *factors: trained(Unrolled(0), *factors).val_data_loss)
    assert trained(Unrolled()).gradient == pytest.approx(again, rel=5e-3)
    assert trained(Implicit(damping=0)).gradient == pytest.approx(again, rel=5e-3)
    short, damped = (trained(method).gradient / again for method in (Unrolled(20), Implicit(damping=0.1)))
    for part in (short, damped):
        assert ((part > 0.2) & (part < 0.98)).all()


CASES = {
    "adam": (mlp, {"optimizer": "adam", "learning_rate": 0.02}),
    "sgd": (mlp, {}),
    "proximal": (mlp, {"optimizer": "proximal(sgd)"}),
    "conv": (conv, {"optimizer": "adam", "learning_rate": 0.02, "batch_size": 16}),  # a short last batch
}
QUICK = "adam"


@pytest.fixture(scope="module")
def trainer():
    build, changes = CASES[QUICK]
    return Trainer(task(build, **changes))


@pytest.mark.thorough
@pytest.mark.parametrize("name", CASES)
def test_unrolled_steps_are_what_training_again_finds(name, request):
    build, changes = CASES[name]
    the = request.getfixturevalue("trainer") if name == QUICK else Trainer(task(build, **changes))

    def trained(*factors):
        cell = Cell("a", 0.02, (2.0, 0.5))
        training = the.begin(cell, [0, 1])
        training.train(cell, 1, Unrolled(0))
        there = cell._replace(ratios=tuple(np.array(cell.ratios) * (factors or 1)))
        return training.train(there, 2, Unrolled())

    expected = difference(lambda *factors: trained(*factors).val_data_loss)
    assert np.abs(expected).min() > 1e-5
    assert trained().gradient == pytest.approx(expected, rel=0.02, abs=1e-5)


@pytest.mark.thorough
def test_it_trains_as_the_loop_does(trainer):
    cell = Cell("a", 0.02, (2.0, 0.5))
    lanes = [cell.lane(seed, 0) for seed in (0, 1)]
    found = {r.lane: r for r in JaxLoop(trainer.task, lanes, Choice(2)).run(lanes, lambda record: None)}
    expected = [found[lane].values["val_data_loss"] for lane in lanes]
    for method in (Unrolled(), Unrolled(1)):
        losses = trainer.begin(cell, [0, 1]).train(cell, 3, method).val_data_loss
        assert losses == pytest.approx(expected, rel=1e-5)


@pytest.mark.thorough
def test_a_weight_without_gradient_has_a_derivative(trainer):
    """Adam divides by the root of a second moment that is 0 for good: no NaN comes of it."""
    assert not X[:, EMPTY].any()
    cell = Cell("head", 0.02)
    found = trainer.begin(cell, [0, 1]).train(cell, 2, Unrolled())
    assert np.isfinite(found.gradient).all()
    assert (found.gradient != 0).all()


def test_a_step_that_is_rewritten_for_forward_mode_is_the_same_function():
    kernel, dense = RNG.normal(size=(2, 2, 1, 3)), RNG.normal(size=(12, 2))

    def function(x, kernel, dense):
        numbers = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers)
        x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return jnp.tanh(x.reshape(len(x), -1) @ dense).sum()

    given = [jnp.asarray(a, jnp.float32) for a in (RNG.normal(size=(4, 5, 5, 1)), kernel, dense)]
    tangents = [jnp.cos(a) for a in given]
    expected, found = (
        jax.jit(lambda f=f: jax.jvp(f, given, tangents))() for f in (function, lowered(function, FORWARD))
    )
    assert np.array(found) == pytest.approx(np.array(expected), rel=1e-4)


# --- what can't be done -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "error", "words"),
    [
        (Cell("b", 0.1), TrainingError, "no arm 'b'"),
        (Cell("fixed", 0.1), StrengthError, "No rule of the arm 'fixed' contains the word strength"),
        (Cell("a", None), StrengthError, "strengths > 0; got None"),
        (Cell("a", 0.0), StrengthError, "strengths > 0; got 0.0"),
        (Cell("a", 0.1, (1.0, 0.0)), StrengthError, "strengths > 0"),
        (Cell("a", 0.1, (1.0,)), StrengthError, "1 ratios were given, and 2"),
    ],
)
def test_what_has_no_derivative_is_one_sentence(cell, error, words):
    with pytest.raises(error, match=words):
        hypergradient(task(mlp), cell, [0])


def test_a_proximal_optimizer_does_not_rest_at_gradient_0():
    with pytest.raises(TrainingError, match="use Unrolled"):
        hypergradient(task(mlp, optimizer="proximal(sgd)"), Cell("a", 0.1), [0], method=Implicit())


def test_other_backends_are_refused(monkeypatch):
    the_task = task(mlp)
    monkeypatch.setattr(keras.backend, "backend", lambda: "torch")
    with pytest.raises(TrainingError, match="the backend is torch"):
        Trainer(the_task)


# --- down the gradient --------------------------------------------------------------------------------------


def test_descent_takes_each_strength_where_it_belongs(ridge):
    """The kernel's, whose true weights are 0, up; the bias's down; and the loss with them."""
    start = Cell("a", 0.1)
    found = list(descend(ridge, start, [0, 1], rounds=5))
    assert (found[0].strength, found[0].ratios) == (pytest.approx(0.1), (1.0, 1.0))
    assert found[-1].ratios[0] > 10 * found[-1].ratios[1]
    losses = [p.val_data_loss for p in found]
    assert losses == sorted(losses, reverse=True)
    assert [p.epochs for p in found] == [400 * (i + 1) for i in range(5)]
    assert [np.prod(p.ratios) for p in found] == pytest.approx([1] * 5)
    warm = list(descend(ridge, start, [0, 1], rounds=3, warm=50, method=Implicit()))
    assert [p.epochs for p in warm] == [400, 450, 500]
    assert [p.ratios for p in warm] == [pytest.approx(p.ratios) for p in found[:3]]


class Scripted:
    """A trainer whose losses are given, and that notes what is asked of it."""

    task = SimpleNamespace(epochs=9)

    def __init__(self, *losses):
        self.losses, self.asked, self.cells = iter(losses), [], []

    def full(self, cell):
        return cell

    def begin(self, cell, seeds, split):
        self.asked.append("begin")
        return self

    def train(self, cell, epochs, method):
        self.asked.append(epochs)
        self.cells.append(np.log10(cell.strength * np.array(cell.ratios)))
        loss = next(self.losses)
        return Sensitivity(np.array([loss]), np.array([[loss, -loss]]))


def test_a_round_that_diverged_is_left_for_the_best_and_trained_anew():
    trainer = Scripted(1.0, math.nan, 0.9, 0.8)
    found = list(descend(trainer, Cell("a", 1.0, (1.0, 1.0)), [0], rounds=4, warm=2))
    assert trainer.asked == ["begin", 9, 2, "begin", 9, 2]
    assert [p.epochs for p in found] == [9, 11, 20, 22]
    at = [pytest.approx(place, abs=1e-9) for place in trainer.cells]
    assert at == [[0, 0], [-0.25, 0.25], [0, 0], [-0.125, 0.125]]


slopes = st.lists(st.tuples(*[st.sampled_from([-1.0, 0.0, 0.5, math.nan])] * 3), max_size=30)


@given(slopes, st.lists(st.floats(0.1, 9) | st.just(math.nan), min_size=30, max_size=30))
def test_steps_are_bounded_against_the_slope_and_stay_in_range(slopes, losses):
    start = np.array([-2.0, -3.0, 0.0])
    walk, best, lowest = _Walk(start), start, math.inf
    for loss, slope in zip(losses, map(np.array, slopes), strict=False):
        before = walk._at
        walk.go(loss, slope)
        if math.isnan(loss) or np.isnan(slope).any():
            assert walk.lost
            assert (walk._at == best).all()
            continue
        best, lowest = (before, loss) if loss < lowest else (best, lowest)
        moved = walk._at - before
        assert (moved * slope <= 0).all()
        assert (moved[slope == 0] == 0).all()
        assert (np.abs(moved) <= _LONGEST).all()
        assert (np.abs(walk._at - start) <= _DECADES).all()
        cell = walk.cell("a")
        assert np.log10(np.array(cell.ratios) * cell.strength) == pytest.approx(walk._at, abs=1e-9)
