"""Files, folders and functions of the user's own."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from shrinkage.data import Data, load_data
from shrinkage.errors import CodeNotAllowedError

# --- npz -------------------------------------------------------------------------------------------


def test_npz_as_it_is(build, tmp_path):
    want = build.images(side=5)
    np.savez_compressed(tmp_path / "mine.npz", **want, labels=np.array(list("abcdefghij")), other=np.eye(3))
    data = load_data(tmp_path / "mine.npz")
    assert data.name == "mine"
    assert data.input_shape == (5, 5, 1)
    assert np.array_equal(data.x_test[..., 0], want["x_test"])
    assert data.labels == tuple("abcdefghij")
    assert data.scaled(data.x_train).max() <= 1


def test_npz_without_a_test_split_gets_a_fifth(tmp_path):
    y = np.arange(100) % 4
    np.savez(tmp_path / "a.npz", x_train=np.random.RandomState(0).normal(size=(100, 3)), y_train=y)
    first, second = load_data(str(tmp_path / "a.npz")), load_data(str(tmp_path / "a.npz"))
    assert np.bincount(first.y_test).tolist() == [5, 5, 5, 5]
    assert first.fingerprint() == second.fingerprint()
    assert first.x_train.dtype == np.float64


def test_npz_one_hot_and_colour(tmp_path):
    x = np.zeros((10, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.eye(2)[[0, 1] * 5], labels=["no", "yes"])
    data = load_data(tmp_path / "a.npz")
    assert (data.is_one_hot, data.input_shape, data.labels) == (True, (4, 4, 3), ("no", "yes"))


def test_npz_keys(tmp_path, refused):
    np.savez(tmp_path / "a.npz", X_train=np.eye(3), y=np.zeros(3))
    message = refused(lambda: load_data(tmp_path / "a.npz"))
    assert "Did you mean 'X_train'?" in message
    assert "it holds X_train, y" in message


# --- csv -------------------------------------------------------------------------------------------


def write(path, text, **kwargs):
    path.write_text(text, **kwargs)
    return path


def rows(labels):
    return "".join(f"{k},{k / 2},{label}\n" for k, label in enumerate(labels))


@pytest.mark.parametrize("column", ["label", "target", "class", "y", "Label"])
def test_csv_label_column_by_name(column, tmp_path):
    data = load_data(write(tmp_path / "a.csv", f"a,b,{column}\n" + rows(["cat", "dog"] * 10)))
    assert data.labels == ("cat", "dog")
    assert data.input_shape == (2,)
    assert data.x_train.dtype == np.float32
    whole = np.concatenate([data.x_train, data.x_test])
    assert sorted(whole[:, 0].tolist()) == list(range(20))
    assert (whole[:, 1] == whole[:, 0] / 2).all()
    assert (np.concatenate([data.y_train, data.y_test]) == whole[:, 0] % 2).all()


@pytest.mark.parametrize(
    ("labels", "classes", "names"),
    [
        ([3, 5] * 10, 2, ("3", "5")),
        ([0, 1, 2, 1] * 5, 3, ("0", "1", "2")),
        (["3.0", "5.0"] * 10, 0, ()),
        (range(20), 0, ()),
        (["1e3", "2"] * 10, 0, ()),
        (["1", "b"] * 10, 2, ("1", "b")),
        (["None", "b"] * 10, 2, ("None", "b")),
        ([" a ", "a"] * 5 + ["b"] * 10, 2, ("a", "b")),
        (["é", "日本"] * 10, 2, ("é", "日本")),
    ],
)
def test_csv_label_rule(labels, classes, names, tmp_path):
    data = load_data(write(tmp_path / "a.csv", "a,b,y\n" + rows(labels), encoding="utf-8"))
    assert (data.classes, data.labels) == (classes, names)
    assert data.y_train.dtype == (np.int32 if classes else np.float32)


def test_csv_dialects(tmp_path):
    for name, text in {
        "semicolon": "a;b;y\n1;2;x\n3;4;z\n" * 1 + "5;6;x\n7;8;z\n",
        "tab": "a\tb\ty\n1\t2\tx\n3\t4\tz\n5\t6\tx\n7\t8\tz\n",
        "windows": "a,b,y\r\n1,2,x\r\n3,4,z\r\n5,6,x\r\n7,8,z\r\n\r\n",
        "quoted": 'a,"b, c",y\n"1",2,"x"\n3,4,z\n5,6,x\n7,8,z',
        "marked": "\ufeffa,b,y\n1,2,x\n3,4,z\n5,6,x\n7,8,z\n",
        "blank lines": "a,b,y\n\n1,2,x\n3,4,z\n\n5,6,x\n7,8,z\n\n\n",
    }.items():
        data = load_data(write(tmp_path / "a.csv", text, encoding="utf-8"))
        assert data.labels == ("x", "z"), name
        assert sorted(np.concatenate([data.x_train, data.x_test]).ravel().tolist()) == list(range(1, 9)), name


def test_csv_label_by_argument(tmp_path, refused):
    path = write(tmp_path / "a.csv", "alpha,beta,gamma\n" + rows(["x", "z"] * 5))
    assert load_data(path, label="gamma").labels == ("x", "z")
    message = refused(lambda: load_data(path))
    assert "alpha, beta, gamma" in message
    assert "Did you mean 'gamma'?" in refused(lambda: load_data(path, label="gama"))
    assert "labels" in refused(lambda: load_data(write(path, "a,labels\n1,2\n")))
    refused(lambda: load_data("digits", label="y"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a,b,y\n1,2,x\n1,,z\n", "line 3: column 'b' has a missing value"),
        ("a,b,y\n1,2,x\n\n1,NaN,z\n", "line 4: column 'b' has a missing value"),
        ("a,b,y\n1,red,x\n", "line 2: column 'b' holds 'red', which is not a number"),
        ("a,b,y\n1,inf,x\n", "line 2: column 'b' holds 'inf'"),
        ("a,b,y\n1,1e99,x\n", "float32"),
        ("a,b,y\n1,2,x\n1,2,\n", "line 3: the label column 'y' has a missing value"),
        ("a,b,y\n1,2,1.5\n1,2,NA\n", "line 3: the label column 'y' has a missing value"),
        ("a,b,y\n1,2,1.5\n1,2,inf\n", "line 3: the label column 'y' holds an infinite value"),
        ("a,b,y\n1,2,1.5\n1,2,1e300\n", "float32"),
        ("a,b,y\n1,2\n", "line 2: 2 values where the header names 3"),
        ("a,b,y\n1,2,3,4\n", "line 2: 4 values"),
        ("a,a,y\n1,2,3\n", "two columns named 'a'"),
        (",a,y\n1,2,3\n", "column 1 has no name"),
        ("1,2,3\n1,2,3\n", "name the columns"),
        ("y\n1\n", "only the column 'y'"),
        ("a,y,label\n1,2,3\n", "several columns"),
        ("a,y\n", "no rows"),
        ("", "empty"),
        ("a,y\n1,x\n2,z\n", "too few"),
        ("a,y\n" + "".join(f"1,t{k}\n" for k in range(1500)), "1000 different texts"),
        ('a,y\n"1"2,x\n', "line 2"),
    ],
)
def test_csv_errors_name_column_and_line(text, says, tmp_path, refused):
    path = write(tmp_path / "a.csv", text)
    message = refused(lambda: load_data(path))
    assert says in message
    assert message.startswith((str(path), "a has no test split"))


# --- folders of images -----------------------------------------------------------------------------


def image_folder(root, build, per_class=5, shape=(4, 6), parts=(".",), suffix="png"):
    from PIL import Image

    random = np.random.RandomState(0)
    images = {}
    for part in parts:
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True, exist_ok=True)
            for k in range(per_class):
                pixels = random.randint(0, 256, shape, np.uint8)
                Image.fromarray(pixels).save(folder / f"{k}.{suffix}")
                images[part, name, k] = pixels
    return images


@pytest.mark.parametrize("shape", [(4, 6), (4, 6, 3)])
def test_image_folder(shape, build, tmp_path):
    images = image_folder(tmp_path / "pets", build, shape=shape)
    (tmp_path / "pets" / "cat" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "pets" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "pets" / ".git").mkdir()
    data = load_data(tmp_path / "pets")
    assert data.name == "pets"
    assert data.labels == ("cat", "dog")
    assert data.input_shape == (4, 6, 1 if len(shape) == 2 else 3)
    assert data.x_train.dtype == np.uint8
    assert (len(data.x_train), len(data.x_test)) == (8, 2)
    got = {
        (image.tobytes(), int(y))
        for x, ys in ((data.x_train, data.y_train), (data.x_test, data.y_test))
        for image, y in zip(x, ys, strict=True)
    }
    assert got == {(image.tobytes(), int(name == "dog")) for (_, name, _), image in images.items()}


def test_image_folder_with_a_published_split(build, tmp_path):
    images = image_folder(tmp_path, build, parts=("train", "test"))
    data = load_data(str(tmp_path))
    assert np.array_equal(data.x_train[5, ..., 0], images["train", "dog", 0])
    assert np.array_equal(data.x_test[0, ..., 0], images["test", "cat", 0])
    assert data.y_train.tolist() == [0] * 5 + [1] * 5 == data.y_test.tolist()


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "gif"])
def test_image_formats(suffix, build, tmp_path):
    image_folder(tmp_path, build, suffix=suffix)
    assert load_data(tmp_path).input_shape[:2] == (4, 6)


def test_grey_and_coloured_images_together_are_coloured(build, tmp_path):
    image_folder(tmp_path, build)
    (tmp_path / "cat" / "9.png").write_bytes(build.png(np.full((4, 6, 4), 7, np.uint8)))
    assert load_data(tmp_path).input_shape == (4, 6, 3)


def test_image_folder_errors(build, tmp_path, refused):
    image_folder(tmp_path / "a", build)
    odd = tmp_path / "a" / "dog" / "2.png"
    odd.write_bytes(build.png(np.zeros((6, 4), np.uint8)))
    message = refused(lambda: load_data(tmp_path / "a"))
    assert str(odd) in message
    assert "4×6" in message
    assert "6×4" in message
    (tmp_path / "a" / "empty").mkdir()
    assert "holds no images" in refused(lambda: load_data(tmp_path / "a"))
    (tmp_path / "none").mkdir()
    assert "class folders" in refused(lambda: load_data(tmp_path / "none"))
    image_folder(tmp_path / "b", build, parts=("train",))
    image_folder(tmp_path / "b" / "test" / "x", build, parts=(".",))
    assert "'x'" in refused(lambda: load_data(tmp_path / "b"))
    image_folder(tmp_path / "c", build)
    (tmp_path / "c" / "cat" / "0.png").write_bytes(build.png(np.zeros((4, 6), np.uint16)))
    assert "8 bits" in refused(lambda: load_data(tmp_path / "c"))


# --- references ------------------------------------------------------------------------------------

MODULE = """
import numpy as np
from shrinkage.data import Data
x, y = np.arange(40.0).reshape(20, 2), np.arange(20) % 2
def pair(): return x, y
def four(): return x, y, x, y
def nested(): return (x, y), (x, y)
def mapping(): return {"x_train": x, "y_train": y, "labels": ["no", "yes"]}
def ready(): return Data("ready", x, y, x, y)
def nothing(): return None
def three(): return x, y, x
def broken(): raise RuntimeError("no luck")
value = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"user_data_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield name
    sys.modules.pop(name, None)


