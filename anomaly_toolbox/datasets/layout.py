"""Which files of a folder are normal, which are anomalous, and which split they belong to. No TensorFlow here.

One of two layouts, in which letter case does not matter and the names of defects are up to the user:

    train/good                              learnt from
    train/<defect>                          learnt from by nobody; may be missing, like all that follows
    test/good, test/<defect>                half of each kind becomes validation
    validation/good, validation/<defect>    if it is there, all of `test` is the test; without `test`, half of it is

    normal                                  60% are learnt from, 20% validate, 20% test; the seed decides which
    anomalous, or anomalous/<defect>        half validate, half test

and in both `ground_truth/<defect>/<image>_mask.png`, where the defect is, see `masks.py`. NORMAL, ANOMALOUS and
SPLIT_NAMES list other names that mean the same. What is hidden or left behind by programs counts for nothing.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_toolbox.datasets.masks import MaskFiles
from anomaly_toolbox.datasets.walk import BadImage, describe_unused, image_files, is_image, is_leftover, kind_of_file
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
MOST_TOLD = 100  # characters
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Item:
    """One image file; `defect` is empty for a normal one, `mask` says where the defect is: a file, or a folder."""

    path: Path
    split: str
    defect: str
    mask: Path | None = None


def find_items(
    root: Path, seed: int, all_test_images: bool, notes: list[str] | None = None
) -> tuple[list[Item], list[BadImage]]:
    """Every image with its split, in a fixed order, and what is wrong with links, folders and images.

    Args:
        root: the folder.
        seed: decides the splits of the second layout; those of the first are always the same.
        all_test_images: keep all of `test` for the test and let a tenth of the normal training images validate.
        notes: a line about what in the folder is not used is added here.

    Raises:
        InputError: there is no such folder, or not enough normal images where they are expected.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    try:
        entries = sorted(path for path in root.iterdir() if not is_leftover(path.name))
    except OSError as problem:
        raise ToolboxError(f"{root}: {problem.strerror}") from problem
    bad: list[BadImage] = []
    unused: Counter[str] = Counter()
    folders = [path for path in entries if path.is_dir()]
    split_folders = [path for path in folders if path.name.lower() in SPLIT_NAMES]
    has_train = any(SPLIT_NAMES[path.name.lower()] == "train" for path in split_folders)
    kinds = [path for path in folders if path.name.lower() in (*NORMAL, *ANOMALOUS)]
    if has_train and (normal := [path.name for path in kinds if path.name.lower() in NORMAL]):
        raise InputError(f"{root}: has two layouts, train and {', '.join(normal)}; expected one")

    items: list[Item] = []
    used = split_folders if has_train else kinds
    for folder in used:
        if has_train:
            items += _of_split(folder, bad, unused)
        else:
            items += [Item(path, "", _defect(path.parent, root)) for path in image_files(folder, bad, unused)]
    _check_normal(root, items, entries, has_train, split_folders)
    mask_folders = [path for path in folders if path.name.lower() in MASK_FOLDERS]
    if len(mask_folders) > 1:
        names = " and ".join(path.name for path in mask_folders)
        raise InputError(f"{root}: has two folders for masks, {names}; expected one")
    for folder in mask_folders:
        items = _with_masks(root, folder, items, bad, unused)
    unused += _beside([path for path in entries if path not in (*used, *mask_folders)])
    if unused and notes is not None:
        notes.append(f"not used, of what is in {root}: {describe_unused(unused)}")

    items = sorted(_in_splits(items, seed, all_test_images), key=lambda item: item.path)
    own_splits = {path.name: SPLIT_NAMES[path.name.lower()] for path in split_folders} if has_train else {}
    for split in SPLITS:
        if not any(item.split == split and not item.defect for item in items):
            places = [f"{name}/good" for name, own_split in own_splits.items() if own_split == split]
            expected = f"images in {places[0]}" if places else "at least 5 in normal, or 2 in test/good"
            raise InputError(f"{root}: no normal images for {split}; expected {expected}")
    return items, bad


def _of_split(folder: Path, bad: list[BadImage], unused: Counter[str]) -> list[Item]:
    split = SPLIT_NAMES[folder.name.lower()]
    items = []
    for path in sorted(path for path in folder.iterdir() if not is_leftover(path.name)):
        if path.is_dir():
            items += [Item(image, split, _defect(image.parent, folder)) for image in image_files(path, bad, unused)]
        elif is_image(path):
            bad.append(BadImage(path, "is not in a folder that says its kind, such as good"))
        else:
            unused[kind_of_file(path)] += 1
    return items


