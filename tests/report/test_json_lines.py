"""Progress as JSON lines: every line is an object of its own, and says what happened."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

from shrinkage.report.json_lines import JsonLines


class Flushed(io.StringIO):
    """Remembers what had been written when it was flushed."""

    seen = ""

    def flush(self):
        self.seen = self.getvalue()


def strict(line):
    return json.loads(line, parse_constant=lambda name: (_ for _ in ()).throw(ValueError(name)))


def events(file):
    return [strict(line) for line in file.seen.splitlines()]


def test_each_event_is_a_line_that_is_flushed(make_spec, tell):
    file = Flushed()
    run = tell(JsonLines(file), make_spec())
    run.observer.say("one\nline")
    run.train(run.cell("[red]l2", 0.01)[1], 0.5, math.nan, state="diverged")
    run.train(run.cell("none")[0], 0.25)
    run.observer.end(Path("here"))
    which = {"arm": "[red]l2", "strength": 0.01, "seed": 1, "fold": -1}
    lost = {"loss": None, "data_loss": None, "penalty": 0.1, "val_data_loss": None}
    found = events(file)
    assert found[0] == {"event": "begin", "name": "my\x1b[31m study", "trials": 8, "done": 0, "epochs": 2}
    assert found[1] == {"event": "say", "text": "one\nline"}
    assert found[2]["values"]["val_data_loss"] == 0.5
    assert found[3] == {"event": "epoch", **which, "epoch": 2, "values": lost}
    assert found[4] == {
        "event": "trial", **which, "state": "diverged", "epochs": 2, "best": 2, "values": lost, "done": 1
    }  # fmt: skip
    assert found[5]["strength"] is None
    assert found[6]["done"] == 2
    assert found[7:] == [{"event": "end", "directory": "here", "summary": "here/summary.json"}]
    assert file.getvalue().isascii()


def test_a_fold_is_named_alike_in_epochs_and_trials(make_spec, tell):
    file = Flushed()
    run = tell(JsonLines(file), make_spec(folds=3, seeds=1))
    run.train(run.cell("none")[2], 0.5)
    assert [event["fold"] for event in events(file)[1:]] == [2, 2]


def test_what_was_found_finished_is_done(make_spec, tell):
    file = Flushed()
    run = tell(JsonLines(file), make_spec(), [{}, {}])
    run.train(run.cell("none")[0], 0.5)
    assert [event["done"] for event in events(file) if "done" in event] == [2, 3]
