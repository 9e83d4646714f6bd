"""The statistics of a study against closed forms, reference implementations and simulation."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats as sp

from shrinkage.errors import SpecError
from shrinkage.study import notes, words
from shrinkage.study.compare import cells, differences, recommend, select, summarise
from shrinkage.study.judge import judge
from shrinkage.study.power import detectable_difference
from shrinkage.study.records import as_json
from shrinkage.study.resampling import Resampling
from shrinkage.study.stats import Estimate, estimate, holm, paired_t
from shrinkage.study.summary import Summary

NAN = float("nan")


def trials(arms, *, seeds=3, folds=None, **columns):
    """One row a trial; ``arms`` maps arm -> {strength or None: val losses of the trials, fold by fold}."""
    rows = []
    for arm, by_strength in arms.items():
        for strength, losses in by_strength.items():
            keys = [(s, f) for f in (range(folds) if folds else [-1]) for s in range(seeds)]
            for (seed, fold), loss in zip(keys, losses, strict=True):
                state = "complete" if math.isfinite(loss) else "diverged"
                rows.append((arm, NAN if strength is None else strength, seed, fold, state, loss))
    frame = pd.DataFrame(rows, columns=["arm", "strength", "seed", "fold", "state", "val_data_loss"])
    return frame.assign(epochs=10, train_data_loss=0.1, penalty=0.01, val_accuracy=0.9, **columns)


def two_arms(test_of_arm, test_of_none, *, measure="test_accuracy", folds=None, seeds=None):
    """Arms ``l2`` and ``none`` with given test values, one strength, validation losses that prefer l2."""
    seeds = seeds or len(test_of_arm)
    n = len(test_of_arm)
    frame = trials({"none": {None: [1.0] * n}, "l2": {0.1: [0.9] * n}}, seeds=seeds, folds=folds)
    frame["test_accuracy"], frame["test_data_loss"] = 0.5, 0.5
    frame[measure] = [*test_of_none, *test_of_arm]
    return frame


def compared(frame, measure="test_accuracy", ratio=None):
    return differences(frame, select(cells(frame)), baseline="none", measure=measure, train_test_ratio=ratio)


def summary_of(frame, *, classification=True, baseline="none", resampling=None, curves=None, **more):
    return summarise(
        frame,
        curves,
        baseline=baseline,
        classification=classification,
        resampling=resampling,
        **more,
    )


# --- cells ---------------------------------------------------------------------------------------------


def test_cell_is_mean_and_standard_error_over_seeds():
    (cell,) = cells(trials({"l2": {0.1: [1.0, 2.0, 6.0]}}))
    assert cell.val_data_loss == Estimate(3.0, pytest.approx(sp.sem([1.0, 2.0, 6.0])), 3)
    assert (cell.over, cell.trials, cell.diverged, cell.eligible) == ("seeds", 3, 0, True)


def test_with_folds_seeds_are_averaged_within_a_fold_first():
    (cell,) = cells(trials({"l2": {0.1: [1.0, 3.0, 5.0, 5.0, 0.0, 2.0]}}, seeds=2, folds=3))
    assert cell.over == "folds"
    assert cell.val_data_loss == Estimate(pytest.approx(8 / 3), pytest.approx(sp.sem([2.0, 5.0, 1.0])), 3)


def test_a_fold_that_lacks_a_seed_still_counts_once():
    frame = trials({"l2": {0.1: [1.0, 3.0, 5.0, 7.0]}}, seeds=2, folds=2).drop(index=3)
    assert cells(frame)[0].val_data_loss.mean == pytest.approx((2.0 + 5.0) / 2)


def test_one_seed_has_no_standard_error_rather_than_zero():
    (cell,) = cells(trials({"l2": {0.1: [1.0]}}, seeds=1))
    assert cell.val_data_loss.n == 1
    assert math.isnan(cell.val_data_loss.se)


@pytest.mark.parametrize("loss", [NAN, math.inf])
def test_a_diverged_trial_makes_its_cell_ineligible_and_is_counted_but_kept(loss):
    frame = trials({"l2": {0.1: [1.0, loss, 3.0]}})
    frame["state"] = "complete"  # a loss that is not finite is divergence whatever the state says
    (cell,) = cells(frame)
    assert (cell.eligible, cell.diverged, cell.trials) == (False, 1, 3)
    assert cell.val_data_loss.mean == 2.0


def test_a_trial_that_is_marked_diverged_is_left_out_even_with_a_finite_loss():
    frame = trials({"l2": {0.1: [1.0, 5.0, 3.0]}})
    frame.loc[1, "state"] = "diverged"
    assert cells(frame)[0].val_data_loss.mean == 2.0


def test_columns_that_are_not_there_yet_are_nan_with_no_values():
    frame = trials({"l2": {0.1: [1.0, 2.0, 3.0]}})
    assert "test_accuracy" not in frame
    assert as_json(cells(frame)[0].test_accuracy) == {"mean": None, "se": None, "n": 0}


def test_arms_keep_their_order_and_strengths_ascend():
    frame = trials({"z": {0.3: [1.0] * 3, 0.1: [1.0] * 3}, "a": {None: [1.0] * 3}})
    assert [(c.arm, c.strength) for c in cells(frame)] == [("z", 0.1), ("z", 0.3), ("a", None)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.drop(columns="fold"), "columns fold"),
        (lambda f: f.iloc[:0], "at least one row"),
        (lambda f: pd.concat([f, f.iloc[:1]]), "twice"),
        (lambda f: f.assign(state="running"), "running"),
        (lambda f: f.assign(fold=[-1, 0, -1, 0]), "folds for all trials"),
        (lambda f: f.assign(strength=[0.1, 0.1, NAN, NAN], seed=range(4)), "with and trials without"),
    ],
)
def test_a_frame_that_is_no_study_is_refused(change, says):
    frame = trials({"l2": {0.1: [1.0, 2.0], 0.2: [1.0, 2.0]}}, seeds=2)
    with pytest.raises(ValueError, match=says):
        cells(change(frame))


# --- selection -----------------------------------------------------------------------------------------


def choice_of(by_strength, **kwargs):
    return select(cells(trials({"l2": by_strength}, **kwargs)))["l2"]


def test_the_lowest_mean_is_chosen_and_of_equal_ones_the_largest_strength():
    assert choice_of({0.1: [2.0] * 3, 0.2: [1.0] * 3, 0.3: [3.0] * 3}).strength == 0.2
    assert choice_of({0.1: [1.0] * 3, 0.2: [1.0] * 3, 0.3: [3.0] * 3}).strength == 0.2


def test_one_se_goes_to_the_larger_strength_by_the_standard_error_of_the_minimum():
    # The minimum, at 0.2, is 2 ± 0.577. On both sides a cell lies within, and beyond is one that only its
    # own, huge standard error would let in.
    losses = {0.1: [2.1] * 3, 0.2: [1.0, 2.0, 3.0], 0.3: [2.5] * 3, 0.4: [-20.0, 2.0, 26.1]}
    choice = choice_of(losses)
    assert (choice.strength, choice.one_se_strength) == (0.2, 0.3)
    assert choice.threshold == pytest.approx(2 + 1 / math.sqrt(3))


def test_one_se_is_inclusive_never_smaller_and_may_skip_a_worse_cell():
    choice = choice_of({0.1: [0.0, 2.0], 0.2: [9.0, 9.0], 0.3: [2.0, 2.0]}, seeds=2)
    assert (choice.strength, choice.one_se_strength) == (0.1, 0.3)  # 1 + 1 = 2 exactly
    alone = choice_of({0.1: [1.2, 1.2], 0.2: [1.0, 1.5]}, seeds=2)
    assert alone.strength == 0.1
    assert choice_of({0.1: [1.1] * 2, 0.2: [0.0, 2.0]}, seeds=2).one_se_strength == 0.2


def test_with_one_seed_there_is_no_one_se_strength():
    choice = choice_of({0.1: [1.0], 0.2: [1.0]}, seeds=1)
    assert choice.strength == 0.2
    assert choice.one_se is None
    assert math.isnan(choice.threshold)


def test_a_diverged_cell_takes_no_part():
    choice = choice_of(
        {0.1: [2.0, 3.0, 2.5], 0.2: [0.1, 0.1, NAN], 0.3: [2.6, 2.6, 2.7], 0.4: [2.5, 2.5, NAN]}
    )
    assert (choice.strength, choice.one_se_strength, choice.ineligible) == (0.1, 0.3, 2)


def test_a_stopped_cell_takes_no_part_but_was_tried():
    frame = trials(
        {"none": {None: [1.0, 1.0]}, "l2": {0.1: [0.5, 0.5], 0.2: [0.4, 0.4], 0.3: [0.1, 0.1]}}, seeds=2
    )
    frame.loc[(frame["arm"] == "l2") & (frame["strength"] == 0.3), "state"] = "stopped"
    frame.loc[(frame["arm"] == "l2") & (frame["strength"] == 0.1), "state"] = "stopped"
    summary = summary_of(frame)
    found = summary.arm("l2")
    assert (found.selection.strength, found.selection.edge) == (0.2, None)
    assert (found.selection.stopped, found.selection.ineligible, found.diverged) == (2, 0, 0)
    assert [(cell.stopped, cell.eligible, cell.val_data_loss.n) for cell in found.cells] == [
        (2, False, 0),
        (0, True, 2),
        (2, False, 0),
    ]
    assert "l2: 2 strengths were stopped at a rung; the chosen and the 1-SE strength are of the 1 " in str(
        found.notes
    )
    assert any(note.startswith("4 of 8 trials were stopped at a rung") for note in summary.notes)


def test_a_cell_that_diverged_and_was_stopped_is_counted_once():
    frame = trials({"l2": {0.1: [0.5, 0.5], 0.2: [0.4, 0.4], 0.3: [NAN, 0.4], 0.4: [NAN, 0.4]}}, seeds=2)
    frame.loc[(frame["strength"] >= 0.2) & (frame["seed"] == 1), "state"] = "stopped"
    (found,) = summarise(frame, None, baseline=None, classification=True).arms
    assert (found.selection.stopped, found.selection.ineligible) == (1, 2)
    assert "l2: 1 strength was stopped at a rung; the chosen and the 1-SE strength are of the 1 " in str(
        found.notes
    )


def test_an_arm_whose_every_cell_diverged_has_no_choice():
    choice = choice_of({0.1: [NAN, 1.0, 1.0], 0.2: [NAN] * 3})
    assert (choice.chosen, choice.strength, choice.one_se, choice.edge, choice.ineligible) == (
        None,
        None,
        None,
        None,
        2,
    )


def test_an_arm_without_strength_is_one_cell():
    choice = select(cells(trials({"none": {None: [1.0, 2.0, 3.0]}})))["none"]
    assert choice.chosen is not None
    assert (choice.strength, choice.strengths, choice.one_se, choice.edge) == (None, (), None, None)


@pytest.mark.parametrize(
    ("losses", "edge"),
    [
        ({0.1: 1.0, 0.2: 2.0, 0.3: 3.0}, "lower"),
        ({0.1: 3.0, 0.2: 2.0, 0.3: 1.0}, "upper"),
        ({0.1: 3.0, 0.2: 1.0, 0.3: 2.0}, None),
        ({0.1: 3.0}, "only"),
        ({0.1: 3.0, 0.2: 1.0, 0.3: NAN}, None),  # the grid did not end too early: beyond, training diverges
    ],
)
def test_the_edge_of_the_grid(losses, edge):
    assert choice_of({s: [loss] * 3 for s, loss in losses.items()}).edge == edge


def test_the_standard_error_is_named():
    assert choice_of({0.1: [1.0] * 3}).over == "seeds"
    assert choice_of({0.1: [1.0] * 4}, seeds=2, folds=2).over == "folds"


# Quarters keep sums and shifted sums exact, so that ties stay ties.
quarters = st.integers(-40, 400).map(lambda i: i / 4)
strengths = st.sampled_from([0.001, 0.01, 0.1, 1.0])
one_arm = st.dictionaries(strengths, st.lists(quarters | st.just(NAN), min_size=4, max_size=4), min_size=1)
studies = st.dictionaries(st.sampled_from("abc"), one_arm, min_size=1)


def choices(frame):
    return {arm: (c.strength, c.one_se_strength, c.edge) for arm, c in select(cells(frame)).items()}


@settings(max_examples=25, deadline=None)
@given(studies, st.randoms(use_true_random=False))
def test_choices_do_not_depend_on_the_order_of_rows(arms, random):
    frame = trials(arms, seeds=4)
    order = list(range(len(frame)))
    random.shuffle(order)
    mixed = frame.iloc[order]
    assert as_json(select(cells(mixed))) == as_json(select(cells(frame)))


@settings(max_examples=25, deadline=None)
@given(studies, st.integers(-1000, 1000))
def test_a_constant_on_all_losses_changes_no_choice(arms, constant):
    frame = trials(arms, seeds=4)
    table = cells(frame)
    for choice in select(table).values():
        for cell in table:  # a mean on the threshold itself is settled by rounding
            if choice.chosen and cell.arm == choice.arm and cell.eligible:
                above = cell.val_data_loss.mean - choice.chosen.val_data_loss.mean
                assume(above == 0 or abs(above - choice.chosen.val_data_loss.se) > 1e-9)
    moved = frame.assign(val_data_loss=frame["val_data_loss"] + constant)
    assert choices(moved) == choices(frame)


@settings(max_examples=25, deadline=None)
@given(studies)
def test_an_arm_is_chosen_by_itself(arms):
    together = choices(trials(arms, seeds=4))
    for arm, losses in arms.items():
        assert choices(trials({arm: losses}, seeds=4))[arm] == together[arm]


@settings(max_examples=25, deadline=None)
@given(one_arm)
def test_one_se_is_never_below_the_choice_and_within_the_threshold(losses):
    choice = choice_of(losses, seeds=4)
    assert (choice.one_se is None) == (choice.chosen is None)
    if choice.chosen is not None:
        assert choice.one_se_strength >= choice.strength
        assert choice.one_se.val_data_loss.mean <= choice.threshold
        assert choice.chosen.eligible
        assert choice.one_se.eligible


def test_the_recommendation_is_the_lowest_choice_and_never_looks_at_test_data():
    frame = trials(
        {"none": {None: [2.0] * 3}, "l1": {0.1: [1.0] * 3, 0.2: [0.0, 0.0, NAN]}, "l2": {0.1: [1.5] * 3}}
    )
    frame["test_data_loss"] = [0.1] * 3 + [9.0] * 6 + [0.2] * 3
    best = recommend(select(cells(frame)), baseline="none")
    assert (best.arm, best.strength, best.is_baseline) == ("l1", 0.1, False)


def test_the_recommendation_of_equal_arms_is_the_baseline_and_of_no_choice_none():
    frame = trials({"l2": {0.1: [1.0] * 3}, "none": {None: [1.0] * 3}})
    assert recommend(select(cells(frame)), baseline="none").is_baseline
    assert recommend(select(cells(trials({"l2": {0.1: [NAN] * 3}})))) is None


# --- bare statistics -----------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30))
def test_the_paired_test_is_scipys(seed, n):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(0.2, 1.0, n), rng.normal(0.0, 1.0, n)
    ours, reference = paired_t(a - b), sp.ttest_rel(a, b)
    interval = reference.confidence_interval(0.95)
    assert ours.p == pytest.approx(reference.pvalue, rel=1e-9)
    assert (ours.low, ours.high, ours.df) == (
        pytest.approx(interval.low, rel=1e-9),
        pytest.approx(interval.high, rel=1e-9),
        reference.df,
    )


def test_nadeau_bengio_by_hand():
    # d = 1, 2, 3, 6: mean 3, s² = 14/3; 1/4 + 1/3 = 7/12; se² = 98/36.
    ours = paired_t([1.0, 2.0, 3.0, 6.0], train_test_ratio=1 / 3)
    se = math.sqrt(98 / 36)
    assert ours.se == pytest.approx(se)
    assert ours.p == pytest.approx(2 * sp.t.sf(3 / se, 3))
    assert ours.high == pytest.approx(3 + 3.182446305284263 * se)
    assert ours.se > paired_t([1.0, 2.0, 3.0, 6.0]).se
    assert ours.detectable == pytest.approx(paired_t([1.0, 2.0, 3.0, 6.0]).detectable * math.sqrt(7 / 3))


@pytest.mark.parametrize(("value", "p"), [(0.0, 1.0), (0.25, 0.0), (-0.25, 0.0)])
def test_equal_differences_are_marked(value, p):
    ours = paired_t([value] * 5)
    assert (ours.equal, ours.p, ours.low, ours.high, ours.sd) == (True, p, value, value, 0.0)
    assert math.isnan(ours.detectable)


def test_differences_that_are_equal_up_to_rounding_are_equal():
    a, b = np.array([0.97, 0.95, 0.93], np.float32), np.array([0.96, 0.94, 0.92], np.float32)
    d = (a - b).astype(np.float64)
    assert np.ptp(d) > 0
    assert paired_t(d, scale=0.97).equal
    assert paired_t([1e-9, -2e-9, 1e-9], scale=1.0).p == 1.0
    assert not paired_t([1e-9, -2e-9, 1e-9], scale=1e-9).equal


def test_too_few_differences_say_nothing():
    none, one = paired_t([]), paired_t([0.5])
    assert as_json(none) == as_json(paired_t([], train_test_ratio=0.2))
    assert (one.mean, one.n, one.df) == (0.5, 1, 0)
    assert all(math.isnan(x) for x in (none.mean, one.sd, one.se, one.low, one.high, one.p, one.detectable))


def test_what_can_not_be_tested_is_refused():
    with pytest.raises(ValueError, match="finite"):
        paired_t([1.0, NAN])
    with pytest.raises(ValueError, match="n_test/n_train"):
        paired_t([1.0, 2.0], train_test_ratio=0.0)
    with pytest.raises(ValueError, match="alpha < power"):
        detectable_difference(1.0, 5, power=1.0)


def closed_testing(p_values):
    """Holm as it is defined: closed testing with Bonferroni's test of every intersection."""
    m, adjusted = len(p_values), []
    for i in range(m):
        sets = (s for k in range(1, m + 1) for s in itertools.combinations(range(m), k) if i in s)
        adjusted.append(max(min(1.0, len(s) * min(p_values[j] for j in s)) for s in sets))
    return adjusted


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_closed_testing_with_bonferroni(p_values):
    assert holm(p_values) == pytest.approx(closed_testing(p_values))


