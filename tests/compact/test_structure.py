"""Models of every shape: residual, nested, shared, with many inputs and outputs; and what stays whole."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import ops

from shrinkage.compact import compact
from shrinkage.compact.cut import Cut
from shrinkage.errors import DataError, ModelError

layers = keras.layers


def residual() -> keras.Model:
    x = keras.Input((7, 7, 2))
    stem = layers.Conv2D(6, 3, padding="same", activation="relu", name="stem")(x)
    inner = layers.Conv2D(5, 3, padding="same", activation="relu", name="inner")(stem)
    outer = layers.Conv2D(6, 3, padding="same", name="outer")(inner)
    y = layers.ReLU()(layers.Add()([stem, outer]))
    return keras.Model(x, layers.Dense(3, name="head")(layers.GlobalAveragePooling2D()(y)), name="residual")


def test_inside_a_residual_branch_units_leave_alone(randomize, silence, shrunk):
    model = randomize(residual())
    silence(model.get_layer("inner"), [0, 3])
    silence(model.get_layer("outer"), [1, 2])
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).filters for n in ("stem", "inner", "outer")] == [6, 3, 6]


def test_on_a_residual_stream_units_leave_together(randomize, silence, shrunk):
    model = randomize(residual())
    silence(model.get_layer("stem"), [1, 2])
    silence(model.get_layer("outer"), [2, 3])
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).filters for n in ("stem", "inner", "outer")] == [5, 5, 5]


def test_squeeze_and_excitation(randomize, silence, shrunk):
    """A factor for each channel, the same in every place: places broadcast, channels do not."""
    x = keras.Input((6, 6, 2))
    maps = layers.Conv2D(6, 2, name="maps")(x)
    squeezed = layers.Dense(4, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D()(maps))
    gate = layers.Dense(6, activation="sigmoid", name="gate")(squeezed)
    y = layers.Multiply()([maps, layers.Reshape((1, 1, 6))(gate)])
    model = randomize(keras.Model(x, layers.Dense(2)(layers.GlobalMaxPooling2D()(y))))
    silence(model.get_layer("maps"), [1, 2])
    silence(model.get_layer("squeeze"), [0])
    smaller, receipt = shrunk(model)
    assert smaller.get_layer("maps").filters == 4
    assert (smaller.get_layer("squeeze").units, smaller.get_layer("gate").units) == (3, 4)
    assert receipt.whole == ()


# --- nested and shared --------------------------------------------------------------------------------------


def block(name: str) -> keras.Model:
    x = keras.Input((6,), name=f"{name}_in")
    y = layers.Dense(5, activation="relu", name="one")(x)
    return keras.Model(x, layers.Dense(6, name="two")(y), name=name)


@pytest.mark.parametrize("sequential", [True, False])
def test_through_nested_models(sequential, randomize, silence, deafen, shrunk):
    """The nested model's own input shrinks, and its output."""
    inner = block("inner")
    if sequential:
        inner = keras.Sequential(
            [layers.Dense(5, "relu", name="one"), layers.Dense(6, name="two")], name="inner"
        )
        inner.build((None, 6))
    x = keras.Input((4,))
    y = inner(layers.Dense(6, activation="relu", name="first")(x))
    model = randomize(keras.Model(x, layers.Dense(2, name="last")(y)))
    silence(model.get_layer("first"), [0, 1])
    silence(inner.get_layer("one"), [2])
    deafen(model.get_layer("last"), [3, 4, 5])
    smaller, receipt = shrunk(model)
    twin = smaller.get_layer("inner")
    assert type(twin) is type(inner)
    assert twin.input_shape == (None, 4)
    assert twin.output_shape == (None, 3)
    assert twin.get_layer("one").units == 4
    assert [row.path for row in receipt.layers] == ["first", "inner/one", "inner/two", "last"]


