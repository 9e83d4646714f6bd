"""``study.toml``: what a study is, field by field, and every check that needs no model and no data."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from shrinkage.errors import SpecError
from shrinkage.study.arm import BASELINE, Arm, Name, Range, as_toml
from shrinkage.study.complaint import complaint, concealed
from shrinkage.study.settings import (
    Count,
    Number,
    Overrides,
    Part,
    Training,
    filled,
    is_open,
)


class StudySpec(Part):
    """A whole study, as ``study.toml`` holds it.

    Parameters
    ----------
    strategy
        How strengths are searched. ``"grid"``: every one that is named is trained to the end, the default
        where all are named. ``"auto"``, the default else, finds the range by itself and looks closer until
        the answer is known. ``"refine"``: a grid, then closer around the best. ``"halving"``: after each of
        ``rungs`` only the better half of each arm's strengths goes on. ``"path"``: from the weakest upwards,
        each from the weights of the one before. ``"bayes"``: Optuna's sampler proposes. ``"hypergradient"``:
        as ``"auto"``, and from the best strength of an arm down the derivative of the validation data loss,
        to one strength a rule.
    rungs
        Epochs after which ``"halving"`` stops strengths, ascending; by default after a twelfth, a sixth and
        a third of them.
    tolerance
        ``"auto"`` and ``"refine"`` stop when what other strengths could still win of the validation data
        loss is within so many standard errors.
    budget
        When a search ends at the latest: a time, as in ``"10 min"``, or a number of trials.
    groups
        What says which rows no split may tear apart: an array of an ``.npz`` file, or a column of a CSV file.
    folds, repeats
        Splits of the training rows into so many parts, each validated on once; and how many such splits. With
        ``validation``: how many random splits. Of several random splits, ``"auto"`` finds the range on the
        first, which has no say in the choice.
    stratify
        Whether each class has its share in every part, where it has enough rows.
    refit
        Whether the recommended arm is trained again on all training rows; by default where there are several
        splits, but not along a path.
    nested
        Parts of the training rows on each of which the whole procedure is scored, having seen the others.
    margin
        The difference in accuracy (of a regression, in data loss) that does not matter: an arm is called
        equivalent to the baseline where it is shown to be within it. By default 0.002 in accuracy, that is
        0.2 points, and none for a regression, whose loss can have any unit.
    """

    name: Name = "study"
    data: str
    label: str | None = None
    groups: Name | None = None
    model: str
    model_options: dict[str, Any] = Field(default_factory=dict)
    initial: Literal["fresh", "saved"] = "fresh"
    validation: Annotated[Number, Field(gt=0, lt=1)] | None = None
    folds: Annotated[int, Field(strict=True, ge=2)] | None = None
    repeats: Count = 1
    stratify: Annotated[bool, Field(strict=True)] = True
    refit: Annotated[bool, Field(strict=True)] | None = None
    nested: Annotated[int, Field(strict=True, ge=2)] | None = None
    seeds: tuple[Annotated[int, Field(strict=True, ge=0, lt=2**32)], ...] = (0, 1, 2, 3, 4)
    training: Training = Training()
    strategy: Literal["auto", "grid", "refine", "halving", "path", "bayes", "hypergradient"] = "auto"
    rungs: tuple[Count, ...] | None = None
    tolerance: Annotated[Number, Field(ge=0)] = 1.0
    budget: int | str | None = None
    arms: tuple[Arm, ...]
    margin: Annotated[Number, Field(gt=0)] | None = None
    storage: str | None = None

    @field_validator("seeds", mode="before")
    @classmethod
    def _count_or_list(cls, given: Any) -> Any:
        if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= 10_000:
            return tuple(range(given))
        if isinstance(given, (list, tuple)):
            return given
        raise ValueError("must be how many seeds, 1 to 10,000, or a list of whole numbers")

    @field_validator("budget", mode="before")
    @classmethod
    def _time_or_trials(cls, given: Any) -> Any:
        many = isinstance(given, int) and not isinstance(given, bool) and given >= 1
        if given is None or many or (isinstance(given, str) and seconds(given)):
            return given
        raise ValueError('must be a number of trials, or a time as in "90 s", "10 min" or "2 h"')

    @field_validator("model_options")
    @classmethod
    def _toml(cls, given: dict[str, Any]) -> dict[str, Any]:
        if is_open(given):
            raise ValueError('must not say "strength", which options of an arm may')
        return as_toml(given)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.validation is not None and self.folds is not None:
            raise ValueError("give validation (a share held out) or folds, not both")
        names = [arm.name for arm in self.arms]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ValueError(f"two arms are named {twice!r}")
        free = [arm.name for arm in self.arms if arm.is_plain]
        if len(free) > 1:
            raise ValueError(
                f"the arms {free[0]!r} and {free[1]!r} both have no recipe and no options, and one arm "
                "without is enough"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("seeds must be distinct, and at least one")
        unnamed = next((arm.name for arm in self.arms if arm.is_open and arm.strengths is None), None)
        per_rule = next((arm.name for arm in self.arms if arm.strength_per == "rule"), None)
        if "strategy" not in self.model_fields_set:  # the study is still being made
            found = "grid" if unnamed is None else "auto"  # of a grid there is nothing to find
            self.__dict__["strategy"] = found if per_rule is None else "bayes"
        elif per_rule is not None and self.strategy not in ("bayes", "hypergradient"):
            raise ValueError(
                f'arm {per_rule!r} has a strength for each rule: write strategy = "bayes" or "hypergradient"'
            )
        elif per_rule is None and self.strategy == "hypergradient":
            raise ValueError('strategy = "hypergradient" needs an arm with strength_per = "rule"')
        if unnamed is not None and self.is_settled:
            raise ValueError(f"arm {unnamed!r} leaves its strength open; give it strengths")
        if self.strategy == "path" and (self.refit or self.nested):
            asked = "refit" if self.refit else "nested"
            raise ValueError(f'{asked} trains afresh, and strategy = "path" does not: take another strategy')
        if self.is_settled and self.budget is not None:
            raise ValueError(
                f'budget goes with a search, and strategy = "{self.strategy}" trains what it names'
            )
        for epochs in dict.fromkeys([self.training.epochs, *(arm.training.epochs for arm in self.arms)]):
            if epochs is not None:
                self._check_rungs(epochs)
        return self

    def _check_rungs(self, epochs: int) -> None:
        rungs = self.rungs
        if self.strategy != "halving":
            if rungs is not None:
                raise ValueError('rungs go with strategy = "halving"; without it every strength is trained')
        elif epochs < 2:
            raise ValueError('strategy = "halving" needs at least 2 epochs')
        elif rungs is not None and not (rungs and sorted({*rungs, epochs}) == [*rungs, epochs]):
            raise ValueError(f"rungs must ascend and lie below the {epochs} epochs; got {list(rungs)}")

    @property
    def is_settled(self) -> bool:
        """Whether all trials are known before the first is trained."""
        return self.strategy in ("grid", "halving")

    @property
    def explores(self) -> bool:
        """Whether the range of the strengths is found on one unit, before they are trained on others."""
        return self.strategy in ("auto", "hypergradient")

    @property
    def stops(self) -> tuple[int, ...]:
        """The epochs after which strengths are stopped; none of a full grid."""
        if self.strategy != "halving":
            return ()
        epochs = self.training.epochs
        return self.rungs or tuple(sorted({max(1, epochs // share) for share in (12, 6, 3)}))

    @property
    def fold_numbers(self) -> Sequence[int]:
        """The ``fold`` of a trial: from 0 in a study of several splits, -1 in one of a single split."""
        return range(self.split_count) if self.split_count > 1 else (-1,)

    @property
    def resamples(self) -> bool:
        """Whether several splits are drawn independently of each other, so that they overlap as they come."""
        return self.folds is None and self.repeats > 1

    @property
    def holdout(self) -> float:
        """The share of the training data that is held out for validation, in a study without folds."""
        return 0.2 if self.validation is None else self.validation

    @property
    def split_count(self) -> int:
        """How many splits of the training rows each arm, strength and seed is trained on."""
        return (self.folds or 1) * self.repeats

    @property
    def refits(self) -> bool:
        """Whether the recommended arm is trained again, on all training rows."""
        # The end of a path can't be trained afresh: its epochs are those of the last stretch.
        return self.split_count > 1 and self.strategy != "path" if self.refit is None else self.refit

    @property
    def all_arms(self) -> tuple[Arm, ...]:
        """The arms with the baseline, which is trained whether it was asked for or not, first."""
        others = tuple(arm for arm in self.arms if not arm.is_plain)
        return (self.baseline, *others)

    @property
    def baseline(self) -> Arm:
        """The arm without penalties."""
        return next((arm for arm in self.arms if arm.is_plain), Arm(name=BASELINE))

    def arm(self, name: str) -> Arm:
        """Return the arm of that name."""
        return next(arm for arm in self.all_arms if arm.name == name)

    def at(self, arm: str, strength: float | None) -> Self:
        """Return the study with the options of one arm at one strength in the place of its own.

        Arms for which that is the same train one network in one way. The learning rate stays the study's,
        for trials that differ in it alone can share a program; see :attr:`Arm.rate`.
        """
        own = self.arm(arm)
        if not own.options:
            return self
        options = {**self.model_options, **filled(own.model_options, strength)}
        training = own.training.over(self.training, strength)
        return self.model_copy(update={"model_options": options, "training": training})

    def portable(self, folder: Path) -> Self:
        """Return the spec with paths into ``folder`` relative to it, so that the folder can be moved."""
        paths = {key: Path(getattr(self, key)) for key in ("data", "model")}
        inside = {key: p.relative_to(folder) for key, p in paths.items() if p.is_relative_to(folder)}
        return self.model_copy(update={key: path.as_posix() for key, path in inside.items()})

    def to_toml(self) -> str:
        """Return the text of ``study.toml``; reading it gives an equal spec."""
        fields = self.model_dump(mode="json", exclude_none=True)
        fields["training"] = {k: v for k, v in fields["training"].items() if v != {}}
        usual = {"model_options": {}, "training": {}, "strength_per": "arm"}
        fields["arms"] = [{k: v for k, v in arm.items() if v != usual.get(k)} for arm in fields["arms"]]
        return tomli_w.dumps(fields)

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
            raise SpecError(complaint(error, source, _fields_at)) from None

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
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise SpecError(f"The study file {str(path)!r} is not valid TOML: {error}.") from None
        for key in ("data", "model"):
            if isinstance(fields.get(key), str):
                fields[key] = resolved(fields[key], path.parent)
        return cls.parse(fields, str(path))

    @property
    def limits(self) -> dict[str, Any]:
        """When a search ends: what may change from one command to the next, which then goes on or stops."""
        return {"tolerance": self.tolerance, "budget": self.budget}

    def with_limits(self, limits: Mapping[str, Any]) -> StudySpec:
        """Return the study with other limits."""
        return self.model_copy(update=dict(limits))

    def differences(self, other: StudySpec) -> list[str]:
        """Return one line for each field that ``other`` has another value for."""
        mine, theirs = (_flat(s.model_dump(mode="json")) for s in (self, other))
        keys = [k for k in dict.fromkeys([*mine, *theirs]) if mine.get(k) != theirs.get(k)]
        return [f"{k}: {_shown(mine, k)} -> {_shown(theirs, k)}" for k in keys]


_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


def seconds(text: str) -> float | None:
    """Return the seconds that a text like ``"10 min"`` stands for, or None if it stands for no time.

    Examples
    --------
    >>> seconds("10 min"), seconds("1.5h"), seconds("soon")
    (600.0, 5400.0, None)
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|h)\s*", text)
    return float(found[1]) * _UNITS[found[2]] if found and float(found[1]) > 0 else None


