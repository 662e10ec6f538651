"""From an image file to its decoded pixels; every problem with a file becomes a BadImage. No TensorFlow here."""

import contextlib
import io
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anomaly_toolbox.datasets.masks import marked_pixels
from anomaly_toolbox.datasets.walk import BadImage
from anomaly_toolbox.errors import first_line

FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
MOST_PIXELS = 100_000_000
GREY, DEEP_GREY, COLOURED = ("1", "L", "LA"), ("I;16", "I;16B", "I;16L"), ("P", "PA", "RGB", "RGBA")
MODES = (*GREY, *DEEP_GREY, *COLOURED)
WHITE, DEEP_WHITE = 255, 65535  # the highest levels of 8 and of 16 bits
PHOTOMETRIC_TAG, WHITE_IS_ZERO = 262, 0  # a TIFF tag and its value in negatives
MOST_READS = 50_000  # of pieces of a file in memory; ordinary files of 32 MiB take some ten thousand
IN_MEMORY = Path("an image in memory")  # for messages

ImageFile = Path | bytes  # the path or the content of a PNG, JPEG, BMP or TIFF file


class Header(NamedTuple):
    """What is known about an image before it is decoded.

    Attributes:
        width, height: in pixels.
        is_grey: whether it has one channel, apart from transparency.
        is_deep: whether it is grey with 16 bits a pixel.
    """

    width: int
    height: int
    is_grey: bool
    is_deep: bool


def read_header(file: ImageFile, most_pixels: int = MOST_PIXELS) -> Header:
    """Reads the header of an image file; raises BadImage, also if the image has too many pixels."""
    with _open(file, most_pixels) as image:
        return Header(*image.size, image.mode in (*GREY, *DEEP_GREY), image.mode in DEEP_GREY)


def decode(file: ImageFile, channels: int, white_level: int | None = None) -> Image.Image:
    """Decodes an image file.

    Args:
        file: its path or its content.
        channels: 1 for grey, 3 for RGB; grey images of 16 bits stay grey.
        white_level: see `Reading`.

    Returns:
        A Pillow image of mode L (8 bits), F (16 bits, as floats from 0 to 65535) or RGB. It is turned upright by its
        EXIF orientation, and transparent pixels are white.

    Raises:
        BadImage: the file cannot be used.
    """
    with _open(file) as image, _reraise_as_bad_image(file, "is damaged or truncated"):
        upright = ImageOps.exif_transpose(image)
        return to_grey_or_rgb(upright, channels, white_level, _is_negative(image))


def decode_marks(path: Path) -> np.ndarray:
    """Decodes a mask file -> (height, width), bool, True at pixels that mark a defect; raises BadImage."""
    with _open(path) as image, _reraise_as_bad_image(path, "is damaged or truncated"):
        upright = ImageOps.exif_transpose(image)
        if _is_negative(image) and image.mode in DEEP_GREY:
            upright = Image.fromarray(DEEP_WHITE - np.asarray(upright))
        return marked_pixels(upright, is_lossy=image.format in ("JPEG", "MPO"))


def to_grey_or_rgb(
    image: Image.Image, channels: int, white_level: int | None = None, is_negative: bool = False
) -> Image.Image:
    """Converts an image of any supported mode to L, F or RGB, see `decode`.

    Args:
        image: one of the modes in MODES.
        channels, white_level: see `decode`.
        is_negative: whether 0 is white in an image of 16 bits; Pillow inverts negatives of 8 bits itself.
    """
    if image.mode in DEEP_GREY:
        levels = np.asarray(image)
        pixels = scale_16_bits(levels, white_level, is_negative)
        if "transparency" in image.info:
            pixels[levels == image.info["transparency"]] = DEEP_WHITE
        return Image.fromarray(pixels)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("L" if channels == 1 else "RGB")


def scale_16_bits(levels: np.ndarray, white_level: int | None, is_negative: bool = False) -> np.ndarray:
    """Scales levels of 16 bits so that the white level becomes 65535 -> float32, the same shape."""
    white = white_level or DEEP_WHITE
    values = np.minimum(levels, white).astype(np.float32)
    if is_negative:
        values = white - values
    return values * np.float32(DEEP_WHITE / white)


def white_of(image: Image.Image) -> int:
    """The value of white in an image that `decode` returned."""
    return DEEP_WHITE if image.mode == "F" else WHITE


def _open(file: ImageFile, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Opens an image file and reads its header, but does not decode its pixels; raises BadImage."""
    path = file if isinstance(file, Path) else IN_MEMORY
    with _reraise_as_bad_image(file, "is damaged"):
        if _size_of(file) == 0:
            raise BadImage(path, "is empty")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the pixels are counted below
                image = Image.open(file if isinstance(file, Path) else _LimitedFile(file), formats=FORMATS)
        except UnidentifiedImageError as problem:
            raise BadImage(path, "is not a PNG, JPEG, BMP or TIFF image, or its beginning is damaged") from problem
        except Image.DecompressionBombError as problem:
            raise BadImage(path, f"has more than {most_pixels:,} pixels") from problem
        has_several = _has_several_pictures(image)
    width, height = image.size
    if width * height > most_pixels:
        reason = f"has {width:,} x {height:,} pixels, more than {most_pixels:,}"
    elif has_several:
        reason = "is animated or has several pages; expected a single image"
    elif image.mode not in MODES:
        reason = f"has {image.mode} pixels; expected grey, RGB or RGBA of 8 or 16 bits"
    else:
        return image
    image.close()
    raise BadImage(path, reason)


def _size_of(file: ImageFile) -> int:
    """The number of bytes in a file; raises BadImage if it is no regular file."""
    if isinstance(file, bytes):
        return len(file)
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise BadImage(file, "is no regular file")
    return status.st_size


def _has_several_pictures(image: Image.Image) -> bool:
    """Whether an image is animated or has several pages."""
    if image.format == "MPO":  # some telephones call it JPEG; it holds a photograph and smaller versions of it
        return False
    if image.format != "TIFF":
        return getattr(image, "n_frames", 1) > 1
    try:  # not `n_frames`: to count thousands of pages takes minutes
        image.seek(1)
    except EOFError:
        return False
    return True


class _LimitedFile(io.BytesIO):
    """The content of a file that can only be read in so many pieces: some files are made to be read for minutes."""

    def __init__(self, content: bytes):
        super().__init__(content)
        self._n_reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """See `io.BytesIO`; raises OSError after many pieces."""
        self._n_reads += 1
        if self._n_reads > MOST_READS:
            raise OSError("too many pieces")
        return super().read(size)


def _is_negative(image: Image.Image) -> bool:
    """Whether 0 is white, as in some TIFF files."""
    tags = getattr(image, "tag_v2", {})
    return bool(tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO)


@contextlib.contextmanager
def _reraise_as_bad_image(file: ImageFile, damage: str) -> Iterator[None]:
    """Turns every error into a BadImage: a damaged file makes Pillow raise errors of any kind.

    Args:
        file: the file that is read.
        damage: what an error without a message of the operating system means.
    """
    path = file if isinstance(file, Path) else IN_MEMORY
    try:
        yield
    except BadImage:
        raise
    except OSError as problem:
        raise BadImage(path, problem.strerror or f"{damage} ({first_line(problem)})") from problem
    except Exception as problem:
        raise BadImage(path, f"{damage} ({first_line(problem)})") from problem
