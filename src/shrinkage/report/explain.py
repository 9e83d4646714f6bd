"""The same facts in plain words: what was compared, what won, whether that is real, what was not tested.

Every sentence is built from facts in ``summary.json``, and names them. Nothing is computed here but sums.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby

from shrinkage.report.after import after, before
from shrinkage.report.said import Fact, Said, Text, arm_called, counted, each, listed, named, tell
from shrinkage.report.won import is_scored, real, won
from shrinkage.study.evidence import ArmEvidence, Evidence
from shrinkage.study.final import Nested, Refit, Searched
from shrinkage.study.summary import ArmSummary, Diagnosis, Summary

COMPARED, WON, REAL, STRONG, AFTER, CURVES, ZEROS, UNTESTED = TOPICS = (
    "What was compared",
    "What won",
    "Is the difference real?",
    "How strong",
    "After the choice",
    "How training went",
    "Exact zeros",
    "What was not tested",
)

_WIDEST = 100  # columns that are still read with ease
#: Penalties that are meant to make weights exactly zero.
_SPARSE = ("l1", "l1_l2", "group_lasso", "sparse_group_lasso")


def explain(
    summary: Summary,
    evidence: Evidence,
    refit: Refit | None = None,
    nested: Nested | None = None,
    search: Searched | None = None,
) -> tuple[Said, ...]:
    """Explain a study to people.

    Parameters
    ----------
    summary, evidence
        What a run found, and what it looked at.
    refit, nested, search
        What came after the choice and before it, where there is any.

    Returns
    -------
    tuple of Said
        One record a sentence, in the order of `TOPICS`; a topic that has nothing to say is left out.
    """
    facts, seen = Fact("", summary), Fact("evidence", evidence)
    told = {
        COMPARED: _compared(summary, evidence, facts, seen),
        WON: won(summary, facts),
        REAL: real(summary, facts),
        STRONG: (*_strong(summary, facts), *before(search)),
        AFTER: after(refit, nested),
        CURVES: _curves(facts),
        ZEROS: _zeros(evidence, seen),
        UNTESTED: _untested(summary, evidence, facts, seen),
    }
    return tuple(
        Said(topic, text.words, tuple(dict.fromkeys(text.facts))) for topic in TOPICS for text in told[topic]
    )


def wrapped(said: Iterable[Said], width: int) -> str:
    """Return the sentences as paragraphs, each under its topic.

    Parameters
    ----------
    said
        In order of topic.
    width
        Columns of the terminal.
    """
    width = max(20, min(width, _WIDEST))
    parts = []
    for topic, sentences in groupby(said, lambda one: one.topic):
        text = " ".join(one.sentence for one in sentences)
        whole = re.sub(r"(?<=[λp]) = | (?=%)", lambda found: found[0].replace(" ", "\xa0"), text)
        text = textwrap.fill(whole, width, break_long_words=False, break_on_hyphens=False)
        parts.append(f"{topic}\n{text}")
    return "\n\n".join(parts).replace("\xa0", " ")


# --- what was compared ----------------------------------------------------------------------------------


def _compared(summary: Summary, evidence: Evidence, facts: Fact, seen: Fact) -> Iterator[Text]:
    data = seen.data
    classes = tell(" ({data.classes:how many} classes)", data=data) if evidence.data.classes else ""
    yield tell(
        "{seen.model} was trained on the data set {data.name}{classes}: {data.train} rows to learn from, "
        "{data.validation} to choose by (validation data){turns}, and {data.test} kept for the end (test "
        "data).",
        seen=seen,
        data=data,
        classes=classes,
        turns=_turns(summary, facts),
    )
    looked = {arm.arm: fact for arm, fact in zip(evidence.arms, _items(seen.arms), strict=True)}
    arms = [_entered(arm, fact, looked.get(arm.arm)) for arm, fact in each(facts)]
    options = [option for arm in evidence.arms for option in arm.options]
    recipes = "recipes of penalties and other options" if options else "recipes of penalties"
    plural = f"arms, that is {recipes}, were" if len(arms) > 1 else "arm, that is recipe, was"
    yield tell(
        "{arms:how many} {plural} compared: {each}.", arms=facts.arms, plural=plural, each=listed(arms)
    )
    if any(arm.selection.strengths for arm in summary.arms):
        or_value = ", or the value of an option" if any(o.endswith(" = strength") for o in options) else ""
        yield tell(f"A strength, λ, is the number that a penalty is multiplied by{or_value}.", facts.arms)
    longest = max(summary.arms, key=lambda arm: arm.diagnosis.epochs if arm.diagnosis else 0)
    epochs: Text | str = ""
    if longest.diagnosis and longest.diagnosis.epochs:
        epochs = tell(" for up to {n}", n=counted(arm_called(longest.arm, facts).diagnosis.epochs, "epoch"))
    yield tell(
        "Each was trained{epochs} with {seen.optimizer}, from {seeds}{folds}: a seed is the number that all "
        "chance in training is drawn from, and the arms share theirs.",
        epochs=epochs,
        seen=seen,
        seeds=counted(facts.seeds, "seed"),
        folds=f" in each {summary.over[:-1]}" if summary.folds else "",
    )
    yield tell("The loss, {seen.loss}, is always given without the penalty; lower is better.", seen=seen)


def _turns(summary: Summary, facts: Fact) -> Text:
    """Say how often the rows to learn from and to choose by change places."""
    if not summary.folds or (summary.over == "splits" and summary.folds == 1):
        return Text("", ())
    if summary.over == "splits":
        return tell(", drawn anew in each of {folds} splits", folds=facts.folds)
    if summary.repeats == 1:
        return tell(", in turn in {folds} folds", folds=facts.folds)
    return tell(", in turn in {folds} folds, {n} times over", folds=facts.folds, n=facts.repeats)


def _items(facts: Fact) -> list[Fact]:
    return [facts[i] for i in range(len(facts.value))]


def _entered(arm: ArmSummary, fact: Fact, seen: Fact | None) -> Text:
    if arm.is_baseline:
        free = "without penalties, " if seen and not seen.value.recipe else ""
        return tell("{arm.arm} ({free}the baseline)", fact.is_baseline, arm=fact, free=free)
    tried, options = arm.selection.strengths, _items(seen.options) if seen else []
    many = fact.selection.strengths
    if tried:
        how = "{many:how many} strengths, λ = {low:number} to {high:number}"
        only = "one strength, λ = {low:number}"
        text = tell(how if len(tried) > 1 else only, many, many=many, low=many[0], high=many[len(tried) - 1])
    else:
        bare = seen is not None and not seen.value.recipe
        text = tell("no penalty" if bare else "a fixed strength", many)
    if options:
        text += tell("; with ") + listed([tell("{option:option}", option=option) for option in options])
    return tell("{arm.arm} ({text})", arm=fact, text=text)


# --- how strong -----------------------------------------------------------------------------------------


def _strong(summary: Summary, facts: Fact) -> Iterator[Text]:
    chosen = [
        (arm, fact)
        for arm, fact in each(facts)
        if arm.selection.strengths and arm.selection.chosen is not None
    ]
    for arm, fact in chosen:
        yield _choice(arm, fact)
    larger = [fact.selection.one_se for arm, fact in chosen if _has_larger(arm)]
    if larger:
        yield tell(
            "As good within the error means: above the lowest by no more than its standard error, the "
            "uncertainty of a mean over {n}. The larger strength (1-SE) makes the simpler model: take it "
            "where that counts.",
            *larger,
            n=counted(larger[0].val_data_loss.n, summary.over[:-1]),
        )


def _has_larger(arm: ArmSummary) -> bool:
    return arm.selection.one_se is not None and arm.selection.one_se_strength != arm.selection.strength


def _choice(arm: ArmSummary, fact: Fact) -> Text:
    choice, cell = fact.selection, fact.selection.chosen
    if len(arm.selection.strengths) == 1:
        only = "{arm.arm}: λ = {cell.strength:number} is the only strength that was tried."
        return tell(only, choice.strengths, arm=fact, cell=cell)
    out = [
        (choice.stopped, "stopped on the way"),
        (choice.ineligible, "with diverged trials"),
        (choice.partial, f"explored on fewer {arm.selection.over}"),
    ]
    without = [tell("{n} {why}", n=n, why=why) for n, why in out if n.value]
    text = tell(
        "{arm.arm}: of {choice.strengths:how many} strengths{without}, λ = {cell.strength:number} has "
        "the lowest mean loss on validation data, {cell.val_data_loss.mean:number}",
        arm=fact,
        choice=choice,
        without=tell(" ({without})", without=listed(without)) if without else "",
        cell=cell,
    )
    if _has_larger(arm):
        within = (
            "; λ = {cell.strength:number} is as good within the error, with {cell.val_data_loss.mean:number}"
        )
        text += tell(within, cell=choice.one_se)
    return text + _stable(arm, choice) + tell(".")


def _stable(arm: ArmSummary, choice: Fact) -> Text:
    """Say what would have been chosen with another split left out."""
    found = arm.selection.stability
    if found is None or len(found.strengths) < 2:
        return Text("", ())
    if set(found.strengths) == {arm.selection.strength}:
        also = f"; it is chosen also with any {arm.selection.over[:-1]} left out"
        return tell(also, choice.stability.share)
    least, most = (found.strengths.index(end(found.strengths)) for end in (min, max))
    return tell(
        "; with one {unit} left out in turn, strengths from λ = {low:number} to {high:number} are chosen",
        unit=arm.selection.over[:-1],
        low=choice.stability.strengths[least],
        high=choice.stability.strengths[most],
    )


# --- how training went ----------------------------------------------------------------------------------


def _curves(facts: Fact) -> Iterator[Text]:
    """Say what the curves show, once for all arms that show the same."""
    groups: dict[str, tuple[list[Text], list[Text]]] = {}
    for arm, fact in each(facts):
        if arm.diagnosis is not None:
            shown = tell(
                "{shown}. {found.next_step}",
                shown=_shown(arm.diagnosis, fact.diagnosis),
                found=fact.diagnosis,
            )
            names, same = groups.setdefault(shown.words, ([], []))
            names.append(named(fact))
            same.append(shown)
    for names, same in groups.values():
        yield tell("{names}: ", names=listed(names)) + Text(same[0].words, listed(same).facts)


def _shown(found: Diagnosis, fact: Fact) -> Text:
    turned = ": validation loss was lowest at epoch {fact.turn_epoch} and then rose by {fact.rise:number}"
    if found.status == "diverged":
        why = ", the loss of a trial was no longer a finite number"
    elif found.status == "good":
        why = ", neither underfit nor overfit" + (turned if found.turn_epoch is not None else "")
    elif found.status == "underfit":
        why = ", it learned less than it could" if found.learned else ", next to nothing was learned"
    elif found.gap_grew:
        why = f", it went on learning the training rows and no longer what carries over{turned}"
    else:
        why = ", it fits the training rows closer than the best arm, and new rows worse"
    return tell(f"{{fact.status}}{why}", fact=fact)


# --- exact zeros ----------------------------------------------------------------------------------------


def _zeros(evidence: Evidence, seen: Fact) -> Iterator[Text]:
    removable, dense = [], []
    for i, arm in enumerate(evidence.arms):
        fact, meant = seen.arms[i], _meant_sparse(arm, seen.arms[i])
        zeros, weights = fact.layers.sum("zeros"), fact.layers.sum("weights")
        units, live = fact.layers.sum("units"), fact.layers.sum("live_units")
        if zeros.value:
            in_use = tell(", and {live} of {units} units are still in use", live=live, units=units)
            yield tell(
                "{arm.arm}, in its best trial: {zeros} of {weights} kernel weights are exactly zero{in_use}.",
                arm=fact,
                zeros=zeros,
                weights=weights,
                in_use=in_use if units.value else "",
            )
            removable += [live, units] if live.value < units.value else []
        elif meant:
            yield tell(
                "{arm.arm}, in its best trial: none of {weights} kernel weights is exactly zero.",
                zeros,
                arm=fact,
                weights=weights,
            )
            dense += meant
    if removable:
        yield tell(
            "The other units do nothing: shrinkage compact removes them, the outputs stay.", *removable
        )
    if dense and "proximal" in evidence.optimizer.lower():
        yield tell("Larger strengths make zeros.", seen.optimizer, *dense)
    elif dense:
        yield tell(
            "The penalty pulls weights towards zero, but a step of {seen.optimizer} jumps over it; with "
            'optimizer = "proximal(adam)" in [training] they stop there, and shrinkage compact makes a '
            "smaller model of that.",
            *dense,
            seen=seen,
        )


def _meant_sparse(arm: ArmEvidence, fact: Fact) -> list[Fact]:
    """Return the penalties of an arm that are meant to make weights of its kernels zero."""
    return [
        fact.charged[i].penalty
        for i, charged in enumerate(arm.charged)
        if charged.penalty.partition("(")[0] in _SPARSE and charged.target.endswith(("kernel", "unit"))
    ]


# --- what was not tested --------------------------------------------------------------------------------


def _untested(summary: Summary, evidence: Evidence, facts: Fact, seen: Fact) -> Iterator[Text]:
    for arm, fact in each(facts):
        if arm.edge_note is not None:
            yield tell("{note}", note=fact.edge_note)
        if arm.diverged:
            yield tell(
                "{arm.arm}: {arm.diverged} of {arm.trials} trials diverged; how it does at a lower learning "
                "rate is not known.",
                arm=fact,
            )
        stopped = fact.cells.sum("stopped")
        if stopped.value:
            yield tell(
                "{arm.arm}: {stopped} of {arm.trials} trials {were} stopped on the way, where other "
                "strengths did better, or a larger one as well; what they would have come to is not known.",
                arm=fact,
                stopped=stopped,
                were="was" if stopped.value == 1 else "were",
            )
    kinds = list(_kinds(evidence, seen))
    if kinds and len(evidence.arms) == len(summary.arms):
        yield tell(
            "Tried were {kinds}; no other kind of penalty, and on no other target.",
            kinds=listed(kinds, ", and "),
        )
    if summary.seeds == 1:
        yield tell("Other seeds were not tried.", facts.seeds)
    if summary.over == "seeds":
        yield tell(
            "All trials share one split of the data; how much another would change is not known, and folds "
            "would tell.",
            facts.over,
        )
    yield tell(
        "All this is for {seen.model}, trained as it was: another model, learning rate or number of epochs "
        "may answer otherwise.",
        seen=seen,
    )
    if any(is_scored(arm) for arm in summary.arms):
        yield tell(
            "Test data was scored once, for what had been chosen: who chooses again, having seen these "
            "scores, needs new test data.",
            *(fact.selection.chosen.test_data_loss.n for arm, fact in each(facts) if is_scored(arm)),
        )


def _kinds(evidence: Evidence, seen: Fact) -> Iterator[Text]:
    """Yield each kind of penalty with the targets that it was tried on."""
    targets: dict[str, dict[str, Fact]] = {}
    kinds: dict[str, Fact] = {}
    for i, arm in enumerate(evidence.arms):
        for j, charged in enumerate(arm.charged):
            fact = seen.arms[i].charged[j]
            kind = charged.penalty.partition("(")[0]
            kinds.setdefault(kind, fact.penalty)
            targets.setdefault(kind, {}).setdefault(charged.target, fact.target)
    for kind, found in targets.items():
        on = listed([tell("{target}", target=target) for target in found.values()])
        yield tell("{penalty:kind} on {on}", penalty=kinds[kind], on=on)
