"""IDX files, intact and damaged."""

import gzip

import numpy as np
import pytest

from anomaly_toolbox.datasets.idx import read_idx
from anomaly_toolbox.errors import ToolboxError
from tests.conftest import write_idx

ARRAY = np.arange(24).reshape(2, 3, 4)


@pytest.mark.parametrize("name", ["images", "images.gz"])
def test_the_array_is_read_back(tmp_path, name):
    write_idx(tmp_path / name, ARRAY)
    array = read_idx(tmp_path / name, dimensions=3)
    np.testing.assert_array_equal(array, ARRAY)
    assert array.dtype == np.uint8


def test_bytes_written_by_hand(tmp_path):
    (tmp_path / "labels").write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 9]))
    assert read_idx(tmp_path / "labels", dimensions=1).tolist() == [7, 2, 9]


def test_gzipped_files_are_recognised_by_their_content(tmp_path):
    write_idx(tmp_path / "images.gz", ARRAY)
    (tmp_path / "images").write_bytes((tmp_path / "images.gz").read_bytes())
    assert read_idx(tmp_path / "images", dimensions=3).shape == ARRAY.shape


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: b"", "is empty"),
        (lambda content: content[:-1], "announces 24 bytes .* received 23"),
        (lambda content: content + b"x", "announces 24 bytes .* received 25"),
        (lambda content: content[:10], "ends within its header"),
        (lambda content: b"\x89PNG" + content[4:], "expected it to begin with 00 00 08 03, received 89 50 4e 47"),
        (lambda content: gzip.compress(content)[:-9], "not a complete gzip file"),
        (lambda content: gzip.compress(b""), "is empty"),
        (lambda content: b"\x1f\x8bnonsense", "not a complete gzip file"),
    ],
)
def test_damage_is_reported(tmp_path, damage, message):
    path = tmp_path / "images"
    write_idx(path, ARRAY)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ToolboxError, match=message) as caught:
        read_idx(path, dimensions=3)
    assert str(path) in str(caught.value)


def test_labels_are_not_accepted_as_images(tmp_path):
    write_idx(tmp_path / "labels", np.arange(5))
    with pytest.raises(ToolboxError, match="3 dimension"):
        read_idx(tmp_path / "labels", dimensions=3)
