"""Visual Genome as it is published: photos with boxes of named objects and their relations, read by sg2im's protocol.

    images/VG_100K/ID.jpg, images/VG_100K_2/ID.jpg     or these two folders beside the JSON
    image_data.json        [{"image_id", "url", "width", "height"}]; a url ends in the photo's folder and name
    objects.json           [{"image_id", "objects": [{"object_id", "names", "x", "y", "w", "h"}]}]
    relationships.json     [{"image_id", "relationships": [{"predicate", "subject": {"object_id"}, "object": {…}}]}]
    object_alias.txt, relationship_alias.txt           a line per name: it and its aliases, with commas between
    vg_splits.json         optional: {"train": [image ids], "val": […], …}; images in none of them are not listed
    vg_rules.json          optional: other numbers than sg2im's, see `Rules`

The classes are the frequent names of the split «train», the most frequent first; the predicates are its frequent ones,
the first seen first. Names are replaced by their aliases; predicates are lowered, stripped and replaced in all splits,
where sg2im does so in train alone. Images with too few or too many objects or relations of these are not listed.
Attributes are not read. Without vg_splits.json an image's split follows from its id alone, see `split_of`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from pipelines.config import Config, Layer, resolve
from pipelines.data.listing import Fault, Layers, ListedDataset, box_of, by_id, inside, read_json
from pipelines.data.palette import distinct_colors
from pipelines.data.scene import Category, SceneObject, SceneRecord, Schema
from pipelines.errors import ConfigError, DataError

TRAIN = "train"
IMAGES, OBJECTS, RELATIONSHIPS = "image_data.json", "objects.json", "relationships.json"
OBJECT_ALIASES, RELATIONSHIP_ALIASES = "object_alias.txt", "relationship_alias.txt"
SPLITS, RULES = "vg_splits.json", "vg_rules.json"

Box = tuple[float, float, float, float]


class Rules(Config):
    """Which images, names and relations are kept; the defaults are sg2im's."""

    min_image_side: int = Field(default=200, ge=0)
    """Images with a shorter side are left out before anything is counted."""
    min_name_count: int = Field(default=2000, ge=1)
    """A name is a class where so many objects of train have it."""
    min_box_side: float = Field(default=32, ge=0)
    """Objects narrower or lower than this many pixels are left out."""
    min_predicate_count: int = Field(default=500, ge=1)
    """A predicate is kept where train has so many relations with it of which both objects are kept."""
    min_objects: int = Field(default=3, ge=0)
    """Images with fewer objects are left out."""
    max_objects: int = Field(default=30, ge=1)
    """Images with more objects are left out."""
    min_relations: int = Field(default=1, ge=0)
    """Images with fewer relations are left out."""
    max_relations: int = Field(default=30, ge=1)
    """Images with more relations are left out."""


@dataclass
class _Image:
    """One image, and what has been read of it so far.

    named: names and box of every object by its object_id. objects: those that are kept; place: their positions by
    object_id. told: relations between them by position. fault: the file and why its annotations are of no use.
    """

    path: Path
    height: int
    width: int
    split: str
    named: dict[int, tuple[list[str], Box]] = field(default_factory=dict)
    objects: list[SceneObject] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=dict)
    told: list[tuple[int, str, int]] = field(default_factory=list)
    fault: tuple[Path, str] | None = None


def recognizes_visual_genome(root: Path) -> bool:
    return all((root / name).is_file() for name in (IMAGES, OBJECTS, RELATIONSHIPS))


