"""MVTec AD in its publisher's layout: classes, masks, archives."""

import tarfile

import numpy as np
import pytest
from PIL import Image

from anomaly_toolbox.datasets import load_dataset
from anomaly_toolbox.datasets.mvtec_ad import MVTecAD
from anomaly_toolbox.errors import InputError, ToolboxError
from tests.datasets.test_folder import counts, fill


def publish(folder):
    """Writes two classes of noise: one in colour with masks, and a grey one without."""
    fill(folder / "bottle", mode="RGB", train__good=10, test__good=4, test__broken=4, test__dirt=3)
    fill(folder / "grid", seed=1, train__good=8, test__good=2, test__bent=2)
    for defect, count in (("broken", 4), ("dirt", 3)):
        masks = folder / "bottle" / "ground_truth" / defect
        masks.mkdir(parents=True)
        for number in range(count):
            Image.fromarray(np.full((12, 12), 255, np.uint8)).save(masks / f"{number}_mask.png")
    (folder / "license.txt").touch()
    return folder


def configured(folder, class_label="bottle", **options):
    dataset = MVTecAD(folder, **options)
    dataset.configure(4, (8, 8), class_label=class_label, drop_remainder=False)
    return dataset


def test_half_of_the_test_images_are_for_validation(tmp_path):
    dataset = configured(publish(tmp_path))
    assert counts(dataset) == {"train": [10, 0], "validation": [2, 3], "test": [2, 4]}
    assert dataset.channels == 3
    assert [name.rsplit("/", 1)[0] for name in dataset.test_files] == [
        *2 * ["test/broken"],
        *2 * ["test/dirt"],
        *2 * ["test/good"],
    ]
    assert dataset.test_masks.shape == (6, 8, 8)
    assert dataset.test_masks.all(axis=(1, 2)).tolist() == [True] * 4 + [False] * 2
    assert configured(tmp_path).test_files == dataset.test_files


def test_all_test_images(tmp_path):
    dataset = configured(publish(tmp_path), all_test_images=True)
    assert counts(dataset) == {"train": [9, 0], "validation": [1, 0], "test": [4, 7]}


def test_one_class_can_follow_another(tmp_path):
    dataset = configured(publish(tmp_path))
    dataset.configure(4, (8, 8), class_label="grid", drop_remainder=False)
    assert counts(dataset) == {"train": [8, 0], "validation": [1, 1], "test": [1, 1]}
    assert dataset.channels == 1
    assert dataset.test_masks is None
    assert dataset.test_files == configured(tmp_path, "grid").test_files


def test_everything_about_the_images_is_forwarded(tmp_path):
    dataset = configured(publish(tmp_path), aspect="pad")
    folder = dataset._folder
    for name in ("channels", "levels", "notes", "test_files", "test_folder", "test_masks", "test_padding"):
        assert getattr(dataset, name) is getattr(folder, name)
    for split in ("train", "validation", "test"):
        for name in (split, f"{split}_normal", f"{split}_anomalous"):
            assert getattr(dataset, name) is getattr(folder, name) is not None


def test_each_class_has_its_fingerprint(tmp_path):
    dataset = MVTecAD(publish(tmp_path))
    fingerprints = {dataset.fingerprint(label) for label in ("bottle", "grid", "bottle")}
    assert len(fingerprints) == 2
    assert dataset.test_folder == tmp_path / "bottle"
    fill(tmp_path / "bottle", seed=5, mode="RGB", train__good=1)
    assert MVTecAD(tmp_path).fingerprint("bottle") not in fingerprints
    with pytest.raises(InputError, match="class_label: expected a class"):
        dataset.fingerprint()


def test_options_reach_the_images(tmp_path):
    publish(tmp_path)
    (tmp_path / "bottle" / "train" / "good" / "3.png").write_bytes(b"")
    with pytest.raises(ToolboxError, match=r"3\.png: is empty.*--on-bad-image skip"):
        configured(tmp_path)
    dataset = load_dataset("MVTecAD", tmp_path, aspect="pad", on_bad_image="skip")
    assert (dataset.aspect, dataset.notes) == ("pad", ())
    dataset.configure(4, (8, 8), class_label="bottle", drop_remainder=False)
    assert counts(dataset)["train"] == [9, 0]
    assert "3.png: is empty" in str(dataset.notes)
    assert dataset._folder.aspect == "pad"


def test_the_publishers_archive(tmp_path):
    archive = tmp_path / "mvtec_anomaly_detection.tar.xz"
    folder = publish(tmp_path / "made")
    with tarfile.open(archive, "w:xz") as packed:
        for path in folder.iterdir():
            packed.add(path, path.name)
    assert configured(archive).test_files == configured(folder).test_files


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (None, "expected a class of MVTecAD, received None: valid names are bottle, grid"),
        ("botle", r"received 'botle': did you mean bottle\? Valid names are bottle, grid"),
        ("../bottle", r"did you mean bottle\? Valid names are bottle, grid"),
        (3, "received 3: valid names are bottle, grid"),
    ],
)
def test_an_unknown_class(tmp_path, label, message):
    with pytest.raises(InputError, match=f"class_label: .*{message}"):
        configured(publish(tmp_path), label)


def test_an_anomalous_label_is_refused(tmp_path):
    with pytest.raises(InputError, match="anomalous_label: 2 given; MVTecAD has classes: use class_label"):
        MVTecAD(publish(tmp_path)).configure(4, (8, 8), anomalous_label=2)


def test_a_folder_is_required():
    with pytest.raises(
        InputError, match=r"needs --data-dir.*CC BY-NC-SA 4\.0.*https://www\.mvtec\.com/.*bottle, cable"
    ):
        load_dataset("MVTecAD")


def test_the_folder_of_a_class_is_refused(tmp_path):
    with pytest.raises(InputError, match=f"is a class itself; .*above it, {tmp_path}, with the class_label bottle"):
        MVTecAD(publish(tmp_path) / "bottle")


def test_a_folder_without_classes_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected folders such as bottle in it"):
        MVTecAD(fill(tmp_path, normal=3))
