from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from pipelines.data.cityscapes import CITYSCAPES
from pipelines.data.open import open_dataset
from pipelines.data.pixels import read_image, read_index_map
from pipelines.errors import DataError

from .trees import REAL, photo, real, write_map, write_picture

LABELS = np.array([[23, 23, 7, 7], [26, 26, 26, 24], [0, 1, 21, 24]])
INSTANCES = np.array([[23, 23, 7, 7], [26000, 26001, 26, 24000], [0, 1, 21, 24000]])


def write_cityscapes(root: Path) -> Path:
    for split, city, name in (
        ("train", "aachen", "aachen_000001_000019"),
        ("train", "bochum", "bochum_000000_000313"),
        ("val", "lindau", "lindau_000001_000019"),
    ):
        write_picture(root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png", photo(1, 3, 4))
        write_map(root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png", LABELS)
        write_map(root / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png", INSTANCES)
        write_picture(root / "gtFine" / split / city / f"{name}_gtFine_color.png", photo(2, 3, 4))
        (root / "gtFine" / split / city / f"{name}_gtFine_polygons.json").write_text("{}")
    return root


def test_the_classes_are_the_35_label_ids() -> None:
    assert len(CITYSCAPES.classes) == 35 and CITYSCAPES.ids.tolist() == [*range(34), -1]
    assert CITYSCAPES.ids[CITYSCAPES.things].tolist() == list(range(24, 34))
    assert CITYSCAPES.names[26] == "car" and CITYSCAPES.names[7] == "road"


def test_labels_and_instances(tmp_path: Path) -> None:
    dataset = open_dataset(write_cityscapes(tmp_path))
    assert dataset.format == "cityscapes" and dataset.splits() == ["train", "val"] and not dataset.faults
    assert [(record.id, record.group) for record in dataset.records()] == [
        ("train/aachen_000001_000019", "aachen_000001"),
        ("train/bochum_000000_000313", "bochum_000000"),
        ("val/lindau_000001_000019", "lindau_000001"),
    ]
    scene = dataset.read(dataset.records()[0])
    assert np.array_equal(scene.image, photo(1, 3, 4))
    assert np.array_equal(scene.labels, LABELS)
    assert np.array_equal(scene.instances, np.where(INSTANCES >= 1000, INSTANCES, 0))


def test_faults_name_their_file(tmp_path: Path) -> None:
    write_cityscapes(tmp_path)
    (tmp_path / "leftImg8bit/train/aachen/aachen_000001_000019_leftImg8bit.png").unlink()
    swapped = tmp_path / "gtFine/train/bochum/bochum_000000_000313_gtFine_instanceIds.png"
    write_map(swapped, np.where(INSTANCES == 26000, 27000, INSTANCES))
    (tmp_path / "gtFine/val/lindau/lindau_000001_000019_gtFine_labelIds.png").unlink()
    dataset = open_dataset(tmp_path)
    for record, reason, where in zip(
        dataset.records(),
        ("missing", "instance 27000 is of the class id 27 but lies on car", "missing"),
        ("aachen_000001_000019_leftImg8bit.png", swapped.name, "lindau_000001_000019_gtFine_labelIds.png"),
        strict=True,
    ):
        with pytest.raises(DataError, match=reason) as error:
            dataset.read(record)
        assert Path(error.value.where or "").name == where


@real
def test_the_original_tree_of_real_samples(tmp_path: Path) -> None:
    pack = REAL / "format_samples/cityscapes"
    for split, folder in (("train", "train"), ("val", "val_labels_only")):
        for path in sorted((pack / folder / "label").iterdir()):
            city = path.stem.split("_")[0]
            target = tmp_path / "gtFine" / split / city
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target / f"{path.stem}_gtFine_labelIds.png")
            shutil.copy(pack / folder / "inst" / path.name, target / f"{path.stem}_gtFine_instanceIds.png")
            if split == "train":
                rgb = read_image(pack / "train/img" / f"{path.stem}.jpg")
                write_picture(tmp_path / "leftImg8bit/train" / city / f"{path.stem}_leftImg8bit.png", rgb)
    dataset = open_dataset(tmp_path)
    assert (len(dataset.records("train")), len(dataset.records("val"))) == (8, 15)
    for record in dataset.records()[::4]:
        scene = dataset.read(record)
        stored = read_index_map(record.instances).astype(int)
        assert (scene.image is None) == (record.split == "val")
        assert scene.labels.shape == (512, 1024)
        assert np.array_equal(CITYSCAPES.ids[scene.labels], read_index_map(record.labels))
        assert np.array_equal(scene.instances, np.where(stored >= 1000, stored, 0))
        assert np.array_equal(CITYSCAPES.things[scene.labels] & (stored >= 1000), scene.instances > 0)
