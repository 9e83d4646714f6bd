"""Searches as runs: resumed they end with the same bits; budgets, warm starts, a strength for each rule."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from cases import mostly_thorough
from shrinkage.data import Data
from shrinkage.errors import RunError, SpecError, TrainingError
from shrinkage.recipe import Recipe
from shrinkage.report.facts import facts
from shrinkage.study import notes, observers, runner, waves
from shrinkage.study.descents import STEPS
from shrinkage.study.design import Trial
from shrinkage.study.directory import RunDirectory
from shrinkage.study.results import Results, frame
from shrinkage.study.search import strategy
from shrinkage.study.spec import StudySpec
from shrinkage.study.storage import TrialStore

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
    pytest.mark.jax_only,
]

L2 = {"name": "L2", "recipe": "Dense: kernel = l2(strength)"}
FIELDS: dict[str, Any] = {
    "data": "blobs", "model": "shrinkage.models:mlp", "model_options": {"hidden": [6]}, "seeds": 2,
    "training": {"epochs": 3, "batch_size": 45, "learning_rate": 0.05}, "arms": [L2],
}  # fmt: skip


class Crash(BaseException):
    """A kill, as seen from inside."""


class Watch(observers.Silent):
    """Notes what happens, and crashes after so many trials."""

    def __init__(self, crash_after: int | None = None) -> None:
        self.trained: list[str] = []
        self.weights: dict[float | None, Any] = {}
        self.totals: list[int] = []
        self.crash_after = crash_after

    def more(self, total: int, why: str) -> None:
        self.totals.append(total)

    def trial(self, trial: Trial, result: Any) -> None:
        self.trained.append(trial.key)
        self.weights[trial.strength] = result.weights
        if len(self.trained) == self.crash_after:
            raise Crash


def prepared(blobs: Any, **changes: Any) -> runner.Bench:
    return runner.prepare(StudySpec.parse(FIELDS | changes), blobs, False)


def run(bench: runner.Bench, path: Any, watch: Watch | None = None) -> Any:
    place = RunDirectory(path)
    with place.locked():
        return runner.run(bench, place, watch or Watch())


def found(bench: runner.Bench, path: Any) -> tuple[pd.DataFrame, bytes]:
    place = RunDirectory(path)
    finished = TrialStore(path, None, bench.spec.name).finished()
    return frame(["none", "L2"], finished, place.test_scores()), place.summary.read_bytes()


def search_of(path: Any) -> dict[str, Any]:
    return dict(json.loads((path / "summary.json").read_text())["search"])


@pytest.fixture(scope="module")
def auto(blobs: Any) -> runner.Bench:
    return prepared(blobs)


@pytest.fixture(scope="module")
def whole(auto: runner.Bench, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A search that nothing disturbed: its directory and what it trained."""
    path, watch = tmp_path_factory.mktemp("auto") / "run", Watch()
    run(auto, path, watch)
    return path, watch


def test_a_search_is_recorded_with_why_it_ended(auto, whole):
    path, watch = whole
    search = search_of(path)
    assert search["strategy"] == "auto"
    assert search["trials"] == len(watch.trained) == sum(wave["trials"] for wave in search["waves"])
    assert search["ended"].startswith("L2: ")
    assert watch.totals[-1] == len(watch.trained)
    notes = Results.load(path).summary.notes
    assert any(search["ended"] in note for note in notes)
    rows = len(auto.loop.task.splits[0].train)
    curves = RunDirectory(path).curves(list(found(auto, path)[0]["key"]))
    assert search["row_epochs"] == rows * len(curves)


def test_only_cells_with_all_seeds_are_chosen(whole):
    path, _ = whole
    chosen = [arm.selection.chosen for arm in Results.load(path).summary.arms]
    assert all(cell.trials == 2 for cell in chosen)


