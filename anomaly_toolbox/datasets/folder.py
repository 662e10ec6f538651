"""A folder with the user's own normal and anomalous images, of any size and number.

`layout.py` describes the folders. Images are decoded and resized once, several at a time, and kept as whole numbers of
8 or 16 bits: in memory if they take less than 1 GiB, otherwise in a temporary file.
"""

import concurrent.futures
import contextlib
import errno
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from PIL import Image

from anomaly_toolbox.datasets import folder_notes
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.decoding import DEEP_WHITE, WHITE, Header, read_header, white_of
from anomaly_toolbox.datasets.duplicates import find_contradictions
from anomaly_toolbox.datasets.folder_classes import class_of, why_no_classes
from anomaly_toolbox.datasets.geometry import Aspect, visible_pixels
from anomaly_toolbox.datasets.images import Reading, read_marks, square_marks
from anomaly_toolbox.datasets.layout import find_items
from anomaly_toolbox.datasets.progress import Progress, show_progress
from anomaly_toolbox.datasets.splits import SPLITS, Item
from anomaly_toolbox.datasets.walk import BadImage, image_files
from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.files import sha256
from anomaly_toolbox.processes import n_threads
from anomaly_toolbox.tf_data import without_autotuning

LARGEST_IN_MEMORY = 2**30  # bytes
MOST_BAD_LISTED = 3


