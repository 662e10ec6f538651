"""Hyperparameter files: valid domains, and the message for each mistake."""

import json

import pytest

from anomaly_toolbox.errors import InputError
from anomaly_toolbox.models import METHODS, detector_class, hyperparameters_of
from anomaly_toolbox.models.hyperparameters import AnoGANHyperparameters, GANomalyHyperparameters, validate
from anomaly_toolbox.sweeps import hps


@pytest.fixture
def write(tmp_path):
    def write(section, name="ganomaly"):
        path = tmp_path / "hps.json"
        path.write_text(section if isinstance(section, str) else json.dumps({name: section}))
        return path

    return write


def discrete(*values):
    return {"type": "Discrete", "values": list(values)}


def read_domains(path=None, overrides=()):
    return hps.read_domains(GANomalyHyperparameters, "GANomaly", path, overrides)


def first_trial(path=None, overrides=()):
    return hps.first_trial(GANomalyHyperparameters, read_domains(path, overrides))


def test_defaults_are_those_of_the_paper():
    trial = first_trial()
    assert (trial.width, trial.latent_vector_size, trial.batch_size, trial.learning_rate) == (64, 100, 64, 2e-4)
    assert (trial.adversarial_loss_weight, trial.contextual_loss_weight, trial.enc_loss_weight) == (1, 50, 1)


def test_the_first_trial_has_the_first_value_of_each_domain(write):
    trial = first_trial(write({"epochs": discrete(3, 5), "width": discrete(8, 16)}))
    assert (trial.epochs, trial.width) == (3, 8)


def test_a_grid_is_every_combination(write):
    grid = read_domains(write({"epochs": discrete(3, 5, 3), "width": discrete(8, 16)}))
    expected = [(3, 8), (3, 16), (5, 8), (5, 16)]
    assert [(values["epochs"], values["width"]) for values in hps.combinations(grid)] == expected
    assert hps.count_combinations(grid) == 4


def test_a_grid_that_is_too_large(write):
    grid = read_domains(write({"epochs": discrete(*range(1, 102)), "width": discrete(*range(1, 101))}))
    with pytest.raises(InputError, match=r"10,100 combinations, more than 10,000; choose with --trials"):
        hps.combinations(grid)
    assert hps.combination(grid, 10_099) == {"epochs": 101, "width": 100}


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
    assert len(hps.combinations(read_domains(path))) == 12
    assert first_trial(path).adversarial_loss_weight == 1.0


def test_intervals(write):
    section = {
        "learning_rate": {"type": "RealInterval", "min": 1e-4, "max": 1e-2, "log": True},
        "width": {"type": "IntInterval", "min": 8, "max": 64},
        "image_size": {"type": "IntInterval", "min": 16, "max": 64},
    }
    domains = read_domains(write(section))
    assert domains["learning_rate"] == hps.Interval(1e-4, 1e-2, log=True, step=None)
    assert domains["width"] == hps.Interval(8, 64, log=False, step=1)
    assert domains["image_size"].step == 16  # the schema allows multiples of 16 only
    assert first_trial(write(section)).learning_rate == 1e-4
    assert hps.count_combinations(domains) == float("inf")
    with pytest.raises(InputError, match=r"learning_rate: a grid needs Discrete values.*--sampler random"):
        hps.as_grid(domains, "")


def test_set_replaces_domains_of_the_file(write):
    domains = read_domains(write({"epochs": discrete(3, 5)}), overrides=["epochs=7", "select_by=last"])
    assert domains == {"epochs": hps.Discrete((7,)), "select_by": hps.Discrete(("last",))}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{", "is not JSON"),
        ("[1]", "expected an object"),
        ("[" * 100_000, "is not JSON"),
        ('{"ganomaly": {}, "ganomaly": {}}', "'ganomaly' appears twice in one object"),
        ("{}", "no section 'ganomaly' for GANomaly; it has no sections"),
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
        ({"width": {"type": "RealInterval", "min": 1, "max": 4}}, "whole numbers only, use IntInterval"),
        (
            {"width": {"type": "IntInterval", "min": 0, "max": 4}},
            "ganomaly.width: should be greater than or equal to 1",
        ),
        ({"learning_rate": {"type": "RealInterval", "min": 0.1, "max": 1, "log": "yes"}}, "log must be true or false"),
        ({"enc_loss_weight": {"type": "RealInterval", "min": 0, "max": 1, "log": True}}, "true only where min > 0"),
        ({"image_size": {"type": "IntInterval", "min": 16, "max": 64, "log": True}}, "multiple of 16.*leave log out"),
        ({"learning_rate": {"type": "RealInterval", "min": 0.1, "max": 1, "step": 2}}, "may have log; received"),
        ({"anomalous_label": {"type": "IntInterval", "min": 0, "max": 9}}, "labels must be Discrete values"),
        ({"normal_label": {"type": "IntInterval", "min": 0, "max": 9}}, "labels must be Discrete values"),
        ({"epochs": discrete(2.5)}, "ganomaly.epochs: should be a valid integer, received 2.5"),
        ({"epochs": discrete(True)}, "ganomaly.epochs: should be a valid integer, received true"),
        ({"image_size": discrete(20)}, "ganomaly.image_size: should be a multiple of 16"),
        ({"learning_rate": discrete(float("nan"))}, "finite number"),
        ({"select_by": discrete("best")}, "ganomaly.select_by: should be 'auprc'"),
        ({"optimizer": discrete("sgd")}, "ganomaly.optimizer: should be 'adam'"),
        ({"epochs": discrete(3, 0)}, "ganomaly.epochs.*received 0"),
    ],
)
def test_mistakes_name_file_section_and_key(write, section, message):
    path = write(section)
    with pytest.raises(InputError, match=message) as caught:
        read_domains(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "other"), [("anomalous_label", "normal_label"), ("normal_label", "anomalous_label")])
