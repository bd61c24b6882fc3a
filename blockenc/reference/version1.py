"""The oracle: scheme version 1, step by step, in plain NumPy.

This file is the executable form of version 1 in ``docs/scheme.md``. It is written to be read, not to be
fast: it imports nothing of the package, shares no code with it, builds no plan, and applies the steps one
after the other. Every backend is compared with it, exactly; ``tests/vectors`` is written by it alone.

Images are arrays ``[N, H, W, C]``: uint8, uint16 (an encrypted image of the decimal profile) or a
floating dtype holding values in [0, 1]. A *block vector* is the ``L = M*M*C`` values of one block,
position ``p = (i*M + j)*C + c`` for row i, column j, channel c.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

DECIMAL_VALUES = 1000  # three decimal digits


# --- key schedule -------------------------------------------------------------------------------


def hkdf_sha256(key: bytes, info: bytes) -> bytes:
    """RFC 5869 with no salt and 32 bytes of output (one expansion round)."""
    pseudorandom_key = hmac.new(bytes(32), key, hashlib.sha256).digest()
    return hmac.new(pseudorandom_key, info + b"\x01", hashlib.sha256).digest()


def subkey(key: bytes, step: str, ordinal: int, channels: int, block_size: int) -> bytes:
    """The 32 bytes that one step of one scheme uses; `ordinal` counts earlier uses of its kind."""
    return hkdf_sha256(key, f"blockenc/1/{step}/{ordinal}/C={channels}/M={block_size}".encode())


def cipher_key(key: bytes, step: str, ordinal: int, channels: int, block_size: int) -> bytes:
    """The key of the Feistel cipher of an ffx step."""
    info = f"blockenc/1/{step}/{ordinal}/C={channels}/M={block_size}/cipher"
    return hkdf_sha256(key, info.encode())


def uniform_words(key: bytes) -> Callable[[int], int]:
    """A function uniform(n) drawing from AES-256-CTR(key) read as little-endian uint32 words."""
    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def uniform(n: int) -> int:
        limit = 2**32 // n * n
        while True:
            (word,) = struct.unpack("<I", stream.update(bytes(4)))
            if word < limit:
                return int(word % n)

    return uniform


def drawn_permutation(uniform: Callable[[int], int], length: int) -> list[int]:
    """Fisher-Yates over 0..length-1."""
    a = list(range(length))
    for i in range(length - 1, 0, -1):
        j = uniform(i + 1)
        a[i], a[j] = a[j], a[i]
    return a


def permutation(key: bytes, length: int) -> list[int]:
    """The first permutation that the keystream of `key` gives."""
    return drawn_permutation(uniform_words(key), length)


def mask(key: bytes, length: int) -> list[bool]:
    """Exactly floor(length/2) positions are selected."""
    return [value < length // 2 for value in permutation(key, length)]


# --- the two Feistel ciphers --------------------------------------------------------------------


def ff1_byte(key: bytes, value: int) -> int:
    """NIST SP 800-38G FF1, AES-256, radix 16, two numerals (high nibble first), empty tweak.

    With n = 2 the algorithm's quantities are constants: u = v = 1, b = 1, d = 8, one block of PRF.
    """
    aes = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    p = bytes([1, 2, 1, 0, 0, 16, 10, 1, 0, 0, 0, 2, 0, 0, 0, 0])
    a, b = value >> 4, value & 15
    for i in range(10):
        q = bytes(14) + bytes([i, b])
        r = aes.update(bytes(x ^ y for x, y in zip(aes.update(p), q)))
        y = int.from_bytes(r[:8], "big")
        a, b = b, (a + y) % 16
    return a << 4 | b


def ffx_decimal(password: bytes, value: int) -> int:
    """FFX over three decimal digits, 10 rounds, HMAC-SHA1: ``pyffx.Integer(password, length=3)``."""
    digits = [value // 100, value // 10 % 10, value % 10]
    a, b = digits[:1], digits[1:]
    for i in range(10):
        message = struct.pack(f"<{len(b) + 2}I", i, *b, 0)  # the last word counts digests: one is enough
        number = int(hmac.new(password, message, hashlib.sha1).hexdigest(), 16)
        c = []
        for digit in a:
            number, remainder = divmod(number, 10)
            c.append((digit + remainder) % 10)
        a, b = b, c
    hundreds, tens, units = a + b
    return 100 * hundreds + 10 * tens + units


def cipher_table(key: bytes, profile: str) -> list[int]:
    """What the values 0..255 encipher to under the profile "byte" or "decimal"."""
    encipher = {"byte": ff1_byte, "decimal": ffx_decimal}[profile]
    return [encipher(key, value) for value in range(256)]


# --- the secrets of a scheme --------------------------------------------------------------------


def secrets(
    keys: Mapping[str, bytes],
    *,
    steps: Sequence[str],
    block_size: int,
    channels: int,
    ffx: str = "byte",
) -> list[tuple]:
    """What each step needs: ("shuffle", a), ("np", b) or ("ffx", g, E) with E as a list of 256 values.

    `keys` holds the 32-byte key of each step kind; for a single key the three are equal.
    """
    length = block_size * block_size * channels
    found: list[tuple] = []
    for n, step in enumerate(steps):
        use = (step, list(steps[:n]).count(step), channels, block_size)
        step_key = subkey(keys[step], *use)
        if step == "shuffle":
            found.append((step, permutation(step_key, length)))
        elif step == "np":
            found.append((step, mask(step_key, length)))
        else:
            found.append((step, mask(step_key, length), cipher_table(cipher_key(keys[step], *use), ffx)))
    return found


# --- images to block vectors and back -----------------------------------------------------------


def to_block_vectors(x: np.ndarray, block_size: int) -> np.ndarray:
    """[N, H, W, C] to [N, H/M, W/M, M*M*C]."""
    n, h, w, c = x.shape
    m = block_size
    blocks = x.reshape(n, h // m, m, w // m, m, c).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, h // m, w // m, m * m * c)


def from_block_vectors(v: np.ndarray, block_size: int, channels: int) -> np.ndarray:
    """The inverse of `to_block_vectors`."""
    n, rows, columns, _ = v.shape
    m = block_size
    blocks = v.reshape(n, rows, columns, m, m, channels).transpose(0, 1, 3, 2, 4, 5)
    return blocks.reshape(n, rows * m, columns * m, channels)


# --- the steps ----------------------------------------------------------------------------------


def round_to(v: np.ndarray, dtype: str) -> np.ndarray:
    """float32 values rounded (to nearest, ties to even) to what `dtype` can hold, as float32."""
    if dtype == "bfloat16":
        bits = v.astype(np.float32).view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32)
        return np.where(np.isnan(v), np.float32(np.nan), rounded.view(np.float32))
    with np.errstate(over="ignore"):
        return v.astype(dtype).astype(np.float32)


def clamped(v: np.ndarray) -> np.ndarray:
    """float32 values limited to [0, 1]; NaN gives 0."""
    limited: np.ndarray = np.clip(np.nan_to_num(v, nan=0.0), np.float32(0), np.float32(1))
    return limited


def negative_of_floats(v: np.ndarray, dtype: str) -> np.ndarray:
    """np of float images: 1 - v; but where v is a byte, k/255 rounded to `dtype`, the byte (255 - k)/255."""
    k = np.rint(clamped(v) * np.float32(255))
    is_byte = round_to(k / np.float32(255), dtype) == v
    of_byte = round_to((np.float32(255) - k) / np.float32(255), dtype)
    return np.where(is_byte, of_byte, round_to(np.float32(1) - v, dtype))


def negative(v: np.ndarray, dtype: str, published: bool) -> np.ndarray:
    """np of every value, integers or floats of `dtype`; `published`: of floats always 1 - v."""
    if v.dtype.kind == "i":
        return 255 - v
    return round_to(np.float32(1) - v, dtype) if published else negative_of_floats(v, dtype)


def nearest_integers(v: np.ndarray, scale: int) -> np.ndarray:
    """The integers nearest to clamp(v, 0, 1) * scale, ties to even."""
    return np.rint(clamped(v) * np.float32(scale)).astype(np.int64)


def truncated_integers(v: np.ndarray) -> np.ndarray:
    """trunc(clamp(v, 0, 1) * 255), as the published code makes integers of floats."""
    return np.trunc(clamped(v) * np.float32(255)).astype(np.int64)


def enciphered(v: np.ndarray, selected: np.ndarray, table: np.ndarray) -> np.ndarray:
    """E of the integers 0..255 at the selected positions."""
    values: np.ndarray = np.where(selected, table[v], v)
    return values


def deciphered(v: np.ndarray, selected: np.ndarray, table: np.ndarray, profile: str) -> np.ndarray:
    """The inverse of `enciphered`, into 0..255 whatever the values are.

    Values that no image value enciphers to (a wrong key, a damaged image) decrypt to 255.
    """
    inverse = np.full(DECIMAL_VALUES if profile == "decimal" else 256, 255)
    inverse[table] = np.arange(256)
    v = np.minimum(v, len(inverse) - 1)
    values: np.ndarray = np.where(selected, inverse[v], np.minimum(v, 255))
    return values


def run(
    x: np.ndarray,
    secrets: Sequence[tuple],
    *,
    block_size: int,
    decrypt: bool = False,
    ffx: str = "byte",
    dtype: str = "uint8",
) -> tuple[np.ndarray, int]:
    """Apply the steps (their inverses in reverse order if `decrypt`) to images [N, H, W, C].

    `dtype` is the value type of the images: "uint8", "uint16" (the raw decimal form) or a float type,
    whose values come as float32. Returns the values and their scale: integers in 0..scale, or float32
    values of the float type, scale 1.

    Where there is an ffx step, a float image becomes integers first: the nearest ones to
    clamp(v, 0, 1) * scale (scale = 255; the decimal m when decrypting), so that the floats k/255 are the
    bytes k. Under the decimal profile it is as published instead: np is 1 - v, and when encrypting, floats
    become integers at the first ffx step they meet, as trunc(clamp(v, 0, 1) * 255).
    """
    channels = x.shape[3]
    enciphered_max = 255
    for step, *secret in secrets:
        if step == "ffx" and ffx == "decimal":
            enciphered_max = max(secret[1])

    integers = dtype in ("uint8", "uint16")
    v: Any = to_block_vectors(x, block_size).astype(np.int64 if integers else np.float32)
    scale = enciphered_max if decrypt else 255
    quantises = any(step == "ffx" for step, *_ in secrets)
    published = ffx == "decimal" and not decrypt
    if quantises and not published and not integers:
        v, integers = nearest_integers(v, scale), True
    for step, *secret in reversed(secrets) if decrypt else secrets:
        if step == "shuffle":
            a = np.array(secret[0])
            v = v[..., np.argsort(a)] if decrypt else v[..., a]
        elif step == "np":
            v = np.where(np.array(secret[0]), negative(v, dtype, published=ffx == "decimal"), v)
        else:
            g, table = np.array(secret[0]), np.array(secret[1])
            if not integers:
                v, integers = truncated_integers(v), True
            if decrypt:
                v, scale = deciphered(v, g, table, ffx), 255
            else:
                v, scale = enciphered(v, g, table), enciphered_max
    return from_block_vectors(v, block_size, channels), scale if integers else 1


def output(
    v: np.ndarray,
    scale: int | np.ndarray,
    dtype: str,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> np.ndarray:
    """The output stage: (v/scale - mean[c])/std[c], each operation rounded to float32, then `dtype`."""
    f: Any = v.astype(np.float32) / np.asarray(scale, np.float32)
    if mean is not None and std is not None:
        f = (f - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return round_to(f, dtype)
