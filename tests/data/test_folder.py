from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipelines.data.folder import open_folder, read_classes
from pipelines.data.open import open_dataset
from pipelines.data.scene import Category, SceneObject, Schema
from pipelines.errors import ConfigError, DataError

from .trees import (
    CAR,
    CLASSES,
    IDS,
    NONE,
    PERSON,
    REAL,
    SKY,
    photo,
    real,
    scene_layers,
    write_folder,
    write_json,
    write_map,
    write_picture,
)


@pytest.mark.parametrize("encoding", ["class1000", "index", None])
def test_scenes_read_as_written(tmp_path: Path, encoding: str | None) -> None:
    dataset = open_dataset(write_folder(tmp_path, encoding))
    assert dataset.format == "folder" and dataset.splits() == ["train", "val"]
    assert [record.id for record in dataset.records()] == ["train/a", "train/b", "val/a", "val/b"]
    assert [record.id for record in dataset.records("val")] == ["val/a", "val/b"]
    assert dataset.schema.names == ["sky", "road", "car", "person"] and dataset.schema.ignored == (9,)
    for number, record in enumerate(pickle.loads(pickle.dumps(dataset)).records()):
        labels, instances = scene_layers(number)
        scene = dataset.read(record)
        assert np.array_equal(scene.image, photo(number))
        assert scene.labels.dtype == np.int16 and np.array_equal(scene.labels, labels)
        if encoding is None:
            assert scene.instances is None
        else:
            stored = np.where(instances > 0, IDS[labels] * 1000 + instances, 0)
            assert scene.instances.dtype == np.int32
            assert np.array_equal(scene.instances, stored if encoding == "class1000" else instances)


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.integers(-5, 70_000), min_size=2, max_size=12, unique=True),
    arrays(np.uint8, (3, 5), elements=st.integers(0, 250)),
)
def test_label_ids_map_to_indices_and_back(ids: list[int], places: np.ndarray) -> None:
    *classes, ignored = ids
    schema = Schema(tuple(Category(label, f"c{label}", (0, 0, 0), False) for label in classes), (ignored,))
    values = np.array(ids)[places % len(ids)]
    indices = schema.indices(values, "here")
    assert indices.dtype == np.int16
    assert ((indices == NONE) == (values == ignored)).all()
    assert (schema.ids[indices] == values)[indices >= 0].all()
    with pytest.raises(DataError, match="label id 70001 is outside the classes"):
        schema.indices(np.where(places == places[0, 0], 70_001, values), "here")


def test_partners_that_are_missing_are_named_on_reading(tmp_path: Path) -> None:
    write_folder(tmp_path)
    for gone in ("train/label/a.png", "train/img/b.png", "val/inst/a.png"):
        (tmp_path / gone).unlink()
    dataset = open_dataset(tmp_path)
    missing = {}
    for record in dataset.records():
        try:
            dataset.read(record)
        except DataError as error:
            missing[record.id] = (error.where, error.what)
    assert missing == {
        "train/a": (str(tmp_path / "train/label/a.png"), "the file is missing"),
        "train/b": (str(tmp_path / "train/img/b.jpg"), "the file is missing"),
        "val/a": (str(tmp_path / "val/inst/a.png"), "the file is missing"),
    }


def test_a_split_may_lack_photos_or_labels(tmp_path: Path) -> None:
    write_folder(tmp_path, None)
    for split, kind in (("train", "img"), ("val", "label")):
        for path in (tmp_path / split / kind).iterdir():
            path.unlink()
        (tmp_path / split / kind).rmdir()
    dataset = open_dataset(tmp_path)
    train, val = (dataset.read(dataset.records(split)[0]) for split in ("train", "val"))
    assert train.image is None and train.labels is not None
    assert val.image is not None and val.labels is None and val.instances is None


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_picture(tmp_path / "train/img/a.png", photo(0, 24, 30))
    write_map(tmp_path / "train/inst/b.png", np.zeros((20, 32), int))
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match="the label map is 32x24 but the image is 30x24") as error:
        dataset.read(dataset.records()[0])
    assert error.value.where == str(tmp_path / "train/label/a.png")
    with pytest.raises(DataError, match="the instance map is 32x20 but the label map is 32x24"):
        dataset.read(dataset.records()[1])


