"""Which files a job scores: those on disks and those in object stores. No TensorFlow here."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from anomaly_toolbox.datasets.walk import (
    RUN_FILE,
    BadImage,
    find_images,
    is_image,
    is_leftover,
    kind_of_file,
    no_images,
    why_unsupported,
)
from anomaly_toolbox.errors import InputError
from anomaly_toolbox.inference.file_list import Entry
from anomaly_toolbox.objects import ObjectPath


def list_files(paths: Sequence[Path | ObjectPath], unused: Counter[str]) -> Iterator[Entry]:
    """Yields every file to score, those on disks first.

    Args:
        paths: files, which are yielded whatever their name, and folders, which are searched with their subfolders.
        unused: counts the files that are no images, by their kind.

    Raises:
        InputError: there is no such file or folder, or there is no image at all.
        Unreachable: an object store does not answer.
    """
    local = [path for path in paths if isinstance(path, Path)]
    if local:
        yield from _local_files(local, unused)
    for path in paths:
        if isinstance(path, ObjectPath):
            yield from _objects(path, unused)


def _local_files(paths: Sequence[Path], unused: Counter[str]) -> Iterator[Entry]:
    """Every file in its order; those that cannot be used come after the file before them."""
    bad: list[BadImage] = []

    def unusable() -> Iterator[Entry]:
        for problem in bad:
            yield Entry(str(problem.path), problem.reason)
        bad.clear()

    for file in find_images(paths, bad, unused):
        yield from unusable()
        yield Entry(str(file))
    yield from unusable()


def _objects(root: ObjectPath, unused: Counter[str]) -> Iterator[Entry]:
    """An object, or the objects in a folder by the rules for folders on disks."""
    if root.is_object():
        yield Entry(str(root))
        return
    names = root.objects_below()
    if not names:
        raise InputError(f"{root}: there is no such object, and no folder with objects")
    run_folders = {PurePosixPath(name).parent for name in names if PurePosixPath(name).name == RUN_FILE}
    if run_folders:
        unused["run folders"] += len(run_folders)
    has_images = False
    for name in names:
        path = PurePosixPath(name)
        if not run_folders.isdisjoint(path.parents) or any(map(is_leftover, path.parts)):
            continue
        # pyarrow cannot read such an object; Path would leave the slash out
        problem = "has two slashes in a row in its name" if "" in name.split("/") else why_unsupported(path)
        if is_image(path) or problem:
            has_images = True
            yield Entry(str(root / name), problem)
        else:
            unused[kind_of_file(path)] += 1
    if not has_images:
        raise no_images(root, unused)
