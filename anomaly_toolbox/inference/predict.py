"""`anomaly-box predict`: image files in, a line for each out, and pictures of where they are anomalous.

TensorFlow is imported only once it is clear that there is something to score.
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

from anomaly_toolbox import pictures
from anomaly_toolbox.datasets.images import DEEP_WHITE, read_header
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
from anomaly_toolbox.runs import FinishedRun

MOST_LOOKED_AT = 100  # files whose bits are compared with those of the run
COLUMNS = ("file", "score", "calibrated", "anomalous", "problem")


@dataclass(frozen=True)
class Request:
    """What is to be scored, and where pictures go; made by `prepare`.

    Attributes:
        run: the folder of a finished run.
        files: image files.
        bad: what looked like an image and cannot be one.
        unused: kinds of files that were passed over, with their numbers.
        pictured: where the picture of each file goes; empty if none are wanted.
    """

    run: Path
    files: Sequence[Path]
    bad: Sequence[BadImage]
    unused: Counter[str]
    pictured: dict[Path, Path]


def prepare(run: Path, paths: Sequence[Path], output: Path | None, heatmaps: Path | None, overwrite: bool) -> Request:
    """Finds the images, and whatever would go wrong.

    Args:
        run: the folder of a finished run.
        paths: image files, and folders of which every image is taken, however deep.
        output: the file for the lines, or None.
        heatmaps: a folder for a picture of each image, or None.
        overwrite: replace the file and pictures that are there.

    Raises:
        InputError: a path or the run is not there, there are no images, or something would be replaced.
        ToolboxError: the run is damaged.
    """
    _check_places(output, heatmaps, overwrite)
    FinishedRun.open(run)
    bad: list[BadImage] = []
    unused: Counter[str] = Counter()
    files = list(_files(paths, bad, unused))
    if not files and not bad:
        there = f"; there are {describe_unused(unused)}" if unused else ""
        raise InputError(f"{paths[0]}: there are no images in it; expected PNG, JPEG, BMP or TIFF files{there}")
    for file in files:
        if output is not None and output.exists() and file.exists() and file.samefile(output):
            raise InputError(f"--output {output}: is an image that is to be scored; choose another")
    return Request(run, files, bad, unused, _pictures_of(files, heatmaps, overwrite) if heatmaps else {})


def predict(request: Request, output: TextIO, as_json: bool, console: Console) -> tuple[int, int]:
    """Writes a line for each image file as soon as its batch is scored.

    Args:
        request: what to score.
        output: where the lines go.
        as_json: a JSON object a line, instead of CSV.
        console: where progress is shown.

    Returns:
        How many images were scored, and how many files could not be used; the lines of those say why.
    """
    from anomaly_toolbox.inference.detector import Detector

    if request.unused:
        console.print(f"not scored: {describe_unused(request.unused)}")
    detector = Detector(request.run)
    if detector.reading.levels != DEEP_WHITE and _has_deep_images(request.files[:MOST_LOOKED_AT]):
        console.print(
            f"note: some images have 16 bits, those that the run learnt from did not; {DEEP_WHITE:,} counts as white",
        )
    write = _json_lines(output) if as_json else _csv_lines(output)
    for problem in request.bad:
        write(file=str(problem.path), problem=problem.reason)
    judged = track(
        detector.judge_files(request.files),
        "scoring",
        len(request.files),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    n_scored, n_bad = 0, len(request.bad)
    for path, verdict in judged:
        if isinstance(verdict, BadImage):
            n_bad += 1
            write(file=str(path), problem=verdict.reason)
            continue
        n_scored += 1
        calibrated = round(verdict.calibrated, 6)
        score = float(f"{verdict.score:.9g}")
        write(file=str(path), score=score, calibrated=calibrated, anomalous=verdict.is_anomalous)
        if path in request.pictured:
            reading = detector.reading
            original, anomaly_map = pictures.on_original(path, verdict.map, reading.aspect, reading.white_level)
            _save_picture(
                request.pictured[path], pictures.overlay_heatmap(original, anomaly_map, detector.heatmap_range)
            )
    return n_scored, n_bad


def _has_deep_images(files: Sequence[Path]) -> bool:
    for file in files:
        with contextlib.suppress(BadImage):  # scoring it will tell
            if read_header(file).is_deep:
                return True
    return False


def _check_places(output: Path | None, heatmaps: Path | None, overwrite: bool) -> None:
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


def _files(paths: Sequence[Path], bad: list[BadImage], unused: Counter[str]) -> Iterator[Path]:
    for path in paths:
        if not os.path.lexists(path):
            raise InputError(f"{path}: there is no such file or folder")
        if path.is_dir():
            yield from image_files(path, bad, unused)
        elif path.name.lower().endswith(HEATMAP_ENDING):  # as `*.png` finds them where they lie beside the images
            unused[kind_of_file(path)] += 1
        else:
            yield path


def _pictures_of(files: Sequence[Path], heatmaps: Path, overwrite: bool) -> dict[Path, Path]:
    """Where the picture of each file goes: laid out as the files are, below the folder that all of them are in."""
    places = {file: Path(os.path.abspath(file)) for file in files}  # without `..`
    above = os.path.commonpath([place.parent for place in places.values()]) if files else ""
    pictured = {}
    for file, place in places.items():
        pictured[file] = heatmaps / place.relative_to(above).with_name(short_name(place.name) + HEATMAP_ENDING)
    for picture in pictured.values():
        check_output("--heatmaps", picture, overwrite)
    return pictured


def _csv_lines(output: TextIO) -> Callable[..., None]:
    writer = csv.DictWriter(output, COLUMNS, lineterminator="\n")
    writer.writeheader()

    def write(**values: Any) -> None:
        if "anomalous" in values:
            values["anomalous"] = "yes" if values["anomalous"] else "no"
        writer.writerow(values)
        output.flush()

    return write


def _json_lines(output: TextIO) -> Callable[..., None]:
    shows_all = (output.encoding or "").lower().replace("-", "") == "utf8"

    def write(**values: Any) -> None:
        print(json.dumps(values, ensure_ascii=not shows_all), file=output, flush=True)

    return write


def _save_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as temporary:
        Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(temporary, format="PNG")
