"""Where Keras keeps a penalty: the variable charges it, the layer's config saves it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import keras

from shrinkage.penalties import HALF, LiveStrength, Penalty, to_keras
from shrinkage.recipe.select import ACTIVITY, Site, Weight, config_key, sites, weights


class SavedAsKeras:
    """Charges a penalty of ours; is saved as Keras's own object of the same formula.

    Keras has one attribute for what an output is charged and what its config holds. Saving asks an
    object for its ``__class__`` and its config, and this one answers with its twin's.
    """

    def __init__(self, penalty: Penalty) -> None:
        self.penalty = penalty

    @property
    def __class__(self) -> Any:
        return type(to_keras(self.penalty))

    def __call__(self, y: Any) -> Any:
        return self.penalty(y)

    def get_config(self) -> dict[str, float]:
        return self.penalty.get_config()


def unwrap(regularizer: Any) -> Any:
    """Return the penalty behind what a layer or a variable holds."""
    return regularizer.penalty if type(regularizer) is SavedAsKeras else regularizer


def charge_weight(weight: Weight, penalty: Penalty | None) -> None:
    """Charge ``penalty`` on a weight, and put what is saved into its layer's attribute."""
    weight.variable.regularizer = penalty
    key = config_key(weight.site.layer, weight.role)
    if key is not None:
        setattr(weight.site.layer, key, _saved(penalty))


def charge_activity(site: Site, penalty: Penalty | None) -> None:
    """Charge ``penalty`` on a layer's output."""
    layer = site.layer
    # In half precision Keras's own formula overflows, so there ours is not equal to it.
    twin = to_keras(penalty) if penalty is not None and layer.compute_dtype not in HALF else None
    if penalty is None or twin is None:
        layer.activity_regularizer = penalty
    else:
        layer.activity_regularizer = SavedAsKeras(penalty) if penalty.live else twin
    for parent in site.chain[:-1]:
        if hasattr(parent, "_activity_regularizer"):
            parent._activity_regularizer = layer.activity_regularizer


def has_activity(layer: Any) -> bool:
    """Return whether the layer's output is charged."""
    return getattr(layer, "activity_regularizer", None) is not None


def _saved(penalty: Penalty | None) -> Any:
    """Return what a layer's config is to hold; of a live strength, whatever it is when the model is saved."""
    twin = to_keras(penalty) if penalty is not None else None
    return SavedAsKeras(penalty) if penalty is not None and penalty.live and twin else twin or penalty


def record_composites(everything: Iterable[Weight]) -> None:
    """Tell layers that hand one regularizer on to their parts (attention) what those parts are charged."""
    parts: dict[tuple[int, str], tuple[Any, list[Any]]] = {}
    for weight in everything:
        key = config_key(weight.site.layer, weight.role)
        for parent in weight.site.chain[:-1]:
            for name in (f"_{key}", key) if key else ():
                # A recurrent layer's is a property that reads its cell's.
                if hasattr(parent, name) and not hasattr(type(parent), name):
                    regularizer = unwrap(weight.variable.regularizer)
                    parts.setdefault((id(parent), name), (parent, []))[1].append(regularizer)
    for (_, name), (parent, held) in parts.items():
        agreed = held[0] if all(r == held[0] for r in held) else None
        setattr(parent, name, _saved(agreed) if isinstance(agreed, Penalty) else agreed)


def track_strengths(model: Any) -> None:
    """Make every live strength part of its layer's state, and drop those that nothing reads any more."""
    # Children first: where a part already carries the state, its parents must not carry it twice.
    for site in reversed(sites(model)):
        layer = site.layer
        generators = layer._seed_generators
        wanted = {id(live): live for live in _strengths(layer)}
        generators[:] = [g for g in generators if not isinstance(g, LiveStrength) or id(g) in wanted]
        for live in wanted.values():
            if not any(v is live.state for v in layer.variables):
                generators.append(live)


def _strengths(layer: Any) -> Iterator[LiveStrength]:
    held = [v.regularizer for v in layer._trainable_variables] + [
        getattr(layer, "activity_regularizer", None)
    ]
    for regularizer in map(unwrap, held):
        if isinstance(regularizer, Penalty) and regularizer.live is not None:
            yield regularizer.live


def unsaved(model: Any, terms: Iterable[Any]) -> list[str]:
    """Return a sentence for each charged place that the model's config can't hold."""
    site_of = {w.path: w.site for w in weights(model)} | {s.path: s for s in sites(model)}
    charged = [t for t in terms if t.penalty is not None]
    lost = [t for t in charged if not _is_saved(site_of[t.path], t.target, model)]
    if not lost:
        return []
    if len(lost) == len(charged) and not _config_holds_layers(model):
        return [
            f"The penalties are in force, but {model.name!r} is a subclassed model, whose file holds none: "
            "apply the recipe again after loading."
        ]
    places = ", ".join(
        dict.fromkeys(f"{t.path}{' (activity)' if t.target == ACTIVITY else ''}" for t in lost)
    )
    return [
        f"In force, but the layer's config has no place to save it: {places}. Apply the recipe again after loading."
    ]


def _config_holds_layers(model: Any) -> bool:
    try:
        return "layers" in model.get_config()
    except NotImplementedError:
        return False


def _is_saved(site: Site, target: str, model: Any) -> bool:
    models = (model, *(layer for layer in site.chain if isinstance(layer, keras.Model)))
    if not all(map(_config_holds_layers, models)):
        return False
    layer = site.layer
    key = f"{ACTIVITY}_regularizer" if target == ACTIVITY else config_key(layer, target)
    if key is None:
        return False
    saved = keras.regularizers.serialize(getattr(layer, key))
    return _holds(site.outermost.get_config(), key, saved)


def _holds(config: Any, key: str, value: Any) -> bool:
    """Return whether ``value`` stands under ``key`` somewhere in a nested config."""
    if isinstance(config, dict):
        return config.get(key) == value or any(_holds(part, key, value) for part in config.values())
    return isinstance(config, list | tuple) and any(_holds(part, key, value) for part in config)
