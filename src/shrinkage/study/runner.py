"""The runner: from a spec to a finished run directory, resumable at every moment."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import keras
import pandas as pd
from numpy.typing import NDArray

from shrinkage.data import Data
from shrinkage.errors import DataError, RunError, ShrinkageError, TrainingError
from shrinkage.study import design, selection
from shrinkage.study.design import Trial
from shrinkage.study.groups import Groups, reason
from shrinkage.study.outcome import conclude
from shrinkage.study.provenance import is_noted, noted
from shrinkage.study.references import ModelSource
from shrinkage.study.results import frame
from shrinkage.study.sizes import Sizes
from shrinkage.study.spec import StudySpec
from shrinkage.study.storage import RunDirectory, TrialStore, write_json, write_text
from shrinkage.study.summary import Summary
from shrinkage.training.objective import Objective
from shrinkage.training.task import Loop, Record, Result, Task

_PRUNED = 8  # full cells whose weights may pile up; to tell which arm leads takes a while


class Observer(Protocol):
    """Who watches a run: the progress display, a log, a test."""

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Trials are about to be trained, ``total`` in all; ``found`` are those finished before.

        Each of these has its ``arm, strength, seed, fold, state`` and the values of the epoch that counts.
        """

    def say(self, line: str) -> None:
        """Something worth one line."""

    def epoch(self, record: Record) -> None:
        """Take note of an epoch of a trial that has ended."""

    def trial(self, trial: Trial, result: Result) -> None:
        """Take note of a trial that has ended and is stored."""


class Silent:
    """An observer that shows nothing: a base for one that shows a part."""

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        """Show nothing."""

    def epoch(self, record: Record) -> None:
        """Show nothing."""

    def trial(self, trial: Trial, result: Result) -> None:
        """Show nothing."""


class Observers:
    """Several observers as one.

    Parameters
    ----------
    each
        Told of everything, in this order.
    """

    def __init__(self, *each: Observer) -> None:
        self._each = each

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Tell each."""
        for observer in self._each:
            observer.begin(spec, total, found)

    def say(self, line: str) -> None:
        """Tell each."""
        for observer in self._each:
            observer.say(line)

    def epoch(self, record: Record) -> None:
        """Tell each."""
        for observer in self._each:
            observer.epoch(record)

    def trial(self, trial: Trial, result: Result) -> None:
        """Tell each."""
        for observer in self._each:
            observer.trial(trial, result)


@dataclass(frozen=True)
class Bench:
    """What the trials of a study have in common: what trains them, and what to score on.

    ``source``, ``sizes`` and the task of ``loop`` are the baseline's; a cell whose arm has options of its own
    may have others: see :meth:`task_of` and its like.
    """

    spec: StudySpec
    data: Data
    source: ModelSource
    objective: Objective
    loop: Loop
    sizes: Sizes
    facts: Mapping[str, str]
    trials: tuple[Trial, ...]
    groups: Groups

    def task_of(self, arm: str, strength: float | None) -> Task:
        """Return how the trials of a cell are trained."""
        return self.groups.of((arm, strength)).task

    def build_of(self, arm: str, strength: float | None) -> Callable[[], Any]:
        """Return what builds the model of a cell."""
        return self.groups.of((arm, strength)).source.build

    def sizes_of(self, arm: str, strength: float | None) -> Sizes:
        """Return what measures the weights of a cell's trials."""
        return self.groups.of((arm, strength)).sizes


def prepare(spec: StudySpec, data: Data, allow_code: bool) -> Bench:
    """Build every model once, check everything that can be checked before training, and list the trials."""
    groups = Groups(spec, data, allow_code)
    base = groups.first
    objective = base.task.objective
    if objective.classification and data.classes == 1:
        raise DataError("The targets hold one class only; a classification needs at least 2.")
    facts = {"data": data.fingerprint(), "backend": keras.backend.backend(), **base.facts}
    trials = design.trials(spec, facts, lambda cell: groups.of(cell).facts)
    return Bench(spec, data, base.source, objective, groups.loop, base.sizes, facts, trials, groups)


