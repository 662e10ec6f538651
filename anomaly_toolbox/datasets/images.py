"""One image file -> square pixels. Whatever is wrong with a file becomes one line, never a crash.

Every place that reads files goes through here, so an image has the same pixels wherever it is scored.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anomaly_toolbox.errors import ToolboxError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
OTHER_SUFFIXES = (".gif", ".webp", ".heic", ".heif", ".avif", ".jp2", ".tga", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MOST_PIXELS = 100_000_000
LUMA = np.array([[0.299], [0.587], [0.114]])  # what Pillow makes grey of colours with
ROUNDING = 0.5129  # 0.5 would decide by the last digit what is just between two levels
SHORTEST_SHOWN, LONGEST_SHOWN = 256, 1024  # sides of an image in pictures for people
GREY, DEEP_GREY, COLOURED = ("1", "L", "LA"), ("I;16", "I;16B", "I;16L"), ("P", "PA", "RGB", "RGBA")
MODES = (*GREY, *DEEP_GREY, *COLOURED)

Aspect = Literal["stretch", "pad", "crop"]


class BadImage(ToolboxError):
    """A file that cannot be used; the message names it and says why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


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


def read_image(path: Path, size: int, channels: int, aspect: Aspect = "stretch") -> np.ndarray:
    """The pixels of an image file, (size, size, channels), in [0, 1], float32.

    Turned as its EXIF orientation says, resized with antialiasing. What is transparent becomes white. 16 bits of grey
    are kept; Pillow reduces 16 bits of colour to 8.

    Args:
        path: a PNG, JPEG, BMP or TIFF file.
        size: side of the result, in pixels.
        channels: 1 for grey, 3 for RGB.
        aspect: an image that is no square is stretched, padded with black, or cut to its middle.

    Raises:
        BadImage: names the file and the reason.
    """
    return squared(decode(path, channels), size, channels, aspect)


def decode(path: Path, channels: int) -> Image.Image:
    """The whole image of a file, turned as its EXIF orientation says: grey of 8 bits (L) or 16 (F), or RGB.

    Raises BadImage.
    """
    with _opened(path) as image, _damage_is_told(path):
        return _plain(ImageOps.exif_transpose(image), channels)


def squared(image: Image.Image, size: int, channels: int, aspect: Aspect) -> np.ndarray:
    """What `read_image` gives, of an image that is decoded."""
    pixels = _square(image, size, aspect) / np.float32(65535 if image.mode == "F" else 255)
    return np.repeat(pixels, channels, axis=-1) if pixels.shape[-1] < channels else pixels


def image_of_array(pixels: np.ndarray, size: int, channels: int, aspect: Aspect = "stretch") -> np.ndarray:
    """What `read_image` gives, for an image that is in memory.

    Args:
        pixels: (height, width), (height, width, 1) or (height, width, 3); whole numbers of 8 or 16 bits, or floats in
            [0, 1].
        size, channels, aspect: as for `read_image`.

    Raises:
        ValueError: says what was received and what would be right.
    """
    white = {"uint8": 255, "uint16": 65535}.get(pixels.dtype.name, 1)
    if pixels.ndim == 2:
        pixels = pixels[..., np.newaxis]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
        raise ValueError(f"expected images of shape (height, width, 1 or 3), received {pixels.shape}")
    if white == 1 and not (pixels.dtype.kind == "f" and pixels.min() >= 0 and pixels.max() <= 1):
        raise ValueError(
            f"expected whole numbers of 8 or 16 bits, or floats in [0, 1], received {pixels.dtype} from "
            f"{pixels.min()} to {pixels.max()}"
        )
    if pixels.dtype == np.uint8:
        image = _plain(Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels), channels)
        planes = _square(image, size, aspect)
    else:
        grey = pixels @ LUMA if pixels.shape[-1] > channels else pixels
        planes = [
            _square(Image.fromarray(plane.astype(np.float32)), size, aspect) for plane in np.moveaxis(grey, -1, 0)
        ]
        planes = np.concatenate(planes, axis=-1)
    return np.repeat(planes / white, channels, axis=-1) if planes.shape[-1] < channels else planes / np.float32(white)


def read_mask(path: Path, size: int, aspect: Aspect = "stretch", shape: tuple[int, int] | None = None) -> np.ndarray:
    """Where a mask marks a defect, (size, size), bool: pixels of which at least half is not black.

    Args:
        path: a file as for `read_image`.
        size, aspect: as for `read_image`.
        shape: (width, height) of the image that it belongs to, if that is to be checked.

    Raises:
        BadImage: names the file and the reason; so does a mask that marks nothing.
    """
    with _opened(path) as image, _damage_is_told(path):
        marked = ImageOps.exif_transpose(image).convert("L").point(lambda value: 255 if value else 0)
    if shape is not None and marked.size != shape:
        raise BadImage(path, "has {} x {} pixels, its image {} x {}".format(*marked.size, *shape))
    if marked.getbbox() is None:
        raise BadImage(path, "is a mask that marks nothing")
    return _square(marked, size, aspect)[..., 0] >= 128


