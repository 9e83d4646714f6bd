"""A study in plain words: each number stands in a fact that its sentence names, and any study can be told."""

from __future__ import annotations

import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkage.report.explain import (
    COMPARED,
    CURVES,
    REAL,
    STRONG,
    TOPICS,
    UNTESTED,
    WON,
    ZEROS,
    explain,
    wrapped,
)
from shrinkage.report.said import FORMS
from shrinkage.study import words
from shrinkage.study.compare import summarise
from shrinkage.study.evidence import ArmEvidence, Charged, DataFacts, Evidence, LayerWeights, Node
from shrinkage.study.resampling import Resampling
from shrinkage.study.results import Results

NAN = float("nan")
NUMBER = re.compile(r"(?<![\w.-])-?\d(?:[\d,]*\d)?(?:\.\d+)?(?:e-?\d+)?")


def study(
    arms, *, seeds=5, folds=None, repeats=1, baseline="none", classification=True, curves=True, margin=None
):
    """A summary: ``arms`` maps arm -> {strength: validation loss, or (validation, test loss, accuracy)}.

    Each may be a function of the seed; NaN diverges, and minus a loss is stopped.
    """
    rows, epochs = [], []
    for arm, by_strength in arms.items():
        for (strength, scores), seed, fold in itertools.product(
            by_strength.items(), range(seeds), range(folds * repeats) if folds else [-1]
        ):
            values = scores(seed + 7 * max(fold, 0)) if callable(scores) else scores
            loss, test, accuracy = values if isinstance(values, tuple) else (values, abs(values), 0.5)
            state = "diverged" if math.isnan(loss) else "stopped" if loss < 0 else "complete"
            key = {"arm": arm, "strength": NAN if strength is None else strength, "seed": seed, "fold": fold}
            measured = {"train_data_loss": abs(loss) - 0.01, "val_data_loss": abs(loss)}
            rows.append(
                {**key, **measured, "state": state, "epochs": 3, "test_data_loss": test}
                | ({"val_accuracy": accuracy, "test_accuracy": accuracy} if classification else {})
            )
            epochs += [{**key, **measured, "epoch": epoch} for epoch in (1, 2, 3)]
    return summarise(
        pd.DataFrame(rows), pd.DataFrame(epochs) if curves else None, baseline=baseline,
        classification=classification, margin=margin,
        resampling=Resampling(folds, 0.25, repeats) if folds else None,
    )  # fmt: skip


def looked(summary, *, penalties=None, zeros=0, optimizer="adam", live=8):
    """What was seen of the arms of a summary: two layers of kernels, and one penalty an arm."""
    layers = (
        LayerWeights("dense", 1000, zeros, 1.5, 8, live, (0.0, 1.0), (3,)),
        LayerWeights("head", 234, 0, 1.0, None, None, (0.0, 1.0), (3,)),
    )
    arms = []
    for arm in summary.arms:
        if arm.selection.chosen is not None:
            penalty = (penalties or {}).get(arm.arm, "l2(0.1)")
            free = arm.is_baseline
            charged = () if free else (Charged("dense", "kernel", penalty, 0.2, 1.0),)
            recipe = () if free else (f"Dense: kernel = {penalty}",)
            arms.append(
                ArmEvidence(
                    arm.arm, arm.selection.strength, 0, -1, recipe, charged, () if free else layers, (), ()
                )
            )
    classes = ("a", "b") if summary.classification else ()
    data = DataFacts("blobs", (5,), "float32", classes, 12345, 678, 901, (), ())
    network = (Node("in", "Input", (5,), 0, ()), Node("dense", "Dense", (8,), 48, (0,)))
    return Evidence("shrinkage.models:mlp", optimizer, "mse", data, network, tuple(arms))


def told(summary, evidence=None):
    """The explanation, checked, as one text a topic."""
    evidence = evidence or looked(summary)
    said = explain(summary, evidence)
    check(said, {**summary.to_json(), "evidence": evidence.to_json()})
    return {topic: " ".join(s.sentence for s in of) for topic, of in itertools.groupby(said, topic_of)}


def topic_of(said):
    return said.topic


# --- numbers and facts ----------------------------------------------------------------------------------


