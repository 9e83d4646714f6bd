"""Groups: the cells of a study whose network and training are the same, and what builds and trains them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras.src.trainers import compile_utils
from numpy.typing import NDArray

from shrinkage.data import Data
from shrinkage.errors import ModelError, RecipeError, ShrinkageError
from shrinkage.recipe import Recipe, bind, describe, sites, strip
from shrinkage.study import design, splits
from shrinkage.study.arm import Arm
from shrinkage.study.references import ModelSource, as_taken, model_source
from shrinkage.study.sizes import Sizes
from shrinkage.study.space import Cell, Space
from shrinkage.study.spec import StudySpec
from shrinkage.training.choose import make_loop
from shrinkage.training.initial import with_fresh_names
from shrinkage.training.keras_loop import make_optimizer
from shrinkage.training.many import ManyLoops
from shrinkage.training.objective import Objective, resolve_objective
from shrinkage.training.smoothing import smoothed
from shrinkage.training.task import Lane, Loop, Split, Task


@dataclass(frozen=True)
class Group:
    """What cells of one network and one training share.

    Attributes
    ----------
    spec
        The study with the options of these cells as its own.
    source
        Builds their model.
    task, loop
        How they are trained, and what trains them.
    sizes
        Measures their weights.
    """

    spec: StudySpec
    source: ModelSource
    task: Task
    loop: Loop
    sizes: Sizes

    @property
    def facts(self) -> dict[str, str]:
        """What determines results here beyond the spec and the data."""
        return {"model": self.source.fingerprint, "loop": type(self.loop).__name__}


class Groups:
    """The groups of a study, by what its cells are trained as.

    Every arm is checked against the model and the data before the first trial is trained.

    Parameters
    ----------
    spec, data
        The study, and its data.
    allow_code
        Whether the model may be code of the user's.

    Raises
    ------
    ShrinkageError
        If an arm does not fit, naming it; see :func:`shrinkage.study.references.model_source`.
    """

    def __init__(self, spec: StudySpec, data: Data, allow_code: bool) -> None:
        self.spec = spec
        self.data, self._allow_code = data, allow_code
        self.remarks: list[str] = []  # what a user should know of the model, in a sentence each
        self._splits: Sequence[Split] = ()
        lanes: dict[str, list[Lane]] = {}
        for cell, (seed, fold) in Space(spec).sample():
            lanes.setdefault(self.name_of(cell), []).append(Lane(*cell, seed, max(fold, 0)))
        self._made = {name: self._make(own) for name, own in lanes.items()}

    def of(self, cell: Cell) -> Group:
        """Return the group of a cell."""
        return self._made[self.name_of(cell)]

    def name_of(self, cell: Cell) -> str:
        """Return what the cells of a group have in common, as text: how a run directory calls it."""
        own = self.spec.at(*cell)
        return json.dumps([own.model_options, own.training.to_key()], sort_keys=True)

    @property
    def first(self) -> Group:
        """The baseline's group."""
        return next(iter(self._made.values()))

    @property
    def loop(self) -> Loop:
        """What trains all cells: the only group's loop, or all of them as one."""
        if len(self._made) == 1:
            return self.first.loop
        return ManyLoops({name: group.loop for name, group in self._made.items()}, self.name_of)

    def _make(self, lanes: Sequence[Lane]) -> Group:
        arms = [self.spec.arm(name) for name in dict.fromkeys(lane.arm for lane in lanes)]
        own = self.spec.at(lanes[0].arm, lanes[0].strength)
        first = arms[0].name if arms[0].options else ""
        with named(first):
            source = model_source(own, self.data, self._allow_code)
            model = with_fresh_names(source.build)
            if own.initial == "fresh":
                check_frozen(model)
            if not self._splits:  # the baseline's model, the first, stands for the others'
                self._prepare(own, model)
            strip(model)
        recipes = {arm.name: _bound(arm, model) for arm in arms}
        with named(first):
            task = self._task(own, source, model, arms, recipes)
            loop = make_loop(task, model, lanes, own.training.loop, alone=not self.spec.is_settled)
        return Group(own, source, task, loop, Sizes(source.build))

    def _prepare(self, own: StudySpec, model: Any) -> None:
        """Settle how the data are taken and split, which is the same for all groups."""
        taken = as_taken(self.data, model, own.training.loss)
        self.remarks += _remarks(model, self.data, taken)
        self.data, self._splits = taken, splits.splits(own, taken.y_train, taken.groups)

    def _task(
        self,
        own: StudySpec,
        source: ModelSource,
        model: Any,
        arms: Sequence[Arm],
        recipes: Mapping[str, Recipe],
    ) -> Task:
        """Return how cells are trained, once everything was tried on the model."""
        data, training = self.data, own.training
        objective = resolve_objective(training.loss, training.metrics, data.y_train, model)
        check_objective(objective, model, data)
        smoothed(objective.loss, training.label_smoothing)
        make_optimizer(training.made_of, training.learning_rate, training.weight_decay)
        return Task(
            build=source.build,
            recipes=recipes,
            x=data.x_train,
            y=data.y_train,
            splits=self._splits,
            objective=objective,
            optimizer=training.made_of,
            learning_rate=training.learning_rate,
            rates={arm.name: arm.rate for arm in arms if arm.rate is not None},
            weight_decay=training.weight_decay,
            label_smoothing=training.label_smoothing,
            max_norm=training.max_norm,
            epochs=training.epochs,
            batch_size=training.batch_size,
            early_stopping=training.early_stopping,
            rungs=own.stops,
            fresh=own.initial == "fresh",
            scaled=data.scaled,
            weights=design.row_weights(own, data.y_train, data.classes),
        )


