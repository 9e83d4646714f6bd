"""The rewriting pass: the same values and derivatives, whatever is convolved, pooled or drawn."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

if keras.backend.backend() != "jax":
    pytest.skip("rewrites what JAX traces", allow_module_level=True)

import jax
import jax.numpy as jnp
from jax import lax

from shrinkage.training.lowering import lowered, traced

CASES, TOGETHER = 320, 5
QUICK = 1  # group that every run of the tests takes; all of them are thorough
TOLERANCE = 1e-5  # of the largest number, in float32
CONVOLUTIONS = ("Conv1D", "Conv2D", "Conv3D", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose",
                "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D", "SeparableConv2D")  # fmt: skip
POOLS = (
    "MaxPooling1D",
    "MaxPooling2D",
    "MaxPooling3D",
    "AveragePooling1D",
    "AveragePooling2D",
    "AveragePooling3D",
)


@pytest.fixture(scope="module", autouse=True)
def in_a_hurry():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def a_layer(dice: np.random.Generator) -> tuple[Any, tuple[int, ...], dict[str, Any]]:
    """Draw a layer and the shape of its input."""
    name = str(dice.choice((*CONVOLUTIONS, *POOLS, "Dense")))
    if name == "Dense":
        shape = tuple(int(n) for n in dice.integers(1, 9, int(dice.integers(2, 5))))
        return layers.Dense(int(dice.integers(1, 9))), shape, {"name": name}
    rank = int(next(c for c in name if c.isdigit()))
    least = {1: 7, 2: 6, 3: 5}[rank]
    shape = [int(n) for n in dice.integers(least, least + 5, rank)]
    options: dict[str, Any] = {"padding": str(dice.choice(["same", "valid"]))}
    first = dice.random() < 0.2 and "Pool" in name
    options["data_format"] = "channels_first" if first else "channels_last"
    channels = int(dice.choice([1, 2, 3, 4, 8, 9]))  # few and many are multiplied in two ways
    size = [int(n) for n in dice.integers(1, 4, rank)]
    if "Pool" in name:
        options |= {
            "pool_size": size,
            "strides": size if dice.random() < 0.5 else [int(n) for n in dice.integers(1, 4, rank)],
        }
    else:
        options["kernel_size"] = size
        uniform = "Depthwise" in name or "Separable" in name
        strides = (
            [int(dice.integers(1, 3))] * rank if uniform else [int(n) for n in dice.integers(1, 4, rank)]
        )
        if dice.random() < 0.4 and "Transpose" not in name:
            options["dilation_rate"] = [int(dice.integers(1, 3))] * rank
        else:
            options["strides"] = strides
        if "Depthwise" in name:
            options["depth_multiplier"] = int(dice.integers(1, 4))
        else:
            groups = int(dice.choice([1, 1, 2, 3])) if name in CONVOLUTIONS[:3] else 1
            channels, options["filters"] = channels * groups, groups * int(dice.integers(1, 4))
            if groups > 1:
                options["groups"] = groups
    where = (channels, *shape) if first else (*shape, channels)
    return getattr(layers, name)(**options), (int(dice.integers(1, 4)), *where), {"name": name, **options}


def losses(layer: Any, shape: tuple[int, ...], dice: np.random.Generator) -> Any:
    layer.build(shape)
    weights = [jnp.asarray(dice.normal(size=v.shape), "float32") for v in layer.trainable_variables]
    x = jnp.asarray(dice.normal(size=shape), "float32")
    out = layer.compute_output_shape(shape)
    direction = jnp.asarray(dice.normal(size=out), "float32")

    def loss(weights: Any, x: Any) -> Any:
        y, _ = layer.stateless_call(weights, [], x)
        return jnp.sum(y * direction), y

    return loss, (weights, x)


@pytest.mark.parametrize(
    "group",
    [pytest.param(i, marks=[pytest.mark.thorough] if i >= QUICK else []) for i in range(CASES // TOGETHER)],
)
def test_random_layers_have_the_same_values_and_gradients(group):
    dice = np.random.default_rng([7, group])
    drawn = [a_layer(dice) for _ in range(TOGETHER)]
    made = [losses(layer, shape, dice) for layer, shape, _ in drawn]

    def both(args: Any) -> Any:
        return [
            [jax.value_and_grad(f, (0, 1), has_aux=True)(*arg) for f in (loss, lowered(loss))]
            for (loss, _), arg in zip(made, args, strict=True)
        ]

    found = jax.jit(both)([args for _, args in made])
    for (native, rewritten), (_, shape, options), (loss, args) in zip(found, drawn, made, strict=True):
        assert traced(lowered(loss), *args)[0] == 0, ("left alone", shape, options)
        for a, b in zip(jax.tree.leaves(native)[1:], jax.tree.leaves(rewritten)[1:], strict=True):
            scale = max(float(jnp.abs(a).max()), 1e-3)
            assert float(jnp.abs(a - b).max()) <= TOLERANCE * scale, (shape, options)


def test_ties_go_where_xla_sends_them():
    layer, x = layers.MaxPooling2D(2), jnp.zeros((1, 4, 4, 1)).at[0, 2:, 2:].set(1.0)
    pool = lambda x: (layer(x) * jnp.arange(1.0, 5).reshape(1, 2, 2, 1)).sum()  # noqa: E731
    assert np.array_equal(jax.grad(lowered(pool))(x), jax.grad(pool)(x))


@pytest.mark.parametrize("activation", ["relu", "relu6", "softplus", "hard_sigmoid", "silu", "gelu", "elu"])
def test_custom_derivatives_stay(activation):
    f = lambda x: keras.ops.sum(keras.activations.get(activation)(x))  # noqa: E731
    x = jnp.array([-3.0, -1e-6, 0.0, 1e-6, 3.0, 6.0])
    assert np.array_equal(jax.grad(lowered(f))(x), jax.grad(f)(x))


@pytest.mark.thorough
def test_recurrent_layers_branches_and_remat_pass(rng):
    layer = layers.LSTM(3)
    layer.build((2, 5, 4))
    x = jnp.asarray(rng.normal(size=(2, 5, 4)), "float32")
    convolve = layers.Conv1D(4, 3)
    convolve.build((2, 5, 4))

    def f(x: Any) -> Any:
        y = lax.cond(x.sum() > 0, lambda v: v * 2, lambda v: v - 1, layer(x))
        inside = jax.checkpoint(lambda v: jnp.sin(convolve(v)).sum())
        return y.sum() + inside(x)

    assert float(jnp.abs(jax.grad(lowered(f))(x) - jax.grad(f)(x)).max()) < 1e-5
    assert traced(lowered(f), x)[0] == 0


def test_lanes_of_a_vmap_are_those_of_a_loop(rng):
    layer = layers.Conv2D(3, 3)
    layer.build((2, 6, 6, 2))
    kernels = jnp.asarray(rng.normal(size=(4, 3, 3, 2, 3)), "float32")
    bias, x = jnp.zeros(3), jnp.asarray(rng.normal(size=(2, 6, 6, 2)), "float32")
    f = lowered(lambda k, x: layer.stateless_call([k, bias], [], x)[0])
    together = jax.vmap(f, (0, None))(kernels, x)
    for one, kernel in zip(together, kernels, strict=True):
        assert float(jnp.abs(one - f(kernel, x)).max()) < 1e-5


# --- random bits -----------------------------------------------------------------------------------------


def bits(seed: int, n: int) -> np.ndarray:
    draw = lowered(lambda key: jax.random.bits(key, (n,)))
    return np.asarray(draw(jnp.array([seed, seed * 7919 + 1], "uint32")))


def test_bits_are_a_function_of_the_key():
    assert np.array_equal(bits(1, 100), bits(1, 100))
    assert not np.array_equal(bits(1, 100), bits(2, 100))


def test_every_bit_is_fair_and_no_two_neighbours_or_keys_agree():
    n = 1 << 16
    drawn = np.stack([bits(seed, n) for seed in range(8)])
    sign = 1 - 2 * np.unpackbits(drawn[..., None].view("uint8"), axis=-1, bitorder="little").astype("float64")
    bound = 5 / np.sqrt(n)  # five standard errors, for a few thousand comparisons
    assert np.abs(sign.mean(1)).max() < bound
    for lag in (1, 2, 3, 7, 32, 64):
        assert np.abs((sign[:, lag:] * sign[:, :-lag]).mean(1)).max() < bound
    for a, b in itertools.combinations(range(8), 2):
        assert np.abs((sign[a] * sign[b]).mean(0)).max() < bound
    assert np.abs((sign[..., 1:] * sign[..., :-1]).mean(1)).max() < bound


def test_dropout_drops_its_share(rng):
    layer = layers.Dropout(0.3, seed=1)
    x = jnp.ones((400, 250))

    drop = lowered(lambda state: layer.stateless_call([], [state], x, training=True)[0])
    y = np.asarray(drop(layer.seed_generator.state.value))
    assert abs((y == 0).mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / y.size)
    assert np.unique(y).tolist() == pytest.approx([0, 1 / 0.7])
