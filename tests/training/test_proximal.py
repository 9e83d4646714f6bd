"""Proximal: every optimizer reaches the minimum of a lasso, exact zeros included; and is what it wraps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops, optimizers

import shrinkage
from shrinkage import L1, L1L2, L2, GroupLasso, Proximal
from shrinkage.errors import ModelError
from shrinkage.penalties import Penalty
from shrinkage.training.keras_loop import make_optimizer

# --- a lasso whose solution is known ------------------------------------------------------------------------

STRENGTH = 0.1


def lasso(outputs: int = 1, strength: float = STRENGTH, l2: float = 0.0, seed: int = 0):
    """Return (A, B, solution): minimise ½ tr(WᵀAW) − tr(BᵀW) + strength Σ|W| + l2 ΣW², by iterated proxes."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(200, 20))
    true = np.zeros((20, outputs))
    true[:5] = rng.choice([-1, 1], (5, outputs)) * rng.uniform(0.5, 2, (5, outputs))
    a, b = x.T @ x / len(x), x.T @ (x @ true + 0.1 * rng.normal(size=(200, outputs))) / len(x)
    w, step = np.zeros_like(true), 1 / np.linalg.eigvalsh(a).max()
    for _ in range(5000):
        w = w - step * (a @ w - b)
        w = np.sign(w) * np.maximum(np.abs(w) - step * strength, 0) / (1 + 2 * step * l2)
    return a, b, w


def trained(
    optimizer: Any, penalty: Penalty, a: np.ndarray, b: np.ndarray, steps: int, at: Any = None
) -> np.ndarray:
    """Return the weight after ``steps`` compiled updates by the gradient of objective, kink and all."""
    start = np.random.default_rng(1).normal(size=b.shape) if at is None else at
    weight = keras.Variable(start.astype("float32"))
    weight.regularizer = penalty
    optimizer.build([weight])
    a, b = a.astype("float32"), b.astype("float32")

    def gradient(w: Any) -> Any:
        smooth = ops.add(ops.subtract(ops.matmul(a, w), b), penalty.slope(w))
        return smooth + (2 * penalty.l2 * w if isinstance(penalty, L1L2) else 0)

    _loop(optimizer, weight, gradient, steps)
    optimizer.finalize_variable_values([weight])
    return np.array(ops.convert_to_numpy(weight), "float64")


def _loop(optimizer: Any, weight: Any, gradient: Any, steps: int) -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function
        def run() -> None:
            for _ in tf.range(steps):
                scale = optimizer.scale_loss(tf.constant(1.0))
                optimizer.apply([scale * gradient(weight.value)], [weight])

        run()
        return
    if keras.backend.backend() == "torch":
        import torch

        with torch.no_grad():
            for _ in range(steps):
                optimizer.apply([optimizer.scale_loss(1.0) * gradient(weight.value)], [weight])
        return
    import jax

    def step(carry: Any, _: Any) -> Any:
        w, state = carry
        with keras.StatelessScope(state_mapping=list(zip(optimizer.variables, state, strict=True))):
            scale = optimizer.scale_loss(1.0)
        (w,), state = optimizer.stateless_apply(state, [scale * gradient(w)], [w])
        return (w, list(state)), None

    state = [v.value for v in optimizer.variables]
    (w, state), _ = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length=steps))(
        (weight.value, state)
    )
    for variable, value in zip([weight, *optimizer.variables], [w, *state], strict=True):
        variable.assign(value)


class Kind(NamedTuple):
    """An optimizer, a learning rate at which it converges, and how many steps that takes."""

    cls: Any
    rate: float
    steps: int = 3000
    own: Mapping[str, dict[str, Any]] = MappingProxyType({})


