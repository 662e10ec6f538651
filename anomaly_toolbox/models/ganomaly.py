"""GANomaly: an image is anomalous if its code changes when it is decoded and encoded again.

    z = G_E(x),  x̂ = G_D(z) = G(x),  ẑ = E(x̂)

    L_adv = ‖f(x) − f(G(x))‖₂                      (8)   f: the features of the discriminator D
    L_con = ‖x − G(x)‖₁                            (9)
    L_enc = ‖G_E(x) − E(G(x))‖₂                    (10)
    L = w_adv L_adv + w_con L_con + w_enc L_enc    (11)  w = 1, 50, 1
    A(x) = ‖G_E(x) − E(G(x))‖₂                     (12)

D distinguishes x from G(x) by (1). x is (batch, size, size, channels) in [−1, 1], z and ẑ are (batch, latent), A is
(batch,). The training losses (8) to (10) are means over elements (of squares for ‖·‖₂), as in the authors' code; the
weights of (11) refer to these means. (12) is the Euclidean distance itself; (13) rescales it, in `evaluation.py`.

The floor of D's loss. Early reconstructions are blurred, and D recognises them at once. Its loss and its gradient
vanish, and the features that (8) compares stop improving. The authors initialise D again when its loss falls below
1e-5, which discards those features. Here D is not updated while its loss on the batch is at or below
`discriminator_loss_floor`, so D keeps its features while the generator catches up. In TensorBoard, the curves `d_loss`,
`d_real` = mean D(x) and `d_fake` = mean D(G(x)) show the effect.

Source: Akcay, Atapour-Abarghouei and Breckon, ACCV 2018 (arXiv 1805.06725); equations as numbered in 1906.11632.
"""

import keras
import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import ScoreOutput
from anomaly_toolbox.models.gan import GAN
from anomaly_toolbox.models.hyperparameters import GANomalyHyperparameters
from anomaly_toolbox.models.layer_vectors import COMBINED_FROM, gan_vectors

Networks = tuple[layers.Encoder, keras.Sequential, layers.Encoder, layers.Discriminator]


class GANomaly(GAN[Networks]):
    """Scores an image by how far its code changes when it is decoded and encoded again."""

    Hyperparameters = GANomalyHyperparameters
    combined_from = COMBINED_FROM
    tracked_losses = ("g_loss", "adversarial", "contextual", "encoder", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: GANomalyHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        # G_E, G_D, E and D
        self.encoder, self.decoder, self.second_encoder, self.discriminator = self.new_networks()
        self.averages = self.new_averages()
        self.add_optimizer("g", self.encoder, self.decoder, self.second_encoder)
        self.add_optimizer("d", self.discriminator)

    def new_networks(self):
        """G_E, G_D, E and D."""
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        return (
            layers.Encoder(size, hp.width, channels, hp.latent_vector_size),
            layers.up(size, hp.width, channels, hp.latent_vector_size),
            layers.Encoder(size, hp.width, channels, hp.latent_vector_size),
            layers.Discriminator(size, hp.width, channels),
        )

    @property
    def trained(self):
        """G_E, G_D, E and D with the latest weights."""
        return self.encoder, self.decoder, self.second_encoder, self.discriminator

    def train_step(self, x):
        """One step of G and E by (11) and one of D by (1), both from one forward pass."""
        hp = self.hyperparameters
        with tf.GradientTape(persistent=True) as tape:
            z = self.encoder(x, training=True)
            x_hat = self.decoder(z, training=True)
            z_hat = self.second_encoder(x_hat, training=True)
            real_features, real_logits = self.discriminator(x, training=True)
            fake_features, fake_logits = self.discriminator(x_hat, training=True)
            adversarial = losses.l2(tf.stop_gradient(real_features), fake_features)
            contextual = losses.l1(x, x_hat)
            encoder = losses.l2(z, z_hat)
            g_loss = (
                hp.adversarial_loss_weight * adversarial
                + hp.contextual_loss_weight * contextual
                + hp.enc_loss_weight * encoder
            )
            d_loss = losses.discriminator_loss(real_logits, fake_logits)
        self.update("g", g_loss, tape)
        self.update("d", d_loss, tape, only_if=d_loss > hp.discriminator_loss_floor)
        self.average_weights()
        return self.running_means(
            g_loss=g_loss,
            adversarial=adversarial,
            contextual=contextual,
            encoder=encoder,
            d_loss=d_loss,
            **self.judgement(real_logits, fake_logits),
        )

    def reconstruct(self, x):
        """x̂ = G(x)."""
        encoder, decoder, _, _ = self.scoring
        return decoder(encoder(x))

    def anomaly_score(self, x):
        """A(x) of (12), (batch,)."""
        encoder, decoder, second_encoder, _ = self.scoring
        z = encoder(x)
        return losses.distance(z, second_encoder(decoder(z)))

    def score_and_reconstruct(self, x):
        """A(x), x̂, the vectors and D's logit, from one pass."""
        encoder, decoder, second_encoder, discriminator = self.scoring
        encoded = encoder.activations(x)
        z = encoded[-1]
        x_hat = decoder(z)
        z_hat = second_encoder(x_hat)
        discriminated = discriminator.activations(x)
        features = layers.flatten(discriminated[-1])
        vectors = gan_vectors(encoded, encoder.activations(x_hat), discriminated, discriminator.activations(x_hat))
        vectors["mahalanobis"] = z - z_hat
        return ScoreOutput(losses.distance(z, z_hat), x_hat, vectors, discriminator.logit(features))

    def patches(self, x):
        """The features of each patch, from D's first convolution."""
        _, _, _, discriminator = self.scoring
        return layers.local_features(discriminator.features, x)
