"""Secrets: keys, key sets, and the key schedule that turns them into what a step needs.

Key bytes appear in no repr, exception, traceback, log or pickle. What leaves this module is the permutation,
mask or table of one step.
"""

from __future__ import annotations

import hmac
import operator
import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, SupportsIndex, TypeAlias

import numpy as np

from blockenc.hidden import NotPickled, hide, reveal

if TYPE_CHECKING:
    from blockenc.cipher import Cipher

KEY_BYTES = 32
STEP_NAMES = ("shuffle", "np", "ffx")  # the members of a key set, in the order of its file
MAX_SEED = 2**64 - 1  # of torch.manual_seed


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

    key = hide(key)
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info.encode()).derive(reveal(key))


def _keystream(key: bytes, words: int) -> Iterator[int]:
    """AES-256-CTR over zeros as little-endian uint32, endless; `words` are drawn at a time."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    key = hide(key)
    stream = Cipher(algorithms.AES(reveal(key)), modes.CTR(bytes(16))).encryptor()
    while True:
        yield from np.frombuffer(stream.update(bytes(4 * words)), "<u4").tolist()


def _permutation(key: bytes, length: int) -> np.ndarray:
    """Fisher-Yates from the last position down; words that would bias the remainder are rejected."""
    key = hide(key)
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


class _Secret(NotPickled):
    """What keys have in common: shown by fingerprint, compared by what they hold."""

    __slots__ = ()

    @property
    def fingerprint(self) -> str:
        raise NotImplementedError

    def _contents(self) -> tuple[bytes, bytes, bytes]:
        """What the three step kinds use, for comparisons."""
        raise NotImplementedError

    def mac_key(self, info: str) -> bytes:
        """A subkey, 32 bytes, that authenticates what `info` names, such as "blockenc/manifest".

        Like the fingerprint: of a key set whose members are equal, that member's.
        """
        contents = hide(self._contents())
        alike = len(set(reveal(contents))) == 1
        return hkdf(hide(b"".join(reveal(contents)[: 1 if alike else None])), info)

    def __repr__(self) -> str:
        try:
            return f"{type(self).__name__}(fingerprint={self.fingerprint!r})"
        except AttributeError:  # shown by the traceback of an error within __init__
            return f"{type(self).__name__}(unfinished)"

    def __eq__(self, other: object) -> bool:
        """Whether both encrypt alike, in constant time: a Key equals the KeySet of three times that key."""
        if not isinstance(other, _Secret):
            return NotImplemented
        # A list, so that every member is compared before any result is looked at.
        return all(list(map(hmac.compare_digest, self._contents(), other._contents())))

    def __hash__(self) -> int:
        return hash(self.fingerprint)


class Key(_Secret):
    """32 secret bytes. Make one with `generate`, `from_bytes`, `from_password` or `load`."""

    __slots__ = ("_ciphers", "_fingerprint", "_hidden")

    def __init__(self, secret: bytes) -> None:
        secret = hide(secret)
        self._hidden = hide(_key_bytes(secret, "key", f"{KEY_BYTES} bytes"))
        self._fingerprint = hkdf(hide(self._secret), "blockenc/1/fingerprint")[:8].hex()
        self._ciphers: dict[tuple, Cipher] = {}  # compiled by blockenc.encrypt and decrypt

    @classmethod
    def generate(cls) -> Key:
        """A new key from the operating system's random source."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def from_bytes(cls, secret: bytes) -> Key:
        """Raises TypeError or ValueError unless given 32 bytes."""
        secret = hide(secret)
        return cls(secret)

    @classmethod
    def from_password(cls, text: str, salt: bytes | str) -> Key:
        """The key that scrypt (RFC 7914; N = 2^17, r = 8, p = 1) makes of a password.

        salt: at least 8 bytes, public, different for each use of a password. Text, of the password or
        of a salt, is brought into Unicode's composed form (NFC), then encoded as UTF-8, so that it does
        not matter how a keyboard spells an accented letter.
        """
        from blockenc.keys import keyfile

        text = hide(text)
        if not isinstance(salt, (bytes, str)):
            raise TypeError(f"salt: expected bytes or str, got {type(salt).__name__}")
        keyfile.check_password(text, "text")
        salt_bytes = keyfile.composed(salt).encode() if isinstance(salt, str) else salt
        if len(salt_bytes) < 8:
            raise ValueError(f"salt: expected at least 8 bytes, got {len(salt_bytes)}")
        cost = keyfile.SCRYPT_N, keyfile.SCRYPT_R, keyfile.SCRYPT_P
        return cls(keyfile.scrypt(keyfile.composed(text), salt_bytes, *cost))

    def save(self, path: str | os.PathLike[str], password: str, overwrite: bool = False) -> None:
        """Write a key file: AES-256-GCM under a scrypt of `password`, mode 0600, atomically.

        Raises FileExistsError unless `overwrite`; ValueError for an empty password; OSError as usual.
        """
        from blockenc.keys import keyfile

        password = hide(password)
        keyfile.save(keyfile.KEY, hide(self._secret), self.fingerprint, path, password, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], password: str) -> Key:
        """Read a key file. Raises KeyFileError if it is damaged or foreign, or the password is wrong.

        A file that KeySet.save wrote is a KeyFileError, too; KeySet.load reads both kinds.
        """
        from blockenc.keys import keyfile

        password = hide(password)
        return cls(keyfile.load(path, password, (keyfile.KEY,))[1])

    @property
    def _secret(self) -> bytes:
        return reveal(self._hidden)

    def _contents(self) -> tuple[bytes, bytes, bytes]:
        return (self._secret,) * 3

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell keys apart and give nothing of the key away."""
        return self._fingerprint

    def permutation(self, use: StepUse) -> np.ndarray:
        return _permutation(hide(hkdf(hide(self._secret), use.info)), use.length)

    def mask(self, use: StepUse) -> np.ndarray:
        """Exactly floor(L/2) positions are selected."""
        return self.permutation(use) < use.length // 2

    def ffx_table(self, use: StepUse, profile: str) -> np.ndarray:
        from blockenc.feistel.ff1 import byte_table
        from blockenc.feistel.ffx_decimal import decimal_table

        make = {"byte": byte_table, "decimal": decimal_table}[profile]
        return make(hide(hkdf(hide(self._secret), use.info + "/cipher")))


class _PublishedSecret(_Secret):
    """A seed and a password, used the way the authors' released code does (arXiv 2105.14756)."""

    __slots__ = ("_password", "_seed")

    def __init__(self, seed: int, password: str) -> None:
        self._seed = seed
        self._password = hide(password)

    def _digest(self) -> bytes:
        info = f"blockenc/published/{self._seed}".encode()
        return hmac.digest(reveal(self._password).encode(), info, "sha256")

    @property
    def fingerprint(self) -> str:
        return self._digest()[:8].hex()

    def _contents(self) -> tuple[bytes, bytes, bytes]:
        return (b"published" + self._digest(),) * 3  # longer than a Key's, so that they are never equal

    def permutation(self, use: StepUse) -> np.ndarray:
        import torch

        return torch.randperm(use.length, generator=torch.Generator().manual_seed(self._seed)).numpy()

    def mask(self, use: StepUse) -> np.ndarray:
        return self.permutation(use) > use.length / 2

    def ffx_table(self, use: StepUse, profile: str) -> np.ndarray:
        from blockenc.feistel.ffx_decimal import decimal_table

        if profile != "decimal":
            raise ValueError(f'ffx: the published code has only the "decimal" profile, got {profile!r}')
        return decimal_table(hide(reveal(self._password).encode()))


