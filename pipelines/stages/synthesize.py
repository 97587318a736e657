"""rgs synthesize: from layouts to images, with guidance, provenance (as records and as pictures) and a contact sheet.

No dataset is needed: a run knows its classes. `--data` names a dataset instead of layouts, for its instance maps, its
photos (oracle retrieval) and its groups (what may not be retrieved).
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from pydantic import Field

from pipelines.artifact import (
    Artifact,
    Input,
    digest_json,
    open_artifact,
    relative_path,
    require_free,
    sha256_file,
    writing,
)
from pipelines.bank.bank import Bank
from pipelines.compose.attribution import attribution_picture, write_picture
from pipelines.compose.provenance import output_record
from pipelines.config import Config, Layer, resolve
from pipelines.data.augment import Size
from pipelines.data.digest import dataset_digest
from pipelines.data.instances import InstanceEncoding, connected_instances
from pipelines.data.layouts import list_layouts, read_instances, read_layout
from pipelines.data.open import open_dataset
from pipelines.data.palette import paint_labels
from pipelines.data.scene import IGNORED, Dataset, SceneRecord, Schema
from pipelines.data.sheet import contact_sheet
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.index.shape_index import ShapeIndex
from pipelines.progress import Progress, silent
from pipelines.runtime import Precision, pick_device
from pipelines.stages.train import require_same_classes
from pipelines.systems.base import LayoutItem, Needs, Sources, Synthesis, System
from pipelines.systems.table import SYSTEMS, find_system
from pipelines.systems.trained import LoadedRun, load_networks
from pipelines.train.log import to_uint8
from pipelines.train.run import parse_reference

SHEET_ROWS = 12
OF_GUIDANCE = ("guidance", "provenance", "attribution")
"""The folders that only systems with guidance fill."""


class Synthesize(Config):
    """What decides the images, beside the run, the bank and the layouts."""

    size: Literal["layout", "run"] | Size = "layout"
    """Size of the images: that of each layout, that of the run's training, or (h, w)."""
    num: int = Field(1, ge=1)
    """Images per layout; they differ by retrieval rank, noise or style, as the system has it."""
    seed: int = Field(0, ge=0)
    """Every random draw is keyed by this, the layout's name and the number of the image."""
    batch: int = Field(4, ge=1)
    """Layouts of one size that pass the generator together."""
    precision: Precision = "fp32"
    """Arithmetic of the generator; bf16 is faster on processors that have it, and less exact."""
    averaged: bool = True
    """Use the averaged weights where the run keeps them."""
    split: str | None = None
    """With a dataset: which split."""
    format: str | None = None
    """With a dataset: its format; recognized when not given."""
    inst_encoding: InstanceEncoding = "index"
    """With a folder of instance maps: how they number things."""
    exclude: Literal["none", "source", "group"] = "none"
    """With a dataset: bank pieces of the same image, or of the same group, are not retrieved."""
    pictures: bool = True
    """Where pieces were retrieved: also draw which source fed which pixels, attribution/NAME.jpg."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What the system may be asked; `rgs show system NAME` lists it."""


@dataclass(frozen=True)
class Requested:
    """The paths that a synthesis is given: layouts (and a folder of instance maps) or a dataset."""

    run: str
    inputs: Sequence[Path] = ()
    instances: Path | None = None
    data: Path | None = None
    bank: Path | None = None
    index: Path | None = None


@dataclass(frozen=True)
class Opened:
    """What was asked for, opened and checked."""

    loaded: LoadedRun
    system: System
    options: Any
    sources: Sources
    layouts: list[Path] | list[SceneRecord]
    dataset: Dataset | None
    inputs: list[Input]


