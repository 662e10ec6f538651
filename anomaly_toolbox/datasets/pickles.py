"""Arrays of bytes from pickles, such as those of Python 2, without running any code that a pickle names.

A pickle is a program: it can call any function of any module. Here, the few names that a pickle of a NumPy array needs
stand for records, which keep what they are given and do nothing. All other names are refused. NumPy itself is not
called either, because a forged state of an array could make it read from any address. Python 3 can write bytes as a
call that encodes a text; this call is made here, for the encoding that it uses.
"""

import io
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_toolbox.errors import ToolboxError, first_line

#: The names that pickles of NumPy arrays contain, before and since NumPy 2.
RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")  # of Python's protocol 5
ALLOWED = (*RECONSTRUCT, *FROM_BUFFER, "numpy.ndarray", "numpy.dtype")
ENCODE = "_codecs.encode"  # of Python 3's protocols 0 to 2
BYTES = ((b"u1",), ("u1",))  # the first argument of `numpy.dtype` for bytes


def read_pickled_dict(path: Path) -> dict[Any, Any]:
    """Reads a pickled dict of texts (as bytes), numbers, lists and arrays of bytes.

    Args:
        path: a pickle of Python 2 or 3.

    Returns:
        The dict, whose arrays are records; `array_of` makes arrays of them.

    Raises:
        ToolboxError: the file is damaged, is not a pickle of a dict, or names anything that an array does not need.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    try:
        loaded = _Unpickler(content, path).load()
    except ToolboxError:
        raise
    except Exception as problem:  # a damaged pickle can raise almost anything
        raise ToolboxError(f"{path} is damaged, or not a pickle: {first_line(problem)}") from None
    if not isinstance(loaded, dict):
        raise ToolboxError(f"{path}: expected a pickled dict, received {type(loaded).__name__}")
    return loaded


def array_of(value: Any) -> np.ndarray | None:
    """The array of bytes, uint8, that a value in a pickled dict describes; None if it describes none."""
    if not isinstance(value, _Record):
        return None
    if value.name in RECONSTRUCT and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, dtype, is_column_major, content = value.state
    elif value.name in FROM_BUFFER and len(value.arguments) == 4:
        content, dtype, shape, order = value.arguments
        is_column_major = order == "F"
    else:
        return None
    is_shape = isinstance(shape, tuple) and all(type(length) is int and length >= 0 for length in shape)
    is_of_bytes = isinstance(dtype, _Record) and dtype.name == "numpy.dtype" and dtype.arguments[:1] in BYTES
    if not (is_shape and is_of_bytes and isinstance(content, (bytes, bytearray)) and len(content) == math.prod(shape)):
        return None
    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if is_column_major else "C")


def name_of_type(value: Any) -> str:
    """What a value in a pickled dict is, for errors."""
    if isinstance(value, _Record):
        return "an array" if value.name in (*RECONSTRUCT, *FROM_BUFFER) else value.name
    return "nothing" if value is None else type(value).__name__


class _Record:
    """Stands for a function or class that a pickle names, and for what the pickle makes with it; it does nothing.

    Attributes:
        name: the full name of the function or class.
        arguments: what the pickle called it with.
        state: what the pickle set as its state.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...] = ()):
        self.name, self.arguments, self.state = name, arguments, None

    def __call__(self, *arguments: Any) -> "_Record":
        return _Record(self.name, arguments)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _encode(text: Any, encoding: Any) -> bytes:
    """The bytes of a text that Python 3 wrote instead of them."""
    if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
        raise ValueError(f"expected a text in latin1, received {type(text).__name__} in {encoding!r}")
    return text.encode("latin1")


class _Unpickler(pickle.Unpickler):
    """Reads a pickle whose names all stand for records."""

    def __init__(self, content: bytes, path: Path):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self._path = path

    def find_class(self, module: str, name: str) -> Any:
        """A record instead of what the pickle names; raises ToolboxError if an array does not need it."""
        full_name = f"{module}.{name}"
        if full_name == ENCODE:
            return _encode
        if full_name not in ALLOWED:
            raise ToolboxError(
                f"{self._path} is refused: it names {full_name}, which could run code; expected nothing but arrays, "
                "lists, texts and numbers"
            )
        return _Record(full_name)
