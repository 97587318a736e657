"""The networks of segmenters, behind one interface: images in [-1, 1] to logits of their size, and pooled features."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.nn.initialization import settle
from pipelines.nn.layers.joined import joined
from pipelines.nn.layers.unet import WIDTHS, UNet

Architecture = Literal["unet", "deeplabv3", "lraspp"]


class SegmenterNet(nn.Module):
    """What every architecture gives. images: (n, 3, h, w) in [-1, 1]. `feature_size` is d of the features."""

    feature_size: int

    def last(self) -> nn.Module:
        """The 1x1 convolution that turns the penultimate map (n, d, ., .) into logits."""
        raise NotImplementedError

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (n, classes, h, w) and features (n, d) of one pass: the penultimate map averaged over all pixels."""
        seen: list[Tensor] = []
        hook = self.last().register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            logits = self(images)
        finally:
            hook.remove()
        return logits, seen[0].mean((2, 3))

    def features(self, images: Tensor) -> Tensor:
        """(n, d); see `logits_and_features`."""
        return self.logits_and_features(images)[1]


class UNetSegmenter(UNet, SegmenterNet):
    """RESAIL's segmenter: the U-Net of OASIS without its «fake» class, keys as published.

    width: channels of the first block; 128 is published, the others scale with it. Features: the decoder's last map
    (d = width / 2, 64 as published), the input of layer_up_last.

    It begins with torch's own weights. With the field's Xavier gain of 0.02, Adam's first steps of 2e-4 outgrow weights
    and singular vectors: the loss starts at hundreds and then rests at log(classes) for more than a hundred steps.
    """

    def __init__(self, classes: int, width: int) -> None:
        super().__init__(classes, [w * width // WIDTHS[0] for w in WIDTHS])
        self.feature_size = width // 2
        settle(self)

    def last(self) -> nn.Module:
        return self.layer_up_last


class MobileNetSegmenter(SegmenterNet):
    """DeepLabv3 or LR-ASPP over MobileNetV3-Large, as torchvision builds them, from random weights.

    Their coarsest map has stride 16, so images whose shorter side is below `min_side` are enlarged to it
    (bilinear); logits come back at the images' own size. Batch norm joins the batches of all processes, and
    DeepLabv3's dropout is left out: its draws would depend on how a batch is shared. Features: DeepLabv3's 256-channel
    map before the classifier, LR-ASPP's 128-channel gated map before its high classifier.
    """

    def __init__(self, classes: int, architecture: Literal["deeplabv3", "lraspp"], min_side: int) -> None:
        from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large, lraspp_mobilenet_v3_large

        super().__init__()
        deeplab = architecture == "deeplabv3"
        build = deeplabv3_mobilenet_v3_large if deeplab else lraspp_mobilenet_v3_large
        body = build(weights=None, weights_backbone=None, num_classes=classes)
        self.backbone, self.classifier = joined(body.backbone), joined(body.classifier)
        self.deeplab, self.min_side = deeplab, min_side
        self.feature_size = 256 if deeplab else 128

    def last(self) -> nn.Module:
        last: nn.Module = self.classifier[-1] if self.deeplab else self.classifier.high_classifier  # type: ignore
        return last

    def forward(self, images: Tensor) -> Tensor:
        h, w = images.shape[-2:]
        enlarge = self.min_side / min(h, w)
        if enlarge > 1:
            larger = (round(h * enlarge), round(w * enlarge))
            images = F.interpolate(images, larger, mode="bilinear", align_corners=False)
        maps = self.backbone(images)
        logits = self.classifier(maps["out"] if self.deeplab else maps)
        return F.interpolate(logits, (h, w), mode="bilinear", align_corners=False)
