"""Which runs a command combines: `--seeds` and `--ensemble`. Trials are quick, or stubs."""

import io
import json
import pickle
from pathlib import Path

import pytest

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.errors import InputError, ToolboxError
from anomaly_toolbox.report.rows import ComparedRun
from anomaly_toolbox.sweeps import command, ensembles, plan
from anomaly_toolbox.sweeps.plan import Options, make_plan
from tests.conftest import made_up_results
from tests.ensembles.test_ensembles import contents, run_command


def options(tmp_path, methods=("PCA",), **values):
    return Options(list(methods), "Digits", "Digits", log_dir=tmp_path, **values)


def finished(method, label=2, seed=0, **hyperparameters):
    """A run that finished, in a folder that does not exist."""
    folder = Path(f"{method},{label},{seed},{hyperparameters}")
    results = made_up_results(method, label, {"paper": 0.5}, seed=seed)
    return ComparedRun({"anomalous_label": label, **hyperparameters}, results, folder)


@pytest.fixture
def combine(monkeypatch, tmp_path):
    """Combines runs with a stub; returns the folder's names with the members, the failures, and the printed text."""

    def combine(runs, fails=lambda folder: False, **values):
        made, output = {}, io.StringIO()

        def make(folders, folder, overwrite):
            assert overwrite
            if fails(folder):
                raise OSError("no room\nof other things")
            made[str(folder.relative_to(tmp_path))] = [str(path) for path in folders]
            folder.mkdir()
            (folder / "hparams.json").write_text('{"hyperparameters": {"members": ["a", "b"]}}')
            return folder, {"experiment": "Ensemble"}

        monkeypatch.setattr(ensembles, "make_ensemble", make)
        console = plain_console(file=output, width=300)
        combined, failures = ensembles.make_ensembles(options(tmp_path, **values), runs, console)
        assert [str(run.folder.relative_to(tmp_path)) for run in combined] == list(made)
        return made, failures, output.getvalue()

    return combine


def test_the_seeds_of_each_setting_and_label_are_combined(combine):
    """A width of 64 is the default. PCA has a single run, because it does not depend on the seed."""
    runs = [finished("PCA", 2, seed=4)]
    for label in (2, 3):
        for seed in (4, 5):
            runs += [finished("GANomaly", label, seed, width=width) for width in (32, 64)]
    made, failures, _ = combine(runs, seed=4, seeds=2)
    assert not failures
    assert sorted(made) == [
        "Ensemble/Digits/GANomaly,anomalous_label=2,seed=4-5",
        "Ensemble/Digits/GANomaly,anomalous_label=2,width=32,seed=4-5",
        "Ensemble/Digits/GANomaly,anomalous_label=3,seed=4-5",
        "Ensemble/Digits/GANomaly,anomalous_label=3,width=32,seed=4-5",
    ]
    seeds = made["Ensemble/Digits/GANomaly,anomalous_label=3,seed=4-5"]
    assert seeds == ["GANomaly,3,4,{'width': 64}", "GANomaly,3,5,{'width': 64}"]


def test_all_methods_on_a_label_are_combined_with_ensemble(combine):
    runs = [finished(method, label) for label in (2, 3) for method in ("GANomaly", "KNN", "PCA")]
    made, _, printed = combine(runs, ensemble=True)
    (first, members), (second, _) = made.items()
    assert first.startswith("Ensemble/Digits/GANomaly+KNN+PCA,anomalous_label=2,seed=0-")
    assert second.startswith("Ensemble/Digits/GANomaly+KNN+PCA,anomalous_label=3,seed=0-")
    assert members == [f"{method},2,0,{{}}" for method in ("GANomaly", "KNN", "PCA")]
    assert printed.count("ensemble of 3 runs: ") == 2


def test_ensembles_of_other_settings_have_other_folders(combine):
    """One command must not replace the ensemble of another one."""
    names = set()
    for width in (32, 64):
        names |= set(combine([finished("GANomaly", width=width), finished("KNN")], ensemble=True)[0])
    names |= set(combine([finished("GANomaly"), finished("KNN")], ensemble=True, split="pooled")[0])
    assert len(names) == 3


def test_the_same_members_are_combined_once(combine):
    """With one method, `--seeds` and `--ensemble` ask for the same ensemble."""
    made, _, _ = combine([finished("GANomaly", seed=seed) for seed in (0, 1)], seeds=2, ensemble=True)
    assert list(made) == ["Ensemble/Digits/GANomaly,anomalous_label=2,seed=0-1"]


