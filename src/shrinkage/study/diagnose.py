r"""How an arm's training went: underfit, good, overfit or diverged, and what to try next.

Diagnosed is each arm at its chosen strength, from its curves averaged over seeds (over folds, with
seeds averaged within each fold first). A trial that ended early keeps its last values for the
remaining epochs, since that is the model it left behind. With early stopping, what is judged at "the
end" is each trial at its own best epoch, because those are the weights that were kept.

Rules
-----
The first that holds gives the status. ``T`` and ``V`` are the mean training and validation data losses
at the end, ``best`` is the arm with the lowest ``V``, and "clearly" means by more than the margin
(relative to the loss it is compared with) and by more than the arm's own standard error there, where
one exists.

========= ===========================================================================================
diverged  no eligible cell, or T or V is not finite
overfit   V turned (below), V is above T by more than at the turn, and these weights were kept; or
          V is clearly (``VAL_MARGIN``) above best's, while T is clearly (``TRAIN_MARGIN``) below
          best's: a model held back more did better on new data
underfit  nothing was learned: T never fell below its first value in three epochs or more, or is not
          clearly (``VAL_MARGIN``) below ``guess``; or the gap is small (``SMALL_GAP``), and either T is
          clearly (``TRAIN_MARGIN``) above the lowest T of any arm and V clearly (``VAL_MARGIN``) above
          best's, or V was still falling steeply (``STEEP_FALL``)
good      otherwise
========= ===========================================================================================

*Turned*: the mean validation data loss has its minimum at epoch k before the last, and ended above it
by more than ``TURN_MARGIN`` of the minimum and by more than one standard error at the end.
*Still falling*: it fell over the last tenth of the epochs by more than ``FALL_MARGIN`` of its value and
by more than one standard error of that fall.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shrinkage.study import words
from shrinkage.study.selection import trials_at
from shrinkage.study.stats import Estimate, estimate
from shrinkage.study.summary import Diagnosis, Selection, Status

# Cross-entropy of one sample spreads about as widely as its mean, so n samples know their mean loss to
# about 1/sqrt(n): 5 % with 400 samples. The seeds share those samples, so their spread does not show it,
# and the lowest of many epochs is a lucky one besides.
TURN_MARGIN = 0.05
# Arms are compared at one fixed point each and on the same samples, so less than that counts.
VAL_MARGIN = 0.02
# Training loss is measured on more samples, but arms that differ by less than this are not told apart by
# "fits the training data better": one more epoch often does as much.
TRAIN_MARGIN = 0.10
SMALL_GAP = 0.20  # of the validation data loss: at most a fifth of it is missing from the training loss
FALL_WINDOW = 0.10  # of the epochs
FALL_MARGIN = 0.01  # over that window: ten more windows like it would still be worth a tenth
STEEP_FALL = 0.05

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class MeanCurve:
    """One measure of one cell by epoch, averaged over seeds or folds.

    Attributes
    ----------
    epochs
        Ascending, shape (E,).
    units
        One row a seed (or a fold, its seeds averaged), shape (U, E).
    mean, se
        Over the units, shape (E,); ``se`` is NaN for one unit.
    """

    epochs: NDArray[np.int64]
    units: Array
    mean: Array
    se: Array


def mean_curve(rows: pd.DataFrame, column: str) -> MeanCurve:
    """Average one measure of one cell over its trials, epoch by epoch.

    Parameters
    ----------
    rows
        The curves of one cell: ``seed, fold, epoch`` and ``column``.
    column
        The measure. Infinities become NaN, and an epoch with a NaN in any unit has a NaN mean.

    Returns
    -------
    MeanCurve
        Of no epochs where ``rows`` is empty.

    Examples
    --------
    >>> rows = pd.DataFrame({"seed": [0, 0, 1], "fold": -1, "epoch": [1, 2, 1],
    ...                      "val_data_loss": [2.0, 1.0, 4.0]})
    >>> mean_curve(rows, "val_data_loss").mean
    array([3. , 2.5])
    """
    epochs, folds, values = _by_trial(rows, column)
    units = _by_unit(values, folds)
    with_se = len(units) > 1
    se = units.std(axis=0, ddof=1) / math.sqrt(len(units)) if with_se else np.full(len(epochs), np.nan)
    mean = units.mean(axis=0) if len(units) else np.full(len(epochs), np.nan)
    return MeanCurve(epochs, units, mean, se)


def _by_trial(rows: pd.DataFrame, column: str) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return epochs (E,), the fold of each trial (T,) and the values (T, E), last ones held."""
    epochs = np.unique(rows["epoch"].to_numpy(np.int64))
    folds, out = [], []
    for _, trial in rows.sort_values("epoch").groupby(["fold", "seed"], sort=True):
        values = trial[column].to_numpy(np.float64)
        at = np.searchsorted(trial["epoch"].to_numpy(np.int64), epochs, side="right") - 1
        held = np.where((at >= 0) & np.isfinite(values[at]), values[at], np.nan)
        folds.append(int(trial["fold"].iloc[0]))
        out.append(held)
    return epochs, np.array(folds, np.int64), np.array(out, np.float64).reshape(len(out), len(epochs))


