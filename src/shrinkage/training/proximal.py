"""Proximal(optimizer): a penalty's kink is dealt with by a proximal step, in the optimizer's own metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import keras
from keras import ops

from shrinkage.errors import ModelError
from shrinkage.penalties import LiveStrength, Penalty
from shrinkage.recipe.place import as_penalty
from shrinkage.recipe.units import Coupled, Sum, Unit
from shrinkage.training.metrics import Update, check_covered, clipping, leaves, metric_of, momentum_of

Tensor = Any


@keras.saving.register_keras_serializable("shrinkage")
class Proximal(keras.optimizers.Optimizer):  # type: ignore[misc]  # Keras has no type information
    """Wraps an optimizer so that L1, elastic net and group lasso give exact zeros.

    The non-smooth part of the penalties on weights is taken out of the gradient (it stays in the loss that is
    reported), and after each update the weights take its proximal step, with the step that this optimizer
    makes in each coordinate: w ← argmin_u Σ (u − w)² / (2 D) + Ω(u). Smooth parts, such as the square of an
    elastic net, and penalties on outputs stay in the gradient. A weight that is zero comes back when the
    data's gradient on it outgrows the strength.

    Parameters
    ----------
    optimizer
        SGD, RMSprop, Adam, AdamW, Nadam, Adamax, Adagrad, Adadelta, Adafactor or Lamb, by name or as an
        object, with any of Keras's options; LossScaleOptimizer or MultiOptimizer around them; or an optimizer
        of your own that has a method ``proximal_metric(variable, learning_rate)``, which is called after its
        update and returns by how much that moved each coordinate for a unit of gradient.
    freeze_support
        Keep what is zero now at zero, and train the rest without the shrinkage: the second stage that takes
        the bias out of the weights that were selected ("debiasing"). Under a group lasso the zeros are
        those of whole units.
    name
        As in Keras.

    Raises
    ------
    ModelError
        If the optimizer has no such metric: Lion, Muon (on matrices), Ftrl and ScheduleFreeAdamW have none.

    Notes
    -----
    The subgradient leaves no weight at exactly zero, and neither does a soft threshold by the plain learning
    rate under an adaptive optimizer, whose step differs from coordinate to coordinate. Proximal steps in a
    variable metric: Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and stochastic
    optimization", 2011; Yun, Lozano & Yang, "Adaptive proximal gradient methods for structured neural
    networks", 2021. Momentum that sums steps (SGD's and RMSprop's) is given the displacement of the prox, and
    a clipped gradient shortens the prox by as much; without that, the fixed point is that of another
    strength. Under ``use_ema``, whose average of sparse weights is dense, the last weights' zeros are put
    into it when training ends.

    The gradients that it is given are those of the whole objective, penalties included, as Keras's ``fit``
    hands them over. A file that is saved with this optimizer needs this package to load, unless
    ``compile=False``.

    Examples
    --------
    >>> import keras, numpy as np, shrinkage
    >>> x = np.random.default_rng(0).normal(size=(64, 8)).astype("float32")
    >>> head = keras.layers.Dense(1, use_bias=False, kernel_regularizer=shrinkage.L1(0.2))
    >>> model = keras.Sequential([keras.Input((8,)), head])
    >>> model.compile(shrinkage.Proximal(keras.optimizers.Adam(0.05)), "mse")
    >>> _ = model.fit(x, 2 * x[:, 0], epochs=100, batch_size=64, verbose=0)
    >>> int(np.sum(head.get_weights()[0] == 0))
    7
    """

    built: bool

    def __init__(self, optimizer: Any, freeze_support: bool = False, name: str = "proximal") -> None:
        inner = keras.optimizers.get(optimizer)
        for leaf in leaves(inner):
            metric_of(leaf)
        # In a namespace: Keras saves the variables of every optimizer that it finds in an attribute.
        self.__dict__["_held"] = SimpleNamespace(inner=inner)
        super().__init__(
            learning_rate=0.0, loss_scale_factor=getattr(inner, "loss_scale_factor", None), name=name
        )
        self.freeze_support = bool(freeze_support)

    @property
    def proximal(self) -> bool:
        """True: how a proximal optimizer is known, here and in :func:`shrinkage.check`."""
        return True

    def unwrap(self) -> Any:
        """Return the optimizer inside."""
        return self._held.inner

    # --- the update ---------------------------------------------------------------------------------------

    def apply(self, grads: Sequence[Tensor], trainable_variables: Sequence[Any] | None = None) -> None:
        """Update the variables by these gradients; see Keras's ``Optimizer.apply``."""
        if not self.built:
            self.build(list(trainable_variables or ()))
        with self._hooks():
            self.unwrap().apply(grads, trainable_variables)

    def stateless_apply(
        self,
        optimizer_variables: Sequence[Tensor],
        grads: Sequence[Tensor],
        trainable_variables: Sequence[Tensor],
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return updated variables and state; see Keras's ``Optimizer.stateless_apply``."""
        inner = self.unwrap()
        mine = len(inner.variables)
        own, strengths = list(optimizer_variables[:mine]), optimizer_variables[mine:]
        held = dict(zip(map(id, self._strengths()), strengths, strict=True))
        with self._hooks(held):
            trained, state = inner.stateless_apply(own, grads, trainable_variables)
        return list(trained), [*state, *strengths]

    @contextmanager
    def _hooks(self, strengths: dict[int, Tensor] | None = None) -> Iterator[None]:
        """Let the inner optimizers take proximal steps, for as long as one update takes."""
        hooks = [_Hook(leaf, self.freeze_support, strengths or {}) for leaf in leaves(self.unwrap())]
        for hook in hooks:
            hook.install()
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _strengths(self) -> list[LiveStrength]:
        held = [as_penalty(getattr(v, "regularizer", None)) for v in self._trainable_variables]
        live = [p.live for p in held if p is not None and p.live is not None]
        return list({id(strength): strength for strength in live}.values())

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """End training as the inner optimizer does; an average gets the zeros of the last weights."""
        kept = []
        if any(leaf.use_ema for leaf in leaves(self.unwrap())):
            kept = [(b, b.support(b.values())) for b in _blocks(self._trainable_variables, {})]
        self.unwrap().finalize_variable_values(var_list)
        for block, support in kept:
            block.keep(support)

    # --- everything else is the inner optimizer's -----------------------------------------------------------

    def build(self, variables: Sequence[Any]) -> None:
        """Build the inner optimizer."""
        if self.built:
            return
        self.unwrap().build(variables)
        for leaf in leaves(self.unwrap()):
            # A LossScaleOptimizer builds what is in it untracked, and Nadam's product of momenta would never
            # change (Keras 3.15).
            for state in vars(leaf).values():
                if isinstance(state, keras.Variable) and not any(state is known for known in leaf._variables):
                    leaf._track_variable(state)
        for variable in variables:
            # Keras's own L1 has another gradient at zero than the one that is taken out.
            penalty = as_penalty(getattr(variable, "regularizer", None))
            if penalty is not None and not isinstance(variable.regularizer, Penalty | Coupled):
                variable.regularizer = penalty
        for leaf in leaves(self.unwrap()):
            _Hook(leaf, self.freeze_support, {}).blocks(leaf._trainable_variables)  # to refuse early
        self.__dict__["_trainable_variables"] = list(variables)
        self.built = True

    @property
    def variables(self) -> list[Any]:
        """The inner optimizer's state, and the strengths that can change between steps."""
        return [*self.unwrap().variables, *(live.twin for live in self._strengths())]

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate."""
        return self.unwrap().learning_rate

    @learning_rate.setter
    def learning_rate(self, value: Any) -> None:
        self.unwrap().learning_rate = value

    @property
    def iterations(self) -> Any:
        """The inner optimizer's count of updates."""
        return self.unwrap().iterations

    @property
    def loss_scale_factor(self) -> Any:
        """The inner optimizer's factor of the loss."""
        return getattr(self.unwrap(), "loss_scale_factor", None)

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: Any) -> None:
        self.unwrap().loss_scale_factor = value

    def scale_loss(self, loss: Tensor) -> Tensor:
        """Return the loss as the inner optimizer scales it."""
        return self.unwrap().scale_loss(loss)

    def exclude_from_weight_decay(self, var_list: Any = None, var_names: Any = None) -> None:
        """Exclude variables from the inner optimizer's weight decay."""
        self.unwrap().exclude_from_weight_decay(var_list, var_names)

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set the inner optimizer's state."""
        self.unwrap().set_weights(weights)

    def save_own_variables(self, store: Any) -> None:
        """Save the inner optimizer's state, as it would itself."""
        self.unwrap().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Load the inner optimizer's state."""
        self.unwrap().load_own_variables(store)

    def get_config(self) -> dict[str, Any]:
        """Return the inner optimizer's config, and what was given here."""
        inner = keras.optimizers.serialize(self.unwrap())
        return {"optimizer": inner, "freeze_support": self.freeze_support, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Proximal:
        """Return the optimizer of a config."""
        inner = keras.optimizers.deserialize(config["optimizer"], custom_objects=custom_objects)
        return cls(inner, config["freeze_support"], config["name"])

    def __getattr__(self, name: str) -> Any:
        # Callbacks ask an optimizer for what Keras's base class has not, such as its averages. That class's
        # constructor, which ends with the learning rate, must find nothing of the inner one's.
        if name.startswith("__") or "_learning_rate" not in vars(self):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self._held.inner, name)


