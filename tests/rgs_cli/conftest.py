"""The command line in this process, and a generator that it trained."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from rgs_cli.main import main


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one line of stdout, one JSON object."""
        assert self.out.count("\n") == 1, self.out
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


Rgs = Callable[..., Ended]


def call(*words: object, stdin: str = "") -> Ended:
    """`rgs WORDS…` through the same entry as the command itself."""
    out, err = io.StringIO(), io.StringIO()
    old = signal.getsignal(signal.SIGTERM)
    with (
        mock.patch("sys.argv", ["rgs", *map(str, words)]),
        mock.patch("sys.stdin", io.StringIO(stdin)),
        mock.patch.dict(os.environ, {"COLUMNS": "500", "NO_COLOR": "1"}),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            signal.signal(signal.SIGTERM, old)
    return Ended(code, out.getvalue(), err.getvalue())


def succeed(*words: object, stdin: str = "") -> Ended:
    """A command that must end well."""
    ended = call(*words, stdin=stdin)
    assert ended.code == 0, f"rgs {' '.join(map(str, words))}: {ended.code}\n{ended.err}"
    return ended


def fails(code: int, *words: object, stdin: str = "") -> str:
    """A command that must end with an exit code and say nothing on stdout. Returns what it says on stderr."""
    ended = call(*words, stdin=stdin)
    assert (ended.code, ended.out) == (code, ""), f"rgs {' '.join(map(str, words))}\n{ended.out}{ended.err}"
    assert "Traceback" not in ended.err
    return ended.err


def content(folder: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder with its size and time of writing."""
    return {
        str(p.relative_to(folder)): (p.stat().st_size, p.stat().st_mtime_ns)
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


SMALL = ["--size", 64, "--batch", 2, "--workers", 0, "--device", "cpu", "--precision", "fp32"]
"""Options of a training that takes a second."""
NARROW = [word for key in ("ngf", "ndf", "hidden") for word in ("--set", f"model.{key}=4")]
UNTAUGHT = ["--set", "model.weights.perceptual=0"]


@pytest.fixture(scope="session")
def generator_words(town: Path, bank: Path, index: Path, segmenter: Path) -> list[object]:
    """`train generator` and all its options but --steps and -o, for a small RESAIL."""
    given = ["--data", town, "--bank", bank, "--index", index, "--with", f"segmenter={segmenter}"]
    fast = ["--set", "model.optimizer.lr=0.05"]  # after two steps its images depend on what guides them
    return ["train", "generator", "--system", "resail", "--preset", "toy", *given, *SMALL, *NARROW, *UNTAUGHT, *fast]


@pytest.fixture(scope="session")
def generator(workspace: Path, generator_words: list[object]) -> Path:
    """A finished run of RESAIL."""
    succeed(*generator_words, "--steps", 2, "-o", workspace / "generator")
    return workspace / "generator"


@pytest.fixture(scope="session")
def spade(workspace: Path, town: Path) -> Path:
    """A finished run of a system that retrieves nothing."""
    words = ["train", "generator", "--system", "spade", "--preset", "toy", "--data", town, *SMALL, *NARROW, *UNTAUGHT]
    succeed(*words, "--steps", 1, "-o", workspace / "spade")
    return workspace / "spade"


@pytest.fixture(scope="session")
def samples(workspace: Path, generator: Path, town: Path) -> Path:
    """Images of the 4 layouts of the split val."""
    succeed("synthesize", generator, "--data", town, "--split", "val", "-o", workspace / "samples", "--device", "cpu")
    return workspace / "samples"


@pytest.fixture
def layouts(town: Path) -> list[Path]:
    """The 4 layouts of the split val."""
    return sorted((town / "val" / "label").iterdir())
