"""From the references of a spec to objects: a model's builder, a data set."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import keras
import numpy as np

from shrinkage.data import Data, load_data
from shrinkage.errors import CodeNotAllowedError, ModelError, ShrinkageError, did_you_mean
from shrinkage.recipe import sites
from shrinkage.study.spec import StudySpec
from shrinkage.training.initial import with_fresh_names
from shrinkage.training.objective import are_binary, gives_sigmoid, is_crossentropy
from shrinkage.training.saved import load_model

_SMALL = 0.02  # a factor that is meant for 0 to 255: mostly 1/255 or 1/127.5
_LARGE = 2.0  # a mean that inputs in [0, 1] don't have


@dataclass(frozen=True)
class ModelSource:
    """How to build a study's model, and a fingerprint of what is built."""

    build: Callable[[], Any]
    fingerprint: str


def load_study_data(spec: StudySpec, data_dir: str | None, allow_code: bool) -> Data:
    """Return the data set of a spec; see :func:`shrinkage.load_data`."""
    return load_data(
        spec.data, data_dir=data_dir, label=spec.label, groups=spec.groups, allow_code=allow_code
    )


def model_source(spec: StudySpec, data: Data, allow_code: bool) -> ModelSource:
    """Return the builder of a spec's model, tried once.

    Raises
    ------
    CodeNotAllowedError
        For a ``module:function`` outside this package without ``allow_code``.
    ModelError
        If the reference leads nowhere, the options don't fit, or what it builds is no built Keras model
        for this data.
    """
    if spec.model.endswith((".keras", ".h5")):
        if spec.model_options:
            raise ModelError("model_options go with a module:function; a saved model takes none.")
        path = Path(spec.model)
        build = lambda: load_model(path)  # noqa: E731
    else:
        function = resolve(spec.model, allow_code)
        build = lambda: _called(spec, function, data)  # noqa: E731
    model = with_fresh_names(build)
    check_fit(spec.model, model, data)
    if spec.initial == "saved" and not same_weights(model, with_fresh_names(build)):
        raise ModelError(
            f'initial = "saved" starts from the weights that {spec.model} builds, but it draws new ones each '
            'time. Save the model to a .keras file, or write initial = "fresh".'
        )
    return ModelSource(build, _fingerprint(spec, model))


def as_taken(data: Data, model: Any, loss: Any = "auto") -> Data:
    """Return data as a model takes them.

    Images stay 0 to 255 for one that scales its inputs itself. Zeros and ones that are floats are classes
    for one with a single sigmoid, unless it is trained by a loss of a regression.
    """
    if data.is_image and data.x_train.dtype == np.uint8 and _scales_itself(model):
        data = replace(data, raw=True)
    if (loss == "auto" or is_crossentropy(loss)) and _tells_two_apart(data, model):
        train, test = (np.ravel(y).astype(np.int32) for y in (data.y_train, data.y_test))
        data = replace(data, y_train=train, y_test=test)
    return data


def _tells_two_apart(data: Data, model: Any) -> bool:
    """Return whether a model gives the probability of a class, and targets say 1.0 where it is that one."""
    single = getattr(model, "output_shape", None) == (None, 1) and gives_sigmoid(model)
    return single and not data.classes and are_binary(data.y_train) and are_binary(data.y_test)


def _scales_itself(model: Any) -> bool:
    """Return whether a layer makes small numbers of 0 to 255: one that rescales, or knows their mean."""
    for site in sites(model):
        layer = site.layer
        if isinstance(layer, keras.layers.Rescaling) and np.max(np.abs(layer.scale)) < _SMALL:
            return True
        if isinstance(layer, keras.layers.Normalization) and layer.built and np.max(_mean(layer)) > _LARGE:
            return True
    return False


def _mean(layer: Any) -> Any:
    mean = layer.input_mean if layer.input_mean is not None else layer.adapt_mean
    return np.abs(keras.ops.convert_to_numpy(mean))


def resolve(reference: str, allow_code: bool) -> Callable[..., Any]:
    """Return the function that ``module:function`` names.

    Raises
    ------
    CodeNotAllowedError
        If the module is not this package's and code is not allowed.
    ModelError
        If there is no such module or function.
    """
    module_name, colon, name = reference.partition(":")
    if not colon or not module_name or not name:
        raise ModelError(
            f"{reference!r} is not a model; give a saved model (MODEL.keras) or module:function, "
            "as in shrinkage.models:cnn."
        )
    if not (allow_code or module_name == "shrinkage" or module_name.startswith("shrinkage.")):
        raise CodeNotAllowedError(
            f"The model {reference!r} runs code of your own: allow it with --allow-code."
        )
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # at the end, so that nothing here replaces an installed module
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:  # importing runs foreign code
        raise ModelError(f"The module {module_name!r} can't be imported: {error}") from error
    if not callable(found):
        hint = did_you_mean(name, [n for n in dir(sys.modules[module_name]) if not n.startswith("_")])
        raise ModelError(f"The module {module_name!r} has no function {name!r}.{hint}")
    return cast(Callable[..., Any], found)


