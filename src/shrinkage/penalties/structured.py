"""Group lasso and sparse group lasso: penalties that take out whole units."""

from __future__ import annotations

from typing import Any, Self

import keras
import numpy as np

from shrinkage.penalties import groups
from shrinkage.penalties.base import Penalty
from shrinkage.penalties.prox import Tensor
from shrinkage.penalties.strength import Multiple, shares

_register = keras.saving.register_keras_serializable("shrinkage")


@_register
class GroupLasso(Penalty):
    """Group lasso: strength · Σ_g √|g| ‖w_g‖, where a group is what one unit receives.

    The groups are the slices of the weight's last axis: the columns of a Dense kernel, the filters of a
    convolution (:func:`shrinkage.apply` finds them in transposed and depthwise kernels too). It is a norm,
    not its square, so groups become exactly zero as a whole: with :class:`shrinkage.Proximal` they do, and
    then :func:`shrinkage.compact` removes the units. In a recipe, the target ``unit`` charges a unit's
    kernel, bias and BatchNormalization scale and shift together, so that a zero group is a unit that sends
    nothing.

    Parameters
    ----------
    strength
        A finite number ≥ 0 (default 0.01), or a multiple of ``STRENGTH``.

    Raises
    ------
    StrengthError
        If the strength is anything else.

    Notes
    -----
    M. Yuan & Y. Lin, "Model selection and estimation in regression with grouped variables", 2006; on the
    units of networks: Scardapane et al., "Group sparse regularization for deep neural networks", 2017.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([[3.0, 0.1], [4.0, 0.1]], "float32")
    >>> round(float(GroupLasso(1.0)(w)), 4)  # √2 · (5 + 0.1414)
    7.2711
    >>> print(np.asarray(GroupLasso(1.0).prox(w, 0.2)).round(4))
    [[2.8303 0.    ]
     [3.7737 0.    ]]
    """

    names = ("strength",)
    text_name = "group_lasso"
    sparsifying = unitwise = True
    _value, _prox = staticmethod(groups.value_group), staticmethod(groups.prox_group)
    _residual = staticmethod(groups.residual_group)
    _shrink, _slope = staticmethod(groups.prox_group), staticmethod(groups.slope_group)

    def __init__(self, strength: float | Multiple = 0.01) -> None:
        super().__init__(strength=strength)

    def support(self, w: Tensor) -> Tensor:
        """Return a boolean tensor of w's shape: where the unit has any weight that is not exactly zero."""
        return groups.support_group(w)

    def max_strength(self, grad_at_zero: Any) -> float:
        """Return λ_max: the smallest strength at which all-zero weights are optimal, max_g ‖grad_g‖ / √|g|.

        It means something for linear models only; see :meth:`shrinkage.L1.max_strength`.
        """
        grad = np.asarray(grad_at_zero, "float64")
        units = grad.reshape(-1, grad.shape[-1])
        return float(np.max(np.linalg.norm(units, axis=0)) / np.sqrt(len(units)))


@_register
class SparseGroupLasso(Penalty):
    """Sparse group lasso: l1 · Σ|w| + group · Σ_g √|g| ‖w_g‖.

    Takes out units like :class:`GroupLasso`, and single weights of those that stay like
    :class:`shrinkage.L1`.

    Parameters
    ----------
    l1, group
        Finite numbers ≥ 0, or multiples of ``STRENGTH``. Both are 0 by default.

    Raises
    ------
    StrengthError
        If one of them is anything else.

    Notes
    -----
    N. Simon, J. Friedman, T. Hastie & R. Tibshirani, "A sparse-group lasso", 2013.

    Examples
    --------
    >>> import numpy as np
    >>> w = np.array([[3.0, 0.2], [0.1, 0.2]], "float32")
    >>> print(np.asarray(SparseGroupLasso(l1=0.2, group=0.1).prox(w, 1.0)).round(4))
    [[2.6586 0.    ]
     [0.     0.    ]]
    """

    names = ("l1", "group")
    text_name = "sparse_group_lasso"
    sparsifying = unitwise = True
    _value, _prox = staticmethod(groups.value_sparse_group), staticmethod(groups.prox_sparse_group)
    _residual = staticmethod(groups.residual_sparse_group)
    _shrink, _slope = staticmethod(groups.prox_sparse_group), staticmethod(groups.slope_sparse_group)

    def __init__(self, l1: float | Multiple = 0.0, group: float | Multiple = 0.0) -> None:
        super().__init__(l1=l1, group=group)

    @classmethod
    def from_ratio(cls, strength: float | Multiple, l1_ratio: float) -> Self:
        """Return l1 = strength · l1_ratio, group = strength · (1 − l1_ratio).

        Examples
        --------
        >>> SparseGroupLasso.from_ratio(0.5, 0.5)
        SparseGroupLasso(l1=0.25, group=0.25)
        """
        return cls(*shares(strength, l1_ratio))
