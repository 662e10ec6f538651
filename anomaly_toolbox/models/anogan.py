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

import contextlib

import keras
import numpy as np
import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.adversarial import AdversarialModel
from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput, fill_batches
from anomaly_toolbox.models.hyperparameters import AnoGANHyperparameters
from anomaly_toolbox.models.layer_vectors import COMBINED_FROM, layer_vectors, pathway, pooled

Networks = tuple[keras.Sequential, layers.Discriminator]  # G and D

ENCODER_LEARNING_RATE = 1e-3
SEARCHED_IMAGES = 500  # normal images that are searched to fit the pathway without a warm start
#: On a CPU, XLA runs a loop on one thread; without XLA, TensorFlow uses all threads.
LOOPS_WITH_XLA = bool(tf.config.list_physical_devices("GPU"))
ADAM_BETA_1, ADAM_BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-7  # of the search; Keras's defaults


class Inversion(AdversarialModel):
    """Fits the encoder E of a detector, while the weights of G and D are fixed."""

    title = "fitting the encoder"
    tracked_losses = ("code", "residual", "features")

    def __init__(self, detector: "AnoGAN"):
        super().__init__()
        self.encoder = detector.encoder
        self.generator, self.discriminator = detector.scoring
        self.noise = detector.noise
        self.latent = detector.hyperparameters.latent_vector_size
        self.add_optimizer("e", self.encoder, learning_rate=ENCODER_LEARNING_RATE)

    def train_step(self, x):
        """One step of E on a batch of pairs (G(z), z) and on a batch of normal images."""
        z = layers.normal((x.shape[0], self.latent), self.noise)
        generated = self.generator(z)
        features, _ = self.discriminator(x)
        with tf.GradientTape() as tape:
            code_loss = losses.l2(z, self.encoder(generated, training=True))
            x_hat = self.generator(self.encoder(x, training=True))
            features_hat, _ = self.discriminator(x_hat)
            residual_loss = losses.l1(x, x_hat)
            features_loss = losses.l2(features, features_hat)
            loss = code_loss + residual_loss + features_loss
        self.update("e", loss, tape)
        return self.running_means(code=code_loss, residual=residual_loss, features=features_loss)


