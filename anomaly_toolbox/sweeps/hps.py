"""Hyperparameter files: a JSON grid in, validated trials out. No TensorFlow here.

    {"ganomaly": {"learning_rate": {"type": "Discrete", "values": [0.0002, 0.002]},
                  "width": {"type": "IntInterval", "min": 16, "max": 64, "log": true}}}

One section a method, its name in any letter case; sections of methods that do not exist here are left alone.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from anomaly_toolbox.errors import InputError, did_you_mean
from anomaly_toolbox.models.hyperparameters import explain, shortened, validate

LABELS = ("anomalous_label", "class_label")  # rows of a comparison; never something to be optimised
MOST_COMBINATIONS = 10_000
WORDS = {"none": None, "true": True, "false": False}  # as --set takes them, in any letter case
DOMAIN_KEYS = {
    "Discrete": ({"type", "values"}, set()),
    "RealInterval": ({"type", "min", "max"}, {"log"}),
    "IntInterval": ({"type", "min", "max"}, {"log"}),
}


@dataclass(frozen=True)
class Discrete:
    """One of these values, without duplicates."""

    values: tuple[Any, ...]

    @property
    def first(self) -> Any:
        """What is used where nothing is tuned."""
        return self.values[0]


@dataclass(frozen=True)
class Interval:
    """A number from `low` to `high`, both included; with `log`, each power of ten is as likely as the next.

    `step` is the distance of neighbouring whole numbers, None for real ones.
    """

    low: float
    high: float
    log: bool
    step: int | None

    @property
    def first(self) -> float:
        """What is used where nothing is tuned."""
        return self.low


Domain = Discrete | Interval


def domains(
    schema: type[BaseModel], method: str, path: Path | None = None, overrides: Sequence[str] = ()
) -> dict[str, Domain]:
    """What a hyperparameter file says of each hyperparameter; those it leaves out have the schema's default.

    Args:
        schema: the method's `Hyperparameters`.
        method: the registered name of the method; its section is the same in lower case.
        path: the JSON file, or None.
        overrides: `name=value` each, which replace what the file says.

    Raises:
        InputError: names the file, section and key, what was received and what would be right.
    """
    found = _read_domains(schema, method, path) if path else {}
    for override in overrides:
        name, value = _parse_override(schema, override)
        found[name] = Discrete((value,))
    return found


def first_trial(schema: type[BaseModel], found: Mapping[str, Domain]) -> BaseModel:
    """The first value of each domain: what runs where nothing is tuned."""
    return validate(schema, {name: domain.first for name, domain in found.items()})


def combinations(found: Mapping[str, Domain]) -> list[dict[str, Any]]:
    """Every combination of Discrete values, in the order of the file; InputError if there are more than 10,000."""
    count = count_combinations(found)
    check_count(count)
    return [combination(found, index) for index in range(count)]


def check_count(count: int) -> None:
    """Raises InputError for more than 10,000 combinations."""
    if count > MOST_COMBINATIONS:
        raise InputError(
            f"the grid has {count:,} combinations, more than {MOST_COMBINATIONS:,}; say with --trials how many of them "
            "to run for each method and label"
        )


def check_grid(found: Mapping[str, Domain], place: str) -> None:
    """Raises InputError, which begins with `place`, if there is an interval, which a grid cannot enumerate."""
    for name, domain in found.items():
        if isinstance(domain, Interval):
            raise InputError(
                f"{place}{name}: a grid needs Discrete values, received an interval, {domain.low} to {domain.high}; "
                "--sampler random or --sampler tpe searches it, with --trials"
            )


def count_combinations(found: Mapping[str, Domain]) -> int | float:
    """How many combinations there are; infinitely many with an interval."""
    return math.prod(len(domain.values) if isinstance(domain, Discrete) else math.inf for domain in found.values())


def combination(found: Mapping[str, Domain], index: int) -> dict[str, Any]:
    """Number `index` of `combinations`, without making the others."""
    values = {}
    for name, domain in reversed(found.items()):
        index, place = divmod(index, len(domain.values))
        values[name] = domain.values[place]
    return {name: values[name] for name in found}


def sections(path: Path) -> set[str]:
    """The names of a file's sections, in lower case; InputError if it cannot be read."""
    return set(_read_sections(path))


