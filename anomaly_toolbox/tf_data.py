"""What all pipelines of tf.data share."""

import tensorflow as tf


def without_autotuning(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset, and all that are made from it, with a fixed number of threads.

    The thread that tunes tf.data sleeps for times that double, up to a minute. Whoever has read enough of a dataset
    often waits until this thread wakes up.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)
