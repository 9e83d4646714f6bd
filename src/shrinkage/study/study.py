"""``Study``: the same in Python as ``study.toml``, field by field."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import keras
import numpy as np
import pandas as pd

from shrinkage.data import Data
from shrinkage.data.build import build_data
from shrinkage.errors import RunError, SpecError
from shrinkage.study import runner
from shrinkage.study.references import load_study_data
from shrinkage.study.runner import Observer, Silent
from shrinkage.study.spec import StudySpec
from shrinkage.study.storage import RunDirectory, TrialStore, save_model, write_atomically
from shrinkage.study.summary import Summary
from shrinkage.training.initial import with_fresh_names


class Study:
    """A study: arms (named recipes) × strengths × seeds (× folds), trained, stored and compared.

    Parameters
    ----------
    model
        ``"module:function"``, a saved model ``"MODEL.keras"``, a Keras model, or a function of
        ``(input_shape, classes, **model_options)`` that returns a built one.
    data
        Anything that :func:`shrinkage.load_data` takes, a :class:`~shrinkage.data.Data`, or a tuple
        ``(x_train, y_train)`` or ``(x_train, y_train, x_test, y_test)`` of arrays.
    arms
        One dictionary an arm: ``name``, ``recipe`` (text, a list of texts, or a
        :class:`~shrinkage.Recipe`) and, where the recipe says ``strength``, ``strengths``: a list, or
        ``{"low": 1e-6, "high": 0.1, "count": 6}`` for a geometric grid. The arm ``none``, without
        penalties, is added if it is missing.
    validation, folds
        The share of the training data held out (0.2 by default), stratified and fixed; or a number of
        folds.
    seeds
        How many seeds, or a list of them.
    training
        ``epochs``, ``batch_size``, ``optimizer``, ``learning_rate``, ``loss``, ``metrics``,
        ``early_stopping``; see :class:`shrinkage.study.spec.Training`.
    name, model_options, initial, label, storage
        As in ``study.toml``.
    data_dir
        Where named data sets are looked for.

    Raises
    ------
    SpecError
        If an argument is wrong: names it, the rule, and the nearest right word.

    Examples
    --------
    >>> import tempfile
    >>> study = Study(
    ...     "shrinkage.models:mlp",
    ...     "digits",
    ...     arms=[{"name": "L2", "recipe": "Dense: kernel = l2(strength)", "strengths": [1e-3, 1e-2]}],
    ...     model_options={"hidden": [8]},
    ...     seeds=2,
    ...     training={"epochs": 1},
    ... )
    >>> summary = study.run(tempfile.mkdtemp())
    >>> len(study.frame())
    6
    """

    def __init__(
        self,
        model: Any,
        data: Any,
        *,
        arms: Sequence[Any],
        name: str = "study",
        model_options: dict[str, Any] | None = None,
        initial: str = "fresh",
        validation: float | None = None,
        folds: int | None = None,
        seeds: int | Sequence[int] = 5,
        training: dict[str, Any] | None = None,
        label: str | None = None,
        storage: str | None = None,
        data_dir: str | Path | None = None,
    ) -> None:
        self._model, self._data = model, _as_data(data)
        self._data_dir = None if data_dir is None else str(data_dir)
        self.directory: Path | None = None
        fields = {
            "name": name,
            "data": data if isinstance(data, (str, Path)) else "inputs/data.npz",
            "label": label,
            "model": _reference(model),
            "model_options": model_options or {},
            "initial": initial,
            "validation": validation,
            "folds": folds,
            "seeds": seeds if isinstance(seeds, int) else tuple(seeds),
            "training": training or {},
            "arms": tuple(arms),
            "storage": storage,
        }
        fields["data"] = str(fields["data"])
        self.spec = StudySpec.parse(fields)

    @classmethod
    def from_spec(cls, spec: StudySpec, *, data_dir: str | None = None) -> Self:
        """Return the study of a spec, as ``shrinkage run`` reads it from a file."""
        study = cls.__new__(cls)
        study._model, study._data, study._data_dir = spec.model, None, data_dir
        study.directory, study.spec = None, spec
        return study

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Return the study that was run in ``directory``, with its results.

        Raises
        ------
        RunError
            If there is no run.
        """
        place = RunDirectory(Path(directory))
        if not place.exists:
            raise RunError(f"There is no run in {str(directory)!r}: it holds no study.toml.")
        study = cls.from_spec(StudySpec.read(place.spec))
        study.directory = place.path
        return study

    def run(
        self,
        directory: str | Path,
        *,
        restart: bool = False,
        allow_code: bool = True,
        observer: Observer | None = None,
    ) -> Summary:
        """Run the study in a directory, or go on with the run that is there.

        Finished trials are never trained again. Stop it at any moment and call it again.

        Parameters
        ----------
        directory
            New, empty, or holding a run of this very study.
        restart
            Remove the run that is there and begin anew.
        allow_code
            Whether ``module:function`` references outside this package may be imported.
        observer
            Told what happens; see :class:`shrinkage.study.runner.Observer`.

        Returns
        -------
        Summary
            The answer: what was compared, what won, and how sure that is. ``summary.json`` holds it too.

        Raises
        ------
        RunError
            If the directory holds something else, another study (with the difference), or is in use.
        DataError, ModelError, RecipeError
            If the data, the model or a recipe does not fit.
        """
        place = RunDirectory(Path(directory).absolute())
        with place.locked():
            if restart:
                self._clear(place)
            data = self._data or load_study_data(self.spec, self._data_dir, allow_code)
            self.spec = self._materialised(place, data)
            bench = runner.prepare(self.spec, data, allow_code)
            summary = runner.run(bench, place, observer or Silent())
        self.directory = place.path
        return summary

    def frame(self) -> pd.DataFrame:
        """Return one row a finished trial: ``arm, strength, seed, fold, state, epochs, train_data_loss, …``.

        ``strength`` is NaN for an arm with fixed numbers, ``fold`` -1 in a study without folds, and the
        test columns are NaN for cells that were not scored.
        """
        place = self._place()
        return runner.frame(self.spec, self._store().finished(), place.test_scores()).drop(columns="key")

    def curves(self) -> pd.DataFrame:
        """Return one row a finished trial and epoch."""
        return self._place().curves(list(self._store().finished()))

    def _place(self) -> RunDirectory:
        if self.directory is None:
            raise RunError("This study has not been run yet; call .run(directory), or Study.load(directory).")
        return RunDirectory(self.directory)

    def _store(self) -> TrialStore:
        return TrialStore(self._place().path, self.spec.storage, self.spec.name)

    def _clear(self, place: RunDirectory) -> None:
        if place.exists:
            before = StudySpec.read(place.spec)
            if before.storage is not None:
                TrialStore(place.path, before.storage, before.name).delete()
            place.clear()

    def _materialised(self, place: RunDirectory, data: Data) -> StudySpec:
        """Store Python objects in the run directory, so that its study.toml says all there is to say."""
        changes = {}
        if self._data is not None:
            path = place.path / "inputs" / "data.npz"
            if (
                not path.exists()
                or load_study_data(self._at(data=str(path)), None, False).fingerprint() != data.fingerprint()
            ):
                _save_data(path, data)
            changes["data"] = str(path)
        if not isinstance(self._model, (str, Path)) and ":" not in self.spec.model:
            path = place.path / "inputs" / "model.keras"
            if not path.exists():
                _save_model(path, self._model, self.spec, data)
            changes |= {"model": str(path), "model_options": {}}
        return self._at(**changes)

    def _at(self, **changes: Any) -> StudySpec:
        return self.spec.model_copy(update=changes)


