"""The vectorised loop: what Keras's fit finds, and bits that depend on no neighbour, kill or slicing."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from cases import mostly_thorough

if keras.backend.backend() != "jax":
    pytest.skip("many trials in one program need JAX", allow_module_level=True)

import jax

from shrinkage.errors import TrainingError
from shrinkage.recipe import Recipe
from shrinkage.training import jax_loop
from shrinkage.training.checkpoint import Memory
from shrinkage.training.choose import (
    Choice,
    Lowering,
    alternatives,
    can_be_cut,
    first_choice,
    make_loop,
    refusal,
)
from shrinkage.training.jax_lanes import Lanes
from shrinkage.training.jax_loop import JaxLoop
from shrinkage.training.jax_programs import Programs
from shrinkage.training.keras_loop import KerasLoop
from shrinkage.training.objective import resolve_objective
from shrinkage.training.proximal import Proximal
from shrinkage.training.task import Lane, Result, Split, Task

ROWS, EPOCHS, CLASSES = 76, 5, 3
RECIPES = {
    "none": Recipe(""),
    "l2": Recipe("*: kernel = l2(strength)"),
    "mixed": Recipe("head: bias, kernel = l1_l2(strength, 0.5*strength)\nhead: activity = l1(0.01)"),
}
LANES = [Lane("none", None, 0), Lane("l2", 1e-2, 0), Lane("mixed", 1e-2, 0), Lane("l2", 1e-3, 0)]


def dense() -> Any:
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Flatten(),
            layers.Dense(8, "relu"),
            layers.Dense(CLASSES, "softmax", name="head"),
        ]
    )


def conv() -> Any:
    return keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(4, 3, activation="relu"), layers.MaxPooling2D(2),
         layers.Flatten(), layers.Dense(CLASSES, "softmax", name="head")]
    )  # fmt: skip


def normed() -> Any:
    # No bias before the normalization, which would move by rounding errors alone.
    return keras.Sequential(
        [keras.Input((6, 6, 1)), layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization(momentum=0.8),
         layers.ReLU(), layers.GlobalAveragePooling2D(), layers.Dense(CLASSES, "softmax", name="head")]
    )  # fmt: skip


def dropped() -> Any:
    model = dense()
    return keras.Sequential([keras.Input((6, 6, 1)), *model.layers[:2], layers.Dropout(0.5), model.layers[2]])


def task(build: Any = dense, **changes: Any) -> Task:
    """A small classification: 50 rows to train on, so that the last batch is short, and 26 to validate."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, ROWS)
    x = (y[:, None, None, None] + rng.normal(size=(ROWS, 6, 6, 1))).astype("float32")
    split = Split(np.arange(50), np.arange(50, ROWS))
    fields: dict[str, Any] = {
        "build": build, "recipes": RECIPES, "x": x, "y": y, "splits": (split,),
        "objective": None, "optimizer": "sgd", "learning_rate": 0.05,
        "epochs": EPOCHS, "batch_size": 16,
    }  # fmt: skip
    fields |= changes
    fields["objective"] = fields["objective"] or resolve_objective("auto", (), fields["y"], build())
    return Task(**fields)


def trained(loop: Any, lanes: Any = LANES) -> dict[Lane, Result]:
    return {result.lane: result for result in loop.run(lanes, lambda record: None)}


def bits(result: Result) -> Any:
    records = [dict(record.values) for record in result.records]
    return result.state, result.best, records, [w.tobytes() for w in result.weights]


