"""What a key offers to the steps: a keystream for an *info*, and the numbers drawn from it.

Where images have keys of their own, there is an info for each image, and the keystreams of all are read
together, a row for each: K rows, mostly one. Nothing here knows the kinds of steps.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from blockenc.hidden import hide, reveal
from blockenc.keys import native

KEY_BYTES = 32
WORDS = 2**32  # what a word of the keystream can be
PART = 4096  # draws that are looked at together


class Keystreams(Protocol):
    """Numbers drawn from K keystreams, one after the other: each draw goes on where the one before ended."""

    def uniforms(self, bounds: np.ndarray) -> np.ndarray:
        """int64 [K, number of bounds]: each drawn uniformly from 0..bound - 1."""
        ...

    def permutations(self, count: int, length: int) -> np.ndarray:
        """int64 [K, count, length]: permutations of 0..length - 1."""
        ...

    def masks(self, length: int) -> np.ndarray:
        """bool [K, length], of each of which half are true."""
        ...


class Secret(Protocol):
    """The secret of one kind of step: a Key, or the published code's seed and password."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def derives(self) -> bool: ...

    def keystreams(self, infos: Sequence[str]) -> Keystreams: ...

    def cipher_keys(self, infos: Sequence[str], profile: str) -> list[bytes]:
        """The keys of a Feistel cipher, each hidden."""
        ...


def hkdf(key: bytes, infos: Sequence[str]) -> bytes:
    """HKDF-SHA256 (RFC 5869), no salt: subkeys of 32 bytes for all infos, one after the other, hidden."""
    key = hide(key)
    extracted = hide(hmac.digest(bytes(KEY_BYTES), reveal(key), "sha256"))
    if native.derives:
        return hide(bytes(native.extension.expand(reveal(extracted), list(infos), native.threads())))
    # A digest is as long as what is asked for, so that a single step of "expand" gives it.
    return hide(b"".join([hmac.digest(reveal(extracted), info.encode() + b"\1", "sha256") for info in infos]))


def split(subkeys: bytes) -> list[bytes]:
    """Each of the subkeys that stand one after the other, hidden."""
    subkeys = hide(subkeys)
    starts = range(0, len(reveal(subkeys)), KEY_BYTES)
    return [hide(reveal(subkeys)[start : start + KEY_BYTES]) for start in starts]


def keystreams_of(subkeys: bytes) -> Keystreams:
    """AES-256-CTR over zeros, read as little-endian uint32, under each of the subkeys, which stand one after
    the other (docs/scheme.md, "Key schedule")."""
    subkeys = hide(subkeys)
    return NativeKeystreams(subkeys) if native.derives else PythonKeystreams(subkeys)


class NativeKeystreams:
    """Drawn by the extension (csrc/keys), which shares the keystreams among threads."""

    def __init__(self, subkeys: bytes) -> None:
        self._subkeys = hide(subkeys)
        # Words of each keystream that were read.
        self._used = np.zeros(len(reveal(self._subkeys)) // KEY_BYTES, np.int64)

    def uniforms(self, bounds: np.ndarray) -> np.ndarray:
        bounds = np.ascontiguousarray(bounds, np.int64)
        drawn = np.empty((len(self._used), len(bounds)), np.int64)
        native.extension.draw_uniforms(reveal(self._subkeys), self._used, bounds, drawn, native.threads())
        return drawn

    def permutations(self, count: int, length: int) -> np.ndarray:
        drawn = np.empty((len(self._used), count, length), np.int64)
        native.extension.draw_permutations(
            reveal(self._subkeys), self._used, drawn, count, length, native.threads()
        )
        return drawn

    def masks(self, length: int) -> np.ndarray:
        return np.asarray(self.permutations(1, length)[:, 0] < length // 2)


class PythonKeystreams:
    """Drawn by Python, of which the extension's numbers are a copy."""

    def __init__(self, subkeys: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        subkeys, start = hide(subkeys), modes.CTR(bytes(16))
        self._streams = [
            Cipher(algorithms.AES(reveal(subkey)), start).encryptor() for subkey in split(subkeys)
        ]

    def _words(self, count: int) -> np.ndarray:
        zeros = bytes(4 * count)
        read = b"".join([stream.update(zeros) for stream in self._streams])
        return np.frombuffer(read, "<u4").reshape(len(self._streams), count).astype(np.int64)

    def uniforms(self, bounds: np.ndarray) -> np.ndarray:
        """Words that would bias the remainder are rejected: the next word takes their place."""
        words, limits = self._words(len(bounds)), WORDS // bounds * bounds
        for k in np.flatnonzero((words >= limits).any(axis=1)).tolist():  # few, and mostly none
            words[k] = self._accepted(k, words[k], limits)
        return np.asarray(words % bounds)

    def _accepted(self, k: int, words: np.ndarray, limits: np.ndarray) -> np.ndarray:
        """For each limit the next word of keystream k that is below it; `words` are the first to come.

        Part by part, since all words behind one that is rejected are for other draws than before.
        """
        found, done = np.empty_like(words), 0
        while done < len(limits):
            wanted = limits[done : done + PART]
            if (missing := len(wanted) - len(words)) > 0:
                more = np.frombuffer(self._streams[k].update(bytes(4 * missing)), "<u4")
                words = np.concatenate([words, more.astype(np.int64)])
            rejected = np.flatnonzero(words[: len(wanted)] >= wanted)
            count = int(rejected[0]) if rejected.size else len(wanted)
            found[done : done + count] = words[:count]
            done += count
            words = words[count + bool(rejected.size) :]
        return found

    def permutations(self, count: int, length: int) -> np.ndarray:
        """Fisher-Yates from the last position down."""
        places = np.arange(length - 1, 0, -1)
        a = np.tile(np.arange(length), (len(self._streams) * count, 1))
        draws = self.uniforms(np.tile(places + 1, count)).reshape(len(a), len(places))
        if native.extension is not None:
            native.extension.shuffle(a.ctypes.data, draws.ctypes.data, len(a), length)
        else:
            for row, drawn in zip(a, draws):
                row[:] = _shuffled(length, drawn.tolist())
        return a.reshape(len(self._streams), count, length)

    def masks(self, length: int) -> np.ndarray:
        """Exactly floor(length / 2) of each are true."""
        return np.asarray(self.permutations(1, length)[:, 0] < length // 2)


def _shuffled(length: int, draws: list[int]) -> list[int]:
    """Plain Python: swaps depend on each other, and of lists they are faster than of arrays."""
    a = list(range(length))
    for place, j in zip(range(length - 1, 0, -1), draws):
        a[place], a[j] = a[j], a[place]
    return a
