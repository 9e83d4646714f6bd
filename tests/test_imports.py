"""The layer order of the rooms, what each may import, and what the package exports."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import shrinkage
from shrinkage import errors

ROOT = Path(shrinkage.__file__).parent

#: A room may import from the rooms of the rows above its own, and from itself.
ORDER = [
    {"errors", "markup"},
    {"penalties"},
    {"recipe"},
    {"training"},
    {"compact", "data", "models"},
    {"study"},
    {"report"},
    {"cli"},
]
RANK = {room: i for i, rooms in enumerate(ORDER) for room in rooms}

#: What points downward, and is loaded when it is used: a study's figures and its page are the report's.
WHEN_ASKED = {
    ("study/study.py", "shrinkage.report.plots.Plots"),
    ("study/study.py", "shrinkage.report.html.write"),
}

OF_JAX = ("jax_forward", "jax_lanes", "jax_loop", "jax_programs", "lowering")

#: Where, and only where, a heavy or optional library may be imported.
HOMES = {
    "optuna": {"study/storage.py", "study/proposed.py"},
    "jax": {f"training/{name}.py" for name in ("hypergradient", *OF_JAX)},
    "jaxlib": {f"training/{name}.py" for name in OF_JAX},
    "ray": {"study/cluster.py"},
    "tensorboard": {"report/tensorboard.py"},
    "tensorflow": set(),
    "torch": set(),
}

MODULES = sorted(ROOT.rglob("*.py"))
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def room_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and full name of everything that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_room_has_a_place_in_the_order():
    assert {room_of(path) for path in MODULES} - {"__init__"} <= RANK.keys()


@each_module
def test_imports_point_upward_only(path):
    room = room_of(path)
    if room == "__init__":
        return
    for line, name in imported(path):
        first, _, rest = name.partition(".")
        if first != "shrinkage" or (path.relative_to(ROOT).as_posix(), name) in WHEN_ASKED:
            continue
        other = rest.split(".")[0]
        assert other in RANK, f"line {line}: import from the room, not from the package: {name}"
        assert other == room or RANK[other] < RANK[room], f"line {line}: {room} may not import {name}"


@pytest.mark.parametrize(("path", "name"), sorted(WHEN_ASKED))
def test_what_is_loaded_when_asked_for_is_not_loaded_before(path, name):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert name in {found for _, found in imported(ROOT / path)}
    assert name not in {f"{node.module}.{alias.name}" for node in top for alias in node.names}


@each_module
def test_heavy_libraries_have_a_home(path):
    here = path.relative_to(ROOT).as_posix()
    for line, name in imported(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or here in homes, f"line {line}: {name} may be imported in {sorted(homes)} only"


def test_the_package_itself_imports_nothing_at_run_time():
    """Names are loaded when first used; only type checkers see the imports."""
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        alias.name if isinstance(node, ast.Import) else node.module for node in top for alias in node.names
    }
    assert names <= {"__future__", "importlib", "typing"}


LOADED = """
import json, sys
before = set(sys.modules)
import shrinkage
dir(shrinkage), shrinkage.__version__, hasattr(shrinkage, "no_such_name")
loaded = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps([sorted(loaded), sorted(sys.stdlib_module_names)]))
"""


def test_importing_the_package_loads_the_standard_library_alone(run_python):
    """Neither Keras nor JAX, NumPy, TensorFlow …: a command answers ``--help`` at once."""
    loaded, standard = json.loads(run_python(LOADED))
    assert set(loaded) - set(standard) == {"shrinkage"}


def test_importing_the_errors_loads_no_more(run_python):
    loaded, standard = json.loads(
        run_python(LOADED.replace("import shrinkage", "import shrinkage, shrinkage.errors"))
    )
    assert set(loaded) - set(standard) == {"shrinkage"}


# --- what is exported ---------------------------------------------------------------------------------------


def test_every_public_name_resolves():
    assert len(shrinkage.__all__) == len(set(shrinkage.__all__))
    for name in shrinkage.__all__:
        assert getattr(shrinkage, name) is not None, name
    assert set(dir(shrinkage)) == set(shrinkage.__all__)


def test_type_checkers_see_the_names_that_exist():
    tree = ast.parse((ROOT / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {
        (node.module, alias.asname)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {(room, name) for room, names in shrinkage._HOME.items() for name in names}


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'shrinkage' has no attribute 'L3'"):
        _ = shrinkage.L3


@pytest.mark.parametrize("name", shrinkage.__all__)
def test_what_is_exported_is_documented_with_an_example(name):
    thing = getattr(shrinkage, name)
    if not (inspect.isclass(thing) or inspect.isfunction(thing)):
        return
    doc = thing.__dict__.get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert doc, f"{name} has no docstring of its own"
    assert ">>>" in doc, f"{name} has no example"


@pytest.mark.parametrize("room", ["penalties", "recipe"])
def test_a_rooms_exports_resolve_and_are_documented(room):
    module = importlib.import_module(f"shrinkage.{room}")
    assert module.__doc__
    assert len(module.__all__) == len(set(module.__all__))
    for name in module.__all__:
        thing = getattr(module, name)
        assert inspect.getdoc(thing), name


def test_every_error_is_one_of_the_packages_own():
    """So that the command line can print any of them alone, and leave with its exit code."""
    found = [e for _, e in inspect.getmembers(errors, inspect.isclass) if issubclass(e, Exception)]
    assert len(found) > 8
    for error in found:
        assert issubclass(error, errors.ShrinkageError | errors.ShrinkageWarning), error
        assert error.__doc__, error
        if issubclass(error, errors.ShrinkageError):
            assert error.exit_code in (1, 2)


@pytest.mark.parametrize(
    ("word", "choices", "hint"),
    [
        ("kernal", ["kernel", "bias"], " Did you mean 'kernel'?"),
        ("KERNEL", ["kernel"], " Did you mean 'kernel'?"),
        ("dense", ["Dense", "Dense_1"], " Did you mean 'Dense'?"),
        ("zzz", ["kernel", "bias"], ""),
        ("", ["kernel"], ""),
        ("kernel", [], ""),
    ],
)
def test_the_nearest_name_is_proposed(word, choices, hint):
    assert errors.did_you_mean(word, choices) == hint
    assert errors.did_you_mean(word, iter(choices)) == hint


def test_a_backend_that_is_not_installed_is_one_sentence(run_python):
    code = """
import sys
sys.modules["tensorflow"] = None  # as if it were not installed
import os
os.environ["KERAS_BACKEND"] = "tensorflow"
import shrinkage
try:
    shrinkage.L2
except ImportError as error:
    print(error)
"""
    assert "Set the environment variable KERAS_BACKEND=jax" in run_python(code)
