"""A job: the predictions of any number of images, in the parts of a folder; planned before TensorFlow is imported.

The files are listed once and divided into parts. Each part is a file that is written completely or not at all, under
a name that follows from its number. So every file has one prediction, however often the command is interrupted and
started again.
"""

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_toolbox import __version__
from anomaly_toolbox.datasets.walk import describe_unused, is_leftover
from anomaly_toolbox.errors import DamagedFile, InputError, ToolboxError
from anomaly_toolbox.files import parse_json, sha256, write_json
from anomaly_toolbox.inference.fetching import fetched
from anomaly_toolbox.inference.file_list import Entry, Summary, count_changes, names, read_part, write_list
from anomaly_toolbox.inference.folders import LOCK, Folder, folder_at
from anomaly_toolbox.inference.listing import list_files
from anomaly_toolbox.inference.predict import MOST_CHECKED_HEADERS, notes_on, threshold_for
from anomaly_toolbox.inference.predictions import Heatmaps, common_folder_of
from anomaly_toolbox.objects import ObjectPath
from anomaly_toolbox.runs import FinishedRun

FORMAT = 1  # of `job.json`
MOST_CHECKED_PARTS = 10  # of which some images are compared with the training images
JOB, FILES, SUCCESS = "job.json", "files.parquet", "_SUCCESS"
FILES_OF_A_JOB = re.compile(r"job\.json|files\.parquet|_SUCCESS|part-\d{6,}\.(csv|jsonl|parquet)|" + re.escape(LOCK))
RESULTS_OF_A_JOB = re.compile(r"_SUCCESS|part-\d{6,}\.(csv|jsonl|parquet)")
#: The options in `job.json` by the names that they have there.
OPTIONS = {
    "file_format": "--format",
    "images_per_part": "--images-per-part",
    "false_alarm_rate": "--false-alarm-rate",
    "heatmaps": "--heatmaps",
    "heatmaps_of": "--heatmaps-of",
}
HALF_WRITTEN = re.compile(rf"\.\d+-[0-9a-f]{{8}}\.({FILES_OF_A_JOB.pattern})")


@dataclass(frozen=True)
class JobRequest:
    """What a user asks for.

    Attributes:
        run: the folder of a finished run.
        paths: image files, and folders that are searched for images, with their subfolders.
        folder: new, empty, or the folder of an earlier job.
        file_format: csv, jsonl or parquet.
        images_per_part: the number of files in each part but the last.
        heatmaps: the folder for heatmaps, which may be in the other folder, or None.
        only_anomalous: draw heatmaps of anomalous images only.
        false_alarm_rate: see `predict.prepare`.
        overwrite: replace an earlier job and existing heatmaps.
    """

    run: Path
    paths: tuple[Path | ObjectPath, ...]
    folder: Path | ObjectPath
    file_format: str = "csv"
    images_per_part: int = 4096
    heatmaps: Path | ObjectPath | None = None
    only_anomalous: bool = False
    false_alarm_rate: float | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Job:
    """The predictions that a folder holds, or will hold.

    Attributes:
        folder: the folder of the parts.
        run: the folder of the finished run that scores.
        paths: the files and folders that were searched for images.
        working_folder: the folder that relative paths begin at; None: all paths are absolute.
        file_format, images_per_part: see `JobRequest`.
        n_files: the number of files in all parts.
        threshold: images with a score at or above it are anomalous; None: the threshold of the run decides.
        heatmaps: where heatmaps are written, or None.
    """

    folder: Folder
    run: Path
    paths: tuple[Path | ObjectPath, ...]
    working_folder: str | None
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

    def name(self, number: int) -> str:
        """The name of the file of a part."""
        return f"part-{number:06}.{self.file_format}"

    def entries(self, number: int) -> list[Entry]:
        """The files of a part."""
        with self.folder.open(FILES) as file:
            return read_part(file, number)

    @property
    def checksum(self) -> str:
        """The checksum of the description in the folder."""
        return hashlib.sha256(self.folder.read(JOB)).hexdigest()


@contextlib.contextmanager
def locked(request: JobRequest) -> Iterator[None]:
    """Makes the folder of a job and locks it, if it is on a disk, against other commands.

    Raises:
        InputError: the folder holds other files, or is a file.
        ToolboxError: another command works in the folder.
    """
    folder = folder_at(request.folder)
    heatmaps = None if request.heatmaps is None else folder_at(request.heatmaps)
    if folder.is_file():
        raise InputError(f"--parts {folder}: is no folder; expected a folder or a new name")
    if heatmaps is not None and heatmaps.identity == folder.identity:
        raise InputError(f"--heatmaps {heatmaps}: is the folder of --parts; choose another folder, such as one in it")
    _check_content(folder, heatmaps)
    with folder.locked():
        for name in folder.names():
            if HALF_WRITTEN.fullmatch(name):
                folder.remove(name)
        yield


def _check_content(folder: Folder, heatmaps: Folder | None) -> None:
    """Raises InputError if a folder holds anything but an earlier job, the heatmaps, and what other programs leave."""
    names = folder.names()
    for name in names:
        holds_heatmaps = heatmaps is not None and folder.child(name).contains(heatmaps)
        if not (FILES_OF_A_JOB.fullmatch(name) or holds_heatmaps or is_leftover(name)):
            raise InputError(f"--parts {folder}: holds {name}, which is no prediction; choose a new folder")
        if JOB not in names and RESULTS_OF_A_JOB.fullmatch(name):
            raise InputError(
                f"--parts {folder}: holds {name}, but no {JOB} that says what it is; delete it or choose a new folder"
            )


