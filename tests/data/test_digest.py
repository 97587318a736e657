"""The digest of a dataset follows all that a reader can see, and nothing else."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipelines.data.digest import dataset_digest, record_digests
from pipelines.data.listing import Layers, ListedDataset
from pipelines.data.open import open_dataset
from pipelines.data.scene import Category, SceneObject, SceneRecord, Schema
from pipelines.errors import DataError
from tests.bank.photos import write_dataset

SCHEMA = Schema((Category(1, "sky", (0, 0, 0), False), Category(2, "car", (9, 9, 9), True)))


@dataclass(frozen=True)
class Outline:
    category: int
    points: list[float] = field(default_factory=list)


def read_nothing(*_: Any, **__: Any) -> Layers:
    return None, None


def dataset(root: Path, *records: SceneRecord, outlines: dict[str, list[Outline]], setting: str = "a") -> ListedDataset:
    decode = partial(read_nothing, outlines, SCHEMA, setting=setting)
    return ListedDataset("made", root, SCHEMA, records, decode)


@pytest.fixture
def base(tmp_path: Path) -> ListedDataset:
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(name.encode())
    records = (
        SceneRecord("t/1", "t", tmp_path / "1.png", group="g", objects=(SceneObject(1, (0.0, 1.0, 2.0, 3.0)),)),
        SceneRecord("t/2", "t", tmp_path / "2.png", extra={"captions": ["one", "two"]}),
    )
    return dataset(tmp_path, *records, outlines={"t/1": [Outline(1, [0.5, 2])], "t/2": []})


@pytest.mark.parametrize(
    "change",
    [
        {"group": "h"},
        {"licence": "CC0"},
        {"domain": "night"},
        {"objects": (SceneObject(1, (0.0, 1.0, 2.0, 4.0)),)},
        {"relations": ((0, 0, 0),)},
        {"extra": {"captions": ["one"]}},
        {"labels": Path("nowhere.png")},
    ],
)
def test_whatever_a_record_says_counts_for_it_alone(base: ListedDataset, change: dict[str, Any]) -> None:
    before = record_digests(base, base.listed)
    changed = replace(base, listed=(replace(base.listed[0], **change), base.listed[1]))
    after = record_digests(changed, changed.listed)
    assert after["t/1"] != before["t/1"] and after["t/2"] == before["t/2"]
    assert dataset_digest(changed, changed.listed) != dataset_digest(base, base.listed)


def test_pixels_count(base: ListedDataset, tmp_path: Path) -> None:
    before = record_digests(base, base.listed)
    (tmp_path / "2.png").write_bytes(b"other")
    after = record_digests(base, base.listed)
    assert after["t/2"] != before["t/2"] and after["t/1"] == before["t/1"]
    (tmp_path / "2.png").unlink()
    assert record_digests(base, base.listed)["t/2"] not in (before["t/2"], after["t/2"])


def test_what_only_the_reader_knows_counts_as_well(base: ListedDataset, tmp_path: Path) -> None:
    before = record_digests(base, base.listed)
    moved = dataset(tmp_path, *base.listed, outlines={"t/1": [Outline(1, [0.5, 3])], "t/2": []})
    after = record_digests(moved, moved.listed)
    assert after["t/1"] != before["t/1"] and after["t/2"] == before["t/2"]
    other = dataset(tmp_path, *base.listed, outlines={"t/1": [Outline(1, [0.5, 2])], "t/2": []}, setting="b")
    assert all(record_digests(other, other.listed)[name] != before[name] for name in before)


def test_places_and_order_do_not_count(base: ListedDataset, tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    for name in ("1.png", "2.png"):
        shutil.copy(tmp_path / name, there / name)
    records = [replace(r, image=there / r.image.name, split="elsewhere") for r in base.listed if r.image is not None]
    moved = replace(base, root=there, listed=tuple(reversed(records)))
    assert dataset_digest(moved, moved.listed, threads=1) == dataset_digest(base, base.listed, threads=3)


def test_an_id_that_repeats(base: ListedDataset) -> None:
    with pytest.raises(DataError, match="two scenes have the id 't/1'"):
        record_digests(base, [base.listed[0], base.listed[0]])


def test_a_fault_is_told_without_its_place(tmp_path: Path) -> None:
    digests = []
    for place in ("a", "b"):
        data = write_dataset(tmp_path / place, [1, 2])
        shutil.copy(data / "train/img/0001.png", data / "train/img/0001.jpg")  # a stem that repeats
        opened = open_dataset(data)
        assert "fault" in opened.listed[0].extra
        digests.append(dataset_digest(opened, opened.listed))
    assert digests[0] == digests[1]
