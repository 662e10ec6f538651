"""One image -> square pixels. Whatever is wrong with a file becomes one line, never a crash.

Every place that reads files or arrays goes through `Reading`, so an image has the same pixels wherever it is scored.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anomaly_toolbox.datasets.masks import marked_pixels
from anomaly_toolbox.datasets.walk import BadImage, image_files
from anomaly_toolbox.errors import first_line

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MOST_PIXELS = 100_000_000
LUMA = np.array([[0.299], [0.587], [0.114]])  # what Pillow makes grey of colours with
ROUNDING = 0.5129  # 0.5 would decide by the last digit what is just between two levels
SHORTEST_SHOWN, LONGEST_SHOWN = 256, 1024  # sides of an image in pictures for people
GREY, DEEP_GREY, COLOURED = ("1", "L", "LA"), ("I;16", "I;16B", "I;16L"), ("P", "PA", "RGB", "RGBA")
MODES = (*GREY, *DEEP_GREY, *COLOURED)
WHITE, DEEP_WHITE = 255, 65535  # of 8 and of 16 bits
PHOTOMETRIC, WHITE_IS_ZERO = 262, 0  # a tag of TIFF, and its value in negatives

Aspect = Literal["stretch", "pad", "crop"]
Levels = int | Literal["own"] | None


class Header(NamedTuple):
    """What a file says of itself before it is decoded: pixels across and down, and the kind of its pixels."""

    width: int
    height: int
    is_grey: bool
    is_deep: bool


def read_header(path: Path) -> Header:
    """The header of an image file; raises BadImage."""
    with _opened(path) as image:
        return Header(*image.size, image.mode in (*GREY, *DEEP_GREY), image.mode in DEEP_GREY)


@dataclass(frozen=True)
class Reading:
    """How a run reads images: the same for all that it ever sees, from files or in memory.

    An image is turned as its EXIF orientation says, and what is transparent becomes white. It is resized with
    antialiasing, in floats, and rounded once. 16 bits of grey are kept; Pillow reduces 16 bits of colour to 8.

    Attributes:
        size: side of the square that an image becomes, in pixels.
        channels: 1 for grey, 3 for RGB.
        aspect: an image that is no square is stretched, padded with black, or cut to its middle.
        levels: whole levels from black to white that resized pixels are rounded to: 255 or 65535, as the images of the
            run have 8 or 16 bits; None: they are not rounded; `own`: those of each image itself.
        white_level: what is white in images of 16 bits, where they do not use all of them; None: 65535.
    """

    size: int
    channels: int
    aspect: Aspect = "stretch"
    levels: Levels = "own"
    white_level: int | None = None

    @classmethod
    def of_run(cls, hparams: Mapping[str, Any], size: int) -> "Reading":
        """The reading of a finished run, by its `hparams.json`; earlier runs of folders did not write `levels`."""
        from_files = hparams.get("fingerprint_of_images") is not None
        levels = hparams.get("levels", "own" if from_files else None)
        aspect = hparams.get("aspect") or "stretch"
        return cls(size, hparams["channels"], aspect, levels, hparams.get("white_level"))

    def of_file(self, path: Path) -> np.ndarray:
        """The pixels of a PNG, JPEG, BMP or TIFF file, (size, size, channels), in [0, 1], float32; raises BadImage."""
        return self.of_decoded(self.decode(path))

    def decode(self, path: Path) -> Image.Image:
        """The whole image of a file: grey of 8 bits (L) or 16 (F, from 0 to 65535), or RGB; raises BadImage."""
        with _opened(path) as image, _damage_is_told(path):
            upright = ImageOps.exif_transpose(image)
            return _plain(upright, self.channels, self.white_level, _is_negative(image))

    def of_decoded(self, image: Image.Image) -> np.ndarray:
        """What `of_file` gives, of an image that is decoded."""
        white = DEEP_WHITE if image.mode == "F" else WHITE
        return self._of_planes(np.stack([self._resized(band) for band in image.split()], axis=-1), white, white)

    def of_array(self, pixels: np.ndarray) -> np.ndarray:
        """What `of_file` gives, for an image that is in memory.

        Args:
            pixels: (height, width), (height, width, 1) or (height, width, 3); whole numbers of 8 or 16 bits, or floats
                in [0, 1].

        Raises:
            ValueError: says what was received and what would be right.
        """
        pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
        is_deep, is_float = pixels.dtype == np.uint16, pixels.dtype.kind == "f"
        if pixels.ndim == 2:
            pixels = pixels[..., np.newaxis]
        if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
            raise ValueError(f"expected images of shape (height, width, 1 or 3), received {pixels.shape}")
        if pixels.dtype == np.uint8:
            image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            return self.of_decoded(_plain(image, self.channels))
        if not is_deep and not (is_float and pixels.min() >= 0 and pixels.max() <= 1):
            raise ValueError(
                f"expected whole numbers of 8 or 16 bits, or floats in [0, 1], received {pixels.dtype} from "
                f"{pixels.min()} to {pixels.max()}"
            )
        shown = _deep(pixels, self.white_level) if is_deep else pixels
        planes = np.moveaxis(shown @ LUMA if pixels.shape[-1] > self.channels else shown, -1, 0)
        resized = [self._resized(Image.fromarray(plane.astype(np.float32))) for plane in planes]
        white, own_levels = (DEEP_WHITE, DEEP_WHITE) if is_deep else (1, None)
        return self._of_planes(np.stack(resized, axis=-1), white, own_levels)

    def _resized(self, plane: Image.Image) -> np.ndarray:
        """One channel of any size -> (size, size), float32, in its own units.

        Rows first, then columns: an export can do that, too. Pillow by itself would choose the order by the shape, and
        round whole numbers twice.
        """
        box, (left, top, width, height) = _geometry(*plane.size, self.size, self.aspect)
        resizing = Image.Resampling.BILINEAR  # which Pillow widens when it makes an image smaller
        plane = plane.convert("F").resize((width, plane.height), resizing, (box[0], 0, box[2], plane.height))
        square = np.zeros((self.size, self.size), np.float32)
        square[top : top + height, left : left + width] = plane.resize(
            (width, height), resizing, (0, box[1], width, box[3])
        )
        return square

    def _of_planes(self, planes: np.ndarray, white: int, own_levels: int | None) -> np.ndarray:
        """(size, size, n), up to `white` -> (size, size, channels), in [0, 1], rounded."""
        levels = own_levels if self.levels == "own" else self.levels
        shares = planes / np.float32(white) if levels is None else rounded(planes * np.float32(levels / white), levels)
        return np.repeat(shares, self.channels, axis=-1) if shares.shape[-1] < self.channels else shares


def rounded(values: np.ndarray, levels: int) -> np.ndarray:
    """Values from 0 to `levels`, rounded to whole ones -> shares in [0, 1], float32.

    Halves are frequent, and no place to round at where the last digit may differ.
    """
    return np.floor(values + np.float32(ROUNDING)) / np.float32(levels)


def read_image(path: Path, size: int, channels: int, aspect: Aspect = "stretch") -> np.ndarray:
    """The pixels of an image file, rounded to its own levels; see `Reading`."""
    return Reading(size, channels, aspect).of_file(path)


def read_marks(path: Path, shape: tuple[int, int] | None = None) -> np.ndarray:
    """Which pixels a mask marks, (height, width), bool; `masks.marked_pixels` says which count.

    Args:
        path: a PNG, JPEG, BMP or TIFF file, or a folder of them, which mark together.
        shape: (width, height) of the image that it belongs to, if that is to be checked.

    Raises:
        BadImage: names the file and the reason.
    """
    bad: list[BadImage] = []
    together: np.ndarray | None = None
    for file in image_files(path, bad) if path.is_dir() else [path]:
        with _opened(file) as image, _damage_is_told(file):
            upright = ImageOps.exif_transpose(image)
            if _is_negative(image) and image.mode in DEEP_GREY:
                upright = Image.fromarray(DEEP_WHITE - np.asarray(upright))
            marks = marked_pixels(upright, is_lossy=image.format in ("JPEG", "MPO"))
        shape = shape or marks.shape[::-1]
        if marks.shape[::-1] != shape:
            raise BadImage(file, "has {} x {} pixels, its image {} x {}".format(*marks.shape[::-1], *shape))
        together = marks if together is None else together | marks
    if bad:
        raise bad[0]
    return together


def square_marks(marks: np.ndarray, size: int, aspect: Aspect = "stretch") -> np.ndarray:
    """(height, width), bool -> (size, size), bool: pixels of which at least half is marked."""
    image = Image.fromarray(np.where(marks, np.uint8(WHITE), np.uint8(0)))
    return Reading(size, 1, aspect).of_decoded(image)[..., 0] > 0.5


def read_mask(path: Path, size: int, aspect: Aspect = "stretch", shape: tuple[int, int] | None = None) -> np.ndarray:
    """Where a mask marks a defect in the square that its image becomes, (size, size), bool; see `read_marks`."""
    return square_marks(read_marks(path, shape), size, aspect)


def read_original(path: Path, white_level: int | None = None) -> np.ndarray:
    """An image file as people look at it: (height, width, 3), in [0, 1], float32, in its own shape.

    Turned as its EXIF orientation says. What is smaller than 256 pixels is enlarged by a whole number, what is larger
    than 1,024 reduced. `white_level` is that of `Reading`. Raises BadImage.
    """
    image = Reading(size=1, channels=3, white_level=white_level).decode(path)
    image.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN), Image.Resampling.BILINEAR)
    times = max(1, SHORTEST_SHOWN // max(image.size))
    pixels = np.asarray(image, np.float32).reshape(image.height, image.width, -1)
    pixels = pixels / (DEEP_WHITE if image.mode == "F" else WHITE)
    return np.broadcast_to(pixels, (image.height, image.width, 3)).repeat(times, axis=0).repeat(times, axis=1)


def unsquare(values: np.ndarray, shape: tuple[int, int], aspect: Aspect) -> np.ndarray:
    """A map of the square that an image became -> a map of the image itself.

    Args:
        values: (size, size), such as an anomaly map.
        shape: (height, width) of the image.
        aspect: how it became a square; what was cut off gets the value 0.

    Returns:
        (height, width), float32, linear between the values.
    """
    height, width = shape
    (left, top, right, bottom), (x, y, across, down) = _geometry(width, height, len(values), aspect)
    left, top, right, bottom = map(int, (left, top, right, bottom))
    seen = Image.fromarray(values.astype(np.float32)).resize(
        (right - left, bottom - top), Image.Resampling.BILINEAR, (x, y, x + across, y + down)
    )
    whole = np.zeros(shape, np.float32)
    whole[top:bottom, left:right] = seen
    return whole


def seen(shape: tuple[int, int], size: int, aspect: Aspect) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of an image, (height, width), come into its square, and which of those, (size, size), are image."""
    (left, top, right, bottom), (x, y, across, down) = _geometry(shape[1], shape[0], size, aspect)
    of_image, of_square = np.zeros(shape, bool), np.zeros((size, size), bool)
    of_image[int(top) : int(bottom), int(left) : int(right)] = True
    of_square[y : y + down, x : x + across] = True
    return of_image, of_square


