"""The functions that an exported detector consists of, made of TensorFlow operations that every format supports.

Images are resized as `datasets/images.py` does it, by products with two matrices, because not every format has an
operation for `tf.image.resize(antialias=True)`.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.decoding import WHITE
from anomaly_toolbox.datasets.images import ROUNDING, Aspect, Reading
from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import AnomalyDetector, ScoreOutput
from anomaly_toolbox.models.knn import KNN

Functions = dict[str, tf.types.experimental.GenericFunction]


def serving_functions(
    detector: AnomalyDetector, reading: Reading, score_range: tuple[float, float], threshold: float
) -> Functions:
    """The functions to export, by the names of their signatures.

    Both take `images`, (batch, height, width, channels): `serving_default` takes uint8, and `float_images` float32 in
    [0, 1]. Their outputs are documented in `export.py`.

    Args:
        detector: trained, with filled memory banks.
        reading: how the run reads images.
        score_range: minimum and maximum of the selected score on the validation images.
        threshold: images with a selected score at or above it are called anomalous.
    """
    low, high = score_range
    scale = max(high - low, np.finfo(np.float32).tiny)
    score_and_reconstruct: Callable[[tf.Tensor], ScoreOutput] = detector.score_and_reconstruct
    if isinstance(detector, KNN):
        score_and_reconstruct = knn_in_tensorflow(detector)

    @_graph(tf.TensorSpec((None, *detector.image_shape), tf.float32))
    def score_prepared(x):
        output = score_and_reconstruct(x)
        score = _selected_score(detector, x, output)
        return {
            "score": score,
            "anomalous": score >= threshold,
            "calibrated": tf.clip_by_value((score - low) / scale, 0.0, 1.0),
            "map": detector.map_from_reconstruction(x, output.reconstruction),
            "reconstruction": (output.reconstruction + 1) / 2,
        }

    @_graph(tf.TensorSpec((None, None, None, reading.channels), tf.uint8, "images"))
    def score_bytes(images):
        return score_prepared(2 * resize(tf.cast(images, tf.float32), reading, WHITE, WHITE) - 1)

    @_graph(tf.TensorSpec((None, None, None, reading.channels), tf.float32, "images"))
    def score_floats(images):
        return score_prepared(2 * resize(images, reading, 1, None) - 1)

    return {"serving_default": score_bytes, "float_images": score_floats}


def knn_in_tensorflow(detector: KNN) -> Callable[[tf.Tensor], ScoreOutput]:
    """KNN's `score_and_reconstruct` without scikit-learn.

    The nearest neighbours are found by matrix products, which are fast. Their distances are computed from differences,
    which are exact.
    """

    def score_and_reconstruct(x):
        images = detector.training_images.arrays["images"]
        pixels = layers.flatten(tf.cast(images, tf.float32) / 127.5 - 1)
        queries = layers.flatten(x)
        # |q - p|^2 is smallest where p . q - |p|^2 / 2 is largest.
        closeness = tf.matmul(pixels, queries, transpose_b=True) - tf.reduce_sum(pixels**2, axis=1, keepdims=True) / 2
        _, indices = tf.math.top_k(tf.transpose(closeness), min(detector.hyperparameters.neighbours, images.shape[0]))
        nearest = tf.gather(pixels, indices)
        score = tf.reduce_mean(losses.distance(nearest, queries[:, tf.newaxis]), axis=1)
        return ScoreOutput(score, tf.reshape(tf.reduce_mean(nearest, axis=1), tf.shape(x)), {})

    return score_and_reconstruct


def resize(pixels: tf.Tensor, reading: Reading, white: int, own_levels: int | None) -> tf.Tensor:
    """Resizes images linearly, with antialiasing where they become smaller, and rounds them as `Reading` does.

    Args:
        pixels: (batch, height, width, channels), from 0 to `white`, of any height and width.
        reading: how the run reads images.
        white: the value that is white.
        own_levels: the highest level of the images themselves, for `reading.levels` = `own`; None for floats, which are
            then not rounded.

    Returns:
        (batch, size, size, channels) in [0, 1], float32.
    """
    size, channels = reading.size, pixels.shape[3]
    height, width = tf.unstack(tf.cast(tf.shape(pixels)[1:3], tf.float32))
    narrow = tf.matmul(_resizing_matrix(width, height, size, reading.aspect), pixels)
    narrow = tf.reshape(narrow, (-1, tf.shape(pixels)[1], size * channels))
    square = tf.matmul(_resizing_matrix(height, width, size, reading.aspect), narrow)
    square = tf.reshape(square, (-1, size, size, channels))
    levels = own_levels if reading.levels == "own" else reading.levels
    if levels is None:
        return square / white
    return tf.floor(square * (levels / white) + ROUNDING) / levels


def _resizing_matrix(length: tf.Tensor, other_length: tf.Tensor, size: int, aspect: Aspect) -> tf.Tensor:
    """The matrix that resizes one dimension of an image.

    Row i has the weights of the input pixels in output pixel i: a triangle around the centre of that pixel, which is
    wider if the image becomes smaller. Rows of the padding are 0.

    Args:
        length: the number of pixels in this dimension, a scalar, float32.
        other_length: the number of pixels in the other dimension.
        size: the number of pixels that this dimension becomes.
        aspect: what happens to images that are not square.

    Returns:
        (size, length), float32.
    """
    # `step` is the distance of two output pixels, and `start` the edge of the first one, both in input pixels.
    match aspect:
        case "pad":
            n_without_padding = tf.maximum(tf.round(length * size / tf.maximum(length, other_length)), 1.0)
            step = length / n_without_padding
            start = -tf.round((size - n_without_padding) / 2) * step
        case "crop":
            step = tf.minimum(length, other_length) / size
            start = (length - tf.minimum(length, other_length)) / 2
        case "stretch":
            step, start = length / size, 0.0
    centres = (start + (tf.range(size, dtype=tf.float32) + 0.5) * step)[:, tf.newaxis]
    triangles = tf.nn.relu(1 - tf.abs(tf.range(length) + 0.5 - centres) / tf.maximum(step, 1.0))
    is_inside = tf.cast((centres > 0) & (centres < length), tf.float32)
    return is_inside * tf.math.divide_no_nan(triangles, tf.reduce_sum(triangles, axis=1, keepdims=True))


def _selected_score(detector: AnomalyDetector, x: tf.Tensor, output: ScoreOutput) -> tf.Tensor:
    """The selected score, (batch,), without the other scores of `AnomalyDetector.scores`."""
    name = detector.hyperparameters.score
    match name:
        case "paper":
            return output.score
        case "residual":
            return losses.l1_per_image(x, output.reconstruction)
        case _:
            return detector.memory_banks[name](output.vectors[name])


def _graph(spec: tf.TensorSpec) -> Callable:
    """A decorator that turns a function into a TensorFlow graph with one input."""
    return tf.function(input_signature=[spec], autograph=False)
