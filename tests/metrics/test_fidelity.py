"""FID, KID, Inception score, precision and recall: by hand, and against torch-fidelity itself."""

from __future__ import annotations

import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.errors import ArtifactError
from pipelines.metrics import fidelity
from pipelines.metrics.frechet import frechet_distance
from tests.metrics.planted import inception_state, plant, vgg16_state

CPU = torch.device("cpu")


def test_kid_by_hand() -> None:
    corners = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert fidelity.kid(corners, corners) == pytest.approx(-2.375)
    zeros, twos = np.zeros((2, 2)), np.array([[2.0, 0.0], [2.0, 0.0]])
    assert fidelity.kid(zeros, twos) == pytest.approx(26.0)
    assert fidelity.mmd2(corners, corners) == pytest.approx(-2.375)
    assert fidelity.mmd2(zeros, twos) == pytest.approx(26.0)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 12), st.integers(2, 12), st.integers(1, 6), st.integers(0, 99))
def test_mmd2_is_its_double_sum(n: int, m: int, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.5

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / d + 1) ** 3)

    within = [sum(k(s[i], s[j]) for i in range(len(s)) for j in range(len(s)) if i != j) for s in (x, y)]
    across = sum(k(a, b) for a in x for b in y)
    expected = within[0] / (n * (n - 1)) + within[1] / (m * (m - 1)) - 2 * across / (n * m)
    assert fidelity.mmd2(x, y) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_kid_of_small_sets_is_of_the_whole_sets_and_says_so() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 8)), rng.normal(size=(40, 8)) + 0.3
    assert fidelity.kid(x, y) == pytest.approx(fidelity.mmd2(x, y))
    assert fidelity.kid(x[::-1], rng.permutation(y)) == pytest.approx(fidelity.kid(x, y))
    assert "of the whole sets" in fidelity.kid_protocol(40, 40)
    assert "100 subsets of 40 (seed 2020)" in fidelity.kid_protocol(40, 160)
    assert "100 subsets of 1000 (seed 2020)" in fidelity.kid_protocol(5000, 5000)


@pytest.mark.parametrize("sizes", [(40, 40), (30, 60), (60, 55)])
def test_distances_equal_torch_fidelity(sizes: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets as large as KID's subsets, of other sizes, and larger ones."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    monkeypatch.setattr(fidelity, "SUBSET", 50)
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(24, 24))
    real = np.abs(rng.normal(size=(sizes[0], 24)) @ mixing).astype(np.float32)
    fake = np.abs(rng.normal(size=(sizes[1], 24)) @ mixing + 0.4).astype(np.float32)
    r, f = torch.from_numpy(real), torch.from_numpy(fake)  # in fp32, as it computes them itself
    fid = fid_statistics_to_metric(fid_features_to_statistics(f), fid_features_to_statistics(r), verbose=False)
    kid = kid_features_to_metric(f.double(), r.double(), kid_subset_size=min(50, *sizes), verbose=False)
    prc = prc_features_to_metric(f, r, verbose=False)
    assert fidelity.fid(real, fake) == pytest.approx(fid["frechet_inception_distance"], rel=1e-5)
    assert frechet_distance(real, fake) == pytest.approx(fid["frechet_inception_distance"], rel=1e-5)
    assert fidelity.kid(real, fake) == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-5)
    assert fidelity.precision_recall(real, fake) == pytest.approx((prc["precision"], prc["recall"]), abs=1e-5)


def test_inception_score_by_hand() -> None:
    logits = 1e3 * np.eye(5).repeat(4, 0)
    assert fidelity.inception_score(logits, splits=1) == pytest.approx(5.0)
    pairs = 50 * np.eye(2)[[0, 1]]
    assert fidelity.inception_score(pairs, splits=1) == pytest.approx(2.0)
    assert fidelity.inception_score(pairs, splits=2) == pytest.approx(1.0)  # an image alone surprises nobody
    assert fidelity.inception_score(np.ones((40, 7))) == pytest.approx(1.0)


def test_inception_score_from_its_definition() -> None:
    rng = np.random.default_rng(2)
    logits = rng.normal(size=(30, 6)) * 3
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = np.exp(np.mean((p * (np.log(p) - np.log(p.mean(0)))).sum(1)))
    assert fidelity.inception_score(logits, splits=1) == pytest.approx(expected)


