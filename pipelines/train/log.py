"""The log of a training: metrics.jsonl, TensorBoard events, sample grids and the status that a person sees."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from pipelines.artifact import write_atomic
from pipelines.data.sheet import contact_sheet


@dataclass(frozen=True)
class Status:
    """What the status line shows: step of steps, images per second, memory in GB, seconds left, the loss terms.

    measured: what validation found, empty where the status is none of it.
    """

    step: int
    steps: int
    images_per_second: float
    memory_gb: float
    seconds_left: float
    terms: dict[str, float]
    measured: dict[str, float] = field(default_factory=dict)


Watch = Callable[[Status], None]


class Log:
    """Writes what rank 0 knows; the other ranks get none."""

    def __init__(self, run: Path, resumed_from: int | None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run = run
        self.file = (run / "metrics.jsonl").open("a", encoding="utf-8")
        self.board = SummaryWriter(str(run), purge_step=None if resumed_from is None else resumed_from + 1)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        line = {"step": step, "time": round(time.time(), 3), **{k: _short(v) for k, v in values.items()}}
        self.file.write(json.dumps(line) + "\n")
        self.file.flush()
        for key, value in values.items():
            self.board.add_scalar(key, value, step)

    def samples(self, step: int, columns: dict[str, Tensor]) -> None:
        """A grid, one row per example, one column per name; images (n, 3, h, w) in [-1, 1]."""
        import cv2

        arrays = [to_uint8(images) for images in columns.values()]
        sheet = contact_sheet([list(row) for row in zip(*arrays, strict=True)], list(columns))
        folder = self.run / "samples"
        folder.mkdir(exist_ok=True)
        _, data = cv2.imencode(".png", np.ascontiguousarray(sheet[..., ::-1]))
        write_atomic(folder / f"step-{step:07d}.png", data.tobytes())  # OpenCV would be silent about a full disk

    def close(self) -> None:
        self.file.close()
        self.board.close()


def to_uint8(images: Tensor) -> np.ndarray:
    """(n, 3, h, w) in [-1, 1] -> (n, h, w, 3) uint8, rounded to nearest after clamping."""
    scaled = ((images.detach().float().clamp(-1, 1) + 1) * 127.5 + 0.5).floor()
    return scaled.byte().permute(0, 2, 3, 1).cpu().numpy()


def _short(value: float) -> float:
    return float(f"{value:.6g}") if math.isfinite(value) else value
