"""Files that lie: each is one `DataError`, in little time and memory, and none runs code."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from shrinkage.data import load_data

MEMORY = 160 * 2**20
CASES: dict[str, Callable[..., Any]] = {}


def case(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that writes a hostile file and returns the arguments of `load_data`."""
    CASES[function.__name__] = function
    return function


def zeros(size: int) -> bytes:
    """Zeros, gzip-compressed a thousandfold."""
    return gzip.compress(bytes(size), 6)


# --- idx -------------------------------------------------------------------------------------------


def mnist(build, root: Path, **changes: bytes) -> tuple[str, Path]:
    """A sound set with some files replaced."""
    folder = build.mnist_folder(root / "mnist", build.images(side=8))
    for key, data in changes.items():
        (folder / f"{build.mnist_files[key]}.gz").write_bytes(data)
    return "mnist", root


IMAGES_HEADER = bytes([0, 0, 8, 3])


def sound(build) -> bytes:
    return build.idx(build.images(side=8)["x_train"])


@case
def idx_cut_short(build, root):
    return mnist(build, root, x_train=sound(build)[:-1])


@case
def idx_gzip_cut_short(build, root):
    return mnist(build, root, x_train=gzip.compress(sound(build))[:-100])


@case
def idx_gzip_without_its_trailer(build, root):
    return mnist(build, root, x_train=gzip.compress(sound(build))[:-8])


@case
def idx_gzip_with_a_wrong_checksum(build, root):
    data = bytearray(gzip.compress(sound(build)))
    data[-6] ^= 1
    return mnist(build, root, x_train=bytes(data))


@case
def idx_gzip_with_garbage_behind(build, root):
    return mnist(build, root, x_train=gzip.compress(sound(build)) + b"garbage")


@case
def idx_declares_terabytes(build, root):
    return mnist(build, root, x_train=IMAGES_HEADER + struct.pack(">III", 2**32 - 1, 28, 28) + bytes(100))


@case
def idx_declares_terabytes_compressed(build, root):
    data = gzip.compress(IMAGES_HEADER + struct.pack(">III", 2**32 - 1, 28, 28) + bytes(100))
    return mnist(build, root, x_train=data)


@case
def idx_whose_size_overflows(build, root):
    header = bytes([0, 0, 8, 4]) + struct.pack(">IIII", *[2**32 - 1] * 4)
    return mnist(build, root, x_train=header + bytes(100))


