"""The contract of all datasets, built-in ones and those that a user writes; and the registry."""

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.datasets import DATASETS, dataset_name, load_dataset
from anomaly_toolbox.datasets import dataset as interface
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.labelled import ImagesInMemory
from anomaly_toolbox.errors import InputError, ToolboxError
from tests.conftest import FASHION_MNIST, write_idx_folder
from tests.datasets.test_cifar10 import publish as publish_cifar10
from tests.datasets.test_corrupted_mnist import publish as publish_mnist_c
from tests.datasets.test_emnist import publish as publish_emnist
from tests.datasets.test_folder import fill
from tests.datasets.test_kmnist import publish_npz as publish_kmnist

#: A user's class that assigns the private attributes of the nine datasets.
WITH_ATTRIBUTES = """
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

#: The same class with `set_split`.
BEFORE, _, _ = WITH_ATTRIBUTES.partition("            setattr(")
WITH_SET_SPLIT = f"""{BEFORE}
            self.set_split(
                name,
                normal=pipeline(normal, is_training=is_training),
                anomalous=pipeline(anomalous, is_training=is_training),
                all=pipeline(part, is_training=is_training),
            )
"""
USERS_CLASSES = {"with attributes": WITH_ATTRIBUTES, "with set_split": WITH_SET_SPLIT}


def images_of(split):
    return np.concatenate([batch for batch, _ in split.as_numpy_iterator()])


def labels_of(split):
    return np.concatenate([np.zeros(0, int), *(labels for _, labels in split.as_numpy_iterator())])


SLOW_TO_READ = {"FashionMNIST": pytest.mark.slow}  # 70,000 images
NAMES = (*sorted(DATASETS), "Digits, pooled", "Digits, one class normal", *USERS_CLASSES)
PARAMS = [pytest.param(name, marks=SLOW_TO_READ.get(name, ())) for name in NAMES]


@pytest.fixture(params=PARAMS, scope="module")
def dataset(request, tmp_path_factory):
    """A configured dataset, its expected numbers of normal and anomalous images by split, and its label."""
    tf.random.set_seed(0)
    chosen = {"anomalous_label": 2}
    if request.param in USERS_CLASSES:
        path = tmp_path_factory.mktemp("user") / "Stripes.py"
        path.write_text(USERS_CLASSES[request.param])
        dataset, counts = load_dataset(str(path)), {"train": (150, 50), "validation": (38, 12), "test": (37, 13)}
    elif request.param == "Digits":
        dataset, counts = load_dataset("Digits"), {"train": (972, 106), "validation": (323, 36), "test": (325, 35)}
    elif request.param == "Digits, pooled":
        dataset = load_dataset("Digits", split="pooled")
        counts = {"train": (1166, 0), "validation": (130, 0), "test": (324, 177)}
    elif request.param == "Digits, one class normal":
        dataset, chosen = load_dataset("Digits"), {"normal_label": 2}
        counts = {"train": (106, 972), "validation": (36, 323), "test": (35, 325)}
    elif request.param == "FashionMNIST":
        if not FASHION_MNIST.is_dir():
            pytest.skip(f"{FASHION_MNIST} is absent: install Debian's dataset-fashion-mnist")
        dataset = load_dataset("FashionMNIST", FASHION_MNIST)
        counts = {"train": (48600, 5400), "validation": (5400, 600), "test": (9000, 1000)}
    elif request.param == "KMNIST":
        dataset = load_dataset("KMNIST", publish_kmnist(tmp_path_factory.mktemp("kmnist")))
        counts = {"train": (20, 10), "validation": (1200, 600), "test": (8, 4)}
    elif request.param in ("EMNISTBalanced", "EMNISTLetters"):
        variant, per_label = request.param.removeprefix("EMNIST").lower(), 490
        dataset = load_dataset(request.param, publish_emnist(tmp_path_factory.mktemp("emnist"), variant, per_label))
        n_validation = 240 if variant == "balanced" else 480
        n_train = per_label - n_validation
        counts = {"train": (2 * n_train, n_train), "validation": (2 * n_validation, n_validation), "test": (10, 5)}
    elif request.param == "CIFAR10":
        dataset = load_dataset("CIFAR10", publish_cifar10(tmp_path_factory.mktemp("cifar")))
        counts = {"train": (50, 25), "validation": (1000, 500), "test": (210, 105)}
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


def test_classes_of_normal_training_images(dataset):
    """They are those of `train_normal`, and each class has images."""
    dataset, *_ = dataset
    has_classes = isinstance(dataset, ImagesInMemory)
    assert (dataset.train_classes is not None) == (dataset.class_names is not None) == has_classes
    if has_classes:
        assert np.unique(labels_of(dataset.train_classes)).tolist() == list(range(len(dataset.class_names)))
        splits = dataset.train_classes, dataset.train_normal
        found, expected = ([image.tobytes() for image in images_of(split)] for split in splits)
        assert sorted(found) == sorted(expected)


def test_shape_and_range(dataset):
    dataset, *_ = dataset
    images = images_of(dataset.test)
    assert images.shape[1:] == (8, 8, dataset.channels)
    assert images.dtype == np.float32
    assert images.min() >= -1.0001
    assert images.max() <= 1.0001
    assert images.max() - images.min() > 1


def test_splits_are_disjoint(dataset, request):
    """Compares contents; Fashion-MNIST is left out because it repeats a few images itself."""
    dataset, *_ = dataset
    if type(dataset).__name__ == "FashionMNIST":
        pytest.skip("Fashion-MNIST repeats some images across its official splits")
    train, validation, test = (
        {image.tobytes() for image in images_of(split)} for split in (dataset.train, dataset.validation, dataset.test)
    )
    assert not train & validation
    assert not train & test
    assert not validation & test


def test_the_test_split_has_a_fixed_order(dataset):
    dataset, *_ = dataset
    assert np.array_equal(images_of(dataset.test), images_of(dataset.test))


def test_the_training_order_is_new_in_each_epoch_and_follows_from_the_seed(dataset):
    dataset, _, chosen = dataset
    orders = []
    for _ in range(2):
        tf.random.set_seed(5)
        dataset.configure(batch_size=16, new_size=(8, 8), **chosen)
        first = dataset.train_normal.take(4)
        orders.append([images_of(first), images_of(first)])
    assert not np.array_equal(orders[0][0], orders[0][1])
    np.testing.assert_array_equal(orders[0], orders[1])


class Unconfigured(AnomalyDetectionDataset):
    """A dataset without splits."""

    def configure(self, *_, **__):
        """Does nothing."""


def test_set_split_sets_all_three_datasets_of_a_split():
    dataset = Unconfigured()
    assert dataset.train is dataset.validation_normal is dataset.test_anomalous is None
    normal, anomalous, both = (tf.data.Dataset.range(n) for n in (1, 2, 3))
    dataset.set_split("validation", normal=normal, anomalous=anomalous, all=both)
    assert dataset.validation_normal is dataset._validation_normal is normal
    assert dataset.validation_anomalous is dataset._validation_anomalous is anomalous
    assert dataset.validation is dataset._validation is both
    assert dataset.train is dataset.test is None
    dataset.set_split("validation", all=both)
    assert dataset.validation_normal is dataset.validation_anomalous is None
    with pytest.raises(ValueError, match="expected train, validation or test, received 'val'"):
        dataset.set_split("val", all=both)


def test_names():
    assert dataset_name("fashionmnist") == "FashionMNIST"
    assert dataset_name("emnist") == "EMNISTBalanced"
    with pytest.raises(InputError, match="did you mean FashionMNIST"):
        dataset_name("FashonMNIST")
    with pytest.raises(InputError, match="no such file"):
        dataset_name("nowhere.py")


@pytest.mark.parametrize(
    ("text", "message"),
    [("x = (", "cannot be imported"), ("x = 1", "nothing of that name"), ("class Mine: pass", "expected a class Mine")],
)
def test_a_users_file_without_a_dataset_class_is_refused(tmp_path, text, message):
    path = tmp_path / "Mine.py"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load_dataset(str(path))


@pytest.mark.parametrize("body", ["raise ValueError('no camera')", "import sys; sys.exit('no camera')"])
def test_an_error_of_a_users_class_is_reported_with_its_name(tmp_path, body):
    path = tmp_path / "Mine.py"
    base = "from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset as Base\n"
    path.write_text(f"{base}class Mine(Base):\n  def __init__(self): {body}\n  def configure(self, **_): pass")
    with pytest.raises(ToolboxError, match=r"Mine\.py: Mine\(\) failed: .*: no camera"):
        load_dataset(str(path))


def test_an_unsupported_option_is_refused(tmp_path):
    with pytest.raises(InputError, match="--data-dir: is not supported by --dataset Digits"):
        load_dataset("Digits", tmp_path)


@pytest.mark.parametrize("name", ["CorruptedMNIST", "MVTecAD", "SurfaceCracks", "a folder", "a user's class"])
@pytest.mark.parametrize("split", ["official", "pooled"])
def test_a_division_is_refused_by_datasets_without_an_anomalous_label(tmp_path, name, split):
    if name == "a folder":
        name = str(fill(tmp_path, train__good=1))
    elif name == "a user's class":
        name = str(tmp_path / "Stripes.py")
        (tmp_path / "Stripes.py").write_text(WITH_SET_SPLIT)
    with pytest.raises(InputError) as raised:
        load_dataset(name, split=split)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"--split: is not supported by --dataset {name}; ")
    assert "Digits, MNIST, FashionMNIST, KMNIST, EMNIST and CIFAR10" in line
    assert "--all-test-images" in line


def test_an_unknown_division_is_refused():
    with pytest.raises(InputError, match="--split: expected official or pooled, received 'both'"):
        load_dataset("Digits", split="both")


@pytest.mark.parametrize(("label", "message"), [(10, "10 is not a label of Digits"), ("two", "'two' is not a label")])
def test_an_unknown_label_is_refused(label, message):
    with pytest.raises(InputError, match=message):
        load_dataset("Digits").configure(16, (8, 8), anomalous_label=label)


def test_a_class_label_is_refused_by_a_dataset_with_labels():
    with pytest.raises(InputError, match="use anomalous_label"):
        load_dataset("Digits").configure(16, (8, 8), class_label="bottle")


def test_large_datasets_are_not_cached(monkeypatch):
    def times_read(largest):
        monkeypatch.setattr(interface, "LARGEST_CACHE", largest)
        read = []

        def count_reads(image):
            read.append(1)
            return image

        raw = tf.data.Dataset.from_tensor_slices((np.zeros((3, 4, 4, 1), np.uint8), np.zeros(3, np.int32)))
        raw = raw.map(lambda image, label: (tf.numpy_function(count_reads, [image], tf.uint8), label))
        raw = raw.map(lambda image, label: (tf.ensure_shape(image, (4, 4, 1)), label))
        dataset = AnomalyDetectionDataset.pipeline(raw, (8, 8), 2, cache=True, shuffle_buffer_size=3)
        for _ in range(2):
            list(dataset)
        return len(read)

    assert times_read(3 * 8 * 8 * 4) == 3
    assert times_read(3 * 8 * 8 * 4 - 1) == 6
