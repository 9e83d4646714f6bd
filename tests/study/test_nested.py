"""Nested resampling: the parts that score the procedure have no part in it."""

from __future__ import annotations

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from shrinkage.data import Data
from shrinkage.errors import SpecError
from shrinkage.report.after import after
from shrinkage.report.explain import AFTER, explain
from shrinkage.study import observers
from shrinkage.study.directory import RunDirectory
from shrinkage.study.final import Nested, Outer, Refit
from shrinkage.study.nested import names, part
from shrinkage.study.results import Results
from shrinkage.study.spec import StudySpec
from shrinkage.study.splits import outer_splits
from shrinkage.study.stats import estimate
from shrinkage.study.storage import TrialStore
from shrinkage.study.study import Study
from shrinkage.training.task import Split

# Keras turns its variables into arrays in a way that NumPy 2 deprecates.
pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"),
]

L2 = {"name": "L2", "recipe": "Dense: kernel = l2(strength)", "strengths": [0.03]}
WRITERS = np.repeat(np.arange(18), 5)  # of the 90 rows


class Watch(observers.Silent):
    def __init__(self):
        self.lines, self.trials = [], 0

    def say(self, line):
        self.lines.append(line)

    def trial(self, trial, result):
        self.trials += 1


def study(data, **changes):
    fields = {
        "arms": [L2],
        "seeds": 1,
        "model_options": {"hidden": [4]},
        "nested": 2,
        "training": {"epochs": 2, "batch_size": 5, "learning_rate": 0.1},
    }
    return Study("shrinkage.models:mlp", data, **{**fields, **changes})


def stored(path):
    return json.loads((path / "summary.json").read_text())


@pytest.fixture(scope="module")
def grouped(blobs):
    return replace(blobs, groups=WRITERS)


@pytest.fixture(scope="module")
def finished(grouped, tmp_path_factory):
    path, watch, made = tmp_path_factory.mktemp("nested") / "run", Watch(), study(grouped)
    made.run(path, observer=watch)
    return path, made, watch


@pytest.mark.thorough
def test_each_part_is_a_study_of_the_others_that_is_scored_on_it(finished, grouped):
    path, made, watch = finished
    splits = outer_splits(made.spec, grouped.y_train, WRITERS)
    nested = Nested.of(stored(path))
    for fold, (outer, split) in enumerate(zip(nested.outer, splits, strict=True)):
        assert not set(WRITERS[split.train]) & set(WRITERS[split.validation])
        inner = Study.load(path / "nested" / f"fold-{fold}")
        assert inner.summary().recommended.arm == outer.refit.arm
        assert inner.spec.nested is None
        assert inner.spec.name == names(made.spec)[fold]
        assert (outer.fold, outer.train, outer.test) == (fold, len(split.train), len(split.validation))
        assert outer.refit == Results.load(inner.directory).refit
        model = keras.saving.load_model(inner.directory / "models" / "best.keras")
        p = model.predict(grouped.x_train[split.validation], verbose=0)
        right = p.argmax(1) == grouped.y_train[split.validation]
        assert right.mean() == pytest.approx(outer.refit.test_accuracy)
        with np.load(inner.directory / "inputs" / "data.npz") as data:
            np.testing.assert_array_equal(data["x_train"], grouped.x_train[split.train])
            np.testing.assert_array_equal(data["x_test"], grouped.x_train[split.validation])
    assert nested.accuracy == estimate([outer.refit.test_accuracy for outer in nested.outer])
    assert nested.data_loss == estimate([outer.refit.test_data_loss for outer in nested.outer])
    assert sum("was chosen" in line for line in watch.lines) == 2


@pytest.mark.thorough
def test_zeros_and_ones_of_a_sigmoid_are_stratified_as_the_classes_that_they_are(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 3)).astype("float32"), np.zeros(60, "float32")
    y[rng.permutation(60)[:6]] = 1.0
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
    made = Study(model, (x, y, x, y), arms=[], seeds=1, nested=3, refit=False, training={"epochs": 1})
    made.run(tmp_path / "run")
    for fold in range(3):
        with np.load(tmp_path / "run" / "nested" / f"fold-{fold}" / "inputs" / "data.npz") as data:
            assert (data["y_train"].sum(), data["y_test"].sum()) == (4, 2)


@pytest.mark.thorough
def test_a_part_that_is_poisoned_changes_nothing_but_its_scores(finished, grouped, tmp_path):
    path, made, _ = finished
    split = outer_splits(made.spec, grouped.y_train, WRITERS)[0]
    y, x = grouped.y_train.copy(), grouped.x_train.copy()
    y[split.validation] = (y[split.validation] + 1) % 3
    x[split.validation] += 100
    clean = Study.load(path / "nested" / "fold-0")
    own = {"data", "model", "label", "groups"}
    fields = clean.spec.model_dump(mode="json", exclude_none=True, exclude=own)
    poisoned = Study(clean.spec.model, part(replace(grouped, x_train=x, y_train=y), split), **fields)
    poisoned.run(tmp_path / "run")
    seen = [c for c in clean.frame().columns if not c.startswith("test_")]
    assert poisoned.frame()[seen].equals(clean.frame()[seen])
    assert poisoned.curves().equals(clean.curves())
    mine, theirs = (Results.load(s.directory).refit for s in (poisoned, clean))
    assert mine.test_data_loss != theirs.test_data_loss
    same = {"test_data_loss": 0.0, "test_accuracy": 0.0}
    assert replace(mine, **same) == replace(theirs, **same)
    weights = [
        [w.tobytes() for w in keras.saving.load_model(s.directory / "models" / "best.keras").get_weights()]
        for s in (poisoned, clean)
    ]
    assert weights[0] == weights[1]


