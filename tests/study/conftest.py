"""What the tests of studies share: a compilation cache, and a small data set."""

from __future__ import annotations

from collections.abc import Iterator

import keras
import numpy as np
import pytest

from shrinkage.data import Data


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile a program once, however many studies use it, and in a hurry: most of the time goes there."""
    if keras.backend.backend() != "jax":
        yield
        return
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    changes = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture(scope="session")
def blobs() -> Data:
    """Three noisy classes in five dimensions: 90 training and 60 test rows."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 5))

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        y = rng.integers(0, 3, n)
        return (centres[y] + 2 * rng.normal(size=(n, 5))).astype("float32"), y

    return Data("blobs", *rows(90), *rows(60))
