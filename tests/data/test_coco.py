from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as coco_mask

from pipelines.data.coco import STUFF_NAMES
from pipelines.data.coco_masks import segment_mask
from pipelines.data.open import open_dataset
from pipelines.data.pixels import read_image, read_index_map
from pipelines.errors import ConfigError, DataError

from .trees import REAL, photo, real, write_json, write_map, write_picture

HEIGHT, WIDTH = 24, 32
CATEGORIES = [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}, {"id": 44, "name": "bottle"}]


def box_mask(x: int, y: int, w: int, h: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + h, x : x + w] = True
    return mask


def polygon(x: int, y: int, w: int, h: int) -> list[list[int]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def rle(mask: np.ndarray) -> dict[str, Any]:
    """The compressed form, by pycocotools."""
    coded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(coded["size"]), "counts": coded["counts"].decode()}


def counts(mask: np.ndarray) -> dict[str, Any]:
    """The uncompressed form, by definition: lengths of runs down the columns, zeros first."""
    runs, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return {"size": list(mask.shape), "counts": runs}


def annotation(number: int, category: int, segmentation: Any, box: tuple[int, ...], crowd: int = 0) -> dict[str, Any]:
    return {
        "id": number,
        "image_id": 7,
        "category_id": category,
        "iscrowd": crowd,
        "bbox": list(box),
        "segmentation": segmentation,
    }


