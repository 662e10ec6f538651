"""Errors that a person can mend: one line that says what was received and what would be right."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator

DIVERGED, REMEDY = "training diverged", "try a lower learning_rate, or smaller weights of losses"
INTERRUPTED = 130  # what a shell reports of a command that Ctrl-C ended


class ToolboxError(Exception):
    """Something outside the program is in the way (a damaged file, a full disk); the command exits with 1."""

    exit_code = 1


class InputError(ToolboxError):
    """What was asked for cannot be: a wrong option, name or hyperparameter; the command exits with 2."""

    exit_code = 2


class DamagedFile(ToolboxError):
    """A run's file that cannot be used; whoever opened the run adds what can be done."""


@contextlib.contextmanager
def problems_of(what: str) -> Iterator[None]:
    """Turns whatever a user's own code raises, even `sys.exit`, into one line that says where it arose."""
    try:
        yield
    except ToolboxError:
        raise
    except (Exception, SystemExit) as problem:
        reason = " ".join(str(problem).split())[:300]
        raise ToolboxError(f"{what} failed: {type(problem).__name__}: {reason}") from problem


def reason(problem: BaseException) -> str:
    """One line: what a ToolboxError says, and of other errors their kind besides."""
    return str(problem) if isinstance(problem, ToolboxError) else f"{type(problem).__name__}: {first_line(problem)}"


def first_line(problem: BaseException) -> str:
    """The first line of an error's text, or its kind if it has none."""
    return str(problem).strip().partition("\n")[0] or type(problem).__name__


def did_you_mean(received: str, valid: Iterable[str]) -> str:
    """The end of an error about a name: the nearest valid one if any is near, then all of them.

    >>> did_you_mean("ganomali", ["GANomaly"])
    'did you mean GANomaly? There are GANomaly'
    """
    valid = list(valid)
    lowered = {name.lower(): name for name in valid}
    near = difflib.get_close_matches(received.lower(), lowered, n=1)
    there = f"here are {', '.join(valid) or 'none'}"
    return f"did you mean {lowered[near[0]]}? T{there}" if near else f"t{there}"
