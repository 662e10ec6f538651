"""The settings of runs: which hyperparameters belong to a setting, how settings are compared and how they are printed.

The members of an ensemble are part of its setting, so ensembles of different members never share a cell. A list of
members names a run for each label, though: what it says about the label is left out, as it is for other methods.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

LABELS = ("anomalous_label", "class_label")
MEMBERS = "members"  # the hyperparameter of an ensemble that lists its members
LABEL_IN_A_RUN_NAME = re.compile(rf"\b(?:{'|'.join(LABELS)})=[^,/]*,?")


def without_labels(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters other than the label, also those in a list of members."""
    setting = {name: value for name, value in hyperparameters.items() if name not in LABELS}
    if MEMBERS in setting:
        setting[MEMBERS] = _members_without_labels(setting[MEMBERS])
    return setting


def as_key(value: Any) -> str:
    """A hyperparameter's value, or several, as a text that can be compared and hashed."""
    return json.dumps(value, sort_keys=True, default=str)


def names_that_vary(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the hyperparameters in which settings differ, in the order of their first occurrence."""
    names = dict.fromkeys(name for setting in settings for name in setting)
    return [name for name in names if len({as_key(setting.get(name)) for setting in settings}) > 1]


def describe(setting: Mapping[str, Any], names: Sequence[str]) -> str:
    """The values of these hyperparameters: `learning_rate=0.002, width=32`."""
    return ", ".join(f"{name}={_as_text(setting.get(name))}" for name in names)


def _members_without_labels(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _members_without_labels(entry) for name, entry in value.items() if name not in LABELS}
    if isinstance(value, list | tuple):
        return [_members_without_labels(entry) for entry in value]
    return LABEL_IN_A_RUN_NAME.sub("", value) if isinstance(value, str) else value


def _as_text(value: Any) -> str:
    """A value as text. Those of a list are joined: `GANomaly (score=paper, seed=0) + KNN (score=paper, seed=0)`."""
    if isinstance(value, list | tuple):
        return " + ".join(_as_text(entry) for entry in value)
    if isinstance(value, Mapping):
        others = [f"{name}={_as_text(entry)}" for name, entry in value.items() if name != "experiment"]
        return f"{value.get('experiment', '')} ({', '.join(others)})".strip()
    return str(value)
