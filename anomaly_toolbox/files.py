"""Files that appear whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from anomaly_toolbox.errors import DamagedFile, InputError

LONGEST_NAME = 150  # bytes; file systems take 255, and temporary names are longer
LONGEST_ENDING = 50  # characters of a name that a temporary one keeps


def short_name(name: str, longest: int = LONGEST_NAME) -> str:
    """`name`, or its beginning and a checksum of the whole if it has more than `longest` bytes."""
    if len(os.fsencode(name)) <= longest:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:10]
    return f"{os.fsencode(name)[:longest].decode(errors='ignore')}-{digest}"


def temporary_path(path: Path) -> Path:
    """A hidden name beside `path` for what will replace it; its ending, which some libraries look at, is kept."""
    return path.with_name(f".{os.getpid()}.{path.name[-LONGEST_ENDING:]}")


@contextlib.contextmanager
def atomic_write(path: Path, size: int = 0) -> Iterator[Path]:
    """Yields a name beside `path` to write to; on success that file becomes `path`, on any failure it goes.

    With `size`, about how many bytes will be written, a disk without that much room is an OSError before anything is
    written: the HDF5 library does not survive a disk that fills up under it.
    """
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    temporary = temporary_path(path)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_output(option: str, path: Path, overwrite: bool) -> None:
    """Raises InputError if something is at `path`, which `option` names, and may not be replaced."""
    if path.exists() and not overwrite:
        raise InputError(f"{option} {path}: is there already; --overwrite replaces it")


def write_json(path: Path, content: Any) -> None:
    """Writes `content` to `path`, readable and whole."""
    with atomic_write(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path need not be text


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that `write_json` wrote; DamagedFile if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise DamagedFile(f"{path} is damaged: not JSON ({problem})") from None
    if not isinstance(content, dict):
        raise DamagedFile(f"{path} is damaged: expected a JSON object")
    return content


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
