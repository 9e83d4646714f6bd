"""Look at trained models: what is charged where, their weights, their mistakes, and samples of the data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from shrinkage.compact import survey
from shrinkage.compact.graph import Graph, inlinable
from shrinkage.data import Data
from shrinkage.data.show import class_numbers, label_names, picture, sample_rows
from shrinkage.errors import ModelError, ShrinkageWarning
from shrinkage.recipe import Recipe, apply, sites, strip
from shrinkage.recipe.charges import activity_charges, charges, weight_charge
from shrinkage.recipe.select import ACTIVITY, weights
from shrinkage.study.design import Trial
from shrinkage.study.evidence import ArmEvidence, Charged, DataFacts, LayerWeights, Mistake, Node
from shrinkage.training.task import Split

Arrays = Sequence[NDArray[Any]]

_BINS = 41  # odd, so that zero has a bin of its own
_MISTAKES = 24  # of each arm
_SAMPLES = 96  # of all classes together
_PIXELS = 48  # of a picture's longer side
_ROWS = 250  # predicted at once, and what outputs are charged for; divides round numbers, like an evaluation


@dataclass(frozen=True)
class Shown:
    """A trained trial to look at.

    ``wrong`` asks for its mistakes on the test split, ``options`` are its arm's, as text, and ``model`` is of
    its own architecture, where that is not the others'.
    """

    trial: Trial
    recipe: Recipe
    weights: Arrays
    wrong: bool
    options: tuple[str, ...] = ()
    model: Any = None


# --- the network ----------------------------------------------------------------------------------------


def network(model: Any) -> tuple[Node, ...]:
    """Return the calls of a model's layers, nested models inlined; without edges where it has no graph."""
    if inlinable(model) is None:
        visible = [site for site in sites(model) if site.is_visible]
        return tuple(
            Node(s.path, type(s.layer).__name__, (), s.layer.count_params(), ())
            for s in visible
            if not isinstance(s.layer, keras.Model)
        )
    graph = Graph(model)
    nodes = [Node(_entry(t), "Input", tuple(t.shape[1:]), 0, ()) for t in inlinable(model).inputs]
    at = {id(tensor): i for i, tensor in enumerate(graph.inputs)}
    counted: set[int] = set()
    for call in graph.calls:
        inputs = sorted({at[id(t)] for t in call.inputs if id(t) in at})
        at.update({id(t): len(nodes) for t in call.outputs})
        layer = call.operation
        new = id(layer) not in counted and not isinstance(layer, keras.Model)
        counted.add(id(layer))
        parameters = layer.count_params() if new and isinstance(layer, keras.Layer) else 0
        shape = tuple(call.outputs[0].shape[1:])
        nodes.append(Node(call.path, type(layer).__name__, shape, parameters, tuple(inputs)))
    return tuple(nodes)


def _entry(tensor: Any) -> str:
    return str(tensor._keras_history.operation.name)


# --- arms -----------------------------------------------------------------------------------------------


def arms(model: Any, data: Data, shown: Sequence[Shown]) -> tuple[list[ArmEvidence], NDArray[Any]]:
    """Look at every trial in ``shown``, and return what was seen, and pictures of mistakes."""
    shown = [replace(each, model=each.model or model) for each in shown]
    edges = _edges(shown)
    found: list[ArmEvidence] = []
    pictures: list[NDArray[Any]] = []
    for each in shown:
        model = each.model
        _put(each)
        trial = each.trial
        confusion, mistakes = _confused(model, data, pictures) if each.wrong else ((), ())
        found.append(
            ArmEvidence(
                arm=trial.arm,
                strength=trial.strength,
                seed=trial.seed,
                fold=trial.fold,
                recipe=tuple(each.recipe.to_list()),
                charged=_charged(model, data.scaled(data.x_train[:_ROWS])),
                layers=_layers(model, edges),
                confusion=confusion,
                mistakes=mistakes,
                options=each.options,
            )
        )
    return found, _stack(pictures)


def _put(shown: Shown) -> None:
    model = shown.model
    strip(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ShrinkageWarning)  # what a file can't hold is not saved here
        apply(model, shown.recipe)
    model.set_weights(list(shown.weights))


def _charged(model: Any, x: Any) -> tuple[Charged, ...]:
    places = charges(model)
    outputs = activity_charges(model, x) if any(c.target == ACTIVITY for c in places) else {}
    values = [outputs.get(c.path, np.nan) if c.target == ACTIVITY else weight_charge(c) for c in places]
    total = sum(values)
    return tuple(
        Charged(
            c.site.path,
            c.target,
            str(c.penalty or type(c.regularizer).__name__),
            value,
            value / total if total else np.nan,
        )
        for c, value in zip(places, values, strict=True)
    )


