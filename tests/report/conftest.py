"""What the tests of reports share: a spec, and the events of a run that never took place."""

from __future__ import annotations

import pytest

from shrinkage.study.design import trials
from shrinkage.study.spec import StudySpec
from shrinkage.training.task import Record, Result


class Run:
    """The events of a run, told to an observer one by one."""

    def __init__(self, observer, spec, found=()):
        self.observer, self.spec = observer, spec
        self.trials = trials(spec, {})
        observer.begin(spec, len(self.trials), list(found))
        self.records = {trial: [] for trial in self.trials}

    def cell(self, arm, strength=None):
        return [trial for trial in self.trials if trial.cell == (arm, strength)]

    def epoch(self, trial, loss, epoch=None):
        records = self.records[trial]
        values = {"loss": loss + 0.1, "data_loss": loss, "penalty": 0.1, "val_data_loss": loss}
        records.append(Record(trial.lane, epoch or len(records) + 1, values))
        self.observer.epoch(records[-1])

    def end(self, trial, state="complete"):
        records = tuple(self.records[trial])
        self.observer.trial(trial, Result(trial.lane, state, len(records), records, ()))

    def train(self, trial, *losses, state="complete"):
        for loss in losses:
            self.epoch(trial, loss)
        self.end(trial, state)


@pytest.fixture(scope="session")
def make_spec():
    """``make_spec(**changes)``: two arms and a baseline, 2 epochs, 2 seeds, 8 trials."""

    def make(**changes):
        arms = [
            {"name": "[red]l2", "recipe": "Dense: kernel = l2(strength)", "strengths": [1e-3, 1e-2]},
            {"name": "l1", "recipe": "Dense: kernel = l1(0.1)"},
        ]
        fields = {
            "name": "my\x1b[31m study",
            "data": "digits",
            "model": "shrinkage.models:mlp",
            "arms": arms,
            "seeds": 2,
            "training": {"epochs": 2},
        }
        return StudySpec.parse({**fields, **changes})

    return make


@pytest.fixture
def tell():
    """``tell(observer, spec)``: a :class:`Run` that has begun."""
    return Run


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr("shrinkage.report.progress.time.monotonic", lambda: now[0])
    return now
