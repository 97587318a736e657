"""The contract of everything that the one training loop trains.

`Trainable` is what the loop needs; embedders, segmenters and judges are trainables. `System` adds synthesis: a
published method that makes images. A trainable states what it needs and how it is optimized in a `Plan`, makes
examples in data workers, and returns named, weighted loss terms; the loop does the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

from pipelines.data.palette import paint_labels
from pipelines.data.scene import Dataset, SceneRecord, Schema
from pipelines.data.transforms import nearest_resize
from pipelines.errors import DataError

if TYPE_CHECKING:
    from pipelines.bank.bank import Bank
    from pipelines.data.graph import SceneGraph
    from pipelines.index.neighbors import Neighbors
    from pipelines.index.prefilter import Prefilter
    from pipelines.index.shape_index import ShapeIndex

Batch = dict[str, Any]
Networks = Mapping[str, nn.Module]
Frozen = Mapping[str, nn.Module]


@dataclass(frozen=True)
class Needs:
    """What must be given: scene fields («image», «labels», «instances»), a bank and index by kind, frozen runs.

    views: of paired data («aerial», «ground»). dataset: False where a bank is all there is. bank: a kind, or «any».
    index: «shape» or «embedding». graph: the scene graphs of the bank's images, which say what there is to relate too.
    `frozen` maps a role to the trainable it must be («segmenter» -> «segmenter»); a run of one network gives that
    network, a run of several an nn.ModuleDict of them.
    """

    fields: tuple[str, ...] = ("image", "labels")
    views: tuple[str, ...] = ()
    dataset: bool = True
    bank: str | None = None
    index: str | None = None
    graph: bool = False
    frozen: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Phase:
    """One optimization step of the named networks: every `every`-th step from `start` on, until `stop` (exclusive)."""

    name: str
    nets: tuple[str, ...]
    every: int = 1
    start: int = 0
    stop: int | None = None
    precision: Literal["fp32", "bf16"] | None = None

    def due(self, step: int) -> bool:
        return self.start <= step and (self.stop is None or step < self.stop) and (step - self.start) % self.every == 0


@dataclass(frozen=True)
class Adam:
    """Adam for one network; `lr` is a function of the step.

    decoupled: AdamW. clip: the largest norm that its gradients may have together. rho: radius of adaptive
    sharpness-aware minimization (train/asam.py), for which the losses are computed twice; None for plain steps.
    """

    lr: Callable[[int], float]
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    decoupled: bool = False
    clip: float | None = None
    rho: float | None = None


@dataclass(frozen=True)
class Plan:
    """What a trainable needs and how it is optimized; made from the config and schema alone, before anything starts."""

    train: Needs
    synthesize: Needs
    phases: tuple[Phase, ...]
    optimizers: Mapping[str, Adam]
    averaged: Mapping[str, float] = field(default_factory=dict)
    perceptual: bool = False


@dataclass(frozen=True)
class Sources:
    """What the user gave, opened. Picklable: a bank drops its file handles when it travels to a worker.

    validation: scenes of groups that are in no training scene, for `Validated`. prefilter: finds candidates for the
    objects of a graph at synthesis.
    """

    dataset: Dataset | None = None
    records: Sequence[SceneRecord] = ()
    validation: Sequence[SceneRecord] = ()
    bank: Bank | None = None
    neighbors: Neighbors | None = None
    index: ShapeIndex | None = None
    prefilter: Prefilter | None = None

    def record(self, scene_id: str) -> SceneRecord:
        return self._by_id[scene_id]

    @property
    def _by_id(self) -> dict[str, SceneRecord]:
        table: dict[str, SceneRecord] | None = self.__dict__.get("_table")
        if table is None:
            table = {record.id: record for record in self.records}
            object.__setattr__(self, "_table", table)
        return table


@dataclass(frozen=True)
class Sampling:
    """Which examples a step draws: ids, in a fresh order each epoch, or with replacement by weight.

    groups: one name per id; no two examples of a batch are of one group, and what is left over at the end of an
    epoch sits it out.
    """

    ids: Sequence[str]
    weights: np.ndarray | None = None
    groups: Sequence[str] | None = None


@dataclass(frozen=True)
class Synthesis:
    """images: (n, 3, h, w) in [-1, 1]. guidance: the same form, or None. provenance: one record per image, or None.

    graphs: of images made from graphs one record each: «boxes» (n, 4) in parts of the image, which were «used»
    («predicted» or «given»), and «patches», for each object the «row», «id» and «source» of its piece, or None.
    """

    images: Tensor
    guidance: Tensor | None = None
    provenance: list[Any] | None = None
    graphs: list[dict[str, Any]] | None = None


class Trainable(Protocol):
    """What the training loop trains. `schema` is kept in the run, so that later stages need no dataset."""

    Config: Any

    @classmethod
    def plan(cls, config: Any, schema: Schema, steps: int) -> Plan: ...

    def __init__(self, config: Any, schema: Schema) -> None: ...

    def networks(self) -> dict[str, nn.Module]: ...

    def sampling(self, sources: Sources) -> Sampling: ...

    def example(self, scene_id: str, sources: Sources, rng: np.random.Generator, step: int) -> dict[str, Any]:
        """One training example as tensors and plain values; runs in a worker, draws every random number from rng."""
        ...

    def collate(self, examples: Sequence[dict[str, Any]]) -> Batch: ...

    def losses(
        self, phase: str, nets: Networks, frozen: Frozen, batch: Batch, memo: dict[str, Any], step: int
    ) -> dict[str, Tensor]:
        """Named, weighted terms whose sum the phase minimizes.

        `memo` is shared by the phases of one step; «progress» in it is the share of the training that is done. Tensors
        of one number that are put under «observed», by name, are logged beside the terms and minimized by nobody.
        """
        ...

    def preview(self, nets: Networks, frozen: Frozen, batch: Batch) -> dict[str, Tensor]:
        """Columns of a sample grid by name, each (n, 3, h, w) in [-1, 1]: what a person looks at while it trains."""
        ...


@runtime_checkable
class Validated(Protocol):
    """A trainable that measures itself while it trains, on `sources.validation` or a held-out part of the bank.

    Networks come in eval mode. Where there is nothing to measure on it returns nothing.
    """

    def validate(self, nets: Networks, sources: Sources, device: torch.device) -> dict[str, float]: ...


@runtime_checkable
class Fitted(Protocol):
    """A trainable whose config must fit its frozen networks, which is told before the first step."""

    def check(self, frozen: Frozen) -> None: ...


@runtime_checkable
class Refreshed(Protocol):
    """A trainable that looks through its bank anew as its networks learn, such as for candidates under a new embedder.

    It is asked before the phases of each step, and once before synthesis, where state is None. What it returns is the
    new state: kept in checkpoints, given back here and as memo["state"], so that a resumed training goes on as it
    was. None: the state stays. Networks come as they are, and are left in the mode in which they came.
    """

    def refresh(
        self, nets: Networks, sources: Sources, step: int, state: dict[str, Tensor] | None, device: torch.device
    ) -> dict[str, Tensor] | None: ...


class System(Trainable, Protocol):
    """A published method: a trainable that synthesizes. `Options` is what synthesis may be asked beyond an image."""

    Options: Any

    def request(self, item: Any, sources: Sources, options: Any, rng: np.random.Generator) -> dict[str, Any]:
        """The synthesis twin of `example`, in the main process; it may search indexes.

        item: a PhotoItem where the plan's synthesis needs a view, a GraphItem where it needs a graph, else a
        LayoutItem.
        """
        ...

    def synthesize(self, nets: Networks, frozen: Frozen, batch: Batch, options: Any) -> Synthesis: ...


@dataclass(frozen=True)
class LayoutItem:
    """One layout to make an image of.

    labels: (H, W) int16 class indices and instances: (H, W) int32, 0 for none, as they were drawn. size: (h, w) of
    the image. image: (H, W, 3) uint8, the real photo, where the caller has it. exclude: («source» or «group», name)
    whose pieces may not be used. variant: 0 for the first image of a layout.
    """

    name: str
    labels: np.ndarray
    instances: np.ndarray
    size: tuple[int, int]
    image: np.ndarray | None = None
    exclude: tuple[Literal["source", "group"], str] | None = None
    variant: int = 0

    @property
    def sized_labels(self) -> np.ndarray:
        """(h, w) the labels at the size of the image."""
        return nearest_resize(self.labels, self.size)


@dataclass(frozen=True)
class PhotoItem:
    """One photo to make another view of. photo: (H, W, 3) uint8. variant: 0 for the first image of a photo."""

    name: str
    photo: np.ndarray
    variant: int = 0


@dataclass(frozen=True)
class GraphItem:
    """One scene graph to make an image of. size: (h, w) of the image, as the run was trained.

    exclude: («source» or «group», name) whose pieces may not be used. variant: 0 for the first image of a graph.
    """

    name: str
    graph: SceneGraph
    size: tuple[int, int]
    exclude: tuple[Literal["source", "group"], str] | None = None
    variant: int = 0


def stack(examples: Sequence[dict[str, Any]]) -> Batch:
    """Collate dictionaries of equal tensors; values that are no tensors become lists."""
    return {
        key: torch.stack([e[key] for e in examples])
        if isinstance(examples[0][key], Tensor)
        else [e[key] for e in examples]
        for key in examples[0]
    }


def scene_layers(
    sources: Sources, scene_id: str, *, need_instances: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Image, labels and instances of a training scene. Raises DataError when it lacks what is needed."""
    assert sources.dataset is not None
    scene = sources.dataset.read(sources.record(scene_id))
    missing = [
        name
        for name, layer, needed in (
            ("image", scene.image, True),
            ("label map", scene.labels, True),
            ("instance map", scene.instances, need_instances),
        )
        if needed and layer is None
    ]
    if missing:
        raise DataError(f"the scene {scene_id} has no {' and no '.join(missing)}", where=sources.dataset.root)
    assert scene.image is not None and scene.labels is not None
    return scene.image, scene.labels, scene.instances


def painted(labels: Tensor, schema: Schema) -> Tensor:
    """(n, h, w) class indices in the classes' colors: (n, 3, h, w) in [-1, 1], for a person to look at."""
    colors = np.stack([paint_labels(one, schema) for one in labels.cpu().numpy()])
    return torch.from_numpy(colors).permute(0, 3, 1, 2).float() / 127.5 - 1
