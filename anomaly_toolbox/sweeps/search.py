"""Which trials a sweep runs: its studies, and how the values of each trial are chosen. No TensorFlow here."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.models.hyperparameters import ScoringHyperparameters, validate
from anomaly_toolbox.sweeps import hps
from anomaly_toolbox.sweeps.hps import Discrete, Domain, Interval

RANDOM_TRIALS = 10  # `tpe` starts with this many random trials


@dataclass(frozen=True)
class StudySpec:
    """One study of a sweep: a method and the label that is anomalous, or the only normal one.

    A label is not a hyperparameter to be optimised, so each label has a study of its own.

    Attributes:
        method: registered name.
        schema: the method's `Hyperparameters`.
        labels: those of `runs.LABELS` where the hyperparameter file or `--set` gives them.
        settings: the domains of all other hyperparameters that were given.
        location: the file and the section of the settings; error messages start with it.
    """

    method: str
    schema: type[ScoringHyperparameters]
    labels: dict[str, Any]
    settings: dict[str, Domain]
    location: str = ""

    @property
    def name(self) -> str:
        """A name such as `GANomaly/anomalous_label=8`."""
        return "/".join([self.method, *(f"{name}={value}" for name, value in self.labels.items())])

    def hyperparameters(self, chosen: dict[str, Any]) -> ScoringHyperparameters:
        """The validated hyperparameters of a trial; `chosen` holds the values of the settings that vary."""
        fixed = {name: domain.first for name, domain in self.settings.items()}
        return validate(self.schema, {**fixed, **chosen, **self.labels})


@dataclass(frozen=True)
class Search:
    """How trials are chosen.

    Attributes:
        sampler: `grid`, `random` or `tpe`.
        trials: the number of trials of each study; None for the whole grid.
        pruner: `none` or `median`.
        seed: the seed of all random choices.
    """

    sampler: str
    trials: int | None
    pruner: str
    seed: int

    def plan(self, study: StudySpec) -> list[dict[str, Any]]:
        """The values of the varying settings for each trial of a study; {} leaves them to the sampler.

        Studies with the same settings get the same plan, so that settings can be compared over labels.

        Raises:
            InputError: the sampler cannot search these settings.
        """
        varying = {name: domain for name, domain in study.settings.items() if _varies(domain)}
        if self.sampler == "grid":
            grid = hps.as_grid(varying, study.location)
            if self.trials is None:
                return hps.combinations(grid)
        if self.trials is None:
            raise InputError(f"--sampler {self.sampler} needs --trials: how many to run for each method and label")
        n_trials = int(min(self.trials, hps.count_combinations(varying)))
        n_drawn = min(n_trials, RANDOM_TRIALS) if self.sampler == "tpe" else n_trials
        left_to_sampler: list[dict[str, Any]] = [{} for _ in range(n_trials - n_drawn)]
        return self._draw(varying, n_drawn) + left_to_sampler

    def _draw(self, varying: dict[str, Domain], number: int) -> list[dict[str, Any]]:
        """Draws this many random combinations; where all domains are discrete, no combination is drawn twice."""
        grid = {name: domain for name, domain in varying.items() if isinstance(domain, Discrete)}
        if len(grid) == len(varying):
            indices = random.Random(self.seed).sample(range(int(hps.count_combinations(grid))), number)
            return [hps.combination(grid, index) for index in sorted(indices)]
        scratch_study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=self.seed))
        return [suggest_values(scratch_study.ask(), varying) for _ in range(number)]

    def samplers(self) -> tuple[optuna.samplers.BaseSampler, optuna.pruners.BasePruner]:
        """Optuna's sampler, which chooses the values that the plan leaves open, and its pruner."""
        sampler = optuna.samplers.TPESampler(n_startup_trials=1, constant_liar=True, seed=self.seed)
        pruner = optuna.pruners.MedianPruner() if self.pruner == "median" else optuna.pruners.NopPruner()
        return sampler, pruner


def plan_all(studies: Sequence[StudySpec], search: Search) -> list[list[dict[str, Any]]]:
    """The plan of each study.

    Raises:
        InputError: the sampler cannot search a study's settings, there are too many trials, or the hyperparameters of
            a trial contradict each other.
    """
    plans = [search.plan(study) for study in studies]
    if search.trials is None:
        hps.check_count(sum(map(len, plans)))
    for study, plan in zip(studies, plans, strict=True):
        for chosen in plan:
            study.hyperparameters(chosen)
    return plans


def definition(studies: Sequence[StudySpec], search: Search, dataset: str) -> str:
    """The definition of a sweep as canonical JSON: sweeps with the same definition are the same sweep.

    Storages keep it, so its keys never change.
    """
    rows = []
    for study in studies:
        settings = {name: [type(domain).__name__, asdict(domain)] for name, domain in study.settings.items()}
        rows.append({"row": study.name, "settings": settings})
    return json.dumps({"dataset": dataset, "rows": rows, "search": asdict(search)}, sort_keys=True)


def digest(text: str) -> str:
    """Eight characters that distinguish one definition from another."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def suggest_values(trial: optuna.Trial, settings: dict[str, Domain]) -> dict[str, Any]:
    """The value of each varying setting in a trial: what was planned, or what the sampler chooses."""
    return {name: _suggest(trial, name, domain) for name, domain in settings.items() if _varies(domain)}


def _varies(domain: Domain) -> bool:
    if isinstance(domain, Interval):
        return domain.low < domain.high
    return len(domain.values) > 1


def _suggest(trial: optuna.Trial, name: str, domain: Domain) -> Any:
    if isinstance(domain, Discrete):
        return trial.suggest_categorical(name, domain.values)
    if domain.step is None:
        return trial.suggest_float(name, domain.low, domain.high, log=domain.log)
    return trial.suggest_int(name, int(domain.low), int(domain.high), step=domain.step, log=domain.log)
