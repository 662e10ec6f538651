"""The comparison of finished runs: one or two rows for each method and score, a column for each label.

Settings are chosen by validation AUPRC; test metrics choose nothing. The first row of a method has, for each label, the
setting with the highest validation AUPRC on it. If there are several settings and labels, a second row has the one
setting with the highest mean validation AUPRC, among those that were run on every label. Without anomalous validation
images there is no validation AUPRC; the first setting in the list is then shown, and none counts as chosen. Runs that
differ only in their seed share a cell.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from anomaly_toolbox.report.rows import (
    EACH_LABEL,
    MEAN_OF_MEMBERS,
    ONE_SETTING,
    PAPER,
    Cell,
    ComparedRun,
    Row,
    labels_of,
    mean_if_complete,
    methods_of,
)
from anomaly_toolbox.report.settings import as_key, describe, names_that_vary

UNKNOWN_AUPRC = -1.0  # lower than any AUPRC


@dataclass(frozen=True)
class Comparison:
    """The comparison of all finished runs on one dataset.

    Attributes:
        dataset: the name of the dataset.
        runs: at least one run, each with test metrics.
    """

    dataset: str
    runs: Sequence[ComparedRun]

    @cached_property
    def labels(self) -> list[str]:
        """The columns."""
        return labels_of(self.runs)

    @cached_property
    def rows(self) -> list[Row]:
        """The rows by the selected scores."""
        return compare(self.runs)

    @cached_property
    def other_score_rows(self) -> list[Row]:
        """A row for each method that has scores other than the paper's, by the best of these."""
        return compare_other_scores(self.runs)

    @cached_property
    def all_rows(self) -> list[Row]:
        """`rows`, then those of `other_score_rows` that are not among them."""
        names = {row.name for row in self.rows}
        return self.rows + [row for row in self.other_score_rows if row.name not in names]

    @cached_property
    def score_names(self) -> list[str]:
        """The names of all scores but those of ensembles, in the order in which runs list them."""
        return list(dict.fromkeys(name for run in self._single_detectors for name in run.results["test"]["scores"]))

    @cached_property
    def every_score_rows(self) -> list[Row]:
        """The rows by every score of every method, ordered by method, without ensembles: their scores are others."""
        rows = [row for score in self.score_names for row in compare(self._single_detectors, score)]
        methods = methods_of(self.runs)
        return sorted(rows, key=lambda row: methods.index(row.method))

    @cached_property
    def chosen_settings(self) -> list[str]:
        """A line for each row whose settings were chosen: `GANomaly, one setting (chosen by validation AUPRC): ...`."""
        lines = []
        for row in self.rows:
            settings = [self.describe_setting(row, label) for label in row.cells]
            if not any(settings):  # ensembles that differ in their members alone
                continue
            heading = f"{row.name} ({_reason_for_settings(row)})"
            if row.choice == ONE_SETTING:
                lines.append(f"{heading}: {settings[0]}")
            elif row.choice == EACH_LABEL:
                pairs = zip(row.cells, settings, strict=True)
                lines.append(f"{heading}: " + "; ".join(f"{label}: {setting}" for label, setting in pairs))
        return lines

    def describe_setting(self, row: Row, label: str) -> str:
        """The hyperparameters of a cell in which the runs of its method differ: `learning_rate=0.002, width=32`."""
        return describe(row.cells[label].runs[0].setting, self._names_that_vary[row.method])

    @cached_property
    def _single_detectors(self) -> list[ComparedRun]:
        return [run for run in self.runs if not run.is_ensemble]

    @cached_property
    def _names_that_vary(self) -> dict[str, list[str]]:
        """For each method, the hyperparameters in which its runs differ."""
        settings = defaultdict(list)
        for run in self.runs:
            settings[run.method].append(run.setting)
        return {method: names_that_vary(settings_of_method) for method, settings_of_method in settings.items()}


def compare_datasets(runs: Iterable[ComparedRun]) -> list[Comparison]:
    """A comparison for each dataset, ordered by the datasets' names; see `ComparedRun.dataset`."""
    runs_by_dataset: dict[str, list[ComparedRun]] = defaultdict(list)
    for run in runs:
        runs_by_dataset[run.dataset].append(run)
    return [Comparison(dataset, runs_by_dataset[dataset]) for dataset in sorted(runs_by_dataset)]


