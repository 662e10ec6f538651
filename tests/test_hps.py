"""Hyperparameter files: what is taken, and what each mistake is told."""

import json

import pytest

from anomaly_toolbox import hps
from anomaly_toolbox.errors import InputError
from anomaly_toolbox.models.ganomaly import GANomalyHyperparameters


@pytest.fixture
def write(tmp_path):
    def write(section, name="ganomaly"):
        path = tmp_path / "hps.json"
        path.write_text(section if isinstance(section, str) else json.dumps({name: section}))
        return path

    return write


def discrete(*values):
    return {"type": "Discrete", "values": list(values)}


def trials(path=None, overrides=(), every=False):
    return hps.trials(GANomalyHyperparameters, "GANomaly", path, overrides, every)


def test_defaults_are_the_papers():
    (trial,) = trials()
    assert (trial.width, trial.latent_vector_size, trial.batch_size, trial.learning_rate) == (64, 100, 64, 2e-4)
    assert (trial.adversarial_loss_weight, trial.contextual_loss_weight, trial.enc_loss_weight) == (1, 50, 1)


def test_without_tuning_the_first_of_each(write):
    (trial,) = trials(write({"epochs": discrete(3, 5), "width": discrete(8, 16)}))
    assert (trial.epochs, trial.width) == (3, 8)


def test_tuning_is_every_combination(write):
    path = write({"epochs": discrete(3, 5), "width": discrete(8, 16), "seedless": discrete(1)} | {})
    with pytest.raises(InputError):
        trials(path, every=True)
    path = write({"epochs": discrete(3, 5, 3), "width": discrete(8, 16)})
    assert [(t.epochs, t.width) for t in trials(path, every=True)] == [(3, 8), (3, 16), (5, 8), (5, 16)]


def test_a_file_of_the_earlier_toolbox(write):
    section = {
        "anomalous_label": discrete(2),
        "epochs": discrete(1, 5, 10, 15),
        "batch_size": discrete(32),
        "optimizer": discrete("adam"),
        "learning_rate": discrete(0.002, 0.001, 0.0005),
        "adversarial_loss_weight": discrete(1),
        "contextual_loss_weight": discrete(50),
        "enc_loss_weight": discrete(1),
        "shuffle_buffer_size": discrete(10000),
        "latent_vector_size": discrete(100),
        "step_log_frequency": discrete(50),
    }
    path = write(json.dumps({"descargan": {"whatever": 1}, "ganomaly": section}))
    assert len(trials(path, every=True)) == 12
    assert trials(path)[0].adversarial_loss_weight == 1.0


def test_an_interval_starts_at_its_minimum(write):
    path = write({"learning_rate": {"type": "RealInterval", "min": 1e-4, "max": 1e-2}})
    assert trials(path)[0].learning_rate == 1e-4


def test_set_replaces_what_the_file_says(write):
    path = write({"epochs": discrete(3, 5)})
    (trial,) = trials(path, overrides=["epochs=7", "select_by=last"], every=True)
    assert (trial.epochs, trial.select_by) == (7, "last")


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("{", "is not JSON"),
        ("[1]", "expected an object"),
        ("[" * 100_000, "is not JSON"),
        ('{"ganomaly": {}, "ganomaly": {}}', "'ganomaly' stands in one object twice"),
        ("{}", "no section 'ganomaly': There are: none"),
        ({"width": discrete(10**19)}, "ganomaly.width: should be less than or equal to"),
        ('{"anogan": {}}', "no section 'ganomaly'"),
        ('{"ganomaly": 3}', "ganomaly: expected an object"),
        ({"learning_rat": discrete(0.1)}, "ganomaly.learning_rat.*did you mean learning_rate"),
        ({"learning_rate": discrete("0.1")}, 'ganomaly.learning_rate: should be a valid number, received "0.1"'),
        ({"learning_rate": discrete(-0.1)}, "ganomaly.learning_rate: should be greater than 0, received -0.1"),
        ({"learning_rate": discrete()}, "ganomaly.learning_rate: values must be a list with at least one"),
        ({"learning_rate": {"type": "Discrete", "values": 3}}, "values must be a list"),
        ({"learning_rate": 0.1}, "ganomaly.learning_rate: expected"),
        ({"learning_rate": {"type": "Real"}}, "ganomaly.learning_rate: expected"),
        ({"learning_rate": {"type": "Discrete", "min": 1}}, "Discrete takes type, values"),
        ({"learning_rate": {"type": "RealInterval", "min": 0.1, "max": 0.01}}, "min <= max"),
        ({"width": {"type": "IntInterval", "min": 1.5, "max": 4}}, "numbers of that type"),
        ({"epochs": discrete(2.5)}, "ganomaly.epochs: should be a valid integer, received 2.5"),
        ({"epochs": discrete(True)}, "ganomaly.epochs: should be a valid integer, received true"),
        ({"image_size": discrete(20)}, "ganomaly.image_size: should be a multiple of 16"),
        ({"learning_rate": discrete(float("nan"))}, "finite number"),
        ({"select_by": discrete("best")}, "ganomaly.select_by: should be 'auprc'"),
        ({"optimizer": discrete("sgd")}, "ganomaly.optimizer: should be 'adam'"),
        ({"epochs": discrete(3, 0)}, "ganomaly.epochs.*received 0"),
    ],
)
def test_mistakes_name_file_section_and_key(write, section, told):
    path = write(section)
    with pytest.raises(InputError, match=told) as caught:
        trials(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["epochs", "epoch=3", "epochs=three", "epochs=0"])
def test_mistakes_in_set(override):
    with pytest.raises(InputError, match="--set"):
        trials(overrides=[override])


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        trials(tmp_path / "none.json")


def test_an_interval_is_no_grid(write):
    path = write({"learning_rate": {"type": "RealInterval", "min": 0.01, "max": 0.1}})
    with pytest.raises(InputError, match="a grid needs Discrete values"):
        trials(path, every=True)


@pytest.mark.parametrize("name", ["demo", "fashion_mnist"])
def test_the_files_that_come_along_are_valid(name, request):
    assert trials(request.config.rootpath / "hps" / f"{name}.json", every=True)
