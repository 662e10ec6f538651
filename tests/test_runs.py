"""Run folders: names, locks, and the checks before a run begins or continues."""

import pytest

from anomaly_toolbox.errors import ToolboxError
from anomaly_toolbox.runs import Run, run_name

HPARAMS = {"experiment": "GANomaly", "seed": 0, "versions": {"keras": "3"}}


@pytest.fixture
def run(tmp_path):
    run = Run(tmp_path / "run", HPARAMS)
    with run.locked():
        yield run


def test_name_holds_the_values_that_differ_from_the_defaults():
    name = run_name({"anomalous_label": 2, "epochs": 3, "width": 64}, {"epochs": 15, "width": 64}, seed=0)
    assert name == "anomalous_label=2,epochs=3,seed=0"


def test_name_is_a_single_folder_of_limited_length():
    assert "/" not in run_name({"class_label": "a/b"}, {}, 0)
    values = {f"name_{i}": i for i in range(40)}
    assert len(run_name(values, {}, 0)) < 200
    assert run_name(values, {}, 0) != run_name(values, {}, 1)


def test_different_values_give_different_folders():
    """Even if characters are replaced, strings look like numbers, or names are shortened."""
    for label_a, label_b in (
        ("broken large", "broken-large"),
        (1, "1"),
        ("a/b", "a b"),
        ("傷" * 80, "傷" * 81),
        ("None", None),
    ):
        names = {run_name({"anomalous_label": label}, {"anomalous_label": 0}, 0) for label in (label_a, label_b)}
        assert len(names) == 2
        assert all(len(name.encode()) < 200 for name in names)


def test_a_second_process_is_refused(run):
    with pytest.raises(ToolboxError, match="another process"), Run(run.folder, HPARAMS).locked():
        pass


def test_a_run_may_continue_with_other_package_versions(run):
    run.begin()
    Run(run.folder, HPARAMS | {"versions": {}}).begin()


def test_values_recorded_later_are_not_compared(run):
    run.begin()
    run.record(channels=3)
    assert '"channels": 3' in run.hparams_path.read_text()
    Run(run.folder, HPARAMS).begin()


def test_another_run_in_the_same_folder_is_refused(run):
    run.begin()
    with pytest.raises(ToolboxError, match="seed is 0, this run has 1"):
        Run(run.folder, HPARAMS | {"seed": 1}).begin()


def test_a_run_of_an_earlier_version_may_lack_hyperparameters_with_defaults(run):
    """A hyperparameter that it lacks had its default; any other value belongs to another run, and is named."""

    def begin(defaults, **hyperparameters):
        Run(run.folder, HPARAMS | {"hyperparameters": {"width": 8, **hyperparameters}}, defaults).begin()

    defaults = {"width": 64, "weight_averaging": 0.0}
    begin(defaults)  # as an earlier version, without weight_averaging
    begin(defaults, weight_averaging=0.0)
    with pytest.raises(ToolboxError, match=r"weight_averaging is 0\.0, this run has 0\.9; choose another --log-dir"):
        begin(defaults, weight_averaging=0.9)
    with pytest.raises(ToolboxError, match="width is 8, this run has 9"):
        begin(defaults, width=9, weight_averaging=0.0)
    with pytest.raises(ToolboxError, match=r"weight_averaging is None, this run has 0\.0"):
        begin(None, weight_averaging=0.0)


def test_damaged_hparams_are_reported(run):
    run.hparams_path.write_text("{")
    with pytest.raises(ToolboxError, match=r"hparams\.json is damaged"):
        run.begin()


def test_a_finished_run_is_checked(run):
    run.begin()
    assert run.finished_results() is None
    run.weights_path.write_bytes(b"weights")
    run.scores_path.write_text("index,label,score")
    run.checkpoint.mkdir()
    run.finish({"auprc": 0.5})
    assert run.finished_results() == {"auprc": 0.5}
    assert not run.checkpoint.exists()
    written = run.results_path.read_text()
    for damaged in (written.replace("0.5", "0.9"), "{}", '{"sha256": []}'):
        run.results_path.write_text(damaged)
        with pytest.raises(ToolboxError, match=r"results\.json is damaged"):
            run.finished_results()
    run.results_path.write_text(written)
    run.weights_path.write_bytes(b"weighty")
    with pytest.raises(ToolboxError, match=r"model\.weights\.h5 is damaged"):
        run.finished_results()


def test_clear_removes_all_but_the_lock(run):
    run.begin()
    (run.folder / "checkpoint").mkdir()
    run.clear()
    assert [path.name for path in run.folder.iterdir()] == [".lock"]


def test_a_failed_command_removes_only_its_own_folder(tmp_path):
    """Files that were there before the command stay, whatever they are."""
    run = Run(tmp_path / "run", HPARAMS)
    with run.locked():
        run.begin()
        run.weights_path.write_bytes(b"weights")
    again = Run(tmp_path / "run", HPARAMS)
    with again.locked():
        again.begin()
        again.remove_unless_trained()
    assert run.weights_path.read_bytes() == b"weights"
    new = Run(tmp_path / "new", HPARAMS)
    with new.locked():
        new.begin()
        new.remove_unless_trained()
    assert not new.folder.exists()
