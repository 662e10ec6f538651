"""Worker processes on this machine, which share its threads and end with the process that started them."""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from anomaly_toolbox.errors import INTERRUPTED

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
SECONDS_BETWEEN_POLLS = 1.0
SECONDS_TO_STOP = 30.0


def run_workers(
    target: Callable[[Any], None],
    argument: Any,
    logs: list[Path],
    on_poll: Callable[[], None],
    on_exit: Callable[[Path, int | None], None],
) -> None:
    """Runs `target(argument)` in several processes and waits until all of them have ended.

    An exception in this process, such as Ctrl-C, interrupts the workers.

    Args:
        target: a function at the top level of a module.
        argument: the argument of `target`, which must be picklable.
        logs: one file for each process; the output of the process is appended to it.
        on_poll: called about every second and whenever a process ends.
        on_exit: called when a process has ended, with its log and its exit code, which is negative after a signal.
    """
    context = multiprocessing.get_context("spawn")
    # The worker unpickles the target only after its output goes to the log, because TensorFlow prints when imported.
    pickled = pickle.dumps((target, argument))
    processes = [context.Process(target=_start, args=(pickled, log), daemon=True) for log in logs]
    with _threads_divided_by(len(processes)):
        for process in processes:
            process.start()
    running = dict(zip(logs, processes, strict=True))
    try:
        while running:
            sentinels = [process.sentinel for process in running.values()]
            multiprocessing.connection.wait(sentinels, SECONDS_BETWEEN_POLLS)
            on_poll()
            for log, process in list(running.items()):
                if not process.is_alive():
                    del running[log]
                    on_exit(log, process.exitcode)
    finally:
        for process in running.values():
            _interrupt(process.pid)
        for process in running.values():
            process.join(SECONDS_TO_STOP)


def _start(pickled: bytes, log: Path) -> None:
    """What each worker process runs first."""
    os.setpgrp()  # Ctrl-C in a terminal now reaches the parent only, which interrupts each worker once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background commands of a shell ignore SIGINT
    threading.Thread(target=_end_with_parent, daemon=True).start()
    output = open(log, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  (open to the end)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout = sys.stderr = output
    try:
        target, argument = pickle.loads(pickled)
        target(argument)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _end_with_parent() -> None:
    """Interrupts this process when its parent has ended, even after `kill -9`."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this process was started by `run_workers`
    multiprocessing.connection.wait([parent.sentinel])
    _interrupt(os.getpid())


def _interrupt(pid: int | None) -> None:
    if pid is not None:  # None for a process that did not start
        os.kill(pid, signal.SIGINT)


@contextlib.contextmanager
def _threads_divided_by(n_processes: int) -> Iterator[None]:
    """Environment variables with which each new process uses its share of the cores; values of the user are kept."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    n_threads = max(1, n_cores // n_processes)
    missing = [name for name in THREAD_VARIABLES if name not in os.environ]
    for name in missing:
        os.environ[name] = str(n_threads)
    try:
        yield
    finally:
        for name in missing:
            os.environ.pop(name, None)
