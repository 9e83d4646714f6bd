"""The tables of the report, against the summary, the frame and the curves that they are made of."""

from __future__ import annotations

import math
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tomli_w

from invented import results
from shrinkage.report.explain import explain
from shrinkage.report.facts import facts
from shrinkage.report.svg import Chart, Scale, shape, spanning
from shrinkage.study.words import at_strength


@pytest.fixture(scope="module", params=[False, True], ids=["sound", "failed"])
def run(request):
    found = results(arms=3, strengths=4, seeds=3, epochs=5, failed=request.param)
    return found, facts(found)


def rows_of(frame, arm, strength):
    same = frame["strength"].isna() if strength is None else frame["strength"] == strength
    return frame[(frame["arm"] == arm) & same & (frame["state"] == "complete")]


def test_an_arm_is_shown_at_its_choice(run):
    found, shown = run
    for arm, row in zip(found.summary.arms, shown.arms, strict=True):
        chosen = arm.selection.chosen
        assert (row.arm, row.strength) == (arm.arm, arm.selection.strength)
        assert row.val_data_loss == chosen.val_data_loss
        assert row.test_accuracy == chosen.test_accuracy
        assert row.difference == arm.accuracy
        own = rows_of(found.frame, row.arm, row.strength)
        assert row.zeros == pytest.approx(own["zeros"].mean())
        assert row.compacted_parameters == pytest.approx(own["compacted_parameters"].mean())
    assert [row.arm for row in shown.arms if row.is_recommended] == [found.summary.recommended.arm]
    assert sorted(row.style for row in shown.arms) == list(range(len(shown.arms)))
    assert [row.style for row in shown.arms if row.is_baseline] == [0]


def test_validation_has_every_trial_that_counts(run):
    found, shown = run
    for row in shown.validation:
        own = rows_of(found.frame, row.arm, row.strength)
        assert row.losses == tuple(own["val_data_loss"])
        if not (row.diverged or row.stopped):
            assert row.loss.mean == pytest.approx(np.mean(row.losses))
            assert row.loss.se == pytest.approx(np.std(row.losses, ddof=1) / math.sqrt(len(row.losses)))
    for arm in found.summary.arms:
        (chosen,) = (row for row in shown.validation if row.arm == arm.arm and row.chosen)
        assert chosen.strength == arm.selection.strength


def test_curves_are_those_of_the_trials(run):
    found, shown = run
    assert len(shown.curves) == len(found.frame)
    for row in shown.curves:
        same = (
            found.curves["strength"].isna()
            if row.strength is None
            else (found.curves["strength"] == row.strength)
        )
        own = found.curves[(found.curves["arm"] == row.arm) & same & (found.curves["seed"] == row.seed)]
        assert row.val_data_loss == tuple(own["val_data_loss"])
        assert row.gap == pytest.approx(own["val_data_loss"] - own["train_data_loss"])


def test_trials_that_only_said_where_to_look_are_listed_and_nowhere_else(run):
    found, shown = run
    looked = found.frame.assign(fold=9, val_data_loss=1e6)
    curves = found.curves.assign(fold=9)
    more = replace(found, frame=pd.concat([found.frame, looked], ignore_index=True))
    more.__dict__["curves"] = pd.concat([found.curves, curves], ignore_index=True)
    seen = facts(more)
    assert (seen.validation, seen.curves, seen.sizes, seen.arms) == (
        shown.validation, shown.curves, shown.sizes, shown.arms,
    )  # fmt: skip
    assert len(seen.trials) == 2 * len(shown.trials)


def test_sizes_are_means_where_something_can_go(run):
    found, shown = run
    for row in shown.sizes:
        own = rows_of(found.frame, row.arm, row.strength)
        assert row.parameters == pytest.approx(own["compacted_parameters"].mean())
        assert row.score == pytest.approx(own["val_accuracy"].mean())
    assert facts(results(smaller=False)).sizes == ()


def test_the_network_names_what_the_recommended_arm_charges(run):
    found, shown = run
    seen = found.evidence.arm(found.summary.recommended.arm)
    expected = {(place.layer, f"{place.target}: {place.penalty}") for place in seen.charged}
    assert {(row.node.path, text) for row in shown.network for text in row.charged} == expected


def test_shares_of_layers_add_up(run):
    _, shown = run
    for arm in {row.arm for row in shown.layers}:
        shares = [row.share for row in shown.layers if row.arm == arm and math.isfinite(row.share)]
        assert not shares or sum(shares) == pytest.approx(1)


def test_what_came_before_and_after_the_choice_is_told_as_elsewhere():
    found = results(resampled=True)
    shown, plain = facts(found), facts(results())
    told = explain(found.summary, found.evidence, found.refit, found.nested, found.search)
    assert (len(shown.searched), len(shown.after)) == (1, 2)
    assert {*shown.searched, *shown.after} <= {each.sentence for each in told}
    assert (plain.searched, plain.after, plain.outer) == ((), (), ())
    assert [row.test for row in shown.outer] == [34, 33, 33]
    assert [row.choice for row in shown.outer] == [
        at_strength(o.refit.arm, o.refit.strength) if o.refit else "" for o in found.nested.outer
    ]


