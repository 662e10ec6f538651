"""What a command is to run, checked before TensorFlow is imported. No TensorFlow here."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_toolbox.datasets import DATASETS
from anomaly_toolbox.errors import InputError, did_you_mean
from anomaly_toolbox.models import LEFT_OUT, METHODS, hyperparameters_of
from anomaly_toolbox.models.hyperparameters import Hyperparameters, ScoringHyperparameters
from anomaly_toolbox.runs import LABELS
from anomaly_toolbox.sweeps import hps

if TYPE_CHECKING:  # Optuna is imported only for commands that use it
    from anomaly_toolbox.sweeps.search import Search, StudySpec

HIGHEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class Options:
    """The options of a command; `anomaly-box --help` explains the option of the same name.

    Attributes without an option of the same name:
        methods: the registered names of the methods to run, from `--experiment` or `--run-all`.
        dataset_name: the name of the dataset in run folders and tables.
        overrides: the values of `--set`.
    """

    methods: Sequence[str]
    dataset: str
    dataset_name: str
    data_dir: Path | None = None
    aspect: str | None = None
    on_bad_image: str | None = None
    all_test_images: bool = False
    split: str | None = None
    white_level: int | None = None
    hps_path: Path | None = None
    tuning: bool = False
    overrides: Sequence[str] = ()
    sampler: str = "grid"
    trials: int | None = None
    pruner: str = "none"
    workers: int | None = None
    storage: str | None = None
    sweep_name: str | None = None
    log_dir: Path = Path("logs")
    seed: int = 0
    seeds: int = 1
    ensemble: bool = False
    overwrite: bool = False
    require_gpu: bool = False
    debug: bool = False

    @property
    def reading_options(self) -> dict[str, Any]:
        """The options for reading and dividing images that differ from their defaults; part of the name of a run."""
        changed: dict[str, Any] = {}
        if self.aspect not in (None, "stretch"):
            changed["aspect"] = self.aspect
        if self.all_test_images:
            changed["all_test_images"] = True
        if self.split not in (None, "official"):
            changed["split"] = self.split
        if self.white_level is not None:
            changed["white_level"] = self.white_level
        return changed

    @property
    def has_several_methods(self) -> bool:
        """Whether the command runs every method, with `--run-all`."""
        return len(self.methods) > 1

    @property
    def is_sweep(self) -> bool:
        """Whether the command is a sweep, whose trials wait in a storage for one or more workers."""
        return self.tuning or (self.workers or 1) > 1 or self.storage is not None


@dataclass(frozen=True)
class Plan:
    """The methods that a command runs, and their hyperparameters; made by `make_plan`.

    Attributes:
        options: the options of the command.
        domains: for each method, the domains of the hyperparameters that the file or `--set` gives.
        left_out: the methods without a section in the hyperparameter file.
        notes: a line for each section of the file that is ignored.
        number: which of the seeds of `--seeds` the options have, from 0.
    """

    options: Options
    domains: dict[str, dict[str, hps.Domain]]
    left_out: Sequence[str]
    notes: Sequence[str] = ()
    number: int = 0

    def with_each_seed(self) -> "list[Plan]":
        """The same plan with each seed of `--seeds`, from `--seed` upwards.

        Methods without epochs are run with the first seed alone, because they do not depend on it.
        """
        plans = []
        for number in range(self.options.seeds):
            options = replace(self.options, seed=self.options.seed + number)
            domains = self.domains
            if number > 0:
                domains = {name: values for name, values in domains.items() if _has_epochs(name)}
            if domains:
                plans.append(replace(self, options=options, domains=domains, number=number))
        return plans

    @cached_property
    def first_trials(self) -> list[tuple[str, ScoringHyperparameters]]:
        """Each method with the first value of each domain."""
        return [
            (method, hps.first_trial(hyperparameters_of(method), domains)) for method, domains in self.domains.items()
        ]

    @cached_property
    def search(self) -> "Search":
        """How the trials of a sweep are chosen: with the first of several seeds, so that all have the same trials."""
        from anomaly_toolbox.sweeps.search import Search

        options = self.options
        return Search(options.sampler, options.trials, options.pruner, options.seed - self.number)

    @cached_property
    def studies(self) -> list["StudySpec"]:
        """The studies of a sweep, one for each method and label."""
        from anomaly_toolbox.sweeps.search import StudySpec

        studies = []
        for method, domains in self.domains.items():
            settings = {name: domain for name, domain in domains.items() if name not in LABELS}
            label_domains = {name: domains[name] for name in LABELS if name in domains}
            location = f"{self.options.hps_path}: {method.lower()}."
            label_values = [domain.values for domain in hps.as_grid(label_domains, location).values()]
            for values in itertools.product(*label_values):
                labels = dict(zip(label_domains, values, strict=True))
                studies.append(StudySpec(method, hyperparameters_of(method), labels, settings, location))
        return studies


def make_plan(options: Options) -> Plan:
    """Makes the plan of a command and validates all hyperparameters.

    Raises:
        InputError: a hyperparameter is wrong; the message names the file or the option, and what was expected.
    """
    if options.seed + options.seeds - 1 > HIGHEST_SEED:
        raise InputError(
            f"--seeds {options.seeds}: the last seed would be {options.seed + options.seeds - 1}; expected at most "
            f"{HIGHEST_SEED}, so give a lower --seed"
        )
    if options.seeds > 1 and options.sampler == "tpe":
        raise InputError("--seeds: --sampler tpe would choose other trials for each seed; choose grid or random")
    methods, left_out = _choose_methods(options)
    plan = Plan(options, _read_domains(options, methods), left_out, _notes_on_sections(options))
    _check_labels(plan)
    if options.is_sweep:
        from anomaly_toolbox.sweeps.search import plan_all
        from anomaly_toolbox.sweeps.storage import quiet_optuna

        with quiet_optuna():
            plan_all(plan.studies, plan.search)
    else:
        _ = plan.first_trials  # this validates the hyperparameters
    return plan


def _check_labels(plan: Plan) -> None:
    """Raises InputError if a label is given for a folder of images, whose subfolders say what is anomalous."""
    dataset = plan.options.dataset
    if plan.options.dataset_name in DATASETS or not Path(dataset).is_dir():
        return
    for method, domains in plan.domains.items():
        for name in LABELS:
            if name in domains and domains[name].first is not None:
                is_option = any(override.startswith(f"{name}=") for override in plan.options.overrides)
                where = f"--set {name}" if is_option else f"{plan.options.hps_path}: {method.lower()}.{name}"
                raise InputError(
                    f"{where}: {domains[name].first!r} given; the folders in {dataset} determine which images are "
                    "anomalous, so leave it out"
                )


def _has_epochs(method: str) -> bool:
    return issubclass(hyperparameters_of(method), Hyperparameters)


def _choose_methods(options: Options) -> tuple[Sequence[str], Sequence[str]]:
    """The methods to run, and the methods to leave out.

    With several methods, those without a section in the hyperparameter file are left out: with their default settings
    they could not be compared with the others.
    """
    if not options.has_several_methods or options.hps_path is None:
        return options.methods, ()
    sections = hps.section_names(options.hps_path)
    present = [method for method in options.methods if method.lower() in sections]
    absent = [method for method in options.methods if method not in present]
    if not present:
        notes = _notes_on_sections(options)
        if notes:
            raise InputError(f"{notes[0]}; no other section is for a method of this toolbox")
        return options.methods, ()  # reading the first of them raises the error
    return present, absent


def _notes_on_sections(options: Options) -> list[str]:
    """A line for each section of the hyperparameter file that is not for a method of this toolbox."""
    if options.hps_path is None:
        return []
    known = [name.lower() for name in METHODS]
    reasons = {name.lower(): f"{name} is left out: {reason}" for name, reason in LEFT_OUT.items()}
    notes = []
    for name in sorted(hps.section_names(options.hps_path) - set(known)):
        reason = reasons.get(name) or f"no method is called so: {did_you_mean(name, known)}"
        notes.append(f"{options.hps_path}: the section {name} is ignored: {reason}")
    return notes


def _read_domains(options: Options, methods: Sequence[str]) -> dict[str, dict[str, hps.Domain]]:
    """The domains of each method; without `--tuning` only the first value of each domain.

    A value of `--set` applies to the methods that have this hyperparameter. A name that no method has goes to all of
    them, so that it is reported as a mistake.
    """
    schemas = {method: hyperparameters_of(method) for method in methods}
    all_names = {name for schema in schemas.values() for name in schema.model_fields}
    domains_of_methods = {}
    for method, schema in schemas.items():
        names_of_others = all_names - set(schema.model_fields)
        overrides = [text for text in options.overrides if text.partition("=")[0] not in names_of_others]
        domains = hps.read_domains(schema, method, options.hps_path, overrides)
        if not options.tuning:
            domains = {name: hps.Discrete((domain.first,)) for name, domain in domains.items()}
        domains_of_methods[method] = domains
    return domains_of_methods
