"""Estimates the memory of a training step before the first one, which may need more than is free."""

import contextlib
import math
from pathlib import Path

import keras
import psutil
import tensorflow as tf

from anomaly_toolbox.models.base import AnomalyDetector

BYTES_OF_A_NUMBER = 4
GIB = 2**30
SMALLEST_MENTIONED = GIB  # of a step; less is not worth a line

# These values were chosen by hand so that the estimates are near to what `benchmarks.training_memory` measures.
COPIES_OF_OUTPUTS = 4  # for real and generated images, their gradients, and what XLA copies
BYTES_OF_COMPILER = 150 * 2**20
UNCERTAINTY = 1.25  # a step may take this many times the estimate

#: Files with the memory limit of a container, by the versions of Linux's control groups.
LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def bytes_of_step(detector: AnomalyDetector) -> int:
    """An estimate of the memory of a training step, in bytes, beside the weights and the optimizers that exist already.

    BYTES_OF_COMPILER + 4 bytes x (trainable weights, for their gradients
                                   + COPIES_OF_OUTPUTS x batch size x outputs of all layers for one image)

    Networks of averaged weights count, although no training step runs them: EGBAD and ALAD, which have them, run their
    other networks more often than most methods do.
    """
    gradients = sum(math.prod(weight.shape) for weight in detector.trainable_variables)
    outputs = detector.hyperparameters.batch_size * _outputs_for_an_image(detector)
    return BYTES_OF_COMPILER + BYTES_OF_A_NUMBER * (gradients + COPIES_OF_OUTPUTS * outputs)


def describe_memory(detector: AnomalyDetector) -> str | None:
    """A line on the memory that a training step takes and that is free, and a warning if that may be too little.

    None if a step takes little memory, or that of a GPU, for which the estimate was never compared with measurements.
    What other workers of a sweep will take is not known and not counted.
    """
    of_step = bytes_of_step(detector)
    if of_step < SMALLEST_MENTIONED or tf.config.get_visible_devices("GPU"):
        return None
    free = free_memory()
    line = f"a training step takes about {of_step / GIB:.1f} GiB of memory; {free / GIB:.1f} GiB are free"
    if UNCERTAINTY * of_step > free:
        line = f"warning: {line}, which may not be enough; a smaller batch_size, width or image_size takes less"
    return line


def free_memory() -> int:
    """How many more bytes this process could have, by what the machine and the limit of a Linux container leave."""
    free = psutil.virtual_memory().available
    in_use = psutil.Process().memory_info().rss
    for path in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
            free = min(free, int(path.read_text(encoding="ascii")) - in_use)
    return max(free, 0)


def _outputs_for_an_image(layer: keras.Layer) -> int:
    """The number of outputs of a layer, or of all layers of a model, for one image."""
    if isinstance(layer, keras.Model):
        return sum(_outputs_for_an_image(inner) for inner in layer.layers)
    try:
        return math.prod(layer.output.shape[1:])
    except (AttributeError, TypeError, ValueError):
        return 0  # Keras does not know the output of a layer that only its parent calls, nor all sizes of some others
