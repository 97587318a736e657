"""LPIPS and style loss from their definitions, under planted weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from torch import nn
from torchvision.models import alexnet, squeezenet1_1
from torchvision.models.vgg import cfgs, make_layers

from pipelines.errors import ArtifactError
from pipelines.metrics import perceptual
from tests.metrics.planted import alexnet_state, plant, squeezenet_state, vgg16_state, vgg19_state

CPU = torch.device("cpu")
HEADS = Path(torchmetrics.__file__).parent / "functional" / "image" / "lpips_models"


def images(count: int, side: int = 40) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side + 3, 3), dtype=np.uint8)


def tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).double() / 127.5 - 1


@pytest.mark.parametrize(
    ("net", "state", "trunk", "taps"),
    [
        ("squeeze", squeezenet_state, lambda: squeezenet1_1(weights=None).features, (1, 4, 7, 9, 10, 11, 12)),
        ("alex", alexnet_state, lambda: alexnet(weights=None).features, (1, 4, 7, 9, 11)),
        pytest.param("vgg", vgg16_state, lambda: make_layers(cfgs["D"]), (3, 8, 15, 22, 29), marks=pytest.mark.slow),
    ],
)
def test_lpips_is_its_definition(net, state, trunk, taps, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    weights = state()
    distance = perceptual.lpips(net, plant(tmp_path, net, weights), CPU)
    features: nn.Sequential = trunk().double().eval()
    features.load_state_dict({k.removeprefix("features."): v for k, v in weights.items() if k.startswith("features.")})
    heads = torch.load(HEADS / f"{net}.pth", map_location="cpu", weights_only=True)

    def activations(pixels: np.ndarray) -> list[torch.Tensor]:
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        x = (tensor(pixels) - shift[:, None, None]) / scale[:, None, None]
        kept = []
        for number, layer in enumerate(features[: taps[-1] + 1]):
            x = layer(x)
            if number in taps:
                kept.append(x.clone())
        return kept

    a, b = images(4)[:2], images(4)[2:]
    expected = torch.zeros(2, dtype=torch.float64)
    with torch.no_grad():
        for number, pair in enumerate(zip(activations(a), activations(b), strict=True)):
            f, g = (x / (x.square().sum(1, keepdim=True) + 1e-8).sqrt() for x in pair)
            w = heads[f"lin{number}.model.1.weight"].double().flatten()
            expected += torch.einsum("nchw,c->nhw", (f - g).square(), w).mean((1, 2))
    assert distance(a, b) == pytest.approx(expected.numpy(), rel=1e-5)
    assert distance(b, a) == pytest.approx(distance(a, b), rel=1e-6)
    assert distance(a, a) == pytest.approx([0, 0], abs=1e-9)
    alone = [distance(a[i : i + 1], b[i : i + 1])[0] for i in range(2)]
    assert alone == pytest.approx(distance(a, b), rel=1e-6)


def test_lpips_equals_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    state = squeezenet_state()
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(state, cache / "squeezenet1_1-b8a52dc0.pth")  # torch looks at the name of a cached file alone
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    a, b = images(4)[:2], images(4)[2:]
    theirs = learned_perceptual_image_patch_similarity(
        tensor(a).float(), tensor(b).float(), net_type="squeeze", reduction="none"
    )
    ours = perceptual.lpips("squeeze", plant(tmp_path, "squeeze", state), CPU)(a, b)
    assert ours == pytest.approx(theirs.numpy(), rel=1e-5)


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_weights_of_another_network_are_refused(net: perceptual.Net, tmp_path: Path) -> None:
    state = {"features.0.weight": torch.zeros(64, 3, 11, 11)}
    with pytest.raises(ArtifactError, match="weights of another network"):
        perceptual.lpips(net, plant(tmp_path, net, state), CPU)
    with pytest.raises(ArtifactError, match="no VGG-19") as error:
        perceptual.style(plant(tmp_path, "vgg19", state), CPU)
    assert "vgg19-" in str(error.value)


def test_the_smallest_images_pass(tmp_path: Path) -> None:
    side = perceptual.SMALLEST["squeeze"]
    distance = perceptual.lpips("squeeze", plant(tmp_path, "squeeze", squeezenet_state()), CPU)
    assert np.isfinite(distance(images(1, side), images(1, side)[:, ::-1])).all()
    with pytest.raises(RuntimeError):
        distance(images(1, side - 1), images(1, side - 1))


def test_gram_distance_by_hand() -> None:
    F = torch.tensor([[1.0, 0, 1, 0], [0, 2, 0, 2]]).reshape(1, 2, 2, 2)
    assert perceptual.gram_distance(F, torch.zeros_like(F)).tolist() == [0.265625]
    assert perceptual.gram_distance(F, F).tolist() == [0]
    turned = F.flip(3)  # a Gram matrix forgets where
    assert perceptual.gram_distance(F, turned).tolist() == [0]


def test_style_loss_is_its_definition(tmp_path: Path) -> None:
    weights = vgg19_state()
    a, b = images(4, 32)[:2], images(4, 32)[2:]
    found = perceptual.style(plant(tmp_path, "vgg19", weights), CPU)(a, b)
    layers = make_layers(cfgs["E"]).double()
    layers.load_state_dict({k.removeprefix("features."): v for k, v in weights.items()})

    def grams(pixels: np.ndarray) -> list[np.ndarray]:
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = ((tensor(pixels) + 1) / 2 - mean[:, None, None]) / std[:, None, None]
        kept, first = [], True
        for layer in layers:
            x = layer(x)
            if isinstance(layer, nn.ReLU) and first:  # relu1_1, and the first after each pooling
                f = x.flatten(2).numpy()
                kept.append(f @ f.transpose(0, 2, 1) / (2 * f.shape[1] * f.shape[2]))
                first = False
            first |= isinstance(layer, nn.MaxPool2d)
        return kept

    with torch.no_grad():
        pairs = list(zip(grams(a), grams(b), strict=True))
    assert len(pairs) == 5
    expected = np.mean([np.square(g - h).sum((1, 2)) for g, h in pairs], axis=0)
    assert found == pytest.approx(expected, rel=1e-5)
