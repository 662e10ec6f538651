"""Folders of real textures with defects that are drawn into them, and masks that say where.

    python -m benchmarks.textures textures

makes `textures/brick`, `textures/grass` and `textures/gravel` from the photographs that scikit-image ships: pieces of
64x64 pixels in the layout of `train` and `test`. Training pieces come from the left two thirds of a photograph, test
pieces from the rest. A quarter of the anomalous ones has a scratch, a quarter a hole, a quarter a stain, and a quarter
a spot out of focus.
"""

from pathlib import Path

import click
import numpy as np
import skimage.data
from PIL import Image, ImageDraw, ImageFilter

TEXTURES = {"brick": skimage.data.brick, "grass": skimage.data.grass, "gravel": skimage.data.gravel}
DEFECTS = ("scratch", "hole", "stain", "blur")


def defect(piece: np.ndarray, kind: str, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The piece, (size, size), uint8, with a defect, and the mask of it, (size, size), bool."""
    size = len(piece)
    drawn = Image.new("1", (size, size))
    draw = ImageDraw.Draw(drawn)
    middle = generator.uniform(0.25, 0.75, 2) * size
    if kind == "scratch":
        angle, reach = generator.uniform(0, np.pi), generator.uniform(0.2, 0.4) * size
        along = reach * np.array([np.cos(angle), np.sin(angle)])
        draw.line([*(middle - along), *(middle + along)], fill=1, width=max(1, size // 32))
    else:
        reach = generator.uniform(0.08, 0.15, 2) * size
        draw.ellipse([*(middle - reach), *(middle + reach)], fill=1)
    mask = np.array(drawn)
    spoilt = {
        "scratch": np.full_like(piece, 240),
        "hole": np.full_like(piece, 15),
        "stain": (piece * 0.5 + 90).astype(np.uint8),
        "blur": np.array(Image.fromarray(piece).filter(ImageFilter.GaussianBlur(size / 16))),
    }[kind]
    return np.where(mask, spoilt, piece), mask


def save(path: Path, pixels: np.ndarray) -> None:
    """Writes an image, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_texture(folder: Path, photograph: np.ndarray, size: int, n_train: int, n_test: int) -> None:
    """Pieces of a photograph: `n_train` to learn from, and `n_test` of each kind, normal and anomalous, to test on."""
    generator = np.random.default_rng(0)
    height, width = photograph.shape
    border = 2 * width // 3

    def piece(left: int, right: int) -> np.ndarray:
        top, first = generator.integers(0, height - size), generator.integers(left, right - size)
        return photograph[top : top + size, first : first + size]

    for number in range(n_train):
        save(folder / "train" / "good" / f"{number:04}.png", piece(0, border))
    for number in range(n_test):
        save(folder / "test" / "good" / f"{number:03}.png", piece(border, width))
        kind = DEFECTS[number % len(DEFECTS)]
        spoilt, mask = defect(piece(border, width), kind, generator)
        save(folder / "test" / kind / f"{number:03}.png", spoilt)
        save(folder / "ground_truth" / kind / f"{number:03}_mask.png", mask)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--size", default=64, show_default=True, help="Side of the pieces, in pixels.")
def main(folder: Path, size: int) -> None:
    """Makes a folder of images for each texture."""
    for name, photograph in TEXTURES.items():
        write_texture(folder / name, photograph(), size, n_train=900, n_test=120)
        click.echo(folder / name)


if __name__ == "__main__":
    main()
