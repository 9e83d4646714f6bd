"""A linter for regularization: what is set but does nothing, or does something else than was meant.

A rule is one function of a :class:`View`, listed in ``RULES``, and its advice in ``_WHY_AND_ADVICE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import Any

import keras
import numpy as np
from keras import ops

from shrinkage.penalties import Penalty
from shrinkage.recipe.charges import (
    Charge,
    activity_charges,
    as_penalty,
    charges,
    data_loss,
    pair,
    weight_charge,
)
from shrinkage.recipe.findings import Finding, Findings
from shrinkage.recipe.flow import Call, Flow, is_homogeneous, is_normalization
from shrinkage.recipe.place import unwrap
from shrinkage.recipe.select import ACTIVITY, Site, Weight, config_key, sites, weights

_OFF = "take it off ('<layer>: <target> = none')"
_WHY_AND_ADVICE = {
    "SH101": (
        "Keras reads this attribute when it builds a layer and when it saves one; what it charges is kept "
        "with the weight. So what is saved is not what is trained.",
        "Set penalties on a built model with shrinkage.apply, which changes both.",
    ),
    "SH102": (
        "Keras charges trainable weights only, and a frozen one would not move.",
        f"Unfreeze the layer and compile again, or {_OFF}.",
    ),
    "SH103": (
        "It charges nothing. Keras's L1L2() without arguments, and its text 'l1l2', have strength 0.",
        f"Give it a strength, or {_OFF}.",
    ),
    "SH201": (
        "The normalization undoes any scaling of the weight, so the penalty limits no capacity. It sets the "
        "weight's size, and by that the effective learning rate (van Laarhoven, 2017).",
        f"Unless you mean it as a control of the learning rate, {_OFF}.",
    ),
    "SH202": (
        "The normalization subtracts each channel's mean, and with it the bias, which so has no effect.",
        "Build the layer with use_bias=False: the normalization has an offset of its own (beta).",
    ),
    "SH203": (
        "Both shrink the weight: neither number means what it means alone.",
        f"Set weight_decay to None (AdamW: 0), call optimizer.exclude_from_weight_decay, or {_OFF}.",
    ),
    "SH204": (
        "The penalty is a constant: it is charged, but has no gradient.",
        "Charge the logits, or an earlier layer.",
    ),
    "SH205": (
        "A subgradient step jumps over zero instead of stopping there: weights become small, none exactly 0.",
        "Compile with shrinkage.Proximal(optimizer), whose zeros are exact, if units are to be removed; as a "
        "penalty on large weights, all is well.",
    ),
    "SH301": (
        "A sum in float16 overflows beyond 65504, and the loss becomes infinite.",
        "Put the penalty on with shrinkage.apply, or use shrinkage's class of its name: they sum in float32.",
    ),
    "SH302": (
        "A sum in bfloat16 keeps 8 bits: the reported penalty and objective have two correct digits.",
        "Put the penalty on with shrinkage.apply, or use shrinkage's class of its name: they sum in float32.",
    ),
    "SH303": (
        "Training will lower the penalties first, and may never fit the data.",
        "Lower the strength, or look for a better one with a study.",
    ),
}


def _finding(code: str, place: str, message: str) -> Finding:
    return Finding(code, place, message, *_WHY_AND_ADVICE[code])


class View:
    """What a rule looks at: the model, what is set on it, and (x, y) if data was given."""

    def __init__(self, model: Any, data: Any = None) -> None:
        self.model = model
        self.data = None if data is None else pair(data, "data", model)
        self.sites: tuple[Site, ...] = sites(model)
        self.weights: tuple[Weight, ...] = weights(model)
        self.charges: tuple[Charge, ...] = charges(model)

    @cached_property
    def flow(self) -> Flow:
        """The model's graph."""
        return Flow(self.model)

    def on_weights(self) -> Iterator[tuple[str, Weight, Penalty]]:
        """Yield place, weight and penalty of each known penalty on a trained weight, of a strength > 0."""
        for charge in self.charges:
            penalty = charge.penalty
            if charge.weight is not None and not charge.frozen and penalty is not None and penalty.strength:
                yield charge.place, charge.weight, penalty


def _part(penalty: Any, name: str) -> float:
    """Return the coefficient ``l1`` or ``l2`` of a penalty, ours or Keras's; 0 if it has none."""
    known = as_penalty(penalty)
    return dict(zip(known.names, known.numbers(), strict=True)).get(name, 0.0) if known is not None else 0.0


# What is set, and whether it is charged at all.