def test_holm_does_not_count_what_could_not_be_compared():
    adjusted = holm([0.01, NAN, 0.04])
    assert adjusted[0] == 0.02
    assert adjusted[2] == 0.04
    assert math.isnan(adjusted[1])
    assert holm([]) == []


@pytest.mark.parametrize("n", [2, 3, 5, 20])
@pytest.mark.parametrize("ratio", [None, 0.25])
def test_the_detectable_difference_is_found_with_80_percent_power(n, ratio):
    rng = np.random.default_rng(n)
    delta = detectable_difference(2.0, n, train_test_ratio=ratio)
    # With the correction the units are correlated: a common part gives the mean that variance.
    common = 0.0 if ratio is None else 2.0 * math.sqrt(ratio)
    d = delta + rng.normal(0, 2.0, (40_000, n)) + rng.normal(0, common, (40_000, 1))
    t = d.mean(axis=1) / (d.std(axis=1, ddof=1) * math.sqrt(1 / n + (ratio or 0.0)))
    power = float(np.mean(np.abs(t) > sp.t.ppf(0.975, n - 1)))
    assert power == pytest.approx(0.80, abs=0.01), f"seed {n}"


def test_the_detectable_difference_of_many_pairs_is_the_normal_one():
    normal = sp.norm.ppf(0.975) + sp.norm.ppf(0.8)
    assert detectable_difference(1.0, 10_000) * 100 == pytest.approx(normal, rel=1e-3)


