"""Results of a run that nobody trained: every figure is made up, every name can be chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tomli_w

from shrinkage.study.compare import summarise
from shrinkage.study.evidence import ArmEvidence, Charged, DataFacts, Evidence, LayerWeights, Mistake, Node
from shrinkage.study.final import Asked, Nested, Outer, Refit, Searched
from shrinkage.study.provenance import Provenance
from shrinkage.study.results import SIZES, Results
from shrinkage.study.stats import estimate
from shrinkage.study.summary import Summary

CLASSES = 4
PIXELS = 8
BINS = 41
SAMPLES = 24


@dataclass(frozen=True)
class Words:
    """Every text of a run that comes from outside: from a study file, a data set, a model or a machine."""

    arm: str = "arm"
    study: str = "invented"
    comment: str = "made up"
    data: str = "blots"
    label: str = "class"
    layer: str = "conv"
    kind: str = "Conv2D"
    penalty: str = "l2(0.01)"
    model: str = "shrinkage.models:cnn"
    optimizer: str = "adam"
    loss: str = "sparse_categorical_crossentropy"
    note: str = "All of this is made up."
    directory: str = "/tmp/run"
    machine: str = "abacus"
    version: str = "1.0"

    @classmethod
    def all(cls, text: str) -> Words:
        """Return the same text in every place."""
        return cls(**dict.fromkeys(cls.__dataclass_fields__, text))


def results(
    words: Words | None = None,
    *,
    arms: int = 2,
    strengths: int = 3,
    seeds: int = 2,
    epochs: int = 3,
    smaller: bool = True,
    failed: bool = False,
    resampled: bool = False,
) -> Results:
    """Return what a run would have stored.

    Parameters
    ----------
    words
        Its texts; by default harmless ones.
    arms, strengths, seeds, epochs
        How many: ``arms`` beside the baseline, which has one trial a seed.
    smaller
        Some weights are exactly zero, and compaction would leave less.
    failed
        One trial diverged, and the trials of one strength were stopped.
    resampled
        Strengths were searched, the best was trained again, and resampling was nested.
    """
    words = words or Words()
    rng = np.random.default_rng(0)
    names = {f"{words.arm} {i}": np.geomspace(1e-5, 1e-1, strengths) for i in range(1, arms + 1)}
    cells = [("none", math.nan), *((name, float(s)) for name, grid in names.items() for s in grid)]
    trials = [(arm, strength, seed) for arm, strength in cells for seed in range(seeds)]
    curves = pd.concat([_curve(*trial, epochs, rng) for trial in trials], ignore_index=True)
    frame = _frame(curves, smaller)
    if failed:
        frame.loc[len(frame) - 1, "state"] = "diverged"
        frame.loc[frame["strength"] == cells[1][1], "state"] = "stopped"
    summary = summarise(
        frame,
        curves,
        baseline="none",
        classification=True,
    )
    found = Results(
        directory=Path(words.directory),
        study=_study(words, names),
        summary=_noted(summary, words.note),
        evidence=_evidence(words, summary, rng),
        provenance=_provenance(words),
        frame=frame,
        **(_resampled(words, summary) if resampled else {}),
    )
    # In the place of what would be read from the directory.
    vars(found)["curves"] = curves
    vars(found)["pictures"] = {
        name: rng.integers(0, 256, (SAMPLES, PIXELS, PIXELS), dtype=np.uint8)
        for name in ("samples", "mistakes")
    }
    return found


# --- trials ---------------------------------------------------------------------------------------------


def _curve(arm: str, strength: float, seed: int, epochs: int, rng: np.random.Generator) -> pd.DataFrame:
    epoch = np.arange(1, epochs + 1)
    bent = 0.1 if math.isnan(strength) else 0.02 * abs(math.log10(strength) + 3)
    train = 0.2 + np.exp(-4 * epoch / epochs)
    val = train + bent * epoch / epochs + rng.normal(0, 0.01, epochs)
    return pd.DataFrame(
        {
            "arm": arm,
            "strength": strength,
            "seed": seed,
            "fold": -1,
            "epoch": epoch,
            "train_data_loss": train,
            "val_data_loss": val,
            "penalty": 0.0 if math.isnan(strength) else strength * rng.uniform(1, 2, epochs),
            "train_accuracy": 1 - train / 4,
            "val_accuracy": 1 - val / 4,
        }
    )


def _frame(curves: pd.DataFrame, smaller: bool) -> pd.DataFrame:
    frame = curves.groupby(
        ["arm", "strength", "seed", "fold"], dropna=False, sort=False, as_index=False
    ).last()
    frame = frame.rename(columns={"epoch": "epochs"})
    frame["state"] = "complete"
    frame["test_data_loss"], frame["test_accuracy"] = frame["val_data_loss"], frame["val_accuracy"]
    zeros = frame["strength"].fillna(0.0) ** 0.25 if smaller else 0.0 * frame["seed"]
    frame["zeros"], frame["units"], frame["parameters"] = zeros, 100.0, 1000.0
    frame["live_units"] = (100 * (1 - zeros)).round()
    frame["compacted_parameters"] = (1000 * (1 - zeros)).round()
    frame["key"] = [f"trial-{i}" for i in range(len(frame))]
    assert set(SIZES) <= set(frame)
    return frame


def _noted(summary: Summary, note: str) -> Summary:
    """Add a note wherever a summary has sentences, since names stand in them."""
    arms = tuple(
        replace(
            arm,
            edge_note=note,
            notes=(*arm.notes, note),
            diagnosis=arm.diagnosis and replace(arm.diagnosis, sentence=note, next_step=note),
        )
        for arm in summary.arms
    )
    return replace(summary, arms=arms, notes=(*summary.notes, note))


def _study(words: Words, names: dict[str, Any]) -> str:
    arms = [{"name": name, "strengths": grid.tolist()} for name, grid in names.items()]
    comment = "".join(c if c.isprintable() else " " for c in words.comment)  # no other may be in one
    return f"# {comment}\n{tomli_w.dumps({'name': words.study, 'data': words.data, 'arms': arms})}"


def _resampled(words: Words, summary: Summary) -> dict[str, Any]:
    best = summary.recommended
    assert best is not None
    refit = Refit(best.arm, best.strength, 0, 100, 7, False, 0.3, 0.9)
    other = replace(refit, arm=f"{words.arm} 1", strength=1e-5, rows=66, test_data_loss=0.4)
    outer = (Outer(0, 66, 34, refit), Outer(1, 67, 33, other), Outer(2, 67, 33, None))
    return {
        "search": Searched(
            "auto", (Asked(words.note, 5), Asked("a closer look", 3)), 8, 900, f"{words.note}."
        ),
        "refit": refit,
        "nested": Nested(outer, estimate([0.3, 0.4]), estimate([0.9, 0.9])),
    }


# --- what was looked at ---------------------------------------------------------------------------------


def _evidence(words: Words, summary: Summary, rng: np.random.Generator) -> Evidence:
    layers = [f"{words.layer}_{i}" for i in range(3)]
    nodes = [
        Node(f"{words.layer}_input", "Input", (PIXELS, PIXELS, 1), 0, ()),
        *(Node(layer, words.kind, (8, None), 100, (i,)) for i, layer in enumerate(layers)),
        Node(f"{words.layer}_sum", "Add", (8, None), 0, (1, 3)),
    ]
    best = summary.recommended
    shown = {"none", best.arm if best else "none"}
    return Evidence(
        model=words.model,
        optimizer=words.optimizer,
        loss=words.loss,
        data=DataFacts(
            name=words.data,
            shape=(PIXELS, PIXELS, 1),
            dtype="uint8",
            classes=tuple(f"{words.label} {i}" for i in range(CLASSES)),
            train=80,
            validation=20,
            test=40,
            counts=(25,) * CLASSES,
            samples=tuple(i % CLASSES for i in range(SAMPLES)),
        ),
        network=tuple(nodes),
        arms=tuple(
            ArmEvidence(
                arm=arm.arm,
                strength=arm.selection.strength,
                seed=0,
                fold=-1,
                recipe=(f"{words.layer}: kernel = {words.penalty}",) if not arm.is_baseline else (),
                charged=tuple(
                    Charged(layer, "kernel", words.penalty, 0.1, 1 / len(layers))
                    for layer in ([] if arm.is_baseline else layers)
                ),
                layers=tuple(_layer(layer, rng) for layer in layers),
                confusion=_confusion(rng) if arm.arm in shown else (),
                mistakes=tuple(
                    Mistake(i, i % CLASSES, (i + 1) % CLASSES, 0.9, i)
                    for i in range(8 if arm.arm in shown else 0)
                ),
            )
            for arm in summary.arms
            if arm.selection.chosen
        ),
    )


def _layer(layer: str, rng: np.random.Generator) -> LayerWeights:
    counts = rng.integers(1, 100, BINS)
    return LayerWeights(
        layer=layer,
        weights=int(counts.sum()),
        zeros=int(counts[BINS // 2] // 2),
        norm=1.0,
        units=8,
        live_units=6,
        edges=tuple(np.linspace(-1, 1, BINS + 1).tolist()),
        counts=tuple(counts.tolist()),
    )


def _confusion(rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    rows: Iterator[list[int]] = (rng.integers(0, 3, CLASSES).tolist() for _ in range(CLASSES))
    return tuple(tuple(n + 5 * (i == j) for j, n in enumerate(row)) for i, row in enumerate(rows))


def _provenance(words: Words) -> Provenance:
    return Provenance(
        versions={"Python": words.version, "keras": words.version},
        backend="jax",
        devices=words.machine,
        system=words.machine,
        processor=words.machine,
        processors=2,
        memory=4.0,
        begun="2026-01-01T00:00:00+00:00",
        seconds=12.0,
    )