def assert_close(found: dict[Lane, Result], expected: dict[Lane, Result], rel: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for lane, result in expected.items():
        assert (found[lane].state, found[lane].best) == (result.state, result.best)
        for mine, other in zip(found[lane].records, result.records, strict=True):
            assert mine.values.keys() == other.values.keys()
            for name, value in other.values.items():
                # A penalty is the difference of two losses.
                slack = rel * other.values["loss"] if name == "penalty" else 0
                if "accuracy" in name:  # one row may lie on the border
                    slack = 1.01 / len(task().splits[0].validation)
                assert mine.values[name] == pytest.approx(value, rel=rel, abs=slack), (lane, mine.epoch, name)


# --- parity with Keras's fit ------------------------------------------------------------------------------


@pytest.mark.parametrize("build", mostly_thorough((dense, conv, normed), dense))
def test_the_same_curves_as_keras(build):
    lanes = [*LANES, Lane("l2", 1e-2, 1)]
    expected = trained(KerasLoop(task(build)), lanes)
    for rewritten in (True, False):
        choice = Choice(3, lowering=Lowering(rewritten))
        assert_close(trained(JaxLoop(task(build), lanes, choice), lanes), expected)


@pytest.mark.thorough
def test_strengths_of_their_own_are_those_of_a_recipe_that_says_so():
    """One a rule, by ratios: bit by bit the recipe with these numbers, and what Keras's fit finds."""
    rules = "dense: kernel = l2({})\nhead: bias = l1(0.01)\nhead: kernel = l1_l2({}, {})"
    recipes = {
        "open": Recipe(rules.format("strength", "0.5*strength", "strength")),
        "said": Recipe(rules.format(0.03, 0.002, 0.004)),
    }
    lanes = [Lane("open", 1e-2, 0, ratios=(3.0, 0.4)), Lane("said", None, 0), Lane("open", 1e-2, 0)]
    lanes += [Lane("open", 1e-2, 0, ratios=(1.0, 1.0)), Lane("open", 1e-2, 0, ratios=(0.4, 3.0))]

    def build():
        model = dense()
        model.layers[1].name = "dense"
        return model

    the_task = task(build, recipes=recipes)
    found = trained(JaxLoop(the_task, lanes, Choice(len(lanes))), lanes)
    ratios, said, plain, ones, _ = (bits(found[lane]) for lane in lanes)
    assert ratios == said
    assert ones == plain
    assert len({str(bits(result)) for result in found.values()}) == 3
    assert_close(trained(KerasLoop(the_task), lanes), found)


OPTIMIZERS = sorted(
    name
    for name, cls in vars(keras.optimizers).items()
    if isinstance(cls, type)
    and issubclass(cls, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
)


@pytest.mark.thorough
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_curves_with_every_optimizer(name):
    assert len(OPTIMIZERS) >= 13
    the_task = task(optimizer=getattr(keras.optimizers, name)(), learning_rate=None)
    # In one program with other arms; Keras compiles each by itself, so that one has to do.
    found = trained(JaxLoop(the_task, LANES[:3], Choice(3)), LANES[:3])
    mixed = LANES[2]
    assert_close({mixed: found[mixed]}, trained(KerasLoop(the_task), [mixed]))


OPTIONS = {
    "moving average": keras.optimizers.SGD(0.05, use_ema=True, ema_momentum=0.9),
    "average overwrites": keras.optimizers.SGD(
        0.05, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3
    ),
    "accumulation": keras.optimizers.Adam(1e-3, gradient_accumulation_steps=2),
    "clipping": keras.optimizers.SGD(0.05, global_clipnorm=0.1),
    "schedule": keras.optimizers.SGD(keras.optimizers.schedules.ExponentialDecay(0.05, 5, 0.5)),
    "weight decay": keras.optimizers.AdamW(1e-3, weight_decay=0.1),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", list(OPTIONS))
def test_the_same_curves_and_weights_with_every_option(name):
    the_task = task(optimizer=OPTIONS[name], learning_rate=None)
    found = trained(JaxLoop(the_task, LANES[:2], Choice(2)), LANES[:2])
    expected = trained(KerasLoop(the_task), LANES[1:2])
    assert_close({lane: found[lane] for lane in expected}, expected)
    for lane, result in expected.items():
        for mine, other in zip(found[lane].weights, result.weights, strict=True):
            np.testing.assert_allclose(mine, other, rtol=1e-3, atol=1e-5)


SPARSE = {
    "none": Recipe(""),
    "l1": Recipe("*: kernel = l1(strength)"),
    "net": Recipe("*: kernel = l1_l2(strength, strength)"),
    "units": Recipe("Dense: unit = group_lasso(strength)"),
    "both": Recipe("Dense: unit = sparse_group_lasso(0.5*strength, strength)\nDense: bias = l1(0.01)"),
}
PROXIMAL = {
    "adam": keras.optimizers.Adam(0.01),
    "momentum": keras.optimizers.SGD(0.02, momentum=0.9),
    "moving average": keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.9),
    "clipping": keras.optimizers.RMSprop(0.005, clipnorm=0.5),
}


@pytest.mark.thorough
@pytest.mark.parametrize("name", list(PROXIMAL))
def test_the_same_curves_and_zeros_with_proximal_steps(name):
    """In one program whose lanes are charged on weights, on units, or not at all."""
    lanes = [Lane(arm, None if arm == "none" else 0.1, 0) for arm in SPARSE]
    compared = lanes if name == "adam" else lanes[-1:]
    the_task = task(optimizer=Proximal(PROXIMAL[name]), learning_rate=None, recipes=SPARSE)
    found = trained(JaxLoop(the_task, lanes, Choice(5)), lanes)
    expected = trained(KerasLoop(the_task), compared)
    assert_close({lane: found[lane] for lane in compared}, expected, rel=1e-3)
    for lane, result in expected.items():
        zeros = [np.sum(w == 0) for w in result.weights]
        assert [np.sum(w == 0) for w in found[lane].weights] == pytest.approx(zeros, abs=2), lane
        assert (sum(zeros) > 20) == (lane.arm != "none"), (lane, zeros)


@pytest.mark.thorough
def test_a_regression(rng):
    y = rng.normal(size=(ROWS, 2)).astype("float32")
    build = lambda: keras.Sequential([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(2, name="head")])  # noqa: E731
    the_task = task(build, y=y, objective=resolve_objective("auto", ("mae",), y, build()), learning_rate=0.01)
    assert_close(trained(JaxLoop(the_task, LANES, Choice(4))), trained(KerasLoop(the_task)))


@pytest.mark.thorough
def test_weights_of_rows(rng):
    the_task = task(weights=rng.random(ROWS).astype("float32"))
    found = trained(JaxLoop(the_task, LANES[:2], Choice(2)), LANES[:2])
    assert_close(found, trained(KerasLoop(the_task), LANES[:2]))
    unweighted = trained(JaxLoop(task(), LANES[:2], Choice(2)), LANES[:2])
    assert found[LANES[0]].values["loss"] != unweighted[LANES[0]].values["loss"]


SCALED = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())


@pytest.mark.thorough
@pytest.mark.parametrize("optimizer", ["sgd", SCALED])
def test_an_arm_with_a_learning_rate_of_its_own(optimizer):
    found = trained(JaxLoop(task(optimizer=optimizer, rates={"l2": 0.2}), LANES, Choice(4)))
    assert_close(found, trained(KerasLoop(task(optimizer=optimizer, rates={"l2": 0.2}))))
    for lane, rate in ((LANES[1], 0.2), (LANES[0], 0.05)):
        alike = trained(JaxLoop(task(optimizer=optimizer, learning_rate=rate), LANES, Choice(4)))
        assert bits(found[lane]) == bits(alike[lane])


@pytest.mark.thorough
def test_frozen_weights_stay_and_are_not_charged():
    def build() -> Any:
        model = dense()
        model.layers[1].trainable = False
        return model

    found = trained(JaxLoop(task(build), LANES[:2], Choice(2)), LANES[:2])
    assert_close(found, trained(KerasLoop(task(build)), LANES[:2]))
    assert np.array_equal(found[LANES[0]].weights[0], found[LANES[1]].weights[0])


@pytest.mark.thorough
def test_early_stopping_ends_where_keras_does():
    the_task = task(early_stopping=1, learning_rate=0.2, epochs=12)
    lanes = [replace(lane, seed=seed) for lane in LANES for seed in range(3)]
    found, expected = (
        trained(loop, lanes) for loop in (JaxLoop(the_task, lanes, Choice(12, True)), KerasLoop(the_task))
    )
    assert len({len(r.records) for r in expected.values()}) > 1
    assert {lane: (r.best, len(r.records)) for lane, r in found.items()} == {
        lane: (r.best, len(r.records)) for lane, r in expected.items()
    }
    for lane, result in expected.items():
        np.testing.assert_allclose(found[lane].weights[0], result.weights[0], rtol=1e-2, atol=1e-3)


@pytest.mark.thorough
def test_micro_batches_are_the_batch():
    one, cut = (
        trained(JaxLoop(task(conv), LANES, Choice(4, lowering=Lowering(micro=micro)))) for micro in (0, 4)
    )
    assert_close(cut, one, rel=1e-5)
    assert bits(cut[LANES[0]]) != bits(one[LANES[0]])


def test_scores_are_those_of_keras():
    the_task = task()
    loop, other = JaxLoop(the_task, LANES, Choice(4)), KerasLoop(the_task)
    for lane, result in trained(loop).items():
        mine, theirs = (
            each.score(lane, result.weights, the_task.x[50:], the_task.y[50:]) for each in (loop, other)
        )
        assert mine == pytest.approx(theirs, rel=1e-5)
        assert mine["data_loss"] == pytest.approx(result.values["val_data_loss"], rel=1e-6)


# --- bits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", mostly_thorough((dense, conv, dropped), dropped))
def test_a_lanes_bits_depend_on_no_neighbour(build):
    choice = Choice(4)
    loop = JaxLoop(task(build), LANES, choice)
    together = trained(loop)
    for lane in LANES:  # as after a resume, when the others have ended
        assert bits(trained(loop, [lane])[lane]) == bits(together[lane])
    others = [LANES[0], LANES[1], LANES[2], Lane("l2", 7.0, 0)]
    assert bits(trained(JaxLoop(task(build), others, choice), others)[LANES[1]]) == bits(together[LANES[1]])


def test_a_lane_that_diverges_touches_no_other():
    lanes = [LANES[0], Lane("l2", 1e9, 0), LANES[2], LANES[3]]
    found, calm = (
        trained(JaxLoop(task(), lanes, Choice(4)), lanes),
        trained(JaxLoop(task(), LANES, Choice(4))),
    )
    assert found[lanes[1]].state == "diverged"
    assert len(found[lanes[1]].records) < EPOCHS
    for lane in (LANES[0], LANES[2], LANES[3]):
        assert bits(found[lane]) == bits(calm[lane])


def test_dropout_and_order_differ_by_seed_and_by_nothing_else():
    lanes = [Lane("none", None, 0), Lane("l2", 0.0, 0), Lane("none", None, 1)]
    found = trained(JaxLoop(task(dropped), lanes, Choice(2)), lanes)
    weights = [found[lane].weights[0] for lane in lanes]
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-6)
    assert np.abs(weights[0] - weights[2]).max() > 1e-2


