"""Lines for the user about likely mistakes in a folder of images. No TensorFlow here."""

import collections
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from anomaly_toolbox.datasets.decoding import DEEP_WHITE, WHITE, Header
from anomaly_toolbox.datasets.layout import folder_of_normal
from anomaly_toolbox.datasets.splits import Item

MOST_UNUSUAL_SIZES = 5  # if more images than this have another size than most, it is no mistake
MOST_FOLDERS_LISTED = 12
MOST_WHITE = 0.01  # share of pixels at or above the white level that needs no note
DARK = 0.5  # a lower maximum of all pixels, as a share of white, needs a note


def note_sizes(headers: Sequence[Header]) -> Iterator[str]:
    """A line for each size that few images have, if nearly all images have another size."""
    sizes = collections.Counter((header.width, header.height) for header in headers)
    (usual_size, usual_count), *unusual = sizes.most_common()
    n_unusual = len(headers) - usual_count
    if n_unusual > min(MOST_UNUSUAL_SIZES, len(headers) // 100):
        return
    for (width, height), count in unusual:
        yield (
            f"{count} of {len(headers):,} images {'has' if count == 1 else 'have'} {width} x {height} pixels, nearly "
            f"all others {usual_size[0]} x {usual_size[1]}"
        )


def note_kinds(items: Sequence[Item], root: Path) -> Iterator[str]:
    """Lines about the folders that count as anomalous and as normal, so that the user notices a wrong one."""
    defects = collections.Counter(item.defect for item in items if item.defect)
    if defects:
        listed = _list_folders(defects)
        n_more = len(defects) - MOST_FOLDERS_LISTED
        more = f" and {n_more} more" if n_more > 0 else ""
        yield f"the images in these folders count as anomalous: {listed}{more}"
    inner_folders = collections.Counter(_folder_inside_normal(item.path, root) for item in items if not item.defect)
    del inner_folders[""]
    if inner_folders:
        yield f"the images in these folders also count as normal: {_list_folders(inner_folders)}"


def _list_folders(counts: collections.Counter[str]) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.most_common(MOST_FOLDERS_LISTED))


def _folder_inside_normal(image: Path, root: Path) -> str:
    """The subfolder of an image, such as `test/good/day1`; empty if it lies directly in a folder of normal images."""
    normal_folder, subfolders = folder_of_normal(image, root)
    return normal_folder.joinpath(*subfolders).as_posix() if subfolders else ""


def note_brightness(brightest: float, white_share: float, levels: int, white_level: int | None) -> Iterator[str]:
    """Lines about images that use a small part of their range, such as 12 bits in files of 16, or exceed it.

    Args:
        brightest: the highest pixel of all images, as a share of white.
        white_share: the share of pixels that are white or brighter.
        levels: 255 or 65535.
        white_level: the user's white level, if there is one.
    """
    if white_level is not None and white_share > MOST_WHITE:
        yield f"{white_share:.0%} of all pixels are at or above --white-level {white_level} and became white"
    if brightest >= DARK:
        return
    white = white_level or levels
    value = round(brightest * white)
    if levels == DEEP_WHITE:
        remedy = f"--white-level {2 ** max(value, 1).bit_length() - 1} makes about that value white"
    else:
        remedy = f"if it should be white, scale the images to values from 0 to {WHITE}"
    yield (
        f"the brightest pixel of all images has the value {value:,}, where {white:,} is white: pictures will be "
        f"dark and contrasts small; {remedy}"
    )


def note_masks(items: Sequence[Item], masks: Mapping[Item, np.ndarray], size: int, aspect: str) -> Iterator[str]:
    """Lines about masks with which the metrics of anomaly maps are impossible, or better than they should be.

    Args:
        items: all images.
        masks: the masks of some of them, (size, size), bool.
        size, aspect: how the images became square.
    """
    tested = [item for item in items if item.split == "test" and item.defect]
    masked = [item for item in tested if item in masks]
    unmasked = [item for item in tested if item not in masks]
    if masked and unmasked:
        yield (
            f"{len(unmasked)} of {len(tested)} anomalous test images have no mask, such as {unmasked[0].path}: "
            "anomaly maps are not measured"
        )
    mostly_marked = [item for item in masked if masks[item].mean() > 0.5]
    if 2 * len(mostly_marked) > len(tested):
        yield (
            f"{len(mostly_marked)} of {len(tested)} masks mark more than half of the image, such as "
            f"{mostly_marked[0].mask}: are they inverted? Pixels that are not black mark a defect"
        )
    vanished = [item for item in masked if not masks[item].any()]
    if vanished:
        yield (
            f"{len(vanished)} of {len(tested)} masked defects vanish at {size} pixels with --aspect {aspect}, such as "
            f"{vanished[0].path}"
        )
