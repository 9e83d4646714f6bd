"""What every penalty must hold to: its formulas are checked against each other and against brute force.

A new penalty joins by one line in CASES.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from shrinkage.errors import StrengthError
from shrinkage.penalties import (
    L1,
    L1L2,
    L2,
    STRENGTH,
    GroupLasso,
    LiveStrength,
    Multiple,
    Penalty,
    SparseGroupLasso,
    parse_penalty,
    to_keras,
)


class Case(NamedTuple):
    """A penalty, and the same formula written in plain NumPy."""

    penalty: Penalty
    formula: Callable[[np.ndarray], Any]


def norms(w: np.ndarray) -> Any:
    """√|g| · Σ ‖w_g‖, a group being an index of the last axis."""
    units = w.reshape(-1, w.shape[-1] if w.ndim else 1)
    return np.sqrt(len(units)) * np.linalg.norm(units, axis=0).sum()


CASES = [
    Case(L1(0.3), lambda w: 0.3 * np.abs(w).sum()),
    Case(L1(0.0), lambda w: 0.0),
    Case(L2(0.7), lambda w: 0.7 * np.square(w).sum()),
    Case(L2(0.0), lambda w: 0.0),
    Case(L1L2(0.2, 0.5), lambda w: 0.2 * np.abs(w).sum() + 0.5 * np.square(w).sum()),
    Case(L1L2(0.4, 0.0), lambda w: 0.4 * np.abs(w).sum()),
    Case(L1L2(0.0, 0.4), lambda w: 0.4 * np.square(w).sum()),
    Case(L1L2(0.0, 0.0), lambda w: 0.0),
    Case(GroupLasso(0.3), lambda w: 0.3 * norms(w)),
    Case(GroupLasso(0.0), lambda w: 0.0),
    Case(SparseGroupLasso(0.2, 0.3), lambda w: 0.2 * np.abs(w).sum() + 0.3 * norms(w)),
    Case(SparseGroupLasso(0.4, 0.0), lambda w: 0.4 * np.abs(w).sum()),
    Case(SparseGroupLasso(0.0, 0.4), lambda w: 0.4 * norms(w)),
]

PENALTIES = [case.penalty for case in CASES]
CLASSES = list(dict.fromkeys(type(penalty) for penalty in PENALTIES))

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.penalty))
each_penalty = pytest.mark.parametrize("penalty", PENALTIES, ids=str)
each_class = pytest.mark.parametrize("cls", CLASSES)

strengths = st.floats(min_value=0, max_value=1e300)
multiples = st.builds(Multiple, strengths)


def sample(shape: tuple[int, ...] = (6, 4), seed: int = 0) -> np.ndarray:
    """Weights of both signs and several sizes, some exactly zero, some on the edge of a threshold."""
    rng = np.random.default_rng(seed)
    w = rng.normal(size=shape) * rng.choice([0.01, 0.3, 3.0], size=shape)
    w.flat[:4] = [0.0, -0.0, 0.3, -0.2]
    return w.astype("float32")


def numpy(tensor: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def line_minimum(f: Callable[[float], float], low: float, high: float) -> float:
    """Golden-section search for the minimiser of a convex function."""
    golden = (5**0.5 - 1) / 2
    while high - low > 1e-10:
        a, b = high - golden * (high - low), low + golden * (high - low)
        low, high = (low, b) if f(a) <= f(b) else (a, high)
    return (low + high) / 2


# --- the prox -----------------------------------------------------------------------------------------------

STEPS = {"scalar": 0.8, "array": np.random.default_rng(1).uniform(0.05, 3.0, (6, 4)).astype("float32")}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
@each_case
def test_prox_minimises_along_every_direction(case, step):
    """No move along a coordinate, or in a random direction, lowers the prox objective."""
    w = sample()
    found = numpy(case.penalty.prox(w, step))
    wide, steps = w.astype("float64"), np.asarray(step, "float64")

    def objective(u):
        return np.sum(np.square(u - wide) / (2 * steps)) + case.formula(u)

    rng = np.random.default_rng(2)
    axes = np.eye(w.size).reshape(-1, *w.shape)
    for direction in [*axes, *rng.normal(size=(5, *w.shape))]:
        best = line_minimum(lambda t: objective(found + t * direction), -4, 4)  # noqa: B023
        assert abs(best) < 2e-6 * (1 + np.abs(wide).max()), (direction, best)


@each_case
def test_prox_gives_exact_zeros_where_the_formula_has_a_kink(case):
    slope = case.formula(np.array([1e-9])) / 1e-9
    zeros = numpy(case.penalty.prox(np.array([0.1, -0.1, 1e-3], "float32"), 1.0)) == 0
    if slope > 0.1:
        assert case.penalty.sparsifying
        assert zeros.all()
    else:
        assert not zeros.any()


@each_penalty
def test_prox_of_a_zero_strength_changes_nothing(penalty):
    w = sample()
    np.testing.assert_array_equal(numpy(penalty.prox(w, 0.8, 0.0)), w)


@each_penalty
def test_prox_is_non_expansive(penalty):
    for seed in range(20):
        a, b = sample(seed=seed), sample(seed=seed + 100)
        moved = np.linalg.norm(numpy(penalty.prox(a, 0.8)) - numpy(penalty.prox(b, 0.8)))
        assert moved <= np.linalg.norm(a - b) * (1 + 1e-6), seed


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
@each_penalty
def test_prox_keeps_shape_and_dtype(penalty, step, dtype):
    w = ops.cast(sample(), dtype)
    out = penalty.prox(w, step)
    assert keras.backend.standardize_dtype(out.dtype) == dtype
    assert out.shape == w.shape


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS.keys())
@each_penalty
def test_shrink_is_the_prox_of_what_slope_is_the_gradient_of(penalty, step):
    """Where u = shrink(w) is not zero, u + step · slope(u) = w."""
    w = sample()
    shrunk = numpy(penalty.shrink(w, step))
    back = shrunk + np.asarray(step) * numpy(penalty.slope(shrunk.astype("float32")))
    np.testing.assert_allclose(back[shrunk != 0], w[shrunk != 0], rtol=1e-5, atol=1e-6)
    if numpy(penalty.slope(np.ones((6, 4), "float32"))).any():
        assert (numpy(penalty.shrink(np.float32(0.01) * w, 1.0)) == 0).all()
    else:
        np.testing.assert_array_equal(shrunk, w)


@each_penalty
def test_what_slope_leaves_of_the_gradient_is_smooth_at_zero(penalty, gradient):
    near = np.sign(sample()) * np.float32(1e-8)
    rest = gradient(penalty, near) - numpy(penalty.slope(near))
    np.testing.assert_allclose(rest, 0, atol=1e-6)
    at_zero = numpy(penalty.slope(np.zeros((6, 4), "float32")))
    assert (at_zero == 0).all()


# --- the residual -------------------------------------------------------------------------------------------


@each_penalty
def test_residual_is_zero_at_the_solution_and_grows_with_the_distance_from_it(penalty):
    """The solution of Σ a (u − b)² / 2 + Ω(u) is prox(b, 1/a); that problem is min(a)-strongly convex."""
    a, b = STEPS["array"].astype("float64"), sample()
    solution = numpy(penalty.prox(b, (1 / a).astype("float32"))).astype("float32")

    def residual(u):
        return numpy(penalty.residual(u, (a * (u - b)).astype("float32")))

    assert residual(solution).shape == b.shape
    np.testing.assert_allclose(residual(solution), 0, atol=3e-6)
    rng = np.random.default_rng(3)
    for size in (0.01, 1.0):
        away = solution + rng.normal(size=b.shape).astype("float32") * np.float32(size)
        for u in (away, away * (solution != 0), np.zeros_like(b)):
            distance = np.linalg.norm(u - solution)
            assert np.linalg.norm(residual(u)) >= 0.999 * a.min() * distance - 1e-5


@each_penalty
def test_residual_is_at_least_float32(penalty):
    w = ops.cast(sample(), "float16")
    assert keras.backend.standardize_dtype(penalty.residual(w, w).dtype) == "float32"


# --- the gradient -------------------------------------------------------------------------------------------


@each_case
def test_gradient_is_that_of_the_formula(case, gradient):
    w = sample()
    w[w == 0] = 0.5
    found, wide, h = gradient(case.penalty, w), w.astype("float64"), 1e-6
    for i in np.ndindex(w.shape):
        up, down = wide.copy(), wide.copy()
        up[i] += h
        down[i] -= h
        difference = (case.formula(up) - case.formula(down)) / (2 * h)
        assert found[i] == pytest.approx(difference, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@each_penalty
def test_gradient_at_zero_is_zero(penalty, dtype, gradient):
    w = sample().astype(dtype)
    w[::2] = 0.0
    found = gradient(penalty, w)
    assert np.isfinite(found).all()
    assert (found[::2] == 0).all()


# --- the value ----------------------------------------------------------------------------------------------


@each_case
def test_value_is_the_formula_and_never_negative(case):
    for seed in range(5):
        w = sample(seed=seed)
        value = float(case.penalty.value(w))
        assert value == pytest.approx(float(case.formula(w.astype("float64"))), rel=1e-5)
        assert value >= 0
        assert float(case.penalty(w)) == value
    assert float(case.penalty.value(np.zeros((3, 2), "float32"))) == 0


@each_penalty
def test_value_is_convex(penalty):
    for seed in range(10):
        a, b = sample(seed=seed), sample(seed=seed + 100)
        for t in (0.1, 0.5, 0.9):
            t = np.float32(t)
            mixed = float(penalty.value(t * a + (1 - t) * b))
            assert mixed <= (t * float(penalty.value(a)) + (1 - t) * float(penalty.value(b))) * (1 + 1e-6)


@each_penalty
def test_value_is_proportional_to_the_strength(penalty):
    w = sample()
    at_one = float(penalty.value(w, 1.0))
    assert at_one > 0
    assert float(penalty.value(w, 2.5)) == pytest.approx(2.5 * at_one, rel=1e-6)
    assert float(penalty.value(w, 0.0)) == 0
    assert float(penalty.value(w)) == pytest.approx(penalty.strength * at_one, rel=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (26, 26, 32, 8)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@each_case
def test_value_is_accumulated_in_float32_at_least(case, dtype, shape):
    """Half-precision inputs neither overflow nor lose digits (Keras's own formula gives inf)."""
    drawn = np.random.default_rng(4).normal(scale=2.0, size=shape)
    w = drawn if dtype == "float64" else ops.cast(drawn.astype("float32"), dtype)
    rounded = drawn if dtype == "float64" else numpy(ops.cast(w, "float32"))
    value = case.penalty.value(w)
    assert keras.backend.standardize_dtype(value.dtype) in ("float32", "float64")
    assert tuple(value.shape) == ()
    assert float(value) == pytest.approx(float(case.formula(rounded)), rel=1e-5)


@each_penalty
def test_formulas_take_a_keras_variable(penalty):
    variable = keras.Variable(sample())
    assert float(penalty(variable)) == float(penalty(sample()))
    np.testing.assert_array_equal(numpy(penalty.prox(variable, 0.8)), numpy(penalty.prox(sample(), 0.8)))
    np.testing.assert_array_equal(numpy(penalty.support(variable)), numpy(penalty.support(sample())))


@each_penalty
def test_support_is_where_weights_are_not_exactly_zero(penalty):
    """Of a group lasso: where a unit has such a weight."""
    w = np.array([[0.0, -0.0, 1e-30, 0.0], [2.0, 0.0, 0.0, -1.0]], "float32")
    units = [[True, False, True, True]] * 2
    expected = units if isinstance(penalty, GroupLasso) else w != 0
    np.testing.assert_array_equal(ops.convert_to_numpy(penalty.support(w)), expected)


@each_penalty
def test_formulas_do_not_touch_their_input(penalty):
    w = sample()
    for formula in (
        penalty,
        penalty.support,
        lambda v: penalty.prox(v, 1.0),
        lambda v: penalty.residual(v, v),
    ):
        formula(w)
        np.testing.assert_array_equal(w, sample())


# --- compiled -----------------------------------------------------------------------------------------------


@each_penalty
def test_formulas_compile_with_the_strength_as_an_argument(penalty, compiled):
    w, strength = sample(), np.float32(0.25)
    for formula in (
        lambda w, s: penalty.value(w, s),
        lambda w, s: penalty.at(s)(w),
        lambda w, s: penalty.prox(w, 0.8, s),
        lambda w, s: penalty.residual(w, w, s),
    ):
        inside = compiled(formula)(ops.convert_to_tensor(w), ops.convert_to_tensor(strength))
        np.testing.assert_allclose(numpy(inside), numpy(formula(w, strength)), rtol=1e-5, atol=1e-7)


@pytest.mark.jax_only
@each_penalty
def test_strengths_are_lanes(penalty):
    """Under vmap each lane has its own strength, and the zero one is free of NaN."""
    import jax

    w, lanes = sample(), np.array([0.0, 0.1, 2.0], "float32")
    per_lane = [float(penalty.value(w, s)) for s in lanes]
    np.testing.assert_allclose(jax.vmap(lambda s: penalty.value(w, s))(lanes), per_lane, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.vmap(lambda s: penalty.at(s)(w)))(lanes), per_lane, rtol=1e-6)
    gradients = np.asarray(jax.vmap(lambda s: jax.grad(penalty.at(s))(jax.numpy.asarray(w)))(lanes))
    assert np.isfinite(gradients).all()
    assert (gradients[0] == 0).all()
    assert (gradients[:, w == 0] == 0).all()
    assert np.abs(gradients[2]).max() > 0
    proxed = np.asarray(jax.vmap(lambda s: penalty.prox(w, 1.0, s))(lanes))
    np.testing.assert_array_equal(proxed[0], w)


