"""Archives as publishers give them, extracted once, beside themselves.

An archive is not trusted: only files and folders come out of it, none outside the folder that is made for them, and no
more than fits the limits. That folder appears whole or not at all.
"""

import bz2
import contextlib
import gzip
import lzma
import os
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, NamedTuple

import filelock
from rich.progress import open as open_with_progress

from anomaly_toolbox.console import plain_console
from anomaly_toolbox.errors import InputError, ToolboxError

TARS = {
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
MOST_PADDING = 2**20
MARK = ".extracted-from"
FILE, FOLDER = "a file", "a folder"
IN_MEMORY = (  # what tarfile reads whole: long names, and the like
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)
DAMAGE = (
    EOFError,
    RuntimeError,  # of a kind of compression that is not known
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


class Member(NamedTuple):
    """What an archive says of one thing in it; `kind` is FILE, FOLDER or what else it is."""

    name: str
    kind: str
    size: int
    content: Callable[[], IO[bytes]]


def data_folder(data_dir: Path) -> Path:
    """The folder that `--data-dir` names, or that an archive named by it holds; see `extracted` for errors."""
    if data_dir.is_dir():
        return data_dir
    if data_dir.is_file():
        return extracted(data_dir)
    raise InputError(f"--data-dir {data_dir}: there is no such folder or archive")


def extracted(archive: Path) -> Path:
    """The folder with an archive's content, beside it and named like it without its suffix; made if it is not there.

    Processes that ask for the same archive at the same time wait for the first one.

    Raises:
        InputError: the file is no archive of a known kind, or the folder is there and was not extracted from it.
        ToolboxError: the archive is damaged, holds what is not extracted, or nothing can be written beside it.
    """
    suffix = next((suffix for suffix in SUFFIXES if archive.name.lower().endswith(suffix)), "")
    name = archive.name[: -len(suffix)] if suffix else ""
    if not name:
        raise InputError(f"{archive}: expected a folder, or an archive that ends in {', '.join(SUFFIXES)}")
    folder = archive.with_name(name)
    if _is_extracted(archive, folder):
        return folder
    lock = archive.with_name(f".{name}.lock")
    try:
        with filelock.FileLock(lock):
            if not _is_extracted(archive, folder):
                _extract(archive, suffix, archive.with_name(f".{name}.part"), folder)
                lock.unlink()  # only now: whoever waits for it or makes a new one finds the folder finished
    except (*DAMAGE, OSError) as problem:
        if isinstance(problem, OSError) and problem.strerror:  # gzip and bz2 raise it without, for damage
            raise ToolboxError(
                f"{archive} cannot be extracted beside itself ({problem.strerror}); "
                f"extract it elsewhere and name that folder"
            ) from problem
        line = str(problem).strip().partition("\n")[0] or type(problem).__name__
        raise ToolboxError(f"{archive} is damaged, or not what its name says: {line}") from problem
    return folder


def _is_extracted(archive: Path, folder: Path) -> bool:
    if not folder.exists():
        return False
    mark = folder / MARK
    if mark.is_file() and mark.read_text(encoding="utf-8") == _mark(archive):
        return True
    raise InputError(
        f"{archive}: {folder} is there already and was not extracted from this archive; name it instead of the archive "
        f"if it holds the images, else move it away"
    )


def _mark(archive: Path) -> str:
    return f"{archive.name}, {archive.stat().st_size} bytes"


def _extract(archive: Path, suffix: str, temporary: Path, folder: Path) -> None:
    if temporary.exists():  # a killed process left it
        shutil.rmtree(temporary)
    temporary.mkdir()
    console = plain_console(stderr=True)
    try:
        with open_with_progress(
            archive,
            "rb",
            description=f"extracting {archive.name}",
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as file:
            left = MOST_BYTES
            members = _zip_members(file) if suffix == ".zip" else _tar_members(file, suffix)
            for number, member in enumerate(members, 1):
                if number > MOST_MEMBERS:
                    raise ToolboxError(f"{archive} is not extracted: it holds more than {MOST_MEMBERS:,} files")
                if not 0 <= member.size <= left:
                    raise ToolboxError(f"{archive} is not extracted: it holds more than {MOST_BYTES:,} bytes")
                left -= member.size
                if problem := _problem(member):
                    raise ToolboxError(f"{archive} is not extracted: it holds {problem}")
                _write(member, temporary)
        (temporary / MARK).write_text(_mark(archive), encoding="utf-8")
        os.sync()  # nor may a power cut leave a folder that looks finished
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _problem(member: Member) -> str:
    """What is wrong with a member, empty if nothing is."""
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
        with member.content() as source, open(path, "xb") as target:
            shutil.copyfileobj(source, target, 2**20)
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise ValueError(f"it holds {member.name!r} twice") from None


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            mode = stat.S_IFMT(info.external_attr >> 16)  # 0 where it was not made on Unix
            if info.is_dir():
                kind = FOLDER
            elif info.flag_bits & 1:
                kind = "an encrypted file"
            else:
                kind = FILE if mode in (0, stat.S_IFREG) else "a link or a device"
            yield Member(info.filename, kind, info.file_size, lambda info=info: archive.open(info))


def _tar_members(file: IO[bytes], suffix: str) -> Iterator[Member]:
    with TARS[suffix](file) as plain:
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=_Header) as archive:
            for header in archive:
                kind = FILE if header.isreg() else FOLDER if header.isdir() else "a link or a device"
                yield Member(header.name, kind, header.size, lambda header=header: archive.extractfile(header))
        if len(plain.read(MOST_PADDING)) == MOST_PADDING:  # the end of the file is where checksums are compared
            raise ValueError("it goes on after its end")


class _Header(tarfile.TarInfo):
    """A header of a tar file; a missing or damaged one is an error, where `tarfile` sees the end of the archive."""

    @classmethod
    def frombuf(cls, buf, encoding, errors):
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:
            raise
        except tarfile.HeaderError as problem:
            raise tarfile.ReadError(str(problem)) from problem
        if header.type in IN_MEMORY and header.size > MOST_BYTES_OF_A_NAME:
            raise tarfile.ReadError(f"a name of {header.size:,} bytes")
        return header
