"""Pickles of arrays, intact, damaged and evil."""

import codecs
import os
import pickle
import struct

import numpy as np
import pytest

from anomaly_toolbox.datasets.pickles import array_of, read_pickled_dict
from anomaly_toolbox.errors import ToolboxError

ARRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)


def text(value):
    """A text of Python 2: opcode, length, characters."""
    return b"T" + struct.pack("<i", len(value)) + value


def number(value):
    return b"J" + struct.pack("<i", value)


def pickled_array(array, module=b"numpy.core.multiarray"):
    """An array as NumPy under Python 2 pickles it, protocol 2."""
    reconstructed = b"c" + module + b"\n_reconstruct\ncnumpy\nndarray\n" + number(0) + b"\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + number(0) + number(1) + b"\x87R"
    dtype += b"(" + number(3) + text(b"|") + b"NNN" + number(-1) + number(-1) + number(0) + b"tb"
    shape = b"(" + b"".join(map(number, array.shape)) + b"t"
    return reconstructed + b"(" + number(1) + shape + dtype + b"\x89" + text(array.tobytes()) + b"tb"


def pickled_dict(**values):
    """A dict of Python 2 whose values are already pickled."""
    return b"\x80\x02}(" + b"".join(text(name.encode()) + value for name, value in values.items()) + b"u."


def read(tmp_path, content):
    (tmp_path / "batch").write_bytes(content)
    return read_pickled_dict(tmp_path / "batch")


@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_an_array_of_python_2(tmp_path, module):
    content = read(tmp_path, pickled_dict(data=pickled_array(ARRAY, module), name=text(b"x")))
    assert content[b"name"] == b"x"
    np.testing.assert_array_equal(array_of(content[b"data"]), ARRAY)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("array", [ARRAY, np.asfortranarray(ARRAY)])
def test_an_array_of_python_3(tmp_path, array, protocol):
    """The publisher's files are not of this kind, but others may have written them anew."""
    content = read(tmp_path, pickle.dumps({b"data": array}, protocol))
    np.testing.assert_array_equal(array_of(content[b"data"]), array)


def test_the_pickle_by_hand_is_one():
    """What the tests write is what NumPy reads."""
    content = pickled_dict(data=pickled_array(ARRAY, b"numpy._core.multiarray"))
    np.testing.assert_array_equal(pickle.loads(content, encoding="bytes")[b"data"], ARRAY)


class Calling:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


EVIL = {
    "os.system": (pickle.dumps({b"data": Calling(os.system, "touch ran")}, 3), "(posix|nt).system"),
    "eval": (pickle.dumps(Calling(eval, "open('ran', 'w')"), 2), "__builtin__.eval"),
    "eval of Python 2": (b"c__builtin__\neval\n(S\"open('ran', 'w')\"\ntR.", "__builtin__.eval"),
    "eval, protocol 5": (pickle.dumps(Calling(eval, "open('ran', 'w')"), 5), "builtins.eval"),
    "getattr": (pickle.dumps(Calling(getattr, ARRAY, "tofile"), 2), "__builtin__.getattr"),
    "a ufunc": (pickle.dumps(Calling(np.add, 1, 2), 2), "numpy"),
    "numpy.load": (pickle.dumps(Calling(np.load, "ran"), 2), "numpy.load"),
    "an inner name": (b"\x80\x04\x8c\x05numpy\x94\x8c\x10ndarray.__init__\x94\x93.", "numpy.ndarray.__init__"),
    "an instance": (b"(ios\nsystem\n.", "os.system"),
    "an object of a class": (b"(cos\nsystem\nS'touch ran'\no.", "os.system"),
    "an array of objects": (
        pickle.dumps({b"data": np.array([Calling(os.system, "touch ran")])}, 3),
        "(posix|nt).system",
    ),
    "another encoding": (pickle.dumps(Calling(codecs.encode, "touch ran", "rot13"), 2), None),
    "a registered extension": (b"\x80\x02\x82\x01.", None),
    "a persistent object": (b"\x80\x02K\x01Q.", None),
}


@pytest.mark.parametrize("name", EVIL)
def test_no_code_runs(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content, forbidden_name = EVIL[name]
    message = rf"batch is refused: it names {forbidden_name}\b.*" if forbidden_name else "batch is damaged, or not"
    with pytest.raises(ToolboxError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["batch"]


FORGED = {
    "another function": b"cnumpy\ndtype\n)R(NNNNNtb",
    "never called": b"cnumpy\nndarray\n",
    "without a state": b"cnumpy.core.multiarray\n_reconstruct\n)R",
    "a buffer without a shape": b"cnumpy.core.numeric\n_frombuffer\n)R",
    "a short state": b"cnumpy.core.multiarray\n_reconstruct\n)R(NNtb",
    "a state that is no tuple": b"cnumpy.core.multiarray\n_reconstruct\n)R}b",
    "objects instead of bytes": pickled_array(ARRAY).replace(text(b"u1"), text(b"O8")),
    "more rows than bytes": pickled_array(ARRAY).replace(number(3) + number(4), number(300) + number(4)),
    "negative lengths": pickled_array(ARRAY).replace(number(3) + number(4), number(-3) + number(-4)),
    "a list": b"]",
    "a number": number(5),
}


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_array_is_none(tmp_path, name):
    """NumPy is not asked what it makes of such a state; the wrong one could crash it."""
    assert array_of(read(tmp_path, pickled_dict(data=FORGED[name]))[b"data"]) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is damaged, or not a pickle: Ran out of input"),
        (b"PK\x03\x04 this is a zip archive", "is damaged, or not a pickle"),
        (pickled_dict(data=pickled_array(ARRAY))[:-20], "is damaged, or not a pickle"),
        (b"\x80\x02}(]K\x01u.", "unhashable type"),
        (b"\x80\x02]K\x01a.", "expected a pickled dict, received list"),
    ],
)
def test_a_damaged_pickle(tmp_path, content, message):
    with pytest.raises(ToolboxError, match=message) as caught:
        read(tmp_path, content)
    assert "\n" not in str(caught.value)
