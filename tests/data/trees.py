"""Small dataset trees that tests write, and where the real packs are."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

REAL = Path(os.environ.get("RGS_REAL_DATA", "/nowhere"))


def real(test: Any) -> Any:
    """Mark a test on the real packs, skipped where they are not."""
    return pytest.mark.real(pytest.mark.skipif(not REAL.is_dir(), reason="RGS_REAL_DATA names no folder")(test))


CLASSES: list[dict[str, Any]] = [
    {"id": 4, "name": "sky", "color": [70, 130, 180], "thing": False},
    {"id": 1, "name": "road", "color": [128, 64, 128], "thing": False},
    {"id": 2, "name": "car", "color": [0, 0, 142], "thing": True},
    {"id": 3, "name": "person", "color": [220, 20, 60], "thing": True},
]
"""Ids are not in order, so that an index taken for an id shows."""
SKY, ROAD, CAR, PERSON, NONE = 0, 1, 2, 3, -1
IDS = np.array([4, 1, 2, 3, 9])  # by class index; ignored last, which is index -1


def photo(seed: int, height: int = 24, width: int = 32) -> np.ndarray:
    """A smooth RGB picture that no other seed gives."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height)).clip(0, 255).astype(np.uint8)


def write_picture(path: Path, rgb: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.ascontiguousarray(rgb[..., ::-1]))
    return path


def write_map(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), values.astype(np.uint8 if values.max() < 256 else np.uint16))
    return path


def write_json(path: Path, data: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


def png(values: np.ndarray, depth: int, color_type: int, palette: np.ndarray | None = None) -> bytes:
    """Encode a PNG by the standard's definition: color types 0 gray, 2 RGB, 3 palette; 1, 2, 4, 8 or 16 bits."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    rows = b""
    for row in values.reshape(len(values), -1):
        bits = "".join(format(int(value), f"0{depth}b") for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + int(bits, 2).to_bytes(len(bits) // 8, "big")
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, color_type, 0, 0, 0)
    table = b"" if palette is None else chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + table
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def scene_layers(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Class indices and instance numbers of a street: two cars, a person, an ignored corner, a bare bit of car."""
    labels = np.full((24, 32), SKY)
    labels[12:] = ROAD
    instances = np.zeros_like(labels)
    for number, (index, y, x, h, w) in enumerate([(CAR, 13, 2, 4, 8), (CAR, 14, 18, 5, 9), (PERSON, 10, 12, 8, 3)], 1):
        left = x + seed % 3
        labels[y : y + h, left : left + w] = index
        instances[y : y + h, left : left + w] = number
    labels[20:22, 2:4] = CAR
    labels[:3, :3] = NONE
    return labels, instances


def write_folder(root: Path, encoding: str | None = "class1000", stems: int = 2) -> Path:
    """A dataset in the project's own layout, of the splits train and val, from `scene_layers`."""
    classes = {"classes": CLASSES, "ignore_id": 9}
    write_json(root / "classes.json", classes if encoding is None else {**classes, "inst_encoding": encoding})
    for number, name in enumerate(f"{split}/{stem}" for split in ("train", "val") for stem in "abcdef"[:stems]):
        split, stem = name.split("/")
        labels, instances = scene_layers(number)
        write_picture(root / split / "img" / f"{stem}.png", photo(number))
        write_map(root / split / "label" / f"{stem}.png", IDS[labels])
        if encoding == "class1000":
            write_map(
                root / split / "inst" / f"{stem}.png",
                np.where(instances > 0, IDS[labels] * 1000 + instances, IDS[labels]),
            )
        elif encoding == "index":
            write_map(root / split / "inst" / f"{stem}.png", instances)
    return root
