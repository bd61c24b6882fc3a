"""What is to be done: the files of SRC as units of work, and what stands in the way of their outputs."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from blockenc.datasets import pixels
from blockenc.datasets.formats import BY_NAME, COPIED, FORMATS, IMAGE, Format, cifar, format_of
from blockenc.datasets.manifest import (
    MANIFEST,
    Manifest,
    ManifestError,
    find_manifest,
    is_manifest,
    manifests,
    part_of,
)
from blockenc.datasets.reading import Reading
from blockenc.datasets.work import Unit, too_small
from blockenc.errors import UNFORESEEN, BlockencError
from blockenc.files import Folder

if TYPE_CHECKING:
    from blockenc.datasets.journal import Row
    from blockenc.scheme import Scheme

SAMPLE = 100  # files that verify="sample" looks at
SHOWN = 3  # names of each kind that a summary shows
MAX_NESTED_LINKS = 3  # linked folders within linked folders; a few that list each other are endless otherwise
MAX_INTEGER = (1 << 63) - 1  # of SQLite
SKIPPED = "skipped.txt"  # ends the name of the list of damaged files

# Kinds of files that a run leaves out, as they are counted.
OTHER = "other files"
HIDDEN = "hidden files or folders"
EXCLUDED = "excluded files"
UNLISTED = "files that the manifest does not list"
LEADING_OUT = "links that lead out of SRC"
LOOPS = "links that lead back to a folder they are in"
NESTED = "links nested too deeply"
BROKEN = "links to nothing"
SPECIAL = "FIFOs, sockets or devices"
DAMAGED = "damaged files"


class Left(NamedTuple):
    """Files of one kind that were left out: how many, and the names of the first."""

    files: int
    names: tuple[str, ...]


class LeftOut(dict[str, Left]):
    """What a run leaves out, by kind."""

    def add(self, kind: str, name: str) -> None:
        count, names = self.get(kind, Left(0, ()))
        self[kind] = Left(count + 1, (*names, name) if count < SHOWN else names)


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which files of a folder tree are wanted.

    include, exclude: patterns as in fnmatch, where * also matches a slash. A pattern names a file by its
    path below SRC or by its name alone, and all files of a folder by the path or name of that. include:
    what matches none of them is excluded; empty: nothing is. follow_links: also those that lead out of SRC.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    follow_links: bool = False

    def admits(self, name: str) -> bool:
        steps = [step.as_posix() for step in (PurePosixPath(name), *PurePosixPath(name).parents)][:-1]
        steps += PurePosixPath(name).parts

        def any_of(patterns: tuple[str, ...]) -> bool:
            return any(fnmatchcase(step, pattern) for pattern in patterns for step in steps)

        return (not self.include or any_of(self.include)) and not any_of(self.exclude)


class Permissions:
    """Who may read, and write, what lists the names of files below `root`: those who may with all of them.

    bits: of a file's mode. Whoever makes it can read and write it.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._folder = root, ""
        self.bits = 0o666
        self._narrow_to_folder(root)

    def add(self, source: str) -> None:
        """A file below the root."""
        folder = source.rpartition("/")[0]
        if folder != self._folder:  # files come folder by folder
            self._folder = folder
            for above in PurePosixPath(source).parents[:-1]:
                self._narrow_to_folder(self._root / above)
        self.bits &= (self._root / source).stat().st_mode | 0o600

    def _narrow_to_folder(self, path: Path) -> None:
        mode = path.stat().st_mode
        passed = (mode & 0o111) << 2  # without this bit nothing in a folder can be reached
        self.bits &= (mode & (passed | 0o222)) | 0o600


