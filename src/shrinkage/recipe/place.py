"""Where Keras keeps a penalty: the variable charges it, the layer's config saves it."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import keras
from keras.src.backend import get_stateless_scope

from shrinkage.penalties import HALF, LiveStrength, Penalty, get_penalty, to_keras
from shrinkage.recipe.select import ACTIVITY, Site, Weight, config_key, sites, weights
from shrinkage.recipe.units import Coupled, coupling


class SavedAsKeras:
    """Charges a penalty of ours; is saved as Keras's own object of the same formula.

    Keras has one attribute for what an output is charged and what its config holds. Saving asks an
    object for its ``__class__`` and its config, and this one answers with its twin's.
    """

    def __init__(self, penalty: Penalty) -> None:
        self.penalty = penalty

    @property  # type: ignore[misc]  # read-only, on purpose
    def __class__(self) -> Any:
        return type(to_keras(self.penalty))

    def __call__(self, y: Any) -> Any:
        """Return the charge on the output ``y``."""
        return self.penalty(y)

    def get_config(self) -> Any:
        """Return what the twin saves; Keras's L1 saves its strength rounded to float32."""
        return to_keras(self.penalty).get_config()


class LossIds(set[int]):
    """The ids of a layer's losses in the trace that is running; those of earlier traces are forgotten.

    Keras's own set outlives the trace. On JAX the ids in it are those of tracers long gone, which Python
    gives to new ones: in a later trace, such as that of a shorter last batch, another layer's charge is
    then dropped or counted twice (Keras 3.15; about one evaluation in thirty).
    """

    def __init__(self) -> None:
        super().__init__()
        self._scope: Any = None

    def add(self, number: int) -> None:
        """Add an id of the present trace."""
        self._forget()
        super().add(number)

    def __contains__(self, number: object) -> bool:
        self._forget()
        return super().__contains__(number)

    def _forget(self) -> None:
        scope = get_stateless_scope()
        if self._scope is None or self._scope() is not scope:
            self.clear()
            self._scope = None if scope is None else weakref.ref(scope)


def keep_losses_apart(layer: Any) -> None:
    """Guard a layer with a charged output against the losses of earlier traces; see :class:`LossIds`."""
    if has_activity(layer) and not isinstance(layer._loss_ids, LossIds):
        # Keras would wrap a set in one of its own.
        object.__setattr__(layer, "_loss_ids", LossIds())


def unwrap(regularizer: Any) -> Any:
    """Return the penalty behind what a layer or a variable holds."""
    return regularizer.penalty if type(regularizer) is SavedAsKeras else regularizer


def as_penalty(regularizer: Any) -> Penalty | None:
    """Return a regularizer as one of our penalties, or None where it has no equal."""
    regularizer = unwrap(regularizer)
    if isinstance(regularizer, Coupled):
        regularizer = regularizer.penalty
    if isinstance(regularizer, Penalty):
        return regularizer
    keras_own = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
    return get_penalty(regularizer) if type(regularizer) in keras_own else None


def charge_weight(weight: Weight, penalty: Penalty | None) -> None:
    """Charge ``penalty`` on a weight, and put what is saved into its layer's attribute."""
    weight.variable.regularizer = penalty
    key = config_key(weight.site.layer, weight.role)
    if key is not None:
        # A property without a setter: the config can't hold the penalty, which `unsaved` will say.
        with contextlib.suppress(AttributeError):
            setattr(weight.site.layer, key, _saved(penalty))


def charge_together(name: str, charged: Sequence[Weight], penalty: Penalty | None) -> None:
    """Charge a penalty on the weights of the unit ``name``, the first of which holds it; or on one weight."""
    first, *others = charged
    charge_weight(first, penalty)
    for weight in others:
        charge_weight(weight, None)
    unit = None if penalty is None else coupling(name, charged, penalty.unitwise)
    if unit is not None:
        charge_weight(first, None)
        first.variable.regularizer = Coupled(penalty, unit)


def uncouple(weight_at: Mapping[str, Weight], paths: Iterable[str]) -> None:
    """Take the weights at ``paths`` out of the units that they are charged with; the rest stay together."""
    leaving = {id(weight_at[path].variable) for path in paths}
    for weight in list(weight_at.values()):
        held = weight.variable.regularizer
        if isinstance(held, Coupled) and any(id(v) in leaving for v in held.unit.variables):
            weight.variable.regularizer = None
            staying = [w for v in held.unit.variables if id(v) not in leaving for w in _holding(weight_at, v)]
            if staying:
                charge_together(held.unit.name, staying, held.penalty)


def _holding(weight_at: Mapping[str, Weight], variable: Any) -> list[Weight]:
    return [w for w in weight_at.values() if w.variable is variable]


def charge_activity(site: Site, penalty: Penalty | None) -> None:
    """Charge ``penalty`` on a layer's output."""
    layer = site.layer
    # In half precision Keras's own formula overflows, so there ours is not equal to it.
    twin = to_keras(penalty) if penalty is not None and layer.compute_dtype not in HALF else None
    if penalty is None or twin is None:
        layer.activity_regularizer = penalty
    else:
        layer.activity_regularizer = SavedAsKeras(penalty) if penalty.live else twin
    if isinstance(layer, keras.layers.ActivityRegularization):
        layer.l1, layer.l2 = _coefficients(penalty) or (0.0, 0.0)