def test_repeated_stems_are_a_fault_of_their_scene(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_picture(tmp_path / "val/img/a.jpg", photo(2))
    dataset = open_dataset(tmp_path)
    with pytest.raises(DataError, match=r"the stem 'a' repeats: a.jpg and a.png"):
        dataset.read(dataset.records("val")[0])
    dataset.read(dataset.records("val")[1])


def annotated(root: Path, **changes: Any) -> Path:
    """The dataset with instances by index and annotations of train/a."""
    write_folder(root, "index")
    classes = json.loads((root / "classes.json").read_text())
    write_json(root / "classes.json", {**classes, "predicates": ["left of", "above"]})
    entry = {
        "file": "a.png",
        "width": 32,
        "height": 24,
        "license": "CC BY 2.0",
        "captions": ["a street"],
        "objects": [
            {"index": 5, "class_id": 4, "bbox": [0, 0, 32, 12]},
            {"index": 2, "class_id": 2, "bbox": [18, 14, 9, 5], "iscrowd": 1},
            {"index": 9, "class_id": 9, "bbox": [0, 0, 3, 3]},
            {"index": 3, "class_id": 3, "bbox": [12, 10, 3, 8]},
        ],
        "graph": {"objects": [3, 9, 5], "triples": [[2, "above", 0], [1, "above", 0], [0, "left of", 2]]},
    }
    write_json(root / "annotations_train.json", {"images": [{**entry, **changes}]})
    return root


def test_annotations_give_objects_relations_and_licence(tmp_path: Path) -> None:
    dataset = open_dataset(annotated(tmp_path))
    record = dataset.records()[0]
    assert record.objects == (
        SceneObject(SKY, (0, 0, 32, 12)),
        SceneObject(CAR, (18, 14, 9, 5), crowd=True),
        SceneObject(PERSON, (12, 10, 3, 8), instance=3),
    )
    assert record.relations == ((0, 1, 2), (2, 0, 0))  # the triple of the ignored object is gone
    assert dataset.schema.relations == ("left of", "above")
    assert record.licence == "CC BY 2.0" and record.extra["captions"] == ["a street"]
    assert sorted(np.unique(dataset.read(record).instances)) == [0, 1, 3]  # the crowd is no instance
    assert dataset.records()[1].objects == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objects": [{"index": 1, "class_id": 7, "bbox": [0, 0, 1, 1]}]}, "class_id 7 is outside the classes"),
        ({"objects": [{"index": 1, "class_id": 2, "bbox": [0, 0, 1]}]}, "not enough values"),
        ({"objects": [{"index": 1, "class_id": 2, "bbox": [0, 0, -1, 1]}]}, "is no box"),
        ({"objects": [{"index": 1, "class_id": 2}]}, "'bbox' is missing"),
        ({"objects": [{"index": "1", "class_id": 2, "bbox": [0, 0, 1, 1]}]}, "'1' is no integer"),
        ({"objects": None}, "NoneType"),
        ({"graph": {"objects": [3], "triples": [[0, "near", 0]]}}, "'near' is not among the predicates"),
        ({"graph": {"objects": [3], "triples": [[0, "above", 4]]}}, "out of range"),
    ],
)
def test_wrong_annotations_are_the_fault_of_their_scene(tmp_path: Path, changes: dict[str, Any], reason: str) -> None:
    dataset = open_dataset(annotated(tmp_path, **changes))
    with pytest.raises(DataError, match=reason) as error:
        dataset.read(dataset.records()[0])
    assert error.value.where == str(tmp_path / "annotations_train.json")
    dataset.read(dataset.records()[1])


