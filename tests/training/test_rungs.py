"""Rungs: the best of every arm go on exactly where they were, whatever loop trains them and however often."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from shrinkage.models import mlp
from shrinkage.recipe import Recipe
from shrinkage.training.checkpoint import Memory
from shrinkage.training.choose import Choice, make_loop
from shrinkage.training.initial import with_fresh_names
from shrinkage.training.keras_loop import KerasLoop
from shrinkage.training.objective import resolve_objective
from shrinkage.training.rungs import ALIKE, REDUCTION, survivors
from shrinkage.training.task import Cell, Lane, Loop, Result, Split, Task

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"  # Keras's variables
    ),
]

RNG = np.random.default_rng(1)
X = RNG.normal(size=(64, 5)).astype("float32")
Y = (X[:, 0] + 0.3 * X[:, 1] > 0).astype("int64") + (X[:, 2] > 1)
SPLIT = Split(np.arange(40), np.arange(40, 64))
RECIPES = {
    "none": Recipe([]),
    "l2": Recipe("*: kernel = l2(strength)"),
    "l1": Recipe("*: kernel = l1(0.01)"),
}
STRENGTHS = [1e-4, 1e-2, 0.1, 3.0]
CELLS = [("none", None), *(("l2", s) for s in STRENGTHS), ("l1", None)]
LANES = [Lane(arm, strength, seed) for arm, strength in CELLS for seed in (0, 1)]
EPOCHS, RUNGS = 6, (1, 3)


def build() -> Any:
    return mlp((5,), 3, hidden=[6], dropout=0.2, batch_norm=True)


def task(**changes: Any) -> Task:
    objective = resolve_objective("auto", (), Y, with_fresh_names(build))
    fields: dict[str, Any] = {
        "build": build, "recipes": RECIPES, "x": X, "y": Y, "splits": (SPLIT,), "objective": objective,
        "epochs": EPOCHS, "batch_size": 8, "learning_rate": 0.02, "rungs": RUNGS,
    }  # fmt: skip
    return Task(**(fields | changes))


LOOPS = (
    ["auto", pytest.param("keras", marks=pytest.mark.thorough)]
    if keras.backend.backend() == "jax"
    else ["keras"]
)


@pytest.fixture(params=LOOPS)
def name(request: pytest.FixtureRequest) -> Any:
    return request.param


def loop_of(name: Any, the_task: Task, shelf: Any = None, lanes: Any = LANES, most: int = 4) -> Loop:
    loop = make_loop(the_task, with_fresh_names(build), lanes, name)
    loop.decide(Choice(most).to_json(), lambda stored, line: None, shelf)
    return loop


def trained(loop: Loop, lanes: Any = LANES) -> dict[Lane, Result]:
    results = list(loop.run(lanes, lambda record: None))
    assert len({result.lane for result in results}) == len(results) == len(lanes)
    return {result.lane: result for result in results}


def bits(result: Result) -> Any:
    records = [dict(record.values) for record in result.records]
    return result.state, result.best, str(records), [w.tobytes() for w in result.weights]


# --- who goes on -----------------------------------------------------------------------------------------

losses = st.one_of(st.floats(0, 10), st.just(math.inf), st.just(math.nan))


@given(st.lists(st.tuples(st.sampled_from("abc"), losses), min_size=1, max_size=30), st.integers(0, 3))
def test_of_every_arm_the_best_half_goes_on(drawn, rung):
    scores = {Cell(arm, float(i)): loss for i, (arm, loss) in enumerate(drawn)}
    counts = {arm: sum(cell.arm == arm for cell in scores) for arm in {cell.arm for cell in scores}}
    kept = survivors(scores, counts, rung, 0.01)
    for arm, count in counts.items():
        mine = [cell for cell in kept if cell.arm == arm]
        assert len(mine) == max(1, math.ceil(count / REDUCTION ** (rung + 1)))
        loss = {c: math.inf if math.isnan(v) else v for c, v in scores.items() if c.arm == arm}
        limit = min(loss.values()) * (1 + 0.01)
        for kept_cell in mine:
            for other in loss.keys() - mine:
                if loss[kept_cell] <= limit:  # nothing as good and stronger was left behind
                    assert loss[other] > limit or other.strength < kept_cell.strength
                else:
                    assert loss[other] >= loss[kept_cell]


# --- exactly where they were ---------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.jax_only  # a minute elsewhere, and the rungs are the same code for both loops
def test_a_full_grid_chooses_the_same_at_each_rung(name):
    found, full = trained(loop_of(name, task())), trained(loop_of(name, task(rungs=())))
    alive = [Cell(*cell) for cell in CELLS]
    for rung, epochs in enumerate(RUNGS):
        loss = {
            cell: np.mean([full[cell.lane(s, 0)].records[epochs - 1].values["val_data_loss"] for s in (0, 1)])
            for cell in alive
        }
        kept = survivors(loss, {"none": 1, "l2": 4, "l1": 1}, rung, ALIKE * (EPOCHS / epochs - 1))
        for cell in set(alive) - kept:
            for seed in (0, 1):
                result = found[cell.lane(seed, 0)]
                assert (result.state, len(result.records), result.weights) == ("stopped", epochs, ())
        alive = [cell for cell in alive if cell in kept]
    assert len(alive) == 3
    assert {r.lane.cell for r in found.values() if r.state == "complete"} == set(alive)
    assert all(len(r.records) == EPOCHS for r in found.values() if r.state == "complete")


OPTIMIZERS = {
    "adam": keras.optimizers.Adam(0.02),
    "momentum": keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True),
    "moving average": keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.9),
    "accumulation": keras.optimizers.Adam(0.02, gradient_accumulation_steps=3),
    "schedule-free": keras.optimizers.ScheduleFreeAdamW(0.02),
}
# This one is special in what it stores; the others store as it does, and each `fit` takes long.
SPECIAL = "moving average"


@pytest.mark.parametrize(
    "optimizer", [SPECIAL, *(pytest.param(o, marks=pytest.mark.thorough) for o in OPTIMIZERS if o != SPECIAL)]
)
def test_survivors_train_as_without_rungs(name, optimizer, backend):
    changes = {"optimizer": OPTIMIZERS[optimizer], "learning_rate": None}
    # One lane a program: more of them differ in the last bits from as many as are left after a rung.
    found = trained(loop_of(name, task(**changes), most=1))
    left = [lane for lane, result in found.items() if result.state == "complete"]
    full = trained(loop_of(name, task(**changes, rungs=()), most=1), left)
    assert len(left) == 6
    for lane in left:
        if backend == "jax":
            assert bits(found[lane]) == bits(full[lane])
        else:  # TensorFlow adds up in whatever order its threads come
            mine, other = found[lane].values["val_data_loss"], full[lane].values["val_data_loss"]
            assert mine == pytest.approx(other, rel=1e-3)


# --- kills, early stopping, divergence -----------------------------------------------------------------


class Killed(BaseException):
    pass


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="bits are promised on JAX alone")
@pytest.mark.parametrize("patience", [pytest.param(None, marks=pytest.mark.thorough), 1])
def test_kills_lose_no_lane_and_no_bit(name, patience):
    the_task = task(early_stopping=patience)
    whole = {lane: bits(result) for lane, result in trained(loop_of(name, the_task)).items()}
    rng, shelf, found, kills = np.random.default_rng(0), Memory(), dict[Lane, Any](), 0
    print("seed 0")
    while len(found) < len(LANES):
        left, countdown = [lane for lane in LANES if lane not in found], int(rng.integers(5, 40))

        def count(record: Any) -> None:
            nonlocal countdown
            countdown -= 1
            if not countdown:
                raise Killed

        try:
            for result in loop_of(name, the_task, shelf).run(left, count):
                assert result.lane not in found
                found[result.lane] = bits(result)
                if rng.random() < 0.1:  # a kill between two results
                    raise Killed
        except Killed:
            kills += 1
    assert kills > 3
    assert found == whole


def test_what_is_on_the_shelf_is_not_trained_again(name):
    shelf, seen = Memory(), list[Any]()
    results = loop_of(name, task(), shelf).run(LANES, seen.append)
    next(results)  # the first that is stopped: all have got to the first rung
    results.close()
    assert {record.epoch for record in seen} == {1}
    again: list[Any] = []
    list(loop_of(name, task(), shelf).run(LANES, again.append))
    assert min(record.epoch for record in again) == 2


@pytest.mark.thorough
def test_a_shelf_of_another_network_is_left_alone(name):
    wide = lambda: mlp((5,), 3, hidden=[7], dropout=0.2, batch_norm=True)  # noqa: E731
    shelf = Memory()
    next(loop_of(name, task(build=wide), shelf).run(LANES, lambda record: None))
    assert shelf
    assert len(trained(loop_of(name, task(), shelf))) == len(LANES)


@pytest.mark.thorough
def test_a_diverged_cell_does_not_go_on(name):
    cells = [("none", None), ("l2", 1e-3), ("l2", 1e30), ("l2", 1e31)]
    lanes = [Lane(*cell, seed) for cell in cells for seed in (0, 1)]
    found = trained(loop_of(name, task(optimizer="sgd", learning_rate=0.1), lanes=lanes), lanes)
    states = {(lane.arm, lane.strength): result.state for lane, result in found.items()}
    assert states == {
        ("none", None): "complete",
        ("l2", 1e-3): "complete",
        ("l2", 1e30): "diverged",
        ("l2", 1e31): "diverged",
    }


def test_a_lane_that_ended_early_counts_at_its_best_epoch(name):
    found = trained(loop_of(name, task(early_stopping=1, epochs=40, rungs=(12, 20), learning_rate=0.1)))
    assert len(found) == len(LANES)
    complete = [r for r in found.values() if r.state == "complete"]
    assert any(len(r.records) < 12 for r in complete)
    for result in complete:
        curve = [record.values["val_data_loss"] for record in result.records]
        assert result.best == int(np.argmin(curve)) + 1
        assert result.weights


if keras.backend.backend() == "jax":

    def test_out_of_memory_after_a_rung_loses_no_lane(monkeypatch):
        import jax

        from shrinkage.training.jax_lanes import Lanes

        train, raised = Lanes.train, [0]

        def short(self: Any, state: Any, *rest: Any) -> Any:
            steps = int(np.asarray(state.optimizer[0]).max())
            if state.sums.shape[0] * state.sums.shape[1] > 2 and steps >= 5 * RUNGS[0]:
                raised[0] += 1
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
            return train(self, state, *rest)

        monkeypatch.setattr(Lanes, "train", short)
        found = trained(loop_of("auto", task()))
        monkeypatch.undo()
        expected = trained(loop_of("auto", task(), most=2))
        assert raised[0] == 1
        assert {k: r.state for k, r in found.items()} == {k: r.state for k, r in expected.items()}


@pytest.mark.thorough
def test_half_precision_waits_on_a_rung_too(name, tmp_path):
    if name == "keras":
        pytest.skip("the vectorised loop's state alone can have another type than float32")
    from shrinkage.study.directory import Checkpoints

    def half() -> Any:
        parts = [keras.Input((5,)), layers.Dense(4, "relu", dtype="bfloat16"), layers.Dense(3, "softmax")]
        return keras.Sequential(parts)

    the_task = task(build=half)
    plain = trained(loop_of(name, the_task))
    stored = trained(loop_of(name, the_task, Checkpoints(tmp_path)))
    assert {k: bits(v) for k, v in plain.items()} == {k: bits(v) for k, v in stored.items()}


def test_keras_alone_needs_no_list_of_lanes_without_rungs():
    the_task = task(rungs=())
    assert len(trained(KerasLoop(the_task), LANES[:2])) == 2


def test_each_split_draws_for_itself_and_the_first_as_if_it_were_the_only_one(name):
    lanes = [Lane("l1", None, 0, split) for split in (0, 1, 2)]
    same = task(splits=(SPLIT,) * 3, rungs=(), epochs=1)  # three times the same rows
    found = [bits(result) for result in trained(loop_of(name, same, lanes=lanes), lanes).values()]
    alone = trained(loop_of(name, task(rungs=(), epochs=1), lanes=lanes[:1]), lanes[:1])
    assert len(set(map(str, found))) == 3
    assert str(bits(alone[lanes[0]])) in map(str, found)
