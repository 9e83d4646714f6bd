"""Steps that several commands share."""

from __future__ import annotations

import json
import os
from typing import Any

from shrinkage.errors import ShrinkageError


def load_keras() -> None:
    """Import Keras, and keep it from importing TensorFlow on another backend (seconds, and log lines).

    Where TensorFlow is installed, Keras imports it to ask whether an object is one of TensorFlow's; no
    object of these commands is.
    """
    try:
        import keras
        from keras.src.utils import module_utils
    except (ImportError, ValueError) as error:
        chosen = os.environ["KERAS_BACKEND"]
        raise ShrinkageError(f"Keras can't be loaded with KERAS_BACKEND={chosen}: {error}") from error

    if keras.backend.backend() != "tensorflow":
        module_utils.tensorflow._available = False


def print_json(value: Any) -> None:
    """Print an answer as JSON."""
    print(json.dumps(value, indent=2, allow_nan=False))


def file_name(name: str) -> str:
    """Return a name as that of a file: what is no letter, digit, hyphen, dot or underscore is a hyphen."""
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.")
    return kept or "study"