def refuse_another(spec: StudySpec, directory: RunDirectory) -> None:
    """Check that a directory holds no run, or one of this very study.

    Raises
    ------
    RunError
        If it holds a run of another study, with the difference.
    """
    if not directory.exists:
        return
    before = StudySpec.read(directory.spec)
    changed = before.portable(directory.path).differences(spec.portable(directory.path))
    if changed:
        raise RunError(
            f"{str(directory.path)!r} holds a run of another study ({'; '.join(changed[:5])}"
            f"{'; …' if len(changed) > 5 else ''}). Give another directory, or restart (--restart, "
            "restart=True) to begin anew."
        )


def run(bench: Bench, directory: RunDirectory, observer: Observer) -> Summary:
    """Train what is not yet trained, score the reported arms once, and write the answer.

    The caller holds the directory's lock.
    """
    store = _open(bench, directory)  # what is refused leaves no note in a directory of another run
    todo = design.pending(bench.trials, store.finished())
    if not todo and is_noted(directory):  # nothing new is made here: the note stays true
        return _run(bench, directory, store, observer)
    with noted(directory, keras.backend.backend(), _devices()):
        return _run(bench, directory, store, observer)


def _devices() -> str:
    try:
        return ", ".join(keras.distribution.list_devices())
    except (AttributeError, NotImplementedError):  # not every backend says
        return ""


def _run(bench: Bench, directory: RunDirectory, store: TrialStore, observer: Observer) -> Summary:
    spec = bench.spec
    found = store.finished()
    todo = design.pending(bench.trials, found)
    observer.begin(spec, len(bench.trials), list(found.values()))
    _decide(bench, directory, observer, bool(todo))
    left, full = Counter(trial.cell for trial in todo), 0
    for trial, result in _trained(bench, todo, observer):
        _store(bench, trial, result, directory, store)
        observer.trial(trial, result)
        left[trial.cell] -= 1
        if not left[trial.cell]:
            full += 1
            if full % _PRUNED == 0:
                _prune(bench, directory, store)
    directory.checkpoints.clear()
    finished = store.finished()
    scores = _score(bench, directory, _table(spec, finished), observer)
    return conclude(
        bench, directory, finished, scores, lambda trial: _weights(bench, directory, trial, observer)
    )


def _open(bench: Bench, directory: RunDirectory) -> TrialStore:
    """Open the storage, and begin the directory once nothing speaks against it."""
    spec = bench.spec
    refuse_another(spec, directory)
    store = TrialStore(directory.path, spec.storage, spec.name)
    store.claim(_digest(spec, bench.trials), bench.facts, [arm.name for arm in spec.all_arms])
    lost = [key for key in store.finished() if not directory.curve(key).exists()]
    if lost:
        raise RunError(
            f"{str(directory.path)!r} lacks the curves of {len(lost)} trials that its storage holds; if they "
            "belong to a run in another directory, give this study another name. --restart begins anew."
        )
    if not directory.exists:
        write_text(directory.spec, spec.portable(directory.path).to_toml())
    return store


def _trained(bench: Bench, todo: tuple[Trial, ...], observer: Observer) -> Iterator[tuple[Trial, Result]]:
    by_lane = {trial.lane: trial for trial in todo}
    with _named_failures():
        for result in bench.loop.run([trial.lane for trial in todo], observer.epoch):
            yield by_lane[result.lane], result


@contextmanager
def _named_failures() -> Iterator[None]:
    try:
        yield
    except (ShrinkageError, BrokenPipeError):  # the pipe is an observer's, whose reader has gone
        raise
    except Exception as error:  # whatever Keras, its backend or a user's layer raises
        raise TrainingError(f"Training failed with {type(error).__name__}: {reason(error)}") from error