def open_visual_genome(root: Path) -> ListedDataset:
    """List the images of Visual Genome by sg2im's rules, or those of vg_rules.json.

    Annotations of one image that are wrong become its scene's fault. Raises DataError for a file that cannot be
    understood, or where no name or no predicate is frequent enough.
    """
    rules = _rules(root / RULES)
    images, faults = _images(root, rules)
    aliases = _aliases(root / OBJECT_ALIASES, faults)
    faults += _each(root / OBJECTS, "objects", images, lambda image, items: _name(image, items, aliases))
    names = _frequent_names(images, rules.min_name_count)
    if not names:
        raise _too_rare("name", "min_name_count", rules.min_name_count, root / OBJECTS)
    category_of = {name: index for index, name in enumerate(names)}
    clipped = sum(_keep(image, category_of, rules.min_box_side) for image in images.values())
    predicate_aliases = _aliases(root / RELATIONSHIP_ALIASES, faults)
    faults += _each(
        root / RELATIONSHIPS, "relationships", images, lambda image, items: _tell(image, items, predicate_aliases)
    )
    predicates = _frequent_predicates(images, rules.min_predicate_count)
    if not predicates:
        raise _too_rare("predicate", "min_predicate_count", rules.min_predicate_count, root / RELATIONSHIPS)
    number = {predicate: index for index, predicate in enumerate(predicates)}
    found = [_record(key, image, number, rules) for key, image in images.items()]
    records = [record for record in found if record is not None]
    schema = Schema(
        tuple(
            Category(index, name, color, True)
            for index, (name, color) in enumerate(zip(names, distinct_colors(len(names)), strict=True), start=1)
        ),
        ignored=(0,),
        relations=tuple(predicates),
    )
    notes = [
        f"{len(records)} of {len(images)} images are listed; the others have not {rules.min_objects} to"
        f" {rules.max_objects} objects of {len(names)} classes, and {rules.min_relations} to {rules.max_relations}"
        f" relations of {len(predicates)} predicates",
        "predicates are lowered, stripped and replaced by their aliases in all splits",
    ]
    if not (root / SPLITS).is_file():
        notes.append(f"there is no {SPLITS}: an image's split follows from its id")
    if clipped:
        notes.append(f"{clipped} boxes of objects reached out of their images and were clipped")
    return ListedDataset("visual-genome", root, schema, by_id(records), _no_layers, tuple(faults), tuple(notes))


def split_of(image: int) -> str:
    """The split of an image that no file gives: val and test are a tenth each, by the sha256 of the id."""
    digest = hashlib.sha256(str(image).encode()).digest()
    return {0: "val", 1: "test"}.get(int.from_bytes(digest[:8], "big") % 10, TRAIN)


def _no_layers(record: SceneRecord) -> Layers:
    return None, None


def _rules(path: Path) -> Rules:
    if not path.is_file():
        return Rules()
    data = read_json(path)
    if not isinstance(data, dict):
        raise DataError("the rules are no JSON object", where=path, fix='write for instance {"min_name_count": 20}')
    try:
        return resolve(Rules, [Layer(path.name, data)])
    except ConfigError as error:
        raise DataError(error.what, where=path) from error


def _images(root: Path, rules: Rules) -> tuple[dict[int, _Image], list[Fault]]:
    """The images that are large enough and in a split, by id, in the order of the file."""
    path = root / IMAGES
    folder = root / "images" if (root / "images").is_dir() else root
    splits = _splits(root / SPLITS)
    images: dict[int, _Image] = {}
    faults: list[Fault] = []
    listed: set[int] = set()
    for position, entry in enumerate(_list(path)):
        try:
            key, height, width = (_whole(entry[name]) for name in ("image_id", "height", "width"))
            if height <= 0 or width <= 0:
                raise ValueError(f"its size is {width}x{height}")
            if key in listed:
                raise ValueError(f"the image id {key} repeats")
            photo = inside(folder, "/".join(PurePosixPath(str(entry["url"])).parts[-2:]), path)
        except (DataError, KeyError, TypeError, ValueError) as error:
            faults.append(Fault(path, f"entry {position}: {_reason(error)}"))
            continue
        listed.add(key)
        split = split_of(key) if splits is None else splits.get(key)
        if split is not None and min(height, width) >= rules.min_image_side:
            images[key] = _Image(photo, height, width, split)
    if lost := sorted(set(splits or ()) - listed):
        reason = f"{len(lost)} image ids, the first {lost[0]}, are not in {IMAGES}"
        faults.append(Fault(root / SPLITS, reason, "warning"))
    return images, faults


def _splits(path: Path) -> dict[int, str] | None:
    """The split of each image id, None where there is no file."""
    if not path.is_file():
        return None
    splits: dict[int, str] = {}
    try:
        for split, keys in read_json(path).items():
            for key in keys:
                if splits.setdefault(_whole(key), split) != split:
                    raise ValueError(f"the image {key} is in {splits[key]} and in {split}")
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"these are no lists of image ids by split ({error})", where=path) from error
    if TRAIN not in splits.values():
        raise DataError("there is no split «train», from which the classes come", where=path)
    return splits


