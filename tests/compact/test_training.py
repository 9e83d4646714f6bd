"""Training goes on where it was: compiled alike, optimizer state cut like its weights, penalties kept."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

import shrinkage
from cases import mostly_thorough
from shrinkage.compact import compact
from shrinkage.penalties import L1, LiveStrength
from shrinkage.recipe import charges

layers, optimizers = keras.layers, keras.optimizers

KEPT = [0, 2, 3, 5]


@pytest.fixture
def model(randomize, silence, deafen) -> keras.Model:
    """Of six hidden units 1 and 4 are dead, and stay so in training: nothing goes in or out."""
    hidden, head = layers.Dense(6, activation="relu", name="hidden"), layers.Dense(2, name="head")
    model = randomize(keras.Sequential([keras.Input((4,)), hidden, head], name="small"))
    silence(hidden, [1, 4])
    deafen(head, [1, 4])
    return model


@pytest.fixture
def data(rng) -> tuple[np.ndarray, np.ndarray]:
    return rng.normal(size=(32, 4)).astype("float32"), rng.normal(size=(32, 2)).astype("float32")


def cut(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays as the model's four weights, without units 1 and 4."""
    kernel, bias, head, last = (np.array(a) for a in arrays)
    return [kernel[:, KEPT], bias[KEPT], head[KEPT], last]


def step(optimizer: Any, gradients: list[np.ndarray]) -> None:
    made = [keras.ops.convert_to_tensor(g) for g in gradients]
    if keras.backend.backend() != "jax" or not isinstance(optimizer, optimizers.LossScaleOptimizer):
        optimizer.apply(made)
        return
    # On JAX this one can take no step but in a compiled function.
    variables = (optimizer.variables, optimizer._trainable_variables)
    state, weights = ([v.value for v in group] for group in variables)
    weights, state = optimizer.stateless_apply(state, made, weights)
    for group, values in zip(variables, (state, weights), strict=True):
        for variable, value in zip(group, values, strict=True):
            variable.assign(value)


def gradients(rng: np.random.Generator) -> list[np.ndarray]:
    """Random ones; none for what is dead."""
    made = [rng.normal(size=s).astype("float32") for s in ((4, 6), (6,), (6, 2), (2,))]
    made[0][:, [1, 4]] = made[1][[1, 4]] = made[2][[1, 4]] = 0
    return made


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: optimizers.SGD(0.1),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "Adam": lambda: optimizers.Adam(0.1, amsgrad=True),
    "RMSprop": lambda: optimizers.RMSprop(0.1, momentum=0.5, centered=True),
    "Nadam": lambda: optimizers.Nadam(0.1),
    "Ftrl": lambda: optimizers.Ftrl(0.1),
    "ScheduleFreeAdamW": lambda: optimizers.ScheduleFreeAdamW(0.1, warmup_steps=2),
    "a schedule": lambda: optimizers.Adam(optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)),
    "an average": lambda: optimizers.Adam(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=3),
    "accumulation": lambda: optimizers.Adam(0.1, gradient_accumulation_steps=2),
    "LossScale": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.1), initial_scale=2.0),
    "Multi": lambda: optimizers.MultiOptimizer(
        optimizers.OptimizerMap(
            optimizers.SGD(0.1, momentum=0.9), {"hidden/.*|.*/hidden/.*": optimizers.Adam(0.1)}
        )
    ),
}


@pytest.mark.parametrize(
    "name", mostly_thorough(OPTIMIZERS, "Adam", "ScheduleFreeAdamW", "accumulation", "Multi")
)
def test_the_next_steps_are_those_of_the_original(name, model, rng):
    model.compile(OPTIMIZERS[name](), "mse")
    model.optimizer.build(model.trainable_variables)
    past, future = [gradients(rng) for _ in range(3)], [gradients(rng) for _ in range(2)]
    for made in past:
        step(model.optimizer, made)
    smaller, receipt = compact(model, measure=False)
    assert smaller.get_layer("hidden").units == 4
    assert receipt.notes == ()
    assert type(smaller.optimizer) is type(model.optimizer)
    for made in future:
        step(model.optimizer, made)
        step(smaller.optimizer, cut(made))
        for old, new in zip(cut(model.get_weights()), smaller.get_weights(), strict=True):
            np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)
    assert int(smaller.optimizer.iterations) == int(model.optimizer.iterations)


