"""What is shipped: versions, the wheel, and the examples in docstrings."""

import configparser
import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import anomaly_toolbox

PACKAGE = Path(anomaly_toolbox.__file__).parent
PROJECT = PACKAGE.parent
OLD_RUN = Path(__file__).parent / "fixtures" / "run_before_formats"


def modules_with_examples():
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            yield ".".join(path.relative_to(PROJECT).with_suffix("").parts)


def test_there_are_examples():
    assert len(list(modules_with_examples())) >= 2


@pytest.mark.parametrize("module", modules_with_examples())
def test_examples_in_docstrings(module):
    failed, attempted = doctest.testmod(importlib.import_module(module))
    assert attempted > 0
    assert failed == 0


def test_the_oldest_versions_are_those_that_setup_cfg_promises():
    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg")
    requirements = config["options"]["install_requires"] + config["options.extras_require"]["dev"]
    promised = dict(re.findall(r"^([\w-]+)(?:\[\w+\])?>=([\d.]+)", requirements, re.MULTILINE))
    pinned = re.findall(r"^([\w-]+)==([\d.]+)$", (PROJECT / "constraints" / "oldest.txt").read_text(), re.MULTILINE)
    assert dict(pinned) == promised
    n_requirements = sum(1 for line in requirements.splitlines() if line.strip() and not line.startswith("#"))
    assert len(promised) == n_requirements  # each has a lower bound


@pytest.fixture(scope="module")
def installed_wheel(tmp_path_factory):
    """The wheel, installed into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    shutil.copytree(PACKAGE, source / "anomaly_toolbox", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, source], check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "installed", wheel], check=True)
    return wheel, folder / "installed"


@pytest.mark.slow
def test_the_wheel_holds_the_package_alone(installed_wheel):
    wheel, _ = installed_wheel
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {name for name in names if ".dist-info/" not in name}
    sources = {path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".html", ".css", ".js", ".typed")}
    assert shipped == {path.relative_to(PROJECT).as_posix() for path in sources}


@pytest.mark.slow
def test_the_installed_wheel_runs_a_command(installed_wheel, tmp_path):
    _, installed = installed_wheel
    shutil.copytree(OLD_RUN, tmp_path / "logs" / "run")
    program = (
        "import anomaly_toolbox, sys; from anomaly_toolbox.cli import main\n"
        "print(anomaly_toolbox.__file__)\n"
        "sys.argv = ['anomaly-box', 'report', 'logs']; main()"
    )
    environment = os.environ | {"PYTHONPATH": str(installed)}
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith(str(installed))
    assert "GANomaly" in (tmp_path / "logs" / "report.html").read_text()