class KeySet(_Secret):
    """One secret for each step kind: the papers' K = {k_shuffle, k_np, k_ffx}.

    Each member is a Key or 32 bytes. A Key is the key set whose three members are equal: the two have the
    same fingerprint, compare equal and encrypt alike.
    """

    __slots__ = ("_members",)

    def __init__(self, *, shuffle: Key | bytes, np: Key | bytes, ffx: Key | bytes) -> None:
        shuffle, np, ffx = hide(shuffle), hide(np), hide(ffx)
        self._members: dict[str, StepSecret] = {
            "shuffle": _member(shuffle, "shuffle"),
            "np": _member(np, "np"),
            "ffx": _member(ffx, "ffx"),
        }

    @classmethod
    def generate(cls) -> KeySet:
        """Three new keys from the operating system's random source."""
        return cls(shuffle=Key.generate(), np=Key.generate(), ffx=Key.generate())

    @classmethod
    def from_seed(cls, seed: SupportsIndex, password: str) -> KeySet:
        """The published code's keys, for reproducing papers, not for secrets.

        Permutation: ``torch.randperm(L)`` after ``manual_seed(seed)``; both masks: ``randperm(L) > L/2``
        from the same seed; ffx: the decimal profile with `password`.

        seed: an integer of any kind (NumPy's, too) from 0 to 2^64 - 1. Raises TypeError or ValueError.
        """
        from blockenc.keys.keyfile import check_text

        password = hide(password)
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            raise TypeError(f"seed: expected an integer, got {type(seed).__name__}")
        number = operator.index(seed)
        if not 0 <= number <= MAX_SEED:
            raise ValueError(
                f"seed: expected an integer from 0 to {MAX_SEED} (2**64 - 1), got {_short(number)}"
            )
        check_text(password, "password")
        secret: Any = _PublishedSecret(number, password)
        return cls(shuffle=secret, np=secret, ffx=secret)

    def replace(self, **members: AnyKey) -> KeySet:
        """This key set with some members replaced; a KeySet given stands for its member of that name."""
        members = dict(zip(members, map(hide, members.values())))
        unknown = set(members) - set(STEP_NAMES)
        if unknown:
            raise TypeError(f"replace: expected shuffle, np or ffx, got {', '.join(sorted(unknown))}")
        chosen: dict[str, Any] = dict(self._members)
        for name, value in members.items():
            chosen[name] = value.member(name) if isinstance(value, KeySet) else value
        return KeySet(**chosen)

    def save(self, path: str | os.PathLike[str], password: str, overwrite: bool = False) -> None:
        """Write the three keys to a key file, as `Key.save` writes one, with the same errors.

        Raises ValueError, too, where a member comes from `from_seed`: that is a public setting of the
        published code and no key of 32 bytes; make it again from its seed and password.
        """
        from blockenc.keys import keyfile

        password = hide(password)
        published = [name for name in STEP_NAMES if not isinstance(self._members[name], Key)]
        if published:
            raise ValueError(
                f"save: {', '.join(published)} of this key set came from KeySet.from_seed, and a key file "
                f"holds keys of {KEY_BYTES} bytes: keep the seed and the password, and call that again"
            )
        secret = hide(b"".join(self._contents()))
        keyfile.save(keyfile.KEY_SET, secret, self.fingerprint, path, password, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], password: str) -> KeySet:
        """Read a file of `KeySet.save`; of `Key.save`, too: that key, three times.

        Raises KeyFileError if the file is damaged or foreign, or the password is wrong.
        """
        password = hide(password)
        return as_key_set(load_key(path, password))

    def member(self, step: str) -> StepSecret:
        """The secret of one step kind."""
        return self._members[step]

    def _contents(self) -> tuple[bytes, bytes, bytes]:
        members: Any = self._members
        return tuple(members[step]._contents()[n] for n, step in enumerate(STEP_NAMES))  # type: ignore[return-value]

    @property
    def fingerprint(self) -> str:
        """Of a key set whose members are equal, that member's; else a digest of the three."""
        prints = [self._members[step].fingerprint for step in STEP_NAMES]
        if len(set(prints)) == 1:
            return prints[0]
        return hmac.digest(b"blockenc/1/keyset", "/".join(prints).encode(), "sha256")[:8].hex()


