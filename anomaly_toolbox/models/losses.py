"""The papers' losses and distances as pure functions. Numbers in brackets are the survey's (arXiv 1906.11632).

Norms in training losses are means over all elements, as in the code of the methods' authors; the weights of losses,
such as 1, 50 and 1 for GANomaly, refer to these means. Norms in scores are those of the papers: `l1_norm` is a sum.
"""

from collections.abc import Callable

import tensorflow as tf

SMALLEST_SQUARE = 1e-12  # under a root, whose slope at 0 is infinite


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """The discriminator's loss of (1), -E log D(x) - E log(1 - D(G(z))), with D = sigmoid(logit).

    It uses -log D = softplus(-logit) and -log(1 - D) = softplus(logit), which stay finite for any logit.

    Args:
        real_logits: logits of real images, of any shape.
        fake_logits: logits of generated images, of any shape.

    Returns:
        A scalar >= 0, which is 2 log 2 if all logits are 0.
    """
    return tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(tf.nn.softplus(fake_logits))


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """The generator's loss of (1) in its non-saturating form, -E log D(G(z)).

    The gradient of the original form, E log(1 - D(G(z))), vanishes where D recognises generated images with certainty.

    Args:
        fake_logits: logits of generated images, of any shape.

    Returns:
        A scalar >= 0, which is log 2 if all logits are 0.
    """
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


def critic_loss(real_outputs: tf.Tensor, fake_outputs: tf.Tensor) -> tf.Tensor:
    """The critic's loss of a Wasserstein GAN, E C(G(z)) - E C(x), without its penalty.

    Args:
        real_outputs: C(x), of any shape.
        fake_outputs: C(G(z)), of any shape.

    Returns:
        A scalar; the more negative, the better C distinguishes real from generated images.
    """
    return tf.reduce_mean(fake_outputs) - tf.reduce_mean(real_outputs)


def gradient_penalty(critic: Callable[[tf.Tensor], tf.Tensor], points: tf.Tensor) -> tf.Tensor:
    """The gradient penalty of a Wasserstein GAN, E (‖∇C(x)‖₂ - 1)², a scalar (arXiv 1704.00028).

    Args:
        critic: a function from images to C, (batch, size, size, channels) -> (batch, 1).
        points: the images at which the gradient is taken, between real and generated ones.
    """
    with tf.GradientTape() as tape:
        tape.watch(points)
        total = tf.reduce_sum(critic(points))  # each image appears in its own term only
    slopes = tape.gradient(total, points)
    squared_norms = tf.reduce_sum(slopes**2, axis=list(range(1, len(slopes.shape))))
    return tf.reduce_mean((tf.sqrt(squared_norms + SMALLEST_SQUARE) - 1) ** 2)


def l1(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The mean |a - b| over all elements, a scalar; with a = x and b = G(x) it is the contextual loss (9)."""
    return tf.reduce_mean(tf.abs(a - b))


def l2(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The mean (a - b)^2 over all elements, a scalar; feature matching (8) and the encoder loss (10) use it."""
    return tf.reduce_mean(tf.square(a - b))


def l1_per_image(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The mean |a - b| of each image, (batch, ...) -> (batch,)."""
    return tf.reduce_mean(tf.abs(a - b), axis=list(range(1, len(a.shape))))


def l2_per_image(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The mean (a - b)^2 of each image, (batch, ...) -> (batch,)."""
    return tf.reduce_mean(tf.square(a - b), axis=list(range(1, len(a.shape))))


def l1_per_pixel(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The mean |a - b| over the channels of each pixel, (batch, height, width, channels) -> (batch, height, width)."""
    return tf.reduce_mean(tf.abs(a - b), axis=-1)


def l1_norm(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The sum of |a - b| over the elements of each image, (batch, ...) -> (batch,), as in (4) and (5)."""
    return tf.reduce_sum(tf.abs(a - b), axis=list(range(1, len(a.shape))))


def distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """The Euclidean distance of each pair of vectors, (batch, dimensions) -> (batch,), as in (12)."""
    return tf.norm(a - b, axis=-1)
