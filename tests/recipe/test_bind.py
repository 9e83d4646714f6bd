"""Binding and applying: what a recipe puts where, at once, and what stays as it was."""

from __future__ import annotations

import copy
import dataclasses
import re
import warnings

import keras
import numpy as np
import pytest

import shrinkage
from shrinkage.errors import ModelError, RecipeError, ShrinkageWarning, StrengthError
from shrinkage.penalties import L1, L1L2, L2, LiveStrength
from shrinkage.recipe import Plan, Recipe, Term, attach, bind, charges

layers = keras.layers


@pytest.fixture
def model() -> keras.Model:
    """Two dense layers and one that normalizes."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(5, activation="tanh", name="hidden"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="head"),
        ],
        name="small",
    )


@pytest.fixture
def data(rng):
    return rng.normal(size=(32, 4)).astype("float32"), rng.normal(size=(32, 2)).astype("float32")


def in_force(model) -> dict[str, str]:
    """Return what is charged, by place."""
    return {charge.place: str(charge.penalty) for charge in charges(model)}


def charged(model) -> float:
    return sum(float(loss) for loss in model.losses)


# --- in force, at once --------------------------------------------------------------------------------------


def test_a_recipe_is_in_force_at_once_and_touches_nothing_else(model, data):
    """On a compiled and trained model: evaluate's loss changes by exactly the penalty."""
    x, y = data
    model.compile("adam", "mse")
    model.fit(x, y, epochs=2, batch_size=16, verbose=0)
    loss = model.evaluate(x, y, batch_size=16, verbose=0)
    weights = model.get_weights()
    optimizer = [v.numpy() for v in model.optimizer.variables]

    shrinkage.apply(
        model, "*: kernel, bias = l1_l2(0.1, 0.2)\nnorm: gamma = l1(0.3)\nhead: activity = l2(0.05)"
    )

    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    for before, after in zip(optimizer, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(before, after.numpy())
    kernels = [w for v, w in zip(model.weights, weights, strict=True) if v.name in ("kernel", "bias")]
    gamma = next(w for v, w in zip(model.weights, weights, strict=True) if v.name == "gamma")
    outputs = model.predict(x, verbose=0)
    penalty = (
        sum(0.1 * np.abs(w).sum() + 0.2 * np.square(w).sum() for w in kernels)
        + 0.3 * np.abs(gamma).sum()
        + 0.05 * np.square(outputs).sum() / len(x)
    )
    assert model.evaluate(x, y, batch_size=16, verbose=0) == pytest.approx(loss + penalty, rel=1e-5)

    # It trains: a strong penalty makes the weights smaller, with the same compiled model.
    shrinkage.apply(model, "*: kernel = l2(10.0)")
    history = model.fit(x, y, epochs=3, batch_size=16, verbose=0).history["loss"]
    assert history[-1] < history[0]
    size = [
        np.square(w).sum()
        for v, w in zip(model.weights, model.get_weights(), strict=True)
        if v.name == "kernel"
    ]
    assert sum(size) < sum(
        np.square(w).sum() for v, w in zip(model.weights, weights, strict=True) if v.name == "kernel"
    )

    # Taken off, at once too.
    weights = model.get_weights()
    model_loss = model.evaluate(x, y, batch_size=16, verbose=0)
    model(x)
    off = charged(model)
    shrinkage.strip(model)
    assert charges(model) == ()
    assert model.losses == []
    assert model.evaluate(x, y, batch_size=16, verbose=0) < model_loss - 0.9 * off
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_trained_model_can_be_stripped_bare(data):
    """Also of what it was built with; the loss is then the data loss to the last bit."""
    x, y = data
    built_with = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(
                2, kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer="l2", name="head"
            ),
        ]
    )
    bare = keras.Sequential([keras.Input((4,)), layers.Dense(2, name="head")])
    bare.set_weights(built_with.get_weights())
    for each in (built_with, bare):
        each.compile("sgd", "mse")
    assert built_with.evaluate(x, y, verbose=0) > bare.evaluate(x, y, verbose=0)
    shrinkage.strip(built_with)
    assert built_with.evaluate(x, y, verbose=0) == bare.evaluate(x, y, verbose=0)
    assert built_with.layers[0].get_config() == bare.layers[0].get_config()


