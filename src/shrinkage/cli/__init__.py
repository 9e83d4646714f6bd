"""The command line: parse, call, print. Whatever is heavy is imported inside a command."""

from __future__ import annotations

import os
import sys
import warnings

import typer

from shrinkage.cli import datasets, models, runs, studies
from shrinkage.cli.ending import Ending, Stopped, fail, one_line
from shrinkage.errors import ShrinkageError

app = typer.Typer(
    help="The regularization workbench for Keras 3.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Data sets: fetch, show, list.", no_args_is_help=True)
app.add_typer(data_app, name="data")

for command in (  # in the order in which --help lists them
    studies.run,
    studies.tune,
    runs.report,
    models.check,
    models.describe,
    models.apply,
    models.compact,
    runs.explain,
    runs.export,
):
    app.command()(command)
data_app.command("list")(datasets.list_data)
data_app.command("fetch")(datasets.fetch_data)
data_app.command("show")(datasets.show_data)


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.formatwarning = one_line
    ending = Ending()
    try:
        with ending:
            try:
                app(prog_name="shrinkage", obj=ending)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # here, where a closed pipe can still be met in silence
    except ShrinkageError as error:
        fail(str(error), error.exit_code)
    except Stopped as stopped:
        ending.leave(stopped.number)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a file that may not be read
        where = "" if error.filename is None else f": {error.filename}"
        fail(f"{error.strerror or error}{where}", 1)
