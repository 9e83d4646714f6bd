"""Exact zeros and the smaller model: proximal training against Keras's, group lasso, compaction.

Trains on MNIST (``mnist.npz`` in ``--data-dir``), always with Keras's ``fit``. The table says what is asked
and what was found: median (smallest-largest) over the seeds.
"""

from __future__ import annotations

import argparse
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers
from machine import median_interval, spread, stated

import shrinkage
from shrinkage.compact.measure import latencies
from shrinkage.recipe.charges import data_loss

LOSS = "sparse_categorical_crossentropy"


def images(rows: int, options: argparse.Namespace) -> tuple[Any, ...]:
    """Return training and test images in [0, 1], with their digits."""
    data = shrinkage.load_data("mnist", data_dir=options.data_dir)
    x, y = data.scaled(data.x_train[:rows]), data.y_train[:rows]
    return x, y, data.scaled(data.x_test), data.y_test


def train(model: Any, optimizer: Any, x: Any, y: Any, epochs: int, batch: int, callback: Any = None) -> None:
    """Compile and fit."""
    model.compile(optimizer, LOSS, metrics=["accuracy"])
    model.fit(x, y, epochs=epochs, batch_size=batch, verbose=0, callbacks=[callback] if callback else None)


def warm_up() -> Any:
    """Let strengths rise over three epochs: a unit that is silent at first has no gradient to stay by."""
    rise = (0.01, 1 / 3, 2 / 3, 1.0)

    def strength(epoch: int, present: float) -> float:
        before = rise[min(epoch - 1, 3)] if epoch else 1.0
        return present * rise[min(epoch, 3)] / before

    return shrinkage.StrengthSchedule(strength)


def accuracy(model: Any, x: Any, y: Any) -> float:
    """Return the percentage of images that are classified rightly."""
    return 100 * float(np.mean(model.predict(x, batch_size=500, verbose=0).argmax(1) == y))


def row(asked: str, values: Sequence[float], digits: int = 2) -> None:
    """Print a line of the table."""
    print(f"  {asked:<66} {spread(values, digits=digits)}", flush=True)


# --- zeros --------------------------------------------------------------------------------------------------


def mlp() -> Any:
    """784-256-128-10."""
    hidden = [layers.Dense(256, "relu"), layers.Dense(128, "relu"), layers.Dense(10, "softmax")]
    return keras.Sequential([keras.Input((28, 28, 1)), layers.Flatten(), *hidden])


def zeros(options: argparse.Namespace) -> None:
    """L1 by subgradient and by proximal steps, at the same strength, epochs and seeds."""
    strength, epochs = 3e-4, 20
    x, y, x_test, y_test = images(20_000, options)
    print(
        f"MLP 784-256-128-10, L1 {strength:g} on kernels, Adam, {len(x)} images, {epochs} epochs, batch 100"
    )
    found: dict[str, list[Any]] = {}
    for seed in range(options.seeds):
        for way in ("Keras", "Proximal"):
            keras.utils.set_random_seed(seed)
            model = mlp()
            if way == "Keras":
                model = keras.models.clone_model(model, clone_function=_with_l1(strength))
                optimizer = keras.optimizers.Adam()
            else:
                shrinkage.apply(model, f"Dense: kernel = l1({strength})")
                optimizer = shrinkage.Proximal(keras.optimizers.Adam())
            train(model, optimizer, x, y, epochs, 100)
            kernels = [
                keras.ops.convert_to_numpy(layer.kernel) for layer in model.layers if hasattr(layer, "kernel")
            ]
            penalty = strength * sum(float(np.abs(k).sum()) for k in kernels)
            share = 100 * sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels)
            fit = data_loss(model, x, y)
            found.setdefault(way, []).append((share, fit + penalty, accuracy(model, x_test, y_test)))
    own, ours = (np.array(found[way]).T for way in ("Keras", "Proximal"))
    row("exact zeros with Keras's L1, %", own[0])
    row("exact zeros with Proximal, % (at least 90)", ours[0])
    row("objective, Keras's L1", own[1], 4)
    row("objective, Proximal (not higher)", ours[1], 4)
    row("test accuracy with Keras's L1, %", own[2])
    row("points of test accuracy lost by Proximal (at most 0.2)", own[2] - ours[2])


