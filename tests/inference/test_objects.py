"""`predict --parts` with images and predictions in an object store: an S3 server on this machine."""

import json
import os
import threading
from pathlib import Path

import pyarrow.fs
import pytest

from anomaly_toolbox.errors import InputError, ToolboxError, Unreachable
from anomaly_toolbox.inference import parts
from anomaly_toolbox.inference.fetching import AHEAD, fetched
from anomaly_toolbox.inference.folders import LocalFolder, ObjectFolder
from anomaly_toolbox.inference.job import Job, JobRequest, locked, plan
from anomaly_toolbox.inference.predictions import Heatmaps, common_folder_of
from anomaly_toolbox.objects import ObjectPath
from tests.inference.test_parts import anomaly_box, images, run  # noqa: F401  (fixtures)

moto = pytest.importorskip("moto.server", reason="moto is not installed")
BUCKET = ObjectPath("s3://images")


@pytest.fixture(scope="module")
def server():
    """An S3 server with an empty bucket; every process that starts meanwhile uses it."""
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "of-the-test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        store, bucket = pyarrow.fs.FileSystem.from_uri("s3://images?allow_bucket_creation=true")
        store.create_dir(bucket)
        yield server
        server.stop()


def upload(folder, root):
    for path in folder.rglob("*"):
        if path.is_file():
            (root / path.relative_to(folder).as_posix()).write(path.read_bytes())


def begin(run, paths, folder, **options):  # noqa: F811
    with locked(request := JobRequest(run, tuple(paths), folder, images_per_part=5, **options)):
        return plan(request)


def rows_of(lines):
    """Predictions by the names of their files below the folder of the images."""
    rows = {}
    for line in lines:
        row = json.loads(line)
        rows["/".join(row.pop("file").split("/")[-2:])] = row
    return rows


def test_names_of_objects(server):
    for name in ("s3://", "s3:///folder", "gs://"):
        with pytest.raises(InputError, match=r"expected .s://BUCKET|expected s3://BUCKET"):
            ObjectPath(name)
    folder = BUCKET / "names"
    strange = "a b?/100 % é#x.png"
    (folder / strange).write(b"content")
    (folder / "z.png").write(b"")
    assert (folder / strange).read() == b"content"
    assert folder.objects_below() == [strange, "z.png"]
    assert folder.names() == ["a b?", "z.png"]
    assert folder.is_folder()
    assert not folder.is_object()
    assert (folder / "z.png").is_object()
    (folder / "z.png").remove()
    (folder / "z.png").remove()
    assert folder.names() == ["a b?"]
    assert not (BUCKET / "nothing").is_folder()
    assert (BUCKET / "nothing").names() == []
    with pytest.raises(FileNotFoundError):
        (folder / "z.png").read()
    with pytest.raises(ToolboxError, match=r"s3://no-bucket/x: .*NO_SUCH_BUCKET"):
        ObjectPath("s3://no-bucket/x").write(b"")


def test_heatmaps_have_the_folders_of_their_images():
    names = ["s3://images/new/a/1.png", "s3://images/new/b/2.png"]
    common = common_folder_of(names)
    assert str(common) == "/s3/images/new"
    assert Heatmaps(ObjectFolder(BUCKET), common).name_of(names[0]) == "a/1.png.heat.png"
    assert str(common_folder_of([*names, os.fsencode("/tmp/3.png")])) == "/"


