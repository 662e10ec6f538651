"""Which workers are alive, for workers that share a disk. No TensorFlow here."""

import contextlib
import os
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

import filelock


class WorkerLiveness:
    """Shows other workers that this one is alive, by a lock that the system releases when the process ends.

    Args:
        folder: holds a lock file for each worker.

    Attributes:
        worker: the name of this worker, unique among all machines.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self.worker = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Holds this worker's lock inside the `with` block."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self.worker}.lock"
        with filelock.FileLock(path):
            yield
        path.unlink(missing_ok=True)

    def is_alive(self, worker: str) -> bool:
        """Whether the worker of that name still holds its lock."""
        path = self._folder / f"{worker}.lock"
        if not path.exists():
            return False
        try:
            with filelock.FileLock(path, timeout=0):
                return False
        except filelock.Timeout:
            return True

    def is_any_alive(self) -> bool:
        """Whether any worker is alive."""
        return any(self.is_alive(path.stem) for path in self._folder.glob("*.lock"))
