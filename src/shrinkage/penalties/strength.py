"""What a strength can be: a number, a multiple of the strength that a study varies, or training state."""

from __future__ import annotations

import math
import numbers
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.backend import get_stateless_scope

from shrinkage.errors import StrengthError


def check_strength(value: Any, name: str = "strength") -> float:
    """Return ``value`` as a float if it is a finite real number ≥ 0.

    Parameters
    ----------
    value
        What the user gave.
    name
        The argument's name, for the error.

    Raises
    ------
    StrengthError
        For NaN, infinities, negative numbers, bool, text, and anything else that is not a number.

    Examples
    --------
    >>> check_strength(1)
    1.0
    """
    if _is_number(value):
        try:
            number = float(value)
        except (OverflowError, TypeError, ValueError):
            number = math.nan
        if math.isfinite(number) and number >= 0:
            return abs(number)  # no -0.0
    raise StrengthError(f"{name} must be a finite number ≥ 0; got {shown(value)}.")


def shares(strength: float | Multiple, l1_ratio: float) -> tuple[float | Multiple, float | Multiple]:
    """Return strength · l1_ratio and strength · (1 − l1_ratio).

    Raises
    ------
    StrengthError
        If one of the two is no strength, or the ratio is above 1.
    """
    ratio = check_strength(l1_ratio, "l1_ratio")
    if ratio > 1:
        raise StrengthError(f"l1_ratio must lie in [0, 1]; got {l1_ratio!r}.")
    if not isinstance(strength, Multiple):
        strength = check_strength(strength)
    return ratio * strength, (1 - ratio) * strength


def _is_number(value: Any) -> bool:
    dtype = getattr(value, "dtype", None)
    if dtype is None:
        return isinstance(value, numbers.Real) and not isinstance(value, bool)
    # bfloat16 is no numbers.Real, timedelta64 is one; zero-dimensional arrays are fine too.
    return getattr(value, "shape", None) == () and ("float" in str(dtype) or "int" in str(dtype))


def shown(value: Any, most: int = 80) -> str:
    """Return ``repr(value)`` for an error: one that is always possible, and not a screen long."""
    try:
        text = repr(value)
    except ValueError:  # an int of more than 4,300 digits
        return f"a number of {value.bit_length()} bits" if isinstance(value, int) else type(value).__name__
    return text if len(text) <= most else f"{text[:most]}…"


@dataclass(frozen=True)
class Multiple:
    """``factor`` times the strength that a study varies.

    ``STRENGTH`` is the strength itself; ``0.5 * STRENGTH`` is half of it.

    Examples
    --------
    >>> 0.5 * STRENGTH
    0.5*strength
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", check_strength(self.factor, "the factor of strength"))

    def __mul__(self, other: Any) -> Multiple:
        return Multiple(self.factor * check_strength(other, "the factor of strength"))

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Multiple:
        divisor = check_strength(other, "the divisor of strength")
        return Multiple(self.factor / divisor if divisor else math.inf)

    def __repr__(self) -> str:
        return "strength" if self.factor == 1 else f"{self.factor!r}*strength"


STRENGTH = Multiple()


class LiveStrength:
    """A strength that is training state: it can change between steps without a retrace.

    The compiled step of the JAX backend receives only variables that a layer, an optimizer or a
    metric tracks; anything else is baked in as a constant. Keras asks of an entry of a layer's
    ``_seed_generators`` nothing but a ``state`` variable, passes that to every compiled step, and
    leaves it out of ``weights``, ``count_params``, ``summary`` and saved files. A proximal optimizer reads
    ``twin``, of the same value: JAX does not take one variable as state of the model and of the optimizer.

    Parameters
    ----------
    value
        The strength to begin with, a finite number ≥ 0.
    """

    def __init__(self, value: float) -> None:
        self.host = check_strength(value)
        # Not cast to a layer's compute dtype: 1e-8 is no float16.
        self.state, self.twin = (
            keras.Variable(self.host, dtype="float32", trainable=False, autocast=False, name="strength")
            for _ in range(2)
        )

    def assign(self, value: float) -> None:
        """Set the strength; takes effect at the next step.

        On JAX, in the middle of an epoch, call ``model.jax_state_sync()`` first.
        """
        self.host = check_strength(value)
        self.state.assign(self.host)
        self.twin.assign(self.host)

    def read(self) -> Any:
        """Return the value as a float32 scalar tensor of the step being run or traced.

        Raises
        ------
        StrengthError
            If a step is being compiled that does not receive this state (after ``clone_model`` or a
            deep copy): the value would silently be frozen.
        """
        scope = get_stateless_scope()
        if scope is not None and scope.collect_losses and scope.get_current_value(self.state) is None:
            raise StrengthError(
                "This penalty's strength is not part of the model that is being trained (was the model "
                "cloned or copied?); apply the recipe to this model first."
            )
        return self.state.value
