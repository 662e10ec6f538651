"""Which files of a folder are images. No TensorFlow here."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

from anomaly_toolbox.errors import InputError, ToolboxError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff")
OTHER_SUFFIXES = (".gif", ".webp", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".tga", ".ppm", ".pgm", ".dng")
#: The ending of the pictures that `predict --heatmaps` writes; they are never images of a dataset.
HEATMAP_ENDING = ".heat.png"
#: What file managers, network drives, archives and notebooks leave behind, besides hidden files.
LEFTOVERS = {
    "$recycle.bin",
    "recycler",
    "recycled",
    "system volume information",
    "lost+found",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
    "__macosx",
    "__pycache__",
    "network trash folder",
    "temporary items",
    "thevolumesettingsfolder",
    "@eadir",
    "@recycle",
    "@recently-snapshot",
    "@sharebin",
    "@tmp",
    "#recycle",
    "#snapshot",
    "_vti_cnf",
    "_gsdata_",
    "zbthumbnail.info",
    "picasa.ini",
}
RUN_FILE = "hparams.json"  # a folder with this file is a run folder, and its pictures are the toolbox's own


class BadImage(ToolboxError):
    """A file or folder that cannot be used.

    Attributes:
        path: the file or folder.
        reason: why it cannot be used, such as `is empty`.
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


def is_leftover(name: str) -> bool:
    """Whether a file or folder of this name is hidden or was left behind by a program."""
    return name.startswith((".", "~")) or name.lower() in LEFTOVERS


def list_folder(folder: Path) -> list[Path]:
    """The content of a folder without leftovers, sorted; raises OSError."""
    return sorted(path for path in folder.iterdir() if not is_leftover(path.name))


def is_image(path: PurePath) -> bool:
    """Whether the name of a file is that of an image that can be read."""
    return path.suffix.lower() in SUFFIXES and not path.name.lower().endswith(HEATMAP_ENDING)


def why_unsupported(path: PurePath) -> str | None:
    """Why an image in another format cannot be used; None for images that can be read, and for other files."""
    return "is not supported; expected PNG, JPEG, BMP or TIFF" if path.suffix.lower() in OTHER_SUFFIXES else None


def kind_of_file(path: PurePath) -> str:
    """The kind of a file that is not an image, such as `.txt files`, for `describe_unused`."""
    if path.name.lower().endswith(HEATMAP_ENDING):
        return "heatmaps"
    return f"{path.suffix.lower()} files" if path.suffix else "files without a suffix"


def image_files(folder: Path, bad: list[BadImage], unused: Counter[str] | None = None) -> Iterator[Path]:
    """Yields every image file in a folder and the folders in it, in a fixed order, without leftovers and heatmaps.

    Args:
        folder: where to look. Links are followed, except a link to a folder that the link itself is in.
        bad: such links, unreadable folders and images in other formats are added to this list.
        unused: counts the other files by their kind, such as `.txt files`.
    """
    if unused is None:
        unused = Counter()
    yield from _walk(folder, (folder.resolve(),), bad, unused)


def find_images(paths: Sequence[Path], bad: list[BadImage], unused: Counter[str]) -> Iterator[Path]:
    """Yields the image files among some paths, and those in the folders among them.

    Args:
        paths: files, which are yielded whatever their name, and folders.
        bad, unused: see `image_files`; heatmaps, which a pattern such as *.png may match, are counted in `unused`.

    Raises:
        InputError: there is no such file or folder, or there is no image at all.
    """
    has_images = False
    for path in paths:
        if not os.path.lexists(path):
            raise InputError(f"{path}: there is no such file or folder")
        if path.is_dir():
            for file in image_files(path, bad, unused):
                has_images = True
                yield file
        elif path.name.lower().endswith(HEATMAP_ENDING):
            unused[kind_of_file(path)] += 1
        else:
            has_images = True
            yield path
    if not has_images and not bad:
        raise no_images(paths[0], unused)


def no_images(path: object, unused: Counter[str]) -> InputError:
    """The error for a folder that has no images, only the files that are counted in `unused`."""
    found = f"; found {describe_unused(unused)}" if unused else ""
    return InputError(f"{path}: contains no images; expected PNG, JPEG, BMP or TIFF files{found}")


def describe_unused(unused: Counter[str]) -> str:
    """The kinds of unused files and their counts, such as `.txt files (2), heatmaps (1)`."""
    return ", ".join(f"{kind} ({count:,})" for kind, count in sorted(unused.items()))


def _walk(folder: Path, ancestors: tuple[Path, ...], bad: list[BadImage], unused: Counter[str]) -> Iterator[Path]:
    """Does the work of `image_files`; `ancestors` are the folder and all folders above it, without links."""
    try:
        entries = list_folder(folder)
    except OSError as problem:
        bad.append(BadImage(folder, problem.strerror or str(problem)))
        return
    if any(path.name == RUN_FILE for path in entries):
        unused["run folders"] += 1
        return
    for path in entries:
        if os.path.isdir(path):
            target = path.resolve()
            if target in ancestors:
                bad.append(BadImage(path, f"is a link to {target}, the folder that contains it"))
            else:
                yield from _walk(path, (*ancestors, target), bad, unused)
        elif is_image(path):  # also a link to itself; reading it reports the error
            yield path
        elif reason := why_unsupported(path):
            bad.append(BadImage(path, reason))
        else:
            unused[kind_of_file(path)] += 1
