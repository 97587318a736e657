"""Files of arrays: equal bytes for equal content, and no damage goes unnoticed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.bank.storage import ArrayFile, read_arrays, write_arrays
from pipelines.errors import ArtifactError

ARRAYS = hnp.arrays(
    st.sampled_from([np.uint8, np.int32, np.int64, np.uint64, np.float64]),
    hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6),
)


@settings(max_examples=40, deadline=None)
@given(arrays=st.dictionaries(st.sampled_from("abcdef"), ARRAYS, min_size=1))
def test_arrays_come_back_as_they_were(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, np.ndarray]) -> None:
    path = tmp_path_factory.mktemp("storage") / "x.h5"
    write_arrays(path, arrays)
    read = read_arrays(path, arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype and read[name].shape == array.shape
        assert read[name].tobytes() == array.tobytes()


def test_equal_content_is_equal_bytes_whenever_it_is_written(tmp_path: Path) -> None:
    arrays = {"a": np.arange(1000), "b": np.zeros((0, 4), np.int32), "c": np.arange(7, dtype=np.uint8)}
    write_arrays(tmp_path / "first.h5", arrays)
    write_arrays(tmp_path / "other.h5", {"z": np.ones(5)})
    time.sleep(1.1)  # time stamps in HDF5 count seconds
    write_arrays(tmp_path / "second.h5", {name: array.copy() for name, array in arrays.items()})
    assert (tmp_path / "first.h5").read_bytes() == (tmp_path / "second.h5").read_bytes()


def test_arrays_are_contiguous_and_never_virtual(tmp_path: Path) -> None:
    write_arrays(tmp_path / "x.h5", {"a": np.arange(100_000)})
    with h5py.File(tmp_path / "x.h5") as file:
        assert file["a"].chunks is None and not file["a"].is_virtual


def test_slices_are_parts_of_the_array(tmp_path: Path) -> None:
    array = np.arange(40).reshape(10, 4)
    write_arrays(tmp_path / "x.h5", {"a": array})
    with ArrayFile(tmp_path / "x.h5") as file:
        np.testing.assert_array_equal(file.slice("a", 3, 7), array[3:7])
        for start, stop in ((3, 11), (-1, 2), (4, 3)):
            with pytest.raises(ArtifactError, match="damaged"):
                file.slice("a", start, stop)


def test_every_flipped_byte_is_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    arrays = {"a": np.arange(50), "b": np.arange(30, dtype=np.uint8).reshape(5, 6)}
    write_arrays(path, arrays)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 5):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            read = read_arrays(path, arrays)
        except ArtifactError:
            refused += 1
        else:
            assert all(np.array_equal(read[name], array) for name, array in arrays.items())
    assert refused >= (arrays["a"].nbytes + arrays["b"].nbytes) // 5 - 1


@pytest.mark.parametrize("kept", [0, 1, 100, 2000, -1])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "x.h5"
    write_arrays(path, {"a": np.arange(5000)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ArtifactError, match="damaged") as caught:
        read_arrays(path, ["a"])
    assert caught.value.where == str(path)


def test_a_missing_file_or_array_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="missing"):
        read_arrays(tmp_path / "x.h5", ["a"])
    write_arrays(tmp_path / "x.h5", {"a": np.arange(3)})
    with pytest.raises(ArtifactError, match="b"):
        read_arrays(tmp_path / "x.h5", ["b"])


def test_a_failed_write_leaves_nothing_and_spares_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_arrays(path, {"a": np.arange(3)})
    before = path.read_bytes()
    with pytest.raises(TypeError):
        write_arrays(path, {"a": np.arange(9), "b": np.array([object()])})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["x.h5"]
