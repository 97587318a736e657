"""The segmenter: sizes, parameter counts, losses by hand, examples, and that it learns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.data.augment import jitter
from pipelines.data.scene import Category, Scene, SceneRecord, Schema
from pipelines.errors import DataError
from pipelines.nn.layers.joined import JoinedBatchNorm
from pipelines.segment.networks import UNetSegmenter
from pipelines.segment.segmenter import Segmenter, SegmenterConfig, build_network
from pipelines.systems.base import Sources

SCHEMA = Schema(
    (
        Category(0, "sky", (0, 0, 255), False),
        Category(7, "wall", (255, 0, 0), False),
        Category(9, "door", (0, 255, 0), True),
    ),
    ignored=(255,),
)
SMALL = {
    "unet": SegmenterConfig(arch="unet", width=8, size=(64, 64)),
    "deeplabv3": SegmenterConfig(arch="deeplabv3", min_side=64, size=(64, 64)),
    "lraspp": SegmenterConfig(arch="lraspp", min_side=64, size=(64, 64)),
}


class Dataset:
    """Scenes whose image is the color of the labels: left half wall, right half door, a corner ignored."""

    format, root, schema = "made", Path("made"), SCHEMA

    def __init__(self, labelled: bool = True) -> None:
        self.labelled = labelled

    def splits(self) -> list[str]:
        return ["train"]

    def records(self, split: str | None = None) -> list[SceneRecord]:
        return [SceneRecord(f"train/{i}", "train", Path(f"{i}.png")) for i in range(4)]

    def read(self, record: SceneRecord) -> Scene:
        labels = np.full((48, 96), 1, dtype=np.int16)
        labels[:, 48:] = 2
        labels[:8, :8] = -1
        image = np.vstack([SCHEMA.palette, [[0, 0, 0]]])[labels].astype(np.uint8)
        return Scene(record, image, labels if self.labelled else None, None)


def sources(labelled: bool = True) -> Sources:
    dataset = Dataset(labelled)
    return Sources(dataset, dataset.records())


@pytest.mark.parametrize("arch", SMALL)
@pytest.mark.parametrize("size", [(64, 64), (40, 72)])
@pytest.mark.parametrize("train", [True, False])
def test_logits_have_the_size_of_the_image(arch: str, size: tuple[int, int], train: bool) -> None:
    net = build_network(SMALL[arch], 3).train(train)
    images = torch.rand(2, 3, *size) * 2 - 1
    logits, features = net.logits_and_features(images)
    assert logits.shape == (2, 3, *size)
    assert features.shape == (2, net.feature_size)
    assert logits.isfinite().all() and features.isfinite().all()


def test_the_published_unet_has_its_parameters() -> None:
    with torch.device("meta"):
        net = UNetSegmenter.__bases__[0](35)
    assert sum(p.numel() for p in net.parameters()) == 22_251_299


@pytest.mark.parametrize("arch", SMALL)
def test_features_are_the_pooled_input_of_the_classifier(arch: str) -> None:
    net = build_network(SMALL[arch], 3).eval()
    images = torch.rand(2, 3, 64, 64)
    seen = []
    hook = net.last().register_forward_hook(lambda module, inputs, output: seen.append((inputs[0], output)))
    features = net.features(images)
    hook.remove()
    (penultimate, output) = seen[0]
    assert torch.equal(features, penultimate.mean((2, 3)))
    assert output.shape[1] == 3
    assert not net.last()._forward_pre_hooks


@pytest.mark.parametrize("arch", SMALL)
def test_an_image_is_judged_alike_in_every_batch(arch: str) -> None:
    net = build_network(SMALL[arch], 3).eval()
    images = torch.rand(3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        assert torch.allclose(net(images)[1:2], net(images[1:2]), atol=1e-4)


@pytest.mark.parametrize("arch", ["deeplabv3", "lraspp"])
def test_a_batch_of_one_trains(arch: str) -> None:
    net = build_network(SMALL[arch], 3).train()
    net(torch.rand(1, 3, 64, 64)).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


def test_batch_norm_is_torchs_with_its_keys() -> None:
    ours, theirs = JoinedBatchNorm(5), torch.nn.BatchNorm2d(5)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for norm in (ours, theirs):
        norm.weight.data = torch.arange(1.0, 6)
        norm.bias.data = torch.arange(5.0)
    x = torch.randn(3, 5, 4, 4)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)
    assert torch.allclose(ours.eval()(x), theirs.eval()(x), atol=1e-5)


def test_no_dropout_and_no_weights_from_elsewhere() -> None:
    net = build_network(SMALL["deeplabv3"], 3)
    assert not any(isinstance(m, torch.nn.Dropout | torch.nn.BatchNorm2d) for m in net.modules())


class Constant(torch.nn.Module):
    """Logits that are the same at each pixel: probabilities (1/2, 1/4, 1/4)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = torch.log(torch.tensor([0.5, 0.25, 0.25]))
        return logits[None, :, None, None].expand(len(images), -1, *images.shape[-2:])


