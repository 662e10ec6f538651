"""What every dataset must do, the built-in ones and one that a user writes."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.datasets import DATASETS, dataset_name, load_dataset
from anomaly_toolbox.datasets import dataset as interface
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.errors import InputError, ToolboxError
from tests.conftest import FASHION_MNIST, write_idx_folder
from tests.datasets.test_corrupted_mnist import publish as publish_mnist_c
from tests.datasets.test_folder import fill

USERS = """
from functools import partial
import numpy as np
import tensorflow as tf
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset


class Stripes(AnomalyDetectionDataset):
    def __init__(self):
        super().__init__()
        generator = np.random.default_rng(0)
        self._labels = np.tile([0, 0, 0, 1], 75)
        self._images = generator.integers(0, 256, (300, 9, 9, 3)).astype(np.uint8)
        self._channels = 3

    def configure(self, batch_size, new_size, anomalous_label=None, class_label=None, shuffle_buffer_size=10000,
                  cache=True, drop_remainder=True, output_range=(-1.0, 1.0)):
        pipeline = partial(self.pipeline, new_size=new_size, batch_size=batch_size, cache=cache,
                           shuffle_buffer_size=shuffle_buffer_size, drop_remainder=drop_remainder,
                           output_range=output_range)
        raw = tf.data.Dataset.from_tensor_slices((self._images, self._labels))
        for name, first, last in (("train", 0, 200), ("validation", 200, 250), ("test", 250, 300)):
            part = raw.skip(first).take(last - first)
            is_training = name == "train"
            normal = part.filter(lambda _, y: tf.equal(y, 0)).map(lambda x, _: (x, self.normal_label))
            anomalous = part.filter(lambda _, y: tf.equal(y, 1)).map(lambda x, _: (x, self.anomalous_label))
            setattr(self, f"_{name}_normal", pipeline(normal, is_training=is_training))
            setattr(self, f"_{name}_anomalous", pipeline(anomalous, is_training=is_training))
            setattr(self, f"_{name}", pipeline(part, is_training=is_training))
