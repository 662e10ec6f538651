"""Masks: which one belongs to which image, and which of its pixels mark a defect. No TensorFlow here.

Inside `ground_truth`, a mask has the same path as its image inside the split. The mask of `test/crack/day1/7.png` is
one of

    ground_truth/crack/day1/7.png       or 7_mask.png, 7_gt.png, ..., with the suffix of any image format
    ground_truth/crack/day1/7/*.png     several masks of one image, all of which count
    ground_truth/test/crack/day1/...    the same with the split, for splits with images of the same name and for `train`

Letter case and the Unicode form of names do not matter unless several masks fit.
"""

import itertools
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage
from PIL import Image

from anomaly_toolbox.datasets.walk import BadImage

MASK_ENDINGS = ("_mask", "", "_gt", "_ground_truth", "_groundtruth", "_label", "_seg", "-mask")
HIGHEST_LABEL = 16  # a mask with no stronger pixel numbers its defects
LEAST_LABELS = 0.8  # share of strengths that must be plateaus in a mask of labels; soft edges have hardly any
LEAST_OF_STRONGEST = 0.25  # a region that is weaker than this share of the strongest one is noise


class MaskFiles:
    """The masks in a folder, which are found by the path of their image.

    Args:
        folder: the folder of masks, `ground_truth`.
        files: every image file in it.
    """

    def __init__(self, folder: Path, files: Sequence[Path]):
        self._folder = folder
        self._files = set(files)
        # Names are paths in the folder, without the suffix; those of folders end with a slash. A folder may be named
        # like an image, and then holds several masks of it.
        self._by_name: dict[str, set[Path]] = {}
        for path in files:
            relative = path.relative_to(folder)
            for normalize in (_composed, _without_case):
                self._add(normalize(relative.with_suffix("").as_posix()), path)
                self._add(normalize(relative.parent.as_posix()) + "/", path.parent)

    def _add(self, name: str, path: Path) -> None:
        self._by_name.setdefault(name, set()).add(path)

    def masks_for(self, image: Path, with_split: bool) -> list[Path]:
        """Finds the masks that fit an image; more than one is a mistake of the user.

        Args:
            image: relative to the folder that `ground_truth` is in, such as `test/crack/7.png`.
            with_split: accept only masks whose path contains the split, such as `ground_truth/train/crack/7.png`.

        Returns:
            Files, or folders in which every file counts.
        """
        folders = [image.parent]
        if not with_split:
            folders.append(Path(*image.parent.parts[1:]))
        # From the most exact match to the least exact one.
        for folder, normalize, name in itertools.product(folders, (_composed, _without_case), (image.name, image.stem)):
            masks = self._find((folder / name).as_posix(), normalize)
            if masks:
                return sorted(masks)
        return []

    def _find(self, name: str, normalize: Callable[[str], str]) -> set[Path]:
        """All mask files with this name and one of the endings, and the folder of this name."""
        masks: set[Path] = set()
        for ending in (*MASK_ENDINGS, "/"):
            masks |= self._by_name.get(normalize(name + ending), set())
        return masks

    def problems(self, images_of_mask: Mapping[Path, Sequence[Path]]) -> Iterator[BadImage]:
        """Yields a BadImage for each mask that fits several images, or none.

        Args:
            images_of_mask: for each mask that `masks_for` returned, the images that it was returned for.
        """
        for mask, images in sorted(images_of_mask.items()):
            if len(images) > 1:
                first, second = images[:2]
                remedy = "give the images different names"
                if first.parent != second.parent:
                    folders = [f"{self._folder.name}/{image.parent.as_posix()}" for image in (first, second)]
                    remedy = f"put their masks into {folders[0]} and {folders[1]}"
                yield BadImage(mask, f"is the mask of two images, {first} and {second}; {remedy}")
        for mask in sorted(self._files):
            if mask not in images_of_mask and mask.parent not in images_of_mask:
                folder = mask.relative_to(self._folder).parent.as_posix()
                names = ", ".join(f"7{ending}.png" for ending in MASK_ENDINGS[1:])
                yield BadImage(
                    mask,
                    f"is a mask without an image; the mask of test/{folder}/7.png must be called "
                    f"{self._folder.name}/{folder}/7{MASK_ENDINGS[0]}.png, {names}, or be in a folder 7",
                )


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _without_case(name: str) -> str:
    """One spelling for all letter cases; the zero byte keeps it apart from composed names."""
    return "\0" + unicodedata.normalize("NFC", name).casefold()


