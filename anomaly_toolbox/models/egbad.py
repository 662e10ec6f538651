"""EGBAD: an image is anomalous if a BiGAN does not reproduce it from its code, or if D does not recognise the pair.

D distinguishes the pairs (x, E(x)) from the pairs (G(z), z), z ~ N(0, I). G and E are trained against D:

    min_{G,E} max_D  𝔼 log D(x, E(x)) + 𝔼 log(1 − D(G(z), z))                       (3)

    L_D = −𝔼 log D(x, E(x)) − 𝔼 log(1 − D(G(z), z))
    L_G = −𝔼 log D(G(z), z),   L_E = −𝔼 log(1 − D(x, E(x)))        non-saturating, as in (1)

    A(x) = α ‖x − G(E(x))‖₁ + (1 − α) L_D(x),  α = 0.9
    L_D(x) = ‖f(x, E(x)) − f(G(E(x)), E(x))‖₁        `scoring` = feature_matching; f: the joint layer of D
    L_D(x) = −log D(x, E(x))                         `scoring` = cross_entropy

x is (batch, size, size, channels) in [−1, 1], z is (batch, latent), A is (batch,); norms are sums over one image.

Averaged weights. Images are scored with running averages of the weights, which training does not use. Their decay in
step n = 1, 2, … is min(0.999, n / (9 + n)); with 0.999 from the beginning, the initial weights would dominate the
averages after a short training.

Source: Zenati, Foo, Lecouat, Manek and Chandrasekhar 2018 (arXiv 1802.06222) on Donahue, Krähenbühl and Darrell, ICLR
2017 (1605.09782); equations as numbered in 1906.11632. From the authors' code come three choices that the paper leaves
open: LeakyReLU of slope 0.1, dropout of 0.5 in D, and a first layer of E without activation.
"""

import keras
import tensorflow as tf

from anomaly_toolbox.models import bigan, layers, losses
from anomaly_toolbox.models.base import ScoreOutput
from anomaly_toolbox.models.gan import GAN
from anomaly_toolbox.models.hyperparameters import EGBADHyperparameters
from anomaly_toolbox.models.layer_vectors import COMBINED_FROM, gan_vectors

Networks = tuple[bigan.Encoder, bigan.Generator, bigan.Discriminator]


class EGBAD(GAN[Networks]):
    """Scores an image by its residual and by how differently D judges the image and its reconstruction."""

    Hyperparameters = EGBADHyperparameters
    combined_from = COMBINED_FROM
    always_averages = True  # as in the weights files of earlier versions
    tracked_losses = ("g_loss", "e_loss", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: EGBADHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        self.encoder, self.generator, self.discriminator = self.new_networks()
        self.averages = self.new_averages()
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("d", self.discriminator)
        self.add_optimizer("g", self.generator)
        self.add_optimizer("e", self.encoder)

    def new_networks(self):
        """E, G and D."""
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        latent = hp.latent_vector_size
        return (
            bigan.Encoder(size, hp.width, channels, latent, hp.encoder_activation),
            bigan.Generator(size, hp.width, channels, latent),
            bigan.Discriminator(size, hp.width, channels, latent, hp.discriminator_dropout),
        )

    @property
    def trained(self):
        """E, G and D with the latest weights."""
        return self.encoder, self.generator, self.discriminator

    def train_step(self, x):
        """One step each of D, G and E by (3), all from one forward pass."""
        hp = self.hyperparameters
        z = self.draw_latent(x.shape[0])
        with tf.GradientTape(persistent=True) as tape:
            code = self.encoder(x, training=True)
            generated = self.generator(z, training=True)
            _, real_logits = self.discriminator(x, code, training=True)
            _, fake_logits = self.discriminator(generated, z, training=True)
            d_loss = losses.discriminator_loss(real_logits, fake_logits)
            g_loss = losses.generator_loss(fake_logits)
            e_loss = losses.generator_loss(-real_logits)  # 1 - D is the sigmoid of the negative logit
            # G's batch normalisation averages over G(E(x)) too, which is what images are scored with.
            residual_loss = losses.l1(x, self.generator(code, training=True))
            consistency = hp.consistency_weight * residual_loss
            if hp.code_consistency_weight > 0:
                code_loss = losses.l1(z, self.encoder(generated, training=True))
                consistency += hp.code_consistency_weight * code_loss
            g_objective = g_loss + consistency
            e_objective = e_loss + consistency + hp.reconstruction_loss_weight * residual_loss
        self.update("d", d_loss, tape)
        self.update("g", g_objective, tape)
        self.update("e", e_objective, tape)
        self.average_weights()
        return self.running_means(
            g_loss=g_loss,
            e_loss=e_loss,
            d_loss=d_loss,
            **self.judgement(real_logits, fake_logits),
        )

    def reconstruct(self, x):
        """G(E(x))."""
        encoder, generator, _ = self.scoring
        return generator(encoder(x))

    def anomaly_score(self, x):
        """A(x), (batch,)."""
        return self.score_and_reconstruct(x).score

    def score_and_reconstruct(self, x):
        """A(x), G(E(x)), the vectors and D's logit, from one pass."""
        hp = self.hyperparameters
        encoder, generator, discriminator = self.scoring
        encoded = encoder.activations(x)
        code = encoded[-1]
        x_hat = generator(code)
        encoded_hat = encoder.activations(x_hat)
        discriminated = discriminator.activations(x, code)
        discriminated_hat = discriminator.activations(x_hat, code)
        features, features_hat = discriminated[-1], discriminated_hat[-1]
        logit = discriminator.logit(features)
        if hp.scoring == "feature_matching":
            d_part = losses.l1_norm(features, features_hat)
        else:
            d_part = tf.nn.softplus(-logit[:, 0])
        score = hp.alpha * losses.l1_norm(x, x_hat) + (1 - hp.alpha) * d_part
        vectors = gan_vectors(encoded, encoded_hat, discriminated, discriminated_hat)
        return ScoreOutput(score, x_hat, vectors, logit)

    def patches(self, x):
        """The features of each patch, from D's first convolution."""
        _, _, discriminator = self.scoring
        return layers.local_features(discriminator.of_x, x)