@case
def idx_bomb(build, root):
    size = 80 * 2**20
    header = IMAGES_HEADER + struct.pack(">III", size // 784, 28, 28)
    return mnist(build, root, x_train=gzip.compress(header) + zeros(size))


@case
def idx_bomb_behind_the_data(build, root):
    return mnist(build, root, x_train=gzip.compress(sound(build)) + zeros(96 * 2**20))


@case
def idx_longer_than_declared(build, root):
    return mnist(build, root, x_train=sound(build) + b"\0")


@case
def idx_of_another_magic(build, root):
    return mnist(build, root, x_train=b"\0\1" + sound(build)[2:])


@case
def idx_of_an_unknown_type(build, root):
    return mnist(build, root, x_train=b"\0\0\x0a\3" + sound(build)[4:])


@case
def idx_with_many_axes(build, root):
    return mnist(build, root, x_train=b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"\0")


@case
def idx_without_images(build, root):
    return mnist(build, root, x_train=build.idx(np.zeros((0, 8, 8), np.uint8)))


@case
def idx_of_nothing(build, root):
    return mnist(build, root, x_train=b"")


@case
def idx_of_two_bytes(build, root):
    return mnist(build, root, x_train=b"\x1f\x8b")


@case
def idx_with_too_few_labels(build, root):
    return mnist(build, root, y_train=build.idx(np.zeros(39, np.uint8)))


@case
def idx_with_labels_that_are_images(build, root):
    return mnist(build, root, y_train=sound(build))


@case
def idx_with_a_label_beyond_the_classes(build, root):
    return mnist(build, root, y_train=build.idx(np.full(40, 10, np.uint8)))


@case
def idx_with_nan(build, root):
    return mnist(build, root, x_train=build.idx(np.full((40, 8, 8), np.nan, np.float32)))


@case
def idx_that_is_a_device(build, root):
    mnist(build, root)
    path = root / "mnist" / "train-images-idx3-ubyte.gz"
    path.unlink()
    path.symlink_to("/dev/zero")
    return "mnist", root


# --- npz -------------------------------------------------------------------------------------------


def npz(build, root: Path, **members: bytes) -> tuple[Path, None]:
    """An npz of raw members, beside sound ones."""
    file = io.BytesIO()
    np.save(file, np.arange(4))
    sound = {"x_train.npy": build.npy(payload=bytes(32)), "y_train.npy": file.getvalue()}
    named = {f"{key}.npy": data for key, data in members.items()}
    return build.zipped(root / "a.npz", sound | named), None


class Runs:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@case
def npz_of_pickles(build, root):
    array = np.empty(4, object)
    array[:] = [Runs(root / "ran")] * 4
    np.savez(root / "a.npz", x_train=array, y_train=np.arange(4))
    return root / "a.npz", None


@case
def npz_that_is_a_pickle(build, root):
    (root / "a.npz").write_bytes(pickle.dumps(Runs(root / "ran")))
    return root / "a.npz", None


@case
def npz_with_a_bare_pickle_inside(build, root):
    return npz(build, root, x_train=pickle.dumps(Runs(root / "ran")))


@case
def npz_with_code_in_a_header(build, root):
    return npz(build, root, x_train=build.npy("__import__('os').mkdir('ran')"))


@case
def npz_with_a_deep_header(build, root):
    return npz(build, root, x_train=build.npy("(" * 9000 + ")" * 900))


@case
def npz_cut_short(build, root):
    path, _ = npz(build, root)
    path.write_bytes(path.read_bytes()[:-30])
    return path, None


@case
def npz_of_nothing(build, root):
    (root / "a.npz").write_bytes(b"")
    return root / "a.npz", None


@case
def npz_declares_terabytes(build, root):
    header = "{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776, 4), }"
    return npz(build, root, x_train=build.npy(header, bytes(64)))


@case
def npz_declares_exabytes_and_zero(build, root):
    header = "{'descr': '<f8', 'fortran_order': True, 'shape': (9223372036854775807, 0), }"
    return npz(build, root, x_train=build.npy(header))


@case
def npz_with_a_negative_axis(build, root):
    return npz(
        build,
        root,
        x_train=build.npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-4, -1), }", bytes(32)),
    )


@case
def npz_with_an_endless_type(build, root):
    header = "{'descr': '<U2000000000', 'fortran_order': False, 'shape': (4, 1), }"
    return npz(build, root, x_train=build.npy(header, bytes(64)))


@case
def npz_with_a_type_of_no_size(build, root):
    return npz(build, root, x_train=build.npy("{'descr': '<U0', 'fortran_order': False, 'shape': (4, 1), }"))


@case
def npz_with_text_that_is_none(build, root):
    header = "{'descr': '<U1', 'fortran_order': False, 'shape': (4,), }"
    return npz(build, root, y_train=build.npy(header, b"\xff" * 16))


@case
def npz_with_an_endless_header(build, root):
    data = build.npy("x", version=2, length=2**32 - 1) + bytes(2**20)
    return npz(build, root, x_train=data)


@case
def npz_with_a_record_type(build, root):
    header = "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (4,), }"
    return npz(build, root, x_train=build.npy(header, bytes(32)))


@case
def npz_with_a_single_value(build, root):
    return npz(
        build, root, x_train=build.npy("{'descr': '<f8', 'fortran_order': False, 'shape': (), }", bytes(8))
    )


@case
def npz_bomb(build, root):
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (83886080, 1), }"
    return npz(build, root, x_train=build.npy(header, bytes(80 * 2**20)))


@case
def npz_longer_than_declared(build, root):
    return npz(build, root, x_train=build.npy(payload=bytes(33)))


@case
def npz_with_nan(build, root):
    return npz(build, root, x_train=build.npy(payload=np.full(4, np.nan).tobytes()))


