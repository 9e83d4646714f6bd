"""Which channels must stay, and which stay or go together."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.intp]
Flags = NDArray[np.bool_]


class Ties:
    """Numbers for channels ("slots"), and bonds between them.

    A slot is one index of the last axis of one tensor, or of one axis of a layer's weights. Slots that
    are tied form a class, which stays or goes as a whole.
    """

    def __init__(self) -> None:
        self.count = 0
        self.axes: dict[tuple[int, str], Slots] = {}
        self.starts: list[int] = []
        self._left: list[Slots] = []
        self._right: list[Slots] = []

    def number(self, size: int) -> Slots:
        """Return ``size`` new slots: the channels of one tensor, or one axis of weights."""
        slots = np.arange(self.count, self.count + size)
        if size:
            self.starts.append(self.count)
            self.count += size
        return slots

    def axis(self, layer: Any, role: str, size: int) -> Slots:
        """Return the slots of one axis of a layer's weights; the same for every call of the layer."""
        key = id(layer), role
        if key not in self.axes:
            self.axes[key] = self.number(size)
        return self.axes[key]

    def tie(self, some: Slots, others: Slots) -> None:
        """Let ``some[i]`` and ``others[i]`` stay or go together."""
        if len(some) != len(others):
            raise ValueError(f"{len(some)} channels can't be tied to {len(others)}.")
        self._left.append(some)
        self._right.append(others)

    def classes(self) -> Slots:
        """Return the number of each slot's class: the smallest slot in it."""
        label = np.arange(self.count)
        if not self._left:
            return label
        left, right = np.concatenate(self._left), np.concatenate(self._right)
        while True:
            a, b = label[left], label[right]
            if np.array_equal(a, b):
                return label
            # Every class points to the smallest one that it is tied to; then pointers are followed.
            np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
            while not np.array_equal(label, label[label]):
                label = label[label]
