"""AnoGAN: an image is anomalous if no latent point makes the generator draw it.

A DCGAN learns normal images; G uses the non-saturating form of

    min_G max_D  E log D(x) + E log(1 − D(G(z))),  z ~ N(0, I)       (1)

Then both stand still, and for each image x its own z is searched by Γ steps of Adam, downhill on L(z_γ):

    L_R(z) = ‖x − G(z)‖₁                         (4)
    L_D(z) = ‖f(x) − f(G(z))‖₁                   (5)   f: the features of D, before its logit
    L(z) = (1 − λ) L_R(z) + λ L_D(z),  λ = 0.1   (6)
    A(x) = L(z_Γ),  Γ = 500                      (7)

x is (batch, size, size, channels) in [−1, 1], z is (batch, latent), A is (batch,); norms are sums over one image. A
whole batch is searched in one compiled loop. Every image has its own z and its own Adam state, all begin at the same
point, and batch normalisation uses its running figures, so an image's score knows nothing of other images.

Restarts. The search is repeated from `restarts` points, drawn from N(0, I) once and for all; the lowest L counts.

Warm start. With `warm_start` an encoder E is fitted after the GAN, G and D standing still, to

    E ‖z − E(G(z))‖₂ + E ‖x − G(E(x))‖₁ + E ‖f(x) − f(G(E(x)))‖₂      (means over elements)

on generated pairs and on normal images, and the first search begins at E(x). The idea is f-AnoGAN's, which fits E on
images alone, drops the search and scores G(E(x)); here E only says where to begin, and the score is still (7).

Source: Schlegl, Seeböck, Waldstein, Schmidt-Erfurth and Langs, IPMI 2017 (arXiv 1703.05921); equations as numbered in
1906.11632. f-AnoGAN: Schlegl, Seeböck, Waldstein, Langs and Schmidt-Erfurth, Medical Image Analysis 54 (2019).
"""

import contextlib

import keras
import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.adversarial import AdversarialModel
from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput
from anomaly_toolbox.models.hyperparameters import AnoGANHyperparameters

ENCODER_LEARNING_RATE = 1e-3
#: On a CPU, XLA runs what is inside a loop on a single thread; TensorFlow's own graph takes all of them.
LOOPS_WITH_XLA = bool(tf.config.list_physical_devices("GPU"))
ADAM_BETA_1, ADAM_BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-7  # of the search; those of the training are AdversarialModel's


class Inversion(AdversarialModel):
    """The fitting of E, while G and D stand still."""

    title = "fitting the encoder"
    tracked_losses = ("code", "residual", "features")

    def __init__(self, detector: "AnoGAN"):
        super().__init__()
        self.encoder, self.generator, self.discriminator = detector.encoder, detector.generator, detector.discriminator
        self.noise, self.latent = detector.noise, detector.hyperparameters.latent_vector_size
        self.add_optimizer("e", self.encoder, learning_rate=ENCODER_LEARNING_RATE)

    def train_step(self, x):
        """One step of E on a batch of pairs (G(z), z) and one of normal images."""
        z = layers.normal((x.shape[0], self.latent), self.noise)
        generated = self.generator(z)
        features, _ = self.discriminator(x)
        with tf.GradientTape() as tape:
            code = losses.l2(z, self.encoder(generated, training=True))
            x_hat = self.generator(self.encoder(x, training=True))
            residual = losses.l1(x, x_hat)
            of_features = losses.l2(features, self.discriminator(x_hat)[0])
            loss = code + residual + of_features
        self.update("e", loss, tape)
        return self.running_means(code=code, residual=residual, features=of_features)


