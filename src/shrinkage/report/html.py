"""``report.html``: one self-contained file that shows what runs found. It opens offline, asking for nothing.

Everything in it comes from `facts`. Text is escaped by Jinja, scripts and styles are allowed by their hashes
alone, so that nothing in a name, a label or a path can become markup or code.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from shrinkage.report import charts, svg
from shrinkage.report.facts import facts
from shrinkage.report.rows import ArmRow, CurveRow, Facts
from shrinkage.study import words
from shrinkage.study.evidence import ArmEvidence
from shrinkage.study.files import write_text
from shrinkage.study.results import Results
from shrinkage.study.stats import Estimate

_MOST_CELLS = 150  # whose learning curves are in the file; else those of chosen strengths alone
_MOST_CLASSES = 40  # of a confusion matrix that is shown as a table
_SHADES = 9


@dataclass(frozen=True)
class Page:
    """One run as the template takes it: facts, and figures made of them."""

    facts: Facts
    validation: tuple[View, ...]
    curves: tuple[Curves, ...]
    histograms: tuple[tuple[str, Markup], ...]
    sizes: Markup | None
    samples: tuple[tuple[str, tuple[str, ...]], ...]
    confusions: tuple[Confusion, ...]


@dataclass(frozen=True)
class View:
    """A figure of validation scores; of each measure one is ``shown`` from the start."""

    name: str
    measure: str
    shown: bool
    figure: Markup


@dataclass(frozen=True)
class Curves:
    """The learning curves of one arm at one strength; ``shown`` are visible from the start."""

    title: str
    figures: tuple[Markup, ...]
    shown: bool


@dataclass(frozen=True)
class Confusion:
    """How one arm's trial mistakes classes: rows of (label, cells of (count, shade)), and images."""

    title: str
    rows: tuple[tuple[str, tuple[tuple[int, int], ...]], ...]
    pairs: tuple[tuple[str, str, int], ...]
    images: tuple[tuple[str, str], ...]


def write(results: Sequence[Results], path: str | os.PathLike[str]) -> Path:
    """Write the report of one run, or of several side by side.

    Parameters
    ----------
    results
        The runs, in order.
    path
        The file; replaced in one step.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    OSError
        If it can't be written.

    Examples
    --------
    >>> write([Results.load("runs/digits")], "report.html")  # doctest: +SKIP
    PosixPath('report.html')
    """
    target = Path(path)
    # A path may hold bytes that are no text; they are shown as question marks.
    write_text(target, render(results).encode(errors="replace").decode())
    return target


def render(results: Sequence[Results]) -> str:
    """Return the page as text; equal results give an equal page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("shrinkage.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    style, script = (_asset(name) for name in ("report.css", "report.js"))
    return environment.get_template("report.html.j2").render(
        pages=[_page(result) for result in results],
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
        several=len(results) > 1,
    )


def _asset(name: str) -> str:
    return "\n" + files("shrinkage.report").joinpath("templates", name).read_text("utf-8")


def _policy(style: str, script: str) -> str:
    """Return the page's content security policy: this style, this script, embedded images, nothing else."""
    parts = ("default-src 'none'", f"script-src '{_hash(script)}'", f"style-src '{_hash(style)}'")
    return "; ".join((*parts, "img-src data:", "base-uri 'none'", "form-action 'none'"))


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


# --- one run --------------------------------------------------------------------------------------------


def _page(result: Results) -> Page:
    found = facts(result)
    return Page(
        facts=found,
        validation=tuple(_validation(found)),
        curves=tuple(_curves(found)),
        histograms=tuple(_histograms(found)),
        sizes=charts.sizes(found.sizes, found.classification) if found.sizes else None,
        samples=tuple(_samples(found, result.pictures)),
        confusions=tuple(_confusion(arm, found, result.pictures) for arm in found.seen),
    )


def _validation(found: Facts) -> list[View]:
    """Return the figures of the losses, then of accuracies; of each the view to begin with first."""
    views = charts.views(found.validation)
    figures = [View(view, "loss", i == 0, charts.validation(found.validation, "loss", view))
               for i, view in enumerate(views)]  # fmt: skip
    seen = [view for view in views if view != "log"] if found.classification else []
    return figures + [
        View(view, "accuracy", i == 0, charts.validation(found.validation, "accuracy", view))
        for i, view in enumerate(seen)
    ]