def _opened(path: Path) -> Image.Image:
    """The image behind its header, whose pixels are not decoded yet."""
    with _damage_is_told(path, "is damaged"):
        if path.stat().st_size == 0:
            raise BadImage(path, "is empty")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS decides, below
                image = Image.open(path, formats=FORMATS)
        except UnidentifiedImageError as problem:
            raise BadImage(path, "is not a PNG, JPEG, BMP or TIFF image, or its beginning is damaged") from problem
        except Image.DecompressionBombError as problem:
            raise BadImage(path, f"has more than {MOST_PIXELS:,} pixels") from problem
        n_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    width, height = image.size
    # MPO is what some telephones write and call JPEG: a photograph and smaller versions of it.
    if width * height > MOST_PIXELS:
        reason = f"has {width:,} x {height:,} pixels, more than {MOST_PIXELS:,}"
    elif n_frames > 1:
        reason = f"is animated or has several pages ({n_frames}); expected a single image"
    elif image.mode not in MODES:
        reason = f"has {image.mode} pixels; expected grey, RGB or RGBA of 8 or 16 bits"
    else:
        return image
    image.close()
    raise BadImage(path, reason)


def _plain(image: Image.Image, channels: int, white_level: int | None = None, is_negative: bool = False) -> Image.Image:
    """Grey of 8 bits (L) or of 16 (F, which can be resized), or RGB; Pillow turns negatives of 8 bits by itself."""
    if image.mode in DEEP_GREY:
        values = _deep(np.asarray(image), white_level, is_negative)
        if "transparency" in image.info:
            values[np.asarray(image) == image.info["transparency"]] = DEEP_WHITE
        return Image.fromarray(values)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def _is_negative(image: Image.Image) -> bool:
    """Whether zero is white, as in some TIFF files."""
    return getattr(image, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO


def _deep(pixels: np.ndarray, white_level: int | None, is_negative: bool = False) -> np.ndarray:
    """Whole numbers of 16 bits -> float32 from 0 to 65535, of which the latter is white."""
    white = white_level or DEEP_WHITE
    values = np.minimum(pixels, white).astype(np.float32)
    values = white - values if is_negative else values
    return values * np.float32(DEEP_WHITE / white)


def _geometry(width: int, height: int, size: int, aspect: Aspect) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """What of an image (left, top, right, bottom) goes where in its square (left, top, width, height)."""
    shorter, longer = min(width, height), max(width, height)
    match aspect:
        case "stretch":
            return (0, 0, width, height), (0, 0, size, size)
        case "pad":
            inside = [max(1, round(side * size / longer)) for side in (width, height)]
            return (0, 0, width, height), (*(round((size - side) / 2) for side in inside), *inside)
        case "crop":
            left, top = (width - shorter) / 2, (height - shorter) / 2
            return (left, top, left + shorter, top + shorter), (0, 0, size, size)


@contextlib.contextmanager
def _damage_is_told(path: Path, kind: str = "is damaged or truncated") -> Iterator[None]:
    """Whatever Pillow raises of a file becomes a BadImage: damaged files make it raise errors of any kind."""
    try:
        yield
    except BadImage:
        raise
    except OSError as problem:
        raise BadImage(path, problem.strerror or f"{kind} ({first_line(problem)})") from problem
    except Exception as problem:
        raise BadImage(path, f"{kind} ({first_line(problem)})") from problem
