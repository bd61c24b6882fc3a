"""ExplicitKey: secrets that are given, not derived, so that anybody's published key can be used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from blockenc.hidden import hide, reveal
from blockenc.keys.key import AnySecret


class ExplicitKey(AnySecret):
    """The secrets of a scheme's steps themselves: permutations, masks, tables.

    secrets: one for each step of the scheme, in their order, in the form that the step's class documents
        (`blockenc.steps`): for instance a permutation for a shuffle, a mask for np, and a pair of a mask and
        a table for ffx. They are copied, and checked when a scheme is compiled with them.

    It fits the schemes and image sizes that its secrets have the shapes for, and nothing is derived from it:
    there are no per-image keys of it, and no key file.

    >>> import numpy as np
    >>> from blockenc import Cipher, Scheme
    >>> x = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    >>> Cipher(ExplicitKey([[3, 2, 1, 0]]), Scheme(2, ["shuffle"], channels=1)).encrypt(x).ravel()
    array([3, 2, 1, 0], dtype=uint8)
    """

    __slots__ = ("__weakref__", "_hidden")

    def __init__(self, secrets: Sequence[Any]) -> None:
        secrets = hide(secrets)
        if isinstance(reveal(secrets), (str, bytes)) or not hasattr(reveal(secrets), "__len__"):
            raise TypeError(f"secrets: expected a sequence, got {type(reveal(secrets)).__name__}")
        try:
            self._hidden = hide(tuple(_copied(hide(secret), n) for n, secret in enumerate(reveal(secrets))))
        except TypeError as error:  # without the frames that it came through, whose variables are secrets
            raise TypeError(str(error)) from None

    @property
    def derives(self) -> bool:
        return False

    def secret(self, n: int, steps: int) -> Any:
        """The secret of step n of a scheme of so many steps, hidden."""
        secrets = reveal(self._hidden)
        if len(secrets) != steps:
            raise ValueError(
                f"key: the scheme has {steps} steps, and this key has secrets for {len(secrets)}"
            )
        return hide(secrets[n])

    def _contents(self) -> tuple[bytes, ...]:
        return tuple(_serialised(secret) for secret in reveal(self._hidden))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that tell keys apart: a digest of the secrets."""
        digests = [hashlib.sha256(content).digest() for content in self._contents()]
        return hashlib.sha256(b"blockenc/2/explicit" + b"".join(digests)).digest()[:8].hex()


def _copied(secret: Any, n: int) -> Any:
    secret = hide(secret)
    parts = reveal(secret)
    if isinstance(parts, (tuple, list)) and len({np.shape(part) for part in parts}) > 1:
        return tuple(_copied(hide(part), n) for part in parts)
    array = np.array(parts)
    if array.dtype.kind not in "biu":
        raise TypeError(f"secrets[{n}]: expected integers or booleans, got {array.dtype}")
    array.flags.writeable = False
    return array


def _serialised(secret: Any) -> bytes:
    if isinstance(secret, tuple):
        return b"(" + b",".join(map(_serialised, secret)) + b")"
    return f"{secret.shape}".encode() + bytes(secret.astype("<i8").tobytes())
