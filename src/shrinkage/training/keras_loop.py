"""The loop that works everywhere: ``model.fit``, one lane after the other, on any backend.

One model an arm is built and compiled once. A lane resets its weights, optimizer and random state and sets
the strength, which is training state: nothing is traced again between strengths and seeds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from shrinkage.errors import ModelError, did_you_mean
from shrinkage.penalties import LiveStrength
from shrinkage.recipe import attach, bind, strip
from shrinkage.training.checkpoint import Memory, Running, Shelf
from shrinkage.training.cohorts import Cohort
from shrinkage.training.constraints import constrain
from shrinkage.training.crew import Found, Item
from shrinkage.training.initial import data_order, drawn, initialise, seed_dropout, with_fresh_names
from shrinkage.training.metrics import leaves as optimizers_in
from shrinkage.training.objective import MeasuredLoss, measure_data_loss
from shrinkage.training.proximal import Proximal
from shrinkage.training.rungs import Leaves, Phase, Save, climb
from shrinkage.training.smoothing import smoothed
from shrinkage.training.task import Keep, Lane, Record, Result, Task, Wave

_EVALUATION_BATCH = 512


class _Shuffled(keras.utils.PyDataset):  # type: ignore[misc]  # Keras has no type information
    """The rows of one split in an order that depends on the lane's seed and the epoch alone."""

    def __init__(self, task: Task, rows: Any, seed: int) -> None:
        super().__init__()
        self.task, self.rows, self.seed = task, rows, seed
        self.shuffle(0)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.task.batch_size)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        size = self.task.batch_size
        return self.task.batch(self.order[index * size : (index + 1) * size])

    def shuffle(self, epoch: int) -> None:
        # Not in `on_epoch_end`, which Keras calls once more before the first epoch.
        self.order = self.rows[data_order(self.seed, epoch, len(self.rows))]


@dataclass(frozen=True)
class _Compiled:
    """One arm's model, ready to train, and what resets it."""

    model: Any
    live: tuple[LiveStrength, ...]
    weights: tuple[NDArray[Any], ...]
    optimizer: OptimizerState

    @property
    def variables(self) -> list[Any]:
        """All that training changes."""
        model = self.model
        return [*model.trainable_variables, *model.non_trainable_variables, *model.optimizer.variables]

    def set_strength(self, lane: Lane) -> None:
        """Set the strength of the lane, or of each of its rules."""
        for live, ratio in zip(self.live, lane.ratios or (1.0,), strict=True):
            live.assign(ratio * (lane.strength or 0.0))


_PROXIMAL = re.compile(r"\s*proximal\s*\((?P<name>.*)\)\s*", re.IGNORECASE)


