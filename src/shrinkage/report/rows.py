"""The tables of the report: plain records, without a number rounded or a character escaped.

`shrinkage.report.facts` computes them. Losses are data losses in the unit of the loss; accuracies and shares
are fractions.
"""

from __future__ import annotations

from dataclasses import dataclass

from shrinkage.report.paste import Paste
from shrinkage.study.evidence import ArmEvidence, DataFacts, Node
from shrinkage.study.provenance import Provenance
from shrinkage.study.stats import Estimate
from shrinkage.study.summary import Difference

Series = tuple[float, ...]


@dataclass(frozen=True)
class Verdict:
    """The answer of a study.

    Attributes
    ----------
    title
        What to do, in a few words.
    sentence
        What that rests on, with its interval; empty where the title says it all.
    recommended
        The recommended arm and strength as text; empty where every arm diverged.
    enough
        The baseline's name where nothing shows that the recommended arm is better; else empty.
    cost
        What finding it took, and what the recommended model needs, in one sentence.
    paste
        The recommended recipe as text to paste; ``None`` without a recommendation.
    next_steps
        What to try next, each one sentence.
    notes
        What the answer rests on, each one sentence.
    """

    title: str
    sentence: str
    recommended: str
    enough: str
    cost: str
    paste: Paste | None
    next_steps: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ArmRow:
    """One arm at its own best strength.

    Attributes
    ----------
    arm, style, is_baseline, is_recommended
        Which arm; ``style`` numbers its colour, 0 for the baseline.
    strength, one_se_strength
        The chosen strength and the 1-SE strength; ``None`` where there is none.
    val_data_loss, test_data_loss, test_accuracy
        Estimates over seeds or folds; ``None`` without a choice.
    difference
        From the baseline, of the headline measure; ``None`` where it was not taken.
    verdict, curve
        In words: what the difference shows, and how training went.
    zeros, live_units, units, parameters, compacted_parameters
        Means over the chosen trials; NaN where they were not counted.
    trials, diverged, stopped
        Over all strengths.
    """

    arm: str
    style: int
    is_baseline: bool
    is_recommended: bool
    strength: float | None
    one_se_strength: float | None
    val_data_loss: Estimate | None
    test_data_loss: Estimate | None
    test_accuracy: Estimate | None
    difference: Difference | None
    verdict: str
    curve: str
    zeros: float
    live_units: float
    units: float
    parameters: float
    compacted_parameters: float
    trials: int
    diverged: int
    stopped: int


@dataclass(frozen=True)
class ValidationRow:
    """One arm at one strength, on validation data.

    Attributes
    ----------
    arm, style, strength
        Which cell; ``strength`` is ``None`` for an arm without one.
    loss, accuracy
        Means and standard errors; accuracies are NaN for a regression.
    losses, accuracies
        Those of every complete trial.
    chosen, one_se, diverged, stopped, partial
        Whether it is the arm's choice or its 1-SE strength, whether a trial diverged or was stopped, and
        whether it was explored on a part of the seeds or folds.
    """

    arm: str
    style: int
    strength: float | None
    loss: Estimate
    accuracy: Estimate
    losses: Series
    accuracies: Series
    chosen: bool
    one_se: bool
    diverged: bool
    stopped: bool
    partial: bool


@dataclass(frozen=True)
class CurveRow:
    """One trial, epoch by epoch.

    Attributes
    ----------
    arm, style, strength, seed, fold, is_chosen
        Which trial; ``is_chosen`` says that its strength is the arm's choice.
    train_data_loss, val_data_loss, gap, penalty, train_accuracy, val_accuracy
        A number an epoch; NaN where nothing was measured. ``gap`` is validation - training data loss.
    """

    arm: str
    style: int
    strength: float | None
    seed: int
    fold: int
    is_chosen: bool
    train_data_loss: Series
    val_data_loss: Series
    gap: Series
    penalty: Series
    train_accuracy: Series
    val_accuracy: Series


@dataclass(frozen=True)
class NodeRow:
    """One call of a layer in the network, and what the recommended arm charges there, as text."""

    node: Node
    charged: tuple[str, ...]


@dataclass(frozen=True)
class LayerRow:
    """One layer with kernels in one arm, after training.

    Attributes
    ----------
    arm, style, layer
        Which layer of which arm.
    norm, zeros, units, live_units
        Of the kernels: norm, share of exact zeros; units that could go, and live ones (``None``: can't go).
    charge, share
        What the layer is charged, and its share of the whole penalty; NaN without a penalty.
    edges, counts
        Histogram of the entries.
    """

    arm: str
    style: int
    layer: str
    norm: float
    zeros: float
    units: int | None
    live_units: int | None
    charge: float
    share: float
    edges: Series
    counts: tuple[int, ...]


@dataclass(frozen=True)
class SizeRow:
    """Validation score against the size that compaction leaves, for one arm at one strength.

    ``score`` is an accuracy, or a data loss for a regression; both are means over trials.
    """

    arm: str
    style: int
    strength: float | None
    parameters: float
    score: float
    chosen: bool


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    arm: str
    strength: float | None
    seed: int
    fold: int
    state: str
    epochs: int
    train_data_loss: float
    val_data_loss: float
    val_accuracy: float
    penalty: float
    test_data_loss: float
    test_accuracy: float


@dataclass(frozen=True)
class OuterRow:
    """What nested resampling found without one part of the training rows; ``choice`` as it is named."""

    fold: int
    train: int
    test: int
    choice: str
    epochs: int | None
    data_loss: float
    accuracy: float


@dataclass(frozen=True)
class Facts:
    """Everything that the report shows of one run.

    Attributes
    ----------
    told
        The arms that are shown first: the baseline, and the recommended arm or the next best.
    charging
        The last of them with its strength, whose penalties ``network`` shows.
    seen
        The arms whose mistakes are known.
    epochs
        Of the longest training.
    searched, after
        How strengths were searched, and what came after the choice, in sentences.
    outer
        Nested resampling, part by part.
    """

    name: str
    directory: str
    classification: bool
    over: str
    folds: int | None
    seeds: int
    epochs: int
    verdict: Verdict
    told: tuple[str, ...]
    charging: str
    arms: tuple[ArmRow, ...]
    validation: tuple[ValidationRow, ...]
    curves: tuple[CurveRow, ...]
    network: tuple[NodeRow, ...]
    layers: tuple[LayerRow, ...]
    sizes: tuple[SizeRow, ...]
    trials: tuple[TrialRow, ...]
    seen: tuple[ArmEvidence, ...]
    data: DataFacts
    model: str
    optimizer: str
    loss: str
    study: str
    provenance: Provenance
    command: str
    searched: tuple[str, ...]
    after: tuple[str, ...]
    outer: tuple[OuterRow, ...]
