"""COCO as it is published: photos in NAME/ or images/NAME/ for each NAME such as train2017, and one of

    coco-panoptic    annotations/panoptic_NAME.json and its PNGs in annotations/panoptic_NAME/ or panoptic_NAME/
    coco-stuff       annotations/instances_NAME.json and label PNGs in stuffthingmaps/NAME/ (ids 0..181, 255
                     unlabelled), or annotations/stuff_NAME.json
    coco-instances   annotations/instances_NAME.json alone: pixels without a thing are ignored

A split is NAME without its year. Instances are painted small over large; a crowd gives its pixels a class, but is no
instance and never covers one. Ids of instances are positions among the scene's objects, from 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.data.coco_masks import segment_mask
from pipelines.data.listing import Fault, Layers, ListedDataset, box_of, by_id, inside, read_json
from pipelines.data.palette import distinct_colors
from pipelines.data.pixels import read_index_map, read_map, require_same_size
from pipelines.data.scene import IGNORED, Category, SceneObject, SceneRecord, Schema
from pipelines.errors import ConfigError, DataError

# fmt: off
STUFF_NAMES = (
    "banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard",
    "carpet", "ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard",
    "curtain", "desk-stuff", "dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone",
    "floor-tile", "floor-wood", "flower", "fog", "food-other", "fruit", "furniture-other", "grass",
    "gravel", "ground-other", "hill", "house", "leaves", "light", "mat", "metal", "mirror-stuff", "moss",
    "mountain", "mud", "napkin", "net", "paper", "pavement", "pillow", "plant-other", "plastic", "platform",
    "playingfield", "railing", "railroad", "river", "road", "rock", "roof", "rug", "salad", "sand", "sea",
    "shelf", "sky-other", "skyscraper", "snow", "solid-other", "stairs", "stone", "straw",
    "structural-other", "table", "tent", "textile-other", "towel", "tree", "vegetable", "wall-brick",
    "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile", "wall-wood", "water-other",
    "waterdrops", "window-blind", "window-other", "wood",
)
"""The stuff of COCO-Stuff: category ids 92..182, values 91..181 in its label PNGs."""

UNUSED_THINGS = {
    12: "street sign", 26: "hat", 29: "shoe", 30: "eye glasses", 45: "plate", 66: "mirror", 68: "window", 69: "desk",
    71: "door", 83: "blender", 91: "hair brush",
}
"""Category ids that COCO named but never annotated; COCO-Stuff keeps their places."""
# fmt: on

MAPS_UNLABELLED = 255
OTHER_STUFF = 183
"""The category of stuff JSON that stands for all things: no class."""


@dataclass(frozen=True)
class Segment:
    """One annotation to paint: its class index, crowd or not, and its polygons, RLE, or id in a panoptic PNG."""

    category: int
    crowd: bool
    shape: Any


@dataclass(frozen=True)
class _Mask:
    number: int  # the instance's id
    segment: Segment
    pixels: np.ndarray


@dataclass(frozen=True)
class _Split:
    name: str  # as in the file names, for instance train2017
    json: Path
    images: Path | None  # None where there is no folder of photos
    maps: Path | None = None
    stuff: Path | None = None


def recognizes_coco(root: Path) -> bool:
    return bool(_names(root, "panoptic") or _names(root, "instances"))


def open_coco(root: Path, kind: str | None = None) -> ListedDataset:
    """List the scenes of COCO annotations of a kind, or of the richest kind that is there if None.

    Raises ConfigError if kind is None and there are both panoptic and stuff maps, DataError if there is nothing of the
    kind or a JSON cannot be understood.
    """
    kinds = {
        "coco-panoptic": partial(_panoptic_splits, root),
        "coco-stuff": partial(_stuff_splits, root),
        "coco-instances": partial(_instance_splits, root),
    }
    if kind is None:
        there = [name for name, find in kinds.items() if find()]
        if {"coco-panoptic", "coco-stuff"} <= set(there):
            raise ConfigError(
                "there are panoptic and stuff maps for the photos",
                where=root,
                fix="choose with --format coco-panoptic or --format coco-stuff",
            )
        kind = there[0] if there else "coco-instances"
    splits = kinds[kind]()
    if not splits:
        raise DataError(f"nothing here is laid out as {kind}", where=root, fix="see `rgs data check --help`")
    return _open_panoptic(root, splits) if kind == "coco-panoptic" else _open_instances(root, splits)


def _open_panoptic(root: Path, splits: list[_Split]) -> ListedDataset:
    lists = {split.name: read_json(split.json) for split in splits}
    schema = _schema(_one_set_of_categories(splits, lists, lambda c: bool(c["isthing"])))
    index_of = {category.id: index for index, category in enumerate(schema.classes)}

    def scene_of(split: _Split, entry: Any, own: list[Any]) -> tuple[dict[str, Any], list[Segment]]:
        if len(own) != 1:
            raise ValueError(f"the image has {len(own)} annotations where panoptic JSON has one")
        items = own[0]["segments_info"]
        segments = [Segment(index_of[s["category_id"]], bool(s.get("iscrowd", 0)), int(s["id"])) for s in items]
        assert split.maps is not None
        labels = inside(split.maps, str(own[0]["file_name"]), split.json)
        return {"labels": labels, "objects": _objects(segments, items, schema)}, segments

    records, segments, faults = _records(splits, lists, scene_of)
    return ListedDataset("coco", root, schema, records, partial(_decode_panoptic, segments, schema), faults)


def _open_instances(root: Path, splits: list[_Split]) -> ListedDataset:
    lists = {split.name: read_json(split.json) for split in splits}
    stuff = {split.name: read_json(split.stuff) for split in splits if split.stuff is not None}
    things = _one_set_of_categories(splits, lists, lambda c: True)
    with_maps = splits[0].maps is not None
    if with_maps:
        schema = _maps_schema(things)
        shift = -1  # label PNGs hold the category id less one
    else:
        more = _one_set_of_categories(splits, stuff, lambda c: False) if stuff else []
        schema = _schema([*things, *(c for c in more if c.id != OTHER_STUFF)])
        shift = 0
    index_of = {category.id - shift: index for index, category in enumerate(schema.classes)}
    grounds = {s.name: _by_image(stuff[s.name], s.stuff) for s in splits if s.stuff is not None}

    def scene_of(split: _Split, entry: Any, own: list[Any]) -> tuple[dict[str, Any], list[Segment]]:
        items = sorted(own, key=lambda item: item["id"])
        segments = [Segment(index_of[s["category_id"]], bool(s.get("iscrowd", 0)), s["segmentation"]) for s in items]
        objects = _objects(segments, items, schema)
        ground = [
            Segment(index_of[s["category_id"]], True, s["segmentation"])
            for s in grounds.get(split.name, {}).get(entry["id"], [])
            if s["category_id"] != OTHER_STUFF
        ]
        labels = None
        if split.maps is not None:
            labels = split.maps / f"{Path(str(entry['file_name'])).stem}.png"
        return {"labels": labels, "objects": objects}, [*segments, *ground]

    records, segments, faults = _records(splits, lists, scene_of)
    decode = partial(_decode_instances, segments, schema)
    return ListedDataset("coco", root, schema, records, decode, faults)


def _decode_panoptic(segments: dict[str, list[Segment]], schema: Schema, record: SceneRecord) -> Layers:
    assert record.labels is not None
    values, _ = read_map(record.labels)
    if values.ndim != 3:
        raise DataError("a panoptic PNG has three channels", where=record.labels)
    numbers = values.astype(np.int64) @ np.array([1, 256, 65536])
    present, place = np.unique(numbers, return_inverse=True)
    classes = np.full(len(present), IGNORED, dtype=np.int16)
    instances = np.zeros(len(present), dtype=np.int32)
    row_of = {int(number): row for row, number in enumerate(present)}
    if strange := set(row_of) - {s.shape for s in segments[record.id]} - {0}:
        raise DataError(f"segment {min(strange)} is not in its segments_info", where=record.labels)
    for position, segment in enumerate(segments[record.id]):
        row = row_of.get(segment.shape)
        if row is not None:
            classes[row] = segment.category
            if schema.things[segment.category] and not segment.crowd:
                instances[row] = position + 1
    place = place.reshape(numbers.shape)
    return classes[place], instances[place]


def _decode_instances(segments: dict[str, list[Segment]], schema: Schema, record: SceneRecord) -> Layers:
    """Labels from the record's PNG, else painted; an instance keeps the pixels where the labels have its class."""
    height, width = record.extra["size"]
    where = f"{record.id}, annotations of {record.image.name if record.image else record.id}"
    masks = [
        _Mask(number, segment, segment_mask(segment.shape, height, width, where))
        for number, segment in enumerate(segments[record.id], start=1)
    ]
    things = [mask for mask in masks if schema.things[mask.segment.category]]
    things.sort(key=lambda mask: (not mask.segment.crowd, -int(mask.pixels.sum())))  # crowds, then large to small
    if record.labels is not None:
        labels = schema.indices(read_index_map(record.labels), record.labels)
        require_same_size(labels, record.labels, "label map", np.empty((height, width)), "image in its annotations")
    else:
        labels = np.full((height, width), IGNORED, dtype=np.int16)
        stuff = [mask for mask in masks if not schema.things[mask.segment.category]]
        for mask in [*stuff, *things]:
            labels[mask.pixels] = mask.segment.category
    instances = np.zeros((height, width), dtype=np.int32)
    for mask in things:
        if not mask.segment.crowd:
            instances[mask.pixels & (labels == mask.segment.category)] = mask.number
    return labels, instances


