"""AnoGAN: an image is anomalous if the generator makes no similar image from any latent vector.

A DCGAN learns normal images; G uses the non-saturating form of

    min_G max_D  𝔼 log D(x) + 𝔼 log(1 − D(G(z))),  z ~ N(0, I)       (1)

Then the weights of G and D are fixed. For each image x, Γ steps of Adam search for the z that minimises L:

    L_R(z) = ‖x − G(z)‖₁                         (4)
    L_D(z) = ‖f(x) − f(G(z))‖₁                   (5)   f: the features of D, before its logit
    L(z) = (1 − λ) L_R(z) + λ L_D(z),  λ = 0.1   (6)
    A(x) = L(z_Γ),  Γ = 500                      (7)

x is (batch, size, size, channels) in [−1, 1], z is (batch, latent), A is (batch,); norms are sums over one image. One
compiled loop searches for all images of a batch. The score of an image does not depend on the other images: each image
has its own z and its own state of Adam, all searches start from the same latent vectors, and batch normalisation uses
its running averages.

Restarts. The search is repeated from `restarts` latent vectors, which are drawn from N(0, I) and are the same in every
run. The lowest L is the score.

Warm start. With `warm_start`, an encoder E is fitted after the GAN, while the weights of G and D are fixed, to minimise

    𝔼 ‖z − E(G(z))‖₂ + 𝔼 ‖x − G(E(x))‖₁ + 𝔼 ‖f(x) − f(G(E(x)))‖₂      (means over elements)

on generated pairs and on normal images. The first search then starts from E(x). The idea is f-AnoGAN's, which fits E on
images alone and scores G(E(x)) without a search. Here E only gives the start of the search, and the score is still (7).

Source: Schlegl, Seeböck, Waldstein, Schmidt-Erfurth and Langs, IPMI 2017 (arXiv 1703.05921); equations as numbered in
1906.11632. f-AnoGAN: Schlegl, Seeböck, Waldstein, Langs and Schmidt-Erfurth, Medical Image Analysis 54 (2019).
"""

import keras
import numpy as np
import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import ScoreOutput, fill_batches
from anomaly_toolbox.models.hyperparameters import AnoGANHyperparameters
from anomaly_toolbox.models.inversion import fit_encoder
from anomaly_toolbox.models.latent_search import SearchingGAN
from anomaly_toolbox.models.layer_vectors import COMBINED_FROM, gan_vectors, pathway, pooled

Networks = tuple[keras.Sequential, layers.Discriminator]  # G and D

SEARCHED_IMAGES = 500  # normal images that are searched to fit the pathway without a warm start


