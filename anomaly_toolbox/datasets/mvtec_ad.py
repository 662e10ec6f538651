"""MVTec AD: photographs of parts and of materials, in classes that each have normal images and defects of their own.

The publisher's layout: `<class>/train/good`, `<class>/test/good`, `<class>/test/<defect>` and
`<class>/ground_truth/<defect>/<image>_mask.png`.
"""

from pathlib import Path
from typing import Literal

from anomaly_toolbox.datasets.archives import data_folder
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.folder import ImageFolder
from anomaly_toolbox.datasets.geometry import Aspect
from anomaly_toolbox.datasets.progress import Progress, show_progress
from anomaly_toolbox.datasets.splits import SPLITS
from anomaly_toolbox.datasets.walk import is_leftover
from anomaly_toolbox.errors import InputError, did_you_mean


class MVTecAD(AnomalyDetectionDataset):
    """One class of MVTec AD (Bergmann, Fauser, Sattlegger and Steger, CVPR 2019), named by `class_label`.

    The classes are bottle, cable, capsule, carpet, grid, hazelnut, leather, metal_nut, pill, screw, tile, toothbrush,
    transistor, wood and zipper.

    The split is the official one, except that half of the test images, stratified and always the same, are used for
    validation, as in the earlier toolbox. So metrics cannot be compared with those of papers, which test on all images;
    `all_test_images` gives the split of the papers.

    Args:
        data_dir: the folder with the classes, or the publisher's archive.
        aspect, on_bad_image, all_test_images, progress: see `ImageFolder`.

    Raises:
        InputError: there is no such folder or archive, or it has no classes.
    """

    def __init__(
        self,
        data_dir: Path | None = None,
        aspect: Aspect = "stretch",
        on_bad_image: Literal["error", "skip"] = "error",
        all_test_images: bool = False,
        progress: Progress = show_progress,
    ):
        super().__init__()
        if data_dir is None:
            raise InputError(
                "MVTecAD needs --data-dir: its licence (CC BY-NC-SA 4.0) has to be accepted with a click at "
                "https://www.mvtec.com/company/research/datasets/mvtec-ad; download it there and name the archive, or "
                "the folder with bottle, cable and the other classes"
            )
        self.aspect: Aspect = aspect
        self._on_bad_image = on_bad_image
        self._all_test_images = all_test_images
        self._progress = progress
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
        self._class: str | None = None
        self._folder: ImageFolder | None = None

    def fingerprint(self, class_label=None):
        """See `AnomalyDetectionDataset.fingerprint`; raises InputError if there is no such class."""
        return self._images_of(class_label).fingerprint()

    def configure(self, batch_size, new_size, anomalous_label=None, class_label=None, **options):
        """See `AnomalyDetectionDataset.configure`.

        Raises:
            InputError: there is no such class, or an anomalous label is given.
            ToolboxError: see `ImageFolder`.
        """
        if anomalous_label is not None:
            raise InputError(
                f"anomalous_label: {anomalous_label!r} given; MVTecAD has classes: use class_label instead"
            )
        folder = self._images_of(class_label)
        folder.configure(batch_size, new_size, **options)
        self._forward(folder)

    def _images_of(self, class_label: str | None) -> ImageFolder:
        """The images of a class; the most recent class stays in memory."""
        if class_label is None or class_label not in self._classes:
            raise InputError(
                f"class_label: expected a class of MVTecAD, received {class_label!r}: "
                f"{did_you_mean(str(class_label), self._classes)}"
            )
        if self._folder is None or class_label != self._class:
            self._folder = ImageFolder(
                self._root / class_label,
                aspect=self.aspect,
                on_bad_image=self._on_bad_image,
                all_test_images=self._all_test_images,
                progress=self._progress,
            )
            self._class = class_label
            self._forward(self._folder)
        return self._folder

    def _forward(self, folder: ImageFolder) -> None:
        """Copies the attributes that describe the images of the class."""
        self._channels = folder.channels
        self.levels = folder.levels
        self.notes = folder.notes
        self.test_files = folder.test_files
        self.test_folder = folder.test_folder
        self.test_masks = folder.test_masks
        self.test_padding = folder.test_padding
        for split in SPLITS:
            self.set_split(
                split,
                normal=getattr(folder, f"{split}_normal"),
                anomalous=getattr(folder, f"{split}_anomalous"),
                all=getattr(folder, split),
            )


def _is_class(folder: Path) -> bool:
    return not is_leftover(folder.name) and (folder / "train" / "good").is_dir()
