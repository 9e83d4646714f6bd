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
import webbrowser
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from shrinkage.errors import ModelError, ShrinkageError, ShrinkageWarning, did_you_mean

if TYPE_CHECKING:
    from shrinkage.study.study import Study

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
_Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT.keras", help="The file to write.")]
_Force = Annotated[bool, typer.Option("--force", help="Replace the output if it exists.")]
_Model = Annotated[Path, typer.Argument(metavar="MODEL.keras", help="A saved Keras model.")]
_Label = Annotated[str | None, typer.Option("--label", help="Label column of a CSV file.")]


def main() -> None:
    """Run the command line, and end the process with its exit code."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.formatwarning = _one_line
    ending = _Ending()
    try:
        with ending:
            try:
                app(prog_name="shrinkage", obj=ending)
            finally:
                if sys.stdout is not None:
                    sys.stdout.flush()  # here, where a closed pipe can still be met in silence
    except ShrinkageError as error:
        _fail(str(error), error.exit_code)
    except _Stopped as stopped:
        ending.leave(stopped.number)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:  # a full disk, a file that may not be read
        where = "" if error.filename is None else f": {error.filename}"
        _fail(f"{error.strerror or error}{where}", 1)


def _fail(message: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError):
        print(f"shrinkage: {message}", file=sys.stderr)
    sys.exit(code)


def _one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    name = "" if issubclass(category, ShrinkageWarning) else f"{category.__name__}: "
    return f"shrinkage: {name}{message}\n"


class _Stopped(BaseException):
    """A signal asks the process to end."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class _Ending:
    """Ends on SIGINT and SIGTERM: at the next Python instruction, or after a few seconds in any case.

    Python runs signal handlers between instructions, and one instruction can be a minute of XLA
    compilation. Everything on disk survives a kill at any moment, so a thread that is woken by the
    signal itself ends the process if the handler has not. ``words`` are said at the end.
    """

    def __init__(self) -> None:
        self.words = "stopped."
        self._over = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)

    def __enter__(self) -> _Ending:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        sys.unraisablehook = self._unraisable
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not _Stopped:  # else the watch goes on, for what comes after may hang too
            self._over.set()

    def _stop(self, number: int, frame: object) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)  # once is enough; a second one would disturb the cleaning up
        raise _Stopped(number)

    def _unraisable(self, lost: sys.UnraisableHookArgs) -> None:
        if isinstance(
            lost.exc_value, _Stopped
        ):  # the signal came in a destructor, or while garbage was collected
            self.leave(lost.exc_value.number)
        sys.__unraisablehook__(lost)

    def _watch(self) -> None:
        number = self._reader.recv(1)
        if number and not self._over.wait(_GRACE):
            self.leave(number[0])

    def leave(self, number: int) -> NoReturn:
        """End the process, with the exit code of a signal."""
        cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # the progress display hides it
        with contextlib.suppress(OSError):
            print(f"{cursor}shrinkage: {self.words}", file=sys.stderr, flush=True)
        os._exit(128 + number)


def _load_keras() -> None:
    """Import Keras, and keep it from importing TensorFlow on another backend (seconds, and log lines).

    Where TensorFlow is installed, Keras imports it to ask whether an object is one of TensorFlow's; no
    object of these commands is.
    """
    try:
        import keras
        from keras.src.utils import module_utils
    except (ImportError, ValueError) as error:
        chosen = os.environ["KERAS_BACKEND"]
        raise ShrinkageError(f"Keras can't be loaded with KERAS_BACKEND={chosen}: {error}") from error

    if keras.backend.backend() != "tensorflow":
        module_utils.tensorflow._available = False


def _require(model: Path) -> None:
    if not model.is_file():  # said before Keras is loaded, which takes seconds
        raise ModelError(f"There is no saved model {str(model)!r}.")


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False))


_Restart = Annotated[bool, typer.Option("--restart", help="Begin anew: removes the results that are there.")]
_Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before removing.")]
_Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress, only the answer.")]
_JsonLines = Annotated[
    bool, typer.Option("--json-lines", help="Print what happens as one JSON object a line.")
]
_TensorBoard = Annotated[
    Path | None,
    typer.Option("--tensorboard", metavar="DIR", help="Write each trial's epochs for TensorBoard."),
]


@dataclass(frozen=True)
class _Shown:
    """How a command that trains shows what happens, and what it found."""

    quiet: bool
    json_lines: bool
    tensorboard: Path | None
    as_json: bool

    def __post_init__(self) -> None:
        _exclude({"--quiet": self.quiet, "--json-lines": self.json_lines, "--json": self.as_json})


