"""A study that stops its worst strengths at rungs, against its own full grid: time, and what each chooses.

Both train the same network on the same data: no penalty, and L2 and L1 at 18 strengths, with each of the
seeds; one after the other in one process each, a repeat with other seeds. The time is that of ``Study.run``,
compiling and storing included. With wrong training labels regularization matters; then strengths that look
alike early differ late, which is the hard case for rungs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import Any

from machine import contender, spread, stated

STRENGTHS = {"low": 1e-6, "high": 1e-1, "count": 18}
WRONG = {"clean labels": 0.0, "20 % wrong labels": 0.2}


def rows(source: str, data_dir: str | None, amount: int, wrong: float) -> Any:
    """Return the first ``amount`` training rows, a share of their labels drawn anew, and the test rows."""
    import numpy as np

    import shrinkage

    data = shrinkage.load_data(source, data_dir=data_dir)
    rng = np.random.default_rng(0)
    x, y = data.x_train[:amount], data.y_train[:amount].copy()
    drawn = rng.random(len(y)) < wrong
    y[drawn] = rng.integers(0, data.classes, drawn.sum())
    return x, y, data.x_test, data.y_test


def contend(options: argparse.Namespace) -> None:
    """Run one study: print one line of JSON."""
    import tensorflow  # noqa: F401  # Keras imports it sooner or later, on every backend

    from shrinkage import Study

    data = rows(options.data, options.data_dir, options.rows, WRONG[options.labels])
    arms = [
        {"name": name, "recipe": f"Dense: kernel = {name}(strength)", "strengths": STRENGTHS}
        for name in ("l2", "l1")
    ]
    first = options.repeat * options.seeds
    study = Study(
        "shrinkage.models:mlp",
        data,
        arms=arms,
        model_options={"hidden": [128]},
        seeds=list(range(first, first + options.seeds)),
        training={"epochs": options.epochs},
        strategy=options.strategy,
    )
    begun = time.perf_counter()
    summary = study.run(tempfile.mkdtemp())
    seconds = time.perf_counter() - begun
    frame = study.frame()
    best = summary.recommended
    strengths = {arm.arm: arm.selection.strength for arm in summary.arms}
    grid = sorted(frame["strength"].dropna().unique())
    found = {"seconds": seconds, "arm": best.arm, "grid": grid, "strengths": strengths}
    found["epochs"] = int(frame["epochs"].sum())
    found["loss"] = {arm.arm: arm.selection.chosen.val_data_loss.mean for arm in summary.arms}
    print(json.dumps(found))


def ask(strategy: str, labels: str, repeat: int, options: argparse.Namespace) -> dict[str, Any]:
    """Run one study in a process of its own."""
    given = {"strategy": strategy, "labels": labels, "repeat": repeat, "data": options.data}
    given |= {"rows": options.rows, "epochs": options.epochs, "seeds": options.seeds}
    if options.data_dir:
        given["data-dir"] = options.data_dir
    return contender(__file__, "jax", given)


def table(options: argparse.Namespace) -> None:
    """Print each kind of labels: times, their ratio, and what was chosen."""
    size = f"{options.data}, {options.rows} training rows, one hidden layer of 128, {options.epochs} epochs"
    print(f"{size}, 37 cells x {options.seeds} seeds, {options.repeats} repeats\n")
    for labels in WRONG:
        ratios, work, same, steps, lost = [], [], 0, [], []
        for repeat in range(options.repeats):
            full, rungs = (ask(strategy, labels, repeat, options) for strategy in ("grid", "halving"))
            ratios.append(full["seconds"] / rungs["seconds"])
            work.append(full["epochs"] / rungs["epochs"])
            same += full["arm"] == rungs["arm"]
            grid = full["grid"]
            for arm in ("l2", "l1"):
                places = [grid.index(found["strengths"][arm]) for found in (full, rungs)]
                steps.append(abs(places[0] - places[1]))
                lost.append(rungs["loss"][arm] - full["loss"][arm])
        near, apart = sum(step <= 1 for step in steps), " ".join(map(str, steps))
        print(labels)
        print(f"  times as fast                      {spread(ratios, digits=2)}")
        print(f"  times fewer epochs                 {spread(work, digits=2)}")
        print(f"  the same arm recommended           {same} of {options.repeats}")
        print(f"  strengths at most one step apart   {near} of {len(steps)} (steps: {apart})")
        print(f"  validation data loss of the choice {spread(lost, digits=4)} higher\n", flush=True)


def main() -> None:
    """Read the command line, and be the table or one of its contenders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="a named data set")
    parser.add_argument("--data-dir", default=None)
    parser.add_argument("--rows", type=int, default=1500)
    parser.add_argument("--epochs", type=int, default=45)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--strategy", help=argparse.SUPPRESS)
    parser.add_argument("--labels", help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.strategy:
        contend(options)
        return
    with stated():
        table(options)


if __name__ == "__main__":
    main()
