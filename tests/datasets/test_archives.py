"""Archives come out whole and once, or not at all, and never outside their folder."""

import concurrent.futures
import io
import os
import stat
import tarfile
import time
import zipfile

import pytest

from anomaly_toolbox.datasets import archives
from anomaly_toolbox.datasets.archives import data_folder, extracted
from anomaly_toolbox.errors import InputError, ToolboxError

CONTENT = {"a/b/1.txt": b"one", "a/2.txt": b"two" * 5000, "3.txt": b""}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz", ".txz": "w:xz"}


def tar(path, *headers, content=CONTENT):
    """A tar file with these files, then these headers of anything else."""
    with tarfile.open(path, next(mode for suffix, mode in TARS.items() if path.name.endswith(suffix))) as archive:
        for name, text in content.items():
            header = tarfile.TarInfo(name)
            header.size = len(text)
            archive.addfile(header, io.BytesIO(text))
        for header in headers:
            archive.addfile(header)
    return path


def header(name, kind, link=""):
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


def zipped(path, content=CONTENT, mode=0):
    """A zip file with these files, the last of which has these Unix permissions and kind."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("empty/", b"")
        for number, (name, text) in enumerate(content.items(), 1):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16 if number == len(content) else 0
            archive.writestr(info, text)
    return path


def made(folder, name, **options):
    return (zipped if name.endswith(".zip") else tar)(folder / name, **options)


def contents(folder):
    """What lies in a folder, but the mark of its archive."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != archives.MARK)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(archive, told):
    """The archive is refused, and nothing is left of it."""
    with pytest.raises(ToolboxError, match=told):
        extracted(archive)
    assert {path.name for path in archive.parent.iterdir()} - {archive.name} <= {".parts.lock"}


@pytest.mark.parametrize("suffix", [".zip", *TARS])
def test_what_was_packed_comes_out(tmp_path, suffix):
    archive = made(tmp_path, f"parts.v1{suffix}")
    assert data_folder(archive) == tmp_path / "parts.v1"
    assert contents(tmp_path / "parts.v1") == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "parts.v1"}


def test_once(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "parts.zip")
    extracted(archive)
    monkeypatch.setattr(archives, "_extract", None)
    assert extracted(archive) == tmp_path / "parts"


def test_who_comes_second_waits_for_the_first(tmp_path, monkeypatch):
    archive, extract, begun = zipped(tmp_path / "parts.zip"), archives._extract, []

    def slowly(*arguments):
        begun.append(arguments)
        time.sleep(0.2)
        extract(*arguments)

    monkeypatch.setattr(archives, "_extract", slowly)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert {*pool.map(extracted, [archive] * 3)} == {tmp_path / "parts"}
    assert len(begun) == 1


def test_another_archive_of_the_name_is_not_taken_for_it(tmp_path):
    archive = zipped(tmp_path / "parts.zip")
    extracted(archive)
    zipped(archive, {**CONTENT, "4.txt": b"four"})
    with pytest.raises(InputError, match="is there already and was not extracted from this archive"):
        extracted(archive)


def test_a_folder_that_is_there_is_left_alone(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="name it instead of the archive if it holds the images"):
        extracted(zipped(tmp_path / "parts.zip"))
    assert contents(tmp_path / "parts") == {"mine.txt": b"mine"}


@pytest.mark.parametrize("suffix", [".zip", ".tar.xz"])
def test_an_interrupted_extraction_begins_anew(tmp_path, monkeypatch, suffix):
    archive = made(tmp_path, f"parts{suffix}")
    copy, copied = archives.shutil.copyfileobj, []

    def interrupt(source, target, length):
        copy(source, target, length)
        copied.append(target.name)
        if len(copied) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(archives.shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extracted(archive)
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    monkeypatch.undo()
    assert contents(extracted(archive)) == CONTENT


def test_what_a_killed_process_left_is_removed(tmp_path):
    left = tmp_path / ".parts.part"
    left.mkdir()
    (left / "half.txt").write_text("ha")
    (tmp_path / ".parts.lock").touch()
    assert contents(extracted(zipped(tmp_path / "parts.zip"))) == CONTENT
    assert not left.exists()


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "C:\\x", "a\\..\\..\\x"])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_names_that_lead_out_of_the_folder(tmp_path, name, suffix):
    folder = tmp_path / "deep" / "inside"
    folder.mkdir(parents=True)
    refused(made(folder, f"parts{suffix}", content={**CONTENT, name: b"evil"}), "which leads out of its folder")
    assert [path.name for path in tmp_path.rglob("*") if path.suffix != ".lock"] == ["deep", "inside", f"parts{suffix}"]


