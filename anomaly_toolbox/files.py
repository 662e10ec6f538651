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

from anomaly_toolbox.errors import ToolboxError


@contextlib.contextmanager
def whole(path: Path, size: int = 0) -> Iterator[Path]:
    """Yields a name beside `path` to write to; on success that file becomes `path`, on any failure it goes.

    With `size`, about how many bytes will be written, a disk without that much room is an OSError before anything is
    written: the HDF5 library does not survive a disk that fills up under it.
    """
    if shutil.disk_usage(path.parent).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    beside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield beside
        with open(beside, "rb") as written:
            os.fsync(written.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` to `path`, readable and whole."""
    with whole(path) as beside:
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file that `write_json` wrote; ToolboxError if it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ToolboxError(f"{path} is damaged: not JSON ({problem}); train again, with --overwrite") from None
    if not isinstance(content, dict):
        raise ToolboxError(f"{path} is damaged: expected a JSON object; train again, with --overwrite")
    return content


def sha256(path: Path) -> str:
    """Checksum of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
