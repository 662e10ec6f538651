"""The memory of a training is estimated before, in numbers that can be computed by hand."""

import types

import keras
import pytest

from anomaly_toolbox.training import required_memory
from anomaly_toolbox.training.required_memory import GIB, bytes_of_step, describe_memory, free_memory


class TwoNetworks(keras.Model):
    """A generator of 8x8x2 images within another model, and a critic."""

    def __init__(self):
        super().__init__()
        self.hyperparameters = types.SimpleNamespace(batch_size=5)
        convolution = keras.layers.Conv2DTranspose(2, 2, strides=2, use_bias=False)  # 2x2x2x3 weights, 8x8x2 outputs
        self.generator = keras.Sequential([keras.Input((4, 4, 3)), convolution])
        flatten = keras.layers.Flatten()  # 128 outputs
        dense = keras.layers.Dense(7)  # 128x7 weights and 7 biases, 7 outputs
        self.critics = [keras.Sequential([keras.Input((8, 8, 2)), flatten, dense])]
        pooling = keras.layers.GlobalAveragePooling2D()  # 3 outputs
        activation = keras.layers.ReLU()  # for images of any size, which count as nothing
        self.of_any_size = keras.Sequential([keras.Input((None, None, 3)), activation, pooling])


def test_the_memory_of_a_step_follows_from_weights_and_outputs():
    gradients = 24 + 128 * 7 + 7
    outputs = 5 * (128 + 128 + 7 + 3)
    assert bytes_of_step(TwoNetworks()) == 150 * 2**20 + 4 * gradients + 4 * 4 * outputs


@pytest.fixture
def machine(monkeypatch):
    """Sets the memory of a step and the memory that is free, in bytes."""

    def set_memory(of_step, free, gpus=()):
        monkeypatch.setattr(required_memory, "bytes_of_step", lambda detector: of_step)
        monkeypatch.setattr(required_memory, "free_memory", lambda: free)
        monkeypatch.setattr(required_memory.tf.config, "get_visible_devices", lambda kind: list(gpus))

    return set_memory


def test_the_line_compares_with_what_is_free(machine):
    machine(of_step=2 * GIB, free=8 * GIB)
    assert describe_memory(None) == "a training step takes about 2.0 GiB of memory; 8.0 GiB are free"


def test_a_warning_says_what_takes_less(machine):
    machine(of_step=2 * GIB, free=24 * GIB // 10)
    assert describe_memory(None) == (
        "warning: a training step takes about 2.0 GiB of memory; 2.4 GiB are free, which may not be enough; a smaller "
        "batch_size, width or image_size takes less"
    )


def test_nothing_is_said_about_the_memory_of_a_gpu(machine):
    machine(of_step=2 * GIB, free=GIB, gpus=["GPU:0"])
    assert describe_memory(None) is None


def test_little_memory_is_not_worth_a_line(machine):
    machine(of_step=GIB - 1, free=GIB)
    assert describe_memory(None) is None


def test_the_limit_of_a_container_counts(tmp_path, monkeypatch):
    in_use = 3 * GIB // 2
    monkeypatch.setattr(required_memory.psutil, "virtual_memory", lambda: types.SimpleNamespace(available=10 * GIB))
    process = types.SimpleNamespace(memory_info=lambda: types.SimpleNamespace(rss=in_use))
    monkeypatch.setattr(required_memory.psutil, "Process", lambda: process)
    newer, older = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(required_memory, "LIMITS", (newer, older))
    assert free_memory() == 10 * GIB
    newer.write_text("max\n")
    assert free_memory() == 10 * GIB
    older.write_text(f"{4 * GIB}\n")
    assert free_memory() == 4 * GIB - in_use
    older.write_text(f"{GIB}\n")
    assert free_memory() == 0
