"""The device that TensorFlow computes on."""

import os

import tensorflow as tf

from anomaly_toolbox.errors import ToolboxError


def describe_device(require_gpu: bool) -> str:
    """Names the device, after making TensorFlow take memory of a GPU only as it needs it.

    Raises:
        ToolboxError: `require_gpu` is set and TensorFlow finds no GPU.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    if gpus:
        names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
        return f"GPU ({', '.join(names)})"
    if require_gpu:
        raise ToolboxError(
            "--require-gpu: TensorFlow finds no GPU; install with pip install '.[gpu]', in Docker start with "
            "--gpus all, and see --debug for TensorFlow's own messages"
        )
    return f"CPU ({os.cpu_count()} cores), no GPU found"
