"""What the report shows, as typed tables: computed here from what a run stored, and only drawn elsewhere."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from shrinkage.report.after import after, before
from shrinkage.report.paste import paste
from shrinkage.report.rows import (
    ArmRow,
    CurveRow,
    Facts,
    LayerRow,
    NodeRow,
    OuterRow,
    SizeRow,
    TrialRow,
    ValidationRow,
    Verdict,
)
from shrinkage.report.style import arm_styles
from shrinkage.study.complaint import concealed
from shrinkage.study.final import Nested
from shrinkage.study.results import Results
from shrinkage.study.selection import on_units
from shrinkage.study.summary import ArmSummary, Summary
from shrinkage.study.words import at_strength, count, duration, percent, settle


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
    summary, evidence, own = results.summary, results.evidence, results.decisive
    styles = {arm: i for i, arm in enumerate(_ordered(summary))}
    curves = tuple(_curves(results, styles))
    told = _told(summary)
    rows = tuple(_arm(arm, summary, own.frame, styles) for arm in summary.arms)
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
        validation=tuple(_validation(summary, own.frame, styles)),
        curves=curves,
        network=tuple(_network(results, told[-1])),
        layers=tuple(_layers(results, styles)),
        sizes=tuple(_sizes(summary, own.frame, styles)),
        trials=tuple(_trials(results.frame)),
        seen=tuple(arm for arm in evidence.arms if arm.confusion),
        data=evidence.data,
        model=evidence.model,
        optimizer=evidence.optimizer,
        loss=evidence.loss,
        study=_shareable(results),
        provenance=results.provenance,
        command=_command(results),
        searched=tuple(said.words for said in before(results.search)),
        after=tuple(said.words for said in after(results.refit, results.nested)),
        outer=tuple(_outer(results.nested)) if results.nested else (),
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
            more = settle(found)
            rest = f"Run more than {found.test.n} {found.over} to find a smaller difference"
            steps.append(f"{more[:1].upper()}{more[1:]}." if more else f"{rest}.")
    return Verdict(
        title=title[:1].upper() + title[1:],
        sentence=sentence,
        recommended=at_strength(best.arm, best.strength) if best else "",
        enough=_enough(summary),
        cost=_cost(results, next((row for row in rows if row.is_recommended), None)),
        paste=paste(evidence, results.evidence.node, _own(results, evidence.arm)) if evidence else None,
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
    return baseline if verdicts and verdicts <= {"no difference", "equivalent", "worse"} else ""


def _told(summary: Summary) -> tuple[str, ...]:
    """Return the baseline, and the arm that was best on validation data but for it."""
    others = [arm for arm in summary.arms if not arm.is_baseline and arm.selection.chosen is not None]
    best = min(others, key=_loss, default=None)
    told = [arm.arm for arm in summary.arms if arm.is_baseline] + ([best.arm] if best else [])
    return tuple(told) or (summary.arms[0].arm,)


def _loss(arm: ArmSummary) -> float:
    return arm.selection.chosen.val_data_loss.mean if arm.selection.chosen else math.inf


def _own(results: Results, arm: str) -> dict[str, Any]:
    """Return what the study file says of an arm besides its recipe: learning rate and options."""
    said: dict[str, Any] = next((each for each in results.fields.get("arms", ()) if each["name"] == arm), {})
    return {key: said[key] for key in ("learning_rate", "model_options", "training") if key in said}


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
                partial=cell.partial,
            )


def _curves(results: Results, styles: Mapping[str, int]) -> Iterator[CurveRow]:
    curves = on_units(results.curves, results.summary.units)
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


def _outer(nested: Nested) -> Iterator[OuterRow]:
    for outer in nested.outer:
        found = outer.refit
        yield OuterRow(
            fold=outer.fold,
            train=outer.train,
            test=outer.test,
            choice="" if found is None else at_strength(found.arm, found.strength),
            epochs=None if found is None else found.epochs,
            data_loss=math.nan if found is None else found.test_data_loss,
            accuracy=math.nan if found is None else found.test_accuracy,
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
