"""Which files of a folder are normal, which are anomalous, and which split they belong to. No TensorFlow here.

One of two layouts, `good`, `normal` and `Negative` being the same, as are `anomalous` and `Positive`, and the names of
defects up to the user:

    train/good                              learnt from
    train/<defect>                          learnt from by nobody; may be missing, like all that follows
    test/good, test/<defect>                half of each kind becomes validation
    validation/good, validation/<defect>    if it is there, all of `test` is the test

    normal                                  60% are learnt from, 20% validate, 20% test; the seed decides which
    anomalous, or anomalous/<defect>        half validate, half test

and in both `ground_truth/<defect>/<image>_mask.png`, where the defect is.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomaly_toolbox.datasets.images import SUFFIXES, BadImage, image_files
from anomaly_toolbox.errors import InputError, ToolboxError

NORMAL, ANOMALOUS, MASKS = ("good", "normal", "Negative"), ("anomalous", "Positive"), "ground_truth"
MOST_TOLD = 100  # characters
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Item:
    """One image file; `defect` is empty for a normal one, `mask` says where the defect is."""

    path: Path
    split: str
    defect: str
    mask: Path | None = None


def find_items(root: Path, seed: int, all_test_images: bool) -> tuple[list[Item], list[BadImage]]:
    """Every image with its split, in a fixed order, and what is wrong with links, folders and masks.

    Args:
        root: the folder.
        seed: decides the splits of the second layout; those of the first are always the same.
        all_test_images: keep all of `test` for the test and let a tenth of the normal training images validate.

    Raises:
        InputError: there is no such folder, or not enough normal images where they are expected.
    """
    if not root.is_dir():
        raise InputError(f"{root}: there is no such folder")
    try:
        folders = {path.name for path in root.iterdir() if path.is_dir()}
    except OSError as problem:
        raise ToolboxError(f"{root}: {problem.strerror}") from problem
    bad: list[BadImage] = []
    if "train" in folders and folders & set(NORMAL):
        raise InputError(f"{root}: has two layouts, train and {', '.join(sorted(folders & set(NORMAL)))}; expected one")
    if "train" in folders:
        items = [item for split in SPLITS if split in folders for item in _of_split(root / split, bad)]
    else:
        items = [
            Item(path, "", _defect(path.parent, root))
            for name in sorted(folders & {*NORMAL, *ANOMALOUS})
            for path in image_files(root / name, bad)
        ]
    if not any(item.split in ("", "train") and not item.defect for item in items):
        found = sorted(path.name for path in (root / "train" if "train" in folders else root).iterdir())
        there = ", ".join(name for name in found if not name.startswith("."))[:MOST_TOLD] or "nothing"
        place = "train" if "train" in folders else "it"
        raise InputError(
            f"{root}: no normal images to learn from; expected PNG, JPEG, BMP or TIFF files in train/good or in "
            f"normal; in {place} there is {there}"
        )
    items = _with_masks(root / MASKS, items, bad) if MASKS in folders else items
    items = sorted(_in_splits(items, seed, all_test_images), key=lambda item: item.path)
    for split in SPLITS:
        if not any(item.split == split and not item.defect for item in items):
            raise InputError(f"{root}: no normal images for {split}; expected at least 5 in normal, or 2 in test/good")
    return items, bad


def _of_split(folder: Path, bad: list[BadImage]) -> list[Item]:
    kinds = sorted(path for path in folder.iterdir() if path.is_dir())
    loose = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    bad += [BadImage(path, "lies in no folder that says what it is, such as good") for path in loose]
    return [Item(path, folder.name, _defect(kind, folder)) for kind in kinds for path in image_files(kind, bad)]


def _defect(folder: Path, above: Path) -> str:
    """The name of a defect, such as `crack` or `anomalous/crack`."""
    name = folder.relative_to(above)
    return "" if name.parts[0] in NORMAL else name.as_posix()


def _with_masks(folder: Path, items: Sequence[Item], bad: list[BadImage]) -> list[Item]:
    masks = set(image_files(folder, bad))
    found = []
    for item in items:
        kind = folder / item.path.parent.name
        names = (f"{item.path.stem}_mask.png", f"{item.path.stem}.png")
        found.append(next((kind / name for name in names if kind / name in masks), None))
    bad += [BadImage(mask, "is a mask without an image") for mask in sorted(masks - set(found))]
    return [dataclasses.replace(item, mask=mask) for item, mask in zip(items, found, strict=True)]


def _in_splits(items: Sequence[Item], seed: int, all_test_images: bool) -> list[Item]:
    """Fills the splits that the folder does not have itself."""
    has = {item.split for item in items}
    normal = [item for item in items if item.split in ("", "train") and not item.defect]
    if "validation" in has and "test" in has:
        return list(items)
    if "test" in has and all_test_images:
        held = set(_shuffled(normal, 0)[::10])
        return [_moved(item, "validation") if item in held else item for item in items]
    if "test" in has:
        halved = [item for item in items if item.split == "test"]
        return [item for item in items if item.split != "test"] + _halves(halved, 0)
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
    kinds = sorted({item.defect for item in items})
    of_kind = [_shuffled([item for item in items if item.defect == kind], seed) for kind in kinds]
    return [
        _moved(item, "validation" if number % 2 else "test")
        for shuffled in of_kind
        for number, item in enumerate(shuffled)
    ]


def _shuffled(items: Sequence[Item], seed: int) -> list[Item]:
    ordered = sorted(items, key=lambda item: item.path)
    return [ordered[index] for index in np.random.default_rng(seed).permutation(len(ordered))]


def _moved(item: Item, split: str) -> Item:
    return dataclasses.replace(item, split=split)
