"""Objects: files in an object store, with names such as s3://bucket/folder/image.png. pyarrow reads and writes them.

Credentials, region and address come from where each store's own programs look for them, such as the variables
AWS_ACCESS_KEY_ID and AWS_ENDPOINT_URL. No TensorFlow here.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from anomaly_toolbox.errors import InputError, Unreachable, first_line

if TYPE_CHECKING:  # `anomaly-box --help` does without it
    from pyarrow.fs import FileInfo, FileSystem

SCHEMES = ("s3://", "gs://")
OPTIONS = {"gs://": "?retry_limit_seconds=60"}  # by default it would be a quarter of an hour


@dataclass(frozen=True)
class ObjectPath:
    """The name of an object or of a folder in an object store.

    A folder is all objects whose names begin with its name and a slash.

    Attributes:
        uri: such as `s3://bucket/folder`, without a slash at the end.

    Raises:
        InputError: there is no name of a bucket.
    """

    uri: str

    def __post_init__(self) -> None:
        if not self._in_store.partition("/")[0]:
            raise InputError(f"{self.uri}: expected {self._scheme}BUCKET or {self._scheme}BUCKET/FOLDER")

    def __str__(self) -> str:
        return self.uri

    def __truediv__(self, name: str) -> "ObjectPath":
        return ObjectPath(f"{self.uri}/{name}")

    @property
    def bucket(self) -> "ObjectPath":
        """The bucket that the object is in."""
        return ObjectPath(self._scheme + self._in_store.partition("/")[0])

    @property
    def _scheme(self) -> str:
        return self.uri[: len(SCHEMES[0])]

    @property
    def _in_store(self) -> str:
        """The name as pyarrow takes it: bucket/folder/file."""
        return self.uri.removeprefix(self._scheme)

    @property
    def _store(self) -> "FileSystem":
        return _connect(self.bucket.uri)

    def is_object(self) -> bool:
        """Whether there is an object of this name."""
        return bool(self._info().is_file)

    def is_folder(self) -> bool:
        """Whether there are objects in a folder of this name."""
        return bool(self._info().type.name == "Directory")

    def objects_below(self) -> list[str]:
        """The names of all objects in the folder and its subfolders, relative to the folder and sorted."""
        return sorted(info.path[len(self._in_store) + 1 :] for info in self._list(recursive=True) if info.is_file)

    def names(self) -> list[str]:
        """The names of the objects and subfolders directly in the folder, sorted."""
        return sorted(info.base_name for info in self._list(recursive=False))

    def open(self) -> BinaryIO:
        """Opens the object for reading; raises FileNotFoundError, or Unreachable if the store does not give it."""
        with self._clear_errors():
            file: BinaryIO = self._store.open_input_file(self._in_store)
        return file

    def read(self) -> bytes:
        """The content of the object; see `open`."""
        with self._clear_errors(), self.open() as file:
            return file.read()

    def write(self, content: bytes) -> None:
        """Writes the object, completely or not at all."""
        with self._clear_errors(), self._store.open_output_stream(self._in_store) as stream:
            stream.write(content)

    def remove(self) -> None:
        """Removes the object, if there is one."""
        with contextlib.suppress(FileNotFoundError), self._clear_errors():
            self._store.delete_file(self._in_store)

    def _info(self) -> "FileInfo":
        with self._clear_errors():
            return self._store.get_file_info(self._in_store)

    def _list(self, recursive: bool) -> "list[FileInfo]":
        from pyarrow.fs import FileSelector

        with self._clear_errors():
            selector = FileSelector(self._in_store, allow_not_found=True, recursive=recursive)
            infos: list[FileInfo] = self._store.get_file_info(selector)
        return infos

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        """Names the object in an error of the store, which has no number and no file name, but the store's answer."""
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as problem:
            raise Unreachable(f"{self}: {first_line(problem)}") from problem


def is_object_name(name: str) -> bool:
    """Whether a name is that of an object or a folder in an object store, not of a file."""
    return name.startswith(SCHEMES)


def object_path(name: str) -> ObjectPath:
    """The path of a name that a user has typed, which may end with a slash; raises InputError."""
    return ObjectPath(name if name in SCHEMES else name.rstrip("/"))


@functools.cache
def _connect(bucket: str) -> "FileSystem":
    """The connection of this process to a bucket; it is made once."""
    from pyarrow.fs import FileSystem

    try:
        return FileSystem.from_uri(bucket + OPTIONS.get(bucket[: len(SCHEMES[0])], ""))[0]
    except (OSError, ValueError) as problem:  # pyarrow's own errors are among them
        raise Unreachable(f"{bucket}: {first_line(problem)}") from problem
