"""Images of concrete: Negative is normal, Positive is anomalous."""

import zipfile

import numpy as np
import pytest

from anomaly_toolbox.datasets import load_dataset
from anomaly_toolbox.datasets.surface_cracks import SurfaceCracks
from anomaly_toolbox.errors import InputError, ToolboxError
from tests.datasets.test_folder import counts, fill


def publish(folder):
    """Writes 30 images without a crack and 9 with a crack, all of noise."""
    fill(folder, mode="RGB", Negative=30)
    return fill(folder, seed=1, mode="RGB", Positive=9)


def configured(folder, **options):
    dataset = SurfaceCracks(folder, **options)
    dataset.configure(4, (8, 8), drop_remainder=False)
    return dataset


def test_the_splits_depend_on_the_seed(tmp_path):
    dataset = configured(publish(tmp_path))
    assert counts(dataset) == {"train": [18, 0], "validation": [6, 4], "test": [6, 5]}
    assert dataset.channels == 3
    labels = np.concatenate([labels for _, labels in dataset.test])
    assert [name.split("/")[0] for name in dataset.test_files] == [("Negative", "Positive")[label] for label in labels]
    assert configured(tmp_path).test_files == dataset.test_files
    assert load_dataset("SurfaceCracks", tmp_path, seed=1).test_files != dataset.test_files


def test_the_two_folders_may_be_one_level_deeper(tmp_path):
    publish(tmp_path / "Concrete Crack Images for Classification")
    assert counts(configured(tmp_path))["test"] == [6, 5]


def test_an_archive(tmp_path):
    folder = publish(tmp_path / "made")
    archive = tmp_path / "5y9wdsg2zt-2.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in folder.rglob("*.png"):
            packed.write(path, path.relative_to(folder))
    assert configured(archive).test_files == configured(folder).test_files


def test_bad_images_are_refused_or_left_out(tmp_path):
    (publish(tmp_path) / "Negative" / "3.png").write_bytes(b"")
    with pytest.raises(ToolboxError, match=r"3\.png: is empty"):
        SurfaceCracks(tmp_path)
    assert "3.png: is empty" in str(configured(tmp_path, on_bad_image="skip").notes)


def test_a_folder_is_required():
    with pytest.raises(InputError, match=r"needs --data-dir.*mendeley\.com/datasets/5y9wdsg2zt.*Negative and Positive"):
        load_dataset("SurfaceCracks")


def test_a_folder_without_the_two_folders_is_refused(tmp_path):
    fill(tmp_path, Negative=3)
    (tmp_path / "Concrete.rar").touch()
    with pytest.raises(
        InputError, match=r"Negative and Positive in it; there is Concrete\.rar, Negative .a \.rar has to"
    ):
        SurfaceCracks(tmp_path)
