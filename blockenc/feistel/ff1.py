"""FF1, the format-preserving Feistel mode of NIST SP 800-38G, for any radix, length and tweak."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from blockenc.hidden import hide, reveal
from blockenc.keys import native

ROUNDS = 10
BYTE_RADIX = 16  # of the byte profile: a byte is two hexadecimal numerals
MAX_RADIX = 2**16


class FF1:
    """FF1 with AES (SP 800-38G, algorithms 7 and 8).

    key: 16, 24 or 32 bytes. radix: 2..65536. Numeral strings are sequences of ints below the radix,
    most significant first. Raises ValueError where a length or numeral is outside the standard's
    bounds (domain of at least 100 values; the 2019 draft revision asks for a million, which single
    pixel values cannot reach).
    """

    def __init__(self, key: bytes, radix: int) -> None:
        key = hide(key)
        if not 2 <= radix <= MAX_RADIX:
            raise ValueError(f"radix: expected 2..{MAX_RADIX}, got {radix}")
        if len(reveal(key)) not in (16, 24, 32):
            raise ValueError(f"key: AES takes 16, 24 or 32 bytes, got {len(reveal(key))}")
        self.radix = radix
        self._encrypt_blocks = _aes(key)
        # Room for a sequence of calls on short strings to share rounds.
        self._round = functools.lru_cache(maxsize=4096)(self._round_value)

    def encrypt(self, numerals: Sequence[int], tweak: bytes = b"") -> list[int]:
        return self._feistel(numerals, tweak, range(ROUNDS), decrypt=False)

    def decrypt(self, numerals: Sequence[int], tweak: bytes = b"") -> list[int]:
        return self._feistel(numerals, tweak, reversed(range(ROUNDS)), decrypt=True)

    def _feistel(
        self, numerals: Sequence[int], tweak: bytes, rounds: Iterable[int], decrypt: bool
    ) -> list[int]:
        n = len(numerals)
        if n < 2 or self.radix**n < 100:
            raise ValueError(f"numerals: the domain {self.radix}^{n} is below SP 800-38G's 100 values")
        if any(not 0 <= numeral < self.radix for numeral in numerals):
            raise ValueError(f"numerals: expected values in 0..{self.radix - 1}")
        u = n // 2
        lengths = (u, n - u)
        a, b = self._number(numerals[:u]), self._number(numerals[u:])
        for i in rounds:
            # m, the length of the half that changes, alternates with the round (step 6.v).
            modulus = self.radix ** lengths[i % 2]
            if decrypt:
                a, b = (b - self._round(i, a, n, tweak)) % modulus, a
            else:
                a, b = b, (a + self._round(i, b, n, tweak)) % modulus
        return self._numerals(a, lengths[0]) + self._numerals(b, lengths[1])

    def _round_value(self, i: int, half: int, n: int, tweak: bytes) -> int:
        """Steps 6.i to 6.iv: the number y that round i adds to one half given the other."""
        u = n // 2
        v = n - u
        # b bytes hold v numerals: ceil(ceil(v * log2(radix)) / 8), in exact integer arithmetic.
        b = ((self.radix**v - 1).bit_length() + 7) // 8
        d = 4 * ((b + 3) // 4) + 4
        p = bytes([1, 2, 1]) + self.radix.to_bytes(3, "big") + bytes([10, u % 256])
        p += n.to_bytes(4, "big") + len(tweak).to_bytes(4, "big")
        q = tweak + bytes((-len(tweak) - b - 1) % 16) + bytes([i]) + half.to_bytes(b, "big")
        r = self._prf(p + q)
        s = r
        for j in range(1, (d + 15) // 16):
            s += self._encrypt_blocks(_xor(r, j.to_bytes(16, "big")))
        return int.from_bytes(s[:d], "big")

    def _prf(self, data: bytes) -> bytes:
        """CBC-MAC (algorithm 6)."""
        mac = bytes(16)
        for start in range(0, len(data), 16):
            mac = self._encrypt_blocks(_xor(mac, data[start : start + 16]))
        return mac

    def _number(self, numerals: Sequence[int]) -> int:
        value = 0
        for numeral in numerals:
            value = value * self.radix + numeral
        return value

    def _numerals(self, value: int, length: int) -> list[int]:
        numerals = [0] * length
        for position in reversed(range(length)):
            value, numerals[position] = divmod(value, self.radix)
        return numerals


def _xor(x: bytes, y: bytes) -> bytes:
    return (int.from_bytes(x, "big") ^ int.from_bytes(y, "big")).to_bytes(16, "big")


def _aes(key: bytes) -> Callable[[bytes], bytes]:
    """AES of blocks of 16 bytes, each on its own."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = hide(key)
    return Cipher(algorithms.AES(reveal(key)), modes.ECB()).encryptor().update


def byte_tables(keys: Sequence[bytes]) -> np.ndarray:
    """The `byte` profile: FF1 on two hexadecimal numerals, as uint16 [keys, 256], permutations of 0..255.

    keys: 32 bytes each.
    """
    keys = list(map(hide, keys))
    if not native.derives:
        return _byte_tables(keys)
    tables = np.empty((len(keys), BYTE_RADIX**2), np.uint16)
    native.extension.make_byte_tables(b"".join([reveal(key) for key in keys]), tables, native.threads())
    return tables


def _byte_tables(keys: Sequence[bytes]) -> np.ndarray:
    """The same in Python.

    All values of all keys at once. A half is one numeral, of which there are 16, so that all rounds together
    ask for 160 numbers y: the CBC-MAC of the block P and a block Q, which ends in the round and the half.
    """
    p = bytes([1, 2, 1, 0, 0, BYTE_RADIX, 10, 1, 0, 0, 0, 2, 0, 0, 0, 0])
    q = np.zeros((ROUNDS, BYTE_RADIX, 16), np.uint8)
    q[:, :, 14] = np.arange(ROUNDS)[:, None]
    q[:, :, 15] = np.arange(BYTE_RADIX)
    y = np.empty((ROUNDS, len(keys), BYTE_RADIX), np.uint8)
    for k, key in enumerate(map(hide, keys)):
        encrypt = _aes(key)
        answers = encrypt((q ^ np.frombuffer(encrypt(p), np.uint8)).tobytes())
        # y is the number in the first 8 bytes of an answer; its remainder is that of the last one.
        y[:, k] = np.frombuffer(answers, np.uint8).reshape(ROUNDS, BYTE_RADIX, 16)[:, :, 7]
    of_key = np.arange(len(keys))[:, None] * BYTE_RADIX  # where the numbers of a key begin in a round's
    high, low = divmod(np.arange(BYTE_RADIX**2)[None], BYTE_RADIX)
    for numbers in y.reshape(ROUNDS, -1):
        high, low = low, (high + numbers[of_key + low]) % BYTE_RADIX
    return (high * BYTE_RADIX + low).astype(np.uint16)