def value_at(stored, path):
    """What ``summary.json`` holds at a path; ``[*]`` sums."""
    head, star, tail = path.partition("[*].")
    for part in re.findall(r"\w+|\[\d+\]", head):
        stored = stored[int(part[1:-1])] if part[0] == "[" else stored[part]
    return sum(item[tail] or 0 for item in stored) if star else stored


def forms_of(value):
    """Every way in which a value may be written."""
    if isinstance(value, dict | list):
        return [str(len(value))]
    if isinstance(value, str) or value is None or isinstance(value, bool):
        return [words.plain(str(value))]
    both = [form(x) for x in (value, abs(value)) for form in (words.number, words.percent, words.p_value)]
    return [*both, words.amount(value, True), words.amount(abs(value), True), f"{value:,}"]


def check(said, stored):
    """Assert that each sentence is one, and that each of its numbers is a fact's."""
    stored = json.loads(json.dumps(stored, allow_nan=False))
    topics = [one.topic for one in said]
    assert topics == sorted(topics, key=TOPICS.index)
    for one in said:
        assert one.facts, one
        assert re.fullmatch(r"\S.*\.", one.sentence), one
        assert one.sentence.isprintable(), one
        assert not re.search(r"\bnan\b|n/a|None\b|  |,,|\.\.", one.sentence), one
        written = [form for path in one.facts for form in forms_of(value_at(stored, path))]
        backed = {number for text in written for number in NUMBER.findall(text)}
        without = re.sub(
            r"\(1-SE\)|includes 0,|without 0;|\b(95|90|80) % (interval|of such)|in 95 %", "", one.sentence
        )
        assert set(NUMBER.findall(without)) <= backed, one


def test_the_check_finds_a_number_that_no_fact_backs():
    summary = study({"none": {None: 0.5}, "l2": {0.1: 0.4}})
    evidence = looked(summary)
    stored = {**summary.to_json(), "evidence": evidence.to_json()}
    (first, *rest) = explain(summary, evidence)
    check((first, *rest), stored)
    stored["evidence"]["data"]["train"] += 1
    with pytest.raises(AssertionError):
        check((first, *rest), stored)


def test_the_forms_are_those_of_the_words():
    assert FORMS["number"](0.12345) == "0.123"
    assert FORMS["percent"](0.5) == "50.0 %"
    assert FORMS["points apart"](-0.006) == "0.6 points"
    assert FORMS["value apart"](-0.006) == "0.006"
    assert FORMS[""](12345) == "12,345"
    assert FORMS[""]("a\x1b[31m\nb") == "a?[31m b"
    assert FORMS["kind"]("l1_l2(l1=1e-05, l2=1e-4)") == "l1_l2"


finite = st.floats(1e-9, 1e9)
losses = st.one_of(finite, finite, finite.map(lambda x: -x), st.just(NAN))
cells = st.tuples(losses, st.one_of(finite, st.just(NAN)), st.one_of(st.floats(0, 1), st.just(NAN)))
strengths = st.one_of(st.just([None]), st.lists(st.floats(1e-8, 1e8), min_size=1, max_size=3, unique=True))
NAMES = ["none", "l2", "L1 of 7", "{x} [bold]\n\x1b[31m", "λ = 5 %"]


@st.composite
def studies(draw):
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True))
    arms = {}
    for name in names:
        table = {strength: draw(st.lists(cells, min_size=3, max_size=3)) for strength in draw(strengths)}
        arms[name] = {strength: lambda i, values=values: values[i % 3] for strength, values in table.items()}
    summary = study(
        arms,
        seeds=draw(st.integers(1, 3)),
        folds=draw(st.sampled_from([None, None, 2, 3])),
        repeats=draw(st.sampled_from([1, 2])),
        baseline=draw(st.sampled_from([None, names[0]])),
        classification=draw(st.booleans()),
        curves=draw(st.booleans()),
        margin=draw(st.sampled_from([None, 0.01, 0.5])),
    )
    penalty = st.sampled_from(["l1(0.1)", "l2(1e-05)", "group_lasso(3)", "Own"])
    evidence = looked(
        summary,
        penalties={name: draw(penalty) for name in names},
        zeros=draw(st.sampled_from([0, 0, 1000])),
        live=draw(st.sampled_from([8, 3])),
        optimizer=draw(st.sampled_from(["adam", "proximal(adam)"])),
    )
    return summary, evidence