def _by_unit(values: Array, folds: NDArray[np.int64]) -> Array:
    if not len(folds) or folds[0] < 0:
        return values
    return np.array([values[folds == fold].mean(axis=0) for fold in np.unique(folds)])


def diagnose(
    curves: pd.DataFrame,
    selections: Mapping[str, Selection],
    *,
    early_stopping: bool | Collection[str] = False,
    guess: float | None = None,
) -> dict[str, Diagnosis]:
    """Diagnose every arm at its chosen strength (the rules are in the module's text).

    Parameters
    ----------
    curves
        One row a trial and epoch: ``arm, strength, seed, fold, epoch, train_data_loss, val_data_loss``.
    selections
        Arm -> choice, as `shrinkage.study.compare.select` returns them.
    early_stopping
        The weights kept are those of each trial's best epoch, not the last; or the arms of which they are.
    guess
        The data loss of the best constant answer, where it is known.

    Returns
    -------
    dict
        Arm -> `Diagnosis`, for arms that have curves or have no choice.

    Examples
    --------
    >>> from shrinkage.study.compare import cells, select
    >>> frame = pd.DataFrame({"arm": "none", "strength": float("nan"), "seed": [0], "fold": -1,
    ...                       "state": "complete", "val_data_loss": [0.9]})
    >>> curves = pd.DataFrame({"arm": "none", "strength": float("nan"), "seed": 0, "fold": -1,
    ...     "epoch": [1, 2, 3], "train_data_loss": [0.9, 0.4, 0.1], "val_data_loss": [1.0, 0.6, 0.9]})
    >>> found = diagnose(curves, select(cells(frame)))["none"]
    >>> found.status, found.turn_epoch
    ('overfit', 2)
    """
    early = set(selections if early_stopping is True else early_stopping or ())
    seen = {}
    for arm, selection in selections.items():
        if selection.chosen is None:
            if selection.is_lost:
                seen[arm] = _diverged(arm, None)
            continue
        rows = trials_at(curves, arm, selection.strength)
        if not rows.empty:
            seen[arm] = _observe(rows, arm, selection.strength, arm in early, guess)
    finite = [d for d in seen.values() if d.status != "diverged"]
    best = min(finite, key=lambda d: d.val_data_loss.mean, default=None)
    lowest = min(finite, key=lambda d: d.train_data_loss.mean, default=None)
    for arm, found in seen.items():
        if best is not None and lowest is not None and found.status != "diverged":
            found = replace(found, status=_status(found, best, lowest, arm in early))
        seen[arm] = replace(
            found,
            sentence=words.diagnosis(found),
            next_step=words.next_step(found, selections[arm]),
        )
    return seen


def _diverged(arm: str, strength: float | None, epochs: int = 0) -> Diagnosis:
    nothing = estimate(())
    return Diagnosis(
        arm=arm,
        strength=strength,
        status="diverged",
        epochs=epochs,
        turn_epoch=None,
        rise=math.nan,
        gap_grew=False,
        learned=False,
        last_fall=math.nan,
        still_falling=False,
        train_data_loss=nothing,
        val_data_loss=nothing,
        gap=nothing,
        gap_at_turn=math.nan,
    )


