"""The compiled functions of a cohort: many lanes of one Keras model, trained and evaluated in one program.

Everything that differs between lanes is state with two leading axes, seeds × cells: weights, optimizer,
dropout's random state, coefficients of the penalties. The rest is one unmodified Keras model, whose own
``compute_loss_and_updates`` and whose optimizer's ``stateless_apply`` are traced once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax import lax
from numpy.typing import NDArray

from shrinkage.recipe import strip
from shrinkage.training.charged import Places
from shrinkage.training.choose import Lowering
from shrinkage.training.constraints import constrain
from shrinkage.training.crew import Crew
from shrinkage.training.initial import initialise, seed_dropout, with_fresh_names
from shrinkage.training.jax_programs import Programs
from shrinkage.training.keras_loop import OptimizerState, make_optimizer
from shrinkage.training.lowering import lowered, traced
from shrinkage.training.metrics import leaves
from shrinkage.training.objective import measure_data_loss
from shrinkage.training.proximal import is_proximal
from shrinkage.training.smoothing import smoothed
from shrinkage.training.task import Cell, Task

Arrays = list[Any]


class Rows(NamedTuple):
    """Rows on the device: inputs, targets and, where the task has them, sample weights."""

    x: Any
    y: Any
    weights: Any = None

    def take(self, index: Any) -> Rows:
        """Return the rows at ``index``."""
        return Rows(*(None if a is None else jnp.take(a, index, axis=0, mode="clip") for a in self))


class State(NamedTuple):
    """What a lane carries from step to step; ``sums`` are Σ penalty · n, Σ data loss · n and Σ n."""

    trainable: Arrays
    non_trainable: Arrays
    optimizer: Arrays
    sums: Any


class Lanes:
    """A task's model, compiled for lanes.

    Parameters
    ----------
    task
        The task.
    lowering
        How its step is compiled.
    crew
        Whose workers call its programs; what is done with its model, which knows one thread, they ask for.
    """

    def __init__(self, task: Task, lowering: Lowering, crew: Crew | None = None) -> None:
        self.task, self.lowering = task, lowering
        self.model = model = with_fresh_names(task.build)
        strip(model)
        self.places = Places(model, task.recipes)
        constrain(model, task.max_norm)
        optimizer = make_optimizer(task.optimizer, task.learning_rate, task.weight_decay)
        model.compile(optimizer=optimizer, loss=task.objective.loss, metrics=list(task.objective.metrics))
        measure_data_loss(model, smoothed(task.objective.loss, task.label_smoothing))
        model.optimizer.build(model.trainable_variables)
        model._symbolic_build(data_batch=task.batch(np.zeros(1, np.intp)))
        self._weights = [np.array(v) for v in model.weights]
        self._optimizer = OptimizerState(model)
        self._rate = _place_of_rate(model)
        self._metrics = [jnp.zeros_like(v.value) for v in model.metrics_variables]
        self._programs = Programs(crew or Crew(), lowering.options)
        self._starts: dict[int, list[NDArray[Any]]] = {}

    def traced(self) -> tuple[int, int]:
        """Return how many costly equations a lane's forward pass has, and how many bytes a step takes."""
        state = State(*([v.value for v in part] for part in self._parts), jnp.zeros(3))  # type: ignore[call-arg]
        charged = [c[0] for c in self.places.coefficients([Cell(next(iter(self.task.recipes)), 1.0)])]
        rows = Rows(*map(jnp.asarray, self.task.batch(np.zeros(self.task.batch_size, np.intp))))

        def forward(state: State, charged: Arrays, rows: Rows) -> Any:
            parts = (state.trainable, state.non_trainable, self._metrics, state.optimizer)
            return self._objective(parts, charged, rows, training=True)[0]

        costly, results = traced(forward, state, charged, rows)
        return costly, results + sum(a.nbytes for a in jax.tree.leaves(state))

    @property
    def _parts(self) -> tuple[Sequence[Any], Sequence[Any], Sequence[Any]]:
        model = self.model
        return model.trainable_variables, model.non_trainable_variables, model.optimizer.variables

    # --- what lanes start from ------------------------------------------------------------------------

    def initial(
        self,
        seeds: Sequence[int],
        cells: Sequence[Cell],
        starts: Mapping[tuple[int, int], Sequence[NDArray[Any]]] | None = None,
    ) -> State:
        """Return the state before the first step, with axes seeds × cells.

        ``starts`` are the weights of the places that begin from others than the model's.
        """
        # Drawing takes long; the next cohort often has the same seeds.
        self._starts = {seed: self._starts.get(seed) or self._start(seed) for seed in seeds}
        drawn = [self._starts[seed] for seed in seeds]
        stacked = [np.stack(each) for each in zip(*drawn, strict=True)]
        spread = [np.repeat(a[:, None], len(cells), axis=1) for a in stacked]
        for place, given in (starts or {}).items():
            for leaf, value in zip(spread, self._start(seeds[place[0]], given), strict=True):
                leaf[place] = value
        if self._rate is not None:
            for column, cell in enumerate(cells):
                rate = self.task.rate(cell.arm)
                if rate is not None:
                    spread[self._rate][:, column] = rate
        return self.unflattened([*spread, np.zeros((len(seeds), len(cells), 3), np.float32)])

    def like(self, seeds: int, cells: int) -> list[tuple[tuple[int, ...], Any]]:
        """Return the shapes and dtypes of a state's arrays, in the order of its leaves."""
        found = [((seeds, cells, *v.shape), v.dtype) for part in self._parts for v in part]
        return [*found, ((seeds, cells, 3), "float32")]

    def unflattened(self, leaves: Sequence[NDArray[Any]]) -> State:
        """Return the state with these leaves."""
        n, m = len(self.model.trainable_variables), len(self.model.non_trainable_variables)
        *parts, sums = leaves
        return State(list(parts[:n]), list(parts[n : n + m]), list(parts[n + m :]), sums)

    def _start(self, seed: int, given: Sequence[NDArray[Any]] | None = None) -> list[NDArray[Any]]:
        model = self.model
        model.set_weights(list(self._weights if given is None else given))
        if self.task.fresh and given is None:
            initialise(model, seed)
        else:
            seed_dropout(model, seed)
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        return [*(np.array(v) for v in variables), *self._optimizer.start()]

    def holding(self, weights: Sequence[NDArray[Any]], seed: int) -> State:
        """Return the state of one lane that has these weights, in the order of ``model.get_weights()``."""
        model = self.model
        model.set_weights(list(weights))
        seed_dropout(model, seed)
        trainable, rest, optimizer = ([np.array(v)[None, None] for v in part] for part in self._parts)
        return State(trainable, rest, optimizer, np.zeros((1, 1, 3), np.float32))

    def weights_of(
        self, state: State, place: tuple[int, int], final: bool = True
    ) -> tuple[NDArray[Any], ...]:
        """Return a lane's weights in the order of ``model.get_weights()``.

        ``final``: as after the last epoch, where an optimizer may put its average in their place.
        """
        model = self.model
        trainable, non_trainable, optimizer = (
            [np.asarray(a[place]) for a in part]
            for part in (state.trainable, state.non_trainable, state.optimizer)
        )
        values = {id(v): a for v, a in zip(model.trainable_variables, trainable, strict=True)}
        values |= {id(v): a for v, a in zip(model.non_trainable_variables, non_trainable, strict=True)}
        found = [values[id(v)] for v in model.weights]
        if final and any(leaf.use_ema for leaf in leaves(model.optimizer)):
            model.set_weights(found)
            for variable, value in zip(model.optimizer.variables, optimizer, strict=True):
                variable.assign(value)
            model.optimizer.finalize_variable_values(model.trainable_variables)
            # Nothing is charged here, so a proximal optimizer does not know which zeros are its own.
            zero = is_proximal(model.optimizer)
            found = [
                np.where(w == 0, w, a) if zero else a for w, a in zip(found, model.get_weights(), strict=True)
            ]
        return tuple(np.array(a) for a in found)

    # --- one lane ---------------------------------------------------------------------------------------

    def _objective(
        self, parts: tuple[Any, ...], charged: Arrays, rows: Rows, *, training: bool
    ) -> tuple[Any, Any]:
        """Return Keras's own objective (loss-scaled) and what it leaves behind, at these coefficients."""
        trainable, rest, metrics, optimizer = parts
        mode = nullcontext() if training else self.model._compile_loss.inference()
        with self.places.charging(charged), mode:
            found, (objective, outputs, rest, metrics) = self.model.compute_loss_and_updates(
                trainable, rest, metrics, *rows, training=training, optimizer_variables=optimizer
            )
        return found, (objective, outputs, list(rest), list(metrics))

    def _gradients(self, state: State, charged: Arrays, rows: Rows) -> tuple[Arrays, Arrays, Any]:
        """Return the gradients, the non-trainable state and what is added to ``sums``."""

        def objective(trainable: Arrays, rest: Arrays, optimizer: Arrays, charged: Arrays, rows: Rows) -> Any:
            parts = (trainable, rest, self._metrics, optimizer)
            found, (objective, _, rest, _) = self._objective(parts, charged, rows, training=True)
            n = jnp.float32(rows.y.shape[0])
            data_loss = self.model._compile_loss.taken()
            # Not the difference of two sums: the penalty of an arm without one is exactly 0.
            penalty = objective - data_loss
            return found, (rest, jnp.stack([penalty * n, data_loss * n, n]))

        function = self._rewritten(objective)
        given = (state.non_trainable, state.optimizer, charged, rows)
        (_, (rest, sums)), gradients = jax.value_and_grad(function, has_aux=True)(state.trainable, *given)
        return gradients, rest, sums

    def _step(self, state: State, charged: Arrays, rows: Rows) -> State:
        """Train one lane on one batch."""
        n, micro = rows.y.shape[0], self.lowering.micro
        if micro and n > micro and n % micro == 0:
            gradients, rest, sums = self._in_micro_batches(state, charged, rows, n // micro)
        else:
            gradients, rest, sums = self._gradients(state, charged, rows)
        with self.places.charging(charged):  # a proximal optimizer asks the weights what they are charged
            trainable, optimizer = self.model.optimizer.stateless_apply(
                state.optimizer, gradients, state.trainable
            )
        return State(list(trainable), list(rest), list(optimizer), state.sums + sums)

    def _in_micro_batches(
        self, state: State, charged: Arrays, rows: Rows, parts: int
    ) -> tuple[Arrays, Arrays, Any]:
        cut = jax.tree.map(lambda a: a.reshape(parts, -1, *a.shape[1:]), rows)

        def add(carry: Any, part: Rows) -> Any:
            gradients, rest, sums = carry
            more, rest, others = self._gradients(state._replace(non_trainable=rest), charged, part)
            return (jax.tree.map(jnp.add, gradients, more), rest, sums + others), None

        start = ([jnp.zeros_like(w) for w in state.trainable], state.non_trainable, jnp.zeros(3))
        (gradients, rest, sums), _ = lax.scan(add, start, cut)
        return [g / parts for g in gradients], rest, sums

    def _test(self, metrics: Arrays, trainable: Arrays, rest: Arrays, charged: Arrays, rows: Rows) -> Arrays:
        """Update one lane's metrics on one batch, in inference mode."""

        def function(metrics: Arrays, trainable: Arrays, rest: Arrays, charged: Arrays, rows: Rows) -> Arrays:
            parts = (trainable, rest, metrics, None)
            _, (objective, outputs, _, metrics) = self._objective(parts, charged, rows, training=False)
            _, metrics = self.model._update_metrics_variables(
                metrics, objective, rows.x, rows.y, outputs, None
            )
            return list(metrics)

        return self._rewritten(function)(metrics, trainable, rest, charged, rows)  # type: ignore[no-any-return]

    def _rewritten(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a forward pass as it is to be compiled."""
        return lowered(function) if self.lowering.rewritten else function

    def _results(self, metrics: Arrays) -> Mapping[str, Any]:
        mapping = list(zip(self.model.metrics_variables, metrics, strict=True))
        with keras.StatelessScope(state_mapping=mapping):
            return {name: jnp.asarray(value) for name, value in self.model.get_metrics_result().items()}

    # --- all lanes, many steps -------------------------------------------------------------------------

    def train(self, state: State, charged: Arrays, rows: Rows, order: Any, start: int, stop: int) -> State:
        """Train all lanes on the batches ``start`` to ``stop`` of ``order`` (seeds × batches × rows)."""
        found: State = self._programs.call("train", self._train, state, charged, rows, order, start, stop)
        return found

    def _train(self, state: State, charged: Arrays, rows: Rows, order: Any, start: Any, stop: Any) -> State:
        lanes = jax.vmap(jax.vmap(self._step, (0, 0, None)), (0, None, 0))

        def body(i: Any, state: State) -> State:
            batch = rows.take(lax.dynamic_index_in_dim(order, i, 1, keepdims=False))
            trained: State = lanes(state, charged, batch)
            return trained

        found: State = lax.fori_loop(start, stop, body, state)
        return found

    def zero_metrics(self, seeds: int, cells: int) -> Arrays:
        """Return the metrics' state before the first batch."""
        return [np.zeros((seeds, cells, *m.shape), m.dtype) for m in self._metrics]

    def test(
        self, metrics: Arrays, state: State, charged: Arrays, rows: Rows, order: Any, start: int, stop: int
    ) -> Arrays:
        """Update the metrics of all lanes on batches ``start`` to ``stop`` (``order``: batches × rows)."""
        parts = (state.trainable, state.non_trainable, charged, rows, order)
        found: Arrays = self._programs.call("test", self._test_many, metrics, *parts, start, stop)
        return found

    def _test_many(
        self, metrics: Arrays, trainable: Arrays, rest: Arrays, charged: Arrays, rows: Rows, order: Any,
        start: Any, stop: Any,
    ) -> Arrays:  # fmt: skip
        lanes = jax.vmap(jax.vmap(self._test, (0, 0, 0, 0, None)), (0, 0, 0, None, None))

        def body(i: Any, metrics: Arrays) -> Arrays:
            batch = rows.take(lax.dynamic_index_in_dim(order, i, 0, keepdims=False))
            tested: Arrays = lanes(metrics, trainable, rest, charged, batch)
            return tested

        found: Arrays = lax.fori_loop(start, stop, body, metrics)
        return found

    def results(self, metrics: Arrays) -> Mapping[str, NDArray[Any]]:
        """Return every metric's value, seeds × cells."""
        found = self._programs.call("results", jax.vmap(jax.vmap(self._results)), metrics, donated=False)
        return {name: np.asarray(value) for name, value in found.items()}


def _place_of_rate(model: Any) -> int | None:
    """Return which leaf of a state is the learning rate; None where a schedule gives it."""
    before = len(model.trainable_variables) + len(model.non_trainable_variables)
    rate = model.optimizer.learning_rate
    return next((before + i for i, v in enumerate(model.optimizer.variables) if v is rate), None)
