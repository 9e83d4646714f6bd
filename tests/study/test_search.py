"""Strategies: what they ask for depends on scores alone, they find the best, and say why they stop."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from shrinkage.errors import SpecError
from shrinkage.study.closer import HALF
from shrinkage.study.search import strategy
from shrinkage.study.space import Down, Space, Step
from shrinkage.study.spec import StudySpec
from shrinkage.study.words import number

L2 = {"name": "L2", "recipe": "Dense: kernel = l2(strength)"}
L1 = {"name": "L1", "recipe": "Dense: kernel = l1(strength)"}
FIXED = {"name": "fixed", "recipe": "Dense: kernel = l2(0.1)"}
Loss = Callable[[str, float | None, int, int], float]


def space(strategy: str | None = "auto", scale: float = 1.0, **changes: Any) -> Space:
    fields: dict[str, Any] = {"data": "digits", "model": "shrinkage.models:mlp", "arms": [L2], "seeds": 3}
    fields |= {"training": {"epochs": 12}} | ({} if strategy is None else {"strategy": strategy}) | changes
    return Space(StudySpec.parse(fields), scale)


def valley(best: float, noise: float = 0.0) -> Loss:
    """Return a loss that is lowest at ``best``, with an error that all strengths of a unit share."""

    def loss(arm: str, strength: float | None, seed: int, fold: int) -> float:
        shared = noise * float(np.random.default_rng([seed, fold + 1]).normal())
        return 1.0 + shared + (0.5 if strength is None else 0.1 * math.log10(strength / best) ** 2)

    return loss


def run(where: Space, loss: Loss, rungs: bool = True) -> tuple[list[Step], str, dict[Any, dict[Any, float]]]:
    """Drive a strategy: each rung leaves the better half of an arm's cells, and only these are scored."""
    steps, seen, search = [], dict[Any, dict[Any, float]](), strategy(where)
    step = next(search)
    while True:
        steps.append(step)
        scores = {(cell, unit): loss(*cell, *unit) for cell, unit in step.asked}
        if step.rungs and rungs:
            for arm in {cell[0] for cell, _ in step.asked}:
                unit = step.asked[0][1]
                cells = sorted({c for c, _ in step.asked if c[0] == arm}, key=lambda c: loss(*c, *unit))
                stopped = cells[math.ceil(len(cells) / 2 ** len(step.rungs)) :]
                scores = {key: score for key, score in scores.items() if key[0] not in stopped}
        for (cell, unit), score in scores.items():
            seen.setdefault(cell, {})[unit] = score
        try:
            step = search.send(seen)
        except StopIteration as stop:
            return steps, stop.value, seen


def chosen(where: Space, seen: dict[Any, dict[Any, float]], arm: str = "L2") -> float:
    full = {
        cell[1]: math.fsum(of.values()) / len(of)
        for cell, of in seen.items()
        if cell[0] == arm and set(where.choosing) <= set(of)
    }
    return min(full, key=full.__getitem__)


# --- auto --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("best", [3e-9, 1e-5, 4e-4, 2e-3, 0.03, 0.1, 5.0, 300.0])
def test_auto_finds_the_range_and_the_best_strength_to_half_a_step(best):
    where = space()
    _, _, seen = run(where, valley(best, noise=1e-3))
    near = abs(math.log10(chosen(where, seen) / best))
    assert near <= (0.26 if best >= 1e-6 else 6), chosen(where, seen)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e5])
def test_strengths_are_in_the_measure_of_the_loss(scale):
    asked = lambda s: [cell[1] for cell, _ in next(strategy(space(scale=s))).asked]  # noqa: E731
    assert asked(scale) == pytest.approx([s * scale for s in asked(1.0)])


def test_auto_spends_a_fifth_of_a_grid_of_13_by_3():
    where = space(seeds=1, training={"epochs": 30})
    steps, _, _ = run(where, valley(0.004))
    epochs = where.spec.training.epochs
    first, stops = len(steps[0].asked), [0, *steps[0].rungs, epochs]
    work = sum(math.ceil(first / 2**i) * (b - a) for i, (a, b) in enumerate(itertools.pairwise(stops)))
    work += sum(len(step.asked) * epochs for step in steps[1:])
    assert work <= 13 * 3 * epochs / 5


def test_the_baseline_and_fixed_arms_are_trained_on_all_units_that_choose():
    where = space(arms=[L2, FIXED], folds=2)
    steps, _, _ = run(where, valley(1e-3))
    for cell in (("none", None), ("fixed", None)):
        assert [u for step in steps for c, u in step.asked if c == cell] == list(where.choosing)


