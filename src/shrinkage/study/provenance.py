"""Where and with what a run was made: versions, machine, time. Stored apart: no result depends on it."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from shrinkage.study.directory import RunDirectory
from shrinkage.study.files import write_json
from shrinkage.study.records import as_json, from_json

_PACKAGES = ("shrinkage", "keras", "jax", "tensorflow", "torch", "numpy", "scikit-learn", "optuna", "pandas")


@dataclass(frozen=True)
class Provenance:
    """Where and with what a run was made.

    Attributes
    ----------
    versions
        Of Python and the packages that are installed.
    backend, devices
        Keras's backend, and what it computes on.
    system, processor, processors, memory
        Operating system, processor's name, how many, and GiB of memory (NaN where unknown).
    begun
        When the run was first begun: UTC, ISO 8601.
    seconds
        Wall time of all commands that trained for the run, save those that were killed.
    """

    versions: dict[str, str]
    backend: str
    devices: str
    system: str
    processor: str
    processors: int
    memory: float
    begun: str
    seconds: float

    @classmethod
    def read(cls, directory: RunDirectory) -> Self | None:
        """Return what is stored in a run directory, or ``None``."""
        stored = directory.read_json(directory.provenance)
        return None if stored is None else from_json(cls, stored)


def is_noted(directory: RunDirectory) -> bool:
    """Return whether a run directory has a note that can be read; a damaged one is to be written anew."""
    try:
        return Provenance.read(directory) is not None
    except ValueError:
        return False


@contextmanager
def noted(directory: RunDirectory, backend: str, devices: str) -> Iterator[None]:
    """Note where what happens inside is done, and how long it takes, in ``run.json``."""
    begun = time.monotonic()
    try:
        yield
    finally:
        now = _here(backend, devices)
        before = Provenance.read(directory) if is_noted(directory) else None
        seconds = time.monotonic() - begun + (before.seconds if before else 0.0)
        now = replace(now, seconds=seconds, begun=before.begun if before else now.begun)
        write_json(directory.provenance, as_json(now))


def _here(backend: str, devices: str) -> Provenance:
    return Provenance(
        versions=_versions(),
        backend=backend,
        devices=devices,
        system=f"{platform.system()} {platform.release()}",
        processor=_processor(),
        processors=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_memory(),
        begun=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seconds=0.0,
    )


def _versions() -> dict[str, str]:
    found = {"Python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _memory() -> float:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (AttributeError, OSError, ValueError):  # not every system says
        return float("nan")
