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

import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput
from anomaly_toolbox.models.hyperparameters import GANomalyHyperparameters


class GANomaly(AnomalyDetector):
    """Scores an image by how far its code changes when it is decoded and encoded again."""

    Hyperparameters = GANomalyHyperparameters
    tracked_losses = ("g_loss", "adversarial", "contextual", "encoder", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: GANomalyHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        hp = hyperparameters
        self.encoder = layers.Encoder(hp.image_size, hp.width, channels, hp.latent_vector_size)  # G_E
        self.decoder = layers.up(hp.image_size, hp.width, channels, hp.latent_vector_size)  # G_D
        self.second_encoder = layers.Encoder(hp.image_size, hp.width, channels, hp.latent_vector_size)  # E
        self.discriminator = layers.Discriminator(hp.image_size, hp.width, channels)
        self.add_optimizer("g", self.encoder, self.decoder, self.second_encoder)
        self.add_optimizer("d", self.discriminator)

    def train_step(self, x):
        """One step of G and E by (11) and one of D by (1), both from one forward pass."""
        hp = self.hyperparameters
        with tf.GradientTape(persistent=True) as tape:
            z, x_hat, z_hat = self.round_trip(x, training=True)
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
        return self.running_means(
            g_loss=g_loss,
            adversarial=adversarial,
            contextual=contextual,
            encoder=encoder,
            d_loss=d_loss,
            d_real=tf.reduce_mean(tf.sigmoid(real_logits)),
            d_fake=tf.reduce_mean(tf.sigmoid(fake_logits)),
        )

    def round_trip(self, x, training=False):
        """z = G_E(x), x̂ = G_D(z) and ẑ = E(x̂)."""
        z = self.encoder(x, training=training)
        x_hat = self.decoder(z, training=training)
        return z, x_hat, self.second_encoder(x_hat, training=training)

    def reconstruct(self, x):
        """x̂ = G(x)."""
        return self.decoder(self.encoder(x))

    def anomaly_score(self, x):
        """A(x) of (12), (batch,)."""
        z, _, z_hat = self.round_trip(x)
        return losses.distance(z, z_hat)

    def score_and_reconstruct(self, x):
        """A(x), x̂ and the vectors, from one forward pass."""
        z, x_hat, z_hat = self.round_trip(x)
        features, _ = self.discriminator(x)
        vectors = {
            "latent_neighbours": z,
            "feature_neighbours": layers.flatten(features),
            "mahalanobis": z - z_hat,
        }
        return ScoreOutput(losses.distance(z, z_hat), x_hat, vectors)

    def patches(self, x):
        """The features of each patch, from D's first convolution."""
        return layers.local_features(self.discriminator.features, x)
