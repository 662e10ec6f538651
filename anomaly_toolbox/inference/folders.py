"""Folders that predictions are written to: on a disk, or in an object store. No TensorFlow here."""

import abc
import contextlib
import errno
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import filelock

from anomaly_toolbox.errors import ToolboxError
from anomaly_toolbox.files import atomic_write
from anomaly_toolbox.objects import ObjectPath

LOCK = ".lock"
DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)  # errors without the name of a file
UPLOADS_AT_ONCE = 16  # a store takes some hundredths of a second for each file


@dataclass(frozen=True)
class Folder(abc.ABC):
    """A folder that may not exist yet. Each file is written completely or not at all.

    Names are relative to the folder; with slashes they are those of files in its subfolders.
    """

    path: Path | ObjectPath

    def __str__(self) -> str:
        return str(self.path)

    def child(self, name: str) -> "Folder":
        """The folder of a name in this folder."""
        return type(self)(self.path / name)

    @property
    @abc.abstractmethod
    def identity(self) -> str:
        """A name that is the same for the same folder, however the user has named it."""

    @abc.abstractmethod
    def is_file(self) -> bool:
        """Whether the name is that of a file."""

    @abc.abstractmethod
    def names(self) -> list[str]:
        """The names of what is in the folder, without what is in its subfolders; none if there is no folder."""

    @abc.abstractmethod
    def open(self, name: str) -> BinaryIO:
        """Opens a file for reading; raises OSError."""

    @abc.abstractmethod
    def write(self, name: str) -> AbstractContextManager[Path]:
        """Makes the folders that lack, and yields a path to write to; on success its content is that of the file."""

    @contextlib.contextmanager
    def written_in_background(self) -> Iterator["Folder"]:
        """Yields the folder for many files whose `write` may return early; at the end all are written.

        Raises:
            Unreachable: a store does not take a file; `write` of a later file may raise it as well.
        """
        yield self

    @abc.abstractmethod
    def remove(self, name: str) -> None:
        """Removes a file, if there is one."""

    @abc.abstractmethod
    def locked(self) -> AbstractContextManager[None]:
        """Makes the folder, and locks it against other commands if it can; the lock ends with this process.

        Raises:
            ToolboxError: another command works in the folder.
        """

    def read(self, name: str) -> bytes:
        """The content of a file; raises OSError."""
        with self.open(name) as file:
            return file.read()

    def contains(self, other: "Folder") -> bool:
        """Whether the other folder is this one, or somewhere in it."""
        return PurePosixPath(other.identity).is_relative_to(self.identity)


def folder_at(path: Path | ObjectPath) -> Folder:
    """The folder of a name."""
    return ObjectFolder(path) if isinstance(path, ObjectPath) else LocalFolder(path)


@dataclass(frozen=True)
class LocalFolder(Folder):
    """A folder on a disk."""

    path: Path

    @property
    def identity(self) -> str:
        return str(self.path.resolve())

    def is_file(self) -> bool:
        return os.path.lexists(self.path) and not self.path.is_dir()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.path.iterdir()) if self.path.exists() else []

    def open(self, name: str) -> BinaryIO:
        return open(self.path / name, "rb")

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Path]:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_write(path) as temporary:
                yield temporary
        except OSError as problem:
            if problem.filename == str(temporary) or (problem.filename is None and problem.errno in DISK_IS_FULL):
                raise OSError(problem.errno, problem.strerror, str(path)) from problem
            raise

    def remove(self, name: str) -> None:
        (self.path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.path / LOCK, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise ToolboxError(f"{self}: another command is working in this folder") from None
        try:
            yield
        finally:
            if is_new and self.names() == [LOCK]:  # nothing was begun
                shutil.rmtree(self.path, ignore_errors=True)
            lock.release()


@dataclass(frozen=True)
class ObjectFolder(Folder):
    """A folder in an object store, which cannot be locked."""

    path: ObjectPath

    @property
    def identity(self) -> str:
        return str(self.path)

    def is_file(self) -> bool:
        return self.path.is_object()

    def names(self) -> list[str]:
        return self.path.names()

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open()

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="anomaly-toolbox-") as folder:
            temporary = Path(folder, PurePosixPath(name).name)
            yield temporary
            self._upload(name, temporary.read_bytes())

    def _upload(self, name: str, content: bytes) -> None:
        (self.path / name).write(content)

    @contextlib.contextmanager
    def written_in_background(self) -> Iterator[Folder]:
        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as pool:
            folder = _InBackground(self.path, pool, deque())
            yield folder
            for upload in folder.uploads:
                upload.result()

    def remove(self, name: str) -> None:
        (self.path / name).remove()

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        yield


@dataclass(frozen=True)
class _InBackground(ObjectFolder):
    """A folder in an object store that several files are written to at a time; few of them are in memory."""

    pool: ThreadPoolExecutor
    uploads: deque[Future[None]]

    def _upload(self, name: str, content: bytes) -> None:
        if len(self.uploads) == 2 * UPLOADS_AT_ONCE:
            self.uploads.popleft().result()
        self.uploads.append(self.pool.submit((self.path / name).write, content))
