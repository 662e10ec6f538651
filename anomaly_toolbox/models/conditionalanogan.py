"""Conditional AnoGAN: an image is anomalous if the generator makes no similar image of any class of normal images.

The conditional GAN of the survey, equation (2), where y is the class of a normal image:

    min_G max_D  𝔼 log D(x, y) + 𝔼 log(1 − D(G(z, y), y)),  z ~ N(0, I)        (2)   G in its non-saturating form

y reaches G next to z, as a one-hot vector, and D by projection: with the features f(x) and a learnt vector e_y of each
class,

    D(x, y) = sigmoid(w·f(x) + e_y·f(x))

Images are scored without their class, by the search of AnoGAN for each class:

    A(x) = min over classes y of min over z of L(z, y),  L(z, y) as (6) with G(z, y) in place of G(z)

The search of a class that does not fit takes as long as that of the right one. An encoder E therefore gives the start
of the search and the probability of each class, and the `searched_classes` = 2 likeliest classes are searched. E takes
a step in each training step, while G and D are fixed, to minimise

    𝔼 (z − E_z(G(z, y)))² − 𝔼 log p_y(x) + 𝔼 |x − G(E_z(x), y)| + 𝔼 (f(x) − f(G(E_z(x), y)))²   (means over elements)

where E_z(x) is its latent vector and p_y(x) its probability of the class.

x is (batch, size, size, channels) in [−1, 1], z is (batch, latent), y is a class number, (batch,), in batches, and the
networks get it one-hot, (batch, K). A is (batch,).

Source: Mirza and Osindero 2014 (arXiv 1411.1784), equation (2) in 1906.11632; projection: Miyato and Koyama, ICLR 2018
(arXiv 1802.05637); the search: Schlegl et al., IPMI 2017 (arXiv 1703.05921). No paper scores anomalies in exactly this
way.
"""

import keras
import tensorflow as tf

from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import ScoreOutput
from anomaly_toolbox.models.hyperparameters import ConditionalAnoGANHyperparameters
from anomaly_toolbox.models.inversion import LEARNING_RATE
from anomaly_toolbox.models.latent_search import SearchingGAN
from anomaly_toolbox.models.layer_vectors import COMBINED_FROM, gan_vectors


