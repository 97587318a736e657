"""A bank on disk, read against the images that it was cut from."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines.bank import bank as bank_module
from pipelines.bank.bank import Bank
from pipelines.bank.shard import piece_id
from pipelines.data.open import open_dataset
from pipelines.errors import ArtifactError
from pipelines.stages import build_bank
from tests.bank.photos import CLASSES, draw, write_dataset

SEEDS = (1, 2, 3, 5, 8, 13, 21)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bank of seven photos, three to a shard: two of one group, one with a licence, one with no car's worth."""
    folder = tmp_path_factory.mktemp("bank")
    write_dataset(folder / "data", SEEDS, groups={2: "tram 4", 8: "tram 4", 13: "foot"}, licences={3: "CC BY 4.0"})
    config = build_bank.BuildBank.model_validate({"shard_sources": 3, "decompose": {"preserved_ratio": 1.0}})
    build_bank.run(config, data=folder / "data", out=folder / "x")
    return folder / "x"


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "x"))


def test_pieces_are_what_the_photos_show(built: Path) -> None:
    bank = Bank.open(built)
    assert [s.id for s in bank.source_table] == [f"train/{seed:04d}" for seed in SEEDS]
    for seed in SEEDS:
        photo, ids, instances = draw(seed)
        index_of = {entry["id"]: k for k, entry in enumerate(CLASSES["classes"])}  # type: ignore[index]
        covered = np.zeros(ids.shape, int)
        for row in bank.rows_of_source(f"train/{seed:04d}"):
            x, y, w, h = bank.boxes[row]
            mask, crop = bank.mask(row), bank.crop(row)
            here = slice(y, y + h), slice(x, x + w)
            assert mask.shape == (h, w) and mask.sum() == bank.areas[row]
            assert mask.any(axis=1)[[0, -1]].all() and mask.any(axis=0)[[0, -1]].all()
            np.testing.assert_array_equal(crop, photo[here] * mask[..., None])
            assert {index_of[i] for i in np.unique(ids[here][mask])} == {bank.categories[row]}
            assert len(np.unique(instances[here][mask])) == 1
            assert bank.things[row] == (bank.categories[row] == 2)
            covered[here] += mask
        np.testing.assert_array_equal(covered, ids != 255)


def test_columns(built: Path) -> None:
    bank = Bank.open(built)
    n = len(bank)
    assert (bank.ids.dtype, bank.categories.dtype, bank.things.dtype) == (np.uint64, np.int32, np.bool_)
    assert bank.boxes.shape == (n, 4) and bank.areas.shape == bank.sources.shape == bank.ordinals.shape == (n,)
    assert bank.kind == "segments" and bank.schema.names == ["sky", "road", "car"]
    assert bank.config["shard_sources"] == 3 and len(bank.digest) == 64
    for row in range(n):
        assert int(bank.ids[row]) == piece_id(bank.source_of(row).id, int(bank.ordinals[row]))
        assert bank.row_of_id(int(bank.ids[row])) == row
    assert [s.licence for s in bank.source_table] == ["CC BY 4.0" if s == 3 else "" for s in SEEDS]
    assert all((s.height, s.width, s.labeled) == (40, 56, 40 * 56 - 6) for s in bank.source_table)


def test_what_is_not_in_the_bank(built: Path) -> None:
    bank = Bank.open(built)
    assert len(bank.rows_of_source("train/0004")) == 0
    for piece in (12345, -1, 2**70):
        with pytest.raises(ArtifactError, match="no piece"):
            bank.row_of_id(piece)
    for row in (-1, len(bank)):
        with pytest.raises(IndexError):
            bank.crop(row)


def test_canonical_masks_of_any_rows(built: Path) -> None:
    bank = Bank.open(built)
    every = bank.canonical()
    assert every.shape == (len(bank), 2048)
    rows = np.random.default_rng(0).permutation(len(bank))[:9]
    np.testing.assert_array_equal(bank.canonical(rows), every[rows])
    np.testing.assert_array_equal(bank.canonical([4, 4]), every[[4, 4]])
    assert bank.canonical([]).shape == (0, 2048)
    road = bank.rows_of_source("train/0001")[bank.categories[bank.rows_of_source("train/0001")] == 1][0]
    share = np.unpackbits(every[road]).mean()
    assert share == pytest.approx(bank.areas[road] / np.prod(bank.boxes[road, 2:]), abs=0.03)


def test_exclusion_keys(built: Path) -> None:
    bank = Bank.open(built)
    names = np.array([bank.source_of(row).id for row in range(len(bank))])
    tram = np.isin(names, ["train/0002", "train/0008"])
    same = {by: np.equal.outer(k := bank.exclusion_keys(by), k) for by in ("self", "source", "group")}  # type: ignore[arg-type]
    np.testing.assert_array_equal(same["self"], np.eye(len(bank), dtype=bool))
    np.testing.assert_array_equal(same["source"], np.equal.outer(names, names))
    np.testing.assert_array_equal(same["group"], np.equal.outer(names, names) | np.logical_and.outer(tram, tram))
    for by, name, rows in (
        ("source", "train/0008", names == "train/0008"),
        ("source", "tram 4", np.zeros(len(bank), bool)),
        ("group", "tram 4", tram),
        ("group", "train/0008", tram),
        ("group", "train/0001", names == "train/0001"),
        ("group", "", np.zeros(len(bank), bool)),
        ("group", "nobody", np.zeros(len(bank), bool)),
    ):
        np.testing.assert_array_equal(bank.exclusion_keys(by) == bank.exclusion_key(by, name), rows)  # type: ignore[arg-type]


