"""Files that are written completely or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import socket
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomaly_toolbox.errors import DamagedFile, InputError

LONGEST_NAME = 150  # bytes; file systems allow 255, and temporary names are longer
LONGEST_ENDING = 50  # characters of a file name that its temporary name keeps


def short_name(name: str, longest: int = LONGEST_NAME) -> str:
    """The name itself, or its beginning and a checksum of all of it if it has more than `longest` bytes."""
    encoded = os.fsencode(name)
    if len(encoded) <= longest:
        return name
    checksum = hashlib.sha256(encoded).hexdigest()[:10]
    return f"{encoded[:longest].decode(errors='ignore')}-{checksum}"


def temporary_path(path: Path) -> Path:
    """A hidden path in the same folder, which no other process of any machine uses.

    The ending of the name is kept, because some libraries depend on it.
    """
    machine = zlib.crc32(socket.gethostname().encode())  # processes in containers often have the same numbers
    return path.with_name(f".{os.getpid()}-{machine:08x}.{path.name[-LONGEST_ENDING:]}")


@contextlib.contextmanager
def atomic_write(path: Path, size: int = 0) -> Iterator[Path]:
    """Yields a temporary path to write to; on success its file replaces `path`, on failure it is removed.

    Args:
        path: the file to write.
        size: about how many bytes will be written. The HDF5 library crashes when a disk fills up while it writes, so
            the free space is checked before.

    Raises:
        OSError: the disk has less than `size` bytes of free space.
    """
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    temporary = temporary_path(path)
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(option: str, path: Path, overwrite: bool) -> None:
    """Raises InputError if the path exists, unless it may be overwritten.

    Args:
        option: the command-line option that named the path, such as `--output`.
        path: the file or folder to write.
        overwrite: whether it may be replaced.
    """
    if path.exists() and not overwrite:
        raise InputError(f"{option} {path}: already exists; --overwrite replaces it")


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON; raises ValueError if it holds NaN or infinity."""
    with atomic_write(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # paths may hold bytes that are no text


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that `write_json` wrote.

    Raises:
        DamagedFile: the file does not hold a JSON object.
        OSError: the file cannot be read.
    """
    return parse_json(path.read_bytes(), str(path))


def parse_json(text: bytes, name: str) -> dict[str, Any]:
    """The object in the content of a file, whose name is for the error; see `read_json`."""
    try:
        content = json.loads(text)
    except ValueError as problem:
        raise DamagedFile(f"{name} is damaged: not JSON ({problem})") from None
    if not isinstance(content, dict):
        raise DamagedFile(f"{name} is damaged: expected a JSON object")
    return content


def sha256(path: Path) -> str:
    """The SHA-256 checksum of a file, in hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