def test_a_nested_model_called_twice_keeps_what_either_call_needs(randomize, silence, shrunk):
    inner = block("inner")
    x = keras.Input((4,))
    one = layers.Dense(6, name="left")(x)
    two = layers.Dense(6, name="right")(x)
    model = keras.Model(x, layers.Dense(2)(layers.Concatenate()([inner(one), inner(two)])))
    randomize(model)
    silence(model.get_layer("left"), [0, 1, 2])
    silence(model.get_layer("right"), [2, 3])
    smaller, _ = shrunk(model)
    assert smaller.get_layer("left").units == smaller.get_layer("right").units == 5
    assert smaller.get_layer("inner").input_shape == (None, 5)


def test_a_nested_model_called_on_its_own_output(randomize, silence, shrunk):
    inner = block("inner")
    x = keras.Input((4,))
    y = inner(inner(layers.Dense(6, name="first")(x)))
    model = randomize(keras.Model(x, layers.Dense(2)(y)))
    silence(model.get_layer("first"), [1])
    silence(inner.get_layer("two"), [1])
    silence(inner.get_layer("one"), [0])
    smaller, _ = shrunk(model)
    assert smaller.get_layer("inner").input_shape == smaller.get_layer("inner").output_shape == (None, 5)
    assert smaller.get_layer("inner").get_layer("one").units == 4


def test_models_nested_in_nested_models(randomize, silence, shrunk):
    x = keras.Input((6,))
    middle = keras.Model(x, layers.Dense(6, name="after")(block("inner")(x)), name="middle")
    x = keras.Input((4,))
    y = middle(layers.Dense(6, name="first")(x))
    model = randomize(keras.Model(x, layers.Dense(2)(y)))
    silence(model.get_layer("first"), [1])
    silence(middle.get_layer("inner").get_layer("two"), [0, 5])
    smaller, receipt = shrunk(model)
    assert smaller.get_layer("middle").get_layer("inner").input_shape == (None, 5)
    assert smaller.get_layer("middle").get_layer("inner").output_shape == (None, 4)
    assert receipt.layers[1].path == "middle/inner/one"


def shared(left_bias: float, right_bias: float, randomize, silence) -> keras.Model:
    x = keras.Input((4,))
    left, right = (layers.Dense(6, activation="tanh", name=n) for n in ("left", "right"))
    both = layers.Dense(5, name="both")
    model = keras.Model(x, layers.Dense(2)(layers.Concatenate()([both(left(x)), both(right(x))])))
    randomize(model)
    silence(left, [1], bias=left_bias)
    silence(right, [1], bias=right_bias)
    return model


def test_a_shared_layer_folds_what_its_calls_agree_on(randomize, silence, shrunk):
    smaller, _ = shrunk(shared(0.5, 0.5, randomize, silence))
    assert [smaller.get_layer(n).units for n in ("left", "right")] == [5, 5]


def test_a_shared_layer_keeps_what_its_calls_disagree_on(randomize, silence, deafen, shrunk):
    model = shared(0.5, 0.25, randomize, silence)
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).units for n in ("left", "right")] == [6, 6]
    deafen(model.get_layer("both"), [1])
    smaller, _ = shrunk(model)
    assert [smaller.get_layer(n).units for n in ("left", "right")] == [5, 5]


def test_a_shared_layer_stays_shared(randomize, silence, shrunk):
    smaller, receipt = shrunk(shared(0.5, 0.5, randomize, silence))
    assert len(smaller.get_layer("both")._inbound_nodes) == 2
    assert sum(layer.name == "both" for layer in smaller.layers) == 1
    assert len(receipt.layers) == 4


# --- inputs and outputs -------------------------------------------------------------------------------------


