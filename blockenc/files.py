"""Writing files: whole or not at all, no more open than asked for, and never through a link below a folder.

A folder that others can write to may hold links: one that leads elsewhere would have us overwrite, or
delete, what the user never named. So what is below a folder to write to is reached through `Folder` only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

# Where the platform has both, a name is opened relative to its open folder, and never through a link.
_DESCRIPTORS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_FOLDER = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0)
_PLAIN = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
# Names of files that are ours to delete, whoever left them: those that `temporary_name` makes.
TEMPORARY = re.compile(r"\.blockenc\.\w+\.(pictures|tmp.{0,9})", re.ASCII | re.DOTALL)


def temporary_name(ending: str) -> str:
    """A new name that `TEMPORARY` matches. ending: "pictures", or "tmp" with a suffix."""
    return f".blockenc.{secrets.token_hex(8)}.{ending}"


class Folder:
    """A folder, and what is below it without following any link.

    path: may itself be a link, or be reached through one: the user pointed there.

    Names are relative, with forward slashes. Every method raises OSError (ELOOP) naming the link if a part
    of a name is one, and NotADirectoryError if a part that must be a folder is something else. A link that
    is put there while we work is not followed either, on platforms that open files relative to a folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def _holder(self, name: str) -> Iterator[tuple[str, int | None]]:
        """What to call the last part of `name`, and a descriptor of the folder that it is in."""
        *parents, last = _parts(name)
        if not _DESCRIPTORS:
            for depth in range(1, len(parents) + 1):
                self._check_folder("/".join(parents[:depth]))
            yield os.fspath(self.path / name), None
            return
        with contextlib.ExitStack() as stack:
            holder = os.open(self.path, _FOLDER | _PLAIN)
            stack.callback(os.close, holder)
            for depth, part in enumerate(parents, 1):
                try:
                    holder = os.open(part, _FOLDER | _PLAIN | _NO_FOLLOW, dir_fd=holder)
                except OSError as error:
                    self._check_folder("/".join(parents[:depth]))  # says better what is in the way
                    raise type(error)(error.errno, error.strerror, os.fspath(self.path / name)) from None
                stack.callback(os.close, holder)
            try:
                yield last, holder
            except OSError as error:  # which has heard of the last part of the name only
                if error.filename == last:
                    error.filename = os.fspath(self.path / name)
                raise

    def _check_folder(self, name: str) -> None:
        path = self.path / name
        mode = os.lstat(path).st_mode
        if _is_link(path, mode):
            raise link_error(path)
        if not stat.S_ISDIR(mode):
            raise NotADirectoryError(errno.ENOTDIR, "is a file, where a folder is needed", os.fspath(path))

    def status(self, name: str) -> os.stat_result | None:
        """What is there, None if nothing is. Raises for a link."""
        try:
            with self._holder(name) as (last, holder):
                found = os.stat(last, dir_fd=holder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if _is_link(self.path / name, found.st_mode):
            raise link_error(self.path / name)
        return found

    def is_file(self, name: str) -> bool:
        """Whether a regular file is there."""
        found = self.status(name)
        return found is not None and stat.S_ISREG(found.st_mode)

    def open(self, name: str, flags: int, mode: int = 0o600) -> int:
        """A descriptor, as os.open gives one. It does not wait for the other end of a FIFO."""
        try:
            with self._holder(name) as (last, holder):
                if not _DESCRIPTORS:
                    self.status(name)
                return os.open(last, flags | _PLAIN | _NO_FOLLOW, mode, dir_fd=holder)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EMLINK):
                raise link_error(self.path / name) from None
            raise

    def make(self, name: str, mode: Callable[[str], int]) -> None:
        """Make the folder `name`, and those above it, where they are missing. mode: of each, by its name."""
        parts = _parts(name) if name not in ("", ".") else ()
        for depth in range(1, len(parts) + 1):
            step = "/".join(parts[:depth])
            with self._holder(step) as (last, holder), contextlib.suppress(FileExistsError):
                os.mkdir(last, mode(step), dir_fd=holder)
            self._check_folder(step)

    def replace(self, old: str, new: str) -> None:
        """Rename `old` to `new`; a file of that name, or a link, is replaced, and not followed."""
        with self._holder(old) as (source, a), self._holder(new) as (target, b):
            os.replace(source, target, src_dir_fd=a, dst_dir_fd=b)

    def link(self, old: str, new: str) -> None:
        """Give the file `old` a second name; raises FileExistsError if there is anything of that name."""
        with self._holder(old) as (source, a), self._holder(new) as (target, b):
            os.link(source, target, src_dir_fd=a, dst_dir_fd=b)

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""
        with contextlib.suppress(FileNotFoundError), self._holder(name) as (last, holder):
            os.unlink(last, dir_fd=holder)

    def sweep(self, name: str, keep: Callable[[str], bool] = lambda _: False) -> None:
        """Delete our own temporary files, and nothing else, in the folder `name`."""
        self._check_folder(name)
        for other in os.listdir(self.path / name):
            if TEMPORARY.fullmatch(other) and not keep(other):
                with contextlib.suppress(OSError):  # something else than a file of ours
                    self.remove(f"{name}/{other}")

    @contextlib.contextmanager
    def atomic_file(
        self, name: str, *, mode: int = 0o666, overwrite: bool = True, within: str = ""
    ) -> Iterator[BinaryIO]:
        """A temporary file to write, which is synced and renamed to `name`; on any error it is removed.

        mode: permission bits of the new file, less those that the umask takes. within: the folder of the
        temporary file, on the same file system; default: that of `name`. Raises FileExistsError if not
        `overwrite` and there is a file `name`.
        """
        target = self.path / name
        if not overwrite and target.exists():
            raise FileExistsError(f"{target}: exists already, and is not overwritten")
        # Its name is short and its own, so that the longest file name there is can be written.
        short = temporary_name(f"tmp{target.suffix[:9]}")
        temporary = (PurePosixPath(within or PurePosixPath(name).parent) / short).as_posix()
        if os.name != "posix":
            mode = 0o600  # elsewhere bits mean but "read only", and such a file cannot be replaced
        # Made with its final mode: a secret is never readable by others, not even for an instant.
        try:
            descriptor = self.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise
            # The temporary file's name means nothing to the user.
            raise type(error)(error.errno, error.strerror, os.fspath(target)) from None
        try:
            # Its name tells where it is.
            with open(self.path / temporary, "r+b", opener=lambda *_: descriptor) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                self.replace(temporary, name)
            else:
                self.link(temporary, name)  # fails if the target appeared meanwhile
                self.remove(temporary)
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove(temporary)
            raise
        sync_folder(target.parent)


