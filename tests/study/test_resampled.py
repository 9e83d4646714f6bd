"""What folds are compared on, equivalence, and how much more would settle a question."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats as sp

from shrinkage.study.compare import cells, select, summarise
from shrinkage.study.judge import EQUAL_PAIRS, judge, more_units
from shrinkage.study.power import MOST, detectable_difference, units_for_equivalence, units_needed
from shrinkage.study.resampling import Resampling
from shrinkage.study.selection import cross_fitted, lowest
from shrinkage.study.stats import equivalence, holm, paired_t
from shrinkage.study.summary import Summary
from shrinkage.study.words import settle

NAN = float("nan")


def study(losses, accuracies=None, *, seeds=1, folds=3, repeats=1, over="folds", tested=0.1, **more):
    """``losses``: arm -> strength -> one number a split, or one a split and seed (fold by fold)."""
    rows = []
    for arm, by_strength in losses.items():
        for strength, of_cell in by_strength.items():
            right = (accuracies or {}).get(arm, {}).get(strength, [0.5] * len(of_cell))
            keys = itertools.product(range(folds * repeats), range(seeds))
            for (fold, seed), loss, accuracy in zip(keys, of_cell, right, strict=True):
                rows.append((arm, NAN if strength is None else strength, seed, fold, loss, accuracy))
    columns = ["arm", "strength", "seed", "fold", "val_data_loss", "val_accuracy"]
    frame = pd.DataFrame(rows, columns=columns).assign(
        state="complete", test_accuracy=tested, test_data_loss=tested, epochs=1
    )
    return summarise(
        frame, None, baseline="none", classification=True,
        resampling=Resampling(folds, 1 / (folds - 1), repeats, over), **more,
    )  # fmt: skip


# --- the choice of each split ---------------------------------------------------------------------------


def by_hand(losses, folds):
    """The definition: for each split, over the other splits of its repeat, of equal means the largest."""
    strengths, splits = losses.shape
    out = []
    for s in range(splits):
        others = [u for u in range(splits) if u // folds == s // folds and u != s] or [s]
        sums = [math.fsum(losses[k, u] for u in others) for k in range(strengths)]
        out.append(max(k for k in range(strengths) if sums[k] == min(sums)))
    return out


# Quarters are exact, so that ties stay ties.
quarters = st.integers(0, 40).map(lambda i: i / 4)


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 4), st.integers(1, 3))
def test_a_split_is_chosen_for_by_the_others_of_its_repeat(data, strengths, folds, repeats):
    losses = data.draw(hnp.arrays(np.float64, (strengths, folds * repeats), elements=quarters))
    assert cross_fitted(losses, folds).tolist() == by_hand(losses, folds)
    stacked = np.stack([losses, losses[:, ::-1]])
    assert np.array_equal(cross_fitted(stacked, folds)[0], cross_fitted(losses, folds))


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(2, 4), st.integers(1, 3))
def test_no_split_has_a_say_in_its_own_choice(data, folds, repeats):
    losses = data.draw(hnp.arrays(np.float64, (3, folds * repeats), elements=quarters))
    split = data.draw(st.integers(0, folds * repeats - 1))
    changed = losses.copy()
    changed[:, split] = data.draw(hnp.arrays(np.float64, (3,), elements=quarters))
    assert cross_fitted(losses, folds)[split] == cross_fitted(changed, folds)[split]


def test_of_equal_losses_the_largest_strength_is_lowest():
    assert lowest(np.array([2.0, 1.0, 1.0])) == 2
    assert lowest(np.array([[1.0, 1.0], [0.0, 1.0]])).tolist() == [1, 0]


LOSSES = {"none": {None: [5.0, 5.0, 5.0]}, "l2": {0.1: [1.0, 1.0, 9.0], 1.0: [2.0, 2.0, 2.0]}}


def test_an_arm_stands_in_each_fold_at_the_strength_that_the_others_choose():
    right = {"none": {None: [0.5, 0.5, 0.5]}, "l2": {0.1: [0.1, 0.2, 0.3], 1.0: [0.7, 0.8, 0.9]}}
    summary = study(LOSSES, right)
    found = summary.arm("l2")
    assert found.selection.strength == 1.0
    assert found.selection.stability.strengths == (1.0, 1.0, 0.1)
    assert [pair.arm for pair in found.accuracy.pairs] == [0.7, 0.8, 0.3]
    assert [pair.arm for pair in found.data_loss.pairs] == [2.0, 2.0, 9.0]
    assert (found.accuracy.measure, found.data_loss.measure) == ("val_accuracy", "val_data_loss")
    assert found.accuracy.test.mean == pytest.approx(0.1)  # not of test data, where all is equal


def test_stability_is_the_share_and_the_spread_of_the_choices():
    found = study(LOSSES).arm("l2")
    assert found.selection.stability.share == pytest.approx(2 / 3)
    assert found.selection.stability.spread == pytest.approx(np.std([0, 0, -1], ddof=1))
    assert found.notes[0] == (
        "l2: with one fold left out in turn, λ = 0.1 (1 time) and λ = 1 (2 times) would be chosen."
    )
    assert study(LOSSES).arm("none").selection.stability is None


def test_without_folds_nothing_is_left_out():
    frame = pd.DataFrame(
        {"arm": "l2", "strength": [0.1, 0.1, 0.2, 0.2], "seed": [0, 1, 0, 1], "fold": -1,
         "state": "complete", "val_data_loss": [1.0, 2.0, 3.0, 4.0]}
    )  # fmt: skip
    assert select(cells(frame))["l2"].stability is None


def test_repeats_are_chosen_for_apart():
    # In the first repeat 0.1 is better in every fold, in the second 1.0.
    losses = {"none": {None: [5.0] * 4}, "l2": {0.1: [1.0, 1.0, 4.0, 4.0], 1.0: [2.0, 2.0, 3.0, 3.0]}}
    apart = study(losses, folds=2, repeats=2).arm("l2").selection.stability
    assert apart.strengths == (0.1, 0.1, 1.0, 1.0)


def test_seeds_are_averaged_before_folds_choose_and_test():
    losses = {"none": {None: [4.0, 6.0] * 3}, "l2": {0.1: [1.0, 3.0, 5.0, 5.0, 0.0, 2.0]}}
    found = study(losses, seeds=2).arm("l2")
    assert found.selection.chosen.losses == (2.0, 5.0, 1.0)
    assert len(found.data_loss.pairs) == 6
    assert (found.data_loss.test.n, found.data_loss.test.df) == (3, 2)
    corrected = paired_t([-3.0, 0.0, -4.0], train_test_ratio=0.5)
    assert found.data_loss.test.p == pytest.approx(corrected.p)


def test_test_data_has_no_say_in_what_a_fold_study_finds():
    assert study(LOSSES, tested=0.1).headline == study(LOSSES, tested=0.9).headline
    assert "test data" not in " ".join(study(LOSSES).headline)


# --- equivalence ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 20), st.floats(0.05, 3.0))
def test_equivalence_is_two_one_sided_t_tests(seed, n, margin):
    d = np.random.default_rng(seed).normal(0.2, 1.0, n)
    ours = equivalence(paired_t(d), margin)
    low = sp.ttest_1samp(d, -margin, alternative="greater").pvalue
    high = sp.ttest_1samp(d, margin, alternative="less").pvalue
    assert ours.p == pytest.approx(max(low, high), rel=1e-9)
    interval = sp.ttest_1samp(d, 0).confidence_interval(0.9)
    assert (ours.low, ours.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert ours.inside == (-margin < ours.low and ours.high < margin)


def test_equivalence_has_the_standard_error_of_the_test():
    d = [0.1, -0.2, 0.0, 0.2, -0.1]
    plain, corrected = (equivalence(paired_t(d, train_test_ratio=r), 0.3) for r in (None, 0.25))
    assert corrected.high - corrected.low == pytest.approx((plain.high - plain.low) * math.sqrt(2.25))


@pytest.mark.parametrize(("value", "p"), [(0.0, 0.0), (0.1, 0.0), (0.2, 1.0), (-0.3, 1.0)])
def test_equal_differences_are_inside_or_not(value, p):
    found = equivalence(paired_t([value] * EQUAL_PAIRS), 0.2)
    assert (found.p, found.inside, found.low, found.high) == (p, p == 0.0, value, value)


def test_a_margin_is_positive_and_one_unit_shows_nothing():
    assert math.isnan(equivalence(paired_t([0.0]), 0.1).p)
    for wrong in (0.0, -1.0, NAN, math.inf):
        with pytest.raises(ValueError, match="margin"):
            equivalence(paired_t([1.0, 2.0]), wrong)


def test_equivalence_is_adjusted_over_arms_and_a_difference_comes_first():
    tiny, none = [0.0011, 0.0009, 0.0010, 0.0012, 0.0008], [1e-4, -1e-4, 0.0, 2e-4, -2e-4]
    tests = [paired_t(tiny), paired_t(none), paired_t([0.01, -0.01, 0.0, 0.02, -0.02])]
    found = judge(tests, higher_is_better=True, margin=0.002)
    assert [one.verdict for one in found] == ["better", "equivalent", "no difference"]
    assert [one.p_equivalent for one in found] == holm([one.equivalence.p for one in found])
    assert all(one.equivalence is None for one in judge(tests, higher_is_better=True))


def test_a_few_equal_differences_show_no_equivalence():
    for n, verdict in ((EQUAL_PAIRS - 1, "no difference"), (EQUAL_PAIRS, "equivalent")):
        assert judge([paired_t([0.0] * n)], higher_is_better=True, margin=0.1)[0].verdict == verdict


def test_equivalence_is_said_with_its_margin_and_its_interval():
    rng = np.random.default_rng(0)
    none = 0.9 + rng.normal(0, 1e-4, 10)
    right = {"none": {None: none}, "l2": {0.1: none + rng.normal(0, 1e-4, 10)}}
    losses = {"none": {None: [1.0] * 10}, "l2": {0.1: [0.9 + 0.2 * i % 0.3 for i in range(10)]}}
    found = study(losses, right, folds=10, margin=0.002).arm("l2")
    assert found.verdict == "equivalent"
    assert found.data_loss.equivalence is None
    assert "is within 0.2 points of none (90 % interval " in found.accuracy.sentence
    assert study(losses, right, folds=10).arm("l2").verdict == "no difference that 10 folds can show"


# --- power ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sd", "difference"), [(1.0, 3.0), (1.0, 1.0), (2.0, 0.5), (1.0, 0.05)])
@pytest.mark.parametrize("ratio", [None, 0.001])
def test_the_units_needed_are_the_fewest(sd, difference, ratio):
    n = units_needed(sd, difference, train_test_ratio=ratio)
    if n is None:
        assert detectable_difference(sd, MOST, train_test_ratio=ratio) > difference
        return
    assert detectable_difference(sd, n, train_test_ratio=ratio) <= difference
    assert n == 2 or detectable_difference(sd, n - 1, train_test_ratio=ratio) > difference
    assert units_needed(sd, -difference, train_test_ratio=ratio) == n


def test_many_units_are_those_of_the_normal_distribution():
    z = sp.norm.ppf
    assert units_needed(1.0, 0.05) == pytest.approx((z(0.975) + z(0.8)) ** 2 / 0.05**2, rel=2e-3)
    assert units_for_equivalence(1.0, 0.05) == pytest.approx((z(0.95) + z(0.9)) ** 2 / 0.05**2, rel=2e-3)


def test_splits_of_the_same_data_are_not_new_data():
    assert units_needed(1.0, 1.0) == 10
    assert units_needed(1.0, 1.0, train_test_ratio=0.25) is None  # at most 2.8 · sd · sqrt(1/4) is found
    assert units_needed(1.0, 1.5, train_test_ratio=0.25) is not None


@pytest.mark.parametrize("margin", [0.5, 1.0])
def test_the_units_for_equivalence_show_it_with_80_percent_power(margin):
    n = units_for_equivalence(1.0, margin)
    rng = np.random.default_rng(7)

    def power(n):
        d = rng.normal(0.0, 1.0, (40_000, n))
        half = sp.t.ppf(0.95, n - 1) * d.std(axis=1, ddof=1) / math.sqrt(n)
        return float(np.mean(np.abs(d.mean(axis=1)) + half < margin))

    assert power(n) >= 0.79, "seed 7"
    assert power(n - 2) <= 0.80, "seed 7"


def test_more_folds_come_in_whole_repeats():
    test = paired_t([0.02, -0.01, 0.01, 0.03, -0.02, 0.01], train_test_ratio=0.01)
    units = more_units(test, None, 0.01)
    repeats = more_units(test, None, 0.01, folds=3)
    assert 0 < repeats < units
    needed = units_needed(test.sd, test.mean, train_test_ratio=0.01) - 6
    assert 3 * (repeats - 1) < needed <= 3 * repeats


@pytest.mark.parametrize(
    ("splits", "said"), [("folds", "repeats? of the folds"), ("splits", "random splits?")]
)
def test_what_would_settle_it_is_said_in_what_can_be_added(splits, said):
    right = {"none": {None: [0.5, 0.52, 0.49]}, "l2": {0.1: [0.52, 0.51, 0.5]}}
    losses = {"none": {None: [1.0, 1.1, 1.2]}, "l2": {0.1: [0.9, 1.0, 1.1]}}
    found = study(losses, right, margin=0.1, over=splits).arm("l2").accuracy
    text = settle(replace(found, verdict="no difference", more=2))
    assert re.fullmatch(f"about 2 more {said} would settle it", text)
    assert re.fullmatch(
        f"about 1 more {said} would settle it", settle(replace(found, verdict="no difference", more=1))
    )
    none = settle(replace(found, verdict="no difference", more=None))
    assert re.fullmatch(f"more {said} would not settle it, more data would", none)


# --- random splits, and where a search looked ------------------------------------------------------------


def test_random_splits_are_called_so_and_said_to_share_rows():
    folds, splits = study(LOSSES), study(LOSSES, over="splits")
    assert (folds.over, splits.over) == ("folds", "splits")
    told = [*splits.headline, *splits.notes, *(note for arm in splits.arms for note in arm.notes)]
    told += [arm.verdict for arm in splits.arms]
    assert not any("fold" in text for text in told)
    assert any("hold out some of the same rows" in note for note in splits.notes)
    assert any("no row has a say" in note for note in folds.notes)


def test_one_split_is_said_to_be_scored_on_what_chose():
    frame = pd.DataFrame(
        {"arm": ["none", "l2", "l2"], "strength": [NAN, 0.1, 1.0], "seed": 0, "fold": 1, "state": "complete",
         "val_data_loss": [5.0, 1.0, 2.0], "epochs": 1}
    )  # fmt: skip
    alone = summarise(
        frame, None, baseline="none", classification=False,
        resampling=Resampling(1, 0.25, over="splits"),
    )  # fmt: skip
    assert "on the rows that chose it" in alone.arm("l2").data_loss.sentence


def test_an_arm_that_stands_at_several_strengths_is_named_without_one():
    sentence = study(LOSSES).arm("l2").accuracy.sentence
    assert "l2 (in each fold at the λ that the others choose)" in sentence
    same = study({"none": {None: [5.0] * 3}, "l2": {0.1: [1.0] * 3, 1.0: [2.0] * 3}})
    assert "l2 at λ = 0.1" in same.arm("l2").accuracy.sentence


def test_random_splits_that_choose_for_each_other_are_corrected_for_twice():
    found = {splits: study(LOSSES, over=splits) for splits in ("folds", "splits")}
    tests = {splits: of.arm("l2").data_loss.test for splits, of in found.items()}
    assert found["splits"].train_test_ratio == found["folds"].train_test_ratio == 0.5
    wider = math.sqrt((1 / 3 + 2 * 0.5) / (1 / 3 + 0.5))
    assert tests["splits"].high - tests["splits"].mean == pytest.approx(
        wider * (tests["folds"].high - tests["folds"].mean)
    )
    assert any("counts twice" in note for note in found["splits"].notes)
    untuned = {"none": {None: [5.0, 5.0, 5.1]}, "l2": {0.1: [1.0, 1.1, 1.0]}}
    same = [study(untuned, over=splits).arm("l2").data_loss.test for splits in ("folds", "splits")]
    assert same[0] == same[1]


def explored(**strengths):
    rows = [(arm, s, loss) for arm, by in strengths.items() for s, loss in by.items()]
    frame = pd.DataFrame(rows, columns=["arm", "strength", "val_data_loss"]).assign(seed=0, fold=7)
    return frame.assign(state=np.where(np.isfinite(frame["val_data_loss"]), "complete", "diverged"))


def test_what_was_explored_is_told_and_has_no_say():
    looked = explored(l2={0.1: 1.0, 100.0: 0.0, 1000.0: NAN})
    plain, found = study(LOSSES, searched=True), study(LOSSES, searched=True, explored=looked)
    mine, before = found.arm("l2"), plain.arm("l2")
    assert mine.selection.strengths == (0.1, 1.0, 100.0, 1000.0)
    assert (mine.trials, mine.diverged) == (before.trials + 3, 1)
    assert (mine.selection.partial, mine.selection.ineligible) == (1, 1)  # 1000 diverged
    assert mine.selection.chosen == before.selection.chosen
    assert mine.cells == before.cells
    assert found.units == plain.units == ((0, 0), (0, 1), (0, 2))


def test_an_arm_that_diverged_where_it_was_explored_is_still_an_arm():
    found = study(LOSSES, searched=True, explored=explored(act={1e20: NAN, 1e25: NAN}))
    arm = found.arm("act")
    assert (arm.verdict, arm.trials, arm.diverged, arm.cells) == ("diverged", 2, 2, ())
    assert arm.selection.is_lost
    assert arm.notes == ("act: nothing could be chosen, since every cell has a diverged trial.",)
    assert Summary.from_json(json.loads(json.dumps(found.to_json()))).to_json() == found.to_json()


def test_after_a_search_no_choice_is_at_an_edge():
    assert study(LOSSES).arm("l2").selection.edge == "upper"
    assert study(LOSSES, searched=True).arm("l2").selection.edge is None


def test_repeats_of_the_folds_do_not_make_the_error_of_the_1_se_rule_smaller():
    losses = {"none": {None: [5.0] * 3}, "l2": {0.1: [1.0, 1.4, 1.2], 1.0: [1.25, 1.2, 1.35]}}
    twice = {arm: {s: of * 4 for s, of in by.items()} for arm, by in losses.items()}
    once, often = study(losses).arm("l2").selection, study(twice, repeats=4).arm("l2").selection
    assert once.one_se_strength == often.one_se_strength == 1.0
    sd = np.std(twice["l2"][0.1], ddof=1)
    assert often.threshold == pytest.approx(1.2 + sd / math.sqrt(3))


def test_what_was_not_trained_to_the_end_has_not_diverged():
    frame = pd.DataFrame(
        {"arm": ["none"] * 2 + ["l2"], "strength": [NAN, NAN, 0.1], "seed": [0, 1, 0], "fold": -1,
         "state": "complete", "val_data_loss": [1.0, 1.0, 0.5]}
    )  # fmt: skip
    options = {"baseline": "none", "classification": False}
    found = summarise(frame, frame.assign(epoch=1, train_data_loss=1.0), **options)
    assert found.arm("l2").verdict == "not trained to the end"
    assert found.arm("l2").diagnosis is None
    assert "on all seeds" in found.arm("l2").notes[0]
    only = summarise(frame.drop(index=1).assign(seed=[0, 1]), None, **options)
    assert only.headline == ("Nothing can be recommended: no strength was trained to the end on all seeds.",)
    none = summarise(frame.assign(arm=["l2"] * 2 + ["none"], strength=[0.1, 0.1, NAN]), None, **options)
    assert none.headline[1].endswith("which was not trained to the end on all seeds.")


def test_equal_differences_that_are_no_evidence_do_not_help_the_others_through_holm():
    equal, close = paired_t([0.01] * 3), paired_t([0.010, 0.016, 0.019])
    alone = judge([close], higher_is_better=True)[0].p_holm
    first, second = judge([equal, close], higher_is_better=True, margin=0.05)
    assert (first.p_holm, first.p_equivalent, first.verdict) == (1.0, 1.0, "no difference")
    assert second.p_holm == pytest.approx(2 * alone)


def test_what_can_not_be_planned_is_refused_or_none():
    assert units_needed(0.0, 1.0) is None
    assert units_needed(NAN, 1.0) is None
    with pytest.raises(ValueError, match="difference"):
        units_needed(1.0, 0.0)
    with pytest.raises(ValueError, match="margin"):
        units_for_equivalence(1.0, -1.0)


def test_more_units_are_for_the_margin_or_else_for_what_was_seen():
    test = paired_t([0.02, -0.01, 0.01])
    either = max(units_needed(test.sd, 0.01), units_for_equivalence(test.sd, 0.01))
    assert more_units(test, 0.01, None) == either - 3
    assert more_units(test, None, None) == units_needed(test.sd, test.mean) - 3
    assert more_units(test, 1.0, None) == 0
    assert more_units(paired_t([0.1, 0.1]), 0.01, None) is None
    assert more_units(test, 0.0001, None) is None
    many = units_needed(test.sd, 0.002), units_for_equivalence(test.sd, 0.002)
    assert 0 <= more_units(test, 0.002, None) - (max(many) - 3) < 10  # rounded up to two digits
    assert more_units(test, 0.002, None) % 10 == 0


def test_a_fold_study_that_needs_new_data_says_so():
    rng = np.random.default_rng(1)
    right = {"none": {None: rng.normal(0.9, 0.02, 5)}, "l2": {0.1: rng.normal(0.9, 0.02, 5)}}
    losses = {"none": {None: [1.0] * 5}, "l2": {0.1: [0.9] * 5}}
    found = study(losses, right, folds=5, margin=0.002).arm("l2").accuracy
    assert (found.verdict, found.more) == ("no difference", None)
    assert found.sentence.endswith("; more repeats of the folds would not settle it, more data would.")
