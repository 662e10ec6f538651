"""Who may import whom, and that nothing heavy is imported before there is work for it."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import anomaly_toolbox
from anomaly_toolbox.models import METHODS

PACKAGE = Path(anomaly_toolbox.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
IMPORTED_AS = {"scikit_learn": "sklearn", "pillow": "PIL"}

GROUND_FLOOR = {
    "errors",
    "files",
    "console",
    "streams",
    "compile_cache",
    "false_alarms",
    "device",
    "processes",
    "objects",
    "tf_data",
}  # every room may use these
#: The law of imports: what a room may import besides itself and the ground floor.
LAW = {
    ("cli",): {
        "sweeps",
        "report",
        "inference",
        "service",
        "ensembles",
        "models",
        "datasets",
    },  # of the last two the registries
    ("sweeps",): {"training", "report", "ensembles", "runs", "models", "datasets"},
    ("training", "inference"): {"models", "datasets", "pictures", "runs", "evaluation"},
    ("inference",): {"ensembles"},
    ("service",): {"inference", "datasets", "runs"},
    ("ensembles",): {"training", "models", "pictures", "runs"},
    ("estimator",): {"models", "datasets"},
    ("report",): {"runs"},
}
SINGLE_FILES = {"__init__": {"inference"}, "__main__": {"cli"}, "pictures": {"datasets"}}
REGISTRIES = {"anomaly_toolbox.models", "anomaly_toolbox.datasets"}

WITHOUT_TENSORFLOW = [
    *("errors", "files", "console", "streams", "false_alarms", "runs", "evaluation", "models.hyperparameters"),
    "compile_cache",
    *("report.rows", "report.comparison", "report.tables", "report.page", "report.command"),
    *("sweeps.hps", "sweeps.plan", "sweeps.search", "sweeps.storage", "sweeps.queue", "sweeps.liveness"),
    *("sweeps.sweep", "sweeps.workers"),
    *(
        "ensembles.command",
        "ensembles.combination",
        "inference.predict",
        "inference.bulk",
        "service.command",
        "inference.formats",
        "datasets.layout",
        "datasets.walk",
        "datasets.masks",
    ),
]


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    """The folder in the package that a file is in, or its own name if it is on the top level."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def rooms_imported_by(path: Path) -> set[str]:
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("anomaly_toolbox.")}
    return inside - GROUND_FLOOR - {"__version__", room_of(path)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_law_of_imports(path):
    allowed = set(SINGLE_FILES.get(room_of(path), ()))
    for rooms, may_import in LAW.items():
        if room_of(path) in rooms:
            allowed |= may_import
    assert rooms_imported_by(path) <= allowed


def test_the_law_names_every_room():
    """A new room, or a new file on the top level, has to be placed."""
    placed = GROUND_FLOOR | set(SINGLE_FILES) | {room for rooms in LAW for room in rooms}
    assert {room_of(path) for path in SOURCES} - placed == {"models", "datasets", "runs", "evaluation"}


def test_the_command_uses_only_the_registries_of_models_and_datasets():
    found = {name for name in imports(PACKAGE / "cli.py") if name.startswith(tuple(REGISTRIES))}
    assert {name.rpartition(".")[0] for name in found} <= REGISTRIES


def test_a_method_knows_no_sibling():
    assert len(METHODS) >= 5
    for name, module in METHODS.items():
        siblings = tuple(f"{other}." for other in set(METHODS.values()) - {module})
        for imported in imports(PACKAGE / "models" / f"{module.rpartition('.')[2]}.py"):
            assert not imported.startswith(siblings), name


def test_what_needs_no_tensorflow_does_not_import_it():
    modules = [f"anomaly_toolbox.{name}" for name in WITHOUT_TENSORFLOW]
    program = "import sys, importlib\nfor name in sys.argv[1:]:\n    importlib.import_module(name)\n"
    program += "    assert not {'tensorflow', 'keras'} & set(sys.modules), name"
    finished = subprocess.run([sys.executable, "-c", program, *modules], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_scoring_imports_nothing_of_training_sweeps_and_reports():
    """Keras itself imports scikit-learn and matplotlib."""
    others = {"tensorboard", "optuna", "sqlalchemy", "pandas", "tensorflow_datasets", "pyarrow", "jinja2", "fastapi"}
    program = "import sys\nimport anomaly_toolbox.inference.detector, anomaly_toolbox.inference.predict\n"
    program += f"found = {others} & set(sys.modules)\nassert not found, found"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_every_import_is_declared():
    config = configparser.ConfigParser()
    config.read(PACKAGE.parent / "setup.cfg")
    extras = config["options.extras_require"]
    required = config["options"]["install_requires"] + extras["export"] + extras["ray"] + extras["serve"]
    declared = {line.split(">=")[0].replace("-", "_") for line in required.split()}
    declared |= {imported for package, imported in IMPORTED_AS.items() if package in declared}
    used = {name.split(".")[0] for path in SOURCES for name in imports(path)}
    assert used - set(sys.stdlib_module_names) - {"anomaly_toolbox"} <= declared


def test_help_imports_no_tensorflow():
    program = (
        "import sys; sys.argv = ['anomaly-box', '--help']\n"
        "from anomaly_toolbox.cli import main\n"
        "try: main()\n"
        "finally: assert not {'tensorflow', 'keras', 'sklearn', 'numpy', 'pydantic', 'rich'} & set(sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert "--experiment" in finished.stdout
