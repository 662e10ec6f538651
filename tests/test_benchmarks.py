"""The parts of the benchmarks that do not measure time."""

import math

import numpy as np
import pytest
import skimage.data
import tensorflow as tf

from anomaly_toolbox.datasets.folder import ImageFolder
from benchmarks import textures
from benchmarks.flops import gflop


def test_the_cost_of_convolutions_and_matrix_products():
    kernel = tf.random.normal((3, 3, 2, 5))

    @tf.function
    def convolution(x):
        return tf.nn.conv2d(x, kernel, strides=2, padding="SAME")

    # 4 images have 4x4x5 outputs each, and an output takes 3x3x2 multiply-adds.
    assert gflop(convolution, tf.TensorSpec((4, 8, 8, 2))) == pytest.approx(2 * 4 * 4 * 4 * 5 * 3 * 3 * 2 / 1e9)

    @tf.function
    def product(x):
        tf.nn.conv2d(tf.ones((1, 8, 8, 2)), kernel, strides=1, padding="SAME")
        return tf.matmul(x, x, transpose_a=True)

    assert gflop(product, tf.TensorSpec((7, 3))) == pytest.approx(2 * 3 * 3 * 7 / 1e9)


def test_each_of_two_gradients_costs_as_much_as_the_forward_pass():
    kernel = tf.Variable(tf.random.normal((3, 3, 2, 5)))

    @tf.function
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.reduce_sum(tf.nn.conv2d(x, kernel, strides=2, padding="SAME") ** 2)
        return tape.gradient(y, [x, kernel])

    forward = 2 * 4 * 4 * 4 * 5 * 3 * 3 * 2 / 1e9
    assert gflop(gradients, tf.TensorSpec((4, 8, 8, 2))) == pytest.approx(3 * forward)


def test_the_cost_of_a_loop_is_unknown():
    @tf.function
    def loop(x):
        return tf.while_loop(lambda i, _: i < 3, lambda i, y: (i + 1, tf.matmul(y, y)), (0, x))[1]

    assert math.isnan(gflop(loop, tf.TensorSpec((3, 3))))


def test_textures_with_defects_and_their_masks(tmp_path):
    photograph = skimage.data.brick()
    textures.write_texture(tmp_path, photograph, 32, n_train=3, n_test=4)
    dataset = ImageFolder(tmp_path, all_test_images=True)
    dataset.configure(2, (32, 32))
    kinds = [name.split("/")[1] for name in dataset.test_files]
    assert sorted(kinds) == sorted([*textures.DEFECTS, *["good"] * 4])
    assert [mask.any() for mask in dataset.test_masks] == [kind != "good" for kind in kinds]
    piece = photograph[:32, :32]
    for kind in textures.DEFECTS:
        anomalous, mask = textures.add_defect(piece, kind, np.random.default_rng(0))
        assert 0 < np.count_nonzero(anomalous != piece) <= np.count_nonzero(mask) < 32 * 32 / 4
