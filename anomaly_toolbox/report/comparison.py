"""Finished runs -> a comparison: rows are methods, columns are labels. Plain Python; test figures choose nothing.

Where a method was run with several settings (hyperparameters other than the label), a comparison has two rows for it:
one takes for each label the setting whose validation AUPRC is highest there, the other a single setting for all labels,
the one whose mean validation AUPRC is highest. Runs that differ in their seed alone are one cell, with a spread.
"""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

PAPER = "paper"
CHANCE = 0.5  # the AUROC of a guess


@dataclass(frozen=True)
class Finished:
    """A finished run: what `hparams.json` and `results.json` say, and where it is (None: on another machine)."""

    hyperparameters: Mapping[str, Any]
    results: Mapping[str, Any]
    folder: Path | None

    @property
    def method(self) -> str:
        """The registered name of the method."""
        return self.results["experiment"]

    @property
    def label(self) -> str:
        """What counts as anomalous, or the class that was looked at; `all` where a dataset has neither."""
        chosen = [self.results[name] for name in ("anomalous_label", "class_label") if self.results[name] is not None]
        return " ".join(map(str, chosen)) or "all"

    @property
    def is_measured(self) -> bool:
        """Whether there were anomalous test images; without them there is nothing to compare."""
        return self.results["test"]["auprc"] is not None

    @property
    def setting(self) -> dict[str, Any]:
        """The hyperparameters but for the label."""
        return {k: v for k, v in self.hyperparameters.items() if k not in ("anomalous_label", "class_label")}


@dataclass(frozen=True)
class Cell:
    """One method, setting and label: runs that differ in their seed alone, and the score that is looked at."""

    runs: Sequence[Finished]
    score: str

    def mean(self, split: str, figure: str) -> float | None:
        """Mean over seeds of a figure such as `auprc` on `validation` or `test`; None where a run has none."""
        values = [run.results[split]["scores"].get(self.score, {}).get(figure) for run in self.runs]
        return None if None in values else statistics.fmean(values)

    @property
    def auprc(self) -> float:
        """On the test images, mean over seeds."""
        return self.mean("test", "auprc")

    @property
    def interval(self) -> tuple[float, float]:
        """95% bootstrap interval of a single run; lowest and highest AUPRC of several seeds."""
        if len(self.runs) == 1:
            return tuple(self.runs[0].results["test"]["scores"][self.score]["auprc_interval"])
        values = [run.results["test"]["scores"][self.score]["auprc"] for run in self.runs]
        return min(values), max(values)

    @property
    def prevalence(self) -> float:
        """The AUPRC of a guess."""
        return self.mean("test", "prevalence")

    def of_pixels(self, figure: str) -> float | None:
        """Mean over seeds of a figure of the anomaly maps, such as `pro`; None where no masks say where defects are."""
        values = [run.results["test"].get(figure) for run in self.runs]
        return None if None in values else statistics.fmean(values)

    def seconds(self, work: str) -> float | None:
        """Mean over seeds of how long `train` or `score` took."""
        values = [run.results.get(f"{work}_seconds") for run in self.runs]
        return None if None in values else statistics.fmean(values)


@dataclass(frozen=True)
class Row:
    """A method's cells by label; `choice` says how its settings were chosen, empty where there was only one."""

    method: str
    score: str
    choice: str
    cells: Mapping[str, Cell]

    @property
    def name(self) -> str:
        """Such as `GANomaly`, or `GANomaly (residual), one setting`."""
        score = "" if self.score == PAPER else f" ({self.score})"
        return f"{self.method}{score}" + (f", {self.choice}" if self.choice else "")

    @cached_property
    def mean_auprc(self) -> float:
        """Over labels."""
        return statistics.fmean(cell.auprc for cell in self.cells.values())


EACH_LABEL, ONE_SETTING = "each label's setting", "one setting"


def datasets_of(runs: Iterable[Finished]) -> dict[str, list[Finished]]:
    """Runs by the name of their dataset."""
    found: dict[str, list[Finished]] = {}
    for run in runs:
        found.setdefault(run.results["dataset"], []).append(run)
    return dict(sorted(found.items()))


def labels_of(runs: Iterable[Finished]) -> list[str]:
    """All labels, numbers first."""
    return sorted({run.label for run in runs}, key=lambda label: (not label.isdigit(), label.zfill(9)))


def methods_of(runs: Iterable[Finished]) -> list[str]:
    """All methods: those that are trained in epochs, then the baselines, each by name."""
    return [method for _, method in sorted({(not run.results["epochs"], run.method) for run in runs})]


def compare(runs: Sequence[Finished], score: str | None = None) -> list[Row]:
    """The rows of one dataset.

    Args:
        runs: finished runs on that dataset.
        score: the score to look at, of those methods that have it; None: for each run the one that decides.
    """
    rows = []
    for method in methods_of(runs):
        of_method = [run for run in runs if run.method == method]
        for name in dict.fromkeys(score or run.results["score"] for run in of_method):
            deciding = of_method if score else [run for run in of_method if run.results["score"] == name]
            if all(name in run.results["test"]["scores"] for run in deciding):
                rows += _rows_of(method, name, deciding)
    return rows


