"""Masks: which one belongs to which image, and which of its pixels mark a defect. No TensorFlow here.

A mask lies in `ground_truth` as its image lies in the split: `test/crack/day1/7.png` has one of

    ground_truth/crack/day1/7.png       or 7_mask.png, 7_gt.png, ..., with any suffix of an image
    ground_truth/crack/day1/7/*.png     several masks of one image, all of which count
    ground_truth/test/crack/day1/...    the same, for splits that have images of the same name, and for `train`

Letter case and the Unicode form of names do not matter where only one mask can be meant.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import scipy.ndimage
from PIL import Image

from anomaly_toolbox.datasets.walk import BadImage

MASK_ENDINGS = ("_mask", "", "_gt", "_ground_truth", "_groundtruth", "_label", "_seg", "-mask")
HIGHEST_LABEL = 16  # a mask without a stronger pixel numbers kinds of defects
LEAST_LABELS = 0.8  # share of strengths that stand for themselves in a mask of labels; of soft edges hardly any does
LEAST_OF_STRONGEST = 0.25  # a region that is weaker than this share of the strongest one is noise


class MaskFiles:
    """The masks in a folder, by the image that they belong to.

    Args:
        folder: `ground_truth`.
        files: every image file in it.
    """

    def __init__(self, folder: Path, files: Sequence[Path]):
        self._folder = folder
        self._files = set(files)
        self._by_name: dict[str, set[Path]] = {}
        for path in files:
            place = path.relative_to(folder)
            folder_of_masks = place.parent  # it may have the name of an image
            for form in (_composed, _without_case):
                self._by_name.setdefault(form(place.with_suffix("").as_posix()), set()).add(path)
                self._by_name.setdefault(form(folder_of_masks.as_posix()) + "/", set()).add(path.parent)

    def of(self, image: Path, with_split: bool) -> list[Path]:
        """The masks that may be meant for an image: none, one, or several, which is a mistake.

        Args:
            image: relative to the folder in which `ground_truth` lies, such as `test/crack/7.png`.
            with_split: look only where the split is part of a mask's place, as `ground_truth/train/crack`.

        Returns:
            Files, or folders of which every file counts.
        """
        below_split = Path(*image.parent.parts[1:])
        for place in [image.parent] if with_split else [image.parent, below_split]:
            for form in (_composed, _without_case):
                for name in (image.name, image.stem):
                    keys = [f"{(place / name).as_posix()}{ending}" for ending in MASK_ENDINGS]
                    keys.append(f"{(place / name).as_posix()}/")
                    found = set().union(*(self._by_name.get(form(key), ()) for key in keys))
                    if found:
                        return sorted(found)
        return []

    def problems(self, used: dict[Path, list[Path]]) -> Iterator[BadImage]:
        """What is wrong with masks.

        Args:
            used: for each mask that was found, as `of` gives it, the images that it was found for.
        """
        for mask, images in sorted(used.items()):
            if len(images) > 1:
                one, other = images[:2]
                remedy = "give the images different names"
                if one.parent != other.parent:
                    places = [f"{self._folder.name}/{image.parent.as_posix()}" for image in (one, other)]
                    remedy = f"put their masks into {places[0]} and {places[1]}"
                yield BadImage(mask, f"is the mask of two images, {one} and {other}; {remedy}")
        for mask in sorted(path for path in self._files if path not in used and path.parent not in used):
            place = mask.relative_to(self._folder)
            yield BadImage(
                mask,
                f"is a mask without an image; the mask of test/{place.parent.as_posix()}/7.png is looked for as "
                f"{self._folder.name}/{place.parent.as_posix()}/7{MASK_ENDINGS[0]}.png, 7.png, "
                f"{', '.join(f'7{ending}.png' for ending in MASK_ENDINGS[2:])} or in a folder 7",
            )


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def _without_case(name: str) -> str:
    """One spelling for all letter cases; it cannot be mistaken for a composed name."""
    return "\0" + unicodedata.normalize("NFC", name).casefold()


def marked_pixels(image: Image.Image, is_lossy: bool) -> np.ndarray:
    """Which pixels of a mask mark a defect, (height, width), bool.

    The strength of a pixel is that of its strongest channel, times its opacity: what is transparent marks nothing. If
    all colours are black, opacity alone counts: black marks on a transparent layer. Then

    * A mask of labels marks wherever its strength is above zero. It has at most two strengths, or none above 16, or
      most of its strengths stand for themselves: most of their pixels lie beside no stronger one.
    * All other masks, and all JPEG files, have soft edges or noise. A pixel marks if it has at least half of the
      strength of the strongest pixel that is connected to it, which keeps the area of the defect. Regions with less
      than a quarter of the strongest pixel of the whole mask are noise.

    Args:
        image: as Pillow decodes it.
        is_lossy: whether it was a JPEG file.
    """
    strength = _strength(image)
    regions, n_regions = scipy.ndimage.label(strength > 0, structure=np.ones((3, 3)))
    if not n_regions:
        return np.zeros(strength.shape, bool)
    strongest = np.zeros(n_regions + 1)
    strongest[1:] = scipy.ndimage.maximum(strength, regions, np.arange(1, n_regions + 1))
    is_strong = 2 * strength >= strongest[regions]
    strengths = np.unique(strength[regions > 0])
    if not is_lossy and _are_labels(strength, strengths):
        return regions > 0
    is_no_noise = strongest[regions] >= LEAST_OF_STRONGEST * strongest.max()
    return (regions > 0) & is_strong & is_no_noise


def _are_labels(strength: np.ndarray, strengths: np.ndarray) -> bool:
    """Whether the strengths of a mask, other than 0, number its defects, rather than fade out towards edges."""
    if len(strengths) <= 2 or strengths[-1] <= HIGHEST_LABEL:
        return True
    is_beside_stronger = scipy.ndimage.maximum_filter(strength, 3) > strength
    _, numbers = np.unique(strength, return_inverse=True)
    counts = np.bincount(numbers.ravel())
    shares = np.bincount(numbers.ravel(), is_beside_stronger.ravel()) / counts
    return np.mean(shares[-len(strengths) :] < 0.5) >= LEAST_LABELS


def _strength(image: Image.Image) -> np.ndarray:
    """(height, width), float32, >= 0; 0 is where nothing is marked."""
    if image.mode.startswith("I;16"):
        return np.asarray(image).astype(np.float32)
    if not image.has_transparency_data:
        plain = image if image.mode in ("L", "RGB") else image.convert("L" if image.mode == "1" else "RGB")
        return np.asarray(plain, np.float32).reshape(plain.height, plain.width, -1).max(axis=-1)
    layers = np.asarray(image.convert("RGBA"), np.float32)
    if (layers[..., 3] == 255).all():  # transparency was possible and not used
        return layers[..., :3].max(axis=-1)
    colour, opacity = layers[..., :3].max(axis=-1), layers[..., 3]
    return colour * opacity / 255 if (colour * opacity).any() else opacity
