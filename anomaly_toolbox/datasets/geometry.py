"""Where the pixels of an image are in the square that it becomes, and back. No TensorFlow here."""

from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

Aspect = Literal["stretch", "pad", "crop"]


class Box(NamedTuple):
    """A rectangle; its edges are in pixels from the upper left corner, and may lie between two pixels."""

    left: float
    top: float
    right: float
    bottom: float

    @property
    def width(self) -> int:
        return int(self.right) - int(self.left)

    @property
    def height(self) -> int:
        return int(self.bottom) - int(self.top)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The rows and columns of the rectangle."""
        return slice(int(self.top), int(self.bottom)), slice(int(self.left), int(self.right))


def geometry(width: int, height: int, size: int, aspect: Aspect) -> tuple[Box, Box]:
    """The part of an image that comes into its square, and the part of the square that it fills."""
    whole_image, whole_square = Box(0, 0, width, height), Box(0, 0, size, size)
    match aspect:
        case "stretch":
            return whole_image, whole_square
        case "pad":
            longer = max(width, height)
            inner_width = max(1, round(width * size / longer))
            inner_height = max(1, round(height * size / longer))
            left, top = round((size - inner_width) / 2), round((size - inner_height) / 2)
            return whole_image, Box(left, top, left + inner_width, top + inner_height)
        case "crop":
            shorter = min(width, height)
            middle_left, middle_top = (width - shorter) / 2, (height - shorter) / 2
            return Box(middle_left, middle_top, middle_left + shorter, middle_top + shorter), whole_square


def unsquare(values: np.ndarray, shape: tuple[int, int], aspect: Aspect) -> np.ndarray:
    """Maps values of the square that an image became back to the image; the inverse of what `Reading` does.

    Args:
        values: (size, size), such as an anomaly map.
        shape: (height, width) of the image.
        aspect: how the image became square.

    Returns:
        (height, width), float32, interpolated linearly; 0 where the image was cropped.
    """
    height, width = shape
    area, square_area = geometry(width, height, len(values), aspect)
    visible = Image.fromarray(values.astype(np.float32)).resize(
        (area.width, area.height),
        Image.Resampling.BILINEAR,
        (square_area.left, square_area.top, square_area.right, square_area.bottom),
    )
    mapped = np.zeros(shape, np.float32)
    mapped[area.slices] = np.asarray(visible)
    return mapped


def visible_pixels(shape: tuple[int, int], size: int, aspect: Aspect) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of an image are in its square, and which pixels of the square are part of the image.

    Args:
        shape: (height, width) of the image.
        size: the side of the square, in pixels.
        aspect: how the image becomes square.

    Returns:
        (height, width), bool: False where the image was cropped; and (size, size), bool: False at padding.
    """
    height, width = shape
    area, square_area = geometry(width, height, size, aspect)
    is_in_square = np.zeros(shape, bool)
    is_in_square[area.slices] = True
    is_image = np.zeros((size, size), bool)
    is_image[square_area.slices] = True
    return is_in_square, is_image
