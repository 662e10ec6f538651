"""Concrete Crack Images for Classification: 40,000 photographs of concrete, 227x227 pixels, in colour."""

from pathlib import Path
from typing import Literal

from anomaly_toolbox.datasets.archives import data_folder
from anomaly_toolbox.datasets.folder import ImageFolder
from anomaly_toolbox.datasets.progress import Progress, show_progress
from anomaly_toolbox.errors import InputError

FOLDERS = ("Negative", "Positive")
LONGEST_LISTING = 100  # characters


class SurfaceCracks(ImageFolder):
    """20,000 images without a crack (`Negative`, normal) and 20,000 with a crack (`Positive`, anomalous).

    Source: Özgenel, Mendeley Data, 10.17632/5y9wdsg2zt. There is no official split: the seed sets it, as for a
    folder with `normal` and `anomalous`, see `layout.py`. The images are pieces of 458 photographs, but it is not
    published which piece belongs to which photograph; so pieces of one photograph may be in several splits.

    Args:
        data_dir: the folder with the two folders, the folder above, or an archive of them.
        seed, on_bad_image, progress: see `ImageFolder`.

    Raises:
        InputError: there is no such folder or archive, or the two folders are not in it.
        ToolboxError: some files cannot be used.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        seed: int = 0,
        on_bad_image: Literal["error", "skip"] = "error",
        progress: Progress = show_progress,
    ):
        if data_dir is None:
            raise InputError(
                "SurfaceCracks needs --data-dir: download it at https://data.mendeley.com/datasets/5y9wdsg2zt (CC BY "
                "4.0; the address may change, the DOI 10.17632/5y9wdsg2zt does not), unpack it, and name the folder "
                "with Negative and Positive"
            )
        root = _find_root(data_folder(data_dir))
        super().__init__(root, seed, on_bad_image=on_bad_image, progress=progress)


def _find_root(folder: Path) -> Path:
    """The folder with `Negative` and `Positive`: this one or one in it; raises InputError if there is none."""
    entries = sorted(folder.iterdir())
    for candidate in (folder, *entries):
        if all((candidate / name).is_dir() for name in FOLDERS):
            return candidate
    names = ", ".join(path.name for path in entries if not path.name.startswith("."))[:LONGEST_LISTING] or "nothing"
    raise InputError(
        f"--data-dir {folder}: expected the folders Negative and Positive in it; there is {names} (a .rar has to be "
        f"unpacked first)"
    )
