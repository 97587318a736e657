"""kill -9 at random moments of build-bank, train index and train generator, each run again until it is done.

    python benchmarks/kills.py [--each 34] [--chain 3] [--seed 0] [--smoke]

A run that nobody disturbs is timed, and gives the digest, for a generator the sha256 of its weights, that every killed
one must arrive at. Then chains: the command is started, killed at a moment drawn uniformly from the duration of an
undisturbed run (that of the latest that was done before its kill), started again and killed again, 1 to `--chain`
times, and in the end run until it is done. After each kill what is on disk is opened as a reader would: it is refused
as unfinished, or whole with every hash right. Python and its libraries are loaded once and every command runs in a fork
with a process group of its own, so that the moments fall on its work and not on the start of the interpreter. Prints a
table and writes benchmarks/results/kills.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import lightning.fabric
import torch
import torch.utils.tensorboard

from pipelines.artifact import environment, open_artifact, sha256_file, verify_files
from pipelines.bank.bank import Bank
from pipelines.data.toy.write import write_town
from pipelines.errors import ArtifactError
from pipelines.stages import build_bank, synthesize, train, train_index
from pipelines.train.run import open_weights
from rgs_cli.main import main as rgs

RESULTS = Path(__file__).parent / "results"
LOADED = (lightning.fabric, build_bank, synthesize, train, train_index)  # before the forks, not in each of them


@dataclass(frozen=True)
class Job:
    """A command without its output, the kind of artifact that it makes, and what must be equal however often killed."""

    name: str
    words: list[str]
    kind: str
    result: Callable[[Path], str]


@dataclass
class Count:
    """What happened to one command. before, during, after: what the kills met, by what was on disk."""

    name: str
    seconds: float = 0.0
    kills: int = 0
    before: int = 0
    during: int = 0
    after: int = 0
    runs: int = 0
    equal: int = 0
    faults: list[str] = field(default_factory=list)


def start(words: list[str], log: Path) -> int:
    """`rgs WORDS…` in a fork that leads a process group of its own; its process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    os.setsid()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.argv = ["rgs", *words]
    code = 70
    try:
        rgs()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def finish(words: list[str], log: Path) -> float:
    """Run a command to its end, which must be a good one. Seconds."""
    began = time.monotonic()
    code = os.waitstatus_to_exitcode(os.waitpid(start(words, log), 0)[1])
    if code:
        raise SystemExit(f"rgs {' '.join(words)} ended with {code}:\n{log.read_text()[-4000:]}")
    return time.monotonic() - began


def killed(words: list[str], log: Path, moment: float) -> float | None:
    """Run a command and kill its group -9 after `moment` seconds. None, or the seconds after which it was done."""
    child = start(words, log)
    began = time.monotonic()
    while (passed := time.monotonic() - began) < moment:
        if os.waitpid(child, os.WNOHANG)[0]:
            return passed
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)  # not yet waited for, so it is there
    return None if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL else passed


def met(job: Job, out: Path) -> str:
    """What a kill left: «before» nothing, «during» work to go on with, «after» a finished artifact.

    What a reader opens must be whole, with every hash right: ArtifactError where it is not.
    """
    if not out.exists():
        return "during" if out.with_name(out.name + ".partial").exists() else "before"
    if not (out / "manifest.json").exists():
        return "during"  # a run before its first manifest; any other artifact is renamed with its manifest
    artifact = open_artifact(out, job.kind)
    verify_files(artifact)
    return "during" if artifact.manifest.get("status", "finished") != "finished" else "after"


def clear(out: Path) -> None:
    for path in (out, out.with_name(out.name + ".partial")):
        shutil.rmtree(path, ignore_errors=True)