def is_proximal(optimizer: Any) -> bool:
    """Return whether an optimizer, or one inside a LossScaleOptimizer, is proximal."""
    inner = getattr(optimizer, "inner_optimizer", None)
    return isinstance(optimizer, Proximal) or (inner is not None and is_proximal(inner))


@dataclass(frozen=True)
class _Block:
    """Variables whose penalty has a kink and is charged on them together; mostly one."""

    variables: tuple[Any, ...]
    unit: Unit | None
    penalty: Penalty
    strength: Tensor | None

    def values(self) -> list[Tensor]:
        return [ops.copy(ops.convert_to_tensor(v)) for v in self.variables]

    def slope(self, values: Sequence[Tensor]) -> list[Tensor]:
        return self._through(lambda w: self.penalty.slope(w, self.strength), values)

    def shrunk(self, values: Sequence[Tensor], steps: Sequence[Tensor]) -> list[Tensor]:
        return self._through(lambda w, d: self.penalty.shrink(w, d, self.strength), values, steps)

    def support(self, values: Sequence[Tensor]) -> list[Tensor]:
        return self._through(lambda w: ops.cast(self.penalty.support(w), w.dtype), values)

    def keep(self, support: Sequence[Tensor]) -> None:
        """Set to zero what is not in the support."""
        self.assign([ops.multiply(v, mask) for v, mask in zip(self.values(), support, strict=True)])

    def assign(self, values: Sequence[Tensor]) -> None:
        for variable, value in zip(self.variables, values, strict=True):
            variable.assign(value)

    def _through(self, formula: Callable[..., Tensor], *arrays: Sequence[Tensor]) -> list[Tensor]:
        if self.unit is None:
            return [formula(*(each[0] for each in arrays))]
        return self.unit.split(formula(*map(self.unit.gathered, arrays)))