def test_adafactor_keeps_its_second_moments(model, rng, array):
    """And steps by as much of a weight's size as before, which is larger where the zeros are gone."""
    model.compile(optimizers.Adafactor(0.1, clip_threshold=1e9, relative_step=False), "mse")
    model.optimizer.build(model.trainable_variables)
    for _ in range(3):
        step(model.optimizer, gradients(rng))
    smaller, receipt = compact(model, measure=False)
    assert receipt.notes == ()
    before, after, made = model.get_weights(), smaller.get_weights(), gradients(rng)
    step(model.optimizer, made)
    step(smaller.optimizer, cut(made))
    for old, new in zip(cut([array(v) for v in model.optimizer._v]), smaller.optimizer._v, strict=True):
        np.testing.assert_allclose(array(new), old, rtol=1e-5)
    moves = zip(cut(before), cut(model.get_weights()), after, smaller.get_weights(), before, strict=True)
    for old, then, new, now, whole in moves:
        size = np.sqrt(np.mean(np.square(new)) / np.mean(np.square(whole)))
        np.testing.assert_allclose(now - new, size * (then - old), rtol=1e-4, atol=1e-7)


def test_what_is_excluded_from_weight_decay_stays_excluded(model, rng):
    optimizer = optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("head").kernel], var_names=["bias"])
    model.compile(optimizer, "mse")
    optimizer.build(model.trainable_variables)
    smaller, _ = compact(model, measure=False)
    nothing = [np.zeros(w.shape, "float32") for w in smaller.get_weights()]
    before = smaller.get_weights()
    step(smaller.optimizer, nothing)
    moved = [not np.array_equal(a, b) for a, b in zip(before, smaller.get_weights(), strict=True)]
    assert moved == [True, False, False, False]


def test_training_goes_on(model, data):
    """The losses of the next epoch, metrics included, are those of the original."""
    x, y = data
    model.compile(
        "adam", "mse", metrics=["mae", keras.metrics.MeanSquaredError(name="other")], weighted_metrics=[]
    )
    model.fit(x, y, epochs=1, batch_size=16, verbose=0)
    smaller, _ = compact(model, data, measure=False)
    again = [m.fit(x, y, epochs=2, batch_size=16, verbose=0, shuffle=False).history for m in (model, smaller)]
    assert again[0].keys() == again[1].keys() == {"loss", "mae", "other"}
    for name in again[0]:
        np.testing.assert_allclose(again[0][name], again[1][name], rtol=1e-5)


def test_an_untrained_model_is_compiled_and_not_trained(model):
    assert not compact(model, measure=False)[0].compiled
    model.compile(optimizers.SGD(0.25), keras.losses.MeanSquaredError(), loss_weights=[2.0])
    smaller, receipt = compact(model, measure=False)
    assert receipt.notes == ()
    assert smaller.compiled
    assert float(smaller.optimizer.learning_rate) == 0.25
    assert not smaller.optimizer.built


def test_a_users_loss_need_not_be_registered(model, data):
    def loss(y, prediction):
        return keras.ops.mean((y - prediction) ** 4)

    model.compile("sgd", loss)
    smaller, _ = compact(model, measure=False)
    x, y = data
    assert model.evaluate(x, y, verbose=0) == pytest.approx(smaller.evaluate(x, y, verbose=0), rel=1e-5)


def test_what_can_not_be_compiled_again_is_noted(model):
    class Schedule(optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.1

    model.compile(optimizers.SGD(Schedule()), "mse")
    smaller, receipt = compact(model, measure=False)
    assert not smaller.compiled
    assert receipt.notes[0].startswith("Not compiled, since its parts can't be made anew:")


class Wrapper(optimizers.Optimizer):
    """As this package's optimizers wrap one of Keras's."""

    def __init__(self, inner: Any) -> None:
        super().__init__(0.0)
        self.inner = inner

    def unwrap(self) -> Any:
        return self.inner


def test_a_wrapped_optimizer_is_taken_out_of_its_wrapper(model, rng, array):
    inner = optimizers.Adam(0.1)
    model.compile(Wrapper(inner), "mse")
    inner.build(model.trainable_variables)
    step(inner, gradients(rng))
    smaller, receipt = compact(model, measure=False)
    assert receipt.notes == ("Compiled with the optimizer inside Wrapper, without the latter.",)
    assert type(smaller.optimizer) is type(inner)
    np.testing.assert_array_equal(array(smaller.optimizer._velocities[1]), array(inner._velocities[1])[KEPT])


@pytest.mark.parametrize("average", [False, True])
def test_a_bias_that_is_new_starts_anew(average, randomize, silence, rng, array):
    """And a moving average of the weights holds what was folded as well."""
    hidden, head = (
        layers.Dense(6, activation="tanh", name="hidden"),
        layers.Dense(2, use_bias=False, name="head"),
    )
    model = randomize(keras.Sequential([keras.Input((4,)), hidden, head]))
    silence(hidden, [1], bias=0.5)
    model.compile(optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1, use_ema=average), "mse")
    model.optimizer.exclude_from_weight_decay(var_names=["bias"])
    model.optimizer.build(model.trainable_variables)
    smaller, receipt = compact(model, measure=False)
    path = smaller.get_layer("head").bias.path
    assert receipt.notes == (
        "Layers that have a bias now, for constants: head.",
        f"The optimizer's momentums of {path} start anew.",
    )
    assert not smaller.optimizer._use_weight_decay(smaller.get_layer("head").bias)
    if average:
        last = smaller.optimizer._model_variables_moving_average[-1]
        np.testing.assert_array_equal(array(last), array(smaller.get_layer("head").bias))