def _aliases(path: Path, faults: list[Fault]) -> dict[str, str]:
    """Every name of a line to its first one; a later line rules."""
    if not path.is_file():
        faults.append(Fault(path, "the file is missing: names are taken as they are", "warning"))
        return {}
    aliases: dict[str, str] = {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            names = [name.strip() for name in line.split(",")]
            aliases |= dict.fromkeys(names, names[0])
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the aliases cannot be read ({error})", where=path) from error
    return aliases


def _each(path: Path, key: str, images: Mapping[int, _Image], take: Callable[[_Image, list[Any]], None]) -> list[Fault]:
    """Have what a file says of each image taken; where that is wrong, it becomes the image's fault."""
    faults: list[Fault] = []
    seen: set[int] = set()
    for position, entry in enumerate(_list(path)):
        try:
            name, items = _whole(entry["image_id"]), entry[key]
        except (KeyError, TypeError, ValueError) as error:
            faults.append(Fault(path, f"entry {position}: {_reason(error)}"))
            continue
        image = images.get(name)
        if image is None or image.fault:
            continue
        try:
            if name in seen:
                raise ValueError("it is annotated twice")
            take(image, items)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            image.fault = (path, f"image {name}: {_reason(error)}")
        seen.add(name)
    return faults


def _name(image: _Image, items: list[Any], aliases: Mapping[str, str]) -> None:
    for item in items:
        key = _whole(item["object_id"])
        if key in image.named:
            raise ValueError(f"two objects have the id {key}")
        if not isinstance(item["names"], list):
            raise ValueError(f"the names of object {key} are no list")
        names = [aliases.get(str(name), str(name)) for name in item["names"]]
        image.named[key] = names, box_of([item["x"], item["y"], item["w"], item["h"]])


def _frequent_names(images: Mapping[int, _Image], least: int) -> list[str]:
    """The names that so many objects of train have, the most frequent first; equal ones as they are seen."""
    counts: Counter[str] = Counter()
    for image in images.values():
        if image.split == TRAIN and not image.fault:
            for names, _ in image.named.values():
                counts.update(list(dict.fromkeys(names)))
    return [name for name, count in counts.most_common() if count >= least]


def _keep(image: _Image, category_of: Mapping[str, int], min_side: float) -> int:
    """Keep the objects that have a class and are large enough, clipped to the image. Returns how many were clipped."""
    clipped = 0
    for key, (names, (x, y, w, h)) in image.named.items():
        known = [category_of[name] for name in names if name in category_of]
        if not known or w < min_side or h < min_side:
            continue
        x0, y0, x1, y1 = max(x, 0.0), max(y, 0.0), min(x + w, float(image.width)), min(y + h, float(image.height))
        if x1 <= x0 or y1 <= y0:  # all of it is outside
            continue
        clipped += (x0, y0, x1, y1) != (x, y, x + w, y + h)
        image.place[key] = len(image.objects)
        image.objects.append(SceneObject(known[0], (x0, y0, x1 - x0, y1 - y0)))
    image.named.clear()  # there are millions
    return clipped


def _tell(image: _Image, items: list[Any], aliases: Mapping[str, str]) -> None:
    for item in items:
        ends = [image.place.get(_whole(item[role]["object_id"])) for role in ("subject", "object")]
        predicate = str(item["predicate"]).lower().strip()
        if ends[0] is not None and ends[1] is not None:
            image.told.append((ends[0], aliases.get(predicate, predicate), ends[1]))


def _frequent_predicates(images: Mapping[int, _Image], least: int) -> list[str]:
    """The predicates of so many relations of train, the first seen first."""
    counts: Counter[str] = Counter()
    for image in images.values():
        if image.split == TRAIN and not image.fault:
            counts.update(predicate for _, predicate, _ in image.told)
    return [predicate for predicate, count in counts.items() if count >= least]


def _record(key: int, image: _Image, number: Mapping[str, int], rules: Rules) -> SceneRecord | None:
    """The scene of an image, None where the rules leave it out."""
    relations = tuple((s, number[predicate], o) for s, predicate, o in image.told if predicate in number)
    kept = (
        rules.min_objects <= len(image.objects) <= rules.max_objects
        and rules.min_relations <= len(relations) <= rules.max_relations
    )
    if not kept and not image.fault:
        return None
    extra: dict[str, Any] = {"size": (image.height, image.width)}
    return SceneRecord(
        id=f"{image.split}/{key}",
        split=image.split,
        image=image.path,
        objects=tuple(image.objects),
        relations=relations,
        extra={**extra, "fault": image.fault} if image.fault else extra,
    )


def _too_rare(what: str, rule: str, least: int, path: Path) -> DataError:
    return DataError(f"no {what} occurs {least} times in train", where=path, fix=f'write {{"{rule}": …}} into {RULES}')


def _list(path: Path) -> list[Any]:
    data = read_json(path)
    if not isinstance(data, list):
        raise DataError("the file is not laid out as Visual Genome's: it is no list", where=path)
    return data


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no whole number")
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, DataError):
        return error.what
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
