"""A small house of artifacts that every verb can work on, and commands run in forks whose machine lacks something."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.rgs_cli.conftest import NARROW, SMALL, UNTAUGHT, Ended, call, succeed

Words = list[object]

ON_CPU = ["--device", "cpu"]
TEACHER = ["--set", "model.width=8"]


@dataclass(frozen=True)
class House:
    """Finished artifacts, side by side; nobody changes them. Scenes are 64x64, 4 to train on and 2 others.

    other: a bank of other scenes, which `index` does not fit.
    """

    root: Path

    def __getattr__(self, name: str) -> Path:
        return self.root / name

    def train(
        self, system: str, data: Path | None = None, *, bank: Path | None = None, index: Path | None = None
    ) -> Words:
        """A training of a second, all but --steps and -o."""
        given: Words = ["--data", data or self.town, *SMALL]
        if system == "segmenter":
            return ["train", "segmenter", *given, *TEACHER]
        narrow = (
            [*NARROW, *UNTAUGHT] if system != "oasis" else ["--set", "model.channels=4", "--set", "model.perceptual=0"]
        )
        words: Words = ["train", "generator", "--system", system, "--preset", "toy", *given, *narrow]
        if system == "resail":
            pieces: Words = ["--bank", bank or self.bank, "--index", index or self.index]
            words += [*pieces, "--with", f"segmenter={self.segmenter}"]
        return words


@pytest.fixture(scope="session")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """Made by the commands themselves."""
    home = House(tmp_path_factory.mktemp("house"))
    succeed("data", "toy", home.town, "--train", 4, "--val", 2, "--size", 64)
    succeed("build-bank", home.town, "-o", home.bank)
    succeed("build-bank", home.town, "--split", "val", "-o", home.other)
    succeed("train", "index", "--bank", home.bank, "-o", home.index)
    succeed(*home.train("segmenter"), "--steps", 1, "-o", home.segmenter)
    succeed(*home.train("spade"), "--steps", 1, "-o", home.spade)
    succeed(*home.train("resail"), "--steps", 1, "-o", home.resail)
    succeed("synthesize", home.spade, "--data", home.town, "--split", "train", *ON_CPU, "-o", home.samples)
    succeed("eval", home.samples, "-r", home.town, *ON_CPU, "-o", home.report)
    return home


def refused(ended: Ended, codes: Sequence[int], out: Path | None = None) -> str:
    """What a command says that must end badly, by the rules: an exit code, what, where, how to fix, no stack trace.

    out: where it was to write; no finished artifact may be there.
    """
    assert ended.code in codes, f"{ended.code} instead of {codes}\n{ended.out}{ended.err}"
    assert ended.out == "" and "Traceback" not in ended.err
    lines = ended.err.splitlines()
    starts = [
        next((k for k, line in enumerate(lines) if line.startswith(s)), None)
        for s in ("error: ", "  where: ", "  fix: ")
    ]
    assert None not in starts, ended.err
    if out is not None:
        manifest = out / "manifest.json"
        assert not out.exists() or not manifest.exists() or json.loads(manifest.read_bytes())["status"] != "finished"
    return ended.err


def in_fork(words: Sequence[object], setup: Callable[[], object]) -> Ended:
    """`rgs WORDS…` in a fork of this process, after `setup` has taken something from it. code: -9 for kill -9."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            setup()
            ended = call(*words)
            told = [ended.code, ended.out, ended.err]
        except BaseException:  # a fork must not go on as the test
            told = [70, "", traceback.format_exc()]
        finally:
            os.write(writer, json.dumps(told).encode())
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ended(status, "", "") if status else Ended(*json.loads(text))


def without_privilege() -> None:
    """What root may do with files that permissions forbid, this process may no longer."""
    if os.geteuid() or not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capabilities, version 3, of this process
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~0b1110  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER
    assert libc.capset(header, sets) == 0


def copy(path: Path, to: Path) -> Path:
    """A copy that may be spoiled."""
    return Path(shutil.copytree(path, to, symlinks=True))
