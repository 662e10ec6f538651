"""Errors that a user can correct, each in one line: what was received, and what was expected."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator

DIVERGED = "training diverged"
REMEDY = "try a lower learning_rate, or smaller loss weights"
INTERRUPTED = 130  # the exit code of commands that Ctrl-C ends, by the convention of shells
LONGEST_REASON = 300  # characters


class ToolboxError(Exception):
    """An obstacle outside the program, such as a damaged file or a full disk; the command exits with 1."""

    exit_code = 1


class InputError(ToolboxError):
    """A request that cannot be met: a wrong option, name or hyperparameter; the command exits with 2."""

    exit_code = 2


class NoClasses(InputError):
    """A method needs the classes of normal images, and the dataset has none. `--run-all` leaves such a method out."""


class Unreachable(ToolboxError):
    """A disk, a network drive or an object store does not answer, which may be over when it is tried again."""


class DamagedFile(ToolboxError):
    """A file of a run that cannot be used. The code that opened the run adds what the user can do."""


@contextlib.contextmanager
def reraise_in_one_line(action: str) -> Iterator[None]:
    """Turns any error of code outside the toolbox, even `sys.exit`, into a ToolboxError of one line.

    Args:
        action: what failed, such as `MyDataset.configure`; the message begins with it.
    """
    try:
        yield
    except ToolboxError:
        raise
    except (Exception, SystemExit) as problem:
        text = " ".join(str(problem).split())[:LONGEST_REASON]
        raise ToolboxError(f"{action} failed: {type(problem).__name__}: {text}") from problem


def reason(problem: BaseException) -> str:
    """One line for any error: the message of a ToolboxError; the class and the first line of other errors."""
    return str(problem) if isinstance(problem, ToolboxError) else f"{type(problem).__name__}: {first_line(problem)}"


def first_line(problem: BaseException) -> str:
    """The first line of an error's message, or the name of its class if it has no message."""
    return str(problem).strip().partition("\n")[0] or type(problem).__name__


def did_you_mean(received: str, valid: Iterable[str]) -> str:
    """The end of an error message about a name: the most similar valid name, if there is one, and all valid names.

    >>> did_you_mean("ganomali", ["EGBAD", "GANomaly"])
    'did you mean GANomaly? Valid names are EGBAD, GANomaly'
    """
    valid_names = list(valid)
    if not valid_names:
        return "there are none"
    all_names = ", ".join(valid_names)
    by_lowercase = {name.lower(): name for name in valid_names}
    similar = difflib.get_close_matches(received.lower(), by_lowercase, n=1)
    if similar:
        return f"did you mean {by_lowercase[similar[0]]}? Valid names are {all_names}"
    return f"valid names are {all_names}"
