"""KeySet: a secret for each kind of step; and keys in any of the forms the library takes."""

from __future__ import annotations

import hmac
import json
import operator
import os
from typing import Any, SupportsIndex, TypeAlias

from blockenc.hidden import hide, reveal
from blockenc.keys.explicit import ExplicitKey
from blockenc.keys.key import AnySecret, Key, key_bytes
from blockenc.keys.keystream import KEY_BYTES, Secret
from blockenc.keys.published import PublishedSecret

# The members of a key set of scheme version 1, in the order of its file.
VERSION_1 = ("shuffle", "np", "ffx")
MAX_SEED = 2**64 - 1  # of torch.manual_seed


class KeySet(AnySecret):
    """One secret for each kind of step: the papers' K = {k_shuffle, k_np, k_ffx}, and further kinds.

    Each member is a Key or 32 bytes, named after its kind; `all` is for every kind that is not named. A kind
    that a scheme uses and the key set has no member for is an error, and so is a member of no kind. A Key
    stands for the key set whose members are all equal to it: the two have the same fingerprint, compare
    equal and encrypt alike.

    >>> keys = KeySet(shuffle=Key.generate(), all=Key.generate())
    >>> other = keys.replace(np=Key.generate())
    """

    __slots__ = ("__weakref__", "_members", "_rest")

    def __init__(self, *, all: Key | bytes | None = None, **members: Key | bytes) -> None:
        all = hide(all)
        members = dict(zip(members, map(hide, members.values())))
        self._members = {kind: _member(hide(value), kind) for kind, value in members.items()}
        self._rest = None if reveal(all) is None else _member(all, "all")
        if not self._members and self._rest is None:
            raise TypeError("KeySet: expected a key for at least one kind of step, such as shuffle=, or all=")

    @classmethod
    def generate(cls) -> KeySet:
        """Three new keys, for shuffle, np and ffx, from the operating system's random source."""
        return cls(**{kind: Key.generate() for kind in VERSION_1})

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
        secret: Any = PublishedSecret(number, password)
        return cls(**dict.fromkeys(VERSION_1, secret))

    def replace(self, **members: AnyKey) -> KeySet:
        """This key set with some members replaced; a KeySet given stands for its member of that name.

        Raises TypeError for a member that it does not have.
        """
        members = dict(zip(members, map(hide, members.values())))
        known = (*self._named(), "all")
        unknown = sorted(set(members) - set(known)) if self._rest is None else []
        if unknown:
            raise TypeError(f"replace: expected {', '.join(known)}, got {', '.join(unknown)}")
        chosen: dict[str, Any] = {**self._members, "all": self._rest}
        for kind, value in members.items():
            chosen[kind] = value.member(kind) if isinstance(value, KeySet) else value
        return KeySet(**chosen)

    def save(self, path: str | os.PathLike[str], password: str, overwrite: bool = False) -> None:
        """Write the keys to a key file, as `Key.save` writes one, with the same errors.

        Raises ValueError, too, where a member comes from `from_seed`: that is a public setting of the
        published code and no key of 32 bytes; make it again from its seed and password.
        """
        from blockenc.keys import keyfile

        password = hide(password)
        members = self._named()
        published = [kind for kind, member in members.items() if not isinstance(member, Key)]
        if published:
            raise ValueError(
                f"save: {', '.join(published)} of this key set came from KeySet.from_seed, and a key file "
                f"holds keys of {KEY_BYTES} bytes: keep the seed and the password, and call that again"
            )
        if tuple(members) == VERSION_1:
            secret = hide(b"".join(self._contents()))
            return keyfile.save(keyfile.KEY_SET, secret, self.fingerprint, path, password, overwrite)
        texts = hide({kind: member._secret.hex() for kind, member in members.items()})  # type: ignore[attr-defined]
        secret = hide(json.dumps(reveal(texts)).encode())
        keyfile.save(keyfile.NAMED_KEYS, secret, self.fingerprint, path, password, overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str], password: str) -> KeySet:
        """Read a file of `KeySet.save`; of `Key.save`, too: that key, for every kind.

        Raises KeyFileError if the file is damaged or foreign, or the password is wrong.
        """
        password = hide(password)
        found = as_key(load_key(path, password))
        assert isinstance(found, KeySet)  # no file holds explicit secrets
        return found

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of steps that have a key of their own here."""
        return tuple(self._members)

    @property
    def derives(self) -> bool:
        return all(member.derives for member in self._named().values())

    def member(self, kind: str) -> Secret:
        """The secret of one kind of step. Raises ValueError where there is none."""
        found = self._members.get(kind, self._rest)
        if found is None:
            raise ValueError(
                f"key: the scheme has a step {kind}, and this key set has only {', '.join(self.kinds)}; "
                f"give KeySet a member {kind}=, or all= for every kind that is not named"
            )
        return found

    def _named(self) -> dict[str, Secret]:
        """The members by name, those of version 1 in their order, the others sorted, `all` last."""
        first = [kind for kind in VERSION_1 if kind in self._members]
        names = [*first, *sorted(set(self._members) - set(first))]
        members = {kind: self._members[kind] for kind in names}
        return members if self._rest is None else {**members, "all": self._rest}

    def _contents(self) -> tuple[bytes, ...]:
        members: dict[str, Any] = self._named()
        contents = hide({kind: member._contents()[0] for kind, member in members.items()})
        whole = self._rest is not None or tuple(members) == VERSION_1
        if whole and len(set(reveal(contents).values())) == 1:
            return tuple(reveal(contents).values())[:1] * len(VERSION_1)
        if tuple(members) == VERSION_1:
            return tuple(reveal(contents).values())
        return tuple(kind.encode() + b"=" + reveal(contents)[kind] for kind in members)

    @property
    def fingerprint(self) -> str:
        """Of a key set whose members are equal, that member's; else a digest of all."""
        prints = {kind: member.fingerprint for kind, member in self._named().items()}
        if len(set(prints.values())) == 1:
            return next(iter(prints.values()))
        if tuple(prints) == VERSION_1:
            text, info = "/".join(prints.values()), b"blockenc/1/keyset"
        else:
            text, info = "/".join(f"{kind}={value}" for kind, value in prints.items()), b"blockenc/2/keyset"
        return hmac.digest(info, text.encode(), "sha256")[:8].hex()