@pytest.mark.parametrize(
    ("balanced", "expected"),
    # three labelled pixels of class 0, one of class 1, four ignored
    [(False, (3 * np.log(2) + np.log(4)) / 4), (True, (np.log(2) + np.log(4)) / 2)],
)
def test_the_loss_by_hand(balanced: bool, expected: float) -> None:
    trainable = Segmenter(SegmenterConfig(balanced=balanced), SCHEMA)
    batch = {"image": torch.zeros(1, 3, 2, 4), "labels": torch.tensor([[[0, 0, 0, 1], [-1, -1, -1, -1]]])}
    terms = trainable.losses("S", {"S": Constant()}, {}, batch, {}, 0)
    assert float(sum(terms.values())) == pytest.approx(expected, rel=1e-5)


def test_a_batch_without_labels_has_no_loss() -> None:
    batch = {"image": torch.zeros(1, 3, 2, 2), "labels": torch.full((1, 2, 2), -1)}
    for balanced in (True, False):
        terms = Segmenter(SegmenterConfig(balanced=balanced), SCHEMA).losses("S", {"S": Constant()}, {}, batch, {}, 0)
        assert float(sum(terms.values())) == 0


@pytest.mark.parametrize("seed", range(5))
def test_image_and_labels_stay_aligned(seed: int) -> None:
    config = SegmenterConfig(size=(48, 96), jitter=0)
    example = Segmenter(config, SCHEMA).example("train/1", sources(), np.random.default_rng(seed), 0)
    assert example["image"].shape == (3, 48, 96) and example["labels"].shape == (48, 96)
    palette = torch.from_numpy(np.vstack([SCHEMA.palette, [[0, 0, 0]]])).float() / 127.5 - 1
    distance = (example["image"] - palette[example["labels"]].permute(2, 0, 1)).abs().amax(0)
    assert (distance < 0.02).float().mean() > 0.9  # but for blended pixels along edges


def test_examples_are_functions_of_their_generator() -> None:
    segmenter = Segmenter(SegmenterConfig(size=(32, 32)), SCHEMA)
    first, again, other = (
        segmenter.example("train/0", sources(), np.random.default_rng(s), 0)["image"] for s in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_without_augmentation_the_whole_scene_is_shown() -> None:
    config = SegmenterConfig(size=(48, 96), flip=False, zoom=1, jitter=0)
    example = Segmenter(config, SCHEMA).example("train/0", sources(), np.random.default_rng(0), 0)
    scene = Dataset().read(Dataset().records()[0])
    assert scene.image is not None and scene.labels is not None
    assert np.array_equal(((example["image"] + 1) * 127.5).round().permute(1, 2, 0).numpy(), scene.image)
    assert np.array_equal(example["labels"].numpy(), scene.labels)


def test_jitter_of_zero_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    assert np.array_equal(jitter(image, 0, np.random.default_rng(1)), image)


def test_a_scene_without_labels_is_refused() -> None:
    with pytest.raises(DataError, match="train/0 has no label map"):
        Segmenter(SegmenterConfig(), SCHEMA).example("train/0", sources(False), np.random.default_rng(0), 0)


def test_the_preview_paints_ignored_pixels_black() -> None:
    batch = {"image": torch.zeros(1, 3, 1, 2), "labels": torch.tensor([[[-1, 1]]])}
    shown = Segmenter(SegmenterConfig(), SCHEMA).preview({"S": Constant()}, {}, batch)
    assert shown["labels"][0, :, 0].T.tolist() == [[-1, -1, -1], [1, -1, -1]]
    assert shown["prediction"][0, :, 0].T.tolist() == [[-1, -1, 1]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("arch", SMALL)
def test_it_learns_colors(arch: str) -> None:
    torch.manual_seed(0)
    segmenter = Segmenter(SMALL[arch], SCHEMA)
    net = segmenter.networks()["S"]
    lr, steps = (3e-3, 100) if arch == "unet" else (1e-2, 25)
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    rng = np.random.default_rng(0)
    for step in range(steps):
        batch = segmenter.collate([segmenter.example("train/0", sources(), rng, step) for _ in range(4)])
        loss = sum(segmenter.losses("S", {"S": net}, {}, batch, {}, step).values())
        assert isinstance(loss, torch.Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    valid = batch["labels"] >= 0
    right = (net(batch["image"]).argmax(1) == batch["labels"])[valid]
    assert right.float().mean() > 0.9
