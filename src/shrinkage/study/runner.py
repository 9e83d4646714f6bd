"""The runner: from a spec to a finished run directory, resumable at every moment."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import keras
import pandas as pd

from shrinkage.data import Data
from shrinkage.errors import DataError, RunError
from shrinkage.study import design, notes, selection
from shrinkage.study.descents import Descents
from shrinkage.study.design import Trial
from shrinkage.study.directory import RunDirectory
from shrinkage.study.files import write_json, write_text
from shrinkage.study.groups import Groups
from shrinkage.study.observers import Observer
from shrinkage.study.outcome import conclude
from shrinkage.study.provenance import is_noted, noted
from shrinkage.study.references import ModelSource
from shrinkage.study.results import frame
from shrinkage.study.search import strategy
from shrinkage.study.sizes import Sizes
from shrinkage.study.space import Cell, Space, Unit
from shrinkage.study.spec import StudySpec
from shrinkage.study.storage import TrialStore
from shrinkage.study.summary import Summary
from shrinkage.study.waves import Log, Search, check_budget, named_failures
from shrinkage.training.objective import Objective, best_guess
from shrinkage.training.task import Loop, Result, Task

_PRUNED = 8  # full cells whose weights may pile up; to tell which arm leads takes a while


@dataclass(frozen=True)
class Bench:
    """What the trials of a study have in common: what trains them, and what to score on.

    ``source`` and the task of ``loop`` are the baseline's; a cell whose arm has options of its own
    may have others: see :meth:`task_of` and its like. ``trials`` are those that the search begins with; all
    of them, where it is a grid.
    """

    spec: StudySpec
    data: Data
    source: ModelSource
    objective: Objective
    loop: Loop
    facts: Mapping[str, str]
    trials: tuple[Trial, ...]
    space: Space
    groups: Groups
    descents: Descents

    def task_of(self, arm: str, strength: float | None) -> Task:
        """Return how the trials of a cell are trained."""
        return self.groups.of((arm, strength)).task

    def loop_of(self, arm: str, strength: float | None) -> Loop:
        """Return what trains the trials of a cell."""
        return self.groups.of((arm, strength)).loop

    def build_of(self, arm: str, strength: float | None) -> Callable[[], Any]:
        """Return what builds the model of a cell."""
        return self.groups.of((arm, strength)).source.build

    def sizes_of(self, arm: str, strength: float | None) -> Sizes:
        """Return what measures the weights of a cell's trials."""
        return self.groups.of((arm, strength)).sizes

    def facts_of(self, cell: tuple[str, float | None]) -> Mapping[str, str]:
        """Return what determines the results of a cell beyond the spec and the data."""
        return self.groups.of(cell).facts


def prepare(spec: StudySpec, data: Data, allow_code: bool) -> Bench:
    """Build every model once, check everything that can be checked before training, and list the trials."""
    groups = Groups(spec, data, allow_code)
    base = groups.first
    objective = base.task.objective
    if objective.classification and data.classes == 1:
        raise DataError("The targets hold one class only; a classification needs at least 2.")
    facts = {"data": data.fingerprint(), "backend": keras.backend.backend(), **base.facts}
    space = Space(spec, _scale(objective, data.y_train))
    first = next(strategy(space))
    trials = design.trials(spec, facts, first, facts_of=lambda cell: groups.of(cell).facts)
    check_budget(spec.budget, len(trials) + (len(space.fixed) if spec.explores and space.open else 0))
    descents = Descents(space, groups)
    return Bench(
        spec, groups.data, base.source, objective, groups.loop, facts, trials, space, groups, descents
    )


def _scale(objective: Objective, y: Any) -> float:
    """Return the order of magnitude of a loss: strengths are looked for in its multiples."""
    guess = best_guess(objective.loss, y)
    return 10.0 ** round(math.log10(guess)) if guess else 1.0


def refuse_another(spec: StudySpec, directory: RunDirectory) -> None:
    """Check that a directory holds no run, or one of this very study; a search may get other limits.

    Raises
    ------
    RunError
        If it holds a run of another study, with the difference.
    """
    if not directory.exists:
        return
    before = StudySpec.read(directory.spec).portable(directory.path)
    changed = before.differences(spec.portable(directory.path).with_limits(before.limits))
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
    known = bench.spec.is_settled or Log.read(directory, bench.spec).ended is not None
    is_over = known and not design.pending(bench.trials, store.finished())
    if is_over and is_noted(directory):  # nothing new is made here: the note stays true
        return _run(bench, directory, store, observer)
    with noted(directory, keras.backend.backend(), _devices()):
        return _run(bench, directory, store, observer)


def _devices() -> str:
    try:
        return ", ".join(keras.distribution.list_devices())
    except (AttributeError, NotImplementedError):  # not every backend says
        return ""


