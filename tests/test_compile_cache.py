"""Compiled steps are kept for later commands, and nothing that happens to the kept files changes a figure."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from anomaly_toolbox import compile_cache as module
from anomaly_toolbox.compile_cache import FLAGS, FOLDER_FLAG, compile_cache
from anomaly_toolbox.errors import ToolboxError

NAME = "xla_compile_cache__1__2__XLA_CPU_JIT.pb"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of kept files, of a cache that nobody has used."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(FLAGS, raising=False)
    return tmp_path / "anomaly-toolbox" / "compiled" / module._key() / "kept"


def folder_of_xla():
    """The folder that XLA is told to use; None if it is told of none."""
    flags = dict(flag.partition("=")[::2] for flag in os.environ.get(FLAGS, "").split())
    return module.Path(flags[FOLDER_FLAG]) if FOLDER_FLAG in flags else None


def keep(content, name=NAME):
    """Lets a command compile something; the folder that it used."""
    with compile_cache():
        folder = folder_of_xla()
        (folder / name).write_bytes(content)
    return folder


def test_what_one_command_compiled_the_next_one_finds(cache):
    folder = keep(b"compiled")
    assert not folder.exists()
    assert FLAGS not in os.environ
    (kept,) = cache.iterdir()
    assert kept.name == f"{hashlib.sha256(b'compiled').hexdigest()}.{NAME}"
    with compile_cache():
        assert (folder_of_xla() / NAME).read_bytes() == b"compiled"


def test_commands_at_the_same_time_exchange_what_they_compile(cache, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_EXCHANGES", 0.02)
    with compile_cache():
        first = folder_of_xla()
        os.environ[FLAGS] = ""  # as in another process
        with compile_cache():
            second = folder_of_xla()
            (first / NAME).write_bytes(b"compiled")
            (first / "half.pb-written.tmp").write_bytes(b"comp")
            ends_at = time.monotonic() + 60
            while not (second / NAME).exists():
                assert time.monotonic() < ends_at
                time.sleep(0.01)
    assert [path.name.partition(".")[2] for path in cache.iterdir()] == [NAME]


@pytest.mark.parametrize("damage", [b"", b"compile", b"compileX"])
def test_a_damaged_file_is_deleted(cache, damage):
    keep(b"compiled")
    (kept,) = cache.iterdir()
    kept.write_bytes(damage)
    with compile_cache():
        assert not (folder_of_xla() / NAME).exists()
        assert not kept.exists()
    keep(b"compiled")
    assert kept.read_bytes() == b"compiled"


def test_what_a_killed_command_leaves_is_deleted(cache):
    abandoned = cache.parent / "commands" / "abandoned"
    with compile_cache():
        running = folder_of_xla()
        os.environ[FLAGS] = ""  # as in another process
        abandoned.mkdir()
        (abandoned / NAME).write_bytes(b"comp")
        with compile_cache():
            assert running.exists()
            assert not abandoned.exists()
            assert not any(cache.iterdir())


def test_the_oldest_files_are_deleted(cache, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 10)
    for age, name in ((3, "old.pb"), (2, "newer.pb"), (1, "newest.pb")):
        keep(b"12345", name)
        for path in cache.glob(f"*.{name}"):
            os.utime(path, (time.time() - age, time.time() - age))
    assert sorted(path.name.partition(".")[2] for path in cache.iterdir()) == ["newer.pb", "newest.pb"]


def test_another_version_has_its_own_files(cache, monkeypatch):
    keep(b"compiled")
    monkeypatch.setattr(module, "version", lambda package: "1.0")
    with compile_cache():
        assert not (folder_of_xla() / NAME).exists()


def test_a_file_system_without_links(cache, monkeypatch):
    def fail(*_):
        raise OSError

    monkeypatch.setattr(module.Path, "hardlink_to", fail)
    test_what_one_command_compiled_the_next_one_finds(cache)


def others_may_write(cache, monkeypatch):
    cache.parent.mkdir(parents=True)
    cache.parent.chmod(0o777)


def the_disk_is_full(cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))


def a_file_is_in_the_way(cache, monkeypatch):
    cache.parents[2].write_text("")


def there_is_no_home(cache, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")

    def fail(path):
        raise RuntimeError

    monkeypatch.setattr(module.Path, "expanduser", fail)


def the_user_has_another_folder(cache, monkeypatch):
    monkeypatch.setenv(FLAGS, f"{FOLDER_FLAG}=/elsewhere")


@pytest.mark.parametrize(
    "case",
    [others_may_write, the_disk_is_full, a_file_is_in_the_way, there_is_no_home, the_user_has_another_folder],
)
def test_where_nothing_can_be_kept_commands_work_all_the_same(cache, monkeypatch, case):
    case(cache, monkeypatch)
    flags = os.environ.get(FLAGS)
    with compile_cache():
        assert os.environ.get(FLAGS) == flags


def test_other_flags_of_the_user_stay(cache, monkeypatch):
    monkeypatch.setenv(FLAGS, "--tf_xla_auto_jit=0")
    with compile_cache():
        assert os.environ[FLAGS].startswith("--tf_xla_auto_jit=0 ")


def test_a_disk_that_becomes_full_is_one_line(cache):
    with (
        pytest.raises(ToolboxError, match="cannot be kept there; free some space, or add --no-cache"),
        compile_cache(),
    ):
        raise OSError(f"{folder_of_xla() / NAME}.tmp; No space left on device")
    with pytest.raises(OSError, match="elsewhere"), compile_cache():
        raise OSError("/elsewhere: No space left on device")


def training(log_dir, *options):
    """A process that trains a tiny GANomaly for an epoch, for a user who wants to see TensorFlow's errors."""
    sizes = ("image_size=16", "width=4", "latent_vector_size=6", "epochs=1", "batch_size=32", "memory_size=104")
    settings = [part for size in sizes for part in ("--set", size)]
    command = [sys.executable, "-m", "anomaly_toolbox", "--experiment", "GANomaly", "--dataset", "Digits", *settings]
    return subprocess.Popen(
        [*command, "--log-dir", str(log_dir), *options],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def figures(log_dir):
    (results,) = log_dir.rglob("results.json")
    return json.loads(results.read_text())["test"]


@pytest.mark.slow
def test_figures_do_not_depend_on_what_was_kept(cache, tmp_path):
    """Of a first training after one that was killed while it compiled, and of one that finds everything compiled."""
    killed = training(tmp_path / "killed")
    ends_at = time.monotonic() + 120
    while not any(cache.parent.glob("commands/*/*.pb*")):  # also one that is half-written
        assert time.monotonic() < ends_at
        assert killed.poll() is None
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert any(cache.parent.glob("commands/*"))

    found = []
    for name in ("first", "second"):
        process = training(tmp_path / name)
        errors = process.communicate(timeout=300)[1]
        assert (process.returncode, errors) == (0, "")
        found.append((figures(tmp_path / name), {path: path.stat().st_ino for path in cache.iterdir()}))
    assert found[0] == found[1]
    assert found[0][1]
    assert not any(cache.parent.glob("commands/*"))
