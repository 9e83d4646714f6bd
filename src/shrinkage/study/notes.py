"""What a reader must know besides the answer: where a choice ends the grid, and what the results rest on."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence

from shrinkage.study.final import Refit, Searched
from shrinkage.study.power import ALPHA
from shrinkage.study.summary import Cell, Measure, Over, Selection, Stability
from shrinkage.study.words import FEW, count, number, percent, plain, were

_FAR = 0.05  # of accuracy
SEEN = (
    "Careful: the saved weights may have seen the rows that splits validate on; then the scores are too "
    "good, and no penalty or a weak one has the advantage."
)
PATH = (
    "Along the path each strength goes on from the weights of the one before, and so has been trained for "
    "longer than it, and than the baseline."
)


def edge_note(choice: Selection) -> str | None:
    """Say where a chosen strength ends the grid, and which way to extend it."""
    if choice.edge is None or choice.strength is None:
        return None
    strength = number(choice.strength)
    if choice.edge == "only":
        return f"{plain(choice.arm)}: only λ = {strength} was tried; add smaller and larger strengths."
    most, side, way = (
        ("largest", "above", "upward") if choice.edge == "upper" else ("smallest", "below", "downward")
    )
    return (
        f"{plain(choice.arm)}: the chosen λ = {strength} is the {most} tried, "
        f"so the optimum may lie {side} it; extend the strengths {way}."
    )


def arm_notes(choice: Selection, trials: int, diverged: int) -> tuple[str, ...]:
    """Say what else is to be known of one arm's choice."""
    notes, arm = [], plain(choice.arm)
    if choice.is_lost:
        notes.append(f"{arm}: nothing could be chosen, since every cell has a diverged trial.")
    elif choice.chosen is None:
        notes.append(
            f"{arm}: nothing could be chosen, since no cell was trained to the end on all {choice.over}."
        )
    elif diverged:
        lost = f"{count(choice.ineligible, 'cells')} could not be chosen for it"
        where = lost if choice.ineligible else "where the range was looked for"
        notes.append(f"{arm}: {diverged} of {count(trials, 'trials')} diverged; {where}.")
    if choice.chosen is not None and choice.stopped:
        left = len(choice.strengths) - choice.stopped - choice.ineligible - choice.partial
        notes.append(
            f"{arm}: {were(choice.stopped, 'strengths')} stopped at a rung; "
            f"{'the chosen one is' if choice.one_se is None else 'the chosen and the 1-SE strength are'} "
            f"of the {left} trained to the end."
        )
    if choice.stability is not None and len(choice.stability.strengths) > 1 and len(choice.strengths) > 1:
        notes.append(f"{arm}: {stability(choice.stability, choice.over)}.")
    if choice.chosen is not None and choice.strengths and choice.one_se is None:
        notes.append(f"{arm}: it was chosen on one {choice.over[:-1]}, so there is no 1-SE strength.")
    return tuple(notes)


def stability(found: Stability, over: Over) -> str:
    """Say how far the choice of a strength depends on which split is left out.

    Examples
    --------
    >>> stability(Stability((0.1, 0.1, 0.01), 2 / 3, 0.577), "splits")
    'with one split left out in turn, λ = 0.01 (1 time) and λ = 0.1 (2 times) would be chosen'
    >>> stability(Stability((0.1, 0.1), 1.0, 0.0), "folds")
    'with one fold left out in turn, λ = 0.1 would be chosen each time'
    """
    times = sorted(Counter(found.strengths).items())
    lead = f"with one {over[:-1]} left out in turn, "
    if len(times) == 1:
        return f"{lead}λ = {number(times[0][0])} would be chosen each time"
    each = [f"λ = {number(strength)} ({count(n, 'times')})" for strength, n in times]
    return f"{lead}{', '.join(each[:-1])} and {each[-1]} would be chosen"


def equal_differences(arm: str, measure: Measure, n: int, over: Over, *, zero: bool, enough: int) -> str:
    """Say what was done where all ``n`` differences are the same number."""
    text = f"{plain(arm)}, {measure.replace('_', ' ')}: the differences of all {count(n, over)} are equal"
    if zero:
        return f"{text} to 0, so no t statistic exists: p is set to 1."
    text += ", so no t statistic exists: p is set to 0 and the interval to one point"
    if n < enough:
        text += f", which is no evidence below {count(enough, over)}, since coarse values agree by chance"
    return text + "."


