"""What of a model can go: from its graph and its present weights; nothing is changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from shrinkage.compact.graph import Call, Graph
from shrinkage.compact.handlers import Handler, Numbers
from shrinkage.compact.mixing import Mixing
from shrinkage.compact.table import HANDLERS, refusal
from shrinkage.compact.ties import Flags, Slots


@dataclass(frozen=True, eq=False)
class Mixture:
    """A layer that mixes channels: the classes of its inputs and outputs, and the constants that come in.

    Calls of a shared layer that disagree on a constant leave it unknown.
    """

    handler: Mixing
    inputs: Slots
    outputs: Slots
    known: Numbers
    usable: Flags


class Cut:
    """The channels of a model that stay, and the constants that are folded into biases for those that go.

    A class of channels goes when no layer that mixes channels hears one of them into an output that
    stays, save for constants, which can be folded. The largest set of classes for which that holds is
    found by starting from all and giving back those that break it. Every axis keeps one channel.

    Attributes
    ----------
    whole
        Why layers stay whole, by path.
    """

    def __init__(self, model: Any) -> None:
        self.graph = Graph(model)
        self.handlers: dict[int, Handler] = {}
        self.whole: dict[str, str] = {}
        self._refused = {id(call) for call in self.graph.calls if self._refuse(call)}
        self._connect()
        self._label = self.graph.ties.classes()
        self._fixed = self._fix()
        self._constants = self._follow()
        self._mixtures = self._mix()
        self._gone = self._solve()

    # --- what belongs together ------------------------------------------------------------------------------

    def _refuse(self, call: Call) -> bool:
        kind = HANDLERS.get(type(call.operation))
        if kind is not None and id(call.operation) not in self.handlers:
            self.handlers[id(call.operation)] = kind(call.operation)
        reason = refusal(call, self.handlers.get(id(call.operation)))
        if reason:
            self.whole.setdefault(call.path, reason)
        return bool(reason)

    def _connect(self) -> None:
        ties = self.graph.ties
        for layer, tensor in self.graph.entries:
            if layer.batch_shape[-1] is not None:
                ties.tie(tensor.slots, ties.axis(layer, "out", len(tensor.slots)))
        for call in self.graph.calls:
            if id(call) not in self._refused:
                self.handlers[id(call.operation)].connect(call, ties)

    def _fix(self) -> Flags:
        """Return, by class, what must stay."""
        fixed = np.zeros(self.graph.ties.count, bool)
        refused = [call for call in self.graph.calls if id(call) in self._refused]
        layers = {id(call.operation) for call in refused}
        tensors = [*self.graph.inputs, *self.graph.outputs, *self.graph.fixed]
        tensors += [t for call in refused for t in (*call.inputs, *call.outputs)]
        for slots in (t.slots for t in tensors):
            fixed[self._label[slots]] = True
        for (layer, _), slots in self.graph.ties.axes.items():
            if layer in layers:
                fixed[self._label[slots]] = True
        # Last: what mixes channels that stay anyway, as a softmax at the end, is no news.
        for call in self.graph.calls:
            reason = self._mixes(call)
            classes = self._label[call.outputs[0].slots]
            if reason and not fixed[classes].all():
                self.whole.setdefault(call.path, reason)
                fixed[classes] = True
        return fixed

    def _mixes(self, call: Call) -> str:
        return "" if id(call) in self._refused else self.handlers[id(call.operation)].mixes(call)

    # --- constants ------------------------------------------------------------------------------------------

    def _follow(self) -> dict[int, Numbers]:
        """Return the constants of every tensor, by its id."""
        known = {id(t): np.full(len(t.slots), np.nan) for t in self.graph.inputs}
        for call in self.graph.calls:
            if id(call) in self._refused or self._mixes(call):
                known.update({id(t): np.full(len(t.slots), np.nan) for t in call.outputs})
                continue
            handler = self.handlers[id(call.operation)]
            found = handler.constants(call, *(known[id(t)] for t in call.inputs))
            known[id(call.outputs[0])] = np.where(np.isfinite(found), found, np.nan)
        return known

    def _mix(self) -> list[Mixture]:
        incoming: dict[int, list[Numbers]] = {}
        for call in self.graph.calls:
            if id(call) not in self._refused:
                incoming.setdefault(id(call.operation), []).append(self._constants[id(call.inputs[0])])
        found = []
        for number, handler in self.handlers.items():
            if isinstance(handler, Mixing) and number in incoming:
                first, *others = incoming[number]
                agreed = np.logical_and.reduce([first == other for other in others], initial=True)
                known = np.where(agreed, first, np.nan)
                before, after = (self._label[self.graph.ties.axes[number, role]] for role in ("in", "out"))
                found.append(Mixture(handler, before, after, known, handler.usable(known)))
        return found

    # --- what goes ------------------------------------------------------------------------------------------

    def _solve(self) -> Flags:
        """Return, by class, what goes."""
        gone = ~self._fixed
        constant = np.zeros_like(gone)
        for call in self.graph.calls:
            for tensor in call.outputs:
                constant[self._label[tensor.slots]] |= np.isfinite(self._constants[id(tensor)])
        while True:
            self._give_back(gone)
            empty = self._empty(gone)
            if empty is None:
                return gone
            # A constant one is the better to keep: it needs nothing before it.
            gone[empty[np.argmax(constant[empty])]] = False

    def _give_back(self, gone: Flags) -> None:
        """Let stay whatever is heard by what stays."""
        changed = True
        while changed:
            changed = False
            for mixture in reversed(self._mixtures):
                heard = mixture.handler.heard[:, ~gone[mixture.outputs]].any(axis=1)
                needed = mixture.inputs[heard & ~mixture.usable & gone[mixture.inputs]]
                gone[needed] = False
                changed |= bool(needed.size)

    def _empty(self, gone: Flags) -> Slots | None:
        """Return the classes of the first axis that would lose all its channels."""
        starts = np.asarray(self.graph.ties.starts)
        empty = np.flatnonzero(np.logical_and.reduceat(gone[self._label], starts))
        if not empty.size:
            return None
        ends = np.append(starts[1:], self.graph.ties.count)
        return self._label[starts[empty[0]] : ends[empty[0]]]

    # --- what that means for a layer ------------------------------------------------------------------------

    def kept(self, layer: Any, role: str) -> Slots | None:
        """Return the channels that stay along an axis of a layer's weights; None if all do."""
        slots = self.graph.ties.axes.get((id(layer), role))
        if slots is None:
            return None
        stays = ~self._gone[self._label[slots]]
        return None if stays.all() else np.flatnonzero(stays)

    def counts(self, layer: Any) -> dict[str, int]:
        """Return how many channels stay along each axis of a layer's weights."""
        return {
            role: int(np.count_nonzero(~self._gone[self._label[slots]]))
            for (number, role), slots in self.graph.ties.axes.items()
            if number == id(layer)
        }

    def shifts(self) -> dict[int, Numbers]:
        """Return what is added to the biases of layers, by layer, for the outputs that stay."""
        found = {}
        for mixture in self._mixtures:
            rows = np.flatnonzero(self._gone[mixture.inputs] & mixture.usable & (mixture.known != 0))
            shift = mixture.known[rows] @ mixture.handler.sums(rows)
            shift = shift[~self._gone[mixture.outputs]]
            if shift.any():
                found[id(mixture.handler.layer)] = shift
        return found

    def units(self) -> dict[str, tuple[int, int]]:
        """Return, by the path of a layer, how many units there are that could go, and how many of these stay.

        Layers none of whose units could go are left out.
        """
        paths = {id(call.operation): call.path for call in reversed(self.graph.calls)}
        found = {}
        for mixture in self._mixtures:
            total = int(np.count_nonzero(~self._fixed[mixture.outputs]))
            gone = int(np.count_nonzero(self._gone[mixture.outputs]))
            if total:
                found[paths[id(mixture.handler.layer)]] = total, total - gone
        return found
