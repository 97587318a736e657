"""Planted samples of scene graphs: objects painted in the colors of their classes, patches of a bank beside them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from pipelines.artifact import Input, writing
from pipelines.bank.bank import Bank
from pipelines.config import Config, Layer, resolve
from pipelines.data.graph import SceneGraph, graph_to_json
from pipelines.data.relations import GEOMETRIC
from pipelines.data.scene import Schema
from pipelines.segment.classifier import CropClassifier
from pipelines.stages import train
from pipelines.stages.train import config_of
from pipelines.train.run import RunWriter

SIZE = (32, 48)
GIVEN = np.array([[0, 0, 1 / 3, 1], [1 / 3, 0, 2 / 3, 1], [2 / 3, 0, 1, 1]])
"""Three objects side by side, in the class 1 of each graph's numbers."""


class ColorClassifier(CropClassifier):
    """A classifier that is never wrong about painted objects. Features: the mean color."""

    def __init__(self, schema: Schema) -> None:
        super().__init__(len(schema.classes), 4)
        self.feature_size = 3
        self.palette = torch.nn.Parameter(torch.from_numpy(schema.palette.copy()).float() / 127.5 - 1)

    def logits_and_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = images.mean((2, 3))
        return -50 * (features[:, None] - self.palette).square().sum(2), features


def make_classifier(
    out: Path, schema: Schema, *, status: str = "finished", seed: float = 0, inputs: tuple[Input, ...] = ()
) -> Path:
    """A run of the color classifier; seed moves its weights, so that runs differ."""
    config = config_of("classifier").model_validate({"model": {"size": [8, 8], "width": 4}})
    writer = RunWriter(out, "classifier", config, list(inputs), {"schema": schema.to_json(), "trained_with": {}})
    writer.begin()
    net = ColorClassifier(schema)
    with torch.no_grad():
        net.palette.add_(seed)
    writer.checkpoint(7, {"C": net}, {}, {}, 2, status, {})
    return out


def train_companion(out: Path, bank: Path, half: str | None, seed: int = 0) -> Path:
    """A co-occurrence embedder after one step."""
    tiny: dict[str, Any] = {
        "model": {"size": [8, 8], "crop_widths": [8], "dimension": 8, "half": half, "holdout": 0, "distinct": "source"},
        "train": {"steps": 1, "batch": 2, "seed": seed},
        "log": {"workers": 0},
    }
    name = "embedder-cooccurrence"
    return train.run(name, resolve(config_of(name), [Layer("tiny", tiny)]), train.Given(bank=bank), out).path


def graph_of(number: int, schema: Schema) -> SceneGraph:
    """The graph of one source: three classes that depend on its number, left to right."""
    categories = (number + np.arange(3)) % len(schema.classes)
    left, right = GEOMETRIC.index("left of"), GEOMETRIC.index("right of")
    return SceneGraph(categories, ((0, left, 1), (2, right, 1), (1, left, 2)), GIVEN.astype(np.float32))


def painted(graph: SceneGraph, schema: Schema, size: tuple[int, int] = SIZE) -> np.ndarray:
    """(h, w, 3): each object in its given box, in the color of its class."""
    image = np.zeros((*size, 3), np.uint8)
    for category, (x0, _, x1, _) in zip(graph.categories, GIVEN, strict=True):
        image[:, round(x0 * size[1]) : round(x1 * size[1])] = schema.palette[category]
    return image


Draw = Callable[[SceneGraph, int], np.ndarray]
Boxes = Callable[[int], np.ndarray]
Picks = Callable[[int, int], list[int | None]]


class SamplesConfig(Config):
    seed: int = 5
    """The seed."""


def make_graph_samples(
    out: Path,
    bank: Bank,
    *,
    draw: Draw | None = None,
    boxes: Boxes | None = None,
    picks: Picks = lambda number, variant: [0, 1, 2],
    given: bool = True,
    count: int = 4,
    variants: int = 1,
    guidance: bool = False,
    trained_with: dict[str, str] | None = None,
    teachers: dict[str, str] | None = None,
    inputs: tuple[Input, ...] | None = None,
) -> Path:
    """A samples artifact as `rgs synthesize --graph` writes it.

    draw: the image of a graph and variant. boxes: those predicted for the graph of a number; the given ones are used
    when None. picks: rows of the bank for the objects of (number, variant). given: the graphs came with boxes.
    """
    schema = bank.schema
    statistics: dict[str, Any] = {
        "schema": schema.to_json(),
        "system": "retrievegan",
        "trained_with": trained_with or {},
        "teachers": teachers or {},
        "count": count * variants,
        "graphs": count,
    }
    made_from = (bank.artifact.as_input("bank", out.parent),) if inputs is None else inputs
    with writing(out, "samples", SamplesConfig(), list(made_from), statistics) as folder:
        lines = []
        for number in range(count):
            graph = graph_of(number, schema)
            for variant in range(variants):
                name = f"g{number}" if variants == 1 else f"g{number}-{variant + 1}"
                image = painted(graph, schema) if draw is None else draw(graph, variant)
                write_png(folder / "images" / f"{name}.png", image)
                used = GIVEN if boxes is None else boxes(number)
                document = graph_to_json(SceneGraph(graph.categories, graph.relations, used), schema, name)
                document["used"] = "given" if boxes is None else "predicted"
                document["given"] = GIVEN.round(6).tolist() if given else None
                document["patches"] = [None if row is None else patch(bank, row) for row in picks(number, variant)]
                (folder / "graphs").mkdir(exist_ok=True)
                (folder / "graphs" / f"{name}.json").write_text(json.dumps(document))
                write_png(folder / "graphs" / f"{name}.png", painted(graph, schema))
                line = {"name": name, "source": f"g{number}", "variant": variant, "image": f"images/{name}.png"}
                line |= {"graph": f"graphs/{name}.json", "picture": f"graphs/{name}.png", "guidance": None}
                if guidance:
                    write_png(folder / "guidance" / f"{name}.png", image // 2)
                    line["guidance"] = f"guidance/{name}.png"
                lines.append(line)
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return out


def patch(bank: Bank, row: int) -> dict[str, Any]:
    return {"row": row, "id": f"{int(bank.ids[row]):016x}", "source": bank.source_of(row).id}


def make_photos(folder: Path, bank: Bank, count: int = 4, scale: int = 1) -> Path:
    """The real image of each graph: painted as it should be, `scale` times as large as outputs."""
    for number in range(count):
        size = (SIZE[0] * scale, SIZE[1] * scale)
        write_png(folder / f"g{number}.png", painted(graph_of(number, bank.schema), bank.schema, size))
    return folder


def write_png(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), pixels[..., ::-1])