def coco_json(annotations: list[dict[str, Any]], categories: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {
        "licenses": [{"id": 4, "name": "Attribution License", "url": "http://creativecommons.org/licenses/by/2.0/"}],
        "images": [
            {"id": 7, "file_name": "000000000007.png", "height": HEIGHT, "width": WIDTH, "license": 4},
            {"id": 9, "file_name": "000000000009.png", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": categories or CATEGORIES,
        "annotations": annotations,
    }


STREET = [
    annotation(50, 3, polygon(2, 4, 12, 10), (2, 4, 12, 10)),  # a car
    annotation(60, 1, rle(box_mask(6, 6, 3, 5)), (6, 6, 3, 5)),  # a person before it, smaller
    annotation(20, 1, counts(box_mask(0, 0, 32, 20)), (0, 0, 32, 20), 1),  # a crowd behind all
]


def write_coco(root: Path, annotations: list[dict[str, Any]] = STREET, images: str = "train2017") -> Path:
    write_json(root / "annotations/instances_train2017.json", coco_json(annotations))
    for number in (7, 9):
        write_picture(root / images / f"{number:012}.png", photo(number))
    return root


def test_instances_are_painted_small_over_large_and_crowds_first(tmp_path: Path) -> None:
    dataset = open_dataset(write_coco(tmp_path))
    assert dataset.format == "coco" and dataset.splits() == ["train"] and dataset.schema.ignored == (0,)
    record, empty = dataset.records()
    assert (record.id, empty.id) == ("train/000000000007", "train/000000000009")
    assert record.licence == "Attribution License (http://creativecommons.org/licenses/by/2.0/)"
    assert [(item.instance, item.crowd) for item in record.objects] == [(0, True), (2, False), (3, False)]
    labels, instances = np.full((HEIGHT, WIDTH), -1), np.zeros((HEIGHT, WIDTH), int)
    for index, instance, mask in (
        (0, 0, box_mask(0, 0, 32, 20)),
        (1, 2, box_mask(2, 4, 12, 10)),
        (0, 3, box_mask(6, 6, 3, 5)),
    ):
        labels[mask], instances[mask] = index, instance
    scene = dataset.read(record)
    assert np.array_equal(scene.image, photo(7))
    assert scene.labels.dtype == np.int16 and np.array_equal(scene.labels, labels)
    assert scene.instances.dtype == np.int32 and np.array_equal(scene.instances, instances)
    blank = dataset.read(empty)
    assert (blank.labels == -1).all() and (blank.instances == 0).all()


def test_stuff_maps_give_classes_and_instances_keep_to_theirs(tmp_path: Path) -> None:
    write_coco(tmp_path, images="images/train2017")
    grass = 92 + STUFF_NAMES.index("grass")
    labels = np.full((HEIGHT, WIDTH), grass - 1)
    labels[4:14, 2:14] = 2  # the car's category id, less one
    labels[6:11, 6:8] = 0  # the person, a column narrower than annotated
    labels[20:] = 255
    for number in (7, 9):
        write_map(tmp_path / f"stuffthingmaps/train2017/{number:012}.png", labels)
    dataset = open_dataset(tmp_path)
    schema = dataset.schema
    assert len(schema.classes) == 182 and schema.ignored == (255,) and schema.things.sum() == 91
    assert (schema.names[0], schema.names[2], schema.names[grass - 1]) == ("person", "car", "grass")
    assert (schema.ids == np.arange(182)).all()
    scene = dataset.read(dataset.records()[0])
    assert np.array_equal(scene.labels, np.where(labels == 255, -1, labels))
    expected = np.where(box_mask(2, 4, 12, 10) & (labels == 2), 2, 0)
    expected[6:11, 6:8] = 3
    assert np.array_equal(scene.instances, expected)
    (tmp_path / "stuffthingmaps/train2017/000000000009.png").unlink()
    with pytest.raises(DataError, match="missing") as error:
        dataset.read(dataset.records()[1])
    assert error.value.where == str(tmp_path / "stuffthingmaps/train2017/000000000009.png")


def test_stuff_json_lies_under_the_things(tmp_path: Path) -> None:
    write_coco(tmp_path)
    stuff = [
        annotation(90, 124, rle(box_mask(0, 10, 32, 14)), (0, 10, 32, 14)),
        annotation(91, 183, rle(box_mask(0, 0, 32, 10)), (0, 0, 32, 10)),
    ]
    names = [{"id": 124, "name": "grass"}, {"id": 183, "name": "other"}]
    write_json(tmp_path / "annotations/stuff_train2017.json", coco_json(stuff, names))
    dataset = open_dataset(tmp_path)
    assert dataset.schema.names == ["person", "car", "bottle", "grass"]
    scene = dataset.read(dataset.records()[0])
    alone = open_dataset(tmp_path, "coco-instances")
    things = alone.read(alone.records()[0])
    under = (things.labels == -1) & box_mask(0, 10, 32, 14)
    assert under.any() and np.array_equal(scene.labels, np.where(under, 3, things.labels))
    assert np.array_equal(scene.instances, things.instances)
    assert len(scene.record.objects) == 3


def write_panoptic(root: Path) -> tuple[Path, np.ndarray]:
    """A panoptic tree of one image, and its segment numbers: sky, a crowd, two cars, void."""
    numbers = np.full((HEIGHT, WIDTH), 0x123456)
    numbers[10:] = 300
    numbers[12:16, 2:8], numbers[12:16, 12:20], numbers[:2] = 70_000, 70_001, 0
    colors = np.dstack([numbers % 256, numbers // 256 % 256, numbers // 65536]).astype(np.uint8)
    write_picture(root / "annotations/panoptic_val2017/7.png", colors)
    write_picture(root / "val2017/000000000007.png", photo(7))
    write_picture(root / "val2017/000000000009.png", photo(9))
    segments = [
        {"id": number, "category_id": category, "iscrowd": crowd, "bbox": [0, 0, 5, 5], "area": 1}
        for number, category, crowd in ((0x123456, 187, 0), (300, 1, 1), (70_000, 3, 0), (70_001, 3, 0))
    ]
    data = coco_json(
        [{"image_id": 7, "file_name": "7.png", "segments_info": segments}],
        [
            {"id": 1, "name": "person", "isthing": 1, "color": [220, 20, 60]},
            {"id": 3, "name": "car", "isthing": 1, "color": [0, 0, 142]},
            {"id": 187, "name": "sky", "isthing": 0, "color": [70, 130, 180]},
        ],
    )
    write_json(root / "annotations/panoptic_val2017.json", data)
    return root, numbers


def test_panoptic_segments(tmp_path: Path) -> None:
    root, numbers = write_panoptic(tmp_path)
    dataset = open_dataset(root)
    assert dataset.splits() == ["val"] and dataset.schema.ignored == (0,)
    assert dataset.schema.names == ["person", "car", "sky"] and dataset.schema.things.tolist() == [True, True, False]
    assert dataset.schema.palette[2].tolist() == [70, 130, 180]
    record, other = dataset.records()
    scene = dataset.read(record)
    of = {0: (-1, 0), 0x123456: (2, 0), 300: (0, 0), 70_000: (1, 3), 70_001: (1, 4)}
    assert np.array_equal(scene.labels, np.vectorize(lambda n: of[n][0])(numbers))
    assert np.array_equal(scene.instances, np.vectorize(lambda n: of[n][1])(numbers))
    assert [item.instance for item in record.objects] == [0, 0, 3, 4]
    with pytest.raises(DataError, match="has 0 annotations where panoptic JSON has one"):
        dataset.read(other)


def test_a_panoptic_segment_must_be_described(tmp_path: Path) -> None:
    root, _ = write_panoptic(tmp_path)
    path = root / "annotations/panoptic_val2017.json"
    data = json.loads(path.read_text())
    data["annotations"][0]["segments_info"].pop()
    write_json(path, data)
    dataset = open_dataset(root)
    with pytest.raises(DataError, match="segment 70001 is not in its segments_info") as error:
        dataset.read(dataset.records()[0])
    assert error.value.where == str(root / "annotations/panoptic_val2017/7.png")


def test_two_kinds_of_maps_are_asked_about(tmp_path: Path) -> None:
    write_panoptic(tmp_path)
    write_coco(tmp_path)
    assert open_dataset(tmp_path).splits() == ["val"]  # panoptic is richer than instances alone
    assert open_dataset(tmp_path, "coco-instances").splits() == ["train"]
    (tmp_path / "stuffthingmaps/train2017").mkdir(parents=True)
    with pytest.raises(ConfigError, match="panoptic and stuff maps"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, "coco-panoptic").splits() == ["val"]
    assert len(open_dataset(tmp_path, "coco-stuff").schema.classes) == 182


masks = arrays(np.bool_, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@settings(max_examples=150, deadline=None)
@given(masks)
def test_both_rle_forms_decode_as_pycocotools_does(mask: np.ndarray) -> None:
    assert np.array_equal(coco_mask.decode({"size": list(mask.shape), "counts": rle(mask)["counts"]}), mask)
    for form in (rle(mask), counts(mask)):
        decoded = segment_mask(form, *mask.shape, "here")
        assert decoded.dtype == bool and np.array_equal(decoded, mask)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(st.floats(-5, 40), min_size=6, max_size=12).filter(lambda p: len(p) % 2 == 0), max_size=3))
def test_polygons_decode_as_pycocotools_does(polygons: list[list[float]]) -> None:
    expected = np.zeros((HEIGHT, WIDTH), bool)
    for part in polygons:
        expected |= coco_mask.decode(coco_mask.frPyObjects([part], HEIGHT, WIDTH))[..., 0].astype(bool)
    assert np.array_equal(segment_mask(polygons, HEIGHT, WIDTH, "here"), expected)


@pytest.mark.parametrize(
    "segmentation",
    [
        {"size": [24, 32], "counts": [5]},
        {"size": [24, 32], "counts": []},
        {"size": [24, 32], "counts": ""},
        {"size": [24, 32], "counts": [0, 10**12]},
        {"size": [24, 32], "counts": [800, -100, 68]},
        {"size": [32, 24], "counts": [768]},
        {"size": [24, 32], "counts": "\x7f~"},
        {"size": [24, 32], "counts": "o" * 40},
        {"size": [24, 32], "counts": "é"},
        {"size": [24, 32]},
        {"counts": [768]},
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[0, 0, 1e9, 0, 1e9, 1e9]],
        [[0, 0, float("nan"), 0, 1, 1]],
        [["a", 0, 1, 1, 2, 2]],
        [5],
        "text",
        None,
    ],
)
def test_malformed_segmentations_are_refused(segmentation: Any) -> None:
    with pytest.raises(DataError, match="malformed"):
        segment_mask(segmentation, HEIGHT, WIDTH, "here")


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=30))
def test_any_counts_give_a_mask_or_a_data_error(text: str) -> None:
    with suppress(DataError):
        assert segment_mask({"size": [6, 5], "counts": text}, 6, 5, "here").shape == (6, 5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"category_id": 5}, "5 is missing or unknown"),
        ({"bbox": [1, 2]}, "not enough values"),
        ({"segmentation": {"size": [5, 5], "counts": [25]}}, "an RLE is of the size"),
    ],
)
def test_a_wrong_annotation_is_its_scenes_fault(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    dataset = open_dataset(write_coco(tmp_path, [{**STREET[0], **change}]))
    with pytest.raises(DataError, match=reason) as error:
        dataset.read(dataset.records()[0])
    assert "instances_train2017.json" in str(error.value.where) or "000000000007" in str(error.value.where)
    dataset.read(dataset.records()[1])


def test_entries_that_lead_nowhere_or_out_are_faults(tmp_path: Path) -> None:
    root = write_coco(tmp_path / "data")
    path = root / "annotations/instances_train2017.json"
    data = json.loads(path.read_text())
    data["annotations"].append({**STREET[0], "image_id": 5})
    data["images"] += [
        {"id": 10, "file_name": "../../../out.png", "height": 2, "width": 2},
        {"id": 11, "file_name": "000000000009.png", "height": 2, "width": 2},
        {"id": 12, "height": 2, "width": 2},
    ]
    write_json(path, data)
    dataset = open_dataset(root)
    assert len(dataset.records()) == 2
    for fault, part in zip(dataset.faults, ("lies outside", "repeats", "file_name", "image id 5"), strict=True):
        assert fault.file == path and part in fault.reason


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("annotations", None, "not laid out"),
        ("images", None, "not laid out"),
        ("categories", [{"name": "a"}], "the categories are wrong"),
    ],
)
def test_a_json_that_is_not_cocos_is_refused(tmp_path: Path, key: str, value: Any, reason: str) -> None:
    write_coco(tmp_path)
    path = tmp_path / "annotations/instances_train2017.json"
    write_json(path, {**json.loads(path.read_text()), key: value})
    with pytest.raises(DataError, match=reason) as error:
        open_dataset(tmp_path)
    assert error.value.where == str(path)


