"""What a service accepts at most, so that no request can take all of its memory or time."""

from dataclasses import dataclass

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Attributes:
        image_bytes: of one image file.
        pixels: of one image.
        images: in one request.
        images_with_heatmaps: in one request that asks for heatmaps, because its answer is much larger.
        request_bytes: of the body of one request.
        bytes_under_way: of the bodies of all requests that are not answered yet.
        waiting: images that wait to be scored.
        seconds: until a request is answered.
    """

    image_bytes: int = 32 * MEBIBYTE
    pixels: int = 50_000_000
    images: int = 256
    images_with_heatmaps: int = 64
    request_bytes: int = 64 * MEBIBYTE
    bytes_under_way: int = 512 * MEBIBYTE
    waiting: int = 1024
    seconds: float = 60.0
