"""The geometry of a training example: resize, crop and flip, drawn once and applied to all of its maps alike."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from pipelines.config import Config
from pipelines.data.transforms import nearest_resize, resize_image

Size = tuple[int, int]

LEAST = 32
"""The shortest side that the deepest discriminators and the perceptual network can still judge."""


class Framing(Config):
    """How a scene becomes a training example of one size."""

    size: Size = (256, 256)
    """Height and width of the training images."""
    load: float = Field(286 / 256, ge=1, le=4)
    """Scenes are resized to `load` times the size (published: 286 / 256), then a random crop of the size is taken."""
    flip: bool = True
    """Mirror half of the examples."""

    @field_validator("size")
    @classmethod
    def _large_enough(cls, size: Size) -> Size:
        if min(size) < LEAST:
            raise ValueError(f"generators train on images of {LEAST}x{LEAST} pixels at least")
        return size


@dataclass(frozen=True)
class View:
    """One drawn geometry: resize to `loaded`, cut `size` from `corner` (y, x), mirror if `flip`."""

    loaded: Size
    corner: tuple[int, int]
    size: Size
    flip: bool

    def image(self, image: np.ndarray) -> np.ndarray:
        return self.finish(resize_image(image, self.loaded))

    def map(self, values: np.ndarray) -> np.ndarray:
        return self.finish(nearest_resize(values, self.loaded))

    def finish(self, values: np.ndarray) -> np.ndarray:
        """Crop and mirror what is already `loaded` in size."""
        (y, x), (h, w) = self.corner, self.size
        cut = values[y : y + h, x : x + w]
        return np.ascontiguousarray(cut[:, ::-1] if self.flip else cut)


def draw_view(framing: Framing, rng: np.random.Generator) -> View:
    h, w = framing.size
    loaded = (round(h * framing.load), round(w * framing.load))
    corner = (int(rng.integers(loaded[0] - h + 1)), int(rng.integers(loaded[1] - w + 1)))
    return View(loaded, corner, framing.size, bool(framing.flip and rng.random() < 0.5))


def jitter(image: np.ndarray, strength: float, rng: np.random.Generator) -> np.ndarray:
    """Scale brightness, contrast about the mean gray, and saturation of (h, w, 3) uint8, each within 1 +- strength."""
    brightness, contrast, saturation = rng.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    pixels = image.astype(np.float32) * brightness
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    pixels = (pixels - gray.mean()) * contrast + gray.mean()
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)[..., None]
    pixels = gray + (pixels - gray) * saturation
    return np.clip(pixels + 0.5, 0, 255).astype(np.uint8)


def image_tensor(image: np.ndarray) -> Tensor:
    """(h, w, 3) uint8 -> (3, h, w) float in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous().float() / 127.5 - 1


def label_tensor(labels: np.ndarray) -> Tensor:
    """(h, w) class indices -> int64, IGNORED kept."""
    return torch.from_numpy(labels.astype(np.int64))
