"""Fits the encoder of a detector after its epochs: E learns to find the latent vector of an image.

f-AnoGAN (Schlegl, Seeböck, Waldstein, Langs and Schmidt-Erfurth, Medical Image Analysis 54, 2019) trains a GAN first,
and then an encoder, while the weights of the GAN are fixed. What E minimises is up to the detector.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from anomaly_toolbox.models.adversarial import AdversarialModel
from anomaly_toolbox.tf_data import without_autotuning

LEARNING_RATE = 1e-3  # of Adam


class HasEncoder(Protocol):
    """A detector with an encoder."""

    encoder: keras.Model
    hyperparameters: Any  # with `epochs` and `encoder_steps`

    def encoder_loss(self, x: tf.Tensor) -> tf.Tensor:
        """What E minimises on a batch of normal images, a scalar."""

    def begin_epoch(self, epoch: int) -> None:
        """See `AdversarialModel`."""


class Inversion(AdversarialModel):
    """Fits the encoder of a detector; no other weight changes."""

    title = "fitting the encoder"
    tracked_losses = ("e_loss",)

    def __init__(self, detector: HasEncoder):
        super().__init__()
        self.encoder = detector.encoder
        self._encoder_loss = detector.encoder_loss
        self.add_optimizer("e", self.encoder, learning_rate=LEARNING_RATE)

    def train_step(self, x):
        """One step of E."""
        with tf.GradientTape() as tape:
            loss = self._encoder_loss(x)
        self.update("e", loss, tape)
        return self.running_means(e_loss=loss)


def fit_encoder(
    detector: HasEncoder,
    images: np.ndarray,
    batch_size: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Fits the encoder of a detector in `encoder_steps` steps.

    Args:
        detector: its other networks stay as they are.
        images: normal images, (n, size, size, channels), in [-1, 1].
        batch_size: the number of images in a step.
        callbacks: of Keras's training loop.
    """
    hp = detector.hyperparameters
    if hp.encoder_steps == 0:
        return
    detector.begin_epoch(hp.epochs)
    inversion = Inversion(detector)
    inversion.compile()
    shuffled = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images), seed=0)
    batches = without_autotuning(shuffled.repeat().batch(batch_size, drop_remainder=True))
    inversion.fit(batches, steps_per_epoch=hp.encoder_steps, verbose=0, shuffle=False, callbacks=list(callbacks))