def not_in_force(view: View) -> Iterator[Finding]:
    """SH101: a layer's attribute holds a penalty, and its weights are charged another or none."""
    for site in view.sites:
        for name, held in vars(site.layer).items():
            public = name.endswith("_regularizer") and not name.startswith("_")
            # An output's penalty has this one place, and is always in force.
            if public and held is not None and name != f"{ACTIVITY}_regularizer":
                yield from _idle(view, site, name, held)


def _idle(view: View, site: Site, name: str, held: Any) -> Iterator[Finding]:
    own = [w for w in view.weights if w.site.layer is site.layer and config_key(site.layer, w.role) == name]
    charged = [(w.path, w.variable.regularizer) for w in own]
    if not own:
        # A composite layer hands its regularizer on to its parts: then one of those is charged it.
        if any(_same(held, getattr(v, "regularizer", None)) for v in site.layer.weights):
            return
        charged = [(site.path, None)]
    for place, regularizer in charged:
        if not _same(held, regularizer):
            told = f"The layer's {name} holds {_shown(held)}, but {_shown(regularizer)} is in force."
            yield _finding("SH101", place, told)


def _same(held: Any, charged: Any) -> bool:
    """Return whether two regularizers charge the same, as far as can be told."""
    held, charged = unwrap(held), unwrap(charged)
    if isinstance(held, (str, dict)):  # as a layer of the user's own may keep it
        try:
            held = keras.regularizers.get(held)
        except (ValueError, TypeError):
            return False
    known = as_penalty(held), as_penalty(charged)
    if known[0] is not None and known[1] is not None:
        return type(known[0]) is type(known[1]) and known[0].numbers() == known[1].numbers()
    if held is charged or type(held) is not type(charged):
        return held is charged
    try:
        return bool(held.get_config() == charged.get_config())
    except (AttributeError, NotImplementedError):
        return True


def _shown(regularizer: Any) -> str:
    penalty = as_penalty(regularizer)
    if penalty is not None:
        return str(penalty.fixed())
    return "nothing" if regularizer is None else getattr(regularizer, "__name__", type(regularizer).__name__)


def frozen(view: View) -> Iterator[Finding]:
    """SH102: a penalty on a weight that is not trained."""
    for charge in view.charges:
        if charge.frozen:
            yield _finding("SH102", charge.place, "A penalty on a frozen weight.")


def zero_strength(view: View) -> Iterator[Finding]:
    """SH103: a strength of 0. A scheduled strength may begin there, and is left alone."""
    for charge in view.charges:
        penalty = charge.penalty
        if penalty is not None and penalty.live is None and not penalty.strength:
            yield _finding("SH103", charge.place, "A penalty of strength 0.")


# What is charged, but does not act as a penalty is meant to.

_CONVOLUTIONS = [f"Conv{n}D{kind}" for n in (1, 2, 3) for kind in ("", "Transpose")]
_CONVOLUTIONS += [f"{kind}Conv{n}D" for n in (1, 2) for kind in ("Separable", "Depthwise")]
_LINEAR = frozenset(getattr(keras.layers, name) for name in ("Dense", "EinsumDense", *_CONVOLUTIONS))


def l2_before_normalization(view: View) -> Iterator[Finding]:
    """SH201: L2 on a kernel, or on a bias, that a normalization makes scale-invariant.

    Let y = σ(W∗x + b) with a positively homogeneous σ: linear, relu, leaky_relu. Scaling W and b by c > 0
    scales y by c, and a normalization of y gives the same as before (up to its ε). So weights of any
    smaller norm compute the same function. With another σ, or where y is read by something else too, it
    is not so; what may stand between is told at :meth:`Flow.is_normalized`.
    """
    for place, weight, penalty in view.on_weights():
        scaled = weight.role.endswith("kernel") or weight.role == "bias"
        if (
            scaled
            and _part(penalty, "l2")
            and _is_scale_free(view, weight)
            and not _is_cancelled(view, weight)
        ):
            yield _finding("SH201", place, "L2 on a weight whose output goes straight into a normalization.")


def _is_scale_free(view: View, weight: Weight) -> bool:
    layer = weight.site.layer
    return type(layer) in _LINEAR and is_homogeneous(layer.activation) and view.flow.is_normalized(layer)


def cancelled_bias(view: View) -> Iterator[Finding]:
    """SH202: a penalty on a bias that a BatchNormalization subtracts again."""
    for place, weight, _ in view.on_weights():
        if _is_cancelled(view, weight):
            yield _finding(
                "SH202", place, "A penalty on a bias that goes straight into a BatchNormalization."
            )


