"""What compaction did, and what it would do: facts, and their tables."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from shrinkage.markup import paragraphs, table

WIDTH = 100


@dataclass(frozen=True)
class Totals:
    """What a whole model costs.

    Attributes
    ----------
    parameters
        Entries of all weights, moving statistics included.
    macs
        Multiply-accumulates for one sample, in dense layers and convolutions, summed over their calls.
    bytes
        Size of the saved ``.keras`` file (a compiled model's holds its optimizer's state); None if it was not
        measured or can't be saved.
    latency_1, latency_64
        Milliseconds for a batch of 1 and of 64 samples; None if they were not measured.
    """

    parameters: int
    macs: int
    bytes: int | None = None
    latency_1: float | None = None
    latency_64: float | None = None


@dataclass(frozen=True)
class LayerRow:
    """One layer with weights, before and after; ``macs`` are None for types that are not counted."""

    path: str
    kind: str
    units: tuple[int | None, int | None]
    parameters: tuple[int, int]
    macs: tuple[int | None, int | None]


@dataclass(frozen=True)
class Receipt:
    """What compaction did to one model; ``print`` it, or read the fields.

    Attributes
    ----------
    model
        The model's name.
    before, after
        What the two models cost.
    layers
        One row a layer with weights.
    whole
        Path and reason of each layer all of whose channels had to stay.
    notes
        What else changed: folded biases, dropped penalties, optimizer state that starts anew.
    largest_difference
        Of the two models' outputs, relative to the largest entry of each.

    Examples
    --------
    >>> from shrinkage.compact import Receipt
    >>> from shrinkage.compact.receipt import Totals
    >>> print(Receipt("small", Totals(36, 32), Totals(20, 18), (), (), (), 0.0))
    small: 20 of 36 parameters are left; its outputs differ by 0 of their size.
    <BLANKLINE>
                          before  after
    parameters                36     20  55.6 %
    multiply-accumulates      32     18  56.2 %
    """

    model: str
    before: Totals
    after: Totals
    layers: tuple[LayerRow, ...]
    whole: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    largest_difference: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        parts = [self._headline(), *_table(self._totals(), 1)]
        if self.layers:
            parts += _table([_LAYER_HEAD, *map(_cells, self.layers)], 2)
        if self.whole:
            parts += ["", _WHOLE, *(f"  {p}: {why}" for p, why in self.whole)]
        if self.notes:
            parts += ["", *self.notes]
        return "\n".join(line if len(line) <= WIDTH else _wrapped(line) for line in parts)

    def _repr_html_(self) -> str:
        head, *totals = self._totals()
        parts = [paragraphs([self._headline()]), table("What the model costs", head, totals)]
        if self.layers:
            parts.append(table("Layers with weights", _LAYER_HEAD, map(_cells, self.layers), texts=("type",)))
        if self.whole:
            parts.append(table(_WHOLE, ("layer", "why"), self.whole, texts=("why",)))
        return "\n".join([*parts, paragraphs(self.notes)]).rstrip()

    def _headline(self) -> str:
        return (
            f"{self.model}: {self.after.parameters:,} of {self.before.parameters:,} parameters are left; "
            f"its outputs differ by {self.largest_difference:.2g} of their size."
        )

    def _totals(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = [("", "before", "after", "")]
        for name, key, form in _TOTALS:
            old, new = getattr(self.before, key), getattr(self.after, key)
            if old is not None and new is not None:
                rows.append(
                    (name, form.format(old), form.format(new), f"{100 * new / old:.1f} %" if old else "")
                )
        return rows


_LAYER_HEAD = ("layer", "type", "units", "parameters", "mult.-acc.")
_WHOLE = "These layers keep all their channels:"
_TOTALS = (
    ("parameters", "parameters", "{:,}"),
    ("multiply-accumulates", "macs", "{:,}"),
    ("bytes on disk", "bytes", "{:,}"),
    ("ms for 1 sample", "latency_1", "{:.2f}"),
    ("ms for 64 samples", "latency_64", "{:.2f}"),
)


@dataclass(frozen=True)
class LayerUnits:
    """One layer that has units which could go: how many, and how many of these compaction would leave."""

    path: str
    units: int
    live_units: int


@dataclass(frozen=True)
class Survey:
    """What compaction would leave of a model with its present weights; ``print`` it, or read the fields.

    Attributes
    ----------
    zeros
        The share of exact zeros among the entries of kernels.
    units, live_units
        Units that could go (none that feed an output or a layer that stays whole), and how many of these
        compaction leaves.
    parameters, parameters_after
        Entries of all weights, now and after compaction.
    layers
        The units, layer by layer.

    Examples
    --------
    >>> from shrinkage.compact import Survey
    >>> print(Survey(0.5, 8, 3, 100, 40))
    50.0 % of the kernels' entries are zero; 3 of 8 units and 40 of 100 parameters would be left.
    """

    zeros: float
    units: int
    live_units: int
    parameters: int
    parameters_after: int
    layers: tuple[LayerUnits, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        zeros = f"{100 * self.zeros:.1f} % of the kernels' entries are zero"
        units = f"{self.live_units:,} of {self.units:,} units"
        parameters = f"{self.parameters_after:,} of {self.parameters:,} parameters"
        return f"{zeros}; {units} and {parameters} would be left."

    def _repr_html_(self) -> str:
        return paragraphs([str(self)])


def _cells(row: LayerRow) -> tuple[str, ...]:
    return (_short(row.path, 30), _short(row.kind, 18), *map(_change, (row.units, row.parameters, row.macs)))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"…{text[1 - most :]}"


def _change(pair: Sequence[int | None]) -> str:
    old, new = ("?" if n is None else f"{n:,}" for n in pair)
    return old if old == new else f"{old} → {new}"


def _table(rows: Iterable[Sequence[str]], names: int) -> list[str]:
    """Return lines of a table whose first ``names`` columns are text, after an empty line."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            c.ljust(w) if i < names else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return ["", *(line.rstrip() for line in lines)]


def _wrapped(line: str) -> str:
    return "\n".join(textwrap.wrap(line, WIDTH, subsequent_indent="    "))
