"""What a check finds: facts with a stable code, and their plain text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

from shrinkage.markup import paragraphs, table


@dataclass(frozen=True)
class Finding:
    """One thing that is probably not meant: its stable code, where, what, why it matters, what to do."""

    code: str
    place: str
    message: str
    why: str
    advice: str


@dataclass(frozen=True)
class Findings(Sequence[Finding]):
    """What :func:`shrinkage.check` found, in the order of its rules.

    ``print`` it, go through it as a tuple, or read ``codes``.
    """

    findings: tuple[Finding, ...] = ()

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Finding, ...]: ...
    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        return self.findings[index]

    def __len__(self) -> int:
        return len(self.findings)

    @property
    def codes(self) -> tuple[str, ...]:
        """Each code that was found, once."""
        return tuple(dict.fromkeys(finding.code for finding in self.findings))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {"findings": [dataclasses.asdict(finding) for finding in self.findings]}

    def __str__(self) -> str:
        """Return one paragraph for each kind of finding, with the places where it was found."""
        kinds = [
            f"{code}  {where}\n  {message}\n  Why: {why}\n  Do: {advice}"
            for code, where, message, why, advice in self._kinds()
        ]
        return "\n\n".join(kinds) or _NOTHING

    def _repr_html_(self) -> str:
        if not self.findings:
            return paragraphs([_NOTHING])
        head = ("code", "where", "what", "why", "do")
        return table("What is probably not meant", head, self._kinds(), texts=head)

    def _kinds(self) -> list[tuple[str, ...]]:
        """Return code, places, message, reason and advice of each kind of finding."""
        places: dict[Finding, list[str]] = {}
        for finding in self.findings:
            places.setdefault(dataclasses.replace(finding, place=""), []).append(finding.place)
        return [(f.code, _some(where), f.message, f.why, f.advice) for f, where in places.items()]


_NOTHING = "No findings."


def _some(places: list[str], most: int = 6) -> str:
    shown = ", ".join(places[:most])
    return f"{shown}, and {len(places) - most} more" if len(places) > most else shown
