"""Functions compiled by JAX, each once for the shapes that it is called with."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import jax
import numpy as np

from shrinkage.training.crew import Crew


class Programs:
    """What has been compiled.

    Parameters
    ----------
    crew
        Whose workers call the programs; tracing, which knows one thread, they ask for.
    options
        XLA's, by name; left out where its version lacks one.
    """

    def __init__(self, crew: Crew, options: Mapping[str, Any]) -> None:
        self._crew, self._options = crew, options
        self._made: dict[Any, Future[Any]] = {}

    def call(self, name: str, function: Callable[..., Any], *args: Any, donated: bool = True) -> Any:
        """Call a function by the program of its name; ``donated``: the first argument is used up.

        Integers are numbers to the program, not a part of it.
        """
        args = jax.tree.map(lambda a: np.int32(a) if isinstance(a, int) else a, args)
        key = (name, tuple((a.shape, np.dtype(a.dtype)) for a in jax.tree.leaves(args)))
        if key not in self._made:
            self._crew.here(partial(self._stage, key, function, args, donated))
        try:
            program = self._made[key].result()
        except Exception:  # too little memory, it may be: asked again, it is tried again
            self._made.pop(key, None)
            raise
        return program(*args)

    def _stage(self, key: Any, function: Callable[..., Any], args: Any, donated: bool) -> None:
        """Trace a function, and compile it in a thread, so that this one goes on answering signals."""
        if key not in self._made:  # another worker may have asked for it
            staged = jax.jit(function, donate_argnums=(0,) if donated else ()).lower(*args)
            self._made[key] = _beside(partial(_compile, staged, self._options))


def _compile(staged: Any, options: Mapping[str, Any]) -> Any:
    try:
        return staged.compile(compiler_options=dict(options))
    except jax.errors.JaxRuntimeError as error:
        if "option" not in str(error):
            raise
        return staged.compile()  # another version of XLA, which lacks one


def _beside(work: Callable[[], Any]) -> Future[Any]:
    """Do ``work`` in another thread."""
    found: Future[Any] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:  # raised where it is waited for
            found.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return found
