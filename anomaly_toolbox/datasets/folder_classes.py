"""The normal classes of a folder: the subfolders of its folder of normal training images. No TensorFlow here."""

from collections.abc import Sequence
from pathlib import Path

from anomaly_toolbox.datasets.layout import folder_of_normal


def class_of(image: Path, root: Path) -> str:
    """The name of the subfolder that a normal image is in, the outermost of several; empty if it is in none.

    >>> class_of(Path("parts/train/good/screws/day1/7.png"), Path("parts"))
    'screws'
    """
    _, subfolders = folder_of_normal(image, root)
    return subfolders[0] if subfolders else ""


def why_no_classes(images: Sequence[Path], root: Path) -> str:
    """Why the normal training images have no classes, and what would give them classes; empty if they have.

    Args:
        images: the files of all normal training images, at least one.
        root: the folder of the dataset.
    """
    without_class = [image for image in images if not class_of(image, root)]
    if not without_class:
        return ""
    normal_folder, _ = folder_of_normal(without_class[0], root)
    advice = f"put the images of each class into {normal_folder.as_posix()}/<class>/"
    if len(without_class) == len(images):
        return f"{root / normal_folder} has no subfolders with images; {advice}"
    count = f"{len(without_class):,} of {len(images):,} training images"
    return f"{count} {'is' if len(without_class) == 1 else 'are'} in no subfolder, such as {without_class[0]}; {advice}"
