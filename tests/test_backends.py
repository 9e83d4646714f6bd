"""The command line on other backends than JAX, on which its own tests run."""

from __future__ import annotations

import json

import numpy as np
import pytest

STUDY = """
name = "tiny"
data = "DATA"
model = "shrinkage.models:mlp"
model_options = { hidden = [6], dropout = 0.2 }
seeds = 2

[training]
epochs = 3
optimizer = "proximal(adam)"
learning_rate = 0.05

[[arms]]
name = "groups"
recipe = ["dense_*: unit = group_lasso(strength)"]
strengths = [0.01, 0.1]
"""
MAIN = "import sys, shrinkage.cli; sys.argv[0] = 'shrinkage'; shrinkage.cli.main()"


@pytest.mark.not_on("jax", "its own tests run there")
def test_a_study_runs_and_its_best_model_is_compacted(tmp_path, run_python, rng):
    x, y = rng.normal(size=(80, 4)).astype("float32"), np.arange(80) % 3
    x[:, :3] += 2 * np.eye(3, dtype="float32")[y]
    np.savez(tmp_path / "data.npz", x_train=x, y_train=y, x_test=x[::2], y_test=y[::2])
    study, runs = tmp_path / "study.toml", tmp_path / "runs"
    study.write_text(STUDY.replace("DATA", str(tmp_path / "data.npz")))
    answer = json.loads(run_python(MAIN, "run", study, "-o", runs, "--json"))
    assert {arm["arm"] for arm in answer["arms"]} == {"none", "groups"}
    best, small = runs / "models" / "best.keras", tmp_path / "small.keras"
    receipt = json.loads(run_python(MAIN, "compact", best, "-o", small, "--json"))
    assert receipt["after"]["parameters"] <= receipt["before"]["parameters"]
    assert small.exists()