MOMENTUM = {"momentum": {"momentum": 0.9}}
KINDS = {
    "SGD": Kind(optimizers.SGD, 0.05, 2000, {**MOMENTUM, "nesterov": {"momentum": 0.9, "nesterov": True}}),
    # Centered, its steps grow without bound where the gradient settles, which a larger epsilon prevents.
    "RMSprop": Kind(
        optimizers.RMSprop, 0.003, 4000, {**MOMENTUM, "centered": {"centered": True, "epsilon": 1e-3}}
    ),
    "Adam": Kind(optimizers.Adam, 0.01, 3000, {"amsgrad": {"amsgrad": True}}),
    "AdamW": Kind(optimizers.AdamW, 0.01, 3000, {"amsgrad": {"amsgrad": True}}),
    "Nadam": Kind(optimizers.Nadam, 0.01),
    "Adamax": Kind(optimizers.Adamax, 0.01),
    "Adagrad": Kind(optimizers.Adagrad, 0.5),
    "Adadelta": Kind(optimizers.Adadelta, 1.0, 6000),
    "Adafactor": Kind(optimizers.Adafactor, 0.05),
    "Lamb": Kind(optimizers.Lamb, 0.01),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    # Less than √5 · STRENGTH, the least norm of the data gradient at the solution: clipping never ends.
    "clipnorm": {"clipnorm": 0.2},
    "clipvalue": {"clipvalue": 0.08},
    "global_clipnorm": {"global_clipnorm": 0.2},
    "accumulation": {"gradient_accumulation_steps": 2},
    "schedule": {},
    "EMA": {"use_ema": True, "ema_momentum": 0.9},
    "EMA overwriting": {"use_ema": True, "ema_momentum": 0.9, "ema_overwrite_frequency": 7},
    "weight decay": {"weight_decay": 2e-6},  # weak: it moves the solution
    "loss scale": {},
}
# Every run of the tests takes all optimizers plainly and all options of two; the thorough ones take the rest.
RUNS = [
    pytest.param(
        name, option, marks=() if option == "plain" or name in ("SGD", "Adam") else pytest.mark.thorough
    )
    for name, kind in KINDS.items()
    for option in itertools.chain(OPTIONS, kind.own)
]


def made(name: str, option: str) -> tuple[Any, int]:
    """Return an optimizer with an option, and how many steps it needs."""
    kind = KINDS[name]
    given = {**OPTIONS, **kind.own}[option]
    steps = kind.steps * given.get("gradient_accumulation_steps", 1)
    rate: Any = kind.rate
    if option == "schedule":
        rate = optimizers.schedules.ExponentialDecay(2 * rate, steps, 0.1)
    if name == "AdamW":
        given = {"weight_decay": 0.0, **given}
    optimizer = kind.cls(rate, **given)
    return (optimizers.LossScaleOptimizer(optimizer) if option == "loss scale" else optimizer), steps


@pytest.mark.parametrize(("name", "option"), RUNS)
def test_every_optimizer_reaches_the_minimum_of_a_lasso(name, option):
    """The residual is below a thousandth of the strength, and the support is that of the solution."""
    a, b, solution = lasso()
    optimizer, steps = made(name, option)
    found = trained(Proximal(optimizer), L1(STRENGTH), a, b, steps)
    residual = np.array(L1(STRENGTH).residual(found.astype("float32"), (a @ found - b).astype("float32")))
    np.testing.assert_array_equal(found != 0, solution != 0)
    assert residual.max() <= 1e-3 * STRENGTH
    assert (found == 0).sum() == 15


def test_an_elastic_nets_square_stays_in_the_gradient():
    a, b, solution = lasso(l2=0.2)
    found = trained(Proximal(optimizers.Adam(0.01)), L1L2(STRENGTH, 0.2), a, b, 3000)
    np.testing.assert_allclose(found, solution, atol=1e-5)
    np.testing.assert_array_equal(found != 0, solution != 0)


def test_weight_decay_of_sgd_is_half_an_l2():
    a, b, solution = lasso(l2=0.1)
    found = trained(Proximal(optimizers.SGD(0.05, weight_decay=0.2)), L1(STRENGTH), a, b, 3000)
    # Decay and gradient are two half-steps, each exact to first order in the rate.
    np.testing.assert_allclose(found, solution, atol=0.01)
    np.testing.assert_array_equal(found != 0, solution != 0)


