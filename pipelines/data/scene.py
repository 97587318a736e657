"""Scene: one annotated image with whatever its dataset has. Schema: what its numbers mean.

A dataset's own label ids (any integers) are mapped once, when a scene is read, to class indices 0..C-1 in the
order of the schema; everything after the reader speaks indices, and IGNORED (-1) where a pixel has no class.
Ignored pixels enter no bank, loss, metric or one-hot channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipelines.errors import DataError

IGNORED = -1


@dataclass(frozen=True)
class Category:
    """One class of a schema. `id` is the dataset's own label id, `color` its swatch, `thing` countable or not."""

    id: int
    name: str
    color: tuple[int, int, int]
    thing: bool


@dataclass(frozen=True)
class Schema:
    """What a dataset's labels mean; kept in banks and runs, so that synthesis needs no dataset.

    classes: none where a dataset has photos alone, as paired views have.
    ignored: the label ids that mean «no class». domains: names of domains, if the dataset has them.
    relations: names of the predicates of its scene graphs, if it has them.
    """

    classes: tuple[Category, ...]
    ignored: tuple[int, ...] = ()
    domains: tuple[str, ...] = ()
    relations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, values in (("id", [c.id for c in self.classes]), ("name", [c.name for c in self.classes])):
            if len(set(values)) != len(values):
                twice = next(v for i, v in enumerate(values) if v in values[:i])
                raise DataError(f"two classes have the {what} {twice!r}", fix="give every class its own")

    @property
    def names(self) -> list[str]:
        return [c.name for c in self.classes]

    @cached_property
    def things(self) -> np.ndarray:
        """(C,) bool: is class index i a thing."""
        return np.array([c.thing for c in self.classes], dtype=bool)

    @cached_property
    def palette(self) -> np.ndarray:
        """(C, 3) uint8 RGB swatches by class index."""
        return np.array([c.color for c in self.classes], dtype=np.uint8).reshape(-1, 3)

    @cached_property
    def ids(self) -> np.ndarray:
        """(C,) int64 label ids by class index."""
        return np.array([c.id for c in self.classes], dtype=np.int64)

    def indices(self, ids: np.ndarray, where: str | Path) -> np.ndarray:
        """Map label ids (h, w) of any integer type to class indices (h, w) int16, IGNORED where ignored.

        Raises DataError naming the first id that is neither a class nor ignored.
        """
        present = np.unique(ids)
        known = np.concatenate([self.ids, np.array(self.ignored, dtype=np.int64)])
        strange = np.setdiff1d(present, known)
        if len(strange):
            count = int((ids == strange[0]).sum())
            raise DataError(
                f"label id {strange[0]} is outside the classes ({count} pixels)",
                where=where,
                fix="add it to classes.json, list it under ignored, or mend the label map",
            )
        order = np.argsort(self.ids)
        mapped = order[np.searchsorted(self.ids[order], present).clip(max=len(order) - 1)].astype(np.int16)
        mapped[np.isin(present, np.array(self.ignored, dtype=np.int64))] = IGNORED
        return mapped[np.searchsorted(present, ids)]

    def to_json(self) -> dict[str, Any]:
        return {
            "classes": [{"id": c.id, "name": c.name, "color": list(c.color), "thing": c.thing} for c in self.classes],
            "ignored": list(self.ignored),
            "domains": list(self.domains),
            "relations": list(self.relations),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Schema:
        """What `to_json` gave. Raises DataError where it is not that."""
        try:
            classes = [(int(c["id"]), str(c["name"]), tuple(c["color"]), bool(c["thing"])) for c in data["classes"]]
            listed = [tuple(data.get(key, ())) for key in ("ignored", "domains", "relations")]
            palette = np.array([color for _, _, color, _ in classes], dtype=np.uint8)
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"the classes cannot be read: {error!r}", fix="make the artifact again") from error
        if classes and palette.shape != (len(classes), 3):
            raise DataError("the classes cannot be read: a color is not three numbers", fix="make the artifact again")
        return cls(tuple(Category(*values) for values in classes), *listed)


@dataclass(frozen=True)
class SceneObject:
    """One annotated object: class index, box (x, y, w, h) in pixels of the image, its instance id or 0."""

    category: int
    box: tuple[float, float, float, float]
    instance: int = 0
    crowd: bool = False


@dataclass(frozen=True)
class View:
    """One picture of a place. box: the part of it that is the view, (x0, y0, x1, y1) in parts of its sides."""

    path: Path
    box: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class SceneRecord:
    """Where a scene is and what is known of it without decoding a pixel.

    views: of paired data the pictures of one place by name, «aerial» and «ground»; it has no image of its own.
    id: unique within the dataset and stable when scenes come and go, for instance "train/0001". group: the
    sequence, place or panorama it comes from, "" where unknown. licence: the text that the dataset gives, "" if none.
    """

    id: str
    split: str
    image: Path | None
    labels: Path | None = None
    instances: Path | None = None
    group: str = ""
    domain: str = ""
    licence: str = ""
    objects: tuple[SceneObject, ...] = ()
    relations: tuple[tuple[int, int, int], ...] = ()
    views: Mapping[str, View] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Scene:
    """One annotated image.

    image: (h, w, 3) uint8 RGB. labels: (h, w) int16 class indices, IGNORED for none. instances: (h, w) int32,
    unique per thing, 0 for none. Any of them is None where the dataset has none. views: as the record's, each
    (h, w, 3) uint8 RGB.
    """

    record: SceneRecord
    image: np.ndarray | None
    labels: np.ndarray | None
    instances: np.ndarray | None
    views: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.record.id


class Dataset(Protocol):
    """Annotated images of one format on disk. Records are sorted by id; `read` decodes and validates one scene."""

    @property
    def format(self) -> str: ...

    @property
    def root(self) -> Path: ...

    @property
    def schema(self) -> Schema: ...

    def splits(self) -> list[str]: ...

    def records(self, split: str | None = None) -> Sequence[SceneRecord]: ...

    def read(self, record: SceneRecord) -> Scene: ...

    def read_view(self, record: SceneRecord, name: str) -> np.ndarray: ...
