"""Archives are extracted completely and once, or not at all, and never outside their folder."""

import concurrent.futures
import io
import os
import stat
import tarfile
import time
import zipfile

import pytest

from anomaly_toolbox.datasets import archives
from anomaly_toolbox.datasets.archives import data_folder, extract_once
from anomaly_toolbox.errors import InputError, ToolboxError

CONTENT = {"a/b/1.txt": b"one", "a/2.txt": b"two" * 5000, "3.txt": b""}
TARS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz", ".txz": "w:xz"}


def tar(path, *headers, content=CONTENT):
    """Writes a tar file with these files, followed by headers of other kinds."""
    with tarfile.open(path, next(mode for suffix, mode in TARS.items() if path.name.endswith(suffix))) as archive:
        for name, text in content.items():
            header = tarfile.TarInfo(name)
            header.size = len(text)
            archive.addfile(header, io.BytesIO(text))
        for header in headers:
            archive.fileobj.write(header.tobuf())  # `addfile` wants the announced content, too
    return path


def header(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


def zipped(path, content=CONTENT, mode=0):
    """Writes a zip file with these files; `mode` holds the Unix permissions and the kind of the last one."""
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
    """The content of each file in a folder by its path, without the mark of the archive."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != archives.MARK)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def assert_refused(archive, message):
    """Extraction raises ToolboxError and leaves nothing behind."""
    with pytest.raises(ToolboxError, match=message):
        extract_once(archive)
    assert {path.name for path in archive.parent.iterdir()} - {archive.name} <= {".parts.lock"}


@pytest.mark.parametrize("suffix", [".zip", *TARS])
def test_every_file_is_extracted(tmp_path, suffix):
    archive = made(tmp_path, f"parts.v1{suffix}")
    assert data_folder(archive) == tmp_path / "parts.v1"
    assert contents(tmp_path / "parts.v1") == CONTENT
    assert {path.name for path in tmp_path.iterdir()} == {archive.name, "parts.v1"}


def test_an_archive_is_extracted_once(tmp_path, monkeypatch):
    archive = zipped(tmp_path / "parts.zip")
    extract_once(archive)
    monkeypatch.setattr(archives, "_extract", None)
    assert extract_once(archive) == tmp_path / "parts"


def test_later_processes_wait_for_the_first(tmp_path, monkeypatch):
    archive, extract, calls = zipped(tmp_path / "parts.zip"), archives._extract, []

    def extract_slowly(*arguments):
        calls.append(arguments)
        time.sleep(0.2)
        extract(*arguments)

    monkeypatch.setattr(archives, "_extract", extract_slowly)
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert {*pool.map(extract_once, [archive] * 3)} == {tmp_path / "parts"}
    assert len(calls) == 1


def test_another_archive_with_the_same_name_is_refused(tmp_path):
    archive = zipped(tmp_path / "parts.zip")
    extract_once(archive)
    zipped(archive, {**CONTENT, "4.txt": b"four"})
    with pytest.raises(InputError, match="already exists and was not extracted from this archive"):
        extract_once(archive)


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="if it holds the images, name it instead of the archive"):
        extract_once(zipped(tmp_path / "parts.zip"))
    assert contents(tmp_path / "parts") == {"mine.txt": b"mine"}


@pytest.mark.parametrize("suffix", [".zip", ".tar.xz"])
def test_an_interrupted_extraction_starts_again(tmp_path, monkeypatch, suffix):
    archive = made(tmp_path, f"parts{suffix}")
    copy, copied = archives.shutil.copyfileobj, []

    def interrupt(source, target, length):
        copy(source, target, length)
        copied.append(target.name)
        if len(copied) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(archives.shutil, "copyfileobj", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract_once(archive)
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    monkeypatch.undo()
    assert contents(extract_once(archive)) == CONTENT


def test_files_of_a_killed_process_are_removed(tmp_path):
    left = tmp_path / ".parts.part"
    left.mkdir()
    (left / "half.txt").write_text("ha")
    (tmp_path / ".parts.lock").touch()
    assert contents(extract_once(zipped(tmp_path / "parts.zip"))) == CONTENT
    assert not left.exists()


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "C:\\x", "a\\..\\..\\x"])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_names_that_lead_out_of_the_folder_are_refused(tmp_path, name, suffix):
    folder = tmp_path / "deep" / "inside"
    folder.mkdir(parents=True)
    assert_refused(made(folder, f"parts{suffix}", content={**CONTENT, name: b"evil"}), "which leads out of its folder")
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
def test_links_and_devices_in_a_tar_are_refused(tmp_path, evil):
    assert_refused(tar(tmp_path / "parts.tar.xz", evil), "holds a link or a device, 'x'; only files and folders")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, kind):
    assert_refused(zipped(tmp_path / "parts.zip", mode=kind | 0o644), r"holds a link or a device, '3\.txt'")


def test_an_encrypted_file_is_refused(tmp_path):
    archive = zipped(tmp_path / "parts.zip")
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    assert_refused(archive, r"holds an encrypted file, '3\.txt'")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz"])
def test_the_number_and_the_size_of_files_are_limited(tmp_path, monkeypatch, suffix):
    archive = made(tmp_path, f"parts{suffix}")
    monkeypatch.setattr(archives, "MOST_BYTES", 15_002)
    assert_refused(archive, "holds more than 15,002 bytes")
    monkeypatch.setattr(archives, "MOST_BYTES", 15_003)
    monkeypatch.setattr(archives, "MOST_MEMBERS", 2)
    assert_refused(archive, "holds more than 2 files")
    monkeypatch.setattr(archives, "MOST_MEMBERS", 4)
    assert contents(extract_once(archive)) == CONTENT


def test_the_announced_size_is_limited(tmp_path):
    huge = tarfile.TarInfo("x")
    huge.size = 10**12
    assert_refused(tar(tmp_path / "parts.tar", huge), "holds more than 20,000,000,000 bytes")


def test_a_name_of_megabytes_is_refused(tmp_path):
    assert_refused(tar(tmp_path / "parts.tar.gz", content={"x" * 2**20: b""}), r"a name of 1,048,\d+ bytes")


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_a_name_twice_is_refused(tmp_path, suffix):
    assert_refused(made(tmp_path, f"parts{suffix}", content={"a": b"1", "./a": b"2"}), "damaged.* holds '.*a' twice")


@pytest.mark.parametrize("suffix", [".zip", *TARS])
def test_a_truncated_archive_is_refused(tmp_path, suffix):
    archive = made(tmp_path, f"parts{suffix}")
    content = archive.read_bytes()
    # Only zeros follow the last header of a tar.
    last = content.rindex(b"3.txt") + 512 if suffix == ".tar" else len(content) - 1
    for length in sorted({0, 1, 511, 512, 1024, last // 3, last // 2, last} & set(range(last + 1))):
        archive.write_bytes(content[:length])
        assert_refused(archive, "is damaged, or not an archive of the kind")


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.bz2", ".tar.xz", ".zip"])
def test_a_changed_byte_is_found(tmp_path, suffix):
    archive = made(tmp_path, f"parts{suffix}", content={"noise": os.urandom(5000)})
    content = bytearray(archive.read_bytes())
    content[2500] ^= 1
    archive.write_bytes(content)
    assert_refused(archive, "is damaged, or not an archive of the kind")


def test_a_damaged_header_is_found(tmp_path):
    archive = tar(tmp_path / "parts.tar")
    content = bytearray(archive.read_bytes())
    content[content.index(b"a/2.txt")] = ord("b")
    archive.write_bytes(content)
    assert_refused(archive, "damaged.*bad checksum")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.xz"])
def test_text_with_the_name_of_an_archive_is_refused(tmp_path, suffix):
    archive = tmp_path / f"parts{suffix}"
    archive.write_text("not an archive" * 100)
    assert_refused(archive, "is damaged, or not an archive of the kind")


@pytest.mark.parametrize("name", ["images.rar", "images", ".zip"])
def test_other_files_are_refused(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"expected a folder, or an archive that ends in \.zip, \.tar"):
        data_folder(tmp_path / name)


def test_a_missing_archive(tmp_path):
    with pytest.raises(InputError, match="no such folder or archive"):
        data_folder(tmp_path / "nowhere.zip")


def test_a_full_disk(tmp_path, monkeypatch):
    def fill_up(source, target, length):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(archives.shutil, "copyfileobj", fill_up)
    assert_refused(
        zipped(tmp_path / "parts.zip"), r"into a folder beside it \(No space left on device\); extract it elsewhere"
    )
