"""From an image file or an array to the square of pixels that a detector takes. No TensorFlow here.

Everything that reads images goes through `Reading`, so an image has the same pixels in training, prediction and export.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from anomaly_toolbox.datasets.decoding import (
    DEEP_WHITE,
    WHITE,
    ImageFile,
    decode,
    decode_marks,
    scale_16_bits,
    to_grey_or_rgb,
    white_of,
)
from anomaly_toolbox.datasets.geometry import Aspect, geometry
from anomaly_toolbox.datasets.walk import BadImage, image_files

LUMA = np.array([[0.299], [0.587], [0.114]])  # Pillow's weights of red, green and blue in grey
ROUNDING = 0.5129  # with 0.5, values halfway between two levels would depend on the last digit of a float
SHORTEST_SHOWN, LONGEST_SHOWN = 256, 1024  # sides of originals in pictures, in pixels

Levels = int | Literal["own"] | None


@dataclass(frozen=True)
class Reading:
    """How a run reads images: the same for all images, from files or in memory.

    An image is turned upright by its EXIF orientation, and transparent pixels become white. It is resized with
    antialiasing, in floats, and rounded once. Grey images of 16 bits keep their precision; Pillow reduces colours of 16
    bits to 8.

    Attributes:
        size: the side of the square that an image becomes, in pixels.
        channels: 1 for grey, 3 for RGB.
        aspect: an image that is not square is stretched, padded with black, or cropped to its middle.
        levels: the highest level, 255 or 65535, if resized pixels are rounded to whole levels; `own`: the highest level
            of each image itself; None: pixels are not rounded.
        white_level: the white level of images of 16 bits; None: 65535.
    """

    size: int
    channels: int
    aspect: Aspect = "stretch"
    levels: Levels = "own"
    white_level: int | None = None

    @classmethod
    def of_run(cls, hparams: Mapping[str, Any], size: int) -> "Reading":
        """The reading of a finished run.

        Args:
            hparams: the content of its `hparams.json`; old runs of folders have no `levels` there.
            size: the side of its images, in pixels.
        """
        is_from_files = hparams.get("fingerprint_of_images") is not None
        levels: Levels = hparams.get("levels", "own" if is_from_files else None)
        aspect: Aspect = hparams.get("aspect") or "stretch"
        return cls(size, hparams["channels"], aspect, levels, hparams.get("white_level"))

    def of_file(self, path: Path) -> np.ndarray:
        """Reads a PNG, JPEG, BMP or TIFF file -> (size, size, channels), float32 in [0, 1]; raises BadImage."""
        return self.of_decoded(self.decode(path))

    def decode(self, file: ImageFile) -> Image.Image:
        """Decodes a file in its own size, see `decoding.decode`; raises BadImage."""
        return decode(file, self.channels, self.white_level)

    def of_decoded(self, image: Image.Image) -> np.ndarray:
        """The same as `of_file`, for an image that is already decoded."""
        white = white_of(image)
        resized = [self._resize(band) for band in image.split()]
        return self._scale(np.stack(resized, axis=-1), white, own_levels=white)

    def of_array(self, pixels: np.ndarray) -> np.ndarray:
        """The same as `of_file`, for an image in memory.

        Args:
            pixels: (height, width), (height, width, 1) or (height, width, 3); whole numbers of 8 or 16 bits, or floats
                in [0, 1].

        Raises:
            ValueError: the array has another shape, type or range.
        """
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        if pixels.ndim == 2:
            pixels = pixels[..., np.newaxis]
        if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
            raise ValueError(f"expected images of shape (height, width, 1 or 3), received {pixels.shape}")
        if pixels.dtype == np.uint8:
            image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            return self.of_decoded(to_grey_or_rgb(image, self.channels))
        is_deep = pixels.dtype == np.uint16
        if not is_deep and not (pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(
                f"expected whole numbers of 8 or 16 bits, or floats in [0, 1], received {pixels.dtype} from "
                f"{pixels.min()} to {pixels.max()}"
            )
        if is_deep:
            pixels = scale_16_bits(pixels, self.white_level)
        if pixels.shape[-1] > self.channels:
            pixels = pixels @ LUMA  # RGB to grey
        planes = [Image.fromarray(plane.astype(np.float32)) for plane in np.moveaxis(pixels, -1, 0)]
        resized = np.stack([self._resize(plane) for plane in planes], axis=-1)
        return self._scale(resized, DEEP_WHITE, DEEP_WHITE) if is_deep else self._scale(resized, 1, None)

    def _resize(self, plane: Image.Image) -> np.ndarray:
        """One channel of any size -> (size, size), float32, with values in the same units.

        Rows first, then columns: an exported model can do the same. Pillow itself would choose the order by the shape,
        and would round whole numbers twice.
        """
        source, target = geometry(*plane.size, self.size, self.aspect)
        bilinear = Image.Resampling.BILINEAR  # antialiased: Pillow widens the filter when an image becomes smaller
        row_box = (source.left, 0, source.right, plane.height)
        column_box = (0, source.top, target.width, source.bottom)
        narrow = plane.convert("F").resize((target.width, plane.height), bilinear, row_box)
        resized = narrow.resize((target.width, target.height), bilinear, column_box)
        square = np.zeros((self.size, self.size), np.float32)
        square[target.slices] = np.asarray(resized)
        return square

    def _scale(self, planes: np.ndarray, white: int, own_levels: int | None) -> np.ndarray:
        """Resized planes -> pixels in [0, 1], rounded to whole levels if the reading has levels.

        Args:
            planes: (size, size, 1 or 3), from 0 to `white`.
            white: the value that becomes 1.
            own_levels: the highest level of the image itself; None for floats.

        Returns:
            (size, size, channels), float32.
        """
        levels = own_levels if self.levels == "own" else self.levels
        if levels is None:
            pixels = planes / np.float32(white)
        else:
            values = planes * np.float32(levels / white)
            pixels = rounded(values, levels)
        if pixels.shape[-1] < self.channels:
            return np.repeat(pixels, self.channels, axis=-1)
        return pixels


def rounded(values: np.ndarray, levels: int) -> np.ndarray:
    """Rounds values from 0 to `levels` to whole levels -> [0, 1], float32.

    Values halfway between two levels are frequent, and their last digit may differ between machines; so values are
    not rounded at 0.5, but at a number that hardly ever occurs.
    """
    return np.floor(values + np.float32(ROUNDING)) / np.float32(levels)


def read_image(path: Path, size: int, channels: int, aspect: Aspect = "stretch") -> np.ndarray:
    """Reads an image file, with pixels rounded to its own levels -> (size, size, channels), float32 in [0, 1].

    Args:
        path: a PNG, JPEG, BMP or TIFF file.
        size, channels, aspect: see `Reading`.

    Raises:
        BadImage: the file cannot be used.
    """
    return Reading(size, channels, aspect).of_file(path)


def read_marks(path: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a mask in its own size -> (height, width), bool, True at pixels that mark a defect.

    Args:
        path: a PNG, JPEG, BMP or TIFF file, or a folder of them; then all marks count.
        shape: the expected (width, height); None: any.

    Raises:
        BadImage: a file cannot be used, or has another shape.
    """
    bad: list[BadImage] = []
    files = list(image_files(path, bad)) if path.is_dir() else [path]
    marks_of_files: list[np.ndarray] = []
    for file in files:
        marks = decode_marks(file)
        height, width = marks.shape
        if shape is None:
            shape = (width, height)
        if (width, height) != shape:
            raise BadImage(file, f"has {width} x {height} pixels, its image {shape[0]} x {shape[1]}")
        marks_of_files.append(marks)
    if bad:
        raise bad[0]
    if not marks_of_files:
        raise BadImage(path, "holds no mask")
    return np.logical_or.reduce(marks_of_files)


