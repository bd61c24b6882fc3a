"""What a run has done so far, in a hidden folder inside the output, so that the next run goes on there.

`<output>/.<name>-run/journal` is a file of JSON lines: what kind of run this is, then one line for each
unit whose output is in place. Temporary files live in the same folder, so that what a killed run leaves
half-written is never among the outputs, and is swept up by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from blockenc.data.manifest import ManifestError
from blockenc.errors import BlockencError, WrongKeyError
from blockenc.files import sync_folder


class Journal:
    """Open for one run; locked against another. `done`: the result of each finished unit, by name."""

    def __init__(self, folder: Path, file: BinaryIO, done: dict[str, Any]) -> None:
        self.folder, self.done, self._file = folder, done, file

    def add(self, unit: str, result: dict[str, Any]) -> None:
        """Note that a unit's output is in place; a process killed after this call has noted it."""
        self.done[unit] = result
        self._file.write(json.dumps({"unit": unit, "result": result}).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """The run is finished: its outputs and manifest are in place."""
        shutil.rmtree(self.folder, ignore_errors=True)


def work_folder(folder: Path, name: str) -> Path:
    """The hidden folder of a run that writes to `folder` under the name `name`."""
    return folder / f".{name}-run"


def unfinished(folder: Path) -> list[Path]:
    """The work folders of runs into `folder` that were cut off, or are still going on."""
    return sorted(path for path in folder.glob(".*-run") if (path / "journal").is_file())


@contextlib.contextmanager
def opened(folder: Path, head: dict[str, Any]) -> Iterator[Journal]:
    """The journal in `folder`, a new one or that of a run that was cut off.

    head: what kind of run this is. Raises WrongKeyError or ManifestError if the one there is of another
    kind; BlockencError if another process holds it. If the run ends in an error and not one unit is done,
    the folder and those made for it are removed. (Ctrl-C may come between an output and its entry.)
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    journal = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "journal", "a+b") as file:
            _lock(file, folder)
            journal = Journal(folder, file, _resume(file, folder, head))
            for path in folder.iterdir():
                if path.name != "journal":
                    path.unlink()
            yield journal
    except Exception:
        if journal and not journal.done:
            journal.remove()
        for path in made:
            for below, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(below)  # only if empty
        raise


def _lock(file: BinaryIO, folder: Path) -> None:
    """Hold the journal until the process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise BlockencError(f"{folder.parent}: another run is writing here") from None
    path = folder / "journal"
    if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
        raise BlockencError(f"{folder.parent}: another run has just finished here")


def _resume(file: BinaryIO, folder: Path, head: dict[str, Any]) -> dict[str, Any]:
    """The results by finished unit; begins a new journal if there is none."""
    file.seek(0)
    lines, end = [], 0
    for line in file:
        try:
            lines.append(json.loads(line[:-1] if line.endswith(b"\n") else b""))
        except ValueError:
            break  # the last line, cut off by a crash
        end += len(line)
    file.seek(end)
    file.truncate()
    if lines:
        _check_same(lines[0], head, folder)
        return {line["unit"]: line["result"] for line in lines[1:]}
    file.write(json.dumps(head).encode() + b"\n")
    file.flush()
    os.fsync(file.fileno())
    sync_folder(folder)
    return {}


def _check_same(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    place = f"{folder.parent}: a run was cut off here"
    if old.get("fingerprint") != new["fingerprint"]:
        raise WrongKeyError(
            f"{place} that used the key {old.get('fingerprint')}, the key given is {new['fingerprint']}"
        )
    if old != new:
        other = ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))
        raise ManifestError(f"{place} that had another {other}; repeat its command, or delete {folder}")