class Units:
    """The units of a run, in the order of their targets; on disk, if they are very many.

    root: the folder that the sources are in. A unit's `replace` says here whether an old manifest lists its
    target (`known`).
    """

    def __init__(self, root: Path) -> None:
        self._root, self.permissions = root, Permissions(root)
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

    def add(self, source: str, kind: Format, target: str) -> None:
        """A file. Raises ValueError if another one has the same target."""
        src = self._root
        stamp = stamp_of(src / source)
        self.permissions.add(source)
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

    def scan(self, dst: Path, selection: Selection, again: bool, reading: Reading) -> LeftOut:
        """Add the files of the whole folder; tell what is left out of it.

        Raises ValueError if none holds images, if a name is taken, if a link leads into `dst`, and, unless
        `again`, if a manifest tells that some of it is encrypted.
        """
        src, left_out = self._root, LeftOut()
        for source in _files(src, dst, selection.follow_links, left_out):
            if not selection.admits(source):
                left_out.add(EXCLUDED, source)
                continue
            kind = format_of(src / source, reading.at(source))
            if kind is None:
                if not again and _is_manifest(src / source):
                    raise encrypted_already(src, src / source)
                left_out.add(OTHER, source)
            else:
                self.add(source, kind, kind.target(source, reading))
        if not self._one("SELECT 1 FROM units WHERE format NOT IN ('metadata', 'copied')"):
            found = "".join(f"; {line}" for line in described(left_out))
            if count := self._one("SELECT count(*) FROM units WHERE format = ?", COPIED.name):
                raise ValueError(
                    f"{src}: nothing to encrypt, for copy (--copy) lets all {count} files through, or all "
                    f"that may hold images{found}"
                )
            raise ValueError(
                f"{src}: no images here (looked for {' '.join(pixels.SUFFIXES)} "
                f".tar .npy .npz .parquet .arrow and CIFAR batches){found}"
            )
        self._check_names(src, reading)
        return left_out

    def _check_names(self, src: Path, reading: Reading) -> None:
        """Raise ValueError if an output would be where a folder must be, or has a name that is ours."""
        query = (
            "SELECT a.source, b.source FROM units a JOIN units b "
            "ON b.target > CAST(a.target || x'2f' AS BLOB) AND b.target < CAST(a.target || x'30' AS BLOB)"
        )
        if row := self._database.execute(query).fetchone():
            file, below = (src / os.fsdecode(name) for name in row)
            raise ValueError(
                f"{file} would become {BY_NAME[self._format_of(row[0])].target(file.name, reading)}, "
                f"which is a folder ({below} is in it); rename one"
            )
        for (name,) in self._database.execute("SELECT target FROM units WHERE instr(target, x'2f') = 0"):
            target = os.fsdecode(name)
            if target == MANIFEST or part_of(target) or target.endswith(f".{SKIPPED}"):
                raise ValueError(f"{src / target}: is a name that blockenc writes itself; rename it")

    def _format_of(self, source: bytes) -> str:
        return str(self._one("SELECT format FROM units WHERE source = ?", source))

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

    def forget(self, targets: Iterable[str]) -> None:
        """Take back what was known."""
        self._database.executemany(
            "DELETE FROM known WHERE target = ?", ((os.fsencode(target),) for target in targets)
        )

    def known(self) -> Iterator[str]:
        for (target,) in self._database.execute("SELECT target FROM known ORDER BY target"):
            yield os.fsdecode(target)

    def __contains__(self, target: bytes) -> bool:
        return self._one("SELECT 1 FROM units WHERE target = ?", target) is not None

    def drop(self, row: Row) -> bool:
        """Whether there was a unit that this one, of an earlier run, makes needless; it no longer is."""
        query = (
            "DELETE FROM units WHERE target = ? AND source = ? AND format = ? AND size = ? AND mtime = ? "
            "AND verify <= ?"
        )
        values = (row.target, row.source, row.format, row.size, row.mtime, row.verified)
        return self._database.execute(query, values).rowcount > 0

    def discard(self, unit: Unit) -> None:
        self._database.execute("DELETE FROM units WHERE target = ?", (os.fsencode(unit.target),))

    def choose_verified(self, verify: str) -> None:
        if verify != "none":
            self._database.execute(
                "UPDATE units SET verify = 1 WHERE target IN "
                "(SELECT target FROM units ORDER BY random() LIMIT ?)",
                (SAMPLE if verify == "sample" else -1,),
            )

    def close(self) -> None:
        self._database.close()


