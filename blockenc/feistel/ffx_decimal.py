"""The papers' own cipher: the FFX of PyPI's pyffx 0.3.0, ``Integer(password, length=3)``.

Three decimal digits, ten rounds, HMAC-SHA1: a permutation of 0..999 (Bellare, Rogaway & Spies, "The
FFX mode of operation for format-preserving encryption", 2010, in pyffx's reading).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence

import numpy as np

from blockenc.hidden import hide, reveal

DIGITS = 3
VALUES = 10**DIGITS
ROUNDS = 10


def _round(password: bytes, i: int, half: list[int]) -> list[int]:
    """DIGITS pseudorandom digits. The trailing word counts digests; one yields more than enough."""
    message = struct.pack(f"<{len(half) + 2}I", i, *half, 0)
    number = int.from_bytes(hmac.digest(reveal(password), message, hashlib.sha1), "big")
    return [number // 10**k % 10 for k in range(DIGITS)]


def _split(value: int) -> tuple[list[int], list[int]]:
    if not 0 <= value < VALUES:
        raise ValueError(f"value: expected 0..{VALUES - 1}, got {value}")
    return [value // 100], [value // 10 % 10, value % 10]


def _join(a: list[int], b: list[int]) -> int:
    hundreds, tens, units = a + b
    return 100 * hundreds + 10 * tens + units


def encrypt(password: bytes, value: int) -> int:
    password = hide(password)
    a, b = _split(value)
    for i in range(ROUNDS):
        a, b = b, [(x + y) % 10 for x, y in zip(a, _round(password, i, b))]
    return _join(a, b)


def decrypt(password: bytes, value: int) -> int:
    password = hide(password)
    a, b = _split(value)
    for i in reversed(range(ROUNDS)):
        a, b = [(x - y) % 10 for x, y in zip(b, _round(password, i, a))], a
    return _join(a, b)


def decimal_tables(passwords: Sequence[bytes]) -> np.ndarray:
    """The `decimal` profile: what 0..255 encipher to, as uint16 [passwords, 256] with values in 0..999."""
    hidden = list(map(hide, passwords))
    return np.array([[encrypt(password, value) for value in range(256)] for password in hidden], np.uint16)
