"""From ``module:function`` and ``MODEL.keras`` to models, and what is refused on the way."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from shrinkage.data import Data
from shrinkage.errors import CodeNotAllowedError, DataError, ModelError, ShrinkageWarning
from shrinkage.study.references import (
    architecture,
    check_fit,
    load_study_data,
    model_source,
    resolve,
    same_weights,
)
from shrinkage.study.spec import StudySpec
from shrinkage.training.saved import load_model

# Keras turns its variables into arrays in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

MODULE = """
with open({marker!r}, "a") as file:
    file.write("!")
import keras

def build(input_shape, classes, *, units=4, **more):
    layers = [keras.layers.Dense(units), keras.layers.Dense(classes)]
    return keras.Sequential([keras.Input(input_shape), *layers])

def strict(input_shape, classes, units=4):
    return build(input_shape, classes, units=units)

def nothing(input_shape, classes):
    return None

def unbuilt(input_shape, classes):
    return keras.Sequential([keras.layers.Dense(classes)])

def broken(input_shape, classes):
    raise RuntimeError("no such thing\\nand more")

def numbers():
    import numpy as np
    return np.zeros((30, 5), "float32"), np.arange(30) % 3

CONSTANT = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module of the user's own, in the working directory; call the fixture to hear how often it ran."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    marker = tmp_path / "ran"
    (tmp_path / "own_models.py").write_text(MODULE.format(marker=str(marker)))
    (tmp_path / "torn.py").write_text("import nowhere_to_be_found\n")
    (tmp_path / "keras.py").write_text("raise SystemExit('shadows keras')\n")
    yield lambda: len(marker.read_text()) if marker.exists() else 0
    for name in ("own_models", "torn"):
        sys.modules.pop(name, None)


def spec(model, **changes):
    return StudySpec.parse({"data": "blobs", "model": model, "arms": [], **changes})


def source(model, blobs, *, allow_code=True, **changes):
    return model_source(spec(model, **changes), blobs, allow_code)


# --- code ----------------------------------------------------------------------------------------------


def test_own_code_is_not_imported_unless_allowed(module, blobs):
    with pytest.raises(CodeNotAllowedError, match="--allow-code") as caught:
        source("own_models:build", blobs, allow_code=False)
    assert caught.value.exit_code == 2
    with pytest.raises(CodeNotAllowedError):
        load_study_data(spec("m:f", data="own_models:numbers"), None, False)
    assert module() == 0
    assert "own_models" not in sys.modules


def test_own_code_is_found_in_the_working_directory(module, blobs):
    built = source("own_models:build", blobs, model_options={"units": 7}).build()
    assert [layer.units for layer in built.layers] == [7, 3]
    assert load_study_data(spec("m:f", data="own_models:numbers"), None, True).classes == 3
    assert module() == 1


def test_the_working_directory_never_replaces_an_installed_module(module, blobs):
    source("own_models:build", blobs)
    sys.modules.pop("own_models")
    assert sys.path[-1] == str(Path.cwd())


def test_this_package_needs_no_permission(blobs):
    assert resolve("shrinkage.models:mlp", False).__name__ == "mlp"
    with pytest.raises(CodeNotAllowedError):
        resolve("shrinkage_evil:mlp", False)
    with pytest.raises(CodeNotAllowedError):
        resolve("shrinkages.models:mlp", False)


