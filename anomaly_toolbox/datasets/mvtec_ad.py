"""MVTec AD: photographs of parts and of materials, each class with normal images and defects of its own.

The publisher's layout: `<class>/train/good`, `<class>/test/good`, `<class>/test/<defect>` and
`<class>/ground_truth/<defect>/<image>_mask.png`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from anomaly_toolbox.datasets.archives import data_folder
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.folder import ImageFolder
from anomaly_toolbox.datasets.images import Aspect
from anomaly_toolbox.datasets.layout import SPLITS
from anomaly_toolbox.datasets.walk import is_leftover
from anomaly_toolbox.errors import InputError, did_you_mean


class MVTecAD(AnomalyDetectionDataset):
    """One class of MVTec AD (Bergmann, Fauser, Sattlegger and Steger, CVPR 2019), which `class_label` names.

    The classes are bottle, cable, capsule, carpet, grid, hazelnut, leather, metal_nut, pill, screw, tile, toothbrush,
    transistor, wood and zipper.

    The split is the official one, but half of the test images, stratified and always the same ones, validate, as in the
    earlier toolbox: figures cannot be compared with those of papers, which test on all of them. `all_test_images`
    gives the papers' split.

    Args:
        data_dir: the folder that holds the classes, or the publisher's archive.
        aspect, on_bad_image, all_test_images: see `ImageFolder`.

    Raises:
        InputError: there is no such folder or archive, or no class in it.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        aspect: Aspect = "stretch",
        on_bad_image: Literal["error", "skip"] = "error",
        all_test_images: bool = False,
    ):
        super().__init__()
        if data_dir is None:
            raise InputError(
                "MVTecAD needs --data-dir: its licence (CC BY-NC-SA 4.0) has to be accepted with a click at "
                "https://www.mvtec.com/company/research/datasets/mvtec-ad; download it there and name the archive, or "
                "the folder in which bottle, cable and the other classes are"
            )
        self.aspect = aspect
        self._options = {"aspect": aspect, "on_bad_image": on_bad_image, "all_test_images": all_test_images}
        self._root = data_folder(data_dir)
        if _is_class(self._root):
            root = self._root.resolve()
            raise InputError(
                f"--data-dir {data_dir} is a class itself; expected the folder above it, {root.parent}, "
                f"with the class_label {root.name}"
            )
        self._classes = sorted(path.name for path in self._root.iterdir() if _is_class(path))
        if not self._classes:
            raise InputError(f"--data-dir {data_dir}: expected folders such as bottle in it, with train/good in them")
        self._class, self._folder = None, None

    def fingerprint(self, class_label=None):
        """See `AnomalyDetectionDataset.fingerprint`; raises InputError for a class that is not there."""
        self._choose(class_label)
        return self._folder.fingerprint()

    @property
    def notes(self) -> Sequence[str]:
        """Lines about the class's images, see `AnomalyDetectionDataset`; empty before `configure`."""
        return self._folder.notes if self._folder else ()

    @property
    def test_files(self) -> Sequence[str] | None:
        """The test images' files, in the order of `test`, relative to `test_folder`."""
        return self._folder and self._folder.test_files

    @property
    def test_folder(self) -> Path | None:
        """The class's folder."""
        return self._folder and self._folder.test_folder

    @property
    def levels(self) -> int | None:
        """Levels that pixels are rounded to, see `AnomalyDetectionDataset`."""
        return self._folder and self._folder.levels

    @property
    def test_masks(self) -> np.ndarray | None:
        """Where the defects of the test images are, see `ImageFolder`."""
        return self._folder and self._folder.test_masks

    @property
    def test_padding(self) -> np.ndarray | None:
        """Where the test images have padding, see `ImageFolder`."""
        return self._folder and self._folder.test_padding

    def configure(self, batch_size, new_size, anomalous_label=None, class_label=None, **options):
        """See `AnomalyDetectionDataset.configure`; raises InputError for a class that is not there."""
        if anomalous_label is not None:
            raise InputError(
                f"anomalous_label: {anomalous_label!r} given; MVTecAD has classes: use class_label instead"
            )
        self._choose(class_label)
        self._folder.configure(batch_size, new_size, **options)
        self._channels = self._folder.channels
        for split in SPLITS:
            for suffix in ("_normal", "_anomalous", ""):
                setattr(self, f"_{split}{suffix}", getattr(self._folder, f"{split}{suffix}"))

    def _choose(self, class_label: str | None) -> None:
        if class_label not in self._classes:
            raise InputError(
                f"class_label: expected a class of MVTecAD, received {class_label!r}: "
                f"{did_you_mean(str(class_label), self._classes)}"
            )
        if class_label != self._class:
            self._folder = ImageFolder(self._root / class_label, **self._options)
            self._class = class_label


def _is_class(folder: Path) -> bool:
    return not is_leftover(folder.name) and (folder / "train" / "good").is_dir()