def test_weight_decay_of_adamw_adds_its_own_pull():
    """Decoupled decay is rate · decay · w, against Adam's step of rate / |gradient| once that has settled."""
    a, b, _ = lasso()
    found = trained(
        Proximal(optimizers.AdamW(0.01, beta_2=0.99, weight_decay=0.05)), L1(STRENGTH), a, b, 4000
    )
    kept = found != 0
    gradient = (a @ found - b)[kept]
    pull = 0.05 * np.abs(gradient) * found[kept]
    np.testing.assert_allclose(gradient + STRENGTH * np.sign(found[kept]) + pull, 0, atol=1e-3 * STRENGTH)
    assert np.abs(pull).max() > 0.05 * STRENGTH
    assert (~kept).sum() == 15


@pytest.mark.parametrize("name", ["SGD", "Adam", "Adagrad"])
def test_a_group_lasso_takes_out_whole_units(name):
    """Three of six outputs have nothing to fit; their columns become exactly zero."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(200, 12))
    true = rng.normal(size=(12, 6)) * (np.arange(6) < 3)
    a, b = x.T @ x / 200, x.T @ (x @ true + 0.1 * rng.normal(size=(200, 6))) / 200
    penalty = GroupLasso(0.05)
    found = trained(Proximal(KINDS[name].cls(KINDS[name].rate)), penalty, a, b, 3000)
    assert (found == 0).all(0).tolist() == [False] * 3 + [True] * 3
    residual = np.array(penalty.residual(found.astype("float32"), (a @ found - b).astype("float32")))
    assert residual.max() <= 1e-3 * 0.05


def test_a_weight_at_zero_comes_back():
    a, b, solution = lasso()
    found = trained(Proximal(optimizers.Adam(0.01)), L1(STRENGTH), a, b, 3000, at=np.zeros((20, 1)))
    np.testing.assert_allclose(found, solution, atol=1e-5)


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_frozen_support_keeps_the_zeros_and_fits_the_rest_without_shrinkage(name):
    a, b, solution = lasso()
    optimizer = Proximal(KINDS[name].cls(KINDS[name].rate), freeze_support=True)
    found = trained(optimizer, L1(STRENGTH), a, b, 3000, at=solution)
    kept = np.flatnonzero(solution)
    least_squares = np.linalg.solve(a[np.ix_(kept, kept)], b[kept])
    np.testing.assert_array_equal(found != 0, solution != 0)
    np.testing.assert_allclose(found[kept], least_squares, atol=1e-4)


class Halving(keras.optimizers.Optimizer):
    """Somebody's own: gradient descent with another step for every second coordinate."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self.assign_sub(variable, ops.multiply(self.proximal_metric(variable, learning_rate), gradient))

    def proximal_metric(self, variable: Any, learning_rate: Any) -> Any:
        steps = np.where(np.arange(20) % 2, 1.0, 0.5).astype("float32").reshape(20, 1)
        return ops.multiply(steps, ops.cast(learning_rate, variable.dtype))


def test_ones_own_optimizer_tells_its_metric():
    a, b, solution = lasso()
    found = trained(Proximal(Halving(0.05)), L1(STRENGTH), a, b, 3000)
    np.testing.assert_allclose(found, solution, atol=1e-5)


# --- what has no metric -------------------------------------------------------------------------------------