def measure(job: Job, folder: Path, kills: int, chain: int, rng: random.Random) -> Count:
    """Kill one command `kills` times, in chains, and compare what each chain arrives at with the undisturbed run."""
    count = Count(job.name)
    out, log = folder / f"{job.kind}-killed", folder / f"{job.kind}.log"
    words = [*job.words, "-o", str(out)]
    finish(words, log)  # compiles what numba compiles
    clear(out)
    count.seconds = finish(words, log)
    wanted = job.result(out)
    clear(out)
    lasts = count.seconds  # as fast as this machine is by now
    while count.kills < kills:
        for number in range(min(rng.randint(1, chain), kills - count.kills)):
            done = killed(words, log, rng.uniform(0, lasts))
            if done is not None:
                lasts = lasts if number else done
                break
            count.kills += 1
            try:
                state = met(job, out)
            except ArtifactError as error:
                count.faults.append(f"kill {count.kills}: {error}")
                state = "during"
            setattr(count, state, getattr(count, state) + 1)
            if state == "after":
                break
        if not (out.exists() and met(job, out) == "after"):
            finish(words, log)
        verify_files(open_artifact(out, job.kind))
        count.runs += 1
        count.equal += job.result(out) == wanted
        clear(out)
        print(f"{job.name}: {count.kills}/{kills} kills, {count.equal}/{count.runs} equal", file=sys.stderr, flush=True)
    return count


def digest(kind: str) -> Callable[[Path], str]:
    return lambda out: open_artifact(out, kind).digest


def weights(out: Path) -> str:
    """The sha256 of the last weights, over their bytes on disk."""
    return sha256_file(open_weights(out).file)


def jobs(folder: Path, scenes: int, steps: int) -> list[Job]:
    """The three commands, over a toy town whose bank, index and segmenter are made here."""
    town, bank, index, teacher = (folder / name for name in ("town", "bank", "index", "segmenter"))
    write_town(town, train=scenes, val=0, size=(96, 96))
    log = folder / "inputs.log"
    small = ["--data", str(town), "--size", "64", "--batch", "2", "--workers", "0", "--device", "cpu"]
    finish(["build-bank", str(town), "-o", str(bank)], log)
    finish(["train", "index", "--bank", str(bank), "-o", str(index)], log)
    finish(["train", "segmenter", *small, "--set", "model.width=8", "--steps", "1", "-o", str(teacher)], log)
    given = ["--bank", str(bank), "--index", str(index), "--with", f"segmenter={teacher}"]
    settings = ["model.ngf=4", "model.ndf=4", "model.hidden=4", "model.weights.perceptual=0", "log.checkpoint_every=1"]
    narrow = [word for setting in settings for word in ("--set", setting)]
    generator = ["train", "generator", "--system", "resail", "--preset", "toy", *given, *small, *narrow]
    return [
        Job("build-bank", ["build-bank", str(town), "--set", "shard_sources=2"], "bank", digest("bank")),
        Job("train index", ["train", "index", "--bank", str(bank)], "index", digest("index")),
        Job("train generator", [*generator, "--steps", str(steps)], "run", weights),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=34, help="kills of each command")
    parser.add_argument("--chain", type=int, default=3, help="most kills before a command may end")
    parser.add_argument("--commands", nargs="+", choices=("build-bank", "train index", "train generator"))
    parser.add_argument("--seed", type=int, default=0, help="draws the moments")
    parser.add_argument("--smoke", action="store_true", help="two kills of each command; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS / "kills.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    each = 2 if options.smoke else options.each
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        planned = jobs(folder, 12 if options.smoke else 48, 3 if options.smoke else 5)
        rng = random.Random(options.seed)
        chosen = [job for job in planned if not options.commands or job.name in options.commands]
        counts = [measure(job, folder, each, options.chain, rng) for job in chosen]
        pieces = len(Bank.open(folder / "bank"))
    print(
        f"{'':18}{'seconds':>8}{'kills':>7}{'before':>8}{'during':>8}{'after':>7}{'runs':>6}{'equal':>7}{'damage':>8}"
    )
    for c in counts:
        print(
            f"{c.name:18}{c.seconds:>8.2f}{c.kills:>7}{c.before:>8}{c.during:>8}{c.after:>7}"
            f"{c.runs:>6}{c.equal:>7}{len(c.faults):>8}"
        )
    options.out.parent.mkdir(parents=True, exist_ok=True)
    machine = {**environment(), "processor": platform.processor(), "cpus": os.cpu_count(), "threads": 1}
    result = {
        "seed": options.seed,
        "chain": options.chain,
        "pieces": pieces,
        "commands": [asdict(c) for c in counts],
        "machine": machine,
    }
    if not options.smoke:
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    if any(c.faults or c.equal != c.runs for c in counts):
        raise SystemExit("a killed command left damage, or arrived at something else")


if __name__ == "__main__":
    main()
