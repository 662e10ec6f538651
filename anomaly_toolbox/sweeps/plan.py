"""What a command is to run, checked before anything heavy is imported. No TensorFlow here."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from anomaly_toolbox.models import hyperparameters_of
from anomaly_toolbox.sweeps import hps


@dataclass(frozen=True)
class Options:
    """What the command was asked; every field is the option of that name in `anomaly-box --help`."""

    methods: Sequence[str]
    dataset: str
    dataset_name: str
    data_dir: Path | None = None
    aspect: str | None = None
    on_bad_image: str | None = None
    all_test_images: bool = False
    white_level: int | None = None
    hps_path: Path | None = None
    tuning: bool = False
    overrides: Sequence[str] = ()
    sampler: str = "grid"
    trials: int | None = None
    pruner: str = "none"
    workers: int = 1
    storage: str | None = None
    sweep_name: str | None = None
    log_dir: Path = Path("logs")
    seed: int = 0
    overwrite: bool = False
    require_gpu: bool = False
    debug: bool = False

    @property
    def reading(self) -> dict[str, Any]:
        """What is unusual in how images are read; see `Trial`."""
        unusual = {"aspect": self.aspect not in (None, "stretch"), "all_test_images": self.all_test_images}
        unusual["white_level"] = self.white_level is not None
        return {name: getattr(self, name) for name, is_given in unusual.items() if is_given}

    @property
    def is_shared(self) -> bool:
        """Whether there may be more trials than one a method, or more workers than one."""
        return self.tuning or self.workers > 1 or self.storage is not None


@dataclass(frozen=True)
class Plan:
    """Which methods run with which hyperparameters; made by `make`.

    Attributes:
        options: of the command.
        domains: for each method the domain of each hyperparameter that was given.
        left_out: methods of which the hyperparameter file says nothing.
    """

    options: Options
    domains: dict[str, dict[str, hps.Domain]]
    left_out: Sequence[str]

    @cached_property
    def first_trials(self) -> list[tuple[str, BaseModel]]:
        """The first value of everything, for each method."""
        return [(name, hps.first_trial(hyperparameters_of(name), domains)) for name, domains in self.domains.items()]

    @cached_property
    def search(self):
        """How the trials of a sweep are chosen, a `search.Search`."""
        from anomaly_toolbox.sweeps.search import Search

        options = self.options
        return Search(options.sampler, options.trials, options.pruner, options.seed)

    @cached_property
    def studies(self) -> list:
        """The studies of a sweep, each a `search.StudySpec`: one for each method and label."""
        from anomaly_toolbox.sweeps.search import StudySpec

        studies = []
        for method, domains in self.domains.items():
            settings = {name: domain for name, domain in domains.items() if name not in hps.LABELS}
            listed_labels = {name: domains[name].values for name in hps.LABELS if name in domains}
            source = f"{self.options.hps_path}: {method.lower()}."
            for values in itertools.product(*listed_labels.values()):
                labels = dict(zip(listed_labels, values, strict=True))
                studies.append(StudySpec(method, hyperparameters_of(method), labels, settings, source))
        return studies


def make(options: Options) -> Plan:
    """The plan of a command.

    Raises:
        InputError: names the hyperparameter file or option, what was received and what would be right.
    """
    methods, left_out = _methods(options)
    plan = Plan(options, _domains(options, methods), left_out)
    if options.is_shared:
        from anomaly_toolbox.sweeps.search import plan_all
        from anomaly_toolbox.sweeps.storage import quiet_optuna

        with quiet_optuna():
            plan_all(plan.studies, plan.search)
    else:
        _ = plan.first_trials  # this validates the hyperparameters
    return plan


def _methods(options: Options) -> tuple[Sequence[str], Sequence[str]]:
    """Those that run, and those that do not.

    A file that says nothing of a method is no reason to run it with other settings than the rest, or not at all.
    """
    if len(options.methods) == 1 or options.hps_path is None:
        return options.methods, ()
    named = hps.sections(options.hps_path)
    present = [method for method in options.methods if method.lower() in named]
    absent = [method for method in options.methods if method not in present]
    return (present, absent) if present else (options.methods, ())


def _domains(options: Options, methods: Sequence[str]) -> dict[str, dict[str, hps.Domain]]:
    """Of every method, only the first values without `tuning`.

    An override goes to the methods that know it, and to all if none does.
    """
    schemas = {method: hyperparameters_of(method) for method in methods}
    everything = {name for schema in schemas.values() for name in schema.model_fields}
    found = {}
    for method, schema in schemas.items():
        of_others = everything - set(schema.model_fields)
        own = [override for override in options.overrides if override.partition("=")[0] not in of_others]
        found[method] = hps.domains(schema, method, options.hps_path, own)
        if not options.tuning:
            found[method] = {name: hps.Discrete((domain.first,)) for name, domain in found[method].items()}
    return found
