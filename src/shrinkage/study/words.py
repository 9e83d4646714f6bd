"""Every sentence that a study says, built from its facts: plain English, and numbers with sensible digits.

Accuracy is said in percent and its differences in points (0.6 points = 0.006); other numbers have three
significant digits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from shrinkage.study.power import ALPHA, POWER
from shrinkage.study.stats import Equivalence, Estimate, PairedTest
from shrinkage.study.summary import Diagnosis, Difference, Over, Recommendation, Selection, Verdict

FEW = 5  # below this many seeds or folds, what could have been found is always said

# --- numbers -------------------------------------------------------------------------------------------


def number(x: float) -> str:
    """Write ``x`` with three significant digits, without a padded exponent.

    Examples
    --------
    >>> [number(x) for x in (0.0312456, 3e-5, 1234.5, 2.0, float("nan"))]
    ['0.0312', '3e-5', '1230', '2', 'n/a']
    """
    if not math.isfinite(x):
        return "n/a"
    if x == 0:
        return "0"
    if not 1e-3 <= abs(float(f"{x:.2e}")) < 1e6:
        mantissa, exponent = f"{x:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    decimals = max(0, 2 - math.floor(math.log10(abs(x))))
    text = f"{float(f'{x:.2e}'):.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(x: float) -> str:
    """Write an accuracy in percent, with a second decimal from 99 % on, where the first says little.

    Examples
    --------
    >>> percent(0.9651), percent(0.99124)
    ('96.5 %', '99.12 %')
    """
    return f"{100 * x:.{2 if x >= 0.99 else 1}f} %" if math.isfinite(x) else "n/a"


def count(n: int, unit: str) -> str:
    """Write a number of things; ``unit`` is given as a plural.

    Examples
    --------
    >>> count(1, "seeds"), count(3, "folds")
    ('1 seed', '3 folds')
    """
    return f"{n} {unit[:-1] if n == 1 else unit}"


def were(n: int, unit: str, who: int | None = None) -> str:
    """Write a number of things with its verb; ``who`` of them, if not all, say which number that has.

    Examples
    --------
    >>> were(1, "cells"), were(3, "cells"), were(6, "trials", 1)
    ('1 cell was', '3 cells were', '6 trials was')
    """
    return f"{count(n, unit)} {'was' if (n if who is None else who) == 1 else 'were'}"


def amount(x: float, accuracy: bool) -> str:
    """Write a difference of a measure: in points for an accuracy, as a plain number for a loss.

    Examples
    --------
    >>> amount(0.006, True), amount(-0.01, True), amount(0.006, False)
    ('0.6 points', '-1 point', '0.006')
    """
    if not accuracy:
        return number(x)
    text = _points(x)
    return f"{text} point{'' if text in ('1', '-1') else 's'}"


def _points(x: float) -> str:
    # Accuracies are float32: their mean difference may be a millionth of a point, and is none.
    return number(round(100 * x, 4) if math.isfinite(x) else x)


def p_value(p: float) -> str:
    """Write a p value.

    Examples
    --------
    >>> p_value(0.01234), p_value(1e-9), p_value(1.0)
    ('p = 0.0123', 'p < 0.001', 'p = 1')
    """
    return "p < 0.001" if p < 0.001 else f"p = {number(p)}"


def with_se(value: Estimate, *, accuracy: bool = False) -> str:
    """Write mean ± standard error, or the mean alone where there is no standard error.

    Examples
    --------
    >>> with_se(Estimate(0.1123, 0.0031, 5)), with_se(Estimate(0.5, float("nan"), 1), accuracy=True)
    ('0.112 ± 0.0031', '50.0 %')
    """
    mean = percent(value.mean) if accuracy else number(value.mean)
    if not math.isfinite(value.se):
        return mean
    return f"{mean} ± {amount(value.se, accuracy)}"


def duration(seconds: float) -> str:
    """Write how long something takes, in one unit.

    Examples
    --------
    >>> [duration(s) for s in (4.4, 119, 600, 20_000)]
    ['4 s', '119 s', '10 min', '5.6 h']
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plain(name: str) -> str:
    r"""Write an arm's name on one line: a control character in it must not reach a terminal.

    Examples
    --------
    >>> plain("l2\tof \x1b[31mred")
    'l2 of ?[31mred'
    """
    return "".join(c if c.isprintable() else "?" for c in " ".join(name.split()))


def at_strength(arm: str, strength: float | None) -> str:
    """Name an arm with its strength.

    Examples
    --------
    >>> at_strength("l2", 3e-4), at_strength("none", None)
    ('l2 at λ = 3e-4', 'none')
    """
    return plain(arm) if strength is None else f"{plain(arm)} at λ = {number(strength)}"


# --- differences ---------------------------------------------------------------------------------------


