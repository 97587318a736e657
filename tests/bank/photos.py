"""Small datasets in the project's own layout, drawn at random: sky over road, with cars on both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

SKY, ROAD, CAR, IGNORED_ID = 7, 3, 12, 255
CLASSES = {
    "classes": [
        {"id": SKY, "name": "sky", "thing": False, "color": [70, 130, 180]},
        {"id": ROAD, "name": "road", "thing": False, "color": [128, 64, 128]},
        {"id": CAR, "name": "car", "thing": True, "color": [0, 0, 142]},
    ],
    "ignore_id": IGNORED_ID,
    "inst_encoding": "index",
}


def draw(seed: int, size: tuple[int, int] = (40, 56)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photo of noise (h, w, 3) RGB, label ids and instances (h, w) uint8; some pixels are ignored."""
    rng = np.random.default_rng(seed)
    h, w = size
    photo = rng.integers(1, 256, (h, w, 3)).astype(np.uint8)
    labels = np.full(size, SKY, np.uint8)
    labels[h // 2 :] = ROAD
    instances = np.zeros(size, np.uint8)
    for number in range(1, 2 + seed % 3):
        y, x = rng.integers(0, h - 12), rng.integers(0, w - 14)
        labels[y : y + 6 + number, x : x + 10 + number] = CAR
        instances[y : y + 6 + number, x : x + 10 + number] = number
    labels[:2, :3] = IGNORED_ID
    instances[:2, :3] = 0
    return photo, labels, instances


def write_dataset(
    root: Path,
    seeds: Sequence[int],
    *,
    split: str = "train",
    groups: dict[int, str] | None = None,
    licences: dict[int, str] | None = None,
    size: tuple[int, int] = (40, 56),
) -> Path:
    """Write the scenes «train/0007», … of these seeds. Returns the root."""
    for folder in ("img", "label", "inst"):
        (root / split / folder).mkdir(parents=True, exist_ok=True)
    (root / "classes.json").write_text(json.dumps(CLASSES))
    for seed in seeds:
        photo, labels, instances = draw(seed, size)
        for folder, pixels in (("img", photo[..., ::-1]), ("label", labels), ("inst", instances)):
            assert cv2.imwrite(str(root / split / folder / f"{seed:04d}.png"), pixels)
    if groups:
        rows = [f"{split},{seed:04d},{group}" for seed, group in groups.items()]
        (root / "domains.csv").write_text("\n".join(["split,id,group", *rows]) + "\n")
    if licences:
        images = [{"file": f"{seed:04d}.png", "license": text} for seed, text in licences.items()]
        (root / f"annotations_{split}.json").write_text(json.dumps({"images": images}))
    return root
