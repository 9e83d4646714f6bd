"""``Study``: the same from Python objects, stored so that its directory says all there is to say."""

from __future__ import annotations

import inspect
import os
import re
import shutil
from dataclasses import replace

import keras
import numpy as np
import pandas as pd
import pytest

from cases import mostly_thorough
from shrinkage.data import Data, load_data
from shrinkage.data.build import KEYS
from shrinkage.errors import DataError, ModelError, RunError, ShrinkageError, SpecError
from shrinkage.study.observers import Silent
from shrinkage.study.spec import StudySpec
from shrinkage.study.study import Study
from shrinkage.training.initial import with_fresh_names

# Keras turns its variables into arrays in a way that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

TRAINING = {"epochs": 2, "batch_size": 32, "learning_rate": 0.01}
QUICK = {"arms": [], "seeds": 1, "training": {"epochs": 1, "batch_size": 32}}
L2 = {"name": "L2", "recipe": "Dense: kernel = l2(strength)", "strengths": [0.1]}


class Watch(Silent):
    def __init__(self):
        self.lines, self.epochs = [], 0

    def say(self, line):
        self.lines.append(line)

    def epoch(self, record):
        self.epochs += 1


def tiny(input_shape, classes, units=4):
    """A builder that the run directory can name: it lies in a module."""
    return keras.Sequential(
        [keras.Input(input_shape), keras.layers.Dense(units), keras.layers.Dense(classes)]
    )


def arrays(data):
    return data.x_train, data.y_train, data.x_test, data.y_test


def trained(study, directory, **options):
    watch = Watch()
    summary = study.run(directory, observer=watch, **options)
    return summary, watch


def files(path):
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture
def wide(blobs):
    """A model, trained a little, so that its weights are not what its initializers give."""
    model = with_fresh_names(lambda: tiny((5,), 3, 6))
    model.set_weights([w * 3 + 0.1 for w in model.get_weights()])
    return model


def study_of(model, data, **changes):
    return Study(model, data, **{**QUICK, **changes})


# --- every way to give a model and data ----------------------------------------------------------------


def ways(blobs, wide, folder):
    np.savez(
        folder / "d.npz",
        x_train=blobs.x_train,
        y_train=blobs.y_train,
        x_test=blobs.x_test,
        y_test=blobs.y_test,
    )
    wide.save(folder / "m.keras")
    return {
        "objects": (wide, blobs),
        "arrays and a lambda": (lambda shape, classes: tiny(shape, classes, 6), arrays(blobs)),
        "a function in a module": (tiny, blobs, {"model_options": {"units": 6}}),
        "files": (folder / "m.keras", str(folder / "d.npz")),
    }


@pytest.mark.thorough
def test_every_way_gives_the_same_results(blobs, wide, tmp_path):
    frames, stored = {}, {}
    for name, (model, data, *options) in ways(blobs, wide, tmp_path).items():
        study = study_of(model, data, arms=[L2], training=TRAINING, **(options[0] if options else {}))
        trained(study, tmp_path / name)
        frames[name] = study.frame()
        stored[name] = StudySpec.read(tmp_path / name / "study.toml")
        loaded = Study.load(tmp_path / name)
        pd.testing.assert_frame_equal(loaded.frame(), frames[name], check_exact=True)
        pd.testing.assert_frame_equal(loaded.curves(), study.curves(), check_exact=True)
    first = frames.pop("objects")
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(frame, first, check_exact=True, obj=name)
    assert stored["files"].data == str(tmp_path / "d.npz")
    assert stored["files"].model == str(tmp_path / "m.keras")
    assert stored["objects"].model == str(tmp_path / "objects" / "inputs" / "model.keras")
    assert stored["a function in a module"].model == f"{__name__}:tiny"
    assert stored["a function in a module"].model_options == {"units": 6}
    assert not (tmp_path / "files" / "inputs").exists()
    assert stored["objects"].arms == StudySpec.parse({"data": "d", "model": "m", "arms": [L2]}).arms


@pytest.mark.thorough
def test_what_was_stored_runs_again_from_the_file(blobs, wide, tmp_path):
    study = study_of(wide, arrays(blobs))
    trained(study, tmp_path / "run")
    again = Study.from_spec(StudySpec.read(tmp_path / "run" / "study.toml"))
    _, watch = trained(again, tmp_path / "run", allow_code=False)
    assert watch.epochs == 0
    _, watch = trained(Study.from_spec(StudySpec.read(tmp_path / "run" / "study.toml")), tmp_path / "copy")
    assert watch.epochs == 1
    pd.testing.assert_frame_equal(Study.load(tmp_path / "copy").frame(), study.frame(), check_exact=True)


