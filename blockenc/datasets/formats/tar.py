"""Tar shards as webdataset reads them: pictures and labels as members, in order; all but the pixels stays."""

from __future__ import annotations

import contextlib
import copy
import io
import math
import re
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NoReturn

import numpy as np

from blockenc.datasets import pictures, pixels
from blockenc.datasets.formats import suspicion
from blockenc.datasets.pictures import Encoded
from blockenc.datasets.pixels import ImageFileError, RefusedError
from blockenc.datasets.reading import DEFAULT, Reading

if TYPE_CHECKING:
    from blockenc.datasets.formats import Change

_SUFFIX = re.compile(r"\.(tar|tar\.gz|tgz)$", re.IGNORECASE)
# Names of pictures that are not read here, and of what may hold some: refused even where they hold nothing.
_FOREIGN = re.compile(
    r".*\.(gif|avif|heic|heif|jp2|j2k|jxl|ico|psd|svg|tga|dds|exr|hdr|npy|npz|pyd|pickle|pkl|pt|pth|mp4|webm|avi|mov)",
    re.IGNORECASE | re.DOTALL,
)
PAX = "@pax"  # what --copy calls the headers of a shard's members, apart from names, sizes and times
MAX_HEADER = 1 << 20  # bytes of one extended header, and of all that concern the whole archive
_EXTENDED = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
_STANDARD = {"path", "linkpath", "size", "mtime", "atime", "ctime", "uid", "gid", "uname", "gname"}


class TarShards:
    name = "tar"

    def names(self, file: str) -> bool:
        return _SUFFIX.search(file) is not None

    def claims(self, path: Path) -> bool:
        return True

    def target(self, name: str, reading: Reading = DEFAULT) -> str:
        return _SUFFIX.sub(".tar", name)

    def sizes(self, path: Path, reading: Reading = DEFAULT) -> list[tuple[pixels.Size, tuple[int, ...]]]:
        # Without compression the members' headers are found without reading the members.
        with _damage(path), open(path, "rb") as file:
            packed = file.read(512)[257:262] != b"ustar"
        names: set[str] = set()
        for member, _ in () if packed else _members(path, reading, "r:"):
            _note(names, _new_name(member, reading), path)
            if (what := _of_header(member, reading)) and not reading.copies(PAX):
                _refuse_header(path, member, what, reading)
        return []

    def images(self, path: Path, reading: Reading = DEFAULT) -> Iterator[np.ndarray | Encoded]:
        for member, data in _members(path, reading):
            if _is_picture(member, reading):
                yield Encoded(data, f"{path}, {member.name}")

    def rewrite(self, source: Path, target: BinaryIO, change: Change) -> None:
        reading = change.reading
        written: set[str] = set()
        headers_copied = False
        with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as out:
            for member, data in _members(source, reading):
                title = f"{source}, {member.name}"
                new = copy.copy(member)
                new.name = _new_name(member, reading)
                _note(written, new.name, source)
                new.pax_headers = _own_headers(member)
                if _is_picture(member, reading):
                    data = change.picture(data, title)
                elif not change.copies(member.name) and not reading.trusted:
                    what = suspicion.data(data) or (_FOREIGN.fullmatch(member.name) and "its name")
                    suspicion.refuse(title, what or None, f"{reading.file}/{member.name}")
                if (what := _of_header(member, reading)) and not headers_copied:
                    headers_copied = change.copies(PAX)
                    if not headers_copied:
                        _refuse_header(source, member, what, reading)
                if member.isreg():
                    new.type = tarfile.REGTYPE
                new.size = len(data)
                try:
                    out.addfile(new, io.BytesIO(data))
                except (ValueError, ArithmeticError, TypeError, struct.error) as error:
                    raise RefusedError(f"{title}: its header cannot be written ({error})") from None


def _own_headers(member: tarfile.TarInfo) -> dict[str, str]:
    """The pax headers of a member that are none of its fields."""
    return {key: value for key, value in member.pax_headers.items() if key not in _STANDARD}


def _of_header(member: tarfile.TarInfo, reading: Reading) -> str | None:
    """What about the header of a member may be a picture."""
    if reading.trusted:
        return None
    return suspicion.name(member.name) or suspicion.plain(
        [member.uname, member.gname, member.linkname, _own_headers(member)]
    )


