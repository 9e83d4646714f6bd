"""What the tests of studies share: a small data set."""

from __future__ import annotations

import numpy as np
import pytest

from shrinkage.data import Data


@pytest.fixture(scope="session")
def blobs() -> Data:
    """Three noisy classes in five dimensions: 90 training and 60 test rows."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 5))

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, 3, n)
        return (centres[y] + 2 * rng.normal(size=(n, 5))).astype("float32"), y

    return Data("blobs", *rows(90), *rows(60))
