"""Bytes changed a little: as bytes, as numbers, and as the tokens of JSON."""

from __future__ import annotations

import json
import random
import re
import struct

TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?|true|false|null|[\[\]{}:,\n]')
PUNCTUATION = (b"[", b"]", b"{", b"}", b":", b",", b"\n")
NUMBERS = (-1, 0, 1, 2, 3, 4, 7, 8, 9, 16, 255, 256, 999, 1000, 65535, 65536, 2**31 - 1, 2**31, 2**32, 2**63)
LITTLE = tuple(n for n in NUMBERS if n < 2**31)
JSON = [b"null", b"true", b"[]", b"{}", b'""', b"NaN", b"Infinity", b"-0", b"1.0", b"1e400", b"[null]"]
JSON += [str(n).encode() for n in NUMBERS] + [
    b"9" * 5000,
    b"-" + b"9" * 400,
    b"[" * 50_000,
    b'{"a":' * 20_000,
]
JSON += [
    json.dumps(text).encode() for text in ("a", "..", "/", "\0", "\ud800", "é", "image", "block", "0" * 64)
]
MOST = 1 << 17  # bytes


def mutate(data: bytes, corpus: list[bytes], draw: random.Random) -> bytes:
    """One to four changes; of the bytes of two files in some cases."""
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        data = draw.choice(CHANGES)(data, corpus, draw)
    return data[:MOST]


def _bytes(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    changed = bytearray(data or b"\0")
    for _number in range(draw.choice((1, 1, 3, 16))):
        changed[draw.randrange(len(changed))] = draw.choice((0, 1, 127, 128, 255, draw.randrange(256)))
    return bytes(changed)


def _number(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    """A little-endian number, at a place that such numbers have."""
    form = draw.choice("hiiiqf")
    size = struct.calcsize(form)
    if len(data) < size:
        return data
    end = min(len(data), draw.choice((128, len(data))))
    at = draw.randrange(max(end // size, 1)) * size
    if at + size > len(data):
        return data
    value = draw.choice(LITTLE) if form in "iq" else draw.choice((-1, 0, 1, 255, 256, 999))
    if form == "f":
        value = draw.choice((float("nan"), float("inf"), -1.0, 1e-45, 255.5, 0.0))
    elif draw.random() < 0.4:  # near what it was
        was = struct.unpack_from("<" + form, data, at)[0]
        value = max(-(2 ** (8 * size - 1)), min(was + draw.choice((-1, 1)), 2 ** (8 * size - 1) - 1))
    return data[:at] + struct.pack("<" + form, value) + data[at + size :]


def _cut(data: bytes, _: list[bytes], draw: random.Random) -> bytes:
    start, stop = sorted(draw.randrange(len(data) + 1) for _number in range(2))
    return draw.choice((data[:start], data[:start] + data[stop:], data[:stop] + data[start:]))


def _splice(data: bytes, corpus: list[bytes], draw: random.Random) -> bytes:
    other = draw.choice(corpus)
    return data[: draw.randrange(len(data) + 1)] + other[draw.randrange(len(other) + 1) :]


def _token(data: bytes, corpus: list[bytes], draw: random.Random) -> bytes:
    """A token of JSON becomes another one, comes twice, or goes."""
    tokens = list(TOKEN.finditer(data))
    if not tokens:
        return _bytes(data, corpus, draw)
    if draw.random() < 0.8:  # a value, so that what comes out is JSON again
        tokens = [token for token in tokens if token[0] not in PUNCTUATION] or tokens
    token = draw.choice(tokens)
    others = list(TOKEN.finditer(draw.choice(corpus))) or tokens
    new = draw.choice((draw.choice(JSON), draw.choice(JSON), draw.choice(others)[0], b"", 2 * token[0]))
    return data[: token.start()] + new + data[token.end() :]


CHANGES = (_bytes, _number, _number, _cut, _splice, _token, _token, _token)