def load_key(path: str | os.PathLike[str], password: str) -> Key | KeySet:
    """What a key file holds: the key that `Key.save` wrote, or the key set that `KeySet.save` wrote.

    Raises KeyFileError if the file is damaged or foreign, or the password is wrong.
    """
    from blockenc.keys import keyfile

    password = hide(password)
    kind, secret = keyfile.load(path, password, tuple(keyfile.KINDS.values()))
    if kind is keyfile.KEY:
        return Key(secret)
    starts = range(0, keyfile.KEY_SET.length, KEY_BYTES)
    return KeySet(**{name: Key(reveal(secret)[i : i + KEY_BYTES]) for name, i in zip(STEP_NAMES, starts)})


AnyKey: TypeAlias = Key | KeySet | bytes


def _key_bytes(value: Any, name: str, expected: str) -> bytes:
    value = hide(value)
    if not isinstance(reveal(value), (bytes, bytearray, memoryview)):
        raise TypeError(f"{name}: expected {expected}, got {type(reveal(value)).__name__}")
    length = len(bytes(reveal(value)))
    if length != KEY_BYTES:
        raise ValueError(f"{name}: expected {KEY_BYTES} bytes, got {length}")
    return bytes(reveal(value))


def _member(value: Any, name: str) -> StepSecret:
    value = hide(value)
    if isinstance(value, (Key, _PublishedSecret)):
        return value
    return Key(hide(_key_bytes(value, name, f"a Key or {KEY_BYTES} bytes")))


def as_key_set(key: AnyKey) -> KeySet:
    """A key in any of the forms the library takes, as the key set of its steps."""
    key = hide(key)
    if isinstance(key, KeySet):
        return key
    member = _member(key, "key")
    return KeySet(shuffle=member, np=member, ffx=member)  # type: ignore[arg-type]


def _short(number: int) -> str:
    """A number for a message: one of thousands of digits would bury what the message says."""
    return str(number) if number.bit_length() <= 128 else f"a number of {number.bit_length()} bits"
