"""Remarks on results that need attention: below chance level, or worse than a baseline."""

import statistics
from collections.abc import Sequence

from anomaly_toolbox.report.metrics import AUROC_CHANCE_LEVEL
from anomaly_toolbox.report.rows import Cell, Row


def remarks(rows: Sequence[Row]) -> list[str]:
    """One line for each remark on the rows of a comparison."""
    lines = []
    for row in rows:
        lines += _below_chance_level(row)
    baselines = [row for row in rows if row.is_baseline]
    for row in rows:
        if not row.is_baseline:
            lines += [line for baseline in baselines for line in _worse_than_baseline(row, baseline)]
    return lines


def _below_chance_level(row: Row) -> list[str]:
    """Remarks on labels whose anomalous images rank below the normal ones, with the usual reasons."""
    on_test, on_validation = [], []
    for label, cell in row.cells.items():
        validation_auroc = cell.validation_mean("auroc")
        if _is_below_chance_level(cell):
            on_test.append(
                f"label {label} (AUROC {cell.auroc:.3f}, AUPRC {cell.auprc:.3f}, prevalence {cell.prevalence:.3f})"
            )
        elif validation_auroc is not None and validation_auroc < AUROC_CHANCE_LEVEL:
            on_validation.append(f"label {label} (AUROC {validation_auroc:.3f})")
    lines = []
    if on_test:
        lines.append(
            f"{row.name} is below chance level on {', '.join(on_test)}: are normal and anomalous images swapped? "
            "Anomalous images that are plainer or darker than normal images also get low scores"
        )
    if on_validation:
        lines.append(
            f"{row.name} is below chance level on the validation images of {', '.join(on_validation)}, though not on "
            "the test images. Validation images set the threshold and can choose the epoch: check that normal and "
            "anomalous ones are not swapped"
        )
    return lines


def _is_below_chance_level(cell: Cell) -> bool:
    return cell.auroc < AUROC_CHANCE_LEVEL or cell.auprc < cell.prevalence


def _worse_than_baseline(row: Row, baseline: Row) -> list[str]:
    """A remark if the baseline has the higher AUPRC on at least one label that both were run on."""
    shared_labels = [label for label in row.cells if label in baseline.cells]
    worse_labels = [label for label in shared_labels if baseline.cells[label].auprc > row.cells[label].auprc]
    if not worse_labels:
        return []
    row_auprc = statistics.fmean(row.cells[label].auprc for label in shared_labels)
    baseline_auprc = statistics.fmean(baseline.cells[label].auprc for label in shared_labels)
    numbers = f"{row_auprc:.3f} against {baseline_auprc:.3f}"
    if len(shared_labels) == 1:
        where = f"label {worse_labels[0]} ({numbers})"
    else:
        where = f"{len(worse_labels)} of {len(shared_labels)} labels (mean {numbers})"
    return [f"{row.name} has a lower AUPRC than the baseline {baseline.method} on {where}"]