def test_two_arrays_get_a_test_split_of_their_own(blobs, tmp_path):
    study = study_of(tiny, (blobs.x_train, blobs.y_train))
    trained(study, tmp_path / "run")
    assert study.frame()["test_data_loss"].notna().all()


def test_an_object_resumes_itself_and_a_rebuilt_one_too(blobs, tmp_path):
    def build(prefix):
        [keras.layers.Dense(1) for _ in range(3)]  # Keras numbers unnamed layers on
        return tiny((5,), 3)

    study = study_of(build(0), blobs)
    trained(study, tmp_path / "run")
    for again in (study, study_of(build(1), blobs), study_of(build(2), arrays(blobs))):
        _, watch = trained(again, tmp_path / "run")
        assert watch.epochs == 0


@pytest.mark.thorough
def test_a_study_may_run_in_two_directories(blobs, wide, tmp_path):
    study = study_of(wide, blobs)
    trained(study, tmp_path / "one")
    trained(study, tmp_path / "two")
    assert files(tmp_path / "one")["summary.json"] == files(tmp_path / "two")["summary.json"]
    stored = StudySpec.read(tmp_path / "two" / "study.toml")  # nothing in it is the other's
    inputs = tmp_path / "two" / "inputs"
    assert (stored.data, stored.model) == (str(inputs / "data.npz"), str(inputs / "model.keras"))


@pytest.mark.thorough
def test_a_function_with_options_may_run_in_two_directories(blobs, tmp_path):
    study = study_of(
        lambda shape, classes, units: tiny(shape, classes, units), blobs, model_options={"units": 7}
    )
    for where in ("one", "two", "one"):
        trained(study, tmp_path / where)
    assert files(tmp_path / "one")["summary.json"] == files(tmp_path / "two")["summary.json"]
    assert b'"parameters": 42' in files(tmp_path / "two")["summary.json"]


@pytest.mark.thorough
def test_a_directory_may_be_moved_and_reached_by_a_link(blobs, wide, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    (tmp_path / "real").mkdir()
    study = study_of(wide, blobs)
    trained(study, tmp_path / "link" / "run")
    _, watch = trained(study, tmp_path / "link" / "run")
    assert watch.epochs == 0
    shutil.move(tmp_path / "real" / "run", tmp_path / "moved")
    summary = (tmp_path / "moved" / "summary.json").read_bytes()
    assert len(Study.load(tmp_path / "moved").frame()) == 1
    for again in (Study.load(tmp_path / "moved"), study_of(wide, blobs)):
        _, watch = trained(again, tmp_path / "moved")
        assert watch.epochs == 0
        assert (tmp_path / "moved" / "summary.json").read_bytes() == summary


def test_a_hostile_directory_name(blobs, tmp_path):
    path = tmp_path / "what? #1 100% é [bold]x 'q'"
    trained(study_of(tiny, blobs), path)
    assert len(Study.load(str(path)).frame()) == 1
    assert os.listdir(tmp_path) == [path.name]


# --- what changed is refused, untouched ----------------------------------------------------------------


@pytest.fixture
def begun(blobs, wide, tmp_path):
    """A run that was begun with objects, and what its directory holds."""
    trained(study_of(wide, blobs), tmp_path / "run")
    return tmp_path / "run", files(tmp_path / "run")


def changed_objects(blobs, wide):
    other = Data("blobs", blobs.x_train + 1, *arrays(blobs)[1:])
    moved = keras.models.clone_model(wide)
    return {
        "data": (study_of(wide, other), "The data of this study has changed"),
        "arrays": (study_of(wide, arrays(other)), "The data of this study has changed"),
        "model": (study_of(tiny((5,), 3, 7), blobs), "The model of this study has changed"),
        "builder": (study_of(lambda s, c: tiny(s, c, 7), blobs), "The model of this study has changed"),
        "spec": (study_of(wide, blobs, seeds=2), r"seeds: \[0\] -> \[0, 1\]"),
        "spec and data": (study_of(wide, other, seeds=2), r"seeds: \[0\] -> \[0, 1\]"),
        "where from": (study_of("shrinkage.models:mlp", blobs), "model: .*'shrinkage.models:mlp'"),
        "name": (study_of(moved, blobs, name="x"), "name: 'study' -> 'x'"),
    }


def test_a_changed_study_is_refused_untouched(begun, blobs, wide):
    path, before = begun
    for study, words in changed_objects(blobs, wide).values():
        with pytest.raises(RunError, match=words):
            study.run(path)
        assert files(path) == before, words


def test_fresh_studies_do_not_mind_other_weights_and_saved_ones_do(begun, blobs, wide, tmp_path):
    path, _ = begun
    other = keras.models.clone_model(wide)
    _, watch = trained(study_of(other, blobs), path)
    assert watch.epochs == 0
    trained(study_of(wide, blobs, initial="saved"), tmp_path / "saved")
    with pytest.raises(RunError, match="The model of this study has changed"):
        study_of(other, blobs, initial="saved").run(tmp_path / "saved")


def test_files_that_change_under_the_same_name_are_refused(blobs, wide, tmp_path):
    ways(blobs, wide, tmp_path)
    study = study_of(tmp_path / "m.keras", tmp_path / "d.npz")
    trained(study, tmp_path / "run")
    tiny((5,), 3, 9).save(tmp_path / "m.keras")
    with pytest.raises(RunError, match="The model of this study changed"):
        study.run(tmp_path / "run")
    wide.save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x_train=blobs.x_train[::-1], y_train=blobs.y_train)
    with pytest.raises(RunError, match="The data of this study changed"):
        study.run(tmp_path / "run")


