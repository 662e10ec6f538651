"""The detector of a finished run, which scores any number of new images, from arrays or files."""

import concurrent.futures
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from anomaly_toolbox import evaluation, false_alarms
from anomaly_toolbox.datasets.decoding import ImageFile
from anomaly_toolbox.datasets.images import Reading
from anomaly_toolbox.datasets.walk import BadImage
from anomaly_toolbox.inference.members import load_members, mean_map
from anomaly_toolbox.processes import n_threads
from anomaly_toolbox.runs import FinishedRun, advice_on_damage

Item = TypeVar("Item")
File = TypeVar("File", bound=ImageFile)
Prepared = dict[Reading, np.ndarray]  # an image as (size, size, channels) in [-1, 1], for each way of reading it


class ScoredImage(NamedTuple):
    """The scores of one image.

    Attributes:
        score: the selected score; higher is more anomalous.
        calibrated: the calibrated score, in [0, 1].
        is_anomalous: whether the score is at or above the threshold.
        anomaly_map: (size, size), >= 0.
        p_value: how often a normal image has a score at least as high, see `Detector.p_values`; None if the run was
            made by an earlier version, which kept no validation scores.
    """

    score: float
    calibrated: float
    is_anomalous: bool
    anomaly_map: np.ndarray
    p_value: float | None = None