def run(
    config: Synthesize, requested: Requested, out: Path, *, device: str = "auto", progress: Progress = silent
) -> tuple[Artifact, list[str]]:
    """Make the images. Returns the samples and what a person should know («things are connected components»)."""
    opened = open_request(config, requested, out)
    where = pick_device(device)
    for net in opened.loaded.nets.values():
        net.to(where)
    notes: list[str] = []
    statistics: dict[str, Any] = {
        "schema": opened.loaded.schema.to_json(),
        "system": opened.loaded.name,
        "trained_with": opened.loaded.weights.manifest["trained_with"],
        "teachers": opened.loaded.weights.manifest.get("teachers", {}),
    }
    total = len(opened.layouts) * config.num
    with writing(out, "samples", config, opened.inputs, statistics) as folder:
        written: list[dict[str, Any]] = []
        lines: list[dict[str, Any]] = []
        rows: list[list[np.ndarray]] = []
        for name in ("images", "layouts", *OF_GUIDANCE):
            (folder / name).mkdir(exist_ok=True)
        items = _items(config, requested, opened, notes)
        for batch in _same_size(items, config.batch):
            synthesis = _synthesize(config, opened, batch, where)
            for k, item in enumerate(batch):
                entry, record, row = _write(folder, config, opened, item, synthesis, k)
                written.append(entry)
                if len(rows) < SHEET_ROWS:
                    rows.append(row)
                if record is not None:
                    lines.append(record)
            progress("synthesize", len(written), total)
        _write_jsonl(folder / "samples.jsonl", written)
        if lines:
            _write_jsonl(folder / "provenance.jsonl", lines)
        for name in OF_GUIDANCE:
            if not any((folder / name).iterdir()):
                (folder / name).rmdir()
        columns = ["layout", "guidance", "output"] if len(rows[0]) == 3 else ["layout", "output"]
        _write_png(folder / "contact-sheet.png", contact_sheet(rows, columns))
        statistics["count"] = len(written)
        statistics["layouts"] = len(opened.layouts)
    return open_artifact(out, "samples"), notes


def plan(config: Synthesize, requested: Requested, out: Path) -> dict[str, Any]:
    """What `run` would do: the resolved config, the inputs with their digests, the images to be written."""
    require_free(out)
    opened = open_request(config, requested, out)
    return {
        "system": opened.loaded.name,
        "config": config.model_dump(mode="json"),
        "options": opened.options.model_dump(mode="json"),
        "inputs": [i.to_json() for i in opened.inputs],
        "images": len(opened.layouts) * config.num,
        "out": str(out),
    }


def open_request(config: Synthesize, requested: Requested, out: Path) -> Opened:
    """Open the run, the bank, the index and the layouts, and check that they belong together."""
    home = out.parent
    path, step = parse_reference(requested.run)
    loaded = load_networks(path, step, averaged=config.averaged)
    if loaded.name not in SYSTEMS:
        raise ArtifactError(
            f"this is a run of {loaded.name}, which makes no images", where=path, fix="name a generator"
        )
    kind = find_system(loaded.name)
    loaded.nets["G"]  # an imported run says here, before anything is written, that it holds another network alone
    options = resolve(kind.Options, [Layer("the synthesis options", config.options)])
    inputs = [loaded.weights.as_input("run", home)]
    needs = kind.plan(loaded.config, loaded.schema, 1).synthesize
    bank, index = _retrieval(needs, options, requested, loaded, home, inputs)
    if (requested.data is None) == (not requested.inputs):
        raise ConfigError("give either layouts or a dataset", fix="--inputs FOLDER|FILE…|- or --data DATASET")
    if needs.bank is None and config.exclude != "none":
        raise ConfigError(f"{loaded.name} retrieves nothing that could be excluded", fix="leave out --exclude")
    layouts: list[Path] | list[SceneRecord]
    dataset = None
    if requested.data is not None:
        if requested.instances is not None:
            raise ConfigError("a dataset brings its own instance maps", fix="leave out --instances")
        dataset = open_dataset(requested.data, config.format)
        require_same_classes(loaded.schema, dataset.schema, "the dataset", requested.data)
        layouts = [r for r in dataset.records(config.split) if r.labels is not None or dataset.format == "coco"]
        names = Counter(Path(r.id).name for r in layouts)
        if names and (most := names.most_common(1)[0])[1] > 1:
            raise ConfigError(f"two scenes of the dataset are named {most[0]!r}", fix="choose one split with --split")
        inputs.append(Input("layouts", relative_path(requested.data, home), dataset_digest(dataset, layouts)))
    else:
        if config.exclude != "none":
            raise ConfigError("only a dataset knows which pieces are a layout's own", fix="use --data, or no --exclude")
        layouts = list_layouts(requested.inputs[0] if len(requested.inputs) == 1 else requested.inputs)
        digest = digest_json([[layout.stem, sha256_file(layout)] for layout in layouts])
        inputs.append(Input("layouts", relative_path(Path(requested.inputs[0]), home), digest))
        if requested.instances is not None:
            maps = [_instance_map(requested.instances, layout) for layout in layouts]
            digest = digest_json([[file.stem, sha256_file(file)] for file in maps])
            inputs.append(Input("instances", relative_path(requested.instances, home), digest))
    if not layouts:
        raise DataError("there is no layout to make an image of", where=requested.data or requested.inputs[0])
    system = kind(loaded.config, loaded.schema)
    return Opened(loaded, system, options, Sources(bank=bank, index=index), layouts, dataset, inputs)


