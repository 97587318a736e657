"""What the machine lacks or does, over every verb that writes: each ends as documented, and can go on afterwards."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from PIL import Image

from pipelines.artifact import locked, open_artifact, read_manifest, sha256_file, verify_files
from pipelines.train.run import open_weights
from tests.faults.conftest import ON_CPU, House, Words, copy, in_fork, refused, without_privilege
from tests.rgs_cli.conftest import Ended, call, content, succeed
from tests.stages.test_import_published import golden_network

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="takes things from Linux processes")


@dataclass(frozen=True)
class Writer:
    """A verb that writes. words: all but the output. result: what is equal however often it was disturbed.

    flag: what comes before the output.
    """

    name: str
    words: Callable[[House], Words]
    result: Callable[[Path], object]
    flag: tuple[str, ...] = ("-o",)

    def to(self, house: House, out: Path) -> Words:
        return [*self.words(house), *self.flag, out]


def tree(out: Path) -> object:
    return {str(path.relative_to(out)): sha256_file(path) for path in sorted(out.rglob("*")) if path.is_file()}


def digest(out: Path) -> object:
    manifest = read_manifest(out)
    verify_files(open_artifact(out, manifest["format"][4:-2]))
    return manifest["digest"]


def weights(out: Path) -> object:
    verify_files(open_artifact(out, "run"))
    return open_weights(out).step, open_weights(out).sha256


def scores(out: Path) -> object:
    verify_files(open_artifact(out, "report"))
    return open_artifact(out, "report").statistics


def published(house: House) -> Words:
    """A published generator, made once."""
    folder = house.root / "published"
    if not folder.exists():
        folder.mkdir()
        given = golden_network(folder, "spade")
        (folder / "options.yaml").write_text(yaml.safe_dump(dict(given.options)))
    classes = folder / "classes.json"
    return [
        "import",
        folder / "net.pth",
        "--system",
        "spade",
        "--classes",
        classes,
        "--config",
        folder / "options.yaml",
    ]


WRITERS = [
    Writer("data toy", lambda house: ["data", "toy", "--train", 4, "--val", 2, "--size", 64], tree, ()),
    Writer("data palette", lambda house: ["data", "palette", house.town], tree),
    Writer("data split", lambda house: ["data", "split", house.town, "--folds", 2], tree),
    Writer("build-bank", lambda house: ["build-bank", house.town, "--set", "shard_sources=1"], digest),
    Writer("train index", lambda house: ["train", "index", "--bank", house.bank], digest),
    Writer("train segmenter", lambda house: [*house.train("segmenter"), "--steps", 2], weights),
    Writer("train generator", lambda house: [*house.train("spade"), "--steps", 2], weights),
    Writer(
        "synthesize", lambda house: ["synthesize", house.spade, "-i", house.town / "val" / "label", *ON_CPU], digest
    ),
    Writer("eval", lambda house: ["eval", house.samples, "-r", house.town, *ON_CPU], scores),
    Writer("import", published, weights),
]
each_writer = pytest.mark.parametrize(
    "writer",
    [pytest.param(w, id=w.name, marks=pytest.mark.slow if w.name == "import" else ()) for w in WRITERS],
)


def whole(writer: Writer, house: House) -> Path:
    """What a verb writes undisturbed, made once."""
    out = house.root / f"whole-{writer.name.replace(' ', '-')}"
    if not out.exists():
        succeed(*writer.to(house, out))
    return out


def goes_on(writer: Writer, house: House, out: Path) -> None:
    """The same command again ends well, with the result of an undisturbed one."""
    succeed(*writer.to(house, out))
    assert writer.result(out) == writer.result(whole(writer, house))
    assert not out.with_name(out.name + ".partial").exists()


# ---- disks ----------------------------------------------------------------------------------------------------------


def files_up_to(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@each_writer
def test_a_file_that_may_not_grow(writer: Writer, house: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    largest = max(path.stat().st_size for path in whole(writer, house).rglob("*") if path.is_file())
    ended = in_fork(writer.to(house, out), lambda: files_up_to(largest // 2))
    assert "larger than is allowed" in refused(ended, [4], out)
    goes_on(writer, house, out)


@contextmanager
def mounted(folder: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes. Skips the test where mounting is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


@each_writer
def test_a_full_disk(writer: Writer, house: House, tmp_path: Path) -> None:
    pages = sum(-(-path.stat().st_size // 4096) for path in whole(writer, house).rglob("*") if path.is_file())
    with mounted(tmp_path / "disk", 4096 * max(1, pages // 2)) as disk:
        said = refused(call(*writer.to(house, disk / "out")), [4], disk / "out")
        assert "the disk is full" in said and str(disk) in said
        remount(disk, f"size={100 * 2**20}")
        goes_on(writer, house, disk / "out")


@each_writer
def test_a_read_only_disk(writer: Writer, house: House, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", 2**20) as disk:
        remount(disk, "ro")
        said = refused(call(*writer.to(house, disk / "out")), [4])
        assert "read-only file system" in said and str(disk) in said and "--out" in said


@each_writer
def test_a_folder_that_nobody_may_write_to(writer: Writer, house: House, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o555)
    words = writer.to(house, home / "out")
    ended = in_fork(words, without_privilege)
    assert "no permission" in refused(ended, [4]) and str(home) in ended.err and not content(tmp_path)


@each_writer
def test_a_name_that_is_too_long(writer: Writer, house: House, tmp_path: Path) -> None:
    said = refused(call(*writer.to(house, tmp_path / ("x" * 300))), [4])
    assert "the name is too long" in said and not content(tmp_path)


# ---- memory ---------------------------------------------------------------------------------------------------------


def memory_for(megabytes: int) -> None:
    """No more address space than there is, and so much."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.fixture(scope="module")