class Discriminator(keras.Model):
    """D, which judges whether an image is a real image of a class.

    With size 32 and width 64: 16x16x64, 8x8x128, f(x) = 4x4x256, logit.

    (batch, size, size, channels) and one-hot (batch, K) -> features (batch, last size, last size, last width) and
    logits (batch, 1).
    """

    def __init__(self, image_size: int, width: int, channels: int, n_classes: int):
        super().__init__()
        self.features = layers.down(image_size, width, channels)
        self.logit = layers.dense(1)
        self.projection = layers.dense(n_classes)  # its columns are the vectors of the classes
        self(keras.Input((image_size, image_size, channels)), keras.Input((n_classes,)))  # creates the weights

    def call(self, x, y, training=False):
        features = self.features(x, training=training)
        return features, self.logit_of(layers.flatten(features), y)

    def logit_of(self, features: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        """The logit of flat features, (batch, dimensions), and one-hot classes, (batch, K) -> (batch, 1)."""
        of_class = keras.ops.sum(self.projection(features) * y, axis=1, keepdims=True)
        return self.logit(features) + of_class

    def activations(self, x: tf.Tensor) -> list[tf.Tensor]:
        """The activations of every layer before the logit, f(x) last."""
        return layers.activations(self.features, x)[0]


Networks = tuple[keras.Sequential, Discriminator]  # G and D


class ConditionalAnoGAN(SearchingGAN[Networks]):
    """Scores an image by the loss of the most similar image that the search finds in any class of normal images."""

    Hyperparameters = ConditionalAnoGANHyperparameters
    combined_from = COMBINED_FROM
    uses_classes = True
    tracked_losses = ("g_loss", "d_loss", "e_loss", "accuracy", "d_real", "d_fake")

    def __init__(self, hyperparameters: ConditionalAnoGANHyperparameters, channels: int, n_classes: int):
        super().__init__(hyperparameters, channels)
        hp = hyperparameters
        self.n_classes = n_classes
        self.generator, self.discriminator = self.new_networks()
        self.averages = self.new_averages()
        self.encoder = layers.Encoder(hp.image_size, hp.width, channels, hp.latent_vector_size + n_classes)
        self.noise = keras.random.SeedGenerator()
        self.add_optimizer("g", self.generator)
        self.add_optimizer("d", self.discriminator)
        self.add_optimizer("e", self.encoder, learning_rate=LEARNING_RATE)

    def new_networks(self):
        """G and D."""
        hp = self.hyperparameters
        size, _, channels = self.image_shape
        return (
            layers.up(size, hp.width, channels, hp.latent_vector_size + self.n_classes),
            Discriminator(size, hp.width, channels, self.n_classes),
        )

    @property
    def trained(self):
        """G and D with the latest weights."""
        return self.generator, self.discriminator

    def train_step(self, images_and_classes):
        """One step each of G and D by (2), from one forward pass, and one of E."""
        x, classes = images_and_classes
        y = tf.one_hot(classes, self.n_classes)
        z = self.draw_latent(x.shape[0])
        with tf.GradientTape(persistent=True) as tape:
            _, real_logits = self.discriminator(x, y, training=True)
            generated = self.generator(tf.concat([z, y], axis=1), training=True)
            _, fake_logits = self.discriminator(generated, y, training=True)
            d_loss = losses.discriminator_loss(real_logits, fake_logits)
            g_loss = losses.generator_loss(fake_logits)
        self.update("d", d_loss, tape)
        self.update("g", g_loss, tape)
        self.average_weights()
        with tf.GradientTape() as tape:
            e_loss, class_logits = self.encoder_loss(x, y)
        self.update("e", e_loss, tape)
        is_right = tf.argmax(class_logits, axis=1, output_type=tf.int32) == classes
        return self.running_means(
            g_loss=g_loss,
            d_loss=d_loss,
            e_loss=e_loss,
            accuracy=tf.reduce_mean(tf.cast(is_right, tf.float32)),
            **self.judgement(real_logits, fake_logits),
        )

    def encoder_loss(self, x, y):
        """What E minimises on images x of classes y, a scalar, and its logits of the classes, (batch, K)."""
        z = self.draw_latent(x.shape[0])
        z_hat, _ = self.encode(self.generate(z, y), training=True)
        code, class_logits = self.encode(x, training=True)
        x_hat = self.generate(code, y)
        code_loss = losses.l2(z, z_hat)
        class_loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(y, class_logits))
        features_loss = losses.l2(self.features(x), self.features(x_hat))
        return code_loss + class_loss + losses.l1(x, x_hat) + features_loss, class_logits

    def encode(self, x, training=False):
        """E(x): latent vectors, (batch, latent), and logits of the classes, (batch, K)."""
        return tf.split(self.encoder(x, training=training), [self.hyperparameters.latent_vector_size, -1], axis=1)

    def generate(self, z, y):
        """G(z, y)."""
        generator, _ = self.scoring
        return generator(tf.concat([z, y], axis=1))

    def features(self, x):
        """f(x)."""
        _, discriminator = self.scoring
        return discriminator.features(x)

    def best_search(self, x):
        """A(x), (batch,), and the latent vector, (batch, latent), and the one-hot class, (batch, K), of its search."""
        code, class_logits = self.encode(x)
        n_searched = min(self.hyperparameters.searched_classes, self.n_classes)
        likeliest = tf.transpose(tf.math.top_k(class_logits, n_searched).indices)  # (searched, batch)
        y = tf.one_hot(likeliest, self.n_classes)
        restarts = len(self.starting_points)
        starts = tf.repeat(self.starting_points[:, tf.newaxis], tf.shape(x)[0], axis=1)
        starts = tf.concat([code[tf.newaxis], starts[1:]], axis=0)  # the first search starts from the code
        return self.best_of_searches(x, tf.tile(starts, (n_searched, 1, 1)), tf.repeat(y, restarts, axis=0))

    def searched_reconstruction(self, x):
        """G(z, y) of the best search, without compilation."""
        _, z, y = self.best_search(x)
        return self.generate(z, y)

    def anomaly_score(self, x):
        """A(x), (batch,)."""
        return self.best_search(x)[0]

    def score_and_reconstruct(self, x):
        """A(x), the image that was found, the vectors and D's logit, from one search."""
        loss, z, y = self.best_search(x)
        _, discriminator = self.scoring
        logit = discriminator.logit_of(layers.flatten(self.features(x)), y)
        return ScoreOutput(loss, self.generate(z, y), self.vectors(x), logit)

    def vectors(self, x):
        """The vectors, with the reconstruction G(E(x)) of the likeliest class; they need no search."""
        _, discriminator = self.scoring
        code, class_logits = self.encode(x)
        y = tf.one_hot(tf.argmax(class_logits, axis=1), self.n_classes)
        x_hat = self.generate(code, y)
        code_hat, _ = self.encode(x_hat)
        encoded, encoded_hat = self.encoder.activations(x), self.encoder.activations(x_hat)
        vectors = gan_vectors(encoded, encoded_hat, discriminator.activations(x), discriminator.activations(x_hat))
        return vectors | {"latent_neighbours": code, "mahalanobis": code - code_hat}

    def patches(self, x):
        """The features of each patch, from D's first convolution."""
        _, discriminator = self.scoring
        return layers.local_features(discriminator.features, x)