# --- the object ---------------------------------------------------------------------------------------------


@each_penalty
def test_config_round_trips_through_keras(penalty):
    config = keras.regularizers.serialize(penalty)
    assert keras.regularizers.deserialize(json.loads(json.dumps(config))) == penalty
    assert type(penalty).from_config(penalty.get_config()) == penalty
    assert set(penalty.get_config()) == set(penalty.names)


@each_class
@given(data=st.data())
def test_text_round_trips(cls, data):
    penalty = cls(*(data.draw(strengths | multiples) for _ in cls.names))
    again = parse_penalty(str(penalty))
    assert again == penalty
    assert type(again) is cls
    assert str(again) == str(penalty)


@each_class
@given(data=st.data())
def test_repr_is_the_call_that_makes_the_penalty(cls, data):
    penalty = cls(*(data.draw(strengths | multiples) for _ in cls.names))
    names = {cls.__name__: cls, "strength": STRENGTH}
    assert eval(repr(penalty), names) == penalty


@each_penalty
def test_equality_is_by_class_and_coefficients(penalty):
    twin = type(penalty)(*penalty.numbers())
    assert twin == penalty
    assert hash(twin) == hash(penalty)
    assert copy.deepcopy(penalty) == penalty
    assert {penalty: "found"}[twin] == "found"
    assert penalty != penalty.at(penalty.strength + 1)
    assert penalty != penalty.numbers()
    others = [other for other in PENALTIES if other is not penalty]
    assert penalty not in others


