"""Hyperparameter files: a JSON grid in, validated trials out. No TensorFlow here.

    {"ganomaly": {"learning_rate": {"type": "Discrete", "values": [0.0002, 0.002]},
                  "width": {"type": "IntInterval", "min": 16, "max": 64}}}

One section a method, in lower case; sections of methods that do not exist here are left alone.
"""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from anomaly_toolbox.errors import InputError, did_you_mean

DOMAIN_TYPES = ("Discrete", "RealInterval", "IntInterval")


def trials(
    schema: type[BaseModel],
    method: str,
    path: Path | None = None,
    overrides: Sequence[str] = (),
    every_combination: bool = False,
) -> list[BaseModel]:
    """The trials that a hyperparameter file asks for.

    Args:
        schema: the method's `Hyperparameters`; its defaults stand in for missing keys.
        method: the registered name of the method; its section is the same in lower case.
        path: the JSON file; without it, every value is the method's default.
        overrides: `name=value` each, which replace what the file says.
        every_combination: all combinations of the values, else only the first value of each key.

    Returns:
        Validated hyperparameters, one instance a trial, without duplicates.

    Raises:
        InputError: names the file, section and key, what was received and what would be right.
    """
    domains = _read_domains(schema, method, path, every_combination) if path else {}
    for override in overrides:
        name, value = _parse_override(schema, override)
        domains[name] = [value]
    if not every_combination:
        domains = {name: values[:1] for name, values in domains.items()}
    combinations = (dict(zip(domains, values, strict=True)) for values in itertools.product(*domains.values()))
    return list(dict.fromkeys(_whole_trial(schema, combination) for combination in combinations))


def sections(path: Path) -> set[str]:
    """The names of a file's sections; InputError if it cannot be read."""
    return set(_read_json(path))


def _read_domains(schema: type[BaseModel], method: str, path: Path, every_combination: bool) -> dict[str, list[Any]]:
    content = _read_json(path)
    section = method.lower()
    if section not in content:
        raise InputError(f"{path}: has no section {section!r}: {did_you_mean(section, content)}")
    if not isinstance(content[section], dict):
        raise InputError(
            f"{path}: {section}: expected an object of hyperparameters, received {_short(content[section])}"
        )
    domains = {}
    for name, domain in content[section].items():
        place = f"{path}: {section}.{name}"
        _check_name(schema, name, place)
        values = _values_of(domain, place, every_combination)
        domains[name] = [_checked(schema, name, value, place) for value in values]
    return domains


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_without_duplicates)
    except FileNotFoundError:
        raise InputError(f"--hps-path {path}: there is no such file") from None
    except OSError as problem:
        raise InputError(f"--hps-path {path}: cannot be read ({problem.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not UTF-8 text") from None
    except (ValueError, RecursionError) as problem:
        raise InputError(f"{path}: is not JSON: {problem}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected an object with a section for each method, received {_short(content)}")
    return content


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in one object twice")
    return content


def _values_of(domain: Any, place: str, every_combination: bool) -> list[Any]:
    if not isinstance(domain, dict) or domain.get("type") not in DOMAIN_TYPES:
        raise InputError(
            f'{place}: expected {{"type": "Discrete", "values": [...]}} (or RealInterval, IntInterval with min and '
            f"max), received {_short(domain)}"
        )
    keys = {"type", "values"} if domain["type"] == "Discrete" else {"type", "min", "max"}
    if set(domain) != keys:
        raise InputError(
            f"{place}: {domain['type']} takes {', '.join(sorted(keys))}; received {', '.join(sorted(domain))}"
        )
    if domain["type"] == "Discrete":
        if not isinstance(domain["values"], list) or not domain["values"]:
            raise InputError(
                f"{place}: values must be a list with at least one value, received {_short(domain['values'])}"
            )
        return domain["values"]
    wanted = int if domain["type"] == "IntInterval" else (int, float)
    ends = [domain["min"], domain["max"]]
    if any(isinstance(end, bool) or not isinstance(end, wanted) for end in ends) or ends[0] > ends[1]:
        raise InputError(
            f"{place}: min and max must be numbers of that type with min <= max, received {_short(domain)}"
        )
    if every_combination and ends[0] != ends[1]:
        raise InputError(f"{place}: a grid needs Discrete values, received {_short(domain)}")
    return ends  # both are checked; without a grid the first value, min, is used


def _parse_override(schema: type[BaseModel], override: str) -> tuple[str, Any]:
    name, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"--set {override}: expected name=value, for example epochs=3")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = text  # a plain word: --set select_by=last
    _check_name(schema, name, "--set")
    return name, _checked(schema, name, value, f"--set {name}")


def _check_name(schema: type[BaseModel], name: str, place: str) -> None:
    if name not in schema.model_fields:
        raise InputError(f"{place}: no hyperparameter is called {name!r}: {did_you_mean(name, schema.model_fields)}")


def _checked(schema: type[BaseModel], name: str, value: Any, place: str) -> Any:
    """`value` if the schema takes it for `name`; each key is checked alone, so that the error can name its place."""
    try:
        return getattr(schema.model_validate({name: value}), name)
    except ValidationError as problem:
        raise InputError(f"{place}: {_reason(problem)}, received {_short(value)}") from None


def _whole_trial(schema: type[BaseModel], values: dict[str, Any]) -> BaseModel:
    """The trial itself; what no key alone can show, such as keys that contradict each other, is found here."""
    try:
        return schema.model_validate(values)
    except ValidationError as problem:
        raise InputError(f"hyperparameters {_short(values)}: {_reason(problem)}") from None


def _reason(problem: ValidationError) -> str:
    """Pydantic's reasons in one clause; a union gives one for each of its members."""
    messages = dict.fromkeys(error["msg"].removeprefix("Value error, ") for error in problem.errors())
    text = " or ".join(messages).replace("Input should be", "should be")
    return text[:1].lower() + text[1:]


def _short(value: Any, limit: int = 80) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= limit else text[: limit - 1] + "…"
