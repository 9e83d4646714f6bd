"""The commands on data sets: `data list`, `data fetch` and `data show`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shrinkage.cli.options import AllowCode, DataDir, Json, Label
from shrinkage.cli.steps import file_name, print_json


def list_data(as_json: Json = False) -> None:
    """List the data sets that have a name."""
    from shrinkage.data import available

    if as_json:
        print_json(list(available()))
    else:
        print("\n".join(available()))


def fetch_data(
    name: Annotated[str, typer.Argument(help="A data set, as listed by shrinkage data list.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Download a data set from where it is published."""
    from shrinkage.data import fetch

    paths = [str(path) for path in fetch(name, data_dir=data_dir)]
    if as_json:
        print_json(paths)
    else:
        print("\n".join(f"have {path}" for path in paths) or f"{name} needs no download.")


def show_data(
    name: Annotated[
        str, typer.Argument(help="A name, an .npz or .csv file, a folder of images, or module:function.")
    ],
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples", metavar="OUT.png", help="Where to draw a grid of samples (default: a new file here)."
        ),
    ] = None,
    label: Label = None,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Show a data set: shapes, classes and counts, and a picture of samples where it holds images."""
    from shrinkage.data import describe_data, draw_samples, load_data

    data = load_data(name, data_dir=data_dir, label=label, allow_code=allow_code)
    summary = describe_data(data)
    wanted = samples is not None or data.is_image
    drawn = (
        draw_samples(data, samples or _new_file(f"{file_name(data.name)}-samples", ".png"))
        if wanted
        else None
    )
    if as_json:
        print_json({**summary.to_json(), "samples": None if drawn is None else str(drawn)})
        return
    print(summary)
    if drawn:
        print(f"wrote {drawn}")


def _new_file(stem: str, suffix: str) -> Path:
    """Return a path here that does not exist yet."""
    names = (f"{stem}{suffix}", *(f"{stem}-{i}{suffix}" for i in range(2, 10_000)))
    return next(path for path in map(Path, names) if not path.exists())
