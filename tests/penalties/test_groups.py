"""Group lasso: what is particular to it, next to what every penalty holds to."""

from __future__ import annotations

import numpy as np
import pytest
from keras import ops
from scipy.optimize import brentq

from shrinkage.penalties import L1, GroupLasso, SparseGroupLasso, gradient_at_zero


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor), "float64")


def test_it_is_a_norm_and_not_its_square():
    """Doubling the weights doubles the charge, and four times as many alike entries make it fourfold."""
    w = np.random.default_rng(0).normal(size=(5, 3)).astype("float32")
    charge = GroupLasso(0.1)
    assert float(charge(2 * w)) == pytest.approx(2 * float(charge(w)), rel=1e-6)
    assert float(charge(np.tile(w, (4, 1)))) == pytest.approx(4 * float(charge(w)), rel=1e-6)
    assert float(charge(np.full((9, 1), 2.0, "float32"))) == pytest.approx(0.1 * 3 * 6, rel=1e-6)


def test_groups_of_one_entry_are_l1():
    w = np.random.default_rng(1).normal(size=7).astype("float32")
    step = np.random.default_rng(2).uniform(0.1, 2, 7).astype("float32")
    assert float(GroupLasso(0.3)(w)) == pytest.approx(float(L1(0.3)(w)), rel=1e-6)
    np.testing.assert_allclose(
        numpy(GroupLasso(0.3).prox(w, step)), numpy(L1(0.3).prox(w, step)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("spread", [1, 1e3, 1e6])
def test_the_prox_with_a_step_a_coordinate_solves_for_the_norm(spread):
    """Against a scalar root finder, over steps whose sizes differ by up to a million."""
    rng = np.random.default_rng(int(spread))
    w = rng.normal(size=(40, 200)).astype("float32")
    sizes = rng.choice([1e-3, 1, 30 * spread], 200)
    step = (spread ** rng.uniform(-0.5, 0.5, w.shape) * sizes).astype("float32")
    strength, found = 0.05, numpy(GroupLasso(0.05).prox(w, step))
    pull = strength * np.sqrt(40) * step.astype("float64")
    some = 0
    for unit, d, u in zip(w.T.astype("float64"), pull.T, found.T, strict=True):
        if np.sum((unit / d) ** 2) <= 1:
            assert (u == 0).all()
            continue
        some += 1
        left = lambda r, w=unit, d=d: np.sum((w / (r + d)) ** 2) - 1  # noqa: E731
        r = brentq(left, 0, np.linalg.norm(unit), xtol=1e-14)
        np.testing.assert_allclose(u, unit * r / (r + d), rtol=2e-5, atol=1e-6 * np.linalg.norm(unit))
    assert 20 < some < 180


def test_tiny_and_huge_groups_keep_their_direction():
    for size in (1e-30, 1e30):
        w = np.array([[3.0], [4.0]], "float32") * np.float32(size)
        np.testing.assert_allclose(numpy(GroupLasso(1.0).slope(w)) / np.sqrt(2), [[0.6], [0.8]], rtol=1e-5)


def test_lambda_max_is_where_the_first_group_enters():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(60, 8)).astype("float32")
    y = x[:, :1] @ rng.normal(size=(1, 3)).astype("float32")
    grad = gradient_at_zero(x, y)
    largest = GroupLasso(1.0).max_strength(grad)
    zero = np.zeros((8, 3), "float32")
    assert numpy(GroupLasso(1.001 * largest).residual(zero, grad)).max() == 0
    assert numpy(GroupLasso(0.999 * largest).residual(zero, grad)).max() > 0


def test_a_ratio_splits_the_strength():
    assert SparseGroupLasso.from_ratio(0.4, 0.25).numbers() == pytest.approx((0.1, 0.3))
    with pytest.raises(ValueError, match=r"l1_ratio must lie in \[0, 1\]; got 2"):
        SparseGroupLasso.from_ratio(0.4, 2)
