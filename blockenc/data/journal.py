"""What a run has done so far, in a hidden folder inside the output, so that the next run goes on there.

`<output>/.<name>-run/journal` is a SQLite database: what kind of run this is, and a row for each unit whose
output is in place. It holds on disk what may not fit into memory, and survives a kill at any instant.
Temporary files live in the same folder, so that what a killed run leaves half-written is never among the
outputs, and is swept up by the next run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blockenc.data.manifest import Item, ManifestError, Picture, Pictures
from blockenc.data.work import Unit
from blockenc.errors import BlockencError, WrongKeyError
from blockenc.files import sync_folder

# One row a finished unit. size, mtime: the stamp of its source. count: images. pictures: as JSON, or
# `spilled`, the file in the work folder that lists them. Names are bytes, which sort as manifests do.
_TABLES = """
CREATE TABLE IF NOT EXISTS head (json TEXT);
CREATE TABLE IF NOT EXISTS done (
    target BLOB PRIMARY KEY, size INT, mtime INT, source BLOB, format TEXT,
    count INT, pictures TEXT, spilled TEXT, copied TEXT
) WITHOUT ROWID;
"""


class Journal:
    """Open for one run; locked against another."""

    def __init__(self, folder: Path, database: sqlite3.Connection) -> None:
        self.folder, self._database = folder, database

    def __contains__(self, target: str) -> bool:
        """Whether a unit of this output was finished, of whatever source."""
        return self._row(target) is not None

    def has(self, unit: Unit) -> bool:
        """Whether a unit was finished, of this very source."""
        return self._row(unit.target) == unit.stamp

    def _row(self, target: str) -> tuple[int, int] | None:
        query = "SELECT size, mtime FROM done WHERE target = ?"
        row: tuple[int, int] | None = self._database.execute(query, (os.fsencode(target),)).fetchone()
        return row

    def done(self) -> Iterator[tuple[str, tuple[int, int], int]]:
        """Target, stamp and number of images of each finished unit."""
        for target, size, mtime, count in self._database.execute(
            "SELECT target, size, mtime, count FROM done"
        ):
            yield os.fsdecode(target), (size, mtime), count

    def items(self) -> Iterator[Item]:
        """What is to stand in the manifest of the finished units, in the order of their names."""
        query = "SELECT target, source, format, count, pictures, spilled, copied FROM done ORDER BY target"
        for target, source, kind, count, pictures, spilled, copied in self._database.execute(query):
            images = (
                Pictures([], self.folder / spilled, 0, count)
                if spilled
                else Pictures([Picture(*fields) for fields in json.loads(pictures)])
            )
            yield Item(os.fsdecode(target), os.fsdecode(source), kind, images, tuple(json.loads(copied)))

    def add(self, unit: Unit, item: Item) -> None:
        """Note that a unit's output is in place; a process killed after this call has noted it."""
        path = item.images.path if unit.expected is None else None  # decrypting, the manifest has them
        self._database.execute(
            "INSERT OR REPLACE INTO done VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                os.fsencode(unit.target),
                *unit.stamp,
                os.fsencode(item.source),
                item.format,
                len(item.images),
                json.dumps(item.images.held),
                path and path.name,
                json.dumps(item.copied),
            ),
        )

    def close(self) -> None:
        self._database.close()

    def remove(self) -> None:
        """The run is finished: its outputs and manifest are in place."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sweep(self) -> None:
        """Delete what a killed run left half-written."""
        spilled = {
            name for (name,) in self._database.execute("SELECT spilled FROM done WHERE spilled NOTNULL")
        }
        for path in self.folder.iterdir():
            if not path.name.startswith("journal") and path.name not in spilled:
                path.unlink()


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
        with contextlib.closing(_locked(folder)) as database:
            journal = Journal(folder, database)
            _begin(database, folder, head)
            journal.sweep()
            try:
                yield journal
            except Exception:
                if next(journal.done(), None) is None:
                    journal.remove()
                raise
    except Exception:
        for path in made:
            for below, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(below)  # only if empty
        raise


def _locked(folder: Path) -> sqlite3.Connection:
    """The database, held until the process ends, however it ends."""
    path = folder / "journal"
    path.touch()
    number = path.stat().st_ino
    database = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        # In this mode a write-ahead log needs no shared memory, which network file systems do not have.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # an entry survives a kill; a power cut may take some
        database.execute("BEGIN EXCLUSIVE")
        if not path.exists() or path.stat().st_ino != number:
            raise BlockencError(f"{folder.parent}: another run has just finished here")
        database.execute("COMMIT")
    except BaseException as error:
        database.close()
        if not isinstance(error, sqlite3.Error):
            raise
        if "locked" in str(error):
            raise BlockencError(f"{folder.parent}: another run is writing here") from None
        raise ManifestError(f"{path}: cannot be read ({error}); delete {folder} to begin anew") from None
    return database


def _begin(database: sqlite3.Connection, folder: Path, head: dict[str, Any]) -> None:
    """Check that the journal is of this kind of run, or make it so."""
    database.executescript(_TABLES)
    if row := database.execute("SELECT json FROM head").fetchone():
        _check_same(json.loads(row[0]), head, folder)
        return
    database.execute("INSERT INTO head VALUES (?)", (json.dumps(head),))
    database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # synced: outputs never come before their journal
    sync_folder(folder)


def _check_same(old: dict[str, Any], new: dict[str, Any], folder: Path) -> None:
    place = f"{folder.parent}: a run was cut off here"
    if old.get("fingerprint") != new["fingerprint"]:
        raise WrongKeyError(
            f"{place} that used the key {old.get('fingerprint')}, the key given is {new['fingerprint']}"
        )
    if old != new:
        other = ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))
        raise ManifestError(f"{place} that had another {other}; repeat its command, or delete {folder}")
