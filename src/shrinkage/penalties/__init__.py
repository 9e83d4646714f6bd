"""Penalties: what is charged on a weight or on a layer's output.

Importing this room registers the classes with Keras, so that saved models that hold them load.
"""

from shrinkage.penalties.base import Penalty
from shrinkage.penalties.linear import gradient_at_zero
from shrinkage.penalties.prox import HALF
from shrinkage.penalties.separable import L1, L1L2, L2
from shrinkage.penalties.strength import STRENGTH, LiveStrength, Multiple, check_strength
from shrinkage.penalties.structured import GroupLasso, SparseGroupLasso
from shrinkage.penalties.text import get_penalty, parse_penalty, to_keras

__all__ = [
    "HALF",
    "L1",
    "L1L2",
    "L2",
    "STRENGTH",
    "GroupLasso",
    "LiveStrength",
    "Multiple",
    "Penalty",
    "SparseGroupLasso",
    "check_strength",
    "get_penalty",
    "gradient_at_zero",
    "parse_penalty",
    "to_keras",
]
