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

import html.parser

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


@pytest.fixture(scope="session", autouse=True)
def compiled_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile a program once for all processes of the tests, and in a hurry: most of the time goes there."""
    if BACKEND != "jax":
        yield
        return
    import jax
    from jax._src.lru_cache import LRUCache
    from jax.experimental.compilation_cache import compilation_cache

    def put(self: LRUCache, key: str, value: bytes) -> None:
        # JAX writes into the file that others may be reading.
        own = self.path / f"{key}.{os.getpid()}"
        own.write_bytes(value)
        own.replace(self.path / f"{key}-cache")

    base = tmp_path_factory.getbasetemp()
    changes = {
        "jax_disable_most_optimizations": True,
        "jax_compilation_cache_dir": str(
            (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
        ),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: jax.config.values[name] for name in changes}
    for name, value in changes.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LRUCache, "put", put)
        yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


#: Names that must stay text wherever they are shown.
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    '"><script>alert(1)</script>',
    "' onmouseover='alert(1)",
    "</td></tr></table><iframe src=//x>",
    "&lt;b&gt; &amp;",
    "<!--",
    "\x00\x1b[31mred\x7f",
    "\u202eabc\ud800",
)


@pytest.fixture(params=HOSTILE)
def hostile(request: pytest.FixtureRequest) -> str:
    """A name that would be markup if it were not escaped."""
    return request.param


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.elements: list[Any] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[Any]) -> None:
        self.elements.append((tag, *attrs))
        if tag in ("caption", "th", "td", "p"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(f"/{tag}")

    def handle_comment(self, data: str) -> None:
        self.elements.append("comment")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.cells[-1] += data


@pytest.fixture(scope="session")
def shown() -> Callable[[Any], _Page]:
    """``shown(thing)``: what a notebook shows of it, ``elements`` with attributes and ``cells`` of text."""

    def page(thing: Any) -> _Page:
        content = thing._repr_html_()
        content.encode()  # a notebook is stored in UTF-8
        assert all(c.isprintable() or c == "\n" for c in content)
        found = _Page()
        found.feed(content)
        found.close()
        tags = {element[0] for element in found.elements if isinstance(element, tuple)}
        assert tags <= {"table", "caption", "thead", "tbody", "tr", "th", "td", "p"}
        attributes = {name for e in found.elements if isinstance(e, tuple) for name, _ in e[1:]}
        assert attributes <= {"style", "scope"}
        assert "url(" not in content
        return found

    return page


@pytest.fixture(scope="session")
def store_study() -> Callable[..., Any]:
    """``store_study(directory)``: a study as a run leaves it, of numbers made up instead of trained.

    Arms: ``none``, ``arm`` at three strengths, a trial of the largest diverged, and ``flat``; three seeds.
    The run is stopped after ``finished`` trials; ``sizes`` are those that compaction would leave.
    """
    from shrinkage.study import design
    from shrinkage.study.compare import summarise
    from shrinkage.study.directory import RunDirectory
    from shrinkage.study.files import write_json, write_text
    from shrinkage.study.results import frame
    from shrinkage.study.selection import cells, select
    from shrinkage.study.spec import StudySpec
    from shrinkage.study.storage import TrialStore
    from shrinkage.study.study import Study

    def figures(trial: Any, classification: bool) -> dict[str, float]:
        val = 0.5 + 0.01 * trial.seed + 0.1 * (trial.strength or 0.3)
        losses = {"train_data_loss": val - 0.1, "val_data_loss": val, "penalty": 0.1}
        return losses | ({"train_accuracy": 1.1 - val, "val_accuracy": 1 - val} if classification else {})

    def store(
        directory: Any,
        *,
        arm: str = "L2",
        classification: bool = True,
        finished: int | None = None,
        sizes: bool = True,
    ) -> Any:
        spec = StudySpec.parse({
            "name": arm, "data": "digits", "model": "shrinkage.models:mlp", "seeds": 3,
            "training": {"epochs": 4},
            "arms": [
                {"name": arm, "recipe": "*: kernel = l2(strength)", "strengths": [0.01, 0.1, 1.0]},
                {"name": "flat", "recipe": "*: bias = l1(0.01)"},
            ],
        })  # fmt: skip
        place, trials = RunDirectory(directory), design.trials(spec, {})
        write_text(place.spec, spec.to_toml())
        names = [a.name for a in spec.all_arms]
        kept = TrialStore(directory, None, spec.name)
        kept.claim("digest", {}, names)
        for trial in trials[:finished]:
            values = figures(trial, classification)
            rows = [{"epoch": e, **{k: v + 1 / e for k, v in values.items()}} for e in (1, 2, 3, 4)]
            place.write_curve(trial, rows)
            if trial.strength == 1.0 and trial.seed == 0:
                kept.add(trial, "diverged", {"epochs": 4, **values, "val_data_loss": float("nan")})
                continue
            size = {"zeros": 0.5, "units": 8.0, "live_units": 5.0, "parameters": 1000.0}
            size["compacted_parameters"] = 1000.0 - 300.0 * (trial.strength or 0) - trial.seed
            kept.add(trial, "complete", {"epochs": 4, **values, **(size if sizes else {})})
        if finished is None:
            table = frame(names, kept.finished(), {})
            chosen = {(c.arm, c.strength) for c in select(cells(table)).values()}
            scored = [t for t in trials if t.cell in chosen]
            tests = {t.key: figures(t, classification) for t in scored}
            place.write_test_scores({
                key: {k.replace("val", "test"): v for k, v in values.items() if k.startswith("val")}
                for key, values in tests.items()
            })  # fmt: skip
            table = frame(names, kept.finished(), place.test_scores())
            summary = summarise(
                table,
                place.curves(list(table["key"])),
                baseline="none",
                classification=classification,
            )
            write_json(place.summary, summary.to_json())
        return Study.load(directory)

    return store
