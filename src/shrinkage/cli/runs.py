"""The commands that read stored runs: `report`, `explain` and `export`."""

from __future__ import annotations

import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from shrinkage.cli.ending import fail
from shrinkage.cli.options import Force, Json, keep_existing, one_of
from shrinkage.cli.steps import print_json

_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Run directories; several side by side.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file (default: RUN/report.html; needed for several runs)."),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Write what runs found as one file that opens in a browser, offline."""
    from shrinkage.report import html
    from shrinkage.study.results import Results

    if output is None and len(runs) > 1:
        fail("several runs make one file: say where, with -o FILE.html.", 2)
    if output is not None:
        keep_existing(output, force)
    written = html.write([Results.load(run) for run in runs], output or runs[0] / "report.html")
    if show:
        webbrowser.open(written.resolve().as_uri())
    if as_json:
        print_json({"output": str(written)})
    else:
        print(f"wrote {written}")


def explain(run: _Run, as_json: Json = False) -> None:
    """Explain a run in plain words: what won, whether that is real, and what was not tested."""
    from shrinkage.report import terminal
    from shrinkage.report.explain import explain as sentences
    from shrinkage.report.explain import wrapped
    from shrinkage.study.records import as_json as plain
    from shrinkage.study.results import Results

    results = Results.load(run)
    said = sentences(results.summary, results.evidence, results.refit, results.nested, results.search)
    if as_json:
        print_json(plain(said))
    else:
        print(wrapped(said, terminal.console().width))


def export(
    run: _Run,
    form: Annotated[
        str | None,
        typer.Option("--format", metavar="csv|parquet|json", help="Default: as OUT ends, else csv."),
    ] = None,
    what: Annotated[
        str, typer.Option("--what", metavar="trials|curves", help="A row a trial, or a row an epoch of each.")
    ] = "trials",
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT", help="The file to write (default: print the table)."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write what a run has measured so far as a table."""
    from shrinkage.report.export import exported

    one_of(what, ("trials", "curves"), "--what")
    form = _form(form, output, as_json)
    if output is not None:
        keep_existing(output, force)

    # Not before nothing is left to refuse, for these import pandas and Optuna.
    from shrinkage.study.files import write_bytes
    from shrinkage.study.results import stored_curves, stored_trials

    table = stored_curves(run) if what == "curves" else stored_trials(run).drop(columns="key")
    content = exported(table, form)
    if output is None:
        sys.stdout.buffer.write(content)  # in UTF-8, whatever the terminal's encoding
        return
    write_bytes(output, content)
    if as_json:
        print_json({"output": str(output), "what": what, "format": form, "rows": len(table)})
    else:
        print(f"wrote {output}")


def _form(form: str | None, output: Path | None, as_json: bool) -> str:
    """Return the format of a table: the one that is asked for, or else the one that the output implies."""
    from shrinkage.report.export import FORMATS

    if form is None:
        form = output.suffix[1:].lower() if output else "json" if as_json else "csv"
        if form not in FORMATS:
            fail(f"{str(output)!r} ends in no format; add --format csv, parquet or json.", 2)
    one_of(form, FORMATS, "--format")
    if output is not None:
        return form
    if form == "parquet":
        fail("parquet is not printed; give it a file, as in -o OUT.parquet.", 2)
    if as_json and form != "json":
        fail(f"--json prints JSON, not {form}; leave one of them out, or give a file with -o OUT.", 2)
    return form