class KerasLoop:
    """Trains the lanes of a task by ``model.fit``; see :class:`shrinkage.training.task.Loop`.

    Parameters
    ----------
    task
        The task.
    lanes
        All lanes of the study, finished ones included: where there are rungs, they decide who is stopped.
    why
        Why the vectorised loop does not train it, for the line that a run says.
    """

    def __init__(self, task: Task, lanes: Sequence[Lane] = (), why: str = "") -> None:
        self.task, self.lanes, self._why = task, tuple(lanes), why
        self._compiled: dict[tuple[str, int], _Compiled] = {}
        self._shelf: Shelf = Memory()
        self._starts: Mapping[Lane, Sequence[NDArray[Any]]] = {}

    def decide(self, stored: Mapping[str, Any] | None, keep: Keep, shelf: Any = None) -> str:
        """There is one way to run lanes, and nothing to keep."""
        self._shelf = Memory() if shelf is None else shelf
        why = f" ({self._why})" if self._why else ""
        return (
            f"Training with Keras's fit on the {keras.backend.backend()} backend, one trial at a time{why}."
        )

    def run(
        self, lanes: Sequence[Lane], on_epoch: Callable[[Record], None], wave: Wave | None = None
    ) -> Iterator[Result]:
        """Train the lanes one after the other; yield each when it ends."""
        if wave is None:
            wave = self.task.wave(self.lanes)
        if not wave.rungs:  # nobody is compared with anybody
            wave = replace(wave, lanes=tuple(lanes))
        self._starts = wave.starts
        yield from climb(wave, self, set(lanes), self._shelf, on_epoch, self.task.early_stopping is not None)

    def cohorts(self, lanes: Sequence[Lane]) -> Sequence[Cohort]:
        """Return each lane by itself."""
        return [Cohort(lane.split, (lane.seed,), (lane.cell,), (lane,)) for lane in lanes]

    def score(self, lane: Lane, weights: Sequence[NDArray[Any]], x: Any, y: Any) -> Mapping[str, float]:
        """Return ``data_loss`` and the metrics on (x, y), in inference mode, with these weights."""
        model = self.model(lane, weights)
        return _evaluate(model, x, y)

    def with_task(self, task: Task, lanes: Sequence[Lane]) -> KerasLoop:
        """Return a loop for other splits, epochs and stops, which trains with the same models."""
        loop = KerasLoop(task, lanes, self._why)
        loop._compiled = self._compiled
        return loop

    def model(self, lane: Lane, weights: Sequence[NDArray[Any]]) -> Any:
        """Return the arm's model at the lane's strength, with these weights."""
        compiled = self._arm(lane)
        compiled.set_strength(lane)
        compiled.model.set_weights(list(weights))
        return compiled.model

    def _arm(self, lane: Lane) -> _Compiled:
        key = lane.arm, len(lane.ratios)
        if key not in self._compiled:
            self._compiled[key] = _compile(self.task, *key)
        return self._compiled[key]

    def like(self, cohort: Cohort) -> Sequence[tuple[tuple[int, ...], Any]]:
        """Return the shapes and dtypes of a lane's state, with axes of one seed and one cell."""
        variables = self._arm(cohort.lanes[0]).variables
        return [((1, 1, *v.shape), keras.backend.standardize_dtype(v.dtype)) for v in variables]

    def side_by_side(
        self, work: Callable[[Item], Found], items: Iterable[Item]
    ) -> Iterator[tuple[Item, Found]]:
        """Do ``work`` on one item after the other."""
        yield from ((item, work(item)) for item in items)

    def advance(
        self, cohort: Cohort, leaves: Leaves | None, running: Sequence[Running], phase: Phase, save: Save
    ) -> Callable[[], Leaves]:
        """Train a phase of a lane; return what gets its state."""
        task, (track,) = self.task, running
        compiled = self._arm(track.lane)
        _reset(compiled, track.lane, task.fresh, self._starts.get(track.lane))
        for variable, value in zip(compiled.variables, leaves or (), strict=leaves is not None):
            variable.assign(value[0, 0])
        rows = _Shuffled(task, task.splits[track.lane.split].train, drawn(track.lane.seed, track.lane.split))
        recorder = _Recorder(task, track, rows, compiled, phase)
        epochs = {"initial_epoch": phase.start, "epochs": phase.stop}
        compiled.model.fit(rows, **epochs, callbacks=[recorder], verbose=0, shuffle=False)
        if phase.last and track.weights is None:
            # Read after `fit`, which may still write an average into them (EMA).
            track.weights = tuple(compiled.model.get_weights())
        return lambda: recorder.state


def _compile(task: Task, arm: str, strengths: int) -> _Compiled:
    """Return an arm's model with so many strengths, one a varying rule; 0: one for all of them."""
    model = with_fresh_names(task.build)
    strip(model)
    live = tuple(LiveStrength(0.0) for _ in range(max(1, strengths)))
    recipe = task.recipes[arm]
    plan = bind(recipe.scaled((1.0,) * strengths), model)  # as many as there are such rules, or an error
    places = [rule.place for rule in recipe if rule.varies]
    attach(model, plan.with_strength(dict(zip(places, live, strict=True)) if strengths else live[0]))
    constrain(model, task.max_norm)
    optimizer = make_optimizer(task.optimizer, task.rate(arm), task.weight_decay)
    model.compile(optimizer=optimizer, loss=task.objective.loss, metrics=list(task.objective.metrics))
    measure_data_loss(model, smoothed(task.objective.loss, task.label_smoothing))
    # In half precision Keras has wrapped the optimizer.
    model.optimizer.build(model.trainable_variables)
    return _Compiled(model, live, tuple(model.get_weights()), OptimizerState(model))


