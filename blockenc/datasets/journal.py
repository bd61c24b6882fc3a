"""What a run has done so far, in a hidden folder inside the output, so that the next run goes on there.

`<output>/.<name>-run/journal` is a SQLite database: what kind of run this is, and a row for each unit whose
output is in place. It holds on disk what may not fit into memory, and survives a kill at any instant.
Temporary files live in the same folder, so that what a killed run leaves half-written is never among the
outputs, and is swept up by the next run.

Whoever can write to the output can write a journal. Therefore one is taken up only if it is a file of its
own in a folder of its own, has our tables and nothing else, and if every row is authenticated with the key;
and only files with names of our own making are deleted.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from blockenc.datasets.manifest import MAX_LINE, Item, ManifestError, Picture, Pictures
from blockenc.datasets.work import Result, Unit
from blockenc.errors import BlockencError, WrongKeyError
from blockenc.files import TEMPORARY, Folder, make_folders, sha256_of, sync_folder
from blockenc.hidden import hide, reveal
from blockenc.keys import Key, KeySet

# done: one row a finished unit. size, mtime: the stamp of its source. count: images. pictures: as JSON, or
# spilled, the file in the work folder that lists them, and the SHA-256 of that file. copied: names, as JSON.
# converted: whether losses were accepted (--convert). verified: whether the output was. metadata: pictures
# that had some. mac: the tag of all that. Names are bytes, which sort as manifests do. skipped: the damaged
# files that a run has left out.
_TABLES = {
    "head": "CREATE TABLE head (json TEXT)",
    "done": "CREATE TABLE done (target BLOB PRIMARY KEY, size INT, mtime INT, source BLOB, format TEXT, "
    "count INT, pictures TEXT, spilled TEXT, sha256 TEXT, copied TEXT, converted INT, verified INT, "
    "metadata INT, mac BLOB) WITHOUT ROWID",
    "skipped": "CREATE TABLE skipped (source BLOB PRIMARY KEY, reason TEXT) WITHOUT ROWID",
}
MAC_INFO = "blockenc/journal"  # names the subkey of the tags
_FILES = ("journal", "journal-wal", "journal-shm", "journal-journal")


class Row(NamedTuple):
    """One finished unit."""

    target: bytes
    size: int
    mtime: int
    source: bytes
    format: str
    images: int
    pictures: str
    spilled: str | None
    sha256: str | None
    copied: str
    converted: int
    verified: int
    metadata: int

    @property
    def names_copied(self) -> list[str]:
        """What in it was copied as it is."""
        return list(json.loads(self.copied))


class Journal:
    """Open for one run; locked against another.

    dst, name: where its work folder is. key: authenticates the rows of runs of this `head`, and no others.
    """

    def __init__(
        self, dst: Folder, name: str, database: sqlite3.Connection, key: Key | KeySet, head: dict[str, Any]
    ) -> None:
        self._dst, self._name, self._database = dst, name, database
        self._head = json.dumps(head)
        self._key = hide(hmac.digest(key.mac_key(MAC_INFO), self._head.encode(), "sha256"))
        self.folder = dst.path / name

    def __contains__(self, target: str) -> bool:
        """Whether a unit of this output was finished, of whatever source."""
        return next(self._rows("WHERE target = ?", os.fsencode(target)), None) is not None

    def has(self, unit: Unit) -> bool:
        """Whether a unit was finished, of this very source."""
        row = next(self._rows("WHERE target = ?", os.fsencode(unit.target)), None)
        return row is not None and (row.size, row.mtime) == unit.stamp

    def done(self) -> Iterator[Row]:
        """The finished units, in no order."""
        return self._rows()

    def items(self) -> Iterator[Item]:
        """What is to stand in the manifest of the finished units, in the order of their names."""
        for row in self._rows("ORDER BY target"):
            images = (
                Pictures([], self.folder / row.spilled, 0, row.images)
                if row.spilled
                else Pictures([Picture(*fields) for fields in json.loads(row.pictures)])
            )
            target, source = os.fsdecode(row.target), os.fsdecode(row.source)
            yield Item(target, source, row.format, images, tuple(row.names_copied))

    def _rows(self, which: str = "", *values: object) -> Iterator[Row]:
        """Rows of `done` without their tags. Raises ManifestError for one that we did not write."""
        for *row, tag in self._database.execute(f"SELECT * FROM done {which}", values):
            if not isinstance(tag, bytes) or not hmac.compare_digest(tag, self._tag(row)):
                raise _unreadable(self.folder, "a row of it was altered, or written with another key")
            yield Row(*row)

    def _tag(self, row: list[Any]) -> bytes:
        values = [value.hex() if isinstance(value, bytes) else value for value in row]
        return hmac.digest(reveal(self._key), json.dumps(values).encode(), "sha256")

    def add(self, unit: Unit, result: Result, converted: bool) -> None:
        """Note that a unit's output is in place; a process killed after this call has noted it."""
        item = result.item
        path = item.images.path if unit.expected is None else None  # decrypting, the manifest has them
        row = [
            os.fsencode(unit.target),
            *unit.stamp,
            os.fsencode(item.source),
            item.format,
            result.images,
            json.dumps(item.images.held),
            path and path.name,
            path and self._sha256(path.name),
            json.dumps(item.copied),
            int(converted),
            int(unit.verify),
            result.metadata,
        ]
        self._write(f"INSERT OR REPLACE INTO done VALUES ({', '.join('?' * 14)})", *row, self._tag(row))

    def skip(self, source: str, reason: str) -> None:
        """Note that a damaged file is left out."""
        self._write("INSERT OR REPLACE INTO skipped VALUES (?, ?)", os.fsencode(source), reason[:1000])

    def _write(self, statement: str, *values: object) -> None:
        try:
            self._database.execute(statement, values)
        except sqlite3.Error as error:  # of a full disk, above all
            raise BlockencError(f"{self.folder / 'journal'}: cannot be written ({error})") from None

    def skipped(self) -> Iterator[tuple[str, str]]:
        """The damaged files left out, in the order of their names, and why."""
        for source, reason in self._database.execute("SELECT * FROM skipped ORDER BY source"):
            yield os.fsdecode(source), reason

    def remove(self) -> None:
        """The run is finished: its outputs and manifest are in place."""
        self._database.close()
        self._dst.sweep(self._name)
        for name in _FILES:
            self._dst.remove(f"{self._name}/{name}")
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # stays, if it holds what we have not made

    def begin(self) -> None:
        """Check that all of the journal is ours and of this kind of run, or make it so; sweep up."""
        spilled = set()
        try:
            if row := self._database.execute("SELECT json FROM head").fetchone():
                if row[0] != self._head:
                    _check_same(row[0], json.loads(self._head), self.folder)
            else:
                self._database.execute("INSERT INTO head VALUES (?)", (self._head,))
                # Synced: outputs never come before their journal.
                self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                sync_folder(self.folder)
            self._database.execute("DELETE FROM skipped")
            for row in self._rows():
                if row.spilled is None:
                    continue
                if not TEMPORARY.fullmatch(row.spilled) or self._sha256(row.spilled) != row.sha256:
                    raise _unreadable(self.folder, f"{row.spilled} was altered")
                spilled.add(row.spilled)
        except (sqlite3.Error, OSError) as error:
            raise _unreadable(self.folder, error) from None
        self._dst.sweep(self._name, keep=spilled.__contains__)

    def _sha256(self, name: str) -> str:
        with open(self._dst.open(f"{self._name}/{name}", os.O_RDONLY), "rb") as file:
            return sha256_of(file)