def test_splits_keep_their_year_only_where_they_must(tmp_path: Path) -> None:
    for name in ("train2014", "train2017", "val2017"):
        data = coco_json(STREET)
        write_json(tmp_path / f"annotations/instances_{name}.json", data)
    assert open_dataset(tmp_path).splits() == ["train2014", "train2017", "val"]
    write_json(tmp_path / "annotations/instances_val2017.json", coco_json([], CATEGORIES[:2]))
    with pytest.raises(DataError, match=r"its categories differ from those of instances_train2014.json"):
        open_dataset(tmp_path)


def real_coco(root: Path, form: str, count: int = 40) -> dict[str, Any]:
    """The original tree of coco_instances' val images, their segmentations in one of COCO's forms."""
    pack = REAL / "coco_instances"
    classes = {c["id"]: c for c in json.loads((pack / "classes.json").read_text())["classes"]}
    entries = json.loads((pack / "annotations_val.json").read_text())["images"][:count]
    (root / "images").mkdir(parents=True)
    (root / "images/val2017").symlink_to(pack / "val/img")
    annotations = []
    for entry in entries:
        stored = read_index_map(pack / "val/inst" / f"{Path(entry['file']).stem}.png")
        for item in entry["objects"]:
            segmentation = item.get("segmentation")
            if segmentation is None:  # a crowd, whose pixels are in the instance map alone
                segmentation = counts(stored == item["index"])
            elif form == "rle":
                parts = coco_mask.frPyObjects(segmentation, entry["height"], entry["width"])
                segmentation = rle(coco_mask.decode(coco_mask.merge(parts)))
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": entry["image_id"],
                    "category_id": classes[item["class_id"]]["coco_id"],
                    "iscrowd": item["iscrowd"],
                    "bbox": item["bbox"],
                    "segmentation": segmentation,
                }
            )
    data = {
        "images": [
            {"id": e["image_id"], "file_name": e["file"], "height": e["height"], "width": e["width"]} for e in entries
        ],
        "categories": [{"id": c["coco_id"], "name": c["name"]} for c in classes.values()],
        "annotations": annotations,
    }
    write_json(root / "annotations/instances_val2017.json", data)
    return data