def _files(src: Path, dst: Path, follow_links: bool, left_out: LeftOut) -> Iterator[str]:
    """The files below a folder, in any order.

    A linked file or folder is as good as a real one, as torchvision's ImageFolder has it, as long as the
    link does not lead out of the tree (unless `follow_links`) or back to a folder that it is in. What else
    there is, is noted in `left_out`.
    """
    real, output = src.resolve(), dst.resolve()
    # Folders to look into: name, where it really is, the real folders it is in, how many links led there.
    folders: list[tuple[str, Path, frozenset[Path], int]] = [("", real, frozenset(), 0)]
    while folders:
        folder, place, above, links = folders.pop()
        above |= {place}
        with os.scandir(src / folder) as entries:
            for entry in entries:
                name = folder + entry.name
                linked = entry.is_symlink() or getattr(entry, "is_junction", bool)()
                if entry.name.startswith("."):
                    left_out.add(HIDDEN, name)
                elif not linked and entry.is_file():
                    yield name
                elif (target := _target(place / entry.name) if linked else place / entry.name) is None:
                    left_out.add(BROKEN, name)
                elif target.is_relative_to(output):
                    raise ValueError(f"{src / name}: leads into DST ({dst}); remove the link")
                elif linked and not follow_links and not target.is_relative_to(real):
                    left_out.add(LEADING_OUT, name)
                elif entry.is_file():
                    yield name
                elif not entry.is_dir():
                    left_out.add(SPECIAL, name)
                elif target in above:
                    left_out.add(LOOPS, name)
                elif linked and links >= MAX_NESTED_LINKS:
                    left_out.add(NESTED, name)
                else:
                    folders.append((f"{name}/", target, above, links + linked))


def note_unlisted(src: Path, manifest: Manifest, left_out: LeftOut) -> None:
    """Note in `left_out` the files of an encrypted folder that its manifest does not list."""
    ours = {path.name for path in manifest.paths}
    with contextlib.closing(Units(src)) as units:
        for folder, _, names in os.walk(src):
            below = PurePosixPath(os.path.relpath(folder, src).replace(os.sep, "/"))
            units.know((below / name).as_posix() for name in names if not name.startswith("."))
        units.forget(item.name for item in manifest.items())
        for name in units.known():
            if name not in ours and not name.endswith(SKIPPED):
                left_out.add(UNLISTED, name)


def _target(link: Path) -> Path | None:
    """What a link leads to, None if that is nothing."""
    try:
        return Path(os.path.realpath(link, strict=True))
    except OSError:
        return None


def described(left_out: LeftOut) -> list[str]:
    """A line for each kind of what was left out."""
    lines = []
    for kind, (count, names) in left_out.items():
        shown = ", ".join(sorted(names)) + (", ..." if count > len(names) else "")
        advice = "; --follow-links follows them" if kind == LEADING_OUT else ""
        lines.append(f"{count} {kind} left out ({shown}){advice}")
    return lines


