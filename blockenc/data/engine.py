"""Whole data sets, encrypted and decrypted: files to units of work, units to files that are there or not.

What names, headers and the manifest can tell is checked first; then each unit is done by a worker, its
output synced and renamed into place, and noted in the journal (blockenc.data.journal). A run that is cut
off at any instant, or stopped by an error, is taken up by repeating the command; when all units are done
the manifest is written and the journal removed. The output is the same however often it was cut off.
"""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

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
from blockenc.data.units import (
    Units,
    as_folder,
    check_apart,
    check_headers,
    check_target,
    single_target,
    stamp_of,
)
from blockenc.data.work import Job, Result, Unit, do
from blockenc.errors import WrongKeyError
from blockenc.key import Key, KeySet
from blockenc.scheme import Scheme

VERIFY = ("none", "sample", "all")
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
    threads = torch.get_num_threads()  # shared out: workers that each start as many get in each other's way

    def finished(pending: list[Future[Result]]) -> Iterator[tuple[Future[Result], Outcome]]:
        for future in wait(pending, return_when=FIRST_COMPLETED).done:
            yield future, None if future.cancelled() else future.exception() or future.result()

    with ThreadPoolExecutor(
        workers, "blockenc", torch.set_num_threads, (max(1, threads // workers),)
    ) as pool:
        try:
            yield from hand_out(
                units, WAITING * workers, lambda unit: pool.submit(do, job, unit), finished, Future.cancel
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(threads)  # what later threads of the process begin with


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
    key: Key | KeySet,
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
    folder, manifest_name, single = _destination(src, dst, shard)
    root = src if src.is_dir() else src.parent
    manifest = Manifest(dataclasses.replace(scheme, channels=1), key.fingerprint, fit)
    path = folder / manifest_name
    with contextlib.closing(Units()) as units:
        skipped = 0
        if single:
            units.add(root, src.name, *single)
        else:
            skipped = units.scan(src)
        if shard:
            units.keep_shard(*shard)
        old = dataclasses.replace(manifest, paths=tuple(_manifests_there(folder, path, shard)))
        for other in old.paths:
            manifest.check_same(Manifest.read(other))
        units.know(item.name for item in old.items())
        work = journal.work_folder(folder, manifest_name.removesuffix(".json"))
        resuming = (work / "journal").is_file()
        if not resuming:
            for unit in units:
                check_target(folder, unit._replace(replace=force or unit.replace))
        head = {"job": "encrypt", **manifest.head(), "shard": shard and list(shard)}
        with journal.opened(work, head) as log:
            resumed = sum(
                count
                for target, stamp, count in log.done()
                if (folder / target).is_file() and units.drop(target, stamp)
            )
            channels = check_headers(root, units, scheme.block_size, fit)
            job = Job(
                decrypt=False,
                source=root,
                folder=folder,
                temporary=work,
                ciphers=_ciphers(key, scheme, channels, backend),
                block_size=scheme.block_size,
                fit=fit,
            )
            units.choose_verified(verify)
            todo = (
                unit._replace(replace=force or not resuming or unit.replace or unit.target in log)
                for unit in units
            )
            summary = _run(job, todo, units.size(), log, engine, workers, track)
            manifest.write(path, _merged(log, old, folder), work)
            for other in old.paths:
                if other != path:
                    other.unlink()
            log.remove()
    return summary._replace(skipped=skipped, resumed=resumed)


def _merged(log: journal.Journal, old: Manifest, folder: Path) -> Iterator[Item]:
    """The items of this run, and those of the manifests before that it has not done again."""
    ours = (item for item in log.items() if (folder / item.name).is_file())
    last = None
    for item in heapq.merge(ours, old.items(), key=lambda item: item.key):  # of equal ones, ours first
        if item.name != last:
            yield item
        last = item.name


def decrypt_files(
    src: Path,
    dst: Path,
    key: Key | KeySet,
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
        manifest, only, root, name = read_folder(src), None, src, "blockenc"
        check_apart(src, dst)
        folder = as_folder(dst)
    else:
        if not src.is_file():
            raise FileNotFoundError(2, "no such file or folder", str(src))
        found = find_manifest(src)
        if found is None:
            raise ManifestError(
                f"{src}: no {src.name}.json or {MANIFEST} beside it; one is needed to decrypt"
            )
        manifest, only = found
        if only is None:
            raise ManifestError(f"{manifest.paths[0]}: does not list {src.name}")
        folder, name = single_target(src, dst, BY_NAME[only.format])
        root = src.parent
    if manifest.fingerprint != key.fingerprint:
        raise WrongKeyError(
            f"{manifest.paths[0]}: encrypted with the key {manifest.fingerprint}, "
            f"the key given is {key.fingerprint}"
        )

    def units() -> Iterator[Unit]:
        if only:
            yield Unit(src.name, name, only.format, stamp_of(src), only, replace=force)
            return
        for item in manifest.items():
            file = root / item.name
            if not file.is_file():
                raise FileNotFoundError(2, "listed in the manifest, and missing", str(file))
            yield Unit(item.name, item.name, item.format, stamp_of(file), item, replace=force)

    work = journal.work_folder(folder, name)
    resuming = (work / "journal").is_file()
    images, channels = 0, set[int]()
    for unit in units():  # reads the manifest through
        assert unit.expected is not None
        images += len(unit.expected.images)
        channels.update(picture.channels for picture in unit.expected.images)
        if not resuming:
            check_target(folder, unit)
    job = Job(
        decrypt=True,
        source=root,
        folder=folder,
        temporary=work,
        ciphers=_ciphers(key, manifest.scheme, channels, backend),
        block_size=manifest.scheme.block_size,
        fit=manifest.fit,
    )
    with journal.opened(work, {"job": "decrypt", **manifest.head()}) as log:

        def todo() -> Iterator[Unit]:
            for unit in units():
                if not (log.has(unit) and (folder / unit.target).is_file()):
                    yield unit._replace(replace=force or not resuming or unit.target in log)

        total = sum(unit.stamp[0] for unit in todo())
        summary = _run(job, todo(), total, log, engine, workers, track)
        log.remove()
    return summary._replace(resumed=images - summary.images)


def _run(
    job: Job,
    units: Iterable[Unit],
    total: int,
    log: journal.Journal,
    engine: Engine,
    workers: int | None,
    track: Track,
) -> Summary:
    """Do the units, noting each in the journal before anyone is told that it is done. total: bytes."""

    def finished() -> Iterator[Finished]:
        for unit, result in engine(job, units, workers):
            log.add(unit, result.item)
            yield Finished(result.images, result.pixels, unit.stamp[0])

    images = area = 0
    for one in track(finished(), total):
        images, area = images + one.images, area + one.pixels
    return Summary(images, area)


def _check_options(fit: str, verify: str, shard: tuple[int, int] | None) -> None:
    if fit not in pixels.FITS:
        raise ValueError(f"fit: expected one of {', '.join(pixels.FITS)}, got {fit!r}")
    if verify not in VERIFY:
        raise ValueError(f"verify: expected one of {', '.join(VERIFY)}, got {verify!r}")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard: expected i/n with i from 0 to n - 1, got {shard[0]}/{shard[1]}")


def _destination(
    src: Path, dst: Path, shard: tuple[int, int] | None
) -> tuple[Path, str, tuple[Format, str] | None]:
    """The folder to write to; the manifest's name in it; of one file, its format and the output's name."""
    if src.is_dir():
        check_apart(src, dst)
        return as_folder(dst), part_name(*shard) if shard else MANIFEST, None
    if not src.is_file():
        raise FileNotFoundError(2, "no such file or folder", str(src))
    if shard is not None:
        raise ValueError(f"shard: {src} is one file; shards are parts of a folder")
    kind = format_of(src)
    if kind is None:
        raise pixels.ImageFileError(f"{src}: not an image, or data set file, that can be encrypted")
    folder, name = single_target(src, dst, kind)
    return folder, MANIFEST if folder == dst else f"{name}.json", (kind, name)


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


def _ciphers(key: Key | KeySet, scheme: Scheme, channels: set[int], backend: str | None) -> dict[int, Cipher]:
    """A cipher for each count of channels; for several, those that the block size admits."""
    ciphers = {}
    for count in sorted(channels):
        try:
            ciphers[count] = Cipher(key, dataclasses.replace(scheme, channels=count), backend=backend)
        except ValueError:
            if len(channels) == 1:
                raise
    return ciphers