def test_annotations_of_another_size_are_refused(tmp_path: Path) -> None:
    dataset = open_dataset(annotated(tmp_path, width=64, height=48))
    with pytest.raises(DataError, match="the annotations say 64x48 but the picture is 32x24"):
        dataset.read(dataset.records()[0])


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", "link.png", "sub/../../../up.png"])
def test_sidecars_cannot_lead_out_of_the_dataset(tmp_path: Path, name: str) -> None:
    root = annotated(tmp_path / "data", file=name)
    (tmp_path / "outside.png").write_bytes(b"")
    (root / "train/img/link.png").symlink_to(tmp_path / "outside.png")
    faults = open_dataset(root).faults
    assert [(fault.file, fault.kind) for fault in faults] == [(root / "annotations_train.json", "error")]
    assert "lies outside" in faults[0].reason


def test_a_folder_of_a_split_may_be_a_link(tmp_path: Path) -> None:
    root = annotated(tmp_path / "data")
    (root / "train/img").rename(tmp_path / "photos")
    (root / "train/img").symlink_to(tmp_path / "photos")
    dataset = open_dataset(root)
    assert not dataset.faults and dataset.read(dataset.records()[0]).image is not None


def test_domains_give_group_and_domain(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "domains.csv").write_text("split,id,sequence,domain\ntrain,a,s1,night\ntrain,b,s1,day\nval,c,s2,day\n")
    dataset = open_dataset(tmp_path)
    assert [(r.group, r.domain) for r in dataset.records()] == [("s1", "night"), ("s1", "day"), ("", ""), ("", "")]
    assert dataset.schema.domains == ("day", "night")
    assert [(f.file.name, f.kind) for f in dataset.faults] == [("domains.csv", "error")]
    assert "'val/c'" in dataset.faults[0].reason
    (tmp_path / "domains.csv").write_text("id,sequence\na,s1\n")
    with pytest.raises(DataError, match="the columns split are missing"):
        open_dataset(tmp_path)


def test_split_lists_are_compared_with_the_scenes(tmp_path: Path) -> None:
    write_folder(tmp_path)
    (tmp_path / "train.txt").write_text("a\nc\n")
    (tmp_path / "val.txt").write_text("a\n\nb\n")
    faults = open_dataset(tmp_path).faults
    assert [(fault.file.name, fault.kind) for fault in faults] == [("train.txt", "error"), ("train.txt", "warning")]
    assert "'train/c'" in faults[0].reason and "'train/b'" in faults[1].reason


def test_classes_json_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "classes.json"
    entries = [{k: v for k, v in c.items() if k != "color"} for c in CLASSES]
    write_json(path, {"classes": [*entries, {"id": 9, "name": "void", "thing": False}], "ignored": [9, 200]})
    schema, encoding = read_classes(path)
    assert encoding is None and schema.ignored == (9, 200) and schema.names == ["sky", "road", "car", "person"]
    assert len({category.color for category in schema.classes}) == 4
    assert schema == read_classes(path)[0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("[1", "no valid JSON"),
        ("[]", "not laid out"),
        ("{}", "'classes' is missing"),
        ('{"classes": []}', "no classes"),
        ('{"classes": [{"id": 1, "name": "a", "thing": 1}]}', "class number 0 is wrong .thing is neither"),
        ('{"classes": [{"name": "a", "thing": true}]}', "'id' is missing"),
        ('{"classes": [{"id": true, "name": "a", "thing": true}]}', "True is no integer"),
        ('{"classes": [{"id": 1, "name": "a", "thing": true, "color": [0, 0, 256]}]}', "no color"),
        ('{"classes": [{"id": 1, "name": "a", "thing": true}, {"id": 1, "name": "b", "thing": true}]}', "two classes"),
        ('{"classes": [{"id": 1, "name": "a", "thing": true}], "inst_encoding": "rgb"}', "'rgb' is unknown"),
        ('{"classes": [{"id": 0, "name": "a", "thing": true}], "inst_encoding": "class1000"}', "cannot encode"),
    ],
)
def test_wrong_classes_json_is_refused(tmp_path: Path, data: str, reason: str) -> None:
    (tmp_path / "classes.json").write_text(data)
    with pytest.raises(DataError, match=reason) as error:
        read_classes(tmp_path / "classes.json")
    assert str(tmp_path / "classes.json") in (error.value.where or "")