@app.command()
def run(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run directory (default: runs/NAME).")
    ] = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    restart: _Restart = False,
    yes: _Yes = False,
    quiet: _Quiet = False,
    json_lines: _JsonLines = False,
    tensorboard: _TensorBoard = None,
    as_json: _Json = False,
) -> None:
    """Run a study, or go on with it: the same command resumes where it was stopped."""
    from shrinkage.study.spec import StudySpec

    shown = _Shown(quiet, json_lines, tensorboard, as_json)
    spec = StudySpec.read(study)
    directory = output or Path("runs") / _file_name(spec.name)
    if restart and not yes:
        _confirm(directory)
    _load_keras()
    from shrinkage.study.study import Study

    job = Study.from_spec(spec, data_dir=None if data_dir is None else str(data_dir))
    _train(context, job, directory, restart, allow_code, shown)


@app.command()
def tune(
    context: typer.Context,
    model: _Model,
    data: Annotated[
        str,
        typer.Option("--data", help="A name, an .npz or .csv file, a folder of images, or module:function."),
    ],
    target: Annotated[
        str, typer.Option("--target", help="What is charged: kernel, bias, activity, unit, or several.")
    ] = "kernel",
    penalty: Annotated[
        list[str] | None,
        typer.Option(
            "--penalty", help="l2 (default), l1, l1_l2, group_lasso; given twice, the better is chosen."
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run directory (default: runs/tune-MODEL).")
    ] = None,
    initial: Annotated[
        str,
        typer.Option("--initial", help="fresh: weights are drawn anew; saved: fine-tune those of the file."),
    ] = "fresh",
    epochs: Annotated[int, typer.Option("--epochs", help="How long each trial is trained.")] = 30,
    batch_size: Annotated[int, typer.Option("--batch-size")] = 32,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", help="Stop when others could win less than so many standard errors."),
    ] = 1.0,
    budget: Annotated[
        str | None, typer.Option("--budget", help='A time, as in "10 min", or a number of trials.')
    ] = None,
    label: _Label = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    restart: _Restart = False,
    yes: _Yes = False,
    quiet: _Quiet = False,
    json_lines: _JsonLines = False,
    tensorboard: _TensorBoard = None,
    as_json: _Json = False,
) -> None:
    """Find the right strength of a penalty for a saved model, and train the model with it."""
    shown = _Shown(quiet, json_lines, tensorboard, as_json)
    _require(model)
    _one_of(initial, ("fresh", "saved"), "--initial")
    directory = output or Path("runs") / _file_name(f"tune-{model.stem}")
    if restart and not yes:
        _confirm(directory)
    _load_keras()
    from shrinkage.study.tune import study

    job = study(
        model, data, target=target, penalty=penalty or "l2", initial=initial, name=f"tune {model.stem}",
        training={"epochs": epochs, "batch_size": batch_size}, tolerance=tolerance, label=label,
        budget=int(budget) if budget is not None and budget.strip().isdigit() else budget,
        data_dir=data_dir,
    )  # fmt: skip
    _train(context, job, directory, restart, allow_code, shown)


def _train(
    context: typer.Context, job: Study, directory: Path, restart: bool, allow_code: bool, shown: _Shown
) -> None:
    """Run a study, show what happens, and print what it found."""
    from shrinkage.report import figures, terminal
    from shrinkage.report.json_lines import JsonLines
    from shrinkage.report.live import Live
    from shrinkage.report.tensorboard import TensorBoard
    from shrinkage.study.final import Nested, Refit
    from shrinkage.study.runner import Observers

    if isinstance(context.obj, _Ending):
        context.obj.words = "stopped. Finished trials are kept; run the same command again to go on."
    lines = JsonLines(sys.stdout)
    with contextlib.ExitStack() as stack:
        live = [lines] if shown.json_lines else [] if shown.quiet else [stack.enter_context(Live())]
        written = [] if shown.tensorboard is None else [TensorBoard(shown.tensorboard)]
        summary = job.run(
            directory, restart=restart, allow_code=allow_code, observer=Observers(*live, *written)
        )
    drawn = [
        directory / "report.html",
        figures.validation_curve(summary, job.frame(), directory / "validation_curve.png"),
        figures.learning_curves(summary, job.curves(), directory / "learning_curves.png"),
    ]
    if shown.json_lines:
        lines.end(directory)
        return
    if shown.as_json:
        _print_json({"directory": str(directory), **json.loads((directory / "summary.json").read_text())})
        return
    console = terminal.console()
    stored = json.loads((directory / "summary.json").read_text())
    after = Refit.of(stored), Nested.of(stored)
    console.print(terminal.answer(summary, console.width, *after))
    best = directory / "models" / "best.keras"
    for path in (*drawn, *([best] if best.exists() else []), directory / "summary.json"):
        console.print(f"wrote {path}")