def _run(bench: Bench, directory: RunDirectory, store: TrialStore, observer: Observer) -> Summary:
    spec, search = bench.spec, Search(bench, directory, store, observer)
    before = store.finished()
    observer.begin(spec, max(len(bench.trials), len(before)), list(before.values()))
    todo = [trial for trial in bench.trials if trial.key not in before]
    _decide(bench, directory, observer, bool(todo) or not (spec.is_settled or search.log.ended))
    left, full = Counter(trial.cell for trial in todo), 0
    for trial, result in search.run():
        _store(bench, trial, result, directory, store)
        observer.trial(trial, result)
        left[trial.cell] -= 1
        if spec.is_settled and not left[trial.cell]:  # what a search will ask for is not known
            full += 1
            if full % _PRUNED == 0:
                _prune(bench, directory, store)
    finished = store.finished()
    trials = _decisive(bench, [t for t in search.trials if t.key in finished], search.log.cut)
    own = {t.key: finished[t.key] for t in trials}
    explored = {t.key: finished[t.key] for t in search.trials if t.key in finished and t.key not in own}
    bench = replace(bench, trials=trials)
    scores = _score(bench, directory, _table(spec, own), observer, search)
    return conclude(bench, directory, own, explored, scores, search, observer.say)


def _decisive(bench: Bench, done: Sequence[Trial], cut: bool) -> tuple[Trial, ...]:
    """Return the trials that the choice is made of.

    They are on the units that choose. Where a budget ended a search in between, ``cut``, they are on as many
    units as the baseline and some other cell have in common, at the worst on those where the range was looked
    for; of repeated folds on whole repeats, if there is one.
    """
    choosing, baseline = set(bench.space.choosing), bench.spec.baseline.name
    own = [t for t in done if (t.seed, t.fold) in choosing]
    if not cut:
        return tuple(own)
    for trials, least in ((own, {baseline}), (done, {baseline}), (own, set()), (done, set())):
        units = _whole(_in_common(trials, least), bench.spec.folds)
        if units:
            return tuple(t for t in trials if (t.seed, t.fold) in units)
    return ()


def _in_common(trials: Sequence[Trial], least: Set[str]) -> set[Unit]:
    """Return the most units that cells of these arms, and of another, have in common."""
    units: dict[Cell, set[Unit]] = {}
    for trial in trials:
        units.setdefault(trial.cell, set()).add((trial.seed, trial.fold))
    times = Counter(unit for own in units.values() for unit in own)
    often = sorted(times, key=lambda unit: (-times[unit], unit))
    for n in range(len(often), 0, -1):
        common = set(often[:n])
        arms = {arm for (arm, _), own in units.items() if common <= own}
        if least < arms:
            return common
    return set()


def _whole(units: set[Unit], folds: int | None) -> set[Unit]:
    """Return those of the repeats that have all their folds; without such a one, the repeat with the most."""
    repeats: dict[int, set[Unit]] = {}
    for seed, fold in units:
        repeats.setdefault(fold // folds if folds else 0, set()).add((seed, fold))
    whole = [own for own in repeats.values() if len({fold for _, fold in own}) == folds]
    return set().union(*(whole or [max(repeats.values(), key=len, default=set())]))


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
    if not directory.exists or StudySpec.read(directory.spec).limits != spec.limits:
        write_text(directory.spec, spec.portable(directory.path).to_toml())
    return store


def _decide(bench: Bench, directory: RunDirectory, observer: Observer, trains: bool) -> None:
    """Decide how trials are trained, as an earlier run of the directory did, and say it."""

    def keep(plan: Mapping[str, Any], line: str) -> None:
        write_json(directory.plan, plan)
        if line:
            observer.say(line)

    stored = directory.read_json(directory.plan)
    with named_failures():
        line = bench.loop.decide(stored, keep, directory.checkpoints) if trains or stored else ""
    for said in (*bench.groups.remarks, line) if trains else ():
        observer.say(said)
    if (bench.spec.split_count > 1 or bench.spec.nested) and bench.spec.initial == "saved":
        observer.say(notes.SEEN)


def _digest(spec: StudySpec, trials: tuple[Trial, ...]) -> str:
    content: list[Any] = [spec.name, [t.key for t in trials]]
    if not spec.is_settled:
        content.append(spec.strategy)
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
    own = {f"strength_{i + 1}": (trial.strength or 0.0) * ratio for i, ratio in enumerate(trial.ratios)}
    store.add(trial, result.state, {"epochs": result.best, **result.values, **sizes, **own}, rungs)


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
    bench: Bench, directory: RunDirectory, table: pd.DataFrame, observer: Observer, search: Search
) -> Mapping[str, Any]:
    """Score the chosen cell of each arm on the test split, each trial once."""
    scores = directory.test_scores()
    chosen = _chosen_cells(table)
    todo = [t for t in bench.trials if t.cell in chosen and t.key not in scores]
    if todo:
        observer.say(f"Scoring {len(todo)} trials of the reported arms on the test split, once.")
    x, y = bench.data.scaled(bench.data.x_test) if todo else None, bench.data.y_test
    for trial in todo:
        values = bench.loop.score(trial.lane, search.weights(trial), x, y)
        scores[trial.key] = {f"test_{name}": value for name, value in values.items()}
    if todo:
        directory.write_test_scores(scores)
    directory.keep_weights([t.key for t in bench.trials if t.cell in chosen])
    return scores