def test_strip_also_clears_what_would_only_be_saved(model):
    model.get_layer("head").kernel_regularizer = keras.regularizers.L2(0.1)
    shrinkage.strip(model)
    assert model.get_layer("head").get_config()["kernel_regularizer"] is None


def test_apply_says_what_it_put_where(model):
    plan = shrinkage.apply(model, "*: kernel = l2(0.1)\nhead: activity = l1(0.2)\nhidden: kernel = none")
    assert str(plan) == "hidden/kernel = none\nhead/kernel = l2(0.1)\nhead (activity) = l1(0.2)"
    assert plan.terms[1] == Term("head/kernel", "kernel", L2(0.1), "*: kernel")
    assert in_force(model) == {"head/kernel": "l2(0.1)", "head (activity)": "l1(0.2)"}


def test_weights_that_no_rule_names_keep_what_they_have(model):
    shrinkage.apply(model, "hidden: kernel = l2(0.1)")
    shrinkage.apply(model, "head: kernel = l1(0.2)")
    assert in_force(model) == {"hidden/kernel": "l2(0.1)", "head/kernel": "l1(0.2)"}
    shrinkage.apply(model, "hidden: kernel = l1(0.3)")
    assert in_force(model) == {"hidden/kernel": "l1(0.3)", "head/kernel": "l1(0.2)"}


def test_an_empty_recipe_changes_nothing(model):
    shrinkage.apply(model, "head: kernel = l1(0.2)")
    assert shrinkage.apply(model, []).terms == ()
    assert in_force(model) == {"head/kernel": "l1(0.2)"}


def test_binding_alone_does_not_touch_the_model(model):
    plan = bind(Recipe("*: kernel = l2(0.1)\n*: activity = l1(0.1)"), model)
    assert len(plan.terms) == 5
    assert charges(model) == ()
    assert model.get_layer("head").kernel_regularizer is None
    attach(model, plan)
    assert len(charges(model)) == 5


# --- which rule wins ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (
            "*: kernel = l2(0.1)\nhead: kernel = l1(0.2)",
            {"hidden/kernel": "l2(0.1)", "head/kernel": "l1(0.2)"},
        ),
        (
            "head: kernel = l1(0.2)\n*: kernel = l2(0.1)",
            {"hidden/kernel": "l2(0.1)", "head/kernel": "l2(0.1)"},
        ),
        ("*: kernel = l2(0.1)\nhead: kernel = none", {"hidden/kernel": "l2(0.1)"}),
        ("head: kernel = none\n*: kernel = l2(0.1)", {"hidden/kernel": "l2(0.1)", "head/kernel": "l2(0.1)"}),
        ("*: kernel = none\n*: kernel = l2(0.1)\n*: kernel = none", {}),
        ("*: activity = l1(0.1)\nnorm, hidden: activity = none", {"head (activity)": "l1(0.1)"}),
        ("head: kernel, bias = l2(0.1)\nhead: bias = none", {"head/kernel": "l2(0.1)"}),
    ],
)
def test_later_rules_override_and_none_exempts(model, recipe, expected):
    shrinkage.apply(model, recipe)
    assert in_force(model) == expected


