"""What the tests of a study come to, taken together: verdicts, and how much more would settle the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from shrinkage.study.power import ALPHA, units_for_equivalence, units_needed
from shrinkage.study.stats import Equivalence, PairedTest, equivalence, holm
from shrinkage.study.summary import Over, Verdict

# Accuracy counts whole samples, so two or three differences are often the same number by chance, and a t
# test that is blind to that would call them certain. Five equal ones have at most one chance in sixteen
# even if only two values could occur.
EQUAL_PAIRS = 5


# Random splits that choose for each other hold out some of the same rows, so that scores are a little too
# good: ten of them, and the best of eight strengths, called 9 % of equal arms different, and with this 4 %
# (`benchmarks/error_rates.py`).
_SHARED = 2.0


@dataclass(frozen=True)
class Judged:
    """What one of several tests comes to; see `Difference` for the fields."""

    p_holm: float
    equivalence: Equivalence | None
    p_equivalent: float
    verdict: Verdict


def judge(
    tests: Sequence[PairedTest], *, higher_is_better: bool, margin: float | None = None
) -> list[Judged]:
    """Turn the tests of a study, one an arm, into verdicts that hold together.

    Differences and equivalences are adjusted by Holm's method each: of all arms, a false difference is
    claimed of any with at most 5 %, and a false equivalence of any with at most 5 %. Fewer than
    `EQUAL_PAIRS` differences that are all the same are no evidence: their p is 1.

    Parameters
    ----------
    tests
        Arm against baseline, one an arm.
    higher_is_better
        True for an accuracy, False for a loss.
    margin
        The difference that does not matter, in the unit of the tests.

    Examples
    --------
    >>> from shrinkage.study.stats import paired_t
    >>> tests = [paired_t([0.02, 0.03, 0.02, 0.03]), paired_t([0.001, -0.001, 0.0, -0.002])]
    >>> [found.verdict for found in judge(tests, higher_is_better=True, margin=0.004)]
    ['better', 'equivalent']
    """
    mute = [test.equal and test.n < EQUAL_PAIRS for test in tests]
    p_holm = holm([1.0 if none else test.p for test, none in zip(tests, mute, strict=True)])
    within = [None if margin is None else equivalence(test, margin) for test in tests]
    p_equivalent = holm(
        [math.nan if e is None else 1.0 if none else e.p for e, none in zip(within, mute, strict=True)]
    )
    return [
        Judged(p, found, q, _verdict(test, p, q, higher_is_better))
        for test, p, found, q in zip(tests, p_holm, within, p_equivalent, strict=True)
    ]


def _verdict(test: PairedTest, p_holm: float, p_equivalent: float, higher_is_better: bool) -> Verdict:
    if test.n < 2:
        return "no test"
    if p_holm < ALPHA:
        return "better" if (test.mean > 0) == higher_is_better else "worse"
    return "equivalent" if p_equivalent < ALPHA else "no difference"


def correction(train_test_ratio: float, over: Over, *, tuned: bool) -> float:
    """Return n_test/n_train as the variance of differences takes it.

    Parameters
    ----------
    train_test_ratio
        n_test/n_train of a split.
    over
        What the units are. Of random splits it counts twice if they choose for each other.
    tuned
        Some arm has several strengths to choose from.

    Examples
    --------
    >>> correction(0.25, "folds", tuned=True), correction(0.25, "splits", tuned=True)
    (0.25, 0.5)
    """
    return train_test_ratio * (_SHARED if over == "splits" and tuned else 1.0)


def more_units(
    test: PairedTest, margin: float | None, train_test_ratio: float | None, folds: int = 1
) -> int | None:
    """Return about how many more seeds, splits or repeats of folds would settle a comparison.

    Parameters
    ----------
    test
        A comparison that has shown nothing.
    margin
        The difference that does not matter, or ``None``.
    train_test_ratio
        n_test/n_train where splits are resampled, else ``None``.
    folds
        Units that come together, where a repeat is one of folds.

    Returns
    -------
    int or None
        As `Difference` has it: rounded up to two digits, since the spread is an estimate; 0 where there
        should be enough already.

    Examples
    --------
    >>> from shrinkage.study.stats import paired_t
    >>> more_units(paired_t([0.02, -0.01, 0.01]), 0.01, None)
    19
    """
    if test.n < 2 or test.equal or (margin is None and test.mean == 0):
        return None
    if margin is None:
        plans = [units_needed(test.sd, test.mean, train_test_ratio=train_test_ratio)]
    else:
        plans = [
            units_needed(test.sd, margin, train_test_ratio=train_test_ratio),
            units_for_equivalence(test.sd, margin, train_test_ratio=train_test_ratio),
        ]
    if None in plans:
        return None
    more = max(0, *(-(-(n - test.n) // folds) for n in plans if n is not None))
    step: int = 10 ** max(0, len(str(more)) - 2)
    return -(-more // step) * step
