"""The pictures in a run's folder: test images, what the detector makes of them, and how well it separates them."""

import itertools
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from anomaly_toolbox import pictures
from anomaly_toolbox.datasets.batches import EXAMPLES_OF_EACH_KIND, ScoringSplit, images_at
from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.images import unsquare
from anomaly_toolbox.models.base import AnomalyDetector

MOST_LOCATED = 8
LONGEST_CAPTION = 24  # characters of a file's name above its image


def draw(
    folder: Path,
    detector: AnomalyDetector,
    dataset: AnomalyDetectionDataset,
    test: ScoringSplit,
    scores: np.ndarray,
    figures: dict[str, Any],
    heatmap_range: pictures.HeatmapRange,
    masks: np.ndarray | None,
) -> None:
    """Writes all pictures of a run.

    Args:
        folder: of the run.
        detector: trained.
        dataset: the test images' files, if they come from files.
        test: the test images.
        scores: (n,), those that decide.
        figures: of these scores, see `evaluation.figures`.
        heatmap_range: see `pictures.heat`.
        masks: where the defects are, see `AnomalyDetectionDataset.test_masks`.
    """

    def draw_images(name: str, images: np.ndarray, captions: Sequence[str]) -> None:
        reconstructions = detector.reconstruct(images)
        maps = detector.map_from_reconstruction(images, reconstructions)
        pictures.save_reconstructions(
            folder / name, images, reconstructions.numpy(), maps.numpy(), captions, heatmap_range
        )

    kinds = ["normal"] * len(test.normal_examples) + ["anomalous"] * len(test.anomalous_examples)
    draw_images("reconstructions.png", test.examples, kinds)

    by_score = np.argsort(-scores, kind="stable")
    normal, anomalous = (by_score[test.labels[by_score] == kind][:: 1 - 2 * kind] for kind in (0, 1))
    wrong = np.concatenate([normal[:EXAMPLES_OF_EACH_KIND], anomalous[:EXAMPLES_OF_EACH_KIND]])
    kinds = ["anomalous, lowest scores" if test.labels[index] else "normal, highest scores" for index in wrong]
    draw_images("most_wrong.png", images_at(test, wrong), kinds)

    highest = by_score[: 2 * EXAMPLES_OF_EACH_KIND]
    kinds = ["anomalous" if test.labels[index] else "normal" for index in highest]
    draw_images("most_anomalous.png", images_at(test, highest), kinds)
    if dataset.test_folder is not None:
        highest = _highest_of_each_folder(dataset.test_files, by_score)[:MOST_LOCATED]
        images = images_at(test, highest)
        maps = detector.anomaly_map(images).numpy()
        found = [_located(dataset, index, map_, masks) for index, map_ in zip(highest, maps, strict=True)]
        pictures.save_where(folder / "where.png", found, heatmap_range)

    if figures["auprc"] is not None:
        pictures.save_precision_recall(folder / "precision_recall.png", test.labels, scores, figures["auprc"])
    pictures.save_histogram(folder / "scores.png", test.labels, scores, figures["threshold"])


def _highest_of_each_folder(files: Sequence[str], by_score: np.ndarray) -> np.ndarray:
    """`by_score` in another order: the highest score of each folder, such as a kind of defect, then the next ones."""
    folders = {}
    for index in by_score:
        folders.setdefault(PurePosixPath(files[index]).parent, []).append(index)
    rounds = itertools.zip_longest(*folders.values())
    return np.array([index for one_of_each in rounds for index in one_of_each if index is not None])


def _located(
    dataset: AnomalyDetectionDataset, index: int, anomaly_map: np.ndarray, masks: np.ndarray | None
) -> pictures.Located:
    name = dataset.test_files[index]
    path = dataset.test_folder / name
    original, map_of_original = pictures.on_original(path, anomaly_map, dataset.aspect, dataset.white_level)
    mask = None if masks is None else unsquare(masks[index], original.shape[:2], dataset.aspect) > 0.5
    name = name.encode(errors="replace").decode()
    caption = name if len(name) <= LONGEST_CAPTION else f"…{name[1 - LONGEST_CAPTION :]}"
    return pictures.Located(caption, original, map_of_original, mask)