def resolved(reference: str, folder: Path) -> str:
    """Return a reference, or the absolute path of the file in ``folder`` that it names."""
    from shrinkage.data.sources import ALIASES, SETS

    named = ":" in reference or ALIASES.get(reference, reference) in SETS  # a name wins over a file called so
    beside = folder / reference
    return str(beside.resolve()) if not named and beside.exists() else reference


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = [(f"{prefix}.{k}" if prefix else k, v) for k, v in value.items()]
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        items = [(f"{prefix}[{i + 1}]", v) for i, v in enumerate(value)]
    else:
        return {prefix: value}
    return {k: v for key, part in items for k, v in _flat(part, key).items()}


def _shown(fields: dict[str, Any], key: str) -> str:
    if key not in fields:
        return "absent"
    value = fields[key]
    return repr(concealed(value) if key == "storage" and value is not None else value)


def _fields_at(place: tuple[Any, ...]) -> list[str]:
    """Return the keys that are known where ``place`` stands."""
    home: type[BaseModel] = StudySpec
    homes: dict[str, type[BaseModel]] = {"training": Training, "arms": Arm, "strengths": Range}
    for part in place[:-1]:
        home = Overrides if (part, home) == ("training", Arm) else homes.get(str(part), home)
    return list(home.model_fields)