class AnoGAN(AnomalyDetector):
    """Scores an image by the loss of the most similar image that the search finds.

    Attributes:
        averages: G and D with averaged weights, which score images; empty without `weight_averaging`.
        starting_points: the latent vectors from which the restarts search, (restarts, latent).
        steps: Γ, the number of steps of the search.
    """

    Hyperparameters = AnoGANHyperparameters
    combined_from = COMBINED_FROM
    tracked_losses = ("g_loss", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: AnoGANHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        hp = hyperparameters
        self.generator, self.discriminator = self._new_networks()
        self.averages: Networks | tuple[()] = ()
        if hp.weight_averaging > 0:
            self.averages = self._new_networks()
            for network in self.averages:
                network.trainable = False
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("g", self.generator)
        self.add_optimizer("d", self.discriminator)
        if hp.warm_start:
            self.encoder = layers.Encoder(hp.image_size, hp.width, channels, hp.latent_vector_size)
            self.is_fitted = self.add_weight(name="is_fitted", initializer="zeros", trainable=False)
        shape = (hp.restarts, hp.latent_vector_size)
        self.starting_points = tf.random.stateless_normal(shape, seed=(0, 0), alg="philox")
        self.steps = tf.Variable(hp.gamma, trainable=False)  # a variable can change without another compilation

    def _new_networks(self) -> Networks:
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        return (
            layers.up(size, hp.width, channels, hp.latent_vector_size),
            layers.Discriminator(size, hp.width, channels),
        )

    @property
    def scoring(self) -> Networks:
        """G and D, as they score images."""
        return self.averages or (self.generator, self.discriminator)

    def train_step(self, x):
        """One step of G and one of D by (1), both from one forward pass."""
        z = layers.normal((x.shape[0], self.hyperparameters.latent_vector_size), self.noise)
        with tf.GradientTape(persistent=True) as tape:
            _, real_logits = self.discriminator(x, training=True)
            _, fake_logits = self.discriminator(self.generator(z, training=True), training=True)
            d_loss = losses.discriminator_loss(real_logits, fake_logits)
            g_loss = losses.generator_loss(fake_logits)
        self.update("d", d_loss, tape)
        self.update("g", g_loss, tape)
        if self.averages:
            networks = self.generator, self.discriminator
            self.update_averages(self.averages, networks, self.hyperparameters.weight_averaging)
        return self.running_means(
            g_loss=g_loss,
            d_loss=d_loss,
            d_real=tf.reduce_mean(tf.sigmoid(real_logits)),
            d_fake=tf.reduce_mean(tf.sigmoid(fake_logits)),
        )

    def search_loss(self, x, features, z):
        """L(z) of (6) for each image.

        Args:
            x: (batch, size, size, channels).
            features: f(x).
            z: (batch, latent).

        Returns:
            (batch,).
        """
        hp = self.hyperparameters
        generator, discriminator = self.scoring
        x_hat = generator(z)
        features_hat, _ = discriminator(x_hat)
        residual_loss = losses.l1_norm(x, x_hat)
        discrimination_loss = losses.l1_norm(features, features_hat)
        return (1 - hp.lambda_) * residual_loss + hp.lambda_ * discrimination_loss

    def search(self, x, z_0):
        """Minimises L for each image by Γ steps of Adam.

        Args:
            x: (batch, size, size, channels).
            z_0: the start of each search, (batch, latent).

        Returns:
            z_Γ, (batch, latent), and A = L(z_Γ), (batch,).
        """
        _, discriminator = self.scoring
        features, _ = discriminator(x)

        def is_unfinished(step, *_):
            return step < self.steps

        def take_step(step, z, first_moment, second_moment):
            return self.search_step(x, features, step, z, first_moment, second_moment)

        zeros = tf.zeros_like(z_0)
        _, z, _, _ = tf.while_loop(is_unfinished, take_step, (tf.constant(0), z_0, zeros, zeros))
        return z, self.search_loss(x, features, z)

    def search_step(self, x, features, step, z, first_moment, second_moment):
        """One step of Adam for each image.

        Args:
            x: (batch, size, size, channels).
            features: f(x).
            step: the number of steps before this one.
            z: (batch, latent).
            first_moment: Adam's running average of the gradient, (batch, latent).
            second_moment: Adam's running average of the squared gradient, (batch, latent).

        Returns:
            The new `step`, `z`, `first_moment` and `second_moment`.
        """
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = self.search_loss(x, features, z)
        # This is the gradient of the sum over the batch, in which each z appears in the loss of its own image only.
        gradient = tape.gradient(loss, z)
        first_moment = ADAM_BETA_1 * first_moment + (1 - ADAM_BETA_1) * gradient
        second_moment = ADAM_BETA_2 * second_moment + (1 - ADAM_BETA_2) * gradient**2
        time = tf.cast(step + 1, tf.float32)
        bias_correction = tf.sqrt(1 - ADAM_BETA_2**time) / (1 - ADAM_BETA_1**time)
        rate = self.hyperparameters.search_learning_rate * bias_correction
        z = z - rate * first_moment / (tf.sqrt(second_moment) + ADAM_EPSILON)
        return step + 1, z, first_moment, second_moment

    def best_search(self, x):
        """z_Γ, (batch, latent), and A(x), (batch,), of the best restart of each image; all restarts run together."""
        restarts = len(self.starting_points)
        batch_size = tf.shape(x)[0]
        z_0 = tf.repeat(self.starting_points, batch_size, axis=0)
        if self.has_fitted_encoder:  # the first search of each image starts from its code
            z_0 = tf.concat([self.encoder(x), z_0[batch_size:]], axis=0)
        z, loss = self.search(tf.tile(x, (restarts, 1, 1, 1)), z_0)
        z = tf.reshape(z, (restarts, batch_size, z.shape[1]))
        loss = tf.reshape(loss, (restarts, batch_size))
        best = tf.argmin(loss, axis=0)
        best_z = tf.gather(tf.transpose(z, (1, 0, 2)), best, batch_dims=1)
        return best_z, tf.reduce_min(loss, axis=0)

    @property
    def has_fitted_encoder(self) -> bool:
        """Whether there is an encoder that is fitted or loaded."""
        with tf.init_scope():  # gives the value even while a step is being compiled
            return self.hyperparameters.warm_start and bool(self.is_fitted.numpy())

    def make_predict_function(self, force=False):
        """Keras's hook: compiles scoring with XLA only if `LOOPS_WITH_XLA` is true; training always uses XLA."""
        jit_compile_training = self.jit_compile
        self.jit_compile = self.jit_compile and LOOPS_WITH_XLA
        try:
            return super().make_predict_function(force)
        finally:
            self.jit_compile = jit_compile_training

    def reconstruct(self, x):
        """G(z_Γ)."""
        return self._compiled_reconstruction(tf.convert_to_tensor(x))

    def _searched_reconstruction(self, x):
        z, _ = self.best_search(x)
        return self.scoring[0](z)

    def _reset_compiled_scoring(self):
        super()._reset_compiled_scoring()
        self._compiled_reconstruction = tf.function(self._searched_reconstruction, jit_compile=LOOPS_WITH_XLA)

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
            vectors["latent_neighbours"] = code
            vectors["mahalanobis"] = code - encoded_hat[-1]
            vectors |= layer_vectors(encoded, encoded_hat, discriminated, discriminator.activations(x_hat))
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
        bank = self.memory_banks["pathway"]
        was_empty = bank.is_empty
        bank.fit(np.concatenate(pathways)[: len(searched)])
        if was_empty:
            self._reset_compiled_scoring()

    def _pathway(self, x, x_hat):
        _, discriminator = self.scoring
        return pathway(discriminator.activations(x), discriminator.activations(x_hat))

    def patches(self, x):
        """The features of each patch, from D's first convolution."""
        _, discriminator = self.scoring
        return layers.local_features(discriminator.features, x)

    def after_fit(self, images, callbacks=()):
        """Fits the encoder if `warm_start` is true."""
        hp = self.hyperparameters
        if not hp.warm_start:
            return
        self.begin_epoch(hp.epochs)
        inversion = Inversion(self)
        inversion.compile()
        shuffled = tf.data.Dataset.from_tensor_slices(images).shuffle(len(images), seed=0)
        batches = shuffled.repeat().batch(hp.batch_size, drop_remainder=True)
        inversion.fit(batches, steps_per_epoch=hp.encoder_steps, verbose=0, shuffle=False, callbacks=list(callbacks))
        self.is_fitted.assign(1.0)
        self._reset_compiled_scoring()

    @contextlib.contextmanager
    def fast_validation(self):
        """A context in which the search has `validation_gamma` steps."""
        self.steps.assign(self.hyperparameters.validation_gamma)
        try:
            yield
        finally:
            self.steps.assign(self.hyperparameters.gamma)
