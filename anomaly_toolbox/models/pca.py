"""PCA, a baseline: an image is anomalous if the principal components of normal images cannot reproduce it.

    x̂ = m + W Wᵀ (x − m)            m: mean of the normal images, W: their leading principal components
    A(x) = ‖x − x̂‖₂

x is (batch, size, size, channels) in [−1, 1], A is (batch,). scikit-learn fits m and W; there are no epochs.
"""

import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import AnomalyDetector
from anomaly_toolbox.models.hyperparameters import PCAHyperparameters
from anomaly_toolbox.models.memory import PrincipalComponents


class PCA(AnomalyDetector):
    """Scores an image by its distance to its projection onto the leading principal components."""

    Hyperparameters = PCAHyperparameters

    def __init__(self, hyperparameters: PCAHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        self.principal_components = PrincipalComponents(hyperparameters.explained_variance)

    def fit_memory_banks(self, images, progress=None):
        """Fits m and W to normal images, (n, size, size, channels)."""
        self.principal_components.fit(images.reshape(len(images), -1))

    def reconstruct(self, x):
        """x̂, clipped to [-1, 1]."""
        return tf.clip_by_value(self.projection(x), -1.0, 1.0)

    def projection(self, x):
        """x̂, whose pixels may leave the range [-1, 1]; same shape as `x`."""
        coordinates = self.principal_components(layers.flatten(x))
        projected = self.principal_components.inverse(coordinates)
        return tf.reshape(projected, (-1, *self.image_shape))

    def anomaly_score(self, x):
        """A(x), (batch,)."""
        return losses.distance(layers.flatten(x), layers.flatten(self.projection(x)))
