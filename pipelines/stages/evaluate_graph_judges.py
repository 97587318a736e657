"""Who measures images of scene graphs, and that they are strangers to what they measure.

No weights of theirs, nor others of their runs, helped to train it; and a co-occurrence embedder has learned from other
images than the one that the generator was trained against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.artifact import Artifact, read_manifest
from pipelines.data.augment import Size
from pipelines.data.scene import Schema
from pipelines.embed.embedder import Embedder
from pipelines.errors import ArtifactError, ConfigError
from pipelines.metrics.scores import JudgeName
from pipelines.segment.classifier import NET, CropClassifier, classify
from pipelines.stages.evaluate_embedder import open_finished
from pipelines.stages.evaluate_judge import helped_to_train, require_finished
from pipelines.stages.train import require_same_classes
from pipelines.systems.trained import LoadedRun, load_networks
from pipelines.train.run import Weights, parse_reference

ROLE = "cooccurrence"
"""The role of the embedder that a generator is trained against."""


@dataclass(frozen=True)
class Recognizer:
    """A classifier that judges objects. own: it helped to train the samples."""

    run: LoadedRun
    own: bool

    @property
    def name(self) -> JudgeName:
        return JudgeName(self.weights.run.name, self.run.digest[:8], self.own, "classifier")

    @property
    def weights(self) -> Weights:
        return self.run.weights

    @property
    def size(self) -> Size:
        size: Size = self.run.config.size
        return size

    def network(self, device: torch.device) -> CropClassifier:
        net = self.run.nets[NET]
        assert isinstance(net, CropClassifier)
        return net.to(device).eval()

    def extractor(self, device: torch.device) -> Callable[[np.ndarray], np.ndarray]:
        """Whole images (n, h, w, 3) uint8 to its features (n, d)."""
        net = self.network(device)
        return lambda images: classify(net, images, self.size, device)[1]


@dataclass(frozen=True)
class Companion:
    """A co-occurrence embedder that says which patches go together. own: it is no stranger to the samples."""

    embedder: Embedder
    own: bool

    @property
    def name(self) -> JudgeName:
        return JudgeName(self.embedder.weights.run.name, self.embedder.sha256[:8], self.own, ROLE)


def open_recognizer(text: str, samples: Artifact, schema: Schema, allow_own: bool) -> Recognizer:
    """A classifier by its run. Raises ArtifactError when it is not finished or has other classes; ConfigError when it
    helped to train the samples and allow_own is not set."""
    path, step = parse_reference(text)
    loaded = load_networks(path, step, trainable="classifier")
    require_finished(loaded.weights, step, "the classifier")
    require_same_classes(schema, loaded.schema, "the classifier", path)
    own = helped_to_train(samples, loaded.digest, loaded.weights.manifest)
    if own and not allow_own:
        raise ConfigError(
            "this classifier helped to train what it would judge, so its scores mean little",
            where=path,
            fix="train another with --seed: rgs train classifier …; or accept it with --allow-own-judge",
        )
    return Recognizer(loaded, own)


def open_companion(text: str, samples: Artifact, allow_own: bool) -> Companion:
    """A co-occurrence embedder by its run. Raises ConfigError when it is no stranger and allow_own is not set."""
    embedder = open_finished(text)
    path = embedder.weights.run
    if embedder.kind != "cooccurrence":
        raise ConfigError(
            f"this embedder is of {embedder.kind}, not of co-occurrence",
            where=path,
            fix="rgs train embedder --kind cooccurrence trains one",
        )
    manifest = embedder.weights.manifest
    what = None
    if helped_to_train(samples, embedder.sha256, manifest):
        what = "the generator was trained against this co-occurrence embedder, which flatters it"
    elif (teacher := _teacher(samples)) is not None and _share_images(manifest, teacher):
        what = "this co-occurrence embedder learned from the images of the one that the generator was trained against"
    if what is not None and not allow_own:
        raise ConfigError(
            what,
            where=path,
            fix="train one on another bank, or both on halves of one: --set model.half=first and second, with another "
            "--seed; or accept it with --allow-own-judge",
        )
    return Companion(embedder, what is not None)


def _teacher(samples: Artifact) -> Mapping[str, Any] | None:
    """The manifest of the embedder that the generator was trained against; None where there was none.

    Raises ArtifactError where there was one and it is no longer found, as nobody can tell then what it learned from.
    """
    used, run = samples.statistics.get("trained_with", {}).get(ROLE), samples.input("run")
    if used is None:
        return None
    try:
        if run is None:
            raise ArtifactError("the samples name no run")
        path = samples.path.parent / run.path
        entry = next((i for i in read_manifest(path)["inputs"] if i["role"] == ROLE), None)
        if entry is None or entry["digest"] != used:
            raise ArtifactError(f"the run at {run.path} was trained with another one", where=path)
        manifest = read_manifest(path.parent / entry["path"])
        if used not in {weights["sha256"] for weights in manifest["weights"]}:
            raise ArtifactError(f"there are other weights at {entry['path']}", where=path)
    except ArtifactError as error:
        raise ArtifactError(
            f"the co-occurrence embedder that the generator was trained against is not found: {error.what}",
            where=error.where or samples.path,
            fix="put it back: what it learned from decides which other one may measure; or leave out --cooccurrence",
        ) from error
    return manifest


def _share_images(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Did two co-occurrence embedders learn from images in common: of one bank, if not from different halves of it?"""
    banks = [{i["digest"] for i in manifest["inputs"] if i["role"] == "bank"} for manifest in (one, other)]
    halves = {manifest["config"]["model"].get("half") for manifest in (one, other)}
    return bool(banks[0] & banks[1]) and halves != {"first", "second"}