def huge(house: House) -> Path:
    """A dataset whose one picture has 49 million pixels, more than this test may hold."""
    data = house.root / "huge"
    for layer, mode in (("img", "RGB"), ("label", "L")):
        (data / "train" / layer).mkdir(parents=True)
        Image.new(mode, (7000, 7000)).save(data / "train" / layer / "00000.png", compress_level=1)
    shutil.copy(house.town / "classes.json", data)
    return data


READERS: dict[str, Callable[[House, Path, Path], Words]] = {
    "data check": lambda house, data, out: ["data", "check", data],
    "build-bank": lambda house, data, out: ["build-bank", data, "-o", out],
    "train segmenter": lambda house, data, out: [*house.train("segmenter", data), "-o", out],
    "train generator": lambda house, data, out: [*house.train("spade", data), "-o", out],
    "search": lambda house, data, out: ["search", house.index, data / "train" / "label" / "00000.png"],
    "synthesize": lambda house, data, out: [
        "synthesize",
        house.spade,
        "-i",
        data / "train" / "label",
        *ON_CPU,
        "-o",
        out,
    ],
    "eval": lambda house, data, out: ["eval", house.samples, "-r", data, *ON_CPU, "-o", out],
    "data toy": lambda house, data, out: ["data", "toy", out, "--train", 1, "--val", 0, "--size", 20000],
    "data palette": lambda house, data, out: ["data", "palette", house.town, "--size", 60000, "-o", out],
    "large batch": lambda house, data, out: [*house.train("segmenter"), "--size", 512, "--batch", 16, "-o", out],
    "large images": lambda house, data, out: [
        *("synthesize", house.spade, "-i", house.town / "val" / "label", "--size", 4096, *ON_CPU, "-o", out)
    ],
}


@pytest.mark.parametrize("verb", [verb for verb in READERS if verb != "eval"])
def test_too_little_memory(verb: str, house: House, huge: Path, tmp_path: Path) -> None:
    ended = in_fork(READERS[verb](house, huge, tmp_path / "out"), lambda: memory_for(40))
    said = refused(ended, [4], tmp_path / "out")
    assert "out of memory" in said and "smaller batch or size" in said


# ---- signals --------------------------------------------------------------------------------------------------------


