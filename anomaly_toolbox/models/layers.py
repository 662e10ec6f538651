"""Layers and networks that several methods share.

The convolutions of DCGAN (arXiv 1511.06434) form a pyramid: they are 4x4 with stride 2 and without bias, and batch
normalisation follows them. Weights are drawn from N(0, 0.02). The number of convolutions follows from the image size.
"""

import math

import keras
import tensorflow as tf

from anomaly_toolbox.models.precision import layer_class

WINDOW = 5  # side of a patch, in positions of the feature map
SLOPE = 0.2  # of LeakyReLU, for negative inputs
BYTE_VALUES = 256


def pyramid_sizes(image_size: int) -> list[int]:
    """The side of each feature map of the pyramid; it is halved while it is even and above 4.

    >>> pyramid_sizes(32), pyramid_sizes(48)
    ([16, 8, 4], [24, 12, 6, 3])
    """
    sizes = []
    while image_size > 4 and image_size % 2 == 0:
        image_size //= 2
        sizes.append(image_size)
    return sizes


def convolution(
    filters: int,
    kernel: int = 4,
    strides: int = 2,
    transposed: bool = False,
    bias: bool = False,
    spectral: bool = False,
) -> keras.Layer:
    """A convolution that divides height and width by its strides, or multiplies them if it is transposed."""
    cls = layer_class("Conv2DTranspose" if transposed else "Conv2D")
    layer = cls(filters, kernel, strides, padding="same", use_bias=bias, kernel_initializer=_initializer())
    return SpectralNormalization(layer) if spectral else layer


def dense(units: int, bias: bool = False, spectral: bool = False, activation: str = "linear") -> keras.Layer:
    """A dense layer, initialised like the convolutions."""
    layer = layer_class("Dense")(units, activation, use_bias=bias, kernel_initializer=_initializer())
    return SpectralNormalization(layer) if spectral else layer


def batch_normalisation() -> keras.Layer:
    """Batch normalisation with running averages over about ten batches, so that a short training is enough for them."""
    return keras.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, gamma_initializer=keras.initializers.RandomNormal(1.0, 0.02)
    )


def down(
    image_size: int,
    width: int,
    channels: int,
    normalised: bool = True,
    spectral: bool = False,
    dropout: float = 0.0,
) -> keras.Sequential:
    """The pyramid from an image to its smallest feature map; each convolution doubles the channels.

    With size 32 and width 64: 16x16x64, 8x8x128, 4x4x256. Activations are LeakyReLU.

    (batch, size, size, channels) -> (batch, last size, last size, last width).

    Args:
        normalised: whether batch normalisation follows each convolution but the first.
        spectral: whether the convolutions have spectral normalisation.
        dropout: the share of the activations that dropout leaves out in training.
    """
    blocks = [keras.Input((image_size, image_size, channels))]
    for depth, _ in enumerate(pyramid_sizes(image_size)):
        blocks.append(convolution(width * 2**depth, spectral=spectral))
        if normalised and depth > 0:
            blocks.append(batch_normalisation())
        blocks.append(keras.layers.LeakyReLU(SLOPE))
        if dropout > 0:
            blocks.append(Dropout(dropout))
    return keras.Sequential(blocks)


def up(image_size: int, width: int, channels: int, latent: int) -> keras.Sequential:
    """The pyramid from a latent vector to an image, the mirror of `down`, with ReLU and a tanh at the end.

    With size 32 and width 64: 4x4x256, 8x8x128, 16x16x64, 32x32xchannels.

    (batch, latent) -> (batch, size, size, channels), in (-1, 1).
    """
    sizes = pyramid_sizes(image_size)
    smallest = sizes[-1]
    widest = width * 2 ** (len(sizes) - 1)
    blocks = [
        keras.Input((latent,)),
        dense(smallest * smallest * widest),
        keras.layers.Reshape((smallest, smallest, widest)),
    ]
    for depth in reversed(range(len(sizes) - 1)):
        blocks += [batch_normalisation(), keras.layers.ReLU(), convolution(width * 2**depth, transposed=True)]
    blocks += [batch_normalisation(), keras.layers.ReLU(), convolution(channels, transposed=True)]
    blocks.append(keras.layers.Activation("tanh"))
    return keras.Sequential(blocks)


def flatten(x: tf.Tensor) -> tf.Tensor:
    """(batch, ...) -> (batch, dimensions)."""
    return tf.reshape(x, (-1, math.prod(x.shape[1:])))


def activations(network: keras.Sequential, x: tf.Tensor, training: bool = False) -> tuple[list[tf.Tensor], tf.Tensor]:
    """What each layer makes of the images.

    Args:
        network: layers, some of which are LeakyReLU.
        x: the input of the network.
        training: whether the network is called in training.

    Returns:
        The output of each LeakyReLU, from the first to the last, and the output of the network.
    """
    outputs = []
    for layer in network.layers:
        x = layer(x, training=training)
        if isinstance(layer, keras.layers.LeakyReLU):
            outputs.append(x)
    return outputs, x


