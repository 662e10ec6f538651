"""The pictures in a run folder: test images with their reconstructions and heatmaps, and charts of the scores."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anomaly_toolbox import pictures
from anomaly_toolbox.datasets.batches import EXAMPLES_OF_EACH_KIND, ScoringSplit, images_at
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.geometry import unsquare
from anomaly_toolbox.models.base import AnomalyDetector

MOST_LOCATED_IMAGES = 8
LONGEST_CAPTION = 24  # characters of a file name above its image


def draw(
    folder: Path,
    detector: AnomalyDetector,
    dataset: AnomalyDetectionDataset,
    test: ScoringSplit,
    scores: np.ndarray,
    metrics: dict[str, Any],
    heatmap_range: pictures.HeatmapRange,
    masks: np.ndarray | None,
) -> None:
    """Writes all pictures of a run.

    Args:
        folder: the run folder.
        detector: the trained detector.
        dataset: its `test_files` and `test_folder` are used if the images come from files.
        test: the test images.
        scores: the selected score of each test image, (n,).
        metrics: `evaluation.metrics` of these scores.
        heatmap_range: see `pictures.heatmap_range_of`.
        masks: the defects of the test images, see `AnomalyDetectionDataset.test_masks`.
    """
    _draw_reconstructions(folder, detector, test, scores, heatmap_range)
    if dataset.test_folder is not None and dataset.test_files is not None:
        descending = np.argsort(-scores, kind="stable")
        indices = _alternate_folders(dataset.test_files, descending)[:MOST_LOCATED_IMAGES]
        names = [dataset.test_files[index] for index in indices]
        maps = detector.anomaly_map(images_at(test, indices)).numpy()
        chosen_masks = [None] * len(indices) if masks is None else masks[indices]
        located_images = []
        for name, anomaly_map, mask in zip(names, maps, chosen_masks, strict=True):
            located_images.append(_located_image(dataset, dataset.test_folder / name, name, anomaly_map, mask))
        pictures.save_heatmaps(folder / "where.png", located_images, heatmap_range)
    if metrics["auprc"] is not None:
        pictures.save_precision_recall(folder / "precision_recall.png", test.labels, scores, metrics["auprc"])
    pictures.save_histogram(folder / "scores.png", test.labels, scores, metrics["threshold"])


def _draw_reconstructions(
    folder: Path,
    detector: AnomalyDetector,
    test: ScoringSplit,
    scores: np.ndarray,
    heatmap_range: pictures.HeatmapRange,
) -> None:
    """Writes the grids of some examples, of the images with the most wrong scores, and of those with the highest."""

    def save_grid(name: str, images: np.ndarray, captions: Sequence[str]) -> None:
        reconstructions = detector.reconstruct(images)
        maps = detector.map_from_reconstruction(images, reconstructions)
        pictures.save_reconstructions(
            folder / name, images, reconstructions.numpy(), maps.numpy(), captions, heatmap_range
        )

    captions = ["normal"] * len(test.normal_examples) + ["anomalous"] * len(test.anomalous_examples)
    save_grid("reconstructions.png", test.examples, captions)

    descending = np.argsort(-scores, kind="stable")
    normal = descending[test.labels[descending] == 0]
    anomalous = descending[test.labels[descending] == 1]
    highest_normal, lowest_anomalous = normal[:EXAMPLES_OF_EACH_KIND], anomalous[::-1][:EXAMPLES_OF_EACH_KIND]
    captions = ["normal, highest scores"] * len(highest_normal) + ["anomalous, lowest scores"] * len(lowest_anomalous)
    save_grid("most_wrong.png", images_at(test, np.concatenate([highest_normal, lowest_anomalous])), captions)

    highest = descending[: 2 * EXAMPLES_OF_EACH_KIND]
    captions = ["anomalous" if test.labels[index] else "normal" for index in highest]
    save_grid("most_anomalous.png", images_at(test, highest), captions)


def _alternate_folders(files: Sequence[str], descending: np.ndarray) -> np.ndarray:
    """Reorders indices: the first one of each folder, then the second one of each folder, and so on.

    Folders are kinds of defects, so the first indices show as many kinds as possible.

    Args:
        files: the file of each image; the parent folder counts.
        descending: indices of the images, by descending score.
    """
    by_folder: dict[PurePosixPath, list[int]] = defaultdict(list)
    for index in descending:
        by_folder[PurePosixPath(files[index]).parent].append(index)
    alternating = []
    for rank in range(max(len(indices) for indices in by_folder.values())):
        alternating += [indices[rank] for indices in by_folder.values() if rank < len(indices)]
    return np.array(alternating)


def _located_image(
    dataset: AnomalyDetectionDataset, path: Path, name: str, anomaly_map: np.ndarray, mask: np.ndarray | None
) -> pictures.LocatedImage:
    """An image file in its own shape, with its anomaly map and mask, which are (size, size), in that shape, too."""
    aspect = dataset.aspect or "stretch"
    original, map_of_original = pictures.map_on_original(path, anomaly_map, aspect, dataset.white_level)
    mask_of_original = None if mask is None else unsquare(mask, original.shape[:2], aspect) > 0.5
    caption = name.encode(errors="replace").decode()  # a name may hold bytes that are no text
    if len(caption) > LONGEST_CAPTION:
        caption = f"…{caption[1 - LONGEST_CAPTION :]}"
    return pictures.LocatedImage(caption, original, map_of_original, mask_of_original)
