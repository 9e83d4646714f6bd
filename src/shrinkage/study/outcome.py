"""How a run ends: the comparison of its arms, what else is to be seen, and the best model."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from shrinkage.errors import ShrinkageWarning
from shrinkage.recipe import Recipe, apply, strip
from shrinkage.study import examine, notes
from shrinkage.study.compare import summarise
from shrinkage.study.design import Trial
from shrinkage.study.directory import RunDirectory
from shrinkage.study.evidence import Evidence
from shrinkage.study.files import save_model, write_json
from shrinkage.study.final import Searched
from shrinkage.study.records import as_json
from shrinkage.study.refit import Refitted, epochs_of, refit
from shrinkage.study.resampling import Resampling
from shrinkage.study.results import frame
from shrinkage.study.spec import StudySpec
from shrinkage.study.summary import Summary
from shrinkage.training.constraints import constrain
from shrinkage.training.initial import with_fresh_names
from shrinkage.training.keras_loop import make_optimizer
from shrinkage.training.objective import best_guess
from shrinkage.training.task import Split

if TYPE_CHECKING:
    from shrinkage.study.runner import Bench
    from shrinkage.study.waves import Search


MARGIN = 0.002  # of accuracy: 0.2 points, the difference that does not matter where a study sets no other

Weights = Callable[[Trial], Sequence[NDArray[Any]]]


def conclude(
    bench: Bench,
    directory: RunDirectory,
    finished: Mapping[str, Any],
    explored: Mapping[str, Any],
    scores: Mapping[str, Any],
    search: Search,
    say: Callable[[str], None],
) -> Summary:
    """Compare the arms, look at the trials that stand for them, and write it all; ``summary.json`` last.

    Parameters
    ----------
    bench, directory
        The study, and where it is run.
    finished, explored, scores
        By key: the trials that choose, those that said where to look, and what the reported ones scored on
        test data.
    search
        What was asked for, and what each trial was trained to.
    say
        Told, in a line, that the recommended arm is trained again.
    """
    summary, weights = _compare(bench, directory, finished, explored, scores), search.weights
    best = {
        arm.arm: _representative(bench, finished, arm.arm, arm.selection.strength)
        for arm in summary.arms
        if arm.selection.chosen is not None
    }
    won = best[summary.recommended.arm] if summary.recommended is not None else None
    again = _refit(bench, directory, finished, won, say) if won is not None and bench.spec.refits else None
    found = None if bench.spec.is_settled else search.record()
    said = _said(bench, summary, found, search.log.cut, best, again)
    summary = replace(summary, notes=(*summary.notes, *said))
    told = {**summary.to_json(), **({} if found is None else {"search": as_json(found)})}
    if again is not None:
        told["refit"] = as_json(again.record)
    if again is not None and again.weights is not None:
        _save_best(bench, directory, again.trial, again.weights)
    elif won is not None:
        _save_best(bench, directory, won, weights(won))
    write_json(directory.summary, told)  # whatever a user's layer does when it is looked at
    evidence = _look(bench, directory, summary, best, weights)
    write_json(directory.summary, {**told, "evidence": evidence.to_json()})
    return summary


def _said(
    bench: Bench,
    summary: Summary,
    search: Searched | None,
    cut: bool,
    best: Mapping[str, Trial],
    again: Refitted | None,
) -> Iterator[str]:
    """Yield what a reader must know of the run besides what its trials say; ``cut``: a budget ended it."""
    yield from bench.groups.remarks
    if bench.spec.initial == "saved":
        yield notes.SEEN
    if bench.spec.strategy == "path":
        yield notes.PATH
    if cut:
        waves = () if search is None else search.waves
        explored = bench.spec.explores and not any("closer" in wave.why for wave in waves)
        yield from notes.cut_note(summary.units, bench.space.choosing, summary.over, explored)
    if search is not None:
        yield from notes.search_notes(search)
    for arm, trial in best.items():
        if trial.ratios:
            yield notes.rules_note(arm, _recipe(bench, trial).to_list())
    if again is not None:
        yield from notes.refit_note(
            again.record, summary.arm(again.record.arm).selection.chosen, len(bench.data.x_test)
        )


def _refit(
    bench: Bench,
    directory: RunDirectory,
    finished: Mapping[str, Any],
    trial: Trial,
    say: Callable[[str], None],
) -> Refitted:
    epochs = epochs_of(finished, [t for t in bench.trials if t.cell == trial.cell])
    return refit(bench, directory, trial.arm, trial.strength, epochs, say, trial.ratios)


def _compare(
    bench: Bench,
    directory: RunDirectory,
    finished: Mapping[str, Any],
    explored: Mapping[str, Any],
    scores: Mapping[str, Any],
) -> Summary:
    spec = bench.spec
    names = [arm.name for arm in spec.all_arms]
    table = frame(names, finished, scores)
    classification = bench.objective.classification
    return summarise(
        table.drop(columns="key"),
        directory.curves(list(table["key"])),
        baseline=spec.baseline.name if spec.baseline.name in set(table["arm"]) else None,
        classification=classification,
        resampling=_resampling(spec, bench.loop.task.splits, table["fold"].nunique()),
        margin=MARGIN if spec.margin is None and classification else spec.margin,
        early_stopping={
            arm.name
            for arm in spec.all_arms
            if arm.training.over(spec.training, 0.0).early_stopping is not None
        },
        guess=best_guess(bench.objective.loss, bench.loop.task.y[bench.loop.task.splits[0].validation]),
        searched=not spec.is_settled,
        explored=frame(names, explored, {}),
    )


def _resampling(spec: StudySpec, splits: Sequence[Split], scored: int) -> Resampling | None:
    """Return how the data were split; ``scored``: the number of splits whose trials are compared."""
    if spec.split_count == 1:
        return None
    validation, train = (sum(len(getattr(s, side)) for s in splits) for side in ("validation", "train"))
    if spec.folds:
        return Resampling(spec.folds, validation / train, spec.repeats)
    return Resampling(scored, validation / train, over="splits")


def _representative(bench: Bench, finished: Mapping[str, Any], arm: str, strength: float | None) -> Trial:
    """Return the trial of a cell with the lowest validation data loss."""
    trials = [t for t in bench.trials if t.cell == (arm, strength)]
    return min(trials, key=lambda t: (finished[t.key]["val_data_loss"], t.key))


def _recipe(bench: Bench, trial: Trial) -> Recipe:
    recipe = bench.task_of(*trial.cell).recipes[trial.arm]
    return recipe if trial.strength is None else recipe.at(trial.strength, trial.ratios)


def _model(bench: Bench, trial: Trial) -> Any:
    """Return a model of a trial's own architecture, without penalties."""
    model = with_fresh_names(bench.build_of(*trial.cell))
    strip(model)
    return model


