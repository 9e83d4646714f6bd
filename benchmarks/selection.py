"""How well and how cheaply a strength is found: ``tune`` against a full grid, Optuna and KerasTuner.

A cell of the table is a network, a data set, a number of training images and a share of wrong training
labels; a repeat draws the images and the wrong labels anew. Its oracle is the best of 13 strengths of L2 on
kernels (and no penalty), each trained on all images from 3 seeds, that is chosen on one half of the test
images and scored on the other, both ways. What a search chose is trained and scored alike, on the same
halves: its regret is the oracle's accuracy less its own. Row-epochs, rows times epochs that were trained,
tell what a search cost, next to the grid of 13 x 3 on the same 80 % of the rows that a search trains on. The
two others are given a fifth of the grid's.

Needs KerasTuner, which the package does not: ``pip install keras-tuner``. Results are kept in ``--store``, a
line of JSON each, so that the same command goes on where it was stopped, and ``--repeats 0`` prints what is
there. Where the search has changed since, the lines that it would find otherwise have to go.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import stated

EPOCHS, BATCH, SEEDS = 30, 32, (0, 1, 2)
GRID = tuple(float(f"{s:.4g}") for s in np.geomspace(1e-6, 1.0, 13))
HELD_OUT = 0.2
CELLS = tuple(
    (network, source, rows, wrong)
    for network, source, rows in (
        ("mlp", "digits", 500), ("mlp", "mnist", 500), ("mlp", "mnist", 2000), ("mlp", "mnist", 10_000),
        ("cnn", "digits", 500), ("cnn", "mnist", 500), ("cnn", "mnist", 2000),
    )
    for wrong in (0.0, 0.2)
)  # fmt: skip
AIMS = {500: 0.3, 2000: 0.2, 10_000: 0.1}
OPTIONS = {"mlp": {"hidden": [128]}, "cnn": {"filters": [8, 16]}}
SMALL = {"filters": [16]}  # two poolings do not fit an image of 8 x 8


def images(source: str, rows: int, wrong: float, repeat: int, data_dir: str | None) -> tuple[Any, ...]:
    """Return training images and labels, a share of these wrong, and test images and labels."""
    import shrinkage

    data = shrinkage.load_data(source, data_dir=data_dir)
    rng = np.random.default_rng([repeat, rows])
    x, y, x_test, y_test = data.x_train, data.y_train, data.x_test, data.y_test
    if source == "digits":  # its test split is small: all of it is drawn anew
        x, y = np.concatenate([x, x_test]), np.concatenate([y, y_test])
        order = rng.permutation(len(x))
        x_test, y_test = x[order[rows:]], y[order[rows:]]
    else:
        order = rng.permutation(len(x))
    x, y = x[order[:rows]], y[order[:rows]].copy()
    drawn = rng.random(rows) < wrong
    y[drawn] = (y[drawn] + rng.integers(1, data.classes, drawn.sum())) % data.classes
    return data.scaled(x), y, data.scaled(x_test), y_test


class Bench:
    """One repeat of a cell: its data, its network, and the loops that train it."""

    def __init__(self, options: argparse.Namespace) -> None:
        from shrinkage import models

        self.network, source, rows, wrong = CELLS[options.cell]
        self.x, self.y, self.x_test, self.y_test = images(
            source, rows, wrong, options.repeat, options.data_dir
        )
        self.options = SMALL if (self.network, source) == ("cnn", "digits") else OPTIONS[self.network]
        self.repeat = options.repeat
        self.build = lambda: getattr(models, self.network)(self.x.shape[1:], 10, **self.options)
        self.whole = self._loop(np.arange(rows), np.arange(16))
        rng = np.random.default_rng([options.repeat, 7])
        order = rng.permutation(rows)
        held = round(HELD_OUT * rows)
        self.train = rows - held
        self.held_out = self._loop(np.sort(order[held:]), np.sort(order[:held]), lanes=1)
        half = len(self.x_test) // 2
        order = rng.permutation(len(self.x_test))
        self.halves = order[:half], order[half:]
        self._scores: dict[float, np.ndarray] = {}

    def _loop(self, train: Any, validation: Any, lanes: int | None = None) -> Any:
        from shrinkage.recipe import Recipe
        from shrinkage.training.choose import Choice
        from shrinkage.training.initial import with_fresh_names
        from shrinkage.training.jax_loop import JaxLoop
        from shrinkage.training.objective import resolve_objective
        from shrinkage.training.task import Split, Task

        objective = resolve_objective("auto", (), self.y, with_fresh_names(self.build))
        task = Task(
            self.build, {"l2": Recipe("*: kernel = l2(strength)")}, self.x, self.y,
            (Split(train, validation),), objective, epochs=EPOCHS, batch_size=BATCH,
        )  # fmt: skip
        loop = JaxLoop(task, [self.lane(s, seed) for s in (0.0, *GRID) for seed in SEEDS])
        if lanes is not None:
            loop._choice = Choice(lanes, lowering=self.whole.choice.lowering)
        return loop

    def lane(self, strength: float, seed: int) -> Any:
        """Return a trial of the penalty."""
        from shrinkage.training.task import Lane

        return Lane("l2", strength, seed)

    def score(self, strengths: Sequence[float]) -> np.ndarray:
        """Return the mean test accuracy over seeds of models trained on all rows: strengths x halves."""
        new = [s for s in dict.fromkeys(strengths) if s not in self._scores]
        lanes = [self.lane(s, seed) for s in new for seed in SEEDS]
        found = defaultdict(list)
        for result in (
            self.whole.run(lanes, lambda record: None, self.whole.task.wave(lanes)) if lanes else ()
        ):
            values = [0.1, 0.1]  # diverged: a guess
            if result.state == "complete":
                values = [
                    self.whole.score(result.lane, result.weights, self.x_test[h], self.y_test[h])["accuracy"]
                    for h in self.halves
                ]
            found[result.lane.strength].append(values)
        self._scores |= {s: np.mean(values, axis=0) for s, values in found.items()}
        return np.array([self._scores[s] for s in strengths])

    def regret(self, strength: float) -> float:
        """Return the oracle's test accuracy less that of a strength, in points."""
        tried = self.score((0.0, *GRID))
        own = self.score([strength])[0]
        best = tried.argmax(axis=0)
        return float(100 * np.mean([tried[best[0], 1] - own[1], tried[best[1], 0] - own[0]]))

    def losses(
        self,
        strength: float,
        on_loss: Callable[[int, float], None] = lambda epoch, loss: None,
        epochs: int = EPOCHS,
    ) -> list[float]:
        """Return a trial's validation data losses, an epoch each; ``on_loss`` may raise to end it."""
        lane, found = self.lane(strength, 0), list[float]()

        def on_epoch(record: Any) -> None:
            found.append(record.values["val_data_loss"])
            on_loss(record.epoch, found[-1])

        wave = replace(self.held_out.task.wave([lane]), epochs=epochs)
        list(self.held_out.run([lane], on_epoch, wave))
        return found


