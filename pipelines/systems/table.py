"""The whole registry: what the training loop can train, by name. A system is added with one line and one folder."""

from __future__ import annotations

from importlib import resources
from typing import Any

from pipelines.config import Layer, parse_yaml
from pipelines.embed.cooccurrence import CooccurrenceEmbedder
from pipelines.embed.graphs import GraphEmbedder
from pipelines.embed.pairs import PairEmbedder
from pipelines.embed.pieces import PieceEmbedder
from pipelines.errors import ConfigError
from pipelines.segment.classifier import Classifier
from pipelines.segment.segmenter import Segmenter
from pipelines.systems.base import System, Trainable
from pipelines.systems.crossview.system import Crossview
from pipelines.systems.oasis.system import Oasis
from pipelines.systems.resail.system import Resail
from pipelines.systems.retrievegan.system import Retrievegan
from pipelines.systems.spade.system import Spade

SYSTEMS: dict[str, type[System]] = {
    "crossview": Crossview,
    "oasis": Oasis,
    "resail": Resail,
    "retrievegan": Retrievegan,
    "spade": Spade,
}
EMBEDDERS = {kind: f"embedder-{kind}" for kind in ("crossview", "pieces", "graph", "cooccurrence")}
"""The kinds of embedders, and the names of what trains them."""
TRAINABLES: dict[str, type[Trainable]] = {
    **SYSTEMS,
    "classifier": Classifier,
    "segmenter": Segmenter,
    EMBEDDERS["crossview"]: PairEmbedder,
    EMBEDDERS["pieces"]: PieceEmbedder,
    EMBEDDERS["graph"]: GraphEmbedder,
    EMBEDDERS["cooccurrence"]: CooccurrenceEmbedder,
}


def find_trainable(name: str) -> type[Trainable]:
    if name not in TRAINABLES:
        raise ConfigError(f"unknown system {name!r}", fix=f"choose one of {', '.join(SYSTEMS)}")
    return TRAINABLES[name]


def find_system(name: str) -> type[System]:
    if name not in SYSTEMS:
        raise ConfigError(f"unknown system {name!r}", fix=f"choose one of {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def presets(name: str) -> dict[str, dict[str, Any]]:
    """The presets that a trainable ships, by name; where a folder has several trainables, each in its own folder."""
    package, _, module = find_trainable(name).__module__.rpartition(".")
    folder = resources.files(package) / "presets"
    if (folder / module).is_dir():
        folder = folder / module
    if not folder.is_dir():
        return {}
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {
        f.name.removesuffix(".yaml"): parse_yaml(f.read_text(encoding="utf-8"), f"preset {name}/{f.name}")
        for f in files
    }


def preset_layer(name: str, preset: str) -> Layer:
    found = presets(name)
    if preset not in found:
        known = ", ".join(found) or "none"
        raise ConfigError(f"{name} has no preset {preset!r}", fix=f"choose one of: {known}")
    return Layer(f"preset {preset}", found[preset])
