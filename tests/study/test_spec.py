"""``study.toml``: it reads back equal, and a wrong one is told in one sentence."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

import shrinkage
from shrinkage.errors import SpecError
from shrinkage.study.arm import Arm, Range
from shrinkage.study.complaint import concealed
from shrinkage.study.spec import StudySpec
from shrinkage.study.study import Study

NAN, INF = float("nan"), float("inf")
BASE = {"data": "digits", "model": "shrinkage.models:mlp", "arms": []}
OPEN = "Dense: kernel = l2(strength)"


def parsed(text):
    return StudySpec.parse(tomllib.loads(text))


# --- round trip ----------------------------------------------------------------------------------------

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
positive = st.floats(1e-12, 1e6)
penalties = st.sampled_from(["l1(strength)", "l2(0.5*strength)", "l1_l2(strength, 2.0*strength)"])
fixed = st.sampled_from(["l1(0.001)", "l2(1e-06)", "l1_l2(1e-05, 0.0001)"])
selectors = st.sampled_from(["*", "Dense", "Conv2D, Dense", "block?/conv*", "head"])
targets = st.sampled_from(["kernel", "kernel, bias", "activity", "gamma"])
grids = st.builds(
    lambda low, factor, count: {"low": low, "high": low * factor, "count": count},
    positive,
    st.floats(1.01, 1e6),
    st.integers(2, 30),
)
values = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


OVERRIDES = {
    "epochs": st.integers(30, 40),
    "optimizer": names,
    "learning_rate": positive,
    "weight_decay": st.floats(0, 10),
    "label_smoothing": st.floats(0, 0.99),
    "max_norm": positive,
    "class_weights": st.just("balanced"),
}


@st.composite
def arms(draw):
    chosen = draw(st.lists(names.filter(lambda name: name != "none"), max_size=4, unique=True))
    out = []
    for name in chosen:
        varies = draw(st.booleans())
        rules = st.builds("{}: {} = {}".format, selectors, targets, penalties if varies else fixed)
        arm = {"name": name, "recipe": draw(st.lists(rules, min_size=1, max_size=3))}
        if varies:
            arm["strengths"] = draw(
                grids | st.lists(st.just(0.0) | positive, min_size=1).map(lambda v: [*v, 1])
            )
        elif draw(st.booleans()):
            arm["model_options"] = draw(st.dictionaries(names, values, max_size=2))
            arm["training"] = draw(st.fixed_dictionaries({}, optional=OVERRIDES))
        out.append(arm)
    return [{"name": "none"}, *out] if draw(st.booleans()) else out


@st.composite
def studies(draw):
    fields = {"data": draw(names), "model": draw(names), "arms": draw(arms()), "name": draw(names)}
    fields["seeds"] = draw(
        st.integers(1, 12) | st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=5, unique=True)
    )
    optional = {
        "model_options": st.dictionaries(names, values, max_size=3),
        "initial": st.sampled_from(["fresh", "saved"]),
        "label": names,
        "groups": names,
        "stratify": st.booleans(),
        "refit": st.booleans(),
        "nested": st.integers(2, 20),
        "storage": st.just("sqlite:///elsewhere.db"),
        draw(st.sampled_from(["validation", "folds"])): None,
    }
    optional["validation"] = st.floats(0.01, 0.99) if "validation" in optional else None
    optional["folds"] = st.integers(2, 20) if "folds" in optional else None
    training = {
        "epochs": st.integers(1, 10**6),
        "batch_size": st.integers(1, 10**6),
        "optimizer": names,
        "learning_rate": positive,
        "loss": names,
        "metrics": st.lists(names, max_size=3),
        "early_stopping": st.integers(1, 100),
    }
    fields["training"] = {k: draw(s) for k, s in training.items() if draw(st.booleans())}
    return fields | {k: draw(s) for k, s in optional.items() if s is not None and draw(st.booleans())}


@given(studies())
@settings(max_examples=150)
def test_a_spec_reads_back_equal(fields):
    spec = StudySpec.parse(fields)
    again = parsed(spec.to_toml())
    assert again == spec
    assert again.to_toml() == spec.to_toml()
    assert spec.differences(again) == []


def test_a_file_reads_back_equal(tmp_path):
    spec = StudySpec.parse({**BASE, "name": "é ✓ \n\t\x07 \\ \"'", "seeds": 3})
    (tmp_path / "study.toml").write_text(spec.to_toml(), encoding="utf-8")
    assert StudySpec.read(tmp_path / "study.toml") == spec


def test_the_grid_is_geometric_and_keeps_its_ends():
    assert Range(low=1e-6, high=1e-1, count=6).values() == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    grid = Range(low=1.23456789e-4, high=9.87654321e-2, count=7).values()
    assert (grid[0], grid[-1]) == (1.23456789e-4, 9.87654321e-2)
    ratios = np.diff(np.log(grid))
    assert ratios == pytest.approx([ratios.mean()] * 6, rel=1e-3)
    assert all(float(f"{value:.4g}") == value for value in grid[1:-1])
    assert Range(low=1e300, high=1.7976931348623157e308, count=3).values()[-1] < INF


def test_strengths_are_sorted_distinct_and_without_the_baseline():
    arm = Arm(name="a", recipe=(OPEN,), strengths=(0.1, 0, 0.01, 0.1))
    assert arm.values() == (0.01, 0.1)
    assert Arm(name="b", recipe=("Dense: kernel = l2(1)",)).values() == (None,)


def test_the_baseline_is_added_and_comes_first():
    fixed_arm = {"name": "L2", "recipe": "Dense: kernel = l2(0.1)"}
    assert [a.name for a in StudySpec.parse({**BASE, "arms": [fixed_arm]}).all_arms] == ["none", "L2"]
    renamed = StudySpec.parse({**BASE, "arms": [fixed_arm, {"name": "plain"}]})
    assert [a.name for a in renamed.all_arms] == ["plain", "L2"]


def test_numpy_and_python_numbers_are_taken_as_toml_has_them():
    arm = {"name": "a", "recipe": OPEN, "strengths": np.geomspace(1e-3, 1e-1, 3)}
    options = {"hidden": (np.int64(8), 4), "dropout": np.float32(0.5), "flags": np.array([True])}
    spec = StudySpec.parse({**BASE, "arms": [arm], "model_options": options, "seeds": range(2)})
    assert spec.model_options == {"hidden": [8, 4], "dropout": 0.5, "flags": [True]}
    assert spec.arms[0].strengths == pytest.approx((1e-3, 1e-2, 1e-1))
    assert spec.seeds == (0, 1)
    assert parsed(spec.to_toml()) == spec


# --- the same in Python --------------------------------------------------------------------------------

FIELDS = {
    "name": "two ways",
    "model_options": {"hidden": [8], "dropout": 0.25},
    "initial": "fresh",
    "validation": 0.3,
    "seeds": [3, 5],
    "training": {"epochs": 7, "learning_rate": 1e-2, "metrics": ["mae"], "early_stopping": 3},
    "arms": [
        {"name": "none"},
        {"name": "L2", "recipe": [OPEN], "strengths": {"low": 1e-4, "high": 1e-2, "count": 3}},
        {"name": "L1", "recipe": "Dense: kernel = l1(0.001)\nhead: kernel = none"},
    ],
}


@pytest.mark.parametrize(
    "change",
    [{}, {"validation": None, "folds": 3}, {"seeds": 4}, {"storage": "sqlite:///x.db"}, {"initial": "saved"}],
)
def test_python_and_toml_give_the_same_spec_field_by_field(tmp_path, change):
    fields = {k: v for k, v in {**FIELDS, **change}.items() if v is not None}
    arms = [
        {**arm, "recipe": arm["recipe"].splitlines()} if isinstance(arm.get("recipe"), str) else arm
        for arm in fields["arms"]
    ]
    file = {"data": "digits", "model": "shrinkage.models:mlp", **fields, "arms": arms}
    (tmp_path / "study.toml").write_text(tomli_w.dumps(file))
    read = StudySpec.read(tmp_path / "study.toml")
    made = Study("shrinkage.models:mlp", "digits", **fields).spec
    for name in StudySpec.model_fields:
        assert getattr(made, name) == getattr(read, name), name
    assert made == read


def test_objects_and_dictionaries_give_the_same_arms():
    recipe = shrinkage.Recipe([shrinkage.Rule("Dense", "kernel", shrinkage.L2(shrinkage.STRENGTH))])
    as_objects = Study("m:f", "digits", arms=[Arm(name="a", recipe=recipe, strengths=[0.1, 1])])
    as_text = Study("m:f", "digits", arms=[{"name": "a", "recipe": OPEN, "strengths": (0.1, 1.0)}])
    assert as_objects.spec == as_text.spec


def test_the_defaults_are_those_of_the_file():
    assert Study("m:f", "digits", arms=[]).spec == parsed('model = "m:f"\ndata = "digits"\narms = []')


# --- errors --------------------------------------------------------------------------------------------

HEAD = 'data = "digits"\nmodel = "shrinkage.models:mlp"\n'
ARMS = f'[[arms]]\nname = "L2"\nrecipe = ["{OPEN}"]\n'
GOOD = ARMS + "strengths = [0.1]\n"


def top(text):
    return HEAD + text + GOOD


def arm(text):
    return HEAD + ARMS + text


def own(option):
    return arm(f"training = {{ {option} }}\n")


def rule(text):
    return HEAD + f'[[arms]]\nname = "a"\nrecipe = {text}\n'


BAD = {
    # unknown keys, at each level, with the nearest word
    "top": (top('modle_options = {}\n'), "unknown key 'modle_options'", "'model_options'"),
    "training": (top("[training]\nepoch = 3\n"), "'training.epoch'", "'epochs'"),
    "arm": (arm("strenghts = [1]\n"), "'arms[1].strenghts'", "'strengths'"),
    "range": (arm("strengths = { low = 1, hihg = 2, count = 3 }\n"), "'arms[1].strengths.hihg'", "'high'"),
    "nothing near": (top("zzz = 1\n"), "unknown key 'zzz'", "Known keys: name, data"),
    "second arm": (HEAD + GOOD + '[[arms]]\nnme = "x"\n', "'arms[2].nme'", "'name'"),
    # missing
    "no data": ('model = "m:f"\n' + GOOD, "the key 'data' is missing"),
    "no model": ('data = "digits"\n' + GOOD, "the key 'model' is missing"),
    "no arms": (HEAD, "the key 'arms' is missing"),
    "no arm name": (HEAD + f'[[arms]]\nrecipe = ["{OPEN}"]\nstrengths = [1]\n', "'arms[1].name' is missing"),
    "no count": (arm("strengths = { low = 1, high = 2 }\n"), "'arms[1].strengths.count' is missing"),
    # types
    "text for a number": (top('[training]\nepochs = "3"\n'), "training.epochs", "whole number", "'3'"),
    "float for an int": (top("[training]\nbatch_size = 2.5\n"), "training.batch_size", "whole number"),
    "bool for an int": (top("[training]\nepochs = true\n"), "training.epochs", "whole number", "True"),
    "bool for a float": (top("validation = true\n"), "validation", "number", "True"),
    "bool for a rate": (top("[training]\nlearning_rate = true\n"), "training.learning_rate", "number"),
    "text for a rate": (top('[training]\nlearning_rate = "1e-3"\n'), "learning_rate", "number", "'1e-3'"),
    "number for text": (top("name = 5\n"), "name must be text", "5"),
    "text for a list": (top('[training]\nmetrics = "mae"\n'), "training.metrics must be a list", "'mae'"),
    "table for text": (top("label = { a = 1 }\n"), "label must be text"),
    "number for a table": (top("training = 3\n"), "training must be a table", "3"),
    "text for arms": (HEAD + 'arms = "L2"\n', "arms must be a list", "'L2'"),
    "text for an arm": (HEAD + 'arms = ["L2"]\n', "arms[1] must be a table", "'L2'"),
    "options": (top("model_options = 3\n"), "model_options must be a table"),
    "option": (top("model_options = { a = [1, inf] }\n"), "model_options", "finite", "inf"),
    "date": (top("model_options = { a = 2020-01-01 }\n"), "model_options", "2020"),
    "recipe is a number": (rule('5'), "arms[1].recipe", "5 is not a recipe"),
    "strengths is text": (arm('strengths = "1"\n'), "arms[1].strengths", "list of numbers", "'1'"),
    "strengths is a number": (arm("strengths = 0.1\n"), "arms[1].strengths", "list of numbers", "0.1"),
    "strength is text": (arm('strengths = ["1"]\n'), "arms[1].strengths[1] must be a number"),
    "strength is a bool": (arm("strengths = [1, true]\n"), "arms[1].strengths[2] must be a number"),
    # ranges
    "no epochs": (top("[training]\nepochs = 0\n"), "training.epochs must be ≥ 1", "0"),
    "no patience": (top("[training]\nearly_stopping = 0\n"), "training.early_stopping must be ≥ 1"),
    "rate of 0": (top("[training]\nlearning_rate = 0\n"), "training.learning_rate must be > 0"),
    "rate is nan": (top("[training]\nlearning_rate = nan\n"), "learning_rate", "finite", "nan"),
    "rate is inf": (top("[training]\nlearning_rate = inf\n"), "learning_rate", "finite", "inf"),
    "all for validation": (top("validation = 1.0\n"), "validation must be < 1", "1.0"),
    "none for validation": (top("validation = 0\n"), "validation must be > 0"),
    "one fold": (top("folds = 1\n"), "folds must be ≥ 2", "1"),
    "no repeat": (top("folds = 2\nrepeats = 0\n"), "repeats must be ≥ 1", "0"),
    "half a repeat": (top("folds = 2\nrepeats = 1.5\n"), "repeats must be a whole number", "1.5"),
    "one outer fold": (top("nested = 1\n"), "nested must be ≥ 2", "1"),
    "stratify is text": (top('stratify = "no"\n'), "stratify must be true or false", "'no'"),
    "refit is a number": (top("refit = 1\n"), "refit must be true or false", "1"),
    "groups without a name": (top('groups = ""\n'), "groups must not be empty"),
    "group": (top('group = "who"\n'), "unknown key 'group'", "'groups'"),
    "weights": (top('[training]\nclass_weights = "equal"\n'), "training.class_weights", "balanced"),
    "weight": (top("[training]\nclass_weights = [1, -2]\n"), "training.class_weights[2]", "≥ 0", "-2"),
    "rungs of a grid": (top("rungs = [1, 2]\n"), "rungs", 'strategy = "halving"'),
    "rungs that descend": (top('strategy = "halving"\nrungs = [4, 2]\n'), "rungs", "ascend", "[4, 2]"),
    "rungs past the end": (top('strategy = "halving"\nrungs = [2, 20]\n'), "rungs", "20 epochs"),
    "no rung": (top('strategy = "halving"\nrungs = []\n'), "rungs", "ascend"),
    "strategy": (top('strategy = "halfing"\n'), "strategy", "halving"),
    "budget of nothing": (top('strategy = "auto"\nbudget = 0\n'), "budget must be a number of trials", "0"),
    "budget in words": (top('strategy = "auto"\nbudget = "soon"\n'), "budget", "10 min", "'soon'"),
    "budget of no time": (top('strategy = "auto"\nbudget = "0 s"\n'), "budget", "10 min", "'0 s'"),
    "budget of a grid": (top("budget = 10\n"), "budget goes with a search", 'strategy = "grid"'),
    "refit of a path": (top('strategy = "path"\nrefit = true\n'), "refit trains afresh", 'strategy = "path"'),
    "nested path": (top('strategy = "path"\nnested = 3\n'), "nested trains afresh", "another strategy"),
    "tolerance": (top('strategy = "auto"\ntolerance = -1.0\n'), "tolerance must be ≥ 0", "-1"),
    "no margin": (top("margin = 0.0\n"), "margin", "must be > 0", "0.0"),
    "both": (top("validation = 0.2\nfolds = 3\n"), "validation", "folds", "not both"),
    "no seeds": (top("seeds = 0\n"), "seeds", "1 to 10,000", "0"),
    "negative seeds": (top("seeds = -3\n"), "seeds", "-3"),
    "too many seeds": (top("seeds = 10001\n"), "seeds", "10,000"),
    "a bool of seeds": (top("seeds = true\n"), "seeds", "True"),
    "half a seed": (top("seeds = [0, 0.5]\n"), "seeds[2] must be a whole number", "0.5"),
    "negative seed": (top("seeds = [-1]\n"), "seeds[1] must be ≥ 0", "-1"),
    "huge seed": (top("seeds = [4294967296]\n"), "seeds[1] must be < 4294967296"),
    "seed twice": (top("seeds = [1, 2, 1]\n"), "seeds", "distinct"),
    "empty seeds": (top("seeds = []\n"), "seeds", "at least one"),
    "initial": (top('initial = "save"\n'), "initial must be 'fresh' or 'saved'", "'save'"),
    "empty name": (top('name = ""\n'), "name must not be empty"),
    "long name": (top(f'name = "{"x" * 201}"\n'), "name must have at most 200 characters"),
    # arms
    "grid upside down": (arm("strengths = { low = 1, high = 0.1, count = 3 }\n"), "low", "less than high"),
    "grid of a point": (arm("strengths = { low = 1, high = 1, count = 3 }\n"), "low", "less than high"),
    "grid from 0": (arm("strengths = { low = 0, high = 1, count = 3 }\n"), "strengths.low must be > 0"),
    "grid to inf": (arm("strengths = { low = 1, high = inf, count = 3 }\n"), "strengths.high", "finite"),
    "grid of one": (arm("strengths = { low = 1, high = 2, count = 1 }\n"), "count must be ≥ 2"),
    "negative strength": (arm("strengths = [0.1, -1]\n"), "arms[1].strengths[2] must be ≥ 0", "-1"),
    "nan strength": (arm("strengths = [nan]\n"), "arms[1].strengths[1]", "finite", "nan"),
    # options of arms
    "open option": (rule('[]') + 'model_options = { dropout = "strength" }\n', "'a'", "give it strengths"),
    "open decay": (rule('[]') + 'training = { weight_decay = "strength" }\n', "'a'", "give it strengths"),
    "0 with options": (
        arm("strengths = [0, 1]\nmodel_options = { dropout = 0.5 }\n"), "'L2' at strength 0 is not the",
    ),
    "strength of no option": (
        arm('strengths = [0.1]\ntraining = { max_norm = "strength" }\n'), "training.max_norm", "number",
    ),
    "smoothing of 1": (own("label_smoothing = 1.0"), "arms[1].training.label_smoothing", "< 1"),
    "smoothing past 1": (
        own('label_smoothing = "strength"') + "strengths = [0.1, 1.5]\n", "'L2'", "< 1", "1.5",
    ),
    "a decay below 0": (own("weight_decay = -1"), "arms[1].training.weight_decay", "≥ 0", "-1"),
    "two rates": (own("learning_rate = 0.1") + "learning_rate = 0.1\nstrengths = [1]\n", "'L2'", "twice"),
    "another loss": (own('loss = "mse"'), "'arms[1].training.loss'", "Known keys: epochs"),
    "misspelt": (own("weigth_decay = 1"), "'arms[1].training.weigth_decay'", "'weight_decay'"),
    "options of none": (
        own("epochs = 3").replace('"L2"', '"none"') + "strengths = [1]\n", "'none'", "options",
    ),
    "an open study": (top('model_options = { dropout = "strength" }\n'), "model_options", "of an arm"),
    "an option of none": (
        arm("strengths = [1]\nmodel_options = { a = nan }\n"), "arms[1].model_options", "finite", "nan",
    ),
    "rungs past an arm": (
        top('strategy = "halving"\nrungs = [5]\n') + "training = { epochs = 5 }\n", "rungs", "5 epochs",
    ),
    "no strengths": (HEAD + 'strategy = "grid"\n' + ARMS, "'L2'", "strengths"),
    "empty strengths": (arm("strengths = []\n"), "'L2'", "strength above 0"),
    "only 0": (arm("strengths = [0.0]\n"), "'L2'", "strength above 0"),
    "superfluous strengths": (
        HEAD + '[[arms]]\nname = "L2"\nrecipe = ["Dense: kernel = l2(1)"]\nstrengths = [1]\n',
        "'L2'",
        "no rule of its recipe says strength",
    ),
    "strengths without a recipe": (HEAD + '[[arms]]\nname = "a"\nstrengths = [1]\n', "'a'", "no rule"),
    "same name": (HEAD + GOOD + GOOD, "two arms are named 'L2'"),
    "two baselines": (HEAD + '[[arms]]\nname = "a"\n[[arms]]\nname = "b"\n', "'a'", "'b'", "no recipe"),
    "none with a recipe": (HEAD + GOOD.replace('"L2"', '"none"'), "'none'", "without penalties"),
    "no rule": (rule('["Dense kernel"]'), "arms[1].recipe", "'Dense kernel'"),
    "unknown penalty": (
        rule('["Dense: kernel = l3(1)"]'),
        "arms[1].recipe",
        "l3",
    ),
    "rule with nan": (rule('["Dense: kernel = l2(nan)"]'), "arms[1].recipe", "nan"),
    # no TOML
    "not toml": ("data = digits\n", "not valid TOML", "line 1"),
    "twice": (HEAD + 'data = "mnist"\n', "not valid TOML"),
    "deep": ("a = " + "[" * 5000, "not valid TOML"),
}  # fmt: skip

JARGON = re.compile(
    r"pydantic|input should|validation error|valid (string|tuple|dict)|Traceback|type=|For further|\n"
)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_told_in_one_sentence(tmp_path, case):
    text, *words = BAD[case]
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(SpecError) as caught:
        StudySpec.read(tmp_path / "study.toml")
    message = str(caught.value)
    assert all(word in message for word in words), message
    assert str(tmp_path / "study.toml") in message
    assert message.endswith((".", ".)", "?")), message
    assert ".." not in message.replace("...", "")
    assert not JARGON.search(message), message
    assert caught.value.__cause__ is None
    assert len(message) < 600


@pytest.mark.parametrize("what", ["missing", "folder", "binary", "loop"])
def test_a_file_that_is_none(tmp_path, what):
    path = tmp_path / "study.toml"
    if what == "folder":
        path.mkdir()
    elif what == "binary":
        path.write_bytes(bytes(range(256)))
    elif what == "loop":
        path.symlink_to(path)
    with pytest.raises(SpecError) as caught:
        StudySpec.read(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith(".")
    assert not JARGON.search(str(caught.value))


def test_dots_in_a_path_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=re.escape("../x..toml")):
        StudySpec.read(Path("../x..toml"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seeds": np.float64(2.5)}, ["seeds"]),
        ({"seeds": None}, ["seeds"]),
        ({"seeds": "3"}, ["seeds", "'3'"]),
        ({"arms": None}, ["arms"]),
        ({"arms": {"name": "a"}}, ["arms"]),
        ({"arms": 5}, ["arms"]),
        ({"training": 5}, ["training"]),
        ({"training": {"epoch": 1}}, ["'training.epoch'", "'epochs'"]),
        ({"model_options": {"f": len}}, ["model_options"]),
        ({"model_options": {"f": None}}, ["model_options", "None"]),
        ({"model_options": {3: 4}}, ["model_options"]),
        ({"model_options": {"a": {4: 4}}}, ["model_options"]),
        ({"name": "\ud800"}, ["name", "text"]),
        ({"validation": "0.2"}, ["validation", "'0.2'"]),
    ],
)
def test_wrong_arguments_of_a_study(arguments, words):
    with pytest.raises(SpecError) as caught:
        Study("shrinkage.models:mlp", "digits", **{"arms": [], **arguments})
    assert all(word in str(caught.value) for word in words), caught.value
    assert not JARGON.search(str(caught.value))


def test_an_unknown_argument_is_a_type_error():
    with pytest.raises(TypeError, match="sedes"):
        Study("shrinkage.models:mlp", "digits", arms=[], sedes=3)


@pytest.mark.parametrize("data", [5, None, (1,), [[1], [2]], ()])
def test_data_of_a_wrong_kind(data):
    with pytest.raises(SpecError, match="data must be"):
        Study("shrinkage.models:mlp", data, arms=[])


@pytest.mark.parametrize("model", [5, None, ["m:f"]])
def test_a_model_of_a_wrong_kind(model):
    with pytest.raises(SpecError, match="model must be"):
        Study(model, "digits", arms=[])


# --- paths, differences, code --------------------------------------------------------------------------


def test_paths_are_relative_to_the_file_and_names_are_not_paths(tmp_path, monkeypatch):
    monkeypatch.chdir("/")
    (tmp_path / "here").mkdir()
    for name in ("here/d.npz", "here/m.keras"):
        (tmp_path / name).touch()
    (tmp_path / "digits").mkdir()  # a folder that is called as a data set is
    (tmp_path / "study.toml").write_text('data = "here/d.npz"\nmodel = "here/m.keras"\narms = []\n')
    spec = StudySpec.read(tmp_path / "study.toml")
    assert spec.data == str(tmp_path.resolve() / "here/d.npz")
    assert spec.model == str(tmp_path.resolve() / "here/m.keras")
    (tmp_path / "study.toml").write_text('data = "digits"\nmodel = "there.keras"\narms = []\n')
    spec = StudySpec.read(tmp_path / "study.toml")
    assert (spec.data, spec.model) == ("digits", "there.keras")


def test_differences_name_the_field_and_both_values():
    spec = StudySpec.parse({**BASE, "arms": FIELDS["arms"], "seeds": 2, "storage": "mysql://me:secret@h/db"})
    changed = spec.model_dump(mode="json", exclude_none=True)
    changed["seeds"] = [0]
    changed["training"]["epochs"] = 3
    changed["arms"][1]["strengths"]["count"] = 4
    changed["storage"] = "mysql://me:other@h/db2"
    changed["folds"] = 3
    lines = spec.differences(StudySpec.parse(changed))
    assert lines == [
        "folds: None -> 3",
        "seeds: [0, 1] -> [0]",
        "training.epochs: 20 -> 3",
        "arms[2].strengths.count: 3 -> 4",
        "storage: 'mysql://me:***@h/db' -> 'mysql://me:***@h/db2'",
    ]
    fewer = StudySpec.parse({**BASE, "arms": FIELDS["arms"][:2], "seeds": 2})
    assert "arms[3].name: 'L1' -> absent" in spec.differences(fewer)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:S3cret@host:5432/db",
        "postgresql://me:S3cret@host/db?password=S3cret",
        "postgresql+psycopg2:///db?user=me&password=S3cret",
        "postgresql//me:S3cret@host/db",
        "postgresql:me:S3cret@host",
        "mysql://me:S3cret@host:notaport/db",
    ],
)
def test_a_password_is_never_shown(url):
    assert "S3cret" not in concealed(url)
    assert concealed(url).startswith(re.match(r"\w+", url).group())


def test_no_code_is_imported_to_read_a_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "wicked.py").write_text("open('imported', 'w').close()\ndef f(*a, **k): pass\n")
    text = f'data = "wicked:f"\nmodel = "wicked:f"\n{GOOD}'
    (tmp_path / "good.toml").write_text(text)
    (tmp_path / "bad.toml").write_text("seeds = 0\n" + text)
    StudySpec.read(tmp_path / "good.toml")
    with pytest.raises(SpecError):
        StudySpec.read(tmp_path / "bad.toml")
    Study("wicked:f", "wicked:f", arms=[])
    assert not (tmp_path / "imported").exists()
    assert "wicked" not in sys.modules


def test_reading_a_missing_file_loads_no_keras(run_python, tmp_path):
    code = (
        "import sys, pathlib\n"
        "from shrinkage.errors import SpecError\n"
        "from shrinkage.study.spec import StudySpec\n"
        "for name in sys.argv[1:]:\n"
        "    try: StudySpec.read(pathlib.Path(name))\n"
        "    except SpecError: pass\n"
        "print([m for m in ('keras', 'jax', 'tensorflow', 'pandas', 'optuna') if m in sys.modules])\n"
    )
    (tmp_path / "bad.toml").write_text("data =")
    assert json.loads(run_python(code, tmp_path / "none.toml", tmp_path / "bad.toml")) == []


@pytest.mark.parametrize(("epochs", "stops"), [(2, (1,)), (6, (1, 2)), (20, (1, 3, 6)), (90, (7, 15, 30))])
def test_rungs_are_at_a_twelfth_a_sixth_and_a_third(epochs, stops):
    fields = {"data": "digits", "model": "shrinkage.models:mlp", "arms": [], "strategy": "halving"}
    assert StudySpec.parse({**fields, "training": {"epochs": epochs}}).stops == stops
    assert StudySpec.parse({**fields, "strategy": "grid", "training": {"epochs": epochs}}).stops == ()
    with pytest.raises(SpecError, match="at least 2 epochs"):
        StudySpec.parse({**fields, "training": {"epochs": 1}})


# --- options of arms -----------------------------------------------------------------------------------


def test_an_arm_without_recipe_but_with_options_is_not_the_baseline():
    dropout = {"name": "dropout", "model_options": {"dropout": 0.5}}
    decay = {"name": "decay", "training": {"weight_decay": 0.1}}
    spec = StudySpec.parse({**BASE, "arms": [dropout, decay]})
    assert [arm.name for arm in spec.all_arms] == ["none", "dropout", "decay"]
    assert [arm.values() for arm in spec.all_arms] == [(None,)] * 3
    assert spec.baseline == Arm(name="none")


def test_the_study_at_a_cell_has_the_options_of_its_arm():
    spec = StudySpec.parse({**BASE, "model_options": {"hidden": [8]}, "training": {"epochs": 7}, "arms": [
        {"name": "both", "recipe": OPEN, "strengths": [0.1, 0.5],
         "model_options": {"dropout": "strength", "layers": [{"rate": "strength"}]},
         "training": {"weight_decay": "strength", "batch_size": 8, "learning_rate": 0.5}},
    ]})  # fmt: skip
    assert spec.at("none", None) is spec
    own = spec.at("both", 0.5)
    assert own.model_options == {"hidden": [8], "dropout": 0.5, "layers": [{"rate": 0.5}]}
    assert (own.training.weight_decay, own.training.batch_size, own.training.epochs) == (0.5, 8, 7)
    assert own.training.learning_rate is None  # trials of one program may differ in it
    assert spec.arm("both").rate == 0.5
    assert spec.arm("both").described() == (
        *("dropout = strength", "layers = [{ rate = strength }]"),
        *("batch_size = 8", "learning_rate = 0.5", "weight_decay = strength"),
    )
    assert StudySpec.parse(tomllib.loads(spec.to_toml())) == spec


def test_an_arm_may_be_called_as_a_default_is():
    spec = parsed(HEAD + GOOD.replace('"L2"', '"arm"'))
    assert spec.arms[0].name == "arm"
    assert StudySpec.parse(tomllib.loads(spec.to_toml())) == spec


def test_arms_without_options_are_stored_without_them():
    (arm,) = tomllib.loads(parsed(HEAD + GOOD).to_toml())["arms"]
    assert arm.keys() == {"name", "recipe", "strengths"}


def test_a_path_is_not_trained_again_by_default():
    several = 'folds = 2\nstrategy = "{}"\n'
    assert [parsed(top(several.format(name))).refits for name in ("path", "refine")] == [False, True]