def test_a_password_stays_at_home():
    found = results()
    url = "postgresql://me:secret@host/studies?password=secret"
    told = facts(replace(found, study=f'storage = "{url}"\n{found.study}'))
    assert "secret" not in repr(told)
    assert tomllib.loads(told.study) == {"storage": "postgresql://me:***@host/studies", **found.fields}
    assert facts(found).study == found.study


def test_an_arms_own_learning_rate_is_pasted_with_it():
    found = results()
    best = found.summary.recommended.arm
    arms = [{**arm, "learning_rate": 0.25} for arm in found.fields["arms"] if arm["name"] == best]
    arms = arms or [{"name": best, "learning_rate": 0.25}]
    told = facts(replace(found, study=tomli_w.dumps({"arms": arms})))
    assert tomllib.loads(told.verdict.paste.toml)["arms"][0]["learning_rate"] == 0.25
    assert "learning_rate" not in facts(found).verdict.paste.toml


# --- the answer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracy", "loss", "enough"),
    [
        ("no difference", "no difference", True),
        ("worse", "no difference", True),
        ("equivalent", "no difference", True),
        ("better", "no difference", False),
        ("no difference", "better", False),
        ("worse", "better", False),  # a trade
        ("no test", "no test", False),
    ],
)
def test_nothing_has_to_be_added_where_nothing_is_shown_to_be_better(accuracy, loss, enough):
    found = results()
    best = found.summary.recommended.arm
    arms = tuple(
        replace(
            arm,
            accuracy=replace(arm.accuracy, verdict=accuracy),
            data_loss=replace(arm.data_loss, verdict=loss),
        )
        if arm.arm == best
        else arm
        for arm in found.summary.arms
    )
    shown = facts(replace(found, summary=replace(found.summary, arms=arms)))
    assert shown.verdict.enough == ("none" if enough else "")
    assert shown.told == ("none", best)


def test_where_the_baseline_wins_the_next_best_is_shown_beside_it():
    found = results()
    best = found.summary.recommended
    flat = replace(best, arm="none", strength=None, is_baseline=True)
    shown = facts(replace(found, summary=replace(found.summary, recommended=flat)))
    assert shown.told == ("none", best.arm)
    assert shown.verdict.enough == ""
    assert any(row.charged for row in shown.network)


def test_the_command_to_make_it_again_allows_code_only_where_there_is_some():
    found = results()
    again = facts(found).command
    assert again.startswith("KERAS_BACKEND=jax shrinkage run /tmp/run/study.toml")
    assert "--allow-code" not in again
    own = replace(found, study='model = "mine:build"\n' + found.study, directory=Path("/tmp/a b"))
    with_code = facts(own).command
    assert "'/tmp/a b/study.toml'" in with_code
    assert with_code.endswith("--allow-code")


# --- drawing ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(50))
def test_ticks_are_round_inside_and_at_their_place(seed):
    rng = np.random.default_rng(seed)
    print(f"seed {seed}")
    log = bool(seed % 2)
    values = 10 ** rng.uniform(-8, 4, 6) if log else rng.normal(size=6) * 10 ** rng.uniform(-6, 6)
    scale = spanning(values, 400.0, 10.0, log=log)
    places = [place for place, _ in scale.ticks()]
    assert 2 <= len(places) <= 12
    assert all(10 <= place <= 400 for place in places)
    assert places == sorted(places, reverse=True)
    assert all(10 < scale(value) < 400 for value in values)
    for place, label in scale.ticks():
        assert scale(float(label)) == pytest.approx(place, abs=0.01 * 390)


@pytest.mark.parametrize("values", [[], [math.nan], [3.0], [0.0, 0.0], [-1.0, -1.0], [1e-300, 1e300]])
@pytest.mark.parametrize("log", [False, True])
def test_a_scale_of_little_still_has_places(values, log):
    scale = spanning(values, 0.0, 100.0, log=log)
    assert all(0 <= scale(v) <= 100 for v in values if math.isfinite(v) and (v > 0 or not log))
    assert all(0 <= place <= 100 for place, _ in scale.ticks())


def test_what_is_not_finite_interrupts_a_line():
    chart = Chart(Scale(0, 4, 0, 400), Scale(0, 1, 100, 0), "", "", "")
    chart.line([(0, 0.5), (1, 0.5), (2, math.nan), (3, 0.5), (4, 0.25)], 1, "mean-line")
    assert 'd="M0,50h0L100,50M300,50h0L400,75"' in chart.svg()


def test_arms_differ_in_shape_or_colour():
    from shrinkage.report.svg import colour

    looks = [(colour(style).split()[0], shape(style)) for style in range(25)]
    assert len(set(looks)) == len(looks)
