"""The command line: parse, call, print. Whatever is heavy is imported inside a command."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from shrinkage.errors import ShrinkageError, ShrinkageWarning

app = typer.Typer(
    help="The regularization workbench for Keras 3.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Data sets: fetch, show, list.", no_args_is_help=True)
app.add_typer(data_app, name="data")

_GRACE = 4.0  # seconds between a signal and the end, even if the program is inside a long compilation

_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
_DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where named data sets lie (default: $SHRINKAGE_DATA, then a cache)."),
]
_AllowCode = Annotated[
    bool, typer.Option("--allow-code", help="Allow module:function references to import your code.")
]
_Model = Annotated[Path, typer.Argument(metavar="MODEL.keras", help="A saved Keras model.")]


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.formatwarning = _one_line
    try:
        with _ending_on_signals():
            app(prog_name="shrinkage")
    except ShrinkageError as error:
        _fail(str(error), error.exit_code)
    except _Stopped as stopped:
        _fail(stopped.words, 128 + stopped.number)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(message: str, code: int) -> NoReturn:
    print(f"shrinkage: {message}", file=sys.stderr)
    sys.exit(code)


def _one_line(message: Warning | str, category: type[Warning], *_: Any) -> str:
    name = "" if issubclass(category, ShrinkageWarning) else f"{category.__name__}: "
    return f"shrinkage: {name}{message}\n"


class _Stopped(BaseException):
    """A signal asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.words = "stopped."


@contextlib.contextmanager
def _ending_on_signals() -> Iterator[None]:
    """End on SIGINT and SIGTERM: at the next Python instruction, or after a few seconds in any case.

    Python runs signal handlers between instructions, and one instruction can be a minute of XLA
    compilation. Everything on disk survives a kill at any moment, so a thread that is woken by the
    signal itself ends the process if the handler has not.
    """

    def stop(number: int, frame: Any) -> None:
        raise _Stopped(number)

    def watch() -> None:
        number = reader.recv(1)
        if number and not over.wait(_GRACE):
            print("shrinkage: stopped.", file=sys.stderr, flush=True)
            os._exit(128 + number[0])

    over = threading.Event()
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _load_keras() -> None:
    """Import Keras, and keep it from importing TensorFlow on another backend (seconds, and log lines).

    Where TensorFlow is installed, Keras imports it to ask whether an object is one of TensorFlow's; no
    object of these commands is.
    """
    import keras
    from keras.src.utils import module_utils

    if keras.backend.backend() != "tensorflow":
        module_utils.tensorflow._available = False


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


@app.command()
def run(
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run directory (default: runs/NAME).")
    ] = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Begin anew: removes the results that are there.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before removing.")] = False,
    as_json: _Json = False,
) -> None:
    """Run a study, or go on with it: the same command resumes where it was stopped."""
    from shrinkage.study.spec import StudySpec

    spec = StudySpec.read(study)
    directory = output or Path("runs") / _file_name(spec.name)
    if restart and not yes:
        _confirm(directory)
    _load_keras()
    from shrinkage.report import figures, terminal
    from shrinkage.report.live import Live
    from shrinkage.study.study import Study

    job = Study.from_spec(spec, data_dir=None if data_dir is None else str(data_dir))
    try:
        with Live(terminal.console(stderr=True)) as live:
            summary = job.run(directory, restart=restart, allow_code=allow_code, observer=live)
    except _Stopped as stopped:
        stopped.words = "stopped. Finished trials are kept; run the same command again to go on."
        raise
    drawn = [
        figures.validation_curve(summary, job.frame(), directory / "validation_curve.png"),
        figures.learning_curves(summary, job.curves(), directory / "learning_curves.png"),
    ]
    if as_json:
        _print_json({"directory": str(directory), **summary.to_json()})
        return
    console = terminal.console()
    console.print(terminal.answer(summary))
    best = directory / "models" / "best.keras"
    for path in (*drawn, *([best] if best.exists() else []), directory / "summary.json"):
        console.print(f"wrote {path}")


def _file_name(name: str) -> str:
    kept = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.")
    return kept or "study"


def _confirm(directory: Path) -> None:
    if not (directory / "study.toml").exists():
        return
    if not sys.stdin.isatty():
        _fail(f"--restart removes the results in {directory}: add --yes to confirm.", 2)
    if not typer.confirm(f"Remove the results in {directory}?"):
        _fail("nothing was removed.", 1)


@app.command()
def check(
    model: _Model,
    data: Annotated[
        str | None, typer.Option("--data", help="A data set, for the checks that need one.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Label column of a CSV file.")] = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    as_json: _Json = False,
) -> None:
    """Lint the regularization of a saved model."""
    _load_keras()
    from shrinkage.recipe import check as lint

    loaded, samples = _model_and_data(model, data, label, data_dir, allow_code)
    findings = lint(loaded, samples)
    if as_json:
        _print_json(findings.to_json())
    else:
        print(findings)