def _as_data(data: Any) -> Data | None:
    if isinstance(data, Data):
        return data
    if isinstance(data, (str, Path)):
        return None
    if isinstance(data, tuple) and len(data) in (2, 4):
        names = ("x_train", "y_train", "x_test", "y_test")
        return build_data("data", dict(zip(names, data, strict=False)), owned=False)
    raise SpecError(
        "data must be the name of a data set, a path, a Data, or a tuple (x_train, y_train) or "
        f"(x_train, y_train, x_test, y_test); got {type(data).__name__}."
    )


def _reference(model: Any) -> str:
    """Return how study.toml names a model: itself, its function, or the file that it will be saved to."""
    if isinstance(model, (str, Path)):
        return str(model)
    name = getattr(model, "__qualname__", "")
    home = sys.modules.get(getattr(model, "__module__", ""), None)
    if name.isidentifier() and home is not None and model.__module__ != "__main__" and hasattr(home, name):
        return f"{model.__module__}:{name}"
    if not callable(model):
        raise SpecError(
            f"model must be a reference, a Keras model or a function that builds one; got {model!r:.80}."
        )
    return "inputs/model.keras"


def _save_model(path: Path, model: Any, spec: StudySpec, data: Data) -> None:
    if not isinstance(model, keras.Model):
        build: Callable[..., Any] = model
        model = with_fresh_names(lambda: build(data.input_shape, data.classes, **spec.model_options))
    save_model(model, path)


def _save_data(path: Path, data: Data) -> None:
    arrays = {"x_train": data.x_train, "y_train": data.y_train, "x_test": data.x_test, "y_test": data.y_test}
    if data.labels:
        arrays["labels"] = np.array(data.labels)
    write_atomically(path, lambda file: np.savez(file, **arrays))