def compare_other_scores(runs: Sequence[Finished]) -> list[Row]:
    """For each method the best of its scores other than the paper's, by mean validation AUPRC over all labels."""
    rows = []
    for method in methods_of(runs):
        of_method = [run for run in runs if run.method == method]
        others = set.intersection(*(set(run.results["test"]["scores"]) for run in of_method)) - {PAPER}
        candidates = [row for name in sorted(others) for row in _rows_of(method, name, of_method)]
        candidates = [row for row in candidates if row.choice != ONE_SETTING]
        if candidates:
            rows.append(max(candidates, key=lambda row: _validation(row.cells.values())))
    return rows


def settings_that_vary(runs: Sequence[Finished]) -> list[str]:
    """The hyperparameters, but for the label, in which the runs of a method differ."""
    names = dict.fromkeys(name for run in runs for name in run.setting)
    return [name for name in names if len({_key(run.setting.get(name)) for run in runs}) > 1]


def describe(cell: Cell, names: Sequence[str]) -> str:
    """The values of these hyperparameters in a cell: `learning_rate=0.002, width=32`."""
    return ", ".join(f"{name}={cell.runs[0].setting.get(name)}" for name in names)


def remarks(rows: Sequence[Row]) -> list[str]:
    """Lines about figures that should not be passed over: worse than chance, or than a baseline."""
    return _worse_than_chance(rows) + _losing_to_a_baseline(rows)


def _worse_than_chance(rows: Sequence[Row]) -> list[str]:
    """A line for each row that ranks anomalous images below normal ones, and what people usually got wrong then."""
    lines = []
    for row in rows:
        tested, validated = [], []
        for label, cell in row.cells.items():
            auroc, in_validation = cell.mean("test", "auroc"), cell.mean("validation", "auroc")
            if auroc < CHANCE or cell.auprc < cell.prevalence:
                tested.append(f"{label} (AUROC {auroc:.3f}, AUPRC {cell.auprc:.3f}, prevalence {cell.prevalence:.3f})")
            elif in_validation is not None and in_validation < CHANCE:
                validated.append(f"{label} (AUROC {in_validation:.3f})")
        if tested:
            lines.append(
                f"{row.name} ranks worse than chance on anomaly {', '.join(tested)}: are the normal and the anomalous "
                "label or folder the right way round? Anomalies that are plainer or darker than normal images also get "
                "low scores"
            )
        if validated:
            lines.append(
                f"{row.name} ranks worse than chance on the validation images alone, anomaly {', '.join(validated)}: "
                "are their labels the right way round? They set the threshold and choose the epoch"
            )
    return lines


def _losing_to_a_baseline(rows: Sequence[Row]) -> list[str]:
    """A line for each trained detector that a baseline surpasses, on some labels or on average."""
    baselines = [row for row in rows if not next(iter(row.cells.values())).runs[0].results["epochs"]]
    lines = []
    for row in rows:
        if row in baselines:
            continue
        for rival in baselines:
            shared = [label for label in row.cells if label in rival.cells]
            lost = [label for label in shared if rival.cells[label].auprc > row.cells[label].auprc]
            if lost:
                mine, its = (statistics.fmean(r.cells[label].auprc for label in shared) for r in (row, rival))
                where = f"anomaly {lost[0]}" if len(shared) == 1 else f"{len(lost)} of {len(shared)} labels"
                mean = "" if len(shared) == 1 else ", means"
                lines.append(
                    f"{row.name} loses to {rival.method}, a baseline that knows pixels only, on {where}{mean}: "
                    f"{mine:.3f} against {its:.3f}"
                )
    return lines


def _rows_of(method: str, score: str, runs: Sequence[Finished]) -> list[Row]:
    by_label: dict[str, dict[str, list[Finished]]] = {}
    for run in runs:
        by_label.setdefault(run.label, {}).setdefault(_key(run.setting), []).append(run)
    cells = {
        label: {key: Cell(sorted(of, key=lambda run: run.results["seed"]), score) for key, of in settings.items()}
        for label, settings in ((label, by_label[label]) for label in labels_of(runs))
    }
    n_settings = len({key for settings in cells.values() for key in settings})
    of_each = {label: max(settings.values(), key=lambda cell: _validation([cell])) for label, settings in cells.items()}
    rows = [Row(method, score, EACH_LABEL if n_settings > 1 else "", of_each)]
    everywhere = [key for key in next(iter(cells.values())) if all(key in settings for settings in cells.values())]
    if n_settings > 1 and len(cells) > 1 and everywhere:
        best = max(everywhere, key=lambda key: _validation(settings[key] for settings in cells.values()))
        rows.append(Row(method, score, ONE_SETTING, {label: settings[best] for label, settings in cells.items()}))
    return rows


def _validation(cells: Iterable[Cell]) -> float:
    """Mean validation AUPRC; a run without anomalous validation images comes last."""
    values = [cell.mean("validation", "auprc") for cell in cells]
    return -1.0 if None in values else statistics.fmean(values)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