def _retrieval(
    needs: Needs, options: Any, requested: Requested, loaded: LoadedRun, home: Path, inputs: list[Input]
) -> tuple[Bank | None, ShapeIndex | None]:
    """The bank and the index that the run was trained with, or the ones given instead; they must fit each other."""
    if needs.bank is None:
        for what, path in (("bank", requested.bank), ("index", requested.index)):
            if path is not None:
                raise ConfigError(f"{loaded.name} uses no {what}", fix=f"leave out --{what}")
        return None, None
    bank_path = requested.bank or _recorded(loaded, "bank")
    bank = Bank.open(bank_path)
    require_same_classes(loaded.schema, bank.schema, "the bank", bank_path)
    inputs.append(bank.artifact.as_input("bank", home))
    if getattr(options, "retrieval", "shape") != "shape":
        if requested.index is not None:
            raise ConfigError(f"retrieval «{options.retrieval}» asks no index", fix="leave out --index")
        return bank, None
    if requested.bank is not None and requested.index is None:
        raise ConfigError("another bank needs its own index", fix="give --index, made by rgs train index --bank …")
    index_path = requested.index or _recorded(loaded, "index")
    index = ShapeIndex.open(index_path, bank)
    inputs.append(index.artifact.as_input("index", home))
    return bank, index


def _recorded(loaded: LoadedRun, role: str) -> Path:
    """Where the run found an input. ArtifactError when it is no longer there, ConfigError when it never had one."""
    given = next((i for i in loaded.weights.manifest["inputs"] if i["role"] == role), None)
    if given is None:
        raise ConfigError(
            f"the run was imported, not trained here: it knows no {role}",
            where=loaded.weights.run,
            fix="give --bank and --index; rgs build-bank and rgs train index make them",
        )
    path = loaded.weights.run.parent / given["path"]
    if not path.is_dir():
        raise ArtifactError(
            f"the {role} of the run is not at {given['path']}", where=loaded.weights.run, fix=f"give --{role}"
        )
    return path


def _items(config: Synthesize, requested: Requested, opened: Opened, notes: list[str]) -> Iterator[LayoutItem]:
    """The layouts, read one by one, each as often as images are asked of it."""
    schema = opened.loaded.schema
    for entry in opened.layouts:
        instances: np.ndarray | None = None
        if isinstance(entry, SceneRecord):
            assert opened.dataset is not None
            scene = opened.dataset.read(entry)
            if scene.labels is None:
                raise DataError("the scene has no label map", where=entry.id)
            name, labels, instances, image = Path(entry.id).name, scene.labels, scene.instances, scene.image
            exclude = None if config.exclude == "none" else (config.exclude, _own(opened.sources.bank, entry))
        else:
            name, labels, image, exclude = entry.stem, read_layout(entry, schema), None, None
            if requested.instances is not None:
                instances = _instances_of(requested.instances, entry, labels, schema, config.inst_encoding)
        if instances is None:
            instances = connected_instances(labels, schema)
            note = "no instance map was given: things are connected components of their class"
            if note not in notes and schema.things.any():
                notes.append(note)
        size = _size(config, labels.shape, opened.loaded.config.framing.size)
        item = LayoutItem(name, labels, instances, size, image, exclude)
        for variant in range(config.num):
            yield replace(item, variant=variant)


def _instances_of(
    folder: Path, layout: Path, labels: np.ndarray, schema: Schema, encoding: InstanceEncoding
) -> np.ndarray:
    return read_instances(_instance_map(folder, layout), labels, schema, encoding)


