"""Classifier, a baseline that uses classes: an image is anomalous if its features are far from those of every class.

A network with features h(x) learns the classes y of normal images by their cross-entropy:

    L = −𝔼 log p_y(x),  p(x) = softmax(V h⁺(x) + b)             h⁺: h after a LeakyReLU

Then the features of each class are described by their mean μ_c, and those of all classes by one covariance Σ:

    A(x) = min over c of ((h(x) − μ_c)ᵀ Σ⁻¹ (h(x) − μ_c))^½

x is (batch, size, size, channels) in [−1, 1], h is (batch, latent), A is (batch,). For μ_c and Σ, each
training image counts to the class that the network predicts, so that its true class need not be stored.

A classifier generates no images. The mean training image of the predicted class stands for the reconstruction.

Source: Lee, Lee, Lee and Shin, NeurIPS 2018 (arXiv 1807.03888), with the last features alone and without the noise that
they add to images.
"""

import keras
import numpy as np
import tensorflow as tf

from anomaly_toolbox.models import layers
from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput
from anomaly_toolbox.models.hyperparameters import ClassifierHyperparameters
from anomaly_toolbox.models.layer_vectors import pooled
from anomaly_toolbox.models.memory import StoredArrays, whitening


class ClassStatistics(StoredArrays):
    """The mean features and the mean image of each class, and the covariance of features within classes.

    Args:
        n_classes: K.
        latent: the length of h.
        image_shape: (size, size, channels).
    """

    def __init__(self, n_classes: int, latent: int, image_shape: tuple[int, int, int]):
        super().__init__()
        self.n_classes = n_classes
        self.set_arrays(
            means=np.zeros((n_classes, latent)),
            whitening=np.eye(latent),
            images=np.zeros((n_classes, *image_shape)),
        )

    def fit(self, features: np.ndarray, images: np.ndarray, classes: np.ndarray) -> None:
        """Fits the statistics to normal images.

        Args:
            features: (n, latent).
            images: (n, size, size, channels).
            classes: (n,); a class without images gets the means of all images.
        """
        means = np.tile(features.mean(axis=0), (self.n_classes, 1))
        mean_images = np.tile(images.mean(axis=0), (self.n_classes, 1, 1, 1))
        for number in np.unique(classes):
            means[number] = features[classes == number].mean(axis=0)
            mean_images[number] = images[classes == number].mean(axis=0)
        _, axes = whitening(features - means[classes])
        self.set_arrays(means=means, whitening=axes, images=mean_images)

    def call(self, features: tf.Tensor) -> tf.Tensor:
        """The Mahalanobis distance to the nearest class, (batch, latent) -> (batch,)."""
        differences = features[:, tf.newaxis] - self.arrays["means"]
        return tf.reduce_min(tf.norm(tf.matmul(differences, self.arrays["whitening"]), axis=-1), axis=1)


class Classifier(AnomalyDetector):
    """Scores an image by the distance of its features from those of the nearest class of normal images."""

    Hyperparameters = ClassifierHyperparameters
    combined_from = ("paper", "latent_neighbours", "encoder_neighbours")
    uses_classes = True
    tracked_losses = ("c_loss", "accuracy")

    def __init__(self, hyperparameters: ClassifierHyperparameters, channels: int, n_classes: int):
        super().__init__(hyperparameters, channels)
        hp = hyperparameters
        self.encoder = layers.Encoder(hp.image_size, hp.width, channels, hp.latent_vector_size)
        self.classes = keras.Sequential(
            [
                keras.Input((hp.latent_vector_size,)),
                keras.layers.LeakyReLU(layers.SLOPE),
                layers.dense(n_classes, bias=True),
            ]
        )
        self.statistics = ClassStatistics(n_classes, hp.latent_vector_size, self.image_shape)
        self.add_optimizer("c", self.encoder, self.classes)

    def train_step(self, images_and_classes):
        """One step on L."""
        x, y = images_and_classes
        with tf.GradientTape() as tape:
            logits = self.classes(self.encoder(x, training=True))
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        self.update("c", loss, tape)
        is_right = tf.argmax(logits, axis=1, output_type=tf.int32) == y
        return self.running_means(c_loss=loss, accuracy=tf.reduce_mean(tf.cast(is_right, tf.float32)))

    def fit_memory_banks(self, images, progress=None):
        """Fills the memory banks, and fits the statistics of the classes."""
        vectors = self.vectors_for_banks(images, progress)
        self.fit_banks(vectors)
        features = vectors["latent_neighbours"]
        classes = np.argmax(self.classes(features), axis=1)
        self.statistics.fit(features, images[: len(features)], classes)

    def reconstruct(self, x):
        """The mean image of the class that the network gives each image."""
        return self._mean_image(self.encoder(x))

    def anomaly_score(self, x):
        """A(x), (batch,)."""
        return self.statistics(self.encoder(x))

    def score_and_reconstruct(self, x):
        """A(x), the mean images and the vectors, from one pass."""
        encoded = self.encoder.activations(x)
        features = encoded[-1]
        vectors = {"latent_neighbours": features, "encoder_neighbours": pooled(encoded)}
        return ScoreOutput(self.statistics(features), self._mean_image(features), vectors)

    def patches(self, x):
        """The features of each patch, from the first convolution."""
        return layers.local_features(self.encoder.pyramid, x)

    def _mean_image(self, features):
        return tf.gather(self.statistics.arrays["images"], tf.argmax(self.classes(features), axis=1))
