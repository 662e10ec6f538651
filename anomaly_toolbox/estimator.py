"""Every method as a scikit-learn outlier detector: normal images score high, `predict` gives 1 for them, else -1.

from anomaly_toolbox.estimator import ImageOutlierDetector

detector = ImageOutlierDetector("PCA").fit(normal_images)
detector.predict(new_images)
"""

import tempfile
from numbers import Real
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from anomaly_toolbox import hps
from anomaly_toolbox.datasets.images import image_of_array
from anomaly_toolbox.models import detector_class, method_name
from anomaly_toolbox.models.base import AnomalyDetector, Hyperparameters

WHITE = {"uint8": 255, "uint16": 65535}


class ImageOutlierDetector(OutlierMixin, BaseEstimator):
    """A method of the toolbox with scikit-learn's interface and signs. Nothing is validated or written to disk.

    Images, X, are (n, height, width), (n, height, width, 1) or (n, height, width, 3), of one size; rows (n, pixels) are
    taken as images one pixel high. Whole numbers of 8 or 16 bits count from black to white; of other numbers the lowest
    and the highest training values are black and white. They are resized to the method's `image_size`.

    Args:
        method: registered name, such as GANomaly.
        hyperparameters: those of the method that differ from its defaults, by name; None: none.
        contamination: share of the training images that `predict` calls outliers, in [0, 0.5]. Of new normal images it
            may be more, above all with KNN and PCA, which know the training images best: `score_samples` of normal
            images that were not trained on give a better threshold.
        random_state: seed of weights and order, or a `RandomState`, or None: another one each time.

    Attributes:
        detector_: the trained `AnomalyDetector`.
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

        Raises:
            ValueError, InputError: a parameter or X is not what it should be.
        """
        if not (isinstance(self.contamination, Real) and 0 <= self.contamination <= 0.5):
            raise ValueError(f"contamination: expected a share in [0, 0.5], received {self.contamination!r}")
        X = self._validated(X, reset=True)
        self.black_white_ = (0, WHITE[X.dtype.name]) if X.dtype.name in WHITE else (float(X.min()), float(X.max()))
        cls = detector_class(method_name(self.method))
        hp = hps.whole_trial(cls.Hyperparameters, self.hyperparameters or {})
        hp = hp.model_copy(update={"batch_size": min(hp.batch_size, len(X))})
        channels = X.shape[-1] if X.ndim == 4 else 1
        images = self._prepared(X, hp.image_size, channels)
        random = check_random_state(self.random_state)
        keras.utils.set_random_seed(random.randint(2**31 - 1))
        self.detector_ = cls(hp, channels)
        self.detector_.compile()
        if isinstance(hp, Hyperparameters):
            self._train(images)
        remembered = images[random.permutation(len(images))[: hp.memory_size]]
        self.detector_.conclude(remembered)
        self.detector_.remember(remembered)
        self.offset_ = float(np.quantile(self._scores(X), self.contamination))
        return self

    def score_samples(self, X):
        """(n,), the lower the more anomalous: minus the score that decides."""
        check_is_fitted(self)
        return self._scores(self._validated(X, reset=False))

    def _scores(self, X: np.ndarray) -> np.ndarray:
        size, _, channels = self.detector_.image_shape
        images = self._prepared(X, size, channels)
        n_batch = self.detector_.hyperparameters.batch_size
        filled = np.concatenate([images, np.zeros((-len(images) % n_batch, *images.shape[1:]), np.float32)])
        scores = self.detector_.score_batches(tf.data.Dataset.from_tensor_slices(filled).batch(n_batch), len(images))
        return -scores[self.detector_.hyperparameters.score].astype(np.float64)

    def decision_function(self, X):
        """(n,), negative for outliers: `score_samples` minus `offset_`."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """(n,), 1 for inliers and -1 for outliers."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    def _train(self, images: np.ndarray) -> None:
        hp = self.detector_.hyperparameters
        shuffled = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images))
        begin = keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: self.detector_.begin_epoch(epoch))
        batches = shuffled.batch(hp.batch_size, drop_remainder=True)
        self.detector_.fit(batches, epochs=hp.epochs, verbose=0, shuffle=False, callbacks=[begin])

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
        if X.dtype.name not in WHITE:
            black, white = self.black_white_
            X = np.clip((X.astype(np.float64) - black) / max(white - black, np.finfo(np.float64).tiny), 0, 1)
        return np.stack([2 * image_of_array(image, size, channels) - 1 for image in X])

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
