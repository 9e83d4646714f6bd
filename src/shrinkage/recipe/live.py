"""Turn the strengths in force on a model into training state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shrinkage.penalties import LiveStrength, Penalty
from shrinkage.recipe.bind import Plan, Term, attach, bind
from shrinkage.recipe.charges import Charge, charges
from shrinkage.recipe.recipe import Recipe
from shrinkage.recipe.select import Weight, weights
from shrinkage.recipe.units import UNIT


def make_live(model: Any, places: str | None = None) -> dict[str, LiveStrength]:
    """Turn the strengths in force on ``model`` into training state that can change without a retrace.

    Places whose penalties are equal share one strength, unless one of them has been made live before.
    Penalties that are no L1, L2 or L1L2 stay as they are, and so do those outside of ``places``.

    Parameters
    ----------
    model
        A built Keras model.
    places
        The left side of a rule, such as ``"Conv2D, Dense: kernel"``; every place if None.

    Returns
    -------
    dict
        The strengths, each by the first place that it scales (``dense/kernel``, ``dense/activity``).

    Raises
    ------
    RecipeError
        If ``places`` is malformed or matches nothing.
    """
    known = [charge for charge in charges(model) if charge.penalty is not None]
    everything = weights(model)
    chosen = {key(term) for term in bind(Recipe(f"{places} = none"), model).terms} if places else None
    inside = [
        charge
        for charge in known
        if chosen is None or any(key(term) in chosen for term in _terms(charge, None, everything))
    ]
    # A strength that scales a place outside too must go on doing so.
    elsewhere = {id(charge.penalty.live) for charge in known if charge not in inside}  # type: ignore[union-attr]
    made: dict[Penalty, LiveStrength] = {}
    first: dict[int, tuple[str, LiveStrength]] = {}
    terms = []
    for charge in inside:
        penalty = charge.penalty
        assert penalty is not None
        live = penalty.live
        if live is None or id(live) in elsewhere:
            present = penalty.strength if live is None else live.host
            live = made.setdefault(penalty.fixed(), LiveStrength(present))
            terms += _terms(charge, penalty.bind(live), everything)
        first.setdefault(id(live), (key(charge), live))
    if terms:
        attach(model, Plan(tuple(terms)))
    return dict(first.values())


def _terms(charge: Charge, penalty: Penalty | None, everything: Iterable[Weight]) -> list[Term]:
    if charge.weight is None:
        return [Term(charge.path, charge.target, penalty, "")]
    charged = [w for w in everything if any(w.variable is v for v in charge.variables)]
    unit = charge.regularizer.unit.name if charge.target == UNIT else ""
    return [Term(w.path, w.role, penalty, "", unit) for w in charged]


def key(place: Charge | Term) -> str:
    """Return a place as one word for logs: ``dense/kernel``, ``dense/activity``."""
    return f"{place.path}/{place.target}" if place.target == "activity" else place.path