def _blocks(variables: Sequence[Any], strengths: dict[int, Tensor]) -> list[_Block]:
    """Return the blocks among these variables.

    Raises
    ------
    ModelError
        If a unit's weights are not all among them.
    """
    known, found = {id(v) for v in variables}, []
    for variable in variables:
        regularizer = getattr(variable, "regularizer", None)
        for part in regularizer.parts if isinstance(regularizer, Sum) else (regularizer,):
            unit, penalty = (part.unit, part.penalty) if isinstance(part, Coupled) else (None, part)
            if not isinstance(penalty, Penalty) or not penalty.sparsifying:
                continue
            members = (variable,) if unit is None else unit.variables
            if unit is not None and any(id(member) not in known for member in members):
                raise ModelError(
                    f"The weights of the unit {unit.name!r} are charged together, but are not all trained by "
                    "one optimizer: give them one, or charge the target kernel instead of unit."
                )
            found.append(_Block(members, unit, penalty, _strength(penalty, strengths)))
    return found


def _strength(penalty: Penalty, strengths: dict[int, Tensor]) -> Tensor | None:
    """Return the value of a live strength, as the running step is given it, or the present one."""
    live = penalty.live
    given = None if live is None else strengths.get(id(live))
    # Where a step is given one, the present one may have been handed over to it.
    return live.twin.value if live is not None and given is None else given


