"""The processes that score the parts of a job on this machine. This process does not import TensorFlow.

If a process dies, its part is tried again in a new process. After three tries the part is named, and the others go on.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from anomaly_toolbox.errors import INTERRUPTED, ToolboxError
from anomaly_toolbox.inference.job import Job
from anomaly_toolbox.inference.parts import Outcome, ScorePart, attempt, score_part
from anomaly_toolbox.processes import end_with_parent, environment, share_of_threads

MOST_TRIES = 3
SECONDS_BETWEEN_MESSAGES = 0.5

OnProgress = Callable[[int], None]


def score_parts(
    job: Job,
    numbers: Iterable[int],
    n_processes: int,
    on_progress: OnProgress,
    score: ScorePart = score_part,
    debug: bool = False,
) -> Outcome:
    """Scores parts in several processes, and waits until all are scored.

    Args:
        job: the job.
        numbers: the parts to score.
        n_processes: how many processes; each uses its share of the threads, and one GPU.
        on_progress: called with the number of files that were scored since the last call; it is negative if a part is
            scored again.
        score: scores one part; a function at the top level of a module.
        debug: print the traceback of an error in a process.

    Raises:
        ToolboxError: no part can be scored, such as after the disk became full.
    """
    waiting = deque((number, 1) for number in numbers)
    outcome = Outcome()
    n_slots = min(n_processes, len(waiting))
    slots = [_Slot(job, index, n_slots, score, debug) for index in range(n_slots)]
    try:
        for slot in slots:
            slot.begin(*waiting.popleft())
        while busy := [slot for slot in slots if slot.number is not None]:
            ready = multiprocessing.connection.wait([slot.connection for slot in busy])
            for slot in busy:
                if slot.connection in ready:
                    slot.receive(outcome, waiting, on_progress)
    finally:
        for slot in slots:
            slot.kill()
    return outcome


class _Slot:
    """The place of one process; after its death another process takes the place.

    Attributes:
        number: the part that the process scores; None: it has nothing to do.
        connection: this end of the pipe to the process.
    """

    number: int | None = None
    connection: Connection

    def __init__(self, job: Job, index: int, n_slots: int, score: ScorePart, debug: bool):
        self.job, self._score, self._debug = job, score, debug
        self._index, self._n_slots = index, n_slots
        self._process: SpawnProcess | None = None
        self._try = 0
        self._n_scored = 0

    def begin(self, number: int, which_try: int) -> None:
        """Has the process score a part, and starts one if there is none."""
        if self._process is None:
            self._start()
        self.number, self._try, self._n_scored = number, which_try, 0
        with contextlib.suppress(OSError):  # `receive` will note the death
            self.connection.send(number)

    def receive(self, outcome: Outcome, waiting: deque[tuple[int, int]], on_progress: OnProgress) -> None:
        """Takes a message of the process, or notes its death, and gives it the next part if it is free."""
        assert self.number is not None
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            kind, value = "died", self._describe_death()
        if kind == "progress":
            self._n_scored += value
            on_progress(value)
            return
        number, self.number = self.number, None
        if kind == "scored":
            outcome.counts = outcome.counts.plus(value)
        elif kind == "stop":
            raise ToolboxError(value)
        elif self._try < MOST_TRIES:
            self.kill()  # a process that had an error of any kind may have it for every part
            on_progress(-self._n_scored)
            waiting.appendleft((number, self._try + 1))
        else:
            on_progress(self.job.size(number) - self._n_scored)
            outcome.failures[number] = value
        if waiting:
            self.begin(*waiting.popleft())

    def kill(self) -> None:
        """Ends the process at once; a part that it writes stays as it was before."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self.connection.close()
            self._process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, end_of_process = context.Pipe()
        arguments = (end_of_process, self.job, self._index, self._score, self._debug)
        process = context.Process(target=_work, args=arguments, daemon=True)
        with environment(share_of_threads(self._n_slots)):
            process.start()
        self._process = process
        end_of_process.close()  # so that its death ends the connection

    def _describe_death(self) -> str:
        assert self._process is not None
        self._process.join()
        code = self._process.exitcode
        self.kill()
        what = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"its process ended with {what}, {self._try} times in a row"


def _work(connection: Connection, job: Job, index: int, score: ScorePart, debug: bool) -> None:
    """What each process runs: it scores the parts whose numbers it receives."""
    os.setpgrp()  # Ctrl-C in a terminal reaches the parent only, which ends its processes
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background commands of a shell ignore SIGINT
    end_with_parent()
    try:
        while True:
            progress = _Progress(connection)
            score_it = partial(score, job, connection.recv(), progress.count, process=index)
            message = attempt(score_it, progress.take_back, debug)
            progress.send()
            connection.send(message)
    except (KeyboardInterrupt, EOFError, BrokenPipeError):  # the parent has ended
        sys.exit(INTERRUPTED)


class _Progress:
    """Sends the number of scored files, at most a few times a second."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._n_scored = self._n_sent = 0
        self._sent_at = time.monotonic()

    def count(self) -> None:
        """Counts a file."""
        self._n_scored += 1
        if time.monotonic() - self._sent_at > SECONDS_BETWEEN_MESSAGES:
            self.send()

    def take_back(self) -> None:
        """Forgets all files of the part, which is scored again."""
        self._n_scored = 0
        self.send()

    def send(self) -> None:
        """Sends what was not sent yet."""
        if self._n_scored != self._n_sent:
            self._connection.send(("progress", self._n_scored - self._n_sent))
            self._n_sent, self._sent_at = self._n_scored, time.monotonic()