def make_optimizer(given: Any, learning_rate: float | None, weight_decay: float | None = None) -> Any:
    """Return a new optimizer.

    Parameters
    ----------
    given
        Keras's name of one, ``proximal(NAME)``, ``{"class_name": either, "config": its arguments}``, or
        whatever else ``keras.optimizers.get`` takes.
    learning_rate
        Its learning rate; None leaves its own.
    weight_decay
        Its decoupled weight decay, also of one inside ``proximal``; None leaves its own. Before each step
        every trainable weight loses learning rate · decay · itself, whatever the optimizer.

    Raises
    ------
    ModelError
        If Keras has no such optimizer, naming the nearest; or if it takes no decay: Ftrl computes its
        weights anew.
    """
    try:
        # One that is given as an object serves several models, and is left as it is.
        is_object = isinstance(given, keras.optimizers.Optimizer)
        name, options = (given["class_name"], dict(given["config"])) if _is_config(given) else (given, {})
        if learning_rate is not None:
            options.pop("learning_rate", None)
        inside = _PROXIMAL.fullmatch(name) if isinstance(name, str) else None
        if inside:
            own = inside["name"].strip()
            optimizer = Proximal(make_optimizer({"class_name": own, "config": options}, None))
        elif is_object:
            optimizer = given.from_config(given.get_config())
        else:
            optimizer = keras.optimizers.get(name)
            if options:
                optimizer = type(optimizer).from_config(options)
    except ModelError:
        raise
    except (TypeError, ValueError) as error:
        names = [n for n in dir(keras.optimizers) if n[:1].isupper()]
        if options and str(name).lower() in map(str.lower, names):
            why = str(error).strip().splitlines()[0]
            raise ModelError(f"The optimizer {name!r} does not take {options!r}: {why:.200}") from error
        raise ModelError(f"Keras has no optimizer {name!r}.{did_you_mean(str(name), names)}") from error
    if learning_rate is not None:
        optimizer.learning_rate = learning_rate
    for leaf in optimizers_in(optimizer) if weight_decay is not None else ():
        if isinstance(leaf, keras.optimizers.Ftrl):
            raise ModelError("Ftrl takes no weight_decay: each of its steps computes the weights anew.")
        leaf.weight_decay = weight_decay
    return optimizer


def _is_config(given: Any) -> bool:
    return isinstance(given, dict) and {"class_name", "config"} <= given.keys()


class OptimizerState:
    """What an optimizer starts from, whatever weights it is given.

    Some keep a copy of the weights (ScheduleFreeAdamW), which must be one of the lane's.

    Parameters
    ----------
    model
        Compiled, its optimizer just built.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._values = _arrays(model.optimizer.variables)
        weights = _arrays(model.trainable_variables)
        self._copies = {
            i: j
            for i, value in enumerate(self._values)
            for j, weight in enumerate(weights)
            if value.ndim and value.any() and np.array_equal(value, weight)
        }

    def start(self) -> list[NDArray[Any]]:
        """Return the state before the first step, for the weights that the model has now."""
        weights = self._model.trainable_variables
        copied = {i: _arrays([weights[j]])[0] for i, j in self._copies.items()}
        return [copied.get(i, value) for i, value in enumerate(self._values)]


def _arrays(variables: Sequence[Any]) -> list[NDArray[Any]]:
    return [np.array(ops.convert_to_numpy(v)) for v in variables]


def _reset(compiled: _Compiled, lane: Lane, fresh: bool, start: Sequence[NDArray[Any]] | None) -> None:
    compiled.model.set_weights(list(compiled.weights if start is None else start))
    if fresh and start is None:
        initialise(compiled.model, drawn(lane.seed, lane.split))
    else:
        seed_dropout(compiled.model, drawn(lane.seed, lane.split))
    for variable, value in zip(compiled.model.optimizer.variables, compiled.optimizer.start(), strict=True):
        variable.assign(value)
    compiled.set_strength(lane)
    compiled.model.stop_training = False


def _evaluate(model: Any, x: Any, y: Any) -> dict[str, float]:
    judged: MeasuredLoss = model._compile_loss
    with judged.inference():
        logs = model.evaluate(x, y, batch_size=min(len(x), _EVALUATION_BATCH), verbose=0, return_dict=True)
    return {name: float(value) for name, value in logs.items() if name != "loss"}


class _Recorder(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no type information
    """Turns Keras's epochs into records, and stops a lane that diverged or no longer improves."""

    def __init__(
        self, task: Task, track: Running, rows: _Shuffled, compiled: _Compiled, phase: Phase
    ) -> None:
        super().__init__()
        split = task.splits[track.lane.split]
        self.task, self.track, self.rows, self.compiled, self.phase = task, track, rows, compiled, phase
        self.seen, self.held_out = (task.batch(rows)[:2] for rows in (split.seen, split.validation))
        self.state: Leaves = ()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.rows.shuffle(epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        values = {"loss": float(logs["loss"]), "data_loss": float(logs["data_loss"])}
        values["penalty"] = values["loss"] - values["data_loss"]
        for name, (x, y) in (("train", self.seen), ("val", self.held_out)):
            values |= {f"{name}_{metric}": value for metric, value in _evaluate(self.model, x, y).items()}
        record = Record(self.track.lane, epoch + 1, values)
        self.track.add(record, self.task.early_stopping, lambda: tuple(self.model.get_weights()))
        self.phase.on_epoch(record)
        self.model.stop_training = self.track.ended
        if not self.phase.last and (self.track.ended or epoch + 1 == self.phase.stop):
            # Not after `fit`, which may put an average in the place of the weights (EMA).
            self.state = [a[None, None] for a in _arrays(self.compiled.variables)]
