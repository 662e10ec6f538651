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

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput
from anomaly_toolbox.models.hyperparameters import EGBADHyperparameters
from anomaly_toolbox.models.layer_vectors import COMBINED_FROM, layer_vectors

SLOPE = 0.1  # of LeakyReLU, for negative inputs


class Encoder(keras.Model):
    """E, 3x3 convolutions and a dense layer; the first convolution has no activation unless `activation` is true.

    With size 28 and width 64: 28x28x32, 14x14x64, 7x7x128, latent.

    (batch, size, size, channels) -> (batch, latent).
    """

    def __init__(self, image_size: int, width: int, channels: int, latent: int, activation: bool):
        super().__init__()
        blocks = [
            keras.Input((image_size, image_size, channels)),
            layers.convolution(width // 2, kernel=3, strides=1, bias=True),
        ]
        if activation:
            blocks.append(keras.layers.LeakyReLU(SLOPE))
        for depth, _ in enumerate(layers.pyramid_sizes(image_size)):
            blocks += [
                layers.convolution(width * 2**depth, kernel=3, bias=True),
                layers.batch_normalisation(),
                keras.layers.LeakyReLU(SLOPE),
            ]
        blocks += [keras.layers.Flatten(), layers.dense(latent, bias=True)]
        self.network = keras.Sequential(blocks)

    def call(self, x, training=False):
        return self.network(x, training=training)

    def activations(self, x: tf.Tensor) -> list[tf.Tensor]:
        """The activations of every layer, the code last."""
        feature_maps, code = layers.activations(self.network, x)
        return [*feature_maps, code]


class Generator(keras.Model):
    """G, two dense layers and transposed convolutions.

    With size 28 and width 64: 1024, 7x7x128, 14x14x64, 28x28xchannels.

    (batch, latent) -> (batch, size, size, channels), in (-1, 1).
    """

    def __init__(self, image_size: int, width: int, channels: int, latent: int):
        super().__init__()
        sizes = layers.pyramid_sizes(image_size)
        smallest = sizes[-1]
        widest = width * 2 ** (len(sizes) - 1)
        blocks = [
            keras.Input((latent,)),
            layers.dense(16 * width, bias=True),
            layers.batch_normalisation(),
            keras.layers.ReLU(),
            layers.dense(smallest * smallest * widest, bias=True),
            layers.batch_normalisation(),
            keras.layers.ReLU(),
            keras.layers.Reshape((smallest, smallest, widest)),
        ]
        for depth in reversed(range(len(sizes) - 1)):
            blocks += [
                layers.convolution(width * 2**depth, transposed=True, bias=True),
                layers.batch_normalisation(),
                keras.layers.ReLU(),
            ]
        blocks += [layers.convolution(channels, transposed=True, bias=True), keras.layers.Activation("tanh")]
        self.network = keras.Sequential(blocks)

    def call(self, z, training=False):
        return self.network(z, training=training)


class Discriminator(keras.Model):
    """D, with a branch for images, a branch for latent vectors, and a joint layer with the features f(x, z).

    With size 28 and width 64: x through 14x14x64 and 7x7x64, z through 512, both through f(x, z) = 1024, logit.

    (batch, size, size, channels) and (batch, latent) -> features (batch, 16 width) and logits (batch, 1).
    """

    def __init__(self, image_size: int, width: int, channels: int, latent: int, dropout: float):
        super().__init__()
        image_blocks = [keras.Input((image_size, image_size, channels))]
        for depth, _ in enumerate(layers.pyramid_sizes(image_size)):
            image_blocks.append(layers.convolution(width, bias=True))
            if depth > 0:
                image_blocks.append(layers.batch_normalisation())
            image_blocks += [keras.layers.LeakyReLU(SLOPE), layers.Dropout(dropout)]
        self.of_x = keras.Sequential([*image_blocks, keras.layers.Flatten()])
        self.of_z = _dense_block(latent, 8 * width, dropout)
        self.joint = _dense_block(self.of_x.output_shape[1] + 8 * width, 16 * width, dropout)
        self.logit = keras.Sequential([keras.Input((16 * width,)), layers.dense(1, bias=True)])

    def call(self, x, z, training=False):
        branches = [self.of_x(x, training=training), self.of_z(z, training=training)]
        features = self.joint(tf.concat(branches, axis=1), training=training)
        return features, self.logit(features)

    def activations(self, x: tf.Tensor, z: tf.Tensor) -> list[tf.Tensor]:
        """The activations of the layers that see the image, f(x, z) last."""
        feature_maps, of_x = layers.activations(self.of_x, x)
        return [*feature_maps, self.joint(tf.concat([of_x, self.of_z(z)], axis=1))]


class EGBAD(AnomalyDetector):
    """Scores an image by its residual and by how differently D judges the image and its reconstruction.

    Attributes:
        averages: E, G and D with the averaged weights, which score images.
    """

    Hyperparameters = EGBADHyperparameters
    combined_from = COMBINED_FROM
    tracked_losses = ("g_loss", "e_loss", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: EGBADHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        self.encoder, self.generator, self.discriminator = self._new_networks()
        self.averages = self._new_networks()
        for network in self.averages:
            network.trainable = False
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("d", self.discriminator)
        self.add_optimizer("g", self.generator)
        self.add_optimizer("e", self.encoder)

    def _new_networks(self) -> tuple[Encoder, Generator, Discriminator]:
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        return (
            Encoder(size, hp.width, channels, hp.latent_vector_size, hp.encoder_activation),
            Generator(size, hp.width, channels, hp.latent_vector_size),
            Discriminator(size, hp.width, channels, hp.latent_vector_size, hp.discriminator_dropout),
        )

    def train_step(self, x):
        """One step each of D, G and E by (3), all from one forward pass."""
        hp = self.hyperparameters
        z = layers.normal((x.shape[0], hp.latent_vector_size), self.noise)
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
        self.update_averages(self.averages, (self.encoder, self.generator, self.discriminator), hp.weight_averaging)
        return self.running_means(
            g_loss=g_loss,
            e_loss=e_loss,
            d_loss=d_loss,
            d_real=tf.reduce_mean(tf.sigmoid(real_logits)),
            d_fake=tf.reduce_mean(tf.sigmoid(fake_logits)),
        )

    def reconstruct(self, x):
        """G(E(x))."""
        encoder, generator, _ = self.averages
        return generator(encoder(x))

    def anomaly_score(self, x):
        """A(x), (batch,)."""
        return self.score_and_reconstruct(x).score

    def score_and_reconstruct(self, x):
        """A(x), G(E(x)), the vectors and D's logit, from one pass."""
        hp = self.hyperparameters
        encoder, generator, discriminator = self.averages
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
        vectors = {
            "latent_neighbours": code,
            "feature_neighbours": features,
            "mahalanobis": code - encoded_hat[-1],
            **layer_vectors(encoded, encoded_hat, discriminated, discriminated_hat),
        }
        return ScoreOutput(score, x_hat, vectors, logit)

    def patches(self, x):
        """The features of each patch, from D's first convolution."""
        _, _, discriminator = self.averages
        return layers.local_features(discriminator.of_x, x)


def _dense_block(n_inputs: int, units: int, dropout: float) -> keras.Sequential:
    return keras.Sequential(
        [
            keras.Input((n_inputs,)),
            layers.dense(units, bias=True),
            keras.layers.LeakyReLU(SLOPE),
            layers.Dropout(dropout),
        ]
    )
