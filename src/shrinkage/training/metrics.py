"""By how much each of Keras's optimizers moves a coordinate for a unit of gradient: its step's metric.

An update is ``w ← w − D · direction``. A proximal step that ends it has to shrink by the same D, a coordinate
at a time, or its fixed point is not the minimum of the objective. Each formula is read off Keras's own
``update_step`` and takes the optimizer's state after the update; what it needs from before is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
from keras import ops, optimizers

from shrinkage.errors import ModelError

Tensor = Any


@dataclass(frozen=True)
class Update:
    """One variable in one update: what a metric may look at."""

    optimizer: Any
    index: int
    rate: Tensor
    gradient: Tensor
    before: Tensor

    @property
    def step(self) -> Tensor:
        """The number of this update, from 1."""
        return ops.cast(ops.add(self.optimizer.iterations, 1), self.rate.dtype)

    def state(self, name: str) -> Tensor:
        """Return the optimizer's state of this variable."""
        return ops.convert_to_tensor(getattr(self.optimizer, name)[self.index])

    def unbiased(self, name: str, beta: float) -> Tensor:
        """Return a moving average less its bias towards its start at zero."""
        decayed = ops.power(ops.cast(beta, self.rate.dtype), self.step)
        return ops.divide(self.state(name), ops.subtract(1.0, decayed))


def _sgd(u: Update) -> Tensor:
    return u.rate


def _rmsprop(u: Update) -> Tensor:
    squares = ops.add(u.state("_velocities"), u.optimizer.epsilon)
    if u.optimizer.centered:
        squares = ops.subtract(squares, ops.square(u.state("_average_gradients")))
    return ops.divide(u.rate, ops.sqrt(squares))


def _adam(u: Update) -> Tensor:
    o = u.optimizer
    return _adams(u, u.rate, o.beta_1, o.beta_2, "_velocity_hats" if o.amsgrad else "_velocities")


def _adams(u: Update, rate: Tensor, beta_1: float, beta_2: float, squares: str) -> Tensor:
    first, second = (ops.subtract(1.0, ops.power(ops.cast(b, rate.dtype), u.step)) for b in (beta_1, beta_2))
    rate = ops.divide(ops.multiply(rate, ops.sqrt(second)), first)
    return ops.divide(rate, ops.add(ops.sqrt(u.state(squares)), u.optimizer.epsilon))


def _nadam(u: Update) -> Tensor:
    squares = u.unbiased("_velocities", u.optimizer.beta_2)
    return ops.divide(u.rate, ops.add(ops.sqrt(squares), u.optimizer.epsilon))


def _adamax(u: Update) -> Tensor:
    o = u.optimizer
    decayed = ops.power(ops.cast(o.beta_1, u.rate.dtype), u.step)
    return ops.divide(u.rate, ops.multiply(ops.subtract(1.0, decayed), ops.add(u.state("_u"), o.epsilon)))


def _adagrad(u: Update) -> Tensor:
    return ops.divide(u.rate, ops.sqrt(ops.add(u.state("_accumulators"), u.optimizer.epsilon)))


def _adadelta(u: Update) -> Tensor:
    epsilon = u.optimizer.epsilon
    moved, seen = ops.add(u.before, epsilon), ops.add(u.state("_accumulated_grads"), epsilon)
    return ops.multiply(u.rate, ops.divide(ops.sqrt(moved), ops.sqrt(seen)))


def _adafactor(u: Update) -> Tensor:
    o, slowest = u.optimizer, ops.divide(1.0, ops.sqrt(u.step))
    # relative_step is the same minimum again.
    rate = ops.minimum(u.rate, slowest)
    size = ops.maximum(ops.cast(o.epsilon_2, u.rate.dtype), _rms(u.before))
    root = ops.sqrt(u.state("_v"))
    clip = ops.maximum(1.0, ops.divide(_rms(ops.divide(u.gradient, root)), o.clip_threshold))
    return ops.divide(ops.multiply(size, rate), ops.multiply(root, clip))


def _lamb(u: Update) -> Tensor:
    o = u.optimizer
    root = ops.add(ops.sqrt(u.unbiased("_velocities", o.beta_2)), o.epsilon)
    size, moved = _norm(u.before), _norm(ops.divide(u.unbiased("_momentums", o.beta_1), root))
    safe = ops.where(ops.greater(moved, 0), moved, ops.ones_like(moved))
    both = ops.logical_and(ops.greater(size, 0), ops.greater(moved, 0))
    ratio = ops.where(both, ops.divide(size, safe), ops.ones_like(safe))
    return ops.divide(ops.multiply(ratio, u.rate), root)


def _muon(u: Update) -> Tensor:
    o = u.optimizer
    rate = ops.multiply(u.rate, o.adam_lr_ratio)
    return _adams(u, rate, o.adam_beta_1, o.adam_beta_2, "adam_velocities")


def _rms(x: Tensor) -> Tensor:
    return ops.sqrt(ops.mean(ops.square(x)))


def _norm(x: Tensor) -> Tensor:
    return ops.sqrt(ops.sum(ops.square(x)))


def _weight(optimizer: Any, index: int, weight: Tensor) -> Tensor:
    return ops.copy(weight)


def _moved(optimizer: Any, index: int, weight: Tensor) -> Tensor:
    return ops.copy(ops.convert_to_tensor(optimizer._accumulated_delta_vars[index]))


