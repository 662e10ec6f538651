"""The base class of the GANs: networks that score images with their latest weights or with averages of them."""

from typing import ClassVar, Generic, TypeVar

import keras
import tensorflow as tf

from anomaly_toolbox.models import layers
from anomaly_toolbox.models.base import AnomalyDetector

Networks = TypeVar("Networks", bound=tuple[keras.Model, ...])


class GAN(AnomalyDetector, Generic[Networks]):
    """A detector whose networks are trained against each other.

    A subclass defines `new_networks` and `trained`. Its constructor assigns `new_networks()` to attributes, whose names
    become those of the networks in weights files, and `new_averages()` to `averages`. `train_step` ends with
    `average_weights()`, and images are scored with the networks in `scoring`.

    Attributes:
        averages: the networks with averaged weights; empty if `weight_averaging` is 0.
        noise: the state of the random numbers that latent vectors are drawn with.
    """

    always_averages: ClassVar[bool] = False  # whether there are averages even if their decay is 0
    averages: Networks | tuple[()]
    noise: keras.random.SeedGenerator

    def new_networks(self) -> Networks:
        """The networks of the method, with random weights."""
        raise NotImplementedError

    @property
    def trained(self) -> Networks:
        """The networks with the latest weights."""
        raise NotImplementedError

    @property
    def scoring(self) -> Networks:
        """The networks that score images."""
        return self.averages or self.trained

    def new_averages(self) -> Networks | tuple[()]:
        """Networks for the averaged weights, which no optimizer changes."""
        if self.hyperparameters.weight_averaging == 0 and not self.always_averages:
            return ()
        averages = self.new_networks()
        for network in averages:
            network.trainable = False
        return averages

    def average_weights(self) -> None:
        """Moves the averaged weights, if there are any, towards the latest weights."""
        if self.averages:
            self.update_averages(self.averages, self.trained, self.hyperparameters.weight_averaging)

    @staticmethod
    def judgement(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> dict[str, tf.Tensor]:
        """The mean D of real and of generated images, to be reported by `running_means`."""
        return {
            "d_real": tf.reduce_mean(tf.sigmoid(real_logits)),
            "d_fake": tf.reduce_mean(tf.sigmoid(fake_logits)),
        }

    def draw_latent(self, count: int) -> tf.Tensor:
        """z ~ N(0, I), (count, latent)."""
        return layers.normal((count, self.hyperparameters.latent_vector_size), self.noise)
