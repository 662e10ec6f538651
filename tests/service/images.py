"""Image files in memory."""

import io

import numpy as np
from PIL import Image


def png(width=24, height=20, seed=0):
    """A PNG file of random grey pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    return file.getvalue()