@pytest.mark.parametrize("after", mostly_thorough((1, 4, 6, 9), 6))
def test_a_search_killed_after_any_trial_ends_with_the_same_bits(auto, whole, after, tmp_path):
    path, undisturbed = tmp_path / "run", whole[1]
    watch = Watch(after)
    with pytest.raises(Crash):
        run(auto, path, watch)
    again = Watch()
    run(auto, path, again)
    assert sorted([*watch.trained, *again.trained]) == sorted(undisturbed.trained)
    table, summary = found(auto, path)
    pd.testing.assert_frame_equal(table, found(auto, whole[0])[0], check_exact=True)
    assert summary == found(auto, whole[0])[1]


def test_a_finished_search_trains_nothing_again(auto, whole):
    before, watch = found(auto, whole[0])[1], Watch()
    run(auto, whole[0], watch)
    assert watch.trained == []
    assert found(auto, whole[0])[1] == before


@pytest.mark.thorough
def test_a_budget_of_trials_ends_the_search_and_still_gives_an_answer(auto, whole, blobs, tmp_path):
    bench, path, watch = prepared(blobs, budget=6), tmp_path / "run", Watch()
    summary = run(bench, path, watch)
    search = search_of(path)
    assert search["trials"] == len(watch.trained) <= 6
    assert search["ended"].startswith("The budget of 6 trials does not allow")
    assert summary.recommended is not None
    # Without it the search goes on where it stood, and comes to what it would have come to.
    more = Watch()
    found = run(auto, path, more)
    assert sorted([*watch.trained, *more.trained]) == sorted(whole[1].trained)
    assert found.recommended == Results.load(whole[0]).summary.recommended
    assert search_of(path) == search_of(whole[0])
    with pytest.raises(RunError, match="seeds"):
        run(prepared(blobs, seeds=3), path)


def test_a_budget_that_is_too_small_to_begin_is_refused(blobs):
    with pytest.raises(SpecError, match="budget = 5 is less than the 6 trials"):  # five strengths, and none
        prepared(blobs, budget=5)


_SPLITS, _FOLDS = {"repeats": 2, "seeds": 1}, {"folds": 2, "seeds": 1}


@pytest.mark.parametrize(
    ("budget", "resampling"),
    [
        (7, _SPLITS),
        pytest.param("1 s", _FOLDS, marks=pytest.mark.thorough),
        *(pytest.param(budget, _SPLITS, marks=pytest.mark.thorough) for budget in (6, "1 s")),
        *(pytest.param(budget, _FOLDS, marks=pytest.mark.thorough) for budget in (6, 7)),
    ],
)
def test_whatever_the_budget_there_is_something_to_compare(blobs, tmp_path, budget, resampling, monkeypatch):
    monkeypatch.setattr(waves, "now", itertools.count().__next__)
    bench, path = prepared(blobs, budget=budget, **resampling), tmp_path / "run"
    summary = run(bench, path)
    assert summary.arm("none").selection.chosen is not None
    assert summary.arm("L2").selection.chosen is not None
    assert len(summary.units) == 1
    search = search_of(path)
    assert search["waves"][-1] == {"why": "what the others are compared with", "trials": 1}
    assert search["trials"] == sum(wave["trials"] for wave in search["waves"])
    assert not isinstance(budget, int) or search["trials"] <= budget, search
    assert any("budget ended the search before a closer look" in note for note in summary.notes)
    assert facts(Results.load(path)).arms[1].verdict
    before, watch = found(bench, path)[1], Watch()
    run(bench, path, watch)
    assert watch.trained == []
    assert found(bench, path)[1] == before


@pytest.mark.thorough
def test_a_budget_of_time_is_kept_over_resumes(blobs, tmp_path, monkeypatch):
    bench = prepared(blobs, budget="1 h")
    now = [0.0]
    monkeypatch.setattr(waves, "now", lambda: now[0])

    class Slow(Watch):
        def trial(self, trial: Trial, result: Any) -> None:
            now[0] += 500.0  # seconds
            super().trial(trial, result)

    with pytest.raises(Crash):
        run(bench, tmp_path / "run", Slow(5))
    watch = Slow()
    run(bench, tmp_path / "run", watch)
    assert not RunDirectory(tmp_path / "run").checkpoints.path.exists()
    ended = search_of(tmp_path / "run")["ended"]
    assert ended == "The budget of 1 h was spent." or "does not allow another look" in ended
    again = Watch()
    run(bench, tmp_path / "run", again)
    assert again.trained == []
    assert search_of(tmp_path / "run")["ended"] == ended