def test_restart_begins_anew_and_leaves_what_is_not_its_own(begun, blobs, wide):
    path, _ = begun
    (path / "notes.md").write_text("mine")
    summary, watch = trained(study_of(wide, blobs, seeds=2), path, restart=True)
    assert watch.epochs == 2
    assert summary.seeds == 2
    assert (path / "notes.md").read_text() == "mine"
    assert len(list((path / "curves").iterdir())) == 2


@pytest.mark.parametrize("wrong", mostly_thorough(("recipe", "model", "data"), "recipe"))
def test_restart_removes_nothing_for_a_study_that_can_not_run(begun, blobs, wide, wrong, tmp_path):
    path, before = begun
    lost = {"name": "lost", "recipe": "nowhere: kernel = l2(0.1)"}
    given = {
        "model": study_of(tiny((7,), 3), blobs),
        "recipe": study_of(wide, blobs, arms=[lost]),
        "data": study_of(wide, str(tmp_path / "none.npz")),
    }[wrong]
    with pytest.raises(ShrinkageError):
        given.run(path, restart=True)
    assert files(path) == before


def test_a_stored_study_begins_anew_from_its_own_inputs(begun):
    path, _ = begun
    study = Study.load(path)
    before = study.summary()
    summary, watch = trained(study, path, restart=True)
    assert (summary.to_json(), watch.epochs) == (before.to_json(), 1)


def test_restart_of_a_directory_whose_study_can_not_be_read(begun, blobs, wide):
    path, _ = begun
    (path / "study.toml").write_text("format = 99")
    with pytest.raises(SpecError, match="format"):
        study_of(wide, blobs).run(path)
    _, watch = trained(study_of(wide, blobs), path, restart=True)
    assert watch.epochs == 1


def test_restart_of_nothing_is_a_run(blobs, tmp_path):
    _, watch = trained(study_of(tiny, blobs), tmp_path / "run", restart=True)
    assert watch.epochs == 1


@pytest.mark.thorough
def test_restart_in_a_storage_of_its_own(blobs, tmp_path):
    url = f"sqlite:///{tmp_path}/shared.db"
    study = study_of(tiny, blobs, storage=url)
    trained(study, tmp_path / "one")
    trained(study_of(tiny, blobs, storage=url, name="other"), tmp_path / "two")
    assert not (tmp_path / "one" / "study.db").exists()
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(RunError, match="lacks the curves"):
        study.run(tmp_path / "one")
    _, watch = trained(study, tmp_path / "one", restart=True)
    assert watch.epochs == 1
    assert len(Study.load(tmp_path / "two").frame()) == 1


# --- initial weights -----------------------------------------------------------------------------------


@pytest.mark.thorough
def test_saved_weights_are_where_every_trial_starts(blobs, wide, tmp_path):
    training = {"epochs": 1, "batch_size": 32, "optimizer": "sgd", "learning_rate": 1e-30}
    study = study_of(wide, blobs, initial="saved", seeds=2, arms=[L2], training=training)
    trained(study, tmp_path / "run")
    for weights in (tmp_path / "run" / "models").glob("*.npz"):
        with np.load(weights) as found:
            for a, b in zip(found.values(), wide.get_weights(), strict=True):
                np.testing.assert_array_equal(a, b)
    wide.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    loss = wide.evaluate(blobs.x_test, blobs.y_test, verbose=0)
    assert study.frame()["test_data_loss"].tolist() == pytest.approx([loss] * 4, rel=1e-5)


