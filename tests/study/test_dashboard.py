"""optuna-dashboard opens ``study.db``: its page and what the page asks for."""

from __future__ import annotations

import csv
import io
import re

import optuna_dashboard
import pytest
from werkzeug.test import Client

from shrinkage.study.design import Trial
from shrinkage.study.storage import TrialStore

NAME = "L2 <b>&\u00e9</b>"
TRIALS = [
    (Trial("none", None, 0, -1, "a"), "complete", 0.5),
    (Trial("L2", 1e-3, 0, -1, "b"), "complete", 0.4),
    (Trial("L2", 1e-2, 0, -1, "c"), "stopped", 0.7),
    (Trial("L2", 1e30, 5, -1, "d"), "diverged", float("nan")),
]


@pytest.fixture
def browse(tmp_path):
    """``browse(path)``: what the dashboard answers, as to a browser that takes compressed files."""
    store = TrialStore(tmp_path, None, NAME)
    store.claim("digest", {"backend": "jax"}, ["none", "L2"])
    for trial, state, loss in TRIALS:
        rungs = {1: 0.9} if state == "stopped" else {}
        store.add(trial, state, {"epochs": 2, "val_data_loss": loss}, rungs)
    client = Client(optuna_dashboard.wsgi(f"sqlite:///{tmp_path}/study.db"))

    def get(path):
        with client.get(path, headers={"Accept-Encoding": "gzip"}, buffered=True) as answer:
            assert answer.status_code == 200, (path, answer.status)
            return answer

    return get


def test_its_page_loads(browse):
    page = browse("/dashboard/").get_data(as_text=True)
    assert "<title>Optuna Dashboard</title>" in page
    scripts = re.findall(r'<script[^>]* src="([^"]+)"', page)
    assert scripts
    assert all(len(browse(script).data) > 1000 for script in scripts)


def test_the_page_is_told_of_our_study_and_its_trials(browse):
    (summary,) = browse("/api/studies").json["study_summaries"]
    assert summary["study_name"] == NAME
    assert summary["directions"] == ["minimize"]
    study = browse(f"/api/studies/{summary['study_id']}").json
    assert study["name"] == NAME
    assert [trial["state"] for trial in study["trials"]] == ["Complete", "Complete", "Pruned", "Fail"]
    assert [trial.get("values") for trial in study["trials"][:3]] == [[0.5], [0.4], [0.7]]
    assert not study["trials"][3].get("values")
    assert study["trials"][2]["intermediate_values"] == [{"step": 1, "value": 0.9}]
    assert study["best_trials"][0]["number"] == 1
    for (trial, _, _), shown in zip(TRIALS, study["trials"], strict=True):
        expected = {"arm": trial.arm, "seed": str(trial.seed), "fold": "-1"}
        if trial.strength is not None:
            expected["strength"] = str(trial.strength)
        assert {p["name"]: p["param_external_value"] for p in shown["params"]} == expected


def test_the_table_of_trials_can_be_downloaded(browse):
    rows = list(csv.DictReader(io.StringIO(browse("/csv/1").get_data(as_text=True))))
    assert [(row["State"], row["Param arm"]) for row in rows] == [
        ("COMPLETE", "none"),
        ("COMPLETE", "L2"),
        ("PRUNED", "L2"),
        ("FAIL", "L2"),
    ]
