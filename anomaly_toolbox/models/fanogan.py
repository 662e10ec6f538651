"""f-AnoGAN: an image is anomalous if an encoder finds no latent vector from which the generator makes a similar image.

A Wasserstein GAN with a gradient penalty learns normal images; its critic C gives a number instead of a probability:

    L_C = 𝔼 C(G(z)) − 𝔼 C(x) + 10 𝔼 (‖∇C(x̃)‖₂ − 1)²,    x̃ = ε x + (1 − ε) G(z),  ε ~ U(0, 1),  z ~ N(0, I)
    L_G = −𝔼 C(G(z))

C takes `critic_steps` = 5 steps for each step of G, each on another part of the batch; the step of G has as many images
as one of these parts. Then the weights of G and C are fixed, and the encoder E is fitted to normal images:

    L_E = mean (x − G(E(x)))² + κ mean (f(x) − f(G(E(x))))²,  κ = 1        f: the features of C, before its output
    A(x) = the same expression for one image

x is (batch, size, size, channels) in [−1, 1], z is (batch, latent), A is (batch,). In contrast to AnoGAN, scoring takes
no search. C has no batch normalisation, because the penalty refers to the gradient of each image by itself.

E also takes a step in each training step, so that the scores after each epoch mean something; G and C are fixed in
these steps. After the epochs, E goes on for `encoder_steps` steps, with a learning rate of 1e-3 and batches of
batch_size / critic_steps images. The authors fit E in 50,000 steps with a smaller rate.

Source: Schlegl, Seeböck, Waldstein, Langs and Schmidt-Erfurth, Medical Image Analysis 54 (2019), "izi_f"; the
critic's loss: Gulrajani, Ahmed, Arjovsky, Dumoulin and Courville, NeurIPS 2017 (arXiv 1704.00028). The paper's networks
are residual, and its critic has layer normalisation; here they are plain convolutional networks, as in the other
methods.
"""

import keras
import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import ScoreOutput
from anomaly_toolbox.models.gan import GAN
from anomaly_toolbox.models.hyperparameters import FAnoGANHyperparameters
from anomaly_toolbox.models.inversion import LEARNING_RATE, fit_encoder
from anomaly_toolbox.models.layer_vectors import COMBINED_FROM, gan_vectors

Networks = tuple[keras.Sequential, layers.Discriminator]  # G and C

BETAS = (0.0, 0.9)  # of Adam, for G and C


def part_sizes(n_images: int, n_parts: int) -> list[int]:
    """The sizes of the parts of a batch, which differ by one if the batch cannot be divided evenly.

    >>> part_sizes(32, 5)
    [7, 7, 6, 6, 6]
    """
    smaller, n_larger = divmod(n_images, n_parts)
    return [smaller + 1] * n_larger + [smaller] * (n_parts - n_larger)


class FAnoGAN(GAN[Networks]):
    """Scores an image by its squared residual and by the change of the critic's features."""

    Hyperparameters = FAnoGANHyperparameters
    combined_from = COMBINED_FROM
    tracked_losses = ("g_loss", "c_loss", "penalty", "e_loss")

    def __init__(self, hyperparameters: FAnoGANHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        hp = hyperparameters
        self.generator, self.critic = self.new_networks()
        self.averages = self.new_averages()
        self.encoder = layers.Encoder(
            hp.image_size, hp.width, channels, hp.latent_vector_size, activation=hp.code_activation
        )
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("c", self.critic, betas=BETAS, updates_per_step=hp.critic_steps)
        self.add_optimizer("g", self.generator, betas=BETAS)
        self.add_optimizer("e", self.encoder, learning_rate=LEARNING_RATE)

    def new_networks(self):
        """G and C."""
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        return (
            layers.up(size, hp.width, channels, hp.latent_vector_size),
            layers.Discriminator(size, hp.width, channels, normalised=False),
        )

    @property
    def trained(self):
        """G and C with the latest weights."""
        return self.generator, self.critic

    def train_step(self, x):
        """`critic_steps` steps of C, each on its part of the batch, and one of G and one of E."""
        parts = tf.split(x, part_sizes(x.shape[0], self.hyperparameters.critic_steps))
        for part in parts:
            c_loss, penalty = self.critic_step(part)
        with tf.GradientTape() as tape:
            _, fake_outputs = self.critic(self.generator(self.draw_latent(parts[0].shape[0]), training=True))
            g_loss = -tf.reduce_mean(fake_outputs)
        self.update("g", g_loss, tape)
        with tf.GradientTape() as tape:
            e_loss = self.encoder_loss(parts[0])
        self.update("e", e_loss, tape)
        self.average_weights()
        return self.running_means(g_loss=g_loss, c_loss=c_loss, penalty=penalty, e_loss=e_loss)

    def critic_step(self, x):
        """One step of C on a part of a batch; returns L_C and the penalty without its weight."""
        generated = self.generator(self.draw_latent(x.shape[0]), training=True)
        share = layers.uniform((x.shape[0], 1, 1, 1), self.noise)
        between = share * x + (1 - share) * generated
        with tf.GradientTape() as tape:
            _, real_outputs = self.critic(x)
            _, fake_outputs = self.critic(generated)
            penalty = losses.gradient_penalty(lambda images: self.critic(images)[1], between)
            distance = losses.critic_loss(real_outputs, fake_outputs)
            loss = distance + self.hyperparameters.gradient_penalty_weight * penalty
        self.update("c", loss, tape)
        return loss, penalty

    def encoder_loss(self, x):
        """L_E on a batch of normal images; G and C are those that score images."""
        generator, critic = self.scoring
        x_hat = generator(self.encoder(x, training=True))
        features, _ = critic(x)
        features_hat, _ = critic(x_hat)
        return tf.reduce_mean(self.difference(x, x_hat, features, features_hat))

    def difference(self, x, x_hat, features, features_hat):
        """The expression in L_E and A(x) for each image, (batch,)."""
        residual = losses.l2_per_image(x, x_hat)
        return residual + self.hyperparameters.kappa * losses.l2_per_image(features, features_hat)

    def after_fit(self, images, callbacks=()):
        """Fits E, while G and C are fixed."""
        hp = self.hyperparameters
        fit_encoder(self, images, hp.batch_size // hp.critic_steps, callbacks)

    def reconstruct(self, x):
        """G(E(x))."""
        generator, _ = self.scoring
        return generator(self.encoder(x))

    def anomaly_score(self, x):
        """A(x), (batch,)."""
        return self.score_and_reconstruct(x).score

    def score_and_reconstruct(self, x):
        """A(x), G(E(x)) and the vectors, from one pass."""
        generator, critic = self.scoring
        encoded = self.encoder.activations(x)
        code = encoded[-1]
        x_hat = generator(code)
        encoded_hat = self.encoder.activations(x_hat)
        criticised, criticised_hat = critic.activations(x), critic.activations(x_hat)
        score = self.difference(x, x_hat, criticised[-1], criticised_hat[-1])
        vectors = gan_vectors(encoded, encoded_hat, criticised, criticised_hat)
        return ScoreOutput(score, x_hat, vectors)

    def patches(self, x):
        """The features of each patch, from C's first convolution."""
        _, critic = self.scoring
        return layers.local_features(critic.features, x)
