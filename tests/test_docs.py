"""The documents are true: examples run, commands and links are valid, tables are complete."""

import importlib
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox import load
from anomaly_toolbox.cli import main
from anomaly_toolbox.datasets import load_dataset
from anomaly_toolbox.datasets.survey import count_images, surveys

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("hps/*.md")])
OLD_RUN = ROOT / "tests" / "fixtures" / "run_before_formats"

each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def code_blocks(text, language):
    """The contents of all code blocks in a language, without their indentation."""
    blocks = []
    for indent, block in re.findall(rf"^( *)```{language}\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL):
        blocks.append("\n".join(line.removeprefix(indent) for line in block.splitlines()))
    return blocks


def anchors(text):
    """The anchors that GitHub gives to the headings of a document."""
    without_code = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", without_code, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(text):
    """The arguments of every `anomaly-box` command, from code blocks and from text in backticks."""
    without_line_breaks = text.replace("\\\n", " ")
    lines = [line for block in code_blocks(without_line_breaks, "console") for line in block.splitlines()]
    lines += re.findall(r"`(anomaly-box [^`]+)`", without_line_breaks)
    return [shlex.split(line)[1:] for line in lines if line.strip().startswith("anomaly-box ")]


def test_the_tables_of_hyperparameters_are_up_to_date():
    with_tables = runpy.run_path(str(ROOT / "docs" / "hyperparameters.py"))["with_tables"]
    text = read("docs/hyperparameters.md")
    assert with_tables(text) == text, "run `make docs`, which writes docs/hyperparameters.md"


@each_document
def test_relative_links_resolve(path):
    text = path.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", link):
            continue  # another site
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), link


@each_document
def test_commands_have_valid_options(path):
    for arguments in commands(path.read_text(encoding="utf-8")):
        command = main.commands.get(arguments[0], main)
        valid = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        used = {argument for argument in arguments if argument.startswith("--")}
        assert used <= valid, arguments
        for argument in arguments:
            if argument.startswith("hps/"):
                assert (ROOT / argument).is_file(), arguments


def test_the_guide_names_files_and_functions_that_exist():
    guide = read("CONTRIBUTING.md")
    files = {}
    for name in re.findall(r"`([\w/]+\.py)`", guide):
        in_package = ROOT / "anomaly_toolbox" / name
        files[name] = in_package if in_package.is_file() else ROOT / name
    del files["Parts.py"]  # the example
    assert all(path.is_file() for path in files.values()), files
    for name, file in re.findall(r"`(\w+)` (?:in|of)\s`([\w/]+\.py)`", guide):
        assert re.search(rf"\b{name}\b", files[file].read_text(encoding="utf-8")), f"{name} in {file}"


@each_document
def test_benchmarks_can_be_imported(path):
    for name in set(re.findall(r"\bbenchmarks\.(\w+)", path.read_text(encoding="utf-8"))):
        importlib.import_module(f"benchmarks.{name}")


def test_every_hyperparameter_file_is_described():
    described = re.findall(r"^\| `(\w+\.json)` \|", read("hps/README.md"), re.MULTILINE)
    assert sorted(described) == sorted(path.name for path in (ROOT / "hps").glob("*.json"))


@pytest.mark.parametrize("name", ["README.md", "docs/python.md"])
def test_the_example_with_a_run_works(name, monkeypatch):
    """Another run and arrays replace those of the reader."""
    example = code_blocks(read(name), "python")[0]
    monkeypatch.setattr("anomaly_toolbox.load", lambda _: load(OLD_RUN))
    image = np.zeros((8, 8), np.uint8)
    namespace = {"image": image}
    exec(example.replace('"new_images/1.png"', "image"), namespace)
    assert namespace["is_anomalous"].shape == (1,)


@pytest.mark.slow
def test_the_example_with_the_estimator_works():
    *_, example = code_blocks(read("README.md"), "python")
    namespace = {}
    exec(example, namespace)
    verdicts = namespace["detector"].predict(namespace["new_images"])
    assert (verdicts == -1).mean() > 0.9


def test_the_method_of_the_guide_works(images):
    method, _ = code_blocks(read("CONTRIBUTING.md"), "python")
    namespace = {"__name__": "guide"}
    exec(method, namespace)
    detector = namespace["AutoEncoder"](namespace["AutoEncoderHyperparameters"](image_size=16, width=4), channels=1)
    losses = [float(detector.train_step(tf.constant(images))["g_loss"]) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert len(np.unique(detector.scores(images)["paper"])) == len(images)


def test_the_dataset_of_the_guide_works(tmp_path):
    _, dataset = code_blocks(read("CONTRIBUTING.md"), "python")
    (tmp_path / "Parts.py").write_text(dataset, encoding="utf-8")
    parts = load_dataset(str(tmp_path / "Parts.py"))
    parts.configure(32, (16, 16))
    assert count_images(surveys(parts))["test"] == {"normal": 180, "anomalous": 20}