@pytest.mark.parametrize(("sd", "n"), [(1.0, 1), (1.0, 0), (0.0, 5), (NAN, 5)])
def test_without_spread_or_pairs_nothing_is_detectable(sd, n):
    assert math.isnan(detectable_difference(sd, n))


def test_estimates_leave_out_what_is_not_finite():
    assert estimate([1.0, NAN, 3.0, math.inf]) == Estimate(2.0, 1.0, 2)


# --- differences and verdicts --------------------------------------------------------------------------


def test_pairs_exist_only_where_both_trials_were_scored_and_all_are_kept():
    frame = two_arms([0.92, 0.95, NAN, 0.99], [0.90, NAN, 0.91, 0.95])
    found = compared(frame)["l2"]
    assert [(p.seed, p.fold, p.arm, p.baseline) for p in found.pairs] == [
        (0, -1, 0.92, 0.90),
        (3, -1, 0.99, 0.95),
    ]
    assert [p.difference for p in found.pairs] == pytest.approx([0.02, 0.04])
    assert found.test.n == 2


def test_pairs_follow_seeds_whatever_the_order_of_rows():
    frame = two_arms([0.92, 0.95, 0.99], [0.90, 0.91, 0.93])
    mixed = frame.iloc[[5, 0, 4, 2, 1, 3]]
    assert as_json(compared(mixed)["l2"]) == as_json(compared(frame)["l2"])