class Detector:
    """The detector of a finished run; made by `anomaly_toolbox.load`.

    Args:
        folder: the run folder.

    Attributes:
        threshold: images with a selected score at or above it are called anomalous; chosen on the validation images.
        score_range: the lowest and the highest selected score of the validation images; calibrated, they are 0 and 1.
        reading: how images are read and resized, a `Reading`.
        batch_size: the number of images that are scored together.
        normal_scores: the selected scores of the normal validation images, float32; None if the run was made by
            an earlier version, which kept none.
        heatmap_range: the values of anomaly maps at which a heatmap begins and at which it is yellow.

    Raises:
        InputError: the folder does not hold a finished run.
        ToolboxError: the run is damaged, or the GPU does not work.
    """

    def __init__(self, folder: Path):
        run = FinishedRun.open(folder)
        with advice_on_damage(run.folder):
            self._members = load_members(run)
            self.normal_scores = run.normal_scores()
        self.batch_size = min(member.model.hyperparameters.batch_size for member in self._members)
        self.reading = max((member.reading for member in self._members), key=lambda reading: reading.size)
        self._run = run
        self.score_range = run.score_range
        self.threshold = run.threshold
        self.heatmap_range = run.heatmap_range

    @property
    def heat_range(self) -> tuple[float, float]:
        """The name of `heatmap_range` in earlier versions."""
        return self.heatmap_range

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape that every image is resized to: (size, size, channels); for an ensemble, its largest."""
        return self.reading.size, self.reading.size, self.reading.channels

    def score_images(self, images: np.ndarray | Sequence[np.ndarray | str | ImageFile]) -> np.ndarray:
        """The selected score of each image; higher is more anomalous.

        Args:
            images: n paths or contents of PNG, JPEG, BMP or TIFF files; or n arrays of shape (height, width),
                (height, width, 1) or (height, width, 3) and of any size, with whole numbers of 8 or 16 bits or with
                floats in [0, 1].

        Returns:
            (n,), float32.

        Raises:
            BadImage: a file cannot be used.
            ValueError: an array is not an image, or `images` is a single image.
        """
        if isinstance(images, str | Path):
            raise ValueError(f"expected a list of images, received one path; give [{str(images)!r}]")
        if isinstance(images, bytes):
            raise ValueError("expected a list of images, received the content of one file; give a list of it")
        if isinstance(images, np.ndarray) and images.ndim == 3 and images.shape[-1] in (1, 3):
            raise ValueError(f"an array of shape {images.shape} is one image or {len(images)}; give a list of images")
        scores = [np.zeros(0, np.float32)]
        for batch in _in_batches(images, self.batch_size):
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
        return evaluation.rescale(scores, *self.score_range)

    def p_values(self, scores: np.ndarray) -> np.ndarray:
        """How often a normal image has a score at least as high, estimated from the normal validation images.

        Of new normal images that are like the normal validation images, at most 1% have a p-value of at most 0.01, and
        so on for every rate; `false_alarms` says on average over what.

        Args:
            scores: selected scores, of any shape.

        Returns:
            An array of the same shape, float64, from 1 / (n + 1) to 1 for n normal validation images.

        Raises:
            InputError: the run was made by an earlier version, which kept no validation scores.
        """
        return false_alarms.p_values(self._known_normal_scores(), scores)

    def threshold_for(self, rate: float) -> float:
        """The threshold at which at most a share of `rate` of new normal images is called anomalous.

        `scores >= threshold_for(rate)` is the same as `p_values(scores) <= rate`.

        Args:
            rate: the false-alarm rate, between 0 and 1.

        Raises:
            InputError: the rate is not between 0 and 1, or takes more normal validation images than there are; or the
                run was made by an earlier version, which kept no validation scores.
        """
        return false_alarms.threshold_for(self._known_normal_scores(), rate)

    def score_files(self, image_files: Iterable[File]) -> Iterator[tuple[File, ScoredImage | BadImage]]:
        """Yields each file with its scores or with the reason why it cannot be used, in their order.

        One batch at a time is in memory.

        Args:
            image_files: their paths, or their contents.
        """
        with concurrent.futures.ThreadPoolExecutor(n_threads()) as pool:
            for batch in _in_batches(image_files, self.batch_size):
                prepared = list(pool.map(self._prepare_or_explain, batch))
                images = [image for image in prepared if not isinstance(image, BadImage)]
                scored_images = iter(self._score_with_maps(images) if images else [])
                for file, image in zip(batch, prepared, strict=True):
                    yield file, image if isinstance(image, BadImage) else next(scored_images)

    def _prepare(self, image: np.ndarray | str | ImageFile) -> Prepared:
        """An image as the networks of each member take it."""
        if isinstance(image, np.ndarray):
            return {reading: 2 * reading.of_array(image) - 1 for reading in self._readings}
        if isinstance(image, str | ImageFile):
            decoded = self.reading.decode(Path(image) if isinstance(image, str) else image)
            return {reading: 2 * reading.of_decoded(decoded) - 1 for reading in self._readings}
        raise ValueError(f"expected paths, contents of files or NumPy arrays, received {type(image).__name__}")

    @property
    def _readings(self) -> set[Reading]:
        return {member.reading for member in self._members}

    def _prepare_or_explain(self, file: ImageFile) -> Prepared | BadImage:
        try:
            return self._prepare(file)
        except BadImage as problem:
            return problem

    def _score_with_maps(self, images: Sequence[Prepared]) -> list[ScoredImage]:
        scores, maps = self._score_prepared(images)
        p_values = [None] * len(scores) if self.normal_scores is None else self.p_values(scores).tolist()
        scored_images = []
        for score, calibrated, anomaly_map, p_value in zip(scores, self.calibrate(scores), maps, p_values, strict=True):
            is_anomalous = bool(score >= self.threshold)
            scored_images.append(ScoredImage(float(score), float(calibrated), is_anomalous, anomaly_map, p_value))
        return scored_images

    def _known_normal_scores(self) -> np.ndarray:
        if self.normal_scores is None:
            raise self._run.lacks_validation_scores()
        return self.normal_scores

    def _score_prepared(self, images: Sequence[Prepared]) -> tuple[np.ndarray, np.ndarray]:
        """The selected scores and the anomaly maps of prepared images, at most one batch."""
        scores, maps = [], []
        for member in self._members:
            batch = np.stack([image[member.reading] for image in images])
            member_scores, member_maps = member.score(batch)
            scores.append(member_scores)
            maps.append(member_maps)
        if len(self._members) == 1:
            return scores[0], maps[0]
        return np.mean(scores, axis=0).astype(np.float32), mean_map(maps, self.reading.size).numpy()


def _in_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch
