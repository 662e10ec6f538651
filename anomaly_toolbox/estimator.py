"""All methods as scikit-learn outlier detectors: `predict` returns 1 for normal images and -1 for outliers.

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
from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from anomaly_toolbox.datasets.decoding import DEEP_WHITE, WHITE
from anomaly_toolbox.datasets.images import Reading
from anomaly_toolbox.device import prepare_gpus
from anomaly_toolbox.errors import DIVERGED, REMEDY, ToolboxError
from anomaly_toolbox.models import build_detector, detector_class, method_name
from anomaly_toolbox.models.adversarial import Divergence
from anomaly_toolbox.models.base import AnomalyDetector, Hyperparameters, fill_batches
from anomaly_toolbox.models.derived_scores import FEWEST_IMAGES, is_derived, n_held_out
from anomaly_toolbox.models.hyperparameters import validate
from anomaly_toolbox.tf_data import without_autotuning

OVERSHOOT = 0.25  # the share of the range from black to white by which later values may exceed it
DARKEST = 1 / 128  # images of another type that are darker than this share of the training images are refused


def _black_and_white(X: np.ndarray) -> tuple[float, float]:
    """The values that are black and white in training images."""
    if X.dtype == np.uint8:
        return 0.0, float(WHITE)
    if X.dtype == np.uint16:
        return 0.0, float(DEEP_WHITE)
    if X.dtype.kind == "f" and X.min() >= 0 and X.max() <= 1:
        return 0.0, 1.0
    return float(X.min()), float(X.max())


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seeds `random` and NumPy, and restores the caller's states at the end.

    Keras draws the seeds of initial weights and of dropout from `random`. Methods that are not built in may draw from
    NumPy. No method draws from TensorFlow's global generator.
    """
    python_state = random.getstate()
    numpy_state = np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)


