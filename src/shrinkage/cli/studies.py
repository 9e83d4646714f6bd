"""The commands that train: `run` and `tune`."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shrinkage.cli.ending import Ending, fail
from shrinkage.cli.options import AllowCode, DataDir, Json, Label, Model, one_of, require_model
from shrinkage.cli.steps import file_name, load_keras, print_json

if TYPE_CHECKING:
    from shrinkage.study.study import Study
    from shrinkage.study.summary import Summary

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


def run(
    context: typer.Context,
    study: Annotated[Path, typer.Argument(metavar="STUDY.toml", help="The study file.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Run directory (default: runs/NAME).")
    ] = None,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    restart: _Restart = False,
    yes: _Yes = False,
    quiet: _Quiet = False,
    json_lines: _JsonLines = False,
    tensorboard: _TensorBoard = None,
    as_json: Json = False,
) -> None:
    """Run a study, or go on with it: the same command resumes where it was stopped."""
    from shrinkage.study.spec import StudySpec

    shown = _Shown(quiet, json_lines, tensorboard, as_json)
    spec = StudySpec.read(study)
    directory = output or Path("runs") / file_name(spec.name)
    if restart and not yes:
        _confirm(directory)
    load_keras()
    from shrinkage.study.study import Study

    job = Study.from_spec(spec, data_dir=None if data_dir is None else str(data_dir))
    _train(context, job, directory, restart, allow_code, shown)


def tune(
    context: typer.Context,
    model: Model,
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
    seeds: Annotated[int, typer.Option("--seeds", help="Trainings of each strength, a seed each.")] = 1,
    folds: Annotated[
        int | None,
        typer.Option("--folds", help="Choose over so many folds; by default on one split of the rows."),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option("--tolerance", help="Stop when others could win less than so many standard errors."),
    ] = 1.0,
    budget: Annotated[
        str | None, typer.Option("--budget", help='A time, as in "10 min", or a number of trials.')
    ] = None,
    label: Label = None,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    restart: _Restart = False,
    yes: _Yes = False,
    quiet: _Quiet = False,
    json_lines: _JsonLines = False,
    tensorboard: _TensorBoard = None,
    as_json: Json = False,
) -> None:
    """Find the right strength of a penalty for a saved model, and train the model with it."""
    shown = _Shown(quiet, json_lines, tensorboard, as_json)
    require_model(model)
    one_of(initial, ("fresh", "saved"), "--initial")
    directory = output or Path("runs") / file_name(f"tune-{model.stem}")
    if restart and not yes:
        _confirm(directory)
    load_keras()
    from shrinkage.study.tune import study

    job = study(
        model, data, target=target, penalty=penalty or "l2", initial=initial, name=f"tune {model.stem}",
        training={"epochs": epochs, "batch_size": batch_size}, tolerance=tolerance, label=label, seeds=seeds,
        budget=int(budget) if budget is not None and budget.strip().isdecimal() else budget,
        data_dir=data_dir, **({} if folds is None else {"folds": folds}),
    )  # fmt: skip
    _train(context, job, directory, restart, allow_code, shown)


def _train(
    context: typer.Context, job: Study, directory: Path, restart: bool, allow_code: bool, shown: _Shown
) -> None:
    """Run a study, show what happens, and print what it found."""
    from shrinkage.report import figures
    from shrinkage.report.json_lines import JsonLines
    from shrinkage.report.live import Live
    from shrinkage.report.tensorboard import TensorBoard
    from shrinkage.study.observers import Observers

    if isinstance(context.obj, Ending):
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
    stored = json.loads((directory / "summary.json").read_text())
    if shown.as_json:
        print_json({"directory": str(directory), **stored})
    else:
        _print_answer(summary, stored, directory, drawn)


def _print_answer(summary: Summary, stored: dict[str, Any], directory: Path, drawn: list[Path]) -> None:
    """Print the table and its sentences, and what was written."""
    from shrinkage.report import terminal
    from shrinkage.study.final import Nested, Refit

    console = terminal.console()
    console.print(terminal.answer(summary, console.width, Refit.of(stored), Nested.of(stored)))
    best = directory / "models" / "best.keras"
    for path in (*drawn, *([best] if best.exists() else []), directory / "summary.json"):
        console.print(f"wrote {path}")


def _exclude(options: dict[str, bool]) -> None:
    given = [name for name, on in options.items() if on]
    if len(given) > 1:
        fail(f"{' and '.join(given)} exclude each other; give one of them.", 2)


def _confirm(directory: Path) -> None:
    if not (directory / "study.toml").exists():
        return
    if not sys.stdin.isatty():
        fail(f"--restart removes the results in {directory}: add --yes to confirm.", 2)
    if not typer.confirm(f"Remove the results in {directory}?"):
        fail("nothing was removed.", 1)
