"""What a study found: every arm at its own best strength, against the baseline, with its uncertainty.

Strengths are chosen on validation data loss (`select`), differences are taken on test data
(`differences`), and `summarise` puts both, the diagnoses and the sentences into one `Summary`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from shrinkage.errors import SpecError, did_you_mean
from shrinkage.study import words
from shrinkage.study.diagnose import diagnose
from shrinkage.study.selection import cells, check_frame, recommend, select, trials_at
from shrinkage.study.stats import ALPHA, PairedTest, holm, paired_t
from shrinkage.study.summary import (
    ArmSummary,
    Cell,
    Diagnosis,
    Difference,
    Measure,
    Over,
    Pair,
    Selection,
    Summary,
    Verdict,
)

__all__ = ["EQUAL_PAIRS", "cells", "differences", "recommend", "select", "summarise"]

# Accuracy counts whole samples, so two or three differences are often the same number by chance, and a t
# test that is blind to that would call them certain. Five equal ones have at most one chance in sixteen
# even if only two values could occur.
EQUAL_PAIRS = 5


def differences(
    frame: pd.DataFrame,
    selections: Mapping[str, Selection],
    *,
    baseline: str,
    measure: Measure,
    train_test_ratio: float | None = None,
) -> dict[str, Difference]:
    """Compare every arm with the baseline on test data, each at its own chosen strength.

    Trials are paired by seed and fold, and a pair counts only where both trials were scored. Without
    folds one unit of the t test is a seed. With folds it is a fold with its seeds averaged, and the
    variance is corrected for overlapping training sets (see `shrinkage.study.stats.paired_t`). p values
    are adjusted by Holm's method over the arms. Where all differences are the same number, p is 1 if it
    is 0 and 0 otherwise, and fewer than `EQUAL_PAIRS` of them are still no verdict.

    Parameters
    ----------
    frame
        One row a trial, with the column ``measure`` scored at the chosen strengths.
    selections
        As `select` returns them.
    baseline
        The arm to compare with.
    measure
        ``"test_accuracy"`` or ``"test_data_loss"``.
    train_test_ratio
        n_test/n_train where splits are resampled, else ``None``.

    Returns
    -------
    dict
        Arm -> `Difference`, for every other arm with a choice; empty where the baseline has none.

    Examples
    --------
    >>> frame = pd.DataFrame({"arm": ["none"] * 3 + ["l2"] * 3, "strength": [float("nan")] * 3 + [0.1] * 3,
    ...     "seed": [0, 1, 2] * 2, "fold": -1, "state": "complete", "val_data_loss": 1.0,
    ...     "test_accuracy": [0.90, 0.91, 0.92, 0.93, 0.95, 0.95]})
    >>> found = differences(frame, select(cells(frame)), baseline="none", measure="test_accuracy")["l2"]
    >>> found.verdict, round(found.test.mean, 4), [round(p.difference, 2) for p in found.pairs]
    ('better', 0.0333, [0.03, 0.04, 0.03])
    """
    over, base = check_frame(frame), selections[baseline].chosen
    pairs = {
        arm: _pairs(frame, choice.chosen, base, measure)
        for arm, choice in selections.items()
        if arm != baseline and choice.chosen is not None and base is not None
    }
    tests = {arm: _test(found, over, train_test_ratio) for arm, found in pairs.items()}
    adjusted = dict(zip(tests, holm([test.p for test in tests.values()]), strict=True))
    out = {}
    for arm, test in tests.items():
        kind = _verdict(test, adjusted[arm], measure)
        plain = Difference(
            arm=arm,
            baseline=baseline,
            measure=measure,
            over=over,
            pairs=pairs[arm],
            test=test,
            p_holm=adjusted[arm],
            verdict=kind,
            words=words.verdict(kind, test.n, over),
            sentence="",
            notes=_notes(test, arm, measure, over),
        )
        out[arm] = replace(plain, sentence=words.comparison(plain, selections[arm].strength))
    return out


def _pairs(frame: pd.DataFrame, arm: Cell, base: Cell, measure: Measure) -> tuple[Pair, ...]:
    def scored(cell: Cell) -> dict[tuple[int, int], float]:
        rows = trials_at(frame, cell.arm, cell.strength)
        if measure not in rows.columns:
            return {}
        values = rows[measure].to_numpy(np.float64)
        return {
            (int(fold), int(seed)): float(value)
            for fold, seed, value in zip(rows["fold"], rows["seed"], values, strict=True)
            if math.isfinite(value)
        }

    mine, other = scored(arm), scored(base)
    return tuple(
        Pair(seed, fold, mine[fold, seed], other[fold, seed], mine[fold, seed] - other[fold, seed])
        for fold, seed in sorted(mine.keys() & other.keys())
    )


def _test(pairs: tuple[Pair, ...], over: Over, train_test_ratio: float | None) -> PairedTest:
    scale = max((max(abs(p.arm), abs(p.baseline)) for p in pairs), default=0.0)
    units: dict[int, list[float]] = {}
    for i, pair in enumerate(pairs):
        units.setdefault(pair.fold if over == "folds" else i, []).append(pair.difference)
    means = [math.fsum(of_unit) / len(of_unit) for of_unit in units.values()]
    return paired_t(means, train_test_ratio=train_test_ratio, scale=scale)


def _verdict(test: PairedTest, p_holm: float, measure: Measure) -> Verdict:
    if test.n < 2:
        return "no test"
    if p_holm >= ALPHA or (test.equal and test.n < EQUAL_PAIRS):
        return "no difference"
    return "better" if (test.mean > 0) == (measure == "test_accuracy") else "worse"


def _notes(test: PairedTest, arm: str, measure: Measure, over: Over) -> tuple[str, ...]:
    if not test.equal:
        return ()
    zero = test.mean == 0.0
    return (words.equal_differences(arm, measure, test.n, over, zero=zero, enough=EQUAL_PAIRS),)


def summarise(
    frame: pd.DataFrame,
    curves: pd.DataFrame | None,
    *,
    baseline: str | None,
    classification: bool,
    folds: int | None,
    one_split: bool,
    n_test_over_n_train: float | None,
    early_stopping: bool | Collection[str] = False,
    guess: float | None = None,
) -> Summary:
    """Compute everything that the terminal table, the figures and the report say about a study.

    Parameters
    ----------
    frame
        One row a trial: ``arm, strength, seed, fold, state, epochs, train_data_loss, val_data_loss,
        penalty, val_accuracy, test_data_loss, test_accuracy``. Test columns are filled at each arm's
        chosen strength.
    curves
        One row a trial and epoch (see `diagnose`), or ``None``: no diagnoses then.
    baseline
        The arm that the others are compared with; ``None`` for no differences.
    classification
        Accuracy exists, and is the headline measure.
    folds
        Number of folds, ``None`` for a holdout study.
    one_split
        All trials share one split of the data.
    n_test_over_n_train
        Of one split. Used where splits are resampled (folds, or not ``one_split``) to correct the
        variance; needed with folds.
    early_stopping
        The weights kept are those of the best epoch; or the arms of which they are.
    guess
        The data loss of the best constant answer, where it is known.

    Returns
    -------
    Summary
        Facts and sentences.

    Raises
    ------
    SpecError
        If ``baseline`` is no arm of the frame.
    ValueError
        Where `check_frame` does; if ``folds`` disagrees with the frame; if folds come without a
        positive ``n_test_over_n_train``.

    Examples
    --------
    >>> frame = pd.DataFrame({"arm": ["none", "l2"], "strength": [float("nan"), 0.1], "seed": 0, "fold": -1,
    ...     "state": "complete", "val_data_loss": [1.0, 0.9], "test_data_loss": [1.1, 1.0]})
    >>> summary = summarise(frame, None, baseline="none", classification=False, folds=None, one_split=True,
    ...                     n_test_over_n_train=None)
    >>> print(summary.headline[0])
    Lowest mean validation data loss: l2 at λ = 0.1 (0.9, one seed).
    >>> summary.arm("l2").verdict
    'one seed: no test is possible'
    """
    table = cells(frame)
    over = table[0].over
    _check(frame, over, baseline, folds, n_test_over_n_train)
    ratio = n_test_over_n_train if over == "folds" or not one_split else None
    choices = select(table)
    found: dict[Measure, dict[str, Difference]] = {
        measure: differences(frame, choices, baseline=baseline, measure=measure, train_test_ratio=ratio)
        for measure in _measures(classification)
        if baseline is not None
    }
    diagnoses = (
        {} if curves is None else diagnose(curves, choices, early_stopping=early_stopping, guess=guess)
    )
    arms = tuple(
        _arm(
            choices[arm],
            table,
            baseline,
            {m: of[arm] for m, of in found.items() if arm in of},
            diagnoses.get(arm),
        )
        for arm in choices
    )
    best = recommend(choices, baseline=baseline)
    compared = [of[best.arm] for of in found.values() if best and best.arm in of]
    units = int(frame["fold" if over == "folds" else "seed"].nunique())
    fullest = max(cell.trials for cell in table)
    return Summary(
        classification=classification,
        over=over,
        seeds=int(frame["seed"].nunique()),
        folds=folds,
        one_split=one_split,
        train_test_ratio=ratio,
        baseline=baseline,
        arms=arms,
        recommended=best,
        headline=words.headline(best, over, baseline, compared),
        notes=words.study_notes(
            over=over,
            units=units,
            one_split=one_split,
            train_test_ratio=ratio,
            tested=max((sum(d.test.n > 1 for d in of.values()) for of in found.values()), default=0),
            trials=len(frame),
            diverged=sum(cell.diverged for cell in table),
            stopped=sum(cell.stopped for cell in table),
            ragged=sum(cell.trials < fullest for cell in table),
        ),
    )


def _measures(classification: bool) -> tuple[Measure, ...]:
    """Return what is compared, the headline measure first."""
    return ("test_accuracy", "test_data_loss") if classification else ("test_data_loss",)


def _check(
    frame: pd.DataFrame, over: Over, baseline: str | None, folds: int | None, ratio: float | None
) -> None:
    arms = list(dict.fromkeys(frame["arm"]))
    if baseline is not None and baseline not in arms:
        raise SpecError(
            f"The baseline {baseline!r} is no arm of this study; its arms are {', '.join(map(repr, arms))}."
            f"{did_you_mean(baseline, arms)}"
        )
    if (folds is not None) != (over == "folds") or (folds is not None and frame["fold"].max() >= folds):
        present = sorted({int(fold) for fold in frame["fold"]})
        raise ValueError(f"folds={folds!r} disagrees with the frame, whose folds are {present}")
    if folds is not None and (ratio is None or not ratio > 0):
        raise ValueError("with folds, n_test_over_n_train must be a positive number")


def _arm(
    choice: Selection,
    table: tuple[Cell, ...],
    baseline: str | None,
    found: Mapping[Measure, Difference],
    diagnosis: Diagnosis | None,
) -> ArmSummary:
    own = tuple(cell for cell in table if cell.arm == choice.arm)
    trials, diverged = sum(cell.trials for cell in own), sum(cell.diverged for cell in own)
    if found:
        verdict = next(iter(found.values())).words
    elif choice.arm == baseline:
        verdict = "baseline"
    else:
        verdict = "diverged" if choice.chosen is None else "no baseline to compare with"
    return ArmSummary(
        arm=choice.arm,
        is_baseline=choice.arm == baseline,
        cells=own,
        selection=choice,
        trials=trials,
        diverged=diverged,
        accuracy=found.get("test_accuracy"),
        data_loss=found.get("test_data_loss"),
        verdict=verdict,
        diagnosis=diagnosis,
        edge_note=words.edge_note(choice),
        notes=words.arm_notes(choice, trials, diverged) + tuple(n for d in found.values() for n in d.notes),
    )