SceneOf = Callable[[_Split, Any, list[Any]], tuple[dict[str, Any], list[Segment]]]


def _records(
    splits: list[_Split], lists: dict[str, Any], scene_of: SceneOf
) -> tuple[tuple[SceneRecord, ...], dict[str, list[Segment]], tuple[Fault, ...]]:
    """A record and the segments of every image; an entry that is wrong becomes its scene's fault."""
    titles = _titles([split.name for split in splits])
    records: dict[str, SceneRecord] = {}
    segments: dict[str, list[Segment]] = {}
    faults: list[Fault] = []
    for split in splits:
        data = lists[split.name]
        annotations = _by_image(data, split.json)
        licences = {entry.get("id"): _licence(entry) for entry in data.get("licenses", [])}
        listed = set()
        for entry in data["images"]:
            try:
                name, key = str(entry["file_name"]), entry["id"]
                image = None if split.images is None else inside(split.images, name, split.json)
                listed.add(key)
                size = (int(entry["height"]), int(entry["width"]))
            except DataError as error:
                faults.append(Fault(split.json, error.what))
                continue
            except (KeyError, TypeError, ValueError) as error:
                faults.append(Fault(split.json, f"an image entry lacks or spoils {error}"))
                continue
            scene = f"{titles[split.name]}/{Path(name).stem}"
            if scene in records:
                faults.append(Fault(split.json, f"the scene {scene!r} repeats"))
                continue
            extra = {"size": size, **({"flickr_url": entry["flickr_url"]} if entry.get("flickr_url") else {})}
            values: dict[str, Any] = {}
            try:
                values, segments[scene] = scene_of(split, entry, annotations.get(key, []))
            except DataError as error:
                extra["fault"] = (split.json, error.what)
            except (KeyError, TypeError, ValueError) as error:
                extra["fault"] = (split.json, f"annotations of {name}: {_reason(error)}")
            records[scene] = SceneRecord(
                id=scene,
                split=titles[split.name],
                image=image,
                licence=licences.get(entry.get("license"), ""),
                extra=extra,
                **values,
            )
        for lost in sorted(set(annotations) - listed, key=str):
            faults.append(Fault(split.json, f"it annotates the image id {lost}, which is not among its images"))
    return by_id(records.values()), segments, tuple(faults)