def test_a_budget_that_ends_in_the_middle_of_a_look_says_so_and_counts_what_was_trained(
    blobs, tmp_path, monkeypatch
):
    bench, now = prepared(blobs, budget="1 h"), [0.0]
    monkeypatch.setattr(waves, "now", lambda: now[0])

    class Late(Watch):
        def trial(self, trial: Trial, result: Any) -> None:
            super().trial(trial, result)
            last_but_one = bool(self.totals) and len(self.trained) == self.totals[-1] - 1
            now[0] += 4000.0 * last_but_one

    watch = Late()
    run(bench, tmp_path / "run", watch)
    search = search_of(tmp_path / "run")
    assert search["ended"] == "The budget of 1 h was spent."
    assert search["trials"] == len(watch.trained) == sum(wave["trials"] for wave in search["waves"])
    assert search["trials"] < watch.totals[-1]
    notes = Results.load(tmp_path / "run").summary.notes
    assert not any("diverged" in note for note in notes)
    before = (tmp_path / "run" / "summary.json").read_bytes()
    run(bench, tmp_path / "run")
    assert (tmp_path / "run" / "summary.json").read_bytes() == before


def cut(seen: dict[tuple[str, float | None], list[int]], blobs: Any) -> dict[Any, set[int]]:
    """Return the seeds that decide, by cell, where these were trained."""
    bench = prepared(blobs, seeds=4)
    done = [Trial(*cell, seed, -1, f"{cell} {seed}") for cell, seeds in seen.items() for seed in seeds]
    kept: dict[Any, set[int]] = {}
    for trial in runner._decisive(bench, done, cut=True):
        kept.setdefault(trial.cell, set()).add(trial.seed)
    return kept


def test_after_a_cut_arms_are_compared_on_what_they_have_in_common(blobs):
    none, weak, strong = ("none", None), ("L2", 0.1), ("L2", 1.0)
    whole = {none: [0, 1, 2, 3], weak: [0, 1, 2, 3], strong: [0]}
    assert cut(whole, blobs) == {cell: set(seeds) for cell, seeds in whole.items()}
    part = {none: [0, 1, 2], weak: [0, 1], strong: [0]}
    assert cut(part, blobs) == {none: {0, 1}, weak: {0, 1}, strong: {0}}
    assert cut({weak: [0], strong: [0]}, blobs) == {weak: {0}, strong: {0}}
    assert cut({none: [3], weak: [0], strong: [0]}, blobs) == {weak: {0}, strong: {0}}


def test_a_search_that_was_not_cut_keeps_all_seeds_of_the_baseline_whatever_diverged(blobs):
    bench = prepared(blobs, seeds=4)
    done = [Trial("none", None, seed, -1, f"none {seed}") for seed in range(4)]
    done.append(Trial("L2", 0.1, 0, -1, "diverged"))
    assert list(runner._decisive(bench, done, cut=False)) == done


@pytest.mark.parametrize(
    ("folds", "kept"),
    [
        ([0, 1, 2], [0, 1]),  # the second repeat lacks a fold
        ([0, 1, 2, 4], [0, 1]),  # halves of two make no whole one
        ([0, 1, 2, 3, 4], [0, 1, 2, 3]),
        ([0, 2, 3], [2, 3]),
        ([1], [1]),
        ([], []),
    ],
)
def test_after_a_cut_repeated_folds_are_whole_repeats(folds, kept):
    units = {(7, fold) for fold in folds}
    assert sorted(runner._whole(units, 2)) == [(7, fold) for fold in kept]
    assert runner._whole(units, None) == units


