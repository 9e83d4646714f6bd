"""The penalties of a model, on its smaller one: those that a file for Keras alone can hold."""

from __future__ import annotations

from typing import Any

from shrinkage.penalties import HALF, Penalty, to_keras
from shrinkage.recipe import Charge, Plan, Term, attach, charges, strip, weights
from shrinkage.recipe.select import ACTIVITY, config_key


def carry_penalties(model: Any, smaller: Any) -> list[str]:
    """Put the penalties of ``model`` in force on ``smaller``; return notes on those that were dropped.

    A penalty stays if Keras has an equal, which is what the layer's config then holds, or if it is one of
    Keras's own; anything else would need code to load.
    """
    strip(smaller)
    terms: list[Term] = []
    dropped = []
    for charge in charges(model):
        penalty = _plain(charge)
        if penalty is not None:
            terms += _terms(charge, penalty, model)
        elif not _set_keras_own(charge, smaller):
            dropped.append(charge)
    attach(smaller, Plan(tuple(terms)))
    return [
        f"The penalty {_name(charge)} on {charge.place} was dropped: a file for Keras alone can't hold it."
        for charge in dropped
    ]


def _terms(charge: Charge, penalty: Penalty, model: Any) -> list[Term]:
    """Return a term for each weight: what Keras has an equal of charges those of a unit one by one."""
    if charge.target == ACTIVITY:
        return [Term(charge.path, ACTIVITY, penalty, "compact")]
    charged = {id(variable) for variable in charge.variables}
    return [Term(w.path, w.role, penalty, "compact") for w in weights(model) if id(w.variable) in charged]


def _plain(charge: Charge) -> Penalty | None:
    """Return the penalty with fixed numbers if Keras has an equal that charges the same."""
    penalty = charge.penalty
    if penalty is None:
        return None
    # On outputs in half precision Keras's own formula overflows.
    overflows = charge.target == ACTIVITY and charge.site.layer.compute_dtype in HALF
    fixed = penalty.fixed()
    return None if overflows or to_keras(fixed) is None else fixed


def _set_keras_own(charge: Charge, smaller: Any) -> bool:
    """Set another regularizer of Keras's own, such as OrthogonalRegularizer, as it is."""
    if charge.weight is None or not type(charge.regularizer).__module__.startswith("keras."):
        return False
    weight = next(w for w in weights(smaller) if w.path == charge.path)
    key = config_key(weight.site.layer, weight.role)
    if key is None:
        return False
    weight.variable.regularizer = charge.regularizer
    setattr(weight.site.layer, key, charge.regularizer)
    return True


def _name(charge: Charge) -> str:
    return type(charge.regularizer).__name__ if charge.penalty is None else str(charge.penalty)
