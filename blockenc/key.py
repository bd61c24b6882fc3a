"""Secrets: keys, key sets, and the key schedule that turns them into what a step needs.

Key bytes appear in no repr, exception, log or pickle. What leaves this module is the permutation, mask
or table of one step.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from blockenc.cipher import Cipher

KEY_BYTES = 32


class StepUse(NamedTuple):
    """Where a step stands: what the key schedule binds a step's secret to."""

    step: str
    ordinal: int  # earlier uses of the same step kind in the scheme
    channels: int
    block_size: int

    @property
    def length(self) -> int:
        return self.block_size * self.block_size * self.channels

    @property
    def info(self) -> str:
        return f"blockenc/1/{self.step}/{self.ordinal}/C={self.channels}/M={self.block_size}"


class StepSecret(Protocol):
    """The secret of one step kind: a Key, or the published code's seed and password."""

    @property
    def fingerprint(self) -> str: ...

    def permutation(self, use: StepUse) -> np.ndarray: ...

    def mask(self, use: StepUse) -> np.ndarray: ...

    def ffx_table(self, use: StepUse, profile: str) -> np.ndarray: ...


def hkdf(key: bytes, info: str) -> bytes:
    """HKDF-SHA256 (RFC 5869), no salt, 32 bytes."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info.encode()).derive(key)


def _keystream(key: bytes, words: int) -> Iterator[int]:
    """AES-256-CTR over zeros as little-endian uint32, endless; `words` are drawn at a time."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    while True:
        yield from np.frombuffer(stream.update(bytes(4 * words)), "<u4").tolist()


def _permutation(key: bytes, length: int) -> np.ndarray:
    """Fisher-Yates from the last position down; words that would bias the remainder are rejected."""
    words = _keystream(key, length)
    a = list(range(length))
    for i in range(length - 1, 0, -1):
        n = i + 1
        limit = 2**32 // n * n
        word = next(words)
        while word >= limit:
            word = next(words)
        j = word % n
        a[i], a[j] = a[j], a[i]
    return np.array(a, np.int64)


class _Secret:
    """What keys have in common: shown by fingerprint, not pickled, copied by reference."""

    __slots__ = ()

    @property
    def fingerprint(self) -> str:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}(fingerprint={self.fingerprint!r})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            f"a {type(self).__name__} is not pickled, so that it does not end up on disk by accident: "
            "use Key.save(path, password=...), or pass a Cipher to workers (it carries its plan only)"
        )

    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class Key(_Secret):
    """32 secret bytes. Make one with `generate`, `from_bytes`, `from_password` or `load`."""

    __slots__ = ("_ciphers", "_fingerprint", "_secret")

    def __init__(self, secret: bytes) -> None:
        if not isinstance(secret, (bytes, bytearray, memoryview)):
            raise TypeError(f"key: expected {KEY_BYTES} bytes, got {type(secret).__name__}")
        if len(bytes(secret)) != KEY_BYTES:
            raise ValueError(f"key: expected {KEY_BYTES} bytes, got {len(bytes(secret))}")
        self._secret = bytes(secret)
        self._fingerprint = hkdf(self._secret, "blockenc/1/fingerprint")[:8].hex()
        self._ciphers: dict[tuple, Cipher] = {}  # compiled by blockenc.encrypt and decrypt

    @classmethod
    def generate(cls) -> Key:
        """A new key from the operating system's random source."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_bytes(cls, secret: bytes) -> Key:
        """Raises TypeError or ValueError unless given 32 bytes."""
        return cls(secret)

    @classmethod
    def from_password(cls, text: str, salt: bytes | str) -> Key:
        """The key that scrypt (RFC 7914; N = 2^17, r = 8, p = 1) makes of a password.

        salt: at least 8 bytes (a str is taken as UTF-8), public, different for each use of a password.
        """
        from blockenc.keyfile import check_password, scrypt

        if not isinstance(salt, (bytes, str)):
            raise TypeError(f"salt: expected bytes or str, got {type(salt).__name__}")
        check_password(text, "text")
        salt_bytes = salt.encode() if isinstance(salt, str) else salt
        if len(salt_bytes) < 8:
            raise ValueError(f"salt: expected at least 8 bytes, got {len(salt_bytes)}")
        return cls(scrypt(text, salt_bytes))

    def save(self, path: str | os.PathLike[str], password: str, overwrite: bool = False) -> None:
        """Write a key file: AES-256-GCM under a scrypt of `password`, mode 0600, atomically.

        Raises FileExistsError unless `overwrite`; ValueError for an empty password; OSError as usual.
        """
        from blockenc import keyfile

        keyfile.save(self._secret, self.fingerprint, path, password, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], password: str) -> Key:
        """Read a key file. Raises KeyFileError if it is damaged or foreign, or the password is wrong."""
        from blockenc import keyfile

        return cls(keyfile.load(path, password))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell keys apart and give nothing of the key away."""
        return self._fingerprint

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Key) and hmac.compare_digest(self._secret, other._secret)

    def __hash__(self) -> int:
        return hash(self._fingerprint)

    def permutation(self, use: StepUse) -> np.ndarray:
        return _permutation(hkdf(self._secret, use.info), use.length)

    def mask(self, use: StepUse) -> np.ndarray:
        """Exactly floor(L/2) positions are selected."""
        return self.permutation(use) < use.length // 2

    def ffx_table(self, use: StepUse, profile: str) -> np.ndarray:
        from blockenc.ff1 import byte_table
        from blockenc.ffx_decimal import decimal_table

        make = {"byte": byte_table, "decimal": decimal_table}[profile]
        return make(hkdf(self._secret, use.info + "/cipher"))

    def mac_key(self, info: str) -> bytes:
        """A subkey, 32 bytes, that authenticates what `info` names, such as "blockenc/manifest"."""
        return hkdf(self._secret, info)


