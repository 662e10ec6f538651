"""EGBAD: an image is anomalous if a BiGAN's generator cannot make it from its code, or its pair looks wrong to D.

D tells pairs (x, E(x)) from pairs (G(z), z), z ~ N(0, I); G and E want it to mistake one for the other:

    min_{G,E} max_D  E log D(x, E(x)) + E log(1 − D(G(z), z))                       (3)

    L_D = −E log D(x, E(x)) − E log(1 − D(G(z), z))
    L_G = −E log D(G(z), z),   L_E = −E log(1 − D(x, E(x)))        the opposite targets, as in (1) non-saturating

    A(x) = α ‖x − G(E(x))‖₁ + (1 − α) L_D(x),  α = 0.9
    L_D(x) = ‖f(x, E(x)) − f(G(E(x)), E(x))‖₁        `scoring` = feature_matching; f: the joint layer of D
    L_D(x) = −log D(x, E(x))                         `scoring` = cross_entropy

x is (batch, size, size, channels) in [−1, 1], z is (batch, latent), A is (batch,); norms are sums. Images are scored
by running averages of the networks' weights (0.999), which the game itself does not use. The average of n steps forgets
as min(0.999, (1 + n) / (10 + n)), or a short training would be scored by its random beginning.

Source: Zenati, Foo, Lecouat, Manek and Chandrasekhar 2018 (arXiv 1802.06222) on Donahue, Krähenbühl and Darrell, ICLR
2017 (1605.09782); equations as numbered in 1906.11632. What its authors' program has and the paper leaves open:
LeakyReLU of slope 0.1, dropout of 0.5 in D, a linear first layer of E.
"""

import keras
import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput
from anomaly_toolbox.models.hyperparameters import EGBADHyperparameters

SLOPE = 0.1