def _coefficients(regularizer: Any) -> tuple[float, float] | None:
    """Return (l1, l2), what an ActivityRegularization layer saves, or None where that says too little."""
    penalty = as_penalty(regularizer)
    twin = None if penalty is None else to_keras(penalty)
    if penalty is None or twin is None:
        return None
    numbers = dict(zip(penalty.names, penalty.numbers(), strict=True))
    return numbers.get("l1", 0.0), numbers.get("l2", 0.0)


def has_activity(layer: Any) -> bool:
    """Return whether the layer's output is charged."""
    return getattr(layer, "activity_regularizer", None) is not None


def _saved(penalty: Penalty | None) -> Any:
    """Return what a layer's config is to hold; of a live strength, its value when the model is saved."""
    twin = to_keras(penalty) if penalty is not None else None
    return SavedAsKeras(penalty) if penalty is not None and penalty.live and twin else twin or penalty


def record_composites(model: Any, paths: Iterable[str]) -> None:
    """Tell layers that hand one regularizer on to their parts (attention) what those parts are charged now.

    ``paths`` are the weights and layers whose penalties were changed; other composites stay as they are.
    """
    everything, everywhere, changed = weights(model), sites(model), set(paths)
    held = [(w.path, w.site, config_key(w.site.layer, w.role), w.variable.regularizer) for w in everything]
    held += [
        (s.path, s, f"{ACTIVITY}_regularizer", s.layer.activity_regularizer)
        for s in everywhere
        if s.layer.weights and hasattr(s.layer, "activity_regularizer")
    ]
    # A composite's argument for a weight of its own speaks of that weight.
    own = {(id(site.layer), key) for _, site, key, _ in held}
    parts: dict[tuple[int, str], list[Any]] = {}
    composites: dict[tuple[int, str], Any] = {}
    for path, site, key, regularizer in held:
        for parent in site.chain[:-1]:
            for name in _handed_on(parent, key):
                if (id(parent), name) not in own:
                    parts.setdefault((id(parent), name), []).append(regularizer)
                    if path in changed:
                        composites[id(parent), name] = parent
    for (number, name), parent in composites.items():
        first, *others = parts[number, name]
        agreed = first if all(_same(first, other) for other in others) else None
        on_weights = isinstance(agreed, Penalty) and ACTIVITY not in name
        setattr(parent, name, _saved(agreed) if on_weights else agreed)


def _handed_on(parent: Any, key: str | None) -> list[str]:
    # A recurrent layer's is a property that reads its cell's.
    names = (f"_{key}", key) if key else ()
    return [name for name in names if hasattr(parent, name) and not hasattr(type(parent), name)]


def _same(a: Any, b: Any) -> bool:
    return a is b or (as_penalty(a) == as_penalty(b) and as_penalty(a) is not None)


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
    for penalty in map(as_penalty, held):
        if penalty is not None and penalty.live is not None:
            yield penalty.live


def unsaved(model: Any, terms: Iterable[Any]) -> list[str]:
    """Return a sentence on the charged places, in the layers of ``terms``, that a config can't hold."""
    everything, everywhere = weights(model), sites(model)
    weight_at, site_at = {w.path: w.site for w in everything}, {s.path: s for s in everywhere}
    touched = {id((site_at if t.target == ACTIVITY else weight_at)[t.path].outermost) for t in terms}
    charged = [(w.path, w.site, w.role, w.variable.regularizer) for w in everything] + [
        (f"{s.path} ({ACTIVITY})", s, ACTIVITY, s.layer.activity_regularizer)
        for s in everywhere
        if has_activity(s.layer)
    ]
    charged = [c for c in charged if id(c[1].outermost) in touched and c[3] is not None]
    models = (model, *(s.layer for s in everywhere if isinstance(s.layer, keras.Model)))
    silent = {id(part) for part in models if not _config_holds_layers(part)}
    lost = [
        place
        for place, site, target, held in charged
        if any(id(part) in silent for part in (model, *site.chain)) or not _is_saved(site, target, held)
    ]
    if not lost:
        return []
    if id(model) in silent:
        return [
            f"The penalties are in force, but {model.name!r} is a subclassed model, whose file holds none: "
            "apply the recipe again after loading."
        ]
    return [
        f"In force, but the layer's config has no place to save it: {', '.join(lost)}. "
        "Apply the recipe again after loading."
    ]


def _config_holds_layers(model: Any) -> bool:
    try:
        return "layers" in model.get_config()
    except NotImplementedError:
        return False


def _is_saved(site: Site, target: str, held: Any) -> bool:
    if isinstance(held, Coupled):
        return False
    if as_penalty(held) is None:
        return True  # a user's own; whether it can be saved is not ours to say
    if target == ACTIVITY and isinstance(site.layer, keras.layers.ActivityRegularization):
        return _coefficients(held) is not None
    if target == ACTIVITY and isinstance(site.layer, keras.layers.SimpleRNN | keras.Model):
        return False  # Keras 3.15 writes it into the config, and does not read it from there
    key = f"{ACTIVITY}_regularizer" if target == ACTIVITY else config_key(site.layer, target)
    if key is None:
        return False
    saved = held if target == ACTIVITY or not isinstance(held, Penalty) else _saved(held)
    return _holds(site.outermost.get_config(), key, keras.regularizers.serialize(saved))


def _holds(config: Any, key: str, value: Any) -> bool:
    """Return whether ``value`` stands under ``key`` somewhere in a nested config."""
    if isinstance(config, dict):
        return config.get(key) == value or any(_holds(part, key, value) for part in config.values())
    return isinstance(config, list | tuple) and any(_holds(part, key, value) for part in config)
