"""Formats against their writers: what goes in comes out."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shrinkage.data.formats import bounded
from shrinkage.data.formats.bounded import Stream, fill_array
from shrinkage.data.formats.idx import read_idx
from shrinkage.data.formats.mat import read_mat
from shrinkage.data.formats.npz import read_npz
from shrinkage.errors import DataError

NUMBERS = st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"])
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, max_side=6)
quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def stream_of(data: bytes) -> Stream:
    return Stream(io.BytesIO(data), "test", len(data), compressed=False)


def arrays(codes: st.SearchStrategy[str]) -> st.SearchStrategy[np.ndarray]:
    return codes.flatmap(lambda code: hnp.arrays(np.dtype(code), SHAPES))


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.flags.c_contiguous and a.tobytes() == b.tobytes()


@quick
@given(array=arrays(NUMBERS), packed=st.booleans())
def test_idx_round_trip(array, packed, build, tmp_path):
    data = build.idx(array)
    path = tmp_path / "file-idx"
    path.write_bytes(gzip.compress(data) if packed else data)
    assert same(read_idx(path), array)


@quick
@given(
    array=arrays(st.sampled_from(["u1", "i8", "<f4", ">f8", ">i2", "?", "U3", "S2"])), fortran=st.booleans()
)
def test_npz_round_trip(array, fortran, tmp_path):
    stored = np.asfortranarray(array) if fortran else array
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", x=stored)
        got = read_npz(tmp_path / "a.npz", required=["x"])["x"]
        assert got.dtype == array.dtype.newbyteorder("=")
        assert got.flags.c_contiguous
        assert same(got, array.astype(got.dtype))


@quick
@given(
    array=st.sampled_from(["u1", "i1", "i2", "i4", "i8", "f4", "f8"]).flatmap(
        lambda code: hnp.arrays(np.dtype(code), hnp.array_shapes(min_dims=2, max_dims=4, max_side=6))
    ),
    compress=st.booleans(),
)
def test_mat_agrees_with_scipy(array, compress, tmp_path):
    path = tmp_path / "a.mat"
    scipy.io.savemat(
        path, {"first": np.eye(3), "word": "text", "box": {"a": array, "t": "x"}}, do_compression=compress
    )
    got = read_mat(path, "box")
    want = scipy.io.loadmat(path)["box"]["a"][0, 0]
    assert same(got["a"], want)
    assert got["t"] is None  # text is passed over


def test_mat_of_the_other_byte_order():
    """A big-endian file, written by hand after the published format."""

    def element(kind: int, data: bytes) -> bytes:
        return struct.pack(">II", kind, len(data)) + data + b"\0" * (-len(data) % 8)

    values = np.arange(6, dtype=">i2").reshape(2, 3)
    body = element(6, struct.pack(">II", 10, 0)) + element(5, struct.pack(">ii", 2, 3)) + element(1, b"v")
    body += element(3, values.tobytes(order="F"))
    matrix = element(14, body)
    header = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x01\x00MI"
    for content in (matrix, struct.pack(">II", 15, len(zlib.compress(matrix))) + zlib.compress(matrix)):
        assert read_mat(stream_of(header + content), "v").tolist() == values.tolist()


@quick
@given(
    array=hnp.arrays(np.uint16, hnp.array_shapes(min_dims=2, max_dims=4, max_side=9)),
    block=st.integers(1, 64),
)
def test_column_major_data_are_turned_in_blocks_of_any_size(array, block, monkeypatch):
    monkeypatch.setattr(bounded, "BLOCK_BYTES", 2 * block)
    got = fill_array(stream_of(array.tobytes(order="F")), array.shape, array.dtype, fortran=True)
    assert same(got, array)


def test_headers_of_python_2_are_read(build, tmp_path):
    header = "{'descr': '<i4', 'fortran_order': False, 'shape': (2L, 1L), }"
    build.zipped(tmp_path / "a.npz", {"x.npy": build.npy(header, np.array([1, 2], "<i4").tobytes())})
    assert read_npz(tmp_path / "a.npz", required=["x"])["x"].tolist() == [[1], [2]]


def test_a_stored_and_a_deflated_zip_give_the_same(build, tmp_path):
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        np.save(file, np.arange(3))
        build.zipped(tmp_path / "a.npz", {"x.npy": file.getvalue()}, method=method)
        assert read_npz(tmp_path / "a.npz", required=["x"])["x"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 3 * 2**20])
def test_stream_gives_exactly_what_is_there(size):
    data = bytes(size)
    stream = stream_of(data)
    out = bytearray(size)
    stream.fill(memoryview(out))
    stream.end()
    assert out == data
    with pytest.raises(DataError, match="cut short"):
        stream_of(data).fill(memoryview(bytearray(size + 1)))


def test_reading_stops_one_byte_after_the_declared_end(build):
    class Endless:
        asked = 0

        def read(self, size: int) -> bytes:
            self.asked += size
            return b"\0" * size

    source = Endless()
    stream = Stream(source, "endless", 2**40, compressed=True)
    stream.skip(10)
    with pytest.raises(DataError, match="more data"):
        stream.end()
    assert source.asked == 11