def test_how_calls_are_cut_changes_nothing(monkeypatch):
    whole = trained(JaxLoop(task(), LANES, Choice(4)))
    monkeypatch.setattr(jax_loop, "_CALL", 1e-9)
    assert {k: bits(v) for k, v in trained(JaxLoop(task(), LANES, Choice(4))).items()} == {
        k: bits(v) for k, v in whole.items()
    }


def test_rows_that_come_piece_by_piece_change_nothing(monkeypatch):
    whole = trained(JaxLoop(task(), LANES, Choice(4)))
    monkeypatch.setattr(jax_loop, "memory", lambda: 0)
    monkeypatch.setattr(jax_loop, "_PIECE", 2 * 16 * (36 * 4 + 8))  # two batches
    assert {k: bits(v) for k, v in trained(JaxLoop(task(), LANES, Choice(4))).items()} == {
        k: bits(v) for k, v in whole.items()
    }


@pytest.mark.parametrize("patience", [None, pytest.param(2, marks=pytest.mark.thorough)])
def test_a_kill_loses_the_epochs_since_the_checkpoint_and_no_bit(monkeypatch, patience):
    monkeypatch.setattr(jax_loop, "_CHECKPOINT", 0.0)
    the_task, shelf, keep = task(dropped, early_stopping=patience), Memory(), lambda stored, line: None
    whole = trained(JaxLoop(the_task, LANES, Choice(4)))

    class Killed(BaseException):
        pass

    first = 1
    for epoch in (2, 4):

        def kill(record: Any, epoch: int = epoch, first: int = first) -> None:
            assert record.epoch >= first
            if record.epoch == epoch:
                raise Killed

        loop = JaxLoop(the_task, LANES)
        loop.decide(Choice(4).to_json(), keep, shelf)
        with pytest.raises(Killed):
            list(loop.run(LANES, kill))
        assert len(shelf) == 1
        first = epoch  # the checkpoint of the epoch before it
    seen: list[int] = []
    loop = JaxLoop(the_task, LANES)
    loop.decide(Choice(4).to_json(), keep, shelf)
    found = {r.lane: r for r in loop.run(LANES, lambda record: seen.append(record.epoch))}
    assert min(seen) == 4
    assert {k: bits(v) for k, v in found.items()} == {k: bits(v) for k, v in whole.items()}
    assert not shelf


