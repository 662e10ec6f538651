"""Which images of a folder are normal, which are anomalous, and which split they belong to. No TensorFlow here.

A folder has one of two layouts. Letter case does not matter, and defects may have any name.

    train/good                              normal training images
    train/<defect>                          anomalous training images; optional, like all folders below
    test/good, test/<defect>                half of each kind is used for validation
    validation/good, validation/<defect>    with this folder, all of `test` is used for testing; without `test`, half of
                                            this folder is

    normal                                  60% for training, 20% for validation, 20% for testing, by the seed
    anomalous, or anomalous/<defect>        half for validation, half for testing

In both layouts, `ground_truth/<defect>/<image>_mask.png` marks the defect, see `masks.py`. NORMAL, ANOMALOUS and
SPLIT_NAMES list other names with the same meaning. Hidden files and leftovers of programs are ignored. Images may be in
subfolders at any depth; those of the normal training images name their classes, see `folder_classes.py`.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from anomaly_toolbox.datasets.masks import MaskFiles
from anomaly_toolbox.datasets.splits import SPLITS, Item, assign_splits
from anomaly_toolbox.datasets.walk import BadImage, describe_unused, image_files, is_image, kind_of_file, list_folder
from anomaly_toolbox.errors import InputError, ToolboxError

NORMAL = ("good", "normal", "negative", "ok")
ANOMALOUS = (
    "anomalous",
    "abnormal",
    "anomaly",
    "anomalies",
    "positive",
    "defect",
    "defects",
    "defective",
    "bad",
    "nok",
    "ng",
)
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "test": "test",
    "testing": "test",
}
MASK_FOLDERS = ("ground_truth", "ground-truth", "groundtruth")
LONGEST_LISTING = 100  # characters


def find_items(
    root: Path, seed: int, all_test_images: bool, notes: list[str] | None = None
) -> tuple[list[Item], list[BadImage]]:
    """Finds every image in a folder and gives it a split.

    Args:
        root: the folder.
        seed: the seed with which splits are drawn in the second layout; in the first layout they are always the same.
        all_test_images: use all of `test` for testing and a tenth of the normal training images for validation.
        notes: a line about files that are not used is added to this list.

    Returns:
        The images, sorted by path; and the problems with images, masks, links and folders.

    Raises:
        InputError: there is no such folder, its layout is ambiguous, or a split has no normal images.
        ToolboxError: the folder cannot be read.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    try:
        entries = list_folder(root)
    except OSError as problem:
        raise ToolboxError(f"{root}: {problem.strerror}") from problem
    folders = [path for path in entries if path.is_dir()]
    split_folders = [path for path in folders if path.name.lower() in SPLIT_NAMES]
    kind_folders = [path for path in folders if path.name.lower() in (*NORMAL, *ANOMALOUS)]
    has_train = any(_split_of(path) == "train" for path in split_folders)
    normal_names = [path.name for path in kind_folders if path.name.lower() in NORMAL]
    if has_train and normal_names:
        raise InputError(f"{root}: has two layouts, train and {', '.join(normal_names)}; expected one")

    bad: list[BadImage] = []
    unused: Counter[str] = Counter()
    items: list[Item] = []
    if has_train:
        used_folders = split_folders
        for folder in split_folders:
            items += _items_of_split(folder, bad, unused)
    else:
        used_folders = kind_folders
        for folder in kind_folders:
            items += _items_of_kind(folder, "", root, bad, unused)
    _check_normal_training_images(root, items, entries, split_folders if has_train else [])

    mask_folder = _mask_folder(root, folders)
    if mask_folder is not None:
        items = _add_masks(root, mask_folder, items, bad, unused)
    unused += _count_unused([path for path in entries if path not in used_folders and path != mask_folder])
    if unused and notes is not None:
        notes.append(f"not used in {root}: {describe_unused(unused)}")

    items = sorted(assign_splits(items, seed, all_test_images), key=lambda item: item.path)
    _check_normal_in_each_split(root, items, split_folders if has_train else [])
    return items, bad


def folder_of_normal(image: Path, root: Path) -> tuple[Path, tuple[str, ...]]:
    """The folder of normal images that an image is in, relative to `root`, and the names of the subfolders in between.

    >>> folder_of_normal(Path("parts/test/good/day1/7.png"), Path("parts"))[1]
    ('day1',)
    """
    folders = image.relative_to(root).parts[:-1]
    depth = next(depth for depth, name in enumerate(folders, 1) if name.lower() in NORMAL)
    return Path(*folders[:depth]), folders[depth:]


