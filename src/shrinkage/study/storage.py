"""Finished trials in a database: Optuna's storage, of which this is the only writer."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna

from shrinkage.errors import RunError
from shrinkage.study.complaint import concealed
from shrinkage.study.directory import RunDirectory

if TYPE_CHECKING:  # what is stored can be read where no backend of Keras is installed
    from shrinkage.study.design import Trial

_FORMAT = 1
_STATES = {"complete": "COMPLETE", "stopped": "PRUNED", "diverged": "FAIL"}  # ours, and Optuna's


class TrialStore:
    """Finished trials in an Optuna storage: parameters, state, objective and figures.

    Parameters
    ----------
    directory
        The run's directory.
    url
        Any SQLAlchemy URL; None is ``study.db`` in the directory.
    name
        The study's name in the storage.

    Raises
    ------
    RunError
        If the storage can't be opened.
    """

    def __init__(self, directory: Path, url: str | None, name: str) -> None:
        self._url = url or _sqlite(RunDirectory(directory).database)
        self._name = name
        with quiet():
            try:
                self._study = _opened(optuna.storages.get_storage(self._url), name)
            except Exception as error:  # whatever the database's driver raises
                reason = str(error).strip().partition("\n")[0].replace(self._url, concealed(self._url))
                raise RunError(f"The storage {concealed(self._url)!r} can't be opened: {reason}") from error
        self._arms: list[str] = []

    def claim(self, digest: str, facts: Mapping[str, str], arms: Sequence[str]) -> None:
        """Mark the stored study as the one with this hash, these facts and these arms.

        Raises
        ------
        RunError
            If it is another, or its data, model or backend is.
        """
        self._arms = list(arms)
        known = self._study.user_attrs
        if "digest" not in known:
            self._study.set_user_attr("format", _FORMAT)
            self._study.set_user_attr("facts", dict(facts))
            self._study.set_user_attr("digest", digest)
        elif known["digest"] != digest:
            before = known.get("facts", {})
            changed = [
                f"backend ({before.get(name)} -> {facts[name]})" if name == "backend" else name
                for name in facts
                if before.get(name) != facts[name]
            ]
            what = (
                f"The {' and the '.join(changed)} of this study changed since its run was begun"
                if changed
                else f"The storage {concealed(self._url)!r} holds another study named {self._name!r}"
            )
            raise RunError(f"{what}. Give another directory or name, or --restart to begin anew.")

    def delete(self) -> None:
        """Remove the study from its storage."""
        optuna.delete_study(study_name=self._name, storage=self._url)

    def add(
        self, trial: Trial, state: str, figures: Mapping[str, Any], rungs: Mapping[int, float] | None = None
    ) -> None:
        """Store a finished trial.

        A diverged one is Optuna's FAIL, which needs no value, and one stopped at a rung is PRUNED.
        ``rungs`` are validation data losses by epoch, Optuna's intermediate values.
        """
        space: dict[str, Any] = {"arm": optuna.distributions.CategoricalDistribution(self._arms)}
        params: dict[str, Any] = {"arm": trial.arm, "seed": trial.seed, "fold": trial.fold}
        space["seed"] = space["fold"] = optuna.distributions.IntDistribution(-1, 2**62)
        if trial.strength is not None:
            params["strength"] = trial.strength
            space["strength"] = optuna.distributions.FloatDistribution(0.0, float(np.finfo("float64").max))
        frozen = optuna.trial.create_trial(
            state=optuna.trial.TrialState[_STATES[state]],
            value=None if state == "diverged" else figures["val_data_loss"],
            intermediate_values=dict(rungs or {}),
            params=params,
            distributions=space,
            # One attribute for all figures: each is a row of its own in the database.
            user_attrs={"key": trial.key, "state": state, "figures": _json_safe(figures)},
        )
        with quiet():
            self._study.add_trial(frozen)

    def finished(self) -> dict[str, dict[str, Any]]:
        """Return each finished trial by its key: arm, strength (None: fixed), seed, fold, state, figures."""
        rows = {}
        for frozen in self._study.get_trials(deepcopy=False):
            key = frozen.user_attrs.get("key")
            if key is not None:
                attrs = frozen.user_attrs
                rows[key] = {"strength": None, **frozen.params, "state": attrs["state"], **attrs["figures"]}
        return rows


def _opened(storage: optuna.storages.BaseStorage, name: str) -> optuna.Study:
    """Return a study of the storage, which is written to only where there is no such study."""
    try:
        return optuna.load_study(storage=storage, study_name=name)
    except KeyError:
        return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)


def _json_safe(figures: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in figures.items()}


def _sqlite(path: Path) -> str:
    from sqlalchemy.engine import URL

    # A path may hold what means something in a URL: a question mark, a percent sign.
    return URL.create("sqlite", database=str(path.resolve())).render_as_string()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna's log lines out of the progress display."""
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
