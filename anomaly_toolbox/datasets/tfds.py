"""Images that TensorFlow Datasets downloads once and keeps on disk."""

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies

import numpy as np
import tensorflow as tf

from anomaly_toolbox.datasets.labelled import Split
from anomaly_toolbox.errors import ToolboxError

SECONDS_TO_CONNECT = 10


def load_tfds(
    name: str, tfds_name: str, data_dir: Path | None, alternative: str, url: str | None = None
) -> list[Split]:
    """Loads the training and the test split of a dataset, and downloads it if necessary.

    Args:
        name: the name of the dataset in this toolbox, for errors.
        tfds_name: its name in TensorFlow Datasets.
        data_dir: the folder of the data; None: the default folder of TensorFlow Datasets.
        alternative: what the user can do without a network, for errors.
        url: the address of the data, if TensorFlow Datasets does not name it.

    Returns:
        The official training split and the official test split.

    Raises:
        ToolboxError: the data is not on this machine and cannot be downloaded.
    """
    import tensorflow_datasets

    try:
        builder = tensorflow_datasets.builder(tfds_name, data_dir=data_dir)
        if not builder.is_prepared():
            _check_connection(url or builder.URL)
            builder.download_and_prepare()
        splits = builder.as_dataset(split=["train", "test"], as_supervised=True)
    except Exception as problem:
        place = "on this machine" if data_dir is None else f"in --data-dir {data_dir}"
        cause = "no network" if isinstance(problem, (socket.gaierror, TimeoutError)) else type(problem).__name__
        raise ToolboxError(
            f"{name} is not {place} and could not be downloaded ({cause}); either connect to the network, so that "
            f"TensorFlow Datasets can fetch {tfds_name!r}, or {alternative}"
        ) from problem
    return [_read_into_memory(split) for split in splits]


def _check_connection(url: str) -> None:
    """Raises OSError within seconds if there is no network; the download itself would try for minutes."""
    if getproxies():  # the address need not be reachable without the proxy
        return
    address = urlsplit(url)
    default_port = 443 if address.scheme == "https" else 80
    socket.create_connection((address.hostname, address.port or default_port), timeout=SECONDS_TO_CONNECT).close()


def _read_into_memory(dataset: tf.data.Dataset) -> Split:
    batches = list(dataset.batch(1000).as_numpy_iterator())
    images = np.concatenate([images for images, _ in batches])
    labels = np.concatenate([labels for _, labels in batches])
    return Split(images, labels)