def _bound(arm: Arm, model: Any) -> Recipe:
    """Return an arm's recipe, once it was tried on the model."""
    recipe = Recipe(arm.recipe)
    try:
        bind(recipe, model)
    except ShrinkageError as error:
        raise RecipeError(f"Arm {arm.name!r}: {error}") from error
    return recipe


def _remarks(model: Any, given: Data, taken: Data) -> Iterator[str]:
    if taken.raw:
        yield "The model scales its inputs itself: images go in as they are, 0 to 255."
    if taken.y_train.dtype != given.y_train.dtype:
        yield "The model ends in one sigmoid and the targets are 0 and 1: they are taken as two classes."
    own = [f"{row.layer}: {row.target} = {row.penalty}" for row in describe(model).rows]
    if own:
        more = f"; … {len(own)} in all" if len(own) > 3 else ""
        yield (
            f"The model's own penalties are left out ({'; '.join(own[:3])}{more}): the arms say what is "
            "charged."
        )


@contextmanager
def named(arm: str) -> Iterator[None]:
    """Say of which arm an error is."""
    try:
        yield
    except ShrinkageError as error:
        if not arm:
            raise
        raise type(error)(f"Arm {arm!r}: {error}") from error


def check_frozen(model: Any) -> None:
    """Check that no layer is frozen whose weights would be drawn anew.

    Raises
    ------
    ModelError
        If one is, naming it: what it has learned would be lost.
    """
    frozen = [
        site.path
        for site in sites(model)
        if site.layer.weights and not site.layer.trainable and not isinstance(site.layer, keras.Model)
    ]
    if frozen:
        more = f" and {len(frozen) - 2} more" if len(frozen) > 2 else ""
        raise ModelError(
            f"Layers are frozen ({', '.join(frozen[:2])}{more}), and fresh weights would make noise of what "
            'they have learned; initial = "saved" (--initial saved) begins from the model\'s own weights.'
        )


def check_objective(objective: Objective, model: Any, data: Data) -> None:
    """Take the loss and the metrics of a few rows, so that what does not fit is found before training.

    Raises
    ------
    ModelError
        If the loss or a metric does not fit the targets and the outputs.
    """
    outputs = getattr(model, "output_shape", None)
    if not isinstance(outputs, tuple) or None in outputs[1:]:
        return
    _check_range(objective, data.y_train)
    rows = min(len(data.y_train), outputs[-1] + 1)  # so that rows are never taken for outputs
    y, predicted = data.y_train[:rows], np.full((rows, *outputs[1:]), 1 / outputs[-1], "float32")
    for what, entry in (("loss", objective.loss), *(("metric", m) for m in objective.metrics)):
        if entry in ("accuracy", "acc"):  # Keras finds out which one is meant
            continue
        try:
            if what == "loss":
                compile_utils.CompileLoss(entry)(y, predicted)
            else:
                compile_utils.CompileMetrics([entry], None).update_state(y, predicted)
        except Exception as error:  # Keras and its backends raise many kinds
            hint = ""
            if entry == "categorical_crossentropy" and y.ndim == 1:
                hint = " Class numbers take sparse_categorical_crossentropy."
            raise ModelError(
                f"The {what} {entry!r} does not fit targets of shape {y.shape[1:]} and type {y.dtype} "
                f"with outputs of shape {outputs[1:]}: {reason(error)}{hint}"
            ) from error


def _check_range(objective: Objective, y: NDArray[Any]) -> None:
    loss = objective.loss
    name = loss if isinstance(loss, str) else str(getattr(loss, "name", ""))
    if not name.startswith(("binary_", "categorical_")) or not name.endswith("crossentropy"):
        return
    if y.dtype.kind == "f" and not (y.min() >= 0 and y.max() <= 1):
        raise ModelError(
            f"The loss {name!r} is of probabilities, targets from 0 to 1, and these go from {y.min():.4g} to "
            f"{y.max():.4g}; for a regression take mean_squared_error."
        )


def reason(error: Exception) -> str:
    """Return the first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
