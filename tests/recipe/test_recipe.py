"""Recipes: three forms, exact round trips, and errors that say what a rule looks like."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
import re

import keras
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from shrinkage.errors import PenaltyError, RecipeError, ShrinkageError, StrengthError
from shrinkage.penalties import L1, L1L2, L2, STRENGTH, Multiple
from shrinkage.recipe import Recipe, Rule


def named(value: object) -> str:
    """Return a name for a test that is the same in every process."""
    return re.sub(" at 0x[0-9a-f]+", "", repr(value))[:40]


def test_a_rule_is_layers_targets_and_a_penalty():
    rule = Rule.parse("Conv2D, enc/* : kernel,bias = l1_l2(1e-5, l2=1e-4)")
    assert rule.layers == ("Conv2D", "enc/*")
    assert rule.targets == ("kernel", "bias")
    assert rule.penalty == L1L2(1e-5, 1e-4)
    assert rule == Rule(["Conv2D", "enc/*"], ["kernel", "bias"], L1L2(1e-5, 1e-4))
    assert rule == Rule("Conv2D, enc/*", "kernel, bias", "l1_l2(1e-5, 1e-4)")
    assert rule.place == "Conv2D, enc/*: kernel, bias"
    assert str(rule) == "Conv2D, enc/*: kernel, bias = l1_l2(1e-05, 0.0001)"
    assert hash(rule) == hash(Rule.parse(str(rule)))


@pytest.mark.parametrize(
    ("penalty", "expected"),
    [(None, None), ("none", None), (0.1, L2(0.1)), (keras.regularizers.L1(0.1), L1(0.1)), ("l1", L1(0.01))],
    ids=named,
)
def test_a_rule_takes_whatever_stands_for_a_penalty(penalty, expected):
    assert Rule("*", "kernel", penalty).penalty == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Dense",
        "Dense: kernel",
        "Dense = l2(0.1)",
        "Dense kernel = l2(0.1)",
        ": kernel = l2(0.1)",
        "Dense: = l2(0.1)",
        "Dense: kernel =",
        "Dense: kernel : bias = l2(0.1)",
        "Dense,: kernel = l2(0.1)",
        ",Dense: kernel = l2(0.1)",
        "Dense,,Conv2D: kernel = l2(0.1)",
        "Dense: kernel, = l2(0.1)",
        "Dense: my kernel = l2(0.1)",
        "Dense: 2kernel = l2(0.1)",
        "Dense: kernel/bias = l2(0.1)",
        "Dense: * = l2(0.1)",
        "#Dense: kernel = l2(0.1)",
        "x" * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_malformed_rules_are_refused_with_an_example(text):
    with pytest.raises(RecipeError) as raised:
        Rule.parse(text)
    assert '"Conv2D, Dense: kernel, bias = l2(0.01)"' in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    ("layers", "targets"),
    [
        ([], "kernel"),
        ("Dense", []),
        ([""], "kernel"),
        ([" "], "kernel"),
        ([None], "kernel"),
        ([5], "kernel"),
        (5, "kernel"),
        (None, "kernel"),
        ("Dense", None),
        ("Dense", [None]),
        ([keras.layers.Dense(1)], "kernel"),
        (["a:b"], "kernel"),
        (["a=b"], "kernel"),
        (["a,b"], "kernel"),
        (["a\nb"], "kernel"),
        (["a\rb"], "kernel"),
        (["a\u2028b"], "kernel"),
        (["a\x85b"], "kernel"),
        (["#a"], "kernel"),
        ("Dense", ["kernel\n"]),
        ("Dense", ["a b"]),
        ("Dense", [b"kernel"]),
    ],
    ids=named,
)
def test_what_would_not_read_back_is_refused(layers, targets):
    """A rule that is given as objects can always be written as one line of text."""
    if targets == ["kernel\n"]:
        assert Rule(layers, targets, None).targets == ("kernel",)
        return
    with pytest.raises(RecipeError, match=r"is not a (layer selector|target)|needs at least one"):
        Rule(layers, targets, None)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Dense: kernel = l3(0.1)", PenaltyError),
        ("Dense: kernel = l2(-1)", StrengthError),
        ("Dense: kernel = l2(nan)", StrengthError),
        ("Dense: kernel = __import__('os')", PenaltyError),
    ],
)
def test_errors_of_the_penalty_come_through(text, error):
    with pytest.raises(error):
        Recipe(text)


def test_a_recipe_is_ordered_rules():
    recipe = Recipe("""
        # what every layer gets
        *: kernel = l2(0.01)

        head: kernel = none  # exempt
    """)
    assert [str(rule) for rule in recipe] == ["*: kernel = l2(0.01)", "head: kernel = none"]
    assert len(recipe) == 2
    assert recipe.rules[1].penalty is None
    assert recipe == Recipe([recipe.rules[0], "head: kernel = none"])
    assert recipe != Recipe(reversed(recipe.rules))
    assert Recipe(recipe) == recipe
    assert Recipe(recipe.rules[0]) == Recipe([recipe.rules[0]])
    assert Recipe(rule for rule in recipe) == recipe


def test_an_empty_recipe_is_one_without_rules():
    assert len(Recipe([])) == len(Recipe("")) == len(Recipe("# nothing\n\n")) == 0
    assert str(Recipe([])) == ""


def test_recipes_are_immutable_and_hashable():
    recipe = Recipe("*: kernel = l2(0.01)")
    assert {recipe: 1}[Recipe("*: kernel = l2(0.01)")] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.rules = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.rules[0].penalty = None
    for again in (copy.deepcopy(recipe), pickle.loads(pickle.dumps(recipe))):
        assert again == recipe


@pytest.mark.parametrize(
    "given_", [None, 5, b"*: kernel = l2", {"*": "l2"}, [5], [None], [["*: kernel = l2"]]], ids=repr
)
def test_what_is_no_recipe_is_refused(given_):
    with pytest.raises(RecipeError, match=r"is not a (recipe|rule)"):
        Recipe(given_)


def test_open_strengths_are_filled_in():
    recipe = Recipe(
        "Dense: kernel = l1_l2(strength, 0.5*strength)\nhead: kernel = l2(0.3)\nhead: bias = none"
    )
    assert recipe.varies
    filled = recipe.at(0.1)
    assert not filled.varies
    assert [rule.penalty for rule in filled] == [L1L2(0.1, 0.05), L2(0.3), None]
    assert recipe.resolved(0.1) == filled
    assert filled.resolved(None) == filled
    assert recipe.varies, "the recipe itself stays open"


def test_a_strength_must_be_given_exactly_where_one_is_open():
    open_, closed = Recipe("Dense: kernel = l2(strength)"), Recipe("Dense: kernel = l2(0.1)")
    with pytest.raises(StrengthError, match=r"'Dense: kernel = l2\(strength\)' leaves its strength open"):
        open_.resolved(None)
    with pytest.raises(StrengthError, match="no rule of the recipe contains the word strength"):
        closed.resolved(0.1)
    for bad in (float("nan"), -1, True, "0.1"):
        with pytest.raises(StrengthError, match="must be a finite number"):
            open_.resolved(bad)


# --- round trips --------------------------------------------------------------------------------------------

selectors = st.from_regex(
    r"[^\s,:=#]([^,:=\x00-\x1f\x7f-\x9f\u2028\u2029]{0,8}[^\s,:=])?", fullmatch=True
).filter(lambda s: s.isprintable() and s == s.strip())
targets = st.from_regex(r"[^\W\d]\w{0,8}", fullmatch=True)
coefficients = st.floats(min_value=0, max_value=1e300) | st.builds(
    Multiple, st.floats(min_value=0, max_value=1e300)
)
penalties = (
    st.none()
    | st.builds(L1, coefficients)
    | st.builds(L2, coefficients)
    | st.builds(L1L2, coefficients, coefficients)
)
rules = st.builds(
    Rule, st.lists(selectors, min_size=1, max_size=3), st.lists(targets, min_size=1, max_size=3), penalties
)
recipes = st.builds(Recipe, st.lists(rules, max_size=4))


@given(rules)
def test_a_rule_reads_back_from_its_text(rule):
    assert Rule.parse(str(rule)) == rule


@given(recipes)
def test_all_forms_of_a_recipe_are_the_same_recipe(recipe):
    assert Recipe(str(recipe)) == recipe
    assert Recipe(recipe.to_list()) == recipe
    assert Recipe(json.loads(json.dumps(recipe.to_list()))) == recipe
    assert Recipe.from_toml(recipe.to_toml()) == recipe
    assert str(Recipe(str(recipe))) == str(recipe)


@given(recipes, st.floats(min_value=0, max_value=1))
def test_filling_in_commutes_with_writing(recipe, strength):
    assert Recipe(str(recipe.at(strength))) == recipe.at(strength)
    assert not recipe.at(strength).varies


@given(st.text(max_size=80))
def test_any_text_is_a_recipe_or_refused(text):
    try:
        recipe = Recipe(text)
    except ShrinkageError:
        return
    assert Recipe(str(recipe)) == recipe


def test_a_recipe_in_toml_is_a_list_of_texts():
    recipe = Recipe.from_toml('recipe = ["*: kernel = l2(strength)", "head: kernel = none"]')
    assert recipe == Recipe([Rule("*", "kernel", L2(STRENGTH)), Rule("head", "kernel", None)])
    assert Recipe.from_toml('recipe = "*: kernel = l2(strength)"') == Recipe("*: kernel = l2(strength)")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "recipe",
        "rules = []",
        "recipe = 5",
        "recipe = [5]",
        "recipe = [['*: kernel = l2']]",
        "recipe = {a = 1}",
        "recipe = " + "[" * 3000 + "]" * 3000,
        tomli_w.dumps({"recipe": ["Dense"]}),
    ],
    ids=lambda text: text[:30],
)
def test_toml_that_is_no_recipe_is_refused(text):
    with pytest.raises(RecipeError):
        Recipe.from_toml(text)


# --- one strength a rule ---------------------------------------------------------------------------------

TWO = "a: kernel = l2(strength)\nb: kernel = l1(0.1)\nc: kernel, bias = l1_l2(0.25*strength, 0.01)"


@given(st.floats(0, 1e6), st.floats(0, 1e3), st.floats(0, 1e3))
def test_each_varying_rule_is_at_its_ratio_of_the_strength(strength, first, second):
    recipe = Recipe(TWO)
    assert recipe.varying == 2
    found = [rule.penalty for rule in recipe.at(strength, (first, second))]
    expected = [L2(strength * first), L1(0.1), L1L2(0.25 * second * strength, 0.01)]
    for one, other in zip(found, expected, strict=True):
        assert one.numbers() == pytest.approx(other.numbers())
    scaled = recipe.scaled((first, second))
    assert Recipe(scaled.to_list()) == scaled
    assert scaled.at(strength) == recipe.at(strength, (first, second))


def test_without_ratios_all_are_at_the_strength():
    recipe = Recipe(TWO)
    assert recipe.at(0.3) == recipe.at(0.3, ()) == recipe.at(0.3, (1, 1.0))
    assert recipe.scaled(()) is recipe


@pytest.mark.parametrize("ratios", [(1.0,), (1.0, 1.0, 1.0), (1.0, -1.0), (1.0, float("nan")), (1.0, True)])
def test_ratios_are_strengths_and_one_a_rule(ratios):
    with pytest.raises(StrengthError):
        Recipe(TWO).at(0.3, ratios)


def test_a_recipe_of_numbers_alone_has_no_ratios():
    with pytest.raises(StrengthError, match="0 of the recipe's rules contain the word strength"):
        Recipe("a: kernel = l2(0.1)").scaled((1.0,))
