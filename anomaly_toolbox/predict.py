"""`anomaly-box predict`: image files in, a line for each out, and pictures of where they are anomalous."""

import csv
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from anomaly_toolbox import pictures
from anomaly_toolbox.datasets.images import BadImage, image_files
from anomaly_toolbox.detector import Detector
from anomaly_toolbox.errors import InputError
from anomaly_toolbox.gallery import on_original

COLUMNS = ("file", "score", "calibrated", "anomalous", "problem")


def predict(
    run: Path,
    paths: Sequence[Path],
    output: TextIO,
    as_json: bool,
    heatmaps: Path | None,
    overwrite: bool,
    console: Console,
) -> tuple[int, int]:
    """Writes a line for each image file as soon as its batch is scored.

    Args:
        run: the folder of a finished run.
        paths: image files, and folders of which every image is taken, however deep.
        output: where the lines go.
        as_json: a JSON object a line, instead of CSV.
        heatmaps: a folder for a picture of each image, or None.
        overwrite: replace pictures that are there.
        console: where progress is shown.

    Returns:
        How many images were scored, and how many files could not be used; the lines of those say why.

    Raises:
        InputError: a path or the run is not there, there are no images, or pictures would be replaced.
    """
    bad: list[BadImage] = []
    files = list(_files(paths, bad))
    if not files and not bad:
        raise InputError(f"{paths[0]}: there are no images in it; expected PNG, JPEG, BMP or TIFF files")
    pictured = _pictures_of(files, heatmaps, overwrite) if heatmaps else {}
    detector = Detector(run)
    tell = _json_lines(output) if as_json else _csv_lines(output)
    for problem in bad:
        tell(file=str(problem.path), problem=problem.reason)
    judged = track(
        detector.judge_files(files),
        "scoring",
        len(files),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    n_scored = 0
    for path, verdict in judged:
        if isinstance(verdict, BadImage):
            bad.append(verdict)
            tell(file=str(path), problem=verdict.reason)
            continue
        n_scored += 1
        calibrated = round(verdict.calibrated, 6)
        tell(file=str(path), score=float(f"{verdict.score:.9g}"), calibrated=calibrated, anomalous=verdict.is_anomalous)
        if heatmaps is not None:
            original, map_of_original = on_original(path, verdict.map, detector.aspect)
            _save_picture(pictured[path], pictures.heat(original, map_of_original, detector.heat_range))
    return n_scored, len(bad)


def _files(paths: Sequence[Path], bad: list[BadImage]) -> Iterator[Path]:
    for path in paths:
        if not os.path.lexists(path):
            raise InputError(f"{path}: there is no such file or folder")
        if path.is_dir():
            yield from image_files(path, bad)
        else:
            yield path


def _pictures_of(files: Sequence[Path], heatmaps: Path, overwrite: bool) -> dict[Path, Path]:
    """Where the picture of each file goes: laid out as the files are, below the folder that all of them are in."""
    places = {file: Path(os.path.abspath(file)) for file in files}  # without `..`
    above = os.path.commonpath([place.parent for place in places.values()]) if files else ""
    pictured = {
        file: heatmaps / place.relative_to(above).with_name(f"{place.name}.heat.png") for file, place in places.items()
    }
    there = [picture for picture in pictured.values() if picture.exists()]
    if there and not overwrite:
        raise InputError(f"--heatmaps {heatmaps}: {there[0]} is there already; --overwrite replaces it")
    return pictured


def _csv_lines(output: TextIO) -> Callable[..., None]:
    writer = csv.DictWriter(output, COLUMNS, lineterminator="\n")
    writer.writeheader()

    def tell(**values: Any) -> None:
        if "anomalous" in values:
            values["anomalous"] = "yes" if values["anomalous"] else "no"
        writer.writerow(values)
        output.flush()

    return tell


def _json_lines(output: TextIO) -> Callable[..., None]:
    def tell(**values: Any) -> None:
        print(json.dumps(values, ensure_ascii=False), file=output, flush=True)

    return tell


def _save_picture(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.round(255 * picture).astype(np.uint8)).save(path)