def test_nothing_is_combined_unless_it_is_asked_for(combine):
    runs = [finished("GANomaly", seed=seed) for seed in (0, 1)]
    assert combine(runs) == ({}, [], "")
    assert "there are no two finished runs to combine" in combine(runs[:1], seeds=2)[2]


def test_an_ensemble_that_cannot_be_made_does_not_prevent_others(combine):
    runs = [finished(method, label) for label in (2, 3) for method in ("KNN", "PCA")]
    made, failures, _ = combine(runs, fails=lambda folder: "label=2" in folder.name, ensemble=True)
    ((name, problem),) = failures
    assert name.startswith("Ensemble/KNN+PCA,anomalous_label=2,seed=0-")
    assert problem == "OSError: no room"
    assert [path.partition(",")[2][:17] for path in made] == ["anomalous_label=3"]


@pytest.fixture
def run_stubs(monkeypatch, tmp_path):
    """Runs PCA and KNN on the labels 2 and 3 with `--ensemble`; trials and ensembles are stubs."""
    labels = {"anomalous_label": {"type": "Discrete", "values": [2, 3]}}
    (tmp_path / "hps.json").write_text(json.dumps({"pca": labels, "knn": labels}))

    def run_stubs(trial_fails=lambda trial: False, ensemble_fails=lambda folder: False):
        def run_trial(trial, *_):
            if trial_fails(trial):
                raise ToolboxError("the disk is full")
            label = trial.hyperparameters.anomalous_label
            folder = tmp_path / f"{trial.experiment}{label}"
            folder.mkdir()
            return folder, made_up_results(trial.experiment, label, {"paper": 0.5}, epochs=0)

        def make(folders, folder, **_):
            if ensemble_fails(folder):
                raise InputError("PCA: no spread")
            folder.mkdir()
            (folder / "hparams.json").write_text('{"hyperparameters": {"members": []}}')
            members = [{"experiment": "PCA", "score": "paper", "auprc": 0.2, "auroc": 0.6}] * len(folders)
            label = int(folder.name.partition("anomalous_label=")[2][0])
            return folder, {**made_up_results("Ensemble", label, {"mean": 0.7}, "mean", epochs=0), "members": members}

        monkeypatch.setattr(command, "run_trial", run_trial)
        monkeypatch.setattr(ensembles, "make_ensemble", make)
        command_line = ["--run-all", "--dataset", "Digits", "--log-dir", tmp_path, "--tuning", "--ensemble"]
        return run_command(*command_line, "--hps-path", tmp_path / "hps.json")

    return run_stubs


def test_a_failed_trial_prevents_no_ensemble_of_others(run_stubs, tmp_path):
    result = run_stubs(
        trial_fails=lambda trial: trial.experiment == "KNN" and trial.hyperparameters.anomalous_label == 3
    )
    assert result.exit_code == 1
    assert "Error: 1 of 4 trials failed; the first: KNN/anomalous_label=3: the disk is full" in result.stderr
    (folder,) = tmp_path.glob("Ensemble/Digits/*")
    assert folder.name.startswith("KNN+PCA,anomalous_label=2,seed=0-")


def test_the_tables_are_printed_though_an_ensemble_fails(run_stubs):
    result = run_stubs(ensemble_fails=lambda folder: "label=3" in folder.name)
    assert result.exit_code == 1
    (line,) = [line for line in result.output.splitlines() if line.startswith("Ensemble of 2 PCA  ")][:1]
    assert line.split()[4:] == ["0.700", "-", "-"]
    assert result.stderr.startswith("Error: 1 of 2 ensembles could not be made; the first: Ensemble/KNN+PCA,")
    assert result.stderr.endswith(": PCA: no spread\n")


@pytest.fixture
def pca_has_epochs(monkeypatch):
    """PCA counts as a method that depends on the seed; its trials take a second."""
    monkeypatch.setattr(plan, "_has_epochs", lambda method: method == "PCA")


def members_of(folder):
    """The methods and seeds of the members of an ensemble."""
    return [
        (member["experiment"], member["seed"])
        for member in json.loads((folder / "results.json").read_text())["members"]
    ]


