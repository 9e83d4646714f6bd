"""Observers: who is told what happens in a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from shrinkage.study.design import Trial
from shrinkage.study.spec import StudySpec
from shrinkage.training.task import Record, Result


class Observer(Protocol):
    """Who watches a run: the progress display, a log, a test."""

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Trials are about to be trained, ``total`` in all; ``found`` are those finished before.

        Each of these has its ``arm, strength, seed, fold, state`` and the values of the epoch that counts.
        """

    def say(self, line: str) -> None:
        """Something worth one line."""

    def more(self, total: int, why: str) -> None:
        """Take note that the search goes on: ``total`` trials in all now, the new ones for ``why``."""

    def epoch(self, record: Record) -> None:
        """Take note of an epoch of a trial that has ended."""

    def trial(self, trial: Trial, result: Result) -> None:
        """Take note of a trial that has ended and is stored."""


class Silent:
    """An observer that shows nothing: a base for one that shows a part."""

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Show nothing."""

    def say(self, line: str) -> None:
        """Show nothing."""

    def more(self, total: int, why: str) -> None:
        """Show nothing."""

    def epoch(self, record: Record) -> None:
        """Show nothing."""

    def trial(self, trial: Trial, result: Result) -> None:
        """Show nothing."""


class Observers:
    """Several observers as one.

    Parameters
    ----------
    each
        Told of everything, in this order.
    """

    def __init__(self, *each: Observer) -> None:
        self._each = each

    def begin(self, spec: StudySpec, total: int, found: Sequence[Mapping[str, Any]]) -> None:
        """Tell each."""
        for observer in self._each:
            observer.begin(spec, total, found)

    def say(self, line: str) -> None:
        """Tell each."""
        for observer in self._each:
            observer.say(line)

    def more(self, total: int, why: str) -> None:
        """Tell each."""
        for observer in self._each:
            observer.more(total, why)

    def epoch(self, record: Record) -> None:
        """Tell each."""
        for observer in self._each:
            observer.epoch(record)

    def trial(self, trial: Trial, result: Result) -> None:
        """Tell each."""
        for observer in self._each:
            observer.trial(trial, result)
