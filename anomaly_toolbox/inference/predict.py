"""The command `anomaly-box predict`: scores image files, prints a line for each and draws anomaly heatmaps.

TensorFlow is imported only after the arguments are checked.
"""

import contextlib
import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from anomaly_toolbox import false_alarms, pictures
from anomaly_toolbox.datasets.decoding import DEEP_WHITE, read_header
from anomaly_toolbox.datasets.walk import (
    HEATMAP_ENDING,
    BadImage,
    describe_unused,
    image_files,
    is_image,
    kind_of_file,
)
from anomaly_toolbox.errors import InputError
from anomaly_toolbox.files import atomic_write, check_output, short_name
from anomaly_toolbox.runs import FinishedRun, advice_on_damage

MOST_CHECKED_HEADERS = 100  # files whose bits are compared with those of the training images
COLUMNS = ("file", "score", "calibrated", "anomalous", "problem", "p_value")  # new ones last: scripts count columns

WriteLine = Callable[..., None]  # called with values of COLUMNS by name


@dataclass(frozen=True)
class Request:
    """What `predict` scores and draws; made by `prepare`.

    Attributes:
        run: the folder of a finished run.
        files: the image files.
        bad_files: files that are named like images but cannot be used.
        unused: the number of other files, by their kind.
        heatmap_paths: the path of the heatmap of each file; empty if no heatmaps are drawn.
        threshold: images with a score at or above it are called anomalous; None: the threshold of the run decides.
    """

    run: Path
    files: Sequence[Path]
    bad_files: Sequence[BadImage]
    unused: Counter[str]
    heatmap_paths: dict[Path, Path]
    threshold: float | None = None


def prepare(
    run: Path,
    paths: Sequence[Path],
    output: Path | None,
    heatmaps: Path | None,
    overwrite: bool,
    false_alarm_rate: float | None = None,
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

    Raises:
        InputError: a path or the run does not exist, there are no images, a file would be replaced, or the run has too
            few normal validation images for the false-alarm rate.
        ToolboxError: the run is damaged.
    """
    _check_outputs(output, heatmaps, overwrite)
    finished_run = FinishedRun.open(run)
    threshold = None if false_alarm_rate is None else _threshold_for(finished_run, false_alarm_rate)
    bad_files: list[BadImage] = []
    unused: Counter[str] = Counter()
    files = list(_find_images(paths, bad_files, unused))
    if not files and not bad_files:
        found = f"; found {describe_unused(unused)}" if unused else ""
        raise InputError(f"{paths[0]}: contains no images; expected PNG, JPEG, BMP or TIFF files{found}")
    if output is not None and output.exists():
        for file in files:
            if file.exists() and file.samefile(output):
                raise InputError(f"--output {output}: is one of the images to score; choose another file")
    heatmap_paths = _choose_heatmap_paths(files, heatmaps, overwrite) if heatmaps else {}
    return Request(run, files, bad_files, unused, heatmap_paths, threshold)


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
    detector = Detector(request.run)
    if request.threshold is not None:
        console.print(f"the threshold is {request.threshold:.9g} by the false-alarm rate; that of the run is not used")
    low, high = detector.score_range
    if low == high:
        console.print(
            f"note: all validation images of the run have the same score, {low:g}, so its scores may tell nothing"
        )
    reading = detector.reading
    if reading.levels != DEEP_WHITE and _has_deep_images(request.files[:MOST_CHECKED_HEADERS]):
        console.print(
            f"note: some images have 16 bits, unlike the training images of the run; {DEEP_WHITE:,} counts as white"
        )
    write_line = _json_writer(output) if as_json else _csv_writer(output)
    for problem in request.bad_files:
        write_line(file=str(problem.path), problem=problem.reason)
    outcomes = track(
        detector.score_files(request.files),
        "scoring",
        len(request.files),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    n_scored, n_bad = 0, len(request.bad_files)
    for path, outcome in outcomes:
        if isinstance(outcome, BadImage):
            n_bad += 1
            write_line(file=str(path), problem=outcome.reason)
            continue
        n_scored += 1
        is_anomalous = outcome.is_anomalous if request.threshold is None else outcome.score >= request.threshold
        write_line(
            file=str(path),
            score=float(f"{outcome.score:.9g}"),  # nine digits restore a float32 exactly
            calibrated=round(outcome.calibrated, 6),
            anomalous=is_anomalous,
            p_value=None if outcome.p_value is None else float(f"{outcome.p_value:.9g}"),
        )
        if path in request.heatmap_paths:
            original, anomaly_map = pictures.map_on_original(
                path, outcome.anomaly_map, reading.aspect, reading.white_level
            )
            heatmap = pictures.overlay_heatmap(original, anomaly_map, detector.heatmap_range)
            _save_heatmap(request.heatmap_paths[path], heatmap)
    return n_scored, n_bad


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


def _threshold_for(run: FinishedRun, false_alarm_rate: float) -> float:
    """The threshold for a false-alarm rate; InputError if the run cannot promise it."""
    with advice_on_damage(run.folder):
        normal_scores = run.normal_scores()
    if normal_scores is None:
        raise run.lacks_validation_scores()
    return false_alarms.threshold_for(normal_scores, false_alarm_rate)


def _find_images(paths: Sequence[Path], bad_files: list[BadImage], unused: Counter[str]) -> Iterator[Path]:
    """Yields the image files; other files are added to `bad_files` and `unused`, see `image_files`."""
    for path in paths:
        if not os.path.lexists(path):
            raise InputError(f"{path}: there is no such file or folder")
        if path.is_dir():
            yield from image_files(path, bad_files, unused)
        elif path.name.lower().endswith(HEATMAP_ENDING):  # a pattern such as *.png may match earlier heatmaps
            unused[kind_of_file(path)] += 1
        else:
            yield path


def _choose_heatmap_paths(files: Sequence[Path], heatmaps: Path, overwrite: bool) -> dict[Path, Path]:
    """The path of the heatmap of each file; subfolders are kept, below the deepest folder that all files share."""
    absolute_paths = {file: Path(os.path.abspath(file)) for file in files}  # without `..`
    common_folder = os.path.commonpath([path.parent for path in absolute_paths.values()]) if files else ""
    heatmap_paths = {}
    for file, path in absolute_paths.items():
        name = short_name(path.name) + HEATMAP_ENDING
        heatmap_paths[file] = heatmaps / path.relative_to(common_folder).with_name(name)
    for heatmap_path in heatmap_paths.values():
        check_output("--heatmaps", heatmap_path, overwrite)
    return heatmap_paths


def _has_deep_images(files: Sequence[Path]) -> bool:
    """Whether an image has 16 bits."""
    for file in files:
        with contextlib.suppress(BadImage):  # reported when the file is scored
            if read_header(file).is_deep:
                return True
    return False


def _csv_writer(output: TextIO) -> WriteLine:
    writer = csv.DictWriter(output, COLUMNS, lineterminator="\n")
    writer.writeheader()

    def write_line(**values: Any) -> None:
        if "anomalous" in values:
            values["anomalous"] = "yes" if values["anomalous"] else "no"
        writer.writerow(values)
        output.flush()

    return write_line


def _json_writer(output: TextIO) -> WriteLine:
    is_utf8 = (output.encoding or "").lower().replace("-", "") == "utf8"

    def write_line(**values: Any) -> None:
        print(json.dumps(values, ensure_ascii=not is_utf8), file=output, flush=True)

    return write_line


def _save_heatmap(path: Path, heatmap: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(np.round(255 * heatmap).astype(np.uint8)).save(temporary, format="PNG")
