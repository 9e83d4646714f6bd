"""Nested resampling: what the whole procedure, its choice included, gives on rows that had no part in it.

The lowest of several validation losses is too good a figure for the one that was chosen by it, and the test
data are few. So the training rows are cut into parts, and for each part the same study is run on all others:
it chooses, trains what it chose on all that it sees, and is scored on the part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shrinkage.data import Data
from shrinkage.study.directory import RunDirectory
from shrinkage.study.files import write_json
from shrinkage.study.final import Nested, Outer, Refit
from shrinkage.study.records import as_json
from shrinkage.study.spec import StudySpec
from shrinkage.study.stats import estimate
from shrinkage.study.words import at_strength
from shrinkage.training.saved import load_model
from shrinkage.training.task import Split

if TYPE_CHECKING:
    from shrinkage.study.observers import Observer
    from shrinkage.study.study import Study

#: What an outer part does not take from the study: it has data of its own, and is nested no further.
_OWN = {"name", "data", "label", "groups", "model", "model_options", "nested", "refit"}


def names(spec: StudySpec) -> list[str]:
    """Return the names of the studies of the outer parts, which a storage that is shared keeps apart."""
    return [f"{spec.name} (outer fold {fold})" for fold in range(spec.nested or 0)]


def run_nested(
    study: Study,
    data: Data,
    parts: Sequence[Split],
    directory: RunDirectory,
    allow_code: bool,
    observer: Observer,
) -> Nested:
    """Run a study once for each outer part, and add what that gives to its ``summary.json``.

    Each of them is a run of its own in ``nested/fold-I``, with its data, and goes on where it was stopped.

    Parameters
    ----------
    study
        As it was run in ``directory``, and has ended there.
    data
        Its data; the test rows have no part in this.
    parts
        The outer ones; see :func:`shrinkage.study.splits.outer_splits`.
    directory
        Where the caller holds the lock.
    allow_code
        Whether the study may run code of a user's.
    observer
        Told of each part, in a line.
    """
    spec, outer = study.spec, []
    for fold, split in enumerate(parts):
        observer.say(f"Nested: the study without part {fold + 1} of {spec.nested}, on which it is scored.")
        place = RunDirectory(directory.path / "nested" / f"fold-{fold}")
        inner = type(study)(_model(spec, directory), part(data, split), **_fields(spec, fold, directory))
        inner.run(place.path, allow_code=allow_code)
        found = Outer(fold, len(split.train), len(split.validation), Refit.of(place.read_json(place.summary)))
        observer.say(f"Nested: {_chosen(found.refit)}.")
        outer.append(found)
    scored = [found.refit for found in outer if found.refit is not None]
    nested = Nested(
        outer=tuple(outer),
        data_loss=estimate([refit.test_data_loss for refit in scored]),  # of a diverged one it is NaN
        accuracy=estimate([refit.test_accuracy for refit in scored]),
    )
    write_json(directory.summary, {**directory.read_json(directory.summary), "nested": as_json(nested)})
    return nested


def part(data: Data, split: Split) -> Data:
    """Return the training rows of a data set, cut into training and test data."""
    x, y, train, test = data.x_train, data.y_train, split.train, split.validation
    # A part may lack a class, and has as many all the same.
    labels = data.labels or tuple(map(str, range(data.classes)))
    groups = None if data.groups is None else data.groups[train]
    return Data(data.name, x[train], y[train], x[test], y[test], labels, groups)


def _model(spec: StudySpec, directory: RunDirectory) -> Any:
    """Return the model, or its reference; one that lies in the run directory moves with it."""
    return load_model(spec.model) if Path(spec.model).is_relative_to(directory.path) else spec.model


def _fields(spec: StudySpec, fold: int, directory: RunDirectory) -> dict[str, Any]:
    fields = spec.model_dump(mode="json", exclude_none=True, exclude=_OWN)
    if not Path(spec.model).is_relative_to(directory.path):
        fields["model_options"] = spec.model_options
    return {**fields, "name": names(spec)[fold], "refit": True}


def _chosen(refit: Refit | None) -> str:
    if refit is None:
        return "nothing could be chosen, for every arm diverged"
    return f"{at_strength(refit.arm, refit.strength)} was chosen"
