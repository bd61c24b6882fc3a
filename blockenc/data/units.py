"""What is to be done: the files of SRC as units of work, and what stands in the way of their outputs."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from blockenc.data import pixels
from blockenc.data.formats import BY_NAME, Format, format_of
from blockenc.data.reading import Reading
from blockenc.data.work import Unit

SAMPLE = 100  # files that verify="sample" looks at


class Units:
    """The units of a run, in the order of their targets; on disk, if they are very many.

    A unit's `replace` says here whether an old manifest lists its target (`known`).
    """

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)  # a temporary file, once it is large
        self._database.executescript(
            """
            PRAGMA journal_mode = OFF;
            CREATE TABLE units (
                target BLOB PRIMARY KEY, source BLOB, format TEXT, size INT, mtime INT, verify INT DEFAULT 0
            ) WITHOUT ROWID;
            CREATE TABLE known (target BLOB PRIMARY KEY) WITHOUT ROWID;
            """
        )

    def __iter__(self) -> Iterator[Unit]:
        query = (
            "SELECT target, source, format, size, mtime, verify, target IN known FROM units ORDER BY target"
        )
        for target, source, kind, size, mtime, verify, known in self._database.execute(query):
            name = os.fsdecode(target)
            yield Unit(os.fsdecode(source), name, kind, (size, mtime), None, bool(verify), bool(known))

    def _one(self, query: str, *values: object) -> Any:
        row = self._database.execute(query, values).fetchone()
        return row and row[0]

    def size(self) -> int:
        """Bytes of the sources."""
        return int(self._one("SELECT coalesce(sum(size), 0) FROM units"))

    def add(self, src: Path, source: str, kind: Format, target: str) -> None:
        """A file below `src`. Raises ValueError if another one has the same target."""
        stamp = stamp_of(src / source)
        row = (os.fsencode(target), os.fsencode(source), kind.name, *stamp)
        try:
            self._database.execute(
                "INSERT INTO units (target, source, format, size, mtime) VALUES (?, ?, ?, ?, ?)", row
            )
        except sqlite3.IntegrityError:
            other = os.fsdecode(self._one("SELECT source FROM units WHERE target = ?", row[0]))
            raise ValueError(
                f"{src / other} and {src / source} would both become {target}; rename one"
            ) from None

    def scan(self, src: Path, reading: Reading) -> int:
        """Add the files of a folder tree; how many others it has. Raises ValueError if none holds images."""
        skipped = 0
        folders = set[str]()
        for source in _files(src):
            kind = format_of(src / source, reading.at(source))
            if kind is None:
                skipped += 1
            else:
                self.add(src, source, kind, kind.target(source))
                folders.update(path.as_posix() for path in PurePosixPath(source).parents)
        for folder in folders:
            if other := self._one("SELECT source FROM units WHERE target = ?", os.fsencode(folder)):
                raise ValueError(
                    f"{src / os.fsdecode(other)} would become {folder}, which is a folder; rename one"
                )
        if not self._one("SELECT 1 FROM units WHERE format NOT IN ('metadata', 'copied')"):
            raise ValueError(
                f"{src}: no images here (looked for {' '.join(pixels.SUFFIXES)} "
                ".tar .npy .npz .parquet .arrow and CIFAR batches)"
            )
        return skipped

    def keep_shard(self, shard: int, shards: int) -> None:
        """Drop the units of other shards: each has every n-th."""
        self._database.execute(
            "DELETE FROM units WHERE target IN (SELECT target FROM "
            "(SELECT target, row_number() OVER (ORDER BY target) - 1 AS number FROM units) "
            "WHERE number % ? != ?)",
            (shards, shard),
        )

    def know(self, targets: Iterable[str]) -> None:
        rows = ((os.fsencode(target),) for target in targets)
        self._database.executemany("INSERT OR IGNORE INTO known VALUES (?)", rows)

    def drop(self, target: str, stamp: tuple[int, int]) -> bool:
        """Whether there was a unit of this target and stamp; it no longer is."""
        query = "DELETE FROM units WHERE target = ? AND size = ? AND mtime = ?"
        return self._database.execute(query, (os.fsencode(target), *stamp)).rowcount > 0

    def choose_verified(self, verify: str) -> None:
        if verify != "none":
            self._database.execute(
                "UPDATE units SET verify = 1 WHERE target IN "
                "(SELECT target FROM units ORDER BY random() LIMIT ?)",
                (SAMPLE if verify == "sample" else -1,),
            )

    def close(self) -> None:
        self._database.close()


def _files(src: Path) -> Iterator[str]:
    """The files below a folder, without hidden ones and without linked folders, in any order."""
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(src / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{folder}{entry.name}/")
                elif entry.is_file():
                    yield folder + entry.name


def stamp_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def single_target(src: Path, dst: Path, kind: Format) -> tuple[Path, str]:
    """Where one file goes: into the folder `dst`, or to the file `dst` if that has the suffix it takes."""
    name = kind.target(src.name)
    suffix = PurePosixPath(name).suffix
    if suffix and dst.suffix.lower() == suffix.lower() and not dst.is_dir():
        folder, name = dst.parent, dst.name
    else:
        folder = as_folder(dst)
    if (folder / name).resolve() == src.resolve():
        raise ValueError(f"{dst}: is SRC itself; give another DST")
    return folder, name


def as_folder(dst: Path) -> Path:
    if dst.exists() and not dst.is_dir():
        raise NotADirectoryError(20, "exists, and is not a folder", str(dst))
    return dst


def check_apart(src: Path, dst: Path) -> None:
    a, b = src.resolve(), dst.resolve()
    if b.is_relative_to(a) or a.is_relative_to(b):
        raise ValueError(f"{dst}: DST and SRC ({src}) must be apart, neither within the other")


def check_target(folder: Path, unit: Unit) -> None:
    """Nothing is in the way of the file to write, and no file that must stay is overwritten."""
    target = folder / unit.target
    if target.is_dir():
        raise IsADirectoryError(21, "is a folder, where a file is to be written", str(target))
    if not unit.replace and target.exists():
        raise FileExistsError(17, "exists, and is not overwritten without --force", str(target))
    for parent in (folder / path for path in PurePosixPath(unit.target).parents):
        if parent.exists() and not parent.is_dir():
            raise NotADirectoryError(20, "is a file, where a folder is needed", str(parent))


def check_headers(root: Path, units: Iterable[Unit], block_size: int, fit: str, reading: Reading) -> set[int]:
    """The channel counts that may occur. Raises if a file is no image, or a size does not fit."""
    channels: set[int] = set()
    misfit, more = None, 0
    for unit in units:
        path = root / unit.source
        known = BY_NAME[unit.format].sizes(path, reading.at(unit.source))
        if not known:  # only reading the file through would tell
            channels |= set(pixels.CHANNELS)
        for size, counts in known:
            channels.update(counts)
            if pixels.misfit(size, block_size, fit):
                more += misfit is not None
                misfit = misfit or (path, size)
    if misfit:
        raise pixels.misfit_error(*misfit, block_size, fit, more=more)
    return channels
