"""What came before and after the choice, in a sentence each: search, refit, nested resampling."""

from __future__ import annotations

from collections.abc import Iterator

from shrinkage.report.said import Fact, Text, counted, listed, tell
from shrinkage.study.final import Nested, Refit, Searched


def before(search: Searched | None) -> Iterator[Text]:
    """Say which strengths a search looked at, and why it stopped.

    Examples
    --------
    >>> from shrinkage.study.final import Asked
    >>> (said,) = before(Searched("auto", (Asked("the range", 6),), 6, 900, "λ = 0.1 is known."))
    >>> said.words
    'The strengths were searched (auto): the range (6 trials). It stopped there: λ = 0.1 is known.'
    """
    if search is None:
        return
    fact = Fact("search", search)
    waves = [fact.waves[i] for i in range(len(search.waves))]
    looks = [tell("{wave.why} ({n})", wave=wave, n=counted(wave.trials, "trial")) for wave in waves]
    yield tell(
        "The strengths were searched ({fact.strategy}): {looks}. It stopped there: {fact.ended}",
        fact=fact,
        looks=listed(looks, ", then "),
    )


def after(refit: Refit | None, nested: Nested | None) -> Iterator[Text]:
    """Say what the model scores that was trained again, and what the procedure gives on unseen data.

    Examples
    --------
    >>> (said,) = after(Refit("L2", 0.1, 0, 90, 7, False, 0.25, 0.9), None)
    >>> said.words.partition("; ")[2]
    'on test data it has an accuracy of 90.0 % and a loss of 0.25.'
    """
    if refit is not None:
        yield _refit(refit, Fact("refit", refit))
    if nested is not None:
        yield _nested(nested, Fact("nested", nested))


def _refit(refit: Refit, fact: Fact) -> Text:
    trained = tell(
        "again on all {fact.rows} training rows for {epochs}", fact=fact, epochs=counted(fact.epochs, "epoch")
    )
    if refit.diverged:
        return tell(
            "{name} was trained {trained} and diverged, so that models/best.keras is the best of its trials.",
            fact.diverged,
            name=_named(refit, fact),
            trained=trained,
        )
    return tell(
        "models/best.keras is {name}, trained {trained}; on test data it has {scores}.",
        name=_named(refit, fact),
        trained=trained,
        scores=_scores(fact.test_accuracy, fact.test_data_loss),
    )


def _scores(accuracy: Fact, loss: Fact) -> Text:
    lossy = tell("a loss of {loss:number}", loss=loss)
    if accuracy.value != accuracy.value:
        return lossy
    return tell("an accuracy of {accuracy:percent} and {lossy}", accuracy=accuracy, lossy=lossy)


def _named(refit: Refit, fact: Fact) -> Text:
    if refit.strength is None:
        return tell("{fact.arm}", fact=fact)
    return tell("{fact.arm} at λ = {fact.strength:number}", fact=fact)


def _nested(nested: Nested, fact: Fact) -> Text:
    return tell(
        "The whole procedure, choice included, run {times} without a part of the training rows, {scores}, "
        "and chose {choices}.",
        times=tell("{outer:how many} times, each", outer=fact.outer),
        scores=_scored(nested, fact),
        choices=_choices(nested, fact),
    )


def _scored(nested: Nested, fact: Fact) -> Text:
    n = fact.data_loss.n
    if not n.value:
        return tell("gave no model that could be scored", n)
    over = tell(" over the {n} that gave a finite loss", n=n) if n.value < len(nested.outer) else ""
    scores = _estimates(nested, fact)
    return tell("has {scores} on that part (mean ± standard error{over})", scores=scores, over=over)


def _estimates(nested: Nested, fact: Fact) -> Text:
    loss = tell("a loss of {e.mean:number}", e=fact.data_loss) + _error(fact.data_loss, "value")
    if not nested.accuracy.n:
        return loss
    accuracy = tell("an accuracy of {e.mean:percent}", e=fact.accuracy) + _error(fact.accuracy, "points")
    return accuracy + tell(" and {loss}", loss=loss)


def _error(estimate: Fact, form: str) -> Text:
    if estimate.value.n < 2:
        return Text("", ())
    return tell(f" ± {{e.se:{form}}}", e=estimate)


def _choices(nested: Nested, fact: Fact) -> Text:
    """Say how often each arm and strength was chosen, the most frequent first."""
    names: dict[str, list[Text]] = {}
    for i, outer in enumerate(nested.outer):
        refit = fact.outer[i].refit
        text = Text("nothing", (refit.path,)) if outer.refit is None else _named(outer.refit, refit)
        names.setdefault(text.words, []).append(text)
    ranked = sorted(names.items(), key=lambda item: -len(item[1]))
    return listed([Text(f"{name} {_times(len(texts))}", listed(texts).facts) for name, texts in ranked])


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")