def test_a_label_of_set_displaces_the_other_label_of_the_file(write, name, other):
    path = write({other: discrete(2, 3), "epochs": discrete(3)})
    assert read_domains(path, [f"{name}=4"]) == {"epochs": hps.Discrete((3,)), name: hps.Discrete((4,))}
    trial = first_trial(path, [f"{name}=4"])
    assert (getattr(trial, name), getattr(trial, other)) == (4, None)
    assert getattr(first_trial(path, [f"{name}=none"]), other) == 2  # none is no label, so it displaces nothing
    for overrides in ([f"{name}=4", f"{other}=none"], [f"{other}=none", f"{name}=4"]):
        assert getattr(first_trial(overrides=overrides), name) == 4


def test_both_labels_contradict_each_other(write):
    labels = {"anomalous_label": discrete(2), "normal_label": discrete(None, 3)}
    message = "anomalous_label and normal_label are both set; expected only one of them"
    with pytest.raises(InputError, match=rf"hps\.json: ganomaly: {message}"):
        read_domains(write(labels))
    with pytest.raises(InputError, match=f"--set: {message}"):
        read_domains(overrides=["anomalous_label=2", "normal_label=3"])
    with pytest.raises(InputError, match=message):
        validate(GANomalyHyperparameters, {"anomalous_label": 2, "normal_label": 3})
    assert first_trial(write({**labels, "normal_label": discrete(None)})).anomalous_label == 2


@pytest.mark.parametrize("override", ["epochs", "epoch=3", "epochs=three", "epochs=0"])
def test_mistakes_in_set(override):
    with pytest.raises(InputError, match="--set"):
        read_domains(overrides=[override])


@pytest.mark.parametrize(
    "overrides", [("score=latent_neighbours", "warm_start=true"), ("warm_start=true", "score=latent_neighbours")]
)
def test_values_that_need_each_other_may_come_in_any_order(overrides):
    domains = hps.read_domains(AnoGANHyperparameters, "AnoGAN", overrides=overrides)
    assert hps.first_trial(AnoGANHyperparameters, domains).score == "latent_neighbours"


def test_a_value_that_misses_another_one_is_a_mistake():
    domains = hps.read_domains(AnoGANHyperparameters, "AnoGAN", overrides=["score=latent_neighbours"])
    with pytest.raises(InputError, match="set warm_start to true"):
        hps.first_trial(AnoGANHyperparameters, domains)


@pytest.mark.parametrize(
    ("override", "value"),
    [("patience=none", None), ("patience=None", None), ("validation_size=null", None), ("epochs=3", 3)],
)
def test_words_for_no_value(override, value):
    assert getattr(first_trial(overrides=[override]), override.partition("=")[0]) == value


@pytest.mark.parametrize(("text", "value"), [("True", True), ("false", False), ("FALSE", False)])
def test_true_and_false(text, value):
    schema = hyperparameters_of("AnoGAN")
    assert hps.read_domains(schema, "AnoGAN", overrides=[f"warm_start={text}"])["warm_start"].first is value


def test_a_label_may_be_a_word_such_as_true():
    assert first_trial(overrides=["anomalous_label=True"]).anomalous_label == "True"
    with pytest.raises(InputError, match=r'select_by: .*received "none"'):
        first_trial(overrides=["select_by=none"])


def test_the_last_epoch_is_kept_unless_patience_needs_a_metric():
    cases = [
        ([], "last"),
        (["patience=none"], "last"),
        (["patience=2"], "auprc"),
        (["patience=2", "select_by=loss"], "loss"),
    ]
    for overrides, expected in cases:
        assert first_trial(overrides=overrides).select_by == expected


@pytest.mark.parametrize("name", ["ganomaly", "GANomaly", "GANOMALY"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_letter_case_of_sections_and_a_byte_order_mark_are_ignored(write, name, mark):
    path = write(mark + json.dumps({name: {"epochs": discrete(3)}}))
    assert first_trial(path).epochs == 3
    assert hps.section_names(path) == {"ganomaly"}


def test_one_section_with_two_names(write):
    with pytest.raises(InputError, match=r"hps\.json: 'ganomaly' and 'GANomaly' name the same section"):
        read_domains(write('{"ganomaly": {}, "GANomaly": {}}'))


@pytest.mark.parametrize("kind", [["Discrete"], {}, None, 3])
def test_an_unknown_type_of_domain(write, kind):
    with pytest.raises(InputError, match=r"ganomaly\.epochs: expected .*Discrete"):
        read_domains(write({"epochs": {"type": kind, "values": [3]}}))


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_domains(tmp_path / "none.json")


@pytest.mark.parametrize("name", ["demo", "fashion_mnist", "mnist", "paper", "tuning"])
def test_the_hyperparameter_files_of_the_toolbox_are_valid(name, request):
    path = request.config.rootpath / "hps" / f"{name}.json"
    for method in METHODS:
        if method.lower() in hps.section_names(path):
            schema = detector_class(method).Hyperparameters
            assert hps.first_trial(schema, hps.read_domains(schema, method, path))
            assert hyperparameters_of(method) is schema
