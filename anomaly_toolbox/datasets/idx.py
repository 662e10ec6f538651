"""The IDX format of MNIST and its descendants: a magic number, the dimensions, then bytes; plain or gzipped.

The magic number has four bytes: 0, 0, the type (8 for unsigned bytes), and the number of dimensions. Each dimension is
a big-endian uint32.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from anomaly_toolbox.errors import ToolboxError

UNSIGNED_BYTE = 8
GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Reads the array in an IDX file.

    Args:
        path: a plain or gzipped file, which is recognised by its content and not by its name.
        dimensions: the expected number of dimensions, 3 for images and 1 for labels.

    Returns:
        An array with that many dimensions, uint8.

    Raises:
        ToolboxError: the file is empty, truncated, too long or otherwise damaged, or it holds something else.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    if content.startswith(GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
            raise ToolboxError(f"{path} is damaged: not a complete gzip file ({problem})") from None
    if not content:
        raise ToolboxError(f"{path} is empty; expected an IDX file")
    magic = bytes([0, 0, UNSIGNED_BYTE, dimensions])
    if content[:4] != magic:
        raise ToolboxError(
            f"{path} is not an IDX file of bytes in {dimensions} dimension(s): "
            f"expected it to begin with {magic.hex(' ')}, received {content[:4].hex(' ')}"
        )
    header_size = 4 + 4 * dimensions
    if len(content) < header_size:
        raise ToolboxError(f"{path} is truncated: it ends within its header")
    shape = struct.unpack(f">{dimensions}I", content[4:header_size])
    if len(content) - header_size != math.prod(shape):
        raise ToolboxError(
            f"{path} is damaged: its header announces {math.prod(shape)} bytes ({' x '.join(map(str, shape))}), "
            f"received {len(content) - header_size}"
        )
    return np.frombuffer(content, np.uint8, offset=header_size).reshape(shape)