@real
@pytest.mark.parametrize("form", ["polygons", "rle"])
def test_the_original_tree_of_coco_instances_reads_as_its_pack(tmp_path: Path, form: str) -> None:
    data = real_coco(tmp_path, form)
    dataset, pack = open_dataset(tmp_path), open_dataset(REAL / "coco_instances")
    assert len(dataset.records()) == len(data["images"]) and not dataset.faults
    assert dataset.schema.names == pack.schema.names
    twins = {record.id: record for record in pack.records("val")}
    same, pixels, crowds = 0, 0, 0
    for record in dataset.records():
        scene, twin = dataset.read(record), pack.read(twins[record.id])
        assert np.array_equal(scene.image, twin.image)
        same += int((scene.labels == twin.labels).sum()) + int((scene.instances == twin.instances).sum())
        pixels += 2 * scene.labels.size
        crowds += sum(item.crowd for item in record.objects)
        assert [i.instance for i in record.objects] == [i.instance for i in twins[record.id].objects]
    assert crowds > 0
    assert same / pixels > 0.99  # the pack was rasterized before it was made smaller


@real
def test_the_original_tree_of_coco_stuff(tmp_path: Path) -> None:
    pack = REAL / "format_samples/coco_stuff"
    (tmp_path / "stuffthingmaps").mkdir()
    for split in ("train", "val"):
        (tmp_path / f"{split}2017").symlink_to(pack / split / "img")
        (tmp_path / f"stuffthingmaps/{split}2017").symlink_to(pack / split / "label")
        images, annotations = [], []
        for number, path in enumerate(sorted((pack / split / "label").iterdir())):
            labels, stored = read_index_map(path), read_index_map(pack / split / "inst" / path.name)
            images.append(
                {"id": number, "file_name": f"{path.stem}.jpg", "height": labels.shape[0], "width": labels.shape[1]}
            )
            for value in np.unique(stored).tolist():
                most = int(np.bincount(labels[stored == value]).argmax())
                if most != value and most <= 90:  # of an instance the value is its number, elsewhere the label
                    annotations.append(
                        {
                            "id": len(annotations),
                            "image_id": number,
                            "category_id": most + 1,
                            "iscrowd": 0,
                            "bbox": [0, 0, 1, 1],
                            "segmentation": rle(stored == value),
                        }
                    )
        categories = [{"id": i, "name": f"thing {i}"} for i in range(1, 92)]
        data = {"images": images, "categories": categories, "annotations": annotations}
        write_json(tmp_path / f"annotations/instances_{split}2017.json", data)
    dataset = open_dataset(tmp_path)
    assert (len(dataset.records("train")), len(dataset.records("val"))) == (13, 8)
    instances = 0
    for record in dataset.records():
        scene = dataset.read(record)
        labels = read_index_map(pack / record.split / "label" / f"{record.id.split('/')[1]}.png").astype(int)
        assert np.array_equal(scene.labels, np.where(labels == 255, -1, labels))
        assert np.array_equal(scene.image, read_image(record.image))
        for item in record.objects:
            mask = scene.instances == item.instance
            instances += mask.any()
            assert (scene.labels[mask] == item.category).all()
    assert instances > 100