def _with_l1(strength: float) -> Callable[[Any], Any]:
    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, layers.Dense):
            config["kernel_regularizer"] = keras.regularizers.L1(strength)
        return type(layer).from_config(config)

    return clone


# --- smaller models -----------------------------------------------------------------------------------------


def cnn(first: int = 32, second: int = 64) -> Any:
    """Two convolutions with pooling, and a head."""
    parts = [layers.Conv2D(first, 3, activation="relu", name="conv_1"), layers.MaxPooling2D(2)]
    parts += [layers.Conv2D(second, 3, activation="relu", name="conv_2"), layers.MaxPooling2D(2)]
    return keras.Sequential(
        [keras.Input((28, 28, 1)), *parts, layers.Flatten(), layers.Dense(10, "softmax", name="head")]
    )


def resnet() -> Any:
    """Return a strided stem, two residual blocks of 16 maps and two of 32, BatchNormalization throughout."""

    def conv(t: Any, filters: int, name: str, strides: int = 1, size: int = 3, active: bool = True) -> Any:
        t = layers.Conv2D(filters, size, strides, "same", use_bias=False, name=name)(t)
        t = layers.BatchNormalization(name=f"{name}_norm")(t)
        return layers.ReLU()(t) if active else t

    inputs = keras.Input((28, 28, 1))
    t = conv(inputs, 16, "stem", 2)
    for i, (filters, strides) in enumerate([(16, 1), (16, 1), (32, 2), (32, 1)]):
        inner = conv(t, filters, f"block_{i}_inner", strides)
        inner = conv(inner, filters, f"block_{i}_outer", active=False)
        short = t if strides == 1 else conv(t, filters, f"block_{i}_short", strides, 1, active=False)
        t = layers.ReLU()(layers.Add()([inner, short]))
    t = layers.GlobalAveragePooling2D()(t)
    return keras.Model(inputs, layers.Dense(10, "softmax", name="head")(t))


