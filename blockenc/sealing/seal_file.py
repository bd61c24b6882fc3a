"""Seal files.

    magic    "blockenc-seal" and a line feed
    length   of the head, 8 bytes, little-endian
    head     canonical JSON: which key, how large chunks are, and of the weights the names, types, shapes, the
             order, the metadata and the digest of the header; with a nonce of 16 bytes
    tags     32 bytes for each chunk, tensor by tensor
    tag      32 bytes, of all the bytes before it

Both kinds of tags are HMAC-SHA256, each under a subkey of its own. That of a chunk is over

    SHA-256(head) || number of the tensor || number of the chunk || SHA-256(bytes of the chunk)

with numbers of 8 bytes, little-endian. So a tag fits one chunk of one tensor in one seal, and no other place.
Tags are never all in memory: the seal is authenticated in one pass, and its tags are then read where they are
needed. Who changes the file in between can only make tags that do not fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import hmac
import itertools
import json
import os
import re
import secrets
from pathlib import Path
from typing import Any, BinaryIO

from blockenc.errors import SealError, WrongKeyError
from blockenc.hidden import hide, reveal
from blockenc.keys import AnyKey, as_key
from blockenc.keys.key import AnySecret
from blockenc.sealing.weights import MAX_HEADER, Entry, Weights, check_metadata, open_regular

MAGIC = b"blockenc-seal\n"
FORMAT_VERSION = 1
TAG_BYTES = 32
MAX_HEAD = MAX_HEADER + 4096  # what it says of tensors is shorter than what a safetensors header says
SMALLEST_CHUNK, LARGEST_CHUNK = 1 << 10, 1 << 26
ALIGNMENT = 16  # bytes of the largest value, so that chunks are of whole values
CHUNK_INFO, WHOLE_INFO = "blockenc/seal/chunk", "blockenc/seal/whole"  # name the subkeys


@dataclasses.dataclass(frozen=True)
class Head:
    """What a seal says beside its tags. The last four fields are those of `Weights`."""

    fingerprint: str
    nonce: str
    chunk_bytes: int
    source: str
    entries: tuple[Entry, ...]
    metadata: dict[str, str] | None
    header: str | None

    @classmethod
    def of(cls, weights: Weights, key: AnySecret, chunk_bytes: int) -> Head:
        nonce = secrets.token_hex(16)
        what = (weights.source, weights.entries, weights.metadata, weights.header)
        return cls(key.fingerprint, nonce, chunk_bytes, *what)

    def encoded(self) -> bytes:
        fields = {"format": "blockenc-seal", "version": FORMAT_VERSION, **dataclasses.asdict(self)}
        fields["entries"] = [[entry.name, entry.dtype, list(entry.shape)] for entry in self.entries]
        return json.dumps(fields, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def parsed(cls, data: bytes) -> Head:
        """Raises ValueError that says what is wrong."""
        try:
            fields = json.loads(data.decode())
        except (ValueError, RecursionError):
            raise ValueError("its head is not JSON") from None
        if not isinstance(fields, dict) or fields.pop("format", None) != "blockenc-seal":
            raise ValueError("its head is that of no seal")
        version = fields.pop("version", None)
        if version != FORMAT_VERSION:
            raise ValueError(f"version {str(version)[:20]}; this release reads version {FORMAT_VERSION}")
        if set(fields) != {field.name for field in dataclasses.fields(cls)}:
            raise ValueError("a field is missing, or unknown")
        try:
            fields["entries"] = tuple(
                Entry(name, dtype, tuple(shape)).check() for name, dtype, shape in fields["entries"]
            )
            head = cls(**fields)
            head._check()
            same = head.encoded() == data  # so a name that is there twice, or a space more, is refused
        except (AttributeError, TypeError, ValueError):
            raise ValueError("a field is malformed") from None
        if not same:
            raise ValueError("its head is not in the canonical form")
        return head

    def _check(self) -> None:
        of_file = self.source == "file"
        if of_file:
            check_metadata(self.metadata)
        if (
            self.source not in ("file", "state_dict")
            or (of_file and not re.fullmatch("[0-9a-f]{64}", self.header or ""))
            or (not of_file and (self.metadata is not None or self.header is not None))
            or not re.fullmatch("[0-9a-f]{16}", self.fingerprint)
            or not re.fullmatch("[0-9a-f]{32}", self.nonce)
            or len({entry.name for entry in self.entries}) != len(self.entries)
        ):
            raise ValueError
        check_chunk_bytes(self.chunk_bytes)

    def counts(self) -> list[int]:
        """The chunks of each tensor."""
        return [entry.count(self.chunk_bytes) for entry in self.entries]


def check_chunk_bytes(chunk_bytes: Any) -> None:
    """Raises TypeError or ValueError unless chunks may have so many bytes."""
    if type(chunk_bytes) is not int:
        raise TypeError(f"chunk_bytes: expected an int, got {type(chunk_bytes).__name__}")
    if not SMALLEST_CHUNK <= chunk_bytes <= LARGEST_CHUNK or chunk_bytes % ALIGNMENT:
        raise ValueError(
            f"chunk_bytes: expected a multiple of {ALIGNMENT} from {SMALLEST_CHUNK} to {LARGEST_CHUNK}, got "
            f"{chunk_bytes}"
        )


def sealing_key(key: AnyKey) -> AnySecret:
    """The key, if it is secret enough to seal with. Raises TypeError or ValueError."""
    key = hide(key)
    found = as_key(key)
    if not found.derives:
        raise ValueError(
            "key: seals need a Key, a KeySet or 32 bytes; an ExplicitKey, or the published code's keys "
            "(KeySet.from_seed), may be known to others, or few enough to be tried"
        )
    return found


class Tagger:
    """Makes the tags of one seal."""

    def __init__(self, key: AnySecret, head: bytes) -> None:
        self._chunk_key, self._whole_key = (hide(key.mac_key(info)) for info in (CHUNK_INFO, WHOLE_INFO))
        self._context = hashlib.sha256(head).digest()

    def tag(self, tensor: int, chunk: int, digest: bytes) -> bytes:
        """Of a chunk. tensor, chunk: numbers from 0. digest: SHA-256 of its bytes."""
        place = tensor.to_bytes(8, "little") + chunk.to_bytes(8, "little")
        return hmac.digest(reveal(self._chunk_key), self._context + place + digest, "sha256")

    def whole(self) -> hmac.HMAC:
        """A tag to be updated with a seal's bytes."""
        return hmac.new(reveal(self._whole_key), digestmod="sha256")


