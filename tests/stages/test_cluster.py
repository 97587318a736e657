"""Banks made on a Ray cluster: the bank of one machine, whatever dies; other versions and other files are refused."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.artifact import Artifact, open_artifact
from pipelines.bank.writer import BankWriter, Cut, Elsewhere, Made, Thin
from pipelines.data.digest import record_digests
from pipelines.data.open import open_dataset
from pipelines.errors import DataError, EnvironmentFault
from pipelines.stages import build_bank, cluster
from pipelines.stages.build_bank import BuildBank
from pipelines.stages.cluster import RETRIES, on_cluster
from tests.bank.photos import write_dataset
from tests.rgs_cli.conftest import call

SMALL = BuildBank(shard_sources=2)
ROOT = Path(__file__).parents[2]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("photos") / "data", range(10))


@pytest.fixture(scope="module")
def bank(photos: Path) -> Artifact:
    """Ten sources in five shards, made by this process."""
    return build_bank.run(SMALL, data=photos, out=photos.parent / "x")


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of two processes that the tests share."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=2**27)
    yield ray
    ray.shutdown()


@dataclass(frozen=True)
class Dying(Elsewhere):
    """Is killed -9 once in two of the shards, when half of each is cut."""

    marks: Path = field(default=Path(), kw_only=True)

    def __call__(self, task: Cut | Thin) -> Made:
        assert isinstance(task, Cut)
        mark = self.marks / task.name
        if task.name in ("00001.h5", "00003.h5") and not mark.exists():
            self.writer.cut(replace(task, records=task.records[:1], digests=task.digests[:1]))
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(task)


@needs_ray
@pytest.mark.slow
def test_killed_workers_are_survived_and_the_bank_is_the_same(
    photos: Path,
    bank: Artifact,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setattr(build_bank, "Elsewhere", lambda writer: Dying(writer, marks=marks))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where workers find this module
    monkeypatch.chdir(photos.parent)  # a relative path means nothing to a worker
    out = tmp_path / "y"
    ended = call("build-bank", "data", "-o", out, "--set", "shard_sources=2", "--engine", "ray", "--jobs", 2)
    assert (ended.code, ended.out, capsys.readouterr().out) == (0, f"{out}\n", ""), ended.err
    assert len(list(marks.iterdir())) == 2
    made = open_artifact(out, "bank")
    assert made.digest == bank.digest and made.statistics == bank.statistics


@needs_ray
@pytest.mark.slow
def test_growing_and_thinning_on_a_cluster(ray: Any, bank: Artifact, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", [20, 21, 22])
    spoilt = data / "train" / "label" / "0021.png"
    spoilt.write_bytes(spoilt.read_bytes()[:60])
    removed = ["train/0001", "train/0004"]
    for engine in ("local", "ray"):
        build_bank.run(BuildBank(), data=data, add_to=bank.path, out=tmp_path / engine, engine=engine)
        build_bank.run(BuildBank(), base=bank.path, remove=removed, out=tmp_path / f"{engine}-", engine=engine)
    for suffix in ("", "-"):
        here, there = (open_artifact(tmp_path / f"{engine}{suffix}", "bank") for engine in ("local", "ray"))
        assert here.digest == there.digest and here.statistics == there.statistics


def complain(task: int) -> int:
    raise DataError(f"task {task}", where="here", fix="thus")


class Unknown:
    """What is not installed on another machine."""

    def __call__(self, task: int) -> int:
        return task

    def __reduce__(self) -> Any:
        return importlib.import_module, ("rgs_of_tomorrow",)


def die(task: int) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return task


@needs_ray
@pytest.mark.slow
def test_errors_arrive_whole_and_what_the_cluster_lacks_is_an_environment_fault(ray: Any) -> None:
    with pytest.raises(DataError) as caught:
        list(on_cluster(complain, [1, 2], jobs=2))
    assert (caught.value.where, caught.value.fix) == ("here", "thus")
    with pytest.raises(EnvironmentFault, match=f"died {RETRIES + 1} times"):
        list(on_cluster(die, [1], jobs=2))
    with pytest.raises(EnvironmentFault, match=r"cannot run rgs: .*rgs_of_tomorrow"):
        list(on_cluster(Unknown(), [1], jobs=2))
    assert ray.is_initialized()  # who made the connection ends it


@needs_ray
@pytest.mark.slow
def test_terminated_then_finished_and_stdout_is_for_the_path(photos: Path, bank: Artifact, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rgs_cli.main", "build-bank", str(photos), "-o", str(tmp_path / "y")]
    command += ["--engine", "ray", "--jobs", "1", "--set", "shard_sources=2"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as build:
        assert build.stdout is not None and build.stderr is not None
        said = []
        for line in build.stderr:
            said.append(line)
            if line.startswith("cutting"):
                build.send_signal(signal.SIGTERM)
                break
        said += build.stderr.readlines()
        assert build.stdout.read() == ""
    assert build.returncode == 128 + signal.SIGTERM
    assert all(line.startswith(("hashing: ", "cutting: ")) for line in said), said
    assert not (tmp_path / "y").exists() and (tmp_path / "y.partial" / "plan.json").is_file()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tmp_path / 'y'}\n"
    assert open_artifact(tmp_path / "y", "bank").digest == bank.digest


def test_without_ray_the_extra_is_named(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentFault) as caught:
        build_bank.run(SMALL, data=photos, out=tmp_path / "y", engine="ray")
    assert caught.value.fix == "pip install 'rgs[cluster]'" and caught.value.exit_code == 4
    assert not list(tmp_path.iterdir())


@needs_ray
def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def refuse(**_: Any) -> None:
        raise ConnectionError("Failed to connect to GCS\nat length")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(EnvironmentFault, match=r"could be joined: Failed to connect to GCS\nwhere") as caught:
        list(on_cluster(abs, [1], 1, "10.0.0.7:6379"))
    assert caught.value.where == "10.0.0.7:6379"


@pytest.fixture
def task(photos: Path) -> tuple[BankWriter, Cut]:
    dataset = open_dataset(photos)
    records = tuple(sorted(dataset.records("train"), key=lambda record: record.id)[:2])
    digests = record_digests(dataset, records)
    writer = BankWriter(Path("nowhere"), dataset, build_bank.KINDS["segments"].cutter(SMALL, dataset.schema))
    return writer, Cut("00000.h5", records, tuple(digests[record.id] for record in records))


def test_made_elsewhere_are_the_bytes_of_here(task: tuple[BankWriter, Cut], bank: Artifact) -> None:
    assert Elsewhere(task[0])(task[1]).data == (bank.path / "shards" / "00000.h5").read_bytes()


def test_other_versions_elsewhere_are_refused(task: tuple[BankWriter, Cut]) -> None:
    elsewhere = Elsewhere(task[0])
    other = {**elsewhere.versions, "opencv-python-headless": "3.1"}
    with pytest.raises(EnvironmentFault, match=r"other versions: opencv-python-headless \S+ instead of 3\.1\n"):
        replace(elsewhere, versions=other)(task[1])


@pytest.mark.parametrize("change", ["other", "missing"])
def test_other_files_elsewhere_are_refused(photos: Path, tmp_path: Path, change: str) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    dataset = open_dataset(data)
    records = tuple(dataset.records("train")[:2])
    digests = record_digests(dataset, records)
    writer = BankWriter(Path("nowhere"), dataset, build_bank.KINDS["segments"].cutter(SMALL, dataset.schema))
    path = data / "train" / "img" / "0001.png"
    path.unlink() if change == "missing" else path.write_bytes((data / "train/img/0000.png").read_bytes())
    with pytest.raises(EnvironmentFault, match=r"does not see the scene train/0001 as it is here"):
        Elsewhere(writer)(Cut("00000.h5", records, tuple(digests[record.id] for record in records)))