def _by_image(data: Any, path: Path) -> dict[Any, list[Any]]:
    """The annotations of a JSON by image id. Raises DataError where it has not COCO's lists."""
    found: dict[Any, list[Any]] = {}
    try:
        for entry in data["annotations"]:
            found.setdefault(entry["image_id"], []).append(entry)
        if not isinstance(data["images"], list):
            raise TypeError("images is no list")
    except (KeyError, TypeError) as error:
        raise DataError(f"the file is not laid out as COCO's ({_reason(error)})", where=path) from error
    return found


def _objects(segments: list[Segment], items: list[Any], schema: Schema) -> tuple[SceneObject, ...]:
    return tuple(
        SceneObject(
            segment.category,
            box_of(item["bbox"]),
            position + 1 if schema.things[segment.category] and not segment.crowd else 0,
            segment.crowd,
        )
        for position, (segment, item) in enumerate(zip(segments, items, strict=True))
    )


def _one_set_of_categories(
    splits: list[_Split], lists: dict[str, Any], is_thing: Callable[[Any], bool]
) -> list[Category]:
    """The categories, which every split must give alike, by id; a color of (-1, -1, -1) is still to be chosen."""
    first: list[Category] | None = None
    for split in splits:
        try:
            here = sorted(
                (
                    Category(int(c["id"]), str(c["name"]), tuple(c.get("color", (-1, -1, -1))), is_thing(c))
                    for c in lists[split.name]["categories"]
                ),
                key=lambda category: category.id,
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"the categories are wrong ({_reason(error)})", where=split.json) from error
        if first is not None and here != first:
            raise DataError(f"its categories differ from those of {splits[0].json.name}", where=split.json)
        first = here
    assert first is not None
    return first