def _called(spec: StudySpec, function: Callable[..., Any], data: Data) -> Any:
    _check_options(spec, function)
    try:
        return function(data.input_shape, data.classes, **spec.model_options)
    except ShrinkageError:
        raise
    except Exception as error:  # foreign code
        raise ModelError(
            f"{spec.model} could not build a model with {spec.model_options}: {error}"
        ) from error


def _check_options(spec: StudySpec, function: Callable[..., Any]) -> None:
    try:
        known = list(inspect.signature(function).parameters.values())[2:]
    except (TypeError, ValueError):  # a callable that does not tell
        return
    names = [p.name for p in known if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    unknown = next((option for option in spec.model_options if option not in names), None)
    if unknown is not None and not any(p.kind is p.VAR_KEYWORD for p in known):
        hint = did_you_mean(unknown, names) or f" Options: {', '.join(names) or 'none'}."
        raise ModelError(f"{spec.model} takes no option {unknown!r}.{hint}")


def check_fit(name: str, model: Any, data: Data) -> None:
    """Raise ModelError unless ``model`` is a built Keras model that takes this data."""
    if not isinstance(model, keras.Model):
        raise ModelError(f"{name} gave a {type(model).__name__}, not a Keras model.")
    if not model.built:
        raise ModelError(f"{name} is not built: give it an Input, or call model.build(...).")
    shape, outputs = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if isinstance(shape, (list, dict)) or isinstance(outputs, (list, dict)):
        raise ModelError(f"{name} has several inputs or outputs; a study takes models of one each.")
    if not isinstance(shape, tuple) or not isinstance(outputs, tuple):
        return  # a subclassed model doesn't say
    fits = len(shape) == len(data.input_shape) + 1 and all(
        a is None or a == b for a, b in zip(shape[1:], data.input_shape, strict=True)
    )
    if not fits:
        raise ModelError(
            f"{name} takes inputs of shape {shape[1:]}, but one sample of {data.name} has {data.input_shape}."
        )
    if data.classes > 2 and outputs[-1] is not None and outputs[-1] < data.classes:
        floats = " Whole numbers are taken for classes; for a regression give floats, 94.0 for 94."
        hint = floats if outputs[-1] == 1 else ""
        raise ModelError(
            f"{name} has {outputs[-1]} outputs, but {data.name} has {data.classes} classes.{hint}"
        )
    if not data.classes and len(outputs) == 2 and outputs[-1] != data.outputs:
        hint = " Floats are taken for a regression; for classes give integers." if data.outputs == 1 else ""
        raise ModelError(
            f"{name} has {outputs[-1]} outputs, but a target of {data.name} has {data.outputs}.{hint}"
        )


def same_weights(model: Any, other: Any) -> bool:
    """Return whether two models hold the same weights, bit for bit."""
    mine, theirs = model.get_weights(), other.get_weights()
    return len(mine) == len(theirs) and all(
        a.tobytes() == b.tobytes() for a, b in zip(mine, theirs, strict=True)
    )


def architecture(model: Any) -> str:
    """Return what a model is made of, whatever its layers are called and however it was compiled."""
    try:
        config = keras.saving.serialize_keras_object(model)
    except (NotImplementedError, TypeError, ValueError):  # a subclassed model without a config
        return repr([tuple(w.shape) for w in model.weights])
    config.pop("compile_config", None)
    names = dict.fromkeys([model.name, *(site.layer.name for site in sites(model))])
    return json.dumps(_unnamed(config, {name: f"#{i}" for i, name in enumerate(names)}), sort_keys=True)


def _unnamed(value: Any, names: Mapping[str, str]) -> Any:
    # A name stands under "name", or in a list that says where a tensor comes from.
    if isinstance(value, dict):
        return {
            key: names.get(part, part) if key == "name" and isinstance(part, str) else _unnamed(part, names)
            for key, part in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [names.get(part, part) if isinstance(part, str) else _unnamed(part, names) for part in value]
    return value


def _fingerprint(spec: StudySpec, model: Any) -> str:
    digest = hashlib.sha256()
    try:
        config = json.loads(model.to_json())
        config.pop("compile_config", None)
        digest.update(json.dumps(config, sort_keys=True).encode())
    except (NotImplementedError, TypeError, ValueError):  # a subclassed model without a config
        shapes = [tuple(w.shape) for w in model.weights]
        digest.update(repr((spec.model, spec.model_options, shapes)).encode())
    if spec.initial == "saved":
        for array in model.get_weights():
            digest.update(array.tobytes())
    return digest.hexdigest()[:20]
