"""Whole data sets, encrypted and decrypted: files to units of work, units to files that are there or not.

What names, headers and the manifest can tell is checked first; then each unit is done by a worker, its
output synced and renamed into place, and noted in the journal (blockenc.datasets.journal). A run that is cut
off at any instant, or stopped by an error, is taken up by repeating the command; when all units are done
the manifest is written and the journal removed. The output is the same however often it was cut off.

Below DST no link is followed (blockenc.files.Folder); below SRC those that stay there are. A manifest or a
journal that is there already is authenticated before it is believed. What is made is no more open to others
than what it is made of, and than the umask has it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import heapq
import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from blockenc.backends import choose
from blockenc.cipher import Cipher
from blockenc.datasets import journal, pictures
from blockenc.datasets.coding import PNG, Coding
from blockenc.datasets.formats import BY_NAME, COPIED, IMAGE, Format, format_of
from blockenc.datasets.manifest import (
    MANIFEST,
    Item,
    Manifest,
    ManifestError,
    find_manifest,
    manifests,
    part_name,
    part_of,
    read_folder,
)
from blockenc.datasets.pixels import ImageFileError, RefusedError
from blockenc.datasets.reading import DEFAULT, MAX_BYTES, Reading
from blockenc.datasets.units import (
    DAMAGED,
    EXCLUDED,
    SKIPPED,
    LeftOut,
    Permissions,
    Selection,
    Units,
    check_headers,
    check_target,
    encrypted_already,
    manifest_of,
    note_unlisted,
    single_target,
    stamp_of,
    tree_target,
    unforeseen,
)
from blockenc.datasets.work import Job, Result, Unit, do
from blockenc.errors import UNFORESEEN
from blockenc.files import Folder, file_mode, folder_mode
from blockenc.hidden import hide, reveal
from blockenc.images import FITS
from blockenc.keys import Key, KeySet
from blockenc.scheme import Scheme
from blockenc.text import printable

VERIFY = ("none", "sample", "all")
MAX_SHARDS = 1_000_000  # a folder has a manifest for each
WAITING = 4  # units handed out for each worker, so that none of them idles


class Finished(NamedTuple):
    """A unit that is done, for whoever shows progress. size: bytes of its source."""

    images: int
    pixels: int
    size: int


class Summary(NamedTuple):
    """What a run did.

    resumed: images that an earlier run, cut off, had done. left_out: what was not done, by kind
    (blockenc.datasets.units), with a count and the first names. The others count what this run and those
    before it that were cut off have done. copied: files, members, columns and arrays copied as they are
    because the user said so. metadata: pictures whose EXIF (but for the orientation), colour profile,
    text or preview was left out. without: files that hold no images, copied.
    """

    images: int
    pixels: int
    resumed: int = 0
    copied: int = 0
    metadata: int = 0
    without: int = 0
    left_out: LeftOut = LeftOut()


Track = Callable[[Iterable[Finished], int], Iterable[Finished]]  # the units as they finish, and bytes in all
Warn = Callable[[str], object]
Done = tuple[Unit, Result | ImageFileError]  # the latter: a damaged file, where the job skips those
# Does units in any order: job, units, workers (None: as many as there are processors).
Engine = Callable[[Job, Iterable[Unit], int | None], Iterator[Done]]

Handle = TypeVar("Handle")
Outcome = Result | BaseException | None  # None: was cancelled before it began


def _untracked(done: Iterable[Finished], total: int) -> Iterable[Finished]:
    return done


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def in_threads(job: Job, units: Iterable[Unit], workers: int | None) -> Iterator[Done]:
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
                job,
                units,
                WAITING * workers,
                lambda unit: pool.submit(do, job, unit),
                finished,
                Future.cancel,
            )
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(threads)  # what later threads of the process begin with


def hand_out(
    job: Job,
    units: Iterable[Unit],
    limit: int,
    submit: Callable[[Unit], Handle],
    finished: Callable[[list[Handle]], Iterable[tuple[Handle, Outcome]]],
    cancel: Callable[[Handle], object],
) -> Iterator[Done]:
    """The units and their results as they finish, `limit` of them in hand at most.

    Where the job skips damaged files, the error of one is its result; a file that is refused is not damaged.
    After another error no unit is begun;
    those that are being done are waited for, so that the journal hears of every output that is in place, and
    then the error is raised.
    """
    pending: dict[Handle, Unit] = {}
    errors: list[BaseException] = []

    def results() -> Iterator[Done]:
        for handle, outcome in finished(list(pending)):
            unit = pending.pop(handle)
            refused = isinstance(outcome, RefusedError) or not job.skip_damaged
            if isinstance(outcome, Result) or (isinstance(outcome, ImageFileError) and not refused):
                yield unit, outcome
            elif outcome is not None:
                if isinstance(outcome, UNFORESEEN):
                    error = unforeseen(job.source / unit.source, outcome)
                    error.__cause__ = outcome
                    outcome = error
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
    dst: Path | str,
    key: Key | KeySet,
    scheme: Scheme,
    *,
    fit: str = "error",
    reading: Reading = DEFAULT,
    per_image: bool = False,
    backend: str | None = None,
    force: bool = False,
    verify: str = "none",
    shard: tuple[int, int] | None = None,
    workers: int | None = None,
    engine: Engine = in_threads,
    track: Track = _untracked,
    selection: Selection = Selection(),  # noqa: B008 - it is frozen
    skip_damaged: bool = False,
    again: bool = False,
    warn: Warn = _warn,
) -> Summary:
    """Encrypt a file, or the files of a folder tree, of the formats in blockenc.datasets.formats.

    src: names that start with a dot are left out. Pictures are not turned by EXIF; their
        metadata but for the orientation is left out and counted.
    dst: a folder; for one file also the file to write, whose manifest is then `<file>.json`. A slash at the
        end says that it is a folder.
    scheme: its channels are not used; grey, RGB and RGBA images are encrypted with 1, 3 and 4.
    fit: what becomes of an image that the block size does not divide: an error; cropped at the right and
        bottom; or padded there by repeating the edge, which decryption undoes.
    reading: how picture files are read and written, and what is copied as it is
        (blockenc.datasets.reading.Reading). JPEG goes with schemes that leave whole blocks of 8 or 16 only.
    per_image: every image has keys of its own, derived from the key and the path of its file below src (of
        one file: its name). The manifest has the paths, so that decryption needs nothing but the key.
    force: overwrite files in dst that no manifest there lists.
    verify: decrypt what was written and compare it with the source: of no file, of up to SAMPLE files
        picked at random, or of all. A file that fails is not put in place. One of them that an earlier run,
        cut off, has not verified is done again.
    shard: (i, n) does the i-th (from 0) of n parts of src; the n runs may share dst at the same time.
    workers: units done at once; default: the number of processors.
    selection: which files of a folder are wanted, and whether links that lead out of it are followed.
    skip_damaged: leave out the files of a folder that cannot be read, but none that is refused, and list
        them, one a line with the reason, in `blockenc.skipped.txt` in dst, instead of raising the error of
        the first.
    again: encrypt what is encrypted already, as a manifest tells, once more.
    warn: is told of what the user should know before the work begins.

    Raises ValueError, BlockencError or OSError. What can be told beforehand, it raises before anything is
    written; on an error during the work the outputs that are finished stay, and the next run goes on. What
    `reading.copy` and `reading.convert` of the next run do not admit any more is done again.
    """
    key = hide(key)
    _check_key(key)
    _check_options(fit, verify, shard)
    if scheme.is_decimal:
        raise ValueError(
            "ffx: PNG files hold bytes and the decimal profile's values do not fit; "
            "use the byte profile here, or blockenc.Cipher from Python"
        )
    reading.coding.check_scheme(scheme)
    if verify != "none" and not reading.coding.exact:
        raise ValueError(
            f"verify: compares to the pixel, and {reading.coding.name} files do not keep pixels exactly"
        )
    choose("cpu", backend)  # raises if there is no such backend
    _check_tree_options(src, selection, skip_damaged)
    folder, manifest_name, single = _destination(src, dst, shard, reading)
    root = src if single is None else src.parent
    plain = dataclasses.replace(scheme, channels=1)
    manifest = Manifest(plain, key.fingerprint, fit, (), reading, shard, per_image=per_image)
    path, place = folder / manifest_name, Folder(folder)
    if not again and (listed := manifest_of(src)):
        raise encrypted_already(src, listed)
    with contextlib.closing(Units(root)) as units:
        left_out = LeftOut()
        if single:
            units.add(src.name, *single)
        else:
            left_out = units.scan(folder, selection, again, reading)
        if shard:
            units.keep_shard(*shard)
        units.choose_verified(verify)
        there = [path.name for path in manifests(folder)] if folder.is_dir() else []
        _check_own_names(place, manifest_name, _skipped_name(manifest_name), *there)
        old = dataclasses.replace(manifest, paths=tuple(_manifests_there(folder, path, shard)))
        for other in old.paths:
            before = Manifest.read(other)
            manifest.check_same(before)
            before.authenticate(key, warn)
        units.know(item.name for item in old.items())
        _tell_old_copies(old, units, reading, folder, warn)
        work = journal.work_folder(folder, manifest_name.removesuffix(".json"))
        resuming = place.is_file(f"{work.name}/journal")
        for unit in units:
            check_target(place, unit._replace(replace=force or unit.replace), resuming)
        head = {"job": "encrypt", **manifest.head()}
        with journal.opened(work, head, key, folder_mode(root)) as log:
            resumed = _resumed(log, place, units, root, reading)
            damaged = _skipping(log, units, left_out) if skip_damaged else None
            channels = check_headers(root, units, scheme, fit, reading, damaged)
            job = Job(
                decrypt=False,
                source=root,
                folder=folder,
                temporary=work,
                ciphers=_ciphers(key, scheme, channels, backend, per_image),
                block_size=scheme.side,
                fit=fit,
                reading=reading,
                skip_damaged=skip_damaged,
            )
            todo = (
                unit._replace(replace=force or not resuming or unit.replace or unit.target in log)
                for unit in units
            )
            summary = _run(job, todo, units.size(), log, engine, workers, track, left_out)
            mode = file_mode(src) if single else units.permissions.bits
            for other in old.paths:  # whose items the new one lists, too
                mode &= other.stat().st_mode | 0o600
            manifest.write(path, _merged(log, old, place), key, within=work.name, mode=mode)
            for other in old.paths:
                if other != path:
                    place.remove(other.name)
            if not single:
                _list_skipped(log, place, _skipped_name(manifest_name), mode)
            log.remove()
    return summary._replace(resumed=resumed)


def _merged(log: journal.Journal, old: Manifest, place: Folder) -> Iterator[Item]:
    """The items of this run, and those of the manifests before that it has not done again."""
    ours = (item for item in log.items() if place.is_file(item.name))
    last = None
    # A copy that is not let through any more was deleted (_resumed).
    theirs = (item for item in old.items() if item.format != COPIED.name or place.is_file(item.name))
    for item in heapq.merge(ours, theirs, key=lambda item: item.key):  # of equal ones, ours first
        if item.name != last:
            yield item
        last = item.name


def decrypt_files(
    src: Path,
    dst: Path | str,
    key: Key | KeySet,
    *,
    max_bytes: int = MAX_BYTES,
    backend: str | None = None,
    force: bool = False,
    workers: int | None = None,
    engine: Engine = in_threads,
    track: Track = _untracked,
    selection: Selection = Selection(),  # noqa: B008
    skip_damaged: bool = False,
    warn: Warn = _warn,
) -> Summary:
    """Decrypt what `encrypt_files` wrote, a folder or one file of it; images come out as PNG, to the pixel
    unless they were encrypted as JPEG.

    max_bytes: the most that one picture, row, member or batch may take (blockenc.datasets.reading.Reading).
    selection, skip_damaged: as with `encrypt_files`, of the files that the manifest lists; an altered file
    counts as damaged. A manifest too old to be authenticated is told to `warn`.

    Raises WrongKeyError if the manifest names another key; ManifestError if there is none, or if it was
    altered; ImageFileError for an image that is not as it was encrypted (for a JPEG file of another
    subsampling before anything is written); OSError. As with `encrypt_files`, a run that was cut off is taken
    up.
    """
    key = hide(key)
    _check_key(key)
    _check_tree_options(src, selection, skip_damaged)
    if src.is_dir():
        if stopped := journal.unfinished(src):
            raise ManifestError(
                f"{src}: encrypting into this folder is not finished ({stopped[0].name}); "
                "repeat the command that was cut off"
            )
        if not manifests(src) and (listed := manifest_of(src)):
            part = src.absolute().relative_to(listed.parent).as_posix()
            raise ManifestError(f"{src}: is a part of {listed.parent}; decrypt that, with --include {part}")
        manifest, only, root, name = read_folder(src), None, src, "blockenc"
        folder = tree_target(src, Path(dst), _ends_in_slash(dst))
    else:
        _check_file(src)
        found = find_manifest(src)
        if found is None:
            raise ManifestError(
                f"{src}: no {src.name}.json or {MANIFEST} beside it; one is needed to decrypt, unless "
                "--block-size and --steps tell the scheme"
            )
        manifest, only = found
        if only is None:
            raise ManifestError(f"{manifest.paths[0]}: does not list {src.name}")
        kind, output = BY_NAME[only.format], manifest.reading.of_output()
        folder, name = single_target(src, Path(dst), kind, output, _ends_in_slash(dst))
        root = src.parent
    manifest.authenticate(key, warn)
    reading = dataclasses.replace(manifest.reading.of_output(), max_bytes=max_bytes)
    place, real, left_out, permissions = Folder(folder), root.resolve(), LeftOut(), Permissions(root)
    if not only:
        note_unlisted(src, manifest, left_out)

    def units() -> Iterator[Unit]:
        if only:
            yield Unit(src.name, name, only.format, stamp_of(src), only, replace=force)
            return
        for item in manifest.items():
            if selection.admits(item.name):
                file = root / item.name
                if not file.is_file():
                    raise FileNotFoundError(errno.ENOENT, "listed in the manifest, and missing", str(file))
                target = BY_NAME[item.format].target(item.name, reading)
                yield Unit(item.name, target, item.format, stamp_of(file), item, replace=force)

    work = journal.work_folder(folder, name)
    resuming = place.is_file(f"{work.name}/journal")
    images, channels = 0, set[int]()
    if not only:
        _check_own_names(place, _skipped_name(MANIFEST))
        for item in manifest.items():
            if not selection.admits(item.name):
                left_out.add(EXCLUDED, item.name)
    for unit in units():  # reads the manifest through
        assert unit.expected is not None
        images += len(unit.expected.images)
        channels.update(count for picture in unit.expected.images for count in picture.ciphers)
        if not only and not selection.follow_links:
            _check_inside(real, root / unit.source)
        check_target(place, unit, resuming)
        if unit.format == IMAGE.name and not reading.coding.exact and not skip_damaged:
            pictures.check_encrypted(root / unit.source, root / unit.source, reading)
        permissions.add(unit.source)
    job = Job(
        decrypt=True,
        source=root,
        folder=folder,
        temporary=work,
        ciphers=_ciphers(key, manifest.scheme, channels, backend, manifest.per_image),
        block_size=manifest.scheme.side,
        fit=manifest.fit,
        reading=reading,
        skip_damaged=skip_damaged,
    )
    head = {"job": "decrypt", **manifest.head()}
    with journal.opened(work, head, key, folder_mode(root)) as log:

        def todo() -> Iterator[Unit]:
            for unit in units():
                if not (log.has(unit) and place.is_file(unit.target)):
                    yield unit._replace(replace=force or not resuming or unit.target in log)

        left, total = 0, 0
        for unit in todo():
            assert unit.expected is not None
            left, total = left + len(unit.expected.images), total + unit.stamp[0]
        summary = _run(job, todo(), total, log, engine, workers, track, left_out)
        if not only:
            _list_skipped(log, place, _skipped_name(MANIFEST), permissions.bits)
        log.remove()
    return summary._replace(resumed=images - left)


def _check_key(key: Key | KeySet) -> None:
    """Raise TypeError for what is no key, such as the bytes of one, which the caller has hidden."""
    if not isinstance(key, (Key, KeySet)):
        raise TypeError(f"key: expected a Key or a KeySet, got {type(reveal(key)).__name__}")


def decrypt_unlisted(
    src: Path,
    dst: Path | str,
    key: Key | KeySet,
    scheme: Scheme,
    *,
    size: tuple[int, int] | None = None,
    mode: str = "rgb",
    coding: Coding = PNG,
    max_bytes: int = MAX_BYTES,
    backend: str | None = None,
    force: bool = False,
    workers: int | None = None,
    engine: Engine = in_threads,
    track: Track = _untracked,
    selection: Selection = Selection(),  # noqa: B008
    skip_damaged: bool = False,
    warn: Warn = _warn,
) -> Summary:
    """Decrypt files that no manifest lists, by a scheme that the caller knows.

    Nothing tells whether key and scheme are those of the encryption: with others, noise comes out, without
    an error. `warn` is told so. size: width and height that every image had before it was padded; default:
    images come out as large as they are. mode, coding: those of the encryption
    (blockenc.datasets.reading.Reading). The other arguments are those of `decrypt_files`.

    Raises ValueError for JPEG files unless `coding` is theirs and the scheme leaves blocks whole, for an
    image that the block size does not divide or that is smaller than `size`, and if a manifest is there;
    ImageFileError; OSError.
    """
    key = hide(key)
    _check_key(key)
    _check_tree_options(src, selection, skip_damaged)
    if listed := manifest_of(src):
        whole = f"decrypt {listed.parent}" if src.is_dir() else "decrypt it"
        raise ValueError(f"{src}: listed in {listed}, which tells the scheme and sizes; {whole} without them")
    coding.check_scheme(scheme)
    reading = Reading(mode=mode, max_bytes=max_bytes, coding=coding).of_output()
    folder, manifest_name, single = _destination(src, dst, None, reading)
    root = src if single is None else src.parent
    name = manifest_name.removesuffix(".json")
    place = Folder(folder)
    with contextlib.closing(Units(root)) as units:
        left_out = LeftOut()
        if single:
            units.add(src.name, *single)
        else:
            left_out = units.scan(folder, selection, True, reading)
            _check_own_names(place, _skipped_name(MANIFEST))
        work = journal.work_folder(folder, name)
        resuming = place.is_file(f"{work.name}/journal")
        for unit in units:
            check_target(place, unit._replace(replace=force), resuming)
            path = root / unit.source
            if unit.source.lower().endswith((".jpg", ".jpeg")) and coding.exact:
                raise ValueError(
                    f"{path}: JPEG files do not keep encrypted pixels, unless they were encrypted for it; "
                    "give the format jpeg (--format) if it was"
                )
            if unit.format == IMAGE.name and not coding.exact:
                pictures.check_encrypted(path, path, reading)
        warn(
            f"{src}: no manifest, so that nothing tells whether the key, the block size and the steps "
            "are those of the encryption; look at what comes out"
        )
        fit = "error" if size is None else "pad"
        plain = dataclasses.replace(scheme, channels=1)
        head = {
            "job": "decrypt without a manifest",
            **Manifest(plain, key.fingerprint, fit, (), reading).head(),
            "size": size and list(size),
        }
        with journal.opened(work, head, key, folder_mode(root)) as log:
            resumed = _resumed(log, place, units, root, reading)
            damaged = _skipping(log, units, left_out) if skip_damaged else None
            channels = check_headers(root, units, scheme, "error", reading, damaged, size or (1, 1))
            job = Job(
                decrypt=True,
                source=root,
                folder=folder,
                temporary=work,
                ciphers=_ciphers(key, scheme, channels, backend),
                block_size=scheme.side,
                fit=fit,
                reading=reading,
                skip_damaged=skip_damaged,
                size=size,
            )
            todo = (unit._replace(replace=force or not resuming or unit.target in log) for unit in units)
            summary = _run(job, todo, units.size(), log, engine, workers, track, left_out)
            if not single:
                _list_skipped(log, place, _skipped_name(MANIFEST), units.permissions.bits)
            log.remove()
    return summary._replace(resumed=resumed)


def _run(
    job: Job,
    units: Iterable[Unit],
    total: int,
    log: journal.Journal,
    engine: Engine,
    workers: int | None,
    track: Track,
    left_out: LeftOut,
) -> Summary:
    """Do the units, noting each in the journal before anyone is told that it is done. total: bytes."""
    images = area = copied = metadata = without = 0

    def finished() -> Iterator[Finished]:
        for unit, result in engine(job, units, workers):
            if isinstance(result, ImageFileError):
                log.skip(unit.source, str(result))
                left_out.add(DAMAGED, unit.source)
                yield Finished(0, 0, unit.stamp[0])
                continue
            log.add(unit, result, job.reading.convert)
            yield Finished(result.images, result.pixels, unit.stamp[0])

    for one in track(finished(), total):
        images, area = images + one.images, area + one.pixels
    place = Folder(job.folder)
    for row in log.done():
        if place.is_file(os.fsdecode(row.target)):
            copied += len(row.names_copied) + (row.format == COPIED.name)
            metadata += row.metadata
            without += not row.images and row.format != COPIED.name
    return Summary(images, area, copied=copied, metadata=metadata, without=without, left_out=left_out)


def _resumed(log: journal.Journal, place: Folder, units: Units, root: Path, reading: Reading) -> int:
    """Take out the units that an earlier run has done as this one would; how many images those have.

    An output in which something was copied that this run does not let through is deleted. Before that it
    raises ManifestError for one that this run does not make again, unless it is a copy of a file that is
    still there.
    """

    def target(row: journal.Row) -> str:
        return os.fsdecode(row.target)

    def refused() -> Iterator[journal.Row]:
        for row in log.done():
            kept = _lets_through(reading, os.fsdecode(row.source), row.format, row.names_copied)
            if not kept and place.is_file(target(row)):
                yield row

    for row in refused():
        source = root / os.fsdecode(row.source)
        is_copy = row.format == COPIED.name and source.is_file()
        if row.target not in units and not (is_copy and stamp_of(source) == (row.size, row.mtime)):
            raise ManifestError(
                f"{place.path / target(row)}: unencrypted, or in part, by the --copy of a run that was cut "
                "off, and not done again by this one; give that --copy again, or remove the file"
            )
    for row in refused():
        place.remove(target(row))
    return sum(
        row.images
        for row in log.done()
        if (reading.convert or not row.converted) and place.is_file(target(row)) and units.drop(row)
    )


def _lets_through(reading: Reading, source: str, kind: str, copied: Iterable[str]) -> bool:
    """Whether all that was copied as it is, the whole file or something in it, still may be."""
    here = reading.at(source)
    return here.copies() if kind == COPIED.name else all(map(here.copies, copied))


def _tell_old_copies(old: Manifest, units: Units, reading: Reading, folder: Path, warn: Warn) -> None:
    """Tell of what a finished run has copied as it is, this run would not, and nothing replaces."""
    count, first = 0, ""
    for item in old.items():
        allowed = _lets_through(reading, item.source, item.format, item.copied)
        if not allowed and item.key not in units:
            count, first = count + 1, first or item.name
    if count:
        more = f" (and {count - 1} more)" if count > 1 else ""
        warn(f"{folder / first}{more}: unencrypted, or in part, by the --copy of an earlier run, and kept")


def _skipping(
    log: journal.Journal, units: Units, left_out: LeftOut
) -> Callable[[Unit, ImageFileError], None]:
    """Takes out a unit whose file is damaged."""

    def skip(unit: Unit, error: ImageFileError) -> None:
        log.skip(unit.source, str(error))
        left_out.add(DAMAGED, unit.source)
        units.discard(unit)

    return skip


def _skipped_name(manifest: str) -> str:
    return f"{manifest.removesuffix('.json')}.{SKIPPED}"


def _list_skipped(log: journal.Journal, place: Folder, name: str, mode: int) -> None:
    """List the damaged files that were left out; if there are none, delete the list of an earlier run."""
    if next(log.skipped(), None) is None:
        place.remove(name)
        return
    with place.atomic_file(name, within=log.folder.name, mode=mode) as file:
        for source, reason in log.skipped():
            file.write(f"{printable(source)}\t{printable(reason)}\n".encode())


def _check_own_names(place: Folder, *names: str) -> None:
    """Raise OSError if a link is where we write a file of our own, ManifestError if it is no file."""
    for name in names:
        found = place.status(name)
        if found is not None and not stat.S_ISREG(found.st_mode):
            raise ManifestError(f"{place.path / name}: is not a file, and in the way of one; remove it")


def _check_inside(real: Path, file: Path) -> None:
    """Raise OSError if a file below SRC, which is really at `real`, is reached by a link that leads out."""
    if not file.resolve().is_relative_to(real):
        raise OSError(
            errno.ELOOP, "is a link that leads out of SRC; --follow-links follows it", os.fspath(file)
        )


def _check_tree_options(src: Path, selection: Selection, skip_damaged: bool) -> None:
    if not src.is_dir() and (selection != Selection() or skip_damaged):
        raise ValueError(f"{src}: is one file; which files to take, and what to skip, goes with a folder")


def _check_file(src: Path) -> None:
    if not src.exists():
        raise FileNotFoundError(errno.ENOENT, "no such file or folder", str(src))
    if not src.is_file():
        raise ImageFileError(f"{src}: is neither a file nor a folder")


def _ends_in_slash(dst: Path | str) -> bool:
    return os.fspath(dst).endswith(tuple(filter(None, ("/", os.sep, os.altsep))))


def _check_options(fit: str, verify: str, shard: tuple[int, int] | None) -> None:
    if fit not in FITS:
        raise ValueError(f"fit: expected one of {', '.join(FITS)}, got {fit!r}")
    if verify not in VERIFY:
        raise ValueError(f"verify: expected one of {', '.join(VERIFY)}, got {verify!r}")
    if shard is not None and not 0 <= shard[0] < shard[1]:
        raise ValueError(f"shard: expected i/n with i from 0 to n - 1, got {shard[0]}/{shard[1]}")
    if shard is not None and shard[1] > MAX_SHARDS:
        raise ValueError(f"shard: expected at most {MAX_SHARDS} shards, got {shard[1]}")


def _destination(
    src: Path, dst: Path | str, shard: tuple[int, int] | None, reading: Reading
) -> tuple[Path, str, tuple[Format, str] | None]:
    """The folder to write to; the manifest's name in it; of one file, its format and the output's name."""
    slash, dst = _ends_in_slash(dst), Path(dst)
    if src.is_dir():
        return tree_target(src, dst, slash), part_name(*shard) if shard else MANIFEST, None
    _check_file(src)
    if shard is not None:
        raise ValueError(f"shard: {src} is one file; shards are parts of a folder")
    kind = format_of(src, reading.at(src.name))
    if kind is None:
        raise ImageFileError(f"{src}: not an image, or data set file, that can be encrypted")
    folder, name = single_target(src, dst, kind, reading, slash)
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

    def ours(manifest: str) -> bool:
        part = part_of(manifest)
        return part is not None and part[1] == shard[1]

    foreign = [other.name for other in there if not ours(other.name)]
    foreign += [
        name
        for name in stopped
        if name.startswith(".blockenc") and not ours(f"{name[1:].removesuffix('-run')}.json")
    ]
    if foreign:
        raise ManifestError(
            f"{folder}: {foreign[0]} is of a run without shards, or of other ones; give another DST"
        )
    return [path] if path in there else []


def _ciphers(
    key: Key | KeySet, scheme: Scheme, channels: set[int], backend: str | None, per_image: bool = False
) -> dict[int, Cipher]:
    """A cipher for each count of channels; for several, those that the block size admits."""
    ciphers = {}
    for count in sorted(channels):
        try:
            of_count = dataclasses.replace(scheme, channels=count)
            ciphers[count] = Cipher(key, of_count, per_image=per_image, backend=backend)
        except ValueError:
            if len(channels) == 1:
                raise
    return ciphers
