"""Worker processes on this machine, which share its threads and GPUs and end with the process that started them."""

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from anomaly_toolbox.errors import INTERRUPTED
from anomaly_toolbox.processes import VISIBLE_GPUS, end_with_parent, environment, share_of_threads
from anomaly_toolbox.streams import without_garbage_collection

SECONDS_BETWEEN_POLLS = 1.0
SECONDS_TO_STOP = 30.0


def run_workers(
    target: Callable[[Any], None],
    argument: Any,
    logs: list[Path],
    on_poll: Callable[[], None],
    on_exit: Callable[[Path, int | None], None],
    n_gpus: int = 0,
) -> None:
    """Runs `target(argument)` in several processes and waits until all of them have ended.

    An exception in this process, such as Ctrl-C, interrupts the workers. Each worker sees a single GPU, because
    TensorFlow places everything on the first one that it sees.

    Args:
        target: a function at the top level of a module.
        argument: the argument of `target`, which must be picklable.
        logs: one file for each process; the output of the process is appended to it.
        on_poll: called about every second and whenever a process ends.
        on_exit: called when a process has ended, with its log and its exit code, which is negative after a signal.
        n_gpus: the number of GPUs that this process sees.
    """
    context = multiprocessing.get_context("spawn")
    # The worker unpickles the target only after its output goes to the log, because TensorFlow prints when imported.
    pickled = pickle.dumps((target, argument))
    processes = [context.Process(target=_start, args=(pickled, log), daemon=True) for log in logs]
    threads = share_of_threads(len(processes))
    gpus = visible_gpus(os.environ, n_gpus)
    for number, process in enumerate(processes):
        gpu = {VISIBLE_GPUS: gpus[number % len(gpus)]} if gpus else {}
        with environment({**threads, **gpu}):
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
    end_with_parent()
    output = open(log, "a", buffering=1, encoding="utf-8", errors="backslashreplace")  # noqa: SIM115  (open to the end)
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    sys.stdout = sys.stderr = output
    try:
        with without_garbage_collection():
            target, argument = pickle.loads(pickled)  # imports TensorFlow
        target(argument)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _interrupt(pid: int | None) -> None:
    if pid is not None:  # None for a process that did not start
        os.kill(pid, signal.SIGINT)


def visible_gpus(variables: Mapping[str, str], n_gpus: int) -> list[str]:
    """The values of CUDA_VISIBLE_DEVICES that show one GPU each.

    Args:
        variables: the environment of this process. If CUDA_VISIBLE_DEVICES is set, its names of GPUs are kept: numbers,
            or names such as `GPU-8932f937…` and `MIG-…`.
        n_gpus: the number of GPUs that this process sees; CUDA ignores names after the first that it does not know.

    >>> visible_gpus({}, 2), visible_gpus({"CUDA_VISIBLE_DEVICES": "3,1,7"}, 2)
    (['0', '1'], ['3', '1'])
    """
    listed = variables.get(VISIBLE_GPUS)
    names = [str(number) for number in range(n_gpus)] if listed is None else listed.split(",")
    return [name.strip() for name in names[:n_gpus]]
