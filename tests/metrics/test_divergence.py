"""KL, agreement and scores of scene classes against numbers by hand and torch; the classifier against torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import alexnet
from torchvision.transforms import functional as transforms

from pipelines.errors import ArtifactError
from pipelines.metrics import divergence
from pipelines.metrics.divergence import agrees, class_score, divergence_score, kl, places
from pipelines.metrics.scores import Context, NotComputed, Score

HALF = np.array([[0.5, 0.5], [0.5, 0.5]])


def context(count: int) -> Context:
    return Context({}, np.arange(count), count, 0)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "w.pth").write_bytes(b"weights")
    return tmp_path / "w.pth"


def test_kl_of_the_specification() -> None:
    assert kl(np.array([[0.7, 0.3]]), HALF[:1]) == pytest.approx([0.08228], abs=5e-6)
    assert np.exp(kl(np.array([[0.7, 0.3]]), HALF[:1])) == pytest.approx([1.08576], abs=5e-6)
    assert kl(HALF, HALF) == pytest.approx([0, 0])
    assert kl(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == pytest.approx([np.log(1e12)], rel=1e-6)


def test_kl_as_torch_has_it() -> None:
    p, q = (torch.from_numpy(np.random.default_rng(seed).dirichlet(np.ones(9), 5)) for seed in (0, 1))
    wanted = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(1).numpy()
    assert kl(p.numpy(), q.numpy()) == pytest.approx(wanted)


def test_mean_printed_score_and_spread_of_the_published_script(file: Path) -> None:
    fake = np.array([[0.5, 0.5], [0.9, 0.1]])
    scores = {name: divergence_score(name, list(fake), list(HALF), file, context(2)) for name in ("kl", "kl_exp")}
    assert all(isinstance(score, Score) for score in scores.values())
    assert scores["kl"].value == pytest.approx(0.18403, abs=5e-6)  # type: ignore[union-attr]
    assert scores["kl_exp"].value == pytest.approx(1.20205, abs=5e-6)  # type: ignore[union-attr]
    assert scores["kl"].protocol["standard deviation"].startswith("0.18403")  # type: ignore[union-attr]
    assert scores["kl"].on_real == 0 and scores["kl_exp"].on_real == 1  # type: ignore[union-attr]


def test_agreement_of_first_classes(file: Path) -> None:
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    q = np.array([[0.2, 0.6, 0.2], [0.3, 0.3, 0.4]])
    assert agrees(p, q, 1).tolist() == [False, True] and agrees(p, q, 2).tolist() == [True, True]
    top1 = divergence_score("scene_top1", list(p), list(q), file, context(2))
    sure = divergence_score("scene_top1_sure", list(p), list(q), file, context(2))
    assert isinstance(top1, Score) and isinstance(sure, Score)
    assert top1.value == 0.5 and sure.value == 0  # only the first real image has a class above one half
    unsure = divergence_score("scene_top1_sure", list(p), list(np.full((2, 3), 1 / 3)), file, context(2))
    assert isinstance(unsure, NotComputed)


def test_class_scores() -> None:
    assert class_score(np.eye(5)) == pytest.approx(5)
    assert class_score(np.full((4, 5), 0.2)) == pytest.approx(1)
    # all but the largest become 1e-9 and nothing is scaled: 0.8 and 0.6 stay
    p = np.array([[0.8, 0.2], [0.4, 0.6]])
    kept = np.array([[0.8, 1e-9], [1e-9, 0.6]])
    mean = kept.mean(0)
    assert class_score(p, 1) == pytest.approx(np.exp(np.mean((kept * np.log(kept / mean)).sum(1))), rel=1e-6)


def test_the_classifier_is_alexnet_on_the_central_crop(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = alexnet(weights=None, num_classes=divergence.CLASSES).eval()
    state = {name.replace("features.", "features.module."): tensor for name, tensor in net.state_dict().items()}
    torch.save({"arch": "alexnet", "state_dict": state}, tmp_path / "places.pth.tar")
    image = np.random.default_rng(0).integers(0, 256, (1, 256, 256, 3)).astype(np.uint8)
    tensor = torch.from_numpy(image).permute(0, 3, 1, 2).float() / 255
    crop = transforms.normalize(
        transforms.center_crop(tensor, [224, 224]), [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    )
    with torch.no_grad():
        wanted = net(crop).softmax(1).numpy()
    found = places(tmp_path / "places.pth.tar", torch.device("cpu"))(image)[divergence.LAYER]
    assert found == pytest.approx(wanted, abs=1e-6) and found.sum() == pytest.approx(1)
    torch.save({"x": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(ArtifactError, match="weights of another network"):
        places(tmp_path / "other.pth", torch.device("cpu"))
