"""One function over many tasks on a Ray cluster. The one user of Ray, an extra: `pip install 'rgs[cluster]'`."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any, TypeVar

from pipelines.errors import EnvironmentFault, RgsError

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 3
"""How often a task is begun again after the death of its worker."""
AHEAD = 2
"""Tasks begun for each CPU of the cluster, so that none waits, and results do not pile up."""


def require_ray() -> None:
    """Raises EnvironmentFault when Ray is not installed."""
    if find_spec("ray") is None:
        raise EnvironmentFault("Ray is not installed", fix="pip install 'rgs[cluster]'")


def on_cluster(
    function: Callable[[Task], Result], tasks: Sequence[Task], jobs: int, address: str | None = None
) -> Generator[tuple[Task, Result]]:
    """Yield (task, function(task)) as they finish on a Ray cluster.

    function: picklable, sent once. address: of a cluster; without it that of RAY_ADDRESS, and without that a Ray of
    `jobs` processes on this machine that ends with the iteration. A worker that dies is replaced and its task begun
    again; Ray says so on stdout. When a task raises, the others are given up. Raises EnvironmentFault when Ray is not
    installed, no cluster answers, or workers die again and again.
    """
    require_ray()
    if not tasks:
        return
    with _ray(jobs, address) as ray:
        remote = ray.remote(_call).options(max_retries=RETRIES, num_cpus=1)
        sent = ray.put(function)
        left = list(reversed(tasks))
        running: dict[Any, Task] = {}
        try:
            while left or running:
                room = AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))) - len(running)
                for _ in range(min(room, len(left))):
                    task = left.pop()
                    running[remote.remote(sent, task)] = task
                done, _ = ray.wait(list(running), num_returns=1)
                yield running.pop(done[0]), ray.get(done[0])
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, ray.exceptions.RaySystemError):  # it could not even read the task
                raise EnvironmentFault(
                    f"a worker of the cluster cannot run rgs: {_last_line(error)}",
                    fix="install the same rgs, with the same Python, on every machine",
                ) from error
            raise (error.cause if isinstance(error.cause, RgsError) else error) from None
        except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
            raise EnvironmentFault(
                f"workers died {RETRIES + 1} times over one shard, most often for want of memory",
                fix="run the command again with fewer --jobs or smaller shards: it goes on where it stopped",
            ) from error
        except (ray.exceptions.RaySystemError, ray.exceptions.RayError, ConnectionError) as error:
            raise EnvironmentFault(
                f"the Ray cluster failed: {_first_line(error)}",
                fix="run the command again: it goes on where it stopped",
            ) from error
        finally:
            for reference in running:
                with suppress(Exception):  # the cluster may be gone
                    ray.cancel(reference, force=True)


def _call(function: Callable[[Any], Any], task: Any) -> Any:
    import cv2

    cv2.setNumThreads(1)
    return function(task)


@contextmanager
def _ray(jobs: int, address: str | None) -> Iterator[Any]:
    """Ray, connected. A connection that the caller made is left as it is."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody asked for statistics to be sent
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a warning of Ray's about GPUs
    import ray

    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address or "local",
            num_cpus=None if address else jobs,
            include_dashboard=None if address else False,
            log_to_driver=False,
            configure_logging=True,
            logging_level=logging.CRITICAL,
        )
    except Exception as error:  # Ray raises plain ones
        raise EnvironmentFault(
            f"no Ray cluster could be joined: {_first_line(error)}",
            where=address or "this machine",
            fix="start one with `ray start --head`, give its --ray-address, or use --engine local",
        ) from error
    finally:  # Ray ends the process by another exit code
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield ray
    finally:
        ray.shutdown()


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
