"""A crew: threads that compute side by side, and one that does all the rest for them.

A small program can't use two processors well, and two of them at a time can (``benchmarks/sweep.py``).
Compiled programs run without Python's lock; but models, files and whoever is told of an epoch know one
thread, the one that called. A worker asks that thread for what it must not do itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Found = TypeVar("Found")


class _OverError(Exception):
    """Nobody waits for a worker any more."""


class Crew:
    """Threads that work on one :meth:`map` at a time."""

    def __init__(self) -> None:
        self._workers: set[threading.Thread] = set()
        self._asked: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._over = False

    def map(
        self, work: Callable[[Item], Found], items: Iterable[Item], size: int
    ) -> Iterator[tuple[Item, Found]]:
        """Do ``work`` on each item, on ``size`` of them at a time; yield both when it is done.

        An item is taken when there is a worker for it, by the calling thread. Where ``size`` is 1, that
        thread does the work too. What a worker raises is raised here at once; the others stop at their next
        :meth:`check` or :meth:`here`.
        """
        if size == 1:
            yield from ((item, work(item)) for item in items)
            return
        waiting, done, self._over = iter(items), list[tuple[Item, Found]](), False
        left = True
        try:
            while True:
                while left and len(self._workers) < size:
                    for item in waiting:
                        self._begin(partial(work, item), partial(_pair, done, item))
                        break
                    else:
                        left = False
                if done:
                    yield done.pop(0)
                elif self._workers:
                    self._asked.get()()
                else:
                    return
        finally:
            self._over = True
            while self._workers:
                self._asked.get()()

    def here(self, work: Callable[[], Found]) -> Found:
        """Do ``work`` in the thread that the crew works for; return what it returns, raise what it raises."""
        if threading.current_thread() not in self._workers:
            return work()
        answer: Future[Found] = Future()
        self._asked.put(partial(self._answer, answer, work))
        return answer.result()

    def check(self) -> None:
        """Raise in a worker that nobody waits for any more."""
        if self._over and threading.current_thread() in self._workers:
            raise _OverError

    def _answer(self, answer: Future[Found], work: Callable[[], Found]) -> None:
        if self._over:
            answer.set_exception(_OverError())
            return
        try:
            answer.set_result(work())
        except BaseException as error:  # the worker ends of it too
            answer.set_exception(error)
            raise

    def _begin(self, work: Callable[[], Found], tell: Callable[[Found], None]) -> None:
        found: Future[Found] = Future()

        def labour() -> None:
            try:
                found.set_result(work())
            except BaseException as error:
                found.set_exception(error)
            self._asked.put(partial(self._ended, threading.current_thread(), found, tell))

        worker = threading.Thread(target=labour, daemon=True)
        self._workers.add(worker)
        worker.start()

    def _ended(self, worker: threading.Thread, found: Future[Found], tell: Callable[[Found], None]) -> None:
        self._workers.discard(worker)
        if not self._over:
            tell(found.result())  # or raises what it failed with


def _pair(done: list[tuple[Item, Found]], item: Item, found: Found) -> None:
    done.append((item, found))


def processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
