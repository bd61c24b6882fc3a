"""What all processes of one test run share: a folder, and in it what is made once and costs much."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

VARIABLE = "BLOCKENC_TEST_RUN"  # names the folder; pytest-xdist's workers and all subprocesses inherit it


def make_folder() -> Path | None:
    """The folder of this run; None if a process above this one has made it, which then removes it."""
    if VARIABLE in os.environ:
        return None
    folder = Path(tempfile.mkdtemp(prefix="blockenc-tests-"))
    os.environ[VARIABLE] = str(folder)
    return folder


def remove_folder(folder: Path) -> None:
    del os.environ[VARIABLE]
    shutil.rmtree(folder, ignore_errors=True)


def once(name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` has filled, in the first process that asks for `name`; others wait for it.

    If `make` raises, the next that asks tries again.
    """
    folder = Path(os.environ[VARIABLE]) / name
    finished = folder / ".finished"
    with FileLock(f"{folder}.lock"):
        if not finished.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder
