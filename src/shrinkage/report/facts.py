"""What the report shows, as typed tables: computed here from what a run stored, and only drawn elsewhere.

Losses are data losses in the unit of the loss; accuracies and shares are fractions.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from shrinkage.report.paste import Paste, paste
from shrinkage.report.style import arm_styles
from shrinkage.study.complaint import concealed
from shrinkage.study.evidence import ArmEvidence, DataFacts, Node
from shrinkage.study.provenance import Provenance
from shrinkage.study.results import Results
from shrinkage.study.stats import Estimate
from shrinkage.study.summary import ArmSummary, Difference, Summary
from shrinkage.study.words import at_strength, count, duration, percent

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
        The baseline's name where test data does not show that the recommended arm is better; else empty.
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
        From the baseline on test data, of the headline measure; ``None`` where it was not taken.
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
    chosen, one_se, diverged, stopped
        Whether it is the arm's choice or its 1-SE strength, and whether a trial diverged or was stopped.
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
    name, directory, classification, over, folds, seeds, epochs, verdict, arms, validation, curves, network, \
    layers, sizes, trials, data, model, optimizer, loss, study, provenance, command
        As their types say; ``epochs`` is the longest training's.
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


def facts(results: Results) -> Facts:
    """Compute the tables of one run.

    Parameters
    ----------
    results
        What the run stored.

    Returns
    -------
    Facts
        Plain records; nothing in them is escaped or rounded.
    """
    summary, evidence = results.summary, results.evidence
    styles = {arm: i for i, arm in enumerate(_ordered(summary))}
    curves = tuple(_curves(results, styles))
    told = _told(summary)
    rows = tuple(_arm(arm, summary, results.frame, styles) for arm in summary.arms)
    return Facts(
        name=results.name,
        directory=str(results.directory),
        classification=summary.classification,
        over=summary.over,
        folds=summary.folds,
        seeds=summary.seeds,
        epochs=max((len(curve.val_data_loss) for curve in curves), default=0),
        verdict=_verdict(results, rows),
        told=told,
        charging=at_strength(told[-1], summary.arm(told[-1]).selection.strength),
        arms=rows,
        validation=tuple(_validation(summary, results.frame, styles)),
        curves=curves,
        network=tuple(_network(results, told[-1])),
        layers=tuple(_layers(results, styles)),
        sizes=tuple(_sizes(summary, results.frame, styles)),
        trials=tuple(_trials(results.frame)),
        seen=tuple(arm for arm in evidence.arms if arm.confusion),
        data=evidence.data,
        model=evidence.model,
        optimizer=evidence.optimizer,
        loss=evidence.loss,
        study=_shareable(results),
        provenance=results.provenance,
        command=_command(results),
    )


def _shareable(results: Results) -> str:
    """Return ``study.toml`` as it was run, but for a password in the storage's URL: a report is passed on."""
    url = results.fields.get("storage")
    if url is None or concealed(url) == url:
        return results.study
    return tomli_w.dumps({**results.fields, "storage": concealed(url)})


def _ordered(summary: Summary) -> list[str]:
    """Return the arms, the baseline first: it has colour 0 whether or not there is one."""
    others = [arm for arm in arm_styles(summary) if arm != summary.baseline]
    return [summary.baseline or "", *others]


# --- the answer -----------------------------------------------------------------------------------------


def _verdict(results: Results, rows: Sequence[ArmRow]) -> Verdict:
    summary, best = results.summary, results.summary.recommended
    evidence = results.evidence.arm(best.arm if best else None)
    headline = list(summary.headline)
    title = headline[-1].removeprefix("So: ")
    sentence = headline[1] if len(headline) > 2 else headline[0] if len(headline) > 1 else ""
    steps = [arm.edge_note or "" for arm in summary.arms]
    if best is not None:
        arm = summary.arm(best.arm)
        steps.append(arm.diagnosis.next_step if arm.diagnosis else "")
        found = arm.accuracy if summary.classification else arm.data_loss
        if found is not None and found.verdict == "no difference":
            steps.append(f"Run more than {found.test.n} {found.over} to find a smaller difference.")
    return Verdict(
        title=title[:1].upper() + title[1:],
        sentence=sentence,
        recommended=at_strength(best.arm, best.strength) if best else "",
        enough=_enough(summary),
        cost=_cost(results, next((row for row in rows if row.is_recommended), None)),
        paste=paste(evidence, results.evidence.node, _rate(results, evidence.arm)) if evidence else None,
        next_steps=tuple(step for step in dict.fromkeys(steps) if step),
        notes=summary.notes,
    )


