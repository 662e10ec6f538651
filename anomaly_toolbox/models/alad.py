"""ALAD: an image is anomalous if a discriminator of pairs of images tells its reconstruction from the image itself.

A BiGAN with two more discriminators, which make G and E inverse to each other:

    D_xz distinguishes (x, E(x)) from (G(z), z),  z ~ N(0, I)           equation (3) of the survey
    D_xx distinguishes (x, x) from (x, G(E(x)))
    D_zz distinguishes (z, z) from (z, E(G(z)))

    L_D = Σ over the three of −𝔼 log D(first pair) − 𝔼 log(1 − D(second pair))
    L_G = −𝔼 log D_xz(G(z), z) + L_cycle,   L_E = −𝔼 log(1 − D_xz(x, E(x))) + L_cycle
    L_cycle = −𝔼 log D_xx(x, G(E(x))) − 𝔼 log D_zz(z, E(G(z)))
    A(x) = ‖f_xx(x, x) − f_xx(x, G(E(x)))‖₁                             f_xx: the features of D_xx

x is (batch, size, size, channels) in [−1, 1], z is (batch, latent), A is (batch,); the norm is a sum over one image.
Images are scored with averaged weights. Pairs of images are put together along the channels; the authors' program
stacks them along the height.

E and the discriminators have spectral normalisation, by Keras: whenever a network is called in training, its kernels
are divided by estimates of their largest singular values. In the authors' program, the
last layer of each network has none.

Source: Zenati, Romain, Foo, Lecouat and Chandrasekhar, ICDM 2018 (arXiv 1812.02288); (3) as numbered in 1906.11632. The
paper's networks for images are similar pyramids; here they are those of the other methods.
"""

import keras
import tensorflow as tf

from anomaly_toolbox.models import bigan, layers, losses
from anomaly_toolbox.models.base import ScoreOutput
from anomaly_toolbox.models.gan import GAN
from anomaly_toolbox.models.hyperparameters import ALADHyperparameters
from anomaly_toolbox.models.layer_vectors import COMBINED_FROM, gan_vectors

HIDDEN_UNITS = (64, 32)  # of the two hidden layers of D_zz

Networks = tuple[layers.Encoder, keras.Sequential, bigan.Discriminator, layers.Discriminator, keras.Sequential]


def discriminator_of_codes(latent: int, dropout: float) -> keras.Sequential:
    """D_zz: two latent vectors in a row, (batch, 2 latent), -> logits (batch, 1)."""
    blocks = [keras.Input((2 * latent,))]
    for units in HIDDEN_UNITS:
        blocks += [
            layers.dense(units, bias=True, spectral=True),
            keras.layers.LeakyReLU(layers.SLOPE),
            layers.Dropout(dropout),
        ]
    return keras.Sequential([*blocks, layers.dense(1, bias=True, spectral=True)])


class ALAD(GAN[Networks]):
    """Scores an image by how differently D_xx sees the image and its reconstruction."""

    Hyperparameters = ALADHyperparameters
    combined_from = COMBINED_FROM
    tracked_losses = ("g_loss", "e_loss", "d_loss", "xx_loss", "zz_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: ALADHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        # E, G, D_xz, D_xx and D_zz
        self.encoder, self.generator, self.discriminator, self.of_images, self.of_codes = self.new_networks()
        self.averages = self.new_averages()
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("d", self.discriminator, self.of_images, self.of_codes)
        self.add_optimizer("g", self.generator)
        self.add_optimizer("e", self.encoder)

    def new_networks(self):
        """E, G, D_xz, D_xx and D_zz."""
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        latent = hp.latent_vector_size
        return (
            layers.Encoder(size, hp.width, channels, latent, spectral=True),
            layers.up(size, hp.width, channels, latent),
            bigan.Discriminator(size, hp.width, channels, latent, hp.discriminator_dropout, spectral=True),
            layers.Discriminator(size, hp.width, 2 * channels, False, True, hp.discriminator_dropout),
            discriminator_of_codes(latent, hp.discriminator_dropout),
        )

    @property
    def trained(self):
        """E, G, D_xz, D_xx and D_zz with the latest weights."""
        return self.encoder, self.generator, self.discriminator, self.of_images, self.of_codes

    def train_step(self, x):
        """One step each of the three discriminators, of G and of E, all from one forward pass."""
        z = self.draw_latent(x.shape[0])
        with tf.GradientTape(persistent=True) as tape:
            code = self.encoder(x, training=True)
            generated = self.generator(z, training=True)
            x_hat = self.generator(code, training=True)
            z_hat = self.encoder(generated, training=True)
            _, real_xz = self.discriminator(x, code, training=True)
            _, fake_xz = self.discriminator(generated, z, training=True)
            _, real_xx = self.of_images(tf.concat([x, x], axis=-1), training=True)
            _, fake_xx = self.of_images(tf.concat([x, x_hat], axis=-1), training=True)
            real_zz = self.of_codes(tf.concat([z, z], axis=-1), training=True)
            fake_zz = self.of_codes(tf.concat([z, z_hat], axis=-1), training=True)
            xz_loss = losses.discriminator_loss(real_xz, fake_xz)
            xx_loss = losses.discriminator_loss(real_xx, fake_xx)
            zz_loss = losses.discriminator_loss(real_zz, fake_zz)
            d_loss = xz_loss + xx_loss + zz_loss
            cycle = losses.generator_loss(fake_xx) + losses.generator_loss(fake_zz)
            g_loss = losses.generator_loss(fake_xz) + cycle
            e_loss = losses.generator_loss(-real_xz) + cycle  # 1 - D is the sigmoid of the negative logit
        self.update("d", d_loss, tape)
        self.update("g", g_loss, tape)
        self.update("e", e_loss, tape)
        self.average_weights()
        return self.running_means(
            g_loss=g_loss,
            e_loss=e_loss,
            d_loss=d_loss,
            xx_loss=xx_loss,
            zz_loss=zz_loss,
            **self.judgement(real_xz, fake_xz),
        )

    def reconstruct(self, x):
        """G(E(x))."""
        encoder, generator, _, _, _ = self.scoring
        return generator(encoder(x))

    def anomaly_score(self, x):
        """A(x), (batch,)."""
        return self.score_and_reconstruct(x).score

    def score_and_reconstruct(self, x):
        """A(x), G(E(x)), the vectors and the logit of D_xz, from one pass."""
        encoder, generator, discriminator, of_images, _ = self.scoring
        encoded = encoder.activations(x)
        code = encoded[-1]
        x_hat = generator(code)
        encoded_hat = encoder.activations(x_hat)
        discriminated = discriminator.activations(x, code)
        discriminated_hat = discriminator.activations(x_hat, code)
        features, _ = of_images(tf.concat([x, x], axis=-1))
        features_hat, _ = of_images(tf.concat([x, x_hat], axis=-1))
        vectors = gan_vectors(encoded, encoded_hat, discriminated, discriminated_hat)
        score = losses.l1_norm(features, features_hat)
        return ScoreOutput(score, x_hat, vectors, discriminator.logit(discriminated[-1]))

    def patches(self, x):
        """The features of each patch, from the first convolution of D_xz."""
        _, _, discriminator, _, _ = self.scoring
        return layers.local_features(discriminator.of_x, x)