@pytest.mark.parametrize(
    ("units", "choosing", "over", "said"),
    [
        (range(2), range(5), "seeds", "the 2 seeds of 5 that"),
        (range(12), range(20), "folds", "the 3 folds of 5 that"),
        (range(18), range(20), "folds", "the 18 of 20 pairs of a seed and one of the folds that"),
    ],
)
def test_what_is_left_after_a_cut_is_counted_in_what_errors_are_over(units, choosing, over, said):
    found, every = ([(i, -1) if over == "seeds" else (i % 4, i // 4) for i in of] for of in (units, choosing))
    (note,) = notes.cut_note(found, every, over, explored=False)
    assert said in note
    assert notes.cut_note(every, every, over, explored=False) == ()
    assert "before a closer look" in str(notes.cut_note(found, every, over, explored=True))


@pytest.mark.thorough
def test_the_time_of_a_look_that_was_interrupted_counts(blobs, tmp_path, monkeypatch):
    bench, now = prepared(blobs, budget="1 h"), [0.0]
    monkeypatch.setattr(waves, "now", lambda: now[0])

    class Slow(Watch):
        def trial(self, trial: Trial, result: Any) -> None:
            now[0] += 100.0
            if self.trained:  # a kill may come at any moment
                stored = json.loads((tmp_path / "run" / "search.json").read_text())
                assert stored["seconds"] == 100.0 * len(self.trained)
            super().trial(trial, result)

    with pytest.raises(Crash):
        run(bench, tmp_path / "run", Slow(3))
    assert json.loads((tmp_path / "run" / "search.json").read_text())["seconds"] == 300.0


@pytest.mark.thorough
def test_several_random_splits_explore_on_the_first_and_choose_on_the_others(blobs, tmp_path):
    bench = prepared(blobs, repeats=3, seeds=1, refit=False)
    summary = run(bench, tmp_path / "run")
    table = found(bench, tmp_path / "run")[0]
    assert set(table.loc[table["fold"] == 0, "arm"]) == {"L2"}
    assert all(cell.trials == 2 for arm in summary.arms for cell in arm.cells)
    assert set(table.loc[table["arm"] == "none", "fold"]) == {1, 2}


@pytest.mark.thorough
def test_an_arm_that_diverges_where_the_range_is_looked_for_is_reported(blobs, tmp_path):
    lost = {"name": "act", "recipe": "*: activity = l2(strength)"}
    lost |= {"strengths": {"low": 1e20, "high": 1e30, "count": 3}}
    training = {**FIELDS["training"], "optimizer": "sgd"}
    bench = prepared(blobs, arms=[L2, lost], seeds=1, repeats=3, training=training)
    summary = run(bench, tmp_path / "run")
    assert summary.arm("act").verdict == "diverged"
    shown = facts(Results.load(tmp_path / "run"))
    assert {row.arm: row.diverged for row in shown.arms}["act"] == summary.arm("act").trials > 0
    assert all(row.loss.n == len(row.losses) == 2 for row in shown.validation if row.chosen)


@pytest.mark.thorough
def test_a_path_that_diverges_ends_there_with_an_answer(blobs, tmp_path):
    arm = {**L2, "strengths": [1e-3, 1e25, 1e26]}
    training = {"epochs": 4, "optimizer": "sgd", "learning_rate": 1.0}
    bench = prepared(blobs, strategy="path", arms=[arm], seeds=1, training=training)
    summary = run(bench, tmp_path / "run")
    assert summary.arm("L2").selection.strength == 1e-3
    assert search_of(tmp_path / "run")["ended"] == "L2: λ = 1e25 diverged, and ends the path."
    assert notes.PATH in summary.notes  # it has been trained for longer than the baseline


PATH = {**L2, "strengths": [1e-3, 1e-2, 0.1]}


@pytest.mark.parametrize("loop", mostly_thorough(("jax", "keras"), "jax"))
def test_a_path_goes_on_from_the_weights_before(blobs, tmp_path, loop):
    training = {**FIELDS["training"], "epochs": 4, "loop": loop}
    bench = prepared(blobs, strategy="path", arms=[PATH], seeds=1, training=training)
    watch = Watch()
    run(bench, tmp_path / "run", watch)
    assert found(bench, tmp_path / "run")[0]["epochs"].tolist() == [4, 4, 1, 1]
    before, after = watch.weights[1e-3], watch.weights[1e-2]
    # One epoch of two steps from there, by the loop itself.
    wave = replace(bench.loop.task.wave([]), epochs=1)
    lane = Trial("L2", 1e-2, 0, -1, "").lane
    wave = replace(wave, lanes=(lane,), starts={lane: before})
    (again,) = bench.loop.run([lane], lambda record: None, wave)
    for mine, theirs in zip(after, again.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    (fresh,) = bench.loop.run([lane], lambda record: None, replace(wave, starts={}))
    assert any((a != b).any() for a, b in zip(after, fresh.weights, strict=True))


EACH: dict[str, Any] = {
    "name": "each", "recipe": ["dense_1: kernel = l2(strength)", "head: kernel = l2(strength)"],
    "strength_per": "rule",
}  # fmt: skip


@pytest.mark.thorough
def test_rules_with_strengths_of_their_own_are_trained_reported_and_saved(blobs, tmp_path):
    bench = prepared(blobs, arms=[EACH], seeds=1, budget=13, refit=True)
    summary = run(bench, tmp_path / "run")
    table = frame(["none", "each"], TrialStore(tmp_path / "run", None, "study").finished(), {})
    own = table[table["arm"] == "each"]
    assert (own["strength_1"] / own["strength_2"] != 1).any()
    np.testing.assert_allclose(own["strength"] ** 2, own["strength_1"] * own["strength_2"], rtol=5e-3)
    note = next(note for note in summary.notes if note.startswith("each: each rule has a strength"))
    chosen = own[own["strength"] == summary.arm("each").selection.strength].iloc[0]
    rules = Recipe(EACH["recipe"]).at(
        chosen["strength"],
        (chosen["strength_1"] / chosen["strength"], chosen["strength_2"] / chosen["strength"]),
    )
    assert all(str(rule) in note for rule in rules)


@pytest.mark.thorough
def test_the_way_down_the_hypergradient_is_kept_counted_and_gone_once(blobs, tmp_path, monkeypatch):
    bench = prepared(blobs, arms=[EACH], strategy="hypergradient", seeds=1, repeats=2)
    path, walked = tmp_path / "run", list[float]()
    walk = bench.descents.steps

    def steps(arm: str, strength: float) -> Any:
        for down in walk(arm, strength):
            walked.append(down.row_epochs)
            yield down

    monkeypatch.setattr(bench.descents, "steps", steps)
    with pytest.raises(Crash):
        run(bench, path, Watch(crash_after=13))  # after steps down, and before the last
    assert 0 < len(walked) < STEPS
    run(bench, path)
    before, summary = len(walked), RunDirectory(path).summary.read_bytes()
    run(bench, path)
    assert len(walked) == before  # what was found is not looked for again
    assert RunDirectory(path).summary.read_bytes() == summary
    whole = tmp_path / "whole"
    run(bench, whole)
    assert RunDirectory(whole).summary.read_bytes() == summary
    rows = len(bench.loop.task.splits[0].train)
    epochs = len(RunDirectory(whole).curves(list(TrialStore(whole, None, "study").finished())))
    assert search_of(whole)["row_epochs"] == rows * (epochs + 3 * 3 * (STEPS + 1))  # 3 epochs, 2 derivatives


def test_without_a_derivative_there_is_no_hypergradient(blobs, monkeypatch):
    monkeypatch.setattr("shrinkage.training.hypergradient.refusal", lambda model: "it has none")
    with pytest.raises(TrainingError, match=r"Arm 'each': There is no gradient .*: it has none"):
        prepared(blobs, arms=[EACH], strategy="hypergradient")


def test_of_a_regression_the_trials_known_beforehand_are_those_that_the_search_begins_with(blobs):
    rng = np.random.default_rng(0)
    y = (1000 * rng.normal(size=150)).astype("float32")
    large = Data("large", blobs.x_train, y[:90], blobs.x_test, y[90:])
    bench = prepared(large)
    first = next(strategy(bench.space))
    assert [(trial.cell, (trial.seed, trial.fold)) for trial in bench.trials] == list(first.asked)
    assert {strength for (_, strength), _ in first.asked} == {10.0, 100.0, 1e3, 1e4, 1e5}