def _is_cancelled(view: View, weight: Weight) -> bool:
    layer = weight.site.layer
    if weight.role != "bias" or len(weight.variable.shape) != 1 or not _is_scale_free(view, weight):
        return False
    first = getattr(layer, "data_format", None) == "channels_first"
    readers = view.flow.after(layer)
    return layer.activation is keras.activations.linear and all(_subtracts(call, first) for call in readers)


def _subtracts(call: Call | None, channels_first: bool) -> bool:
    if call is None or not isinstance(call.operation, keras.layers.BatchNormalization):
        return False
    rank = len(call.node.input_tensors[0].shape)
    return is_normalization(call) and call.operation.axis % rank == (1 if channels_first else rank - 1)


def l2_and_weight_decay(view: View) -> Iterator[Finding]:
    """SH203: an L2 penalty, and the optimizer's weight decay, on one weight."""
    for place, weight, penalty in view.on_weights():
        optimizer, _ = _optimizer_of(view.model, weight.variable)
        decay = _weight_decay(optimizer, weight.variable)
        if decay and _part(penalty, "l2"):
            yield _finding("SH203", place, f"An L2 penalty, and the optimizer's weight decay of {decay:g}.")


def _optimizer_of(model: Any, variable: Any) -> tuple[Any, bool]:
    """Return the optimizer that updates ``variable``, and whether it or one around it is proximal.

    A proximal optimizer says so by an attribute ``proximal`` that is true; one that wraps another returns it
    by ``unwrap()``, or names it ``inner_optimizer``, as Keras's LossScaleOptimizer does.
    """
    optimizer = getattr(model, "optimizer", None)
    proximal = False
    while optimizer is not None:
        proximal = proximal or bool(getattr(optimizer, "proximal", False))
        if isinstance(optimizer, keras.optimizers.MultiOptimizer):
            optimizer = optimizer._optimizer_map(variable)
        elif hasattr(optimizer, "unwrap"):
            optimizer = optimizer.unwrap()
        elif getattr(optimizer, "inner_optimizer", None) is not None:
            optimizer = optimizer.inner_optimizer
        else:
            break
    return optimizer, proximal


def _weight_decay(optimizer: Any, variable: Any) -> float:
    uses = getattr(optimizer, "_use_weight_decay", None)
    if uses is None or not uses(variable):
        return 0.0
    by_adam = getattr(optimizer, "_should_use_adamw", None)  # Muon decays some weights by another number
    name = "adam_weight_decay" if by_adam is not None and by_adam(variable) else "weight_decay"
    return float(getattr(optimizer, name) or 0.0)


def constant_activity(view: View) -> Iterator[Finding]:
    """SH204: a penalty on an output for which it is constant.

    The vectors of a softmax or sparsemax have an L1 norm of 1, those of a UnitNormalization an L2 of 1.
    """
    for charge in view.charges:
        constant = _constant_norm(charge.site.layer) if charge.target == ACTIVITY else None
        if constant and _part(charge.regularizer, constant):
            told = f"{constant.upper()} on an output whose vectors all have an {constant.upper()} norm of 1."
            yield _finding("SH204", charge.place, told)


def _constant_norm(layer: Any) -> str | None:
    if isinstance(layer, keras.layers.UnitNormalization):
        return "l2"
    activated = type(layer) in _LINEAR or type(layer) is keras.layers.Activation
    last = layer.activation if activated else layer
    sums_to_one = last in (keras.activations.softmax, keras.activations.sparsemax)
    return "l1" if sums_to_one or isinstance(last, keras.layers.Softmax) else None


def no_exact_zeros(view: View) -> Iterator[Finding]:
    """SH205: a penalty that is meant to give zeros, under an optimizer that can't make any."""
    for place, weight, penalty in view.on_weights():
        optimizer, proximal = _optimizer_of(view.model, weight.variable)
        sparsifying = penalty.sparsifying and ("l1" not in penalty.names or _part(penalty, "l1") > 0)
        if sparsifying and optimizer is not None and not proximal:
            name = type(optimizer).__name__
            yield _finding("SH205", place, f"A sparsifying penalty, trained by subgradient steps of {name}.")


# What overflows, or drowns the data.

_BATCH = 32