def _exclude(options: dict[str, bool]) -> None:
    given = [name for name, on in options.items() if on]
    if len(given) > 1:
        _fail(f"{' and '.join(given)} exclude each other; give one of them.", 2)


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
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Run directories; several side by side.")
    ],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="The file (default: RUN/report.html; needed for several runs)."),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in a browser.")] = False,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Write what runs found as one file that opens in a browser, offline."""
    from shrinkage.report import html
    from shrinkage.study.results import Results

    if output is None and len(runs) > 1:
        _fail("several runs make one file: say where, with -o FILE.html.", 2)
    if output is not None and output.exists() and not force:
        _fail(f"{str(output)!r} exists; add --force to replace it.", 2)
    written = html.write([Results.load(run) for run in runs], output or runs[0] / "report.html")
    if show:
        webbrowser.open(written.resolve().as_uri())
    if as_json:
        _print_json({"output": str(written)})
    else:
        print(f"wrote {written}")


@app.command()
def check(
    model: _Model,
    data: Annotated[
        str | None, typer.Option("--data", help="A data set, for the checks that need one.")
    ] = None,
    label: _Label = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    as_json: _Json = False,
) -> None:
    """Lint the regularization of a saved model."""
    _require(model)
    _load_keras()
    from shrinkage.recipe.check import check as lint

    loaded, samples = _model_and_data(model, data, label, data_dir, allow_code)
    with _together(model, data):
        findings = lint(loaded, _compiled(samples, loaded))
    if as_json:
        _print_json(findings.to_json())
    else:
        print(findings)


@app.command()
def describe(
    model: _Model,
    data: Annotated[str | None, typer.Option("--data", help="A data set, for outputs and shares.")] = None,
    label: _Label = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    as_json: _Json = False,
) -> None:
    """Show what is charged where on a saved model."""
    _require(model)
    _load_keras()
    from shrinkage.recipe import describe as tell

    loaded, samples = _model_and_data(model, data, label, data_dir, allow_code)
    with _together(model, data):
        description = tell(loaded, _compiled(samples, loaded))
    if as_json:
        _print_json(description.to_json())
    else:
        print(description)


@contextlib.contextmanager
def _together(model: Path, data: str | None) -> Iterator[None]:
    """Say in one sentence that a model does not go with the data."""
    try:
        yield
    except ShrinkageError:
        raise
    except Exception as error:  # whatever Keras or its backend raises
        if data is None:
            raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(f"{model} can't be evaluated on {data}: {reason:.300}") from error


def _model_and_data(
    model: Path, data: str | None, label: str | None, data_dir: Path | None, allow_code: bool
) -> tuple[Any, Any]:
    from shrinkage.training.saved import load_model

    loaded = load_model(model)
    if data is None:
        return loaded, None
    from shrinkage.data import load_data
    from shrinkage.study.references import check_fit

    found = load_data(data, data_dir=data_dir, label=label, allow_code=allow_code)
    check_fit(str(model), loaded, found)
    return loaded, (found.scaled(found.x_train[:1000]), found.y_train[:1000])


def _compiled(samples: Any, loaded: Any) -> Any:
    """Return the samples, once the model has a loss to take of them."""
    from shrinkage.training.objective import ensure_compiled

    if samples is not None:
        ensure_compiled(loaded, samples[1])
    return samples


