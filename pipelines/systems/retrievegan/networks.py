"""The generators of RetrieveGAN: from a graph's vectors, boxes and chosen crops to an image, and sg2im's without crops.

PasteGAN's design, which the paper follows: every crop becomes a map (crops.py), maps of related objects are refined
together (refiner.py), laid into their boxes on a canvas (fuser.py), and a decoder paints the image (crn.py). Images are
ImageNet-normalized throughout. Section numbers are those of the specification; see README.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pipelines.errors import ConfigError
from pipelines.systems.retrievegan.crn import RefinementNetwork
from pipelines.systems.retrievegan.crops import SLOPE, CropEncoder, Norm, PatchEmbedder, norm2d
from pipelines.systems.retrievegan.discriminators import ImageDiscriminator, ObjectDiscriminator
from pipelines.systems.retrievegan.fuser import ObjectImageFuser
from pipelines.systems.retrievegan.layouts import (
    Size,
    boxes_to_layout,
    count_images,
    crop_boxes,
    masks_to_layout,
    slots,
)
from pipelines.systems.retrievegan.refiner import RefinerLayer

__all__ = [
    "Generator",
    "ImageDiscriminator",
    "LayoutGenerator",
    "ObjectDiscriminator",
    "PatchEmbedder",
    "boxes_to_layout",
    "crop_boxes",
    "masks_to_layout",
]

SG2IM_SLOPE = 0.2


def canvas_size(short: int, size: Size) -> Size:
    """(h, w) of a canvas with a short side of `short`, in the proportions of an image of `size`."""
    least = min(size)
    return short * size[0] // least, short * size[1] // least


class Residual(nn.Sequential):
    """x + the convolutions of x: twice a norm, ReLU and a 3x3 convolution."""

    def __init__(self, width: int, norm: Norm) -> None:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [norm2d(norm, width), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1)]
        super().__init__(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x)


class Generator(nn.Module):
    """Crops in their boxes to an image of `size`.

    dimension: numbers in the vectors of objects and predicates. widths: of the crop encoder. channels: of an object's
    map. refiners: layers of the graph convolution over maps, with refiner_hidden channels inside; flow: each warps the
    maps first. canvas: short side of the canvas; masked: see ObjectImageFuser. blocks: residual blocks over the canvas.
    decoder: widths of the refinement network, each of which doubles the map.
    """

    def __init__(
        self,
        size: Size = (128, 128),
        *,
        dimension: int = 128,
        widths: Sequence[int] = (64, 128, 256),
        channels: int = 128,
        refiners: int = 4,
        refiner_hidden: int = 512,
        flow: bool = True,
        canvas: int = 64,
        masked: bool = True,
        blocks: int = 6,
        decoder: Sequence[int] = (1024, 512, 256, 128, 64),
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.size = size
        width = dimension + channels
        self.crops = CropEncoder(channels, widths, norm)
        self.predicates = nn.Identity() if dimension == channels else nn.Linear(dimension, channels)
        self.refiners = nn.ModuleList(
            RefinerLayer(channels, refiner_hidden, flow=flow, norm=norm) for _ in range(refiners)
        )
        self.fuser = ObjectImageFuser(width, canvas=canvas_size(canvas, size), masked=masked)
        self.residual = nn.Sequential(*(Residual(width, norm) for _ in range(blocks)))
        self.decoder = RefinementNetwork(width, decoder, norm=norm, slope=SLOPE)

    def forward(
        self, v: Tensor, p: Tensor, p0: Tensor, edges: Tensor, obj_to_img: Tensor, boxes: Tensor, crops: Tensor
    ) -> Tensor:
        """The images (B, 3, H, W).

        v: (O, D) vectors of the objects; the last of each image is its node `__image__`. p, p0: (T, D) vectors of the
        predicates by the graph encoder, and their embeddings. edges: (T, 2) int64 subject and object; every object but
        `__image__` has one triple to it. obj_to_img: (O,) int64. boxes: (O, 4) x0, y0, x1, y1 in parts of the image.
        crops: (O, 3, s, s), zeros where there is none.
        """
        objects = self.crops(crops)
        triples = spread(self.predicates(p0), objects)
        for refiner in self.refiners:
            objects, triples = refiner(objects, triples, edges)
        objects = torch.cat([spread(v, objects), objects], 1)

        images = count_images(obj_to_img)
        nodes = image_nodes(obj_to_img, images)
        real = torch.ones_like(obj_to_img, dtype=torch.bool).index_fill(0, nodes, False)
        mine = triples_to_image(edges, real)[real]
        triples = torch.cat([spread(p[mine], triples), triples[mine]], 1)
        canvas = self.fuser(objects[real], triples, boxes[real], slots(obj_to_img[real], images), objects[nodes])
        return self.decoder(self.residual(canvas), self.size)


def spread(vectors: Tensor, maps: Tensor) -> Tensor:
    """(n, D) to (n, D, h, w), the same at every pixel, at the size of `maps`."""
    return vectors[..., None, None].expand(-1, -1, *maps.shape[2:])


def image_nodes(obj_to_img: Tensor, images: int) -> Tensor:
    """(B,) row of each image's last object."""
    rows = torch.arange(len(obj_to_img), device=obj_to_img.device)
    return torch.zeros_like(rows[:images]).scatter_reduce(0, obj_to_img, rows, "amax", include_self=False)


