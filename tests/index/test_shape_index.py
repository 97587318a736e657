"""An open shape index: new masks are found as the formulas say, and excluded pieces are not."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from pipelines.bank.bank import Bank
from pipelines.bank.segments import Decompose, decompose
from pipelines.data.open import open_dataset
from pipelines.errors import ArtifactError
from pipelines.index.neighbors import NONE, Neighbors
from pipelines.index.shape_index import ShapeIndex
from pipelines.index.shape_search import canonical_mask, pack_mask
from pipelines.stages import build_bank, train_index
from tests.bank.photos import write_dataset
from tests.index.oracle import nearest, sigma


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    write_dataset(folder / "data", range(6), groups={1: "tram", 3: "tram"})
    write_dataset(folder / "data", [50, 51], split="val")
    bank = build_bank.run(build_bank.BuildBank(), data=folder / "data", out=folder / "x").path
    for area in ("mask", "box"):
        config = train_index.TrainIndex.model_validate({"area": area, "gamma": 0.5})
        train_index.run(config, bank=bank, out=folder / area)
    return folder


@pytest.mark.parametrize("area", ["mask", "box"])
@pytest.mark.parametrize("exclude", [None, ("source", "train/0001"), ("group", "tram"), ("group", "nobody")])
def test_new_masks(folder: Path, area: str, exclude: tuple[str, str] | None) -> None:
    bank = Bank.open(folder / "x")
    index = ShapeIndex.open(folder / area, bank)
    dataset = open_dataset(folder / "data")
    scene = dataset.read(dataset.records("val")[1])
    assert scene.labels is not None
    parts = decompose(scene.labels, scene.instances, dataset.schema.things, Decompose())
    cut = [parts.owner[y : y + h, x : x + w] == k for k, (x, y, w, h) in enumerate(s.box for s in parts.segments)]
    masks = np.stack([pack_mask(canonical_mask(mask)) for mask in cut])
    categories = np.array([s.category for s in parts.segments], np.int32)
    sizes = [s.area if area == "mask" else s.box[2] * s.box[3] for s in parts.segments]
    assert index.sizes(parts).tolist() == sizes
    rows, scores = index.search(masks, index.sizes(parts), categories, 40, exclude=exclude)  # type: ignore[arg-type]
    assert rows.shape == scores.shape == (len(parts.segments), 40)

    out = {None: [], "source": ["train/0001"], "group": ["train/0001", "train/0003"]}[exclude and exclude[0]]
    out = [] if exclude == ("group", "nobody") else out
    theirs = bank.areas if area == "mask" else bank.boxes[:, 2:].prod(axis=1)
    packed = bank.canonical()
    for q in range(len(masks)):
        expected = nearest(
            [
                (sigma(masks[q], packed[row], sizes[q], int(theirs[row]), gamma=0.5), row)
                for row in range(len(bank))
                if bank.categories[row] == categories[q] and bank.source_of(row).id not in out
            ],
            40,
        )
        assert rows[q][rows[q] != NONE].tolist() == [row for _, row in expected]
        np.testing.assert_allclose(scores[q][: len(expected)], [score for score, _ in expected], rtol=1e-12)
        assert np.isinf(scores[q][len(expected) :]).all()


def test_a_class_that_the_bank_lacks(folder: Path) -> None:
    bank = Bank.open(folder / "x")
    index = ShapeIndex.open(folder / "mask", bank)
    rows, scores = index.search(bank.canonical([0]), bank.areas[:1], np.array([17], np.int32), 3)
    assert (rows == NONE).all() and np.isinf(scores).all()


def test_searching_its_own_pieces_gives_the_neighbors(folder: Path) -> None:
    bank = Bank.open(folder / "x")
    index, neighbors = ShapeIndex.open(folder / "mask", bank), Neighbors.open(folder / "mask", bank)
    for row in range(len(bank)):
        rows, scores = index.search(
            bank.canonical([row]),
            bank.areas[[row]],
            bank.categories[[row]],
            neighbors.k,
            exclude=("source", bank.source_of(row).id),
        )
        np.testing.assert_array_equal(rows[0], neighbors.rows[row])
        np.testing.assert_array_equal(scores[0], neighbors.scores[row])


def test_neighbors_are_in_memory_and_travel(folder: Path, tmp_path: Path) -> None:
    bank = Bank.open(folder / "x")
    neighbors = Neighbors.open(folder / "mask", bank)
    copy = pickle.loads(pickle.dumps(neighbors))
    for piece in bank.ids[::3].tolist():
        for ours, theirs in zip(copy.of(piece), neighbors.of(piece), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_a_bank_is_no_index(folder: Path) -> None:
    bank = Bank.open(folder / "x")
    with pytest.raises(ArtifactError, match="not an index"):
        ShapeIndex.open(folder / "x", bank)
