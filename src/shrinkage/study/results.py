"""What a run has stored, read back: everything that a report needs, without Keras."""

from __future__ import annotations

import shlex
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from shrinkage.errors import RunError
from shrinkage.study.arm import BASELINE
from shrinkage.study.directory import RunDirectory
from shrinkage.study.evidence import Evidence
from shrinkage.study.final import Nested, Refit, Searched
from shrinkage.study.provenance import Provenance
from shrinkage.study.selection import on_units
from shrinkage.study.storage import TrialStore
from shrinkage.study.summary import Summary

#: What a frame says of the size of a trial's model, in order.
SIZES = ("zeros", "units", "live_units", "parameters", "compacted_parameters")

_TRIAL = ("arm", "strength", "seed", "fold", "state", "epochs")
_SCORES = ("train_data_loss", "val_data_loss", "penalty", "train_accuracy", "val_accuracy")
_TEST = ("test_data_loss", "test_accuracy")


def frame(
    arms: Sequence[str], finished: Mapping[str, Mapping[str, Any]], scores: Mapping[str, Mapping[str, float]]
) -> pd.DataFrame:
    """Return the tidy table: one row a finished trial, sorted by arm, strength, seed and fold.

    Of a trial that was stopped at a rung and later trained to the end, there is the latter alone.

    Parameters
    ----------
    arms
        Their names, in order.
    finished
        The trials by key, as `TrialStore.finished` gives them.
    scores
        What they scored on the test split, by key.
    """
    columns = [*_TRIAL, *_SCORES, *_TEST, *SIZES]
    rows = [
        {**dict.fromkeys(columns), **row, **scores.get(key, {}), "key": key} for key, row in finished.items()
    ]
    table = pd.DataFrame(rows, columns=None if rows else [*columns, "key"])
    texts, whole = ("arm", "state", "key"), ("seed", "fold", "epochs")
    types = {c: "str" if c in texts else "int64" if c in whole else "float64" for c in table.columns}
    table = table.astype(types).astype(dict.fromkeys(SIZES[1:], "Int64"))  # counts that may be missing
    # A strength that was stopped and came to be asked for again is the trial that was trained to the end.
    table = table.sort_values("state", key=lambda state: state.eq("stopped"), kind="stable")
    table = table.drop_duplicates(list(_TRIAL[:4]))
    table["place"] = table["arm"].map({arm: i for i, arm in enumerate(arms)})
    table = table.sort_values(["place", "strength", "seed", "fold"], ignore_index=True)
    return table.drop(columns="place")


def stored_trials(directory: str | Path) -> pd.DataFrame:
    """Return the trials that a run has finished so far, whether it has ended or not.

    Parameters
    ----------
    directory
        A run directory.

    Returns
    -------
    DataFrame
        As `frame` gives it.

    Raises
    ------
    RunError
        If there is no run, no trial of it has finished, or its files are damaged.
    """
    place = _begun(directory)
    try:
        spec = tomllib.loads(place.spec.read_text(encoding="utf-8"))
        own = ("recipe", "model_options", "training")
        arms = sorted(spec["arms"], key=lambda arm: any(map(arm.get, own)))  # the one without any is first
        names = dict.fromkeys([BASELINE, *(arm["name"] for arm in arms)])
        scores = place.test_scores()
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # of JSON, TOML and text alike
        raise RunError(f"The run in {str(directory)!r} can't be read: {error}.") from None
    finished = _finished(place, spec)
    if not finished:
        raise RunError(f"No trial of the run in {str(directory)!r} has finished yet.")
    return frame(list(names), finished, scores)


def stored_curves(directory: str | Path) -> pd.DataFrame:
    """Return one row an epoch of every trial in `stored_trials`, in that order.

    Raises
    ------
    RunError
        Where `stored_trials` does.
    """
    keys = list(stored_trials(directory)["key"])
    return _curves(_begun(directory), keys)


def _finished(place: RunDirectory, spec: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    url = spec.get("storage")
    if url is None and not place.database.exists():  # opening it would make one
        return {}
    return TrialStore(place.path, url, spec.get("name", "study")).finished()


def _curves(place: RunDirectory, keys: Sequence[str]) -> pd.DataFrame:
    try:
        return place.curves(keys)
    except ValueError as error:  # of Parquet
        raise RunError(f"The curves in {str(place.path)!r} can't be read: {error}.") from None


def _begun(directory: str | Path) -> RunDirectory:
    place = RunDirectory(Path(directory).expanduser().resolve())
    if not place.exists:
        raise RunError(f"There is no run in {str(directory)!r}: it holds no study.toml.")
    return place


@dataclass(frozen=True)
class Results:
    """A finished run, as its directory holds it.

    Parameters
    ----------
    directory
        Where it is.
    study
        ``study.toml`` as it was run.
    summary, evidence, provenance
        What it found, what it looked at, and where it was made.
    frame
        One row a trial, with its ``key``.
    search, refit, nested
        What came after the choice, where it was asked for.
    """

    directory: Path
    study: str
    summary: Summary
    evidence: Evidence
    provenance: Provenance
    frame: pd.DataFrame
    search: Searched | None = None
    refit: Refit | None = None
    nested: Nested | None = None

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read a run directory.

        Raises
        ------
        RunError
            If there is no run, it has not ended, or its files are damaged.
        """
        place = _begun(directory)
        go_on = f"go on with: shrinkage run {shlex.quote(str(place.spec))} -o {shlex.quote(str(directory))}"
        try:
            stored, provenance = place.read_json(place.summary), Provenance.read(place)
            if stored is None or provenance is None or "evidence" not in stored:
                raise RunError(f"The run in {str(directory)!r} is not finished; {go_on}")
            summary, evidence = Summary.from_json(stored), Evidence.from_json(stored["evidence"])
            search, refit, nested = Searched.of(stored), Refit.of(stored), Nested.of(stored)
            study = place.spec.read_text(encoding="utf-8")
            spec = tomllib.loads(study)
            scores = place.test_scores()
        except ValueError as error:  # of JSON, TOML and text alike
            raise RunError(f"The run in {str(directory)!r} can't be read: {error}; {go_on}") from None
        finished = _finished(place, spec)
        if not finished:
            raise RunError(f"The run in {str(directory)!r} lacks its trials; {go_on}")
        arms = [arm.arm for arm in summary.arms]
        table = frame(arms, finished, scores)
        return cls(place.path, study, summary, evidence, provenance, table, search, refit, nested)

    @cached_property
    def decisive(self) -> Self:
        """The results without trials that no choice is made of: those on units which said where to look."""
        return replace(self, frame=on_units(self.frame, self.summary.units))

    @cached_property
    def fields(self) -> Mapping[str, Any]:
        """What ``study.toml`` says."""
        return tomllib.loads(self.study)

    @property
    def name(self) -> str:
        """The study's name."""
        return str(self.fields.get("name", "study"))

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row a trial and epoch."""
        return _curves(RunDirectory(self.directory), list(self.frame["key"]))

    @cached_property
    def pictures(self) -> Mapping[str, NDArray[np.uint8]]:
        """``samples`` and ``mistakes``: images N×H×W or N×H×W×3; none where the data are no images."""
        try:
            return RunDirectory(self.directory).read_pictures()
        except (ValueError, zipfile.BadZipFile, EOFError) as error:  # of NumPy and of zip files
            raise RunError(f"The pictures in {str(self.directory)!r} can't be read: {error}.") from None
