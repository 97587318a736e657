"""An index of a real embedder's vectors by the commands themselves: made, asked with pieces and with photos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.artifact import read_manifest
from pipelines.bank.bank import Bank
from pipelines.data.pixels import read_image
from pipelines.index.neighbors import Neighbors
from pipelines.stages.embedders import open_embedder
from tests.rgs_cli.conftest import content, fails, succeed

CPU = ["--device", "cpu"]


@pytest.fixture(scope="module")
def streets(workspace: Path, pairs: Path) -> Path:
    """The street photos of the places to train on."""
    words = ["build-bank", pairs, "--kind", "images", "--view", "ground", "--split", "train"]
    succeed(*words, "-o", workspace / "streets")
    return workspace / "streets"


@pytest.fixture(scope="module")
def street_index(workspace: Path, streets: Path, embedder: Path) -> Path:
    words = ["train", "index", "--bank", streets, "--embedder", embedder, "--k", 3, *CPU]
    before = content(workspace)
    plan = succeed(*words, "-o", workspace / "street-index", "--dry-run").out
    assert content(workspace) == before and "factory: Flat" in plan and "bytes:" in plan
    printed = succeed(*words, "-o", workspace / "street-index").out
    assert printed == f"{workspace / 'street-index'}\n"
    return workspace / "street-index"


def expected(query: np.ndarray, vectors: np.ndarray) -> tuple[list[int], np.ndarray]:
    far = 1 - vectors.astype(np.float64) @ query.astype(np.float64)
    order = np.argsort(far, kind="stable")
    return order.tolist(), far[order]


def aerial_photo(pairs: Path) -> Path:
    return sorted((pairs / "aerial").iterdir())[0]


def test_neighbors_and_searches_by_piece(streets: Path, street_index: Path, embedder: Path) -> None:
    bank = Bank.open(streets)
    vectors = open_embedder(str(embedder)).embed([bank.crop(row) for row in range(len(bank))], "ground")
    kept = Neighbors.open(street_index, bank)
    for row in (0, len(bank) - 1):
        order, far = expected(vectors[row], np.delete(vectors, row, axis=0))
        order = [other + (other >= row) for other in order[:3]]
        assert kept.rows[row].tolist() == order
        np.testing.assert_allclose(kept.scores[row], far[:3], atol=1e-5)
        query = f"{int(bank.ids[row]):016x}"
        found = succeed("search", street_index, query, "--k", 3, "--json").json
        assert found["query"] == query and [hit["row"] for hit in found["hits"]] == order
        np.testing.assert_allclose([hit["score"] for hit in found["hits"]], far[:3], atol=1e-5)


def test_a_photo_is_asked_as_the_other_view(
    pairs: Path, streets: Path, street_index: Path, embedder: Path, tmp_path: Path
) -> None:
    bank, photo = Bank.open(streets), aerial_photo(pairs)
    opened = open_embedder(str(embedder))
    vectors = opened.embed([bank.crop(row) for row in range(len(bank))], "ground")
    sheet = tmp_path / "hits.png"
    ended = succeed("search", street_index, photo, "--k", 99, "--json", "--sheet", sheet, *CPU)
    order, far = expected(opened.embed([read_image(photo)], "aerial")[0], vectors)
    found = ended.json
    assert found["view"] == "aerial" and [hit["row"] for hit in found["hits"]] == order
    np.testing.assert_allclose([hit["score"] for hit in found["hits"]], far, atol=1e-5)
    assert [hit["id"] for hit in found["hits"]] == [f"{int(bank.ids[row]):016x}" for row in order]
    assert cv2.imread(str(sheet)) is not None
    known = tmp_path / "known.png"
    cv2.imwrite(str(known), bank.crop(4)[..., ::-1])
    query = f"{int(bank.ids[2]):016x}"
    lines = succeed("search", street_index, known, query, "--view", "ground", "--json", *CPU).out.splitlines()
    by_photo, by_piece = (json.loads(line)["hits"] for line in lines)
    assert by_photo[0]["row"] == 4 and by_photo[0]["score"] < 1e-5 and 2 not in [hit["row"] for hit in by_piece]


def test_what_search_refuses(
    streets: Path, street_index: Path, index: Path, pairs: Path, segmenter: Path, tmp_path: Path
) -> None:
    photo = aerial_photo(pairs)
    assert "neither a piece's id nor a photo file" in fails(2, "search", street_index, "nothing")
    assert "embeds no side images" in fails(2, "search", street_index, photo, "--view", "side", *CPU)
    assert "leave out --view" in fails(2, "search", street_index, f"{7:016x}", "--view", "aerial")
    assert "leave out --embedder" in fails(2, "search", index, photo, "--embedder", "runs/e")
    assert "which embeds nothing" in fails(3, "search", street_index, photo, "--embedder", segmenter)
    moved = tmp_path / "away" / "index"
    shutil.copytree(street_index, moved)
    assert "give --embedder" in fails(3, "search", moved, photo, "--bank", streets)


def test_what_training_refuses(streets: Path, bank: Path, embedder: Path, index: Path, tmp_path: Path) -> None:
    words = ["train", "index", "--bank", streets, "-o", tmp_path / "x"]
    assert "needs an embedder" in fails(2, *words, "--kind", "embedding")
    said = fails(4, *words, "--embedder", embedder, "--memory", "0.00001")
    assert "needs" in said and "allowed by --memory" in said
    assert "no factory of an index" in fails(2, *words, "--embedder", embedder, "--factory", "LSH")
    assert "gamma" in fails(2, *words, "--embedder", embedder, "--gamma", 2)
    assert "only an index of vectors" in fails(3, *words, "--update", index)
    assert "leave out --memory" in fails(2, "train", "index", "--bank", bank, "-o", tmp_path / "x", "--memory", 3)
    assert "probes" in fails(2, "train", "index", "--bank", bank, "-o", tmp_path / "x", "--probes", 3)
    assert not content(tmp_path)


def test_a_removed_source_leaves_the_index(
    workspace: Path, streets: Path, street_index: Path, embedder: Path, tmp_path: Path
) -> None:
    bank = Bank.open(streets)
    gone = bank.source_of(1).id
    succeed("build-bank", "--from", streets, "--remove-source", gone, "-o", tmp_path / "streets")
    words = ["train", "index", "--bank", tmp_path / "streets", *CPU]
    updated = succeed(*words, "--update", street_index, "-o", tmp_path / "updated", "--json").json
    assert updated["statistics"]["embedded"] == 0 and updated["statistics"]["kept"] == len(bank) - 1
    succeed(*words, "--embedder", embedder, "--k", 3, "-o", tmp_path / "anew")
    one, other = (read_manifest(tmp_path / name)["files"] for name in ("updated", "anew"))
    assert [file["path"] for file in one] == [file["path"] for file in other]
    found = Neighbors.open(tmp_path / "updated", Bank.open(tmp_path / "streets"))
    again = Neighbors.open(tmp_path / "anew", Bank.open(tmp_path / "streets"))
    assert np.array_equal(found.rows, again.rows)
    np.testing.assert_allclose(found.scores, again.scores, atol=1e-6)  # its vectors came from a batch of other size