def zip_with(build, root: Path, name: str, *, mode: int = 0, method: int = 8) -> tuple[Path, None]:
    path, _ = npz(build, root)
    with zipfile.ZipFile(path, "a", method) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = method
        archive.writestr(info, b"../../etc/passwd")
    return path, None


@case
def zip_member_above_the_folder(build, root):
    return zip_with(build, root, "../escape.npy")


@case
def zip_member_above_the_folder_backwards(build, root):
    return zip_with(build, root, "a\\..\\..\\escape.npy")


@case
def zip_member_with_an_absolute_path(build, root):
    return zip_with(build, root, "/etc/escape.npy")


@case
def zip_member_with_a_drive(build, root):
    return zip_with(build, root, "C:\\escape.npy")


@case
def zip_member_that_is_a_link(build, root):
    return zip_with(build, root, "link.npy", mode=0o120777)


@case
def zip_member_of_another_method(build, root):
    return zip_with(build, root, "other.npy", method=zipfile.ZIP_LZMA)


def patched(build, root: Path, magic: bytes, offset: int, value: bytes) -> tuple[Path, None]:
    """A zip in whose records of one kind some bytes are overwritten."""
    path, _ = npz(build, root)
    data = bytearray(path.read_bytes())
    at = data.find(magic)
    while at >= 0:
        data[at + offset : at + offset + len(value)] = value
        at = data.find(magic, at + 1)
    path.write_bytes(bytes(data))
    return path, None


@case
def zip_that_is_encrypted(build, root):
    return patched(build, root, b"PK\x01\x02", 8, b"\1\0")


@case
def zip_whose_member_declares_gigabytes(build, root):
    return patched(build, root, b"PK\x01\x02", 24, struct.pack("<I", 2**32 - 2))


@case
def zip_whose_member_lies_about_both_sizes(build, root):
    return patched(build, root, b"PK\x01\x02", 20, struct.pack("<II", 2**32 - 2, 2**32 - 2))


@case
def zip_whose_directory_declares_gigabytes(build, root):
    return patched(build, root, b"PK\x05\x06", 12, struct.pack("<I", 2**31))


@case
def zip_whose_directory_is_elsewhere(build, root):
    return patched(build, root, b"PK\x05\x06", 16, struct.pack("<I", 2**31))


@case
def zip_of_a_million_members(build, root):
    path = root / "a.npz"
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 1_000_000
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, len(directory), 0, 0)
    path.write_bytes(directory + end)
    return path, None


@case
def zip_of_a_million_members_in_64_bits(build, root):
    path = root / "a.npz"
    entry = struct.pack("<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    directory = entry * 1_000_000
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, 10**6, 10**6, len(directory), 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, len(directory), 1)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 65535, 65535, 2**32 - 1, 2**32 - 1, 0)
    path.write_bytes(directory + record + locator + end)
    return path, None


# --- mat and EMNIST's archives ---------------------------------------------------------------------


def mat(root: Path, data: bytes) -> tuple[str, Path]:
    (root / "emnist-digits.mat").write_bytes(data)
    return "emnist/digits", root


def saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    scipy.io.savemat(file, content, **options)
    return file.getvalue()


def part(x: Any, y: Any) -> dict[str, Any]:
    return {"images": x, "labels": y}