class _Hook:
    """Puts the proximal step into one optimizer's update, by standing in for four of its methods.

    Before accumulation and clipping the slope of the kink is taken out of the gradients; what clipping did to
    them is noted; the prox follows the update, before averages and constraints; and where an average is
    written into the weights in mid-training, it gets their zeros.
    """

    _METHODS = (
        "_backend_apply_gradients",
        "_clip_gradients",
        "_backend_update_step",
        "_update_model_variables_moving_average",
    )

    def __init__(self, optimizer: Any, freeze: bool, strengths: dict[int, Tensor]) -> None:
        self.optimizer, self.freeze, self.strengths = optimizer, freeze, strengths
        self.metric = metric_of(optimizer)
        self.inner = {name: getattr(optimizer, name) for name in self._METHODS}
        self.clipped: Sequence[Tensor] = ()
        self.supports: list[tuple[_Block, list[Tensor]]] = []

    def install(self) -> None:
        vars(self.optimizer).update({name: getattr(self, name) for name in self._METHODS})

    def remove(self) -> None:
        for name in self._METHODS:
            del vars(self.optimizer)[name]

    def blocks(self, variables: Sequence[Any]) -> list[_Block]:
        """Return the blocks among the optimizer's variables, each of which must have a metric."""
        found = _blocks(variables, self.strengths)
        for variable in (v for block in found for v in block.variables):
            check_covered(self.optimizer, variable)
        return found

    def _backend_apply_gradients(self, grads: Sequence[Tensor], variables: Sequence[Any]) -> None:
        smooth = {id(v): g for v, g in zip(variables, grads, strict=True)}
        for block in self.blocks(variables):
            for variable, slope in zip(block.variables, block.slope(block.values()), strict=True):
                gradient = smooth[id(variable)]
                smooth[id(variable)] = ops.subtract(gradient, ops.cast(slope, gradient.dtype))
        self.inner["_backend_apply_gradients"](list(smooth.values()), variables)
        for block, support in self.supports:
            block.keep(support)

    def _clip_gradients(self, grads: Sequence[Tensor]) -> Sequence[Tensor]:
        clipped: Sequence[Tensor] = self.inner["_clip_gradients"](grads)
        if clipped is not grads:
            self.clipped = [clipping(self.optimizer, g, c) for g, c in zip(grads, clipped, strict=True)]
        return clipped

    def _backend_update_step(
        self, grads: Sequence[Tensor], variables: Sequence[Any], learning_rate: Any
    ) -> None:
        blocks = self.blocks(variables)
        before = [block.values() for block in blocks]
        past = [list(map(self._before, b.variables, w0)) for b, w0 in zip(blocks, before, strict=True)]
        self.inner["_backend_update_step"](grads, variables, learning_rate)
        place = {id(v): i for i, v in enumerate(variables)}
        for block, w0, remembered in zip(blocks, before, past, strict=True):
            if self.freeze:
                block.keep(block.support(w0))
                continue
            steps = []
            for variable, memory in zip(block.variables, remembered, strict=True):
                i, rate = place[id(variable)], ops.cast(learning_rate, variable.dtype)
                update = Update(self.optimizer, self._index(variable), rate, grads[i], memory)
                step = self.metric.step(update)
                steps.append(ops.multiply(step, self.clipped[i]) if self.clipped else step)
            self._shrink(block, steps)

    def _before(self, variable: Any, value: Tensor) -> Any:
        return self.metric.before(self.optimizer, self._index(variable), value)

    def _shrink(self, block: _Block, steps: Sequence[Tensor]) -> None:
        """Take the proximal step of a block, and tell momentum of it."""
        values = block.values()
        shrunk = block.shrunk(values, steps)
        block.assign(shrunk)
        for variable, value, new in zip(block.variables, values, shrunk, strict=True):
            buffer = momentum_of(self.optimizer, self._index(variable))
            if buffer is not None:
                moved = ops.multiply(ops.subtract(new, value), buffer.factor)
                buffer.variable.assign(ops.add(buffer.variable, moved))

    def _update_model_variables_moving_average(self, variables: Sequence[Any]) -> None:
        self.inner["_update_model_variables_moving_average"](variables)
        if self.optimizer.ema_overwrite_frequency:
            self.supports = [(b, b.support(b.values())) for b in self.blocks(variables)]

    def _index(self, variable: Any) -> int:
        found: int = self.optimizer._get_variable_index(variable)
        return found