def _command(results: Results) -> str:
    """Return what makes the run again from its own study file, wherever that lies now."""
    own = [str(results.fields.get(key, "")) for key in ("model", "data")]
    code = " --allow-code" if any(":" in name and not name.startswith("shrinkage.") for name in own) else ""
    study = shlex.quote(str(results.directory / "study.toml"))
    return f"KERAS_BACKEND={results.provenance.backend} shrinkage run {study} -o NEW_DIRECTORY{code}"


def _enough(summary: Summary) -> str:
    """Return the baseline's name where it was tested against the recommended arm and lost nothing by it."""
    best, baseline = summary.recommended, summary.baseline
    if best is None or baseline is None or best.is_baseline:
        return ""
    arm = summary.arm(best.arm)
    verdicts = {found.verdict for found in (arm.accuracy, arm.data_loss) if found is not None}
    return baseline if verdicts and verdicts <= {"no difference", "worse"} else ""


def _told(summary: Summary) -> tuple[str, ...]:
    """Return the baseline, and the arm that was best on validation data but for it."""
    others = [arm for arm in summary.arms if not arm.is_baseline and arm.selection.chosen is not None]
    best = min(others, key=_loss, default=None)
    told = [arm.arm for arm in summary.arms if arm.is_baseline] + ([best.arm] if best else [])
    return tuple(told) or (summary.arms[0].arm,)


def _loss(arm: ArmSummary) -> float:
    return arm.selection.chosen.val_data_loss.mean if arm.selection.chosen else math.inf


def _rate(results: Results, arm: str) -> float | None:
    """Return an arm's own learning rate, if it has one."""
    return next(
        (each.get("learning_rate") for each in results.fields.get("arms", ()) if each["name"] == arm), None
    )


def _cost(results: Results, best: ArmRow | None) -> str:
    """Say how much was trained, and where something can be left out of the model, how much of it is left."""
    made = results.provenance
    trainings, processors = count(len(results.frame), "trainings"), count(made.processors, "processors")
    text = f"{trainings} took {duration(made.seconds)} on {processors}"
    if best is None or not best.compacted_parameters < best.parameters:
        return f"{text}."
    left = best.compacted_parameters / best.parameters
    return (
        f"{text}; shrinkage compact would leave {best.compacted_parameters:,.0f} of the model's "
        f"{best.parameters:,.0f} parameters ({percent(left)})."
    )


def _arm(arm: ArmSummary, summary: Summary, frame: pd.DataFrame, styles: Mapping[str, int]) -> ArmRow:
    chosen, best = arm.selection.chosen, summary.recommended
    rows = _cell(frame, arm.arm, arm.selection.strength) if chosen else frame[:0]
    size = {name: _mean(rows, name) for name in ("zeros", "live_units", "units", "parameters")}
    return ArmRow(
        arm=arm.arm,
        style=styles[arm.arm],
        is_baseline=arm.is_baseline,
        is_recommended=best is not None and best.arm == arm.arm,
        strength=arm.selection.strength,
        one_se_strength=arm.selection.one_se_strength,
        val_data_loss=chosen.val_data_loss if chosen else None,
        test_data_loss=chosen.test_data_loss if chosen else None,
        test_accuracy=chosen.test_accuracy if chosen and summary.classification else None,
        difference=arm.accuracy if summary.classification else arm.data_loss,
        verdict=arm.verdict,
        curve=arm.diagnosis.status if arm.diagnosis else "",
        compacted_parameters=_mean(rows, "compacted_parameters"),
        trials=arm.trials,
        diverged=arm.diverged,
        stopped=sum(cell.stopped for cell in arm.cells),
        **size,
    )


def _cell(frame: pd.DataFrame, arm: str, strength: float | None) -> pd.DataFrame:
    same = frame["strength"].isna() if strength is None else frame["strength"] == strength
    return frame[(frame["arm"] == arm) & same & (frame["state"] == "complete")]


def _mean(rows: pd.DataFrame, column: str) -> float:
    values = rows[column].to_numpy(np.float64, na_value=math.nan)
    return float(values.mean()) if len(values) else math.nan


# --- trials ---------------------------------------------------------------------------------------------