WRONG = {
    "nothing": ("no model at all", "is not a model"),
    "no function": ("own_models:", "is not a model"),
    "no module": (":build", "is not a model"),
    "absent module": ("not_there_at_all:build", "can't be imported"),
    "torn module": ("torn:build", "nowhere_to_be_found"),
    "absent function": ("own_models:biuld", "Did you mean 'build'?"),
    "no function but a number": ("own_models:CONSTANT", "no function 'CONSTANT'"),
    "wrong option": ("own_models:strict", "takes no option 'unit'. Did you mean 'units'?"),
    "no model back": ("own_models:nothing", "gave a NoneType, not a Keras model"),
    "unbuilt": ("own_models:unbuilt", "not built"),
    "broken": ("own_models:broken", "could not build a model"),
    "absent file": ("there.keras", "There is no saved model 'there.keras'"),
    "relative import": (".models:mlp", "can't be imported"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_reference_is_told_in_one_sentence(module, blobs, case):
    reference, words = WRONG[case]
    options = {"model_options": {"unit": 3}} if case == "wrong option" else {}
    with pytest.raises(ModelError) as caught:
        source(reference, blobs, **options)
    assert words in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_function_with_keywords_of_its_own_takes_any_option(module, blobs):
    source("own_models:build", blobs, model_options={"whatever": 1})


def test_options_of_a_saved_model_are_refused(blobs):
    with pytest.raises(ModelError, match="model_options"):
        source("m.keras", blobs, model_options={"units": 3})


# --- saved models --------------------------------------------------------------------------------------


def dense(units=4, classes=3, width=5, **options):
    return keras.Sequential(
        [keras.Input((width,)), keras.layers.Dense(units, **options), keras.layers.Dense(classes)]
    )


@pytest.fixture
def saved(tmp_path):
    def save(model, name="m.keras"):
        model.save(tmp_path / name)
        return str(tmp_path / name)

    return save


def test_a_saved_model_is_loaded_as_it_is(saved, blobs):
    model = dense()
    assert same_weights(source(saved(model), blobs).build(), model)


def test_random_weights_can_not_be_started_from(module, blobs):
    with pytest.raises(ModelError, match=r"draws new ones each time. Save the model to a .keras file"):
        source("own_models:build", blobs, initial="saved")


def npz():
    file = io.BytesIO()
    np.savez(file, a=np.zeros(3))
    return file.getvalue()


FILES = {
    "text": lambda path: path.write_text("hello"),
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "npz": lambda path: path.write_bytes(npz()),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_told(saved, blobs, tmp_path, kind):
    reference = saved(dense())
    FILES[kind](tmp_path / "m.keras")
    with pytest.raises(ModelError, match=r"m\.keras") as caught:
        source(reference, blobs)
    assert "\n" not in str(caught.value)


def test_a_saved_lambda_is_not_run(saved, blobs):
    layers = [keras.Input((5,)), keras.layers.Lambda(lambda x: x * 2), keras.layers.Dense(3)]
    with pytest.raises(ModelError, match="can't be loaded"):
        source(saved(keras.Sequential(layers)), blobs)


# --- fingerprints --------------------------------------------------------------------------------------


def fingerprint(reference, blobs, **changes):
    return source(reference, blobs, **changes).fingerprint


def test_a_fingerprint_tells_architectures_apart_and_nothing_else(saved, blobs):
    first, same, compiled = dense(), dense(), dense()
    compiled.compile("sgd", "mse")
    prints = [fingerprint(saved(keras.models.clone_model(first), f"{i}.keras"), blobs) for i in range(2)]
    assert len(set(prints)) == 1
    for i, other in enumerate((dense(units=5), dense(activation="relu"), dense(use_bias=False))):
        assert fingerprint(saved(other, f"o{i}.keras"), blobs) != prints[0]
    model = keras.models.clone_model(first)
    before = fingerprint(saved(model), blobs)
    model.compile("sgd", "mse")
    assert fingerprint(saved(model), blobs) == before
    assert architecture(same) == architecture(compiled)


def test_weights_enter_a_fingerprint_where_they_are_started_from(saved, blobs):
    model = dense()
    path = saved(model)
    fresh, kept = fingerprint(path, blobs), fingerprint(path, blobs, initial="saved")
    model.set_weights([w + 1 for w in model.get_weights()])
    saved(model)
    assert fingerprint(path, blobs) == fresh
    assert fingerprint(path, blobs, initial="saved") != kept


def test_a_fingerprint_is_the_same_however_many_models_were_built_before(blobs):
    first = fingerprint(
        "shrinkage.models:cnn", blobs=image(), model_options={"filters": [2], "batch_norm": True}
    )
    [keras.layers.BatchNormalization() for _ in range(3)]
    again = fingerprint(
        "shrinkage.models:cnn", blobs=image(), model_options={"filters": [2], "batch_norm": True}
    )
    assert first == again


def test_an_architecture_does_not_depend_on_names():
    def functional(*names):
        inputs = keras.Input((4,), name=names[0])
        first = keras.layers.Dense(3, name=names[1])
        return keras.Model(inputs, keras.layers.Dense(2, name=names[2])(first(inputs)), name=names[3])

    one = functional("a", "b", "c", "d")
    assert architecture(one) == architecture(functional("units", "dense", "x", "functional_9"))
    assert architecture(dense()) == architecture(dense())
    assert architecture(dense()) != architecture(dense(units=9))
    wider = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    assert architecture(one) != architecture(wider)


# --- a model and its data ------------------------------------------------------------------------------


def image(classes=3):
    x = np.zeros((9, 8, 8, 1), "float32")
    return Data("image", x, np.arange(9) % classes, x, np.arange(9) % classes)


def numbers(targets):
    x, y = np.zeros((9, 5), "float32"), np.linspace(0, 1, 9 * targets).reshape(9, targets)
    return Data("numbers", x, y, x, y)


FITS = [
    (dense(classes=3), "blobs", None),
    (dense(classes=7), "blobs", None),
    (dense(classes=2), "blobs", "2 outputs, but blobs has 3 classes"),
    (dense(width=6), "blobs", r"inputs of shape \(6,\), but one sample of blobs has \(5,\)"),
    (dense(classes=1), image(2), r"shape \(5,\), but one sample of image has \(8, 8, 1\)"),
    (dense(classes=2), numbers(2), None),
    (dense(classes=1), numbers(2), "1 outputs, but a target of numbers has 2"),
    (dense(classes=3), numbers(1), "3 outputs, but a target of numbers has 1"),
    (keras.Sequential([keras.Input((None, None, 1)), keras.layers.Flatten()]), image(), None),
]


@pytest.mark.parametrize(("model", "data", "words"), FITS, ids=range(len(FITS)))
def test_a_model_must_fit_the_data(blobs, model, data, words):
    data = blobs if data == "blobs" else data
    if words is None:
        check_fit("m", model, data)
    else:
        with pytest.raises(ModelError, match=words):
            check_fit("m", model, data)


def test_unknown_data_is_told_with_the_nearest_name():
    with pytest.raises(DataError, match="Did you mean 'digits'"):
        load_study_data(spec("m:f", data="digist"), None, False)


def test_a_model_of_several_outputs_is_refused_in_one_sentence(blobs):
    inputs = keras.Input((5,))
    two = keras.Model(inputs, [keras.layers.Dense(3)(inputs), keras.layers.Dense(1)(inputs)])
    with pytest.raises(
        ModelError, match="two has several inputs or outputs; a study takes models of one each"
    ):
        check_fit("two", two, blobs)


def test_a_loss_that_can_not_be_loaded_is_left_out_of_its_model(tmp_path):
    @keras.saving.register_keras_serializable("gone")
    class Odd(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(y_pred)

    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    model.compile("sgd", Odd())
    model.save(tmp_path / "m.keras")
    keras.saving.get_custom_objects().pop("gone>Odd")
    with pytest.warns(ShrinkageWarning, match="was compiled can't be loaded, and is left out"):
        again = load_model(tmp_path / "m.keras")
    assert same_weights(again, model)
    assert not again.compiled
