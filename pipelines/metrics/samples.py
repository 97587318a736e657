"""What is evaluated: the images of a samples artifact, each with its layout, and the real images they answer to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from pipelines.artifact import Artifact, Input, digest_json, relative_path, sha256_file
from pipelines.data.augment import Size
from pipelines.data.digest import dataset_digest
from pipelines.data.listing import decode_view, inside, pictures, require_inside
from pipelines.data.open import open_dataset
from pipelines.data.pixels import read_index_map
from pipelines.data.scene import SceneRecord, Schema, View
from pipelines.errors import ArtifactError, ConfigError, DataError

T = TypeVar("T")

FILES = ("image", "layout", "guidance", "photo", "graph", "picture")
"""What the list of samples may name of each."""

SubjectName = Literal["output", "guidance", "shuffled"]
"""What is measured: the outputs, the guidance images in their place, or the outputs against layouts of others."""

SPARE_IDS = (255, 65535)
"""What marks ignored pixels in layouts whose schema has no ignored id: the first of these that is no class."""


@dataclass(frozen=True)
class Sample:
    """One image of a samples artifact. source: the stem of the layout or photo it was made from; variant: 0 for its
    first. layout, photo, graph: what it was made from, one of them; picture: of the graph.
    """

    name: str
    source: str
    variant: int
    image: Path
    layout: Path | None
    guidance: Path | None
    photo: Path | None = None
    graph: Path | None = None
    picture: Path | None = None


@dataclass(frozen=True)
class Reference:
    """Real images by the source of the samples. `kind` says what they were taken from; digest covers their bytes.

    records: the scenes of a dataset that they are of, by source; none of a folder.
    """

    root: Path
    kind: str
    images: Mapping[str, View]
    digest: str
    records: Mapping[str, SceneRecord] = field(default_factory=dict)

    def read(self, source: str) -> np.ndarray:
        """(h, w, 3) uint8 RGB: the real image of a source."""
        return decode_view(self.images[source])

    def as_input(self, relative_to: Path) -> Input:
        return Input("reference", relative_path(self.root, relative_to), self.digest)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.root.resolve().name, "kind": self.kind, "images": len(self.images), "digest": self.digest}


def read_samples(artifact: Artifact) -> list[Sample]:
    """The samples of an artifact, sorted by name. Raises ArtifactError when its list cannot be understood."""
    sidecar = artifact.path / "samples.jsonl"
    samples = []
    try:
        for line in sidecar.read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            files = {key: inside(artifact.path, entry[key], sidecar) for key in FILES if entry.get(key)}
            if not files.keys() & {"layout", "photo", "graph"}:
                raise KeyError("layout")
            name, source, variant = entry["name"], entry["source"], int(entry["variant"])
            samples.append(Sample(name, source, variant, files["image"], *(files.get(key) for key in FILES[1:])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"the list of samples cannot be read: {error!r}", where=sidecar) from error
    if not samples:
        raise ArtifactError("the artifact holds no samples", where=artifact.path)
    return sorted(samples, key=lambda sample: sample.name)


def take_subject(samples: Sequence[Sample], subject: SubjectName, seed: int, where: Path) -> list[Sample]:
    """The samples as they are, their guidance images in their place, or each with the layout or graph of another.

    Shuffled, every layout answers for the images of the one after it in a random circle, so none keeps its own.
    Raises ArtifactError when a sample has no guidance, or ConfigError when there is no other layout.
    """
    if subject == "guidance":
        guided = [replace(sample, image=sample.guidance) for sample in samples if sample.guidance]
        if len(guided) < len(samples):
            raise ArtifactError("these samples have no guidance images", where=where, fix="evaluate outputs")
        return guided
    if subject == "shuffled":
        circle = sorted({sample.source for sample in samples})
        if len(circle) < 2:
            raise ConfigError("one layout alone cannot be shuffled", where=where)
        np.random.default_rng(seed).shuffle(circle)
        other = dict(zip(circle, circle[1:] + circle[:1], strict=True))
        of = {sample.source: sample for sample in samples}
        pairs = [(s, of[other[s.source]]) for s in samples]
        return [
            replace(s, source=o.source, layout=o.layout, photo=o.photo, graph=o.graph, picture=o.picture)
            for s, o in pairs
        ]
    return list(samples)


def read_labels(path: Path, schema: Schema, size: Size) -> np.ndarray:
    """The layout of a sample: (h, w) int16 class indices, IGNORED for none. It must have the size of its image."""
    ignored = schema.ignored or tuple(i for i in SPARE_IDS if i not in schema.ids)[:1]
    labels = replace(schema, ignored=ignored).indices(read_index_map(path), path)
    if labels.shape != tuple(size):
        raise DataError(f"the layout has {labels.shape} pixels, its image {tuple(size)}", where=path)
    return labels


def find_reference(
    root: Path, samples: Sequence[Sample], format: str | None, split: str | None, view: str | None = None
) -> Reference:
    """The real image of every sample: from a dataset by scene, or from a plain folder of images by stem.

    view: of paired data, which of a place's views is the real one.

    A folder that holds images itself is a plain one, unless a format is named. Raises DataError when a sample finds
    none, ConfigError when it finds several.
    """
    if not root.is_dir():
        raise DataError("the reference is no folder", where=root, fix="give a dataset or a folder of images")
    sources = sorted({sample.source for sample in samples})
    plain, _ = pictures(root)
    if format is None and plain:
        if split is not None:
            raise ConfigError("a plain folder of images has no splits", where=root, fix="leave out --split")
        found = {stem: paths for stem, paths in plain.items() if stem in set(sources)}
        chosen = _one_each(found, sources, root, len(plain))
        digest = digest_json({stem: sha256_file(path) for stem, path in chosen.items()})
        return Reference(root, "folder of images", {stem: View(path) for stem, path in chosen.items()}, digest)
    dataset = open_dataset(root, format)
    records = dataset.records(split)
    by_name: dict[str, dict[str, SceneRecord]] = {}
    for record in records:
        for name in {Path(record.id).name, *(path.stem for path in (record.image, record.labels) if path)}:
            by_name.setdefault(name, {})[record.id] = record
    wanted = {name: list(by_name[name].values()) for name in sources if name in by_name}
    scenes = _one_each(wanted, sources, root, len(records))
    images: dict[str, View] = {}
    for name, record in scenes.items():
        real = record.views.get(view or "", View(record.image) if record.image and view is None else None)
        if real is None:
            raise DataError(f"the scene {record.id} has no {view or 'photo'} to compare with", where=root)
        require_inside(root, real.path)
        images[name] = real
    kind = f"{dataset.format} dataset" + (f", split {split}" if split else "")
    used = list({record.id: record for record in scenes.values()}.values())
    return Reference(root, kind, images, dataset_digest(dataset, used), scenes)


def _one_each(found: Mapping[str, Sequence[T]], sources: Sequence[str], root: Path, count: int) -> dict[str, T]:
    """The one thing found for each source."""
    missing = [name for name in sources if not found.get(name)]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(sources)} layouts have no reference image of their name, for instance "
            f"{', '.join(map(repr, missing[:3]))}",
            where=root,
            fix=f"give the dataset (or split) that the layouts came from; this one has {count} images",
        )
    several = next((name for name in sources if len(found[name]) > 1), None)
    if several is not None:
        raise ConfigError(f"several reference images are named {several!r}", where=root, fix="choose with --split")
    return {name: found[name][0] for name in sources}