def test_same_numbers_of_another_class_are_not_equal():
    assert L1(0.1) != L2(0.1)


@each_penalty
def test_at_sets_the_total_strength_and_keeps_the_proportions(penalty):
    moved = penalty.at(0.05)
    assert type(moved) is type(penalty)
    assert moved.strength == pytest.approx(0.05, rel=1e-12)
    if penalty.strength:
        np.testing.assert_allclose(
            np.divide(moved.numbers(), 0.05), np.divide(penalty.numbers(), penalty.strength)
        )
    assert penalty.at(0.05) == moved
    assert penalty.at(0.0).strength == 0


@pytest.mark.parametrize(
    "bad", [float("nan"), float("inf"), -1e-9, np.float64("nan"), np.float32(-1), True, "1"]
)
@each_class
def test_at_and_the_live_strength_refuse_what_is_no_strength(cls, bad):
    with pytest.raises(StrengthError, match="strength must be a finite number"):
        cls(STRENGTH).at(bad)
    with pytest.raises(StrengthError, match="strength must be a finite number"):
        LiveStrength(bad)
    live = LiveStrength(0.5)
    with pytest.raises(StrengthError, match="strength must be a finite number"):
        live.assign(bad)
    assert live.host == 0.5
    assert float(live.read()) == 0.5


