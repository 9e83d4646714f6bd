"""The 784-128-10 network, with and without L2, with a penalty on its biases too, and a CNN beside it.

Shows how to put penalties on a model that is already built and compiled, and how to see what they did: the
data loss on training and on held-out images, without the penalty, which `fit` reports only as a sum.

    python examples/dense_regularizers.py
    python examples/dense_regularizers.py --data mnist --data-dir DIR

By default it uses the 8×8 digits that come with scikit-learn, enlarged to MNIST's 28×28, so that it runs
offline in under a minute. `shrinkage data fetch mnist` gets the real ones.
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers

import shrinkage


def dense():
    """Return 784-128-10."""
    flat = [keras.Input((28, 28, 1)), layers.Flatten(), layers.Dense(128, activation="relu", name="hidden")]
    return keras.Sequential([*flat, layers.Dense(10, activation="softmax", name="head")])


def cnn():
    """Return conv 32 - pool - conv 64 - pool - dense 10."""
    stack = [keras.Input((28, 28, 1))]
    for filters in (32, 64):
        stack += [layers.Conv2D(filters, 3, activation="relu"), layers.MaxPooling2D()]
    return keras.Sequential([*stack, layers.Flatten(), layers.Dense(10, activation="softmax", name="head")])


# A bias is one number a unit: a penalty on it rarely does much against overfitting, as the numbers show.
RUNS = {
    "dense, no penalty": (dense, None),
    "dense, L2 on kernels": (dense, "Dense: kernel = l2(1e-3)"),
    "dense, L2 on kernels and biases": (dense, "Dense: kernel, bias = l2(1e-3)"),
    "dense, L2 on kernels, L1 on biases": (dense, ["Dense: kernel = l2(1e-3)", "Dense: bias = l1(1e-3)"]),
    "cnn, no penalty": (cnn, None),
    "cnn, L2 on kernels": (cnn, "Conv2D, Dense: kernel = l2(1e-3)"),
}


def load(name, data_dir, samples):
    """Return training and held-out pairs (x, y): at most ``samples`` images, and a quarter as many."""
    data = shrinkage.load_data(name, data_dir=data_dir)
    # Both from the training images: whoever tries penalties looks at these numbers again and again, and test
    # images are for one look at the end.
    held_out = samples // 4
    order = np.random.default_rng(0).permutation(len(data.x_train))[: samples + held_out]

    def prepared(rows):
        x = keras.ops.image.resize(data.scaled(data.x_train[rows]), (28, 28))
        return keras.ops.convert_to_numpy(x), data.y_train[rows]

    return prepared(order[held_out:]), prepared(order[:held_out])


def train(build, recipe, seen, unseen, epochs):
    """Train one model; return the row that the table shows."""
    keras.utils.set_random_seed(0)  # the same initial weights and data order for every penalty
    model = build()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    if recipe is not None:
        shrinkage.apply(model, recipe)
    model.fit(*seen, batch_size=32, epochs=epochs, verbose=0)
    on_seen, on_unseen = shrinkage.describe(model, seen), shrinkage.describe(model, unseen)
    return {
        "train_data_loss": on_seen.data_loss,
        "val_data_loss": on_unseen.data_loss,
        "gap": on_unseen.data_loss - on_seen.data_loss,
        "penalty": sum(row.charge for row in on_unseen.rows),
        "val_accuracy": model.evaluate(*unseen, verbose=0, return_dict=True)["accuracy"],
    }


def main(argv=None):
    """Train them all and print one table; return its rows by name."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="digits", choices=["digits", "mnist", "fashion_mnist"])
    parser.add_argument("--data-dir", help="where the named data set lies")
    parser.add_argument("--samples", type=int, default=1000, help="training images")
    parser.add_argument("--epochs", type=int, default=20)
    options = parser.parse_args(argv)
    seen, unseen = load(options.data, options.data_dir, options.samples)
    print(f"{options.data}: {len(seen[0])} training and {len(unseen[0])} held-out images; one seed\n")
    rows = {}
    for name, (build, recipe) in RUNS.items():
        rows[name] = train(build, recipe, seen, unseen, options.epochs)
        if len(rows) == 1:
            print(f"{'':36}" + "".join(f"{column:>17}" for column in rows[name]))
        print(f"{name:36}" + "".join(f"{value:17.4f}" for value in rows[name].values()), flush=True)
    print("\nOne seed proves nothing: `shrinkage run examples/digits.toml` compares penalties over several.")
    return rows


if __name__ == "__main__":
    main()
