"""A recipe as text to paste: for this package, for Keras alone, and for a study file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import tomli_w

from shrinkage.study.evidence import ArmEvidence, Node
from shrinkage.study.settings import described, filled
from shrinkage.study.words import plain

_KERAS = {"l1": "L1", "l2": "L2", "l1_l2": "L1L2"}


@dataclass(frozen=True)
class Paste:
    """One recipe, in the words of three places.

    Attributes
    ----------
    line
        The recipe, as ``shrinkage apply --recipe`` takes it, a rule a line.
    python
        Code that puts it on a model that exists.
    keras
        The arguments of each layer's constructor, with Keras alone where Keras has the penalty.
    toml
        An arm of a study file.
    options
        What the arm changes besides, of the model and its training, each as ``name = value``.
    """

    line: str
    python: str
    keras: str
    toml: str
    options: tuple[str, ...] = ()


def paste(
    seen: ArmEvidence,
    node: Callable[[str], Node | None] = lambda layer: None,
    own: Mapping[str, Any] | None = None,
) -> Paste:
    """Return the texts for an arm at its strength.

    Parameters
    ----------
    seen
        The arm, its rules at that strength, and the places that they charge.
    node
        Returns the call of a layer, or of the composite layer that it is a part of: its constructor is meant.
    own
        What else the study file says of the arm: ``learning_rate``, ``model_options``, ``training``.

    Examples
    --------
    >>> from shrinkage.study.evidence import Charged
    >>> charged = (Charged("head", "kernel", "l2(0.1)", 0.2, 1.0),)
    >>> seen = ArmEvidence("L2", 0.1, 0, -1, ("Dense: kernel = l2(0.1)",), charged, (), (), ())
    >>> print(paste(seen).keras)
    # head
    kernel_regularizer=keras.regularizers.L2(0.1)
    """
    own = filled({} if own is None else own, seen.strength)
    options = tuple(map(plain, described(own.get("model_options", {}), own.get("training", {}))))
    note = "".join(f"# with {option}\n" for option in options)
    if not seen.recipe:
        none = note.rstrip() or "# the model without penalties; nothing is to be added"
        return Paste("none", none, none, tomli_w.dumps({"arms": [{"name": _named(seen), **own}]}), options)
    rules = list(seen.recipe)
    listed = ",\n    ".join(json.dumps(rule, ensure_ascii=False) for rule in rules)
    return Paste(
        line="\n".join(rules),
        python=f"{note}import shrinkage\n\nshrinkage.apply(model, [\n    {listed},\n])",
        keras=note + _constructors(seen, node),
        toml=tomli_w.dumps({"arms": [{"name": _named(seen), "recipe": rules, **own}]}),
        options=options,
    )


def _named(seen: ArmEvidence) -> str:
    return seen.arm if seen.strength is None else f"{seen.arm} {seen.strength:g}"


def _constructors(seen: ArmEvidence, node: Callable[[str], Node | None]) -> str:
    lines: dict[str, list[str]] = {}
    for place in seen.charged:
        call = node(place.layer)
        layer = call.path if call else place.layer
        kind, _, rest = place.penalty.partition("(")
        if place.target == "unit" or kind not in _KERAS:
            argument = f"# {place.target}: {place.penalty} has no argument in Keras; use shrinkage.apply"
        else:
            name = _argument(place.target, call.kind if call else "")
            argument = f"{name}_regularizer=keras.regularizers.{_KERAS[kind]}({rest}"
        lines.setdefault(layer, []).append(argument)
    return "\n".join(
        f"# {' '.join(layer.split())}\n" + ",\n".join(arguments) for layer, arguments in lines.items()
    )


def _argument(target: str, kind: str) -> str:
    """Return what a layer's constructor calls a target: ``depthwise_kernel`` is ``depthwise`` there."""
    if kind.startswith("DepthwiseConv") and target == "kernel":
        return "depthwise"
    return target if target == "kernel" else target.removesuffix("_kernel")
