"""Accuracy against size: train whole units to zero, train the rest on, remove the units.

At each strength a CNN is trained with a group lasso on its units by proximal steps, warmed up over a few
epochs, so that no unit goes before it has learnt anything; then its zeros are kept and the rest trains on
without the penalty's shrinkage; then the dead units are removed. The table and the figure say what each
strength costs and saves.

    python examples/smaller_model.py
    python examples/smaller_model.py --data mnist --data-dir DIR

By default it uses the 8×8 digits that come with scikit-learn, so that it runs offline in about a minute.
"""

import argparse
import os
import warnings

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
from matplotlib.figure import Figure

import shrinkage
from shrinkage import models

# The head's units are the classes.
RECIPE = "Conv2D, Dense: unit = group_lasso(strength)\nhead: unit = none"
STRENGTHS = (0.0, 1e-4, 3e-4, 1e-3, 2e-3, 4e-3)


def trained(strength, x, y, classes, epochs):
    """Return a CNN whose dead units are exactly zero, debiased."""
    keras.utils.set_random_seed(0)
    model = models.cnn(x.shape[1:], classes, filters=[32], dense=[64])
    with warnings.catch_warnings():  # a penalty on a unit is in force, but no file holds it
        warnings.simplefilter("ignore", shrinkage.errors.ShrinkageWarning)
        shrinkage.apply(model, RECIPE, strength=strength)
    compiled = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    warm_up = shrinkage.StrengthSchedule(lambda epoch: strength * min(1.0, epoch / 5))
    model.compile(shrinkage.Proximal("adam"), **compiled)
    model.fit(x, y, epochs=epochs, callbacks=[warm_up], verbose=0)
    model.compile(shrinkage.Proximal("adam", freeze_support=True), **compiled)
    model.fit(x, y, epochs=max(1, epochs // 2), verbose=0)
    return model


def draw(rows, path):
    """Draw accuracy against size."""
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.semilogx([size for _, size, _ in rows], [accuracy for *_, accuracy in rows], "o-", color="#0072B2")
    for i, (strength, *place) in enumerate(rows):
        off = (-8, 8) if i % 2 else (5, -12)  # neighbours may lie close together
        axes.annotate(f"λ = {strength:g}", place, textcoords="offset points", xytext=off, fontsize=8)
    axes.set(xlabel="parameters after compaction", ylabel="test accuracy, %")
    axes.margins(x=0.2, y=0.15)
    figure.savefig(path, dpi=150)


def main(arguments=None):
    """Print a row a strength and the last receipt, and draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits")
    parser.add_argument("--data-dir")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--figure", default="smaller_model.png", help="where to draw accuracy against size")
    options = parser.parse_args(arguments)
    data = shrinkage.load_data(options.data, data_dir=options.data_dir)
    x, x_test = data.scaled(data.x_train), data.scaled(data.x_test)
    rows = []
    print("strength  parameters  filters  units  test accuracy")
    for strength in STRENGTHS:
        model = trained(strength, x, data.y_train, data.classes, options.epochs)
        small, receipt = shrinkage.compact(model, x[:500])
        accuracy = 100 * small.evaluate(x_test, data.y_test, verbose=0)[1]
        rows.append((strength, receipt.after.parameters, accuracy))
        filters, units = small.get_layer("conv_1").filters, small.get_layer("dense_1").units
        size = f"{receipt.after.parameters:>10,}  {filters:>7}  {units:>5}"
        print(f"{strength:<8g}  {size}  {accuracy:>11.2f} %")
    draw(rows, options.figure)
    print(f"\n{receipt}")
    return rows, receipt


if __name__ == "__main__":
    main()
