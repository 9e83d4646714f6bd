"""Which loop trains a task, and how the vectorised one runs its lanes: measured before it is believed.

What is chosen fixes the last bits of every result, so that a study decides once and keeps the answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import keras

from shrinkage.errors import TrainingError
from shrinkage.recipe import sites
from shrinkage.training.keras_loop import KerasLoop
from shrinkage.training.task import Lane, Loop, Task

LoopName = Literal["auto", "jax", "keras"]

_NEAR = 16 * 2**20  # bytes of a processor's caches that the lanes of one program should share
_ROUNDS = 2  # programs for each processor at least, so that none has nothing to do for long
_MOST = 16  # more lanes than this are no faster on a processor
_MICRO = 32  # rows of a micro-batch that stay in a processor's caches

#: Losses that are a mean over rows, so that a batch can be cut.
_ROWWISE = (
    "binary_crossentropy", "binary_focal_crossentropy", "categorical_crossentropy",
    "categorical_focal_crossentropy", "sparse_categorical_crossentropy", "mean_squared_error", "mse",
    "mean_absolute_error", "mae", "huber", "log_cosh", "kl_divergence", "poisson",
)  # fmt: skip


@dataclass(frozen=True)
class Lowering:
    """How the step is compiled.

    Parameters
    ----------
    rewritten
        Whether convolutions and the like are rewritten (see :mod:`shrinkage.training.lowering`).
    micro
        Rows of a micro-batch; 0 for the batch as a whole.
    emitters
        Whether XLA emits fused loops by its newer way: faster for products alone, slower next to maps of
        images. On a processor only.
    """

    rewritten: bool = True
    micro: int = 0
    emitters: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """XLA's options."""
        older = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_prefer_vector_width": 512}
        return {} if self.emitters else older


@dataclass(frozen=True)
class Choice:
    """How a study's lanes are run: decided once, and kept by every resume, for the sake of equal bits.

    Parameters
    ----------
    lanes
        The most lanes that one program trains.
    mix_seeds
        Whether lanes of several seeds share a program also where those of one fill half of it.
    lowering
        How the step is compiled.
    at_once
        How many programs run side by side, each in a thread. It changes no bits.
    """

    lanes: int
    mix_seeds: bool = False
    lowering: Lowering = field(default_factory=Lowering)
    at_once: int = 1

    def to_json(self) -> dict[str, Any]:
        """Return the choice as a run directory stores it."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Choice:
        """Return a stored choice."""
        lowering, at_once = Lowering(**stored["lowering"]), stored.get("at_once", 1)
        return cls(stored["lanes"], stored["mix_seeds"], lowering, at_once)

    def __str__(self) -> str:
        each = "one trial" if self.lanes == 1 else f"up to {self.lanes} trials"
        lanes = f"{each} at a time" if self.at_once == 1 else f"{each} in each of {self.at_once} threads"
        how = "convolutions as matrix products" if self.lowering.rewritten else "as Keras traces it"
        micro = f", {self.lowering.micro} rows at a time" if self.lowering.micro else ""
        return f"{lanes}, {how}{micro}"


def refusal(model: Any) -> str | None:
    """Return why the vectorised loop can't train a model, or None."""
    backend = keras.backend.backend()
    if backend != "jax":
        return f"the backend is {backend}, and many trials in one program need JAX"
    if keras.distribution.distribution() is not None:
        return "a Keras distribution is set"
    own = [
        n
        for n in ("train_step", "test_step", "fit", "evaluate")
        if getattr(type(model), n) is not getattr(keras.Model, n)
    ]
    if own:
        return f"the model {model.name!r} has a {own[0]} of its own"
    shared = next((site.layer for site in sites(model) if isinstance(site.layer, keras.layers.AugMix)), None)
    if shared is not None:
        return f"the layer {shared.name!r} (AugMix) can't draw for many trials at once"
    return None


def first_choice(
    task: Task, lanes: Sequence[Lane], model: Any, costly: int, held: int, room: int, cores: int,
    alone: bool = False,
) -> Choice:  # fmt: skip
    """Return what is fastest as a rule.

    On processors: one program at a time for each, with as many lanes as its share of the caches holds and as
    leave it several programs, and those of one seed, which read the same rows. On an accelerator: one program
    with as many lanes as there are, up to the memory.

    Parameters
    ----------
    costly, held
        Convolutions and poolings in the forward pass, and the bytes that one lane's step takes.
    room
        Bytes of memory that all lanes may take.
    cores
        Processors that there are; 0 on an accelerator.
    alone
        Whether a program trains one lane on a processor; see `JaxLoop`.
    """
    fit = max(1, room // (4 * held))
    if not cores:
        return Choice(min(len(lanes), fit), mix_seeds=True, lowering=Lowering())
    at_once = max(1, min(cores, fit, len(lanes)))
    share = -(-len(lanes) // (_ROUNDS * at_once))
    most = 1 if alone else max(1, min(_MOST, _NEAR // held // at_once, fit // at_once, share))
    size = task.batch_size
    micro = next((m for m in range(_MICRO, 7, -1) if size % m == 0), 0) if size > 2 * _MICRO else 0
    cut = micro if costly and can_be_cut(task, model) else 0
    return Choice(most, lowering=Lowering(micro=cut, emitters=not costly), at_once=at_once)


def alternatives(first: Choice, lanes: Sequence[Lane], costly: int, alone: bool = False) -> list[Choice]:
    """Return the other ways to run lanes that are worth a try."""
    many = min(_MOST, len({lane.cell for lane in lanes}))
    counts = dict.fromkeys((first.lanes,) if alone else (first.lanes, 1, many))
    lowerings = [first.lowering]
    if costly:
        lowerings.append(Lowering(rewritten=False))
    if first.lowering.micro:
        lowerings.append(replace(first.lowering, micro=0))
    if not first.lowering.emitters:
        lowerings.append(replace(first.lowering, emitters=True))
    found = [replace(first, lanes=n, lowering=how) for how in lowerings for n in counts]
    found.append(replace(first, at_once=1))  # a large network's step has work for all processors
    return [choice for choice in found if choice != first]


def can_be_cut(task: Task, model: Any) -> bool:
    """Return whether the gradient of a batch is the mean of its parts' gradients.

    So it is where the loss is a mean over rows, and no layer mixes them or keeps statistics of them.
    """
    loss = task.objective.loss
    name = loss if isinstance(loss, str) else getattr(loss, "name", "")
    layers = [site.layer for site in sites(model)]
    keeps = {id(g.state) for layer in (model, *layers) for g in layer._seed_generators}
    return (
        name in _ROWWISE
        and all(type(layer).__module__.startswith("keras.") for layer in layers)
        and not any("preprocessing" in type(layer).__module__ for layer in layers)
        and all(id(v) in keeps for v in model.non_trainable_variables)
    )


def make_loop(task: Task, model: Any, lanes: Sequence[Lane], name: LoopName, alone: bool = False) -> Loop:
    """Return the loop that trains the lanes of a task, whose model is ``model``; see `JaxLoop` for ``alone``.

    Raises
    ------
    TrainingError
        If the vectorised loop is asked for by name and can't train the task.
    """
    why = "" if name == "keras" else refusal(model)
    if why is None:
        from shrinkage.training.jax_loop import JaxLoop

        return JaxLoop(task, lanes, alone=alone)
    if name == "jax":
        raise TrainingError(f'loop = "jax" can\'t train this study: {why}. Write loop = "auto".')
    return KerasLoop(task, lanes, why)