def _with_masks(
    root: Path, folder: Path, items: Sequence[Item], bad: list[BadImage], unused: Counter[str]
) -> list[Item]:
    """The items with their masks in `folder`; a mask that may be meant for several images is nobody's."""
    masks = MaskFiles(folder, list(image_files(folder, bad, unused)))
    found: dict[Item, list[Path]] = {}
    for item in items:
        is_learnt_from = item.split == "train" or not (item.split or item.defect)
        found[item] = masks.of(item.path.relative_to(root), with_split=is_learnt_from)
    images_of: dict[Path, list[Path]] = {}
    for item, its_masks in found.items():
        for mask in its_masks:
            images_of.setdefault(mask, []).append(item.path.relative_to(root))
        if len(its_masks) > 1:
            names = " and ".join(str(mask.relative_to(root)) for mask in its_masks[:2])
            bad.append(BadImage(item.path, f"has several masks, {names}; expected one"))
    bad += masks.problems(images_of)
    with_masks = []
    for item, its_masks in found.items():
        is_clear = len(its_masks) == 1 and len(images_of[its_masks[0]]) == 1
        with_masks.append(dataclasses.replace(item, mask=its_masks[0]) if is_clear else item)
    return with_masks


def _defect(folder: Path, above: Path) -> str:
    """The name of a defect, such as `crack` or `anomalous/crack`; empty for what is normal."""
    name = folder.relative_to(above)
    return "" if name.parts[0].lower() in NORMAL else name.as_posix()


def _check_normal(
    root: Path, items: Sequence[Item], entries: Sequence[Path], has_train: bool, split_folders: Sequence[Path]
) -> None:
    """Raises InputError, which says what is there instead, if there are no normal images to learn from."""
    if any(item.split in ("", "train") and not item.defect for item in items):
        return
    place, there = "it", entries
    if has_train:
        train = next(path for path in split_folders if SPLIT_NAMES[path.name.lower()] == "train")
        place, there = train.name, sorted(path for path in train.iterdir() if not is_leftover(path.name))
    names = ", ".join(path.name for path in there)[:MOST_TOLD] or "nothing"
    raise InputError(
        f"{root}: no normal images to learn from; expected PNG, JPEG, BMP or TIFF files in train/good or in "
        f"normal; in {place} there is {names}"
    )


def _beside(entries: Sequence[Path]) -> Counter[str]:
    """What lies beside the folders that are used: images by their folder, other files by their kind."""
    unused: Counter[str] = Counter()
    for path in entries:
        if path.is_dir():
            n_images = sum(1 for _ in image_files(path, []))
            unused += Counter({f"images in {path.name}": n_images})
        else:
            unused["images that lie in no folder" if is_image(path) else kind_of_file(path)] += 1
    return unused


def _in_splits(items: Sequence[Item], seed: int, all_test_images: bool) -> list[Item]:
    """Fills the splits that the folder does not have itself."""
    has = {item.split for item in items}
    if "validation" in has and "test" in has:
        return list(items)
    normal = [item for item in items if item.split in ("", "train") and not item.defect]
    if "test" in has and all_test_images:
        held = set(_shuffled(normal, 0)[::10])
        return [_moved(item, "validation") if item in held else item for item in items]
    held_out = [item for item in items if item.split in ("validation", "test")]
    if held_out:
        return [item for item in items if item.split not in ("validation", "test")] + _halves(held_out, 0)
    order = _shuffled(normal, seed)
    held, learnt = order[: 2 * len(order) // 5], order[2 * len(order) // 5 :]
    is_normal = set(normal)
    others = [item for item in items if item not in is_normal]
    return (
        [_moved(item, "train") for item in learnt]
        + [item for item in others if item.split]
        + _halves(held + [item for item in others if not item.split], seed)
    )


def _halves(items: Sequence[Item], seed: int) -> list[Item]:
    """Of each kind every second image validates; where a kind has an odd number, the test has one more."""
    halved = []
    for kind in sorted({item.defect for item in items}):
        shuffled = _shuffled([item for item in items if item.defect == kind], seed)
        halved += [_moved(item, "validation") for item in shuffled[1::2]]
        halved += [_moved(item, "test") for item in shuffled[::2]]
    return halved


def _shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    ordered = sorted(items, key=lambda item: item.path)
    return [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]


def _moved(item: Item, split: str) -> Item:
    return dataclasses.replace(item, split=split)