class SealFile:
    """An open seal file, whose head is checked, but not authenticated yet. Use it in a `with` statement.

    Raises SealError for a file that is not one, or is damaged; OSError.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO = open_regular(path)
        try:
            size = os.fstat(self._file.fileno()).st_size
            if self._file.read(len(MAGIC)) != MAGIC:
                raise SealError(f"{path}: not a blockenc seal, or a damaged one")
            length = int.from_bytes(self._file.read(8), "little")
            if length > min(size, MAX_HEAD):
                raise SealError(
                    f"{path}: damaged seal (its head is cut off, or longer than {MAX_HEAD} bytes)"
                )
            self.head_bytes = self._file.read(length)
            try:
                self.head = Head.parsed(self.head_bytes)
            except ValueError as error:
                raise SealError(f"{path}: damaged seal ({error})") from None
            self._start = len(MAGIC) + 8 + length
            *self._first, total = itertools.accumulate(self.head.counts(), initial=0)
            self._end = self._start + total * TAG_BYTES
            if size != self._end + TAG_BYTES:
                raise SealError(
                    f"{path}: damaged seal ({size} bytes, where its head asks for {self._end + 32})"
                )
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> SealFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def authenticated(self, key: AnySecret) -> Tagger:
        """What checks its tags. Raises WrongKeyError; SealError if the seal was altered."""
        if self.head.fingerprint != key.fingerprint:
            raise WrongKeyError(
                f"{self.path}: sealed with the key {self.head.fingerprint}, the key given is "
                f"{key.fingerprint}"
            )
        tagger = Tagger(key, self.head_bytes)
        whole = tagger.whole()
        self._file.seek(0)
        left = self._end
        while left and (block := self._file.read(min(left, 1 << 20))):
            whole.update(block)
            left -= len(block)
        if left or not hmac.compare_digest(self._file.read(TAG_BYTES), whole.digest()):
            raise SealError(f"{self.path}: the seal itself was altered (its tag is not that of what it says)")
        return tagger

    def tag(self, tensor: int, chunk: int) -> bytes:
        """The tag of a chunk, as it was sealed."""
        self._file.seek(self._start + (self._first[tensor] + chunk) * TAG_BYTES)
        return self._file.read(TAG_BYTES)
