"""Whole data sets, encrypted and decrypted: files to units of work, units to files that are there or not.

What names, headers and the manifest can tell is checked first; then each unit is done by a worker, its
output synced and renamed into place, and noted in the journal (blockenc.data.journal). A run that is cut
off at any instant, or stopped by an error, is taken up by repeating the command; when all units are done
the manifest is written and the journal removed. The output is the same however often it was cut off.
"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from blockenc.backends import choose
from blockenc.cipher import Cipher
from blockenc.data import journal, pixels
from blockenc.data.formats import BY_NAME, Format, format_of
from blockenc.data.manifest import (
    MANIFEST,
    Item,
    Manifest,
    ManifestError,
    find_manifest,
    manifests,
    part_name,
    read_folder,
)
from blockenc.data.work import Job, Result, Unit, do
from blockenc.errors import WrongKeyError
from blockenc.files import atomic_write
from blockenc.key import Key
from blockenc.scheme import Scheme

VERIFY = ("none", "sample", "all")
SAMPLE = 100  # files that verify="sample" looks at
WAITING = 4  # units handed out for each worker, so that none of them idles


class Finished(NamedTuple):
    """A unit that is done, for whoever shows progress. size: bytes of its source."""

    images: int
    pixels: int
    size: int


class Summary(NamedTuple):
    """What a run did. resumed: images that an earlier run, cut off, had done. skipped: files left out."""

    images: int
    pixels: int
    resumed: int = 0
    skipped: int = 0


Track = Callable[[Iterable[Finished], int], Iterable[Finished]]  # the units as they finish, and bytes in all
# Does units in any order: job, units, workers (None: as many as there are processors).
Engine = Callable[[Job, Iterable[Unit], int | None], Iterator[tuple[Unit, Result]]]

Handle = TypeVar("Handle")
Outcome = Result | BaseException | None  # None: was cancelled before it began


def _untracked(done: Iterable[Finished], total: int) -> Iterable[Finished]:
    return done


def in_threads(job: Job, units: Iterable[Unit], workers: int | None) -> Iterator[tuple[Unit, Result]]:
    """Decoding, encoding and encryption leave the interpreter lock, so threads keep all processors busy."""
    workers = workers or min(32, os.cpu_count() or 1)

    def finished(pending: list[Future[Result]]) -> Iterator[tuple[Future[Result], Outcome]]:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            yield future, None if future.cancelled() else future.exception() or future.result()

    with ThreadPoolExecutor(workers, "blockenc") as pool:
        try:
            yield from hand_out(
                units, WAITING * workers, lambda unit: pool.submit(do, job, unit), finished, Future.cancel
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def hand_out(
    units: Iterable[Unit],
    limit: int,
    submit: Callable[[Unit], Handle],
    finished: Callable[[list[Handle]], Iterable[tuple[Handle, Outcome]]],
    cancel: Callable[[Handle], object],
) -> Iterator[tuple[Unit, Result]]:
    """The units and their results as they finish, `limit` of them in hand at most.

    After an error no unit is begun; those that are being done are waited for, so that the journal hears
    of every output that is in place, and then the error is raised.
    """
    pending: dict[Handle, Unit] = {}
    errors: list[BaseException] = []

    def results() -> Iterator[tuple[Unit, Result]]:
        for handle, outcome in finished(list(pending)):
            unit = pending.pop(handle)
            if isinstance(outcome, Result):
                yield unit, outcome
            elif outcome is not None:
                errors.append(outcome)
                for other in pending:
                    cancel(other)

    for unit in units:
        pending[submit(unit)] = unit
        if len(pending) >= limit:
            yield from results()
        if errors:
            break
    while pending:
        yield from results()
    if errors:
        raise errors[0]


def encrypt_files(
    src: Path,
    dst: Path,
    key: Key,
    scheme: Scheme,
    *,
    fit: str = "error",
    backend: str | None = None,
    force: bool = False,
    verify: str = "none",
    shard: tuple[int, int] | None = None,
    workers: int | None = None,
    engine: Engine = in_threads,
    track: Track = _untracked,
) -> Summary:
    """Encrypt a file, or the files of a folder tree, of the formats in blockenc.data.formats.

    src: names that start with a dot are left out. EXIF orientation is applied; other metadata is dropped.
    dst: a folder; for one file also the file to write, whose manifest is then `<file>.json`.
    scheme: its channels are not used; grey, RGB and RGBA images are encrypted with 1, 3 and 4.
    fit: what becomes of an image that the block size does not divide: an error; cropped at the right and
        bottom; or padded there by repeating the edge, which decryption undoes.
    force: overwrite files in dst that no manifest there lists.
    verify: decrypt what was written and compare it with the source: of no file, of up to SAMPLE files
        picked at random, or of all. A file that fails is not put in place.
    shard: (i, n) does the i-th (from 0) of n parts of src; the n runs may share dst at the same time.
    workers: units done at once; default: the number of processors.

    Raises ValueError, BlockencError or OSError. What can be told beforehand, it raises before anything is
    written; on an error during the work the outputs that are finished stay, and the next run goes on.
    """
    _check_options(fit, verify, shard)
    if scheme.ffx == "decimal" and "ffx" in scheme.steps:
        raise ValueError(
            "ffx: PNG files hold bytes and the decimal profile's values do not fit; "
            "use the byte profile here, or blockenc.Cipher from Python"
        )
    choose("cpu", backend)  # raises if there is no such backend
    folder, manifest_name, units, skipped = _plan(src, dst, shard)
    manifest = Manifest(dataclasses.replace(scheme, channels=1), key.fingerprint, fit, {})
    path = folder / manifest_name
    old = _manifests_there(folder, path, shard)
    for other in old:
        known = Manifest.read(other)
        manifest.check_same(known, other)
        manifest.items.update(known.items)
    work = journal.work_folder(folder, manifest_name.removesuffix(".json"))
    resuming = (work / "journal").is_file()
    if not resuming:
        _check_targets(folder, (unit.target for unit in units), known=manifest.items, force=force)
    replaceable = set(manifest.items)
    head = {"job": "encrypt", **manifest.head(), "shard": shard and list(shard)}

    root = src if src.is_dir() else src.parent
    with journal.opened(work, head) as log:
        todo = [unit for unit in units if not _is_done(unit, log, folder)]
        channels = _check_headers(root, todo, scheme.block_size, fit)
        ciphers = _ciphers(key, manifest.scheme, channels, backend)
        job = Job(False, root, folder, work, ciphers, scheme.block_size, fit)
        sampled = _sample(todo, verify)
        ours = log.done.keys() | replaceable
        todo = [
            unit._replace(verify=unit.target in sampled, replace=force or not resuming or unit.target in ours)
            for unit in todo
        ]
        summary = _run(job, todo, log, engine, workers, track)
        for name, entry in log.done.items():
            if (folder / name).is_file():
                manifest.items[name] = Item.from_dict(name, entry["item"])
        atomic_write(path, manifest.to_json().encode(), folder=work)
        for other in old:
            if other != path:
                other.unlink()
        log.remove()
    resumed = sum(len(manifest.items[unit.target].images) for unit in units) - summary.images
    return summary._replace(skipped=skipped, resumed=resumed)


def decrypt_files(
    src: Path,
    dst: Path,
    key: Key,
    *,
    backend: str | None = None,
    force: bool = False,
    workers: int | None = None,
    engine: Engine = in_threads,
    track: Track = _untracked,
) -> Summary:
    """Decrypt what `encrypt_files` wrote, a folder or one file of it; images come out as PNG, to the pixel.

    Raises WrongKeyError if the manifest names another key; ManifestError; ImageFileError for an image that
    is not as it was encrypted; OSError. As with `encrypt_files`, a run that was cut off is taken up.
    """
    if src.is_dir():
        if stopped := journal.unfinished(src):
            raise ManifestError(
                f"{src}: encrypting into this folder is not finished ({stopped[0].name}); "
                "repeat the command that was cut off"
            )
        path, manifest = src / MANIFEST, read_folder(src)
        items, sources, root = manifest.items, {name: name for name in manifest.items}, src
        _check_apart(src, dst)
        folder, run_name = _as_folder(dst), "blockenc"
    else:
        if not src.is_file():
            raise FileNotFoundError(2, "no such file or folder", str(src))
        found = find_manifest(src)
        if found is None:
            raise ManifestError(
                f"{src}: no {src.name}.json or {MANIFEST} beside it; one is needed to decrypt"
            )
        path, listed, manifest = found
        if listed not in manifest.items:
            raise ManifestError(f"{path}: does not list {listed}")
        kind = BY_NAME[manifest.items[listed].format]
        folder, name = _single_target(src, dst, kind)
        items, sources, root, run_name = {name: manifest.items[listed]}, {name: src.name}, src.parent, name
    if manifest.fingerprint != key.fingerprint:
        raise WrongKeyError(
            f"{path}: encrypted with the key {manifest.fingerprint}, the key given is {key.fingerprint}"
        )
    units = []
    for name, item in sorted(items.items()):
        file = root / sources[name]
        if not file.is_file():
            raise FileNotFoundError(2, "listed in the manifest, and missing", str(file))
        units.append(Unit(sources[name], name, item.format, _stamp(file), item))
    work = journal.work_folder(folder, run_name)
    resuming = (work / "journal").is_file()
    if not resuming:
        _check_targets(folder, items, known=(), force=force)
    block_size = manifest.scheme.block_size
    channels = {picture.channels for item in items.values() for picture in item.images}
    ciphers = _ciphers(key, manifest.scheme, channels, backend)
    job = Job(True, root, folder, work, ciphers, block_size, manifest.fit)
    with journal.opened(work, {"job": "decrypt", **manifest.head()}) as log:
        todo = [unit._replace(replace=force or not resuming or unit.target in log.done) for unit in units]
        todo = [unit for unit in todo if not _is_done(unit, log, folder)]
        summary = _run(job, todo, log, engine, workers, track)
        log.remove()
    return summary._replace(resumed=sum(len(item.images) for item in items.values()) - summary.images)


def _run(
    job: Job, units: list[Unit], log: journal.Journal, engine: Engine, workers: int | None, track: Track
) -> Summary:
    """Do the units, noting each in the journal before anyone is told that it is done."""

    def finished() -> Iterator[Finished]:
        for unit, result in engine(job, units, workers):
            log.add(unit.target, {"stamp": list(unit.stamp), "item": result.item.to_dict()})
            yield Finished(result.images, result.pixels, unit.stamp[0])

    images = area = 0
    for one in track(finished(), sum(unit.stamp[0] for unit in units)):
        images, area = images + one.images, area + one.pixels
    return Summary(images, area)


def _is_done(unit: Unit, log: journal.Journal, folder: Path) -> bool:
    """Whether an earlier run, cut off, has done this unit, of this very source."""
    entry = log.done.get(unit.target)
    return entry is not None and entry["stamp"] == list(unit.stamp) and (folder / unit.target).is_file()


def _sample(units: list[Unit], verify: str) -> set[str]:
    names = [unit.target for unit in units]
    if verify == "sample":
        names = random.sample(names, min(SAMPLE, len(names)))
    return set() if verify == "none" else set(names)


# --- what is to be done: names, clashes, sizes ---


def _check_options(fit: str, verify: str, shard: tuple[int, int] | None) -> None:
    if fit not in pixels.FITS:
        raise ValueError(f"fit: expected one of {', '.join(pixels.FITS)}, got {fit!r}")
    if verify not in VERIFY:
        raise ValueError(f"verify: expected one of {', '.join(VERIFY)}, got {verify!r}")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard: expected i/n with i from 0 to n - 1, got {shard[0]}/{shard[1]}")


def _plan(src: Path, dst: Path, shard: tuple[int, int] | None) -> tuple[Path, str, list[Unit], int]:
    """The folder to write to, the manifest's name in it, the units in order, the files left out."""
    if src.is_file():
        if shard is not None:
            raise ValueError(f"shard: {src} is one file; shards are parts of a folder")
        kind = format_of(src)
        if kind is None:
            raise pixels.ImageFileError(f"{src}: not an image, or data set file, that can be encrypted")
        folder, name = _single_target(src, dst, kind)
        unit = Unit(src.name, name, kind.name, _stamp(src))
        return folder, MANIFEST if folder == dst else f"{name}.json", [unit], 0
    if not src.is_dir():
        raise FileNotFoundError(2, "no such file or folder", str(src))
    _check_apart(src, dst)
    units: dict[str, Unit] = {}
    skipped = 0
    for relative in _files(src):
        path = src / relative
        kind = format_of(path)
        if kind is None:
            skipped += 1
            continue
        unit = Unit(relative, kind.target(relative), kind.name, _stamp(path))
        other = units.setdefault(unit.target, unit)
        if other is not unit:
            raise ValueError(f"{src / other.source} and {path} would both become {unit.target}; rename one")
    if not any(unit.format != "metadata" for unit in units.values()):
        raise ValueError(
            f"{src}: no images here (looked for {' '.join(pixels.SUFFIXES)} "
            ".tar .npy .npz .parquet .arrow and CIFAR batches)"
        )
    ordered = list(units.values())
    if shard is None:
        return _as_folder(dst), MANIFEST, ordered, skipped
    return _as_folder(dst), part_name(*shard), ordered[shard[0] :: shard[1]], skipped