class ImageFolder(AnomalyDetectionDataset):
    """Images in a folder.

    Args:
        root: the folder, see `layout.py`.
        seed: the seed with which splits are drawn, if the folder has none.
        aspect: what happens to images that are not square, see `Reading`.
        on_bad_image: `error`, or `skip` to leave out files that cannot be used, with a line in `notes`.
        all_test_images: use all of `test` for testing, as papers do, and a tenth of the normal training images for
            validation. Without anomalous validation images, the epoch is chosen by the loss.
        white_level: the white level of images of 16 bits, see `Reading`.
        progress: a function that shows progress while files are read, see `Progress`.

    Raises:
        InputError: there is no such folder, or it has another layout.
        ToolboxError: some files cannot be used. Damage that only decoding finds is raised by `configure`.
    """

    aspect: Aspect
    notes: list[str]
    test_folder: Path
    levels: int

    def __init__(
        self,
        root: Path,
        seed: int = 0,
        aspect: Aspect = "stretch",
        on_bad_image: Literal["error", "skip"] = "error",
        all_test_images: bool = False,
        white_level: int | None = None,
        progress: Progress = show_progress,
    ):
        super().__init__()
        self.aspect = aspect
        self.notes = []
        self.test_folder = root
        self.white_level = white_level
        self._skips_bad_images = on_bad_image == "skip"
        self._progress = progress
        self._pixels = np.empty((0, 0, 0, 0))

        self._items, bad = find_items(root, seed, all_test_images, self.notes)
        self._leave_out(bad)
        checked = self._for_each_item("checking", lambda item: (read_header(item.path), self._describe_files(item)))
        headers = [header for header, _ in checked]
        descriptions = "".join(description for _, description in checked)
        self._fingerprint = hashlib.sha256(os.fsencode(descriptions)).hexdigest()[:12]
        self._set_channels_and_levels(headers)
        self.notes += folder_notes.note_sizes(headers)
        self.notes += folder_notes.note_kinds(self._items, root)
        self._list_test_files()

    def fingerprint(self, class_label=None):
        """See `AnomalyDetectionDataset.fingerprint`; a checksum of the names and contents of all files."""
        return self._fingerprint

    def configure(
        self,
        batch_size,
        new_size,
        anomalous_label=None,
        class_label=None,
        shuffle_buffer_size=10_000,
        cache=True,
        drop_remainder=True,
        output_range=(-1.0, 1.0),
    ):
        """See `AnomalyDetectionDataset.configure`; resized images are kept whether or not `cache` is set.

        Raises:
            InputError: a label is given, or `new_size` is not square.
            ToolboxError: a file is damaged, or an image is in two splits or in two kinds, and these are not skipped.
        """
        for name, label in (("anomalous_label", anomalous_label), ("class_label", class_label)):
            if label is not None:
                raise InputError(
                    f"{name}: {label!r} given; the folders in {self.test_folder} determine which images are anomalous"
                )
        height, width = new_size
        if height != width:
            raise InputError(f"new_size: expected a square, received {new_size}")
        if self._pixels.shape[1] != height:
            self._prepare(height)
        pixels = self._pixels
        levels = np.float32(self.levels)
        low, high = output_range

        # In NumPy, as in `Detector`: TensorFlow might replace the division by a product, which is rounded differently.
        def scale(indices):
            return (high - low) * (pixels[indices].astype(np.float32) / levels) + low

        def load(indices, labels):
            images = tf.numpy_function(scale, [indices], tf.float32)
            return tf.ensure_shape(images, (None, *pixels.shape[1:])), labels

        splits = np.array([item.split for item in self._items])
        labels = np.array([1 if item.defect else 0 for item in self._items], np.int32)

        def batches(is_chosen, is_training, labels=labels):
            indices = np.flatnonzero(is_chosen)
            dataset = tf.data.Dataset.from_tensor_slices((indices, labels[indices]))
            if is_training:
                dataset = dataset.shuffle(shuffle_buffer_size, reshuffle_each_iteration=True)
            dataset = dataset.batch(batch_size, drop_remainder=drop_remainder and is_training)
            loaded = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE)
            return without_autotuning(loaded.prefetch(tf.data.AUTOTUNE))

        for split in SPLITS:
            is_in_split = splits == split
            is_training = split == "train"
            self.set_split(
                split,
                normal=batches(is_in_split & (labels == 0), is_training),
                anomalous=batches(is_in_split & (labels == 1), is_training),
                all=batches(is_in_split, is_training),
            )
        self._set_classes((splits == "train") & (labels == 0), batches)

    def _set_classes(self, is_normal: np.ndarray, batches: Callable[..., tf.data.Dataset]) -> None:
        """Sets `train_classes`, or why there are none.

        Args:
            is_normal: which items are normal training images, (n,), bool.
            batches: a function of the items to choose, whether they are for training, and the numbers of all items.
        """
        paths = [self._items[index].path for index in np.flatnonzero(is_normal)]
        self.why_no_classes = why_no_classes(paths, self.test_folder)
        if not self.why_no_classes:
            names, numbers = np.unique([class_of(path, self.test_folder) for path in paths], return_inverse=True)
            classes = np.zeros(len(self._items), np.int32)
            classes[is_normal] = numbers
            self.set_train_classes(batches(is_normal, True, classes), names.tolist())

    def _prepare(self, size: int) -> None:
        """Decodes and resizes all images and masks, and leaves out what cannot be used."""
        n_items = len(self._items)
        dtype = np.dtype(np.uint16 if self.levels == DEEP_WHITE else np.uint8)
        pixels = _allocate((n_items, size, size, self._channels), dtype)
        reading = Reading(size, self._channels, self.aspect, self.levels, self.white_level)
        index_of = {item: index for index, item in enumerate(self._items)}
        shapes: dict[Item, tuple[int, int]] = {}
        masks: dict[Item, np.ndarray] = {}
        bad_masks: dict[Item, BadImage] = {}
        brightest = np.zeros(n_items)
        white_shares = np.zeros(n_items)

        def read(item: Item) -> bytes:
            index = index_of[item]
            image = reading.decode(item.path)
            shapes[item] = (image.height, image.width)
            pixels[index] = np.round(reading.of_decoded(image) * self.levels)
            brightest[index], white_shares[index] = _brightness(image)
            if item.mask is not None:
                try:
                    masks[item] = self._read_mask(item, item.mask, size, image.size)
                except BadImage as bad:
                    bad_masks[item] = bad
            return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()

        pixel_digests = self._for_each_item("reading", read)
        self._leave_out_contradictions(pixel_digests)
        self._leave_out([bad_masks[item] for item in self._items if item in bad_masks])
        if not self._items:
            raise ToolboxError(f"{self.test_folder}: no image is left; {self.notes[-1]}")
        kept_indices = [index_of[item] for item in self._items]
        for new_index, old_index in enumerate(kept_indices):  # closes the gaps of images that were left out
            if new_index < old_index:
                pixels[new_index] = pixels[old_index]
        self._pixels = pixels[: len(kept_indices)]

        white_share = white_shares[kept_indices].mean()
        self._add_notes(
            *folder_notes.note_brightness(brightest[kept_indices].max(), white_share, self.levels, self.white_level),
            *folder_notes.note_masks(self._items, masks, size, self.aspect),
        )
        self._list_test_files()
        self._stack_test_masks(masks, size)
        self._stack_test_padding(shapes, size)

    def _test_items(self) -> list[Item]:
        return [item for item in self._items if item.split == "test"]

    def _list_test_files(self) -> None:
        self.test_files = [item.path.relative_to(self.test_folder).as_posix() for item in self._test_items()]

    def _stack_test_masks(self, masks: Mapping[Item, np.ndarray], size: int) -> None:
        """Sets `test_masks` if there are anomalous test images and all of them have masks; else it is None."""
        items = self._test_items()
        anomalous = [item for item in items if item.defect]
        self.test_masks = None
        if anomalous and all(item in masks for item in anomalous):
            no_marks = np.zeros((size, size), bool)
            self.test_masks = _allocate((len(items), size, size), np.dtype(bool))
            for index, item in enumerate(items):
                self.test_masks[index] = masks.get(item, no_marks)

    def _stack_test_padding(self, shapes: Mapping[Item, tuple[int, int]], size: int) -> None:
        """Sets `test_padding` if images are padded."""
        if self.aspect == "pad":
            items = self._test_items()
            self.test_padding = _allocate((len(items), size, size), np.dtype(bool))
            for index, item in enumerate(items):
                _, is_image = visible_pixels(shapes[item], size, self.aspect)
                self.test_padding[index] = ~is_image

    def _read_mask(self, item: Item, mask: Path, size: int, shape: tuple[int, int]) -> np.ndarray:
        """The mask of an image, (size, size), bool; raises BadImage if it contradicts the kind of the image."""
        marks = read_marks(mask, shape)
        if item.defect and not marks.any():
            raise BadImage(mask, f"marks nothing, but its image {item.path} is anomalous")
        if not item.defect and marks.any():
            raise BadImage(mask, f"marks a defect, but its image {item.path} is normal")
        return square_marks(marks, size, self.aspect)

    def _describe_files(self, item: Item) -> str:
        """The name of an image, and the checksums of its file and its masks; `None` stands for no masks."""
        masks: list[Path] = []
        if item.mask is not None:
            masks = list(image_files(item.mask, [])) if item.mask.is_dir() else [item.mask]
        mask_checksums = []
        for mask in masks:
            with contextlib.suppress(OSError):  # `_read_mask` reports the error later
                if mask.is_file():
                    mask_checksums.append(sha256(mask))
        name = item.path.relative_to(self.test_folder)
        return f"{name} {sha256(item.path)} {' '.join(mask_checksums) or None}"

    def _for_each_item(self, action_name: str, action: Callable[[Item], Any]) -> list[Any]:
        """Calls a function for each image, in several threads, and leaves out the images for which it raises BadImage.

        Args:
            action_name: for the progress bar, such as `reading`.
            action: the function.

        Returns:
            The results of the images that are left.

        Raises:
            ToolboxError: some images cannot be used and are not skipped, or none can be used.
        """

        def attempt(item: Item) -> Any:
            try:
                return action(item)
            except BadImage as bad:
                return bad

        with concurrent.futures.ThreadPoolExecutor(n_threads()) as pool:
            attempts = pool.map(attempt, self._items)
            outcomes = list(self._progress(attempts, f"{action_name} images", len(self._items)))
        self._leave_out([outcome for outcome in outcomes if isinstance(outcome, BadImage)])
        usable, results = [], []
        for item, outcome in zip(self._items, outcomes, strict=True):
            if not isinstance(outcome, BadImage):
                usable.append(item)
                results.append(outcome)
        if not usable:
            raise ToolboxError(f"{self.test_folder}: no image can be used; the first problem: {outcomes[0]}")
        self._items = usable
        return results

    def _leave_out_contradictions(self, pixel_digests: Sequence[bytes]) -> None:
        """Leaves out images that `find_contradictions` returns; raises ToolboxError if bad images are not skipped."""
        bad = find_contradictions(self._items, pixel_digests)
        self._leave_out(list(dict.fromkeys(bad.values())))  # one line for all copies of a contradiction
        self._items = [item for item in self._items if item not in bad]

    def _leave_out(self, bad: Sequence[BadImage]) -> None:
        """Notes the files that are left out; raises ToolboxError if bad images are not skipped."""
        if bad and not self._skips_bad_images:
            more = f" (and at least {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise ToolboxError(
                f"{bad[0]}{more}; repair or remove the file, or leave out such files with --on-bad-image skip"
            )
        self._add_notes(*(f"left out: {problem}" for problem in bad[:MOST_BAD_LISTED]))
        if len(bad) > MOST_BAD_LISTED:
            self._add_notes(f"left out: {len(bad) - MOST_BAD_LISTED} more")

    def _add_notes(self, *lines: str) -> None:
        """Adds new lines to the notes; `configure` may be called several times."""
        for line in lines:
            if line not in self.notes:
                self.notes.append(line)

    def _set_channels_and_levels(self, headers: Sequence[Header]) -> None:
        """Sets the channels and the highest level of the images; raises InputError for a white level without use."""
        self._channels = 1 if all(header.is_grey for header in headers) else 3
        self.levels = DEEP_WHITE if any(header.is_deep for header in headers) else WHITE
        if self.white_level is not None and self.levels == WHITE:
            raise InputError(
                f"--white-level {self.white_level}: {self.test_folder} has no grey images of 16 bits; the white of 8 "
                "bits, and of colours, which are reduced to 8 bits, is always 255"
            )


def _allocate(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An uninitialised array, in memory or, if it is large, on disk; raises OSError if the disk is too full."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes <= LARGEST_IN_MEMORY:
        return np.empty(shape, dtype)
    folder = tempfile.gettempdir()
    if shutil.disk_usage(folder).free < n_bytes:  # otherwise the process would be killed while it writes
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {n_bytes:,} bytes needed", folder)
    file = tempfile.TemporaryFile(prefix="anomaly-toolbox-")  # noqa: SIM115  (it is deleted with the array)
    return np.memmap(file, dtype, "w+", shape=shape)


def _brightness(image: Image.Image) -> tuple[float, float]:
    """The highest value of any channel, as a share of white, and the share of values that are white."""
    values = np.asarray(image)
    white = white_of(image)
    return float(values.max()) / white, float(np.mean(values >= white))
