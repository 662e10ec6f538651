"""`predict --parts`: one prediction for each file, equal to that of `predict`, whatever happens on the way."""

import csv
import errno
import functools
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from anomaly_toolbox.cli import main
from anomaly_toolbox.console import plain_console
from anomaly_toolbox.datasets.folder import ImageFolder
from anomaly_toolbox.datasets.walk import BadImage
from anomaly_toolbox.errors import InputError, ToolboxError, Unreachable
from anomaly_toolbox.inference import parts
from anomaly_toolbox.inference.detector import ScoredImage
from anomaly_toolbox.inference.file_list import Entry, count_changes, read_part, write_list
from anomaly_toolbox.inference.folders import LocalFolder
from anomaly_toolbox.inference.job import FILES, Job, JobRequest, locked, plan
from anomaly_toolbox.inference.part_processes import score_parts
from anomaly_toolbox.inference.parts import Counts, check_part, score_part
from anomaly_toolbox.inference.predictions import predictions
from anomaly_toolbox.models import detector_class
from anomaly_toolbox.training.trial import Trial, run_trial
from tests.conftest import TINY
from tests.datasets.test_folder import fill


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run of PCA, whose scoring takes milliseconds."""
    images = fill(tmp_path_factory.mktemp("images"), size=(20, 24), train__good=20, test__good=8, test__crack=8)
    hyperparameters = detector_class("PCA").Hyperparameters(**TINY["PCA"])
    trial = Trial("PCA", hyperparameters, "images", str(images), ImageFolder(images), seed=0)
    folder, _ = run_trial(trial, tmp_path_factory.mktemp("logs"), plain_console(file=io.StringIO()))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """21 files with images and two that cannot be used, besides two of other kinds."""
    folder = fill(tmp_path_factory.mktemp("new"), size=(20, 24), a=9, b=12)
    (folder / "a" / "5.png").write_text("broken")
    (folder / "b" / "film.gif").touch()
    (folder / "b" / "note.txt").touch()
    return folder


def anomaly_box(*arguments):
    result = CliRunner().invoke(main, ["predict", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr


def begin(run, images, folder, **options):
    """Plans a job without scoring it."""
    request = JobRequest(run, (images,), folder, **{"images_per_part": 5} | options)
    with locked(request):
        return plan(request)


def path_of(job, number):
    """The file of a part."""
    return job.folder.path / job.name(number)


def rows_of(job):
    """The predictions of all parts in their order; numbers as they are written."""
    rows = []
    for number in range(job.n_parts):
        with open(path_of(job, number), newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    return rows


def test_a_problem_may_name_what_is_no_text(tmp_path):
    write_list(tmp_path / "list", [Entry("a", os.fsdecode(b"is a link to \xff"))], per_part=2)
    with open(tmp_path / "list", "rb") as file:
        assert read_part(file, 0) == [Entry("a", "is a link to \\udcff")]


def test_lists_are_divided_into_parts(tmp_path):
    entries = [
        Entry(os.fsdecode(b"a/\xff\n.png")),
        Entry("b.gif", "is not supported"),
        Entry("c.png"),
    ]
    summary = write_list(tmp_path / "list", iter(entries), per_part=2)
    assert summary.n_files == 3
    with open(tmp_path / "list", "rb") as file:
        assert [read_part(file, number) for number in range(2)] == [entries[:2], entries[2:]]
    assert write_list(tmp_path / "same", iter(entries), per_part=2) == summary
    changed = write_list(tmp_path / "changed", [*entries[:1], Entry("d.png")], per_part=2)
    assert changed.checksum != summary.checksum
    with open(tmp_path / "list", "rb") as before, open(tmp_path / "changed", "rb") as after:
        assert count_changes(before, after) == (1, 2)


def test_a_job_lists_every_file_once(run, images, tmp_path):
    job, notes = begin(run, images, tmp_path / "out")
    assert (job.n_files, job.n_parts, job.size(0), job.size(4)) == (22, 5, 5, 2)
    assert notes == ["not scored: .txt files (1)"]
    entries = [entry for number in range(5) for entry in job.entries(number)]
    assert len({entry.file for entry in entries}) == 22
    assert [Path(entry.file).name for entry in entries if entry.problem] == ["film.gif"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images_per_part": 4}, "was begun with --images-per-part 5, received 4"),
        ({"file_format": "jsonl"}, "with --format csv, received jsonl"),
        ({"false_alarm_rate": 0.4}, "without --false-alarm-rate, received 0.4"),
        ({"heatmaps": Path("heat")}, "without --heatmaps, received"),
    ],
)
def test_a_folder_holds_one_job(run, images, tmp_path, changes, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job, _ = begin(run, images, tmp_path / "out")
    assert begin(run, images, tmp_path / "out")[0] == job
    path_of(job, 0).touch()
    with pytest.raises(InputError, match=message):
        begin(run, images, tmp_path / "out", **changes)
    assert path_of(job, 0).exists()
    begin(run, images, tmp_path / "out", overwrite=True, **changes)
    assert not path_of(job, 0).exists()


def test_other_files_and_other_versions_are_refused(run, images, tmp_path, monkeypatch):
    new = fill(tmp_path / "new", size=(20, 24), a=3)
    begin(run, new, tmp_path / "out")
    (new / "a" / "0.png").rename(new / "a" / "one.png")
    (new / "a" / "1.png").unlink()
    with pytest.raises(InputError, match="was begun with other files: 1 are new, and 2 are gone"):
        begin(run, new, tmp_path / "out")
    monkeypatch.setattr("anomaly_toolbox.inference.job.__version__", "99.0")
    with pytest.raises(ToolboxError, match=r"was begun by version 0\.1\.0 of the toolbox, this is version 99\.0"):
        begin(run, images, tmp_path / "out")


def test_files_of_others_are_neither_removed_nor_joined(run, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").touch()
    with pytest.raises(InputError, match=r"holds thesis\.txt, which is no prediction"):
        begin(run, images, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "thesis.txt").exists()
    with pytest.raises(InputError, match="holds other files; with --parts, expected a new or an empty folder"):
        begin(run, images, tmp_path / "new", heatmaps=tmp_path / "out")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="is no folder; expected a folder or a new name"):
        begin(run, images, tmp_path / "out" / "thesis.txt")
    with (
        locked(JobRequest(run, (images,), tmp_path / "other")),
        pytest.raises(ToolboxError, match="another command is working"),
    ):
        begin(run, images, tmp_path / "other")


def ignore():
    """Takes the place of progress."""


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_parts_have_the_predictions_of_predict(run, images, tmp_path, file_format):
    job, _ = begin(run, images, tmp_path / "out", file_format=file_format, heatmaps=tmp_path / "heat")
    counts = [score_part(job, number, ignore) for number in range(job.n_parts)]
    assert counts == [check_part(job, number) for number in range(job.n_parts)]
    code, out, _ = anomaly_box(run, images, "--format", "jsonl", "--heatmaps", tmp_path / "expected")
    assert code == 1
    expected = [json.loads(line) for line in out.splitlines()]
    n_anomalous = sum(row.get("anomalous", False) for row in expected)
    assert functools.reduce(Counts.plus, counts) == (20, n_anomalous, 2)
    if file_format == "csv":
        rows = rows_of(job)
        for row in expected:
            row["anomalous"] = {True: "yes", False: "no"}.get(row.get("anomalous"), "")
        expected = [{name: str(row.get(name, "")) for name in rows[0]} for row in expected]
    elif file_format == "jsonl":
        rows = [json.loads(line) for number in range(5) for line in path_of(job, number).read_text().splitlines()]
    else:
        rows = [row for number in range(5) for row in pq.read_table(path_of(job, number)).to_pylist()]
        rows = [{name: value for name, value in row.items() if value is not None} for row in rows]
    assert sorted(rows, key=lambda row: row["file"]) == sorted(expected, key=lambda row: row["file"])
    heatmaps = {path.relative_to(tmp_path / "heat"): path.read_bytes() for path in (tmp_path / "heat").rglob("*.png")}
    assert len(heatmaps) == 20
    for name, content in heatmaps.items():
        assert (tmp_path / "expected" / name).read_bytes() == content


@pytest.mark.slow
def test_heatmaps_of_anomalous_images_only(run, images, tmp_path):
    options = ["--heatmaps", tmp_path / "heat", "--heatmaps-of", "anomalous", "--format", "jsonl"]
    _, out, _ = anomaly_box(run, images, *options)
    anomalous = {Path(row["file"]).name for row in map(json.loads, out.splitlines()) if row.get("anomalous")}
    assert 0 < len(anomalous) < 20
    assert {path.name.removesuffix(".heat.png") for path in (tmp_path / "heat").rglob("*.png")} == anomalous


@pytest.mark.slow
def test_the_command_continues_and_finishes_once(run, images, tmp_path):
    """A missing part is scored again, a damaged one is named, and a finished job is left as it is."""
    command = [run, images, "--parts", tmp_path / "out", "--images-per-part", 5]
    code, _, err = anomaly_box(*command, "--processes", 2)
    assert code == 0
    assert "20 images scored" in err
    assert "2 files could not be used; 5 parts in" in err
    success = json.loads((tmp_path / "out" / "_SUCCESS").read_text())
    assert (success["parts"], success["scored"], success["unusable"]) == (5, 20, 2)
    files = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert len(files) == 5 + 4

    (tmp_path / "out" / "part-000003.csv").unlink()  # although `_SUCCESS` is there
    (tmp_path / "out" / ".123-0a1b2c3d.part-000003.csv").write_text("half")
    code, _, err = anomaly_box(*command)
    assert code == 0
    assert "parts: 5, 4 of them written before" in err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == files

    code, _, err = anomaly_box(*command)
    assert code == 0
    assert "finished before" in err

    (tmp_path / "out" / "_SUCCESS").unlink()
    lines = files["part-000002.csv"].splitlines(keepends=True)
    (tmp_path / "out" / "part-000002.csv").write_bytes(b"".join(lines[:-1]))
    code, _, err = anomaly_box(*command)
    assert code == 1
    assert "part-000002.csv is damaged: it has 4 predictions, expected 5; delete it" in err


@pytest.mark.parametrize("file_format", ["csv", "jsonl", "parquet"])
def test_a_part_that_lacks_its_end_is_damaged(run, images, tmp_path, file_format):
    """Wherever it was cut: no incomplete prediction is counted."""
    assert anomaly_box(run, images, "--parts", tmp_path / "out", "--format", file_format)[0] == 0
    (part,) = (tmp_path / "out").glob("part-*")
    whole = part.read_bytes()
    (tmp_path / "out" / "_SUCCESS").unlink()
    for n_bytes in (1, 2, 5, 40, 100, len(whole) // 2, len(whole)):
        part.write_bytes(whole[:-n_bytes])
        code, _, err = anomaly_box(run, images, "--parts", tmp_path / "out", "--format", file_format)
        assert code == 1
        assert f"{part.name} is damaged" in err
    part.write_bytes(whole)
    assert anomaly_box(run, images, "--parts", tmp_path / "out", "--format", file_format)[0] == 0


@pytest.mark.slow
def test_any_name_of_a_file_is_one_row(run, tmp_path):
    folder = fill(tmp_path / "new", size=(20, 24), a=1)
    image = (folder / "a" / "0.png").read_bytes()
    strange = ["c\rd.png", "e\nf.png", "g,h.png", 'i"j.png', "\udcff.png", "k\r\nl.png", " m.png", "=n.png"]
    for name in strange:
        (folder / "a" / name).write_bytes(image)
    command = (run, folder, "--parts", tmp_path / "o:ut", "--images-per-part", 2)
    assert anomaly_box(*command)[0] == 0
    (tmp_path / "o:ut" / "_SUCCESS").unlink()
    assert anomaly_box(*command)[0] == 0
    rows = []
    for part in sorted((tmp_path / "o:ut").glob("part-*")):
        with open(part, newline="", encoding="utf-8") as file:
            rows += csv.DictReader(file)
    assert {Path(row["file"]).name for row in rows} == {"0.png", *strange} - {"\udcff.png"} | {"\\udcff.png"}
    assert all(row["score"] for row in rows)
    assert len(rows) == 1 + len(strange)


def of_killers(job, number, on_image, process, is_last_try):
    """Scores nothing; part 1 kills its process once, part 3 each time, and part 4 has an error of its own."""
    on_image()
    marker = job.folder.path / f"tried-{number}"
    if number == 3 or (number == 1 and not marker.exists()):
        marker.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if number == 4:
        raise ValueError("part 4 is impossible")
    with open(job.folder.path / f"scored-{number}", "a") as file:
        file.write(f"{process}\n")
    return Counts(scored=job.size(number))


def of_full_disks(job, number, on_image, process, is_last_try):
    """Scores nothing: no part can be written."""
    raise OSError(errno.ENOSPC, "No space left on device")


def stub_job(folder, n_files=28):
    return Job(LocalFolder(folder), Path("run"), (Path("images"),), None, "csv", 4, n_files, None, None)


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [1, 2])
def test_a_part_that_kills_its_process_is_named_and_the_others_finish(tmp_path, n_processes):
    progress = []
    outcome = score_parts(stub_job(tmp_path), range(7), n_processes, progress.append, of_killers)
    assert outcome.counts.scored == 5 * 4
    assert {path.name for path in tmp_path.glob("scored-*")} == {f"scored-{number}" for number in (0, 1, 2, 5, 6)}
    assert outcome.failures == {
        3: "its process ended with signal 9, 3 times in a row",
        4: "ValueError: part 4 is impossible",
    }
    assert sum(progress) >= 2 * 4  # failed parts are passed; the scored ones report a file each


@pytest.mark.slow
def test_what_concerns_all_parts_ends_the_job(tmp_path):
    with pytest.raises(ToolboxError, match="No space left on device"):
        score_parts(stub_job(tmp_path), range(7), 2, lambda n_files: None, of_full_disks)


def test_tracebacks_of_processes_are_shown_with_debug(tmp_path, capfd):
    for debug in (False, True):
        outcome = score_parts(stub_job(tmp_path, n_files=20), [4], 1, lambda n_files: None, of_killers, debug)
        assert outcome.failures == {4: "ValueError: part 4 is impossible"}
        assert ('raise ValueError("part 4' in capfd.readouterr().err) == debug


def test_unreachable_images_are_tried_again(monkeypatch):
    pauses, restarts, tries = [], [], []
    monkeypatch.setattr(time, "sleep", pauses.append)

    def reach_at_last(is_last_try):
        tries.append(is_last_try)
        if len(tries) < 3:
            raise Unreachable("images/1.png: Stale file handle")
        return Counts(scored=1)

    assert parts.attempt(reach_at_last, lambda: restarts.append(1)) == ("scored", Counts(scored=1))
    assert pauses == list(parts.PAUSES)
    assert len(restarts) == 2
    assert tries == [False, False, True]

    def reach_never(is_last_try):
        raise Unreachable("images/1.png: Stale file handle")

    kind, text = parts.attempt(reach_never, ignore)
    assert kind == "stop"
    assert text == "images/1.png: Stale file handle; run the same command again to continue"


def unreadable(code):
    """The name, the path and the problem of a file that the operating system cannot read."""
    problem = BadImage(Path("images/1.png"), os.strerror(code))
    problem.__cause__ = OSError(code, os.strerror(code))
    return str(problem.path), problem.path, problem


def test_a_disk_that_went_away_is_no_bad_image(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("images/2.png").write_text("image")
    for code in (errno.EACCES, errno.ENOENT):
        parts.raise_if_disk_is_lost(*unreadable(code))
    for code in (errno.EIO, errno.ESTALE, errno.ENOTCONN):
        with pytest.raises(Unreachable, match=r"images/1\.png: .*; its disk or network drive cannot be reached"):
            parts.raise_if_disk_is_lost(*unreadable(code))
    with pytest.raises(parts.OutOfResources):
        parts.raise_if_disk_is_lost(*unreadable(errno.EMFILE))
    Path("images/2.png").unlink()  # nothing is mounted there any more
    with pytest.raises(Unreachable, match=r"images/1\.png: .*; its folder is missing or empty"):
        parts.raise_if_disk_is_lost(*unreadable(errno.ENOENT))


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EIO])
def test_a_damaged_file_does_not_stop_a_job_for_ever(tmp_path, monkeypatch, code):
    """At the last try, other files of the part tell whether the disk is there."""
    monkeypatch.chdir(tmp_path)
    names = [f"other/{number}.png" for number in range(100)]
    with pytest.raises(Unreachable):
        parts.raise_if_disk_is_lost(*unreadable(code), others=names)
    Path("other").mkdir()
    Path("other/50.png").write_text("image")
    parts.raise_if_disk_is_lost(*unreadable(code), others=names)


def test_a_file_that_is_gone_before_its_heatmap_is_unusable(tmp_path):
    (tmp_path / "other.png").touch()

    class Gone:
        only_anomalous = False

        def save(self, name, path, scored, detector):
            raise BadImage(path, "No such file or directory") from FileNotFoundError(errno.ENOENT, "No such file")

    gone = tmp_path / "gone.png"
    outcomes = [("gone.png", gone, ScoredImage(1.0, 1.0, True, np.zeros((2, 2))))]
    arguments = (outcomes, None, None, Gone(), parts.raise_if_disk_is_lost)
    assert list(predictions(*arguments)) == [{"file": "gone.png", "problem": "No such file or directory"}]
    (tmp_path / "other.png").unlink()
    with pytest.raises(Unreachable):
        list(predictions(*arguments))


def test_damage_to_a_job_is_named_with_a_remedy(run, images, tmp_path):
    folder = tmp_path / "out"
    command = (run, images, "--parts", folder)
    begin(run, images, folder, images_per_part=4096)
    (folder / FILES).write_bytes(b"damaged")
    code, _, err = anomaly_box(run, images / "a", "--parts", folder)
    assert code == 2
    assert "was begun with other files, or with the same ones in another order; choose another folder" in err
    code, _, err = anomaly_box(*command, "--images-per-part", 7)
    assert code == 2
    assert "was begun with --images-per-part 4096, received 7" in err
    (folder / "job.json").write_text("")
    code, _, err = anomaly_box(*command)
    assert code == 1
    assert "job.json is damaged" in err
    assert "start anew with --overwrite" in err


@pytest.mark.slow
def test_a_damaged_mark_of_success_is_written_anew(run, images, tmp_path):
    command = (run, images, "--parts", tmp_path / "out")
    _, _, first = anomaly_box(*command)
    success = tmp_path / "out" / "_SUCCESS"
    whole = success.read_bytes()
    for damaged in (b"", b"{}", b"[1]"):
        success.write_bytes(damaged)
        code, _, err = anomaly_box(*command)
        assert code == 0
        assert err.splitlines()[-1] == first.splitlines()[-1]
        assert success.read_bytes() == whole


def test_a_mistake_with_overwrite_loses_nothing(run, images, tmp_path):
    job, _ = begin(run, images, tmp_path / "out")
    path_of(job, 0).write_text("finished")
    for wrong in ((tmp_path / "no run", images), (run, tmp_path / "no images")):
        with pytest.raises(InputError):
            begin(*wrong, tmp_path / "out", overwrite=True)
    with pytest.raises(InputError, match="between 0 and 1"):
        begin(run, images, tmp_path / "out", overwrite=True, false_alarm_rate=2.0)
    assert path_of(job, 0).read_text() == "finished"
    assert (tmp_path / "out" / FILES).exists()


def test_parts_without_a_description_are_neither_used_nor_removed(run, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000000.csv").write_text("of somebody")
    with pytest.raises(InputError, match=r"holds part-000000\.csv, but no job\.json that says what it is"):
        begin(run, images, tmp_path / "out", overwrite=True)
    (tmp_path / "out" / "part-000000.csv").rename(tmp_path / "out" / "part-0.parquet")
    with pytest.raises(InputError, match=r"holds part-0\.parquet, which is no prediction"):
        begin(run, images, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "part-0.parquet").read_text() == "of somebody"


def test_the_same_relative_names_elsewhere_are_other_files(run, tmp_path, monkeypatch):
    for day in ("monday", "tuesday"):
        fill(tmp_path / day / "new", size=(20, 24), a=2)
    monkeypatch.chdir(tmp_path / "monday")
    begin(run, Path("new"), tmp_path / "out")
    begin(run, Path("new"), tmp_path / "out")
    (tmp_path / "out" / ".DS_Store").touch()
    monkeypatch.chdir(tmp_path / "tuesday")
    with pytest.raises(InputError, match=r"was begun with paths relative to .*monday; run the command there"):
        begin(run, Path("new"), tmp_path / "out")


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(run, tmp_path):
    """After `kill -9` of the command no process is left, and the same command completes what is missing."""
    new = fill(tmp_path / "new", size=(20, 24), a=400)
    command = [sys.executable, "-m", "anomaly_toolbox", "predict", run, new, "--parts", tmp_path / "out"]
    command += ["--images-per-part", "2"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    while len(list((tmp_path / "out").glob("part-*"))) < 3:
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    n_written = len(list((tmp_path / "out").glob("part-*")))
    assert n_written < 200
    time.sleep(1)
    assert len(list((tmp_path / "out").glob("part-*"))) <= n_written + 5  # not all: its process has ended as well
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    code, out, _ = anomaly_box(run, new)
    assert code == 0
    written = []
    for path in sorted((tmp_path / "out").glob("part-*")):
        written += path.read_text().splitlines()[1:]
    assert written == out.splitlines()[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts", "out", "--output", "x.csv"], "--output and --parts are both given"),
        (["--processes", "2"], "--processes has no effect without --parts"),
        (["--images-per-part", "2"], "--images-per-part has no effect without --parts"),
        (["--format", "parquet"], "--format parquet needs --parts"),
        (["--heatmaps-of", "anomalous"], "--heatmaps-of anomalous has no effect without --heatmaps"),
        (["--parts", "images"], "holds 1.txt, which is no prediction"),
        (["--parts", "run"], "is the run folder"),
        (["--parts", ""], "Invalid value for '--parts': is empty; expected a file or a folder"),
        ([""], "Invalid value for 'PATH...': is empty"),
        (["--parts", "az://container/out"], "az://container/out: expected a file, a folder, s3://BUCKET/FOLDER or"),
        (["S3://bucket/images"], "S3://bucket/images: expected a file, a folder, s3://BUCKET/FOLDER or"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("images").mkdir()
    Path("images/1.txt").touch()
    code, _, err = anomaly_box("run", "images", *arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]


def test_what_makes_scores_doubtful_is_said_before(run, tmp_path):
    Image.fromarray(np.full((20, 24), 40_000, np.uint16)).save(tmp_path / "deep.png")
    _, notes = begin(run, tmp_path / "deep.png", tmp_path / "out", false_alarm_rate=0.4)
    assert len(notes) == 2
    assert notes[0].startswith("the threshold is ")
    assert notes[1] == "note: some images have 16 bits, unlike the training images of the run; 65,535 counts as white"