def triples_to_image(edges: Tensor, real: Tensor) -> Tensor:
    """(O,) for each real object the row of its triple with `__image__`; of no meaning for `__image__` itself."""
    rows = (~real[edges[:, 1]]).nonzero().squeeze(1)
    return torch.zeros_like(real, dtype=torch.int64).index_copy(0, edges[rows, 0], rows)


class MaskNetwork(nn.Module):
    """Vectors (O, dimension) to soft masks (O, side, side), by a map that is doubled again and again (sg2im)."""

    def __init__(self, dimension: int, side: int, norm: Norm = "batch") -> None:
        super().__init__()
        if side < 2 or side & (side - 1):
            raise ConfigError(f"masks of {side} pixels a side", where="mask_size", fix="give a power of two from 2")
        layers: list[nn.Module] = []
        for _ in range(side.bit_length() - 1):
            layers += [nn.Upsample(scale_factor=2), norm2d(norm, dimension)]
            layers += [nn.Conv2d(dimension, dimension, 3, padding=1), nn.ReLU()]
        self.net = nn.Sequential(*layers, nn.Conv2d(dimension, 1, 1))

    def forward(self, vectors: Tensor) -> Tensor:
        masks: Tensor = self.net(vectors[..., None, None]).squeeze(1).float().sigmoid()
        return masks


class LayoutGenerator(nn.Module):
    """sg2im's generator, the baseline without patches: vectors in their boxes, then the decoder (section 4.6b).

    mask_size: side of a soft mask that is made of each vector and laid into the box with it; 0 fills the box. Masks are
    learned from the image alone.
    """

    def __init__(
        self,
        size: Size = (128, 128),
        *,
        dimension: int = 128,
        mask_size: int = 0,
        decoder: Sequence[int] = (1024, 512, 256, 128, 64),
        norm: Norm = "batch",
    ) -> None:
        super().__init__()
        self.size = size
        self.masks = MaskNetwork(dimension, mask_size, norm) if mask_size else None
        self.decoder = RefinementNetwork(dimension, decoder, norm=norm, slope=SG2IM_SLOPE)

    def forward(
        self, v: Tensor, p: Tensor, p0: Tensor, edges: Tensor, obj_to_img: Tensor, boxes: Tensor, crops: Tensor
    ) -> Tensor:
        """As `Generator.forward`, of which it reads v, obj_to_img and boxes."""
        height, width = self.size
        if self.masks is None:
            layout = boxes_to_layout(v, boxes, obj_to_img, height, width)
        else:
            layout = masks_to_layout(v, boxes, self.masks(v), obj_to_img, height, width)
        return self.decoder(layout, self.size)