class Encoder(keras.Model):
    """E: (batch, size, size, channels) -> (batch, latent).

    Size 28, width 64: 28x28x32, 14x14x64, 7x7x128, latent. 3x3 convolutions, the first linear.
    """

    def __init__(self, image_size: int, width: int, channels: int, latent: int):
        super().__init__()
        blocks = [
            keras.Input((image_size, image_size, channels)),
            layers.convolution(width // 2, kernel=3, strides=1, bias=True),
        ]
        for depth, _ in enumerate(layers.pyramid_sizes(image_size)):
            blocks += [layers.convolution(width * 2**depth, kernel=3, bias=True), layers.batch_normalisation()]
            blocks.append(keras.layers.LeakyReLU(SLOPE))
        self.network = keras.Sequential([*blocks, keras.layers.Flatten(), layers.dense(latent, bias=True)])

    def call(self, x, training=False):
        return self.network(x, training=training)


class Generator(keras.Model):
    """G: (batch, latent) -> (batch, size, size, channels) in (-1, 1).

    Size 28, width 64: 1024, 7x7x128, 14x14x64, 28x28xchannels.
    """

    def __init__(self, image_size: int, width: int, channels: int, latent: int):
        super().__init__()
        sizes = layers.pyramid_sizes(image_size)
        shape = (sizes[-1], sizes[-1], width * 2 ** (len(sizes) - 1))
        blocks = [keras.Input((latent,)), layers.dense(16 * width, bias=True), layers.batch_normalisation()]
        blocks += [keras.layers.ReLU(), layers.dense(shape[0] * shape[1] * shape[2], bias=True)]
        blocks += [layers.batch_normalisation(), keras.layers.ReLU(), keras.layers.Reshape(shape)]
        for depth in reversed(range(len(sizes) - 1)):
            blocks.append(layers.convolution(width * 2**depth, transposed=True, bias=True))
            blocks += [layers.batch_normalisation(), keras.layers.ReLU()]
        blocks += [layers.convolution(channels, transposed=True, bias=True), keras.layers.Activation("tanh")]
        self.network = keras.Sequential(blocks)

    def call(self, z, training=False):
        return self.network(z, training=training)


class Discriminator(keras.Model):
    """D: images and codes -> features f(x, z) of the joint layer and one logit (batch, 1).

    Size 28, width 64: x through 14x14x64, 7x7x64; z through 512; both through f(x, z) = 1024 to the logit.
    """

    def __init__(self, image_size: int, width: int, channels: int, latent: int, dropout: float):
        super().__init__()
        leak = lambda: [keras.layers.LeakyReLU(SLOPE), layers.Dropout(dropout)]  # noqa: E731
        blocks = [keras.Input((image_size, image_size, channels))]
        for depth, _ in enumerate(layers.pyramid_sizes(image_size)):
            blocks.append(layers.convolution(width, bias=True))
            blocks += [layers.batch_normalisation(), *leak()] if depth > 0 else leak()
        self.of_x = keras.Sequential([*blocks, keras.layers.Flatten()])
        self.of_z = keras.Sequential([keras.Input((latent,)), layers.dense(8 * width, bias=True), *leak()])
        joined = self.of_x.output_shape[1] + 8 * width
        self.joint = keras.Sequential([keras.Input((joined,)), layers.dense(16 * width, bias=True), *leak()])
        self.logit = keras.Sequential([keras.Input((16 * width,)), layers.dense(1, bias=True)])

    def call(self, x, z, training=False):
        joined = tf.concat([self.of_x(x, training=training), self.of_z(z, training=training)], axis=1)
        features = self.joint(joined, training=training)
        return features, self.logit(features)


class EGBAD(AnomalyDetector):
    """Scores an image by what G(E(x)) misses of it and by how far D tells the two apart."""

    Hyperparameters = EGBADHyperparameters
    tracked_losses = ("g_loss", "e_loss", "d_loss", "d_real", "d_fake")

    def __init__(self, hyperparameters: EGBADHyperparameters, channels: int):
        super().__init__(hyperparameters, channels)
        self.encoder, self.generator, self.discriminator = self.networks()
        self.averages = self.networks()  # E, G and D that score
        for average in self.averages:
            average.trainable = False
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("d", self.discriminator)
        self.add_optimizer("g", self.generator)
        self.add_optimizer("e", self.encoder)

    def networks(self):
        """E, G and D, initialised anew."""
        hp, (size, _, channels) = self.hyperparameters, self.image_shape
        return (
            Encoder(size, hp.width, channels, hp.latent_vector_size),
            Generator(size, hp.width, channels, hp.latent_vector_size),
            Discriminator(size, hp.width, channels, hp.latent_vector_size, hp.discriminator_dropout),
        )

    def train_step(self, x):
        """The three players' steps of (3) from one forward pass."""
        hp = self.hyperparameters
        z = layers.normal((x.shape[0], hp.latent_vector_size), self.noise)
        with tf.GradientTape(persistent=True) as tape:
            code, image = self.encoder(x, training=True), self.generator(z, training=True)
            _, real_logits = self.discriminator(x, code, training=True)
            _, fake_logits = self.discriminator(image, z, training=True)
            d_loss = losses.discriminator_loss(real_logits, fake_logits)
            g_loss = losses.generator_loss(fake_logits)
            e_loss = losses.generator_loss(-real_logits)  # 1 - D is the sigmoid of minus the logit
            e_objective = e_loss
            if hp.reconstruction_loss_weight > 0:
                reconstruction = self.generator(code, training=True)
                e_objective += hp.reconstruction_loss_weight * losses.l1(x, reconstruction)
        self.update("d", d_loss, tape)
        self.update("g", g_loss, tape)
        self.update("e", e_objective, tape)
        self.average()
        return self.running_means(
            g_loss=g_loss,
            e_loss=e_loss,
            d_loss=d_loss,
            d_real=tf.reduce_mean(tf.sigmoid(real_logits)),
            d_fake=tf.reduce_mean(tf.sigmoid(fake_logits)),
        )

    def average(self):
        """Moves the averaged weights one step after the players'."""
        steps = tf.cast(self.optimizers["d"].iterations, tf.float32)
        decay = tf.minimum(self.hyperparameters.weight_averaging, steps / (9 + steps))
        for average, network in zip(self.averages, (self.encoder, self.generator, self.discriminator), strict=True):
            for averaged, weight in zip(average.weights, network.weights, strict=True):
                averaged.assign(decay * averaged + (1 - decay) * weight)

    def reconstruct(self, x):
        """G(E(x))."""
        encoder, generator, _ = self.averages
        return generator(encoder(x))

    def anomaly_score(self, x):
        """A(x)."""
        return self.score_and_reconstruct(x).score

    def score_and_reconstruct(self, x):
        """From one round trip."""
        hp = self.hyperparameters
        encoder, generator, discriminator = self.averages
        code = encoder(x)
        x_hat = generator(code)
        features, logits = discriminator(x, code)
        if hp.scoring == "feature_matching":
            d_part = losses.l1_norm(features, discriminator(x_hat, code)[0])
        else:
            d_part = tf.nn.softplus(-logits[:, 0])
        score = hp.alpha * losses.l1_norm(x, x_hat) + (1 - hp.alpha) * d_part
        vectors = {
            "latent_neighbours": code,
            "feature_neighbours": features,
            "mahalanobis": code - encoder(x_hat),
        }
        return ScoreOutput(score, x_hat, vectors)

    def patches(self, x):
        """By D's first convolution."""
        return layers.local_features(self.averages[2].of_x, x)
