"""The parts of a comparison: finished runs, cells and rows."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from anomaly_toolbox.report.settings import without_labels
from anomaly_toolbox.runs import ENSEMBLE, LABELS

PAPER = "paper"
MEAN_OF_MEMBERS = "mean"  # the selected score of ensembles
#: How the settings of a row were chosen.
EACH_LABEL = "each label's setting"
ONE_SETTING = "one setting"


@dataclass(frozen=True)
class ComparedRun:
    """A finished run.

    Attributes:
        hyperparameters: values by name, as in `hparams.json`.
        results: the content of `results.json`.
        folder: the run folder, None if it is on another machine.
    """

    hyperparameters: Mapping[str, Any]
    results: Mapping[str, Any]
    folder: Path | None

    @property
    def method(self) -> str:
        """The registered name of the method, or the members of an ensemble: `Ensemble of 3 GANomaly (combined)`."""
        members = self.results.get("members")
        return _name_of_ensemble(members) if self.is_ensemble and members else str(self.results["experiment"])

    @property
    def dataset(self) -> str:
        """The name of the dataset, with `one class normal` if it is so.

        Such runs have other normal images and another prevalence, so they have tables of their own.
        """
        name = str(self.results["dataset"])
        return name if self.results.get("normal_label") is None else f"{name}, one class normal"

    @property
    def label(self) -> str:
        """The anomalous label, the class label, or both; `normal 3` if 3 is the only normal one; or else `all`."""
        labels = []
        for name in LABELS:
            label = self.results.get(name)
            if label is not None:
                labels.append(f"normal {label}" if name == "normal_label" else str(label))
        return " ".join(labels) or "all"

    @property
    def is_measured(self) -> bool:
        """Whether there were anomalous test images. A run without them has no metrics to compare."""
        return self.results["test"]["auprc"] is not None

    @property
    def is_ensemble(self) -> bool:
        """Whether the detector combines the scores of other detectors, its members."""
        return bool(self.results["experiment"] == ENSEMBLE)

    @property
    def is_baseline(self) -> bool:
        """Whether the method is a baseline, which is not trained in epochs."""
        return not self.results["epochs"] and not self.is_ensemble

    @property
    def setting(self) -> dict[str, Any]:
        """The hyperparameters other than the label."""
        return without_labels(self.hyperparameters)

    def file(self, name: str) -> Path:
        """The path of a file in the run folder.

        Raises:
            ValueError: the run folder is on another machine.
        """
        if self.folder is None:
            raise ValueError(f"the folder of this run of {self.method} is on another machine")
        return self.folder / name


@dataclass(frozen=True)
class Cell:
    """The runs of one method, setting and label, which differ only in their seed.

    Attributes:
        runs: ordered by seed.
        score: the name of the score whose metrics are compared.
    """

    runs: Sequence[ComparedRun]
    score: str

    @property
    def auprc(self) -> float:
        """AUPRC on the test images, the mean over seeds."""
        return statistics.fmean(self._test_values("auprc"))

    @property
    def auroc(self) -> float:
        """AUROC on the test images, the mean over seeds."""
        return statistics.fmean(self._test_values("auroc"))

    @property
    def prevalence(self) -> float:
        """The share of anomalous test images, which is the chance level of AUPRC."""
        return statistics.fmean(self._test_values("prevalence"))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% bootstrap interval of AUPRC for a single run; the lowest and the highest AUPRC for several seeds."""
        if len(self.runs) == 1:
            low, high = self.runs[0].results["test"]["scores"][self.score]["auprc_interval"]
            return low, high
        values = self._test_values("auprc")
        return min(values), max(values)

    @property
    def auroc_range(self) -> tuple[float, float] | None:
        """The lowest and the highest AUROC of several seeds; None for a single run."""
        values = self._test_values("auroc")
        return (min(values), max(values)) if len(values) > 1 else None

    def test_mean(self, metric: str) -> float | None:
        """The mean over seeds of any metric on the test images; None if a run lacks it, as runs of old versions may."""
        return mean_if_complete(run.results["test"]["scores"][self.score].get(metric) for run in self.runs)

    def at_false_alarm_rate(self, rate: str, figure: str) -> float | None:
        """What the threshold for a false-alarm rate does to the test images, the mean over seeds.

        Args:
            rate: `0.001`, `0.01` or `0.05`.
            figure: `detection_rate` or `false_alarm_rate`, shares from 0 to 1.

        Returns:
            None if a run lacks it: it is of an old version, or has too few normal validation images for the rate.
        """
        values = []
        for run in self.runs:
            outcomes = run.results["test"]["scores"][self.score].get("false_alarms") or {}
            values.append((outcomes.get(rate) or {}).get(figure))
        return mean_if_complete(values)

    def validation_mean(self, metric: str) -> float | None:
        """The mean over seeds of `auprc` or `auroc` on the validation images; None if a run lacks it."""
        return mean_if_complete(
            run.results["validation"]["scores"].get(self.score, {}).get(metric) for run in self.runs
        )

    def pixel_metric(self, metric: str) -> float | None:
        """The mean over seeds of a metric of the anomaly maps, such as `pro`; None for a dataset without masks."""
        return mean_if_complete(run.results["test"].get(metric) for run in self.runs)

    def seconds(self, work: str) -> float | None:
        """The mean over seeds of the time that `train` or `score` took, in seconds; None if it was not recorded."""
        return mean_if_complete(run.results.get(f"{work}_seconds") for run in self.runs)

    def _test_values(self, metric: str) -> list[float]:
        return [run.results["test"]["scores"][self.score][metric] for run in self.runs]