def test_each_arm_is_compared_at_its_own_best_strength():
    frame = trials(
        {"none": {None: [1.0] * 3}, "l2": {0.1: [0.9] * 3, 0.2: [0.95] * 3}, "l1": {0.2: [0.5] * 3}}
    )
    frame["test_accuracy"] = [0.5, 0.6, 0.7] + [0.6, 0.7, 0.9] + [0.0] * 3 + [0.9, 0.8, 0.9]
    found = compared(frame)
    assert [p.arm for p in found["l2"].pairs] == [0.6, 0.7, 0.9]
    assert [p.arm for p in found["l1"].pairs] == [0.9, 0.8, 0.9]


def test_with_folds_seeds_are_averaged_in_the_fold_and_the_variance_is_corrected():
    arm, none = [1.0, 3.0, 2.0, 4.0, 8.0, 5.0], [0.0, 2.0, 1.0, 1.0, 4.0, 3.0]
    frame = two_arms(arm, none, measure="test_data_loss", folds=3, seeds=2)
    found = compared(frame, "test_data_loss", ratio=0.5)["l2"]
    assert len(found.pairs) == 6
    assert (found.over, found.test.n, found.test.df) == ("folds", 3, 2)
    assert as_json(found.test) == as_json(paired_t([1.0, 2.0, 3.0], train_test_ratio=0.5))


