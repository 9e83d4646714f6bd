"""Everything that stands for a penalty, on weights and on outputs, and what Keras's own layers make of it.

Keras 3.15 documents 'l1', 'l2' and 'l1_l2' as identifiers, but its layers reject 'l1_l2', and 'l1l2', which
they take, charges nothing. `shrinkage.apply` takes what is documented, Keras's objects, its own, and text.

    python examples/keras_identifiers.py
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np

import shrinkage

IDENTIFIERS = (
    "l1",  # Keras's names, at Keras's default strength of 0.01
    "l2",
    "l1_l2",  # L1L2(0.01, 0.01), as Keras documents it
    "l1l2",  # Keras: an L1L2 of strength 0; we ask what is meant
    0.001,  # a number is an L2
    "l2(0.001)",  # text: a name and its strengths, as in recipes and study files
    "l1_l2(0.001, 0.002)",
    keras.regularizers.L1(0.001),  # Keras's objects
    keras.regularizers.L1L2(0.001, 0.002),
    shrinkage.L2(0.001),  # ours are Keras regularizers: a Keras layer takes them as they are
    shrinkage.L1L2.from_ratio(0.01, l1_ratio=0.25),  # total strength, and the share of L1 in it
)
TARGETS = ("kernel", "activity")


def shown(identifier):
    """Return an identifier as one would type it."""
    if isinstance(identifier, keras.regularizers.Regularizer) and type(identifier).__module__.startswith(
        "keras"
    ):
        numbers = ", ".join(f"{float(value):.4g}" for value in identifier.get_config().values())
        return f"keras {type(identifier).__name__}({numbers})"
    return repr(identifier)


def charge(model, x):
    """Return what ``model`` is charged on the batch ``x``, as Keras adds it to the loss."""
    model(x)
    return float(sum(model.losses))


def built(**options):
    """Return a one-layer model with a 2×3 kernel of ones and no bias."""
    layer = keras.layers.Dense(3, kernel_initializer="ones", use_bias=False, name="head", **options)
    return keras.Sequential([keras.Input((2,)), layer])


def by_keras(identifier, target, x):
    """Return the charge if a Keras layer is given the identifier, or None if it refuses it."""
    try:
        return charge(built(**{f"{target}_regularizer": identifier}), x)
    except ValueError:
        return None


def by_shrinkage(identifier, target, x):
    """Return the charge if a recipe is given the identifier, or None if it refuses it."""
    model = built()
    try:
        # The object form of the recipe "head: <target> = <penalty>".
        shrinkage.apply(model, [shrinkage.Rule("head", target, identifier)])
    except ValueError:
        return None
    return charge(model, x)


def main(argv=None):
    """Print a line an identifier and target; return the charges (by Keras, by us) of each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--samples", type=int, default=4, help="rows in the batch that outputs are charged on"
    )
    options = parser.parse_args(argv)
    x = np.ones((options.samples, 2), "float32")
    print("A 2×3 kernel of ones, and outputs of 2: what is charged?\n")
    print(f"{'identifier':34}{'target':10}{'Keras layer':>14}{'shrinkage':>14}")
    charges = {}
    for identifier in IDENTIFIERS:
        for target in TARGETS:
            pair = by_keras(identifier, target, x), by_shrinkage(identifier, target, x)
            charges[shown(identifier), target] = pair
            cells = "".join(f"{'rejected' if value is None else f'{value:.4g}':>14}" for value in pair)
            print(f"{shown(identifier):34}{target:10}{cells}")
    try:
        shrinkage.Rule("head", "kernel", "l1l2")
    except ValueError as error:
        print(f"\nWhat is not understood is refused with a reason: {error}")
    return charges


if __name__ == "__main__":
    main()