def local_features(network: keras.Sequential, x: tf.Tensor) -> tf.Tensor:
    """The features of each patch of an image: the mean and the mean square of each channel in windows of 5x5.

    Args:
        network: a discriminator's layers; the first two are a convolution with `width` channels and its activation.
        x: (batch, size, size, channels).

    Returns:
        (batch, size / 2, size / 2, 2 width).
    """
    convolution, activation = network.layers[:2]
    features = activation(convolution(x))
    features_and_squares = tf.concat([features, features**2], axis=-1)
    return tf.nn.avg_pool2d(features_and_squares, ksize=WINDOW, strides=1, padding="SAME")


def normal(shape: tuple[int, ...], noise: keras.random.SeedGenerator) -> tf.Tensor:
    """Draws z ~ N(0, I), float32.

    Keras leaves the choice of the random generator to XLA, whose default is many times slower than Philox.
    """
    return tf.random.stateless_normal(shape, _next_seed(noise), alg="philox")


def uniform(shape: tuple[int, ...], noise: keras.random.SeedGenerator) -> tf.Tensor:
    """Draws numbers from [0, 1), float32, with the same generator as `normal`."""
    return tf.random.stateless_uniform(shape, _next_seed(noise), alg="philox")


class Dropout(keras.layers.Layer):
    """Sets a share of the units to 0 in training and scales up the others, like `keras.layers.Dropout`.

    Keras draws 32 random bits for each unit with XLA's slow default generator, which took a third of EGBAD's training
    step on a CPU (`benchmarks.profile`). Here each unit takes 8 bits from the Philox generator.

    Args:
        rate: the share, in [0, 1), rounded to a multiple of 1/256.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.noise = keras.random.SeedGenerator()

    def call(self, x, training=False):
        n_dropped_values = round(BYTE_VALUES * self.rate)
        if not training or n_dropped_values == 0:
            return x
        keeps_unit = self._random_bytes(x.shape) >= n_dropped_values
        scale = BYTE_VALUES / (BYTE_VALUES - n_dropped_values)
        return tf.where(keeps_unit, x * scale, 0.0)

    def _random_bytes(self, shape: tf.TensorShape) -> tf.Tensor:
        size = math.prod(shape)
        n_words = -(-size // 4)  # rounded up; a word has four bytes
        words = tf.random.stateless_uniform(
            (n_words,),
            seed=_next_seed(self.noise),
            minval=None,  # with maxval None: all values of the type
            maxval=None,
            dtype=tf.uint32,
            alg="philox",
        )
        random_bytes = tf.reshape(tf.bitcast(words, tf.uint8), (-1,))
        return tf.reshape(random_bytes[:size], shape)


class SpectralNormalization(keras.layers.SpectralNormalization):
    """Divides a kernel by an estimate of its largest singular value, at each call in training.

    Keras asks first whether the kernel is all zeros. Kernels here never are, and the gradients of that condition took
    most of the time to trace a training step.
    """

    def call(self, inputs, training=False):
        if training:
            vector_u, kernel = self.normalized_weights()
            self.vector_u.assign(vector_u)
            self.kernel.assign(kernel)
        return self.layer(inputs)


class Encoder(keras.Model):
    """An encoder: the pyramid, then a dense layer that gives the code.

    With size 32 and width 64: 16x16x64, 8x8x128, 4x4x256, latent.

    (batch, size, size, channels) -> (batch, latent).

    Args:
        spectral: whether all layers have spectral normalisation.
        activation: of the code, by Keras's name.
    """

    def __init__(
        self,
        image_size: int,
        width: int,
        channels: int,
        latent: int,
        spectral: bool = False,
        activation: str = "linear",
    ):
        super().__init__()
        self.pyramid = down(image_size, width, channels, spectral=spectral)
        self.code = dense(latent, spectral=spectral, activation=activation)
        self(keras.Input((image_size, image_size, channels)))  # creates the weights

    def call(self, x, training=False):
        return self.code(flatten(self.pyramid(x, training=training)), training=training)

    def activations(self, x: tf.Tensor, training: bool = False) -> list[tf.Tensor]:
        """The activations of every layer, the code last."""
        feature_maps, last_map = activations(self.pyramid, x, training)
        return [*feature_maps, self.code(flatten(last_map), training=training)]


class Discriminator(keras.Model):
    """The discriminator of DCGAN; its features f(x) are the last feature map of the pyramid.

    With size 32 and width 64: 16x16x64, 8x8x128, f(x) = 4x4x256, logit.

    (batch, size, size, channels) -> features (batch, last size, last size, last width) and logits (batch, 1).

    Args:
        normalised, spectral, dropout: see `down`; the logit has spectral normalisation too.
    """

    def __init__(
        self,
        image_size: int,
        width: int,
        channels: int,
        normalised: bool = True,
        spectral: bool = False,
        dropout: float = 0.0,
    ):
        super().__init__()
        self.features = down(image_size, width, channels, normalised, spectral, dropout)
        self.logit = dense(1, spectral=spectral)
        self(keras.Input((image_size, image_size, channels)))  # creates the weights

    def call(self, x, training=False):
        features = self.features(x, training=training)
        return features, self.logit(flatten(features), training=training)

    def activations(self, x: tf.Tensor) -> list[tf.Tensor]:
        """The activations of every layer before the logit, f(x) last."""
        return activations(self.features, x)[0]


def _next_seed(noise: keras.random.SeedGenerator) -> tf.Tensor:
    return tf.cast(noise.next(), tf.int32)


def _initializer() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(0.0, 0.02)