def _read_domains(schema: type[BaseModel], method: str, path: Path) -> dict[str, Domain]:
    content = _read_sections(path)
    if method.lower() not in content:
        names = [name for name, _ in content.values()]
        raise InputError(f"{path}: has no section {method.lower()!r}: {did_you_mean(method, names)}")
    section, hyperparameters = content[method.lower()]
    if not isinstance(hyperparameters, dict):
        raise InputError(
            f"{path}: {section}: expected an object of hyperparameters, received {shortened(hyperparameters)}"
        )
    found = {}
    for name, domain in hyperparameters.items():
        place = f"{path}: {section}.{name}"
        _check_name(schema, name, place)
        found[name] = _domain(schema, name, domain, place)
    return found


def _read_sections(path: Path) -> dict[str, tuple[str, Any]]:
    """For each section, in lower case, its name as it stands in the file, and what it holds."""
    content: dict[str, tuple[str, Any]] = {}
    for name, section in _read_json(path).items():
        other, _ = content.setdefault(name.lower(), (name, section))
        if other != name:
            raise InputError(f"{path}: {other!r} and {name!r} are one section; expected it once")
    return content


def _read_json(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors may put a byte-order mark at the beginning
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
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} appears twice in one object")
    return content


def _domain(schema: type[BaseModel], name: str, domain: Any, place: str) -> Domain:
    kind = domain.get("type") if isinstance(domain, dict) else None
    if not isinstance(kind, str) or kind not in DOMAIN_KEYS:
        raise InputError(
            f'{place}: expected {{"type": "Discrete", "values": [...]}} (or RealInterval, IntInterval with min and '
            f"max), received {shortened(domain)}"
        )
    needed, possible = DOMAIN_KEYS[kind]
    if not needed <= set(domain) <= needed | possible:
        may = f" and may have {', '.join(sorted(possible))}" if possible else ""
        raise InputError(
            f"{place}: {kind} takes {', '.join(sorted(needed))}{may}; received {', '.join(sorted(domain))}"
        )
    if kind == "Discrete":
        if not isinstance(domain["values"], list) or not domain["values"]:
            raise InputError(
                f"{place}: values must be a list with at least one value, received {shortened(domain['values'])}"
            )
        return Discrete(tuple(dict.fromkeys(_checked(schema, name, value, place) for value in domain["values"])))
    return _interval(schema, name, domain, place)


def _interval(schema: type[BaseModel], name: str, domain: dict[str, Any], place: str) -> Interval:
    is_whole = domain["type"] == "IntInterval"
    low, high, log = domain["min"], domain["max"], domain.get("log", False)
    wanted = int if is_whole else (int, float)
    if any(isinstance(end, bool) or not isinstance(end, wanted) for end in (low, high)) or low > high:
        raise InputError(
            f"{place}: min and max must be numbers of that type with min <= max, received {shortened(domain)}"
        )
    if not isinstance(log, bool) or (log and low <= 0):
        raise InputError(
            f"{place}: log must be true or false, and true only where min > 0, received {shortened(domain)}"
        )
    if name in LABELS:
        raise InputError(f"{place}: labels are listed, as Discrete values, received {shortened(domain)}")
    ends = [_checked(schema, name, end, place) for end in (low, high)]
    if not is_whole and any(isinstance(end, int) for end in ends):
        raise InputError(f"{place}: takes whole numbers only, use IntInterval; received {shortened(domain)}")
    step = 1
    for rule in schema.model_fields[name].metadata:
        step = getattr(rule, "multiple_of", None) or step
    if log and step > 1:
        raise InputError(f"{place}: has to be a multiple of {step}, which log cannot keep; leave log out")
    return Interval(*ends, log, int(step) if is_whole else None)


def _parse_override(schema: type[BaseModel], override: str) -> tuple[str, Any]:
    name, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"--set {override!r}: expected name=value, for example epochs=3")
    _check_name(schema, name, "--set")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text  # a plain word: --set select_by=last
        word = WORDS.get(text.strip().lower(), text)
        if word is not text and _is_valid(schema, name, word):
            value = word
    return name, _checked(schema, name, value, f"--set {name}")


def _is_valid(schema: type[BaseModel], name: str, value: Any) -> bool:
    try:
        schema.model_validate({name: value})
    except ValidationError:
        return False
    return True


def _check_name(schema: type[BaseModel], name: str, place: str) -> None:
    if name not in schema.model_fields:
        raise InputError(f"{place}: no hyperparameter is called {name!r}: {did_you_mean(name, schema.model_fields)}")


def _checked(schema: type[BaseModel], name: str, value: Any, place: str) -> Any:
    """`value` if the schema takes it for `name`; each key is checked alone, so that the error can name its place."""
    try:
        return getattr(schema.model_validate({name: value}), name)
    except ValidationError as problem:
        raise InputError(f"{place}: {explain(problem)}, received {shortened(value)}") from None