def load_key(path: str | os.PathLike[str], password: str) -> Key | KeySet:
    """What a key file holds: the key that `Key.save` wrote, or the key set that `KeySet.save` wrote.

    Raises KeyFileError if the file is damaged or foreign, or the password is wrong.
    """
    from blockenc.errors import KeyFileError
    from blockenc.keys import keyfile

    password = hide(password)
    kind, secret = keyfile.load(path, password, tuple(keyfile.KINDS.values()))
    if kind is keyfile.KEY:
        return Key(secret)
    if kind is keyfile.KEY_SET:
        starts = range(0, len(VERSION_1) * KEY_BYTES, KEY_BYTES)
        return KeySet(**{name: Key(reveal(secret)[i : i + KEY_BYTES]) for name, i in zip(VERSION_1, starts)})
    try:
        texts = hide(json.loads(reveal(secret)))
        return KeySet(**{kind: Key(bytes.fromhex(reveal(texts)[kind])) for kind in reveal(texts)})
    except (AttributeError, LookupError, TypeError, ValueError, RecursionError):  # a list; nested deeply
        raise KeyFileError(f"{os.fspath(path)}: damaged key file (it seals no keys by name)") from None


AnyKey: TypeAlias = Key | KeySet | ExplicitKey | bytes


def as_key(key: AnyKey) -> KeySet | ExplicitKey:
    """A key in any of the forms the library takes, as what has the secrets of its steps."""
    key = hide(key)
    if isinstance(key, (KeySet, ExplicitKey)):
        return key
    return KeySet(all=_member(key, "key"))  # type: ignore[arg-type]


def _member(value: Any, name: str) -> Secret:
    value = hide(value)
    if isinstance(value, (Key, PublishedSecret)):
        return value
    return Key(hide(key_bytes(value, name, f"a Key or {KEY_BYTES} bytes")))


def _short(number: int) -> str:
    """A number for a message: one of thousands of digits would bury what the message says."""
    return str(number) if number.bit_length() <= 128 else f"a number of {number.bit_length()} bits"
