"""Skip-GANomaly: an image is anomalous if its reconstruction by a U-Net differs from it, in pixels or in D's features.

G is a U-Net: each layer of its decoder also sees the feature map of the same size in its encoder.

    L_adv = −𝔼 log D(x̂),  x̂ = G(x)                  non-saturating
    L_con = 𝔼 |x − x̂|
    L_lat = 𝔼 (f(x) − f(x̂))²                        f: the features of D, its smallest map, with 100 channels
    L_G = w_adv L_adv + w_con L_con + w_lat L_lat     w = 1, 40, 1
    L_D = −𝔼 log D(x) − 𝔼 log(1 − D(x̂))
    A(x) = λ R(x) + (1 − λ) L(x),  λ = 0.9
    R(x) = mean (x − x̂)²,  L(x) = mean (f(x) − f(x̂))² of one image

x is (batch, size, size, channels) in [−1, 1], A is (batch,). The losses are means over elements. L_lat trains G alone;
D is trained by L_D.

No skip connection leads from the input to the output at full size: it would copy anomalies through. The others may
carry some of them through as well. Scores are
computed with the running averages of batch normalisation; the authors' program scores in training mode, where the score
of an image depends on the other images of its batch.

Source: Akçay, Atapour-Abarghouei and Breckon, IJCNN 2019 (arXiv 1901.08954).
"""

import keras
import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import ScoreOutput
from anomaly_toolbox.models.gan import GAN
from anomaly_toolbox.models.hyperparameters import SkipGANomalyHyperparameters
from anomaly_toolbox.models.layer_vectors import COMBINED_FROM, gan_vectors

FEATURE_CHANNELS = 100  # of f


class UNet(keras.Model):
    """G: an encoder to a code, and a decoder that also sees the encoder's feature maps.

    With size 32 and width 64: 16x16x64, 8x8x128, 4x4x256, latent, 4x4x256, 8x8x128, 16x16x64, 32x32xchannels; from the
    code on, each map is joined by the map of the same size on the way down.

    (batch, size, size, channels) -> (batch, size, size, channels), in (-1, 1).
    """

    def __init__(self, image_size: int, width: int, channels: int, latent: int):
        super().__init__()
        self.encoder = layers.Encoder(image_size, width, channels, latent)
        sizes = layers.pyramid_sizes(image_size)
        smallest, widest = sizes[-1], width * 2 ** (len(sizes) - 1)
        self.first = keras.Sequential(
            [
                keras.Input((latent,)),
                layers.dense(smallest * smallest * widest),
                keras.layers.Reshape((smallest, smallest, widest)),
                layers.batch_normalisation(),
                keras.layers.ReLU(),
            ]
        )
        self.ups = []
        for depth in reversed(range(len(sizes) - 1)):
            self.ups.append(
                keras.Sequential(
                    [
                        layers.convolution(width * 2**depth, transposed=True),
                        layers.batch_normalisation(),
                        keras.layers.ReLU(),
                    ]
                )
            )
        self.last = layers.convolution(channels, transposed=True)
        self(keras.Input((image_size, image_size, channels)))  # creates the weights

    def call(self, x, training=False):
        return self.decode(self.encoder.activations(x, training), training)

    def decode(self, encoded: list[tf.Tensor], training: bool = False) -> tf.Tensor:
        """x̂ from the activations of the encoder: its feature maps, the largest first, and the code."""
        *larger_maps, smallest_map, code = encoded
        x = self.first(code, training=training)
        x = tf.concat([x, smallest_map], axis=-1)
        for up, feature_map in zip(self.ups, reversed(larger_maps), strict=True):
            x = tf.concat([up(x, training=training), feature_map], axis=-1)
        return tf.tanh(self.last(x))


