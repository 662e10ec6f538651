"""Reads hyperparameter files: JSON files with a domain for each hyperparameter. No TensorFlow here.

    {"ganomaly": {"learning_rate": {"type": "Discrete", "values": [0.0002, 0.002]},
                  "width": {"type": "IntInterval", "min": 16, "max": 64, "log": true}}}

Each method has a section, whose name may be in any letter case. Sections of unknown methods are ignored, with a note.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from anomaly_toolbox.errors import InputError, did_you_mean
from anomaly_toolbox.models.hyperparameters import TWO_LABELS, Schema, explain, shortened, validate
from anomaly_toolbox.runs import LABELS

#: Of two labels that contradict each other, the one that `--set` gives displaces the one in the file.
DISPLACES = {"anomalous_label": "normal_label", "normal_label": "anomalous_label"}
MOST_COMBINATIONS = 10_000
WORDS = {"none": None, "true": True, "false": False}  # accepted by --set besides JSON, in any letter case
REQUIRED_KEYS = {
    "Discrete": {"type", "values"},
    "RealInterval": {"type", "min", "max"},
    "IntInterval": {"type", "min", "max"},
}
OPTIONAL_KEYS = {"Discrete": set[str](), "RealInterval": {"log"}, "IntInterval": {"log"}}


@dataclass(frozen=True)
class Discrete:
    """A list of values without duplicates."""

    values: tuple[Any, ...]

    @property
    def first(self) -> Any:
        """The value that is used without `--tuning`."""
        return self.values[0]


@dataclass(frozen=True)
class Interval:
    """All numbers from `low` to `high`, both included.

    Attributes:
        low: the smallest number.
        high: the largest number.
        log: whether samplers draw the logarithm uniformly, so that each power of ten is equally likely.
        step: the distance between neighbouring whole numbers; None for real numbers.
    """

    low: float
    high: float
    log: bool
    step: int | None

    @property
    def first(self) -> float:
        """The value that is used without `--tuning`."""
        return self.low


Domain = Discrete | Interval


def read_domains(
    schema: type[BaseModel], method: str, path: Path | None = None, overrides: Sequence[str] = ()
) -> dict[str, Domain]:
    """Reads the domains of a method's hyperparameters; hyperparameters without a domain keep their default.

    Args:
        schema: the method's `Hyperparameters`.
        method: the registered name of the method, which is also the name of its section.
        path: the JSON file, or None.
        overrides: texts of the form `name=value`, which replace the domains of the file. `normal_label` also replaces
            `anomalous_label` of the file, and the reverse, because only one of them can be set.

    Returns:
        Domains by the name of the hyperparameter, in the order of the file.

    Raises:
        InputError: the file or an override is wrong; the message names the place, what was received and expected.
    """
    domains = _read_section(schema, method, path) if path else {}
    values = dict(_parse_override(schema, override) for override in overrides)
    if all(values.get(name) is not None for name in DISPLACES):
        raise InputError(f"--set: {TWO_LABELS}")
    for name, value in values.items():
        domains[name] = Discrete((value,))
        if value is not None and name in DISPLACES:
            domains.pop(DISPLACES[name], None)
    return domains


def first_trial(schema: type[Schema], domains: Mapping[str, Domain]) -> Schema:
    """The hyperparameters that are used without `--tuning`: the first value of each domain.

    Raises:
        InputError: the values contradict each other.
    """
    return validate(schema, {name: domain.first for name, domain in domains.items()})


def combinations(grid: Mapping[str, Discrete]) -> list[dict[str, Any]]:
    """Every combination of the listed values; the last hyperparameter changes fastest.

    Raises:
        InputError: there are more than 10,000 combinations.
    """
    count = math.prod(len(domain.values) for domain in grid.values())
    check_count(count)
    return [combination(grid, index) for index in range(count)]


def combination(grid: Mapping[str, Discrete], index: int) -> dict[str, Any]:
    """The combination at this index of `combinations`, computed without the others.

    The indices of its values are the digits of `index`; the base of each digit is the number of values of its domain.
    """
    values = {}
    for name, domain in reversed(list(grid.items())):
        index, value_index = divmod(index, len(domain.values))
        values[name] = domain.values[value_index]
    return {name: values[name] for name in grid}


def count_combinations(domains: Mapping[str, Domain]) -> float:
    """The number of combinations, which is infinite with an interval."""
    return math.prod(len(domain.values) if isinstance(domain, Discrete) else math.inf for domain in domains.values())


def check_count(count: int) -> None:
    """Raises InputError for more than 10,000 combinations."""
    if count > MOST_COMBINATIONS:
        raise InputError(
            f"the grid has {count:,} combinations, more than {MOST_COMBINATIONS:,}; choose with --trials how many of "
            "them to run for each method and label"
        )


def as_grid(domains: Mapping[str, Domain], location: str) -> dict[str, Discrete]:
    """The same domains as a grid, which can list all of their values.

    Args:
        domains: domains by the name of the hyperparameter.
        location: the file and the section of the domains; the error message starts with it.

    Raises:
        InputError: a domain is an interval.
    """
    grid = {}
    for name, domain in domains.items():
        if isinstance(domain, Interval):
            raise InputError(
                f"{location}{name}: a grid needs Discrete values, received an interval, {domain.low} to {domain.high}; "
                "search it with --sampler random or --sampler tpe, and --trials"
            )
        grid[name] = domain
    return grid


def section_names(path: Path) -> set[str]:
    """The names of all sections of a file, in lower case.

    Raises:
        InputError: the file cannot be read.
    """
    return set(_read_sections(path))


def _read_section(schema: type[BaseModel], method: str, path: Path) -> dict[str, Domain]:
    sections = _read_sections(path)
    if method.lower() not in sections:
        names = [name for name, _ in sections.values()]
        others = f"its sections are {', '.join(names)}" if names else "it has no sections"
        raise InputError(f"{path}: has no section {method.lower()!r} for {method}; {others}")
    section_name, section = sections[method.lower()]
    if not isinstance(section, dict):
        raise InputError(
            f"{path}: {section_name}: expected an object of hyperparameters, received {shortened(section)}"
        )
    domains = {}
    for name, content in section.items():
        location = f"{path}: {section_name}.{name}"
        _check_name(schema, name, location)
        domains[name] = _parse_domain(schema, name, content, location)
    if all(_gives_a_value(domains.get(name)) for name in DISPLACES):
        raise InputError(f"{path}: {section_name}: {TWO_LABELS}")
    return domains


def _gives_a_value(domain: Domain | None) -> bool:
    return isinstance(domain, Discrete) and any(value is not None for value in domain.values)


def _read_sections(path: Path) -> dict[str, tuple[str, Any]]:
    """The name of each section as written in the file, and its content, by the name in lower case."""
    sections: dict[str, tuple[str, Any]] = {}
    for name, content in _read_json(path).items():
        if name.lower() in sections:
            other_name, _ = sections[name.lower()]
            raise InputError(f"{path}: {other_name!r} and {name!r} name the same section; expected one of them")
        sections[name.lower()] = (name, content)
    return sections


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors put a byte-order mark at the beginning
        content = json.loads(text, object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise InputError(f"--hps-path {path}: there is no such file") from None
    except OSError as problem:
        raise InputError(f"--hps-path {path}: cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{path}: is not JSON: {problem}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object with a section for each method, received {shortened(content)}")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object as a dict; raises ValueError if a name appears twice."""
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"{name!r} appears twice in one object")
        content[name] = value
    return content


