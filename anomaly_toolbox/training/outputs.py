"""From the outputs of a detector's compiled steps to its scores, and what is recorded of the derived scores."""

from typing import Any

import numpy as np

from anomaly_toolbox.models.base import COMPLEXITY, AnomalyDetector
from anomaly_toolbox.models.derived_scores import COMBINED, EXCESS
from anomaly_toolbox.runs import COMPLEXITY_COLUMNS
from anomaly_toolbox.training.results import Scores


def scores_and_complexity(detector: AnomalyDetector, outputs: Scores) -> tuple[Scores, Scores]:
    """The scores of images, and the complexity of the images as columns of a CSV file.

    Args:
        detector: its derived scores are added.
        outputs: from `AnomalyDetector.basic_outputs`.

    Returns:
        Every score by its name, `paper` and `residual` first and derived scores last; and the columns.
    """
    scores = detector.with_derived_scores(outputs)
    scores_of_all_methods = ("paper", "residual")
    other_names = sorted(
        scores.keys() - set(scores_of_all_methods), key=lambda name: (name == COMBINED, name.endswith(EXCESS), name)
    )
    columns = dict(zip(COMPLEXITY_COLUMNS, outputs[COMPLEXITY].T, strict=True))
    return {name: scores[name] for name in (*scores_of_all_methods, *other_names)}, columns


def describe_derived_scores(detector: AnomalyDetector) -> dict[str, Any] | None:
    """All that is needed to recompute the derived scores from the others; None if the detector has none."""
    derived = detector.derived_scores
    if derived.is_empty:
        return None
    lowest, highest = derived.arrays["complexity_range"].numpy().tolist()
    return {
        "combined_from": [name for name in derived.scores if name in derived.combined_from],
        "grey": derived.arrays["grey"].numpy().tolist(),
        "lowest_complexity": lowest,
        "highest_complexity": highest,
        "statistics": {
            name: {key: value if np.isfinite(value) else None for key, value in statistics._asdict().items()}
            for name, statistics in derived.statistics().items()
        },
    }
