"""Which files of a folder are images, and which are something else. No TensorFlow here."""

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from anomaly_toolbox.errors import ToolboxError

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff")
OTHER_SUFFIXES = (".gif", ".webp", ".heic", ".heif", ".avif", ".jp2", ".jxl", ".tga", ".ppm", ".pgm", ".dng")
#: The end of the name of a picture that `predict --heatmaps` writes: no new image, wherever it lies.
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
SIGN_OF_A_RUN = "hparams.json"  # its pictures are the toolbox's own


class BadImage(ToolboxError):
    """A file that cannot be used; the message names it and says why."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


def is_leftover(name: str) -> bool:
    """Whether a file or folder of that name was left by a program and nobody's image or defect."""
    return name.startswith((".", "~")) or name.lower() in LEFTOVERS


def is_image(path: Path) -> bool:
    """Whether a file is named like an image that is read."""
    return path.suffix.lower() in SUFFIXES and not path.name.lower().endswith(HEATMAP_ENDING)


def kind_of_file(path: Path) -> str:
    """What a file that is no image is counted as."""
    if path.name.lower().endswith(HEATMAP_ENDING):
        return "heatmaps"
    return f"{path.suffix.lower()} files" if path.suffix else "files without a suffix"


def image_files(folder: Path, bad: list[BadImage], unused: Counter[str] | None = None) -> Iterator[Path]:
    """Every file below `folder` that is named like an image, in a fixed order, without leftovers and heatmaps.

    Args:
        folder: where to look, however deep. Links are followed, but none into a folder that it lies in.
        bad: such loops, unreadable folders and images of other kinds are added here.
        unused: counts the files that are passed over, by their kind, such as `.txt files`.
    """
    yield from _walk(folder, (folder.resolve(),), bad, Counter() if unused is None else unused)


def describe_unused(unused: Counter[str]) -> str:
    """Such as `.txt files (2), heatmaps (1)`."""
    return ", ".join(f"{kind} ({count:,})" for kind, count in sorted(unused.items()))


def _walk(folder: Path, above: tuple[Path, ...], bad: list[BadImage], unused: Counter[str]) -> Iterator[Path]:
    try:
        entries = sorted(path for path in folder.iterdir() if not is_leftover(path.name))
    except OSError as problem:
        bad.append(BadImage(folder, problem.strerror))
        return
    if any(path.name == SIGN_OF_A_RUN for path in entries):
        unused["folders of runs"] += 1
        return
    for path in entries:
        if os.path.isdir(path):
            real = path.resolve()
            if real in above:
                bad.append(BadImage(path, f"is a link to {real}, in which it lies itself"))
            else:
                yield from _walk(path, (*above, real), bad, unused)
        elif is_image(path):  # also a link to itself; reading it reports the error
            yield path
        elif path.suffix.lower() in OTHER_SUFFIXES:
            bad.append(BadImage(path, "is not read; expected PNG, JPEG, BMP or TIFF"))
        else:
            unused[kind_of_file(path)] += 1
