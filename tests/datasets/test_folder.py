"""Folders of images: splits, masks, files that are left out, and notes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_toolbox.datasets import folder as folder_module
from anomaly_toolbox.datasets.folder import ImageFolder
from anomaly_toolbox.datasets.layout import find_items
from anomaly_toolbox.errors import InputError, ToolboxError


def fill(folder, seed=0, mode="L", size=(12, 12), **counts):
    """Writes images of noise: `test__good=3` writes three images into `test/good`."""
    generator = np.random.default_rng(seed)
    for name, count in counts.items():
        subfolder = folder / name.replace("__", "/")
        subfolder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            pixels = generator.integers(0, 256, (*size, 3), np.uint8)
            Image.fromarray(pixels).convert(mode).save(subfolder / f"{number}.png")
    return folder


def count(batches):
    return sum(len(labels) for _, labels in batches)


def counts(dataset):
    """The numbers of normal and of anomalous images in each split."""
    return {
        "train": [count(dataset.train_normal), count(dataset.train_anomalous)],
        "validation": [count(dataset.validation_normal), count(dataset.validation_anomalous)],
        "test": [count(dataset.test_normal), count(dataset.test_anomalous)],
    }


def all_images(batches):
    return np.concatenate([images for images, _ in batches])


def totals(counts_of_splits):
    """The sum of the counts of several splits, [normal, anomalous]."""
    return np.sum(counts_of_splits, axis=0).tolist()


def configured(folder, size=8, **options):
    """A dataset of a folder, in batches of four images."""
    dataset = ImageFolder(folder, **options)
    dataset.configure(4, (size, size), drop_remainder=False)
    return dataset


def test_progress_is_reported_to_the_given_function(tmp_path):
    calls = []

    def progress(results, description, total):
        calls.append((description, total))
        return results

    configured(fill(tmp_path, normal=20), progress=progress)
    assert calls == [("checking images", 20), ("reading images", 20)]


def test_train_and_test(tmp_path):
    fill(tmp_path, train__good=10, train__scratch=1, test__good=6, test__crack=4, test__dent=3)
    dataset = configured(tmp_path)
    assert counts(dataset) == {"train": [10, 1], "validation": [3, 3], "test": [3, 4]}
    assert dataset.channels == 1
    assert dataset.test_files == sorted(dataset.test_files)
    kinds = [name.split("/")[1] for name in dataset.test_files]
    assert [kinds.count(kind) for kind in ("crack", "dent", "good")] == [2, 2, 3]
    assert dataset.test_masks is None
    assert configured(tmp_path, seed=1).test_files == dataset.test_files


def test_all_test_images(tmp_path):
    fill(tmp_path, train__good=30, test__good=6, test__crack=4)
    assert counts(configured(tmp_path, all_test_images=True)) == {
        "train": [27, 0],
        "validation": [3, 0],
        "test": [6, 4],
    }


def test_a_validation_folder(tmp_path):
    fill(tmp_path, train__normal=5, validation__good=4, validation__crack=1, test__good=3, test__crack=2)
    assert counts(configured(tmp_path)) == {"train": [5, 0], "validation": [4, 1], "test": [3, 2]}


def test_normal_and_anomalous(tmp_path):
    fill(tmp_path, normal=20, anomalous=3, anomalous__crack=4)
    dataset = configured(tmp_path)
    assert counts(dataset) == {"train": [12, 0], "validation": [4, 3], "test": [4, 4]}
    assert configured(tmp_path, seed=0).test_files == dataset.test_files
    assert configured(tmp_path, seed=1).test_files != dataset.test_files


@pytest.mark.parametrize("name", ["normal", "train__good"])
def test_normal_images_alone(tmp_path, name):
    fill(tmp_path, **{name: 20})
    assert counts(configured(tmp_path)) == {"train": [12, 0], "validation": [4, 0], "test": [4, 0]}


def classes_of(dataset, folder, pattern):
    """The number of the class of each training image, by its path in the folder."""
    path_of = {}
    for path in folder.glob(pattern):
        path_of[np.array(Image.open(path)).tobytes()] = path.relative_to(folder).as_posix()
    found = {}
    for images, classes in dataset.train_classes.as_numpy_iterator():
        for image, number in zip(images, classes, strict=True):
            found[path_of[np.round(image * 127.5 + 127.5).astype(np.uint8)[..., 0].tobytes()]] = int(number)
    return found


def test_subfolders_of_the_normal_training_images_are_classes(tmp_path):
    fill(tmp_path, train__OK__screws=5, train__OK__bolts__day1=2, train__OK__bolts__day2=2, test__good=4, test__crack=4)
    dataset = configured(tmp_path, size=12)
    assert dataset.class_names == ["bolts", "screws"]
    found = classes_of(dataset, tmp_path, "train/**/*.png")
    assert len(found) == 9
    assert all(number == int("screws" in path) for path, number in found.items())
    assert counts(dataset) == {"train": [9, 0], "validation": [2, 2], "test": [2, 2]}
    assert dataset.why_no_classes == ""


def test_subfolders_of_normal_are_classes(tmp_path):
    dataset = configured(fill(tmp_path, normal__screws=10, normal__bolts=15, anomalous=4), size=12)
    assert dataset.class_names == ["bolts", "screws"]
    found = classes_of(dataset, tmp_path, "normal/**/*.png")
    assert len(found) == count(dataset.train_normal) == 15
    assert all(number == int("screws" in path) for path, number in found.items())


def test_bad_images_are_left_out_of_the_classes(tmp_path):
    fill(tmp_path, train__good__a=4, train__good__b=4, test__good=4)
    (tmp_path / "train/good/a/0.png").write_bytes(b"no image")
    dataset = configured(tmp_path, size=12, on_bad_image="skip")
    classes = np.concatenate([numbers for _, numbers in dataset.train_classes.as_numpy_iterator()])
    assert np.bincount(classes).tolist() == [3, 4]


def test_why_a_folder_has_no_classes(tmp_path):
    dataset = configured(fill(tmp_path / "none", train__good=4, test__good=4, test__good__day1=2, test__crack=2))
    assert dataset.train_classes is dataset.class_names is None
    assert dataset.why_no_classes == (
        f"{tmp_path}/none/train/good has no subfolders with images; put the images of each class into "
        "train/good/<class>/"
    )
    dataset = configured(fill(tmp_path / "some", train__good__a=4, train__good=2, test__good=4))
    assert dataset.train_classes is dataset.class_names is None
    assert dataset.why_no_classes == (
        f"2 of 6 training images are in no subfolder, such as {tmp_path}/some/train/good/0.png; put the images of "
        "each class into train/good/<class>/"
    )
    assert count(dataset.train_normal) == 6


def test_pixels_are_those_of_the_files(tmp_path):
    fill(tmp_path, mode="RGB", train__good=3, test__good=2, test__crack=2)
    dataset = configured(tmp_path, size=12)
    images = all_images(dataset.test)
    assert images.shape == (2, 12, 12, 3)
    for image, name in zip(images, dataset.test_files, strict=True):
        np.testing.assert_allclose(image, np.asarray(Image.open(tmp_path / name)) / 127.5 - 1, atol=1e-6)


def test_images_of_16_bits_keep_their_precision(tmp_path):
    fill(tmp_path, train__good=3, test__good=2)
    pixels = np.arange(30_000, 30_144, dtype=np.uint16).reshape(12, 12)
    for path in (tmp_path / "test" / "good").iterdir():
        Image.fromarray(pixels + int(path.stem)).save(path)
    (image,) = all_images(configured(tmp_path, size=12).test)
    assert len(np.unique(image)) == 144


def test_a_large_dataset_is_kept_on_disk(tmp_path, monkeypatch):
    fill(tmp_path, normal=10, anomalous=4)
    in_memory = all_images(configured(tmp_path).test)
    monkeypatch.setattr(folder_module, "LARGEST_IN_MEMORY", 0)
    dataset = configured(tmp_path)
    assert isinstance(dataset._pixels, np.memmap)
    np.testing.assert_array_equal(all_images(dataset.test), in_memory)


def test_masks(tmp_path):
    fill(tmp_path, train__good=4, test__good=2, test__crack=4)
    masks = tmp_path / "ground_truth" / "crack"
    masks.mkdir(parents=True)
    for number in range(4):
        pixels = np.zeros((12, 12), np.uint8)
        pixels[: 3 * number + 3] = 255
        Image.fromarray(pixels).save(masks / f"{number}_mask.png")
    dataset = configured(tmp_path, size=12)
    for mask, name in zip(dataset.test_masks, dataset.test_files, strict=True):
        number = int(Path(name).stem)
        n_marked_rows = 3 * number + 3 if "crack" in name else 0
        assert mask.any(axis=1).sum() == n_marked_rows
    (masks / "2_mask.png").unlink()
    (masks / "0_mask.png").unlink()
    assert configured(tmp_path).test_masks is None
    shutil.copy(masks / "1_mask.png", masks / "9_mask.png")
    with pytest.raises(ToolboxError, match=r"9_mask\.png: is a mask without an image"):
        ImageFolder(tmp_path)


def test_bad_images_are_refused_or_left_out(tmp_path):
    fill(tmp_path, normal=20, anomalous=4)
    (tmp_path / "normal" / "3.png").write_bytes(b"")
    truncated = tmp_path / "normal" / "5.png"
    truncated.write_bytes(truncated.read_bytes()[:150])
    with pytest.raises(ToolboxError, match=r"3\.png: is empty; repair or remove the file.*--on-bad-image skip"):
        ImageFolder(tmp_path)
    dataset = configured(tmp_path, on_bad_image="skip")
    remaining = counts(dataset)
    assert sum(totals(list(remaining.values()))) == 22
    assert [note for note in dataset.notes if "3.png: is empty" in note]
    assert [note for note in dataset.notes if "5.png: is damaged or truncated" in note]
    images = [*all_images(dataset.train), *all_images(dataset.test)]
    distinct_images = {image.tobytes() for image in images}
    assert len(distinct_images) == sum(remaining["train"]) + sum(remaining["test"])


def test_an_image_in_two_splits_is_refused_or_left_out(tmp_path):
    fill(tmp_path, train__good=6, test__good=4, test__crack=2)
    copied = next(name for name in ImageFolder(tmp_path).test_files if "good" in name)
    shutil.copy(tmp_path / copied, tmp_path / "train" / "good" / "copy.png")
    with pytest.raises(ToolboxError, match=r"copy\.png: is the same image as .*, in train and test"):
        configured(tmp_path)
    assert counts(configured(tmp_path, on_bad_image="skip"))["train"] == [6, 0]


def test_a_copy_in_another_format_is_found(tmp_path):
    fill(tmp_path, train__good=6, test__good=4)
    copied = ImageFolder(tmp_path).test_files[0]
    Image.open(tmp_path / copied).save(tmp_path / "train" / "good" / "copy.bmp")
    with pytest.raises(ToolboxError, match=r"copy\.bmp: is the same image as .*, in train and test"):
        configured(tmp_path)


def test_an_image_that_is_normal_and_anomalous_is_refused_or_left_out(tmp_path):
    fill(tmp_path, normal=10, anomalous=4)
    shutil.copy(tmp_path / "normal" / "3.png", tmp_path / "anomalous" / "copy.png")
    with pytest.raises(ToolboxError, match=r"is the same image as .*, once normal and once anomalous; repair"):
        configured(tmp_path)
    remaining = counts(configured(tmp_path, on_bad_image="skip"))
    assert totals(list(remaining.values())) == [9, 4]


def test_all_copies_of_a_contradiction_are_left_out(tmp_path):
    """Two copies are anomalous and one is normal."""
    fill(tmp_path, train__good=6, test__good=6, test__crack=6)
    for name in ("crack/1.png", "crack/2.png"):
        shutil.copy(tmp_path / "test" / "good" / "3.png", tmp_path / "test" / name)
    remaining = counts(configured(tmp_path, on_bad_image="skip"))
    assert totals([remaining["validation"], remaining["test"]]) == [5, 4]


@pytest.mark.parametrize("content", [b"text", None])
def test_a_folder_without_usable_images_is_refused(tmp_path, content):
    fill(tmp_path, normal=10)
    for path in tmp_path.rglob("*.png"):
        path.write_bytes(content or path.read_bytes()[:100])
    with pytest.raises(ToolboxError, match=r": no image can be used; the first problem: .*/normal/\d\.png: is "):
        configured(tmp_path, on_bad_image="skip")


def test_a_folder_of_contradictions_is_refused(tmp_path):
    fill(tmp_path, normal=6)
    shutil.copytree(tmp_path / "normal", tmp_path / "anomalous")
    with pytest.raises(ToolboxError, match=r": no image is left; left out: "):
        configured(tmp_path, on_bad_image="skip")


def test_two_folders_for_masks_are_refused(tmp_path):
    with pytest.raises(InputError, match="has two folders for masks, Ground_Truth and groundtruth; expected one"):
        ImageFolder(fill(tmp_path, normal=10, Ground_Truth=1, groundtruth=1))


def test_a_split_without_normal_images_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match="no normal images for validation; expected images in Val/good"):
        ImageFolder(fill(tmp_path, train__good=6, Val__crack=3, test__good=4))


def test_too_few_normal_images_are_refused(tmp_path):
    fill(tmp_path / "few", normal=1, anomalous=4)
    with pytest.raises(InputError, match="few: no normal images for validation; expected at least 5 in normal"):
        ImageFolder(tmp_path / "few")
    fill(tmp_path / "loose", **{".": 3})
    with pytest.raises(
        InputError, match=r"expected .* files in train/good or in normal; in it there is 0\.png, 1\.png, 2\.png"
    ):
        ImageFolder(tmp_path / "loose")


def test_the_fingerprint_depends_on_images_names_and_masks(tmp_path):
    fill(tmp_path, train__good=6, test__good=4, test__crack=2, ground_truth__crack=1)
    (tmp_path / "ground_truth" / "crack" / "0.png").rename(tmp_path / "ground_truth" / "crack" / "0_mask.png")
    fingerprints = [ImageFolder(tmp_path).fingerprint()]
    assert ImageFolder(tmp_path).fingerprint() == fingerprints[0]
    fill(tmp_path, seed=1, train__good=1)
    fingerprints.append(ImageFolder(tmp_path).fingerprint())
    fill(tmp_path, seed=1, ground_truth__crack=1)
    (tmp_path / "ground_truth" / "crack" / "0.png").rename(tmp_path / "ground_truth" / "crack" / "0_mask.png")
    fingerprints.append(ImageFolder(tmp_path).fingerprint())
    (tmp_path / "test" / "crack" / "1.png").rename(tmp_path / "test" / "good" / "other.png")
    fingerprints.append(ImageFolder(tmp_path).fingerprint())
    assert len(set(fingerprints)) == 4


def test_an_unusual_size_is_noted(tmp_path):
    fill(tmp_path, normal=150)
    Image.fromarray(np.zeros((40, 30), np.uint8)).save(tmp_path / "normal" / "7.png")
    assert "1 of 150 images has 30 x 40 pixels, nearly all others 12 x 12" in configured(tmp_path).notes


def test_padding_of_the_test_images(tmp_path):
    dataset = configured(fill(tmp_path, size=(6, 12), train__good=3, test__good=2, test__crack=2), aspect="pad")
    assert dataset.test_padding.shape == (2, 8, 8)
    is_padded_row = [True, True, False, False, False, False, True, True]
    assert dataset.test_padding.all(axis=2).tolist() == [is_padded_row, is_padded_row]
    assert configured(tmp_path).test_padding is None


def test_another_size_replaces_images_and_masks(tmp_path):
    dataset = configured(fill(tmp_path, train__good=3, test__good=2, test__crack=2, ground_truth__crack=2), size=8)
    assert dataset.test_masks.shape == (2, 8, 8)
    dataset.configure(4, (16, 16))
    assert dataset.test_masks.shape == (2, 16, 16)
    assert next(iter(dataset.test))[0].shape == (2, 16, 16, 1)


@pytest.mark.parametrize("folders", [{}, {"good_ones": 3}, {"normal": 0}], ids=["empty", "unknown name", "no images"])
def test_other_layouts_are_refused(tmp_path, folders):
    fill(tmp_path, **folders)
    with pytest.raises(InputError, match="no normal images to train on; expected PNG"):
        find_items(tmp_path, 0, False)


def test_a_missing_folder(tmp_path):
    with pytest.raises(InputError, match="there is no such folder"):
        ImageFolder(tmp_path / "nowhere")


def test_a_label_is_refused(tmp_path):
    with pytest.raises(InputError, match="anomalous_label: 2 given; the folders in"):
        ImageFolder(fill(tmp_path, normal=10)).configure(4, (8, 8), anomalous_label=2)


@pytest.mark.parametrize("name", ["Good", "GOOD", "Normal", "negative", "OK"])
def test_letter_case_of_names_does_not_matter(tmp_path, name):
    fill(tmp_path, **{f"Train__{name}": 6, "TEST__good": 2, f"TEST__{name}x": 3, "Test__crack": 4})
    fill(tmp_path, seed=1, **{f"TEST__{name}": 4})
    numbers = counts(configured(tmp_path))
    n_good = 4 if name == "good" else 6
    assert numbers["train"] == [6, 0]
    assert totals([numbers["validation"], numbers["test"]]) == [n_good, 7]


@pytest.mark.parametrize("name", ["Anomalous", "abnormal", "anomaly", "Defect", "POSITIVE", "bad"])
def test_other_names_for_anomalous(tmp_path, name):
    fill(tmp_path, Normal=10, **{name: 4})
    assert counts(configured(tmp_path)) == {"train": [6, 0], "validation": [2, 2], "test": [2, 2]}


def test_other_names_for_validation(tmp_path):
    fill(tmp_path, train__good=6, val__good=4, val__crack=2)
    assert counts(configured(tmp_path)) == {"train": [6, 0], "validation": [2, 1], "test": [2, 1]}
    fill(tmp_path, seed=1, test__good=3, test__hole=5)
    assert counts(configured(tmp_path)) == {"train": [6, 0], "validation": [4, 2], "test": [3, 5]}


def test_unused_files_are_counted_in_one_note(tmp_path):
    fill(tmp_path, normal=10, crack=4, **{".": 2, "other__inner": 3})
    for name in ("readme.txt", "normal/1.xml", "normal/2.xml", "normal/LICENSE", "normal/5.png.heat.png"):
        (tmp_path / name).touch()
    (note,) = (note for note in configured(tmp_path).notes if note.startswith("not used"))
    assert note.partition(f"{tmp_path}: ")[2] == (
        ".txt files (1), .xml files (2), files without a suffix (1), heatmaps (1), images in crack (4), "
        "images in other (3), images outside any folder (2)"
    )


def test_folders_of_anomalous_and_of_unusual_normal_images_are_noted(tmp_path):
    fill(tmp_path, train__good=6, test__good=4, test__crack=2, test__thumbnails=3)
    assert "the images in these folders count as anomalous: thumbnails (3), crack (2)" in configured(tmp_path).notes
    fill(tmp_path, seed=1, train__good__day1=2, test__good__bad=3)
    line = "the images in these folders also count as normal: test/good/bad (3), train/good/day1 (2)"
    assert line in configured(tmp_path).notes


@pytest.mark.parametrize("subfolder", [".", "train", "test", "test/good", "train/good", "ground_truth"])
@pytest.mark.parametrize("name", [".thumbnails", "@eaDir", "__MACOSX"])
def test_leftovers_of_programs_are_ignored(tmp_path, subfolder, name):
    fill(tmp_path, train__good=6, test__good=4, test__crack=4, ground_truth__crack=0)
    expected = counts(configured(tmp_path))
    fill(tmp_path / subfolder, seed=1, **{name: 3})
    dataset = configured(tmp_path)
    assert counts(dataset) == expected
    assert not any("not used" in note for note in dataset.notes)


def configured_with_16_bits(folder, white, **options):
    """A dataset of images of 16 bits, with values from 0 to `white`."""
    fill(folder, normal=10, anomalous=4)
    for path in folder.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).astype(float)
        pixels *= white / pixels.max()
        Image.fromarray(pixels.astype(np.uint16)).save(path)
    return configured(folder, **options)


def test_images_of_12_bits_are_noted_and_can_have_a_white_level(tmp_path):
    dark = configured_with_16_bits(tmp_path, 4000)
    (note,) = (note for note in dark.notes if "brightest" in note)
    assert "has the value 4,000, where 65,535 is white" in note
    assert "--white-level 4095" in note
    bright = configured(tmp_path, white_level=4095)
    assert not any("brightest" in note for note in bright.notes)
    (dark_images, _), (bright_images, _) = next(iter(dark.test)), next(iter(bright.test))
    np.testing.assert_allclose((bright_images + 1) * 4095, (dark_images + 1) * 65535, atol=2)
    assert "became white" in "".join(configured(tmp_path, white_level=1000).notes)


def test_a_white_level_for_8_bits_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--white-level 4095: .* has no grey images of 16 bits"):
        ImageFolder(fill(tmp_path, normal=10), white_level=4095)


def test_dark_images_of_8_bits_are_noted(tmp_path):
    fill(tmp_path, normal=10)
    for path in tmp_path.rglob("*.png"):
        Image.fromarray(np.asarray(Image.open(path)) // 16).save(path)
    assert "the value 15, where 255 is white" in "".join(configured(tmp_path).notes)


def test_two_layouts_at_once_are_refused(tmp_path):
    with pytest.raises(InputError, match="has two layouts, train and normal; expected one"):
        ImageFolder(fill(tmp_path, normal=5, train__good=5))