def smaller(
    name: str,
    build: Any,
    recipe: str,
    rows: int,
    options: argparse.Namespace,
    *,
    small_epochs: int = 10,
    rate: float = 2e-3,
) -> None:
    """Compare a model trained plainly with one trained with a group lasso, debiased, compacted, trained on.

    Both are trained for as many epochs, and end with a learning rate that falls to zero; the small model's
    begins at ``rate``.
    """
    x, y, x_test, y_test = images(rows, options)
    sparse_epochs, frozen_epochs = 6, 3
    steps, batch = -(-len(x) // 128), 128
    whole = sparse_epochs + frozen_epochs + small_epochs
    print(f"{name}, {len(x)} images, {whole} epochs, batch {batch}; the smaller model: {sparse_epochs} with")
    print(f"  {recipe},")
    print(f"  then {frozen_epochs} with the zeros kept, and {small_epochs} after compaction")
    found: list[tuple[float, ...]] = []
    for seed in range(options.seeds):
        keras.utils.set_random_seed(seed)
        plain = build()
        train(plain, keras.optimizers.Adam(falling(1e-3, whole * steps)), x, y, whole, batch)
        keras.utils.set_random_seed(seed)
        sparse = build()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", shrinkage.errors.ShrinkageWarning)
            shrinkage.apply(sparse, recipe.split("; "))
        train(sparse, shrinkage.Proximal("adam"), x, y, sparse_epochs, batch, warm_up())
        train(sparse, shrinkage.Proximal("adam", freeze_support=True), x, y, frozen_epochs, batch)
        small, receipt = shrinkage.compact(sparse, x_test[:1000])
        train(small, keras.optimizers.Adam(falling(rate, small_epochs * steps)), x, y, small_epochs, batch)
        before, after = receipt.before, receipt.after
        base, left = (accuracy(model, x_test, y_test) for model in (plain, small))
        ratios = (before.parameters / after.parameters, before.macs / after.macs)
        speed = before.latency_64 / after.latency_64
        found.append((*ratios, speed, base, base - left, 1e6 * receipt.largest_difference))
        print(f"    filters {_units(sparse)} -> {_units(small)}", flush=True)
    values = np.array(found).T
    row("times fewer parameters (CNN: at least 8)", values[0])
    row("times fewer multiplications (ResNet: at least 2.5)", values[1])
    row("times faster, batch 64 (CNN: at least 3)", values[2])
    row("test accuracy of the plain model, %", values[3])
    row("points lost to it (CNN: at most 0.3, ResNet: 0.5)", values[4])
    row("relative difference of outputs by compaction, 1e-6 (at most 10)", values[5])


def falling(rate: float, steps: int) -> Any:
    """Return a learning rate that falls to zero."""
    return keras.optimizers.schedules.CosineDecay(rate, steps)


def _units(model: Any) -> str:
    return "-".join(str(layer.filters) for layer in model.layers if isinstance(layer, layers.Conv2D))


def latency(options: argparse.Namespace) -> None:
    """Time `predict_on_batch` of the CNN, of two sizes that compaction leaves, and of the least there is."""
    sizes = [(32, 64), (10, 12), (8, 13), (1, 1)]
    models = [cnn(*filters) for filters in sizes]
    x, *_ = images(64, options)
    print(f"CNN on {keras.backend.backend()}: milliseconds of predict_on_batch, and times faster")
    for rows in (64, 1):
        found = latencies(models, x, rows)
        for (first, second), took in zip(sizes, found, strict=True):
            print(f"  batch {rows:2}, {first:2}-{second:2} filters {took:8.2f} {found[0] / took:6.1f}")


# --- a step's time ------------------------------------------------------------------------------------------


def step(options: argparse.Namespace) -> None:
    """Time a step of Adam with L1, plain and proximal, alternating."""
    x, y, _, _ = images(6400, options)
    print("Step of Adam with L1 on kernels, batch 100; Proximal / plain, median [95 %] of 30 alternations")
    for name, build in (("MLP 784-256-128-10", mlp), ("CNN 32-64-10", cnn)):
        models = {}
        for way in ("plain", "proximal"):
            keras.utils.set_random_seed(0)
            model = build()
            shrinkage.apply(model, "*: kernel = l1(3e-4)")
            optimizer = keras.optimizers.Adam()
            model.compile(shrinkage.Proximal(optimizer) if way == "proximal" else optimizer, LOSS)
            models[way] = model
        rows = len(x) if build is mlp else 800
        ratios, rng = [], np.random.default_rng(0)
        for i in range(33):
            took = {}
            for way in rng.permutation(["plain", "proximal"]):
                begun = time.perf_counter()
                models[way].fit(x[:rows], y[:rows], batch_size=100, verbose=0)
                took[way] = time.perf_counter() - begun
            if i >= 3:
                ratios.append(took["proximal"] / took["plain"])
        middle, low, high = median_interval(ratios)
        print(f"  {name:<66} {middle:.3f} [{low:.3f}, {high:.3f}] (at most 1.05)", flush=True)


CNN = "conv_1: unit = group_lasso(0.0025); conv_2: unit = group_lasso(0.0013)"
RESNET = "block_*_inner: unit = group_lasso(0.01)"
PARTS = {
    "zeros": zeros,
    "cnn": lambda options: smaller("CNN 32-64-10", cnn, CNN, 60_000, options, small_epochs=20, rate=4e-3),
    "latency": latency,
    "resnet": lambda options: smaller("ResNet", resnet, RESNET, 20_000, options),
    "step": step,
}


def main() -> None:
    """Read the command line and print the parts of the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", required=True, help="where mnist.npz lies")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=list(PARTS))
    options = parser.parse_args()
    with stated():
        for part in options.only:
            PARTS[part](options)
            print()


if __name__ == "__main__":
    main()
