"""The shape index of a bank against the formulas, one pair at a time; and what happens when artifacts do not match."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.artifact import Artifact, locked
from pipelines.bank.bank import Bank
from pipelines.errors import ArtifactError, EnvironmentFault
from pipelines.index.neighbors import NONE, Neighbors
from pipelines.stages import build_bank, train_index
from pipelines.stages.train_index import TrainIndex
from tests.bank.photos import write_dataset
from tests.index.oracle import nearest, sigma


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Bank:
    folder = tmp_path_factory.mktemp("bank")
    write_dataset(folder / "data", range(7), groups={0: "a", 1: "a", 2: "a", 5: "b"})
    made = build_bank.run(build_bank.BuildBank(shard_sources=3), data=folder / "data", out=folder / "x")
    return Bank.open(made.path)


def train(bank: Bank, out: Path, **config: Any) -> Artifact:
    return train_index.run(TrainIndex.model_validate(config), bank=bank.path, out=out)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"exclude": "self", "k": 3},
        {"exclude": "group", "k": 4, "gamma": 0.25},
        {"area": "box", "strict": True, "k": 5},
    ],
)
def test_neighbors_are_the_nearest_by_the_formulas(bank: Bank, tmp_path: Path, config: dict[str, Any]) -> None:
    made = train(bank, tmp_path / "i", **config)
    found = Neighbors.open(made.path, bank)
    areas = bank.areas if config.get("area", "mask") == "mask" else bank.boxes[:, 2] * bank.boxes[:, 3]
    masks = bank.canonical()
    groups = {f"train/000{k}": name for k, name in {0: "a", 1: "a", 2: "a", 5: "b"}.items()}
    exclude, k = config.get("exclude", "source"), config.get("k", 10)

    def related(i: int, j: int) -> bool:
        one, other = bank.source_of(i).id, bank.source_of(j).id
        if exclude == "self":
            return i == j
        return one == other or (exclude == "group" and groups.get(one, one) == groups.get(other, other))

    for i in range(len(bank)):
        candidates = [
            (sigma(masks[i], masks[j], areas[i], areas[j], config.get("gamma", 1.0), config.get("strict", False)), j)
            for j in range(len(bank))
            if bank.categories[i] == bank.categories[j] and not related(i, j)
        ]
        expected = nearest(candidates, k)
        rows, scores = found.of(int(bank.ids[i]))
        assert rows.tolist() == [row for _, row in expected]
        np.testing.assert_allclose(scores, [score for score, _ in expected], rtol=1e-12)
        assert (found.rows[i, len(expected) :] == NONE).all() and np.isinf(found.scores[i, len(expected) :]).all()
    assert found.rows.dtype == np.int32 and found.scores.dtype == np.float64 and found.ids.dtype == np.uint64


def test_statistics(bank: Bank, tmp_path: Path) -> None:
    made = train(bank, tmp_path / "i", k=2)
    found = Neighbors.open(made.path, bank)
    assert made.statistics["items"] == len(bank) and made.statistics["k"] == found.k == 2
    assert made.statistics["mean_sigma_rank1"] == pytest.approx(found.scores[:, 0].mean())
    assert made.statistics["without_candidate"] == 0 and made.statistics["exclude"] == "source"
    assert made.input("bank").digest == bank.digest  # type: ignore[union-attr]


def test_k_is_clamped_to_what_exists(bank: Bank, tmp_path: Path) -> None:
    found = Neighbors.open(train(bank, tmp_path / "i", k=500, exclude="self").path, bank)
    assert found.k == np.bincount(bank.categories).max() - 1


def test_pieces_without_a_candidate(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", [4])
    made = build_bank.run(build_bank.BuildBank(), data=tmp_path / "data", out=tmp_path / "x")
    alone = Bank.open(made.path)
    index = train(alone, tmp_path / "i")
    found = Neighbors.open(index.path, alone)
    assert found.rows.shape == (len(alone), 1) and (found.rows == NONE).all()
    assert index.statistics["without_candidate"] == len(alone) and index.statistics["mean_sigma_rank1"] is None
    assert [len(part) for part in found.of(int(alone.ids[0]))] == [0, 0]


def test_the_digest_depends_on_bank_and_config_alone(bank: Bank, tmp_path: Path) -> None:
    first = train(bank, tmp_path / "i")
    moved = Path(shutil.copytree(bank.path, tmp_path / "elsewhere" / "x"))
    again = train_index.run(TrainIndex(), bank=moved, out=tmp_path / "elsewhere" / "i", threads=2)
    assert again.digest == first.digest
    assert train(bank, tmp_path / "j", gamma=2.0).digest != first.digest


def test_an_index_of_another_bank_is_refused(bank: Bank, tmp_path: Path) -> None:
    first = train(bank, tmp_path / "i")
    thinned = build_bank.run(build_bank.BuildBank(), base=bank.path, remove=["train/0003"], out=tmp_path / "y")
    other = Bank.open(thinned.path)
    with pytest.raises(ArtifactError) as caught:
        Neighbors.open(first.path, other)
    said = f"index {first.path} was built from bank {bank.digest[:4]}… but {other.path} is {other.digest[:4]}…"
    assert caught.value.what == said
    assert caught.value.fix == (f"rebuild it with: rgs train index --kind shape --bank {other.path} --out {first.path}")
    train(other, tmp_path / "j")
    found = Neighbors.open(tmp_path / "j", other)
    assert len(found) == len(other) < len(bank)


def test_neighbors_of_a_piece_that_is_not_there(bank: Bank, tmp_path: Path) -> None:
    found = Neighbors.open(train(bank, tmp_path / "i").path, bank)
    with pytest.raises(ArtifactError, match="no piece"):
        found.of(12345)


def test_progress_and_dry_run(bank: Bank, tmp_path: Path) -> None:
    planned = train_index.plan(TrainIndex(), bank=bank.path, out=tmp_path / "i")
    assert planned["inputs"][0]["digest"] == bank.digest and planned["pieces"] == len(bank)
    assert not list(tmp_path.iterdir())
    seen: list[tuple[str, int, int]] = []
    made = train_index.run(TrainIndex(), bank=bank.path, out=tmp_path / "i", progress=lambda *event: seen.append(event))
    assert seen[0] == ("searching", 0, len(bank)) and seen[-1] == ("searching", len(bank), len(bank))
    written = sum(file["bytes"] for file in made.manifest["files"])
    assert written <= planned["bytes"] + 16_384  # at most, beside HDF5's own: equal shapes are stored once
    assert made.config == planned["config"]


def test_outputs_are_not_overwritten_and_have_one_writer(bank: Bank, tmp_path: Path) -> None:
    train(bank, tmp_path / "i")
    with pytest.raises(ArtifactError, match="exists already"):
        train(bank, tmp_path / "i")
    with locked(tmp_path / "j.partial"), pytest.raises(EnvironmentFault, match="another process"):
        train(bank, tmp_path / "j")


@pytest.mark.parametrize("file", ["neighbors.h5", "shapes.h5"])
def test_a_damaged_index(bank: Bank, tmp_path: Path, file: str) -> None:
    from pipelines.index.shape_index import ShapeIndex

    made = train(bank, tmp_path / "i")
    path = made.path / file
    data = bytearray(path.read_bytes())
    data[-20] ^= 1
    path.write_bytes(data)
    opener = Neighbors if file == "neighbors.h5" else ShapeIndex
    with pytest.raises(ArtifactError, match=file):
        opener.open(made.path, bank)
    path.write_bytes(data[:-100])
    with pytest.raises(ArtifactError, match=file):
        opener.open(made.path, bank)