def _parse_domain(schema: type[BaseModel], name: str, content: Any, location: str) -> Domain:
    domain_type = content.get("type") if isinstance(content, dict) else None
    if not isinstance(domain_type, str) or domain_type not in REQUIRED_KEYS:
        raise InputError(
            f'{location}: expected {{"type": "Discrete", "values": [...]}} (or RealInterval, IntInterval with min and '
            f"max), received {shortened(content)}"
        )
    keys = set(content)
    required, optional = REQUIRED_KEYS[domain_type], OPTIONAL_KEYS[domain_type]
    if not required <= keys <= required | optional:
        options = f" and may have {', '.join(sorted(optional))}" if optional else ""
        expected, received = ", ".join(sorted(required)), ", ".join(sorted(keys))
        raise InputError(f"{location}: {domain_type} takes {expected}{options}; received {received}")
    if domain_type == "Discrete":
        return _parse_discrete(schema, name, content["values"], location)
    return _parse_interval(schema, name, content, location)


def _parse_discrete(schema: type[BaseModel], name: str, values: Any, location: str) -> Discrete:
    if not isinstance(values, list) or not values:
        raise InputError(f"{location}: values must be a list with at least one value, received {shortened(values)}")
    validated = [_validated(schema, name, value, location) for value in values]
    return Discrete(tuple(dict.fromkeys(validated)))  # a dict removes duplicates and keeps the order


