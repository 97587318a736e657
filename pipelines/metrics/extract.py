"""What a network says about images: predictions and features, in evaluation mode and full fp32 precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Judge(Protocol):
    """A segmenter in eval mode: images (n, 3, h, w) in [-1, 1] to logits of their size, and features (n, d)."""

    training: bool

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]: ...


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """No gradients, no autocast, and no TF32, so that a GPU gives the CPU's digits."""
    with torch.no_grad(), torch.backends.cudnn.flags(allow_tf32=False), torch.autocast(device.type, enabled=False):
        yield


def signed(images: np.ndarray, device: torch.device) -> Tensor:
    """(n, h, w, 3) uint8 -> (n, 3, h, w) fp32 in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def segment(judge: Judge, images: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Class indices (n, h, w) int64 and features (n, d) float64 of images (n, h, w, 3) uint8.

    The judge must be on `device`.
    """
    assert not judge.training
    with exact(device):
        logits, features = judge.logits_and_features(signed(images, device))
    return logits.argmax(1).cpu().numpy(), features.double().cpu().numpy()
