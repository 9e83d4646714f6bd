"""``tune``: the right strength of a penalty for one model, and the model trained with it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from shrinkage.errors import SpecError
from shrinkage.penalties import get_penalty
from shrinkage.study.runner import Observer
from shrinkage.study.study import Study
from shrinkage.study.summary import Summary
from shrinkage.training.saved import load_model

_SPLITS = 2  # one to find the range on, one to choose on


class Tuned(NamedTuple):
    """What `tune` found.

    Attributes
    ----------
    model
        A compiled Keras model, trained on all training data with the penalty at its strength.
    strength
        The strength; 0 where no penalty had the lowest validation data loss.
    evidence
        What was compared, and how sure the answer is.
    """

    model: Any
    strength: float
    evidence: Summary


def tune(
    model: Any,
    data: Any,
    *,
    target: str = "kernel",
    penalty: str | Sequence[str] = "l2",
    initial: str = "fresh",
    epochs: int = 30,
    batch_size: int = 32,
    training: Mapping[str, Any] | None = None,
    tolerance: float = 1.0,
    budget: int | str | None = None,
    directory: str | Path | None = None,
    observer: Observer | None = None,
    **options: Any,
) -> Tuned:
    """Find the strength of a penalty for a model, and train the model with it.

    A :class:`shrinkage.Study` with the arm ``none`` and one arm a penalty, on two random splits of the
    training data: the range is found on the first, the strength chosen on the second. No test row has a say.

    Parameters
    ----------
    model, data
        As a `Study` takes them; a saved model's path, for example, and an image folder.
    target
        What is charged: ``"kernel"``, ``"bias"``, ``"activity"``, ``"unit"``, or several: ``"kernel, bias"``.
    penalty
        ``"l2"``, ``"l1"``, ``"l1_l2"`` (halves), ``"group_lasso"``, or a text with ``strength``, as in
        ``"l1_l2(strength, 1e-4)"``. Of several the best is chosen.
    initial
        ``"fresh"`` draws the weights anew, ``"saved"`` begins from the model's own.
    epochs, batch_size, training
        How each trial is trained. What ``training`` does not say is taken from the model, if it is compiled:
        optimizer, learning rate and a loss that has a name.
    tolerance, budget
        When the search ends; see :class:`shrinkage.study.spec.StudySpec`.
    directory
        The run directory, where everything stays; by default nothing does.
    observer
        Told what happens.
    **options
        More of `Study`'s arguments: ``name``, ``label``, ``data_dir``, ``seeds``, ``folds``, ….

    Returns
    -------
    Tuned
        ``model, strength, evidence``.

    Raises
    ------
    SpecError
        If an argument is wrong.
    DataError, ModelError, RunError
        Where :meth:`Study.run` does.

    Examples
    --------
    >>> from shrinkage.models import mlp
    >>> model, strength, evidence = tune(mlp((8, 8, 1), 10, hidden=[8]), "digits", epochs=3)
    >>> model.output_shape, strength >= 0
    ((None, 10), True)
    """
    given = study(
        model, data, target=target, penalty=penalty, initial=initial, tolerance=tolerance, budget=budget,
        training={"epochs": epochs, "batch_size": batch_size, **(training or {})}, **options,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) / "run" if directory is None else Path(directory).expanduser()
        evidence = given.run(place, observer=observer)
        best = evidence.recommended
        strength = 0.0 if best is None or best.strength is None else best.strength
        return Tuned(load_model(place / "models" / "best.keras"), strength, evidence)


def study(
    model: Any,
    data: Any,
    *,
    target: str,
    penalty: str | Sequence[str],
    training: Mapping[str, Any],
    **options: Any,
) -> Study:
    """Return the study that `tune` runs."""
    penalties = [penalty] if isinstance(penalty, str) else list(penalty)
    arms = [{"name": text, "recipe": f"*: {target} = {_open(text)}"} for text in penalties]
    if not {"validation", "folds", "repeats"} & options.keys():
        options["repeats"] = _SPLITS
    fields = {"name": "tune", "seeds": 1, "strategy": "auto", "refit": True, **options}
    return Study(model, data, arms=arms, training={**compiled(model), **training}, **fields)


def _open(text: str) -> str:
    """Return a penalty with its strength left open."""
    halves = "(0.5*strength, 0.5*strength)" if text == "l1_l2" else "(strength)"
    found = text if "(" in text else f"{text}{halves}"
    made = get_penalty(found)
    if made is None or not made.varies:
        raise SpecError(
            f"A penalty to tune must leave its strength open, as l2 or l1(strength) do; got {text!r:.80}."
        )
    return found


def compiled(model: Any) -> dict[str, Any]:
    """Return how a model was compiled, as far as a study can say it: optimizer, learning rate and loss."""
    if isinstance(model, (str, Path)):
        if not str(model).endswith((".keras", ".h5")):
            return {}
        model = load_model(model)
    if not isinstance(model, keras.Model) or not model.compiled or model.optimizer is None:
        return {}
    name = type(model.optimizer).__name__
    if not hasattr(keras.optimizers, name):
        return {}
    rate = model.optimizer._learning_rate
    found: dict[str, Any] = {"optimizer": name.lower()}
    if not isinstance(rate, keras.optimizers.schedules.LearningRateSchedule):
        found["learning_rate"] = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    if isinstance(model.loss, str):
        found["loss"] = model.loss
    return found
