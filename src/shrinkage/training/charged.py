"""What lanes are charged: the penalties of every arm on one model, as numbers that a program is given."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from shrinkage.penalties import Penalty
from shrinkage.recipe import Plan, Recipe, Term, bind
from shrinkage.recipe.place import keep_losses_apart
from shrinkage.recipe.select import ACTIVITY, sites, weights
from shrinkage.recipe.units import Coupled, Sum, Unit, coupling
from shrinkage.training.task import Cell

_Key = tuple[tuple[str, str], ...]  # paths and targets that are charged together, mostly one


@dataclass(frozen=True)
class _Place:
    """What some arm charges: an output, a weight or a unit's weights; and the kinds of penalty there."""

    key: _Key
    holder: Any
    unit: Unit | None
    kinds: tuple[Penalty, ...]

    @property
    def attribute(self) -> str:
        return "activity_regularizer" if self.key[0][1] == ACTIVITY else "regularizer"

    @property
    def at(self) -> tuple[int, str]:
        """Where the charge is held; several places may share that, each for some of the arms."""
        return id(self.holder), self.attribute

    def charges(self, coefficients: Iterator[Any]) -> list[Any]:
        """Return each kind with the next coefficients."""
        penalties = [kind.holding(tuple(next(coefficients))) for kind in self.kinds]
        return penalties if self.unit is None else [Coupled(penalty, self.unit) for penalty in penalties]


class Places:
    """The places of a model that some arm charges.

    Parameters
    ----------
    model
        A built model without penalties.
    recipes
        Of each arm.
    """

    def __init__(self, model: Any, recipes: Mapping[str, Recipe]) -> None:
        self._model, self._recipes = model, recipes
        self._plans = {arm: bind(recipe, model) for arm, recipe in recipes.items()}
        self._places = _places(model, self._plans)
        self._charged: dict[tuple[str, tuple[float, ...]], Mapping[_Key, Penalty | None]] = {}

    def coefficients(self, cells: Sequence[Cell]) -> list[Any]:
        """Return the penalties' coefficients: for each place and kind, an array of cells × coefficients.

        An arm that has no such penalty there has zeros.
        """
        found = []
        for place in self._places:
            for kind in place.kinds:
                rows = [self._numbers(cell, place, kind) for cell in cells]
                found.append(np.array(rows, np.float32))
        return found

    def _numbers(self, cell: Cell, place: _Place, kind: Penalty) -> tuple[float, ...]:
        penalty = self._penalties(cell).get(place.key)
        if penalty is None or type(penalty) is not type(kind):
            return (0.0,) * len(kind.names)
        return (penalty.at(cell.strength) if penalty.varies else penalty).numbers()

    def _penalties(self, cell: Cell) -> Mapping[_Key, Penalty | None]:
        """Return what a cell's arm charges where, each rule's ratio in its penalty."""
        key = cell.arm, cell.ratios
        if key not in self._charged:
            recipe = self._recipes[cell.arm].scaled(cell.ratios)
            plan = bind(recipe, self._model) if cell.ratios else self._plans[cell.arm]
            self._charged[key] = {_key(terms): terms[0].penalty for terms in plan.together()}
        return self._charged[key]

    @contextmanager
    def charging(self, charged: Sequence[Any]) -> Iterator[None]:
        """Charge the places while one lane is traced; the model itself has no penalties."""
        coefficients = iter(charged)
        parts: dict[tuple[int, str], list[Any]] = {}
        for place in self._places:
            parts.setdefault(place.at, []).extend(place.charges(coefficients))
        for place in self._places:
            setattr(place.holder, place.attribute, Sum(parts[place.at]))
            if place.attribute != "regularizer":
                keep_losses_apart(place.holder)
        try:
            yield
        finally:
            for place in self._places:
                setattr(place.holder, place.attribute, None)


def _key(terms: Sequence[Term]) -> _Key:
    return tuple((term.path, term.target) for term in terms)


def _places(model: Any, plans: Mapping[str, Plan]) -> tuple[_Place, ...]:
    """Return every place that some arm charges; frozen weights are none, as Keras does not charge them."""
    kinds: dict[_Key, dict[type[Penalty], Penalty]] = {}
    names: dict[_Key, str] = {}
    for plan in plans.values():
        for terms in plan.together():
            penalty = terms[0].penalty
            if penalty is not None:
                kinds.setdefault(_key(terms), {})[type(penalty)] = penalty
                names[_key(terms)] = terms[0].unit
    layer_at = {s.path: s.layer for s in sites(model)}
    weight_at = {w.path: w for w in weights(model) if w.variable.trainable}
    found = []
    for key, each in kinds.items():
        if key[0][1] == ACTIVITY:
            found.append(_Place(key, layer_at[key[0][0]], None, tuple(each.values())))
            continue
        charged = [weight_at[path] for path, _ in key if path in weight_at]
        if charged:
            unit = coupling(names[key], charged, any(p.unitwise for p in each.values()))
            found.append(_Place(key, charged[0].variable, unit, tuple(each.values())))
    return tuple(found)
