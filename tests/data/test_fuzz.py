"""Sound files with a few bytes changed: they load, or are one `DataError`; nothing else."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shrinkage.data import load_data
from shrinkage.errors import DataError

MUTATIONS = 200
FILES: dict[str, Callable[..., tuple[Path, str | Path, Path | None]]] = {}


def sound(function):
    """Write sound files; return the one to change and the arguments of `load_data`."""
    FILES[function.__name__] = function
    return function


@sound
def idx_plain(build, root, mappings):
    folder = build.mnist_folder(root / "mnist", build.images(side=4), packed=False)
    return folder / build.mnist_files["x_train"], "mnist", root


@sound
def idx_packed(build, root, mappings):
    folder = build.mnist_folder(root / "mnist", build.images(side=4))
    return folder / f"{build.mnist_files['y_test']}.gz", "mnist", root


@sound
def npz_stored(build, root, mappings):
    np.savez(root / "a.npz", **build.images(side=4))
    return root / "a.npz", root / "a.npz", None


@sound
def npz_deflated(build, root, mappings):
    np.savez_compressed(root / "a.npz", **build.images(side=4), labels=np.array(list("abcdefghij")))
    return root / "a.npz", root / "a.npz", None


def _mat(build, root, compress):
    path = root / "emnist-digits.mat"
    mapping = np.stack([np.arange(10), np.arange(48, 58)], axis=1).astype(np.uint8)
    path.write_bytes(build.emnist_mat(build.images(side=4), mapping, compress=compress))
    return path, "emnist/digits", root


@sound
def mat_plain(build, root, mappings):
    return _mat(build, root, False)


@sound
def mat_compressed(build, root, mappings):
    return _mat(build, root, True)


@sound
def emnist_zip(build, root, mappings):
    files = build.emnist_idx("digits", build.images(side=4), mappings["digits"])
    return build.zipped(root / "gzip.zip", files, folder="gzip/"), "emnist/digits", root


@sound
def emnist_mapping(build, root, mappings):
    build.unpacked(
        root, build.emnist_idx("letters", build.images(classes=26, first=1, side=4), mappings["letters"])
    )
    return root / "emnist-letters-mapping.txt", "emnist/letters", root


@sound
def csv(build, root, mappings):
    path = root / "a.csv"
    rows = "".join(f"{k},{k / 3:.3f},{'cat' if k % 2 else 'dog'}\n" for k in range(40))
    path.write_text("a,b,label\n" + rows)
    return path, path, None


@sound
def cifar_tar(build, root, mappings):
    members, _ = build.cifar(1)
    return build.tarred(root / "cifar-10-binary.tar.gz", members), "cifar10", root


@sound
def cifar_plain_tar(build, root, mappings):
    members, _ = build.cifar(1)
    return build.tarred(root / "cifar-10-binary.tar.gz", members, mode="w"), "cifar10", root


def _images(build, root, suffix):
    from PIL import Image

    for name in ("a", "b"):
        (root / "set" / name).mkdir(parents=True)
        for k in range(2):
            pixels = np.random.RandomState(k).randint(0, 256, (6, 5, 3), np.uint8)
            Image.fromarray(pixels).save(root / "set" / name / f"{k}.{suffix}")
    return root / "set" / "a" / f"0.{suffix}", root / "set", None


@sound
def image_png(build, root, mappings):
    return _images(build, root, "png")


@sound
def image_jpg(build, root, mappings):
    return _images(build, root, "jpg")


@sound
def image_bmp(build, root, mappings):
    return _images(build, root, "bmp")


@sound
def image_gif(build, root, mappings):
    return _images(build, root, "gif")


def mutated(data: bytes, random: np.random.RandomState) -> bytes:
    """Change, cut out, double or insert a few bytes; half of the changes hit the first or last 200."""
    out = bytearray(data)
    for _ in range(random.randint(1, 4)):
        at = random.randint(len(out) or 1)
        if random.rand() < 0.5:
            at = min(at, at % 200) if random.rand() < 0.5 else max(0, len(out) - 1 - at % 200)
        kind = random.randint(5)
        if kind < 2 and out:
            out[min(at, len(out) - 1)] = random.choice([0, 1, 0x7F, 0x80, 0xFF, random.randint(256)])
        elif kind == 2:
            del out[at : at + random.randint(1, 20)]
        elif kind == 3:
            out[at:at] = random.bytes(random.randint(1, 9))
        else:
            out[at:at] = out[at : at + 40]
    return bytes(out[: random.randint(len(out) + 1)]) if random.rand() < 0.1 else bytes(out)


@pytest.mark.parametrize("name", FILES)
def test_changed_files_load_or_are_refused(name, build, mappings, tmp_path):
    path, what, data_dir = FILES[name](build, tmp_path, mappings)
    data = path.read_bytes()
    assert load_data(what, data_dir=data_dir).classes > 1
    random = np.random.RandomState(0)
    messages: list[str] = []
    for _ in range(MUTATIONS):
        path.write_bytes(mutated(data, random))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                check(load_data(what, data_dir=data_dir))
            except DataError as error:
                messages.append(str(error))
    assert messages
    assert not any("\n" in message for message in messages)


def check(data: Any) -> None:
    """Whatever loads is a usable set."""
    assert np.isfinite(data.x_train.astype(float)).all()
    if data.classes:
        assert data.y_train.min() >= 0
        assert max(data.y_train.max(), data.y_test.max()) < data.classes
    assert len(data.fingerprint()) == 64