def test_holm_is_over_arms_within_one_measure():
    rng = np.random.default_rng(3)
    arms = {"none": {None: [1.0] * 5}} | {a: {0.1: [0.9] * 5} for a in ("l1", "l2", "l3")}
    frame = trials(arms, seeds=5)
    frame["test_accuracy"], frame["test_data_loss"] = rng.normal(0.9, 0.01, 20), rng.normal(0.3, 0.01, 20)
    for measure in ("test_accuracy", "test_data_loss"):
        found = compared(frame, measure)
        assert [f.p_holm for f in found.values()] == holm([f.test.p for f in found.values()])


def test_the_verdict_is_by_the_adjusted_p_value():
    arms = {"none": {None: [1.0] * 4}, "l1": {0.1: [0.9] * 4}, "l2": {0.1: [0.9] * 4}}
    frame = trials(arms, seeds=4)
    frame["test_accuracy"] = [0.5] * 4 + [0.51, 0.52, 0.53, 0.54] + [0.49, 0.51, 0.5, 0.5]
    found = compared(frame)
    assert found["l1"].test.p == pytest.approx(0.0305, abs=1e-4)
    assert (found["l1"].p_holm, found["l1"].verdict) == (2 * found["l1"].test.p, "no difference")


@pytest.mark.parametrize(
    ("measure", "shift", "verdict"),
    [
        ("test_accuracy", 0.05, "better"),
        ("test_accuracy", -0.05, "worse"),
        ("test_data_loss", 0.05, "worse"),
        ("test_data_loss", -0.05, "better"),
        ("test_data_loss", 0.0001, "no difference"),
    ],
)
def test_the_verdict_goes_by_sign_and_measure(measure, shift, verdict):
    base = np.array([0.90, 0.91, 0.89, 0.92, 0.90])
    noise = np.array([0.001, -0.002, 0.0, 0.002, -0.001])
    found = compared(two_arms(base + shift + noise, base, measure=measure), measure)["l2"]
    assert found.verdict == verdict
    assert found.words == ("no difference that 5 seeds can show" if verdict == "no difference" else verdict)


@pytest.mark.parametrize(("n", "verdict"), [(2, "no difference"), (4, "no difference"), (5, "better")])
def test_a_few_equal_differences_are_no_verdict_and_say_why(n, verdict):
    base = np.linspace(0.90, 0.94, n)
    found = compared(two_arms(base + 0.01, base))["l2"]
    assert (found.test.equal, found.test.p, found.verdict) == (True, 0.0, verdict)
    assert "p is set to 0" in found.notes[0]
    assert ("no evidence below 5 seeds" in found.notes[0]) == (n < 5)


def test_the_same_results_give_p_one_and_say_so():
    found = compared(two_arms([0.9, 0.8], [0.9, 0.8]))["l2"]
    assert (found.test.p, found.verdict) == (1.0, "no difference")
    assert found.notes == (
        "l2, test accuracy: the differences of all 2 seeds are equal to 0, "
        "so no t statistic exists: p is set to 1.",
    )


def test_scores_that_are_no_finite_numbers_ask_for_no_more_seeds():
    frame = trials({"none": {None: [1.0] * 3}, "l2": {0.1: [0.9] * 3}}, test_data_loss=NAN)
    summary = summarise(frame, None, baseline="none", classification=False)
    said = "for now; what it scored on test data is no finite number, which tells nothing."
    assert summary.headline[-1] == f"So: take l2 at λ = 0.1 {said}"


