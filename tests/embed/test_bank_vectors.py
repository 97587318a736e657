"""Vectors of banks: in order, of the right pieces, by the right tower, whatever the threads; faults name the piece."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipelines.bank.bank import Bank
from pipelines.embed.bank_vectors import NEUTRAL, bank_vectors, on_neutral, piece_image, view_of
from pipelines.embed.embedder import Embedder
from pipelines.embed.tower import Tower
from pipelines.errors import ArtifactError, NumericalError
from pipelines.stages import build_bank
from pipelines.stages.build_bank import BuildBank
from tests.bank.photos import write_dataset

SIZE = (4, 6)


class Corners(nn.Module):
    """Images to one token: their mean color and the color of the first pixel; counts its calls."""

    def __init__(self, poison: float | None = None) -> None:
        super().__init__()
        self.calls: list[int] = []
        self.poison = poison

    def forward(self, images: Tensor) -> Tensor:
        assert images.shape[2:] == SIZE
        self.calls.append(len(images))
        tokens = torch.cat([images.mean((2, 3)), images[:, :, 0, 0], torch.full((len(images), 1), 3.0)], 1)
        if self.poison is not None:
            tokens[(images[:, 0, 0, 0] - self.poison).abs() < 1e-6] = torch.nan
        return tokens[:, None]


def embedder_of(kind: Any, views: Sequence[str], poison: float | None = None) -> Embedder:
    towers = {view: Tower(Corners(poison), nn.Flatten(), SIZE, 7, 7).eval() for view in views}
    return Embedder(kind, towers, 7, "made", None)  # type: ignore[arg-type]


def expected(image: np.ndarray) -> np.ndarray:
    """The unit vector of an image of SIZE, in float64."""
    scaled = image.astype(np.float64) / 127.5 - 1
    vector = np.concatenate([scaled.mean((0, 1)), scaled[0, 0], [3.0]])
    return vector / np.linalg.norm(vector)


def joined(vectors: Any) -> tuple[np.ndarray, np.ndarray]:
    rows, values = zip(*vectors, strict=True)
    return np.concatenate(rows), np.concatenate(values)


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    data = write_dataset(tmp_path_factory.mktemp("photos") / "data", range(7), groups={1: "a"})
    return Bank.open(build_bank.run(BuildBank(shard_sources=2), data=data, out=data.parent / "x").path)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five pairs of plain color: aerial i is 10 i, street i is 10 i + 5."""
    root = tmp_path_factory.mktemp("pairs") / "data"
    (root / "v").mkdir(parents=True)
    lines = ["id,aerial,street"]
    for i in range(5):
        for name, value, size in ((f"a{i}", 10 * i, (9, 9)), (f"s{i}", 10 * i + 5, (4, 16))):
            assert cv2.imwrite(str(root / f"v/{name}.png"), np.full((*size, 3), value, np.uint8))
        lines.append(f"p{i},v/a{i}.png,v/s{i}.png")
    (root / "pairs.csv").write_text("\n".join(lines) + "\n")
    return root


def bank_of(places: Path, view: Any, out: Path) -> Bank:
    return Bank.open(build_bank.run(BuildBank(kind="images", view=view), data=places, out=out).path)


@pytest.mark.parametrize(("workers", "batch"), [(0, 64), (0, 5), (1, 4), (3, 1), (2, 1000)])
def test_every_piece_has_its_vector(segments: Bank, workers: int, batch: int) -> None:
    made = list(bank_vectors(segments, embedder_of("pieces", ["piece"]), batch=batch, workers=workers))
    assert all(len(rows) == len(vectors) <= batch for rows, vectors in made)
    rows, vectors = joined(made)
    assert rows.tolist() == list(range(len(segments))) and vectors.dtype == np.float32
    for row in range(len(segments)):
        np.testing.assert_allclose(vectors[row], expected(piece_image(segments, row, SIZE)), atol=1e-6)


@pytest.mark.parametrize("workers", [0, 2])
def test_rows_in_any_order_and_more_than_once(segments: Bank, workers: int) -> None:
    _, everything = joined(bank_vectors(segments, embedder_of("pieces", ["piece"])))
    wanted = [5, 0, 5, len(segments) - 1, 3]
    rows, vectors = joined(bank_vectors(segments, embedder_of("pieces", ["piece"]), wanted, batch=2, workers=workers))
    assert rows.tolist() == wanted
    np.testing.assert_array_equal(vectors, everything[wanted])
    assert list(bank_vectors(segments, embedder_of("pieces", ["piece"]), [])) == []


