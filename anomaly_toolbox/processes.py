"""What all processes that a command starts have in common. This file imports nothing but the standard library."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator, Mapping

VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


def end_with_parent() -> None:
    """Interrupts this process as soon as its parent has ended, even after `kill -9`."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def end_if_parent_has_ended() -> None:
    """Raises KeyboardInterrupt if the process that started this one has ended; `end_with_parent` may take seconds."""
    parent = multiprocessing.parent_process()
    if parent is not None and not parent.is_alive():
        raise KeyboardInterrupt


def n_threads() -> int:
    """How many threads of this process may compute at the same time: its share, or all cores that it may use."""
    share = os.environ.get("TF_NUM_INTRAOP_THREADS", "")
    return int(share) if share.isdigit() and int(share) else _n_cores()


def share_of_threads(n_processes: int) -> dict[str, str]:
    """Environment variables with which a process uses its share of the cores; those that the user set are left out."""
    share = max(1, _n_cores() // n_processes)
    return {name: str(share) for name in THREAD_VARIABLES if name not in os.environ}


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables, which new processes inherit, and restores the earlier ones at the end."""
    earlier = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in earlier.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _n_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None  # this process was started by `multiprocessing`
    multiprocessing.connection.wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGINT)