def half_precision(view: View) -> Iterator[Finding]:
    """SH301, SH302: Keras's own regularizer sums many values in half precision (ours sum in float32).

    An output's sum is estimated: as many values of magnitude 1 as a batch of 32 has. A weight's is
    computed. float16 overflows beyond 65504; in bfloat16, with 8 bits, a sum beyond 256 ignores ones.
    """
    limits = {"float16": ("SH301", float(np.finfo(np.float16).max)), "bfloat16": ("SH302", 256.0)}
    for charge in view.charges:
        if isinstance(charge.regularizer, Penalty) or charge.penalty is None:
            continue
        weight = charge.weight
        dtype = charge.site.layer.compute_dtype if weight is None else weight.variable.dtype
        code, limit = limits.get(dtype, ("", 0.0))
        if code and limit < (_batch_size(charge.site.layer) if weight is None else _largest_sum(charge)):
            yield _finding(code, charge.place, f"Keras's own regularizer sums many values in {dtype}.")


def _batch_size(layer: Any) -> float:
    try:
        shapes = [tensor.shape[1:] for tensor in keras.tree.flatten(layer.output)]
    except (
        AttributeError,
        ValueError,
    ):  # in a subclassed model, or of a shared layer, there is no one output
        return 0.0
    return float(_BATCH * sum(np.prod([n or 1 for n in shape]) for shape in shapes))


def _largest_sum(charge: Charge) -> float:
    assert charge.weight is not None
    values = np.abs(ops.convert_to_numpy(ops.cast(charge.weight.variable, "float32")).astype(float))
    sums = {"l1": values.sum(), "l2": (values**2).sum()}
    return max((float(total) for part, total in sums.items() if _part(charge.regularizer, part)), default=0.0)


def larger_than_data_loss(view: View) -> Iterator[Finding]:
    """SH303: with data, penalties that come to more than the data loss."""
    if view.data is None:
        return
    x, y = view.data
    loss = data_loss(view.model, x, y)
    outputs = activity_charges(view.model, x)
    paid = {c.place: weight_charge(c) if c.weight else outputs.get(c.path, 0.0) for c in view.charges}
    total = sum(paid.values())
    if paid and total > loss:
        worst = max(paid, key=lambda place: paid[place])
        told = (
            f"The penalties come to {total:.4g} ({paid[worst]:.4g} of it here), the data loss to {loss:.4g}."
        )
        yield _finding("SH303", worst, told)


#: Every rule, in the order in which findings are reported.
RULES: tuple[Callable[[View], Iterable[Finding]], ...] = (
    not_in_force,
    frozen,
    zero_strength,
    l2_before_normalization,
    cancelled_bias,
    l2_and_weight_decay,
    constant_activity,
    no_exact_zeros,
    half_precision,
    larger_than_data_loss,
)


def check(model: Any, data: Any = None) -> Findings:
    """Return what is probably not meant in how a model is regularized.

    =====  =================================================================================
    SH101  a penalty is set on a layer, but not in force
    SH102  a penalty on a frozen weight
    SH103  a strength of 0
    SH201  L2 on a weight that a normalization makes scale-invariant
    SH202  a penalty on a bias that a BatchNormalization cancels
    SH203  an L2 penalty, and the optimizer's weight decay, on one weight
    SH204  an L1 penalty on a softmax output, where it is constant (L2 on a unit-normalized)
    SH205  a sparsifying penalty under an optimizer that makes no exact zeros
    SH301  Keras's own regularizer, where float16 is likely to overflow
    SH302  Keras's own regularizer, where bfloat16 loses its digits
    SH303  penalties larger than the data loss (needs data)
    =====  =================================================================================

    Of regularizers that are no L1, L2 or L1L2 it is only checked whether they are in force. SH201 and SH202
    read the model's graph, which a subclassed model has not. A penalty that was changed behind a compiled
    training step can't be told from one that is in force; :func:`shrinkage.apply` renews the step.

    Parameters
    ----------
    model
        A built Keras model.
    data
        ``(x, y)`` arrays; with them, the model must be compiled.

    Returns
    -------
    Findings
        ``print`` it, or go through it.

    Raises
    ------
    ModelError
        If the model is not built, or data is given and it is not compiled.
    StrengthError
        If a penalty's strength is still open (``L1(STRENGTH)``).

    Examples
    --------
    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> print(check(model))
    No findings.
    >>> model.layers[-1].kernel_regularizer = keras.regularizers.L2(0.01)
    >>> check(model)[0].message
    "The layer's kernel_regularizer holds l2(0.01), but nothing is in force."
    """
    view = View(model, data)
    return Findings(tuple(finding for rule in RULES for finding in rule(view)))
