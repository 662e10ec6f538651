"""KNN, a baseline: an image is anomalous if no normal training image is near, pixel by pixel.

    A(x) = mean of ‖x − xᵢ‖₂ over the `neighbours` nearest normal training images xᵢ

x is (batch, size, size, channels) in [−1, 1], A is (batch,). Searched by scikit-learn: there are no epochs. Training
images are kept as bytes, which loses nothing where they were not resized.
"""

import numpy as np
import tensorflow as tf
from sklearn.neighbors import NearestNeighbors

from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput
from anomaly_toolbox.models.hyperparameters import KNNHyperparameters
from anomaly_toolbox.models.memory import MemoryBank


class NearestImages(MemoryBank):
    """Images (n, size, size, channels) in [-1, 1], and the nearest of them to others."""

    def __init__(self, neighbours: int):
        super().__init__()
        self.neighbours = neighbours

    def fit(self, vectors):
        self.set_arrays(images=np.round((np.clip(vectors, -1, 1) + 1) * 127.5).astype(np.uint8))

    def set_arrays(self, **arrays):
        super().set_arrays(**arrays)
        self.pixels = arrays["images"].reshape(len(arrays["images"]), -1) / np.float32(127.5) - 1
        n_neighbors = min(self.neighbours, len(self.pixels))
        self.search = NearestNeighbors(n_neighbors=n_neighbors, algorithm="brute").fit(self.pixels)

    def nearest(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances, (batch, neighbours), and the mean of the nearest images, shaped as `images`."""
        distances, indices = self.search.kneighbors(images.reshape(len(images), -1))
        return distances.astype(np.float32), self.pixels[indices].mean(axis=1).reshape(images.shape)


class KNN(AnomalyDetector):
    """Scores an image by its distance to the nearest normal ones."""

    Hyperparameters = KNNHyperparameters

    def __init__(self, hyperparameters: KNNHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        self.training_images = NearestImages(hyperparameters.neighbours)

    def compile(self, **options):
        """Scoring calls scikit-learn, which nothing can compile."""
        super().compile(**options | {"jit_compile": False, "run_eagerly": True})

    def fit_memory_banks(self, images):
        """Stores the images."""
        self.training_images.fit(images)

    def reconstruct(self, x):
        """The mean of the nearest training images."""
        return tf.constant(self.training_images.nearest(np.asarray(x))[1])

    def anomaly_score(self, x):
        """A(x)."""
        return self.score_and_reconstruct(x).score

    def score_and_reconstruct(self, x):
        """From one search."""
        distances, nearest = self.training_images.nearest(np.asarray(x))
        return ScoreOutput(tf.constant(distances.mean(axis=1)), tf.constant(nearest), {})
