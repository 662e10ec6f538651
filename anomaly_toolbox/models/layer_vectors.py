"""Vectors that summarise the activations of trained networks for an image; the memory banks compare them.

h_l is the activation of layer l: of a convolution or a dense layer with its activation function. x̂ is the
reconstruction of x; for AnoGAN with `warm_start` it is G(E(x)), which takes no search. Activations are pooled over
positions, so that the position of a pattern does not matter:

    pathway                       for each layer l and channel c:  (mean over positions of (h_l(x) − h_l(x̂))²)^½
    encoder_neighbours,           for each layer l and channel c:  mean over positions of h_l(x), and
    discriminator_neighbours                                       (mean over positions of h_l(x)²)^½

Layers without positions, such as the code, enter as they are: h_l(x) − h_l(x̂) in `pathway`, and h_l(x) in the others.
The pathway is that of RaPP (Kim et al., ICLR 2020), which follows the encoder alone; here it also follows D, because
some anomalies change only the activations of D.
"""

from collections.abc import Sequence

import tensorflow as tf

from anomaly_toolbox.models.layers import flatten
from anomaly_toolbox.models.losses import SMALLEST_SQUARE

#: What a GAN's combined score combines. `docs/results.md` says how these four scores were chosen.
COMBINED_FROM = ("pathway", "latent_neighbours", "encoder_neighbours", "discriminator_neighbours")


def layer_vectors(
    encoder: Sequence[tf.Tensor],
    encoder_hat: Sequence[tf.Tensor],
    discriminator: Sequence[tf.Tensor],
    discriminator_hat: Sequence[tf.Tensor],
) -> dict[str, tf.Tensor]:
    """The vectors of all layers, each (batch, dimensions), by the names of their memory banks.

    Args:
        encoder, discriminator: the activations of every layer for the images, (batch, height, width, channels) or
            (batch, units) each.
        encoder_hat, discriminator_hat: the same for their reconstructions.
    """
    return {
        "pathway": pathway([*encoder, *discriminator], [*encoder_hat, *discriminator_hat]),
        "encoder_neighbours": pooled(encoder),
        "discriminator_neighbours": pooled(discriminator),
    }


def gan_vectors(
    encoder: Sequence[tf.Tensor],
    encoder_hat: Sequence[tf.Tensor],
    discriminator: Sequence[tf.Tensor],
    discriminator_hat: Sequence[tf.Tensor],
) -> dict[str, tf.Tensor]:
    """All vectors of a GAN with an encoder: `layer_vectors`, the code, its change and the features of D.

    Args:
        encoder, encoder_hat, discriminator, discriminator_hat: see `layer_vectors`; the last activation of the encoder
            is the code, that of the discriminator its features.
    """
    code, features = encoder[-1], discriminator[-1]
    return {
        "latent_neighbours": code,
        "feature_neighbours": flatten(features),
        "mahalanobis": code - encoder_hat[-1],
        **layer_vectors(encoder, encoder_hat, discriminator, discriminator_hat),
    }


def pathway(layers: Sequence[tf.Tensor], layers_hat: Sequence[tf.Tensor]) -> tf.Tensor:
    """The pooled differences between the activations for images and for their reconstructions, (batch, dimensions)."""
    differences = [_pooled_difference(a, b) for a, b in zip(layers, layers_hat, strict=True)]
    return tf.concat(differences, axis=1)


def pooled(activations: Sequence[tf.Tensor]) -> tf.Tensor:
    """The mean and the root mean square of each channel over all places, layer by layer, (batch, dimensions)."""
    parts = []
    for activation in activations:
        if _has_places(activation):
            parts += [tf.reduce_mean(activation, axis=(1, 2)), _root_mean_square(activation)]
        else:
            parts.append(activation)
    return tf.concat(parts, axis=1)


def _pooled_difference(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    return _root_mean_square(a - b) if _has_places(a) else a - b


def _root_mean_square(activation: tf.Tensor) -> tf.Tensor:
    return tf.sqrt(tf.reduce_mean(activation**2, axis=(1, 2)) + SMALLEST_SQUARE)


def _has_places(activation: tf.Tensor) -> bool:
    return len(activation.shape) == 4