def stamp_of(path: Path) -> tuple[int, int]:
    """Size and time of change, in nanoseconds; those after the year 2262 begin anew, as SQLite needs it."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns % (MAX_INTEGER + 1)


def unforeseen(path: Path, error: BaseException) -> BlockencError:
    """An error that names the file which one of UNFORESEEN came from."""
    return BlockencError(f"{path}: cannot be processed ({type(error).__name__}: {error})")


def manifest_of(src: Path) -> Path | None:
    """The manifest that lists a file, or files below a folder, if there is one beside it or up the tree."""
    with contextlib.suppress(ManifestError, OSError):  # what is no manifest, or damaged, tells nothing
        if src.is_file():
            found = find_manifest(src)
            return found[0].paths[0] if found and found[1] else None
        if here := manifests(src):
            return here[0]
        place = src.absolute()
        for folder in place.parents:
            below = f"{place.relative_to(folder).as_posix()}/"
            for path in manifests(folder):
                if any(item.name.startswith(below) for item in Manifest.read(path).items()):
                    return path
    return None


def encrypted_already(src: Path, manifest: Path) -> ValueError:
    return ValueError(f"{src}: encrypted already, says {manifest}; --again encrypts it once more")


def _is_manifest(path: Path) -> bool:
    name = path.name
    if name != MANIFEST and not part_of(name):
        of_a_file = name.endswith(".json") and any(kind.names(name[:-5]) for kind in FORMATS)
        if not of_a_file:
            return False
    return is_manifest(path)


def single_target(
    src: Path, dst: Path, kind: Format, reading: Reading, folder_meant: bool = False
) -> tuple[Path, str]:
    """Where one file goes: into the folder `dst`, or to the file `dst` if that has the suffix it takes.

    Raises ValueError for another suffix, unless there is such a folder, or `folder_meant`.
    """
    name = kind.target(src.name, reading)
    suffix = PurePosixPath(name).suffix
    if dst.is_dir() or folder_meant or not dst.suffix:
        folder = as_folder(dst)
    elif dst.suffix.lower() == suffix.lower():
        folder, name = dst.parent, dst.name
    else:
        if kind is IMAGE:
            what = f"pictures are written as {suffix[1:].upper()} files"
        else:
            what = f"{src.name} comes out as a {suffix} file" if suffix else f"{src.name} comes out as {name}"
        better = dst.stem + suffix
        if kind.names(dst.name) and kind.target(dst.name, reading).endswith(suffix):
            better = kind.target(dst.name, reading)  # knows of suffixes in two parts
        write = f"write {dst.with_name(better)}, or " if suffix else ""
        raise ValueError(f"{dst}: {what}; {write}name a folder (with / at its end)")
    if (folder / name).resolve() == src.resolve():
        raise ValueError(f"{dst}: is SRC itself; give another DST")
    return folder, name


def tree_target(src: Path, dst: Path, folder_meant: bool = False) -> Path:
    """The folder `dst`, for a folder `src`. Raises ValueError for what is meant to be a file, it seems."""
    check_apart(src, dst)
    as_file = dst.suffix and any(kind.names(f"a{dst.suffix}") for kind in FORMATS)
    if as_file and not folder_meant and not dst.exists():
        raise ValueError(f"{dst}: SRC is a folder, and DST has the name of a file; a folder ends in /")
    return as_folder(dst)


def as_folder(dst: Path) -> Path:
    if dst.exists() and not dst.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "exists, and is not a folder", str(dst))
    return dst


def check_apart(src: Path, dst: Path) -> None:
    a, b = src.resolve(), dst.resolve()
    if b.is_relative_to(a) or a.is_relative_to(b):
        raise ValueError(f"{dst}: DST and SRC ({src}) must be apart, neither within the other")


def check_target(folder: Folder, unit: Unit, resuming: bool) -> None:
    """Nothing is in the way of the file to write, no link, and no file that must stay, if not `resuming`."""
    found = folder.status(unit.target)
    if found is None or resuming:
        return
    target = str(folder.path / unit.target)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "is a folder, where a file is to be written", target)
    if not unit.replace:
        raise FileExistsError(errno.EEXIST, "exists, and is not overwritten without --force", target)


def check_headers(
    root: Path,
    units: Iterable[Unit],
    scheme: Scheme,
    fit: str,
    reading: Reading,
    damaged: Callable[[Unit, pixels.ImageFileError], object] | None = None,
    least: pixels.Size = (1, 1),
) -> set[int]:
    """The channel counts that may occur. Raises if a size does not fit the scheme, or if a file is no image.

    damaged: is told of a file that is no image, or a damaged one, instead. least: width and height that an
        image must have.
    """
    channels: set[int] = set()
    fitting: set[tuple[pixels.Size, int]] = set()
    misfit, more, block_size = None, 0, scheme.side
    for unit in units:
        path = root / unit.source
        try:
            known = BY_NAME[unit.format].sizes(path, reading.at(unit.source))
        except pixels.ImageFileError as error:
            if damaged is None or isinstance(error, pixels.RefusedError):
                raise
            damaged(unit, error)
            continue
        except UNFORESEEN as error:
            raise unforeseen(path, error) from error
        if unit.format == "cifar":
            cifar.check_block_size(path, block_size)
        if not known:  # only reading the file through would tell
            channels |= set(pixels.CHANNELS)
        for size, counts in known:
            channels.update(counts)
            if size[0] < least[0] or size[1] < least[1]:
                raise too_small(path, size, least)
            if pixels.misfit(size, block_size, fit):
                more += misfit is not None
                misfit = misfit or (path, size)
                continue
            width, height = pixels.fitted_size(size, block_size, fit)
            for count in counts:
                if ((width, height), count) not in fitting:
                    fitting.add(((width, height), count))
                    try:
                        dataclasses.replace(scheme, channels=count).periods(height, width)
                    except ValueError as error:
                        raise ValueError(f"{path}: {error}") from None
    if misfit:
        raise pixels.misfit_error(*misfit, block_size, fit, more=more)
    return channels