@given(studies())
@settings(max_examples=100)
def test_any_study_can_be_told_and_every_number_is_a_facts(drawn):
    summary, evidence = drawn
    topics = told(summary, evidence)
    assert {COMPARED, WON, UNTESTED} <= topics.keys()


@pytest.mark.thorough
@pytest.mark.jax_only
def test_a_run_is_told_from_its_directory(tmp_path):
    from shrinkage import Study

    rule = "Dense: kernel = l1(strength)"
    arms = [{"name": "sparse", "recipe": rule, "strengths": [1e-3, 1e-1]}]
    Study(
        "shrinkage.models:mlp", "digits", arms=arms, seeds=2,
        model_options={"hidden": [4]}, training={"epochs": 1},
    ).run(tmp_path)  # fmt: skip
    results = Results.load(tmp_path)
    said = explain(results.summary, results.evidence)
    check(said, json.loads((tmp_path / "summary.json").read_text()))
    whole = " ".join(one.sentence for one in said)
    assert "1,150 rows to learn from, 288 to choose by" in whole
    assert "Tried were l1 on kernel; no other" in whole


# --- what is said ---------------------------------------------------------------------------------------


def steady(val, test, accuracy):
    """Scores that hardly differ from seed to seed."""
    return lambda seed: (val, test + 1e-3 * np.sin(seed), accuracy + 1e-3 * np.cos(3 * seed))


def wild(val, test, accuracy):
    """Scores whose mean says little."""
    return lambda seed: (val, test + 0.2 * np.sin(seed), accuracy + 0.2 * np.cos(3 * seed))


BASE = {None: lambda seed: (0.5, 0.5, 0.8)}


def test_a_better_arm():
    text = told(study({"none": BASE, "l2": {0.01: steady(0.4, 0.4, 0.9), 0.1: 0.6}}))
    assert (
        "l2 at λ = 0.01 has the lowest mean loss on validation data: 0.4, against 0.5 for none" in text[WON]
    )
    assert "l2 at λ = 0.01 has an accuracy of 90.0 %" in text[WON]
    assert "points higher" in text[WON]
    assert "that is better by more than chance explains (p < 0.001)" in text[REAL]
    assert "p is the chance" in text[REAL]
    assert "several arms" not in text[REAL]
    assert text[REAL].endswith("So: use l2 at λ = 0.01.")


def test_no_difference_says_what_could_have_been_found():
    summary = study({"none": BASE, "l2": {0.01: wild(0.4, 0.5, 0.8), 0.1: 0.6}})
    text = told(summary)
    assert "it includes 0, so chance may be all there is. 5 seeds find a true difference of" in text[REAL]
    assert words.amount(summary.arm("l2").accuracy.test.detectable, True) in text[REAL]
    assert "p is the chance" not in text[REAL]
    assert text[REAL].endswith(summary.headline[-1])


def test_worse_on_test_data():
    text = told(study({"none": BASE, "l2": {0.01: steady(0.4, 0.9, 0.5)}}))
    assert "that is worse by more than chance explains" in text[REAL]
    assert "So: stay with none: what won on validation data is worse on test data." in text[REAL]


def test_a_trade_names_both_measures():
    text = told(study({"none": BASE, "l2": {0.01: steady(0.4, 0.9, 0.9)}}))
    assert "l2 at λ = 0.01 and none, accuracy: " in text[REAL]
    assert "l2 at λ = 0.01 and none, loss: " in text[REAL]
    assert "So: a trade" in text[REAL]


def test_the_baseline_wins():
    text = told(study({"none": BASE, "l2": {0.01: steady(0.6, 0.6, 0.7)}}))
    assert text[WON].startswith(
        "none, the baseline, has the lowest mean loss on validation data: 0.5, against"
    )
    assert "So: stay with none" in text[REAL]


def test_an_interval_without_zero_is_no_verdict_after_holm():
    more = [0.034, 0.054, 0.014, 0.074, 0.004]  # p = 0.048, and twice that for two arms
    arms = {f"l{i}": {None: lambda seed, i=i: (0.4 + i / 100, 0.4, 0.8 + more[seed])} for i in range(2)}
    text = told(study({"none": BASE, **arms}))
    assert "without 0; but of several arms one comes that far by chance too easily (p = 0.09" in text[REAL]
    assert "p is the chance of a difference at least as large if there were none, corrected for" in text[REAL]


