"""Class-balanced cross-entropy per pixel (OASIS; RESAIL's segmentation loss).

With w_c = P / (n_present count_c), where P is the number of pixels of the batch and n_present the number of classes
in it, the loss is the mean over present classes of their mean cross-entropy. Counts are those of the joined batch of
all processes, and the loss divides by all local pixels, ignored ones too, so that the average over processes with
equal batches is the loss of the joined batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.nn.reduce import all_reduce_sum

IGNORED = -1


def class_weights(labels: Tensor, classes: int) -> Tensor:
    """w_c (classes,) of labels (n, h, w), class indices or -1 where ignored; 0 for a class that is absent."""
    valid = labels[labels >= 0].long()
    local = torch.cat([torch.bincount(valid, minlength=classes), valid.new_tensor([labels.numel()])])
    total = all_reduce_sum(local)
    count, pixels = total[:-1].double(), total[-1]
    present = count > 0
    weights = pixels / (present.sum() * count)
    return torch.where(present, weights, 0.0).float()


def balanced_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean over all pixels of w_c CE: logits (n, k, h, w), labels (n, h, w) in 0..k-1 or -1 (no loss), weights (k,)."""
    loss = F.cross_entropy(logits.float(), labels.long(), weight=weights, ignore_index=IGNORED, reduction="sum")
    return loss / labels.numel()
