"""From a spec to trials and keys."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkage.errors import SpecError
from shrinkage.study import design
from shrinkage.study.search import strategy
from shrinkage.study.space import Space
from shrinkage.study.spec import StudySpec

FACTS = {"data": "d" * 8, "model": "m" * 8, "backend": "jax"}
FIELDS = {
    "name": "s",
    "data": "digits",
    "model": "m:f",
    "seeds": [0, 7],
    "arms": [
        {"name": "L2", "recipe": ["*: kernel = l2(strength)"], "strengths": [0, 0.1, 0.01]},
        {"name": "fixed", "recipe": ["*: kernel = l1(0.5)"]},
        {"name": "L1", "recipe": ["*: bias = l1(strength)"], "strengths": [0.0, 0.01]},
    ],
}


def spec(**changes):
    fields = {**FIELDS, **changes}
    return StudySpec.parse({k: v for k, v in fields.items() if v is not None})


def keys(s, facts=FACTS):
    """Cell and seed -> key."""
    return {(t.arm, t.strength, t.seed, t.fold): t.key for t in design.trials(s, facts)}


# --- trials --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folds", [None, 3])
def test_every_trial_is_there_exactly_once(folds):
    trials = design.trials(spec(folds=folds), FACTS)
    cells = [("none", None), ("L2", 0.01), ("L2", 0.1), ("fixed", None), ("L1", 0.01)]
    expected = list(itertools.product(cells, [0, 7], range(3) if folds else [-1]))
    assert [(t.cell, t.seed, t.fold) for t in trials] == expected
    assert len({t.key for t in trials}) == len(trials)
    assert len({t.lane for t in trials}) == len(trials)


def test_zero_is_the_baseline_and_trained_once():
    trials = design.trials(spec(), FACTS)
    assert not any(t.strength == 0 for t in trials)
    assert sum(t.arm == "none" for t in trials) == 2
    without = spec(
        arms=[{**arm, "strengths": [0.1]} if "strengths" in arm else arm for arm in FIELDS["arms"]]
    )
    assert keys(without)["none", None, 0, -1] == keys(spec())["none", None, 0, -1]


def test_the_baseline_is_there_whether_asked_for_or_not():
    asked = spec(arms=[*FIELDS["arms"], {"name": "none"}])
    assert keys(asked) == keys(spec())
    assert next(iter(keys(asked)))[0] == "none"
    assert [t.arm for t in design.trials(spec(arms=[]), FACTS)] == ["none", "none"]


@given(
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=6, unique=True),
    st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=6),
    st.none() | st.integers(2, 6),
)
@settings(max_examples=30)
def test_trials_are_the_product(seeds, strengths, folds):
    arms = [{"name": "a", "recipe": "*: kernel = l2(strength)", "strengths": strengths}]
    trials = design.trials(spec(seeds=seeds, arms=arms, folds=folds), FACTS)
    expected = {
        (arm, strength, seed, fold)
        for arm, strength in [("none", None), *(("a", s) for s in strengths)]
        for seed in seeds
        for fold in (range(folds) if folds else [-1])
    }
    found = [(t.arm, t.strength, t.seed, t.fold) for t in trials]
    assert len(found) == len(set(found))
    assert set(found) == expected
    assert len({t.key for t in trials}) == len(trials)


# --- keys ----------------------------------------------------------------------------------------------


def test_ratios_are_part_of_a_key_where_there_are_any():
    arms = [
        {
            "name": "two",
            "recipe": ["a: kernel = l2(strength)", "b: kernel = l2(strength)"],
            "strengths": [0.1],
        }
    ]
    asked = spec(arms=arms, folds=3)
    cell = ("two", 0.1)
    first = next(strategy(Space(asked)))
    step = replace(first, asked=tuple((c, unit) for c, unit in first.asked if c == cell))
    plain, ones, other = (
        design.trials(asked, FACTS, replace(step, ratios={cell: ratios}))
        for ratios in [(), (1.0, 1.0), (2.0, 0.5)]
    )
    assert plain == tuple(t for t in design.trials(asked, FACTS) if t.arm == "two")
    assert len({t.key for t in (*plain, *ones, *other)}) == 3 * 2 * 3
    assert [t.lane.ratios for t in other] == [(2.0, 0.5)] * 6
    assert {t.cell for t in (*plain, *ones, *other)} == {("two", 0.1)}


CHANGES = {
    "epochs": {"training": {"epochs": 21}},
    "batch_size": {"training": {"batch_size": 33}},
    "optimizer": {"training": {"optimizer": "sgd"}},
    "learning_rate": {"training": {"learning_rate": 0.5}},
    "loss": {"training": {"loss": "mse"}},
    "metrics": {"training": {"metrics": ["mae"]}},
    "early_stopping": {"training": {"early_stopping": 2}},
    "validation": {"validation": 0.3},
    "initial": {"initial": "saved"},
    "folds": {"folds": 4},
    "stratify": {"stratify": False},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_determines_a_result_changes_every_key(change):
    before, after = set(keys(spec()).values()), set(keys(spec(**CHANGES[change])).values())
    assert not before & after


@pytest.mark.parametrize("fact", FACTS)
def test_data_model_and_backend_change_every_key(fact):
    assert not set(keys(spec()).values()) & set(keys(spec(), {**FACTS, fact: "other"}).values())


def test_the_number_of_folds_and_the_fold_change_the_key():
    three, four = keys(spec(folds=3)), keys(spec(folds=4))
    assert not set(three.values()) & set(four.values())
    assert three["none", None, 0, 0] != three["none", None, 0, 1]


def test_repeats_change_the_key_and_count_splits_on():
    once, twice = keys(spec(folds=3)), keys(spec(folds=3, repeats=2))
    assert not set(once.values()) & set(twice.values())
    assert [fold for arm, _, seed, fold in twice if (arm, seed) == ("none", 0)] == list(range(6))
    assert len(set(twice.values())) == len(twice)


# Of runs that lie on disks: a key that changes makes their trials be trained again.
KEPT = {
    "6b146718c5a46a5b3107": {},
    "a4ece955e9b9191215d7": {"folds": 3},
    "07361c7ce3ef0571b8c3": {"validation": 0.3},
    "da145fb6fa66ce61f849": {"strategy": "halving"},
}


@pytest.mark.parametrize("key", KEPT)
def test_a_study_without_the_newer_fields_keeps_its_keys(key):
    assert next(iter(keys(spec(**KEPT[key])).values())) == key


@pytest.mark.parametrize("change", [{"refit": True}, {"nested": 3}, {"groups": "g"}], ids=str)
def test_what_comes_after_the_trials_changes_none(change):
    """Groups are among the facts of the data: what they are called determines nothing."""
    assert keys(spec(**change)) == keys(spec())


def test_a_refit_has_a_key_of_its_own_that_its_length_changes():
    of = [design.refitted(spec(), FACTS, "L2", 0.1, epochs).key for epochs in (3, 4)]
    of.append(design.refitted(spec(), FACTS, "L2", 0.5, 3).key)  # a strength that was not tried
    assert len({*of, *keys(spec()).values()}) == len(of) + len(keys(spec()))
    assert design.refitted(spec(folds=3), FACTS, "L2", 0.1, 3).key == of[0]


def test_seed_strength_recipe_and_arm_change_the_key():
    found = keys(spec())
    assert found["L2", 0.1, 0, -1] != found["L2", 0.1, 7, -1]
    assert found["L2", 0.1, 0, -1] != found["L2", 0.01, 0, -1]
    arms = [{**FIELDS["arms"][0], "recipe": ["*: kernel = l2(2.0*strength)"]}]
    assert keys(spec(arms=arms))["L2", 0.1, 0, -1] != found["L2", 0.1, 0, -1]
    twins = [{"name": n, "recipe": "*: kernel = l2(0.1)"} for n in "ab"]
    assert len(set(keys(spec(arms=twins)).values())) == 6  # two arms may say the same; their trials are two


@pytest.mark.parametrize(
    "change",
    [
        {"name": "another"},
        {"storage": "sqlite:///elsewhere.db"},
        {"data": "the same by another name"},
        {"label": "y"},
        {"model": "same:again"},
        {"model_options": {"what": "the fingerprint of the model tells"}},
        {"validation": 0.2},
        {"arms": FIELDS["arms"][::-1]},
        {"arms": FIELDS["arms"][:1]},
        {"arms": [{**FIELDS["arms"][0], "strengths": [0.1, 0.01, 5.0]}, *FIELDS["arms"][1:]]},
        {"arms": [*FIELDS["arms"], {"name": "more", "recipe": "*: kernel = l2(3)"}]},
        {"seeds": 9},
        {"seeds": [7, 0]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_nothing_else_changes_a_key(change):
    before, after = keys(spec()), keys(spec(**change))
    shared = before.keys() & after.keys()
    assert shared
    assert all(before[k] == after[k] for k in shared)


def test_a_strength_that_is_written_out_is_the_same_training_but_another_arm():
    # The recipe enters with its strength filled in: how a strength was written does not matter.
    grid = [
        {"name": "a", "recipe": "*: kernel = l2(strength)", "strengths": {"low": 0.1, "high": 1, "count": 2}}
    ]
    listed = [{"name": "a", "recipe": "*: kernel = l2(1.0*strength)", "strengths": [1.0, 0.1]}]
    assert keys(spec(arms=grid)) == keys(spec(arms=listed))


CODE = """
import json, sys
from shrinkage.study import design
from shrinkage.study.spec import StudySpec
fields, facts = json.loads(sys.argv[1])
print(json.dumps([t.key for t in design.trials(StudySpec.parse(fields), facts)]))
"""


@pytest.mark.thorough
def test_keys_are_equal_in_every_process():
    here = [t.key for t in design.trials(spec(), FACTS)]
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps([FIELDS, dict(reversed(FACTS.items()))])],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "4711"},
    )
    assert json.loads(done.stdout) == here


def test_pending_keeps_the_order_and_drops_the_finished():
    trials = design.trials(spec(), FACTS)
    done = [t.key for t in trials[1::3]]
    left = design.pending(trials, [*done, "of another study"])
    assert left == tuple(t for t in trials if t.key not in done)
    assert design.pending(trials, [t.key for t in trials]) == ()


# --- weights of rows ----------------------------------------------------------------------------------


def test_balanced_weights_are_scikit_learns(rng):
    from sklearn.utils.class_weight import compute_sample_weight

    spec = StudySpec.parse({**FIELDS, "training": {"class_weights": "balanced"}})
    y = rng.choice([0, 1, 3], 50, p=[0.7, 0.2, 0.1])
    for targets in (y, np.eye(4, dtype="float32")[y]):
        found = design.row_weights(spec, targets, 4)
        np.testing.assert_allclose(found, compute_sample_weight("balanced", y), rtol=1e-6)
        assert found.dtype == np.float32


def test_weights_by_class_are_one_a_class():
    spec = StudySpec.parse({**FIELDS, "training": {"class_weights": [1, 2.5]}})
    assert design.row_weights(spec, np.array([1, 0, 1]), 2).tolist() == [2.5, 1, 2.5]
    with pytest.raises(SpecError, match="2 numbers for 3 classes"):
        design.row_weights(spec, np.array([1, 0, 2]), 3)
    with pytest.raises(SpecError, match="regression"):
        design.row_weights(spec, np.array([0.5, 0.1]), 0)
    assert design.row_weights(StudySpec.parse(FIELDS), np.array([1, 0]), 2) is None