class Louder(optimizers.Adam):
    """An Adam that makes another update than Keras's."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(2 * gradient, variable, learning_rate)


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (optimizers.Lion(), "Proximal can't wrap Lion: its step is a gradient's sign"),
        (optimizers.Ftrl(), "Proximal can't wrap Ftrl: it computes the weight anew"),
        (optimizers.ScheduleFreeAdamW(), "can't wrap ScheduleFreeAdamW: what it trains is a running average"),
        (Louder(), "can't wrap Louder: the step that it makes is not known. Take one of SGD, "),
        (optimizers.LossScaleOptimizer(optimizers.Lion()), "Proximal can't wrap Lion"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_optimizer_without_a_metric_is_refused_by_name(optimizer, said):
    with pytest.raises(ModelError, match=said):
        Proximal(optimizer)


def test_muon_is_refused_on_matrices_alone():
    a, b, _ = lasso()
    with pytest.raises(
        ModelError, match="can't wrap Muon on a matrix: it makes a matrix's gradient orthogonal"
    ):
        trained(Proximal(optimizers.Muon()), L1(STRENGTH), a, b, 1)
    kernels = keras.Variable(np.ones((3, 2, 4), "float32"))
    kernels.regularizer = L1(0.5)
    optimizer = Proximal(optimizers.Muon(0.1, adam_lr_ratio=1))
    optimizer.build([kernels])
    optimizer.apply([0.5 * ops.ones((3, 2, 4))], [kernels])
    assert not ops.convert_to_numpy(kernels).any()


# --- in a model ---------------------------------------------------------------------------------------------


def data(rows: int = 96) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6)).astype("float32")
    return x, (x[:, :2].sum(1, keepdims=True) + 0.1 * rng.normal(size=(rows, 1))).astype("float32")


def network(optimizer: Any, recipe: str = "hidden: kernel = l1(0.03)") -> Any:
    keras.utils.set_random_seed(3)
    hidden = keras.layers.Dense(5, "tanh", name="hidden")
    model = keras.Sequential([keras.Input((6,)), hidden, keras.layers.Dense(1, name="head")])
    shrinkage.apply(model, recipe)
    model.compile(optimizer, "mse")
    return model


def fit(model: Any, epochs: int = 2, **options: Any) -> Any:
    x, y = data()
    return model.fit(x, y, epochs=epochs, batch_size=32, shuffle=False, verbose=0, **options).history


def kernels(model: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(model.get_layer("hidden").kernel))


def test_the_reported_objective_has_the_whole_penalty():
    model = network(Proximal(optimizers.SGD(0.0)))
    x, y = data()
    logs = model.fit(x, y, batch_size=len(x), verbose=0, callbacks=[shrinkage.Monitor()]).history
    assert logs["penalty"][0] == pytest.approx(0.03 * np.abs(kernels(model)).sum(), rel=1e-5)


@pytest.mark.parametrize("recipe", ["hidden: activity = l1(0.1)", "hidden: kernel = l2(0.1)"])
def test_what_is_smooth_or_on_outputs_is_trained_as_without_it(recipe):
    plain, wrapped = network(optimizers.Adam(0.05), recipe), network(Proximal(optimizers.Adam(0.05)), recipe)
    assert fit(plain) == fit(wrapped)
    np.testing.assert_array_equal(kernels(plain), kernels(wrapped))


def test_before_the_prox_the_update_is_that_of_the_data_alone():
    """Where the prox is told of a step of 0, nothing is seen of the penalty."""

    class Blind(optimizers.SGD):
        def proximal_metric(self, variable: Any, learning_rate: Any) -> Any:
            return ops.cast(0.0, variable.dtype)

    alone, charged = network(Blind(0.1), "hidden: kernel = none"), network(Proximal(Blind(0.1)))
    fit(alone), fit(charged)
    np.testing.assert_allclose(kernels(charged), kernels(alone), atol=2e-6)


def test_compiled_again_without_it_the_penalty_is_in_the_gradient_again():
    model = network(Proximal(optimizers.SGD(0.1)))
    fit(model)
    again, other = network(optimizers.SGD(0.1)), model
    other.compile(optimizers.SGD(0.1), "mse")
    again.set_weights(other.get_weights())
    fit(again), fit(other)
    np.testing.assert_array_equal(kernels(again), kernels(other))


def test_kerass_own_regularizers_give_zeros_too():
    model = network(Proximal(optimizers.Adam(0.05)), "hidden: kernel = none")
    model.get_layer("hidden").kernel.regularizer = keras.regularizers.L1(0.03)
    ours = network(Proximal(optimizers.Adam(0.05)))
    fit(model, 20), fit(ours, 20)
    assert (kernels(ours) == 0).sum() > 5
    np.testing.assert_array_equal(kernels(model), kernels(ours))


def test_a_schedule_of_the_strength_reaches_the_prox():
    warm_up = shrinkage.StrengthSchedule(lambda epoch: 0.0 if epoch < 10 else 0.1)
    model = network(Proximal(optimizers.Adam(0.05)))
    seen = []

    class Zeros(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            seen.append(int((kernels(model) == 0).sum()))

    fit(model, 30, callbacks=[warm_up, Zeros()])
    assert seen[9] == 0
    assert seen[29] > 10


def test_half_precision_scales_the_loss_around_it(half_policy):
    model = network(Proximal(optimizers.Adam(0.05)))
    assert isinstance(model.optimizer, optimizers.LossScaleOptimizer)
    fit(model, 20)
    assert (kernels(model) == 0).sum() > 5


def test_a_skipped_step_is_skipped_whole():
    weight = keras.Variable(np.full((3, 1), 0.01, "float32"))
    weight.regularizer = L1(100.0)
    optimizer = Proximal(optimizers.LossScaleOptimizer(optimizers.Adam()))
    optimizer.build([weight])
    _loop(optimizer, weight, lambda w: ops.multiply(w, np.float32([[np.inf], [0.0], [0.0]])), 1)
    np.testing.assert_array_equal(ops.convert_to_numpy(weight), np.full((3, 1), 0.01, "float32"))
    _loop(optimizer, weight, L1(100.0).slope, 1)
    assert not ops.convert_to_numpy(weight).any()


def test_each_variable_takes_the_step_of_its_own_optimizer():
    adam, sgd = optimizers.Adam(0.05), optimizers.SGD(0.1)
    own = optimizers.MultiOptimizer(lambda variable: adam if variable.name == "kernel" else sgd)
    model = network(Proximal(own), "hidden: kernel, bias = l1(0.03)")
    fit(model, 20)
    assert (kernels(model) == 0).sum() > 5
    assert (np.array(ops.convert_to_numpy(model.get_layer("hidden").bias)) == 0).sum() > 2


# --- units --------------------------------------------------------------------------------------------------


def images(rows: int = 64) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, 6, 6, 2)).astype("float32")
    return x, (x.mean((1, 2, 3)) > 0).astype("int32")


def convolutional(recipe: str, optimizer: Any) -> Any:
    keras.utils.set_random_seed(4)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            layers.Conv2D(12, 3, name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.GlobalAveragePooling2D(),
            layers.Dense(2, "softmax", name="head"),
        ]
    )
    shrinkage.apply(model, recipe)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    return model


@pytest.mark.filterwarnings("ignore:In force, but the layer's config has no place")
@pytest.mark.parametrize("freeze", [pytest.param(False, marks=pytest.mark.thorough), True])
def test_a_unit_that_is_charged_together_dies_together(freeze):
    """Kernel, bias, scale and shift are zero for the same filters, so these send nothing at all."""
    model = convolutional("conv: unit = group_lasso(0.004)", Proximal(optimizers.Adam(0.02)))
    x, y = images()
    model.fit(x, y, epochs=25, batch_size=32, verbose=0)
    conv, norm = model.get_layer("conv"), model.get_layer("norm")
    parts = [conv.kernel, conv.bias, norm.gamma, norm.beta]
    dead = [(np.array(ops.convert_to_numpy(v)).reshape(-1, 12) == 0).all(0) for v in parts]
    assert 0 < dead[0].sum() < 12
    for other in dead[1:]:
        np.testing.assert_array_equal(dead[0], other)
    sent = keras.Model(model.inputs[0], norm.output)(x)
    assert not np.array(ops.convert_to_numpy(sent))[..., dead[0]].any()
    if freeze:
        model.compile(Proximal(optimizers.Adam(0.02), freeze_support=True), "sparse_categorical_crossentropy")
        before = [np.array(ops.convert_to_numpy(v)).reshape(-1, 12) for v in parts]
        model.fit(x, y, epochs=2, batch_size=32, verbose=0)
        for variable, was in zip(parts, before, strict=True):
            now = np.array(ops.convert_to_numpy(variable)).reshape(-1, 12)
            assert not now[:, dead[0]].any()
            assert (now[:, ~dead[0]] != was[:, ~dead[0]]).any(0).all()


@pytest.mark.filterwarnings("ignore:In force, but the layer's config has no place")
def test_units_that_two_optimizers_train_are_refused():
    adam, sgd = optimizers.Adam(0.05), optimizers.SGD(0.1)
    both = optimizers.MultiOptimizer(lambda variable: adam if variable.name == "kernel" else sgd)
    model = convolutional("conv: unit = group_lasso(0.02)", Proximal(both))
    x, y = images()
    with pytest.raises(ModelError, match="unit 'conv' are charged together, but are not all trained by one"):
        model.fit(x, y, verbose=0)


# --- saved --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["adam", "loss scale"])
def test_training_goes_on_after_saving_as_if_it_had_not_stopped(tmp_path, inside):
    adam = optimizers.Adam(0.05)
    optimizer = Proximal(adam if inside == "adam" else optimizers.LossScaleOptimizer(adam))
    model = network(optimizer)
    fit(model, 10)
    model.save(tmp_path / "model.keras")
    again = shrinkage.load_model(tmp_path / "model.keras")
    assert isinstance(again.optimizer, Proximal)
    assert again.optimizer.get_config() == model.optimizer.get_config()
    fit(model, 3), fit(again, 3)
    np.testing.assert_array_equal(kernels(model), kernels(again))
    assert (kernels(model) == 0).any()


def test_a_file_holds_the_state_that_the_optimizer_inside_would_save(tmp_path):
    import zipfile

    import h5py

    def members(optimizer: Any) -> list[str]:
        model = network(optimizer)
        fit(model, 1)
        model.save(tmp_path / "model.keras")
        zipfile.ZipFile(tmp_path / "model.keras").extract("model.weights.h5", tmp_path)
        found: list[str] = []
        with h5py.File(tmp_path / "model.weights.h5") as file:
            file["optimizer"].visit(found.append)
        return found

    assert members(Proximal(optimizers.Adam())) == members(optimizers.Adam())


def test_options_of_the_optimizer_inside_are_reached_through_it():
    optimizer = Proximal(optimizers.Adam(0.5, beta_1=0.8))
    optimizer.learning_rate = 0.25
    assert float(optimizer.learning_rate) == float(optimizer.unwrap().learning_rate) == 0.25
    assert optimizer.beta_1 == 0.8
    assert optimizer.proximal
    with pytest.raises(AttributeError, match="no_such"):
        _ = optimizer.no_such


@pytest.mark.parametrize("given", ["proximal(adam)", " Proximal( SGD ) ", Proximal("adam")])
def test_a_study_names_it_around_another(given):
    optimizer = make_optimizer(given, 0.125)
    assert isinstance(optimizer, Proximal)
    assert float(optimizer.unwrap().learning_rate) == 0.125
    assert not isinstance(optimizer.unwrap(), Proximal)


def test_a_misspelt_optimizer_inside_is_named():
    with pytest.raises(ModelError, match=r"Keras has no optimizer 'adum'\. Did you mean 'Adam'"):
        make_optimizer("proximal(adum)", None)


def test_check_has_nothing_to_say_of_zeros_where_it_trains():
    codes = [f.code for f in shrinkage.check(network(Proximal("adam")))]
    assert "SH205" not in codes
    assert "SH205" in [f.code for f in shrinkage.check(network("adam"))]


@pytest.mark.parametrize("penalty", [L1(0.1), L2(0.1)])
def test_a_penalty_of_strength_zero_leaves_training_as_it_is(penalty):
    plain, wrapped = (network(o, "hidden: kernel = none") for o in (optimizers.Adam(), Proximal("adam")))
    shrinkage.apply(wrapped, f"hidden: kernel = {penalty.at(0.0)}")
    fit(plain), fit(wrapped)
    np.testing.assert_allclose(kernels(plain), kernels(wrapped), rtol=1e-6)
