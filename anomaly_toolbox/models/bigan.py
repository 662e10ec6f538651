"""The networks of a BiGAN: an encoder, a generator, and a discriminator of pairs of an image and a latent vector."""

import keras
import tensorflow as tf

from anomaly_toolbox.models import layers

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

    Args:
        dropout: the share of units that dropout leaves out in training.
        spectral: whether convolutions and dense layers have spectral normalisation.
    """

    def __init__(self, image_size: int, width: int, channels: int, latent: int, dropout: float, spectral: bool = False):
        super().__init__()
        image_blocks = [keras.Input((image_size, image_size, channels))]
        for depth, _ in enumerate(layers.pyramid_sizes(image_size)):
            image_blocks.append(layers.convolution(width, bias=True, spectral=spectral))
            if depth > 0:
                image_blocks.append(layers.batch_normalisation())
            image_blocks += [keras.layers.LeakyReLU(SLOPE), layers.Dropout(dropout)]
        self.of_x = keras.Sequential([*image_blocks, keras.layers.Flatten()])
        self.of_z = _dense_block(latent, 8 * width, dropout, spectral)
        self.joint = _dense_block(self.of_x.output_shape[1] + 8 * width, 16 * width, dropout, spectral)
        self.logit = keras.Sequential([keras.Input((16 * width,)), layers.dense(1, bias=True, spectral=spectral)])

    def call(self, x, z, training=False):
        branches = [self.of_x(x, training=training), self.of_z(z, training=training)]
        features = self.joint(tf.concat(branches, axis=1), training=training)
        return features, self.logit(features)

    def activations(self, x: tf.Tensor, z: tf.Tensor) -> list[tf.Tensor]:
        """The activations of the layers that see the image, f(x, z) last."""
        feature_maps, of_x = layers.activations(self.of_x, x)
        return [*feature_maps, self.joint(tf.concat([of_x, self.of_z(z)], axis=1))]


def _dense_block(n_inputs: int, units: int, dropout: float, spectral: bool) -> keras.Sequential:
    return keras.Sequential(
        [
            keras.Input((n_inputs,)),
            layers.dense(units, bias=True, spectral=spectral),
            keras.layers.LeakyReLU(SLOPE),
            layers.Dropout(dropout),
        ]
    )