def test_folders_know_what_they_contain(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert LocalFolder(tmp_path / "link").contains(LocalFolder(tmp_path / "target" / "heat"))
    assert not LocalFolder(tmp_path / "target").contains(LocalFolder(tmp_path))
    assert ObjectFolder(BUCKET).contains(ObjectFolder(BUCKET / "heat"))
    assert not ObjectFolder(BUCKET / "heat").contains(ObjectFolder(BUCKET / "heatmaps"))
    assert not LocalFolder(tmp_path).contains(ObjectFolder(BUCKET))


def test_objects_are_listed_like_files(server, run, images, tmp_path):  # noqa: F811
    """Hidden objects, run folders and heatmaps are left out, and other formats have a problem."""
    upload(images, BUCKET / "listed")
    for name in (".hidden/1.png", "logs/hparams.json", "logs/pictures/1.png", "a/1.png.heat.png", "x/__MACOSX/2.png"):
        (BUCKET / "listed" / name).write(b"content")
    job, notes = begin(run, [images, BUCKET / "listed", BUCKET / "listed" / "a/0.png"], tmp_path / "out")
    assert notes == ["not scored: .txt files (2), heatmaps (1), run folders (1)"]
    entries = [entry for number in range(job.n_parts) for entry in job.entries(number)]
    local = [entry.file for entry in entries[:22]]
    assert all(name.startswith(str(images)) for name in local)
    assert [entry.file for entry in entries[22:44]] == sorted(
        name.replace(str(images), "s3://images/listed") for name in local
    )
    assert [entry.file for entry in entries[44:]] == ["s3://images/listed/a/0.png"]
    assert [entry.file for entry in entries if entry.problem] == [
        f"{images}/b/film.gif",
        "s3://images/listed/b/film.gif",
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s3://images/nothing", "s3://images/nothing: there is no such object, and no folder with objects"),
        ("s3://images/texts", "s3://images/texts: contains no images; .*; found .txt files (1)"),
        ("s3://no-bucket/x", "s3://no-bucket/x: "),
        ("s3://", "s3://: expected s3://BUCKET"),
    ],
)
def test_what_cannot_be_listed_is_said_in_one_line(server, run, tmp_path, name, message):  # noqa: F811
    (BUCKET / "texts" / "1.txt").write(b"")
    code, _, err = anomaly_box(run, name, "--parts", tmp_path / "out")
    assert code in (1, 2)
    (line,) = err.splitlines()
    before, _, after = message.partition(".*")
    assert before in line
    assert after in line
    assert not (tmp_path / "out").exists()


def test_without_parts_objects_are_refused(run, images):  # noqa: F811
    code, _, err = anomaly_box(run, "s3://images/new")
    assert (code, err) == (2, "Error: s3://images/new: files in object stores need --parts FOLDER\n")
    code, _, err = anomaly_box(run, images, "--heatmaps", "s3://images/heat")
    assert (code, err) == (2, "Error: s3://images/heat: files in object stores need --parts FOLDER\n")


@pytest.mark.slow
def test_predictions_are_those_of_files(server, run, images, tmp_path):  # noqa: F811
    """Scores and heatmaps are equal, a missing part is scored again, and a finished job is left as it is."""
    upload(images, BUCKET / "new")
    out = BUCKET / "out"
    command = [run, "s3://images/new/", "--parts", "s3://images/out", "--images-per-part", 5, "--format", "jsonl"]
    command += ["--heatmaps", "s3://images/out/heat", "--processes", 2]
    code, _, err = anomaly_box(*command)
    assert code == 0, err
    assert "20 images scored" in err
    assert "2 files could not be used; 5 parts in s3://images/out" in err
    written = {name: (out / name).read() for name in out.names() if name != "heat"}
    assert sorted(written) == ["_SUCCESS", "files.parquet", "job.json", *(f"part-{n:06}.jsonl" for n in range(5))]

    code, stdout, _ = anomaly_box(run, images, "--format", "jsonl", "--heatmaps", tmp_path / "heat")
    expected = rows_of(stdout.splitlines())
    lines = [
        line for name in sorted(written) if name.startswith("part") for line in written[name].decode().splitlines()
    ]
    assert rows_of(lines) == expected
    assert len(expected) == 22
    heatmaps = (out / "heat").objects_below()
    assert heatmaps == sorted(path.relative_to(tmp_path / "heat").as_posix() for path in tmp_path.rglob("*.heat.png"))
    assert len(heatmaps) == 20
    for name in heatmaps:
        assert (out / "heat" / name).read() == (tmp_path / "heat" / name).read_bytes()

    (out / "part-000003.jsonl").remove()
    code, _, err = anomaly_box(*command)
    assert code == 0, err
    assert "parts: 5, 4 of them written before" in err
    assert {name: (out / name).read() for name in written} == written
    code, _, err = anomaly_box(*command)
    assert code == 0
    assert "finished before: s3://images/out" in err

    (out / "thesis.txt").write(b"")
    code, _, err = anomaly_box(*command, "--overwrite")
    assert code == 2
    assert "--parts s3://images/out: holds thesis.txt, which is no prediction" in err


