"""What a study is given in Python: models, functions and arrays, and how a run directory keeps them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from shrinkage.data import Data
from shrinkage.data.build import KEYS, build_data
from shrinkage.errors import ModelError, RunError, ShrinkageError, SpecError
from shrinkage.study.directory import RunDirectory
from shrinkage.study.files import save_model, write_atomically
from shrinkage.study.references import architecture, check_fit, load_study_data, same_weights
from shrinkage.study.runner import refuse_another
from shrinkage.study.spec import StudySpec, resolved
from shrinkage.training.initial import with_fresh_names
from shrinkage.training.saved import load_model

STORED_MODEL = "inputs/model.keras"


def as_data(data: Any, groups: Any = None) -> Data | None:
    """Return arrays as data; None where the study names a data set or a file.

    Raises
    ------
    SpecError
        If it is neither, or ``groups`` do not go with it.
    """
    named = isinstance(groups, str)
    if isinstance(data, (str, Path)):
        if groups is not None and not named:
            raise SpecError("groups as an array go with data as arrays; of a file, name the array or column.")
        return None
    if named:
        raise SpecError(f"groups = {groups!r} names a part of a file; with data as arrays give an array.")
    given = {} if groups is None else {"groups": groups}
    if isinstance(data, Data):  # with the types that it will have when it is read back from the directory
        return build_data(data.name, {**_arrays(data), **given}, labels=data.labels, owned=False)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, tuple) for part in data):
        data = tuple(array for part in data for array in part)  # as keras.datasets gives them
    if isinstance(data, tuple) and len(data) in (2, 4):
        return build_data("data", {**dict(zip(KEYS, data, strict=False)), **given}, owned=False)
    raise SpecError(
        "data must be the name of a data set, a path, a Data, or a tuple (x_train, y_train), "
        "(x_train, y_train, x_test, y_test) or ((x_train, y_train), (x_test, y_test)); "
        f"got {type(data).__name__}."
    )


def name_of_groups(groups: Any, data: Data | None) -> Any:
    """Return what study.toml calls the groups: as they are called in the file, or will be."""
    if data is None:
        return groups
    return None if data.groups is None else "groups"


def reference(model: Any) -> str:
    """Return how study.toml names a model: itself, its function, or the file that it will be saved to.

    Raises
    ------
    SpecError
        If it is no model.
    """
    if isinstance(model, (str, Path)):
        return resolved(str(model), Path())
    name, module = getattr(model, "__qualname__", ""), getattr(model, "__module__", "")
    if name and module != "__main__" and getattr(sys.modules.get(module), name, None) is model:
        return f"{module}:{name}"
    if not callable(model):
        raise SpecError(
            f"model must be a reference, a Keras model or a function that builds one; got {model!r:.80}."
        )
    return STORED_MODEL


def materialised(place: RunDirectory, asked: StudySpec, model: Any, data: Data, *, owned: bool) -> StudySpec:
    """Store Python objects in the run directory, so that its study.toml says all there is to say.

    Parameters
    ----------
    place
        The run directory.
    asked
        The study as it was asked for.
    model
        What it was asked with: a reference, a Keras model or a function.
    data
        Its data; ``owned``: they were given as arrays, and lie nowhere else.

    Raises
    ------
    RunError
        If a run of another study, other data or another model is there; nothing is written then.
    """
    inputs = place.path / "inputs"
    changes: dict[str, Any] = {"data": str(inputs / "data.npz")} if owned else {}
    own = _own_model(asked, model, data)
    if own is not None:
        _check_stored(asked)
        changes |= {"model": str(inputs / "model.keras"), "model_options": {}}
    spec = asked.model_copy(update=changes)
    refuse_another(spec, place)
    begun = place.exists
    if owned and not (begun and _is_stored(spec, data)):
        _save_data(inputs / "data.npz", data)
    if own is not None and not (begun and _is_model_stored(spec, own, isinstance(model, keras.Model))):
        save_model(own, inputs / "model.keras")
    return spec


def _own_model(asked: StudySpec, model: Any, data: Data) -> Any | None:
    """Return the Keras model to store in the run directory, or None if the study names another place."""
    if isinstance(model, (str, Path)) or asked.model != STORED_MODEL:
        return None
    own = model if isinstance(model, keras.Model) else _built(model, asked.model_options, data)
    check_fit("The model", own, data)
    return own


def _built(build: Callable[..., Any], options: dict[str, Any], data: Data) -> Any:
    try:
        return with_fresh_names(lambda: build(data.input_shape, data.classes, **options))
    except ShrinkageError:
        raise
    except Exception as error:  # foreign code
        hint = " (It was given classes = 0: targets that are no whole numbers are a regression.)"
        raise ModelError(
            f"The function that builds the model failed: {error}{'' if data.classes else hint}"
        ) from error


def _check_stored(spec: StudySpec) -> None:
    arm = next((arm.name for arm in spec.arms if arm.model_options), None)
    if arm is not None:
        raise ModelError(
            f"Arm {arm!r} has model_options, but this model is stored as it stands in the run directory. "
            "Give a function that can be imported (module:function), which is called for each arm."
        )


def _is_stored(spec: StudySpec, data: Data) -> bool:
    """Return whether the run directory holds this data; raise RunError if it holds other data."""
    if not Path(spec.data).exists():
        return False
    if load_study_data(spec, None, False).fingerprint() != data.fingerprint():
        raise _changed("data", spec.data)
    return True


def _is_model_stored(spec: StudySpec, model: Any, exact: bool) -> bool:
    """Return whether the run directory holds this model; raise RunError if it holds another."""
    if not Path(spec.model).exists():
        return False
    stored = load_model(spec.model)
    same = architecture(stored) == architecture(model)
    if not same or (exact and spec.initial == "saved" and not same_weights(stored, model)):
        raise _changed("model", spec.model)
    return True


def _changed(what: str, path: str) -> RunError:
    return RunError(
        f"The {what} of this study has changed since the run began with {path!r}. "
        "Give another directory, or restart to begin anew."
    )


def _save_data(path: Path, data: Data) -> None:
    arrays = _arrays(data)
    if data.labels:
        arrays["labels"] = np.array(data.labels)
    write_atomically(path, lambda file: np.savez(file, **arrays))


def _arrays(data: Data) -> dict[str, Any]:
    groups = {} if data.groups is None else {"groups": data.groups}
    return {**{key: getattr(data, key) for key in KEYS}, **groups}
