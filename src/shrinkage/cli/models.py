"""The commands on a saved model: `check`, `describe`, `apply` and `compact`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from shrinkage.cli.ending import fail
from shrinkage.cli.options import AllowCode, DataDir, Force, Json, Label, Model, keep_existing, require_model
from shrinkage.cli.steps import load_keras, print_json
from shrinkage.errors import ModelError, ShrinkageError

_Output = Annotated[Path, typer.Option("-o", "--output", metavar="OUT.keras", help="The file to write.")]


def check(
    model: Model,
    data: Annotated[
        str | None, typer.Option("--data", help="A data set, for the checks that need one.")
    ] = None,
    label: Label = None,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Lint the regularization of a saved model."""
    require_model(model)
    load_keras()
    from shrinkage.recipe.check import check as lint

    loaded, samples = _model_and_data(model, data, label, data_dir, allow_code)
    with _together(model, data):
        findings = lint(loaded, _compiled(samples, loaded))
    if as_json:
        print_json(findings.to_json())
    else:
        print(findings)


def describe(
    model: Model,
    data: Annotated[str | None, typer.Option("--data", help="A data set, for outputs and shares.")] = None,
    label: Label = None,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
) -> None:
    """Show what is charged where on a saved model."""
    require_model(model)
    load_keras()
    from shrinkage.recipe import describe as tell

    loaded, samples = _model_and_data(model, data, label, data_dir, allow_code)
    with _together(model, data):
        description = tell(loaded, _compiled(samples, loaded))
    if as_json:
        print_json(description.to_json())
    else:
        print(description)


def apply(
    model: Model,
    recipe: Annotated[
        list[str], typer.Option("--recipe", "-r", help='A rule, as in "Dense: kernel = l2(1e-4)".')
    ],
    output: _Output,
    strength: Annotated[
        float | None, typer.Option("--strength", help="The value of strength in the rules.")
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Put a recipe of penalties on a saved model, and save the result."""
    require_model(model)
    _check_output(output, force)
    load_keras()
    from shrinkage.recipe import Recipe
    from shrinkage.recipe import apply as put
    from shrinkage.recipe import describe as tell
    from shrinkage.study.files import save_model
    from shrinkage.training.saved import load_model

    rules = Recipe(recipe)
    loaded = load_model(model)
    put(loaded, rules, strength=strength)
    save_model(loaded, output)
    description = tell(loaded)
    if as_json:
        print_json({"output": str(output), **description.to_json()})
    else:
        print(description)
        print(f"wrote {output}")


def compact(
    model: Model,
    output: _Output,
    data: Annotated[
        str | None, typer.Option("--data", help="A data set, to compare outputs on (default: random inputs).")
    ] = None,
    label: Label = None,
    data_dir: DataDir = None,
    allow_code: AllowCode = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Remove the units of a saved model that do nothing, and save the smaller model."""
    require_model(model)
    _check_output(output, force)
    load_keras()
    from shrinkage.compact import compact as make_compact
    from shrinkage.study.files import save_model

    loaded, samples = _model_and_data(model, data, label, data_dir, allow_code)
    with _together(model, data):
        smaller, receipt = make_compact(loaded, None if samples is None else samples[0])
    save_model(smaller, output)
    if as_json:
        print_json({"output": str(output), **receipt.as_dict()})
    else:
        print(receipt)
        print(f"wrote {output}")


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
    from shrinkage.study.references import as_taken, check_fit

    found = as_taken(load_data(data, data_dir=data_dir, label=label, allow_code=allow_code), loaded)
    check_fit(str(model), loaded, found)
    return loaded, (found.scaled(found.x_train[:1000]), found.y_train[:1000])


def _compiled(samples: Any, loaded: Any) -> Any:
    """Return the samples, once the model has a loss to take of them."""
    from shrinkage.training.objective import ensure_compiled

    if samples is not None:
        ensure_compiled(loaded, samples[1])
    return samples


def _check_output(output: Path, force: bool) -> None:
    if output.suffix != ".keras":
        fail(f"the output must end in .keras; got {str(output)!r}.", 2)
    keep_existing(output, force)