@pytest.mark.slow
def test_an_object_that_is_gone_has_a_prediction(server, run, images, tmp_path):  # noqa: F811
    upload(images, BUCKET / "some")
    job, _ = begin(run, [BUCKET / "some"], tmp_path / "out", file_format="jsonl")
    for number in range(4):
        (BUCKET / "some" / "a" / f"{number}.png").remove()
    assert parts.score_part(job, 0, lambda: None) == parts.Counts(1, parts.check_part(job, 0).anomalous, 4)
    (row, *_) = [json.loads(line) for line in (tmp_path / "out" / "part-000000.jsonl").read_text().splitlines()]
    assert row == {"file": "s3://images/some/a/0.png", "problem": "No such file or directory"}


def test_copies_come_in_order_and_are_removed(server, tmp_path):
    local = tmp_path / "local.png"
    local.write_bytes(b"local")
    names = [str(local)]
    for number in range(AHEAD + 3):
        (BUCKET / "many" / f"{number}.png").write(b"%d" % number)
        names.append(f"s3://images/many/{number}.png")
    with fetched(names) as paths:
        copies = [(path, path.read_bytes()) for path in list(paths)]
    assert {path.suffix for path, _ in copies} == {".png"}
    assert [content for _, content in copies] == [b"local", *(b"%d" % number for number in range(AHEAD + 3))]
    assert [path.exists() for path, _ in copies] == [True] + [False] * (AHEAD + 3)


def fetch_all(names):
    with fetched(names) as paths:
        return list(paths)


def test_a_store_that_is_away_is_no_bad_image(server, monkeypatch):
    class Refuses:
        def open_input_file(self, name):
            raise OSError("AWS Error NETWORK_CONNECTION\nand more")

    with pytest.raises(Unreachable, match=r"^s3://no-bucket/1\.png: the bucket does not exist$"):
        fetch_all(["s3://no-bucket/1.png"])
    monkeypatch.setattr(ObjectPath, "_store", Refuses())
    with pytest.raises(Unreachable, match=r"^s3://images/1\.png: AWS Error NETWORK_CONNECTION$"):
        fetch_all(["s3://images/1.png"])
    job = Job(ObjectFolder(BUCKET), Path("run"), (), None, "csv", 4, 28, None, None)
    with pytest.raises(ToolboxError, match=r"^s3://images/part-000000\.csv: AWS Error NETWORK_CONNECTION$"):
        parts.check_part(job, 0)  # and does not call it damaged


def test_files_are_written_in_the_background(monkeypatch):
    written, together = {}, threading.Barrier(2, timeout=60)

    def write(path, content):
        together.wait()  # two files at a time, or an error
        written[str(path)] = content

    monkeypatch.setattr(ObjectPath, "write", write)
    with ObjectFolder(ObjectPath("s3://bucket/maps")).written_in_background() as folder:
        for number in range(100):
            with folder.write(f"a/{number}.png") as temporary:
                temporary.write_bytes(bytes([number]))
    assert written == {f"s3://bucket/maps/a/{number}.png": bytes([number]) for number in range(100)}


def test_a_file_that_the_store_does_not_take_is_reported(monkeypatch):
    def write(path, content):
        raise Unreachable(f"{path}: no answer")

    monkeypatch.setattr(ObjectPath, "write", write)
    folder = ObjectFolder(ObjectPath("s3://bucket/maps"))
    with (
        pytest.raises(Unreachable, match=r"s3://bucket/maps/1\.png: no answer"),
        folder.written_in_background() as in_background,
        in_background.write("1.png") as temporary,
    ):
        temporary.touch()