def _unreadable(folder: Path, why: object) -> ManifestError:
    return ManifestError(f"{folder / 'journal'}: cannot be read ({why}); delete {folder} to begin anew")


def work_folder(folder: Path, name: str) -> Path:
    """The hidden folder of a run that writes to `folder` under the name `name`."""
    return folder / f".{name}-run"


def unfinished(folder: Path) -> list[Path]:
    """The work folders of runs into `folder` that were cut off, or are still going on."""
    return sorted(path for path in folder.glob(".*-run") if (path / "journal").is_file())


@contextlib.contextmanager
def opened(folder: Path, head: dict[str, Any], key: Key | KeySet, mode: int = 0o777) -> Iterator[Journal]:
    """The journal in the work folder `folder`, a new one or that of a run that was cut off.

    head: what kind of run this is. key: authenticates it. mode: of the folders above it that are missing.
    Raises WrongKeyError or ManifestError if the one there is of another kind, or not ours; OSError if it is
    a link; BlockencError if another process holds it. If the run ends in an error and not one unit is done,
    the folder and those made for it are removed. (Ctrl-C may come between an output and its entry.)
    """
    dst, name = Folder(folder.parent), folder.name
    made = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        make_folders(folder.parent, mode)
        dst.make(name, lambda _: 0o700)
        with contextlib.closing(_locked(dst, name)) as database:
            journal = Journal(dst, name, database, key, head)
            journal.begin()
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


