"""Who may import whom, and that nothing heavy is imported before there is work for it."""

import ast
import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import anomaly_toolbox

PACKAGE = Path(anomaly_toolbox.__file__).parent
IMPORTED_AS = {"scikit_learn": "sklearn", "pillow": "PIL"}
LEAVES = {"errors", "files", "console"}  # anyone may use these
LIGHT = ("evaluation", "hps", "files", "runs", "errors", "study", "workers", "tables", "comparison", "console")
LIGHT += ("plan", "predict", "formats", "models/hyperparameters", "datasets/walk", "datasets/masks", "datasets/layout")
ALLOWED = {
    "__main__": {"cli"},
    "cli": {"sweep", "report", "predict", "export", "models", "datasets", "plan", "formats"},
    "console": set(),
    "plan": {"hps", "models", "study"},
    "formats": {"runs"},
    "predict": {"detector", "datasets", "pictures", "runs"},
    "detector": {"experiment", "models", "datasets", "evaluation", "runs"},
    "estimator": {"models", "datasets", "hps", "callbacks"},
    "export": {"datasets", "experiment", "formats", "layers", "losses", "models", "runs"},
    "sweep": {"experiment", "study", "workers", "tables", "comparison", "progress", "hps", "datasets", "plan"},
    "study": {"hps"},
    "workers": set(),
    "tables": {"comparison"},
    "report": {"report", "comparison", "runs"},
    "comparison": set(),
    "experiment": {
        "models",
        "datasets",
        "callbacks",
        "progress",
        "summaries",
        "evaluation",
        "gallery",
        "pictures",
        "runs",
    },
    "gallery": {"datasets", "models", "pictures"},
    "callbacks": {"datasets", "evaluation", "models"},
    "progress": {"callbacks"},
    "summaries": {"callbacks", "datasets", "evaluation", "pictures"},
    "models": {"models", "losses", "layers", "memory"},
    "datasets": {"datasets"},
    "hps": set(),
    "evaluation": set(),
    "pictures": {"datasets"},
    "runs": set(),
    "losses": set(),
    "memory": set(),
    "layers": set(),
    "errors": set(),
    "files": set(),
    "__init__": {"detector"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(path: Path) -> set[str]:
    """The parts of the toolbox that a file imports."""
    inside = {name.split(".")[1] for name in imports(path) if name.startswith("anomaly_toolbox.")}
    return inside - LEAVES - {"__version__"}


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_who_may_import_whom(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert rooms(path) <= ALLOWED[room]


def test_a_method_knows_no_sibling():
    methods = {path.stem for path in (PACKAGE / "models").glob("*.py")} - {"__init__", "base", "hyperparameters"}
    for method in methods:
        siblings = {name.split(".")[2] for name in imports(PACKAGE / "models" / f"{method}.py") if ".models." in name}
        assert siblings <= {"base", "hyperparameters"}


def test_what_needs_no_tensorflow_does_not_import_it():
    light = [PACKAGE / f"{name}.py" for name in LIGHT] + sorted((PACKAGE / "report").glob("*.py"))
    for path in light:
        assert not {top.split(".")[0] for top in imports(path)} & {"tensorflow", "keras"}


def test_every_import_is_declared():
    config = configparser.ConfigParser()
    config.read(PACKAGE.parent / "setup.cfg")
    required = config["options"]["install_requires"] + config["options.extras_require"]["export"]
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
