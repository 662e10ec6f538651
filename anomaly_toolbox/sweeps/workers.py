"""Several worker processes on this machine, which share its threads and end with the process that started them."""

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

THREAD_COUNTS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_TO_STOP = 30.0


def run(
    target: Callable[[Any], None],
    argument: Any,
    logs: list[Path],
    look: Callable[[], None],
    ended: Callable[[Path, int], None],
) -> None:
    """Runs `target(argument)` in as many processes as there are logs.

    Args:
        target: a function of a module; what it prints goes to its log.
        argument: can be pickled.
        logs: a file for each process, which is appended to.
        look: called every second, and once more at the end.
        ended: called with the log and the exit code of each process; that of one that was killed is negative.
    """
    context = multiprocessing.get_context("spawn")
    work = pickle.dumps((target, argument))  # unpacking imports TensorFlow, whose notes belong to the log
    processes = [context.Process(target=_begin, args=(work, log), daemon=True) for log in logs]
    with _threads_shared_out(len(processes)):
        for process in processes:
            process.start()
    running = dict(zip(logs, processes, strict=True))
    try:
        while running:
            multiprocessing.connection.wait([p.sentinel for p in running.values()], SECONDS_BETWEEN_LOOKS)
            look()
            for log in [log for log, process in running.items() if not process.is_alive()]:
                ended(log, running.pop(log).exitcode)
    finally:
        for process in running.values():
            os.kill(process.pid, signal.SIGINT)
        for process in running.values():
            process.join(SECONDS_TO_STOP)


def _begin(work: bytes, log: Path) -> None:
    os.setpgrp()  # Ctrl-C reaches the parent alone, which passes it on once
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background commands would ignore it
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    file = open(log, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  (kept to the end)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    sys.stdout = sys.stderr = file
    try:
        target, argument = pickle.loads(work)
        target(argument)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _end_with_the_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os.kill(os.getpid(), signal.SIGINT)


@contextlib.contextmanager
def _threads_shared_out(n_processes: int) -> Iterator[None]:
    """An environment in which each new process takes its share of the cores."""
    before = {name: os.environ.get(name) for name in THREAD_COUNTS}
    share = max(1, len(os.sched_getaffinity(0)) // n_processes) if hasattr(os, "sched_getaffinity") else 1
    os.environ.update({name: str(share) for name, value in before.items() if value is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
