"""Writes folders of real textures with drawn defects, and masks that mark the defects.

    python -m benchmarks.textures textures

writes `textures/brick`, `textures/grass` and `textures/gravel` from the photographs that scikit-image ships: pieces of
64x64 pixels in the layout of `train` and `test`. Training pieces come from the left two thirds of a photograph, test
pieces from the rest. A quarter of the anomalous pieces has a scratch, a quarter a hole, a quarter a stain, and a
quarter a blurred spot.
"""

from pathlib import Path

import click
import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFilter

TEXTURES = {"brick": skimage.data.brick, "grass": skimage.data.grass, "gravel": skimage.data.gravel}
DEFECTS = ("scratch", "hole", "stain", "blur")


def add_defect(piece: np.ndarray, kind: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws a random defect.

    Args:
        piece: (size, size), uint8.
        kind: one of `DEFECTS`.
        generator: chooses position, size and direction of the defect.

    Returns:
        The piece with the defect, (size, size), uint8, and the mask of the defect, (size, size), bool.
    """
    size = len(piece)
    shape = Image.new("1", (size, size))
    draw = ImageDraw.Draw(shape)
    middle = generator.uniform(0.25, 0.75, 2) * size
    if kind == "scratch":
        angle = generator.uniform(0, np.pi)
        half_length = generator.uniform(0.2, 0.4) * size
        offset = half_length * np.array([np.cos(angle), np.sin(angle)])
        draw.line([*(middle - offset), *(middle + offset)], fill=1, width=max(1, size // 32))
    else:
        radii = generator.uniform(0.08, 0.15, 2) * size
        draw.ellipse([*(middle - radii), *(middle + radii)], fill=1)
    mask = np.array(shape)
    filling = {
        "scratch": np.full_like(piece, 240),
        "hole": np.full_like(piece, 15),
        "stain": (piece * 0.5 + 90).astype(np.uint8),
        "blur": np.array(Image.fromarray(piece).filter(ImageFilter.GaussianBlur(size / 16))),
    }[kind]
    return np.where(mask, filling, piece), mask


def save(path: Path, pixels: np.ndarray) -> None:
    """Writes an image, and creates its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_texture(folder: Path, photograph: np.ndarray, size: int, n_train: int, n_test: int) -> None:
    """Writes random pieces of a photograph, (height, width), uint8.

    Args:
        folder: where the images go.
        photograph: the texture.
        size: height and width of the pieces.
        n_train: the number of training pieces.
        n_test: the number of normal test pieces, and of anomalous ones.
    """
    generator = np.random.default_rng(0)
    height, width = photograph.shape
    border = 2 * width // 3

    def draw_piece(left: int, right: int) -> np.ndarray:
        y = generator.integers(0, height - size)
        x = generator.integers(left, right - size)
        return photograph[y : y + size, x : x + size]

    for number in range(n_train):
        save(folder / "train" / "good" / f"{number:04}.png", draw_piece(0, border))
    for number in range(n_test):
        save(folder / "test" / "good" / f"{number:03}.png", draw_piece(border, width))
        kind = DEFECTS[number % len(DEFECTS)]
        anomalous, mask = add_defect(draw_piece(border, width), kind, generator)
        save(folder / "test" / kind / f"{number:03}.png", anomalous)
        save(folder / "ground_truth" / kind / f"{number:03}_mask.png", mask)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", default=64, show_default=True, help="Side length of the pieces, in pixels.")
def main(folder: Path, size: int) -> None:
    """Write a folder of images for each texture."""
    for name, photograph in TEXTURES.items():
        write_texture(folder / name, photograph(), size, n_train=900, n_test=120)
        click.echo(folder / name)


if __name__ == "__main__":
    main()