def _parse_interval(schema: type[BaseModel], name: str, content: dict[str, Any], location: str) -> Interval:
    is_whole = content["type"] == "IntInterval"
    low, high, log = content["min"], content["max"], content.get("log", False)
    number_types = int if is_whole else (int, float)
    are_numbers = all(isinstance(end, number_types) and not isinstance(end, bool) for end in (low, high))
    if not are_numbers or low > high:
        raise InputError(
            f"{location}: min and max must be numbers of that type with min <= max, received {shortened(content)}"
        )
    if not isinstance(log, bool) or (log and low <= 0):
        raise InputError(
            f"{location}: log must be true or false, and true only where min > 0, received {shortened(content)}"
        )
    if name in LABELS:
        raise InputError(f"{location}: labels must be Discrete values, received {shortened(content)}")
    low = _validated(schema, name, low, location)
    high = _validated(schema, name, high, location)
    if not is_whole:
        if isinstance(low, int) or isinstance(high, int):
            raise InputError(f"{location}: takes whole numbers only, use IntInterval; received {shortened(content)}")
        return Interval(low, high, log, step=None)
    step = _step(schema, name)
    if log and step > 1:
        raise InputError(f"{location}: must be a multiple of {step}, which log cannot guarantee; leave log out")
    return Interval(low, high, log, step)


def _step(schema: type[BaseModel], name: str) -> int:
    """The number that a whole-number hyperparameter must be a multiple of; 1 if its schema has no such rule."""
    for rule in schema.model_fields[name].metadata:
        multiple_of = getattr(rule, "multiple_of", None)
        if multiple_of is not None:
            return int(multiple_of)
    return 1


def _parse_override(schema: type[BaseModel], override: str) -> tuple[str, Any]:
    name, equals_sign, text = override.partition("=")
    if not equals_sign:
        raise InputError(f"--set {override!r}: expected name=value, for example epochs=3")
    _check_name(schema, name, "--set")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text  # a plain word: --set select_by=last
        word = text.strip().lower()
        if word in WORDS and _is_valid(schema, name, WORDS[word]):
            value = WORDS[word]
    return name, _validated(schema, name, value, f"--set {name}")


def _is_valid(schema: type[BaseModel], name: str, value: Any) -> bool:
    try:
        _field(schema, name).validate_python(value)
    except ValidationError:
        return False
    return True


def _check_name(schema: type[BaseModel], name: str, location: str) -> None:
    if name not in schema.model_fields:
        raise InputError(f"{location}: no hyperparameter is called {name!r}: {did_you_mean(name, schema.model_fields)}")


def _validated(schema: type[BaseModel], name: str, value: Any, location: str) -> Any:
    """The validated value of one hyperparameter; raises InputError with its location in the file or command."""
    try:
        return _field(schema, name).validate_python(value)
    except ValidationError as problem:
        raise InputError(f"{location}: {explain(problem)}, received {shortened(value)}") from None


def _field(schema: type[BaseModel], name: str) -> TypeAdapter[Any]:
    """What validates a single hyperparameter, without the others, which may contradict it by default."""
    field = schema.model_fields[name]
    annotation: Any = Annotated[field.annotation, field]
    return TypeAdapter(annotation, config=schema.model_config)
