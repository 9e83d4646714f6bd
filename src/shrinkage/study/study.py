"""``Study``: the same in Python as ``study.toml``, field by field."""

from __future__ import annotations

import contextlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import keras
import pandas as pd

from shrinkage.data import Data
from shrinkage.errors import RunError, SpecError
from shrinkage.study import runner
from shrinkage.study.directory import RunDirectory
from shrinkage.study.inputs import STORED_MODEL, as_data, materialised, name_of_groups, reference
from shrinkage.study.nested import names, run_nested
from shrinkage.study.observers import Observer, Silent
from shrinkage.study.references import load_study_data
from shrinkage.study.results import Results, frame
from shrinkage.study.spec import StudySpec, resolved
from shrinkage.study.splits import outer_splits
from shrinkage.study.storage import TrialStore
from shrinkage.study.summary import Summary
from shrinkage.study.table import plan_html

if TYPE_CHECKING:
    from shrinkage.report.plots import Plots


class Study:
    """A study: arms (named recipes) × strengths × seeds (× folds), trained, stored and compared.

    Parameters
    ----------
    model
        ``"module:function"``, a saved model ``"MODEL.keras"``, a Keras model, or a function of
        ``(input_shape, classes, **model_options)`` that returns a built one.
    data
        Anything that :func:`shrinkage.load_data` takes, a :class:`~shrinkage.data.Data`, or a tuple
        ``(x_train, y_train)``, ``(x_train, y_train, x_test, y_test)`` or, as ``keras.datasets`` gives
        them, ``((x_train, y_train), (x_test, y_test))`` of arrays. Whole numbers in ``y`` are classes,
        fractions a regression.
    arms
        One dictionary an arm: ``name``, ``recipe`` (text, a list of texts, or a
        :class:`~shrinkage.Recipe`). Where the recipe says ``strength``, ``strengths`` may name the values: a
        list, or ``{"low": 1e-6, "high": 0.1, "count": 6}`` for a geometric grid; else they are searched.
        ``model_options`` and ``training`` are what it changes of the study's. The arm ``none``, without
        penalties and options, is added if it is missing.
    validation, folds, repeats, stratify
        The share of the training data held out (0.2 by default), fixed; or a number of folds. And how often
        the rows are split so (1). Each class has its share in every part unless ``stratify`` is false.
    groups
        What is equal for rows that no split may tear apart, such as the patient: an array, one entry for
        each row of ``x_train``, with data that are arrays; the name of an array or a column with data
        that are an ``.npz`` or a CSV file.
    refit
        Whether the recommended arm is trained again on all training rows, to be ``models/best.keras``; by
        default where there are folds.
    nested
        A number of parts of the training rows; the whole study is run without each of them, and scored on
        it: what the procedure gives on rows that had no part in it.
    seeds
        How many seeds, or a list of them.
    training
        ``epochs``, ``batch_size``, ``optimizer``, ``learning_rate``, ``loss``, ``metrics``,
        ``early_stopping``, ``loop``, …; see :class:`shrinkage.study.settings.Training`.
    strategy, rungs, tolerance, budget
        How strengths are searched, and when that ends: see :class:`shrinkage.study.spec.StudySpec`. By
        default ``"grid"`` where all strengths are named, else ``"auto"``.
    margin
        The difference in accuracy (of a regression, in data loss) that does not matter, against which
        equivalence is tested: 0.002 by default, that is 0.2 points, and none for a regression.
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
        repeats: int = 1,
        stratify: bool = True,
        groups: Any = None,
        refit: bool | None = None,
        nested: int | None = None,
        seeds: int | Sequence[int] = 5,
        training: dict[str, Any] | None = None,
        strategy: str | None = None,
        rungs: Sequence[int] | None = None,
        tolerance: float = 1.0,
        budget: int | str | None = None,
        margin: float | None = None,
        label: str | None = None,
        storage: str | None = None,
        data_dir: str | Path | None = None,
    ) -> None:
        self._model, self._data = model, as_data(data, groups)
        self._data_dir = None if data_dir is None else str(data_dir)
        self.directory: Path | None = None
        fields = {
            "name": name,
            "data": resolved(str(data), Path()) if self._data is None else "inputs/data.npz",
            "label": label,
            "groups": name_of_groups(groups, self._data),
            "model": reference(model),
            "model_options": {} if model_options is None else model_options,
            "initial": initial,
            "validation": validation,
            "folds": folds,
            "repeats": repeats,
            "stratify": stratify,
            "refit": refit,
            "nested": nested,
            "seeds": seeds,
            "training": {} if training is None else training,
            "rungs": rungs,
            "tolerance": tolerance,
            "budget": budget,
            "arms": arms,
            "margin": margin,
            "storage": storage,
        }
        if strategy is not None:
            fields["strategy"] = strategy
        self.spec = self._asked = StudySpec.parse(fields)  # what a run stores is named in `spec` alone
        if isinstance(model, keras.Model) and self.spec.model_options:
            raise SpecError("model_options go with a function that builds a model; a Keras model takes none.")

    @classmethod
    def from_spec(cls, spec: StudySpec, *, data_dir: str | None = None) -> Self:
        """Return the study of a spec, as ``shrinkage run`` reads it from a file."""
        study = cls.__new__(cls)
        study._model, study._data, study._data_dir = spec.model, None, data_dir
        study.directory, study.spec, study._asked = None, spec, spec
        return study

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Return the study that was run in ``directory``, with its results.

        Raises
        ------
        RunError
            If there is no run.
        """
        place = RunDirectory(Path(directory).expanduser().resolve())
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
            Remove the run that is there and begin anew, once nothing speaks against the study.
        allow_code
            Whether ``module:function`` references outside this package may be imported.
        observer
            Told what happens; see :class:`shrinkage.study.observers.Observer`. ``shrinkage.report.live.Live``
            shows it; without an observer nothing is shown.

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
        place = RunDirectory(Path(directory).expanduser().resolve())
        with place.locked():
            data = self._data or load_study_data(self.spec, self._data_dir, allow_code)
            if restart:
                self._check(data, allow_code)
                self._clear(place)
            self.spec = materialised(place, self._asked, self._model, data, owned=self._data is not None)
            if self._data is not None:  # called as it will be when it is read back from the directory
                data = replace(data, name=Path(self.spec.data).stem)
            bench = runner.prepare(self.spec, data, allow_code)
            try:
                summary = runner.run(bench, place, observer or Silent())
                if self.spec.nested:  # parts of the targets as they are trained on
                    parts = outer_splits(self.spec, bench.data.y_train, bench.data.groups)
                    run_nested(self, data, parts, place, allow_code, observer or Silent())
            except KeyboardInterrupt:  # a notebook's stop button; what is finished can be looked at
                self.directory = place.path
                raise
        self.directory = place.path
        self.report()
        return summary

    def frame(self) -> pd.DataFrame:
        """Return one row a finished trial: ``arm, strength, seed, fold, state, epochs, train_data_loss, …``.

        Arms stand in the study's order, and trials by strength, seed and fold. ``strength`` is NaN for an arm
        with fixed numbers, ``fold`` -1 in a study without folds, ``state`` one of ``complete``, ``stopped``
        and ``diverged``, and the test columns are NaN for cells that were not scored. Of the weights of a
        complete trial: ``zeros``, the share of exact zeros in kernels; ``units``, those that could be
        removed, and ``live_units``, those of them that :func:`shrinkage.compact` would leave; ``parameters``
        and ``compacted_parameters``. They are missing where a model has no graph to compact. ``seed``,
        ``fold`` and ``epochs`` are int64, counts pandas's Int64, which can be missing, all else but ``arm``
        and ``state`` float64.
        """
        return self._frame().drop(columns="key")

    def curves(self) -> pd.DataFrame:
        """Return one row a finished trial and epoch, the trials as in :meth:`frame`."""
        return self._place().curves(list(self._frame()["key"]))

    def _frame(self) -> pd.DataFrame:
        arms = [arm.name for arm in self.spec.all_arms]
        return frame(arms, self._store().finished(), self._place().test_scores())

    def summary(self) -> Summary:
        """Return the answer of the finished run, as :meth:`run` returned it.

        Raises
        ------
        RunError
            If the study has not been run, or the run is not finished.
        """
        place = self._place()
        try:
            stored = place.read_json(place.summary)
            if stored is not None:
                return Summary.from_json(stored)
        except ValueError as error:
            raise RunError(f"{str(place.summary)!r} can't be read: {error}; run the study again.") from None
        raise RunError(f"The run in {str(place.path)!r} is not finished; run the study again to go on.")

    def report(self, path: str | Path | None = None) -> Path:
        """Write what the finished run found as one file that opens in a browser, offline.

        Parameters
        ----------
        path
            The file, which is replaced; ``report.html`` in the run directory by default, where every run
            writes it at its end.

        Returns
        -------
        Path
            The file.

        Raises
        ------
        RunError
            If the study has not been run, or the run is not finished.
        """
        from shrinkage.report.html import write  # the report reads studies: no study needs it to train

        place = self._place()
        return write([Results.load(place.path)], place.report if path is None else path)

    @property
    def plot(self) -> Plots:
        """The figures of the finished run: ``study.plot.validation()``, ``.learning()``, ``.size()``."""
        from shrinkage.report.plots import Plots  # the report reads studies: no study needs it to run

        return Plots(self)

    def _repr_html_(self) -> str:
        with contextlib.suppress(Exception):  # an object that is shown must never raise: show what is there
            return self.summary()._repr_html_()
        finished: Counter[str] | None = None if self.directory is None else Counter()
        with contextlib.suppress(Exception):
            # Where there is no database, looking into it would make one.
            if self.spec.storage is not None or self._place().database.exists():
                finished = Counter(self.frame()["arm"])
        return plan_html(self.spec, self._name_of_model(), self._name_of_data(), finished)

    def _name_of_model(self) -> str:
        if self.spec.model != STORED_MODEL:
            return self.spec.model
        names = (getattr(self._model, name, None) for name in ("name", "__qualname__"))
        return next((name for name in names if isinstance(name, str)), STORED_MODEL)

    def _name_of_data(self) -> str:
        return self.spec.data if self._data is None else self._data.name

    def _place(self) -> RunDirectory:
        if self.directory is None:
            raise RunError("This study has not been run yet; call .run(directory), or Study.load(directory).")
        return RunDirectory(self.directory)

    def _store(self) -> TrialStore:
        return TrialStore(self._place().path, self.spec.storage, self.spec.name)

    def _check(self, data: Data, allow_code: bool) -> None:
        """Raise what speaks against the study, before anything is removed for it."""
        with tempfile.TemporaryDirectory() as scratch:
            spec = materialised(RunDirectory(Path(scratch)), self._asked, self._model, data, owned=False)
            runner.prepare(spec, data, allow_code)

    def _clear(self, place: RunDirectory) -> None:
        with contextlib.suppress(SpecError):  # a study.toml that can't be read is removed as it is
            before = [StudySpec.read(place.spec)] if place.exists else []
            for spec in (*before, self.spec):
                for name in (spec.name, *names(spec)) if spec.storage is not None else ():
                    TrialStore(place.path, spec.storage, name).delete()
        own = any(Path(part).is_relative_to(place.path) for part in (self._asked.data, self._asked.model))
        place.clear(keep_inputs=own)