@pytest.mark.parametrize("reverse", [False, True], ids=["exact last", "exact first"])
@pytest.mark.parametrize(
    ("layer", "exact", "expected"),
    [
        (lambda: layers.LSTM(2), "recurrent_kernel = l1(0.2)", ["l2(0.1)", "l1(0.2)"]),
        (lambda: layers.LSTM(2), "recurrent = l1(0.2)", ["l2(0.1)", "l1(0.2)"]),
        (lambda: layers.LSTM(2), "recurrent_kernel = none", ["l2(0.1)"]),
        (lambda: layers.SeparableConv1D(2, 2), "depthwise_kernel = l1(0.2)", ["l1(0.2)", "l2(0.1)"]),
        (lambda: layers.DepthwiseConv1D(2), "depthwise_kernel = l1(0.2)", ["l1(0.2)"]),
        (lambda: layers.DepthwiseConv1D(2), "depthwise = l1(0.2)", ["l1(0.2)"]),
    ],
)
def test_an_exact_role_beats_the_generic_kernel_wherever_it_stands(layer, exact, expected, reverse):
    model = keras.Sequential([keras.Input((3, 2)), layer()])
    rules = ["*: kernel = l2(0.1)", f"*: {exact}"]
    shrinkage.apply(model, rules[::-1] if reverse else rules)
    assert [str(charge.penalty) for charge in charges(model)] == expected


def test_among_exact_roles_the_later_wins():
    model = keras.Sequential([keras.Input((3, 2)), layers.GRU(2)])
    shrinkage.apply(
        model, "*: recurrent_kernel = l1(0.1)\n*: recurrent_kernel = l2(0.2)\n*: kernel = l2(0.3)"
    )
    assert [str(charge.penalty) for charge in charges(model)] == ["l2(0.3)", "l2(0.2)"]


def test_kernel_means_every_role_that_ends_so():
    model = keras.Sequential(
        [keras.Input((4, 3)), layers.SeparableConv1D(2, 2), layers.LSTM(2), layers.Dense(1)]
    )
    shrinkage.apply(model, "*: kernel = l2(0.1)")
    assert [c.target for c in charges(model)] == [
        "depthwise_kernel",
        "pointwise_kernel",
        "kernel",
        "recurrent_kernel",
        "kernel",
    ]


# --- every kind of model ------------------------------------------------------------------------------------


def test_nested_models_and_shared_layers_are_charged_once_a_weight(rng):
    shared = layers.Dense(4, name="shared")
    inner_input = keras.Input((4,))
    inner = keras.Model(inner_input, layers.Dense(4, name="deep")(shared(inner_input)), name="inner")
    one, two = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([one, two], layers.Add()([inner(one), shared(two)]))
    shrinkage.apply(model, "*: kernel = l1(1.0)")
    kernels = {id(v): v.numpy() for v in model.weights if v.name == "kernel"}
    assert len(kernels) == 2
    assert charged(model) == pytest.approx(sum(np.abs(w).sum() for w in kernels.values()), rel=1e-6)
    shrinkage.apply(model, "inner/deep: kernel = none")
    assert len(model.losses) == 1


def test_an_output_used_twice_is_charged_twice(rng):
    shared = layers.Dense(3, name="shared")
    one, two = keras.Input((3,)), keras.Input((3,))
    model = keras.Model([one, two], layers.Add()([shared(one), shared(two)]))
    shrinkage.apply(model, "shared: activity = l2(0.5)")
    a, b = rng.normal(size=(2, 7, 3)).astype("float32")
    model([a, b])
    kernel, bias = shared.get_weights()
    expected = sum(0.5 * np.square(x @ kernel + bias).sum() / 7 for x in (a, b))
    assert charged(model) == pytest.approx(expected, rel=1e-5)


def test_a_nested_models_own_output_can_be_charged(model, rng):
    outer = keras.Sequential([keras.Input((4,)), model, layers.Dense(1, name="last")])
    with pytest.warns(ShrinkageWarning, match=r"no place to save it: small \(activity\)"):
        shrinkage.apply(outer, "small: activity = l1(0.1)")
    x = rng.normal(size=(6, 4)).astype("float32")
    outer(x)
    output = keras.ops.convert_to_numpy(model(x))
    assert charged(outer) == pytest.approx(0.1 * np.abs(output).sum() / 6, rel=1e-5)


def test_applying_to_the_outer_model_renews_the_inner_ones_too(model, data):
    x, y = data
    outer = keras.Sequential([keras.Input((4,)), model])
    for each in (model, outer):
        each.compile("sgd", "mse")
        each.evaluate(x, y, verbose=0)
    before = model.evaluate(x, y, verbose=0)
    shrinkage.apply(outer, "head: kernel = l2(1.0)")
    expected = before + np.square(model.get_layer("head").get_weights()[0]).sum()
    for each in (model, outer):
        assert each.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)


