"""The functions that an exported detector consists of, made of TensorFlow operations that every format supports.

Images are resized as `datasets/images.py` does it, by products with two matrices, because not every format has an
operation for `tf.image.resize(antialias=True)`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.decoding import WHITE
from anomaly_toolbox.datasets.images import ROUNDING, Aspect, Reading
from anomaly_toolbox.ensembles.combination import Standardisation
from anomaly_toolbox.inference.members import Member, mean_map
from anomaly_toolbox.models import layers, losses
from anomaly_toolbox.models.base import ScoreOutput
from anomaly_toolbox.models.knn import KNN
from anomaly_toolbox.models.memory import nearest

Functions = dict[str, tf.types.experimental.GenericFunction]


def serving_functions(
    members: Sequence[Member],
    score_range: tuple[float, float],
    threshold: float,
    normal_scores: np.ndarray | None = None,
) -> Functions:
    """The functions to export, by the names of their signatures.

    Both take `images`, (batch, height, width, channels): `serving_default` takes uint8, and `float_images` float32 in
    [0, 1]. Their outputs are documented in `export.py`.

    Args:
        members: the trained detectors of the run, with filled memory banks.
        score_range: minimum and maximum of the selected score on the validation images.
        threshold: images with a selected score at or above it are called anomalous.
        normal_scores: (n,), the selected scores of the normal validation images; None: there is no output `p_value`.
    """
    low, high = score_range
    scale = max(high - low, np.finfo(np.float32).tiny)
    functions = [_member_function(member) for member in members]
    size = max(member.reading.size for member in members)
    channels = members[0].reading.channels

    def score_pixels(pixels, white, own_levels):
        outputs = []
        for member, function in zip(members, functions, strict=True):
            outputs.append(function(2 * resize(pixels, member.reading, white, own_levels) - 1))
        combined = outputs[0] if len(outputs) == 1 else _mean_outputs(outputs, size)
        score = combined["score"]
        results = {
            "score": score,
            "anomalous": score >= threshold,
            "calibrated": tf.clip_by_value((score - low) / scale, 0.0, 1.0),
            "map": combined["map"],
            "reconstruction": combined["reconstruction"],
        }
        if normal_scores is not None:
            results["p_value"] = p_values(score, normal_scores)
        return results

    @_graph(tf.TensorSpec((None, None, None, channels), tf.uint8, "images"))
    def score_bytes(images):
        return score_pixels(tf.cast(images, tf.float32), WHITE, WHITE)

    @_graph(tf.TensorSpec((None, None, None, channels), tf.float32, "images"))
    def score_floats(images):
        return score_pixels(images, 1, None)

    return {"serving_default": score_bytes, "float_images": score_floats}


def _member_function(member: Member) -> tf.types.experimental.GenericFunction:
    """A function from prepared images to the (standardised) score, the anomaly map and the reconstruction."""
    detector = member.model
    score_and_reconstruct: Callable[[tf.Tensor], ScoreOutput] = detector.score_and_reconstruct
    if isinstance(detector, KNN):
        score_and_reconstruct = knn_in_tensorflow(detector)

    @_graph(tf.TensorSpec((None, *detector.image_shape), tf.float32))
    def score_prepared(x):
        output = score_and_reconstruct(x)
        return {
            "score": _standardise(detector.selected_score(x, output), member.standardisation),
            "map": detector.map_from_reconstruction(x, output.reconstruction),
            "reconstruction": (output.reconstruction + 1) / 2,
        }

    return score_prepared


def _standardise(scores: tf.Tensor, standardisation: Standardisation | None) -> tf.Tensor:
    """`Standardisation.of`, in TensorFlow."""
    if standardisation is None:
        return scores
    if standardisation.lowest is not None:
        scores = tf.math.log(tf.maximum(scores, standardisation.lowest))
    return (scores - standardisation.median) / standardisation.spread


def _mean_outputs(outputs: Sequence[Mapping[str, tf.Tensor]], size: int) -> dict[str, tf.Tensor]:
    """The mean of the members' outputs; smaller maps and reconstructions are enlarged linearly."""
    enlarged = [tf.image.resize(output["reconstruction"], (size, size)) for output in outputs]
    return {
        "score": tf.reduce_mean(tf.stack([output["score"] for output in outputs]), axis=0),
        "map": mean_map([output["map"] for output in outputs], size),
        "reconstruction": tf.reduce_mean(tf.stack(enlarged), axis=0),
    }


def knn_in_tensorflow(detector: KNN) -> Callable[[tf.Tensor], ScoreOutput]:
    """KNN's `score_and_reconstruct` without scikit-learn."""

    def score_and_reconstruct(x):
        images = detector.training_images.arrays["images"]
        pixels = layers.flatten(tf.cast(images, tf.float32) / 127.5 - 1)
        queries = layers.flatten(x)
        nearest_images = nearest(queries, pixels, detector.hyperparameters.neighbours)
        score = tf.reduce_mean(losses.distance(nearest_images, queries[:, tf.newaxis]), axis=1)
        return ScoreOutput(score, tf.reshape(tf.reduce_mean(nearest_images, axis=1), tf.shape(x)), {})

    return score_and_reconstruct


def p_values(scores: tf.Tensor, normal_scores: np.ndarray) -> tf.Tensor:
    """`false_alarms.p_values` with operations that every format has: each score is compared with all normal ones."""
    is_below = tf.constant(normal_scores, tf.float32) < scores[:, tf.newaxis]
    n_below = tf.reduce_sum(tf.cast(is_below, tf.float32), axis=1)  # exact up to 2^24 normal images
    n_images = len(normal_scores) + 1
    return (n_images - n_below) / n_images


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


def _graph(spec: tf.TensorSpec) -> Callable:
    """A decorator that turns a function into a TensorFlow graph with one input."""
    return tf.function(input_signature=[spec], autograph=False)
