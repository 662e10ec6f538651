"""AAE: an image is anomalous if an autoencoder that is trained to have normally distributed codes reproduces it badly.

    z = E(x),  x̂ = G(z)

    L_rec = 𝔼 (x − x̂)²                                                   mean over elements
    L_D = −𝔼 log D(z′) − 𝔼 log(1 − D(E(x))),  z′ ~ N(0, I)
    L = L_rec + w L_adv,  L_adv = −𝔼 log D(E(x)),  w = 0.1               of E and G
    A(x) = ‖x − x̂‖₂ of one image

x is (batch, size, size, channels) in [−1, 1], z is (batch, latent), A is (batch,). D distinguishes codes, not images:
it makes the codes of normal images normally distributed. D is small, so a step costs little more than that of an
autoencoder. In the paper, three steps follow one another for each batch: on L_rec, on L_D and on L_adv. Here all losses
are computed from one forward pass.

The score `discriminator` is −log D(E(x)): how untypical the code is. `pathway`, which RaPP proposes for autoencoders,
follows E alone.

Source: Makhzani, Shlens, Jaitly, Goodfellow and Frey 2015 (arXiv 1511.05644); the score, and the code length of 20:
Kim et al., RaPP, ICLR 2020.
"""

import keras
import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import ScoreOutput
from anomaly_toolbox.models.gan import GAN
from anomaly_toolbox.models.hyperparameters import AAEHyperparameters
from anomaly_toolbox.models.layer_vectors import pathway, pooled

HIDDEN_UNITS = 64  # of each of the two hidden layers of D

Networks = tuple[layers.Encoder, keras.Sequential, keras.Sequential]


def code_discriminator(latent: int) -> keras.Sequential:
    """D: (batch, latent) -> logits (batch, 1), through 64 and 64 units with LeakyReLU."""
    return keras.Sequential(
        [
            keras.Input((latent,)),
            keras.layers.Dense(HIDDEN_UNITS),
            keras.layers.LeakyReLU(layers.SLOPE),
            keras.layers.Dense(HIDDEN_UNITS),
            keras.layers.LeakyReLU(layers.SLOPE),
            keras.layers.Dense(1),
        ]
    )


class AAE(GAN[Networks]):
    """Scores an image by its Euclidean distance from its reconstruction."""

    Hyperparameters = AAEHyperparameters
    combined_from = ("pathway", "latent_neighbours", "encoder_neighbours")
    tracked_losses = ("g_loss", "reconstruction", "adversarial", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: AAEHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        self.encoder, self.decoder, self.discriminator = self.new_networks()
        self.averages = self.new_averages()
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("g", self.encoder, self.decoder)
        self.add_optimizer("d", self.discriminator)

    def new_networks(self):
        """E, G and D."""
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        return (
            layers.Encoder(size, hp.width, channels, hp.latent_vector_size),
            layers.up(size, hp.width, channels, hp.latent_vector_size),
            code_discriminator(hp.latent_vector_size),
        )

    @property
    def trained(self):
        """E, G and D with the latest weights."""
        return self.encoder, self.decoder, self.discriminator

    def train_step(self, x):
        """One step of E and G on L and one of D on L_D, both from one forward pass."""
        hp = self.hyperparameters
        drawn = self.draw_latent(x.shape[0])
        with tf.GradientTape(persistent=True) as tape:
            z = self.encoder(x, training=True)
            x_hat = self.decoder(z, training=True)
            drawn_logits = self.discriminator(drawn)
            code_logits = self.discriminator(z)
            reconstruction = losses.l2(x, x_hat)
            adversarial = losses.generator_loss(code_logits)
            g_loss = reconstruction + hp.adversarial_loss_weight * adversarial
            d_loss = losses.discriminator_loss(drawn_logits, code_logits)
        self.update("g", g_loss, tape)
        self.update("d", d_loss, tape)
        self.average_weights()
        return self.running_means(
            g_loss=g_loss,
            reconstruction=reconstruction,
            adversarial=adversarial,
            d_loss=d_loss,
            **self.judgement(drawn_logits, code_logits),
        )

    def reconstruct(self, x):
        """x̂ = G(E(x))."""
        encoder, decoder, _ = self.scoring
        return decoder(encoder(x))

    def anomaly_score(self, x):
        """A(x), (batch,)."""
        return losses.distance(layers.flatten(x), layers.flatten(self.reconstruct(x)))

    def score_and_reconstruct(self, x):
        """A(x), x̂, the vectors and D's logit of the code, from one pass."""
        encoder, decoder, discriminator = self.scoring
        encoded = encoder.activations(x)
        z = encoded[-1]
        x_hat = decoder(z)
        encoded_hat = encoder.activations(x_hat)
        vectors = {
            "latent_neighbours": z,
            "mahalanobis": z - encoded_hat[-1],
            "pathway": pathway(encoded, encoded_hat),
            "encoder_neighbours": pooled(encoded),
        }
        score = losses.distance(layers.flatten(x), layers.flatten(x_hat))
        return ScoreOutput(score, x_hat, vectors, discriminator(z))

    def patches(self, x):
        """The features of each patch, from E's first convolution."""
        encoder, _, _ = self.scoring
        return layers.local_features(encoder.pyramid, x)