def _locked(dst: Folder, name: str) -> sqlite3.Connection:
    """The database with our tables in it, held until the process ends, however it ends."""
    folder = dst.path / name
    path = folder / "journal"
    for other in _FILES:
        _check_own_file(dst, f"{name}/{other}")
    # It is opened here only to be made: closing it would release the lock of another run of this process.
    with contextlib.suppress(FileExistsError):
        os.close(dst.open(f"{name}/journal", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    number = path.lstat().st_ino

    def still_there() -> bool:
        found = dst.status(f"{name}/journal")
        return found is not None and found.st_ino == number

    database = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        if hasattr(database, "setlimit"):  # Python 3.11 has it
            database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, MAX_LINE)
        database.execute("PRAGMA trusted_schema = OFF")
        # In this mode a write-ahead log needs no shared memory, which network file systems do not have.
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        tables = dict(database.execute("SELECT name, sql FROM sqlite_master"))
        if tables and tables != _TABLES:
            raise _unreadable(folder, "its tables are not those of this release")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")  # an entry survives a kill; a power cut may take some
        database.execute("BEGIN EXCLUSIVE")
        if not still_there():
            raise BlockencError(f"{folder.parent}: another run has just finished here")
        if not tables:
            for statement in _TABLES.values():
                database.execute(statement)
        database.execute("COMMIT")
    except BaseException as error:
        database.close()
        if not isinstance(error, sqlite3.Error):
            raise
        if "locked" in str(error):
            raise BlockencError(f"{folder.parent}: another run is writing here") from None
        raise _unreadable(folder, error) from None
    return database


def _check_own_file(dst: Folder, name: str) -> None:
    """Raise ManifestError for what is there and is no file, or has a second name somewhere else."""
    found = dst.status(name)
    if found is not None and not (stat.S_ISREG(found.st_mode) and found.st_nlink <= 1):
        raise ManifestError(f"{dst.path / name}: is not a file that blockenc made; remove it")


def _check_same(text: str, new: dict[str, Any], folder: Path) -> None:
    place = f"{folder.parent}: a run was cut off here"
    try:
        old = json.loads(text)
        fingerprint = old.get("fingerprint")
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise _unreadable(folder, "its head is damaged") from None
    if fingerprint != new["fingerprint"]:
        raise WrongKeyError(f"{place} that used the key {fingerprint}, the key given is {new['fingerprint']}")
    other = ", ".join(sorted(key for key in {*old, *new} if old.get(key) != new.get(key)))
    raise ManifestError(f"{place} that had another {other}; repeat its command, or delete {folder}")
