"""The project's own layout of a dataset.

    classes.json             what the label ids mean, see `read_classes`
    SPLIT/img/STEM.jpg       photos, PNG or JPEG, 8 bits per channel
    SPLIT/label/STEM.png     label ids, one channel
    SPLIT/inst/STEM.png      instances, one channel, in the encoding that classes.json names
    annotations_SPLIT.json   boxes, scene graphs, captions, licences: {"images": [{"file", "width", "height", "license",
                             "objects": [{"index", "class_id", "bbox", "iscrowd"}], "graph": {"objects", "triples"}}]}
    domains.csv              split,id and any of sequence (or group), domain
    SPLIT.txt                the stems of a split, which then must all be there

Of img, label and inst a split has any but inst alone; the folders that it has hold the same stems.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pipelines.data.instances import InstanceEncoding, decode_instances, require_encoding
from pipelines.data.listing import (
    Fault,
    Layers,
    ListedDataset,
    box_of,
    by_id,
    inside,
    partner,
    pictures,
    read_json,
    read_list,
)
from pipelines.data.palette import Color, distinct_colors
from pipelines.data.pixels import read_index_map, require_same_size
from pipelines.data.scene import Category, SceneObject, SceneRecord, Schema
from pipelines.errors import DataError


def recognizes_folder(root: Path) -> bool:
    return (root / "classes.json").is_file() and bool(_split_folders(root))


def open_folder(root: Path) -> ListedDataset:
    """List the scenes of a dataset in this project's layout. Raises DataError where a sidecar cannot be understood."""
    schema, encoding = read_classes(root / "classes.json")
    split_folders = _split_folders(root)
    if encoding is None and (unclear := [s for s in split_folders if (s / "inst").is_dir()]):
        raise DataError(
            f"inst_encoding is missing, but there are instance maps in {unclear[0].name}/inst",
            where=root / "classes.json",
            fix=f'add "inst_encoding": one of {", ".join(get_args(InstanceEncoding))}',
        )
    domains, faults = _read_domains(root / "domains.csv")
    schema = Schema(
        schema.classes,
        schema.ignored,
        tuple(sorted({row["domain"] for row in domains.values() if row["domain"]})),
        schema.relations,
    )
    records: list[SceneRecord] = []
    for folder in split_folders:
        annotations = _read_annotations(root / f"annotations_{folder.name}.json", schema, folder)
        split_records, split_faults = _list_split(folder, annotations, domains)
        records += split_records
        faults += [*annotations.faults, *split_faults]
        faults += _check_list(root / f"{folder.name}.txt", {record.id for record in split_records})
    listed = {record.id for record in records}
    for scene in sorted(set(domains) - listed):
        faults.append(Fault(root / "domains.csv", f"it names the scene {scene!r}, which is not there"))
    return ListedDataset(
        "folder", root, schema, by_id(records), partial(_decode, schema=schema, encoding=encoding), tuple(faults)
    )


def read_classes(path: Path) -> tuple[Schema, str | None]:
    """Read classes.json to a schema and the encoding of its instance maps, None where it names none.

    {"classes": [{"id", "name", "thing", "color"}], "ignore_id": ID or "ignored": [IDS], "inst_encoding",
    "predicates": [NAMES]}; only id, name and thing of each class are required, a class whose id is ignored is no class,
    and a missing color is chosen unlike the others. Raises DataError naming the entry that is wrong.
    """
    data = read_json(path)
    try:
        ignored = [] if data.get("ignore_id") is None else [data["ignore_id"]]
        ignored = sorted({_integer(value) for value in [*ignored, *data.get("ignored", [])]})
        relations = tuple(str(name) for name in data.get("predicates", []))
        entries = list(data["classes"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"the file is not laid out as it should be ({_reason(error)})", where=path) from error
    classes: list[tuple[int, str, Color | None, bool]] = []
    for number, entry in enumerate(entries):
        try:
            label = _integer(entry["id"])
            if not isinstance(entry["thing"], bool):
                raise ValueError("thing is neither true nor false")
            if label not in ignored:
                classes.append((label, str(entry["name"]), _color(entry.get("color")), entry["thing"]))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"class number {number} is wrong ({_reason(error)})", where=path) from error
    if not classes:
        raise DataError("the schema has no classes", where=path, fix="list at least one class that is not ignored")
    free = iter(distinct_colors(len(classes), [color for _, _, color, _ in classes if color]))
    try:
        schema = Schema(
            tuple(Category(label, name, color or next(free), thing) for label, name, color, thing in classes),
            tuple(ignored),
            relations=relations,
        )
    except DataError as error:
        raise DataError(error.what, where=path, fix=error.fix) from error
    encoding = data.get("inst_encoding")
    if encoding is not None:
        require_encoding(encoding, schema, path)
    return schema, encoding


