"""Key: 32 secret bytes, and the key schedule that makes keystreams of them.

Key bytes appear in no repr, exception, traceback, log or pickle. What leaves this package is what a keystream
gives: permutations, masks and numbers.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Sequence
from typing import Any

from blockenc.hidden import NotPickled, hide, reveal
from blockenc.keys.keystream import KEY_BYTES, Keystreams, hkdf, keystreams_of, split


class AnySecret(NotPickled):
    """What keys have in common: shown by fingerprint, compared by what they hold."""

    __slots__ = ("_kept",)
    _kept: dict[Any, Any]

    @property
    def kept(self) -> dict[Any, Any]:
        """What others made of this key and keep with it, so that it goes when the key goes."""
        try:
            return self._kept
        except AttributeError:
            self._kept = {}
            return self._kept

    @property
    def derives(self) -> bool:
        """Whether secrets are derived of it, for whatever they are bound to, so that images may have their
        own."""
        return True

    @property
    def fingerprint(self) -> str:
        raise NotImplementedError

    def _contents(self) -> tuple[bytes, ...]:
        """What the kinds of steps use, for comparisons. Of a Key three times that key, so that it equals a
        KeySet whose members are all that key."""
        raise NotImplementedError

    def mac_key(self, info: str) -> bytes:
        """A subkey, 32 bytes, that authenticates what `info` names, such as "blockenc/manifest".

        Like the fingerprint: of a key set whose members are equal, that member's.
        """
        contents = hide(self._contents())
        alike = len(set(reveal(contents))) == 1
        return reveal(hkdf(hide(b"".join(reveal(contents)[: 1 if alike else None])), [info]))

    def __repr__(self) -> str:
        try:
            return f"{type(self).__name__}(fingerprint={self.fingerprint!r})"
        except AttributeError:  # shown by the traceback of an error within __init__
            return f"{type(self).__name__}(unfinished)"

    def __eq__(self, other: object) -> bool:
        """Whether both encrypt alike, in constant time: a Key equals the KeySet of three times that key."""
        if self is other:
            return True
        if not isinstance(other, AnySecret):
            return NotImplemented
        mine, theirs = hide(self._contents()), hide(other._contents())
        # A list, so that every member is compared before any result is looked at.
        alike = list(map(hmac.compare_digest, reveal(mine), reveal(theirs)))
        return len(reveal(mine)) == len(reveal(theirs)) and all(alike)

    def __hash__(self) -> int:
        return hash(self.fingerprint)


class Key(AnySecret):
    """32 secret bytes. Make one with `generate`, `from_bytes`, `from_password` or `load`."""

    __slots__ = ("__weakref__", "_fingerprint", "_hidden")

    def __init__(self, secret: bytes) -> None:
        secret = hide(secret)
        self._hidden = hide(key_bytes(secret, "key", f"{KEY_BYTES} bytes"))
        self._fingerprint = reveal(hkdf(self._hidden, ["blockenc/1/fingerprint"]))[:8].hex()

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

    def _contents(self) -> tuple[bytes, ...]:
        return (self._secret,) * 3

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell keys apart and give nothing of the key away."""
        return self._fingerprint

    def derive(self, name: str) -> Key:
        """A key of its own for a data set or a purpose: HKDF-SHA256 with the info ``blockenc/derive/<name>``.

        Whoever has it learns nothing of this key, nor of what this key derives for other names. Raises
        TypeError or ValueError for a name that is not a non-empty str.

        >>> key = Key.generate()
        >>> key.derive("train") == key.derive("train"), key.derive("train") == key.derive("test")
        (True, False)
        """
        from blockenc.keys.keyfile import check_password

        check_password(name, "name")
        return Key(hkdf(self._hidden, [f"blockenc/derive/{name}"]))

    def keystreams(self, infos: Sequence[str]) -> Keystreams:
        return keystreams_of(hkdf(self._hidden, infos))

    def cipher_keys(self, infos: Sequence[str], profile: str) -> list[bytes]:
        return split(hkdf(self._hidden, infos))


def key_bytes(value: Any, name: str, expected: str) -> bytes:
    value = hide(value)
    if not isinstance(reveal(value), (bytes, bytearray, memoryview)):
        raise TypeError(f"{name}: expected {expected}, got {type(reveal(value)).__name__}")
    length = len(bytes(reveal(value)))
    if length != KEY_BYTES:
        raise ValueError(f"{name}: expected {KEY_BYTES} bytes, got {length}")
    return bytes(reveal(value))
