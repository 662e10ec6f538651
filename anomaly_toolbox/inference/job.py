"""A job: the predictions of any number of images, in the parts of a folder; planned before TensorFlow is imported.

The files are listed once and divided into parts. Each part is a file that is written completely or not at all, under
a name that follows from its number. So every file has one prediction, however often the command is interrupted and
started again.
"""

import contextlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from anomaly_toolbox import __version__
from anomaly_toolbox.datasets.walk import BadImage, describe_unused, find_images, is_leftover
from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.files import read_json, sha256, write_json
from anomaly_toolbox.inference.file_list import Entry, Summary, count_changes, names, read_part, write_list
from anomaly_toolbox.inference.predict import MOST_CHECKED_HEADERS, notes_on, threshold_for
from anomaly_toolbox.inference.predictions import Heatmaps, common_folder_of
from anomaly_toolbox.runs import FinishedRun

FORMAT = 1  # of `job.json`
JOB, FILES, NEW_FILES, SUCCESS, LOCK = "job.json", "files.parquet", "new-files.parquet", "_SUCCESS", ".lock"
#: The files of a job, whole or half written.
FILES_OF_A_JOB = re.compile(
    r"(\.\d+\.)?(job\.json|(new-)?files\.parquet|_SUCCESS|part-\d{6,}\.(csv|jsonl|parquet))|\.lock"
)
RESULTS_OF_A_JOB = re.compile(r"_SUCCESS|part-\d{6,}\.(csv|jsonl|parquet)")