def test_seeds_continue_after_an_interruption_and_are_skipped_when_finished(tmp_path, monkeypatch, pca_has_epochs):
    """The command is interrupted in the second seed, then while it writes an ensemble."""
    (tmp_path / "hps.json").write_text('{"pca": {}, "knn": {}}')
    command_line = ["--run-all", "--dataset", "Digits", "--log-dir", tmp_path, "--hps-path", tmp_path / "hps.json"]
    command_line += ["--set", "image_size=8", "--seeds", "2", "--ensemble"]
    run_trial = command.run_trial

    def interrupt_in_second_seed(trial, *arguments):
        if trial.seed == 1:
            raise KeyboardInterrupt
        return run_trial(trial, *arguments)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "run_trial", interrupt_in_second_seed)
        assert run_command(*command_line).exit_code == 130
    assert not list(tmp_path.glob("Ensemble/*/*"))
    with monkeypatch.context() as patch:
        patch.setattr("anomaly_toolbox.ensembles.command._copy_weights", interrupt)
        assert run_command(*command_line).exit_code == 130
    assert not list(tmp_path.glob("Ensemble/*/*/results.json"))

    result = run_command(*command_line)
    assert result.exit_code == 0, result.output
    assert result.output.count("finished before, skipped") == 3
    of_all, of_seeds = sorted(tmp_path.glob("Ensemble/Digits/*"))
    assert of_seeds.name == "PCA,anomalous_label=2,image_size=8,seed=0-1"
    assert members_of(of_seeds) == [("PCA", 0), ("PCA", 1)]
    assert members_of(of_all) == [("KNN", 0), ("PCA", 0), ("PCA", 1)]
    assert "Ensemble of 2 PCA " in result.output
    assert "Ensemble of KNN + 2 PCA " in result.output

    before = contents(tmp_path)
    assert run_command(*command_line).exit_code == 0
    assert contents(tmp_path) == before


@pytest.mark.slow
def test_workers_leave_one_ensemble_for_each_label(tmp_path):
    labels = {"anomalous_label": {"type": "Discrete", "values": [2, 3]}}
    (tmp_path / "hps.json").write_text(json.dumps({"pca": labels, "knn": labels}))
    command_line = ["--run-all", "--dataset", "Digits", "--log-dir", tmp_path, "--hps-path", tmp_path / "hps.json"]
    result = run_command(*command_line, "--set", "image_size=8", "--tuning", "--workers", "2", "--ensemble")
    assert result.exit_code == 0, result.output
    folders = sorted(tmp_path.glob("Ensemble/Digits/*"))
    assert [folder.name[:25] for folder in folders] == [f"KNN+PCA,anomalous_label={label}" for label in (2, 3)]
    assert {tuple(members_of(folder)) for folder in folders} == {(("KNN", 0), ("PCA", 0))}


@pytest.fixture
def sweep_plans(tmp_path):
    """The plans of a sweep with three seeds of GANomaly and PCA; PCA runs with the first seed alone."""

    def sweep_plans(**values):
        width = {"width": {"type": "Discrete", "values": list(range(1, 40))}}
        (tmp_path / "hps.json").write_text(json.dumps({"ganomaly": width, "pca": {}}))
        given = {"hps_path": tmp_path / "hps.json", "tuning": True, "seeds": 3, "seed": 5, **values}
        return make_plan(options(tmp_path, ["GANomaly", "PCA"], **given)).with_each_seed()

    return sweep_plans


def test_workers_run_the_plan_of_their_seed(sweep_plans):
    """Workers get a plan as a pickle; they must find the same sweep in the storage."""
    plans = sweep_plans(overrides=["explained_variance=0.5"])  # GANomaly has no such hyperparameter
    assert [[study.method for study in each.studies] for each in plans] == [["GANomaly", "PCA"], *[["GANomaly"]] * 2]
    names = []
    for each in plans:
        of_worker = command.open_sweep(pickle.loads(pickle.dumps(each)))
        expected = command.open_sweep(each)
        assert (of_worker.name, of_worker.definition) == (expected.name, expected.definition)
        names.append(expected.name)
    assert len(set(names)) == 3


def test_the_sweeps_of_several_seeds_have_the_same_trials(sweep_plans):
    plans = sweep_plans(sampler="random", trials=4, sweep_name="mine")
    drawn = [each.search.plan(each.studies[0]) for each in plans]
    assert drawn[0] == drawn[1] == drawn[2]
    assert [each.options.seed for each in plans] == [5, 6, 7]
    sweeps = [command.open_sweep(each) for each in plans]
    assert [sweep.name for sweep in sweeps] == ["mine", "mine-seed=6", "mine-seed=7"]
    for sweep in sweeps:
        sweep.prepare()
    with pytest.raises(InputError, match="--sampler tpe would choose other trials for each seed"):
        sweep_plans(sampler="tpe", trials=4)
    with pytest.raises(InputError, match=r"^--seeds 3: the last seed would be 2147483648; expected at most 2147483647"):
        sweep_plans(seed=2**31 - 2)