def verdict(kind: Verdict, n: int, over: Over) -> str:
    """Write a verdict as tables show it.

    Examples
    --------
    >>> verdict("no difference", 5, "seeds"), verdict("no test", 1, "seeds"), verdict("better", 5, "seeds")
    ('no difference that 5 seeds can show', 'one seed: no test is possible', 'better')
    """
    if kind == "no difference":
        return f"no difference that {count(n, over)} can show"
    if kind == "no test":
        return f"one {over[:-1]}: no test is possible" if n == 1 else "not compared"
    return kind


def rows_of(over: Over) -> str:
    """Name the rows that differences are taken on."""
    return "test data" if over == "seeds" else "held-out rows"


def compared_as(arm: str, choice: Selection) -> str:
    """Name an arm as it is compared: at its strength, or at those that the other splits choose."""
    if choice.stability is None or set(choice.stability.strengths) <= {choice.strength}:
        return at_strength(arm, choice.strength)
    return f"{plain(arm)} (in each {choice.over[:-1]} at the λ that the others choose)"


def comparison(found: Difference, choice: Selection) -> str:
    """Say in one sentence how an arm compares with the baseline; ``choice`` is the arm's."""
    arm, other_arm = compared_as(found.arm, choice), plain(found.baseline)
    test, accuracy, rows = found.test, found.measure.endswith("accuracy"), rows_of(found.over)
    if test.n == 1 and found.over != "seeds":
        rows = "the rows that chose it"
    if test.n == 0:
        return f"{arm} and {other_arm} share no trial scored on {rows}: there is nothing to compare."
    mine = math.fsum(pair.arm for pair in found.pairs) / len(found.pairs)
    other = math.fsum(pair.baseline for pair in found.pairs) / len(found.pairs)
    level = percent if accuracy else number
    what = f"{'accuracy' if accuracy else 'data loss'} {level(mine)} against {level(other)}"
    what += f", {'+' if test.mean > 0 else ''}{amount(test.mean, accuracy)}"
    if test.n == 1:
        return (
            f"{arm} against {other_arm} on {rows}: {what}; "
            f"one {found.over[:-1]}: no interval and no test is possible."
        )
    units = count(test.n, found.over)
    what += f" (95 % interval {_interval(test, accuracy)}, {p_value(found.p_holm)} after Holm, {units})"
    within = _within(found)
    if found.verdict == "equivalent":
        return f"{arm} is {within} on {rows}: {what}."
    if found.verdict == "no difference":
        text = f"No difference between {arm} and {other_arm} on {rows} that {units} can show: {what}"
    else:
        text = f"{arm} is {found.verdict} than {other_arm} on {rows}: {what}"
        if found.p_equivalent < ALPHA:
            text += f"; yet it is {within}"
    if math.isfinite(test.detectable) and (found.verdict == "no difference" or test.n < FEW):
        text += f"; {detectable(found)}"
    more = settle(found)
    return f"{text}; {more}." if more else f"{text}."


def _interval(ends: PairedTest | Equivalence, accuracy: bool) -> str:
    low, high = (_points(x) if accuracy else number(x) for x in (ends.low, ends.high))
    return f"{low} to {high}{' points' if accuracy else ''}"


def _within(found: Difference) -> str:
    """Say that an arm is equivalent to the baseline, where it has been shown."""
    if found.equivalence is None:
        return ""
    accuracy = found.measure.endswith("accuracy")
    margin = amount(found.equivalence.margin, accuracy)
    interval = _interval(found.equivalence, accuracy)
    return f"within {margin} of {plain(found.baseline)} (90 % interval {interval})"


def detectable(found: Difference) -> str:
    """Say what difference this many pairs could have shown."""
    size = amount(found.test.detectable, found.measure.endswith("accuracy"))
    return (
        f"with this spread {count(found.test.n, found.over)} find a true difference of {size} "
        f"with {POWER:.0%} power".replace("%", " %")
    )


def settle(found: Difference) -> str:
    """Say how many more units would settle what is open; empty where nothing is, or there are enough."""
    if found.verdict != "no difference" or found.test.equal:
        return ""
    unknown = found.equivalence is None and found.test.mean == 0  # nobody said what would matter
    one, what = _ADDED[found.over]
    if found.more is None and found.over != "seeds":
        return "" if unknown else f"more {what} would not settle it, more data would"
    if found.more is None:
        return "" if unknown else f"no affordable number of {what} would settle it"
    if found.more == 0:
        return ""
    return f"about {found.more} more {one if found.more == 1 else what} would settle it"


#: One, and several, of what can be added to a study.
_ADDED: dict[Over, tuple[str, str]] = {
    "seeds": ("seed", "seeds"),
    "folds": ("repeat of the folds", "repeats of the folds"),
    "splits": ("random split", "random splits"),
}


# --- choices and results -------------------------------------------------------------------------------


