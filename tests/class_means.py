"""A method for tests that uses the classes of normal images; the fixture `class_means` registers it."""

import keras
import tensorflow as tf
from pydantic import Field

from anomaly_toolbox.models import losses
from anomaly_toolbox.models.base import AnomalyDetector, Hyperparameters

TINY_CLASS_MEANS = {"image_size": 16, "batch_size": 8, "memory_size": 104, "epochs": 2, "step_log_frequency": 5}


class ClassMeansHyperparameters(Hyperparameters):
    learning_rate: float = Field(0.05, gt=0, description="the learning rate")


class Means(keras.Model):
    """The mean image of each class: (batch,) -> (batch, size, size, channels)."""

    def __init__(self, n_classes, image_shape):
        super().__init__()
        self.means = keras.layers.Embedding(n_classes, image_shape[0] * image_shape[1] * image_shape[2])
        self.images = keras.layers.Reshape(image_shape)
        self(keras.Input((), dtype="int32"))

    def call(self, y):
        return self.images(self.means(y))


class ClassMeans(AnomalyDetector):
    """Learns the mean image of each class by gradient descent; an image is scored by the nearest of them."""

    Hyperparameters = ClassMeansHyperparameters
    tracked_losses = ("g_loss",)
    uses_classes = True

    def __init__(self, hyperparameters, channels, n_classes):
        super().__init__(hyperparameters, channels)
        self.mean_images = Means(n_classes, self.image_shape)
        self.add_optimizer("g", self.mean_images)
        self.classes = tf.range(n_classes)

    def train_step(self, pairs):
        x, y = pairs
        assert y.shape == (self.hyperparameters.batch_size,)
        assert y.dtype == tf.int32
        with tf.GradientTape() as tape:
            loss = losses.l1(x, self.mean_images(y))
        self.update("g", loss, tape)
        return self.running_means(g_loss=loss)

    def reconstruct(self, x):
        means = self.mean_images(self.classes)
        distances = tf.reduce_mean(tf.abs(x[:, tf.newaxis] - means), axis=(2, 3, 4))
        return tf.gather(means, tf.argmin(distances, axis=1))

    def anomaly_score(self, x):
        return losses.l1_per_image(x, self.reconstruct(x))