def _files(src: Path) -> Iterator[str]:
    """The files below a folder in a fixed order, without hidden ones and without linked folders."""
    for folder, folders, files in os.walk(src):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = Path(folder).relative_to(src)
        for name in sorted(files):
            if not name.startswith(".") and os.path.isfile(os.path.join(folder, name)):
                yield (relative / name).as_posix()


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _manifests_there(folder: Path, path: Path, shard: tuple[int, int] | None) -> list[Path]:
    """The manifests that the new one takes in. Raises ManifestError where shards and whole runs would mix."""
    if path.parent != folder or path.name not in (MANIFEST, shard and part_name(*shard)):
        return [path] if path.is_file() else []  # of a single file
    there = manifests(folder) if folder.is_dir() else []
    stopped = [run.name for run in (journal.unfinished(folder) if folder.is_dir() else [])]
    if shard is None:
        parts = [name for name in stopped if name.startswith(".blockenc.")]
        if parts:
            raise ManifestError(
                f"{folder}: a run of a shard is not finished here ({parts[0]}); finish it first"
            )
        return there
    ours = {part_name(i, shard[1]) for i in range(shard[1])}
    runs = {f".{name.removesuffix('.json')}-run" for name in ours}
    foreign = [other.name for other in there if other.name not in ours]
    foreign += [name for name in stopped if name.startswith(".blockenc") and name not in runs]
    if foreign:
        raise ManifestError(
            f"{folder}: {foreign[0]} is of a run without shards, or of other ones; give another DST"
        )
    return [path] if path in there else []


