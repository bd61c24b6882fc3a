"""seal and verify."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import torch

from blockenc.errors import SealError
from blockenc.files import Folder
from blockenc.hidden import hide
from blockenc.keys import AnyKey
from blockenc.sealing.report import SHOWN, Difference, Kind, Report, chunks_in_words
from blockenc.sealing.seal_file import (
    MAGIC,
    MAX_HEAD,
    Head,
    SealFile,
    Tagger,
    check_chunk_bytes,
    sealing_key,
)
from blockenc.sealing.weights import BITS, Entry, SafetensorsFile, StateDict, Weights

CHUNK_BYTES = 1 << 16
# A chunk that differs is compared with other places, in case it was moved. As many comparisons take less than
# a second; where they do not suffice, what was moved is called changed.
MOST_COMPARISONS = 1 << 18
MOST_LOOKED_FOR = 4096  # chunks whose digests are kept for that

PathLike: TypeAlias = str | os.PathLike[str]


def seal(
    weights: PathLike | Mapping[str, torch.Tensor],
    key: AnyKey,
    path: PathLike | None = None,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    overwrite: bool = False,
) -> Path:
    """Write a seal of weights: keyed tags by which `verify` finds out what was changed, and where.

    weights: the path of a safetensors file, or a state_dict: tensors by name, dense, of any type but
        quantised ones, on any device but "meta".
    key: a Key, a KeySet or 32 bytes. What seals is derived from it, and used for nothing else.
    path: of the seal. Default: that of the file, with ".seal" after it; a state_dict has none.
    chunk_bytes: how finely changes are located, a multiple of 16 from 1024 to 2**26. A chunk takes 32 bytes
        of the seal.

    Returns the path of the seal. Memory is bounded by a chunk and the file's header. Raises FileExistsError
    unless `overwrite`; SealError for a file that is damaged or no safetensors file; TypeError or ValueError
    naming the argument, or the entry of the state_dict; OSError.

    The idea of tags for each part of a network, which tell which part was tampered with, is that of fragile
    watermarks; these tags stand beside the weights, which stay as they are.

    >>> from blockenc import Key
    >>> key, model = Key.generate(), torch.nn.Linear(3, 2)
    >>> seal(model.state_dict(), key, "linear.seal").name
    'linear.seal'
    >>> verify(model.state_dict(), key, "linear.seal").intact
    True
    """
    key = hide(key)
    sealer = sealing_key(key)
    check_chunk_bytes(chunk_bytes)
    target = _seal_path(weights, path)
    with _opened(weights) as found:
        if not found.entries:
            raise ValueError("weights: expected at least one tensor, got none")
        head = Head.of(found, sealer, chunk_bytes)
        encoded = head.encoded()
        if len(encoded) > MAX_HEAD:
            raise ValueError(
                f"weights: names and shapes of {len(head.entries)} tensors are too long for a seal"
            )
        tagger = Tagger(sealer, encoded)
        whole = tagger.whole()
        with Folder(target.parent).atomic_file(target.name, overwrite=overwrite) as file:

            def put(data: bytes) -> None:
                whole.update(data)
                file.write(data)

            put(MAGIC + len(encoded).to_bytes(8, "little") + encoded)
            for number, entry in enumerate(head.entries):
                for chunk, digest in enumerate(_digests(found, entry, chunk_bytes)):
                    put(tagger.tag(number, chunk, digest))
            file.write(whole.digest())
    return target


def verify(
    weights: PathLike | Mapping[str, torch.Tensor],
    key: AnyKey,
    path: PathLike | None = None,
    *,
    report: bool = False,
) -> Report:
    """Check that weights are those that were sealed; else raise SealError, which says what differs.

    weights, key, path: as for `seal`. A seal of a file fits a state_dict of the same tensors, and the other
        way round; then neither the order of the tensors nor a file's metadata can be compared, as
        `Report.unchecked` says.
    report: do not raise for weights that differ, but return the report. Only who asks for that can
        overlook the outcome.

    Returns a Report, and raises SealError with `report` unless it is intact. Raises WrongKeyError for
    another key than that of the seal; SealError without a report if the seal itself was altered, or the file
    is no safetensors file any more; OSError, such as for a seal that is not there.

    >>> from blockenc import Key
    >>> key, weights = Key.generate(), {"scale": torch.ones(4), "shift": torch.zeros(4)}
    >>> at = seal(weights, key, "layer.seal")
    >>> weights["shift"][2] += 1
    >>> print(verify(weights, key, at, report=True))
    1 difference from what was sealed: 2 tensors, 32 bytes, key ...
      changed 'shift' chunk 0 (bytes 0 to 15, elements 0 to 3)
    """
    key = hide(key)
    sealer = sealing_key(key)
    with SealFile(_seal_path(weights, path)) as sealed:
        tagger = sealed.authenticated(sealer)
        with _opened(weights) as found:
            result = _compared(found, sealed, tagger)
    if not report and not result.intact:
        name = "weights" if isinstance(weights, Mapping) else os.fspath(weights)
        raise SealError(f"{name}: {result.text(SHOWN)}", result)
    return result


def _seal_path(weights: Any, path: PathLike | None) -> Path:
    if path is not None:
        return Path(path)
    if isinstance(weights, Mapping):
        raise TypeError("path: expected the path of the seal, since a state_dict has none")
    _check_kind(weights)
    return Path(weights).with_name(Path(weights).name + ".seal")


@contextlib.contextmanager
def _opened(weights: Any) -> Iterator[Weights]:
    if isinstance(weights, Mapping):
        yield StateDict(weights)
        return
    _check_kind(weights)
    with SafetensorsFile(Path(weights)) as file:
        yield file


def _check_kind(weights: Any) -> None:
    if isinstance(weights, torch.nn.Module):
        raise TypeError("weights: expected a state_dict or a path, got a module; give its state_dict()")
    if not isinstance(weights, (str, os.PathLike)):
        raise TypeError(
            f"weights: expected a state_dict or the path of a safetensors file, got {type(weights).__name__}"
        )


def _digests(weights: Weights, entry: Entry, chunk_bytes: int) -> Iterator[bytes]:
    return (hashlib.sha256(chunk).digest() for chunk in weights.chunks(entry, chunk_bytes))


# --- comparing ---


class _Place(NamedTuple):
    """A chunk of a tensor that was sealed, by their numbers."""

    tensor: int
    chunk: int


class _Found(NamedTuple):
    """A chunk that is not what was sealed in its place, or is in a place where nothing was."""

    entry: Entry
    chunk: int
    digest: bytes  # empty where there are more of them than are looked for


def _compared(weights: Weights, sealed: SealFile, tagger: Tagger) -> Report:
    head = sealed.head
    now = {entry.name: entry for entry in weights.entries}
    then = {entry.name: entry for entry in head.entries}
    differences: list[Difference] = []
    strange: list[_Found] = []
    empty: list[_Place] = []  # places whose chunks are not there any more

    def note(entry: Entry, chunk: int, digest: bytes) -> None:
        strange.append(_Found(entry, chunk, digest if len(strange) < MOST_LOOKED_FOR else b""))

    for number, (before, count) in enumerate(zip(head.entries, head.counts())):
        entry = now.get(before.name)
        if entry is None:
            differences.append(Difference("removed", before.name, detail=f"{before}"))
            empty += (_Place(number, chunk) for chunk in range(count))
            continue
        if entry != before:
            differences.append(Difference("form", entry.name, detail=f"was {before}, is {entry}"))
        empty += (_Place(number, chunk) for chunk in range(entry.count(head.chunk_bytes), count))
        for chunk, digest in enumerate(_digests(weights, entry, head.chunk_bytes)):
            if chunk >= count or not hmac.compare_digest(
                tagger.tag(number, chunk, digest), sealed.tag(number, chunk)
            ):
                note(entry, chunk, digest)
                if chunk < count:
                    empty.append(_Place(number, chunk))
    for entry in weights.entries:
        if entry.name not in then:
            differences.append(Difference("added", entry.name, detail=f"{entry}"))
            for chunk, digest in enumerate(_digests(weights, entry, head.chunk_bytes)):
                note(entry, chunk, digest)
    origins = _origins(strange, empty, sealed, tagger)
    differences += _runs(zip(strange, origins), head)
    differences += _of_the_whole(weights, head, differences)
    same_kind = weights.source == head.source
    return Report(
        tuple(differences),
        () if same_kind else ("the order of the tensors", "the metadata and the header of the file"),
        len(head.entries),
        sum(head.counts()),
        sum(entry.size for entry in head.entries),
        head.fingerprint,
    )


def _origins(
    strange: list[_Found], empty: list[_Place], sealed: SealFile, tagger: Tagger
) -> Iterator[_Place | None]:
    """Where each chunk was sealed, if it was; places that lost their chunk are tried first."""
    counts = sealed.head.counts()
    everywhere = [_Place(n, chunk) for n, count in enumerate(counts) for chunk in range(count)]
    places = list(dict.fromkeys([*empty, *everywhere])) if len(everywhere) <= MOST_COMPARISONS else empty
    left = MOST_COMPARISONS
    last: _Place | None = None
    for found in strange:
        guess = []  # what follows the chunk before, since parts are moved as a whole
        if last is not None and last.chunk + 1 < counts[last.tensor]:
            guess.append(_Place(last.tensor, last.chunk + 1))
        last = None
        for place in (*guess, *places) if found.digest else ():
            if not left:
                break
            left -= 1
            tag = tagger.tag(place.tensor, place.chunk, found.digest)
            if hmac.compare_digest(tag, sealed.tag(place.tensor, place.chunk)):
                last = place
                break
        yield last


def _runs(chunks: Iterable[tuple[_Found, _Place | None]], head: Head) -> Iterator[Difference]:
    """Chunks that follow each other as one difference. A whole tensor that was added says so already."""
    runs: list[list[tuple[_Found, _Place | None]]] = []
    for found, origin in chunks:
        if runs:
            before, was = runs[-1][-1]
            follows = before.entry == found.entry and before.chunk + 1 == found.chunk
            if origin is None or was is None:
                follows = follows and origin is was
            else:
                follows = follows and origin == _Place(was.tensor, was.chunk + 1)
            if follows:
                runs[-1].append((found, origin))
                continue
        runs.append([(found, origin)])
    sealed = {entry.name for entry in head.entries}
    for run in runs:
        (first, origin), (last, _) = run[0], run[-1]
        if origin is None and first.entry.name not in sealed:
            continue
        yield _difference(first.entry, first.chunk, last.chunk + 1, origin, head)


def _difference(entry: Entry, first: int, behind: int, origin: _Place | None, head: Head) -> Difference:
    start, stop = first * head.chunk_bytes, min(behind * head.chunk_bytes, entry.size)
    bits = BITS[entry.dtype]
    elements = 8 * start // bits, -(-8 * stop // bits)
    detail = ""
    if origin is not None:
        name, end = head.entries[origin.tensor].name, origin.chunk + behind - first
        detail = f"sealed as {chunks_in_words(origin.chunk, end)} of {name!r}"
    kind: Kind = "changed" if origin is None else "moved"
    return Difference(kind, entry.name, (first, behind), (start, stop), elements, detail)


def _of_the_whole(weights: Weights, head: Head, so_far: list[Difference]) -> Iterator[Difference]:
    """The order of the tensors, and what a file says beside them."""
    if weights.source != head.source:
        return
    names = [entry.name for entry in head.entries], [entry.name for entry in weights.entries]
    both = set(names[0]) & set(names[1])
    then, now = ([name for name in some if name in both] for some in names)
    elsewhere = [name for name, before in zip(now, then) if name != before]
    if elsewhere:
        detail = f"{len(elsewhere)} tensors are in other places, this one first"
        yield Difference("order", elsewhere[0], detail=detail)
    before, after = head.metadata or {}, weights.metadata or {}
    for name in dict.fromkeys([*before, *after]):
        if before.get(name) != after.get(name):
            was, is_ = (f"{said[name]!r}" if name in said else "not there" for said in (before, after))
            yield Difference("metadata", detail=f"{name!r} was {was}, is {is_}")
    explained = elsewhere or before != after or any(d.kind in ("added", "removed", "form") for d in so_far)
    if weights.header != head.header and not explained:
        yield Difference("header", detail="spelled in another way, which means the same")