def compare(runs: Sequence[ComparedRun], score: str | None = None) -> list[Row]:
    """The rows of a comparison.

    Args:
        runs: finished runs on one dataset.
        score: the score to compare; a method is left out if one of its runs lacks it. None compares the selected
            scores, with rows of their own for each selected score of a method.
    """
    rows = []
    for method in methods_of(runs):
        method_runs = [run for run in runs if run.method == method]
        runs_by_score: dict[str, list[ComparedRun]] = defaultdict(list)
        for run in method_runs:
            runs_by_score[score or run.results["score"]].append(run)
        for name, runs_with_score in runs_by_score.items():
            if all(name in run.results["test"]["scores"] for run in runs_with_score):
                rows += _rows_of_method(method, name, runs_with_score)
    return rows


def compare_other_scores(runs: Sequence[ComparedRun]) -> list[Row]:
    """For each method, the best of its scores other than `paper` and an ensemble's `mean`, by mean validation AUPRC.

    A method without validation AUPRC, for lack of anomalous validation images, has no row.
    """
    best_rows = []
    for method in methods_of(runs):
        method_runs = [run for run in runs if run.method == method]
        shared_scores = set.intersection(*(set(run.results["test"]["scores"]) for run in method_runs))
        candidates = []
        for score in sorted(shared_scores - {PAPER, MEAN_OF_MEMBERS}):
            rows = _rows_of_method(method, score, method_runs)
            candidates.append(rows[0])  # the row in which every label has its own best setting
        validation_auprc = [_mean_validation_auprc(row.cells.values()) for row in candidates]
        if max(validation_auprc, default=UNKNOWN_AUPRC) != UNKNOWN_AUPRC:
            best_rows.append(candidates[validation_auprc.index(max(validation_auprc))])
    return best_rows


def _rows_of_method(method: str, score: str, runs: Sequence[ComparedRun]) -> list[Row]:
    """The row with each label's best setting and, where settings can be chosen, the row with one setting."""
    cells_by_label = {label: _cells_by_setting(runs, label, score) for label in labels_of(runs)}
    has_choice = len({setting for cells in cells_by_label.values() for setting in cells}) > 1

    best_cells = {}
    for label, cells in cells_by_label.items():
        best_cells[label] = max(cells.values(), key=lambda cell: _mean_validation_auprc([cell]))
    rows = [Row(method, score, EACH_LABEL if has_choice else "", best_cells)]

    if has_choice and len(cells_by_label) > 1:
        candidates = []
        for setting in _settings_of_all_labels(cells_by_label):
            candidates.append({label: cells[setting] for label, cells in cells_by_label.items()})
        if candidates:
            shared_cells = max(candidates, key=lambda cells: _mean_validation_auprc(cells.values()))
            rows.append(Row(method, score, ONE_SETTING, shared_cells))
    return rows


def _cells_by_setting(runs: Sequence[ComparedRun], label: str, score: str) -> dict[str, Cell]:
    """The cells of one label, with the setting as a key."""
    runs_by_setting: dict[str, list[ComparedRun]] = defaultdict(list)
    for run in runs:
        if run.label == label:
            runs_by_setting[as_key(run.setting)].append(run)
    cells = {}
    for setting, runs_of_setting in runs_by_setting.items():
        cells[setting] = Cell(sorted(runs_of_setting, key=lambda run: run.results["seed"]), score)
    return cells


def _settings_of_all_labels(cells_by_label: Mapping[str, Mapping[str, Cell]]) -> list[str]:
    """The settings that were run on every label."""
    first_cells, *other_cells = cells_by_label.values()
    return [setting for setting in first_cells if all(setting in cells for cells in other_cells)]


def _reason_for_settings(row: Row) -> str:
    """How the settings of a row were chosen."""
    if _mean_validation_auprc(row.cells.values()) == UNKNOWN_AUPRC:
        return "the first in the list: without anomalous validation images, nothing could be chosen"
    return "chosen by validation AUPRC"


def _mean_validation_auprc(cells: Iterable[Cell]) -> float:
    """The mean validation AUPRC; UNKNOWN_AUPRC if a run had no anomalous validation images."""
    mean = mean_if_complete(cell.validation_mean("auprc") for cell in cells)
    return UNKNOWN_AUPRC if mean is None else mean
