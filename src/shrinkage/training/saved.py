"""Load a saved model that may hold penalties of ours, or our optimizer."""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path
from typing import Any

import keras

# Importing these registers their classes with Keras, which loading needs.
import shrinkage.penalties
import shrinkage.training.proximal  # noqa: F401
from shrinkage.errors import ModelError, ShrinkageWarning


def load_model(path: str | Path) -> Any:
    """Return a saved Keras model, with its penalties and optimizer, in Keras's safe mode.

    Parameters
    ----------
    path
        A ``.keras`` file (or Keras's older ``.h5``).

    Raises
    ------
    ModelError
        If it is missing, is no saved Keras model, or needs code that safe mode does not run. A loss or
        optimizer that can't be loaded is left out, with a warning.

    Examples
    --------
    >>> import keras, shrinkage, tempfile
    >>> head = keras.layers.Dense(3, kernel_regularizer=shrinkage.L1(0.1))
    >>> model = keras.Sequential([keras.Input((4,)), head])
    >>> path = tempfile.mkdtemp() + "/model.keras"
    >>> model.save(path)
    >>> shrinkage.load_model(path).layers[0].kernel_regularizer
    L1(0.1)
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no saved model {str(path)!r}.")
    if path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ModelError(f"{str(path)!r} is no saved Keras model; give a .keras file.")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ModelError(
            f"The model {str(path)!r} can't be loaded: it is damaged, cut short, or no .keras file."
        )
    try:
        return _loaded(path, compiled=True)
    except Exception as error:  # Keras raises many kinds for a broken or foreign file
        if "safe_mode" in str(error):
            raise ModelError(
                f"The model {str(path)!r} can't be loaded: it holds code, as a Lambda layer does, which is "
                "never run; put a layer of Keras's or a registered one in its place."
            ) from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        try:
            model = _loaded(path, compiled=False)
        except Exception:
            raise ModelError(f"The model {str(path)!r} can't be loaded: {reason:.300}") from error
    warnings.warn(
        f"How {str(path)!r} was compiled can't be loaded, and is left out: {reason:.120}…",
        ShrinkageWarning,
        stacklevel=2,
    )
    return model


def _loaded(path: Path, *, compiled: bool) -> Any:
    with warnings.catch_warnings():
        # Of a model that was compiled and never trained: its optimizer has nothing to load.
        warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
        return keras.saving.load_model(path, compile=compiled, safe_mode=True)