@pytest.mark.thorough
def test_it_goes_on_where_it_was_stopped_and_is_the_same(finished, grouped):
    path, _, _ = finished
    before = stored(path)
    (path / "nested" / "fold-1" / "summary.json").unlink()
    watch = Watch()
    summary = study(grouped).run(path, observer=watch)
    assert stored(path) == before
    assert watch.trials == 0
    assert summary.to_json().items() <= before.items()


@pytest.mark.thorough
def test_the_rest_of_the_summary_does_not_depend_on_it(finished, grouped, tmp_path):
    study(grouped, nested=None).run(tmp_path / "run")
    found = stored(finished[0])
    assert found.pop("nested")
    assert found == stored(tmp_path / "run")


@pytest.mark.thorough
def test_a_model_of_the_directory_moves_with_it(blobs, tmp_path):
    layers = [keras.Input((5,)), keras.layers.Dense(3, activation="softmax", name="head")]
    small = {"arms": [], "seeds": 1, "nested": 2, "training": {"epochs": 1, "batch_size": 30}}
    Study(keras.Sequential(layers), blobs, **small).run(tmp_path / "run")
    before = stored(tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    watch = Watch()
    Study.load(tmp_path / "moved").run(tmp_path / "moved", observer=watch)
    assert watch.trials == 0
    assert stored(tmp_path / "moved") == before


def test_a_storage_that_is_shared_keeps_the_parts_apart(tmp_path):
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    spec = StudySpec.parse({"data": "d", "model": "m:f", "arms": [], "nested": 3, "storage": url})
    assert len({spec.name, *names(spec)}) == 4
    assert names(spec.model_copy(update={"nested": None})) == []
    for name in (spec.name, *names(spec)):
        TrialStore(tmp_path, url, name)
    place = RunDirectory(tmp_path / "run")
    Study.from_spec(spec)._clear(place)
    import optuna

    assert optuna.get_all_study_names(url) == []


def test_a_part_keeps_the_number_of_classes():
    x, y = np.zeros((6, 1)), np.array([0, 0, 1, 1, 2, 2])
    data = Data("a", x, y, x[:3], np.array([0, 3, 1]), groups=np.array(list("ppqqrr")))
    found = part(data, Split(np.array([0, 1, 2, 3]), np.array([4, 5])))
    assert (data.classes, found.classes) == (4, 4)
    assert found.groups.tolist() == list("ppqq")


@pytest.mark.parametrize("nested", [1, 0, -3, 2.0, "3"])
def test_what_is_no_number_of_parts(nested, blobs):
    with pytest.raises(SpecError, match="nested"):
        study(blobs, nested=nested)


# --- what is said ---------------------------------------------------------------------------------------


def outer(fold, arm, strength, accuracy):
    return Outer(fold, 60, 30, Refit(arm, strength, 0, 60, 5, False, 1 - accuracy, accuracy))


def test_it_is_said_how_often_what_was_chosen():
    parts = [outer(0, "none", None, 0.8), outer(1, "L2", 0.1, 0.9), outer(2, "L2", 0.1, 0.7)]
    parts = (*parts, Outer(3, 60, 30, None))
    scored = [p.refit for p in parts if p.refit]
    nested = Nested(
        parts,
        estimate([r.test_data_loss for r in scored]),
        estimate([r.test_accuracy for r in scored]),
    )
    (said,) = after(None, nested)
    assert said.words == (
        "The whole procedure, choice included, run 4 times, each without a part of the training rows, has an "
        "accuracy of 80.0 % ± 5.77 points and a loss of 0.2 ± 0.0577 on that part (mean ± standard error "
        "over the 3 that gave a finite loss), and chose L2 at λ = 0.1 twice, none once and nothing once."
    )
    assert "nested.outer[1].refit.strength" in said.facts
    assert Nested.of({"nested": json.loads(json.dumps(_plain(nested)))}) == nested
    regression = replace(nested, accuracy=estimate([]))
    assert "accuracy" not in next(after(None, regression)).words


def _plain(nested):
    from shrinkage.study.records import as_json

    return as_json(nested)


def test_explain_says_it(finished):
    results = Results.load(finished[0])
    said = explain(results.summary, results.evidence, results.refit, results.nested)
    (sentence,) = [one.sentence for one in said if one.topic == AFTER]
    assert sentence.startswith("The whole procedure")
    without = explain(results.summary, results.evidence)
    assert [one for one in said if one.topic != AFTER] == list(without)