def test_a_held_function_does_not_keep_the_old_penalty(model, data):
    x, y = data
    model.compile("sgd", "mse")
    before = model.evaluate(x, y, verbose=0)
    held = model.test_function
    shrinkage.apply(model, "head: kernel = l2(1.0)")
    expected = before + np.square(model.get_layer("head").get_weights()[0]).sum()
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)
    assert held is not None


def test_a_callback_may_apply_in_the_middle_of_training(model, data):
    class Later(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                shrinkage.apply(self.model, "head: kernel = l2(1e3)")

    x, y = data
    model.compile(keras.optimizers.SGD(1e-9), "mse")
    losses = model.fit(x, y, epochs=2, verbose=0, callbacks=[Later()]).history["loss"]
    kernel = model.get_layer("head").get_weights()[0]
    assert losses[1] - losses[0] == pytest.approx(1e3 * np.square(kernel).sum(), rel=1e-3)


def test_a_network_of_keras_applications(monkeypatch, rng, compiled):
    # Keras on JAX compiles its initializers for every shape, which takes longer than the rest.
    monkeypatch.setattr(
        keras.initializers.GlorotUniform,
        "__call__",
        lambda self, shape, dtype=None: keras.ops.convert_to_tensor(rng.normal(size=shape), "float32"),
    )
    model = keras.applications.MobileNetV2(weights=None, input_shape=(32, 32, 3), alpha=0.35, classes=4)
    recipe = """
        Conv2D: kernel = l2(1e-3)
        DepthwiseConv2D: kernel = l1(1e-4)
        BatchNormalization: gamma = l1(1e-5)
        Dense: kernel, bias = l1_l2(1e-3, 1e-2)
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = shrinkage.apply(model, recipe)
    expected, terms = 0.0, 0
    for layer in model.layers:
        numbers = {
            layers.Conv2D: {"kernel": L2(1e-3)},
            layers.DepthwiseConv2D: {"kernel": L1(1e-4)},
            layers.BatchNormalization: {"gamma": L1(1e-5)},
            layers.Dense: {"kernel": L1L2(1e-3, 1e-2), "bias": L1L2(1e-3, 1e-2)},
        }.get(type(layer), {})
        for variable in layer.trainable_variables:
            if variable.name in numbers:
                l1 = getattr(numbers[variable.name], "l1", 0.0)
                l2 = getattr(numbers[variable.name], "l2", 0.0)
                w = variable.numpy()
                expected += l1 * np.abs(w).sum() + l2 * np.square(w).sum()
                terms += 1
    assert terms == len(plan.terms) == len(charges(model)) > 100
    assert float(compiled(lambda: sum(model.losses))()) == pytest.approx(expected, rel=1e-5)


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.hidden = layers.Dense(3, activation="tanh", name="hidden")
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.hidden(x))


def test_a_subclassed_model_is_charged_and_warns_that_its_file_holds_nothing(data):
    x, y = data
    model = Subclassed(name="mine")
    model.compile("sgd", "mse")
    loss = model.evaluate(x, y, verbose=0)
    with pytest.warns(ShrinkageWarning, match="'mine' is a subclassed model, whose file holds none: apply"):
        shrinkage.apply(model, "Dense: kernel = l2(0.5)")
    penalty = sum(0.5 * np.square(layer.get_weights()[0]).sum() for layer in (model.hidden, model.head))
    assert model.evaluate(x, y, verbose=0) == pytest.approx(loss + penalty, rel=1e-5)


def test_a_models_own_weight_is_charged(scaled, data):
    x, y = data
    scaled.compile("sgd", "mse")
    loss = scaled.evaluate(x, y, verbose=0)
    with pytest.warns(ShrinkageWarning, match="whose file holds none"):
        shrinkage.apply(scaled, "mine: scale = l1(0.5)")
    assert scaled.evaluate(x, y, verbose=0) == pytest.approx(loss + 0.5 * 4, rel=1e-5)
    shrinkage.strip(scaled)
    assert scaled.evaluate(x, y, verbose=0) == pytest.approx(loss, rel=1e-6)


def test_frozen_layers_are_charged_when_they_are_unfrozen(model):
    model.get_layer("hidden").trainable = False
    shrinkage.apply(model, "Dense: kernel = l2(1.0)")
    kernels = [np.square(model.get_layer(name).get_weights()[0]).sum() for name in ("hidden", "head")]
    assert charged(model) == pytest.approx(kernels[1], rel=1e-5)
    assert [c.frozen for c in charges(model)] == [True, False]
    model.get_layer("hidden").trainable = True
    assert charged(model) == pytest.approx(sum(kernels), rel=1e-5)


# --- half precision -----------------------------------------------------------------------------------------


def image_model(regularizer=None) -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((28, 28, 1)),
            layers.Conv2D(32, 3, activity_regularizer=regularizer, name="conv"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(1, dtype="float32", name="head"),
        ]
    )


@pytest.mark.thorough
def test_an_activity_penalty_in_half_precision_is_finite_and_right(half_policy, rng):
    """Keras's own formula sums a 26×26×32 map in float16 and is infinite."""
    x = (3 * rng.normal(size=(4, 28, 28, 1))).astype("float32")
    y = rng.normal(size=(4, 1)).astype("float32")
    keras_own, model = image_model("l2"), image_model()
    for each in (keras_own, model):
        each.get_layer("conv").set_weights([rng.normal(size=(3, 3, 1, 32)), rng.normal(size=32)])
    keras_own(x)
    assert not np.isfinite(float(keras_own.losses[0]))

    shrinkage.apply(model, "conv: activity = l2(1e-6)")
    assert model.get_layer("conv").compute_dtype == "float16"
    features = keras.Model(model.inputs[0], model.get_layer("conv").output)(x)
    squares = np.square(keras.ops.convert_to_numpy(features).astype("float64")).sum() / len(x)
    assert squares > 65504
    expected = 1e-6 * squares
    model(x)
    assert float(model.losses[0]) == pytest.approx(expected, rel=1e-3)

    model.compile(keras.optimizers.SGD(0.01), "mse")
    without = np.mean(np.square(model.predict(x, verbose=0) - y))
    before = model.get_weights()
    loss = model.fit(x, y, batch_size=4, epochs=1, verbose=0).history["loss"][0]
    assert loss == pytest.approx(without + expected, rel=1e-3)
    after = model.get_weights()
    assert all(np.isfinite(w).all() for w in after)
    assert any((a != b).any() for a, b in zip(before, after, strict=True))


# --- errors, and warnings -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("heda: kernel = l2(0.1)", "no layer of 'small' is named, or is a, 'heda'. Did you mean 'head'?"),
        ("dense: kernel = l2(0.1)", "Did you mean 'Dense'?"),
        ("Conv2D: kernel = l2(0.1)", "Its layers are hidden, norm, head."),
        ("BatchNormalisation: gamma = l2(0.1)", "Did you mean 'BatchNormalization'?"),
        ("head, hidden: kernal = l2(0.1)", "the layers that it names have no kernal. Did you mean 'kernel'?"),
        (
            "norm: kernel = l2(0.1)",
            "the layers that it names have no kernel. Targets there: gamma, beta, activity.",
        ),
        ("norm: kernel, bias = l2(0.1)", "have no kernel or bias"),
        ("head: recurrent_kernel = l2(0.1)", "Targets there: kernel, bias, activity, unit."),
        ("*: weight = l2(0.1)", "have no weight. Targets there: kernel, bias, gamma, beta, activity, unit."),
        ("xyz, abc: kernel = l2(0.1)", "is named, or is a, 'xyz'"),
    ],
)
def test_a_rule_that_matches_nothing_is_an_error_that_names_the_nearest(model, recipe, said):
    with pytest.raises(RecipeError) as raised:
        shrinkage.apply(model, f"hidden: kernel = l1(0.1)\n{recipe}")
    assert said in str(raised.value)
    assert f"Rule '{recipe}'" in str(raised.value)
    assert charges(model) == (), "nothing is put in force by half"


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ("head, heda: kernel = l2(0.1)", "no layer is named, or is a, 'heda'. Did you mean 'head'?"),
        ("*, Conv2D: kernel = l2(0.1)", "no layer is named, or is a, 'Conv2D'."),
        ("head: kernel, bais = l2(0.1)", "no layer that it names has 'bais'. Did you mean 'bias'?"),
        ("norm: kernel, gamma = l2(0.1)", "no layer that it names has 'kernel'."),
        ("head: kernel, recurrent_kernel = l2(0.1)", "no layer that it names has 'recurrent_kernel'."),
    ],
)
def test_a_part_that_matches_nothing_is_a_warning(model, recipe, said):
    with pytest.warns(ShrinkageWarning, match=re.escape(said)) as caught:
        shrinkage.apply(model, recipe)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning points to the line that applied the recipe"
    assert len(charges(model)) > 0


