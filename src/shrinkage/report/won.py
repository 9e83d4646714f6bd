"""What won and whether that is real, in words that need no statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator

from shrinkage.report.said import Fact, Text, arm_called, counted, each, listed, named, tell
from shrinkage.study import words
from shrinkage.study.power import ALPHA, POWER
from shrinkage.study.stats import PairedTest
from shrinkage.study.summary import ArmSummary, Difference, Summary

_SURE, _BOTH, _POWER = (f"{x:.0%}".replace("%", " %") for x in (1 - ALPHA, 1 - 2 * ALPHA, POWER))


# --- what won -------------------------------------------------------------------------------------------


def won(summary: Summary, facts: Fact) -> Iterator[Text]:
    """Say which arm has the lowest loss on validation data, and what every arm has on test data."""
    best = summary.recommended
    if best is None:
        yield tell("{headline}", headline=facts.headline[0])
        return
    losses = [
        tell("{loss:number} for {name}", loss=fact.selection.chosen.val_data_loss.mean, name=named(fact))
        for arm, fact in each(facts)
        if arm.arm != best.arm and arm.selection.chosen is not None
    ]
    yield tell(
        "{name}{baseline} has the lowest mean loss on validation data: {loss:number}{others}.",
        facts.recommended.is_baseline,
        name=named(arm_called(best.arm, facts)),
        baseline=", the baseline," if best.is_baseline else "",
        loss=facts.recommended.val_data_loss.mean,
        others=tell(", against {losses}", losses=listed(losses)) if losses else "",
    )
    scored = [(arm, fact) for arm, fact in _ranked(summary, facts) if is_scored(arm)]
    for i, (arm, fact) in enumerate(scored):
        units = fact.selection.chosen.test_data_loss.n
        mean = tell(" averaged over {n},", n=counted(units, summary.over[:-1])) if units.value > 1 else ""
        lead = tell("On test data, which had no say in that,{mean} ", mean=mean)
        yield tell(
            "{lead}{name} has {scores}.", lead="" if i else lead, name=named(fact), scores=_scores(arm, fact)
        )


def is_scored(arm: ArmSummary) -> bool:
    """Return whether an arm has scores on test data."""
    return arm.selection.chosen is not None and arm.selection.chosen.test_data_loss.n > 0


def _ranked(summary: Summary, facts: Fact) -> list[tuple[ArmSummary, Fact]]:
    """Return the arms: the baseline, the recommended one, and the others as they come."""
    best = summary.recommended.arm if summary.recommended else None
    return sorted(each(facts), key=lambda one: (not one[0].is_baseline, one[0].arm != best))


def _scores(arm: ArmSummary, fact: Fact) -> Text:
    """Say what an arm has on test data, and how that differs from the baseline."""
    cell, parts = fact.selection.chosen, []
    if math.isfinite(cell.value.test_accuracy.mean):
        right = tell("an accuracy of {mean:percent}", mean=cell.test_accuracy.mean)
        parts.append(right + _apart(arm.accuracy, fact.accuracy))
    loss = tell("a loss of {mean:number}", mean=cell.test_data_loss.mean)
    parts.append(loss + _apart(arm.data_loss, fact.data_loss))
    return listed(parts)


def _apart(found: Difference | None, fact: Fact) -> Text:
    if found is None or found.test.n == 0 or found.over != "seeds":  # whose differences are of other rows
        return Text("", ())
    kind, _ = _measure(found)
    apart = tell("{size:{kind} apart}", size=fact.test.mean, kind=kind)
    if apart.words.startswith("0 ") or apart.words == "0":
        return tell(" (no difference)", fact.test.mean)
    return tell(" ({apart} {way})", apart=apart, way="higher" if found.test.mean > 0 else "lower")


def _measure(found: Difference) -> tuple[str, str]:
    """Return the form of a measure's differences, and its name."""
    return ("points", "accuracy") if found.measure.endswith("accuracy") else ("value", "loss")


# --- whether the difference is real ---------------------------------------------------------------------


