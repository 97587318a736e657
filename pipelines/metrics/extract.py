"""What a network says about images: predictions and features, in evaluation mode and full fp32 precision."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor


class Judge(Protocol):
    """A segmenter in eval mode: images (n, 3, h, w) in [-1, 1] to logits of their size, and features (n, d)."""

    training: bool

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]: ...


@torch.no_grad()
def segment(judge: Judge, images: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    """Class indices (n, h, w) int64 and features (n, d) float64 of images (n, h, w, 3) uint8.

    The judge must be on `device`. TF32 is switched off, so that a GPU gives the CPU's digits.
    """
    assert not judge.training
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.backends.cudnn.flags(allow_tf32=False), torch.autocast(device.type, enabled=False):
        logits, features = judge.logits_and_features(batch)
    return logits.argmax(1).cpu().numpy(), features.double().cpu().numpy()