@dataclass(frozen=True)
class Row:
    """A row of a comparison table.

    Attributes:
        method: the registered name of the method.
        score: the name of the score whose metrics are compared.
        choice: how the settings were chosen, EACH_LABEL or ONE_SETTING; empty if there was only one setting.
        cells: a cell for each label on which the method was run.
    """

    method: str
    score: str
    choice: str
    cells: Mapping[str, Cell]

    @property
    def name(self) -> str:
        """The heading of the row, such as `GANomaly` or `GANomaly (residual), one setting`."""
        score = "" if self.score in (PAPER, MEAN_OF_MEMBERS) else f" ({self.score})"
        choice = f", {self.choice}" if self.choice else ""
        return f"{self.method}{score}{choice}"

    @property
    def is_baseline(self) -> bool:
        """Whether the method is a baseline."""
        first_cell = next(iter(self.cells.values()))
        return first_cell.runs[0].is_baseline

    @cached_property
    def mean_auprc(self) -> float:
        """The mean test AUPRC over the labels on which the method was run."""
        return statistics.fmean(cell.auprc for cell in self.cells.values())

    @cached_property
    def mean_auroc(self) -> float:
        """The same of AUROC."""
        return statistics.fmean(cell.auroc for cell in self.cells.values())


def labels_of(runs: Iterable[ComparedRun]) -> list[str]:
    """The labels of the runs: numbers by their value, then names; `normal 9` is before `normal 10`."""
    return sorted({run.label for run in runs}, key=_name_and_number)


def methods_of(runs: Iterable[ComparedRun]) -> list[str]:
    """The methods of the runs: those that are trained in epochs, ensembles, then the baselines, each group by name."""
    groups = {(run.is_baseline, run.is_ensemble, run.method) for run in runs}
    return [method for _, _, method in sorted(groups)]


def mean_if_complete(values: Iterable[float | None]) -> float | None:
    """The mean of the values; None if one is missing or there are none."""
    values = list(values)
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present and len(present) == len(values) else None


def _name_and_number(label: str) -> tuple[str, int]:
    """The label without the number at its end, and the number."""
    name = label.rstrip("0123456789")
    return name, int(label[len(name) :] or 0)


def _name_of_ensemble(members: Sequence[Mapping[str, Any]]) -> str:
    """Such as `Ensemble of 3 GANomaly + KNN (combined)`; the score is named if all members have the same."""
    counts = Counter(str(member["experiment"]) for member in members)
    methods = " + ".join(f"{count} {method}" if count > 1 else method for method, count in counts.items())
    scores = {member["score"] for member in members}
    shared_score = f" ({scores.pop()})" if len(scores) == 1 and scores != {PAPER} else ""
    return f"{ENSEMBLE} of {methods}{shared_score}"