def test_no_baseline_choice_no_differences():
    frame = trials({"none": {None: [NAN] * 3}, "l2": {0.1: [1.0] * 3}}, test_accuracy=0.9)
    assert compared(frame) == {}


def test_unscored_test_data_is_no_test():
    found = compared(trials({"none": {None: [1.0] * 3}, "l2": {0.1: [0.9] * 3}}))["l2"]
    assert (found.test.n, found.verdict, found.words) == (0, "no test", "not compared")
    assert found.sentence.endswith("there is nothing to compare.")


def false_positives(n, repeats, seed, step=None):
    """How often the verdict on one arm is not "no difference" although there is none."""
    rng = np.random.default_rng(seed)
    d = rng.normal(0.0, 0.004, (repeats, n))
    if step is not None:
        d = np.rint(d / step) * step  # accuracy counts whole samples
    judged = (judge([paired_t(row, scale=0.97)], higher_is_better=True) for row in d)
    return sum(found[0].verdict in ("better", "worse") for found in judged) / repeats


@pytest.mark.parametrize(("n", "step"), [(5, None), (5, 1 / 360), (2, 1 / 360), (3, 1 / 100)])
def test_the_verdict_is_wrong_at_most_6_percent_of_the_time(n, step):
    rate = false_positives(n, 3000, seed=20, step=step)
    assert rate <= 0.06, f"n={n}, step={step}, seed 20: {rate:.3f}"


def test_three_arms_are_wrong_anywhere_at_most_6_percent_of_the_time():
    rng = np.random.default_rng(21)
    none, arms = rng.normal(0.9, 0.004, (1500, 1, 5)), rng.normal(0.9, 0.004, (1500, 3, 5))
    wrong = 0
    for of_study in arms - none:  # all three share the baseline's trials
        tests = [paired_t(d, scale=0.9) for d in of_study]
        wrong += any(found.verdict != "no difference" for found in judge(tests, higher_is_better=True))
    assert wrong / 1500 <= 0.06, f"seed 21: {wrong / 1500:.3f}"


# --- the whole summary ---------------------------------------------------------------------------------


def real_looking(seeds=5, folds=None, seed=0, shift=0.006):
    rng = np.random.default_rng(seed)
    n = seeds * (folds or 1)
    arms = {"none": {None: rng.normal(0.20, 0.01, n)}}
    arms["l2"] = {s: rng.normal(m, 0.005, n) for s, m in ((1e-4, 0.15), (3e-4, 0.12), (1e-3, 0.15))}
    frame = trials(arms, seeds=seeds, folds=folds)
    frame["test_accuracy"] = NAN
    frame["test_data_loss"] = NAN
    for arm, strength in (("none", None), ("l2", 3e-4)):
        at = frame.index[
            (frame["arm"] == arm)
            & (frame["strength"].isna() if strength is None else frame["strength"] == strength)
        ]
        frame.loc[at, "test_accuracy"] = 0.965 + (shift if strength else 0.0) + rng.normal(0, 0.001, n)
        frame.loc[at, "test_data_loss"] = 0.20 - (0.08 if strength else 0.0) + rng.normal(0, 0.005, n)
    return frame


def test_the_headline_is_built_from_the_facts():
    summary = summary_of(real_looking())
    best, found = summary.recommended, summary.arm("l2").accuracy
    assert (best.arm, best.strength) == ("l2", 3e-4)
    assert summary.headline[0].startswith(
        f"Lowest mean validation data loss: l2 at λ = 3e-4 ({words.number(best.val_data_loss.mean)} ± "
    )
    assert summary.headline[0].endswith(", standard error over 5 seeds).")
    assert summary.headline[1].startswith("l2 at λ = 3e-4 is better than none on test data: accuracy 97.")
    assert f"+{words.number(100 * found.test.mean)} points (95 % interval" in summary.headline[1]
    assert "data loss" in summary.headline[2]
    assert summary.arm("l2").verdict == "better"
    assert summary.arm("none").verdict == "baseline"


def test_regression_compares_data_loss_only():
    frame = real_looking().assign(val_accuracy=NAN, test_accuracy=NAN)
    summary = summary_of(frame, classification=False)
    assert summary.arm("l2").accuracy is None
    assert len(summary.headline) == 3
    assert summary.headline[2] == "So: use l2 at λ = 3e-4."
    assert "accuracy" not in " ".join(summary.headline)
    assert summary.arm("l2").verdict == summary.arm("l2").data_loss.words


def test_one_seed_says_that_nothing_can_be_tested():
    summary = summary_of(real_looking(seeds=1))
    assert "One seed: no interval and no test is possible." in summary.notes
    assert summary.headline[0].endswith(", one seed).")
    assert "±" not in summary.headline[0]
    assert summary.headline[1].endswith("one seed: no interval and no test is possible.")
    assert summary.arm("l2").verdict == "one seed: no test is possible"
    assert any("no 1-SE strength" in note for note in summary.arm("l2").notes)