class AnoGAN(AnomalyDetector):
    """Scores an image by how near the generator can come to it."""

    Hyperparameters = AnoGANHyperparameters
    tracked_losses = ("g_loss", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: AnoGANHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        hp = hyperparameters
        self.generator = layers.up(hp.image_size, hp.width, channels, hp.latent_vector_size)
        self.discriminator = layers.Discriminator(hp.image_size, hp.width, channels)
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("g", self.generator)
        self.add_optimizer("d", self.discriminator)
        if hp.warm_start:
            self.encoder = layers.Encoder(hp.image_size, hp.width, channels, hp.latent_vector_size)
            self.is_fitted = self.add_weight(name="is_fitted", initializer="zeros", trainable=False)
        #: z_0 of each restart, the same in every run
        self.beginnings = tf.random.stateless_normal((hp.restarts, hp.latent_vector_size), seed=(0, 0), alg="philox")
        self.steps = tf.Variable(hp.gamma, trainable=False)  # a variable, so that another Γ compiles nothing anew

    def train_step(self, x):
        """Both players' steps of (1) from one forward pass."""
        z = layers.normal((x.shape[0], self.hyperparameters.latent_vector_size), self.noise)
        with tf.GradientTape(persistent=True) as tape:
            _, real_logits = self.discriminator(x, training=True)
            _, fake_logits = self.discriminator(self.generator(z, training=True), training=True)
            d_loss = losses.discriminator_loss(real_logits, fake_logits)
            g_loss = losses.generator_loss(fake_logits)
        self.update("d", d_loss, tape)
        self.update("g", g_loss, tape)
        return self.running_means(
            g_loss=g_loss,
            d_loss=d_loss,
            d_real=tf.reduce_mean(tf.sigmoid(real_logits)),
            d_fake=tf.reduce_mean(tf.sigmoid(fake_logits)),
        )

    def search_loss(self, x, features, z):
        """L(z) of (6) for each image, (batch,); `features` is f(x)."""
        hp = self.hyperparameters
        x_hat = self.generator(z)
        residual = losses.l1_norm(x, x_hat)
        discrimination = losses.l1_norm(features, self.discriminator(x_hat)[0])
        return (1 - hp.lambda_) * residual + hp.lambda_ * discrimination

    def search(self, x, z_0):
        """Γ steps of Adam on L, from `z_0` and for each image alone.

        Args:
            x: (batch, size, size, channels).
            z_0: (batch, latent).

        Returns:
            z_Γ, (batch, latent), and A = L(z_Γ), (batch,).
        """
        features, _ = self.discriminator(x)
        still = tf.zeros_like(z_0)
        _, z, _, _ = tf.while_loop(
            lambda number, *_: number < self.steps,
            lambda number, *state: self.search_step(x, features, number, *state),
            (tf.constant(0), z_0, still, still),
        )
        return z, self.search_loss(x, features, z)

    def search_step(self, x, features, number, z, mean, square):
        """Step `number` (from 0) of every image's own Adam; `mean` and `square` are its state, shaped as z."""
        with tf.GradientTape() as tape:
            tape.watch(z)
            loss = self.search_loss(x, features, z)
        gradient = tape.gradient(loss, z)  # of the sum over images: none has a part in another's
        mean = ADAM_BETA_1 * mean + (1 - ADAM_BETA_1) * gradient
        square = ADAM_BETA_2 * square + (1 - ADAM_BETA_2) * gradient**2
        time = tf.cast(number + 1, tf.float32)
        correction = tf.sqrt(1 - ADAM_BETA_2**time) / (1 - ADAM_BETA_1**time)
        rate = self.hyperparameters.search_learning_rate * correction
        return number + 1, z - rate * mean / (tf.sqrt(square) + ADAM_EPSILON), mean, square

    def best_search(self, x):
        """z_Γ and A(x) of the best of all restarts, found side by side."""
        restarts, n = len(self.beginnings), tf.shape(x)[0]
        z_0 = tf.repeat(self.beginnings, n, axis=0)
        if self.is_warm:
            z_0 = tf.concat([self.encoder(x), z_0[n:]], axis=0)
        z, loss = self.search(tf.tile(x, (restarts, 1, 1, 1)), z_0)
        z, loss = tf.reshape(z, (restarts, n, z.shape[1])), tf.reshape(loss, (restarts, n))
        best = tf.argmin(loss)
        return tf.gather(tf.transpose(z, (1, 0, 2)), best, batch_dims=1), tf.reduce_min(loss, axis=0)

    @property
    def is_warm(self) -> bool:
        """Whether there is a fitted encoder."""
        with tf.init_scope():
            return self.hyperparameters.warm_start and bool(self.is_fitted.numpy())

    def make_predict_function(self, force=False):
        """Keras's hook: the search is compiled as `LOOPS_WITH_XLA` says, the training as always."""
        jit_compile_training = self.jit_compile
        self.jit_compile = self.jit_compile and LOOPS_WITH_XLA
        try:
            return super().make_predict_function(force)
        finally:
            self.jit_compile = jit_compile_training

    def reconstruct(self, x):
        """G(z_Γ)."""
        return self._compiled_reconstruction(tf.convert_to_tensor(x))

    @tf.function(jit_compile=LOOPS_WITH_XLA)
    def _compiled_reconstruction(self, x):
        return self.generator(self.best_search(x)[0])

    def anomaly_score(self, x):
        """A(x) of (7)."""
        return self.best_search(x)[1]

    def score_and_reconstruct(self, x):
        """From one search."""
        z, loss = self.best_search(x)
        return ScoreOutput(loss, self.generator(z), self.vectors(x))

    def vectors(self, x):
        """The features of D and, with a warm start, the codes: without any search."""
        features, _ = self.discriminator(x)
        vectors = {"feature_neighbours": layers.flatten(features)}
        if self.is_warm:
            code = self.encoder(x)
            vectors |= {"latent_neighbours": code, "mahalanobis": code - self.encoder(self.generator(code))}
        return vectors

    def patches(self, x):
        """By D's first convolution."""
        return layers.local_features(self.discriminator.features, x)

    def after_fit(self, images, callbacks=()):
        """With `warm_start`, fits E."""
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
        """Searches with `validation_gamma` steps."""
        self.steps.assign(self.hyperparameters.validation_gamma)
        try:
            yield
        finally:
            self.steps.assign(self.hyperparameters.gamma)