@pytest.mark.parametrize(
    ("seeds", "accuracy", "says"),
    [
        (5, 0.8, "the same for all 5 seeds, none."),
        (3, 0.9, "the same for all 3 seeds; but so few agree by chance too easily."),
        (5, 0.9, "the same for all 5 seeds; that is better, with no spread to doubt it by."),
    ],
)
def test_equal_differences(seeds, accuracy, says):
    text = told(study({"none": BASE, "l2": {0.01: (0.4, 0.5, accuracy)}}, seeds=seeds))
    assert f"l2 at λ = 0.01 and none, accuracy: the difference is {says}" in text[REAL]


def test_one_seed_can_not_tell():
    text = told(study({"none": BASE, "l2": {0.01: 0.4, 0.1: 0.6}, "l1": {0.01: 0.41}}, seeds=1))
    assert text[REAL].count("With one seed luck can't be told from merit: run more seeds.") == 1
    assert "Other seeds were not tried." in text[UNTESTED]
    assert "from 1 seed:" in text[COMPARED]
    assert "averaged" not in text[WON]


def test_folds():
    text = told(study({"none": BASE, "l2": {0.01: wild(0.4, 0.5, 0.8)}}, folds=3, seeds=2))
    assert "in turn in 3 folds, and" in text[COMPARED]
    again = told(study({"none": BASE, "l2": {0.01: wild(0.4, 0.5, 0.8)}}, folds=3, repeats=2, seeds=1))
    assert "in turn in 3 folds, 2 times over, and" in again[COMPARED]
    assert "what 3 folds showed" in text[REAL]
    assert "of the rows that each of 3 folds holds out" in text[REAL]
    assert not re.search("higher|lower", text[WON].partition("On test data")[2])
    assert "one split" not in text[UNTESTED]


@pytest.mark.parametrize(
    ("third", "says"),
    [(0.1, "; it is chosen also with any fold left out."), (9.0, "λ = 0.01 to 0.1 are chosen.")],
)
def test_folds_tell_whether_the_strength_is_stable(third, says):
    by_strength = {0.01: lambda i: 9.0 if i == 14 else 0.1, 0.1: lambda i: third if i == 0 else 0.05}
    text = told(study({"none": BASE, "l2": by_strength}, folds=3, seeds=1))
    assert says in text[STRONG]


def test_equivalence_is_told_with_its_margin():
    summary = study({"none": BASE, "l2": {0.01: steady(0.4, 0.5, 0.8)}}, margin=0.01)
    text = told(summary)
    assert summary.arm("l2").verdict == "equivalent"
    assert "it is under 1 point, the margin set as one that does not matter: the 90 % interval" in text[REAL]
    assert text[REAL].endswith("So: l2 at λ = 0.01 is within 1 point of none; the simpler one is enough.")


def test_what_would_settle_it_is_told():
    summary = study({"none": BASE, "l2": {0.01: wild(0.4, 0.5, 0.8)}}, margin=0.1)
    more = summary.arm("l2").accuracy.more
    assert f"About {more} more seeds would settle it." in told(summary)[REAL]


def test_a_regression_has_no_accuracy_and_no_classes():
    text = told(study({"none": BASE, "l2": {0.01: wild(0.4, 0.5, 0)}}, classification=False))
    assert not re.search("accuracy|classes|points", " ".join(text.values()))
    assert "the 95 % interval goes from" in text[REAL]


def test_every_arm_diverged():
    text = told(study({"none": {None: NAN}, "l2": {0.01: NAN, 0.1: NAN}}))
    assert text[WON].startswith("Nothing can be recommended")
    assert not {REAL, STRONG, ZEROS} & text.keys()
    assert "diverged, the loss of a trial was no longer a finite number" in text[CURVES]
    assert "l2: 10 of 10 trials diverged" in text[UNTESTED]
    assert "Test data" not in text[UNTESTED]
    assert "Tried were" not in text[UNTESTED]


def test_no_baseline():
    text = told(study({"l1": {0.1: 0.4}, "l2": {0.1: 0.5}}, baseline=None))
    assert text[REAL] == "No baseline was trained, so no differences are stated."
    assert "the baseline" not in text[COMPARED]


