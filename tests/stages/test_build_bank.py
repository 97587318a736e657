"""Building banks: whatever the jobs, the order and the interruptions, the same bank; faults are named."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.artifact import Artifact, locked, open_artifact, verify_files
from pipelines.bank.bank import Bank
from pipelines.bank.shard import read_shard
from pipelines.errors import ArtifactError, ConfigError, DataError, EnvironmentFault
from pipelines.stages import build_bank, processes
from pipelines.stages.build_bank import BuildBank
from tests.bank.photos import write_dataset

ALL = tuple(range(10))
SMALL = BuildBank(shard_sources=2)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("photos") / "data", ALL, groups={1: "a", 7: "a"})


@pytest.fixture(scope="module")
def bank(photos: Path) -> Artifact:
    """Ten sources in five shards."""
    return build_bank.run(SMALL, data=photos, out=photos.parent / "x")


def files(bank: Artifact) -> dict[str, str]:
    return {file["path"]: file["sha256"] for file in bank.manifest["files"]}


def pieces(path: Path) -> dict[int, tuple[Any, ...]]:
    """All that a bank says of each piece, by id."""
    bank = Bank.open(path)
    return {
        int(bank.ids[row]): (
            bank.source_of(row),
            int(bank.ordinals[row]),
            int(bank.categories[row]),
            bank.boxes[row].tolist(),
            bank.crop(row).tobytes(),
            bank.mask(row).tobytes(),
            bank.canonical([row]).tobytes(),
        )
        for row in range(len(bank))
    }


# ---- one build ------------------------------------------------------------------------------------------------------


def test_a_bank_says_what_it_holds(bank: Artifact) -> None:
    statistics = bank.statistics
    opened = Bank.open(bank.path)
    assert statistics["kind"] == "segments" and statistics["sources"] == 10 and statistics["shards"] == 5
    assert statistics["items"] == len(opened) == sum(statistics["per_class"].values())
    assert statistics["per_class"]["sky"] == 10 and statistics["bad"] == [] and statistics["licences"] == {"": 10}
    assert statistics["pixels"]["labeled"] == 10 * (40 * 56 - 6)
    assert statistics["pixels"]["kept"] == int(opened.areas.sum())
    assert bank.config["format"] == "folder"
    assert [i["role"] for i in bank.manifest["inputs"]] == ["data"]
    assert sorted(files(bank)) == [f"shards/{k:05d}.h5" for k in range(5)]
    verify_files(bank)


@pytest.mark.parametrize("jobs", [1, 3])
def test_jobs_place_and_time_do_not_matter(photos: Path, bank: Artifact, tmp_path: Path, jobs: int) -> None:
    moved = shutil.copytree(photos, tmp_path / "elsewhere" / "photos")
    again = build_bank.run(SMALL, data=moved, out=tmp_path / "y", jobs=jobs)
    assert again.digest == bank.digest and files(again) == files(bank)


@settings(max_examples=8, deadline=None)
@given(size=st.integers(1, 12))
def test_pieces_and_their_order_do_not_depend_on_shards(photos: Path, bank: Artifact, size: int) -> None:
    out = photos.parent / f"by{size}"
    shutil.rmtree(out, ignore_errors=True)
    build_bank.run(BuildBank(shard_sources=size), data=photos, out=out)
    assert len(list((out / "shards").iterdir())) == -(-10 // size)
    ours, theirs = Bank.open(out), Bank.open(bank.path)
    np.testing.assert_array_equal(ours.ids, theirs.ids)
    np.testing.assert_array_equal(ours.sources, theirs.sources)
    assert pieces(out) == pieces(bank.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: (data / "train/img/0003.png").write_bytes((data / "train/img/0004.png").read_bytes()),
        lambda data: write_dataset(data, [], groups={1: "b", 7: "a"}),
        lambda data: write_dataset(data, [], licences={2: "CC0"}),
        lambda data: [(data / "train" / f / "0009.png").unlink() for f in ("img", "label", "inst")],
        lambda data: (data / "classes.json").write_text(
            (data / "classes.json").read_text().replace('"index"', '"class1000"')
        ),
    ],
)
def test_the_digest_follows_the_data(photos: Path, bank: Artifact, tmp_path: Path, change: Any) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    given = build_bank.plan(SMALL, data=data, out=tmp_path / "y")["inputs"][0]["digest"]
    assert given == bank.input("data").digest  # type: ignore[union-attr]
    change(data)
    assert build_bank.plan(SMALL, data=data, out=tmp_path / "y")["inputs"][0]["digest"] != given


def test_splits(photos: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    write_dataset(data, [30, 31], split="val")
    of = {
        split: [
            s.id
            for s in Bank.open(
                build_bank.run(BuildBank(split=split), data=data, out=tmp_path / str(split)).path
            ).source_table
        ]
        for split in ("train", "val", None)
    }
    assert of["val"] == ["val/0030", "val/0031"] and of[None] == of["train"] + of["val"] and len(of["train"]) == 10
    with pytest.raises(ConfigError, match="test"):
        build_bank.run(BuildBank(split="test"), data=data, out=tmp_path / "z")


def test_a_list_of_scenes_is_stored_without_its_place(photos: Path, tmp_path: Path) -> None:
    digests = set()
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "fold.txt").write_text("train/0003\ntrain/0001\n")
        config = BuildBank(split=str(tmp_path / place / "fold.txt"))
        made = build_bank.run(config, data=photos, out=tmp_path / place / "x")
        assert made.config["split"] == "fold.txt"
        assert [s.id for s in Bank.open(made.path).source_table] == ["train/0001", "train/0003"]
        digests.add(made.digest)
    assert len(digests) == 1


def test_a_dry_run_writes_nothing(photos: Path, bank: Artifact, tmp_path: Path) -> None:
    planned = build_bank.plan(SMALL, data=photos, out=tmp_path / "y")
    assert planned["config"] == bank.config
    assert [i["digest"] for i in planned["inputs"]] == [i["digest"] for i in bank.manifest["inputs"]]
    assert planned["shards"] == {"shared": 0, "written": 5} and planned["sources"] == 10
    assert planned["bytes"] == pytest.approx(sum(file["bytes"] for file in bank.manifest["files"]), rel=0.4)
    assert not list(tmp_path.iterdir())


def test_progress_counts_sources(photos: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    build_bank.run(SMALL, data=photos, out=tmp_path / "y", progress=lambda *event: seen.append(event))
    assert [event for event in seen if event[0] == "cutting"] == [("cutting", done, 10) for done in (0, 2, 4, 6, 8, 10)]
    assert [event for event in seen if event[0] == "hashing"][-1] == ("hashing", 10, 10)


# ---- faults ---------------------------------------------------------------------------------------------------------


def spoil(data: Path, *scenes: int) -> None:
    for scene in scenes:
        path = data / "train" / "label" / f"{scene:04d}.png"
        path.write_bytes(path.read_bytes()[:60])


@pytest.mark.parametrize("jobs", [1, 2])
def test_bad_scenes_are_listed(photos: Path, tmp_path: Path, jobs: int) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    spoil(data, 8, 2)
    made = build_bank.run(SMALL, data=data, out=tmp_path / "y", jobs=jobs)
    assert [scene["id"] for scene in made.statistics["bad"]] == ["train/0002", "train/0008"]
    assert made.statistics["bad"][0]["reason"].startswith("train/label/0002.png: ")
    assert made.statistics["sources"] == 8
    assert str(tmp_path) not in json.dumps(made.statistics)


def test_too_many_bad_scenes(photos: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    spoil(data, 1, 4, 5)
    with pytest.raises(DataError, match=r"more than 2 .*train/0001 .*train/0004 .*train/0005") as caught:
        build_bank.run(SMALL, data=data, out=tmp_path / "y", max_bad=2)
    assert caught.value.fix is not None and "--max-bad" in caught.value.fix
    assert not (tmp_path / "y").exists()
    resumed = build_bank.run(SMALL, data=data, out=tmp_path / "y", max_bad=3)  # goes on with what is there
    assert len(resumed.statistics["bad"]) == 3
    fresh = build_bank.run(SMALL, data=data, out=tmp_path / "z")
    assert fresh.digest == resumed.digest and fresh.statistics == resumed.statistics


def test_nothing_to_build(photos: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    with pytest.raises(DataError, match="no scene has a segment"):
        build_bank.run(BuildBank.model_validate({"decompose": {"min_area": 10_000}}), data=data, out=tmp_path / "y")
    with pytest.raises(ConfigError, match="nothing to build"):
        build_bank.run(SMALL, out=tmp_path / "z")
    with pytest.raises(ConfigError, match="--remove-source"):
        build_bank.run(SMALL, data=data, remove=["train/0001"], out=tmp_path / "z")
    with pytest.raises(ConfigError, match="not both"):
        build_bank.run(SMALL, data=data, base=tmp_path, remove=["train/0001"], out=tmp_path / "z")
    assert not (tmp_path / "z.partial").exists()


def test_an_output_that_exists_is_left_alone(photos: Path, bank: Artifact) -> None:
    before = {path: path.stat().st_mtime_ns for path in bank.path.rglob("*")}
    with pytest.raises(ArtifactError, match="exists already"):
        build_bank.run(SMALL, data=photos, out=bank.path)
    assert before == {path: path.stat().st_mtime_ns for path in bank.path.rglob("*")}


def test_a_second_writer_is_refused(photos: Path, tmp_path: Path) -> None:
    with (
        locked(tmp_path / "y.partial"),
        pytest.raises(EnvironmentFault, match="another process is writing"),
    ):
        build_bank.run(SMALL, data=photos, out=tmp_path / "y")


# ---- interruptions --------------------------------------------------------------------------------------------------


def killed_at_sync(config: BuildBank, number: int, **arguments: Any) -> int:
    """Build in a fork that is killed -9 at its `number`-th sync to disk. How it ended: 0, or -9."""
    child = os.fork()
    if not child:
        real, count = os.fsync, 0

        def fsync(handle: int) -> None:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            real(handle)

        os.fsync = fsync  # type: ignore[assignment]
        try:
            build_bank.run(config, **arguments)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 9, 12, 14, 15, 16])
def test_killed_at_any_point_then_finished(photos: Path, tmp_path: Path, number: int, bank: Artifact) -> None:
    assert killed_at_sync(SMALL, number, data=photos, out=tmp_path / "y") == -signal.SIGKILL
    assert not (tmp_path / "y").exists()
    assert killed_at_sync(SMALL, 3, data=photos, out=tmp_path / "y") == -signal.SIGKILL  # and once more
    again = build_bank.run(SMALL, data=photos, out=tmp_path / "y")
    assert again.digest == bank.digest and again.statistics == bank.statistics
    assert sorted(path.name for path in again.path.iterdir()) == ["config.yaml", "manifest.json", "shards"]
    assert {f"shards/{path.name}" for path in (again.path / "shards").iterdir()} == set(files(bank))


def test_a_full_disk_then_finished(
    photos: Path, tmp_path: Path, bank: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: int) -> None:
        if list(tmp_path.rglob("00002.h5*")) or list(tmp_path.rglob(".00002.h5*")):
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(EnvironmentFault, match="disk is full"):
            build_bank.run(SMALL, data=photos, out=tmp_path / "y")
    assert not list(tmp_path.rglob("*.tmp"))
    assert build_bank.run(SMALL, data=photos, out=tmp_path / "y").digest == bank.digest


def test_finished_shards_are_not_made_again(photos: Path, tmp_path: Path) -> None:
    killed_at_sync(SMALL, 9, data=photos, out=tmp_path / "y")
    there = {path: path.stat().st_ino for path in (tmp_path / "y.partial" / "shards").glob("*.h5")}
    assert 0 < len(there) < 5
    build_bank.run(SMALL, data=photos, out=tmp_path / "y")
    assert all((tmp_path / "y" / "shards" / path.name).stat().st_ino == inode for path, inode in there.items())


def test_a_shard_damaged_meanwhile_is_made_again(photos: Path, tmp_path: Path, bank: Artifact) -> None:
    killed_at_sync(SMALL, 9, data=photos, out=tmp_path / "y")
    first, second = sorted((tmp_path / "y.partial" / "shards").glob("*.h5"))[:2]
    first.write_bytes(first.read_bytes()[:-50])
    data = bytearray(second.read_bytes())
    data[-30] ^= 1
    second.write_bytes(data)
    assert build_bank.run(SMALL, data=photos, out=tmp_path / "y").digest == bank.digest


def test_another_config_begins_anew(photos: Path, tmp_path: Path) -> None:
    killed_at_sync(SMALL, 9, data=photos, out=tmp_path / "y")
    other = BuildBank.model_validate({"shard_sources": 2, "decompose": {"min_area": 30}})
    made = build_bank.run(other, data=photos, out=tmp_path / "y")
    fresh = build_bank.run(other, data=photos, out=tmp_path / "z")
    assert made.digest == fresh.digest and Bank.open(made.path).areas.min() >= 30


SCRIPT = """
import sys, time
from pathlib import Path
from pipelines.stages import build_bank

