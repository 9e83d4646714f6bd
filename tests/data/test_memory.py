"""Peak memory while loading: the data's own size, and a fixed allowance; no second copy.

Measured in a fresh process as the peak of its resident set above what it had after the imports. The sets
are smaller than real ones and the allowance with them: a second copy would break the bound.
"""

from __future__ import annotations

import gzip
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

MIB = 2**20
ALLOWANCE = 72 * MIB
COUNT, TEST = 140_000, 14_000  # 115 MiB

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")

CODE = """
import sys
from shrinkage.data import load_data
def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))
before = status("VmRSS")
data = load_data(sys.argv[1], data_dir=sys.argv[2])
peak = status("VmHWM")
assert data.x_train.dtype == "uint8" and data.x_train.flags.c_contiguous
print(peak - before, data.nbytes, int(data.x_train[7, 3, 5, 0]), int(data.x_test[9, 20, 1, 0]))
"""


def measure(run_python, name, folder) -> tuple[int, int, int, int]:
    used, size, first, second = map(int, run_python(CODE, name, str(folder)).split())
    assert size > 100 * MIB
    assert used < size + ALLOWANCE
    return used, size, first, second


def pixels() -> tuple[np.ndarray, np.ndarray]:
    """Upright images that compress about as real ones do."""
    random = np.random.RandomState(0)
    tile = random.randint(0, 256, (COUNT // 7, 28, 28), np.uint8)
    return np.concatenate([tile + np.uint8(k) for k in range(7)]), tile[:TEST]


@pytest.fixture(scope="module")
def images():
    return pixels()


@pytest.mark.thorough
def test_idx_in_a_zip(images, build, mappings, run_python, tmp_path):
    x, x_test = images
    arrays = {"x_train": x, "x_test": x_test}
    arrays |= {
        key: (np.arange(len(arrays[f"x{key[1:]}"])) % 10).astype(np.uint8) for key in ("y_train", "y_test")
    }
    files = build.emnist_idx("digits", arrays, mappings["digits"], level=0)
    build.zipped(tmp_path / "gzip.zip", files, method=0)
    _, _, first, second = measure(run_python, "emnist/digits", tmp_path)
    assert (first, second) == (x[7, 3, 5], x_test[9, 20, 1])


@pytest.mark.thorough
def test_mat(images, run_python, tmp_path):
    """EMNIST's matrices are stored column by column: they are turned while being read, compressed or not."""
    x, x_test = images

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    def matrix(shape: tuple[int, int], rest: bytes, kind: int = 9, name: bytes = b"") -> bytes:
        head = (
            element(6, struct.pack("<II", kind, 0))
            + element(5, struct.pack("<ii", *shape))
            + element(1, name)
        )
        return element(14, head + rest)

    def struct_of(fields: dict[str, bytes], name: bytes = b"") -> bytes:
        names = b"".join(key.encode().ljust(32, b"\0") for key in fields)
        rest = element(5, struct.pack("<i", 32)) + element(1, names) + b"".join(fields.values())
        return matrix((1, 1), rest, kind=2, name=name)

    def part(images: np.ndarray) -> bytes:
        count = len(images)
        # Column-major matrix of column-major images: pixel planes, x before y.
        planes = images.transpose(2, 1, 0).tobytes()
        labels = (np.arange(count) % 10).astype(np.uint8).tobytes()
        stored = {
            "images": matrix((count, 784), element(2, planes)),
            "labels": matrix((count, 1), element(2, labels)),
        }
        return struct_of(stored)

    content = struct_of({"train": part(x), "test": part(x_test)}, b"dataset")
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    packed = zlib.compress(content, 1)
    path = tmp_path / "emnist-digits.mat"
    for data in (content, struct.pack("<II", 15, len(packed)) + packed):
        path.write_bytes(header + data)
        _, _, first, second = measure(run_python, "emnist/digits", tmp_path)
        assert (first, second) == (x[7, 3, 5], x_test[9, 20, 1])


def test_npz_that_has_to_be_split(images, run_python, tmp_path):
    """The test split is taken by exchanging rows, not by copying them."""
    x, _ = images
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(len(x)) % 10)
    code = CODE.replace("int(data.x_train[7, 3, 5, 0]), int(data.x_test[9, 20, 1, 0])", "0, 0")
    used, size, *_ = map(int, run_python(code, str(tmp_path / "a.npz"), str(tmp_path)).split())
    assert used < size + ALLOWANCE


def test_a_bomb_is_refused_before_memory_is_taken(run_python, tmp_path):
    """Three declared gigabytes in three megabytes: the process grows by a few megabytes at most."""
    folder = tmp_path / "mnist"
    folder.mkdir()
    file = io.BytesIO()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
        packed.write(bytes([0, 0, 8, 3]) + struct.pack(">III", 4_000_000, 28, 28))
        for _ in range(200):
            packed.write(bytes(MIB))
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (folder / f"{name}-ubyte.gz").write_bytes(file.getvalue())
    code = CODE.replace("data = load", "try: load", 1).split("peak =")[0]
    code += "except ValueError as error: assert 'bomb' in str(error)\nprint(status('VmHWM') - before)"
    assert int(run_python(code, "mnist", str(tmp_path))) < 16 * MIB
    assert sys.getsizeof(file.getvalue()) < 4 * MIB
