"""How much memory a training step takes, which is said before the first one takes it."""

import math
from pathlib import Path

import keras
import psutil
import tensorflow as tf

from anomaly_toolbox.models.base import AnomalyDetector

BYTES_OF_A_NUMBER = 4
GIB = 2**30
SMALLEST_TOLD = GIB  # by which a training must grow to be worth a line

# These values were fitted to what `benchmarks.training_memory` measures.
COPIES_OF_OUTPUTS = 4  # real and generated images, gradients, copies of XLA
BYTES_OF_COMPILER = 150 * 2**20
UNCERTAINTY = 1.25  # a step may take this many times the estimate

#: Files with the memory limit of a container, by the versions of Linux's control groups.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def bytes_of_step(detector: AnomalyDetector) -> int:
    """An estimate of the memory of a training step, in bytes, beside the weights and the optimizers that exist already.

    BYTES_OF_COMPILER + 4 bytes x (trainable weights, for their gradients
                                   + COPIES_OF_OUTPUTS x batch size x outputs of all layers for one image)
    """
    gradients = sum(math.prod(weight.shape) for weight in detector.trainable_variables)
    outputs = detector.hyperparameters.batch_size * _outputs_for_an_image(detector)
    return BYTES_OF_COMPILER + BYTES_OF_A_NUMBER * (gradients + COPIES_OF_OUTPUTS * outputs)


def describe_memory(detector: AnomalyDetector) -> str | None:
    """A line on the memory that the training will take, or None if that is little.

    It compares the memory with that of the machine, unless the detector is trained on a GPU.
    """
    of_step = bytes_of_step(detector)
    if of_step < SMALLEST_TOLD:
        return None
    in_use = psutil.Process().memory_info().rss
    needed = in_use + of_step
    line = f"the training takes about {needed / GIB:.1f} GiB of memory"
    if tf.config.get_visible_devices("GPU"):
        return line
    usable = usable_memory(in_use)
    line += f"; {usable / GIB:.1f} GiB can be used"
    if needed * UNCERTAINTY > usable:
        line = f"warning: {line}, which may not be enough; a smaller batch_size, width or image_size takes less"
    return line


def usable_memory(in_use: int) -> int:
    """How many bytes of memory this process could have, by what is free and by the limit of its container.

    Args:
        in_use: the bytes that it has now.
    """
    usable = in_use + psutil.virtual_memory().available
    for path in LIMITS:
        try:
            usable = min(usable, int(path.read_text(encoding="ascii")))
        except (OSError, ValueError):  # there is no such file, or it says "max"
            continue
    return usable


def _outputs_for_an_image(layer: keras.Layer) -> int:
    """The number of outputs of a layer, or of all layers of a model, for one image."""
    if isinstance(layer, keras.Model):
        return sum(_outputs_for_an_image(inner) for inner in layer.layers)
    try:
        return math.prod(layer.output.shape[1:])
    except (AttributeError, ValueError):  # called within another layer, such as a dense one; its output is not known
        return 0