@app.command()
def apply(
    model: _Model,
    recipe: Annotated[
        list[str], typer.Option("--recipe", "-r", help='A rule, as in "Dense: kernel = l2(1e-4)".')
    ],
    output: _Output,
    strength: Annotated[
        float | None, typer.Option("--strength", help="The value of strength in the rules.")
    ] = None,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Put a recipe of penalties on a saved model, and save the result."""
    _require(model)
    _check_output(output, force)
    _load_keras()
    from shrinkage.recipe import Recipe
    from shrinkage.recipe import apply as put
    from shrinkage.recipe import describe as tell
    from shrinkage.study.storage import save_model
    from shrinkage.training.saved import load_model

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


def _check_output(output: Path, force: bool) -> None:
    if output.suffix != ".keras":
        _fail(f"the output must end in .keras; got {str(output)!r}.", 2)
    _keep_existing(output, force)


def _keep_existing(output: Path, force: bool) -> None:
    if output.exists() and not force:
        _fail(f"{str(output)!r} exists; add --force to replace it.", 2)


@app.command()
def compact(
    model: _Model,
    output: _Output,
    data: Annotated[
        str | None, typer.Option("--data", help="A data set, to compare outputs on (default: random inputs).")
    ] = None,
    label: _Label = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    force: _Force = False,
    as_json: _Json = False,
) -> None:
    """Remove the units of a saved model that do nothing, and save the smaller model."""
    _require(model)
    _check_output(output, force)
    _load_keras()
    from shrinkage.compact import compact as make_compact
    from shrinkage.study.storage import save_model

    loaded, samples = _model_and_data(model, data, label, data_dir, allow_code)
    with _together(model, data):
        smaller, receipt = make_compact(loaded, None if samples is None else samples[0])
    save_model(smaller, output)
    if as_json:
        _print_json({"output": str(output), **receipt.as_dict()})
    else:
        print(receipt)
        print(f"wrote {output}")


_Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")]


@app.command()
def explain(run: _Run, as_json: _Json = False) -> None:
    """Explain a run in plain words: what won, whether that is real, and what was not tested."""
    from shrinkage.report import terminal
    from shrinkage.report.explain import explain as sentences
    from shrinkage.report.explain import wrapped
    from shrinkage.study.results import Results
    from shrinkage.study.summary import as_json as plain

    results = Results.load(run)
    said = sentences(results.summary, results.evidence, results.refit, results.nested, results.search)
    if as_json:
        _print_json(plain(said))
    else:
        print(wrapped(said, terminal.console().width))


@app.command()
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
    as_json: _Json = False,
) -> None:
    """Write what a run has measured so far as a table."""
    from shrinkage.report.export import FORMATS, exported

    _one_of(what, ("trials", "curves"), "--what")
    if form is None:
        form = output.suffix[1:].lower() if output else "json" if as_json else "csv"
        if form not in FORMATS:
            _fail(f"{str(output)!r} ends in no format; add --format csv, parquet or json.", 2)
    _one_of(form, FORMATS, "--format")
    if output is not None:
        _keep_existing(output, force)
    elif form == "parquet":
        _fail("parquet is not printed; give it a file, as in -o OUT.parquet.", 2)
    elif as_json and form != "json":
        _fail(f"--json prints JSON, not {form}; leave one of them out, or give a file with -o OUT.", 2)

    from shrinkage.study.results import stored_curves, stored_trials
    from shrinkage.study.storage import write_bytes

    table = stored_curves(run) if what == "curves" else stored_trials(run).drop(columns="key")
    content = exported(table, form)
    if output is None:
        sys.stdout.buffer.write(content)  # in UTF-8, whatever the terminal's encoding
        return
    write_bytes(output, content)
    if as_json:
        _print_json({"output": str(output), "what": what, "format": form, "rows": len(table)})
    else:
        print(f"wrote {output}")


def _one_of(given: str, choices: tuple[str, ...], option: str) -> None:
    if given not in choices:
        allowed = f"{', '.join(choices[:-1])} or {choices[-1]}"
        _fail(f"{option} must be {allowed}; got {given!r:.80}.{did_you_mean(given, choices)}", 2)


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
    name: Annotated[
        str, typer.Argument(help="A name, an .npz or .csv file, a folder of images, or module:function.")
    ],
    samples: Annotated[
        Path | None,
        typer.Option(
            "--samples", metavar="OUT.png", help="Where to draw a grid of samples (default: a new file here)."
        ),
    ] = None,
    label: _Label = None,
    data_dir: _DataDir = None,
    allow_code: _AllowCode = False,
    as_json: _Json = False,
) -> None:
    """Show a data set: shapes, classes and counts, and a picture of samples where it holds images."""
    from shrinkage.data import describe_data, draw_samples, load_data

    data = load_data(name, data_dir=data_dir, label=label, allow_code=allow_code)
    summary = describe_data(data)
    wanted = samples is not None or data.is_image
    drawn = (
        draw_samples(data, samples or _new_file(f"{_file_name(data.name)}-samples", ".png"))
        if wanted
        else None
    )
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
