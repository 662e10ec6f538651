"""KNN, a baseline: an image is anomalous if its pixels are far from those of all normal training images.

    A(x) = mean of ‖x − xᵢ‖₂ over the `neighbours` nearest normal training images xᵢ

x is (batch, size, size, channels) in [−1, 1], A is (batch,). scikit-learn searches the nearest images; there are no
epochs. The training images are stored as bytes, which is exact for images of 8 bits that were not resized.
"""

import numpy as np
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors

from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput
from anomaly_toolbox.models.hyperparameters import KNNHyperparameters
from anomaly_toolbox.models.memory import MemoryBank

MORE_CANDIDATES = 5  # beyond `neighbours`, because the search rounds distances
HALF_RANGE = 127.5  # pixels from -1 to 1 become levels from 0 to 255


class NearestImages(MemoryBank):
    """A memory bank of images, which finds the nearest ones.

    Args:
        neighbours: how many of them; if there are fewer images, all of them.
    """

    def __init__(self, neighbours: int):
        super().__init__()
        self.neighbours = neighbours

    def fit(self, vectors):
        """Stores images (n, size, size, channels) in [-1, 1]."""
        levels = np.round((np.clip(vectors, -1, 1) + 1) * HALF_RANGE)
        self.set_arrays(images=levels.astype(np.uint8))

    def set_arrays(self, **arrays):
        super().set_arrays(**arrays)
        images = arrays["images"]
        self.pixels = images.reshape(len(images), -1) / np.float32(HALF_RANGE) - 1
        n_candidates = min(self.neighbours + MORE_CANDIDATES, len(images))
        self.search = NearestNeighbors(n_neighbors=n_candidates, algorithm="brute").fit(self.pixels)

    def nearest(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Finds the nearest stored images of each image.

        scikit-learn computes distances by matrix products, whose last digits depend on the other images of the batch.
        The distances of the candidates that it finds are therefore computed again, from differences.

        Args:
            images: (batch, size, size, channels), in [-1, 1].

        Returns:
            Their distances, (batch, neighbours), and their mean, of the same shape as `images`.
        """
        pixels = images.reshape(len(images), -1)
        candidates = self.search.kneighbors(pixels, return_distance=False)
        distances = np.stack([np.linalg.norm(pixels - self.pixels[column], axis=1) for column in candidates.T], axis=1)
        nearest = np.argsort(distances, axis=1, kind="stable")[:, : self.neighbours]
        indices = np.take_along_axis(candidates, nearest, axis=1)
        mean_images = self.pixels[indices].mean(axis=1).reshape(images.shape)
        return np.take_along_axis(distances, nearest, axis=1), mean_images


class KNN(AnomalyDetector):
    """Scores an image by its distance to the nearest normal training images."""

    Hyperparameters = KNNHyperparameters

    def __init__(self, hyperparameters: KNNHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        self.training_images = NearestImages(hyperparameters.neighbours)

    def compile(self, **options):
        """Turns compilation off: TensorFlow cannot compile scikit-learn."""
        super().compile(**options | {"jit_compile": False, "run_eagerly": True})

    def fit_memory_banks(self, images, progress=None):
        """Stores the images, (n, size, size, channels)."""
        self.training_images.fit(images)

    def reconstruct(self, x):
        """The mean of the nearest training images."""
        return self.score_and_reconstruct(x).reconstruction

    def anomaly_score(self, x):
        """A(x)."""
        return self.score_and_reconstruct(x).score

    def score_and_reconstruct(self, x):
        """A(x) and the mean of the nearest training images, from one search."""
        distances, mean_images = self.training_images.nearest(np.asarray(x))
        return ScoreOutput(tf.constant(distances.mean(axis=1)), tf.constant(mean_images), vectors={})
