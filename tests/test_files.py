"""Files are written completely or not at all."""

import socket

import pytest

from anomaly_toolbox import files
from anomaly_toolbox.errors import ToolboxError


def test_json_is_read_as_written(tmp_path):
    files.write_json(tmp_path / "a.json", {"name": "x̂", "n": 1.5})
    assert files.read_json(tmp_path / "a.json") == {"name": "x̂", "n": 1.5}


def test_a_failure_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), files.atomic_write(path) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_machines_have_different_temporary_names(tmp_path, monkeypatch):
    """The numbers of processes in containers are often the same."""
    here = files.temporary_path(tmp_path / "a.txt")
    monkeypatch.setattr(socket, "gethostname", lambda: "elsewhere")
    assert files.temporary_path(tmp_path / "a.txt") != here


def test_nan_is_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"auprc": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["{", "[1]", ""])
def test_damaged_json_is_reported(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(ToolboxError, match=r"a\.json is damaged"):
        files.read_json(path)


def test_a_full_disk_is_reported_before_anything_is_written(tmp_path):
    with (
        pytest.raises(OSError, match="No space left") as caught,
        files.atomic_write(tmp_path / "new", size=1 << 60),
    ):
        pytest.fail("nothing should be written")
    assert caught.value.filename == str(tmp_path / "new")
    assert not list(tmp_path.iterdir())


def test_long_names_fit_file_systems(tmp_path):
    """File systems count bytes, and temporary names are longer than final ones."""
    for name in ("傷" * 80, "a" * 250 + ".csv"):
        short = files.short_name(name)
        assert len(short.encode()) <= 255
        assert short != files.short_name(name + "x")
    with files.atomic_write(tmp_path / ("傷" * 80)) as temporary:
        temporary.write_text("x")
    assert (tmp_path / ("傷" * 80)).read_text() == "x"
    assert files.short_name("short") == "short"


def test_a_path_that_is_not_text_is_read_as_written(tmp_path):
    files.write_json(tmp_path / "a.json", {"source": "\udcff"})
    assert files.read_json(tmp_path / "a.json") == {"source": "\udcff"}
