"""One function over many tasks in several processes that never outlive the command."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

import cv2

from pipelines.errors import EnvironmentFault

Task = TypeVar("Task")
Result = TypeVar("Result")

_function: Callable[[Any], Any]


def in_processes(
    function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int
) -> Generator[tuple[Task, Result]]:
    """Yield (task, function(task)) as they finish: in this process for one job, else in at most `jobs` others.

    function: picklable, sent once to each process. Processes are spawned, not forked: a fork would inherit the lock
    on the output, and keep it when this process is killed. When a task raises, tasks not yet begun are given up.
    Raises EnvironmentFault when a process dies.
    """
    if jobs <= 1 or len(tasks) <= 1:
        yield from ((task, function(task)) for task in tasks)
        return
    pool = ProcessPoolExecutor(
        min(jobs, len(tasks)), multiprocessing.get_context("spawn"), initializer=_start, initargs=(function,)
    )
    try:
        waiting = {pool.submit(_call, task): task for task in tasks}
        for future in as_completed(waiting):
            yield waiting.pop(future), future.result()
    except BrokenProcessPool as error:
        raise EnvironmentFault(
            "a worker process died, most often for want of memory",
            fix="run the command again with fewer --jobs: it goes on where it stopped",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(function: Callable[[Any], Any]) -> None:
    global _function  # noqa: PLW0603 - how a pool's processes keep what is sent to them once
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the command decides
    cv2.setNumThreads(1)
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _call(task: Any) -> Any:
    return _function(task)
