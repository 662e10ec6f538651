"""Writes the tables of docs/hyperparameters.md from the schemas in `anomaly_toolbox/models/hyperparameters.py`.

python docs/hyperparameters.py

The text above the marker is written by hand and stays as it is. TensorFlow is not imported.
"""

from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from anomaly_toolbox.models import METHODS, hyperparameters_of
from anomaly_toolbox.models.hyperparameters import GANHyperparameters, ScoringHyperparameters

PAGE = Path(__file__).with_suffix(".md")
MARKER = "<!-- `make docs` writes everything below this line. -->\n"
TABLE_HEAD = "| name | default | values | meaning |\n| --- | --- | --- | --- |"
TYPES = {int: "whole number", float: "number", str: "text", bool: "true or false", NoneType: "none"}


def with_tables(page: str) -> str:
    """The page with new tables below its marker."""
    written_by_hand, marker, _ = page.partition(MARKER)
    assert marker, f"{PAGE.name} has no line {MARKER!r}"
    return written_by_hand + marker + "\n" + tables()


def tables() -> str:
    """A table for all methods, one for all GANs, and one for each method."""
    gans = [name for name in METHODS if issubclass(hyperparameters_of(name), GANHyperparameters)]
    title = f"{', '.join(gans[:-1])} and {gans[-1]}"
    sections = [
        section("Every method", ScoringHyperparameters, BaseModel),
        section(title, GANHyperparameters, ScoringHyperparameters),
    ]
    for name in METHODS:
        sections.append(
            section(name, hyperparameters_of(name), GANHyperparameters if name in gans else ScoringHyperparameters)
        )
    return "\n".join(sections)


def section(title: str, schema: type[BaseModel], base: type[BaseModel]) -> str:
    """A title, and a table of the hyperparameters of `schema` that `base` does not have or has with other values."""
    rows = []
    for name, field in schema.model_fields.items():
        row = table_row(name, field)
        if name not in base.model_fields or row != table_row(name, base.model_fields[name]):
            rows.append(row)
    return "\n".join([f"### {title}", "", TABLE_HEAD, *rows, ""])


def table_row(name: str, field: FieldInfo) -> str:
    """A line of a table in Markdown."""
    default = value_as_text(field.default)
    # A bar would end the cell.
    meaning = (field.description or "").replace("|", "\\|")
    return f"| `{name}` | {default} | {possible_values(field)} | {meaning} |"


def possible_values(field: FieldInfo) -> str:
    """Such as `whole number, 16 to 1,024, multiple of 16` or `paper, residual`."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(get_args(field.annotation))
    types = [TYPES[kind] for kind in get_args(field.annotation) or (field.annotation,)]
    limits = limits_as_text(field)
    if limits:
        types[0] += f", {limits}"
        return "; or ".join(types)
    return ", ".join(types[:-1]) + f" or {types[-1]}" if len(types) > 1 else types[0]


def limits_as_text(field: FieldInfo) -> str:
    """Such as `0 to 1`, `above 0, at most 1` or an empty text."""
    limits = {}
    for rule in field.metadata:
        for name in ("ge", "gt", "le", "lt", "multiple_of"):
            if hasattr(rule, name):
                limits[name] = f"{getattr(rule, name):,}"
    if "ge" in limits and "le" in limits:
        limits["ge"] += f" to {limits.pop('le')}"
    elif "ge" in limits:
        limits["ge"] = f"at least {limits['ge']}"
    words = {"gt": "above ", "le": "at most ", "lt": "below ", "multiple_of": "multiple of "}
    return ", ".join(words.get(name, "") + limit for name, limit in limits.items())


def value_as_text(value: object) -> str:
    """A value as a hyperparameter file or `--set` takes it."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return str(value)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
