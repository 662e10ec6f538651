"""Predictions: what is said about each image file, and the formats and heatmaps that they are written as.

No TensorFlow here.
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from PIL import Image

from anomaly_toolbox import pictures
from anomaly_toolbox.datasets.decoding import ImageFile
from anomaly_toolbox.datasets.walk import HEATMAP_ENDING, BadImage
from anomaly_toolbox.files import short_name
from anomaly_toolbox.inference.folders import Folder
from anomaly_toolbox.objects import is_object_name

if TYPE_CHECKING:  # this module imports TensorFlow
    from anomaly_toolbox.inference.detector import Detector, ScoredImage

COLUMNS = ("file", "score", "calibrated", "anomalous", "problem", "p_value")  # new ones last: scripts count columns

Prediction = dict[str, Any]  # values of COLUMNS by name; a file that cannot be used has only `file` and `problem`


@dataclass(frozen=True)
class Heatmaps:
    """Where heatmaps are written.

    Attributes:
        folder: below it, heatmaps have the subfolders that their images have below `common_folder`.
        common_folder: the deepest folder that all images share, as `common_folder_of` gives it.
        only_anomalous: whether images that are not anomalous get no heatmap.
    """

    folder: Folder
    common_folder: Path
    only_anomalous: bool = False

    def name_of(self, file: str) -> str:
        """The name of the heatmap of an image file, relative to the folder."""
        path = Path(_absolute(file))
        return str(path.relative_to(self.common_folder).with_name(short_name(path.name) + HEATMAP_ENDING))

    def save(self, name: str, file: Path, scored: "ScoredImage", detector: "Detector") -> None:
        """Draws and writes the heatmap of an image.

        Args:
            name: of the image file.
            file: where it can be read.
            scored: its scores.
            detector: the detector that scored it.

        Raises:
            BadImage: the file cannot be read any more.
        """
        heatmap = heatmap_of(file, scored, detector)
        with self.folder.write(self.name_of(name)) as temporary:
            heatmap.save(temporary, format="PNG")


def heatmap_of(file: ImageFile, scored: "ScoredImage", detector: "Detector") -> Image.Image:
    """Draws the heatmap of an image over the image; raises BadImage if the file cannot be read any more."""
    reading = detector.reading
    original, anomaly_map = pictures.map_on_original(file, scored.anomaly_map, reading.aspect, reading.white_level)
    heatmap = pictures.overlay_heatmap(original, anomaly_map, detector.heatmap_range)
    return Image.fromarray(np.round(255 * heatmap).astype(np.uint8))


def common_folder_of(files: Iterable[str | bytes]) -> Path:
    """The deepest folder that all files share, as an absolute path; the file system's root for no files.

    The folder of s3://bucket/folder/1.png is /s3/bucket/folder.
    """
    common = None
    for file in files:
        folder = os.path.dirname(_absolute(os.fsdecode(file)))
        if folder != common:
            common = folder if common is None else os.path.commonpath([common, folder])
    return Path(common or os.path.abspath(os.sep))


def _absolute(name: str) -> str:
    """The absolute path of a file, without `..`."""
    return os.path.abspath(f"/{name.replace('://', '/', 1)}" if is_object_name(name) else name)


def of_unusable(name: str, reason: str) -> Prediction:
    """The prediction of a file that cannot be used."""
    return {"file": name, "problem": reason}


def of_scored(name: str, scored: "ScoredImage", is_anomalous: bool) -> Prediction:
    """The prediction of a scored image."""
    return {
        "file": name,
        "score": float(f"{scored.score:.9g}"),  # nine digits restore a float32 exactly
        "calibrated": round(scored.calibrated, 6),
        "anomalous": is_anomalous,
        "p_value": None if scored.p_value is None else float(f"{scored.p_value:.9g}"),
    }


def predictions(
    outcomes: Iterable[tuple[str, Path, "ScoredImage | BadImage"]],
    detector: "Detector",
    threshold: float | None = None,
    heatmaps: Heatmaps | None = None,
    on_unusable: Callable[[str, Path, BadImage], None] | None = None,
) -> Iterator[Prediction]:
    """Yields the prediction of each file and saves its heatmap.

    Args:
        outcomes: for each file its name, the path where it can be read, and what `Detector.score_files` yields.
        detector: the detector that scored the files.
        threshold: images with a score at or above it are anomalous; None: the threshold of the run decides.
        heatmaps: where they are written, or None for no heatmaps.
        on_unusable: called with the name, the path and the problem of a file before it is called unusable; it may raise
            an error instead.
    """
    for name, path, outcome in outcomes:
        try:
            if isinstance(outcome, BadImage):
                raise outcome
            is_anomalous = outcome.is_anomalous if threshold is None else outcome.score >= threshold
            if heatmaps is not None and (is_anomalous or not heatmaps.only_anomalous):
                heatmaps.save(name, path, outcome, detector)  # reads the file again
        except BadImage as problem:
            if on_unusable is not None:
                on_unusable(name, path, problem)
            yield of_unusable(name, problem.reason)
            continue
        yield of_scored(name, outcome, is_anomalous)


def csv_writer(output: TextIO) -> Callable[[Prediction], None]:
    """A function that writes a prediction as comma-separated values; the names of the columns are written at once."""
    writer = csv.DictWriter(output, COLUMNS, lineterminator="\n")
    quoting_writer = csv.DictWriter(output, COLUMNS, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()

    def write(prediction: Prediction) -> None:
        if "anomalous" in prediction:
            prediction = {**prediction, "anomalous": "yes" if prediction["anomalous"] else "no"}
        has_carriage_return = any("\r" in str(value) for value in prediction.values())  # Python leaves it bare
        (quoting_writer if has_carriage_return else writer).writerow(prediction)
        output.flush()

    return write


def json_writer(output: TextIO) -> Callable[[Prediction], None]:
    """A function that writes a prediction as a JSON object on a line."""
    is_utf8 = (output.encoding or "").lower().replace("-", "") == "utf8"

    def write(prediction: Prediction) -> None:
        print(json.dumps(prediction, ensure_ascii=not is_utf8), file=output, flush=True)

    return write
