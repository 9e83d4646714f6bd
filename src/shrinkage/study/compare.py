"""What a study found: every arm at its own best strength, against the baseline, with its uncertainty.

Strengths are chosen on validation data loss (`select`), differences are taken on rows that had no say in
that (`differences`), and `summarise` puts both, the diagnoses and the sentences into one `Summary`.

Which rows these are depends on what is resampled. Without folds all trials share one split, the units are
seeds, and differences are taken on test data: the claim is about other seeds on these data. With folds the
claim is about other data, and the test rows can't carry it: every fold is scored on the same ones, by
models of mostly the same training rows, so their differences agree with each other whatever the truth.
Nadeau and Bengio's correction is for scores on the rows that each split holds out, and these are used, at a
strength that the other splits choose; random splits share some of these rows.
``benchmarks/error_rates.py`` measures both ways on simulated studies of fresh data: on one test set two equal
arms are called different in up to half of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from shrinkage.errors import SpecError, did_you_mean
from shrinkage.study import notes, words
from shrinkage.study.diagnose import diagnose
from shrinkage.study.judge import EQUAL_PAIRS, correction, judge, more_units
from shrinkage.study.resampling import Resampling
from shrinkage.study.selection import cells, recommend, select, trials_at
from shrinkage.study.stats import PairedTest, paired_t
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
)

__all__ = ["cells", "differences", "recommend", "select", "summarise"]


def differences(
    frame: pd.DataFrame,
    selections: Mapping[str, Selection],
    *,
    baseline: str,
    measure: Measure,
    train_test_ratio: float | None = None,
    margin: float | None = None,
    folds: int = 1,
) -> dict[str, Difference]:
    """Compare every arm with the baseline, each at its own chosen strength.

    Trials are paired by seed and fold, and a pair counts only where both trials were scored. Without
    folds one unit of the t test is a seed, and an arm stands at its chosen strength. With folds it is a
    fold with its seeds averaged, an arm stands in each fold at the strength that the other folds choose
    (see `shrinkage.study.selection.cross_fitted`), and the variance is corrected for overlapping training
    sets (see `shrinkage.study.stats.paired_t`). p values are adjusted by Holm's method over the arms.
    Where all differences are the same number, p is 1 if it is 0 and 0 otherwise, and fewer than
    `EQUAL_PAIRS` of them are still no verdict.

    Parameters
    ----------
    frame
        One row a trial, with the column ``measure`` scored at the chosen strengths.
    selections
        As `select` returns them.
    baseline
        The arm to compare with.
    measure
        Of test data without folds, of validation data with them.
    train_test_ratio
        n_test/n_train where splits are resampled, else ``None``.
    margin
        The difference of ``measure`` that does not matter; ``None`` for no test of equivalence.
    folds
        Splits that one more repeat adds; see `Difference.more`.

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
    base = selections[baseline]
    over = base.over
    pairs = {
        arm: _pairs(frame, choice, base, measure)
        for arm, choice in selections.items()
        if arm != baseline and choice.chosen is not None and base.chosen is not None
    }
    tests = {arm: _test(found, over, train_test_ratio) for arm, found in pairs.items()}
    judged = judge(list(tests.values()), higher_is_better=measure.endswith("accuracy"), margin=margin)
    out = {}
    for (arm, test), found in zip(tests.items(), judged, strict=True):
        plain = Difference(
            arm=arm,
            baseline=baseline,
            measure=measure,
            over=over,
            pairs=pairs[arm],
            test=test,
            p_holm=found.p_holm,
            equivalence=found.equivalence,
            p_equivalent=found.p_equivalent,
            verdict=found.verdict,
            more=more_units(test, margin, train_test_ratio, folds)
            if found.verdict == "no difference"
            else None,
            words=words.verdict(found.verdict, test.n, over),
            sentence="",
            notes=_notes(test, arm, measure, over),
        )
        out[arm] = replace(plain, sentence=words.comparison(plain, selections[arm]))
    return out


def _pairs(frame: pd.DataFrame, arm: Selection, base: Selection, measure: Measure) -> tuple[Pair, ...]:
    mine, other = (_scored(frame, choice, measure) for choice in (arm, base))
    return tuple(
        Pair(seed, fold, mine[fold, seed], other[fold, seed], mine[fold, seed] - other[fold, seed])
        for fold, seed in sorted(mine.keys() & other.keys())
    )


def _scored(frame: pd.DataFrame, choice: Selection, measure: Measure) -> dict[tuple[int, int], float]:
    """Return the measure of an arm by fold and seed, in each fold at the strength that it stands at."""
    if measure not in frame.columns:
        return {}
    folds = sorted({int(fold) for fold in frame["fold"]})
    strengths = choice.stability.strengths if choice.stability else (choice.strength,) * len(folds)
    out = {}
    for fold, strength in zip(folds, strengths, strict=True):
        rows = trials_at(frame[frame["fold"] == fold], choice.arm, strength)
        for seed, value in zip(rows["seed"], rows[measure].to_numpy(np.float64), strict=True):
            if math.isfinite(value):
                out[fold, int(seed)] = float(value)
    return out


def _test(pairs: tuple[Pair, ...], over: Over, train_test_ratio: float | None) -> PairedTest:
    scale = max((max(abs(p.arm), abs(p.baseline)) for p in pairs), default=0.0)
    units: dict[int, list[float]] = {}
    for i, pair in enumerate(pairs):
        units.setdefault(i if over == "seeds" else pair.fold, []).append(pair.difference)
    means = [math.fsum(of_unit) / len(of_unit) for of_unit in units.values()]
    return paired_t(means, train_test_ratio=train_test_ratio, scale=scale)


def _notes(test: PairedTest, arm: str, measure: Measure, over: Over) -> tuple[str, ...]:
    if not test.equal:
        return ()
    zero = test.mean == 0.0
    return (notes.equal_differences(arm, measure, test.n, over, zero=zero, enough=EQUAL_PAIRS),)


def summarise(
    frame: pd.DataFrame,
    curves: pd.DataFrame | None,
    *,
    baseline: str | None,
    classification: bool,
    resampling: Resampling | None = None,
    margin: float | None = None,
    early_stopping: bool | Collection[str] = False,
    guess: float | None = None,
    searched: bool = False,
    explored: pd.DataFrame | None = None,
) -> Summary:
    """Compute everything that the terminal table, the figures and the report say about a study.

    Parameters
    ----------
    frame
        One row a trial: ``arm, strength, seed, fold, state, epochs, train_data_loss, val_data_loss,
        penalty, val_accuracy, test_data_loss, test_accuracy``. Test columns are filled at each arm's
        chosen strength. ``fold`` counts repeat by repeat, and is -1 where there is one split.
    curves
        One row a trial and epoch (see `diagnose`), or ``None``: no diagnoses then.
    baseline
        The arm that the others are compared with; ``None`` for no differences.
    classification
        Accuracy exists, and is the headline measure.
    resampling
        How the data were split; ``None`` where all trials share one split.
    margin
        The difference in the headline measure that does not matter, set before looking; ``None`` for no
        test of equivalence.
    early_stopping
        The weights kept are those of the best epoch; or the arms of which they are.
    guess
        The data loss of the best constant answer, where it is known.
    searched
        A search decided which strengths were tried.
    explored
        Trials on other units, which said where to look and have no say in the choice.

    Returns
    -------
    Summary
        Facts and sentences.

    Raises
    ------
    SpecError
        If ``baseline`` is no arm of the frame.
    ValueError
        Where `check_frame` does, and if ``resampling`` disagrees with the frame.

    Examples
    --------
    >>> frame = pd.DataFrame({"arm": ["none", "l2"], "strength": [float("nan"), 0.1], "seed": 0, "fold": -1,
    ...     "state": "complete", "val_data_loss": [1.0, 0.9], "test_data_loss": [1.1, 1.0]})
    >>> summary = summarise(frame, None, baseline="none", classification=False)
    >>> print(summary.headline[0])
    Lowest mean validation data loss: l2 at λ = 0.1 (0.9, one seed).
    >>> summary.arm("l2").verdict
    'one seed: no test is possible'
    """
    counted: Over = "folds" if resampling is None else resampling.over
    table = cells(frame, counted)
    over = table[0].over
    _check(frame, over, baseline, resampling)
    looked = () if explored is None or explored.empty else cells(explored, counted)
    repeated = resampling.splits if resampling is not None and resampling.repeats > 1 else None
    choices = _with_explored(select(table, folds=repeated, searched=searched), looked, over)
    tuned = any(len(choice.strengths) > 1 for choice in choices.values())
    found = {} if baseline is None else _compared(
        frame, choices, baseline, _measures(classification, over), resampling, margin, tuned
    )  # fmt: skip
    diagnoses = (
        {} if curves is None else diagnose(curves, choices, early_stopping=early_stopping, guess=guess)
    )
    arms = tuple(
        _arm(
            choices[arm],
            table,
            looked,
            baseline,
            {m: of[arm] for m, of in found.items() if arm in of},
            diagnoses.get(arm),
        )
        for arm in choices
    )
    best = recommend(choices, baseline=baseline)
    tested = max((sum(d.test.n > 1 for d in of.values()) for of in found.values()), default=0)
    units = int(frame["seed" if over == "seeds" else "fold"].nunique())
    ratio = None if resampling is None else resampling.ratio
    return Summary(
        classification=classification,
        over=over,
        seeds=int(frame["seed"].nunique()),
        folds=None if resampling is None else resampling.splits,
        repeats=1 if resampling is None else resampling.repeats,
        units=tuple(sorted({(int(s), int(f)) for s, f in zip(frame["seed"], frame["fold"], strict=True)})),
        train_test_ratio=ratio,
        margin=margin,
        baseline=baseline,
        arms=arms,
        recommended=best,
        headline=words.headline(
            best, over, baseline, [of[best.arm] for of in found.values() if best and best.arm in of], choices
        ),
        notes=(
            *notes.study_notes(over=over, units=units, train_test_ratio=ratio, tested=tested, tuned=tuned),
            *_trial_notes(table, looked, over),
        ),
    )


