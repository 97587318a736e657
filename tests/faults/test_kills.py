"""kill -9 of build-bank, train index and train generator, and the same command again: the same, to the bit.

A handful, at chosen writes; `python benchmarks/kills.py` does a hundred at random moments. Elsewhere: kills at every
sync of a build (tests/stages/test_build_bank.py) and at each step of a training (tests/train/test_loop.py).
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from pipelines.artifact import open_artifact, verify_files
from pipelines.errors import ArtifactError
from tests.faults.conftest import House, in_fork
from tests.faults.test_machine import WRITERS, Writer, goes_on, signal_at_write, weights, whole
from tests.rgs_cli.conftest import succeed

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts the writes of Linux processes")

BY_NAME = {writer.name: writer for writer in WRITERS}
RESAIL = Writer(
    "train generator resail",
    lambda house: [*house.train("resail"), "--steps", 3, "--set", "log.checkpoint_every=1"],
    weights,
)


def killed(writer: Writer, house: House, out: Path, number: int) -> None:
    """Run a command that is killed at its `number`-th write; what it left opens only if it is whole."""
    ended = in_fork(writer.to(house, out), lambda: signal_at_write(out, number, signal.SIGKILL))
    assert ended.code == -signal.SIGKILL
    kind = "run" if writer.name.startswith("train generator") else writer.name.split("-")[-1].split()[-1]
    try:
        verify_files(open_artifact(out, kind))
    except ArtifactError:
        pass
    else:
        assert kind == "run", "anything else has no manifest before it is done"


@pytest.mark.parametrize("numbers", [(1,), (2, 3), (5, 2, 1)])
@pytest.mark.parametrize(
    "name", ["build-bank", "train index", "synthesize", pytest.param("import", marks=pytest.mark.slow), "data toy"]
)
def test_killed_and_run_again(name: str, numbers: tuple[int, ...], house: House, tmp_path: Path) -> None:
    writer = BY_NAME[name]
    for number in numbers if name != "import" else numbers[:1]:
        killed(writer, house, tmp_path / "out", number)
    goes_on(writer, house, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [(3,), (9, 12), (12, 8, 5)])
def test_a_training_killed_and_run_again(numbers: tuple[int, ...], house: House, tmp_path: Path) -> None:
    whole(RESAIL, house)
    for number in numbers:
        killed(RESAIL, house, tmp_path / "out", number)
    goes_on(RESAIL, house, tmp_path / "out")
    succeed(*RESAIL.to(house, tmp_path / "out"))