def _instance_map(folder: Path, layout: Path) -> Path:
    file = folder / f"{layout.stem}.png"
    if not file.is_file():
        raise DataError(
            f"the layout {layout.name} has no instance map", where=file, fix="add it, or leave out --instances"
        )
    return file


def _own(bank: Bank | None, record: SceneRecord) -> str:
    """The name under which a bank knows a scene's own pieces: the scene, or its group where the scene is not in it."""
    in_bank = bank is not None and len(bank.rows_of_source(record.id)) > 0
    return record.id if in_bank or not record.group else record.group


def _size(config: Synthesize, layout: tuple[int, ...], trained: Size) -> Size:
    if config.size == "layout":
        return layout[0], layout[1]
    return trained if config.size == "run" else config.size


def _same_size(items: Iterator[LayoutItem], batch: int) -> Iterator[list[LayoutItem]]:
    """Consecutive layouts of one size, at most `batch` of them."""
    for _, group in groupby(items, key=lambda item: item.size):
        chunk: list[LayoutItem] = []
        for item in group:
            chunk.append(item)
            if len(chunk) == batch:
                yield chunk
                chunk = []
        if chunk:
            yield chunk


@torch.no_grad()
def _synthesize(config: Synthesize, opened: Opened, items: list[LayoutItem], device: torch.device) -> Synthesis:
    requests = []
    for item in items:
        rng = np.random.default_rng([config.seed, zlib.crc32(item.name.encode()), item.variant])
        requests.append(opened.system.request(item, opened.sources, opened.options, rng))
    batch = opened.system.collate(requests)
    batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        return opened.system.synthesize(opened.loaded.nets, {}, batch, opened.options)


def _write(
    folder: Path, config: Synthesize, opened: Opened, item: LayoutItem, synthesis: Synthesis, k: int
) -> tuple[dict[str, Any], dict[str, Any] | None, list[np.ndarray]]:
    """Write the files of one image; its lines of samples.jsonl and provenance.jsonl, its contact sheet row."""
    schema = opened.loaded.schema
    name = item.name if config.num == 1 else f"{item.name}-{item.variant + 1}"
    entry: dict[str, Any] = {"name": name, "source": item.name, "variant": item.variant, "guidance": None}
    image, labels = to_uint8(synthesis.images[k : k + 1])[0], item.sized_labels
    row = [paint_labels(labels, schema)]

    def write(kind: str, pixels: np.ndarray) -> str:
        _write_png(folder / kind / f"{name}.png", pixels)
        return f"{kind}/{name}.png"

    entry["image"] = write("images", image)
    entry["layout"] = write("layouts", label_ids(labels, schema))
    record = None
    if synthesis.guidance is not None:
        guidance = to_uint8(synthesis.guidance[k : k + 1])[0]
        entry["guidance"] = write("guidance", guidance)
        row.append(guidance)
        if synthesis.provenance is not None:
            index, pieces = synthesis.provenance[k]
            entry["provenance"] = write("provenance", index)
            record = output_record(name, getattr(opened.options, "retrieval", "shape"), index, pieces)
            if config.pictures and pieces:
                entry["attribution"] = f"attribution/{name}.jpg"
                write_picture(folder / entry["attribution"], attribution_picture(guidance, image, index, record))
    return entry, record, [*row, image]


def label_ids(labels: np.ndarray, schema: Schema) -> np.ndarray:
    """(h, w) class indices back to the dataset's label ids, uint8 or uint16; ignored pixels get an ignored id."""
    spare = schema.ignored[0] if schema.ignored else next(i for i in (255, 65535) if i not in schema.ids)
    table = np.append(schema.ids, spare)
    ids = table[np.where(labels == IGNORED, len(schema.ids), labels)]
    return ids.astype(np.uint8 if table.max() < 256 and table.min() >= 0 else np.uint16)


def _write_png(path: Path, pixels: np.ndarray) -> None:
    """(h, w) or (h, w, 3) RGB, 8 or 16 bits."""
    _, data = cv2.imencode(".png", pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    path.write_bytes(data.tobytes())


def _write_jsonl(path: Path, lines: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
