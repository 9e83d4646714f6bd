"""Bind a recipe to a model: an immutable plan, put in force, or taken off again."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import keras

from shrinkage.errors import RecipeError, ShrinkageWarning, did_you_mean
from shrinkage.penalties import LiveStrength, Penalty
from shrinkage.recipe import place
from shrinkage.recipe.flow import Flow
from shrinkage.recipe.recipe import Recipe, Rule
from shrinkage.recipe.select import ACTIVITY, Weight, activity_sites, sites, weights
from shrinkage.recipe.units import UNIT, has_units, members


@dataclass(frozen=True)
class Term:
    """One penalty over one weight, or over one layer's output.

    ``target`` is a weight's role or ``activity``; ``path`` the weight's path, or the layer's for an
    activity. ``penalty`` None takes a penalty off. ``rule`` is the left side of the rule it came from. Terms
    of one ``unit`` (a layer's path) are charged together.
    """

    path: str
    target: str
    penalty: Penalty | None
    rule: str
    unit: str = ""


@dataclass(frozen=True)
class Plan:
    """A recipe bound to one model: every weight resolved, everything checked."""

    terms: tuple[Term, ...]
    notes: tuple[str, ...] = ()

    def with_strength(self, live: LiveStrength | Mapping[str, LiveStrength]) -> Plan:
        """Return the plan with every varying penalty reading its strength from ``live``.

        That is one strength for all rules, or one for each by its left side (of two rules with one left
        side only the later is in force).
        """

        def bound(term: Term) -> Term:
            if term.penalty is None or not term.penalty.varies:
                return term
            own = live if isinstance(live, LiveStrength) else live[term.rule]
            return replace(term, penalty=term.penalty.bind(own))

        return Plan(tuple(map(bound, self.terms)), self.notes)

    def together(self) -> Iterator[tuple[Term, ...]]:
        """Yield the terms that are charged as one: those of a unit, and every other by itself."""
        groups: dict[Any, list[Term]] = {}
        for term in self.terms:
            groups.setdefault((term.unit, term.penalty) if term.unit else term, []).append(term)
        yield from map(tuple, groups.values())

    def __str__(self) -> str:
        return "\n".join(
            f"{t.path}{' (activity)' if t.target == ACTIVITY else ''} = {t.penalty or 'none'}"
            f"{f' (unit of {t.unit})' if t.unit else ''}"
            for t in self.terms
        )


def bind(recipe: Recipe, model: Any) -> Plan:
    """Return the plan of ``recipe`` for ``model``; the model is not touched.

    Raises
    ------
    RecipeError
        If a rule matches nothing, naming the nearest names.
    ModelError
        If the model is not built.
    """
    notes: list[str] = []
    chosen: dict[str, tuple[bool, Term]] = {}
    everything = weights(model)
    for rule in recipe:
        terms = _weight_terms(rule, everything) + _unit_terms(rule, model, everything)
        terms += [(True, t) for t in _activity_terms(rule, model)]
        notes += _misses(rule, terms, everything, model)
        for exact, term in terms:
            key = f"{term.path}:{term.target == ACTIVITY}"
            # An exact role beats the generic `kernel`; among equals the later rule wins.
            if key not in chosen or exact or not chosen[key][0]:
                chosen[key] = (exact, term)
    return Plan(tuple(term for _, term in chosen.values()), tuple(notes))


def _weight_terms(rule: Rule, everything: Iterable[Weight]) -> list[tuple[bool, Term]]:
    found = []
    for weight in everything:
        if not any(weight.covered(selector) for selector in rule.layers):
            continue
        exact = any(role in rule.targets for role in weight.roles if role != "kernel")
        generic = "kernel" in rule.targets and weight.role.endswith("kernel")
        if exact or generic:
            found.append((exact, Term(weight.path, weight.role, rule.penalty, rule.place)))
    return found


def _unit_terms(rule: Rule, model: Any, everything: tuple[Weight, ...]) -> list[tuple[bool, Term]]:
    if UNIT not in rule.targets:
        return []
    found, flow = [], Flow(model)
    for site in dict.fromkeys(w.site for w in everything if any(w.covered(s) for s in rule.layers)):
        for weight in members(site, everything, flow):
            unit = "" if rule.penalty is None else site.path
            found.append((True, Term(weight.path, weight.role, rule.penalty, rule.place, unit)))
    return found


def _activity_terms(rule: Rule, model: Any) -> list[Term]:
    if ACTIVITY not in rule.targets:
        return []
    if rule.penalty is not None and rule.penalty.unitwise:
        raise RecipeError(
            f"Rule '{rule}': {rule.penalty.text_name} takes out units by their weights; an output has none. "
            "Use the target kernel or unit, or another penalty."
        )
    found = {s.path: s for selector in rule.layers for s in activity_sites(model, selector)}
    return [Term(path, ACTIVITY, rule.penalty, rule.place) for path in found]


def _misses(
    rule: Rule, terms: list[tuple[bool, Term]], everything: tuple[Weight, ...], model: Any
) -> list[str]:
    """Return notes on selectors and targets that match nothing; raise if the whole rule does."""
    everywhere = sites(model)
    lost = [s for s in rule.layers if s != "*" and not any(site.matches(s) for site in everywhere)]
    real = [s for s in everywhere if not isinstance(s.layer, keras.layers.InputLayer)]
    names = dict.fromkeys(n for s in real for n in (s.layer.name, type(s.layer).__name__, s.path))
    if len(lost) == len(rule.layers):
        hint = did_you_mean(lost[0], names) or f" Its layers are {_some([s.layer.name for s in real])}."
        raise RecipeError(f"Rule '{rule}': no layer of {model.name!r} is named, or is a, {lost[0]!r}.{hint}")
    covered = [w for w in everything if any(w.covered(s) for s in rule.layers)]
    outputs = [ACTIVITY for s in rule.layers if activity_sites(model, s)]
    units = [UNIT for w in covered if has_units(w.site.layer)]
    roles = dict.fromkeys([*(r for w in covered for r in w.roles), *outputs, *units])
    found = {UNIT if t.rule == rule.place and t.unit else t.target for _, t in terms}
    found |= {t.target for _, t in terms}
    found |= {"kernel" for target in found if target.endswith("kernel")}
    idle = [t for t in rule.targets if t not in roles and t not in found]
    if not terms:
        there = f" Targets there: {_some(roles)}." if roles else ""
        hint = did_you_mean(rule.targets[0], roles) or there
        raise RecipeError(
            f"Rule '{rule}': the layers that it names have no {' or '.join(rule.targets)}.{hint}"
        )
    return [f"Rule '{rule}': no layer is named, or is a, {s!r}.{did_you_mean(s, names)}" for s in lost] + [
        f"Rule '{rule}': no layer that it names has {t!r}.{did_you_mean(t, roles)}" for t in idle
    ]


def _some(names: Iterable[str], most: int = 8) -> str:
    names = list(dict.fromkeys(names))
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def attach(model: Any, plan: Plan) -> None:
    """Put ``plan`` in force on ``model``.

    Weights and optimizer state stay; compiled functions are renewed.
    """
    weight_at = {w.path: w for w in weights(model)}
    site_at = {s.path: s for s in sites(model)}
    place.uncouple(weight_at, {term.path for term in plan.terms if term.target != ACTIVITY})
    for first, *others in plan.together():
        if first.target == ACTIVITY:
            place.charge_activity(site_at[first.path], first.penalty)
        else:
            charged = [weight_at[term.path] for term in (first, *others)]
            place.charge_together(first.unit, charged, first.penalty)
    for site in site_at.values():
        place.keep_losses_apart(site.layer)
    place.record_composites(model, (term.path for term in plan.terms))
    place.track_strengths(model)
    renew(model)


def renew(model: Any) -> None:
    """Make the compiled functions of ``model`` anew: once traced, they ignore a changed regularizer.

    What the last forward pass charged on outputs is dropped as well.
    """
    model._clear_losses()
    for part in (model, *(s.layer for s in sites(model) if isinstance(s.layer, keras.Model))):
        for use in ("train", "test", "predict"):
            function = getattr(part, f"{use}_function", None)
            if function is not None:
                _forget_traces(function)
                # Not None: a callback may apply a recipe in the middle of `fit`, which goes on calling.
                getattr(part, f"make_{use}_function")(force=True)


def _forget_traces(function: Any) -> None:
    """Clear JAX's traces: it finds them by the equality of the step's bound method, which stays."""
    seen: dict[int, Any] = {}
    inside = [function]
    while inside:
        function = inside.pop()
        if callable(function) and id(function) not in seen:
            seen[id(function)] = function
            if hasattr(function, "clear_cache"):
                function.clear_cache()
            inside += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]


def apply(model: Any, recipe: Any, *, strength: float | None = None) -> Plan:
    """Put a recipe of penalties in force on a model, in place.

    Works on any built model: Sequential, Functional, subclassed, nested, with shared layers, compiled
    and trained or not. Weights and optimizer state are untouched, and the penalties take effect at the
    next training step. Weights that no rule names keep the penalty that they have.

    Parameters
    ----------
    model
        A built Keras model.
    recipe
        Text (``"Dense: kernel = l2(1e-4)"``, one rule a line), a list of texts or of
        :class:`~shrinkage.recipe.Rule`, or a :class:`~shrinkage.Recipe`.
    strength
        The value of ``strength`` where the recipe leaves it open.

    Returns
    -------
    Plan
        What was put where.

    Raises
    ------
    RecipeError
        If a rule is malformed or matches nothing, naming the nearest names.
    PenaltyError, StrengthError
        If a penalty or strength is not valid, or ``strength`` is missing or superfluous.
    ModelError
        If the model is not built.

    Warns
    -----
    ShrinkageWarning
        If a part of a rule matches nothing, or where a layer's config has no place for the penalty, so
        that it is in force but will not be saved.

    Notes
    -----
    ``layer.kernel_regularizer = ...`` on a built layer changes nothing: Keras charges
    ``variable.regularizer`` and saves the layer's attribute. This sets both. Where the penalty equals
    one of Keras's own, the config holds Keras's object, so that the saved file loads without this
    package.

    Examples
    --------
    >>> import keras, shrinkage
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> print(shrinkage.apply(model, "head: kernel = l2(0.01)"))
    head/kernel = l2(0.01)
    >>> len(model.losses)
    1
    """
    plan = bind(Recipe(recipe).resolved(strength), model)
    attach(model, plan)
    for note in (*plan.notes, *place.unsaved(model, plan.terms)):
        warnings.warn(note, ShrinkageWarning, stacklevel=2)
    return plan


def strip(model: Any) -> None:
    """Take every penalty off a model, in place: those applied here, and those it was built with.

    Weights and optimizer state are untouched. Raises :class:`~shrinkage.errors.ModelError` if the model
    is not built.

    Examples
    --------
    >>> import keras, shrinkage
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, kernel_regularizer="l2")])
    >>> shrinkage.strip(model)
    >>> model.losses
    []
    """
    # Also where nothing is charged: a layer's attribute may say otherwise, and that is what is saved.
    off = [Term(w.path, w.role, None, "") for w in weights(model)]
    off += [Term(s.path, ACTIVITY, None, "") for s in sites(model) if place.has_activity(s.layer)]
    attach(model, Plan(tuple(off)))
