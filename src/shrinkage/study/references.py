"""From the references of a spec to objects: a model's builder, a data set."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from shrinkage.data import Data, load_data
from shrinkage.errors import CodeNotAllowedError, ModelError, ShrinkageError, did_you_mean
from shrinkage.recipe.saved import load_model
from shrinkage.study.spec import StudySpec
from shrinkage.training.initial import with_fresh_names


@dataclass(frozen=True)
class ModelSource:
    """How to build a study's model, and a fingerprint of what is built."""

    build: Callable[[], Any]
    fingerprint: str


def load_study_data(spec: StudySpec, data_dir: str | None, allow_code: bool) -> Data:
    """Return the data set of a spec; see :func:`shrinkage.load_data`."""
    return load_data(spec.data, data_dir=data_dir, label=spec.label, allow_code=allow_code)


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
    _check_fit(spec, model, data)
    return ModelSource(build, _fingerprint(spec, model))


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
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does: one's own module lies where one works
    try:
        found = getattr(importlib.import_module(module_name), name, None)
    except Exception as error:  # importing runs foreign code
        raise ModelError(f"The module {module_name!r} can't be imported: {error}") from error
    if not callable(found):
        hint = did_you_mean(name, [n for n in dir(sys.modules[module_name]) if not n.startswith("_")])
        raise ModelError(f"The module {module_name!r} has no function {name!r}.{hint}")
    return found


def _called(spec: StudySpec, function: Callable[..., Any], data: Data) -> Any:
    try:
        return function(data.input_shape, data.classes, **spec.model_options)
    except ShrinkageError:
        raise
    except Exception as error:  # foreign code
        raise ModelError(
            f"{spec.model} could not build a model with {spec.model_options}: {error}"
        ) from error


def _check_fit(spec: StudySpec, model: Any, data: Data) -> None:
    if not isinstance(model, keras.Model):
        raise ModelError(f"{spec.model} gave a {type(model).__name__}, not a Keras model.")
    if not model.built:
        raise ModelError(
            f"{spec.model} gave a model that is not built: give it an Input, or call model.build(...)."
        )
    shape = getattr(model, "input_shape", None)
    if isinstance(shape, tuple) and len(shape) == len(data.input_shape) + 1:
        fits = all(a is None or a == b for a, b in zip(shape[1:], data.input_shape, strict=True))
    else:
        fits = not isinstance(shape, tuple)
    if not fits:
        raise ModelError(
            f"{spec.model} takes inputs of shape {shape[1:]}, but one sample of {data.name} has {data.input_shape}."
        )
    outputs = getattr(model, "output_shape", None)
    if (
        data.classes > 2
        and isinstance(outputs, tuple)
        and outputs[-1] is not None
        and outputs[-1] < data.classes
    ):
        raise ModelError(
            f"{spec.model} has {outputs[-1]} outputs, but {data.name} has {data.classes} classes."
        )


def _fingerprint(spec: StudySpec, model: Any) -> str:
    digest = hashlib.sha256()
    try:
        digest.update(model.to_json().encode())
    except (NotImplementedError, TypeError, ValueError):  # a subclassed model without a config
        digest.update(
            repr((spec.model, spec.model_options, [tuple(w.shape) for w in model.weights])).encode()
        )
    if spec.initial == "saved":
        for array in model.get_weights():
            digest.update(array.tobytes())
    return digest.hexdigest()[:20]