def test_many_inputs_and_outputs_keep_their_structure(randomize, silence, deafen, shrunk, rng):
    a, b = keras.Input((4,), name="a"), keras.Input((6, 3), name="b")
    left = layers.Dense(6, activation="relu", name="left")(a)
    right = layers.GlobalAveragePooling1D()(layers.Conv1D(6, 3, activation="relu", name="right")(b))
    both = layers.Concatenate()([left, right])
    outputs = {"class": layers.Dense(3, activation="softmax", name="class")(both), "hidden": right}
    model = randomize(keras.Model({"a": a, "b": b}, outputs, name="two"))
    silence(model.get_layer("left"), [0, 1])
    silence(model.get_layer("right"), [0, 1])
    x = {"a": rng.normal(size=(5, 4)).astype("float32"), "b": rng.normal(size=(5, 6, 3)).astype("float32")}
    smaller, _ = shrunk(model, x)
    assert smaller.get_layer("left").units == 4
    assert smaller.get_layer("right").filters == 6  # it is an output
    assert smaller(x).keys() == {"class", "hidden"}
    assert smaller.output_names == model.output_names
    _, receipt = compact(model, x, measure=False)
    assert receipt.largest_difference < 1e-6


def test_lists_of_inputs_and_outputs(randomize, silence, shrunk, rng):
    a, b = keras.Input((4,)), keras.Input((3,))
    hidden = layers.Dense(6, activation="relu", name="hidden")(layers.Concatenate()([a, b]))
    model = randomize(keras.Model([a, b], [layers.Dense(2)(hidden), layers.Dense(1)(hidden), a]))
    silence(model.get_layer("hidden"), [5])
    x = [rng.normal(size=(5, n)).astype("float32") for n in (4, 3)]
    smaller, _ = shrunk(model, x)
    assert smaller.get_layer("hidden").units == 5
    assert len(smaller(x)) == 3
    compact(model, (x, np.zeros(5)), measure=False)


def test_data_that_does_not_fit_is_named(randomize):
    model = randomize(residual())
    with pytest.raises(DataError, match=r"inputs of shape \(5, 3\), but 'residual' takes \(None, 7, 7, 2\)"):
        compact(model, np.zeros((5, 3)))
    with pytest.raises(DataError, match="holds 2 inputs, but 'residual' takes 1"):
        compact(model, [np.zeros((5, 7, 7, 2))] * 2)
    with pytest.raises(DataError, match="one row a sample"):
        compact(model, np.zeros((0, 7, 7, 2)))


def test_lengths_that_are_open(randomize, silence, shrunk, rng):
    x = keras.Input((None, None, 2))
    y = layers.Conv2D(6, 11, activation="relu", name="first")(x)
    model = keras.Model(x, layers.Dense(2)(layers.GlobalMaxPooling2D()(y)))
    randomize(model)
    silence(model.get_layer("first"), [3])
    smaller, receipt = shrunk(model, rng.normal(size=(3, 17, 12, 2)).astype("float32"))
    assert smaller.get_layer("first").filters == 5
    assert smaller.input_shape == (None, None, None, 2)
    # Random inputs of 16 × 16 are the first that work.
    assert receipt.before.macs == 6 * 6 * 11 * 11 * 2 * 6 + 6 * 2


def test_an_index_is_drawn_from_every_vocabulary(randomize, silence, shrunk):
    x = keras.Input((5,), dtype="int32")
    y = layers.Conv1D(6, 2, name="first")(layers.Embedding(3, 4)(x))
    model = randomize(keras.Model(x, layers.Dense(2)(layers.GlobalMaxPooling1D()(y))))
    silence(model.get_layer("first"), [3])
    smaller, receipt = shrunk(model, np.array([[0, 1, 2, 1, 0]], "int32"))
    assert smaller.get_layer("first").filters == 5
    assert [path for path, _ in receipt.whole] == ["embedding"] or receipt.whole[0][0].startswith("embedding")


# --- what stays whole ---------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("tests")
class Twice(layers.Layer):
    """A layer of the user's own."""

    def call(self, x):
        return 2 * x


class MyDense(layers.Dense):
    """A subclass, which may do anything."""


