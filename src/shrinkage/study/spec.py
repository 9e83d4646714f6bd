"""``study.toml``: what a study is, field by field, and every check that needs no model and no data."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from shrinkage.errors import ShrinkageError, SpecError, did_you_mean
from shrinkage.recipe.recipe import Recipe

BASELINE = "none"

_Count = Annotated[int, Field(strict=True, ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Range(_Part):
    """A geometric grid of ``count`` strengths from ``low`` to ``high``."""

    low: Annotated[float, Field(gt=0)]
    high: Annotated[float, Field(gt=0)]
    count: Annotated[int, Field(strict=True, ge=2, le=1000)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be less than high; got {self.low!r} and {self.high!r}")
        return self

    def values(self) -> tuple[float, ...]:
        """Return the grid; 4 digits each, so that a strength can be read, typed and found again."""
        grid = np.geomspace(self.low, self.high, self.count)
        return tuple(float(f"{v:.4g}") for v in grid)


class Arm(_Part):
    """One named recipe of a study.

    Parameters
    ----------
    name
        Unique in the study. ``none`` is the arm without penalties; it is added if it is missing.
    recipe
        Rules as text. Where they say ``strength``, ``strengths`` gives the values.
    strengths
        A geometric grid ``{low, high, count}`` or a list of numbers ≥ 0; 0 is the shared baseline.
    """

    name: Annotated[str, Field(min_length=1, max_length=200)]
    recipe: tuple[str, ...] = ()
    strengths: Range | tuple[Annotated[float, Field(ge=0)], ...] | None = None

    @field_validator("recipe", mode="before")
    @classmethod
    def _as_texts(cls, given: Any) -> Any:
        return _recipe_texts(given)

    @field_validator("recipe")
    @classmethod
    def _parses(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(Recipe(given).to_list())
        except ShrinkageError as error:
            raise ValueError(str(error)) from None

    @field_validator("strengths", mode="before")
    @classmethod
    def _grid_or_list(cls, given: Any) -> Any:
        if isinstance(given, dict):
            return Range.model_validate(given)
        if given is None or isinstance(given, (Range, list, tuple)):
            return given
        raise ValueError("write { low = 1e-6, high = 1e-1, count = 6 }, or a list of numbers")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        varies = Recipe(self.recipe).varies
        if varies and not self.strengths:
            raise ValueError(f"arm {self.name!r} leaves its strength open; give it strengths")
        if self.strengths and not varies:
            raise ValueError(f"arm {self.name!r} has strengths, but no rule of its recipe says strength")
        if self.name == BASELINE and self.recipe:
            raise ValueError(f"the arm {BASELINE!r} is the one without penalties; give this one another name")
        return self

    def values(self) -> tuple[float | None, ...]:
        """Return the strengths to train, ascending, without 0 (the shared baseline); (None,) for a fixed recipe."""
        if self.strengths is None:
            return (None,)
        grid = self.strengths.values() if isinstance(self.strengths, Range) else self.strengths
        return tuple(sorted({v for v in grid if v > 0}))


class Training(_Part):
    """How each trial is trained.

    Parameters
    ----------
    epochs, batch_size
        Whole numbers ≥ 1.
    optimizer, learning_rate
        Keras's name of an optimizer, and its learning rate (None: the optimizer's own default).
    loss
        ``auto`` (from the targets), or Keras's name of a loss.
    metrics
        Keras's names of more metrics to follow.
    early_stopping
        Epochs to wait for a lower validation data loss before a trial stops and returns to its best
        epoch; None trains to the end.
    """

    epochs: _Count = 20
    batch_size: _Count = 32
    optimizer: str = "adam"
    learning_rate: Annotated[float, Field(gt=0)] | None = None
    loss: str = "auto"
    metrics: tuple[str, ...] = ()
    early_stopping: _Count | None = None


class StudySpec(_Part):
    """A whole study, as ``study.toml`` holds it."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = "study"
    data: str
    label: str | None = None
    model: str
    model_options: dict[str, Any] = {}
    initial: Literal["fresh", "saved"] = "fresh"
    validation: Annotated[float, Field(gt=0, lt=1)] | None = None
    folds: Annotated[int, Field(strict=True, ge=2)] | None = None
    seeds: tuple[Annotated[int, Field(strict=True, ge=0)], ...] = (0, 1, 2, 3, 4)
    training: Training = Training()
    arms: tuple[Arm, ...]
    storage: str | None = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, given: Any) -> Any:
        if isinstance(given, int) and not isinstance(given, bool):
            if not 1 <= given <= 10_000:
                raise ValueError("give 1 to 10,000 seeds, or a list of whole numbers")
            return tuple(range(given))
        return given

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.validation is not None and self.folds is not None:
            raise ValueError("give validation (one split) or folds, not both")
        names = [arm.name for arm in self.arms]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ValueError(f"two arms are named {twice!r}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be distinct, and at least one")
        return self

    @property
    def holdout(self) -> float:
        """The share of the training data that is held out for validation, in a study without folds."""
        return 0.2 if self.validation is None else self.validation

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """The arms with the baseline, which is trained whether it was asked for or not, first."""
        others = tuple(arm for arm in self.arms if arm.recipe)
        return (self.baseline, *others)

    @property
    def baseline(self) -> Arm:
        """The arm without penalties."""
        return next((arm for arm in self.arms if not arm.recipe), Arm(name=BASELINE))

    def to_toml(self) -> str:
        """Return the text of ``study.toml``; reading it gives an equal spec."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def parse(cls, fields: dict[str, Any], source: str = "The study") -> Self:
        """Return the spec of ``fields``.

        Raises
        ------
        SpecError
            If a key, type or range is wrong: names the key, the rule and the nearest right word.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            raise SpecError(_sentence(error, source)) from None

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the spec in a TOML file; paths in it are taken relative to the file, then to here.

        Raises
        ------
        SpecError
            If the file is missing, is no TOML, or a key, type or range in it is wrong.
        """
        try:
            fields = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise SpecError(f"The study file {str(path)!r} can't be read: {error.strerror}.") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SpecError(f"The study file {str(path)!r} is not valid TOML: {error}.") from None
        for key in ("data", "model"):
            if isinstance(fields.get(key), str):
                fields[key] = _resolved(fields[key], path.parent)
        return cls.parse(fields, str(path))

    def differences(self, other: StudySpec) -> list[str]:
        """Return one line for each field that ``other`` has another value for."""
        mine, theirs = (_flat(s.model_dump(mode="json")) for s in (self, other))
        keys = dict.fromkeys([*mine, *theirs])
        return [
            f"{k}: {mine.get(k, 'absent')!r} -> {theirs.get(k, 'absent')!r}" for k in keys if mine.get(k) != theirs.get(k)
        ]


def _recipe_texts(given: Any) -> Any:
    if isinstance(given, (str, list, tuple)) or hasattr(given, "rules"):
        try:
            return Recipe(given).to_list()
        except ShrinkageError as error:
            raise ValueError(str(error)) from None
    return given


def _resolved(reference: str, folder: Path) -> str:
    beside = folder / reference
    return str(beside.resolve()) if ":" not in reference and beside.exists() else reference


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{k}" if prefix else k, v) for k, v in value.items()]
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        items = [(f"{prefix}[{i + 1}]", v) for i, v in enumerate(value)]
    else:
        return {prefix: value}
    return {k: v for key, part in items for k, v in _flat(part, key).items()}


def _sentence(error: ValidationError, source: str) -> str:
    """Turn pydantic's first complaint into a sentence: where, what is wrong, what is allowed."""
    first = error.errors(include_url=False)[0]
    where = _where(first["loc"])
    more = f" ({error.error_count() - 1} more like this)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        fields = _fields_at(first["loc"])
        hint = did_you_mean(str(first["loc"][-1]), fields) or f" Known keys: {', '.join(fields)}."
        return f"{source}: unknown key {where!r}.{hint}{more}"
    if first["type"] == "missing":
        return f"{source}: the key {where!r} is missing.{more}"
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = "" if isinstance(given, (dict, BaseModel)) else f"; got {given!r:.80}"
    return f"{source}: {where + ': ' if where else ''}{message[:1].lower() + message[1:]}{shown}.{more}".replace("..", ".")


def _where(loc: tuple[Any, ...]) -> str:
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        elif not part.startswith(("Range", "tuple[", "function-")):
            text += f".{part}" if text else part
    return text


def _fields_at(loc: tuple[Any, ...]) -> list[str]:
    home: type[_Part] = StudySpec
    for part in loc[:-1]:
        home = {"training": Training, "arms": Arm, "strengths": Range}.get(str(part), home)
    return list(home.model_fields)


