"""The kinds of banks: how one is asked for, which scenes of a dataset it reads, and what cuts them into pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from pipelines.bank.images import cut_image, pictures
from pipelines.bank.patches import cut_patches
from pipelines.bank.segments import Decompose
from pipelines.bank.shard import Codec
from pipelines.bank.writer import Cutter, cut_scene
from pipelines.config import Config
from pipelines.data.graph import GraphSettings, with_predicates
from pipelines.data.scene import Dataset, SceneRecord, Schema
from pipelines.errors import ConfigError, DataError


class BuildBank(Config):
    """What a bank holds and how its pieces are cut and stored."""

    kind: Literal["segments", "images", "patches"] = "segments"
    """What the pieces are: segments of label maps, whole images, or patches, the boxes of annotated objects."""
    view: Literal["aerial", "ground"] | None = None
    """images: which view of pairs the bank holds; null for the photos of other datasets."""
    format: str | None = None
    """The dataset's format; recognized from its files when not given."""
    split: str | None = "train"
    """Which images: a split, a list of scene ids (a path ending in .txt), or null for all."""
    decompose: Decompose = Decompose()
    """segments: how label maps are cut."""
    graph: GraphSettings = GraphSettings()
    """patches: which objects of a scene are pieces, and how scene graphs are made of them."""
    patch: int | None = Field(default=64, ge=8, le=1024)
    """patches: height and width that the pixels of every box are stored at; null keeps the box's own."""
    codec: Codec = "png"
    """How pixels are stored: png is exact, jpeg is smaller."""
    shard_sources: int = Field(default=64, ge=1)
    """How many images share a shard, the unit of work, of resuming and of sharing between banks."""
    removed: tuple[str, ...] = ()
    """The sources left out of the bank that this one grew out of; set by --remove-source."""

    @model_serializer(mode="wrap")
    def _of_its_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A bank has the config, and so the digest, that it had before there were views and patches."""
        values: dict[str, Any] = handler(self)
        foreign = {"decompose"} if self.kind == "patches" else OF_PATCHES
        return {key: value for key, value in values.items() if key not in foreign and (key, value) != ("view", None)}


OF_PATCHES = {"graph", "patch"}
"""The fields of a config that mean something for banks of patches alone."""
INHERITED = ("kind", "view", "decompose", "graph", "patch", "codec")
"""What a bank that grew out of another shares with it."""


@dataclass(frozen=True)
class Kind:
    """A kind of bank. records: what it reads of the scenes of a dataset; cutter: what makes pieces of each; schema: the
    dataset's as the bank keeps it; lacking: what is to be said of scenes that give no piece."""

    records: Callable[[BuildBank, Dataset, Sequence[SceneRecord]], Sequence[SceneRecord]]
    cutter: Callable[[BuildBank, Schema], Cutter]
    lacking: str
    schema: Callable[[BuildBank, Schema], Schema] = lambda _, schema: schema


def _labelled(config: BuildBank, dataset: Dataset, records: Sequence[SceneRecord]) -> Sequence[SceneRecord]:
    _refuse_settings_of_patches(config)
    if config.view is not None:
        raise ConfigError("a bank of segments holds no view", fix="add --kind images, or leave out --view")
    if not dataset.schema.classes:
        raise DataError("the dataset has no classes to cut segments of", where=dataset.root, fix="add --kind images")
    return records


def _whole(config: BuildBank, dataset: Dataset, records: Sequence[SceneRecord]) -> Sequence[SceneRecord]:
    _refuse_settings_of_patches(config)
    if config.decompose != Decompose():
        raise ConfigError("whole images are not decomposed", fix="leave out decompose, or --kind images")
    return pictures(records, config.view, dataset.root)


def _with_objects(config: BuildBank, dataset: Dataset, records: Sequence[SceneRecord]) -> Sequence[SceneRecord]:
    if config.view is not None:
        raise ConfigError("a bank of patches holds no view", fix="add --kind images, or leave out --view")
    if config.decompose != Decompose():
        raise ConfigError("patches are not decomposed", fix="leave out decompose, or --kind patches")
    if not dataset.schema.classes:
        raise DataError("the dataset has no classes to cut patches of", where=dataset.root, fix="add --kind images")
    return records


def _refuse_settings_of_patches(config: BuildBank) -> None:
    given = [key for key in sorted(OF_PATCHES) if getattr(config, key) != BuildBank.model_fields[key].default]
    if given:
        raise ConfigError(f"{given[0]} is of banks of patches", fix=f"add --kind patches, or leave out {given[0]}")


KINDS = {
    "segments": Kind(
        _labelled,
        lambda config, schema: partial(cut_scene, things=schema.things, settings=config.decompose, codec=config.codec),
        "no scene has a segment",
    ),
    "images": Kind(_whole, lambda config, _: partial(cut_image, codec=config.codec), "no image can be used"),
    "patches": Kind(
        _with_objects,
        lambda config, schema: partial(
            cut_patches, schema=schema, settings=config.graph, patch=config.patch, codec=config.codec
        ),
        "no scene has as many objects as graph.min_area, min_objects, max_objects and overflow ask for",
        lambda config, schema: with_predicates(schema, config.graph),
    ),
}