class Discriminator(keras.Model):
    """D: the pyramid, a convolution that gives the features f(x), and the logit.

    With size 32 and width 64: 16x16x64, 8x8x128, 4x4x256, f(x) = 4x4x100, logit.

    (batch, size, size, channels) -> features (batch, last size, last size, 100) and logits (batch, 1).
    """

    def __init__(self, image_size: int, width: int, channels: int):
        super().__init__()
        self.pyramid = layers.down(image_size, width, channels)
        self.features = layers.convolution(FEATURE_CHANNELS, kernel=3, strides=1)
        self.logit = layers.dense(1)
        self(keras.Input((image_size, image_size, channels)))  # creates the weights

    def call(self, x, training=False):
        features = self.features(self.pyramid(x, training=training))
        return features, self.logit(layers.flatten(features))

    def activations(self, x: tf.Tensor) -> tuple[list[tf.Tensor], tf.Tensor]:
        """The activations of the pyramid's layers, and f(x)."""
        maps, last_map = layers.activations(self.pyramid, x)
        return maps, self.features(last_map)


Networks = tuple[UNet, Discriminator]  # G and D


class SkipGANomaly(GAN[Networks]):
    """Scores an image by its squared residual and by the change of D's features."""

    Hyperparameters = SkipGANomalyHyperparameters
    combined_from = COMBINED_FROM
    tracked_losses = ("g_loss", "adversarial", "contextual", "latent", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: SkipGANomalyHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        self.generator, self.discriminator = self.new_networks()
        self.averages = self.new_averages()
        self.add_optimizer("g", self.generator)
        self.add_optimizer("d", self.discriminator)

    def new_networks(self):
        """G and D."""
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        return (
            UNet(size, hp.width, channels, hp.latent_vector_size),
            Discriminator(size, hp.width, channels),
        )

    @property
    def trained(self):
        """G and D with the latest weights."""
        return self.generator, self.discriminator

    def train_step(self, x):
        """One step of G and one of D, both from one forward pass."""
        hp = self.hyperparameters
        with tf.GradientTape(persistent=True) as tape:
            x_hat = self.generator(x, training=True)
            features, real_logits = self.discriminator(x, training=True)
            features_hat, fake_logits = self.discriminator(x_hat, training=True)
            adversarial = losses.generator_loss(fake_logits)
            contextual = losses.l1(x, x_hat)
            latent = losses.l2(features, features_hat)
            g_loss = (
                hp.adversarial_loss_weight * adversarial
                + hp.contextual_loss_weight * contextual
                + hp.latent_loss_weight * latent
            )
            d_loss = losses.discriminator_loss(real_logits, fake_logits)
        self.update("g", g_loss, tape)
        self.update("d", d_loss, tape)
        self.average_weights()
        return self.running_means(
            g_loss=g_loss,
            adversarial=adversarial,
            contextual=contextual,
            latent=latent,
            d_loss=d_loss,
            **self.judgement(real_logits, fake_logits),
        )

    def reconstruct(self, x):
        """x̂ = G(x)."""
        generator, _ = self.scoring
        return generator(x)

    def anomaly_score(self, x):
        """A(x), (batch,)."""
        return self.score_and_reconstruct(x).score

    def score_and_reconstruct(self, x):
        """A(x), x̂, the vectors and D's logit, from one pass."""
        weight = self.hyperparameters.lambda_
        generator, discriminator = self.scoring
        encoded = generator.encoder.activations(x)
        x_hat = generator.decode(encoded)
        encoded_hat = generator.encoder.activations(x_hat)
        discriminated, features = discriminator.activations(x)
        discriminated_hat, features_hat = discriminator.activations(x_hat)
        score = weight * losses.l2_per_image(x, x_hat) + (1 - weight) * losses.l2_per_image(features, features_hat)
        flat_features = layers.flatten(features)
        vectors = gan_vectors(encoded, encoded_hat, discriminated, discriminated_hat)
        vectors["feature_neighbours"] = flat_features
        return ScoreOutput(score, x_hat, vectors, discriminator.logit(flat_features))

    def patches(self, x):
        """The features of each patch, from D's first convolution."""
        _, discriminator = self.scoring
        return layers.local_features(discriminator.pyramid, x)
