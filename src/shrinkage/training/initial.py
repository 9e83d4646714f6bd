"""Initial weights and random state, keyed by (seed, layer path).

Keyed so that adding a Dropout layer, or an arm to a study, changes neither for the other layers and arms.
"""

from __future__ import annotations

import hashlib
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.utils.naming import to_snake_case

from shrinkage.errors import ModelError
from shrinkage.recipe import Site, sites


def key(*parts: object) -> int:
    """Return a 31-bit number that depends on all of ``parts`` and on nothing else."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def drawn(seed: int, split: int) -> int:
    """Return the number that the chance of a lane is drawn from, of every split of the data another.

    Were it the seed's alone, all folds would share what is lucky about it, and no test over folds would know:
    two equal arms would be called different too often (``benchmarks/error_rates.py``: a seed alike in all
    folds).
    """
    return key(seed, "split", split) if split else seed


def with_fresh_names(build: Callable[[], Any]) -> Any:
    """Call ``build`` as in a new process: its unnamed layers are ``dense``, ``dense_1``, ….

    Keras numbers them on through the life of a process, so that a recipe that names ``dense_1`` would
    fit only the first model that a study builds.
    """
    attribute = "object_name_uids"
    before = global_state.get_global_attribute(attribute)
    global_state.set_global_attribute(attribute, None)
    try:
        return build()
    finally:
        global_state.set_global_attribute(attribute, before)


def initialise(model: Any, seed: int) -> None:
    """Draw the weights of ``model`` anew from its layers' own initializers, and reset other state.

    Raises
    ------
    ModelError
        If a layer can't be built again from its config, naming it.
    """
    owned: set[int] = set()
    everywhere = sites(model)
    paths = lasting_paths(everywhere)
    for site in everywhere:
        if site.is_visible and not isinstance(site.layer, keras.Model) and site.layer.weights:
            if not hasattr(site.layer, "adapt"):  # what Normalization knows of the data is not chance's
                _draw(site, seed, paths)
            owned.update(id(v) for v in site.layer.weights)
    own = [v.path for v in model.weights if id(v) not in owned]
    if own:
        raise ModelError(
            f"The weights {', '.join(own[:3])} belong to the model itself and can't be drawn anew; "
            'move them into a layer, or start from the saved weights (initial = "saved").'
        )
    seed_dropout(model, seed)


def lasting_paths(everywhere: Sequence[Site]) -> dict[Site, str]:
    """Return the path of every site with Keras's automatic names counted from the model's first layer.

    Keras counts through the life of a process: what is ``dense`` in a script is ``dense_7`` when its cell
    of a notebook runs again, and is to be drawn alike.
    """
    counts: Counter[str] = Counter()
    names: dict[int, str] = {}
    for site in everywhere:
        kind = to_snake_case(type(site.layer).__name__)
        names[id(site.layer)] = site.layer.name
        if re.fullmatch(rf"{re.escape(kind)}(_\d+)?", site.layer.name):
            names[id(site.layer)] = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
    taken: Counter[str] = Counter()
    paths = {}
    for site in everywhere:
        path = "/".join(names[id(layer)] for layer in site.chain)
        taken[path] += 1
        paths[site] = path if taken[path] == 1 else f"{path}#{taken[path]}"
    return paths


def _draw(site: Site, seed: int, paths: Mapping[Site, str]) -> None:
    layer = site.layer
    try:
        with _seeded(key(seed, paths[site])):
            twin = with_fresh_names(lambda: _twin(layer))
        fits = [tuple(v.shape) for v in twin.weights] == [tuple(v.shape) for v in layer.weights]
        problem = "" if fits else "has other weights when built from its config"
    except Exception as error:  # whatever a user's own layer raises
        problem = f"can't be built again from its config, which fresh weights need: {error}"
    if not problem:
        for variable, drawn in zip(layer.weights, twin.weights, strict=True):
            variable.assign(drawn)
        return
    # A layer of the user's own need not have a config, or may build its parts when it is called.
    parts = [s for s in paths if s.chain[:-1] == site.chain and s.layer.weights]
    if layer._trainable_variables or layer._non_trainable_variables or not parts:
        raise ModelError(f"The layer {site.path!r} ({type(layer).__name__}) {problem}.")
    for part in parts:
        _draw(part, seed, paths)


def _twin(layer: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras's, of parts that are not built yet
        twin = type(layer).from_config(layer.get_config())
        twin.build_from_config(layer.get_build_config())
    return twin


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # Keras's initializers take their default seeds from Python's generator.
    python, legacy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


def seed_dropout(model: Any, seed: int) -> None:
    """Reset the random state of every layer that draws while training, and of the model itself."""
    below = [
        (path, site.layer) for site, path in lasting_paths(sites(model)).items() if site.layer is not model
    ]
    for path, layer in [("", model), *below]:
        for i, generator in enumerate(layer._seed_generators):
            if isinstance(generator, keras.random.SeedGenerator):
                number = key(seed, path, "random", i)
                generator.state.assign(np.array([number, 0], "uint32"))
                # On torch, Keras 3.15 draws a dropout's mask from this state only if there was a seed.
                generator._initial_seed = number


def data_order(seed: int, epoch: int, n: int) -> np.ndarray[Any, Any]:
    """Return the order in which ``n`` rows are trained on in an epoch (0-based)."""
    return np.random.default_rng([key(seed, "order"), epoch]).permutation(n)