def signal_at_write(out: Path, number: int, which: signal.Signals) -> None:
    """Send this process a signal when it opens a file of `out` for writing, the `number`-th time."""
    count = 0

    def watch(event: str, args: tuple[object, ...]) -> None:
        nonlocal count
        if event != "open" or not isinstance(args[2], int) or not args[2] & (os.O_WRONLY | os.O_RDWR):
            return
        if str(args[0]).startswith(str(out)):
            count += 1
            if count == number:
                os.kill(os.getpid(), which)

    sys.addaudithook(watch)


@pytest.mark.parametrize("number", [1, 3])
@each_writer
def test_a_termination(writer: Writer, number: int, house: House, tmp_path: Path) -> None:
    """Elsewhere: a training in a process group of its own, with data workers (tests/rgs_cli/test_train.py)."""
    out = tmp_path / "out"
    ended = in_fork(writer.to(house, out), lambda: signal_at_write(out, number, signal.SIGTERM))
    assert ended.code == 143 and "Traceback" not in ended.err and "bug" not in ended.err
    if writer.name.startswith("train ") and writer.name != "train index":
        assert read_manifest(out)["status"] == "stopped" and weights(out)
        assert ended.out == f"{out}\n"
    else:
        assert not out.exists() and ended.out == ""
    goes_on(writer, house, out)


# ---- two at once ----------------------------------------------------------------------------------------------------


@each_writer
def test_a_second_writer_is_kept_out(writer: Writer, house: House, tmp_path: Path) -> None:
    out = tmp_path / "out"
    mine = (
        out
        if "run" in writer.name or writer.name in ("train segmenter", "train generator")
        else tmp_path / "out.partial"
    )
    with locked(mine):
        (mine / ".first.tmp").write_text("of the first writer")
        said = refused(call(*writer.to(house, out)), [4])
        assert "another process is writing here" in said and str(mine) in said
        assert (mine / ".first.tmp").read_text() == "of the first writer"
    (mine / ".first.tmp").unlink()
    goes_on(writer, house, out)


@pytest.mark.parametrize("name", ["data toy", "build-bank", "train segmenter"])
def test_two_at_the_same_time(name: str, house: House, tmp_path: Path) -> None:
    """One of them makes it; the other is kept out, or finds it finished."""
    writer = next(writer for writer in WRITERS if writer.name == name)
    out = tmp_path / "out"
    expected = writer.result(whole(writer, house))
    child = os.fork()
    if child == 0:
        ended = call(*writer.to(house, out))
        os._exit(ended.code)
    mine = in_fork(writer.to(house, out), lambda: None)
    theirs = Ended(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), "", "")
    codes = sorted([mine.code, theirs.code])
    assert codes in ([0, 3], [0, 4]) or (codes == [0, 0] and name.startswith("train"))  # a finished run answers at once
    if mine.code:
        refused(mine, [3, 4])
    assert writer.result(out) == expected


# ---- numbers --------------------------------------------------------------------------------------------------------


RATES = {
    "segmenter": ["model.lr"],
    "spade": ["model.optimizer.lr"],
    "oasis": ["model.lr_g", "model.lr_d"],
    "resail": ["model.optimizer.lr"],
}


@pytest.mark.parametrize("system", ["segmenter", "spade", pytest.param("oasis", marks=pytest.mark.slow), "resail"])
def test_a_loss_that_is_no_number(system: str, house: House, tmp_path: Path) -> None:
    """The last checkpoint stays as it was, and serves."""
    out = tmp_path / "out"
    rates = [word for key in RATES[system] for word in ("--set", f"{key}=1e30")]
    words = [*house.train(system), "--steps", 20, *rates, "--set", "log.checkpoint_every=1"]
    said = refused(call(*words, "-o", out), [5], out)
    assert "at step" in said and "learning rate" in said
    if (out / "manifest.json").exists() and read_manifest(out)["weights"]:
        run = copy(out, tmp_path / "copy")
        assert weights(run) == weights(out)