def read_original(path: Path) -> np.ndarray:
    """An image file as people look at it: (height, width, 3), in [0, 1], float32, in its own shape.

    Turned as its EXIF orientation says. What is smaller than 256 pixels is enlarged by a whole number, what is larger
    than 1,024 reduced. Raises BadImage.
    """
    image = decode(path, channels=3)
    image.thumbnail((LONGEST_SHOWN, LONGEST_SHOWN), Image.Resampling.BILINEAR)
    times = max(1, SHORTEST_SHOWN // max(image.size))
    return np.broadcast_to(_pixels(image), (image.height, image.width, 3)).repeat(times, axis=0).repeat(times, axis=1)


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


def image_files(folder: Path, bad: list[BadImage]) -> Iterator[Path]:
    """Every file below `folder` that is named like an image, in a fixed order; hidden ones are left out.

    Links are followed, but none into a folder that it lies in. Such loops, unreadable folders and images of other kinds
    are added to `bad`.
    """
    yield from _walk(folder, (folder.resolve(),), bad)


def _walk(folder: Path, above: tuple[Path, ...], bad: list[BadImage]) -> Iterator[Path]:
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as problem:
        bad.append(BadImage(folder, problem.strerror))
        return
    for path in entries:
        if not os.path.isdir(path):  # nor is a link that leads to itself; reading it as an image will tell
            if path.suffix.lower() in SUFFIXES:
                yield path
            elif path.suffix.lower() in OTHER_SUFFIXES:
                bad.append(BadImage(path, "is not read; expected PNG, JPEG, BMP or TIFF"))
        elif (real := path.resolve()) in above:
            bad.append(BadImage(path, f"is a link to {real}, in which it lies itself"))
        else:
            yield from _walk(path, (*above, real), bad)


def _opened(path: Path) -> Image.Image:
    """The image behind its header, whose pixels are not decoded yet."""
    try:
        if path.stat().st_size == 0:
            raise BadImage(path, "is empty")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MOST_PIXELS decides, below
            image = Image.open(path, formats=FORMATS)
    except UnidentifiedImageError as problem:
        raise BadImage(path, "is not a PNG, JPEG, BMP or TIFF image, or its beginning is damaged") from problem
    except Image.DecompressionBombError as problem:
        raise BadImage(path, f"has more than {MOST_PIXELS:,} pixels") from problem
    except OSError as problem:
        raise BadImage(path, problem.strerror or _first_line(problem)) from problem
    except (ValueError, SyntaxError, IndexError, OverflowError) as problem:
        raise BadImage(path, f"is damaged ({_first_line(problem)})") from problem
    width, height = image.size
    # MPO is what some telephones write and call JPEG: a photograph and smaller versions of it.
    if width * height > MOST_PIXELS:
        reason = f"has {width:,} x {height:,} pixels, more than {MOST_PIXELS:,}"
    elif image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        reason = f"is animated or has several pages ({image.n_frames}); expected a single image"
    elif image.mode not in MODES:
        reason = f"has {image.mode} pixels; expected grey, RGB or RGBA of 8 or 16 bits"
    else:
        return image
    image.close()
    raise BadImage(path, reason)


def _plain(image: Image.Image, channels: int) -> Image.Image:
    """Grey of 8 bits (L) or of 16 (F, which can be resized), or RGB."""
    if image.mode in DEEP_GREY:
        return Image.fromarray(np.asarray(image).astype(np.float32))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def _pixels(image: Image.Image) -> np.ndarray:
    """(height, width, 1 or 3), float32, as shares of white."""
    white = 65535 if image.mode == "F" else 255
    return np.asarray(image, np.float32).reshape(image.height, image.width, -1) / white


def _square(image: Image.Image, size: int, aspect: Aspect) -> np.ndarray:
    """(size, size, channels), float32; of 8 bits, whole numbers.

    Rows first, then columns, in floats, and rounded once: what an export can do, too. Pillow by itself would choose the
    order by the shape and round whole numbers twice. Halves are frequent, and no place to round at where the last digit
    may differ.
    """
    box, (left, top, width, height) = _geometry(*image.size, size, aspect)
    resizing = Image.Resampling.BILINEAR  # which Pillow widens when it makes an image smaller
    square = np.zeros((size, size, len(image.getbands())), np.float32)
    for channel, band in enumerate(image.split()):
        band = band.convert("F").resize((width, image.height), resizing, (box[0], 0, box[2], image.height))
        band = band.resize((width, height), resizing, (0, box[1], width, box[3]))
        square[top : top + height, left : left + width, channel] = band
    return square if image.mode == "F" else np.floor(square + ROUNDING)


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
def _damage_is_told(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, SyntaxError, IndexError, MemoryError) as problem:
        raise BadImage(path, f"is damaged or truncated ({_first_line(problem)})") from problem


def _first_line(problem: BaseException) -> str:
    return str(problem).strip().partition("\n")[0] or type(problem).__name__