@dataclass
class _Annotations:
    """What annotations_SPLIT.json says of each stem: fields of its record, or (file, reason) why it is wrong."""

    path: Path
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    wrong: dict[str, tuple[Path, str]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


def _split_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return sorted(
        path
        for path in root.iterdir()
        if not path.name.startswith(".") and ((path / "img").is_dir() or (path / "label").is_dir())
    )


def _list_split(
    folder: Path, annotations: _Annotations, domains: dict[str, dict[str, str]]
) -> tuple[list[SceneRecord], list[Fault]]:
    """The records of one split. A partner that is missing is named where it should be; reading it tells."""
    layers: dict[str, dict[str, list[Path]]] = {}
    faults: list[Fault] = []
    for name, suffixes in (("img", (".jpg", ".jpeg", ".png")), ("label", (".png",)), ("inst", (".png",))):
        if (folder / name).is_dir():
            layers[name], strays = pictures(folder / name, suffixes)
            faults += strays
    if "inst" in layers and "label" not in layers:
        raise DataError("there are instance maps but no label maps", where=folder / "inst", fix="add label/")
    stems = sorted(set().union(*layers.values()))
    for stem in sorted(set(annotations.fields) | set(annotations.wrong)):
        if stem not in stems:
            faults.append(Fault(annotations.path, f"it annotates {stem!r}, which is not in {folder.name}"))
    records = []
    for stem in stems:
        paths: dict[str, Path] = {}
        fault = annotations.wrong.get(stem)
        for name, found in layers.items():
            expected = folder / name / f"{stem}.{'jpg' if name == 'img' else 'png'}"
            paths[name], repeats = partner(found, stem, expected)
            fault = repeats or fault
        scene = f"{folder.name}/{stem}"
        row = domains.get(scene, {})
        values = annotations.fields.get(stem, {})
        extra = {**values.get("extra", {}), **({"fault": fault} if fault else {})}
        records.append(
            SceneRecord(
                id=scene,
                split=folder.name,
                image=paths.get("img"),
                labels=paths.get("label"),
                instances=paths.get("inst"),
                group=row.get("group", ""),
                domain=row.get("domain", ""),
                licence=values.get("licence", ""),
                objects=values.get("objects", ()),
                relations=values.get("relations", ()),
                extra=extra,
            )
        )
    return records, faults


def _decode(record: SceneRecord, *, schema: Schema, encoding: str | None) -> Layers:
    if record.labels is None:
        return None, None
    labels = schema.indices(read_index_map(record.labels), record.labels)
    if record.instances is None or encoding is None:
        return labels, None
    values = read_index_map(record.instances)
    require_same_size(values, record.instances, "instance map", labels, "label map")
    crowd = record.extra.get("crowd", ())
    return labels, decode_instances(values, labels, schema, encoding, record.instances, crowd)


def _read_domains(path: Path) -> tuple[dict[str, dict[str, str]], list[Fault]]:
    """domains.csv: scene id to its group and domain, "" where not given; and what is wrong with it."""
    if not path.exists():
        return {}, []
    rows: dict[str, dict[str, str]] = {}
    faults = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = {"split", "id"} - set(reader.fieldnames or ())
            if missing:
                raise DataError(f"the columns {', '.join(sorted(missing))} are missing", where=path)
            for row in reader:
                scene = f"{row['split']}/{row['id']}"
                if scene in rows:
                    faults.append(Fault(path, f"line {reader.line_num}: the scene {scene!r} repeats"))
                group = row.get("sequence") or row.get("group") or ""
                rows[scene] = {"group": group, "domain": row.get("domain") or ""}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"the table cannot be read ({error})", where=path) from error
    return rows, faults


