"""How trials are trained, field by field, and what of it an arm may set for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

#: Stands for the arm's strength among its options.
STRENGTH = "strength"

Count = Annotated[int, Field(strict=True, ge=1)]
Number = Annotated[float, Field(strict=True)]  # neither true nor "0.1" is a number
Positive = Annotated[Number, Field(gt=0)]


def _plain(given: Any) -> Any:
    """Return NumPy's numbers and arrays, tuples and ranges, also inside, as TOML has them."""
    if isinstance(given, dict):
        return {key: _plain(value) for key, value in given.items()}
    if isinstance(given, (list, tuple, range)):
        return [_plain(value) for value in given]
    if isinstance(given, (np.generic, np.ndarray)):
        return given.tolist()
    return given


class Part(BaseModel):
    """A table of a study file: unknown keys are refused, and it never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _plain_python(cls, given: Any) -> Any:
        return _plain(given) if isinstance(given, dict) else given


_ClassWeights = Annotated[
    Annotated[Literal["balanced"], Tag("word")]
    | Annotated[tuple[Annotated[Number, Field(ge=0)], ...], Tag("list")],
    Discriminator(
        lambda given: "word" if given == "balanced" else "list" if isinstance(given, (list, tuple)) else None,
        custom_error_type="class_weights",
        custom_error_message='must be "balanced", or a list of numbers, one a class',
    ),
]
_Decay = Annotated[Number, Field(ge=0)]
_Smoothing = Annotated[Number, Field(ge=0, lt=1)]
_is_open = Discriminator(lambda given: "word" if given == STRENGTH else "number")
_OpenDecay = Annotated[
    Annotated[Literal["strength"], Tag("word")] | Annotated[_Decay, Tag("number")], _is_open
]
_OpenSmoothing = Annotated[
    Annotated[Literal["strength"], Tag("word")] | Annotated[_Smoothing, Tag("number")], _is_open
]


class Training(Part):
    """How each trial is trained.

    Parameters
    ----------
    epochs, batch_size
        Whole numbers ≥ 1.
    optimizer, learning_rate
        Keras's name of an optimizer, and its learning rate (None: the optimizer's own default).
    optimizer_options
        More of the optimizer's arguments, as in ``{ momentum = 0.9 }``.
    weight_decay
        Decoupled decay, the optimizer's argument of this name in Keras: before each step every trainable
        weight w loses learning rate · weight_decay · w (None: the optimizer's own default, for AdamW 0.004).
    loss
        ``auto`` (from the targets), or Keras's name of a loss.
    metrics
        Keras's names of more metrics to follow.
    class_weights
        How much each class counts in the training loss: a number a class, in their order, or ``"balanced"``:
        inversely to how frequent it is. Validation and test scores count every row alike.
    label_smoothing
        ε in [0, 1): the training loss takes 1 − ε of the target and ε spread evenly over all classes, for a
        crossentropy. Validation and test scores are of the plain targets.
    max_norm
        After each step the incoming weights of every unit, a kernel's columns or filters, are shortened to
        at most this norm (Keras's MaxNorm); None leaves them.
    early_stopping
        Epochs to wait for a lower validation data loss before a trial stops and returns to its best
        epoch; None trains to the end.
    loop
        ``"jax"``: many trials in one program; ``"keras"``: Keras's ``fit``, one after the other;
        ``"auto"``: the first where it can be.
    """

    epochs: Count = 20
    batch_size: Count = 32
    optimizer: str = "adam"
    learning_rate: Positive | None = None
    optimizer_options: dict[str, Any] = Field(default_factory=dict)
    weight_decay: _Decay | None = None
    loss: str = "auto"
    metrics: tuple[str, ...] = ()
    class_weights: _ClassWeights | None = None
    label_smoothing: _Smoothing = 0.0
    max_norm: Positive | None = None
    early_stopping: Count | None = None
    loop: Literal["auto", "jax", "keras"] = "auto"

    @property
    def made_of(self) -> Any:
        """The optimizer as `shrinkage.training.keras_loop.make_optimizer` takes it."""
        if not self.optimizer_options:
            return self.optimizer
        return {"class_name": self.optimizer, "config": self.optimizer_options}

    def to_key(self) -> dict[str, Any]:
        """Return the fields as a trial's key holds them: newer ones only where they are set."""
        newer: dict[str, Any] = {
            "optimizer_options": {},
            "weight_decay": None,
            "label_smoothing": 0.0,
            "max_norm": None,
        }
        fields = self.model_dump(mode="json")
        return {name: value for name, value in fields.items() if name not in newer or value != newer[name]}


class Overrides(Part):
    """What an arm sets of :class:`Training` for itself; what is None is the study's.

    ``weight_decay`` and ``label_smoothing`` may be ``"strength"``: then the arm's strengths are their values.
    Loss, metrics and loop are the study's, so that its arms can be compared.
    """

    epochs: Count | None = None
    batch_size: Count | None = None
    optimizer: str | None = None
    learning_rate: Positive | None = None
    optimizer_options: dict[str, Any] | None = None
    weight_decay: _OpenDecay | None = None
    class_weights: _ClassWeights | None = None
    label_smoothing: _OpenSmoothing | None = None
    max_norm: Positive | None = None
    early_stopping: Count | None = None

    def given(self) -> dict[str, Any]:
        """Return the fields that are set, as TOML has them."""
        return self.model_dump(mode="json", exclude_none=True)

    def over(self, training: Training, strength: float | None) -> Training:
        """Return ``training`` with these fields in the place of its own, but for the learning rate.

        The learning rate may differ between trials of one program; nothing else here may.
        """
        own = {name: value for name, value in self.given().items() if name != "learning_rate"}
        if self.optimizer is not None:  # another one has other arguments
            own.setdefault("optimizer_options", {})
        return (
            Training.model_validate({**training.model_dump(), **filled(own, strength)}) if own else training
        )


def is_open(options: Any) -> bool:
    """Return whether ``"strength"`` stands somewhere among options."""
    if isinstance(options, Mapping):
        return any(map(is_open, options.values()))
    return any(map(is_open, options)) if isinstance(options, list) else bool(options == STRENGTH)


def filled(options: Any, strength: float | None) -> Any:
    """Return options with a number in the place of every ``"strength"``.

    Examples
    --------
    >>> filled({"hidden": [64], "dropout": "strength"}, 0.5)
    {'hidden': [64], 'dropout': 0.5}
    """
    if isinstance(options, Mapping):
        return {key: filled(value, strength) for key, value in options.items()}
    if isinstance(options, list):
        return [filled(value, strength) for value in options]
    return strength if strength is not None and options == STRENGTH else options


def described(*tables: Mapping[str, Any]) -> Iterator[str]:
    """Yield each option as text, ``name = value``, as a study file has it.

    Examples
    --------
    >>> list(described({"dropout": 0.5}, {"optimizer": "adamw", "weight_decay": "strength"}))
    ['dropout = 0.5', 'optimizer = "adamw"', 'weight_decay = strength']
    """
    for table in tables:
        for name, value in table.items():
            yield f"{name} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(part)}" for key, part in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value != STRENGTH:
        return f'"{value}"'
    return f"{value:.6g}" if isinstance(value, float) else str(value)
