"""What a run looks at besides its scores, against the same by hand; and that it can be read back."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import shrinkage
from shrinkage.data import Data
from shrinkage.errors import RunError
from shrinkage.recipe import Recipe, strip
from shrinkage.report.html import render
from shrinkage.study import examine
from shrinkage.study.design import Trial
from shrinkage.study.directory import RunDirectory
from shrinkage.study.evidence import Evidence
from shrinkage.study.provenance import Provenance, noted
from shrinkage.study.results import Results

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


@pytest.fixture(scope="module")
def images() -> Data:
    rng = np.random.default_rng(1)

    def rows(n: int) -> tuple[np.ndarray, np.ndarray]:
        return rng.integers(0, 256, (n, 6, 6, 1)).astype("uint8"), np.arange(n) % 3

    return Data("squares", *rows(60), *rows(30), labels=("<b>", "two", "three"))


def network() -> keras.Model:
    inputs = keras.Input((6, 6, 1), name="image")
    one = layers.Conv2D(4, 3, activation="relu", name="one")(inputs)
    two = layers.Conv2D(4, 3, padding="same", activation="relu", name="two")(one)
    joined = layers.Flatten(name="flat")(layers.Add(name="add")([one, two]))
    return keras.Model(inputs, layers.Dense(3, "softmax", name="head")(joined))


@pytest.fixture(scope="module")
def seen(images):
    """A model with dead units, its arm as it is seen, and the pictures of its mistakes."""
    keras.utils.set_random_seed(0)
    model = network()
    kernel = keras.ops.convert_to_numpy(model.get_layer("two").kernel).copy()
    kernel[..., 1] = 0.0
    model.get_layer("two").kernel.assign(kernel)
    recipe = Recipe("one, head: kernel = l2(0.1)\none: activity = l1(0.01)\nhead: bias = l1(0.5)")
    weights = model.get_weights()
    trial = Trial("both", None, 3, -1, "key")
    arms, pictures = examine.arms(model, images, [examine.Shown(trial, recipe, weights, True)])
    strip(model)
    return model, arms[0], pictures


def test_every_call_knows_what_it_takes():
    nodes = {node.path: node for node in examine.network(network())}
    order = list(nodes)
    assert order[0] == "image"
    assert nodes["image"].inputs == ()
    assert [order[i] for i in nodes["add"].inputs] == ["one", "two"]
    assert nodes["one"].shape == (4, 4, 4)
    assert nodes["one"].parameters == 4 * 9 + 4
    assert sum(node.parameters for node in nodes.values()) == network().count_params()


def test_a_shared_layer_is_counted_once():
    shared = layers.Dense(2, name="shared")
    inputs = keras.Input((2,))
    model = keras.Model(inputs, shared(shared(inputs)))
    assert sum(node.parameters for node in examine.network(model)) == model.count_params()


def test_charges_are_those_that_the_model_pays(images, seen):
    model, arm, _ = seen
    shrinkage.apply(model, list(arm.recipe))
    x = images.scaled(images.x_train)
    kernel = keras.ops.convert_to_numpy(model.get_layer("head").kernel)
    head = next(c for c in arm.charged if (c.layer, c.target) == ("head", "kernel"))
    assert head.charge == pytest.approx(0.1 * np.sum(kernel.astype(float) ** 2), rel=1e-5)
    one = keras.Model(model.input, model.get_layer("one").output)
    activity = next(c for c in arm.charged if c.target == "activity")
    per_sample = np.abs(keras.ops.convert_to_numpy(one(x))).sum() / len(x)
    assert activity.charge == pytest.approx(0.01 * per_sample, rel=1e-5)
    assert sum(c.share for c in arm.charged) == pytest.approx(1)
    strip(model)


def test_layers_are_counted_entry_by_entry(seen):
    model, arm, _ = seen
    for layer in arm.layers:
        kernel = keras.ops.convert_to_numpy(model.get_layer(layer.layer).kernel).astype(float)
        assert layer.weights == kernel.size == sum(layer.counts)
        assert layer.zeros == np.sum(kernel == 0)
        assert layer.norm == pytest.approx(np.linalg.norm(kernel))
        assert layer.edges[0] == -layer.edges[-1] == pytest.approx(-np.abs(kernel).max())
    assert {layer.layer: layer.zeros for layer in arm.layers} == {"one": 0, "two": 36, "head": 0}


def test_mistakes_are_those_of_predict(images, seen):
    model, arm, pictures = seen
    outputs = model.predict(images.scaled(images.x_test), verbose=0)
    expected = np.zeros((3, 3), int)
    for truth, answer in zip(images.y_test, outputs.argmax(1), strict=True):
        expected[truth, answer] += 1
    assert np.array_equal(arm.confusion, expected)
    wrong = {int(i) for i in np.flatnonzero(outputs.argmax(1) != images.y_test)}
    assert {m.row for m in arm.mistakes} <= wrong
    assert len(arm.mistakes) == min(24, len(wrong)) == len(pictures)
    certain = [m.probability for m in arm.mistakes]
    assert certain == sorted(certain, reverse=True)
    for mistake in arm.mistakes:
        assert mistake.probability == pytest.approx(float(outputs[mistake.row].max()), rel=1e-5)
        assert np.array_equal(pictures[mistake.picture], images.x_test[mistake.row, ..., 0])


@pytest.mark.parametrize("last", ["sigmoid", None])
def test_one_output_and_logits_become_probabilities(last):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)).astype("float32"), np.arange(40) % 2
    data = Data("two", x, y, x, y)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(1, last)])
    found = examine._probabilities(model, data)
    score = keras.ops.convert_to_numpy(model(x))[:, 0].astype(float)
    one = score if last else 1 / (1 + np.exp(-score))
    assert found == pytest.approx(np.stack([1 - one, one], 1), abs=1e-6)


@pytest.mark.parametrize(("last", "dtype"), [("sigmoid", "float32"), ("softmax", "bfloat16")])
def test_probabilities_that_do_not_sum_to_one_stay_what_they_are(last, dtype):
    x, y = np.random.default_rng(0).normal(size=(200, 6)).astype("float32"), np.arange(200) % 3
    data = Data("three", x, y, x, y)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, last, dtype=dtype)])
    said = keras.ops.convert_to_numpy(keras.ops.cast(model(x), "float32"))
    assert np.abs(said.sum(1) - 1).max() > 1e-3
    assert examine._probabilities(model, data) == pytest.approx(said, abs=1e-2)


def test_a_weight_that_is_not_finite_is_left_out_of_the_histogram(images):
    model = network()
    kernel = keras.ops.convert_to_numpy(model.get_layer("two").kernel).copy()
    kernel.flat[:2] = np.inf, np.nan
    model.get_layer("two").kernel.assign(kernel)
    shown = examine.Shown(Trial("none", None, 0, -1, "key"), Recipe(()), model.get_weights(), False)
    two = next(layer for layer in examine.arms(model, images, [shown])[0][0].layers if layer.layer == "two")
    assert sum(two.counts) == two.weights - 2
    assert two.edges[-1] == pytest.approx(np.abs(kernel[np.isfinite(kernel)]).max())


# --- stored and read back -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    path = tmp_path_factory.mktemp("run") / "here"
    study = shrinkage.Study(
        "shrinkage.models:cnn",
        (images.x_train, images.y_train, images.x_test, images.y_test),
        arms=[{"name": "L2", "recipe": "head: kernel = l2(strength)", "strengths": [0.01, 0.1]}],
        model_options={"filters": [3]},
        seeds=2,
        training={"epochs": 2},
    )
    summary = study.run(path)
    return path, study, summary


def test_results_are_what_the_study_says(run):
    path, study, summary = run
    results = Results.load(path)
    assert results.summary.to_json() == summary.to_json()
    assert results.frame.drop(columns="key").equals(study.frame())
    assert results.curves.equals(study.curves())
    assert Evidence.from_json(results.evidence.to_json()).to_json() == results.evidence.to_json()
    stored = json.loads((path / "summary.json").read_text())
    assert stored["evidence"] == results.evidence.to_json()
    assert [arm.arm for arm in results.evidence.arms] == ["none", "L2"]
    data = results.evidence.data
    assert (data.train + data.validation, data.test, data.counts) == (60, 30, (20, 20, 20))
    assert len(results.pictures["samples"]) == len(data.samples) == 24


def test_the_trial_that_is_looked_at_has_the_lowest_loss(run):
    path, study, _ = run
    results, frame = Results.load(path), study.frame()
    for arm in results.evidence.arms:
        same = frame["strength"].isna() if arm.strength is None else frame["strength"] == arm.strength
        rows = frame[(frame["arm"] == arm.arm) & same]
        assert rows.loc[rows["val_data_loss"].idxmin(), "seed"] == arm.seed
        if arm.arm not in (results.summary.baseline, results.summary.recommended.arm):
            assert arm.confusion == ()
            continue
        accuracy = rows.loc[rows["seed"] == arm.seed, "test_accuracy"].item()
        assert np.trace(arm.confusion) / np.sum(arm.confusion) == pytest.approx(accuracy, abs=1e-6)


def test_a_run_that_trains_nothing_leaves_the_note_as_it_is(run):
    path, study, _ = run
    before = (path / "run.json").read_bytes()
    study.run(path)
    assert (path / "run.json").read_bytes() == before
    made = Provenance.read(RunDirectory(path))
    assert made.seconds > 0
    assert made.versions["keras"] == keras.__version__
    assert made.backend == keras.backend.backend()


def test_time_adds_up_over_resumes(tmp_path, monkeypatch):
    clock = iter([10.0, 13.0, 100.0, 104.0])
    monkeypatch.setattr("shrinkage.study.provenance.time.monotonic", lambda: next(clock))
    place = RunDirectory(tmp_path)
    with pytest.raises(KeyboardInterrupt), noted(place, "jax", "cpu"):
        raise KeyboardInterrupt
    first = Provenance.read(place)
    with noted(place, "jax", "cpu"):
        pass
    second = Provenance.read(place)
    assert (first.seconds, second.seconds) == (3.0, 7.0)
    assert second.begun == first.begun


@pytest.mark.parametrize("damage", ["missing", "foreign", "cut", "empty"])
def test_a_damaged_run_is_one_sentence(run, tmp_path, damage):
    path, _, _ = run
    for name in ("study.toml", "study.db", "run.json"):
        (tmp_path / name).write_bytes((path / name).read_bytes())
    text = (path / "summary.json").read_text()
    broken = {"foreign": '{"format": 99, "evidence": {}}', "cut": text[:1000], "empty": "{}"}
    if damage != "missing":
        (tmp_path / "summary.json").write_text(broken[damage])
    with pytest.raises(RunError, match=r"go on with: shrinkage run") as caught:
        Results.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["study.db", "pictures.npz", "curves"])
def test_a_run_that_lost_a_file_is_one_sentence(run, tmp_path, name):
    shutil.copytree(run[0], tmp_path / "run")
    path = tmp_path / "run" / name
    if name == "study.db":
        path.unlink()
    else:
        (next(path.iterdir()) if path.is_dir() else path).write_bytes(b"PK half of it")
    with pytest.raises(RunError, match=r"lacks its trials|can't be read") as caught:
        render([Results.load(tmp_path / "run")])
    assert "\n" not in str(caught.value)
    assert path.exists() == (name != "study.db")  # looking makes none


def test_a_run_that_can_only_be_read_is_read(run, tmp_path):
    shutil.copytree(run[0], tmp_path / "run")
    url = (
        f"sqlite:///file:{tmp_path / 'run' / 'study.db'}?mode=ro&uri=true"  # the superuser may write any file
    )
    study = tmp_path / "run" / "study.toml"
    study.write_text(f'storage = "{url}"\n{study.read_text()}')
    assert render([Results.load(tmp_path / "run")])


def test_reading_a_run_loads_no_keras(run):
    path, _, _ = run
    code = (
        "import sys; from shrinkage.study.results import Results; from shrinkage.report.html import render; "
        f"r = Results.load({str(path)!r}); assert render([r]); r.curves; "
        "print(sorted({'keras', 'jax', 'tensorflow', 'torch', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
