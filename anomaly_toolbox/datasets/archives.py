"""Archives as publishers distribute them, extracted once into a folder beside the archive.

An archive is not trusted. Only files and folders are extracted, never outside the new folder, and only up to limits of
number and size. The new folder appears complete or not at all.
"""

import bz2
import contextlib
import functools
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any, NamedTuple

import filelock

from anomaly_toolbox.datasets.progress import open_with_progress
from anomaly_toolbox.errors import InputError, ToolboxError, first_line

TARS: dict[str, Callable[..., Any]] = {
    ".tar": contextlib.nullcontext,
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tbz2": bz2.open,
    ".tar.xz": lzma.open,
    ".txz": lzma.open,
}
SUFFIXES = (".zip", *TARS)
MOST_MEMBERS = 1_000_000
MOST_BYTES = 20 * 10**9
MOST_BYTES_OF_A_NAME = 2**20
MOST_PADDING = 2**20  # bytes after the end of a tar archive
MARK = ".extracted-from"  # the file that marks a folder as the content of an archive
FILE, FOLDER = "a file", "a folder"
READ_INTO_MEMORY = (  # members of a tar archive that `tarfile` reads completely, such as long names
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
DAMAGE = (  # errors that damaged archives cause
    EOFError,
    RuntimeError,  # an unknown compression
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class Member(NamedTuple):
    """A file, a folder, or anything else in an archive.

    Attributes:
        name: the path in the archive.
        kind: FILE, FOLDER, or a description of anything else.
        size: in bytes, as the archive announces it.
        open: opens a file, to read its bytes.
    """

    name: str
    kind: str
    size: int
    open: Callable[[], IO[bytes]]


def data_folder(data_dir: Path) -> Path:
    """The folder that `--data-dir` names, or the folder with the content of the archive that it names.

    Raises:
        InputError: there is no such folder or archive; see also `extract_once`.
        ToolboxError: see `extract_once`.
    """
    if data_dir.is_dir():
        return data_dir
    if data_dir.is_file():
        return extract_once(data_dir)
    raise InputError(f"--data-dir {data_dir}: there is no such folder or archive")


def published_folder(
    data_dir: Path, contents: Sequence[str], folders: Sequence[str] = (), archives: Sequence[str] = ()
) -> Path | None:
    """The folder with the files of a publisher, wherever they are in what `--data-dir` names.

    Args:
        data_dir: the archive, the folder with the files, or a folder that holds one of these.
        contents: the names of files or folders that show which folder it is; one of them is enough.
        folders: the names that the publisher gives to the folder.
        archives: the names that the publisher gives to the archive, which is extracted once.

    Returns:
        The folder; None if `data_dir` is a folder without the files.

    Raises:
        InputError: there is no such folder or archive, or the archive holds something else; see also `extract_once`.
        ToolboxError: see `extract_once`.
        OSError: a folder cannot be read.
    """
    top = data_folder(data_dir)
    for folder in (top, *(top / name for name in folders)):
        if folder.is_dir() and not names_in(folder).isdisjoint(contents):
            return folder
    if data_dir.is_file():
        example = "/".join([*folders[:1], contents[0]])
        raise InputError(f"--data-dir {data_dir}: expected an archive with {example} and the like in it")
    for name in archives:
        if (top / name).is_file():
            return published_folder(top / name, contents, folders)
    return None


def names_in(folder: Path) -> set[str]:
    """The names of all files and folders in a folder; raises OSError if it cannot be read."""
    return {path.name for path in folder.iterdir()}  # `exists` would hide a folder without permission


def extract_once(archive: Path) -> Path:
    """Extracts an archive into the folder of the same name without suffix, unless that was done before.

    Processes that ask for the same archive at the same time wait for the first one.

    Args:
        archive: a `.zip` file or a tar file, plain or compressed.

    Returns:
        The folder, which is beside the archive.

    Raises:
        InputError: the file is not an archive of a supported kind, or the folder exists and has another origin.
        ToolboxError: the archive is damaged or holds something that is not extracted, or the disk cannot be written.
    """
    suffix = next((suffix for suffix in SUFFIXES if archive.name.lower().endswith(suffix)), None)
    if suffix is None or len(archive.name) == len(suffix):
        raise InputError(f"{archive}: expected a folder, or an archive that ends in {', '.join(SUFFIXES)}")
    name = archive.name[: -len(suffix)]
    folder = archive.with_name(name)
    if _is_extracted(archive, folder):
        return folder
    lock = archive.with_name(f".{name}.lock")
    try:
        with filelock.FileLock(lock):
            if not _is_extracted(archive, folder):
                _extract(archive, suffix, archive.with_name(f".{name}.part"), folder)
                lock.unlink()  # only now: whoever waits for it, or makes a new one, finds the complete folder
    except (*DAMAGE, OSError) as problem:
        if isinstance(problem, OSError) and problem.strerror:  # gzip and bz2 raise OSError without it for damage
            raise ToolboxError(
                f"{archive} cannot be extracted into a folder beside it ({problem.strerror}); "
                f"extract it elsewhere and name that folder"
            ) from problem
        raise ToolboxError(
            f"{archive} is damaged, or not an archive of the kind that its name suggests: {first_line(problem)}"
        ) from problem
    return folder


def _is_extracted(archive: Path, folder: Path) -> bool:
    """Whether the folder is the content of the archive; raises InputError if it has another origin."""
    if not folder.exists():
        return False
    mark = folder / MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == _mark(archive):
        return True
    raise InputError(
        f"{archive}: {folder} already exists and was not extracted from this archive; if it holds the images, name it "
        f"instead of the archive, otherwise move it away"
    )


def _mark(archive: Path) -> str:
    return f"{archive.name}, {archive.stat().st_size} bytes"


def _extract(archive: Path, suffix: str, temporary: Path, folder: Path) -> None:
    if temporary.exists():  # a killed process left it
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        with open_with_progress(archive, f"extracting {archive.name}") as file:
            bytes_left = MOST_BYTES
            members = _zip_members(file) if suffix == ".zip" else _tar_members(file, suffix)
            for number, member in enumerate(members, 1):
                if number > MOST_MEMBERS:
                    raise ToolboxError(f"{archive} is not extracted: it holds more than {MOST_MEMBERS:,} files")
                if not 0 <= member.size <= bytes_left:
                    raise ToolboxError(f"{archive} is not extracted: it holds more than {MOST_BYTES:,} bytes")
                bytes_left -= member.size
                if problem := _problem(member):
                    raise ToolboxError(f"{archive} is not extracted: it holds {problem}")
                _write(member, temporary)
        (temporary / MARK).write_text(_mark(archive), encoding="utf-8")
        os.sync()  # otherwise a power cut could leave a folder that looks complete
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _problem(member: Member) -> str:
    """Why a member is not extracted; empty if it is."""
    if member.kind not in (FILE, FOLDER):
        return f"{member.kind}, {member.name!r}; only files and folders are extracted"
    for path in (PurePosixPath(member.name), PureWindowsPath(member.name)):
        if path.anchor or ".." in path.parts:
            return f"{member.name!r}, which leads out of its folder"
    return ""


def _write(member: Member, folder: Path) -> None:
    path = folder / member.name
    try:
        if member.kind == FOLDER:
            path.mkdir(parents=True, exist_ok=True)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, open(path, "xb") as target:
            shutil.copyfileobj(source, target, 2**20)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ValueError(f"it holds {member.name!r} twice") from None


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            unix_kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if it was not made on Unix
            if info.is_dir():
                kind = FOLDER
            elif info.flag_bits & 1:
                kind = "an encrypted file"
            elif unix_kind in (0, stat.S_IFREG):
                kind = FILE
            else:
                kind = "a link or a device"
            yield Member(info.filename, kind, info.file_size, functools.partial(archive.open, info))


def _tar_members(file: IO[bytes], suffix: str) -> Iterator[Member]:
    decompress = TARS[suffix]
    with decompress(file) as plain:
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header) as archive:
            for header in archive:
                if header.isreg():
                    kind = FILE
                elif header.isdir():
                    kind = FOLDER
                else:
                    kind = "a link or a device"
                yield Member(header.name, kind, header.size, functools.partial(_open_in_tar, archive, header))
        if len(plain.read(MOST_PADDING)) == MOST_PADDING:  # checksums are compared at the end of the file
            raise ValueError("it continues after its end")


def _open_in_tar(archive: tarfile.TarFile, header: tarfile.TarInfo) -> IO[bytes]:
    file = archive.extractfile(header)
    if file is None:
        raise ValueError(f"{header.name!r} is not a file")
    return file


class _Header(tarfile.TarInfo):
    """A header of a tar archive; a damaged one is an error, which `tarfile` would take for the end of the archive."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as problem:
            raise tarfile.ReadError(str(problem)) from problem
        if header.type in READ_INTO_MEMORY and header.size > MOST_BYTES_OF_A_NAME:
            raise tarfile.ReadError(f"a name of {header.size:,} bytes")
        return header
