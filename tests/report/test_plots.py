"""``study.plot``: axes hold what frame and summary say, and pyplot is used only where it is asked for."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from shrinkage.errors import RunError, SpecError
from shrinkage.report.style import arm_styles

METHODS = ("validation", "learning", "size")
each_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def study(store_study, tmp_path_factory):
    return store_study(tmp_path_factory.mktemp("plots") / "run")


@pytest.fixture(scope="module")
def regression(store_study, tmp_path_factory):
    return store_study(tmp_path_factory.mktemp("plots") / "regression", classification=False)


@pytest.fixture
def ax():
    return Figure().subplots()


def lines(ax, label):
    return [line for line in ax.get_lines() if line.get_label() == label]


def one(ax, label):
    (line,) = lines(ax, label)
    return line


# --- what is drawn --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("measure", "scale"), [("val_data_loss", 1), ("val_accuracy", 100)])
def test_validation_draws_the_frames_means(study, ax, measure, scale):
    study.plot.validation(measure, ax=ax)
    frame = study.frame()
    rows = frame[(frame["arm"] == "L2") & (frame["strength"] < 1)]
    means = scale * rows.groupby("strength")[measure].mean()
    line = one(ax, "L2")
    assert line.get_xdata()[:2] == pytest.approx(means.index)
    assert line.get_ydata()[:2] == pytest.approx(means)
    assert len(lines(ax, "_diverged")) == 1
    assert sum(len(dots.get_xdata()) for dots in lines(ax, "_trials")) == frame[measure].notna().sum()


@pytest.mark.parametrize(("measure", "scale"), [("data_loss", 1), ("accuracy", 100)])
def test_learning_draws_the_means_of_the_curves(study, ax, measure, scale):
    study.plot.learning("L2", measure, ax=ax)
    curves = study.curves()
    rows = curves[(curves["arm"] == "L2") & (curves["strength"] == 0.01)]
    for split in ("train", "val"):
        means = scale * rows.groupby("epoch")[f"{split}_{measure}"].mean()
        assert one(ax, split).get_xdata() == pytest.approx(means.index)
        assert one(ax, split).get_ydata() == pytest.approx(means)
    assert ax.get_title().startswith("L2 at λ = 0.01")


def test_learning_takes_the_recommended_arm(study, ax):
    best = study.summary().recommended.arm
    assert study.plot.learning(ax=ax).get_title().startswith(best)
    assert f"{best} " in f"{ax.get_title()} "


@pytest.mark.parametrize(("measure", "scale"), [(None, 100), ("val_accuracy", 100), ("val_data_loss", 1)])
def test_size_draws_the_frames_means_against_compacted_parameters(study, ax, measure, scale):
    study.plot.size(measure, ax=ax)
    column, frame = measure or "test_accuracy", study.frame()
    means = frame.dropna(subset=[column]).groupby(["arm", "strength"], dropna=False)
    table = means[["compacted_parameters", column]].mean().astype(float)
    for arm in ("none", "flat"):
        assert one(ax, arm).get_xydata() == pytest.approx(table.loc[arm].to_numpy() * [1, scale])
    strengths = [0.01] if measure is None else [0.01, 0.1]  # at 1 a trial diverged
    expected = table.loc["L2"].loc[strengths].to_numpy() * [1, scale]
    assert one(ax, "L2").get_xydata() == pytest.approx(expected)
    assert one(ax, "_whole").get_xdata()[0] == 1000
    assert ("accuracy (%)" in ax.get_ylabel()) == (scale == 100)


def test_a_regression_has_losses(regression, ax):
    assert regression.plot.size(ax=ax).get_ylabel() == "test data loss"
    frame = regression.frame()
    assert one(ax, "none").get_ydata() == pytest.approx(
        frame.loc[frame["arm"] == "none", "test_data_loss"].mean()
    )


@each_method
def test_an_arm_has_its_colour_in_every_figure(study, ax, method):
    options = {"arm": "flat"} if method == "learning" else {}
    getattr(study.plot, method)(ax=ax, **options)
    line = one(ax, "val" if method == "learning" else "flat")
    assert to_hex(line.get_color()).upper() == arm_styles(study.summary())["flat"].colour


# --- where it is drawn ----------------------------------------------------------------------------------


@each_method
def test_given_axes_are_used_and_pyplot_is_left_alone(study, ax, method):
    before = plt.get_fignums()
    assert getattr(study.plot, method)(ax=ax) is ax
    assert plt.get_fignums() == before
    assert ax.has_data()
    assert (ax.get_legend(), ax.figure.legends) == (None, [])


@each_method
def test_without_axes_there_is_a_new_figure_of_pyplots_with_a_legend(study, method):
    try:
        first, second = (getattr(study.plot, method)() for _ in range(2))
        assert isinstance(first, Axes)
        assert first.figure is not second.figure
        assert plt.gcf() is second.figure
        assert len(first.figure.legends) == 1
        first.figure.canvas.draw()
    finally:
        plt.close("all")


@pytest.mark.parametrize("method", ["validation", "size"])
def test_a_legend_for_given_axes_names_the_arms(study, ax, method):
    getattr(study.plot, method)(ax=ax)
    assert {text.get_text() for text in ax.legend().get_texts()} == {"none", "L2", "flat"}


def test_names_are_no_mathematics(store_study, tmp_path):
    study = store_study(tmp_path / "run", arm="_$\\frac{$ <b>\n")
    try:
        for method in METHODS:
            getattr(study.plot, method)().figure.canvas.draw()
        study.plot.learning("_$\\frac{$ <b>\n").figure.canvas.draw()
    finally:
        plt.close("all")


# --- what can't be drawn --------------------------------------------------------------------------------


def test_an_unknown_arm_or_measure_is_one_sentence(study, regression, ax):
    with pytest.raises(SpecError, match=r"no arm 'l2'.* it has 'none', 'L2', 'flat'. Did you mean 'L2'"):
        study.plot.learning("l2", ax=ax)
    with pytest.raises(SpecError, match="must be 'val_data_loss' or 'val_accuracy'; got 'val'"):
        study.plot.validation("val", ax=ax)
    for method, measure in (
        ("validation", "val_accuracy"),
        ("learning", "accuracy"),
        ("size", "test_accuracy"),
    ):
        with pytest.raises(SpecError, match="a regression and has no accuracy"):
            getattr(regression.plot, method)(measure=measure, ax=ax)
    assert not ax.has_data()


def test_a_run_that_is_not_finished_has_no_figures(store_study, tmp_path, ax):
    study = store_study(tmp_path / "run", finished=1)
    for method in METHODS:
        with pytest.raises(RunError, match="is not finished"):
            getattr(study.plot, method)(ax=ax)


def test_a_study_without_sizes_says_so(store_study, tmp_path, ax):
    study = store_study(tmp_path / "run", sizes=False)
    with pytest.raises(RunError, match="has no sizes"):
        study.plot.size(ax=ax)
    assert study.plot.validation(ax=ax).has_data()
