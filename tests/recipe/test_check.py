"""The linter: for each rule what fires it and what must not; and that it never crashes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, regularizers

import shrinkage
from shrinkage.errors import DataError, ModelError
from shrinkage.penalties import L1, L1L2, L2, LiveStrength
from shrinkage.recipe import make_live
from shrinkage.recipe.check import RULES, check
from shrinkage.recipe.findings import Finding, Findings

Build = Callable[[], Any]


def chain(*parts: Any, shape: tuple[int, ...] = (8, 8, 3), compile: Any = None) -> Any:
    model = keras.Sequential([keras.Input(shape), *parts])
    if compile is not None:
        model.compile(compile, "mse")
    return model


def conv(**options: Any) -> Any:
    return layers.Conv2D(4, 3, name="conv", **({"kernel_regularizer": "l2"} | options))


def dense(**options: Any) -> Any:
    return layers.Dense(4, name="dense", **({"kernel_regularizer": "l2"} | options))


def normalization(**options: Any) -> Any:
    return layers.BatchNormalization(name="norm", **options)


def changed(model: Any, change: Callable[[Any], Any]) -> Any:
    change(model)
    return model


# SH101: set, but not in force.


class Block(keras.layers.Layer):
    """Hands its regularizer on to a part; or, ``uses=False``, forgets to."""

    def __init__(self, regularizer: Any, uses: bool = True) -> None:
        super().__init__(name="block")
        self.kernel_regularizer = regularizer
        self.part = layers.Dense(3, kernel_regularizer=regularizer if uses else None)

    def build(self, shape: Any) -> None:
        self.part.build(shape)

    def call(self, x: Any) -> Any:
        return self.part(x)


def set_attribute(name: str, value: Any, *path: str) -> Callable[[Any], Any]:
    def change(model: Any) -> None:
        target = model
        for part in path:
            target = target.get_layer(part)
        setattr(target, name, value)

    return change


def bare(**options: Any) -> Any:
    return chain(dense(kernel_regularizer=None, **options), shape=(3,))


def nested() -> Any:
    return chain(
        keras.Sequential([keras.Input((3,)), dense(kernel_regularizer=None)], name="inner"), shape=(3,)
    )


NOT_IN_FORCE = [
    lambda: changed(bare(), set_attribute("kernel_regularizer", regularizers.L2(0.1), "dense")),
    lambda: changed(bare(), set_attribute("kernel_regularizer", L1(0.1), "dense")),
    lambda: changed(bare(), set_attribute("kernel_regularizer", "l2", "dense")),
    lambda: changed(chain(dense()), set_attribute("kernel_regularizer", regularizers.L2(0.1), "dense")),
    lambda: changed(chain(dense()), set_attribute("kernel_regularizer", regularizers.L1(0.01), "dense")),
    lambda: changed(nested(), set_attribute("kernel_regularizer", L2(0.1), "inner", "dense")),
    lambda: bare(use_bias=False, bias_regularizer="l2"),
    lambda: chain(Block(regularizers.L2(0.1), uses=False), shape=(3,)),
    lambda: changed(bare(), lambda m: setattr(m.get_layer("dense"), "kernel_regularizer", lambda w: w)),
    lambda: changed(
        chain(layers.LSTM(3, name="lstm", recurrent_initializer="zeros"), shape=(4, 3)),
        lambda m: setattr(m.get_layer("lstm").cell, "recurrent_regularizer", L2(0.1)),
    ),
]
IN_FORCE = [
    lambda: bare(),
    lambda: chain(dense(bias_regularizer="l1", activity_regularizer=L2(0.1)), shape=(3,)),
    lambda: changed(bare(), lambda m: shrinkage.apply(m, "dense: kernel = l1_l2(0.1, 0.2)")),
    lambda: chain(Block(regularizers.L2(0.1)), shape=(3,)),
    lambda: chain(layers.LSTM(3, kernel_regularizer="l2", recurrent_regularizer="l1"), shape=(4, 3)),
    lambda: chain(
        layers.Bidirectional(layers.GRU(3, kernel_regularizer="l2", recurrent_initializer="zeros")),
        shape=(4, 3),
    ),
    lambda: chain(layers.SeparableConv2D(2, 3, depthwise_regularizer="l2", pointwise_regularizer="l1")),
    lambda: chain(layers.DepthwiseConv2D(3, depthwise_regularizer="l2")),
    lambda: chain(layers.TimeDistributed(dense()), shape=(4, 3)),
    lambda: changed(chain(dense(), shape=(3,)), started_at(0.5)),
    lambda: chain(layers.Dense(3, kernel_regularizer=regularizers.OrthogonalRegularizer()), shape=(3,)),
]


def started_at(strength: float) -> Callable[[Any], Any]:
    """Make the strengths of a model live, and set them: what is saved follows what is in force."""

    def change(model: Any) -> None:
        for live in make_live(model).values():
            live.assign(strength)

    return change


def attention() -> Any:
    x = keras.Input((4, 8))
    return keras.Model(x, layers.MultiHeadAttention(2, 4, kernel_regularizer="l2")(x, x))


# SH102 and SH103.


def freeze(*path: str) -> Callable[[Any], Any]:
    return set_attribute("trainable", False, *path)


FROZEN = [
    lambda: changed(chain(dense()), freeze("dense")),
    lambda: changed(chain(dense()), freeze()),
    lambda: chain(dense(trainable=False)),
    lambda: changed(chain(dense(kernel_regularizer=lambda w: 0.1)), freeze("dense")),
]
NOT_FROZEN = [
    lambda: chain(dense()),
    lambda: changed(chain(dense(kernel_regularizer=None)), freeze("dense")),
    lambda: changed(chain(dense(activity_regularizer="l2", kernel_regularizer=None)), freeze("dense")),
]
ZERO = [
    lambda: chain(dense(kernel_regularizer=regularizers.L1L2())),
    lambda: chain(dense(kernel_regularizer=L1(0.0))),
    lambda: chain(dense(activity_regularizer=L2(0.0))),
]
NOT_ZERO = [
    lambda: chain(dense(kernel_regularizer=L1L2(0.0, 0.1))),
    lambda: changed(chain(dense(), shape=(3,)), started_at(0.0)),
]


# SH201 and SH202: before a normalization.


def forked(*, end: bool) -> Any:
    """A convolution that feeds a normalization, and something else besides."""
    x = keras.Input((8, 8, 3))
    y = conv()(x)
    z = normalization()(y)
    return keras.Model(x, [z, y] if end else layers.Add()([z, layers.Activation("tanh")(y)]))


def across_models(*, training: bool | None = None, freeze_inner: bool = False) -> Any:
    """A convolution that ends one nested model, and the normalization that begins the next."""
    first = keras.Sequential([keras.Input((8, 8, 3)), conv()], name="first")
    second = keras.Sequential([keras.Input((6, 6, 4)), normalization()], name="second")
    second.trainable = not freeze_inner
    x = keras.Input((8, 8, 3))
    options = {} if training is None else {"training": training}
    return keras.Model(x, second(first(x), **options))


def shared(*, second_is_normalized: bool) -> Any:
    """One convolution that is called twice."""
    x, y, layer = keras.Input((8, 8, 3)), keras.Input((8, 8, 3)), conv()
    after = layers.BatchNormalization() if second_is_normalized else layers.Activation("tanh")
    return keras.Model([x, y], [normalization()(layer(x)), after(layer(y))])


def always_inferring() -> Any:
    x = keras.Input((8, 8, 3))
    return keras.Model(x, normalization()(conv()(x), training=False))


BEFORE_NORMALIZATION = [
    lambda: chain(conv(), normalization()),
    lambda: chain(conv(use_bias=False, kernel_regularizer=L1L2(0.1, 0.1)), normalization()),
    lambda: chain(conv(activation="relu"), normalization()),
    lambda: chain(conv(activation=layers.LeakyReLU()), normalization()),
    lambda: chain(conv(), layers.MaxPooling2D(), layers.ReLU(), layers.Dropout(0.5), normalization()),
    lambda: chain(dense(), layers.LayerNormalization(), shape=(3,)),
    lambda: chain(layers.Dense(3, name="x"), dense(), layers.Flatten(), normalization(), shape=(3,)),
    lambda: chain(layers.SeparableConv2D(4, 3, pointwise_regularizer="l2"), normalization()),
    lambda: chain(layers.DepthwiseConv2D(3, depthwise_regularizer="l2"), normalization()),
    lambda: chain(layers.Conv2DTranspose(3, 3, kernel_regularizer="l2"), normalization()),
    lambda: chain(keras.Sequential([keras.Input((8, 8, 3)), conv(), normalization()])),
    # Under relu the bias is not subtracted, but it scales along with the kernel.
    lambda: chain(conv(activation="relu", kernel_regularizer=None, bias_regularizer="l2"), normalization()),
    across_models,
    lambda: shared(second_is_normalized=True),
]
NOT_BEFORE_NORMALIZATION = [
    lambda: chain(conv(activation="tanh"), normalization()),
    lambda: chain(conv(activation="gelu"), normalization()),
    lambda: chain(conv(), layers.ReLU(max_value=6), normalization()),
    lambda: chain(conv(), layers.Activation("sigmoid"), normalization()),
    lambda: chain(conv(), layers.GaussianNoise(0.1), normalization()),
    lambda: chain(conv(), normalization(trainable=False)),
    lambda: chain(conv(kernel_regularizer="l1"), normalization()),
    lambda: chain(conv(kernel_regularizer=lambda w: 0.1), normalization()),
    lambda: chain(conv(), layers.Conv2D(3, 3), normalization()),
    lambda: chain(normalization(), conv()),
    lambda: chain(conv()),
    lambda: forked(end=True),
    lambda: forked(end=False),
    lambda: across_models(training=False),
    lambda: across_models(freeze_inner=True),
    lambda: shared(second_is_normalized=False),
    always_inferring,
    lambda: chain(conv(trainable=False), normalization()),
    lambda: chain(layers.TimeDistributed(dense()), normalization(), shape=(4, 3)),
    lambda: chain(normalization(gamma_regularizer="l2"), layers.BatchNormalization()),
]


def biased(**options: Any) -> Any:
    return conv(kernel_regularizer=None, bias_regularizer="l2", **options)


CANCELLED = [
    lambda: chain(biased(), normalization()),
    lambda: chain(conv(bias_regularizer="l1"), normalization()),
    lambda: chain(dense(kernel_regularizer=None, bias_regularizer="l2"), normalization(), shape=(3,)),
]
NOT_CANCELLED = [
    lambda: chain(biased(activation="relu"), normalization()),
    lambda: chain(biased(), layers.LayerNormalization()),
    lambda: chain(biased(), layers.Dropout(0.5), normalization()),
    lambda: chain(biased(), normalization(axis=1)),
    lambda: chain(conv(), normalization()),
]


# SH203 and SH205: penalty and optimizer.


def excluding(**names: Any) -> Any:
    optimizer = keras.optimizers.AdamW()
    optimizer.exclude_from_weight_decay(**names)
    return optimizer


def multi(**options: Any) -> Any:
    others = {"other/.*": keras.optimizers.AdamW()}
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(keras.optimizers.SGD(**options), others)
    )


class Wrapped(keras.optimizers.SGD):
    """Stands in for an optimizer that ends its step with the prox."""

    proximal = True


def trained_by(optimizer: Any, penalty: Any = "l2", **options: Any) -> Build:
    def build() -> Any:
        made = optimizer() if callable(optimizer) else optimizer
        return chain(dense(kernel_regularizer=penalty, **options), shape=(3,), compile=made)

    return build


DECAYED = [
    trained_by("adamw"),
    trained_by("adamw", L1L2(0.1, 0.1)),
    trained_by(lambda: keras.optimizers.SGD(weight_decay=0.1)),
    trained_by(lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW())),
    trained_by(lambda: multi(weight_decay=0.1)),
    trained_by(lambda: excluding(var_names=["bias"])),
    trained_by(
        lambda: keras.optimizers.Muon(weight_decay=None, adam_weight_decay=0.1, exclude_layers=[".*"])
    ),
]
NOT_DECAYED = [
    trained_by("adam"),
    trained_by("adamw", "l1"),
    trained_by("adamw", None, activity_regularizer="l2"),
    trained_by("adamw", trainable=False),
    trained_by("adamw", lambda w: 0.1),
    trained_by(lambda: keras.optimizers.AdamW(weight_decay=0.0)),
    trained_by(lambda: excluding(var_names=["kernel"])),
    trained_by(multi),
    lambda: chain(dense(), shape=(3,)),
]
NO_ZEROS = [
    trained_by("adam", "l1"),
    trained_by("sgd", L1L2(0.1, 0.1)),
    trained_by(lambda: multi(), "l1"),
]
ZEROS = [
    trained_by("adam", "l2"),
    trained_by("adam", L1L2(0.0, 0.1)),
    trained_by("adam", None, activity_regularizer="l1"),
    trained_by(Wrapped, "l1"),
    trained_by(lambda: keras.optimizers.LossScaleOptimizer(Wrapped()), "l1"),
    lambda: chain(dense(kernel_regularizer="l1"), shape=(3,)),
]


# SH204: constant outputs.

L1_HERE = {"activity_regularizer": "l1", "kernel_regularizer": None}
CONSTANT = [
    lambda: chain(dense(activation="softmax", **L1_HERE), shape=(3,)),
    lambda: chain(dense(activation="softmax", kernel_regularizer=None, activity_regularizer=L1L2(0.1, 0.1))),
    lambda: chain(dense(activation=layers.Softmax(), **L1_HERE), shape=(3,)),
    lambda: chain(dense(activation="sparsemax", **L1_HERE), shape=(3,)),
    lambda: chain(dense(), layers.Softmax(activity_regularizer="l1"), shape=(3,)),
    lambda: chain(dense(), layers.Activation("softmax", activity_regularizer="l1"), shape=(3,)),
    lambda: chain(dense(), layers.UnitNormalization(activity_regularizer="l2"), shape=(3,)),
]
NOT_CONSTANT = [
    lambda: chain(dense(activation="softmax", activity_regularizer="l2"), shape=(3,)),
    lambda: chain(dense(activation="softmax", kernel_regularizer="l1"), shape=(3,)),
    lambda: chain(dense(activation="log_softmax", **L1_HERE), shape=(3,)),
    lambda: chain(dense(activation="sigmoid", **L1_HERE), shape=(3,)),
    lambda: chain(dense(), layers.UnitNormalization(activity_regularizer="l1"), shape=(3,)),
    lambda: chain(layers.LSTM(3, activation="softmax", activity_regularizer="l1"), shape=(4, 3)),
    lambda: chain(dense(activation="softmax", activity_regularizer=lambda y: 0.1), shape=(3,)),
]


# SH301 and SH302: half precision.


def in_half(dtype: str, regularizer: Any, shape: tuple[int, ...] = (28, 28, 1), **options: Any) -> Build:
    def build() -> Any:
        return chain(
            layers.Conv2D(32, 3, dtype=dtype, activity_regularizer=regularizer, **options), shape=shape
        )

    return build


FLOAT16 = [
    in_half("mixed_float16", "l2"),
    in_half("float16", regularizers.L1(0.1)),
    in_half("float16", None, kernel_regularizer="l2", kernel_initializer=keras.initializers.Constant(20.0)),
]
NOT_FLOAT16 = [
    in_half("mixed_float16", L2(0.1)),
    in_half("mixed_float16", "l2", (6, 6, 1)),
    in_half("float32", "l2"),
    in_half("mixed_bfloat16", "l2"),
    in_half(
        "mixed_float16", None, kernel_regularizer="l2", kernel_initializer=keras.initializers.Constant(20.0)
    ),
    in_half("float16", None, kernel_regularizer="l2"),
    in_half("mixed_float16", lambda y: 0.1),
    lambda: changed(in_half("mixed_float16", "l2")(), lambda m: shrinkage.apply(m, "*: activity = l2(0.1)")),
]
BFLOAT16 = [in_half("mixed_bfloat16", "l2")]
NOT_BFLOAT16 = [in_half("mixed_bfloat16", L2(0.1)), in_half("mixed_float16", "l2"), in_half("float32", "l2")]

CASES = {
    "SH101": (NOT_IN_FORCE, [*IN_FORCE, attention]),
    "SH102": (FROZEN, NOT_FROZEN),
    "SH103": (ZERO, NOT_ZERO),
    "SH201": (BEFORE_NORMALIZATION, NOT_BEFORE_NORMALIZATION),
    "SH202": (CANCELLED, NOT_CANCELLED),
    "SH203": (DECAYED, NOT_DECAYED),
    "SH204": (CONSTANT, NOT_CONSTANT),
    "SH205": (NO_ZEROS, ZEROS),
    "SH301": (FLOAT16, NOT_FLOAT16),
    "SH302": (BFLOAT16, NOT_BFLOAT16),
}


def cases(which: int) -> list[Any]:
    return [
        pytest.param(code, build, id=f"{code}-{i}")
        for code, pair in CASES.items()
        for i, build in enumerate(pair[which])
    ]


@pytest.mark.parametrize(("code", "build"), cases(0))
def test_fires(code: str, build: Build) -> None:
    assert code in check(build()).codes


@pytest.mark.parametrize(("code", "build"), cases(1))
def test_keeps_silent(code: str, build: Build) -> None:
    assert code not in check(build()).codes


# The rule that needs data: SH303.


def fitted(penalty: Any) -> tuple[Any, tuple[Any, Any]]:
    ones = {"kernel_initializer": "ones", "name": "head"}
    model = chain(layers.Dense(2, kernel_regularizer=penalty, **ones), shape=(4,), compile="sgd")
    x = np.ones((6, 4), "float32")
    # A data loss of 1; a kernel with Σ|w| = Σw² = 8.
    return model, (x, keras.ops.convert_to_numpy(model(x)) + 1.0)


def test_penalties_larger_than_the_data_loss() -> None:
    model, data = fitted(L2(0.2))
    (found,) = [f for f in check(model, data) if f.code == "SH303"]
    assert found.place == "head/kernel"
    assert "1.6" in found.message
    assert "the data loss to 1." in found.message


@pytest.mark.parametrize("penalty", [L2(0.1), None, lambda w: 0.5])
def test_penalties_smaller_than_the_data_loss(penalty: Any) -> None:
    assert "SH303" not in check(*fitted(penalty)).codes


def constant(w: Any) -> Any:
    return 0.6


def test_charges_on_outputs_and_by_unknown_regularizers_count() -> None:
    model, data = fitted(constant)
    shrinkage.apply(model, "head: activity = l1(0.1)")  # the outputs are 4 and 4
    (found,) = [f for f in check(model, data) if f.code == "SH303"]
    assert found.place == "head (activity)"


def test_without_data_nothing_is_compared() -> None:
    model, _ = fitted(L2(10.0))
    assert check(model).codes == ()


# The whole.


def residual() -> Any:
    """A network as they come pretrained: convolutions, normalizations, a skip, a softmax; no penalties."""
    x = keras.Input((8, 8, 3))
    y = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", use_bias=False)(x)))
    z = layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same")(y))
    z = layers.GlobalAveragePooling2D()(layers.Add()([y, layers.Activation("swish")(z)]))
    return keras.Model(x, layers.Dense(4, "softmax")(layers.Dropout(0.2)(z)))


def test_a_clean_model_has_no_findings() -> None:
    model = residual()
    model.compile("adamw", "sparse_categorical_crossentropy")
    found = check(model, (np.ones((2, 8, 8, 3), "float32"), np.zeros(2)))
    assert str(found) == "No findings."
    assert not found


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = conv(), normalization()

    def call(self, x: Any) -> Any:
        return self.norm(self.first(x))


def test_subclassed_models_have_no_graph_but_all_other_rules() -> None:
    model = Subclassed()
    model(np.ones((1, 8, 8, 3), "float32"))
    assert check(model).codes == ()
    model.compile("adamw", "mse")
    assert check(model).codes == ("SH203",)


def test_a_subclassed_model_inside_a_graph_ends_the_search() -> None:
    x = keras.Input((10, 10, 3))
    assert check(keras.Model(x, Subclassed()(layers.Conv2D(3, 3, kernel_regularizer="l2")(x)))).codes == ()


def scaled_sum(w: Any) -> Any:
    return 0.1 * keras.ops.sum(w)


class Own(keras.Regularizer):
    def __call__(self, w: Any) -> Any:
        return scaled_sum(w)


class OwnL2(regularizers.L2):
    """A subclass of Keras's may charge anything; nothing is said of it."""