def marked_pixels(image: Image.Image, is_lossy: bool) -> np.ndarray:
    """Finds the pixels of a mask that mark a defect.

    The strength of a pixel is its strongest channel times its opacity, so transparent pixels mark nothing. If all
    colours are black, opacity alone counts: such a mask has black marks on a transparent layer.

    * In a mask of labels, every pixel with a strength above zero marks a defect. A mask has labels if it has at most
      two strengths, or none above 16, or if at least 80% of its strengths are plateaus, which means that most of their
      pixels have no stronger neighbour.
    * All other masks, and all JPEG files, have soft edges or noise. There, a pixel marks a defect if it has at least
      half of the strength of the strongest pixel that it is connected to; this preserves the area of the defect.
      Regions that are weaker than a quarter of the strongest pixel of the mask are noise.

    Args:
        image: the mask as Pillow decodes it.
        is_lossy: whether it comes from a JPEG file.

    Returns:
        (height, width), bool.
    """
    strength = _strength(image)
    regions: np.ndarray
    regions, n_regions = scipy.ndimage.label(strength > 0, structure=np.ones((3, 3)))
    if n_regions == 0:
        return np.zeros(strength.shape, bool)
    is_marked: np.ndarray = regions > 0
    if not is_lossy and _has_labels(strength, np.unique(strength[is_marked])):
        return is_marked
    strongest_of_region = np.zeros(n_regions + 1)  # region 0 is the background
    strongest_of_region[1:] = scipy.ndimage.maximum(strength, regions, np.arange(1, n_regions + 1))
    strongest = strongest_of_region[regions]
    is_marked &= 2 * strength >= strongest
    is_marked &= strongest >= LEAST_OF_STRONGEST * strongest_of_region.max()
    return is_marked


def _has_labels(strength: np.ndarray, distinct_strengths: np.ndarray) -> bool:
    """Whether the strengths of a mask number its defects, rather than fade out towards edges.

    Args:
        strength: (height, width).
        distinct_strengths: every strength in it other than 0, once and in rising order.
    """
    if len(distinct_strengths) <= 2 or distinct_strengths[-1] <= HIGHEST_LABEL:
        return True
    has_stronger_neighbour = scipy.ndimage.maximum_filter(strength, 3) > strength
    _, indices = np.unique(strength, return_inverse=True)
    n_pixels = np.bincount(indices.ravel())
    n_with_stronger_neighbour = np.bincount(indices.ravel(), has_stronger_neighbour.ravel())
    is_plateau = n_with_stronger_neighbour / n_pixels < 0.5
    is_plateau_above_0 = is_plateau[-len(distinct_strengths) :]
    return bool(np.mean(is_plateau_above_0) >= LEAST_LABELS)


def _strength(image: Image.Image) -> np.ndarray:
    """The strength of each pixel, (height, width), float32, at least 0; 0 marks nothing."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float32)
    if not image.has_transparency_data:
        return _strongest_channel(np.asarray(_as_grey_or_rgb(image), np.float32))
    rgba = np.asarray(image.convert("RGBA"), np.float32)
    colour, opacity = _strongest_channel(rgba[..., :3]), rgba[..., 3]
    if (opacity == 255).all():
        return colour
    visible_colour: np.ndarray = colour * opacity
    return visible_colour / 255 if visible_colour.any() else opacity


def _as_grey_or_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _strongest_channel(pixels: np.ndarray) -> np.ndarray:
    """(height, width) or (height, width, channels) -> (height, width)."""
    if pixels.ndim == 2:
        return pixels
    strongest: np.ndarray = pixels.max(axis=-1)
    return strongest
