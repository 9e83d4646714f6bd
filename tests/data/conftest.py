"""Builders of small archives, in every layout that the data room reads."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

IDX_CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
MNIST_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
EMNIST_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "test-images-idx3-ubyte",
    "y_test": "test-labels-idx1-ubyte",
}
Arrays = dict[str, np.ndarray]


class Builders:
    """What the tests write files with."""

    mnist_files = MNIST_FILES

    @staticmethod
    def idx(array: np.ndarray) -> bytes:
        """An array in idx format."""
        code = IDX_CODES[array.dtype.str[1:]]
        header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        return header + array.astype(array.dtype.newbyteorder(">")).tobytes()

    @staticmethod
    def images(count: int = 40, classes: int = 10, test: int = 20, side: int = 28, first: int = 0) -> Arrays:
        """Random images, upright, of which no two are equal; every class is in both splits."""
        random = np.random.RandomState(7)

        def labels(n: int) -> np.ndarray:
            return (np.arange(n) % classes + first).astype(np.uint8)

        return {
            "x_train": random.randint(0, 256, (count, side, side), np.uint8),
            "y_train": labels(count),
            "x_test": random.randint(0, 256, (test, side, side), np.uint8),
            "y_test": labels(test),
        }

    def mnist_folder(self, folder: Path, arrays: Arrays, *, packed: bool = True) -> Path:
        """The four idx files, as published or gunzipped."""
        folder.mkdir(parents=True, exist_ok=True)
        for key, name in MNIST_FILES.items():
            data = self.idx(arrays[key])
            if packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(data, 1))
            else:
                (folder / name).write_bytes(data)
        return folder

    def emnist_idx(self, split: str, arrays: Arrays, mapping: str, *, level: int = 1) -> dict[str, bytes]:
        """Members of EMNIST's gzip.zip for one split: images are stored transposed."""
        files = {}
        for key, name in EMNIST_FILES.items():
            stored = arrays[key].transpose(0, 2, 1) if key.startswith("x") else arrays[key]
            data = self.idx(np.ascontiguousarray(stored))
            files[f"emnist-{split}-{name}.gz"] = gzip.compress(data, level)
        files[f"emnist-{split}-mapping.txt"] = mapping.encode()
        return files

    @staticmethod
    def emnist_mat(arrays: Arrays, mapping: np.ndarray, *, compress: bool = True) -> bytes:
        """EMNIST's .mat file: every image flattened column by column, as MATLAB does."""
        import scipy.io

        def part(split: str) -> dict[str, np.ndarray]:
            x = arrays[f"x_{split}"]
            flat = np.stack([image.reshape(-1, order="F") for image in x])
            y = arrays[f"y_{split}"].reshape(-1, 1)
            return {"images": flat, "labels": y.astype(float), "writers": np.zeros_like(y)}

        file = io.BytesIO()
        content = {"dataset": {"train": part("train"), "test": part("test"), "mapping": mapping}}
        scipy.io.savemat(file, content, do_compression=compress)
        return file.getvalue()

    @staticmethod
    def zipped(path: Path, members: Mapping[str, bytes], *, folder: str = "", method: int = 8) -> Path:
        """A zip file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, data in members.items():
                archive.writestr(folder + name, data)
        return path

    @staticmethod
    def unpacked(folder: Path, members: Mapping[str, bytes], *, gunzip: bool = False) -> Path:
        """The same members as files."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in members.items():
            if gunzip and name.endswith(".gz"):
                (folder / name.removesuffix(".gz")).write_bytes(gzip.decompress(data))
            else:
                (folder / name).write_bytes(data)
        return folder

    @staticmethod
    def cifar(per_batch: int = 4) -> tuple[dict[str, bytes], Arrays]:
        """CIFAR-10's binary members, and the arrays that they must give."""
        random = np.random.RandomState(3)
        members, xs, ys = {}, [], []
        for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
            x = random.randint(0, 256, (per_batch, 32, 32, 3), np.uint8)
            y = random.randint(0, 10, per_batch).astype(np.uint8)
            planes = x.transpose(0, 3, 1, 2).reshape(per_batch, -1)
            members[name] = np.concatenate([y[:, None], planes], axis=1).tobytes()
            xs.append(x)
            ys.append(y)
        names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
        members["batches.meta.txt"] = ("\n".join(names) + "\n").encode()
        want = {
            "x_train": np.concatenate(xs[:5]),
            "y_train": np.concatenate(ys[:5]),
            "x_test": xs[5],
            "y_test": ys[5],
        }
        return members, want

    @staticmethod
    def tarred(path: Path, members: Mapping[str, bytes], *extra: tarfile.TarInfo, mode: str = "w:gz") -> Path:
        """CIFAR-10's archive; ``extra`` members come first and have no content."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, mode) as archive:
            folder = tarfile.TarInfo("cifar-10-batches-bin")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
            for info in extra:
                archive.addfile(info)
            for name, data in members.items():
                info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        return path

    @staticmethod
    def npy(
        header: str | None = None, payload: bytes = b"", *, version: int = 1, length: int | None = None
    ) -> bytes:
        """An .npy member with a header of one's own."""
        text = (header or "{'descr': '<f8', 'fortran_order': False, 'shape': (2, 2), }").encode()
        size = len(text) if length is None else length
        return (
            b"\x93NUMPY"
            + bytes([version, 0])
            + struct.pack("<H" if version == 1 else "<I", size)
            + text
            + payload
        )

    @staticmethod
    def png(image: np.ndarray) -> bytes:
        """An image file."""
        from PIL import Image

        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        return file.getvalue()

    @staticmethod
    def png_header(width: int, height: int) -> bytes:
        """A PNG that declares a size and holds a few bytes."""

        def chunk(kind: bytes, data: bytes) -> bytes:
            return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

        size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", size)
            + chunk(b"IDAT", zlib.compress(b"\0" * 99))
            + chunk(b"IEND", b"")
        )


@pytest.fixture(scope="session")
def build() -> Builders:
    return Builders()


@pytest.fixture(scope="session")
def mappings() -> dict[str, str]:
    """Mapping files as NIST publishes them."""
    byclass = [*range(48, 58), *range(65, 91), *range(97, 123)]
    bymerge = [*range(48, 58), *range(65, 91), *map(ord, "abdefghnqrt")]
    digits = list(range(48, 58))

    def lines(codes: list[int]) -> str:
        return "".join(f"{k} {code}\n" for k, code in enumerate(codes))

    return {
        "balanced": lines(bymerge),
        "bymerge": lines(bymerge),
        "byclass": lines(byclass),
        "digits": lines(digits),
        "mnist": lines(digits),
        "letters": "".join(f"{k} {64 + k} {96 + k}\n" for k in range(1, 27)),
    }


@pytest.fixture(autouse=True)
def _no_ambient_data(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the machine's own data directory."""
    monkeypatch.setenv("SHRINKAGE_DATA", str(tmp_path_factory.getbasetemp() / "no-data-here"))


@pytest.fixture
def refused() -> Callable[..., str]:
    """Call something that must end in one DataError (or another error), and return its message."""
    from shrinkage.errors import DataError

    def run(call: Callable[[], Any], kind: type[Exception] = DataError) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(kind) as caught:
                call()
        message = str(caught.value)
        assert type(caught.value) is kind
        assert message
        assert "\n" not in message
        assert len(message) < 1500
        return message

    return run
