"""The loop: exact resumption, processes, averages, refusals."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pipelines.artifact import locked
from pipelines.data.scene import SceneRecord
from pipelines.errors import ArtifactError, ConfigError, DataError, NumericalError
from pipelines.systems.base import Sampling, Sources
from pipelines.train.checkpoint import read_weights
from pipelines.train.loop import average
from pipelines.train.run import open_weights, parse_reference
from pipelines.train.sampler import Order, distinct_batches, draws
from tests.train.tiny import SCHEMA, Tiny, TinyConfig, train_tiny

SCRIPT = Path(__file__).with_name("tiny.py")
ROOT = SCRIPT.parents[2]


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    found = read_weights(open_weights(run).file)
    return {f"{net}/{key}": value for net, tensors in found.items() for key, value in tensors.items()}


def assert_equal_runs(a: Path, b: Path) -> None:
    first, second = weights_of(a), weights_of(b)
    assert first.keys() == second.keys()
    for key in first:
        assert torch.equal(first[key], second[key]), key
    lines = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in (a, b)]
    volatile = ("time", "images_per_second", "memory_gb")
    for line in (*lines[0], *lines[1]):
        for key in volatile:
            line.pop(key, None)
    assert lines[0] == lines[1]


def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    train_tiny(tmp_path / "whole", 6)
    calls = iter([False, False, True])
    train_tiny(tmp_path / "parts", 6, stop=lambda: next(calls))
    assert open_weights(tmp_path / "parts").step == 3
    assert json.loads((tmp_path / "parts" / "manifest.json").read_text())["status"] == "stopped"
    train_tiny(tmp_path / "parts", 6)
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, str(SCRIPT), str(out), "8", "slowly"], env=environment())
    deadline = time.monotonic() + 60
    while not (out / "metrics.jsonl").is_file() or len((out / "metrics.jsonl").read_text().splitlines()) < 5:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert open_weights(out).step == 3
    for run in (out, tmp_path / "whole"):
        subprocess.run([sys.executable, str(SCRIPT), str(run), "8"], env=environment(), check=True)
    assert_equal_runs(tmp_path / "whole", out)


def test_workers_change_nothing(tmp_path: Path) -> None:
    train_tiny(tmp_path / "a", 3, workers=0)
    train_tiny(tmp_path / "b", 3, workers=2)
    assert_equal_runs(tmp_path / "a", tmp_path / "b")


@pytest.mark.slow
def test_two_processes_equal_one_on_the_joined_batch(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "one"), "4"], env=environment(), check=True)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    subprocess.run([*command, str(tmp_path / "two"), "4"], env=environment(), check=True, timeout=120)
    one, two = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for key in one:
        torch.testing.assert_close(one[key], two[key], rtol=1e-5, atol=1e-6)


def test_a_loss_that_is_no_number_stops_with_the_checkpoint_untouched(tmp_path: Path) -> None:
    with pytest.raises(NumericalError, match="loss G/fit is nan at step 4"):
        train_tiny(tmp_path / "x", 6, poison=4)
    assert open_weights(tmp_path / "x").step == 3


def test_a_run_begun_differently_is_not_resumed(tmp_path: Path) -> None:
    train_tiny(tmp_path / "x", 3)
    with pytest.raises(ConfigError, match=r"train\.batch was 4 and is 5 now"):
        train_tiny(tmp_path / "x", 3, batch=5)


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    with pytest.raises(ArtifactError, match="is no run"):
        train_tiny(tmp_path, 3)
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_run_killed_before_its_first_manifest_begins_again(tmp_path: Path) -> None:
    train_tiny(tmp_path / "x", 3)
    for entry in ("manifest.json", "metrics.jsonl"):
        (tmp_path / "x" / entry).unlink()
    for folder in ("checkpoints", "samples"):
        shutil.rmtree(tmp_path / "x" / folder)
    for events in (tmp_path / "x").glob("events*"):
        events.unlink()
    (tmp_path / "x" / ".manifest.json.77.tmp").write_text("{")
    train_tiny(tmp_path / "x", 3)
    assert open_weights(tmp_path / "x").step == 3


@pytest.mark.parametrize("damage", ["truncated state", "changed state", "changed weights", "no checkpoint"])
def test_a_damaged_checkpoint_is_not_resumed_from(tmp_path: Path, damage: str) -> None:
    calls = iter([False, False, True])
    train_tiny(tmp_path / "x", 6, stop=lambda: next(calls))
    checkpoint = tmp_path / "x" / "checkpoints" / "step-0000003"
    file = checkpoint / ("weights.safetensors" if damage == "changed weights" else "state.pt")
    data = bytearray(file.read_bytes())
    if damage == "truncated state":
        file.write_bytes(data[:-1])
    elif damage == "no checkpoint":
        shutil.rmtree(checkpoint)
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    before = (tmp_path / "x" / "metrics.jsonl").read_text()
    with pytest.raises(ArtifactError, match=r"is missing|bytes instead of|was changed after"):
        train_tiny(tmp_path / "x", 6)
    assert (tmp_path / "x" / "metrics.jsonl").read_text() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_what_a_worker_cannot_make_is_said_whole(tmp_path: Path, workers: int) -> None:
    with pytest.raises(DataError) as error:
        train_tiny(tmp_path / "x", 6, broken="scene-4", workers=workers)
    assert (error.value.what, error.value.where, error.value.fix) == ("no image", "scene-4", "add it")


def test_the_lock_of_a_killed_writer_is_free_while_its_workers_live(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom pipelines.artifact import locked\n"
        "with locked(Path(sys.argv[1])):\n"
        "    if os.fork() == 0:\n        os.write(1, b'worker\\n')\n        time.sleep(30)\n        os._exit(0)\n"
        "    os.write(1, b'held\\n')\n    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment(), start_new_session=True)
    try:
        assert writer.stdout is not None
        assert {writer.stdout.readline(), writer.stdout.readline()} == {b"held\n", b"worker\n"}
        writer.kill()
        writer.wait()
        with locked(tmp_path):
            pass
    finally:
        os.killpg(writer.pid, signal.SIGKILL)


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    train_tiny(tmp_path / "x", 9, every=2)
    assert sorted(p.name for p in (tmp_path / "x" / "checkpoints").iterdir()) == ["step-0000008", "step-0000009"]
    assert open_weights(tmp_path / "x", 8).step == 8
    with pytest.raises(ArtifactError, match=r"keeps no weights of step 2"):
        open_weights(tmp_path / "x", 2)


def test_changed_weights_are_refused(tmp_path: Path) -> None:
    train_tiny(tmp_path / "x", 3)
    file = open_weights(tmp_path / "x").file
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match="changed after"):
        open_weights(tmp_path / "x")


def test_accumulation_averages_the_gradients_of_its_batches(tmp_path: Path) -> None:
    """Without batch norm statistics in play (D sees no norm), two batches of 2 give D the gradient of one of 4."""
    one, two = train_tiny(tmp_path / "a", 1, batch=4), train_tiny(tmp_path / "b", 1, batch=2, accumulate=2)
    assert any(not torch.equal(p, q) for p, q in zip(one["G"].parameters(), two["G"].parameters(), strict=True))
    for p, q in zip(one["D"].parameters(), two["D"].parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-3, atol=2e-3)


def test_an_average_with_decay_0_is_the_network() -> None:
    source, target = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    source(torch.randn(5, 3))
    nn.init.normal_(source.weight)
    expected = deepcopy(source.state_dict())
    average(target, source, 0.0, step=100)
    for key, value in target.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=0, atol=0)


def test_every_epoch_visits_every_example_once_and_ranks_share_a_batch() -> None:
    order = Order(Sampling([str(i) for i in range(7)]), seed=3)
    visited = [order[p] for p in range(21)]
    for epoch in range(3):
        assert sorted(visited[7 * epoch : 7 * epoch + 7]) == [str(i) for i in range(7)]
    assert visited[:7] != visited[7:14]
    joined = [d.scene_id for batch in draws(order, 4, 1, 0, 1, 0, 5) for d in batch]
    shares = [list(draws(order, 4, 1, rank, 2, 0, 5)) for rank in (0, 1)]
    assert [d.scene_id for pair in zip(*shares, strict=True) for half in pair for d in half] == joined


@given(
    groups=st.lists(st.sampled_from("abcdefg"), min_size=3, max_size=30).filter(lambda g: len(set(g)) >= 3),
    batch=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_no_batch_holds_a_group_twice_and_no_epoch_an_example(groups: list[str], batch: int, seed: int) -> None:
    ids = [str(i) for i in range(len(groups))]
    taken = distinct_batches(np.random.default_rng(seed).permutation(len(ids)), groups, batch)
    assert len(set(taken.tolist())) == len(taken) > 0
    assert len(taken) % batch == 0
    for start in range(0, len(taken), batch):
        assert len({groups[i] for i in taken[start : start + batch]}) == batch
    # any that sat the epoch out could not have made another whole batch
    left = [groups[i] for i in set(range(len(ids))) - set(taken.tolist())]
    assert len(set(left)) < batch
    order = Order(Sampling(ids, groups=groups), seed, batch)
    forward = [order[p] for p in range(40)]
    again = Order(Sampling(ids, groups=groups), seed, batch)
    assert [again[p] for p in range(39, -1, -1)] == forward[::-1]  # a position is a scene, whatever was asked before


def test_a_batch_larger_than_the_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match="a batch of 3 needs as many groups, and there are 2"):
        Order(Sampling(["1", "2", "3"], groups=["a", "b", "a"]), 0, batch=3)


def test_validation_is_measured_and_logged_and_changes_nothing(tmp_path: Path) -> None:
    plain = train_tiny(tmp_path / "plain", 5)
    held_out = [SceneRecord("a", "val", None), SceneRecord("b", "val", None)]
    measured = train_tiny(tmp_path / "measured", 5, sources=Sources(validation=held_out))
    for name, net in plain.items():
        for key, value in net.state_dict().items():
            assert torch.equal(value, measured[name].state_dict()[key]), key
    lines = [json.loads(line) for line in (tmp_path / "measured/metrics.jsonl").read_text().splitlines()]
    values = {line["step"]: line["validation/bias"] for line in lines if "validation/bias" in line}
    assert sorted(values) == [2, 4, 5]
    assert values[5] == pytest.approx(float(measured["D"].bias.detach()), rel=1e-5)
    assert all(line["validation/scenes"] == 2 for line in lines if "validation/scenes" in line)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    torch.manual_seed(0)
    start = Tiny(TinyConfig(), SCHEMA).networks()["G"]
    reached = [train_tiny(tmp_path / f"{clip}", 1, clip=clip)["G"] for clip in (None, 1e-9)]
    moved = [
        max(float((a - b).detach().abs().max()) for a, b in zip(net.parameters(), start.parameters(), strict=True))
        for net in reached
    ]
    assert moved[0] == pytest.approx(1e-2, rel=0.01)  # Adam's first step is the learning rate
    assert moved[1] < 2e-3  # unless the gradient is no larger than its epsilon


def test_sharp_steps_differ_from_plain_ones_and_resume(tmp_path: Path) -> None:
    plain, sharp = train_tiny(tmp_path / "plain", 4), train_tiny(tmp_path / "sharp", 4, rho=0.5)
    assert any(not torch.equal(a, b) for a, b in zip(plain["G"].parameters(), sharp["G"].parameters(), strict=True))
    calls = iter([False, True])
    train_tiny(tmp_path / "parts", 4, rho=0.5, stop=lambda: next(calls))
    train_tiny(tmp_path / "parts", 4, rho=0.5)
    assert_equal_runs(tmp_path / "sharp", tmp_path / "parts")


def test_references_name_a_run_and_perhaps_a_step() -> None:
    assert parse_reference("runs/g") == (Path("runs/g"), None)
    assert parse_reference("runs/g@120") == (Path("runs/g"), 120)
    assert parse_reference("runs/a@b") == (Path("runs/a@b"), None)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