X, Y = np.zeros((10, 64), np.uint8), np.arange(10, dtype=np.uint8).reshape(-1, 1)
HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def element(kind: int, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<II", kind, len(data) if size is None else size) + data + b"\0" * (-len(data) % 8)


def matrix(name: bytes, shape: tuple[int, ...], rest: bytes, kind: int = 9, size: int | None = None) -> bytes:
    body = element(6, struct.pack("<II", kind, 0)) + element(5, struct.pack(f"<{len(shape)}i", *shape))
    return element(14, body + element(1, name) + rest, size)


def struct_of(fields: dict[str, bytes], name: bytes = b"") -> bytes:
    names = b"".join(key.encode().ljust(32, b"\0") for key in fields)
    rest = element(5, struct.pack("<i", 32)) + element(1, names) + b"".join(fields.values())
    return matrix(name, (1, 1), rest, kind=2)


@case
def mat_of_version_7_3(build, root):
    return mat(root, b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(600))


@case
def mat_of_version_4(build, root):
    return mat(root, struct.pack("<5i", 0, 4, 4, 0, 2) + b"x\0" + bytes(200))


@case
def mat_of_nothing(build, root):
    return mat(root, b"")


@case
def mat_cut_short(build, root):
    return mat(root, saved({"dataset": {"train": part(X, Y), "test": part(X, Y)}})[:-200])


@case
def mat_cut_short_compressed(build, root):
    return mat(root, saved({"dataset": {"train": part(X, Y), "test": part(X, Y)}}, do_compression=True)[:-60])


@case
def mat_without_the_variable(build, root):
    return mat(root, saved({"other": X}))


@case
def mat_without_a_field(build, root):
    return mat(root, saved({"dataset": {"train": part(X, Y)}}))


@case
def mat_with_float_images(build, root):
    return mat(root, saved({"dataset": {"train": part(X.astype(float), Y), "test": part(X, Y)}}))


@case
def mat_with_cells(build, root):
    cells = np.empty(2, object)
    cells[:] = [1, "a"]
    return mat(root, saved({"dataset": {"train": part(cells, Y), "test": part(X, Y)}}))


@case
def mat_with_a_struct_array(build, root):
    return mat(root, saved({"dataset": np.zeros((2, 2), [("train", object), ("test", object)])}))


@case
def mat_with_labels_beyond_the_mapping(build, root):
    return mat(root, saved({"dataset": {"train": part(X, Y + 9), "test": part(X, Y)}}))


@case
def mat_with_labels_that_are_nan(build, root):
    return mat(root, saved({"dataset": {"train": part(X, Y * np.nan), "test": part(X, Y)}}))


@case
def mat_with_images_that_are_not_square(build, root):
    return mat(root, saved({"dataset": {"train": part(X[:, :63].copy(), Y), "test": part(X, Y)}}))


@case
def mat_with_a_hostile_mapping(build, root):
    mapping = np.full((100_000, 2), -1.5)
    return mat(root, saved({"dataset": {"train": part(X, Y), "test": part(X, Y), "mapping": mapping}}))


@case
def mat_declares_terabytes(build, root):
    images = matrix(b"", (2**31 - 1, 784), element(2, bytes(64), 2**32 - 8), size=2**32 - 16)
    return mat(root, HEADER + struct_of({"train": struct_of({"images": images})}, b"dataset"))


@case
def mat_whose_field_is_longer_than_its_struct(build, root):
    images = matrix(b"", (10, 64), element(2, bytes(640)), kind=9)
    inner = struct_of({"images": images})
    return mat(root, HEADER + struct_of({"train": struct.pack("<II", 14, 80) + inner[8:]}, b"dataset"))


@case
def mat_of_a_wrong_length(build, root):
    images = matrix(b"", (10, 64), element(2, bytes(64)))
    return mat(root, HEADER + struct_of({"train": struct_of({"images": images})}, b"dataset"))


@case
def mat_of_an_unknown_number_type(build, root):
    images = matrix(b"", (10, 64), element(99, bytes(640)))
    return mat(root, HEADER + struct_of({"train": struct_of({"images": images})}, b"dataset"))


@case
def mat_with_a_long_packed_element(build, root):
    return mat(root, HEADER + struct.pack("<II", (200 << 16) | 14, 0) + bytes(400))


@case
def mat_nested_without_end(build, root):
    inner = matrix(b"", (1, 1), element(2, b"\1"))
    for _ in range(2000):
        inner = struct_of({"train": inner})
    return mat(root, HEADER + struct_of({"train": inner}, b"dataset"))


@case
def mat_with_a_bomb(build, root):
    images = matrix(b"", (2**20, 80), element(2, bytes(80 * 2**20)))
    content = zlib.compress(struct_of({"train": struct_of({"images": images})}, b"dataset"))
    return mat(root, HEADER + struct.pack("<II", 15, len(content)) + content)


@case
def mat_with_compressed_garbage(build, root):
    return mat(root, HEADER + struct.pack("<II", 15, 400) + bytes(range(200)) * 2)


@case
def mat_with_a_compressed_length_beyond_the_file(build, root):
    return mat(root, HEADER + struct.pack("<II", 15, 2**32 - 8) + zlib.compress(X.tobytes()))


def emnist(build, root: Path, mapping: str, **options: Any) -> tuple[str, Path]:
    files = build.emnist_idx("digits", build.images(side=8), mapping, **options)
    build.zipped(root / "gzip.zip", files, folder="gzip/")
    return "emnist/digits", root


@case
def mapping_of_words(build, root):
    return emnist(build, root, "zero 48\n")


@case
def mapping_with_a_gap(build, root):
    return emnist(build, root, "0 48\n2 50\n")


@case
def mapping_of_control_characters(build, root):
    return emnist(build, root, "".join(f"{k} {k}\n" for k in range(10)))


@case
def mapping_of_equal_characters(build, root):
    return emnist(build, root, "".join(f"{k} 48\n" for k in range(10)))


@case
def mapping_of_nothing(build, root):
    return emnist(build, root, "")


@case
def mapping_of_megabytes(build, root):
    return emnist(build, root, "0 48\n" * 2**20)


@case
def mapping_that_is_no_text(build, root):
    name, folder = emnist(build, root, "0 48\n")
    files = build.emnist_idx("digits", build.images(side=8), "")
    build.zipped(root / "gzip.zip", files | {"emnist-digits-mapping.txt": b"\xff\xfe"}, folder="gzip/")
    return name, folder


@case
def emnist_zip_with_a_lying_member(build, root):
    files = build.emnist_idx("digits", build.images(side=8), "0 48\n")
    files["emnist-digits-train-images-idx3-ubyte.gz"] = gzip.compress(
        IMAGES_HEADER + struct.pack(">III", 5_000_000, 28, 28)
    )
    build.zipped(root / "gzip.zip", files)
    return "emnist/digits", root


@case
def emnist_zip_of_oblong_images(build, root):
    arrays = build.images()
    arrays["x_train"] = arrays["x_train"][:, :14].copy()
    build.zipped(
        root / "gzip.zip", build.emnist_idx("digits", arrays, "".join(f"{k} {48 + k}\n" for k in range(10)))
    )
    return "emnist/digits", root


@case
def emnist_zip_that_is_none(build, root):
    (root / "gzip.zip").write_bytes(b"<html>404</html>")
    return "emnist/digits", root


# --- cifar -----------------------------------------------------------------------------------------


def tar_with(build, root: Path, *extra: tarfile.TarInfo, **members: bytes) -> tuple[str, Path]:
    sound, _ = build.cifar()
    named = {f"{key}.bin": data for key, data in members.items()}
    build.tarred(root / "cifar-10-binary.tar.gz", sound | named, *extra)
    return "cifar10", root


def info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    out = tarfile.TarInfo(name)
    out.type, out.linkname = kind, link
    return out


@case
def tar_member_above_the_folder(build, root):
    return tar_with(build, root, info("../../escape"))


@case
def tar_member_with_an_absolute_path(build, root):
    return tar_with(build, root, info("/tmp/escape"))


@case
def tar_symbolic_link(build, root):
    return tar_with(
        build, root, info("cifar-10-batches-bin/data_batch_1.bin", tarfile.SYMTYPE, "/etc/passwd")
    )


@case
def tar_hard_link(build, root):
    return tar_with(
        build, root, info("cifar-10-batches-bin/data_batch_1.bin", tarfile.LNKTYPE, "/etc/passwd")
    )


@case
def tar_device(build, root):
    return tar_with(build, root, info("cifar-10-batches-bin/data_batch_1.bin", tarfile.CHRTYPE))


def raw_tar(root: Path, *pieces: bytes) -> tuple[str, Path]:
    (root / "cifar-10-binary.tar.gz").write_bytes(b"".join(gzip.compress(piece) for piece in pieces))
    return "cifar10", root


@case
def tar_with_an_endless_extended_header(build, root):
    head = info("x", tarfile.XHDTYPE)
    head.size = 2**33 - 1
    return raw_tar(root, head.tobuf(tarfile.GNU_FORMAT), bytes(2**25))


@case
def tar_with_an_endless_name(build, root):
    head = info("x", tarfile.GNUTYPE_LONGNAME)
    head.size = 2**30
    return raw_tar(root, head.tobuf(tarfile.GNU_FORMAT), bytes(2**25))


@case
def tar_with_a_negative_size(build, root):
    head = bytearray(info("cifar-10-batches-bin/data_batch_1.bin").tobuf(tarfile.GNU_FORMAT))
    head[124:136] = b"\xff" * 12
    head[148:156] = f"{sum(head[:148]) + sum(head[156:]) + 256:06o}\0 ".encode()
    return raw_tar(root, bytes(head), bytes(2**20))


@case
def tar_whose_batch_declares_gigabytes(build, root):
    head = info("cifar-10-batches-bin/data_batch_1.bin")
    head.size = 3073 * 10**6
    return raw_tar(root, head.tobuf(tarfile.GNU_FORMAT), bytes(2**25))


@case
def tar_of_endless_members(build, root):
    return raw_tar(root, info("a").tobuf(tarfile.GNU_FORMAT) * 20_000)


@case
def tar_with_a_wrong_checksum(build, root):
    head = bytearray(info("a").tobuf(tarfile.GNU_FORMAT))
    head[0] ^= 1
    return raw_tar(root, bytes(head))


@case
def tar_cut_short(build, root):
    name, folder = tar_with(build, root)
    path = root / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:5000])
    return name, folder


