"""What a benchmark says about where it ran, and the few statistics that all of them print."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

PACKAGES = ("shrinkage", "keras", "jax", "numpy", "optuna", "pandas", "typer")


def processor() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> str:
    """Return the versions of Python and of what is measured."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(found)


def _ticks() -> tuple[float, float] | None:
    """Return the seconds that all processors were busy, and those that passed on them; Linux only."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return None
    user, nice, system, idle, iowait, *rest = map(int, stat.read_text().split("\n", 1)[0].split()[1:])
    busy = user + nice + system + sum(rest[:3])
    hertz = os.sysconf("SC_CLK_TCK")
    return busy / hertz, (busy + idle + iowait) / hertz


def _own() -> float:
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in usage)


def contender(script: str, backend: str, options: Mapping[str, object]) -> dict[str, Any]:
    """Run ``script`` in a process of its own, on a backend of Keras; return the JSON of its last line."""
    given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, script, *given], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(given)} failed on {backend}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def stated() -> Iterator[None]:
    """Print the machine and versions before; after, how much of it other processes took meanwhile."""
    print(f"{time.strftime('%Y-%m-%d')}, {processor()}, {os.cpu_count()} processors")
    print(f"{versions()}\n", flush=True)
    before, own = _ticks(), _own()
    yield
    after = _ticks()
    if before is None or after is None:
        return
    busy, passed = (b - a for a, b in zip(before, after, strict=True))
    others = max(0.0, busy - (_own() - own)) / passed if passed else 0.0
    words = "a quiet machine" if others < 0.05 else "a busy machine: wall times are too long, ratios noisy"
    print(f"\nMeanwhile other processes took {100 * others:.0f} % of the processors: {words}.")


def spread(values: Sequence[float], unit: float = 1.0, digits: int = 3) -> str:
    """Return ``median (min-max)``."""
    v = np.asarray(values) / unit
    return f"{np.median(v):.{digits}f} ({v.min():.{digits}f}-{v.max():.{digits}f})"


def median_interval(values: Sequence[float], draws: int = 10_000) -> tuple[float, float, float]:
    """Return the median and its 95 % percentile-bootstrap interval."""
    v = np.asarray(values)
    drawn = np.random.default_rng(0).choice(v, (draws, len(v)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(np.median(v)), float(low), float(high)
