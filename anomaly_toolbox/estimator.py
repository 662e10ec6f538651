"""Every method as a scikit-learn outlier detector: normal images score high, `predict` gives 1 for them, else -1.

from anomaly_toolbox.estimator import ImageOutlierDetector

detector = ImageOutlierDetector("PCA").fit(normal_images)
detector.predict(new_images)
"""

import contextlib
import random
import tempfile
from collections.abc import Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from anomaly_toolbox.datasets.images import DEEP_WHITE, WHITE, Reading
from anomaly_toolbox.errors import DIVERGED, REMEDY, ToolboxError
from anomaly_toolbox.models import detector_class, method_name
from anomaly_toolbox.models.adversarial import Divergence
from anomaly_toolbox.models.base import AnomalyDetector, Hyperparameters, fill_batches
from anomaly_toolbox.models.hyperparameters import validate

OVERSHOOT = 0.25  # of the range from black to white, which later images may leave a little
DARKEST = 1 / 128  # share of the brightest training value; images of another type that stay below have another white


def _black_and_white(X: np.ndarray) -> tuple[float, float]:
    """The numbers that are black and white in training images."""
    if X.dtype == np.uint8:
        return 0.0, float(WHITE)
    if X.dtype == np.uint16:
        return 0.0, float(DEEP_WHITE)
    if X.dtype.kind == "f" and X.min() >= 0 and X.max() <= 1:
        return 0.0, 1.0
    return float(X.min()), float(X.max())


@contextlib.contextmanager
def _own_random_numbers(seed: int) -> Iterator[None]:
    """Random numbers that follow from `seed` while it is entered; afterwards the caller's go on where they were.

    Keras draws the seeds of weights and dropout from `random`; NumPy's global state is kept for whoever uses it.
    Nothing of a method draws from TensorFlow's global generator.
    """
    before, before_in_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_in_numpy)