@case
def tar_that_is_none(build, root):
    (root / "cifar-10-binary.tar.gz").write_bytes(b"<html>404</html>" * 99)
    return "cifar10", root


@case
def cifar_of_half_a_record(build, root):
    return tar_with(build, root, data_batch_3=bytes(3000))


@case
def cifar_of_an_empty_batch(build, root):
    return tar_with(build, root, data_batch_3=b"")


@case
def cifar_with_an_eleventh_class(build, root):
    return tar_with(build, root, data_batch_3=b"\x0a" + bytes(3072))


@case
def cifar_without_a_batch(build, root):
    members, _ = build.cifar()
    del members["data_batch_2.bin"]
    build.tarred(root / "cifar-10-binary.tar.gz", members)
    return "cifar10", root


@case
def cifar_with_a_batch_twice(build, root):
    members, _ = build.cifar()
    build.tarred(
        root / "cifar-10-binary.tar.gz", members | {"again/test_batch.bin": members["test_batch.bin"]}
    )
    return "cifar10", root


@case
def cifar_with_nine_names(build, root):
    members, _ = build.cifar()
    build.tarred(root / "cifar-10-binary.tar.gz", members | {"batches.meta.txt": b"a\n" * 9})
    return "cifar10", root


# --- csv -------------------------------------------------------------------------------------------


def csv(root: Path, data: bytes) -> tuple[Path, None]:
    (root / "a.csv").write_bytes(data)
    return root / "a.csv", None


@case
def csv_with_an_endless_header(build, root):
    return csv(root, b"a" * 2**23)


@case
def csv_with_an_endless_line(build, root):
    return csv(root, b"a,y\n" + b"1" * 2**23)


@case
def csv_with_an_endless_field(build, root):
    return csv(root, b'a,y\n"' + b"1\n" * 2**20)


@case
def csv_with_too_many_columns(build, root):
    return csv(root, b",".join(b"%d" % k for k in range(100_001)) + b"a\n1\n")


@case
def csv_of_blank_lines(build, root):
    return csv(root, b",".join(b"c%d" % k for k in range(9_999)) + b",y\n" + b"\n" * 2**16)


@case
def csv_of_zero_bytes(build, root):
    return csv(root, bytes(1000))


@case
def csv_with_a_zero_byte(build, root):
    return csv(root, b"a,y\n1,x\n1\0,z\n")


@case
def csv_that_is_no_text(build, root):
    return csv(root, b"a,y\n\xff\xfe,x\n")


@case
def csv_in_two_byte_characters(build, root):
    return csv(root, "a,y\n1,x\n".encode("utf-16"))


