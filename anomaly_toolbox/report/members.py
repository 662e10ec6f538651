"""The members of ensembles: what an ensemble's metrics are compared with.

`members` in the `results.json` of an ensemble has the test metrics of each member, by the member's selected score.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from anomaly_toolbox.report.rows import Cell, ComparedRun, Row, mean_if_complete

MEAN_MEMBER = "mean member"
BEST_MEMBER = "best member"
HINDSIGHT = "chosen in hindsight, by test images"


def has_members(row: Row) -> bool:
    """Whether the row is that of ensembles whose members are known."""
    return any(_members(run) for cell in row.cells.values() for run in cell.runs)


def mean_member(cell: Cell, metric: str) -> float | None:
    """The mean of `auprc` or `auroc` over the members; None if the cell has no ensemble or a member lacks it."""
    return mean_if_complete(mean_if_complete(member[metric] for member in _members(run)) for run in cell.runs)


def best_member(cell: Cell, metric: str) -> float | None:
    """`auprc` or `auroc` of the member with the highest test AUPRC; None if the cell has no ensemble.

    Both metrics are those of the same member. Nobody knows it before the test images are scored.
    """
    values = []
    for run in cell.runs:
        measured = [member for member in _members(run) if member["auprc"] is not None]
        best = max(measured, key=lambda member: float(member["auprc"]), default=None)
        values.append(None if best is None else best[metric])
    return mean_if_complete(values)


def _members(run: ComparedRun) -> Sequence[Mapping[str, Any]]:
    members: Sequence[Mapping[str, Any]] = run.results.get("members") or ()
    return members