"""


def images_of(split):
    return np.concatenate([batch for batch, _ in split.as_numpy_iterator()])


def labels_of(split):
    return np.concatenate([np.zeros(0, int), *(labels for _, labels in split.as_numpy_iterator())])


@pytest.fixture(params=[*sorted(DATASETS), "Stripes.py"], scope="module")
def dataset(request, tmp_path_factory):
    """Configured; with the images of each kind in each split, and the label that was chosen."""
    tf.random.set_seed(0)
    chosen = {"anomalous_label": 2}
    if request.param == "Stripes.py":
        path = tmp_path_factory.mktemp("user") / request.param
        path.write_text(USERS)
        dataset, counts = load_dataset(str(path)), {"train": (150, 50), "validation": (38, 12), "test": (37, 13)}
    elif request.param == "Digits":
        dataset, counts = load_dataset("Digits"), {"train": (972, 106), "validation": (323, 36), "test": (325, 35)}
    elif request.param == "FashionMNIST":
        if not FASHION_MNIST.is_dir():
            pytest.skip(f"{FASHION_MNIST} is absent: install Debian's dataset-fashion-mnist")
        dataset = load_dataset("FashionMNIST", FASHION_MNIST)
        counts = {"train": (48600, 5400), "validation": (5400, 600), "test": (9000, 1000)}
    elif request.param == "CorruptedMNIST":
        dataset = load_dataset("CorruptedMNIST", publish_mnist_c(tmp_path_factory.mktemp("mnist-c"), "fog"))
        counts, chosen = {"train": (105, 0), "validation": (900, 900), "test": (17, 16)}, {"class_label": "fog"}
    elif request.param == "MVTecAD":
        folder = tmp_path_factory.mktemp("mvtec")
        fill(folder / "bottle", train__good=70, test__good=6, test__crack=5)
        dataset = load_dataset("MVTecAD", folder)
        counts, chosen = {"train": (70, 0), "validation": (3, 2), "test": (3, 3)}, {"class_label": "bottle"}
    elif request.param == "SurfaceCracks":
        folder = tmp_path_factory.mktemp("cracks")
        fill(fill(folder, Negative=110), seed=1, Positive=9)
        dataset = load_dataset("SurfaceCracks", folder)
        counts, chosen = {"train": (66, 0), "validation": (22, 4), "test": (22, 5)}, {}
    else:
        folder = tmp_path_factory.mktemp("idx")
        write_idx_folder(folder)
        dataset, counts = (
            load_dataset("MNIST", folder),
            {"train": (100, 50), "validation": (1200, 600), "test": (40, 20)},
        )
    dataset.configure(batch_size=16, new_size=(8, 8), **chosen, drop_remainder=False)
    return dataset, counts, chosen


def test_sizes_and_labels(dataset):
    dataset, counts, _ = dataset
    for split, (normal, anomalous) in counts.items():
        for suffix, expected in (("", [normal, anomalous]), ("_normal", [normal, 0]), ("_anomalous", [0, anomalous])):
            assert np.bincount(labels_of(getattr(dataset, split + suffix)), minlength=2).tolist() == expected


def test_shape_and_range(dataset):
    dataset, *_ = dataset
    images = images_of(dataset.test)
    assert images.shape[1:] == (8, 8, dataset.channels)
    assert images.dtype == np.float32
    assert images.min() >= -1.0001
    assert images.max() <= 1.0001
    assert images.max() - images.min() > 1


def test_splits_are_disjoint(dataset, request):
    """By content; Fashion-MNIST itself holds a few images twice, so it is left out."""
    dataset, *_ = dataset
    if type(dataset).__name__ == "FashionMNIST":
        pytest.skip("Fashion-MNIST repeats some images across its official splits")
    seen = [
        {image.tobytes() for image in images_of(split)} for split in (dataset.train, dataset.validation, dataset.test)
    ]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_the_test_split_keeps_its_order(dataset):
    dataset, *_ = dataset
    assert np.array_equal(images_of(dataset.test), images_of(dataset.test))


def test_training_order_is_new_each_epoch_and_repeats_for_a_seed(dataset):
    dataset, _, chosen = dataset
    orders = []
    for _ in range(2):
        tf.random.set_seed(5)
        dataset.configure(batch_size=16, new_size=(8, 8), **chosen)
        first = dataset.train_normal.take(4)
        orders.append([images_of(first), images_of(first)])
    assert not np.array_equal(orders[0][0], orders[0][1])
    np.testing.assert_array_equal(orders[0], orders[1])


def test_names():
    assert dataset_name("fashionmnist") == "FashionMNIST"
    with pytest.raises(InputError, match="did you mean FashionMNIST"):
        dataset_name("FashonMNIST")
    with pytest.raises(InputError, match="no such file"):
        dataset_name("nowhere.py")


@pytest.mark.parametrize(
    ("text", "told"),
    [("x = (", "cannot be imported"), ("x = 1", "nothing of that name"), ("class Mine: pass", "expected a class Mine")],
)
def test_a_users_file_that_does_not_fit(tmp_path, text, told):
    path = tmp_path / "Mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        load_dataset(str(path))


@pytest.mark.parametrize("body", ["raise ValueError('no camera')", "import sys; sys.exit('no camera')"])
def test_a_users_class_that_fails_is_named(tmp_path, body):
    path = tmp_path / "Mine.py"
    base = "from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset as Base\n"
    path.write_text(f"{base}class Mine(Base):\n  def __init__(self): {body}\n  def configure(self, **_): pass")
    with pytest.raises(ToolboxError, match=r"Mine\.py: Mine\(\) failed: .*: no camera"):
        load_dataset(str(path))


def test_a_folder_for_a_dataset_that_needs_none(tmp_path):
    with pytest.raises(InputError, match="--data-dir: means nothing to --dataset Digits"):
        load_dataset("Digits", tmp_path)


@pytest.mark.parametrize(("label", "told"), [(10, "10 is not a label of Digits"), ("two", "'two' is not a label")])
def test_a_label_that_is_none(label, told):
    with pytest.raises(InputError, match=told):
        load_dataset("Digits").configure(16, (8, 8), anomalous_label=label)


def test_a_class_where_there_are_labels():
    with pytest.raises(InputError, match="use anomalous_label"):
        load_dataset("Digits").configure(16, (8, 8), class_label="bottle")


def test_what_is_too_large_is_not_cached(monkeypatch):
    def times_read(largest):
        monkeypatch.setattr(interface, "LARGEST_CACHE", largest)
        read = []

        def note(image):
            read.append(1)
            return image

        raw = tf.data.Dataset.from_tensor_slices((np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int32)))
        raw = raw.map(lambda image, label: (tf.numpy_function(note, [image], tf.uint8), label))
        raw = raw.map(lambda image, label: (tf.ensure_shape(image, (4, 4, 1)), label))
        dataset = AnomalyDetectionDataset.pipeline(raw, (8, 8), 2, cache=True, shuffle_buffer_size=3)
        for _ in range(2):
            list(dataset)
        return len(read)

    assert times_read(3 * 8 * 8 * 4) == 3
    assert times_read(3 * 8 * 8 * 4 - 1) == 6
