"""Named sets, in every layout in which their files lie about."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from shrinkage.data import available, load_data, locate
from shrinkage.data.emnist import SPLITS
from shrinkage.data.sources import SETS, data_directory

CLASSES = {"balanced": 47, "bymerge": 47, "byclass": 62, "letters": 26, "digits": 10, "mnist": 10}


def check(data, want, first=0):
    for key in ("x_train", "x_test"):
        got = getattr(data, key)
        assert got.dtype == np.uint8
        assert got.flags.c_contiguous
        assert np.array_equal(got.reshape(want[key].shape), want[key])
        assert got.ndim == 4
    for key in ("y_train", "y_test"):
        assert getattr(data, key).dtype == np.int32
        assert getattr(data, key).tolist() == (want[key].astype(int) - first).tolist()


def test_names():
    assert available() == (
        "digits",
        "mnist",
        "fashion_mnist",
        "cifar10",
        *(f"emnist/{split}" for split in SPLITS),
    )


@pytest.mark.parametrize("name", available())
def test_every_entry_is_complete(name):
    entry = SETS[name]
    assert entry.name == name
    assert len(set(entry.labels)) == len(entry.labels) > 1
    assert entry.looks_for
    for remote in entry.remotes:
        assert len(remote.sha256) == 64
        assert remote.size > 0
        assert remote.urls
        assert not remote.path.startswith("/")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("mnist", "."),
        ("fashion_mnist", "fashion_mnist"),
        ("fashion_mnist", "fashion-mnist"),
        ("fashion_mnist", "FashionMNIST/raw"),
    ],
)
def test_idx_sets(name, folder, packed, build, tmp_path):
    want = build.images()
    build.mnist_folder(tmp_path / folder, want, packed=packed)
    data = load_data(name, data_dir=tmp_path)
    check(data, want)
    assert data.name == name
    assert data.labels == SETS[name].labels
    assert locate(name, tmp_path) == tmp_path / folder


def test_an_unpacked_file_that_kept_its_suffix_is_read(build, tmp_path):
    want = build.images()
    folder = build.mnist_folder(tmp_path / "mnist", want, packed=False)
    for name in build.mnist_files.values():
        (folder / name).rename(folder / f"{name}.gz")
    check(load_data("mnist", data_dir=tmp_path), want)


def test_equal_file_names_of_two_sets_are_told_apart_by_their_folder(build, refused, tmp_path):
    want = build.images()
    build.mnist_folder(tmp_path, want)
    assert "fashion_mnist" in refused(lambda: load_data("fashion_mnist", data_dir=tmp_path))
    fashion = build.mnist_folder(tmp_path / "fashion_mnist", want)
    refused(lambda: load_data("mnist", data_dir=fashion))
    check(load_data("fashion_mnist", data_dir=fashion), want)


@pytest.mark.parametrize("layout", ["tar", "tar in own folder", "folder", "files"])
def test_cifar10(layout, build, tmp_path):
    members, want = build.cifar()
    if layout == "tar":
        build.tarred(tmp_path / "cifar-10-binary.tar.gz", members)
    elif layout == "tar in own folder":
        build.tarred(tmp_path / "cifar10" / "cifar-10-binary.tar.gz", members)
    else:
        build.unpacked(tmp_path / ("cifar-10-batches-bin" if layout == "folder" else "."), members)
    data = load_data("cifar10", data_dir=tmp_path)
    check(data, want)
    assert data.input_shape == (32, 32, 3)
    assert data.labels[:2] == ("airplane", "automobile")


def test_cifar10_takes_its_labels_from_the_archive_where_it_has_them(build, tmp_path):
    members, want = build.cifar()
    del members["batches.meta.txt"]
    build.tarred(tmp_path / "cifar-10-binary.tar.gz", members, mode="w")  # plain, under the same name
    assert load_data("cifar10", data_dir=tmp_path).labels[9] == "truck"
    members["batches.meta.txt"] = "\n\n".join("abcdefghij").encode()
    build.tarred(tmp_path / "cifar-10-binary.tar.gz", members)
    data = load_data("cifar10", data_dir=tmp_path)
    check(data, want)
    assert data.labels == tuple("abcdefghij")


LAYOUTS = [
    "gzip.zip",
    "emnist/gzip.zip",
    "gzip",
    "emnist/gzip",
    "gzip gunzipped",
    "flat",
    "flat gunzipped",
    "matlab.zip",
    "matlab",
    "emnist/matlab",
    "flat mat",
    "zip without folder",
]


def lay_out(layout, split, want, build, mappings, tmp_path):
    text = mappings[split]
    if "mat" in layout:
        table = np.array([[int(word) for word in line.split()] for line in text.splitlines()], np.uint8)
        files = {f"emnist-{split}.mat": build.emnist_mat(want, table, compress=split != "digits")}
        kind = "matlab"
    else:
        files = build.emnist_idx(split, want, text)
        kind = "gzip"
    if layout.endswith(".zip"):
        build.zipped(tmp_path / layout, files, folder=f"{kind}/")
    elif layout == "zip without folder":
        build.zipped(tmp_path / "gzip.zip", files)
    else:
        folder = "." if layout.startswith("flat") else layout.split()[0]
        build.unpacked(tmp_path / folder, files, gunzip="gunzipped" in layout)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_emnist_is_upright_in_every_layout(layout, build, mappings, tmp_path):
    want = build.images(classes=47, count=94, test=47)
    lay_out(layout, "balanced", want, build, mappings, tmp_path)
    data = load_data("emnist", data_dir=tmp_path)
    check(data, want)
    assert data.name == "emnist/balanced"
    assert "".join(data.labels) == "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt"


@pytest.mark.parametrize("layout", ["gzip.zip", "matlab.zip"])
@pytest.mark.parametrize("split", SPLITS)
def test_emnist_splits(split, layout, build, mappings, tmp_path):
    classes = CLASSES[split]
    first = 1 if split == "letters" else 0
    want = build.images(classes=classes, count=2 * classes, test=classes, first=first)
    lay_out(layout, split, want, build, mappings, tmp_path)
    data = load_data(f"emnist/{split}", data_dir=tmp_path)
    check(data, want, first)
    assert data.classes == classes
    assert data.labels == SPLITS[split]
    assert sorted(set(data.y_train.tolist())) == list(range(classes))


def test_emnist_without_its_mapping_uses_the_published_one(build, mappings, tmp_path):
    want = build.images(classes=26, count=52, test=26, first=1)
    files = build.emnist_idx("letters", want, mappings["letters"])
    del files["emnist-letters-mapping.txt"]
    build.unpacked(tmp_path / "gzip", files)
    data = load_data("emnist/letters", data_dir=tmp_path)
    check(data, want, 1)
    assert data.labels[:2] == ("Aa", "Bb")


def test_one_archive_serves_all_splits(build, mappings, tmp_path):
    digits, letters = build.images(), build.images(classes=26, count=52, test=26, first=1)
    files = build.emnist_idx("digits", digits, mappings["digits"])
    files |= build.emnist_idx("letters", letters, mappings["letters"])
    build.zipped(tmp_path / "gzip.zip", files, folder="gzip/")
    check(load_data("emnist/digits", data_dir=tmp_path), digits)
    check(load_data("emnist/letters", data_dir=tmp_path), letters, 1)
    assert locate("emnist/mnist", tmp_path) is None


@pytest.mark.parametrize("name", [name for name in available() if name != "digits"])
def test_every_named_set_may_lie_as_npz(name, build, tmp_path):
    classes = len(SETS[name].labels)
    want = build.images(classes=classes, count=2 * classes, test=classes, side=8)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    np.savez(tmp_path / f"{name}.npz", **want)
    data = load_data(name, data_dir=tmp_path)
    check(data, want)
    assert data.labels == SETS[name].labels
    assert data.name == name


@pytest.mark.parametrize("first", [0, 1])
def test_letters_in_an_npz_may_be_numbered_from_one(first, build, tmp_path):
    want = build.images(classes=26, count=52, test=26, side=4, first=first)
    np.savez(tmp_path / "emnist-letters.npz", **want)
    check(load_data("emnist/letters", data_dir=tmp_path), want, first)


def test_a_stray_file_does_not_replace_the_built_in_set(build, tmp_path):
    np.savez(tmp_path / "digits.npz", **build.images(side=4))
    assert load_data("digits", data_dir=tmp_path).input_shape == (8, 8, 1)


def test_where_sets_are_looked_for(build, monkeypatch, tmp_path):
    want = build.images(side=4)
    for folder in ("argument", "environment"):
        (tmp_path / folder).mkdir()
    np.savez(tmp_path / "environment" / "mnist.npz", **want)
    monkeypatch.setenv("SHRINKAGE_DATA", str(tmp_path / "environment"))
    check(load_data("mnist"), want)
    want["x_train"] = want["x_train"][::-1]
    np.savez(tmp_path / "argument" / "mnist.npz", **want)
    check(load_data("mnist", data_dir=tmp_path / "argument"), want)
    monkeypatch.delenv("SHRINKAGE_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert data_directory().parts[-2:] == ("shrinkage", "data")


@pytest.mark.parametrize("name", [name for name in available() if name != "digits"])
def test_a_set_that_is_not_there_names_the_command_that_fetches_it(name, refused, tmp_path, monkeypatch):
    message = refused(lambda: load_data(name, data_dir=tmp_path / "a b"))
    assert f"shrinkage data fetch {name} --data-dir '{tmp_path}/a b'" in message
    monkeypatch.setenv("SHRINKAGE_DATA", str(tmp_path))
    message = refused(lambda: load_data(name))
    assert message.endswith(f"shrinkage data fetch {name}")
    assert str(tmp_path) in message


def test_an_incomplete_set_is_not_there(build, refused, tmp_path):
    folder = build.mnist_folder(tmp_path / "mnist", build.images())
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "shrinkage data fetch mnist" in refused(lambda: load_data("mnist", data_dir=tmp_path))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("mnits", "mnist"),
        ("MNIST", "mnist"),
        ("fashion-mnist", "fashion_mnist"),
        ("emnist/leters", "emnist/letters"),
    ],
)
def test_a_misspelt_name_is_guessed(given, meant, refused):
    assert f"Did you mean {meant!r}?" in refused(lambda: load_data(given))


def test_adding_a_set_is_one_entry(build, monkeypatch, tmp_path):
    entry = dataclasses.replace(SETS["mnist"], name="mine", labels=tuple("abcdefghij"))
    monkeypatch.setitem(SETS, "mine", entry)
    np.savez(tmp_path / "mine.npz", **build.images(side=4))
    assert load_data("mine", data_dir=tmp_path).labels[0] == "a"
