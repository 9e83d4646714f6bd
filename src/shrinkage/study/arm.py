"""An arm of ``study.toml``: a recipe, the strengths to try, and what it changes of model and training."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import numpy as np
from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from shrinkage.errors import ShrinkageError
from shrinkage.study.complaint import complaint
from shrinkage.study.settings import Number, Overrides, Part, Positive, Training, described, is_open

if TYPE_CHECKING:
    from shrinkage.recipe.recipe import Recipe

BASELINE = "none"

Name = Annotated[str, Field(min_length=1, max_length=200)]


class Range(Part):
    """A geometric grid of ``count`` strengths from ``low`` to ``high``."""

    low: Positive
    high: Positive
    count: Annotated[int, Field(strict=True, ge=2, le=1000)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high; got {self.low!r} and {self.high!r}")
        return self

    def values(self) -> tuple[float, ...]:
        """Return the grid: its ends as given, 4 digits between, so that a strength can be typed again."""
        grid = np.exp(np.linspace(np.log(self.low), np.log(self.high), self.count)[1:-1])
        return (self.low, *(float(f"{v:.4g}") for v in grid), self.high)


def _form(given: Any) -> str | None:
    if isinstance(given, (dict, Range)):
        return "grid"
    return "list" if isinstance(given, (list, tuple)) else None


_Strengths = Annotated[
    Annotated[Range, Tag("grid")] | Annotated[tuple[Annotated[Number, Field(ge=0)], ...], Tag("list")],
    Discriminator(
        _form,
        custom_error_type="strengths",
        custom_error_message="must be { low = 1e-6, high = 1e-1, count = 6 }, or a list of numbers",
    ),
]


class Arm(Part):
    """One named recipe of a study, and what it changes of the model and its training.

    Parameters
    ----------
    name
        Unique in the study. ``none`` is the arm without penalties; it is added if it is missing.
    recipe
        Rules as text. Where they say ``strength``, ``strengths`` gives the values.
    strengths
        A geometric grid ``{low, high, count}`` or a list of numbers ≥ 0; 0 is the shared baseline.
    strength_per
        ``"rule"`` gives each rule that says ``strength`` one of its own, which ``strategy = "bayes"`` and
        ``"hypergradient"`` search; the arm's is then their geometric mean. ``"arm"``: all have the same.
    learning_rate
        The arm's own, in the place of the training's.
    model_options
        Options of the model's function that differ from the study's. A value ``"strength"`` takes
        ``strengths``, each of which is then a network of its own.
    training
        Fields of the training that differ from the study's; see :class:`~shrinkage.study.settings.Overrides`.
    """

    name: Name
    recipe: tuple[str, ...] = ()
    strengths: _Strengths | None = None
    strength_per: Literal["arm", "rule"] = "arm"
    learning_rate: Positive | None = None
    model_options: dict[str, Any] = Field(default_factory=dict)
    training: Overrides = Overrides()

    @field_validator("model_options")
    @classmethod
    def _toml(cls, given: dict[str, Any]) -> dict[str, Any]:
        return as_toml(given)

    @field_validator("recipe", mode="before")
    @classmethod
    def _as_texts(cls, given: Any) -> Any:
        try:
            return tuple(_recipe(given).to_list())
        except ShrinkageError as error:
            raise ValueError(str(error)) from None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        in_options = is_open(self.options)
        if in_options and self.strengths is None:
            raise ValueError(f"arm {self.name!r} leaves its strength open; give it strengths")
        if self.strengths is not None and not self.is_open:
            raise ValueError(
                f"arm {self.name!r} has strengths, but no rule of its recipe says strength, nor an option"
            )
        if self.strength_per == "rule" and (self.rules < 2 or not self.is_searched):
            raise ValueError(
                f"arm {self.name!r} has a strength for each rule: then two rules must say strength, and no "
                "option may"
            )
        if not self.values():
            raise ValueError(f"arm {self.name!r} needs a strength above 0; 0 alone is the arm {BASELINE!r}")
        if self.name == BASELINE and not self.is_plain:
            raise ValueError(
                f"the arm {BASELINE!r} is the one without penalties and options; give this one another name"
            )
        if self.learning_rate is not None and self.training.learning_rate is not None:
            raise ValueError(f"arm {self.name!r} has learning_rate twice; give it once")
        self._check_strengths()
        return self

    @property
    def is_open(self) -> bool:
        """Whether the recipe or an option leaves the strength open."""
        return _recipe(self.recipe).varies or is_open(self.options)

    @property
    def rules(self) -> int:
        """How many rules say ``strength``."""
        return _recipe(self.recipe).varying

    @property
    def is_searched(self) -> bool:
        """Whether a search may propose strengths: those of options are other models, and have to be named."""
        return self.is_open and not is_open(self.options)

    def _check_strengths(self) -> None:
        """Check that every strength can stand where options say strength, and that 0 is the baseline."""
        fixed = any(not is_open(value) for value in self.options.values())
        if fixed and isinstance(self.strengths, tuple) and 0 in self.strengths:
            raise ValueError(
                f"arm {self.name!r} at strength 0 is not the baseline, for it has options of its own: "
                "leave 0 out, and give an arm the options alone"
            )
        for strength in self.values() if is_open(self.training.given()) else ():
            try:
                self.training.over(Training(), strength)
            except ValidationError as error:
                wrong = complaint(error, "training", lambda place: list(Training.model_fields))
                raise ValueError(f"arm {self.name!r}: {wrong}") from None

    @property
    def options(self) -> dict[str, Any]:
        """What the arm changes of the model and of its training, in one table: no two names are alike."""
        return {**self.model_options, **{f"training.{k}": v for k, v in self.training.given().items()}}

    @property
    def is_plain(self) -> bool:
        """Whether the arm has neither penalties nor options: the baseline, at whatever learning rate."""
        return not (self.recipe or self.options)

    @property
    def rate(self) -> float | None:
        """The arm's own learning rate, wherever it was given."""
        return self.training.learning_rate if self.learning_rate is None else self.learning_rate

    def described(self) -> tuple[str, ...]:
        """Return each option as text, as it stands in the study file."""
        return tuple(described(self.model_options, self.training.given()))

    def values(self) -> tuple[float | None, ...]:
        """Return the strengths named, ascending, without 0 (the shared baseline); (None,) if none are."""
        if self.strengths is None:
            return (None,)
        grid = self.strengths.values() if isinstance(self.strengths, Range) else self.strengths
        return tuple(sorted({v for v in grid if v > 0}))


def _recipe(given: Any) -> Recipe:
    from shrinkage.recipe.recipe import Recipe  # loads Keras, which a file that isn't there need not wait for

    return Recipe(given)


def as_toml(given: dict[str, Any]) -> dict[str, Any]:
    """Return options as they are, where a file can hold them; else raise ValueError."""
    for wrong in _no_toml(given):
        raise ValueError(
            f"must hold text, true or false, finite numbers, lists and tables, and {wrong!r:.80} is none"
        )
    return given


def _no_toml(given: Any) -> Iterator[Any]:
    """Yield what TOML can't say, or not so that it reads back equal."""
    if isinstance(given, dict):
        for key, value in given.items():
            yield from _no_toml(value) if isinstance(key, str) else (key,)
    elif isinstance(given, list):
        for value in given:
            yield from _no_toml(value)
    elif not isinstance(given, (str, int, float)) or (isinstance(given, float) and not math.isfinite(given)):
        yield given