def _compared(
    frame: pd.DataFrame,
    choices: Mapping[str, Selection],
    baseline: str,
    measures: Sequence[Measure],
    resampling: Resampling | None,
    margin: float | None,
    tuned: bool,
) -> dict[Measure, dict[str, Difference]]:
    """Return the differences in each measure; the margin is of the first."""
    ratio, together = None, 1
    if resampling is not None:
        ratio = correction(resampling.ratio, resampling.over, tuned=tuned)
        together = resampling.splits if resampling.over == "folds" else 1
    return {
        measure: differences(
            frame,
            choices,
            baseline=baseline,
            measure=measure,
            train_test_ratio=ratio,
            margin=margin if measure == measures[0] else None,
            folds=together,
        )
        for measure in measures
    }


def _trial_notes(table: Sequence[Cell], looked: Sequence[Cell], over: Over) -> tuple[str, ...]:
    every = (*table, *looked)
    only_looked = {_key(cell) for cell in looked if not cell.diverged} - set(map(_key, table))
    return notes.trial_notes(
        over=over,
        trials=sum(cell.trials for cell in every),
        diverged=sum(cell.diverged for cell in every),
        stopped=sum(cell.stopped for cell in every),
        partial=sum(cell.partial for cell in table) + len(only_looked),
    )


def _key(cell: Cell) -> tuple[str, float | None]:
    return cell.arm, cell.strength


def _with_explored(
    choices: Mapping[str, Selection], looked: Sequence[Cell], over: Over
) -> dict[str, Selection]:
    """Return the choices with all strengths that were explored, and those of arms that were only explored."""
    found, arms = dict(choices), dict.fromkeys(cell.arm for cell in looked)
    for arm in arms:
        own = [cell for cell in looked if cell.arm == arm]
        if arm not in found:
            (choice,) = select(own).values()
            lost = sum(cell.diverged > 0 for cell in own)
            found[arm] = replace(
                choice, over=over, chosen=None, one_se=None, threshold=math.nan, edge=None, stability=None,
                ineligible=lost, partial=len(own) - lost,
            )  # fmt: skip
            continue
        tried = {cell.strength for cell in own if cell.strength is not None} | set(found[arm].strengths)
        new = [cell for cell in own if cell.strength not in (None, *found[arm].strengths)]
        lost = sum(cell.diverged > 0 for cell in new)
        found[arm] = replace(
            found[arm],
            strengths=tuple(sorted(tried)),
            ineligible=found[arm].ineligible + lost,
            partial=found[arm].partial + len(new) - lost,
        )
    return found


def _measures(classification: bool, over: Over) -> tuple[Measure, ...]:
    """Return what is compared, the headline measure first: of rows that had no say in any choice."""
    if over != "seeds":
        return ("val_accuracy", "val_data_loss") if classification else ("val_data_loss",)
    return ("test_accuracy", "test_data_loss") if classification else ("test_data_loss",)


def _check(frame: pd.DataFrame, over: Over, baseline: str | None, resampling: Resampling | None) -> None:
    arms = list(dict.fromkeys(frame["arm"]))
    if baseline is not None and baseline not in arms:
        raise SpecError(
            f"The baseline {baseline!r} is no arm of this study; its arms are {', '.join(map(repr, arms))}."
            f"{did_you_mean(baseline, arms)}"
        )
    last = frame["fold"].nunique() - 1 if over == "splits" else frame["fold"].max()
    many = 0 if resampling is None else resampling.splits * resampling.repeats
    if (over == "seeds") != (resampling is None) or last >= many > 0:
        present = sorted({int(fold) for fold in frame["fold"]})
        raise ValueError(f"{resampling} disagrees with the frame, whose folds are {present}")


def _arm(
    choice: Selection,
    table: tuple[Cell, ...],
    looked: Sequence[Cell],
    baseline: str | None,
    found: Mapping[Measure, Difference],  # the headline measure first
    diagnosis: Diagnosis | None,
) -> ArmSummary:
    own = tuple(cell for cell in table if cell.arm == choice.arm)
    every = (*own, *(cell for cell in looked if cell.arm == choice.arm))
    trials, diverged = sum(cell.trials for cell in every), sum(cell.diverged for cell in every)
    if found:
        verdict = next(iter(found.values())).words
    elif choice.arm == baseline:
        verdict = "baseline"
    elif choice.chosen is None:
        verdict = "diverged" if choice.is_lost else "not trained to the end"
    else:
        verdict = "no baseline to compare with"
    return ArmSummary(
        arm=choice.arm,
        is_baseline=choice.arm == baseline,
        cells=own,
        selection=choice,
        trials=trials,
        diverged=diverged,
        accuracy=next((of for measure, of in found.items() if measure.endswith("accuracy")), None),
        data_loss=next((of for measure, of in found.items() if measure.endswith("data_loss")), None),
        verdict=verdict,
        diagnosis=diagnosis,
        edge_note=notes.edge_note(choice),
        notes=notes.arm_notes(choice, trials, diverged) + tuple(n for d in found.values() for n in d.notes),
    )