def _observe(
    rows: pd.DataFrame, arm: str, strength: float | None, early_stopping: bool, guess: float | None
) -> Diagnosis:
    """Measure turn, fall and gap; the status is settled once all arms are measured."""
    epochs, folds, val_trials = _by_trial(rows, "val_data_loss")
    train_trials = _by_trial(rows, "train_data_loss")[2]
    train, val = mean_curve(rows, "train_data_loss"), mean_curve(rows, "val_data_loss")
    kept = _kept(val_trials, early_stopping)
    ends = [_by_unit(t[np.arange(len(t)), kept][:, None], folds)[:, 0] for t in (train_trials, val_trials)]
    if not all(np.isfinite(end).all() for end in ends) or not np.isfinite(val.mean).any():
        return _diverged(arm, strength, int(epochs[-1]))
    lowest = int(np.nanargmin(val.mean))
    rise = float(val.mean[-1] - val.mean[lowest])
    turned = rise > max(TURN_MARGIN * abs(val.mean[lowest]), _or_zero(val.se[-1]))
    gaps = val.mean - train.mean
    fall, fall_se = _last_fall(val)
    falls = len(epochs) < 3 or not bool((train.mean[1:] >= train.mean[0]).all())
    guesses = guess is not None and estimate(ends[0]).mean > (1 - VAL_MARGIN) * guess
    return Diagnosis(
        arm=arm,
        strength=strength,
        status="good",
        epochs=int(epochs[-1]),
        turn_epoch=int(epochs[lowest]) if turned else None,
        rise=rise,
        gap_grew=turned and bool(gaps[-1] > gaps[lowest]),
        learned=falls and not guesses,
        last_fall=fall,
        still_falling=fall > max(FALL_MARGIN, fall_se),
        train_data_loss=estimate(ends[0]),
        val_data_loss=estimate(ends[1]),
        gap=estimate(ends[1] - ends[0]),
        gap_at_turn=float(gaps[lowest]) if turned else math.nan,
    )


def _kept(val: Array, early_stopping: bool) -> NDArray[np.int64]:
    """Return, for every trial, the column whose weights were kept."""
    if early_stopping and np.isfinite(val).any(axis=1).all():
        return np.asarray(np.nanargmin(val, axis=1), np.int64)
    return np.full(len(val), val.shape[1] - 1)


def _last_fall(val: MeanCurve) -> tuple[float, float]:
    """Return the fall over the last window and its standard error, both relative to the last value."""
    last = len(val.epochs) - 1
    if last < 1:
        return math.nan, 0.0
    window = max(1, round(FALL_WINDOW * (last + 1)))
    fall = estimate(val.units[:, last - window] - val.units[:, last])
    level = abs(float(val.mean[last]))
    return (fall.mean / level, _or_zero(fall.se) / level) if level > 0 else (math.nan, 0.0)


def _or_zero(se: float) -> float:
    """One unit has no standard error: the relative margin is then all there is."""
    return 0.0 if math.isnan(se) else float(se)


def _clearly_above(high: Estimate, low: Estimate, margin: float, own_se: float) -> bool:
    return high.mean - low.mean > max(margin * abs(low.mean), _or_zero(own_se))


def _status(found: Diagnosis, best: Diagnosis, lowest: Diagnosis, early_stopping: bool) -> Status:
    """Apply the table in the module's text; ``lowest`` has the lowest training loss of all arms."""
    train, val = found.train_data_loss, found.val_data_loss
    val_behind = _clearly_above(val, best.val_data_loss, VAL_MARGIN, val.se)
    fits_closer = best.train_data_loss.mean - train.mean > max(
        TRAIN_MARGIN * abs(best.train_data_loss.mean), _or_zero(train.se)
    )
    if (found.gap_grew and found.gap.mean > 0 and not early_stopping) or (val_behind and fits_closer):
        return "overfit"
    fits_worse = _clearly_above(train, lowest.train_data_loss, TRAIN_MARGIN, train.se)
    steep = found.still_falling and found.last_fall > STEEP_FALL
    small = found.gap.mean <= SMALL_GAP * abs(val.mean)
    if not found.learned or (small and ((fits_worse and val_behind) or steep)):
        return "underfit"
    return "good"
