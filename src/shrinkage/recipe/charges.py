"""What is in force on a model: every charged place, and how much it charges."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops, tree

from shrinkage.errors import DataError, ModelError
from shrinkage.markup import paragraphs, table
from shrinkage.penalties import Penalty
from shrinkage.penalties.prox import accumulating
from shrinkage.recipe.place import as_penalty as as_penalty
from shrinkage.recipe.place import has_activity, unwrap
from shrinkage.recipe.select import ACTIVITY, Site, Weight, sites, weights
from shrinkage.recipe.units import UNIT, Coupled


@dataclass(frozen=True, eq=False)
class Charge:
    """One charged place: a weight, weights that are charged together, or a layer's output.

    ``regularizer`` is the object that is charged; ``penalty`` the same as one of ours, or None where it
    has no equal (a regularizer of the user's own). ``weight`` is the one that holds it.
    """

    path: str
    target: str
    site: Site
    regularizer: Any
    weight: Weight | None = None

    @property
    def variables(self) -> tuple[Any, ...]:
        """The variables that are charged; none where it is an output."""
        if isinstance(self.regularizer, Coupled):
            return self.regularizer.unit.variables
        return () if self.weight is None else (self.weight.variable,)

    @property
    def penalty(self) -> Penalty | None:
        """The penalty as one of ours, if it has an equal."""
        return as_penalty(self.regularizer)

    @property
    def frozen(self) -> bool:
        """Whether the weight is not trainable now, so that Keras does not charge it."""
        return self.weight is not None and not self.weight.variable.trainable

    @property
    def place(self) -> str:
        """The place as text: ``dense/kernel`` or ``dense (activity)``."""
        return f"{self.path} (activity)" if self.target == ACTIVITY else self.path


def charges(model: Any) -> tuple[Charge, ...]:
    """Return every place of ``model`` that a penalty is set on, frozen weights included."""
    found = []
    for w in weights(model):
        held = unwrap(w.variable.regularizer)
        if isinstance(held, Coupled) and len(held.unit.variables) > 1:
            found.append(Charge(f"{w.site.path}/{UNIT}", UNIT, w.site, held, w))
        elif held is not None:
            found.append(Charge(w.path, w.role, w.site, held, w))
    found += [
        Charge(s.path, ACTIVITY, s, unwrap(s.layer.activity_regularizer))
        for s in sites(model)
        if has_activity(s.layer)
    ]
    return tuple(found)


def pair(data: Any, name: str, model: Any = None) -> tuple[Any, Any]:
    """Return (x, y), checked.

    Raises
    ------
    DataError
        If ``data`` is no pair, its arrays differ in length, or ``model`` takes inputs of another shape.
    """
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        raise DataError(f"{name} must be a pair (x, y).")
    x, y = data
    lengths = {len(part) for part in tree.flatten((x, y))}
    if len(lengths) != 1:
        raise DataError(f"The arrays in {name} differ in length: {', '.join(map(str, sorted(lengths)))}.")
    wants, has = getattr(model, "input_shape", None), getattr(x, "shape", None)
    if isinstance(wants, tuple) and has is not None:
        fits = len(wants) == len(has) and all(a in (None, b) for a, b in zip(wants[1:], has[1:], strict=True))
        if not fits and len(wants) != len(has) + 1:  # Keras adds an axis of one channel by itself
            raise DataError(
                f"{name} has inputs of shape {tuple(has[1:])}, but {model.name!r} takes {tuple(wants[1:])}."
            )
    return x, y


def rows(x: Any) -> int:
    """Return the number of samples in ``x``: an array, or arrays in a list or dict."""
    return len(tree.flatten(x)[0])


def batches(x: Any, y: Any = None, size: int = 256) -> Iterator[tuple[Any, Any, int]]:
    """Yield (x, y, rows) in slices of at most ``size`` rows; x and y may be lists or dicts of arrays."""
    for start in range(0, rows(x), size):
        part = _taken(x, start, size)
        yield part, None if y is None else _taken(y, start, size), rows(part)


def _taken(arrays: Any, start: int, size: int) -> Any:
    return tree.map_structure(lambda a: a[start : start + size], arrays)


def weight_charge(charge: Charge) -> float:
    """Return what a weight is charged now (0 for a frozen one), as Keras charges it."""
    if charge.frozen or charge.weight is None:
        return 0.0
    return float(ops.convert_to_numpy(charge.regularizer(charge.weight.variable)))


def activity_charges(model: Any, x: Any) -> dict[str, float]:
    """Return what each charged output is charged per sample, by the layer's path, averaged over ``x``."""
    sums: dict[str, float] = {}
    places = [c for c in charges(model) if c.target == ACTIVITY]
    kept = {c.path: c.site.layer.activity_regularizer for c in places}

    def recorder(path: str, regularizer: Any) -> Any:
        def charge(output: Any) -> Any:
            value = regularizer(output)
            sums[path] = sums.get(path, 0.0) + float(ops.convert_to_numpy(value))
            return value

        return charge

    try:
        for charge in places:
            charge.site.layer.activity_regularizer = recorder(charge.path, kept[charge.path])
        for part, _, _ in batches(x):
            model(part, training=False)
    finally:
        for charge in places:
            charge.site.layer.activity_regularizer = kept[charge.path]
    return {path: value / rows(x) for path, value in sums.items()}


def data_loss(model: Any, x: Any, y: Any) -> float:
    """Return the mean data loss (penalties excluded) of a compiled model on (x, y), in inference mode.

    Raises
    ------
    ModelError
        If the model is not compiled with a loss.
    """
    if not model.compiled or model._compile_loss is None:
        raise ModelError(f"The model {model.name!r} has no loss: compile it first.")
    total = 0.0
    for part, target, size in batches(x, y):
        outputs = model(part, training=False)
        total += size * float(ops.convert_to_numpy(model._compile_loss(target, outputs)))
    return total / rows(x)


@dataclass(frozen=True)
class Row:
    """One charged place. ``charge`` and ``share`` are None where data would be needed."""

    layer: str
    target: str
    shape: tuple[int | None, ...]
    penalty: str
    strength: float | None
    charge: float | None
    share: float | None


@dataclass(frozen=True)
class Description:
    """What is charged where: one row a place; and the data loss, where data was given."""

    rows: tuple[Row, ...]
    data_loss: float | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        if not self.rows:
            return _NOTHING
        lines = [_HEAD, *map(_cells, self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
        shown = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([*shown, *self._below()])

    def _repr_html_(self) -> str:
        if not self.rows:
            return paragraphs([_NOTHING])
        shown = table("What is charged where", _HEAD, map(_cells, self.rows), texts=_HEAD[:4])
        return "\n".join([shown, paragraphs(self._below())]).rstrip()

    def _below(self) -> list[str]:
        return [] if self.data_loss is None else [f"data loss {self.data_loss:.4g}"]


_NOTHING = "No penalty is in force on this model."
_HEAD = ("layer", "target", "shape", "penalty", "strength", "charge", "share")


def _cells(row: Row) -> tuple[str, ...]:
    shape = "×".join("?" if n is None else str(n) for n in row.shape) or "scalar"
    strength = "" if row.strength is None else f"{row.strength:.4g}"
    charge = "needs data" if row.charge is None else f"{row.charge:.4g}"
    share = "" if row.share is None else f"{100 * row.share:.1f} %"
    return (row.layer, row.target, shape, row.penalty, strength, charge, share)


def describe(model: Any, data: Any = None) -> Description:
    """Return a table of what is charged where: layer, target, shape, penalty, strength, charge, share.

    Parameters
    ----------
    model
        A built Keras model.
    data
        ``(x, y)``: arrays, or lists or dicts of them, as the model takes them. With data, outputs are
        charged too (per sample, in inference mode), and each place has its share of the objective (data
        loss + penalties); the model must be compiled.

    Returns
    -------
    Description
        ``print`` it, or read ``rows``.

    Raises
    ------
    ModelError
        If the model is not built, or data is given and it is not compiled.
    DataError
        If data is no pair of equally long arrays that the model takes.

    Examples
    --------
    >>> import keras, shrinkage
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="head")])
    >>> _ = shrinkage.apply(model, "head: bias = l2(0.01)")
    >>> print(shrinkage.describe(model))
    layer  target  shape  penalty   strength  charge  share
    head   bias    3      l2(0.01)  0.01      0
    """
    x, y = (None, None) if data is None else pair(data, "data", model)
    loss = None if data is None else data_loss(model, x, y)
    outputs = {} if data is None else activity_charges(model, x)
    found = charges(model)
    values = [outputs.get(c.path) if c.target == ACTIVITY else weight_charge(c) for c in found]
    objective = None if loss is None else loss + sum(v for v in values if v is not None)
    return Description(tuple(_row(c, v, objective) for c, v in zip(found, values, strict=True)), loss)


def _row(charge: Charge, value: float | None, objective: float | None) -> Row:
    penalty = charge.penalty
    name = type(charge.regularizer).__name__ if penalty is None else str(penalty)
    if charge.weight is not None:
        shape = tuple(charge.weight.variable.shape)
    else:
        shape = _output_shape(charge.site.layer)
    return Row(
        layer=charge.site.path,
        target=charge.target,
        shape=shape,
        penalty=f"{name} (frozen)" if charge.frozen else name,
        strength=None if penalty is None else penalty.strength,
        charge=value,
        share=None if objective is None or value is None or not objective else value / objective,
    )


def _output_shape(layer: Any) -> tuple[int | None, ...]:
    try:
        shape = layer.output.shape
    except (AttributeError, ValueError):  # subclassed models and shared layers have no one output
        return ()
    return tuple(shape[1:])


def zeros(model: Any) -> float:
    """Return the fraction of exact zeros among the charged weights of ``model`` (NaN if there are none)."""
    arrays = [ops.convert_to_numpy(accumulating(v)) for c in charges(model) for v in c.variables]
    size = sum(a.size for a in arrays)
    return sum(int(np.sum(a == 0)) for a in arrays) / size if size else float("nan")
