"""The equations as pure functions; numbers in brackets are those of the survey (arXiv 1906.11632).

Norms of training losses are means over elements, as the methods' authors compute them: their weights (1, 50, 1 for
GANomaly) belong to those. Norms of scores, of one image each, are what the papers write: `l1_norm` is a sum.
"""

import tensorflow as tf


def discriminator_loss(real_logits: tf.Tensor, fake_logits: tf.Tensor) -> tf.Tensor:
    """Minus the inner part of (1), -E log D(x) - E log(1 - D(G(z))), from logits of any shape; a scalar >= 0.

    With D = sigmoid(logit), -log D = softplus(-logit) and -log(1 - D) = softplus(logit); at logits 0 it is 2 log 2.
    """
    return tf.reduce_mean(tf.nn.softplus(-real_logits)) + tf.reduce_mean(tf.nn.softplus(fake_logits))


def generator_loss(fake_logits: tf.Tensor) -> tf.Tensor:
    """-E log D(G(z)), the non-saturating form of the outer part of (1); a scalar >= 0, log 2 at logits 0.

    Minimising E log(1 - D(G(z))) itself has no gradient left where D is sure, which is where G needs one.
    """
    return tf.reduce_mean(tf.nn.softplus(-fake_logits))


def l1(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Mean |a - b| over all elements, a scalar: the contextual loss (9) for a = x, b = G(x)."""
    return tf.reduce_mean(tf.abs(a - b))


def l2(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Mean (a - b)^2 over all elements, a scalar: feature matching (8) and the encoder loss (10)."""
    return tf.reduce_mean(tf.square(a - b))


def l1_per_image(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Mean |a - b| of each image: (batch, ...) -> (batch,)."""
    return tf.reduce_mean(tf.abs(a - b), axis=list(range(1, len(a.shape))))


def l1_per_pixel(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Mean |a - b| over the channels of each pixel: (batch, height, width, channels) -> (batch, height, width)."""
    return tf.reduce_mean(tf.abs(a - b), axis=-1)


def l1_norm(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Sum of |a - b| over the elements of each image: (batch, ...) -> (batch,), as in (4) and (5)."""
    return tf.reduce_sum(tf.abs(a - b), axis=list(range(1, len(a.shape))))


def distance(a: tf.Tensor, b: tf.Tensor) -> tf.Tensor:
    """Euclidean distance of each pair of codes: (batch, latent) -> (batch,), as in (12)."""
    return tf.norm(a - b, axis=-1)
