"""The networks of the cross-view system: generator, one-way discriminator, and the encoder of one ablation.

c: the embedding of the source view, scaled to unit variance. z: noise. w: style. E: c, brought to a few channels and
the same at every pixel. Structure blocks (ResBlock-S) at low resolution read E beside their features and are modulated
by w; texture blocks (ResBlock-T) after them are modulated by w everywhere and by c where their map M says so
(attentional AdaIN). Section numbers are those of the specification that this design follows; see README.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.nn.layers.normalization import instance_norm

SLOPE = 0.2
LEAST = 4
"""Pixels of the short side of the smallest map."""

Blend = Literal["additive", "convex"]
Modulation = Literal["attentional", "plain", "full"]
Kind = Literal["S", "T"]
Size = tuple[int, int]


def doublings(size: Size) -> int:
    """How often a map of 4 pixels on its short side is doubled to become an image of `size`, powers of two."""
    return (min(size) // LEAST).bit_length() - 1


def noise_maps(size: Size) -> list[Size]:
    """(h, w) of the noise that each convolution of the generator's blocks adds, two to a block, for a `size`."""
    return [(size[0] >> up, size[1] >> up) for up in reversed(range(doublings(size))) for _ in range(2)]


class Conv3(nn.Conv2d):
    """A 3x3 convolution that keeps the size; `circular`: a panorama goes on at its other edge."""

    def __init__(self, inputs: int, outputs: int, circular: bool = False) -> None:
        super().__init__(inputs, outputs, 3, padding=(1, 0) if circular else 1)
        self.circular = circular
        nn.init.kaiming_normal_(self.weight, SLOPE)
        nn.init.zeros_(self.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(around(x) if self.circular else x)


def around(x: Tensor) -> Tensor:
    """A map with a column of each edge put on at the other."""
    return torch.cat([x[..., -1:], x, x[..., :1]], -1)


class SpreadConv3(Conv3):
    """`Conv3` of cat(x, E), where E is given as (n, spread) and never made a map.

    A convolution of what is the same at every pixel has nine values: corners, edges and the inside.
    """

    def __init__(self, inputs: int, spread: int, outputs: int, circular: bool = False) -> None:
        super().__init__(inputs + spread, outputs, circular)
        self.parts = [inputs, spread]

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:  # type: ignore[override]
        of_x, of_e = self.weight.split(self.parts, 1)
        nine = embedded[..., None, None].expand(-1, -1, 3, 3)
        if self.circular:
            x, nine = around(x), around(nine)
        edges = F.conv2d(nine, of_e, padding=self.padding)
        out = F.conv2d(x, of_x, self.bias, padding=self.padding)
        return out + _stretch(_stretch(edges, 2, out.shape[2]), 3, out.shape[3])


def _stretch(three: Tensor, dim: int, length: int) -> Tensor:
    """Three values along `dim`, the middle one repeated until there are `length`."""
    first, middle, last = three.split(1, dim)
    inside = [length - 2 if i == dim else -1 for i in range(three.dim())]
    return torch.cat([first, middle.expand(inside), last], dim)


class AdaIN(nn.Module):
    """(1 + g) IN(x) + b, where (g, b) is linear in the style w (section 4.2)."""

    def __init__(self, features: int, style: int) -> None:
        super().__init__()
        self.affine = nn.Linear(style, 2 * features)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        g, b = self.affine(w)[..., None, None].chunk(2, 1)
        return (1 + g) * instance_norm(x) + b


class AttentionalAdaIN(nn.Module):
    """(1 + g_w + M g_e) IN(x) + (b_w + M b_e): the style everywhere, the embedding where M says (section 4.2).

    (g_w, b_w) is linear in w; (g_e, b_e) is made of c by a network that begins at zero. With a convex blend the
    style's terms weigh 1 - M.
    """

    def __init__(self, features: int, style: int, embedding: int, hidden: int, blend: Blend) -> None:
        super().__init__()
        self.affine = nn.Linear(style, 2 * features)
        last = nn.Linear(hidden, 2 * features)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.of_embedding = nn.Sequential(nn.Linear(embedding, hidden), nn.ReLU(), last)
        self.blend = blend

    def forward(self, x: Tensor, w: Tensor, c: Tensor, m: Tensor) -> Tensor:
        """x: (n, features, h, w). m: (n, 1, h, w), or 1x1 where it is the same everywhere."""
        g_w, b_w = self.affine(w)[..., None, None].chunk(2, 1)
        g_e, b_e = self.of_embedding(c)[..., None, None].chunk(2, 1)
        rest = 1 - m if self.blend == "convex" else 1
        return (1 + rest * g_w + m * g_e) * instance_norm(x) + (rest * b_w + m * b_e)


class Region(nn.Module):
    """The map M in (0, 1), (n, 1, h, w): where the embedding modulates the features; 0.5 everywhere at first.

    seen: the mean of the last map, for the log.
    """

    seen: Tensor | None = None

    def __init__(self, features: int, spread: int, circular: bool) -> None:
        super().__init__()
        self.conv = SpreadConv3(features, spread, spread, circular)
        self.logit = nn.Conv2d(spread, 1, 1)
        nn.init.zeros_(self.logit.weight)
        nn.init.zeros_(self.logit.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, embedded: Tensor) -> Tensor:
        m = self.logit(F.relu(self.conv(x, embedded))).sigmoid()
        self.seen = m.detach().mean()
        return m


class Noise(nn.Module):
    """Adds a noise map to every channel, by a learned factor that begins at 0; None adds nothing."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(features, 1, 1))

    def forward(self, x: Tensor, noise: Tensor | None) -> Tensor:
        return x if noise is None else x + (self.scale * noise).to(x.dtype)


class Skip(nn.Module):
    """The way around a block: doubled, and another number of channels where the block has one."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else None
        if self.conv is not None:
            nn.init.kaiming_normal_(self.conv.weight, 1)

    def forward(self, x: Tensor) -> Tensor:
        return doubled(x if self.conv is None else self.conv(x))  # the 1x1 convolution costs less before doubling


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def activated(x: Tensor) -> Tensor:
    return F.leaky_relu(x, SLOPE)


class StructureBlock(nn.Module):
    """ResBlock-S: reads E beside its features; normalization is modulated by the style alone. Doubles the map."""

    def __init__(self, inputs: int, outputs: int, *, style: int, spread: int, circular: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = AdaIN(inputs, style), AdaIN(outputs, style)
        self.conv1 = SpreadConv3(inputs, spread, outputs, circular)
        self.conv2 = SpreadConv3(outputs, spread, outputs, circular)
        self.noise1, self.noise2 = Noise(outputs), Noise(outputs)
        self.skip = Skip(inputs, outputs)

    def forward(self, x: Tensor, c: Tensor, embedded: Tensor, w: Tensor, noise: Noises, strength: float) -> Tensor:
        main = doubled(activated(self.norm1(x, w)))
        main = self.noise1(self.conv1(main, embedded), noise[0])
        main = activated(self.norm2(main, w))
        main = self.noise2(self.conv2(main, embedded), noise[1])
        return (main + self.skip(x)) / math.sqrt(2)


class TextureBlock(nn.Module):
    """ResBlock-T: both normalizations are attentional AdaIN under one map M, made of the block's input. Doubles it.

    modulation: «plain» is M = 0 and «full» M = 1, without the network that makes M.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        style: int,
        embedding: int,
        spread: int,
        hidden: int,
        modulation: Modulation,
        blend: Blend,
        circular: bool,
    ) -> None:
        super().__init__()

        def norm(features: int) -> nn.Module:
            if modulation == "plain":
                return AdaIN(features, style)
            return AttentionalAdaIN(features, style, embedding, hidden, blend)

        self.plain = modulation == "plain"
        self.norm1, self.norm2 = norm(inputs), norm(outputs)
        self.region = Region(inputs, spread, circular) if modulation == "attentional" else None
        self.conv1, self.conv2 = Conv3(inputs, outputs, circular), Conv3(outputs, outputs, circular)
        self.noise1, self.noise2 = Noise(outputs), Noise(outputs)
        self.skip = Skip(inputs, outputs)

    def forward(self, x: Tensor, c: Tensor, embedded: Tensor, w: Tensor, noise: Noises, strength: float) -> Tensor:
        small: tuple[Tensor, ...] = (w,)
        large: tuple[Tensor, ...] = (w,)
        if not self.plain:
            m = strength * (x.new_ones(1, 1, *x.shape[2:]) if self.region is None else self.region(x, embedded))
            small, large = (w, c, m), (w, c, doubled(m))
        main = doubled(activated(self.norm1(x, *small)))
        main = self.noise1(self.conv1(main), noise[0])
        main = activated(self.norm2(main, *large))
        main = self.noise2(self.conv2(main), noise[1])
        return (main + self.skip(x)) / math.sqrt(2)


Noises = Sequence[Tensor | None]


class Mapping(nn.Module):
    """(c, z) to the style w: noise of unit size beside the embedding, four linear layers (section 4.1)."""

    def __init__(self, embedding: int, z_dim: int, style: int, layers: int = 4) -> None:
        super().__init__()
        widths = [embedding + z_dim, *[style] * layers]
        self.layers = nn.ModuleList(_he_linear(a, b) for a, b in pairwise(widths))

    def forward(self, c: Tensor, z: Tensor) -> Tensor:
        """z of zeros stays zeros: the mean image."""
        w = torch.cat([c, z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)], 1)
        for layer in self.layers:
            w = activated(layer(w))
        return w


def _he_linear(inputs: int, outputs: int) -> nn.Linear:
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, SLOPE)
    nn.init.zeros_(layer.bias)
    return layer


def bring(embedding: int, projected: int | None) -> nn.Module:
    """The embedding as a network reads it: as it is, or through a linear layer of its own."""
    return nn.Identity() if projected is None else nn.Linear(embedding, projected)


class CrossviewGenerator(nn.Module):
    """An embedding and noise to an image of `size`, which is made by one block per width, each doubling (table 4.3).

    structure: of so many blocks the small image of `low_resolution` is read off; they are structure blocks and the
    others texture blocks, unless all are of the one kind in `blocks`.
    """

    def __init__(
        self,
        embedding: int,
        widths: Sequence[int],
        *,
        size: Size,
        structure: int = 3,
        blocks: Literal["both", "S", "T"] = "both",
        projected: int | None = None,
        z_dim: int = 128,
        style: int = 512,
        spread: int = 64,
        hidden: int = 256,
        modulation: Modulation = "attentional",
        blend: Blend = "additive",
        circular: bool = False,
        low_resolution: bool = False,
    ) -> None:
        super().__init__()
        self.size, self.structure = size, structure
        self.start_size = (size[0] >> len(widths), size[1] >> len(widths))
        self.maps = noise_maps(size)
        self.project = bring(embedding, projected)
        length = projected or embedding
        self.mapping = Mapping(length, z_dim, style)
        self.spread = nn.Linear(length, spread)
        self.start = nn.Linear(length, widths[0] * self.start_size[0] * self.start_size[1])
        # at first a map that all places share, little changed by each: what all images have in common is learned first
        nn.init.normal_(self.start.weight, std=0.25 / math.sqrt(length))
        nn.init.normal_(self.start.bias)
        self.blocks = nn.ModuleList()
        width = widths[0]
        for i, wider in enumerate(widths):
            if blocks == "S" or (blocks == "both" and i < structure):
                block: nn.Module = StructureBlock(width, wider, style=style, spread=spread, circular=circular)
            else:
                block = TextureBlock(
                    width,
                    wider,
                    style=style,
                    embedding=length,
                    spread=spread,
                    hidden=hidden,
                    modulation=modulation,
                    blend=blend,
                    circular=circular,
                )
            self.blocks.append(block)
            width = wider
        self.to_low = nn.Conv2d(widths[structure - 1], 3, 1) if low_resolution else None
        self.to_rgb = Conv3(width, 3, circular)

    def forward(
        self, c: Tensor, z: Tensor, noise: Tensor | None = None, strength: float = 1.0
    ) -> tuple[Tensor, Tensor | None]:
        """The image (n, 3, h, w) in [-1, 1], and the small one where there is a head for it.

        c: (n, embedding). z: (n, z_dim). noise: (n, the pixels of `noise_maps`) standard normal, or None for none.
        strength: factor of every M.
        """
        c = self.project(c)
        w, embedded = self.mapping(c, z), self.spread(c)
        x = self.start(c).view(len(c), -1, *self.start_size)
        noises = self._split(noise)
        low = None
        for i, block in enumerate(self.blocks):
            x = block(x, c, embedded, w, noises[2 * i : 2 * i + 2], strength)
            if self.to_low is not None and i + 1 == self.structure:
                low = self.to_low(x).tanh()
        return self.to_rgb(activated(x)).tanh(), low

    def _split(self, noise: Tensor | None) -> Noises:
        if noise is None:
            return [None] * len(self.maps)
        parts = noise.split([h * w for h, w in self.maps], 1)
        return [part.view(-1, 1, h, w) for part, (h, w) in zip(parts, self.maps, strict=True)]


class HalvingBlock(nn.Module):
    """A discriminator block: halves the map; skip + gamma main, where gamma begins at 0 (section 4.4)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        main = activated(self.conv2(activated(self.conv1(x))))
        return self.skip(F.avg_pool2d(x, 2)) + self.gamma * main


class OneWayDiscriminator(nn.Module):
    """Judges with one output whether an image is real and shows the place of the embedding (section 4.4).

    alpha: factor of the embedding; 0 judges images alone.
    """

    def __init__(
        self,
        embedding: int,
        size: Size,
        ndf: int = 32,
        most: int = 256,
        *,
        projected: int | None = None,
        alpha: float = 1.0,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.project = bring(embedding, projected)
        widths = [min(ndf * 2**i, most) for i in range(doublings(size) + 1)]
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.blocks = nn.ModuleList(HalvingBlock(a, b) for a, b in pairwise(widths))
        self.joint = nn.Conv2d(widths[-1] + (projected or embedding), 2 * ndf, 3, padding=1, bias=False)
        self.logit = nn.Conv2d(2 * ndf, 1, LEAST, bias=False)

    def logits(self, image: Tensor, c: Tensor) -> Tensor:
        """(n, 1, 1, long side / short side - …): one logit for each square of the smallest map."""
        x = self.stem(image)
        for block in self.blocks:
            x = block(x)
        spread = (self.alpha * self.project(c))[..., None, None].expand(-1, -1, *x.shape[2:])
        return self.logit(activated(self.joint(torch.cat([x, spread], 1))))

    def forward(self, image: Tensor, c: Tensor) -> Tensor:
        """image: (n, 3, h, w). c: (n, embedding). One number for each image, (n,)."""
        return self.logits(image, c).mean((1, 2, 3))


class PlainEncoder(nn.Module):
    """A source view to a vector, as a pix2pix encoder does it: what the retrieval embedder is compared with.

    The result has unit variance, as the scaled embedding has.
    """

    def __init__(self, size: Size, width: int, embedding: int) -> None:
        super().__init__()
        ways = doublings(size)
        widths = [3, *(width * min(2**i, 8) for i in range(ways))]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in pairwise(widths))
        self.last = nn.Linear(widths[-1] * (size[0] >> ways) * (size[1] >> ways), embedding)

    def forward(self, image: Tensor) -> Tensor:
        x = image
        for i, conv in enumerate(self.convs):
            x = conv(x)
            x = activated(instance_norm(x) if i else x)  # the first is not normalized, as published
        return scaled(F.normalize(self.last(x.flatten(1)), dim=1))


def scaled(unit: Tensor) -> Tensor:
    """Unit vectors (n, d) times sqrt(d): entries of unit variance, which linear layers can learn from (section 4.1)."""
    return math.sqrt(unit.shape[1]) * unit
