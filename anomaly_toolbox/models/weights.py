"""Weights files of earlier versions."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import h5py

#: Keras names a group in a weights file after the class of its layer; these classes were renamed.
RENAMED_GROUPS = {"layers/surroundings": "layers/local_feature_distance"}


@contextlib.contextmanager
def readable_weights(path: Path) -> Iterator[Path]:
    """The weights file itself, or a temporary copy in which the groups of earlier versions have today's names.

    Raises:
        OSError: the file is missing or damaged.
    """
    with h5py.File(path, "r") as file:
        old_names = [name for name in RENAMED_GROUPS if name in file]
    if not old_names:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        with h5py.File(copy, "r+") as file:
            for name in old_names:
                file.move(name, RENAMED_GROUPS[name])
        yield copy
