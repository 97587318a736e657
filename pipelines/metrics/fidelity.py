"""torch-fidelity's networks and its definitions of FID, KID, Inception score, precision and recall.

The networks are its modules, and so are their resizing (bilinear as in TensorFlow 1) and scaling. It would load its
weights with an unrestricted unpickler, or download them; so they are read here as tensors alone, written anew into
memory, and that is what it is given: it never sees a byte of the file. The numbers are its functions on float64
features, so that neither batch size nor the order of a sum shows in them.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.errors import ArtifactError
from pipelines.metrics.extract import exact
from pipelines.weights import read

SUBSETS, SUBSET = 100, 1000
"""KID: subsets and their size, which torch-fidelity lets no set fall short of."""
SPLITS = 10
"""Inception score: parts of the set."""
NEIGHBORS = 3
"""Precision and recall: a set reaches from each image as far as its third neighbor."""

FID_PROTOCOL = "pool3 features (2048), means and covariances (ddof 1)"
PRECISION_PROTOCOL = f"balls to neighbor {NEIGHBORS}, borders included"
IS_PROTOCOL = f"logits without bias, {SPLITS} splits, shuffled with seed 2020, mean of splits"
RESIZING = "bilinear as in TensorFlow 1, no antialiasing"

Features = Callable[[np.ndarray], dict[str, np.ndarray]]
"""Images (n, h, w, 3) uint8 to named features, each (n, d) float32."""


def library() -> str:
    return f"torch-fidelity {metadata.version('torch-fidelity')}"


def inception(weights: Path, device: torch.device) -> Features:
    """FID's Inception of 2015-12-05: «pool» (n, 2048) and «logits» without bias (n, 1008)."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    net = _build(FeatureExtractorInceptionV3, weights, ["2048", "logits_unbiased"])
    return _features(net, ("pool", "logits"), device)


def vgg16(weights: Path, device: torch.device) -> Features:
    """torchvision's VGG-16: «fc2» after its ReLU (n, 4096)."""
    from torch_fidelity.feature_extractor_vgg16 import FeatureExtractorVGG16

    return _features(_build(FeatureExtractorVGG16, weights, ["fc2_relu"]), ("fc2",), device)


def _build(extractor: Any, weights: Path, layers: list[str]) -> nn.Module:
    """The extractor with the tensors of a file; ArtifactError when they are those of another network."""
    tensors = io.BytesIO()
    torch.save(read(weights), tensors)
    tensors.seek(0)
    try:
        net = extractor("rgs", layers, feature_extractor_weights_path=tensors)
    except RuntimeError as error:  # load_state_dict: keys or shapes differ
        what = str(error).splitlines()
        raise ArtifactError(f"these are weights of another network: {' '.join(what[:2])}", where=weights) from error
    assert isinstance(net, nn.Module)
    return net


def _features(net: nn.Module, names: tuple[str, ...], device: torch.device) -> Features:
    net = net.to(device).eval()

    def features(images: np.ndarray) -> dict[str, np.ndarray]:
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(device).permute(0, 3, 1, 2)
        with exact(device):
            found = net(batch)
        return {name: f.cpu().numpy() for name, f in zip(names, found, strict=True)}

    return features


def fid(real: np.ndarray, fake: np.ndarray) -> float:
    """Frechet distance of features (n, d) and (m, d) as torch-fidelity computes it."""
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    statistics = [fid_features_to_statistics(_tensor(features)) for features in (fake, real)]
    return float(fid_statistics_to_metric(*statistics, verbose=False)[KEY_METRIC_FID])


def kid(real: np.ndarray, fake: np.ndarray) -> float:
    """Mean over SUBSETS of the unbiased MMD² under the kernel (x·y / d + 1)³; subsets have `subset_size` images."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = subset_size(len(real), len(fake))
    whole = size == len(real) == len(fake)  # then every subset is the same set
    found = kid_features_to_metric(
        _tensor(fake), _tensor(real), kid_subset_size=size, kid_subsets=1 if whole else SUBSETS, verbose=False
    )
    return float(found[KEY_METRIC_KID_MEAN])


def mmd2(real: np.ndarray, fake: np.ndarray) -> float:
    """The unbiased MMD² of whole sets under KID's kernel; equals `kid` for equal counts of up to SUBSET images."""

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)

    def within(x: np.ndarray) -> float:
        K = kernel(x, x)
        return float((K.sum() - np.trace(K)) / (len(x) * (len(x) - 1)))

    return within(real) + within(fake) - 2 * float(kernel(real, fake).mean())


def subset_size(real: int, fake: int) -> int:
    """Images in KID's subsets: SUBSET, or all of the smaller set where it has fewer."""
    return min(SUBSET, real, fake)


def kid_protocol(real: int, fake: int) -> str:
    """KID's subsets in words, as `kid` draws them."""
    kernel, size = "polynomial kernel (x·y / d + 1)³, unbiased MMD²", subset_size(real, fake)
    if size == real == fake:
        return f"{kernel} of the whole sets"
    return f"{kernel}, mean over {SUBSETS} subsets of {size} (seed 2020)"


def inception_score(logits: np.ndarray, splits: int = SPLITS) -> float:
    """exp of the mean divergence of p(y|x) from p(y), mean over parts of the set.

    logits: (n, classes), n at least `splits`.
    """
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    return float(isc_features_to_metric(_tensor(logits), splits=splits)[KEY_METRIC_ISC_MEAN])


def precision_recall(real: np.ndarray, fake: np.ndarray, neighbors: int = NEIGHBORS) -> tuple[float, float]:
    """Share of fakes within the balls of reals, and of reals within those of fakes.

    Both sets need `neighbors` + 1 images.
    """
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    found = prc_features_to_metric(_tensor(fake), _tensor(real), prc_neighborhood=neighbors, verbose=False)
    return float(found[KEY_METRIC_PRECISION]), float(found[KEY_METRIC_RECALL])


def _tensor(features: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(features, dtype=np.float64))
