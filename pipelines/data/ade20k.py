"""ADE20K's scene parsing benchmark as it is published: images/SPLIT/*.jpg, annotations/SPLIT/*.png (0 unknown, 1..150),
and of the instance benchmark annotations_instance/SPLIT/*.png and categoryMapping.txt.

The splits training and validation are called train and val here. An instance PNG is RGB: its first channel is an
instance category, which categoryMapping.txt maps to a label id, its second the number of the instance, 0 for none.
Pixels where instance and label maps differ in class have no instance. objectInfo150.txt names the classes if present.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from pipelines.data.listing import Fault, Layers, ListedDataset, by_id, partner, pictures
from pipelines.data.palette import distinct_colors
from pipelines.data.pixels import read_index_map, read_map, require_same_size
from pipelines.data.scene import Category, SceneRecord, Schema
from pipelines.errors import DataError

# fmt: off
NAMES = (
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet",
    "sidewalk", "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water",
    "painting", "sofa", "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence",
    "desk", "rock", "wardrobe", "lamp", "bathtub", "railing", "cushion", "base", "box", "column",
    "signboard", "chest of drawers", "counter", "sand", "sink", "skyscraper", "fireplace", "refrigerator",
    "grandstand", "path", "stairs", "runway", "case", "pool table", "pillow", "screen door", "stairway",
    "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower", "book", "hill", "bench",
    "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning",
    "streetlight", "booth", "television receiver", "airplane", "dirt track", "apparel", "pole", "land",
    "bannister", "escalator", "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain",
    "conveyer belt", "canopy", "washer", "plaything", "swimming pool", "stool", "barrel", "basket",
    "waterfall", "tent", "bag", "minibike", "cradle", "oven", "ball", "food", "step", "tank", "trade name",
    "microwave", "pot", "animal", "bicycle", "lake", "dishwasher", "screen", "blanket", "sculpture", "hood",
    "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier", "crt screen", "plate", "monitor",
    "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)
"""Label ids 1..150."""

THINGS = (
    8, 9, 11, 13, 15, 16, 19, 20, 21, 23, 24, 25, 28, 31, 32, 33, 34, 36, 37, 38, 39, 40, 42, 43, 44, 45,
    46, 48, 50, 51, 54, 56, 57, 58, 59, 63, 65, 66, 67, 68, 70, 71, 72, 73, 74, 75, 76, 77, 79, 81, 82, 83,
    84, 86, 87, 88, 89, 90, 91, 93, 94, 96, 98, 99, 103, 104, 105, 108, 109, 111, 112, 113, 116, 117, 119,
    120, 121, 122, 124, 125, 126, 127, 128, 130, 131, 133, 134, 135, 136, 137, 138, 139, 140, 143, 144,
    145, 147, 148, 149, 150,
)
"""Label ids of the instance benchmark's 100 categories, used where there is no categoryMapping.txt."""
# fmt: on

UNKNOWN = 0
_SPLITS = {"training": "train", "validation": "val"}


def recognizes_ade20k(root: Path) -> bool:
    return any((root / "annotations" / name).is_dir() and (root / "images" / name).is_dir() for name in _SPLITS)