def test_a_small_tolerance_looks_closer():
    found = []
    for tolerance in (100.0, 1.0, 0.01):
        where = space(tolerance=tolerance)
        steps, reason, seen = run(where, valley(2e-3, noise=0.02))
        found.append((len(steps), abs(math.log10(chosen(where, seen) / 2e-3))))
        assert ("known to a quarter of a decade" if tolerance < 1 else "standard error") in reason
    assert found[0][0] <= found[1][0] <= found[2][0] > found[0][0]
    assert found[2][1] <= found[0][1]


@pytest.mark.parametrize("best", [4e-5, 2e-3, 0.17])
def test_no_strengths_are_tried_that_are_closer_than_a_quarter_of_a_decade(best):
    where = space(tolerance=1e-6)
    _, reason, seen = run(where, valley(best, noise=0.02))
    assert reason.startswith(f"L2: λ = {number(chosen(where, seen))} is known to a quarter of a decade")
    tried = sorted(strength for arm, strength in seen if arm == "L2")
    assert min(math.log10(b / a) for a, b in itertools.pairwise(tried)) > 0.24
    assert abs(math.log10(chosen(where, seen) / best)) < 0.13


@pytest.mark.parametrize("other", [1e-8, 3e-4, 0.03, 1e3])
def test_no_look_goes_as_far_as_what_was_worse_where_the_range_was_explored(other):
    def loss(arm: str, strength: float | None, seed: int, fold: int) -> float:
        return valley(2e-3 if fold == 0 else other)(arm, strength, seed, fold)

    where = space(seeds=2, validation=0.2, repeats=2, tolerance=0.01)
    steps, _, _ = run(where, loss)
    closer = {cell[1] for step in steps[1:] for cell, _ in step.asked if cell[0] == "L2"}
    assert len(closer) > 3
    assert all(1e-4 < strength < 1e-2 for strength in closer)


def test_what_others_could_still_win_is_named_and_is_within_the_error():
    _, reason, _ = run(space(tolerance=2.0), valley(1e-3, noise=0.05))
    assert reason.startswith("L2: λ = 0.001; what other strengths could still win")
    assert "within 2 standard errors" in reason


def test_one_unit_stops_after_one_closer_look():
    steps, reason, _ = run(space(seeds=1), valley(1e-3))
    assert len(steps) == 2
    assert "no standard error" in reason


def test_where_strong_penalties_diverge_auto_goes_lower():
    def loss(arm: str, strength: float | None, seed: int, fold: int) -> float:
        return (
            math.inf if strength is not None and strength > 3e-7 else valley(1e-7)(arm, strength, seed, fold)
        )

    where = space()
    _, _, seen = run(where, loss, rungs=False)
    assert chosen(where, seen) <= 3e-7


def test_where_everything_diverges_the_search_ends_and_says_so():
    steps, reason, _ = run(space(), lambda *_: math.inf, rungs=False)
    assert reason == "L2: every strength diverged."
    assert len(steps) < 10


def test_a_range_bounds_the_search():
    arm = {**L2, "strengths": {"low": 1e-4, "high": 1e-2, "count": 3}}
    for best in (1e-8, 1e-3, 10.0):
        steps, _, _ = run(space(arms=[arm]), valley(best))
        strengths = [cell[1] for step in steps for cell, _ in step.asked if cell[1] is not None]
        assert min(strengths) >= 1e-4 * 0.999
        assert max(strengths) <= 1e-2 * 1.001


def test_arms_are_searched_each_for_itself():
    alone = [run(space(arms=[arm]), valley(best))[2] for arm, best in ((L2, 1e-3), (L1, 1e-3))]
    both = run(space(arms=[L2, L1]), valley(1e-3))[2]
    for seen, arm in zip(alone, ("L2", "L1"), strict=True):
        assert {c for c in seen if c[0] == arm} == {c for c in both if c[0] == arm}


# --- every strategy ----------------------------------------------------------------------------------------

ALL = ["auto", "refine", "path", "bayes", "grid"]
NAMED = {**L2, "strengths": {"low": 1e-6, "high": 1.0, "count": 7}}


