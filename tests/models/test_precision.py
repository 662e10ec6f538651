"""Training in bfloat16 gives nearly the figures of float32, and scoring does not depend on it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.models import build_detector, detector_class, layers
from anomaly_toolbox.models.precision import training_precision
from tests.conftest import TINY, training_data

ROUNDING = 2**-8  # of a bfloat16


def detector_of(method, precision):
    keras.utils.set_random_seed(0)
    cls = detector_class(method)
    detector = build_detector(cls, cls.Hyperparameters(**TINY[method], precision=precision), 1, 3)
    detector.compile()
    return detector


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: layers.convolution(8), (4, 8, 8, 3)),
        (lambda: layers.convolution(8, transposed=True, bias=True), (4, 8, 8, 3)),
        (lambda: layers.dense(8, bias=True), (4, 30)),
    ],
)
def test_layers_multiply_rounded_values_only_in_training(build, shape):
    x = tf.random.stateless_normal(shape, (0, 1))
    with training_precision("bfloat16"):
        layer = build()
    scored, trained = layer(x, training=False), layer(x, training=True)
    plain = build()
    plain(x)
    assert {weight.dtype for weight in layer.weights} == {"float32"}
    for weight, other in zip(plain.weights, layer.weights, strict=True):
        weight.assign(other)
    assert trained.dtype == scored.dtype == tf.float32
    assert np.array_equal(scored, plain(x, training=False))
    for weight in plain.weights:
        if weight.path.endswith("kernel"):
            weight.assign(tf.cast(tf.cast(weight, tf.bfloat16), tf.float32))
    rounded = plain(tf.cast(tf.cast(x, tf.bfloat16), tf.float32), training=True)
    assert np.allclose(trained, rounded, rtol=0, atol=2 * ROUNDING * np.abs(rounded).max())
    assert not np.array_equal(trained, plain(x, training=True))


@pytest.mark.parametrize("method", ["GANomaly", "ALAD"])
def test_figures_are_nearly_those_of_float32(method, tmp_path):
    """Of a training step, and of the scores after it, also in a detector that is built in float32."""
    x = tf.random.stateless_uniform((8, 16, 16, 1), (0, 1), -1, 1)
    losses, scores = {}, {}
    for precision in ("float32", "bfloat16"):
        detector = detector_of(method, precision)
        history = detector.fit(training_data(detector, x), batch_size=8, epochs=3, verbose=0, shuffle=False)
        losses[precision] = {name: values[-1] for name, values in history.history.items()}
        scores[precision] = detector.anomaly_score(x).numpy()
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05, abs=0.01)
    assert losses["bfloat16"] != losses["float32"]
    assert scores["bfloat16"] == pytest.approx(scores["float32"], rel=0.1)

    path = tmp_path / "networks.weights.h5"
    detector.save_networks(path)
    loaded = detector_of(method, "float32")
    loaded.load_networks(path)
    assert np.array_equal(loaded.anomaly_score(x), scores["bfloat16"])