def _clear(folder: Folder) -> None:
    """Removes the earlier job; `job.json` comes last, because it says what the folder is."""
    for name in sorted(folder.names(), key=lambda name: name == JOB):
        if FILES_OF_A_JOB.fullmatch(name) and name != LOCK:
            folder.remove(name)


def plan(request: JobRequest) -> tuple[Job, list[str]]:
    """Lists the files and begins a job, or continues the one in the folder; `locked` must be entered before.

    Returns:
        The job, and lines that the user should know before.

    Raises:
        InputError: a path or the run does not exist, there are no images, heatmaps would be mixed with other files, or
            the folder holds predictions of other files or with other options.
        ToolboxError: the run is damaged, or the folder was written by another version.
    """
    run, folder = FinishedRun.open(request.run), folder_at(request.folder)
    threshold = None if request.false_alarm_rate is None else threshold_for(run, request.false_alarm_rate)
    is_new = request.overwrite or JOB not in folder.names()
    heatmaps = None if request.heatmaps is None else folder_at(request.heatmaps)
    if heatmaps is not None:
        _check_heatmaps(heatmaps, must_be_empty=is_new and not request.overwrite)
    unused: Counter[str] = Counter()
    with folder.write(FILES) as new_list:
        summary = write_list(new_list, list_files(request.paths, unused), request.images_per_part)
        content = {
            "format": FORMAT,
            "version": __version__,
            "run": str(request.run.resolve()),
            "checksum_of_run": sha256(request.run / "results.json"),
            "file_format": request.file_format,
            "images_per_part": request.images_per_part,
            "false_alarm_rate": request.false_alarm_rate,
            "heatmaps": None if heatmaps is None else heatmaps.identity,
            "heatmaps_of": "anomalous" if request.only_anomalous else "all",
            "working_folder": _working_folder(request.paths),
            "n_files": summary.n_files,
            "checksum_of_files": summary.checksum,
        }
        if is_new:
            _clear(folder)
            with folder.write(JOB) as path:
                write_json(path, content)
        else:
            _check_same(folder, content, summary, new_list)
    where = None
    if heatmaps is not None:
        with folder.open(FILES) as file:
            where = Heatmaps(heatmaps, common_folder_of(names(file)), request.only_anomalous)
    job = Job(
        folder,
        request.run,
        request.paths,
        _working_folder((*request.paths, request.folder, request.heatmaps)),
        request.file_format,
        request.images_per_part,
        summary.n_files,
        threshold,
        where,
    )
    notes = [f"not scored: {describe_unused(unused)}"] if unused else []
    with fetched(_sample(job)) as files:
        notes += notes_on(run, files, threshold)
    return job, notes


def _sample(job: Job) -> list[str]:
    """The first usable files of some parts, from all parts of the list."""
    n_parts = min(job.n_parts, MOST_CHECKED_PARTS)
    files: list[str] = []
    for index in range(n_parts):
        usable = [entry.file for entry in job.entries(index * job.n_parts // n_parts) if entry.problem is None]
        files += usable[: MOST_CHECKED_HEADERS // n_parts]
    return files


def _working_folder(paths: Iterable[Path | ObjectPath | None]) -> str | None:
    """The folder that relative paths begin at; None if all are absolute."""
    is_relative = any(isinstance(path, Path) and not path.is_absolute() for path in paths)
    return os.getcwd() if is_relative else None


def _check_heatmaps(heatmaps: Folder, must_be_empty: bool) -> None:
    """Raises InputError if heatmaps cannot be written, or would be mixed with other files."""
    if heatmaps.is_file():
        raise InputError(f"--heatmaps {heatmaps}: is a file; expected a folder")
    if must_be_empty and heatmaps.names():
        raise InputError(f"--heatmaps {heatmaps}: holds other files; with --parts, expected a new or an empty folder")


def _check_same(folder: Folder, content: dict[str, Any], summary: Summary, new_list: Path) -> None:
    """Raises an error if the job in a folder is another one than `content` describes."""
    advice = "choose another folder, or start anew with --overwrite"
    try:
        recorded = parse_json(folder.read(JOB), f"{folder}/{JOB}")
    except DamagedFile as problem:
        raise ToolboxError(f"{problem}; {advice}") from problem
    for name in ("format", "version"):
        if recorded.get(name) != content[name]:
            raise ToolboxError(
                f"--parts {folder}: was begun by version {recorded.get('version')} of the toolbox, this is version "
                f"{content['version']}; continue with the same version, or {advice}"
            )
    if recorded.get("checksum_of_run") != content["checksum_of_run"]:
        raise InputError(f"--parts {folder}: was begun with another run; {advice}")
    if recorded.get("checksum_of_files") != summary.checksum:
        raise InputError(f"--parts {folder}: was begun with {_difference(folder, new_list)}; {advice}")
    if recorded.get("working_folder") != content["working_folder"]:
        raise InputError(
            f"--parts {folder}: was begun with paths relative to {recorded.get('working_folder')}; run the command "
            f"there, or {advice}"
        )
    for name, option in OPTIONS.items():
        before, now = recorded.get(name), content[name]
        if before != now:
            begun = f"without {option}" if before is None else f"with {option} {before}"
            received = "received none" if now is None else f"received {now}"
            raise InputError(f"--parts {folder}: was begun {begun}, {received}; {advice}")


def _difference(folder: Folder, new_list: Path) -> str:
    """How the list of a job differs from a new one, whose checksum is another."""
    try:
        with folder.open(FILES) as before, open(new_list, "rb") as after:
            n_new, n_gone = count_changes(before, after)
    except (OSError, ValueError):  # the list is damaged or missing
        return "other files, or with the same ones in another order"
    if n_new or n_gone:
        return f"other files: {n_new:,} are new, and {n_gone:,} are gone"
    return "the same files in another order"
