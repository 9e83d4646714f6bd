"""Bare statistics of paired differences: numbers in, numbers out.

Nothing here knows of arms, seeds or sentences. SciPy is imported inside the functions, so that
importing this module stays cheap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from shrinkage.study.power import ALPHA, critical, detectable_difference

# Losses and accuracies are computed in single precision, so 0.97 - 0.96 and 0.95 - 0.94 may disagree by
# 1e-7 without meaning it: four roundings of the numbers that were subtracted.
ROUNDING = 4.0 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Estimate:
    """A mean with its standard error over ``n`` units (seeds or folds), in the unit of the values.

    Attributes
    ----------
    mean
        The mean; NaN without values.
    se
        Sample standard deviation (n - 1) divided by sqrt(n); NaN for fewer than two values, never 0.
    n
        How many values there are.
    """

    mean: float
    se: float
    n: int


@dataclass(frozen=True)
class PairedTest:
    """What a set of paired differences says; every figure in the unit of the differences.

    Attributes
    ----------
    n
        Number of differences (pairs, or folds).
    mean, sd
        Mean and sample standard deviation of the differences.
    se
        Standard error of the mean, corrected where the training sets overlap.
    df
        Degrees of freedom, n - 1 (0 where no test is possible).
    low, high
        Ends of the 95 % t interval.
    p
        Two-sided p value, before any adjustment.
    detectable
        The true difference that this many pairs with this ``sd`` find with 80 % power at the 5 % level.
    equal
        All differences are the same number, up to rounding: the t statistic does not exist. ``p`` is
        then 1 if that number is 0 and 0 otherwise, the interval is one point, ``detectable`` is NaN.
    """

    n: int
    mean: float
    sd: float
    se: float
    df: int
    low: float
    high: float
    p: float
    detectable: float
    equal: bool


@dataclass(frozen=True)
class Equivalence:
    """Whether a mean difference lies within a margin that does not matter.

    Attributes
    ----------
    margin
        The largest difference that does not matter, in the unit of the differences.
    low, high
        Ends of the 90 % t interval.
    p
        The larger p of two one-sided tests, before any adjustment: of "it is -margin or less" and of "it is
        margin or more".
    inside
        The whole 90 % interval lies within ±margin; the same as ``p < 0.05``.
    """

    margin: float
    low: float
    high: float
    p: float
    inside: bool


def estimate(values: Iterable[float]) -> Estimate:
    """Return mean and standard error of the finite ``values``.

    Parameters
    ----------
    values
        One number a unit. NaN and infinities are left out and not counted.

    Returns
    -------
    Estimate
        ``mean`` and ``se = sd / sqrt(n)`` with ``sd`` over n - 1; NaN where they don't exist.

    Examples
    --------
    >>> estimate([1.0, 2.0, 3.0])
    Estimate(mean=2.0, se=0.5773502691896258, n=3)
    >>> estimate([1.0])
    Estimate(mean=1.0, se=nan, n=1)
    """
    x = np.asarray([v for v in values if math.isfinite(v)], dtype=np.float64)
    mean = float(x.mean()) if x.size else math.nan
    se = float(x.std(ddof=1)) / math.sqrt(x.size) if x.size > 1 else math.nan
    return Estimate(mean, se, int(x.size))


def paired_t(
    differences: Sequence[float], *, train_test_ratio: float | None = None, scale: float = 0.0
) -> PairedTest:
    r"""Test whether the mean of paired differences is zero.

    The standard error is :math:`s \sqrt{1/n}`, and :math:`s \sqrt{1/n + n_{test}/n_{train}}` when
    the units are resampled splits whose training sets overlap [1]_. The statistic ``mean / se`` is
    compared with Student's t with n - 1 degrees of freedom.

    Parameters
    ----------
    differences
        One finite number a unit.
    train_test_ratio
        :math:`n_{test}/n_{train}` of one split; ``None`` for units that share one split.
    scale
        The size of the numbers that were subtracted. Differences that disagree by no more than
        ``ROUNDING`` times that size (or times the largest difference) are the same number.

    Returns
    -------
    PairedTest
        NaN wherever n is too small: no interval and no p for n = 1, no mean for n = 0.

    Raises
    ------
    ValueError
        If a difference is not finite, or the ratio is not a positive finite number.

    References
    ----------
    .. [1] C. Nadeau and Y. Bengio, "Inference for the Generalization Error", Machine Learning 52,
       239-281, 2003.

    Examples
    --------
    >>> t = paired_t([1.0, 2.0, 3.0, 4.0])
    >>> round(t.mean, 3), round(t.low, 3), round(t.high, 3), round(t.p, 4)
    (2.5, 0.446, 4.554, 0.0305)
    """
    d = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(d).all():
        raise ValueError("paired_t: every difference must be finite")
    if train_test_ratio is not None and not (math.isfinite(train_test_ratio) and train_test_ratio > 0):
        raise ValueError(f"n_test/n_train must be a positive number, not {train_test_ratio!r}")
    n = int(d.size)
    mean = float(d.mean()) if n else math.nan
    if n < 2:
        return PairedTest(n, mean, *(math.nan,) * 2, 0, *(math.nan,) * 4, equal=False)
    tolerance = ROUNDING * max(scale, float(np.abs(d).max()))
    if float(np.ptp(d)) <= tolerance:
        mean = mean if abs(mean) > tolerance else 0.0
        p = 0.0 if mean else 1.0
        return PairedTest(n, mean, 0.0, 0.0, n - 1, mean, mean, p, math.nan, equal=True)
    return _student(n, mean, float(d.std(ddof=1)), train_test_ratio)


def _student(n: int, mean: float, sd: float, train_test_ratio: float | None) -> PairedTest:
    from scipy import special

    df = n - 1
    se = sd * math.sqrt(1.0 / n + (train_test_ratio or 0.0))
    half = critical(df, ALPHA) * se
    p = min(1.0, 2.0 * float(special.stdtr(df, -abs(mean) / se)))
    found = detectable_difference(sd, n, train_test_ratio=train_test_ratio)
    return PairedTest(n, mean, sd, se, df, mean - half, mean + half, p, found, equal=False)


def equivalence(test: PairedTest, margin: float) -> Equivalence:
    r"""Test whether the mean that ``test`` is about lies within ±margin.

    Two one-sided tests with the standard error and the degrees of freedom of ``test``, corrected where that
    is [1]_: :math:`p = \max(P(T > (mean + margin) / se), P(T > (margin - mean) / se))`.

    Parameters
    ----------
    test
        As `paired_t` returns it.
    margin
        Positive and finite, in the unit of the differences. It must have been set before looking.

    Returns
    -------
    Equivalence
        NaN where no test is possible. Where all differences are the same number, p is 0 or 1.

    Raises
    ------
    ValueError
        If the margin is not a positive finite number.

    References
    ----------
    .. [1] D. J. Schuirmann, "A Comparison of the Two One-Sided Tests Procedure and the Power Approach for
       Assessing the Equivalence of Average Bioavailability", Journal of Pharmacokinetics and
       Biopharmaceutics 15, 657-680, 1987.

    Examples
    --------
    >>> found = equivalence(paired_t([0.1, -0.2, 0.0, 0.2, -0.1]), 0.5)
    >>> round(found.low, 3), round(found.high, 3), found.inside
    (-0.151, 0.151, True)
    """
    from scipy import special

    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"a margin must be a positive number, not {margin!r}")
    if test.n < 2:
        return Equivalence(margin, math.nan, math.nan, math.nan, inside=False)
    if test.equal:
        inside = abs(test.mean) < margin
        return Equivalence(margin, test.mean, test.mean, 0.0 if inside else 1.0, inside)
    half = critical(test.df, 2 * ALPHA) * test.se
    p = float(special.stdtr(test.df, (abs(test.mean) - margin) / test.se))
    return Equivalence(margin, test.mean - half, test.mean + half, p, p < ALPHA)


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Adjust p values with Holm's step-down method.

    The i-th smallest of m becomes :math:`\max_{j \le i} \min(1, (m - j + 1)\, p_{(j)})` [1]_. NaN stands
    for a comparison that could not be made: it stays NaN and is not counted in m.

    Parameters
    ----------
    p_values
        Numbers in [0, 1], or NaN.

    Returns
    -------
    list of float
        Adjusted p values in the order given. They bound the chance of any false rejection.

    References
    ----------
    .. [1] S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of
       Statistics 6, 65-70, 1979.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted = [math.nan] * len(p_values)
    order = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    running = 0.0
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * p))
        adjusted[i] = running
    return adjusted
