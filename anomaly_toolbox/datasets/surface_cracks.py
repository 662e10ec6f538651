"""Concrete Crack Images for Classification: 40,000 photographs of concrete, 227x227 pixels, in colour."""

from pathlib import Path
from typing import Literal

from anomaly_toolbox.datasets.archives import data_folder
from anomaly_toolbox.datasets.folder import ImageFolder
from anomaly_toolbox.errors import InputError

FOLDERS = ("Negative", "Positive")
MOST_TOLD = 100  # characters


class SurfaceCracks(ImageFolder):
    """20,000 images without a crack (`Negative`, normal) and 20,000 with one (`Positive`, anomalous).

    Source: Özgenel, Mendeley Data, 10.17632/5y9wdsg2zt. There is no official split: the seed decides it as for a folder
    with `normal` and `anomalous`, see `layout.py`. The images are pieces of 458 photographs, and which belong together
    is not known: pieces of one photograph may be in several splits.

    Args:
        data_dir: the folder that holds the two folders, itself or in a folder within, or an archive of them.
        seed, on_bad_image: see `ImageFolder`.

    Raises:
        InputError: there is no such folder or archive, or the two folders are not in it.
        ToolboxError: some files cannot be used.
    """

    def __init__(self, data_dir: Path | None = None, seed: int = 0, on_bad_image: Literal["error", "skip"] = "error"):
        if data_dir is None:
            raise InputError(
                "SurfaceCracks needs --data-dir: download it at https://data.mendeley.com/datasets/5y9wdsg2zt (CC BY "
                "4.0; the address may change, the DOI 10.17632/5y9wdsg2zt does not), unpack it, and name the folder in "
                "which Negative and Positive are"
            )
        super().__init__(_with_both(data_folder(data_dir)), seed, on_bad_image=on_bad_image)


def _with_both(folder: Path) -> Path:
    entries = sorted(folder.iterdir())
    for candidate in (folder, *entries):
        if all((candidate / name).is_dir() for name in FOLDERS):
            return candidate
    there = ", ".join(path.name for path in entries if not path.name.startswith("."))[:MOST_TOLD] or "nothing"
    raise InputError(
        f"--data-dir {folder}: expected the folders Negative and Positive in it; there is {there} (a .rar has to be "
        f"unpacked first)"
    )