def own(x):
    return ops.sin(x)


WHOLE = {
    "type": (lambda: Twice(name="odd"), "Twice is not a type that can shrink"),
    "subclass": (lambda: MyDense(6, name="odd"), "MyDense, a subclass of Dense, is not a type"),
    "recurrent": (lambda: layers.LSTM(6, name="odd"), "LSTM is not a type that can shrink"),
    "lambda": (lambda: layers.Lambda(lambda x: x + 1, name="odd"), "Lambda is not a type that can shrink"),
    "groups": (lambda: layers.Conv1D(6, 2, groups=2, name="odd"), "its convolution has groups"),
    "softmax": (
        lambda: layers.Dense(6, activation="softmax", name="odd"),
        "its activation, softmax, compares",
    ),
    "activation": (lambda: layers.Dense(6, activation=own, name="odd"), "its activation, own, is not known"),
    "with weights": (
        lambda: layers.Dense(6, activation=layers.PReLU(), name="odd"),
        "its activation is a layer",
    ),
    "layer norm": (lambda: layers.LayerNormalization(name="odd"), "it normalizes over its channels"),
    "noise shape": (lambda: layers.Dropout(0.5, noise_shape=(None, 1, 6), name="odd"), "noise_shape names"),
    "first": (lambda: layers.Flatten(data_format="channels_first", name="odd"), "its channels come first"),
    "axis": (lambda: layers.BatchNormalization(axis=1, name="odd"), "its axis is not the last one"),
    "permute": (lambda: layers.Permute((2, 1), name="odd"), "it moves the axis of its channels"),
    "scales": (lambda: layers.Rescaling([1.0, 2, 3, 4, 5, 6], name="odd"), "differs from channel to channel"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_the_receipt_names_what_stays_whole_and_why(name, randomize, silence, shrunk):
    make, reason = WHOLE[name]
    first = layers.Conv1D(6, 2, name="first")
    model = keras.Sequential([keras.Input((7, 3)), first, make(), layers.Dense(4), layers.Dense(2)])
    randomize(model)
    silence(first, [0, 1])
    silence(model.layers[2], [3])
    smaller, receipt = shrunk(model)
    ((path, why),) = receipt.whole
    assert path == "odd"
    assert reason in why
    assert smaller.layers[2].units == 3
    if name not in ("softmax", "activation"):
        assert smaller.get_layer("first").filters == 6
    else:
        assert smaller.get_layer("first").filters == 4  # its input is a plain kernel's
        assert smaller.get_layer("odd").units == 6


def test_a_softmax_at_the_end_is_no_news(randomize, shrunk):
    model = [keras.Input((4,)), layers.Dense(6), layers.Dense(3, activation="softmax")]
    _, receipt = shrunk(randomize(keras.Sequential(model)))
    assert receipt.whole == ()


def test_merges_that_broadcast_along_channels_stay_whole(randomize, silence, shrunk):
    x = keras.Input((4,))
    wide, narrow = layers.Dense(6, name="wide")(x), layers.Dense(1, name="narrow")(x)
    model = keras.Model(x, layers.Dense(2)(layers.Multiply(name="gate")([wide, narrow])))
    randomize(model)
    silence(model.get_layer("wide"), [0])
    smaller, receipt = shrunk(model)
    assert smaller.get_layer("wide").units == 6
    assert receipt.whole == (("gate", "its inputs differ in rank or in their last axis"),)


def test_an_array_in_an_operation_stays_whole(randomize, silence, shrunk):
    x = keras.Input((4,))
    y = layers.Dense(6, name="first")(x) * np.arange(6, dtype="float32")
    model = randomize(keras.Model(x, layers.Dense(2)(y)))
    silence(model.get_layer("first"), [0])
    smaller, receipt = shrunk(model)
    assert smaller.get_layer("first").units == 6
    assert receipt.whole[0][1] == "it takes an array"


def test_low_rank_and_quantized_layers_stay_whole(randomize, silence, shrunk):
    model = [layers.Dense(6, name="first"), layers.Dense(6, name="odd"), layers.Dense(4), layers.Dense(2)]
    model = randomize(keras.Sequential([keras.Input((5,)), *model]))
    silence(model.get_layer("first"), [0])
    model.get_layer("odd").enable_lora(2)
    smaller, receipt = shrunk(model)
    assert receipt.whole == (("odd", "it has LoRA weights"),)
    assert smaller.get_layer("odd").lora_enabled
    model = [layers.Dense(6, name="first"), layers.Dense(6, name="odd"), layers.Dense(4), layers.Dense(2)]
    model = randomize(keras.Sequential([keras.Input((5,)), *model]))
    model.get_layer("odd").quantize("int8")
    smaller, receipt = shrunk(model)
    assert receipt.whole == (("odd", "it is quantized"),)


def test_a_model_called_for_training_stays_whole(randomize, silence, shrunk):
    """Dropout for ever, as for an estimate of uncertainty; rate 0, for the sake of this test."""
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dropout(0.0, name="drop"), layers.Dense(6)], name="inner"
    )
    x = keras.Input((4,))
    y = inner(layers.Dense(6, name="first")(x), training=True)
    model = randomize(keras.Model(x, layers.Dense(2)(y)))
    silence(model.get_layer("first"), [0])
    smaller, receipt = shrunk(model)
    assert smaller.get_layer("first").units == 6
    assert receipt.whole[0] == ("inner/drop", "it is called with training=True")