def _parts(name: str) -> tuple[str, ...]:
    parts = PurePosixPath(name).parts
    if not parts or ".." in parts or PurePosixPath(name).is_absolute():
        raise ValueError(f"expected a name below a folder, got {name!r}")
    return parts


def _is_link(path: Path, mode: int) -> bool:
    return stat.S_ISLNK(mode) or bool(getattr(os.path, "isjunction", lambda _: False)(path))


def link_error(path: Path) -> OSError:
    return OSError(errno.ELOOP, "is a link, and links below DST are not followed; remove it", os.fspath(path))


def file_mode(path: Path) -> int:
    """The permission bits of what is made of a file: those of the file, without execution."""
    return path.stat().st_mode & 0o666


def folder_mode(path: Path) -> int:
    """The permission bits of what is made of a folder: no more open to others; its owner can write to it."""
    return 0o700 | (path.stat().st_mode & 0o077)


def make_folders(path: Path, mode: int) -> None:
    """Make a folder, and those above it that are missing, all of one mode."""
    for missing in reversed([folder for folder in (path, *path.parents) if not folder.exists()]):
        with contextlib.suppress(FileExistsError):
            missing.mkdir(mode)
    path.mkdir(exist_ok=True)  # raises where a file is in the way


def atomic_write(
    path: str | os.PathLike[str], data: bytes, *, mode: int = 0o666, overwrite: bool = True
) -> None:
    """Write a file whole or not at all; mode and overwrite as in `Folder.atomic_file`."""
    target = Path(path)
    with Folder(target.parent).atomic_file(target.name, mode=mode, overwrite=overwrite) as file:
        file.write(data)


def sha256_of(file: BinaryIO) -> str:
    """The digest of what is left to read of a file."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the platform allows opening one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
