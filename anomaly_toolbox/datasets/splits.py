"""How images are divided into splits that a folder does not have itself. No TensorFlow here."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class Item:
    """An image file.

    Attributes:
        path: the file.
        split: `train`, `validation` or `test`; empty until `assign_splits` sets it.
        defect: the name of the defect; empty for a normal image.
        mask: a mask file or a folder of mask files, if there is one.
    """

    path: Path
    split: str
    defect: str
    mask: Path | None = None


def assign_splits(items: Sequence[Item], seed: int, all_test_images: bool) -> list[Item]:
    """Fills the splits that a folder lacks.

    Args:
        items: all images; `split` is that of the folder, or empty.
        seed: the seed with which splits are drawn, if the folder has none for validation and testing.
        all_test_images: keep the test split and use a tenth of the normal training images for validation.

    Returns:
        The images with their splits, in no particular order.
    """
    own_splits = {item.split for item in items}
    has_validation, has_test = "validation" in own_splits, "test" in own_splits
    if has_validation and has_test:
        return list(items)
    if has_test and all_test_images:
        return _validate_on_training_images(items)
    if has_validation or has_test:
        train = [item for item in items if item.split == "train"]
        held_out = [item for item in items if item.split != "train"]
        return train + _halve(held_out, seed=0)
    return _draw_splits(items, seed)


def _validate_on_training_images(items: Sequence[Item]) -> list[Item]:
    """Moves a tenth of the normal training images to validation."""
    normal = [item for item in items if item.split == "train" and not item.defect]
    validation = set(_shuffle(normal, seed=0)[::10])
    return [_in_split(item, "validation") if item in validation else item for item in items]


def _draw_splits(items: Sequence[Item], seed: int) -> list[Item]:
    """Draws all splits: normal images 60 : 20 : 20, anomalous images half and half, unless they are in `train`."""
    normal = _shuffle([item for item in items if not item.defect], seed)
    anomalous = [item for item in items if item.defect]
    n_held_out = 2 * len(normal) // 5
    train = [_in_split(item, "train") for item in normal[n_held_out:]]
    train += [item for item in anomalous if item.split == "train"]
    held_out = normal[:n_held_out] + [item for item in anomalous if item.split != "train"]
    return train + _halve(held_out, seed)


def _halve(items: Sequence[Item], seed: int) -> list[Item]:
    """Divides each kind between validation and test; if the number is odd, the test split gets one more."""
    halved = []
    for kind in sorted({item.defect for item in items}):
        shuffled = _shuffle([item for item in items if item.defect == kind], seed)
        halved += [_in_split(item, "validation") for item in shuffled[1::2]]
        halved += [_in_split(item, "test") for item in shuffled[::2]]
    return halved


def _shuffle(items: Sequence[Item], seed: int) -> list[Item]:
    """The items in an order that depends on their paths and the seed alone."""
    ordered = sorted(items, key=lambda item: item.path)
    permutation = np.random.default_rng(seed).permutation(len(ordered))
    return [ordered[index] for index in permutation]


def _in_split(item: Item, split: str) -> Item:
    return dataclasses.replace(item, split=split)
