"""What a run looked at beyond its scores: the network, its weights, its mistakes, the data. Facts, no Keras.

`shrinkage.study.examine` computes these records, ``summary.json`` holds them, and whatever shows them reads
them from there. Pixels lie beside it, in ``pictures.npz``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from shrinkage.study.records import as_json, from_json


@dataclass(frozen=True)
class Node:
    """One call of a layer in the network's graph.

    Attributes
    ----------
    path, kind
        The layer's path in nested models, and its class.
    shape
        Of what comes out, without the batch; ``None`` for a length that is not fixed.
    parameters
        Entries of the layer's own weights (0 from the second call on).
    inputs
        The numbers of the nodes whose outputs it takes, all smaller than its own.
    """

    path: str
    kind: str
    shape: tuple[int | None, ...]
    parameters: int
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Charged:
    """One place that a penalty is set on, in one trained model.

    Attributes
    ----------
    layer, target
        The layer's path, and what of it is charged.
    penalty
        As text, with its strength.
    charge, share
        What it is charged at the end of training, in the unit of the loss, and as a fraction of all
        charges; NaN where that is not known.
    """

    layer: str
    target: str
    penalty: str
    charge: float
    share: float


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one layer after training.

    Attributes
    ----------
    layer
        The layer's path.
    weights, zeros
        Entries of its kernels, and how many of these are exactly zero.
    norm
        Euclidean norm of the kernels.
    units, live_units
        Units that compaction could remove if they were dead, and those that are not; ``None`` where the
        layer must stay whole.
    edges, counts
        Histogram of the kernels' finite entries; equal edges for a layer in every arm.
    """

    layer: str
    weights: int
    zeros: int
    norm: float
    units: int | None
    live_units: int | None
    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Mistake:
    """A test sample that a model took for another class.

    Attributes
    ----------
    row
        Its number in the test split.
    truth, predicted
        Numbers of the two classes.
    probability
        What the model gave to the wrong class.
    picture
        Its number among the pictures called ``mistakes``; ``None`` where the data are no images.
    """

    row: int
    truth: int
    predicted: int
    probability: float
    picture: int | None


@dataclass(frozen=True)
class ArmEvidence:
    """One arm at its chosen strength, seen through its trial of the lowest validation data loss.

    Attributes
    ----------
    arm, strength, seed, fold
        Which trial.
    recipe
        The arm's rules at that strength.
    charged, layers
        What is charged where, and the weights layer by layer.
    confusion
        Test samples by true class (rows) and predicted class; empty for a regression, and for arms other
        than the recommended one and the baseline.
    mistakes
        The most certain wrong answers, of these two arms.
    options
        What the arm changes of the model and its training, each as ``name = value``;
        the value ``strength`` is that of the trial.
    """

    arm: str
    strength: float | None
    seed: int
    fold: int
    recipe: tuple[str, ...]
    charged: tuple[Charged, ...]
    layers: tuple[LayerWeights, ...]
    confusion: tuple[tuple[int, ...], ...]
    mistakes: tuple[Mistake, ...]
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataFacts:
    """The data of a study.

    Attributes
    ----------
    name, shape, dtype
        Of the set, and of one input.
    classes
        Class names; empty for a regression.
    train, validation, test
        Rows trained on, validated on (in one fold, where there are folds), and tested on.
    counts
        Rows of each class among those of training and validation.
    samples
        For each picture called ``samples``, its class (-1 for a regression).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    classes: tuple[str, ...]
    train: int
    validation: int
    test: int
    counts: tuple[int, ...]
    samples: tuple[int, ...]


@dataclass(frozen=True)
class Evidence:
    """What a run found out besides its scores.

    Attributes
    ----------
    model, optimizer, loss
        Their names, as the study gives them.
    data
        The data set.
    network
        The model's graph without penalties, every node after those that it listens to; edges are missing
        where a model has no graph.
    arms
        Every arm that has a chosen strength, in the order of the summary.
    """

    model: str
    optimizer: str
    loss: str
    data: DataFacts
    network: tuple[Node, ...]
    arms: tuple[ArmEvidence, ...]

    def node(self, layer: str) -> Node | None:
        """Return the first call of a layer, or of the composite layer that it is a part of."""
        return next((n for n in self.network if layer == n.path or layer.startswith(f"{n.path}/")), None)

    def arm(self, name: str | None) -> ArmEvidence | None:
        """Return what was seen of an arm, or ``None``."""
        return next((arm for arm in self.arms if arm.arm == name), None)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types; NaN is ``null``."""
        found: dict[str, Any] = as_json(self)
        return found

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return what `to_json` gave.

        Raises
        ------
        ValueError
            If a field is missing, or of another shape.
        """
        return from_json(cls, stored)