def square_marks(marks: np.ndarray, size: int, aspect: Aspect = "stretch") -> np.ndarray:
    """The marks in the square that their image becomes: (height, width), bool -> (size, size), bool.

    A pixel of the square is marked if at least half of its area is.
    """
    image = Image.fromarray(np.where(marks, np.uint8(WHITE), np.uint8(0)))
    return Reading(size, 1, aspect).of_decoded(image)[..., 0] > 0.5


def read_mask(path: Path, size: int, aspect: Aspect = "stretch", shape: tuple[int, int] | None = None) -> np.ndarray:
    """Reads a mask as the square that its image becomes -> (size, size), bool, True where there is a defect.

    Args:
        path, shape: see `read_marks`.
        size, aspect: see `Reading`.

    Raises:
        BadImage: a file cannot be used, or has another shape.
    """
    return square_marks(read_marks(path, shape), size, aspect)


def read_original(file: ImageFile, white_level: int | None = None) -> np.ndarray:
    """Reads an image file for a picture that people look at, in its own aspect ratio.

    Images below 256 pixels are enlarged by a whole number; images above 1,024 pixels are reduced.

    Args:
        file: its path or its content.
        white_level: see `Reading`.

    Returns:
        (height, width, 3), float32 in [0, 1], turned upright by its EXIF orientation.

    Raises:
        BadImage: the file cannot be used.
    """
    image = decode(file, 3, white_level)
    image.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN), Image.Resampling.BILINEAR)
    channels = np.asarray(image, np.float32).reshape(image.height, image.width, -1) / white_of(image)
    pixels = np.broadcast_to(channels, (image.height, image.width, 3))
    times = max(1, SHORTEST_SHOWN // max(image.size))
    return pixels.repeat(times, axis=0).repeat(times, axis=1)
