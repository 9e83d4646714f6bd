"""The penalty: a Keras regularizer that also knows its prox, residual and support."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Self

import keras
import numpy as np
from keras import ops

from shrinkage.errors import StrengthError
from shrinkage.penalties.prox import Tensor, accumulating
from shrinkage.penalties.strength import STRENGTH, LiveStrength, Multiple, check_strength

Coefficient = float | Multiple


class Penalty(keras.Regularizer):  # type: ignore[misc]  # Keras has no type information
    """A penalty Ω(w; strength), charged on a weight or on a layer's output.

    The class holds coefficients; formulas are pure functions of them. A coefficient is a number, or a
    multiple of the ``strength`` that a study varies (see :data:`shrinkage.penalties.STRENGTH`), which
    :meth:`at` turns into a number. A subclass gives its coefficients' names and four formulas.
    """

    #: The coefficients' names, in the order in which the formulas take them.
    names: ClassVar[tuple[str, ...]]
    #: The name in the text form, as in ``l2(0.01)``.
    text_name: ClassVar[str]
    #: Whether some coordinates are set to exactly zero by the prox.
    sparsifying: ClassVar[bool]
    #: Whether what is charged, and set to zero, is a unit's weights as a whole.
    unitwise: ClassVar[bool] = False

    def __init__(self, **coefficients: Any) -> None:
        self._coefficients: tuple[Coefficient, ...] = tuple(
            c if isinstance(c, Multiple) else check_strength(c, name) for name, c in coefficients.items()
        )
        self._live: LiveStrength | None = None
        self._bound_at: tuple[float, ...] = ()

    # The four formulas, of the coefficients.
    _value: ClassVar[Any]
    _prox: ClassVar[Any]
    _residual: ClassVar[Any]
    # Of the part that is not smooth at zero: its prox and its gradient; None for a penalty without one.
    _shrink: ClassVar[Any] = None
    _slope: ClassVar[Any] = None

    def coefficients(self, strength: Tensor | None = None) -> tuple[Any, ...]:
        """Return the coefficients as numbers or scalar tensors.

        Without ``strength``: the penalty's own. With it: every multiple of ``strength`` takes that value
        and constants stay; a penalty of constants alone is rescaled to that total strength, its
        proportions kept.
        """
        if strength is None:
            if self._live is not None:
                return self._form(self._live.read())
            if self.varies:
                raise StrengthError(f"The strength of {self!r} is still open: give it one with .at(0.01).")
            return self._coefficients
        return self._form(strength)

    def _form(self, strength: Any) -> tuple[Any, ...]:
        form = self._coefficients if self.varies else self._proportions()
        return tuple(c.factor * strength if isinstance(c, Multiple) else c for c in form)

    def _proportions(self) -> tuple[Multiple, ...]:
        total = self.strength
        equal = 1 / len(self._coefficients)
        return tuple(Multiple(float(c) / total if total else equal) for c in self._coefficients)  # type: ignore[arg-type]

    @property
    def varies(self) -> bool:
        """Whether a coefficient is a multiple of the strength that a study varies."""
        return any(isinstance(c, Multiple) for c in self._coefficients)

    @property
    def live(self) -> LiveStrength | None:
        """The training state that holds the strength, if this penalty has one."""
        return self._live

    def numbers(self) -> tuple[float, ...]:
        """Return the coefficients as Python floats (of a live strength: its present value)."""
        if self._live is not None:
            # Proportion times strength may miss the number that was given by its last bit.
            at_first = self._live.host == sum(self._bound_at)
            return self._bound_at if at_first and self._bound_at else tuple(self._form(self._live.host))
        return tuple(float(c) for c in self.coefficients())

    @property
    def strength(self) -> float:
        """The total strength: the sum of the coefficients."""
        return sum(self.numbers())

    def at(self, strength: Any) -> Self:
        """Return this penalty at ``strength``, a number ≥ 0 or a traced scalar.

        Examples
        --------
        >>> from shrinkage import L1L2, L2, STRENGTH
        >>> L1L2(STRENGTH, 0.5 * STRENGTH).at(0.01)
        L1L2(l1=0.01, l2=0.005)
        >>> L2(0.3).at(0.01)
        L2(0.01)
        """
        if not hasattr(strength, "dtype") or isinstance(strength, np.generic | np.ndarray):
            strength = check_strength(strength)
        return self.holding(self._form(strength))

    def scaled(self, ratio: float) -> Self:
        """Return this penalty with ``ratio`` times the strength that a study varies; constants stay.

        Examples
        --------
        >>> from shrinkage import L1L2, STRENGTH
        >>> L1L2(0.1, STRENGTH).scaled(0.5)
        L1L2(l1=0.1, l2=0.5*strength)
        """
        return self.holding(tuple(c * ratio if isinstance(c, Multiple) else c for c in self._coefficients))

    def bind(self, live: LiveStrength) -> Self:
        """Return this penalty with ``live`` as its strength."""
        bound = self.holding(self._coefficients if self.varies else self._proportions())
        is_open = self.varies and self._live is None
        bound._live, bound._bound_at = live, () if is_open else self.numbers()
        return bound

    def fixed(self) -> Self:
        """Return this penalty with its present numbers and no training state."""
        return self.holding(self.numbers())

    def holding(self, coefficients: tuple[Any, ...]) -> Self:
        """Return a penalty of this kind with these coefficients, unchecked: some may be traced."""
        other = copy.copy(self)
        other._coefficients, other._live, other._bound_at = coefficients, None, ()
        return other

    def __call__(self, w: Tensor) -> Tensor:
        """Return the charge on ``w`` at the penalty's own strength: a scalar of at least float32."""
        return type(self)._value(w, *self.coefficients())

    def value(self, w: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return Ω(w; strength), a scalar of at least float32."""
        return type(self)._value(w, *self.coefficients(strength))

    def prox(self, w: Tensor, step: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return argmin_u ‖u − w‖² / (2 step) + Ω(u; strength), of w's shape and dtype.

        ``step`` is a positive scalar, or an array of w's shape (one step a coordinate).
        """
        w = ops.convert_to_tensor(w)  # the backend may have no float64, whatever NumPy has
        return ops.cast(type(self)._prox(w, step, *self.coefficients(strength)), w.dtype)

    def shrink(self, w: Tensor, step: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return the prox of the non-smooth part alone: what a proximal optimizer does after its update.

        Of L1L2 that is the L1 part; a penalty that is smooth leaves w as it is.
        """
        w = ops.convert_to_tensor(w)
        if not self.sparsifying:
            return w
        return ops.cast(type(self)._shrink(w, step, *self.coefficients(strength)), w.dtype)

    def slope(self, w: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return the gradient of the non-smooth part alone, 0 where it has none; at least float32."""
        if not self.sparsifying:
            return ops.zeros_like(accumulating(w))
        return type(self)._slope(w, *self.coefficients(strength))

    def residual(self, w: Tensor, grad: Tensor, strength: Tensor | None = None) -> Tensor:
        """Return how far w is from stationary, of w's shape, at least float32.

        ``grad`` is the gradient of the data loss at w. The entry is the distance of −grad from the
        subdifferential of Ω: 0 everywhere exactly at a stationary point of data loss + Ω.
        """
        return type(self)._residual(w, grad, *self.coefficients(strength))

    def support(self, w: Tensor) -> Tensor:
        """Return a boolean tensor of w's shape: where w is not exactly zero."""
        return ops.not_equal(accumulating(w), 0)

    def get_config(self) -> dict[str, float]:
        """Return the coefficients by name, as Keras saves them."""
        return dict(zip(self.names, self.numbers(), strict=True))

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[Any, ...]:
        return (type(self).__name__, self._coefficients, id(self._live) if self._live else None)

    def _shown(self) -> tuple[Coefficient, ...]:
        return self.numbers() if self._live is not None else self._coefficients

    def __repr__(self) -> str:
        shown = self._shown()
        if len(shown) == 1:
            return f"{type(self).__name__}({shown[0]!r})"
        pairs = ", ".join(f"{n}={c!r}" for n, c in zip(self.names, shown, strict=True))
        return f"{type(self).__name__}({pairs})"

    def __str__(self) -> str:
        """Return the text form, as in ``l1_l2(1e-05, strength)``."""
        return f"{self.text_name}({', '.join(map(repr, self._shown()))})"


__all__ = ["STRENGTH", "Coefficient", "LiveStrength", "Multiple", "Penalty"]