@real
def test_the_original_tree_of_coco_panoptic_reads_as_its_pack(tmp_path: Path) -> None:
    pack = open_dataset(REAL / "coco_panoptic")
    classes = json.loads((REAL / "coco_panoptic/classes.json").read_text())["classes"]
    entries = json.loads((REAL / "coco_panoptic/annotations_val.json").read_text())["images"][:25]
    (tmp_path / "val2017").symlink_to(REAL / "coco_panoptic/val/img")
    annotations = []
    for entry in entries:
        stem = Path(entry["file"]).stem
        numbers = read_index_map(REAL / f"coco_panoptic/val/inst/{stem}.png").astype(int) * 70_001
        colors = np.dstack([numbers % 256, numbers // 256 % 256, numbers // 65536]).astype(np.uint8)
        write_picture(tmp_path / f"panoptic_val2017/{stem}.png", colors)
        segments = [
            {
                "id": item["index"] * 70_001,
                "category_id": classes[item["class_id"]]["coco_id"],
                "iscrowd": item["iscrowd"],
                "bbox": item["bbox"],
            }
            for item in entry["objects"]
        ]
        annotations.append({"image_id": entry["image_id"], "file_name": f"{stem}.png", "segments_info": segments})
    data = {
        "images": [
            {"id": e["image_id"], "file_name": e["file"], "height": e["height"], "width": e["width"]} for e in entries
        ],
        "annotations": annotations,
        "categories": [
            {"id": c["coco_id"], "name": c["name"], "isthing": int(c["thing"]), "color": c["color"]} for c in classes
        ],
    }
    write_json(tmp_path / "annotations/panoptic_val2017.json", data)
    dataset = open_dataset(tmp_path)
    assert dataset.schema.names == pack.schema.names and len(dataset.records()) == 25
    twins = {record.id: record for record in pack.records("val")}
    for record in dataset.records():
        scene, twin = dataset.read(record), pack.read(twins[record.id])
        assert np.array_equal(scene.labels, twin.labels)
        assert ((scene.instances > 0) == (twin.instances > 0)).all()
        assert len(np.unique(scene.instances)) == len(np.unique(twin.instances))
