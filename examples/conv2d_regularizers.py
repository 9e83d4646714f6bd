"""Three convolutional networks, three ways to regularize them.

1. 32×32×3: L2 on every kernel and bias.
2. 64×64×3: L1 on every kernel, next to Dropout.
3. 128×128×3: another L1L2 for each layer, with BatchNormalization.

The models are plain Keras; nothing in them knows of penalties. A recipe puts them in force, after `compile`
and without touching a weight. The images are synthetic textures drawn here from a fixed seed: they make the
script run anywhere in a minute, and say nothing about how well a penalty works on photographs.

    python examples/conv2d_regularizers.py --samples 240 --epochs 3
"""

import argparse
import os

os.environ.setdefault("KERAS_BACKEND", "jax")

import keras
import numpy as np
from keras import layers

import shrinkage

CLASSES = ("vertical stripes", "horizontal stripes", "diagonal stripes", "checks")


def textures(samples, size, seed=0):
    """Return noisy coloured textures, (samples, size, size, 3) in [0, 1], and their classes."""
    rng = np.random.default_rng(seed)
    y = np.arange(samples) % len(CLASSES)
    row, column = np.mgrid[:size, :size] / size
    periods, phase = rng.uniform(3, 6, (samples, 1, 1)), rng.uniform(0, 2 * np.pi, (samples, 1, 1))

    def wave(position):
        return np.sin(2 * np.pi * periods * position + phase)

    patterns = [wave(column), wave(row), wave((row + column) / 2**0.5), wave(row) * wave(column)]
    grey = np.choose(y[:, None, None], patterns)
    colour = rng.uniform(0.1, 0.4, (samples, 1, 1, 3))
    noise = rng.normal(0, 0.1, (samples, size, size, 3))
    return np.clip(0.5 + colour * grey[..., None] + noise, 0, 1).astype("float32"), y


def network(name, size, *hidden):
    """Return a plain Keras model of RGB images: hidden layers, then the mean of each map, then the head."""
    end = [layers.GlobalAveragePooling2D(), layers.Dense(len(CLASSES), activation="softmax", name="head")]
    return keras.Sequential([keras.Input((size, size, 3)), *hidden, *end], name=name)


def with_l2():
    """L2 on kernel and bias: the one line that most networks get."""
    model = network(
        "l2",
        32,
        layers.Conv2D(16, 3, activation="relu", name="conv_1"),
        layers.MaxPooling2D(),
        layers.Conv2D(32, 3, activation="relu", name="conv_2"),
    )
    # Layers are named by class or by name, weights by their role.
    return model, "Conv2D, Dense: kernel, bias = l2(1e-3)"


def with_l1_and_dropout():
    """L1 on the kernels, next to Dropout: penalties and layers that regularize go together."""
    model = network(
        "l1_dropout",
        64,
        layers.Conv2D(16, 3, strides=2, activation="relu", name="conv_1"),
        layers.MaxPooling2D(),
        layers.Dropout(0.1),
        layers.Conv2D(32, 3, activation="relu", name="conv_2"),
        layers.Dropout(0.1),
    )
    return model, "*: kernel = l1(1e-4)"  # a star covers every layer that has a kernel


def with_l1l2_and_batch_norm():
    """Another L1L2 for each layer, and one for what BatchNormalization itself learns."""
    hidden = []
    for i, filters in enumerate((8, 16, 32), 1):
        hidden += [
            layers.Conv2D(filters, 3, strides=2, use_bias=False, name=f"conv_{i}"),
            layers.BatchNormalization(momentum=0.8, name=f"norm_{i}"),
            layers.Activation("relu"),
        ]
    # A BatchNormalization undoes any scaling of the kernel before it. The L2 part on conv_1 … conv_3 so acts
    # on the effective learning rate rather than on what the network can express; the head, which nothing
    # normalizes, is where it limits the function. The L1 part on `gamma` pushes whole channels towards zero.
    # `shrinkage.check` finds such things.
    recipe = [
        "conv_1: kernel = l1_l2(1e-6, 1e-5)",
        "conv_2: kernel = l1_l2(1e-5, 1e-4)",
        "conv_3: kernel = l1_l2(1e-4, 1e-4)",
        "norm_*: gamma = l1_l2(1e-4, 1e-3)",
        "head: kernel, bias = l1_l2(1e-4, 1e-3)",
    ]
    return network("l1l2_batch_norm", 128, *hidden), recipe


def train(build, samples, epochs):
    """Train one of the models; return its table of charges and its accuracy, on textures it has not seen."""
    keras.utils.set_random_seed(0)
    model, recipe = build()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.optimizer.learning_rate = 3e-3
    shrinkage.apply(model, recipe)
    x, y = textures(samples, model.input_shape[1], seed=0)
    unseen = textures(samples // 2, model.input_shape[1], seed=1)
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0)
    table = shrinkage.describe(model, unseen)
    accuracy = model.evaluate(*unseen, verbose=0, return_dict=True)["accuracy"]
    print(f"\n{model.name}: {build.__doc__}\n{table}\naccuracy {accuracy:.3f}\n")
    print(shrinkage.check(model), flush=True)  # the linter: what of this does not do what it seems to
    return table, accuracy


def main(argv=None):
    """Train the three and print what each is charged; return their tables and accuracies by name."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--samples", type=int, default=240, help="training images for each network")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args(argv)
    builders = (with_l2, with_l1_and_dropout, with_l1l2_and_batch_norm)
    return {build.__name__: train(build, options.samples, options.epochs) for build in builders}


if __name__ == "__main__":
    main()
