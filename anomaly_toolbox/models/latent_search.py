"""The search of latent vectors: which image that G can generate is the most similar to a given one?

For each image x, Γ steps of Adam minimise over z, while the weights of G and D are fixed:

    L_R(z) = ‖x − G(z)‖₁                         (4)
    L_D(z) = ‖f(x) − f(G(z))‖₁                   (5)   f: the features of D, before its logit
    L(z) = (1 − λ) L_R(z) + λ L_D(z)             (6)

Norms are sums over one image. One compiled loop searches for all images of a batch. Each image has its own z and its
own state of Adam, the starting points do not depend on other images, and batch normalisation uses its running averages.
The result of an image therefore does not depend on the other images.

Equations as numbered in 1906.11632.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from anomaly_toolbox.models import losses
from anomaly_toolbox.models.gan import GAN, Networks

#: On a CPU, XLA runs a loop on one thread; without XLA, TensorFlow uses all threads.
LOOPS_WITH_XLA = bool(tf.config.list_physical_devices("GPU"))
ADAM_BETA_1, ADAM_BETA_2, ADAM_EPSILON = 0.9, 0.999, 1e-7  # Keras's defaults

LossOfLatent = Callable[[tf.Tensor], tf.Tensor]  # (batch, latent) -> (batch,)


def minimise(loss: LossOfLatent, z_0: tf.Tensor, steps: tf.Tensor, learning_rate: float) -> tf.Tensor:
    """Minimises the loss of each latent vector by Adam.

    Args:
        loss: the loss of each latent vector; it must not depend on the other vectors.
        z_0: the start of each search, (batch, latent).
        steps: Γ, a scalar.
        learning_rate: of Adam.

    Returns:
        z_Γ, (batch, latent).
    """

    def is_unfinished(step, *_):
        return step < steps

    def take_step(step, z, first_moment, second_moment):
        return adam_step(loss, learning_rate, step, z, first_moment, second_moment)

    zeros = tf.zeros_like(z_0)
    _, z, _, _ = tf.while_loop(is_unfinished, take_step, (tf.constant(0), z_0, zeros, zeros))
    return z


def adam_step(loss, learning_rate, step, z, first_moment, second_moment):
    """One step of Adam for each latent vector.

    Args:
        loss, learning_rate: see `minimise`.
        step: the number of steps before this one.
        z: (batch, latent).
        first_moment: Adam's running average of the gradient, (batch, latent).
        second_moment: Adam's running average of the squared gradient, (batch, latent).

    Returns:
        The new `step`, `z`, `first_moment` and `second_moment`.
    """
    with tf.GradientTape() as tape:
        tape.watch(z)
        losses_of_images = loss(z)
    # This is the gradient of the sum over the batch, in which each z appears in the loss of its own image only.
    gradient = tape.gradient(losses_of_images, z)
    first_moment = ADAM_BETA_1 * first_moment + (1 - ADAM_BETA_1) * gradient
    second_moment = ADAM_BETA_2 * second_moment + (1 - ADAM_BETA_2) * gradient**2
    time = tf.cast(step + 1, tf.float32)
    bias_correction = tf.sqrt(1 - ADAM_BETA_2**time) / (1 - ADAM_BETA_1**time)
    z = z - learning_rate * bias_correction * first_moment / (tf.sqrt(second_moment) + ADAM_EPSILON)
    return step + 1, z, first_moment, second_moment


class SearchingGAN(GAN[Networks]):
    """A GAN that scores an image by the loss of the most similar image that the search finds.

    A subclass defines `generate`, `features` and `searched_reconstruction`. What `generate` needs besides latent
    vectors, such as classes, is called conditions here.

    Attributes:
        starting_points: the latent vectors from which the restarts search, (restarts, latent).
        steps: Γ, the number of steps of the search.
    """

    def __init__(self, hyperparameters: Any, channels: int):
        super().__init__(hyperparameters, channels)
        shape = (hyperparameters.restarts, hyperparameters.latent_vector_size)
        self.starting_points = tf.random.stateless_normal(shape, seed=(0, 0), alg="philox")
        self.steps = tf.Variable(hyperparameters.gamma, trainable=False)  # can change without another compilation

    def generate(self, z: tf.Tensor, *conditions: tf.Tensor) -> tf.Tensor:
        """G(z), (batch, size, size, channels)."""
        raise NotImplementedError

    def features(self, x: tf.Tensor) -> tf.Tensor:
        """f(x), (batch, ...)."""
        raise NotImplementedError

    def searched_reconstruction(self, x: tf.Tensor) -> tf.Tensor:
        """G(z_Γ) of the best search, of the same shape as `x`."""
        raise NotImplementedError

    def search_loss(self, x, features, z, *conditions):
        """L(z) of (6) for each image.

        Args:
            x: (batch, size, size, channels).
            features: f(x).
            z: (batch, latent).
            conditions: see `generate`.

        Returns:
            (batch,).
        """
        weight = self.hyperparameters.lambda_
        x_hat = self.generate(z, *conditions)
        residual_loss = losses.l1_norm(x, x_hat)
        discrimination_loss = losses.l1_norm(features, self.features(x_hat))
        return (1 - weight) * residual_loss + weight * discrimination_loss

    def search(self, x, z_0, *conditions):
        """Minimises L for each image by Γ steps of Adam.

        Args:
            x: (batch, size, size, channels).
            z_0: the start of each search, (batch, latent).
            conditions: see `generate`.

        Returns:
            z_Γ, (batch, latent), and L(z_Γ), (batch,).
        """
        features = self.features(x)

        def loss(z):
            return self.search_loss(x, features, z, *conditions)

        z = minimise(loss, z_0, self.steps, self.hyperparameters.search_learning_rate)
        return z, loss(z)

    def best_of_searches(self, x, starts, *conditions):
        """Searches from several starts at the same time, and keeps the best search of each image.

        Args:
            x: (batch, size, size, channels).
            starts: (starts, batch, latent).
            conditions: those of each start, (starts, batch, ...) each.

        Returns:
            The lowest loss, (batch,), its z_Γ, (batch, latent), and its conditions, (batch, ...) each.
        """
        n_starts, batch_size = starts.shape[0], tf.shape(x)[0]
        flat = [tf.reshape(values, (-1, values.shape[-1])) for values in (starts, *conditions)]
        z, loss = self.search(tf.tile(x, (n_starts, 1, 1, 1)), *flat)
        loss = tf.reshape(loss, (n_starts, batch_size))
        best = tf.argmin(loss, axis=0)
        found = []
        for values in (z, *flat[1:]):
            of_starts = tf.reshape(values, (n_starts, batch_size, values.shape[-1]))
            found.append(tf.gather(tf.transpose(of_starts, (1, 0, 2)), best, batch_dims=1))
        return tf.reduce_min(loss, axis=0), *found

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

    def _forget_compiled_scoring(self):
        super()._forget_compiled_scoring()
        self._compiled_reconstruction = tf.function(
            self.searched_reconstruction, autograph=False, jit_compile=LOOPS_WITH_XLA
        )

    @contextlib.contextmanager
    def fast_validation(self):
        """A context in which the search has `validation_gamma` steps."""
        self.steps.assign(self.hyperparameters.validation_gamma)
        try:
            yield
        finally:
            self.steps.assign(self.hyperparameters.gamma)
