"""What a service accepts at most, so that no request can take all of its memory or time."""

from dataclasses import dataclass

MEBIBYTE = 2**20
MILLION = 1_000_000


@dataclass(frozen=True)
class Limits:
    """The limits of a service.

    Some of them count the pixels that are decoded. An image with a heatmap is decoded twice, so its pixels count twice.

    Attributes:
        image_bytes: of one image file.
        pixels: of one image.
        scans: of one progressive JPEG file, each of which passes over the whole image.
        images: in one request.
        images_with_heatmaps: in one request that asks for heatmaps, because its answer is much larger.
        request_pixels: that are decoded for one request.
        request_bytes: of the body of one request.
        json_marks: brackets, commas and colons in a body that is no form. Many of them would take long to read.
        bytes_under_way: of the bodies of all requests that are not answered yet.
        waiting: images that wait to be scored.
        waiting_pixels: that are decoded for all images that wait.
        batch_pixels: a batch with so many decoded pixels takes no more images. A batch cannot be interrupted.
        seconds_to_arrive: from the first byte of a request to its last one.
        seconds_to_score: from the last byte of a request to its answer.
    """

    image_bytes: int = 32 * MEBIBYTE
    pixels: int = 50 * MILLION
    scans: int = 100
    images: int = 256
    images_with_heatmaps: int = 64
    request_pixels: int = 1000 * MILLION
    request_bytes: int = 64 * MEBIBYTE
    json_marks: int = 10_000
    bytes_under_way: int = 512 * MEBIBYTE
    waiting: int = 1024
    waiting_pixels: int = 2000 * MILLION
    batch_pixels: int = 100 * MILLION
    seconds_to_arrive: float = 60.0
    seconds_to_score: float = 60.0