def real(summary: Summary, facts: Fact) -> Iterator[Text]:
    """Say of every arm whether it differs from the baseline by more than chance, and what to do."""
    if summary.recommended is None:
        return
    found = list(_differences(summary, facts))
    spread = [fact.test for one, fact in found if one.test.n > 1 and not one.test.equal]
    if spread:
        yield tell(
            "A {sure} interval is the range of true differences that fit what {n} showed; in {sure} of such "
            "studies it holds the truth.",
            sure=_SURE,
            n=counted(spread[0].n, summary.over[:-1]),
        )
    if spread and summary.over != "seeds":
        yield tell(
            "These differences are of the rows that each of {n} holds out, with the strength that the other "
            "{over} choose; an interval allows for what {over} share of their rows.",
            n=counted(spread[0].n, summary.over[:-1]),
            over=facts.over,
        )
    apart = [test.p for test in spread if not _holds_zero(test.value)]
    if apart:
        several = len({one.arm for one, _ in found}) > 1
        many = ", corrected for comparing several arms" if several else ""
        what = "p is the chance of a difference at least as large if there were none{many}."
        yield tell(what, *apart, many=many)
    told = [_judged(one, fact, facts) for one, fact in found]
    yield from {text.words: text for text in told}.values()
    yield tell("{conclusion}", conclusion=facts.headline[len(summary.headline) - 1])


def _differences(summary: Summary, facts: Fact) -> Iterator[tuple[Difference, Fact]]:
    """Yield what the headline measure says of every arm, and the loss where it says something else."""
    for arm, fact in _ranked(summary, facts):
        if arm.accuracy is not None:
            yield arm.accuracy, fact.accuracy
        if arm.data_loss is not None and (
            arm.accuracy is None or arm.data_loss.verdict != arm.accuracy.verdict
        ):
            yield arm.data_loss, fact.data_loss


def _judged(found: Difference, fact: Fact, facts: Fact) -> Text:
    """Say in words that need no statistics what a difference shows."""
    unit, test = found.over[:-1], fact.test
    name, base = named(arm_called(found.arm, facts)), named(arm_called(found.baseline, facts))
    kind, measure = _measure(found)
    if found.test.n == 0:
        return tell("{name} and {base} share no scored trial.", test.n, name=name, base=base)
    if found.test.n == 1:
        return tell("With one {unit} luck can't be told from merit: run more {unit}s.", test.n, unit=unit)
    units = counted(test.n, unit)
    pair = tell("{name} and {base}, {measure}: ", fact.measure, name=name, base=base, measure=measure)
    if found.test.equal:
        same = tell("the difference is the same for all {units}", test.equal, units=units)
        return pair + same + _alike(found, fact)
    between = tell(
        "the {sure} interval goes from {low:{kind}} to {high:{kind}}",
        sure=_SURE,
        low=test.low,
        high=test.high,
        kind=kind,
    )
    if found.verdict in ("better", "worse"):
        sure = "; that is {verdict} by more than chance explains ({p:p})"
        told = pair + between + tell(sure, verdict=fact.verdict, p=fact.p_holm)
        return told + (_inside(fact, kind, "; and yet ") if found.p_equivalent < ALPHA else tell("."))
    if found.verdict == "equivalent":
        return pair + between + _inside(fact, kind, "; ")
    if _holds_zero(found.test):
        why = "; it includes 0, so chance may be all there is."
    else:
        why = ", without 0; but of several arms one comes that far by chance too easily ({p:p})."
    told = pair + between + tell(why, fact.verdict, p=fact.p_holm)
    if math.isfinite(found.test.detectable):
        told += tell(
            " {units} find a true difference of {size:{kind}} in {power} of such studies, and a "
            "smaller one less often.",
            units=units,
            size=test.detectable,
            kind=kind,
            power=_POWER,
        )
    more = words.settle(found)
    if more:
        told += tell(" {more}.", fact.more, more=more[:1].upper() + more[1:])
    return told


def _inside(fact: Fact, kind: str, link: str) -> Text:
    """Say that a difference lies within the margin that does not matter."""
    return tell(
        "{link}it is under {margin:{kind}}, the margin set as one that does not matter: the {both} interval, "
        "{low:{kind}} to {high:{kind}}, lies within ({p:p}).",
        link=link,
        margin=fact.equivalence.margin,
        both=_BOTH,
        low=fact.equivalence.low,
        high=fact.equivalence.high,
        p=fact.p_equivalent,
        kind=kind,
    )


def _holds_zero(test: PairedTest) -> bool:
    return test.low <= 0 <= test.high


def _alike(found: Difference, fact: Fact) -> Text:
    if found.test.mean == 0:
        return tell(", none.", fact.test.mean)
    if found.verdict == "equivalent":
        return tell("; that is within the margin that does not matter.", fact.equivalence.margin)
    if found.verdict == "no difference":
        return tell("; but so few agree by chance too easily.", fact.verdict)
    return tell("; that is {verdict}, with no spread to doubt it by.", verdict=fact.verdict)