class _PublishedSecret(_Secret):
    """A seed and a password, used the way the authors' released code does (arXiv 2105.14756)."""

    __slots__ = ("_password", "_seed")

    def __init__(self, seed: int, password: str) -> None:
        self._seed = seed
        self._password = password

    @property
    def fingerprint(self) -> str:
        digest = hmac.digest(self._password.encode(), f"blockenc/published/{self._seed}".encode(), "sha256")
        return digest[:8].hex()

    def permutation(self, use: StepUse) -> np.ndarray:
        import torch

        return torch.randperm(use.length, generator=torch.Generator().manual_seed(self._seed)).numpy()

    def mask(self, use: StepUse) -> np.ndarray:
        return self.permutation(use) > use.length / 2

    def ffx_table(self, use: StepUse, profile: str) -> np.ndarray:
        from blockenc.ffx_decimal import decimal_table

        if profile != "decimal":
            raise ValueError(f'ffx: the published code has only the "decimal" profile, got {profile!r}')
        return decimal_table(self._password.encode())


class KeySet(_Secret):
    """One secret for each step kind: the papers' K = {k_shuffle, k_np, k_ffx}.

    Each member is a Key or 32 bytes. A Key is the key set whose three members are equal.
    """

    __slots__ = ("_members",)

    def __init__(self, *, shuffle: Key | bytes, np: Key | bytes, ffx: Key | bytes) -> None:
        self._members: dict[str, StepSecret] = {
            "shuffle": _member(shuffle, "shuffle"),
            "np": _member(np, "np"),
            "ffx": _member(ffx, "ffx"),
        }

    @classmethod
    def from_seed(cls, seed: int, password: str) -> KeySet:
        """The published code's keys, for reproducing papers, not for secrets.

        Permutation: ``torch.randperm(L)`` after ``manual_seed(seed)``; both masks: ``randperm(L) > L/2``
        from the same seed; ffx: the decimal profile with `password`.
        """
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise TypeError(f"seed: expected an integer, got {type(seed).__name__}")
        if not isinstance(password, str):
            raise TypeError(f"password: expected a str, got {type(password).__name__}")
        secret: Any = _PublishedSecret(seed, password)
        return cls(shuffle=secret, np=secret, ffx=secret)

    def replace(self, **members: AnyKey) -> KeySet:
        """This key set with some members replaced; a KeySet given stands for its member of that name."""
        unknown = set(members) - set(self._members)
        if unknown:
            raise TypeError(f"replace: expected shuffle, np or ffx, got {', '.join(sorted(unknown))}")
        chosen: dict[str, Any] = dict(self._members)
        for name, value in members.items():
            chosen[name] = value.member(name) if isinstance(value, KeySet) else value
        return KeySet(**chosen)

    def member(self, step: str) -> StepSecret:
        """The secret of one step kind."""
        return self._members[step]

    @property
    def fingerprint(self) -> str:
        """Of a key set whose members are equal, that member's; else a digest of the three."""
        prints = [self._members[step].fingerprint for step in ("shuffle", "np", "ffx")]
        if len(set(prints)) == 1:
            return prints[0]
        return hmac.digest(b"blockenc/1/keyset", "/".join(prints).encode(), "sha256")[:8].hex()


AnyKey: TypeAlias = Key | KeySet | bytes


def _member(value: Any, name: str) -> StepSecret:
    if isinstance(value, (Key, _PublishedSecret)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        secret = bytes(value)
        if len(secret) != KEY_BYTES:
            raise ValueError(f"{name}: expected {KEY_BYTES} bytes, got {len(secret)}")
        return Key(secret)
    raise TypeError(f"{name}: expected a Key or {KEY_BYTES} bytes, got {type(value).__name__}")


def as_key_set(key: AnyKey) -> KeySet:
    """A key in any of the forms the library takes, as the key set of its steps."""
    if isinstance(key, KeySet):
        return key
    member = _member(key, "key")
    return KeySet(shuffle=member, np=member, ffx=member)  # type: ignore[arg-type]