def _validation(summary: Summary, frame: pd.DataFrame, styles: Mapping[str, int]) -> Iterator[ValidationRow]:
    for arm in summary.arms:
        chosen, one_se = arm.selection.chosen, arm.selection.one_se
        for cell in arm.cells:
            rows = _cell(frame, arm.arm, cell.strength)
            yield ValidationRow(
                arm=arm.arm,
                style=styles[arm.arm],
                strength=cell.strength,
                loss=cell.val_data_loss,
                accuracy=cell.val_accuracy,
                losses=tuple(rows["val_data_loss"].to_list()),
                accuracies=tuple(rows["val_accuracy"].to_list()),
                chosen=chosen is not None and chosen.strength == cell.strength,
                one_se=one_se is not None and one_se.strength == cell.strength,
                diverged=cell.diverged > 0,
                stopped=cell.stopped > 0,
            )


def _curves(results: Results, styles: Mapping[str, int]) -> Iterator[CurveRow]:
    curves = results.curves
    if curves.empty:
        return
    chosen = {arm.arm: arm.selection for arm in results.summary.arms}
    by_trial: Any = curves.groupby(["arm", "strength", "seed", "fold"], dropna=False, sort=False)
    for (arm, strength, seed, fold), rows in by_trial:
        at = None if math.isnan(strength) else float(strength)
        column = {
            name: rows[name].to_numpy(np.float64) if name in rows else np.full(len(rows), math.nan)
            for name in ("train_data_loss", "val_data_loss", "penalty", "train_accuracy", "val_accuracy")
        }
        gap = column["val_data_loss"] - column["train_data_loss"]
        choice = chosen[arm]
        yield CurveRow(
            arm=arm,
            style=styles[arm],
            strength=at,
            seed=int(seed),
            fold=int(fold),
            is_chosen=choice.chosen is not None and choice.strength == at,
            gap=tuple(gap.tolist()),
            **{name: tuple(values.tolist()) for name, values in column.items()},
        )


def _trials(frame: pd.DataFrame) -> Iterator[TrialRow]:
    for row in frame.to_dict("records"):
        yield TrialRow(
            arm=row["arm"],
            strength=None if math.isnan(row["strength"]) else row["strength"],
            seed=int(row["seed"]),
            fold=int(row["fold"]),
            state=row["state"],
            epochs=int(row["epochs"]),
            **{name: float(row[name]) for name in TrialRow.__dataclass_fields__ if name in _SCORES},
        )


_SCORES = (
    "train_data_loss",
    "val_data_loss",
    "val_accuracy",
    "penalty",
    "test_data_loss",
    "test_accuracy",
)


# --- models ---------------------------------------------------------------------------------------------


def _network(results: Results, arm: str) -> Iterator[NodeRow]:
    seen = results.evidence.arm(arm)
    charged: dict[str, list[str]] = {}
    for place in seen.charged if seen else ():
        node = results.evidence.node(place.layer)
        charged.setdefault(node.path if node else place.layer, []).append(f"{place.target}: {place.penalty}")
    for node in results.evidence.network:
        yield NodeRow(node, tuple(charged.get(node.path, ())))


def _layers(results: Results, styles: Mapping[str, int]) -> Iterator[LayerRow]:
    for arm in results.evidence.arms:
        for layer in arm.layers:
            places = [place for place in arm.charged if place.layer == layer.layer]
            yield LayerRow(
                arm=arm.arm,
                style=styles[arm.arm],
                layer=layer.layer,
                norm=layer.norm,
                zeros=layer.zeros / layer.weights if layer.weights else 0.0,
                units=layer.units,
                live_units=layer.live_units,
                charge=sum(place.charge for place in places) if places else math.nan,
                share=sum(place.share for place in places) if places else math.nan,
                edges=layer.edges,
                counts=layer.counts,
            )


def _sizes(summary: Summary, frame: pd.DataFrame, styles: Mapping[str, int]) -> Iterator[SizeRow]:
    """Yield sizes where compaction would leave less of a model than there is, of any trial."""
    if not (frame["compacted_parameters"] < frame["parameters"]).any():
        return
    for arm in summary.arms:
        for cell in arm.cells:
            parameters = _mean(_cell(frame, arm.arm, cell.strength), "compacted_parameters")
            score = cell.val_accuracy if summary.classification else cell.val_data_loss
            if cell.eligible and math.isfinite(parameters):
                chosen = arm.selection.strength == cell.strength and arm.selection.chosen is not None
                yield SizeRow(arm.arm, styles[arm.arm], cell.strength, parameters, score.mean, chosen)
