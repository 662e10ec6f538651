"""A person's own images: a folder with normal and anomalous ones, of any size and number.

`layout.py` says which is which. Images are decoded and resized once, several at a time, and kept as whole numbers of 8
or 16 bits: in memory if they take less than 1 GiB, else in a file that goes with the process.
"""

import collections
import concurrent.futures
import contextlib
import errno
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf
from PIL import Image
from rich.progress import track

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.images import (
    DEEP_WHITE,
    WHITE,
    Aspect,
    BadImage,
    Header,
    Reading,
    image_files,
    read_header,
    read_marks,
    seen,
    square_marks,
)
from anomaly_toolbox.datasets.layout import NORMAL, SPLITS, Item, find_items
from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.files import sha256

LARGEST_IN_MEMORY = 2**30
MOST_ODD_SIZES = 5  # that are worth a line each
MOST_BAD_TOLD = 3
MOST_KINDS_TOLD = 12
MOST_WHITE = 0.01  # share of pixels that may reach the white level without a word
DARK = 0.5  # share of white below which the brightest pixel of all images is worth a line


class ImageFolder(AnomalyDetectionDataset):
    """Images of a folder.

    Args:
        root: the folder, see `layout.py`.
        seed: decides the splits where the folder has none.
        aspect: what becomes of images that are not square, see `Reading`.
        on_bad_image: `error`, or `skip`: leave out whatever cannot be used, and say so in `notes`.
        all_test_images: keep all of `test` for the test, as papers do; a tenth of the normal training images validates,
            and as no anomalous ones do, epochs are chosen by loss.
        white_level: what is white in images of 16 bits, see `Reading`.

    Raises:
        InputError: there is no such folder, or it has another layout.
        ToolboxError: some files cannot be used; what is only seen when they are decoded, `configure` says.
    """

    def __init__(
        self,
        root: Path,
        seed: int = 0,
        aspect: Aspect = "stretch",
        on_bad_image: Literal["error", "skip"] = "error",
        all_test_images: bool = False,
        white_level: int | None = None,
    ):
        super().__init__()
        self.aspect, self.notes, self.test_folder, self.white_level = aspect, [], root, white_level
        self._skips_bad_images = on_bad_image == "skip"
        self._items, bad = find_items(root, seed, all_test_images, self.notes)
        self._leave_out(bad)
        looked_at = self._of_each("looking at", lambda item: (read_header(item.path), self._digest(item)))
        self._fingerprint = hashlib.sha256(os.fsencode("".join(digest for _, digest in looked_at))).hexdigest()[:12]
        self._describe([header for header, _ in looked_at])
        self._note_defects()
        self._pixels = np.empty((0, 0, 0, 0))
        self._masks: dict[Item, np.ndarray] = {}
        self._shapes: dict[Item, tuple[int, int]] = {}

    def fingerprint(self, class_label=None):
        """See `AnomalyDetectionDataset.fingerprint`; it follows from all files' names and contents."""
        return self._fingerprint

    @property
    def test_files(self) -> list[str]:
        """The test images' files, in the order of `test`, relative to the folder."""
        return [item.path.relative_to(self.test_folder).as_posix() for item in self._items if item.split == "test"]

    @property
    def test_masks(self) -> np.ndarray | None:
        """Where the defects of the test images are, (n, size, size), bool, empty for normal ones.

        None unless there is a mask for each anomalous test image.
        """
        items = [item for item in self._items if item.split == "test"]
        is_marked = [item in self._masks for item in items if item.defect]
        if not is_marked or not all(is_marked):
            return None
        nowhere = np.zeros(self._pixels.shape[1:3], bool)
        return np.stack([self._masks.get(item, nowhere) for item in items])

    @property
    def test_padding(self) -> np.ndarray | None:
        """Where the test images have padding, (n, size, size), bool; None unless `aspect` is `pad`."""
        if self.aspect != "pad":
            return None
        size, items = self._pixels.shape[1], [item for item in self._items if item.split == "test"]
        return np.stack([~seen(self._shapes[item], size, "pad")[1] for item in items])

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
        """See `AnomalyDetectionDataset.configure`; there are no labels to choose, and images are always kept."""
        for name, label in (("anomalous_label", anomalous_label), ("class_label", class_label)):
            if label is not None:
                raise InputError(f"{name}: {label!r} given; the folders of {self.test_folder} say what is anomalous")
        if new_size[0] != new_size[1]:
            raise InputError(f"images become squares, received a size of {new_size}")
        if self._pixels.shape[1] != new_size[0]:
            self._prepare(new_size[0])
        low, high = output_range
        pixels, levels = self._pixels, np.float32(self.levels)

        def prepared(indices):  # by NumPy, as in `Detector`: TensorFlow might replace the division and round otherwise
            return (high - low) * (pixels[indices].astype(np.float32) / levels) + low

        def load(indices, labels):
            chosen = tf.numpy_function(prepared, [indices], tf.float32)
            return tf.ensure_shape(chosen, (None, *pixels.shape[1:])), labels

        splits = np.array([item.split for item in self._items])
        labels = np.array([int(bool(item.defect)) for item in self._items], np.int32)
        for split in SPLITS:
            for suffix, kinds in (("_normal", [0]), ("_anomalous", [1]), ("", [0, 1])):
                indices = np.flatnonzero((splits == split) & np.isin(labels, kinds))
                dataset = tf.data.Dataset.from_tensor_slices((indices, labels[indices]))
                if split == "train":
                    dataset = dataset.shuffle(shuffle_buffer_size, reshuffle_each_iteration=True)
                dataset = dataset.batch(batch_size, drop_remainder=drop_remainder and split == "train")
                dataset = dataset.map(load, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
                setattr(self, f"_{split}{suffix}", dataset)

    def _prepare(self, size: int) -> None:
        """Decodes and resizes every image."""
        shape = (len(self._items), size, size, self._channels)
        pixels = _room_for(shape, np.dtype(np.uint16 if self.levels == DEEP_WHITE else np.uint8))
        reading = Reading(size, self._channels, self.aspect, self.levels, self.white_level)
        place = {item: number for number, item in enumerate(self._items)}
        bad_masks: dict[Item, BadImage] = {}
        brightest, cut = np.zeros(len(place)), np.zeros(len(place))
        self._masks = {}

        def read(item: Item) -> bytes:
            image = reading.decode(item.path)
            self._shapes[item] = image.size[::-1]
            pixels[place[item]] = np.round(reading.of_decoded(image) * self.levels)
            brightest[place[item]], cut[place[item]] = _brightness(image)
            if item.mask:
                try:
                    self._masks[item] = self._read_mask(item, size, image.size)
                except BadImage as bad:
                    bad_masks[item] = bad
            return hashlib.sha256(repr(image.size).encode() + image.tobytes()).digest()

        self._without_leaks(self._of_each("reading", read))
        self._leave_out([bad_masks[item] for item in self._items if item in bad_masks])
        if not self._items:
            raise ToolboxError(f"{self.test_folder}: no image is left; {self.notes[-1]}")
        used = [place[item] for item in self._items]
        self._note_brightness(brightest[used].max(), cut[used].mean())
        for number, item in enumerate(self._items):  # closes the gaps that bad images left
            if number < place[item]:
                pixels[number] = pixels[place[item]]
        self._pixels = pixels[: len(self._items)]
        self._note_masks()

    def _note(self, line: str) -> None:
        if line not in self.notes:
            self.notes.append(line)

    def _read_mask(self, item: Item, size: int, shape: tuple[int, int]) -> np.ndarray:
        """Where the mask of an image marks a defect; BadImage if it does not fit what the image is."""
        marks = read_marks(item.mask, shape)
        if item.defect and not marks.any():
            raise BadImage(item.mask, f"marks nothing, but its image {item.path} is anomalous")
        if not item.defect and marks.any():
            raise BadImage(item.mask, f"marks a defect, but its image {item.path} is normal")
        return square_marks(marks, size, self.aspect)

    def _note_defects(self) -> None:
        """Notes what counts as anomalous, so that a folder that nobody meant is seen."""
        kinds = collections.Counter(item.defect for item in self._items if item.defect)
        if kinds:
            shown = [f"{kind} ({count:,})" for kind, count in kinds.most_common(MOST_KINDS_TOLD)]
            more = f" and {len(kinds) - len(shown)} more" if len(kinds) > len(shown) else ""
            self.notes.append(f"anomalous are the images in {', '.join(shown)}{more}")
        normal = [item.path for item in self._items if not item.defect]
        below = collections.Counter(_folder_below_normal(path, self.test_folder) for path in normal)
        del below[""]
        if below:
            shown = [f"{place} ({count:,})" for place, count in below.most_common(MOST_KINDS_TOLD)]
            self.notes.append(f"normal are also the images in {', '.join(shown)}")

    def _note_brightness(self, brightest: float, cut: float) -> None:
        """Notes that images use a small part of their range, as those of 12 bits in a file of 16 do, or more of it.

        Args:
            brightest: the highest value of all images, as a share of white.
            cut: share of pixels that are white, or brighter.
        """
        white = self.white_level or self.levels
        if self.white_level is not None and cut > MOST_WHITE:
            self._note(f"{cut:.0%} of all pixels are as bright as --white-level {white} or brighter, and became white")
        if brightest >= DARK:
            return
        value = round(brightest * white)
        if self.levels == DEEP_WHITE:
            remedy = f"--white-level {2 ** max(value, 1).bit_length() - 1} makes about that value white"
        else:
            remedy = f"if it should be white, scale the images to values from 0 to {WHITE}"
        self._note(
            f"the brightest pixel of all images has the value {value:,}, where {white:,} is white: pictures will be "
            f"dark and contrasts small; {remedy}"
        )

    def _note_masks(self) -> None:
        """Notes what makes the figures of anomaly maps impossible, or easier than they look."""
        tested = [item for item in self._items if item.split == "test" and item.defect]
        missing = [item for item in tested if item not in self._masks]
        if 0 < len(missing) < len(tested):
            self._note(
                f"{len(missing)} of {len(tested)} anomalous test images have no mask, such as {missing[0].path}: "
                "anomaly maps are not measured"
            )
        full = [item for item in tested if item in self._masks and self._masks[item].mean() > 0.5]
        if 2 * len(full) > len(tested):
            self._note(
                f"{len(full)} of {len(tested)} masks mark more than half of the image, such as {full[0].mask}: are "
                "they inverted? What is not black marks a defect"
            )
        hidden = [item for item in tested if item in self._masks and not self._masks[item].any()]
        if hidden:
            self._note(
                f"{len(hidden)} of {len(tested)} masked defects are not seen at {self._pixels.shape[1]} pixels with "
                f"--aspect {self.aspect}, such as {hidden[0].path}"
            )

    def _digest(self, item: Item) -> str:
        masks = [] if item.mask is None else [item.mask]
        if item.mask is not None and item.mask.is_dir():
            masks = list(image_files(item.mask, []))
        digests = []
        for mask in masks:
            with contextlib.suppress(OSError):  # reading it as a mask reports the error
                digests += [sha256(mask)] if mask.is_file() else []
        return f"{item.path.relative_to(self.test_folder)} {sha256(item.path)} {' '.join(digests) or None}"

    def _of_each(self, what: str, action: Callable[[Item], Any]) -> list[Any]:
        """What `action` gives for each image, several at a time; those that cannot be used are left out."""

        def attempt(item: Item) -> Any:
            try:
                return action(item)
            except BadImage as bad:
                return bad

        console = plain_console(stderr=True)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            results = list(
                track(
                    pool.map(attempt, self._items),
                    f"{what} images",
                    total=len(self._items),
                    console=console,
                    transient=True,
                    disable=not console.is_terminal,
                )
            )
        self._leave_out([result for result in results if isinstance(result, BadImage)])
        usable = [not isinstance(result, BadImage) for result in results]
        if not any(usable):
            raise ToolboxError(f"{self.test_folder}: no image can be used; the first problem: {results[0]}")
        self._items = [item for item, is_usable in zip(self._items, usable, strict=True) if is_usable]
        return [result for result, is_usable in zip(results, usable, strict=True) if is_usable]

    def _leave_out(self, bad: Sequence[BadImage]) -> None:
        """Notes what is left out, or refuses to go on without it."""
        if bad and not self._skips_bad_images:
            more = f" (and at least {len(bad) - 1} more)" if len(bad) > 1 else ""
            raise ToolboxError(f"{bad[0]}{more}; mend or remove it, or leave such files out with --on-bad-image skip")
        for problem in bad[:MOST_BAD_TOLD]:
            self._note(f"left out: {problem}")
        if len(bad) > MOST_BAD_TOLD:
            self._note(f"left out: {len(bad) - MOST_BAD_TOLD} more")

    def _without_leaks(self, digests: Sequence[bytes]) -> None:
        """Leaves out training and validation images that are tested too, or figures would be too good.

        Likewise what is normal in one place and anomalous in another: nobody knows which is right. Decoded pixels are
        compared, so a copy in another format is found.
        """
        copies: dict[bytes, list[Item]] = {}
        for item, digest in zip(self._items, digests, strict=True):
            copies.setdefault(digest, []).append(item)
        bad: dict[Item, BadImage] = {}
        for same in copies.values():
            same.sort(key=lambda item: -SPLITS.index(item.split))  # what is tested stays
            kept = same[0]
            opposite = next((item for item in same if bool(item.defect) != bool(kept.defect)), None)
            if opposite is not None:
                told = f"is the same image as {opposite.path}, once normal and once anomalous"
                bad |= dict.fromkeys(same, BadImage(kept.path, told))
                continue
            for item in same:
                if item.split != kept.split:
                    told = f"is the same image as {kept.path}, in {item.split} and {kept.split}"
                    bad[item] = BadImage(item.path, told)
        self._leave_out(list(dict.fromkeys(bad.values())))
        self._items = [item for item in self._items if item not in bad]

    def _describe(self, headers: Sequence[Header]) -> None:
        """Channels, bits, and sizes that look like a mistake; InputError for a white level that nothing has."""
        self._channels = 1 if all(header.is_grey for header in headers) else 3
        self.levels = DEEP_WHITE if any(header.is_deep for header in headers) else WHITE
        if self.white_level is not None and self.levels == WHITE:
            raise InputError(
                f"--white-level {self.white_level}: {self.test_folder} has no grey images of 16 bits; those of 8 bits, "
                "and colours, which are reduced to 8 bits, are white at 255"
            )
        sizes = collections.Counter((header.width, header.height) for header in headers)
        (usual, count), *_ = sizes.most_common()
        if 0 < len(headers) - count <= min(MOST_ODD_SIZES, len(headers) // 100):
            for size in sizes.keys() - {usual}:
                self.notes.append(
                    f"{sizes[size]} of {len(headers):,} images has {size[0]} x {size[1]} pixels, nearly all others "
                    f"{usual[0]} x {usual[1]}"
                )


def _room_for(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array to fill, on disk if it is large; OSError if the disk is too full for it."""
    n_bytes = math.prod(shape) * dtype.itemsize
    if n_bytes <= LARGEST_IN_MEMORY:
        return np.empty(shape, dtype)
    if shutil.disk_usage(tempfile.gettempdir()).free < n_bytes:  # else the process would die while it writes
        raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)}: {n_bytes:,} bytes needed", tempfile.gettempdir())
    file = tempfile.TemporaryFile(prefix="anomaly-toolbox-")  # noqa: SIM115  (goes with the array)
    return np.memmap(file, dtype, "w+", shape=shape)


def _brightness(image: Image.Image) -> tuple[float, float]:
    """The highest value of any channel, as a share of white, and the share of pixels that are white."""
    values, white = np.asarray(image), DEEP_WHITE if image.mode == "F" else WHITE
    return float(values.max()) / white, float(np.mean(values >= white))


def _folder_below_normal(image: Path, root: Path) -> str:
    """Such as `test/good/day1`; empty for an image that lies in the folder of normal images itself."""
    parts = image.relative_to(root).parts[:-1]
    normal = next(number for number, name in enumerate(parts) if name.lower() in NORMAL)
    return "/".join(parts) if len(parts) > normal + 1 else ""