def test_a_moving_average_is_folded_too(randomize, silence, rng, array):
    hidden, head = layers.Dense(6, activation="tanh", name="hidden"), layers.Dense(2, name="head")
    model = randomize(keras.Sequential([keras.Input((4,)), hidden, head]))
    silence(hidden, [1], bias=0.5)
    model.compile(optimizers.SGD(0.0, use_ema=True), "mse")
    model.optimizer.build(model.trainable_variables)
    step(model.optimizer, [np.zeros(w.shape, "float32") for w in model.get_weights()])  # average = weights
    smaller, _ = compact(model, measure=False)
    for average, weight in zip(
        smaller.optimizer._model_variables_moving_average, smaller.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(array(average), array(weight), rtol=1e-6)


def test_states_of_dropout_and_statistics_follow(model, randomize, rng):
    x = keras.Input((4,))
    # Without a seed Keras's dropout draws from torch's own generator there, and not from its state.
    y = layers.Dropout(0.5, seed=0, name="drop")(layers.Dense(6, name="a")(x))
    model = randomize(keras.Model(x, layers.Dense(2)(y)))
    batch = rng.normal(size=(8, 4)).astype("float32")
    model(batch, training=True)
    smaller, _ = compact(model, measure=False)
    # Masks are drawn from the same state.
    np.testing.assert_array_equal(
        *(np.asarray(keras.ops.convert_to_numpy(m(batch, training=True))) for m in (model, smaller))
    )


# --- penalties ----------------------------------------------------------------------------------------------


def charged(model: Any) -> dict[str, Any]:
    return {charge.place: charge.regularizer for charge in charges(model)}


@pytest.mark.thorough
def test_penalties_stay_in_force_and_the_file_is_kerass(model, tmp_path, run_python, data, array):
    """Live strengths become what they are now; the config holds Keras's own objects."""
    shrinkage.apply(
        model, "hidden: kernel = l1(0.1)\nhidden: bias = l1_l2(0.1, 0.2)\nhead: activity = l2(0.5)"
    )
    live = LiveStrength(0.25)
    model.get_layer("head").kernel.regularizer = L1(0.0).bind(live)
    smaller, receipt = compact(model, measure=False)
    assert receipt.notes == ()
    found = charged(smaller)
    assert {place: str(r) for place, r in found.items() if "activity" not in place} == {
        "hidden/kernel": "l1(0.1)",
        "hidden/bias": "l1_l2(0.1, 0.2)",
        "head/kernel": "l1(0.25)",
    }
    x, _ = data
    smaller(x), model(x)
    assert float(sum(smaller.losses)) == pytest.approx(float(sum(model.losses)), rel=1e-5)
    smaller.compile("adam", "mse")
    smaller.save(tmp_path / "small.keras")
    np.save(tmp_path / "x.npy", x)
    code = """
import sys
import keras, numpy as np
model = keras.models.load_model(sys.argv[1] + "/small.keras")
assert "shrinkage" not in sys.modules
print(type(model.get_layer("hidden").kernel_regularizer), len(model.losses))
np.save(sys.argv[1] + "/y.npy", keras.ops.convert_to_numpy(model(np.load(sys.argv[1] + "/x.npy"))))
"""
    assert run_python(code, tmp_path).split()[:2] == ["<class", "'keras.src.regularizers.regularizers.L1'>"]
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), array(smaller(x)), rtol=1e-6)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore:In force, but the layer's config has no place")
def test_what_was_trained_to_zero_loads_where_there_is_only_keras(tmp_path, run_python, data, array):
    x, _ = data
    y = np.abs(x[:, :2])
    keras.utils.set_random_seed(0)
    hidden, head = layers.Dense(16, "relu", name="hidden"), layers.Dense(2, name="head")
    model = keras.Sequential([keras.Input((4,)), hidden, head])
    shrinkage.apply(model, "hidden: unit = group_lasso(0.02)")
    for frozen, epochs in ((False, 20), (True, 2)):
        model.compile(shrinkage.Proximal(optimizers.Adam(0.05), freeze_support=frozen), "mse")
        model.fit(x, y, epochs=epochs, verbose=0)
    smaller, _ = compact(model, x, measure=False)
    units = smaller.get_layer("hidden").units
    assert 1 < units < 16
    smaller.save(tmp_path / "small.keras")
    np.savez(tmp_path / "data.npz", x=x, y=y)
    code = """
import sys
sys.modules["shrinkage"] = None  # as where it is not installed
import keras, numpy as np
model, data = keras.models.load_model(sys.argv[1] + "/small.keras"), np.load(sys.argv[1] + "/data.npz")
np.save(sys.argv[1] + "/found.npy", model.predict(data["x"], verbose=0))
model.fit(data["x"], data["y"], verbose=0)
print(model.get_layer("hidden").units, int(model.optimizer.iterations))
"""
    assert run_python(code, tmp_path).split() == [str(units), "3"]
    found = np.load(tmp_path / "found.npy")
    np.testing.assert_allclose(found, array(model(x)), rtol=1e-5, atol=1e-5)


