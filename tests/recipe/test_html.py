"""A recipe, a description and findings in a notebook: what ``print`` shows, and no name is markup."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import shrinkage
from shrinkage.recipe.charges import Description, Row
from shrinkage.recipe.findings import Finding, Findings


@pytest.fixture(scope="module")
def model():
    made = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(3, name="head")]
    )
    made.compile("adamw", "mse")
    shrinkage.apply(made, ["Dense: kernel = l2(1e-3)", "head: activity = l1(0.1)"])
    return made


def test_a_recipe_has_a_row_a_rule(shown):
    recipe = shrinkage.Recipe(["Conv2D, Dense: kernel, bias = l1_l2(1e-4, 1e-3)", "head: kernel = none"])
    found = shown(recipe).cells[4:]
    assert found == ["Conv2D, Dense", "kernel, bias", "l1_l2(0.0001, 0.001)", "head", "kernel", "none"]
    assert [f"{a}: {b} = {c}" for a, b, c in (found[:3], found[3:])] == str(recipe).splitlines()


def test_a_recipes_selectors_are_text(shown):
    rules = "{}: kernel = l2(1.0)\nhead: bias = none"
    found = shown(shrinkage.Recipe(rules.format("<img/src><!--")))
    assert found.elements == shown(shrinkage.Recipe(rules.format("harmless"))).elements


def test_a_description_shows_the_numbers_that_are_printed(shown, model):
    described = shrinkage.describe(model, (np.ones((5, 6), "float32"), np.ones((5, 3), "float32")))
    printed, cells = str(described).splitlines(), shown(described).cells
    width = len(printed[0].split())
    rows = [cells[1 + i : 1 + i + width] for i in range(0, width * 4, width)]
    assert [" ".join(row).split() for row in rows] == [line.split() for line in printed[:4]]
    assert cells[-1] == printed[-1]


def test_findings_show_what_is_printed(shown, model):
    findings = shrinkage.check(model)
    assert len(findings) > 0
    cells = " ".join(shown(findings).cells)
    for finding in findings:
        for part in dataclasses.astuple(finding):
            assert part in cells
            assert part in str(findings)


def test_nothing_found_is_one_sentence(shown):
    for empty in (Findings(), Description((), None)):
        assert shown(empty).cells == [str(empty)]


def test_hostile_names_are_text(shown, hostile):
    def both(name):
        row = Row(name, name, (3, None), name, 0.1, None, 0.5)
        finding = Finding("SH999", name, name, name, name)
        return [shown(thing).elements for thing in (Description((row,), 1.0), Findings((finding,)))]

    assert both(hostile) == both("harmless")