@app.command()
def describe(
    model: _Model,
    data: Annotated[str | None, typer.Option("--data", help="A data set, for outputs and shares.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="Label column of a CSV file.")] = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    as_json: _Json = False,
) -> None:
    """Show what is charged where on a saved model."""
    _load_keras()
    from shrinkage.recipe import describe as tell

    loaded, samples = _model_and_data(model, data, label, data_dir, allow_code)
    description = tell(loaded, samples)
    if as_json:
        _print_json(description.to_json())
    else:
        print(description)


def _model_and_data(
    model: Path, data: str | None, label: str | None, data_dir: Path | None, allow_code: bool
) -> tuple[Any, Any]:
    from shrinkage.recipe.saved import load_model
    from shrinkage.training.objective import ensure_compiled

    loaded = load_model(model)
    if data is None:
        return loaded, None
    from shrinkage.data import load_data

    found = load_data(data, data_dir=data_dir, label=label, allow_code=allow_code)
    x, y = found.scaled(found.x_train[:1000]), found.y_train[:1000]
    ensure_compiled(loaded, y)
    return loaded, (x, y)


@app.command()
def apply(
    model: _Model,
    recipe: Annotated[
        list[str], typer.Option("--recipe", "-r", help='A rule, as in "Dense: kernel = l2(1e-4)".')
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="OUT.keras", help="The file to write.")],
    strength: Annotated[
        float | None, typer.Option("--strength", help="The value of strength in the rules.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.keras if it exists.")] = False,
    as_json: _Json = False,
) -> None:
    """Put a recipe of penalties on a saved model, and save the result."""
    if output.suffix != ".keras":
        _fail(f"the output must end in .keras; got {str(output)!r}.", 2)
    if output.exists() and not force:
        _fail(f"{str(output)!r} exists; add --force to replace it.", 2)
    _load_keras()
    from shrinkage.recipe import Recipe
    from shrinkage.recipe import apply as put
    from shrinkage.recipe import describe as tell
    from shrinkage.recipe.saved import load_model
    from shrinkage.study.storage import save_model

    rules = Recipe(recipe)
    loaded = load_model(model)
    put(loaded, rules, strength=strength)
    save_model(loaded, output)
    description = tell(loaded)
    if as_json:
        _print_json({"output": str(output), **description.to_json()})
    else:
        print(description)
        print(f"wrote {output}")


@data_app.command("list")
def list_data(as_json: _Json = False) -> None:
    """List the data sets that have a name."""
    from shrinkage.data import available

    if as_json:
        _print_json(list(available()))
    else:
        print("\n".join(available()))


@data_app.command("fetch")
def fetch_data(
    name: Annotated[str, typer.Argument(help="A data set, as listed by shrinkage data list.")],
    data_dir: _DataDir = None,
    as_json: _Json = False,
) -> None:
    """Download a data set from where it is published."""
    from shrinkage.data import fetch

    paths = [str(path) for path in fetch(name, data_dir=data_dir)]
    if as_json:
        _print_json(paths)
    else:
        print("\n".join(f"have {path}" for path in paths) or f"{name} needs no download.")


@data_app.command("show")
def show_data(
    name: Annotated[str, typer.Argument(help="A name, an .npz or .csv file, a folder of images, or module:function.")],
    samples: Annotated[
        Path | None,
        typer.Option("--samples", metavar="OUT.png", help="Where to draw a grid of samples (default: a new file here)."),
    ] = None,
    label: Annotated[str | None, typer.Option("--label", help="Label column of a CSV file.")] = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    as_json: _Json = False,
) -> None:
    """Show a data set: shapes, classes and counts, and a picture of samples where it holds images."""
    from shrinkage.data import describe_data, draw_samples, load_data

    data = load_data(name, data_dir=data_dir, label=label, allow_code=allow_code)
    summary = describe_data(data)
    wanted = samples is not None or data.is_image
    drawn = draw_samples(data, samples or _new_file(f"{_file_name(data.name)}-samples", ".png")) if wanted else None
    if as_json:
        _print_json({**summary.to_json(), "samples": None if drawn is None else str(drawn)})
        return
    print(summary)
    if drawn:
        print(f"wrote {drawn}")


def _new_file(stem: str, suffix: str) -> Path:
    """Return a path here that does not exist yet."""
    names = (f"{stem}{suffix}", *(f"{stem}-{i}{suffix}" for i in range(2, 10_000)))
    return next(path for path in map(Path, names) if not path.exists())


if __name__ == "__main__":
    main()