def _curves(found: Facts) -> list[Curves]:
    cells: dict[tuple[str, float | None], list[CurveRow]] = {}
    for row in found.curves:
        cells.setdefault((row.arm, row.strength), []).append(row)
    several = len(cells) <= _MOST_CELLS
    return [
        Curves(
            words.at_strength(arm, strength) + (" (chosen)" if rows[0].is_chosen else ""),
            tuple(charts.learning(rows, found.classification)),
            rows[0].is_chosen and arm in found.told,
        )
        for (arm, strength), rows in cells.items()
        if several or rows[0].is_chosen
    ]


def _histograms(found: Facts) -> list[tuple[str, Markup]]:
    layers = dict.fromkeys(row.layer for row in found.layers)
    drawn = []
    for layer in layers:
        rows = [row for row in found.layers if row.layer == layer and row.arm in found.told]
        if rows:
            drawn.append((layer, charts.histogram(rows)))
    return drawn


# --- pictures -------------------------------------------------------------------------------------------


def _samples(found: Facts, pictures: Mapping[str, NDArray[np.uint8]]) -> list[tuple[str, tuple[str, ...]]]:
    rows: dict[int, list[str]] = {}
    for number, picture in zip(found.data.samples, pictures.get("samples", ()), strict=False):
        rows.setdefault(number, []).append(_source(picture))
    return [(_class(found, number), tuple(sources)) for number, sources in rows.items()]


def _confusion(arm: ArmEvidence, found: Facts, pictures: Mapping[str, NDArray[np.uint8]]) -> Confusion:
    matrix = arm.confusion
    wrong = [
        (_class(found, i), _class(found, j), n)
        for i, row in enumerate(matrix)
        for j, n in enumerate(row)
        if i != j and n
    ]
    stored = pictures.get("mistakes", ())
    images = [
        (
            _source(stored[m.picture]),
            f"{_class(found, m.truth)} taken for {_class(found, m.predicted)}"
            f" ({words.percent(m.probability)})",
        )
        for m in arm.mistakes
        if m.picture is not None and m.picture < len(stored)
    ]
    rows = [
        (_class(found, i), tuple((n, _shade(n, sum(row))) for n in row))
        for i, row in enumerate(matrix)
        if len(matrix) <= _MOST_CLASSES
    ]
    name = words.at_strength(arm.arm, arm.strength)
    title = f"{name}, seed {arm.seed}" + (f", {found.over[:-1]} {arm.fold}" if arm.fold >= 0 else "")
    return Confusion(title, tuple(rows), tuple(sorted(wrong, key=lambda pair: -pair[2])[:10]), tuple(images))


def _class(found: Facts, number: int) -> str:
    names = found.data.classes
    return names[number] if 0 <= number < len(names) else "any"


def _shade(count: int, total: int) -> int:
    return math.ceil(_SHADES * count / total) if total else 0


def _source(picture: NDArray[np.uint8]) -> str:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


# --- numbers as text ------------------------------------------------------------------------------------


def _estimate(value: Estimate | None, accuracy: bool = False) -> str:
    """Write mean ± standard error, both to the error's second digit."""
    if value is None or not math.isfinite(value.mean):
        return "–"
    mean, error = (100 * v if accuracy else v for v in (value.mean, value.se))
    unit = " %" if accuracy else ""
    if not error > 0 or not math.isfinite(error):
        alone = words.percent(value.mean) if accuracy else words.number(value.mean)
        return alone if error != 0 else f"{alone} ± 0"
    digits = min(10, max(0, 1 - math.floor(math.log10(error))))
    return f"{mean:.{digits}f} ± {error:.{digits}f}{unit}"


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else words.number(value)


def _share(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else words.percent(value)


def _whole(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:,.0f}"


def _interval(arm: ArmRow) -> str:
    found = arm.difference
    if found is None or found.test.n == 0:
        return "–"
    accuracy = found.measure.endswith("accuracy")
    mean = words.amount(found.test.mean, accuracy)
    if not math.isfinite(found.test.low):
        return mean
    low, high = (words.amount(x, accuracy).partition(" ")[0] for x in (found.test.low, found.test.high))
    return f"{mean} [{low}, {high}]"


def _raw(value: Any) -> str:
    """Return a number as the page's ``data-`` attributes hold it: all of its digits, and nothing for NaN."""
    if isinstance(value, Estimate):
        value = value.mean
    missing = value in (None, "") or (isinstance(value, float) and not math.isfinite(value))
    return "" if missing else repr(value)


_FILTERS = {
    "estimate": _estimate,
    "number": _number,
    "share": _share,
    "whole": _whole,
    "interval": _interval,
    "raw": _raw,
    "plain": words.plain,
    "duration": words.duration,
    "colour": svg.colour,
    "shape": svg.shape,
}
