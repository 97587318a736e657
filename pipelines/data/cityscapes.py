"""Cityscapes as it is published: leftImg8bit/SPLIT/CITY/*_leftImg8bit.png and gtFine/SPLIT/CITY/*_gtFine_labelIds.png
and *_gtFine_instanceIds.png. A split without photos has labels only; the group of a scene is its city and sequence.

All 35 label ids are classes, in the order that the one-hot channels of the published networks have; none is ignored.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.data.instances import decode_instances
from pipelines.data.listing import Layers, ListedDataset, by_id, partner, pictures
from pipelines.data.pixels import read_index_map, require_same_size
from pipelines.data.scene import Category, SceneRecord, Schema

# fmt: off
_CLASSES = (
    (0, "unlabeled", (0, 0, 0)), (1, "ego vehicle", (0, 0, 0)), (2, "rectification border", (0, 0, 0)),
    (3, "out of roi", (0, 0, 0)), (4, "static", (0, 0, 0)), (5, "dynamic", (111, 74, 0)), (6, "ground", (81, 0, 81)),
    (7, "road", (128, 64, 128)), (8, "sidewalk", (244, 35, 232)), (9, "parking", (250, 170, 160)),
    (10, "rail track", (230, 150, 140)), (11, "building", (70, 70, 70)), (12, "wall", (102, 102, 156)),
    (13, "fence", (190, 153, 153)), (14, "guard rail", (180, 165, 180)), (15, "bridge", (150, 100, 100)),
    (16, "tunnel", (150, 120, 90)), (17, "pole", (153, 153, 153)), (18, "polegroup", (153, 153, 153)),
    (19, "traffic light", (250, 170, 30)), (20, "traffic sign", (220, 220, 0)), (21, "vegetation", (107, 142, 35)),
    (22, "terrain", (152, 251, 152)), (23, "sky", (70, 130, 180)), (24, "person", (220, 20, 60)),
    (25, "rider", (255, 0, 0)), (26, "car", (0, 0, 142)), (27, "truck", (0, 0, 70)), (28, "bus", (0, 60, 100)),
    (29, "caravan", (0, 0, 90)), (30, "trailer", (0, 0, 110)), (31, "train", (0, 80, 100)),
    (32, "motorcycle", (0, 0, 230)), (33, "bicycle", (119, 11, 32)), (-1, "license plate", (0, 0, 142)),
)
# fmt: on

CITYSCAPES = Schema(tuple(Category(label, name, color, 24 <= label <= 33) for label, name, color in _CLASSES))
_IMAGE, _LABELS, _INSTANCES = "_leftImg8bit", "_gtFine_labelIds", "_gtFine_instanceIds"


def recognizes_cityscapes(root: Path) -> bool:
    return (root / "gtFine").is_dir()


def open_cityscapes(root: Path) -> ListedDataset:
    """List the scenes of gtFine. A scene's partner that is missing is named where it should be; reading it tells."""
    records: list[SceneRecord] = []
    for split in sorted(path for path in (root / "gtFine").iterdir() if path.is_dir()):
        photos = root / "leftImg8bit" / split.name
        cities = {path.name for path in (split, photos) if path.is_dir() for path in path.iterdir() if path.is_dir()}
        for city in sorted(cities):
            images = _by_scene(photos / city, _IMAGE)
            labels = _by_scene(split / city, _LABELS)
            instances = _by_scene(split / city, _INSTANCES)
            for stem in sorted({*images, *labels, *instances}):
                image, repeats = partner(images, stem, photos / city / f"{stem}{_IMAGE}.png")
                records.append(
                    SceneRecord(
                        id=f"{split.name}/{stem}",
                        split=split.name,
                        image=image if photos.is_dir() else None,
                        labels=split / city / f"{stem}{_LABELS}.png",
                        instances=split / city / f"{stem}{_INSTANCES}.png",
                        group="_".join(stem.split("_")[:2]),
                        extra={"fault": repeats} if repeats else {},
                    )
                )
    return ListedDataset("cityscapes", root, CITYSCAPES, by_id(records), _decode)


def _by_scene(folder: Path, ending: str) -> dict[str, list[Path]]:
    """The pictures of one kind by CITY_SEQUENCE_FRAME; a folder of gtFine holds several kinds."""
    found, _ = pictures(folder)
    return {stem.removesuffix(ending): paths for stem, paths in found.items() if stem.endswith(ending)}


def _decode(record: SceneRecord) -> Layers:
    assert record.labels is not None and record.instances is not None
    labels = CITYSCAPES.indices(read_index_map(record.labels), record.labels)
    values = read_index_map(record.instances)
    require_same_size(values, record.instances, "instance map", labels, "label map")
    return labels, decode_instances(values, labels, CITYSCAPES, "class1000", record.instances)
