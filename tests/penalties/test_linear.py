"""Where a path of strengths begins, checked against scikit-learn's solvers and against Keras's losses."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression

from shrinkage.errors import PenaltyError
from shrinkage.penalties import L1, L1L2, gradient_at_zero


@pytest.fixture
def x(rng):
    return rng.normal(size=(80, 5)) + rng.normal(size=5)


@pytest.fixture
def y(x, rng):
    return x @ np.array([1.0, 0, -2, 0, 0.3]) + rng.normal(size=len(x)) + 4


@pytest.mark.parametrize("intercept", [True, False])
def test_lasso_enters_its_first_weight_at_lambda_max(x, y, intercept):
    """scikit-learn's data loss carries ½, Keras's mse does not, so α = λ / 2."""
    largest = L1().max_strength(gradient_at_zero(x, y, intercept=intercept))
    solver = {"fit_intercept": intercept, "tol": 1e-10, "max_iter": 100_000}
    assert (Lasso(alpha=1.001 * largest / 2, **solver).fit(x, y).coef_ == 0).all()
    assert (Lasso(alpha=0.999 * largest / 2, **solver).fit(x, y).coef_ != 0).any()


@pytest.mark.parametrize("ratio", [0.2, 0.7])
def test_elastic_net_enters_its_first_weight_at_lambda_max_of_its_ratio(x, y, ratio):
    largest = L1L2.from_ratio(1, ratio).max_strength(gradient_at_zero(x, y))
    for scale, all_zero in ((1.001, True), (0.999, False)):
        # ½ (data loss + l1 ‖w‖₁ + l2 ‖w‖²) in scikit-learn's terms: α ρ = l1 / 2, α (1 − ρ) = l2.
        l1, l2 = L1L2.from_ratio(scale * largest, ratio).numbers()
        alpha = l1 / 2 + l2
        fitted = ElasticNet(alpha=alpha, l1_ratio=l1 / 2 / alpha, tol=1e-10, max_iter=100_000).fit(x, y)
        assert (fitted.coef_ == 0).all() == all_zero


def test_a_pure_ridge_never_empties_the_model(x, y):
    assert L1L2(0.0, 1.0).max_strength(gradient_at_zero(x, y)) == float("inf")


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_enters_its_first_weight_at_lambda_max(x, rng, classes):
    """scikit-learn minimises C Σ loss + ‖w‖₁, so λ = 1 / (C n)."""
    y = np.argmax(x[:, :classes] + rng.normal(size=(len(x), classes)) * 0.5, axis=1)
    if classes == 2:
        gradient = gradient_at_zero(x, y, "binary_crossentropy")
    else:
        gradient = gradient_at_zero(x, y, "sparse_categorical_crossentropy")
        one_hot = gradient_at_zero(x, np.eye(classes)[y], "categorical_crossentropy")
        np.testing.assert_array_equal(gradient, one_hot)
    largest = L1().max_strength(gradient)
    for scale, all_zero in ((1.01, True), (0.97, False)):
        model = LogisticRegression(
            l1_ratio=1,
            solver="saga",
            C=1 / (scale * largest * len(x)),
            tol=1e-6,
            max_iter=20_000,
            random_state=0,
        )
        assert (np.abs(model.fit(x, y).coef_) < 1e-6).all() == all_zero


LOSSES = {
    "mse": keras.losses.MeanSquaredError(),
    "sparse_categorical_crossentropy": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    "categorical_crossentropy": keras.losses.CategoricalCrossentropy(from_logits=True),
    "binary_crossentropy": keras.losses.BinaryCrossentropy(from_logits=True),
}


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradient_is_the_slope_of_kerass_loss(x, rng, loss, intercept):
    targets = {
        "mse": rng.normal(size=(len(x), 2)) + 1,
        "sparse_categorical_crossentropy": rng.integers(0, 3, len(x)),
        "categorical_crossentropy": np.eye(3)[rng.integers(0, 3, len(x))],
        "binary_crossentropy": rng.integers(0, 2, (len(x), 2)),
    }[loss]
    found = gradient_at_zero(x, targets, loss, intercept=intercept)
    wide = np.eye(3)[targets] if loss.startswith("sparse") else targets
    mean = wide.mean(0)
    link = {"mse": lambda m: m, "binary_crossentropy": lambda m: np.log(m / (1 - m))}.get(loss, np.log)
    bias = link(mean) if intercept else np.zeros_like(mean)

    def data_loss(w):
        return float(LOSSES[loss](targets.astype("float32"), (x @ w + bias).astype("float32")))

    assert found.shape == (x.shape[1], wide.shape[1])
    h = 1e-2
    for i in np.ndindex(found.shape):
        w = np.zeros(found.shape)
        w[i] = h
        assert found[i] == pytest.approx((data_loss(w) - data_loss(-w)) / (2 * h), abs=2e-3)


def test_kerass_long_name_is_the_same_loss(x, y):
    np.testing.assert_array_equal(gradient_at_zero(x, y, "mean_squared_error"), gradient_at_zero(x, y, "mse"))


@pytest.mark.parametrize(("loss", "hint"), [("mean_absolute_error", ""), ("ms", "Did you mean 'mse'?")])
def test_an_unknown_loss_is_refused_by_name(x, y, loss, hint):
    with pytest.raises(PenaltyError, match="No λ_max is known for the loss") as raised:
        gradient_at_zero(x, y, loss)
    assert repr(loss) in str(raised.value)
    assert hint in str(raised.value)
