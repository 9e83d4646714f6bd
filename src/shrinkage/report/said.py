"""Sentences that know what they rest on: templates, filled from facts that carry their paths."""

from __future__ import annotations

import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shrinkage.study import words
from shrinkage.study.summary import ArmSummary

#: How a fact is written, by the name that a template gives after the colon.
FORMS: Mapping[str, Callable[[Any], str]] = {
    "": lambda value: words.plain(value) if isinstance(value, str) else f"{value:,}",
    "number": words.number,
    "percent": words.percent,
    "points": lambda x: words.amount(x, True),
    "value": lambda x: words.amount(x, False),
    "points apart": lambda x: words.amount(abs(x), True),
    "value apart": lambda x: words.amount(abs(x), False),
    "p": words.p_value,
    "how many": lambda values: f"{len(values):,}",
    "option": lambda text: words.plain(text).replace(" = strength", " = λ"),
    "kind": lambda penalty: words.plain(penalty.partition("(")[0]),
}


@dataclass(frozen=True)
class Said:
    """One sentence to a reader.

    Attributes
    ----------
    topic
        What it is about: the heading that it stands under.
    sentence
        Plain English, on one line.
    facts
        Paths in ``summary.json`` of what it rests on, such as ``arms[1].accuracy.test.mean``. ``[*]`` stands
        for the sum over a list, and a list written as a number for its length.
    """

    topic: str
    sentence: str
    facts: tuple[str, ...]


class Fact:
    """A value of a record, with the path to it.

    Attributes and items are facts in turn.

    Parameters
    ----------
    path
        As in ``summary.json``; empty for the whole.
    value
        A record, a sequence, a number, a text or None.

    Examples
    --------
    >>> from shrinkage.study.stats import Estimate
    >>> Fact("loss", Estimate(0.5, 0.1, 5)).se.path
    'loss.se'
    """

    def __init__(self, path: str, value: Any) -> None:
        self.path, self.value = path, value

    def __getattr__(self, name: str) -> Fact:
        return Fact(f"{self.path}.{name}".removeprefix("."), getattr(self.value, name))

    def __getitem__(self, i: int) -> Fact:
        return Fact(f"{self.path}[{i}]", self.value[i])

    def sum(self, name: str) -> Fact:
        """Return the sum of a field over a list of records; ``None`` counts as 0."""
        return Fact(f"{self.path}[*].{name}", sum(getattr(item, name) or 0 for item in self.value))


@dataclass(frozen=True)
class Text:
    """A piece of a sentence, and the paths that it rests on."""

    words: str
    facts: tuple[str, ...]

    def __add__(self, other: Text) -> Text:
        return Text(self.words + other.words, self.facts + other.facts)


def tell(template: str, *grounds: Fact, **values: Fact | Text | str) -> Text:
    """Fill a template from facts.

    Parameters
    ----------
    template
        As `str.format` takes it; after a colon, the name of one of `FORMS`.
    grounds
        Facts that it rests on besides, without showing them.
    values
        Facts, pieces that were told before, and plain words.

    Examples
    --------
    >>> tell("a loss of {loss:number}", loss=Fact("arms[0].loss", 0.12345))
    Text(words='a loss of 0.123', facts=('arms[0].loss',))
    """
    writer = _Writer()
    text = writer.vformat(template, (), values)
    return Text(text, (*(fact.path for fact in grounds), *writer.facts))


class _Writer(string.Formatter):
    """Formats, and keeps account of the facts that it met."""

    def __init__(self) -> None:
        self.facts: list[str] = []

    def format_field(self, value: Any, format_spec: str) -> str:
        if isinstance(value, Fact):
            self.facts.append(value.path)
            return FORMS[format_spec](value.value)
        if isinstance(value, Text):
            self.facts += value.facts
            return value.words
        return str(value)


def listed(texts: Sequence[Text], last: str = " and ") -> Text:
    """Join pieces as English does, the last one with ``last``.

    Examples
    --------
    >>> listed([Text(word, ()) for word in ("one", "two", "three")]).words
    'one, two and three'
    """
    parts = [text.words for text in texts]
    joined = last.join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
    return Text(joined, tuple(fact for text in texts for fact in text.facts))


# --- arms -----------------------------------------------------------------------------------------------


def each(summary: Fact) -> Iterator[tuple[ArmSummary, Fact]]:
    """Yield the arms of a summary, and the facts that they are."""
    for i, arm in enumerate(summary.arms.value):
        yield arm, summary.arms[i]


def arm_called(name: str, summary: Fact) -> Fact:
    """Return the arm of that name."""
    return next(fact for arm, fact in each(summary) if arm.arm == name)


def named(arm: Fact) -> Text:
    """Name an arm, with its chosen strength where it has one."""
    if arm.selection.value.strength is None:
        return tell("{arm.arm}", arm=arm)
    return tell("{arm.arm} at λ = {arm.selection.chosen.strength:number}", arm=arm)


def counted(number: Fact, unit: str) -> Text:
    """Write a number of things; ``unit`` is given as a singular."""
    return tell("{number} {unit}", number=number, unit=unit if number.value == 1 else f"{unit}s")
