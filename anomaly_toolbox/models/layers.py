"""Blocks that several methods share.

The pyramid is DCGAN's (1511.06434): 4x4 convolutions of stride 2 without bias, batch normalisation, weights drawn
from N(0, 0.02). Its depth follows from the image size, so no size is written anywhere else.
"""

import math

import keras
import tensorflow as tf

WINDOW = 5


def pyramid_sizes(image_size: int) -> list[int]:
    """Sides of the feature maps below the image: halved while even and above 4.

    32 -> [16, 8, 4]; 48 -> [24, 12, 6, 3]; 64 -> [32, 16, 8, 4].
    """
    sizes = []
    while image_size > 4 and image_size % 2 == 0:
        image_size //= 2
        sizes.append(image_size)
    return sizes


def convolution(
    filters: int, kernel: int = 4, strides: int = 2, transposed: bool = False, bias: bool = False
) -> keras.Layer:
    """A convolution that divides (or, `transposed`, multiplies) height and width by its strides."""
    layer = keras.layers.Conv2DTranspose if transposed else keras.layers.Conv2D
    return layer(filters, kernel, strides, padding="same", use_bias=bias, kernel_initializer=_normal())


def dense(units: int, bias: bool = False) -> keras.Layer:
    """A linear map, initialised as the convolutions are."""
    return keras.layers.Dense(units, use_bias=bias, kernel_initializer=_normal())


def batch_normalisation() -> keras.Layer:
    """Batch normalisation whose running figures forget in about ten batches, so that short trainings can be scored."""
    return keras.layers.BatchNormalization(
        momentum=0.9, epsilon=1e-5, gamma_initializer=keras.initializers.RandomNormal(1.0, 0.02)
    )


def down(image_size: int, width: int, channels: int) -> keras.Sequential:
    """(batch, size, size, channels) -> the smallest map, channels doubled at each halving.

    Size 32, width 64: 16x16x64, 8x8x128, 4x4x256. LeakyReLU of slope 0.2; the first block is not normalised.
    """
    blocks = [keras.Input((image_size, image_size, channels))]
    for depth, _ in enumerate(pyramid_sizes(image_size)):
        blocks.append(convolution(width * 2**depth))
        if depth > 0:
            blocks.append(batch_normalisation())
        blocks.append(keras.layers.LeakyReLU(0.2))
    return keras.Sequential(blocks)


def up(image_size: int, width: int, channels: int, latent: int) -> keras.Sequential:
    """(batch, latent) -> (batch, size, size, channels) in (-1, 1): the mirror of `down`, with ReLU and a last tanh.

    Size 32, width 64: 4x4x256, 8x8x128, 16x16x64, 32x32xchannels.
    """
    sizes = pyramid_sizes(image_size)
    smallest, widest = sizes[-1], width * 2 ** (len(sizes) - 1)
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


def local_features(network: keras.Sequential, x: tf.Tensor) -> tf.Tensor:
    """What the first convolution of a discriminator finds around each place of an image.

    Mean and mean square, over windows of 5x5, of each channel that it has after its activation:
    (batch, size, size, channels) -> (batch, size / 2, size / 2, 2 width).
    """
    convolution, activation = network.layers[:2]
    found = activation(convolution(x))
    return tf.nn.avg_pool2d(tf.concat([found, found**2], axis=-1), WINDOW, 1, "SAME")


def normal(shape: tuple[int, ...], noise: keras.random.SeedGenerator) -> tf.Tensor:
    """z ~ N(0, I), by the Philox generator: Keras leaves the choice to XLA, whose default is many times slower."""
    return tf.random.stateless_normal(shape, _seed(noise), alg="philox")


class Dropout(keras.layers.Layer):
    """Leaves out a share of the units in training and makes up for it in the others, as `keras.layers.Dropout` does.

    That one draws 32 random bits a unit, by XLA's slow default, which took a third of EGBAD's training step on a CPU
    (`benchmarks.profile`). Here a unit takes 8 of Philox's bits, so `rate`, in [0, 1), counts in steps of 1/256.
    """

    def __init__(self, rate: float):
        super().__init__()
        self.rate = rate
        self.noise = keras.random.SeedGenerator()

    def call(self, x, training=False):
        left_out = round(256 * self.rate)
        if not training or left_out == 0:
            return x
        size = math.prod(x.shape)
        words = tf.random.stateless_uniform((-(-size // 4),), _seed(self.noise), None, None, tf.uint32, alg="philox")
        numbers = tf.reshape(tf.reshape(tf.bitcast(words, tf.uint8), (-1,))[:size], x.shape)
        return tf.where(numbers >= left_out, x * (256 / (256 - left_out)), 0.0)


class Encoder(keras.Model):
    """DCGAN's pyramid, then a code: (batch, size, size, channels) -> (batch, latent).

    Size 32, width 64: 16x16x64, 8x8x128, 4x4x256, latent.
    """

    def __init__(self, image_size: int, width: int, channels: int, latent: int):
        super().__init__()
        self.pyramid = down(image_size, width, channels)
        self.code = dense(latent)
        self(keras.Input((image_size, image_size, channels)))  # creates the weights

    def call(self, x, training=False):
        return self.code(flatten(self.pyramid(x, training=training)))


class Discriminator(keras.Model):
    """DCGAN's D: (batch, size, size, channels) -> features f(x), the last map of the pyramid, and a logit (batch, 1).

    Size 32, width 64: 16x16x64, 8x8x128, f(x) = 4x4x256, logit.
    """

    def __init__(self, image_size: int, width: int, channels: int):
        super().__init__()
        self.features = down(image_size, width, channels)
        self.logit = dense(1)
        self(keras.Input((image_size, image_size, channels)))  # creates the weights

    def call(self, x, training=False):
        features = self.features(x, training=training)
        return features, self.logit(flatten(features))


def _seed(noise: keras.random.SeedGenerator) -> tf.Tensor:
    return tf.cast(noise.next(), tf.int32)


def _normal() -> keras.initializers.Initializer:
    return keras.initializers.RandomNormal(0.0, 0.02)
