"""What a key offers to the steps: a keystream for an *info*, and the numbers drawn from it.

Nothing here, nor anywhere in this package, knows the kinds of steps.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from blockenc.hidden import hide, reveal

try:
    from blockenc import _native  # type: ignore[attr-defined]
except ImportError:  # then Python does it, more slowly
    _native = None  # type: ignore[assignment]

KEY_BYTES = 32
WORDS = 2**32  # what a word of the keystream can be


class Keystream(Protocol):
    """Numbers drawn from a secret, one after the other: each draw goes on where the one before ended."""

    def uniforms(self, bounds: np.ndarray) -> np.ndarray:
        """int64, as many as `bounds`: each drawn uniformly from 0..bound - 1."""
        ...

    def permutations(self, count: int, length: int) -> np.ndarray:
        """int64 [count, length]: permutations of 0..length - 1."""
        ...

    def mask(self, length: int) -> np.ndarray:
        """bool [length], of which half are true."""
        ...


class Secret(Protocol):
    """The secret of one kind of step: a Key, or the published code's seed and password."""

    @property
    def fingerprint(self) -> str: ...

    def keystream(self, info: str) -> Keystream: ...

    def cipher_key(self, info: str, profile: str) -> bytes:
        """The key of a Feistel cipher, hidden."""
        ...


def hkdf(key: bytes, info: str) -> bytes:
    """HKDF-SHA256 (RFC 5869), no salt, 32 bytes."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    key = hide(key)
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info.encode()).derive(reveal(key))


class AesKeystream:
    """AES-256-CTR over zeros, read as little-endian uint32 (docs/scheme.md, "Key schedule")."""

    def __init__(self, subkey: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        subkey = hide(subkey)
        self._stream = Cipher(algorithms.AES(reveal(subkey)), modes.CTR(bytes(16))).encryptor()

    def _words(self, count: int) -> np.ndarray:
        return np.frombuffer(self._stream.update(bytes(4 * count)), "<u4").astype(np.int64)

    def uniforms(self, bounds: np.ndarray) -> np.ndarray:
        """Words that would bias the remainder are rejected: the next word takes their place."""
        words, limits = self._words(len(bounds)), WORDS // bounds * bounds
        first = 0
        while (rejected := np.flatnonzero(words[first:] >= limits[first:])).size:
            first += int(rejected[0])
            words = np.concatenate([words[:first], words[first + 1 :], self._words(1)])
        return np.asarray(words % bounds)

    def permutations(self, count: int, length: int) -> np.ndarray:
        """Fisher-Yates from the last position down."""
        places = np.arange(length - 1, 0, -1)
        draws = self.uniforms(np.tile(places + 1, count)).reshape(count, len(places))
        a = np.tile(np.arange(length), (count, 1))
        if _native is not None:
            _native.shuffle(a.ctypes.data, draws.ctypes.data, count, length)
            return a
        for row, drawn in zip(a, draws):
            row[:] = _shuffled(length, drawn.tolist())
        return a

    def mask(self, length: int) -> np.ndarray:
        """Exactly floor(length / 2) are true."""
        return np.asarray(self.permutations(1, length)[0] < length // 2)


def _shuffled(length: int, draws: list[int]) -> list[int]:
    """Plain Python: swaps depend on each other, and of lists they are faster than of arrays."""
    a = list(range(length))
    for place, j in zip(range(length - 1, 0, -1), draws):
        a[place], a[j] = a[j], a[place]
    return a
