"""rgs synthesize: from layouts, scene graphs or photos of another view to images with guidance, provenance and a
contact sheet.

No dataset is needed: a run knows its classes. `--data` names a dataset instead of layouts, for its instance maps, its
photos (oracle retrieval) and its groups (what may not be retrieved); or instead of graphs, for those of its scenes.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from pydantic import Field
from torch import nn

from pipelines.artifact import (
    Artifact,
    Input,
    open_artifact,
    require_free,
    writing,
)
from pipelines.bank.bank import Bank
from pipelines.compose.attribution import attribution_picture, write_picture
from pipelines.compose.provenance import output_record
from pipelines.config import Config, Layer, resolve
from pipelines.data.augment import Size
from pipelines.data.graph import graph_to_json
from pipelines.data.graph_picture import draw_graph
from pipelines.data.instances import InstanceEncoding
from pipelines.data.palette import paint_labels
from pipelines.data.scene import IGNORED, Schema
from pipelines.data.sheet import contact_sheet
from pipelines.embed.graph_encoder import GraphEncoder
from pipelines.errors import ArtifactError, ConfigError, DataError
from pipelines.index.embedding_index import EmbeddingIndex, embedder_of, require_embedder
from pipelines.index.prefilter import Prefilter
from pipelines.index.shape_index import ShapeIndex
from pipelines.progress import Progress, silent
from pipelines.runtime import Precision, pick_device
from pipelines.stages.synthesis_items import Item, Listed, Subject, list_items, read_items, same_size
from pipelines.stages.train import require_same_classes
from pipelines.systems.base import GraphItem, Needs, PhotoItem, Refreshed, Sources, Synthesis, System
from pipelines.systems.table import EMBEDDERS, SYSTEMS, find_system
from pipelines.systems.trained import LoadedRun, as_frozen, load_networks
from pipelines.train.log import to_uint8
from pipelines.train.run import parse_reference

SHEET_ROWS = 12
FOLDERS: dict[Subject, str] = {"layout": "layouts", "photo": "inputs", "graph": "graphs"}
"""Where samples keep what they were made of."""
GRAPH = "graph"
"""The role of the embedder whose vectors an index of patches holds."""
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
    """What a synthesis is given: layouts (and a folder of instance maps), photos, graphs, or a dataset of them.

    graphs: files of scene graphs, or graphs in words.
    frozen: other runs than those recorded, by role; they must hold the very weights that the run was trained with.
    """

    run: str
    inputs: Sequence[Path] = ()
    graphs: Sequence[str] = ()
    instances: Path | None = None
    data: Path | None = None
    bank: Path | None = None
    index: Path | None = None
    frozen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Opened:
    """What was asked for, opened and checked.

    subject: what images are made of. view: which one the photos show, None where they are made of anything else.
    """

    loaded: LoadedRun
    system: System
    options: Any
    sources: Sources
    frozen: dict[str, nn.Module]
    subject: Subject
    view: str | None
    listed: Listed
    inputs: list[Input]


def run(
    config: Synthesize, requested: Requested, out: Path, *, device: str = "auto", progress: Progress = silent
) -> tuple[Artifact, list[str]]:
    """Make the images. Returns the samples and what a person should know («things are connected components»)."""
    opened = open_request(config, requested, out)
    where = pick_device(device)
    for net in (*opened.loaded.nets.values(), *opened.frozen.values()):
        net.to(where)
    if isinstance(opened.system, Refreshed):
        opened.system.refresh(opened.loaded.nets, opened.sources, 0, None, where)
    notes: list[str] = []
    placed = any(isinstance(entry, tuple) and entry[1].boxes is not None for entry in opened.listed.entries)
    if placed and opened.options.boxes == "predicted":
        notes.append("the graphs' own boxes were not used; --set options.boxes=given paints in them")
    statistics: dict[str, Any] = {
        "schema": opened.loaded.schema.to_json(),
        "system": opened.loaded.name,
        "trained_with": opened.loaded.weights.manifest["trained_with"],
        "teachers": opened.loaded.weights.manifest.get("teachers", {}),
    }
    if opened.view is not None:
        statistics |= {"source_view": opened.view, "target_view": opened.loaded.config.target}
    total = len(opened.listed.entries) * config.num
    with writing(out, "samples", config, opened.inputs, statistics) as folder:
        written: list[dict[str, Any]] = []
        lines: list[dict[str, Any]] = []
        rows: list[list[np.ndarray]] = []
        for name in ("images", FOLDERS[opened.subject], *OF_GUIDANCE):
            (folder / name).mkdir(exist_ok=True)
        items = read_items(config, requested, opened, notes)
        for batch in same_size(items, config.batch):
            synthesis = _synthesize(config, opened, batch, where)
            for k, item in enumerate(batch):
                entry, record, row = _write(folder, config, opened, item, synthesis, k)
                written.append(entry)
                if len(rows) < SHEET_ROWS:
                    rows.append(row)
                if record is not None:
                    lines.append(record)
            progress("synthesize", len(written), total)
        if not written:
            raise DataError("no scene of the dataset makes a graph", fix="see graph.min_area in the bank's config.yaml")
        _write_jsonl(folder / "samples.jsonl", written)
        if lines:
            _write_jsonl(folder / "provenance.jsonl", lines)
        for name in OF_GUIDANCE:
            if not any((folder / name).iterdir()):
                (folder / name).rmdir()
        columns = [opened.view or opened.subject, *["guidance"][: len(rows[0]) - 2], "output"]
        _write_png(folder / "contact-sheet.png", contact_sheet(rows, columns))
        statistics["count"] = len(written)
        statistics[f"{opened.subject}s"] = len({entry["source"] for entry in written})
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
        "images": len(opened.listed.entries) * config.num,
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
    sources = _retrieval(needs, options, requested, loaded, home, inputs)
    frozen = _frozen(needs, requested, loaded, home, inputs)
    view = needs.views[0] if needs.views else None
    subject: Subject = "photo" if view else "graph" if needs.graph else "layout"
    listed = list_items(config, requested, loaded, subject, view, needs.bank is not None, home)
    system = kind(loaded.config, loaded.schema)
    return Opened(loaded, system, options, sources, frozen, subject, view, listed, inputs + listed.inputs)


def _frozen(
    needs: Needs, requested: Requested, loaded: LoadedRun, home: Path, inputs: list[Input]
) -> dict[str, nn.Module]:
    """The networks of other runs that synthesis leans on; they must be the very ones of the training."""
    searched = {GRAPH} if needs.graph and needs.index else set()
    for role in requested.frozen.keys() - needs.frozen.keys() - searched:
        raise ConfigError(f"{loaded.name} with this config uses no {role!r}", fix=f"leave out --with {role}=…")
    frozen: dict[str, nn.Module] = {}
    for role, kind in needs.frozen.items():
        wanted = loaded.weights.manifest.get("trained_with", {}).get(role)
        if wanted is None:
            raise ArtifactError(f"the run does not say which {role} it was trained with", where=loaded.weights.run)
        if role in requested.frozen:
            path, step = parse_reference(requested.frozen[role])
        else:
            path, step = _recorded(loaded, role), _recorded_step(loaded, role)
        other = load_networks(path, step, trainable=kind)
        if other.digest != wanted:
            raise ArtifactError(
                f"the run was trained with the {role} {wanted[:8]}…, this one is {other.digest[:8]}…",
                where=path,
                fix=f"give the weights of the training with --with {role}=RUN@STEP, or train the generator again",
            )
        frozen[role] = as_frozen(other)
        inputs.append(other.weights.as_input(role, home))
    return frozen


def _recorded_step(loaded: LoadedRun, role: str) -> int | None:
    step: int | None = next(i.get("step") for i in loaded.weights.manifest["inputs"] if i["role"] == role)
    return step


def _retrieval(
    needs: Needs, options: Any, requested: Requested, loaded: LoadedRun, home: Path, inputs: list[Input]
) -> Sources:
    """The bank and the index that the run was trained with, or the ones given instead; they must fit each other."""
    for what, path, needed in (("bank", requested.bank, needs.bank), ("index", requested.index, needs.index)):
        if path is not None and needed is None:
            raise ConfigError(f"{loaded.name} with this config uses no {what}", fix=f"leave out --{what}")
    if needs.bank is None:
        return Sources()
    bank_path = requested.bank or _recorded(loaded, "bank")
    bank = Bank.open(bank_path)
    bank.require_kind(needs.bank, loaded.name)
    require_same_classes(loaded.schema, bank.schema, "the bank", bank_path)
    inputs.append(bank.artifact.as_input("bank", home))
    if needs.index is None:
        return Sources(bank=bank)
    if getattr(options, "retrieval", "shape") != "shape":
        if requested.index is not None:
            raise ConfigError(f"retrieval «{options.retrieval}» asks no index", fix="leave out --index")
        return Sources(bank=bank)
    if requested.bank is not None and requested.index is None:
        raise ConfigError("another bank needs its own index", fix="give --index, made by rgs train index --bank …")
    index_path = requested.index or _recorded(loaded, "index")
    if needs.index == "embedding":
        vectors = EmbeddingIndex.open(index_path, bank)
        inputs.append(vectors.artifact.as_input("index", home))
        return Sources(bank=bank, prefilter=_prefilter(vectors, requested, home, inputs))
    index = ShapeIndex.open(index_path, bank)
    inputs.append(index.artifact.as_input("index", home))
    return Sources(bank=bank, index=index)


def _prefilter(index: EmbeddingIndex, requested: Requested, home: Path, inputs: list[Input]) -> Prefilter:
    """What finds candidates for the objects of a graph: the index, with the graph embedder that it was made with."""
    made_with = embedder_of(index.artifact)
    recorded = f"{index.artifact.path.parent / made_with.path}@{made_with.step}"
    path, step = parse_reference(requested.frozen.get(GRAPH, recorded))
    if not path.is_dir():
        raise ArtifactError(
            f"the graph embedder of the index is not at {made_with.path}",
            where=index.artifact.path,
            fix=f"give --with {GRAPH}=RUN",
        )
    loaded = load_networks(path, step, trainable=EMBEDDERS[GRAPH])
    encoder = loaded.nets["encoder"]
    assert isinstance(encoder, GraphEncoder)
    require_embedder(index.artifact, loaded.digest, index.vectors.dimension)
    inputs.append(loaded.weights.as_input(GRAPH, home))
    return Prefilter(index, encoder)


def _recorded(loaded: LoadedRun, role: str) -> Path:
    """Where the run found an input. ArtifactError when it is no longer there, ConfigError when it never had one."""
    given = next((i for i in loaded.weights.manifest["inputs"] if i["role"] == role), None)
    if given is None:
        raise ConfigError(
            f"the run was imported, not trained here: it knows no {role}",
            where=loaded.weights.run,
            fix="give --bank and --index; rgs build-bank and rgs train index make them",
        )
    path: Path = loaded.weights.run.parent / given["path"]
    if not path.is_dir():
        flag = f"--{role}" if role in ("bank", "index") else f"--with {role}=RUN"
        raise ArtifactError(
            f"the {role} of the run is not at {given['path']}", where=loaded.weights.run, fix=f"give {flag}"
        )
    return path


@torch.no_grad()
def _synthesize(config: Synthesize, opened: Opened, items: list[Item], device: torch.device) -> Synthesis:
    requests = []
    for item in items:
        rng = np.random.default_rng([config.seed, zlib.crc32(item.name.encode()), item.variant])
        requests.append(opened.system.request(item, opened.sources, opened.options, rng))
    batch = opened.system.collate(requests)
    batch = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.precision == "bf16"):
        return opened.system.synthesize(opened.loaded.nets, opened.frozen, batch, opened.options)


def _write(
    folder: Path, config: Synthesize, opened: Opened, item: Item, synthesis: Synthesis, k: int
) -> tuple[dict[str, Any], dict[str, Any] | None, list[np.ndarray]]:
    """Write the files of one image; its lines of samples.jsonl and provenance.jsonl, its contact sheet row."""
    schema = opened.loaded.schema
    name = item.name if config.num == 1 else f"{item.name}-{item.variant + 1}"
    entry: dict[str, Any] = {"name": name, "source": item.name, "variant": item.variant, "guidance": None}
    image = to_uint8(synthesis.images[k : k + 1])[0]

    def write(kind: str, pixels: np.ndarray) -> str:
        _write_png(folder / kind / f"{name}.png", pixels)
        return f"{kind}/{name}.png"

    entry["image"] = write("images", image)
    if isinstance(item, GraphItem):
        assert synthesis.graphs is not None
        made = synthesis.graphs[k]
        entry["graph"], entry["picture"] = f"graphs/{name}.json", f"graphs/{name}.png"
        used = replace(item.graph, boxes=np.asarray(made["boxes"], np.float32))
        given = None if item.graph.boxes is None else item.graph.boxes.round(6).tolist()
        document = {**graph_to_json(used, schema, name), "used": made["used"], "given": given}
        document["patches"] = made["patches"]
        (folder / entry["graph"]).write_text(json.dumps(document, ensure_ascii=False) + "\n", encoding="utf-8")
        picture = draw_graph(used, schema, item.size)
        _write_png(folder / entry["picture"], picture)
        row = [picture]
    elif isinstance(item, PhotoItem):
        entry["photo"] = f"inputs/{item.name}.png"
        if item.variant == 0:
            _write_png(folder / entry["photo"], item.photo)
        row = [item.photo]
    else:
        entry["layout"] = write("layouts", label_ids(item.sized_labels, schema))
        row = [paint_labels(item.sized_labels, schema)]
    record = None
    if synthesis.guidance is not None:
        guidance = to_uint8(synthesis.guidance[k : k + 1])[0]
        entry["guidance"] = write("guidance", guidance)
        row.append(guidance)
        if synthesis.provenance is not None:
            index, pieces = synthesis.provenance[k]
            entry["provenance"] = write("provenance", index)
            graph = opened.subject == "graph"
            way = opened.loaded.config.pieces if graph else getattr(opened.options, "retrieval", "shape")
            record = output_record(name, way, index, pieces)
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
