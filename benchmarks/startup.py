"""How long it takes until the package is imported, and until the command line answers.

Every figure is of a fresh process, and of the whole command as a shell sees it unless it says otherwise. The
commands take turns; the first turn, which reads files from the disk, is not counted.

    python benchmarks/startup.py
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from machine import spread, stated

SHRINKAGE = str(Path(sys.executable).with_name("shrinkage"))
IMPORT = "import time; t = time.perf_counter(); import shrinkage; print(time.perf_counter() - t)"
HEAVY = ("keras", "jax", "tensorflow", "torch", "numpy", "pandas", "scipy", "sklearn", "optuna", "matplotlib")
LOADED = f"import sys, shrinkage; print(*(m for m in {HEAVY} if m in sys.modules))"


@dataclass
class Command:
    """A command line, its exit code, and the most seconds that it should take."""

    what: str
    words: list[str]
    code: int = 0
    target: float | None = None
    inside: bool = False  # whether it prints the seconds that count
    seconds: list[float] = field(default_factory=list)

    def run(self) -> float:
        """Return the seconds of one fresh process; end if its exit code is another."""
        start = time.perf_counter()
        done = subprocess.run(
            self.words, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"}
        )
        seconds = time.perf_counter() - start
        if done.returncode != self.code:
            sys.exit(f"{self.what} ended with {done.returncode}, not {self.code}:\n{done.stderr}")
        return float(done.stdout) if self.inside else seconds


def commands() -> list[Command]:
    return [
        Command("python -c pass", [sys.executable, "-c", "pass"]),
        Command("import shrinkage, inside", [sys.executable, "-c", IMPORT], target=0.1, inside=True),
        Command("shrinkage --help", [SHRINKAGE, "--help"], target=0.5),
        Command("shrinkage run --help", [SHRINKAGE, "run", "--help"], target=0.5),
        Command("shrinkage rum (no such command)", [SHRINKAGE, "rum"], code=2, target=0.5),
        Command("shrinkage run (no study)", [SHRINKAGE, "run"], code=2, target=0.5),
        Command("shrinkage run absent.toml", [SHRINKAGE, "run", "absent.toml"], code=2, target=0.5),
    ]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--rounds", type=int, default=15, help="fresh processes of each (at least 10 to report)"
    )
    options = parser.parse_args(argv)
    found = commands()
    with stated():
        loaded = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True)
        print(f"import shrinkage loads, of {', '.join(HEAVY)}: {loaded.stdout.strip() or 'none'}\n")
        for turn in range(options.rounds + 1):
            for command in found:
                seconds = command.run()
                if turn:
                    command.seconds.append(seconds)
        print(f"{'command':36}{'seconds (min-max)':26}{'target':>8}")
        for command in found:
            median = statistics.median(command.seconds)
            target = "" if command.target is None else f"{command.target:8.1f}"
            over = "  over" if command.target is not None and median > command.target else ""
            print(f"{command.what:36}{spread(command.seconds):26}{target}{over}")


if __name__ == "__main__":
    main()