def test_fresh_weights_are_not_the_saved_ones_and_differ_by_seed(blobs, wide, tmp_path):
    training = {"epochs": 1, "batch_size": 32, "optimizer": "sgd", "learning_rate": 1e-30}
    study = study_of(wide, blobs, seeds=2, training=training)
    trained(study, tmp_path / "run")
    kernels = [np.load(path)["arr_0"] for path in (tmp_path / "run" / "models").glob("*.npz")]
    assert len(kernels) == 2
    for one, other in [*[(k, wide.get_weights()[0]) for k in kernels], kernels]:
        assert np.abs(one - other).max() > 0.01


@pytest.mark.thorough
def test_saved_weights_with_folds_warn_of_leakage(blobs, wide, tmp_path):
    for i, (changes, warned) in enumerate(
        [({"folds": 2, "initial": "saved"}, True), ({"folds": 2}, False), ({"initial": "saved"}, False)]
    ):
        _, watch = trained(study_of(wide, blobs, **changes), tmp_path / str(i))
        assert any("Careful" in line and "splits validate on" in line for line in watch.lines) == warned


def test_penalties_of_the_model_itself_do_not_count(blobs, tmp_path):
    layers = [keras.Input((5,)), keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(10.0))]
    study = study_of(keras.Sequential(layers), blobs)
    trained(study, tmp_path / "run")
    assert study.frame()["penalty"].tolist() == [0.0]


def test_the_models_given_are_left_as_they_are(blobs, wide, tmp_path):
    wide.layers[0].kernel_regularizer = keras.regularizers.L1(0.1)
    before = [w.copy() for w in wide.get_weights()]
    config = wide.get_config()
    trained(study_of(wide, blobs, arms=[L2]), tmp_path / "run")
    assert all(np.array_equal(a, b) for a, b in zip(before, wide.get_weights(), strict=True))
    assert str(wide.get_config()) == str(config)
    assert not wide.compiled


# --- wrong input ---------------------------------------------------------------------------------------


def test_options_of_a_model_object_are_refused(wide, blobs):
    with pytest.raises(SpecError, match="model_options"):
        study_of(wide, blobs, model_options={"units": 3})


BUILDERS = {
    "fails": (lambda shape, classes: 1 / 0, "division by zero"),
    "returns nothing": (lambda shape, classes: None, "gave a NoneType, not a Keras model"),
    "is unbuilt": (lambda shape, classes: keras.Sequential([keras.layers.Dense(3)]), "not built"),
    "does not fit": (lambda shape, classes: tiny((7,), classes), r"\(7,\)"),
    "takes no arguments": (lambda: None, "failed"),
}


@pytest.mark.parametrize("case", BUILDERS)
def test_a_builder_that_does_not_build(blobs, tmp_path, case):
    build, words = BUILDERS[case]
    with pytest.raises(ModelError, match=words):
        study_of(build, blobs).run(tmp_path / "run")
    assert not (tmp_path / "run" / "study.toml").exists()
    assert not (tmp_path / "run" / "inputs").exists()
    trained(study_of(tiny, blobs), tmp_path / "run")  # nothing was begun: the directory is as good as new


def test_what_can_not_be_loaded_again_is_told_at_once(blobs, tmp_path):
    layers = [keras.Input((5,)), keras.layers.Lambda(lambda x: x), keras.layers.Dense(3)]
    with pytest.raises(ModelError, match="can't be loaded"):
        study_of(keras.Sequential(layers), blobs).run(tmp_path / "run")
    assert not (tmp_path / "run" / "study.toml").exists()


def test_results_before_a_run(blobs, tmp_path):
    for ask in (Study.frame, Study.curves):
        with pytest.raises(RunError, match=r"\.run\(directory\)"):
            ask(study_of(tiny, blobs))
    with pytest.raises(RunError, match=re.escape(str(tmp_path))):
        Study.load(tmp_path)


def test_the_arguments_are_the_fields_of_the_file():
    arguments = set(inspect.signature(Study).parameters) - {"data_dir"}
    assert arguments == set(StudySpec.model_fields)
    documented = Study.__doc__
    assert all(name in documented for name in arguments)


# --- what a newcomer brings ---------------------------------------------------------------------------------


def binary(input_shape, classes):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(1, activation="sigmoid")])


