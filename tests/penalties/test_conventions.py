"""Other people's parameters in our terms, checked against their programs and formulas."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import ElasticNet, Ridge

from shrinkage.errors import StrengthError
from shrinkage.penalties import L1, L1L2, L2, STRENGTH


@pytest.fixture
def regression(rng):
    x = rng.normal(size=(60, 7))
    y = x @ np.array([2.0, -1.0, 0, 0, 0.5, 0, 0]) + rng.normal(size=60) * 0.3
    return x, y


@given(st.floats(min_value=0, max_value=1e3), st.floats(min_value=0, max_value=1))
def test_from_ratio_mixes_without_a_half(strength, ratio):
    penalty = L1L2.from_ratio(strength, ratio)
    assert penalty.l1 == pytest.approx(strength * ratio)
    assert penalty.l2 == pytest.approx(strength * (1 - ratio))
    assert penalty.strength == pytest.approx(strength)
    if strength > 1e-200:
        assert penalty.ratio == pytest.approx(ratio)


def test_from_ratio_at_its_ends_is_l1_and_l2():
    w = np.array([1.0, -2.0, 0.0], "float32")
    assert float(L1L2.from_ratio(0.3, 1)(w)) == pytest.approx(float(L1(0.3)(w)))
    assert float(L1L2.from_ratio(0.3, 0)(w)) == pytest.approx(float(L2(0.3)(w)))
    assert L1L2().ratio == 0.5


def test_from_ratio_leaves_the_strength_open_where_it_is():
    assert L1L2.from_ratio(STRENGTH, 0.25).at(0.4) == L1L2.from_ratio(0.4, 0.25)


@pytest.mark.parametrize("ratio", [1.0000001, 2, 50])
def test_a_ratio_beyond_one_is_refused(ratio):
    with pytest.raises(StrengthError, match=r"l1_ratio must lie in \[0, 1\]"):
        L1L2.from_ratio(0.1, ratio)


@pytest.mark.parametrize("l1_ratio", [0.1, 0.5, 1.0])
def test_scikit_learns_elastic_net_in_our_terms(regression, l1_ratio):
    """The solution of ElasticNet(alpha, l1_ratio) is stationary for l1 = α ρ, l2 = α (1 − ρ) / 2."""
    x, y = regression
    alpha = 0.2
    w = (
        ElasticNet(alpha=alpha, l1_ratio=l1_ratio, fit_intercept=False, tol=1e-12, max_iter=100_000)
        .fit(x, y)
        .coef_
    )
    gradient = -x.T @ (y - x @ w) / len(x)  # of ‖y − x w‖² / (2 n), scikit-learn's data loss

    def distance(penalty):
        return np.abs(np.asarray(penalty.residual(w.astype("float32"), gradient.astype("float32")))).max()

    assert distance(L1L2(alpha * l1_ratio, alpha * (1 - l1_ratio) / 2)) < 1e-6
    theirs = alpha * l1_ratio * np.abs(w).sum() + 0.5 * alpha * (1 - l1_ratio) * np.square(w).sum()
    assert float(L1L2(alpha * l1_ratio, alpha * (1 - l1_ratio) / 2)(w)) == pytest.approx(theirs, rel=1e-6)
    # Their parameters are not our strength and ratio, unless the ratio is 1.
    if l1_ratio < 1:
        assert distance(L1L2.from_ratio(alpha, l1_ratio)) > 1e-2


@pytest.mark.parametrize(("lambda_1", "lambda_2"), [(0.3, 0.1), (0.0, 0.2), (0.5, 0.0)])
def test_zou_and_hasties_alpha_is_one_minus_our_ratio(lambda_1, lambda_2):
    """Their (2005) criterion is λ₁ ‖w‖₁ + λ₂ ‖w‖² with α = λ₂ / (λ₁ + λ₂): α = 1 is ridge."""
    alpha = lambda_2 / (lambda_1 + lambda_2)
    penalty = L1L2.from_ratio(lambda_1 + lambda_2, 1 - alpha)
    w = np.array([1.0, -2.0, 0.5], "float32")
    expected = (lambda_1 + lambda_2) * ((1 - alpha) * np.abs(w).sum() + alpha * np.square(w).sum())
    assert float(penalty(w)) == pytest.approx(expected, rel=1e-6)
    assert penalty.numbers() == pytest.approx((lambda_1, lambda_2))


def test_the_lambda_half_convention_is_weight_decay(regression):
    """Ridge(alpha) minimises ‖y − x w‖² + α ‖w‖²; halved, that is the (λ/2)‖w‖² convention with λ = α."""
    x, y = regression
    w = Ridge(alpha=3.0, fit_intercept=False, tol=1e-10).fit(x, y).coef_
    gradient = -x.T @ (y - x @ w)  # of ‖y − x w‖² / 2
    residual = L2.from_weight_decay(3.0).residual(w.astype("float32"), gradient.astype("float32"))
    assert np.abs(np.asarray(residual)).max() < 1e-4


@given(st.floats(min_value=0, max_value=1e300))
def test_weight_decay_round_trips(weight_decay):
    penalty = L2.from_weight_decay(weight_decay)
    assert penalty.as_weight_decay() == pytest.approx(weight_decay, abs=1e-323)
    assert penalty.strength == weight_decay / 2


def one_step(optimizer, penalty=None):
    rng = np.random.default_rng(5)
    layer = keras.layers.Dense(3, kernel_regularizer=penalty, bias_regularizer=penalty)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.set_weights([rng.normal(size=(4, 3)), rng.normal(size=3)])
    model.compile(optimizer, "mse")
    model.train_on_batch(rng.normal(size=(8, 4)).astype("float32"), rng.normal(size=(8, 3)).astype("float32"))
    return np.concatenate([w.ravel() for w in model.get_weights()])


def test_one_step_of_sgd_with_weight_decay_is_one_with_the_l2_penalty():
    decayed = one_step(keras.optimizers.SGD(0.1, weight_decay=0.05))
    penalized = one_step(keras.optimizers.SGD(0.1), L2.from_weight_decay(0.05))
    np.testing.assert_allclose(decayed, penalized, rtol=1e-6, atol=1e-7)
    assert np.abs(decayed - one_step(keras.optimizers.SGD(0.1))).max() > 1e-3


def test_the_decoupled_decay_of_adamw_is_no_l2_penalty():
    decayed = one_step(keras.optimizers.AdamW(0.1, weight_decay=0.05))
    penalized = one_step(keras.optimizers.Adam(0.1), L2.from_weight_decay(0.05))
    assert np.abs(decayed - penalized).max() > 1e-3
