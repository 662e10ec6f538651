"""The detector of a finished run, which scores any number of new images, from arrays or files."""

import concurrent.futures
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from anomaly_toolbox import evaluation
from anomaly_toolbox.datasets.images import Reading
from anomaly_toolbox.datasets.walk import BadImage
from anomaly_toolbox.files import read_json
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.models.base import MAP, AnomalyDetector, fill_batches
from anomaly_toolbox.runs import FinishedRun, advice_on_damage

Item = TypeVar("Item")


class ScoredImage(NamedTuple):
    """The scores of one image.

    Attributes:
        score: the selected score; higher is more anomalous.
        calibrated: the calibrated score, in [0, 1].
        is_anomalous: whether the score is at or above the threshold.
        anomaly_map: (size, size), >= 0.
    """

    score: float
    calibrated: float
    is_anomalous: bool
    anomaly_map: np.ndarray


class Detector:
    """The detector of a finished run; made by `anomaly_toolbox.load`.

    Args:
        folder: the run folder.

    Attributes:
        threshold: images with a selected score at or above it are called anomalous; chosen on the validation images.
        reading: how images are read and resized, a `Reading`.
        heatmap_range: the values of anomaly maps at which a heatmap begins and at which it is yellow.

    Raises:
        InputError: the folder does not hold a finished run.
        ToolboxError: the run is damaged.
    """

    def __init__(self, folder: Path):
        run = FinishedRun.open(folder)
        with advice_on_damage(run.folder):
            self._model = load_detector(run.folder)
            self.reading = Reading.of_run(run.hparams, run.image_size)
        self._selected_score: str = run.results["score"]
        self._score_range = run.score_range
        self.threshold = run.threshold
        self.heatmap_range = run.heatmap_range

    @property
    def heat_range(self) -> tuple[float, float]:
        """The name of `heatmap_range` in earlier versions."""
        return self.heatmap_range

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape that every image is resized to: (size, size, channels)."""
        return self._model.image_shape

    def score_images(self, images: np.ndarray | Sequence[np.ndarray | str | Path]) -> np.ndarray:
        """The selected score of each image; higher is more anomalous.

        Args:
            images: n paths; or n arrays of shape (height, width), (height, width, 1) or (height, width, 3) and of any
                size, with whole numbers of 8 or 16 bits or with floats in [0, 1].

        Returns:
            (n,), float32.

        Raises:
            BadImage: a file cannot be used.
            ValueError: an array is not an image, or `images` is a single image.
        """
        if isinstance(images, str | Path):
            raise ValueError(f"expected a list of images, received one path; give [{str(images)!r}]")
        if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[-1] in (1, 3):
            raise ValueError(f"an array of shape {images.shape} is one image or {len(images)}; give a list of images")
        scores = [np.zeros(0, np.float32)]
        for batch in _in_batches(images, self._model.hyperparameters.batch_size):
            batch_scores, _ = self._score_prepared([self._prepare(image) for image in batch])
            scores.append(batch_scores)
        return np.concatenate(scores)

    def calibrate(self, scores: np.ndarray) -> np.ndarray:
        """Rescales scores by (13): 0 and 1 are the lowest and the highest score of the validation images.

        Args:
            scores: selected scores, of any shape.

        Returns:
            An array of the same shape, in [0, 1].
        """
        return evaluation.rescale(scores, *self._score_range)

    def score_files(self, paths: Iterable[Path]) -> Iterator[tuple[Path, ScoredImage | BadImage]]:
        """Yields each path with its scores or with the reason why it cannot be used, in the order of the paths.

        One batch at a time is in memory.
        """
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for batch in _in_batches(paths, self._model.hyperparameters.batch_size):
                prepared = list(pool.map(self._prepare_or_explain, batch))
                images = [image for image in prepared if not isinstance(image, BadImage)]
                scored_images = iter(self._score_with_maps(images) if images else [])
                for path, image in zip(batch, prepared, strict=True):
                    yield path, image if isinstance(image, BadImage) else next(scored_images)

    def _prepare(self, image: np.ndarray | str | Path) -> np.ndarray:
        """An image as the networks take it: (size, size, channels) in [-1, 1]."""
        if isinstance(image, np.ndarray):
            return 2 * self.reading.of_array(image) - 1
        if isinstance(image, str | Path):
            return 2 * self.reading.of_file(Path(image)) - 1
        raise ValueError(f"expected images as paths or NumPy arrays, received {type(image).__name__}")

    def _prepare_or_explain(self, path: Path) -> np.ndarray | BadImage:
        try:
            return self._prepare(path)
        except BadImage as problem:
            return problem

    def _score_with_maps(self, images: Sequence[np.ndarray]) -> list[ScoredImage]:
        scores, maps = self._score_prepared(images)
        scored_images = []
        for score, calibrated, anomaly_map in zip(scores, self.calibrate(scores), maps, strict=True):
            is_anomalous = bool(score >= self.threshold)
            scored_images.append(ScoredImage(float(score), float(calibrated), is_anomalous, anomaly_map))
        return scored_images

    def _score_prepared(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """The selected scores and the anomaly maps of prepared images, at most one batch."""
        batch = fill_batches(np.stack(images), self._model.hyperparameters.batch_size)
        outputs = self._model.score_batch(batch, with_maps=True)
        return outputs[self._selected_score][: len(images)], outputs[MAP][: len(images)]


def load_detector(folder: Path) -> AnomalyDetector:
    """The trained model of a finished run, from its `hparams.json` and its weights; no code in the folder is executed.

    Args:
        folder: the run folder. `FinishedRun.open` checks its files; this function does not.
    """
    hparams = read_json(folder / "hparams.json")
    cls = detector_class(hparams["experiment"])
    model = cls(cls.Hyperparameters.model_validate(hparams["hyperparameters"]), hparams["channels"])
    model.compile()
    model.load_networks(folder / "model.weights.h5")
    return model


def _in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