def test_a_layer_that_is_whole_in_one_call_is_whole_in_all(randomize, silence, shrunk):
    x = keras.Input((4,))
    left, right = (layers.Dense(6, name=n) for n in ("left", "right"))
    both = layers.Dense(5, name="both")
    y = layers.Concatenate()([both(left(x)), both(right(x), training=True)])
    model = randomize(keras.Model(x, layers.Dense(2)(y)))
    silence(left, [1])
    silence(right, [1])
    smaller, receipt = shrunk(model)
    assert smaller.get_layer("left").units == 6
    assert receipt.whole == (("both", "it is called with training=True"),)


def test_a_nested_model_that_converts_its_input_stays_whole(randomize, silence, shrunk):
    """A model of whole numbers: what is 0.5 outside is 0 inside."""
    inside = keras.Input((6,), dtype="int32")
    inner = keras.Model(inside, layers.Dense(5, name="deep")(inside), name="inner")
    x = keras.Input((4,))
    y = inner(layers.Dense(6, name="first")(x))
    model = randomize(keras.Model(x, layers.Dense(2)(y)))
    silence(model.get_layer("first"), [0], bias=0.5)
    smaller, receipt = shrunk(model)
    assert smaller.get_layer("first").units == 6
    assert "converted on the way in" in dict(receipt.whole)["inner"]


def test_a_subclassed_model_is_one_clear_error():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__(name="mine")
            self.hidden, self.head = layers.Dense(3), layers.Dense(2)

        def call(self, x):
            return self.head(self.hidden(x))

    model = Mine()
    with pytest.raises(ModelError, match="'mine' has no weights yet"):
        compact(model)
    model(np.zeros((1, 4)))
    with pytest.raises(ModelError, match=r"'mine' \(Mine\) has no graph .* Sequential or Functional"):
        compact(model)
    with pytest.raises(ModelError, match="A Keras model is needed; got str"):
        compact("model")


def test_a_layer_that_can_not_be_made_anew_is_named(randomize):
    class Bare(layers.Layer):
        def __init__(self, table):
            super().__init__(name="bare")
            self.table = table

        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), Bare(np.ones(3)), layers.Dense(2)])
    with pytest.raises(ModelError, match=r"The layer 'bare' \(Bare\) can't be made anew from its config"):
        compact(model)


# --- the original, and the copy -----------------------------------------------------------------------------


