"""A recipe: an ordered list of rules, each saying which penalty to put on which targets of which layers.

Three forms, with exact round trips: text (one rule a line), a list of texts (TOML and JSON), and objects.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import tomli_w

from shrinkage.errors import RecipeError, StrengthError
from shrinkage.markup import table
from shrinkage.penalties import Penalty, get_penalty, parse_penalty
from shrinkage.penalties.strength import shown

_FORM = '"<layers>: <targets> = <penalty>", as in "Conv2D, Dense: kernel, bias = l2(0.01)"'
_TARGET = re.compile(r"[^\W\d]\w*")
# One line, and not a comment's beginning, so that a rule's text reads back as the rule.
_SELECTOR = re.compile(r"[^\s,:=#]([^,:=\x00-\x1f\x7f-\x9f\u2028\u2029]*[^\s,:=])?")


@dataclass(frozen=True)
class Rule:
    """One rule: selectors, targets, and a penalty (None exempts).

    Parameters
    ----------
    layers
        Selectors: globs matched against a layer's name, its path in nested models, or its class name;
        one text with commas, or several. A selector that matches a composite layer or a nested model
        covers the weights within.
    targets
        ``kernel`` (every weight role that ends in kernel), ``bias``, any other weight role, or
        ``activity`` (the layer's output); one text with commas, or several.
    penalty
        Anything that :func:`shrinkage.penalties.get_penalty` accepts; None exempts.

    Raises
    ------
    RecipeError, PenaltyError, StrengthError
        If a part is malformed.

    Examples
    --------
    >>> from shrinkage import L2
    >>> str(Rule("Conv2D, Dense", "kernel", L2(0.01)))
    'Conv2D, Dense: kernel = l2(0.01)'
    """

    layers: tuple[str, ...]
    targets: tuple[str, ...]
    penalty: Penalty | None

    def __init__(self, layers: str | Iterable[str], targets: str | Iterable[str], penalty: Any) -> None:
        object.__setattr__(self, "layers", _names(layers, _SELECTOR, "layer selector"))
        object.__setattr__(self, "targets", _names(targets, _TARGET, "target"))
        object.__setattr__(self, "penalty", get_penalty(penalty))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the rule that one line of text describes; ``str(rule)`` is the inverse."""
        layers, colon, rest = text.partition(":")
        targets, equals, penalty = rest.partition("=")
        if not (colon and equals and layers.strip() and targets.strip() and penalty.strip()):
            raise RecipeError(f"{shown(text.strip())} is not a rule; write {_FORM}.")
        return cls(layers, targets, parse_penalty(penalty))

    @property
    def varies(self) -> bool:
        """Whether the penalty contains the ``strength`` that a study varies."""
        return self.penalty is not None and self.penalty.varies

    @property
    def place(self) -> str:
        """The left side: ``Conv2D, Dense: kernel``."""
        return ": ".join(self.cells[:2])

    @property
    def cells(self) -> tuple[str, str, str]:
        """Layers, targets and penalty, as the rule's text writes them."""
        penalty = "none" if self.penalty is None else str(self.penalty)
        return ", ".join(self.layers), ", ".join(self.targets), penalty

    def at(self, strength: Any) -> Rule:
        """Return the rule with its penalty at ``strength``, if it varies."""
        return (
            Rule(self.layers, self.targets, self.penalty.at(strength))
            if self.penalty and self.varies
            else self
        )

    def scaled(self, ratio: float) -> Rule:
        """Return the rule with ``ratio`` times the strength that a study varies, if it varies."""
        return (
            Rule(self.layers, self.targets, self.penalty.scaled(ratio))
            if self.penalty and self.varies
            else self
        )

    def __str__(self) -> str:
        return f"{self.place} = {self.cells[2]}"


def _names(given: str | Iterable[str], pattern: re.Pattern[str], what: str) -> tuple[str, ...]:
    parts = given.split(",") if isinstance(given, str) else given
    if not isinstance(parts, Iterable):
        parts = [parts]
    names = tuple(part.strip() if isinstance(part, str) else part for part in parts)
    for name in names:
        if not isinstance(name, str) or not pattern.fullmatch(name):
            raise RecipeError(f"{shown(name)} is not a {what}; a rule is {_FORM}.")
    if not names:
        raise RecipeError(f"A rule needs at least one {what}; a rule is {_FORM}.")
    return names


@dataclass(frozen=True)
class Recipe:
    """Ordered rules. One penalty for one weight: later rules override, and ``none`` exempts.

    ``kernel`` is generic; a rule that names an exact role (``recurrent_kernel``) overrides it wherever
    it stands.

    Parameters
    ----------
    rules
        Rules, texts, or a mix; one text may hold several lines (empty lines and ``#`` comments are
        skipped).

    Raises
    ------
    RecipeError, PenaltyError, StrengthError
        If a rule is malformed.

    Examples
    --------
    >>> recipe = Recipe("*: kernel = l2(strength)")
    >>> recipe.varies
    True
    >>> print(recipe.at(0.01))
    *: kernel = l2(0.01)
    """

    rules: tuple[Rule, ...]

    def __init__(self, rules: str | Rule | Recipe | Iterable[str | Rule]) -> None:
        object.__setattr__(self, "rules", tuple(_rules(rules)))

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """Return the recipe under the key ``recipe`` of a TOML document."""
        try:
            found = tomllib.loads(text)["recipe"]
        except (tomllib.TOMLDecodeError, KeyError, RecursionError) as error:
            raise RecipeError(
                'A recipe in TOML is a list of texts: recipe = ["Dense: kernel = l2(0.01)"].'
            ) from error
        return cls(found)

    def to_list(self) -> list[str]:
        """Return one text a rule, as stored in TOML and JSON."""
        return [str(rule) for rule in self.rules]

    def to_toml(self) -> str:
        """Return the list under the key ``recipe``, as a TOML document."""
        return tomli_w.dumps({"recipe": self.to_list()})

    @property
    def varies(self) -> bool:
        """Whether a rule contains the ``strength`` that a study varies."""
        return any(rule.varies for rule in self.rules)

    @property
    def varying(self) -> int:
        """How many rules contain the ``strength`` that a study varies."""
        return sum(rule.varies for rule in self.rules)

    def at(self, strength: Any, ratios: Sequence[float] = ()) -> Recipe:
        r"""Return the recipe with every varying penalty at ``strength``.

        Parameters
        ----------
        strength
            A number ≥ 0.
        ratios
            One a varying rule, in their order: rule i is at ``strength * ratios[i]``. Empty: all are 1.

        Raises
        ------
        StrengthError
            If a number is no strength, or there is another number of ratios than of varying rules.

        Examples
        --------
        >>> recipe = Recipe("Conv2D: kernel = l2(strength)\nhead: kernel = l1(0.5*strength)")
        >>> print(recipe.at(0.01, (2, 0.5)))
        Conv2D: kernel = l2(0.02)
        head: kernel = l1(0.0025)
        """
        return Recipe(rule.at(strength) for rule in self.scaled(ratios))

    def scaled(self, ratios: Sequence[float]) -> Recipe:
        r"""Return the recipe with ``ratios[i] * strength`` in the i-th varying rule; empty changes nothing.

        Examples
        --------
        >>> print(Recipe("a: kernel = l2(strength)\nb: kernel = l2(strength)").scaled((2, 1)))
        a: kernel = l2(2.0*strength)
        b: kernel = l2(strength)
        """
        if not len(ratios):
            return self
        if len(ratios) != self.varying:
            raise StrengthError(
                f"{len(ratios)} ratios were given, and {self.varying} of the recipe's rules contain the word "
                "strength: give one ratio for each of these."
            )
        left = iter(ratios)
        return Recipe(rule.scaled(next(left)) if rule.varies else rule for rule in self.rules)

    def resolved(self, strength: float | None) -> Recipe:
        """Return the recipe without open strengths.

        Raises
        ------
        StrengthError
            If a rule contains ``strength`` and none is given, or the other way round.
        """
        if self.varies and strength is None:
            open_rule = next(rule for rule in self.rules if rule.varies)
            raise StrengthError(
                f"'{open_rule}' leaves its strength open: pass strength=0.01, say, or write a number."
            )
        if strength is None:
            return self
        if not self.varies:
            raise StrengthError("A strength was given, but no rule of the recipe contains the word strength.")
        return self.at(strength)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)

    def __len__(self) -> int:
        return len(self.rules)

    def __str__(self) -> str:
        return "\n".join(self.to_list())

    def _repr_html_(self) -> str:
        head = ("layers", "targets", "penalty")
        return table("Recipe: later rules override", head, (rule.cells for rule in self.rules), texts=head)


def _rules(given: Any) -> Iterator[Rule]:
    if isinstance(given, Rule):
        yield given
    elif isinstance(given, str):
        for line in given.splitlines():
            if line.strip() and not line.strip().startswith("#"):
                yield Rule.parse(line)
    elif isinstance(given, Recipe):
        yield from given.rules
    elif isinstance(given, Iterable) and not isinstance(given, (dict, bytes)):
        for item in given:
            if not isinstance(item, (str, Rule)):
                raise RecipeError(f"{shown(item)} is not a rule; write {_FORM}, or give a Rule.")
            yield from _rules(item)
    else:
        raise RecipeError(f"{shown(given)} is not a recipe; give text, a list of texts, or Rules.")
