"""What every test stands on: the backend, Hypothesis's profile, and helpers that several rooms share."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis
import numpy as np
import pytest

hypothesis.settings.register_profile("local", deadline=None, print_blob=True)
hypothesis.settings.register_profile("ci", deadline=None, print_blob=True, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

BACKEND = os.environ["KERAS_BACKEND"]


def pytest_report_header() -> str:
    return f"keras backend: {BACKEND}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, and count, what needs JAX where another backend runs; skip what this one can't do."""
    for item in items:
        for mark in item.iter_markers("not_on"):
            backend, reason = mark.args
            if backend == BACKEND:
                item.add_marker(pytest.mark.skip(reason=reason))
    if BACKEND == "jax":
        return
    needs_jax = [item for item in items if item.get_closest_marker("jax_only")]
    if needs_jax:
        config.hook.pytest_deselected(items=needs_jax)
        items[:] = [item for item in items if not item.get_closest_marker("jax_only")]


@pytest.fixture(scope="session")
def backend() -> str:
    """The Keras backend that this process runs on."""
    return BACKEND


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let Keras draw the same initial weights whatever ran before: it takes its seeds from here."""
    random.seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of random numbers with a fixed seed."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def gradient() -> Callable[[Callable[[Any], Any], Any], np.ndarray]:
    """``gradient(f, w)``: the gradient of a scalar function at an array, by the active backend."""
    if BACKEND == "jax":
        import jax

        return lambda f, w: np.asarray(jax.grad(f)(jax.numpy.asarray(w)))

    if BACKEND == "torch":
        import torch

        def backward(f: Callable[[Any], Any], w: Any) -> np.ndarray:
            at = torch.tensor(np.asarray(w), requires_grad=True)
            return torch.autograd.grad(f(at), at)[0].numpy()

        return backward

    import tensorflow as tf

    def tape(f: Callable[[Any], Any], w: Any) -> np.ndarray:
        at = tf.convert_to_tensor(w)
        with tf.GradientTape() as recorded:
            recorded.watch(at)
            value = f(at)
        return recorded.gradient(value, at).numpy()

    return tape


@pytest.fixture(scope="session")
def compiled() -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """``compiled(f)``: the function compiled by the active backend; torch runs it as it stands."""
    if BACKEND == "jax":
        import jax

        return jax.jit

    if BACKEND == "torch":
        return lambda f: f

    import tensorflow as tf

    return tf.function


@pytest.fixture
def half_policy() -> Iterator[None]:
    """Layers built meanwhile compute in float16 and keep their weights in float32."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.fixture(scope="session")
def run_python() -> Callable[..., str]:
    """``run_python(code, *arguments)``: what a fresh interpreter prints, on the same backend or another."""

    def run(code: str, *arguments: str, keras_backend: str = BACKEND) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=240,
            env={**os.environ, "KERAS_BACKEND": keras_backend},
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def config_json() -> Callable[[Any], str]:
    """``config_json(model)``: the ``config.json`` that the model's ``.keras`` file would hold."""
    import json

    import keras

    def config(model: Any) -> str:
        # What keras.saving writes, less compile and build state, which no regularizer enters.
        return json.dumps(keras.saving.serialize_keras_object(model)["config"])

    return config


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile a program once, however many studies use it, and in a hurry: most of the time goes there."""
    if BACKEND != "jax":
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
