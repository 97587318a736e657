"""Trainings that are stopped, killed and resumed by the command that began them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.artifact import read_manifest
from pipelines.train.checkpoint import read_weights
from pipelines.train.run import open_weights
from tests.rgs_cli.conftest import NARROW, SMALL, fails, succeed

ROOT = Path(__file__).parents[2]


def segmenter_words(town: Path) -> list[object]:
    return ["train", "segmenter", "--data", town, *SMALL, "--set", "model.width=8", "--set", "log.every=1"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["INT", "TERM"])
def test_a_signal_stops_a_training_with_a_checkpoint(number: int, code: int, town: Path, tmp_path: Path) -> None:
    """The signal reaches the whole group, data workers included, as Ctrl-C in a terminal does."""
    out = tmp_path / "run"
    words = [*segmenter_words(town), "--workers", 2, "--steps", 10**6, "-o", out, "--json"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rgs_cli.main", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_for_steps(out, 3, process)
        os.killpg(process.pid, number)
        stdout, stderr = process.communicate(timeout=100)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, stderr
    assert stderr.count("stopping after this step") == 1 and "Traceback" not in stderr and "Error" not in stderr
    told = json.loads(stdout)
    assert told["path"] == str(out) and told["status"] == "stopped" and told["step"] >= 3
    assert open_weights(out).step == told["step"]
    assert _steps(out) == list(range(1, told["step"] + 1))


def _wait_for_steps(run: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 100
    while not (run / "metrics.jsonl").is_file() or len(_steps(run)) < count:
        if time.monotonic() > deadline or process.poll() is not None:
            process.kill()  # or it would be waited for, for a million steps
            pytest.fail(str(process.communicate()))
        time.sleep(0.1)


def _steps(run: Path) -> list[int]:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line)["step"] for line in lines if line.endswith("\n")]


def test_the_same_command_goes_on_and_ends_as_if_never_stopped(town: Path, tmp_path: Path) -> None:
    words = [*segmenter_words(town), "--steps", 3]
    succeed(*words, "-o", tmp_path / "whole")
    ended = succeed(*words, "-o", tmp_path / "parts", "--stop-after", "0s")
    assert "stopped at step 1; the same command goes on from there" in ended.err
    assert ended.out == f"{tmp_path / 'parts'}\n"
    assert read_manifest(tmp_path / "parts")["status"] == "stopped"
    succeed(*words, "-o", tmp_path / "parts")
    whole, parts = (read_weights(open_weights(tmp_path / run).file)["S"] for run in ("whole", "parts"))
    assert open_weights(tmp_path / "parts").step == 3 and whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    assert _steps(tmp_path / "whole") == _steps(tmp_path / "parts") == [1, 2, 3]


def test_a_finished_run_answers_at_once_and_is_not_touched(town: Path, tmp_path: Path) -> None:
    words = [*segmenter_words(town), "--steps", 1, "-o", tmp_path / "run"]
    succeed(*words)
    file = open_weights(tmp_path / "run").file
    before = file.stat().st_mtime_ns
    assert succeed(*words).out == f"{tmp_path / 'run'}\n"
    assert file.stat().st_mtime_ns == before


def test_a_run_goes_on_only_as_it_began(town: Path, tmp_path: Path) -> None:
    words = [*segmenter_words(town), "--steps", 2, "-o", tmp_path / "run"]
    succeed(*words, "--stop-after", "0s")
    assert "train.seed was 0 and is 7 now" in fails(2, *words, "--seed", 7)
    other = tmp_path / "town"
    succeed("data", "toy", other, "--train", 2, "--val", 0, "--size", 64)
    changed = [other if word == town else word for word in words]
    assert "its data was ../" in fails(2, *changed)
    succeed(*words, "--set", "log.keep=1")  # what is under log may change


def test_a_training_starts_from_another_run(town: Path, segmenter: Path, generator: Path, tmp_path: Path) -> None:
    words = [*segmenter_words(town), "--set", "model.lr=1e-30", "--steps", 1]
    succeed(*words, "-o", tmp_path / "a", "--init", segmenter)
    ours, theirs = (read_weights(open_weights(run).file)["S"] for run in (tmp_path / "a", segmenter))
    learned = [key for key in ours if key.endswith("weight_orig") or key.endswith(".bias")]
    assert learned and all(torch.equal(ours[key], theirs[key]) for key in learned)
    given = next(i for i in read_manifest(tmp_path / "a")["inputs"] if i["role"] == "init")
    assert given["digest"] == open_weights(segmenter).sha256
    said = fails(3, *words, "-o", tmp_path / "b", "--init", generator)
    assert "no network of the same name" in said and "this training has S" in said
    assert "no network X" in fails(3, *words, "-o", tmp_path / "b", "--init", f"{segmenter}:X")


def test_what_a_run_was_trained_with_is_written_down(
    generator: Path, bank: Path, index: Path, segmenter: Path, workspace: Path
) -> None:
    manifest = read_manifest(generator)
    inputs: dict[str, Any] = {i["role"]: i for i in manifest["inputs"]}
    assert inputs.keys() == {"data", "bank", "index", "segmenter"}
    assert inputs["bank"] == {"role": "bank", "path": "bank", "digest": read_manifest(bank)["digest"]}
    assert inputs["index"]["digest"] == read_manifest(index)["digest"]
    assert manifest["trained_with"] == {"segmenter": open_weights(segmenter).sha256}
    assert manifest["command"][:3] == ["rgs", "train", "generator"]
    text = json.dumps({key: value for key, value in manifest.items() if key != "command"})
    assert str(workspace) not in text, "paths are relative to the run"


def test_a_bank_must_hold_the_scenes_that_are_trained_on(
    town: Path, bank: Path, index: Path, segmenter: Path, tmp_path: Path
) -> None:
    given = ["--bank", bank, "--index", index, "--with", f"segmenter={segmenter}", "--split", "val"]
    words = ["train", "generator", "--system", "resail", "--preset", "toy", "--data", town, *given, *SMALL, *NARROW]
    said = fails(3, *words, "--set", "model.weights.perceptual=0", "--steps", 1, "-o", tmp_path / "x")
    assert "the bank lacks the training scene val/" in said