@each_class
def test_at_takes_numpy_scalars_as_numbers(cls):
    moved = cls(STRENGTH).at(np.float64(0.1))
    assert moved == cls(0.1)
    assert str(moved) == str(cls(0.1))


@each_class
def test_an_open_strength_must_be_given_before_anything_is_charged(cls):
    open_ = cls(STRENGTH)
    assert open_.varies
    w = sample()
    for use in (
        lambda: open_(w),
        lambda: open_.value(w),
        lambda: open_.strength,
        open_.fixed,
        open_.get_config,
        *([lambda: to_keras(open_)] if to_keras(cls(0.1)) is not None else []),
    ):
        with pytest.raises(StrengthError, match=r"still open: give it one with \.at"):
            use()
    assert float(open_.value(w, 0.3)) == pytest.approx(float(open_.at(0.3)(w)))
    assert not open_.at(0.3).varies


@each_class
def test_multiples_move_and_constants_stay(cls):
    if len(cls.names) < 2:
        assert cls(3 * STRENGTH).at(0.1).numbers() == (3 * 0.1,)
        return
    rest = (0.25,) * (len(cls.names) - 1)
    assert cls(2 * STRENGTH, *rest).at(0.1).numbers() == (0.2, *rest)


@each_penalty
def test_a_live_strength_scales_the_penalty(penalty):
    live = LiveStrength(penalty.strength)
    bound = penalty.bind(live)
    w = sample()
    assert bound.live is live
    assert bound != penalty
    assert bound == penalty.bind(live)
    assert hash(bound) == hash(penalty.bind(live))
    assert float(bound(w)) == pytest.approx(float(penalty(w)), rel=1e-6)
    live.assign(0.125)
    assert bound.strength == pytest.approx(0.125)
    assert float(bound(w)) == pytest.approx(float(penalty.value(w, 0.125)), rel=1e-6)
    assert bound.fixed().live is None
    assert bound.fixed() == penalty.at(0.125)
    assert keras.regularizers.deserialize(keras.regularizers.serialize(bound)) == bound.fixed()


