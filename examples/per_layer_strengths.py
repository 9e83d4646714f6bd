"""One strength for all layers or one for each, at equal numbers of trainings.

A small MLP learns scikit-learn's digits, of which some labels are wrong, so that regularization matters. On
each of several draws of training and validation images the best common strength of an L2 penalty is found on
a grid. Then three searches get as many trainings on top: more common strengths around the best, random
strengths a layer, and a descent along the hypergradient, the derivative of the validation loss by each
layer's log strength. Each keeps what has the lowest validation loss, and clean test images say what that is
worth.

    python examples/per_layer_strengths.py
    python examples/per_layer_strengths.py --draws 10 --wrong 0

It needs Keras's JAX backend, and takes about a minute.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from scipy import stats

import shrinkage
from shrinkage import models
from shrinkage.training.choose import make_loop
from shrinkage.training.descent import descend
from shrinkage.training.hypergradient import Trainer
from shrinkage.training.objective import resolve_objective
from shrinkage.training.task import Cell, Split, Task

RULES = [f"{layer}: kernel = l2(strength)" for layer in ("dense_1", "dense_2", "head")]
GRID = [float(s) for s in np.geomspace(1e-4, 1e-1, 7)]
TRAIN, VALIDATION, SEEDS = 300, 150, (0, 1)
ROUNDS = 4  # of the descent; each costs a training, and one more for each rule's derivative
EXTRA = ROUNDS * (1 + len(RULES))


def task_of(data, draws, wrong, epochs):
    """Return the task: images with wrong labels, and a split for each draw."""
    rng = np.random.default_rng(0)
    y = data.y_train.copy()
    replaced = rng.random(len(y)) < wrong
    y[replaced] = (y[replaced] + rng.integers(1, 10, replaced.sum())) % 10
    rows = [rng.permutation(len(y))[: TRAIN + VALIDATION] for _ in range(draws)]

    def build():
        return models.mlp(data.x_train.shape[1:], 10, hidden=[64, 32])

    return Task(
        build=build,
        recipes={"L2": shrinkage.Recipe(RULES)},
        x=data.scaled(data.x_train),
        y=y,
        splits=[Split(np.sort(r[:TRAIN]), np.sort(r[TRAIN:])) for r in rows],
        objective=resolve_objective("auto", (), y, build()),
        learning_rate=3e-3,
        epochs=epochs,
        batch_size=50,
    )


def trained(task, data, wanted):
    """Train (cell, draw) pairs from every seed: validation loss, test loss and test accuracy of each."""
    lanes = [cell.lane(seed, draw) for cell, draw in wanted for seed in SEEDS]
    loop, found = make_loop(task, task.build(), lanes, "jax"), {}
    x, y = data.scaled(data.x_test), data.y_test
    for result in loop.run(lanes, lambda record: None):
        seen = (np.inf,) * 3
        if result.state == "complete":
            test = loop.score(result.lane, result.weights, x, y)
            seen = result.values["val_data_loss"], test["data_loss"], 100 * test["accuracy"]
        found.setdefault((result.lane.cell, result.lane.split), []).append(seen)
    return {pair: np.mean(seen, axis=0) for pair, seen in found.items()}


def around(best, rng):
    """Return common strengths around the best, and random strengths a layer, EXTRA of each."""
    factors = np.geomspace(10**-0.5, 10**0.5, EXTRA + 2)[1:-1]
    common = [Cell("L2", float(best.strength * factor)) for factor in factors]
    layers = []
    for decades in rng.normal(0, 0.4, (EXTRA, len(RULES))):
        shift = decades.mean()
        ratios = tuple((10 ** (decades - shift)).tolist())
        layers.append(Cell("L2", float(best.strength * 10**shift), ratios))
    return common, layers


def searched(task, data):
    """Return, for each search, the chosen cell and its scores on every draw."""
    draws = range(len(task.splits))
    scores = trained(task, data, [(Cell("L2", strength), draw) for strength in GRID for draw in draws])

    def lowest(cells, draw):
        return min(cells, key=lambda cell: scores[cell, draw][0])

    start = [lowest([Cell("L2", strength) for strength in GRID], draw) for draw in draws]
    rng, trainer = np.random.default_rng(1), Trainer(task)
    common, random = zip(*(around(best, rng) for best in start), strict=True)
    down = [
        [
            Cell("L2", p.strength, p.ratios)
            for p in descend(trainer, start[draw], SEEDS, [draw], rounds=ROUNDS)
        ][1:]
        for draw in draws
    ]
    more = {"one, refined": common, "random": random, "hypergradient": down}
    wanted = [(cell, draw) for cells in more.values() for draw in draws for cell in cells[draw]]
    scores |= trained(task, data, dict.fromkeys(wanted))
    chosen = {"one, grid": start}
    for name, cells in more.items():
        chosen[name] = [lowest([start[draw], *cells[draw]], draw) for draw in draws]
    return {name: [(cell, scores[cell, draw]) for draw, cell in enumerate(c)] for name, c in chosen.items()}


def interval(differences):
    """Return the mean of paired differences and the half-width of its 95 % interval."""
    n = len(differences)
    half = stats.t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / np.sqrt(n) if n > 1 else np.nan
    return np.mean(differences), half


def main(arguments=None):
    """Print a row a search, and the strengths that were chosen."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=6, help="draws of training and validation images")
    parser.add_argument("--wrong", type=float, default=0.3, help="share of wrong labels")
    parser.add_argument("--epochs", type=int, default=30)
    options = parser.parse_args(arguments)
    data = shrinkage.load_data("digits")
    found = searched(task_of(data, options.draws, options.wrong, options.epochs), data)
    print(f"{options.draws} draws of {TRAIN} training images, {len(SEEDS)} seeds each")
    print(
        "strengths       trainings  validation loss  test loss  test accuracy   against one, refined (95 %)"
    )
    rows, base = {}, np.array([scores for _, scores in found["one, refined"]])
    for name, pairs in found.items():
        scores = np.array([scores for _, scores in pairs])
        (loss, loss_half), (points, half) = (interval(scores[:, i] - base[:, i]) for i in (1, 2))
        validation, test, accuracy = scores.mean(0)
        count = len(SEEDS) * (len(GRID) + (EXTRA if name != "one, grid" else 0))
        rows[name] = (count, validation, test, accuracy, points, half)
        line = f"{name:<14}  {count:>9}  {validation:>15.3f}  {test:>9.3f}  {accuracy:>11.1f} %"
        versus = f"loss {loss:+.3f} ± {loss_half:.3f}, accuracy {points:+.1f} ± {half:.1f} points"
        print(line if name == "one, refined" else f"{line}   {versus}")
    print("\nStrengths of dense_1, dense_2 and head that the hypergradient leads to, draw by draw:")
    for cell, _ in found["hypergradient"]:
        print("  ".join(f"{cell.strength * ratio:.1e}" for ratio in cell.ratios or (1.0,) * len(RULES)))
    return rows, found


if __name__ == "__main__":
    main()