def headline(
    best: Recommendation | None,
    over: Over,
    baseline: str | None,
    compared: Sequence[Difference],
    choices: Mapping[str, Selection],
) -> tuple[str, ...]:
    """Say what is recommended and how it compares; ``compared`` holds its differences, headline first."""
    if best is None and all(choice.is_lost for choice in choices.values()):
        return ("Nothing can be recommended: every arm has a diverged trial at each of its strengths.",)
    if best is None:
        return (f"Nothing can be recommended: no strength was trained to the end on all {over}.",)
    value = best.val_data_loss
    loss = with_se(value)
    loss += f", standard error over {count(value.n, over)}" if value.n > 1 else f", one {over[:-1]}"
    name = at_strength(best.arm, best.strength)
    if best.is_baseline:
        return (
            f"Lowest mean validation data loss: {name}, the baseline ({loss}).",
            f"So: stay with {name}; no strength of another arm has a lower loss on the same validation data.",
        )
    first = f"Lowest mean validation data loss: {name} ({loss})."
    if baseline is None:
        return first, "No baseline was trained, so no differences are stated."
    if not compared:
        lost = baseline in choices and choices[baseline].is_lost
        why = "has a diverged trial" if lost else f"was not trained to the end on all {over}"
        return first, f"It can't be compared with the baseline {plain(baseline)}, which {why}."
    return first, *(found.sentence for found in compared), _advice(name, plain(baseline), over, compared)


def _advice(name: str, baseline: str, over: Over, compared: Sequence[Difference]) -> str:
    """Say what to do, from the verdicts, headline measure first."""
    verdicts, rows = [found.verdict for found in compared], rows_of(over)
    n, within = count(compared[0].test.n, over), compared[0].equivalence
    if compared[0].test.n == 0:
        return f"So: take {name} for now; what it scored on {rows} is no finite number, which tells nothing."
    if verdicts[0] == "no test":
        return f"So: take {name} for now, and run more {over} to learn whether it differs from {baseline}."
    if {"better", "worse"} <= set(verdicts):
        return f"So: a trade; {name} gains one measure on {rows} and loses the other."
    if "worse" in verdicts:
        what = "what won on validation data" if over == "seeds" else name
        return f"So: stay with {baseline}: {what} is worse on {rows}."
    if verdicts[0] == "better":
        return f"So: use {name}."
    if verdicts[0] == "equivalent" and within is not None:
        margin = amount(within.margin, compared[0].measure.endswith("accuracy"))
        if "better" in verdicts:
            return f"So: use {name} for its lower data loss; otherwise it is within {margin} of {baseline}."
        return f"So: {name} is within {margin} of {baseline}; the simpler one is enough."
    if "better" in verdicts:
        return f"So: use {name} for its lower data loss; {n} show no other difference to {baseline}."
    return f"So: {name} is no better than {baseline}, as far as {n} can show; the simpler one is enough."


# --- diagnoses -----------------------------------------------------------------------------------------


def diagnosis(found: Diagnosis) -> str:
    """Say what the curves of an arm show."""
    if found.status == "diverged":
        return "Diverged: the loss of a trial was not finite."
    parts = [
        f"{found.status.capitalize()}: validation data loss {number(found.val_data_loss.mean)}, "
        f"training data loss {number(found.train_data_loss.mean)}, gap {number(found.gap.mean)}"
    ]
    if found.turn_epoch is not None:
        gap = f" (gap {number(found.gap_at_turn)})" if math.isfinite(found.gap_at_turn) else ""
        parts.append(
            f"validation turned at epoch {found.turn_epoch} of {found.epochs}{gap} "
            f"and rose by {number(found.rise)}"
        )
    elif found.learned and found.still_falling:  # what learned nothing is told so by the next step
        parts.append(f"validation was still falling at epoch {found.epochs}")
    return "; ".join(parts) + "."


def next_step(found: Diagnosis, choice: Selection) -> str:
    """Suggest one thing to try next."""
    if found.status == "diverged":
        lower = ", or try smaller strengths" if choice.strengths else ", or clip the gradients"
        return f"Lower the learning rate{lower}."
    if found.status == "overfit":
        return _after_overfit(found, choice)
    if not found.learned:
        return "Nothing was learned: try another learning rate, lower or higher, or train longer."
    if found.still_falling:
        return f"Train longer than {count(found.epochs, 'epochs')}: validation data loss was still falling."
    if found.status == "underfit":
        if choice.edge in ("lower", "only"):
            return "Try smaller strengths: this one keeps the model from fitting the training data."
        return "Train longer, or use a larger model."
    if found.turn_epoch is not None and not found.gap_grew:
        return f"Lower the learning rate: after epoch {found.turn_epoch} training data loss rose as well."
    extend = {
        "upper": "Extend the strengths upward: the largest tried was chosen.",
        "lower": "Extend the strengths downward: the smallest tried was chosen.",
        "only": "Try more strengths than one.",
    }
    return extend[choice.edge] if choice.edge else "Keep it as it is."


def _after_overfit(found: Diagnosis, choice: Selection) -> str:
    stop = f", or stop early near epoch {found.turn_epoch}" if found.turn_epoch is not None else ""
    if choice.edge in ("upper", "only"):
        return f"Extend the strengths upward: the model still overfits at the largest tried{stop}."
    if choice.strengths:
        return f"A larger strength did not help: add another kind of regularization or more data{stop}."
    return f"Regularize more{stop}."
