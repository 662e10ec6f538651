"""The numbers in the tables of a comparison.

The formatters for the terminal (`tables`), for Markdown and CSV (`texts`) and for HTML (`page`) turn them into text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from anomaly_toolbox.report.members import BEST_MEMBER, HINDSIGHT, MEAN_MEMBER, has_members
from anomaly_toolbox.report.metrics import AUROC_CHANCE_LEVEL, METRICS
from anomaly_toolbox.report.rows import Row, mean_if_complete

#: The metrics of an ensemble's members by the names of their lines, for the metrics whose tables show them.
MEMBERS_METRICS = {
    "auprc": {MEAN_MEMBER: "mean_member_auprc", BEST_MEMBER: "best_member_auprc"},
    "auroc": {MEAN_MEMBER: "mean_member_auroc", BEST_MEMBER: "best_member_auroc"},
}


@dataclass(frozen=True)
class Line:
    """A line of a table: the values of one metric for a row, or for the members of its ensembles.

    Attributes:
        name: the name of the row, or `mean member` or `best member`.
        row: the row, or the row of the ensembles.
        is_of_members: whether the values are those of members.
        values: (labels,).
        mean: over all labels; None if a value is missing.
    """

    name: str
    row: Row
    is_of_members: bool
    values: Sequence[float | None]
    mean: float | None

    @property
    def full_name(self) -> str:
        """The name, and that the best member is known in hindsight only."""
        return f"{self.name} ({HINDSIGHT})" if self.is_of_members and self.name == BEST_MEMBER else self.name


@dataclass(frozen=True)
class Matrix:
    """One metric of a comparison, with a row for each method and setting and a column for each label.

    Attributes:
        metric: one of METRICS.
        labels: the columns.
        rows: the rows of the comparison.
        values: (rows, labels), None where a method was not run on a label or its runs lack the metric.
        means: (rows,), over all labels; None if a value of the row is missing.
        prevalences: (labels,), the chance levels of AUPRC; None if no method was run on a label.
        mean_prevalence: the mean over all labels; None if a prevalence is missing.
    """

    metric: str
    labels: Sequence[str]
    rows: Sequence[Row]
    values: Sequence[Sequence[float | None]]
    means: Sequence[float | None]
    prevalences: Sequence[float | None]
    mean_prevalence: float | None

    @classmethod
    def build(cls, rows: Sequence[Row], labels: Sequence[str], metric: str = "auprc") -> "Matrix":
        """Computes a metric, one of METRICS, for all rows and labels."""
        values = [_values(row, labels, metric) for row in rows]
        prevalence_of_label = {label: cell.prevalence for row in rows for label, cell in row.cells.items()}
        prevalences = [prevalence_of_label.get(label) for label in labels]
        return cls(
            metric=metric,
            labels=labels,
            rows=rows,
            values=values,
            means=[mean_if_complete(row_values) for row_values in values],
            prevalences=prevalences,
            mean_prevalence=mean_if_complete(prevalences),
        )

    @property
    def lines(self) -> list[Line]:
        """A line for each row; below a row of ensembles, in AUPRC and AUROC, the lines of their members."""
        lines = []
        for row, values, mean in zip(self.rows, self.values, self.means, strict=True):
            lines.append(Line(row.name, row, False, values, mean))
            if has_members(row):
                for name, members_metric in MEMBERS_METRICS.get(self.metric, {}).items():
                    members_values = _values(row, self.labels, members_metric)
                    lines.append(Line(name, row, True, members_values, mean_if_complete(members_values)))
        return lines

    @property
    def chance_levels(self) -> Sequence[float | None]:
        """The chance level of AUPRC or AUROC for each label, (labels,)."""
        return self.prevalences if self.metric == "auprc" else [AUROC_CHANCE_LEVEL] * len(self.labels)


def _values(row: Row, labels: Sequence[str], metric: str) -> list[float | None]:
    cells = [row.cells.get(label) for label in labels]
    return [None if cell is None else METRICS[metric](cell) for cell in cells]
