"""Random training batches for any method."""

import tensorflow as tf

from anomaly_toolbox.models.base import AnomalyDetector

N_CLASSES = 10  # for methods that use the classes of normal images


def random_batch(detector: AnomalyDetector) -> tf.Tensor | tuple[tf.Tensor, tf.Tensor]:
    """What `train_step` takes: images, or pairs of images and classes if the method uses classes."""
    batch_size = detector.hyperparameters.batch_size
    images = tf.random.uniform((batch_size, *detector.image_shape), -1, 1, seed=0)
    return (images, tf.range(batch_size) % N_CLASSES) if detector.uses_classes else images
