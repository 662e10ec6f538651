"""The parts of a job as tasks of a Ray cluster that the user has started: one machine or many.

If a process or a machine dies, its parts are tried again elsewhere. Images and predictions are on a disk that all
machines share under the same path; the run itself is sent to them.
"""

import atexit
import functools
import importlib.util
import logging
import os
import pickle
import shutil
import socket
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from anomaly_toolbox import __version__
from anomaly_toolbox.errors import InputError, ToolboxError, first_line
from anomaly_toolbox.inference.job import Job
from anomaly_toolbox.inference.parts import Outcome, ScorePart, attempt, score_part
from anomaly_toolbox.processes import THREAD_VARIABLES

ADDRESS = "RAY_ADDRESS"
MOST_TRIES = 3
TASKS_PER_SLOT = 2  # one that runs and one that waits, so that no processor is idle in between
SECONDS_TO_ANSWER = 10.0
SECONDS_OF_SILENCE = 120.0
FILES_OF_A_RUN = ("hparams.json", "results.json", "scores.csv", "validation_scores.csv", "model.weights.h5")


def check_address(address: str | None) -> str:
    """The address of the cluster, after a first look whether anything answers there.

    Args:
        address: see `score_parts`; None: that of the environment variable RAY_ADDRESS.

    Raises:
        InputError: Ray is not installed, or there is no address.
        ToolboxError: nothing answers at the address.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError("--engine ray needs Ray: pip install 'anomaly-toolbox[ray]'")
    address = address or os.environ.get(ADDRESS)
    if not address:
        raise InputError(f"--engine ray needs --address HOST:PORT or the environment variable {ADDRESS}")
    if address == "auto":  # Ray's word for the cluster that this machine is part of
        return address
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise InputError(f"--address {address}: expected HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), SECONDS_TO_ANSWER).close()
    except (OSError, OverflowError) as problem:
        raise ToolboxError(f"--address {address}: no Ray cluster answers there ({first_line(problem)})") from problem
    return address


def score_parts(
    job: Job,
    numbers: Iterable[int],
    n_processes: int | None,
    address: str,
    on_progress: Callable[[int], None],
    on_silence: Callable[[], None],
    score: ScorePart = score_part,
) -> Outcome:
    """Scores parts on a Ray cluster, and waits until all are scored.

    Args:
        job: the job.
        numbers: the parts to score.
        n_processes: how many parts are scored at the same time; None: one for each GPU of the cluster or, if it has
            none, for each processor.
        address: of the cluster, such as `host:6379`; checked by `check_address`.
        on_progress: called with the number of files of each part that is done.
        on_silence: called when no part was done for some minutes.
        score: scores one part; a function at the top level of a module that all machines have.

    Raises:
        ToolboxError: the cluster cannot be reached, or no part can be scored.
    """
    ray = _connect(address)
    try:
        resources = ray.cluster_resources()
        has_gpus = resources.get("GPU", 0) > 0
        n_slots = int(resources["GPU"] if has_gpus else resources.get("CPU", 0))
        if not n_slots:
            raise ToolboxError(f"--address {address}: the cluster has no processors for tasks; start nodes with some")
        most_running = n_processes or TASKS_PER_SLOT * n_slots
        # With max_calls=0 a process scores several parts; otherwise Ray would end it after each part on a GPU. With
        # max_retries=0 it is here that a part is tried again, whatever it failed of.
        task = ray.remote(max_calls=0, max_retries=0)(_score_here).options(
            num_cpus=1, num_gpus=1 if has_gpus else 0, scheduling_strategy="SPREAD"
        )
        run = ray.put({name: (job.run / name).read_bytes() for name in FILES_OF_A_RUN if (job.run / name).exists()})
        # A machine with another version must be able to say so before it reads the job.
        shared = ray.put((pickle.dumps(job), job.checksum, run))
        waiting = iter(numbers)
        running: dict[Any, int] = {}
        n_failed: Counter[int] = Counter()
        outcome = Outcome()

        def begin(number: int) -> None:
            running[task.remote(score, shared, number, __version__)] = number

        def fill() -> None:
            while len(running) < most_running and (number := next(waiting, None)) is not None:
                begin(number)

        fill()
        while running:
            finished, _ = ray.wait(list(running), num_returns=1, timeout=SECONDS_OF_SILENCE)
            if not finished:
                on_silence()
                continue
            (done,) = finished
            number = running.pop(done)
            kind, value = _result(ray, done)
            if kind == "stop":
                raise ToolboxError(value)
            if kind == "scored":
                outcome.counts = outcome.counts.plus(value)
            else:
                n_failed[number] += 1
                if n_failed[number] < MOST_TRIES:
                    begin(number)
                    continue
                outcome.failures[number] = f"{value}; {MOST_TRIES} tries"
            on_progress(job.size(number))
            fill()
        return outcome
    finally:
        ray.shutdown()


def _connect(address: str) -> Any:
    """The module `ray`, connected to the cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except Exception as problem:
        raise ToolboxError(f"--address {address}: no cluster can be used there: {first_line(problem)}") from problem
    return ray


def _result(ray: Any, done: Any) -> tuple[str, Any]:
    """What `attempt` returned in a task, or what became of the task instead."""
    try:
        kind, value = ray.get(done)
    except ray.exceptions.RayTaskError as problem:  # such as another version of Python, or no toolbox at all
        return "stop", f"a machine of the cluster cannot score: {first_line(problem.cause)}"
    except ray.exceptions.RayError as problem:
        return "failed", type(problem).__name__
    return kind, value


def _score_here(score: ScorePart, shared: tuple[bytes, str, Any], number: int, version: str) -> tuple[str, Any]:
    """The task: scores one part on the machine that Ray has chosen."""
    pickled_job, checksum, run = shared
    machine = socket.gethostname()
    if version != __version__:
        return "stop", f"{machine} has version {__version__} of the toolbox, expected {version}; install it there"
    job: Job = pickle.loads(pickled_job)
    try:
        if job.working_folder is not None:
            os.chdir(job.working_folder)
        local_paths = [path for path in job.paths if isinstance(path, Path)]
        is_shared = job.checksum == checksum and all(os.path.lexists(path) for path in local_paths)
    except (OSError, ToolboxError):
        is_shared = False
    if not is_shared:
        return "stop", f"{machine} does not see {job.folder} or the images; share them under the same path"
    for name in THREAD_VARIABLES:
        os.environ[name] = "1"  # the number of processors of a task
    local = replace(job, run=_unpack(run))
    kind, value = attempt(partial(score, local, number, _ignore), _ignore)
    return kind, value if kind == "scored" else f"{machine}: {value}"


@functools.lru_cache(maxsize=1)
def _unpack(run: Any) -> Path:
    """Fetches the files of a run, once in each process, into a folder that is removed when the process ends.

    Args:
        run: Ray's reference to the content of each file by its name.
    """
    import ray

    folder = Path(tempfile.mkdtemp(prefix="anomaly-toolbox-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name, content in ray.get(run).items():
        (folder / name).write_bytes(content)
    return folder


def _ignore() -> None:
    """Progress within a part is not reported from other machines."""
