"""Many strengths of one network: the vectorised loop against Keras's ``fit`` in a loop, as people write it.

Each contender runs in a process of its own, one after the other, and trains the same rows for the same
epochs at the same strengths; a repeat is a new process. Its time runs from the built data to the last
weights: building, tracing and compiling included. ``keras …`` is the plain loop (build, compile, fit for
each strength) on that backend; ``shrinkage`` is :class:`shrinkage.training.jax_loop.JaxLoop` as a study
uses it, its choice of lanes and lowering included, and ``in one thread`` the same without programs side by
side.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from typing import Any

from machine import contender, stated

# network, batch size, strengths, the backends of the plain loop, and what is asked of the ratio.
WORKS: dict[str, tuple[str, int, int, str]] = {
    "mlp": ("Dense 784-128-10, batch 32, 16 strengths", 32, 16, "2, and 10 against TensorFlow"),
    "cnn": ("CNN 32-64-10, batch 32, 5 strengths", 32, 5, "1.3, aim 2"),
    "cnn-dropout": ("CNN 32-64-256-47 with dropout, batch 32, 8 arms", 32, 8, "1.6, aim 2.5"),
    "cnn-dropout-250": ("the same, batch 250", 250, 8, "1.0, aim 1.5"),
}
OURS = ("shrinkage", "in one thread")
MFLOP = {"cnn": 14.4, "cnn-dropout": 16.7, "cnn-dropout-250": 16.7}  # of one sample's training step


def build(work: str) -> Any:
    """Return the network of a work, without penalties."""
    import keras
    from keras import layers

    if work == "mlp":
        parts = [keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(128, "relu")]
        return keras.Sequential([*parts, layers.Dense(10, "softmax")])
    drop = [layers.Dropout(0.25) for _ in range(2)] if work != "cnn" else []
    parts = [keras.Input((28, 28, 1))]
    parts += [layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(2), *drop[:1]]
    parts += [layers.Conv2D(64, 3, activation="relu"), layers.MaxPooling2D(2), *drop[1:], layers.Flatten()]
    if work != "cnn":
        parts.append(layers.Dense(256, "relu"))
    return keras.Sequential([*parts, layers.Dense(10 if work == "cnn" else 47, "softmax")])


def images(rows: int) -> tuple[Any, Any]:
    """Return made-up images and classes: what is timed does not depend on what they show."""
    import numpy as np

    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (rows, 28, 28, 1), "uint8").astype("float32") / 255, rng.integers(0, 10, rows)


def strengths(count: int) -> list[float]:
    """Return a geometric grid."""
    return [10 ** (-6 + 4 * i / max(1, count - 1)) for i in range(count)]


def plain_loop(work: str, rows: int, epochs: int, batch: int, count: int) -> float:
    """Train one model a strength by Keras's ``fit``; return the seconds."""
    import keras

    x, y = images(rows)
    begun = time.perf_counter()
    for strength in strengths(count):
        model = build(work)
        penalised = [layer for layer in model.layers if hasattr(layer, "kernel_regularizer")]
        config = model.get_config()
        for layer in config["layers"]:
            if layer["config"]["name"] in {p.name for p in penalised}:
                layer["config"]["kernel_regularizer"] = keras.regularizers.serialize(
                    keras.regularizers.L2(strength)
                )
        model = keras.Sequential.from_config(config)
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0)
    return time.perf_counter() - begun


def vectorised(
    work: str, rows: int, epochs: int, batch: int, count: int, lanes: int, threads: bool
) -> tuple[float, str]:
    """Train all strengths by the vectorised loop; return the seconds, and how it ran them."""
    import numpy as np

    from shrinkage.recipe import Recipe
    from shrinkage.training import jax_loop
    from shrinkage.training.choose import Choice
    from shrinkage.training.jax_loop import JaxLoop
    from shrinkage.training.objective import resolve_objective
    from shrinkage.training.task import Lane, Split, Task

    x, y = images(rows + 32)
    split = Split(np.arange(rows), np.arange(rows, rows + 32))
    recipes = {"l2": Recipe("*: kernel = l2(strength)")}
    grid = [Lane("l2", strength, 0) for strength in strengths(count)]
    if not threads:
        jax_loop.processors = lambda: 1
    begun = time.perf_counter()
    objective = resolve_objective("auto", (), y, build(work))
    task = Task(lambda: build(work), recipes, x, y, (split,), objective, epochs=epochs, batch_size=batch)
    loop = JaxLoop(task, grid, Choice(lanes) if lanes else None)
    results = list(loop.run(grid, lambda record: None))
    assert all(result.state == "complete" for result in results)
    return time.perf_counter() - begun, str(loop.choice)


