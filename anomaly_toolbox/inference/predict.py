"""The command `anomaly-box predict`: scores image files, prints a line for each and draws anomaly heatmaps.

TensorFlow is imported only after the arguments are checked.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import track

from anomaly_toolbox import false_alarms
from anomaly_toolbox.datasets.decoding import DEEP_WHITE, read_header
from anomaly_toolbox.datasets.images import Reading
from anomaly_toolbox.datasets.walk import BadImage, describe_unused, find_images, is_image
from anomaly_toolbox.errors import InputError
from anomaly_toolbox.files import check_output
from anomaly_toolbox.inference.folders import LocalFolder
from anomaly_toolbox.inference.predictions import (
    Heatmaps,
    common_folder_of,
    csv_writer,
    json_writer,
    of_unusable,
    predictions,
)
from anomaly_toolbox.runs import FinishedRun, advice_on_damage

MOST_CHECKED_HEADERS = 100  # files whose bits are compared with those of the training images


@dataclass(frozen=True)
class Request:
    """What `predict` scores and draws; made by `prepare`.

    Attributes:
        run: the folder of a finished run.
        files: the image files.
        bad_files: files that are named like images but cannot be used.
        unused: the number of other files, by their kind.
        heatmaps: where they are written, or None for no heatmaps.
        threshold: images with a score at or above it are called anomalous; None: the threshold of the run decides.
        notes: what the user should know before.
    """

    run: Path
    files: Sequence[Path]
    bad_files: Sequence[BadImage]
    unused: Counter[str]
    heatmaps: Heatmaps | None
    threshold: float | None = None
    notes: Sequence[str] = ()


def prepare(
    run: Path,
    paths: Sequence[Path],
    output: Path | None,
    heatmaps: Path | None,
    overwrite: bool,
    false_alarm_rate: float | None = None,
    only_anomalous: bool = False,
) -> Request:
    """Finds the images, checks all paths and chooses the threshold.

    Args:
        run: the folder of a finished run.
        paths: image files, and folders that are searched for images, with their subfolders.
        output: the file for the lines, or None.
        heatmaps: the folder for the heatmaps, or None.
        overwrite: replace an existing output file and existing heatmaps.
        false_alarm_rate: the share of normal images, between 0 and 1, that may be called anomalous; None: the threshold
            of the run decides.
        only_anomalous: draw heatmaps of anomalous images only.

    Raises:
        InputError: a path or the run does not exist, there are no images, a file would be replaced, or the run has too
            few normal validation images for the false-alarm rate.
        ToolboxError: the run is damaged.
    """
    _check_outputs(output, heatmaps, overwrite)
    finished_run = FinishedRun.open(run)
    threshold = None if false_alarm_rate is None else threshold_for(finished_run, false_alarm_rate)
    bad_files: list[BadImage] = []
    unused: Counter[str] = Counter()
    files = list(find_images(paths, bad_files, unused))
    if output is not None and output.exists():
        for file in files:
            if file.exists() and file.samefile(output):
                raise InputError(f"--output {output}: is one of the images to score; choose another file")
    where = _heatmaps(files, heatmaps, overwrite, only_anomalous) if heatmaps else None
    notes = list(notes_on(finished_run, files[:MOST_CHECKED_HEADERS], threshold))
    return Request(run, files, bad_files, unused, where, threshold, notes)


def predict(request: Request, output: TextIO, as_json: bool, console: Console) -> tuple[int, int]:
    """Scores the images of a request; the lines of a batch are written as soon as it is scored.

    Args:
        request: made by `prepare`.
        output: where the lines are written.
        as_json: write a JSON object on each line instead of CSV.
        console: where notes and progress are printed.

    Returns:
        The number of scored images, and the number of files that cannot be used; their lines hold the reason.
    """
    from anomaly_toolbox.inference.detector import Detector

    if request.unused:
        console.print(f"not scored: {describe_unused(request.unused)}")
    for note in request.notes:
        console.print(note)
    detector = Detector(request.run)
    write = json_writer(output) if as_json else csv_writer(output)
    for problem in request.bad_files:
        write(of_unusable(str(problem.path), problem.reason))
    outcomes = track(
        ((str(path), path, outcome) for path, outcome in detector.score_files(request.files)),
        "scoring",
        len(request.files),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    n_bad = len(request.bad_files)
    for prediction in predictions(outcomes, detector, request.threshold, request.heatmaps):
        write(prediction)
        n_bad += "problem" in prediction
    return len(request.files) + len(request.bad_files) - n_bad, n_bad


def notes_on(run: FinishedRun, files: Iterable[Path], threshold: float | None) -> Iterator[str]:
    """Yields lines about the threshold, and about what makes scores doubtful.

    Args:
        run: the run that scores.
        files: some of the image files.
        threshold: see `Request`.
    """
    if threshold is not None:
        yield f"the threshold is {threshold:.9g} by the false-alarm rate; that of the run is not used"
    low, high = run.score_range
    if low == high:
        yield f"note: all validation images of the run have the same score, {low:g}, so its scores may tell nothing"
    levels = Reading.of_run(run.hparams, run.image_size).levels
    if levels != DEEP_WHITE and _has_deep_images(files):
        yield f"note: some images have 16 bits, unlike the training images of the run; {DEEP_WHITE:,} counts as white"


def _check_outputs(output: Path | None, heatmaps: Path | None, overwrite: bool) -> None:
    if output is not None:
        if output.is_dir():
            raise InputError(f"--output {output}: is a folder; expected a file")
        check_output("--output", output, overwrite)
        if is_image(output):
            raise InputError(f"--output {output}: is named like an image; choose another name")
        if output.exists() and not output.is_file():
            raise InputError(f"--output {output}: is not a file; choose another name")
    if heatmaps is not None and heatmaps.exists() and not heatmaps.is_dir():
        raise InputError(f"--heatmaps {heatmaps}: is a file; expected a folder")


def threshold_for(run: FinishedRun, false_alarm_rate: float) -> float:
    """The threshold for a false-alarm rate; InputError if the run cannot promise it."""
    with advice_on_damage(run.folder):
        normal_scores = run.normal_scores()
    if normal_scores is None:
        raise run.lacks_validation_scores()
    return false_alarms.threshold_for(normal_scores, false_alarm_rate)


def _heatmaps(files: Sequence[Path], folder: Path, overwrite: bool, only_anomalous: bool) -> Heatmaps:
    """Where the heatmaps are written; InputError if one would replace a file."""
    heatmaps = Heatmaps(LocalFolder(folder), common_folder_of(map(str, files)), only_anomalous)
    for file in files:
        check_output("--heatmaps", folder / heatmaps.name_of(str(file)), overwrite)
    return heatmaps


def _has_deep_images(files: Iterable[Path]) -> bool:
    """Whether an image has 16 bits."""
    for file in files:
        with contextlib.suppress(BadImage):  # reported when the file is scored
            if read_header(file).is_deep:
                return True
    return False
