"""Streams: stderr for people (progress bars on a terminal, plain lines elsewhere), stdout for machines."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from pipelines.errors import RgsError
    from pipelines.progress import Progress
    from pipelines.train.log import Status, Watch

quiet = False
debug = False
PLAIN_INTERVAL = 5.0


def say(text: str) -> None:
    """A line for a person, on stderr."""
    if not quiet:
        _write(text + "\n", sys.stderr)


def emit(path: Path | str) -> None:
    """The one line of stdout: the artifact's path."""
    _write(f"{path}\n", sys.stdout)


def emit_json(value: Any) -> None:
    """One JSON object on stdout."""
    _write(json.dumps(value, ensure_ascii=False) + "\n", sys.stdout)


def _write(text: str, stream: TextIO) -> None:
    """Write at once. A reader that has gone, as in `rgs … | head`, is no error: the work goes on without it."""
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def emit_artifact(path: Path, as_json: bool) -> None:
    """The path of a finished artifact, or its manifest's head as JSON."""
    if not as_json:
        emit(path)
        return
    from pipelines.artifact import read_manifest

    manifest = read_manifest(path)
    head = {key: manifest[key] for key in ("format", "digest", "statistics", "status", "step") if key in manifest}
    emit_json({"path": str(path), **head})


def report(error: RgsError) -> None:
    """What is wrong, where, how to fix it; on stderr even when --quiet."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True, soft_wrap=True)
    console.print(Text.assemble(("error: ", "bold red"), error.what))
    if where := error.where or error.place:
        console.print(Text(f"  where: {where}"))
    if fix := error.fix or error.advice:
        console.print(Text(f"  fix:   {fix}"))


@contextmanager
def progress() -> Iterator[Progress]:
    """A bar per label on a terminal, a line now and then elsewhere, nothing when --quiet."""
    if quiet:
        yield lambda label, done, total: None
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            tasks: dict[str, Any] = {}

            def advance(label: str, done: int, total: int) -> None:
                if label not in tasks:
                    tasks[label] = bars.add_task(label, total=total)
                bars.update(tasks[label], completed=done, total=total)

            yield advance
    else:
        last: dict[str, float] = {}

        def line(label: str, done: int, total: int) -> None:
            now = time.monotonic()
            if done >= total or now - last.get(label, -PLAIN_INTERVAL) >= PLAIN_INTERVAL:
                last[label] = now
                say(f"{label}: {done}/{total}")

        yield line


def watch_training() -> Watch:
    """The status line of a training: steps, images/s, memory, time left and the loss terms."""
    last = 0.0

    def watch(status: Status) -> None:
        nonlocal last
        if status.measured:
            _say_measured(status)
            return
        now = time.monotonic()
        done = status.step == status.steps
        if quiet or (not done and now - last < (1.0 if sys.stderr.isatty() else PLAIN_INTERVAL)):
            return
        last = now
        hours, seconds = divmod(int(status.seconds_left), 3600)
        left = f"{hours}:{seconds // 60:02d}:{seconds % 60:02d}"
        terms = "  ".join(f"{name} {value:.3g}" for name, value in status.terms.items())
        text = (
            f"step {status.step}/{status.steps}  {status.images_per_second:.1f} images/s  "
            f"{status.memory_gb:.1f} GB  {left} left  {terms}"
        )
        if sys.stderr.isatty():
            _write(f"\r\x1b[2K{text[: _width() - 1]}" + ("\n" if done else ""), sys.stderr)
        else:
            say(text)

    return watch


def _say_measured(status: Status) -> None:
    """What validation found; an alarm where the published rule of ties would have said something else."""
    found = {name.removeprefix("validation/"): value for name, value in status.measured.items()}
    ring = found.pop("tie_alarm", 0.0)
    values = "  ".join(f"{name} {value:.3g}" for name, value in found.items())
    clear = "\r\x1b[2K" if sys.stderr.isatty() else ""  # of the status line
    say(f"{clear}step {status.step}/{status.steps}  validation: {values}")
    if ring:
        say("warning: ties decide the recall: different images have equal vectors, the embedder may have collapsed")


def _width() -> int:
    import shutil

    return shutil.get_terminal_size().columns


class Interrupts:
    """Ctrl-C and SIGTERM ask a training to stop after its step; a second Ctrl-C stops it at once."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __enter__(self) -> Interrupts:
        self._old = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number
        say("stopping after this step; the same command goes on from there (again to stop at once)")

    @property
    def exit_code(self) -> int:
        return 0 if self.signal is None else 128 + self.signal
