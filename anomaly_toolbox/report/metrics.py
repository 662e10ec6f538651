"""The metrics of a cell that tables show: their values, and their names for readers."""

from collections.abc import Callable, Sequence

from anomaly_toolbox.report.members import best_member, mean_member
from anomaly_toolbox.report.rows import Cell, Row

REFERENCE_AUPRC = "auprc_at_0.357"  # AUPRC if the prevalence were that of the pooled split in papers
FOUND_AT_1_PERCENT = "detection_rate_at_0.01"
AUROC_CHANCE_LEVEL = 0.5

#: The metrics of a cell by their names in `results_table.csv`; None where a cell lacks one.
METRICS: dict[str, Callable[[Cell], float | None]] = {
    "auprc": lambda cell: cell.auprc,
    "auprc_low": lambda cell: cell.interval[0],
    "auprc_high": lambda cell: cell.interval[1],
    "auroc": lambda cell: cell.auroc,
    REFERENCE_AUPRC: lambda cell: cell.test_mean(REFERENCE_AUPRC),
    "prevalence": lambda cell: cell.prevalence,
    "detection_rate_at_0.001": lambda cell: cell.at_false_alarm_rate("0.001", "detection_rate"),
    "false_alarm_rate_at_0.001": lambda cell: cell.at_false_alarm_rate("0.001", "false_alarm_rate"),
    FOUND_AT_1_PERCENT: lambda cell: cell.at_false_alarm_rate("0.01", "detection_rate"),
    "false_alarm_rate_at_0.01": lambda cell: cell.at_false_alarm_rate("0.01", "false_alarm_rate"),
    "detection_rate_at_0.05": lambda cell: cell.at_false_alarm_rate("0.05", "detection_rate"),
    "false_alarm_rate_at_0.05": lambda cell: cell.at_false_alarm_rate("0.05", "false_alarm_rate"),
    "mean_member_auprc": lambda cell: mean_member(cell, "auprc"),
    "mean_member_auroc": lambda cell: mean_member(cell, "auroc"),
    "best_member_auprc": lambda cell: best_member(cell, "auprc"),
    "best_member_auroc": lambda cell: best_member(cell, "auroc"),
    "seeds": lambda cell: len(cell.runs),
    "train_seconds": lambda cell: cell.seconds("train"),
    "score_seconds": lambda cell: cell.seconds("score"),
    "pixel_auroc": lambda cell: cell.pixel_metric("pixel_auroc"),
    "pixel_auprc": lambda cell: cell.pixel_metric("pixel_auprc"),
    "pro": lambda cell: cell.pixel_metric("pro"),
}
#: The intervals that tables and charts show; None where there is none.
INTERVALS: dict[str, Callable[[Cell], tuple[float, float] | None]] = {
    "auprc": lambda cell: cell.interval,
    "auroc": lambda cell: cell.auroc_range,
}
#: The headings of metrics in tables; the other metrics have their names.
HEADINGS = {
    "auprc": "AUPRC",
    "auprc_low": "low",
    "auprc_high": "high",
    "auroc": "AUROC",
    REFERENCE_AUPRC: "AUPRC at 0.357",
    "detection_rate_at_0.001": "found at 0.1%",
    "false_alarm_rate_at_0.001": "false alarms at 0.1%",
    FOUND_AT_1_PERCENT: "found at 1%",
    "false_alarm_rate_at_0.01": "false alarms at 1%",
    "detection_rate_at_0.05": "found at 5%",
    "false_alarm_rate_at_0.05": "false alarms at 5%",
    "mean_member_auprc": "mean member's AUPRC",
    "mean_member_auroc": "mean member's AUROC",
    "best_member_auprc": "best member's AUPRC",
    "best_member_auroc": "best member's AUROC",
    "train_seconds": "training, s",
    "score_seconds": "scoring, s",
    "pixel_auroc": "pixel AUROC",
    "pixel_auprc": "pixel AUPRC",
    "pro": "PRO",
}
#: What thresholds that keep a false-alarm rate do to the test images.
FALSE_ALARM_METRICS = [name for name in METRICS if name.startswith(("detection_rate", "false_alarm_rate"))]


def available_metrics(rows: Sequence[Row]) -> list[str]:
    """The names of the metrics that at least one cell has."""
    cells = [cell for row in rows for cell in row.cells.values()]
    return [name for name, metric in METRICS.items() if any(metric(cell) is not None for cell in cells)]


def format_metric(name: str, value: float | None) -> str:
    """A metric's value as text: shares of images in percent, other numbers as by `format_number`."""
    if value is not None and name in FALSE_ALARM_METRICS:
        return f"{100 * value:.1f}%" if value >= 0.01 else f"{100 * value:.2f}%"
    return format_number(value)


def format_number(value: float | None) -> str:
    """Three decimals up to 1, three digits up to 100, and no decimals above; `-` for None."""
    if value is None:
        return "-"
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value <= 1 else f"{value:.3g}"
