"""What penalties add to a step of Keras's ``fit``: ours against Keras's own, side by side.

Two networks at batch 32: 784-128-10, and conv 32 - pool - conv 64 - pool - dense 10. All contestants of a
network are compiled and warmed up first. A round then times one short ``fit`` of each, in an order drawn
anew, and divides by the time of Keras's own regularizers in the same round: what slows the machine for a
while slows both sides. All contestants have the same weights throughout (the learning rate is 0).

Printed are the median of these ratios and its bootstrap interval, for the time on the wall and for the
processors' time, which other processes disturb less.

"Keras again" is a second model with Keras's own regularizers: its ratio is 1 but for noise, and its interval
says how small a difference this run could have seen.

    python benchmarks/penalty_step.py
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from keras import layers, regularizers
from machine import median_interval, spread, stated

import shrinkage
from shrinkage.recipe import make_live
from shrinkage.training.callbacks import Monitor, StrengthSchedule

TARGET = 1.05
LAMBDA = 1e-4
RATIO = f"{'wall / Keras [95 %]':24}{'processor / Keras [95 %]':26}wall, processor"

# A case is Keras's regularizer, the targets that it is given for, and the same as a recipe.
CASES: dict[str, tuple[Any, tuple[str, ...], str]] = {
    "L2 kernel+bias": (regularizers.L2, ("kernel", "bias"), f"kernel, bias = l2({LAMBDA})"),
    "L1 kernel": (regularizers.L1, ("kernel",), f"kernel = l1({LAMBDA})"),
    "L1L2 kernel": (
        lambda v: regularizers.L1L2(v, v),
        ("kernel",),
        f"kernel = l1_l2({LAMBDA}, {LAMBDA})",
    ),
    "L2 activity": (regularizers.L2, ("activity",), f"activity = l2({LAMBDA})"),
}


class Contestant:
    """A compiled model and the callbacks that its ``fit`` is given."""

    def __init__(self, model: Any, callbacks: list[Any] | None = None) -> None:
        self.model, self.callbacks = model, callbacks or []
        self.wall: list[float] = []
        self.processor: list[float] = []

    def fit(self, x: Any, y: Any) -> None:
        """Time one ``fit`` over the data."""
        wall, processor = time.perf_counter(), time.process_time()
        self.model.fit(x, y, batch_size=32, shuffle=False, verbose=0, callbacks=list(self.callbacks))
        self.wall.append(time.perf_counter() - wall)
        self.processor.append(time.process_time() - processor)

    def forget(self) -> None:
        """Drop the times so far."""
        self.wall.clear()
        self.processor.clear()


def mlp(**options: Any) -> Any:
    hidden = layers.Dense(128, activation="relu", **options)
    return keras.Sequential([keras.Input((784,)), hidden, layers.Dense(10, activation="softmax", **options)])


def cnn(**options: Any) -> Any:
    stack: list[Any] = [keras.Input((28, 28, 1))]
    for filters in (32, 64):
        stack += [layers.Conv2D(filters, 3, activation="relu", **options), layers.MaxPooling2D()]
    return keras.Sequential([*stack, layers.Flatten(), layers.Dense(10, activation="softmax", **options)])


NETWORKS: dict[str, tuple[Callable[..., Any], str]] = {"mlp": (mlp, "Dense"), "cnn": (cnn, "Conv2D, Dense")}


def compiled(build: Callable[..., Any], **options: Any) -> Any:
    # The time of a step can depend on the weights: all contestants have the same, and keep them at a learning
    # rate of 0, which changes nothing of what is computed.
    keras.utils.set_random_seed(0)
    model = build(**options)
    model.compile(keras.optimizers.Adam(0.0), "sparse_categorical_crossentropy")
    return model


def by_keras(build: Callable[..., Any], case: str) -> Any:
    regularizer, targets, _ = CASES[case]
    return compiled(build, **{f"{target}_regularizer": regularizer(LAMBDA) for target in targets})


def by_us(build: Callable[..., Any], case: str, selector: str) -> Any:
    model = compiled(build)
    shrinkage.apply(model, f"{selector}: {CASES[case][2]}")
    return model


def live(model: Any) -> Any:
    assert make_live(model)
    return model


def contestants(network: str, case: str) -> dict[str, Contestant]:
    """Return who is compared in one case; Keras's own regularizers come first."""
    build, selector = NETWORKS[network]
    found = {
        "Keras": Contestant(by_keras(build, case)),
        "Keras again": Contestant(by_keras(build, case)),
        "shrinkage": Contestant(by_us(build, case, selector)),
        "shrinkage, live strength": Contestant(live(by_us(build, case, selector))),
    }
    if case == "L2 kernel+bias":
        found |= {
            "no penalty": Contestant(compiled(build)),
            "shrinkage, StrengthSchedule": Contestant(
                by_us(build, case, selector), [StrengthSchedule(lambda epoch: LAMBDA)]
            ),
            "shrinkage, Monitor": Contestant(by_us(build, case, selector), [Monitor()]),
        }
    return found


def race(found: dict[str, Contestant], x: Any, y: Any, rounds: int) -> None:
    """Time every contestant once a round, in an order drawn anew."""
    for contestant in found.values():
        for _ in range(2):  # the first compiles
            contestant.fit(x, y)
        contestant.forget()
    order = np.random.default_rng(0)
    for _ in range(rounds):
        for name in order.permutation(list(found)):
            found[str(name)].fit(x, y)


def verdict(low: float, high: float) -> str:
    if high <= TARGET:
        return "within 5 %"
    return "over 5 %" if low > TARGET else "can't tell"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=30, help="alternations (at least 20 to report)")
    parser.add_argument("--mlp-steps", type=int, default=500, help="steps a fit, 784-128-10")
    parser.add_argument("--cnn-steps", type=int, default=30, help="steps a fit, the CNN")
    parser.add_argument("--network", choices=[*NETWORKS], help="this network only")
    parser.add_argument("--case", choices=[*CASES], help="this case only")
    options = parser.parse_args(argv)
    rng = np.random.default_rng(0)
    with stated():
        print(f"{'network':8}{'case':16}{'contestant':29}{'ms a step (min-max)':25}{RATIO}")
        for network in [options.network] if options.network else NETWORKS:
            steps = options.mlp_steps if network == "mlp" else options.cnn_steps
            shape = (784,) if network == "mlp" else (28, 28, 1)
            x = rng.random((32 * steps, *shape), "float32")
            y = rng.integers(0, 10, len(x))
            for case in [options.case] if options.case else CASES:
                found = contestants(network, case)
                race(found, x, y, options.rounds)
                report(network, case, found, steps)


def report(network: str, case: str, found: dict[str, Contestant], steps: int) -> None:
    for name, contestant in found.items():
        line = f"{network:8}{case:16}{name:29}{spread(contestant.wall, steps / 1000):25}"
        if name != "Keras":
            wall = median_interval(np.divide(contestant.wall, found["Keras"].wall))
            processor = median_interval(np.divide(contestant.processor, found["Keras"].processor))
            line += "{:.3f} [{:.3f}, {:.3f}]".format(*wall).ljust(24)
            line += "{:.3f} [{:.3f}, {:.3f}]".format(*processor).ljust(26)
            if name.startswith("shrinkage"):
                line += f"{verdict(*wall[1:])}, {verdict(*processor[1:])}"
        print(line.rstrip(), flush=True)


if __name__ == "__main__":
    main()