def _kernels(model: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the path of every layer that has kernels, and their entries."""
    found: dict[str, list[NDArray[Any]]] = {}
    for weight in weights(model):
        if weight.role.endswith("kernel"):
            array = np.asarray(keras.ops.convert_to_numpy(weight.variable), np.float64)
            found.setdefault(weight.site.path, []).append(array.ravel())
    for path, arrays in found.items():
        yield path, np.concatenate(arrays)


def _edges(shown: Sequence[Shown]) -> dict[str, NDArray[Any]]:
    """Return one set of bins a layer, wide enough for every trial."""
    widest: dict[str, float] = {}
    for each in shown:
        each.model.set_weights(list(each.weights))
        for path, entries in _kernels(each.model):
            finite = np.abs(entries[np.isfinite(entries)])
            widest[path] = max(widest.get(path, 0.0), float(finite.max(initial=0.0)))
    return {path: np.linspace(-(reach or 1.0), reach or 1.0, _BINS + 1) for path, reach in widest.items()}


def _layers(model: Any, edges: dict[str, NDArray[Any]]) -> tuple[LayerWeights, ...]:
    try:
        units = {layer.path: (layer.units, layer.live_units) for layer in survey(model).layers}
    except ModelError:
        units = {}
    found = []
    for path, entries in _kernels(model):
        total, live = units.get(path, (None, None))
        counts = np.histogram(entries[np.isfinite(entries)], edges[path])[0]
        found.append(
            LayerWeights(
                layer=path,
                weights=entries.size,
                zeros=int(np.sum(entries == 0)),
                norm=float(np.linalg.norm(entries)),
                units=total,
                live_units=live,
                edges=tuple(edges[path].tolist()),
                counts=tuple(counts.tolist()),
            )
        )
    return tuple(found)


# --- mistakes -------------------------------------------------------------------------------------------


def _confused(
    model: Any, data: Data, pictures: list[NDArray[Any]]
) -> tuple[tuple[tuple[int, ...], ...], tuple[Mistake, ...]]:
    """Return how often each class is taken for each other, and the most certain wrong answers."""
    probabilities = _probabilities(model, data)
    if probabilities is None:
        return (), ()
    truth, predicted = class_numbers(data.y_test), probabilities.argmax(axis=1)
    matrix = np.zeros((data.classes, data.classes), int)
    np.add.at(matrix, (truth, predicted), 1)
    wrong = np.flatnonzero(truth != predicted)
    certain = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:_MISTAKES]
    mistakes = []
    for row in map(int, certain):
        number = len(pictures) if data.is_image else None
        if data.is_image:
            pictures.append(_small(picture(data.x_test[row])))
        sure = float(probabilities[row, predicted[row]])
        mistakes.append(Mistake(row, int(truth[row]), int(predicted[row]), sure, number))
    return tuple(map(tuple, matrix.tolist())), tuple(mistakes)


def _probabilities(model: Any, data: Data) -> NDArray[Any] | None:
    """Return the probability of each class for each test row; None if the outputs are no such thing."""
    parts = []
    for begin in range(0, len(data.x_test), _ROWS):
        x = data.scaled(data.x_test[begin : begin + _ROWS])
        parts.append(keras.ops.convert_to_numpy(model(x, training=False)))
    found = np.concatenate(parts).astype(np.float64)
    if found.ndim != 2 or not np.isfinite(found).all():
        return None
    inside = bool(((found >= 0) & (found <= 1)).all())
    if found.shape[1] == 1 and data.classes == 2:
        one = found if inside else 1 / (1 + np.exp(-np.clip(found, -500, 500)))
        return np.hstack([1 - one, one])
    if found.shape[1] < data.classes:
        return None
    if inside:  # a sum tells nothing: of sigmoids it is any number, and of bfloat16's softmax only nearly 1
        return found[:, : data.classes]
    raised = np.exp(found - found.max(axis=1, keepdims=True))  # logits
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))[:, : data.classes]


# --- data -----------------------------------------------------------------------------------------------


def data_facts(data: Data, split: Split) -> tuple[DataFacts, NDArray[Any]]:
    """Return the facts of a data set, and pictures of some samples a class."""
    rows: list[tuple[int, int]] = []
    if data.is_image:
        per_class = min(8, max(1, _SAMPLES // data.classes)) if data.classes else 8
        for number, (_, chosen) in enumerate(sample_rows(data, per_class)):
            rows += [(number if data.classes else -1, int(row)) for row in chosen]
    rows = rows[:_SAMPLES]
    numbers = class_numbers(data.y_train) if data.classes else None
    counts = () if numbers is None else tuple(np.bincount(numbers, minlength=data.classes).tolist())
    facts = DataFacts(
        name=data.name,
        shape=data.input_shape,
        dtype=str(data.x_train.dtype),
        classes=label_names(data),
        train=len(split.train),
        validation=len(split.validation),
        test=len(data.x_test),
        counts=counts,
        samples=tuple(number for number, _ in rows),
    )
    return facts, _stack([_small(picture(data.x_train[row])) for _, row in rows])


def _stack(pictures: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return pictures of one shape as one array; none as an empty one."""
    return np.stack(pictures) if pictures else np.zeros((0, 1, 1), np.uint8)


def _small(image: NDArray[Any]) -> NDArray[Any]:
    """Return a picture with values in [0, 1] as uint8, at most `_PIXELS` wide and high."""
    pixels = np.asarray(np.rint(255 * np.clip(np.nan_to_num(image), 0, 1)), np.uint8)
    if max(pixels.shape[:2]) <= _PIXELS:
        return pixels
    from PIL import Image

    thumbnail = Image.fromarray(pixels)
    thumbnail.thumbnail((_PIXELS, _PIXELS))
    return np.asarray(thumbnail)