@case
def csv_with_an_open_quote(build, root):
    return csv(root, b'a,y\n"1,x\n2,z\n')


@case
def csv_with_an_endless_number(build, root):
    return csv(root, b"a,y\n" + b"1" * 100_000 + b",x\n")


@case
def csv_with_an_endless_label(build, root):
    return csv(root, b"a,y\n1," + b"1" * 100_000 + b"\n2,3\n")


# --- images ----------------------------------------------------------------------------------------


def folder_of(root: Path, data: bytes, name: str = "a.png") -> tuple[Path, None]:
    (root / "set" / "one").mkdir(parents=True)
    (root / "set" / "one" / name).write_bytes(data)
    return root / "set", None


@case
def image_declares_gigapixels(build, root):
    return folder_of(root, build.png_header(2**31 - 1, 2**31 - 1))


@case
def image_beyond_pillows_warning(build, root):
    return folder_of(root, build.png_header(10_000, 10_000))


@case
def image_beyond_our_bound(build, root):
    return folder_of(root, build.png_header(5_000, 5_000))


@case
def image_of_no_size(build, root):
    return folder_of(root, build.png_header(0, 0))


@case
def image_cut_short(build, root):
    return folder_of(root, build.png(np.random.RandomState(0).randint(0, 256, (64, 64), np.uint8))[:-500])


@case
def image_with_less_than_it_declares(build, root):
    return folder_of(root, build.png_header(4_000, 4_000))


@case
def image_that_is_none(build, root):
    return folder_of(root, b"<svg onload='x'/>")


@case
def image_of_nothing(build, root):
    return folder_of(root, b"")


@case
def image_in_a_format_of_another_kind(build, root):
    return folder_of(root, b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a.png")


@case
def image_that_is_a_device(build, root):
    folder_of(root, build.png(np.zeros((2, 2), np.uint8)))
    (root / "set" / "one" / "b.png").symlink_to("/dev/zero")
    return root / "set", None


@pytest.mark.parametrize("name", CASES)
@pytest.mark.timeout(60)
def test_a_hostile_file_is_one_clear_error(name, build, refused, tmp_path):
    what, data_dir = CASES[name](build, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    tracemalloc.start()
    try:
        refused(lambda: load_data(what, data_dir=data_dir))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY
    assert sorted(tmp_path.rglob("*")) == before  # nothing was unpacked, and nothing ran


def test_sound_files_of_the_same_builders_load(build, tmp_path):
    """The cases above differ from these by their lie alone."""
    assert load_data(mnist(build, tmp_path / "1")[0], data_dir=tmp_path / "1").classes == 10
    (tmp_path / "2").mkdir()
    path, _ = npz(build, tmp_path / "2")
    with pytest.raises(ValueError, match="samples"):  # two inputs and four targets: read, and then judged
        load_data(path)
    mapping = "".join(f"{k} {48 + k}\n" for k in range(10))
    assert load_data(emnist(build, tmp_path / "3", mapping)[0], data_dir=tmp_path / "3").classes == 10
    assert load_data(tar_with(build, tmp_path / "4", info("a"))[0], data_dir=tmp_path / "4").classes == 10
    (tmp_path / "5").mkdir()
    fields = part(X, Y)
    assert (
        load_data(
            *[mat(tmp_path / "5", saved({"dataset": {"train": fields, "test": fields}}))[0]],
            data_dir=tmp_path / "5",
        ).classes
        == 10
    )
    images = matrix(b"", (10, 64), element(2, bytes(640)))
    labels = matrix(b"", (10, 1), element(2, bytes(range(10))))
    split = struct_of({"images": images, "labels": labels})
    mat(tmp_path / "5", HEADER + struct_of({"train": split, "test": split}, b"dataset"))
    assert load_data("emnist/digits", data_dir=tmp_path / "5").classes == 10
