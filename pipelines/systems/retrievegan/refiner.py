"""The object refiner: a graph convolution whose vectors are maps, so that crops agree with their neighbors (4.5).

Exactly PasteGAN's, in less work: what each triple would convolve for its subject and object is convolved once for each
object, before it is read by triples, and after it is summed over them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.nn.layers.normalization import bias_of
from pipelines.systems.retrievegan.crops import SLOPE, Norm, block, norm2d

FLOW_STD = 0.01
"""Deviation of the first weights of the network that warps: it begins near the identity."""


class FlowWarp(nn.Module):
    """Moves every point of a map (O, channels, h, w) by a displacement of its own, at most half of the map."""

    def __init__(self, channels: int, norm: Norm) -> None:
        super().__init__()
        convolved = [layer for _ in range(2) for layer in block(channels, channels, 3, norm)]
        self.flow = nn.Sequential(*convolved, nn.Conv2d(channels, 2, 3, padding=1), nn.Tanh())
        for layer in self.flow:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=FLOW_STD)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        flow = self.flow(x).float().permute(0, 2, 3, 1)
        identity = F.affine_grid(torch.eye(2, 3, device=x.device, dtype=flow.dtype)[None], [1, 1, *x.shape[2:]], True)
        return F.grid_sample(x.to(flow.dtype), identity + flow, padding_mode="zeros", align_corners=True)


class RefinerLayer(nn.Module):
    """Maps of objects (O, c, h, w) and of predicates (T, c, h, w) to new ones of the same shapes.

    h_t = net1([x_s; p_t; x_o]) holds a map for the subject, the new predicate and a map for the object; an object gets
    net2(the mean of those for it), its own map convolved, and its own map.
    """

    def __init__(self, channels: int, hidden: int, *, flow: bool, norm: Norm) -> None:
        super().__init__()
        self.channels, self.hidden = channels, hidden
        self.warp = FlowWarp(channels, norm) if flow else nn.Identity()
        self.read = nn.Conv2d(3 * channels, hidden, 3, padding=1)
        self.read_norm = nn.Sequential(norm2d(norm, hidden), nn.LeakyReLU(SLOPE))
        self.tell = nn.Conv2d(hidden, 2 * hidden + channels, 3, padding=1)
        self.predicate_norm = nn.Sequential(norm2d(norm, channels), nn.LeakyReLU(SLOPE))
        self.net2 = nn.Sequential(*block(hidden, hidden, 3, norm), *block(hidden, channels, 1, norm))
        self.of_object = nn.Sequential(*block(channels, hidden, 3, norm), *block(hidden, channels, 1, norm))

    def forward(self, objects: Tensor, predicates: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """edges: (T, 2) int64 rows of subject and object."""
        subject, target = edges.unbind(1)
        warped = self.warp(objects)
        as_subject, as_predicate, as_object = self.read.weight.split(self.channels, 1)
        from_subject, from_object = F.conv2d(warped, torch.cat([as_subject, as_object]), padding=1).chunk(2, 1)
        told = F.conv2d(predicates, as_predicate, self.read.bias, padding=1)
        triples = self.read_norm(told + from_subject.index_select(0, subject) + from_object.index_select(0, target))

        parts = [self.hidden, self.channels, self.hidden]
        for_subject, for_predicate, for_object = self.tell.weight.split(parts)
        of_subject, of_predicate, of_object = bias_of(self.tell).split(parts)
        new_predicates = self.predicate_norm(F.conv2d(triples, for_predicate, of_predicate, padding=1))
        means, shares = zip(*(share_by(end, triples, edges, len(objects)) for end in (subject, target)), strict=True)
        pooled = F.conv2d(torch.cat(means, 1), torch.cat([for_subject, for_object], 1), padding=1)
        biases = shares[0] * of_subject + shares[1] * of_object
        return objects + self.net2(pooled + biases[..., None, None]) + self.of_object(warped), new_predicates


def share_by(end: Tensor, triples: Tensor, edges: Tensor, objects: int) -> tuple[Tensor, Tensor]:
    """What the triples at one of their ends bring to the mean over all triples of an object, in fp32.

    end: (T,) int64 rows of the subjects or of the objects. triples: (T, c, h, w). Returns their sum over the object's
    triples divided by how many it has at either end, (O, c, h, w), and how many these are of all, (O, 1).
    """
    count = torch.bincount(edges.flatten(), minlength=objects).clamp(min=1)
    wide = triples.float()
    total = wide.new_zeros(objects, *wide.shape[1:]).index_add(0, end, wide)
    here = torch.bincount(end, minlength=objects) / count
    return total / count[:, None, None, None], here[:, None]