@pytest.mark.parametrize("regularizer", [scaled_sum, Own(), OwnL2(0.0), regularizers.OrthogonalRegularizer()])
def test_regularizers_of_the_users_own_are_left_alone(regularizer: Any) -> None:
    here = {"kernel_regularizer": regularizer, "dtype": "mixed_float16"}
    model = chain(
        dense(**here, bias_regularizer=scaled_sum),
        normalization(),
        layers.Dense(2, name="out", activity_regularizer=Own()),
        shape=(4,),
    )
    model.compile("adamw", "mse")
    assert check(model, (np.ones((5, 4), "float32"), np.ones((5, 2)))).codes in ((), ("SH303",))


def test_an_unbuilt_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no weights yet"):
        check(keras.Sequential([dense()]))
    with pytest.raises(ModelError, match="Keras model is needed"):
        check("model")


def test_data_needs_a_compiled_model() -> None:
    with pytest.raises(ModelError, match="compile it first"):
        check(chain(dense(), shape=(3,)), (np.ones((2, 3)), np.ones((2, 4))))


def test_findings_do_not_change_the_model() -> None:
    model, data = fitted(L2(0.2))
    before = model.get_config()
    optimizer = model.optimizer
    check(model, data)
    assert model.get_config() == before
    assert model.optimizer is optimizer
    model.fit(*data, epochs=1, verbose=0)


def test_findings_read_as_text_and_json() -> None:
    model = chain(*(layers.Conv2D(2, 1, name=f"c{i}", kernel_regularizer=L1(0.0)) for i in range(8)))
    found = check(model)
    assert len(found) == 8
    assert found[0] == next(iter(found))
    assert found[0].place == "c0/kernel"
    assert found[1:3] == tuple(found)[1:3]
    text = str(found)
    assert text.count("SH103") == 1
    assert "c5/kernel, and 2 more" in text
    assert "Why:" in text
    assert "Do:" in text
    assert json.loads(json.dumps(found.to_json()))["findings"][7]["place"] == "c7/kernel"
    assert check(bare()).to_json() == {"findings": []}


def test_every_rule_and_code_is_documented() -> None:
    assert all(rule.__doc__ and rule.__doc__.startswith("SH") for rule in RULES)
    assert all(code in (check.__doc__ or "") for code in [*CASES, "SH303"])


def test_findings_are_values() -> None:
    one = Finding("SH1", "here", "what", "why", "do")
    assert Findings((one,)) == Findings((one,))
    assert hash(Findings((one,))) == hash(Findings((one,)))


def test_a_live_strength_is_compared_by_its_present_value() -> None:
    model = chain(dense(), shape=(3,))
    plan = shrinkage.recipe.bind(shrinkage.Recipe("dense: kernel = l1(strength)"), model)
    live = LiveStrength(0.25)
    shrinkage.recipe.attach(model, plan.with_strength(live))
    live.assign(0.5)
    assert check(model).codes == ()
    assert model.get_layer("dense").get_config()["kernel_regularizer"]["config"] == {"l1": 0.5}


@pytest.mark.parametrize("look", [shrinkage.describe, shrinkage.check])
def test_data_that_is_no_pair_is_one_sentence(look, rng):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    x, y = rng.normal(size=(6, 4)), rng.normal(size=(6, 1))
    for data, words in (
        (x, "must be a pair"),
        (x[:2], "must be a pair"),
        ((x, y[:3]), "differ in length: 3, 6"),
        ((x[:, :3], y), r"inputs of shape \(3,\), but .* takes \(4,\)"),
    ):
        with pytest.raises(DataError, match=words):
            look(model, data)
    look(model, (x, y))
