"""Callbacks for one's own ``model.fit``: strengths that change, and the objective taken apart."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from shrinkage.errors import DataError, ModelError, ShrinkageWarning
from shrinkage.penalties import LiveStrength, check_strength
from shrinkage.recipe import charges, make_live
from shrinkage.recipe.charges import Charge, activity_charges, pair, rows, weight_charge, zeros
from shrinkage.recipe.live import key
from shrinkage.training.initial import data_order
from shrinkage.training.objective import MeasuredLoss, unmeasure

NAN = float("nan")


class StrengthSchedule(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no type information
    """Changes the strength of penalties from epoch to epoch, with no retrace.

    Parameters
    ----------
    fn
        ``fn(epoch)`` or ``fn(epoch, strength)``, which returns the strength for that epoch: a finite number
        ≥ 0. Epochs count from 0 (with ``initial_epoch``, from there); ``strength`` is the present one. The
        strength of an L1L2 is l1 + l2, and its proportions are kept.
    places
        The left side of a rule, such as ``"Conv2D, Dense: kernel"``; every penalty if None.

    Raises
    ------
    ModelError
        By ``fit``: if no L1, L2 or L1L2 is in force at these places, or the model is not built.
    RecipeError
        By ``fit``: if ``places`` matches nothing.
    StrengthError
        By ``fit``: if ``fn`` returns anything else than a strength; names the epoch and the value.

    Notes
    -----
    The strengths become training state, once; that state is no weight, and a ``.keras`` file does not hold
    it. What the file's config says of a penalty is its strength at the moment of saving. After training the
    last strength stays in force. When training is resumed in another process, ``fn(epoch)`` goes on where it
    was; ``fn(epoch, strength)`` begins at the strength that the model then has.

    The logs say what the strength was: ``strength/dense/kernel``, by the first place that it scales
    (penalties that were equal at the start share one).

    Examples
    --------
    >>> import keras, numpy as np, shrinkage
    >>> head = keras.layers.Dense(1, kernel_regularizer="l1", name="head")
    >>> model = keras.Sequential([keras.Input((4,)), head])
    >>> model.compile("sgd", "mse")
    >>> warm_up = shrinkage.StrengthSchedule(lambda epoch: 0.01 * min(1, epoch / 2))
    >>> history = model.fit(np.ones((8, 4)), np.ones(8), epochs=4, verbose=0, callbacks=[warm_up])
    >>> history.history["strength/head/kernel"]
    [0.0, 0.005, 0.01, 0.01]
    """

    def __init__(self, fn: Callable[..., Any], places: str | None = None) -> None:
        super().__init__()
        self._fn, self._places = fn, places
        self._takes_strength = _takes_strength(fn)
        self._strengths: dict[str, LiveStrength] = {}

    def set_model(self, model: Any) -> None:
        """Make the strengths live. Keras calls this before it compiles the training step."""
        super().set_model(model)
        self._strengths = make_live(model, self._places)
        if not self._strengths:
            where = f" at {self._places!r}" if self._places else ""
            raise ModelError(
                f"No L1, L2 or L1L2 is in force on {model.name!r}{where}, so no strength can change: "
                'put one on first, as in shrinkage.apply(model, "Dense: kernel = l1(0.01)").'
            )

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Set the strengths for the epoch."""
        for place, live in self._strengths.items():
            value = self._fn(epoch, live.host) if self._takes_strength else self._fn(epoch)
            live.assign(check_strength(value, f"the schedule's strength of {place} for epoch {epoch}"))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Tell what the strengths were."""
        if logs is not None:
            logs.update({f"strength/{place}": live.host for place, live in self._strengths.items()})


def _takes_strength(fn: Callable[..., Any]) -> bool:
    for arguments in ((0, 0.0), (0,)):
        try:
            inspect.signature(fn).bind(*arguments)
        except TypeError:
            continue
        except ValueError:  # a function without a signature, written in C
            return False
        return len(arguments) == 2
    raise TypeError(f"A schedule is called as fn(epoch) or fn(epoch, strength); {fn!r} takes neither.")


class Monitor(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no type information
    """Takes the objective apart, and puts the parts into Keras's logs at the end of each epoch.

    Put it first in the list of callbacks: then History, CSVLogger, TensorBoard, EarlyStopping (which has to
    be told ``mode="min"``) and every tracker's callback get the parts with no adapter.

    ==========================  ==============================================================
    ``data_loss``               the data loss, averaged over the epoch as ``loss`` is
    ``penalty``                 ``loss`` − ``data_loss``: the penalties, and any loss that a
                                layer adds itself
    ``val_data_loss``,          the same of validation, in epochs that have one
    ``val_penalty``
    ``penalty/<layer>/<role>``  what one weight is charged at the epoch's end
    ``zeros``                   fraction of exact zeros among the penalized weights (NaN if
                                there are none)
    with ``train``:
    ``train_data_loss``         the data loss on training rows in inference mode (dropout off)
    ``gap``                     ``val_data_loss`` − ``train_data_loss``
    ``penalty/<layer>/activity``  what one output is charged per sample on these rows
    ==========================  ==============================================================

    Parameters
    ----------
    train
        ``(x, y)``, the training data, which Keras does not tell a callback. Without it what a single output
        is charged is left out (it is part of ``penalty``).
    every
        Epochs between two looks at ``train``, as in Keras's ``validation_freq``; in the others these keys
        are NaN, so that all epochs have the same keys.
    sample
        The most rows of ``train`` to look at; always the same ones.

    Raises
    ------
    ModelError
        By ``fit``: if the model is compiled without a loss.
    DataError
        If ``train`` is no pair, or its parts differ in length.

    Warns
    -----
    ShrinkageWarning
        By ``fit``: if a callback that reads the logs stands in front of this one.

    Examples
    --------
    >>> import keras, numpy as np, shrinkage
    >>> head = keras.layers.Dense(1, kernel_regularizer="l2", name="head")
    >>> model = keras.Sequential([keras.Input((4,)), head])
    >>> model.compile("sgd", "mse")
    >>> x, y = np.ones((8, 4)), np.ones(8)
    >>> history = model.fit(x, y, verbose=0, callbacks=[shrinkage.Monitor()]).history
    >>> sorted(history)
    ['data_loss', 'loss', 'penalty', 'penalty/head/kernel', 'zeros']
    """

    def __init__(self, train: Any = None, every: int = 1, sample: int = 1000) -> None:
        super().__init__()
        for name, number in (("every", every), ("sample", sample)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise DataError(f"{name} must be a whole number ≥ 1; got {number!r}.")
        self._every = every
        self._sample = None if train is None else _sampled(train, sample)
        self._measured: MeasuredLoss | None = None
        self._left: Any = None
        self._training = False
        self._means: dict[str, float] = {}

    def on_train_begin(self, logs: Any = None) -> None:
        """Begin to measure the data loss."""
        model = self.model
        if model._compile_loss is None:
            raise ModelError(
                f"The model {model.name!r} is compiled without a loss; there is no data loss to measure."
            )
        _warn_of_readers(self)
        if isinstance(model._compile_loss, MeasuredLoss):
            self._measured = model._compile_loss
        elif self._measured is None or self._measured.inner is not model._compile_loss:
            self._measured = MeasuredLoss(model._compile_loss, shown=False)
        model._compile_loss = self._measured
        # JAX traces anew when there are more metrics, and keeps both traces. (And there nothing may hold on
        # to an old function: a renewed one would be given its trace.) Others are told to trace anew, and so
        # is JAX where it has fixed the layout of the metrics.
        if _is_sharded() or (keras.backend.backend() != "jax" and self._left != self._functions()):
            model.make_train_function(force=True)
            model.test_function = None
        self._training = True

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Forget the last epoch."""
        self._means = {}

    def on_test_begin(self, logs: Any = None) -> None:
        """Keep the epoch's mean, before validation begins another."""
        if self._training:
            self._means.setdefault("", self._mean())

    def on_test_end(self, logs: Any = None) -> None:
        """Keep the validation's mean."""
        if self._training:
            self._means["val_"] = self._mean()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Put the parts of the objective into the logs."""
        logs = {} if logs is None else logs
        self._means.setdefault("", self._mean())
        for prefix, mean in self._means.items():
            logs[f"{prefix}data_loss"] = mean
            logs[f"{prefix}penalty"] = float(logs.get(f"{prefix}loss", NAN)) - mean
        places = charges(self.model)
        logs.update({f"penalty/{key(c)}": weight_charge(c) for c in places if c.weight is not None})
        logs["zeros"] = zeros(self.model)
        if self._sample is not None:
            outputs = [c for c in places if c.weight is None]
            logs.update(self._look(outputs, due=(epoch + 1) % self._every == 0))

    def on_train_end(self, logs: Any = None) -> None:
        """Leave the model as it was."""
        self._training = False
        self._left = self._functions() if keras.backend.backend() != "jax" else None
        if self._measured is not None and not self._measured.shown:
            unmeasure(self.model)
        if _is_sharded():
            self.model.train_function = self.model.test_function = None

    def _look(self, outputs: Sequence[Charge], due: bool) -> dict[str, float]:
        """Return what needs training rows, or NaN for each."""
        found = dict.fromkeys(["train_data_loss", "gap", *(f"penalty/{key(c)}" for c in outputs)], NAN)
        if due and self._sample is not None:
            x, y, rows = self._sample
            paid = activity_charges(self.model, x) if outputs else {}
            found |= {f"penalty/{key(c)}": paid[c.path] for c in outputs if c.path in paid}
            batches = -(-rows // 256)  # of nearly equal size, since each size is compiled for itself
            self.model.evaluate(x, y, batch_size=-(-rows // batches), verbose=0)
            found["train_data_loss"] = self._mean()
            found["gap"] = self._means.get("val_", NAN) - found["train_data_loss"]
        return found

    def _mean(self) -> float:
        return NAN if self._measured is None else self._measured.mean()

    def _functions(self) -> tuple[Any, ...]:
        return self._measured, self.model.train_function, self.model.test_function


def _is_sharded() -> bool:
    return keras.backend.backend() == "jax" and keras.distribution.distribution() is not None


def _sampled(train: Any, most: int) -> tuple[Any, Any, int]:
    found = pair(train, "train")
    taken = np.sort(data_order(0, 0, rows(found))[:most])
    x, y = keras.tree.map_structure(lambda part: np.asarray(part)[taken], found)
    return x, y, len(taken)


# These read nothing of ours, wherever they stand.
_NO_READERS = (
    StrengthSchedule,
    keras.callbacks.BackupAndRestore,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.SwapEMAWeights,
    keras.callbacks.TerminateOnNaN,
)
_PARTS = ("data_loss", "penalty", "val_data_loss", "val_penalty", "zeros", "train_data_loss", "gap")


def _warn_of_readers(monitor: Monitor) -> None:
    everything = _callbacks_around(monitor)
    before = everything[: next((i for i, c in enumerate(everything) if c is monitor), 0)]
    names = [type(callback).__name__ for callback in before if _would_miss(callback)]
    if names:
        warnings.warn(
            f"Monitor stands behind {', '.join(names)} in the list of callbacks, and adds its numbers to the "
            "logs too late for that: put Monitor first.",
            ShrinkageWarning,
            stacklevel=2,
        )


def _would_miss(callback: Any) -> bool:
    if isinstance(callback, (*_NO_READERS, Monitor)):
        return False
    watched = getattr(callback, "monitor", None)
    if isinstance(watched, str):
        return watched in _PARTS or watched.startswith("penalty/")
    # Keras marks the methods of its base class.
    return not getattr(callback.on_epoch_end, "_is_default", False)


def _callbacks_around(callback: Any) -> list[Any]:
    """Return the list of callbacks that is calling ``callback``: nothing but the call stack knows it."""
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList) and any(c is callback for c in owner.callbacks):
            return list(owner.callbacks)
        frame = frame.f_back
    return []
