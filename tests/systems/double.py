"""Train everything in the table for two steps in float64: `[torchrun …] python double.py WORKSPACE OUT`.

WORKSPACE holds the town, pairs, bank, patches, index, segmenter and embedder of tests/conftest.py. In float64 rounding
is so small that a wrong sum over processes stands out, through Adam too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.config import Layer, resolve
from pipelines.data.open import open_dataset
from pipelines.runtime import Runtime
from pipelines.stages import train
from pipelines.systems.table import TRAINABLES, find_trainable, preset_layer, presets

NARROW = {
    **{"ngf": 4, "ndf": 4, "ndf_most": 8, "channels": 4, "hidden": 8, "discriminator_widths": [8, 8, 8, 8, 16]},
    **{"width": 8, "widths": {"aerial": [8, 8, 4, 4], "ground": [8, 8, 4]}, "encoder_width": 4},
}
"""What makes a toy smaller yet, where a trainable's config has a field of this name."""

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in TRAINABLES},
    "spade with an encoder": ("spade", {"vae": True, "fakes": "fresh", "scales": 2}),
    "segmenter deeplabv3": ("segmenter", {"arch": "deeplabv3", "min_side": 64}),
    "crossview with an encoder": ("crossview", {"encoder": "trainable", "direction": "g2a", "fakes": "fresh"}),
    "retrievegan over the bank": ("retrievegan", {"pool": "bank", "fakes": "fresh", "norm": "batch", "warmup": 0.5}),
    "retrievegan without patches": ("retrievegan", {"pieces": "none"}),
    "embedder of torchvision": ("embedder-crossview", {"backbone": "torchvision:resnet18", "objective": "infonce"}),
    "embedder by hard triplets": ("embedder-cooccurrence", {"negatives": "semi_hard", "distinct": "source"}),
    "embedder with sharp steps": ("embedder-crossview", {"rho": 2.0, "objective": "semi_hard", "head": "smd"}),
}
"""All that can be trained, and variants with a term or a network that the toy presets lack."""

BANKS = {"segments": "bank", "any": "bank", "patches": "patches"}
INDEXES = {"shape": "index", "embedding": "patch-index"}
"""Where banks and indexes lie, by what a plan asks for."""


def double() -> None:
    """From here on networks, examples and losses are float64, also where the code says float."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double  # type: ignore[method-assign, assignment]
    move = Runtime.move

    def moved(runtime: Runtime, batch: dict[str, Any]) -> dict[str, Any]:
        wide = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.items()}
        return move(runtime, wide)

    Runtime.move = moved  # type: ignore[method-assign]


def train_case(case: str, workspace: Path, out: Path) -> None:
    name, changed = CASES[case]
    kind = find_trainable(name)
    values = {key: value for key, value in NARROW.items() if key in kind.Config.model_fields}
    tiny = {
        "model": {**values, **changed},
        "train": {"steps": 2, "batch": 4, "precision": "fp32"},
        "log": {"every": 1, "workers": 0},
    }
    below = [preset_layer(name, "toy")] if "toy" in presets(name) else []
    config = resolve(train.config_of(name), [*below, Layer("tiny", tiny)])
    needs = kind.plan(config.model, open_dataset(workspace / "town").schema, 2).train
    data = "pairs" if needs.views else "town" if needs.dataset else None
    given = train.Given(
        workspace / data if data else None,
        bank=workspace / BANKS[needs.bank] if needs.bank else None,
        index=workspace / INDEXES[needs.index] if needs.index else None,
        frozen={role: str(workspace / trainable) for role, trainable in needs.frozen.items()},
    )
    train.run(name, config, given, out, device="cpu")


if __name__ == "__main__":
    torch.set_num_threads(1)
    double()
    for case in CASES:
        train_case(case, Path(sys.argv[1]), Path(sys.argv[2]) / case)