def crops_of(bank: Bank) -> list[bytes]:
    return [bank.crop(row).tobytes() for row in range(len(bank))]


def test_a_bank_travels_to_another_process(built: Path) -> None:
    bank = Bank.open(built)
    expected = crops_of(bank)  # its files are open now
    assert not pickle.loads(pickle.dumps(bank))._files
    for method in ("spawn", "fork"):
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as pool:
            assert pool.submit(crops_of, bank).result() == expected
    assert crops_of(bank) == expected


def test_a_fork_opens_its_own_files(built: Path) -> None:
    bank = Bank.open(built)
    bank.crop(0)
    child = os.fork()
    if not child:
        mine = bank._file(0)  # opened by this process although the parent's is there
        os._exit(0 if bank._process == os.getpid() and mine is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert bank._process == os.getpid()


def test_few_files_are_open_at_once(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "MAX_OPEN", 2)
    bank = Bank.open(built)
    expected = [bank.crop(row) for row in range(len(bank))]
    for row in np.random.default_rng(1).permutation(len(bank)):
        np.testing.assert_array_equal(bank.crop(row), expected[row])
        assert len(bank._files) <= 2


def test_jpeg_pieces_are_black_outside_their_masks(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", [4])
    build_bank.run(build_bank.BuildBank(codec="jpeg"), data=tmp_path / "data", out=tmp_path / "x")
    bank = Bank.open(tmp_path / "x")
    smooth = cv2.GaussianBlur(draw(4)[0], (0, 0), 3)
    assert smooth.shape == (40, 56, 3)
    assert any((~bank.mask(row)).any() for row in range(len(bank)))
    for row in range(len(bank)):
        assert not bank.crop(row)[~bank.mask(row)].any()


def flip_in(path: Path, needle: bytes) -> None:
    data = bytearray(path.read_bytes())
    place = data.find(needle)
    assert place >= 0
    data[place + len(needle) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("part", ["pixels", "mask", "canonical"])
def test_a_flipped_bit_is_noticed_when_the_piece_is_read(copied: Path, part: str) -> None:
    bank = Bank.open(copied)
    row = int(bank.rows_of_source("train/0005")[2])  # in the second shard
    stored = bank.canonical([row])[0] if part == "canonical" else bank._part(row, part)  # type: ignore[arg-type]
    piece = f"{int(bank.ids[row]):016x}"
    del bank  # HDF5 shares the cache of a file that this process has open
    gc.collect()
    flip_in(copied / "shards" / "00001.h5", stored.tobytes())
    damaged = Bank.open(copied)
    with pytest.raises(ArtifactError, match=rf"00001\.h5.*{part}.*{piece}.*train/0005"):
        {"pixels": damaged.crop, "mask": damaged.mask, "canonical": lambda r: damaged.canonical([r])}[part](row)
    damaged.crop(0)  # the others can still be read


def test_a_truncated_shard(copied: Path) -> None:
    shard = copied / "shards" / "00001.h5"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"00001\.h5 has .* bytes instead of"):
        Bank.open(copied)


def test_a_missing_shard(copied: Path) -> None:
    (copied / "shards" / "00002.h5").unlink()
    with pytest.raises(ArtifactError, match=r"00002\.h5 is missing"):
        Bank.open(copied)


def test_a_shard_that_is_no_hdf5(copied: Path) -> None:
    shard = copied / "shards" / "00001.h5"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(ArtifactError, match=r"00001\.h5 is damaged"):
        Bank.open(copied)


def test_what_is_no_bank(built: Path, copied: Path) -> None:
    with pytest.raises(ArtifactError, match="no such artifact"):
        Bank.open(built.with_name("y"))
    with pytest.raises(ArtifactError, match="no finished artifact"):
        Bank.open(built / "shards")
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps({**manifest, "format": "rgs/index@1"}))
    with pytest.raises(ArtifactError, match="this is an index, not a bank"):
        Bank.open(copied)


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.skipif("RGS_REAL_DATA" not in os.environ, reason="RGS_REAL_DATA is not set")
@pytest.mark.parametrize("pack", ["camvid", "cmp_facades", "coco_panoptic"])
def test_banks_of_real_photos_tile_their_label_maps(tmp_path: Path, pack: str) -> None:
    data = Path(os.environ["RGS_REAL_DATA"]) / pack
    config = build_bank.BuildBank.model_validate(
        {"split": "val", "decompose": {"preserved_ratio": 1.0}, "shard_sources": 16}
    )
    made = build_bank.run(config, data=data, out=tmp_path / "x", jobs=2)
    assert made.statistics["bad"] == []
    bank, dataset = Bank.open(made.path), open_dataset(data)
    for record in dataset.records("val")[::9]:
        scene = dataset.read(record)
        assert scene.image is not None and scene.labels is not None
        shown, classes = np.zeros_like(scene.image), np.full(scene.labels.shape, -1)
        for row in bank.rows_of_source(record.id):
            x, y, w, h = bank.boxes[row]
            classes[y : y + h, x : x + w][bank.mask(row)] = bank.categories[row]
            shown[y : y + h, x : x + w] += bank.crop(row)
        np.testing.assert_array_equal(classes, scene.labels)
        np.testing.assert_array_equal(shown, scene.image * (scene.labels >= 0)[..., None])