# --- side by side ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [None, pytest.param(2, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("rungs", [(), (2, 4)])
def test_programs_side_by_side_find_the_same_bits(rungs, patience):
    the_task = task(dropped, early_stopping=patience, rungs=rungs)
    lanes = [Lane("l2", 10.0**-k, seed) for k in range(1, 5) for seed in range(2)]
    found = []
    for at_once in (1, 3):
        told: dict[Lane, list[int]] = {}

        def tell(record: Any, told: dict[Lane, list[int]] = told) -> None:
            assert threading.current_thread() is threading.main_thread()
            told.setdefault(record.lane, []).append(record.epoch)

        loop = JaxLoop(the_task, lanes, Choice(1, at_once=at_once))
        results = list(loop.run(lanes, tell))
        assert told == {r.lane: [record.epoch for record in r.records] for r in results}
        found.append({r.lane: bits(r) for r in results})
    assert found[0] == found[1]


def test_a_kill_of_programs_side_by_side_loses_no_bit(monkeypatch):
    monkeypatch.setattr(jax_loop, "_CHECKPOINT", 0.0)
    choice, shelf = Choice(1, at_once=2), Memory()
    whole = trained(JaxLoop(task(), LANES, choice))
    left = list(LANES)
    found: dict[Lane, Any] = {}
    for records in (1, 3, 6, 10, 1000):
        allowed = iter(range(records))

        def count(record: Any, allowed: Any = allowed) -> None:
            if next(allowed, None) is None:
                raise KeyboardInterrupt

        loop = JaxLoop(task(), LANES)
        loop.decide(choice.to_json(), lambda stored, line: None, shelf)
        with contextlib.suppress(KeyboardInterrupt):
            for result in loop.run(left, count):
                found[result.lane] = bits(result)
        left = [lane for lane in LANES if lane not in found]
        assert threading.active_count() == 1
    assert found == {lane: bits(result) for lane, result in whole.items()}


