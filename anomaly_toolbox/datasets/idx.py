"""The IDX format of MNIST and its descendants: a magic number, dimensions, then bytes; plain or gzipped.

The magic number is 0, 0, type (8 for unsigned bytes), number of dimensions; each dimension is a big-endian uint32.
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from anomaly_toolbox.errors import ToolboxError

UNSIGNED_BYTE = 8


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The uint8 array in an IDX file.

    Args:
        path: a plain or gzipped file; the content decides which, not the name.
        dimensions: what the array must have, 3 for images and 1 for labels.

    Raises:
        ToolboxError: the file cannot be read, is empty, truncated or too long, or holds something else.
    """
    try:
        content = path.read_bytes()
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as problem:
        raise ToolboxError(f"{path} is damaged: not a whole gzip file ({problem})") from None
    magic, header = bytes([0, 0, UNSIGNED_BYTE, dimensions]), 4 + 4 * dimensions
    if not content:
        raise ToolboxError(f"{path} is empty; expected an IDX file")
    if content[:4] != magic:
        raise ToolboxError(
            f"{path} is not an IDX file of bytes in {dimensions} dimension(s): "
            f"expected it to begin with {magic.hex(' ')}, received {content[:4].hex(' ')}"
        )
    if len(content) < header:
        raise ToolboxError(f"{path} is truncated: it ends within its header")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    if len(content) - header != math.prod(shape):
        raise ToolboxError(
            f"{path} is damaged: its header announces {math.prod(shape)} bytes ({' x '.join(map(str, shape))}), "
            f"received {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