def test_an_instance_folder_needs_its_encoding(tmp_path: Path) -> None:
    write_folder(tmp_path, "index")
    write_json(tmp_path / "classes.json", {"classes": CLASSES, "ignored": [9]})
    with pytest.raises(DataError, match="inst_encoding is missing"):
        open_folder(tmp_path)


def test_formats_are_recognized_or_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no dataset is recognized") as error:
        open_dataset(tmp_path)
    assert "classes.json" in (error.value.fix or "") and "gtFine" in (error.value.fix or "")
    with pytest.raises(ConfigError, match="no dataset format 'voc'"):
        open_dataset(tmp_path, "voc")
    with pytest.raises(DataError, match="not there"):
        open_dataset(tmp_path / "none")
    write_folder(tmp_path)
    (tmp_path / "gtFine").mkdir()
    with pytest.raises(DataError, match="several formats fit: folder, cityscapes"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, "folder").format == "folder"
    with pytest.raises(DataError, match="not laid out as ade20k"):
        open_dataset(tmp_path, "ade20k")


def test_records_of_a_split_or_of_a_list(tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path / "data"))
    with pytest.raises(ConfigError, match="there is no split 'test'") as error:
        dataset.records("test")
    assert error.value.fix == "splits here: train, val"
    listing = tmp_path / "some.txt"
    listing.write_text("val/b\ntrain/a\n")
    assert [record.id for record in dataset.records(str(listing))] == ["train/a", "val/b"]
    listing.write_text("val/b\nval/z\n")
    with pytest.raises(DataError, match="'val/z'"):
        dataset.records(str(listing))


@real
@pytest.mark.parametrize(
    ("pack", "train", "val", "classes", "ignored"),
    [
        ("camvid", 367, 101, 11, (11,)),
        ("cmp_facades", 400, 100, 12, ()),
        ("coco_panoptic", 100, 70, 133, (255,)),
        ("coco_instances", 160, 119, 80, (255,)),
    ],
)
def test_the_packs_open(pack: str, train: int, val: int, classes: int, ignored: tuple[int, ...]) -> None:
    dataset = open_dataset(REAL / pack)
    assert dataset.format == "folder" and not dataset.faults
    assert (len(dataset.records("train")), len(dataset.records("val"))) == (train, val)
    assert (len(dataset.schema.classes), dataset.schema.ignored) == (classes, ignored)
    records = dataset.records()
    assert [r.id for r in records] == sorted(r.id for r in records)
    for record in records[::40]:
        scene = dataset.read(record)
        assert scene.image is not None and scene.labels is not None and scene.instances is not None
        assert (scene.image.dtype, scene.labels.dtype, scene.instances.dtype) == (np.uint8, np.int16, np.int32)
        assert scene.image.shape[:2] == scene.labels.shape == scene.instances.shape
        assert dataset.schema.things[scene.labels[scene.instances > 0]].all()
        assert (scene.labels[scene.instances > 0] >= 0).all()
        for item in record.objects:
            if item.instance:
                assert (scene.labels[scene.instances == item.instance] == item.category).all()


@real
def test_the_packs_keep_groups_domains_graphs_and_licences() -> None:
    camvid = open_dataset(REAL / "camvid")
    assert camvid.schema.domains == ("day", "dusk")
    assert sum(record.domain == "dusk" for record in camvid.records("train")) == 62
    panoptic = open_dataset(REAL / "coco_panoptic")
    record = next(r for r in panoptic.records() if r.id == "val/000000000724")
    names = panoptic.schema.names
    triples = [
        (names[record.objects[s].category], panoptic.schema.relations[p], names[record.objects[o].category])
        for s, p, o in record.relations
    ]
    assert record.licence == "CC BY-NC-SA 2.0"
    assert triples[:2] == [("dirt-merged", "surrounding", "stop sign"), ("dirt-merged", "above", "tree-merged")]