def test_a_larger_strength_that_is_as_good():
    near = {0.01: lambda s: 0.4 + 0.01 * s, 0.1: lambda s: 0.401 + 0.01 * s, 1.0: 0.9}
    text = told(study({"none": BASE, "l2": near}))
    assert "of 3 strengths, λ = 0.01 has the lowest mean loss on validation data, 0.42" in text[STRONG]
    assert "λ = 0.1 is as good within the error, with 0.421" in text[STRONG]
    assert "a mean over 5 seeds" in text[STRONG]
    alone = told(study({"none": BASE, "l2": {0.01: 0.4, 0.1: 0.6}}))
    assert "within the error" not in alone[STRONG]
    assert STRONG not in told(study({"none": BASE, "fixed": {None: 0.4}}))


def test_what_was_stopped_or_diverged_or_lies_beyond_the_grid():
    text = told(study({"none": BASE, "l2": {0.01: 0.4, 0.1: -0.5, 1.0: -0.6, 10.0: NAN}}))
    assert "of 4 strengths (2 stopped on the way and 1 with diverged trials), λ = 0.01" in text[STRONG]
    assert "l2: 10 of 20 trials were stopped on the way" in text[UNTESTED]
    assert "l2: 5 of 20 trials diverged" in text[UNTESTED]
    assert "smallest tried, so the optimum may lie below it" in text[UNTESTED]


def test_arms_that_train_alike_are_told_together():
    text = told(study({"none": BASE, "also": BASE, "bad": {None: NAN}}))
    assert text[CURVES].count("underfit, next to nothing was learned") == 1
    assert "none and also: " in text[CURVES]
    assert "bad: diverged" in text[CURVES]


def test_a_sparse_penalty_without_zeros_is_told_why():
    summary = study({"none": BASE, "l1": {0.01: 0.4}, "l2": {0.01: 0.45}})
    text = told(summary, looked(summary, penalties={"l1": "l1(0.01)"}))
    assert "l1, in its best trial: none of 1,234 kernel weights is exactly zero." in text[ZEROS]
    assert 'a step of adam jumps over it; with optimizer = "proximal(adam)"' in text[ZEROS]
    assert "l2" not in text[ZEROS]
    weak = told(summary, looked(summary, penalties={"l1": "l1(0.01)"}, optimizer="proximal(adam)"))
    assert weak[ZEROS].endswith("Larger strengths make zeros.")
    assert ZEROS not in told(summary, looked(summary))


def test_zeros_are_counted_and_what_they_allow():
    summary = study({"none": BASE, "l1": {0.01: 0.4}})
    penalties = {"l1": "l1(0.01)"}
    text = told(summary, looked(summary, penalties=penalties, zeros=700, live=3))
    assert (
        "l1, in its best trial: 700 of 1,234 kernel weights are exactly zero, and 3 of 8 units" in text[ZEROS]
    )
    assert "shrinkage compact removes them" in text[ZEROS]
    assert "proximal" not in text[ZEROS]
    dense = told(summary, looked(summary, penalties=penalties, zeros=700))
    assert "compact" not in dense[ZEROS]


def test_a_name_is_never_more_than_text():
    summary = study({"none": BASE, "{0} \x1b[31m\n%s": {0.01: 0.4}})
    text = told(summary)
    assert "{0} ?[31m %s at λ = 0.01" in text[WON].replace("  ", " ")


# --- paragraphs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [5, 40, 80, 300])
def test_paragraphs_keep_every_word_and_the_width(width):
    summary = study({"none": BASE, "l2": {0.01: steady(0.4, 0.4, 0.9), 0.1: 0.6}})
    said = explain(summary, looked(summary))
    lines = wrapped(said, width).splitlines()
    assert all(
        len(line) <= max(20, min(width, 100)) or " " not in line for line in lines if line not in TOPICS
    )
    paragraphs = wrapped(said, width).split("\n\n")
    topics = [topic for topic, _ in itertools.groupby(said, topic_of)]
    assert [paragraph.partition("\n")[0] for paragraph in paragraphs] == topics
    together = " ".join(paragraph.partition("\n")[2].replace("\n", " ") for paragraph in paragraphs)
    assert together == " ".join(one.sentence for one in said)
    if width >= 40:
        assert not any(line.startswith("%") or line.endswith(("λ", "λ =", "p =")) for line in lines)