def test_a_rule_on_what_has_no_output_says_so():
    model = keras.Sequential([keras.Input((3, 2)), layers.LSTM(2, name="lstm"), layers.Dense(1)])
    with pytest.raises(RecipeError, match=r"have no activity\. Targets there: kernel, recurrent_kernel"):
        shrinkage.apply(model, "lstm_cell: activity = l1(0.1)")
    shrinkage.apply(model, "lstm*: activity = l1(0.1)")
    model(np.ones((2, 3, 2), "float32"))
    assert len(model.losses) == 1


@pytest.mark.parametrize(
    "thing", [None, layers.Dense(2), keras.Sequential([layers.Dense(2)])], ids=lambda t: type(t).__name__
)
def test_what_is_no_built_model_is_refused(thing):
    for use in (lambda: shrinkage.apply(thing, "*: kernel = l2(0.1)"), lambda: shrinkage.strip(thing)):
        with pytest.raises(ModelError):
            use()


def test_the_strength_fills_what_the_recipe_leaves_open(model):
    shrinkage.apply(model, "*: kernel = l1_l2(strength, 0.5*strength)", strength=0.2)
    assert in_force(model) == {"hidden/kernel": "l1_l2(0.2, 0.1)", "head/kernel": "l1_l2(0.2, 0.1)"}
    with pytest.raises(StrengthError, match="leaves its strength open: pass strength"):
        shrinkage.apply(model, "*: kernel = l2(strength)")
    with pytest.raises(StrengthError, match="A strength was given, but no rule"):
        shrinkage.apply(model, "*: kernel = l2(0.1)", strength=0.2)
    with pytest.raises(StrengthError, match="must be a finite number"):
        shrinkage.apply(model, "*: kernel = l2(strength)", strength=-1)