def slowly(label, done, total):
    if label == "cutting" and done >= 4:
        print("ready", flush=True)
        time.sleep(60)

if __name__ == "__main__":
    config = build_bank.BuildBank(shard_sources=2)
    build_bank.run(config, data=Path(sys.argv[1]), out=Path(sys.argv[2]), jobs=2, progress=slowly)
"""


def children(process: int) -> Iterator[int]:
    for task in Path(f"/proc/{process}/task").iterdir():
        yield from map(int, (task / "children").read_text().split())


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_workers_end_with_a_killed_build_and_free_its_lock(photos: Path, tmp_path: Path, bank: Artifact) -> None:
    (tmp_path / "build.py").write_text(SCRIPT)
    path = os.pathsep.join([str(Path(build_bank.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, tmp_path / "build.py", photos, tmp_path / "y"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}) as build:
        assert build.stdout is not None and build.stdout.readline() == b"ready\n"
        workers = list(children(build.pid))
        assert len(workers) >= 2
        build.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while any(alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(worker) for worker in workers)
    assert build_bank.run(SMALL, data=photos, out=tmp_path / "y").digest == bank.digest


def alive(process: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def die(task: int) -> int:
    if task == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return task


def complain(task: int) -> int:
    raise DataError(f"task {task}", where="here", fix="thus")


def test_a_worker_that_dies_is_an_environment_fault() -> None:
    with pytest.raises(EnvironmentFault, match="a worker process died"):
        list(processes.in_processes(die, [0, 1, 2], jobs=2))


def test_errors_of_workers_arrive_whole() -> None:
    with pytest.raises(DataError) as caught:
        list(processes.in_processes(complain, [1, 2], jobs=2))
    assert (caught.value.where, caught.value.fix) == ("here", "thus")
    assert multiprocessing.active_children() == []


# ---- banks out of banks ---------------------------------------------------------------------------------------------


def inode(path: Path) -> int:
    return path.stat().st_ino


def test_adding_shares_the_old_shards(photos: Path, bank: Artifact, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    write_dataset(data, [20, 21, 22])  # the old ones are there still, and unchanged
    grown = build_bank.run(BuildBank(shard_sources=2), data=data, add_to=bank.path, out=tmp_path / "y")
    for name in files(bank):
        assert inode(grown.path / name) == inode(bank.path / name)
    assert sorted(set(files(grown)) - set(files(bank))) == ["shards/00005.h5", "shards/00006.h5"]
    assert [i["role"] for i in grown.manifest["inputs"]] == ["bank", "data"]
    assert grown.input("bank").digest == bank.digest  # type: ignore[union-attr]
    ours, old = Bank.open(grown.path), Bank.open(bank.path)
    np.testing.assert_array_equal(ours.ids[: len(old)], old.ids)
    once = build_bank.run(SMALL, data=data, out=tmp_path / "z")
    assert pieces(grown.path) == pieces(once.path)
    assert grown.statistics == once.statistics
    verify_files(open_artifact(bank.path, "bank"))


def test_only_new_scenes_need_be_given(photos: Path, bank: Artifact, tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data", [20])
    grown = build_bank.run(BuildBank(), data=data, add_to=bank.path, out=tmp_path / "y")
    assert grown.statistics["sources"] == 11
    assert build_bank.plan(BuildBank(), data=data, add_to=bank.path, out=tmp_path / "z")["shards"] == {
        "shared": 5,
        "written": 1,
    }


def test_links_that_cannot_be_had_become_copies(
    bank: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_dataset(tmp_path / "data", [20])
    linked = build_bank.run(BuildBank(), data=data, add_to=bank.path, out=tmp_path / "linked")

    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    copied = build_bank.run(BuildBank(), data=data, add_to=bank.path, out=tmp_path / "copied")
    assert copied.digest == linked.digest
    assert all(inode(copied.path / name) != inode(bank.path / name) for name in files(bank))


def test_what_cannot_be_added(photos: Path, bank: Artifact, tmp_path: Path) -> None:
    def add(data: Path, **config: Any) -> None:
        build_bank.run(BuildBank.model_validate(config), data=data, add_to=bank.path, out=tmp_path / "y")

    with pytest.raises(DataError, match="every scene is in the bank"):
        add(photos)
    changed = Path(shutil.copytree(photos, tmp_path / "changed"))
    shutil.copy(changed / "train/img/0001.png", changed / "train/img/0002.png")
    with pytest.raises(DataError, match=r"1 scenes are in the bank with other content: train/0002") as caught:
        add(changed)
    assert "--remove-source train/0002" in str(caught.value.fix)
    other = write_dataset(tmp_path / "other", [30])
    (other / "classes.json").write_text((other / "classes.json").read_text().replace("road", "way"))
    with pytest.raises(DataError, match="different classes"):
        add(other)
    new = write_dataset(tmp_path / "new", [30])
    for config in ({"codec": "jpeg"}, {"decompose": {"min_area": 5}}):
        with pytest.raises(ConfigError, match=next(iter(config))):
            add(new, **config)
    assert not (tmp_path / "y").exists() and not (tmp_path / "y.partial").exists()


def test_settings_are_those_of_the_bank_added_to(photos: Path, tmp_path: Path) -> None:
    config = BuildBank.model_validate({"decompose": {"min_area": 60}, "codec": "jpeg"})
    first = build_bank.run(config, data=photos, out=tmp_path / "x")
    data = write_dataset(tmp_path / "data", [20])
    grown = build_bank.run(BuildBank(), data=data, add_to=first.path, out=tmp_path / "y")
    assert grown.config["decompose"] == first.config["decompose"] and grown.config["codec"] == "jpeg"
    assert Bank.open(grown.path).areas.min() >= 60


def test_removing_leaves_no_pixel(bank: Artifact, tmp_path: Path) -> None:
    whole = read_shard(bank.path / "shards" / "00001.h5")
    (gone, gone_pieces), (kept, kept_pieces) = whole.sources
    before = {path: path.read_bytes() for path in bank.path.rglob("*") if path.is_file()}
    thinned = build_bank.run(BuildBank(), base=bank.path, remove=[gone.id], out=tmp_path / "y")

    stored = b"".join(path.read_bytes() for path in thinned.path.rglob("*.h5"))
    for piece in gone_pieces:
        assert piece.pixels not in stored
        assert all(piece.pixels[at : at + 64] not in stored for at in range(64, len(piece.pixels) - 64, 64))
        if piece.area < piece.box[2] * piece.box[3]:  # the mask of a filled box tells nothing
            assert piece.mask not in stored
    assert all(piece.pixels in stored for piece in kept_pieces)
    assert gone.id.encode() not in stored and kept.id.encode() in stored

    expected = {key: value for key, value in pieces(bank.path).items() if value[0].id != gone.id}
    assert pieces(thinned.path) == expected
    assert len(Bank.open(thinned.path).rows_of_source(gone.id)) == 0
    assert thinned.statistics["sources"] == 9 and thinned.config["removed"] == [gone.id]
    shared = [name for name in files(bank) if inode(thinned.path / name) == inode(bank.path / name)]
    assert sorted(set(files(bank)) - set(shared)) == ["shards/00001.h5"]
    assert before == {path: path.read_bytes() for path in bank.path.rglob("*") if path.is_file()}


@pytest.mark.parametrize("jobs", [1, 2])
def test_removing_what_was_added_gives_the_shards_of_before(bank: Artifact, tmp_path: Path, jobs: int) -> None:
    data = write_dataset(tmp_path / "data", [20, 21, 22])
    grown = build_bank.run(BuildBank(), data=data, add_to=bank.path, out=tmp_path / "y", jobs=jobs)
    added = [f"train/00{seed}" for seed in (20, 21, 22)]
    back = build_bank.run(BuildBank(), base=grown.path, remove=added, out=tmp_path / "z", jobs=jobs)
    assert files(back) == files(bank)
    assert back.statistics == bank.statistics


def test_removing_one_by_one_or_together_gives_the_same_shards(bank: Artifact, tmp_path: Path) -> None:
    one = build_bank.run(BuildBank(), base=bank.path, remove=["train/0004"], out=tmp_path / "1")
    two = build_bank.run(BuildBank(), base=one.path, remove=["train/0009"], out=tmp_path / "2")
    both = build_bank.run(BuildBank(), base=bank.path, remove=["train/0009", "train/0004"], out=tmp_path / "3")
    assert files(two) == files(both) and two.digest != both.digest


def test_what_cannot_be_removed(bank: Artifact, tmp_path: Path) -> None:
    def remove(*names: str, **config: Any) -> None:
        build_bank.run(BuildBank.model_validate(config), base=bank.path, remove=names, out=tmp_path / "y")

    with pytest.raises(DataError, match=r"no source 'train/003'") as caught:
        remove("train/0001", "train/003")
    assert "train/0003" in str(caught.value.fix)
    with pytest.raises(DataError, match="nothing would be left"):
        remove(*(f"train/{seed:04d}" for seed in ALL))
    with pytest.raises(ConfigError, match="codec"):
        remove("train/0001", codec="jpeg")
    with pytest.raises(ConfigError, match="--remove-source"):
        remove()
    assert not (tmp_path / "y.partial").exists()


@pytest.mark.parametrize("shard", ["00000.h5", "00001.h5"], ids=["linked", "rewritten"])
def test_a_damaged_bank_is_not_passed_on(bank: Artifact, tmp_path: Path, shard: str) -> None:
    broken = Path(shutil.copytree(bank.path, tmp_path / "x"))
    data = bytearray((broken / "shards" / shard).read_bytes())
    data[-30] ^= 1
    (broken / "shards" / shard).write_bytes(data)
    with pytest.raises(ArtifactError, match=shard):
        build_bank.run(BuildBank(), base=broken, remove=["train/0002"], out=tmp_path / "y")
    assert not (tmp_path / "y").exists()


def test_a_killed_removal_goes_on(bank: Artifact, tmp_path: Path) -> None:
    removed = ["train/0001", "train/0004", "train/0009"]
    fresh = build_bank.run(BuildBank(), base=bank.path, remove=removed, out=tmp_path / "z")
    assert killed_at_sync(BuildBank(), 3, base=bank.path, remove=removed, out=tmp_path / "y") == -signal.SIGKILL
    # other sources to remove: what is there is of no use
    other = build_bank.run(BuildBank(), base=bank.path, remove=["train/0000"], out=tmp_path / "y")
    assert {s.id for s in Bank.open(other.path).source_table} == {f"train/{seed:04d}" for seed in ALL[1:]}
    shutil.rmtree(tmp_path / "y")
    killed_at_sync(BuildBank(), 3, base=bank.path, remove=removed, out=tmp_path / "y")
    assert build_bank.run(BuildBank(), base=bank.path, remove=removed, out=tmp_path / "y").digest == fresh.digest


def test_scenes_that_were_bad_can_be_added_once_mended(photos: Path, bank: Artifact, tmp_path: Path) -> None:
    data = Path(shutil.copytree(photos, tmp_path / "data"))
    spoil(data, 6)
    poor = build_bank.run(SMALL, data=data, out=tmp_path / "x")
    grown = build_bank.run(SMALL, data=photos, add_to=poor.path, out=tmp_path / "y")
    assert grown.statistics["bad"] == [] and pieces(grown.path) == pieces(bank.path)
