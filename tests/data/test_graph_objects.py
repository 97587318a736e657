"""Objects of scenes: which there are (T2 of the specification), their boxes, and their centres by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipelines.data.objects import scene_objects
from pipelines.data.open import open_dataset
from pipelines.data.scene import Category, Scene, SceneObject, SceneRecord, Schema
from pipelines.errors import DataError

from .trees import REAL, real

SKY, ROAD, CAR = 0, 1, 2
SCHEMA = Schema(
    (Category(7, "sky", (1, 2, 3), False), Category(8, "road", (4, 5, 6), False), Category(9, "car", (7, 8, 9), True))
)


def a_scene(
    labels: np.ndarray | None = None,
    instances: np.ndarray | None = None,
    objects: tuple[SceneObject, ...] = (),
    size: tuple[int, int] | None = None,
) -> Scene:
    extra = {} if size is None else {"size": size}
    record = SceneRecord("train/a", "train", None, objects=objects, extra=extra)
    return Scene(record, None, labels, instances)


def test_exactly_the_least_area_is_too_small() -> None:
    objects = tuple(SceneObject(CAR, (0, 0, w, h)) for w, h in ((64, 96), (64, 96.1), (65, 96), (1, 6144)))
    found = scene_objects(a_scene(objects=objects, size=(480, 640)), SCHEMA, 0.02)
    assert [item.ordinal for item in found] == [1, 2]


def test_ordinals_do_not_depend_on_the_least_area() -> None:
    objects = tuple(SceneObject(CAR, (0, 0, 10, side)) for side in (1, 10, 2, 20))
    everything = scene_objects(a_scene(objects=objects, size=(100, 100)), SCHEMA, 0.0)
    large = scene_objects(a_scene(objects=objects, size=(100, 100)), SCHEMA, 0.005)
    assert [item.ordinal for item in everything] == [0, 1, 2, 3]
    assert large == [everything[1], everything[3]]


def test_annotated_objects_come_first_and_then_the_other_classes_of_the_map() -> None:
    labels = np.full((10, 20), SKY, dtype=np.int16)
    labels[5:] = ROAD
    labels[6:8, 2:5] = CAR
    labels[6:8, 10:15] = CAR
    instances = np.where(labels == CAR, 1, 0).astype(np.int32)
    instances[:, 9:] *= 2
    cars = (SceneObject(CAR, (10, 6, 5, 2), 2), SceneObject(CAR, (2, 6, 3, 2), 1))
    found = scene_objects(a_scene(labels, instances, cars), SCHEMA, 0.0)
    assert [(item.category, item.box, item.ordinal) for item in found] == [
        (CAR, (0.5, 0.6, 0.75, 0.8), 0),
        (CAR, (0.1, 0.6, 0.25, 0.8), 1),
        (SKY, (0.0, 0.0, 1.0, 0.5), 2),
        (ROAD, (0.0, 0.5, 1.0, 1.0), 3),
    ]


def test_where_nothing_is_annotated_the_instance_map_tells_the_things() -> None:
    labels = np.full((10, 20), SKY, dtype=np.int16)
    labels[6:8, 2:5] = CAR
    labels[6:8, 10:15] = CAR
    labels[0, 0] = CAR  # of no instance
    instances = np.zeros((10, 20), dtype=np.int32)
    instances[6:8, 10:15], instances[6:8, 2:5] = 3, 40
    found = scene_objects(a_scene(labels, instances), SCHEMA, 0.0)
    assert [(item.category, item.box) for item in found] == [
        (SKY, (0.0, 0.0, 1.0, 1.0)),
        (CAR, (0.5, 0.6, 0.75, 0.8)),
        (CAR, (0.1, 0.6, 0.25, 0.8)),
    ]
    without = scene_objects(a_scene(labels), SCHEMA, 0.0)
    assert [(item.category, item.box) for item in without] == [
        (SKY, (0.0, 0.0, 1.0, 1.0)),
        (CAR, (0.0, 0.0, 0.75, 0.8)),
    ]


def test_ignored_pixels_are_no_object() -> None:
    labels = np.full((4, 4), -1, dtype=np.int16)
    assert scene_objects(a_scene(labels), SCHEMA, 0.0) == []
    labels[0] = ROAD
    assert [item.category for item in scene_objects(a_scene(labels), SCHEMA, 0.0)] == [ROAD]


def test_boxes_are_clipped_and_those_outside_or_empty_are_left_out() -> None:
    objects = (
        SceneObject(CAR, (-10, -10, 20, 30)),
        SceneObject(CAR, (200, 0, 10, 10)),
        SceneObject(CAR, (5, 5, 0, 10)),
        SceneObject(CAR, (90, 40, 50, 50)),
    )
    found = scene_objects(a_scene(objects=objects, size=(50, 100)), SCHEMA, 0.0)
    assert [item.box for item in found] == [(0.0, 0.0, 0.1, 0.4), (0.9, 0.8, 1.0, 1.0)]


def test_without_maps_the_centre_is_that_of_the_box() -> None:
    (found,) = scene_objects(a_scene(objects=(SceneObject(CAR, (10, 0, 20, 40)),), size=(100, 100)), SCHEMA, 0.0)
    assert found.centre == pytest.approx((0.2, 0.2))


def test_a_full_mask_has_the_centre_of_its_box_and_half_of_it_that_of_its_cells() -> None:
    labels = np.full((64, 64), SKY, dtype=np.int16)
    labels[16:48, 16:48] = CAR
    box = (SceneObject(CAR, (16, 16, 32, 32)),)
    full = scene_objects(a_scene(labels, objects=box), SCHEMA, 0.0)[0]
    assert full.centre == pytest.approx((0.5, 0.5))
    labels[16:48, 32:48] = SKY  # the left half: cells 0..7 of 0..15, at box coordinates 0, 1/15, … 7/15
    half = scene_objects(a_scene(labels, objects=box), SCHEMA, 0.0)[0]
    assert half.centre == pytest.approx((0.25 + 0.5 * 3.5 / 15, 0.5))


def test_a_mask_is_that_of_the_instance_not_of_its_class() -> None:
    labels = np.full((32, 32), CAR, dtype=np.int16)
    instances = np.full((32, 32), 5, dtype=np.int32)
    instances[16:] = 6  # the lower half
    box = (0.0, 0.0, 32.0, 32.0)
    upper, lower, both = scene_objects(
        a_scene(labels, instances, (SceneObject(CAR, box, 5), SceneObject(CAR, box, 6), SceneObject(CAR, box, 0))),
        SCHEMA,
        0.0,
    )
    assert upper.centre == pytest.approx((0.5, 3.5 / 15))
    assert lower.centre == pytest.approx((0.5, 11.5 / 15))
    assert both.centre == pytest.approx((0.5, 0.5))


def test_a_mask_without_a_pixel_leaves_the_centre_to_the_box() -> None:
    labels = np.full((32, 32), SKY, dtype=np.int16)
    covered = SceneObject(CAR, (0, 0, 16, 16), 3)
    found = scene_objects(a_scene(labels, np.zeros((32, 32), dtype=np.int32), (covered,)), SCHEMA, 0.0)
    assert found[0].centre == pytest.approx((0.25, 0.25))


def test_a_sliver_at_the_border_has_a_mask_of_one_pixel() -> None:
    labels = np.full((32, 32), SKY, dtype=np.int16)
    labels[:, 31] = ROAD
    sliver = SceneObject(ROAD, (31.6, 0, 0.4, 32))
    found = scene_objects(a_scene(labels, objects=(sliver,)), SCHEMA, 0.0)
    assert found[0].centre == pytest.approx((31.8 / 32, 0.5))


def test_crowds_are_kept() -> None:
    crowd = SceneObject(CAR, (0, 0, 50, 50), 0, True)
    assert len(scene_objects(a_scene(objects=(crowd,), size=(100, 100)), SCHEMA, 0.02)) == 1


def test_what_cannot_be_placed_is_an_error() -> None:
    with pytest.raises(DataError, match="neither a picture nor a size"):
        scene_objects(a_scene(objects=(SceneObject(CAR, (0, 0, 1, 1)),)), SCHEMA, 0.0)
    with pytest.raises(DataError, match="class index 3 is outside the 3 classes"):
        scene_objects(a_scene(objects=(SceneObject(3, (0, 0, 1, 1)),), size=(4, 4)), SCHEMA, 0.0)


@real
@pytest.mark.parametrize("pack", ["coco_panoptic", "coco_instances"])
def test_centres_are_those_that_the_packs_give(pack: str) -> None:
    """The packs' centroids are of full-size masks; on 16 x 16 cells they move by up to a cell."""
    import json

    dataset = open_dataset(REAL / pack)
    listed = json.loads((REAL / pack / "annotations_val.json").read_text())["images"]
    given = {Path(entry["file"]).stem: entry for entry in listed}
    apart = []
    for record in dataset.records("val")[:40]:
        entry = given[Path(record.id).stem]
        width, height = entry["width"], entry["height"]
        for item in scene_objects(dataset.read(record), dataset.schema, 0.02):
            if item.ordinal < len(entry["objects"]) and not entry["objects"][item.ordinal]["iscrowd"]:
                x, y = entry["objects"][item.ordinal]["centroid"]
                w, h = item.box[2] - item.box[0], item.box[3] - item.box[1]
                apart.append(
                    max(abs(item.centre[0] - (x + 0.5) / width) / w, abs(item.centre[1] - (y + 0.5) / height) / h)
                )
    assert len(apart) > 50
    assert np.median(apart) < 1 / 16
    assert np.mean(np.array(apart) < 2 / 16) > 0.95