def study_notes(
    *, over: Over, units: int, train_test_ratio: float | None, tested: int, tuned: bool
) -> tuple[str, ...]:
    """Say what the results of a study rest on.

    Parameters
    ----------
    over, units
        What errors are over, and how many there are.
    train_test_ratio
        n_test/n_train of the correction, or ``None``.
    tested
        How many arms were compared with the baseline by a test.
    tuned
        Some arm has several strengths to choose from.
    """
    notes = [
        "Strengths were selected on mean validation data loss, penalty excluded; "
        "test data was scored once, for the reported arms only."
    ]
    if over == "seeds":
        notes.append("One split of the data was used: an interval covers seeds, not the choice of the split.")
    elif tested:
        notes.append(_differences_note(over, tuned))
    if units == 1:
        notes.append(f"One {over[:-1]}: no interval and no test is possible.")
    elif units < FEW:
        notes.append(f"Under {count(FEW, over)} an interval is wide: only large differences can be shown.")
    if train_test_ratio is not None and units > 1:
        notes.append(_correction_note(over, units, train_test_ratio, tuned))
    if tested > 1:
        notes.append(
            f"p values are adjusted by Holm's method over {count(tested, 'arms')} within each measure, for "
            f"differences and for equivalence; the verdicts use {number(ALPHA)}."
        )
    return tuple(notes)


def trial_notes(*, over: Over, trials: int, diverged: int, stopped: int, partial: int) -> tuple[str, ...]:
    """Say which of a study's trials had no say.

    Parameters
    ----------
    over
        What errors are over.
    trials, diverged, stopped
        Over the whole study.
    partial
        How many cells lack a seed or a fold of the study.
    """
    notes = []
    if diverged:
        notes.append(
            f"{diverged} of {count(trials, 'trials')} diverged; "
            "a strength with a diverged trial can't be chosen."
        )
    if stopped:
        notes.append(
            f"{stopped} of {were(trials, 'trials', stopped)} stopped at a rung, where other strengths of the "
            "same arm had a lower mean validation data loss, or one as good at a larger strength."
        )
    if partial:
        notes.append(f"{were(partial, 'cells')} explored on fewer {over} only, and can't be chosen.")
    return tuple(notes)


def _differences_note(over: Over, tuned: bool) -> str:
    text = f"Differences are taken on the rows that each {over[:-1]} holds out"
    if not tuned:
        return f"{text}."
    text += f", at the strength that the other {over} choose"
    if over == "folds":
        return f"{text}: no row has a say in the choice it scores."
    return f"{text}; these hold out some of the same rows, which have a part in that choice."


def _correction_note(over: Over, units: int, train_test_ratio: float, tuned: bool) -> str:
    twice = over == "splits" and tuned
    text = (
        "Training sets of different splits overlap: variances are corrected by Nadeau and Bengio's "
        f"1/{units} + n_test/n_train, with n_test/n_train = {number(train_test_ratio)}"
    )
    return f"{text}; it counts twice, since these splits choose for each other." if twice else f"{text}."


def cut_note(
    units: Collection[tuple[int, int]], choosing: Collection[tuple[int, int]], over: Over, explored: bool
) -> tuple[str, ...]:
    """Say what arms are compared on where a budget ended a search before that was all that choose.

    ``explored``: no look came after the one that the range was looked for with.
    """
    if set(units) == set(choosing):
        return ()
    if explored or not set(units) <= set(choosing):
        return (
            "The budget ended the search before a closer look: arms are compared where the range was looked "
            "for.",
        )
    have, every = (len({unit[over != "seeds"] for unit in of}) for of in (units, choosing))
    what = f"{count(have, over)} of {every}"
    if have == every:
        what = f"{len(units)} of {len(choosing)} pairs of a seed and one of the {over}"
    return (
        f"The budget ended in the middle of a look: arms are compared on the {what} that they "
        "have in common.",
    )


def search_notes(found: Searched) -> tuple[str, str]:
    """Say how strengths were searched, and why that ended."""
    looks = "; then ".join(f"{wave.why}, {count(wave.trials, 'trials')}" for wave in found.waves)
    return f"The search ({found.strategy}) tried {looks}.", f"It stopped: {found.ended}"


def refit_note(refit: Refit, chosen: Cell | None, rows: int) -> tuple[str, ...]:
    """Say where the model that was trained again is far from the trials at its strength on test ``rows``."""
    if chosen is None:
        return ()
    usual = chosen.test_accuracy.mean
    by_chance = 2 * math.sqrt(max(usual * (1 - usual), 0.0) / rows)  # two standard errors of a share
    if not abs(refit.test_accuracy - usual) > max(_FAR, by_chance):
        return ()
    return (
        f"The model of models/best.keras has a test accuracy of {percent(refit.test_accuracy)}, the trials "
        f"at its strength had {percent(usual)}: what a training comes to depends much on "
        "its rows and its seed here, or it has not come to rest.",
    )


def rules_note(arm: str, rules: Sequence[str]) -> str:
    """Say what strength each rule of an arm has, where each has one of its own."""
    each = "; ".join(map(plain, rules))
    return f"{plain(arm)}: each rule has a strength of its own, and λ is their geometric mean: {each}."