@pytest.mark.parametrize(
    "evil",
    [
        header("x", tarfile.SYMTYPE, "/etc"),
        header("x", tarfile.LNKTYPE, "3.txt"),
        header("x", tarfile.CHRTYPE),
        header("x", tarfile.BLKTYPE),
        header("x", tarfile.FIFOTYPE),
    ],
    ids=["symlink", "hardlink", "character", "block", "fifo"],
)
def test_links_and_devices_in_a_tar(tmp_path, evil):
    refused(tar(tmp_path / "parts.tar.xz", evil), "holds a link or a device, 'x'; only files and folders")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip(tmp_path, kind):
    refused(zipped(tmp_path / "parts.zip", mode=kind | 0o644), r"holds a link or a device, '3\.txt'")


def test_an_encrypted_file(tmp_path):
    archive = zipped(tmp_path / "parts.zip")
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    refused(archive, r"holds an encrypted file, '3\.txt'")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_too_much(tmp_path, monkeypatch, suffix):
    archive = made(tmp_path, f"parts{suffix}")
    monkeypatch.setattr(archives, "MOST_BYTES", 15_002)
    refused(archive, "holds more than 15,002 bytes")
    monkeypatch.setattr(archives, "MOST_BYTES", 15_003)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    refused(archive, "holds more than 2 files")
    monkeypatch.setattr(archives, "MOST_MEMBERS", 4)
    assert contents(extracted(archive)) == CONTENT


def test_a_size_that_is_only_announced(tmp_path):
    huge = tarfile.TarInfo("x")
    huge.size = 10**12
    refused(tar(tmp_path / "parts.tar", huge), "holds more than 20,000,000,000 bytes")


def test_a_name_of_megabytes(tmp_path):
    refused(tar(tmp_path / "parts.tar.gz", content={"x" * 2**20: b""}), r"a name of 1,048,\d+ bytes")


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_one_name_twice(tmp_path, suffix):
    refused(made(tmp_path, f"parts{suffix}", content={"a": b"1", "./a": b"2"}), "damaged.* holds '.*a' twice")


@pytest.mark.parametrize("suffix", [".zip", *TARS])
def test_truncated_anywhere(tmp_path, suffix):
    archive = made(tmp_path, f"parts{suffix}")
    whole = archive.read_bytes()
    last = whole.rindex(b"3.txt") + 512 if suffix == ".tar" else len(whole) - 1  # what follows in a tar are zeros
    for length in sorted({0, 1, 511, 512, 1024, last // 3, last // 2, last} & set(range(last + 1))):
        archive.write_bytes(whole[:length])
        refused(archive, "is damaged, or not what its name says")


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
def test_a_byte_that_changed(tmp_path, suffix):
    archive = made(tmp_path, f"parts{suffix}", content={"noise": os.urandom(5000)})
    content = bytearray(archive.read_bytes())
    content[2500] ^= 1
    archive.write_bytes(content)
    refused(archive, "is damaged, or not what its name says")


def test_a_damaged_header_in_the_middle(tmp_path):
    archive = tar(tmp_path / "parts.tar")
    content = bytearray(archive.read_bytes())
    content[content.index(b"a/2.txt")] = ord("b")
    archive.write_bytes(content)
    refused(archive, "damaged.*bad checksum")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.xz"])
def test_what_is_no_archive(tmp_path, suffix):
    archive = tmp_path / f"parts{suffix}"
    archive.write_text("not an archive" * 100)
    refused(archive, "is damaged, or not what its name says")


@pytest.mark.parametrize("name", ["images.rar", "images", ".zip"])
def test_other_files_are_no_archives(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"expected a folder, or an archive that ends in \.zip, \.tar"):
        data_folder(tmp_path / name)


def test_what_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such folder or archive"):
        data_folder(tmp_path / "nowhere.zip")


def test_a_full_disk(tmp_path, monkeypatch):
    def fill_up(source, target, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", fill_up)
    refused(zipped(tmp_path / "parts.zip"), r"beside itself \(No space left on device\); extract it elsewhere")