@pytest.mark.parametrize("loss", mostly_thorough(["auto", "binary_crossentropy"], "auto"))
@pytest.mark.parametrize("targets", [lambda y: y, lambda y: y[:, None]], ids=["n", "n×1"])
def test_one_sigmoid_output_and_two_classes(rng, tmp_path, loss, targets):
    x = rng.normal(size=(60, 4)).astype("float32")
    y = (x[:, 0] > 0).astype(int)
    study = Study(binary, (x, targets(y)), **QUICK | {"training": {"epochs": 2, "loss": loss}})
    trained(study, tmp_path / "run")
    assert study.frame()["val_data_loss"].between(0, 5).all()
    assert study.frame()["val_accuracy"].between(0, 1).all()


@pytest.mark.thorough
def test_data_as_keras_datasets_gives_them(rng, tmp_path):
    x = rng.normal(size=(60, 4)).astype("float32")
    y = np.arange(60) % 3
    one, two = (
        Study(tiny, data, **QUICK)
        for data in (((x[:40], y[:40]), (x[40:], y[40:])), (x[:40], y[:40], x[40:], y[40:]))
    )
    for i, study in enumerate((one, two)):
        trained(study, tmp_path / str(i))
    pd.testing.assert_frame_equal(one.frame(), two.frame())


def test_one_class_is_no_classification(rng, tmp_path):
    x = rng.normal(size=(60, 4)).astype("float32")
    with pytest.raises(DataError, match="one class only"):
        Study(tiny, (x, np.zeros(60, int)), **QUICK).run(tmp_path / "run")


def test_whole_numbers_for_one_output_say_how_to_make_them_a_regression(rng, tmp_path):
    x = rng.normal(size=(60, 4)).astype("float32")
    build = lambda shape, classes: keras.Sequential([keras.Input(shape), keras.layers.Dense(1)])  # noqa: E731
    with pytest.raises(ModelError, match="for a regression give floats"):
        Study(build, (x, np.arange(60) // 5), **QUICK).run(tmp_path / "run")


def test_a_summary_prints_as_its_headline(blobs, tmp_path):
    summary, _ = trained(Study(tiny, blobs, **QUICK), tmp_path / "run")
    assert str(summary).splitlines() == list(summary.headline)


def test_the_best_model_can_be_trained_on(blobs, tmp_path):
    trained(Study(tiny, blobs, **QUICK | {"training": TRAINING}), tmp_path / "run")
    model = keras.models.load_model(tmp_path / "run/models/best.keras")
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    model.fit(blobs.scaled(blobs.x_train), blobs.y_train, epochs=1, verbose=0)


# --- groups ---------------------------------------------------------------------------------------------


def test_groups_are_arrays_or_names_and_stored_as_they_are(blobs, tmp_path):
    who = np.repeat(np.array(["ann", "bob", "cid"]), 30)
    np.savez(tmp_path / "a.npz", who=who, **dict(zip(KEYS, arrays(blobs), strict=True)))
    given = [
        Study(tiny, blobs, groups=who, **QUICK),
        Study(tiny, replace(blobs, groups=who), **QUICK),
        Study(tiny, arrays(blobs), groups=list(who), **QUICK),
    ]
    named = Study(tiny, tmp_path / "a.npz", groups="who", **QUICK)
    assert [study.spec.groups for study in (*given, named)] == ["groups"] * 3 + ["who"]
    prints = {study._data.fingerprint() for study in given if study._data}
    prints.add(load_data(tmp_path / "a.npz", groups="who").fingerprint())
    assert len(prints) == 1
    trained(given[0], tmp_path / "run")
    _, watch = trained(Study.load(tmp_path / "run"), tmp_path / "run")  # from the directory alone
    assert watch.epochs == 0
    with pytest.raises(RunError, match="data"):
        Study(tiny, blobs, groups=who[::-1].copy() + "x", **QUICK).run(tmp_path / "run")


@pytest.mark.parametrize(
    ("data", "groups", "words"),
    [
        ("digits", [0, 1], "as an array"),
        ("digits", "who", "`groups` names"),
        (None, "who", "'who' names"),
        (None, [0, 1], r"\(2,\)"),
        (None, np.zeros((90, 2)), r"\(90, 2\)"),
        (None, [[0], [1, 2]], "groups"),
    ],
)
def test_groups_that_do_not_fit(blobs, data, groups, words, tmp_path):
    with pytest.raises((SpecError, DataError), match=words):
        Study(tiny, blobs if data is None else data, groups=groups, **QUICK).run(tmp_path / "run")