class ImageOutlierDetector(OutlierMixin, BaseEstimator):
    """A method of the toolbox with scikit-learn's interface and signs. Nothing is validated or written to disk.

    Images, X, are (n, height, width), (n, height, width, 1) or (n, height, width, 3), of one size; rows (n, pixels) are
    taken as images one pixel high. `fit` decides which values are black and white: 0 and the highest value of the type
    for uint8 and uint16, 0 and 1 for floats in [0, 1], else the lowest and the highest training value.
    Later images may have another type but must use the same range. Images are resized to the method's `image_size`.

    Args:
        method: registered name, such as GANomaly.
        hyperparameters: those of the method that differ from its defaults, by name; None: none.
        contamination: share of the training images that `predict` calls outliers, in [0, 0.5]. Of new normal images it
            may be more, above all with KNN and PCA, which know the training images best: `score_samples` of normal
            images that were not trained on give a better threshold.
        random_state: seed of weights and order, or a `RandomState`, or None: another one each time.

    Attributes:
        detector_: the trained `AnomalyDetector`.
        black_white_: the numbers that are black and white.
        offset_: what `score_samples` has to reach for an inlier.
        n_features_in_: the second size of X.
    """

    def __init__(
        self,
        method: str = "GANomaly",
        *,
        hyperparameters: dict[str, Any] | None = None,
        contamination: float = 0.1,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.method = method
        self.hyperparameters = hyperparameters
        self.contamination = contamination
        self.random_state = random_state

    def fit(self, X, y=None):
        """Trains on images that should be normal, for the method's `epochs`; y is ignored.

        The random numbers of the caller's NumPy, `random` and TensorFlow go on as if it had not been called, unless
        `random_state` is None or the caller's own.

        Raises:
            ValueError, InputError: a parameter or X is not what it should be.
            ToolboxError: training diverged.
        """
        if not (isinstance(self.contamination, Real) and 0 <= self.contamination <= 0.5):
            raise ValueError(f"contamination: expected a share in [0, 0.5], received {self.contamination!r}")
        X = self._validated(X, reset=True)
        self.black_white_ = black, white = _black_and_white(X)
        self._fitted_dtype, self._fitted_high = X.dtype, (X.max() - black) / max(white - black, 1e-300)
        cls = detector_class(method_name(self.method))
        hp = validate(cls.Hyperparameters, self.hyperparameters or {})
        hp = hp.model_copy(update={"batch_size": min(hp.batch_size, len(X))})
        channels = X.shape[-1] if X.ndim == 4 else 1
        images = self._prepared(X, hp.image_size, channels)
        random_state = check_random_state(self.random_state)
        with _own_random_numbers(random_state.randint(2**31 - 1)):
            self.detector_ = cls(hp, channels)
            self.detector_.compile()
            if isinstance(hp, Hyperparameters):
                self._train(images, np.random.default_rng(random_state.randint(2**31 - 1)))
            memory_images = images[random_state.permutation(len(images))[: hp.memory_size]]
            self.detector_.after_fit(memory_images)
            self.detector_.fit_memory_banks(memory_images)
        self.offset_ = float(np.quantile(self._scores(X), self.contamination))
        if not np.isfinite(self.offset_):
            raise ToolboxError(f"{DIVERGED}: the detector gave scores that are not finite; {REMEDY}")
        return self

    def score_samples(self, X):
        """(n,), the lower the more anomalous: minus the score that decides."""
        check_is_fitted(self)
        return self._scores(self._validated(X, reset=False))

    def _scores(self, X: np.ndarray) -> np.ndarray:
        size, _, channels = self.detector_.image_shape
        images = self._prepared(X, size, channels)
        n_batch = self.detector_.hyperparameters.batch_size
        batches = tf.data.Dataset.from_tensor_slices(fill_batches(images, n_batch)).batch(n_batch)
        scores = self.detector_.score_batches(batches, len(images))
        return -scores[self.detector_.hyperparameters.score].astype(np.float64)

    def decision_function(self, X):
        """(n,), negative for outliers: `score_samples` minus `offset_`."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """(n,), 1 for inliers and -1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _train(self, images: np.ndarray, order: np.random.Generator) -> None:
        hp = self.detector_.hyperparameters
        steps = len(images) // hp.batch_size

        def shuffled():
            while True:
                indices = order.permutation(len(images))
                for first in range(0, steps * hp.batch_size, hp.batch_size):
                    yield images[indices[first : first + hp.batch_size]]

        spec = tf.TensorSpec((hp.batch_size, *images.shape[1:]), tf.float32)
        self.detector_.fit(
            tf.data.Dataset.from_generator(shuffled, output_signature=spec),
            steps_per_epoch=steps,
            epochs=hp.epochs,
            verbose=0,
            shuffle=False,
            callbacks=[
                keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: self.detector_.begin_epoch(epoch)),
                Divergence(hp.step_log_frequency),
            ],
        )

    def _validated(self, X, reset: bool) -> np.ndarray:
        X = validate_data(self, X, reset=reset, allow_nd=True, dtype="numeric", ensure_min_samples=2 if reset else 1)
        X = X[:, np.newaxis] if X.ndim == 2 else X
        if reset:
            self._image_shape = X.shape[1:]
        elif X.shape[1:] != self._image_shape:
            raise ValueError(f"expected images of shape {self._image_shape} as in fit, received {X.shape[1:]}")
        return X

    def _prepared(self, X: np.ndarray, size: int, channels: int) -> np.ndarray:
        """(n, size, size, channels) in [-1, 1], float32."""
        black, white = self.black_white_
        span = max(white - black, np.finfo(np.float64).tiny)
        shares = (X.astype(np.float64) - black) / span
        cut = np.clip(shares, 0, 1)
        if self._has_another_range(X, shares):
            raise ValueError(
                f"X: received {X.dtype} from {X.min():g} to {X.max():g}; in fit {black:g} was black and {white:g} "
                "white: scale the numbers to that range"
            )
        reading = Reading(size, channels, levels=None)
        return np.stack([2 * reading.of_array(image.astype(np.float32)) - 1 for image in cut])

    def _has_another_range(self, X: np.ndarray, shares: np.ndarray) -> bool:
        """Whether numbers can hardly be of the range that `fit` has seen; `shares` are 0 for black and 1 for white."""
        black, white = self.black_white_
        is_known = black == 0 and white in (1, WHITE, DEEP_WHITE)  # others were measured, and anomalies may be brighter
        beyond = np.abs(shares - np.clip(shares, 0, 1))
        is_image = X.shape[1] > 1  # rows of numbers may be anything
        is_larger = beyond.mean() > 1 or (is_image and beyond.max() > (OVERSHOOT if is_known else 1))
        is_dark = white >= WHITE and 0 < shares.max() <= DARKEST * self._fitted_high
        has_fractions = is_image and X.dtype.kind == "f" and 0 < X.max() <= 1 < white and bool((X % 1).any())
        return is_larger or (X.dtype != self._fitted_dtype and is_dark) or has_fractions

    def __getstate__(self):
        state = super().__getstate__()
        if "detector_" in state:
            detector: AnomalyDetector = state["detector_"]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "networks.weights.h5"
                detector.save_networks(path)
                state = state | {
                    "detector_": (type(detector), detector.hyperparameters, detector.image_shape, path.read_bytes())
                }
        return state

    def __setstate__(self, state):
        super().__setstate__(state)
        if isinstance(self.__dict__.get("detector_"), tuple):
            cls, hp, image_shape, networks = self.detector_
            self.detector_ = cls(hp, image_shape[-1])
            self.detector_.compile()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "networks.weights.h5"
                path.write_bytes(networks)
                self.detector_.load_networks(path)
