"""From trials to cells, from cells to one chosen strength an arm, from choices to one recommendation.

Only validation data loss decides; test data is never looked at here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shrinkage.study.stats import Estimate, estimate
from shrinkage.study.summary import Cell, Edge, Over, Recommendation, Selection, Stability

_KEYS = ("arm", "strength", "seed", "fold")
_NEEDED = (*_KEYS, "state", "val_data_loss")
_STATES = {"complete", "stopped", "diverged"}


def trials_at(frame: pd.DataFrame, arm: str, strength: float | None) -> pd.DataFrame:
    """Return the rows of one cell, sorted by fold and seed (and epoch, where there is one).

    Parameters
    ----------
    frame
        Trials or curves, with the columns ``arm, strength, seed, fold``.
    arm, strength
        Which cell; ``None`` or NaN for an arm without a strength.

    Returns
    -------
    DataFrame
        Empty where the cell has no rows.

    Examples
    --------
    >>> frame = pd.DataFrame({"arm": ["a", "b"], "strength": [float("nan"), 0.1], "seed": 0, "fold": -1})
    >>> len(trials_at(frame, "a", None)), len(trials_at(frame, "b", 0.1)), len(trials_at(frame, "b", None))
    (1, 1, 0)
    """
    missing = strength is None or math.isnan(strength)
    same = frame["strength"].isna() if missing else frame["strength"] == strength
    order = ["fold", "seed", "epoch"] if "epoch" in frame.columns else ["fold", "seed"]
    return frame[(frame["arm"] == arm) & same].sort_values(order, kind="stable")


def on_units(rows: pd.DataFrame, units: Collection[tuple[int, int]]) -> pd.DataFrame:
    """Return the rows of a frame or of curves that are of these seeds and folds.

    Examples
    --------
    >>> on_units(pd.DataFrame({"arm": "a", "seed": [0, 0, 1], "fold": [-1, 0, 0]}), [(0, 0)]).index.tolist()
    [1]
    """
    if rows.empty:
        return rows
    known = set(units)
    return rows[[unit in known for unit in zip(rows["seed"], rows["fold"], strict=True)]]


def check_frame(frame: pd.DataFrame, splits: Over = "folds") -> Over:
    """Check that ``frame`` is one row a trial, and say what standard errors are over.

    Parameters
    ----------
    frame
        The trials of one study.
    splits
        What the fold column counts: ``"folds"``, or random ``"splits"``.

    Returns
    -------
    {"seeds", "folds", "splits"}
        ``splits`` where the fold column holds numbers from 0 on, ``"seeds"`` where it is -1.

    Raises
    ------
    ValueError
        If a column is missing, there is no row, a trial occurs twice, a state is unknown, an arm has
        trials with and without a strength, or holdout and folds are mixed.
    """
    absent = [name for name in _NEEDED if name not in frame.columns]
    if absent:
        raise ValueError(f"a frame of trials needs the columns {', '.join(absent)}")
    if frame.empty:
        raise ValueError("a frame of trials needs at least one row")
    unknown = sorted(set(frame["state"].astype(str)) - _STATES)
    if unknown:
        raise ValueError(f"unknown state {', '.join(unknown)}: a trial is complete, stopped or diverged")
    twice = frame[frame.duplicated(list(_KEYS))]
    if not twice.empty:
        one = ", ".join(f"{key} {twice.iloc[0][key]}" for key in _KEYS)
        raise ValueError(f"a trial is there twice: {one}")
    for arm, strengths in frame.groupby("arm", sort=False)["strength"]:
        if strengths.isna().any() and strengths.notna().any():
            raise ValueError(f"arm {arm!r} has trials with and trials without a strength")
    folded = (frame["fold"] >= 0).to_numpy()
    if folded.any() and not folded.all():
        raise ValueError("a study has folds for all trials (fold >= 0) or for none (fold = -1)")
    return splits if folded.any() else "seeds"


def cells(frame: pd.DataFrame, splits: Over = "folds") -> tuple[Cell, ...]:
    """Average the trials of every arm at every strength.

    Without folds, means and standard errors are over seeds. With folds, seeds are averaged within each
    fold first, and means and standard errors are over folds: the seeds of a fold share its data, so
    they aren't independent repeats. A trial counts as diverged where its state says so or its
    validation data loss is not finite. A diverged trial, and one stopped at a rung, makes its cell
    ineligible and is left out of the means. A cell that lacks a seed or a fold of the study is partial,
    and not eligible either: the mean of a few is lowest by luck too easily.

    Parameters
    ----------
    frame
        One row a trial. Needs ``arm, strength, seed, fold, state, val_data_loss``; what else it lacks
        (the test columns, before the test split is scored) becomes NaN with ``n = 0``.
    splits
        What the fold column counts: ``"folds"``, or random ``"splits"``.

    Returns
    -------
    tuple of Cell
        Arms in order of first appearance, strengths ascending.

    Raises
    ------
    ValueError
        Where `check_frame` does.

    Examples
    --------
    >>> frame = pd.DataFrame({"arm": "l2", "strength": [0.1, 0.1], "seed": [0, 1], "fold": -1,
    ...                       "state": "complete", "val_data_loss": [1.0, 3.0]})
    >>> cells(frame)[0].val_data_loss
    Estimate(mean=2.0, se=1.0, n=2)
    """
    over = check_frame(frame, splits)
    rows = {}
    for arm in dict.fromkeys(frame["arm"]):
        strengths = frame.loc[frame["arm"] == arm, "strength"]
        tried: list[float] = sorted(float(s) for s in strengths.dropna().unique())
        for strength in tried or (None,):
            rows[str(arm), strength] = trials_at(frame, arm, strength)
    units = len(frame[["seed", "fold"]].drop_duplicates())
    return tuple(_cell(of_cell, *cell, over, units) for cell, of_cell in rows.items())


def _cell(rows: pd.DataFrame, arm: str, strength: float | None, over: Over, units: int) -> Cell:
    finite = np.isfinite(rows["val_data_loss"].to_numpy(np.float64))
    stopped = (rows["state"] == "stopped").to_numpy() & finite
    well = (rows["state"] == "complete").to_numpy() & finite
    good = rows[well]

    def by_unit(column: str) -> list[float]:
        if column not in good.columns:
            return []
        values = good[column].to_numpy(np.float64)
        if over == "seeds":
            return [float(value) for value in values]
        folds = good["fold"].to_numpy()
        return [estimate(values[folds == fold]).mean for fold in np.unique(folds)]

    def over_units(column: str) -> Estimate:
        return estimate(by_unit(column))

    return Cell(
        arm=arm,
        strength=strength,
        over=over,
        trials=len(rows),
        diverged=int((~well & ~stopped).sum()),
        stopped=int(stopped.sum()),
        partial=len(rows) < units,
        eligible=bool(well.all()) and len(rows) == units,
        losses=tuple(by_unit("val_data_loss")),
        epochs=over_units("epochs"),
        train_data_loss=over_units("train_data_loss"),
        val_data_loss=over_units("val_data_loss"),
        val_accuracy=over_units("val_accuracy"),
        penalty=over_units("penalty"),
        test_data_loss=over_units("test_data_loss"),
        test_accuracy=over_units("test_accuracy"),
    )


def lowest(losses: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return where the loss is lowest along the last axis; of equal ones the last.

    Parameters
    ----------
    losses
        Finite, shape (…, K), by ascending strength: so of equal ones the largest strength wins.

    Examples
    --------
    >>> lowest(np.array([[3.0, 1.0, 1.0], [1.0, 2.0, 3.0]]))
    array([2, 0])
    """
    last = np.argmin(losses[..., ::-1], axis=-1)
    return np.asarray(losses.shape[-1] - 1 - last, np.intp)


def cross_fitted(losses: NDArray[np.float64], folds: int) -> NDArray[np.intp]:
    """Choose a strength for every split by what the other splits of its repeat validated.

    The rows that a fold holds out have then no say in the strength that they are scored at: folds of one
    repeat share no validation row, those of different repeats do. Random splits share some, which have then
    a part of a say. Scored at one choice of all splits, an arm with many strengths would beat an equal arm
    with one, since the lowest of many means is too low.

    Parameters
    ----------
    losses
        Finite validation data losses, shape (…, K, U): K strengths, ascending, and U splits, repeat by
        repeat.
    folds
        Splits of one repeat; it divides U.

    Returns
    -------
    array of int
        Shape (…, U): for every split, which strength. With one split a repeat it is that split's own.

    Examples
    --------
    >>> cross_fitted(np.array([[1.0, 1.0, 9.0], [2.0, 2.0, 2.0]]), folds=3)
    array([1, 1, 0])
    """
    by_repeat = losses.reshape(*losses.shape[:-1], -1, folds)
    total = by_repeat.sum(axis=-1, keepdims=True)
    others = (total - by_repeat if folds > 1 else by_repeat).reshape(losses.shape)
    return lowest(np.swapaxes(others, -1, -2))


def select(
    cells: Sequence[Cell], *, folds: int | None = None, searched: bool = False
) -> dict[str, Selection]:
    r"""Choose one strength for every arm, and its 1-SE strength.

    The chosen strength has the lowest mean validation data loss; of equal means the largest strength
    wins. The 1-SE strength is the largest strength of the same arm whose mean is at most
    :math:`m + se`, with the mean :math:`m` and the standard error :math:`se` *of the chosen cell* [1]_;
    it is never below the chosen one. Repeats of the folds are no new data: of these, :math:`se` is that of
    one repeat. Cells with a diverged or stopped trial, and partial ones,
    take no part. Over folds, each split also gets a choice by the other splits of its repeat
    (see `cross_fitted`): these tell how stable the choice is, and are what arms are compared at.

    Parameters
    ----------
    cells
        As `cells` returns them, in any order.
    folds
        Splits of one repeat, where folds are repeated; by default all splits are of one.
    searched
        A search decides where the strengths end, so that no choice is at an edge.

    Returns
    -------
    dict
        Arm -> `Selection`. An arm is looked at by itself: no other arm changes its choice.

    References
    ----------
    .. [1] L. Breiman, J. Friedman, R. Olshen, C. Stone, "Classification and Regression Trees", 1984,
       section 3.4.3; strengths for tree sizes as in T. Hastie, R. Tibshirani, J. Friedman, "The
       Elements of Statistical Learning", section 7.10.

    Examples
    --------
    >>> frame = pd.DataFrame({"arm": "l2", "strength": [0.1, 0.1, 0.2, 0.2, 0.4, 0.4], "seed": [0, 1] * 3,
    ...                       "fold": -1, "state": "complete", "val_data_loss": [1, 3, 2, 3, 8, 9]})
    >>> choice = select(cells(frame))["l2"]
    >>> choice.strength, choice.one_se_strength, choice.edge
    (0.1, 0.2, 'lower')
    """
    arms: dict[str, list[Cell]] = {}
    for cell in cells:
        arms.setdefault(cell.arm, []).append(cell)
    return {arm: _select_one(arm, of_arm, folds, searched) for arm, of_arm in arms.items()}


def _select_one(arm: str, cells: Sequence[Cell], folds: int | None, searched: bool) -> Selection:
    eligible = sorted((cell for cell in cells if cell.eligible), key=lambda c: c.strength or 0.0)
    strengths = tuple(sorted(cell.strength for cell in cells if cell.strength is not None))
    chosen, threshold, one_se, edge, stability = None, math.nan, None, None, None
    if eligible:
        chosen = eligible[lowest(np.array([cell.val_data_loss.mean for cell in eligible]))]
        splits = len(chosen.losses)
        repeats = splits // folds if folds and splits % folds == 0 else 1
        threshold = chosen.val_data_loss.mean + math.sqrt(repeats) * chosen.val_data_loss.se
        within = [cell for cell in eligible if cell.val_data_loss.mean <= threshold]  # none if it is NaN
        if chosen.strength is not None:
            one_se = max(within, key=lambda c: c.strength or 0.0, default=None)
            edge = None if searched else _edge(chosen.strength, strengths)
            if chosen.over != "seeds":
                stability = _stability(eligible, chosen.strength, splits // repeats)
    return Selection(
        arm=arm,
        over=cells[0].over,
        strengths=strengths,
        chosen=chosen,
        one_se=one_se,
        threshold=threshold,
        edge=edge,
        stability=stability,
        ineligible=sum(cell.diverged > 0 for cell in cells),
        stopped=sum(cell.stopped > 0 and not cell.diverged for cell in cells),
        partial=sum(cell.partial and not cell.stopped and not cell.diverged for cell in cells),
    )


def _stability(cells: Sequence[Cell], chosen: float, folds: int) -> Stability:
    losses = np.array([cell.losses for cell in cells])
    grid = np.array([cell.strength for cell in cells], np.float64)
    by_split = grid[cross_fitted(losses, folds)]
    spread = float(np.log10(by_split).std(ddof=1)) if len(by_split) > 1 else math.nan
    return Stability(tuple(by_split.tolist()), float((by_split == chosen).mean()), spread)


def _edge(strength: float, strengths: Sequence[float]) -> Edge | None:
    # Against all strengths tried: where the larger ones diverged, the grid did not end too early.
    if len(strengths) == 1:
        return "only"
    if strength == strengths[-1]:
        return "upper"
    return "lower" if strength == strengths[0] else None


def recommend(selections: Mapping[str, Selection], *, baseline: str | None = None) -> Recommendation | None:
    """Return the choice with the lowest mean validation data loss; test data has no say.

    Parameters
    ----------
    selections
        As `select` returns them.
    baseline
        Wins a tie, since it is the simplest; other ties go by name.

    Returns
    -------
    Recommendation or None
        ``None`` where no arm has a choice.

    Examples
    --------
    >>> frame = pd.DataFrame({"arm": ["none", "l2"], "strength": [float("nan"), 0.1], "seed": 0, "fold": -1,
    ...                       "state": "complete", "val_data_loss": [1.0, 0.9]})
    >>> recommend(select(cells(frame)), baseline="none").arm
    'l2'
    """
    chosen = [(s, s.chosen) for s in selections.values() if s.chosen is not None]
    if not chosen:
        return None
    selection, cell = min(chosen, key=lambda sc: (sc[1].val_data_loss.mean, sc[0].arm != baseline, sc[0].arm))
    return Recommendation(
        arm=selection.arm,
        strength=selection.strength,
        one_se_strength=selection.one_se_strength,
        val_data_loss=cell.val_data_loss,
        is_baseline=selection.arm == baseline,
    )
