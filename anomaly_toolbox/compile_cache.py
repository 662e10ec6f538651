"""Steps that XLA has compiled are kept on disk, so that later commands need not compile them again.

XLA can keep compiled programs in a folder, one file for each. But it stops a program that finds a damaged file there.
So no command lets XLA use the kept files themselves:

    <cache>/anomaly-toolbox/compiled/<key>/kept/      files with the checksums of their contents in their names
    <cache>/anomaly-toolbox/compiled/<key>/commands/  a folder for each command that runs now, which its XLA uses

A command begins with links to the kept files whose checksums are right, and its own new files are kept while it runs.
What a killed command leaves is deleted by the next one. The key stands for what compiled programs depend on beside the
step itself: the version of TensorFlow and the kind of processor.
"""

import contextlib
import hashlib
import os
import platform
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import filelock

from anomaly_toolbox.errors import ToolboxError
from anomaly_toolbox.files import atomic_write, sha256
from anomaly_toolbox.processes import environment

FLAGS = "TF_XLA_FLAGS"
LOG_LEVEL, ERRORS_ONLY, NOTHING = "TF_CPP_MIN_LOG_LEVEL", "2", "3"
FOLDER_FLAG = "--tf_xla_persistent_cache_directory"
DEVICES_FLAG = "--tf_xla_persistent_cache_device_types=CPU"
ENDING = ".pb"  # of the files that XLA writes; half-written ones have another
MOST_BYTES = 2**28  # of all kept files; one has some hundred thousand
LEAST_FREE_BYTES = 2**30  # XLA stops a program that cannot write
SECONDS_BETWEEN_EXCHANGES = 10.0
SECONDS_FOR_LOCK = 5.0
LOCK = ".lock"


@contextlib.contextmanager
def compile_cache() -> Iterator[None]:
    """Has XLA keep what this process and its children compile; must begin before TensorFlow compiles anything.

    It does nothing if the user's own `TF_XLA_FLAGS` name a folder, or if there is no safe folder with enough space.

    Raises:
        ToolboxError: the disk became full meanwhile.
    """
    flags = os.environ.get(FLAGS, "")
    cache = None if FOLDER_FLAG in flags else _open()
    if cache is None:
        yield
        return
    changes = {FLAGS: f"{flags} {FOLDER_FLAG}={cache.folder} {DEVICES_FLAG}".strip()}
    if os.environ.get(LOG_LEVEL) == ERRORS_ONLY:  # XLA tries to read each kept step as text, and calls that an error
        changes[LOG_LEVEL] = NOTHING
    with cache, environment(changes):
        try:
            yield
        except Exception as problem:
            if str(cache.folder) in str(problem):
                raise ToolboxError(
                    f"{cache.folder.parent}: a compiled step cannot be kept there; free some space, or add --no-cache"
                ) from problem
            raise


def cache_folder() -> Path:
    """Where programs keep what they can make anew: `XDG_CACHE_HOME`, or `.cache` in the home folder."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(named) if os.path.isabs(named) else Path("~/.cache").expanduser()) / "anomaly-toolbox"


def _open() -> "_Cache | None":
    """The cache of this version and machine; None if it cannot be used.

    Compiled programs are run as they are, so nobody else may be able to write there.
    """
    try:
        root = cache_folder() / "compiled" / _key()
        for folder in (root / "kept", root / "commands"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = root.stat()
        is_safe = owner.st_uid == os.getuid() and not owner.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        has_space = shutil.disk_usage(root).free >= LEAST_FREE_BYTES
        return _Cache(root) if is_safe and has_space else None
    except (OSError, filelock.Timeout, RuntimeError):  # RuntimeError: there is no home folder
        return None


def _key() -> str:
    """Changes with everything that compiled programs depend on, beside what was compiled."""
    abilities = platform.processor()
    with contextlib.suppress(OSError):
        found = re.search(r"^(flags|Features)\s*:.*$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        abilities = found.group() if found else abilities
    parts = (version("tensorflow"), platform.machine(), abilities, os.environ.get("XLA_FLAGS", ""))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


class _Cache:
    """A folder for XLA whose files are exchanged with the kept ones, now and then, and at the end.

    Raises:
        OSError: the folder cannot be written.
        filelock.Timeout: another command holds the lock for too long.
    """

    def __init__(self, root: Path):
        self._kept, commands = root / "kept", root / "commands"
        with filelock.FileLock(root / LOCK, timeout=SECONDS_FOR_LOCK):
            for folder in commands.iterdir():
                _delete_if_abandoned(folder)
            self.folder = Path(tempfile.mkdtemp(dir=commands))
            self._lock = filelock.FileLock(self.folder / LOCK)
            self._lock.acquire()
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="compile cache", daemon=True)

    def __enter__(self) -> None:
        self._exchange()
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_ending.set()
        self._thread.join()
        self._exchange()
        self._lock.release()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _work(self) -> None:
        while not self._is_ending.wait(SECONDS_BETWEEN_EXCHANGES):
            self._exchange()

    def _exchange(self) -> None:
        """Keeps the files that are only in the folder, and links those into it that are only kept."""
        with contextlib.suppress(OSError):  # another command deletes files, or the disk is full
            kept = {path.name.partition(".")[2]: path for path in self._kept.iterdir() if path.suffix == ENDING}
            present = {path.name: path for path in self.folder.iterdir() if path.suffix == ENDING}
            new = present.keys() - kept.keys()
            for name in new:
                _place(present[name], self._kept / f"{sha256(present[name])}.{name}")
            for name in kept.keys() - present.keys():
                if kept[name].name.startswith(f"{sha256(kept[name])}."):
                    _place(kept[name], self.folder / name)
                else:
                    kept[name].unlink(missing_ok=True)  # it is damaged
            if new:
                _delete_oldest()


def _delete_if_abandoned(folder: Path) -> None:
    """Deletes the folder of a command that has ended without doing so."""
    with contextlib.suppress(OSError, filelock.Timeout), filelock.FileLock(folder / LOCK, timeout=0):
        shutil.rmtree(folder, ignore_errors=True)


def _place(source: Path, target: Path) -> None:
    """Gives a file another name as well, or copies it where the file system has no links."""
    try:
        target.hardlink_to(source)
    except FileExistsError:
        pass
    except OSError:
        with atomic_write(target) as temporary:
            shutil.copyfile(source, temporary)


def _delete_oldest() -> None:
    """Deletes the oldest kept files of all versions and machines, until the others do not need too much space."""
    kept = cache_folder().glob("compiled/*/kept/*")
    files = sorted(((path, path.stat()) for path in kept), key=lambda file: -file[1].st_mtime)
    n_bytes = 0
    for path, details in files:
        n_bytes += details.st_size
        if n_bytes > MOST_BYTES:
            path.unlink(missing_ok=True)
