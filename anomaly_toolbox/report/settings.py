"""The settings of runs: which hyperparameters belong to a setting, how settings are compared and how they are printed.

The members of an ensemble are part of its setting, so ensembles of different members never share a cell. They are not
printed: they are as many settings as there are members.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from anomaly_toolbox.runs import LABELS

MEMBERS = "members"  # the hyperparameter of an ensemble that describes its members
SEED = re.compile(r",seed=\d+$")


def without_labels(hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """The hyperparameters other than the label; the members of an ensemble in one order and without their seeds."""
    setting = {name: value for name, value in hyperparameters.items() if name not in LABELS}
    if MEMBERS in setting:
        setting[MEMBERS] = sorted(SEED.sub("", member) for member in setting[MEMBERS])
    return setting


def as_key(value: Any) -> str:
    """A hyperparameter's value, or several, as a text that can be compared and hashed."""
    return json.dumps(value, sort_keys=True, default=str)


def names_that_vary(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names of the hyperparameters, but for MEMBERS, in which settings differ, as they first occur."""
    names = dict.fromkeys(name for setting in settings for name in setting if name != MEMBERS)
    return [name for name in names if len({as_key(setting.get(name)) for setting in settings}) > 1]


def describe(setting: Mapping[str, Any], names: Sequence[str]) -> str:
    """The values of these hyperparameters: `learning_rate=0.002, width=32`."""
    return ", ".join(f"{name}={setting.get(name)}" for name in names)
