"""Drawing in SVG: scales with round ticks, a pair of axes, marks that differ in shape as well as in colour.

Colours come from the page's style sheet by class (``a0`` is the baseline's, ``a1`` … the other arms'), so
that figures follow light, dark and print. All text is escaped by `markupsafe`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from shrinkage.study.words import number

Point = tuple[float, float]

WIDTH, HEIGHT = 440, 280
LEFT, RIGHT, TOP, BOTTOM = 70, 10, 12, 44
COLOURS = 7  # classes a0 … a6

# One shape a style, around (0, 0); they are told apart without colour.
_SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0z",  # circle
    "M-3.6,-3.6h7.2v7.2h-7.2z",  # square
    "M0,-4.6L4.4,3.4H-4.4z",  # triangle
    "M0,-5L5,0L0,5L-5,0z",  # diamond
    "M0,4.6L4.4,-3.4H-4.4z",  # triangle downward
    "M-1.5,-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",  # plus
)
_CROSS = "M-4,-4L4,4M4,-4L-4,4"


def colour(style: int) -> str:
    """Return the class of an arm's colour and dashes: from the seventh arm on colours return, dashed."""
    turn, place = divmod(style - 1, COLOURS - 1)
    return "a0" if style == 0 else f"a{place + 1} d{turn % 4}"


def shape(style: int) -> str:
    """Return the path of an arm's mark."""
    turn = (style - 1) // (COLOURS - 1) if style else 0
    return _SHAPES[(style + turn) % len(_SHAPES)]


@dataclass(frozen=True)
class Scale:
    """From values to places: linear or logarithmic between ``low`` and ``high``.

    Examples
    --------
    >>> scale = Scale(1.0, 1000.0, 0.0, 300.0, log=True)
    >>> scale(10.0), [label for _, label in scale.ticks()]
    (100.0, ['1', '10', '100', '1000'])
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of ``value``, which must be positive on a logarithmic scale."""
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def ticks(self) -> list[tuple[float, str]]:
        """Return places and labels of up to eight round values."""
        values = _decades(self.low, self.high) if self.log else _round_values(self.low, self.high)
        labels = [number(value) for value in values]
        if len(set(labels)) < len(labels):  # a narrow range far from zero needs more digits
            labels = [f"{value:.10g}" for value in values]
        return list(zip(map(self, values), labels, strict=True))


def spanning(values: Iterable[float], start: float, end: float, *, log: bool = False) -> Scale:
    """Return a scale on which all finite ``values`` have a place, with a margin."""
    finite = [v for v in values if math.isfinite(v) and (v > 0 or not log)]
    low, high = (min(finite), max(finite)) if finite else (1.0, 2.0)
    if log:
        margin = max(10 ** (0.06 * (math.log10(high) - math.log10(low))), 1.05)
        low, high = max(low / margin, sys.float_info.min), min(high * margin, sys.float_info.max)
        return Scale(low, high, start, end, log)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return Scale(low - margin, high + margin, start, end)