def _single_target(src: Path, dst: Path, kind: Format) -> tuple[Path, str]:
    """Where one file goes: into the folder `dst`, or to the file `dst` if that has the suffix it takes."""
    name = kind.target(src.name)
    suffix = PurePosixPath(name).suffix
    if suffix and dst.suffix.lower() == suffix.lower() and not dst.is_dir():
        folder, name = dst.parent, dst.name
    else:
        folder = _as_folder(dst)
    if (folder / name).resolve() == src.resolve():
        raise ValueError(f"{dst}: is SRC itself; give another DST")
    return folder, name


def _as_folder(dst: Path) -> Path:
    if dst.exists() and not dst.is_dir():
        raise NotADirectoryError(20, "exists, and is not a folder", str(dst))
    return dst


def _check_apart(src: Path, dst: Path) -> None:
    a, b = src.resolve(), dst.resolve()
    if b.is_relative_to(a) or a.is_relative_to(b):
        raise ValueError(f"{dst}: DST and SRC ({src}) must be apart, neither within the other")


def _check_targets(folder: Path, names: Iterable[str], known: Iterable[str], force: bool) -> None:
    """Nothing is in the way of the files to write, and no file of unknown origin is overwritten."""
    known = set(known)
    for name in names:
        target = folder / name
        if target.is_dir():
            raise IsADirectoryError(21, "is a folder, where a file is to be written", str(target))
        if target.exists() and not force and name not in known:
            raise FileExistsError(17, "exists, and is not overwritten without --force", str(target))
        for parent in (folder / path for path in PurePosixPath(name).parents):
            if parent.exists() and not parent.is_dir():
                raise NotADirectoryError(20, "is a file, where a folder is needed", str(parent))


def _check_headers(root: Path, units: list[Unit], block_size: int, fit: str) -> set[int]:
    """The channel counts that may occur. Raises if a file is no image, or a size does not fit."""
    channels = set()
    misfits = []
    for unit in units:
        path = root / unit.source
        known = BY_NAME[unit.format].sizes(path)
        if not known:  # only reading the file through would tell
            channels |= set(pixels.CHANNELS.values())
        for size, count in known:
            channels.add(count)
            if pixels.misfit(size, block_size, fit):
                misfits.append((path, size))
    if misfits:
        raise pixels.misfit_error(*misfits[0], block_size, fit, more=len(misfits) - 1)
    return channels


def _ciphers(key: Key, scheme: Scheme, channels: set[int], backend: str | None) -> dict[int, Cipher]:
    """A cipher for each count of channels; for several, those that the block size admits."""
    ciphers = {}
    for count in sorted(channels):
        try:
            ciphers[count] = Cipher(key, dataclasses.replace(scheme, channels=count), backend=backend)
        except ValueError:
            if len(channels) == 1:
                raise
    return ciphers