def test_one_program_is_traced_once_for_all_threads(monkeypatch):
    staged, stage = list[Any](), Programs._stage

    def counted(self: Any, key: Any, *rest: Any) -> None:
        staged.append((key[0], threading.current_thread() is threading.main_thread()))
        stage(self, key, *rest)

    monkeypatch.setattr(Programs, "_stage", counted)
    loop = JaxLoop(task(), LANES, Choice(1, at_once=4))
    trained(loop)
    (lanes,) = loop._made.values()
    assert sorted(key[0] for key in lanes._programs._made) == ["results", "test", "train", "train"]
    assert all(main for _, main in staged)


def test_out_of_memory_first_runs_fewer_programs_side_by_side(monkeypatch):
    train, said = Lanes.train, []

    def short(self: Any, state: Any, *rest: Any) -> Any:
        if threading.active_count() > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
        return train(self, state, *rest)

    monkeypatch.setattr(Lanes, "train", short)
    loop = JaxLoop(task(), LANES, Choice(1, at_once=4))
    loop.decide(None, lambda stored, line: said.append((stored["at_once"], stored["lanes"])))
    results = list(loop.run(LANES, lambda record: None))
    assert sorted(map(str, (r.lane for r in results))) == sorted(map(str, LANES))
    assert said == [(4, 1), (2, 1), (1, 1)]