def _decide(bench: Bench, directory: RunDirectory, observer: Observer, trains: bool) -> None:
    """Decide how trials are trained, as an earlier run of the directory did, and say it."""

    def keep(plan: Mapping[str, Any], line: str) -> None:
        write_json(directory.plan, plan)
        if line:
            observer.say(line)

    stored = directory.read_json(directory.plan)
    with _named_failures():
        line = bench.loop.decide(stored, keep, directory.checkpoints) if trains or stored else ""
    if trains:
        observer.say(line)
    if bench.spec.folds and bench.spec.initial == "saved":
        observer.say(
            "Careful: the saved weights may have seen the rows that folds validate on; then the scores are "
            "too good."
        )


def _digest(spec: StudySpec, trials: tuple[Trial, ...]) -> str:
    content = [spec.name, [t.key for t in trials]]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]


def _store(bench: Bench, trial: Trial, result: Result, directory: RunDirectory, store: TrialStore) -> None:
    rows = [{"epoch": r.epoch, **r.values} for r in result.records]
    directory.write_curve(trial, rows)
    sizes = {}
    if result.state == "complete":
        directory.write_weights(trial.key, result.weights)
        sizes = bench.sizes_of(*trial.cell).of(result.weights)
    rungs = {
        epoch: result.records[epoch - 1].values["val_data_loss"]
        for epoch in bench.task_of(*trial.cell).rungs
        if epoch <= len(result.records)
    }
    store.add(trial, result.state, {"epochs": result.best, **result.values, **sizes}, rungs)


def _prune(bench: Bench, directory: RunDirectory, store: TrialStore) -> None:
    """Keep weights only of each arm's best cell and of unfinished ones: those that may yet be scored."""
    table = _table(bench.spec, store.finished())
    unfinished = {t.cell for t in design.pending(bench.trials, table["key"])}
    strengths = table["strength"].astype(object).where(table["strength"].notna(), None)
    cells = [cell not in unfinished for cell in zip(table["arm"], strengths, strict=True)]
    chosen = _chosen_cells(table[cells]) | unfinished
    directory.keep_weights([t.key for t in bench.trials if t.cell in chosen])


def _table(spec: StudySpec, finished: Mapping[str, Any]) -> pd.DataFrame:
    return frame([arm.name for arm in spec.all_arms], finished, {})


def _chosen_cells(table: pd.DataFrame) -> set[tuple[str, float | None]]:
    choices = selection.select(selection.cells(table))
    return {(arm, choice.strength) for arm, choice in choices.items() if choice.chosen is not None}


def _score(
    bench: Bench, directory: RunDirectory, table: pd.DataFrame, observer: Observer
) -> Mapping[str, Any]:
    """Score the chosen cell of each arm on the test split, each trial once."""
    scores = directory.test_scores()
    chosen = _chosen_cells(table)
    todo = [t for t in bench.trials if t.cell in chosen and t.key not in scores]
    if todo:
        observer.say(f"Scoring {len(todo)} trials of the reported arms on the test split, once.")
    x, y = bench.data.scaled(bench.data.x_test) if todo else None, bench.data.y_test
    for trial in todo:
        values = bench.loop.score(trial.lane, _weights(bench, directory, trial, observer), x, y)
        scores[trial.key] = {f"test_{name}": value for name, value in values.items()}
    if todo:
        directory.write_test_scores(scores)
    directory.keep_weights([t.key for t in bench.trials if t.cell in chosen])
    return scores


def _weights(
    bench: Bench, directory: RunDirectory, trial: Trial, observer: Observer
) -> Sequence[NDArray[Any]]:
    """Return the weights of a reported trial; those that were removed by hand are trained again."""
    weights = directory.read_weights(trial.key)
    if weights is None:  # to the same bits
        weights = tuple(next(_trained(bench, (trial,), observer))[1].weights)
        directory.write_weights(trial.key, weights)
    return weights
