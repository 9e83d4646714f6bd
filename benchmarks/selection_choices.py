"""What a choice costs: the 1-SE strength against the best, and a strength for each rule against a common one.

``one-se``: L1 on kernels under ``proximal(adam)``, 13 strengths x 5 folds; the best and the 1-SE strength are
trained again on all rows from 3 seeds, and scored on test data. ``per-rule``: L2, as many candidates of
Optuna's sampler for one strength as for one a rule, on 2 random splits, and then the same. A repeat draws
2,000 MNIST images anew; 20 % of the training labels are wrong, where regularization matters. Results are kept
in ``--store``, so that the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from machine import stated
from selection import BATCH, EPOCHS, OPTIONS, SEEDS, images, interval

ROWS, WRONG = 2000, 0.2
CANDIDATES = 40  # trials of an arm, one a candidate and split


def study_of(data: Any, arm: dict[str, Any], optimizer: str, **fields: Any) -> Any:
    """Return a study of one arm."""
    from shrinkage import Study

    return Study(
        "shrinkage.models:mlp", data, arms=[arm], model_options=OPTIONS["mlp"], refit=False,
        training={"epochs": EPOCHS, "batch_size": BATCH, "optimizer": optimizer}, **fields,
    )  # fmt: skip


def scored(data: Any, recipe: Sequence[str], optimizer: str) -> dict[str, float]:
    """Train a recipe on all rows from each seed; return mean test data loss, accuracy in % and size."""
    study = study_of(
        data, {"name": "it", "recipe": list(recipe)}, optimizer, seeds=list(SEEDS), validation=0.02
    )
    with tempfile.TemporaryDirectory() as folder:
        study.run(Path(folder) / "run")
        own = study.frame().query("arm == 'it'")
    return {
        "loss": float(own["test_data_loss"].mean()),
        "accuracy": float(100 * own["test_accuracy"].mean()),
        "parameters": float(own["compacted_parameters"].mean()),
    }


def one_se(data: Any) -> dict[str, Any]:
    """Score the best and the 1-SE strength of one study."""
    from shrinkage import Recipe

    rule, optimizer = "Dense: kernel = l1(strength)", "proximal(adam)"
    grid = {"low": 1e-6, "high": 1e-2, "count": 13}
    arm = {"name": "L1", "recipe": rule, "strengths": grid}
    with tempfile.TemporaryDirectory() as folder:
        found = study_of(data, arm, optimizer, seeds=1, folds=5).run(Path(folder) / "run")
    choice = found.arm("L1").selection
    strengths = {"best": choice.strength, "1-SE": choice.one_se_strength}
    return {name: scored(data, Recipe(rule).at(s).to_list(), optimizer) for name, s in strengths.items()}


def per_rule(data: Any) -> dict[str, Any]:
    """Score what the same number of candidates chooses, with one strength and with one a rule."""
    from shrinkage import Recipe

    rules = ["dense_1: kernel = l2(strength)", "head: kernel = l2(strength)"]
    found = {}
    for per in ("arm", "rule"):
        arm = {"name": "L2", "recipe": rules, "strength_per": per}
        study = study_of(data, arm, "adam", seeds=1, repeats=2, strategy="bayes", budget=CANDIDATES + 2)
        with tempfile.TemporaryDirectory() as folder:
            chosen = study.run(Path(folder) / "run").arm("L2").selection.strength
            row = study.frame().query("arm == 'L2' and strength == @chosen").iloc[0]
        ratios = () if per == "arm" else tuple(row[f"strength_{i}"] / chosen for i in (1, 2))
        found[per] = scored(data, Recipe(rules).at(chosen, ratios).to_list(), "adam")
    return {"common": found["arm"], "each": found["rule"]}


PARTS = {"one-se": one_se, "per-rule": per_rule}


def main() -> None:
    """Print the differences, with their intervals over repeats."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", required=True, help="where mnist lies")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", choices=PARTS, nargs="*", default=list(PARTS))
    parser.add_argument("--store", type=Path, default=Path(__file__).with_suffix(".jsonl"))
    parser.add_argument("--contend", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contend:
        import tensorflow  # noqa: F401  # Keras imports it sooner or later, on every backend

        x, y, x_test, y_test = images("mnist", ROWS, WRONG, options.repeat, options.data_dir)
        print(json.dumps(PARTS[options.contend]((x, y, x_test, y_test))))
        return
    with stated():
        done = stored(options.store)
        for part, repeat in ((part, r) for r in range(options.repeats) for part in options.only):
            if (part, repeat) not in done:
                found = done[part, repeat] = asked(part, repeat, options.data_dir)
                with options.store.open("a") as file:
                    file.write(json.dumps({"part": part, "repeat": repeat, "found": found}) + "\n")
        print(f"mlp, mnist {ROWS:,}, 20 % wrong; mean over repeats [95 % t interval]")
        for part in options.only:
            report(part, [found for (name, _), found in sorted(done.items()) if name == part])


def stored(path: Path) -> dict[tuple[str, int], Any]:
    """Return what was found so far, by part and repeat."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(row["part"], row["repeat"]): row["found"] for row in map(json.loads, lines)}


def asked(part: str, repeat: int, data_dir: str) -> dict[str, Any]:
    """Make one repeat in a process of its own."""
    command = [sys.executable, __file__, "--contend", part, "--repeat", str(repeat), "--data-dir", data_dir]
    environment = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def report(part: str, rows: Sequence[dict[str, Any]]) -> None:
    """Print one part's table."""
    first, second = rows[0]
    print(f"\n{part}: {second} against {first}, {len(rows)} repeats")
    for measure, digits in (("loss", 3), ("accuracy", 1), ("parameters", 0)):
        one, other = (np.array([row[name][measure] for row in rows]) for name in (first, second))
        means = f"{one.mean():12,.{digits}f} {other.mean():12,.{digits}f}"
        if measure == "parameters":
            print(f"  {measure:15} {means}   ratio {interval(other / one)}")
        else:
            print(f"  test {measure:10} {means}   difference {interval(other - one)}")


if __name__ == "__main__":
    main()
