"""Every example runs, on a small scale; and as written it is what it says it is."""

from __future__ import annotations

import ast
import importlib.util
import tomllib
from pathlib import Path

import keras
import numpy as np
import pytest

from shrinkage import L1, L1L2, L2, Study, models
from shrinkage.recipe import Recipe, bind
from shrinkage.study.spec import Range, StudySpec
from shrinkage.training.task import Cell

# Keras's variables do not know NumPy 2's `copy` argument yet.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

EXAMPLES = Path(__file__).parent.parent / "examples"
STUDIES = ("digits.toml", "emnist_regularizers.toml", "l2_or_dropout.toml", "mnist_lambda_sweep.toml")
SCRIPTS = (
    *("conv2d_regularizers.py", "dense_regularizers.py", "keras_identifiers.py"),
    *("per_layer_strengths.py", "smaller_model.py"),
)

OF_ALL = ["conv_1", "conv_2", "dense_1", "head"]
WEIGHTS = [f"{layer}/{role}" for layer in OF_ALL for role in ("kernel", "bias")]


def test_every_example_is_tested_here():
    files = (p for p in EXAMPLES.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    assert sorted(str(p.relative_to(EXAMPLES)) for p in files) == sorted(STUDIES + SCRIPTS)


# --- studies, as written -------------------------------------------------------------------------------


def spec_of(name):
    return StudySpec.read(EXAMPLES / name)


def network(spec, input_shape, classes):
    assert spec.model == "shrinkage.models:cnn"
    return models.cnn(input_shape, classes, **spec.model_options)


def layers_of(model):
    """What a network is made of, one word a layer."""

    def word(layer):
        match layer:
            case keras.layers.Conv2D():
                return f"conv {layer.filters}"
            case keras.layers.Dense():
                return f"dense {layer.units} {layer.activation.__name__}"
            case keras.layers.Dropout():
                return f"dropout {layer.rate:g}"
            case keras.layers.MaxPooling2D():
                return "pool"
        return type(layer).__name__.lower()

    return [word(layer) for layer in model.layers]


def charged(recipe, model):
    """Where a recipe puts which penalty: ``{path or "layer (activity)": penalty}``."""
    terms = bind(Recipe(recipe), model).terms
    return {f"{t.path} (activity)" if t.target == "activity" else t.path: t.penalty for t in terms}


def everywhere(places, penalty):
    return dict.fromkeys(places, penalty)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_says_how_to_run_it_and_needs_no_code_of_the_users(name):
    spec, text = spec_of(name), (EXAMPLES / name).read_text()
    assert text.startswith("# ")
    assert spec.data == "digits" or f"shrinkage data fetch {spec.data}\n" in text
    assert spec.model.startswith("shrinkage.")
    assert spec.validation == 0.2
    assert spec.folds is None
    assert StudySpec.parse(tomllib.loads(spec.to_toml())) == spec


def test_the_main_job_compares_l2_and_l1_with_no_penalty():
    spec = spec_of("digits.toml")
    model = network(spec, (8, 8, 1), 10)
    assert {arm.name: len(arm.values()) for arm in spec.all_arms} == {
        "none": 1,
        "L2 kernel+bias": 6,
        "L1 kernel": 5,
    }
    assert len(spec.seeds) == 5
    l2, l1 = (charged(Recipe(arm.recipe).at(0.5), model) for arm in spec.all_arms[1:])
    of = ["conv_1", "dense_1", "head"]
    assert l2 == everywhere([f"{layer}/{role}" for layer in of for role in ("kernel", "bias")], L2(0.5))
    assert l1 == everywhere([f"{layer}/kernel" for layer in of], L1(0.5))


def test_l2_or_dropout_or_both_is_one_study():
    spec = spec_of("l2_or_dropout.toml")
    found = {}
    for arm in spec.all_arms:
        for strength in arm.values():
            own = spec.at(arm.name, strength)
            assert Recipe(arm.recipe).varies == (strength is not None and "L2" in arm.name)
            found.setdefault(arm.name, set()).add(
                (own.model_options.get("dropout", 0), own.training.weight_decay)
            )
            models.mlp((8, 8, 1), 10, **own.model_options)
    assert found == {
        "none": {(0, None)},
        "L2": {(0, None)},
        "dropout": {(0.25, None), (0.5, None)},
        "L2 + dropout": {(0.25, None)},
        "weight decay": {(0, 0.03), (0, 0.3)},
    }


def test_the_mnist_sweep_is_the_one_that_was_asked_for():
    spec = spec_of("mnist_lambda_sweep.toml")
    model = network(spec, (28, 28, 1), 10)
    assert layers_of(model) == ["conv 32", "pool", "conv 64", "pool", "flatten", "dense 10 softmax"]
    assert (spec.data, spec.training.epochs, spec.training.batch_size) == ("mnist", 20, 32)
    # 0 is the arm "none", which a study trains once.
    assert [(arm.name, arm.values()) for arm in spec.all_arms] == [
        ("none", (None,)),
        ("L2 kernel", (1e-4, 1e-3, 1e-2, 1e-1)),
    ]
    kernels = ["conv_1/kernel", "conv_2/kernel", "head/kernel"]
    assert charged(Recipe(spec.arms[0].recipe).at(0.5), model) == everywhere(kernels, L2(0.5))


def test_the_emnist_network_drops_out_after_its_poolings_only():
    spec = spec_of("emnist_regularizers.toml")
    assert layers_of(network(spec, (28, 28, 1), 47)) == [
        *("conv 32", "pool", "dropout 0.25", "conv 64", "pool", "dropout 0.25"),
        *("flatten", "dense 256 relu", "dense 47 softmax"),
    ]
    assert spec.data in ("emnist", "emnist/balanced")
    assert (spec.training.epochs, spec.training.batch_size) == (25, 250)


def test_the_emnist_arms_are_those_that_were_asked_for():
    spec = spec_of("emnist_regularizers.toml")
    model = network(spec, (28, 28, 1), 47)
    arms = {arm.name: arm for arm in spec.all_arms}
    outputs = [f"{layer} (activity)" for layer in OF_ALL]
    fixed = {
        "L1 kernel+bias": everywhere(WEIGHTS, L1(0.01)),
        "L2 kernel+bias": everywhere(WEIGHTS, L2(0.01)),
        "L1L2 kernel+bias": everywhere(WEIGHTS, L1L2(0.01, 0.01)),
        "L1 activity": everywhere(outputs, L1(0.01)),
        "L2 activity": everywhere(outputs, L2(0.01)),
        "L1L2 activity": everywhere(outputs, L1L2(0.01, 0.01)),
    }
    assert len(arms) == 14
    assert arms["none"].recipe == ()
    assert charged(arms["L2 activity at 0.10"].recipe, model) == everywhere(outputs, L2(0.1))
    for name, terms in fixed.items():
        assert charged(arms[f"{name} at 0.01"].recipe, model) == terms
        assert arms[f"{name} at 0.01"].strengths is None
        assert isinstance(arms[name].strengths, Range)
        assert charged(Recipe(arms[name].recipe).at(0.01), model) == terms


# --- studies, run on a small scale ---------------------------------------------------------------------


def images(path, classes, rng):
    """An .npz of noise with 28×28 images of every class: enough rows to split, by class, into five."""
    y = np.tile(np.arange(classes), 5)
    x = rng.integers(0, 256, (len(y) + classes, 28, 28, 1), "uint8")
    np.savez(path, x_train=x[: len(y)], y_train=y, x_test=x[len(y) :], y_test=np.arange(classes))
    return str(path)


def small(spec, *, data, epochs=1, seeds=1, strengths=2, **model_options):
    """The same study: fewer epochs, seeds and strengths, a thinner network, other data."""
    fields = spec.model_dump(exclude_none=True)
    for arm in fields["arms"]:
        if "count" in arm.get("strengths", ()):
            arm["strengths"]["count"] = strengths
    fields |= {"data": data, "seeds": seeds, "model_options": {**spec.model_options, **model_options}}
    fields["training"] |= {"epochs": epochs}
    return StudySpec.parse(fields)


def compared(summary):
    return {arm.arm: arm.selection.strengths for arm in summary.arms}


@pytest.mark.jax_only
def test_the_main_job_runs(tmp_path):
    spec = small(spec_of("digits.toml"), data="digits", seeds=2, filters=[8], dense=[16])
    study = Study.from_spec(spec)
    summary = study.run(tmp_path, allow_code=False)
    frame = study.frame()
    assert len(frame) == (1 + 2 + 2) * 2
    assert (frame["state"] == "complete").all()
    assert compared(summary) == {"none": (), "L2 kernel+bias": (1e-6, 0.1), "L1 kernel": (1e-6, 0.01)}
    assert summary.recommended is not None
    assert [arm.accuracy is not None for arm in summary.arms] == [False, True, True]
    assert frame["val_accuracy"].max() > 0.2  # these are real digits: one epoch is better than chance


@pytest.mark.thorough
@pytest.mark.jax_only
def test_the_mnist_sweep_runs_and_validation_chooses(tmp_path, rng):
    data = images(tmp_path / "data.npz", 10, rng)
    spec = small(spec_of("mnist_lambda_sweep.toml"), data=data, filters=[4, 4])
    study = Study.from_spec(spec)
    summary = study.run(tmp_path / "run", allow_code=False)
    frame = study.frame()
    strengths = (1e-4, 1e-3, 1e-2, 1e-1)
    assert frame["strength"].fillna(0).tolist() == [0, *strengths]
    assert compared(summary) == {"none": (), "L2 kernel": strengths}
    # The charge is linear in the strength at (nearly) the same weights.
    charge = frame["penalty"].to_numpy()
    assert charge[0] == 0
    assert np.allclose(charge[1:4] / charge[1], [1, 10, 100], rtol=0.1)
    swept = frame[frame["arm"] == "L2 kernel"].set_index("strength")
    chosen = summary.arm("L2 kernel").selection.strength
    assert chosen == swept["val_data_loss"].idxmin()
    assert swept["test_data_loss"].dropna().index.tolist() == [chosen]


@pytest.mark.thorough
@pytest.mark.jax_only
def test_the_emnist_study_runs(tmp_path, rng):
    data = images(tmp_path / "data.npz", 47, rng)
    spec = small(spec_of("emnist_regularizers.toml"), data=data, filters=[4, 4], dense=[8])
    study = Study.from_spec(spec)
    summary = study.run(tmp_path / "run", allow_code=False)
    frame = study.frame()
    assert len(frame) == 8 + 6 * 2
    arms = [arm.name for arm in spec.all_arms]
    assert len(arms) == 14
    assert list(compared(summary)) == arms
    assert [arm.arm for arm in summary.arms if arm.accuracy is not None] == arms[1:]
    charge = frame.groupby("arm")["penalty"].max()
    assert charge["none"] == 0
    assert (charge.drop("none") > 0).all()
    # Ten times the strength on outputs that training has hardly moved.
    assert charge["L2 activity at 0.10"] > 3 * charge["L2 activity at 0.01"]


# --- scripts -------------------------------------------------------------------------------------------


def script(name):
    at = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    module = importlib.util.module_from_spec(at)
    at.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_teaches_takes_options_and_does_nothing_when_imported(name, capsys):
    tree = ast.parse((EXAMPLES / name).read_text())
    assert f"python examples/{name}" in ast.get_docstring(tree)
    module = script(name)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


@pytest.mark.thorough
def test_conv2d_regularizers_puts_three_recipes_on_three_networks(capsys):
    tables = script("conv2d_regularizers.py").main(["--samples", "16", "--epochs", "1"])
    assert set(tables) == {"with_l2", "with_l1_and_dropout", "with_l1l2_and_batch_norm"}
    shapes = {
        name: {row.shape[2] for row in t.rows if len(row.shape) == 4} for name, (t, _) in tables.items()
    }
    assert all(3 in inputs for inputs in shapes.values())
    found = {name: {(r.layer, r.target): r.penalty for r in t.rows} for name, (t, _) in tables.items()}
    assert found["with_l2"] == everywhere(
        [(layer, role) for layer in ("conv_1", "conv_2", "head") for role in ("kernel", "bias")], "l2(0.001)"
    )
    assert found["with_l1_and_dropout"] == everywhere(
        [(layer, "kernel") for layer in ("conv_1", "conv_2", "head")], "l1(0.0001)"
    )
    kernels = [p for (_, role), p in found["with_l1l2_and_batch_norm"].items() if role == "kernel"]
    assert len(kernels) == len(set(kernels)) == 4  # another for each layer
    assert all(p.startswith("l1_l2(") for p in found["with_l1l2_and_batch_norm"].values())
    printed = capsys.readouterr().out
    for table, accuracy in tables.values():
        assert all(row.charge > 0 or row.target == "bias" for row in table.rows)
        assert np.isfinite(table.data_loss)
        assert str(table) in printed
        assert f"accuracy {accuracy:.3f}" in printed
    # The linter of each: nothing; L1 without a prox; and L2 before a normalization as well.
    assert (printed.count("No findings."), printed.count("SH205"), printed.count("SH201")) == (1, 2, 1)


@pytest.mark.thorough
def test_smaller_model_trades_accuracy_for_size_and_compacts(tmp_path, capsys, monkeypatch):
    figure, module = tmp_path / "curve.png", script("smaller_model.py")
    monkeypatch.setattr(module, "STRENGTHS", (0.0, 0.02))
    rows, receipt = module.main(["--epochs", "4", "--figure", str(figure)])
    (_, whole, _), (_, less, _) = rows
    assert whole == receipt.before.parameters
    assert less == receipt.after.parameters < whole / 2
    assert receipt.largest_difference <= 1e-5
    assert figure.stat().st_size > 5000
    assert str(receipt) in capsys.readouterr().out


@pytest.mark.thorough
@pytest.mark.jax_only
def test_per_layer_strengths_compares_searches_of_equal_cost(capsys, monkeypatch):
    module = script("per_layer_strengths.py")
    monkeypatch.setattr(module, "GRID", [1e-3, 1e-2])
    monkeypatch.setattr(module, "ROUNDS", 2)
    monkeypatch.setattr(module, "EXTRA", 8)
    rows, found = module.main(["--draws", "2", "--epochs", "2"])
    assert [count for count, *_ in rows.values()] == [4, 20, 20, 20]
    printed = capsys.readouterr().out
    for name, pairs in found.items():
        assert f"\n{name} " in printed
        for (_, scores), (_, first) in zip(pairs, found["one, grid"], strict=True):
            assert scores[0] <= first[0]  # each search may keep what the grid found
    assert {cell.ratios for name in ("one, grid", "one, refined") for cell, _ in found[name]} == {()}


def test_per_layer_strengths_searches_around_the_best_common_one():
    module = script("per_layer_strengths.py")
    best = Cell("L2", 1e-2)
    common, layers = module.around(best, np.random.default_rng(0))
    assert len(common) == len(layers) == module.EXTRA == module.ROUNDS * 4
    assert all(1e-2 < 10**0.5 * cell.strength < 1e-1 and not cell.ratios for cell in common)
    assert [np.prod(cell.ratios) for cell in layers] == pytest.approx([1] * module.EXTRA)
    assert module.interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((2, 2.484), abs=1e-3)


def test_the_networks_of_conv2d_regularizers_have_the_inputs_and_layers_that_they_claim():
    module = script("conv2d_regularizers.py")
    built = [
        build()[0] for build in (module.with_l2, module.with_l1_and_dropout, module.with_l1l2_and_batch_norm)
    ]
    assert [model.input_shape[1:] for model in built] == [(32, 32, 3), (64, 64, 3), (128, 128, 3)]
    kinds = [[type(layer).__name__ for layer in model.layers] for model in built]
    assert "Dropout" in kinds[1]
    assert kinds[2].count("BatchNormalization") == kinds[2].count("Conv2D") == 3


def test_the_textures_are_the_same_each_time_and_all_classes_are_there():
    module = script("conv2d_regularizers.py")
    (x, y), (again, _) = module.textures(8, 16), module.textures(8, 16)
    assert np.array_equal(x, again)
    assert (x.shape, x.min() >= 0, x.max() <= 1) == ((8, 16, 16, 3), True, True)
    assert sorted(set(y)) == [0, 1, 2, 3]
    assert not np.array_equal(x, module.textures(8, 16, seed=1)[0])


@pytest.mark.thorough
def test_dense_regularizers_trains_with_and_without(capsys):
    module = script("dense_regularizers.py")
    rows = module.main(["--samples", "64", "--epochs", "1"])
    assert list(rows) == list(module.RUNS)
    assert "digits: 64 training and 16 held-out images" in capsys.readouterr().out
    for name, row in rows.items():
        assert (row["penalty"] == 0) == ("no penalty" in name)
        assert row["gap"] == pytest.approx(row["val_data_loss"] - row["train_data_loss"])
    # The same start: what one epoch of a weak penalty changes is little.
    with_l2, without = rows["dense, L2 on kernels"], rows["dense, no penalty"]
    assert with_l2["train_data_loss"] == pytest.approx(without["train_data_loss"], rel=0.1)
    assert with_l2["train_data_loss"] != without["train_data_loss"]


def test_the_networks_of_dense_regularizers():
    module = script("dense_regularizers.py")
    assert layers_of(module.dense()) == ["flatten", "dense 128 relu", "dense 10 softmax"]
    assert module.dense().input_shape[1:] == (28, 28, 1)
    assert layers_of(module.cnn()) == ["conv 32", "pool", "conv 64", "pool", "flatten", "dense 10 softmax"]


def test_dense_regularizers_takes_mnist_from_a_folder(tmp_path, rng, capsys):
    images(tmp_path / "mnist.npz", 10, rng)
    module = script("dense_regularizers.py")
    seen, unseen = module.load("mnist", str(tmp_path), samples=40)
    assert (seen[0].shape, unseen[0].shape) == ((40, 28, 28, 1), (10, 28, 28, 1))
    assert seen[0].dtype == np.float32
    assert seen[0].max() <= 1


def test_keras_identifiers_shows_what_each_is_charged(capsys):
    charges = script("keras_identifiers.py").main([])
    printed = capsys.readouterr().out
    kernel, output = 2 * 3, 3 * 2  # weights of 1; outputs of 2, whose squares sum to 12
    expected = {
        ("'l1'", "kernel"): (0.01 * kernel, 0.01 * kernel),
        ("'l1'", "activity"): (0.01 * output, 0.01 * output),
        ("'l2'", "activity"): (0.12, 0.12),
        ("'l1_l2'", "kernel"): (None, 0.12),
        ("'l1_l2'", "activity"): (None, 0.18),
        ("'l1l2'", "kernel"): (0.0, None),
        ("0.001", "kernel"): (None, 0.006),
        ("'l1_l2(0.001, 0.002)'", "activity"): (None, 0.03),
        ("keras L1(0.001)", "kernel"): (0.006, 0.006),
        ("keras L1L2(0.001, 0.002)", "activity"): (0.03, 0.03),
        ("L2(0.001)", "activity"): (0.012, 0.012),
        ("L1L2(l1=0.0025, l2=0.0075)", "kernel"): (0.06, 0.06),
    }
    assert len(charges) == 11 * 2
    for key, pair in expected.items():
        assert charges[key] == tuple(v if v is None else pytest.approx(v) for v in pair), key
    assert "Did you mean 'l1_l2'?" in printed
    assert printed.count("rejected") == sum(pair.count(None) for pair in charges.values())
