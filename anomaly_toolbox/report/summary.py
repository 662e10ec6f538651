"""The means of rows over all labels: how well scores rank images, what thresholds find, and how many false alarms."""

from collections.abc import Sequence
from dataclasses import dataclass

from anomaly_toolbox.report.matrix import Matrix
from anomaly_toolbox.report.metrics import (
    FALSE_ALARM_METRICS,
    HEADINGS,
    REFERENCE_AUPRC,
    available_metrics,
    format_metric,
)
from anomaly_toolbox.report.rows import Row

METRICS = ("auprc", "auroc", REFERENCE_AUPRC, *FALSE_ALARM_METRICS)
FALSE_ALARMS = (
    "Found and false alarms are the shares of anomalous and of normal test images at or above a threshold. The "
    "thresholds were set by the normal validation images alone, for false-alarm rates of 0.1, 1 and 5%."
)


@dataclass(frozen=True)
class Summary:
    """A table with the mean of each metric over all labels.

    Attributes:
        headings: of the metrics; metrics that no row has are left out.
        lines: the name of each row, and a text for each heading.
        has_false_alarms: whether the rates of false alarms are among the metrics.
    """

    headings: Sequence[str]
    lines: Sequence[tuple[str, Sequence[str]]]
    has_false_alarms: bool


def summary_of(rows: Sequence[Row], labels: Sequence[str]) -> Summary:
    """The summary of rows of a comparison; a mean is `-` if a row lacks the metric on a label."""
    available = available_metrics(rows)
    metrics = [metric for metric in METRICS if metric in available]
    means = [Matrix.build(rows, labels, metric).means for metric in metrics]
    lines = []
    for number, row in enumerate(rows):
        lines.append((row.name, [format_metric(name, mean[number]) for name, mean in zip(metrics, means, strict=True)]))
    return Summary(
        headings=[HEADINGS[metric] for metric in metrics],
        lines=lines,
        has_false_alarms=any(metric in FALSE_ALARM_METRICS for metric in metrics),
    )
