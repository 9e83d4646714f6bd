"""What is known of a run while it goes."""

from __future__ import annotations

import math

import pytest

from shrinkage.report.progress import Ending, Progress

L2 = "[red]l2"


def numbers(progress):
    return progress.complete, len(progress.running), progress.stopped, progress.diverged


def test_trials_are_counted_by_what_became_of_them(make_spec, tell):
    progress = Progress()
    run = tell(progress, make_spec())
    assert (progress.total, progress.done) == (8, 0)
    a, b = run.cell("none")
    run.epoch(a, 0.5)
    run.epoch(b, 0.4)
    assert numbers(progress) == (0, 2, 0, 0)
    run.train(a, 0.3)
    run.train(b, state="stopped")
    assert numbers(progress) == (1, 0, 1, 0)
    assert progress.done == 2


def test_a_loss_that_is_not_finite_is_known_before_the_trial_ends_and_counted_once(make_spec, tell):
    progress = Progress()
    run = tell(progress, make_spec())
    a, b = run.cell(L2, 0.01)
    run.epoch(a, 0.5)
    for trial in (a, b):
        run.epoch(trial, math.nan)
        run.records[trial] = run.records[trial][-1:] if trial is b else run.records[trial]
    assert numbers(progress) == (0, 0, 0, 2)
    before = dict(progress.endings)
    run.end(a, "diverged")
    run.end(b, "diverged")
    assert numbers(progress) == (0, 0, 0, 2)
    assert progress.endings == before
    assert progress.endings == {
        Ending("diverged", (L2, 0.01), 2): {a.lane},
        Ending("diverged", (L2, 0.01), 1): {b.lane},
    }


def test_the_best_is_of_finished_trials_and_of_running_ones_before_there_are_any(make_spec, tell):
    progress = Progress()
    run = tell(progress, make_spec())
    assert progress.best() is None
    for trial, loss in zip([*run.cell("none"), *run.cell("l1")], (0.5, 0.7, 0.2, 0.4), strict=True):
        run.epoch(trial, loss)
    best = progress.best()
    assert (best.cell, best.count, best.of, best.epoch) == (("l1", None), 2, 2, 1)
    assert best.loss == pytest.approx(0.3)
    run.train(run.cell("none")[0], 0.45)
    best = progress.best()
    assert (best.cell, best.loss, best.count, best.epoch) == (("none", None), 0.45, 1, None)


def test_a_mean_of_fewer_seeds_is_not_compared_with_one_of_more(make_spec, tell):
    progress = Progress()
    run = tell(progress, make_spec())
    for trial in run.cell("none"):
        run.train(trial, 0.9, 0.5)
    run.train(run.cell("l1")[0], 0.9, 0.1)
    assert progress.best().cell == ("none", None)
    run.train(run.cell("l1")[1], 0.9, 0.2)
    assert progress.best().cell == ("l1", None)


def test_a_cell_with_a_diverged_trial_is_never_the_best(make_spec, tell):
    progress = Progress()
    run = tell(progress, make_spec())
    lucky, other = run.cell("l1")
    run.train(lucky, 0.9, 0.1)
    run.epoch(other, math.inf)
    run.train(run.cell("none")[0], 0.9, 0.5)
    assert progress.best().cell == ("none", None)


def test_what_was_found_finished_counts(make_spec, tell):
    progress = Progress()
    rows = [
        {"arm": "none", "strength": None, "seed": s, "fold": -1, "state": "complete", "val_data_loss": 0.1}
        for s in (0, 1)
    ]
    rows.append({**rows[0], "arm": L2, "strength": 0.01, "state": "diverged", "val_data_loss": None})
    run = tell(progress, make_spec(), rows)
    assert progress.done == 3
    assert numbers(progress) == (2, 0, 0, 1)
    assert progress.best().cell == ("none", None)
    run.train(run.cell(L2, 0.01)[1], 0.1, 0.01)
    assert progress.best().cell == ("none", None)


def test_a_curve_is_the_mean_over_what_runs_of_a_cell(make_spec, tell):
    progress = Progress()
    run = tell(progress, make_spec(training={"epochs": 4}))
    a, b = run.cell(L2, 0.01)
    for trial, losses in ((a, (0.8, 0.4, 0.2)), (b, (0.6, 0.2))):
        for loss in losses:
            run.epoch(trial, loss)
    (curve,) = progress.curves()
    assert (curve.cell, curve.lanes, curve.epoch) == ((L2, 0.01), 2, 3)
    assert curve.losses == pytest.approx((0.7, 0.3, 0.2))
    run.end(a)
    assert progress.curves()[0].losses == pytest.approx((0.6, 0.2))
    run.end(b)
    assert progress.curves() == []


def test_a_trial_that_goes_on_or_begins_anew_has_a_curve_of_what_was_seen(make_spec, tell):
    progress = Progress()
    run = tell(progress, make_spec(training={"epochs": 9}))
    (trial, _) = run.cell("none")
    run.epoch(trial, 0.5, epoch=3)  # the first two were trained in another process
    (curve,) = progress.curves()
    assert math.isnan(curve.losses[0])
    assert curve.losses[2] == 0.5
    for epoch in (1, 2):
        run.epoch(trial, 1 / epoch, epoch=epoch)
    assert progress.curves()[0].losses == (1.0, 0.5)