@pytest.mark.parametrize("function", ["pair", "four", "nested", "mapping", "ready"])
def test_reference(function, module):
    data = load_data(f"{module}:{function}", allow_code=True)
    assert isinstance(data, Data)
    assert data.name == function
    assert data.classes == 2
    assert len(data.x_train) + len(data.x_test) == (20 if function in ("pair", "mapping") else 40)


def test_reference_needs_permission(module):
    with pytest.raises(CodeNotAllowedError, match="--allow-code"):
        load_data(f"{module}:pair")
    assert module not in sys.modules


@pytest.mark.parametrize("function", ["nothing", "three", "broken", "value", "missing"])
def test_reference_errors(function, module, refused):
    assert function in refused(lambda: load_data(f"{module}:{function}", allow_code=True))


def test_reference_to_a_missing_module(refused):
    assert "imported" in refused(lambda: load_data("no_such_module_here:f", allow_code=True))


def test_references_into_this_package_need_no_permission(refused):
    assert "returned a" in refused(lambda: load_data("shrinkage.data:available"))
    assert "is not a function of" in refused(lambda: load_data("shrinkage.data.load:Path"))


# --- paths -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gone.npz", "gone/mnist.csv", "a\0b.npz", "x" * 5000 + ".npz"])
def test_a_path_that_leads_nowhere(name, refused):
    refused(lambda: load_data(name))


@pytest.mark.parametrize("name", ["a.pkl", "a.npy", "a.mat", "a.parquet"])
def test_other_kinds_of_files_are_not_read(name, tmp_path, refused):
    (tmp_path / name).write_bytes(b"")
    assert ".npz" in refused(lambda: load_data(tmp_path / name))


def test_a_name_wins_over_a_file_called_so(tmp_path, monkeypatch, refused):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert load_data("digits").classes == 10
    assert "class folders" in refused(lambda: load_data("./digits"))
