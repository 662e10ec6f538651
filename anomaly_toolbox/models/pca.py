"""PCA, a baseline: an image is anomalous if the principal components of normal images cannot make it.

    x̂ = m + W Wᵀ (x − m)            m: mean of the normal images, W: their leading principal components
    A(x) = ‖x − x̂‖₂

x is (batch, size, size, channels) in [−1, 1], A is (batch,). Fitted by scikit-learn in one go: there are no epochs.
"""

import tensorflow as tf
from pydantic import Field

from anomaly_toolbox import layers, losses
from anomaly_toolbox.memory import PrincipalComponents
from anomaly_toolbox.models.base import AnomalyDetector, ScoringHyperparameters


class PCAHyperparameters(ScoringHyperparameters):
    """What may stand in the `pca` section of a hyperparameter file."""

    image_size: int = Field(28, ge=4, le=1024, description="side that images are resized to, in pixels")
    batch_size: int = Field(100, ge=2, le=100_000, description="images in one step")
    memory_size: int = Field(60_000, ge=2, le=10_000_000, description="normal training images that it is fitted to")
    explained_variance: float = Field(
        0.9, gt=0, lt=1, description="share of the images' variance that the principal components explain"
    )


class PCA(AnomalyDetector):
    """Scores an image by what its leading principal components miss."""

    Hyperparameters = PCAHyperparameters

    def __init__(self, hyperparameters: PCAHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        self.principal_components = PrincipalComponents(hyperparameters.explained_variance)

    def remember(self, images):
        """Fits m and W."""
        self.principal_components.remember(images.reshape(len(images), -1))

    def reconstruct(self, x):
        """x̂, cut to [-1, 1]."""
        return tf.clip_by_value(self.projection(x), -1.0, 1.0)

    def projection(self, x):
        """x̂."""
        coordinates = self.principal_components(layers.flatten(x))
        return tf.reshape(self.principal_components.inverse(coordinates), (-1, *self.image_shape))

    def anomaly_score(self, x):
        """A(x)."""
        return losses.distance(layers.flatten(x), layers.flatten(self.projection(x)))
