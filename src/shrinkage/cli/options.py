"""What several commands take: their options and arguments, and the refusal of values that will not do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shrinkage.cli.ending import fail
from shrinkage.errors import ModelError, did_you_mean

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where named data sets lie (default: $SHRINKAGE_DATA, then a cache)."),
]
AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Allow module:function references to import your code.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL.keras", help="A saved Keras model.")]
Label = Annotated[str | None, typer.Option("--label", help="Label column of a CSV file.")]


def require_model(model: Path) -> None:
    """Refuse a path that holds no file, before Keras is loaded, which takes seconds."""
    if not model.is_file():
        raise ModelError(f"There is no saved model {str(model)!r}.")


def one_of(given: str, choices: tuple[str, ...], option: str) -> None:
    """Refuse a value of an option that is none of its choices."""
    if given not in choices:
        allowed = f"{', '.join(choices[:-1])} or {choices[-1]}"
        fail(f"{option} must be {allowed}; got {given!r:.80}.{did_you_mean(given, choices)}", 2)


def keep_existing(output: Path, force: bool) -> None:
    """Refuse to replace a file, unless that is asked for."""
    if output.exists() and not force:
        fail(f"{str(output)!r} exists; add --force to replace it.", 2)