# --- the plan -----------------------------------------------------------------------------------------------


def test_a_plan_is_immutable_and_hashable(model):
    recipe = Recipe("*: kernel = l2(0.1)\nhead: activity = l1(0.2)")
    plan = bind(recipe, model)
    assert {plan: 1}[bind(recipe, model)] == 1
    assert plan != bind(Recipe("*: kernel = l2(0.1)"), model)
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.terms = ()
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.terms[0].penalty = None
    assert copy.deepcopy(plan) == plan


def test_a_plan_fits_every_model_of_its_architecture(model):
    plan = bind(Recipe("*: kernel = l2(0.1)"), model)
    twin = keras.models.clone_model(model)
    attach(twin, plan)
    assert in_force(twin) == {"hidden/kernel": "l2(0.1)", "head/kernel": "l2(0.1)"}
    assert charges(model) == ()


def test_a_plan_with_open_strengths_reads_them_from_training_state(model):
    plan = bind(Recipe("*: kernel = l2(strength)\nhead: bias = l1(0.3)\nnorm: gamma = none"), model)
    live = LiveStrength(0.25)
    bound = plan.with_strength(live)
    penalties = {t.path: t.penalty for t in bound.terms}
    assert penalties["head/kernel"].live is penalties["hidden/kernel"].live is live
    assert penalties["head/bias"] == L1(0.3)
    assert penalties["norm/gamma"] is None
    assert bound.terms[0].rule == plan.terms[0].rule
    attach(model, bound)
    kernels = sum(np.square(model.get_layer(n).get_weights()[0]).sum() for n in ("hidden", "head"))
    for strength in (0.25, 2.0):
        live.assign(strength)
        assert charged(model) == pytest.approx(strength * kernels, rel=1e-5)


