"""L1, L2 and their sum: penalties that treat every weight on its own."""

from __future__ import annotations

from typing import Any, Self

import keras
import numpy as np

from shrinkage.penalties import prox
from shrinkage.penalties.base import Penalty
from shrinkage.penalties.strength import Multiple, check_strength, shares

_register = keras.saving.register_keras_serializable("shrinkage")


@_register
class L1(Penalty):
    """L1: strength · Σ|w|.

    Works wherever Keras takes a regularizer, with the same numbers as ``keras.regularizers.L1``, but
    accumulates in at least float32.

    Parameters
    ----------
    strength
        A finite number ≥ 0 (default 0.01, as in Keras), or a multiple of ``STRENGTH``.
    l1
        Another name for ``strength``, as Keras calls it.

    Raises
    ------
    StrengthError
        If the strength is anything else.

    Notes
    -----
    The subgradient of an adaptive optimizer such as Adam leaves no weight at exactly zero, whatever
    the strength; the prox does: prox(w) = sign(w) · max(|w| − step · strength, 0) (R. Tibshirani,
    "Regression shrinkage and selection via the lasso", 1996; Parikh & Boyd, "Proximal algorithms",
    2014, §6.5.2).

    Examples
    --------
    >>> import numpy as np
    >>> penalty = L1(0.5)
    >>> float(penalty(np.array([1.0, -2.0], "float32")))
    1.5
    >>> np.asarray(penalty.prox(np.array([1.0, -0.2], "float32"), 1.0)).tolist()
    [0.5, -0.0]
    """

    names = ("l1",)
    text_name = "l1"
    sparsifying = True
    _value, _prox, _residual = (staticmethod(f) for f in (prox.value_l1, prox.prox_l1, prox.residual_l1))
    _shrink, _slope = staticmethod(prox.prox_l1), staticmethod(prox.slope_l1)

    def __init__(self, strength: float | Multiple = 0.01, *, l1: float | Multiple | None = None) -> None:
        super().__init__(**({"strength": strength} if l1 is None else {"l1": l1}))

    @property
    def l1(self) -> float:
        """The strength."""
        return self.strength

    def max_strength(self, grad_at_zero: Any) -> float:
        """Return λ_max: the smallest strength at which all-zero weights are optimal, max|grad|.

        It means something for linear models only (see :func:`shrinkage.penalties.gradient_at_zero`): at
        all-zero weights the gradients of a deep network's hidden layers vanish.
        """
        return float(np.max(np.abs(np.asarray(grad_at_zero))))


@_register
class L2(Penalty):
    """L2: strength · Σw² (no ½, as in Keras).

    Works wherever Keras takes a regularizer, with the same numbers as ``keras.regularizers.L2``, but
    accumulates in at least float32.

    Parameters
    ----------
    strength
        A finite number ≥ 0 (default 0.01, as in Keras), or a multiple of ``STRENGTH``.
    l2
        Another name for ``strength``, as Keras calls it.

    Raises
    ------
    StrengthError
        If the strength is anything else.

    Notes
    -----
    prox(w) = w / (1 + 2 · step · strength) (Parikh & Boyd, "Proximal algorithms", 2014, §6.1.1).

    Examples
    --------
    >>> import numpy as np
    >>> float(L2(0.5)(np.array([1.0, -2.0], "float32")))
    2.5
    """

    names = ("l2",)
    text_name = "l2"
    sparsifying = False
    _value, _prox, _residual = (staticmethod(f) for f in (prox.value_l2, prox.prox_l2, prox.residual_l2))

    def __init__(self, strength: float | Multiple = 0.01, *, l2: float | Multiple | None = None) -> None:
        super().__init__(**({"strength": strength} if l2 is None else {"l2": l2}))

    @property
    def l2(self) -> float:
        """The strength."""
        return self.strength

    @classmethod
    def from_weight_decay(cls, weight_decay: float) -> Self:
        """Return the L2 penalty whose gradient step is SGD's weight decay.

        Weight decay subtracts learning_rate · weight_decay · w at each step of plain SGD, which is the
        gradient of (weight_decay / 2) · Σw². So this is also the conversion from the (λ/2)‖w‖²
        convention: strength = weight_decay / 2.

        It holds for SGD without momentum. The *decoupled* decay of AdamW (Loshchilov & Hutter,
        "Decoupled weight decay regularization", 2019), or of any optimizer that rescales or averages
        gradients, is no L2 penalty: no strength reproduces it.

        Examples
        --------
        >>> L2.from_weight_decay(0.01)
        L2(0.005)
        """
        return cls(check_strength(weight_decay, "weight_decay") / 2)

    def as_weight_decay(self) -> float:
        """Return 2 · strength: the weight decay of plain SGD (the λ of (λ/2)‖w‖²) that equals this penalty.

        Decoupled decay as in AdamW is no L2 penalty; see :meth:`from_weight_decay`.

        Examples
        --------
        >>> L2(0.005).as_weight_decay()
        0.01
        """
        return 2 * self.strength


