"""Writing files so that a reader sees the old one or the new one, whole, whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


def atomic_write(
    path: str | os.PathLike[str],
    data: bytes,
    *,
    mode: int = 0o644,
    overwrite: bool = True,
    folder: Path | None = None,
) -> None:
    """Write a file whole or not at all; the arguments are those of `atomic_file`."""
    with atomic_file(path, mode=mode, overwrite=overwrite, folder=folder) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(
    path: str | os.PathLike[str],
    *,
    mode: int = 0o644,
    overwrite: bool = True,
    folder: Path | None = None,
) -> Iterator[BinaryIO]:
    """A temporary file to write, which is synced and renamed to `path`; on any error it is removed.

    mode: permission bits of the new file. folder: where the temporary file is, on the same file system;
    default: beside `path`. Raises FileExistsError if not `overwrite` and `path` exists.
    """
    target = Path(path)
    if not overwrite and target.exists():
        raise FileExistsError(f"{target}: exists already, and is not overwritten")
    # mkstemp opens with mode 0600: a secret is never readable by others, not even for an instant.
    # Its name is short and its own, so that the longest file name there is can be written.
    descriptor, temporary = tempfile.mkstemp(
        prefix=".blockenc.", suffix=f".tmp{target.suffix[:9]}", dir=folder or target.parent
    )
    try:
        with open(temporary, "r+b", opener=lambda *_: descriptor) as file:  # its name tells where it is
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            os.replace(temporary, target)
        else:
            os.link(temporary, target)  # fails if the target appeared meanwhile
            os.unlink(temporary)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` durable, where the platform allows opening one."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