def _nothing(optimizer: Any, index: int, weight: Tensor) -> None:
    return None


class Metric(NamedTuple):
    """D of one optimizer, and what it has to remember from before the update."""

    step: Callable[[Update], Tensor]
    before: Callable[[Any, int, Tensor], Any] = _nothing


_METRICS: dict[Any, Metric] = {
    optimizers.SGD: Metric(_sgd),
    optimizers.RMSprop: Metric(_rmsprop),
    optimizers.Adam: Metric(_adam),  # AdamW's decay is a step of its own
    optimizers.Nadam: Metric(_nadam),
    optimizers.Adamax: Metric(_adamax),
    optimizers.Adagrad: Metric(_adagrad),
    optimizers.Adadelta: Metric(_adadelta, _moved),
    optimizers.Adafactor: Metric(_adafactor, _weight),
    optimizers.Lamb: Metric(_lamb, _weight),
    optimizers.Muon: Metric(_muon),  # on vectors and convolutions, which it hands to AdamW
}
_REFUSED = {
    "Lion": "its step is a gradient's sign, which has no fixed point at the minimum",
    "Muon": "it makes a matrix's gradient orthogonal, so that no coordinate has a step of its own",
    "Ftrl": "it computes the weight anew from its sums of gradients, and undoes any change made after it",
    "ScheduleFreeAdamW": "what it trains is a running average, which stays dense",
}
_REFUSAL = (
    "Proximal can't wrap {name}: {why}. Take one of SGD, RMSprop, Adam, AdamW, Nadam, Adamax, Adagrad, "
    "Adadelta, Adafactor and Lamb, or give your own optimizer a method "
    "proximal_metric(variable, learning_rate) that returns its step a coordinate."
)


def metric_of(optimizer: Any) -> Metric:
    """Return the metric of an optimizer's step.

    Raises
    ------
    ModelError
        If none is known, with the reason.
    """
    own = getattr(optimizer, "proximal_metric", None)
    if own is not None:
        return Metric(lambda u: own(u.optimizer._trainable_variables[u.index], u.rate))
    for cls, metric in _METRICS.items():
        # A subclass that makes another update of it has another step.
        if isinstance(optimizer, cls) and getattr(type(optimizer), "update_step", None) is cls.update_step:
            return metric
    name = type(optimizer).__name__
    why = _REFUSED.get(name) if type(optimizer).__module__.startswith("keras.") else None
    raise ModelError(_REFUSAL.format(name=name, why=why or "the step that it makes is not known"))


def check_covered(optimizer: Any, variable: Any) -> None:
    """Check that an optimizer with a metric has one for this variable: Muon has none for a matrix.

    Raises
    ------
    ModelError
        If it has not.
    """
    on_matrix = isinstance(optimizer, optimizers.Muon) and not optimizer._should_use_adamw(variable)
    if on_matrix and getattr(optimizer, "proximal_metric", None) is None:
        raise ModelError(_REFUSAL.format(name="Muon on a matrix", why=_REFUSED["Muon"]))


class Buffer(NamedTuple):
    """Where a momentum sums up steps, and how a displacement of the weight is written into it."""

    variable: Any
    factor: float


def momentum_of(optimizer: Any, index: int) -> Buffer | None:
    """Return the variable's momentum, if the optimizer keeps one that sums steps.

    Keras's heavy ball multiplies a lasting gradient by 1 / (1 − μ), so a shrinkage by D · strength alone has
    the fixed point of strength (1 − μ). Written into the buffer, the displacement is carried on like a
    gradient's, and with Nesterov's, which stores the point ahead, as 1 / μ of it.
    """
    if isinstance(optimizer, optimizers.SGD) and optimizer.momentum:
        factor = 1 / optimizer.momentum if optimizer.nesterov else 1.0
        return Buffer(optimizer.momentums[index], factor)
    if isinstance(optimizer, optimizers.RMSprop) and optimizer.momentum > 0:
        return Buffer(optimizer._momentums[index], -1.0)
    return None


def clipping(optimizer: Any, gradient: Tensor, clipped: Tensor) -> Tensor:
    """Return by what factor clipping shortened a gradient; the step of the prox has to be as much shorter.

    At the minimum the data gradient is not zero but balances the penalty, so clipping goes on for ever and
    would change the strength.
    """
    if optimizer.clipvalue:
        size = ops.abs(gradient)
        limit = ops.cast(optimizer.clipvalue, size.dtype)
        return ops.where(
            ops.greater(size, limit), ops.divide(limit, ops.maximum(size, limit)), ops.ones_like(size)
        )
    size, left = _norm(gradient), _norm(clipped)
    safe = ops.where(ops.greater(size, 0), size, ops.ones_like(size))
    return ops.where(ops.greater(size, 0), ops.divide(left, safe), ops.ones_like(size))


def leaves(optimizer: Any) -> list[Any]:
    """Return the optimizers that make updates: those inside ours, LossScaleOptimizer and MultiOptimizer."""
    if hasattr(optimizer, "unwrap"):
        return leaves(optimizer.unwrap())
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return leaves(optimizer.inner_optimizer)
    if isinstance(optimizer, keras.optimizers.MultiOptimizer):
        return [leaf for part in optimizer.optimizers for leaf in leaves(part)]
    return [optimizer]
