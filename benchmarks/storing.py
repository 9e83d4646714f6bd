"""The share of a study's wall time that goes into storing it.

Runs a study as `shrinkage run` does, by default the digits study as it stands, and times from outside every
outermost call of `shrinkage.study.storage`: curves, weights, Optuna's database, the summary, the best model.

    python benchmarks/storing.py
"""

from __future__ import annotations

import argparse
import functools
import inspect
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from machine import spread, stated

from shrinkage.study import runner, storage, study
from shrinkage.study.spec import StudySpec

TARGET = 0.05
DIGITS = Path(__file__).parent.parent / "examples" / "digits.toml"


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


class Clock:
    """Adds up the seconds and the calls of what it wraps; a call inside another counts as part of that."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.processor: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._inside = False

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return ``function``, timed under ``name``."""

        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside = True
            wall, processor = now()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds[name] += now()[0] - wall
                self.processor[name] += now()[1] - processor
                self.calls[name] += 1

        return timed

    def clear(self) -> None:
        """Begin again at zero."""
        self.seconds.clear()
        self.processor.clear()
        self.calls.clear()


def watch(clock: Clock) -> None:
    """Put the clock around every method and function of the storage module."""
    for cls in (storage.RunDirectory, storage.TrialStore):
        for name, function in inspect.getmembers(cls, inspect.isfunction):
            if name != "locked":  # held throughout
                setattr(cls, name, clock.wrap(f"{cls.__name__}.{name}", function))
    for name, function in inspect.getmembers(storage, inspect.isfunction):
        if function.__module__ != storage.__name__ or inspect.isgeneratorfunction(inspect.unwrap(function)):
            continue
        wrapped = clock.wrap(name, function)
        for module in (storage, runner, study):
            if getattr(module, name, None) is function:
                setattr(module, name, wrapped)


def run(spec: StudySpec, data_dir: str | None) -> tuple[float, float]:
    """Run the study in a new directory; return the seconds on the wall and of the processors."""
    Path("runs").mkdir(exist_ok=True)  # on a real disk: /tmp may be memory
    with tempfile.TemporaryDirectory(dir="runs") as folder:
        wall, processor = now()
        study.Study.from_spec(spec, data_dir=data_dir).run(Path(folder) / "run", allow_code=False)
        return now()[0] - wall, now()[1] - processor


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("study", nargs="?", type=Path, default=DIGITS, help="a study file")
    parser.add_argument("--data-dir", help="where named data sets lie")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, help="instead of the study's own")
    options = parser.parse_args(argv)
    spec = StudySpec.read(options.study)
    if options.epochs:
        training = spec.training.model_copy(update={"epochs": options.epochs})
        spec = spec.model_copy(update={"training": training})
    clock = Clock()
    watch(clock)
    with stated():
        walls, shares, processor_shares = [], [], []
        for repeat in range(options.repeats):
            clock.clear()
            wall, processor = run(spec, options.data_dir)
            stored = sum(clock.seconds.values())
            walls.append(wall)
            shares.append(stored / wall)
            processor_shares.append(sum(clock.processor.values()) / processor)
            print(
                f"run {repeat + 1}: {wall:.1f} s, of which storing {stored:.2f} s = {100 * shares[-1]:.2f} % "
                f"(of the processors' time {100 * processor_shares[-1]:.2f} %)",
                flush=True,
            )
        print(f"\nshare of storing: {spread(shares, 0.01, 2)} %; aim: at most {100 * TARGET:.0f} %")
        print(f"of the processors' time: {spread(processor_shares, 0.01, 2)} %")
        print(f"\nthe last run: {'call':33}{'calls':>8}{'seconds':>10}{'ms a call':>11}{'share':>9}")
        for name, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
            calls = clock.calls[name]
            cells = (
                f"{calls:8}{seconds:10.3f}{1000 * seconds / calls:11.2f}{100 * seconds / walls[-1]:7.2f} %"
            )
            print(f"              {name:33}{cells}")


if __name__ == "__main__":
    main()
