"""The command line: its options, its environment variables, and one line for each mistake."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import click
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from anomaly_toolbox import load
from anomaly_toolbox.cli import main
from anomaly_toolbox.datasets.digits import Digits
from anomaly_toolbox.datasets.labelled import pooled_splits
from anomaly_toolbox.sweeps import command as sweep_command
from tests.conftest import TINY

TINY_SETS = [f"--set={name}={value}" for name, value in TINY["GANomaly"].items()]


def invoke(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def plans(monkeypatch):
    """The plans of all commands of a test, which do not run."""
    plans = []
    monkeypatch.setattr(sweep_command, "run", plans.append)
    return plans


def test_every_option_is_explained():
    text = invoke("--help").output
    options = (
        "experiment run-all dataset data-dir aspect on-bad-image all-test-images split white-level hps-path tuning "
        "no-tuning sampler trials pruner workers storage sweep-name set log-dir seed seeds ensemble overwrite "
        "require-gpu debug"
    )
    for option in options.split():
        assert re.search(rf"--{option}\b", text)
    for command in ("ensemble", "export", "predict", "report"):
        assert re.search(rf"^  {command}  +\w", text, re.MULTILINE)
    for parameter in [*main.params, *main.commands["report"].params[1:], *main.commands["ensemble"].params[1:]]:
        assert parameter.help.endswith(".")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["--tuning"], True),
        (["--tuning", "True"], True),
        (["--tuning", "False"], False),
        (["--tuning=true"], True),
        (["--no-tuning"], False),
    ],
)
def test_tuning_is_a_flag_and_takes_a_boolean(plans, arguments, expected):
    for command in (
        ["--experiment", "GANomaly", "--dataset", "Digits", *arguments],
        [*arguments, "--experiment", "GANomaly", "--dataset", "Digits"],
    ):
        assert invoke(*command).exit_code == 0
        assert plans.pop().options.tuning is expected


def test_letter_case_of_names_is_ignored(plans):
    assert invoke("--experiment", "ganomalyexperiment", "--dataset", "digits").exit_code == 0
    options = plans[0].options
    assert (options.methods, options.dataset, options.dataset_name) == (["GANomaly"], "digits", "Digits")


def test_run_all_runs_every_method(plans):
    from anomaly_toolbox.models import METHODS

    assert invoke("--run-all", "--dataset", "Digits").exit_code == 0
    assert plans[0].options.methods == list(METHODS)


def test_environment_variables_set_options(plans):
    environment = {"ANOMALY_BOX_LOG_DIR": "/logs", "ANOMALY_BOX_DATA_DIR": "/data"}
    CliRunner().invoke(main, ["--experiment", "GANomaly", "--dataset", "MNIST"], env=environment)
    assert (str(plans[0].options.log_dir), str(plans[0].options.data_dir)) == ("/logs", "/data")


@pytest.mark.parametrize("name", ["", *main.commands])
def test_every_option_has_an_environment_variable(name):
    """The variable is named like the option: ANOMALY_BOX_SET, ANOMALY_BOX_PREDICT_FORMAT."""
    command = main.commands[name] if name else main
    with click.Context(main, auto_envvar_prefix="ANOMALY_BOX") as context:
        context = click.Context(command, parent=context, info_name=name) if name else context
        options = [option for option in command.params if isinstance(option, click.Option) and option.name != "version"]
        for option in options:
            variable = f"{context.auto_envvar_prefix}_{option.opts[-1].lstrip('-').upper().replace('-', '_')}"
            value = option.type.choices[0] if isinstance(option.type, click.Choice) else "1"
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(variable, value)
                assert option.resolve_envvar_value(context) == value


def test_set_adds_to_its_environment_variable(plans):
    environment = {"ANOMALY_BOX_SET": "epochs=3 width=8", "ANOMALY_BOX_EPOCHS": "5"}
    result = CliRunner().invoke(main, [*RUN, "--set", "width=16", "--set", "patience=none"], env=environment)
    ((_, hyperparameters),) = plans[0].first_trials
    assert (hyperparameters.epochs, hyperparameters.width, hyperparameters.patience) == (3, 16, None)
    assert "the environment variable ANOMALY_BOX_EPOCHS matches no option and is ignored" in result.output
    assert CliRunner().invoke(main, RUN, env={"ANOMALY_BOX_SET": "nonsense=1"}).exit_code == 2


def test_a_folder_with_the_name_of_a_known_dataset_is_noted(plans, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    result = invoke("--experiment", "PCA", "--dataset", "digits")
    assert "note: Digits is a known dataset; --dataset ./digits would read the folder digits instead" in result.output
    assert plans[0].options.dataset_name == "Digits"
    assert "note" not in invoke("--experiment", "PCA", "--dataset", "./digits").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--experiment", "PCA", "--dataset", "Digits", "--set", "image_sise=8"], "did you mean image_size"),
        (["--experiment", "PCA", "--dataset", "Digits", "--hps-path", "none.json"], "there is no such file"),
        (["--run-all", "--dataset", "Digits", "--tuning", "--sampler", "tpe"], "needs --trials"),
        (
            ["--run-all", "--dataset", "Digits", "--set", "normal_label=3", "--set", "anomalous_label=2"],
            "anomalous_label and normal_label are both set; expected only one of them",
        ),
        (["--experiment", "descarganexperiment", "--dataset", "Digits"], "DeScarGAN is left out: it needs labelled"),
        (
            ["--experiment", "AnoGAN", "--dataset", "Digits", "--set", "score=mahalanobis"],
            "needs an encoder: set warm_start to true",
        ),
        (
            ["--run-all", "--dataset", ".", "--set", "anomalous_label=3"],
            "--set anomalous_label: 3 given; the folders",
        ),
        (["predict", "none", "none.png"], "none: is not the folder of a run"),
        (["export", "none"], "none: is not the folder of a run"),
        (["ensemble", "none", "none", "--output", "new"], "none: is not the folder of a run"),
    ],
)
def test_mistakes_are_reported_before_tensorflow_is_imported(tmp_path, arguments, message):
    program = (
        f"import sys; sys.argv[1:] = {arguments!r}\n"
        "from anomaly_toolbox.cli import main\n"
        "try: main()\n"
        "finally: print(sorted({'tensorflow', 'keras'} & set(sys.modules)))"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (finished.returncode, finished.stdout) == (2, "[]\n"), finished.stderr
    assert message in finished.stderr


@pytest.mark.slow
def test_a_command_without_standard_streams_finishes(tmp_path):
    command = f"{sys.executable} -m anomaly_toolbox --experiment PCA --dataset Digits --set image_size=8 <&- >&- 2>&-"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, check=False).returncode == 0
    assert len(list(tmp_path.rglob("results.json"))) == 1


RUN = ["--experiment", "GANomaly", "--dataset", "Digits"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--dataset", "Digits"], 2, "give either --experiment NAME or --run-all"),
        ([*RUN, "--run-all"], 2, "give either"),
        (["--experiment", "GANomaly"], 2, "give --dataset"),
        ([*RUN, "--sampler", "annealing"], 2, "'annealing' is not one of 'grid', 'random', 'tpe'"),
        ([*RUN, "--trials", "3"], 2, "add --tuning"),
        ([*RUN, "--tuning", "--trials", "0"], 2, "0 is not in the range"),
        ([*RUN, "--tuning", "--sweep-name", "../up"], 2, "--sweep-name ../up: expected letters"),
        ([*RUN, "--tuning", "--sweep-name", "傷" * 60], 2, "has 180 bytes, expected at most 150"),
        ([*RUN, "--tuning", "--storage", "postgresql://me@127.0.0.1:1/x"], 2, "cannot be used"),
        ([*RUN, "--seeds", "0"], 2, "0 is not in the range"),
        ([*RUN, "--tuning", "--trials", "3", "--sampler", "tpe", "--seeds", "2"], 2, "choose grid or random"),
        (["ensemble", "none", "--output", "new"], 2, "an ensemble takes at least two runs, received 1"),
        (["ensemble", "none", "other"], 2, "Missing option '--output'"),
        (["report", "none"], 2, "none: there is no such folder"),
        (["report", "."], 2, "there are no runs in it"),
        (["reprot", "."], 2, "No such command 'reprot'"),
        (["--experiment", "GANomali", "--dataset", "Digits"], 2, "did you mean GANomaly"),
        (["--experiment", "DeScarGANExperiment", "--dataset", "Digits"], 2, "trains on normal images alone; valid"),
        (["--experiment", "DESCARGAN", "--dataset", "Digits"], 2, "DeScarGAN is left out: it needs labelled anomalous"),
        (["--experiment", "GANomaly", "--dataset", "MNIS"], 2, "did you mean MNIST"),
        (["--experiment", "GANomaly", "--dataset", "none.py"], 2, "no such file"),
        (["--experiment", "GANomaly", "--dataset", "MNIST", "--data-dir", "none"], 2, "no such folder"),
        ([*RUN, "--hps-path", "none.json"], 2, "no such file"),
        ([*RUN, "--hps-path", "."], 2, "cannot be read"),
        ([*RUN, "--set", "epoch=3"], 2, "did you mean epochs"),
        ([*RUN, "--set", "anomalous_label=11"], 2, "11 is not a label of Digits"),
        ([*RUN, "--set", "normal_label=11"], 2, "normal_label: 11 is not a label of Digits"),
        ([*RUN, *TINY_SETS, "--set", "batch_size=5000"], 2, "larger than the training set"),
        ([*RUN, "--data-dir", "."], 2, "is not supported by --dataset Digits"),
        ([*RUN, "--require-gpu"], 1, "--require-gpu: TensorFlow finds no GPU"),
    ],
)
def test_each_mistake_is_one_line(tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tensorflow.config.get_visible_devices", lambda kind=None: [])
    result = invoke(*arguments)
    assert result.exit_code == code
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")
    assert message in line
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("arguments", [["--tunin"], [*RUN, "--seed", "-1"], [*RUN, "--seed", "x"], [*RUN, "more"]])
def test_mistakes_that_click_reports_are_one_line(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("Error: ")


def test_a_folder_without_read_permission(idx_folder, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("pathlib.Path.iterdir", refuse)
    result = invoke("--experiment", "GANomaly", "--dataset", "MNIST", "--data-dir", idx_folder)
    assert (result.exit_code, result.stderr) == (1, f"Error: {idx_folder}: Permission denied\n")


def test_a_damaged_data_file(idx_folder):
    (idx_folder / "t10k-images-idx3-ubyte").write_bytes(b"")
    result = invoke("--experiment", "GANomaly", "--dataset", "MNIST", "--data-dir", idx_folder)
    assert result.exit_code == 1
    assert "t10k-images-idx3-ubyte is empty" in result.stderr


def test_a_log_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    result = invoke(*RUN, "--log-dir", tmp_path / "file")
    assert result.exit_code == 2
    assert re.fullmatch(r"Error: .*'--log-dir': Directory '.*/file' is a file\..*\n", result.stderr)
    result = invoke(*RUN, "--log-dir", tmp_path / "file" / "logs")
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: .*/file/logs.*: Not a directory\n", result.stderr)


@pytest.mark.slow
def test_a_changed_python_file_is_noticed(tmp_path):
    """A finished run is not reused for other images."""
    source = "from anomaly_toolbox.datasets.digits import Digits\n\n\nclass Parts(Digits):\n    pass\n"
    command = ["--experiment", "PCA", "--dataset", tmp_path / "Parts.py", "--set", "image_size=8"]
    command += ["--log-dir", tmp_path / "logs"]
    (tmp_path / "Parts.py").write_text(source)
    assert invoke(*command).exit_code == 0
    assert "finished before, skipped" in invoke(*command).output
    (tmp_path / "Parts.py").write_text(source + "\n# other images\n")
    result = invoke(*command)
    assert result.exit_code == 1
    assert "the images have changed since this run was made" in result.stderr


def test_runs_with_the_division_of_the_papers_are_kept_apart(tmp_path):
    """The same command with and without `--split pooled`: two runs, and two tables in the report."""
    command = ["--experiment", "PCA", "--dataset", "Digits", "--set", "image_size=8", "--log-dir", tmp_path]
    for arguments in ([], ["--split", "official"], ["--split", "POOLED"]):
        result = invoke(*command, *arguments)
        assert result.exit_code == 0, result.output
        assert ("finished before, skipped" in result.output) == (arguments == ["--split", "official"])
    names = {path.parent.name: path.parent for path in tmp_path.rglob("results.json")}
    assert sorted(names) == [
        "anomalous_label=2,image_size=8,seed=0",
        "anomalous_label=2,image_size=8,split=pooled,seed=0",
    ]
    official, pooled = (names[name] for name in sorted(names))
    hparams = [json.loads((folder / "hparams.json").read_text()) for folder in (official, pooled)]
    assert [content["reading"] for content in hparams] == [{}, {"split": "pooled"}]
    test = json.loads((pooled / "results.json").read_text())["test"]
    assert (test["n_normal"], test["n_anomalous"]) == (324, 177)  # 1,797 digits, 177 of them have the label 2

    assert invoke("report", tmp_path).exit_code == 0
    tables = re.findall(r"^## .*$", (tmp_path / "results_table.md").read_text(), re.MULTILINE)
    assert [table for table in tables if "Digits" in table] == ["## Digits", "## Digits, split=pooled"]

    splits = pooled_splits(Digits("pooled")._raw.values(), lambda labels: labels == 2)
    scores = np.genfromtxt(pooled / "scores.csv", delimiter=",", names=True)["score"]
    np.testing.assert_allclose(load(pooled).score_images(splits["test"].images[:20]), scores[:20], rtol=1e-4)
    Image.fromarray(splits["test"].images[0, ..., 0]).save(tmp_path / "digit.png")
    prediction = invoke("predict", pooled, tmp_path / "digit.png")
    assert prediction.exit_code == 0
    assert float(prediction.stdout.splitlines()[1].split(",")[1]) == pytest.approx(scores[0], rel=1e-4)


def test_the_traceback_is_printed_with_debug_only(monkeypatch):
    monkeypatch.setattr(sweep_command, "run", lambda *_, **__: 1 / 0)
    without_debug = invoke(*RUN)
    with_debug = invoke(*RUN, "--debug")
    assert without_debug.exit_code == with_debug.exit_code == 1
    assert without_debug.stderr.splitlines() == ["Error: ZeroDivisionError: division by zero (--debug shows where)"]
    assert "Traceback" in with_debug.stderr


def test_ctrl_c_prints_how_to_continue(monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_command, "run", interrupt)
    result = invoke(*RUN)
    assert result.exit_code == 130
    assert result.stderr.splitlines() == [
        "Interrupted. Run the same command again to continue after the last finished epoch."
    ]


@pytest.mark.slow
def test_a_grid_survives_a_trial_that_fails(tmp_path):
    """The batch of the second trial is too large; the first trial finishes, and the table shows it."""
    section = {name: {"type": "Discrete", "values": [value]} for name, value in TINY["GANomaly"].items()}
    section |= {"batch_size": {"type": "Discrete", "values": [64, 5000]}, "epochs": {"type": "Discrete", "values": [1]}}
    (tmp_path / "hps.json").write_text(json.dumps({"ganomaly": section}))
    result = invoke(*RUN, "--hps-path", tmp_path / "hps.json", "--tuning", "--log-dir", tmp_path / "logs")
    assert result.exit_code == 1
    assert "1 of 2 trials failed; the first: GANomaly, batch_size=5000: batch_size: 5000 is larger" in result.stderr
    assert "95% interval" in result.output
    assert len(list((tmp_path / "logs").rglob("results.json"))) == 1


@pytest.mark.slow
def test_the_same_command_continues_a_run_after_kill_9(idx_folder, tmp_path):
    """A real process is killed in the middle of an epoch; the metrics equal those of a run that was not killed."""
    command = [sys.executable, "-m", "anomaly_toolbox", "--experiment", "GANomaly", "--dataset", "MNIST"]
    command += ["--data-dir", str(idx_folder), *TINY_SETS, "--set", "epochs=6"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}

    def start(folder):
        return subprocess.Popen(
            [*command, "--log-dir", str(folder)], stdout=subprocess.PIPE, text=True, env=environment
        )

    killed = start(tmp_path / "killed")
    for line in killed.stdout:
        if line.startswith("epoch 2/6"):
            break
    time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list((tmp_path / "killed").rglob("results.json"))

    continued, uninterrupted = start(tmp_path / "killed"), start(tmp_path / "uninterrupted")
    assert "continuing after epoch" in continued.communicate()[0]
    uninterrupted.communicate()
    assert (continued.returncode, uninterrupted.returncode) == (0, 0)
    metrics = []
    for folder in ("killed", "uninterrupted"):
        (path,) = (tmp_path / folder).rglob("results.json")
        results = json.loads(path.read_text())
        metrics.append({name: results[name] for name in ("validation", "test", "selected_epoch")})
    assert metrics[0] == metrics[1]