@pytest.mark.parametrize(("seeds", "few"), [(3, True), (5, False)])
def test_under_five_seeds_what_could_be_found_is_always_said(seeds, few):
    summary = summary_of(real_looking(seeds=seeds, shift=0.05))
    assert summary.arm("l2").verdict == "better"
    assert ("with 80 % power" in summary.arm("l2").accuracy.sentence) == few
    assert any("Under 5 seeds" in note for note in summary.notes) == few


def test_no_difference_says_what_could_have_been_found():
    found = summary_of(real_looking(shift=0.0)).arm("l2").accuracy
    assert found.sentence.startswith(
        "No difference between l2 at λ = 3e-4 and none on test data that 5 seeds can show"
    )
    size = words.amount(found.test.detectable, True)
    assert found.sentence.endswith(
        f"with this spread 5 seeds find a true difference of {size} with 80 % power; "
        f"about {found.more} more seeds would settle it."
    )


def test_a_fold_study_is_corrected_and_says_so():
    frame = real_looking(seeds=2, folds=5)
    frame["val_accuracy"] += frame.index % 7 / 1000
    summary = summary_of(frame, resampling=Resampling(5, 0.25))
    assert (summary.over, summary.seeds, summary.folds, summary.train_test_ratio) == ("folds", 2, 5, 0.25)
    text = " ".join(summary.notes)
    assert "1/5 + n_test/n_train, with n_test/n_train = 0.25" in text
    assert "One split" not in text
    assert "over 5 folds" in summary.headline[0]
    assert "on held-out rows" in summary.headline[1]
    assert "test data" not in " ".join(summary.headline)


def test_a_shared_split_is_said_and_needs_no_correction():
    summary = summary_of(real_looking())
    assert summary.train_test_ratio is None
    assert any(
        note.startswith("One split of the data was used: an interval covers seeds") for note in summary.notes
    )


def test_without_a_baseline_there_are_no_differences_and_it_is_said():
    summary = summary_of(real_looking(), baseline=None)
    assert all(arm.accuracy is None and arm.data_loss is None for arm in summary.arms)
    assert summary.headline[1] == "No baseline was trained, so no differences are stated."


def test_a_diverged_baseline_is_said():
    frame = real_looking()
    frame.loc[0, ["state", "val_data_loss"]] = ["diverged", NAN]
    summary = summary_of(frame)
    assert summary.headline[1] == "It can't be compared with the baseline none, which has a diverged trial."
    assert summary.arm("none").notes == (
        "none: nothing could be chosen, since every cell has a diverged trial.",
    )


def test_a_study_where_everything_diverged_is_a_fact_and_no_error():
    summary = summary_of(trials({"none": {None: [NAN] * 2}, "l2": {0.1: [NAN] * 2}}, seeds=2))
    assert summary.recommended is None
    assert summary.headline[0].startswith("Nothing can be recommended")
    assert summary.arm("l2").verdict == "diverged"


def test_the_baseline_is_recommended_where_nothing_is_better():
    frame = real_looking()
    frame.loc[frame["arm"] == "none", "val_data_loss"] = 0.01
    assert summary_of(frame).headline[0].startswith("Lowest mean validation data loss: none, the baseline (")


def test_a_strength_that_was_explored_on_fewer_seeds_can_not_be_chosen():
    frame = trials({"none": {None: [1.0] * 3}, "l2": {0.1: [0.5] * 3, 0.2: [0.1] * 3, 0.3: [0.6] * 3}})
    part = frame.drop(index=frame.index[(frame["strength"] == 0.2) & (frame["seed"] == 2)])
    summary = summary_of(part)
    found = summary.arm("l2")
    assert summary_of(frame).arm("l2").selection.strength == 0.2
    assert (found.selection.strength, found.selection.partial, found.selection.ineligible) == (0.1, 1, 0)
    assert [(cell.partial, cell.eligible) for cell in found.cells] == [
        (False, True),
        (True, False),
        (False, True),
    ]
    assert "1 cell was explored on fewer seeds only, and can't be chosen." in summary.notes


def test_a_strength_that_diverged_where_the_range_was_looked_for_is_counted_as_such():
    frame = trials({"none": {None: [1.0] * 3}, "l2": {0.1: [0.5] * 3}})
    looked = trials({"l2": {0.1: [0.5], 1.0: [NAN], 10.0: [NAN], 0.01: [0.7]}}, seeds=1)
    found = summarise(frame, None, baseline="none", classification=True, explored=looked)
    choice = found.arm("l2").selection
    assert (len(choice.strengths), choice.ineligible, choice.partial) == (4, 2, 1)
    assert found.arm("l2").notes[0] == "l2: 2 of 7 trials diverged; 2 cells could not be chosen for it."
    assert "1 cell was explored on fewer seeds only, and can't be chosen." in found.notes
    one = summarise(
        frame, None, baseline="none", classification=True, explored=looked.assign(strength=0.1)[1:2]
    )
    assert one.arm("l2").notes[0] == "l2: 1 of 4 trials diverged; where the range was looked for."


def test_an_arm_that_was_only_explored_has_no_choice_and_did_not_diverge():
    frame = trials({"none": {None: [1.0] * 3}, "l2": {0.1: [0.5] * 3}}).drop(index=5)
    found = summary_of(frame).arm("l2")
    assert (found.selection.chosen, found.verdict) == (None, "not trained to the end")
    assert found.notes == ("l2: nothing could be chosen, since no cell was trained to the end on all seeds.",)


