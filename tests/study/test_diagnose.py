"""Every rule of the diagnosis, on curves whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkage.study.compare import cells, select, summarise
from shrinkage.study.diagnose import TURN_MARGIN, diagnose, mean_curve
from shrinkage.study.records import as_json

NAN = float("nan")
E = np.arange(1, 31)
FALL = 0.5 * np.exp(-E / 3)  # has settled long before the end

# Shapes of (training, validation) data loss by epoch.
SHAPES = {
    "good": (0.10 + FALL, 0.11 + FALL),
    "turned": (0.30 * np.exp(-E / 5), 0.15 + FALL + 0.004 * E),  # training goes on to fall, validation rises
    "both rise": (0.10 + FALL + 0.006 * E, 0.11 + FALL + 0.006 * E),
    "held back": (0.60 + FALL, 0.62 + FALL),
    "closer": (0.02 + FALL, 0.20 + FALL),  # fits training data better and new data worse than "good"
    "falling": (1.0 - 0.02 * E, 1.05 - 0.02 * E),
    "slowly": (0.2 - 0.0012 * E, 0.3 - 0.0012 * E),  # still falling, by under STEEP_FALL and over a wide gap
    "never": (2.3 + 0 * E, 2.3 + 0 * E),
}


def curves_of(arm, shape, *, strength=NAN, seeds=3, folds=None, noise=0.001, epochs=None):
    """Curves of one arm: the shape plus a constant a trial, so that seeds differ by a known spread."""
    train, val = (
        np.asarray(part, float)[: epochs or None]
        for part in (SHAPES[shape] if isinstance(shape, str) else shape)
    )
    parts = []
    for f in range(folds) if folds else [-1]:
        for s in range(seeds):
            offset = noise * (s - (seeds - 1) / 2)
            parts.append(
                pd.DataFrame(
                    {
                        "arm": arm,
                        "strength": strength,
                        "seed": s,
                        "fold": f,
                        "epoch": np.arange(1, len(val) + 1),
                        "loss": train,
                        "data_loss": train,
                        "penalty": 0.0,
                        "train_data_loss": train + offset,
                        "val_data_loss": val + offset,
                        "train_accuracy": NAN,
                        "val_accuracy": NAN,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True)


def trials_of(curves, grid=()):
    """The trials that such curves come from; ``grid`` adds worse strengths to every arm with one."""
    last = curves.groupby(["arm", "strength", "seed", "fold"], dropna=False, sort=False).last().reset_index()
    frame = last[["arm", "strength", "seed", "fold", "train_data_loss", "val_data_loss"]].assign(epochs=30)
    frame["state"] = np.where(np.isfinite(frame["val_data_loss"]), "complete", "diverged")
    tuned = frame[frame["strength"].notna()]
    others = [tuned.assign(strength=s, val_data_loss=99.0) for s in grid]
    return pd.concat([frame, *others], ignore_index=True)


def diagnosed(*parts, grid=(), early_stopping=False):
    curves = pd.concat(parts, ignore_index=True)
    return diagnose(curves, select(cells(trials_of(curves, grid))), early_stopping=early_stopping)


def test_good_is_kept():
    found = diagnosed(curves_of("none", "good"))["none"]
    assert (found.status, found.turn_epoch, found.still_falling, found.epochs) == ("good", None, False, 30)
    assert found.next_step == "Keep it as it is."
    assert found.sentence == "Good: validation data loss 0.11, training data loss 0.1, gap 0.01."
    assert found.gap.mean == pytest.approx(0.01)
    assert found.gap.se == pytest.approx(0.0, abs=1e-12)


def test_overfit_where_validation_turned_and_the_gap_grew():
    found = diagnosed(curves_of("none", "turned"))["none"]
    turn = int(np.argmin(SHAPES["turned"][1])) + 1
    assert (found.status, found.turn_epoch, found.gap_grew) == ("overfit", turn, True)
    train, val = SHAPES["turned"]
    assert found.gap.mean == pytest.approx(val[-1] - train[-1])
    assert found.gap_at_turn == pytest.approx(val[turn - 1] - train[turn - 1])
    assert found.rise == pytest.approx(val[-1] - val[turn - 1])
    assert found.next_step == f"Regularize more, or stop early near epoch {turn}."
    assert f"validation turned at epoch {turn} of 30" in found.sentence


def test_a_turn_where_training_rose_as_well_is_no_overfitting():
    found = diagnosed(curves_of("none", "both rise"))["none"]
    assert found.turn_epoch is not None
    assert (found.status, found.gap_grew) == ("good", False)
    assert found.next_step.startswith(f"Lower the learning rate: after epoch {found.turn_epoch}")


def test_overfit_where_an_arm_that_fits_less_closely_does_better():
    found = diagnosed(curves_of("none", "closer"), curves_of("l2", "good", strength=0.1))
    assert (found["none"].status, found["l2"].status) == ("overfit", "good")
    assert found["none"].turn_epoch is None
    assert found["none"].next_step == "Regularize more."


def test_fitting_training_data_closer_is_no_fault_in_itself():
    train, val = SHAPES["closer"]
    found = diagnosed(curves_of("none", (train, val - 0.089)), curves_of("l2", "good", strength=0.1))
    assert found["l2"].val_data_loss.mean == pytest.approx(found["none"].val_data_loss.mean, abs=0.002)
    assert found["none"].status == "good"


def test_underfit_where_it_fits_worse_and_does_worse_with_a_small_gap():
    found = diagnosed(curves_of("none", "good"), curves_of("l2", "held back", strength=0.1), grid=(0.2, 0.3))
    assert (found["l2"].status, found["none"].status) == ("underfit", "good")
    assert found["l2"].next_step.startswith("Try smaller strengths")


def test_held_back_alone_is_good_since_nothing_says_otherwise():
    assert diagnosed(curves_of("l2", "held back", strength=0.1))["l2"].status == "good"


def test_underfit_where_validation_falls_steeply_at_the_end():
    found = diagnosed(curves_of("none", "falling"))["none"]
    assert (found.status, found.still_falling) == ("underfit", True)
    assert found.last_fall == pytest.approx(0.02 * 3 / 0.45)
    assert found.next_step == "Train longer than 30 epochs: validation data loss was still falling."


def test_still_falling_slowly_is_good_but_trained_too_short():
    found = diagnosed(curves_of("none", "slowly"))["none"]
    assert (found.status, found.still_falling) == ("good", True)
    assert found.next_step.startswith("Train longer")


def test_underfit_where_nothing_was_learned():
    found = diagnosed(curves_of("none", "never"))["none"]
    assert (found.status, found.learned) == ("underfit", False)
    assert found.next_step == (
        "Nothing was learned: try another learning rate, lower or higher, or train longer."
    )


@pytest.mark.parametrize(
    ("shape", "grid", "says"),
    [
        ("turned", (0.01, 0.02), "Extend the strengths upward: the model still overfits"),
        ("turned", (), "Extend the strengths upward"),
        ("turned", (0.01, 0.2), "A larger strength did not help: add another kind"),
        ("good", (0.01, 0.02), "Extend the strengths upward: the largest"),
        ("good", (0.2, 0.3), "Extend the strengths downward: the smallest"),
        ("good", (), "Try more strengths than one."),
        ("good", (0.01, 0.2), "Keep it as it is."),
    ],
)
def test_the_next_step_knows_the_edge_of_the_grid(shape, grid, says):
    assert diagnosed(curves_of("l2", shape, strength=0.1), grid=grid)["l2"].next_step.startswith(says)


@pytest.mark.parametrize(("seeds", "noise", "turns"), [(3, 0.001, True), (3, 0.5, False), (1, 0.5, True)])
def test_a_rise_must_beat_the_standard_error_at_the_end(seeds, noise, turns):
    found = diagnosed(curves_of("none", "turned", seeds=seeds, noise=noise))["none"]
    assert (found.turn_epoch is not None) == turns


@pytest.mark.parametrize(("factor", "turns"), [(0.9, False), (1.1, True)])
def test_a_rise_must_beat_the_relative_margin(factor, turns):
    val = np.array([1.0, 0.5, 0.5 * (1 + factor * TURN_MARGIN)])
    found = diagnosed(curves_of("none", (np.array([1.0, 0.4, 0.3]), val), noise=0.0))["none"]
    assert (found.turn_epoch == 2) == turns
    assert (found.status == "overfit") == turns


def test_losses_below_zero_are_measured_by_their_size():
    rising = diagnosed(curves_of("none", (np.array([-1.0, -2.0, -3.0]), np.array([-1.0, -2.0, -1.5]))))[
        "none"
    ]
    assert (rising.status, rising.turn_epoch) == ("overfit", 2)


def test_one_epoch_has_no_turn_and_no_fall():
    found = diagnosed(curves_of("none", "good", epochs=1))["none"]
    assert (found.status, found.turn_epoch, found.still_falling, found.epochs) == ("good", None, False, 1)
    assert math.isnan(found.last_fall)


def test_one_seed_has_no_standard_error():
    found = diagnosed(curves_of("none", "turned", seeds=1))["none"]
    assert found.status == "overfit"
    assert math.isnan(found.gap.se)
    assert found.gap.n == 1


def test_folds_are_the_units():
    found = diagnosed(curves_of("none", "good", seeds=2, folds=4))["none"]
    assert found.val_data_loss.n == 4


def test_a_trial_that_stopped_early_keeps_its_last_value():
    long, short = curves_of("none", "turned", seeds=1), curves_of("none", "turned", seeds=1, epochs=10)
    rows = pd.concat([long, short.assign(seed=1)])
    curve = mean_curve(rows, "val_data_loss")
    val = SHAPES["turned"][1]
    assert curve.mean[-1] == pytest.approx((val[-1] + val[9]) / 2)
    assert curve.units.shape == (2, 30)
    assert np.isfinite(curve.mean).all()


def test_with_early_stopping_the_kept_weights_are_judged():
    part = curves_of("none", "turned")
    found = diagnosed(part, early_stopping=True)["none"]
    turn = diagnosed(part)["none"].turn_epoch
    assert (found.status, found.turn_epoch) == ("good", turn)
    assert found.val_data_loss.mean == pytest.approx(SHAPES["turned"][1].min())


def test_an_arm_without_choice_is_diverged():
    part = curves_of("l2", "good", strength=0.1)
    part.loc[part["epoch"] > 20, ["train_data_loss", "val_data_loss"]] = NAN
    # The rows of the trials must not lose their NaN: take the last epoch as it stands.
    frame = trials_of(curves_of("l2", "good", strength=0.1)).assign(state="diverged", val_data_loss=NAN)
    found = diagnose(part, select(cells(frame)))["l2"]
    assert (found.status, found.turn_epoch, found.still_falling) == ("diverged", None, False)
    assert found.next_step == "Lower the learning rate, or try smaller strengths."


@pytest.mark.parametrize("value", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("column", ["train_data_loss", "val_data_loss"])
def test_curves_that_end_in_no_number_are_diverged_and_hurt_no_other_arm(value, column):
    bad, good = curves_of("none", "good"), curves_of("l2", "good", strength=0.1)
    selections = select(cells(trials_of(pd.concat([bad, good]))))
    bad.loc[(bad["epoch"] > 20) & (bad["seed"] == 1), column] = value
    found = diagnose(pd.concat([bad, good]), selections)
    assert (found["none"].status, found["l2"].status) == ("diverged", "good")
    assert as_json(found["none"])["gap"]["mean"] is None


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_gap_in_the_middle_of_a_curve_is_passed_over(value):
    part = curves_of("none", "turned")
    part.loc[part["epoch"] == 12, "val_data_loss"] = value
    assert diagnosed(part)["none"].status == "overfit"


def test_an_arm_without_curves_is_left_out():
    part = curves_of("none", "good")
    frame = trials_of(pd.concat([part, curves_of("l2", "good", strength=0.1)]))
    assert list(diagnose(part, select(cells(frame)))) == ["none"]


def test_mean_curve_of_nothing_is_empty():
    assert mean_curve(curves_of("none", "good").iloc[:0], "val_data_loss").mean.size == 0


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6) | st.sampled_from([NAN, math.inf]), min_size=1, max_size=12),
    st.integers(1, 3),
    st.booleans(),
)
def test_any_curve_gets_one_status_and_one_sentence(values, seeds, early_stopping):
    clean = curves_of("none", ([1.0] * len(values), [1.0] * len(values)), seeds=seeds)
    selections = select(cells(trials_of(clean)))
    wild = curves_of("none", (values, values[::-1]), seeds=seeds)
    found = diagnose(wild, selections, early_stopping=early_stopping)["none"]
    assert found.status in ("underfit", "good", "overfit", "diverged")
    assert found.sentence.endswith(".")
    assert found.next_step.endswith(".")
    assert "n/a" not in found.sentence


def test_the_summary_carries_the_diagnoses():
    curves = pd.concat([curves_of("none", "turned"), curves_of("l2", "good", strength=0.1)])
    summary = summarise(
        trials_of(curves),
        curves,
        baseline="none",
        classification=False,
    )
    assert {arm.arm: arm.diagnosis.status for arm in summary.arms} == {"none": "overfit", "l2": "good"}
    assert summary.to_json()["arms"][0]["diagnosis"]["status"] == "overfit"


def test_what_is_no_better_than_a_guess_has_learned_nothing():
    rows = pd.DataFrame(
        {"arm": "none", "strength": NAN, "seed": 0, "fold": -1, "epoch": [1, 2, 3],
         "train_data_loss": [1.2, 1.12, 1.1], "val_data_loss": [1.2, 1.12, 1.1]}
    )  # fmt: skip
    frame = rows.tail(1).assign(state="complete")
    choices = select(cells(frame))
    assert diagnose(rows, choices)["none"].status == "good"
    found = diagnose(rows, choices, guess=math.log(3))["none"]
    assert (found.status, found.learned) == ("underfit", False)
    assert found.next_step.startswith("Nothing was learned")
    rows["val_data_loss"] += 1  # far from new data as well: that is no good either
    assert diagnose(rows, choices, guess=math.log(3))["none"].status == "underfit"
