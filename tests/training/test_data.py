"""How the hyperparameters of a trial reach its dataset."""

import io

import pytest

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets import load_dataset
from anomaly_toolbox.errors import InputError
from anomaly_toolbox.models.hyperparameters import PCAHyperparameters
from anomaly_toolbox.models.pca import PCA
from anomaly_toolbox.training.data import prepare
from tests.datasets.test_corrupted_mnist import publish
from tests.datasets.test_datasets import WITH_SET_SPLIT
from tests.datasets.test_folder import fill


def prepare_with(dataset, **labels):
    hyperparameters = PCAHyperparameters(image_size=8, batch_size=16, **labels)
    return prepare(dataset, PCA, hyperparameters, seed=0, console=plain_console(file=io.StringIO()))


def users_class(folder):
    (folder / "Stripes.py").write_text(WITH_SET_SPLIT)
    return load_dataset(str(folder / "Stripes.py"))


def test_one_class_normal_has_more_anomalous_than_normal_images():
    data = prepare_with(load_dataset("Digits"), normal_label=2)
    assert data.n_train == 106
    assert (len(data.test.labels), data.test.labels.sum()) == (360, 325)
    assert (len(data.validation.labels), data.validation.labels.sum()) == (359, 323)


def test_a_users_class_does_not_need_the_parameter(tmp_path):
    assert prepare_with(users_class(tmp_path)).n_train == 150


DATASETS = {
    "ImageFolder": lambda folder: load_dataset(str(fill(folder, normal=5))),
    "MVTecAD": lambda folder: load_dataset("MVTecAD", fill(folder / "bottle", train__good=2).parent),
    "SurfaceCracks": lambda folder: load_dataset("SurfaceCracks", fill(folder, Negative=5, Positive=2)),
    "CorruptedMNIST": lambda folder: load_dataset("CorruptedMNIST", publish(folder, "fog")),
    "Stripes": users_class,
}


@pytest.mark.parametrize("name", DATASETS)
def test_a_normal_label_is_refused_by_datasets_that_do_not_take_it(tmp_path, name):
    with pytest.raises(InputError, match=f"normal_label: 2 given; {name} does not support it; datasets with") as caught:
        prepare_with(DATASETS[name](tmp_path), normal_label=2)
    assert "\n" not in str(caught.value)
