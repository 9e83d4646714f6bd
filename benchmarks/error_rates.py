"""How often a study's statistics are wrong, over simulated studies of fresh data.

Every study draws new rows and trains a cheap learner on them: ridge regression, in closed form, of ±1 classes
on a random projection of the inputs, which seed and split draw. So the scores of splits and seeds depend on
each other as those of real trainings do. Choices, tests, adjustments and verdicts are the package's own.

A cell is an arm at one strength. With folds each cell reads a block of inputs of its own. The blocks are
alike, so that over data sets all cells are equally good, and on one data set they are not. Without folds all
cells read the same block and differ by what the seed draws: they are equal given the data, which is all that
such a study speaks of. The strengths of an arm share most of that, as in a study of digits, where the
differences of neighbouring strengths from no penalty correlate by 0.7.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from machine import stated
from numpy.typing import NDArray

from shrinkage.study.judge import Judged, correction, judge
from shrinkage.study.power import detectable_difference, units_needed
from shrinkage.study.selection import cross_fitted, lowest
from shrinkage.study.stats import paired_t
from shrinkage.study.summary import Over

Array = NDArray[np.float64]

INPUTS, RIDGE = 6, 1.0
CHUNK = 250  # studies at a time
MEASURES = ("accuracy", "data loss")


@dataclass(frozen=True)
class Plan:
    """What each simulated study is.

    Attributes
    ----------
    rows, test
        Of data: those to train and validate on, and the common test set.
    arms, strengths
        How many beside the baseline, and of each; the baseline is the first cell.
    alike
        The part of what a seed draws that the strengths of an arm share.
    seeds
        Averaged within each fold; without folds they are the units.
    folds, repeats
        Without folds (0) every third row is held out.
    random
        Of each repeat only the first fold is held out: as many random splits as there are repeats.
    weak
        The baseline's block says less about the class: every other cell is better.
    projected
        Width of the random projection; the inputs' own leaves the seed next to no effect.
    common
        A seed draws the same projection for every split, the worst that sharing seeds between folds can do.
    """

    rows: int = 150
    test: int = 150
    arms: int = 1
    strengths: int = 1
    alike: float = 0.9
    seeds: int = 1
    folds: int = 0
    repeats: int = 1
    random: bool = False
    weak: bool = False
    projected: int = INPUTS
    common: bool = False

    @property
    def cells(self) -> int:
        """The baseline, and every strength of every arm."""
        return 1 + self.arms * self.strengths

    @property
    def ratio(self) -> float | None:
        """Held-out rows over training rows where splits are resampled, as the package corrects for them."""
        if not self.folds:
            return None
        over: Over = "splits" if self.random else "folds"
        return correction(1 / (self.folds - 1), over, tuned=self.strengths > 1)

    @property
    def apart(self) -> int:
        """Splits that choose for each other: the folds of a repeat, or all random splits."""
        return self.repeats if self.random else self.folds


@dataclass(frozen=True)
class Scores:
    """Scores on held-out and on test rows by measure, each of shape (studies, cells, units)."""

    val: dict[str, Array]
    test: dict[str, Array]


def simulate(plan: Plan, studies: int, seed: int) -> Scores:
    """Train and score that many studies."""
    rng = np.random.default_rng(seed)
    sizes = [min(CHUNK, studies - begun) for begun in range(0, studies, CHUNK)]
    parts = [_chunk(plan, size, rng) for size in sizes]
    val, test = (
        {m: np.concatenate([part[where][m] for part in parts]) for m in MEASURES} for where in (0, 1)
    )
    return Scores(val, test)


def _chunk(plan: Plan, studies: int, rng: np.random.Generator) -> tuple[dict[str, Array], dict[str, Array]]:
    x, y = _data(plan, studies, rng)
    (x, x_test), (y, y_test) = np.split(x, [plan.rows], axis=2), np.split(y, [plan.rows], axis=1)
    shape = (studies, plan.cells, plan.seeds, INPUTS, plan.projected)
    drawn = _drawn(plan, shape, rng)
    held, tested = [], []
    for _ in range(plan.repeats):
        order = np.argsort(rng.random(y.shape), axis=1)
        inputs = np.take_along_axis(x, order[:, None, :, None], axis=2)
        answers = np.take_along_axis(y, order, axis=1)
        every, parts = _moments(inputs, answers), 1 if plan.random else plan.folds or 1
        for out in np.array_split(np.arange(plan.rows), plan.folds or 3)[:parts]:
            drawn = drawn if plan.common else _drawn(plan, shape, rng)
            held_out = slice(out[0], out[-1] + 1)
            own = inputs[:, :, held_out], answers[:, held_out]
            weights = _ridge(drawn, *(all_ - part for all_, part in zip(every, _moments(*own), strict=True)))
            held.append(_scored(*own, weights))
            tested.append(_scored(x_test, y_test, weights))
    return _by_unit(held, plan), _by_unit(tested, plan)


def _drawn(plan: Plan, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Return projections; those of an arm's strengths share a part."""
    own, arms = rng.normal(size=shape), rng.normal(size=shape)
    of_arm = np.concatenate([[0], 1 + np.arange(shape[1] - 1) // plan.strengths])
    return math.sqrt(1 - plan.alike) * own + math.sqrt(plan.alike) * arms[:, of_arm]


def _data(plan: Plan, studies: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return inputs (studies, blocks, rows, INPUTS) and ±1 classes (studies, rows)."""
    blocks, rows = plan.cells if plan.folds else 1, plan.rows + plan.test
    x = rng.normal(size=(studies, blocks, rows, INPUTS))
    says = np.full(blocks, 1.5 / math.sqrt(blocks * INPUTS))
    if plan.weak:
        says[0] /= 3
    signal = np.einsum("sbri,b->sr", x, says)
    return x, np.where(signal + rng.normal(size=signal.shape) > 0, 1.0, -1.0)


def _moments(x: Array, y: Array) -> tuple[Array, Array]:
    """Return X'X and X'y, each (studies, blocks, INPUTS, …): all that ridge regression asks of rows."""
    across = np.swapaxes(x, -1, -2)
    return across @ x, across @ y[:, None, :, None]


def _ridge(drawn: Array, inner: Array, cross: Array) -> Array:
    """Return weights of the inputs, (studies, cells, seeds, INPUTS), regressed on their projections."""
    across = np.swapaxes(drawn, -1, -2)
    gram = across @ inner[:, :, None] @ drawn + RIDGE * np.eye(drawn.shape[-1])
    return (drawn @ np.linalg.solve(gram, across @ cross[:, :, None]))[..., 0]


def _scored(x: Array, y: Array, weights: Array) -> tuple[Array, Array]:
    """Return accuracy and squared error, each (studies, cells, seeds)."""
    answer, truth = weights @ np.swapaxes(x, -1, -2), y[:, None, None]
    return ((answer > 0) == (truth > 0)).mean(axis=-1), ((answer - truth) ** 2).mean(axis=-1)


def _by_unit(scores: Sequence[tuple[Array, Array]], plan: Plan) -> dict[str, Array]:
    both = zip(MEASURES, zip(*scores, strict=True), strict=True)
    if not plan.folds:
        return {measure: of[0] for measure, of in both}
    return {measure: np.stack([split.mean(axis=-1) for split in of], axis=-1) for measure, of in both}


# --- procedures -----------------------------------------------------------------------------------------

#: From validation losses (studies, strengths, units) to each unit's strength.
Choice = Callable[[Array], NDArray[np.intp]]


def one_choice(losses: Array) -> NDArray[np.intp]:
    """Return the strength with the lowest mean loss, for every unit the same."""
    return np.repeat(lowest(losses.mean(axis=-1))[..., None], losses.shape[-1], axis=-1)


def differences(
    scores: Scores, plan: Plan, *, choice: Choice | None = None, on: str = ""
) -> dict[str, Array]:
    """Return each arm's difference from the baseline by measure, shape (studies, arms, units).

    Strengths are those of the package, of ``cross_fitted`` with folds and one choice without; scores are of
    held-out rows with folds and of test rows without; ``choice`` and ``on`` ("val", "test") take others.
    """
    if choice is None:
        choice = (lambda losses: cross_fitted(losses, plan.apart)) if plan.folds else one_choice
    at = getattr(scores, on or ("val" if plan.folds else "test"))
    losses = scores.val["data loss"][:, 1:]
    groups = np.arange(losses.shape[1]).reshape(plan.arms, -1)
    chosen = [choice(losses[:, group])[:, None] for group in groups]

    def of(measure: str) -> Array:
        none, others = at[measure][:, 0], at[measure][:, 1:]
        arms = zip(groups, chosen, strict=True)
        return np.stack([np.take_along_axis(others[:, g], c, axis=1)[:, 0] - none for g, c in arms], axis=1)

    return {measure: of(measure) for measure in MEASURES}


def verdicts(
    found: Array, measure: str, ratio: float | None, margin: float | None = None
) -> list[list[Judged]]:
    """Return the package's verdicts on differences of shape (studies, arms, units)."""

    def of(study: Array) -> list[Judged]:
        tests = [paired_t(arm, train_test_ratio=ratio, scale=1.0) for arm in study]
        return judge(tests, higher_is_better=measure == "accuracy", margin=margin)

    return [of(study) for study in found]


def claims(found: Array, measure: str, ratio: float | None) -> float:
    """Return the share of studies that call some arm better or worse."""
    return share(
        any(arm.verdict in ("better", "worse") for arm in study) for study in verdicts(found, measure, ratio)
    )


def share(hits: Iterator[bool]) -> float:
    """Return the mean of truths."""
    return float(np.mean(list(hits)))


def equivalences(found: Array, measure: str, ratio: float | None) -> float:
    """Return the share of studies that call an arm equivalent whose true difference is the margin.

    The margin is five typical standard errors: with a smaller one, next to nothing is ever called that.
    """
    margin = 5 * _spread(found) * math.sqrt(1 / found.shape[-1] + (ratio or 0.0))
    judged = verdicts(found + margin, measure, ratio, margin)
    return share(arm.p_equivalent < 0.05 for study in judged for arm in study)


def misses(found: Array, measure: str, ratio: float | None) -> float:
    """Return the share of 95 % intervals without the true difference, the mean over all studies."""
    truth, tests = found.mean(), (paired_t(study[0], train_test_ratio=ratio, scale=1.0) for study in found)
    return share(not test.low <= truth <= test.high for test in tests)


def power(pilot: Array, rest: Array, difference: float) -> tuple[float, float]:
    """Return how often a planned study finds a difference, and the mean number of units planned.

    The spread of each study's pilot plans the units, drawn from the rest; studies that need more than there
    are take all.
    """
    planned = [units_needed(float(sd), difference) or rest.shape[1] for sd in pilot.std(axis=1, ddof=1)]
    units = [min(n, rest.shape[1]) for n in planned]
    tests = [paired_t(study[:n] + difference, scale=1.0) for study, n in zip(rest, units, strict=True)]
    return share(test.p < 0.05 and test.mean > 0 for test in tests), float(np.mean(units))


# --- the table ------------------------------------------------------------------------------------------

PLANS = {
    "5 seeds": Plan(seeds=5, projected=4),
    "5 folds, 2 seeds": Plan(folds=5, seeds=2),
    "5 folds x 4": Plan(folds=5, repeats=4),
    "10 random splits": Plan(folds=5, repeats=10, random=True),
}
FOLDED = {units: plan for units, plan in PLANS.items() if plan.folds and not plan.random}

#: What a procedure is called, and by measure how often it is wrong.
Row = tuple[str, dict[str, float]]


def rates(units: str, studies: int) -> Iterator[Row]:
    """Measure the package's procedures for one of `PLANS`; each should be wrong in 5 % of studies at most."""
    plan = PLANS[units]

    def wrong(how: Callable[..., float], seed: int, **more: Any) -> dict[str, float]:
        changed = replace(plan, **more)
        return _each(how, differences(simulate(changed, studies, seed), changed), changed)

    yield f"{units}: one strength", wrong(claims, 0)
    yield f"{units}: best of 4 strengths", wrong(claims, 1, strengths=4)
    yield f"{units}: any of 3 arms, best of 2", wrong(claims, 2, arms=3, strengths=2)
    yield f"{units}: false equivalence", wrong(equivalences, 0)
    if plan.folds:
        yield f"{units}: interval misses, better arm", wrong(misses, 3, strengths=4, weak=True)


def other_ways(studies: int) -> Iterator[Row]:
    """Measure what the package doesn't do, and what it can't know."""
    for seed, (units, plan) in enumerate(FOLDED.items(), 1):
        plan = replace(plan, strengths=4)
        scores = simulate(plan, studies, seed)
        ways: dict[str, dict[str, Any]] = {
            "on one test set": {"on": "test", "choice": one_choice},
            "one choice of all splits": {"choice": one_choice},
            "choice of all other splits": {"choice": lambda losses: cross_fitted(losses, losses.shape[-1])},
        }
        for way, how in ways.items():
            yield f"{units}: {way}", _each(claims, differences(scores, plan, **how), plan)
        yield f"{units}: variance not corrected", _each(claims, differences(scores, plan), Plan())
    plan = replace(PLANS["10 random splits"], strengths=8)
    found = differences(simulate(plan, studies, 1), plan)
    once = replace(plan, strengths=1)  # whose splits choose nothing for each other
    yield "10 random splits: best of 8, corrected once", _each(claims, found, once)
    yield "10 random splits: best of 8", _each(claims, found, plan)
    many = PLANS["5 folds x 4"]
    limits = {
        "5 seeds: best of 4 that share nothing": replace(PLANS["5 seeds"], strengths=4, alike=0.0),
        "5 folds x 4: best of 4, of 60 rows": replace(many, strengths=4, rows=60),
        "5 folds x 4: a seed alike in all folds": replace(many, projected=4, common=True),
        "5 folds x 4: 5 seeds alike in all folds": replace(many, projected=4, common=True, seeds=5),
    }
    for limit, plan in limits.items():
        yield limit, _each(claims, differences(simulate(plan, studies, 3), plan), plan)


def _each(
    wrong: Callable[[Array, str, float | None], float], found: dict[str, Array], plan: Plan
) -> dict[str, float]:
    return {measure: wrong(d, measure, plan.ratio) for measure, d in found.items()}


def planned(studies: int) -> Iterator[tuple[str, str, float, float]]:
    """Measure how often as many units as recommended find a difference: what, measure, share, units."""
    for pilot in (5, 30):
        plan = Plan(seeds=pilot + 40, test=60, rows=60, projected=4)
        for measure, d in differences(simulate(plan, studies, 4), plan).items():
            aim = detectable_difference(_spread(d), 12)
            yield f"spread from {pilot} seeds", measure, *power(d[:, 0, :pilot], d[:, 0, pilot:], aim)
    plan = PLANS["5 folds x 4"]
    for measure, d in differences(simulate(plan, studies, 5), plan).items():
        aim = detectable_difference(_spread(d), d.shape[-1], train_test_ratio=plan.ratio)
        tests = (paired_t(study[0] + aim, train_test_ratio=plan.ratio, scale=1.0) for study in d)
        shown = share(test.p < 0.05 and test.mean > 0 for test in tests)
        yield "5 folds x 4, true spread", measure, shown, float(d.shape[-1])


def _spread(found: Array) -> float:
    """Return the standard deviation of units within a study, over all studies."""
    return math.sqrt(float(found.var(axis=-1, ddof=1).mean()))


def interval(rate: float, studies: int) -> str:
    """Write a rate with its 95 % Monte-Carlo interval, in percent."""
    half = 1.96 * math.sqrt(rate * (1 - rate) / studies)
    return f"{100 * rate:5.1f} [{100 * max(0.0, rate - half):.1f}, {100 * min(1.0, rate + half):.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=10_000)
    studies = parser.parse_args().studies
    with stated():
        begun = time.perf_counter()
        parts = {
            "as the package does it": (row for units in PLANS for row in rates(units, studies)),
            "other ways, and limits": other_ways(studies),
        }
        for title, rows in parts.items():
            print(f"\n{title}: wrong in % of {studies:,} studies [95 %], at most 5 where it holds")
            print(f"{'':44} {'accuracy':<19} data loss")
            for procedure, wrong in rows:
                shown = " ".join(f"{interval(wrong[m], studies):<19}" for m in MEASURES)
                print(f"{procedure:44} {shown}".rstrip(), flush=True)
        print(f"\na planned study finds the difference, aim 80 %, in {studies:,} studies")
        for what, measure, found, units in planned(studies):
            print(f"{what:32} {measure:10} {interval(found, studies):20} {units:5.1f} units")
        print(f"\n{time.perf_counter() - begun:.0f} s")


if __name__ == "__main__":
    main()
