"""The parts of a job: each is scored and written by itself, and at the end all are counted.

This module does not know which process scores a part. It imports TensorFlow only to score.
"""

import contextlib
import csv
import errno
import functools
import io
import json
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from anomaly_toolbox.datasets.walk import BadImage
from anomaly_toolbox.errors import ToolboxError, Unreachable, reason
from anomaly_toolbox.files import write_json
from anomaly_toolbox.inference.fetching import fetched
from anomaly_toolbox.inference.file_list import Entry, escaped
from anomaly_toolbox.inference.job import SUCCESS, Job
from anomaly_toolbox.inference.predictions import (
    Heatmaps,
    Prediction,
    csv_writer,
    json_writer,
    of_unusable,
    predictions,
)
from anomaly_toolbox.objects import is_object_name
from anomaly_toolbox.processes import end_if_parent_has_ended
from anomaly_toolbox.streams import import_tensorflow

if TYPE_CHECKING:  # this module imports TensorFlow
    from anomaly_toolbox.inference.detector import Detector, ScoredImage

PARQUET = pa.schema(
    [
        ("file", pa.string()),
        ("score", pa.float64()),
        ("calibrated", pa.float64()),
        ("anomalous", pa.bool_()),
        ("problem", pa.string()),
        ("p_value", pa.float64()),
    ]
)
VERDICTS = (True, False, "yes", "no")
#: Errors of the operating system that say something about a disk or a network, and nothing about an image.
ERRORS_OF_DISKS = (
    *(errno.EIO, errno.ENODEV, errno.ENXIO, errno.ESTALE, errno.ENOTCONN),
    *(errno.ETIMEDOUT, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET),
)
#: Errors of the operating system that say that this process has too much open or in memory.
ERRORS_OF_PROCESSES = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)

PAUSES = (2.0, 10.0)  # seconds before the second and the third try, when images or predictions cannot be reached
MOST_OTHERS = 20  # files of a part that are tried, to tell a damaged file from a lost disk

Outcomes = Iterable[tuple[str, Path, "ScoredImage | BadImage"]]  # see `predictions`


class OutOfResources(Exception):
    """This process lacks memory or may not open more files, which says nothing about an image; a new process may."""


class Counts(NamedTuple):
    """How many predictions there are: of scored images, of the anomalous ones among them, and of unusable files."""

    scored: int = 0
    anomalous: int = 0
    unusable: int = 0

    @property
    def n_files(self) -> int:
        """The number of files."""
        return self.scored + self.unusable

    def plus(self, other: "Counts") -> "Counts":
        """The sum of both."""
        return Counts(self.scored + other.scored, self.anomalous + other.anomalous, self.unusable + other.unusable)


def score_part(
    job: Job, number: int, on_image: Callable[[], None], process: int = 0, is_last_try: bool = False
) -> Counts:
    """Scores the files of a part and writes it; an earlier file of the part is replaced.

    Args:
        job: the job.
        number: the number of the part.
        on_image: called for each file.
        process: the number of this process among those that score parts; each of them uses one GPU.
        is_last_try: a file that the disk does not give is unusable if the disk gives other files of the part.

    Raises:
        Unreachable: the images or the folder of the predictions cannot be reached.
        ToolboxError: the run is damaged.
        OSError: the part or a heatmap cannot be written.
    """
    entries = job.entries(number)
    detector = _detector(job.run, process)
    counts = Counts()

    def counted() -> Iterator[Prediction]:
        nonlocal counts
        for prediction in _predictions(job, entries, detector, is_last_try):
            counts = counts.plus(_counts_of(prediction))
            on_image()
            yield prediction
        end_if_parent_has_ended()

    _write(job, number, counted())
    return counts


def check_part(job: Job, number: int) -> Counts:
    """Counts the predictions in a part that is written; ToolboxError if it is damaged."""
    path = f"{job.folder}/{job.name(number)}"
    content = job.folder.read(job.name(number))
    counts = Counts()
    try:
        for prediction in _read(content, job.file_format):
            counts = counts.plus(_counts_of(prediction))
    except (ValueError, KeyError, TypeError, OSError, csv.Error) as problem:  # OSError is one of pyarrow's
        raise ToolboxError(f"{path} is damaged ({problem}); delete it, and run the same command again") from problem
    if counts.n_files != job.size(number):
        raise ToolboxError(
            f"{path} is damaged: it has {counts.n_files:,} predictions, expected {job.size(number):,}; delete it, and "
            "run the same command again"
        )
    return counts


def finish(job: Job, counts: Counts) -> None:
    """Writes `_SUCCESS`, after all parts are written."""
    with job.folder.write(SUCCESS) as path:
        write_json(path, {"parts": job.n_parts, **counts._asdict()})


ScorePart = Callable[..., Counts]  # with the arguments of `score_part`


@dataclass
class Outcome:
    """What became of several parts.

    Attributes:
        counts: the counts of all parts that were scored.
        failures: for each part that could not be scored, by number, the reason.
    """

    counts: Counts = field(default_factory=Counts)
    failures: dict[int, str] = field(default_factory=dict)


