"""FF1 against NIST's sample vectors; the decimal FFX against pyffx; both against the oracle."""

from __future__ import annotations

import string
from itertools import product

import pyffx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockenc.feistel import ffx_decimal
from blockenc.feistel.ff1 import FF1, byte_tables
from blockenc.reference import version1

ALPHABET = string.digits + string.ascii_lowercase
KEY_128 = "2B7E151628AED2A6ABF7158809CF4F3C"
KEY_192 = KEY_128 + "EF4359D8D580AA4F"
KEY_256 = KEY_192 + "7F036D6F04FC6A94"
TWEAK_10, TWEAK_36 = "39383736353433323130", "3737373770717273373737"
DIGITS, LETTERS = "0123456789", "0123456789abcdefghi"
# NIST, "FF1 samples", for SP 800-38G: key, radix, tweak, plaintext, ciphertext.
NIST_FF1 = [
    (KEY_128, 10, "", DIGITS, "2433477484"),
    (KEY_128, 10, TWEAK_10, DIGITS, "6124200773"),
    (KEY_128, 36, TWEAK_36, LETTERS, "a9tv40mll9kdu509eum"),
    (KEY_192, 10, "", DIGITS, "2830668132"),
    (KEY_192, 10, TWEAK_10, DIGITS, "2496655549"),
    (KEY_192, 36, TWEAK_36, LETTERS, "xbj3kv35jrawxv32ysr"),
    (KEY_256, 10, "", DIGITS, "6657667009"),
    (KEY_256, 10, TWEAK_10, DIGITS, "1001623463"),
    (KEY_256, 36, TWEAK_36, LETTERS, "xs8a0azh2avyalyzuwd"),
]


@pytest.mark.parametrize("key, radix, tweak, plain, cipher", NIST_FF1)
def test_nist_samples(key: str, radix: int, tweak: str, plain: str, cipher: str) -> None:
    ff1 = FF1(bytes.fromhex(key), radix)
    numerals = [ALPHABET.index(letter) for letter in plain]
    enciphered = ff1.encrypt(numerals, bytes.fromhex(tweak))
    assert "".join(ALPHABET[numeral] for numeral in enciphered) == cipher
    assert ff1.decrypt(enciphered, bytes.fromhex(tweak)) == numerals


@settings(max_examples=100, deadline=None)
@given(data=st.data(), radix=st.integers(10, 2**16), length=st.integers(2, 40), tweak=st.binary(max_size=40))
def test_ff1_inverts(data: st.DataObject, radix: int, length: int, tweak: bytes) -> None:
    numerals = data.draw(st.lists(st.integers(0, radix - 1), min_size=length, max_size=length))
    ff1 = FF1(bytes(32), radix)
    assert ff1.decrypt(ff1.encrypt(numerals, tweak), tweak) == numerals


@pytest.mark.parametrize(
    "key, radix, numerals",
    [
        (bytes(15), 10, None),
        (bytes(16), 1, None),
        (bytes(16), 2**16 + 1, None),
        (bytes(16), 10, [1]),
        (bytes(16), 3, [1, 2, 0, 1]),
        (bytes(16), 10, [1, 10]),
        (bytes(16), 10, [1, -1]),
    ],
)
def test_ff1_bounds(key: bytes, radix: int, numerals: list[int] | None) -> None:
    with pytest.raises(ValueError, match=r"^(key|radix|numerals): "):
        FF1(key, radix).encrypt(numerals or [1, 2])


def test_byte_tables_are_the_oracles_permutations() -> None:
    keys = [bytes(32), bytes(range(32)), b"\xff" * 32]
    for key, table in zip(keys, byte_tables(keys).tolist()):
        assert table == [version1.ff1_byte(key, value) for value in range(256)]
        assert table == [
            16 * high + low for high, low in map(FF1(key, 16).encrypt, product(range(16), range(16)))
        ]
        assert sorted(table) == list(range(256))


@pytest.mark.parametrize("password", [b"password", b"", b"x" * 100, "pässwörd".encode(), bytes(range(32))])
def test_decimal_is_pyffx(password: bytes) -> None:
    theirs = pyffx.Integer(password, length=3)
    for value in range(256):
        assert ffx_decimal.encrypt(password, value) == theirs.encrypt(value)
        assert version1.ffx_decimal(password, value) == theirs.encrypt(value)
    for value in range(1000):
        assert ffx_decimal.decrypt(password, value) == theirs.decrypt(value)
        assert ffx_decimal.encrypt(password, ffx_decimal.decrypt(password, value)) == value