def _split_of(folder: Path) -> str:
    return SPLIT_NAMES[folder.name.lower()]


def _items_of_split(folder: Path, bad: list[BadImage], unused: Counter[str]) -> list[Item]:
    """The images in a folder such as `test`."""
    items: list[Item] = []
    for path in list_folder(folder):
        if path.is_dir():
            items += _items_of_kind(path, _split_of(folder), folder, bad, unused)
        elif is_image(path):
            bad.append(BadImage(path, "is not in a folder that names its kind, such as good"))
        else:
            unused[kind_of_file(path)] += 1
    return items


def _items_of_kind(folder: Path, split: str, above: Path, bad: list[BadImage], unused: Counter[str]) -> list[Item]:
    """The images in a folder such as `test/crack`; the names of defects are relative to the folder `above`."""
    items = []
    for path in image_files(folder, bad, unused):
        kind = path.parent.relative_to(above)
        is_normal = kind.parts[0].lower() in NORMAL
        items.append(Item(path, split, "" if is_normal else kind.as_posix()))
    return items


def _check_normal_training_images(
    root: Path, items: Sequence[Item], entries: Sequence[Path], split_folders: Sequence[Path]
) -> None:
    """Raises InputError, with the names of the existing files and folders, if no normal image is for training."""
    if any(item.split in ("", "train") and not item.defect for item in items):
        return
    name = "it"
    for folder in split_folders:
        if _split_of(folder) == "train":
            name = folder.name
            entries = list_folder(folder)
            break
    names = ", ".join(path.name for path in entries)[:LONGEST_LISTING] or "nothing"
    raise InputError(
        f"{root}: no normal images to train on; expected PNG, JPEG, BMP or TIFF files in train/good or in normal; in "
        f"{name} there is {names}"
    )


def _mask_folder(root: Path, folders: Sequence[Path]) -> Path | None:
    """The folder with the masks, if there is one; raises InputError if there are several."""
    mask_folders = [path for path in folders if path.name.lower() in MASK_FOLDERS]
    if len(mask_folders) > 1:
        names = " and ".join(path.name for path in mask_folders)
        raise InputError(f"{root}: has two folders for masks, {names}; expected one")
    return mask_folders[0] if mask_folders else None


def _add_masks(
    root: Path, mask_folder: Path, items: Sequence[Item], bad: list[BadImage], unused: Counter[str]
) -> list[Item]:
    """The items with their masks; a mask that fits several images is given to none of them."""
    mask_files = MaskFiles(mask_folder, list(image_files(mask_folder, bad, unused)))
    masks_of_item: list[list[Path]] = []
    images_of_mask: dict[Path, list[Path]] = {}
    for item in items:
        image = item.path.relative_to(root)
        is_for_training = item.split == "train" or (not item.split and not item.defect)
        masks = mask_files.masks_for(image, with_split=is_for_training)
        masks_of_item.append(masks)
        for mask in masks:
            images_of_mask.setdefault(mask, []).append(image)
        if len(masks) > 1:
            names = " and ".join(str(mask.relative_to(root)) for mask in masks[:2])
            bad.append(BadImage(item.path, f"has several masks, {names}; expected one"))
    bad += mask_files.problems(images_of_mask)

    with_masks = []
    for item, masks in zip(items, masks_of_item, strict=True):
        if len(masks) == 1 and len(images_of_mask[masks[0]]) == 1:
            with_masks.append(dataclasses.replace(item, mask=masks[0]))
        else:
            with_masks.append(item)
    return with_masks


def _count_unused(entries: Sequence[Path]) -> Counter[str]:
    """Counts the unused files: the images in other folders by folder, and all other files by kind."""
    unused: Counter[str] = Counter()
    for path in entries:
        if path.is_dir():
            n_images = sum(1 for _ in image_files(path, []))
            if n_images:
                unused[f"images in {path.name}"] += n_images
        elif is_image(path):
            unused["images outside any folder"] += 1
        else:
            unused[kind_of_file(path)] += 1
    return unused


def _check_normal_in_each_split(root: Path, items: Sequence[Item], split_folders: Sequence[Path]) -> None:
    """Raises InputError if a split has no normal images."""
    splits_with_normal = {item.split for item in items if not item.defect}
    for split in SPLITS:
        if split in splits_with_normal:
            continue
        expected = "at least 5 in normal, or 2 in test/good"
        for folder in split_folders:
            if _split_of(folder) == split:
                expected = f"images in {folder.name}/good"
                break
        raise InputError(f"{root}: no normal images for {split}; expected {expected}")