def _check_list(path: Path, scenes: set[str]) -> list[Fault]:
    if not path.exists():
        return []
    named = {f"{path.stem}/{stem}" for stem in read_list(path)}
    faults = [Fault(path, f"it names the scene {scene!r}, which is not there") for scene in sorted(named - scenes)]
    if left := sorted(scenes - named):
        faults.append(Fault(path, f"{len(left)} scenes are not in it, the first {left[0]!r}; they are used", "warning"))
    return faults


def _read_annotations(path: Path, schema: Schema, folder: Path) -> _Annotations:
    """Read annotations_SPLIT.json once. An entry that is wrong becomes its scene's fault; a wrong file raises."""
    result = _Annotations(path)
    if not path.exists():
        return result
    data = read_json(path)
    if not isinstance(data, dict) or not isinstance(data.get("images"), list):
        raise DataError('there is no list "images"', where=path)
    for number, entry in enumerate(data["images"]):
        try:
            name = str(entry["file"])
            inside(folder / "img", name, path)
        except DataError as error:
            result.faults.append(Fault(path, f"images[{number}]: {error.what}"))
            continue
        except (KeyError, TypeError) as error:
            result.faults.append(Fault(path, f"images[{number}]: {_reason(error)}"))
            continue
        stem = Path(name).stem
        if stem in result.fields or stem in result.wrong:
            result.wrong[stem] = (path, f"images[{number}]: {name!r} is annotated twice")
            continue
        try:
            result.fields[stem] = _annotation(entry, schema)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            result.wrong[stem] = (path, f"images[{number}] ({name}): {_reason(error)}")
    return result


def _annotation(entry: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """The fields of a record that an entry of images[] gives. Raises KeyError, TypeError or ValueError."""
    index_of = {category.id: index for index, category in enumerate(schema.classes)}
    objects: list[SceneObject] = []
    crowd: list[int] = []
    position: dict[int, int] = {}  # stored instance value -> position among the objects
    for item in entry.get("objects", []):
        stored, label = _integer(item.get("index", 0)), _integer(item["class_id"])
        if label in schema.ignored:
            continue
        if label not in index_of:
            raise ValueError(f"class_id {label} is outside the classes")
        category, many = index_of[label], bool(item.get("iscrowd", False))
        if many:
            crowd.append(stored)
        if stored in position:
            raise ValueError(f"two objects have the index {stored}")
        if stored:
            position[stored] = len(objects)
        single = schema.classes[category].thing and not many
        objects.append(SceneObject(category, box_of(item["bbox"]), stored if single else 0, many))
    extra = {key: entry[key] for key in ("captions", "flickr_url") if entry.get(key)}
    if crowd:
        extra["crowd"] = tuple(crowd)
    if "width" in entry and "height" in entry:
        extra["size"] = (_integer(entry["height"]), _integer(entry["width"]))
    return {
        "licence": str(entry.get("license") or ""),
        "objects": tuple(objects),
        "relations": _relations(entry.get("graph") or {}, position, schema.relations),
        "extra": extra,
    }


def _relations(
    graph: dict[str, Any], position: dict[int, int], names: Sequence[str]
) -> tuple[tuple[int, int, int], ...]:
    """The triples of a scene graph as (subject, relation, object), positions in the record's objects."""
    members = [position.get(_integer(stored)) for stored in graph.get("objects", [])]
    triples = []
    for subject, name, target in graph.get("triples", []):
        if name not in names:
            raise ValueError(f"the relation {name!r} is not among the predicates of classes.json")
        ends = members[_integer(subject)], members[_integer(target)]
        if ends[0] is not None and ends[1] is not None:
            triples.append((ends[0], names.index(name), ends[1]))
    return tuple(triples)


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{value!r} is no integer")
    return value


def _color(value: Any) -> Color | None:
    if value is None:
        return None
    red, green, blue = (_integer(v) for v in value)
    if not all(0 <= v <= 255 for v in (red, green, blue)):
        raise ValueError(f"{value} is no color of three values from 0 to 255")
    return red, green, blue


def _reason(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)