# --- memory, errors, programs ---------------------------------------------------------------------------


def test_out_of_memory_halves_the_cohort_and_loses_no_lane(monkeypatch):
    train, said = Lanes.train, []

    def short(self: Any, state: Any, *rest: Any) -> Any:
        if state.sums.shape[1] > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")
        return train(self, state, *rest)

    monkeypatch.setattr(Lanes, "train", short)
    loop = JaxLoop(task(), LANES, Choice(4))
    loop.decide(None, lambda stored, line: said.append((stored["lanes"], line)))
    results = list(loop.run(LANES, lambda record: None))
    assert sorted(map(str, (r.lane for r in results))) == sorted(map(str, LANES))
    assert said == [(4, ""), (2, f"Out of memory: going on with {loop.choice}.")]
    monkeypatch.undo()
    expected = trained(JaxLoop(task(), LANES, Choice(2)))
    assert {r.lane: bits(r) for r in results} == {k: bits(v) for k, v in expected.items()}


def test_one_lane_that_is_too_large_is_one_sentence(monkeypatch):
    def short(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte.")

    monkeypatch.setattr(Lanes, "train", short)
    with pytest.raises(TrainingError, match="use a smaller batch"):
        trained(JaxLoop(task(), LANES, Choice(4)))


def test_other_errors_pass(monkeypatch):
    def broken(*_: Any) -> Any:
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(Lanes, "train", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="something else"):
        trained(JaxLoop(task(), LANES, Choice(4)))


def test_one_trace_serves_all_cohorts_and_epochs():
    loop = JaxLoop(task(), [Lane("l2", 10.0**-k, seed) for k in range(4) for seed in range(3)], Choice(4))
    trained(loop, loop.lanes)
    (lanes,) = loop._made.values()
    names = [key[0] for key in lanes._programs._made]
    assert sorted(names) == ["results", "test", "train", "train"]  # full batches, and the short last one


# --- which loop, and how --------------------------------------------------------------------------------


class Own(keras.Sequential):
    def train_step(self, *args: Any) -> Any:
        return super().train_step(*args)


def test_what_it_can_not_train_goes_to_keras_with_the_reason():
    def own() -> Any:
        return Own([keras.Input((6, 6, 1)), layers.Flatten(), layers.Dense(CLASSES, name="head")])

    assert refusal(dense()) is None
    assert "train_step of its own" in str(refusal(own()))
    loop = make_loop(task(own), own(), LANES, "auto")
    assert type(loop) is KerasLoop
    assert "train_step of its own" in loop.decide(None, lambda stored, line: None)
    with pytest.raises(TrainingError, match='Write loop = "auto"'):
        make_loop(task(own), own(), LANES, "jax")
    assert type(make_loop(task(), dense(), LANES, "keras")) is KerasLoop
    assert type(make_loop(task(), dense(), LANES, "auto")) is JaxLoop


def test_a_choice_is_stored_and_read():
    choice = Choice(6, True, Lowering(False, 25), at_once=3)
    assert Choice.from_json(choice.to_json()) == choice
    before = {name: value for name, value in choice.to_json().items() if name != "at_once"}
    assert Choice.from_json(before) == replace(choice, at_once=1)
    loop = JaxLoop(task(), LANES)
    assert str(choice) in loop.decide(choice.to_json(), lambda stored, line: None)
    assert loop.choice == choice


def test_long_training_is_measured_and_the_fastest_way_kept(monkeypatch):
    tried: list[Choice] = []

    def timed(self: Any, choice: Choice) -> float:
        tried.append(choice)
        return 1.0 if choice.lowering.rewritten else 0.5 / choice.lanes

    monkeypatch.setattr(JaxLoop, "_timed", timed)
    loop = JaxLoop(task(conv), LANES)
    kept: list[Any] = []
    loop.decide(None, lambda stored, line: kept.append(stored))
    assert loop.choice == Choice.from_json(kept[0])
    assert (loop.choice.lanes, loop.choice.lowering) == (max(c.lanes for c in tried), Lowering(False))
    assert {(c.lanes, c.lowering.rewritten) for c in tried} >= {(1, True), (1, False), (4, True), (4, False)}


def test_short_training_is_not_measured(monkeypatch):
    tried: list[Choice] = []
    monkeypatch.setattr(JaxLoop, "_timed", lambda self, choice: tried.append(choice) or 1e-6)
    assert JaxLoop(task(conv), LANES).choice == tried[0]
    assert len(tried) == 1


def test_measuring_is_real():
    loop = JaxLoop(task(conv), LANES)
    for at_once in (1, 2):
        assert 0 < loop._timed(Choice(4, at_once=at_once)) < 1


def test_as_many_lanes_as_the_caches_hold():
    lanes = [Lane("l2", 10.0**-k, 0) for k in range(40)]
    small, large = (first_choice(task(), lanes, dense(), 0, held, 2**32, 1) for held in (1000, 2**30))
    assert (small.lanes, large.lanes) == (16, 1)
    assert first_choice(task(), lanes, dense(), 0, 1000, 2**32, 0).lanes == 40
    assert first_choice(task(), lanes, dense(), 0, 1000, 4 * 7000, 0).lanes == 7


def test_processors_share_caches_memory_and_lanes():
    lanes = [Lane("l2", 10.0**-k, 0) for k in range(40)]

    def first(count: int, held: int, room: int, cores: int, alone: bool = False) -> tuple[int, int]:
        choice = first_choice(task(), lanes[:count], dense(), 0, held, room, cores, alone)
        return choice.at_once, choice.lanes

    assert first(40, 1000, 2**32, 2) == (2, 10)  # four programs
    assert first(40, 1000, 2**32, 8) == (8, 3)
    assert first(3, 1000, 2**32, 8) == (3, 1)
    assert first(40, 2**21, 2**32, 2) == (2, 4)  # 16 MiB of caches
    assert first(40, 1000, 4 * 3000, 8) == (3, 1)  # memory for three
    assert first(40, 1000, 2**32, 2, alone=True) == (2, 1)


def test_memory_is_the_devices_own_where_it_has_some(monkeypatch):
    class Device:
        def memory_stats(self) -> Any:
            return {"bytes_limit": 4000}

    whole = jax_loop.memory()
    assert 2**26 < whole < 2**45
    monkeypatch.setattr(jax, "devices", lambda: [Device()])
    assert jax_loop.memory() == 1000


def test_an_option_that_xla_does_not_know_is_left_out(monkeypatch):
    plain = trained(JaxLoop(task(), LANES, Choice(4)))
    monkeypatch.setattr(Lowering, "options", {"xla_cpu_no_such_option": True})
    assert {k: bits(v) for k, v in trained(JaxLoop(task(), LANES, Choice(4))).items()} == {
        k: bits(v) for k, v in plain.items()
    }


def test_alternatives_are_others():
    lanes = [Lane("l2", 10.0**-k, 0) for k in range(40)]
    small = first_choice(task(), lanes, dense(), 0, 1000, 2**32, 1)
    assert all(c != small for c in alternatives(small, lanes, 0))


@pytest.mark.parametrize(
    ("build", "loss", "can"),
    [
        (conv, "sparse_categorical_crossentropy", True),
        (dropped, "sparse_categorical_crossentropy", True),
        (normed, "sparse_categorical_crossentropy", False),
        (conv, "circle", False),
    ],
)
def test_only_what_is_a_mean_over_rows_is_cut(build, loss, can):
    the_task = task(build)
    assert can_be_cut(replace(the_task, objective=replace(the_task.objective, loss=loss)), build()) is can