class Own(keras.regularizers.Regularizer):
    """A penalty of the user's own, which Keras could not load."""

    def __call__(self, w):
        return keras.ops.sum(w**4)

    def get_config(self):
        return {}


def test_penalties_that_a_file_for_keras_alone_can_not_hold_are_dropped(randomize, tmp_path):
    kernels = [Own(), keras.regularizers.OrthogonalRegularizer(0.5)]
    made = [layers.Dense(3, kernel_regularizer=r, name=n) for n, r in zip("ab", kernels, strict=True)]
    model = randomize(
        keras.Sequential([keras.Input((3,)), *made, layers.Dense(2, activity_regularizer=Own())])
    )
    smaller, receipt = compact(model, measure=False)
    assert charged(smaller) == {"b/kernel": kernels[1]}
    assert [note.partition(" was dropped")[0] for note in receipt.notes] == [
        "The penalty Own on a/kernel",
        f"The penalty Own on {model.layers[-1].name} (activity)",
    ]
    smaller.save(tmp_path / "small.keras")
    assert keras.models.load_model(tmp_path / "small.keras").layers[1].kernel_regularizer.factor == 0.5


def test_penalties_on_whole_units(model, data):
    """A sum over weights is charged weight by weight, as Keras can; a norm can't be."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shrinkage.apply(model, "hidden: unit = l2(0.1)\nhead: unit = group_lasso(0.1)")
    smaller, receipt = compact(model, measure=False)
    assert {place: str(r) for place, r in charged(smaller).items()} == {
        "hidden/kernel": "l2(0.1)",
        "hidden/bias": "l2(0.1)",
    }
    (note,) = receipt.notes
    assert note.startswith("The penalty group_lasso(0.1) on head/unit was dropped")
    shrinkage.strip(model)
    shrinkage.apply(model, "hidden: kernel, bias = l2(0.1)")
    assert float(sum(smaller.losses)) == pytest.approx(float(sum(model.losses)), rel=1e-5)


def test_a_penalty_on_an_output_in_half_precision_is_dropped(half_policy, randomize):
    """Keras's own formula overflows there."""
    model = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, dtype="float32")])
    shrinkage.apply(randomize(model), "a: kernel, activity = l2(0.1)")
    smaller, receipt = compact(model, measure=False)
    assert list(charged(smaller)) == ["a/kernel"]
    assert receipt.notes == (
        "The penalty l2(0.1) on a (activity) was dropped: a file for Keras alone can't hold it.",
    )


def test_inside_layers_that_stay_whole_penalties_stay_too(randomize):
    x = keras.Input((5, 4))
    y = layers.Bidirectional(layers.LSTM(3, kernel_regularizer="l2"))(x)
    y = layers.MultiHeadAttention(1, 2, name="attend")(layers.Reshape((3, 2))(y), layers.Reshape((3, 2))(y))
    model = randomize(keras.Model(x, layers.Dense(2)(layers.Flatten()(y))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shrinkage.apply(model, "attend: kernel = l1(0.1)\nBidirectional: recurrent_kernel = l2(0.5)")
    smaller, receipt = compact(model, measure=False)
    assert receipt.notes == ("Multiply-accumulates are not counted for Bidirectional, MultiHeadAttention.",)
    assert [(c.place, c.penalty) for c in charges(smaller)] == [(c.place, c.penalty) for c in charges(model)]
