"""The encoder that is fitted after the epochs, for a detector made up of one dense layer."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models.inversion import fit_encoder


class MadeUpDetector:
    """E(x) = w·x, for images of 2x1 pixels; its loss also depends on a weight that must not change."""

    def __init__(self, encoder_steps):
        self.hyperparameters = SimpleNamespace(epochs=3, encoder_steps=encoder_steps)
        self.encoder = keras.Sequential([keras.Input((2, 1, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
        self.encoder.layers[-1].kernel.assign([[1.0], [-1.0]])
        self.other_weight = tf.Variable(2.0)
        self.begun_epochs = []
        self.batches = []

    def encoder_loss(self, x):
        self.batches.append(x.numpy()[:, :, 0, 0])
        return tf.reduce_mean((self.encoder(x, training=True) - self.other_weight) ** 2)

    def begin_epoch(self, epoch):
        self.begun_epochs.append(epoch)


IMAGES = np.stack([np.arange(1, 11), np.zeros(10)], axis=1).reshape(10, 2, 1, 1).astype(np.float32)  # (1, 0), (2, 0), …


def test_the_first_step_of_adam_is_as_long_as_the_learning_rate(eager):
    """The loss of images (i, 0) rises with the first weight and with the bias, and does not depend on the second."""
    detector = MadeUpDetector(encoder_steps=1)
    fit_encoder(detector, 10 * IMAGES, batch_size=10)
    layer = detector.encoder.layers[-1]
    np.testing.assert_allclose(layer.kernel[:, 0], [1 - 1e-3, -1], rtol=1e-6)
    np.testing.assert_allclose(layer.bias, [-1e-3], rtol=1e-4)
    assert detector.other_weight.numpy() == 2


def test_every_image_is_drawn_before_one_is_drawn_again(eager):
    """Five batches of four images are two rounds of ten, in different orders."""
    detector = MadeUpDetector(encoder_steps=5)
    fit_encoder(detector, IMAGES, batch_size=4)
    assert [batch.shape for batch in detector.batches] == [(4, 2)] * 5
    drawn = np.concatenate(detector.batches)[:, 0]
    first, second = drawn[:10], drawn[10:]
    assert sorted(first) == sorted(second) == list(range(1, 11))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, np.arange(1, 11))


def test_random_numbers_are_those_of_the_epoch_after_the_last(eager):
    detector = MadeUpDetector(encoder_steps=1)
    fit_encoder(detector, IMAGES, batch_size=4)
    assert detector.begun_epochs == [3]


def test_callbacks_see_the_steps_and_the_loss(eager):
    seen = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda step, logs: seen.append((step, logs["e_loss"])))
    detector = MadeUpDetector(encoder_steps=3)
    fit_encoder(detector, IMAGES, batch_size=10, callbacks=[callback])
    assert [step for step, _ in seen] == [0, 1, 2]
    assert float(seen[0][1]) == pytest.approx(np.mean((np.arange(1, 11) - 2.0) ** 2), rel=1e-5)
    assert float(seen[2][1]) < float(seen[0][1])
