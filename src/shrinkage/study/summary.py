"""The facts of a study: frozen records that `compare` and `diagnose` compute and everything else reads.

Figures, the terminal table, the report and ``summary.json`` draw on these and compute nothing of
their own. Losses are data losses (penalty excluded) in the unit of the loss, accuracies are fractions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from shrinkage.study.records import as_json, from_json
from shrinkage.study.stats import Equivalence, Estimate, PairedTest

#: What errors are over: seeds of one split, folds of one or more repeats, or random splits.
Over = Literal["seeds", "folds", "splits"]
Edge = Literal["lower", "upper", "only"]
Measure = Literal["test_accuracy", "test_data_loss", "val_accuracy", "val_data_loss"]
Verdict = Literal["better", "worse", "equivalent", "no difference", "no test"]
Status = Literal["underfit", "good", "overfit", "diverged"]

FORMAT = 4  # of the JSON; raised when a field changes its meaning or goes away


@dataclass(frozen=True)
class Cell:
    """One arm at one strength, averaged over its trials.

    Attributes
    ----------
    arm, strength
        Which cell; ``strength`` is ``None`` for an arm without one.
    over
        What the standard errors are over. Over folds or splits, seeds are averaged within each first.
    trials, diverged, stopped
        How many trials ran, how many of them diverged (state, or a validation data loss that is not
        finite), and how many were stopped at a rung. The estimates are over the others.
    partial
        It lacks a seed or a split of the study: it was explored on a part of them.
    eligible
        All trials are complete and the cell is not partial, so it may be chosen.
    losses
        Validation data loss of each unit (a seed, or a split with its seeds averaged), in their order.
    epochs, train_data_loss, val_data_loss, val_accuracy, penalty, test_data_loss, test_accuracy
        Estimates; ``n = 0`` and NaN where nothing was measured.
    """

    arm: str
    strength: float | None
    over: Over
    trials: int
    diverged: int
    stopped: int
    partial: bool
    eligible: bool
    losses: tuple[float, ...]
    epochs: Estimate
    train_data_loss: Estimate
    val_data_loss: Estimate
    val_accuracy: Estimate
    penalty: Estimate
    test_data_loss: Estimate
    test_accuracy: Estimate


@dataclass(frozen=True)
class Stability:
    """What each split would have made of the choice of a strength.

    Attributes
    ----------
    strengths
        For every split, in order, the strength that the other splits (of folds, those of its repeat) choose:
        the one that the arm is compared at on the rows which that split holds out.
    share
        The fraction of them that is the strength chosen in the end.
    spread
        Sample standard deviation of their log10; NaN for one split. These choices share most of their
        rows: another sample of data would move the choice further.
    """

    strengths: tuple[float, ...]
    share: float
    spread: float


@dataclass(frozen=True)
class Selection:
    """What was chosen for one arm, from its validation data loss alone.

    Attributes
    ----------
    arm, over
        The arm, and what the standard error is over.
    strengths
        Every strength tried, ascending; empty for an arm without one.
    chosen
        The cell with the lowest mean validation data loss (of equal ones the largest strength), or
        ``None`` where no cell is eligible.
    one_se
        The cell of the largest strength whose mean is at most ``threshold``; ``None`` without a
        choice, without strengths, or with one unit only, where the standard error does not exist.
    threshold
        Minimum plus the standard error of the minimum, of repeated folds that of one repeat; NaN where
        that does not exist.
    edge
        ``"lower"`` or ``"upper"`` where the chosen strength ends the grid, so that the optimum may lie
        outside; ``"only"`` where it is the only strength tried; else, and after a search, ``None``.
    stability
        How the choice would have been with each split; ``None`` without folds, choice or strengths.
    ineligible, stopped, partial
        How many cells have a diverged trial; of the others, how many one that was stopped at a rung; and
        how many have neither but are partial.
    """

    arm: str
    over: Over
    strengths: tuple[float, ...]
    chosen: Cell | None
    one_se: Cell | None
    threshold: float
    edge: Edge | None
    stability: Stability | None
    ineligible: int
    stopped: int
    partial: int

    @property
    def strength(self) -> float | None:
        """The chosen strength; ``None`` without a choice, and for an arm without strengths."""
        return self.chosen.strength if self.chosen else None

    @property
    def one_se_strength(self) -> float | None:
        """The 1-SE strength, never below `strength`; ``None`` where there is none."""
        return self.one_se.strength if self.one_se else None

    @property
    def is_lost(self) -> bool:
        """Whether nothing could be chosen because every cell has a diverged trial."""
        return self.chosen is None and self.ineligible > 0 and not (self.stopped or self.partial)


@dataclass(frozen=True)
class Pair:
    """One trial of an arm and the baseline's trial of the same seed and fold.

    Attributes
    ----------
    seed, fold
        What the two trials share; ``fold`` is -1 without folds.
    arm, baseline
        The two values of the measure.
    difference
        ``arm - baseline``.
    """

    seed: int
    fold: int
    arm: float
    baseline: float
    difference: float


@dataclass(frozen=True)
class Difference:
    """An arm against the baseline on rows that had no say, each at its own chosen strength.

    Attributes
    ----------
    arm, baseline, measure
        What is compared: ``arm - baseline`` of ``measure``. That is one of test data without folds, and one
        of validation data with them: there every split holds out rows of its own.
    over
        What one unit of the test is: a seed, or a fold or split with its seeds averaged.
    pairs
        Every pair of trials, sorted by fold and seed.
    test
        Mean, spread, interval, p and detectable difference over the units.
    p_holm
        ``test.p`` after Holm's adjustment over the arms, within this measure.
    equivalence
        Whether the mean lies within the margin that does not matter; ``None`` where no margin is set.
    p_equivalent
        ``equivalence.p`` after Holm's adjustment over the arms; NaN without it.
    verdict
        ``"better"`` or ``"worse"`` where ``p_holm < 0.05``, by the sign of the mean; else ``"equivalent"``
        where ``p_equivalent < 0.05``; ``"no difference"`` where that many units show neither; ``"no test"``
        with fewer than two units.
    more
        Where the verdict is "no difference": about how many more seeds, random splits or repeats of the folds
        with this spread would settle it with 80 % power. With a margin: find a difference that large, or show
        that there is none; without: find the difference seen. ``None`` where it is settled, or no number
        would do.
    words
        The verdict as it is shown.
    sentence
        The comparison in one sentence.
    notes
        What a reader must know besides, each one sentence.
    """

    arm: str
    baseline: str
    measure: Measure
    over: Over
    pairs: tuple[Pair, ...]
    test: PairedTest
    p_holm: float
    equivalence: Equivalence | None
    p_equivalent: float
    verdict: Verdict
    more: int | None
    words: str
    sentence: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Diagnosis:
    """How an arm's training went at its chosen strength (see `shrinkage.study.diagnose` for the rules).

    Attributes
    ----------
    arm, strength
        Which cell.
    status
        ``"underfit"``, ``"good"``, ``"overfit"`` or ``"diverged"``.
    epochs
        Epochs of the longest trial; 0 without curves.
    turn_epoch
        Epoch (from 1) where the mean validation data loss was lowest before it rose by more than
        noise; ``None`` where it did not.
    rise
        Mean validation data loss at the last epoch minus its minimum.
    gap_grew
        The gap is wider at the last epoch than at the minimum: what rose is validation alone.
    learned
        The training data loss fell below its first value (taken for granted under three epochs).
    last_fall
        Fall of the mean validation data loss over the last tenth of the epochs, as a fraction of its
        last value; negative for a rise.
    still_falling
        That fall is more than noise: training ended too early.
    train_data_loss, val_data_loss, gap
        At the end, that is of the weights that were kept. ``gap`` is validation - training.
    gap_at_turn
        The gap at ``turn_epoch``; NaN without a turn.
    sentence, next_step
        What was seen and what to try, each one sentence.
    """

    arm: str
    strength: float | None
    status: Status
    epochs: int
    turn_epoch: int | None
    rise: float
    gap_grew: bool
    learned: bool
    last_fall: float
    still_falling: bool
    train_data_loss: Estimate
    val_data_loss: Estimate
    gap: Estimate
    gap_at_turn: float
    sentence: str = ""
    next_step: str = ""


@dataclass(frozen=True)
class Recommendation:
    """The arm and strength with the lowest mean validation data loss of all choices.

    Attributes
    ----------
    arm, strength
        What is recommended; ``strength`` is ``None`` for an arm without one.
    one_se_strength
        The 1-SE strength of the same arm, or ``None``.
    val_data_loss
        The mean that won.
    is_baseline
        Nothing beat the baseline.
    """

    arm: str
    strength: float | None
    one_se_strength: float | None
    val_data_loss: Estimate
    is_baseline: bool


@dataclass(frozen=True)
class ArmSummary:
    """Everything that is said about one arm.

    Attributes
    ----------
    arm, is_baseline
        Which arm, and whether the others are compared with it.
    cells
        Every cell, by ascending strength.
    selection
        Chosen strength, 1-SE strength and edge. The arm's figures at its own best are those of
        ``selection.chosen``.
    trials, diverged
        Over all cells, and what was explored elsewhere.
    accuracy, data_loss
        Differences from the baseline; ``None`` for the baseline, without a baseline, and where either has
        no choice (``accuracy`` also for regression).
    verdict
        Words of the headline measure: accuracy for classification, data loss for regression.
    diagnosis
        ``None`` where no curves were given.
    edge_note
        One sentence where the chosen strength ends the grid.
    notes
        What else is to be known of this arm, each one sentence.
    """

    arm: str
    is_baseline: bool
    cells: tuple[Cell, ...]
    selection: Selection
    trials: int
    diverged: int
    accuracy: Difference | None
    data_loss: Difference | None
    verdict: str
    diagnosis: Diagnosis | None
    edge_note: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """What a study found.

    Attributes
    ----------
    classification
        Whether accuracy exists and is the headline measure.
    over
        What standard errors and tests are over.
    seeds, folds, repeats
        How many of each; ``folds`` is ``None`` with one split, and how many splits there are where these are
        random; ``repeats`` says how often the data were split into folds.
    units
        Seed and fold (-1 with one split) of the trials that all this is about.
    train_test_ratio
        n_test/n_train where the tests are corrected for overlapping training sets, else ``None``.
    margin
        The difference in the headline measure that does not matter, or ``None``.
    baseline
        The arm that the others are compared with, or ``None``.
    arms
        In the order of the frame.
    recommended
        ``None`` where no arm has a choice.
    headline, notes
        Sentences: the result, and what it rests on.
    """

    classification: bool
    over: Over
    seeds: int
    folds: int | None
    repeats: int
    units: tuple[tuple[int, int], ...]
    train_test_ratio: float | None
    margin: float | None
    baseline: str | None
    arms: tuple[ArmSummary, ...]
    recommended: Recommendation | None
    headline: tuple[str, ...]
    notes: tuple[str, ...]

    def arm(self, name: str) -> ArmSummary:
        """Return the summary of the arm called ``name``.

        Raises
        ------
        KeyError
            If there is no such arm.
        """
        for arm in self.arms:
            if arm.arm == name:
                return arm
        raise KeyError(name)

    def __str__(self) -> str:
        return "\n".join(self.headline)

    def _repr_html_(self) -> str:
        from shrinkage.study.table import summary_html  # it is made of summaries

        return summary_html(self)

    def to_json(self) -> dict[str, Any]:
        """Return the whole tree as plain JSON types, with ``null`` for what does not exist.

        Returns
        -------
        dict
            Field by field, plus ``format``; equal to itself after ``json.dumps`` and ``json.loads``.
        """
        return {"format": FORMAT, **as_json(self)}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return the summary that `to_json` gave; what else ``stored`` holds is left aside.

        Raises
        ------
        ValueError
            If it is of a format that is not known here, or lacks a field.
        """
        if stored.get("format") != FORMAT:
            raise ValueError(f"its format is {stored.get('format')!r}, and {FORMAT} is known here")
        return from_json(cls, stored)