def _round_values(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first = math.ceil(low / step)
    return [i * step for i in range(first, math.floor(high / step) + 1)]


def _decades(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if high < 150 * low else (1,)
    every = max(1, math.ceil((last - first) / 7))
    values = [float(f"{factor}e{i}") for i in range(first, last + 1, every) for factor in factors]
    inside = [value for value in values if low <= value <= high]
    return inside if len(inside) > 1 else _round_values(low, high)


@dataclass
class Chart:
    """One pair of axes that marks are added to.

    Parameters
    ----------
    x, y
        Their scales, in the chart's own units.
    label
        What a screen reader says in the place of the figure.
    x_label, y_label
        Names of the axes.
    x_ticks
        Places and labels in the place of the scale's own.
    classes, data
        Classes and ``data-`` attributes of the whole figure.
    """

    x: Scale
    y: Scale
    label: str
    x_label: str
    y_label: str
    x_ticks: Sequence[tuple[float, str]] | None = None
    classes: str = ""
    data: dict[str, str] = field(default_factory=dict)
    _parts: list[Markup] = field(default_factory=list, repr=False)

    def line(self, points: Iterable[Point], style: int, kind: str) -> None:
        """Join points; one that is not finite interrupts the line."""
        path, drawing = [], False
        for x, y in points:
            if not (math.isfinite(y) and math.isfinite(x)) or (self.y.log and y <= 0):
                drawing = False
                continue
            at = f"{_short(self.x(x))},{_short(self.y(y))}"
            path.append(f"L{at}" if drawing else f"M{at}h0")  # with round ends a lone point is a dot
            drawing = True
        if path:
            self._add(kind, style, Markup('<path class="{}"{} d="{}"/>'), "".join(path))

    def mark(self, x: float, y: float, style: int, kind: str, title: str, **data: float) -> None:
        """Put a mark of the arm's shape at (x, y), with words for whoever points at it."""
        if not (math.isfinite(x) and math.isfinite(y)) or (self.y.log and y <= 0):
            return
        attributes = Markup("").join(
            Markup(' data-{}="{}"').format(name, repr(value)) for name, value in data.items()
        )
        drawn = _CROSS if kind == "cross" else shape(style)
        where = f"translate({_short(self.x(x))} {_short(self.y(y))})"
        template = Markup('<path class="{}"{} transform="{}" d="{}"{}><title>{}</title></path>')
        self._add(kind, style, template, where, drawn, attributes, title)

    def dot(self, x: float, y: float, style: int, kind: str) -> None:
        """Put a small dot at (x, y)."""
        if math.isfinite(y) and (y > 0 or not self.y.log):
            template = Markup('<circle class="{}"{} cx="{}" cy="{}" r="2.2"/>')
            self._add(kind, style, template, _short(self.x(x)), _short(self.y(y)))

    def bar(self, x: float, low: float, high: float, style: int) -> None:
        """Draw an error bar."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return
        low = max(low, self.y.low) if self.y.log else low
        at, top, bottom = _short(self.x(x)), _short(self.y(high)), _short(self.y(low))
        self._add("bar", style, Markup('<path class="{}"{} d="{}"/>'), f"M{at},{top}V{bottom}")

    def band(self, low: float, high: float, style: int) -> None:
        """Shade a band over the whole width."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return
        low = max(low, self.y.low) if self.y.log else low
        top, bottom = self.y(high), self.y(low)
        template = Markup('<rect class="{}"{} x="{}" y="{}" width="{}" height="{}"/>')
        self._add(
            "band", style, template, LEFT, _short(top), WIDTH - LEFT - RIGHT, _short(max(0.5, bottom - top))
        )

    def _add(self, kind: str, style: int, template: Markup, *values: object) -> None:
        arm = Markup(' data-arm="{}"').format(style)
        self._parts.append(template.format(f"{kind} {colour(style)}", arm, *values))

    def svg(self) -> Markup:
        """Return the figure."""
        data = Markup("").join(Markup(' data-{}="{}"').format(k, v) for k, v in self.data.items())
        head = Markup('<svg class="chart {}" role="img" aria-label="{}" viewBox="0 0 {} {}"{}>').format(
            self.classes, self.label, WIDTH, HEIGHT, data
        )
        # An inner picture shows nothing outside itself; a mark on its edge is not cut in two.
        edge = 8
        x, y = LEFT - edge, TOP - edge
        size = (WIDTH - RIGHT - LEFT + 2 * edge, HEIGHT - BOTTOM - TOP + 2 * edge)
        inside = Markup('<svg x="{0}" y="{1}" width="{2}" height="{3}" viewBox="{0} {1} {2} {3}">')
        parts = inside.format(x, y, *size) + Markup("").join(self._parts) + Markup("</svg>")
        return head + self._axes() + parts + Markup("</svg>")

    def _axes(self) -> Markup:
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = []
        for at, label in self.y.ticks():
            parts.append(Markup('<path class="grid" d="M{},{}H{}"/>').format(LEFT, _short(at), right))
            text = Markup('<text class="tick" x="{}" y="{}" text-anchor="end">{}</text>')
            parts.append(text.format(LEFT - 6, _short(at + 4), label))
        for at, label in self.x.ticks() if self.x_ticks is None else self.x_ticks:
            parts.append(Markup('<path class="axis" d="M{},{}v4"/>').format(_short(at), bottom))
            text = Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>')
            parts.append(text.format(_short(at), bottom + 17, label))
        parts.append(Markup('<path class="axis" d="M{},{}H{}"/>').format(LEFT, bottom, right))
        name = Markup('<text class="name" x="{}" y="{}" text-anchor="middle">{}</text>')
        parts.append(name.format((LEFT + right) / 2, HEIGHT - 8, self.x_label))
        turned = Markup(
            '<text class="name" transform="translate(13 {}) rotate(-90)" text-anchor="middle">{}</text>'
        )
        parts.append(turned.format((TOP + bottom) / 2, self.y_label))
        return Markup("").join(parts)


def across() -> tuple[float, float]:
    """Return where an x axis begins and ends."""
    return float(LEFT), float(WIDTH - RIGHT)


def upward() -> tuple[float, float]:
    """Return where a y axis begins and ends."""
    return float(HEIGHT - BOTTOM), float(TOP)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