def test_precision_and_recall_by_hand() -> None:
    real, fake = np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([[0.5], [10.0]])
    assert fidelity.precision_recall(real, fake, neighbors=1) == (0.5, 1.0)
    assert fidelity.precision_recall(real, real) == (1.0, 1.0)
    assert fidelity.precision_recall(real, real + 100) == (0.0, 0.0)


def test_duplicates_reach_themselves() -> None:
    """Balls of radius 0 around images that are there four times hold those images: borders are inside."""
    x = np.random.default_rng(3).normal(size=(5, 7)).repeat(4, 0)
    assert fidelity.precision_recall(x, x) == (1.0, 1.0)


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = plant(tmp_path, "weights-inception", {"fc.weight": torch.zeros(2)})
    with pytest.raises(ArtifactError, match="weights of another network"):
        fidelity.inception(file, CPU)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_weights_is_never_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return (open, (str(tmp_path / "owned"), "w"))

    for number, data in enumerate((pickle.dumps(Evil()), pickle.dumps({"fc.weight": Evil()}))):
        file = tmp_path / f"{number}.pth"
        file.write_bytes(data)
        for load in (fidelity.inception, fidelity.vgg16):
            with pytest.raises(ArtifactError, match="not a file of weights"):
                load(file, CPU)
    torch.save({"fc.weight": Evil()}, tmp_path / "zip.pth")
    with pytest.raises(ArtifactError, match="not a file of weights"):
        fidelity.inception(tmp_path / "zip.pth", CPU)
    assert not (tmp_path / "owned").exists()


def photos(folder: Path, count: int, seed: int) -> np.ndarray:
    """Blocks of color as PNG files and as an array."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8).repeat(5, 1).repeat(5, 2)
    folder.mkdir()
    for number, image in enumerate(images):
        cv2.imwrite(str(folder / f"{number:02d}.png"), image[..., ::-1])
    return images


@pytest.mark.slow
def test_fid_kid_and_is_of_files_equal_torch_fidelity(tmp_path: Path) -> None:
    """The whole way: image files, resizing, network, numbers; whatever the batch."""
    from torch_fidelity import calculate_metrics

    weights = plant(tmp_path, "weights-inception", inception_state())
    fake, real = photos(tmp_path / "fake", 10, 0), photos(tmp_path / "real", 10, 1)
    theirs = calculate_metrics(
        input1=str(tmp_path / "fake"),
        input2=str(tmp_path / "real"),
        fid=True,
        kid=True,
        isc=True,
        kid_subset_size=10,
        feature_extractor_weights_path=str(weights),
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    extract = fidelity.inception(weights, CPU)
    ours = {name: extract(images) for name, images in (("fake", fake), ("real", real))}
    one = [extract(image[None]) for image in fake[:2]]
    for layer in ("pool", "logits"):
        alone = np.concatenate([found[layer] for found in one])
        assert alone == pytest.approx(ours["fake"][layer][:2], rel=1e-5, abs=1e-6 * float(np.abs(alone).max()))
    pool = [ours[name]["pool"] for name in ("real", "fake")]
    assert pool[0].shape == (10, 2048) and np.ptp(pool[0], axis=0).max() > 1e-3
    assert fidelity.fid(*pool) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert fidelity.kid(*pool) == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-5)  # theirs is fp32
    assert fidelity.inception_score(ours["fake"]["logits"]) == pytest.approx(theirs["inception_score_mean"], rel=1e-5)


@pytest.mark.slow
def test_precision_and_recall_of_files_equal_torch_fidelity(tmp_path: Path) -> None:
    from torch_fidelity import calculate_metrics

    weights = plant(tmp_path, "vgg16", vgg16_state())
    assert weights.stat().st_size < 100e6
    fake, real = photos(tmp_path / "fake", 6, 0), photos(tmp_path / "real", 6, 1)
    theirs = calculate_metrics(
        input1=str(tmp_path / "fake"),
        input2=str(tmp_path / "real"),
        prc=True,
        feature_extractor="vgg16",
        feature_extractor_weights_path=str(weights),
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    extract = fidelity.vgg16(weights, CPU)
    found = (extract(real)["fc2"], extract(fake)["fc2"])
    assert found[0].shape == (6, 4096) and found[0].min() == 0 < found[0].max()
    assert fidelity.precision_recall(*found) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-5)
