"""stdout is for machines, stderr for people."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rgs_cli.conftest import SMALL, Ended, call, succeed

ROOT = Path(__file__).parents[2]


def test_every_verb_prints_the_path_or_one_json_object(town: Path, tmp_path: Path) -> None:
    """The main job with paths on stdout, then with JSON."""
    small = ["--steps", 1, *SMALL]
    for json in (False, True):
        home = tmp_path / str(json)
        made, labels = home / "town", home / "town" / "val" / "label"
        segmenter = ["train", "segmenter", "--data", made, *small, "--set", "model.width=8"]
        spade = ["train", "generator", "--system", "spade", "--preset", "toy", "--data", made, *small]
        narrow = ["--set", "model.ngf=4", "--set", "model.weights.perceptual=0"]
        for out, words in (
            (made, ["data", "toy", made, "--train", 3, "--val", 2, "--size", 64]),
            (home / "palette", ["data", "palette", made, "-o", home / "palette", "--fill", "sky"]),
            (home / "folds", ["data", "split", made, "--folds", 2, "-o", home / "folds"]),
            (home / "bank", ["build-bank", made, "-o", home / "bank"]),
            (home / "index", ["train", "index", "--bank", home / "bank", "-o", home / "index"]),
            (home / "judge", [*segmenter, "-o", home / "judge"]),
            (home / "run", [*spade, *narrow, "-o", home / "run"]),
            (home / "samples", ["synthesize", home / "run", "-i", labels, "-o", home / "samples"]),
            (home / "report", ["eval", home / "samples", "--judge", home / "judge", "-o", home / "report"]),
        ):
            ended = succeed(*words, *(["--json"] if json else []))
            assert out.is_dir()
            assert ended.json["path"] == str(out) if json else ended.out == f"{out}\n"
            if json and (out / "manifest.json").is_file():
                assert len(ended.json["digest"]) == 64 and ended.json["format"].startswith("rgs/")


def test_quiet_says_nothing(town: Path, generator: Path, tmp_path: Path) -> None:
    def silent(ended: Ended) -> None:
        assert ended.code == 0 and ended.out.count("\n") == 1
        assert ended.err == ""

    silent(succeed("--quiet", "build-bank", town, "-o", tmp_path / "bank"))
    silent(succeed("-q", "synthesize", generator, "--data", town, "--split", "val", "-o", tmp_path / "samples"))
    silent(succeed("-q", "data", "check", town))
    assert succeed("build-bank", town, "-o", tmp_path / "loud").err != ""


def test_quiet_does_not_hide_an_error(tmp_path: Path) -> None:
    assert "no such artifact" in call("--quiet", "show", tmp_path / "nothing").err


def test_a_bank_tells_what_it_could_not_use(town: Path, tmp_path: Path) -> None:
    shutil.copytree(town, tmp_path / "town")
    (tmp_path / "town" / "train" / "img" / "00003.png").write_bytes(b"no image")
    ended = succeed("build-bank", tmp_path / "town", "-o", tmp_path / "bank")
    assert "not usable: " in ended.err and "00003" in ended.err
    assert "--max-bad" in call("build-bank", tmp_path / "town", "-o", tmp_path / "strict", "--max-bad", 0).err


def test_a_reader_that_has_gone_is_no_error() -> None:
    """`rgs … | true`: the pipe's other end is closed before the first line."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "rgs_cli.main", "data", "toy", "anywhere", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True, timeout=100, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_an_output_that_is_full_is_an_error() -> None:
    command = [sys.executable, "-m", "rgs_cli.main", "--version"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=100, check=False
        )
    assert done.returncode == 4 and "the disk is full" in done.stderr