def test_an_empty_plan_reads_as_nothing():
    assert str(Plan(())) == ""


# --- traps: why `apply` does what it does -------------------------------------------------------------------


def test_trap_setting_the_attribute_of_a_built_layer_charges_nothing(model):
    """Keras charges `variable.regularizer`; the attribute is only what is saved."""
    head = model.get_layer("head")
    head.kernel_regularizer = keras.regularizers.L2(0.1)
    assert model.losses == []
    assert head.get_config()["kernel_regularizer"] is not None
    head.kernel.regularizer = keras.regularizers.L2(0.1)
    assert len(model.losses) == 1


@pytest.mark.not_on("torch", "Keras compiles nothing there")
def test_trap_a_compiled_function_ignores_a_changed_regularizer(model, data):
    x, y = data
    model.compile("sgd", "mse")
    before = model.evaluate(x, y, verbose=0)
    model.get_layer("head").kernel.regularizer = L2(1.0)
    assert model.evaluate(x, y, verbose=0) == before
    model.test_function = None  # what `apply` does
    assert model.evaluate(x, y, verbose=0) > before


@pytest.mark.thorough
@pytest.mark.jax_only
def test_trap_a_later_trace_loses_charges_of_outputs(rng):
    """Keras on JAX knows the losses of a trace by the ids of tracers, which outlive it.

    Here each evaluation traces twice, for 32 and for 28 rows. Keras alone loses a charge, or counts it
    twice, in some of them; after `apply` never.
    """
    x, y = rng.normal(size=(60, 3)).astype("float32"), rng.normal(size=(60, 1)).astype("float32")
    for trial in range(5):
        model = keras.Sequential(
            [keras.Input((3,)), *(layers.Dense(3, activation="tanh") for _ in range(4)), layers.Dense(1)]
        )
        model.compile("sgd", "mse")
        shrinkage.apply(model, "*: activity = l2(1.0)")
        data_loss = float(np.mean(np.square(keras.ops.convert_to_numpy(model(x)) - y)))
        expected = data_loss + charged(model)
        assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5), trial


def test_stale_ids_are_forgotten_with_their_trace():
    """The same, without leaving it to the interpreter which ids it gives out again."""
    model = keras.Sequential([keras.Input((3,)), layers.Dense(3), layers.Dense(1)])
    shrinkage.apply(model, "*: activity = l2(1.0)")
    ids = model.layers[1]._loss_ids
    with keras.StatelessScope():
        ids.add(7)
        assert 7 in ids
    with keras.StatelessScope():
        assert 7 not in ids
        ids.add(8)
        ids.clear()
        assert 8 not in ids
    assert 7 not in ids
    assert len(ids) == 0


@pytest.mark.jax_only
def test_trap_a_compiled_step_on_jax_charges_the_last_call_of_a_shared_layer(rng):
    """Keras 3.15: eagerly, and on the other backends, each call is charged. Inside a nested model too."""
    shared = layers.Dense(3, name="shared")
    inputs = keras.Input((3,))
    flat = keras.Model(inputs, shared(shared(inputs)))
    outer = keras.Sequential([keras.Input((3,)), flat])
    x = rng.normal(size=(8, 3)).astype("float32")
    y = np.asarray(flat(x))
    shrinkage.apply(outer, "shared: activity = l2(1.0)")
    flat(x)
    first, last = map(float, flat.losses)
    for model, expected in ((flat, last), (outer, first + last)):
        model.compile("sgd", "mse")
        assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-5)
