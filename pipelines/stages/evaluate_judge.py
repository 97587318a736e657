"""The segmenters of rgs eval: judges, and those whose features distances are measured in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.artifact import Artifact
from pipelines.data.scene import Schema
from pipelines.errors import ArtifactError, ConfigError
from pipelines.metrics.extract import segment
from pipelines.metrics.scores import JudgeName
from pipelines.segment.networks import SegmenterNet
from pipelines.stages.train import require_same_classes
from pipelines.systems.trained import LoadedRun, load_networks
from pipelines.train.run import Weights, identity, parse_reference


@dataclass(frozen=True)
class Segmenter:
    """A segmenter that judges, or whose features distances are measured in. own: it helped to train the samples."""

    run: LoadedRun
    own: bool

    @property
    def name(self) -> JudgeName:
        return JudgeName(self.run.weights.run.name, self.run.digest[:8], self.own)

    @property
    def weights(self) -> Weights:
        return self.run.weights

    def network(self, device: torch.device) -> SegmenterNet:
        net = self.run.nets["S"]
        assert isinstance(net, SegmenterNet)
        return net.to(device).eval()

    def extractor(self, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
        """Images (n, h, w, 3) uint8 of one size to its features (n, d)."""
        net = self.network(device)
        return lambda images: segment(net, images, device)[1]


def open_segmenter(text: str, role: str, samples: Artifact, schema: Schema, allow_own: bool) -> Segmenter:
    """A segmenter by its run, and whether any of its weights helped to train the samples' system.

    role: judge or features. Raises ArtifactError when it is not finished or, as a judge, has other classes; ConfigError
    when it helped to train and allow_own is not set.
    """
    path, step = parse_reference(text)
    loaded = load_networks(path, step, trainable="segmenter")
    what = "the judge" if role == "judge" else "the segmenter of the features"
    require_finished(loaded.weights, step, what)
    if role == "judge":  # features of other classes are features
        require_same_classes(schema, loaded.schema, what, path)
    own = helped_to_train(samples, loaded.digest, loaded.weights.manifest)
    if own and not allow_own:
        it = "judge" if role == "judge" else "segmenter"
        raise ConfigError(
            f"this {it} helped to train what it would judge, so its scores mean little",
            where=path,
            fix="train another: rgs train segmenter --arch deeplabv3 …; or accept it with --allow-own-judge",
        )
    return Segmenter(loaded, own)


def require_finished(weights: Weights, step: int | None, what: str) -> None:
    """Raises ArtifactError when a run is still training and no step of it was named."""
    if step is None and weights.manifest["status"] != "finished":
        raise ArtifactError(
            f"{what} is not finished (step {weights.step})",
            where=weights.run,
            fix=f"let it finish, or name the step: {weights.run}@{weights.step}",
        )


def helped_to_train(samples: Artifact, digest: str, manifest: Mapping[str, Any]) -> bool:
    """Did weights of this digest, or others of their run, help to train the samples' system?"""
    used = set(samples.statistics.get("trained_with", {}).values())
    own = bool(used & {digest, *(str(w["sha256"]) for w in manifest["weights"])})
    own |= identity(manifest) in samples.statistics.get("teachers", {}).values()  # whatever its step
    return own or any(i["role"] == "init" and i["digest"] in used for i in manifest["inputs"])  # or what grew out of it