def test_wrong_arguments_are_refused_by_name():
    with pytest.raises(SpecError, match=r"'nine' is no arm.*Did you mean 'none'"):
        summary_of(real_looking(), baseline="nine")
    with pytest.raises(ValueError, match="None disagrees"):
        summary_of(real_looking(seeds=2, folds=3))
    with pytest.raises(ValueError, match=r"Resampling\(splits=2.*disagrees"):
        summary_of(real_looking(seeds=2, folds=3), resampling=Resampling(2, 0.5))
    with pytest.raises(ValueError, match="disagrees"):
        summary_of(real_looking(seeds=2), resampling=Resampling(2, 0.5))
    with pytest.raises(ValueError, match="n_test/n_train"):
        Resampling(3, 0.0)
    with pytest.raises(KeyError):
        summary_of(real_looking()).arm("l3")


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_json_is_strict_and_comes_back_equal(seeds):
    frame = real_looking(seeds=seeds)
    frame.loc[frame.index[-1], ["state", "val_data_loss", "penalty"]] = ["diverged", NAN, math.inf]
    plain = summary_of(frame).to_json()
    text = json.dumps(plain, allow_nan=False)
    assert json.loads(text) == plain
    assert Summary.from_json(json.loads(text)).to_json() == plain
    assert plain["format"] == 4
    assert plain["arms"][1]["selection"]["chosen"]["strength"] == 3e-4
    assert len(plain["arms"][1]["accuracy"]["pairs"]) == seeds


def test_hostile_names_reach_no_terminal_and_break_no_sentence():
    names = ["$x_1$ {0} %s", "<script>", "_", "λ\x1b[31m\n", "n" * 200]
    frame = trials({name: {0.1: [1.0, 1.1, 1.2]} for name in names} | {"none": {None: [2.0, 2.1, 2.3]}})
    frame["test_accuracy"] = np.linspace(0.8, 0.9, len(frame)) ** 2
    summary = summary_of(frame, curves=None)
    said = [*summary.headline, *summary.notes]
    said += [s for arm in summary.arms for s in (*arm.notes, arm.edge_note or "", arm.verdict)]
    said += [arm.accuracy.sentence for arm in summary.arms if arm.accuracy]
    assert all(text.isprintable() for text in said)
    assert json.loads(json.dumps(summary.to_json())) == summary.to_json()
    assert [arm.arm for arm in summary.arms] == [*names, "none"]


# --- words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.1 + 0.2, "0.3"),
        (0.99951, "1"),
        (-0.00123456, "-0.00123"),
        (0.0009996, "0.001"),
        (9.999e-5, "1e-4"),
        (1234.5, "1230"),
        (999.6, "1000"),
        (1.5e7, "1.5e7"),
        (0.0, "0"),
        (math.inf, "n/a"),
    ],
)
def test_numbers_have_three_significant_digits(x, text):
    assert words.number(x) == text


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e12, 1e12).filter(lambda x: abs(x) > 1e-12))
def test_a_written_number_is_within_half_a_percent(x):
    assert float(words.number(x)) == pytest.approx(x, rel=0.00501)


def test_grammar_of_one_and_many():
    assert words.count(1, "seeds") == "1 seed"
    assert words.count(2, "seeds") == "2 seeds"
    assert words.amount(0.01, True) == "1 point"
    assert words.amount(0.011, True) == "1.1 points"
    assert words.verdict("no difference", 2, "folds") == "no difference that 2 folds can show"
    assert words.verdict("no test", 1, "folds") == "one fold: no test is possible"


@pytest.mark.parametrize(
    ("edge", "says"),
    [
        ("upper", "above it; extend the strengths upward"),
        ("lower", "below it; extend the strengths downward"),
    ],
)
def test_edge_notes_say_which_way_to_extend(edge, says):
    order = (3.0, 2.0, 1.0) if edge == "upper" else (1.0, 2.0, 3.0)
    choice = choice_of(dict(zip((0.1, 0.2, 0.3), ([x] * 3 for x in order), strict=True)))
    assert says in notes.edge_note(choice)


def test_importing_the_statistics_loads_nothing_heavy():
    code = (
        "import sys, shrinkage.study.compare; "
        "print([m for m in ('keras', 'jax', 'tensorflow', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (("better", "better"), "So: use l2."),
        (("better", "no difference"), "So: use l2."),
        (("no difference", "better"), "So: use l2 for its lower data loss"),
        (("no difference", "no difference"), "So: l2 is no better than none, as far as 5 seeds can show"),
        (("no difference", "worse"), "So: stay with none"),
        (("worse", "no difference"), "So: stay with none"),
        (("better", "worse"), "So: a trade"),
        (("equivalent", "no difference"), "So: l2 is within 0.5 points of none; the simpler one is enough"),
        (("equivalent", "better"), "So: use l2 for its lower data loss; otherwise it is within 0.5 points"),
        (("equivalent", "worse"), "So: stay with none"),
        (("no test", "no test"), "So: take l2 for now"),
    ],
)
def test_the_advice_follows_the_verdicts(verdicts, said):
    base = summary_of(real_looking(), margin=0.005).arm("l2").accuracy
    compared = [dataclasses.replace(base, verdict=verdict) for verdict in verdicts]
    assert words._advice("l2", "none", "seeds", compared).startswith(said)
