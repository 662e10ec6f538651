"""Copies of objects on this machine's disk, so that they are read like any other file. No TensorFlow here."""

import contextlib
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from anomaly_toolbox.errors import Unreachable
from anomaly_toolbox.objects import ObjectPath, is_object_name

AT_ONCE = 16  # objects that are fetched at the same time
AHEAD = 256  # objects that are fetched before they are asked for


@contextlib.contextmanager
def fetched(names: Sequence[str]) -> Iterator[Iterator[Path]]:
    """Yields an iterator over a path for each file, which are the copies of objects.

    Objects are fetched before they are asked for, some of them at a time. Their copies are in a temporary folder, which
    is removed at the end; the caller may remove them before. If there is no such object, there is no copy.

    Raises:
        Unreachable: a store does not give an object. The iterator raises it.
    """
    if not any(map(is_object_name, names)):
        yield map(Path, names)
        return
    with tempfile.TemporaryDirectory(prefix="anomaly-toolbox-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        Path(folder, "keep").touch()  # an empty folder would look like one whose disk is gone
        pending: deque[Future[Path]] = deque()

        def paths() -> Iterator[Path]:
            for number, name in enumerate(names):
                pending.append(pool.submit(_fetch, name, Path(folder, str(number))))
                if len(pending) > AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()

        try:
            yield paths()
        finally:
            for future in pending:
                future.cancel()


def _fetch(name: str, copy: Path) -> Path:
    if not is_object_name(name):
        return Path(name)
    copy = copy.with_suffix(PurePosixPath(name).suffix)
    path = ObjectPath(name)
    try:
        content = path.read()
    except FileNotFoundError:  # reading the copy will report it
        if not path.bucket.is_folder():
            raise Unreachable(f"{name}: the bucket does not exist") from None
        return copy
    try:
        copy.write_bytes(content)
    except OSError as problem:  # such as a full disk
        raise OSError(problem.errno, problem.strerror, str(copy)) from problem
    return copy
