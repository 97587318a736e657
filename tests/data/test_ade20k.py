from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.data.ade20k import NAMES, THINGS
from pipelines.data.instances import connected_instances
from pipelines.data.open import open_dataset
from pipelines.data.pixels import read_index_map
from pipelines.errors import DataError

from .trees import REAL, photo, real, write_map, write_picture

MAPPING = {1: 13, 2: 21, 3: 8}  # person, car, bed
NUMBERS = [
    [0, 0, 0, 0, 0, 0],
    [1, 1, 2, 2, 0, 0],
    [1, 1, 2, 2, 2, 0],
]
CATEGORIES = [
    [0, 0, 0, 0, 0, 0],
    [1, 1, 2, 2, 2, 0],
    [1, 1, 2, 2, 2, 0],
]
LABELS = [
    [3, 3, 3, 3, 3, 0],
    [13, 13, 21, 21, 21, 0],
    [13, 7, 21, 21, 21, 0],
]


def write_ade(root: Path, with_instances: bool = True) -> Path:
    for folder, stem in (("training", "ADE_train_00000001"), ("validation", "ADE_val_00000001")):
        write_picture(root / "images" / folder / f"{stem}.png", photo(1, 3, 6))
        write_map(root / "annotations" / folder / f"{stem}.png", np.array(LABELS))
        if with_instances:
            coded = np.dstack([CATEGORIES, NUMBERS, np.full((3, 6), 77)]).astype(np.uint8)
            write_picture(root / "annotations_instance" / folder / f"{stem}.png", coded)
    if with_instances:
        lines = ["Instance_id\tScene_id\tname", *(f"{a}\t{b}\t{NAMES[b - 1]}" for a, b in MAPPING.items())]
        (root / "categoryMapping.txt").write_text("\n".join(lines))
    return root


def test_labels_and_instances(tmp_path: Path) -> None:
    dataset = open_dataset(write_ade(tmp_path))
    assert dataset.format == "ade20k" and dataset.schema.ignored == (0,)
    assert [record.id for record in dataset.records()] == ["train/ADE_train_00000001", "val/ADE_val_00000001"]
    assert len(dataset.schema.classes) == 150 and dataset.schema.ids[dataset.schema.things].tolist() == [8, 13, 21]
    scene = dataset.read(dataset.records()[0])
    assert np.array_equal(scene.image, photo(1, 3, 6))
    assert np.array_equal(scene.labels, np.array(LABELS) - 1)
    person, car = 256 + 1, 2 * 256 + 2
    # the person's pixel that is labelled road and the car's that has no number are in no instance
    assert scene.instances.tolist() == [[0] * 6, [person, person, car, car, 0, 0], [person, 0, car, car, car, 0]]


def test_without_instance_maps_the_benchmarks_things_are_things(tmp_path: Path) -> None:
    dataset = open_dataset(write_ade(tmp_path, False))
    assert len(THINGS) == len(set(THINGS)) == 100 and len(set(NAMES)) == 150
    things = {category.name for category in dataset.schema.classes if category.thing}
    assert {"person", "car", "bed", "flag"} <= things and not {"wall", "sky", "road", "tree", "sea"} & things
    assert dataset.read(dataset.records()[0]).instances is None


def test_object_info_names_the_classes(tmp_path: Path) -> None:
    write_ade(tmp_path)
    rows = [f"{i}\t0.1\t1\t1\tclass {i}, other" for i in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(["Idx\tRatio\tTrain\tVal\tName", *rows]))
    assert open_dataset(tmp_path).schema.names == [f"class {i}" for i in range(1, 151)]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(rows[:100]))
    with pytest.raises(DataError, match="100 numbered classes"):
        open_dataset(tmp_path)


def test_faults_name_their_file(tmp_path: Path) -> None:
    write_ade(tmp_path)
    mapping = tmp_path / "categoryMapping.txt"
    mapping.write_text("1 13\n3 8\n")
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"the instance category 2 is not in categoryMapping.txt \(5 px\)") as error:
        dataset.read(dataset.records()[0])
    assert error.value.where == str(tmp_path / "annotations_instance/training/ADE_train_00000001.png")
    mapping.write_text("1 13\n1 8\n")
    with pytest.raises(DataError, match="'1 8'"):
        open_dataset(tmp_path)
    mapping.unlink()
    with pytest.raises(DataError, match="no table of what their categories are"):
        open_dataset(tmp_path)
    mapping.write_text("1 13\n2 21\n")
    write_map(tmp_path / "annotations_instance/validation/ADE_val_00000001.png", np.zeros((3, 6), int))
    (tmp_path / "annotations/training/ADE_train_00000001.png").unlink()
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match="three channels"):
        dataset.read(dataset.records()[1])
    with pytest.raises(DataError, match="missing"):
        dataset.read(dataset.records()[0])


@real
def test_the_original_tree_of_real_samples(tmp_path: Path) -> None:
    pack = REAL / "format_samples/ade20k"
    (tmp_path / "categoryMapping.txt").write_text("".join(f"{i} {label}\n" for i, label in enumerate(THINGS, 1)))
    category = np.zeros(151, dtype=np.uint8)
    category[list(THINGS)] = np.arange(1, 101)
    for split, folder in (("train", "training"), ("val", "validation")):
        for kind, name in (("img", "images"), ("label", "annotations")):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / folder).symlink_to(pack / split / kind)
    plain = open_dataset(tmp_path)
    assert (len(plain.records("train")), len(plain.records("val"))) == (6, 6)
    expected = {}
    for record in plain.records():  # instances in ADE's form: components, numbered from 1, at most 255
        labels = plain.read(record).labels
        numbers = connected_instances(labels, plain.schema)
        numbers[numbers > 255] = 0
        stem = record.id.split("/")[1]
        folder = "training" if record.split == "train" else "validation"
        path = tmp_path / "annotations_instance" / folder / f"{stem}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = read_index_map(record.labels)
        coded = np.dstack([np.where(numbers > 0, category[ids], 0), numbers, numbers * 0]).astype(np.uint8)
        Image.fromarray(coded).save(path)
        expected[record.id] = numbers
    dataset = open_dataset(tmp_path)
    for record in dataset.records():
        scene = dataset.read(record)
        assert scene.image.shape[:2] == scene.labels.shape
        ids = read_index_map(record.labels).astype(int)
        assert np.array_equal(scene.labels, ids - 1)
        stored = np.where(expected[record.id] > 0, category[ids].astype(int) * 256 + expected[record.id], 0)
        assert np.array_equal(scene.instances, stored)
