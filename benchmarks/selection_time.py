"""How long ``tune`` takes, against the plain loop: 13 strengths of L2 x 3 seeds of Keras's ``fit``.

The loop builds and compiles a model for each, as one does by hand, with the same 80 % of the rows, batch size
and epochs, and the rest as validation data; on the backend whose ``fit`` is the fastest for the network.
``tune`` does all that it does for a user: the search, the refit on all rows, the report, loading the model.
Each runs in a process of its own, imports not counted.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from machine import contender, spread, stated
from selection import BATCH, EPOCHS, GRID, HELD_OUT, OPTIONS, SEEDS, images

#: Network, rows, the backend whose fit is the fastest, and how many times as long its loop has to take.
WORKS = (
    ("mlp", 2000, "jax", 15),
    ("mlp", 10_000, "jax", 15),
    ("cnn", 500, "tensorflow", 6),
    ("cnn", 2000, "tensorflow", 6),
)


def tuned(network: str, data: Any) -> float:
    """Return the seconds of ``tune``."""
    import shrinkage

    begun = time.perf_counter()
    shrinkage.tune(
        f"shrinkage.models:{network}", data, model_options=OPTIONS[network], epochs=EPOCHS, batch_size=BATCH
    )
    return time.perf_counter() - begun


def looped(network: str, data: Any) -> float:
    """Return the seconds of Keras's ``fit`` for every strength and seed."""
    import keras

    from shrinkage import models

    x, y = data[:2]
    held = round(HELD_OUT * len(x))
    begun = time.perf_counter()
    for strength in GRID:
        for seed in SEEDS:
            keras.utils.set_random_seed(seed)
            model = getattr(models, network)(x.shape[1:], 10, **OPTIONS[network])
            config = model.get_config()
            for layer in config["layers"]:
                if "kernel_regularizer" in layer["config"]:
                    penalty = keras.regularizers.L2(strength)
                    layer["config"]["kernel_regularizer"] = keras.regularizers.serialize(penalty)
            model = keras.Sequential.from_config(config)
            model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
            validation = (x[:held], y[:held])
            model.fit(x[held:], y[held:], BATCH, EPOCHS, verbose=0, validation_data=validation)
    return time.perf_counter() - begun


def contend(options: argparse.Namespace) -> None:
    """Be one contender: print one line of JSON."""
    import tensorflow  # noqa: F401  # Keras imports it sooner or later, on every backend

    data = images("mnist", options.rows, 0.0, 0, options.data_dir)
    run = tuned if options.contender == "tune" else looped
    print(json.dumps({"seconds": run(options.network, data)}))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="where mnist lies")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--only", type=int, nargs="*", help="some of the works, by number")
    for hidden in ("--contender", "--network", "--rows"):
        parser.add_argument(hidden, help=argparse.SUPPRESS, type=int if hidden == "--rows" else str)
    options = parser.parse_args()
    if options.contender:
        contend(options)
        return
    with stated():
        print(f"{len(GRID)} strengths x {len(SEEDS)} seeds, {EPOCHS} epochs, batch {BATCH}; seconds\n")
        for i, (network, rows, backend, aim) in enumerate(WORKS):
            if options.only and i not in options.only:
                continue
            given = {"network": network, "rows": rows, "data-dir": options.data_dir}
            mine, theirs = [], []
            for _ in range(options.repeats):
                mine.append(contender(__file__, "jax", {**given, "contender": "tune"})["seconds"])
                theirs.append(contender(__file__, backend, {**given, "contender": "loop"})["seconds"])
            ratios = [b / a for a, b in zip(mine, theirs, strict=True)]
            print(
                f"{network}, mnist {rows:6,}   tune {spread(mine, digits=1):18} loop on {backend:10} "
                f"{spread(theirs, digits=1):20} {spread(ratios, digits=1)} times as long (at least {aim})",
                flush=True,
            )


if __name__ == "__main__":
    main()