# --- contestants -------------------------------------------------------------------------------------------


def by_tune(bench: Bench) -> dict[str, Any]:
    """Find a strength by ``shrinkage.tune``."""
    import shrinkage

    data = (bench.x, bench.y, bench.x_test[:16], bench.y_test[:16])  # no test row has a say
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        tuned = shrinkage.tune(
            f"shrinkage.models:{bench.network}", data, model_options=bench.options, epochs=EPOCHS,
            batch_size=BATCH, seeds=[bench.repeat], directory=Path(folder) / "run",
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        search = json.loads((Path(folder) / "run" / "summary.json").read_text())["search"]
    return {
        "strength": tuned.strength,
        "row_epochs": search["row_epochs"],
        "seconds": seconds,
        "trials": search["trials"],
    }


def by_optuna(bench: Bench, budget: int) -> dict[str, Any]:
    """Find a strength by Optuna's TPE with its median pruner."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        sampler=optuna.samplers.TPESampler(seed=bench.repeat),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=EPOCHS // 6),
    )
    spent = 0
    while spent < budget:
        trial = study.ask()
        strength = trial.suggest_float("strength", GRID[0], GRID[-1], log=True)

        def on_loss(epoch: int, loss: float, trial: Any = trial) -> None:
            nonlocal spent
            spent += bench.train
            trial.report(loss, epoch)
            if epoch < EPOCHS and (trial.should_prune() or spent >= budget):
                raise optuna.TrialPruned

        try:
            study.tell(trial, bench.losses(strength, on_loss)[-1])
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    return {"strength": study.best_params["strength"], "row_epochs": spent, "trials": len(study.trials)}


def by_keras_tuner(bench: Bench, budget: int) -> dict[str, Any]:
    """Find a strength by KerasTuner's Hyperband.

    Its trials are trained by the loop of the others. One that goes on is trained from the beginning, and
    charged for what is new: the same losses, without its checkpoints.
    """
    import keras_tuner

    gc.freeze()  # it collects garbage twice a trial, which would be most of its time

    class SpentError(Exception):
        pass

    spent, ends = 0, list[tuple[int, float, float]]()

    class Model(keras_tuner.HyperModel):
        def build(self, hp: Any) -> Any:
            hp.Float("strength", GRID[0], GRID[-1], sampling="log")
            model = bench.build()
            model.compile("adam", "sparse_categorical_crossentropy")
            return model

        def fit(self, hp: Any, model: Any, *args: Any, **kwargs: Any) -> dict[str, float]:
            nonlocal spent
            first, last = kwargs.get("initial_epoch", 0), kwargs["epochs"]
            if spent >= budget:
                raise SpentError
            losses = bench.losses(hp.get("strength"), epochs=last)
            spent += bench.train * (last - first)
            ends.append((last, losses[-1], hp.get("strength")))
            for callback in kwargs["callbacks"]:  # a checkpoint has to be there, and is never used
                if hasattr(callback, "filepath"):
                    model.save_weights(callback.filepath)
            return {"val_data_loss": losses[-1]}

    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.Hyperband(
            Model(), objective=keras_tuner.Objective("val_data_loss", "min"), max_epochs=EPOCHS, factor=3,
            seed=bench.repeat, directory=folder, project_name="tuner",
        )  # fmt: skip
        try:
            tuner.search(verbose=0)
        except Exception as error:
            if (
                not isinstance(error, SpentError)
                and not isinstance(error.__cause__, SpentError)
                and "SpentError" not in repr(error)
            ):
                raise
    longest = max(end[0] for end in ends)
    best = min((end for end in ends if end[0] == longest), key=lambda end: end[1])
    return {"strength": best[2], "row_epochs": spent, "trials": len(ends)}


def contend(options: argparse.Namespace) -> None:
    """Make one repeat of a cell: print one line of JSON."""
    import tensorflow  # noqa: F401  # Keras imports it sooner or later, on every backend

    bench = Bench(options)
    grid = len(GRID) * len(SEEDS) * bench.train * EPOCHS
    found = {
        "tune": by_tune(bench),
        "optuna": by_optuna(bench, grid // 5),
        "keras_tuner": by_keras_tuner(bench, grid // 5),
    }
    bench.score((0.0, *GRID, *(each["strength"] for each in found.values())))  # together
    for each in found.values():
        each["regret"] = bench.regret(each["strength"])
    tried = bench.score((0.0, *GRID))
    oracle, none = float(100 * tried.max()), float(100 * tried[0].mean())
    print(json.dumps({"grid": grid, "oracle": oracle, "none": none, **found}))


# --- the table ---------------------------------------------------------------------------------------------


def interval(values: Sequence[float]) -> str:
    """Return mean and 95 % t interval."""
    from scipy import stats

    v = np.asarray(values, float)
    if len(v) < 2:
        return f"{v.mean():.2f}"
    half = stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / math.sqrt(len(v))
    return f"{v.mean():.2f} [{v.mean() - half:.2f}, {v.mean() + half:.2f}]"


def named(cell: int) -> str:
    """Return a cell's name."""
    network, source, rows, wrong = CELLS[cell]
    return f"{network}, {source} {rows:,}, {'20 % wrong' if wrong else 'clean'}"


def stored(path: Path) -> dict[tuple[int, int], Any]:
    """Return what was found so far, by cell and repeat."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(row["cell"], row["repeat"]): row for row in map(json.loads, lines)}


def missing(options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """Yield the cells and repeats to make, repeat by repeat."""
    done = stored(options.store)
    cells = options.cells or range(len(CELLS))
    yield from ((cell, r) for r in range(options.repeats) for cell in cells if (cell, r) not in done)


def make(cell: int, repeat: int, options: argparse.Namespace) -> None:
    """Make one repeat of a cell in a process of its own, and store it."""
    given = ["--contend", "--cell", str(cell), "--repeat", str(repeat), "--data-dir", options.data_dir or ""]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, __file__, *given], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{named(cell)}, repeat {repeat} failed:\n{done.stderr[-3000:]}")
    row = {"cell": cell, "repeat": repeat, **json.loads(done.stdout.splitlines()[-1])}
    with options.store.open("a") as file:
        file.write(json.dumps(row) + "\n")


def table(options: argparse.Namespace) -> None:
    """Print what was found."""
    rows = defaultdict(list)
    for (cell, _), row in sorted(stored(options.store).items()):
        rows[cell].append(row)
    print("Regret in points of test accuracy: mean over repeats [95 % t interval]\n")
    print(
        f"{'':32}  n   {'tune':22} {'aim':>4}  {'Optuna, TPE + median':22} {'KerasTuner, Hyperband':22} work"
    )
    for cell, found in rows.items():
        of = {
            name: interval([row[name]["regret"] for row in found])
            for name in ("tune", "optuna", "keras_tuner")
        }
        work = np.mean([row["tune"]["row_epochs"] / row["grid"] for row in found])
        aim = AIMS[CELLS[cell][2]]
        others = f"{of['optuna']:22} {of['keras_tuner']:22}"
        print(f"{named(cell):32} {len(found):2}   {of['tune']:22} {aim:4}  {others} 1/{1 / work:.1f}")


def main() -> None:
    """Make what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", help="where mnist lies")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--cells", type=int, nargs="*", help="some of the cells, by number")
    parser.add_argument("--store", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--contend", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--cell", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.data_dir = options.data_dir or None
    if options.contend:
        contend(options)
        return
    with stated():
        for cell, repeat in missing(options):
            make(cell, repeat, options)
        table(options)


if __name__ == "__main__":
    main()