def matrix_peak() -> float:
    """Return the GFLOP/s of a large float32 matrix product in this process."""
    import jax
    import jax.numpy as jnp

    a = jnp.ones((2048, 2048))
    product = jax.jit(lambda a: a @ a)
    jax.block_until_ready(product(a))
    best = float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(product(a))
        best = min(best, time.perf_counter() - begun)
    return 2 * 2048**3 / best / 1e9


def contend(options: argparse.Namespace) -> None:
    """Be one contender: print one line of JSON."""
    import tensorflow  # noqa: F401  # Keras imports it sooner or later, on every backend

    batch, count = WORKS[options.work][1], options.strengths or WORKS[options.work][2]
    amount = (options.work, options.rows, options.epochs, batch, count)
    how = ""
    if options.contender in OURS:
        seconds, how = vectorised(*amount, options.lanes, options.contender == OURS[0])
    else:
        seconds = plain_loop(*amount)
    found = {"seconds": seconds, "how": how, "peak": 0.0}
    found["mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if options.contender in OURS and options.work in MFLOP:
        found["peak"] = matrix_peak()
    print(json.dumps(found))


def ask(work: str, name: str, options: argparse.Namespace, **more: int) -> dict[str, Any]:
    """Run one contender in a process of its own."""
    backend = "jax" if name in OURS else name.removeprefix("keras ")
    amount = {"rows": options.rows, "epochs": options.epochs}
    return contender(__file__, backend, {"work": work, "contender": name, **amount, **more})


def table(options: argparse.Namespace) -> None:
    """Print every work's contenders, side by side."""
    amount = f"{options.rows} rows, {options.epochs} epochs, {options.repeats} repeats"
    print(f"{amount}; seconds: median (min-max)\n")
    for work, (title, _, count, asked) in WORKS.items():
        if options.only and work not in options.only:
            continue
        print(f"{title} (at least {asked} times)", flush=True)
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(options.repeats):  # in turn, so that a slow minute meets all of them
            for name in (*OURS, *(f"keras {backend}" for backend in options.backends)):
                found.setdefault(name, []).append(ask(work, name, options))
        ours = statistics.median(run["seconds"] for run in found["shrinkage"])
        for name, runs in found.items():
            seconds = [run["seconds"] for run in runs]
            middle = statistics.median(seconds)
            pace = count * options.epochs * options.rows / middle
            spread = f"{middle:.1f} ({min(seconds):.1f}-{max(seconds):.1f})"
            line = f"  {name:17}{spread:>20}{pace:12,.0f} samples/s"
            if name in OURS:
                line += f"   {runs[0]['how']}"
                if work in MFLOP:
                    share = MFLOP[work] * pace / 1e3 / statistics.median(run["peak"] for run in runs)
                    line += f"; {100 * share:.0f} % of a large product's pace"
            if name != OURS[0]:
                line += f"   {middle / ours:.2f} times as long"
            print(line, flush=True)
        print()
    if not options.only:
        peaks = {n: ask("mlp", "shrinkage", options, strengths=n, lanes=n)["mebibytes"] for n in (1, 4, 16)}
        print("peak memory of the process, Dense 784-128-10: "
              + ", ".join(f"{n} lanes {size:.0f} MiB" for n, size in peaks.items()))  # fmt: skip


def main() -> None:
    """Read the command line, and be the table or one of its contenders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--backends", nargs="*", default=["jax", "tensorflow"])
    parser.add_argument("--only", nargs="*", choices=list(WORKS))
    parser.add_argument("--work", choices=list(WORKS), help=argparse.SUPPRESS)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    parser.add_argument("--strengths", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--lanes", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options)
        return
    with stated():
        table(options)


if __name__ == "__main__":
    main()
