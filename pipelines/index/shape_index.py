"""ShapeIndex: finds the pieces of a bank whose shapes are most like given ones, under the exact geometric score."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipelines.artifact import Artifact
from pipelines.bank.bank import Bank
from pipelines.bank.segments import Decomposition
from pipelines.bank.storage import read_arrays, write_arrays
from pipelines.errors import ArtifactError
from pipelines.index.neighbors import open_index
from pipelines.index.shape_search import ShapeScore, ShapeSearch

FILE = "shapes.h5"

Area = Literal["mask", "box"]
"""What sigma_scale (eq. 2) compares: pixels of the masks, or areas of their boxes."""


@dataclass(frozen=True, eq=False)
class ShapeIndex:
    """The shapes of a bank, open for search. Rows are rows of the bank."""

    artifact: Artifact
    bank: Bank
    shapes: ShapeSearch = field(repr=False)

    @classmethod
    def open(cls, path: Path, bank: Bank) -> ShapeIndex:
        """Open an index of this very bank. Raises ArtifactError when it is of another kind or another bank."""
        artifact = open_index(path, bank)
        if artifact.config["kind"] != "shape":
            raise ArtifactError(
                f"this is an index of kind {artifact.config['kind']}, not of shapes",
                where=path,
                fix=f"make one: rgs train index --kind shape --bank {bank.path} --out …",
            )
        arrays = read_arrays(path / FILE)
        return cls(artifact, bank, ShapeSearch.from_arrays(arrays, score_of(artifact.config)))

    @property
    def area(self) -> Area:
        area: Area = self.artifact.config["area"]
        return area

    def search(
        self,
        masks: np.ndarray,
        areas: np.ndarray,
        categories: np.ndarray,
        k: int,
        exclude: tuple[Literal["source", "group"], str] | None = None,
        threads: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best pieces of each of q masks: rows (q, k) int64, NONE where there are fewer, scores (q, k) float64.

        masks: (q, 2048) uint8 packed canonical masks. areas: (q,) what `sizes` gives. categories: (q,) class indices;
        only pieces of the same class are found. exclude: («source» or «group», name) whose pieces may not be found;
        one that is not in the bank excludes nothing. Scores are sigma (eq. 4), lower is more alike, inf for NONE; among
        equals the lower row is first.
        """
        keys, own = None, None
        if exclude is not None:
            keys = self.bank.exclusion_keys(exclude[0])
            own = np.full(len(masks), self.bank.exclusion_key(*exclude), np.int64)
        return self.shapes.search(masks, areas, categories, k, exclude=own, keys=keys, threads=threads)

    def sizes(self, parts: Decomposition) -> np.ndarray:
        """(n,) int64: of each segment the area that this index compares."""
        boxes = np.array([segment.box for segment in parts.segments], np.int64).reshape(-1, 4)
        return compared_areas(self.area, parts.areas, boxes)


def score_of(config: dict[str, Any]) -> ShapeScore:
    """The score that the config of an index names."""
    return ShapeScore(gamma=config["gamma"], strict=config["strict"])


def compared_areas(area: Area, areas: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(n,) int64: the areas of n masks (n,), or of their boxes (n, 4) as (x, y, w, h)."""
    return areas.astype(np.int64) if area == "mask" else boxes[:, 2:].astype(np.int64).prod(axis=1)


def write_shapes(folder: Path, shapes: ShapeSearch) -> None:
    """Write the shapes of an index."""
    write_arrays(folder / FILE, shapes.arrays())