def _look(
    bench: Bench, directory: RunDirectory, summary: Summary, best: Mapping[str, Trial], weights: Weights
) -> Evidence:
    """Return what is to be seen in these trials, and store the pictures."""
    told = {summary.baseline, summary.recommended.arm if summary.recommended else None}
    shown = []
    for arm, trial in best.items():
        wrong = bench.objective.classification and arm in told
        options = bench.spec.arm(arm).described()
        model = _model(bench, trial)
        shown.append(examine.Shown(trial, _recipe(bench, trial), weights(trial), wrong, options, model))
    model = with_fresh_names(bench.source.build)
    strip(model)
    network = examine.network(model)
    arms, mistakes = examine.arms(model, bench.data, shown)
    facts, samples = examine.data_facts(bench.data, bench.loop.task.splits[0])
    directory.write_pictures({"samples": samples, "mistakes": mistakes})
    loss = bench.objective.loss
    return Evidence(
        model=bench.spec.portable(directory.path).model,
        optimizer=bench.spec.training.optimizer,
        loss=loss if isinstance(loss, str) else getattr(loss, "name", type(loss).__name__),
        data=facts,
        network=network,
        arms=tuple(arms),
    )


def _save_best(bench: Bench, directory: RunDirectory, trial: Trial, weights: Sequence[NDArray[Any]]) -> None:
    """Write ``models/best.keras``: a trial's model, with its penalties and compiled as it was trained."""
    model, task = _model(bench, trial), bench.task_of(*trial.cell)
    apply(model, _recipe(bench, trial))
    constrain(model, task.max_norm)
    model.set_weights(list(weights))
    optimizer = make_optimizer(task.optimizer, task.rate(trial.arm), task.weight_decay)
    model.compile(optimizer=optimizer, loss=task.objective.loss, metrics=list(task.objective.metrics))
    model.optimizer.build(model.trainable_variables)  # or loading it would warn
    try:
        save_model(model, directory.models / "best.keras")
    except OSError:  # a full disk ends a run, and it can go on later
        raise
    except Exception as error:  # whatever a user's layer raises; the answer does not depend on it
        reason = str(error).strip().partition("\n")[0]
        kept = f"{'' if trial in bench.trials else f'refit/{trial.key}/'}models/{trial.key}.npz"
        warnings.warn(
            f"models/best.keras is not written, for Keras can't save this model: {reason} Its weights are in "
            f"{kept}, in the order of set_weights.",
            ShrinkageWarning,
            stacklevel=2,
        )