def test_outside_a_mask_is_neutral(segments: Bank) -> None:
    image, mask = np.zeros((2, 3, 3), np.uint8), np.array([[True, False, True], [False, False, True]])
    shown = on_neutral(image, mask)
    np.testing.assert_array_equal(shown, np.where(mask, 0, NEUTRAL)[..., None].repeat(3, axis=2))
    assert not image.any()  # it is left as it was
    row = next(row for row in range(len(segments)) if not segments.mask(row).all())
    h, w = segments.mask(row).shape
    shown = piece_image(segments, row, (h, w))
    np.testing.assert_array_equal(shown[~segments.mask(row)], NEUTRAL)
    np.testing.assert_array_equal(shown[segments.mask(row)], segments.crop(row)[segments.mask(row)])


def test_each_view_has_its_tower(places: Path, tmp_path: Path) -> None:
    embedder = embedder_of("crossview", ["aerial", "ground"])
    for view, first in (("aerial", 0), ("ground", 5)):
        bank = bank_of(places, view, tmp_path / view)
        _, vectors = joined(bank_vectors(bank, embedder, batch=2))
        for row in range(5):
            color = np.full((*SIZE, 3), first + 10 * row, np.uint8)
            np.testing.assert_allclose(vectors[row], expected(color), atol=1e-6)
        backbone = embedder.towers[view].backbone
        assert isinstance(backbone, Corners) and backbone.calls == [2, 2, 1]


def test_embedders_and_banks_that_do_not_fit(places: Path, segments: Bank, tmp_path: Path) -> None:
    pairs = embedder_of("crossview", ["aerial", "ground"])
    with pytest.raises(ArtifactError, match="one of pairs, and this is a bank of segments"):
        next(bank_vectors(segments, pairs))
    bank = bank_of(places, "ground", tmp_path / "x")
    with pytest.raises(ArtifactError, match="no tower for ground views, only aerial"):
        next(bank_vectors(bank, embedder_of("crossview", ["aerial"])))
    photos = write_dataset(tmp_path / "photos", [1])
    plain = Bank.open(build_bank.run(BuildBank(kind="images"), data=photos, out=tmp_path / "y").path)
    with pytest.raises(ArtifactError, match="photos without a view"):
        next(bank_vectors(plain, pairs))
    assert [view_of(b, embedder_of("pieces", ["piece"])) for b in (segments, bank, plain)] == ["piece"] * 3


@pytest.mark.parametrize("workers", [0, 2])
def test_a_vector_that_is_not_finite_names_its_piece(places: Path, tmp_path: Path, workers: int) -> None:
    bank = bank_of(places, "aerial", tmp_path / "x")
    embedder = embedder_of("crossview", ["aerial"], poison=30 / 127.5 - 1)
    made = bank_vectors(bank, embedder, batch=2, workers=workers)
    assert next(made)[0].tolist() == [0, 1]
    with pytest.raises(NumericalError, match=f"piece {int(bank.ids[3]):016x} of v/a3.png is not finite"):
        next(made)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_bank_is_told(places: Path, tmp_path: Path, workers: int) -> None:
    bank = bank_of(places, "aerial", tmp_path / "x")
    shard = tmp_path / "x/shards/00000.h5"
    pixels = bank._part(4, "pixels").tobytes()
    shard.write_bytes(shard.read_bytes().replace(pixels, pixels[:-20] + bytes(20)))
    with pytest.raises(ArtifactError, match="checksum of the pixels of piece"):
        list(bank_vectors(Bank.open(tmp_path / "x"), embedder_of("crossview", ["aerial"]), workers=workers))


def test_threads_are_few_ahead_and_end_with_the_iteration(segments: Bank, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    original = Bank.crop

    def crop(bank: Bank, row: int) -> np.ndarray:
        decoded.append(row)
        return original(bank, row)

    monkeypatch.setattr(Bank, "crop", crop)
    made = bank_vectors(segments, embedder_of("pieces", ["piece"]), batch=1, workers=2)
    next(made)
    made.close()  # type: ignore[attr-defined]
    assert len(decoded) <= 4 and not [t for t in threading.enumerate() if t.name.startswith("decode")]


def test_a_copy_reads_through_files_of_its_own(segments: Bank) -> None:
    from copy import copy

    segments.crop(0)
    other = copy(segments)
    np.testing.assert_array_equal(other.crop(0), segments.crop(0))
    assert other.ids is segments.ids
    assert not {id(file) for file in other._files.values()} & {id(file) for file in segments._files.values()}