class AnoGAN(SearchingGAN[Networks]):
    """Scores an image by the loss of the most similar image that the search finds."""

    Hyperparameters = AnoGANHyperparameters
    combined_from = COMBINED_FROM
    tracked_losses = ("g_loss", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: AnoGANHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        hp = hyperparameters
        self.generator, self.discriminator = self.new_networks()
        self.averages = self.new_averages()
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("g", self.generator)
        self.add_optimizer("d", self.discriminator)
        if hp.warm_start:
            self.encoder = layers.Encoder(hp.image_size, hp.width, channels, hp.latent_vector_size)
            self.is_fitted = self.add_weight(name="is_fitted", initializer="zeros", trainable=False)

    def new_networks(self):
        """G and D."""
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        return (
            layers.up(size, hp.width, channels, hp.latent_vector_size),
            layers.Discriminator(size, hp.width, channels),
        )

    @property
    def trained(self):
        """G and D with the latest weights."""
        return self.generator, self.discriminator

    def train_step(self, x):
        """One step of G and one of D by (1), both from one forward pass."""
        z = self.draw_latent(x.shape[0])
        with tf.GradientTape(persistent=True) as tape:
            _, real_logits = self.discriminator(x, training=True)
            _, fake_logits = self.discriminator(self.generator(z, training=True), training=True)
            d_loss = losses.discriminator_loss(real_logits, fake_logits)
            g_loss = losses.generator_loss(fake_logits)
        self.update("d", d_loss, tape)
        self.update("g", g_loss, tape)
        self.average_weights()
        return self.running_means(
            g_loss=g_loss,
            d_loss=d_loss,
            **self.judgement(real_logits, fake_logits),
        )

    def generate(self, z, *conditions):
        """G(z)."""
        generator, _ = self.scoring
        return generator(z)

    def features(self, x):
        """f(x)."""
        _, discriminator = self.scoring
        return discriminator(x)[0]

    def best_search(self, x):
        """z_Γ, (batch, latent), and A(x), (batch,), of the best restart of each image; all restarts run together."""
        starts = tf.repeat(self.starting_points[:, tf.newaxis], tf.shape(x)[0], axis=1)
        if self.has_fitted_encoder:  # the first search of each image starts from its code
            starts = tf.concat([self.encoder(x)[tf.newaxis], starts[1:]], axis=0)
        loss, z = self.best_of_searches(x, starts)
        return z, loss

    @property
    def has_fitted_encoder(self) -> bool:
        """Whether there is an encoder that is fitted or loaded."""
        with tf.init_scope():  # gives the value even while a step is being compiled
            return self.hyperparameters.warm_start and bool(self.is_fitted.numpy())

    def searched_reconstruction(self, x):
        """G(z_Γ), without compilation."""
        z, _ = self.best_search(x)
        return self.generate(z)

    def anomaly_score(self, x):
        """A(x) of (7), (batch,)."""
        return self.best_search(x)[1]

    def score_and_reconstruct(self, x):
        """A(x), G(z_Γ), the vectors and D's logit, from one search."""
        z, loss = self.best_search(x)
        generator, discriminator = self.scoring
        x_hat = generator(z)
        vectors = self.vectors(x)
        if not self.hyperparameters.warm_start:
            vectors["pathway"] = self._pathway(x, x_hat)
        _, logit = discriminator(x)
        return ScoreOutput(loss, x_hat, vectors, logit)

    def vectors(self, x):
        """The features of D; with a fitted encoder, also its codes, and differences to G(E(x)). They need no search."""
        generator, discriminator = self.scoring
        discriminated = discriminator.activations(x)
        vectors = {
            "feature_neighbours": layers.flatten(discriminated[-1]),
            "discriminator_neighbours": pooled(discriminated),
        }
        if self.has_fitted_encoder:
            encoded = self.encoder.activations(x)
            code = encoded[-1]
            x_hat = generator(code)
            encoded_hat = self.encoder.activations(x_hat)
            vectors |= gan_vectors(encoded, encoded_hat, discriminated, discriminator.activations(x_hat))
        return vectors

    def fit_memory_banks(self, images, progress=None):
        """Fills the memory banks; without `warm_start`, the pathway follows G(z_Γ), so some images are searched."""
        super().fit_memory_banks(images, progress)
        if self.hyperparameters.warm_start:
            return
        batch_size = self.hyperparameters.batch_size
        searched = images[:SEARCHED_IMAGES]
        padded = fill_batches(searched, batch_size)
        n_batches = len(padded) // batch_size
        pathways = []
        for number, x in enumerate(np.split(padded, n_batches), 1):
            pathways.append(self._pathway(x, self.reconstruct(x)).numpy())
            if progress is not None:
                progress(number, n_batches)
        self.memory_banks["pathway"].fit(np.concatenate(pathways)[: len(searched)])

    def _pathway(self, x, x_hat):
        _, discriminator = self.scoring
        return pathway(discriminator.activations(x), discriminator.activations(x_hat))

    def patches(self, x):
        """The features of each patch, from D's first convolution."""
        _, discriminator = self.scoring
        return layers.local_features(discriminator.features, x)

    def encoder_loss(self, x):
        """What E minimises, on a batch of pairs (G(z), z) and a batch of normal images."""
        generator, discriminator = self.scoring
        z = self.draw_latent(x.shape[0])
        code_loss = losses.l2(z, self.encoder(generator(z), training=True))
        x_hat = generator(self.encoder(x, training=True))
        features, _ = discriminator(x)
        features_hat, _ = discriminator(x_hat)
        return code_loss + losses.l1(x, x_hat) + losses.l2(features, features_hat)

    def after_fit(self, images, callbacks=()):
        """Fits the encoder if `warm_start` is true."""
        if not self.hyperparameters.warm_start:
            return
        fit_encoder(self, images, self.hyperparameters.batch_size, callbacks)
        self.is_fitted.assign(1.0)
        self._forget_compiled_scoring()

    def load_networks(self, path):
        """See `AnomalyDetector`."""
        super().load_networks(path)
        if self.hyperparameters.warm_start:
            self._forget_compiled_scoring()  # the file may have a fitted encoder

    def become(self, other):
        """See `AnomalyDetector`."""
        super().become(other)
        self._forget_compiled_scoring()  # the other has no fitted encoder