def _refuse_header(path: Path, member: tarfile.TarInfo, what: str, reading: Reading) -> None:
    suspicion.refuse(f"{path}, {member.name}: headers of the member", what, f"{reading.file}/{PAX}")


def _is_picture(member: tarfile.TarInfo, reading: Reading) -> bool:
    return (
        member.isreg() and member.name.lower().endswith(pixels.SUFFIXES) and not reading.copies(member.name)
    )


def _new_name(member: tarfile.TarInfo, reading: Reading) -> str:
    return re.sub(r"\.\w+\Z", reading.suffix, member.name) if _is_picture(member, reading) else member.name


def _note(names: set[str], name: str, path: Path) -> None:
    if name in names:
        raise RefusedError(f"{path}: several members would become {name}; rename one")
    names.add(name)


_ODD = "a link, device or sparse file; plain files and folders are expected"


class _Refused(tarfile.TarError):
    """A member that is none to read, though it may be sound."""


class _Member(tarfile.TarInfo):
    """A member whose header is damaged, cut off or oversized is an error.

    Where one is damaged or cut off tarfile takes it for the end, and it reads headers of any size.
    """

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Member:
        member = super().frombuf(buf, encoding, errors)
        if member.type in _EXTENDED and member.size > MAX_HEADER:
            raise _Refused(
                f"{member.name}: an extended header of {member.size} bytes, more than {MAX_HEADER}"
            )
        if member.type == tarfile.GNUTYPE_SPARSE:
            member._refuse_sparse(member)
        return member  # type: ignore[return-value]

    def _refuse_sparse(self, member: tarfile.TarInfo, *_: object) -> NoReturn:
        raise _Refused(f"{member.name}: {_ODD}")

    # What tarfile calls to read the map of a sparse file, which may be of any size.
    _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _refuse_sparse

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        def fail(what: str) -> NoReturn:
            raise tarfile.ReadError(f"{what} at byte {archive.offset}")

        if sum(len(key) + len(value) for key, value in archive.pax_headers.items()) > MAX_HEADER:
            fail(f"headers of the whole archive of more than {MAX_HEADER} bytes")

        try:
            return super().fromtarfile(archive)  # type: ignore[return-value]
        except tarfile.EmptyHeaderError:  # type: ignore[attr-defined]
            fail("it ends without an end mark")
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            fail(str(error))


def _members(path: Path, reading: Reading, mode: str = "r|*") -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """The members and, unless the mode is without streaming, what they hold. Raises ImageFileError."""
    with _damage(path), tarfile.open(path, mode, tarinfo=_Member) as source:  # type: ignore[call-overload]
        empty = True
        for member in source:
            empty = False
            source.members = []  # it would remember them all
            title = f"{path}, {member.name}"
            if not (member.isdir() or (member.isreg() and not member.issparse())):
                raise ImageFileError(f"{title}: {_ODD}")
            if member.name == PAX and not reading.trusted:
                raise RefusedError(f"{title}: the name stands for headers in --copy; rename the member")
            if not math.isfinite(member.mtime):
                raise ImageFileError(f"{title}: a damaged header (its time is {member.mtime})")
            if member.size > reading.max_bytes:
                raise pictures.too_large(title, f"a member of {member.size} bytes", reading)
            if mode == "r:":
                yield member, b""
                continue
            file = source.extractfile(member)
            data = file.read() if file else b""
            if file and len(data) != member.size:
                raise tarfile.ReadError(f"{member.name} is cut off")
            yield member, data
        if empty:  # what a cut compressed file begins with may be taken for an end mark
            raise tarfile.ReadError("it has no members")


@contextlib.contextmanager
def _damage(path: Path) -> Iterator[None]:
    """Name the file in what tarfile and the decompressors raise on damaged data: nearly anything."""
    try:
        yield
    except (ImageFileError, FileNotFoundError, PermissionError):
        raise
    except _Refused as error:
        raise ImageFileError(f"{path}, {error}") from None
    except Exception as error:
        text = str(error) or type(error).__name__
        raise ImageFileError(f"{path}: not a tar file, or a damaged one ({text})") from None