@each_class
@given(data=st.data())
def test_binding_loses_no_digit(cls, data):
    """What is saved of a live penalty at its first strength is what was given, to the last bit."""
    penalty = cls(*(data.draw(st.floats(min_value=0, max_value=1e3)) for _ in cls.names))
    bound = penalty.bind(LiveStrength(penalty.strength))
    assert bound.numbers() == penalty.numbers()
    assert bound.get_config() == penalty.get_config()
    assert bound.fixed() == penalty


@each_class
def test_a_live_penalty_with_multiples_follows_the_strength(cls):
    live = LiveStrength(0.5)
    bound = cls(*(2 * STRENGTH for _ in cls.names)).bind(live)
    assert bound.numbers() == tuple(1.0 for _ in cls.names)
    live.assign(0.25)
    assert bound.numbers() == tuple(0.5 for _ in cls.names)
    assert str(bound) == str(cls(*(0.5 for _ in cls.names)))


@each_penalty
def test_kerass_own_object_charges_the_same(penalty):
    """Where a penalty has an equal in Keras, that charges the same and is saved with the same names."""
    own = to_keras(penalty)
    if own is None:
        return
    w = sample()
    assert float(own(ops.convert_to_tensor(w))) == pytest.approx(float(penalty(w)), rel=1e-6)
    assert own.get_config() == pytest.approx(penalty.get_config())