@dataclass(frozen=True)
class Job:
    """The predictions that a folder holds, or will hold.

    Attributes:
        folder: the folder of the parts.
        run: the folder of the finished run that scores.
        roots: the files and folders that were searched for images.
        file_format: csv, jsonl or parquet.
        images_per_part: the number of files in each part but the last.
        n_files: the number of files in all parts.
        threshold: images with a score at or above it are anomalous; None: the threshold of the run decides.
        heatmaps: where heatmaps are written, or None.
    """

    folder: Path
    run: Path
    roots: tuple[Path, ...]
    file_format: str
    images_per_part: int
    n_files: int
    threshold: float | None
    heatmaps: Heatmaps | None

    @property
    def n_parts(self) -> int:
        """The number of parts, which are numbered from 0."""
        return -(-self.n_files // self.images_per_part)

    def size(self, number: int) -> int:
        """The number of files in a part."""
        return min(self.images_per_part, self.n_files - number * self.images_per_part)

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"part-{number:06}.{self.file_format}"

    @property
    def list_path(self) -> Path:
        """The file with the names of all files."""
        return self.folder / FILES


@contextlib.contextmanager
def locked(folder: Path, heatmaps: Path | None) -> Iterator[None]:
    """Makes the folder of a job and locks it against other commands; the lock ends with this process.

    Args:
        folder: new, empty, or the folder of an earlier job.
        heatmaps: the folder for heatmaps, which may be in the other folder.

    Raises:
        InputError: the folder holds other files, or is a file.
        ToolboxError: another command works in the folder.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"--parts {folder}: is a file; expected a folder")
    if heatmaps is not None and heatmaps.resolve() == folder.resolve():
        raise InputError(f"--heatmaps {heatmaps}: is the folder of --parts; choose another folder, such as one in it")
    is_new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    _check_content(folder, heatmaps)
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise ToolboxError(f"--parts {folder}: another command is working in this folder") from None
    try:
        for path in folder.iterdir():
            if FILES_OF_A_JOB.fullmatch(path.name) and path.name.startswith(".") and path.name != LOCK:
                path.unlink()  # half written
        yield
    finally:
        if is_new and [path.name for path in folder.iterdir()] == [LOCK]:  # nothing was begun
            shutil.rmtree(folder, ignore_errors=True)
        lock.release()


def _check_content(folder: Path, heatmaps: Path | None) -> None:
    """Raises InputError if a folder holds anything but an earlier job, the heatmaps, and what other programs leave."""
    with_heatmaps = None if heatmaps is None else heatmaps.resolve()
    names = [path.name for path in folder.iterdir()]
    for name in names:
        holds_heatmaps = with_heatmaps is not None and with_heatmaps.is_relative_to((folder / name).resolve())
        if not (FILES_OF_A_JOB.fullmatch(name) or holds_heatmaps or is_leftover(name)):
            raise InputError(f"--parts {folder}: holds {name}, which is no prediction; choose a new folder")
        if JOB not in names and RESULTS_OF_A_JOB.fullmatch(name):
            raise InputError(f"--parts {folder}: holds {name}, but no {JOB} that says what it is; choose a new folder")


def _clear(folder: Path) -> None:
    """Removes the earlier job; `job.json` comes last, because it says what the folder is."""
    for path in sorted(folder.iterdir(), key=lambda path: path.name == JOB):
        if FILES_OF_A_JOB.fullmatch(path.name) and path.name not in (LOCK, NEW_FILES):
            path.unlink()


def plan(
    run: Path,
    paths: Sequence[Path],
    folder: Path,
    file_format: str,
    images_per_part: int,
    heatmaps: Path | None,
    only_anomalous: bool,
    false_alarm_rate: float | None,
    overwrite: bool,
) -> tuple[Job, list[str]]:
    """Lists the files and begins a job, or continues the one in the folder.

    Args:
        run: the folder of a finished run.
        paths: image files, and folders that are searched for images, with their subfolders.
        folder: see `locked`, which must be entered before.
        file_format, images_per_part: see `Job`.
        heatmaps: the folder for heatmaps, or None.
        only_anomalous: draw heatmaps of anomalous images only.
        false_alarm_rate: see `predict.prepare`.
        overwrite: replace an earlier job and existing heatmaps.

    Returns:
        The job, and lines that the user should know before.

    Raises:
        InputError: a path or the run does not exist, there are no images, heatmaps would be mixed with other files, or
            the folder holds predictions of other files or with other options.
        ToolboxError: the run is damaged, or the folder was written by another version.
    """
    finished_run = FinishedRun.open(run)
    threshold = None if false_alarm_rate is None else threshold_for(finished_run, false_alarm_rate)
    is_new = overwrite or not (folder / JOB).exists()
    if heatmaps is not None:
        _check_heatmaps(heatmaps, must_be_empty=is_new and not overwrite)
    unused: Counter[str] = Counter()
    summary = write_list(folder / NEW_FILES, _entries(paths, unused), images_per_part)
    content = {
        "format": FORMAT,
        "version": __version__,
        "run": str(run.resolve()),
        "checksum_of_run": sha256(run / "results.json"),
        "file_format": file_format,
        "images_per_part": images_per_part,
        "false_alarm_rate": false_alarm_rate,
        "heatmaps": None if heatmaps is None else str(heatmaps.resolve()),
        "heatmaps_of": "anomalous" if only_anomalous else "all",
        "working_folder": None if all(path.is_absolute() for path in paths) else os.getcwd(),
        "n_files": summary.n_files,
        "checksum_of_files": summary.checksum,
    }
    if is_new:
        _clear(folder)
        write_json(folder / JOB, content)
    else:
        _check_same(folder, content, summary)
    (folder / NEW_FILES).replace(folder / FILES)
    where = None
    if heatmaps is not None:
        where = Heatmaps(heatmaps, common_folder_of(names(folder / FILES)), only_anomalous)
    job = Job(folder, run, tuple(paths), file_format, images_per_part, summary.n_files, threshold, where)
    notes = [f"not scored: {describe_unused(unused)}"] if unused else []
    first_files = [entry.file for entry in read_part(job.list_path, 0) if entry.problem is None]
    notes += notes_on(finished_run, first_files[:MOST_CHECKED_HEADERS], threshold)
    return job, notes


def _entries(paths: Sequence[Path], unused: Counter[str]) -> Iterator[Entry]:
    """Every file in its order; those that cannot be used come after the file before them."""
    bad: list[BadImage] = []

    def unusable() -> Iterator[Entry]:
        for problem in bad:
            yield Entry(problem.path, problem.reason)
        bad.clear()

    for file in find_images(paths, bad, unused):
        yield from unusable()
        yield Entry(file)
    yield from unusable()


def _check_heatmaps(heatmaps: Path, must_be_empty: bool) -> None:
    """Raises InputError if heatmaps cannot be written, or would be mixed with other files."""
    if heatmaps.exists() and not heatmaps.is_dir():
        raise InputError(f"--heatmaps {heatmaps}: is a file; expected a folder")
    if must_be_empty and heatmaps.exists() and any(heatmaps.iterdir()):
        raise InputError(f"--heatmaps {heatmaps}: holds other files; with --parts, expected a new or an empty folder")


def _check_same(folder: Path, content: dict[str, Any], summary: Summary) -> None:
    """Raises an error if the job in a folder is another one than `content` describes."""
    recorded = read_json(folder / JOB)
    advice = "choose another folder, or start anew with --overwrite"
    for name in ("format", "version"):
        if recorded.get(name) != content[name]:
            raise ToolboxError(
                f"--parts {folder}: was begun by version {recorded.get('version')} of the toolbox, this is version "
                f"{content['version']}; continue with the same version, or {advice}"
            )
    if recorded.get("checksum_of_run") != content["checksum_of_run"]:
        raise InputError(f"--parts {folder}: was begun with another run; {advice}")
    if recorded.get("checksum_of_files") != summary.checksum:
        difference = "the same files in another order"
        if (folder / FILES).exists():
            n_new, n_gone = count_changes(folder / FILES, folder / NEW_FILES)
            if n_new or n_gone:
                difference = f"other files: {n_new:,} are new, and {n_gone:,} are gone"
        raise InputError(f"--parts {folder}: was begun with {difference}; {advice}")
    for name, value in content.items():
        if name != "run" and recorded.get(name) != value:  # a run may move; its checksum stays
            raise InputError(
                f"--parts {folder}: was begun with {name} {recorded.get(name)!r}, received {value!r}; {advice}"
            )
