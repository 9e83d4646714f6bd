"""Power: what a number of units could have shown, and how many would settle a question.

All of it takes the given spread for the true one, sets nothing aside for several comparisons, and rests on
the noncentral t distribution. SciPy is imported inside the functions, so that importing this stays cheap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

ALPHA = 0.05  # two-sided level of every test and, as 1 - ALPHA, of every interval
POWER = 0.80  # the power at which a detectable difference is stated
MOST = 10_000  # units: more are no plan


@lru_cache(maxsize=256)
def critical(df: int, alpha: float) -> float:
    """Return the quantile of Student's t that ``|T|`` exceeds with probability ``alpha``.

    Examples
    --------
    >>> round(critical(4, 0.05), 3)
    2.776
    """
    from scipy import stats

    return float(stats.t.ppf(1.0 - alpha / 2.0, df))


def detectable_difference(
    sd: float,
    n: int,
    *,
    train_test_ratio: float | None = None,
    alpha: float = ALPHA,
    power: float = POWER,
) -> float:
    r"""Return the true difference that ``n`` pairs would find with the given power.

    It is :math:`\delta \cdot se`, where the noncentral t distribution with n - 1 degrees of freedom and
    noncentrality :math:`\delta` lies outside ``±t(1 - alpha/2, n - 1)`` with probability ``power``, and
    ``se`` is that of `paired_t`. The given ``sd`` is taken for the true one, and nothing is set aside
    for several comparisons.

    Parameters
    ----------
    sd
        Standard deviation of the differences, in their unit.
    n
        Number of pairs (or folds).
    train_test_ratio
        :math:`n_{test}/n_{train}` where splits are resampled, as in `paired_t`.
    alpha, power
        Level of the two-sided test, and the probability of finding the difference.

    Returns
    -------
    float
        In the unit of ``sd``; NaN for n < 2 or a ``sd`` that is not positive and finite.

    Raises
    ------
    ValueError
        Unless 0 < alpha < power < 1.

    Examples
    --------
    >>> round(detectable_difference(1.0, 5), 3)
    1.682
    """
    if not 0.0 < alpha < power < 1.0:
        raise ValueError(f"need 0 < alpha < power < 1, not alpha={alpha!r}, power={power!r}")
    if n < 2 or not math.isfinite(sd) or sd <= 0:
        return math.nan
    return _noncentrality(n - 1, alpha, power) * sd * math.sqrt(1.0 / n + (train_test_ratio or 0.0))


def units_needed(
    sd: float,
    difference: float,
    *,
    train_test_ratio: float | None = None,
    alpha: float = ALPHA,
    power: float = POWER,
) -> int | None:
    r"""Return how many pairs in all find a true difference with the given power.

    The smallest n whose `detectable_difference` is at most ``difference``.

    Parameters
    ----------
    sd, difference
        Standard deviation of the differences, and the true difference to find, in the same unit.
    train_test_ratio
        :math:`n_{test}/n_{train}` where splits are resampled. Then no n is enough for a difference of
        about :math:`sd \sqrt{n_{test}/n_{train}}` or less: splits of the same data do not make new data.
    alpha, power
        Level of the two-sided test, and the probability of finding the difference.

    Returns
    -------
    int or None
        At least 2; ``None`` where `MOST` are not enough, or the spread is not positive and finite.

    Raises
    ------
    ValueError
        Unless 0 < alpha < power < 1 and the difference is not 0.

    Examples
    --------
    >>> units_needed(1.0, 1.0), units_needed(1.0, 0.5), units_needed(1.0, 1.0, train_test_ratio=0.25)
    (10, 34, None)
    """
    if not abs(difference) > 0:
        raise ValueError(f"a difference to find must not be {difference!r}")

    def enough(n: int) -> bool:
        found = detectable_difference(sd, n, train_test_ratio=train_test_ratio, alpha=alpha, power=power)
        return found <= abs(difference)

    return _fewest(enough)


def units_for_equivalence(
    sd: float,
    margin: float,
    *,
    train_test_ratio: float | None = None,
    alpha: float = ALPHA,
    power: float = POWER,
) -> int | None:
    r"""Return how many pairs in all show equivalence with the given power where there is no difference.

    Two one-sided tests both succeed with probability of at least :math:`2 P(T' > t_{1-\alpha}) - 1`, where
    :math:`T'` is noncentral t with noncentrality ``margin / se`` [1]_; the smallest n that makes this the
    power asked for.

    Parameters
    ----------
    sd, margin
        Standard deviation of the differences, and the difference that does not matter, in the same unit.
    train_test_ratio
        As in `units_needed`.
    alpha, power
        Level of each one-sided test, and the probability that both succeed.

    Returns
    -------
    int or None
        As `units_needed`.

    Raises
    ------
    ValueError
        Unless 0 < alpha < 1/2, 0 < power < 1 and the margin is positive.

    References
    ----------
    .. [1] K. F. Phillips, "Power of the Two One-Sided Tests Procedure in Bioequivalence", Journal of
       Pharmacokinetics and Biopharmaceutics 18, 137-144, 1990.

    Examples
    --------
    >>> units_for_equivalence(1.0, 1.0), units_for_equivalence(1.0, 0.5)
    (11, 36)
    """
    if not margin > 0:
        raise ValueError(f"a margin must be positive, not {margin!r}")
    # A one-sided level is half of a two-sided one, whose other tail is next to nothing at this power.
    return units_needed(sd, margin, train_test_ratio=train_test_ratio, alpha=2 * alpha, power=(1 + power) / 2)


def _fewest(enough: Callable[[int], bool]) -> int | None:
    """Return the smallest n from 2 to `MOST` that is enough, where every larger one is as well."""
    if not enough(MOST):
        return None
    low, high = 1, 2
    while not enough(high):
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


@lru_cache(maxsize=1024)
def _noncentrality(df: int, alpha: float, power: float) -> float:
    """Solve P(|T| > t(1 - alpha/2)) = power for the noncentrality of T."""
    from scipy import optimize, stats

    beyond = critical(df, alpha)

    def excess(delta: float) -> float:
        # SciPy's far lower tail is NaN for some noncentralities (scipy#25106). It is at most
        # Phi(-delta), below 1e-9 from 6 on, so it is left out there.
        lower = float(stats.nct.cdf(-beyond, df, delta)) if delta < 6.0 else 0.0
        return float(stats.nct.sf(beyond, df, delta)) + lower - power

    upper = 1.0
    while excess(upper) < 0.0:
        upper *= 2.0
    return float(optimize.brentq(excess, 0.0, upper, xtol=1e-12))