def attempt(score: ScorePart, on_restart: Callable[[], None], debug: bool = False) -> tuple[str, Any]:
    """Scores a part, several times if images or predictions cannot be reached, and says what became of it.

    Args:
        score: scores the part; `score_part` with all arguments but `is_last_try`.
        on_restart: called before the part is scored again.
        debug: print the traceback of an error.

    Returns:
        `scored` and the counts; `failed` and the reason; or `stop` and the reason, if other parts would fail as well.
    """
    for pause in (*PAUSES, None):
        try:
            return "scored", score(is_last_try=pause is None)
        except Unreachable as lost:
            if pause is None:
                return "stop", f"{lost}; run the same command again to continue"
            on_restart()
            time.sleep(pause)
        except Exception as problem:
            if debug:
                traceback.print_exc()
            concerns_all = isinstance(problem, ToolboxError | OSError)
            return "stop" if concerns_all else "failed", reason(problem)
    raise AssertionError("the last try returns")


@functools.lru_cache(maxsize=1)
def _detector(run: Path, process: int) -> "Detector":
    """The detector of a run, loaded for the first part that a process scores."""
    import_tensorflow()
    from anomaly_toolbox.device import use_one_gpu
    from anomaly_toolbox.inference.detector import Detector

    use_one_gpu(process)
    return Detector(run)


def _predictions(job: Job, entries: list[Entry], detector: "Detector", is_last_try: bool) -> Iterator[Prediction]:
    """The prediction of each file, in the order of the list."""
    names = [entry.file for entry in entries if entry.problem is None]
    on_unusable = functools.partial(raise_if_disk_is_lost, others=names if is_last_try else ())
    with _heatmaps_in_background(job.heatmaps) as heatmaps:
        of_files = predictions(_outcomes(names, detector), detector, job.threshold, heatmaps, on_unusable)
        for entry in entries:
            yield next(of_files) if entry.problem is None else of_unusable(entry.file, entry.problem)


@contextlib.contextmanager
def _heatmaps_in_background(heatmaps: Heatmaps | None) -> Iterator[Heatmaps | None]:
    """Heatmaps that may be written a little later than they are drawn; at the end all are written."""
    if heatmaps is None:
        yield None
        return
    with heatmaps.folder.written_in_background() as folder:
        yield replace(heatmaps, folder=folder)


def _outcomes(names: Sequence[str], detector: "Detector") -> Outcomes:
    """Scores files, and removes the copy of an object when it is no longer needed."""
    with fetched(names) as paths:
        for name, (path, outcome) in zip(names, detector.score_files(paths), strict=True):
            yield name, path, outcome
            if is_object_name(name):
                path.unlink(missing_ok=True)


def raise_if_disk_is_lost(name: str, path: Path, problem: BadImage, others: Sequence[str] = ()) -> None:
    """Raises an error if a file cannot be read for a reason that says nothing about the file.

    Args:
        name: of the file.
        path: where it is read.
        problem: why it cannot be read.
        others: if one of these files can be read, the disk is there, and the file itself is damaged or gone.

    Raises:
        Unreachable: the disk or the folder of the file cannot be reached.
        OutOfResources: this process has too much open or in memory.
    """
    cause = problem.__cause__
    code = cause.errno if isinstance(cause, OSError) else None
    if isinstance(cause, MemoryError) or code in ERRORS_OF_PROCESSES:
        raise OutOfResources(f"{name}: {cause}")
    is_gone = code == errno.ENOENT and _is_missing_or_empty(path.parent)
    if (is_gone or code in ERRORS_OF_DISKS) and not _can_be_read(others):
        where = "its folder is missing or empty" if is_gone else "its disk or network drive cannot be reached"
        raise Unreachable(f"{name}: {os.strerror(code or 0)}; {where}")


def _can_be_read(names: Sequence[str]) -> bool:
    """Whether one of some files can be read; at most 20 of them are tried, from all parts of the list."""
    for name in names[:: max(1, len(names) // MOST_OTHERS)]:
        with contextlib.suppress(OSError), open(name, "rb") as file:
            if file.read(1):
                return True
    return False


def _is_missing_or_empty(folder: Path) -> bool:
    """Whether a folder is missing or cannot be read, or is empty, as when nothing is mounted there any more."""
    try:
        with os.scandir(folder) as content:
            return next(content, None) is None
    except OSError:
        return True


def _counts_of(prediction: Prediction) -> Counts:
    """The counts of one file; ValueError if the prediction is incomplete."""
    if prediction.get("problem"):
        return Counts(unusable=1)
    float(prediction["score"])
    if prediction["anomalous"] not in VERDICTS:
        raise ValueError(f"anomalous is {prediction['anomalous']!r}")
    return Counts(scored=1, anomalous=int(prediction["anomalous"] in (True, "yes")))


def _write(job: Job, number: int, of_part: Iterable[Prediction]) -> None:
    with job.folder.write(job.name(number)) as temporary:
        if job.file_format == "parquet":
            rows = [{**prediction, "file": escaped(prediction["file"])} for prediction in of_part]
            with open(temporary, "wb") as file:  # a path with a colon would look like an address to pyarrow
                pq.write_table(pa.Table.from_pylist(rows, PARQUET), file)
            return
        with open(temporary, "w", newline="", encoding="utf-8", errors="backslashreplace") as output:
            write = csv_writer(output) if job.file_format == "csv" else json_writer(output)
            for prediction in of_part:
                write(prediction)


def _read(content: bytes, file_format: str) -> Iterator[Prediction]:
    """The predictions in the content of a part; ValueError if a CSV or JSON file ends within a line."""
    if file_format == "parquet":
        for batch in pq.ParquetFile(io.BytesIO(content)).iter_batches():
            yield from batch.to_pylist()
        return
    if content and not content.endswith(b"\n"):
        raise ValueError("its last line is incomplete")
    lines = io.StringIO(content.decode(), newline="")
    yield from csv.DictReader(lines) if file_format == "csv" else map(json.loads, lines)