def test_who_waits_at_a_rung_is_told_from_who_runs(make_spec, tell):
    progress = Progress()
    spec = make_spec(training={"epochs": 4}, strategy="halving", rungs=[1, 2])
    run = tell(progress, spec)
    a, b = run.cell("none")
    run.epoch(a, 0.5)
    assert progress.waiting == 1
    run.train(b, 0.5, 0.4, state="stopped")
    for loss in (0.4, 0.3):
        run.epoch(a, loss)
    assert (progress.waiting, len(progress.running)) == (0, 1)
    assert list(progress.endings) == [Ending("stopped", ("none", None), 2)]
    run.epoch(run.cell("l1")[0], 0.7)
    assert [curve.cell[0] for curve in progress.curves()] == ["none", "l1"]
    run.epoch(a, 0.2)
    run.epoch(run.cell("l1")[0], 0.6)
    run.epoch(run.cell("l1")[0], 0.5)
    run.epoch(run.cell(L2, 0.01)[0], 0.5)
    assert [curve.cell[0] for curve in progress.curves()] == ["none", "l1", L2]  # who waits, comes last


def test_the_time_left_is_the_recent_pace_whether_trials_end_apart_or_together(make_spec, tell, clock):
    progress = Progress()
    run = tell(progress, make_spec(seeds=20, arms=[]))  # of 2 epochs each
    assert progress.left is None
    left = []
    for first in range(0, 10, 2):  # two at a time, 5 s an epoch
        both = run.trials[first : first + 2]
        for _ in (1, 2):
            clock[0] += 5
            for trial in both:
                run.epoch(trial, 0.5)
        for trial in both:
            run.end(trial)
            left.append(progress.left)
    assert left == pytest.approx([90, 90, 80, 80, 70, 70, 60, 60, 50, 50])
    assert progress.elapsed == 50


def test_an_earlier_pace_is_forgotten(make_spec, tell, clock):
    progress = Progress()
    run = tell(progress, make_spec(seeds=1, arms=[], training={"epochs": 1000}))
    for _ in range(100):
        clock[0] += 10
        run.epoch(run.trials[0], 0.5)
    for _ in range(700):
        clock[0] += 0.1
        run.epoch(run.trials[0], 0.5)
    assert progress.left == pytest.approx(200 * 0.1, rel=0.02)
    assert len(progress._pace) < 200


def test_the_time_left_is_not_taken_from_a_burst(make_spec, tell, clock):
    """Trials that are trained together report an epoch at the same moment, and none for minutes."""
    progress = Progress()
    run = tell(progress, make_spec(seeds=8, arms=[], training={"epochs": 10}))
    for epoch in range(1, 10):
        clock[0] += 100
        for trial in run.trials:
            run.epoch(trial, 0.5)
            clock[0] += 0.001
        assert progress.left == pytest.approx(100 * (10 - epoch), rel=0.01)


def test_epochs_of_an_earlier_run_took_no_time_of_this_one(make_spec, tell, clock):
    progress = Progress()
    run = tell(progress, make_spec(seeds=2, arms=[], training={"epochs": 100}))
    for epoch in (91, 92):
        clock[0] += 10
        run.epoch(run.trials[0], 0.5, epoch=epoch)
    assert progress.left == pytest.approx(108 * 10)
    run.records[run.trials[1]] = run.records[run.trials[0]] * 30
    run.end(run.trials[1], "stopped")
    assert progress.left == pytest.approx(48 * 10)


def test_the_time_left_knows_how_many_are_stopped_at_each_rung(make_spec, tell, clock):
    """With halving 4 strengths of 8 epochs train 4·2 + 2·2 + 1·4 = 16 epochs, not 32; the baseline 8."""
    l2 = {"name": "l2", "recipe": "Dense: kernel = l2(strength)", "strengths": [1, 2, 3, 4]}
    spec = make_spec(seeds=1, arms=[l2], training={"epochs": 8}, strategy="halving", rungs=[2, 4])
    progress = Progress()
    run = tell(progress, spec)
    alive = list(run.trials)
    for stops, stopped in ((2, (4, 3)), (2, (2,)), (4, ())):
        for trial in alive:
            for _ in range(stops):
                clock[0] += 1
                run.epoch(trial, 0.5)
                trained = sum(map(len, run.records.values()))
                assert progress.left == pytest.approx(24 - trained)
        for trial in [t for t in alive if t.strength in stopped]:
            run.end(trial, "stopped")
            alive.remove(trial)
    for trial in alive:
        run.end(trial)
    assert progress.left == 0


def test_a_trial_that_is_trained_again_to_be_scored_changes_nothing(make_spec, tell):
    progress = Progress()
    run = tell(progress, make_spec(seeds=1, arms=[]))
    run.train(run.trials[0], 0.5, 0.4)
    run.epoch(run.trials[0], 0.5, epoch=1)
    assert numbers(progress) == (1, 0, 0, 0)