@pytest.mark.parametrize("name", ALL)
def test_what_is_asked_for_is_a_function_of_what_was_scored(name):
    where = space(name, arms=[NAMED])
    first, second = (run(where, valley(2e-3, noise=0.01)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("name", ALL)
def test_nothing_is_asked_for_twice_that_was_not_stopped(name):
    where = space(name, arms=[NAMED, L1 | {"strengths": [1e-3, 1e-2]}])
    steps, reason, _ = run(where, valley(2e-3), rungs=False)
    asked = [each for step in steps for each in step.asked]
    assert len(asked) == len(set(asked))
    assert reason.endswith(".")


@pytest.mark.parametrize("name", ["auto", "refine", "bayes"])
def test_the_best_is_found_with_no_strength_named(name):
    where = space(name)
    _, _, seen = run(where, valley(2e-3, noise=0.01))
    assert abs(math.log10(chosen(where, seen) / 2e-3)) <= 0.3


def test_refine_begins_with_the_grid_and_goes_on_between_its_strengths():
    arm = {**L2, "strengths": [1e-4, 1e-3, 1e-2]}
    steps, _, _ = run(space("refine", arms=[arm], tolerance=0.0), valley(2e-3))
    assert {c[1] for c, _ in steps[0].asked} == {None, 1e-4, 1e-3, 1e-2}
    assert {c[1] for c, _ in steps[1].asked} == {float(f"{1e-3 * HALF:.4g}")}  # where 2e-3 is


def test_a_path_begins_each_strength_from_the_one_below():
    steps, _, _ = run(space("path", arms=[NAMED], folds=2), valley(1e-3))
    strengths = [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0]
    begun = [(cell[1], before[1]) for step in steps for cell, before in step.after.items()]
    assert [b for b, _ in begun] == pytest.approx(strengths[1:])
    assert [a for _, a in begun] == pytest.approx(strengths[:-1])
    assert [step.epochs for step in steps] == [None, *[3] * 6]


def test_a_path_ends_where_a_trial_diverges_and_others_go_on():
    other = {**L1, "strengths": NAMED["strengths"]}

    def loss(arm: str, strength: float | None, seed: int, fold: int) -> float:
        return math.inf if arm == "L2" and (strength or 0) >= 1e-3 and seed == 1 else 1.0

    steps, reason, _ = run(space("path", arms=[NAMED, other]), loss)
    tried = [cell for step in steps for cell, _ in step.asked]
    assert max(strength for arm, strength in tried if arm == "L2") == pytest.approx(1e-3)
    assert max(strength for arm, strength in tried if arm == "L1") == pytest.approx(1.0)
    assert reason == "L2: λ = 0.001 diverged, and ends the path."


def test_the_error_that_ends_a_search_is_that_of_the_answer():
    where = space("refine", arms=[{**L2, "strengths": [1e-4, 1e-3, 1e-2]}], folds=4, seeds=3, tolerance=1e9)

    def loss(arm: str, strength: float | None, seed: int, fold: int) -> float:
        noise = np.random.default_rng([seed, fold]).normal() * 0.01 + np.random.default_rng(fold).normal()
        return float(noise) + (0.1 * math.log10(strength / 1e-3) ** 2 if strength else 0.5)

    _, reason, seen = run(where, loss)
    folds = [np.mean([of for (_, at), of in seen["L2", 1e-3].items() if at == fold]) for fold in range(4)]
    limit = re.search(r"within \S+ standard errors, (\S+)\.$", reason)
    assert float(limit[1]) / 1e9 == pytest.approx(np.std(folds, ddof=1) / 2, rel=0.01)


def test_a_strength_that_was_tried_stands_for_one_beside_it():
    steps, _, _ = run(space(arms=[{**L2, "strengths": [1e-3, 3.162e-3, 1e-2]}]), valley(3e-3))
    tried = {cell[1] for step in steps for cell, _ in step.asked if cell[0] == "L2"}
    assert min(b / a for a, b in itertools.pairwise(sorted(tried))) > 1.1


def test_nothing_to_search_is_one_step():
    steps, _, _ = run(space("auto", arms=[FIXED]), valley(1e-3))
    assert len(steps) == 1


# --- the study's choice of a strategy ----------------------------------------------------------------------


def test_a_study_that_names_all_strengths_is_a_grid_and_any_other_a_search():
    assert space(None, arms=[NAMED, FIXED]).spec.strategy == "grid"
    assert space(None, arms=[NAMED, L1]).spec.strategy == "auto"
    assert space("auto", arms=[NAMED]).spec.strategy == "auto"


# --- one strength a rule -----------------------------------------------------------------------------------

EACH = {
    "name": "each", "recipe": ["dense_1: kernel = l2(strength)", "head: kernel = l2(strength)"],
    "strength_per": "rule", "strengths": {"low": 1e-5, "high": 1.0, "count": 2},
}  # fmt: skip


def by_rule(where: Space, best: tuple[float, float]) -> tuple[list[Step], dict[Any, tuple[float, ...]]]:
    """Drive ``bayes`` on a loss that is lowest where each rule is at its own best; return all strengths."""
    steps, seen, tried, search = [], dict[Any, dict[Any, float]](), {}, strategy(where)
    step = next(search)
    while True:
        steps.append(step)
        for cell, unit in step.asked:
            own = tuple((cell[1] or 0) * ratio for ratio in step.ratios.get(cell, ()))
            tried |= {cell: own} if own else {}
            apart = sum(math.log10(s / b) ** 2 for s, b in zip(own, best, strict=False))
            seen.setdefault(cell, {})[unit] = 1.0 + 0.1 * apart
        try:
            step = search.send(seen)
        except StopIteration:
            return steps, tried


def test_rules_have_strengths_of_their_own_whose_geometric_mean_is_the_cells():
    steps, tried = by_rule(space(arms=[EACH], strategy="bayes", seeds=1), (1e-4, 0.1))
    assert len(tried) == 40  # no two candidates are one cell
    for (_, strength), own in tried.items():
        assert strength == pytest.approx(math.sqrt(own[0] * own[1]), rel=2e-3)
    common = [step.ratios[cell] for step in steps[:2] for cell, _ in step.asked if cell in step.ratios]
    assert common == [(pytest.approx(1.0, rel=1e-3),) * 2] * 8
    apart = [abs(math.log10(own[0] / own[1])) for own in tried.values()]
    assert max(apart) > 1


def test_strengths_of_their_own_come_closer_than_the_best_common_one():
    best = (1e-4, 0.1)
    _, tried = by_rule(space(arms=[EACH], strategy="bayes", seeds=1), best)
    away = [sum(math.log10(s / b) ** 2 for s, b in zip(own, best, strict=True)) for own in tried.values()]
    assert min(away[8:]) < min(away[:8])


def test_an_arm_with_strengths_a_rule_is_searched_by_bayes():
    assert space(None, arms=[EACH]).spec.strategy == "bayes"


def down_to(best: tuple[float, ...], begun: list[Any]) -> Any:
    """Return a descent that goes half of the way to the best, in decades, in each of three steps."""

    def descent(arm: str, strength: float) -> Any:
        begun.append((arm, strength))
        at = [strength] * len(best)
        for _ in range(3):
            at = [math.sqrt(a * b) for a, b in zip(at, best, strict=True)]
            yield Down(tuple(at), 100)

    return descent


def test_the_way_down_begins_at_the_best_common_strength_and_is_tried_where_strengths_are_chosen():
    best, begun = (1e-4, 0.1), list[Any]()
    where = space(arms=[EACH, L1], strategy="hypergradient", seeds=1, repeats=3)
    steps, tried = by_rule(replace(where, descent=down_to(best, begun)), best)
    own = {cell: strengths for cell, strengths in tried.items() if cell[0] == "each"}
    away = {c: sum(math.log10(s / b) ** 2 for s, b in zip(o, best, strict=True)) for c, o in own.items()}
    common = [c for c, o in own.items() if o[0] == pytest.approx(o[1])]
    assert begun == [("each", min(common, key=away.__getitem__)[1])]  # and L1 goes nowhere
    assert min(away, key=away.__getitem__) == list(own)[-1]
    asked = [unit for step in steps for cell, unit in step.asked if cell not in common and cell in own]
    assert asked == [(0, 1), (0, 2)] * 3  # the first split found the way, and has no say
    assert [step.spent for step in steps if step.spent] == [100] * 3


def test_the_way_down_ends_where_the_range_does():
    where = space(arms=[EACH], strategy="hypergradient", seeds=1)
    _, reason, _ = run(replace(where, descent=down_to((1e-9, 1e-9), [])), valley(1e-4))
    assert reason.endswith("The way down from there left the range that the study names.")


@pytest.mark.parametrize("name", ["auto", "refine", "path"])
def test_a_strength_for_each_rule_goes_with_the_strategies_that_find_it(name):
    with pytest.raises(SpecError, match='write strategy = "bayes" or "hypergradient"'):
        space(name, arms=[EACH])
    with pytest.raises(SpecError, match='"hypergradient" needs an arm with strength_per = "rule"'):
        space("hypergradient", arms=[L2])