@_register
class L1L2(Penalty):
    """Elastic net: l1 · Σ|w| + l2 · Σw².

    Its ``strength`` is l1 + l2 and its ``ratio`` l1 / strength.

    Parameters
    ----------
    l1, l2
        Finite numbers ≥ 0, or multiples of ``STRENGTH``. Both are 0 by default, as in Keras's ``L1L2``.

    Raises
    ------
    StrengthError
        If one of them is anything else.

    Notes
    -----
    Software does not agree on the mixing parameter; with our strength λ and ratio r:

    ================================  =====================================  ==========================
    source                            penalty                                in our terms
    ================================  =====================================  ==========================
    here                              λ (r ‖w‖₁ + (1 − r) ‖w‖²)              l1 = λ r, l2 = λ (1 − r)
    glmnet's α, scikit-learn's        λ (α ‖w‖₁ + (1 − α)/2 ‖w‖²)            l1 = λ α,
    ``l1_ratio``                                                             l2 = λ (1 − α) / 2
    Zou & Hastie's α = λ₂/(λ₁+λ₂)     λ₁ ‖w‖₁ + λ₂ ‖w‖²                      r = 1 − α (α = 1 is ridge)
    ================================  =====================================  ==========================

    So glmnet's α and scikit-learn's ``l1_ratio`` mix as our ratio does, but their L2 part carries a ½
    that ours has not. Sources: Friedman, Hastie & Tibshirani, "Regularization paths for generalized
    linear models via coordinate descent", 2010; scikit-learn's ``ElasticNet``; Zou & Hastie,
    "Regularization and variable selection via the elastic net", 2005.

    Examples
    --------
    >>> import numpy as np
    >>> penalty = L1L2(l1=0.1, l2=0.3)
    >>> penalty.strength, penalty.ratio
    (0.4, 0.25)
    >>> round(float(penalty(np.array([1.0, -2.0], "float32"))), 6)
    1.8
    """

    names = ("l1", "l2")
    text_name = "l1_l2"
    sparsifying = True
    _value, _prox = staticmethod(prox.value_l1_l2), staticmethod(prox.prox_l1_l2)
    _residual = staticmethod(prox.residual_l1_l2)
    _shrink, _slope = staticmethod(prox.kink_of_l1_l2), staticmethod(prox.slope_of_l1_l2)

    def __init__(self, l1: float | Multiple = 0.0, l2: float | Multiple = 0.0) -> None:
        super().__init__(l1=l1, l2=l2)

    @classmethod
    def from_ratio(cls, strength: float | Multiple, l1_ratio: float) -> Self:
        """Return l1 = strength · l1_ratio, l2 = strength · (1 − l1_ratio); no ½ anywhere.

        ``l1_ratio`` = 1 is L1, 0 is L2. See the class for glmnet's, scikit-learn's and Zou & Hastie's
        parameters.

        Examples
        --------
        >>> L1L2.from_ratio(0.4, 0.25)
        L1L2(l1=0.1, l2=0.30000000000000004)
        """
        return cls(*shares(strength, l1_ratio))

    @property
    def l1(self) -> float:
        """The strength of Σ|w|."""
        return self.numbers()[0]

    @property
    def l2(self) -> float:
        """The strength of Σw²."""
        return self.numbers()[1]

    @property
    def ratio(self) -> float:
        """l1 / (l1 + l2); ½ where both are 0."""
        return self.l1 / self.strength if self.strength else 0.5

    def max_strength(self, grad_at_zero: Any) -> float:
        """Return λ_max at this ratio: max|grad| / ratio (infinite for ratio 0).

        See :meth:`L1.max_strength`.
        """
        largest = float(np.max(np.abs(np.asarray(grad_at_zero))))
        return largest / self.ratio if self.ratio else float("inf")
