"""A finished run, ready to score new images: arrays or files, any number of them."""

import concurrent.futures
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from anomaly_toolbox import evaluation
from anomaly_toolbox.datasets.images import BadImage, Reading
from anomaly_toolbox.files import read_json
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.models.base import MAP, AnomalyDetector, fill_batches
from anomaly_toolbox.runs import FinishedRun, advice_on_damage


class Verdict(NamedTuple):
    """What a detector says of one image.

    Attributes:
        score: the score that decides, higher being more anomalous.
        calibrated: the same in [0, 1], 0 and 1 being the lowest and the highest of the validation images.
        is_anomalous: whether the score reaches the threshold that was chosen on the validation images.
        map: where it is anomalous, (size, size), >= 0.
    """

    score: float
    calibrated: float
    is_anomalous: bool
    map: np.ndarray


class Detector:
    """The detector of a finished run; made by `anomaly_toolbox.load`.

    Args:
        folder: of the run.

    Attributes:
        threshold: scores at or above it are called anomalous.
        reading: how images become what the networks take.
        heatmap_range: how strong anomaly maps have to be to show, see `pictures.heat`.

    Raises:
        InputError: there is no finished run.
        ToolboxError: the run is damaged.
    """

    def __init__(self, folder: Path):
        run = FinishedRun.open(folder)
        with advice_on_damage(run.folder):
            self._model = load_detector(run.folder)
            self.reading = Reading.of_run(run.hparams, run.image_size)
        self._score = run.results["score"]
        self._range, self.threshold, self.heatmap_range = run.score_range, run.threshold, run.heatmap_range

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """What every image becomes: (size, size, channels)."""
        return self._model.image_shape

    def score_images(self, images: np.ndarray | Sequence[np.ndarray | str | Path]) -> np.ndarray:
        """The score of each image, (n,), float32, higher being more anomalous.

        Args:
            images: arrays (height, width), (height, width, 1) or (height, width, 3) of any size, whole numbers of 8 or
                16 bits or floats in [0, 1]; or paths.

        Raises:
            ToolboxError: a file that cannot be used.
            ValueError: an array that is no image, or no list of images.
        """
        if isinstance(images, str | Path):
            raise ValueError(f"expected a list of images, received one path; give [{str(images)!r}]")
        if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[-1] in (1, 3):
            raise ValueError(f"an array of shape {images.shape} is one image or {len(images)}; give a list of images")
        batches = _batched(images, self._model.hyperparameters.batch_size)
        scores = [self._score_prepared([self._prepare(image) for image in batch])[0] for batch in batches]
        return np.concatenate([np.zeros(0, np.float32), *scores])

    def calibrate(self, scores: np.ndarray) -> np.ndarray:
        """Scores in [0, 1], by (13): 0 and 1 are the lowest and the highest of the validation images."""
        return evaluation.rescale(scores, *self._range)

    def judge_files(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Verdict | BadImage]]:
        """A verdict on each file, or what is wrong with it, in their order, with one batch in memory at a time."""

        def attempt(path: Path) -> np.ndarray | BadImage:
            try:
                return self._prepare(path)
            except BadImage as bad:
                return bad

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            for batch in _batched(paths, self._model.hyperparameters.batch_size):
                read = list(pool.map(attempt, batch))
                images = [image for image in read if not isinstance(image, BadImage)]
                verdicts = iter(self._judge(images) if images else [])
                yield from (
                    (path, image if isinstance(image, BadImage) else next(verdicts))
                    for path, image in zip(batch, read, strict=True)
                )

    def _prepare(self, image: np.ndarray | str | Path) -> np.ndarray:
        if isinstance(image, np.ndarray):
            return 2 * self.reading.of_array(image) - 1
        if isinstance(image, str | Path):
            return 2 * self.reading.of_file(Path(image)) - 1
        raise ValueError(f"expected images as paths or NumPy arrays, received {type(image).__name__}")

    def _judge(self, images: Sequence[np.ndarray]) -> list[Verdict]:
        scores, maps = self._score_prepared(images)
        return [
            Verdict(float(score), float(calibrated), bool(score >= self.threshold), map_)
            for score, calibrated, map_ in zip(scores, self.calibrate(scores), maps, strict=True)
        ]

    def _score_prepared(self, images: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Scores and maps of at most a batch, which is filled up: the compiled step takes one size only."""
        batch_size = self._model.hyperparameters.batch_size
        found = self._model.score_batch(fill_batches(np.stack(images), batch_size), with_maps=True)
        return found[self._score][: len(images)], found[MAP][: len(images)]


def load_detector(folder: Path) -> AnomalyDetector:
    """The trained model of a finished run, rebuilt from its validated `hparams.json` and its weights.

    Nothing in the folder is executed.
    """
    hparams = read_json(folder / "hparams.json")
    cls = detector_class(hparams["experiment"])
    model = cls(cls.Hyperparameters.model_validate(hparams["hyperparameters"]), hparams["channels"])
    model.compile()
    model.load_networks(folder / "model.weights.h5")
    return model


def _batched(items: Iterable, size: int) -> Iterator[list]:
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, size)):
        yield batch
