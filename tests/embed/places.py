"""Places made in memory: a panorama and an aerial photo of each, which share colors and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from pipelines.data.scene import Scene, SceneRecord, Schema, View

AERIAL, GROUND = (32, 32), (16, 64)
TINY = {"backbone": "saig-small", "aerial": AERIAL, "ground": GROUND}


class Places:
    """A Dataset of `count` pairs; place i is a pattern of colors drawn from i."""

    format, root = "made", Path("made")

    def __init__(self, count: int, sources: Sequence[str] = ("toy",), distractors: int = 0) -> None:
        views = {"aerial": View(Path("a.png")), "ground": View(Path("g.png"))}
        kind = {"street_kind": "panorama"}
        self.schema = Schema((), domains=tuple(sorted(sources)))
        self.listed = [
            SceneRecord(
                f"p/{i:03d}",
                "train",
                None,
                group=f"place {i}",
                domain=sources[i % len(sources)],
                views=views if i < count else {"aerial": views["aerial"]},
                extra=kind,
            )
            for i in range(count + distractors)
        ]

    def splits(self) -> list[str]:
        return ["train"]

    def records(self, split: str | None = None) -> list[SceneRecord]:
        return self.listed

    def read(self, record: SceneRecord) -> Scene:
        return Scene(record, None, None, None, {view: self.read_view(record, view) for view in record.views})

    def read_view(self, record: SceneRecord, name: str) -> np.ndarray:
        colors = np.random.default_rng(int(record.id[-3:])).integers(0, 256, (2, 2, 3), dtype=np.uint8)
        if name == "ground":
            colors = colors.reshape(1, 4, 3)
        h, w = AERIAL if name == "aerial" else GROUND
        return cv2.resize(colors, (w, h), interpolation=cv2.INTER_NEAREST)
