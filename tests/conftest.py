"""What tests of whole commands share, made once: a toy town of 64x64 pixels, its bank and index, two segmenters."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# before anything imports torch: tiny networks gain nothing by a second thread, and lose much on a busy machine
os.environ.setdefault("OMP_NUM_THREADS", "1")

SIZE = (64, 64)
TINY_SEGMENTER = {
    "model": {"size": SIZE, "width": 8, "min_side": 32},
    "train": {"steps": 2, "batch": 2},
    "log": {"workers": 0},
}
"""A segmenter that learns next to nothing in a second."""


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared artifacts lie, side by side; nobody changes them."""
    return tmp_path_factory.mktemp("workspace")


@pytest.fixture(scope="session")
def town(workspace: Path) -> Path:
    """12 scenes to train on, of two places, and 4 others."""
    from pipelines.data.toy import write_town

    write_town(workspace / "town", train=12, val=4, size=SIZE)
    return workspace / "town"


@pytest.fixture(scope="session")
def pairs(workspace: Path) -> Path:
    """8 places from above and from the street to train on, and 4 others; a panorama and a perspective of each."""
    from pipelines.data.toy import write_pairs

    write_pairs(workspace / "pairs", train=8, val=4, size=64)
    return workspace / "pairs"


@pytest.fixture(scope="session")
def embedder(workspace: Path, pairs: Path) -> Path:
    """A finished run of a cross-view embedder, 64 numbers to a vector."""
    from pipelines.config import Layer, resolve
    from pipelines.stages import train
    from pipelines.systems.table import EMBEDDERS, preset_layer

    name, out = EMBEDDERS["crossview"], workspace / EMBEDDERS["crossview"]
    tiny = {"train": {"steps": 2, "batch": 4}, "log": {"workers": 0}}
    config = resolve(train.config_of(name), [preset_layer(name, "toy"), Layer("tiny", tiny)])
    return train.run(name, config, train.Given(pairs), out, device="cpu").path


@pytest.fixture(scope="session")
def bank(workspace: Path, town: Path) -> Path:
    """The segments of the 12 scenes."""
    from pipelines.stages import build_bank

    return build_bank.run(build_bank.BuildBank(), data=town, out=workspace / "bank").path


@pytest.fixture(scope="session")
def index(workspace: Path, bank: Path) -> Path:
    """The shapes of the bank; neighbors come from another image."""
    from pipelines.stages import train_index

    return train_index.run(train_index.TrainIndex(), bank=bank, out=workspace / "index").path


@pytest.fixture(scope="session")
def patches(workspace: Path, town: Path) -> Path:
    """The objects of the 12 scenes, of which graphs of at most 8 are made."""
    from pipelines.config import Layer, resolve
    from pipelines.stages import build_bank

    graph = {"min_area": 0.01, "max_objects": 8, "overflow": "sample"}
    config = resolve(build_bank.BuildBank, [Layer("patches", {"kind": "patches", "patch": 16, "graph": graph})])
    return build_bank.run(config, data=town, out=workspace / "patches").path


@pytest.fixture(scope="session")
def graph_embedder(workspace: Path, patches: Path) -> Path:
    """A finished run that knows graph features."""
    return _train_on_patches("graph", patches, workspace)


@pytest.fixture(scope="session")
def cooccurrence(workspace: Path, patches: Path) -> Path:
    """A finished run that RetrieveGAN may train with."""
    return _train_on_patches("cooccurrence", patches, workspace)


@pytest.fixture(scope="session")
def patch_index(workspace: Path, patches: Path, graph_embedder: Path) -> Path:
    """The graph features of the patches; neighbors come from another image."""
    from pipelines.stages import train_embedding_index

    config = train_embedding_index.TrainEmbeddingIndex()
    out = workspace / "patch-index"
    return train_embedding_index.run(config, bank=patches, embedder=str(graph_embedder), out=out, device="cpu").path


def _train_on_patches(kind: str, patches: Path, workspace: Path) -> Path:
    from pipelines.config import Layer, resolve
    from pipelines.stages import train
    from pipelines.systems.table import EMBEDDERS, preset_layer

    name = EMBEDDERS[kind]
    tiny = {"train": {"steps": 2, "batch": 4}, "log": {"workers": 0}}
    config = resolve(train.config_of(name), [preset_layer(name, "toy"), Layer("tiny", tiny)])
    return train.run(name, config, train.Given(bank=patches), workspace / name, device="cpu").path


@pytest.fixture(scope="session")
def segmenter(workspace: Path, town: Path) -> Path:
    """A finished run that RESAIL may train with."""
    return _train_segmenter("unet", town, workspace / "segmenter")


@pytest.fixture(scope="session")
def judge(workspace: Path, town: Path) -> Path:
    """A finished run of another family, which has trained nothing."""
    return _train_segmenter("lraspp", town, workspace / "judge")


def _train_segmenter(arch: str, town: Path, out: Path) -> Path:
    from pipelines.config import Layer, resolve
    from pipelines.stages import train

    layers = [Layer("tiny", TINY_SEGMENTER), Layer("arch", {"model": {"arch": arch}})]
    return train.run("segmenter", resolve(train.config_of("segmenter"), layers), train.Given(town), out).path