def open_ade20k(root: Path) -> ListedDataset:
    """List the scenes of images/ and annotations/. Raises DataError if there are instance maps, but no mapping."""
    mapping = _read_mapping(root / "categoryMapping.txt")
    with_instances = (root / "annotations_instance").is_dir()
    if with_instances and not mapping:
        raise DataError(
            "there are instance maps, but no table of what their categories are",
            where=root / "categoryMapping.txt",
            fix="add the instance benchmark's categoryMapping.txt",
        )
    records: list[SceneRecord] = []
    faults: list[Fault] = []
    folders = {path.name for path in (root / "annotations").iterdir() if path.is_dir()}
    for name in sorted(folders):
        layers = {}
        for kind, suffixes in (("images", (".jpg", ".jpeg", ".png")), ("annotations", (".png",))):
            layers[kind], strays = pictures(root / kind / name, suffixes)
            faults += strays
        split = _SPLITS.get(name, name)
        for stem in sorted(set().union(*layers.values())):
            image, repeats = partner(layers["images"], stem, root / "images" / name / f"{stem}.jpg")
            records.append(
                SceneRecord(
                    id=f"{split}/{stem}",
                    split=split,
                    image=image if (root / "images" / name).is_dir() else None,
                    labels=root / "annotations" / name / f"{stem}.png",
                    instances=root / "annotations_instance" / name / f"{stem}.png" if with_instances else None,
                    extra={"fault": repeats} if repeats else {},
                )
            )
    schema = _schema(_read_names(root / "objectInfo150.txt"), set(mapping.values()) or set(THINGS))
    decode = partial(_decode, schema=schema, mapping=mapping)
    return ListedDataset("ade20k", root, schema, by_id(records), decode, tuple(faults))


def _schema(names: tuple[str, ...], things: set[int]) -> Schema:
    colors = distinct_colors(len(names))
    return Schema(
        tuple(
            Category(i, name, color, i in things) for i, (name, color) in enumerate(zip(names, colors, strict=True), 1)
        ),
        ignored=(UNKNOWN,),
    )


def _decode(record: SceneRecord, *, schema: Schema, mapping: dict[int, int]) -> Layers:
    assert record.labels is not None
    labels = schema.indices(read_index_map(record.labels), record.labels)
    if record.instances is None:
        return labels, None
    values, _ = read_map(record.instances)
    if values.ndim != 3:
        raise DataError("an instance PNG has three channels", where=record.instances)
    require_same_size(values, record.instances, "instance map", labels, "label map")
    category, number = values[..., 0].astype(np.int32), values[..., 1].astype(np.int32)
    table = np.full(256, UNKNOWN, dtype=np.int64)
    table[list(mapping)] = list(mapping.values())
    known = (number == 0) | (table[category] != UNKNOWN)
    if not known.all():
        raise DataError(
            f"the instance category {category[~known][0]} is not in categoryMapping.txt ({(~known).sum()} px)",
            where=record.instances,
        )
    agrees = (number > 0) & (labels >= 0) & (schema.ids[labels] == table[category])
    return labels, np.where(agrees, category * 256 + number, 0).astype(np.int32)


def _read_mapping(path: Path) -> dict[int, int]:
    """Instance category to label id, from lines that begin with the two numbers; headings are passed over."""
    if not path.exists():
        return {}
    mapping: dict[int, int] = {}
    for line in _lines(path):
        words = line.replace(",", " ").split()
        if len(words) >= 2 and words[0].isdigit() and words[1].isdigit():
            category, label = int(words[0]), int(words[1])
            if not (1 <= category <= 255 and 1 <= label <= len(NAMES)) or category in mapping:
                raise DataError(f"the line {line!r} maps no new category of 1 to 255 to 1 to 150", where=path)
            mapping[category] = label
    if not mapping:
        raise DataError("the table has no line of two numbers, instance category and label id", where=path)
    return mapping


def _read_names(path: Path) -> tuple[str, ...]:
    """The first name of each of the 150 classes from objectInfo150.txt, whose columns are tab-separated."""
    if not path.exists():
        return NAMES
    names: dict[int, str] = {}
    for line in _lines(path):
        words = line.split("\t")
        if words[0].strip().isdigit():
            names[int(words[0])] = words[-1].split(",")[0].strip()
    if sorted(names) != list(range(1, len(NAMES) + 1)):
        raise DataError(f"the table has {len(names)} numbered classes, not 1 to {len(NAMES)}", where=path)
    if len(set(names.values())) != len(names):  # a few classes share their first name with another
        return tuple(
            name if list(names.values()).count(name) == 1 else f"{name} {i}" for i, name in sorted(names.items())
        )
    return tuple(name for _, name in sorted(names.items()))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the table cannot be read ({error})", where=path) from error