def _numbered_classes(cls: type[AnomalyDetector], X: np.ndarray, y: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """The number of the class of each image, (n,), int32, and the classes; None twice if the method uses none."""
    if not cls.uses_classes:
        return None, None
    if y is None:
        raise ValueError(f"y: {cls.__name__} needs the class of each image; expected fit(X, y), received y=None")
    y = column_or_1d(y)
    check_consistent_length(X, y)
    check_classification_targets(y)
    names, numbers = np.unique(y, return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"y: {cls.__name__} needs at least two classes, received only {names[0]}")
    return numbers.astype(np.int32), names


class ImageOutlierDetector(OutlierMixin, BaseEstimator):
    """A method of the toolbox with scikit-learn's interface and signs, without validation images and run folder.

    Images, X, have the shape (n, height, width), (n, height, width, 1) or (n, height, width, 3). X can also be a table,
    (n, pixels), whose rows become images one pixel high. Images are resized to the method's `image_size`.

    `fit` chooses the values that are black and white: 0 and the highest value of the type for uint8 and uint16, 0 and 1
    for floats in [0, 1], otherwise the lowest and the highest training value. Later images may have another type, but
    their values must be in the same range.

    Args:
        method: the name of a registered method, such as GANomaly.
        hyperparameters: values by name that replace the method's defaults.
        contamination: the share of the training images that `predict` calls outliers, in [0, 0.5]. The share of new
            normal images may be larger, above all with KNN and PCA, which fit the training images best. For a better
            threshold, use `score_samples` of normal images that are not in the training set.
        random_state: the seed of the initial weights and of the order of images, or a `RandomState`; None takes a new
            seed each time.

    Attributes:
        detector_: the trained `AnomalyDetector`.
        normal_classes_: the distinct values of y, sorted, if the method uses the classes of normal images; else None.
        black_white_: the values that are black and white.
        offset_: the lowest value of `score_samples` for inliers.
        n_features_in_: the second dimension of X.
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
        """Trains on images that should be normal, for the method's `epochs`.

        It does not change the global random states of `random`, NumPy and TensorFlow, unless `random_state` is None or
        NumPy's global one.

        Args:
            X: at least two images, in one of the shapes that the class describes.
            y: the class of each image, (n,), as numbers or text, for a method that uses the classes of normal images;
                all other methods ignore it.

        Raises:
            ValueError: `contamination` is out of range, X has an unsuitable shape, type or value, or the method uses
                classes and y does not give each image one of at least two classes.
            InputError: there is no such method, or a hyperparameter is wrong.
            ToolboxError: the training diverged, or the GPU does not work.
        """
        if not (isinstance(self.contamination, Real) and 0 <= self.contamination <= 0.5):
            raise ValueError(f"contamination: expected a share in [0, 0.5], received {self.contamination!r}")
        prepare_gpus()
        X = self._validated(X, reset=True)
        black, white = _black_and_white(X)
        self.black_white_ = black, white
        self._fitted_dtype = X.dtype
        self._fitted_high = (X.max() - black) / max(white - black, 1e-300)  # 1 if the brightest pixel is white
        cls = detector_class(method_name(self.method))
        hp = validate(cls.Hyperparameters, self.hyperparameters or {})
        if is_derived(hp.score) and not n_held_out(min(len(X), hp.memory_size)):
            limit = f" and memory_size {hp.memory_size}" if hp.memory_size < len(X) else ""
            raise ValueError(f"score {hp.score} takes {FEWEST_IMAGES} training images, received {len(X)}{limit}")
        classes, self.normal_classes_ = _numbered_classes(cls, X, y)
        hp = hp.model_copy(update={"batch_size": min(hp.batch_size, len(X))})
        channels = X.shape[-1] if X.ndim == 4 else 1
        images = self._prepared(X, hp.image_size, channels)
        random_state = check_random_state(self.random_state)
        with _seeded(random_state.randint(2**31 - 1)):
            self.detector_ = build_detector(cls, hp, channels, self._n_classes)
            self.detector_.compile()
            if isinstance(hp, Hyperparameters):
                self._train(images, classes, np.random.default_rng(random_state.randint(2**31 - 1)))
            memory_images = images[random_state.permutation(len(images))[: hp.memory_size]]
            self.detector_.after_fit(memory_images)
            self.detector_.fit_scores(memory_images)
        self.offset_ = float(np.quantile(self._scores(X), self.contamination))
        if not np.isfinite(self.offset_):
            raise ToolboxError(f"{DIVERGED}: the detector gave scores that are not finite; {REMEDY}")
        return self

    def fit_predict(self, X, y=None):
        """`fit(X, y)`, then `predict(X)`; scikit-learn's own version does not pass y on."""
        return self.fit(X, y).predict(X)

    def score_samples(self, X):
        """The negative selected score of each image, (n,); lower values are more anomalous."""
        check_is_fitted(self)
        return self._scores(self._validated(X, reset=False))

    def _scores(self, X: np.ndarray) -> np.ndarray:
        size, _, channels = self.detector_.image_shape
        images = self._prepared(X, size, channels)
        batch_size = self.detector_.hyperparameters.batch_size
        batches = tf.data.Dataset.from_tensor_slices(fill_batches(images, batch_size)).batch(batch_size)
        return -self.detector_.selected_scores(without_autotuning(batches), len(images)).astype(np.float64)

    def decision_function(self, X):
        """`score_samples` minus `offset_`, (n,); negative for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """1 for inliers and -1 for outliers, (n,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)

    @property
    def _n_classes(self) -> int | None:
        classes = getattr(self, "normal_classes_", None)  # which pickles of earlier versions lack
        return None if classes is None else len(classes)

    def _train(self, images: np.ndarray, classes: np.ndarray | None, generator: np.random.Generator) -> None:
        hp = self.detector_.hyperparameters
        steps = len(images) // hp.batch_size
        if hp.learning_rate_decay:
            self.detector_.decay_steps = steps * hp.epochs

        def shuffled_batches():
            while True:
                indices = generator.permutation(len(images))
                for start in range(0, steps * hp.batch_size, hp.batch_size):
                    chosen = indices[start : start + hp.batch_size]
                    yield images[chosen] if classes is None else (images[chosen], classes[chosen])

        spec = tf.TensorSpec((hp.batch_size, *images.shape[1:]), tf.float32)
        if classes is not None:
            spec = spec, tf.TensorSpec((hp.batch_size,), tf.int32)
        self.detector_.fit(
            tf.data.Dataset.from_generator(shuffled_batches, output_signature=spec),
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
        """X as images, (n, height, width) or (n, height, width, channels); `reset` stores their shape as expected."""
        X = validate_data(self, X, reset=reset, allow_nd=True, dtype="numeric", ensure_min_samples=2 if reset else 1)
        if X.ndim == 2:
            X = X[:, np.newaxis]
        if reset:
            self._image_shape = X.shape[1:]
        elif X.shape[1:] != self._image_shape:
            raise ValueError(f"expected images of shape {self._image_shape} as in fit, received {X.shape[1:]}")
        return X

    def _prepared(self, X: np.ndarray, size: int, channels: int) -> np.ndarray:
        """The images that the detector takes, (n, size, size, channels), float32, in [-1, 1]."""
        black, white = self.black_white_
        span = max(white - black, np.finfo(np.float64).tiny)
        shares = (X.astype(np.float64) - black) / span
        if self._has_another_range(X, shares):
            raise ValueError(
                f"X: received {X.dtype} from {X.min():g} to {X.max():g}; in fit {black:g} was black and {white:g} "
                "white: scale the numbers to that range"
            )
        clipped = np.clip(shares, 0, 1)
        reading = Reading(size, channels, levels=None)
        return np.stack([2 * reading.of_array(image.astype(np.float32)) - 1 for image in clipped])

    def _has_another_range(self, X: np.ndarray, shares: np.ndarray) -> bool:
        """Whether the values of X are probably not in the range of the training images.

        Args:
            X: images.
            shares: their values, rescaled so that black is 0 and white is 1.
        """
        black, white = self.black_white_
        is_image = X.shape[1] > 1  # rows of a table may contain any numbers
        # A range that `fit` measured may be too narrow: anomalies may be brighter than all training images.
        is_measured = black != 0 or white not in (1, WHITE, DEEP_WHITE)
        allowed = 1 if is_measured else OVERSHOOT

        overshoot = np.abs(shares - np.clip(shares, 0, 1))
        is_wider = overshoot.mean() > 1 or (is_image and overshoot.max() > allowed)

        is_dark = white >= WHITE and 0 < shares.max() <= DARKEST * self._fitted_high
        is_darker = is_dark and X.dtype != self._fitted_dtype

        is_up_to_1 = 0 < X.max() <= 1 < white
        is_in_shares = is_image and X.dtype.kind == "f" and is_up_to_1 and bool((X % 1).any())
        return is_wider or is_darker or is_in_shares

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        if "detector_" in state:
            detector: AnomalyDetector = state["detector_"]
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "networks.weights.h5"
                detector.save_networks(path)
                networks = path.read_bytes()
            # Keras's compiled steps cannot be pickled. From these parts, `__setstate__` builds the detector again.
            state = state | {"detector_": (type(detector), detector.hyperparameters, detector.image_shape, networks)}
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if isinstance(self.__dict__.get("detector_"), tuple):
            prepare_gpus()
            cls, hp, image_shape, networks = self.detector_
            self.detector_ = build_detector(cls, hp, image_shape[-1], self._n_classes)
            self.detector_.compile()
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "networks.weights.h5"
                path.write_bytes(networks)
                self.detector_.load_networks(path)