@pytest.mark.thorough
def test_the_original_is_as_it_was(randomize, silence, config_json, array, rng):
    model = randomize(residual())
    silence(model.get_layer("stem"), [1, 2])
    silence(model.get_layer("outer"), [1])
    model.compile("adam", "mse", metrics=["mae"])
    x, y = rng.normal(size=(16, 7, 7, 2)).astype("float32"), rng.normal(size=(16, 3)).astype("float32")
    model.train_on_batch(x, y)
    nodes = [len(layer._inbound_nodes) for layer in model.layers]
    config, weights = config_json(model), [np.array(w) for w in model.get_weights()]
    state = [np.array(array(v)) for v in model.optimizer.variables]
    smaller, _ = compact(model, (x, y))
    smaller.train_on_batch(x, y)
    assert config_json(model) == config
    assert [len(layer._inbound_nodes) for layer in model.layers] == nodes
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    for before, variable in zip(state, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(before, array(variable))
    model.train_on_batch(x, y)


def test_a_model_of_which_nothing_goes_is_a_copy(randomize, shrunk, array):
    model = randomize(residual())
    smaller, receipt = shrunk(model)
    assert receipt.before.parameters == receipt.after.parameters
    assert receipt.largest_difference == 0
    for old, new in zip(model.weights, smaller.weights, strict=True):
        assert old is not new
        assert old.path == new.path
        np.testing.assert_array_equal(array(old), array(new))


def test_dtypes_and_trainable_flags_stay(half_policy, randomize, silence):
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(6, name="one"), layers.Dense(6, name="two")], name="in"
    )
    x = keras.Input((4,), dtype="float16")
    y = inner(layers.Dense(6, dtype="float32", name="first")(x))
    model = keras.Model(x, layers.Dense(2, dtype="bfloat16")(layers.BatchNormalization()(y)))
    randomize(model)
    inner.trainable = False
    inner.get_layer("two").trainable = True
    model.get_layer("first").bias.trainable = False
    silence(inner.get_layer("one"), [1])
    smaller, _ = compact(model, measure=False)
    pairs = [(model, smaller), (inner, smaller.get_layer("in"))]
    for before, after in [p for a, b in pairs for p in zip(a.layers, b.layers, strict=True)]:
        assert before.dtype_policy.name == after.dtype_policy.name
        assert before.trainable == after.trainable
    assert [v.path for v in smaller.trainable_variables] == [v.path for v in model.trainable_variables]
    assert [v.dtype for v in smaller.variables] == [v.dtype for v in model.variables]
    assert smaller.get_layer("in").get_layer("one").units == 5


def test_a_layer_may_be_trainable_in_a_frozen_model(randomize):
    deep = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="deepest")], name="deep")
    middle = keras.Sequential([keras.Input((4,)), deep, layers.Dense(4)], name="middle")
    model = randomize(keras.Sequential([keras.Input((4,)), middle, layers.Dense(2)]))
    middle.trainable = False
    deep.trainable = True
    smaller, _ = compact(model, measure=False)
    assert not smaller.get_layer("middle").trainable
    assert smaller.get_layer("middle").get_layer("deep").trainable
    assert smaller.get_layer("middle").get_layer("deep").get_layer("deepest").kernel.trainable
    assert not smaller.get_layer("middle").layers[-1].kernel.trainable


def test_a_difference_is_an_error_and_not_a_model(randomize, silence, monkeypatch):
    """As a mistake in this package would show."""
    model = randomize(
        keras.Sequential([keras.Input((4,)), layers.Dense(6, name="a"), layers.Dense(2)], name="small")
    )
    silence(model.get_layer("a"), [1], bias=0.5)
    monkeypatch.setattr(Cut, "shifts", lambda self: {})
    with pytest.raises(ModelError, match=r"outputs differ from those of 'small' by .* 'small' is as it was"):
        compact(model)
