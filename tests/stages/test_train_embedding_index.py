"""An index of vectors from a bank: neighbors by the definition, recall, updates, and what is refused before."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipelines.artifact import Artifact
from pipelines.bank.bank import Bank
from pipelines.errors import ArtifactError, ConfigError, EnvironmentFault, NumericalError
from pipelines.index.embedding_index import EmbeddingIndex
from pipelines.index.neighbors import NONE, Neighbors
from pipelines.index.shape_index import ShapeIndex
from pipelines.stages import build_bank, train_embedding_index, train_index
from pipelines.stages.train_embedding_index import TrainEmbeddingIndex, drawn
from tests.bank.photos import write_dataset
from tests.index.made_vectors import nearest
from tests.stages.indexed import MadeEmbedder

GROUPS = {0: "a", 1: "a", 2: "a", 5: "b", 9: "b"}
LISTED = [("IVF4,Flat", {}), ("IVF4,SQ8", {}), ("IVF4,PQ4x4", {}), ("HNSW8", {})]


@pytest.fixture(scope="module")
def banks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bank]:
    """Some 100 pieces of 25 images; the same without three images; and that with two others."""
    folder = tmp_path_factory.mktemp("banks")
    data = write_dataset(folder / "data", range(25), groups=GROUPS)
    more = write_dataset(folder / "more", [*range(25), 30, 31], groups=GROUPS)
    build_bank.run(build_bank.BuildBank(shard_sources=9), data=data, out=folder / "x")
    gone = ["train/0003", "train/0011", "train/0024"]
    build_bank.run(build_bank.BuildBank(), base=folder / "x", remove=gone, out=folder / "thin")
    build_bank.run(build_bank.BuildBank(shard_sources=4), data=more, out=folder / "more-x")
    build_bank.run(build_bank.BuildBank(), base=folder / "more-x", remove=gone, out=folder / "y")
    return {name: Bank.open(folder / name) for name in ("x", "thin", "y")}


@pytest.fixture
def embedder(monkeypatch: pytest.MonkeyPatch) -> MadeEmbedder:
    return MadeEmbedder().give_to(monkeypatch)


def train(bank: Bank, out: Path, update: list[Path] | None = None, **config: Any) -> Artifact:
    return train_embedding_index.run(
        TrainEmbeddingIndex.model_validate(config),
        bank=bank.path,
        embedder=None if update else "runs/made",
        update=update or [],
        out=out,
        memory=10**9,
    )


def hashes(artifact: Artifact) -> dict[str, str]:
    return {file["path"]: file["sha256"] for file in artifact.manifest["files"]}


def related(bank: Bank, i: int, exclude: str) -> np.ndarray:
    """(n,) bool: which pieces may not be a neighbor of piece i."""

    def of(row: int) -> object:
        source = bank.source_of(row).id
        if exclude == "self":
            return row
        return GROUPS.get(int(source[-4:]), source) if exclude == "group" else source

    return np.array([of(j) == of(i) for j in range(len(bank))])


@pytest.mark.parametrize("gate", ["none", "category"])
@pytest.mark.parametrize("exclude", ["self", "source", "group"])
def test_neighbors_are_the_nearest_by_the_definition(
    banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path, exclude: str, gate: str
) -> None:
    """With exact duplicates, so that a piece is not its own first hit, and ties."""
    bank, embedder.gate = banks["x"], gate
    twin = embedder.vectors(bank.ids[[40]])[0]
    embedder.planted = {int(bank.ids[row]): twin for row in (2, 3, 17, 41, 90)}
    made = train(bank, tmp_path / "i", exclude=exclude, k=6)
    found, vectors = Neighbors.open(made.path, bank), embedder.vectors(bank.ids)
    for i in [2, 3, 17, 40, 41, 90, 0, 55, len(bank) - 1]:
        barred = related(bank, i, exclude)
        if gate == "category":
            barred |= bank.categories != bank.categories[i]
        expected = nearest(vectors[i], vectors, 6, "cosine", barred)
        rows, distances = found.of(int(bank.ids[i]))
        assert rows.tolist() == [row for row, _ in expected]
        np.testing.assert_allclose(distances, [max(0.0, far) for _, far in expected], atol=1e-12)
    assert made.statistics["recall"]["recall"] == 1 and made.config["factory"] == "Flat"
    assert made.statistics["gate"] == gate and made.statistics["items"] == len(bank) == made.statistics["embedded"]


@pytest.mark.parametrize("gate", ["none", "category"])
@pytest.mark.parametrize("factory", ["HNSW8", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ4x4"])
def test_recall_is_the_share_of_exact_neighbors(
    banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path, factory: str, gate: str
) -> None:
    bank, embedder.gate = banks["x"], gate
    exact = Neighbors.open(train(bank, tmp_path / "exact", exclude="group", k=5).path, bank)
    made = train(bank, tmp_path / "i", exclude="group", k=5, factory=factory, probes=1, queries=40)
    found = Neighbors.open(made.path, bank)
    asked = drawn(bank.ids, 40)
    hits = sum(len(set(found.rows[i]) & set(exact.rows[i]) - {NONE}) for i in asked)
    share = hits / (exact.rows[asked] != NONE).sum()
    said = made.statistics["recall"]
    assert said == {"k": 5, "probes": 1, "queries": 40, "recall": pytest.approx(share)}
    assert 0.3 < share <= 1 and (share < 1 or factory != "IVF4,PQ4x4" or gate == "category")
    for i in range(len(bank)):  # never a piece that is barred, and as many as there are
        rows = found.rows[i][found.rows[i] != NONE]
        assert not related(bank, i, "group")[rows].any() and len(set(rows.tolist())) == len(rows)
        assert gate == "none" or (bank.categories[rows] == bank.categories[i]).all()
        assert len(rows) == (exact.rows[i] != NONE).sum()


def test_more_neighbors_than_candidates(banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path) -> None:
    bank, embedder.gate = banks["x"], "category"
    for factory in ("Flat", "IVF4,Flat"):
        found = Neighbors.open(train(bank, tmp_path / factory, exclude="self", k=500, factory=factory).path, bank)
        counts = np.bincount(bank.categories)[bank.categories] - 1
        assert found.k == counts.max() and ((found.rows != NONE).sum(axis=1) == counts).all()
        assert np.isinf(found.scores[found.rows == NONE]).all()


def test_the_same_work_gives_the_same_bytes(banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path) -> None:
    moved = Bank.open(Path(shutil.copytree(banks["x"].path, tmp_path / "elsewhere")))
    for factory, _ in LISTED:
        first = train(banks["x"], tmp_path / f"{factory}-1", factory=factory)
        again = train(moved, tmp_path / f"{factory}-2", factory=factory)
        assert first.digest == again.digest and hashes(first).keys() == {"index.faiss", "neighbors.h5", "pieces.h5"}
    assert train(moved, tmp_path / "k", k=2).digest != train(moved, tmp_path / "l", k=3).digest


@pytest.mark.parametrize("factory", ["Flat", "HNSW8"])
def test_an_update_equals_building_anew(
    banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path, factory: str
) -> None:
    old = train(banks["x"], tmp_path / "old", factory=factory, k=4)
    embedder.embedded.clear()
    new = train(banks["y"], tmp_path / "new", update=[old.path])
    fresh = set(banks["y"].ids.tolist()) - set(banks["x"].ids.tolist())
    asked_too = set(banks["y"].ids[drawn(banks["y"].ids, 1000)].tolist())
    assert fresh and set(embedder.embedded) == fresh and fresh <= asked_too
    assert new.statistics["embedded"] == len(fresh) and new.statistics["kept"] == len(banks["y"]) - len(fresh)
    anew = train(banks["y"], tmp_path / "anew", factory=factory, k=4)
    assert hashes(new) == hashes(anew) and new.config == anew.config
    assert [i["role"] for i in new.manifest["inputs"]] == ["bank", "embedder", "index"]


@pytest.mark.parametrize("factory", ["IVF4,Flat", "IVF4,SQ8", "IVF4,PQ4x4"])
def test_an_update_keeps_lists_and_codes(
    banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path, factory: str
) -> None:
    bank, thin = banks["x"], banks["thin"]
    old = train(bank, tmp_path / "old", factory=factory)
    embedder.embedded.clear()
    new = train(thin, tmp_path / "new", update=[old.path])
    assert not embedder.embedded and new.statistics["kept"] == len(thin)
    before, after = EmbeddingIndex.open(old.path, bank), EmbeddingIndex.open(new.path, thin)
    rows = np.array([bank.row_of_id(int(piece)) for piece in thin.ids])
    assert np.array_equal(after.vectors.vectors(np.arange(len(thin))), before.vectors.vectors(rows))
    assert after.vectors.same_centroids(before.vectors)
    measured = new.statistics["recall"]["recall"]
    assert (measured is not None) == (factory == "IVF4,Flat") and ("by" in new.statistics["recall"]) != bool(measured)
    # back to the first bank: what was removed is embedded again, and the same lists hold the same again
    again = train(bank, tmp_path / "again", update=[new.path])
    assert len(set(embedder.embedded)) == len(bank) - len(thin)
    assert hashes(again)["index.faiss"] == hashes(old)["index.faiss"]


def test_a_picture_that_was_replaced_is_embedded_anew(
    banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path
) -> None:
    """Its pieces have the ids that they had."""
    old = train(banks["x"], tmp_path / "old")
    data = write_dataset(tmp_path / "data", range(25), groups=GROUPS)
    photo = data / "train" / "img" / "0003.png"
    cv2.imwrite(str(photo), 255 - cv2.imread(str(photo)))
    changed = Bank.open(build_bank.run(build_bank.BuildBank(), data=data, out=tmp_path / "x").path)
    assert np.array_equal(changed.ids, banks["x"].ids)
    embedder.embedded.clear()
    train(changed, tmp_path / "new", update=[old.path])
    assert embedder.embedded == changed.ids[changed.rows_of_source("train/0003")].tolist()


def test_indexes_of_two_banks_are_merged(banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path) -> None:
    """One from the images that stayed, one from all but those: together the whole, with nothing to embed."""
    whole = train(banks["x"], tmp_path / "whole", factory="IVF4,PQ4x4")
    thin = train(banks["thin"], tmp_path / "thin", update=[whole.path])
    others = sorted({source.id for source in banks["thin"].source_table})
    build_bank.run(build_bank.BuildBank(), base=banks["x"].path, remove=others, out=tmp_path / "rest-bank")
    rest = train(Bank.open(tmp_path / "rest-bank"), tmp_path / "rest", update=[whole.path])
    embedder.embedded.clear()
    merged = train(banks["x"], tmp_path / "merged", update=[thin.path, rest.path])
    assert not embedder.embedded and hashes(merged)["index.faiss"] == hashes(whole)["index.faiss"]
    apart = train(banks["y"], tmp_path / "apart", factory="IVF4,PQ4x4", sample=20)
    with pytest.raises(ArtifactError, match="trained apart"):
        train(banks["x"], tmp_path / "m", update=[thin.path, apart.path])


def test_what_cannot_be_updated(
    banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = train(banks["x"], tmp_path / "old", factory="IVF4,Flat")
    with pytest.raises(ConfigError, match="factory is Flat but the index to update was made with IVF4,Flat"):
        train(banks["thin"], tmp_path / "new", update=[old.path], factory="Flat")
    shapes = train_index.run(train_index.TrainIndex(k=1), bank=banks["thin"].path, out=tmp_path / "shapes")
    with pytest.raises(ArtifactError, match="only an index of vectors"):
        train(banks["thin"], tmp_path / "new", update=[shapes.path])
    embedder.sha256 = "cd" * 32
    with pytest.raises(ArtifactError, match=r"was made with weights abab… of .*made \(step 3\) but the embedder's"):
        train(banks["thin"], tmp_path / "new", update=[old.path])
    embedder.sha256, embedder.dimension = "ab" * 32, 8
    with pytest.raises(ArtifactError, match="the embedder gives vectors of 8 numbers, and the index holds some of 16"):
        train(banks["thin"], tmp_path / "new", update=[old.path])
    assert not (tmp_path / "new.partial").exists()


def test_a_dry_run_says_what_will_be_written(banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path) -> None:
    embedder.dimension = 256  # so that the files are more than headers
    bank = banks["x"]
    for factory in ("Flat", "HNSW32", "IVF4,Flat", "IVF4,SQ8", "IVF4,PQ32x4"):
        config = TrainEmbeddingIndex(factory=factory)
        given: dict[str, Any] = {"bank": bank.path, "embedder": "runs/made", "out": tmp_path / factory}
        planned = train_embedding_index.plan(config, **given)
        assert not (tmp_path / factory).exists() and not embedder.embedded and planned["to_embed"] == len(bank)
        made = train_embedding_index.run(config, **given)
        sizes = {file["path"]: file["bytes"] for file in made.manifest["files"]}
        assert planned["files"]["index.faiss"] == pytest.approx(sizes["index.faiss"], rel=0.1)
        for name in ("neighbors.h5", "pieces.h5"):
            assert planned["files"][name] == pytest.approx(sizes[name], abs=6000)  # HDF5's own
        assert made.config == planned["config"] and planned["config"]["factory"] == factory
        assert made.manifest["inputs"] == planned["inputs"]
        assert TrainEmbeddingIndex.model_validate(planned["config"]).model_dump(mode="json") == planned["config"]
        embedder.embedded.clear()


def test_too_large_for_memory_before_anything_starts(
    banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path
) -> None:
    given: dict[str, Any] = {"bank": banks["x"].path, "embedder": "runs/made", "out": tmp_path / "i", "memory": 10_000}
    for work in (train_embedding_index.run, train_embedding_index.plan):
        with pytest.raises(EnvironmentFault, match=r"an index Flat of \d+ vectors of 16 numbers needs \d+ bytes"):
            work(TrainEmbeddingIndex(), **given)
    assert not embedder.embedded and not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite(
    banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path, bad: float
) -> None:
    bank = banks["x"]
    wrong = np.ones(16, np.float32)
    wrong[5] = bad
    embedder.planted = {int(bank.ids[20]): wrong}
    said = f"the vector of piece {bank.ids[20]:016x} of {bank.source_of(20).id} is not finite"
    with pytest.raises(NumericalError, match=said):
        train(bank, tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_settings_without_use_are_refused(banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path) -> None:
    for config, what in (
        ({"probes": 3}, "Flat has no probes"),
        ({"sample": 30}, "Flat has no sample"),
        ({"factory": "HNSW8", "sample": 30}, "HNSW8 has no sample"),
        ({"factory": "IVF4,Flat", "sample": 3}, "needs 4 vectors to train on, and there are 3"),
        ({"factory": "IVF1000,Flat"}, "IVF1000,Flat needs 1000 vectors"),
    ):
        with pytest.raises(ConfigError, match=what):
            train(banks["x"], tmp_path / "i", **config)
    with pytest.raises(ConfigError, match="needs an embedder"):
        train_embedding_index.run(TrainEmbeddingIndex(), bank=banks["x"].path, out=tmp_path / "i")
    assert not list(tmp_path.iterdir())


def test_a_sample_is_drawn_by_ids() -> None:
    ids = np.random.default_rng(0).integers(0, 2**63, 500).astype(np.uint64)
    some = ids[drawn(ids, 50)]
    mixed = np.random.default_rng(1).permutation(ids)
    assert np.array_equal(mixed[drawn(mixed, 50)], some) and np.array_equal(ids[drawn(ids, 20)], some[:20])
    assert len(drawn(ids, 900)) == 500 and len(set(drawn(ids, 500).tolist())) == 500
    in_order = np.arange(500, dtype=np.uint64)  # no matter how regular they are
    assert abs(drawn(in_order, 100).mean() - 250) < 60


def test_opened_for_what_it_is(banks: dict[str, Bank], embedder: MadeEmbedder, tmp_path: Path) -> None:
    made = train(banks["x"], tmp_path / "i")
    with pytest.raises(ArtifactError, match="this is an index of kind embedding, not of shapes"):
        ShapeIndex.open(made.path, banks["x"])
    with pytest.raises(ArtifactError, match="was built from bank") as caught:
        EmbeddingIndex.open(made.path, banks["thin"])
    assert "--kind embedding --embedder" in str(caught.value.fix) and "runs/made@3" in str(caught.value.fix)
    data = bytearray((made.path / "index.faiss").read_bytes())
    data[100] ^= 1
    (made.path / "index.faiss").write_bytes(data)
    with pytest.raises(ArtifactError, match=r"index\.faiss is damaged"):
        EmbeddingIndex.open(made.path, banks["x"])
