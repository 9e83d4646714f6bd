"""Sizes: how sparse the weights of a trial are, and what compaction would leave of its model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from shrinkage.compact import survey
from shrinkage.errors import ModelError
from shrinkage.recipe import strip
from shrinkage.training.initial import with_fresh_names

NAN = float("nan")

#: The columns of a frame, in order.
COLUMNS = ("zeros", "units", "live_units", "parameters", "compacted_parameters")
#: Those of them that are whole numbers.
COUNTS = COLUMNS[1:]


class Sizes:
    """Measures the weights of trials on one model.

    Parameters
    ----------
    build
        Returns the model of the trials.
    """

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build

    @cached_property
    def _model(self) -> Any:
        model = with_fresh_names(self._build)
        strip(model)
        return model

    def of(self, weights: Sequence[NDArray[Any]]) -> dict[str, float]:
        """Return the columns for these weights; NaN for a model without a graph, which can't be compacted."""
        self._model.set_weights(list(weights))
        try:
            found = survey(self._model)
        except ModelError:
            return dict.fromkeys(COLUMNS, NAN)
        numbers = (found.zeros, found.units, found.live_units, found.parameters, found.parameters_after)
        return dict(zip(COLUMNS, map(float, numbers), strict=True))
