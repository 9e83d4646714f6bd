"""``tune``: the right strength of a penalty for one model, and the model trained with it."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras

from shrinkage.errors import ModelError, RunError, ShrinkageWarning, SpecError, did_you_mean
from shrinkage.penalties import get_penalty
from shrinkage.penalties.text import TEXT_FORMS
from shrinkage.recipe import Recipe, Rule, apply, strip
from shrinkage.study.observers import Observer
from shrinkage.study.study import Study
from shrinkage.study.summary import Summary
from shrinkage.training.saved import load_model

_OWN = {"self", "model", "data", "arms", "training"}  # of a study, what tune says itself
_HERE = ("target", "penalty", "epochs", "batch_size", "training", "directory", "observer")
_CROSSENTROPIES = (
    keras.losses.BinaryCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.SparseCategoricalCrossentropy,
)
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
    target: str | Sequence[str] = "kernel",
    penalty: Any = "l2",
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
        What is charged: ``"kernel"``, ``"bias"``, ``"activity"``, ``"unit"``, or several: ``"kernel, bias"``
        or a list.
    penalty
        ``"l2"``, ``"l1"``, ``"l1_l2"`` (halves), ``"group_lasso"``, or a text with ``strength``, as in
        ``"l1_l2(strength, 1e-4)"``, or such a penalty, ``L2(STRENGTH)``. Of a list the best is chosen.
    initial
        ``"fresh"`` draws the weights anew, ``"saved"`` begins from the model's own.
    epochs, batch_size, training
        How each trial is trained. What ``training`` does not say is taken from the model, if it is compiled:
        the optimizer with its arguments, and the loss; a warning names what can't be.
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
        Where :meth:`Study.run` does; and if every training diverged, or Keras can't save the model.

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
        best, saved = evidence.recommended, place / "models" / "best.keras"
        if best is None:
            raise RunError(f"There is no strength to choose. {' '.join(evidence.headline)}")
        if not saved.exists():
            raise ModelError("Keras can't save this model, so there is none to return; use shrinkage.Study.")
        found = load_model(saved)
        if best.strength is not None:  # a file has no place for penalties of units
            strip(found)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ShrinkageWarning)  # the run has said so
                apply(found, Recipe(given.spec.arm(best.arm).recipe).at(best.strength))
        return Tuned(found, best.strength or 0.0, evidence)


def study(
    model: Any,
    data: Any,
    *,
    target: str | Sequence[str],
    penalty: Any,
    training: Mapping[str, Any],
    **options: Any,
) -> Study:
    """Return the study that `tune` runs."""
    several = isinstance(penalty, (list, tuple))
    penalties = [text_of(each) for each in (penalty if several else (penalty,))]
    if not penalties:
        raise SpecError("There is nothing to tune: give a penalty, as in penalty='l2'.")
    targets = target if isinstance(target, str) else ", ".join(map(str, target))
    arms = [{"name": text, "recipe": f"*: {targets} = {_open(text)}"} for text in penalties]
    known = [name for name in inspect.signature(Study.__init__).parameters if name not in _OWN]
    for name in options.keys() - set(known):
        raise SpecError(f"tune has no argument {name!r}.{did_you_mean(name, [*known, *_HERE])}")
    if not {"validation", "folds", "repeats"} & options.keys():
        options["repeats"] = _SPLITS
    fields = {"name": "tune", "seeds": 1, "strategy": "auto", "refit": True, **options}
    return Study(model, data, arms=arms, training={**compiled(model, training), **training}, **fields)


def text_of(penalty: Any) -> str:
    """Return a penalty, or anything that stands for one, as text."""
    return penalty if isinstance(penalty, str) else Rule("*", "kernel", penalty).cells[2]


def _open(text: str) -> str:
    """Return a penalty with its strength left open."""
    name = text.partition("(")[0].strip()
    if name not in TEXT_FORMS:
        hint = " Elastic net is 'l1_l2'." if name.startswith("elastic") else did_you_mean(name, TEXT_FORMS)
        raise SpecError(f"{text!r} is no penalty to tune; take one of {', '.join(TEXT_FORMS)}.{hint}")
    halves = "(0.5*strength, 0.5*strength)" if text == "l1_l2" else "(strength)"
    found = text if "(" in text else f"{text}{halves}"
    made = get_penalty(found)
    if made is None or not made.varies:
        raise SpecError(
            f"A penalty to tune must leave its strength open, as l2 or l1(strength) do; got {text!r:.80}."
        )
    return found


def compiled(model: Any, chosen: Collection[str] = ()) -> dict[str, Any]:
    """Return how a model was compiled, as far as a study can say it; warn of what it can't.

    Where ``chosen`` has an ``optimizer`` or a ``loss``, the model's own, with all its arguments, is left.
    """
    if isinstance(model, (str, Path)):
        if not str(model).endswith((".keras", ".h5")):
            return {}
        model = load_model(model)
    if not isinstance(model, keras.Model) or not model.compiled or model.optimizer is None:
        return {}
    optimizer = {} if "optimizer" in chosen else _optimizer(model.optimizer)
    return {**optimizer, **({} if "loss" in chosen else _loss(model.loss))}


def _optimizer(optimizer: Any) -> dict[str, Any]:
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):  # compile wraps it in mixed_float16
        optimizer = optimizer.inner_optimizer
    kind = type(optimizer)
    if getattr(keras.optimizers, kind.__name__, None) is not kind:
        _warn(f"the optimizer {kind.__name__}", "adam")
        return {}
    found: dict[str, Any] = {"optimizer": kind.__name__.lower()}
    config, usual = _plain(optimizer.get_config()), _plain(kind().get_config())
    own = {key: value for key, value in config.items() if value != usual.get(key) and key != "name"}
    if "learning_rate" in config and not isinstance(config["learning_rate"], dict):  # else a schedule
        own.pop("learning_rate", None)
        found["learning_rate"] = float(config["learning_rate"])
    if "weight_decay" in own:
        found["weight_decay"] = own.pop("weight_decay")
    return {**found, "optimizer_options": own} if own else found


def _plain(value: Any) -> Any:
    """Return a config without what is None, which TOML can't say and is not needed to read it back."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items() if part is not None}
    return list(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _loss(loss: Any) -> dict[str, Any]:
    """Return a loss that is known by its name; which crossentropy it is depends on the targets."""
    if isinstance(loss, str):
        return {} if loss == "categorical_crossentropy" else {"loss": loss}
    if type(loss) in _CROSSENTROPIES:
        return _crossentropy(loss)
    name = _known(loss)
    if name:
        return {"loss": name}
    if loss is not None:
        what = getattr(loss, "__name__", type(loss).__name__)
        _warn(f"the loss {what} as it was compiled", "what fits the targets")
    return {}


def _crossentropy(loss: Any) -> dict[str, Any]:
    """Return a crossentropy's smoothing, and its name if that is not told from targets and outputs."""
    config, usual = loss.get_config(), type(loss)().get_config()
    changed = {key for key, value in config.items() if value != usual.get(key)}
    if changed - {"name", "from_logits", "label_smoothing"}:
        _warn(f"the loss {type(loss).__name__} as it was compiled", "the usual one")
    found: dict[str, Any] = {}
    if type(loss) is keras.losses.BinaryCrossentropy and not loss.from_logits:
        found["loss"] = "binary_crossentropy"
    if config.get("label_smoothing"):
        found["label_smoothing"] = config["label_smoothing"]
    return found


def _known(loss: Any) -> str:
    """Return Keras's name of a loss, where it is one with its usual arguments; else nothing."""
    kind = type(loss)
    if getattr(keras.losses, kind.__name__, None) is not kind:
        name = getattr(loss, "__name__", "")
        return name if getattr(keras.losses, name, None) is loss else ""
    usual = kind()
    same = [getattr(loss, part, None) == getattr(usual, part, None) for part in ("_fn_kwargs", "reduction")]
    return str(usual.fn.__name__) if all(same) and hasattr(usual, "fn") else ""


def _warn(what: str, instead: str) -> None:
    warnings.warn(
        f"The model has {what}, which a study can't say: {instead} is taken. `training` chooses another.",
        ShrinkageWarning,
        stacklevel=5,
    )
