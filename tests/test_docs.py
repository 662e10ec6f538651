"""What the documents show is true: examples run, tables are complete."""

import re

import numpy as np
import pytest
import tensorflow as tf

from anomaly_toolbox.datasets import load_dataset
from anomaly_toolbox.datasets.survey import count_images, surveys
from anomaly_toolbox.models import METHODS, detector_class


@pytest.fixture
def document(request):
    return lambda name: (request.config.rootpath / name).read_text(encoding="utf-8")


def examples(text):
    """The Python blocks of a document, unindented."""
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    return ["\n".join(line.removeprefix(indent) for line in block.splitlines()) for indent, block in blocks]


def rows(text):
    """Defaults by name, from the rows of a table."""
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \| ", text, re.MULTILINE))


def test_the_readme_lists_every_hyperparameter_with_its_default(document):
    """In the table of all methods, or in that of the method itself."""
    text = document("README.md").partition("## Hyperparameters")[2].partition("\n## ")[0]
    common, *own = text.split("\n### ")
    tables = {section.split("\n", 1)[0]: rows(common) | rows(section) for section in own}
    for method in METHODS:
        for name, field in detector_class(method).Hyperparameters.model_fields.items():
            assert tables[method][name] == ("none" if field.default is None else str(field.default))


def test_the_method_of_the_guide_works(document, images):
    method, _ = examples(document("CONTRIBUTING.md"))
    namespace = {"__name__": "guide"}
    exec(method, namespace)
    detector = namespace["AutoEncoder"](namespace["AutoEncoderHyperparameters"](image_size=16, width=4), channels=1)
    losses = [float(detector.train_step(tf.constant(images))["g_loss"]) for _ in range(20)]
    assert losses[-1] < losses[0]
    assert len(np.unique(detector.scores(images)["paper"])) == len(images)


def test_the_dataset_of_the_guide_works(document, tmp_path):
    _, dataset = examples(document("CONTRIBUTING.md"))
    (tmp_path / "Parts.py").write_text(dataset)
    parts = load_dataset(str(tmp_path / "Parts.py"))
    parts.configure(32, (16, 16))
    assert count_images(surveys(parts))["test"] == {"normal": 180, "anomalous": 20}