def _schema(categories: Iterable[Category], ignored: int | None = None) -> Schema:
    """A schema with the missing colors chosen. Ignored is an id that no category has, 0 where that is free."""
    categories = list(categories)
    if not categories:
        raise DataError("the schema has no classes", fix="list at least one category")
    ids = {category.id for category in categories}
    if ignored is None:
        ignored = next(label for label in (0, 255, 65535) if label not in ids)
    missing = (-1, -1, -1)
    free = iter(distinct_colors(len(categories), [c.color for c in categories if c.color != missing]))
    return Schema(
        tuple(Category(c.id, c.name, c.color if c.color != missing else next(free), c.thing) for c in categories),
        (ignored,),
    )


def _maps_schema(things: list[Category]) -> Schema:
    """The 182 classes of COCO-Stuff's label PNGs, ids 0..181 in the order of the category ids, less one."""
    names = {**UNUSED_THINGS, **{category.id: category.name for category in things}}
    if strange := set(names) - set(range(1, 92)):
        raise DataError(f"COCO-Stuff's maps have no category {min(strange)}; things are 1 to 91")
    names |= {92 + place: name for place, name in enumerate(STUFF_NAMES)}
    names |= {label: f"category {label}" for label in range(1, 92) if label not in names}
    return _schema(
        (Category(label - 1, names[label], (-1, -1, -1), label < 92) for label in range(1, 183)), MAPS_UNLABELLED
    )


def _names(root: Path, kind: str) -> list[str]:
    """The NAMEs of annotations/KIND_NAME.json."""
    return sorted(path.stem.removeprefix(f"{kind}_") for path in root.glob(f"annotations/{kind}_*.json"))


def _folder(root: Path, *candidates: str) -> Path | None:
    return next((root / name for name in candidates if (root / name).is_dir()), None)


def _images(root: Path, name: str) -> Path | None:
    return _folder(root, name, f"images/{name}")


def _panoptic_splits(root: Path) -> list[_Split]:
    return [
        _Split(name, root / f"annotations/panoptic_{name}.json", _images(root, name), maps)
        for name in _names(root, "panoptic")
        if (maps := _folder(root, f"annotations/panoptic_{name}", f"panoptic_{name}"))
    ]


def _stuff_splits(root: Path) -> list[_Split]:
    """Splits with label PNGs, else splits with stuff JSON; a dataset's splits are all of one sort."""
    mapped, described = [], []
    for name in _names(root, "instances"):
        path, images = root / f"annotations/instances_{name}.json", _images(root, name)
        stuff = root / f"annotations/stuff_{name}.json"
        if maps := _folder(root, f"stuffthingmaps/{name}", f"annotations/stuffthingmaps/{name}"):
            mapped.append(_Split(name, path, images, maps))
        elif stuff.is_file():
            described.append(_Split(name, path, images, stuff=stuff))
    return mapped or described


def _instance_splits(root: Path) -> list[_Split]:
    return [
        _Split(name, root / f"annotations/instances_{name}.json", _images(root, name))
        for name in _names(root, "instances")
    ]


def _titles(names: list[str]) -> dict[str, str]:
    """Names of splits without their year, or with it where that would make two alike."""
    short = {name: name.rstrip("0123456789") or name for name in names}
    return {name: short[name] if list(short.values()).count(short[name]) == 1 else name for name in names}


def _licence(entry: Any) -> str:
    name, url = str(entry.get("name", "")), str(entry.get("url", ""))
    return f"{name} ({url})" if name and url else name or url


def _reason(error: Exception) -> str:
    return f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)
