"""The list of the files of a job, in a Parquet file with one row group for each part. No TensorFlow here."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from anomaly_toolbox.files import atomic_write

# Names of files are bytes, which need not be text. A file that cannot be used has a problem.
SCHEMA = pa.schema([("file", pa.binary()), ("problem", pa.string())])


class Entry(NamedTuple):
    """The name of a file, and why it cannot be used if that is known from its name or its place."""

    file: str
    problem: str | None = None


class Summary(NamedTuple):
    """The number of files in a list, and a checksum of the list."""

    n_files: int
    checksum: str


def write_list(path: Path, entries: Iterable[Entry], per_part: int) -> Summary:
    """Writes a list; only one part of it is in memory at a time.

    Args:
        path: the file to write.
        entries: the files in their order.
        per_part: the number of files in each part but the last.
    """
    n_files, checksum = 0, hashlib.sha256()
    iterator = iter(entries)
    # A path with a colon would look like an address to pyarrow.
    with atomic_write(path) as temporary, open(temporary, "wb") as file, pq.ParquetWriter(file, SCHEMA) as writer:
        while part := list(itertools.islice(iterator, per_part)):
            names = [os.fsencode(entry.file) for entry in part]
            problems = [entry.problem and escaped(entry.problem) for entry in part]
            writer.write_table(pa.table([names, problems], SCHEMA), row_group_size=per_part)
            n_files += len(part)
            for name, problem in zip(names, problems, strict=True):
                checksum.update(repr((name, problem)).encode())
    return Summary(n_files, checksum.hexdigest())


def escaped(text: str) -> str:
    """A text with escape sequences for bytes that are no text, as names of files may have."""
    return text.encode(errors="backslashreplace").decode()


def read_part(file: BinaryIO, number: int) -> list[Entry]:
    """The files of one part of a list; parts are numbered from 0."""
    rows = pq.ParquetFile(file).read_row_group(number).to_pylist()
    return [Entry(os.fsdecode(row["file"]), row["problem"]) for row in rows]


def count_changes(before: BinaryIO, after: BinaryIO) -> tuple[int, int]:
    """How many files of a list are new, and how many are gone, compared with another list."""
    files_before, files_after = set(names(before)), set(names(after))
    return len(files_after - files_before), len(files_before - files_after)


def names(file: BinaryIO) -> Iterator[bytes]:
    """The name of each file in a list, as bytes."""
    for batch in pq.ParquetFile(file).iter_batches(columns=["file"]):
        yield from batch.column(0).to_pylist()
