"""Selectors: from ``"Conv2D, enc/*"`` to the layers and weights of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import keras

from shrinkage.errors import ModelError

ACTIVITY = "activity"


# Keras hands the activity regularizer of these to their projections; the second keeps it for itself too.
_ATTENTION = (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)


@dataclass(frozen=True, eq=False)
class Site:
    """One layer of a model, and the way to it.

    ``path`` names it from the model down (``encoder/dense_1``), ``chain`` holds the layers from the
    outermost one below the model to this one.
    """

    path: str
    chain: tuple[Any, ...]

    @property
    def layer(self) -> Any:
        """The Keras layer."""
        return self.chain[-1]

    @property
    def outermost(self) -> Any:
        """The first layer of the chain that is no model: the one whose config is saved in the model's."""
        return next((layer for layer in self.chain if not isinstance(layer, keras.Model)), self.layer)

    @property
    def is_visible(self) -> bool:
        """Whether users see the layer as one of a model's own: it is not a part of a composite layer."""
        return self.layer is self.outermost

    def matches(self, selector: str) -> bool:
        """Return whether ``selector`` names this very layer (by name, path or class)."""
        if "/" in selector:
            here, want = self.path.split("/"), selector.split("/")
            return len(here) == len(want) and all(map(_fits, here, want))
        names = (self.layer.name, type(self.layer).__name__, self.path.split("/")[-1])
        return any(_fits(name, selector) for name in names)

    @property
    def is_step(self) -> bool:
        """Whether a recurrent layer calls this one at each time step: its output can't be charged."""
        return any(isinstance(layer, keras.layers.RNN) for layer in self.chain[:-1])


def _fits(name: str, pattern: str) -> bool:
    # A layer's name may hold brackets, which a glob reads as a set of characters.
    return name == pattern or fnmatchcase(name, pattern)


@dataclass(frozen=True, eq=False)
class Weight:
    """One trainable-by-nature weight: its path, its roles (names as a target), and the sites above it."""

    path: str
    roles: tuple[str, ...]
    variable: Any
    site: Site
    holders: tuple[Site, ...]

    @property
    def role(self) -> str:
        """The weight's own name in its layer, as in ``recurrent_kernel``."""
        return self.roles[0]

    def covered(self, selector: str) -> bool:
        """Return whether ``selector`` matches the weight's layer or one that contains it."""
        return selector == "*" or any(holder.matches(selector) for holder in self.holders)


def sites(model: Any) -> tuple[Site, ...]:
    """Return every layer below ``model``, parents before children, each once.

    The model itself comes first if it has weights that no layer of it owns.

    Raises
    ------
    ModelError
        If ``model`` is no Keras model, or has not been built.
    """
    if not isinstance(model, keras.Model):
        raise ModelError(f"A Keras model is needed; got {type(model).__name__}.")
    if not model.built or not model.weights:
        raise ModelError(
            f"The model {model.name!r} has no weights yet: give it an Input, call model.build(...), "
            "or call it on a batch."
        )
    # A subclassed model may have weights of its own.
    paths: dict[str, int] = {}
    itself = [Site(_unique(model.name, paths), (model,))] if model._trainable_variables else []
    return (*itself, *_below(model, (), set(), paths))


def _below(parent: Any, chain: tuple[Any, ...], seen: set[int], paths: dict[str, int]) -> Iterator[Site]:
    for layer in parent._flatten_layers(include_self=False, recursive=False):
        if id(layer) in seen or isinstance(layer, keras.metrics.Metric):
            continue
        seen.add(id(layer))
        here = (*chain, layer)
        path = _unique("/".join(part.name for part in here), paths)
        yield Site(path, here)
        yield from _below(layer, here, seen, paths)


def _unique(path: str, paths: dict[str, int]) -> str:
    """Two layers of a subclassed model may have one name; the second becomes ``name#2``."""
    paths[path] = paths.get(path, 0) + 1
    return path if paths[path] == 1 else f"{path}#{paths[path]}"


def weights(model: Any) -> tuple[Weight, ...]:
    """Return every weight of ``model`` that is trainable by nature (frozen ones included), each once."""
    found, seen, paths = [], set(), {}  # type: ignore[var-annotated]
    everywhere = sites(model)
    by_layer = {id(site.layer): site for site in everywhere}
    for site in everywhere:
        for variable in site.layer._trainable_variables:
            if id(variable) in seen:
                continue
            seen.add(id(variable))
            holders = tuple(by_layer[id(layer)] for layer in site.chain)
            path = _unique(f"{site.path}/{variable.name}", paths)
            found.append(Weight(path, _roles(site.layer, variable.name), variable, site, holders))
    return tuple(found)


def config_key(layer: Any, role: str) -> str | None:
    """Return the name of the layer's own argument for a regularizer of the weight ``role``, if it has one.

    Mostly ``<role>_regularizer``; recurrent layers say ``recurrent_regularizer`` for
    ``recurrent_kernel``, and DepthwiseConv says ``depthwise_regularizer`` for ``kernel``.
    """
    candidates = (role, role.removesuffix("_kernel"), "depthwise" if role == "kernel" else role)
    return next((f"{name}_regularizer" for name in candidates if hasattr(layer, f"{name}_regularizer")), None)


def _roles(layer: Any, name: str) -> tuple[str, ...]:
    key = config_key(layer, name)
    short = key.removesuffix("_regularizer") if key else name
    long = f"{short}_kernel" if name.endswith("kernel") and not short.endswith("kernel") else short
    return tuple(dict.fromkeys((name, short, long)))


def activity_sites(model: Any, selector: str) -> tuple[Site, ...]:
    """Return the layers whose output ``selector`` charges.

    ``*`` means every layer with weights of its own: the output of a Flatten or a Dropout is its input
    over again. Keras's attention layers hand their ``activity_regularizer`` on to their projections;
    so does this.
    """
    everywhere = sites(model)
    if selector == "*":
        chosen = [s for s in everywhere if s.is_visible and _is_layer(s, keras.Model) and s.layer.weights]
    else:
        chosen = [s for s in everywhere if s.matches(selector) and _is_layer(s, keras.layers.InputLayer)]
    out: list[Site] = []
    for site in chosen:
        if isinstance(site.layer, _ATTENTION):
            out += [s for s in everywhere if s.chain[:-1] == site.chain and s.layer.weights]
        if not isinstance(site.layer, keras.layers.MultiHeadAttention):
            out.append(site)
    return tuple(out)


def _is_layer(site: Site, other_than: type) -> bool:
    return not site.is_step and not isinstance(site.layer, other_than)
