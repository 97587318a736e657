"""Pieces and shards: what is cut is what the label map says, and comes back from disk."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipelines.bank.segments import Decompose
from pipelines.bank.shard import (
    BadScene,
    Piece,
    Shard,
    Source,
    decode_pixels,
    encode_pixels,
    piece_id,
    read_shard,
    without_sources,
    write_shard,
)
from pipelines.bank.writer import cut_segments
from pipelines.data.scene import IGNORED, Scene, SceneRecord
from pipelines.errors import ArtifactError, DataError

EVERYTHING = Decompose(preserved_ratio=1.0)


def scene(image: np.ndarray | None, labels: np.ndarray | None, instances: np.ndarray | None = None) -> Scene:
    return Scene(SceneRecord("train/1", "train", None), image, labels, instances)


def source(name: str) -> Source:
    return Source(name, "", "CC BY 4.0", 9, 9, 81, "digest of " + name)


def piece(ordinal: int, size: int = 5) -> Piece:
    return Piece(ordinal, 1, True, 4, (1, 2, 2, 2), b"p" * size, b"m" * ordinal, bytes(2048))


def test_pieces_of_a_drawn_scene() -> None:
    labels = np.array([[0, 0, 1, 1], [0, 1, 1, 1], [IGNORED, 1, 1, 0]], np.int16)
    instances = np.array([[0, 0, 5, 5], [0, 9, 5, 5], [0, 9, 9, 0]], np.int32)
    image = np.arange(1, 37, dtype=np.uint8).reshape(3, 4, 3)
    pieces = cut_segments(scene(image, labels, instances), np.array([False, True]), EVERYTHING, "png")
    assert [p.ordinal for p in pieces] == list(range(len(pieces)))
    by_box = {(p.category, p.box): p for p in pieces}
    assert set(by_box) == {(0, (0, 0, 2, 2)), (0, (3, 2, 1, 1)), (1, (2, 0, 2, 2)), (1, (1, 1, 2, 2))}
    nine = by_box[1, (1, 1, 2, 2)]
    expected = np.array([[True, False], [True, True]])
    assert nine.thing and nine.area == 3
    np.testing.assert_array_equal(decode_pixels(nine.pixels), image[1:3, 1:3] * expected[..., None])
    assert nine.mask == np.packbits(expected).tobytes() == bytes([0b10110000])
    assert len(nine.canonical) == 128 * 128 // 8
    unpacked = np.unpackbits(np.frombuffer(nine.canonical, np.uint8)).reshape(128, 128)
    np.testing.assert_array_equal(unpacked, np.kron(expected, np.ones((64, 64))))  # 2x2 to 128x128: quadrants


@settings(max_examples=40, deadline=None)
@given(
    labels=hnp.arrays(np.int16, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(-1, 2)),
    seed=st.integers(0, 99),
)
def test_pieces_tile_the_labeled_pixels(labels: np.ndarray, seed: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (*labels.shape, 3)).astype(np.uint8)
    rebuilt, covered = np.zeros_like(image), np.zeros(labels.shape, int)
    classes = np.full(labels.shape, IGNORED)
    for p in cut_segments(scene(image, labels), np.array([False, True, False]), EVERYTHING, "png"):
        x, y, w, h = p.box
        mask = np.unpackbits(np.frombuffer(p.mask, np.uint8), count=w * h).reshape(h, w).astype(bool)
        assert mask.sum() == p.area
        rebuilt[y : y + h, x : x + w] += decode_pixels(p.pixels)
        covered[y : y + h, x : x + w] += mask
        classes[y : y + h, x : x + w][mask] = p.category
    np.testing.assert_array_equal(covered, labels != IGNORED)
    np.testing.assert_array_equal(classes, labels)
    np.testing.assert_array_equal(rebuilt, image * (labels != IGNORED)[..., None])


@pytest.mark.parametrize(
    ("image", "labels", "says"),
    [
        (None, np.zeros((3, 4), np.int16), "no image"),
        (np.zeros((3, 4, 3), np.uint8), None, "no label map"),
        (np.zeros((3, 5, 3), np.uint8), np.zeros((3, 4), np.int16), "3x5"),
    ],
)
def test_scenes_that_cannot_be_cut(image: np.ndarray | None, labels: np.ndarray | None, says: str) -> None:
    with pytest.raises(DataError, match=says):
        cut_segments(scene(image, labels), np.array([False]), EVERYTHING, "png")


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 20), st.integers(1, 20), st.just(3))))
def test_png_is_exact_and_keeps_the_order_of_channels(image: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_pixels(encode_pixels(image, "png")), image)


def test_jpeg_is_close_and_keeps_the_order_of_channels() -> None:
    image = np.zeros((16, 16, 3), np.uint8)
    image[..., 0] = 200
    decoded = decode_pixels(encode_pixels(image, "jpeg"))
    assert decoded is not None and np.abs(decoded.astype(int) - image).max() <= 3


def test_bytes_that_are_no_image() -> None:
    assert decode_pixels(b"no image") is None


def test_the_id_of_a_piece_is_the_hash_of_its_source_and_ordinal() -> None:
    # `printf 'train/0001\0003' | sha256sum` begins so; the number is its first 8 bytes, little-endian
    assert piece_id("train/0001", 3) == int.from_bytes(bytes.fromhex("2e6c565ac1582e74"), "little")


@settings(max_examples=50, deadline=None)
@given(st.sets(st.tuples(st.text(max_size=8), st.integers(0, 20)), max_size=30))
def test_ids_differ(pairs: set[tuple[str, int]]) -> None:
    assert len({piece_id(*pair) for pair in pairs}) == len(pairs)
    assert all(0 <= piece_id(*pair) < 2**64 for pair in pairs)


def test_shards_come_back(tmp_path: Path) -> None:
    shard = Shard(
        [(source("a"), [piece(0), piece(1)]), (source("b"), []), (source("ä/ü"), [piece(2, 0)])],
        [BadScene("c", "broken «file»")],
    )
    write_shard(tmp_path / "00000.h5", shard)
    assert read_shard(tmp_path / "00000.h5") == shard


def test_a_shard_of_nothing_but_bad_scenes(tmp_path: Path) -> None:
    shard = Shard([], [BadScene("c", "broken")])
    write_shard(tmp_path / "00000.h5", shard)
    assert read_shard(tmp_path / "00000.h5") == shard


def test_a_damaged_piece_is_named(tmp_path: Path) -> None:
    path = tmp_path / "00000.h5"
    marked = dataclasses.replace(piece(1), pixels=b"find these pixels")
    write_shard(path, Shard([(source("a"), [piece(0), marked])]))
    path.write_bytes(path.read_bytes().replace(b"find these pixels", b"find those pixels"))
    with pytest.raises(ArtifactError, match=r"00000\.h5"):
        read_shard(path)


def test_without_sources() -> None:
    shard = Shard([(source("a"), [piece(0)]), (source("b"), [piece(1)])], [BadScene("c", "broken")])
    assert without_sources(shard, {"a", "c"}) == Shard([(source("b"), [piece(1)])], [])
