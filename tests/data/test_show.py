"""Facts about a set, and its sheet of samples."""

from __future__ import annotations

import json

import numpy as np
import pytest

from shrinkage.data import Data, describe_data, draw_samples, load_data
from shrinkage.data.build import build_data
from shrinkage.errors import ShrinkageWarning


def images(shape=(8, 8, 1), classes=3, dtype=np.uint8, **options) -> Data:
    random = np.random.RandomState(0)
    x = random.randint(0, 256, (30, *shape)).astype(dtype)
    return build_data(
        "t",
        {"x_train": x, "y_train": np.arange(30) % classes, "x_test": x, "y_test": np.zeros(30, int)},
        **options,
    )


def test_facts_of_images():
    data = images(labels=("a", "b", "c"))
    facts = describe_data(data)
    assert facts.to_json() == {
        "name": "t",
        "task": "classification",
        "train_shape": (30, 8, 8, 1),
        "test_shape": (30, 8, 8, 1),
        "x_dtype": "uint8",
        "y_dtype": "int32",
        "classes": 3,
        "labels": ("a", "b", "c"),
        "train_counts": (10, 10, 10),
        "test_counts": (30, 0, 0),
        "value_range": (float(data.x_train.min()), float(data.x_train.max())),
        "scaled_range": (
            float(data.scaled(data.x_train).min()),
            float(data.scaled(data.x_train).max()),
        ),
        "target_range": None,
        "nbytes": data.nbytes,
    }
    json.dumps(facts.to_json())


def test_facts_of_a_one_hot_set():
    data = build_data("t", {"x_train": np.eye(10), "y_train": np.eye(2)[[0, 1] * 5]})
    facts = describe_data(data)
    assert (facts.classes, facts.labels, facts.train_counts, facts.test_counts) == (
        2,
        ("0", "1"),
        (4, 4),
        (1, 1),
    )


def test_facts_of_a_regression():
    data = build_data("t", {"x_train": np.eye(10, dtype=np.int8), "y_train": np.linspace(-1, 2, 10)})
    facts = describe_data(data)
    assert (facts.task, facts.classes, facts.labels, facts.train_counts) == ("regression", 0, (), ())
    assert facts.target_range == (-1, 2)
    assert (facts.value_range, facts.scaled_range) == ((0, 1), (0, 1))


@pytest.mark.parametrize(
    "data",
    [
        images(),
        images(shape=(5, 7, 3)),
        images(shape=(5, 7, 4)),
        images(shape=(5, 7, 2)),
        images(dtype=np.float32),
        images(labels=("$x^$", "日本語", "a" * 400)),
        images(classes=30),
    ],
)
def test_samples_are_drawn(data, tmp_path):
    path = tmp_path / "samples.png"
    assert draw_samples(data, path) == path
    assert path.read_bytes().startswith(b"\x89PNG")


def test_samples_of_an_image_regression(tmp_path):
    x = np.zeros((20, 4, 4, 1), np.uint8)
    data = build_data("t", {"x_train": x, "y_train": np.linspace(0, 1, 20)})
    assert draw_samples(data, tmp_path / "a.svg", per_class=3) == tmp_path / "a.svg"


def test_the_sheet_is_the_same_every_time(tmp_path):
    data = load_data("digits")
    sheets = [draw_samples(data, tmp_path / f"{k}.png").read_bytes() for k in range(2)]
    assert sheets[0] == sheets[1]


def test_the_sheet_shows_each_class_in_its_row(tmp_path):
    from PIL import Image

    x = np.repeat(np.array([0, 255], np.uint8), 15).reshape(30, 1, 1, 1) * np.ones((30, 4, 4, 1), np.uint8)
    data = Data("t", x, np.repeat([0, 1], 15), x, np.repeat([0, 1], 15), ("dark", "light"))
    path = draw_samples(data, tmp_path / "a.png", per_class=4)
    pixels = np.asarray(Image.open(path).convert("L"))
    half = len(pixels) // 2
    assert (pixels[:half] == 0).sum() > 4 * (pixels[half:] == 0).sum()


def test_what_holds_no_images_is_not_drawn(tmp_path):
    data = build_data("t", {"x_train": np.eye(10), "y_train": np.arange(10) % 2})
    with pytest.warns(ShrinkageWarning, match="no images"):
        assert draw_samples(data, tmp_path / "a.png") is None
    assert list(tmp_path.iterdir()) == []


def test_a_sheet_that_cannot_be_written_is_one_error(tmp_path, refused):
    refused(lambda: draw_samples(images(), tmp_path / "no" / "a.png"))
    refused(lambda: draw_samples(images(), tmp_path / "a.unknown"))
