"""Two gloo processes, launched by torchrun, train everything in the table as one does on the joined batch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.artifact import open_artifact
from pipelines.train.checkpoint import checkpoint_path, read_state, read_weights
from pipelines.train.run import open_weights
from tests.systems.double import CASES

SCRIPT = Path(__file__).with_name("double.py")
ROOT = SCRIPT.parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(
    workspace: Path,
    bank: Path,
    patches: Path,
    index: Path,
    patch_index: Path,
    cooccurrence: Path,
    segmenter: Path,
    embedder: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Every case, trained by one process and by two."""
    out = tmp_path_factory.mktemp("trained")
    for folder, launcher in (("one", [sys.executable]), ("two", TORCHRUN)):
        subprocess.run([*launcher, str(SCRIPT), str(workspace), str(out / folder)], env=environment(), check=True)
    return out


@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one_on_the_joined_batch(case: str, trained: Path) -> None:
    one, two = trained / "one" / case, trained / "two" / case
    first, second = (lines_of(run) for run in (one, two))  # two steps, and a measurement where a trainable makes one
    assert len(first) in (2, 3) and [line.keys() for line in first] == [line.keys() for line in second]
    for mine, joined in zip(second, first, strict=True):
        for term, value in joined.items():
            assert mine[term] == pytest.approx(value, rel=2e-6, abs=1e-9), term  # logged to six digits
    # Adam's first moments are gradients; the weights alone would hide a gradient that is wrong by a factor
    moments = [dict(leaves(read_state(checkpoint_path(run, 2)))) for run in (one, two)]
    assert moments[0].keys() == moments[1].keys() and any("exp_avg" in key for key in moments[0])
    for key, value in moments[0].items():  # where a gradient is 0 but for rounding, Adam magnifies that
        close = {"rtol": 1e-5, "atol": max(1e-12, 1e-5 * float(value.abs().max()))}
        torch.testing.assert_close(moments[1][key], value, **close, msg=lambda m, k=key: f"{k}: {m}")
    weights = [read_weights(open_weights(run).file) for run in (one, two)]
    assert weights[0].keys() == weights[1].keys()
    for net, tensors in weights[0].items():
        for key, value in tensors.items():
            assert value.dtype in (torch.float64, torch.int64), key
            torch.testing.assert_close(weights[1][net][key], value, rtol=1e-5, atol=1e-6)


def test_the_command_under_torchrun(town: Path, tmp_path: Path) -> None:
    """As a user starts it: one run, whose path is said once."""
    command = ["-m", "rgs_cli.main", "train", "generator", "--system", "oasis", "--data", str(town), "--preset", "toy"]
    command += ["--set", "model.channels=4", "--set", "model.hidden=8", "--steps", "2", "--batch", "2", "--size", "64"]
    command += ["--workers", "1", "--device", "cpu", "-o", str(tmp_path / "run")]
    done = subprocess.run(
        [*TORCHRUN, *command], cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'run'}\n"
    run = open_artifact(tmp_path / "run", "run")
    assert (run.manifest["status"], run.manifest["step"]) == ("finished", 2)


def lines_of(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("time", "images_per_second", "memory_gb")} for line in lines]


def leaves(value: Any, prefix: str = "") -> Any:
    """Tensors of nested mappings and lists by path."""
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, dict | list | tuple):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, f"{prefix}/{key}")


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
