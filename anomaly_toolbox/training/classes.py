"""The normal classes of a dataset, checked for a method that uses them."""

import numpy as np

from anomaly_toolbox.datasets.dataset import AnomalyDetectionDataset
from anomaly_toolbox.datasets.survey import Survey
from anomaly_toolbox.errors import NoClasses
from anomaly_toolbox.models.base import AnomalyDetector

MOST_LISTED = 20


def class_names_for(method: type[AnomalyDetector], dataset: AnomalyDetectionDataset) -> list[str] | None:
    """The names of the normal classes that a method is trained with; None if it uses none.

    Args:
        method: the class of the method.
        dataset: configured.

    Raises:
        NoClasses: the method uses normal classes, and the dataset has fewer than two.
    """
    if not method.uses_classes:
        return None
    if dataset.train_classes is None or dataset.class_names is None:
        raise NoClasses(f"{method.__name__} needs the classes of normal images: {dataset.why_no_classes}")
    if len(dataset.class_names) < 2:
        raise NoClasses(
            f"{method.__name__} needs at least two classes of normal images, received {len(dataset.class_names)}: "
            f"{', '.join(dataset.class_names) or 'none'}; choose other images, or a method that uses no classes"
        )
    return list(dataset.class_names)


def describe_classes(names: list[str], surveyed: Survey) -> str:
    """One line with the names of the classes and the numbers of their images, from `survey_classes`."""
    counts = np.bincount(surveyed.labels, minlength=len(names))
    listed = [f"{name} ({count:,})" for name, count in zip(names, counts, strict=True)][:MOST_LISTED]
    n_more = len(names) - MOST_LISTED
    return f"classes of normal images: {', '.join(listed)}{f' and {n_more} more' if n_more > 0 else ''}"
